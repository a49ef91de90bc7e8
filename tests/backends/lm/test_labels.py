"""Labels of features of language models: found again from the features, tokens and directions."""

import pytest
import torch
from helpers.language_models import language_model
from helpers.numbers import normal, seeded

import libgraph as lg
from libgraph.network.basis import Basis
from libgraph_backends.lm.labels import (
    CONTEXT,
    EXAMPLES,
    TokenResponses,
    Written,
    logit_effects,
    position_means,
    token_labels,
)
from libgraph_backends.lm.text import token_text


@pytest.fixture(scope="module")
def analysed(bridges, text):
    """A backend, and a run of it whose labels are of all rows."""
    backend = language_model(bridges["gpt2-untied"], text, cuts="sublayers")
    return backend, lg.analyze(backend, ablate=False, limit=20)


def test_features_are_labelled(analysed):
    backend, run = analysed
    labels = run.graph().layer("0.resid_mid").labels
    assert labels[0].text == "constant"
    # What drives a feature most, found again from the feature itself.
    basis, network = run.bases("lib")["0.resid_mid"], backend.network()
    rows = torch.cat([batch.inputs for batch in backend.batches("train", 100)])
    index = [layer.name for layer in network.node_layers].index("0.resid_mid")
    x = network.activations_at(index, rows)
    for j in (1, 2, 3):
        f = (x @ basis.encoder)[..., j].flatten()
        for sign, values in (("+", f), ("−", -f)):
            token = int(rows.flatten()[int(values.argmax())])
            (part,) = (part for part in labels[j].text.split(" | ") if part.startswith(sign))
            # Repeated text gives ties: the context of one of the largest is shown.
            assert f"[{token_text(backend.loaded.tokenizer, token)}]" in part


def test_the_variance_of_a_norm_is_called_that(bridges, text):
    backend = language_model(bridges["gpt2"], text, layers="0:1", sequences=20)
    run = lg.analyze(backend, ablate=False)
    assert run.graph().layer("0.ln1.scale").labels[1].text.startswith("variance")


def test_effects_on_logits(analysed, bridges):
    backend, run = analysed
    bridge = bridges["gpt2-untied"]
    label = run.graph().layer("1.resid_post").labels[3]
    decoder = run.bases("lib")["1.resid_post"].decoder[3, :-1]
    centred = decoder - decoder.mean()
    logits = (centred * bridge.ln_final.weight.double()) @ bridge.W_U.double()
    most, least = (
        token_text(backend.loaded.tokenizer, int(token)).replace(" ", "␣")
        for token in (logits.argmax(), logits.argmin())
    )
    up, down = label.text.split("logits + ")[1].split(", − ")
    assert (up.split(" ")[0], down.split(" ")[0]) == (most, least)


@pytest.mark.parametrize("centred", [True, False])
def test_effects_in_parts_are_those_of_the_whole(centred, monkeypatch):
    decoder, unembed = normal(seeded(0), 7, 9), normal(seeded(1), 4, 11).float()
    stream = decoder[:, 4:8].float()
    stream = stream - centred * stream.mean(1, keepdim=True)
    expected = [(sign * stream @ unembed).argsort(1, descending=True)[:, :3] for sign in (1, -1)]
    for at_once in (2**25, 22):
        monkeypatch.setattr("libgraph_backends.lm.labels.LARGEST_LOGITS", at_once)
        up, down = logit_effects(decoder, unembed=unembed, centred=centred)
        assert torch.equal(up, expected[0])
        assert torch.equal(down, expected[1])


def responses_to(f, tokens, parts=2):
    """What is summed over features `(n, T, k)`, in parts."""
    size = -(-len(f) // parts)
    (means,) = position_means(tokens.split(size), features_of(f, size)).values()
    responses = TokenResponses.around(means, int(tokens.max()) + 1)
    for first in range(0, len(f), size):
        responses.add(f[first : first + size], tokens[first : first + size], first)
    return responses


def features_of(f, size):
    """Encodes the batches that follow each other."""
    parts = iter(f.split(size))
    return lambda tokens: {"layer": next(parts)}


def test_positional_features_are_recognised():
    generator = seeded(0)
    position, noise = normal(generator, 7), normal(generator, 50, 7)
    f = torch.stack([position.expand(50, 7), noise, position + noise], dim=-1)
    f = torch.cat([f, torch.full_like(f[..., :1], 3.0)], dim=-1)
    explained, tokens = responses_to(f, torch.zeros(50, 7, dtype=torch.int64)).shares(50)
    alone, none, both, constant = explained.tolist()
    assert constant == tokens[0, 3] == 0
    assert alone == pytest.approx(1)
    assert none < 0.02
    share = float(position.var(correction=0) / (position.var(correction=0) + noise.var()))
    assert both == pytest.approx(share, abs=0.05)
    # What is left is within positions, here of the only token.
    torch.testing.assert_close((explained + tokens.sum(0))[:3], torch.ones(3).double())


def test_a_token_carries_its_share_of_what_is_within_positions():
    tokens = torch.tensor([[0, 1, 2], [1, 1, 0]])
    f = torch.tensor([[[1.0], [2.0], [0.0]], [[2.0], [-3.0], [1.0]]])
    responses = responses_to(f, tokens)
    assert responses.means[:, 0].tolist() == [1.5, -0.5, 0.5]
    # Around these: -½, 2½, -½ and ½, -2½, ½.
    assert responses.by_token[:, 0].tolist() == [0.5, 12.75, 0.25]
    assert EXAMPLES == 3
    assert responses.extremes[0, :, 0].tolist() == [2, 2, 1]
    assert responses.extremes[1, 0, 0] == 3
    assert responses.places[1, 0, 0] == 4
    explained, share = responses.shares(2)
    assert float(explained[0] + share.sum()) == pytest.approx(1)
    assert (share[:, 0] / share.sum()).tolist() == pytest.approx(
        [0.5 / 13.5, 12.75 / 13.5, 0.25 / 13.5]
    )


def test_contexts_are_what_is_before_a_token():
    """Put together token by token; the space before the first one is no context."""
    generator = seeded(0)
    lengths = torch.randint(0, 6, (30,), generator=generator).tolist()
    names = [chr(97 + i) * length for i, length in enumerate(lengths)]
    spaces = [" " * one for one in torch.randint(0, 2, (30,), generator=generator).tolist()]
    spaces[0] = " "
    written = Written.of(spaces, names)
    for position, name in enumerate(names):
        before = ""
        for space, earlier in zip(spaces[:position], names[:position], strict=True):
            before += space + earlier
        before = (before + spaces[position])[1:][-CONTEXT:]
        assert written.at(position) == f"{before}[{name}]"


def test_labels_are_those_of_one_feature_at_a_time():
    """Several features and node layers at once, against each of them alone."""
    generator = seeded(1)
    tokens = torch.randint(0, 5, (12, 6), generator=generator)
    features = {name: normal(generator, 12, 6, 4) for name in ("first", "second")}
    directions = {name: normal(generator, 4, 3) for name in features}

    def labels(chosen, part):
        def encode(rows):
            (first,) = (i for i in range(12) if torch.equal(tokens[i : i + len(rows)], rows))
            here = slice(first, first + len(rows))
            return {name: features[name][here, :, part] for name in chosen}

        bases = {
            name: Basis(torch.eye(4)[:, part], directions[name][part], torch.ones(4)[part], 0)
            for name in chosen
        }
        return token_labels(
            tokens,
            encode,
            bases,
            name="abcde".__getitem__,
            is_word=lambda token: token > 2,
            effect=lambda decoder: (decoder.argsort(1), decoder.argsort(1, descending=True)),
            batch_size=5,
        )

    together = labels(features, slice(0, 4))
    for name, found in together.items():
        assert len({label.text for label in found}) == 4
        for j in range(4):
            assert labels([name], slice(j, j + 1))[name] == [found[j]]


def test_the_word_position_is_a_token_too():
    tokens = torch.arange(2).repeat(20, 3)
    f = normal(seeded(0), 20, 6, 1) * (tokens == 1)[..., None] + torch.arange(6.0)[:, None]
    eye = Basis(torch.eye(1), torch.eye(1), torch.ones(1), 0)
    (label,) = token_labels(
        tokens,
        lambda rows: {"layer": f[: len(rows)]},
        {"layer": eye},
        name=["a", "position"].__getitem__,
        is_word=lambda token: False,
        effect=lambda decoder: (torch.zeros(1, 3).long(), torch.zeros(1, 3).long()),
        batch_size=20,
    )["layer"]
    assert set(label.concepts) == {"position", "'position'", "a"}
    first, second, *_ = label.text.split(" | ")
    assert first.endswith("% position")
    assert second.endswith("% 'position'")
