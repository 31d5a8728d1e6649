r"""Minibatches: which particles are matched to which targets.

A minibatch is a list of Sinkhorn problems. Without more knowledge it is one problem; labels make one of each class,
known pairs one of each pair, and a time course one between each snapshot and the next. Continuous conditions, and the
place of a sample among the known pairs, *lift* a problem: they are further coordinates of particles and targets,
which enter the cost and do not move,

.. math::  C = \tfrac12 |x - y|^2 + \tfrac12 w^2 |c_x - c_y|^2 .

The field without conditions, which guidance needs, is learnt from particles whose conditions are dropped before the
transport: they make a problem of their own, as rows of unknown condition do.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from nsgf._arrays import Array
from nsgf.conditions import UNKNOWN
from nsgf.datasets import Source, rows
from nsgf.sinkhorn import sinkhorn_velocity, spread
from nsgf.solvers import Solver

__all__ = [
    "Minibatches",
    "Problem",
    "anchored",
    "conditioned",
    "course",
    "labelled",
    "partly_labelled",
    "plain",
    "relations",
    "with_dropped",
]


class Problem(NamedTuple):
    """One Sinkhorn problem.

    Attributes
    ----------
    x, y : arrays of shape (n, d + l) and (m, d + l)
        Particles and targets; the last l coordinates enter the cost and do not move.
    c : array of shape (n, k), or None
        Conditions of the particles, for the network.
    span : (float, float)
        Times at which the flow begins and ends.
    """

    x: Array
    y: Array
    c: Array | None = None
    span: tuple[float, float] = (0.0, 1.0)


Minibatches = Iterator[list[Problem]]


def plain(source: Source, target: Source, n: int, m: int, rng: np.random.Generator) -> Minibatches:
    """Yield one problem at a time."""
    while True:
        yield [Problem(source(n, rng), target(m, rng))]


def course(snapshots: Sequence[np.ndarray], times: Sequence[float], n: int, rng: np.random.Generator) -> Minibatches:
    """Yield a problem between each snapshot and the next; `times` are those of the snapshots, from 0 to 1."""
    draws, spans = [rows(x) for x in snapshots], list(itertools.pairwise(times))
    sizes = [min(n, len(x)) for x in snapshots]
    while True:
        yield [
            Problem(draws[j](sizes[j], rng), draws[j + 1](sizes[j + 1], rng), span=span) for j, span in enumerate(spans)
        ]


def with_dropped(
    drawn: Minibatches, source: Source, target: Source, n: int, n_columns: int, rng: np.random.Generator
) -> Minibatches:
    """Yield the minibatches, each with a further problem of `n` particles of unknown condition."""
    unknown = np.zeros((n, n_columns), np.float32)
    for problems in drawn:
        yield [*problems, Problem(source(n, rng), target(n, rng), unknown)] if n else problems


def labelled(  # noqa: PLR0913  two samples with their labels, what a label is to the network, and how many
    source: Any,  # a Source, or rows that have conditions of their own
    source_labels: np.ndarray | None,
    target: np.ndarray,
    target_labels: np.ndarray,
    columns: Any,
    n: int,
    rng: np.random.Generator,
) -> Minibatches:
    """Yield a problem of each class, all of them together of `n` particles.

    Particles without labels (`source_labels` is None) are dealt to the classes in the proportions of the targets.
    """
    codes = sorted(set(target_labels.tolist()))
    ys = {k: target[target_labels == k] for k in codes}
    if source_labels is None:
        sizes = _shares(n, target_labels, codes)
        xs = dict.fromkeys(codes, source)
    else:
        sizes = _shares(n, source_labels, codes)
        xs = {k: rows(source[source_labels == k]) for k in codes}
        sizes = {k: min(size, int(np.sum(source_labels == k))) for k, size in sizes.items()}
    m = {k: min(size, len(ys[k])) for k, size in _shares(n, target_labels, codes).items()}
    draws, c = {k: rows(y) for k, y in ys.items()}, {k: columns(np.full(sizes[k], k)) for k in codes}
    while True:
        yield [Problem(xs[k](sizes[k], rng), draws[k](m[k], rng), c[k]) for k in codes]


def partly_labelled(  # noqa: PLR0913  as `labelled`, and how to find the labels that are missing
    source: np.ndarray,
    source_labels: np.ndarray,
    target: np.ndarray,
    target_labels: np.ndarray,
    columns: Any,
    n: int,
    rng: np.random.Generator,
    blur: float,
    solve: Solver,
) -> Minibatches:
    """Yield a problem of each class, where rows of unknown label take that of a partner in the unlabelled plan.

    The network is told the labels of half of those. What stays unknown makes a problem of its own; a class with no row
    on the other side of the minibatch is left out.
    """
    while True:
        i, j = (rng.choice(len(z), size=min(n, len(z)), replace=False) for z in (source, target))
        x, y, codes_x, codes_y = source[i], target[j], source_labels[i], target_labels[j]
        found_x, found_y = (
            _taken(x, y, codes_x, codes_y, blur, solve, rng),
            _taken(y, x, codes_y, codes_x, blur, solve, rng),
        )
        common = sorted(set(found_x.tolist()) & set(found_y.tolist()))
        told = np.where((codes_x == UNKNOWN) & (rng.random(len(x)) < 0.5), found_x, codes_x)  # both are asked for
        problems = [Problem(x[found_x == k], y[found_y == k], columns(told[found_x == k])) for k in common]
        if problems:
            yield problems


def conditioned(  # noqa: PLR0913  two samples with their conditions, and how they weigh
    source: Any,  # a Source, or rows that have conditions of their own
    source_conditions: np.ndarray | None,
    target: np.ndarray,
    target_conditions: np.ndarray,
    columns: Any,
    n: int,
    weight: float,
    rng: np.random.Generator,
) -> Minibatches:
    """Yield one problem, lifted by continuous conditions of unit deviation.

    A weight of 1 makes all conditions together as wide as the data. Particles without conditions of their own are dealt
    those of the targets.
    """
    d, k = target.shape[1], target_conditions.shape[1]
    stretch, m = weight * (d / k) ** 0.5, min(n, len(target))
    while True:
        j = rng.choice(len(target), size=m, replace=False)
        if source_conditions is None:
            x = source(m, rng)
            c = rng.permutation(target_conditions[j])
        else:
            i = rng.choice(len(source), size=min(n, len(source)), replace=False)
            x, c = source[i], source_conditions[i]
        yield [Problem(_lift(x, stretch * c), _lift(target[j], stretch * target_conditions[j]), columns(c))]


def anchored(  # noqa: PLR0913  two samples, the pairs, how they weigh, and how many
    source: np.ndarray, target: np.ndarray, pairs: np.ndarray, n: int, weight: float, rng: np.random.Generator
) -> Minibatches:
    """Yield a problem of the rows in no pair, lifted by their places among the pairs, and one for each pair."""
    r_x, r_y = relations(source, target, pairs)
    stretch = weight * target.shape[1] ** 0.5
    free_x, free_y = (np.setdiff1d(np.arange(len(z)), p) for z, p in ((source, pairs[:, 0]), (target, pairs[:, 1])))
    n_pairs = min(len(pairs), max(1, round(n * len(pairs) / len(source))))
    while True:
        problems = []
        if len(free_x) and len(free_y):
            i, j = (rng.choice(free, size=min(n, len(free)), replace=False) for free in (free_x, free_y))
            problems.append(Problem(_lift(source[i], stretch * r_x[i]), _lift(target[j], stretch * r_y[j])))
        for i, j in pairs[rng.choice(len(pairs), size=n_pairs, replace=False)]:
            problems.append(Problem(source[[i]], target[[j]]))
        yield problems


def relations(source: np.ndarray, target: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of every row among the pairs: how near it is to each, relative to the others.

    r_p(x) = softmax_p(−|x − x_p|² / 2h²), with h the root-mean-square distance to the nearest, in each space by itself;
    of unit spread over both samples. After Gu et al. 2022, *Keypoint-guided optimal transport*, eq. 4.

    Examples
    --------
    >>> x = np.array([[0.0], [1.0], [9.0], [10.0]])
    >>> r_x, r_y = relations(x, -3 * x, np.array([[0, 0], [3, 3]]))
    >>> bool(np.allclose(r_x, r_y, atol=1e-6)), r_x.shape
    (True, (4, 2))
    """
    both = [_nearness(z, z[p]) for z, p in ((source, pairs[:, 0]), (target, pairs[:, 1]))]
    r = np.concatenate(both)
    r = (r - r.mean(axis=0)) / (spread(r) or 1.0)
    return r[: len(source)], r[len(source) :]


def _nearness(z: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    half = 0.5 * ((z**2).sum(1)[:, None] + (anchors**2).sum(1) - 2 * z @ anchors.T).clip(0)  # (n, k)
    width = half.min(axis=1)[half.min(axis=1) > 1e-6 * half.max()]  # of the rows that are no anchors
    score = -half / (width.mean() if len(width) else half.max() or 1.0)
    share = np.exp(score - score.max(axis=1, keepdims=True))
    return share / share.sum(axis=1, keepdims=True)


def _lift(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    return np.concatenate([x, c], axis=1).astype(np.float32)


def _shares(n: int, labels: np.ndarray, codes: Sequence[int]) -> dict[int, int]:
    """Return how many of `n` rows each label has, in proportion and at least one."""
    return {k: max(1, round(n * float(np.mean(labels == k)))) for k in codes}


def _taken(  # noqa: PLR0913  a plan, and the labels of both its sides
    x: np.ndarray,
    y: np.ndarray,
    codes_x: np.ndarray,
    codes_y: np.ndarray,
    blur: float,
    solve: Solver,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the labels of x, the unknown ones from partners drawn from the plan of x and y."""
    if not (codes_x == UNKNOWN).any():
        return codes_x
    partner = sinkhorn_velocity(x, y, blur=blur, solver=solve).partner_rows(rng)
    return np.where(codes_x == UNKNOWN, codes_y[partner], codes_x)
