"""The graph of a network's own coordinates, hidden units among them, for Gephi.

Node layers are left in their neuron basis, and a section with hidden units is cut in two at them,
so that units are nodes: x → (φ(xA), x) → φ(xA)B + xS. Nodes say how much of their coordinate is
used by the data, whether it is dead, and to which group of synchronised units it belongs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn.functional import pad

from libgraph.backend.data import Data
from libgraph.bases.method import Truncation
from libgraph.bases.neuron import neuron
from libgraph.bases.statistics import node_statistics
from libgraph.degeneracy.figures import Skipped, UnitFigures
from libgraph.degeneracy.weights.ranks import GramSpectrum
from libgraph.edges.graph_of import graph_of
from libgraph.edges.interactions import interactions
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import Progress
from libgraph.report.graphml import Attributes
from libgraph.sections import GatedMLP, Linear, Section, SkipMLP
from libgraph.sections.quadrature import Quadrature

HIDDEN = "hidden"


def unit_graph(
    network: Network,
    data: Data,
    units: Mapping[str, UnitFigures | Skipped],
    truncation: Truncation,
    progress: Progress,
) -> tuple[InteractionGraph, Attributes]:
    """Interactions between coordinates and units, and what nodes are known to be.

    Args:
        network: as it is.
        data: what interactions are averaged over.
        units: by name of the section, which of its units act as one.
        truncation: below which eigenvalue a direction is unused.
        progress: told how far it is.

    Returns:
        The graph, and by node layer `rank_share` (the diagonal of the projection onto the range of
        the activations: 0 unused, 1 independent of the others; it adds up to the rank), `dead`
        (1 or 0) and `synchronisation_group` (-1 for none).
    """
    unfolded, hidden = with_hidden_layers(network)
    statistics = node_statistics(unfolded, data, progress)
    bases = neuron(unfolded, statistics, data, truncation, progress)
    edges = interactions(unfolded, {"neuron": bases}, data, Quadrature.gradient(), progress)
    shares, dead, groups = {}, {}, {}
    for layer in unfolded.node_layers:
        name, basis, moments = layer.name, bases[layer.name], statistics[layer.name]
        second = moments.covariance + torch.outer(moments.mean, moments.mean)
        spectrum = GramSpectrum.of(second, truncation, f"Gram at node layer '{name}'")
        share = spectrum.projection.diagonal()
        # Nodes are features of the neuron basis: the isolated ones first.
        order = basis.decoder.abs().argmax(1)
        shares[name] = share[order].cpu().numpy()
        dead[name] = (second.diagonal()[order] == 0).long().cpu().numpy()
        if name in hidden:
            section = units[hidden[name]]
            group_of = np.full(layer.size, -1)
            # Units without gates have no groups.
            groups_here = () if isinstance(section, Skipped) else section.groups
            for number, members in enumerate(groups_here):
                group_of[list(members)] = number
            groups[name] = group_of[order.cpu().numpy()]
    graph = graph_of(bases, edges["neuron"])
    return graph, {"rank_share": shares, "dead": dead, "synchronisation_group": groups}


def with_hidden_layers(network: Network) -> tuple[Network, dict[str, str]]:
    """The same map with a node layer at the units of each section that has some.

    Returns:
        The network, and which section's units each node layer that begins with units holds. A
        section that is used several times is called after its first use, as in `named_sections`.
    """
    names: dict[Section, str] = {}
    sections: list[Section] = []
    layers: list[NodeLayer] = [network.node_layers[0]]
    units: dict[str, str] = {}
    for a, b, section in network.pairs:
        name = names.setdefault(section, f"{a.name}->{b.name}")
        gated = isinstance(section, GatedMLP)
        if isinstance(section, SkipMLP) and not gated and a.constant:
            count, size = section.outer.shape[0], section.d_in
            if own_coordinates(section):
                units[b.name] = name
                sections.append(section)
            else:
                hidden = NodeLayer(f"{b.name} {HIDDEN}", count + size)
                units[hidden.name] = name
                layers.append(hidden)
                eye = torch.eye(size).to(section.skip)
                outer = torch.eye(count).to(section.outer)
                sections += [
                    SkipMLP(
                        pad(eye, (count, 0)),
                        section.inner,
                        pad(outer, (0, size)),
                        section.activation,
                    ),
                    Linear(torch.cat([section.outer, section.skip])),
                ]
        else:
            sections.append(section)
        layers.append(b)
    return Network(network.embed, sections, layers), units


def own_coordinates(section: SkipMLP) -> bool:
    """Whether the units are the next node layer's coordinates, and nothing is added to them."""
    count = section.outer.shape[0]
    alone = not bool(section.skip[:, :count].any())
    eye = torch.eye(count, section.d_out).to(section.outer)
    return alone and section.d_out in (count, count + 1) and torch.equal(section.outer, eye)
