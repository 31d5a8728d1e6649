"""Conditions: labels, numbers and pairs as they are said, and as codes and columns."""

import datetime
import enum
import json
import pathlib

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.model_selection import KFold
from tolerances import FLOAT64

from nsgf import Labels, Numbers, Pairs, _io
from nsgf.conditions import Classes, Moments, describe, of_both

LABELS = [
    ["x", None, "y"],
    np.array([3, -1, 7]),
    pd.Series(["x", pd.NA, "y"], dtype="string"),
    [True, None, False],
    [1, -1, "b"],
    Labels([0.1, None, 0.5]),
    [("a", 1), None, (("b", 2), 3)],
    np.ma.array([1, 2, 3], mask=[False, True, False]),
    pd.Series(["x", None, "y"], dtype=pd.CategoricalDtype(["z", "y", "x"])),
    pd.Series([1, None, 2], dtype="Int64"),
    np.array([1.0, np.nan, 2.0]),
    np.array(["x", None, "y"], dtype=object),
    [np.str_("x"), pd.NaT, "y"],
    pl.Series(["x", None, "y"], dtype=pl.Categorical),
]


@pytest.mark.parametrize("labels", LABELS)
def test_labels_of_any_kind_are_read(labels):
    kinds = describe(labels, "y")
    assert len(kinds.labels) == 2
    codes = kinds.codes(labels, "y", 3)
    assert codes[1] == -1
    assert {codes[0], codes[2]} == {0, 1}
    np.testing.assert_array_equal(kinds.columns(codes).sum(axis=1), [1, 0, 1])


@pytest.mark.parametrize("values", [[0.5, 1.5, 4.0], np.array([[0.5], [1.5], [4.0]]), pd.Series([0.5, 1.5, 4.0])])
def test_numbers_of_one_dimension_are_a_column(values):
    kinds = describe(Numbers(values, weight=2.0), "y")
    assert (type(kinds), kinds.weight, kinds.n_columns) == (Moments, 2.0, 2)
    codes = kinds.codes(Numbers(values), "y", 3)
    assert codes.shape == (3, 1)
    np.testing.assert_allclose([codes.mean(), codes.std()], [0.0, 1.0], atol=FLOAT64)
    np.testing.assert_array_equal(kinds.columns(codes), np.column_stack([np.ones(3), codes]).astype(np.float32))
    for one in (1.5, [1.5], Numbers(1.5), np.array([[1.5]])):  # stands for all
        np.testing.assert_allclose(kinds.codes(one, "y", 3, is_one_for_all=True), np.repeat(codes[1:2], 3, axis=0))


def test_an_array_of_two_dimensions_is_numbers_of_the_default_weight():
    rows = np.random.default_rng(0).normal(size=(50, 3)) * [1.0, 10.0, 0.0]
    kinds = describe(rows, "y")
    assert (type(kinds), kinds.weight, kinds.n_columns) == (Moments, 4.0, 4)
    codes = kinds.codes(rows, "y", 50)
    np.testing.assert_allclose(codes.std(axis=0), [1.0, 1.0, 0.0], atol=FLOAT64)
    np.testing.assert_allclose(
        kinds.codes(rows[7], "y", 2, is_one_for_all=True), codes[[7, 7]]
    )  # k > 1: a vector is a row


def test_fractions_are_labels_where_they_are_said_to_be():
    assert describe(Labels([0.5, 0.1, 0.5]), "y") == Classes((0.1, 0.5))
    assert describe([2.0, 1.0, np.nan], "y") == Classes((1.0, 2.0))


def test_one_label_stands_for_all():
    kinds = Classes((("a", 1), "b"))
    np.testing.assert_array_equal(kinds.codes("b", "y", 3, is_one_for_all=True), [1, 1, 1])
    np.testing.assert_array_equal(kinds.codes([("a", 1), None], "y", 2), [0, -1])


@pytest.mark.parametrize(
    ("kinds", "y", "words"),
    [
        (Classes(("a", "b")), "z", "y has labels that the model was not fitted with: 'z'. The known ones are 'a', 'b'"),
        (Classes(("a", "b")), ["a"] * 3, "y has 3 rows but there are 2 samples"),
        (Classes(("a", "b")), np.zeros((2, 1)), r"y must be one label a row.*shape \(2, 1\)"),
        (Classes(("a", "b")), Numbers([1.0, 2.0]), "y has continuous conditions, but .* Give labels"),
        (Classes(("a", "b")), [["a"], ["b"]], "which is not hashable; give text or integers"),
        (Moments(np.zeros(1), np.ones(1)), Labels([1, 2]), "y has labels, but .* Give numbers"),
        (Moments(np.zeros(1), np.ones(1)), np.zeros((2, 3)), r"y has 3 continuous conditions a row.*shape \(2, 1\)"),
        (Moments(np.zeros(1), np.ones(1)), np.zeros((3, 1)), "y has 3 rows but there are 2 samples"),
        (Moments(np.zeros(1), np.ones(1)), [[np.inf], [0.0]], "y contains NaN or infinite"),
        (Moments(np.zeros(1), np.ones(1)), [["a"], ["b"]], "y is not numeric"),
    ],
)
def test_what_a_model_does_not_know_is_refused_by_name(kinds, y, words):
    with pytest.raises(ValueError, match=words):
        kinds.codes(y, "y", 2, is_one_for_all=True)


@pytest.mark.parametrize("value", [Numbers, lambda **weight: Pairs([(0, 0)], **weight)], ids=["Numbers", "Pairs"])
@pytest.mark.parametrize("weight", [0, -1, np.nan, "much"])
def test_a_weight_that_is_not_positive_is_refused(value, weight):
    with pytest.raises(ValueError, match=f"weight={weight!r} must be positive"):
        value(**{"weight": weight} | ({"values": [1.0]} if value is Numbers else {}))


def test_pairs_are_read_with_their_weight():
    pairs = Pairs([(0, 2), (1, 0)], weight=2.0).within(2, 3)
    assert (pairs.rows.dtype.kind, pairs.rows.shape, pairs.weight) == ("i", (2, 2), 2.0)


def test_the_conditions_of_both_sides_are_those_of_the_target():
    kinds, source, target = of_both(4, 2, ["b", None, "a", "a"], ["a", "b"])
    assert kinds == Classes(("a", "b"))
    np.testing.assert_array_equal(source, [1, -1, 0, 0])
    np.testing.assert_array_equal(target, [0, 1])
    assert of_both(4, 2, None, None) == (None, None, None)
    kinds, source, target = of_both(2, 3, Numbers([0.0, 1.0], weight=9.0), Numbers([0.0, 3.0, 6.0], weight=2.0))
    assert kinds.weight == 2.0
    np.testing.assert_allclose(source[:, 0] * kinds.scale + kinds.shift, [0.0, 1.0])


def test_a_class_that_is_called_minus_one_is_pointed_out():
    with pytest.warns(UserWarning, match="y_tgt has labels 1 and -1, and -1 stands for unknown: 2 rows"):
        assert describe([1, -1, 1, -1], "y_tgt").labels == (1,)
    assert describe(pd.Series([1, None, 1], dtype="Int64"), "y_tgt").labels == (1,)


@pytest.mark.parametrize("y", [Numbers(5.0), Numbers([5.0]), [[5.0]], Numbers(np.arange(4.0)[None])])
def test_conditions_of_another_length_are_refused_and_not_repeated(y):
    with pytest.raises(ValueError, match="y_tgt has 1 rows but there are 4 samples"):
        of_both(None, 4, None, y)


@pytest.mark.parametrize(
    "y", [pd.Series(pd.date_range("2020-01-01", periods=3)), np.arange(3) * 1j, ["1 h", "2 h", "x"]]
)
def test_what_is_no_real_number_is_refused_with_the_way_out_for_dates(y):
    with pytest.raises(ValueError, match=r"y_tgt is not numeric.*days since the first.*timedelta64"):
        describe(Numbers(y), "y_tgt")


def test_series_and_scalars_of_any_library_are_labels():
    kinds = describe(pl.Series(["u", "v", None]), "y")
    assert kinds.labels == ("u", "v")
    np.testing.assert_array_equal(kinds.codes(pl.Series(["v", "u"]), "y", 2), [1, 0])
    for one in (1, np.array(1), np.int64(1)):
        np.testing.assert_array_equal(Classes((0, 1)).codes(one, "y", 2, is_one_for_all=True), [1, 1])
    tuples = Classes((("a", 1), ("b", 2)))
    np.testing.assert_array_equal(tuples.codes(("b", 2), "y", 3, is_one_for_all=True), [1, 1, 1])


def test_conditions_are_taken_apart_as_samples_are():
    for said in (Numbers([1.0, 2.0, 3.0, 4.0], weight=2.0), Labels(["a", "b", "a", "b"])):
        parts = [said[rows] for rows, _ in KFold(2).split(np.zeros(4))]
        assert [len(part) for part in parts] == [2, 2]
        assert {type(part) for part in parts} == {type(said)}
        assert getattr(parts[0], "weight", 2.0) == 2.0
        np.testing.assert_array_equal(np.concatenate([part.values for part in parts[::-1]]), said.values)


@pytest.mark.parametrize(
    "label",
    [
        pytest.param(datetime.date(2024, 1, 1), id="date"),
        b"a",
        enum.Enum("E", "A").A,
        pathlib.Path("a"),
        1j,
        ("a", float("nan")),
        np.datetime64("2024-01-01", "ns"),
        pd.Timestamp("2024-01-01"),
    ],
)
def test_labels_come_back_from_a_file_as_they_are_or_are_refused(label):
    for y in ([label, None], Labels(pd.Series([label, None]))):
        try:
            (known,) = describe(y, "y_tgt").labels
        except ValueError as error:
            assert "which a file cannot hold. Give text" in str(error)  # noqa: PT017  either will do
        else:
            (found,) = _io.unpack(json.loads(json.dumps(_io.pack("a", (known,), {}))), {})
            assert found == known == label


def test_dates_in_an_array_are_no_integers():
    for y in (np.array(["2024-01-01"] * 2, "M8[ns]"), np.array([1, 2], "m8[ns]")):
        assert {type(label) for label in describe(y, "y_tgt").labels} == {type(y[0])}
        np.testing.assert_array_equal(describe(y, "y_tgt").codes(y, "y", 2), np.unique(y, return_inverse=True)[1])


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame])
def test_columns_of_conditions_in_another_order_are_refused(library):
    frame = library({"age": [1.0, 2.0, 4.0], "dose": [3.0, 5.0, 4.0]})
    kinds, swapped = describe(frame, "y_tgt"), frame[["dose", "age"]]
    for y in (swapped, Numbers(swapped)):
        with pytest.raises(ValueError, match=r"y has the columns \('dose', 'age'\), but .*Select those"):
            kinds.codes(y, "y", 3)
    with pytest.raises(ValueError, match="y_src has the columns"):
        of_both(3, 3, swapped, frame)
    np.testing.assert_array_equal(kinds.codes(frame.to_numpy(), "y", 3), kinds.codes(frame, "y", 3))


def test_masked_numbers_are_refused():
    with pytest.raises(ValueError, match="y_tgt has masked entries. Impute them"):
        describe(np.ma.array([[1.0], [2.0]], mask=[[True], [False]]), "y_tgt")


def test_labels_of_no_source_row_are_refused_unless_unknown_rows_can_fill_them():
    target = ["a", "b"] * 5
    with pytest.raises(ValueError, match=r"no row of y_src has: 'b'. Drop .*10.0% are unknown; they need 50.0%"):
        of_both(10, 10, [None, *"a" * 9], target)
    assert (of_both(10, 10, [None] * 5 + ["a"] * 5, target)[1] == -1).sum() == 5


PAIRS = [(0, 2), (1, 0)]


@pytest.mark.parametrize(
    "rows",
    [
        PAIRS + PAIRS[:1],
        np.array(PAIRS, dtype=float),
        np.array(PAIRS, dtype=np.uint8),
        np.array(PAIRS, dtype=object),
        pd.DataFrame(PAIRS),
        pl.DataFrame(PAIRS, orient="row"),
        torch.tensor(PAIRS),
    ],
)
def test_pairs_of_every_form_are_read_once_each(rows):
    np.testing.assert_array_equal(Pairs(rows).within(2, 3).rows, PAIRS)


@pytest.mark.parametrize(
    "rows",
    [[(0, 0.5)], [(0, np.nan)], [(0, 1e300)], np.eye(2, dtype=bool), [("a", 1)], [(0, 1), (1,)], None, [(0, None)]],
)
def test_pairs_that_are_no_integers_are_refused(rows):
    with pytest.raises(ValueError, match="pairs must be integers of shape"):
        Pairs(rows).within(3, 3)


def test_labels_that_are_tuples_are_taken_apart_as_tuples():
    labels = Labels([("a", 1), ("b", 2), ("a", 1)])
    assert describe(labels[np.array([0, 2])], "y") == Classes((("a", 1),))


def test_rows_of_labels_stay_what_they_were():
    said = Labels([("a", 1), 1, "1", None])
    assert said.shape == (4,)
    assert list(said[np.array([2, 1, 0])].values) == ["1", 1, ("a", 1)]


@pytest.mark.parametrize("unit", [1e-300, 1.0, 1e140])
def test_numbers_are_standardised_in_every_unit(unit):
    given = Numbers(unit * np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(describe(given, "y").codes(given, "y", 3)[:, 0], [-(1.5**0.5), 0, 1.5**0.5], atol=1e-12)


def test_one_time_stamp_is_a_label_for_all():
    stamps = [pd.Timestamp(day, tz="Europe/Paris") for day in ("2024-01-01", "2024-01-02")]
    kinds = describe(stamps, "y")
    np.testing.assert_array_equal(kinds.codes(stamps[1], "y", 2, is_one_for_all=True), [1, 1])


def test_numbers_out_of_the_range_of_squares_or_of_float32_are_refused():
    with pytest.raises(ValueError, match="y has values up to .*, whose squares overflow. Give them in a larger unit"):
        describe(1e200 * np.arange(4.0)[:, None], "y")
    kinds = describe(np.arange(4.0)[:, None], "y")
    with pytest.raises(ValueError, match="y lies up to .* deviations from the conditions of the fit"):
        kinds.codes(np.full((2, 1), 1e100), "y", 2)
