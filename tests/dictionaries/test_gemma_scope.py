"""Dictionaries of Gemma Scope, archives of arrays in folders whose names say what they are of."""

import io
import zipfile

import numpy as np
import pytest
import torch
from helpers.numbers import assert_close, normal, seeded

from libgraph.dictionaries.matching import dictionary_of_layer, matched
from libgraph.dictionaries.registry import read_dictionaries
from libgraph.dictionaries.weights import TranscoderWeights
from libgraph.errors import LibgraphError, UsageError
from libgraph.files.archives import read_arrays
from libgraph.network.network import NodeLayer

D, K = 6, 16
LAYER = NodeLayer("stream", D + 1, hooks=("blocks.3.hook_resid_post",))
PLACE = "gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_71"


def arrays():
    generator = seeded(1)
    return {
        "W_enc": normal(generator, D, K),
        "b_enc": normal(generator, K),
        "W_dec": normal(generator, K, D),
        "b_dec": normal(generator, D),
        "threshold": normal(generator, K),
    }


def saved(folder, place=PLACE, save=np.savez, **changes):
    """The arrays, with changes, where Gemma Scope has them."""
    w = {name: array for name, array in (arrays() | changes).items() if array is not None}
    (folder / place).mkdir(parents=True)
    save(
        folder / place / "params.npz", **{name: array.float().numpy() for name, array in w.items()}
    )
    return {name: array.float().double() for name, array in w.items()}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_latents_are_those_of_the_formats_definition(tmp_path, save):
    w = saved(tmp_path, save=save)
    basis = dictionary_of_layer(
        LAYER, matched(read_dictionaries(tmp_path), [LAYER])["stream"], torch.ones(1)
    )
    h = normal(seeded(2), 40, D)
    x = torch.cat([h, torch.ones(40, 1).double()], dim=1)
    pre = h @ w["W_enc"] + w["b_enc"]
    z = pre.relu() * (pre > w["threshold"])
    assert 0.05 < float((z > 0).double().mean()) < 0.5
    assert float(((pre > 0) & (z == 0)).sum()) > 0
    assert_close(basis.latents(x)[:, basis.isolated :], z)
    assert_close((basis.latents(x) @ basis.decoder)[:, :-1], z @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize(
    ("repository", "hook"),
    [
        ("gemma-scope-9b-it-res", "blocks.3.hook_resid_post"),
        ("models--google--gemma-scope-2b-pt-mlp/snapshots/0ab1", "blocks.3.hook_mlp_out"),
        ("gemma-scope-2b-pt-att", "blocks.3.attn.hook_z"),
        ("gemma-scope-2b-pt-transcoders", "blocks.3.ln2.hook_normalized"),
    ],
)
def test_names_of_folders_say_the_place(tmp_path, repository, hook):
    saved(tmp_path, f"{repository}/layer_3/width_16k/average_l0_71")
    # Also of folders around the one that is given.
    (found,) = read_dictionaries(tmp_path / repository / "layer_3")
    assert found.hook == hook
    assert isinstance(found, TranscoderWeights) == ("transcoders" in repository)
    if isinstance(found, TranscoderWeights):
        assert found.output == "blocks.3.hook_mlp_out"


@pytest.mark.parametrize("place", ["layer_3/average_l0_71", "my-res/third", "my-residue/layer_3"])
def test_folders_that_do_not_say_the_place_are_refused(tmp_path, place):
    saved(tmp_path, place)
    with pytest.raises(UsageError, match="does not say where it reads: Gemma Scope tells by names"):
        read_dictionaries(tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"threshold": None}, "holds no 'threshold', which its kind of dictionary has"),
        ({"threshold": torch.zeros(3)}, "'threshold' is 3, which does not fit"),
        ({"b_dec": torch.full((D,), torch.nan)}, "NaN or infinite"),
        ({"W_dec": torch.zeros(D, K)}, "'W_dec' is 6 × 16, which does not fit"),
    ],
)
def test_mistakes_are_named(tmp_path, change, expected):
    saved(tmp_path, **change)
    with pytest.raises(UsageError, match=expected):
        read_dictionaries(tmp_path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">f4", "<f8", "<f2", "<i8", "|b1", "<u2"])
def test_arrays_of_any_order_and_size_are_read(tmp_path, order, dtype):
    array = np.asarray(np.arange(12).reshape(3, 4) % 5, dtype, order=order)
    np.savez(tmp_path / "a.npz", x=array, y=np.float32(2), z=np.zeros((0, 3)))
    found = read_arrays(tmp_path / "a.npz")
    assert np.array_equal(found["x"].numpy(), array)
    assert float(found["y"]) == 2
    assert found["z"].shape == (0, 3)


def member(shape, dtype="<f4", data=b""):
    """A member whose header says what its data is not."""
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    file = io.BytesIO()
    np.lib.format.write_array_header_2_0(file, header)
    return file.getvalue() + data


BAD = {
    "objects": (member((1,), "|O", b"(lp0\n."), "is of object, not of numbers: it was refused"),
    "words": (member((1,), "<U1", b"\0\0\0\0"), "not of numbers"),
    "too few": (member((10**12, 10**12)), "fewer or more numbers than it says"),
    "too many": (member((1,), data=b"\0" * 8), "fewer or more numbers"),
    "less than none": (member((-2, -1), data=b"\0" * 8), "is no array|fewer or more"),
    "too long": (member((0, 2**70), data=b""), "damaged or no NumPy archive"),
    "no magic": (b"nothing of the kind", "is no array of NumPy's format"),
    "nothing": (b"", "is no array of NumPy's format"),
}


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("order", "CF")
def test_arrays_of_all_versions_of_the_format_are_read(tmp_path, version, order):
    array = np.asarray(np.arange(6.0).reshape(2, 3), order=order)
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as file,
    ):
        np.lib.format.write_array(file, array, (version, 0))
    assert np.array_equal(read_arrays(tmp_path / "a.npz")["x"], array)


@pytest.mark.parametrize("kind", BAD)
def test_archives_of_anything_else_are_refused(tmp_path, kind):
    content, expected = BAD[kind]
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(LibgraphError, match=expected):
        read_arrays(tmp_path / "a.npz")


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("libgraph.files.archives.SMALL", 1000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(10**5))
    with pytest.raises(LibgraphError, match="would unpack to more than 10 times its size"):
        read_arrays(tmp_path / "a.npz")


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 and then nothing")
    with pytest.raises(LibgraphError, match=r"damaged or no NumPy archive \(.npz\)"):
        read_arrays(tmp_path / "a.npz")
    with pytest.raises(LibgraphError, match="cannot be read"):
        read_arrays(tmp_path / "b.npz")
