"""Arrays as the page reads them."""

import base64

import numpy as np

from libgraph.report.page.packed import packed


def unpacked(values, kind):
    (text,) = packed(values, kind).values()
    return np.frombuffer(base64.b64decode(text), f"<{kind}")


def test_arrays_are_what_they_were():
    assert unpacked([[1, -2], [3, 4]], "i4").tolist() == [1, -2, 3, 4]
    assert unpacked([0.5, -1.5], "f4").tolist() == [0.5, -1.5]


def test_numbers_beyond_single_precision_stay_finite():
    values = np.array([1e300, -1e300, 2.0, 0.0, np.nan, np.inf])
    most = float(np.finfo(np.float32).max)
    found = unpacked(values, "f4")
    assert found[:4].tolist() == [most, -most, 2.0, 0.0]
    assert np.isnan(found[4])
    assert np.isposinf(found[5])
