"""What a command that fails has to say."""


def fails(result: tuple[int, str, str], code: int, *parts: str) -> None:
    """The exit code, and one sentence with these parts in it; no traceback."""
    found, _, err = result
    assert found == code, err
    text = " ".join(err.split())
    assert "Traceback" not in text
    for part in parts:
        assert part in text


STAGE_FILES = {
    "bases.safetensors", "edges.safetensors", "ablation.json", "examples.safetensors",
}  # fmt: skip


RUN_FILES = STAGE_FILES | {
    "metrics.json", "run.json", "graph.graphml", "graph.json", "graph.png",
    "modules.png", "report.html",
}  # fmt: skip
