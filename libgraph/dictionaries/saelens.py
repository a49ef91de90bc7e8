"""Dictionaries of SAELens: `cfg.json` beside `sae_weights.safetensors`.

Architectures standard, topk, jumprelu and gated; batchtopk and Matryoshka ones, which are saved
with the thresholds that they have after training; transcoders. Activations may be divided by their
own size before they are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from libgraph.dictionaries.configuration import read_configuration
from libgraph.dictionaries.weights import (
    DictionaryWeights,
    Normalisation,
    Tensors,
    dictionary_of,
    gated,
    relu,
    transcoder_of,
)
from libgraph.errors import UsageError
from libgraph.files.atomic import write_json, writing
from libgraph.files.tensors import save_tensors
from libgraph.files.weights import read_weights
from libgraph.network.dictionary import Gate, Threshold, TopK
from libgraph.network.passage import FOLDED

CONFIGURATION, WEIGHTS = "cfg.json", "sae_weights.safetensors"

NAMES = {
    "encoder": "W_enc",
    "bias": "b_enc",
    "decoder": "W_dec",
    "shift": "b_dec",
    "skip": "~W_skip",
}

WITH_THRESHOLDS = ("jumprelu", "batchtopk", "matryoshka_batchtopk")

TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")

ACTIVATIONS = ("relu", "topk")

FURTHER: Mapping[str, tuple[str, ...]] = {
    "standard": (),
    "topk": (),
    "gated": ("r_mag", "b_mag", "b_gate"),
    "jumprelu": ("threshold",),
    "batchtopk": ("threshold",),
    "matryoshka_batchtopk": ("threshold",),
    "transcoder": (),
    "skip_transcoder": (),
    "jumprelu_transcoder": ("threshold",),
    "jumprelu_skip_transcoder": ("threshold",),
}
"""Tensors of each architecture beside `NAMES`."""

FACTORS = ("finetuning_scaling_factor", "scaling_factor")
"""What a factor of each latent has been called."""

NORMALISATIONS = {
    "none": None,
    "None": None,
    "layer_norm": Normalisation(centred=True, epsilon=1e-5),
    "constant_norm_rescale": Normalisation(centred=False, epsilon=0.0),
}
"""What `normalize_activations` says; others are factors of a data set."""


class _Metadata(BaseModel):
    hook_name: str | None = None
    hook_name_out: str | None = None
    hook_head_index: int | None = None
    model_from_pretrained_kwargs: dict[str, object] = Field(default_factory=dict)


class _Configuration(BaseModel):
    architecture: str = "standard"
    d_in: int
    d_sae: int
    d_out: int | None = None
    k: int | None = None
    apply_b_dec_to_input: bool | None = None
    normalize_activations: str | None = "none"
    rescale_acts_by_decoder_norm: bool = False
    reshape_activations: str = "none"
    activation_fn: str | None = None
    activation_fn_str: str | None = None
    activation_fn_kwargs: dict[str, float | str | None] = Field(default_factory=dict)
    finetuning_scaling_factor: bool = False
    hook_name: str | None = None
    hook_name_out: str | None = None
    hook_point: str | None = None
    metadata: _Metadata = Field(default_factory=_Metadata)

    @property
    def hook(self) -> str:
        """Where it reads; older versions say so beside the rest."""
        return self.metadata.hook_name or self.hook_name or self.hook_point or ""

    @property
    def input(self) -> str:
        """Where a transcoder reads; a folded norm has its scale and shift in what follows."""
        folded = self.metadata.model_from_pretrained_kwargs.get("fold_ln") is True
        return self.hook + FOLDED * (folded and self.hook.endswith("hook_normalized"))

    @property
    def output(self) -> str:
        """Where what a transcoder imitates writes."""
        return self.metadata.hook_name_out or self.hook_name_out or ""

    @property
    def subtracts_shift(self) -> bool:
        """Whether b_dec is taken from what is read; so it was where nothing is said."""
        return self.apply_b_dec_to_input is not False

    @property
    def activation(self) -> str:
        """That of `standard` dictionaries of older versions, which say it by itself."""
        return self.activation_fn or self.activation_fn_str or "relu"


def holds(folder: Path) -> bool:
    """Whether a dictionary of SAELens is in this folder."""
    return (folder / WEIGHTS).is_file()


def read(folder: Path) -> list[DictionaryWeights]:
    """The dictionary of a folder.

    Raises:
        UsageError: naming what is missing, of another shape, or not known.
    """
    cfg = read_configuration(folder / CONFIGURATION, _Configuration)
    _check_supported(folder, cfg)
    weights, architecture = read_weights(folder / WEIGHTS), cfg.architecture
    names = {what: name for what, name in NAMES.items() if what != "skip" or "skip" in architecture}
    tensors = Tensors(folder, weights, names)
    stored = tensors.matrix("encoder").shape
    if stored != (cfg.d_in, cfg.d_sae):
        raise UsageError(
            f"'{folder}': {CONFIGURATION} says {cfg.d_in} × {cfg.d_sae}, but W_enc is "
            f"{' × '.join(map(str, stored))}."
        )
    tensors.of_these_alone(*FURTHER[cfg.architecture], *FACTORS)
    if cfg.architecture in TRANSCODERS:
        if "skip" in cfg.architecture:
            # Says that it is missing, if it is.
            tensors.matrix("skip")
        gate = _gate(folder, cfg, tensors)
        transcoder = transcoder_of(tensors, cfg.input, cfg.output, gate, cfg.d_out)
        return [replace(transcoder, normalised=_normalisation(cfg))]
    found = _finetuned(folder, cfg, weights, _autoencoder(folder, cfg, weights))
    return [replace(found, normalised=_normalisation(cfg))]


def _normalisation(cfg: _Configuration) -> Normalisation | None:
    return NORMALISATIONS[cfg.normalize_activations or "none"]


def _finetuned(
    folder: Path,
    cfg: _Configuration,
    weights: Mapping[str, Tensor],
    found: DictionaryWeights,
) -> DictionaryWeights:
    """With what latents write so many times as long as a factor of each says.

    Raises:
        UsageError: if the factors are missing, or there and not used.
    """
    names = [name for name in FACTORS if name in weights]
    if not names:
        if cfg.finetuning_scaling_factor:
            raise UsageError(
                f"'{folder}' has a finetuning_scaling_factor, and {WEIGHTS} holds no "
                f"'{FACTORS[0]}'."
            )
        return found
    factor = Tensors(folder, weights, {}).vector(names[0], cfg.d_sae)
    if not cfg.finetuning_scaling_factor:
        if bool((factor != 1).any()):
            raise UsageError(
                f"'{folder}' holds '{names[0]}' that is not 1, and {CONFIGURATION} does not say "
                "finetuning_scaling_factor: say whether it is used."
            )
        return found
    return replace(found, decoder=found.decoder * factor[:, None])


def _autoencoder(
    folder: Path, cfg: _Configuration, weights: Mapping[str, Tensor]
) -> DictionaryWeights:
    """Of activations as they are."""
    tensors = Tensors(folder, weights, NAMES)
    if cfg.architecture == "gated":
        plain = {**weights, "b_enc": torch.zeros(cfg.d_sae)}
        dictionary = dictionary_of(
            Tensors(folder, plain, NAMES),
            cfg.hook,
            relu(cfg.d_sae),
            subtracts_shift=cfg.subtracts_shift,
        )
        parts = (tensors.vector(name, cfg.d_sae) for name in ("r_mag", "b_mag", "b_gate"))
        return gated(dictionary, *parts)
    dictionary = dictionary_of(
        tensors, cfg.hook, _gate(folder, cfg, tensors), subtracts_shift=cfg.subtracts_shift
    )
    if cfg.rescale_acts_by_decoder_norm and isinstance(dictionary.gate, TopK):
        # Latents compete by how long their decoders make them.
        dictionary = dictionary.scaled(dictionary.decoder.norm(dim=1))
    return dictionary


def _check_supported(folder: Path, cfg: _Configuration) -> None:
    known = ("standard", "topk", "gated", *WITH_THRESHOLDS, *TRANSCODERS)
    if cfg.architecture not in known:
        raise UsageError(
            f"'{folder}' has the architecture '{cfg.architecture}': known are {', '.join(known)}."
        )
    how = cfg.normalize_activations or "none"
    if how == "expected_average_only_in":
        raise UsageError(
            f"'{folder}' has normalize_activations={how}, and its files do not say by which "
            "factor: fold it into the weights with SAELens's fold_activation_norm_scaling_factor."
        )
    if how not in NORMALISATIONS:
        names = ", ".join(name for name in NORMALISATIONS if name != "None")
        raise UsageError(f"'{folder}' has normalize_activations={how}: known are {names}.")
    if cfg.reshape_activations != "none" or cfg.metadata.hook_head_index is not None:
        raise UsageError(f"'{folder}' reads heads of attention, which are no node layers.")
    transcodes = cfg.architecture in TRANSCODERS
    for name, wrong in (
        ("apply_b_dec_to_input", transcodes and cfg.apply_b_dec_to_input),
        ("finetuning_scaling_factor", transcodes and cfg.finetuning_scaling_factor),
        (
            "rescale_acts_by_decoder_norm",
            cfg.rescale_acts_by_decoder_norm and not _takes_largest(cfg),
        ),
    ):
        if wrong:
            raise UsageError(
                f"'{folder}' has {name} with the architecture '{cfg.architecture}', which is not "
                "read here."
            )
    if cfg.activation not in ACTIVATIONS:
        raise UsageError(
            f"'{folder}' has the activation '{cfg.activation}': known are "
            f"{' and '.join(ACTIVATIONS)}."
        )


def _takes_largest(cfg: _Configuration) -> bool:
    return cfg.architecture == "topk" or (
        cfg.architecture == "standard" and cfg.activation == "topk"
    )


def _gate(folder: Path, cfg: _Configuration, tensors: Tensors) -> Gate:
    """What the architecture says is active."""
    if cfg.architecture in WITH_THRESHOLDS and "threshold" in tensors:
        return Threshold(tensors.vector("threshold", cfg.d_sae))
    if "jumprelu" in cfg.architecture:
        # Says which tensor is missing.
        return Threshold(tensors.vector("threshold", cfg.d_sae))
    if cfg.architecture in ("standard", *TRANSCODERS) and cfg.activation == "relu":
        return relu(cfg.d_sae)
    k = cfg.k if cfg.k is not None else cfg.activation_fn_kwargs.get("k")
    if cfg.architecture == "topk" or cfg.activation == "topk":
        if not isinstance(k, int | float):
            raise UsageError(f"'{folder}': {CONFIGURATION} does not say how many latents k are on.")
        if not (math.isfinite(k) and k >= 1 and k == int(k)):
            raise UsageError(f"'{folder}': {CONFIGURATION} says that k = {k} latents are on.")
        return TopK(int(k))
    if cfg.architecture in WITH_THRESHOLDS:
        raise UsageError(
            f"'{folder}': a {cfg.architecture} dictionary is read with the thresholds that it has "
            "after training, and holds no 'threshold'."
        )
    raise UsageError(f"'{folder}' has the activation '{cfg.activation}': known are relu and topk.")


def write(folder: Path, dictionary: DictionaryWeights, model: str = "") -> None:
    """Save a dictionary as SAELens reads it.

    Args:
        folder: made if it is not there.
        dictionary: with a gate of k latents, or thresholds.
        model: what the model is called.
    """
    folder.mkdir(parents=True, exist_ok=True)
    architecture: Literal["topk", "jumprelu"] = (
        "topk" if isinstance(dictionary.gate, TopK) else "jumprelu"
    )
    tensors = {
        "W_enc": dictionary.encoder,
        "b_enc": dictionary.bias,
        "W_dec": dictionary.decoder,
        "b_dec": dictionary.shift,
    }
    extra: dict[str, int] = {}
    if isinstance(dictionary.gate, TopK):
        extra["k"] = dictionary.gate.k
    elif isinstance(dictionary.gate, Threshold):
        tensors["threshold"] = dictionary.gate.threshold
    with writing(folder / WEIGHTS) as path:
        save_tensors(path, {name: tensor.float() for name, tensor in tensors.items()})
    write_json(
        folder / CONFIGURATION,
        {
            "architecture": architecture,
            "d_in": dictionary.size,
            "d_sae": dictionary.latents,
            **extra,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": False,
            "normalize_activations": next(
                name for name, how in NORMALISATIONS.items() if how == dictionary.normalised
            ),
            "reshape_activations": "none",
            "metadata": {"model_name": model, "hook_name": dictionary.hook},
        },
    )
