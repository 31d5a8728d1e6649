"""The pool: rows that belong together, in memory and on disk, straight lines, and how it is filled."""

import numpy as np
import pytest
from common import full_disk, samples
from tolerances import FLOAT32

from nsgf import Sinkhorn, Training, TrajectoryPool, minibatches, pool
from nsgf.flow import flow_steps
from nsgf.minibatches import Problem, Side
from nsgf.pool import Lines, Scheme


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
    for made in pools:
        made.certify(0.25, False)
        made.renew(0.5, x, v)
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
    with full_disk(100_000), pytest.raises(OSError, match="no room for .* bytes of the pool"):
        TrajectoryPool(100_000, 3, tmp_path)
    assert list(tmp_path.iterdir()) == []


# %% Straight lines


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
    np.testing.assert_allclose(x_t - t[:, None] * u, starts[nearest], atol=FLOAT32)
    np.testing.assert_allclose(u, shifts[nearest], atol=FLOAT32)
    assert 0 <= t.min() < 0.1 < 0.9 < t.max() < 1


# %% How it is filled


def drawn(seed=0):
    x, y = samples(60)
    return minibatches.plain(Side(x), Side(y), 20, np.random.default_rng(seed))


SCHEME = Scheme.descent(0.8, 3, 0.5, Sinkhorn(tol=1e-6), "cpu")


def test_a_filled_pool_holds_the_steps_of_each_flow():
    filled = pool.fill(drawn(), SCHEME, 2, Training())
    t, x, v = (z.reshape(2, 3, 20, -1) for z in filled.pool.rows)
    np.testing.assert_array_equal(t[0, :, 0, 0], np.float32([0, 1 / 3, 2 / 3]))
    np.testing.assert_allclose(x[:, 1:], x[:, :-1] + 0.5 * v[:, :-1], atol=FLOAT32)
    first = next(drawn())[0]
    np.testing.assert_allclose(x[0, 0], first.x, atol=1e-6)
    for (x_k, res), v_k in zip(SCHEME.follow(first), v[0], strict=True):
        np.testing.assert_allclose(res(x_k), v_k, atol=1e-4)  # there both flows are solved at once


def apart():
    return [next(drawn(seed)) for seed in (7, 8)]


def test_the_flows_held_out_are_not_in_the_pool():
    filled = pool.fill(drawn(), SCHEME, 2, Training(), apart=apart())
    for (p, steps), (wanted,) in zip(filled.held_out, apart(), strict=True):
        np.testing.assert_array_equal(p.x, wanted.x)
        np.testing.assert_allclose(steps[1][0], wanted.x + 0.5 * steps[0][1].v)
    assert len(filled.pool) == 2 * 3 * 20
    assert len(filled.examples) == 2 * 3


@pytest.mark.parametrize("n_kept", [0, 1, 2])
def test_a_pool_that_was_cut_short_is_completed_to_the_same_draws(tmp_path, n_kept):
    def fill(directory):
        return pool.fill(drawn(), SCHEME, 2, Training(directory=directory), apart=apart())

    whole, part = fill(tmp_path / "whole"), fill(tmp_path / "part")
    part.pool.keep(n_kept * 3 * 20)
    again = fill(tmp_path / "part")
    for one, other in zip(again.pool.rows, whole.pool.rows, strict=True):
        np.testing.assert_array_equal(one, other)
    for (p, _), (q, _) in zip(again.held_out, whole.held_out, strict=True):
        np.testing.assert_array_equal(p.x, q.x)


def test_a_refill_replaces_the_oldest_flow_every_so_many_draws():
    filled, rng = pool.fill(drawn(), SCHEME, 2, Training(refill_every=3)), np.random.default_rng(0)
    before = [z.copy() for z in filled.pool.rows]
    for n_draws in range(1, 8):
        filled.velocities(5, rng)
        blocks = (filled.pool.rows[1] != before[1]).reshape(2, -1).any(axis=1).tolist()
        assert blocks == [True, n_draws > 3]


def test_a_course_goes_the_whole_way_at_constant_speed():
    scheme = Scheme.course(0.05, 4, Sinkhorn(tol=1e-6), "cpu")
    x, _ = samples(30)
    problem = Problem(x, x + [3.0, 0.0], span=(0.5, 1.0))
    examples = scheme.examples(problem, scheme.follow(problem))
    assert [t for (_, t), _ in examples] == [0.5, 0.625, 0.75, 0.875]
    for _, v in examples:
        np.testing.assert_allclose(v, np.broadcast_to([3.0, 0.0], x.shape), atol=1e-3)
