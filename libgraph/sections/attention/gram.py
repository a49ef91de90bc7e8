"""The sum over Jacobians of attention that its Jacobian Gram needs, block by block.

J_ts = 𝓛 X_ts 𝓡 with constant 𝓛 = [I | Q | K | V] and 𝓡 = [S; O], so that Σ J_ts J_tsᵀ needs
Σ_ts X_ts 𝒬 X_tsᵀ, 𝒬 = 𝓡𝓡ᵀ, a matrix of head-sized blocks (docs/math.md §5). Sums over keys are
taken first, so that nothing has the size of queries × keys × d_head. In the sums g and h are heads,
e and f coordinates of g's, r of h's, m runs over the samples and queries of a chunk.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.sections.attention.heads import Heads, Projections
from libgraph.sections.chunks import chunks


def inner_gram(section: Heads, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "l l"]:
    """Σ_ts X_ts 𝒬 X_tsᵀ over a batch, in float64; l = d_in + 3 heads·d_head."""
    size, heads = section.query.shape[1], section.heads
    output = section.output.unflatten(0, (heads, -1))
    inner = torch.einsum("geo,hro->gher", output, output)
    queries = section.queries(x)
    count = queries.stop - queries.start
    if not len(x):
        return x.new_zeros(2 * (section.d_in + 3 * size,), dtype=torch.float64)
    sums: dict[str, Tensor] = {}

    def add(parts: dict[str, Tensor]) -> None:
        for name, part in parts.items():
            sums[name] = sums[name] + part if name in sums else part.double()

    # Of one query: Γ, then patterns and values of all pairs of heads.
    per_query = max(size * size // heads, heads**2 * x.shape[1], heads * size)
    for samples in chunks(len(x), per_query * count, x):
        p = section.project(x[samples])
        metric = _metric(p.v, inner)
        n = samples.stop - samples.start
        for chosen in chunks(count, per_query * n, x):
            here = slice(queries.start + chosen.start, queries.start + chosen.stop)
            add(_sums(section, p, here, inner, metric))
    if section.rotary is not None:
        # Turning sums back costs the same for any number of queries: as many as have patterns.
        per_query = heads**2 * x.shape[1]
        for samples in chunks(len(x), per_query * count, x):
            p = section.project(x[samples])
            metric = _metric(p.v, inner)
            for chosen in chunks(count, per_query * (samples.stop - samples.start), x):
                here = slice(queries.start + chosen.start, queries.start + chosen.stop)
                add(_turned_sums(section, p, here, inner, metric))
    return _assembled(section, sums, inner.double(), len(x) * count)


def _assembled(
    section: Heads, sums: dict[str, Tensor], inner: Float[Tensor, "g h e r"], count: int
) -> Float[Tensor, "l l"]:
    """The blocks from sums over queries: what factors do to these is done once for all.

    `x` is the residual stream; q, k and v run over heads.
    """
    d, size, heads = section.d_in, section.query.shape[1], section.heads
    skip, output = section.skip.double(), section.output.double().unflatten(0, (heads, -1))
    across = torch.einsum("io,hro->ihr", skip, output)
    by_pair = inner * sums["both"][..., None, None]
    blocks = {
        ("x", "x"): count * skip @ skip.T,
        ("x", "q"): torch.einsum("ihr,hfr->ihf", across, sums["gamma"]),
        ("x", "k"): torch.einsum("ihr,hre->ihe", across, sums["own_q"]),
        ("x", "v"): across * sums["own"].unsqueeze(-1),
        ("q", "q"): sums["qq"],
        ("q", "k"): sums["qk"],
        ("q", "v"): torch.einsum("ghfe,gher->gfhr", sums["turned"], inner),
        ("k", "k"): sums["kk"],
        ("k", "v"): torch.einsum("ghfe,gher->gfhr", sums["moved"], inner),
        ("v", "v"): by_pair.transpose(1, 2),
    }
    total = skip.new_zeros(d + 3 * size, d + 3 * size)
    place = {"x": slice(0, d)}
    place |= {name: slice(d + i * size, d + (i + 1) * size) for i, name in enumerate("qkv")}
    for (rows, columns), block in blocks.items():
        flat = block.reshape(place[rows].stop - place[rows].start, -1)
        total[place[rows], place[columns]] = flat
        total[place[columns], place[rows]] = flat.T
    return total


def _metric(
    v: Float[Tensor, "n h s e"], inner: Float[Tensor, "g h e r"]
) -> Float[Tensor, "n g h s"]:
    """v^g_s 𝒬_gh v^h_sᵀ at every key, pairs of heads a chunk at a time."""
    n, heads, s, e = v.shape
    return torch.cat(
        [
            ((v[:, g].unsqueeze(2) @ inner[g]) * v.unsqueeze(1)).sum(-1)
            for g in chunks(heads, n * heads * s * e, v)
        ],
        dim=1,
    )


def _sums(
    section: Heads,
    p: Projections,
    queries: slice,
    inner: Float[Tensor, "g h e r"],
    metric: Float[Tensor, "n g h s"],
) -> dict[str, Tensor]:
    """What some queries add to the sums that the blocks are made of."""
    at = section.pattern(p, queries)
    gamma = at.gamma.permute(1, 2, 0, 3, 4).flatten(2, 3).contiguous()
    own, own_w, plain_q = (
        rows.transpose(0, 1).flatten(1, 2) for rows in (at.own, at.own_w, p.plain_q[:, :, queries])
    )
    # Σ_e over the values' own coordinates, 𝒬_gh applied: to w_tt of h and to z of h.
    own_seen = torch.einsum("gher,hmr->gmeh", inner, own_w)
    seen = torch.einsum("gfme,gmeh->gfmh", gamma, own_seen)
    one, two, both = _pairs(section, at.a, at.steep)
    sums = {
        "gamma": gamma.sum(2),
        "own": own.sum(1),
        "own_q": torch.einsum("hmr,hme->hre", own_w, plain_q),
        "turned": torch.einsum("hm,gfme->ghfe", own, gamma),
        "qq": _query_query(gamma, inner),
        "qk": torch.einsum("gfmh,hmr->gfhr", seen, plain_q),
        "both": both.sum((0, 3)),
    }
    if section.rotary is not None:
        return sums
    q = p.q[:, :, queries]
    z_seen = torch.einsum("gher,nhtr->nghte", inner, at.z)
    mixed, moved = _mixed(p, two, at.z)
    # Σ_s a^g a^h (v^g − z^g) 𝒬 (v^h − z^h)ᵀ, multiplied out.
    curved = torch.einsum("nghts,nghs->nght", two, metric)
    curved = curved - (z_seen * mixed).sum(-1).transpose(1, 2) - (z_seen * moved).sum(-1)
    weighted = curved.unsqueeze(-1) * q.unsqueeze(2)
    sums["kk"] = torch.einsum("nghte,nhtr->gehr", weighted, q)
    if one is not two:
        moved = _mixed(p, one, at.z)[1]
    sums["moved"] = torch.einsum("ngtf,nghte->ghfe", q, moved)
    return sums


def _turned_sums(
    section: Heads,
    p: Projections,
    queries: slice,
    inner: Float[Tensor, "g h e r"],
    metric: Float[Tensor, "n g h s"],
) -> dict[str, Tensor]:
    """What keys add to them where positions rotate."""
    a, z, steep = section.attend(p, queries)
    one, two, _ = _pairs(section, a, steep)
    z_seen = torch.einsum("gher,nhtr->nghte", inner, z)
    return {
        "kk": _turned_keys(section, p, queries, two, metric, z, z_seen),
        "moved": _turned_values(section, p, queries, one, z),
    }


def _pairs(
    section: Heads, a: Float[Tensor, "n h t s"], steep: Float[Tensor, "n h t s"]
) -> tuple[Float[Tensor, "n g h t s"], Float[Tensor, "n g h t s"], Float[Tensor, "n g h t"]]:
    """Products of two heads' patterns: of one as steep as it is where scores change, of two such,
    and of the patterns themselves, added up over keys."""
    if section.before:
        # What is before the first position is attended to, but no input.
        a, steep = (_without_prefix(rows, section.before) for rows in (a, steep))
    pairs = a.unsqueeze(2) * a.unsqueeze(1)
    both = pairs.sum(-1)
    if section.soft_cap is None:
        return pairs, pairs, both
    return steep.unsqueeze(2) * a.unsqueeze(1), steep.unsqueeze(2) * steep.unsqueeze(1), both


def _without_prefix(rows: Float[Tensor, "n h t s"], before: int) -> Float[Tensor, "n h t s"]:
    return torch.cat([torch.zeros_like(rows[..., :before]), rows[..., before:]], -1)


def _mixed(
    p: Projections, pairs: Float[Tensor, "n g h t s"], z: Float[Tensor, "n g t e"]
) -> tuple[Float[Tensor, "n g h t e"], Float[Tensor, "n g h t e"]]:
    """Σ_s a^g a^h v^g_s, and the same of v^g_s − z^g_t."""
    mixed = (pairs.flatten(2, 3) @ p.v).unflatten(2, pairs.shape[2:4])
    return mixed, mixed - pairs.sum(-1).unsqueeze(-1) * z.unsqueeze(2)


def _query_query(
    gamma: Float[Tensor, "h f m e"], inner: Float[Tensor, "g h e r"]
) -> Float[Tensor, "g f h r"]:
    """Σ_t Γ^g 𝒬_gh Γ^hᵀ: nearly all the arithmetic, so each pair of heads is met once only."""
    heads, f, m, e = gamma.shape
    block = gamma.new_zeros(heads, f, heads, f)
    for g in range(heads):
        through = (gamma[g].reshape(f * m, e) @ inner[g, g:]).unflatten(1, (f, m)).flatten(2)
        product = through @ gamma[g:].flatten(2).transpose(1, 2)
        block[g, :, g:] = product.transpose(0, 1)
        block[g:, :, g] = product.transpose(1, 2)
    return block


def _turned_keys(
    section: Heads,
    p: Projections,
    queries: slice,
    pairs: Float[Tensor, "n g h t s"],
    metric: Float[Tensor, "n g h s"],
    z: Float[Tensor, "n h t e"],
    z_seen: Float[Tensor, "n g h t e"],
) -> Float[Tensor, "g e h r"]:
    """Σ_ts a^g a^h (v^g_s − z^g_t) 𝒬 (v^h_s − z^h_t)ᵀ q^g q^hᵀ, the queries turned back by s."""
    half = z_seen @ p.v.transpose(-1, -2).unsqueeze(2)
    flat = (z_seen * z.unsqueeze(2)).sum(-1, keepdim=True)
    curved = pairs * (metric.unsqueeze(3) - half - half.transpose(1, 2) + flat)
    q = p.q[:, :, queries].transpose(0, 1).flatten(1, 2)
    heads, _, e = q.shape
    back = -torch.arange(pairs.shape[-1], device=q.device)
    block = q.new_zeros(heads, e, heads, e)
    for g in range(heads):
        # Each pair of heads is met once only.
        products = (q[g].unsqueeze(-1) * q[g:].unsqueeze(2)).flatten(2)
        # Keys first: (h, s, m) @ (h, m, e·r).
        by_key = curved[:, g, g:].permute(1, 3, 0, 2).flatten(2)
        for keys in chunks(len(back), heads * e * e, q):
            unturned = (by_key[:, keys] @ products).unflatten(-1, (e, e))
            once = section.turn(unturned.transpose(-1, -2), back[keys].unsqueeze(-1))
            twice = section.turn(once.transpose(-1, -2), back[keys].unsqueeze(-1))
            block[g, :, g:] += twice.sum(1).transpose(0, 1)
        block[g + 1 :, :, g] = block[g, :, g + 1 :].permute(1, 2, 0)
    return block


def _turned_values(
    section: Heads,
    p: Projections,
    queries: slice,
    pairs: Float[Tensor, "n g h t s"],
    z: Float[Tensor, "n h t e"],
) -> Float[Tensor, "g h f e"]:
    """Σ_ts a^g a^h q^gᵀ (v^g_s − z^g_t), the queries turned back by s."""
    q = p.q[:, :, queries]
    back = -torch.arange(pairs.shape[-1], device=q.device)
    by_key = section.turn(pairs.transpose(-1, -2) @ q.unsqueeze(2), back)
    # A mean of rotations is what it makes of the two unit vectors of every plane.
    unit = torch.ones(len(back), q.shape[-1] // 2, 1).to(q) * torch.tensor([1.0, 0.0]).to(q)
    mean = (pairs @ section.turn(unit.flatten(1), back)).unflatten(-1, (-1, 2))
    cos, sin = mean.unbind(-1)
    a, b = (q[..., i::2].unsqueeze(2) for i in (0, 1))
    by_query = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    return torch.einsum("nghsf,ngse->ghfe", by_key, p.v) - torch.einsum(
        "nghtf,ngte->ghfe", by_query, z
    )
