"""The border: the user's samples become rows in units of their spread, and rows go back to the user's form."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, validate_data

from nsgf import _checks, _io
from nsgf._arrays import Array, check_widths, like, to_numpy
from nsgf.sinkhorn import spread

Snapshots = Mapping[float, ArrayLike] | Iterable[tuple[float, ArrayLike]]


@_io.storable
class Frame(NamedTuple):
    """Origin and unit of length in which flows are learnt, and the shape of one sample.

    Attributes
    ----------
    shift : array of shape (d,)
        The target's mean.
    scale : float
        Root-mean-square deviation of a feature in both samples; the distance of the means where both are single points.
    shape : tuple of int
        Shape of one sample of the target: (d,), or that of an image.

    Examples
    --------
    >>> frame = Frame.of(np.zeros((2, 1)), np.array([[10.0], [14.0]]), (1,))
    >>> frame.to_data(frame.to_unit(np.array([[10.0]])))
    array([[10.]])
    """

    shift: np.ndarray
    scale: float
    shape: tuple[int, ...]

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, shape: tuple[int, ...]) -> "Frame":
        """Return the frame of a source x (n, d) and a target y (m, d)."""
        length = np.hypot(spread(x), spread(y)) / 2**0.5 or np.linalg.norm(x.mean(0) - y.mean(0)) or 1.0
        return cls(y.mean(axis=0), float(length) / x.shape[1] ** 0.5, shape)

    def to_unit(self, x: np.ndarray) -> np.ndarray:
        """Return data in units of their spread; float32 of float64 arithmetic, so rescaled data give equal bits."""
        return ((x.astype(np.float64) - self.shift) / self.scale).astype(np.float32)

    def to_data(self, z: np.ndarray) -> np.ndarray:
        """Return what lies in units of the spread in those of the data, float64."""
        return z.astype(np.float64) * self.scale + self.shift

    def check(self) -> None:
        """Raise where a file holds no frame."""
        for n in self.shape or (0,):
            _checks.count("shape", n)
        _checks.array("shift", self.shift, (math.prod(self.shape),))
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
    try:
        return check_array(_flat(to_numpy(X)), dtype=np.float64, order="C", input_name=name, ensure_min_samples=least)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name}: {error}") from error


def _flat(X: Any) -> Any:
    """Return images (n, …) as rows (n, d); what has two dimensions or is no array passes through."""
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
    return tuple(X.shape[1:]) if hasattr(X, "shape") else np.asarray(X).shape[1:]


def in_form_of(X: ArrayLike, z: np.ndarray) -> Array:
    """Return rows (…, n, d) in the library, dtype and sample shape of `X`."""
    shape = getattr(X, "shape", ())
    return like(z.reshape(*z.shape[:-1], *shape[1:]) if len(shape) > 2 else z, X)


def same_columns(samples: Sequence[Any], names: str) -> None:
    """Refuse data frames with other columns, or another order of them: they are read by position."""
    columns = [list(X.columns) for X in samples if hasattr(X, "columns")]
    for other in columns[1:]:
        if other != columns[0]:
            raise ValueError(
                f"{names} have different columns, or another order of them: {columns[0][:5]} and {other[:5]}. "
                "Select the same ones, such as X_tgt[X_src.columns]."
            )


def snapshots(given: Any) -> tuple[tuple[float, ...], list[np.ndarray], list[Any]]:
    """Return the times of a time course, its samples as rows, and as they were given; in the order of time."""
    items = list(given.items() if isinstance(given, Mapping) else given if given is not None else ())
    if not items or not all(isinstance(z, tuple | list) and len(z) == 2 and not np.isscalar(z[1]) for z in items):
        raise ValueError(
            "X_tgt is missing. Give target samples, fit(X_src, X_tgt), with X_src=None for noise; or the snapshots of "
            "a time course, fit({t: X_t})."
        )
    try:
        times = [float(t) if not isinstance(t, np.datetime64 | np.timedelta64) else float("t") for t, _ in items]
    except (TypeError, ValueError):
        raise ValueError(
            f"X_src has times that are no numbers: {[t for t, _ in items]}. Of dates, give the days or hours since the "
            "first, such as (t - t_0) / np.timedelta64(1, 'D')."
        ) from None
    if len(items) < 2 or len(set(times)) < len(times) or not np.isfinite(times).all():
        raise ValueError(f"X_src has the times {times}; a time course needs two or more, finite and all different.")
    order = np.argsort(times)
    times, samples = [times[i] for i in order], [items[i][1] for i in order]
    same_columns(samples, "the snapshots of X_src")
    names = [f"X_src at time {t:g}" for t in times]
    xs = [rows(X, name) for X, name in zip(samples, names, strict=True)]
    for x, name in zip(xs, names, strict=True):
        check_widths(xs[0], x, (names[0], name))
    return tuple(times), xs, samples
