"""The training loop: what it does to the optimiser, and what survives a kill, a full disk and Ctrl-C."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nsgf import NSGF, Training, _io, datasets
from nsgf.matching import _Run, relative_error, train
from nsgf.networks import MLP, UNet

QUICK = {"max_iter": 300, "n_batches": 3, "batch_size": 64, "n_steps": 2, "device": "cpu", "random_state": 0}
TRUTH = np.array([[2.0, 1.0], [0.0, -1.0]], dtype=np.float32)


def draw(rng):
    """Return a batch of the field x ↦ Ax."""
    x, t = rng.normal(size=(32, 2)).astype(np.float32), rng.random(32, dtype=np.float32)
    return (x, t), x @ TRUTH.T


def network(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLP(2, **{"width": 32, "depth": 2} | options)


def matched(n_iter=200, habits=None, **hooks):
    training = Training(**{"learning_rate": 1e-2} | (habits or {}))
    return train(network(), draw, np.random.default_rng(0), n_iter, training, **hooks)


def samples(n=200):
    rng = np.random.default_rng(0)
    return datasets.gaussian(n, rng), datasets.moons(n, rng)


def test_a_linear_field_is_learnt():
    rng = np.random.default_rng(1)
    assert relative_error(matched(1000).net, [draw(rng)]) < 0.05


@pytest.mark.parametrize("options", [{"bf16": True}, {"clip": 1.0, "warmup": 20}, {"ema_decay": 0.0}])
def test_every_habit_learns_it_too(options):
    rng = np.random.default_rng(1)
    assert relative_error(matched(600, options).net, [draw(rng)]) < 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules
def test_a_compiled_network_learns_what_the_plain_one_does():
    plain, compiled = matched(50).loss, matched(50, {"compile": True}).loss
    np.testing.assert_allclose(compiled, plain, rtol=1e-3)


def test_channels_last_changes_the_order_of_weights_and_not_the_losses():
    def losses(**habits):
        torch.manual_seed(0)
        net = UNet((1, 4, 4), width=8, multipliers=(1, 2), attention=(), n_heads=1)

        def draw(rng):
            x = rng.normal(size=(8, 16)).astype(np.float32)
            return (x, np.zeros(8, np.float32)), -x

        run = train(net, draw, np.random.default_rng(0), 20, Training(learning_rate=1e-3, **habits))
        return run.loss, net.first.weight.is_contiguous(memory_format=torch.channels_last)

    with torch.random.fork_rng(devices=[]):
        (plain, _), (ordered, is_last) = losses(), losses(channels_last=True)
    assert is_last
    np.testing.assert_allclose(ordered, plain, rtol=1e-3)


def test_a_clipped_gradient_is_no_longer_than_asked():
    for clip, longest in ((1e-3, 1.001e-3), (np.inf, np.inf)):
        run = _Run(network(), 10, Training(learning_rate=1e-2, clip=clip))
        run.step(*draw(np.random.default_rng(0)))
        length = torch.cat([p.grad.flatten() for p in run.net.parameters()]).norm()
        assert 1e-4 < length <= longest


def test_the_learning_rate_warms_up_and_decays_to_zero():
    run, rates = _Run(network(), 100, Training(learning_rate=1.0, warmup=9)), []
    for _ in range(100):
        rates.append(run.optimiser.param_groups[0]["lr"])
        run.step(*draw(np.random.default_rng(0)))
    assert rates[0] == pytest.approx(0.1)
    assert np.all(np.diff(rates[:9]) > 0)
    assert np.all(np.diff(rates[10:]) < 0)
    assert run.optimiser.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


def test_without_decay_the_average_is_the_last_network():
    net = network()
    result = train(net, draw, np.random.default_rng(0), 20, Training(learning_rate=1e-2, ema_decay=0.0))
    averaged, last = (torch.cat([p.flatten() for p in z.parameters()]) for z in (result.net, net))
    assert (averaged - last).norm() < 0.1 * last.norm()  # more weight to the newest only after the first steps


def test_training_ends_where_validation_stops_improving_and_stays_so(tmp_path, monkeypatch):
    figures = iter([3.0, 2.0, 2.5, 2.5, 1.0, 0.0])
    monkeypatch.setattr("nsgf.matching.relative_error", lambda net, held_out: next(figures))
    habits, held_out = {"validate_every": 5, "patience": 2}, [draw(np.random.default_rng(0))]
    for _ in range(2):  # the second goes on from the checkpoint of the first
        result = matched(100, habits, held_out=held_out, checkpoint=tmp_path / "checkpoint")
        np.testing.assert_array_equal(result.validation, [[5, 3.0], [10, 2.0], [15, 2.5], [20, 2.5]])
        assert len(result.loss) == 20


def test_a_training_that_diverges_is_an_error_with_the_remedy():
    with pytest.raises(FloatingPointError, match="loss is nan after .* steps. Lower the learning rate"):
        train(network(), draw, np.random.default_rng(0), 50, Training(learning_rate=1e30))


def test_a_network_with_dropout_is_trained_to_the_same_bits_and_goes_on_to_them(tmp_path):
    def losses(n_iter, **hooks):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 32), nn.Dropout(0.5), nn.Linear(32, 2)).eval()

        def draw_rows(rng):
            (x, _), v = draw(rng)
            return (x,), v

        torch.manual_seed(int(time.time()))
        return train(net, draw_rows, np.random.default_rng(0), n_iter, **hooks).loss

    def broken(steps):
        yield from zip(steps, range(25), strict=False)
        raise RuntimeError("power cut")

    with torch.random.fork_rng(devices=[]):
        whole = losses(50)
        path, training = tmp_path / "checkpoint", Training(checkpoint_every=20)
        with pytest.raises(RuntimeError, match="power cut"):
            losses(50, training=training, checkpoint=path, progress=broken)
        np.testing.assert_array_equal(losses(50, training=training, checkpoint=path), whole)


def test_a_damaged_checkpoint_is_a_clear_error(tmp_path):
    path = tmp_path / "checkpoint"
    matched(5, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="checkpoint .* does not fit: .*Delete it"):
        matched(5, checkpoint=path)


def test_a_training_that_broke_off_goes_on_to_the_same_bits(tmp_path):
    def broken(steps):
        for k in steps:
            if k == 130:
                raise RuntimeError("power cut")
            yield k

    habits, path = {"checkpoint_every": 50, "warmup": 10}, tmp_path / "checkpoint"
    whole = matched(200, habits)
    with pytest.raises(RuntimeError, match="power cut"):
        matched(200, habits, checkpoint=path, progress=broken)
    seen = []
    resumed = matched(200, habits, checkpoint=path, progress=lambda steps: map(seen.append, steps))
    np.testing.assert_array_equal(resumed.loss, whole.loss)
    for a, b in zip(resumed.net.parameters(), whole.net.parameters(), strict=True):
        assert torch.equal(a, b)


@contextlib.contextmanager
def full_disk(size=1000):
    """Let no file grow beyond `size`, as where the disk is full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_names_the_remedy_and_leaves_the_last_checkpoint(tmp_path):
    habits, path = {"checkpoint_every": 50}, tmp_path / "checkpoint"

    def filling(steps):
        for k in steps:
            if k == 70:
                disk.enter_context(full_disk())
            yield k

    with contextlib.ExitStack() as disk, pytest.raises(OSError, match=r"no room for the checkpoint of step 100.*again"):
        matched(200, habits, checkpoint=path, progress=filling)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]
    np.testing.assert_array_equal(matched(200, habits, checkpoint=path).loss, matched(200, habits).loss)
    with full_disk():  # nothing is left to write
        matched(200, habits, checkpoint=path)


@pytest.mark.filterwarnings("ignore:report_:UserWarning")  # a quick fit
def test_the_remedies_for_a_pool_without_room_work(tmp_path):
    training = Training(directory=tmp_path)
    with full_disk(500), pytest.raises(OSError, match="no room for .* bytes of the pool.*lower n_batches"):
        NSGF(**QUICK, training=training).fit(*samples())
    NSGF(**QUICK | {"n_batches": 2, "max_iter": 3}, training=training).fit(*samples())


def test_ctrl_c_keeps_what_was_learnt_and_goes_on_from_there(tmp_path):
    def interrupted(steps):
        for k in steps:
            if k == 30:
                raise KeyboardInterrupt
            yield k

    path = tmp_path / "checkpoint"
    with pytest.warns(UserWarning, match="after 30 of 200 steps"):
        assert len(matched(checkpoint=path, progress=interrupted).loss) == 30
    np.testing.assert_array_equal(matched(checkpoint=path).loss, matched().loss)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_matching import long_fit
long_fit(sys.argv[2])
"""


def long_fit(directory):
    training = Training(directory=directory, checkpoint_every=20, refill_every=37)
    return NSGF(**QUICK | {"max_iter": 1000}, training=training).fit(*samples())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:report_:UserWarning")  # a quick fit
def test_a_killed_fit_goes_on_from_its_last_checkpoint_to_the_same_loss(tmp_path):
    checkpoint = tmp_path / "killed" / "field_.safetensors"
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(checkpoint.parent)]
    ) as process:
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode < 0
    done = _io.read(checkpoint)[0]["loss"]
    assert len(done) % 20 == 0 < len(done) < 1000
    resumed, whole = long_fit(checkpoint.parent).history_["loss"], long_fit(tmp_path / "whole").history_["loss"]
    np.testing.assert_array_equal(resumed[: len(done)], done)
    # the pool was refilled with other minibatches, so the losses agree as those of two pools do
    assert resumed[-200:].mean() == pytest.approx(whole[-200:].mean(), rel=0.2)


@pytest.mark.filterwarnings("ignore:report_:UserWarning")  # a quick fit
def test_a_fit_is_taken_up_where_its_directory_left_it(tmp_path):
    training = Training(directory=tmp_path, checkpoint_every=100)
    first = NSGF(**QUICK, training=training).fit(*samples())
    assert {file.name for file in tmp_path.iterdir()} == {"run.json", "pool", "field_.safetensors"}
    memory = NSGF(**QUICK).fit(*samples())
    assert first.history_["loss"][-50:].mean() == pytest.approx(memory.history_["loss"][-50:].mean(), rel=0.1)
    (tmp_path / "field_.safetensors").unlink()  # killed while it trained
    again = NSGF(**QUICK, training=training).fit(*samples())
    np.testing.assert_array_equal(again.history_["loss"], first.history_["loss"])
    assert again.report_ == first.report_
    x, y = samples()
    others = [
        (NSGF(**QUICK | {"n_steps": 3}, training=training), (x, y)),
        (NSGF(**QUICK | {"random_state": 1}, training=training), (x, y)),
        (NSGF(**QUICK | {"network": MLP(2)}, training=training), (x, y)),
        (NSGF(**QUICK, training=training), (None, y)),
        (NSGF(**QUICK, training=training), (y, y)),
    ]
    for other, data in others:
        with pytest.raises(ValueError, match="holds other files, or the training of other data or parameters"):
            other.fit(*data)
    third = NSGF(**QUICK, training=training).fit(*samples())
    np.testing.assert_array_equal(third.transform(samples()[0]), first.transform(samples()[0]))


@pytest.mark.filterwarnings("ignore:report_:UserWarning")  # a quick fit
def test_a_refilled_pool_and_validation_are_recorded():
    training = Training(refill_every=50, validate_every=100)
    model = NSGF(**QUICK, training=training).fit(*samples())
    np.testing.assert_array_equal(model.history_["validation"][:, 0], [100, 200, 300])
    assert model.history_["validation"][-1, 1] == pytest.approx(model.report_["regression_gap"], rel=1e-6)
    assert not np.array_equal(model.history_["loss"], NSGF(**QUICK).fit(*samples()).history_["loss"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ema_decay": 1.0}, "ema_decay=1.0 must be"),
        ({"learning_rate": 0}, "learning_rate=0 must be"),
        ({"batch_size": "all"}, "batch_size='all' must be"),
        ({"condition_dropout": 1}, "condition_dropout=1 must be"),
        ({"clip": 0.0}, "clip=0.0 must be positive"),
        ({"clip": "short"}, "clip='short' must be positive"),
        ({"warmup": -1}, "warmup=-1 must be"),
        ({"patience": 3}, "patience=3 needs validations"),
        ({"checkpoint_every": 0}, "checkpoint_every=0 must be"),
        ({"warmup": 2.5}, "warmup=2.5 must be an integer"),
        ({"pool_bytes": -1}, "pool_bytes=-1 must be"),
    ],
)
def test_a_bad_habit_is_named(options, words):
    with pytest.raises(ValueError, match=words):
        Training(**options)


def test_a_pool_over_its_budget_is_an_error_of_fit():
    with pytest.raises(ValueError, match="pool_bytes leaves 1,000"):
        NSGF(**QUICK, training=Training(pool_bytes=1000)).fit(*samples())
    with pytest.raises(ValueError, match="training='fast' must be"):
        NSGF(**QUICK, training="fast").fit(*samples())


def test_a_module_of_ones_own_may_have_buffers(tmp_path):
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

    def draw_rows(rng):
        (x, _), v = draw(rng)
        return (x,), v

    path = tmp_path / "checkpoint"
    first = train(net, draw_rows, np.random.default_rng(0), 20, checkpoint=path)
    again = train(net, draw_rows, np.random.default_rng(0), 20, checkpoint=path)
    assert torch.equal(first.net[1].running_mean, again.net[1].running_mean)
