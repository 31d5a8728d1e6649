"""Trials: which rows are held out, and what a model is asked to make of them."""

import numpy as np
import pytest
from common import labelled_sample, samples

from nsgf import Numbers
from nsgf.task import Task
from nsgf.trials import halves, held_out, trials

RNG = np.random.default_rng(0)


def tasks():
    x, y = samples(500, 400)
    z, names = labelled_sample(400)
    return {
        "plain": Task.of(x, y),
        "noise": Task.of(None, y),
        "labels": Task.of(z, z + 1.0, names, names),
        "numbers": Task.of(x, y, y_tgt=Numbers(y[:, 0])),
        "pairs": Task.of(x, y, pairs=[(0, 3), (7, 7), (499, 399)]),
        "course": Task.course({0.0: x, 1.0: y, 5.0: x}),
    }


TASKS = tasks()
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def clouds(task):
    return task.snapshots or [side.x for side in (task.source, task.target) if side.x is not None]


def as_set(x):
    return {row.tobytes() for row in x}


@every_task
def test_no_row_is_both_learnt_from_and_held_out_and_none_is_lost(task):
    seen, unseen, n = held_out(task, 0.3, np.random.default_rng(0))
    assert 100 <= n == min(unseen.sizes) <= 0.3 * min(task.sizes)
    for whole, one, other in zip(clouds(task), clouds(seen), clouds(unseen), strict=True):
        assert as_set(one) | as_set(other) == as_set(whole)
        assert not as_set(one) & as_set(other)


def test_rows_of_pairs_are_learnt_from_and_keep_their_partners():
    task = TASKS["pairs"]
    seen, unseen, _ = held_out(task, 0.3, np.random.default_rng(0))
    for (i, j), (k, m) in zip(np.asarray(task.pairs.rows), np.asarray(seen.pairs.rows), strict=True):
        np.testing.assert_array_equal(seen.source.rows[k], task.source.rows[i])
        np.testing.assert_array_equal(seen.target.rows[m], task.target.rows[j])
    assert unseen.pairs is None


def test_every_label_is_held_out_in_proportion():
    task = TASKS["labels"]
    _, unseen, _ = held_out(task, 0.5, np.random.default_rng(0))
    wanted = np.bincount(task.target.codes) // 2
    np.testing.assert_array_equal(np.bincount(unseen.target.codes), wanted)


@pytest.mark.parametrize(("n", "fraction"), [(990, 0.1), (2000, 0.0), (199, 0.5)])
def test_where_too_few_rows_would_be_held_out_none_are(n, fraction):
    task = Task.of(*samples(n))
    assert held_out(task, fraction, np.random.default_rng(0)) == (task, task, 0)


def test_at_most_1024_rows_are_held_out():
    _, unseen, n = held_out(Task.of(*samples(20_000)), 0.1, np.random.default_rng(0))
    assert (n, unseen.sizes) == (1024, (1024, 1024))


def test_halves_have_no_row_in_common():
    first, second = halves(TASKS["plain"], np.random.default_rng(0))
    assert not as_set(first.target.rows) & as_set(second.target.rows)
    assert first.sizes == second.sizes == (250, 200)
    scarce = Task.of(None, samples(20)[0], y_tgt=["a"] * 18 + ["b"] * 2)
    for task in (scarce, TASKS["pairs"]):
        assert halves(task, RNG) == (task, task)


@every_task
def test_a_trial_has_what_a_model_needs(task):
    _, unseen, _ = held_out(task, 0.3, np.random.default_rng(0))
    stages = trials(unseen, task, np.random.default_rng(0))
    assert [stage.span for stage in stages] == ([(0.0, 0.5), (0.5, 1.0)] if task.times else [(0.0, 1.0)])
    for stage in stages:
        assert stage.x.shape[1] == stage.y.shape[1] == stage.squares.shape[1] == 2
        assert (stage.c is None) == (task.kinds is None)
        for pair in (stage.lifts, stage.centres):
            assert [len(z) for z in pair] == [len(stage.x), len(stage.y)]


def test_a_trial_with_labels_leaves_unknown_rows_out():
    z, names = labelled_sample(400)
    names[::2] = None
    (stage,) = trials(*2 * (Task.of(z, z, names, names),), RNG)
    assert len(stage.x) == len(stage.y) == 200
    assert (stage.c.sum(axis=1) == 1).all()


def test_labels_are_compared_in_one_proportion_and_each_around_its_mean():
    rng, means = np.random.default_rng(0), np.array([[0.0, 0.0], [1e3, 5.0]])
    codes = [np.repeat([0, 1], sizes) for sizes in ((900, 100), (200, 800))]
    x, y = (means[k] + rng.normal(size=(1000, 2)) * np.array([1.0, 5.0])[k, None] for k in codes)
    task = Task.of(x, y, *codes)
    (stage,) = trials(task, task, rng)
    assert stage.c.sum(axis=0).tolist() == [200, 100] == np.bincount((stage.lifts[1][:, 1] > 0).astype(int)).tolist()
    np.testing.assert_allclose(stage.squares.mean(axis=0) * task.frame.scale**2, (2 + 25) / 3, rtol=0.1)
    np.testing.assert_allclose(task.frame.to_data(stage.centres[0]), means[stage.c[:, 1].astype(int)], atol=1.0)
