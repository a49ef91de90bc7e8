"""What a dictionary comes to, whatever file it was in: two matrices, two biases and a gate.

Latents are z = σ(h W + b) of what is read at a hook, and h is z D + c, up to an error. What formats
do beside that (subtracting c first, lengths of decoders, gates of their own) is folded into these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.errors import UsageError
from libgraph.network.dictionary import Gate, Threshold, TopK


@dataclass(frozen=True)
class Normalisation:
    """What activations are divided by before they are read, each by its own size n.

    x = (h − m) / n, and what is written is m + n (z D + c); by a transcoder z D + c, as it is of
    another place.

    Args:
        centred: m is the mean of h over its coordinates and n its standard deviation, that of a
            sample; else m is 0 and n the root mean square.
        epsilon: ε, added to n.
    """

    centred: bool
    epsilon: float

    def stream(self, size: int) -> Float[Tensor, "d d"]:
        """L with n = |h L| + ε."""
        stream = torch.eye(size, dtype=torch.float64)
        if self.centred:
            return self.without_mean(size).div(math.sqrt(max(1, size - 1)))
        return stream.div(math.sqrt(size))

    def without_mean(self, size: int) -> Float[Tensor, "d d"]:
        """R with h − m = h R."""
        stream = torch.eye(size, dtype=torch.float64)
        return stream - 1 / size if self.centred else stream


@dataclass(frozen=True)
class DictionaryWeights:
    """One dictionary, in the coordinates of what it reads.

    Args:
        path: the file or folder that it is from.
        hook: where it reads, as its tool calls it; empty where its file does not say.
        encoder: W `(d, k)`.
        bias: b `(k)`, with what is subtracted before folded in.
        decoder: D `(k, d)`.
        shift: c `(d)`.
        gate: of all latents.
        normalised: how activations are before they are read; None as they are.
    """

    path: Path
    hook: str
    encoder: Float[Tensor, "d k"]
    bias: Float[Tensor, " k"]
    decoder: Float[Tensor, "k d"]
    shift: Float[Tensor, " d"]
    gate: Gate
    normalised: Normalisation | None = None

    @property
    def size(self) -> int:
        """Coordinates of what is read."""
        return self.encoder.shape[0]

    @property
    def latents(self) -> int:
        """How many there are."""
        return self.encoder.shape[1]

    @property
    def outputs(self) -> int:
        """Coordinates of what is written."""
        return self.decoder.shape[1]

    def scaled(self, lengths: Float[Tensor, " k"]) -> DictionaryWeights:
        """The same dictionary with latents so many times as large, and decoders as much shorter."""
        gate = self.gate
        if isinstance(gate, Threshold):
            gate = Threshold(gate.threshold * lengths)
        return replace(
            self,
            encoder=self.encoder * lengths,
            bias=self.bias * lengths,
            decoder=self.decoder / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)[:, None],
            gate=gate,
        )


@dataclass(frozen=True, kw_only=True)
class TranscoderWeights(DictionaryWeights):
    """A transcoder, which reads at one place and imitates what a part puts out at another.

    The imitation is z D + c + h S; D and S write `(…, m)`.

    Args:
        output: where that part writes, as its tool calls it; empty where its file does not say.
        skip: S `(d, m)`, or None.
    """

    output: str
    skip: Float[Tensor, "d m"] | None = None


@dataclass(frozen=True, kw_only=True)
class CrossLayerWeights(TranscoderWeights):
    """Latents of one block in a cross-layer transcoder, which write into later blocks' MLPs too.

    Decoder and shift are of its own block's MLP.

    Args:
        block: its number.
        blocks: how many the transcoder has.
        decoders: reads all of D `(k, blocks - block, m)`, its own block's first; they are large.
    """

    block: int
    blocks: int
    decoders: Callable[[], Float[Tensor, "k b m"]]


def dictionary_of(
    tensors: Tensors, hook: str, gate: Gate, *, subtracts_shift: bool
) -> DictionaryWeights:
    """From what a file holds as `encoder`, `bias`, `decoder` and `shift`, in double precision.

    Args:
        tensors: by these names.
        hook: where it reads.
        gate: of all latents.
        subtracts_shift: whether c is taken from what is read before it is encoded.

    Raises:
        UsageError: if tensors are missing, do not fit together or are not finite.
    """
    encoder = tensors.matrix("encoder")
    size, latents = encoder.shape
    bias = tensors.vector("bias", latents)
    decoder = tensors.matrix("decoder", (latents, size))
    shift = tensors.vector("shift", size)
    if subtracts_shift:
        bias = bias - shift @ encoder
    _check_k(tensors, gate, latents)
    return DictionaryWeights(tensors.path, hook, encoder, bias, decoder, shift, gate)


def transcoder_of(
    tensors: Tensors, hook: str, output: str, gate: Gate, outputs: int | None = None
) -> TranscoderWeights:
    """From what a file holds as `encoder`, `bias`, `decoder`, `shift` and, if there is one, `skip`.

    Matrices stay in the file's precision: there is one of each for every block, and only some of
    these may be analysed.

    Args:
        tensors: by these names.
        hook: where it reads.
        output: where what it imitates writes.
        gate: of all latents.
        outputs: coordinates of what it writes; None for as many as the decoder has.

    Raises:
        UsageError: if tensors are missing, do not fit together or are not finite.
    """
    encoder = tensors.stored("encoder")
    size, latents = encoder.shape
    outputs = tensors.stored("decoder").shape[1] if outputs is None else outputs
    decoder = tensors.stored("decoder", (latents, outputs))
    bias, shift = tensors.vector("bias", latents), tensors.vector("shift", outputs)
    skip = tensors.matrix("skip", (size, outputs)) if "skip" in tensors else None
    _check_k(tensors, gate, latents)
    return TranscoderWeights(
        tensors.path, hook, encoder, bias, decoder, shift, gate, output=output, skip=skip
    )


def _check_k(tensors: Tensors, gate: Gate, latents: int) -> None:
    if isinstance(gate, TopK) and not 0 < gate.k <= latents:
        raise UsageError(
            f"'{tensors.path}' keeps the {gate.k} largest of {latents} latents: check its k."
        )


class Tensors:
    """Tensors of a file by what they are for, checked as they are asked for.

    Args:
        path: of the file.
        tensors: by their names in the file.
        names: those names by what they are for; a name that starts with "~" is of a transpose.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
        self.path, self._tensors, self._names = path, tensors, names

    def __contains__(self, what: str) -> bool:
        return self._names.get(what, what).removeprefix("~") in self._tensors

    def __getitem__(self, what: str) -> Float[Tensor, ...]:
        name = self._names.get(what, what)
        stored = name.removeprefix("~")
        if stored not in self._tensors:
            known = ", ".join(sorted(self._tensors)) or "nothing"
            raise UsageError(
                f"'{self.path}' holds no '{stored}', which its kind of dictionary has: it holds "
                f"{known}."
            )
        return self._as_is(name).double()

    def _as_is(self, name: str) -> Float[Tensor, ...]:
        """A tensor that is there, checked."""
        stored = name.removeprefix("~")
        tensor = self._tensors[stored]
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UsageError(
                f"'{self.path}': '{stored}' is of {kind} numbers: save it in floating point."
            )
        if not bool(tensor.isfinite().all()):
            raise UsageError(f"'{self.path}': '{stored}' has values that are NaN or infinite.")
        return tensor.T if name.startswith("~") else tensor

    def of_these_alone(self, *besides: str) -> Tensors:
        """Itself, if the file holds nothing that is not named: what is left out might count.

        Args:
            besides: further names in the file, of tensors that change nothing.

        Raises:
            UsageError: naming others.
        """
        known = {name.removeprefix("~") for name in self._names.values()} | {*besides}
        others = sorted(set(self._tensors) - known)
        if others:
            raise UsageError(
                f"'{self.path}' holds '{others[0]}', which is not read here and may change what "
                f"its latents are: known are {', '.join(sorted(known))}."
            )
        return self

    def matrix(self, what: str, shape: tuple[int, int] | None = None) -> Float[Tensor, "a b"]:
        """A matrix, of this shape if one is given."""
        return self._checked(what, lambda found: found.ndim == 2 and shape in (None, found.shape))

    def stored(self, what: str, shape: tuple[int, int] | None = None) -> Float[Tensor, "a b"]:
        """A matrix in the file's precision, of this shape if one is given."""
        if what not in self:
            return self.matrix(what)
        return self._checked(
            what,
            lambda found: found.ndim == 2 and shape in (None, found.shape),
            self._as_is(self._names.get(what, what)),
        )

    def vector(self, what: str, size: int) -> Float[Tensor, " size"]:
        """A vector of so many numbers."""
        return self._checked(what, lambda found: found.shape == (size,))

    def number(self, what: str) -> float:
        """A single number that is there, whole or not."""
        stored = self._tensors[self._names.get(what, what).removeprefix("~")]
        return float(self._checked(what, lambda found: found.numel() == 1, stored))

    def _checked(
        self, what: str, fits: Callable[[Tensor], bool], found: Tensor | None = None
    ) -> Tensor:
        found = self[what] if found is None else found
        if not fits(found):
            shape = " × ".join(map(str, found.shape))
            raise UsageError(
                f"'{self.path}': '{self._names.get(what, what).removeprefix('~')}' is {shape}, "
                "which does not fit the dictionary's other tensors."
            )
        return found


def check_all_or_none(files: Mapping[int, Tensors], optional: Mapping[str, str]) -> None:
    """Raise a `UsageError` where some blocks of one transcoder have what others lack.

    Args:
        files: by block.
        optional: what it is called, by what it is for.
    """
    for what, name in optional.items():
        having = [block for block, tensors in files.items() if what in tensors]
        lacking = [block for block in files if block not in having]
        if having and lacking:
            raise UsageError(
                f"'{files[lacking[0]].path}' has no {name}, and '{files[having[0]].path}' has: all "
                "blocks of a transcoder have them, or none."
            )


def gated(
    dictionary: DictionaryWeights,
    scale: Float[Tensor, " k"],
    bias: Float[Tensor, " k"],
    gate_bias: Float[Tensor, " k"],
) -> DictionaryWeights:
    """With a gate of its own: z = 1[p + b_gate > 0] ReLU(e^r p + b_mag), p what is encoded.

    Where that is open is where the magnitude exceeds b_mag − e^r b_gate, a JumpReLU.

    Args:
        dictionary: whose bias holds what was subtracted before alone.
        scale: r.
        bias: b_mag.
        gate_bias: b_gate.
    """
    grown = scale.exp()
    return replace(
        dictionary,
        encoder=dictionary.encoder * grown,
        bias=dictionary.bias * grown + bias,
        gate=Threshold(bias - grown * gate_bias),
    )


def relu(latents: int) -> Threshold:
    """The gate of latents that are positive."""
    return Threshold(torch.zeros(latents, dtype=torch.float64))


def threshold_gate(tensors: Tensors, latents: int) -> Threshold:
    """ReLU, or JumpReLU where there is a `threshold`.

    Raises:
        UsageError: if one is below zero, where some tools let negative numbers pass.
    """
    if "threshold" not in tensors:
        return relu(latents)
    threshold = tensors.vector("threshold", latents)
    if bool((threshold < 0).any()):
        raise UsageError(
            f"'{tensors.path}' has thresholds below zero: latents would be negative where they are "
            "active, which is not read here."
        )
    return Threshold(threshold)
