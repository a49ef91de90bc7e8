"""Dictionaries of dictionary_learning: `ae.pt`, a state dict, beside `config.json`.

Which kind it is, its tensors say: AutoEncoder, AutoEncoderTopK, BatchTopKSAE and Matryoshka ones
(with the threshold that they have after training), GatedAutoEncoder, JumpReluAutoEncoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from libgraph.dictionaries.configuration import read_configuration
from libgraph.dictionaries.weights import (
    DictionaryWeights,
    Tensors,
    dictionary_of,
    gated,
    relu,
)
from libgraph.errors import UsageError
from libgraph.files.weights import read_weights
from libgraph.network.dictionary import Threshold, TopK

WEIGHTS, CONFIGURATION = "ae.pt", "config.json"

CLASSES = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "topk",
    "MatryoshkaBatchTopKSAE": "topk",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
}
"""Kinds of the classes that are read."""

LAYERS = {"encoder": "~encoder.weight", "bias": "encoder.bias", "decoder": "~decoder.weight"}
MATRICES = {"encoder": "W_enc", "bias": "b_enc", "decoder": "W_dec", "shift": "b_dec"}


class _Trainer(BaseModel):
    dict_class: str = ""
    layer: int | None = None
    submodule_name: str | None = None


class _Buffer(BaseModel):
    io: str = "out"


class _Configuration(BaseModel):
    trainer: _Trainer = Field(default_factory=_Trainer)
    buffer: _Buffer = Field(default_factory=_Buffer)


def holds(folder: Path) -> bool:
    """Whether a dictionary of dictionary_learning is in this folder."""
    return (folder / WEIGHTS).is_file()


def read(folder: Path) -> list[DictionaryWeights]:
    """The dictionary of a folder.

    Raises:
        UsageError: naming what is missing, of another shape, or not known.
    """
    trainer = _Trainer()
    if (folder / CONFIGURATION).is_file():
        configuration = read_configuration(folder / CONFIGURATION, _Configuration)
        trainer = configuration.trainer
        if configuration.buffer.io == "in_and_out":
            raise UsageError(
                f"'{folder}' maps what a module reads to what it puts out (io=in_and_out), and its "
                "files do not say which module that is: save it as a transcoder of SAELens."
            )
    hook = trainer.submodule_name or ""
    weights = read_weights(folder / WEIGHTS)
    kind = _kind(weights)
    if trainer.dict_class and CLASSES.get(trainer.dict_class) != kind:
        known = ", ".join(CLASSES)
        raise UsageError(
            f"'{folder}' is a {trainer.dict_class}, "
            + (
                f"and its tensors are those of another class ({kind})."
                if trainer.dict_class in CLASSES
                else f"which is not read here: known are {known}."
            )
        )
    if "W_enc" in weights and "k" not in weights:
        return [_jump_relu(folder, weights, hook)]
    if "r_mag" in weights:
        return [_gated(folder, weights, hook)]
    names = MATRICES if "W_enc" in weights else LAYERS | {"shift": "b_dec"}
    if "b_dec" not in weights:
        names = LAYERS | {"shift": "bias"}
        tensors = Tensors(folder, weights, names)
        gate = relu(tensors.matrix("encoder").shape[1])
        return [dictionary_of(tensors, hook, gate, subtracts_shift=True)]
    tensors = Tensors(folder, weights, names)
    latents = tensors.matrix("encoder").shape[1]
    if "k" not in weights:
        raise UsageError(f"'{folder}': '{WEIGHTS}' holds no 'k', how many latents are on.")
    # Trained on whole batches, they are used with a threshold for all latents.
    threshold = tensors.number("threshold") if "threshold" in tensors else -1.0
    if threshold >= 0 and ("W_enc" in weights or "BatchTopK" in trainer.dict_class):
        every = torch.full((latents,), threshold, dtype=torch.float64)
        return [dictionary_of(tensors, hook, Threshold(every), subtracts_shift=True)]
    if "BatchTopK" in trainer.dict_class:
        raise UsageError(
            f"'{folder}': a {trainer.dict_class} is read with the threshold that it has after "
            "training, and its 'threshold' is not set."
        )
    gate_k = TopK(int(tensors.number("k")))
    return [dictionary_of(tensors, hook, gate_k, subtracts_shift=True)]


def _kind(weights: Mapping[str, Tensor]) -> str:
    """What tensors say of the class."""
    if "r_mag" in weights:
        return "gated"
    if "k" in weights:
        return "topk"
    return "jumprelu" if "W_enc" in weights else "relu"


def _jump_relu(folder: Path, weights: Mapping[str, Tensor], hook: str) -> DictionaryWeights:
    tensors = Tensors(folder, weights, MATRICES)
    latents = tensors.matrix("encoder").shape[1]
    gate = Threshold(tensors.vector("threshold", latents))
    found = dictionary_of(tensors, hook, gate, subtracts_shift=False)
    return found.scaled(found.decoder.norm(dim=1))


def _gated(folder: Path, weights: Mapping[str, Tensor], hook: str) -> DictionaryWeights:
    tensors = Tensors(folder, weights, LAYERS | {"shift": "decoder_bias"})
    latents = tensors.matrix("encoder").shape[1]
    plain = Tensors(
        folder,
        {**weights, "encoder.bias": torch.zeros(latents)},
        LAYERS | {"shift": "decoder_bias"},
    )
    found = dictionary_of(plain, hook, relu(latents), subtracts_shift=True)
    found = gated(
        found, *(tensors.vector(name, latents) for name in ("r_mag", "mag_bias", "gate_bias"))
    )
    return found.scaled(found.decoder.norm(dim=1))
