"""Examples for every feature, from one pass over some samples; see `libgraph.runs.examples`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.backend.contract import Backend
from libgraph.errors import BackendError
from libgraph.network.basis import Bases, Basis
from libgraph.network.cross_layer import carrying
from libgraph.network.network import Network
from libgraph.pipeline.workload import Workload
from libgraph.progress import Progress
from libgraph.runs.examples import (
    BEFORE,
    EFFECTS,
    ORDINARY,
    STRONGEST,
    WINDOW,
    Examples,
    LayerExamples,
)

MOST_SAMPLES = 4096
"""Samples looked at, at most."""

MOST_VALUES = 2**25
"""Values of features held, at most: 128 MiB."""

EFFECT_SAMPLES = 32
"""Samples over which effects on outputs are averaged."""

MOST_OUTPUTS = 256
"""Outputs up to which effects on them are computed."""

MOST_POSITIONS = 256
"""Positions up to which means at each of them are kept."""

ROUNDING = 1e-12
"""A feature with less variance than this share of its mean square does not vary."""


def find_examples(workload: Workload, bases: Bases, progress: Progress) -> Examples:
    """Examples of the features of every rotated node layer, from the first samples of `train`.

    Args:
        workload: whose network, data and backend.
        bases: of the node layers.
        progress: told of each batch, as the stage `examples`.

    Raises:
        BackendError: if the backend shows something else than texts or pictures.
    """
    network = carrying(workload.network, bases)
    first = next(iter(workload.data("train", most=1)))
    with torch.no_grad():
        lengths = {
            layer.name: x.shape[1]
            for layer, x in zip(network.node_layers, network.activations(first.inputs), strict=True)
        }
    rotated = [layer.name for layer in network.node_layers if layer.rotated]
    values = sum(lengths[name] * len(bases[name]) for name in rotated)
    pool = max(1, min(MOST_SAMPLES, MOST_VALUES // max(values, 1)))
    kept: dict[str, list[Tensor]] = {name: [] for name in rotated}
    cast = {name: bases[name].to(first.inputs.device, workload.train.dtype) for name in rotated}
    inputs: list[Tensor] = []
    data = workload.data("train", most=pool)
    for number, batch in enumerate(data):
        progress("examples", number, len(data))
        features = dict(_features(network, cast, batch.inputs))
        # Positions of other samples are others, where samples differ in length.
        if any(f.shape[1] != lengths[name] for name, f in features.items()):
            continue
        inputs.append(batch.inputs)
        for name, f in features.items():
            kept[name].append(f.float().cpu())
    progress("examples", len(data), len(data))
    samples = sum(map(len, inputs))
    strongest = {name: _strongest(torch.cat(kept[name])) for name in rotated}
    shown = torch.cat([found.samples.flatten() for found in strongest.values()]).unique()
    place = torch.zeros(samples, dtype=torch.int64)
    place[shown] = torch.arange(len(shown))
    rows = [row[None] for batch in inputs for row in batch]
    texts, pictures = _shown(workload.backend, [rows[number] for number in shown.tolist()])
    moved = _effects(workload, bases, torch.cat(inputs)[:EFFECT_SAMPLES])
    layers = {}
    for name, found in strongest.items():
        extra = moved.get(name)
        layers[name] = LayerExamples(
            place[found.samples],
            found.positions,
            found.values,
            found.starts,
            found.windows,
            found.deviation,
            found.position_share,
            found.means,
            found.deviations,
            *(extra.strongest(found.deviation) if extra is not None else (None, None)),
        )
    return Examples(
        samples,
        tuple(shown.tolist()),
        {name: lengths[name] for name in rotated},
        layers,
        texts,
        pictures,
    )


def _features(network: Network, bases: Bases, inputs: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Features `(n, s, k)` of every rotated node layer in turn."""
    with torch.no_grad():
        for layer, x in zip(network.node_layers, network.activations(inputs), strict=True):
            if layer.rotated:
                yield layer.name, bases[layer.name].features(x)


def _strongest(f: Float[Tensor, "n s k"]) -> LayerExamples:
    """For each feature the samples with the largest and least values, and what is known besides."""
    n, s, _ = f.shape
    highest, lowest = f.max(dim=1), f.min(dim=1)
    count = min(STRONGEST, n)
    chosen = []
    for values, where in ((highest.values, highest.indices), (-lowest.values, lowest.indices)):
        top = values.sort(dim=0, descending=True, stable=True).indices[:count]
        top = torch.cat([top, top[-1:].expand(STRONGEST - count, -1)])
        chosen.append((top, where.gather(0, top)))
    # The same for all features, spread over the samples.
    ordinary = torch.tensor([n * (2 * e + 1) // (2 * ORDINARY) for e in range(ORDINARY)])
    strength = f[ordinary].abs().argmax(dim=1)
    chosen.append((ordinary[:, None].expand(-1, f.shape[2]), strength))
    samples, positions = (torch.cat(parts).T.contiguous() for parts in zip(*chosen, strict=True))
    features = torch.arange(f.shape[2])[:, None]
    width = min(s, WINDOW)
    starts = (positions - BEFORE).clamp(0, max(s - width, 0))
    span = starts[..., None] + torch.arange(width)
    means = f.double().mean(0)
    within = f.double().var(0, correction=0)
    mean, square = means.mean(0), f.double().square().mean((0, 1))
    total = within.mean(0) + (means - mean).square().mean(0)
    varies = total > ROUNDING * square
    few = 1 < s <= MOST_POSITIONS
    return LayerExamples(
        samples,
        positions,
        f[samples, positions, features],
        starts,
        f[samples[..., None], span, features[..., None]],
        torch.where(varies, total.sqrt(), 0).float(),
        _position_share(within, total, varies, n) if s > 1 else None,
        means.float() if few else None,
        within.sqrt().float() if few else None,
    )


def _position_share(
    within: Float[Tensor, "s k"], total: Float[Tensor, " k"], varies: Tensor, samples: int
) -> Float[Tensor, " k"]:
    """Share of the variance between positions, corrected for chance (adjusted R²)."""
    s = len(within)
    count = samples * s
    if samples < 2:
        return torch.zeros_like(total).float()
    unexplained = within.mean(0) / total.clamp(min=1e-300) * (count - 1) / (count - s)
    share: Tensor = torch.where(varies, 1 - unexplained, 0).clamp(0, 1).float()
    return share


class _Moved:
    """How features move outputs: gradients `(outputs, d)` in the features `(k, d)`."""

    def __init__(self, gradient: Float[Tensor, "o d"], basis: Basis) -> None:
        self.effects: Float[Tensor, "k o"] = basis.decoder.to(gradient) @ gradient.T

    def strongest(
        self, deviation: Float[Tensor, " k"]
    ) -> tuple[Int[Tensor, "k o"], Float[Tensor, "k o"]]:
        """Outputs that each feature moves most up, then most down, and how far."""
        effects = self.effects.cpu() * deviation.double()[:, None]
        # Of few outputs each is there once.
        up = min(EFFECTS, (effects.shape[1] + 1) // 2)
        down = min(EFFECTS, effects.shape[1] - up)
        order = effects.sort(dim=1, descending=True, stable=True)
        numbers = torch.cat([order.indices[:, :up], order.indices.flip(1)[:, :down]], dim=1)
        return numbers, effects.gather(1, numbers).float()


def _effects(workload: Workload, bases: Bases, inputs: Tensor) -> Mapping[str, _Moved]:
    """By node layer, where the outputs are left in their own coordinates and are not too many."""
    network = carrying(workload.network, bases)
    outputs = network.node_layers[-1]
    if outputs.rotated or outputs.size > MOST_OUTPUTS:
        return {}
    with torch.enable_grad():
        x = network.embed(inputs).detach().requires_grad_()
        cuts = [x]
        for section in network.sections:
            x = section(x)
            cuts.append(x)
        if not x.requires_grad:
            return {}
        gradients = [
            torch.autograd.grad(
                x[..., output].sum(), cuts[:-1], retain_graph=True, materialize_grads=True
            )
            for output in range(outputs.size)
        ]
    return {
        layer.name: _Moved(
            torch.stack([gradient[place].sum((0, 1)) for gradient in gradients]).double()
            / len(inputs),
            bases[layer.name],
        )
        for place, layer in enumerate(network.node_layers[:-1])
        if layer.rotated
    }


Shown = tuple[tuple[tuple[str, ...], ...], Tensor | None]
"""Texts of samples, position by position, or their pictures."""


def _shown(backend: Backend, rows: Sequence[Tensor], at_once: int = 256) -> Shown:
    """What the backend shows of some samples, each of which is a batch of one."""
    texts: list[tuple[str, ...]] = []
    pictures: list[Tensor] = []
    for start in range(0, len(rows), at_once):
        part = torch.cat(list(islice(rows, start, start + at_once)))
        shown = backend.show(part)
        if len(shown) not in (0, len(part)):
            raise BackendError(
                f"show() of the backend '{backend.name}' gives {len(shown)} samples for "
                f"{len(part)}: it has to show each, or none."
            )
        if isinstance(shown, Tensor):
            if shown.dtype != torch.uint8 or shown.ndim != 4 or shown.shape[-1] != 3:
                raise BackendError(
                    f"show() of the backend '{backend.name}' gives {shown.dtype} of shape "
                    f"{tuple(shown.shape)}: pictures are bytes (n, height, width, 3)."
                )
            pictures.append(shown.cpu())
        else:
            texts += [tuple(map(str, text)) for text in shown]
    return tuple(texts), torch.cat(pictures) if pictures else None
