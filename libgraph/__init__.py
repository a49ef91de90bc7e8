"""See what a neural network is made of: interaction bases, interaction graphs and their modules.

import libgraph as lg

backend = lg.load_backend("modular-addition")
run = lg.analyze(backend, basis="lib")
run.graph.communities
"""

from libgraph.analysis import analyze
from libgraph.backend import Backend, Batch, TypedOptions, backend_names, load_backend
from libgraph.bases import Basis, Truncation
from libgraph.communities import find_communities, module_table
from libgraph.errors import LibgraphError
from libgraph.graph import FeatureLabel, InteractionGraph
from libgraph.network import Network, NodeLayer
from libgraph.quadrature import Quadrature
from libgraph.results import Run
from libgraph.saved import SavedRun
from libgraph.sections import (
    Attention,
    Chain,
    Convolution,
    Division,
    Function,
    GatedMLP,
    Linear,
    Parallel,
    Pooling,
    Section,
    SkipMLP,
    Variance,
    average_windows,
    chain,
    conv_factors,
    split_norm,
    windows,
)
from libgraph.settings import AnalysisOptions

__all__ = [
    "AnalysisOptions",
    "Attention",
    "Backend",
    "Basis",
    "Batch",
    "Chain",
    "Convolution",
    "Division",
    "FeatureLabel",
    "Function",
    "GatedMLP",
    "InteractionGraph",
    "LibgraphError",
    "Linear",
    "Network",
    "NodeLayer",
    "Parallel",
    "Pooling",
    "Quadrature",
    "Run",
    "SavedRun",
    "Section",
    "SkipMLP",
    "Truncation",
    "TypedOptions",
    "Variance",
    "analyze",
    "average_windows",
    "backend_names",
    "chain",
    "conv_factors",
    "find_communities",
    "load_backend",
    "module_table",
    "split_norm",
    "windows",
]
