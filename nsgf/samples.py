"""The border: the user's samples become rows in units of their spread, and rows go back to the user's form."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, validate_data

from nsgf import _io
from nsgf._arrays import Array, check_widths, like, refuse_masked, same_columns as same_columns, to_numpy
from nsgf.sinkhorn import spread

Snapshots = Mapping[float, ArrayLike] | Iterable[tuple[float, ArrayLike]]


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
        centred = [x - origin for x, origin in zip(xs, origins, strict=True)]
        before, after = np.concatenate(centred[:-1]), np.concatenate(centred[1:])
        length = np.hypot(spread(before), spread(after)) / 2**0.5 or np.linalg.norm(origins[-1] - origins[0]) or 1.0
        return cls(origins, times, float(length) / xs[0].shape[1] ** 0.5, shape)

    def origin(self, s: float) -> np.ndarray:
        """Return the place (d,) from which points are seen at part `s` of the way, from 0 to 1."""
        j = min(max(int(np.searchsorted(self.times, s, side="right")), 1), len(self.times) - 1)
        w = (s - self.times[j - 1]) / (self.times[j] - self.times[j - 1])
        return (1.0 - w) * self.origins[j - 1] + w * self.origins[j]

    def to_unit(self, x: np.ndarray, s: float = 0.0) -> np.ndarray:
        """Return data in units of their spread; float32 of float64 arithmetic, so rescaled data give equal bits."""
        return ((x.astype(np.float64) - self.origin(s)) / self.scale).astype(np.float32)

    def to_data(self, z: np.ndarray, s: float = 1.0) -> np.ndarray:
        """Return what lies in units of the spread, at part `s` of the way, in those of the data, float64."""
        return z.astype(np.float64) * self.scale + self.origin(s)


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


def rows(X: ArrayLike, name: str, least: int = 2) -> np.ndarray:
    """Return `X` as a finite (n, d) NumPy array of float64, of at least so many rows, or raise an error that names it.

    Examples
    --------
    >>> rows([[1, 2], [3, 4]], "X").dtype
    dtype('float64')
    """
    refuse_masked(X, name)
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


def in_form_of(X: ArrayLike, z: np.ndarray, shape: tuple[int, ...]) -> Array:
    """Return rows (…, n, d) in the library and dtype of `X`: as its samples if they are as wide, else of that shape."""
    given = tuple(getattr(X, "shape", ())[1:])
    own = given if len(given) > 1 else (math.prod(given) or z.shape[-1],)
    return like(z.reshape(*z.shape[:-1], *(own if math.prod(own) == z.shape[-1] else shape)), X)


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
