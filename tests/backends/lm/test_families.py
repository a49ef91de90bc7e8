"""Families of language models, each a small random one: sections compute what Hugging Face does."""

import pytest
import torch
import transformers
from helpers.language_models import FAMILIES, GROUPED, WIDE, random_model
from helpers.numbers import assert_close

from libgraph.errors import BackendError
from libgraph_backends.lm.backend import LM
from libgraph_backends.lm.libraries import quiet
from libgraph_backends.lm.options import LMOptions


@pytest.mark.parametrize("options", [{}, {"layers": "1:2", "skip_first": True, "cuts": "blocks"}])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_hugging_face(family, options, ids):
    model = random_model(family)
    backend = LM(LMOptions(text=str(ids), n_ctx=9, **options), model=model)
    inputs = next(backend.batches("test", 5)).inputs
    first = torch.zeros(len(inputs), int("skip_first" in options), dtype=torch.int64)
    with torch.no_grad():
        actual = backend.cut.head.logits(backend.network()(inputs))
        expected = model.double()(torch.cat([first, inputs], dim=1)).logits[:, first.shape[1] :]
    assert_close(actual, expected, 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_every_family(family, ids, tmp_path):
    """What was stored is what is read, whatever goes by another name in a file."""
    model = random_model(family)
    with quiet():
        model.save_pretrained(tmp_path)
    (batch,) = LM(LMOptions(text=str(ids), n_ctx=9), model=model).batches("test", 100)
    backend = LM(LMOptions(model=str(tmp_path), text=str(ids), n_ctx=9, check=True))
    with torch.no_grad():
        actual = backend.cut.head.logits(backend.network()(batch.inputs))
        expected = model.double()(batch.inputs).logits
    assert_close(actual, expected, 1e-5)
    backend.cut.check_logits(batch.inputs)


def test_a_model_that_is_given_stays_as_it_is(ids):
    model = random_model("Qwen2").half().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    backend = LM(LMOptions(text=str(ids), n_ctx=9, layers="1:2"), model=model)
    (batch,) = backend.batches("test", 100)
    scores = backend.score(backend.network()(batch.inputs), batch.targets)
    assert bool(scores.isfinite().all())
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("Mixtral", GROUPED, "a mixture of experts"),
        ("Bloom", {"hidden_size": 8, "n_layer": 1, "n_head": 2, "vocab_size": 30}, "'alibi'"),
        ("Apertus", WIDE, "the activation 'xielu'"),
    ],
)
def test_what_has_no_section_is_named(family, options, message, ids):
    config = getattr(transformers, f"{family}Config")(**options)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(BackendError, match=message):
        LM(LMOptions(text=str(ids), n_ctx=9), model=model).network()
