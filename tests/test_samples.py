"""The border: samples become rows in units, rows go back to the form of the samples; what is refused is named."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from common import BARELY, CENTRES, ignore_report, samples
from hypothesis import given, strategies as st
from scipy import sparse
from strategies import cloud, seeds
from tolerances import FLOAT32, rounding

from nsgf import NSGF, NSGFPlusPlus, spread
from nsgf.samples import Calendar, Frame, features, in_form_of, rows, same_shape, shape_of, snapshots

MASKED = np.ma.masked_equal(CENTRES, 5.0)


@given(seed=seeds, scale=st.floats(1e-6, 1e6), shift=st.floats(-1e8, 1e8))
def test_units_have_no_mean_and_unit_deviation_and_lead_back(seed, scale, shift):
    rng = np.random.default_rng(seed)
    x, y = (scale * cloud(rng, n, 3) for n in (12, 20))
    y = y + scale * shift
    frame = Frame.of([x, y], (3,))
    assert frame.scale == pytest.approx(np.sqrt((spread(x) ** 2 + spread(y) ** 2) / 6), rel=1e-6)
    for z, s in ((x, 0.0), (y, 1.0)):
        unit = frame.to_unit(z, s)
        assert unit.dtype == np.float32
        np.testing.assert_allclose(unit.mean(axis=0), 0.0, atol=FLOAT32)
        back = rounding(unit * scale) * 10 + 1e-15 * abs(z).max()
        np.testing.assert_allclose(frame.to_data(unit, s), z, rtol=0, atol=back)
    np.testing.assert_allclose(frame.origin(0.25), 0.75 * x.mean(axis=0) + 0.25 * y.mean(axis=0), rtol=1e-9)


def test_the_origin_of_a_course_goes_from_mean_to_mean_at_even_pace():
    frame = Frame.of([np.full((2, 1), z) for z in (0.0, 4.0, -2.0)], (1,), (0.0, 0.5, 1.0))
    np.testing.assert_allclose([frame.origin(s).item() for s in (0.0, 0.25, 0.5, 0.75, 1.0)], [0, 2, 4, 1, -2])


def test_a_constant_far_from_zero_has_no_spread():
    x = np.full((7, 1), 0.1) * 1e20
    assert Frame.of([x, x], (1,)).scale == 1.0
    assert (Frame.of([x, x], (1,)).to_unit(x) == 0).all()


@pytest.mark.parametrize(("x", "y", "scale"), [([[0.0, 0.0]], [[3.0, 4.0]], 5 / 2**0.5), ([[1.0]], [[1.0]], 1.0)])
def test_the_unit_of_single_points_is_their_distance_if_any(x, y, scale):
    assert Frame.of([np.array(x), np.array(y)], (len(x[0]),)).scale == pytest.approx(scale)


def test_images_are_rows_and_come_back_as_images():
    X = torch.arange(24.0).reshape(2, 1, 3, 4)
    z = rows(X, "X")
    assert (z.shape, z.dtype, shape_of(X)) == ((2, 12), np.float64, (1, 3, 4))
    back = in_form_of(X, z, (12,))
    assert back.dtype == torch.float32
    assert torch.equal(back, X)
    assert in_form_of(X, np.stack([z] * 5), (12,)).shape == (5, 2, 1, 3, 4)
    assert (shape_of([[1.0, 2.0]]), in_form_of([[1.0, 2.0]], z, (3, 4)).shape) == ((2,), (2, 3, 4))


@pytest.mark.parametrize(
    "form",
    [
        np.ndarray.tolist,
        lambda X: tuple(map(tuple, X)),
        lambda X: X.astype(">f4"),
        lambda X: X.astype(object),
        lambda X: np.asfortranarray(X)[::-1][::-1],
        lambda X: np.ma.array(X),
        lambda X: X.astype(np.float16),
        pd.DataFrame,
        lambda X: pd.DataFrame(X).convert_dtypes(),
        pl.DataFrame,
        lambda X: torch.tensor(X, requires_grad=True),
        lambda X: torch.tensor(X).bfloat16(),
        lambda X: torch.tensor(X).half(),
    ],
)
def test_samples_of_every_form_are_the_same_rows_and_floats_keep_their_dtype(form):
    X = form(CENTRES)
    z = rows(X, "X")
    np.testing.assert_array_equal(z, CENTRES)
    back, dtype = in_form_of(X, z, (2,)), getattr(X, "dtype", np.dtype(float))
    assert back.dtype == (np.dtype(float) if dtype is np.dtype(object) else dtype)
    assert not getattr(back, "requires_grad", False)
    np.testing.assert_array_equal(np.asarray(back.float() if torch.is_tensor(back) else back), CENTRES)


@ignore_report
def test_low_precision_comes_back_in_low_precision():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    model = NSGF(**BARELY).fit(x, x + 1)
    assert model.transform(x).dtype == model.trajectory(x).dtype == torch.bfloat16


# %% Layout


@ignore_report
def test_images_in_another_layout_are_refused():
    a = np.random.default_rng(0).random((40, 3, 4, 4))
    last = a.transpose(0, 2, 3, 1)
    for fitted in ((a, last), (last, a), ({0.0: a, 1.0: last},)):
        with pytest.raises(ValueError, match=r"samples of shape .* but .* of .* give both in one layout"):
            NSGF().fit(*fitted)
    model = NSGF(**BARELY).fit(a, a[::-1])
    for use in (model.transform, model.trajectory, model.score, lambda z: model.score(a, z)):
        with pytest.raises(ValueError, match=r"samples of shape \(4, 4, 3\) but the target of the fit of \(3, 4, 4\)"):
            use(last)
    assert model.transform(a.reshape(40, 48)).shape == (40, 48)
    assert model.transform(list(a)).shape == a.shape


@pytest.mark.parametrize(("shape", "other"), [((48,), (3, 4, 4)), ((1, 8, 8), (8, 8)), ((1, 8, 8), (1, 1, 8, 8))])
def test_rows_go_with_images_and_a_leading_one_is_no_matter(shape, other):
    for pair in ((shape, other), (other, shape)):
        same_shape(*pair, ("X_src", "X_tgt"))


# %% Frames


def test_the_columns_of_a_frame_are_kept_by_name():
    named = features(pd.DataFrame(CENTRES, columns=["a", "b"]))
    assert (named.n, named.names.tolist()) == (2, ["a", "b"])
    with pytest.raises(AttributeError, match="no data frame"):
        features(CENTRES).columns  # noqa: B018  a property that raises


@pytest.mark.parametrize(
    ("X_src", "X_tgt", "words"),
    [
        ([[0.0, np.nan]] * 3, np.ones((3, 2)), "X_src.*NaN"),
        (np.ones((3, 2)), [[0.0, np.inf]] * 3, "X_tgt contains NaN or infinite values.*the first at .0, 1.. Impute"),
        (np.empty((0, 2)), np.ones((3, 2)), r"X_src.*0 sample"),
        (np.empty((3, 0)), np.ones((3, 2)), r"X_src.*0 feature"),
        (np.ones((1, 2)), np.ones((3, 2)), r"X_src.*1 sample"),
        (np.ones((3, 2)), np.ones((3, 3)), "X_src has 2 features but X_tgt has 3.*Encode"),
        (np.ones(3), np.ones((3, 2)), "X_src.*Reshape"),
        (np.ones((3, 2)), [0, 1, 1], r"X_tgt.*Labels of it go to y_tgt(?!.*reshape)"),
        ({0.0: CENTRES, 1.0: CENTRES}, CENTRES, "X_src is a dict of several samples.*give that alone"),
        ([(0.0, CENTRES), (1.0, CENTRES)], CENTRES, "X_src is a list of several samples.*give that alone"),
        (MASKED, CENTRES, "X_src has masked entries, 1 of them.* Fill them"),
        (CENTRES, list(MASKED), "X_tgt has masked entries, 1 of them"),
        (
            pd.DataFrame({"a": [1, None, 2], "b": [1, 2, 3]}).convert_dtypes(),
            CENTRES,
            r"X_src.*missing ones: 1 of them, the first at \[1, 0\]",
        ),
        (pd.DataFrame({"a": pd.Categorical(["1", "2", "1"])}), CENTRES, "X_src is not numeric: text"),
        (pd.DataFrame({"a": pd.date_range("2024", periods=3), "b": 1.0}), CENTRES, "X_src is not numeric: dates"),
        (sparse.csr_array(CENTRES), CENTRES, "X_src.*toarray"),
        (sparse.dok_matrix(CENTRES), CENTRES, "X_src: Sparse.*toarray"),
        ((row for row in CENTRES), CENTRES, r"X_src is a generator.*list\(X_src\)"),
        (CENTRES, CENTRES.astype("M8[D]"), "X_tgt: dates are no features. Give days"),
        ([[10**400, 1]] * 3, CENTRES, "X_src has integers that float64 does not hold"),
        (CENTRES * 1j, CENTRES, "X_src: Complex"),
        (np.ones((3, 2)), np.ones((3, 2, 2)), "X_src has 2 features but X_tgt has 4.*Encode"),
        ([["a", "b"]] * 3, np.ones((3, 2)), "X_src.*string"),
        (np.ones((3, 2)), np.array([[{}, 1]] * 3, dtype=object), "X_tgt"),
        (None, None, "X_tgt"),
    ],
)
def test_a_bad_sample_is_named_before_any_work(X_src, X_tgt, words):
    with pytest.raises((ValueError, TypeError), match=rf"(?s){words}"):
        NSGF().fit(X_src, X_tgt)


@pytest.mark.parametrize("leaf", [NSGF, NSGFPlusPlus])
@ignore_report
def test_samples_beyond_the_numbers_of_a_network_are_refused(leaf):
    x, y = samples(60)
    with pytest.raises(ValueError, match="spreads from the samples of the fit"):
        leaf(**BARELY).fit(x, y).transform(1e100 * x)


def test_data_frames_with_other_columns_are_refused():
    frame = pd.DataFrame(CENTRES + 1.0, columns=["a", "b"])
    for snapshots_or_pair in ((frame, frame[["b", "a"]]), ({0.0: frame, 1.0: frame[["b", "a"]]},)):
        with pytest.raises(ValueError, match=r"different columns, or another order.*Select the same"):
            NSGF().fit(*snapshots_or_pair)


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame])
@ignore_report
def test_columns_in_another_order_are_refused_wherever_samples_go_in(library):
    frame = library({"a": CENTRES[:, 0], "b": CENTRES[:, 1]})
    model, swapped = NSGF(**BARELY).fit(frame, frame), frame[["b", "a"]]
    assert list(model.feature_names_in_) == ["a", "b"]
    for use in (model.transform, model.trajectory, model.score):
        with pytest.raises(ValueError, match="same order"):
            use(swapped)
    with pytest.raises(ValueError, match="another order of them"):
        model.score(frame, swapped)


# %% Times


def test_snapshots_are_sorted_by_time():
    X = {2.0: CENTRES, -1: CENTRES + 1.0, "0.5": CENTRES + 2.0}
    for form in (X, list(X.items()), iter(X.items())):
        calendar, times, xs, as_given = snapshots(form)
        assert (calendar, times) == (Calendar(), (-1.0, 0.5, 2.0))
        for x, own, shift in zip(xs, as_given, (1.0, 2.0, 0.0), strict=True):
            np.testing.assert_array_equal(x, CENTRES + shift)
            np.testing.assert_array_equal(own, CENTRES + shift)


DATES = [
    [datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 2), np.datetime64("2024-01-04", "ns")],
    list(pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-04"])),
    list(pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-04"]).tz_localize("Europe/Berlin")),
    [np.timedelta64(1, "h"), datetime.timedelta(hours=25), pd.Timedelta(hours=73)],
    [datetime.date(1066, 1, 1), datetime.date(1066, 1, 2), datetime.date(1066, 1, 4)],
    [1.7e9, np.float32(1.7e9) + 86400.0, np.int64(1_700_000_000) + 3 * 86400],
]


@pytest.mark.parametrize("times", DATES, ids=["dates", "pandas", "zone", "durations", "old", "numbers"])
def test_times_of_every_kind_are_read_and_given_back(times):
    calendar, numbers, _, as_given = snapshots(dict(zip(times[::-1], [CENTRES, CENTRES + 1, CENTRES + 2], strict=True)))
    np.testing.assert_allclose(np.diff(numbers), [86400.0, 2 * 86400.0], rtol=1e-2 if calendar.kind == "number" else 0)
    np.testing.assert_array_equal(as_given[0], CENTRES + 2)
    again = Calendar.of(list(calendar.times(numbers)))
    assert [again.number(t, "t") for t in calendar.times(numbers)] == list(numbers)
    assert [calendar.number(t, "t") for t in times] == list(numbers)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([0.0, datetime.date(2024, 1, 1)], "times of several kinds, date and number"),
        ([pd.Timestamp("2024", tz="UTC"), pd.Timestamp("2025")], "several kinds, date and date with a time zone"),
        ([pd.NaT, pd.Timestamp("2025")], "no numbers or dates: NaT"),
        ([np.timedelta64(1, "M"), np.timedelta64(2, "M")], r"no numbers or dates: np.timedelta64\(1,'M'\)"),
        ([True, 2.0], "no numbers or dates: True"),
        ([float("nan"), 1.0], r"the times \[nan, 1.0\]; .* finite and all different"),
        ([-1e308, 1e308], "finite and all different"),
        ([datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1)], "all different"),
    ],
)
def test_times_that_are_none_or_mixed_are_refused(times, words):
    with pytest.raises(ValueError, match=words):
        snapshots([(t, CENTRES) for t in times])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ndarray, "X is the class ndarray. Give an array"),
        (object(), r"X: expected rows \(n, d\), got a object. Give an array"),
        (np.array(1.0), r"X: expected rows \(n, d\), got a ndarray"),
        ([[object(), 1.0]], "X: it is not numeric, .* Encode it as numbers first"),
        (pd.DataFrame(), "X: 0 feature.* Give some columns"),
        (np.array([[np.inf, -np.inf]]), "X contains NaN or infinite values, or missing ones: 2 of them"),
    ],
)
def test_what_is_no_sample_is_named_with_a_remedy(X, message):
    with pytest.raises((TypeError, ValueError), match=message):
        rows(X, "X", 1)


def test_rows_beyond_float32_from_those_of_the_fit_are_refused_and_not_made_infinite():
    frame = Frame.of([CENTRES, CENTRES + 1.0], (2,))
    assert np.isfinite(frame.to_unit(1e17 * CENTRES)).all()
    for far in (1e100, 1e307):
        with pytest.raises(
            ValueError, match="X lies up to .* spreads from the samples of the fit. Give it in their unit"
        ):
            frame.to_unit(far * CENTRES)
