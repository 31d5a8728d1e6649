"""Many problems at once: each as if it had been solved alone."""

import numpy as np
import pytest
import torch
from common import dtypes, relative_distance
from sklearn.exceptions import ConvergenceWarning

from nsgf import POT, Sinkhorn, sinkhorn_velocities, sinkhorn_velocity


def clouds(n, m, seed, dtype="float64", d=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)).astype(dtype), (rng.normal(size=(m, d)) * 2 + seed % 5).astype(dtype)


@dtypes
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_each_is_as_if_solved_alone(dtype, library):
    sizes = [(64, 64)] * 5 + [(40, 64), (64, 40), (1, 7), (33, 1)] + [(64, 64)] * 7
    pairs = [clouds(*size, k, dtype) for k, size in enumerate(sizes)]
    if library == "torch":
        pairs = [tuple(map(torch.as_tensor, pair)) for pair in pairs]
    found = sinkhorn_velocities(*zip(*pairs, strict=True), blur=0.3)
    for (x, y), res in zip(pairs, found, strict=True):
        alone = sinkhorn_velocity(x, y, blur=0.3)
        assert type(res.v) is type(x)
        assert res.v.dtype == x.dtype
        assert res.converged
        assert relative_distance(np.asarray(res.v), np.asarray(alone.v)) <= 3e-3
        assert res.eps == pytest.approx(0.09)
        assert relative_distance(np.asarray(res(x)), np.asarray(alone.v)) <= 1e-2


def test_one_hard_problem_does_not_hold_the_others():
    rng = np.random.default_rng(0)
    xs = [rng.normal(size=(100, 2)) for _ in range(10)]
    ys = [x + 1.0 for x in xs]
    ys[3] = 5.0 * rng.standard_cauchy(size=(100, 2)).clip(-20, 20)
    found = sinkhorn_velocities(xs, ys, blur=0.3)
    iterations = [res.n_iter for res in found]
    assert all(res.converged for res in found)
    assert iterations[3] > 3 * max(iterations[:3] + iterations[4:])


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_each_has_its_own_certificate(library):
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(12, 80, 2)), rng.normal(size=(12, 80, 2)) + 3.0
    ys[5] = 8.0 * rng.standard_cauchy(size=(80, 2)).clip(-20, 20)
    if library == "torch":
        xs, ys = torch.as_tensor(xs), torch.as_tensor(ys)
    with pytest.warns(ConvergenceWarning):
        found = sinkhorn_velocities(xs, ys, blur=0.5, solver=Sinkhorn(max_iter=40))
    assert [k for k, res in enumerate(found) if not res.converged] == [5]
    assert all(res.error <= 1e-3 for k, res in enumerate(found) if k != 5)
    assert found[5].error > 1e-3


def test_weights_and_blurs_are_those_of_each_problem():
    pairs = [clouds(20, 30, k) for k in range(4)]
    a = [None, np.arange(1.0, 21.0), None, None]
    xs, ys = zip(*pairs, strict=True)
    xs = [x * 10.0**k for k, x in enumerate(xs)]
    ys = [y * 10.0**k for k, y in enumerate(ys)]
    for x, y, w, res in zip(xs, ys, a, sinkhorn_velocities(xs, ys, a=a), strict=True):
        alone = sinkhorn_velocity(x, y, a=w)
        assert res.blur * res.unit == pytest.approx(alone.blur * alone.unit)
        assert relative_distance(res.v, alone.v) <= 3e-3


def test_other_solvers_solve_one_by_one():
    xs, ys = zip(*[clouds(20, 30, k) for k in range(3)], strict=True)
    solver = POT(tol=1e-6)
    for x, y, res in zip(xs, ys, sinkhorn_velocities(xs, ys, blur=1.0, solver=solver), strict=True):
        np.testing.assert_array_equal(res.v, sinkhorn_velocity(x, y, blur=1.0, solver=solver).v)


def test_a_solver_that_does_not_say_what_it_measured_of_each_solves_one_by_one():
    class Silent(Sinkhorn):
        def difference(self, *args):
            return super().difference(*args)._replace(each=())

    xs, ys = zip(*[clouds(20, 30, k) for k in range(3)], strict=True)
    found = sinkhorn_velocities(xs, ys, blur=1.0, solver=Silent())
    for x, y, res in zip(xs, ys, found, strict=True):
        np.testing.assert_allclose(res.v, sinkhorn_velocity(x, y, blur=1.0).v, rtol=1e-6)


def test_what_is_no_stack_is_refused():
    x, y = clouds(5, 5, 0)
    assert sinkhorn_velocities([], []) == []
    with pytest.raises(ValueError, match="1, 2, 1, 1, 1 and 1 entries"):
        sinkhorn_velocities([x], [y, y])
    with pytest.raises(ValueError, match="NaN"):
        sinkhorn_velocities([x], [y * np.nan])
