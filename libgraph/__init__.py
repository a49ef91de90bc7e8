"""See what a neural network is made of: interaction bases, interaction graphs and their modules.

import libgraph as lg

backend = lg.load_backend("modular-addition")
run = lg.analyze(backend, basis="lib")
run.graph().communities

Public names are listed in `__init__.pyi` and loaded when they are asked for.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
