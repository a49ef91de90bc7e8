"""Networks in any coordinates, and edges of any size, of which circuits are chosen."""

import dataclasses
from itertools import pairwise

import torch

from helpers.dictionaries import normalised_dictionary, random_dictionary
from helpers.networks import Toy, random_network
from helpers.numbers import normal, seeded
from libgraph.backend.data import Data
from libgraph.interventions.subject import Subject
from libgraph.network.basis import Basis

NETWORKS = {
    "mlp": (["tanh", "tanh", "linear"], [4, 5, 4, 3]),
    "attention": (["attention", "tanh", "linear"], [3, 4, 3, 4]),
    "norm": (["variance", "division", "convolution"], [3, 4, 3, 4]),
}


def random_basis(layer, generator):
    """Any directions, the constant a feature of its own."""
    encoder = normal(generator, layer.size, layer.size)
    if layer.constant:
        encoder[:, 0] = torch.eye(layer.size)[-1]
    decoder = torch.linalg.inv(encoder)
    return Basis(encoder, decoder, torch.ones(layer.size), int(layer.constant), layer.rotated)


def subject_of(kind, *, backend=Toy, positions=3, samples=7):
    kinds, sizes = NETWORKS[kind]
    network = random_network(kinds, sizes, seed=1, rotated=False)
    # Small ones keep what stands under the norm's root positive in any basis.
    inputs = normal(seeded(3), samples, positions, sizes[0]) * (0.1 if kind == "norm" else 1)
    toy = backend(network, inputs)
    generator = seeded(5)
    bases = {layer.name: random_basis(layer, generator) for layer in network.node_layers}
    data = Data(toy, "test", 4)
    return Subject(network, toy, bases, data, Data(toy, "train", 4))


def random_edges(subject, seed=0):
    """Interactions are any positive numbers: what they choose is what is tested."""
    generator = seeded(seed)
    return {
        (a, b): normal(generator, len(subject.bases[b]), len(subject.bases[a])).square()
        for a, b in pairwise(subject.layers)
    }


DICTIONARIES = {
    "threshold": lambda size, seed: random_dictionary(size, 6, seed, threshold=0.3),
    "topk": lambda size, seed: random_dictionary(size, 6, seed, k=3),
    "normalised": lambda size, seed: normalised_dictionary(size, 6, seed, k=3)[0],
}


def latent_subject(kind, dictionary):
    """Dictionaries at the second and third node layer."""
    subject = subject_of(kind)
    bases = dict(subject.bases)
    for number, name in enumerate(("l1", "l2")):
        bases[name] = DICTIONARIES[dictionary](subject.named(name).size, number + 3)
    return dataclasses.replace(subject, bases=bases)
