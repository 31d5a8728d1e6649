"""The estimator: contract, invariances, reproducibility, persistence, and errors."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nsgf import NSGF, POT, datasets, metrics
from nsgf.networks import MLP
from nsgf.task import Task

QUICK = {"max_iter": 400, "n_batches": 4, "batch_size": 128, "n_steps": 3, "device": "cpu", "random_state": 0}


def samples(n=400, seed=0):
    rng = np.random.default_rng(seed)
    return datasets.gaussian(n, rng), datasets.moons(n, rng)


@pytest.fixture(scope="module")
def fitted():
    return NSGF(**QUICK).fit(*samples())


def test_transport_comes_nearer_the_target_than_the_source_was(fitted):
    x, y = samples(500, seed=1)
    floor = metrics.wasserstein(samples(500, seed=2)[1], y)
    assert metrics.wasserstein(fitted.transform(x), y) < 3 * floor < metrics.wasserstein(x, y)


def test_score_is_larger_for_a_better_transport(fitted):
    untrained = NSGF(**QUICK | {"max_iter": 1})
    with pytest.warns(UserWarning, match="regression_gap"):
        untrained.fit(*samples())
    x, y = samples(300, seed=1)
    assert 0 >= fitted.score(x, y) > untrained.score(x, y)
    assert fitted.score(x) > untrained.score(x)


def test_trajectory_goes_from_the_input_to_the_transform(fitted):
    x = samples(20, seed=1)[0]
    path = fitted.trajectory(x)
    assert path.shape == (4, 20, 2)
    np.testing.assert_allclose(path[0], x, atol=1e-5)
    np.testing.assert_array_equal(path[-1], fitted.transform(x))


def test_rows_are_carried_independently(fitted):
    x = samples(64, seed=1)[0]
    np.testing.assert_allclose(fitted.transform(x)[10:20], fitted.transform(x[10:20]), atol=1e-4)


def test_history_and_report_hold_what_the_documentation_says(fitted):
    assert fitted.history_["loss"].shape == (400,) == (fitted.n_iter_,)
    assert fitted.history_["loss"][-50:].mean() < fitted.history_["loss"][:50].mean()
    assert fitted.history_["pool_seconds"] > 0 < fitted.history_["train_seconds"]
    assert 0 < fitted.report_["regression_gap"] < 0.5 > fitted.report_["minibatch_gap"] > 0
    assert fitted.report_["converged"]
    assert fitted.report_["max_error"] <= 1e-1  # velocities far below the blur included


@pytest.mark.parametrize("factor", [1000.0, 1e-8, 1e8])
def test_rescaled_data_give_the_rescaled_result(fitted, factor):
    X_src, X_tgt = samples()
    x = samples(50, seed=1)[0]
    scaled = NSGF(**QUICK).fit(factor * X_src, factor * X_tgt)
    np.testing.assert_allclose(
        scaled.transform(factor * x), factor * fitted.transform(x), rtol=1e-4, atol=1e-4 * factor
    )
    assert scaled.blur_ == pytest.approx(factor * fitted.blur_)


def test_translated_data_give_the_translated_result(fitted):
    X_src, X_tgt = samples()
    x, c = samples(50, seed=1)[0], np.array([64.0, -1024.0])  # exact in binary: the same bits enter the training
    moved = NSGF(**QUICK).fit(X_src + c, X_tgt + c).transform(x + c)
    # rounding flips bits of the float32 input, and training amplifies them: agreement is statistical
    assert np.sqrt(np.mean((moved - c - fitted.transform(x)) ** 2)) < 0.2


def test_the_same_random_state_gives_the_same_bits_and_another_does_not(fitted):
    again, other = NSGF(**QUICK).fit(*samples()), NSGF(**QUICK | {"random_state": 1}).fit(*samples())
    x = samples(50, seed=1)[0]
    np.testing.assert_array_equal(again.transform(x), fitted.transform(x))
    assert np.abs(other.transform(x) - fitted.transform(x)).max() > 1e-3
    np.testing.assert_array_equal(again.sample(5, random_state=3), fitted.sample(5, random_state=3))


def test_no_global_seed_is_touched():
    np.random.seed(0)  # noqa: NPY002  the global state is what this test is about
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    NSGF(**QUICK | {"max_iter": 300}).fit(*samples()).sample(3)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_samples_are_fresh_at_each_call(fitted):
    first, second = fitted.sample(20), fitted.sample(20)
    assert first.shape == (20, 2)
    assert not np.allclose(first, second)


def test_random_state_takes_a_generator_or_a_legacy_state():
    x, y = samples(100)
    settings = QUICK | {"max_iter": 2}
    for make in (np.random.default_rng, np.random.RandomState):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first, second = (NSGF(**settings | {"random_state": make(5)}).fit(x, y).transform(x) for _ in range(2))
        np.testing.assert_array_equal(first, second)


@pytest.mark.filterwarnings("ignore:report_:UserWarning")  # a quick fit
def test_noise_has_the_mean_and_scale_of_the_data():
    rng = np.random.default_rng(0)
    X = np.array([5.0, -3.0, 7.0]) + np.array([1.0, 10.0, 0.0]) * rng.normal(size=(500, 3))
    model = NSGF(**QUICK | {"max_iter": 1000, "blur": 5.0}).fit(None, X)
    task = Task.of(None, X)
    start = task.frame.to_data(task.draw(4000, None, rng)[0])
    np.testing.assert_allclose(start.mean(axis=0), X.mean(axis=0), atol=0.5)
    np.testing.assert_allclose(start.std(axis=0), X.std(axis=0), rtol=0.05, atol=1e-6)
    assert model.sample(7).shape == (7, 3)


@pytest.mark.filterwarnings("ignore:report_:UserWarning")  # a quick fit
@pytest.mark.parametrize(
    "convert",
    [
        lambda X: X.astype(np.float32),
        lambda X: X.astype(np.float16),
        lambda X: np.asfortranarray(X),
        lambda X: np.round(10 * X).astype(int),
        lambda X: X.tolist(),
        lambda X: np.repeat(X[:300], 2, axis=0),
        lambda X: np.hstack([X, np.ones((len(X), 1))]),
        lambda X: torch.from_numpy(X),
        lambda X: pd.DataFrame(X, columns=["a", "b"]),
        lambda X: pl.DataFrame(X, schema=["a", "b"]),
    ],
    ids=["float32", "float16", "fortran", "integer", "list", "duplicates", "constant", "torch", "pandas", "polars"],
)
def test_any_numeric_container_is_accepted(convert):
    X_src, X_tgt = map(convert, samples())
    result = NSGF(**QUICK).fit(X_src, X_tgt).transform(X_src)
    values = result.numpy() if isinstance(result, torch.Tensor) else result
    assert np.isfinite(values).all()
    assert isinstance(result, torch.Tensor) == isinstance(X_src, torch.Tensor)
    if isinstance(X_src, np.ndarray) and X_src.dtype.kind == "f":
        assert result.dtype == X_src.dtype


def test_read_only_input_is_left_alone():
    X_src, X_tgt = samples(100)
    before = X_src.copy(), X_tgt.copy()
    for array in (X_src, X_tgt):
        array.flags.writeable = False
    NSGF(**QUICK).fit(X_src, X_tgt).transform(X_src)
    np.testing.assert_array_equal(X_src, before[0])
    np.testing.assert_array_equal(X_tgt, before[1])


def test_point_masses_are_carried_onto_each_other():
    model = NSGF(**QUICK | {"max_iter": 800}).fit(np.zeros((10, 2)), np.full((10, 2), 3.0))
    np.testing.assert_allclose(model.transform(np.zeros((1, 2))), [[3.0, 3.0]], atol=0.1)


def test_data_frames_keep_their_column_names():
    X_src, X_tgt = (pd.DataFrame(x, columns=["a", "b"]) for x in samples(100))
    model = NSGF(**QUICK).set_output(transform="pandas").fit(X_src, X_tgt)
    assert list(model.transform(X_src).columns) == list(model.feature_names_in_) == ["a", "b"]


def test_a_pipeline_hands_on_the_target_sample():
    X_src, X_tgt = samples(200)
    pipeline = make_pipeline(StandardScaler(), NSGF(**QUICK)).fit(10 * X_src + 5, X_tgt)
    assert metrics.wasserstein(pipeline.transform(10 * X_src + 5), X_tgt) < 1.5


def bad(**changes):
    return NSGF(**QUICK | changes)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"blur": -1.0}, "blur=-1.0 must be"),
        ({"blur": 0}, "blur=0 must be"),
        ({"blur": "wide"}, "blur='wide' must be"),
        ({"blur": float("nan")}, "blur=nan must be"),
        ({"n_steps": 0}, "n_steps=0 must be"),
        ({"n_steps": -2}, "n_steps=-2 must be"),
        ({"n_steps": 2.5}, "n_steps=2.5 must be"),
        ({"step_size": -1}, "step_size=-1 must be"),
        ({"batch_size": 1}, "batch_size=1 must be"),
        ({"n_batches": 0}, "n_batches=0 must be"),
        ({"max_iter": 0}, "max_iter=0 must be"),
        ({"training": "fast"}, "training='fast' must be"),
        ({"network": "resnet"}, "network='resnet' is unknown; choose"),
        ({"solver": "newton"}, "solver='newton' is unknown; choose"),
        ({"device": "tpu"}, "device='tpu' is unknown; choose"),
    ],
)
def test_a_bad_parameter_is_named_with_the_way_out(parameters, words):
    with pytest.raises(ValueError, match=words):
        bad(**parameters).fit(*samples(50))


@pytest.mark.parametrize(
    ("X_src", "X_tgt", "words"),
    [
        ([[0.0, np.nan]] * 3, np.ones((3, 2)), "X_src.*NaN"),
        (np.ones((3, 2)), [[0.0, np.inf]] * 3, "X_tgt.*infinity"),
        (np.empty((0, 2)), np.ones((3, 2)), r"X_src.*0 sample"),
        (np.empty((3, 0)), np.ones((3, 2)), r"X_src.*0 feature"),
        (np.ones((1, 2)), np.ones((3, 2)), r"X_src.*1 sample"),
        (np.ones((3, 2)), np.ones((3, 3)), "X_src has 2 features but X_tgt has 3.*Encode"),
        (np.ones(3), np.ones((3, 2)), "X_src.*Reshape"),
        (np.ones((3, 2)), np.ones((3, 2, 2)), "X_src has 2 features but X_tgt has 4.*Encode"),
        ([["a", "b"]] * 3, np.ones((3, 2)), "X_src.*string"),
        (np.ones((3, 2)), np.array([[{}, 1]] * 3, dtype=object), "X_tgt"),
        (None, None, "X_tgt"),
    ],
    ids=["nan", "inf", "no-rows", "no-columns", "one-row", "widths", "1-D", "3-D", "text", "objects", "none"],
)
def test_a_bad_sample_is_named_before_any_work(X_src, X_tgt, words):
    with pytest.raises((ValueError, TypeError), match=rf"(?s){words}"):
        NSGF(**QUICK).fit(X_src, X_tgt)


def test_use_before_fit_says_so(tmp_path):
    for use in ("transform", "trajectory", "score", "sample", "save"):
        argument = {"sample": 3, "save": tmp_path / "m"}.get(use, np.ones((3, 2)))
        with pytest.raises(NotFittedError, match="not fitted"):
            getattr(NSGF(), use)(argument)


def test_sample_takes_a_positive_integer(fitted):
    with pytest.raises(ValueError, match="n=0 must be an integer"):
        fitted.sample(0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device; elsewhere it has one")
def test_cuda_asked_for_and_absent_names_the_remedy():
    with pytest.raises(RuntimeError, match="device='cuda' was asked for.*device='cpu'"):
        NSGF(device="cuda").fit(*samples(50))


@pytest.mark.filterwarnings("ignore:report_:UserWarning")  # a quick fit
def test_a_field_that_is_not_to_be_trusted_is_reported_with_the_remedy():
    with pytest.warns(UserWarning, match=r"regression_gap.*Raise max_iter"):
        NSGF(**QUICK | {"max_iter": 1}).fit(*samples())
    with pytest.warns(UserWarning, match=r"minibatch_gap.*Raise batch_size or blur"):
        NSGF(**QUICK | {"batch_size": 8, "n_batches": 60}).fit(*samples())


def test_the_policy_on_unconverged_solves_is_the_solvers():
    from sklearn.exceptions import ConvergenceWarning

    hard = {"tol": 1e-9, "max_iter": 2, "method": "sinkhorn_log"}
    with pytest.warns(ConvergenceWarning, match="marginal error"):
        NSGF(**QUICK | {"solver": POT(**hard)}).fit(*samples(100))
    with pytest.raises(RuntimeError, match="marginal error.*Raise max_iter"):
        NSGF(**QUICK | {"solver": POT(**hard, on_unconverged="raise")}).fit(*samples(100))


def test_a_network_of_ones_own_is_trained_and_left_untouched():
    net = MLP(2, width=32, depth=2)
    before = copy.deepcopy(net.state_dict())
    model = NSGF(**QUICK | {"network": net, "max_iter": 600}).fit(*samples())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert metrics.wasserstein(model.transform(samples()[0]), samples()[1]) < 1.5


def test_verbose_shows_progress(capfd):
    NSGF(**QUICK | {"verbose": 1}).fit(*samples(100))
    shown = capfd.readouterr().err
    assert "NSGF pool" in shown
    assert "NSGF train" in shown


def test_save_and_load_keep_everything(fitted, tmp_path):
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    loaded = NSGF.load(path)
    x = samples(30, seed=1)[0]
    np.testing.assert_array_equal(loaded.transform(x), fitted.transform(x))
    np.testing.assert_array_equal(loaded.sample(4, random_state=1), fitted.sample(4, random_state=1))
    np.testing.assert_array_equal(loaded.history_["loss"], fitted.history_["loss"])
    assert loaded.report_ == fitted.report_
    assert loaded.score(x) == fitted.score(x)
    assert loaded.get_params() == fitted.get_params()
    loaded.fit(*samples())


@pytest.mark.filterwarnings("ignore:report_:UserWarning")  # a quick fit
def test_names_noise_solvers_and_networks_survive_the_file(tmp_path):
    X = pd.DataFrame(samples()[1], columns=["a", "b"])
    net = MLP(2, width=32, depth=2)
    model = NSGF(**QUICK | {"network": net, "solver": POT(tol=1e-3), "blur": 2.0, "max_iter": 800}).fit(None, X)
    model.save(tmp_path / "m")
    loaded = NSGF.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.transform(X), model.transform(X))
    assert loaded.solver == POT(tol=1e-3)
    assert list(loaded.feature_names_in_) == ["a", "b"]
    assert (loaded.network.width, loaded.network.depth) == (32, 2)


def test_a_model_pickles(fitted):
    x = samples(5, seed=1)[0]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(x), fitted.transform(x))


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
