"""Compile RASP programs to transformers with tracr, and keep weights and true edges as fixtures.

    python -m pip install -c constraints.txt -e '.[tracr]'    # best in an environment of its own
    JAX_PLATFORMS=cpu python benchmarks/tracr/compile.py      # into libgraph/benchmark/programs
    JAX_PLATFORMS=cpu python benchmarks/tracr/compile.py reverse sort

Every program gives `NAME.safetensors`, weights in float32 as the compiler makes them, and
`NAME.json`: what the coordinates of the residual stream stand for, what each component reads and
writes, the edges that follow from the program, and inputs with the program's own outputs. Nothing
that reads them needs tracr or JAX; docs/tracr.md describes the format.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from recipes import RECIPES, Recipe, examples, plain
from safetensors.numpy import save_file
from tracr.compiler import (
    assemble,
    basis_inference,
    compiling,
    craft_graph_to_model,
    craft_model_to_transformer,
    expr_to_craft_graph,
    nodes,
    rasp_to_graph,
)
from tracr.craft import bases
from tracr.rasp import rasp

PROGRAMS = Path(__file__).parents[2] / "libgraph" / "benchmark" / "programs"
WIDTH = "_selector_width_attn_output"
"""What the compiler adds to a selector width's name for what its head writes."""


def idle(rows: Sequence[Any], columns: Sequence[Any], of: Callable[[Any, Any], Any]) -> bool:
    """Whether no value in the rows ever makes a difference, whatever the column."""
    return all(len({str(of(row, column)) for row in rows}) <= 1 for column in columns)


def quiet(call: Callable[..., Any]) -> Callable[..., Any]:
    """None where the function has no value, as the compiler takes it."""

    def result(*values: Any) -> Any:
        try:
            return call(*values)
        except ArithmeticError:
            return None

    return result


def parts_of(graph: Any, name: str) -> list[dict[str, Any]]:
    """What the heads and MLPs that compute a variable read and write, by the program.

    `idle` lists reads on whose values nothing depends, such as those of a selector that is true
    everywhere: in the program they are edges, and in the weights, but no value can tell.
    """
    node = graph.nodes[name]
    expr = node[nodes.EXPR]

    def values(of: Any) -> list[Any]:
        return sorted(graph.nodes[of.label][nodes.VALUE_SET], key=str)

    if isinstance(expr, (rasp.Aggregate, rasp.SelectorWidth)):
        selector = expr.selector
        keys, queries, selects = selector.keys, selector.queries, quiet(selector.predicate)
        reads = {"queries": queries.label, "keys": keys.label}
        moving = {}
        moving["queries"] = not idle(
            values(queries), values(keys), lambda query, key: selects(key, query)
        )
        moving["keys"] = not idle(values(keys), values(queries), selects)
        if isinstance(expr, rasp.SelectorWidth):
            head = {"kind": "attention", "writes": name + WIDTH}
            width = {"kind": "mlp", "writes": name, "reads": {"input": name + WIDTH}, "idle": []}
        else:
            head, width = {"kind": "attention", "writes": name}, None
            reads["values"], moving["values"] = expr.sop.label, True
        effective = {reads[role] for role in reads if moving[role]}
        head |= {"reads": reads, "idle": sorted(set(reads.values()) - effective)}
        return [head] if width is None else [head, width]
    if isinstance(expr, rasp.SequenceMap):
        first, second, function = expr.fst, expr.snd, quiet(expr.f)
        reads = {"first": first.label, "second": second.label}
        if first.label == second.label:
            unmoved = [first.label] if idle(values(first), [0], lambda x, _: function(x, x)) else []
        else:
            still = {
                first.label: idle(values(first), values(second), function),
                second.label: idle(values(second), values(first), lambda y, x: function(x, y)),
            }
            unmoved = [label for label, unused in still.items() if unused]
        return [{"kind": "mlp", "writes": name, "reads": reads, "idle": sorted(unmoved)}]
    function = quiet(expr.f)
    unmoved = idle(values(expr.inner), [0], lambda x, _: function(x))
    reads = {"input": expr.inner.label}
    return [
        {
            "kind": "mlp",
            "writes": name,
            "reads": reads,
            "idle": [expr.inner.label] if unmoved else [],
        }
    ]


def components_of(graph: Any, sources: Any, blocks: Sequence[Any]) -> list[dict[str, Any]]:
    """Attention layers and MLPs of the model in their order, with their heads and parts."""
    layers: dict[int, list[dict[str, Any]]] = {}
    allocation = craft_graph_to_model._allocate_modules_to_layers(graph, sources)
    for name, layer in allocation.items():
        for further, part in enumerate(parts_of(graph, name)):
            layers.setdefault(layer + further, []).append(part)
    components = []
    for (_, parts), block in zip(sorted(layers.items()), blocks, strict=True):
        kinds = {part.pop("kind") for part in parts}
        if len(kinds) > 1:
            raise RuntimeError(f"A layer has parts of two kinds: {parts}.")
        components.append({"kind": kinds.pop(), "parts": parts})
        check_against_block(components[-1], block)
    return components


def check_against_block(component: dict[str, Any], block: Any) -> None:
    """Raise if the compiler's own spaces do not read and write what the program says."""
    if component["kind"] == "attention":
        for head, part in zip(block.heads(), component["parts"], strict=True):
            found = {
                "queries": head.w_qk.left_space,
                "keys": head.w_qk.right_space,
                "values": head.w_ov.input_space,
            }
            for role, space in found.items():
                names = {direction.name for direction in space.basis} - {"one", "tokens"}
                expected = {part["reads"].get(role, "tokens")} - {"tokens"}
                if names != expected:
                    raise RuntimeError(f"{part} has {role} of {names}.")
        return
    names = {d.name for d in block.fst.input_space.basis} - {"one", "tokens"}
    expected = {name for part in component["parts"] for name in part["reads"].values()}
    if names != expected - {"tokens"}:
        raise RuntimeError(f"{component} reads {names}.")


def weights_of(assembled: Any, names: Sequence[str], components: Sequence[dict[str, Any]]) -> Any:
    """Weights by component, without heads and hidden units that only fill up."""
    tensors = {}
    for index, (module, component) in enumerate(zip(names, components, strict=True)):

        def part(name: str, module: str = module) -> tuple[np.ndarray, np.ndarray]:
            found = assembled.params[f"{module}/{name}"]
            return np.array(found["w"]), np.array(found["b"])

        found = {}
        if component["kind"] == "attention":
            size = assembled.model_config.key_size * len(component["parts"])
            for name in ("query", "key", "value"):
                weight, bias = part(name)
                found[name], found[f"{name}_bias"] = weight[:, :size], bias[:size]
            weight, found["output_bias"] = part("linear")
            found["output"] = weight[:size]
        else:
            (inner, hidden_bias), (outer, output_bias) = part("linear_1"), part("linear_2")
            used = (inner != 0).any(0) | (hidden_bias != 0)
            found = {"inner": inner[:, used], "inner_bias": hidden_bias[used]}
            found |= {"outer": outer[used], "outer_bias": output_bias}
        tensors |= {f"{index}.{name}": np.ascontiguousarray(w) for name, w in found.items()}
    tensors["tokens"] = np.array(assembled.params["token_embed"]["embeddings"])
    tensors["positions"] = np.array(assembled.params["pos_embed"]["embeddings"])
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def compile_program(name: str, recipe: Recipe) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights and description of one program."""
    program, vocabulary = recipe.make(), set(recipe.tokens)
    extracted = rasp_to_graph.extract_rasp_graph(program)
    graph, sources, sink = extracted.graph, extracted.sources, extracted.sink
    basis_inference.infer_bases(graph, sink, vocabulary, recipe.longest)
    bos = bases.BasisDirection(rasp.tokens.label, compiling.COMPILER_BOS)
    expr_to_craft_graph.add_craft_components_to_rasp_graph(graph, bos_dir=bos)
    craft = craft_graph_to_model.craft_graph_to_model(graph, sources)
    assembled = craft_model_to_transformer.craft_model_to_transformer(
        craft_model=craft,
        graph=graph,
        sink=sink,
        max_seq_len=recipe.longest,
        compiler_bos=compiling.COMPILER_BOS,
        compiler_pad=compiling.COMPILER_PAD,
    )
    components = components_of(graph, sources, craft.blocks)
    _, modules = assemble._get_model_config_and_module_names(craft)
    tensors = weights_of(assembled, modules, components)

    outputs = [str(direction) for direction in sink[nodes.OUTPUT_BASIS]]
    labels = assembled.residual_labels
    tensors["unembed"] = np.zeros((len(labels), len(outputs)), np.float32)
    for column, label in enumerate(outputs):
        tensors["unembed"][labels.index(label), column] = 1
    categorical = rasp.is_categorical(sink[nodes.EXPR])
    pairs = list(examples(recipe, program, random.Random(0)))  # noqa: S311
    if not categorical:
        pairs = [(tokens, [float(value) for value in values]) for tokens, values in pairs]
    check_outputs(name, assembled, pairs)
    tokens_by_row = sorted(assembled.input_encoder.encoding_map.items(), key=lambda item: item[1])
    names = sorted(
        {rasp.tokens.label, rasp.indices.label}
        | {part["writes"] for component in components for part in component["parts"]}
    )
    description = {
        "name": name,
        "says": recipe.says,
        "versions": {package: version(package) for package in ("tracr-pypi", "jax", "dm-haiku")},
        "longest": recipe.longest,
        "tokens": [plain(token) for token, _ in tokens_by_row],
        "beginning": compiling.COMPILER_BOS,
        "padding": compiling.COMPILER_PAD,
        "coordinates": labels,
        "variables": {
            variable: [i for i, label in enumerate(labels) if belongs(label, variable)]
            for variable in names
        },
        "output": {
            "variable": sink[nodes.ID],
            "values": [plain(d.value) for d in sink[nodes.OUTPUT_BASIS]] if categorical else None,
        },
        "components": components,
        "inputs": [tokens for tokens, _ in pairs],
        "outputs": [expected for _, expected in pairs],
    }
    return tensors, shortened(description)


def shortened(description: dict[str, Any]) -> dict[str, Any]:
    """The same without the numbers that make names unique, where names are so without them."""
    shorts: dict[str, list[str]] = {}
    for name in description["variables"]:
        stem, width = re.fullmatch(rf"(.*?)(?:_\d+)?({WIDTH})?", name).groups()
        shorts.setdefault(stem + (".width" if width else ""), []).append(name)
    # Those that remain are numbered as they come.
    short = {
        name: stem if len(names) == 1 else f"{stem}.{names.index(name) + 1}"
        for stem, names in shorts.items()
        for name in names
    }

    def coordinate(label: str) -> str:
        name, colon, value = label.partition(":")
        return short.get(name, name) + colon + value

    return description | {
        "coordinates": [coordinate(label) for label in description["coordinates"]],
        "variables": {short[name]: which for name, which in description["variables"].items()},
        "output": description["output"] | {"variable": short[description["output"]["variable"]]},
        "components": [
            component
            | {
                "parts": [
                    {
                        "writes": short[part["writes"]],
                        "reads": {role: short[name] for role, name in part["reads"].items()},
                        "idle": [short[name] for name in part["idle"]],
                    }
                    for part in component["parts"]
                ]
            }
            for component in description["components"]
        ],
    }


def belongs(label: str, variable: str) -> bool:
    """Whether a coordinate is one of a variable's: the compiler's own tokens are nobody's."""
    added = {f"tokens:{compiling.COMPILER_BOS}", f"tokens:{compiling.COMPILER_PAD}"}
    return label not in added and (label == variable or label.startswith(f"{variable}:"))


def check_outputs(name: str, assembled: Any, pairs: Sequence[tuple[Any, Any]]) -> None:
    """Raise if the compiled model does not compute the program."""
    forward = jax.jit(assembled.forward)
    for _, group in itertools.groupby(pairs, key=lambda pair: len(pair[0])):
        inputs, outputs = zip(*group, strict=True)
        encode = assembled.input_encoder.encode
        rows = np.array([encode([compiling.COMPILER_BOS, *tokens]) for tokens in inputs])
        found = forward(assembled.params, rows).unembedded_output[:, 1:].tolist()
        for tokens, row, expected in zip(inputs, found, outputs, strict=True):
            decoded = assembled.output_encoder.decode(row)
            for value, said in zip(expected, decoded, strict=True):
                close = abs(said - value) < 1e-3 if isinstance(said, float) else said == value
                if value is not None and not close:
                    raise RuntimeError(f"{name}({tokens}) is {expected}, the model says {decoded}.")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), default=PROGRAMS, show_default=True)
def main(names: tuple[str, ...], out: Path) -> None:
    """Compile NAMES, or all programs."""
    if unknown := sorted(set(names) - set(RECIPES)):
        raise click.UsageError(f"Unknown: {', '.join(unknown)}. There are {', '.join(RECIPES)}.")
    out.mkdir(exist_ok=True, parents=True)
    for name in names or RECIPES:
        tensors, description = compile_program(name, RECIPES[name])
        save_file(tensors, out / f"{name}.safetensors")
        text = json.dumps(description, separators=(",", ":"))
        (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        size = sum(path.stat().st_size for path in out.glob(f"{name}.*"))
        click.echo(
            f"{name:16} {len(description['coordinates']):4} coordinates "
            f"{len(description['components'])} components {len(description['inputs']):3} inputs "
            f"{size / 1024:6.0f} KiB"
        )


if __name__ == "__main__":
    main()
