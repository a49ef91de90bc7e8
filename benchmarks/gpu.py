"""What a GPU brings: the same sums on a device and on the host, in three precisions.

    python benchmarks/gpu.py --json gpu.json              # all of it, several minutes
    python benchmarks/gpu.py --device cpu --small         # whether the script runs, without a GPU

In this order: one block of GPT-2's width on the host and on the device, where eigenproblems are
solved sooner, the size of chunks, then bases and interactions of whole language models with random
weights. Errors are against double precision; those of interactions in the same bases.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from bench import GRADIENT, Sequences, block_inputs, transformer_block
from rich.console import Console
from rich.table import Table

import libgraph as lg
from libgraph.accumulate.memory import batch_size, memory_budget
from libgraph.backend import own_state
from libgraph.backend.data import Data
from libgraph.bases.method import Truncation
from libgraph.bases.methods import METHODS
from libgraph.bases.statistics import node_statistics
from libgraph.edges.interactions import interactions
from libgraph.progress import silent
from libgraph.sections import chunks

TRUNCATION = Truncation.parse("rel:1e-6")
PRECISIONS = {
    "float64": (torch.float64, False),
    "float32": (torch.float32, False),
    "float32, TF32": (torch.float32, True),
}
Row = dict[str, Any]


@contextmanager
def products_in(tf32: bool) -> Iterator[None]:
    """Products of single precision rounded to TF32, or not."""
    place = torch.backends.cuda.matmul
    before = place.fp32_precision
    place.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        place.fp32_precision = before


def seconds(compute: Callable[[], Any], device: str, runs: int = 1) -> tuple[Any, float]:
    """The last result and the median time, all work on the device included."""

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    times = []
    for _ in range(runs):
        wait()
        began = time.perf_counter()
        result = compute()
        wait()
        times.append(time.perf_counter() - began)
    return result, statistics.median(times)


def bases_and_edges(network: lg.Network, data: Data, bases: Any = None) -> tuple[Any, Any, Row]:
    """LIB's bases, interactions in these (or in those given) and the seconds of both."""
    device = str(data.device)

    def find_bases() -> Any:
        return METHODS["lib"](network, node_statistics(network, data), data, TRUNCATION, silent)

    found, of_bases = seconds(find_bases, device)
    given = {"lib": found if bases is None else bases}
    edges, of_edges = seconds(lambda: interactions(network, given, data, GRADIENT), device)
    return found, edges["lib"], {"bases": of_bases, "edges": of_edges}


def block(device: str, small: bool) -> Row:
    """One block of GPT-2's width, 4 x 256 positions, on the host and on the device."""
    width, heads, positions = (64, 4, 16) if small else (768, 12, 256)
    sections, x = transformer_block(width, heads), block_inputs(4, positions, width)
    row: Row = {}
    results = []
    for place in ("cpu", device):
        backend = Sequences(sections, x)
        network = backend.network().to(device=torch.device(place), dtype=torch.float64)
        data = Data(backend, "train", batch_size=4, device=place)
        bases_and_edges(network, data)
        results.append(bases_and_edges(network, data))
        row |= {f"{what}, {place}": time for what, time in results[-1][2].items()}
    (ours, edges, _), (theirs, others, _) = results
    row["Λ, relative"] = max(apart(ours[name].importance, theirs[name].importance) for name in ours)
    squares = [
        (float(edges[pair].square().sum()), float(others[pair].square().sum())) for pair in edges
    ]
    row["‖edges‖², relative"] = max(abs(a - b) / a for a, b in squares)
    return row


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over the largest entry, of those that both have."""
    a, b = a.double().cpu(), b.double().cpu()
    if a.ndim == 1:
        a, b = a[: len(b)], b[: len(a)]
    return float((a - b).abs().max() / a.abs().max())


def eigenproblems(device: str, small: bool) -> list[Row]:
    """Symmetric ones in double precision: on the device, and on the host with both ways there."""
    rows = []
    for size in (8, 16) if small else (32, 64, 128, 256, 384, 512, 768, 1024, 1537, 2305, 3073):
        root = torch.randn(size, size, dtype=torch.float64)
        gram = (root @ root.T).to(device)

        def there(gram: torch.Tensor = gram) -> Any:
            return torch.linalg.eigh(gram)

        def here(gram: torch.Tensor = gram) -> Any:
            return [part.to(device) for part in torch.linalg.eigh(gram.cpu())]

        runs = 7 if size < 600 else 3
        row = {"size": size}
        for name, compute in (("device", there), ("host", here)):
            compute()
            row[name] = seconds(compute, device, runs)[1]
        rows.append(row)
    return rows


def chunk_sizes(device: str, small: bool) -> list[Row]:
    """The block again, with intermediate results cut to several sizes."""
    width, heads, positions = (64, 4, 16) if small else (768, 12, 256)
    backend = Sequences(transformer_block(width, heads), block_inputs(16, positions, width))
    network = backend.network().to(device=torch.device(device), dtype=torch.float64)
    data = Data(backend, "train", batch_size=16, device=device)
    rows, before = [], chunks.CLOSED_FORMS
    bases_and_edges(network, data)
    for size in (16, 64, 256, 1024):
        chunks.CLOSED_FORMS = before._replace(accelerator=size * 2**20)
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        row = bases_and_edges(network, data)[2]
        peak = 0 if device == "cpu" else torch.cuda.max_memory_allocated()
        rows.append({"MiB": size, **row, "peak GiB": peak / 2**30})
    chunks.CLOSED_FORMS = before
    return rows


def language_model(kind: str, folder: Path, small: bool) -> Path:
    """A folder with random weights in the shape of a known model, as the hub has them."""
    import transformers

    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            **({"n_layer": 1, "n_embd": 32, "n_head": 2} if small else {})
        )
        model = transformers.GPT2LMHeadModel(config)
    else:
        shape = {
            "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
            "tie_word_embeddings": True,
        }  # fmt: skip
        if small:
            shape |= {"hidden_size": 36, "intermediate_size": 48, "num_hidden_layers": 1}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    place = folder / kind
    model.save_pretrained(place)
    np.save(place / "ids.npy", np.random.default_rng(0).integers(0, 40000, 100 * 256))
    return place


def whole_model(kind: str, device: str, small: bool, note: Callable[[Row], None]) -> None:
    """Bases and interactions of all node layers on 64 x 256 tokens, in each precision."""
    with tempfile.TemporaryDirectory() as folder:
        place = language_model(kind, Path(folder), small)
        sequences, positions = (4, 16) if small else (64, 256)
        began = time.perf_counter()
        backend = lg.load_backend(
            "lm", model=str(place), text=str(place / "ids.npy"), n_ctx=positions,
            sequences=-(-sequences * 4 // 3) + 1,
        )  # fmt: skip
        network = backend.network()
        loading = time.perf_counter() - began
        reference: Any = None
        for name, (dtype, tf32) in PRECISIONS.items():
            cast = network.to(device=torch.device(device), dtype=dtype)
            first = next(iter(Data(backend, "train", 1, 1, device, dtype))).inputs
            memory = memory_budget(device)
            size = batch_size(cast, first, memory)
            data = Data(backend, "train", size, sequences, device, dtype, memory)
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            with torch.no_grad(), products_in(tf32):
                bases, edges, row = bases_and_edges(cast, data, reference and reference[0])
            reference = reference or (bases, edges)
            peak = 0 if device == "cpu" else torch.cuda.max_memory_allocated()
            kept = sum(len(basis) for basis in bases.values())
            note({
                "model": kind, "loading": loading, "precision": name, **row,
                "batch": size, "peak GiB": peak / 2**30, "features": kept,
                "Λ": max(apart(reference[0][i].importance, b.importance) for i, b in bases.items()),
                "E": max(apart(reference[1][pair], edge) for pair, edge in edges.items()),
            })  # fmt: skip


def machine(device: str) -> Row:
    """What the figures were measured on, and the rates of its products."""
    row: Row = {
        "torch": torch.__version__, "host": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(), "cores": os.cpu_count(),
    }  # fmt: skip
    if device != "cpu":
        row["device"] = torch.cuda.get_device_name()
    for place in dict.fromkeys(("cpu", device)):
        for name, (dtype, tf32) in PRECISIONS.items():
            if tf32 and place == "cpu":
                continue
            n = 2048 if place == "cpu" else 8192
            a = torch.randn(n, n, dtype=dtype, device=place)
            with products_in(tf32):
                seconds(lambda a=a: a @ a, place)
                row[f"TFLOP/s {place} {name}"] = (
                    2e-12 * n**3 / seconds(lambda a=a: a @ a, place, 5)[1]
                )
    return row


@click.command()
@click.option("--device", default="cuda")
@click.option("--small", is_flag=True, help="tiny shapes: whether the script runs")
@click.option("--json", "target", type=click.Path(path_type=Path), help="where figures go")
@click.option("--parts", default="machine,block,eigenproblems,chunks,gpt2,llama")
def main(device: str, small: bool, target: Path | None, parts: str) -> None:
    """Measure, print each figure when it is there, and keep all of them in a JSON file."""
    console = Console(width=140)
    found: dict[str, list[Row]] = {}

    def note(part: str, rows: Row | list[Row]) -> None:
        rows = rows if isinstance(rows, list) else [rows]
        found.setdefault(part, []).extend(rows)
        if target is not None:
            target.write_text(json.dumps(found, indent=1, ensure_ascii=False))
        table = Table(*rows[0], title=part)
        for row in rows:
            table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
        console.print(table)

    measures = {
        "machine": lambda: note("machine", machine(device)),
        "block": lambda: note("block", block(device, small)),
        "eigenproblems": lambda: note("eigenproblems", eigenproblems(device, small)),
        "chunks": lambda: note("chunks", chunk_sizes(device, small)),
        "gpt2": lambda: whole_model("gpt2", device, small, lambda row: note("models", row)),
        "llama": lambda: whole_model("llama", device, small, lambda row: note("models", row)),
    }
    with own_state():
        for part in parts.split(","):
            measures[part]()


if __name__ == "__main__":
    main()
