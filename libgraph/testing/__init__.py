"""Checks that a section, or a backend, keeps its side of the contract: for whoever writes one.

    from libgraph.testing import check_backend, check_section

    def test_backend():
        check_backend(MyBackend())

Each check fails with an `AssertionError` that says what is wrong with which section or node layer,
and by how much. The project's own tests use them.
"""

from libgraph.testing.backends import check_backend
from libgraph.testing.jacobians import Jacobians
from libgraph.testing.sections import CHECKS, check_section

__all__ = ["CHECKS", "Jacobians", "check_backend", "check_section"]
