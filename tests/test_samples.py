"""The border: samples become rows in units, rows go back to the form of the samples; what is refused is named."""

import numpy as np
import pandas as pd
import pytest
import torch
from common import CENTRES
from hypothesis import given, strategies as st
from strategies import cloud, seeds
from tolerances import FLOAT32, rounding

from nsgf import NSGF, spread
from nsgf.samples import Calendar, Frame, features, in_form_of, rows, shape_of, snapshots


@given(seed=seeds, scale=st.floats(1e-6, 1e6))
def test_units_have_the_targets_mean_and_unit_deviation_and_lead_back(seed, scale):
    rng = np.random.default_rng(seed)
    x, y = (scale * cloud(rng, n, 3) for n in (12, 20))
    frame = Frame.of(x, y, (3,))
    assert frame.scale == pytest.approx(np.sqrt((spread(x) ** 2 + spread(y) ** 2) / 6))
    unit = frame.to_unit(y)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit.mean(axis=0), 0.0, atol=FLOAT32)
    np.testing.assert_allclose(frame.to_data(unit), y, rtol=0, atol=10 * rounding(y.astype(np.float32)))


@pytest.mark.parametrize(("x", "y", "scale"), [([[0.0, 0.0]], [[3.0, 4.0]], 5 / 2**0.5), ([[1.0]], [[1.0]], 1.0)])
def test_the_unit_of_single_points_is_their_distance_if_any(x, y, scale):
    assert Frame.of(np.array(x), np.array(y), (len(x[0]),)).scale == pytest.approx(scale)


def test_images_are_rows_and_come_back_as_images():
    X = torch.arange(24.0).reshape(2, 1, 3, 4)
    z = rows(X, "X")
    assert (z.shape, z.dtype, shape_of(X)) == ((2, 12), np.float64, (1, 3, 4))
    back = in_form_of(X, z)
    assert back.dtype == torch.float32
    assert torch.equal(back, X)
    assert in_form_of(X, np.stack([z] * 5)).shape == (5, 2, 1, 3, 4)
    assert (shape_of([[1.0, 2.0]]), in_form_of([[1.0, 2.0]], z).shape) == ((2,), (2, 12))


def test_the_columns_of_a_frame_are_kept_by_name():
    named = features(pd.DataFrame(CENTRES, columns=["a", "b"]))
    assert (named.n, named.names.tolist()) == (2, ["a", "b"])
    with pytest.raises(AttributeError, match="no data frame"):
        features(CENTRES).columns  # noqa: B018  a property that raises


@pytest.mark.parametrize(
    ("X_src", "X_tgt", "words"),
    [
        ([[0.0, np.nan]] * 3, np.ones((3, 2)), "X_src.*NaN"),
        (np.ones((3, 2)), [[0.0, np.inf]] * 3, "X_tgt.*infinity"),
        (np.empty((0, 2)), np.ones((3, 2)), r"X_src.*0 sample"),
        (np.empty((3, 0)), np.ones((3, 2)), r"X_src.*0 feature"),
        (np.ones((1, 2)), np.ones((3, 2)), r"X_src.*1 sample"),
        (np.ones((3, 2)), np.ones((3, 3)), "X_src has 2 features but X_tgt has 3.*Encode"),
        (np.ones(3), np.ones((3, 2)), "X_src.*Reshape"),
        (np.ones((3, 2)), np.ones((3, 2, 2)), "X_src has 2 features but X_tgt has 4.*Encode"),
        ([["a", "b"]] * 3, np.ones((3, 2)), "X_src.*string"),
        (np.ones((3, 2)), np.array([[{}, 1]] * 3, dtype=object), "X_tgt"),
        (None, None, "X_tgt"),
    ],
    ids=["nan", "inf", "no-rows", "no-columns", "one-row", "widths", "1-D", "3-D", "text", "objects", "none"],
)
def test_a_bad_sample_is_named_before_any_work(X_src, X_tgt, words):
    with pytest.raises((ValueError, TypeError), match=rf"(?s){words}"):
        NSGF().fit(X_src, X_tgt)


def test_data_frames_with_other_columns_are_refused():
    frame = pd.DataFrame(CENTRES + 1.0, columns=["a", "b"])
    for samples in ((frame, frame[["b", "a"]]), ({0.0: frame, 1.0: frame[["b", "a"]]},)):
        with pytest.raises(ValueError, match=r"different columns, or another order.*Select the same"):
            NSGF().fit(*samples)


def test_snapshots_are_sorted_by_time():
    X = {2.0: CENTRES, -1: CENTRES + 1.0, "0.5": CENTRES + 2.0}
    for form in (X, list(X.items()), iter(X.items())):
        calendar, times, xs, as_given = snapshots(form)
        assert (calendar, times) == (Calendar(), (-1.0, 0.5, 2.0))
        for x, own, shift in zip(xs, as_given, (1.0, 2.0, 0.0), strict=True):
            np.testing.assert_array_equal(x, CENTRES + shift)
            np.testing.assert_array_equal(own, CENTRES + shift)
