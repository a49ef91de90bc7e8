"""Shares in words: short, and neither all nor nothing where they are neither."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libgraph_backends.shared.shares import percent


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0%"),
        (1.0, "100%"),
        (0.744, "74%"),
        (0.0019, "0.2%"),
        (0.9975, "99.8%"),
        (0.99995, "99.995%"),
        (0.00004, "0.004%"),
        (1e-9, "0%"),
        (1 - 1e-9, "100%"),
    ],
)
def test_percent(share, text):
    assert percent(share) == text


@given(share=st.floats(0, 1))
def test_percent_is_near_the_share(share):
    assert float(percent(share)[:-1]) == pytest.approx(100 * share, abs=0.51)
