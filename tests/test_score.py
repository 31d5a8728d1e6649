"""The score: minus a distance, which tells estimators apart and is told apart by none of their parameters."""

import copy

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from common import BARELY, labelled_sample, samples
from leaves import MeanFlow
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from tolerances import FLOAT64, NETWORK

from nsgf import NSGF, Sinkhorn, metrics, sinkhorn_flow, spread
from nsgf.estimators.score import distance_of

pytestmark = pytest.mark.filterwarnings("ignore:report_:UserWarning")  # quick fits

# The power of the unit of the data that each is measured in.
POWERS = {"sinkhorn_divergence": 2, "wasserstein": 1, "sliced_wasserstein": 1, "mmd": 0, "energy_distance": 0.5}
every_metric = pytest.mark.parametrize("name", [name for name in POWERS if hasattr(metrics, name)])


def fine_divergence(x, y):
    return metrics.sinkhorn_divergence(x, y, blur=0.05 * spread(y))


def frames(library):
    new = {"pandas": lambda X: pd.DataFrame(X, columns=["a", "b"]), "polars": lambda X: pl.DataFrame(X, ["a", "b"])}
    return [new[library](X) for X in samples(80)]


# %% What it is


@every_metric
def test_a_score_is_minus_the_distance_of_what_is_carried(flow, name):
    x, y = samples(80, 60, seed=1)
    distance = fine_divergence if name == "sinkhorn_divergence" else getattr(metrics, name)
    assert flow.score(x, y, metric=name) == pytest.approx(-distance(flow.transform(x), y), rel=NETWORK)


def test_a_function_is_given_the_samples_in_their_own_units(flow):
    (x, y), seen = samples(80, 60, seed=1), []
    assert flow.score(x, y, metric=lambda a, b: seen.extend([a, b]) or 2) == -2.0
    np.testing.assert_allclose(seen[0], flow.transform(x), atol=FLOAT64)
    np.testing.assert_array_equal(seen[1], y)


def test_the_divergence_is_the_default_and_what_is_kept_of_the_target_is_compared_with(flow):
    x, y = samples()
    assert flow.score(x, y) == flow.score(x, y, metric="sinkhorn_divergence")
    assert flow.score(x) == pytest.approx(flow.score(x, y), rel=NETWORK)


@pytest.mark.parametrize("metric", ["w2", "frechet_distance", "memorisation", None, 2, ["mmd"]])
def test_a_metric_that_is_unknown_is_refused_with_the_known_ones(flow, metric):
    with pytest.raises(ValueError, match="metric=.* is unknown; choose one of 'sinkhorn_divergence', 'wasserstein'"):
        flow.score(*samples(20), metric=metric)


# %% What it compares


def test_nothing_but_the_way_of_the_samples_tells_in_a_score(flow):
    other = copy.deepcopy(flow).set_params(blur=1e5, solver=Sinkhorn(tol=1.0, max_iter=1), batch_size=2, max_iter=1)
    other.__dict__["_learnt"] = vars(flow)["_learnt"]._replace(blur=1e5)
    assert other.score(*samples(80, seed=1)) == flow.score(*samples(80, seed=1))


def four_modes(n, seed):
    rng = np.random.default_rng(seed)
    modes = 3.0 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[rng.integers(4, size=n)]
    return rng.normal(size=(n, 2)), modes + 0.2 * rng.normal(size=(n, 2))


def test_flows_of_every_blur_are_ranked_as_by_the_exact_distance():
    (x, y), (_, unseen) = four_modes(200, seed=0), four_modes(200, seed=1)
    carried = [sinkhorn_flow(x, y, blur, n_steps=5).x[-1] for blur in (0.3, 1.0, 2.0, 4.0, 1e5)]
    scores, exact = ([distance_of(name)(z, unseen) for z in carried] for name in ("sinkhorn_divergence", "wasserstein"))
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(exact))


# %% Units


@every_metric
@pytest.mark.parametrize("unit", [1.0, 2.0**400, 2.0**-400, 2.0**27])
def test_a_distance_goes_with_the_unit_and_not_with_the_origin(name, unit):
    (x, y), distance = samples(60, 50), distance_of(name)
    wanted = unit ** POWERS[name] * distance(x, y)
    assert distance(unit * x, unit * y) == pytest.approx(wanted, rel=1e-9)
    assert distance(unit * (x + 2.0**27), unit * (y + 2.0**27)) == pytest.approx(wanted, rel=1e-6)


@every_metric
def test_a_score_of_far_samples_is_that_of_near_ones(name):
    (x, y), far = samples(100), np.array([1e8, -1e8])
    near = MeanFlow(random_state=0).fit(x, y).score(x, y, metric=name)
    assert MeanFlow(random_state=0).fit(x + far, y + far).score(x + far, y + far, metric=name) == pytest.approx(
        near, rel=1e-3
    )


@pytest.mark.parametrize("unit", [1e160, 1e-160])
def test_a_score_beyond_the_range_of_numbers_is_refused(unit):
    x, y = (unit * z for z in samples(50))
    model = MeanFlow(random_state=0).fit(x, y)
    with pytest.raises(ValueError, match="a number that float64 does not hold. Measure the data .* in another unit"):
        model.score(x, y)
    assert np.isfinite(model.score(x, y, metric="mmd"))


def test_a_single_target_is_compared_with(flow):
    x = samples(30)[0]
    distance = np.sqrt(np.mean(np.sum((flow.transform(x) - [1.0, 2.0]) ** 2, axis=1)))
    assert flow.score(x, [[1.0, 2.0]], metric="wasserstein") == pytest.approx(-distance, rel=NETWORK)
    assert -(distance**2) < flow.score(x, [[1.0, 2.0]]) < 0


# %% Times and conditions


def test_a_score_of_a_time_course_compares_with_the_snapshot_of_its_end():
    x, y = samples(60)
    far = y + 4.0
    model = NSGF(**BARELY).fit({0.0: x, 1.0: y, 3.0: far})
    for t0, t1, target in ((None, 1.0, y), (1.0, None, far), (None, 2.0, y)):
        wanted = -metrics.wasserstein(model.transform(x, t0=t0, t1=t1), target)
        assert model.score(x, target, t0=t0, t1=t1, metric="wasserstein") == pytest.approx(wanted, rel=NETWORK)
    for t1 in (None, 3.0, 3):
        assert model.score(x, t1=t1) == pytest.approx(model.score(x, far), rel=NETWORK)
    with pytest.raises(ValueError, match=r"t1=1.0 needs target samples of that time, score\(X, X_tgt, t1=1.0\)"):
        model.score(x, t1=1.0)
    with pytest.raises(ValueError, match="must rise within the times of the fit, 0 to 3"):
        model.score(x, y, t1=4.0)


def test_a_score_carries_to_the_conditions_that_it_is_given():
    y, names = labelled_sample(120)
    model, x = NSGF(**BARELY).fit(None, y, y_tgt=names), samples(120)[0]
    for asked in (names, "a", names[::-1]):
        wanted = -metrics.wasserstein(model.transform(x, asked, guidance=1.5), y)
        assert model.score(x, y, y=asked, guidance=1.5, metric="wasserstein") == pytest.approx(wanted, rel=NETWORK)
    with pytest.raises(ValueError, match="y has 119"):
        model.score(x, y, y=names[1:])


def test_a_score_before_fit_says_so():
    with pytest.raises(NotFittedError, match="not fitted"):
        NSGF().score(*samples(20))


# %% Data frames


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("output", ["default", "pandas", "polars"])
def test_frames_are_scored_as_arrays_whatever_the_output(library, output):
    x, y = frames(library)
    with sklearn.config_context(transform_output=output):
        model = MeanFlow(random_state=0).fit(x, y)
        wanted = MeanFlow(random_state=0).fit(*samples(80)).score(*samples(80))
        assert [model.score(x, y), model.score(x)] == pytest.approx([wanted, wanted], rel=NETWORK)


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.filterwarnings("ignore:X has feature names, but MeanFlow was fitted without:UserWarning")
def test_frames_with_other_columns_or_another_order_are_refused(library):
    x, y = frames(library)
    named, plain = MeanFlow().fit(x, y), MeanFlow().fit(*samples(80))
    further = y.assign(c=1.0) if library == "pandas" else y.with_columns(c=pl.lit(1.0))
    for model, source, target in (
        (named, x, y[["b", "a"]]),
        (named, x[["b", "a"]], y),
        (plain, x, y[["b", "a"]]),
        (named, x, y[["a"]]),
        (named, x, further),
    ):
        with pytest.raises(ValueError, match="have different columns, or another order|feature names should match"):
            model.score(source, target)


@pytest.mark.slow
def test_a_search_over_the_blur_finds_the_one_that_sees_the_modes():
    rng = np.random.default_rng(1)
    centres = np.array([[3, 0], [-3, 0], [0, 3], [0, -3.0]])
    y = centres[rng.integers(4, size=800)] + 0.2 * rng.normal(size=(800, 2))
    model = NSGF(max_iter=400, n_batches=4, batch_size=128, random_state=0)
    search = GridSearchCV(model, {"blur": [0.4, 2.0, 10.0, 1e5]}, cv=2, refit=False)
    assert search.fit(rng.normal(size=(800, 2)), y).best_params_ == {"blur": 0.4}
