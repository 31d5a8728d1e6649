"""What may go wrong in the middle of things: kills, Ctrl-C, lost files, threads and processes (docs/faults.rst)."""

import concurrent.futures
import contextlib
import copy
import errno
import mmap
import os
import pickle
import random
import re
import signal
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from common import BARELY, ignore_report, labelled_sample, samples
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

import nsgf
from nsgf import (
    NSGF,
    NSGFPlusPlus,
    Sinkhorn,
    Training,
    TrajectoryPool,
    diagnostics,
    matching,
    metrics,
    minibatches,
    ode,
    pool,
    sinkhorn_velocity,
)
from nsgf.matching import train
from nsgf.minibatches import Endless, Side
from nsgf.networks import MLP
from nsgf.pool import Scheme

ROOT = Path(__file__).parent.parent
RUN = matching._Run  # noqa: SLF001  a training under way
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")


def run_with_ctrl_c(work, at, *modules):
    """Call `work` with Ctrl-C at an instruction of these modules; return how many it passed."""
    passed, files, before = 0, {module.__file__ for module in modules}, sys.gettrace()

    def watched(frame, event, _):
        nonlocal passed
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        passed += event == "opcode"
        if event == "opcode" and passed == at:
            sys.settrace(None)
            raise KeyboardInterrupt
        return watched

    sys.settrace(watched)
    try:
        work()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return passed


def some_instructions(work, n, *modules):
    """Return n random instructions of those that `work` passes."""
    return random.Random(0).sample(range(1, run_with_ctrl_c(work, -1, *modules)), n)


def of_small_net(checkpoint=None):
    """Train a network with buffers and dropout, and tell all that comes of it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2))

    def draw(rng):
        x = rng.normal(size=(8, 2)).astype(np.float32)
        return (x,), -x

    held_out, habits = [draw(np.random.default_rng(1))], Training(checkpoint_every=3, validate_every=2)
    run = train(net, draw, np.random.default_rng(0), 5, habits, held_out=held_out, checkpoint=checkpoint)
    return run.loss, run.validation, {k: w.numpy() for k, w in run.net.state_dict().items()}


@pytest.mark.filterwarnings("ignore:Training stopped:UserWarning")
def test_ctrl_c_at_any_instruction_of_a_training_changes_no_bit_of_the_one_that_goes_on(tmp_path):
    whole = of_small_net()
    for at in some_instructions(of_small_net, 40, matching):
        path = tmp_path / str(at)
        run_with_ctrl_c(lambda path=path: of_small_net(path), at, matching)
        np.testing.assert_equal(of_small_net(path), whole)


# %% The pool


def filled(directory=None):
    """Fill a pool with stacks of problems of two sizes, and tell all that is in them."""
    rng, (x, y) = np.random.default_rng(0), samples(60)
    sides, scheme = (Side(x), Side(y)), Scheme.descent(0.8, 2, 0.5, Sinkhorn(tol=1e-3), "cpu")
    drawn = minibatches.with_dropped(minibatches.plain(*sides, 12, rng), *sides, 6, 2, rng)
    drawn = ([p._replace(c=np.zeros((len(p.x), 2), np.float32)) for p in found] for found in drawn)
    made = pool.fill(drawn, scheme, 3, Training(directory=directory))
    return made.pool.rows, made.pool.error, made.pool.converged


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # between opening a file and `with`
def test_ctrl_c_at_any_instruction_of_filling_a_pool_changes_no_row_of_the_one_that_is_completed(tmp_path):
    whole = filled(tmp_path / "whole")
    for at in some_instructions(lambda: filled(tmp_path / "counted"), 25, pool):
        directory = tmp_path / str(at)
        run_with_ctrl_c(lambda directory=directory: filled(directory), at, pool)
        np.testing.assert_equal(filled(directory), whole)


def test_no_row_of_a_full_pool_is_half_replaced():
    def renewed(value):
        x = np.full((3, 1), value)
        made.renew(value, x, 2 * x)

    made = TrajectoryPool(6, 1)
    for value in range(2):
        renewed(float(value))
    kept = copy.deepcopy(made)
    for at in range(1, run_with_ctrl_c(lambda: renewed(9.0), -1, pool)):
        made = copy.deepcopy(kept)
        run_with_ctrl_c(lambda: renewed(9.0), at, pool)
        for t, x, v in (made.draw(50, np.random.default_rng(0)), made.rows):
            np.testing.assert_array_equal(np.c_[x, v], np.c_[t, 2 * t])
        renewed(7.0)
        assert len(made) == 6


def test_refills_go_on_after_ctrl_c():
    calls = []

    def numbered():
        while True:
            calls.append(0)
            if len(calls) == 2:
                raise KeyboardInterrupt
            yield [len(calls)]

    drawn = Endless(numbered)
    assert next(drawn) == [1]
    with pytest.raises(KeyboardInterrupt):
        next(drawn)
    assert [next(drawn), next(drawn)] == [[3], [4]]


def cut(file):
    file.write_bytes(file.read_bytes()[:128])


def flipped(file):
    file.write_bytes(file.read_bytes().replace(b"<f2", b">f2", 1))


def as_double(file):
    np.save(file, np.load(file).astype(float))


@pytest.mark.parametrize("harm", [cut, flipped, as_double, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("name", ["x", "v"])
def test_a_damaged_pool_is_an_error_that_names_the_file(tmp_path, harm, name):
    filled(tmp_path)
    harm(tmp_path / "pool" / f"{name}.npy")
    with pytest.raises(ValueError, match=rf"pool.{name}\.npy' is damaged, or .* Choose another directory, or delete"):
        filled(tmp_path)


@pytest.mark.parametrize("lost", ["pool/x.npy", "pool/state.npy"])
def test_a_pool_that_is_lost_is_made_again(tmp_path, lost):
    whole = filled(tmp_path)
    (tmp_path / lost).unlink()
    np.testing.assert_equal(filled(tmp_path), whole)


# %% Fits in a directory


def tiny(leaf, directory, **other):
    training = Training(batch_size=16, directory=directory, checkpoint_every=10)
    net = {"network": MLP(2, width=8, depth=1, n_conditions=3)} if "network" not in other else {}
    return leaf(**BARELY | {"max_iter": 30, "n_batches": 4, "n_steps": 2, "training": training} | net | other)


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    NETWORK = MLP(2, width=8, depth=1, n_conditions=3)


def fit(model):
    x, names = labelled_sample(90)
    return model.fit(x, x[::-1] + 1.0, y_src=names, y_tgt=names[::-1])


def outcome(model):
    figures = {k: v for k, v in model.history_.items() if "seconds" not in k}
    return figures, model.report_, model.transform(np.ones((3, 2)), "a")


@needs_fork
@ignore_report
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("leaf", [NSGF, NSGFPlusPlus])
def test_a_fit_that_is_killed_at_any_moment_goes_on_within_a_checkpoint_to_the_same_bits(leaf, tmp_path, monkeypatch):
    steps, step = mmap.mmap(-1, 8), RUN.step  # shared with the child

    def counted(*batch):
        step(*batch)
        steps[:8] = (int.from_bytes(steps[:8], "big") + 1).to_bytes(8, "big")

    def n_steps(work):
        steps[:8] = bytes(8)
        work()
        return int.from_bytes(steps[:8], "big")

    def killed(directory, after):
        child = os.fork()
        if not child:
            try:
                fit(tiny(leaf, directory, network=NETWORK))
            finally:
                os._exit(0)
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    monkeypatch.setattr(RUN, "step", counted)
    fit(tiny(leaf, tmp_path / "warm", network=NETWORK))
    begin = time.perf_counter()
    whole = fit(tiny(leaf, tmp_path / "whole", network=NETWORK))
    seconds, moments = time.perf_counter() - begin, random.Random(0)
    for k in range(10):
        directory = tmp_path / str(k)
        done = n_steps(lambda d=directory: killed(d, seconds * moments.random()))
        again = tiny(leaf, directory, network=NETWORK)
        redone = n_steps(lambda m=again: fit(m)) + done - whole.n_iter_
        assert redone <= 10
        np.testing.assert_equal(outcome(again), outcome(whole))


@ignore_report
def test_a_fit_without_a_seed_goes_on_in_its_directory_and_samples_afresh(tmp_path):
    one, other = (fit(tiny(NSGF, tmp_path, network="mlp", random_state=None)) for _ in range(2))
    np.testing.assert_equal(outcome(one), outcome(other))
    assert not np.array_equal(one.sample(3), other.sample(3))


@ignore_report
def test_a_checkpoint_that_is_lost_is_trained_again(tmp_path):
    whole = outcome(fit(tiny(NSGFPlusPlus, tmp_path, network=NETWORK)))
    (tmp_path / "straight_field_.safetensors").unlink()
    np.testing.assert_equal(outcome(fit(tiny(NSGFPlusPlus, tmp_path, network=NETWORK))), whole)


def test_a_directory_that_cannot_be_written_is_an_error_before_any_work(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    (tmp_path / "file").touch()
    monkeypatch.setattr(Side, "draw", None)
    with pytest.raises(OSError, match="file"):
        fit(tiny(NSGF, tmp_path / "file"))
    monkeypatch.setattr(os, "replace", read_only)
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        fit(tiny(NSGF, tmp_path / "run"))


# %% Fits that fail


STAGES = [
    (Side, "draw"),
    (pool, "fill"),
    (TrajectoryPool, "renew"),
    (TrajectoryPool, "certify"),
    (RUN, "goes_on"),
    (RUN, "save"),
    (RUN, "result"),
    (diagnostics, "report"),
    (diagnostics, "warn"),
]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(("owner", "name"), STAGES)
def test_a_fit_that_fails_at_any_stage_leaves_the_model_the_module_and_torch_alone(owner, name, error, monkeypatch):
    def fails(*_, **__):
        raise error

    model = tiny(NSGF, None, network=NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnostics, "warn", lambda report: None)
        fit(model)
    given = {k: w.clone() for k, w in NETWORK.state_dict().items()}
    before, of_torch = outcome(model), torch.get_rng_state()
    model.set_params(n_batches=2, random_state=5)
    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(error):
        fit(model)
    monkeypatch.undo()
    np.testing.assert_equal(outcome(model), before)
    assert torch.equal(torch.get_rng_state(), of_torch)
    assert all(torch.equal(w, given[k]) for k, w in NETWORK.state_dict().items())
    assert NETWORK.training


def test_ctrl_c_in_transform_or_sample_leaves_the_model_as_it_was(flow):
    x, model = samples(20)[0], copy.deepcopy(flow)
    carried, made = model.transform(x), [model.sample(3)]
    for work in (lambda: model.transform(x), lambda: model.sample(3)):
        for at in some_instructions(work, 10, ode, matching):
            run_with_ctrl_c(work, at, ode, matching)
    np.testing.assert_array_equal(model.transform(x), carried)
    made += [model.sample(3), model.sample(3)]
    assert len(np.unique(np.concatenate(made), axis=0)) == 9


# %% Threads and processes


@ignore_report
def test_threads_share_a_model():
    flow = NSGF(**BARELY).fit(None, samples(60)[1])
    xs = [samples(50, seed=seed)[0] for seed in range(24)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        carried = list(threads.map(flow.transform, xs))
        made = np.concatenate(list(threads.map(lambda _: flow.sample(5), xs)))
    for x, got in zip(xs, carried, strict=True):
        np.testing.assert_array_equal(got, flow.transform(x))
    assert len(np.unique(made, axis=0)) == len(made)


@ignore_report
def test_threads_fit_models_of_their_own():
    class Dropping(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 2))

        def forward(self, x, t, c):
            return super().forward(x)

    models = [tiny(NSGF, None, network=net) for net in ("mlp", "mlp", *[Dropping()] * 2)]
    before = torch.get_rng_state()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(fit, models))
    assert torch.equal(torch.get_rng_state(), before)
    alone = [outcome(fit(copy.deepcopy(model))) for model in (models[0], models[2])]
    for k, model in enumerate(models):  # sums have another order in threads
        np.testing.assert_allclose(outcome(model)[2], alone[k // 2][2], rtol=1e-4)


@ignore_report
def test_copies_files_and_processes_have_samples_of_their_own(tmp_path):
    (x, y), model = samples(60), NSGF(**BARELY)
    model, again = (clone(model).fit(None, y) for _ in range(2))
    np.testing.assert_array_equal(again.sample(3), first := model.sample(3))  # the stream of the seed, in its process
    model.save(tmp_path / "m")
    copies = [copy.deepcopy(model), copy.deepcopy(model), *(pickle.loads(pickle.dumps(model)) for _ in range(2))]
    copies += [NSGF.load(tmp_path / "m"), NSGF.load(tmp_path / "m"), copy.copy(model), model]
    search = GridSearchCV(model, {"n_batches": [1]}, cv=2, n_jobs=2).fit(x, y)
    made = [twin.sample(3) for twin in copies] + joblib.Parallel(2)(joblib.delayed(model.sample)(3) for _ in range(6))
    rows = np.concatenate([first, *made])
    assert len(np.unique(rows, axis=0)) == len(rows)
    found = pickle.loads(pickle.dumps(search)).best_estimator_
    assert len({made.sample(20).tobytes() for made in (found, search.best_estimator_) * 2}) == 4
    fixed = joblib.Parallel(2)(joblib.delayed(twin.sample)(3, random_state=0) for twin in copies)
    np.testing.assert_array_equal(fixed, [model.sample(3, random_state=0)] * len(copies))


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_processes_have_samples_of_their_own(flow, tmp_path):
    model = copy.deepcopy(flow)
    for k in range(3):
        child = os.fork()
        if not child:
            try:
                np.save(tmp_path / f"{k}.npy", model.sample(3))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    drawn = [model.sample(3), *(np.load(tmp_path / f"{k}.npy") for k in range(3))]
    assert len({rows.tobytes() for rows in drawn}) == 4  # of few rows of the source, one may come up twice


# %% The tables


@pytest.mark.parametrize("page", ["faults", "robustness"])
def test_every_row_of_a_table_of_faults_names_its_tests(page):
    table = (ROOT / "docs" / f"{page}.rst").read_text()
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    rows = table.split("\n   * - ")[2:]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"``(test_\w+)``", row)
        assert named, row
        assert all(f"def {name}(" in tests for name in named)


# %% What the caller has set for work of its own


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


AMBIENT = {
    "errstate": lambda: np.errstate(all="raise"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "device": lambda: torch.device("meta"),
}


@ignore_report
@pytest.mark.parametrize("ambient", AMBIENT.values(), ids=AMBIENT)
def test_what_the_caller_has_set_for_its_own_work_changes_no_bit(ambient, tmp_path):
    def results(path):
        model = NSGFPlusPlus(**BARELY).fit(*samples(60))
        model.save(path)
        made = nsgf.load(path).transform(samples(60)[0])
        x, y = (torch.from_numpy(z.astype(np.float32)) for z in samples(60))
        velocity, mmd = sinkhorn_velocity(x, y).v.numpy(), metrics.mmd(x.numpy(), y.numpy())
        return made, velocity, mmd

    wanted = results(tmp_path / "plain")
    with ambient():
        found = results(tmp_path / "ambient")
    np.testing.assert_equal(found, wanted)
