"""Memory against the budget: what commands take with several `--memory`, beside a loaded model.

`python benchmarks/memory.py` runs each command in a process of its own. Before it counts it has
imported all that the command needs, analysed another small network, loaded the model and run it.
From then on the kernel keeps the most that was resident at once, and what that is above the
beginning is held against the budget. Bases and sums, which are needed whole, are in it.

`python benchmarks/memory.py --model deep --layers 0:1,200:201 --folder models` makes a Llama-shaped
model of random half-precision weights, unless it is there, and analyses blocks of it, each in a
process of its own: what was resident at most in each stage, memory that is the process's own and
pages of files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import psutil
import torch

import libgraph as lg
from libgraph.degeneracy.measure import measure_degeneracy
from libgraph.progress import silent

MIB = 2**20

COMMANDS: Mapping[str, tuple[str, Mapping[str, object], Mapping[str, object]]] = {
    "analyze modular-addition": ("modular-addition", {}, {"limit": 1000, "ablate": False}),
    "analyze lm": (
        "lm",
        {"sequences": 8, "n_ctx": 32, "layers": "0:1", "cuts": "blocks"},
        {"ablate": False, "signs": 2},
    ),
    "analyze mlp, with ablation": (
        "mlp",
        {"blocks": 2, "width": 30, "layers": 2, "samples": 4000},
        {"limit": 1000},
    ),
    "compare mlp, lib and sparse": (
        "mlp",
        {"blocks": 2, "width": 20, "layers": 2, "samples": 4000},
        {"ablate": False, "basis": "lib", "beside": ("sparse",), "sparse_steps": 20},
    ),
    "degeneracy mlp, by probes": (
        "mlp",
        {"blocks": 2, "width": 60, "layers": 2, "samples": 2000},
        {"samples": 1000, "probes": 8, "steps": 20, "draws": 2},
    ),
}
"""What each is called, its backend and that one's options, and those of the analysis."""

BUDGETS = (16, 64, 256)
"""MiB."""


class Shape(NamedTuple):
    """Of a Llama: blocks, width, heads, heads of keys and values, units, tokens that it knows."""

    blocks: int
    width: int
    heads: int
    shared: int
    units: int
    vocabulary: int


SHAPES = {
    "135m": Shape(30, 576, 9, 3, 1536, 49152),
    "1.1b": Shape(22, 2048, 32, 4, 5632, 32000),
    "deep": Shape(400, 576, 9, 3, 1536, 49152),
}
"""135 million parameters, 1.1 thousand million, and the former with more blocks: 2.9 GB."""


def language_model(name: str, folder: Path) -> Path:
    """A folder with a model of random half-precision weights and token ids, a file a block."""
    from safetensors.torch import save_file

    place, shape = folder / name, SHAPES[name]
    if (place / "ids.npy").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    places: dict[str, str] = {}

    def save(file: str, sizes: Mapping[str, tuple[int, ...]]) -> None:
        tensors = {
            key: (0.02 * torch.randn(size, generator=generator) + (len(size) == 1)).half()
            for key, size in sizes.items()
        }
        save_file(tensors, place / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(tensors, file))

    d, kept = shape.width, shape.width // shape.heads * shape.shared
    whole = {"model.embed_tokens": (shape.vocabulary, d), "model.norm": (d,)}
    if name == "1.1b":
        whole["lm_head"] = shape.vocabulary, d
    save("ends.safetensors", {f"{key}.weight": size for key, size in whole.items()})
    for i in range(shape.blocks):
        sizes = {
            "input_layernorm": (d,), "post_attention_layernorm": (d,),
            "self_attn.q_proj": (d, d), "self_attn.k_proj": (kept, d),
            "self_attn.v_proj": (kept, d), "self_attn.o_proj": (d, d),
            "mlp.gate_proj": (shape.units, d), "mlp.up_proj": (shape.units, d),
            "mlp.down_proj": (d, shape.units),
        }  # fmt: skip
        named = {f"model.layers.{i}.{key}.weight": size for key, size in sizes.items()}
        save(f"{i}.safetensors", named)
    index = json.dumps({"metadata": {}, "weight_map": places})
    (place / "model.safetensors.index.json").write_text(index)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": d, "intermediate_size": shape.units, "num_hidden_layers": shape.blocks,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.shared,
        "vocab_size": shape.vocabulary, "tie_word_embeddings": "lm_head" not in whole,
        "dtype": "float16",
    }  # fmt: skip
    (place / "config.json").write_text(json.dumps(config))
    np.save(place / "ids.npy", np.random.default_rng(0).integers(0, 32000, 100 * 64))
    return place


class Resident:
    """Progress that keeps, of each stage, the most memory of a process's own and of files."""

    def __init__(self) -> None:
        self.stage = "loading"
        self.most: dict[str, tuple[int, int]] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Take note of a stage."""
        stage = stage.partition(",")[0]
        if stage != self.stage:
            self.tell()
        self.stage = stage

    def tell(self) -> None:
        """Print what the stage that runs has taken."""
        own, files = self.most.get(self.stage, (0, 0))
        click.echo(f"  {self.stage}: {own / MIB:.0f} MiB of its own, {files / MIB:.0f} of files")

    def _watch(self) -> None:
        while True:
            self.look()
            time.sleep(0.02)

    def look(self) -> None:
        """Take note of what is resident."""
        lines = Path("/proc/self/status").read_text().splitlines()
        found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
        now = int(found["RssAnon"]) * 1024, int(found["RssFile"]) * 1024
        self.most[self.stage] = max(self.most.get(self.stage, (0, 0)), now, key=sum)


def block_measured(place: Path, layers: str) -> None:
    """Analyse blocks of a model, and print what was resident in each stage."""
    resident, began = Resident(), time.process_time()
    text = str(place / "ids.npy")
    backend = lg.load_backend(
        "lm", model=str(place), text=text, layers=layers, n_ctx=64, sequences=6
    )
    with tempfile.TemporaryDirectory() as folder:
        lg.analyze(
            backend, out=Path(folder) / "r", progress=resident, limit=4, ablate=False,
            dtype="float32",
        )  # fmt: skip
    resident.tell()
    own, files = max(resident.most.values(), key=sum)
    click.echo(
        f"{place.name}, blocks {layers}: {(own + files) / MIB:.0f} MiB at most, {own / MIB:.0f} of "
        f"its own and {files / MIB:.0f} of files, {time.process_time() - began:.0f} s of processor"
    )


def measured(name: str, memory: int) -> None:
    """Run a command, and print by how many bytes the most that was resident is above the start."""
    torch.set_num_threads(1)
    backend_name, settings, options = COMMANDS[name]
    verb = measure_degeneracy if name.startswith("degeneracy") else lg.analyze
    # All that is imported and allocated at the first use is there before it counts.
    small = {"blocks": 2, "width": 3, "layers": 2, "samples": 40}
    with tempfile.TemporaryDirectory() as folder:
        verb(lg.load_backend("mlp", **small), out=Path(folder) / "r", progress=silent)
    backend = lg.load_backend(backend_name, **settings)
    batch = next(iter(backend.batches("train", 2)))
    with torch.no_grad():
        backend.network()(batch.inputs)
    Path("/proc/self/clear_refs").write_text("5")
    before = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory() as folder:
        verb(backend, out=Path(folder) / "r", progress=silent, memory=memory, **options)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    click.echo(peak - before)


def main() -> int:
    """Run all of them, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="TEXT", default="", help="commands whose name holds it")
    parser.add_argument("--model", choices=SHAPES, help="blocks of a large model in their place")
    parser.add_argument("--layers", default="0:1", help="blocks, and others after a comma")
    parser.add_argument("--folder", type=Path, default=Path("models"), help="where models are kept")
    parser.add_argument("--block", help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=2, metavar=("NAME", "BYTES"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.block:
        block_measured(chosen.folder, chosen.block)
        return 0
    if chosen.model:
        place = language_model(chosen.model, chosen.folder)
        for layers in chosen.layers.split(","):
            arguments = [sys.executable, __file__, "--block", layers, "--folder", str(place)]
            subprocess.run(arguments, check=True)  # noqa: S603
        return 0
    if chosen.child:
        measured(chosen.child[0], int(chosen.child[1]))
        return 0
    for name in COMMANDS:
        if chosen.only not in name:
            continue
        for budget in BUDGETS:
            arguments = [sys.executable, __file__, "--child", name, str(budget * MIB)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            found = subprocess.run(  # noqa: S603
                arguments, env=environment, capture_output=True, text=True, check=False
            )
            if found.returncode:
                click.echo(f"{name}, {budget} MiB: {found.stderr.strip().splitlines()[-1]}")
                continue
            taken = int(found.stdout.split()[-1]) / MIB
            click.echo(f"{name}, {budget} MiB: {taken:.0f} MiB above the start")
    return 0


if __name__ == "__main__":
    sys.exit(main())
