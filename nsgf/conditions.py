"""Conditions: what is known of a sample beside its place, as codes for the transport and as numbers for the network."""

import dataclasses
import math
import warnings
from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from nsgf._arrays import to_numpy

__all__ = ["UNKNOWN", "Conditions", "read"]

UNKNOWN = -1  # the code of a label that is not known


@dataclasses.dataclass(frozen=True)
class Conditions:
    """The conditions of one model: classes, or continuous ones with their mean and deviation.

    Attributes
    ----------
    classes : tuple
        The labels, where conditions are labels; empty otherwise.
    shift, scale : array of shape (k,)
        Mean and standard deviation of each continuous condition; empty for labels.

    Examples
    --------
    >>> kinds = Conditions.of(["cat", "dog", "cat", None], "y_tgt")
    >>> kinds.classes, kinds.read(["dog", None], "y", 2)
    (('cat', 'dog'), array([ 1, -1]))
    >>> kinds.columns(np.array([1, -1]))
    array([[0., 1.],
           [0., 0.]], dtype=float32)
    """

    classes: tuple[Any, ...] = ()
    shift: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    scale: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, y: Any, name: str) -> Self:
        """Return the conditions that `y` has: labels where it has one dimension, continuous where it has two."""
        if _n_dimensions(y) != 2:
            given = _labels(y, name)
            labels = [label for label in given if not _is_unknown(label)]
            if not labels:
                raise ValueError(f"{name} has no known label: all are None or -1. Leave it out, or label some rows.")
            n_minus = sum(isinstance(label, int | float) and label == -1 for label in given)  # pandas.NA has no truth
            if n_minus and set(labels) == {1}:
                warnings.warn(
                    f"{name} has labels 1 and -1, and -1 stands for unknown: {n_minus} rows have no label. "
                    "Where -1 is a class of its own, call it something else, such as 0.",
                    stacklevel=5,
                )
            return cls(_sorted(dict.fromkeys(labels)))
        values = _numbers(y, name)
        return cls((), values.mean(axis=0), np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0))

    @property
    def n_columns(self) -> int:
        """Numbers that the network is given: one a class; or a 1, for known, and one a continuous condition."""
        return len(self.classes) or 1 + len(self.shift)

    def read(self, y: Any, name: str, n: int) -> np.ndarray:
        """Return the codes (n,) of labels, −1 where unknown, or the standardised continuous conditions (n, k).

        One label, or one row of numbers, stands for all.
        """
        if not self.classes:
            values = _numbers(np.atleast_2d(to_numpy(y)), name)
            if values.shape[1] != len(self.shift):
                raise ValueError(
                    f"{name} has {values.shape[1]} continuous conditions a row, but the model was fitted with "
                    f"{len(self.shift)}. Give an array of shape ({n}, {len(self.shift)})."
                )
            values = np.repeat(values, n, axis=0) if len(values) == 1 else values
            return (_of_length(values, n, name) - self.shift) / self.scale
        is_one = not _is_vector(y) and getattr(y, "ndim", 0) == 0
        labels = _of_length([_plain(y)] * n if is_one else _labels(y, name), n, name)
        code = {label: i for i, label in enumerate(self.classes)}
        unseen = [label for label in dict.fromkeys(labels) if not (_is_unknown(label) or label in code)]
        if unseen:
            raise ValueError(
                f"{name} has labels that the model was not fitted with: {_listed(unseen)}. The known ones are "
                f"{_listed(self.classes)}; None or -1 stands for unknown."
            )
        return np.array([UNKNOWN if _is_unknown(label) else code[label] for label in labels])

    def columns(self, read: np.ndarray) -> np.ndarray:
        """Return what the network is given, float32 (n, n_columns), zero where a condition is unknown."""
        if self.classes:
            return (read[:, None] == np.arange(len(self.classes))).astype(np.float32)
        return np.concatenate([np.ones((len(read), 1)), read], axis=1).astype(np.float32)


def read(
    n: int | None, m: int, y_src: Any, y_tgt: Any
) -> tuple[Conditions | None, np.ndarray | None, np.ndarray | None]:
    """Return what the conditions of `n` source samples (None for noise) and `m` targets are, and both as read."""
    if y_tgt is None:
        if y_src is not None:
            raise ValueError("y_src was given without y_tgt; give both, or y_tgt alone to carry any source anywhere.")
        return None, None, None
    found = Conditions.of(y_tgt, "y_tgt")
    target = found.read(y_tgt, "y_tgt", m)
    if y_src is None:
        return found, None, target
    if n is None:
        raise ValueError("y_src has conditions of a source that is noise (X_src is None); give y_tgt only.")
    source = found.read(y_src, "y_src", n)
    if found.classes and UNKNOWN not in source:
        empty = [found.classes[k] for k in np.setdiff1d(target[target != UNKNOWN], source)]
        if empty:
            raise ValueError(f"y_tgt has labels that no row of y_src has: {_listed(empty)}. Drop those rows of X_tgt.")
    return found, source, target


def _n_dimensions(y: Any) -> int:
    """Return the dimensions of `y`; 1 for lists of what are no numbers."""
    if hasattr(y, "ndim"):
        return int(y.ndim)
    return 2 if isinstance(y, list | tuple) and len(y) > 0 and all(isinstance(row, list) for row in y) else 1


def _is_vector(y: Any) -> bool:
    return bool(getattr(y, "ndim", 0) == 1 or isinstance(y, list | tuple | range))


def _labels(y: Any, name: str) -> list[Any]:
    """Return the labels as a list of plain, hashable values."""
    if not _is_vector(y):
        raise ValueError(
            f"{name} must be one label a row, or an array (n, k) of continuous conditions; it is {type(y).__name__}"
            + (f" of shape {tuple(y.shape)}." if hasattr(y, "shape") else ".")
        )
    y = to_numpy(y)
    labels: list[Any] = y.tolist() if hasattr(y, "tolist") else [_plain(label) for label in y]
    for label in labels:
        if isinstance(label, float) and math.isfinite(label) and label != int(label):
            raise ValueError(
                f"{name} has the label {label!r}: one dimension means labels. Give continuous conditions as an array "
                f"of shape ({len(labels)}, 1)."
            )
        try:
            hash(label)
        except TypeError:
            raise ValueError(f"{name} has the label {label!r}, which is not hashable; give text or integers.") from None
    return labels


def _numbers(y: Any, name: str) -> np.ndarray:
    """Return continuous conditions as finite float64 (n, k)."""
    try:
        values = np.asarray(to_numpy(y), dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is not numeric; give labels in one dimension, or numbers (n, k).") from None
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} has shape {values.shape}; give continuous conditions as (n, k).")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} contains NaN or infinite values. Impute them, or drop those rows first.")
    return values


def _of_length(values: Any, n: int, name: str) -> Any:
    if len(values) != n:
        raise ValueError(f"{name} has {len(values)} rows but there are {n} samples; give one condition a sample.")
    return values


def _plain(label: Any) -> Any:
    """Return a NumPy scalar as the Python value."""
    return label.item() if isinstance(label, np.generic) else label


def _is_unknown(label: Any) -> bool:
    """Whether a label says that it is not known: None, −1, or a missing value of pandas."""
    if label is None or (isinstance(label, int | float) and not isinstance(label, bool) and label == -1):
        return True
    is_same = label == label  # noqa: PLR0124  NaN is not; pandas.NA is neither
    return not (isinstance(is_same, bool) and is_same)


def _sorted(labels: Iterable[Any]) -> tuple[Any, ...]:
    """Return the labels in order where they have one, else as they came."""
    labels = tuple(labels)
    try:
        return tuple(sorted(labels))
    except TypeError:
        return labels


def _listed(labels: Iterable[Any], most: int = 20) -> str:
    """Return the first labels as text."""
    shown = [repr(label) for label in labels]
    return ", ".join(shown[:most]) + (f", … ({len(shown)} in all)" if len(shown) > most else "")
