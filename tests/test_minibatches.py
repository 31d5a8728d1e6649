"""Minibatches: which particles are matched to which targets."""

import itertools

import numpy as np
import pytest
from common import labelled_sample, nearest_centre
from hypothesis import given, settings, strategies as st
from scipy.spatial.distance import cdist
from scipy.special import softmax
from strategies import seeds
from tolerances import FLOAT32

from nsgf import Numbers, Pairs, Sinkhorn, minibatches
from nsgf.conditions import Classes, describe
from nsgf.flow import flow_steps, stacks
from nsgf.minibatches import Side
from nsgf.sinkhorn import sinkhorn_velocity

KINDS = Classes((0, 1, 2))
few = settings(max_examples=min(15, settings.default.max_examples))


def columns(codes):
    return KINDS.columns(np.asarray(codes))


@given(seed=seeds, n=st.integers(20, 60))
@few
def test_a_labelled_flow_is_the_flow_of_each_class_by_itself(seed, n):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, n, 2)).astype(np.float32)
    own, other = (np.concatenate([np.arange(3), rng.integers(3, size=n - 3)]) for _ in range(2))
    drawn = minibatches.labelled(Side(x, own), Side(y, other), KINDS, n, np.random.default_rng(seed))
    solve = Sinkhorn(tol=1e-4)
    for p in next(drawn):
        k = int(p.c[0].argmax())
        assert {tuple(row) for row in p.x} <= {tuple(row) for row in x[own == k]}
        assert {tuple(row) for row in p.y} <= {tuple(row) for row in y[other == k]}
        assert (p.c == columns([k])).all()
    together = list(stacks(next(drawn), solve))  # stacked where sizes are equal
    alone = [sinkhorn_velocity(x_k, y_k, 0.5, solver=solve) for p in together for x_k, y_k in single(p)]
    at_once = [v for p in together for v in velocities(p, solve)]
    for v, res in zip(at_once, alone, strict=True):
        np.testing.assert_allclose(v, res.v, atol=2e-3)


def single(p):
    return zip(p.x, p.y, strict=True) if p.x.ndim == 3 else [(p.x, p.y)]


def velocities(p, solve):
    ((_, res),) = flow_steps(p.x, p.y, 0.5, 1, 1.0, solve)
    return res.v if p.x.ndim == 3 else [res.v]


@given(seed=seeds)
@few
def test_noise_is_dealt_to_classes_in_proportion(seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], [100, 200, 700])
    y = rng.normal(size=(1000, 2)).astype(np.float32)
    source = Side(scale=np.ones(2))
    (*problems,) = next(minibatches.labelled(source, Side(y, labels), KINDS, 200, rng))
    assert [len(p.x) for p in problems] == [len(p.y) for p in problems] == [20, 40, 140]
    assert abs(np.concatenate([p.x for p in problems]).mean()) < 0.5


def test_a_row_of_unknown_label_takes_that_of_its_partner_in_the_plan():
    rng = np.random.default_rng(0)
    y, names = labelled_sample(300)
    codes = np.searchsorted(["a", "b", "c"], names.astype(str))
    x, own = y + 0.05 * rng.normal(size=y.shape), codes.copy()
    own[::3] = -1
    drawn = minibatches.partly_labelled(Side(x, own), Side(y, codes), KINDS, 300, rng, blur=0.2, solve=Sinkhorn())
    problems = next(drawn)
    assert sum(len(p.x) for p in problems) > 290
    for p in problems:
        assert len(set(nearest_centre(p.x))) == 1
    assert min(int(p.c.any(axis=1).sum()) for p in problems) < len(problems[0].x)  # the network sees them as unknown


def test_continuous_conditions_lift_the_cost_and_stay():
    rng = np.random.default_rng(0)
    c = rng.uniform(-1, 1, size=(200, 1))
    y = np.concatenate([c, c**2], axis=1).astype(np.float32)
    source = Side(scale=np.ones(2))
    kinds = describe(Numbers(c, weight=10.0), "y")
    drawn = minibatches.conditioned(source, Side(y, kinds.codes(c, "y", 200)), kinds, 200, rng)
    ((p),) = next(drawn)
    first, second = flow_steps(p.x, p.y, 0.3, 2, 1.0, Sinkhorn(), n_fixed=1)
    np.testing.assert_array_equal(first[0][:, 2:], second[0][:, 2:])
    found = p.c[:, 1] * kinds.scale[0] + kinds.shift[0]
    assert np.abs(second[0][:, 0] - found).mean() < 0.1 * np.abs(c).mean()


def test_places_among_pairs_do_not_change_with_the_space():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    r_x, r_y = minibatches.relations(x, 5.0 * x @ turn + 1.0, np.repeat(np.arange(10)[:, None], 2, axis=1))
    np.testing.assert_allclose(r_x.toarray(), r_y.toarray(), atol=1e-9)


def test_places_among_few_pairs_are_the_softmax_over_all_of_them():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 3)), rng.normal(size=(70, 3)) * [1.0, 2.0, 3.0]
    pairs = np.stack([rng.permutation(90)[:40], rng.permutation(70)[:40]], axis=1)
    half = [0.5 * cdist(z, z[p], "sqeuclidean") for z, p in zip((x, y), pairs.T, strict=True)]
    widths = [h.min(axis=1)[h.min(axis=1) > 1e-9].mean() for h in half]
    r = np.concatenate([softmax(-h / width, axis=1) for h, width in zip(half, widths, strict=True)])
    found = [z.toarray() for z in minibatches.relations(x, y, pairs)]
    np.testing.assert_allclose(cdist(*found), cdist(r[:90], r[90:]) / np.sqrt(r.var(axis=0).sum()), rtol=1e-6)


def test_of_many_pairs_a_minibatch_has_those_that_its_rows_are_near():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 2)).astype(np.float32)
    pairs = Pairs(np.stack([np.arange(2000)] * 2, axis=1))
    r, _ = minibatches.relations(x, x, pairs.rows)
    assert r.nnz <= 128 * 3000
    free, *_ = next(minibatches.anchored(Side(x), Side(x), pairs, 4, rng))
    assert free.x.shape[1] - 2 == free.n_fixed == free.y.shape[1] - 2 <= 8 * 128
    i, j = (np.array([np.flatnonzero((x == row).all(axis=1))[0] for row in z[:, :2]]) for z in (free.x, free.y))
    places = [4.0 * 2**0.5 * r[k].toarray() for k in (i, j)]
    np.testing.assert_allclose(cdist(free.x[:, 2:], free.y[:, 2:]), cdist(*places), rtol=1e-4, atol=1e-4)


def test_a_known_pair_is_a_problem_of_its_own():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, 2)).astype(np.float32)
    pairs = Pairs(np.array([[0, 29], [5, 3]]), weight=1.0)
    free, *known = next(minibatches.anchored(Side(x), Side(y), pairs, 30, rng))
    assert len(free.x) == len(free.y) == 28
    for p in stacks(known, Sinkhorn()):
        ((_, res),) = flow_steps(p.x, p.y, 0.5, 1, 1.0, Sinkhorn())
        np.testing.assert_allclose(p.x + res.v, p.y, atol=FLOAT32)


@pytest.mark.parametrize("weight", [0.5, 4.0])
@pytest.mark.parametrize("n_numbers", [1, 2])
def test_of_weight_one_conditions_are_as_wide_as_the_data(weight, n_numbers):
    rng = np.random.default_rng(0)
    y, c = rng.normal(size=(300, 6)).astype(np.float32), 7.0 * rng.normal(size=(300, n_numbers))
    kinds = describe(Numbers(c, weight=weight), "y")
    ((p),) = next(minibatches.conditioned(Side(y), Side(y, kinds.codes(c, "y", 300)), kinds, 300, rng))
    rows, numbers = p.y[:, :6], p.y[:, 6:]
    assert p.n_fixed == n_numbers
    assert numbers.var(axis=0).sum() == pytest.approx(weight**2 * rows.var(axis=0).sum(), rel=0.2)


def test_a_course_goes_from_each_snapshot_to_the_next():
    rng = np.random.default_rng(0)
    xs = [np.full((n, 1), k, np.float32) for k, n in enumerate((5, 8, 3))]
    first, second = next(minibatches.course(xs, (0.0, 0.25, 1.0), 6, rng))
    assert (first.span, second.span) == ((0.0, 0.25), (0.25, 1.0))
    assert [(len(p.x), len(p.y)) for p in (first, second)] == [(5, 6), (6, 3)]
    assert [(p.x.max(), p.y.max()) for p in (first, second)] == [(0, 1), (1, 2)]


def test_dropped_conditions_make_a_further_problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2)).astype(np.float32)
    drawn = minibatches.plain(Side(x), Side(x), 10, rng)
    *_, last = problems = next(minibatches.with_dropped(drawn, Side(x), Side(x), 4, 3, rng))
    assert [len(p.x) for p in problems] == [10, 4]
    np.testing.assert_array_equal(last.c, np.zeros((4, 3)))
    assert len(next(minibatches.with_dropped(drawn, Side(x), Side(x), 0, 3, rng))) == 1


def test_a_side_draws_each_row_once_while_they_last():
    side, rng = Side(np.arange(10.0)[:, None]), np.random.default_rng(0)
    assert sorted(next(side.deal(20, rng))[:, 0]) == sorted(side.draw(10, rng)[:, 0]) == list(range(10))
    assert (side.most(7), side.most(20), Side(scale=np.ones(1)).most(20)) == (7, 10, 20)
    with pytest.raises(ValueError, match="noise has no rows"):
        Side(scale=np.ones(1)).of_code(0)


@given(n=st.integers(1, 12), part=st.floats(0.05, 1.0))
def test_every_row_comes_up_before_any_does_again(n, part):
    size = max(1, int(part * n))
    dealt = list(itertools.islice(minibatches.deal(n, size, np.random.default_rng(0)), 3 * n))
    assert all(len(set(i.tolist())) == size for i in dealt)
    times = np.bincount(np.concatenate(dealt), minlength=n)
    assert times.max() - times.min() <= 1
