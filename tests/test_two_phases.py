"""NSGF++: its two phases, the predictor between them, and images."""

import numpy as np
import pytest
import torch
from torch import nn

from nsgf import NSGF, NSGFPlusPlus, Training, datasets, metrics, ode
from nsgf.field import Field
from nsgf.networks import UNet
from nsgf.samples import Frame

QUICK = {"max_iter": 400, "n_batches": 4, "batch_size": 128, "n_steps": (2, 5), "device": "cpu", "random_state": 0}
IMAGES = {"n_batches": 2, "batch_size": 64, "max_iter": 10, "training": Training(batch_size=16), "device": "cpu"}
ignore_report = pytest.mark.filterwarnings("ignore:report_:UserWarning")  # quick fits


def samples(n=400, seed=0):
    rng = np.random.default_rng(seed)
    return datasets.gaussian(n, rng), datasets.moons(n, rng)


@pytest.fixture(scope="module")
def fitted():
    return NSGFPlusPlus(**QUICK).fit(*samples())


def test_two_phases_come_nearer_the_target_than_the_first_alone(fitted):
    x, y = samples(500, seed=1)
    floor = metrics.wasserstein(samples(500, seed=2)[1], y)
    assert metrics.wasserstein(fitted.transform(x), y) < 3 * floor < metrics.wasserstein(x, y)


@ignore_report
def test_the_predictor_recovers_the_time_between_separated_clouds():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 500, 2)) * 0.3 + np.array([[[0.0, 0.0]], [[6.0, 2.0]]])
    model = NSGFPlusPlus(**QUICK | {"max_iter": (50, 1, 1000)}).fit(x, y)
    assert model.report_["time_error"] < 0.05
    t, i = rng.uniform(size=400), rng.integers(500, size=(2, 400))
    on_lines = (1 - t[:, None]) * x[i[0]] + t[:, None] * y[i[1]]
    assert np.abs(model.predict_time(on_lines) - t).mean() < 0.05


def test_phase_two_starts_where_phase_one_ended_at_the_predicted_time(fitted):
    x = samples(50, seed=1)[0]
    path = fitted.trajectory(x)
    tau = fitted.predict_time(path[2])
    assert path.shape == (8, 50, 2)
    np.testing.assert_array_equal(fitted.phases, [1, 1, 2, 2, 2, 2, 2])
    np.testing.assert_allclose(path[0], x, atol=1e-5)
    np.testing.assert_array_equal(path[-1], fitted.transform(x))
    assert np.all((tau >= 0) & (tau <= 1))
    assert 0.1 < tau.mean() < 0.9
    frame = Frame(fitted.shift_, fitted.scale_, fitted.sample_shape_)
    ends = ode.integrate(Field(fitted.straight_field_), frame.to_unit(path[2]), np.linspace(tau, 1.0, 6))
    np.testing.assert_allclose(frame.to_data(ends), path[-1], atol=1e-4)


def test_rows_are_carried_independently(fitted):
    x = samples(64, seed=1)[0]
    np.testing.assert_allclose(fitted.transform(x)[10:20], fitted.transform(x[10:20]), atol=1e-4)


def test_the_first_phase_is_the_flow_that_nsgf_learns(fitted):
    alone = NSGF(**QUICK | {"n_steps": 2}).fit(*samples())
    for name in ("minibatch_gap", "max_error"):  # of the same flows
        assert fitted.report_[name] == alone.report_[name]
    assert fitted.report_["regression_gap"] < 1.1 * alone.report_["regression_gap"]


@pytest.mark.parametrize(("model", "options"), [(NSGF, {"n_steps": 2}), (NSGFPlusPlus, {"n_steps": (2, 3)})])
@ignore_report
def test_function_evaluations_are_counted_as_made(model, options):
    calls = []

    class Counted(nn.Linear):
        def forward(self, x, t=None):
            calls.append(len(x))
            return super().forward(x)

    model = model(**QUICK | options | {"max_iter": 3, "network": Counted(2, 2)}).fit(*samples(100))
    calls.clear()
    model.transform(np.zeros((5, 2)))
    assert len(calls) == model.n_evaluations == sum(np.atleast_1d(options["n_steps"]))


def test_other_steps_after_the_fit_cover_the_same_length():
    model = NSGF(**QUICK | {"n_steps": 5, "step_size": 0.5, "max_iter": 1000}).fit(*samples())
    x, y = samples(500, seed=1)
    trained = model.transform(x)
    for n_steps in (10, 40):
        made = model.set_params(n_steps=n_steps).transform(x)
        assert metrics.wasserstein(made, y) < 0.5 * metrics.wasserstein(x, y)
        assert 0 < np.sqrt(np.mean((made - trained) ** 2)) < 0.5 * np.sqrt(np.mean((trained - x) ** 2))


def test_a_file_holds_all_three_networks(fitted, tmp_path):
    x = samples(20, seed=1)[0]
    fitted.save(tmp_path / "m")
    loaded = NSGFPlusPlus.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.transform(x), fitted.transform(x))
    np.testing.assert_array_equal(loaded.history_["time_loss"], fitted.history_["time_loss"])
    assert loaded.report_ == fitted.report_
    with pytest.raises(ValueError, match="holds a NSGFPlusPlus, not a NSGF"):
        NSGF.load(tmp_path / "m")


@ignore_report
def test_a_training_value_survives_the_file(tmp_path):
    training = Training(clip=1.0, validate_every=2, directory=tmp_path / "run")
    model = NSGF(**QUICK | {"max_iter": 5, "n_steps": 2}, training=training).fit(*samples(100))
    model.save(tmp_path / "m")
    loaded = NSGF.load(tmp_path / "m")
    assert loaded.training.path("pool") == training.path("pool")
    assert (loaded.training.clip, loaded.training.validate_every) == (1.0, 2)
    np.testing.assert_array_equal(loaded.history_["validation"], model.history_["validation"])


@ignore_report
def test_a_fit_in_a_directory_is_taken_up_in_the_phase_that_it_reached(tmp_path):
    settings = QUICK | {"max_iter": (20, 30, 40), "training": Training(directory=tmp_path)}
    first = NSGFPlusPlus(**settings).fit(*samples())
    assert first.n_iter_ == 90
    (tmp_path / "time_predictor_.safetensors").unlink()
    again = NSGFPlusPlus(**settings).fit(*samples())
    for name in ("loss", "straight_loss", "time_loss"):
        np.testing.assert_array_equal(again.history_[name], first.history_[name])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n_steps": 6}, "n_steps=6 has more than 5 steps in phase 1; use NSGF"),
        ({"n_steps": (2, 0)}, "n_steps=0 must be"),
        ({"max_iter": (1, 2)}, r"max_iter=\(1, 2\) must be one integer, or 3"),
        ({"max_iter": (1, 0, 1)}, "max_iter=0 must be"),
    ],
)
def test_a_bad_parameter_is_named(parameters, words):
    with pytest.raises(ValueError, match=words):
        NSGFPlusPlus(**QUICK | parameters).fit(*samples(50))


def pictures(n=100, seed=0):
    """Return bright squares of 8 × 8 pixels at random places, (n, 1, 8, 8)."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 0.1, size=(n, 1, 8, 8))
    for image, (i, j) in zip(images, rng.integers(5, size=(n, 2)), strict=True):
        image[0, i : i + 4, j : j + 4] += 0.9
    return images


def small_unet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet((1, 8, 8), width=8, multipliers=(1, 2), attention=(), n_heads=1)


@ignore_report
@pytest.mark.parametrize("model", [NSGF, NSGFPlusPlus])
def test_images_go_in_and_images_come_out(model):
    X = pictures()
    fitted = model(network=small_unet(), random_state=0, **IMAGES).fit(X, X)
    assert fitted.sample_shape_ == (1, 8, 8)
    assert fitted.transform(X[:3].astype(np.float32)).shape == fitted.sample(3).shape == (3, 1, 8, 8)
    assert fitted.trajectory(X[:3]).shape[1:] == (3, 1, 8, 8)
    assert fitted.transform(torch.from_numpy(X[:3])).shape == (3, 1, 8, 8)
    assert fitted.transform(X[:3].reshape(3, 64)).shape == (3, 64)
    assert np.isfinite(fitted.score(X[:20]))
    with pytest.raises(ValueError, match="features"):
        fitted.transform(np.zeros((3, 1, 9, 9)))


@ignore_report
def test_rows_are_the_images_that_a_unet_sees_in_them(tmp_path):
    X = pictures()
    settings = IMAGES | {"max_iter": 3, "random_state": 0, "network": small_unet()}
    images, rows = NSGF(**settings).fit(None, X), NSGF(**settings).fit(None, X.reshape(-1, 64))
    np.testing.assert_array_equal(rows.transform(X[:2].reshape(2, 64)), images.transform(X[:2]).reshape(2, 64))
    assert rows.sample(2).shape == (2, 64)
    images.save(tmp_path / "m")
    np.testing.assert_array_equal(NSGF.load(tmp_path / "m").transform(X[:2]), images.transform(X[:2]))


@ignore_report
def test_a_module_of_ones_own_sees_images():
    shapes = []

    class Seen(nn.Conv2d):
        def forward(self, x, t):
            shapes.append(x.shape[1:])
            return super().forward(x)

    NSGF(network=Seen(1, 1, 3, padding=1), **IMAGES | {"max_iter": 2}).fit(None, pictures())
    assert set(shapes) == {(1, 8, 8)}


def test_rows_for_a_unet_and_a_shape_that_does_not_fit_are_clear_errors():
    with pytest.raises(ValueError, match=r"network='unet' takes images.*rows of 64 features.*sample_shape"):
        NSGF(network="unet", **IMAGES).fit(None, pictures().reshape(-1, 64))
    with pytest.raises(ValueError, match=r"sample_shape=\(1, 7, 9\) with 63 entries, but a sample has 64 features"):
        NSGF(network=UNet((1, 7, 9)), **IMAGES).fit(None, pictures().reshape(-1, 64))
    with pytest.raises(ValueError, match="X_tgt.*0 sample"):
        NSGF(network="unet", **IMAGES).fit(None, pictures()[:0])


@pytest.mark.gpu
@ignore_report
def test_images_are_learnt_on_a_gpu_in_half_precision():
    X = pictures()
    training = Training(batch_size=16, bf16=True, channels_last=True, refill_every=3, validate_every=5)
    fitted = NSGFPlusPlus(network="unet", random_state=0, **IMAGES | {"training": training, "device": "cuda"}).fit(
        None, X
    )
    assert np.isfinite(fitted.sample(3)).all()
    assert np.isfinite(fitted.history_["straight_validation"]).all()
    on_cpu = fitted.set_params(device="cpu").transform(X[:3])
    np.testing.assert_allclose(fitted.set_params(device="cuda").transform(X[:3]), on_cpu, atol=1e-2)
