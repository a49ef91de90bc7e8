"""The registry of bases: a module and an entry are all that a new one takes."""

import subprocess
import sys
from types import ModuleType

import pytest
from helpers.networks import Toy, random_network
from helpers.numbers import normal, seeded
from safetensors.torch import save_file

import libgraph as lg
from libgraph.analysis.plan import plan
from libgraph.bases.method import BasisMethod
from libgraph.bases.methods import METHODS, MODULES, basis_method
from libgraph.bases.pca import pca
from libgraph.files.atomic import read_json
from libgraph.pipeline.options import AnalysisOptions


@pytest.fixture
def mine(monkeypatch):
    """Register a method of one's own, whose settings and calls are noted."""
    noted = []

    def register(**stated):
        def prepare(setting):
            noted.append(setting)
            return pca

        module = ModuleType("mine")
        module.METHOD = BasisMethod(pca, prepare=prepare, **stated)
        monkeypatch.setitem(sys.modules, "mine", module)
        monkeypatch.setitem(MODULES, "mine", "mine")
        return noted

    return register


@pytest.fixture
def backend():
    return Toy(random_network(["tanh", "linear"], [4, 4, 3]), normal(seeded(0), 60, 1, 4))


def hash_of_bases(backend, path, **options):
    run = lg.analyze(backend, basis="mine", ablate=False, out=path, force=True, **options)
    assert list(run.basis_names) == ["mine", "pca"]
    return read_json(path / "run.json")["stages"]["bases"]["hash"]


def test_a_new_basis_gets_the_options_that_it_reads_and_depends_on_them(backend, tmp_path, mine):
    noted = mine(reads=("resolution",), begins_with="pca")
    first, again, other = (
        hash_of_bases(backend, tmp_path / "run", resolution=resolution, seed=seed)
        for resolution, seed in ((1.0, 0), (1.0, 1), (2.0, 1))
    )
    assert first == again != other
    assert [setting.options for setting in noted] == [{"resolution": 1.0}, {"resolution": 2.0}]
    # What it begins with is made first, though it was asked for later.
    assert set(noted[0].bases) == {"pca"}
    assert noted[0].directory == tmp_path / "run.partial"


def test_a_new_basis_says_what_it_costs(backend, mine, monkeypatch):
    def second(compute):
        compute()
        return 1.0

    monkeypatch.setattr("libgraph.analysis.plan._seconds", second)
    monkeypatch.setattr("libgraph.analysis.plan.ONCE", float("inf"))
    options = {"beside": (), "ablate": False}
    mine()
    free = plan(backend, basis="mine", **options)
    assert free.seconds["bases"] == 1
    assert free.memory == plan(backend, basis="pca", **options).memory
    mine(jacobian_gram=True, output_gram=True, seconds=lambda probe: 10 * probe.seconds(list))
    costly = plan(backend, basis="mine", **options)
    assert costly.seconds["bases"] == 1 + 2 + 1 + 10
    mine(layer_bytes=2**20)
    assert plan(backend, basis="mine", **options).memory == free.memory + 3 * 2**20


def test_all_bases_have_a_module_and_read_options_that_there_are():
    assert list(METHODS) == list(MODULES)
    for name in METHODS:
        assert basis_method(name) is METHODS[name]
        assert set(METHODS[name].reads) <= set(AnalysisOptions.model_fields)
        assert METHODS[name].begins_with in {None, *METHODS}


def test_what_a_file_holds_is_part_of_a_method(tmp_path):
    path = tmp_path / "mine.safetensors"
    digests = set()
    for seed in (1, 1, 2):
        save_file({"l0/decoder": normal(seeded(seed), 4, 4)}, path)
        digests.add(basis_method(str(path)).digest)
    assert len(digests) == 2
    assert not any(method.digest for method in METHODS.values())


def test_bases_are_made_again_where_their_file_has_changed(backend, tmp_path):
    path, run = tmp_path / "mine.safetensors", tmp_path / "run"
    hashes = []
    for seed in (1, 1, 2):
        save_file({"l0/decoder": normal(seeded(seed), 4, 4)}, path)
        lg.analyze(backend, basis=str(path), ablate=False, out=run, force=True)
        hashes.append(read_json(run / "run.json")["stages"]["interactions"]["hash"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_names_alone_need_no_torch():
    code = (
        "import sys, types; package = types.ModuleType('libgraph')\n"
        f"package.__path__ = {[*lg.__path__]!r}; sys.modules['libgraph'] = package\n"
        "from libgraph.bases.methods import METHODS, basis_name\n"
        "basis_name('lib'), 'pca' in METHODS, list(METHODS)\n"
        "print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
