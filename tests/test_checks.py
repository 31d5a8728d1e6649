"""What is asked of a parameter, and where a warning points."""

import warnings

import numpy as np
import pandas as pd
import pytest
from common import BARELY, samples
from sklearn.model_selection import GridSearchCV

from nsgf import NSGF, POT, Sinkhorn, Training, _checks, load, sinkhorn_velocity


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (_checks.count, [1, 7, np.int64(3), True], [0, -1, 2.5, 1.0, "3", None, np.nan]),
        (_checks.count, [2**31], [2**31 + 1, 10**30]),
        (_checks.counts, [(1, 2), [3], np.array([1, 2]), ()], [(0,), "12", 3, None, (1, 2.5), [None], np.ones((1, 1))]),
        (_checks.flag, [True, False, np.bool_(True)], [None, 1, "yes", np.array([True])]),
        (
            lambda *x: _checks.positive(*x, "1"),
            [1, 0.1, np.float32(2)],
            [0, -1.0, np.nan, np.inf, "1", None, 1j, 10**400],
        ),
        (lambda *x: _checks.fraction(*x, "0.5"), [0, 0.99, np.float64(0.5)], [1, -0.1, np.nan, "0.5", None]),
    ],
    ids=["count", "large count", "counts", "flag", "positive", "fraction"],
)
def test_a_value_out_of_its_range_is_named(check, good, bad):
    for value in good:
        check("size", value)
    for value in bad:
        with pytest.raises(ValueError, match=r"^size=.* must be .*\.$"):
            check("size", value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: sinkhorn_velocity(*samples(20), 0.1, solver=POT(tol=1e-9, max_iter=2)),
        lambda: NSGF(**BARELY | {"max_iter": 1}).fit(*samples(100)),
        lambda: NSGF(**BARELY).fit(np.zeros((4, 2)), np.ones((4, 2)), y_src=[1, -1] * 2, y_tgt=[1, -1] * 2),
        lambda: GridSearchCV(NSGF(**BARELY | {"max_iter": 1}), {"blur": [1.0]}, cv=2).fit(*samples(100)),
    ],
    ids=["solver", "report", "labels", "search"],
)
def test_a_warning_points_at_the_line_of_the_caller(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize("value", ["a\0b", "\ud800", b"bytes", 5, None, []])
def test_what_no_file_can_be_called_is_named_before_any_work(value, flow):
    calls = [lambda: flow.save(value), lambda: load(value)]
    for call in calls if value is None else [*calls, lambda: Training(directory=value)]:
        with pytest.raises((TypeError, ValueError), match=r"^(path|directory)=.*\. Give "):
            call()


@pytest.mark.parametrize("value", [np.array(["cpu", "cuda"]), pd.NA, None, ["cpu"], 1.5])
def test_a_choice_may_be_asked_of_any_value(value):
    for call in (
        lambda: POT(method=value),
        lambda: Sinkhorn(on_unconverged=value),
        lambda: NSGF(device=value).fit(*samples(9)),
        lambda: NSGF(network=value).fit(*samples(9)),
    ):
        with pytest.raises(ValueError, match=r"is unknown; choose"):
            call()


def test_numbers_beyond_those_of_float64_are_out_of_range():
    for name in ("blur", "step_size", "max_iter", "n_batches"):
        with pytest.raises(ValueError, match=f"{name}="):
            NSGF(**BARELY | {name: 10**400}).fit(*samples(50))


def test_small_integers_of_numpy_do_not_wrap_round():
    small = {"n_batches": np.int8(100), "batch_size": np.int8(16), "n_steps": np.int8(2)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "report_")
        model = NSGF(**BARELY | small).fit(*samples(50))
    assert model.n_steps_ == 2
