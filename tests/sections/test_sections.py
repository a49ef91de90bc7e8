"""Every section against plain formulas and against Jacobians taken one sample at a time."""

import math

import pytest
import torch
from helpers.jacobians import (
    RULES,
    Shape,
    build,
    build_features,
    chunks_of,
    dense_gram,
    dense_interactions,
)
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import ACTIVATIONS, ATTENTIONS, KINDS, NORMS, random_section
from hypothesis import given, settings
from hypothesis import strategies as st

from libgraph.sections import (
    Attention,
    Chain,
    Division,
    Function,
    GatedMLP,
    Linear,
    Parallel,
    Section,
    SkipMLP,
    Variance,
    autodiff,
    split_norm,
)
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Rebased

PLAIN = ["chain", "parallel-positionwise"]
STRUCTURED = ["linear", *ACTIVATIONS, "gated", *NORMS, *ATTENTIONS, *PLAIN, "parallel"]
POSITIONWISE = ["linear", *ACTIVATIONS, "gated", *NORMS, "positionwise", *PLAIN]


shapes = st.builds(
    Shape,
    seed=st.integers(0, 2**16),
    samples=st.integers(1, 3),
    positions=st.integers(1, 6),
    d_in=st.integers(1, 4),
    d_out=st.integers(1, 4),
    features=st.integers(1, 9),
    heads=st.integers(1, 4),
    width=st.integers(1, 3),
)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_smooth_kind = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "relu"])
quick = settings(deadline=None, max_examples=20)


def expected_forward(section, x):
    """The section's formula, written out position by position."""
    match section:
        case Rebased():
            return expected_forward(section.inner, x @ section.decoder) @ section.encoder
        case Linear():
            return torch.einsum("nsi,io->nso", x, section.matrix)
        case GatedMLP():
            hidden = torch.einsum("nsi,ih->nsh", x, section.inner)
            gate = torch.einsum("nsi,ih->nsh", x, section.gate)
            hidden = gate * hidden / (1 + torch.exp(-hidden))
            return torch.einsum("nsi,io->nso", x, section.skip) + hidden @ section.outer
        case Variance():
            stream = torch.einsum("nsi,id->nsd", x, section.stream)
            variance = (stream**2).sum(-1) / stream.shape[-1]
            skip = torch.einsum("nsi,io->nso", x, section.skip)
            return skip + torch.einsum("ns,o->nso", variance, section.direction[0])
        case Division():
            stream = torch.einsum("nsi,id,do->nso", x, section.stream, section.outer)
            variance = torch.einsum("nsi,i->ns", x, section.variance[:, 0])
            deviation = torch.sqrt(variance + section.epsilon)
            skip = torch.einsum("nsi,io->nso", x, section.skip)
            return skip + stream / deviation.unsqueeze(-1)
        case SkipMLP():
            hidden = torch.einsum("nsi,ih->nsh", x, section.inner)
            hidden = {
                torch.relu: lambda h: h.clamp(min=0),
                torch.tanh: lambda h: 1 - 2 / (1 + torch.exp(2 * h)),
                torch.nn.functional.gelu: lambda h: h * (1 + torch.erf(h / math.sqrt(2))) / 2,
                torch.nn.functional.silu: lambda h: h / (1 + torch.exp(-h)),
            }[section.activation](hidden)
            return torch.einsum("nsi,io->nso", x, section.skip) + hidden @ section.outer
        case Chain():
            for part in section.parts:
                x = expected_forward(part, x)
            return x
        case Parallel():
            return torch.stack([expected_forward(each, x) for each in section.branches]).sum(0)
        case Attention():
            return torch.stack([attend(section, one) for one in x])
        case Function():
            return torch.cat([section.function(one.unsqueeze(0)) for one in x])
    raise AssertionError


def attend(section, x):
    """Attention on one sample, one head and one query at a time."""
    last = len(x) - 1
    rows = []
    for t in [last] if section.mask.last_only else range(len(x)):
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
            start = max(0, here + 1 - section.mask.window) if section.mask.window else 0
            stop = here + 1 if section.mask.causal else len(keys)
            keys, values, query = (
                keys[start:stop],
                values[start:stop],
                x[t] @ section.query[:, part],
            )
            if section.rotary is not None:
                keys = torch.stack(
                    [key @ rotation(section.rotary, s) for s, key in enumerate(keys, start=start)]
                )
                query = query @ rotation(section.rotary, here)
            scores = keys @ query
            weights = torch.exp((scores - scores.max()) / math.sqrt(width))
            mixed = (weights / weights.sum()) @ values
            y = y + mixed @ section.output[part]
        rows.append(y)
    return torch.stack(rows)


def rotation(angles, position):
    """One 2 × 2 rotation a plane, as a matrix that rows are multiplied by."""
    turns = [(math.cos(angle), math.sin(angle)) for angle in (angles * position).tolist()]
    planes = [torch.tensor([[c, s], [-s, c]], dtype=torch.float64) for c, s in turns]
    return torch.block_diag(*planes)


@each_kind
@given(shape=shapes)
@quick
def test_forward(kind, shape):
    section, x = build(kind, shape)
    assert_close(section(x), expected_forward(section, x))


@each_kind
@given(shape=shapes, chunk=st.sampled_from([1, 300, 2**26]))
@quick
def test_jacobian_gram(kind, shape, chunk):
    section, x = build(kind, shape)
    expected = dense_gram(section, x)
    with chunks_of(chunk):
        assert_close(section.jacobian_gram(x), expected)
        assert_close(autodiff.jacobian_gram(section, x), expected)


@each_kind
@given(shape=shapes, rule=st.sampled_from(RULES), chunk=st.sampled_from([1, 300, 2**26]))
@quick
def test_interactions(kind, shape, rule, chunk):
    section, x = build(kind, shape)
    features, decoder = build_features(shape)
    rule = Quadrature.parse(rule)
    expected = dense_interactions(section, x, features, decoder, rule)
    with chunks_of(chunk):
        assert_close(section.interactions(x, features, decoder, rule), expected)
        assert_close(autodiff.interactions(section, x, features, decoder, rule), expected)


@pytest.mark.parametrize(("d_in", "d_out", "mode"), [(2, 5, "jvp"), (5, 2, "vjp"), (3, 3, "vjp")])
def test_the_gram_takes_the_mode_with_fewer_passes(d_in, d_out, mode, monkeypatch):
    used = spy_on_modes(monkeypatch)
    section, x = random_section("mixing", d_in, d_out), normal(seeded(0), 2, 3, d_in)
    assert_close(autodiff.jacobian_gram(section, x), dense_gram(section, x))
    assert used == {mode}


@pytest.mark.parametrize(("features", "mode"), [(2, "jvp"), (6, "jvp"), (7, "vjp")])
def test_interactions_take_the_mode_with_fewer_passes(features, mode, monkeypatch):
    used = spy_on_modes(monkeypatch)
    shape = Shape(0, 2, 3, 4, 2, features, 1, 1)
    section, x = build("mixing", shape)
    arguments = (x, *build_features(shape), Quadrature.trapezoid(3))
    expected = dense_interactions(section, *arguments)
    assert_close(autodiff.interactions(section, *arguments), expected)
    assert used == {mode}


def spy_on_modes(monkeypatch):
    used = set()
    for name in ("jvp", "vjp"):
        original = getattr(autodiff, name)

        def spy(*arguments, name=name, original=original):
            used.add(name)
            return original(*arguments)

        monkeypatch.setattr(autodiff, name, spy)
    return used


def test_small_chunks_attend_to_samples_apart(monkeypatch):
    sizes = []
    attend = Attention.attend
    monkeypatch.setattr(
        Attention,
        "attend",
        lambda self, p, queries: (
            sizes.append((len(p.v), queries.stop - queries.start)) or attend(self, p, queries)
        ),
    )
    shape = Shape(0, 4, 3, 3, 2, 2, 2, 2)
    section, x = build("attention", shape)
    with chunks_of(1):
        section.jacobian_gram(x)
        section.interactions(x, *build_features(shape), Quadrature.gradient())
    # The Gram goes query by query, the interactions feature by feature for all queries at once.
    assert sizes == [(1, 1)] * 4 * x.shape[1] + [(1, x.shape[1])] * 4


@pytest.mark.parametrize("kind", POSITIONWISE)
@given(shape=shapes)
@quick
def test_positionwise_sections_treat_positions_as_samples(kind, shape):
    section, x = build(kind, shape)
    features, decoder = build_features(shape)
    apart, features_apart = x.reshape(-1, 1, shape.d_in), features.reshape(-1, 1, shape.features)
    rule = Quadrature.gradient()
    assert section.positionwise
    assert_close(section(x), section(apart).reshape(*x.shape[:2], -1))
    assert_close(section.jacobian_gram(x), section.jacobian_gram(apart))
    assert_close(
        section.interactions(x, features, decoder, rule),
        section.interactions(apart, features_apart, decoder, rule),
    )


@pytest.mark.parametrize("kind", [*ATTENTIONS, "mixing", "pooling", "rebased"])
def test_other_sections_do_not_claim_to_be_positionwise(kind):
    assert not random_section(kind, 3, 3).positionwise


def test_a_positionwise_function_stays_so_in_other_coordinates():
    section = random_section("positionwise", 3, 3)
    assert section.rebase(torch.eye(3).double()).positionwise


@each_kind
@given(shape=shapes, out=st.integers(1, 5), ends=st.sampled_from(["both", "in", "out", "none"]))
@quick
def test_rebase_multiplies_at_both_ends(kind, shape, out, ends):
    section, _ = build(kind, shape)
    generator = seeded(shape.seed + 3)
    decoder = normal(generator, shape.features, shape.d_in) if ends in ("both", "in") else None
    encoder = normal(generator, shape.d_out, out) if ends in ("both", "out") else None
    rebased = section.rebase(decoder, encoder)
    before = torch.eye(shape.d_in).double() if decoder is None else decoder
    after = torch.eye(shape.d_out).double() if encoder is None else encoder
    f = normal(generator, shape.samples, shape.positions, len(before))

    def composed(x):
        return section(x @ before) @ after

    whole = Function(composed, len(before), after.shape[1])
    assert (rebased.d_in, rebased.d_out) == (len(before), after.shape[1])
    assert_close(rebased(f), composed(f))
    assert_close(rebased.jacobian_gram(f), dense_gram(whole, f))
    arguments = (f, f, torch.eye(len(before)).double(), Quadrature.trapezoid(3))
    assert_close(rebased.interactions(*arguments), dense_interactions(whole, *arguments))


@each_kind
def test_rebase_twice_is_rebase_by_the_products(kind):
    shape = Shape(5, 2, 3, 3, 4, 2, 2, 2)
    section, _ = build(kind, shape)
    generator = seeded(6)
    first, second = normal(generator, 5, 3), normal(generator, 2, 5)
    third, fourth = normal(generator, 4, 3), normal(generator, 3, 2)
    f = normal(generator, 2, 3, 2)
    twice = section.rebase(first, third).rebase(second, fourth)
    assert_close(twice(f), section.rebase(second @ first, third @ fourth)(f))


@each_kind
@given(shape=shapes, data=st.data())
@quick
def test_masked_is_a_pass_of_its_own_for_every_output(kind, shape, data):
    section, x = build(kind, shape)
    entries = st.lists(st.booleans(), min_size=shape.d_in, max_size=shape.d_in)
    # Few distinct patterns, so that outputs share passes.
    patterns = data.draw(st.lists(entries, min_size=1, max_size=3))
    columns = [data.draw(st.sampled_from(patterns)) for _ in range(shape.d_out)]
    keep = torch.tensor(columns).T
    expected = [section(torch.where(keep[:, i], x, 0))[..., i] for i in range(shape.d_out)]
    assert_close(section.masked(x, keep), torch.stack(expected, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_with_the_same_inputs_share_a_pass(kind, monkeypatch):
    section, x = build(kind, Shape(0, 2, 3, 3, 4, 2, 2, 2))
    passes = []
    cls = type(section)
    forward = cls.forward
    monkeypatch.setattr(cls, "forward", lambda self, x: passes.append(1) or forward(self, x))
    section.masked(x, torch.tensor([[True, False, True, False]] * 3))
    assert len(passes) <= 2


@each_kind
def test_single_precision_sums_up_in_double(kind):
    shape = Shape(3, 3, 4, 3, 3, 2, 2, 2)
    section, x = build(kind, shape)
    features, decoder = build_features(shape)
    rule = Quadrature.gauss_legendre(2)
    gram = section.jacobian_gram(x)
    edges = section.interactions(x, features, decoder, rule)
    section.float()
    arguments = (x.float(), features.float(), decoder.float(), rule)
    for sums, expected in (
        (section.jacobian_gram(x.float()), gram),
        (autodiff.jacobian_gram(section, x.float()), gram),
        (section.interactions(*arguments), edges),
        (autodiff.interactions(section, *arguments), edges),
    ):
        assert sums.dtype == torch.float64
        assert_close(sums, expected, 1e-4)


@each_smooth_kind
def test_interactions_can_be_differentiated_through_the_bases(kind):
    shape = Shape(1, 2, 2, 3, 2, 2, 2, 2)
    section, x = build(kind, shape)
    generator = seeded(7)
    encoder, decoder = normal(generator, 2, 3), normal(generator, 2, 3)
    features = normal(generator, 2, 2, 2)
    rule = Quadrature.gradient()

    def edges(encoder, decoder, features):
        return section.rebase(encoder=encoder).interactions(x, features, decoder, rule)

    variables = [each.requires_grad_() for each in (encoder, decoder, features)]
    assert torch.autograd.gradcheck(edges, variables)


@each_smooth_kind
def test_the_gram_can_be_differentiated_through_the_next_basis(kind):
    section, x = build(kind, Shape(1, 2, 2, 3, 2, 2, 2, 2))
    encoder = normal(seeded(7), 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda encoder: section.rebase(encoder=encoder).jacobian_gram(x), encoder
    )


@pytest.mark.parametrize("kind", STRUCTURED)
def test_factors_follow_the_dtype_and_are_saved(kind):
    section = random_section(kind, 3, 3).float()
    assert all(tensor.dtype == torch.float32 for tensor in section.state_dict().values())
    assert section.state_dict()
    x = torch.ones(1, 2, 3)
    again = random_section(kind, 3, 3, seed=9).float()
    again.load_state_dict(section.state_dict())
    assert torch.equal(again(x), section(x))


def test_a_section_must_say_how_it_maps_forward():
    with pytest.raises(TypeError, match=r"abstract.*forward"):
        Section(2, 2)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_split_norm_is_the_norm_of_torch(size, centred, keep):
    stream = normal(seeded(size), 4, 3, size)
    x = torch.cat([stream, torch.ones(4, 3, 1, dtype=torch.float64)], dim=-1)
    first, second = (
        half.double() for half in split_norm(size, epsilon=1e-3, centred=centred, keep=keep)
    )
    variance = stream.var(-1, correction=0) if centred else stream.square().mean(-1)
    assert_close(first(x), torch.cat([variance.unsqueeze(-1), x], dim=-1))
    norm = torch.nn.functional.layer_norm if centred else torch.nn.functional.rms_norm
    expected = [norm(stream, (size,), eps=1e-3)] + ([stream] if keep else [])
    assert_close(second(first(x)), torch.cat([*expected, x[..., -1:]], dim=-1), 1e-9)
