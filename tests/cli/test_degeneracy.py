"""`libgraph degeneracy`: what it prints, what it writes, and what people get wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import fails
from rich.console import Console

from libgraph.degeneracy.figures import DegeneracyFigures
from libgraph_cli.tables.degeneracy import print_degeneracy

FEW = ("--samples", 12, "--draws", 2, "--limit", 30)


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory) -> Path:
    """A run on the tiny model of modular addition."""
    from libgraph.degeneracy.measure import measure_degeneracy
    from libgraph_backends.modular_addition.backend import ModularAddition

    path = tmp_path_factory.mktemp("degeneracy") / "run"
    measure_degeneracy(ModularAddition(weights=weights), out=path, samples=12, draws=2, limit=30)
    return path


@pytest.fixture
def found(finished):
    return json.loads((finished / "degeneracy.json").read_text())


def printed(found, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_degeneracy(console, DegeneracyFigures.model_validate(found))
    return console.file.getvalue()


def test_command(run, model, tmp_path):
    backend = ("modular-addition", "-o", f"weights={model}")
    code, out, err = run("degeneracy", *backend, "--out", "here", *FEW)
    assert code == 0, err
    found = json.loads((tmp_path / "here" / "degeneracy.json").read_text())
    totals = found["totals"]
    first = " ".join(out.split())
    assert first.startswith(f"modular-addition: {totals['free']} of {totals['parameters']} ")
    for title in ("Weights:", "Units that act as one", "Heads that act", "Effective parameters"):
        assert title in out
    assert out.strip().endswith("look at spectra.png and effective.png.")
    names = {each.name for each in (tmp_path / "here").iterdir()}
    assert names == {
        "degeneracy.json", "run.json", "graph.graphml",
        "spectra.png", "effective.png", "units.png", "heads.png",
    }  # fmt: skip
    code, out, err = run("degeneracy", *backend, "--out", "here", *FEW, "--json", "--force")
    assert code == 0, err
    assert json.loads(out) == json.loads((tmp_path / "here" / "degeneracy.json").read_text())
    again = json.loads(out)
    assert again["weights"] == found["weights"]
    fails(run("degeneracy", *backend, "--out", "here", *FEW), 2, "'here' exists", "--force")


def test_every_number_of_the_weights(found):
    lines = [line.split() for line in printed(found, 200).splitlines()]
    for name, each in found["weights"].items():
        words = name.replace("->", " → ").split()
        (line,) = [line for line in lines if line[: len(words)] == words]
        cells = line[len(words) :]
        assert cells[:3] == [str(each["rows"]), "×", str(each["columns"])]
        assert cells[3:6] == [str(each[k]) for k in ("input_rank", "gradient_rank", "free")]
        assert cells[6] == f"{each['free'] / each['parameters']:.0%}"
        moves = (each["moved_free"], each["moved_used"])
        assert cells[7:] == ["-" if move is None else f"{move:.0e}" for move in moves]


def test_groups_and_what_is_left_open(found):
    section = found["units"]["ln2.0->unembed"]
    section |= {"groups": [[1, 2, 3], [4, 5]], "exact_groups": [[1, 2]], "dead": [0], "new": 1}
    section |= {"swap_share": 0.0123, "swap_score": 0.5}
    found["modules"]["ratio"][0] = None
    out = printed(found, 200)
    assert "2 (2–3)" in out
    assert "1 (2)" in out
    assert "1.23%" in out
    assert "0.5000" in out
    # Not known how much of it is new: at most all of it.
    section["new"], section["extra"] = None, 17
    assert "≤ 17" in printed(found, 200)
    found["units"]["ln2.0->unembed"] = {"skipped": "it has no gates"}
    found["modules"] = {"basis": "lib", "skipped": "there are none"}
    out = printed(found, 200)
    assert "ln2.0->unembed: it has no gates" in out
    assert "Modules, LIB: there are none" in out
    assert "Units" not in out


def test_volume(found):
    behaviour = found["behaviour"]
    epsilons = behaviour["epsilons"][:9]
    effective = [1.26, None, *[2.0] * 7]
    volume = {"radius": 1.0, "epsilons": epsilons, "effective": effective}
    found["volume"] = {**volume, "errors": [0.11] * 9, "drift": [0.0] * 9}
    lines = [line.split() for line in printed(found, 200).splitlines()]
    first = next(i for i, line in enumerate(lines) if line == ["ε", "N_eff", "by", "volume"])
    assert lines[first + 1][-3:] == ["1.3", "±", "0.1"]
    assert lines[first + 2][-1] == "-"
    assert lines[first + 3][-3:] == ["2.0", "±", "0.1"]


def test_narrow_terminals(found):
    """Numbers of a trained model of full size, in 80 columns and without a cut."""
    for each in found["weights"].values():
        each |= {"rows": 129, "columns": 512, "parameters": 129 * 512}
        each |= {"input_rank": 115, "gradient_rank": 114, "free": 31336, "moved_free": 1e-16}
    section = found["units"]["ln2.0->unembed"]
    groups = [list(range(9)), *[[1, 2]] * 83]
    section |= {"units": 512, "dead": [1] * 12, "groups": groups, "exact_groups": groups[:15]}
    section |= {"swap_share": 0.0123, "swap_score": 0.5, "new": 1234}
    lines = printed(found, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    rows = [line for line in lines if "→" in line]
    assert len(rows) == len(found["weights"]) + len(found["units"]) + len(found["heads"])
    (row,) = [line for line in rows if "84 (2–9)" in line]
    for cell in ("512", "12", "15 (2–9)", "1234", "1.23%", "0.5000"):
        assert cell in row


def test_long_names_go_on_in_the_next_line(found):
    """Node layers of a language model: their names are broken, and no number is cut."""
    for part in ("weights", "units", "heads"):
        found[part] = {
            f"10.ln1.normalized->10.resid_mid {number}. {part}": each
            for number, each in enumerate(found[part].values())
        }

    def numbers(width: int) -> list[str]:
        text = printed(found, width)
        assert "…" not in text
        return sorted(word for word in text.split() if not any(map(str.isalpha, word)))

    assert max(map(len, printed(found, 80).splitlines())) <= 80
    assert numbers(80) == numbers(200)


def test_mistakes(run, model, tmp_path):
    backend = ("modular-addition", "-o", f"weights={model}")
    fails(run("degeneracy", "nothing"), 3, "no backend 'nothing'")
    fails(run("degeneracy", *backend, "--basis", "no.safetensors"), 3, "no.safetensors")
    fails(run("degeneracy", "modular-addition", "-o", "weights=no.pt"), 3, "no.pt")
    fails(run("degeneracy", *backend, "--synchrony", 2), 2, "synchrony")
    fails(run("degeneracy", *backend, "--synchrony", "much"), 2, "--synchrony")
    fails(run("degeneracy", *backend, "--truncate", "1e-3"), 2, "rel:TOL")
    fails(run("degeneracy", *backend, "--basis", "nothing"), 2, "nothing")
    fails(run("degeneracy", *backend, "--draws", 1), 2, "draws")
    fails(run("degeneracy", *backend, "--unknown"), 2, "--unknown")
    fails(run("degeneracy"), 2, "BACKEND")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").write_text("keep")
    result = run("degeneracy", *backend, "--out", "mine", "--force")
    fails(result, 2, "'mine' is not a run directory")
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["note"]
    assert not any((tmp_path / "runs").iterdir())


def test_help_loads_no_torch():
    code = (
        "import sys; from libgraph_cli.main import cli\n"
        "try: cli(['degeneracy', '--help'], prog_name='libgraph')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--synchrony" in done.stdout
    assert "--volume / --no-volume" in done.stdout
    assert done.stdout.strip().endswith("[]")
