"""Laws of the empirical velocity, of the divergence, and of the certificate that both carry."""

import dataclasses

import numpy as np
import ot
import pytest
import reference
from common import dtypes, methods, samples
from hypothesis import given, settings, strategies as st
from sklearn.exceptions import ConvergenceWarning
from strategies import (
    costly,
    coupled_problems,
    hard_problem,
    problems,
    rotations,
    seeds,
    single_points,
    translated_clouds,
)
from tolerances import TIGHT, rounding, solver_limited
from velocities import assert_same_velocity, quietly, reference_velocity

from nsgf.sinkhorn import pick_blur, sinkhorn_divergence, sinkhorn_velocity, spread
from nsgf.solvers import POT, Sinkhorn


def velocity(problem, **options):
    """Solve a problem as tightly as its dtype allows."""
    return quietly(sinkhorn_velocity, *problem.args, **{"solver": TIGHT[problem.x.dtype.name], **options})


def divergence(problem):
    """Return S_ε as tightly as the problem's dtype allows."""
    return sinkhorn_divergence(*problem.args, solver=TIGHT[problem.x.dtype.name])


# %% Closed forms


@dtypes
@given(solved=translated_clouds())
def test_translated_cloud_moves_by_the_translation(solved, dtype):
    problem = solved.problem.to(dtype)
    res = velocity(problem)
    assert np.max(np.abs(res.v - solved.v)) <= 10 * res.error * problem.spread + rounding(problem.x, problem.y)


@dtypes
@given(solved=translated_clouds(distances=(0.0, 30.0)))
def test_divergence_of_a_translated_cloud_is_half_its_square(solved, dtype):
    problem = solved.problem.to(dtype)
    size = np.abs(problem.x).max() + np.abs(problem.y).max()
    assert abs(divergence(problem) - solved.S) <= rounding(problem.x) * 10 * size + 10 * problem.eps * 1e-9


@dtypes
@given(solved=single_points())
def test_one_point_each_is_a_straight_line(solved, dtype):
    problem = solved.problem.to(dtype)
    assert np.allclose(velocity(problem).v, solved.v, rtol=0, atol=rounding(problem.x, problem.y))
    assert divergence(problem) == pytest.approx(solved.S, abs=4 * rounding(problem.x, problem.y) * (1 + solved.S))


@dtypes
@given(problem=problems())
def test_mean_velocity_is_the_difference_of_means(problem, dtype):
    problem = problem.to(dtype)
    res = velocity(problem)
    lag = problem.a @ res.v - (problem.b @ problem.y - problem.a @ problem.x)
    assert np.linalg.norm(lag) <= solver_limited(res.error, problem)


@given(problem=problems())
def test_large_blur_moves_every_particle_by_the_difference_of_means(problem):
    problem = dataclasses.replace(problem, blur=1e6 * problem.spread)
    shift = problem.b @ problem.y - problem.a @ problem.x
    far = max(np.abs(problem.x).max(), np.abs(problem.y).max(), problem.spread)
    assert np.max(np.abs(velocity(problem).v - shift)) <= 100 * far * 1e-12 * (far / problem.spread) ** 2


# %% Equivariances


@dtypes
@given(problem=problems(), data=st.data())
def test_rotation_equivariance(problem, data, dtype):
    Q = data.draw(rotations(problem.x.shape[1]))
    problem, turned = problem.to(dtype), problem.map(lambda x: x @ Q).to(dtype)
    res, turned_res = velocity(problem), velocity(turned)
    assert_same_velocity(turned_res, res.v @ Q, problem, error=res.error)


@dtypes
@given(problem=problems(), seed=seeds)
def test_translation_invariance(problem, seed, dtype):
    c = 10 * problem.spread * np.random.default_rng(seed).normal(size=problem.x.shape[1])
    problem, moved = problem.to(dtype), problem.map(lambda x: x + c).to(dtype)
    res, moved_res = velocity(problem), velocity(moved)
    assert_same_velocity(moved_res, res.v, moved, error=res.error)


@pytest.mark.parametrize(("dtype", "far", "grid"), [("float32", 2.0**13, 2.0**8), ("float64", 2.0**40, 2.0**10)])
def test_clouds_far_from_the_origin_lose_no_digits(dtype, far, grid):
    x, y = (np.rint(grid * z).astype(dtype) / grid for z in np.random.default_rng(0).normal(size=(2, 16, 2)))
    shift = x.dtype.type(far)
    near, off = (sinkhorn_velocity(x + c, y + c, 1.0, solver=TIGHT[dtype]) for c in (0 * shift, shift))
    assert np.allclose(off.v, near.v, rtol=0, atol=10 * near.error + rounding(x, y))


@dtypes
@given(problem=problems(), seed=seeds)
def test_permutation_equivariance(problem, seed, dtype):
    rng, problem = np.random.default_rng(seed), problem.to(dtype)
    i, j = rng.permutation(len(problem.x)), rng.permutation(len(problem.y))
    mixed = dataclasses.replace(problem, x=problem.x[i], y=problem.y[j], a=problem.a[i], b=problem.b[j])
    res, mixed_res = velocity(problem), velocity(mixed)
    assert_same_velocity(mixed_res, res.v[i], mixed, error=res.error)


@dtypes
@costly
@given(problem=problems(max_points=10), exponent=st.floats(-8, 8))
def test_scale_equivariance(problem, exponent, dtype):
    scale = 10.0**exponent
    problem, scaled = problem.to(dtype), problem.map(lambda x: x * scale).to(dtype)
    scaled = dataclasses.replace(scaled, blur=problem.blur * scale)
    res, scaled_res = velocity(problem), velocity(scaled)
    assert_same_velocity(scaled_res, res.v.astype(np.float64) * scale, scaled, error=res.error)


@dtypes
@given(problem=problems(max_points=10), exponent=st.floats(-8, 8))
def test_auto_blur_follows_the_scale(problem, exponent, dtype):
    scale = 10.0**exponent
    x, y = problem.to(dtype).x, problem.to(dtype).y
    scaled = problem.map(lambda x: x * scale).to(dtype)
    assert pick_blur("auto", scaled.x, scaled.y) == pytest.approx(scale * pick_blur("auto", x, y), rel=1e-5)
    assert spread(scaled.x, scaled.a) == pytest.approx(np.sqrt(reference_variance(scaled)), rel=1e-5)


def reference_variance(problem):
    """Return Σ a |x − mean|² of the source, in float64."""
    x, a = problem.x.astype(np.float64), problem.a.astype(np.float64)
    return a @ np.sum((x - a @ x / a.sum()) ** 2, axis=1) / a.sum()


@dtypes
@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1e4, 1e8])
def test_scale_equivariance_with_auto_blur(scale, dtype):
    x, y = np.random.default_rng(0).normal(size=(2, 20, 2)).astype(dtype)
    res = sinkhorn_velocity(x, y)
    scaled = sinkhorn_velocity(x * x.dtype.type(scale), y * y.dtype.type(scale))
    assert np.allclose(scaled.v / scale, res.v, rtol=0, atol=10 * (res.error + scaled.error))


@dtypes
@given(problem=problems(), data=st.data())
def test_points_without_weight_are_as_good_as_dropped(problem, data, dtype):
    problem = problem.to(dtype)
    kept, others = data.draw(masks(len(problem.x))), data.draw(masks(len(problem.y)))
    zeroed = dataclasses.replace(problem, a=problem.a * kept, b=problem.b * others)
    smaller = dataclasses.replace(
        problem, x=problem.x[kept], y=problem.y[others], a=problem.a[kept], b=problem.b[others]
    )
    res, small_res = velocity(zeroed), velocity(smaller)
    assert_same_velocity(res, small_res(problem.x), zeroed, error=small_res.error)
    assert np.all(np.isfinite(res.v))
    assert np.all(np.isfinite(res.potentials.f))
    assert np.all(np.isfinite(res.potentials.g))


@st.composite
def masks(draw, n):
    """Draw which of n points to keep, at least one."""
    keep = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    keep[draw(st.integers(0, n - 1))] = True
    return keep


@dtypes
@given(problem=problems(), data=st.data())
def test_a_point_twice_is_a_point_of_twice_the_weight(problem, data, dtype):
    problem = problem.to(dtype)
    i, j = data.draw(st.integers(0, len(problem.x) - 1)), data.draw(st.integers(0, len(problem.y) - 1))
    twice = dataclasses.replace(
        problem,
        x=np.vstack([problem.x, problem.x[i]]),
        y=np.vstack([problem.y, problem.y[j]]),
        a=np.append(problem.a, problem.a[i]),
        b=np.append(problem.b, problem.b[j]),
    )
    heavy = dataclasses.replace(
        problem,
        a=problem.a * (1 + (np.arange(len(problem.a)) == i)).astype(dtype),
        b=problem.b * (1 + (np.arange(len(problem.b)) == j)).astype(dtype),
    )
    res, heavy_res = velocity(twice), velocity(heavy)
    assert_same_velocity(heavy_res, res.v[:-1], problem, error=res.error)


# %% The velocity as a gradient, and the divergence


@costly
@given(problem=coupled_problems(max_points=10), seed=seeds)
def test_velocity_is_the_steepest_descent_of_the_divergence(problem, seed):
    push = np.random.default_rng(seed).normal(size=problem.x.shape)
    h, solver = 1e-3 * problem.blur, POT(method="auto", tol=1e-11, max_iter=100_000)

    def S(t):
        return sinkhorn_divergence(problem.x + t * push, *problem.args[1:], solver=solver)

    slope = (8 * (S(h) - S(-h)) - (S(2 * h) - S(-2 * h))) / (12 * h)
    v = sinkhorn_velocity(*problem.args, solver=solver).v
    assert slope == pytest.approx(-problem.a @ np.sum(v * push, axis=1), abs=1e-6 * problem.spread, rel=1e-6)


@costly
@given(problem=coupled_problems(max_points=8), data=st.data())
def test_each_particle_descends_by_its_own_finite_difference(problem, data):
    i, k = data.draw(st.integers(0, len(problem.x) - 1)), data.draw(st.integers(0, problem.x.shape[1] - 1))
    h, solver = 1e-3 * problem.blur, POT(method="auto", tol=1e-11, max_iter=100_000)

    def S(t):
        x = problem.x.copy()
        x[i, k] += t
        return sinkhorn_divergence(x, *problem.args[1:], solver=solver)

    slope = (8 * (S(h) - S(-h)) - (S(2 * h) - S(-2 * h))) / (12 * h)
    v = sinkhorn_velocity(*problem.args, solver=solver).v
    assert v[i, k] == pytest.approx(-slope / problem.a[i], abs=1e-6 * problem.spread)


@dtypes
@given(problem=coupled_problems())
def test_divergence_is_not_negative_and_symmetric(problem, dtype):
    problem = problem.to(dtype)
    S, mirrored = divergence(problem), divergence(problem.swapped())
    slack = 10 * (TIGHT[dtype].tol * problem.eps + rounding(problem.x, problem.y) * problem.spread)
    assert min(S, mirrored) >= -slack
    assert abs(S - mirrored) <= slack + 1e-6 * S


@costly
@given(problem=coupled_problems(max_points=8))
def test_divergence_agrees_with_the_reference(problem):
    S = reference.divergence(problem.x, problem.y, problem.eps, problem.a, problem.b)
    assert divergence(problem) == pytest.approx(S, abs=1e-7 * problem.eps)


# %% Agreement with the float64 reference, and the certificate


@methods
@costly
@given(problem=problems(max_points=10), max_iter=st.integers(1, 60))
def test_mean_error_stays_within_the_certificate_of_any_solve(problem, max_iter, method):
    res = velocity(problem, solver=POT(method=method, tol=1e-10, max_iter=max_iter))
    assert_same_velocity(res, reference_velocity(problem), problem)


def test_unconverged_velocity_warns_and_says_so():
    with pytest.warns(ConvergenceWarning, match=r"above tol=1e-06.*max_iter"):
        res = sinkhorn_velocity(*hard_problem(), solver=POT(tol=1e-6, max_iter=3))
    assert not res.converged
    assert res.error > 1e-6


def test_unconverged_divergence_warns():
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        sinkhorn_divergence(*hard_problem(), solver=POT(tol=1e-6, max_iter=3))


@pytest.mark.parametrize("function", [sinkhorn_velocity, sinkhorn_divergence])
def test_unconverged_raises_on_request(function):
    with pytest.raises(RuntimeError, match=r"above tol=1e-06.*max_iter"):
        function(*hard_problem(), solver=POT(tol=1e-6, max_iter=3, on_unconverged="raise"))


# %% Potentials


@dtypes
@given(problem=problems(), distance=st.sampled_from([0.0, 3.0, 100.0]))
def test_potentials_solve_both_equations_where_the_clouds_lie(problem, distance, dtype):
    problem = dataclasses.replace(problem, y=problem.y + distance * problem.spread).to(dtype)
    res = velocity(problem)
    f, g, *_ = (np.asarray(p, np.float64) for p in res.potentials)
    x, y, _, a, b = (np.asarray(z, np.float64) for z in problem.args)
    C, eps = reference.cost(x, y), problem.eps
    f_gap = a @ np.abs(np.expm1((f - reference.soft_minimum(C, g, eps, b)) / eps))
    g_gap = b @ np.abs(np.expm1((g - reference.soft_minimum(C.T, f, eps, a)) / eps))
    noise = {"float64": 1e-14, "float32": 1e-6}[dtype] * (1 + C.max() / eps)
    assert g_gap <= noise
    assert f_gap <= res.error + noise


# %% The field off the cloud, and warm starts


@dtypes
@given(problem=problems())
def test_field_at_the_particles_is_their_velocity(problem, dtype):
    problem = problem.to(dtype)
    res = velocity(problem)
    assert np.allclose(res(problem.x), res.v, rtol=0, atol=rounding(problem.x, problem.y))


@costly
@given(problem=coupled_problems(max_points=8), seed=seeds)
def test_field_off_the_particles_agrees_with_the_reference(problem, seed):
    z = problem.x.mean(0) + problem.spread * np.random.default_rng(seed).normal(size=(5, problem.x.shape[1]))
    res = velocity(problem)
    assert np.allclose(res(z), reference_velocity(problem, z), rtol=0, atol=1e-6 * problem.spread)


@dtypes
@given(problem=problems())
def test_warm_start_gives_the_same_velocity_in_no_more_iterations(problem, dtype):
    problem = problem.to(dtype)
    res = velocity(problem)
    again = velocity(problem, init=res.potentials)
    assert_same_velocity(again, res.v, problem, error=res.error)
    assert again.potentials.n_iter <= res.potentials.n_iter


@given(problem=coupled_problems(), seed=seeds)
def test_warm_start_of_a_moved_cloud_gives_its_velocity(problem, seed):
    res = velocity(problem)
    push = problem.spread * np.random.default_rng(seed).normal(size=problem.x.shape[1])
    moved = dataclasses.replace(problem, x=problem.x + 0.3 * res.v + push)
    cold, warm = velocity(moved), velocity(moved, init=res.potentials)
    assert_same_velocity(warm, cold.v, moved, error=cold.error)


def test_init_of_another_target_raises():
    x, y = np.random.default_rng(0).normal(size=(2, 9, 2))
    res = sinkhorn_velocity(x, y, 1.0)
    with pytest.raises(ValueError, match=r"init .*9 .*5 rows.*init=None"):
        sinkhorn_velocity(x, y[:5], 1.0, init=res.potentials)


@settings(max_examples=25)
@given(problem=problems())
def test_certificate_of_a_velocity_is_that_of_both_problems(problem):
    res = velocity(problem, solver=POT(method="auto", tol=1e-6, max_iter=10))
    parts = res.potentials, res.self_potentials
    assert res.error == max(p.error for p in parts)
    assert res.n_iter == sum(p.n_iter for p in parts)
    assert res.converged == all(p.converged for p in parts)
    assert res.eps == pytest.approx(problem.eps)


# %% Partners


@pytest.mark.parametrize("solver", [POT(), Sinkhorn(tol=1e-4)], ids=["POT", "Sinkhorn"])
def test_partners_are_drawn_from_the_plan(solver):
    rng, n_draws = np.random.default_rng(0), 4000
    x, y = samples(6, 5)
    a, b = np.arange(1.0, 7.0) / 21, np.array([0.1, 0.4, 0.0, 0.3, 0.2])
    res = sinkhorn_velocity(x, y, 1.5, a, b, solver)
    found = np.stack([res.partners(rng) for _ in range(n_draws)])  # (n_draws, 6, 2)
    share = np.all(np.isclose(found[:, :, None], y), axis=3).mean(axis=0)  # (6, 5)
    plan = ot.sinkhorn(a, b, ot.dist(x, y), 2 * 1.5**2, stopThr=1e-12)  # POT's cost is |x − y|²
    assert np.abs(share - plan / a[:, None]).max() < 4 * 0.5 / n_draws**0.5
    np.testing.assert_allclose(share.sum(axis=1), 1.0)
