"""All that whoever writes a backend imports, beside the structures of `libgraph.sections`.

Names are loaded when they are asked for: options alone, and a list of backends, need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libgraph.backend.contract import Backend as Backend
    from libgraph.backend.contract import Batch as Batch
    from libgraph.backend.contract import Encode as Encode
    from libgraph.backend.contract import Json as Json
    from libgraph.backend.contract import Outcome as Outcome
    from libgraph.backend.contract import Split as Split
    from libgraph.backend.data import Data as Data
    from libgraph.backend.options import Sizes as Sizes
    from libgraph.backend.options import TypedOptions as TypedOptions
    from libgraph.backend.options import by_commas as by_commas
    from libgraph.backend.options import mistake_in_words as mistake_in_words
    from libgraph.backend.state import own_state as own_state
    from libgraph.backend.streams import stream as stream
    from libgraph.errors import BackendError as BackendError
    from libgraph.errors import DataError as DataError
    from libgraph.errors import LibgraphError as LibgraphError
    from libgraph.errors import NumericalError as NumericalError
    from libgraph.errors import UsageError as UsageError
    from libgraph.errors import missing_extra as missing_extra
    from libgraph.files.arrays import read_array as read_array
    from libgraph.files.atomic import writing as writing
    from libgraph.files.json_text import read_json_text as read_json_text
    from libgraph.files.pickles import look_through as look_through
    from libgraph.files.reading import reading as reading
    from libgraph.files.reading import unreadable as unreadable
    from libgraph.files.tensors import read_tensors as read_tensors
    from libgraph.files.tensors import write_tensors as write_tensors
    from libgraph.files.weights import is_safetensors as is_safetensors
    from libgraph.files.weights import plain as plain
    from libgraph.files.weights import read_weights as read_weights
    from libgraph.fit import CHECKPOINT as CHECKPOINT
    from libgraph.fit import Course as Course
    from libgraph.fit import fit as fit
    from libgraph.graph.features import POSITION as POSITION
    from libgraph.graph.features import FeatureLabel as FeatureLabel
    from libgraph.network.basis import Bases as Bases
    from libgraph.network.basis import Basis as Basis
    from libgraph.network.network import Network as Network
    from libgraph.network.network import NodeLayer as NodeLayer
    from libgraph.network.passage import FOLDED as FOLDED
    from libgraph.network.passage import Passage as Passage
    from libgraph.progress import Progress as Progress
    from libgraph.progress import silent as silent
else:
    # The same names, by the module that defines them.
    _MODULES = {
        "libgraph.backend.contract": ("Backend", "Batch", "Encode", "Json", "Outcome", "Split"),
        "libgraph.backend.data": ("Data",),
        "libgraph.backend.options": ("Sizes", "TypedOptions", "by_commas", "mistake_in_words"),
        "libgraph.backend.state": ("own_state",),
        "libgraph.backend.streams": ("stream",),
        "libgraph.errors": (
            "BackendError",
            "DataError",
            "LibgraphError",
            "NumericalError",
            "UsageError",
            "missing_extra",
        ),
        "libgraph.files.arrays": ("read_array",),
        "libgraph.files.atomic": ("writing",),
        "libgraph.files.json_text": ("read_json_text",),
        "libgraph.files.pickles": ("look_through",),
        "libgraph.files.reading": ("reading", "unreadable"),
        "libgraph.files.tensors": ("read_tensors", "write_tensors"),
        "libgraph.files.weights": ("is_safetensors", "plain", "read_weights"),
        "libgraph.fit": ("CHECKPOINT", "Course", "fit"),
        "libgraph.graph.features": ("POSITION", "FeatureLabel"),
        "libgraph.network.basis": ("Bases", "Basis"),
        "libgraph.network.network": ("Network", "NodeLayer"),
        "libgraph.network.passage": ("FOLDED", "Passage"),
        "libgraph.progress": ("Progress", "silent"),
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
