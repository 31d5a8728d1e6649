"""The task of one fit: what is carried where, and what is known of it."""

import bisect
import dataclasses
import hashlib
import json
import math
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike

from nsgf import _checks, _io, conditions, minibatches, samples
from nsgf._arrays import check_widths
from nsgf.conditions import UNKNOWN, Classes, Conditions, Labels, Moments, Numbers, Pairs
from nsgf.encoders import Codec
from nsgf.minibatches import Minibatches, Side
from nsgf.samples import Calendar, Features, Frame, Time
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
    calendar : Calendar
        What the times are.

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
    codec: Codec = Codec()
    calendar: Calendar = Calendar()

    @classmethod
    def of(
        cls,
        X_src: ArrayLike | None,
        X_tgt: ArrayLike,
        y_src: Known = None,
        y_tgt: Known = None,
        pairs: "ArrayLike | Pairs | None" = None,
        encoder: Any = None,
    ) -> Self:
        """Return the task of two samples, as in `fit`; the source is noise where there is none."""
        y = samples.rows(X_tgt, "X_tgt")
        x = None if X_src is None else samples.rows(X_src, "X_src")
        if x is not None and not isinstance(encoder, tuple | list):
            samples.same_columns([samples.columns_of(X_src), samples.columns_of(X_tgt)], "X_src and X_tgt")
            check_widths(x, y, ("X_src", "X_tgt"))
            samples.same_shape(samples.shape_of(cast(ArrayLike, X_src)), samples.shape_of(X_tgt), ("X_src", "X_tgt"))
        codec = Codec.of(encoder, x, y)
        y = codec.encoded(y, -1)
        x = y if x is None else codec.encoded(x, 0)
        check_widths(x, y, ("encoder: X_src", "X_tgt") if encoder else ("X_src", "X_tgt"))
        kinds, known_x, known_y = conditions.of_both(None if X_src is None else len(x), len(y), y_src, y_tgt)
        if pairs is not None:
            if X_src is None or kinds is not None:
                raise ValueError("pairs go with samples X_src and X_tgt, and not with y_src or y_tgt.")
            pairs = (pairs if isinstance(pairs, Pairs) else Pairs(pairs)).within(len(x), len(y))
        frame = Frame.of([x, y], samples.shape_of(X_tgt))
        target = Side(frame.to_unit(y, 1.0), known_y)
        source = Side(scale=target.rows.std(axis=0)) if X_src is None else Side(frame.to_unit(x), known_x)
        features = samples.features(X_tgt if X_src is None else X_src)
        return cls(frame, features, source, target, kinds, pairs, codec=codec)

    @classmethod
    def course(cls, given: Any, *others: object, encoder: Any = None) -> Self:
        """Return the task of a time course, ``{t: X_t}`` or pairs ``(t, X_t)``; it goes with nothing else."""
        calendar, times, xs, as_given = samples.snapshots(given)
        if any(other is not None for other in others):
            raise ValueError("y_src, y_tgt and pairs do not go with a time course; fit each label by itself.")
        codec = Codec.of(encoder, np.concatenate(xs))
        xs = [codec.encoded(x, 0) for x in xs]
        parts = tuple(_in_course(times, t) for t in times)
        frame = Frame.of(xs, samples.shape_of(as_given[-1]), parts)
        units = tuple(frame.to_unit(x, s) for x, s in zip(xs, parts, strict=True))
        features = samples.features(as_given[0])
        return cls(frame, features, Side(), Side(), times=times, codec=codec, calendar=calendar).of_snapshots(units)

    def of_snapshots(self, units: tuple[np.ndarray, ...]) -> Self:
        """Return the task of these snapshots, in units, at the same times."""
        return dataclasses.replace(self, source=Side(units[0]), target=Side(units[-1]), snapshots=units)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample as a network is to see it: that of an image, unless an encoder has changed its width."""
        d = self.frame.origins.shape[1]
        return self.frame.shape if math.prod(self.frame.shape) == d else (d,)

    @property
    def n_conditions(self) -> int:
        """Numbers that a network is given of the condition of a row."""
        return 0 if self.kinds is None else self.kinds.n_columns

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
            return minibatches.course(self.snapshots, self.frame.times, n, rng)
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
        n_dropped = max(round(dropout * n), int(dropout > 0))
        return minibatches.with_dropped(drawn, source, target, n_dropped, self.n_conditions, rng)

    def columns(self, y: Known, n: int) -> np.ndarray | None:
        """Return the conditions of `n` samples for a network, unknown where `y` is None; None without conditions."""
        if self.kinds is None:
            if y is not None:
                raise ValueError("y was given to a model that was fitted without conditions; fit with y_tgt first.")
            return None
        if y is None:
            self.kinds.check_free("y=None")
            return np.zeros((n, self.n_conditions), np.float32)
        return self.kinds.columns(self.kinds.codes(y, "y", n, is_one_for_all=True))

    def check_guided(self, guidance: float) -> None:
        """Raise where a guidance is no number, or needs the field without conditions, and that was not learnt."""
        if not math.isfinite(_checks.real(guidance)):
            raise ValueError(f"guidance={guidance!r} must be a number; 1.0 follows the conditional field.")
        if self.kinds is not None and guidance != 1:
            self.kinds.check_free(f"guidance={guidance!r}")

    def draw(self, n: int, y: Known, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """Return `n` points of the source and their conditions for a network.

        Without `y` these are those of the rows drawn, or where the source has none, those of rows of the target.
        """
        x, own, kinds = self.source.x, self.source.known, self.kinds
        if kinds is None or (own is None and y is not None):
            return self.source.draw(n, rng), self.columns(y, n)
        if own is None or x is None:
            known = self.target.codes
            return self.source.draw(n, rng), kinds.columns(
                known[rng.choice(len(known), size=n, replace=n > len(known))]
            )
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

    def span(self, t0: Time | None, t1: Time | None) -> tuple[float, float]:
        """Return times of a time course as those of a network; (0, 1) without."""
        if not self.times:
            if not (t0 is None and t1 is None):
                raise ValueError("t0 and t1 belong to a time course; fit one first: fit({t: X_t}).")
            return 0.0, 1.0
        begin, end = self.times[0], self.times[-1]
        first = begin if t0 is None else self.calendar.number(t0, "t0")
        last = end if t1 is None else self.calendar.number(t1, "t1")
        if not begin <= first < last <= end:
            raise ValueError(
                f"t0={self.calendar.shown(first)} and t1={self.calendar.shown(last)} must rise within the times of the "
                f"fit, {self.calendar.shown(begin)} to {self.calendar.shown(end)}."
            )
        return _in_course(self.times, first), _in_course(self.times, last)

    def kept(self, rng: np.random.Generator, dropout: float = 1.0) -> "Task":
        """Return what a fitted model remembers: the source, and at most 2048 rows of the target."""
        n = sum(len(x) for x in self.snapshots[1:]) or len(self.target.rows)
        i = rng.choice(n, size=min(n, _REFERENCE_ROWS), replace=False)  # a course draws too: its seeds keep their bits
        target = Side(self.target.rows[:_REFERENCE_ROWS]) if self.times else self.target.of_rows(i)
        kinds = self.kinds and dataclasses.replace(cast(Any, self.kinds), is_free=dropout > 0 or self._has_unknown)
        return dataclasses.replace(self, target=target, kinds=kinds, pairs=None, snapshots=())

    @property
    def _has_unknown(self) -> bool:
        """Whether a network is shown particles of unknown label: those of the source, or of a target without one."""
        codes = self.target.known if self.source.known is None else self.source.known
        return isinstance(self.kinds, Classes) and codes is not None and UNKNOWN in codes

    def of_rows(self, i: np.ndarray, j: np.ndarray) -> Self:
        """Return the task of these rows of the source and of the target, in rising order, and the pairs among them."""
        pairs, source = self.pairs, self.source if self.source.x is None else self.source.of_rows(i)
        if pairs is not None:
            rows = np.asarray(pairs.rows)
            rows = rows[np.isin(rows[:, 0], i) & np.isin(rows[:, 1], j)]
            within = np.stack([np.searchsorted(i, rows[:, 0]), np.searchsorted(j, rows[:, 1])], axis=1)
            pairs = dataclasses.replace(pairs, rows=within) if len(rows) else None
        return dataclasses.replace(self, source=source, target=self.target.of_rows(j), pairs=pairs)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of every sample; noise has none."""
        if self.times:
            return tuple(len(x) for x in self.snapshots)
        return tuple(len(side.x) for side in (self.source, self.target) if side.x is not None)

    def restored(self, encoder: Any) -> Self:
        """Return the task with the encoder as it was kept, or as it is given."""
        widths = self.features.n, math.prod(self.frame.shape)
        return dataclasses.replace(self, codec=self.codec.restored(encoder, widths, self.frame.origins))

    def check(self) -> None:
        """Raise where a file holds a task that no fit keeps."""
        d = self.frame.origins.shape[1]
        for side in (self.source, self.target):
            side.check(d, self.kinds)
        if self.target.x is None:
            raise ValueError("the target must have rows.")
        if not self.codec.each and {self.features.n, math.prod(self.frame.shape)} != {d}:
            raise ValueError(f"samples of shape {self.frame.shape} from {self.features.n} columns are not of {d}.")
        if self.times:
            _checks.rising("times", self.times)
        if self.frame.times != (tuple(_in_course(self.times, t) for t in self.times) if self.times else (0.0, 1.0)):
            raise ValueError(f"the frame has other times, {self.frame.times}.")
        if self.pairs is not None or self.snapshots or (self.times and self.kinds):
            raise ValueError("pairs and snapshots are not kept, and a time course has no conditions.")
        if self.kinds is None and (self.source.known is not None or self.target.known is not None):
            raise ValueError("there are conditions that are not described.")

    def fingerprint(self) -> bytes:
        """Return what tells this task from another."""
        arrays: dict[str, np.ndarray] = {}
        form = _io.pack("task", dataclasses.replace(self, codec=Codec()), arrays, repr)
        code = hashlib.sha256(json.dumps(form).encode())
        for array in arrays.values():
            code.update(np.ascontiguousarray(array).data)
        return code.digest()


def _in_course(times: tuple[float, ...], t: float) -> float:
    """Return a time of a course as a network has it: 0 at the first, 1 at the last, equal steps between snapshots."""
    j = min(bisect.bisect_right(times, t), len(times) - 1) - 1  # intervals of any size are learnt alike
    return (j + (t - times[j]) / (times[j + 1] - times[j])) / (len(times) - 1)
