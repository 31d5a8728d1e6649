"""Laws of the empirical velocity, of the divergence, and of the certificate that both carry."""

import dataclasses
import pickle

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

from nsgf.flow import sinkhorn_flow
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


# %% Over the whole range of blur, unit and offset

wide_blurs = pytest.mark.parametrize("blur", [1e-4, 1e-2, 0.3, 1.0, 10.0, 1e3, 1e6, 1e12, 1e200])
units = pytest.mark.parametrize("unit", [1e-300, 1e-170, 1e-100, 1e-30, 1e-22, 1e-10, 1e18, 1e30, 1e100, 1e160, 1e300])


@dtypes
@wide_blurs
def test_divergence_of_equal_clouds_is_zero_within_its_error_at_any_blur(blur, dtype):
    x, w = np.random.default_rng(0).normal(size=(20, 2)).astype(dtype), np.arange(1.0, 21.0)
    mixed = np.random.default_rng(1).permutation(20)
    for S in (sinkhorn_divergence(x, x, blur), sinkhorn_divergence(x, x[mixed], blur, w, w[mixed])):
        assert 0.0 <= S <= S.error <= 1e-5 * min(blur, 1.0) ** 2 + 1e-12
        assert S.converged


@pytest.mark.parametrize("blur", [1e4, 1e6, 1e8, 1e12, 1e100, 1e200])
def test_divergence_tends_to_that_of_the_means(blur):
    x, y = (z + c for z, c in zip(np.random.default_rng(0).normal(size=(2, 30, 2)), (0.0, 0.3), strict=True))
    limit = 0.5 * np.sum((x.mean(0) - y.mean(0)) ** 2)
    S = sinkhorn_divergence(x, y, blur)
    assert pytest.approx(limit, rel=1e-12 + 100 / blur / blur) == S
    assert sinkhorn_velocity(x, y, blur).v == pytest.approx(np.tile(y.mean(0) - x.mean(0), (30, 1)), rel=1e-3)


@pytest.mark.parametrize("blur", [0.3, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
def test_divergence_of_near_clouds_goes_as_the_square_of_their_distance(size, blur):
    x, push = np.random.default_rng(0).normal(size=(2, 12, 2))
    S, twice = (sinkhorn_divergence(x, x + s * push, blur) for s in (size, 2 * size))
    assert S.converged
    assert twice - 4 * S == pytest.approx(0.0, abs=20 * size * S + twice.error + 4 * S.error)
    assert size < 1e-4 or S.error < S


@given(problem=coupled_problems(max_points=8), stretch=st.sampled_from([1.0, 10.0, 100.0]))
@settings(max_examples=25)
def test_error_of_a_divergence_bounds_the_true_one(problem, stretch):
    problem = dataclasses.replace(problem, blur=stretch * problem.blur)
    S = sinkhorn_divergence(*problem.args)
    exact = reference.divergence(problem.x, problem.y, problem.eps, problem.a, problem.b)
    assert S.converged
    assert S.error <= 1e-3 * max(S, 0.005 * problem.eps)
    assert abs(S - exact) <= S.error + 1e-11 * problem.eps


@units
def test_every_unit_of_length_gives_the_same(unit):
    x, y = np.random.default_rng(0).normal(size=(2, 20, 2)) + [[[0.0, 0.0]], [[1.0, 2.0]]]
    res, scaled = sinkhorn_velocity(x, y, 0.3), sinkhorn_velocity(x * unit, y * unit, 0.3 * unit)
    assert scaled.converged
    np.testing.assert_allclose(scaled.v / unit, res.v, rtol=1e-9)
    np.testing.assert_allclose(scaled(y * unit) / unit, res(y), rtol=1e-9)
    flow, path = (sinkhorn_flow(x * s, y * s, 0.3 * s, n_steps=2) for s in (1.0, unit))
    np.testing.assert_allclose(path.x / unit, flow.x, rtol=1e-9)
    if 1e-150 < unit < 1e150:
        assert sinkhorn_divergence(x * unit, y * unit, 0.3 * unit) / unit**2 == pytest.approx(
            sinkhorn_divergence(x, y, 0.3), rel=1e-9
        )
        np.testing.assert_allclose(scaled.potentials.f / unit**2, res.potentials.f, rtol=1e-9)
        again = sinkhorn_velocity(x * unit, y * unit, 0.3 * unit, init=scaled.potentials)
        np.testing.assert_allclose(again.v / unit, res.v, rtol=1e-2)
    else:
        for call in (lambda: sinkhorn_divergence(x * unit, y * unit), lambda: scaled.potentials):
            with pytest.raises(ValueError, match=r"does not hold.*unit"):
                call()


@pytest.mark.parametrize("unit", [1e-30, 1e-20, 1e18, 1e30])
def test_float32_has_its_units_too(unit):
    x, y = (np.random.default_rng(0).normal(size=(2, 20, 2)) + [[[0.0, 0.0]], [[1.0, 2.0]]]).astype("float32")
    res, S = sinkhorn_velocity(x, y, 0.3), sinkhorn_divergence(x, y, 0.3)
    x, y = (z * np.float32(unit) for z in (x, y))
    scaled = sinkhorn_velocity(x, y, 0.3 * unit)
    np.testing.assert_allclose(scaled.v / unit, res.v, atol=1e-4)
    assert sinkhorn_divergence(x, y, 0.3 * unit) / unit**2 == pytest.approx(S, rel=1e-5)
    if not 1e-19 < unit < 1e19:
        with pytest.raises(ValueError, match=r"float32 does not hold.*float64"):
            _ = scaled.potentials


@pytest.mark.parametrize("offsets", [(1e6, 1e6), (0.0, 1e6), (1e8, -1e6)])
def test_offsets_change_what_they_change_and_no_more(offsets):
    x, y = np.rint(2.0**20 * np.random.default_rng(0).normal(size=(2, 20, 2))) / 2.0**20
    (s, t), res = offsets, sinkhorn_velocity(x, y, 0.3)
    off = sinkhorn_velocity(x + s, y + t, 0.3)
    np.testing.assert_allclose(off.v - (t - s), res.v, atol=1e-3)
    between = y.mean(0) - x.mean(0)
    moved = sinkhorn_divergence(x, y, 0.3) + 0.5 * np.sum((between + t - s) ** 2 - between**2)
    assert sinkhorn_divergence(x + s, y + t, 0.3) == pytest.approx(moved, rel=1e-6)


@pytest.mark.parametrize("far", [1e2, 1e4, 1e6, 1e8, 1e10, 1e12, 1e15])
def test_a_common_row_changes_nothing_wherever_it_is(far):
    x, y = np.random.default_rng(1).normal(size=(2, 20, 2)) + [[[0.0, 0.0]], [[1.0, 1.0]]]
    S, near = (sinkhorn_divergence(*(np.vstack([z, [r, r]]) for z in (x, y)), 0.3) for r in (far, 50.0))
    assert S.converged
    assert pytest.approx(near, abs=S.error + near.error) == S


@pytest.mark.parametrize("blur", [1e-3, 0.3, 1e3])
@pytest.mark.parametrize("far", [1e3, 1e6, 1e9, 1e13])
def test_a_far_row_in_one_cloud_is_right_or_flagged(far, blur):
    x, y = np.random.default_rng(1).normal(size=(2, 20, 2))
    y[0] = far
    S = quietly(sinkhorn_divergence, x, y, blur)
    half_W2 = 0.5 * ot.emd2([], [], ot.dist(x, y))
    between = 0.5 * np.sum((x.mean(0) - y.mean(0)) ** 2)
    if S.converged:
        assert between * (1 - 1e-3) - S.error <= S <= half_W2 * (1 + 1e-3) + S.error


@dtypes
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (1, 5, 3), (4, 1, 1), (5, 5, 1000)])
def test_small_and_wide_clouds_are_right_in_every_dtype(n, m, d, dtype):
    rng = np.random.default_rng(0)
    x, y = rng.integers(-3, 4, size=(n, d)), rng.integers(-3, 4, size=(m, d))
    S, asked = sinkhorn_divergence(x, y, 1e6), sinkhorn_divergence(x.astype(dtype), y.astype(dtype), 1e6)
    assert pytest.approx(0.5 * np.sum((x.mean(0) - y.mean(0)) ** 2), rel=1e-6, abs=1e-6) == S
    assert asked == pytest.approx(S, rel=1e-6)
    for blur in (1e-3, 0.3):
        res = quietly(sinkhorn_velocity, x.astype(dtype), y.astype(dtype), blur)
        assert np.isfinite(res.v).all()
        assert abs(res.v.mean(0) - (y.mean(0) - x.mean(0))).max() < 1e-2


def test_weights_near_zero_are_as_good_as_zero():
    x, y = np.random.default_rng(0).normal(size=(2, 8, 2))
    S = [sinkhorn_divergence(x, y, 0.5, np.r_[w, np.ones(7)]) for w in (0.0, 1e-300, 1e-30)]
    assert pytest.approx([S[0]] * 3, rel=1e-3) == S
    assert all(s.converged for s in S)


def test_zero_spread_at_any_offset():
    x = np.full((5, 2), 0.1)
    for c in (0.0, 0.1, 1e8):
        S = sinkhorn_divergence(x + c, x[:3] + c)
        assert S <= S.error <= 1e-12
        assert sinkhorn_divergence(x + c, x[:3] + c + 1.0) == pytest.approx(1.0, rel=1e-7)


def test_a_blur_that_the_data_do_not_resolve_is_refused():
    x = np.random.default_rng(0).normal(size=(5, 2))
    for function in (sinkhorn_velocity, sinkhorn_divergence, sinkhorn_flow):
        with pytest.raises(ValueError, match=r"blur=1e-30 is too small a length against data up to .*Raise blur"):
            function(x, x, 1e-30)


def test_a_divergence_is_a_float_with_its_certificate():
    x, y = np.random.default_rng(0).normal(size=(2, 20, 2))
    S = sinkhorn_divergence(x, y)
    again = pickle.loads(pickle.dumps(S))
    assert (again, again.error, again.converged) == (S, S.error, True)
    assert type(S + 1) is float
    with pytest.warns(ConvergenceWarning):
        assert not sinkhorn_divergence(*hard_problem(), solver=POT(tol=1e-9, max_iter=3)).converged


def test_error_and_flag_of_a_velocity_agree():
    x = np.random.default_rng(0).normal(size=(60, 2))
    for y in (x, x[::-1], x + 1e-9, 1.001 * x):
        for blur in (0.1, 1.0, 1e3):
            res = quietly(sinkhorn_velocity, x, y, blur)
            assert res.converged == (res.error <= 1e-3)


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
