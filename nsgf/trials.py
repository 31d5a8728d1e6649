"""Trials: rows held out of a fit, and what a fitted model is to make of them."""

import itertools
from typing import NamedTuple

import numpy as np

from nsgf.conditions import UNKNOWN, Classes, Conditions
from nsgf.minibatches import Side
from nsgf.task import Task

_FEW, _MOST = 20, 1024  # rows held out: fewer would tell nothing, more would tell no more
_SCARCE = 4  # rows of a label below which a sample is not halved
_APART = 1e3  # distance of labels where joint laws are compared, in units of the spread


class Trial(NamedTuple):
    """What a fitted model is to carry, and what that is to be compared with.

    Attributes
    ----------
    x, c : arrays of shape (n, d) and (n, k) or None
        Points of the source, and their conditions for a network.
    y : array of shape (m, d)
        Points of the target.
    lifts : (array of shape (n, l), array of shape (m, l))
        Further coordinates of both: their conditions. Laws that agree with them agree for every condition.
    variance : array of shape (d,)
        That of the target's features within labels, of all rows, held out or not.
    span : (float, float)
        From when to when.
    """

    x: np.ndarray
    c: np.ndarray | None
    y: np.ndarray
    lifts: tuple[np.ndarray, np.ndarray]
    variance: np.ndarray
    span: tuple[float, float] = (0.0, 1.0)


def held_out(task: Task, fraction: float, rng: np.random.Generator) -> tuple[Task, Task, int]:
    """Return what is to be learnt from, what it is tried on, and how many rows of the smallest sample that holds out.

    Rows are held out in proportion to their labels, none that is in a pair. Where they would be too few to tell
    anything, none are, and a model is tried on what it was fitted to.
    """
    rest, unseen = _dealt(task, fraction, rng, _MOST)
    n = min(unseen.sizes)
    return (rest, unseen, n) if n >= _FEW else (task, task, 0)


def halves(task: Task, rng: np.random.Generator) -> tuple[Task, Task]:
    """Return two tasks of half the rows each; twice the whole where labels are scarce, or pairs bind the rows."""
    codes = [side.known for side in (task.source, task.target) if side.known is not None and side.known.ndim == 1]
    fewest = min([min(task.sizes), *(int(np.unique(known, return_counts=True)[1].min()) for known in codes)])
    return (task, task) if task.pairs is not None or fewest < _SCARCE else _dealt(task, 0.5, rng)


def trials(unseen: Task, task: Task, rng: np.random.Generator) -> list[Trial]:
    """Return what a model of a task is to carry, of its unseen rows: each snapshot to the next, or source to target."""
    if task.times:
        spans = itertools.pairwise(task.frame.times)
        stages = zip(itertools.pairwise(unseen.snapshots), task.snapshots[1:], spans, strict=True)
        return [_trial(Side(x), Side(y), Side(whole), None, rng)._replace(span=span) for (x, y), whole, span in stages]
    return [_trial(unseen.source, unseen.target, task.target, task.kinds, rng)]


def _trial(source: Side, target: Side, whole: Side, kinds: Conditions | None, rng: np.random.Generator) -> Trial:
    target, whole = (_known_rows(side, kinds, rng) for side in (target, whole))
    source = source if source.x is None else _known_rows(source, kinds, rng)
    x = source.draw(len(target.rows), rng) if source.x is None else source.x
    if kinds is None:
        return Trial(x, None, target.rows, (x[:, :0], target.rows[:, :0]), variance(whole.rows))
    known = target.codes[rng.integers(len(target.codes), size=len(x))] if source.known is None else source.known
    lift_x, lift_y, lift = (_lift(kinds, z, x.shape[1]) for z in (known, target.codes, whole.codes))
    return Trial(x, kinds.columns(known), target.rows, (lift_x, lift_y), variance(whole.rows, lift))


def variance(x: np.ndarray, lift: np.ndarray | None = None) -> np.ndarray:
    """Return the variance (d,) of every feature of x (n, d), within the labels where a lift (n, l) tells them.

    Examples
    --------
    >>> variance(np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([[0.0], [0.0], [1.0], [1.0]]))
    array([1.])
    """
    x, group = x.astype(np.float64), np.zeros(len(x), int)
    if lift is not None and lift.shape[1]:
        _, group = np.unique(lift, axis=0, return_inverse=True)
    if group.max() * 2 > len(x):  # continuous conditions make no groups
        group[:] = 0
    means = np.stack([x[group == k].mean(axis=0) for k in range(group.max() + 1)])
    return ((x - means[group]) ** 2).mean(axis=0)


def _known_rows(side: Side, kinds: Conditions | None, rng: np.random.Generator) -> Side:
    """Return at most so many rows, of those whose label is known where there are any."""
    rows = np.arange(len(side.rows))
    if isinstance(kinds, Classes) and side.known is not None and (side.known != UNKNOWN).any():
        rows = rows[side.known != UNKNOWN]
    return side.of_rows(np.sort(rng.permutation(rows)[:_MOST]))


def _lift(kinds: Conditions, known: np.ndarray, d: int) -> np.ndarray:
    """Return coordinates of conditions: labels far apart, continuous ones as wide as the d features together."""
    if isinstance(kinds, Classes):
        return _APART * d**0.5 * known[:, None]
    return (d / known.shape[1]) ** 0.5 * known


def _dealt(task: Task, fraction: float, rng: np.random.Generator, most: int | None = None) -> tuple[Task, Task]:
    """Return two tasks without a row in common: of the rest, and of a fraction of the rows of every label."""
    if task.times:
        parts = [_parted(Side(x), fraction, most, rng) for x in task.snapshots]
        first, second = (tuple(x[i[k]] for x, i in zip(task.snapshots, parts, strict=True)) for k in (0, 1))
        return task.of_snapshots(first), task.of_snapshots(second)
    bound = np.empty((0, 2), int) if task.pairs is None else np.asarray(task.pairs.rows)
    i, j = (_parted(z, fraction, most, rng, p) for z, p in zip((task.source, task.target), bound.T, strict=True))
    return task.of_rows(i[0], j[0]), task.of_rows(i[1], j[1])


def _parted(
    side: Side, fraction: float, most: int | None, rng: np.random.Generator, bound: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the rest, with those that are bound to it, and of a fraction of every label."""
    n = 0 if side.x is None else len(side.x)
    labels = np.zeros(n, int) if side.known is None or side.known.ndim > 1 else side.known
    free = np.delete(np.arange(n), [] if bound is None else bound)
    share = fraction if most is None or not n else min(fraction, most / n)
    dealt = [rng.permutation(free[labels[free] == k]) for k in np.unique(labels[free])]
    second = np.sort(np.concatenate([free[:0], *(rows[: int(share * len(rows))] for rows in dealt)]))
    return np.delete(np.arange(n), second), second
