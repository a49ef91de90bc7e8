"""All that whoever writes a backend imports: the contract, options, data, networks and labels."""

from libgraph.backend.contract import Backend, Batch, Encode, Split
from libgraph.backend.options import Sizes, TypedOptions, by_commas
from libgraph.errors import BackendError, DataError, UsageError
from libgraph.graph.features import FeatureLabel
from libgraph.network.basis import Bases, Basis
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import Progress

__all__ = [
    "Backend",
    "BackendError",
    "Bases",
    "Basis",
    "Batch",
    "DataError",
    "Encode",
    "FeatureLabel",
    "Network",
    "NodeLayer",
    "Progress",
    "Sizes",
    "Split",
    "TypedOptions",
    "UsageError",
    "by_commas",
]
