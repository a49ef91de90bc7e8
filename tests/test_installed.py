"""The command that adds an extra is right for how libgraph was installed."""

import json
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

import libgraph
from libgraph.errors import missing_extra
from libgraph.installed import DISTRIBUTION, install_extra

ROOT = Path(__file__).resolve().parents[1]
VCS = {"url": "https://host/lg", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}


@pytest.fixture
def noted(monkeypatch, tmp_path):
    """Have an installer note these files, `pip` being the one of this Python."""
    monkeypatch.setattr("shutil.which", lambda name: str(Path(sys.executable).parent / "pip"))
    monkeypatch.chdir(tmp_path)

    def note(**files):
        paths = []
        for name, text in files.items():
            name = name.replace("_json", ".json")
            parent = SimpleNamespace(name="x.dist-info")
            read = SimpleNamespace(
                name=name, parent=parent, read_text=lambda encoding, text=text: text
            )
            paths.append(read)
        monkeypatch.setattr("importlib.metadata.files", lambda name: paths)

    return note


def test_from_the_index(noted):
    noted(INSTALLER="pip\n")
    assert install_extra("lm") == "pip install 'libgraph-interp[lm]'"
    assert missing_extra("It needs x", "lm") == f"It needs x: run {install_extra('lm')}."


def test_from_a_clone_and_inside_of_it(noted, tmp_path, monkeypatch):
    url = {"url": tmp_path.as_uri(), "dir_info": {"editable": True}}
    noted(direct_url_json=json.dumps(url))
    assert install_extra("lm") == "pip install -e '.[lm]'"
    monkeypatch.chdir(tmp_path.parent)
    assert install_extra("lm") == f"pip install -e '{tmp_path}[lm]'"


def test_from_a_wheel_that_is_there_and_one_that_is_gone(noted, tmp_path):
    wheel = tmp_path / "with space.whl"
    noted(direct_url_json=json.dumps({"url": wheel.as_uri(), "archive_info": {}}))
    assert install_extra("lm") == "pip install 'libgraph-interp[lm]'"
    wheel.touch()
    assert install_extra("lm") == f"pip install '{wheel}[lm]'"


def test_from_a_repository(noted):
    noted(direct_url_json=json.dumps(VCS))
    expected = "pip install 'libgraph-interp[lm] @ git+https://host/lg@c0ffee'"
    assert install_extra("lm") == expected


def test_by_another_installer_and_for_another_python(noted, monkeypatch, tmp_path):
    noted(INSTALLER="uv")
    assert install_extra("lm") == "uv pip install 'libgraph-interp[lm]'"
    noted(INSTALLER="pip", direct_url_json="[damaged")
    monkeypatch.setattr("shutil.which", lambda name: "/elsewhere/pip")
    assert install_extra("lm") == f"{sys.executable} -m pip install 'libgraph-interp[lm]'"
    monkeypatch.setattr("sys.executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert install_extra("lm") == ".venv/bin/python -m pip install 'libgraph-interp[lm]'"


def test_without_being_installed(noted, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.files", missing)
    assert install_extra("lm") == "pip install 'libgraph-interp[lm]'"


def test_a_plugin_names_its_own_distribution(noted):
    noted()
    assert "pip install 'their-plugin[x]'" in missing_extra("It needs x", "x", "their-plugin")


def test_names_and_versions_are_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"\nversion: {libgraph.__version__}\n" in citation
    assert f'\nname = "{DISTRIBUTION}"' in project
    install = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert f"version = {{{libgraph.__version__}}}" in install
    assert f"libgraph_interp-{libgraph.__version__}-py3" in install
    address = project.split('Repository = "')[1].split('"')[0]
    assert f"repository-code: {address}\n" in citation
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        assert "pip install libgraph" not in text.replace(f"pip install {DISTRIBUTION}", "")
        assert "'libgraph[" not in text, page
