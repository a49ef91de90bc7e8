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
from libgraph.sections import (
    Attention,
    Division,
    Function,
    GatedMLP,
    Linear,
    Section,
    SkipMLP,
    Variance,
    split_norm,
)
from libgraph.settings import AnalysisOptions

__all__ = [
    "AnalysisOptions",
    "Attention",
    "Backend",
    "Basis",
    "Batch",
    "Division",
    "FeatureLabel",
    "Function",
    "GatedMLP",
    "InteractionGraph",
    "LibgraphError",
    "Linear",
    "Network",
    "NodeLayer",
    "Quadrature",
    "Run",
    "Section",
    "SkipMLP",
    "Truncation",
    "TypedOptions",
    "Variance",
    "analyze",
    "backend_names",
    "find_communities",
    "load_backend",
    "module_table",
    "split_norm",
]
