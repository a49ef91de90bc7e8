"""Options from TOML files and from the environment: read as flags are, and as strictly."""

from __future__ import annotations

import json

import pytest
from helpers.commands import fails

from libgraph_cli.main import cli


def parsed(run_arguments: list[str]) -> dict[str, object]:
    """What `analyze` is called with."""
    context = cli.commands["analyze"].make_context("analyze", run_arguments)
    return context.params


@pytest.fixture
def config(tmp_path):
    def write(text: str | bytes):
        path = tmp_path / "c.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("seed = 1.5", "'1.5' is not a valid integer"),
        ("seed = inf", "'inf' is not a valid integer"),
        ("seed = true", "'true' is not a valid integer"),
        ("force = 7", "'7' is not a valid boolean"),
        ("limit = 2024-01-01", "'limit' to a date or time"),
        ("out = 2024-01-01T00:00:00Z", "'out' to a date or time"),
        ("basis = 07:32:00", "'basis' to a date or time"),
        ("[option]\nweights = 2024-01-01", "'weights' to a date or time"),
        ("[option]\nfrac_train = [[1]]", "not to a list of lists"),
        ("[option.frac_train]\na = 1", "not to a table"),
        ('[option]\nweights = ["a,b"]', "with a comma"),
        ("tolerance = [[1]]", "not to a list of lists"),
        ('out = "a\\u0000b"', "NUL"),
        ("seed = " + "[" * 5000 + "]" * 5000, "go too deep"),
        ("seed = " + "9" * 5000, "is not TOML"),
        ("seed = 0x" + "f" * 5000, "too many digits"),
        ("seed = \xe9".encode("latin-1"), "is not TOML"),
        ('"\\u001b[2J" = 1', "\\x1b[2J"),
    ],
)
def test_what_no_flag_would_take(run, config, text, part):
    result = run("analyze", "mlp", "--config", config(text))
    fails(result, 2, part)
    assert "\x1b" not in result[2]


def test_values_are_those_of_flags(config):
    options = parsed(
        ["mlp", "--config", str(config(
            '\ufeffseed = 3\nforce = 1\nout = 1\ntolerance = [0.5, 1]\nresolution = 2\njson = true'
            '\n[option]\nsizes = [64, 32, 10]\nstrengths = [1.0, 0.5]\nrelu = true\nblocks = 2\n'
        ))]
    )  # fmt: skip
    assert options["seed"] == 3
    assert options["force"] is True
    assert str(options["out"]) == "1"
    assert options["tolerance"] == (0.5, 1.0)
    assert options["resolution"] == 2.0
    assert options["as_json"] is True
    assert options["option"] == {
        "sizes": "64,32,10", "strengths": "1.0,0.5", "relu": "true", "blocks": "2"
    }  # fmt: skip


def test_lists_reach_a_backend(run, config):
    path = config("[option]\nstrengths = [1.0, 0.5]\n")
    code, out, err = run("analyze", "mlp", "--dry-run", "--json", "--config", path)
    assert code == 0, err
    assert json.loads(out)["layers"]


def test_one_option_in_each_line_of_a_variable(monkeypatch):
    monkeypatch.setenv("ANALYZE_OPTION", "text=a b/t=x.txt\r\n\nn_ctx=8\n")
    context = cli.commands["analyze"].make_context("analyze", ["lm"], auto_envvar_prefix="ANALYZE")
    assert context.params["option"] == {"text": "a b/t=x.txt", "n_ctx": "8"}
    monkeypatch.setenv("ANALYZE_TOLERANCE", "0.5 0.1")
    context = cli.commands["analyze"].make_context("analyze", ["lm"], auto_envvar_prefix="ANALYZE")
    assert len(context.params["tolerance"]) == 2


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("# first\nsede = 1\n", "line 2, sets 'sede'"),
        ("\nseed = 'x'\n", "(line 2 of 'c.toml')"),
        ("seed = 1\nresolution = -3\n", "(line 2 of 'c.toml')"),
        ("seed = 1\n[option]\nmodulus = 'x'\n", "(line 3 of 'c.toml')"),
        ("option.modulus = 'x'\n", "(line 1 of 'c.toml')"),
        ("[option]\nnonesuch = 1\n", "(line 2 of 'c.toml')"),
        ("seed = 2001-01-01\n", "line 1, sets 'seed'"),
        ("seed = 1\nseed 2\n", "line 2"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(run, tmp_path, text, place):
    (tmp_path / "c.toml").write_text(text)
    result = run("analyze", "modular-addition", "--config", "c.toml", "--dry-run")
    assert result[0] == 2
    assert place in " ".join(result[2].split())


def test_a_flag_that_wins_is_not_told_by_the_line_of_the_file(run, tmp_path):
    (tmp_path / "c.toml").write_text("limit = 5\n")
    result = run("analyze", "modular-addition", "--config", "c.toml", "--limit", "-3")
    assert result[0] == 2
    assert "c.toml" not in result[2]
