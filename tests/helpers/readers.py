"""Every file that people give, as good ones and as what reads them.

`READERS` has them by name: each makes a folder with good files, one of which is to be damaged, and
reads what is in the folder.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import pickle
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from unittest import mock

import click
import numpy as np
import torch
from safetensors.torch import save, save_file

from helpers.hooked import configuration, random_parameters
from helpers.idx import idx, write_mnist
from helpers.limits import within_limits
from helpers.networks import random_network, toy_data
from helpers.numbers import normal, seeded
from helpers.runs import forget_checksums
from libgraph.accumulate.halfway import Halfway
from libgraph.analysis.analysis import analyze
from libgraph.backend.options import parse_options
from libgraph.bases.directions import directions
from libgraph.bases.method import Truncation
from libgraph.bases.statistics import node_statistics
from libgraph.dictionaries.registry import read_dictionaries
from libgraph.errors import LibgraphError
from libgraph.files.run_directory import hash_of
from libgraph.fit import Course, fit
from libgraph.pipeline.options import AnalysisOptions
from libgraph.progress import silent
from libgraph.report.graph_files import write_graph
from libgraph.report.reading import read_graph
from libgraph.runs.saved_run import open_run
from libgraph_backends.cifar.data import read_cifar10
from libgraph_backends.lm.checkpoints import hooked_model
from libgraph_backends.lm.documents import decoded, lines_of_json, read_content
from libgraph_backends.lm.text import sequences
from libgraph_backends.mlp import MLP
from libgraph_backends.mlp.data import as_numbers, read_rows
from libgraph_backends.mlp.mnist import read_mnist
from libgraph_backends.shared.layers import from_state_dict
from libgraph_backends.shared.state_dicts import read_checkpoint
from libgraph_cli.commands import analyze as command
from libgraph_cli.running import Request


@dataclass(frozen=True)
class Reader:
    """What reads a file.

    Args:
        make: writes the other files of the folder, and gives contents of the file that are good.
        name: of the file in its folder.
        read: what is read from the folder.
    """

    make: Callable[[Path], list[bytes]]
    name: str
    read: Callable[[Path], object]


LAYERS = {"0.weight": torch.ones(3, 4), "0.bias": torch.zeros(3), "2.weight": torch.ones(2, 3)}


def _options(folder: Path) -> object:
    def plan(_: str, options: dict[str, object], request: Request, **__: object) -> None:
        parse_options(AnalysisOptions, options, "the analysis")
        parse_options(MLP.Options, request.settings, "the backend 'mlp'")

    arguments = ["mlp", "--dry-run", "--config", str(folder / "c.toml")]
    with (
        mock.patch.object(command, "show_plan", plan),
        command.analyze.make_context("analyze", arguments) as context,
    ):
        return command.analyze.invoke(context)


TOML = b"""seed = 3
tolerance = [0.1, 0.5]
no-ablation = true
batch-size = 16
memory = "1GB"
out = "run"
[option]
blocks = 2
width = 3
sizes = [3, 4, 2]
"""


def _npy(array: np.ndarray) -> bytes:
    from io import BytesIO

    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def _token_ids(folder: Path) -> object:
    return sequences(str(folder / "t.npy"), None, length=8, most=None, vocabulary=60, column="text")


def _fitted(folder: Path) -> object:
    parameter = torch.ones(3, requires_grad=True)
    course = Course(4, folder, {"seed": 0}, evaluate_every=2)
    return fit(
        {"w": parameter},
        lambda step: (parameter * (step + 1)).square().sum(),
        course,
        optimizer=torch.optim.Adam([parameter]),
        evaluate=lambda: {"other": 1.0},
    )


def _checkpoint(folder: Path) -> list[bytes]:
    _fitted(folder)
    return [(folder / "checkpoint.safetensors").read_bytes()]


HALFWAY_PASS = f"halfway-0of1-{hash_of('x, no. 1')[:16]}.safetensors"


def _halfway(folder: Path) -> object:
    where = Halfway(folder, "bases", "abc")
    return where.begin("x"), where.begin("z"), where.value("y", lambda: [1.0])


def _of_halfway(folder: Path, name: str) -> list[bytes]:
    from libgraph.accumulate.exact import ExactSums

    where = Halfway(folder, "bases", "abc")
    sums = ExactSums()
    sums.add({"s": torch.ones(3)})
    where.note(where.begin("x")[0], sums, 2, ended=False)
    single = ExactSums()
    single.add({"s": torch.ones(())})
    where.note(where.begin("z")[0], single, 2, ended=True)
    where.value("y", lambda: [1.0])
    where.save()
    return [(folder / name).read_bytes()]


def _weights(folder: Path) -> object:
    (path,) = folder.glob("w.*")
    return from_state_dict(read_checkpoint(path), None, "relu")


def _torch(value: object, **options: bool) -> bytes:
    from io import BytesIO

    file = BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


NESTED = {"model": LAYERS, "optimizer": {"state": {0: {"m": torch.ones(3)}}, "param_groups": []}}


def _index(folder: Path) -> list[bytes]:
    save_file(LAYERS, folder / "a.safetensors")
    places = dict.fromkeys(LAYERS, "a.safetensors")
    return [json.dumps({"metadata": {"total_size": 1}, "weight_map": places}).encode()]


def _hooked(folder: Path) -> list[bytes]:
    config = configuration("plain")
    save_file(random_parameters(config), folder / "model.safetensors")
    return [json.dumps(configuration(kind)).encode() for kind in ("plain", "neo")]


def _hooked_blocks(folder: Path) -> object:
    model = hooked_model(folder)
    return None if model is None else [model.block(i) for i in range(model.shape.blocks)]


def _images(folder: Path) -> list[bytes]:
    write_mnist(folder)
    return [(folder / "t10k-images-idx3-ubyte").read_bytes(), idx(np.ones((10, 1, 1)))]


def _zipped(folder: Path) -> list[bytes]:
    write_mnist(folder, zipped=True)
    return [gzip.compress(idx(np.ones(shape))) for shape in ((10, 4, 3), (10, 300, 300))]


def _batch(folder: Path) -> list[bytes]:
    generator = np.random.default_rng(0)
    data = generator.integers(0, 256, (2, 3072), dtype=np.uint8)
    return [pickle.dumps({b"data": data, b"labels": [3, 7]}, protocol=p) for p in (2, 0, 4)]


def _binary(folder: Path) -> list[bytes]:
    return [bytes([3]) + bytes(3072), (bytes([9]) + bytes(3072)) * 2]


@cache
def _network() -> tuple[object, ...]:
    network = random_network(["relu", "linear"], [3, 4, 2], rotated=False)
    data = toy_data(network, normal(seeded(0), 12, 1, 3))
    return network, node_statistics(network, data), data


def _directions(folder: Path) -> object:
    network, statistics, data = _network()
    method = directions(folder / "d.safetensors")
    return method(network, statistics, data, Truncation(True, 1e-9), silent)


def _of_directions(_: Path) -> list[bytes]:
    eye, wide = torch.eye(3).double(), torch.ones(5, 3)
    return [
        save({"l0/decoder": eye}),
        save(
            {"l0/decoder": wide, "l0/encoder": wide.T.contiguous(), "l0/bias": torch.zeros(5)},
            {"activation": "relu", "l0/activation": "topk:2"},
        ),
    ]


def _saelens(folder: Path, name: str) -> list[bytes]:
    inside = folder / "x"
    inside.mkdir(exist_ok=True)
    tensors = {
        "W_enc": torch.ones(3, 5), "b_enc": torch.zeros(5), "W_dec": torch.ones(5, 3),
        "b_dec": torch.zeros(3), "threshold": torch.zeros(5),
    }  # fmt: skip
    config = {"d_in": 3, "d_sae": 5, "metadata": {"hook_name": "l0"}}
    kinds = ({"architecture": "jumprelu"}, {"architecture": "batchtopk", "k": 2})
    contents = [json.dumps(config | kind).encode() for kind in kinds]
    (inside / "cfg.json").write_bytes(contents[0])
    save_file(tensors, inside / "sae_weights.safetensors")
    return contents if name == "cfg.json" else [(inside / name).read_bytes()]


def _sparsify(folder: Path) -> list[bytes]:
    (folder / "x").mkdir(exist_ok=True)
    tensors = {
        "encoder.weight": torch.ones(5, 3), "encoder.bias": torch.zeros(5),
        "W_dec": torch.ones(5, 3), "b_dec": torch.zeros(3),
    }  # fmt: skip
    save_file(tensors, folder / "x" / "sae.safetensors")
    return [json.dumps({"d_in": 3, "k": 2, "activation": "topk", "num_latents": 5}).encode()]


def _learned(folder: Path) -> list[bytes]:
    (folder / "x").mkdir(exist_ok=True)
    trainer = {"dict_class": "AutoEncoderTopK", "layer": 0, "submodule_name": "l0"}
    (folder / "x" / "config.json").write_text(json.dumps({"trainer": trainer}))
    tensors = {
        "encoder.weight": torch.ones(5, 3), "encoder.bias": torch.zeros(5),
        "decoder.weight": torch.ones(3, 5), "b_dec": torch.zeros(3), "k": torch.tensor(2),
        "threshold": torch.tensor(0.1),
    }  # fmt: skip
    return [_torch(tensors)]


def _scope(folder: Path) -> list[bytes]:
    (folder / SCOPE).parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        "W_enc": np.ones((3, 5)), "b_enc": np.zeros(5), "W_dec": np.ones((5, 3)),
        "b_dec": np.zeros(3), "threshold": np.zeros(5),
    }  # fmt: skip
    contents = []
    for write in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        write(file, **arrays)
        contents.append(file.getvalue())
    return contents


@cache
def _finished() -> Path:
    """A run of a tiny network."""
    folder = Path(mkdtemp()) / "run"
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    backend = MLP(module=module, inputs=normal(seeded(0), 60, 3))
    analyze(backend, out=folder, basis="lib", progress=silent)
    return folder


def _run(folder: Path) -> object:
    run = open_run(folder)
    return (
        run.metrics, run.graph(), run.bases(), run.edges(), run.ablation(), run.all_examples(),
        run.lesions(), run.partition,
    )  # fmt: skip


def _of_run(name: str, *, checked: bool) -> Callable[[Path], list[bytes]]:
    def make(folder: Path) -> list[bytes]:
        shutil.copytree(_finished(), folder, dirs_exist_ok=True)
        if not checked:
            forget_checksums(folder)
        return [(folder / name).read_bytes()]

    return make


def _graph(name: str) -> Reader:
    def make(folder: Path) -> list[bytes]:
        run = open_run(_finished())
        write_graph(run.graph(), folder / "first.json")
        if name.endswith("json"):
            attribution = {
                "metadata": {"slug": "a", "prompt_tokens": ["x", "y"]},
                "nodes": [
                    {"node_id": f"{i}_1_0", "layer": str(i), "ctx_idx": 0, "feature_type": "x"}
                    for i in range(3)
                ],
                "links": [{"source": "0_1_0", "target": "1_1_0", "weight": 0.5}],
            }
            return [(folder / "first.json").read_bytes(), json.dumps(attribution).encode()]
        from libgraph.report.gexf import write_gexf
        from libgraph.report.graphml import write_graphml

        (write_gexf if name.endswith("gexf") else write_graphml)(run.graph(), folder / name)
        return [(folder / name).read_bytes()]

    return Reader(make, name, lambda folder: read_graph(folder / name))


def _lines(folder: Path) -> object:
    source = str(folder / "t.jsonl")
    return list(lines_of_json(decoded(read_content(source), source, "utf-8"), source, "text"))


def _given(*contents: bytes) -> Callable[[Path], list[bytes]]:
    return lambda folder: list(contents)


SCOPE = "x-res/layer_0/params.npz"

RUN_FILES = (
    "run.json", "metrics.json", "graph.json", "ablation.json", "bases.safetensors",
    "edges.safetensors", "examples.safetensors",
)  # fmt: skip

READERS = {
    "options": Reader(
        _given(TOML, b'out = "a"\n', b"seed = 1000\nforce = true\n"), "c.toml", _options
    ),
    "token ids": Reader(
        _given(*(_npy((np.arange(40) % 60).astype(t)) for t in ("<i8", ">u2", "u1", "<u8"))),
        "t.npy",
        _token_ids,
    ),
    "lines of text": Reader(
        _given(b'{"text": "a\\u00e9"}\n{"text": "b", "n": [1, {"x": null}]}\n'), "t.jsonl", _lines
    ),
    "training checkpoint": Reader(_checkpoint, "checkpoint.safetensors", _fitted),
    "half a stage": Reader(
        lambda folder: _of_halfway(folder, HALFWAY_PASS),
        HALFWAY_PASS,
        _halfway,
    ),
    "values of half a stage": Reader(
        lambda folder: _of_halfway(folder, "halfway-0of1.json"), "halfway-0of1.json", _halfway
    ),
    "safetensors": Reader(
        _given(save(LAYERS), save({"a.weight": torch.ones(2, 2).half()}, {"format": "pt"})),
        "w.safetensors",
        _weights,
    ),
    "checkpoint": Reader(_given(_torch(LAYERS), _torch(NESTED)), "w.pt", _weights),
    "old checkpoint": Reader(
        _given(*(_torch(v, _use_new_zipfile_serialization=False) for v in (LAYERS, NESTED))),
        "w.bin",
        _weights,
    ),
    "index of shards": Reader(_index, "w.index.json", _weights),
    "hooked configuration": Reader(_hooked, "config.json", _hooked_blocks),
    "rows": Reader(
        _given(_npy(np.ones((5, 3))), _npy(np.asfortranarray(np.ones((4, 2, 2), "f2")))),
        "r.npy",
        lambda folder: as_numbers(read_rows(folder / "r.npy")),
    ),
    "images": Reader(_images, "t10k-images-idx3-ubyte", lambda f: read_mnist(f, "test")),
    "zipped images": Reader(_zipped, "t10k-images-idx3-ubyte.gz", lambda f: read_mnist(f, "test")),
    "batch": Reader(_batch, "test_batch", lambda f: read_cifar10(f, "test")),
    "binary batch": Reader(_binary, "test_batch.bin", lambda f: read_cifar10(f, "test")),
    "directions": Reader(_of_directions, "d.safetensors", _directions),
    "SAELens": Reader(lambda f: _saelens(f, "cfg.json"), "x/cfg.json", read_dictionaries),
    "weights of SAELens": Reader(
        lambda f: _saelens(f, "sae_weights.safetensors"),
        "x/sae_weights.safetensors",
        read_dictionaries,
    ),
    "sparsify": Reader(_sparsify, "x/cfg.json", read_dictionaries),
    "Gemma Scope": Reader(_scope, SCOPE, read_dictionaries),
    "dictionary_learning": Reader(_learned, "x/ae.pt", read_dictionaries),
    **{f"{name} of a run": Reader(_of_run(name, checked=True), name, _run) for name in RUN_FILES},
    **{f"old {name}": Reader(_of_run(name, checked=False), name, _run) for name in RUN_FILES},
    **{f"graph {end}": _graph(f"g.{end}") for end in ("json", "graphml", "gexf")},
}


def prepared(reader: Reader, folder: Path) -> list[bytes]:
    """Contents of the reader's file that are good, once it has read each of them in a folder."""
    contents = reader.make(folder)
    # Twice: what is imported and kept at the first time does not count as memory of a file.
    for content in contents * 2:
        (folder / reader.name).write_bytes(content)
        reader.read(folder)
    return contents


def attempt(reader: Reader, folder: Path, content: bytes) -> None:
    """Read a damaged file; whatever is no sentence of ours passes through.

    Raises:
        TooMuch: if it takes too long, or too much memory.
    """
    (folder / reader.name).write_bytes(content)
    log = logging.getLogger("libgraph")
    with (
        within_limits(len(content)),
        warnings.catch_warnings(action="ignore"),
        mock.patch.object(log, "disabled", True),
        # Of the command line these make sentences.
        suppress(LibgraphError, click.ClickException, click.exceptions.Exit),
    ):
        reader.read(folder)
