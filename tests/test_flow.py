"""The particle flow, its pool, the integrators, and the gap between minibatches."""

import math

import numpy as np
import ot
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import expm

from nsgf import (
    POT,
    Sinkhorn,
    TrajectoryPool,
    datasets,
    metrics,
    ode,
    sinkhorn_divergence,
    sinkhorn_flow,
    sinkhorn_velocity,
)
from nsgf.diagnostics import minibatch_gap
from nsgf.flow import flow_steps
from nsgf.pool import Lines


def clouds(n=60, m=80, seed=0):
    rng = np.random.default_rng(seed)
    return datasets.gaussian(n, rng), datasets.moons(m, rng)


def test_each_step_is_the_euler_step_along_the_velocity_there():
    x, y = clouds()
    tight = POT(method="auto", tol=1e-9)
    path = sinkhorn_flow(x, y, blur=0.8, n_steps=3, step_size=0.5, solver=tight)
    for k in range(3):
        np.testing.assert_allclose(path.x[k + 1], path.x[k] + 0.5 * path.v[k], atol=1e-12)
        np.testing.assert_allclose(path.v[k], sinkhorn_velocity(path.x[k], y, 0.8, solver=tight).v, atol=1e-6)
    np.testing.assert_array_equal(path.t, [0, 1 / 3, 2 / 3, 1])
    assert path.converged


def test_the_divergence_falls_along_the_flow():
    x, y = clouds()
    path = sinkhorn_flow(x, y, blur=0.5, n_steps=6, step_size=0.5)
    values = [sinkhorn_divergence(x_k, y, blur=0.5) for x_k in path.x]
    assert all(later < earlier for earlier, later in zip(values[:-1], values[1:], strict=True))


@pytest.mark.parametrize("solver", [POT(method="auto"), Sinkhorn()], ids=["POT", "Sinkhorn"])
def test_a_warm_start_spares_iterations(solver):
    rng = np.random.default_rng(0)
    x, y = datasets.eight_gaussians(200, rng), datasets.moons(200, rng)
    steps = list(flow_steps(x, y, 0.6, 5, 0.3, solver))
    cold = [sinkhorn_velocity(x_k, y, 0.6, solver=solver) for x_k, _ in steps]
    assert sum(res.potentials.n_iter for _, res in steps[1:]) < 0.7 * sum(res.potentials.n_iter for res in cold[1:])


@pytest.mark.parametrize(("n_steps", "step_size"), [(0, 1.0), (1.5, 1.0), (3, 0.0), (3, -1.0), (3, math.nan), (3, "1")])
def test_a_scheme_that_is_none_is_refused(n_steps, step_size):
    with pytest.raises(ValueError, match="n_steps=|step_size="):
        sinkhorn_flow(*clouds(), n_steps=n_steps, step_size=step_size)


def test_minibatches_of_one_law_come_closer_as_they_grow():
    def gap(n):
        steps = [flow_steps(*clouds(n, n, seed), 1.0, 3, 1.0, POT(method="auto")) for seed in (1, 2)]
        return minibatch_gap(*steps)

    assert gap(400) < 0.7 * gap(50)


def test_a_minibatch_is_at_no_distance_from_itself():
    steps = list(flow_steps(*clouds(), 1.0, 2, 1.0, POT(method="auto")))
    assert minibatch_gap(steps, steps) < 1e-9


def test_the_pool_draws_rows_that_belong_together():
    pool, rng = TrajectoryPool(10, 1), np.random.default_rng(0)
    for t in (0.0, 1.0):
        x = rng.normal(size=(5, 1))
        pool.renew(t, x, 2 * x + t)
    t, x, v = pool.draw(1000, rng)
    np.testing.assert_allclose(v[:, 0], 2 * x[:, 0] + t, rtol=1e-6)
    assert len(np.unique(x)) == 10 == len(pool)


def test_a_full_pool_renews_its_oldest_rows():
    pool = TrajectoryPool(4, 1)
    for value in range(3):
        pool.renew(value, np.full((2, 1), value), np.zeros((2, 1)))
    assert sorted(pool.rows[0].tolist()) == [1, 1, 2, 2]
    assert len(pool) == 4


def test_a_pool_on_disk_has_the_rows_of_one_in_memory_to_half_precision_and_opens_again(tmp_path):
    rng, pools = np.random.default_rng(0), (TrajectoryPool(10, 3), TrajectoryPool(10, 3, tmp_path))
    x, v = rng.normal(size=(2, 6, 3))
    for pool in pools:
        pool.certify(0.25, False)
        pool.renew(0.5, x, v)
    again = TrajectoryPool(10, 3, tmp_path)
    assert (len(again), again.error, again.converged) == (6, 0.25, False)
    for kept, exact in zip(again.rows, pools[0].rows, strict=True):
        np.testing.assert_allclose(kept, exact, rtol=1e-3, atol=1e-6)
    assert {part.dtype for part in again.draw(4, rng)} == {np.dtype(np.float32)}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 10 * 7 * 2 + 4 * 200
    with pytest.raises(ValueError, match="the pool of another run. Choose another directory"):
        TrajectoryPool(20, 3, tmp_path)
    (tmp_path / "x.npy").unlink()
    assert len(TrajectoryPool(10, 3, tmp_path)) == 0


def test_a_pool_over_its_budget_says_what_to_do():
    with pytest.raises(ValueError, match=r"takes 28,000 bytes.*pool_bytes leaves 10,000.*n_batches to 0\.36"):
        TrajectoryPool(1000, 3, max_bytes=10_000)


def test_a_disk_without_room_for_the_pool_says_so_and_keeps_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a file cannot grow further, as on a full disk
    try:
        with pytest.raises(OSError, match="no room for .* bytes of the pool"):
            TrajectoryPool(100_000, 3, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("solver", [POT(), Sinkhorn(tol=1e-4)], ids=["POT", "Sinkhorn"])
def test_partners_are_drawn_from_the_plan(solver):
    rng, n_draws = np.random.default_rng(0), 4000
    x, y = clouds(6, 5)
    a, b = np.arange(1.0, 7.0) / 21, np.array([0.1, 0.4, 0.0, 0.3, 0.2])
    res = sinkhorn_velocity(x, y, 1.5, a, b, solver)
    found = np.stack([res.partners(rng) for _ in range(n_draws)])  # (n_draws, 6, 2)
    share = np.all(np.isclose(found[:, :, None], y), axis=3).mean(axis=0)  # (6, 5)
    plan = ot.sinkhorn(a, b, ot.dist(x, y), 2 * 1.5**2, stopThr=1e-12)  # POT's cost is |x − y|²
    assert np.abs(share - plan / a[:, None]).max() < 4 * 0.5 / n_draws**0.5
    np.testing.assert_allclose(share.sum(axis=1), 1.0)


@pytest.mark.parametrize("n_flows", [None, 3])
def test_lines_join_translated_clouds_point_by_point(n_flows):
    rng = np.random.default_rng(0)
    x = np.stack(np.meshgrid(np.arange(8.0), np.arange(5.0)), axis=-1).reshape(40, 2)  # well apart
    x = x + 0.1 * rng.normal(size=(40, 2) if n_flows is None else (n_flows, 40, 2))
    shift = np.array([5.0, -1.0]) if n_flows is None else rng.normal(size=(n_flows, 1, 2))
    ((_, res),) = flow_steps(x, x + shift, 0.05, 1, 1.0, Sinkhorn(tol=1e-6))
    lines = Lines(TrajectoryPool(x.size // 2, 2), rng)
    lines.add(x, res)
    (x_t, t), u = lines.draw(500, rng)
    starts, shifts = x.reshape(-1, 2), np.broadcast_to(shift, x.shape).reshape(-1, 2)
    nearest = np.argmin(np.linalg.norm((x_t - t[:, None] * u)[:, None] - starts, axis=2), axis=1)
    np.testing.assert_allclose(x_t - t[:, None] * u, starts[nearest], atol=1e-5)
    np.testing.assert_allclose(u, shifts[nearest], atol=1e-5)
    assert 0 <= t.min() < 0.1 < 0.9 < t.max() < 1


def test_lines_that_go_on_are_those_of_an_unbroken_run(tmp_path):
    steps = [next(flow_steps(*clouds(20, 20, seed), 1.0, 1, 1.0, Sinkhorn())) for seed in range(3)]
    unbroken = Lines(TrajectoryPool(60, 2), np.random.default_rng(0))
    for step in steps:
        unbroken.add(*step)
    broken = Lines(TrajectoryPool(60, 2, tmp_path), np.random.default_rng(0))
    for step in steps[:2]:
        broken.add(*step)
    again = Lines(TrajectoryPool(60, 2, tmp_path), np.random.default_rng(0))
    again.go_on_from(20)  # the second flow was cut short
    for step in steps[1:]:
        again.add(*step)
    assert len(again) == 60
    for one, other in zip(*(lines.draw(200, np.random.default_rng(1)) for lines in (unbroken, again)), strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=5e-3)


@given(
    step=st.sampled_from(list(ode.STEPS.values())),
    tau=arrays(float, 4, elements=st.floats(0, 1)),
    seed=st.integers(0, 99),
)
def test_points_with_times_of_their_own_move_as_each_would_alone(step, tau, seed):
    rng = np.random.default_rng(seed)
    A, x = rng.normal(size=(2, 2)), rng.normal(size=(4, 2))
    field = lambda x, t: x @ A.T + np.multiply.outer(np.cos(t), np.ones(2))  # noqa: E731
    together = ode.integrate(field, x, np.linspace(tau, 1.0, 5), step)
    alone = [
        ode.integrate(field, z[None], np.linspace(s, 1.0, 5).tolist(), step)[0] for z, s in zip(x, tau, strict=True)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-10, atol=1e-12)


def test_sampling_from_times_of_their_own_is_exact_on_a_linear_field():
    rng = np.random.default_rng(0)
    A, x, tau = rng.normal(size=(3, 3)), rng.normal(size=(6, 3)), rng.uniform(size=6)
    exact = np.stack([expm((1 - s) * A) @ z for z, s in zip(x, tau, strict=True)])
    got = ode.integrate(lambda x, t: x @ A.T, x, np.linspace(tau, 1.0, 51), ode.rk4)
    np.testing.assert_allclose(got, exact, atol=1e-7)


@given(order=st.sampled_from([(ode.euler, 1), (ode.midpoint, 2), (ode.heun, 2), (ode.rk4, 4)]), rate=st.floats(-2, 2))
def test_integrators_converge_at_their_order(order, rate):
    step, p = order
    field = lambda x, t: rate * x + t  # noqa: E731

    def at_one(n):
        return ode.integrate(field, 1.0, [k / n for k in range(n + 1)], step)

    exact = at_one(2048) if p == 1 else at_one(512)
    coarse, fine = abs(at_one(8) - exact), abs(at_one(32) - exact)
    assert coarse < 1e-9 or fine < coarse / 4 ** (p - 0.5)


@pytest.mark.parametrize("step", ode.STEPS.values())
def test_a_step_counts_its_function_evaluations(step):
    calls = []
    ode.integrate(lambda x, t: calls.append(t) or 0.0, 1.0, [0.0, 0.5, 1.0], step)
    assert len(calls) == 2 * ode.NFE[step]


@pytest.mark.parametrize(
    "draw", [datasets.gaussian, datasets.eight_gaussians, datasets.moons, datasets.s_curve, datasets.checkerboard]
)
def test_toys_repeat_with_their_generator_and_nothing_else(draw):
    first, again, other = (draw(50, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.shape == (50, 2)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_the_checkerboard_leaves_its_light_squares_empty():
    x = datasets.checkerboard(4000, np.random.default_rng(0))
    column, row = np.floor(x / 2).astype(int).T
    assert len(np.unique(column * 10 + row)) == 8
    assert np.unique((column + row) % 2).size == 1


def test_metrics_agree_with_their_closed_forms():
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(200, 3)), np.array([3.0, 0.0, 4.0])
    assert metrics.wasserstein(x, x + c) == pytest.approx(5.0)
    assert metrics.wasserstein(1e8 * x, 1e8 * (x + c)) == pytest.approx(5e8)
    assert metrics.wasserstein(x, x) == pytest.approx(0.0, abs=1e-7)
    line, moved = np.array([[0.0], [1.0], [5.0]]), np.array([[7.0], [2.0], [3.0]])
    assert metrics.wasserstein(line, moved) == pytest.approx(
        math.sqrt(np.mean((np.sort(line, 0) - np.sort(moved, 0)) ** 2))
    )
    assert metrics.mmd(x, x) == pytest.approx(0.0, abs=1e-7)
    assert metrics.mmd(x[:, :1] * 0, x[:, :1] * 0 + 1.0, lengths=(1.0,)) == pytest.approx(
        math.sqrt(2 - 2 * math.exp(-0.5))
    )
    assert metrics.energy_distance(np.zeros((2, 3)), np.tile(c, (3, 1))) == pytest.approx(math.sqrt(10))


def test_energy_distance_agrees_with_scipy_in_one_dimension():
    from scipy.stats import energy_distance

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=100), rng.normal(size=80) + 1
    assert metrics.energy_distance(x[:, None], y[:, None]) == pytest.approx(energy_distance(x, y))
