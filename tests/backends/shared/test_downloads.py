"""What is downloaded is whole and what it should be; nothing here leaves this machine."""

import errno
import hashlib
import io
import logging
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from helpers.commands import fails
from helpers.idx import write_mnist

from libgraph.errors import BackendError, DataError, UsageError
from libgraph_backends.cifar import data as cifar_data
from libgraph_backends.mlp import mnist
from libgraph_backends.mlp.backend import MLP
from libgraph_backends.mlp.options import MLPOptions
from libgraph_backends.shared.downloads import fetch, fetch_archive

pooch = pytest.importorskip("pooch")


class Site:
    """A web server with these files: `(status, content, length that it claims)` by name."""

    def __init__(self):
        self.files, self.asked = {}, []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked.append(self.path)
                status, content, length = site.files.get(self.path[1:], (404, b"", 0))
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, name, content, *, status=200, length=None):
        self.files[name] = (status, content, len(content) if length is None else length)
        return {self.url + name: md5(content)}

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def md5(content):
    return "md5:" + hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site()
    yield site
    site.close()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache" / "libgraph"


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_is_downloaded_once(site, cache, capsys, monkeypatch):
    # Of pooch's log nothing is on the screen, wherever that was when pooch was imported.
    handler = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(pooch.get_logger(), "handlers", [handler])
    level = pooch.get_logger().level
    files = site.add("a.bin", b"content") | site.add("b.bin", bytes(5000))
    for _ in range(2):
        assert fetch("some", files, extra="mlp") == cache / "some"
    assert site.asked == ["/a.bin", "/b.bin"]
    assert (cache / "some" / "a.bin").read_bytes() == b"content"
    assert files_in(cache) == ["some/a.bin", "some/b.bin"]
    assert capsys.readouterr() == ("", "")
    assert pooch.get_logger().level == level


def test_progress_is_for_terminals(site, cache, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fetch("some", site.add("a.bin", bytes(5000)), extra="mlp")
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err


def test_a_damaged_file_in_the_cache_is_downloaded_again(site, cache):
    files = site.add("a.bin", b"content")
    (cache / "some").mkdir(parents=True)
    (cache / "some" / "a.bin").write_bytes(b"damaged")
    fetch("some", files, extra="mlp")
    assert (cache / "some" / "a.bin").read_bytes() == b"content"


FAILURES = {
    "no such file": ({"status": 404}, "answers '404 Client Error: Not Found' for"),
    "server": ({"status": 503}, "answers '503 Server Error: Service Unavailable' for"),
    "cut": ({"length": 100}, "broke off: run again"),
    "changed": ({}, "does not have the right checksum, and was not kept: run again"),
}


@pytest.mark.parametrize("before", [None, b"older"])
@pytest.mark.parametrize("kind", FAILURES)
def test_a_failed_download_is_one_sentence_and_leaves_nothing(site, cache, kind, before):
    answer, said = FAILURES[kind]
    site.add("a.bin", b"garbage", **answer)
    if before is not None:
        (cache / "some").mkdir(parents=True)
        (cache / "some" / "a.bin").write_bytes(before)
    with pytest.raises(DataError) as error:
        fetch("some", {site.url + "a.bin": md5(b"content")}, extra="mlp")
    assert f"'{site.url}a.bin'" in str(error.value)
    assert said in str(error.value)
    assert str(error.value).endswith("elsewhere and give its folder with -o data=DIR.")
    # Not a part of a file, under no name; and what was there is as it was.
    assert files_in(cache) == ([] if before is None else ["some/a.bin"])
    assert before is None or (cache / "some" / "a.bin").read_bytes() == before


def test_a_cut_file_is_noticed_without_its_length(site, cache):
    site.add("a.bin", b"cont")
    with pytest.raises(DataError, match="right checksum"):
        fetch("some", {site.url + "a.bin": md5(b"content")}, extra="mlp")
    assert files_in(cache) == []


def test_without_a_network_there_is_advice(site, cache):
    site.close()
    with pytest.raises(DataError, match=r"cannot be reached: run again with a network, or downl"):
        fetch("some", {site.url + "a.bin": md5(b"content")}, extra="mlp")
    assert files_in(cache) == []


def test_a_cache_that_cannot_be_made_is_named(site, cache):
    cache.parent.mkdir()
    cache.write_text("a file in the way")
    with pytest.raises(DataError, match=r"libgraph.some' cannot keep .* make it writable, or"):
        fetch("some", site.add("a.bin", b"content"), extra="mlp")
    assert cache.read_text() == "a file in the way"


def test_a_full_disk_is_named(site, cache, monkeypatch):
    files = site.add("a.bin", b"content")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(DataError, match=r"No space left on device.*: free some space, or download"):
        fetch("some", files, extra="mlp")
    assert files_in(cache) == []


@pytest.mark.parametrize("library", ["pooch", "tqdm"])
def test_what_to_install_is_named(cache, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BackendError, match=r"install .*\[cifar\]'"):
        fetch("some", {}, extra="cifar")


# Archives


def archive(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"inside/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def unpack(site, **files):
    ((url, checksum),) = site.add("x.tar.gz", archive(**files)).items()
    return fetch_archive("some", url, checksum, "inside", extra="cifar")


def test_an_archive_is_unpacked_once(site, cache, capsys):
    folder = unpack(site, a=b"first", b=b"second")
    assert folder == cache / "some" / "inside"
    assert files_in(cache / "some") == ["inside/a", "inside/b", "x.tar.gz"]
    assert (folder / "b").read_bytes() == b"second"
    (folder / "a").write_bytes(b"touched")
    # Nothing but the folder is needed from then on.
    (cache / "some" / "x.tar.gz").unlink()
    site.close()
    assert unpack(site, a=b"first", b=b"second") == folder
    assert (folder / "a").read_bytes() == b"touched"
    assert capsys.readouterr() == ("", "")


def test_half_an_archive_is_not_left(site, cache, monkeypatch):
    extract = tarfile.TarFile.extractall

    def full(self, path, **options):
        extract(self, path, members=self.getmembers()[:1], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", full)
        with pytest.raises(DataError, match="free some space"):
            unpack(site, a=b"first", b=b"second")
    assert files_in(cache / "some") == ["x.tar.gz"]
    assert files_in(unpack(site, a=b"first", b=b"second")) == ["a", "b"]
    assert site.asked == ["/x.tar.gz"]


def test_another_process_may_be_faster(site, cache, monkeypatch):
    extract = tarfile.TarFile.extractall

    def slow(self, path, **options):
        extract(self, path, **options)
        (cache / "some" / "inside").mkdir()
        (cache / "some" / "inside" / "a").write_bytes(b"of the other")

    monkeypatch.setattr(tarfile.TarFile, "extractall", slow)
    assert (unpack(site, a=b"first") / "a").read_bytes() == b"of the other"
    assert files_in(cache / "some") == ["inside/a", "x.tar.gz"]


# The data sets


def test_cifar_is_unpacked_and_read(site, cache, monkeypatch):
    record = bytes([7]) + bytes(range(256)) * 12
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = 2 * len(record)
            tar.addfile(info, io.BytesIO(2 * record))
    ((url, checksum),) = site.add("cifar-10-binary.tar.gz", buffer.getvalue()).items()
    monkeypatch.setattr(cifar_data, "URL", url)
    monkeypatch.setattr(cifar_data, "CHECKSUM", checksum)
    split = cifar_data.read_cifar10(cifar_data.download_cifar10(), "train")
    assert (len(split.images), split.labels.unique().tolist(), split.missing) == (10, [7], ())


@pytest.fixture
def mnist_site(site, cache, monkeypatch, tmp_path):
    """MNIST with images of 4 × 3 pixels."""
    folder = write_mnist(tmp_path / "published", zipped=True)
    sums = {}
    for name in mnist.CHECKSUMS:
        sums |= site.add(name, (folder / name).read_bytes())
    monkeypatch.setattr(mnist, "URL", site.url)
    monkeypatch.setattr(mnist, "CHECKSUMS", dict(zip(mnist.CHECKSUMS, sums.values(), strict=True)))
    return site


def test_mnist_is_downloaded_trained_on_and_analysed(run, mnist_site, cache, tmp_path):
    options = ("-o", "task=mnist", "-o", "download=true", "--quiet")
    code, _, err = run(
        "train", "mlp", *options, "-o", "hidden=6", "-o", "steps=5", "--out", tmp_path / "model"
    )
    assert (code, err) == (0, "")
    assert files_in(cache) == sorted(f"mnist/{name}" for name in mnist.CHECKSUMS)
    model = ("-o", f"model={tmp_path / 'model' / 'model.safetensors'}")
    assert run("analyze", "mlp", *options, *model, "--out", tmp_path / "run")[0] == 0
    assert len(mnist_site.asked) == 4


def test_without_a_network_the_command_says_what_to_do(run, mnist_site):
    mnist_site.close()
    result = run("train", "mlp", "-o", "task=mnist", "-o", "download=true", "--out", "x")
    fails(result, 4, "cannot be reached", "give its folder with -o data=DIR")


def test_mnist_that_was_changed_is_not_kept(mnist_site, cache):
    mnist_site.add("t10k-labels-idx1-ubyte.gz", b"changed")
    with pytest.raises(DataError, match=r"t10k-labels.* right checksum"):
        mnist.download_mnist()
    assert not (cache / "mnist" / "t10k-labels-idx1-ubyte.gz").exists()


def test_nothing_is_downloaded_unasked(mnist_site, cache):
    module = torch.nn.Sequential(torch.nn.Linear(12, 10))
    with pytest.raises(UsageError, match="needs the folder"):
        MLP(MLPOptions(task="mnist"), module=module)
    backend = MLP(MLPOptions(task="mnist", download=True), module=module)
    assert mnist_site.asked == []
    assert backend.samples("train") == 30
    assert not cache.is_file()
    assert len(mnist_site.asked) == 4
