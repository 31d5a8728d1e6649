"""The border: the user's samples become rows in units of their spread, and rows go back to the user's form."""

import datetime
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, validate_data

from nsgf import _checks, _io
from nsgf._arrays import (
    Array,
    as_numbers,
    check_finite,
    check_widths,
    columns_of as columns_of,
    has_dates,
    like,
    refuse_masked,
    same_columns as same_columns,
    to_numpy,
)
from nsgf.sinkhorn import deviation

Time = float | datetime.date | datetime.timedelta | np.datetime64 | np.timedelta64
_FARTHEST = 1e18  # in spreads: squares of it are within float32

Snapshots = Mapping[Time, ArrayLike] | Iterable[tuple[Time, ArrayLike]]


@_io.storable
class Frame(NamedTuple):
    """Moving origin and unit of length in which flows are learnt, and the shape of one sample.

    Each sample is seen from its own mean, and what lies between them from a place on the way: a flow is equivariant
    under translations of either sample, so the way of the mean is known and need not be learnt.

    Attributes
    ----------
    origins : array of shape (k, d)
        The means of the source and of the target, or of the snapshots of a time course.
    times : tuple of float
        Where on the way they are: (0, 1), or the times of the snapshots as parts of the course.
    scale : float
        Root-mean-square deviation of a feature from its sample's mean; the distance of the means where both samples are
        single points.
    shape : tuple of int
        Shape of one sample of the target: (d,), or that of an image.

    Examples
    --------
    >>> frame = Frame.of([np.array([[-1.0], [1.0]]), np.array([[11.0], [13.0]])], (1,))
    >>> z = frame.to_unit(np.array([[1.0]]))
    >>> frame.to_data(z), frame.to_data(z, 0.5)
    (array([[13.]]), array([[7.]]))
    """

    origins: np.ndarray
    times: tuple[float, ...]
    scale: float
    shape: tuple[int, ...]

    @classmethod
    def of(cls, xs: Sequence[np.ndarray], shape: tuple[int, ...], times: tuple[float, ...] = (0.0, 1.0)) -> "Frame":
        """Return the frame of a source and a target, or of the snapshots of a time course."""
        origins = np.stack([x[0] + (x - x[0]).mean(axis=0) for x in xs])  # to the last digit where all rows are equal
        widths = np.array([len(x) ** 0.5 * deviation(x - origin) for x, origin in zip(xs, origins, strict=True)])
        before, after = (np.hypot.reduce(widths[i]) / sum(map(len, xs[i])) ** 0.5 for i in (slice(-1), slice(1, None)))
        length = np.hypot(before, after) / 2**0.5 or np.linalg.norm(origins[-1] - origins[0]) or 1.0
        return cls(origins, times, float(length) / xs[0].shape[1] ** 0.5, shape)

    def origin(self, s: float) -> np.ndarray:
        """Return the place (d,) from which points are seen at part `s` of the way, from 0 to 1."""
        j = min(max(int(np.searchsorted(self.times, s, side="right")), 1), len(self.times) - 1)
        w = (s - self.times[j - 1]) / (self.times[j] - self.times[j - 1])
        return (1.0 - w) * self.origins[j - 1] + w * self.origins[j]

    def to_unit(self, x: np.ndarray, s: float = 0.0) -> np.ndarray:
        """Return data in units of their spread; float32 of float64 arithmetic, so rescaled data give equal bits."""
        with np.errstate(over="ignore"):
            z = (x.astype(np.float64) - self.origin(s)) / self.scale
        largest = np.abs(z).max(initial=0.0)
        if largest > _FARTHEST:
            raise ValueError(
                f"X lies up to {largest:.2g} spreads from the samples of the fit. Give it in their unit, or fit on it."
            )
        return z.astype(np.float32)

    def to_data(self, z: np.ndarray, s: float = 1.0) -> np.ndarray:
        """Return what lies in units of the spread, at part `s` of the way, in those of the data, float64."""
        return z.astype(np.float64) * self.scale + self.origin(s)

    def check(self) -> None:
        """Raise where a file holds no frame."""
        for n in self.shape or (0,):
            _checks.count("shape", n)
        _checks.rising("times", self.times)
        _checks.array("origins", self.origins, (len(self.times), None))
        _checks.positive("scale", self.scale, "1.0")


@_io.storable
class Features(NamedTuple):
    """Number of the source's columns, and their names where it is a data frame with names."""

    n: int
    names: np.ndarray | None

    @property
    def columns(self) -> np.ndarray:
        """The names; an AttributeError where there are none."""
        if self.names is None:
            raise AttributeError("there are no feature names: the source was no data frame.")
        return self.names

    def check(self) -> None:
        """Raise where a file holds other names than one text a column."""
        _checks.count("n", self.n)
        if self.names is not None and (len(self.names) != self.n or not all(isinstance(k, str) for k in self.names)):
            raise ValueError(f"names={self.names!r} must be one text for each of {self.n} columns.")


def rows(X: ArrayLike, name: str, least: int = 2) -> np.ndarray:
    """Return `X` as a finite (n, d) NumPy array of float64, of at least so many rows, or raise an error that names it.

    Examples
    --------
    >>> rows([[1, 2], [3, 4]], "X").dtype
    dtype('float64')
    """
    _refuse(X, name)
    refuse_masked(X, name)
    frame = as_numbers(X, name) if hasattr(X, "columns") else None
    try:
        plain = _flat(to_numpy(X)) if frame is None else frame
        shape = getattr(plain, "shape", None if hasattr(plain, "__array__") else ())
        if shape == ():
            raise TypeError(f"expected rows (n, d), got a {type(X).__name__}. Give an array or a data frame.")
        if shape and shape[1:] == (0,):
            raise ValueError(f"0 feature(s) (shape={shape}) while a minimum of 1 is required. Give some columns.")
        if has_dates(X) or str(getattr(plain, "dtype", "")).startswith(("datetime", "timedelta")):
            raise ValueError("dates are no features. Give days since the first, (t - t_0) / np.timedelta64(1, 'D').")
        if len(getattr(plain, "shape", (0, 0))) == 1:
            raise ValueError(f"expected rows (n, d), got shape {plain.shape}. {_AS_ROWS.get(name, _RESHAPE)}")
        with np.errstate(over="ignore"):  # of long doubles, which are then found infinite
            options = {"input_name": name, "ensure_min_samples": least, "ensure_all_finite": False}
            x: np.ndarray = check_array(plain, dtype=np.float64, order="C", **options)
    except OverflowError:
        raise ValueError(f"{name} has integers that float64 does not hold. Give them in a larger unit.") from None
    except (ValueError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        words = "it is not numeric, " if str(error).startswith(("float()", "could not convert")) else ""
        raise kind(f"{name}: {words}{error}{'. Encode it as numbers first.' if words else ''}") from error
    check_finite(x, name)
    return x


_RESHAPE = "Reshape your data: .reshape(-1, 1) for one feature, .reshape(1, -1) for one sample."
_AS_ROWS = {
    "X_tgt": "The second argument is the target sample. Labels of it go to y_tgt, fit(X_src, X_tgt, y_tgt=labels); one "
    "feature makes a column, X_tgt[:, None]."
}


def _refuse(X: Any, name: str) -> None:
    """Raise on what NumPy would read as something else than samples."""
    if isinstance(X, type):
        raise TypeError(f"{name} is the class {X.__name__}. Give an array or a data frame.")
    if isinstance(X, Iterator):
        raise TypeError(f"{name} is a {type(X).__name__}, which can be read once only; give an array, or list({name}).")
    is_dict = isinstance(X, Mapping) and not hasattr(X, "shape")  # a sparse matrix can be one
    if is_dict or (isinstance(X, list | tuple) and len(X) > 0 and all(map(_is_snapshot, X))):
        raise ValueError(
            f"{name} is a {type(X).__name__} of several samples, as a time course is; give that alone, "
            "fit({t: X_t}), and columns of one sample as an array or a data frame."
        )


def _is_snapshot(item: Any) -> bool:
    """Whether an item is a time with its sample."""
    return isinstance(item, tuple | list) and len(item) == 2 and np.ndim(item[0]) == 0 and len(shape_of(item[1])) > 0


def _flat(X: Any) -> Any:
    """Return images (n, …) as rows (n, d), and lists as arrays; what has two dimensions passes through."""
    X = np.asarray(X) if isinstance(X, list | tuple | range) else X
    X = np.asarray(X) if getattr(X, "ndim", 2) > 2 and not hasattr(X, "reshape") else X  # such as xarray
    return X.reshape(len(X), math.prod(X.shape[1:])) if getattr(X, "ndim", 2) > 2 else X


def features(X: ArrayLike) -> Features:
    """Return the number and names of the columns of `X`, or raise where scikit-learn does not take the names."""
    probe = BaseEstimator()
    validate_data(probe, _flat(X), reset=True, skip_check_array=True)
    return Features(probe.n_features_in_, getattr(probe, "feature_names_in_", None))


def check_features(estimator: BaseEstimator, X: ArrayLike) -> None:
    """Raise where the columns of `X` are not those that the estimator was fitted on."""
    validate_data(estimator, _flat(X), reset=False, skip_check_array=True)


def shape_of(X: ArrayLike) -> tuple[int, ...]:
    """Return the shape of one sample, (d,) or that of an image."""
    return tuple((X if hasattr(X, "shape") else np.asarray(X)).shape[1:])


def in_form_of(X: ArrayLike, z: np.ndarray, shape: tuple[int, ...]) -> Array:
    """Return rows (…, n, d) in the library and dtype of `X`: as its samples if they are as wide, else of that shape."""
    own = shape_of(X)
    return like(z.reshape(*z.shape[:-1], *(own if math.prod(own) == z.shape[-1] else shape)), X)


def same_shape(shape: tuple[int, ...], other: tuple[int, ...], names: tuple[str, str]) -> None:
    """Refuse images in another layout; rows go with images of as many entries, and (h, w) with (1, h, w)."""
    images = [z[next((i for i, n in enumerate(z) if n > 1), 0) :] for z in (shape, other) if len(z) > 1]
    if len(images) == 2 and images[0] != images[1]:
        raise ValueError(
            f"{names[0]} has samples of shape {shape} but {names[1]} of {other}; give both in one layout, as by "
            f"{names[0]}.transpose(0, 3, 1, 2) from channels last to channels first, or both as rows."
        )


@_io.storable
class Calendar(NamedTuple):
    """What the times of a course are: numbers, or dates or durations, which count as seconds since the first of them.

    Attributes
    ----------
    kind : str
        ``"number"``, ``"date"``, ``"date with a time zone"`` or ``"duration"``.
    origin : int
        Microseconds of the first time; 0 of numbers.

    Examples
    --------
    >>> calendar = Calendar.of([np.datetime64("2024-01-01"), np.datetime64("2024-01-03")])
    >>> calendar.number(np.datetime64("2024-01-02"), "t1"), calendar.times([86400.0])
    (86400.0, array(['2024-01-02T00:00:00.000000'], dtype='datetime64[us]'))
    """

    kind: str = "number"
    origin: int = 0

    @classmethod
    def of(cls, times: Sequence[Any]) -> "Calendar":
        """Return the calendar of the times of a course, or raise where they are of several kinds or of none."""
        read = [_as_time(t, "X_src has times that are no numbers or dates:") for t in times]
        kinds = sorted({kind for kind, _ in read})
        if len(kinds) > 1:
            raise ValueError(f"X_src has times of several kinds, {' and '.join(kinds)}; give all of one kind.")
        return cls(kinds[0], 0 if kinds[0] == "number" else int(min(t for _, t in read)))

    def number(self, t: Any, name: str) -> float:
        """Return a time as a number of this calendar; an error names it."""
        kind, number = _as_time(t, f"{name} is no time:")
        if kind != self.kind:
            raise ValueError(f"{name}={t!r} is a {kind}, but the times of the fit are each a {self.kind}; give one.")
        return float(number) if kind == "number" else (int(number) - self.origin) / 1e6

    def times(self, numbers: Sequence[float]) -> np.ndarray:
        """Return numbers as times: floats, or dates (those with a time zone in UTC) or durations of NumPy."""
        if self.kind == "number":
            return np.array(numbers)
        return (np.rint(np.multiply(numbers, 1e6)).astype(np.int64) + self.origin).astype(
            "timedelta64[us]" if self.kind == "duration" else "datetime64[us]"
        )

    def shown(self, number: float) -> str:
        """Return a number as a time in words."""
        return f"{number:.15g}" if self.kind == "number" else str(self.times([number])[0])


def _as_time(t: Any, words: str) -> tuple[str, float | int]:
    """Return the kind of a time and its number: of a date or a duration, microseconds."""
    t = t[()] if isinstance(t, np.ndarray) and t.ndim == 0 else t
    kind = "duration" if isinstance(t, datetime.timedelta | np.timedelta64) else "date"
    try:
        if isinstance(t, str | bytes | bool | np.bool_):
            raise TypeError
        if not isinstance(t, datetime.date | np.datetime64 | datetime.timedelta | np.timedelta64):
            return "number", float(t)
        if isinstance(t, datetime.datetime) and t.tzinfo is not None:
            kind, t = "date with a time zone", t.astimezone(datetime.UTC).replace(tzinfo=None)
        found = np.timedelta64(t, "us") if kind == "duration" else np.datetime64(t, "us")
        if np.isnat(found):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{words} {t!r}. Give a number, or a date or duration of datetime, NumPy or pandas.") from None
    return kind, int(found.astype(np.int64))


def snapshots(given: Any) -> tuple[Calendar, tuple[float, ...], list[np.ndarray], list[Any]]:
    """Return the calendar and the times of a course, its samples as rows, and as they were given; in order of time."""
    items = list(given.items() if isinstance(given, Mapping) else given if given is not None else ())
    if not items or not all(isinstance(z, tuple | list) and len(z) == 2 and not np.isscalar(z[1]) for z in items):
        raise ValueError(
            "X_tgt is missing. Give target samples, fit(X_src, X_tgt), with X_src=None for noise; or the snapshots of "
            "a time course, fit({t: X_t})."
        )
    given_times = [_parsed(t) for t, _ in items]
    calendar = Calendar.of(given_times)
    times = [calendar.number(t, "t") for t in given_times]
    if len(set(times)) < max(len(times), 2) or not np.isfinite(max(times) - min(times)):
        raise ValueError(
            f"X_src has the times {[t for t, _ in items]}; a time course needs two or more, finite and all different: "
            "as float64, or of dates in microseconds."
        )
    order = np.argsort(times)
    times, samples = [times[i] for i in order], [items[i][1] for i in order]
    same_columns([columns_of(X) for X in samples], "the snapshots of X_src")
    names = [f"X_src at time {calendar.shown(t)}" for t in times]
    xs = [rows(X, name) for X, name in zip(samples, names, strict=True)]
    for x, X, name in zip(xs, samples, names, strict=True):
        check_widths(xs[0], x, (names[0], name))
        same_shape(shape_of(samples[0]), shape_of(X), (names[0], name))
    return calendar, tuple(times), xs, samples


def _parsed(t: Any) -> Any:
    """Return a time that is written as text, as the keys of files are, as a number where it is one."""
    try:
        return float(t) if isinstance(t, str) else t
    except ValueError:
        return t
