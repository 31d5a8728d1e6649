"""The mean field of minibatches: equivariance, the spread that it keeps, and new points that go the same way."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from nsgf import NSGF, Sinkhorn, datasets, metrics, spread
from nsgf.mean_field import _spread_keeping, mean_field_steps
from nsgf.minibatches import Problem
from nsgf.pool import together

SOLVE = Sinkhorn(tol=1e-4)


def clouds(d, seed=0, M=6, n=40):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(M, n, d)), 0.7 * rng.normal(size=(M, n, d)) + 1.0


def velocity(x, y, blur=1.0, **kinds):  # below, maps at points that are in no problem hang on the last digits
    return next(mean_field_steps(x, y, blur, [1.0], SOLVE, **kinds))[1].v


@given(seed=st.integers(0, 99), d=st.integers(1, 5))
def test_translations_and_rotations_carry_over(seed, d):
    x, y = clouds(d, seed)
    v, shift = velocity(x, y), np.full(d, 3.0)
    np.testing.assert_allclose(velocity(x, y + shift), v + shift, atol=3e-3)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    np.testing.assert_allclose(velocity(x @ turn, y @ turn), v @ turn, atol=3e-3)


def test_rows_may_come_in_any_order():
    x, y = clouds(2)
    order = np.random.default_rng(1).permutation(40)
    np.testing.assert_allclose(velocity(x[:, order], y[:, order[::-1]]), velocity(x, y)[:, order], atol=3e-3)


@given(seed=st.integers(0, 999), lam=st.floats(0.05, 0.95))
def test_the_part_of_the_self_term_is_that_which_gives_the_spread(seed, lam):
    rng = np.random.default_rng(seed)
    T, u = 0.3 * rng.normal(size=(2, 500, 3))
    y = (T + lam * u) @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 5.0
    found = _spread_keeping(T, u, y)
    assert spread(T + found * u) == pytest.approx(spread(y), rel=1e-6)


def test_nothing_is_to_be_kept_of_points():
    assert _spread_keeping(np.zeros((3, 2)), np.zeros((3, 2)), np.ones((3, 2))) == 0.0


@pytest.mark.parametrize("d", [2, 32])
def test_a_whole_step_has_the_spread_of_the_target_where_one_batch_shrinks(d):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 8, 120, d))
    *_, (z, res) = mean_field_steps(x, y, 0.15 * d**0.5, [1.0] * 3, SOLVE)
    assert res.converged
    assert spread((z + res.v).reshape(-1, d)) == pytest.approx(spread(y.reshape(-1, d)), rel=0.02)


def test_coordinates_that_are_fixed_stay():
    x, y = clouds(3)
    steps = list(mean_field_steps(x, y, 0.5, [1.0, 1.0], SOLVE, n_fixed=1))
    np.testing.assert_array_equal(steps[1][0][..., 2], x[..., 2])
    assert not np.allclose(steps[1][0][..., :2], x[..., :2])


@pytest.mark.parametrize(("n", "sizes"), [(3, [3]), (4, [4]), (20, [16, 4])])
def test_sixteen_minibatches_move_together_and_few_do_not(n, sizes):
    x, y = np.zeros((10, 2)), np.ones((10, 2))
    found = list(together([[Problem(x, y)]] * n, Sinkhorn()))
    assert [p.x.shape[0] for p in found] == sizes
    assert all(p.is_together == (n > 3) for p in found)


def test_problems_of_other_sizes_move_each_by_itself():
    ends = [(np.zeros((n, 2)), np.ones((n, 2))) for n in (5, 6, 5, 6)]
    assert not any(p.is_together for p in together([[Problem(*pair)] for pair in ends], Sinkhorn()))


def test_nsgf_keeps_the_spread_and_the_variety_in_many_dimensions():
    rng = np.random.default_rng(0)
    centres = 3.0 * rng.normal(size=(8, 24))
    seen, unseen = (centres[rng.integers(8, size=500)] + rng.normal(size=(500, 24)) for _ in range(2))

    def figures(n_batches):
        model = NSGF(n_batches=n_batches, batch_size=128, max_iter=600, random_state=0).fit(None, seen)
        made = model.sample(500)
        return spread(made) / spread(unseen), metrics.precision_recall(unseen, made).recall

    (alone, few), (kept, many) = figures(3), figures(16)
    assert abs(np.log(kept)) < abs(np.log(alone))
    assert many > few


def test_unequal_masses_arrive():
    rng = np.random.default_rng(0)
    y = np.where(rng.random((1000, 1)) < 0.9, -4.0, 4.0) + 0.3 * rng.normal(size=(1000, 2))
    x = np.stack([datasets.gaussian(128, rng) for _ in range(8)])
    *_, (z, res) = mean_field_steps(x, y[rng.integers(1000, size=(8, 128))], 0.4, [1.0] * 3, Sinkhorn(tol=1e-2))
    assert np.mean((z + res.v)[..., 0] > 0) == pytest.approx(np.mean(y[:, 0] > 0), abs=0.03)
