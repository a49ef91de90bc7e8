"""What every section computes, as plain formulas: one position, head and offset at a time."""

import math

import torch

from libgraph.sections import (
    Attention,
    Chain,
    Convolution,
    Divided,
    Division,
    Function,
    GatedMLP,
    GroupSquare,
    Length,
    Linear,
    Parallel,
    Pooling,
    SkipMLP,
    Variance,
)
from libgraph.sections.section import Rebased

ACTIVATION_FORMULAS = {
    torch.relu: lambda h: h.clamp(min=0),
    torch.tanh: lambda h: 1 - 2 / (1 + torch.exp(2 * h)),
    torch.nn.functional.gelu: lambda h: h * (1 + torch.erf(h / math.sqrt(2))) / 2,
    torch.nn.functional.silu: lambda h: h / (1 + torch.exp(-h)),
}


def formula(section, x):
    match section:
        case Rebased():
            return formula(section.inner, x @ section.decoder) @ section.encoder
        case Linear():
            return torch.einsum("nsi,io->nso", x, section.matrix)
        case Pooling():
            return torch.einsum("ts,nsi,io->nto", section.pool, x, section.matrix)
        case GatedMLP():
            hidden = torch.einsum("nsi,ih->nsh", x, section.inner)
            gate = torch.einsum("nsi,ih->nsh", x, section.gate)
            hidden = gate * ACTIVATION_FORMULAS[section.activation](hidden)
            return torch.einsum("nsi,io->nso", x, section.skip) + hidden @ section.outer
        case SkipMLP():
            hidden = torch.einsum("nsi,ih->nsh", x, section.inner)
            hidden = ACTIVATION_FORMULAS[section.activation](hidden)
            return torch.einsum("nsi,io->nso", x, section.skip) + hidden @ section.outer
        case Convolution():
            hidden = convolved(section.reads, section.inner, x)
            hidden = ACTIVATION_FORMULAS[section.activation](hidden)
            return convolved(section.reads, section.skip, x) + hidden @ section.outer
        case Variance():
            stream = torch.einsum("nsi,id->nsd", x, section.stream)
            variance = (stream**2).sum(-1) / stream.shape[-1]
            skip = torch.einsum("nsi,io->nso", x, section.skip)
            return skip + torch.einsum("ns,o->nso", variance, section.direction[0])
        case Length():
            stream = torch.einsum("nsi,id->nsd", x, section.stream)
            length = torch.sqrt((stream**2).sum(-1)) + section.epsilon
            skip = torch.einsum("nsi,io->nso", x, section.skip)
            return skip + torch.einsum("ns,o->nso", length, section.direction[0])
        case Divided():
            stream = torch.einsum("nsi,id->nsd", x, section.stream)
            length = torch.sqrt((stream**2).sum(-1)) + section.epsilon
            part = torch.einsum("nsi,ih->nsh", x, section.read) / length[..., None]
            return torch.einsum("nsi,io->nso", x, section.skip) + part @ section.outer
        case GroupSquare():
            means = torch.einsum("nsi->ni", x) / x.shape[1]
            stream = torch.einsum("nsi,id->nsd", x, section.stream)
            stream = stream + torch.einsum("ni,id->nd", means, section.centre)[:, None]
            squares = torch.einsum("nsd->nd", stream**2) / x.shape[1]
            added = torch.einsum("ni,io->no", means, section.mean)
            added = added + torch.einsum("nd,do->no", squares, section.outer)
            return torch.einsum("nsi,io->nso", x, section.skip) + added[:, None]
        case Division():
            stream = torch.einsum("nsi,id,do->nso", x, section.stream, section.outer)
            variance = torch.einsum("nsi,i->ns", x, section.variance[:, 0])
            deviation = torch.sqrt(variance + section.epsilon)
            skip = torch.einsum("nsi,io->nso", x, section.skip)
            return skip + stream / deviation.unsqueeze(-1)
        case Chain():
            for part in section.parts:
                x = formula(part, x)
            return x
        case Parallel():
            return torch.stack([formula(branch, x) for branch in section.branches]).sum(0)
        case Attention():
            return torch.stack([attended(section, sample) for sample in x])
        case Function():
            return torch.cat([section.function(sample.unsqueeze(0)) for sample in x])
    raise AssertionError(f"There is no formula of {type(section).__name__}: write one here.")


def convolved(reads, factors, x):
    """Σ_δ x_{r(t,δ)} F_δ, one output position and one offset at a time."""
    y = torch.zeros(len(x), len(reads), factors.shape[-1], dtype=x.dtype)
    for t, window in enumerate(reads.tolist()):
        for offset, s in enumerate(window):
            if s >= 0:
                y[:, t] += x[:, s] @ factors[offset]
    return y


def attended(section, x):
    """Attention on one sample, one head and one query at a time."""
    last, mask = len(x) - 1, section.mask
    rows = []
    for t in [last] if mask.last_only else range(len(x)):
        y = x[t] @ section.skip
        width = section.query.shape[1] // section.heads
        for head in range(section.heads):
            part = slice(head * width, (head + 1) * width)
            group = head * section.key.shape[1] // section.query.shape[1]
            shared = slice(group * width, (group + 1) * width)
            before = section.before
            keys, values = x @ section.key[:, shared], x @ section.value[:, shared]
            if before:
                keys = torch.cat([section.prefix_key[:, shared], keys])
                values = torch.cat([section.prefix_value[:, shared], values])
            here = before + t
            start = max(0, here + 1 - mask.window) if mask.window else 0
            stop = here + 1 if mask.causal else len(keys)
            keys, values = keys[start:stop], values[start:stop]
            query = x[t] @ section.query[:, part]
            if section.rotary is not None:
                keys = torch.stack(
                    [key @ rotation(section.rotary, s) for s, key in enumerate(keys, start=start)]
                )
                query = query @ rotation(section.rotary, here)
            scores = keys @ query / math.sqrt(width)
            if section.soft_cap is not None:
                scores = section.soft_cap * torch.tanh(scores / section.soft_cap)
            weights = torch.exp(scores - scores.max())
            mixed = (weights / weights.sum()) @ values
            y = y + mixed @ section.output[part]
        rows.append(y)
    return torch.stack(rows)


def rotation(angles, position):
    """One 2 × 2 rotation a plane, as a matrix that rows are multiplied by."""
    turns = [(math.cos(angle), math.sin(angle)) for angle in (angles * position).tolist()]
    planes = [torch.tensor([[c, s], [-s, c]], dtype=torch.float64) for c, s in turns]
    return torch.block_diag(*planes)
