"""Backends are found by their entry points; what cannot be loaded is told, and whose it is."""

from importlib.metadata import EntryPoint, entry_points
from types import SimpleNamespace

import pytest

from libgraph.backend.registry import ENTRY_POINTS, backend_class, backend_names, load_backend
from libgraph.errors import BackendError, UsageError
from libgraph.installed import DISTRIBUTION


class Entry(SimpleNamespace):
    """An entry point of some distribution that may break when it is loaded."""

    def __init__(self, name, value, outcome, distribution=None):
        dist = None if distribution is None else SimpleNamespace(name=distribution)
        super().__init__(name=name, value=value, outcome=outcome, dist=dist)

    def load(self):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def install(monkeypatch):
    """Registers further entry points beside the installed ones."""

    def install(*entries):
        installed = entry_points(group=ENTRY_POINTS)
        monkeypatch.setattr(
            "libgraph.backend.registry.entry_points", lambda group: [*installed, *entries]
        )

    return install


def test_names_are_listed_without_importing_anything(install):
    install(Entry("broken", "a:B", ImportError("no")))
    assert {"broken", "cifar", "gpt2", "lm", "mlp", "modular-addition"} <= set(backend_names())
    assert backend_names() == sorted(backend_names())


def test_an_unknown_name_has_near_ones():
    with pytest.raises(BackendError, match=r"no backend 'gpt'; did you mean 'gpt2'\?"):
        backend_class("gpt")
    with pytest.raises(BackendError, match=r"no backend 'x'; installed are cifar, gpt2, lm, mlp"):
        backend_class("x")


def test_what_is_missing_is_in_an_extra_of_ours(install, monkeypatch):
    install(Entry("theirs", "libgraph_backends.theirs:Theirs", ImportError("no x"), DISTRIBUTION))
    monkeypatch.setattr("libgraph.plugins.extras", lambda: ["theirs"])
    with pytest.raises(BackendError, match=r"\(no x\): what it needs comes with .*\[theirs\]'\.$"):
        backend_class("theirs")


def test_what_is_missing_and_in_no_extra_is_told_by_the_entry_point(install):
    install(Entry("theirs", "libgraph_backends.theirs:Theirs", ImportError("no x"), DISTRIBUTION))
    with pytest.raises(BackendError, match=r"'libgraph-interp' needs\. Its entry point is lib"):
        backend_class("theirs")


@pytest.mark.parametrize(
    ("distribution", "origin"),
    [("their-package", r"their_package:X of 'their-package'\.$"), (None, r"their_package:X\.$")],
)
@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (
            ModuleNotFoundError("No module named 'y'"),
            r"\(No module named 'y'\): install what ",
        ),
        (ZeroDivisionError("by zero"), "cannot be imported, ZeroDivisionError: by zero"),
        (dict, "is <class 'dict'>, not a subclass of libgraph.Backend"),
        (7, "is 7, not a subclass"),
    ],
)
def test_what_cannot_be_loaded_names_its_origin(install, outcome, said, distribution, origin):
    install(Entry("theirs", "their_package:X", outcome, distribution))
    with pytest.raises(BackendError, match=f"'theirs' .*{said}.*entry point is {origin}") as error:
        backend_class("theirs")
    assert "libgraph-interp" not in str(error.value)


def test_two_backends_of_one_name_are_refused(install):
    install(Entry("theirs", "a:A", dict, "first"), Entry("theirs", "b:B", dict, "second"))
    with pytest.raises(BackendError, match=r"2 backends are called 'theirs'.*a:A of 'first'.*b:B"):
        backend_class("theirs")


def test_an_entry_point_that_is_there_twice_is_one(install):
    again = EntryPoint("mlp", "libgraph_backends.mlp:MLP", ENTRY_POINTS)
    install(again)
    assert backend_class("mlp").name == "mlp"


def test_options_are_converted_and_checked():
    assert load_backend("mlp", seed="3").options.seed == 3
    with pytest.raises(UsageError, match="no option 'sede' of the backend 'mlp'"):
        load_backend("mlp", sede=3)
