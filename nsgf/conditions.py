"""Conditions: what is known of a sample beside its place, as codes for the transport and as numbers for the network.

The user says it as an array, or as a value with its weight: `Labels`, `Numbers` or `Pairs`. A model remembers what its
conditions are: `Classes`, or `Moments` of continuous ones.
"""

import abc
import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from nsgf import _checks, _io
from nsgf._arrays import to_numpy

UNKNOWN = -1  # the code of a label that is not known
_FARTHEST = 1e18  # in deviations: squares of it are within float32
WEIGHT = 4.0  # of conditions that come without one
_LARGEST = 1e150  # of continuous conditions: squares stay below 1e308


class _Rows:
    """Values of rows, which cross-validation may take apart."""

    values: Any

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows; without a shape, scikit-learn would make a list of single rows of them."""
        return (len(self),)

    def __getitem__(self, i: Any) -> Any:
        values = _as_array(self.values)
        if isinstance(values, list | tuple):  # an array of tuples would have two dimensions
            found: Any = [values[k] for k in np.atleast_1d(np.arange(len(values))[i])]
        else:
            found = np.asarray(to_numpy(values))[i]
        return dataclasses.replace(cast(Any, self), values=found)


@dataclasses.dataclass(frozen=True, eq=False)
class Labels(_Rows):
    """Labels of the rows of a sample, where an array would be read otherwise, such as labels that are fractions.

    Parameters
    ----------
    values : sequence of length n
        One label a row: text, a number or a tuple of them; None, -1 or a missing value is unknown.

    Examples
    --------
    >>> from nsgf import NSGF
    >>> dose = Labels([0.1, 0.5, 0.5])          # three doses, none of which lies between two others
    """

    values: "ArrayLike | Sequence[object]"


@dataclasses.dataclass(frozen=True, eq=False)
class Numbers(_Rows):
    """Continuous conditions of the rows of a sample, with their weight in the transport.

    Parameters
    ----------
    values : array-like of shape (n,) or (n, k)
        One number a row, or k.
    weight : float
        How much the conditions count in the cost: with 1 they are as wide as all features together. Of the conditions
        of a fit, those of the target say it.

    Raises
    ------
    ValueError
        On a weight that is not positive.

    Examples
    --------
    >>> from nsgf import NSGF
    >>> temperature = Numbers([17.5, 20.0, 21.5], weight=2.0)     # NSGF().fit(None, X, y_tgt=temperature)
    """

    values: "ArrayLike"
    weight: float = WEIGHT

    def __post_init__(self) -> None:
        _checks.positive("weight", self.weight, "4.0")


@_io.storable
@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Rows of the source and of the target that are known to belong together, with their weight.

    Parameters
    ----------
    rows : array-like of int, shape (k, 2)
        A row of `X_src` and one of `X_tgt`, each.
    weight : float
        How much the places of all other rows among the pairs count in the cost: with 1 they are as wide as all features
        together.

    Raises
    ------
    ValueError
        On a weight that is not positive.

    Examples
    --------
    >>> from nsgf import NSGF
    >>> known = Pairs([(0, 7), (5, 3)], weight=8.0)              # NSGF().fit(X_src, X_tgt, pairs=known)
    """

    rows: "ArrayLike"
    weight: float = WEIGHT

    def __post_init__(self) -> None:
        _checks.positive("weight", self.weight, "4.0")

    def within(self, n: int, m: int) -> "Pairs":
        """Return them once each, with integer rows (k, 2) of samples of n and m rows; an error names what is wrong."""
        found = _integers(self.rows)
        if found.ndim != 2 or found.shape[1] != 2 or not len(found):
            raise ValueError(f"pairs has shape {found.shape}; give integers of shape (k, 2).")
        for rows, name, size in zip(found.T, ("X_src", "X_tgt"), (n, m), strict=True):
            for row in rows[(rows < 0) | (rows >= size)]:
                raise ValueError(f"pairs names row {row} of {name}, which has {size} rows, from 0.")
        found = found[np.sort(np.unique(found, axis=0, return_index=True)[1])]
        for row in found[:, 0][np.bincount(found[:, 0])[found[:, 0]] > 1]:
            raise ValueError(
                f"pairs has row {row} of X_src with several rows of X_tgt, {found[found[:, 0] == row, 1].tolist()}; a "
                "row goes to one place: keep one pair of it."
            )
        return dataclasses.replace(self, rows=found)


Given = object  # array-like of labels or numbers, Labels or Numbers


class Conditions(abc.ABC):
    """What the conditions of one model are."""

    is_free: bool  # whether the field without conditions was learnt too

    def check_free(self, given: str) -> None:
        """Raise where that field was not learnt, and what is given needs it."""
        if not self.is_free:
            raise ValueError(
                f"{given} asks for the field without conditions, which a fit with condition_dropout=0 does not learn. "
                "Give y for every row and leave guidance at 1, or fit with Training(condition_dropout=0.2)."
            )

    @property
    @abc.abstractmethod
    def n_columns(self) -> int:
        """Numbers that the network is given of each row."""

    @abc.abstractmethod
    def codes(self, y: Given, name: str, n: int, *, is_one_for_all: bool = False) -> np.ndarray:
        """Return the conditions of `n` rows for the transport; where asked for, one may stand for all."""

    @abc.abstractmethod
    def columns(self, codes: np.ndarray) -> np.ndarray:
        """Return what the network is given, float32 (n, n_columns), zero where a condition is unknown."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raise where a file holds what conditions cannot be."""

    @abc.abstractmethod
    def check_codes(self, codes: np.ndarray, n: int) -> None:
        """Raise where a file holds other codes than those of `n` rows."""


@_io.storable
@dataclasses.dataclass(frozen=True)
class Classes(Conditions):
    """Labels: the network is given one column a class.

    Attributes
    ----------
    labels : tuple
        The labels, in the order of the columns.
    is_free : bool
        Whether the field without labels was learnt too.

    Examples
    --------
    >>> kinds = describe(["cat", "dog", "cat", None], "y_tgt")
    >>> kinds.labels, kinds.codes(["dog", None], "y", 2)
    (('cat', 'dog'), array([ 1, -1]))
    >>> kinds.columns(np.array([1, -1]))
    array([[0., 1.],
           [0., 0.]], dtype=float32)
    """

    labels: tuple[Any, ...]
    is_free: bool = True

    @property
    def n_columns(self) -> int:
        """One a class."""
        return len(self.labels)

    def codes(self, y: Given, name: str, n: int, *, is_one_for_all: bool = False) -> np.ndarray:
        """Return the places of the labels (n,), −1 where unknown."""
        if isinstance(y, Numbers):
            raise ValueError(f"{name} has continuous conditions, but the model was fitted with labels. Give labels.")
        given = _as_array(y.values if isinstance(y, Labels) else y)
        is_tuple = isinstance(given, tuple) and given in self.labels
        is_one = getattr(given, "ndim", 0) == 0 and (is_tuple or not _is_vector(given))
        labels = _of_length([_plain(given)] * n if is_one and is_one_for_all else _labels(given, name), n, name)
        code = {label: i for i, label in enumerate(self.labels)}
        unseen = [label for label in dict.fromkeys(labels) if not (_is_unknown(label) or label in code)]
        if unseen:
            raise ValueError(
                f"{name} has labels that the model was not fitted with: {_listed(unseen)}. The known ones are "
                f"{_listed(self.labels)}; None or -1 stands for unknown."
            )
        codes = np.array([UNKNOWN if _is_unknown(label) else code[label] for label in labels])
        if UNKNOWN in codes:
            self.check_free(f"{name} with unknown labels")
        return codes

    def columns(self, codes: np.ndarray) -> np.ndarray:
        """Return a 1 in the column of the label, float32 (n, n_columns)."""
        return (codes[:, None] == np.arange(len(self.labels))).astype(np.float32)

    def check(self) -> None:
        """Raise where a file holds labels that are not distinct and known."""
        if not self.labels or len(set(self.labels)) < len(self.labels) or any(map(_is_unknown, self.labels)):
            raise ValueError(f"labels={_listed(self.labels)} must be distinct, and none of them unknown.")

    def check_codes(self, codes: np.ndarray, n: int) -> None:
        """Raise where a file holds other codes than places of labels (n,), or −1."""
        _checks.array("codes", codes, (n,), "i")
        if not ((codes >= UNKNOWN) & (codes < len(self.labels))).all():
            raise ValueError(f"codes={codes} must be places among {len(self.labels)} labels, or {UNKNOWN}.")


@_io.storable
@dataclasses.dataclass(frozen=True, eq=False)
class Moments(Conditions):
    """Continuous conditions: the network is given a 1, for known, and each condition, standardised.

    Attributes
    ----------
    shift, scale : arrays of shape (k,)
        Mean and standard deviation of each condition.
    weight : float
        As in `Numbers`.
    names : tuple of str
        The columns, where they came as a data frame.
    is_free : bool
        Whether the field without conditions was learnt too.
    """

    shift: np.ndarray
    scale: np.ndarray
    weight: float = WEIGHT
    names: tuple[str, ...] = ()
    is_free: bool = True

    @property
    def n_columns(self) -> int:
        """One, and one a condition."""
        return 1 + len(self.shift)

    def codes(self, y: Given, name: str, n: int, *, is_one_for_all: bool = False) -> np.ndarray:
        """Return the standardised conditions (n, k)."""
        if isinstance(y, Labels):
            raise ValueError(f"{name} has labels, but the model was fitted with continuous conditions. Give numbers.")
        k, names = len(self.shift), _columns(y)
        if names and self.names and names != self.names:
            raise ValueError(
                f"{name} has the columns {names[:5]}, but the model was fitted with {self.names[:5]}, in this order. "
                f"Select those, {name}[{list(self.names[:5])}]."
            )
        values = _numbers(y.values if isinstance(y, Numbers) else y, name, k)
        if values.shape[1] != k:
            raise ValueError(
                f"{name} has {values.shape[1]} continuous conditions a row, but the model was fitted with {k}. Give an "
                f"array of shape ({n}, {k})."
            )
        values = np.repeat(values, n, axis=0) if is_one_for_all and len(values) == 1 else values
        with np.errstate(over="ignore"):
            codes: np.ndarray = (_of_length(values, n, name) - self.shift) / self.scale
        if (largest := np.abs(codes).max(initial=0.0)) > _FARTHEST:
            raise ValueError(
                f"{name} lies up to {largest:.2g} deviations from the conditions of the fit. Give it in their unit."
            )
        return codes

    def columns(self, codes: np.ndarray) -> np.ndarray:
        """Return a 1 and the standardised conditions, float32 (n, n_columns)."""
        return np.concatenate([np.ones((len(codes), 1)), codes], axis=1).astype(np.float32)

    def check(self) -> None:
        """Raise where a file holds no moments."""
        _checks.array("shift", self.shift, (None,))
        _checks.array("scale", self.scale, self.shift.shape)
        _checks.positive("weight", self.weight, "4.0")
        if not len(self.shift) or not (self.scale > 0).all():
            raise ValueError(f"scale={self.scale} must be positive.")

    def check_codes(self, codes: np.ndarray, n: int) -> None:
        """Raise where a file holds other codes than standardised conditions (n, k)."""
        _checks.array("codes", codes, (n, len(self.shift)))


def describe(y: Given, name: str) -> Conditions:
    """Return what the conditions `y` are: labels where an array has one dimension, continuous where it has two."""
    if isinstance(y, Numbers) or (not isinstance(y, Labels) and _n_dimensions(y) == 2):
        said = y if isinstance(y, Numbers) else Numbers(cast(ArrayLike, y))
        values = _numbers(said.values, name)
        unit = np.abs(values).max(axis=0)  # so that no square leaves the range of float64
        unit = np.where(unit > 0, unit, 1.0)
        shift, scale = unit * (values / unit).mean(axis=0), unit * (values / unit).std(axis=0)
        return Moments(shift, np.where(scale > 0, scale, 1.0), said.weight, _columns(said))
    given = _labels(_as_array(y.values if isinstance(y, Labels) else y), name)
    if not isinstance(y, Labels):
        _refuse_fractions(given, name)
    labels = [label for label in given if not _is_unknown(label)]
    if not labels:
        raise ValueError(f"{name} has no known label: all are None or -1. Leave it out, or label some rows.")
    n_minus = sum(isinstance(label, int | float) and label == -1 for label in given)  # pandas.NA has no truth
    if n_minus and set(labels) == {1}:
        _checks.warn(
            f"{name} has labels 1 and -1, and -1 stands for unknown: {n_minus} rows have no label. "
            "Where -1 is a class of its own, call it something else, such as 0."
        )
    found = _sorted(dict.fromkeys(labels))
    _refuse_unstorable(found, name)
    return Classes(found)


Described = tuple[Conditions | None, np.ndarray | None, np.ndarray | None]


def of_both(n: int | None, m: int, y_src: Any, y_tgt: Any) -> Described:
    """Return what the conditions of `n` source samples (None for noise) and `m` targets are, and the codes of both."""
    if y_tgt is None:
        if y_src is not None:
            raise ValueError("y_src was given without y_tgt; give both, or y_tgt alone to carry any source anywhere.")
        return None, None, None
    kinds = describe(y_tgt, "y_tgt")
    target = kinds.codes(y_tgt, "y_tgt", m)
    if y_src is None:
        return kinds, None, target
    if n is None:
        raise ValueError("y_src has conditions of a source that is noise (X_src is None); give y_tgt only.")
    source = kinds.codes(y_src, "y_src", n)
    if isinstance(kinds, Classes):
        _refuse_empty(kinds, source, target)
    return kinds, source, target


def _refuse_empty(kinds: Classes, source: np.ndarray, target: np.ndarray) -> None:
    """Raise where classes of the target have no row of the source, and those of unknown label cannot fill them."""
    empty = np.setdiff1d(target[target != UNKNOWN], source)
    unknown, needed = np.mean(source == UNKNOWN), np.mean(np.isin(target, empty))
    if needed > unknown:
        raise ValueError(
            f"y_tgt has labels that no row of y_src has: {_listed(kinds.labels[k] for k in empty)}. Drop those rows of "
            f"X_tgt." + (f" (Of the source {unknown:.1%} are unknown; they need {needed:.1%}.)" if unknown else "")
        )


def _n_dimensions(y: Any) -> int:
    """Return the dimensions of `y`; 1 for lists of what are no numbers."""
    y = _as_array(y)
    if hasattr(y, "ndim"):
        return int(y.ndim)
    return 2 if isinstance(y, list | tuple) and len(y) > 0 and all(isinstance(row, list) for row in y) else 1


def _is_vector(y: Any) -> bool:
    return bool(getattr(y, "ndim", 0) == 1 or isinstance(y, list | tuple | range))


def _as_array(y: Any) -> Any:
    """Return a series or frame that does not say its dimensions, such as polars', as a list or an array."""
    if hasattr(y, "ndim") or not (hasattr(y, "to_numpy") and hasattr(y, "__len__")):  # as a Timestamp, which is one
        return y
    return y.to_list() if hasattr(y, "to_list") else y.to_numpy()


def _labels(y: Any, name: str) -> list[Any]:
    """Return the labels as a list of plain, hashable values."""
    if not _is_vector(y):
        raise ValueError(
            f"{name} must be one label a row, or an array (n, k) of continuous conditions; it is {type(y).__name__}"
            + (f" of shape {tuple(y.shape)}." if hasattr(y, "shape") else ".")
        )
    y = to_numpy(y)
    is_list = not hasattr(y, "tolist") or str(getattr(y, "dtype", "")).startswith(("datetime64", "timedelta64"))
    labels: list[Any] = [_plain(label) for label in y] if is_list else y.tolist()  # which makes integers of dates
    for label in labels:
        try:
            hash(label)
        except TypeError:
            raise ValueError(f"{name} has the label {label!r}, which is not hashable; give text or integers.") from None
    return labels


def _refuse_unstorable(labels: Sequence[object], name: str) -> None:
    """Raise on labels that would not come back from a file as they are."""
    for label in labels:
        try:
            arrays: dict[str, np.ndarray] = {}
            found = _io.unpack(json.loads(json.dumps(_io.pack(name, label, arrays))), arrays)
            if {found: label}[label] == label:
                continue
        except (ValueError, TypeError, KeyError):
            pass
        raise ValueError(
            f"{name} has the label {label!r}, which a file cannot hold. Give text, numbers or tuples of them, such as "
            f"{str(label)!r}."
        )


def _columns(y: Any) -> tuple[str, ...]:
    """Return the names of the columns of a data frame; none of anything else."""
    return tuple(map(str, getattr(y.values if isinstance(y, Numbers) else y, "columns", ())))


def _integers(rows: Any) -> np.ndarray:
    """Return pairs as integers, which they may be as floats too; an error where they are none."""
    try:
        found = np.asarray(to_numpy(_as_array(rows)))
        if found.dtype.kind in "iufO" and not np.ma.is_masked(rows):
            with np.errstate(invalid="ignore"):
                whole = found.astype(np.int64)
            if np.array_equal(whole, found):
                return whole
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"pairs must be integers of shape (k, 2), numbers of rows from 0; got {str(rows)[:80]}.")


def _refuse_fractions(labels: Sequence[object], name: str) -> None:
    for label in labels:
        if isinstance(label, float) and math.isfinite(label) and label != int(label):
            raise ValueError(
                f"{name} has the label {label!r}: one dimension means labels. Give continuous conditions as "
                f"nsgf.Numbers({name}), or as an array of shape ({len(labels)}, 1); or say nsgf.Labels({name})."
            )


def _numbers(y: Any, name: str, k: int = 1) -> np.ndarray:
    """Return continuous conditions as finite float64 (n, k); a vector is one row where k > 1, else a column."""
    if np.ma.is_masked(y):
        raise ValueError(f"{name} has masked entries. Impute them, or drop those rows first.")
    try:
        values = np.asarray(to_numpy(y))
        if values.dtype.kind in "mMc":
            raise TypeError
        values = values.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} is not numeric; give labels in one dimension, or real numbers (n, k). Of dates, give the days "
            "since the first, such as (t - t_0) / np.timedelta64(1, 'D')."
        ) from None
    if values.ndim < 2:
        values = values.reshape((1, -1) if k > 1 or values.ndim == 0 else (-1, 1))
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} has shape {values.shape}; give continuous conditions as (n, k).")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} contains NaN or infinite values. Impute them, or drop those rows first.")
    if (largest := np.abs(values).max(initial=0.0)) > _LARGEST:
        raise ValueError(f"{name} has values up to {largest:.3g}, whose squares overflow. Give them in a larger unit.")
    return values


def _of_length(values: Any, n: int, name: str) -> Any:
    if len(values) != n:
        raise ValueError(f"{name} has {len(values)} rows but there are {n} samples; give one condition a sample.")
    return values


def _plain(label: Any) -> Any:
    """Return a NumPy scalar, or an array without dimensions, as the Python value; dates stay as they are."""
    if isinstance(label, np.datetime64 | np.timedelta64) or getattr(label, "ndim", 0) != 0:
        return label
    return label.item() if hasattr(label, "item") else label


def _is_unknown(label: Any) -> bool:
    """Whether a label says that it is not known: None, −1, or a missing value of pandas."""
    if label is None or (isinstance(label, int | float) and not isinstance(label, bool) and label == -1):
        return True
    try:
        return not label == label  # noqa: SIM201  NaN is not itself
    except TypeError:  # pandas.NA has no truth
        return True


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
