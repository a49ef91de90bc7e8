"""All that whoever writes a backend imports: the contract, options, data, networks and labels.

Names are loaded when they are asked for: options alone, and a list of backends, need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libgraph.backend.contract import Backend as Backend
    from libgraph.backend.contract import Batch as Batch
    from libgraph.backend.contract import Encode as Encode
    from libgraph.backend.contract import Split as Split
    from libgraph.backend.options import Sizes as Sizes
    from libgraph.backend.options import TypedOptions as TypedOptions
    from libgraph.backend.options import by_commas as by_commas
    from libgraph.errors import BackendError as BackendError
    from libgraph.errors import DataError as DataError
    from libgraph.errors import UsageError as UsageError
    from libgraph.graph.features import FeatureLabel as FeatureLabel
    from libgraph.network.basis import Bases as Bases
    from libgraph.network.basis import Basis as Basis
    from libgraph.network.network import Network as Network
    from libgraph.network.network import NodeLayer as NodeLayer
    from libgraph.progress import Progress as Progress
else:
    # The same names, by the module that defines them.
    _MODULES = {
        "libgraph.backend.contract": ("Backend", "Batch", "Encode", "Split"),
        "libgraph.backend.options": ("Sizes", "TypedOptions", "by_commas"),
        "libgraph.errors": ("BackendError", "DataError", "UsageError"),
        "libgraph.graph.features": ("FeatureLabel",),
        "libgraph.network.basis": ("Bases", "Basis"),
        "libgraph.network.network": ("Network", "NodeLayer"),
        "libgraph.progress": ("Progress",),
    }
    _HOMES = {name: module for module, names in _MODULES.items() for name in names}
    __all__ = sorted(_HOMES)

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module 'libgraph.backend' has no attribute '{name}'")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__():
        return __all__
