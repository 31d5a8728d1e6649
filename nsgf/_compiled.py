"""What compiled loops share: how they are compiled, exp and log that are vectorised, and the cores that run them.

Compiled code is kept on disk, beside the package or in the user's cache, so that only the first call ever waits for the
compiler. It runs without Python's lock on ordinary threads: those of OpenMP would spin, and hold up the threads of
NumPy's and torch's products.
"""

import concurrent.futures
import contextlib
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

_LOG2_E, _LN2_HIGH = 1.0 / math.log(2.0), 0.693359375  # the latter times a small integer is exact in float32
_LN2_LOW = -2.121944400546905827679e-4  # ln 2 less the former
FAST = {"reassoc", "contract", "nsz", "arcp"}  # sums in any order; NaN and infinities are kept
_EXACT = {"contract", "nsz"}  # what is taken away in two parts is not to be taken away in one


def compiled(work: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a loop; its cache is to be deleted where what it calls is edited."""
    if work is None:
        return functools.partial(compiled, **options)
    options = {"nogil": True, "error_model": "numpy", "fastmath": FAST, **options}
    try:
        return njit(**{"cache": True, **options})(work)
    except RuntimeError:  # there is no place to keep it
        return njit(**{**options, "cache": False})(work)


def inner(work: Callable[..., Any]) -> Any:
    """Compile a function that only compiled ones call."""
    return compiled(work, no_cpython_wrapper=True)


def exp(t: float) -> float:
    """Return e^t, of t within the range of normal numbers; in compiled loops without a call, and so vectorised."""
    return math.exp(t)


def log(t: float) -> float:
    """Return log t, of a positive normal number; in compiled loops of float32 without a call."""
    return math.log(t)


@overload(exp, jit_options={"fastmath": _EXACT})
def _exp(t: Any) -> Callable[[Any], Any]:
    return _exp_32 if t == types.float32 else _exp_64


def _exp_32(t: Any) -> Any:
    k = np.floor(t * np.float32(_LOG2_E) + np.float32(0.5))
    r = t - k * np.float32(_LN2_HIGH) - k * np.float32(_LN2_LOW)
    p = np.float32(1 / 5040) * r + np.float32(1 / 720)
    p = p * r + np.float32(1 / 120)
    p = p * r + np.float32(1 / 24)
    p = p * r + np.float32(1 / 6)
    p = p * r + np.float32(0.5)
    p = (p * r + np.float32(1.0)) * r + np.float32(1.0)
    return p * np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)


def _exp_64(t: Any) -> Any:
    k = np.floor(t * _LOG2_E + 0.5)
    r = t - k * _LN2_HIGH - k * _LN2_LOW
    p = 1 / 6227020800 * r + 1 / 479001600
    p = p * r + 1 / 39916800
    p = p * r + 1 / 3628800
    p = p * r + 1 / 362880
    p = p * r + 1 / 40320
    p = p * r + 1 / 5040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 0.5
    p = (p * r + 1.0) * r + 1.0
    return p * np.int64((np.int64(k) + np.int64(1023)) << np.int64(52)).view(np.float64)


@overload(log, jit_options={"fastmath": _EXACT})
def _log(t: Any) -> Callable[[Any], Any]:
    return _log_32 if t == types.float32 else _log_64


def _log_32(t: Any) -> Any:
    bits = np.float32(t).view(np.int32)
    k = (bits - np.int32(0x3F3504F3)) >> np.int32(23)  # t = 2^k z, z within √½ and √2
    z = np.int32(bits - (k << np.int32(23))).view(np.float32) - np.float32(1.0)
    s = z / (z + np.float32(2.0))
    w = s * s
    p = np.float32(2 / 9) * w + np.float32(2 / 7)
    p = p * w + np.float32(2 / 5)
    p = p * w + np.float32(2 / 3)
    return np.float32(k) * np.float32(_LN2_HIGH) + (
        s * (np.float32(2.0) + w * p) + np.float32(k) * np.float32(_LN2_LOW)
    )


def _log_64(t: Any) -> Any:
    return math.log(t)


@functools.cache
def _threads(process: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(cores() - 1, "nsgf")


def cores() -> int:
    """Return how many cores this process may use: OMP_NUM_THREADS, or all that it is allowed."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(int(asked), allowed) if asked.isdecimal() and int(asked) > 0 else allowed


def on_all_cores(work: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
    """Return `work` of every part, in order; the parts are shared out as cores become free."""
    if len(parts) == 1 or cores() == 1:
        return [work(part) for part in parts]
    left = iter(range(len(parts)))  # whose next() is atomic
    done: list[Any] = [None] * len(parts)

    def help_out() -> None:
        for k in left:
            done[k] = work(parts[k])

    helpers = []
    with contextlib.suppress(RuntimeError):  # no thread begins any more once Python ends
        helpers += [_threads(os.getpid()).submit(help_out) for _ in range(min(cores(), len(parts)) - 1)]
    help_out()
    for helper in helpers:
        if not helper.cancel():  # one that never began has nothing to do
            helper.result()
    return done
