"""The task of one fit: what is carried where, and what is known of it."""

import dataclasses
import hashlib
import json
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from nsgf import _checks, _io, conditions, minibatches, samples
from nsgf._arrays import check_widths
from nsgf.conditions import UNKNOWN, Classes, Conditions, Labels, Moments, Numbers, Pairs
from nsgf.minibatches import Minibatches, Side
from nsgf.samples import Features, Frame
from nsgf.solvers import Solver

_REFERENCE_ROWS = 2048  # target rows kept for score(): enough for a stable figure, O(n²) memory once
Known = ArrayLike | Labels | Numbers | None


@_io.storable
@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What is carried where, in units of the spread, and what is known of it.

    Attributes
    ----------
    frame : Frame
        Origin and unit of length.
    features : Features
        Number and names of the source's columns.
    source, target : Side
        The ends, with the codes of their rows where there are conditions. Those of a time course are its first and its
        last snapshot.
    kinds : Conditions or None
        What the conditions are.
    pairs : Pairs or None
        Rows of both ends that belong together.
    times : tuple of float
        Those of the snapshots of a time course; empty without.
    snapshots : tuple of arrays (n, d)
        The snapshots.

    Examples
    --------
    >>> task = Task.of(None, np.array([[1.0, 2.0], [3.0, 4.0]]), y_tgt=["a", "b"])
    >>> task.draw(3, "a", np.random.default_rng(0))[1]
    array([[1., 0.],
           [1., 0.],
           [1., 0.]], dtype=float32)
    """

    frame: Frame
    features: Features
    source: Side
    target: Side
    kinds: Conditions | None = None
    pairs: Pairs | None = None
    times: tuple[float, ...] = ()
    snapshots: tuple[np.ndarray, ...] = ()

    @classmethod
    def of(
        cls,
        X_src: ArrayLike | None,
        X_tgt: ArrayLike,
        y_src: Known = None,
        y_tgt: Known = None,
        pairs: "ArrayLike | Pairs | None" = None,
    ) -> Self:
        """Return the task of two samples, as in `fit`; the source is noise where there is none."""
        y = samples.rows(X_tgt, "X_tgt")
        samples.same_columns([X_src, X_tgt], "X_src and X_tgt")
        x = y if X_src is None else samples.rows(X_src, "X_src")
        check_widths(x, y, ("X_src", "X_tgt"))
        kinds, known_x, known_y = conditions.of_both(None if X_src is None else len(x), len(y), y_src, y_tgt)
        if pairs is not None:
            if X_src is None or kinds is not None:
                raise ValueError("pairs go with samples X_src and X_tgt, and not with y_src or y_tgt.")
            pairs = (pairs if isinstance(pairs, Pairs) else Pairs(pairs)).within(len(x), len(y))
        frame = Frame.of(x, y, samples.shape_of(X_tgt))
        target = Side(frame.to_unit(y), known_y)
        source = Side(scale=target.rows.std(axis=0)) if X_src is None else Side(frame.to_unit(x), known_x)
        return cls(frame, samples.features(X_tgt if X_src is None else X_src), source, target, kinds, pairs)

    @classmethod
    def course(cls, given: Any, *others: object) -> Self:
        """Return the task of a time course, ``{t: X_t}`` or pairs ``(t, X_t)``; it goes with nothing else."""
        times, xs, as_given = samples.snapshots(given)
        if any(other is not None for other in others):
            raise ValueError("y_src, y_tgt and pairs do not go with a time course; fit each label by itself.")
        earlier, later = np.concatenate(xs[:-1]), np.concatenate(xs[1:])
        frame = Frame.of(earlier, later, samples.shape_of(as_given[-1]))
        units = tuple(frame.to_unit(x) for x in xs)
        ends = Side(units[0]), Side(units[-1])
        return cls(frame, samples.features(as_given[0]), *ends, times=times, snapshots=units)

    @property
    def n_conditions(self) -> int:
        """Numbers that a network is given of the condition of a row."""
        return 0 if self.kinds is None else self.kinds.n_columns

    @property
    def unit_times(self) -> tuple[float, ...]:
        """The times of the snapshots as parts of the course, 0 at the first and 1 at the last; (0, 1) without."""
        return self._in_course(self.times) if self.times else (0.0, 1.0)

    def _in_course(self, times: tuple[float, ...]) -> tuple[float, ...]:
        begin, end = self.times[0], self.times[-1]
        return tuple(((np.array(times) - begin) / (end - begin)).tolist())

    def minibatches(
        self, n: int, rng: np.random.Generator, blur: "float | str", solve: Solver, dropout: float
    ) -> Minibatches:
        """Return minibatches of `n` particles without end.

        Parameters
        ----------
        n : int
            Particles of a minibatch, of all labels together; fewer where the source has fewer rows.
        rng : numpy Generator
            Draws them.
        blur, solve : float or "auto", and Solver
            Of the plans in which unknown labels find their partners.
        dropout : float
            Particles whose condition is dropped, as a fraction of `n`.
        """
        source, target, kinds = self.source, self.target, self.kinds
        if self.times:
            return minibatches.course(self.snapshots, self.unit_times, n, rng)
        n = source.most(n) if self.pairs is not None or kinds is not None else n
        if self.pairs is not None:
            return minibatches.anchored(source, target, self.pairs, n, rng)
        if kinds is None:
            return minibatches.plain(source, target, n, rng)
        if isinstance(kinds, Moments):
            drawn = minibatches.conditioned(source, target, kinds, n, rng)
        elif source.known is not None and any(
            side.known is not None and UNKNOWN in side.known for side in (source, target)
        ):
            drawn = minibatches.partly_labelled(source, target, kinds, n, rng, blur=blur, solve=solve)
        else:
            drawn = minibatches.labelled(source, target, kinds, n, rng)
        return minibatches.with_dropped(drawn, source, target, round(dropout * n), self.n_conditions, rng)

    def columns(self, y: Known, n: int) -> np.ndarray | None:
        """Return the conditions of `n` samples for a network, unknown where `y` is None; None without conditions."""
        if self.kinds is None:
            if y is not None:
                raise ValueError("y was given to a model that was fitted without conditions; fit with y_tgt first.")
            return None
        if y is None:
            return np.zeros((n, self.n_conditions), np.float32)
        return self.kinds.columns(self.kinds.codes(y, "y", n, is_one_for_all=True))

    def draw(self, n: int, y: Known, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """Return `n` points of the source and their conditions for a network.

        Without `y` they are unknown, or those of the rows drawn where these have some.
        """
        x, own, kinds = self.source.x, self.source.known, self.kinds
        if x is None or own is None or kinds is None:
            return self.source.draw(n, rng), self.columns(y, n)
        if y is None:
            i = rng.choice(len(own), size=n, replace=n > len(own))
            return x[i], kinds.columns(own[i])
        if not isinstance(kinds, Classes):
            raise ValueError("y of sample needs labels, or a model fitted without y_src; use transform(X, y).")
        codes, i = kinds.codes(y, "y", n, is_one_for_all=True), np.empty(n, dtype=int)
        for k in np.unique(codes):
            which, found = np.flatnonzero(codes == k), np.flatnonzero((own == k) | (k == UNKNOWN))
            found = found if len(found) else np.flatnonzero(own == UNKNOWN)
            i[which] = rng.choice(found, size=len(which), replace=len(which) > len(found))
        return x[i], kinds.columns(codes)

    def span(self, t0: float | None, t1: float | None) -> tuple[float, float]:
        """Return times of a time course as parts of it; (0, 1) without."""
        if not self.times:
            if not (t0 is None and t1 is None):
                raise ValueError("t0 and t1 belong to a time course; fit one first: fit({t: X_t}).")
            return 0.0, 1.0
        begin, end = self.times[0], self.times[-1]
        t0, t1 = begin if t0 is None else t0, end if t1 is None else t1
        if not begin <= t0 < t1 <= end:
            raise ValueError(f"t0={t0!r} and t1={t1!r} must rise within the times of the fit, {begin:g} to {end:g}.")
        first, last = self._in_course((t0, t1))
        return first, last

    def kept(self, rng: np.random.Generator) -> "Task":
        """Return what a fitted model remembers: the source, and at most 2048 rows of the target."""
        n = sum(len(x) for x in self.snapshots[1:]) or len(self.target.rows)
        i = rng.choice(n, size=min(n, _REFERENCE_ROWS), replace=False)  # a course draws too: its seeds keep their bits
        target = Side(self.target.rows[:_REFERENCE_ROWS] if self.times else self.target.rows[i])
        return dataclasses.replace(self, target=target, pairs=None, snapshots=())

    def check(self) -> None:
        """Raise where a file holds a task that no fit keeps."""
        d = len(self.frame.shift)
        for side in (self.source, self.target):
            side.check(d, self.kinds)
        if self.target.x is None or self.features.n != d:
            raise ValueError(f"the target must have rows, and the source {d} columns, not {self.features.n}.")
        if self.times:
            _checks.rising("times", self.times)
        if self.pairs is not None or self.snapshots or (self.times and self.kinds):
            raise ValueError("pairs and snapshots are not kept, and a time course has no conditions.")
        if self.kinds is None and (self.source.known is not None or self.target.known is not None):
            raise ValueError("there are conditions that are not described.")

    def fingerprint(self) -> bytes:
        """Return what tells this task from another."""
        arrays: dict[str, np.ndarray] = {}
        code = hashlib.sha256(json.dumps(_io.pack("task", self, arrays, repr)).encode())
        for array in arrays.values():
            code.update(np.ascontiguousarray(array).data)
        return code.digest()
