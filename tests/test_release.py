"""What a stranger gets: wheel and source distribution, in environments that have nothing else.

Building and installing ask the package index, so that these tests are for `make test-all`; where
it cannot be reached they are left out.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
UNREACHED = re.compile(r"No matching distribution|NewConnectionError|ConnectTimeout|Temporary fail")
FREE = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH",)}
NOT_SENT = {".gitignore", ".pre-commit-config.yaml"}


def called(*command: object, where: Path) -> tuple[int, str]:
    done = subprocess.run(
        [*map(str, command)], cwd=where, env=FREE, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def installed(python: Path, *what: object, where: Path) -> None:
    code, out = called(
        python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *what, where=where
    )
    if code and UNREACHED.search(out):
        pytest.skip("the package index cannot be reached")
    assert code == 0, out


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Files of the repository, by git."""
    code, out = called("git", "ls-files", where=ROOT)
    if code:
        pytest.skip("this is no clone: git knows no files")
    return [name for name in out.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def dist(tmp_path_factory, tracked) -> Path:
    """The folder with both, built from a copy of the repository."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    code, out = called(sys.executable, "-m", "build", "--outdir", source / "dist", where=source)
    if code and UNREACHED.search(out):
        pytest.skip("the package index cannot be reached")
    assert code == 0, out
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(dist) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory, wheel) -> Path:
    """The Python of an environment with the wheel and no extra."""
    folder = tmp_path_factory.mktemp("plain")
    code, out = called(sys.executable, "-m", "venv", folder / "env", where=folder)
    assert code == 0, out
    python = folder / "env" / "bin" / "python"
    installed(python, wheel, where=folder)
    return python


@pytest.fixture
def beside(tmp_path, plain):
    """`beside(what, …)`: the Python of an environment on top of the plain one, with more in it."""
    code, out = called(sys.executable, "-m", "venv", tmp_path / "env", where=tmp_path)
    assert code == 0, out
    python = tmp_path / "env" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    below, above = (called(each, "-c", ask, where=tmp_path)[1].strip() for each in (plain, python))
    (Path(above) / "plain.pth").write_text(below)

    def add(*what: object) -> Path:
        installed(python, *what, where=tmp_path)
        return python

    return add


def libgraph(python: Path, *words: object, where: Path) -> tuple[int, str]:
    code = "from libgraph_cli.main import main; main()"
    return called(python, "-c", code, *words, where=where)


def test_the_source_has_all_of_the_repository(dist, tracked):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = set(tracked) - names - NOT_SENT
    assert not missing
    assert path.name.startswith("libgraph_interp-")


def test_the_readme_of_the_index_has_absolute_links(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    _, _, readme = metadata.partition("\n\n")
    targets = re.findall(r"\]\(([^)]+)\)", readme)
    assert len(targets) > 20
    assert all(target.startswith("https://") for target in targets)
    assert "\nDescription-Content-Type: text/markdown\n" in metadata
    links = [target for target in targets if "/blob/v" in target or "/raw/v" in target]
    for target in links:
        assert (ROOT / re.sub(r".*?/(?:blob|raw)/v[^/]+/", "", target)).exists(), target


def test_without_any_extra(plain, tmp_path):
    code, out = libgraph(plain, "analyze", "modular-addition", "--out", "run", where=tmp_path)
    assert code == 0, out
    assert "modular-addition: test accuracy 1.0000" in out
    assert "open graph.graphml in Gephi" in out
    assert {"metrics.json", "graph.graphml"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert not (tmp_path / "run" / "report.html").exists()
    # Each lack is one sentence with the command that is right here: from this very wheel.
    for words, code, extra in (
        (("view", "run"), 2, "report"),
        (("communities", "run", "--figure", "a.png"), 2, "report"),
        (("analyze", "lm"), 3, "lm"),
        (("train", "lm", "-o", "text=book.txt"), 3, "lm"),
        (("analyze", "mlp", "-o", "task=digits"), 3, "mlp"),
        (("analyze", "cifar", "-o", "download=true"), 3, "cifar"),
    ):
        found, out = libgraph(plain, *words, where=tmp_path)
        assert found == code, out
        assert "Traceback" not in out
        assert re.search(rf"pip install '\S+\.whl\[{extra}\]'", " ".join(out.split())), out
    code, out = libgraph(plain, "doctor", where=tmp_path)
    assert code == 0, out
    assert "missing: bokeh, matplotlib" in out
    code, out = libgraph(plain, "--version", where=tmp_path)
    assert re.fullmatch(r"libgraph [\d.]+\n", out)


@pytest.mark.parametrize(
    ("extra", "words", "made"),
    [
        ("report", ("analyze", "mlp", "--no-ablation"), "report.html"),
        ("mlp", ("analyze", "mlp", "-o", "task=digits", "--no-ablation"), "metrics.json"),
        ("lm", ("analyze", "lm", "-o", "layers=0:1", "--limit", "4", "--no-ablation"), "run.json"),
    ],
)
def test_each_extra(beside, wheel, extra, words, made, tmp_path):
    python = beside(f"{wheel}[{extra}]")
    code, out = libgraph(python, *words, "--out", "run", where=tmp_path)
    assert code == 0, out
    assert (tmp_path / "run" / made).exists()


def test_the_extra_of_downloads(beside, wheel, tmp_path):
    python = beside(f"{wheel}[cifar]")
    code, out = called(python, "-c", "import pooch, tqdm", where=tmp_path)
    assert code == 0, out


def test_plugins_are_built_installed_and_tested(beside, tmp_path):
    for name in ("adder", "varimax"):
        shutil.copytree(ROOT / "examples" / name, tmp_path / name)
    python = beside("pytest", "./adder", "./varimax")
    code, out = called(python, "-m", "pytest", "-q", "adder", "varimax", where=tmp_path)
    assert code == 0, out
    code, out = libgraph(python, "backends", where=tmp_path)
    assert "libgraph-adder 1.0" in out
    code, out = libgraph(python, "backends", "check", "adder", where=tmp_path)
    assert (code, out) == (0, "The backend 'adder' keeps its contract.\n")
    words = ("compare", "adder", "--bases", "lib,pca,varimax", "--draws", "0", "--out", "run")
    code, out = libgraph(python, *words, where=tmp_path)
    assert code == 0, out
    # A column for each, and no figure, which needs an extra.
    (headings,) = [line for line in out.splitlines() if line.split()[:2] == ["measure", "where"]]
    assert headings.split()[2:] == ["lib", "pca", "varimax"]
    assert re.search(r"^test sums that are right +total( +1\.0000){3}$", out, re.MULTILINE)
    assert not (tmp_path / "run" / "comparison.png").exists()
