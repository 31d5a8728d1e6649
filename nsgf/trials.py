"""Trials: rows held out of a fit, and what a fitted model is to make of them."""

import itertools
from typing import NamedTuple

import numpy as np

from nsgf.conditions import UNKNOWN, Classes, Conditions
from nsgf.minibatches import Side
from nsgf.task import Task

_FEW, _MOST = 100, 1024  # rows held out: fewer would tell little and cost much, more would tell no more
_LEAST = 2  # rows that can be compared
_SCARCE = 4  # rows of a label below which a sample is not halved


class Trial(NamedTuple):
    """What a fitted model is to carry, and what that is to be compared with.

    Attributes
    ----------
    x, c : arrays of shape (n, d) and (n, k) or None
        Points of the source, and their conditions for a network.
    y : array of shape (m, d)
        Points of the target.
    centres : (array of shape (n, d), array of shape (m, d))
        For both, the mean that their label has in the target, held out or not; that of all without labels.
    squares : array of shape (m', d)
        Squared deviations of rows of the target, held out or not, from these means, labels weighted as in `x`.
    lifts : (array of shape (n, l), array of shape (m, l))
        Further coordinates of both: their conditions. Laws that agree with them agree for every condition.
    span : (float, float)
        From when to when.
    """

    x: np.ndarray
    c: np.ndarray | None
    y: np.ndarray
    centres: tuple[np.ndarray, np.ndarray]
    squares: np.ndarray
    lifts: tuple[np.ndarray, np.ndarray]
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
    target, whole = _few(_known_rows(target, kinds), rng), _known_rows(whole, kinds)
    source = source if source.x is None else _few(_known_rows(source, kinds), rng)
    x = source.draw(len(target.rows), rng) if source.x is None else source.x
    if kinds is None:
        labels = [np.zeros(len(z), int) for z in (whole.rows, x, target.rows)]
        return Trial(x, None, target.rows, *_spread(whole.rows, *labels), (x[:, :0], target.rows[:, :0]))
    known = source.known
    if known is None:
        known = np.resize(rng.permutation(target.codes), (len(x), *target.codes.shape[1:]))
    if isinstance(kinds, Classes):
        i, j = _alike(known, target.codes, rng)
        x, known, target, labels = x[i], known[i], target.of_rows(j), [whole.codes, known[i], target.codes[j]]
    else:
        labels = [np.zeros(len(z), int) for z in (whole.rows, x, target.rows)]
    centres, squares = _spread(whole.rows, *labels)
    lifts = _lift(kinds, known, squares), _lift(kinds, target.codes, squares)
    return Trial(x, kinds.columns(known), target.rows, centres, squares, lifts)


def _alike(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of two samples with codes that have every label in one proportion; all where none is in both."""
    i, j = (rng.permutation(len(codes)) for codes in (first, second))
    sizes = {k: min(np.sum(first == k), np.sum(second == k)) for k in np.intersect1d(first, second)}
    if sum(sizes.values()) < _LEAST:
        return i, j
    kept = [[z[codes[z] == k][:n] for k, n in sizes.items()] for z, codes in ((i, first), (j, second))]
    return np.sort(np.concatenate(kept[0])), np.sort(np.concatenate(kept[1]))


def _spread(
    whole: np.ndarray, codes: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Return the means of a target's labels, for points of first and second codes, and its squares around them.

    Labels have the weight that they have among the first.
    """
    present, n = np.unique(codes), len(whole)
    means, weight = np.zeros((codes.max() + 1, whole.shape[1])), np.zeros(codes.max() + 1)
    for k in present:
        means[k] = whole[codes == k].mean(axis=0, dtype=np.float64)
        weight[k] = np.mean(first == k) / np.mean(codes == k) * n / max(n - len(present), 1)
    i = np.random.default_rng(0).permutation(n)[:_MOST]
    return (means[first], means[second]), weight[codes[i], None] * (whole[i] - means[codes[i]]) ** 2


def _known_rows(side: Side, kinds: Conditions | None) -> Side:
    """Return the rows whose label is known, where there are any."""
    if isinstance(kinds, Classes) and side.known is not None and (side.known != UNKNOWN).any():
        return side.of_rows(np.flatnonzero(side.known != UNKNOWN))
    return side


def _few(side: Side, rng: np.random.Generator) -> Side:
    """Return at most so many rows."""
    return side.of_rows(np.sort(rng.permutation(len(side.rows))[:_MOST]))


def _lift(kinds: Conditions, known: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return coordinates of conditions: as far from each other as the features of rows of one label."""
    width = float(squares.mean(axis=0).sum()) ** 0.5
    return width * (kinds.columns(known) if isinstance(kinds, Classes) else known / known.shape[1] ** 0.5)


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
