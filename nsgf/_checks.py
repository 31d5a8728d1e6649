"""What is asked of a parameter, and how a caller is told."""

import errno
import inspect
import itertools
import math
import numbers
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # errors of a full disk


def real(value: object) -> float:
    """Return a real number as a float, infinite where it is too large for one; NaN of what is none."""
    try:
        return float(value) if isinstance(value, numbers.Real) else math.nan
    except OverflowError:  # of integers
        return math.inf


def positive(name: str, value: object, good: str) -> None:
    """Raise unless the value is a positive, finite number; `good` is one that serves."""
    if not 0 < real(value) < math.inf:
        raise ValueError(f"{name}={value!r} must be positive; {good} is a good value.")


def fraction(name: str, value: object, good: str) -> None:
    """Raise unless the value is a number of at least 0 and below 1."""
    if not 0 <= real(value) < 1:
        raise ValueError(f"{name}={value!r} must be at least 0 and below 1; {good} is a good value.")


def count(name: str, value: object, least: int = 1, most: int = 2**31) -> None:
    """Raise unless the value is an integer of at least `least`, and at most `most`: no array is of more rows."""
    if not (isinstance(value, numbers.Integral) and int(value) >= least):
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}.")
    if int(value) > most:
        raise ValueError(f"{name}={value!r} must be an integer from {least} to {most}.")


def counts(name: str, values: Any, least: int = 1) -> tuple[int, ...]:
    """Return the values as a tuple, or raise unless they are integers of at least `least`."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:
        raise ValueError(f"{name}={values!r} must be integers of at least {least}, one for each.")
    found = tuple(values)
    for value in found:
        if not (isinstance(value, numbers.Integral) and int(value) >= least):
            raise ValueError(f"{name}={found!r} must be integers of at least {least}, one for each.")
    return found


def is_one_of(value: object, names: Iterable[str]) -> bool:
    """Return whether the value is one of these texts; odd values, such as arrays, are none."""
    return isinstance(value, str) and value in tuple(names)


def one_of(name: str, value: object, names: Iterable[str]) -> None:
    """Raise unless the value is one of these texts."""
    if not is_one_of(value, names):
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(map(repr, names))}.")


def flag(name: str, value: object) -> None:
    """Raise unless the value is true or false."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={value!r} must be True or False.")


def path(name: str, value: Any) -> Path:
    """Return the value as a path, or raise where no file has such a name."""
    try:
        found = Path(value)
        if b"\0" not in os.fsencode(found):
            return found
    except TypeError:
        raise TypeError(f"{name}={value!r} is no path. Give text or a pathlib.Path.") from None
    except ValueError:  # lone surrogates
        pass
    raise ValueError(f"{name}={value!r} has characters that no path can have. Give another name.")


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
    """Warn at the line outside this package, scikit-learn and joblib from which it was called, however deep this is."""
    frame, level = inspect.currentframe(), 0
    inside = ("nsgf", "sklearn", "joblib", "contextlib")
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level + 1)
