"""The habits of a training, in an estimator: what is refused, refills and validation, and directories."""

import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from common import BARELY, QUICK, full_disk, ignore_report, labelled_sample, samples
from torch import nn

from nsgf import NSGF, NSGFPlusPlus, Sinkhorn, Training, _io
from nsgf.estimators.chase import Chase
from nsgf.networks import MLP

SHORT = QUICK | {"n_batches": 3, "batch_size": 64, "n_steps": 2, "max_iter": 150}


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


@pytest.mark.parametrize(
    ("max_iter", "n_rows", "refill_every", "n_steps"),
    [(2000, 10**6, 0, 2000), (2000, 100, 0, 1000), (20, 100, 0, 20), (2000, 100, 50, 2000), (2000, 48_000, 0, 1500)],
    ids=["cap", "fewest", "cap below the fewest", "refilled", "eight passes"],
)
def test_small_pools_are_worth_fewer_steps(max_iter, n_rows, refill_every, n_steps):
    assert Training(batch_size=256, refill_every=refill_every).steps(max_iter, n_rows) == n_steps


def test_a_pool_over_its_budget_is_an_error_of_fit():
    with pytest.raises(ValueError, match="pool_bytes leaves 1,000"):
        NSGF(**SHORT | {"training": Training(pool_bytes=1000)}).fit(*samples())


@ignore_report
def test_a_refilled_pool_and_validation_are_recorded():
    training = Training(batch_size=128, refill_every=50, validate_every=50)
    model = NSGF(**SHORT | {"training": training}).fit(*samples())
    np.testing.assert_array_equal(model.history_["validation"][:, 0], [50, 100, 150])
    assert model.history_["validation"][-1, 1] == pytest.approx(model.report_["regression_gap"], rel=1e-6)
    assert not np.array_equal(model.history_["loss"], NSGF(**SHORT).fit(*samples()).history_["loss"])


# %% Directories


@ignore_report
def test_the_remedies_for_a_pool_without_room_work(tmp_path):
    training = Training(directory=tmp_path)
    with full_disk(500), pytest.raises(OSError, match="no room for .* bytes of the pool.*lower n_batches"):
        NSGF(**SHORT | {"training": training}).fit(*samples())
    NSGF(**SHORT | {"n_batches": 2, "max_iter": 3, "training": training}).fit(*samples())


@ignore_report
def test_a_fit_is_taken_up_where_its_directory_left_it(tmp_path):
    settings = SHORT | {"training": Training(batch_size=128, directory=tmp_path, checkpoint_every=100)}
    (x, y), memory = samples(), NSGF(**SHORT).fit(*samples())
    first = NSGF(**settings).fit(x, y)
    assert {file.name for file in tmp_path.iterdir()} == {"run.json", "pool", "field_.safetensors"}
    assert first.history_["loss"][-50:].mean() == pytest.approx(memory.history_["loss"][-50:].mean(), rel=0.1)
    (tmp_path / "field_.safetensors").unlink()  # killed while it trained
    again = NSGF(**settings).fit(x, y)
    np.testing.assert_array_equal(again.history_["loss"], first.history_["loss"])
    assert again.report_ == first.report_
    np.testing.assert_array_equal(NSGF(**settings).fit(x, y).transform(x), first.transform(x))


@ignore_report
def test_a_directory_belongs_to_the_data_the_parameters_and_the_labels_of_one_run(tmp_path):
    training = Training(directory=tmp_path)
    (x, labels), settings = labelled_sample(200), BARELY | {"training": training}
    known = {"y_src": labels, "y_tgt": labels}
    NSGF(**settings).fit(x, x + 1.0, **known)
    others = [
        (settings | {"n_steps": 2}, (x, x + 1.0), known),
        (settings | {"random_state": 1}, (x, x + 1.0), known),
        (settings | {"network": MLP(2, n_conditions=3)}, (x, x + 1.0), known),
        (settings | {"training": Training(directory=tmp_path, clip=1.0)}, (x, x + 1.0), known),
        (settings, (None, x + 1.0), {"y_tgt": labels}),
        (settings, (x + 1.0, x + 1.0), known),
        (settings, (x, x + 1.0), {"y_tgt": labels}),
    ]
    for parameters, data, other in others:
        with pytest.raises(ValueError, match="holds other files, or the training of other data or parameters"):
            NSGF(**parameters).fit(*data, **other)
    same = Training(directory=tmp_path, pool_bytes=10**9, checkpoint_every=7)  # change nothing of what is learnt
    NSGF(**settings | {"training": same, "verbose": 1}).fit(x, x + 1.0, **known)


@ignore_report
def test_a_fit_in_a_directory_is_taken_up_in_the_phase_that_it_reached(tmp_path):
    settings = SHORT | {"max_iter": (20, 30), "training": Training(batch_size=128, directory=tmp_path)}
    first = NSGFPlusPlus(**settings).fit(*samples())
    assert first.n_iter_ == 50
    (tmp_path / "straight_field_.safetensors").unlink()
    again = NSGFPlusPlus(**settings).fit(*samples())
    for name in ("loss", "straight_loss"):
        np.testing.assert_array_equal(again.history_[name], first.history_[name])


@ignore_report
def test_what_began_from_a_training_that_was_interrupted_is_trained_anew_when_that_goes_on(tmp_path, monkeypatch):
    settings = SHORT | {"max_iter": 12, "training": Training(batch_size=128, directory=tmp_path)}
    with monkeypatch.context() as patch:
        move, calls = Chase.__call__, itertools.count()
        patch.setattr(
            Chase, "__call__", lambda *z: move(*z) if next(calls) != 4 else signal.raise_signal(signal.SIGINT)
        )
        with pytest.warns(UserWarning, match="Training stopped by Ctrl-C after 4 of 12 steps"):
            NSGFPlusPlus(**settings).fit(*samples())
    again = NSGFPlusPlus(**settings).fit(*samples())
    whole = NSGFPlusPlus(**settings | {"training": Training(batch_size=128, directory=tmp_path / "other")})
    whole.fit(*samples())
    for name in ("straight_loss", "loss"):
        np.testing.assert_array_equal(again.history_[name], whole.history_[name])


@ignore_report
def test_the_steps_of_a_second_phase_are_no_other_run(tmp_path):
    model = NSGFPlusPlus(**SHORT | {"max_iter": 5, "training": Training(directory=tmp_path)}).fit(*samples())
    weights = [w.clone() for w in model.straight_field_.parameters()]
    for n_steps in (9, 3):
        model.set_params(n_steps=n_steps).fit(*samples())
        assert all(map(torch.equal, model.straight_field_.parameters(), weights))


def first_solver(x, y, eps, a, b, init=None):
    return Sinkhorn(tol=1e-2)(x, y, eps, a, b, init)


first_solver.tol, first_solver.max_iter, first_solver.on_unconverged = 1e-2, 100, "warn"


@ignore_report
def test_a_function_is_known_by_its_name_and_a_network_by_its_layers(tmp_path):
    def settings(name, **other):
        return BARELY | other | {"training": Training(directory=tmp_path / name)}

    for _ in range(2):
        NSGF(**settings("solver", solver=first_solver)).fit(*samples(60))
    with pytest.raises(ValueError, match="the training of other data or parameters"):
        NSGF(**settings("solver", solver=Sinkhorn(tol=1e-2))).fit(*samples(60))
    one, other = (OnTime(activation) for activation in (nn.SiLU(), nn.Tanh()))  # of equal weights
    other.load_state_dict(one.state_dict())
    NSGF(**settings("network", network=one)).fit(*samples(60))
    with pytest.raises(ValueError, match="the training of other data or parameters"):
        NSGF(**settings("network", network=other)).fit(*samples(60))


class OnTime(nn.Sequential):
    """A field that forgets the time."""

    def __init__(self, activation):
        super().__init__(nn.Linear(2, 8), activation, nn.Linear(8, 2))

    def forward(self, x, t):
        return super().forward(x)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_training import long_fit
long_fit(sys.argv[2])
"""


def long_fit(directory):
    training = Training(batch_size=128, directory=directory, checkpoint_every=20, refill_every=37)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        size = {"max_iter": 800, "n_batches": 8, "network": MLP(2, width=64, depth=2)}
    return NSGF(**SHORT | size | {"training": training}).fit(*samples())


@pytest.mark.slow
@ignore_report
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
    assert len(done) % 20 == 0 < len(done) < 800
    resumed, whole = long_fit(checkpoint.parent).history_["loss"], long_fit(tmp_path / "whole").history_["loss"]
    np.testing.assert_array_equal(resumed[: len(done)], done)
    # the pool was refilled with other minibatches, so the losses agree as those of two pools do
    assert resumed[-200:].mean() == pytest.approx(whole[-200:].mean(), rel=0.4)
