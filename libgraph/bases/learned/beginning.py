"""What dictionaries begin with: directions that are read, or else those of activations.

Features that are always written together, because one before makes both, cannot be told apart by
activations, whose sparsest code is one latent for both. The next node layer may read each by
itself: gradients J v with random v are sums of few of the directions that it reads, in ever other
proportions. So encoders begin with a sparse code of gradients: in turn the best few directions of
each by orthogonal matching pursuit, and the best directions for these by least squares (the method
of optimal directions). Decoders begin with the least squares of activations from these latents.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.bases.learned.options import (
    CODED,
    CODING_BATCH,
    CODING_ROUNDS,
    DIRECTIONS_AT_ONCE,
    SEEDED,
)

ALIKE = 0.98
"""Cosine above which two directions are one."""


def beginning(
    u: Float[Tensor, "n m"],
    gradients: Float[Tensor, "n r m"] | None,
    count: int,
    active: int,
    generator: torch.Generator,
    rounds: int = CODING_ROUNDS,
) -> dict[str, Tensor]:
    """Parameters of a dictionary of so many latents, by name; see `latents.PARTS`.

    Args:
        u: activations.
        gradients: of some of them; None to begin with activations alone.
        count: k.
        active: latents at once.
        generator: of what is chosen at random.
        rounds: of the sparse code of gradients.
    """
    centre = u.median(0).values
    about = u - centre
    rows = torch.zeros(0)
    if gradients is not None:
        rows = gradients.flatten(0, 1)
        rows = rows[rows.norm(dim=1) > 1e-5]
    if len(rows) < count:
        decoder = _spread(about, count, generator, signed=True)
        return _parameters(decoder.T.clone(), decoder, centre)
    rows = rows[torch.randperm(len(rows), generator=generator)[:CODED].to(rows.device)]
    read = coded_directions(rows, count, min(active, DIRECTIONS_AT_ONCE), generator, rounds)
    # Which way up: latents are seldom large, never seldom small.
    along = about @ read.T
    skew = (along - along.mean(0)).pow(3).mean(0)
    read = torch.where(skew.unsqueeze(1) < 0, -read, read)
    values, places = (about @ read.T).topk(min(active, count), dim=1)
    z = about.new_zeros(len(about), count).scatter(1, places, values.relu())
    ridge = 1e-2 * len(u) / count * torch.eye(count).to(u)
    written = torch.linalg.solve(z.T @ z + ridge, z.T @ about)
    size = written.norm(dim=1).clamp(min=1e-6)
    unused = size <= 1e-6
    written[unused] = read[unused]
    size[unused] = 1
    return _parameters((read * size.unsqueeze(1)).T, written / size.unsqueeze(1), centre)


def coded_directions(
    rows: Float[Tensor, "n m"],
    count: int,
    at_once: int,
    generator: torch.Generator,
    rounds: int = CODING_ROUNDS,
) -> Float[Tensor, "k m"]:
    """Unit vectors of which few add up to each row, with any signs."""
    directions = _spread(rows, count, generator, signed=False)
    for number in range(rounds):
        chosen = torch.randint(len(rows), (max(CODING_BATCH, 8 * count),), generator=generator)
        batch = rows[chosen.to(rows.device)]
        places, parts, left = pursuit(batch, directions, at_once)
        code = batch.new_zeros(len(batch), count).scatter(1, places, parts)
        ridge = 1e-4 * len(batch) / count * torch.eye(count).to(batch)
        directions = torch.linalg.solve(code.T @ code + ridge, code.T @ batch)
        size = directions.norm(dim=1)
        directions = directions / size.clamp(min=1e-9).unsqueeze(1)
        twins = torch.triu((directions @ directions.T).abs(), 1).amax(0) > ALIKE
        lost = ((code != 0).sum(0) < 3) | (size < 1e-6) | twins
        # The last rounds are for those that are there.
        if bool(lost.any()) and number < rounds - 5:
            weights = left.square().sum(1).cpu() + 1e-12
            worst = torch.multinomial(weights, int(lost.sum()), generator=generator)
            directions[lost] = torch.nn.functional.normalize(left[worst.to(rows.device)], dim=1)
    return torch.nn.functional.normalize(directions, dim=1)


def pursuit(
    rows: Float[Tensor, "n m"], directions: Float[Tensor, "k m"], at_once: int
) -> tuple[Tensor, Tensor, Float[Tensor, "n m"]]:
    """Orthogonal matching pursuit: places and parts `(n, a)` of each row, and what is left of it.

    One direction after the other that has most of what is left, and parts anew by least squares.
    """
    left, places, parts = rows, rows.new_zeros(len(rows), 0, dtype=torch.int64), rows[:, :0]
    for _ in range(min(at_once, len(directions))):
        matches = (left @ directions.T).abs().scatter(1, places, -1)
        places = torch.cat([places, matches.argmax(1, keepdim=True)], dim=1)
        taken = directions[places]
        gram = taken @ taken.mT + 1e-6 * torch.eye(places.shape[1]).to(rows)
        parts = torch.linalg.solve(gram, taken @ rows.unsqueeze(2)).squeeze(2)
        left = rows - (parts.unsqueeze(1) @ taken).squeeze(1)
    return places, parts, left


def _spread(
    rows: Float[Tensor, "n m"], count: int, generator: torch.Generator, *, signed: bool
) -> Float[Tensor, "k m"]:
    """Directions of rows far from each other: each drawn by its distance from those before it."""
    size = rows.norm(dim=1)
    some = torch.randperm(len(rows), generator=generator)[: max(SEEDED, 4 * count)]
    some = some.to(rows.device)
    weights = size[some].square() if signed else torch.ones_like(size[some])
    unit = rows[some] / size[some].clamp(min=1e-9).unsqueeze(1)
    far = torch.ones_like(weights)
    chosen: list[int] = []
    for _ in range(count):
        chance = (far.clamp(min=0).square() * weights + 1e-12).double().cpu()
        chosen.append(int(torch.multinomial(chance, 1, generator=generator)))
        cosine = unit @ unit[chosen[-1]]
        far = torch.minimum(far, 1 - (cosine if signed else cosine.square()))
    found: Tensor = unit[torch.tensor(chosen, device=rows.device)].clone()
    return found


def _parameters(encoder: Tensor, decoder: Tensor, centre: Tensor) -> dict[str, Tensor]:
    return {
        "encoder": encoder.contiguous(),
        "bias": encoder.new_zeros(encoder.shape[1]),
        "decoder": decoder.contiguous(),
        "centre": centre,
    }
