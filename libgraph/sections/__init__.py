"""Sections: one structure a file, all behind the contract of `section.Section`."""

from libgraph.sections.attention.attention import Attention
from libgraph.sections.attention.heads import AttentionMask
from libgraph.sections.attention.normed import NormedAttention
from libgraph.sections.chains import Chain, chain
from libgraph.sections.convolution import Convolution
from libgraph.sections.function import Function
from libgraph.sections.grids import average_windows, conv_factors, windows
from libgraph.sections.group_square import GroupSquare
from libgraph.sections.length import Divided, Length
from libgraph.sections.linear import Linear
from libgraph.sections.norm import Division, Variance, split_norm
from libgraph.sections.parallel import Parallel
from libgraph.sections.pooling import Pooling
from libgraph.sections.section import Section
from libgraph.sections.skip_mlp import GatedMLP, SkipMLP

__all__ = [
    "Attention",
    "AttentionMask",
    "Chain",
    "Convolution",
    "Divided",
    "Division",
    "Function",
    "GatedMLP",
    "GroupSquare",
    "Length",
    "Linear",
    "NormedAttention",
    "Parallel",
    "Pooling",
    "Section",
    "SkipMLP",
    "Variance",
    "average_windows",
    "chain",
    "conv_factors",
    "split_norm",
    "windows",
]
