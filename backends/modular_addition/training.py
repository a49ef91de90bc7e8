"""Training the modular-addition transformer: full-batch AdamW, until long after it generalises.

Only what the last position needs is computed. Its query is the same for all pairs, and keys and
values take one of p values each, so attention is looked up in tables of p rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding

from libgraph.backend import Course, DataError, Outcome, Progress, fit, write_tensors
from libgraph_backends.modular_addition.data import splits, sums
from libgraph_backends.modular_addition.options import TrainingOptions
from libgraph_backends.shared.classification import test_figures


def train(options: TrainingOptions, directory: Path, progress: Progress) -> Outcome:
    """Train into `directory/model.safetensors`; returns the history of test loss and accuracy.

    Raises:
        DataError: if there is nothing to train on, or nothing held out.
    """
    weights = initial_weights(options)
    pairs = splits(options.modulus, options.frac_train, options.split_seed)
    if not all(len(inputs) for inputs in pairs.values()):
        raise DataError(
            f"A share of {options.frac_train:g} of all pairs for training leaves one split empty: "
            "choose another frac_train."
        )
    inputs, test_inputs = pairs["train"], pairs["test"]
    targets, test_targets = (sums(part, options.modulus) for part in (inputs, test_inputs))

    def loss(step: int) -> Tensor:
        return cross_entropy(logits(weights, inputs), targets)

    def evaluate() -> dict[str, float]:
        return test_figures(logits(weights, test_inputs), test_targets)

    history = fit(
        weights,
        loss,
        Course(
            steps=options.steps,
            directory=directory,
            settings=options.model_dump(exclude={"steps", "keep_every"}),
            keep_every=options.keep_every,
        ),
        optimizer=torch.optim.AdamW(
            weights.values(),
            lr=options.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=options.weight_decay,
        ),
        evaluate=evaluate,
        progress=progress,
    )
    write_tensors(directory / "model.safetensors", weights)
    return {"history": history}


def initial_weights(options: TrainingOptions) -> dict[str, Tensor]:
    """Normal weights of variance 1/fan-in and zero biases, in TransformerLens's names."""
    d, m, h, p = options.d_model, options.d_mlp, options.heads, options.modulus
    generator = torch.Generator().manual_seed(options.seed)

    def normal(*shape: int, fan_in: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * math.pow(fan_in, -0.5)

    weights = {
        "embed.W_E": normal(p + 1, d, fan_in=d),
        "pos_embed.W_pos": normal(3, d, fan_in=d),
        "blocks.0.attn.W_Q": normal(h, d, d // h, fan_in=d),
        "blocks.0.attn.W_K": normal(h, d, d // h, fan_in=d),
        "blocks.0.attn.W_V": normal(h, d, d // h, fan_in=d),
        "blocks.0.attn.W_O": normal(h, d // h, d, fan_in=d),
        "blocks.0.attn.b_Q": torch.zeros(h, d // h),
        "blocks.0.attn.b_K": torch.zeros(h, d // h),
        "blocks.0.attn.b_V": torch.zeros(h, d // h),
        "blocks.0.attn.b_O": torch.zeros(d),
        "blocks.0.mlp.W_in": normal(d, m, fan_in=d),
        "blocks.0.mlp.b_in": torch.zeros(m),
        "blocks.0.mlp.W_out": normal(m, d, fan_in=m),
        "blocks.0.mlp.b_out": torch.zeros(d),
        "unembed.W_U": normal(d, p + 1, fan_in=d),
        "unembed.b_U": torch.zeros(p + 1),
    }
    return {name: weight.requires_grad_() for name, weight in weights.items()}


def logits(w: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Logits `(n, p + 1)` at the last position, equal to those of the network of sections."""
    position = w["pos_embed.W_pos"]
    numbers, equals = w["embed.W_E"][:-1], w["embed.W_E"][-1] + position[2]

    def heads(of: Tensor, which: str) -> Tensor:
        weight, bias = w[f"blocks.0.attn.W_{which}"], w[f"blocks.0.attn.b_{which}"]
        return bias + torch.einsum("nd,hde->nhe", of, weight)

    query = heads(equals[None], "Q")
    scores, values = [], []
    for slot, table in enumerate((numbers + position[0], numbers + position[1], equals[None])):
        # The equals sign is the only entry of its table.
        entry = inputs[:, slot] if slot < 2 else torch.zeros_like(inputs[:, slot])
        score = (heads(table, "K") * query).sum(-1) * math.pow(query.shape[-1], -0.5)
        scores.append(embedding(entry, score))
        values.append(embedding(entry, heads(table, "V").flatten(1)))
    pattern = torch.stack(scores).softmax(0).unsqueeze(-1)
    mixed: Tensor = (pattern * torch.stack(values).unflatten(-1, query.shape[1:])).sum(0).flatten(1)
    attention = mixed @ w["blocks.0.attn.W_O"].flatten(0, 1) + w["blocks.0.attn.b_O"]
    residual = equals + attention
    hidden = torch.relu(residual @ w["blocks.0.mlp.W_in"] + w["blocks.0.mlp.b_in"])
    residual = residual + hidden @ w["blocks.0.mlp.W_out"] + w["blocks.0.mlp.b_out"]
    return w["unembed.b_U"] + residual @ w["unembed.W_U"]
