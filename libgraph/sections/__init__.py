"""Sections: one structure a file, all behind the contract of `section.Section`."""

from libgraph.sections.attention import Attention
from libgraph.sections.linear import Linear
from libgraph.sections.norm import Division, Variance, split_norm
from libgraph.sections.section import Function, Section
from libgraph.sections.skip_mlp import GatedMLP, SkipMLP

__all__ = [
    "Attention",
    "Division",
    "Function",
    "GatedMLP",
    "Linear",
    "Section",
    "SkipMLP",
    "Variance",
    "split_norm",
]
