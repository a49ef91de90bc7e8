"""Figures of runs that were never made: what a test does not name is empty."""

from __future__ import annotations

from libgraph.runs.metrics import SCHEMA, Metrics

NO_MODULES = {
    "count": 0, "modularity": 0.0, "agreement": 1.0, "within_concept": None, "table": []
}  # fmt: skip


NO_PARTITION = {
    "basis": "lib", "resolution": 1.0, "seed": 0, "seeds": 1, "modularity": 0.0, "agreement": 1.0,
    "partition": {},
}  # fmt: skip


def metrics_of(bases: dict[str, dict], **changes) -> Metrics:
    """Metrics of these bases, whose figures are given as in `metrics.json`.

    Args:
        bases: by name, any figures of each.
        changes: other fields.
    """
    return Metrics.model_validate(
        {
            "schema": SCHEMA,
            "backend": "toy",
            "score": {"name": "accuracy", "test": 1.0},
            "node_layers": [],
            "bases": {name: basis_of_metrics(**figures) for name, figures in bases.items()},
            "modules": NO_PARTITION,
            "seconds": {},
        }
        | changes
    )


def basis_of_metrics(**figures) -> dict:
    """The figures of a basis, the rest empty."""
    return {
        "features": {},
        "features_required": {},
        "edges_required": {},
        "epsilon": {},
        "sparsity": {},
        "modules": NO_MODULES,
    } | figures


def sparsity_of(participation_ratio: float) -> dict[str, float]:
    """Measures of sparsity, of which one is of interest."""
    return {
        "hoyer": 0.5, "gini": 0.5, "participation_ratio": participation_ratio, "top_share": 0.5
    }  # fmt: skip
