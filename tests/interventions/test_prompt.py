"""The graph of one input: against dense Jacobians by autodiff, and the graph of averages."""

import pytest
import torch
from helpers.cifar import small_backend, write_batches
from helpers.numbers import assert_within

import libgraph as lg
from libgraph.errors import UsageError
from libgraph.interventions.influence import prune, shares, with_influence
from libgraph.interventions.prompt import prompt_graph
from libgraph.interventions.prompt_cost import expected
from libgraph.sections.holding import attends, patterns_held
from libgraph.sections.quadrature import Quadrature

OPTIONS = {
    "modular-addition": {},
    "mlp": {"blocks": 2, "width": 3, "layers": 2, "samples": 60},
    "lm": {"sequences": 6, "layers": "0:1", "n_ctx": 5},
    "cifar": {},
}


@pytest.fixture(scope="module", params=list(OPTIONS))
def case(request, tmp_path_factory):
    """A run, its subject, and one input."""
    if request.param == "cifar":
        folder = tmp_path_factory.mktemp("cifar")
        backend = small_backend("conv", write_batches(folder), folder)
    else:
        backend = lg.load_backend(request.param, **OPTIONS[request.param])
    run = lg.analyze(backend, ablate=False, beside=(), limit=30)
    subject = run.subject(limit=6)
    return run, subject, next(iter(subject.data)).inputs[:1]


def dense(subject, place, inputs):
    """Ĵ of a section at its input, `[t, i, s, j]`, and features `(s, j)`."""
    x = list(subject.network.activations(inputs))[place]
    source, target = (subject.cast[subject.layers[place + i]] for i in (0, 1))
    section = subject.network.sections[place]

    def seen(f):
        y = section(x + (f @ source.decoder)[None]) @ target.encoder
        return y[0]

    at = torch.zeros(x.shape[1], len(source), dtype=x.dtype)
    return torch.autograd.functional.jacobian(seen, at), (x @ source.encoder)[0]


def test_edges_are_features_times_dense_jacobians(case):
    _, subject, inputs = case
    graph = prompt_graph(subject, inputs, integration="gradient", baseline="zero", classes=2)
    for place in range(len(subject.network.sections) - 1):
        pair = subject.layers[place], subject.layers[place + 1]
        jacobian, f = dense(subject, place, inputs)
        source, target = graph.layers[place], graph.layers[place + 1]
        rows = jacobian[target.positions, target.features]
        wanted = (rows * f)[:, source.positions, source.features]
        assert_within(graph.edges[pair].effects, wanted, rtol=1e-10)


def test_squares_summed_over_inputs_are_the_graph_of_averages(case):
    run, subject, _ = case
    edges = run.edges()
    (first, second) = list(edges)[-2] if len(edges) > 1 else next(iter(edges))
    place = subject.layers.index(first)
    total, count = 0, 0
    for batch in run.subject(split="train", limit=30).data:
        for row in range(len(batch.inputs)):
            jacobian, f = dense(subject, place, batch.inputs[row : row + 1])
            total = total + torch.einsum("tisj,sj->tij", jacobian, f).square().sum(0)
            count += len(f)
    assert_within(total / count, edges[first, second], rtol=1e-8)


@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_edges_add_up_to_what_they_explain(case, baseline):
    _, subject, inputs = case
    graph = prompt_graph(subject, inputs, baseline=baseline, classes=2)
    for pair, error in graph.completeness.items():
        norm = baseline == "zero" and any(part in pair[1] for part in ("normalized", "outputs"))
        # From zero on, a norm turns within the first hundredth of its path; what follows the
        # analysed blocks of a language model runs in its own, single precision.
        single = pair[1] == "outputs" and subject.has_logits
        assert error < (1 if norm else 1e-4 if single else 1e-8), (pair, error)


def test_what_goes_through_values_is_the_derivative_with_patterns_as_they_are(case):
    _, subject, inputs = case
    graph = prompt_graph(subject, inputs, integration="gradient", baseline="zero", classes=2)
    activations = list(subject.network.activations(inputs))
    for place, section in enumerate(subject.network.sections):
        pair = subject.layers[place], subject.layers[place + 1]
        if not attends(section):
            assert pair not in graph.edges or graph.edges[pair].pattern is None
            continue
        source, target = graph.layers[place], graph.layers[place + 1]
        x = activations[place]
        a = section.attention_pattern(x)
        values = (x.new_zeros(1, 1, 1) + section.value).squeeze(0)
        heads, width = section.heads, section.query.shape[1] // section.heads
        for j in range(min(3, len(source))):
            step = torch.zeros_like(x)
            weight = source.values[j]
            decoder = subject.cast[pair[0]].decoder[source.features[j]]
            step[0, source.positions[j]] = weight * decoder
            moved = (step @ values).unflatten(-1, (heads, width)).transpose(1, 2)
            z = (a @ moved).transpose(1, 2).flatten(2)
            own = step[:, x.shape[1] - z.shape[1] :]
            y = (own @ section.skip + z @ section.output) @ subject.cast[pair[1]].encoder
            found = graph.edges[pair]
            through = (found.effects - found.pattern)[:, j]
            assert_within(through, y[0][target.positions, target.features], atol=1e-9)


def test_the_closed_form_of_attention_is_automatic_differentiation(case):
    _, subject, inputs = case
    activations = list(subject.network.activations(inputs))
    for section, x in zip(subject.network.sections, activations[:-1], strict=True):
        if not attends(section):
            continue
        generator = torch.Generator().manual_seed(0)
        positions = torch.randint(0, x.shape[1], (7,), generator=generator)
        steps = torch.randn(7, x.shape[2], generator=generator, dtype=x.dtype)
        rule, start = Quadrature.gauss_legendre(3), 0.3 * x
        through, pattern = section.reach(start, x, rule)(positions, steps)
        plain, moved = lg.Section.reach(section, start, x, rule)(positions, steps)
        assert_within(through, plain, rtol=1e-10)
        assert_within(pattern, moved, rtol=1e-10)
        free = []
        tangents = x.new_zeros(1, 7, *x.shape[1:])
        tangents[0, torch.arange(7), positions] = steps
        linear = section.linearize_between(start, x, rule)
        for head in range(section.heads):
            with patterns_held(section, head):
                free.append(linear(tangents)[0] - plain)
        assert_within(sum(free), moved, atol=1e-10)


def test_influence_is_that_of_the_inverse(case):
    _, subject, inputs = case
    graph = with_influence(prompt_graph(subject, inputs, classes=2, most_nodes=12))
    sizes = [len(layer) for layer in graph.layers]
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    adjacency = torch.zeros(starts[-1], starts[-1], dtype=torch.float64)
    for place, edges in enumerate(graph.edges.values()):
        rows = slice(starts[place + 1], starts[place + 2])
        adjacency[rows, starts[place] : starts[place + 1]] = shares(edges)
    eye = torch.eye(len(adjacency), dtype=torch.float64)
    paths = torch.linalg.inv(eye - adjacency)
    weights = torch.zeros(len(adjacency), dtype=torch.float64)
    weights[starts[-2] :] = graph.layers[-1].influence
    influence = torch.cat([layer.influence for layer in graph.layers])
    assert_within(influence, weights @ paths, atol=1e-12)


def test_what_is_kept_has_the_share_that_was_asked_for(case):
    run, subject, inputs = case
    graph = prompt_graph(subject, inputs, classes=2)
    whole = with_influence(graph)
    pruned = prune(graph, 0.6, 0.7)
    for layer, kept in zip(whole.layers[:-1], pruned.graph.layers[:-1], strict=True):
        share = float(kept.influence.sum() / layer.influence.sum())
        assert share >= 0.6 - 1e-9
        assert share - float(kept.influence[-1] / layer.influence.sum()) < 0.6
    everything = prune(graph, 1.0, 1.0)
    assert [len(layer) for layer in everything.graph.layers] == [len(x) for x in whole.layers]
    for edges, mask in zip(everything.graph.edges.values(), everything.kept.values(), strict=True):
        lost = edges.effects.abs()[~mask].sum()
        assert float(lost) <= 1e-9 * float(edges.effects.abs().sum())
    assert run.prompt(inputs, subject=subject, classes=2).graph().layers


def test_the_first_node_of_an_image_or_a_text_has_its_name(case):
    run, subject, inputs = case
    prompted = run.prompt(inputs, subject=subject, classes=2)
    ids = [name for layer in prompted.nodes for name in layer.ids]
    assert len(set(ids)) == len(ids)
    graph = prompted.graph()
    assert [layer.ids for layer in graph.layers]
    edges = prompted.edges()
    assert edges == sorted(edges, key=lambda edge: -edge.carried)
    assert sum(len(graph.kept_edges(pair).weight) for pair in graph.edges) <= len(edges)
    plan = expected(subject, inputs, "gradient", 10)
    assert [layer.name for layer in plan.layers] == list(subject.layers)
    assert plan.bytes > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"integration": "simpson"}, "Unknown integration"),
        ({"classes": 0}, "use at least 1"),
        ({"classes": [10**6]}, "numbers from 0 to"),
        ({"most_nodes": 0}, "use at least 1"),
        ({"nodes": 0.0}, "cannot be kept"),
        ({"edges": 1.5}, "cannot be kept"),
    ],
)
def test_mistakes_are_told(case, options, message):
    run, subject, inputs = case
    with pytest.raises(UsageError, match=message):
        run.prompt(inputs, subject=subject, **options)
    with pytest.raises(UsageError, match="one sample, not 0"):
        run.prompt(inputs[:0], subject=subject)


def test_heads_add_up_to_what_goes_through_patterns(case):
    run, subject, inputs = case
    prompted = run.prompt(inputs, subject=subject, classes=2)
    found = prompted.pattern_edges(5)
    assert bool(found) == any(edges.pattern is not None for edges in prompted.whole.edges.values())
    for edge, heads in found:
        assert sum(heads) == pytest.approx(edge.pattern, rel=1e-9, abs=1e-9 * abs(edge.effect))
