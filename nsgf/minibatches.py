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
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, vstack
from sklearn.neighbors import NearestNeighbors

from nsgf import _checks, _io, datasets
from nsgf._arrays import Array
from nsgf.conditions import UNKNOWN, Conditions, Moments, Pairs
from nsgf.kernel import neighbours
from nsgf.sinkhorn import pick_blur, sinkhorn_velocity
from nsgf.solvers import Solver

_NEAR = 128  # pairs among which a row has a place
_SPACED = 16  # rows of which one is taken, at most: more would be no evener, and take long to order


class Problem(NamedTuple):
    """One Sinkhorn problem.

    Attributes
    ----------
    x, y : arrays of shape (n, d + l) and (m, d + l)
        Particles and targets; the last l = `n_fixed` coordinates enter the cost and do not move.
    c : array of shape (n, k), or None
        Conditions of the particles, for the network.
    span : (float, float)
        Times at which the flow begins and ends.
    label : int, or None
        The code of the label that all particles and targets have.
    is_together : bool
        Whether it is a stack of problems, of a leading dimension, whose particles follow their mean field.
    """

    x: Array
    y: Array
    c: Array | None = None
    span: tuple[float, float] = (0.0, 1.0)
    n_fixed: int = 0
    label: int | None = None
    is_together: bool = False


Minibatches = Iterator[list[Problem]]


class Endless(Minibatches):
    """Minibatches that go on after Ctrl-C, which ends a generator.

    Parameters
    ----------
    begin : callable
        Returns minibatches without end.
    """

    def __init__(self, begin: Callable[[], Minibatches]) -> None:
        self._begin, self._drawn = begin, begin()

    def __next__(self) -> list[Problem]:
        """Return the next minibatch."""
        try:
            return next(self._drawn)
        except BaseException:
            self._drawn = self._begin()
            raise


@_io.storable
class Side(NamedTuple):
    """One end of a transport: rows with what is known of them, or noise.

    Attributes
    ----------
    x : array of shape (n, d), or None for noise
        The rows.
    known : array of shape (n,) or (n, k), or None
        Codes of their labels, or their continuous conditions, of unit deviation.
    scale : array of shape (d,), or None
        Deviation of each feature of the noise.

    Examples
    --------
    >>> Side(scale=np.ones(2)).draw(3, np.random.default_rng(0)).shape
    (3, 2)
    """

    x: np.ndarray | None = None
    known: np.ndarray | None = None
    scale: np.ndarray | None = None

    @property
    def rows(self) -> np.ndarray:
        """The rows; an error for noise, which has none."""
        if self.x is None:
            raise ValueError("noise has no rows.")
        return self.x

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return n points: rows without replacement while they last."""
        if self.x is not None:
            return datasets.rows(self.x)(n, rng)
        scale = np.ones(0) if self.scale is None else self.scale
        return datasets.noise(np.zeros_like(scale), scale)(n, rng).astype(np.float32)

    def most(self, n: int) -> int:
        """Return n, or how many rows there are where those are fewer."""
        return n if self.x is None else min(n, len(self.x))

    def deal(self, n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield n points at a time, or all rows where those are fewer; every row comes up before any does again."""
        if self.x is None:
            return (self.draw(n, rng) for _ in itertools.repeat(None))
        return (self.rows[i] for i in deal(len(self.x), self.most(n), rng))

    @property
    def codes(self) -> np.ndarray:
        """What is known of the rows; an error where nothing is."""
        if self.known is None:
            raise ValueError("nothing is known of these rows.")
        return self.known

    def of_rows(self, i: np.ndarray) -> "Side":
        """Return the rows i, with what is known of them."""
        return Side(self.rows[i], None if self.known is None else self.known[i])

    def of_code(self, k: int) -> "Side":
        """Return the rows of that label."""
        return Side(self.rows[self.known == k])

    def check(self, d: int | None = None, kinds: Conditions | None = None) -> None:
        """Raise where a file holds no end of a transport, of d features and such conditions."""
        if self.x is not None:
            _checks.array("x", self.x, (None, d))
            _checks.count("rows of x", len(self.x))
        elif self.scale is None or self.known is not None:
            raise ValueError("noise must have a scale, and no conditions.")
        if self.scale is not None:
            _checks.array("scale", self.scale, (d,))
            if (self.scale < 0).any():
                raise ValueError(f"scale={self.scale} must not be negative.")
        if kinds is not None and self.known is not None:
            kinds.check_codes(self.known, len(self.rows))


def deal(n: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield `size` of n indices at a time, none twice at once; every one comes up before any does again.

    Examples
    --------
    >>> [i.tolist() for i in itertools.islice(deal(3, 2, np.random.default_rng(0)), 3)]
    [[2, 0], [1, 2], [0, 1]]
    """
    deck = np.empty(0, int)
    while True:
        if len(deck) < size:
            fresh = rng.permutation(n)
            is_left = np.isin(fresh, deck)
            deck = np.concatenate([deck, fresh[~is_left], fresh[is_left]])
        yield deck[:size]
        deck = deck[size:]


def spaced(x: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n indices of rows of x (m, d), in rising order, that lie as all rows do: one of every m / n neighbours.

    Each row is as likely as any other; of few features, means over them vary less than over rows drawn by themselves.

    Examples
    --------
    >>> x = np.random.default_rng(0).permutation(1000)[:, None]
    >>> bool(abs(np.sort(x[spaced(x, 100, np.random.default_rng(1)), 0]) - np.arange(5, 1000, 10)).max() < 20)
    True
    """
    if n >= len(x):
        return np.arange(len(x))
    some = np.sort(rng.permutation(len(x))[: n * _SPACED])
    order = some[neighbours(x[some])]
    return np.sort(order[((np.arange(n) + rng.random()) * len(order) / n).astype(int)])


def plain(source: Side, target: Side, n: int, rng: np.random.Generator) -> Minibatches:
    """Yield one problem at a time."""
    for x, y in zip(source.deal(n, rng), target.deal(n, rng), strict=False):
        yield [Problem(x, y)]


def course(snapshots: Sequence[np.ndarray], times: Sequence[float], n: int, rng: np.random.Generator) -> Minibatches:
    """Yield a problem between each snapshot and the next; `times` are those of the snapshots, from 0 to 1."""
    spans, sides = list(itertools.pairwise(times)), [Side(x) for x in snapshots]
    ends = [(x.deal(n, rng), y.deal(n, rng)) for x, y in itertools.pairwise(sides)]
    while True:
        yield [Problem(next(x), next(y), span=span) for (x, y), span in zip(ends, spans, strict=True)]


def with_dropped(
    drawn: Minibatches, source: Side, target: Side, n: int, n_columns: int, rng: np.random.Generator
) -> Minibatches:
    """Yield the minibatches, each with a further problem of `n` particles of unknown condition."""
    n = target.most(n)
    unknown = np.zeros((n, n_columns), np.float32)
    for problems in drawn:
        dropped = Problem(source.draw(n, rng), target.draw(n, rng), unknown, label=UNKNOWN)
        yield [*problems, dropped] if n else problems


def labelled(source: Side, target: Side, kinds: Conditions, n: int, rng: np.random.Generator) -> Minibatches:
    """Yield a problem of each class, all of them together of `n` particles.

    Particles without labels are dealt to the classes in the proportions of the targets.
    """
    codes = sorted(set(target.codes.tolist()))
    ys = {k: target.of_code(k) for k in codes}
    if source.known is None:
        sizes, xs = _shares(n, target.codes, codes), dict.fromkeys(codes, source)
    else:
        xs = {k: source.of_code(k) for k in codes}
        sizes = {k: xs[k].most(size) for k, size in _shares(n, source.known, codes).items()}
    m, c = _shares(n, target.codes, codes), {k: kinds.columns(np.full(sizes[k], k)) for k in codes}
    ends = {k: (xs[k].deal(sizes[k], rng), ys[k].deal(m[k], rng)) for k in codes}
    while True:
        yield [Problem(next(x), next(y), c[k], label=k) for k, (x, y) in ends.items()]


def partly_labelled(
    source: Side,
    target: Side,
    kinds: Conditions,
    n: int,
    rng: np.random.Generator,
    *,
    blur: "float | str",
    solve: Solver,
) -> Minibatches:
    """Yield a problem of each class, where rows of unknown label take that of a partner in the unlabelled plan.

    The network is told the labels of half of those. What stays unknown makes a problem of its own; a class with no row
    on the other side of the minibatch is left out.
    """
    blur = pick_blur(blur, source.rows, target.rows)
    dealt = (deal(len(side.rows), side.most(n), rng) for side in (source, target))
    for drawn in zip(*dealt, strict=False):
        (x, codes_x), (y, codes_y) = (
            (side.rows[i], side.codes[i]) for side, i in zip((source, target), drawn, strict=True)
        )
        found_x = _guessed(x, y, codes_x, codes_y, blur, solve, rng)
        found_y = _guessed(y, x, codes_y, codes_x, blur, solve, rng)
        common = sorted(set(found_x.tolist()) & set(found_y.tolist()))
        shown = np.where((codes_x == UNKNOWN) & (rng.random(len(x)) < 0.5), found_x, codes_x)  # both are asked for
        problems = [
            Problem(x[found_x == k], y[found_y == k], kinds.columns(shown[found_x == k]), label=k) for k in common
        ]
        if problems:
            yield problems


def conditioned(source: Side, target: Side, kinds: Moments, n: int, rng: np.random.Generator) -> Minibatches:
    """Yield one problem, lifted by continuous conditions of unit deviation.

    A weight of 1 makes all conditions together as wide as the data. Particles without conditions of their own are dealt
    those of the targets.
    """
    known, y = target.codes, target.rows
    k, stretch, m = known.shape[1], stretch_of(kinds, y.shape[1]), target.most(n)
    points = source.deal(m, rng) if source.known is None else deal(len(source.rows), source.most(n), rng)
    for drawn, j in zip(points, deal(len(y), m, rng), strict=False):
        if source.known is None:
            x, c = drawn, rng.permutation(known[j])[: len(drawn)]
        else:
            x, c = source.rows[drawn], source.known[drawn]
        yield [Problem(_lift(x, stretch * c), _lift(y[j], stretch * known[j]), kinds.columns(c), n_fixed=k)]


def stretch_of(kinds: Moments, d: int) -> float:
    """Return what conditions of unit deviation are multiplied by, to be coordinates beside d features."""
    return float(kinds.weight * (d / len(kinds.shift)) ** 0.5)


def anchored(source: Side, target: Side, pairs: Pairs, n: int, rng: np.random.Generator) -> Minibatches:
    """Yield a problem of the rows in no pair, lifted by their places among the pairs, and one for each pair."""
    x, y, rows = source.rows, target.rows, np.asarray(pairs.rows)
    r_x, r_y = relations(x, y, rows)
    mean = vstack([r_x, r_y]).mean(axis=0)  # (k,)
    stretch = pairs.weight * y.shape[1] ** 0.5
    free_x, free_y = (np.setdiff1d(np.arange(len(z)), p) for z, p in ((x, rows[:, 0]), (y, rows[:, 1])))
    known = deal(len(rows), min(len(rows), max(1, round(n * len(rows) / len(x)))), rng)
    dealt = [deal(len(free), min(n, len(free)), rng) for free in (free_x, free_y)]
    while True:
        problems = []
        if len(free_x) and len(free_y):
            i, j = (free[next(rows)] for free, rows in zip((free_x, free_y), dealt, strict=True))
            near = np.union1d(r_x[i].indices, r_y[j].indices)  # pairs that no row is near are left out
            places_x, places_y = (stretch * (r[:, near].toarray() - mean[near]) for r in (r_x[i], r_y[j]))
            problems.append(Problem(_lift(x[i], places_x), _lift(y[j], places_y), n_fixed=len(near)))
        for i, j in rows[next(known)]:
            problems.append(Problem(x[[i]], y[[j]]))
        yield problems


def relations(source: np.ndarray, target: np.ndarray, pairs: np.ndarray) -> tuple[csr_array, csr_array]:
    """Return the place of every row among the pairs, sparse (n, k): how near it is to each, relative to the others.

    r_p(x) = softmax_p(−|x − x_p|² / 2h²) over the 128 nearest pairs, with h the root-mean-square distance to the
    nearest, in each space by itself; of unit spread over both samples. After Gu et al. 2022, *Keypoint-guided optimal
    transport*, eq. 4, where the softmax is over all pairs.

    Examples
    --------
    >>> x = np.array([[0.0], [1.0], [9.0], [10.0]])
    >>> r_x, r_y = relations(x, -3 * x, np.array([[0, 0], [3, 3]]))
    >>> bool(np.allclose(r_x.toarray(), r_y.toarray(), atol=1e-6)), r_x.shape
    (True, (4, 2))
    """
    r_x, r_y = (_nearness(z, z[p]) for z, p in ((source, pairs[:, 0]), (target, pairs[:, 1])))
    r = vstack([r_x, r_y])
    mean = r.mean(axis=0)
    width = max(float((r.data**2).sum() / r.shape[0] - mean @ mean), 0.0) ** 0.5 or 1.0  # |r_x − r_y| needs no centre
    return r_x / width, r_y / width


def _nearness(z: np.ndarray, anchors: np.ndarray) -> csr_array:
    n, k = len(z), min(_NEAR, len(anchors))
    distances, which = NearestNeighbors(n_neighbors=k).fit(anchors.astype(np.float64)).kneighbors(z.astype(np.float64))
    half = 0.5 * distances**2  # (n, k), the nearest first
    width = half[:, 0][half[:, 0] > 1e-6 * half.max()]  # of the rows that are no anchors
    share = np.exp((half[:, :1] - half) / (width.mean() if len(width) else half.max() or 1.0))
    share /= share.sum(axis=1, keepdims=True)
    return csr_array((share.ravel(), which.ravel(), np.arange(0, n * k + 1, k)), shape=(n, len(anchors)))


def _lift(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    return np.concatenate([x, c], axis=1).astype(np.float32)


def _shares(n: int, labels: np.ndarray, codes: Sequence[int]) -> dict[int, int]:
    """Return how many of `n` rows each label has, in proportion and at least one."""
    return {k: max(1, round(n * float(np.mean(labels == k)))) for k in codes}


def _guessed(
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
