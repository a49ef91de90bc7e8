"""See what a neural network is made of: interaction bases, interaction graphs and their modules.

import libgraph as lg

backend = lg.load_backend("modular-addition")
run = lg.analyze(backend, basis="lib")
run.graph.communities
"""

from libgraph.analysis.analysis import analyze
from libgraph.backend.contract import Backend, Batch
from libgraph.backend.options import TypedOptions
from libgraph.backend.registry import backend_names, load_backend
from libgraph.bases.method import Truncation
from libgraph.errors import LibgraphError
from libgraph.graph.features import FeatureLabel
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities
from libgraph.modules.summary import module_table
from libgraph.network.basis import Basis
from libgraph.network.network import Network, NodeLayer
from libgraph.pipeline.options import AnalysisOptions
from libgraph.report.graph_files import read_graph
from libgraph.report.graph_picture import draw
from libgraph.report.graphml import write_graphml
from libgraph.runs.run import Run
from libgraph.runs.saved_run import SavedRun
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
from libgraph.sections.quadrature import Quadrature

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
    "draw",
    "find_communities",
    "load_backend",
    "module_table",
    "read_graph",
    "split_norm",
    "windows",
    "write_graphml",
]
