"""`libgraph ablate`, `steer` and `prompt`: what their screens say, and mistakes."""

import json

import pytest
from helpers.commands import fails

from libgraph.runs.saved_run import open_run


@pytest.mark.parametrize("command", ["ablate", "steer", "prompt"])
def test_each_example_of_the_help_is_a_line(run, command):
    lines = run(command, "--help")[1].split("Examples:\n")[1].splitlines()
    assert len(lines) > 1
    assert all(line.startswith(f"  libgraph {command} runs/") for line in lines)


@pytest.mark.parametrize("command", ["ablate", "steer"])
def test_seeds_that_are_too_large_are_refused(run, finished, command):
    code, _, err = run(command, finished, "ln2.0/1", "--seed", str(2**70))
    assert code == 2
    assert "--seed" in err
    assert "Traceback" not in err


def test_what_is_changed_is_not_said_to_follow(run, finished):
    members = set(open_run(finished).module(0).members)
    code, out, err = run("ablate", finished, "module:0", "--json", "--limit", 20, "-q")
    assert code == 0, err
    (module,) = json.loads(out)["interventions"]
    assert module["moved"]
    assert not members & {moved["feature"] for moved in module["moved"]}


def test_rounding_moves_nothing(run, finished):
    code, out, err = run("ablate", finished, "ln2.0/1+=1e-12", "--json", "--limit", 20, "-q")
    assert code == 0, err
    assert json.loads(out)["interventions"][0]["moved"] == []


def test_outputs_have_the_numbers_that_they_are_asked_for_by(run, finished):
    asked = ("prompt", finished, "--sample", 1, "--class", 3, "--class", 2)
    code, out, err = run(*asked, "--json", "-q")
    assert code == 0, err
    assert [output["number"] for output in json.loads(out)["outputs"]] == [3, 2]
    assert "with those left out" in " ".join(run(*asked, "-q")[1].split())
    fails(run(*asked[:3], 10**6), 2, "There is no sample")
