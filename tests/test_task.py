"""The task of a fit: what is known, what is drawn, what is remembered, and what does not fit together."""

import numpy as np
import pandas as pd
import pytest
from common import BARELY, ignore_report, labelled_sample, samples

from nsgf import NSGF, NSGFPlusPlus, Numbers, Pairs, Training
from nsgf.task import Task

X, Y = np.random.default_rng(0).normal(size=(2, 6, 2))
L = list("aabbcc")


def test_noise_has_the_mean_and_scale_of_the_data():
    rng = np.random.default_rng(0)
    X = np.array([5.0, -3.0, 7.0]) + np.array([1.0, 10.0, 0.0]) * rng.normal(size=(500, 3))
    task = Task.of(None, X)
    start = task.frame.to_data(task.draw(4000, None, rng)[0], 0.0)
    np.testing.assert_allclose(start.mean(axis=0), X.mean(axis=0), atol=0.5)
    np.testing.assert_allclose(start.std(axis=0), X.std(axis=0), rtol=0.05, atol=1e-6)


def test_without_conditions_rows_of_the_source_are_drawn_with_their_own():
    x, names = labelled_sample(60)
    task, rng = Task.of(x, x, names, names), np.random.default_rng(0)
    for y in (None, "b", ["a", "c"] * 10):
        drawn, c = task.draw(20, y, rng)
        of_row = {row.tobytes(): name for row, name in zip(task.frame.to_unit(x), names, strict=True)}
        found = [of_row[row.tobytes()] for row in drawn]
        np.testing.assert_array_equal(c, task.columns(found, 20))
        assert y is None or found == ([y] * 20 if isinstance(y, str) else y)


def test_numbers_of_source_rows_cannot_be_asked_for():
    task = Task.of(X, Y, Numbers(X[:, 0]), Numbers(Y[:, 0]))
    with pytest.raises(ValueError, match=r"y of sample needs labels.*use transform\(X, y\)"):
        task.draw(2, 0.5, np.random.default_rng(0))


def test_a_model_remembers_its_source_and_at_most_2048_targets():
    rng = np.random.default_rng(0)
    x, y = samples(3000, 3000)
    kept = Task.of(x, y, pairs=[(0, 1)]).kept(rng)
    assert (len(kept.source.rows), len(kept.target.rows), kept.pairs) == (3000, 2048, None)
    course = Task.course({0.0: x, 1.0: y, 2.0: x}).kept(rng)
    assert (len(course.source.rows), len(course.target.rows), course.snapshots) == (3000, 2048, ())


def test_tasks_that_differ_in_anything_have_other_fingerprints():
    tasks = [
        Task.of(X, Y),
        Task.of(Y, X),
        Task.of(None, Y),
        Task.of(X, Y, L, L),
        Task.of(X, Y, y_tgt=L),
        Task.of(X, Y, y_tgt=L[::-1]),
        Task.of(X, Y, y_tgt=list("aabbcd")),
        Task.of(X, Y, y_tgt=Numbers(Y[:, 0])),
        Task.of(X, Y, y_tgt=Numbers(Y[:, 0], weight=2.0)),
        Task.of(X, Y, pairs=[(0, 0)]),
        Task.of(X, Y, pairs=[(0, 1)]),
        Task.of(X, Y, pairs=Pairs([(0, 1)], weight=2.0)),
        Task.course({0.0: X, 1.0: Y}),
        Task.course({0.0: X, 2.0: Y}),
    ]
    assert len({task.fingerprint() for task in tasks}) == len(tasks)
    assert Task.of(X.copy(), Y.tolist(), L, L).fingerprint() == tasks[3].fingerprint()


# %% What is refused


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((X, Y), {"y_src": L}, "y_src was given without y_tgt"),
        ((None, Y), {"y_src": L, "y_tgt": L}, "source that is noise"),
        ((X, Y), {"y_src": list("aabbbb"), "y_tgt": L}, "y_tgt has labels that no row of y_src has: 'c'"),
        (
            (X, Y),
            {"y_src": [None, *"aabbb"], "y_tgt": L},
            r"that no row of y_src has: 'c'.*16.7% are unknown.*need 33.3%",
        ),
        ((X, Y), {"y_src": list("aabbdd"), "y_tgt": L}, "y_src has labels that the model was not fitted with: 'd'"),
        ((X, Y), {"y_tgt": L[:3]}, "y_tgt has 3 rows but there are 6 samples"),
        ((X, Y), {"y_tgt": [None] * 6}, "no known label"),
        ((X, Y), {"y_tgt": np.linspace(0, 1, 6)}, r"dimension means labels.*shape \(6, 1\)"),
        ((X, Y), {"y_tgt": np.full((6, 1), np.nan)}, "y_tgt contains NaN"),
        ((X, Y), {"pairs": [[0, 6]]}, "pairs names row 6 of X_tgt, which has 6 rows"),
        ((X, Y), {"pairs": [0, 1]}, r"pairs has shape \(2,\)"),
        ((X, Y), {"pairs": [(0, 1), (2, 3), (0, 4)]}, r"pairs has row 0 of X_src with several rows of X_tgt, \[1, 4\]"),
        ((X, Y), {"pairs": [[0, 1]], "y_tgt": L}, "pairs go with samples"),
        ((None, Y), {"pairs": [[0, 1]]}, "pairs go with samples"),
        ((X,), {}, "X_tgt is missing"),
        (({0.0: X},), {}, "two or more"),
        (({0.0: X, "late": Y},), {}, "times that are no numbers"),
        (({0.0: X, 1.0: Y[:, :1]},), {}, "features"),
        (({0.0: X, 1.0: Y},), {"y_tgt": L}, "do not go with a time course"),
        (((0.0, 1.0),), {}, "X_tgt is missing"),
    ],
)
def test_what_does_not_fit_is_named(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        NSGF().fit(*arguments, **options)


def test_a_second_phase_knows_no_time_course():
    with pytest.raises(ValueError, match="use NSGF"):
        NSGFPlusPlus(**BARELY).fit({0.0: X, 1.0: Y})


@ignore_report
def test_a_plain_model_refuses_conditions_at_transform():
    model = NSGF(**BARELY).fit(X, Y)
    with pytest.raises(ValueError, match="fitted without conditions"):
        model.transform(X, "a")
    with pytest.raises(ValueError, match="belong to a time course"):
        model.transform(X, t1=2.0)
    for guidance in ("strong", np.ones(2), None, 10**400, 1j):
        with pytest.raises(ValueError, match="guidance=.* must be a number"):
            model.transform(X, guidance=guidance)


@pytest.mark.parametrize(("t0", "t1"), [(0, 60), (-1, 24), (24, 24), (48, 0)])
def test_times_out_of_range_are_refused(t0, t1):
    course = Task.course({0.0: X, 24.0: Y, 48.0: X})
    with pytest.raises(ValueError, match=f"t0={t0} and t1={t1} must rise within the times of the fit, 0 to 48"):
        course.span(t0, t1)
    for bad in ("1", True, [1.0], b"1"):
        with pytest.raises(ValueError, match="t1 is no time: "):
            course.span(None, bad)
    assert course.span(None, 24) == (0.0, 0.5)
    assert course.frame.times == (0.0, 0.5, 1.0)


@pytest.mark.parametrize("middle", [5e-324, 1e-12, 0.3, 1 - 1e-16])
def test_intervals_of_any_length_are_learnt_alike(middle):
    course = Task.course({0.0: X, middle: Y, 1.0: X})
    assert course.frame.times == (0.0, 0.5, 1.0)
    assert (course.span(None, middle), course.span(middle, None)) == ((0.0, 0.5), (0.5, 1.0))
    first, last = course.span(middle / 2 if middle > 1e-300 else None, (1 + middle) / 2)
    assert (first, last) == pytest.approx((0.25 if middle > 1e-300 else 0.0, 0.75), abs=0.3 if middle > 0.9 else 1e-9)


@ignore_report
def test_a_course_of_dates_is_asked_by_date_also_from_a_file(tmp_path):
    dates = pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-05"])
    model = NSGF(**BARELY).fit(dict(zip(dates, (X, Y, X), strict=True)))
    model.save(tmp_path / "m")
    loaded = NSGF.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.times_, dates.to_numpy())
    half = model.transform(X, t0=dates[0], t1=np.datetime64("2024-01-03T12"))
    np.testing.assert_array_equal(loaded.transform(X, t1=pd.Timestamp("2024-01-03 12:00")), half)
    with pytest.raises(ValueError, match="t1=3.0 is a number, but the times of the fit are each a date"):
        model.transform(X, t1=3.0)
    with pytest.raises(ValueError, match="t1=2025-01-01.* must rise within the times of the fit, 2024-01-01"):
        model.transform(X, t1=pd.Timestamp("2025-01-01"))


# %% The field without conditions


@pytest.mark.parametrize(
    ("known", "y"),
    [
        ({"y_tgt": L}, L),
        ({"y_src": L, "y_tgt": L}, L),
        ({"y_src": L, "y_tgt": [None, *L[1:]]}, L),
        ({"y_tgt": Numbers(Y[:, 0])}, X[:, :1]),
    ],
)
@pytest.mark.parametrize("leaf", [NSGF, NSGFPlusPlus])
@ignore_report
def test_what_was_not_learnt_without_conditions_is_not_asked_for(known, y, leaf, tmp_path):
    quick = BARELY | {"training": Training(condition_dropout=0.0)}
    model = leaf(**quick).fit(X, Y, **known)
    model.save(tmp_path / "m")
    for m in (model, leaf.load(tmp_path / "m").set_params(training__condition_dropout=0.5)):
        assert m.transform(X, y).shape == X.shape
        for use in (m.transform, m.trajectory, m.score):
            for asked in ({}, {"y": y, "guidance": 2.0}, {"y": y, "guidance": 0.0}):
                with pytest.raises(ValueError, match=r"asks for the field without conditions.*Give y .*or fit with"):
                    use(X, **asked)
    if isinstance(y, list):
        with pytest.raises(ValueError, match="y with unknown labels asks for"):
            model.transform(X, [None, *y[1:]])


@pytest.mark.parametrize(
    ("known", "dropout"),
    [({"y_tgt": L}, 0.01), ({"y_tgt": [None, *L[1:]]}, 0.0), ({"y_src": [None, *L[1:]], "y_tgt": L}, 0.0)],
)
@ignore_report
def test_a_dropped_or_an_unknown_condition_is_enough_to_be_asked_without(known, dropout):
    model = NSGF(**BARELY | {"training": Training(condition_dropout=dropout)}).fit(X, Y, **known)
    assert np.isfinite(model.transform(X)).all()
