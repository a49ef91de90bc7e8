"""Options are stated once: what is checked, with which sentence, and what a statement costs."""

import subprocess
import sys
from typing import Literal

import pytest
from pydantic import Field

import libgraph as lg
from libgraph.backend.options import TypedOptions, parse_options
from libgraph.bases.sparse.options import SparseOptions, sparse_options
from libgraph.degeneracy.options import DegeneracyOptions
from libgraph.errors import UsageError
from libgraph.pipeline.options import AnalysisOptions


@pytest.mark.parametrize(
    "module", ["pipeline.options", "degeneracy.options", "bases.sparse.options", "backend.options"]
)
def test_options_can_be_read_without_torch(module):
    code = (
        f"import sys, libgraph.{module}; "
        "print([m for m in ('torch', 'numpy', 'igraph') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("model", [AnalysisOptions, DegeneracyOptions, SparseOptions])
def test_every_option_says_what_it_is(model):
    for name, field in model.model_fields.items():
        text = field.description
        assert text, name
        assert not text.endswith("."), name
        assert text[0].islower() or not text[0].isalpha() or text[0] == "Δ", name


@pytest.mark.parametrize(
    ("model", "options", "part"),
    [
        (AnalysisOptions, {"seed": -1}, "Option 'seed' of the analysis: .* 0, not -1"),
        (
            AnalysisOptions,
            {"basis": "nonesuch"},
            "Unknown basis 'nonesuch': use neuron, pca",
        ),
        (AnalysisOptions, {"beside": "pca,nonesuch"}, "Unknown basis 'nonesuch'"),
        (AnalysisOptions, {"truncate": "rel:2"}, "use rel:TOL or abs:TOL"),
        (AnalysisOptions, {"integration": "simpson"}, "gauss-legendre"),
        (AnalysisOptions, {"device": "gpu"}, "Device 'gpu' cannot be used"),
        (AnalysisOptions, {"tolerances": ()}, "Option 'tolerances' of the analysis"),
        (AnalysisOptions, {"memory": "1KiB"}, "Option 'memory' of the analysis"),
        (AnalysisOptions, {"sparse_power": 2}, "'sparse_power' of the analysis: .* 1, not 2"),
        (AnalysisOptions, {"sede": 1}, "Option 'sede' of the analysis"),
        (DegeneracyOptions, {"draws": 1}, "Option 'draws' of the degeneracy analysis"),
        (DegeneracyOptions, {"basis": "nonesuch"}, "Unknown basis 'nonesuch'"),
        (SparseOptions, {"power": 2}, "Option 'power' of the sparse basis: .* 1, not 2"),
    ],
)
def test_a_bad_value_is_told_when_options_are_made(model, options, part):
    with pytest.raises(UsageError, match=part):
        model(**options)


def test_a_stranger_who_does_not_say_whose_options_they_are_is_told_the_name():
    class Mine(lg.TypedOptions):
        width: int = Field(3, ge=2)
        kind: Literal["small", "large"] = "small"

    with pytest.raises(UsageError, match=r"'width': it has to be at least 2, not 1\."):
        Mine(width=1)
    with pytest.raises(UsageError, match=r"'kind': 'small' or 'large' is needed, not 'x'\."):
        Mine(kind="x")
    with pytest.raises(UsageError, match=r"Option 'width': a whole number is needed, not 'x'\."):
        Mine(width="x")
    with pytest.raises(UsageError, match="Option 'width' of the backend 'mine'"):
        parse_options(Mine, {"width": "x"}, "the backend 'mine'")
    with pytest.raises(UsageError, match="no option 'widht' of it; did you mean 'width'"):
        parse_options(Mine, {"widht": 3}, "it")
    assert issubclass(Mine, TypedOptions)


def test_options_of_the_sparse_basis_are_those_of_the_analysis():
    options = AnalysisOptions(
        sparse_features=3, sparse_power=0.5, sparse_steps=7, sparse_starts=2, seed=5
    )
    chosen = sparse_options(options.model_dump())
    assert chosen == SparseOptions(features=3, power=0.5, steps=7, starts=2, seed=5)
    for name in ("features", "power", "steps", "starts"):
        field = AnalysisOptions.model_fields[f"sparse_{name}"]
        other = SparseOptions.model_fields[name]
        assert (field.default, field.description) == (other.default, other.description)
        assert field.metadata == other.metadata
