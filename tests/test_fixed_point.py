"""The Sinkhorn solver: against POT and references, its certificate, and the limits that it keeps."""

import dataclasses
import warnings

import numpy as np
import ot
import pytest
import reference
import torch
from common import dtypes, far_samples, relative_distance
from hypothesis import assume, given, settings, strategies as st
from sklearn.exceptions import ConvergenceWarning
from strategies import Problem, problems, random_gaussian, seeds, weights

from nsgf import POT, Sinkhorn, datasets, sinkhorn_velocity
from nsgf.flow import flow_steps

costly = settings(max_examples=25)


@dtypes
@pytest.mark.parametrize("blur", [0.15, 0.5, 2.0])
def test_agrees_with_pot(blur, dtype):
    x, y = far_samples(dtype=dtype)
    pot = POT(method="auto", tol=1e-8, max_iter=50_000)
    v = sinkhorn_velocity(x.astype("float64"), y.astype("float64"), blur, solver=pot).v
    for tol in (1e-2, 1e-3, 1e-5):
        res = sinkhorn_velocity(x, y, blur, solver=Sinkhorn(tol=tol))
        assert res.converged
        assert res.error <= tol
        assert relative_distance(res.v, v) <= 10 * res.error + 1e-6


@dtypes
@pytest.mark.parametrize("seed", range(6))
def test_clusters_that_lack_a_little_mass_get_it_from_far_away(seed, dtype):
    """Particles sit on targets whose masses differ a little: potentials differ by hundreds of nats."""
    rng = np.random.default_rng(seed)
    y = 3 * rng.normal(size=(12, 3))
    cluster = np.repeat(np.arange(12), rng.integers(1, 5, size=12))
    x = y[cluster]
    res = sinkhorn_velocity(x.astype(dtype), y.astype(dtype), blur=0.1)
    assert res.converged
    moves = len(x) * ot.emd([], [], ot.dist(x, y)) @ y - x  # exact; which of two equal particles moves is arbitrary
    exact = np.stack([moves[cluster == k].mean(axis=0) for k in range(12)])[cluster]
    assert relative_distance(res.v, exact) <= 10 * res.error


@dtypes
@costly
@given(problem=problems(min_points=5, max_points=30, fractions=(0.3, 1.0)), tol=st.sampled_from([1e-2, 1e-3, 1e-5]))
def test_reported_error_bounds_the_true_one(problem, tol, dtype):
    problem = problem.to(dtype)
    res = sinkhorn_velocity(*problem.args, solver=Sinkhorn(tol=tol, max_iter=10_000))
    assert res.converged
    p = problem.to("float64")
    exact = reference.velocity(p.x, p.x, p.y, p.eps, p.a / p.a.sum(), p.b / p.b.sum())
    assert relative_distance(res.v, exact) <= 10 * res.error + 1e-5


@st.composite
def awkward_problems(draw):
    """Draw what solvers break on: any scale and blur, duplicates, far clusters, unequal sizes, weights of zero."""
    rng, d = np.random.default_rng(draw(seeds)), draw(st.integers(1, 4))
    x, y = (rng.normal(size=(draw(st.integers(1, 20)), d)) for _ in range(2))
    if draw(st.booleans()):
        x[: len(x) // 2] = x[0]
        y[len(y) // 2 :] = x[0]
    if draw(st.booleans()):
        x[: len(x) // 3, 0] += 100.0
        y[: len(y) // 2, -1] -= 30.0
    problem = Problem(x, y, 1.0, draw(weights(rng, len(x))), draw(weights(rng, len(y))))
    blur = 10.0 ** draw(st.floats(-4, 1)) * (problem.spread or 1.0)
    for w in (problem.a, problem.b) if draw(st.booleans()) else ():
        w[1 : 1 + len(w) // 3] = 0.0
    scale = 10.0 ** draw(st.floats(-8, 8))
    return dataclasses.replace(problem.map(lambda z: z * scale), blur=blur * scale)


@dtypes
@given(problem=awkward_problems())
def test_no_wrong_number_is_silent(problem, dtype):
    problem = problem.to(dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        res = sinkhorn_velocity(*problem.args)
    assert np.all(np.isfinite(res.v))
    assert res.converged or any(issubclass(w.category, ConvergenceWarning) for w in caught)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        again = sinkhorn_velocity(*problem.to("float64").args, solver=Sinkhorn(tol=1e-7, max_iter=20_000))
    assume(res.converged and again.converged)
    gap = np.sqrt(np.mean(np.sum((res.v.astype(float) - again.v) ** 2, axis=1)))
    rounding = np.finfo(dtype).eps * 100 * max(np.abs(problem.x).max(), np.abs(problem.y).max())
    size = np.sqrt(np.mean(np.sum(again.v.astype(float) ** 2, axis=1)))
    assert gap <= 10 * min(res.error * size, 1e-3 * max(size, problem.blur)) + rounding


@dtypes
def test_potentials_that_ran_away_are_no_solution(dtype):
    x, a = np.array([[100.12573022], [-0.13210486], [0.64042265]], dtype), np.array([0.26067062, 0, 0.35008563], dtype)
    y = np.array([[-29.89509988], [0.12573022], [0.12573022], [0.12573022]], dtype)
    res = sinkhorn_velocity(x, y, 0.0327425265995018, a)
    share = 0.25 * a.sum() / a[2]  # of the last point's mass, which goes to the far target; that of the first does not
    assert res.converged
    assert float(res.v[2, 0] + x[2, 0]) == pytest.approx(share * y[0, 0] + (1 - share) * y[1, 0], rel=1e-3)
    assert float(res.v[0, 0] + x[0, 0]) == pytest.approx(y[1, 0], abs=1e-3)


@dtypes
def test_arithmetic_is_the_same_in_numpy_as_in_torch(dtype):
    x, y = far_samples(dtype=dtype)
    by_numpy = sinkhorn_velocity(x, y, 0.5, solver=Sinkhorn(tol=1e-4))
    by_torch = sinkhorn_velocity(torch.from_numpy(x), torch.from_numpy(y), 0.5, solver=Sinkhorn(tol=1e-4))
    assert relative_distance(by_numpy.v, by_torch.v.numpy()) <= 1e-4
    assert by_numpy.potentials.precision == by_torch.potentials.precision


def test_float32_that_cannot_reach_a_tolerance_gives_way_to_float64():
    x, y = far_samples(dtype="float32")
    assert sinkhorn_velocity(x, y, 0.5).potentials.precision == "float32"
    tight = sinkhorn_velocity(x, y, 0.5, solver=Sinkhorn(tol=1e-8))
    assert tight.potentials.precision == "float64"
    assert tight.converged


def test_a_limit_of_iterations_is_kept_and_flagged():
    x, y = far_samples()
    with pytest.warns(ConvergenceWarning, match=r"above tol=0.001.*solver=Sinkhorn\(tol=0.001, max_iter=5"):
        res = sinkhorn_velocity(x, y, 0.05, solver=Sinkhorn(max_iter=5))
    assert not res.converged
    assert res.potentials.n_iter <= 5
    with pytest.raises(RuntimeError, match="Raise max_iter"):
        sinkhorn_velocity(x, y, 0.05, solver=Sinkhorn(max_iter=5, on_unconverged="raise"))


def test_certificates_hold_along_a_flow():
    """Solves that begin near the solution see little of what is left to go."""
    rng = np.random.default_rng(256)
    x, y = rng.normal(size=(2, 256, 2)).astype(np.float32)
    x[:128, 0] += 10.0
    y[:128, 1] += 10.0
    for tol in (1e-3, 2e-4):
        for x_k, res in flow_steps(x, y, 1.5, 7, 1.0, Sinkhorn(tol=tol)):
            exact = sinkhorn_velocity(x_k.astype(float), y.astype(float), 1.5, solver=Sinkhorn(tol=1e-8)).v
            error, size = (float(np.sqrt(np.mean(np.sum(z**2, 1)))) for z in (res.v - exact, exact))
            assert res.converged
            assert error <= 3.0 * tol * max(size, 0.15)
            assert error <= 10.0 * res.error * max(size, 0.15)


@pytest.mark.parametrize("seed", [8, 73, 162, 507, 552])
def test_velocities_near_a_tenth_of_the_blur_converge(seed):
    """There the two maps' shares of the tolerance are only just enough."""
    rng = np.random.default_rng(seed)
    x, y = (random_gaussian(rng, 2).sample(100, rng) for _ in range(2))
    for blur in (1.0, 1.3, 1.6):
        steps = list(flow_steps(x, y, blur, 4, 1.0, Sinkhorn(tol=1e-4)))
        assert all(res.converged for _, res in steps)
        assert any(np.sqrt(np.mean(np.sum(res.v**2, axis=1))) < 0.2 * blur for _, res in steps)


def test_an_error_that_stalls_is_widened():
    x, y = far_samples()
    exact = sinkhorn_velocity(x, y, 0.1, solver=Sinkhorn(tol=1e-8, max_iter=20_000)).v
    for max_iter in (10, 20, 40):
        with pytest.warns(ConvergenceWarning):
            res = sinkhorn_velocity(x, y, 0.1, solver=Sinkhorn(tol=1e-6, max_iter=max_iter))
        assert relative_distance(res.v, exact) <= res.error


def test_a_start_from_a_larger_blur_is_certified():
    x, y = datasets.eight_gaussians(200, np.random.default_rng(0)), datasets.moons(200, np.random.default_rng(1))
    exact = sinkhorn_velocity(x, y, 0.2, solver=Sinkhorn(tol=1e-8, max_iter=20_000)).v
    for init_blur in (0.2, 0.4, 2.0):
        init = sinkhorn_velocity(x, y, init_blur, solver=Sinkhorn(tol=1e-2)).potentials
        res = sinkhorn_velocity(x, y, 0.2, solver=Sinkhorn(tol=2e-3), init=init)
        assert res.converged
        assert np.linalg.norm(res.v - exact) <= 10.0 * res.error * np.linalg.norm(exact)


def test_problems_of_a_batch_leave_each_other_their_mixing():
    rng = np.random.default_rng(0)
    y = datasets.moons(100, rng)
    x = np.stack([y + 1.0, datasets.eight_gaussians(100, rng)])
    ((_, res),) = flow_steps(x, np.stack([y, y]), 0.3, 1, 1.0, Sinkhorn())
    alone = [next(flow_steps(z, y, 0.3, 1, 1.0, Sinkhorn()))[1].cross.n_iter for z in x]
    assert res.converged
    assert res.cross.n_iter <= 2 * max(alone)


def test_a_start_that_is_not_finite_raises():
    x = np.random.default_rng(0).normal(size=(5, 2))
    res = sinkhorn_velocity(x, x, 1.0)
    with pytest.raises(ValueError, match=r"init\.g .*NaN.*init=None"):
        sinkhorn_velocity(x, x, 1.0, init=res.potentials._replace(g=np.full(5, np.nan)))
