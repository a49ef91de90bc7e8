"""Which layers an MLP is made of: a planted network's, a state dict's, or a module's."""

from __future__ import annotations

from importlib.resources import files

from torch import nn

from libgraph_backends.mlp.options import MLPOptions
from libgraph_backends.mlp.planted import Design, Planted
from libgraph_backends.shared.layers import ACTIVATIONS, Layer, from_state_dict
from libgraph_backends.shared.state_dicts import read_own_or_bundled

BUNDLED = files("libgraph_backends.mlp") / "weights" / "digits.safetensors"


def plant(options: MLPOptions) -> Planted:
    """The planted network of these options."""
    design = Design(
        strengths=options.strengths or (1.0,) * options.blocks,
        **options.model_dump(include=set(Design.__annotations__) - {"strengths"}),
    )
    return Planted(design, _activation(options))


def _activation(options: MLPOptions) -> nn.Module | None:
    name = options.activation
    return None if name == "linear" else ACTIVATIONS[name]()


def read(options: MLPOptions) -> list[Layer]:
    """The layers of a user's state dict, or of the bundled one of digits.

    Raises:
        BackendError: if the file cannot be read, or a parameter in it does not fit.
        NumericalError: if a parameter is not finite.
    """
    # The bundled network has its own activation, whatever the option says.
    activation = "relu" if options.model is None else options.activation
    state = read_own_or_bundled(options.model, BUNDLED)
    return from_state_dict(state, options.sizes, activation, options.order)
