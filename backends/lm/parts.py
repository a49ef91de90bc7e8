"""What a language model is made of, as sections and plain passes need it, whatever wraps it.

Parameters are handed out a block at a time in the precision in which they are stored: a file that
is memory-mapped is read where it is looked at. Shapes are TransformerLens's: W_Q `[head, d, e]`,
W_O `[head, e, d]`, MLPs `[d, units]` and `[units, d]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import gelu, silu


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, as GPT-2 has it."""
    return gelu(x, approximate="tanh")


def squared_relu(x: Tensor) -> Tensor:
    """The square of ReLU, as Nemotron has it."""
    return torch.relu(x).square()


Activation = Callable[[Tensor], Tensor]


ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu": gelu,
    "relu": torch.relu,
    "relu2": squared_relu,
    "silu": silu,
    "swish": silu,
}


@dataclass(frozen=True)
class Norm:
    """LayerNorm or RMSNorm over the last axis.

    Args:
        weight: its scale; None for none.
        bias: its shift; None for none.
        epsilon: what is added to the variance.
        centred: True for LayerNorm, False for RMSNorm.
        offset: what is added to the scale: 1 in Gemma.
    """

    weight: Tensor | None
    bias: Tensor | None
    epsilon: float
    centred: bool
    offset: float = 0.0

    def scale(self, like: Tensor) -> Tensor:
        """The scale, as wide, as precise and where `like` is."""
        if self.weight is None:
            return torch.ones_like(like)
        return self.weight.to(like) + self.offset

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """As a model computes it."""
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        y = x * (x.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()
        if self.weight is not None:
            y = y * self.scale(x)
        return y if self.bias is None else y + self.bias.to(x)


@dataclass(frozen=True)
class Rotary:
    """Rotary positions.

    Args:
        angles: by which planes of coordinates turn from one position to the next.
        order: of a head's coordinates in which those of a plane are neighbours; what does not
            turn comes last.
    """

    angles: Float[Tensor, " planes"]
    order: Int[Tensor, " d_head"]

    @classmethod
    def halves(cls, angles: Float[Tensor, " planes"], d_head: int) -> Rotary:
        """Planes are coordinates i and i + planes, as in GPT-NeoX and Llama."""
        order = torch.arange(2 * len(angles)).reshape(2, -1).T.flatten()
        return cls(angles, torch.cat([order, torch.arange(2 * len(angles), d_head)]))

    @classmethod
    def neighbours(cls, angles: Float[Tensor, " planes"], d_head: int) -> Rotary:
        """Planes are coordinates 2i and 2i + 1, as in GPT-J."""
        return cls(angles, torch.arange(d_head))


@dataclass(frozen=True)
class AttentionParts:
    """Parameters of attention, and how its scores are made.

    Args:
        query: W_Q `[head, d, e]`.
        key: W_K `[shared head, d, e]`.
        value: W_V `[shared head, d, e]`.
        output: W_O `[head, e, d]`.
        biases: of queries, keys and values `[head, e]`, and of the output `[d]`; None for none.
        scale: what products of queries and keys are multiplied by.
        soft_cap: c where scores s become c·tanh(s/c), or None.
        window: how many positions are read, the own one included; None for all before it.
        rotary: positions, or None.
        query_norm: of each head's queries, or of all heads' at once, where they are normalised.
        key_norm: of keys.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    biases: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
    scale: float
    soft_cap: float | None = None
    window: int | None = None
    rotary: Rotary | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None


@dataclass(frozen=True)
class MLPParts:
    """Parameters of an MLP.

    Args:
        inner: W_in `[d, units]`.
        outer: W_out `[units, d]`.
        biases: of the units, of the gate and of the output; None for none.
        activation: of the units, or of the gate where there is one.
        gate: W_gate `[d, units]`, or None.
    """

    inner: Tensor
    outer: Tensor
    biases: tuple[Tensor | None, Tensor | None, Tensor | None]
    activation: Activation
    gate: Tensor | None = None


@dataclass(frozen=True)
class Block:
    """A block: attention and MLP, each with norms before and after where there are any.

    Args:
        attention: its parameters.
        mlp: its parameters; None for none.
        norms: before attention, after it, before the MLP, after it; None for none.
        parallel: whether both read the stream before the block.
        residual: what attention and MLP are multiplied by as they join the stream.
        folded: such a factor that is in the parameters already.
    """

    attention: AttentionParts
    mlp: MLPParts | None
    norms: tuple[Norm | None, Norm | None, Norm | None, Norm | None]
    parallel: bool = False
    residual: float = 1.0
    folded: float = 1.0

    def scaled(self) -> Block:
        """The same with that factor in the outputs' parameters, or in the norms after them."""
        if self.residual == 1.0:
            return self
        if self.norms[1] is not None or self.norms[3] is not None:
            raise ValueError("A factor of the residual stream and norms after attention and MLP.")
        attention, mlp = self.attention, self.mlp
        query, key, value, bias = attention.biases
        if mlp is not None:
            inner, gate, outer = mlp.biases
            mlp = replace(
                mlp,
                outer=self._times(mlp.outer),
                biases=(inner, gate, None if outer is None else self._times(outer)),
            )
        return replace(
            self,
            attention=replace(
                attention,
                output=self._times(attention.output),
                biases=(query, key, value, None if bias is None else self._times(bias)),
            ),
            mlp=mlp,
            residual=1.0,
            folded=self.residual,
        )

    def _times(self, tensor: Tensor) -> Tensor:
        return tensor.double() * self.residual


@dataclass(frozen=True)
class Shape:
    """What is known of a model without its parameters.

    Args:
        kind: such as `gpt2`.
        blocks: how many.
        width: of the residual stream.
        heads: of attention.
        d_head: width of a head.
        vocabulary: tokens that it knows.
        positions: in a sequence, at most.
        centred: whether the final norm is a LayerNorm.
    """

    kind: str
    blocks: int
    width: int
    heads: int
    d_head: int
    vocabulary: int
    positions: int
    centred: bool


class Model(ABC):
    """A language model, its parameters handed out when they are asked for.

    Attributes:
        shape: what is known without parameters.
        first: the begin-of-text token by its configuration, or None.
        embedding_scale: what embedded tokens are multiplied by.
        logit_scale: what logits are multiplied by.
        logit_cap: c where logits l become c·tanh(l/c), or None.
    """

    shape: Shape
    first: int | None = None
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_cap: float | None = None

    @abstractmethod
    def check_supported(self) -> None:
        """Refuse what is known not to have a section, by name.

        Raises:
            BackendError: naming the part.
        """

    @abstractmethod
    def tokens(self) -> Float[Tensor, "vocabulary d"]:
        """Embeddings of tokens."""

    @abstractmethod
    def positions(self) -> Float[Tensor, "positions d"] | None:
        """Embeddings of positions, where they are absolute."""

    @abstractmethod
    def block(self, i: int) -> Block:
        """The parts of one block.

        Raises:
            BackendError: if a parameter is not there or of a structure without a section.
            NumericalError: if one is not finite.
        """

    @abstractmethod
    def final_norm(self) -> Norm | None:
        """Of the residual stream after the last block; None for none."""

    @abstractmethod
    def unembedding(self) -> tuple[Float[Tensor, "d vocabulary"], Float[Tensor, " v"] | None]:
        """W_U and its bias, or None."""

    @abstractmethod
    def logits(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n t vocabulary"]:
        """As the library that the model comes from computes them."""

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 that tells these parameters from others."""

    def release(self) -> None:  # noqa: B027
        """Let go of what was read; it is read again when it is needed."""
