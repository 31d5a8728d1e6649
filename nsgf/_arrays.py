"""The one bridge between array libraries: NumPy, CuPy and torch in, the same library out.

A public function calls :func:`as_pair` once; below it, everything is a floating ``(n, d)`` array of one library, and
``xp = namespace(x)`` supplies the arithmetic.
"""

import contextlib
import datetime
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device as device, is_cupy_array, is_numpy_array, is_torch_array

from nsgf import _checks

Array = Any  # a NumPy, CuPy or torch array: the three share no base class

_NAMESPACES: dict[type, Any] = {}  # of each kind of array: array_namespace takes as long as a small sum


def namespace(*arrays: Array) -> Any:
    """Return the array-API namespace that the arrays share."""
    kind = type(arrays[0])
    for z in arrays[1:]:
        if type(z) is not kind:
            return array_namespace(*arrays)
    found = _NAMESPACES.get(kind)
    if found is None:
        found = _NAMESPACES[kind] = array_namespace(*arrays)
    return found


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Let NumPy and torch compute as they do by default, whatever the caller has set for work of its own.

    That is: no errors of rounding, no autocast to half precision, gradients where a training needs them, host memory.

    Examples
    --------
    >>> with np.errstate(all="raise"), plainly():
    ...     np.exp(np.array(-1e3)).item()
    0.0
    """
    torch = sys.modules.get("torch")
    errors: dict[str, Any] = {k: "warn" for k, v in np.geterr().items() if v in ("raise", "call")}
    with contextlib.ExitStack() as held:
        held.enter_context(np.errstate(**{**errors, "under": "ignore"}))
        if torch is not None:
            held.enter_context(torch.inference_mode(False))
            held.enter_context(torch.enable_grad())
            for kind in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
                held.enter_context(torch.autocast(kind, enabled=False))
            if torch.get_default_device().type != "cpu":
                held.enter_context(torch.device("cpu"))
        yield


def as_points(X: Any, name: str) -> Array:
    """Return `X` as a finite, floating, non-empty ``(n, d)`` array of its own library.

    Integers become float64 and float16 becomes float32, the least precision that the solvers work in.
    """
    X = as_numbers(X, name)
    if X.ndim != 2:
        flat = f"{name}.reshape(-1, 1) for one feature, {name}.reshape(1, -1) for one sample"
        raise ValueError(
            f"{name} has shape {tuple(X.shape)}; expected two dimensions (n_samples, n_features). "
            f"Reshape your data: {flat if X.ndim < 2 else f'{name}.reshape(len({name}), -1) for one sample a row'}."
        )
    if 0 in X.shape:
        raise ValueError(f"{name} is empty: its shape is {tuple(X.shape)}. Give at least one row and one column.")
    check_finite(X, name)
    return X


def check_finite(X: Array, name: str) -> float:
    """Return the largest value, or raise where one is NaN or infinite."""
    xp = namespace(X)
    top = float(xp.max(xp.abs(X)))  # NaN where one is
    if not top < float("inf"):
        where = _places(to_numpy(~xp.isfinite(X)))
        raise ValueError(
            f"{name} contains NaN or infinite values, or missing ones: {where}. Impute them, or drop those rows first."
        )
    return top


def as_weights(w: Any, x: Array, name: str) -> Array:
    """Return the weights of the rows of `x`, of total mass 1; uniform where `w` is None."""
    xp, n = namespace(x), x.shape[-2]
    if w is None:
        return xp.full(n, 1.0 / n, dtype=x.dtype, device=device(x))
    w = as_numbers(w, name)
    if w.shape != (n,):
        raise ValueError(f"{name} has shape {tuple(w.shape)}; give one weight a row, that is shape ({n},).")
    w = xp.asarray(w, dtype=x.dtype, device=device(x))
    total = float(xp.sum(w))
    if not (float(xp.min(w)) >= 0 and 0 < total < float("inf")):
        raise ValueError(f"{name} must be finite and non-negative with a positive sum; its sum is {total}.")
    return w / total


def as_pair(x: Any, y: Any, names: tuple[str, str] = ("x", "y")) -> tuple[Array, Array]:
    """Validate two clouds of one space; return them in one library and one floating dtype."""
    same_columns([columns_of(x), columns_of(y)], f"{names[0]} and {names[1]}", f"{names[1]}[{names[0]}.columns]")
    x, y = as_points(x, names[0]), as_points(y, names[1])
    check_widths(x, y, names)
    if type(x) is not type(y):
        raise TypeError(
            f"{names[0]} is a {_library(x)} array but {names[1]} is a {_library(y)} array; convert one to the other."
        )
    if device(x) != device(y):
        raise ValueError(
            f"{names[0]} lies on {device(x)} but {names[1]} on {device(y)}; move both to one device first."
        )
    xp = namespace(x, y)
    dtype = xp.result_type(x.dtype, y.dtype)
    return xp.astype(x, dtype, copy=False), xp.astype(y, dtype, copy=False)


def check_widths(x: Array, y: Array, names: tuple[str, str]) -> None:
    """Raise where two clouds have different numbers of features."""
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[0]} has {x.shape[1]} features but {names[1]} has {y.shape[1]}; both must live in the same space. "
            "Encode them to a shared space first."
        )


def columns_of(X: Any) -> list[Any] | None:
    """Return the names of the columns of a data frame; None of all else."""
    return list(getattr(X, "column_names", X.columns)) if hasattr(X, "columns") else None


def same_columns(columns: Sequence[list[Any] | None], names: str, remedy: str = "X_tgt[X_src.columns]") -> None:
    """Refuse data frames with other columns, or another order of them: they are read by position."""
    first, *others = [given for given in columns if given is not None] or [[]]
    for other in others:
        if other != first:
            raise ValueError(
                f"{names} have different columns, or another order of them: {first[:5]} and {other[:5]}. "
                f"Select the same ones, such as {remedy}."
            )


def refuse_masked(X: Any, name: str) -> None:
    """Raise where entries are masked: NumPy reads the numbers under a mask."""
    parts = X if isinstance(X, list | tuple) else [X]
    if any(np.ma.isMaskedArray(part) for part in parts):
        mask = np.ma.getmaskarray(np.ma.asarray(X))
        if mask.any():
            raise ValueError(
                f"{name} has masked entries, {_places(mask)}. Fill them, {name}.filled(value), or drop the rows."
            )


def _places(wrong: np.ndarray) -> str:
    """Say how many entries of a mask are true, and where the first one is."""
    return f"{np.sum(wrong)} of them, the first at {[int(i) for i in np.argwhere(wrong)[0]]}"


def like(result: Array, X: Any) -> Array:
    """Return `result` in the library, device and floating dtype of the caller's own `X`."""
    if is_torch_array(X):
        result = to_torch(result, X.device)
        return result.to(X.dtype) if X.dtype.is_floating_point else result
    if not is_cupy_array(X):
        X, result = np.asarray(X), to_numpy(result)
    xp = namespace(X)
    if X.dtype.kind == "f" and X.dtype.itemsize < 4 and float(xp.max(xp.abs(result))) > float(xp.finfo(X.dtype).max):
        raise ValueError(f"the result leaves the range of {X.dtype}, in which the samples came. Give them in float32.")
    return xp.asarray(result, dtype=X.dtype if X.dtype.kind == "f" else None)


def to_numpy(x: Any) -> Any:
    """Return `x` in host memory as a NumPy array; what is no device array passes through."""
    if is_torch_array(x):
        x = x.detach().cpu().resolve_conj().resolve_neg()
        return (x.float() if x.is_floating_point() and x.itemsize < 4 else x).numpy()  # NumPy knows no bfloat16
    return x.get() if is_cupy_array(x) else x


def to_torch(x: Array, device: Any = "cpu") -> Any:
    """Hand `x` to torch, by DLPack and so without a copy where both share the device."""
    import torch
    import torch.utils.dlpack

    if is_torch_array(x):
        return x.to(device)
    if is_numpy_array(x):
        plain = x.flags.writeable and x.dtype.isnative and min(x.strides, default=0) >= 0
        return torch.as_tensor(x if plain else x.astype(x.dtype.newbyteorder("="), order="C"), device=device)
    return torch.utils.dlpack.from_dlpack(x).to(device)


def on_device(x: Array, device: str) -> Array:
    """Move a NumPy array of the array world to `device`: CuPy on ``"cuda"``, NumPy on ``"cpu"``."""
    if device == "cpu":
        return to_numpy(x)
    import cupy

    return cupy.asarray(x)


def pick_device(device: str) -> str:
    """Return ``"cuda"`` or ``"cpu"``: what was asked for, or for ``"auto"`` the best that is present."""
    if not _checks.is_one_of(device, ("auto", "cpu", "cuda")):
        raise ValueError(f"device={device!r} is unknown; choose 'auto', 'cpu' or 'cuda'.")
    if device == "cpu":
        return "cpu"
    missing = _missing_for_cuda()
    if missing and device == "cuda":
        raise RuntimeError(f"device='cuda' was asked for, but {missing} Or use device='cpu'.")
    return "cpu" if missing else "cuda"


def _missing_for_cuda() -> str:
    """Say what CUDA work lacks on this machine; an empty string means nothing."""
    import torch

    if not torch.cuda.is_available():
        return "torch sees no CUDA device. Install a CUDA build of torch on a machine with an NVIDIA GPU."
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed: pip install 'nsgf[cuda12]' or 'nsgf[cuda13]', as your driver has it."
    return ""


def _library(x: Array) -> str:
    return type(x).__module__.partition(".")[0]


def as_numbers(X: Any, name: str) -> Array:
    """Return `X` as a floating array of its own library (NumPy for lists and data frames)."""
    if hasattr(X, "toarray") or (is_torch_array(X) and str(X.layout) != "torch.strided"):
        dense = f"{name}.{'to_dense' if is_torch_array(X) else 'toarray'}()"
        raise TypeError(f"{name} is sparse. Sparse data was passed, but dense data is required: give {dense}.")
    if is_torch_array(X):
        X = X.detach()
    elif not is_cupy_array(X):
        X = _numpy_numbers(X, name)
    xp = namespace(X)
    if xp.isdtype(X.dtype, "complex floating"):
        raise ValueError(
            f"{name} is complex. Complex data not supported: pass its real and imaginary parts as columns."
        )
    if not xp.isdtype(X.dtype, "real floating"):
        return xp.astype(X, xp.float64)
    bits = xp.finfo(X.dtype).bits
    with np.errstate(over="ignore"):  # of long doubles, which are then found infinite
        return X if bits in (32, 64) else xp.astype(X, xp.float32 if bits < 32 else xp.float64)


_DATES = (np.datetime64, np.timedelta64, datetime.date, datetime.time, datetime.timedelta)
_NO_NUMBERS = {
    "M": "dates or durations. Encode them as numbers first, such as (t - t_0) / np.timedelta64(1, 'D').",
    "V": "records. Encode them as an array first, with np.lib.recfunctions.structured_to_unstructured.",
    "O": "text, mixed objects or ragged rows. Encode it as numbers first.",
}


def has_dates(X: Any) -> bool:
    """Whether a data frame, of whatever library, has a column of dates or durations.

    Examples
    --------
    >>> import pandas as pd
    >>> has_dates(pd.DataFrame({"t": [np.datetime64("2024-01-01")]}))
    True
    """
    dtypes = X.dtypes if hasattr(X, "columns") and hasattr(X, "dtypes") else ()
    return any(str(dtype).lower().startswith(("date", "time", "duration", "period")) for dtype in dtypes)


def _numpy_numbers(X: Any, name: str) -> np.ndarray:
    """Return `X` as a numeric NumPy array; text, dates and mixed objects raise."""
    refuse_masked(X, name)
    kind = "M" if has_dates(X) else "O"
    with contextlib.suppress(ValueError, TypeError, RuntimeError):  # such as ragged lists, and lists of tensors
        if kind == "M":  # which polars hands over as numbers
            raise TypeError
        X = np.asarray(X)
        kind = X.dtype.kind
        if kind == "O":
            kind = "M" if any(isinstance(value, _DATES) for value in X.flat) else "O"
            X = _objects_as_numbers(X)
        if X.dtype.kind in "fiubc":
            return X.astype(X.dtype.newbyteorder("="), order="C", copy=False)
    raise ValueError(f"{name} is not numeric: {_NO_NUMBERS.get(kind.upper(), _NO_NUMBERS['O'])}")


def _objects_as_numbers(X: np.ndarray) -> np.ndarray:
    """Return Python's numbers as float64; what is missing, in any library, is NaN, and what is too large infinite."""
    missing = {"NoneType", "NAType", "NaTType"}
    values = [float("nan") if type(value).__name__ in missing else value for value in X.flat]
    if any(isinstance(value, (str, bytes, *_DATES)) for value in values):
        raise TypeError("no numbers")
    return np.array([_as_float(value) for value in values], dtype=np.float64).reshape(X.shape)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # of integers beyond 1e308
        return float("inf")
