"""What is asked of a parameter, and how a caller is told."""

import errno
import inspect
import itertools
import math
import numbers
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # errors of a full disk


def positive(name: str, value: object, good: str) -> None:
    """Raise unless the value is a positive, finite number; `good` is one that serves."""
    if not (isinstance(value, numbers.Real) and 0 < _number(value) < math.inf):
        raise ValueError(f"{name}={value!r} must be positive; {good} is a good value.")


def _number(value: numbers.Real) -> float:
    try:
        return float(value)
    except OverflowError:  # of integers beyond 1e308
        return math.inf


def fraction(name: str, value: object, good: str) -> None:
    """Raise unless the value is a number of at least 0 and below 1."""
    if not (isinstance(value, numbers.Real) and 0 <= _number(value) < 1):
        raise ValueError(f"{name}={value!r} must be at least 0 and below 1; {good} is a good value.")


def count(name: str, value: object, least: int = 1) -> None:
    """Raise unless the value is an integer of at least `least`."""
    if not (isinstance(value, numbers.Integral) and least <= int(value) < 2**63):
        raise ValueError(f"{name}={value!r:.80} must be an integer of at least {least}.")


def array(name: str, value: Any, shape: tuple[int | None, ...], kinds: str = "f") -> None:
    """Raise unless the value is a finite array of that shape, None being any, and of those kinds of dtype."""
    sizes = itertools.zip_longest(shape, value.shape, fillvalue=-1)
    if not (all(n in (None, size) for n, size in sizes) and value.dtype.kind in kinds and np.isfinite(value).all()):
        raise ValueError(f"{name} of shape {value.shape} and {value.dtype} must be finite, of shape {shape}.")


def rising(name: str, values: Sequence[float]) -> None:
    """Raise unless the values are two or more finite numbers, each above the one before."""
    is_rising = all(a < b for a, b in itertools.pairwise((-math.inf, *values, math.inf)))
    if len(values) < 2 or not is_rising:
        raise ValueError(f"{name}={values!r} must be two or more finite numbers, each above the one before.")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside this package, and scikit-learn, from which it was called, however deep this is."""
    frame, level = inspect.currentframe(), 0
    inside = ("nsgf", "sklearn", "contextlib")
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level + 1)
