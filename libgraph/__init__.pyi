# What `import libgraph` offers, by the module that defines it: `__init__.py` reads this list.

from . import backend, errors, sections, testing
from .analysis.analysis import analyze
from .analysis.compare import compare_bases
from .analysis.plan import plan
from .backend.contract import Backend, Batch
from .backend.options import TypedOptions
from .backend.registry import backend_names, load_backend
from .backend.train import train
from .bases.method import Truncation
from .comparison.difference import diff
from .cutting.cut import cut
from .cutting.network import CutNetwork
from .degeneracy.measure import measure_degeneracy
from .errors import (
    BackendError,
    DataError,
    LibgraphError,
    MissingExtra,
    NumericalError,
    TooLarge,
    UsageError,
)
from .graph.features import FeatureLabel
from .graph.interaction_graph import InteractionGraph
from .graph.partition import Partition
from .modules.communities import find_communities
from .modules.significance import significance
from .network.basis import Basis
from .network.network import Network, NodeLayer
from .pipeline.options import AnalysisOptions
from .report.attribution import write_attribution
from .report.gexf import write_gexf
from .report.graph_files import write_graph
from .report.graph_picture import draw
from .report.graphml import write_graphml
from .report.module_picture import draw_modules
from .report.page.page import write_page
from .report.reading import read_graph
from .runs.run import Run
from .runs.saved_run import open_run
from .sections.function import Function
from .sections.quadrature import Quadrature
from .sections.section import Section

__version__: str

__all__ = [
    "AnalysisOptions",
    "Backend",
    "BackendError",
    "Basis",
    "Batch",
    "CutNetwork",
    "DataError",
    "FeatureLabel",
    "Function",
    "InteractionGraph",
    "LibgraphError",
    "MissingExtra",
    "Network",
    "NodeLayer",
    "NumericalError",
    "Partition",
    "Quadrature",
    "Run",
    "Section",
    "TooLarge",
    "Truncation",
    "TypedOptions",
    "UsageError",
    "analyze",
    "backend",
    "backend_names",
    "compare_bases",
    "cut",
    "diff",
    "draw",
    "draw_modules",
    "errors",
    "find_communities",
    "load_backend",
    "measure_degeneracy",
    "open_run",
    "plan",
    "read_graph",
    "sections",
    "significance",
    "testing",
    "train",
    "write_attribution",
    "write_gexf",
    "write_graph",
    "write_graphml",
    "write_page",
]
