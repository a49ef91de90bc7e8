import math

import pytest
import torch
from helpers.numbers import normal, seeded

from libgraph import fit as module
from libgraph.errors import NumericalError
from libgraph.files.weights import read_weights
from libgraph.fit import CHECKPOINT, Course, fit
from libgraph.progress import silent

OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.05),
    "amsgrad": lambda parameters: torch.optim.Adam(parameters, lr=0.05, amsgrad=True),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
}


class Regression:
    """Least squares on a batch drawn from the number of the step, stopped or spoilt at will."""

    def __init__(self, directory, optimizer="adamw", settings=None):
        self.directory, self.settings = directory, settings or {"rate": 0.05}
        self.parameters = {
            "weight": normal(seeded(0), 3, 2).requires_grad_(),
            "bias": torch.zeros(2, dtype=torch.float64, requires_grad=True),
        }
        self.optimizer = OPTIMIZERS[optimizer](self.parameters.values())
        self.steps_taken = []

    def fit(self, steps=20, *, stop_at=None, nan_from=None, keep_every=None, progress=silent):
        def loss(step):
            if step == stop_at:
                raise KeyboardInterrupt
            self.steps_taken.append(step)
            x = normal(seeded(step), 8, 3)
            y = x @ self.parameters["weight"] + self.parameters["bias"]
            value = (y - x.sum(1, keepdim=True)).square().mean()
            return value * math.nan if nan_from is not None and step >= nan_from else value

        return fit(
            self.parameters,
            loss,
            Course(steps, self.directory, self.settings, evaluate_every=5, keep_every=keep_every),
            optimizer=self.optimizer,
            evaluate=lambda: {"norm": float(self.parameters["weight"].norm())},
            progress=progress,
        )

    def values(self):
        return {name: value.detach().clone() for name, value in self.parameters.items()}


def assert_identical(tensors, expected):
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def without_seconds(history):
    return [{name: value for name, value in r.items() if name != "seconds"} for r in history]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop_at", [7, 10, 19])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, optimizer, stop_at):
    straight = Regression(tmp_path / "straight", optimizer)
    history = straight.fit()
    stopped = Regression(tmp_path / "stopped", optimizer)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(stop_at=stop_at)
    resumed = Regression(tmp_path / "stopped", optimizer)
    resumed_history = resumed.fit()
    assert resumed.steps_taken == list(range(stop_at // 5 * 5, 20))
    assert_identical(resumed.values(), straight.values())
    assert without_seconds(resumed_history) == without_seconds(history)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop_at", [3, 7, 10, 19])
@pytest.mark.parametrize("constant", ["SAVED_EVERY", "WORTH"])
def test_no_step_is_repeated_that_was_saved(tmp_path, optimizer, stop_at, constant, monkeypatch):
    """Whether it is time to save after a step, or one is interrupted."""
    straight = Regression(tmp_path / "straight", optimizer)
    history = straight.fit()
    monkeypatch.setattr(module, constant, 0.0)
    with pytest.raises(KeyboardInterrupt):
        Regression(tmp_path / "stopped", optimizer).fit(stop_at=stop_at)
    resumed = Regression(tmp_path / "stopped", optimizer)
    resumed_history = resumed.fit()
    assert resumed.steps_taken == list(range(stop_at, 20))
    assert_identical(resumed.values(), straight.values())
    assert without_seconds(resumed_history) == without_seconds(history)


def test_training_minimises_the_loss_and_keeps_a_record(tmp_path):
    history = Regression(tmp_path).fit(steps=203)
    assert [record["step"] for record in history] == [*range(5, 201, 5), 203]
    assert set(history[0]) == {"step", "loss", "seconds", "norm"}
    assert history[-1]["loss"] < 0.05 < history[0]["loss"]
    assert [r["seconds"] for r in history] == sorted(r["seconds"] for r in history)


def test_more_steps_go_on_from_the_last(tmp_path):
    Regression(tmp_path / "parts").fit(steps=10)
    more = Regression(tmp_path / "parts")
    more.fit(steps=15)
    assert more.steps_taken == list(range(10, 15))
    straight = Regression(tmp_path / "straight")
    straight.fit(steps=15)
    assert_identical(more.values(), straight.values())


def test_other_settings_ignore_the_checkpoint(tmp_path, caplog):
    caplog.set_level("INFO", "libgraph")
    Regression(tmp_path).fit(steps=10)
    assert not caplog.messages
    other = Regression(tmp_path, settings={"rate": 0.06})
    other.fit(steps=10)
    assert other.steps_taken == list(range(10))
    assert any("training begins anew" in message for message in caplog.messages)


def test_a_resumed_run_says_so(tmp_path, caplog):
    caplog.set_level("INFO", "libgraph")
    Regression(tmp_path).fit(steps=10)
    Regression(tmp_path).fit(steps=15)
    assert caplog.messages == [
        f"Training goes on after step 10 of '{tmp_path / 'checkpoint.safetensors'}'."
    ]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path):
    good = Regression(tmp_path / "good")
    good.fit(steps=10)
    bad = Regression(tmp_path / "bad")
    with pytest.raises(NumericalError, match=r"not finite at step 15.*checkpoint\.safetensors"):
        bad.fit(nan_from=12)
    resumed = Regression(tmp_path / "bad")
    resumed.fit(steps=10)
    assert not resumed.steps_taken
    assert_identical(resumed.values(), good.values())


def test_a_checkpoint_never_holds_parameters_that_are_not_finite(tmp_path):
    """At step 5 the loss is finite and its gradient is not."""
    x = torch.ones(1, requires_grad=True)
    with pytest.raises(NumericalError):
        fit(
            {"x": x},
            lambda step: (x * 0).sqrt().sum() if step == 4 else x.sum(),
            Course(steps=10, directory=tmp_path, settings={}, evaluate_every=5),
            optimizer=torch.optim.SGD([x], lr=0.1),
            evaluate=dict,
        )
    path = tmp_path / CHECKPOINT
    assert not path.exists() or bool(read_weights(path)["parameter/x"].isfinite().all())


def test_progress_tells_every_step(tmp_path):
    told = []
    Regression(tmp_path).fit(steps=7, progress=lambda *event: told.append(event))
    assert [event[:3] for event in told] == [("training", step, 7) for step in range(1, 8)]


def test_progress_says_what_the_last_evaluation_was(tmp_path):
    notes = []
    Regression(tmp_path).fit(steps=12, progress=lambda *event: notes.append(event[-1]))
    assert not any(notes[:5])
    assert all(note.startswith("loss ") for note in notes[5:])


def test_a_finished_checkpoint_is_not_trained_further(tmp_path):
    first = Regression(tmp_path)
    history = first.fit(steps=10)
    again = Regression(tmp_path)
    assert again.fit(steps=10) == history
    assert not again.steps_taken
    assert_identical(again.values(), first.values())


@pytest.mark.parametrize("stop_at", [None, 13])
def test_copies_of_the_parameters_are_kept(tmp_path, stop_at):
    if stop_at is not None:
        with pytest.raises(KeyboardInterrupt):
            Regression(tmp_path / "kept").fit(stop_at=stop_at, keep_every=4)
    Regression(tmp_path / "kept").fit(keep_every=4)
    kept = sorted((tmp_path / "kept" / "steps").iterdir())
    assert [path.stem for path in kept] == [f"{step:06d}" for step in range(0, 21, 4)]
    for path in kept:
        straight = Regression(tmp_path / path.stem)
        if int(path.stem):
            straight.fit(steps=int(path.stem))
        assert_identical(read_weights(path), straight.values())
