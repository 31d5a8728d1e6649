"""The Sinkhorn solver: against POT and references, its certificate, and the paths by which a kernel is computed."""

import dataclasses
import warnings

import numpy as np
import ot
import pytest
import reference
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from strategies import Problem, problems, random_gaussian, seeds, weights

from nsgf import POT, Sinkhorn, datasets, kernel, minibatches, sinkhorn_divergence, sinkhorn_velocity, solvers
from nsgf.flow import flow_steps, stacks
from nsgf.kernel import Kernel, neighbours

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
costly = settings(max_examples=25)


def distance(v, w):
    """Return the root-mean-square distance of v to w, relative to w."""
    v, w = v.astype(np.float64), w.astype(np.float64)
    return np.linalg.norm(v - w) / np.linalg.norm(w)


def clouds(n=300, m=200, dtype="float64", seed=0):
    """Return samples of two laws that are not near each other."""
    rng = np.random.default_rng(seed)
    return datasets.eight_gaussians(n, rng).astype(dtype), datasets.moons(m, rng).astype(dtype)


@dtypes
@pytest.mark.parametrize("blur", [0.15, 0.5, 2.0])
def test_agrees_with_pot(blur, dtype):
    x, y = clouds(dtype=dtype)
    pot = POT(method="auto", tol=1e-8, max_iter=50_000)
    v = sinkhorn_velocity(x.astype("float64"), y.astype("float64"), blur, solver=pot).v
    for tol in (1e-2, 1e-3, 1e-5):
        res = sinkhorn_velocity(x, y, blur, solver=Sinkhorn(tol=tol))
        assert res.converged
        assert res.error <= tol
        assert distance(res.v, v) <= 10 * res.error + 1e-6


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
    assert distance(res.v, exact) <= 10 * res.error


@dtypes
@costly
@given(problem=problems(min_points=5, max_points=30, fractions=(0.3, 1.0)), tol=st.sampled_from([1e-2, 1e-3, 1e-5]))
def test_reported_error_bounds_the_true_one(problem, tol, dtype):
    problem = problem.to(dtype)
    res = sinkhorn_velocity(*problem.args, solver=Sinkhorn(tol=tol, max_iter=10_000))
    assert res.converged
    p = problem.to("float64")
    exact = reference.velocity(p.x, p.x, p.y, p.eps, p.a / p.a.sum(), p.b / p.b.sum())
    assert distance(res.v, exact) <= 10 * res.error + 1e-5


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
def test_a_batch_agrees_with_its_problems_one_by_one(dtype):
    pairs = [clouds(60, 50, dtype, seed) for seed in range(5)]
    solve = Sinkhorn(tol=1e-5)
    ((x, y, *_),) = stacks([minibatches.Problem(*pair) for pair in pairs], solve)
    for k, (_, batch) in enumerate(flow_steps(x, y, 0.5, 3, 0.5, solve)):
        for i, pair in enumerate(pairs):
            _, single = list(flow_steps(*pair, 0.5, 3, 0.5, solve))[k]
            assert distance(batch.v[i], single.v) <= 20 * (k + 1) * 1e-5
            assert batch.v.dtype == single.v.dtype == dtype


@dtypes
def test_arithmetic_is_the_same_in_numpy_as_in_torch(dtype):
    x, y = clouds(dtype=dtype)
    by_numpy = sinkhorn_velocity(x, y, 0.5, solver=Sinkhorn(tol=1e-4))
    by_torch = sinkhorn_velocity(torch.from_numpy(x), torch.from_numpy(y), 0.5, solver=Sinkhorn(tol=1e-4))
    assert distance(by_numpy.v, by_torch.v.numpy()) <= 1e-4
    assert by_numpy.potentials.precision == by_torch.potentials.precision


@pytest.mark.parametrize("stored", [2**28, 2**20, 0])
def test_blocks_that_leave_out_columns_give_the_same_velocity(monkeypatch, stored):
    x, y = clouds(900, 700)
    dense = sinkhorn_velocity(x, y, 0.2, solver=Sinkhorn(tol=1e-4))
    for name, value in {"_DENSE": 0, "_BLOCK": 2**16, "_STORED": stored, "_LEAF": 64}.items():
        monkeypatch.setattr(kernel, name, value)
    sparse = sinkhorn_velocity(x, y, 0.2, solver=Sinkhorn(tol=1e-4))
    assert sparse.converged
    assert distance(sparse.v, dense.v) <= 1e-4


def test_blocks_leave_out_columns(monkeypatch):
    for name, value in {"_DENSE": 0, "_BLOCK": 2**16, "_LEAF": 64}.items():
        monkeypatch.setattr(kernel, name, value)
    x, y = (z / 0.2 for z in clouds(900, 700))
    K = Kernel(x[neighbours(x)], y, np.full(900, 1 / 900), np.full(700, 1 / 700))
    K.absorb(np.zeros(700))
    assert sum(len(columns) if not isinstance(columns, slice) else 700 for _, columns, _ in K._kept) < 0.5 * 700 * len(
        K._kept
    )


def test_neighbours_are_an_order():
    x = np.random.default_rng(0).normal(size=(3000, 3))
    assert np.array_equal(np.sort(neighbours(x)), np.arange(3000))


def test_float32_that_cannot_reach_a_tolerance_gives_way_to_float64():
    x, y = clouds(dtype="float32")
    assert sinkhorn_velocity(x, y, 0.5).potentials.precision == "float32"
    tight = sinkhorn_velocity(x, y, 0.5, solver=Sinkhorn(tol=1e-8))
    assert tight.potentials.precision == "float64"
    assert tight.converged


def test_a_limit_of_iterations_is_kept_and_flagged():
    x, y = clouds()
    with pytest.warns(ConvergenceWarning, match=r"above tol=0.001.*solver=Sinkhorn\(max_iter"):
        res = sinkhorn_velocity(x, y, 0.05, solver=Sinkhorn(max_iter=5))
    assert not res.converged
    assert res.potentials.n_iter <= 5
    with pytest.raises(RuntimeError, match="Raise max_iter"):
        sinkhorn_velocity(x, y, 0.05, solver=Sinkhorn(max_iter=5, on_unconverged="raise"))


@pytest.mark.parametrize(
    ("option", "value"), [("tol", 0.0), ("tol", np.inf), ("max_iter", 0), ("on_unconverged", "no")]
)
def test_bad_options_are_named(option, value):
    with pytest.raises(ValueError, match=f"{option}={value!r}"):
        Sinkhorn(**{option: value})


def test_self_potentials_start_from_a_solution():
    x, a = np.random.default_rng(0).normal(size=(40, 2)), np.full(40, 1 / 40)
    cold = solvers.self_potentials(x, 0.05, a, tol=1e-9)
    warm = solvers.self_potentials(x, 0.05, a, cold, tol=1e-9)
    assert warm.converged
    assert warm.n_iter < cold.n_iter
    np.testing.assert_allclose(warm.f, cold.f, atol=1e-9)


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
            assert error <= 10.0 * res.error * size


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
    x, y = clouds()
    exact = sinkhorn_velocity(x, y, 0.1, solver=Sinkhorn(tol=1e-8, max_iter=20_000)).v
    for max_iter in (10, 20, 40):
        with pytest.warns(ConvergenceWarning):
            res = sinkhorn_velocity(x, y, 0.1, solver=Sinkhorn(tol=1e-6, max_iter=max_iter))
        assert distance(res.v, exact) <= res.error


def test_a_start_from_a_larger_blur_is_certified():
    x, y = datasets.eight_gaussians(200, np.random.default_rng(0)), datasets.moons(200, np.random.default_rng(1))
    exact = sinkhorn_velocity(x, y, 0.2, solver=Sinkhorn(tol=1e-8, max_iter=20_000)).v
    for init_blur in (0.2, 0.4, 2.0):
        init = sinkhorn_velocity(x, y, init_blur, solver=Sinkhorn(tol=1e-2)).potentials
        res = sinkhorn_velocity(x, y, 0.2, solver=Sinkhorn(tol=2e-3), init=init)
        assert res.converged
        assert np.linalg.norm(res.v - exact) <= 10.0 * res.error * np.linalg.norm(exact)


def test_columns_that_no_row_is_near_are_reached(monkeypatch):
    monkeypatch.setattr(kernel, "_DENSE", 0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 2)), 3.0 * rng.normal(size=(300, 2))
    far = sinkhorn_velocity(x, y, 0.3)
    init = far.potentials._replace(g=np.zeros(300))
    res = sinkhorn_velocity(x, y, 0.3, init=init)
    assert res.converged
    np.testing.assert_allclose(res.v, far.v, atol=5e-3)
    assert sinkhorn_divergence(x, y, 0.3) > 0


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
