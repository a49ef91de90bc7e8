"""Small MLPs whose free directions are known."""

import itertools

import torch

from helpers.numbers import normal, seeded
from helpers.sections import AppendOne
from libgraph.bases.method import Truncation
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import Linear, SkipMLP

SHARP = Truncation(True, 1e-10)


def mlp(matrices, activation=torch.relu):
    """Units that are the next node layer's coordinates, and a linear map at the end."""
    layers = [NodeLayer(f"l{i}", len(matrix)) for i, matrix in enumerate(matrices)]
    last = NodeLayer(f"l{len(matrices)}", matrices[-1].shape[1], constant=False, rotated=False)
    sections = []
    for matrix in matrices[:-1]:
        rows, units = matrix.shape
        skip = torch.zeros(rows, units + 1).double()
        skip[-1, -1] = 1
        sections.append(SkipMLP(skip, matrix, torch.eye(units, units + 1).double(), activation))
    return Network(AppendOne(), [*sections, Linear(matrices[-1])], [*layers, last])


def random_mlp(*sizes, seed=1):
    generator = seeded(seed)
    shapes = itertools.pairwise(sizes)
    return [normal(generator, rows + 1, columns) for rows, columns in shapes]
