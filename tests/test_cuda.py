"""The same numbers on a GPU: every section, the bases, a whole analysis. Skipped without one."""

import os

import pytest
import torch
from helpers.networks import Toy, random_network
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import KINDS, random_section
from safetensors.torch import save_file
from torch import nn

import libgraph as lg
from libgraph.backend import own_state
from libgraph.bases.method import EIGH_ON_DEVICE, Truncation, eigenbasis
from libgraph.sections.quadrature import Quadrature
from libgraph_backends.pytorch import Torch

DEVICE = os.environ.get("LIBGRAPH_TESTS_DEVICE", "cuda")
"""`cpu` shows whether these tests themselves are right, where there is no GPU."""

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU here"
    ),
]


@pytest.mark.parametrize("rule", ["gradient", "gauss-legendre:2"])
@pytest.mark.parametrize("kind", KINDS)
def test_sections(kind, rule):
    section, x = random_section(kind, 4, 3), normal(seeded(1), 3, 5, 4)
    features, decoder = normal(seeded(2), 3, 5, 6), normal(seeded(3), 6, 4)
    keep = torch.rand(4, 3, generator=seeded(4)) < 0.5

    def results(device):
        at = section.to(device)
        here = [each.to(device) for each in (x, features, decoder)]
        return [
            at(here[0]),
            at.jacobian_gram(here[0]),
            at.interactions(*here, Quadrature.parse(rule)),
            at.masked(here[0], keep.to(device)),
        ]

    expected = results("cpu")
    found = results(DEVICE)
    assert {each.device.type for each in found} == {DEVICE}
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours.cpu(), theirs)


@pytest.mark.parametrize("size", [5, EIGH_ON_DEVICE + 3])
def test_eigenproblems_stay_on_the_device(size):
    root = normal(seeded(0), size, size)
    gram = root @ root.T
    truncation = Truncation.parse("rel:1e-12")
    values, vectors = eigenbasis(gram.to(DEVICE), truncation, "Gram")
    expected, _ = eigenbasis(gram, truncation, "Gram")
    assert values.device.type == DEVICE
    assert vectors.device.type == DEVICE
    assert_close(values.cpu(), expected)
    assert_close((vectors * values @ vectors.T).cpu(), gram)


def close_runs(ours, theirs, bound=1e-8, names=None):
    """Two runs of which importances and edges are equal, to a share of the largest."""
    for name in names or ours.basis_names:
        for layer, basis in ours.bases(name).items():
            assert_close(basis.importance.cpu(), theirs.bases(name)[layer].importance.cpu(), bound)
        for pair, edges in ours.edges(name).items():
            assert_close(edges.cpu(), theirs.edges(name)[pair].cpu(), bound)


def on_both(backend, **options):
    return [lg.analyze(backend, device=device, **options) for device in ("cpu", DEVICE)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_whole_analysis(dtype):
    network = random_network(["tanh", "attention", "linear"], [4, 4, 4, 3], rotated=False)
    backend = Toy(network.double(), normal(seeded(0), 40, 3, 4))
    runs = on_both(backend, dtype=dtype, truncate="rel:1e-4")
    close_runs(*runs, 1e-8 if dtype == "float64" else 1e-3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("modular-addition", {}),
        ("lm", {"sequences": 16, "n_ctx": 32, "layers": "0:1"}),
        ("mlp", {}),
        ("mlp", {"task": "digits"}),
    ],
    ids=lambda part: part if isinstance(part, str) else "-".join(map(str, part.values())),
)
def test_bundled_models_need_the_same_edges(name, options):
    """In the basis of neurons: eigenvectors of values that are nearly equal are anybody's."""
    for module in {"mlp": ["sklearn"], "lm": ["transformer_lens"]}.get(name, []):
        pytest.importorskip(module)
    backend = lg.load_backend(name, **options)
    asked = {
        "basis": "neuron",
        "beside": ("lib",),
        "limit": 300,
        "seeds": 2,
        "truncate": "rel:1e-6",
    }
    ours, theirs = on_both(backend, **asked)
    close_runs(ours, theirs, names=["neuron"])
    for layer, basis in ours.bases("lib").items():
        assert_close(basis.importance.cpu(), theirs.bases("lib")[layer].importance.cpu(), 1e-8)
    ours, theirs = (run.metrics.model_dump()["bases"]["neuron"] for run in (ours, theirs))
    for needed in ("edges_required", "features_required"):
        assert torch.equal(numbers(ours[needed]), numbers(theirs[needed]))


def test_every_basis_and_option():
    network = random_network(["tanh", "linear"], [4, 5, 3], rotated=False)
    backend = Toy(network.double(), normal(seeded(0), 60, 2, 4))
    linear = {"lib", "pca", "neuron", "global", "random"}
    options = {"halves": True, "curves": True, "lesions": True, "integration": "gauss-legendre:2"}
    runs = on_both(backend, basis="lib", beside=tuple(sorted(linear - {"lib"})), draws=2, **options)
    close_runs(*runs)
    signs = on_both(backend, signs=4)
    close_runs(*signs)
    compared = [
        lg.compare_bases(backend, ["lib", "pca"], device=place, draws=2).runs[0]
        for place in ("cpu", DEVICE)
    ]
    close_runs(*compared)


def test_sparse_and_learned_bases():
    network = random_network(["tanh", "linear"], [4, 5, 3], rotated=False)
    backend = Toy(network.double(), normal(seeded(0), 200, 1, 4))
    for basis, more in (
        ("sparse", {"sparse_steps": 5}),
        ("dictionary", {"dictionary_steps": 20, "dictionary_latents": 2, "dictionary_active": 2}),
    ):
        run = lg.analyze(backend, basis=basis, device=DEVICE, ablate=False, **more)
        assert {edges.device.type for edges in run.edges(basis).values()} == {DEVICE}


def test_dictionaries(tmp_path):
    network = random_network(["tanh", "relu"], [4, 5, 3], seed=0, rotated=False)
    backend = Toy(network, normal(seeded(0), 60, 2, 4))
    tensors = {}
    for layer in network.node_layers[:2]:
        encoder = normal(seeded(layer.size), layer.size - 1, 9)
        tensors[f"{layer.name}/decoder"] = encoder.T.contiguous() / 3
        tensors[f"{layer.name}/encoder"] = encoder
        tensors[f"{layer.name}/threshold"] = torch.full((9,), 0.2).double()
    save_file(tensors, tmp_path / "latents.safetensors")
    close_runs(*on_both(backend, basis=str(tmp_path / "latents.safetensors")))


def test_modules_of_your_own():
    generator = seeded(0)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4)
    ).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator)
    images = normal(generator, 30, 2, 4, 4)
    backend = Torch(module=module, data=(images, images.flatten(1)[:, :4]))
    close_runs(*on_both(backend, truncate="rel:1e-6"))


def test_degeneracy():
    network = random_network(["relu", "linear"], [4, 5, 3], rotated=False)
    backend = Toy(network.double(), normal(seeded(0), 50, 1, 4))
    ours, theirs = (
        lg.measure_degeneracy(backend, device=device, samples=50, draws=2, seed=0).model_dump()
        for device in ("cpu", DEVICE)
    )
    assert_close(numbers(theirs), numbers(ours), 1e-6)


def numbers(figures):
    """All numbers of nested figures, in order, seconds left out."""
    if isinstance(figures, dict):
        parts = [numbers(figures[key]) for key in figures if key not in {"seconds", "options"}]
    elif isinstance(figures, (list, tuple)):
        parts = [numbers(part) for part in figures]
    else:
        real = isinstance(figures, (int, float)) and not isinstance(figures, bool)
        return torch.tensor([float(figures)] if real else []).double()
    return torch.cat([torch.empty(0).double(), *parts])


def test_what_was_interrupted_goes_on(tmp_path):
    network = random_network(["tanh", "linear"], [4, 5, 3], rotated=False)
    backend = Toy(network.double(), normal(seeded(0), 40, 1, 4))

    def stop(stage, done, total, note=""):
        if stage.startswith("edge ablation"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lg.analyze(backend, out=tmp_path / "run", device=DEVICE, progress=stop)
    run = lg.analyze(backend, out=tmp_path / "run", device=DEVICE)
    close_runs(run, lg.open_run(tmp_path / "run"), 0)
    close_runs(run, lg.analyze(backend, device=DEVICE), 0)


def test_convolutions_of_single_precision_keep_all_digits():
    images, kernel = normal(seeded(0), 8, 16, 16, 16), normal(seeded(1), 16, 16, 3, 3)
    expected = nn.functional.conv2d(images, kernel)
    with own_state():
        found = nn.functional.conv2d(images.float().to(DEVICE), kernel.float().to(DEVICE))
    # 144 products, each rounded to 24 bits: TF32 would be at 1e-3.
    assert_close(found.double().cpu(), expected, 144 * 2.0**-23)


def test_the_command_line(run, tmp_path):
    pytest.importorskip("sklearn")
    out = tmp_path / "run"
    code, _, err = run("analyze", "mlp", "--device", DEVICE, "--out", out)
    assert code == 0, err
    code, _, err = run("ablate", out, "module:0")
    assert code == 0, err
