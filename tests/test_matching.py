"""The training loop: what it does to the optimiser, and what survives a kill, a full disk and Ctrl-C."""

import contextlib
import copy
import time

import numpy as np
import pytest
import torch
from common import full_disk
from torch import nn

from nsgf import Training
from nsgf.matching import evaluate, relative_error, train
from nsgf.networks import MLP, UNet

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
    np.testing.assert_allclose(compiled, plain, rtol=1e-2)  # Muon computes in half precision


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


@pytest.mark.parametrize(("clip", "longest"), [(1e-3, 1.001e-3), (np.inf, np.inf)])
def test_a_clipped_gradient_is_no_longer_than_asked(clip, longest):
    net, lengths = network(), []

    def watched(steps):
        for k in steps:
            yield k
            lengths.append(torch.cat([p.grad.flatten() for p in net.parameters()]).norm())

    train(net, draw, np.random.default_rng(0), 5, Training(clip=clip), progress=watched)
    assert len(lengths) == 5
    assert 1e-4 < max(lengths) <= longest
    assert clip < 1 or max(lengths) > 1e-2


class Constant(nn.Module):
    """A field that is one weight everywhere: far from its target, Adam moves it by the learning rate at every step."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, t):
        return self.weight.expand_as(x)


@pytest.mark.parametrize("warmup", [0, 9])
def test_the_learning_rate_warms_up_stays_and_falls_to_zero_over_the_last_two_fifths(warmup):
    net, places = Constant(), []

    def watched(steps):
        for k in steps:
            places.append(net.weight.item())
            yield k

    def far(rng):
        return (np.zeros((4, 1), np.float32), np.zeros(4, np.float32)), np.full((4, 1), 1e6, np.float32)

    train(net, far, np.random.default_rng(0), 100, Training(learning_rate=1.0, warmup=warmup), progress=watched)
    k = np.arange(100)
    rates = np.interp(k, [-1, warmup, 60, 100], [0.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(np.diff([*places, net.weight.item()]), rates, atol=1e-4)


@pytest.mark.parametrize(
    ("net", "n_rows", "n_threads"),
    [
        (MLP(2), 256, 1),
        (MLP(2), 4096, 2),
        (MLP(2, width=2048), 256, 2),
        (UNet((1, 4, 4), width=8, multipliers=(1,), attention=(), n_heads=1), 32, 2),
    ],
    ids=["small", "many rows", "wide", "images"],
)
def test_a_step_of_a_small_network_takes_one_thread_and_leaves_the_others_to_the_caller(net, n_rows, n_threads):
    seen = []

    def watched(rng):
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    with threads(2):
        with pytest.raises(KeyboardInterrupt):
            train(net, watched, np.random.default_rng(0), 1, Training(batch_size=n_rows))
        assert (seen, torch.get_num_threads()) == ([n_threads], 2)


@contextlib.contextmanager
def threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


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


def test_a_module_of_ones_own_may_have_buffers(tmp_path):
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

    def draw_rows(rng):
        (x, _), v = draw(rng)
        return (x,), v

    path = tmp_path / "checkpoint"
    first, again = (
        train(copy.deepcopy(net), draw_rows, np.random.default_rng(0), 20, checkpoint=path) for _ in range(2)
    )
    assert torch.equal(first.net[1].running_mean, again.net[1].running_mean)


def test_a_long_table_is_evaluated_in_parts(monkeypatch):
    net, rng = network(n_conditions=1), np.random.default_rng(0)
    x, t, c = rng.normal(size=(50, 2)), rng.random(50), rng.normal(size=(50, 1))
    whole = evaluate(net, x, t, c)
    monkeypatch.setattr("nsgf.matching._CHUNK", {"cpu": 14})
    np.testing.assert_allclose(evaluate(net, x, t, c), whole, atol=1e-6)


class Interrupting(nn.Module):
    """A layer that is interrupted once, after so many calls: in the middle of a step, whose batch has been drawn."""

    def __init__(self, at):
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, x):
        self.calls += self.training
        if self.training and self.calls == self.at:
            raise KeyboardInterrupt
        return x


@pytest.mark.parametrize("ends_early", [True, False])
def test_ctrl_c_within_a_step_loses_no_draw(tmp_path, ends_early):
    def run(at):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.2), Interrupting(at), nn.Linear(8, 2))

        def draw_rows(rng):
            (x, _), v = draw(rng)
            return (x,), v

        rng, path = np.random.default_rng(0), None if at is None else tmp_path / "checkpoint"
        return train(net, draw_rows, rng, 40, checkpoint=path, ends_early=ends_early).loss

    if ends_early:
        with pytest.warns(UserWarning, match="after 24 of 40 steps"):
            run(25)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(25)
    np.testing.assert_array_equal(run(-1), run(None))


def test_a_checkpoint_of_a_training_from_other_weights_is_begun_anew(tmp_path):
    path = tmp_path / "checkpoint"
    matched(20, checkpoint=path)
    other = network()
    nn.init.zeros_(other.layers[0].bias)
    seen = []
    train(other, draw, np.random.default_rng(0), 20, checkpoint=path, progress=lambda steps: map(seen.append, steps))
    assert len(seen) == 20


class Broadcasts(nn.Module):
    """A field that gives one row, or one column, for many."""

    def __init__(self, rows, columns):
        super().__init__()
        self.layer, self.part = nn.Linear(2, 2), (slice(rows), slice(columns))

    def forward(self, x, t):
        return self.layer(x)[self.part]


@pytest.mark.parametrize("part", [(1, None), (None, 1)])
def test_a_network_of_another_shape_is_not_broadcast(part):
    x = np.ones((8, 2), np.float32)
    with pytest.raises(ValueError, match="network returned .* in place of shape"):
        train(Broadcasts(*part), lambda rng: ((x, np.ones(8, np.float32)), x), np.random.default_rng(0), 2)
    with pytest.raises(ValueError, match="network returned .* in place of shape"):
        relative_error(Broadcasts(*part), [((x, 0.5), x)])
