"""NSGF: what it carries where, of plain samples, labels, numbers, known pairs, time courses and images."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from common import BARELY, CENTRES, QUICK, ignore_report, labelled_sample, nearest_centre, pictures, samples, small_unet
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tolerances import NETWORK

from nsgf import NSGF, POT, NSGFPlusPlus, Numbers, metrics
from nsgf.networks import MLP

# %% Plain samples


def test_transport_comes_nearer_the_target_than_the_source_was(flow):
    x, y = samples(500, seed=1)
    floor = metrics.wasserstein(samples(500, seed=2)[1], y)
    assert metrics.wasserstein(flow.transform(x), y) < 3 * floor < metrics.wasserstein(x, y)


def test_score_is_larger_for_a_better_transport(flow):
    untrained = NSGF(**QUICK | {"max_iter": 1})
    with pytest.warns(UserWarning, match="raise max_iter or n_batches"):
        untrained.fit(*samples())
    x, y = samples(300, seed=1)
    assert 0 >= flow.score(x, y) > untrained.score(x, y)
    assert flow.score(x) > untrained.score(x)


def test_history_holds_what_the_documentation_says(flow):
    assert flow.history_["loss"].shape == (300,) == (flow.n_iter_,)
    assert flow.history_["loss"][-50:].mean() < flow.history_["loss"][:50].mean()
    assert flow.history_["pool_seconds"] > 0 < flow.history_["train_seconds"]
    assert flow.history_["validation"].shape == (0, 2)


@pytest.mark.parametrize("factor", [1e-8, 1000.0])
def test_units_that_are_no_powers_of_two_do_not_matter_either(flow, factor):
    X_src, X_tgt = samples()
    x = samples(50, seed=1)[0]
    scaled = NSGF(**QUICK).fit(factor * X_src, factor * X_tgt)
    np.testing.assert_allclose(scaled.transform(factor * x), factor * flow.transform(x), rtol=1e-4, atol=1e-4 * factor)
    assert scaled.blur_ == pytest.approx(factor * flow.blur_)


def test_samples_are_fresh_at_each_call(flow):
    model = copy.deepcopy(flow)
    first, second = model.sample(20), model.sample(20)
    assert first.shape == (20, 2)
    assert not np.allclose(first, second)


@ignore_report
def test_random_state_takes_a_generator_or_a_legacy_state():
    x, y = samples(100)
    for make in (np.random.default_rng, np.random.RandomState):
        first, second = (NSGF(**BARELY | {"random_state": make(5)}).fit(x, y).transform(x) for _ in range(2))
        np.testing.assert_array_equal(first, second)


@ignore_report
def test_a_feature_that_is_constant_in_the_target_is_reached_from_noise():
    X = np.array([5.0, -3.0, 7.0]) + np.array([1.0, 10.0, 0.0]) * np.random.default_rng(0).normal(size=(500, 3))
    made = NSGF(**QUICK | {"blur": 5.0}).fit(None, X).sample(200, random_state=0)
    np.testing.assert_allclose(made.mean(axis=0), X.mean(axis=0), atol=1.5)
    np.testing.assert_allclose(made[:, 2], 7.0, atol=0.5)


@ignore_report
@pytest.mark.parametrize(
    "convert",
    [
        lambda X: np.round(10 * X).astype(int),
        lambda X: np.repeat(X[:60], 2, axis=0),
        lambda X: np.hstack([X, np.ones((len(X), 1))]),
        lambda X: np.hstack([X, np.ones((len(X), 1))]).tolist(),
    ],
    ids=["integer", "duplicates", "constant", "constant in a list"],
)
def test_awkward_samples_are_accepted(convert):
    X_src, X_tgt = map(convert, samples(100))
    result = NSGF(**BARELY).fit(X_src, X_tgt).transform(X_src)
    assert result.dtype == np.float64
    assert np.isfinite(result).all()


def test_point_masses_are_carried_onto_each_other():
    model = NSGF(**QUICK | {"max_iter": 600}).fit(np.zeros((10, 2)), np.full((10, 2), 3.0))
    np.testing.assert_allclose(model.transform(np.zeros((1, 2))), [[3.0, 3.0]], atol=0.1)


def test_a_pipeline_hands_on_the_target_sample():
    X_src, X_tgt = samples(200)
    pipeline = make_pipeline(StandardScaler(), NSGF(**QUICK)).fit(10 * X_src + 5, X_tgt)
    assert metrics.wasserstein(pipeline.transform(10 * X_src + 5), X_tgt) < 1.5


@ignore_report
def test_the_policy_on_unconverged_solves_is_the_solvers():
    hard = {"tol": 1e-9, "max_iter": 2, "method": "sinkhorn_log"}
    with pytest.warns(ConvergenceWarning, match="marginal error"):
        NSGF(**BARELY | {"solver": POT(**hard)}).fit(*samples(100))
    with pytest.raises(RuntimeError, match="marginal error.*Raise max_iter"):
        NSGF(**BARELY | {"solver": POT(**hard, on_unconverged="raise")}).fit(*samples(100))


def test_a_network_of_ones_own_is_trained_and_left_untouched():
    net = MLP(2, width=32, depth=2)
    before = copy.deepcopy(net.state_dict())
    model = NSGF(**QUICK | {"network": net, "max_iter": 600}).fit(*samples())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert metrics.wasserstein(model.transform(samples()[0]), samples()[1]) < 1.5


@ignore_report
def test_verbose_shows_progress(capfd):
    NSGF(**BARELY | {"verbose": 1}).fit(*samples(100))
    shown = capfd.readouterr().err
    assert "NSGF pool" in shown
    assert "NSGF train" in shown


def test_sample_takes_a_positive_integer(flow):
    with pytest.raises(ValueError, match="n=0 must be an integer"):
        flow.sample(0)


def test_other_steps_after_the_fit_cover_the_same_length():
    model = NSGF(**QUICK | {"n_steps": 5, "step_size": 0.5, "max_iter": 600}).fit(*samples())
    x, y = samples(500, seed=1)
    trained = model.transform(x)
    for n_steps in (10, 40):
        made = model.set_params(n_steps=n_steps).transform(x)
        assert metrics.wasserstein(made, y) < 0.5 * metrics.wasserstein(x, y)
        assert 0 < np.sqrt(np.mean((made - trained) ** 2)) < 0.5 * np.sqrt(np.mean((trained - x) ** 2))


@pytest.mark.gpu
def test_a_model_fitted_on_a_gpu_carries_cupy_arrays_and_opens_on_a_cpu(tmp_path):
    import cupy

    X_src, X_tgt = (cupy.asarray(x) for x in samples())
    model = NSGF(**QUICK | {"device": "auto"}).fit(X_src, X_tgt)
    result = model.transform(X_src)
    assert isinstance(result, cupy.ndarray)
    model.save(tmp_path / "m")
    loaded = NSGF.load(tmp_path / "m").set_params(device="cpu")
    np.testing.assert_allclose(loaded.transform(X_src.get()), result.get(), atol=1e-3)


# %% Labels, numbers and pairs


@pytest.fixture(scope="module")
def labelled():
    X, names = labelled_sample()
    return NSGF(**QUICK | {"max_iter": 900}).fit(None, X, y_tgt=names)


def test_samples_have_the_label_that_is_asked_for(labelled):
    assert labelled.classes_ == ("a", "b", "c")
    for k, name in enumerate("abc"):
        assert np.mean(nearest_centre(labelled.sample(200, random_state=1, y=name)) == k) > 0.97
    mixed = labelled.sample(4, random_state=0, y=["a", "c", "c", "b"])
    np.testing.assert_array_equal(nearest_centre(mixed), [0, 2, 2, 1])
    assert np.bincount(nearest_centre(labelled.sample(300, random_state=1))).min() > 30


def test_guidance_beyond_one_leads_further_from_what_is_known_of_all(labelled):
    x = np.random.default_rng(0).normal(size=(200, 2))
    free, known, more = (labelled.transform(x, "a", guidance=w) for w in (0.0, 1.0, 2.0))
    assert 0 < np.linalg.norm((known - free).mean(0)) < np.linalg.norm((more - free).mean(0))
    np.testing.assert_allclose(labelled.transform(x, guidance=3.0), free, atol=NETWORK)  # nothing is known
    assert labelled.score(x, CENTRES[:1] + 0.3 * x, y="a", guidance=1) == labelled.score(
        x, CENTRES[:1] + 0.3 * x, y="a"
    )


@ignore_report
def test_labels_of_both_sides_keep_mass_within_them():
    X, names = labelled_sample()
    Y, other = labelled_sample(seed=1, names="bca")  # each label has another centre there
    model = NSGF(**QUICK).fit(X, Y, y_src=names, y_tgt=pd.Series(other))
    moved = model.transform(X, names)
    goal = CENTRES[[list("bca").index(name) for name in names]]
    assert np.mean(np.linalg.norm(moved - goal, axis=1) < 1.5) > 0.95
    made = model.sample(100, random_state=0, y="a")
    assert np.mean(np.linalg.norm(made - CENTRES[2], axis=1) < 1.5) > 0.95


@ignore_report
def test_continuous_conditions_are_followed():
    rng = np.random.default_rng(0)
    c = rng.uniform(-1, 1, size=(1000, 1))
    Y = np.concatenate([3 * c, 4 * c**2], axis=1) + 0.1 * rng.normal(size=(1000, 2))
    model = NSGF(**QUICK | {"batch_size": 500, "max_iter": 600}).fit(None, Y, y_tgt=Numbers(c[:, 0]))
    for value in (-0.8, 0.0, 0.5):
        made = model.sample(200, random_state=0, y=value)
        np.testing.assert_allclose(made.mean(axis=0), [3 * value, 4 * value**2], atol=0.2)
        assert made.std(axis=0).max() < 0.4


@pytest.mark.slow
@ignore_report
def test_pairs_are_honoured_and_lead_their_neighbours():
    rng = np.random.default_rng(0)
    side = np.repeat([1.0, -1.0], 150)[:, None]
    X = np.concatenate([np.zeros((300, 1)), 2 * side], axis=1) + 0.4 * rng.normal(size=(300, 2))
    Y = X + np.concatenate([np.full((300, 1), 5.0), -4 * side], axis=1)  # the clouds change sides
    pairs = np.repeat(rng.choice(300, size=(30, 1), replace=False), 2, axis=1)
    model = NSGF(**QUICK | {"max_iter": 900}).fit(X, Y, pairs=pairs)
    plain = NSGF(**QUICK | {"max_iter": 150}).fit(X, Y)
    error, without = (np.linalg.norm(m.transform(X) - Y, axis=1) for m in (model, plain))
    assert np.median(without) > 3
    assert np.median(error) < 0.5
    assert error[pairs[:, 0]].mean() < 0.5


@ignore_report
def test_a_label_that_no_source_row_has_is_drawn_from_the_unknown_ones():
    x, labels = labelled_sample(200)
    model = NSGF(**BARELY).fit(x, x + 1.0, y_src=[None] * 200, y_tgt=labels)
    assert model.sample(3, random_state=0, y="a").shape == (3, 2)


@ignore_report
def test_a_class_whose_source_rows_are_all_unknown_is_learnt_from_their_partners():
    rng = np.random.default_rng(3)
    left, right = ([[k, 0.0]] + 0.3 * rng.normal(size=(200, 2)) for k in (0.0, 6.0))
    x, labels = np.concatenate([left, right]), ["a"] * 200 + ["b"] * 200
    model = NSGF(**QUICK).fit(x, x + [0.0, 6.0], y_src=[None] * 400, y_tgt=labels)
    for cloud, label, end in ((left, "a", [0.0, 6.0]), (right, "b", [6.0, 6.0])):
        assert np.allclose(model.transform(cloud, label).mean(axis=0), end, atol=0.5)


# %% Time courses


def snapshots(times=(0.0, 24.0, 48.0), n=300):
    rng = np.random.default_rng(0)
    return {t: rng.normal(size=(n, 2)) * 0.5 + [t / 10, (t / 20) ** 2] for t in times}


@pytest.fixture(scope="module")
def course():
    return NSGF(**QUICK | {"max_iter": 600}).fit(snapshots())


def test_a_time_course_reproduces_the_mean_of_each_snapshot_at_its_time(course):
    X = snapshots()
    for t in (24.0, 48.0):
        np.testing.assert_allclose(course.transform(X[0.0], t1=t).mean(0), X[t].mean(0), atol=0.15)
        assert metrics.wasserstein(course.transform(X[0.0], t1=t), X[t]) < 0.5
    half = course.transform(X[24.0], t0=24.0, t1=36.0)
    np.testing.assert_allclose(half.mean(0), (X[24.0].mean(0) + X[48.0].mean(0)) / 2, atol=0.15)


def test_a_time_course_in_parts_is_the_course_at_once(course):
    X = snapshots()[0.0]
    parts = course.transform(course.transform(X, t1=24.0), t0=24.0)
    np.testing.assert_allclose(parts, course.transform(X), atol=NETWORK)
    assert course.trajectory(X).shape == (7, 300, 2)
    assert course.n_evaluations == 6


@ignore_report
def test_a_time_course_takes_a_list_in_any_order():
    X = snapshots()
    given, turned = (NSGF(**BARELY).fit(form) for form in (X, list(reversed(X.items()))))
    np.testing.assert_array_equal(turned.transform(X[0.0], t1=30), given.transform(X[0.0], t1=30))
    np.testing.assert_array_equal(given.times_, [0.0, 24.0, 48.0])


# %% Images


IMAGES = BARELY | {"network": "unet"}


@ignore_report
@pytest.mark.parametrize("leaf", [NSGF, NSGFPlusPlus])
def test_images_go_in_and_images_come_out(leaf):
    X = pictures()
    model = leaf(**IMAGES | {"network": small_unet()}).fit(X, X)
    assert model.sample_shape_ == (1, 8, 8)
    assert model.transform(X[:3].astype(np.float32)).shape == model.sample(3).shape == (3, 1, 8, 8)
    assert model.trajectory(X[:3]).shape[1:] == (3, 1, 8, 8)
    assert model.transform(torch.from_numpy(X[:3])).shape == (3, 1, 8, 8)
    assert model.transform(X[:3].reshape(3, 64)).shape == (3, 64)
    assert np.isfinite(model.score(X[:20]))
    with pytest.raises(ValueError, match="features"):
        model.transform(np.zeros((3, 1, 9, 9)))


@ignore_report
def test_rows_are_the_images_that_a_unet_sees_in_them():
    X = pictures()
    images, rows = (NSGF(**IMAGES | {"network": small_unet()}).fit(None, Z) for Z in (X, X.reshape(-1, 64)))
    np.testing.assert_array_equal(rows.transform(X[:2].reshape(2, 64)), images.transform(X[:2]).reshape(2, 64))
    assert rows.sample(2).shape == (2, 64)


def test_rows_for_a_unet_and_no_images_at_all_are_clear_errors():
    with pytest.raises(ValueError, match=r"network='unet' takes images.*rows of 64 features.*sample_shape"):
        NSGF(**IMAGES).fit(None, pictures().reshape(-1, 64))
    with pytest.raises(ValueError, match="X_tgt.*0 sample"):
        NSGF(**IMAGES).fit(None, pictures()[:0])


@ignore_report
@pytest.mark.parametrize("far", [1e39, 1e200])
def test_rows_beyond_what_float32_holds_are_named(far):
    x, y = samples(50)
    model = NSGF(**BARELY).fit(x, y)
    with pytest.raises(ValueError, match="X lies up to .* spreads from the samples of the fit. Give it in their unit"):
        model.transform([[0.0, 0.0], [far, 0.0], [1.0, 1.0]])
