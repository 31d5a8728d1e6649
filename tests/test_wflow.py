"""WFlow: laws that one evaluation learns, against closed forms; guidance, features and time courses."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from common import ignore_report, labelled_sample, nearest_centre, pictures, samples, small_unet
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from nsgf import NSGF, POT, Sinkhorn, Training, WFlow, matching, spread
from nsgf.sinkhorn import sinkhorn_velocity

SHORT = {"max_iter": 200, "batch_size": 128, "device": "cpu", "random_state": 0}
BARELY = SHORT | {"max_iter": 3, "batch_size": 32}
COVARIANCE = np.array([[2.0, 1.2], [1.2, 1.0]])


def gaussian(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) @ np.linalg.cholesky(COVARIANCE).T + [5.0, -3.0]


@pytest.fixture(scope="module")
def labelled():
    """Return a model of points around three centres."""
    X, names = labelled_sample(900)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its classes are a tenth as wide as they are far from each other
        return WFlow(**SHORT | {"max_iter": 300}).fit(None, X, y_tgt=names)


# %% Laws that are known


@pytest.mark.parametrize("source", ["noise", "samples"])
def test_one_evaluation_makes_the_mean_and_the_covariance_of_a_gaussian(source):
    X_src = None if source == "noise" else np.random.default_rng(1).uniform(-1, 1, size=(2000, 2))
    model = WFlow(**SHORT).fit(X_src, gaussian(2000))
    made = model.sample(20000, random_state=0) if X_src is None else model.transform(np.resize(X_src, (2000, 2)))
    np.testing.assert_allclose(made.mean(axis=0), [5.0, -3.0], atol=0.1)  # 3 standard errors of 2000 rows
    np.testing.assert_allclose(np.cov(made.T), COVARIANCE, atol=0.25)
    assert model.n_evaluations == 1


def test_a_map_of_samples_goes_the_short_way():
    """Between Gaussians of one covariance the optimal map is the translation."""
    x, y = np.random.default_rng(0).normal(size=(2, 2000, 2))
    moved = WFlow(**SHORT).fit(x, y + [5.0, 0.0]).transform(x) - x
    assert np.sqrt(((moved - [5.0, 0.0]) ** 2).sum(axis=1).mean()) < 0.35


def test_a_rare_mode_is_kept():
    rng = np.random.default_rng(0)
    X = np.where(rng.random((4000, 1)) < 0.1, [4.0, 0.0], [0.0, 0.0]) + 0.5 * rng.normal(size=(4000, 2))
    made = WFlow(**SHORT | {"max_iter": 300}).fit(None, X).sample(20000, random_state=0)
    assert np.mean(made[:, 0] > 2.0) == pytest.approx(0.1, abs=0.04)


def test_two_batches_keep_the_width_that_one_batch_loses():
    """Beside a generator of the same steps, moved by velocities whose self term is the batch's own."""
    X = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    net, solve = nn.Sequential(nn.Linear(16, 128), nn.SiLU(), nn.Linear(128, 16)), Sinkhorn(tol=0.1)

    def draw(rng):
        z = rng.normal(size=(128, 16)).astype(np.float32)
        made = matching.evaluate(net, z)
        return (z,), made + sinkhorn_velocity(made, X[rng.permutation(2000)[:128]], 0.6, solver=solve).v

    one = matching.train(net, draw, np.random.default_rng(0), SHORT["max_iter"]).net
    alone = matching.evaluate(one, np.random.default_rng(1).normal(size=(2000, 16)).astype(np.float32))
    made = WFlow(**SHORT).fit(None, X).sample(2000, random_state=0)
    assert spread(made) / spread(X) == pytest.approx(1.0, abs=0.07)
    assert spread(alone) / spread(X) < 0.85


def test_the_report_says_how_far_the_velocity_is_from_that_of_the_law_itself():
    x, y = samples(2000)
    early, late = (WFlow(**SHORT | {"max_iter": n}) for n in (2, 300))
    with pytest.warns(UserWarning, match="The map is not learnt yet: raise max_iter"):
        early.fit(x, y)
    late.fit(x, y)
    assert early.report_["velocity"] > 1.5 * early.report_["velocity_floor"]
    assert late.report_["velocity"] == pytest.approx(late.report_["velocity_floor"], rel=0.15)
    assert late.report_["converged"]
    assert late.report_["max_error"] <= 0.1


# %% Conditions and guidance


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_labels_are_made_at_any_guidance(labelled, guidance):
    for code, name in enumerate("abc"):
        made = labelled.sample(500, random_state=0, y=name, guidance=guidance)
        assert np.mean(nearest_centre(made) == code) > 0.95


def test_guidance_moves_away_from_what_is_known_of_all():
    """Two classes that overlap: guidance makes the one that is asked for clearer."""
    rng = np.random.default_rng(0)
    codes = rng.integers(2, size=3000)
    X = rng.normal(size=(3000, 2)) + np.where(codes[:, None], [1.0, 0.0], [-1.0, 0.0])
    model = WFlow(**SHORT | {"max_iter": 300}).fit(None, X, y_tgt=np.array(["left", "right"], dtype=object)[codes])
    free, plain, more = (model.sample(4000, random_state=0, y="right", guidance=g)[:, 0].mean() for g in (0, 1, 3))
    assert free == pytest.approx(0.0, abs=0.2)
    assert plain == pytest.approx(1.0, abs=0.2)
    assert more > plain + 0.3


def test_unknown_labels_make_the_whole(labelled):
    shares = np.bincount(nearest_centre(labelled.sample(2000, random_state=0)), minlength=3) / 2000
    np.testing.assert_allclose(shares, 1 / 3, atol=0.1)


@pytest.mark.parametrize("guidance", [0.5, -1.0, 4.5])
def test_guidance_that_was_not_learnt_is_refused(labelled, guidance):
    with pytest.raises(ValueError, match=f"guidance={guidance} is none that WFlow.*0 .* or from 1 to 4"):
        labelled.sample(5, y="a", guidance=guidance)


def test_continuous_conditions_say_where_samples_lie():
    rng = np.random.default_rng(0)
    c = rng.uniform(-2, 2, size=(3000, 1))
    X = np.hstack([2.0 * c, 0.0 * c]) + rng.normal(size=(3000, 2))
    model = WFlow(**SHORT | {"max_iter": 300}).fit(None, X, y_tgt=c)
    for asked in (-1.0, 0.0, 1.0):
        made = model.sample(500, random_state=0, y=np.array([[asked]]))
        np.testing.assert_allclose(made.mean(axis=0), [2.0 * asked, 0.0], atol=0.4)


# %% Features, images, time courses


@ignore_report
def test_features_say_what_is_to_agree():
    """Distances that see the first coordinate only leave the second as it comes."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1000, 2)), rng.normal(size=(1000, 2)) * [1.0, 3.0] + [4.0, 7.0]
    model = WFlow(**SHORT, features=lambda z: z[:, :1]).fit(x, y)
    moved = model.transform(x) - y.mean(axis=0) - (x - x.mean(axis=0))
    assert np.abs(moved[:, 1]).max() < 1e-3
    assert model.transform(x)[:, 0].std() == pytest.approx(1.0, abs=0.1)
    assert model.blur_ == pytest.approx(0.15, rel=0.1)  # in the units of the features


@ignore_report
def test_features_of_a_network_are_held_fixed():
    phi, (x, y) = nn.Sequential(nn.Linear(2, 8), nn.Tanh()), samples(200)
    before = [w.detach().clone() for w in phi.parameters()]
    WFlow(**BARELY, features=phi).fit(x, y)
    assert all(
        torch.equal(w, v) and w.grad is None and w.requires_grad for w, v in zip(phi.parameters(), before, strict=True)
    )


@ignore_report
def test_features_are_given_samples_as_they_came():
    seen = []

    def phi(z):
        seen.append((tuple(z.shape[1:]), float(z.detach().min()), float(z.detach().max())))
        return z.flatten(1)

    X = 100.0 + 10.0 * pictures(120)
    WFlow(**BARELY, network=small_unet(), features=phi).fit(X[:60], X[60:])
    assert {shape for shape, *_ in seen} == {(1, 8, 8)}
    assert 95 < seen[0][1] < seen[0][2] < 115  # first of the target itself


@ignore_report
def test_a_unet_makes_images_from_noise():
    X = pictures(200)
    made = WFlow(**BARELY, network="unet").fit(None, X).sample(4, random_state=0)
    assert made.shape == (4, 1, 8, 8)


def test_each_interval_of_a_course_has_its_map():
    rng = np.random.default_rng(0)
    course = {t: rng.normal(size=(800, 2)) + where for t, where in ((0.0, [0, 0]), (1.0, [4, 0]), (3.0, [4, 6]))}
    model = WFlow(**SHORT).fit(course)
    x = course[0.0]
    assert model.n_evaluations == 2
    assert model.trajectory(x).shape == (3, 800, 2)
    np.testing.assert_allclose(model.transform(x, t1=1.0).mean(axis=0), [4, 0], atol=0.15)
    np.testing.assert_allclose(model.transform(x).mean(axis=0), [4, 6], atol=0.2)
    half = model.transform(x, t1=0.5)
    np.testing.assert_allclose(half, (x + model.transform(x, t1=1.0)) / 2, atol=1e-4)


# %% The training


@ignore_report
def test_a_training_that_is_gone_on_with_ends_at_the_same_bits(tmp_path):
    (x, y), calls, killed_at = samples(300), itertools.count(), []

    def phi(z):
        if next(calls) in killed_at:
            raise SystemError
        return z

    def fit(**where):
        habits = Training(optimiser="muon", ema_decay=0.98, checkpoint_every=4, **where)
        return WFlow(**BARELY | {"max_iter": 12}, training=habits, features=phi).fit(x, y).transform(x)

    whole = fit()
    killed_at.append(next(calls) + 30)
    with pytest.raises(SystemError):
        fit(directory=tmp_path)
    assert list(tmp_path.glob("field_*"))
    np.testing.assert_array_equal(fit(directory=tmp_path), whole)


@ignore_report
def test_a_solver_that_does_not_converge_is_told_of():
    x, y = samples(200)
    for policy, context in (("warn", pytest.warns(ConvergenceWarning)), ("raise", pytest.raises(RuntimeError))):
        with context:
            WFlow(**BARELY, solver=POT(tol=1e-9, max_iter=2, on_unconverged=policy)).fit(x, y)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"batch_size": 3}, "batch_size=3 must be"),
        ({"max_iter": 0}, "max_iter=0 must be"),
        ({"features": 3}, "features=3 must be callable"),
        ({"training": Training(validate_every=10)}, "WFlow has no validation"),
    ],
)
def test_a_bad_parameter_is_named(parameters, words):
    with pytest.raises(ValueError, match=words):
        WFlow(**BARELY | parameters).fit(*samples(50))


@pytest.mark.parametrize(
    ("features", "cause"),
    [
        (lambda z: z.sum(dim=1), r"shape \(8,\)"),
        (lambda z: z.sum(), r"shape \(\)"),
        (lambda z: z[:3], r"shape \(3, 2\)"),
        (lambda z: z[:, :0], r"shape \(8, 0\)"),
        (lambda z: z.detach().numpy(), "ndarray"),
        (lambda z: z.detach(), "without a gradient"),
        (lambda z: z.int(), "without a gradient"),
        (lambda z: z * torch.nan, "all the same, NaN"),
        (lambda z: 0.0 * z, "all the same, NaN"),
    ],
)
def test_features_that_teach_nothing_are_refused(features, cause):
    with pytest.raises(ValueError, match=cause):
        WFlow(**BARELY, features=features).fit(*samples(50))


def test_features_of_a_time_course_are_refused():
    x, y = samples(50)
    with pytest.raises(ValueError, match="features"):
        WFlow(**BARELY, features=lambda z: z).fit({0.0: x, 1.0: y})


def test_a_training_of_none_is_that_of_the_leaf():
    assert (WFlow().get_params()["training__ema_decay"], NSGF().get_params()["training__ema_decay"]) == (0.98, 0.999)
    assert WFlow().set_params(training__warmup=5).training == Training(ema_decay=0.98, warmup=5)
