"""The particle flow: its steps, its descent, and stacks of flows that are solved at once."""

import math

import numpy as np
import pytest
from common import dtypes, far_samples, relative_distance, samples
from tolerances import FLOAT64

from nsgf import POT, Sinkhorn, sinkhorn_divergence, sinkhorn_flow, sinkhorn_velocity
from nsgf.flow import flow_steps, stacks
from nsgf.minibatches import Problem


def test_each_step_is_the_euler_step_along_the_velocity_there():
    x, y = samples(60, 80)
    tight = POT(method="auto", tol=1e-9)
    path = sinkhorn_flow(x, y, blur=0.8, n_steps=3, step_size=0.5, solver=tight)
    for k in range(3):
        np.testing.assert_allclose(path.x[k + 1], path.x[k] + 0.5 * path.v[k], atol=FLOAT64)
        np.testing.assert_allclose(path.v[k], sinkhorn_velocity(path.x[k], y, 0.8, solver=tight).v, atol=1e-6)
    np.testing.assert_array_equal(path.t, [0, 1 / 3, 2 / 3, 1])
    assert path.converged


def test_the_divergence_falls_along_the_flow():
    x, y = samples(60, 80)
    path = sinkhorn_flow(x, y, blur=0.5, n_steps=6, step_size=0.5)
    values = [sinkhorn_divergence(x_k, y, blur=0.5) for x_k in path.x]
    assert all(later < earlier for earlier, later in zip(values[:-1], values[1:], strict=True))


@pytest.mark.parametrize("solver", [POT(method="auto"), Sinkhorn()], ids=["POT", "Sinkhorn"])
def test_a_warm_start_spares_iterations(solver):
    x, y = far_samples(200, 200)
    steps = list(flow_steps(x, y, 0.6, 5, 0.3, solver))
    cold = [sinkhorn_velocity(x_k, y, 0.6, solver=solver) for x_k, _ in steps]
    assert sum(res.potentials.n_iter for _, res in steps[1:]) < 0.7 * sum(res.potentials.n_iter for res in cold[1:])


@pytest.mark.parametrize(("n_steps", "step_size"), [(0, 1.0), (1.5, 1.0), (3, 0.0), (3, -1.0), (3, math.nan), (3, "1")])
def test_a_scheme_that_is_none_is_refused(n_steps, step_size):
    with pytest.raises(ValueError, match="n_steps=|step_size="):
        sinkhorn_flow(*samples(60, 80), n_steps=n_steps, step_size=step_size)


@dtypes
def test_a_stack_agrees_with_its_problems_one_by_one(dtype):
    pairs = [far_samples(60, 50, dtype, seed) for seed in range(5)]
    solve = Sinkhorn(tol=1e-5)
    ((x, y, *_),) = stacks([Problem(*pair) for pair in pairs], solve)
    for k, (_, batch) in enumerate(flow_steps(x, y, 0.5, 3, 0.5, solve)):
        for i, pair in enumerate(pairs):
            _, single = list(flow_steps(*pair, 0.5, 3, 0.5, solve))[k]
            assert relative_distance(batch.v[i], single.v) <= 20 * (k + 1) * 1e-5
            assert batch.v.dtype == single.v.dtype == dtype


def test_stacks_hold_problems_of_one_size_and_span_in_their_order():
    x = np.random.default_rng(0).normal(size=(40, 2))
    sizes, later = [20, 20, 10, 10, 20], (0.5, 1.0)
    problems = [Problem(x[:n], x[:n], np.full((n, 1), i)) for i, n in enumerate(sizes)]
    problems.append(problems[-1]._replace(span=later))
    stacked = list(stacks(problems, Sinkhorn()))
    assert [p.x.shape for p in stacked] == [(2, 20, 2), (2, 10, 2), (20, 2), (20, 2)]
    assert [p.span for p in stacked] == [(0.0, 1.0)] * 3 + [later]
    np.testing.assert_array_equal(stacked[1].c[:, :, 0], np.repeat([[2], [3]], 10, axis=1))
    assert [p.x.shape for p in stacks(problems[:2], POT())] == [(20, 2), (20, 2)]
