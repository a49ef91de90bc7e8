"""What is converted at a time: a block, a piece of a table, however many blocks a model has."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from libgraph.errors import NumericalError
from libgraph_backends.lm import blocks, memory
from libgraph_backends.lm.backend import LM
from libgraph_backends.lm.head import Head
from libgraph_backends.lm.options import LMOptions
from libgraph_backends.shared import state_dicts

WIDTH, UNITS, VOCABULARY = 16, 64, 40

BLOCK = 4 * (4 * WIDTH**2 + 3 * WIDTH * UNITS)
"""Bytes of a block in single precision."""


def llama(blocks):
    """In half precision, so that whatever computes has to convert."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=UNITS, num_hidden_layers=blocks,
        num_attention_heads=2, vocab_size=VOCABULARY, tie_word_embeddings=True, bos_token_id=0,
        attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().half()


class Live(TorchDispatchMode):
    """The most bytes of tensors that were made under it and were on a device at once."""

    def __init__(self, device="cpu"):
        super().__init__()
        self.device = device
        self.live, self.most = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in args if isinstance(t, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.device.type == self.device:
                storage = tensor.untyped_storage()
                # Views are no memory of their own.
                if storage._cdata not in given:
                    self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.live = {key: held for key, held in self.live.items() if not held[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.live.values()))
        return result


def most_at_once(blocks, layers, ids, **options):
    """Of cutting, comparing logits, running and scoring."""
    options = {"text": str(ids), "n_ctx": 4, "sequences": 4, "layers": layers, **options}
    backend = LM(LMOptions(**options), model=llama(blocks))
    (batch,) = backend.batches("train", 100)
    with torch.no_grad(), Live() as live:
        backend.score(backend.network()(batch.inputs), batch.targets)
    return live.most


@pytest.mark.parametrize("options", [{}, {"skip_first": True}])
def test_other_blocks_are_converted_one_at_a_time(options, ids):
    """Eight before and after take what two take."""
    few = most_at_once(3, "1:2", ids, **options)
    assert few > BLOCK
    assert abs(most_at_once(9, "4:5", ids, **options) - few) < BLOCK / 4


def test_other_blocks_are_on_a_device_one_at_a_time():
    """The model stays where it is; what a block has is moved there when its turn comes."""
    most = []
    for count in (2, 9):
        model = LM(LMOptions(), model=llama(count)).loaded.model
        outputs = torch.empty(2, 4, WIDTH + 1, device="meta")
        targets = torch.empty(2, 4, dtype=torch.int64, device="meta")
        with torch.no_grad(), Live("meta") as live:
            losses = Head(model, 0, normalised=False).losses(outputs, targets)
        assert losses.device.type == "meta"
        most.append(live.most)
    assert most[1] == most[0] < BLOCK


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 3 * WIDTH, 2**22])
def test_an_unembedding_is_converted_in_pieces(dtype, size, ids, monkeypatch):
    model = LM(LMOptions(text=str(ids), n_ctx=4), model=llama(1)).loaded.model
    weight, _ = model.unembedding()
    whole = model.final_norm().scale(weight[:, 0].double()).unsqueeze(1) * weight.double()
    monkeypatch.setattr(blocks, "PIECE", size)
    with Live() as live:
        found = blocks.unembedding(model, dtype)
    assert found.dtype == dtype
    assert_close(found[:-1], whole.to(dtype), rtol=0, atol=0)
    assert not found[-1].any()
    if size < 2**22:
        # The shift and what comes out, and a few pieces, of one token at least.
        rest = 8 * VOCABULARY + found.nbytes
        assert live.most < rest + 8 * 8 * (WIDTH + 1) * max(1, size // WIDTH)


@pytest.mark.parametrize("place", [0, 30, 63])
def test_numbers_are_looked_at_in_pieces(place, monkeypatch):
    monkeypatch.setattr(state_dicts, "CHECKED", 8)
    table = torch.zeros(16, 4)
    with Live() as live:
        state_dicts.check_finite("The table", table)
    assert live.most < table.nbytes
    table.view(-1)[place] = torch.inf
    with pytest.raises(NumericalError, match="The table holds"):
        state_dicts.check_finite("The table", table)


@pytest.mark.parametrize("value", [torch.tensor(1.0), torch.zeros(0, 3), torch.zeros(3, 0)])
def test_small_tensors_are_finite(value):
    state_dicts.check_finite("Nothing", value)


def test_pages_can_be_given_back_after_every_module():
    """Also where the library runs its own model: the whole file would be resident."""
    model, times = llama(5), []
    with torch.no_grad(), memory.in_single_precision(model, lambda: times.append(None)):
        model(torch.zeros(1, 3, dtype=torch.int64))
    with_parameters = [
        m for m in model.modules() if next(m.parameters(recurse=False), None) is not None
    ]
    assert len(times) == len(with_parameters)
    assert next(model.parameters()).dtype == torch.float16
