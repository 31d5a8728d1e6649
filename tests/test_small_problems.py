"""Compiled solves of small problems: the same numbers as the plain path."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from common import dtypes, far_samples, relative_distance
from hypothesis import given, settings
from strategies import problems
from test_fixed_point import awkward_problems

from nsgf import Sinkhorn, fixed_point, sinkhorn_velocity
from nsgf._compiled import compiled, exp, log, on_all_cores

few = settings(max_examples=40)


@pytest.fixture
def plain(monkeypatch):
    """Return a velocity of the plain path."""

    def velocity(*args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(fixed_point, "_SMALL", 0)
            return sinkhorn_velocity(*args, **kwargs)

    return velocity


@compiled(cache=False)
def _exps(t, out):
    for j in range(t.size):
        out[j] = exp(t[j])


@compiled(cache=False)
def _logs(t, out):
    for j in range(t.size):
        out[j] = log(t[j])


@dtypes
def test_exp_and_log_are_those_of_numpy(dtype):
    unit, most = np.finfo(dtype).eps, {"float32": 87.0, "float64": 700.0}[dtype]
    t = np.concatenate([np.linspace(-most, most, 20_001), np.linspace(-1e-3, 1e-3, 2001)]).astype(dtype)
    out = np.empty_like(t)
    _exps(t, out)
    np.testing.assert_allclose(out, np.exp(t.astype(np.longdouble)), rtol=12 * unit)
    values = np.exp(t.astype(np.longdouble)).astype(dtype)
    _logs(values, out)
    np.testing.assert_allclose(out, np.log(values.astype(np.longdouble)), rtol=4 * unit, atol=unit)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_exp_hands_on_what_is_no_number(value):
    out = np.empty(1, np.float32)
    _exps(np.full(1, value, np.float32), out)
    assert not np.isfinite(out[0])


@dtypes
@pytest.mark.parametrize(
    ("n", "m", "d"), [(1, 1, 1), (1, 5, 2), (7, 3, 1), (66, 130, 3), (200, 150, 2), (130, 257, 40)]
)
@pytest.mark.parametrize("blur", [0.1, 0.4, 5.0])
def test_agrees_with_the_plain_path(plain, n, m, d, blur, dtype):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, d)).astype(dtype), (2.0 * rng.normal(size=(m, d)) + 1.0).astype(dtype)
    blur = blur * d**0.5
    a, b = rng.random(n) + 0.1, rng.random(m) + 0.1
    for tol in (1e-3, 1e-5):
        res, other = (f(x, y, blur, a, b, solver=Sinkhorn(tol=tol)) for f in (sinkhorn_velocity, plain))
        assert res.converged
        assert relative_distance(res.v, other.v) <= 10 * (res.error + other.error)
        assert res.n_iter <= 2 * other.n_iter + 10


@dtypes
@few
@given(problem=problems(min_points=2, max_points=40))
def test_agrees_on_drawn_problems(problem, dtype):
    problem = problem.to(dtype)
    res = sinkhorn_velocity(*problem.args)
    by_torch = sinkhorn_velocity(*(torch.as_tensor(z) if isinstance(z, np.ndarray) else z for z in problem.args))
    assert relative_distance(res.v, by_torch.v.numpy()) <= 10 * (res.error + by_torch.error) + 1e-6


@few
@given(problem=awkward_problems())
def test_flags_what_the_plain_path_flags(problem):
    """A problem that one path solves, the other solves to the same numbers, or says that it did not."""
    solver = Sinkhorn(on_unconverged="warn", max_iter=400)
    args = problem.to("float64").args
    by_torch = tuple(torch.as_tensor(z) if isinstance(z, np.ndarray) else z for z in args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        res, other = sinkhorn_velocity(*args, solver=solver), sinkhorn_velocity(*by_torch, solver=solver)
    if res.converged and other.converged:
        size = np.sqrt(np.mean(np.sum(other.v.numpy() ** 2, axis=1))) + 0.1 * min(problem.blur, problem.spread or 1.0)
        gap = np.sqrt(np.mean(np.sum((res.v - other.v.numpy()) ** 2, axis=1)))
        assert gap <= 10 * (res.error + other.error) * size + 1e-9 * np.abs(problem.y).max()


@dtypes
def test_columns_that_move_far_are_absorbed_alone(dtype):
    """A heavy tail: potentials of a few far points change by hundreds of nats."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 2)).astype(dtype), rng.standard_cauchy(size=(200, 2)).clip(-60, 60).astype(dtype)
    res = sinkhorn_velocity(x, y, 0.3, solver=Sinkhorn(max_iter=20_000))
    exact = sinkhorn_velocity(
        *(torch.as_tensor(z.astype(np.float64)) for z in (x, y)), 0.3, solver=Sinkhorn(tol=1e-6, max_iter=50_000)
    )
    assert res.converged
    assert exact.converged
    assert relative_distance(res.v, exact.v.numpy()) <= 1e-3


def test_a_limit_of_iterations_is_kept():
    x, y = far_samples()
    for max_iter in (1, 2, 7, 30):
        with pytest.warns(match="stopped"):
            res = sinkhorn_velocity(x, y, 0.02, solver=Sinkhorn(tol=1e-7, max_iter=max_iter))
        assert res.cross.n_iter <= max_iter
        assert not res.converged


def test_read_only_and_strided_arrays_are_read():
    x, y = far_samples()
    x.flags.writeable = False
    res = sinkhorn_velocity(x[::2], np.asfortranarray(y), 0.5)
    np.testing.assert_allclose(res.v, sinkhorn_velocity(x[::2].copy(), y, 0.5).v, atol=1e-6)


def test_work_is_done_in_order_once_and_errors_come_through():
    assert on_all_cores(lambda k: k * k, range(50)) == [k * k for k in range(50)]
    with pytest.raises(ZeroDivisionError):
        on_all_cores(lambda k: 1 // (k - 30), range(50))
    nested = on_all_cores(lambda k: sum(on_all_cores(lambda j: j, range(k + 2))), range(8))
    assert nested == [sum(range(k + 2)) for k in range(8)]


def test_potentials_start_the_next_solve():
    x, y = far_samples()
    res = sinkhorn_velocity(x, y, 0.3)
    again = sinkhorn_velocity(x, y, 0.3, init=res.potentials)
    assert again.cross.n_iter <= res.cross.n_iter
    assert relative_distance(again.v, res.v) <= 2e-3
    assert dataclasses.is_dataclass(again)
