"""What is asked of a parameter, and how a caller is told."""

import errno
import inspect
import math
import numbers
import warnings

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # errors of a full disk


def positive(name: str, value: object, good: str) -> None:
    """Raise unless the value is a positive, finite number; `good` is one that serves."""
    if not (isinstance(value, numbers.Real) and 0 < float(value) < math.inf):
        raise ValueError(f"{name}={value!r} must be positive; {good} is a good value.")


def fraction(name: str, value: object, good: str) -> None:
    """Raise unless the value is a number of at least 0 and below 1."""
    if not (isinstance(value, numbers.Real) and 0 <= float(value) < 1):
        raise ValueError(f"{name}={value!r} must be at least 0 and below 1; {good} is a good value.")


def count(name: str, value: object, least: int = 1) -> None:
    """Raise unless the value is an integer of at least `least`."""
    if not (isinstance(value, numbers.Integral) and int(value) >= least):
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}.")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside this package, and scikit-learn, from which it was called, however deep this is."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in ("nsgf", "sklearn"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level + 1)
