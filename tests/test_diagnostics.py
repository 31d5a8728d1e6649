"""How far a fit can be trusted: the gap between minibatches, the report of a fit, and its warnings."""

import warnings

import numpy as np
import pytest
from common import QUICK, ignore_report, samples

from nsgf import NSGF, POT, diagnostics
from nsgf.diagnostics import minibatch_gap
from nsgf.flow import flow_steps


def test_minibatches_of_one_law_come_closer_as_they_grow():
    def gap(n):
        steps = [flow_steps(*samples(n, seed=seed), 1.0, 3, 1.0, POT(method="auto")) for seed in (1, 2)]
        return minibatch_gap(*steps)

    assert gap(400) < 0.7 * gap(50)


def test_a_minibatch_is_at_no_distance_from_itself():
    steps = list(flow_steps(*samples(60, 80), 1.0, 2, 1.0, POT(method="auto")))
    assert minibatch_gap(steps, steps) < 1e-9


def test_a_report_says_how_far_the_field_is_from_held_out_velocities(flow):
    assert flow.report_.keys() == {"max_error", "converged", "minibatch_gap", "regression_gap"}
    assert 0 < flow.report_["regression_gap"] < 0.5 > flow.report_["minibatch_gap"] > 0
    assert flow.report_["converged"]
    assert flow.report_["max_error"] <= 1e-1  # velocities far below the blur included


def test_a_figure_that_is_not_to_be_trusted_warns_with_the_remedy():
    with pytest.warns(UserWarning, match=r"regression_gap'\] is nan, more than 0.5.*Raise max_iter or n_batches"):
        diagnostics.warn({"regression_gap": np.nan, "minibatch_gap": 0.5, "max_error": 2.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diagnostics.warn({"regression_gap": 0.5})


@ignore_report
def test_a_field_that_is_not_to_be_trusted_is_reported_with_the_remedy():
    with pytest.warns(UserWarning, match=r"regression_gap.*Raise max_iter"):
        NSGF(**QUICK | {"max_iter": 1}).fit(*samples())
    with pytest.warns(UserWarning, match=r"minibatch_gap.*Raise batch_size or blur"):
        NSGF(**QUICK | {"batch_size": 8, "n_batches": 60}).fit(*samples())
