"""Sections: one structure a file, all behind the contract of `section.Section`."""

from libgraph.sections.attention import Attention
from libgraph.sections.linear import Linear
from libgraph.sections.section import Function, Section
from libgraph.sections.skip_mlp import SkipMLP

__all__ = ["Attention", "Function", "Linear", "Section", "SkipMLP"]
