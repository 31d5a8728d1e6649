"""Laws of the self term: of the particles themselves, and of an independent batch of their law."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from common import dtypes
from hypothesis import assume, given, strategies as st
from scipy.optimize import linear_sum_assignment
from strategies import cloud, costly, coupled_problems, problems, rotations, seeds
from tolerances import TIGHT, rounding, solver_limited
from velocities import assert_same_velocity, mean_distance, quietly

from nsgf import POT, Sinkhorn, sinkhorn_velocities, sinkhorn_velocity
from nsgf.twins import twin_velocities


@dataclasses.dataclass(frozen=True)
class Apart:
    """A problem with an independent batch for its self term, and the weights of that."""

    problem: object
    x_self: np.ndarray
    a_self: np.ndarray

    def to(self, dtype):
        """Round the arrays to a dtype."""
        return Apart(self.problem.to(dtype), self.x_self.astype(dtype), self.a_self.astype(dtype))

    def map(self, transform):
        """Move all clouds by one transform of space."""
        return dataclasses.replace(self, problem=self.problem.map(transform), x_self=transform(self.x_self))

    def velocity(self, **options):
        """Solve as tightly as the dtype allows."""
        own = {"x_self": self.x_self, "a_self": self.a_self, "solver": TIGHT[self.x_self.dtype.name]}
        return quietly(sinkhorn_velocity, *self.problem.args, **{**own, **options})


@st.composite
def batches(draw, kind=problems):
    """Draw a problem with a batch of 1 to 15 points."""
    problem, rng, k = draw(kind()), np.random.default_rng(draw(seeds)), draw(st.integers(1, 15))
    a_self = rng.uniform(0.2, 1.0, k)
    return Apart(problem, cloud(rng, k, problem.x.shape[1]), a_self / a_self.sum())


# %% What the field of one batch and that of two do where both clouds have one law


def inward(n, d, blur, seed, n_batches=400):
    """Yield ⟨v, x − m⟩ of many batches of a law with mean m, averaged over the particles: by one batch, and by two."""
    rng = np.random.default_rng(seed)
    scale, mean = rng.uniform(0.5, 1.5, d), rng.normal(size=d)
    x, y, z = mean + scale * rng.normal(size=(3, n_batches, n, d))
    for xs_self in (None, z):
        found = sinkhorn_velocities(x, y, blur * np.linalg.norm(scale), solver=Sinkhorn(tol=1e-2), xs_self=xs_self)
        yield np.array([np.mean(np.sum(res.v * (x_k - mean), axis=1)) for res, x_k in zip(found, x, strict=True)])


@pytest.mark.parametrize("blur", [0.05, 0.15, 0.5, 5.0])
@pytest.mark.parametrize(("n", "d"), [(1, 3), (8, 2), (16, 32), (64, 8)])
def test_two_batches_of_one_law_do_not_move_it_and_one_pulls_it_inwards(n, d, blur):
    one, two = inward(n, d, blur, seed=n + d)
    assert abs(two.mean()) <= 3.5 * two.std() / len(two) ** 0.5
    assert one.mean() < -5 * one.std() / len(one) ** 0.5


@costly
@given(seed=seeds, n=st.integers(2, 6), d=st.integers(1, 6))
def test_without_blur_one_batch_pulls_inwards_by_half_the_squared_distance_of_two_samples(seed, n, d):
    x, y = np.random.default_rng(seed).normal(size=(2, n, d))
    pairs = 0.5 * np.sum((x[:, None] - y) ** 2, axis=2)
    least = pairs[linear_sum_assignment(pairs)].mean()  # ½ W₂²
    res = quietly(sinkhorn_velocity, x, y, 0.02, solver=Sinkhorn(tol=1e-4, max_iter=20_000))
    assume(res.converged)
    pull = np.mean(np.sum(res.v * x, axis=1))
    squares = 0.5 * np.mean(np.sum(y**2 - x**2, axis=1))  # zero in the mean over batches of one law
    # Both plans cost at most ε log n more than the cheapest ones.
    assert abs(pull - (squares - least)) <= 2 * 0.02**2 * np.log(n) + 1e-2 * np.sum(
        np.std(x, 0) ** 2 + np.std(y, 0) ** 2
    )


@given(problem=coupled_problems())
def test_one_batch_pulls_by_the_difference_of_two_transport_costs(problem):
    x, y, _, a, b = problem.args
    f, g = reference.potentials(x, y, problem.eps, a, b)
    own = reference.self_potential(x, problem.eps, a)

    def transport(x, y, f, g, a, b):
        C = reference.cost(x, y)
        return np.sum(a[:, None] * b * np.exp((f[:, None] + g - C) / problem.eps) * C)

    squares = 0.5 * (b @ np.sum(y**2, axis=1) - a @ np.sum(x**2, axis=1))
    expected = squares - transport(x, y, f, g, a, b) + transport(x, x, own, own, a, a)
    res = quietly(sinkhorn_velocity, *problem.args, solver=TIGHT["float64"])
    far = max(np.linalg.norm(x, axis=1).max(), problem.spread)
    assert abs(a @ np.sum(res.v * x, axis=1) - expected) <= solver_limited(res.error, problem) * far + 1e-9 * far**2


@given(batch=batches())
def test_at_large_blur_two_batches_run_apart_and_one_comes_home(batch):
    p = batch.problem
    size = max(np.abs(z).max() for z in (p.x, p.y, batch.x_self))
    res = sinkhorn_velocity(p.x, p.y, 1e6 * size, p.a, p.b, x_self=batch.x_self, a_self=batch.a_self)
    expected = p.b @ p.y - batch.a_self @ batch.x_self  # wherever x is: nothing but y − x′ moves it
    assert np.max(np.abs(res.v - expected)) <= 10 * res.error * size + 1e-9 * size


# %% Laws of the velocity


@dtypes
@given(batch=batches(coupled_problems))
def test_both_terms_are_those_of_the_reference(batch, dtype):
    p, eps = batch.problem, batch.problem.eps
    _, g = reference.potentials(p.x, p.y, eps, p.a, p.b)
    _, g_self = reference.potentials(p.x, batch.x_self, eps, p.a, batch.a_self)
    z = np.vstack([p.x, p.y])
    v = reference.barycentric_map(z, p.y, g, eps, p.b) - reference.barycentric_map(
        z, batch.x_self, g_self, eps, batch.a_self
    )
    batch = batch.to(dtype)
    res = batch.velocity()
    assert_same_velocity(res, v[: len(p.x)], batch.problem)
    assert mean_distance(res(z.astype(dtype)), v, np.full(len(z), 1 / len(z))) <= 10 * solver_limited(
        res.error, batch.problem
    ) + 100 * rounding(batch.problem.x, batch.problem.y)


@dtypes
@given(problem=problems())
def test_the_particles_themselves_as_the_batch_are_the_default(problem, dtype):
    problem = problem.to(dtype)
    res = quietly(sinkhorn_velocity, *problem.args, solver=TIGHT[dtype])
    same = Apart(problem, problem.x, problem.a).velocity()
    assert_same_velocity(same, res.v, problem, error=res.error)


@dtypes
@given(problem=problems())
def test_the_targets_as_the_batch_leave_nothing_to_move(problem, dtype):
    problem = problem.to(dtype)
    res = Apart(problem, problem.y, problem.b).velocity()
    assert np.max(np.abs(res.v)) <= rounding(problem.x, problem.y)


@dtypes
@given(batch=batches())
def test_mean_velocity_is_from_the_mean_of_the_batch_to_that_of_the_targets(batch, dtype):
    batch = batch.to(dtype)
    res, p = batch.velocity(), batch.problem
    lag = p.a @ res.v - (p.b @ p.y - batch.a_self @ batch.x_self)
    assert np.linalg.norm(lag) <= solver_limited(res.error, p) + rounding(batch.x_self)


@dtypes
@given(batch=batches(), data=st.data(), seed=seeds)
def test_rotations_translations_and_permutations(batch, data, seed, dtype):
    p, rng = batch.problem, np.random.default_rng(seed)
    Q, c = data.draw(rotations(p.x.shape[1])), 10 * p.spread * rng.normal(size=p.x.shape[1])
    i, j, k = (rng.permutation(len(z)) for z in (p.x, p.y, batch.x_self))
    moved = batch.map(lambda x: x @ Q + c)
    q = moved.problem
    q = dataclasses.replace(q, x=q.x[i], y=q.y[j], a=q.a[i], b=q.b[j])
    moved = Apart(q, moved.x_self[k], batch.a_self[k]).to(dtype)
    res, moved_res = batch.to(dtype).velocity(), moved.velocity()
    assert mean_distance(moved_res.v, (res.v @ Q)[i], moved.problem.a) <= solver_limited(
        max(res.error, moved_res.error), moved.problem
    ) + rounding(moved.x_self)


@dtypes
@costly
@given(batch=batches(), exponent=st.floats(-8, 8))
def test_scale_equivariance(batch, exponent, dtype):
    scale = 10.0**exponent
    scaled = batch.map(lambda x: x * scale)
    scaled = dataclasses.replace(scaled, problem=dataclasses.replace(scaled.problem, blur=batch.problem.blur * scale))
    res, scaled_res = batch.to(dtype).velocity(), scaled.to(dtype).velocity()
    p = scaled.to(dtype).problem
    assert mean_distance(scaled_res.v, res.v.astype(np.float64) * scale, p.a) <= solver_limited(
        max(res.error, scaled_res.error), p
    ) + rounding(scaled.to(dtype).x_self)


@dtypes
@pytest.mark.parametrize("size", [1, 50, 300])
@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-6])
def test_errors_are_within_the_certificate(size, tol, dtype):
    rng = np.random.default_rng(0)
    x, y, z = (rng.normal(size=(n, 3)).astype(dtype) for n in (200, 200, size))
    res = sinkhorn_velocity(x, y + 0.5, 0.3, x_self=z, solver=Sinkhorn(tol=tol))
    exact = sinkhorn_velocity(*(w.astype(np.float64) for w in (x, y + 0.5)), 0.3, x_self=z, solver=Sinkhorn(tol=1e-9))
    v = exact.v
    assert res.converged
    assert np.linalg.norm(res.v - v) <= 10 * res.error * np.linalg.norm(v)
    assert np.linalg.norm(res(x) - v) <= 10 * res.error * np.linalg.norm(v) + 1e-5
    assert res.error <= tol
    assert res.v.dtype == dtype


def test_far_points_lose_no_digits():
    x, y, z = np.rint(2.0**10 * np.random.default_rng(0).normal(size=(3, 30, 2))) / 2.0**10
    near, off = (sinkhorn_velocity(x + c, y + c, 0.5, x_self=z + c, solver=Sinkhorn(tol=1e-9)) for c in (0, 2.0**40))
    assert np.allclose(off.v, near.v, rtol=0, atol=1e-8)
    assert np.allclose(off(y + 2.0**40), near(y), rtol=0, atol=1e-8)


def test_an_unconverged_self_term_is_told_of():
    x, y, z = np.random.default_rng(0).normal(size=(3, 20, 2))
    with pytest.raises(RuntimeError, match="Raise max_iter"):
        sinkhorn_velocity(x, y, 0.2, x_self=z, solver=Sinkhorn(max_iter=3, on_unconverged="raise"))


# %% What is a batch, and what is not


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_libraries(make):
    x, y, z = np.random.default_rng(0).normal(size=(3, 30, 2))
    res = sinkhorn_velocity(make(x), make(y), 0.5, x_self=make(z))
    assert type(res.v) is type(make(x))
    assert np.allclose(np.asarray(res.v), sinkhorn_velocity(x, y, 0.5, x_self=z).v, atol=1e-2)
    assert np.allclose(np.asarray(res(make(x))), np.asarray(res.v), atol=1e-2)


@pytest.mark.parametrize("dtypes_of", [("float32", "float32", "float64"), ("float32", "float64", "float32")])
def test_a_batch_of_another_dtype_is_one(dtypes_of):
    x, y, z = (w.astype(t) for w, t in zip(np.random.default_rng(0).normal(size=(3, 30, 2)), dtypes_of, strict=True))
    assert sinkhorn_velocity(x, y, 0.5, x_self=z).v.dtype == x.dtype


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"x_self": np.zeros((3, 5))}, ValueError, "x has 2 features but x_self has 5"),
        ({"x_self": np.full((3, 2), np.nan)}, ValueError, "x_self contains NaN"),
        ({"x_self": np.zeros((0, 2))}, ValueError, "x_self is empty"),
        ({"x_self": np.zeros(2)}, ValueError, "x_self has shape"),
        ({"x_self": torch.zeros(3, 2)}, TypeError, "x is a numpy array but x_self is a torch array"),
        ({"x_self": np.zeros((3, 2)), "a_self": [1.0]}, ValueError, "a_self has shape"),
        ({"x_self": np.zeros((2, 2)), "a_self": [-1.0, 1.0]}, ValueError, "a_self must be finite"),
        ({"a_self": [1.0]}, ValueError, "a_self weighs the rows of x_self, which is None"),
    ],
)
def test_what_is_no_batch_is_refused_by_name(given, error, says):
    x, y = np.random.default_rng(0).normal(size=(2, 4, 2))
    with pytest.raises(error, match=says):
        sinkhorn_velocity(x, y, 0.5, **given)


def test_data_frames_have_their_columns_in_one_order():
    x, y, z = (pd.DataFrame(w, columns=["p", "q"]) for w in np.random.default_rng(0).normal(size=(3, 10, 2)))
    assert sinkhorn_velocity(x, y, 0.5, x_self=z).columns == ["p", "q"]
    with pytest.raises(ValueError, match=r"x and x_self have different columns"):
        sinkhorn_velocity(x, y, 0.5, x_self=z[["q", "p"]])


# %% Stacks


@dtypes
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_each_of_many_is_as_if_solved_alone(dtype, library):
    rng, sizes = np.random.default_rng(0), [40, 40, None, 40, 17, None, 40]
    xs, ys = rng.normal(size=(2, 7, 40, 2)).astype(dtype)
    zs = [None if k is None else rng.normal(size=(k, 2)).astype(dtype) for k in sizes]
    weights = [None] * 6 + [rng.uniform(0.5, 1.0, 40).astype(dtype)]
    if library == "torch":
        xs, ys, zs = torch.as_tensor(xs), torch.as_tensor(ys), [z if z is None else torch.as_tensor(z) for z in zs]
    found = sinkhorn_velocities(xs, ys, 0.5, xs_self=zs, a_self=weights, solver=Sinkhorn(tol=1e-4))
    for x, y, z, w, res in zip(xs, ys, zs, weights, found, strict=True):
        alone = sinkhorn_velocity(x, y, 0.5, x_self=z, a_self=w, solver=Sinkhorn(tol=1e-4))
        assert res.converged
        assert np.allclose(np.asarray(res.v), np.asarray(alone.v), atol=2e-3)
        assert np.allclose(np.asarray(res(x)), np.asarray(alone.v), atol=2e-3)


# %% Twins


@dtypes
@pytest.mark.parametrize("solver", [Sinkhorn(tol=1e-2), Sinkhorn(tol=1e-4), POT(tol=1e-6)])
@pytest.mark.parametrize("sizes", [(30, 30, 30, 30), (30, 20, 30, 10), (1, 1, 1, 1), (20, 20, 40, 40)])
def test_twins_are_two_velocities_that_have_each_other_as_the_batch(sizes, solver, dtype):
    rng = np.random.default_rng(0)
    x, z, y, w = (rng.normal(size=(n, 3)).astype(dtype) + k for n, k in zip(sizes, (0, 0, 1, 1), strict=True))
    twins = twin_velocities(x, z, y, w, 0.5, solver)
    tight = Sinkhorn(tol=1e-5)
    for v, res in (
        (twins.v, sinkhorn_velocity(x, y, 0.5, x_self=z, solver=tight)),
        (twins.v_other, sinkhorn_velocity(z, w, 0.5, x_self=x, solver=tight)),
    ):
        assert v.dtype == dtype
        assert np.linalg.norm(v - res.v) <= 10 * (twins.error + res.error) * np.linalg.norm(res.v)
    assert twins.converged
    assert twins.error <= solver.tol


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_stacks_of_twins_are_twins_each(library):
    rng = np.random.default_rng(0)
    clouds = rng.normal(size=(4, 2, 3, 24, 2)).astype(np.float32) + np.arange(3, dtype=np.float32)[:, None, None]
    given = [torch.as_tensor(z) for z in clouds] if library == "torch" else list(clouds)
    twins = twin_velocities(*given, 0.5, Sinkhorn(tol=1e-3))
    assert twins.v.shape == twins.v_other.shape == (2, 3, 24, 2)
    for k in np.ndindex(2, 3):
        alone = twin_velocities(*(z[k] for z in clouds), 0.5, Sinkhorn(tol=1e-3))
        assert np.allclose(np.asarray(twins.v[k]), alone.v, atol=1e-2)
        assert np.allclose(np.asarray(twins.v_other[k]), alone.v_other, atol=1e-2)


@costly
@given(seed=seeds, n=st.integers(1, 60), d=st.integers(1, 20), blur=st.floats(0.1, 2.0), far=st.floats(0.0, 3.0))
def test_errors_of_twins_are_within_their_certificate(seed, n, d, blur, far):
    x, z, y, w = np.random.default_rng(seed).normal(size=(4, n, d)).astype(np.float32)
    blur = float(blur * d**0.5)
    twins = twin_velocities(x, z, y + far, w + far, blur, Sinkhorn(tol=1e-2))
    exact = twin_velocities(*(q.astype(np.float64) for q in (x, z, y + far, w + far)), blur, Sinkhorn(tol=1e-6))
    for v, true in ((twins.v, exact.v), (twins.v_other, exact.v_other)):
        size = max(np.linalg.norm(true), 0.1 * blur * n**0.5)
        assert np.linalg.norm(v - true) <= 10 * (twins.error + exact.error) * size + n**0.5 * rounding(x, y + far)


def test_twins_that_do_not_converge_say_so():
    x, z, y, w = np.random.default_rng(0).normal(size=(4, 30, 2))
    assert not twin_velocities(x, z, y, w, 0.05, Sinkhorn(tol=1e-6, max_iter=3)).converged


@costly
@given(seed=seeds, n=st.integers(1, 12), d=st.integers(1, 5), blur=st.floats(0.1, 10.0))
def test_twins_that_follow_their_own_velocities_drift_apart_and_one_batch_comes_home(seed, n, d, blur):
    rng = np.random.default_rng(seed)
    (x, z, y, w), eta, solver = rng.normal(size=(4, n, d)), 0.3, Sinkhorn(tol=1e-4)
    twins = quietly(twin_velocities, x, z, y, w, blur * d**0.5, solver)
    one = quietly(sinkhorn_velocity, x, y, blur * d**0.5, solver=solver)
    before, after = x.mean(0) - z.mean(0), (x + eta * twins.v).mean(0) - (z + eta * twins.v_other).mean(0)
    size = sum(np.abs(q).max() for q in (x, y, z, w))
    assert np.allclose(after, (1 + eta) * before + eta * (y.mean(0) - w.mean(0)), atol=20 * twins.error * size + 1e-9)
    home = (x + eta * one.v).mean(0) - y.mean(0)
    assert np.allclose(home, (1 - eta) * (x.mean(0) - y.mean(0)), atol=10 * one.error * size + 1e-9)


@given(seed=seeds, n=st.integers(2, 8), d=st.integers(1, 4))
def test_twins_descend_what_they_cost_each_other(seed, n, d):
    rng = np.random.default_rng(seed)
    x, z, y, w, u, u_other = rng.normal(size=(6, n, d))
    blur, uniform, step = 0.7 * d**0.5, np.full(n, 1 / n), 1e-4

    def W(x, y):
        f, g = reference.potentials(x, y, blur**2, uniform, uniform)
        return f.mean() + g.mean()

    def energy(t):
        return W(x + t * u, y) + W(z + t * u_other, w) - W(x + t * u, z + t * u_other)

    twins = twin_velocities(x, z, y, w, blur, Sinkhorn(tol=1e-6))
    slope = (energy(step) - energy(-step)) / (2 * step)
    descent = np.sum(twins.v * u + twins.v_other * u_other) / n
    assert abs(slope + descent) <= 1e-5 * (np.linalg.norm(u) + np.linalg.norm(u_other)) * (1 + abs(descent))
