"""What is asked of a parameter, and where a warning points."""

import warnings

import numpy as np
import pytest
from common import BARELY, samples

from nsgf import NSGF, _checks, sinkhorn_velocity
from nsgf.solvers import POT


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (_checks.count, [1, 7, np.int64(3), True], [0, -1, 2.5, 1.0, "3", None, np.nan]),
        (lambda *x: _checks.positive(*x, "1.0"), [1, 0.1, np.float32(2)], [0, -1.0, np.nan, np.inf, "1", None, 1j]),
        (lambda *x: _checks.fraction(*x, "0.5"), [0, 0.99, np.float64(0.5)], [1, -0.1, np.nan, "0.5", None]),
    ],
    ids=["count", "positive", "fraction"],
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
    ],
    ids=["solver", "report", "labels"],
)
def test_a_warning_points_at_the_line_of_the_caller(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert {warning.filename for warning in caught} == {__file__}


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
