"""Values on disk: arrays and JSON in one safetensors file, which never executes code when it is read.

A value (a solver, the habits of a training, what a fit has learnt) is stored as its name and its arguments, each of
which it keeps as an attribute. Only classes that are :func:`storable` are made from a file.
"""

import contextlib
import datetime
import decimal
import fractions
import inspect
import json
import math
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import numpy as np

FORMAT = "nsgf-2"
Path_ = str | os.PathLike[str]
Kind = TypeVar("Kind", bound=type)
T = TypeVar("T")

_STORABLE: dict[str, type] = {}  # classes by the names that files give them


def storable(kind: Kind) -> Kind:
    """Let files hold values of this class, as its arguments."""
    _STORABLE[_name(kind)] = kind
    return kind


def _name(kind: type) -> str:
    if kind.__module__ == "builtins":
        return kind.__name__
    return kind.__qualname__ if kind.__module__.startswith("nsgf.") else f"{kind.__module__}.{kind.__qualname__}"


def pack(
    name: str, value: object, arrays: dict[str, np.ndarray], default: Callable[[object], Any] | None = None
) -> Any:
    """Return the JSON form of a value, and put its arrays aside under names that begin with `name`.

    Raises
    ------
    ValueError
        Where a part of it has none, and `default` does not give it one.

    Examples
    --------
    >>> arrays = {}
    >>> pack("a", (1, {"b": np.ones(2)}), arrays), list(arrays)
    ({'tuple': [1, {'dict': {'b': {'array': 'a.1.b'}}}]}, ['a.1.b'])
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        arrays[name] = value
        return {"array": name}
    parts = _parts(value)
    if parts is not None:
        kind = "dict" if isinstance(value, dict) else _name(type(value))
        return {kind: {k: pack(f"{name}.{k}", v, arrays, default) for k, v in parts.items()}}
    if isinstance(value, tuple | list) or _is_column(value):
        kind = next(kind for kind, (cls, _) in _SEQUENCES.items() if isinstance(value, cls))
        return {kind: [pack(f"{name}.{i}", v, arrays, default) for i, v in enumerate(value)]}
    if isinstance(value, np.datetime64 | np.timedelta64):
        return {"moment": [value.dtype.str, int(value.astype(np.int64))]}
    if type(value).__module__.startswith("numpy.random"):
        return None  # a Generator has no JSON form
    return _atom(name, value, default)


def _is_column(value: object) -> TypeGuard[np.ndarray]:
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "OU"


def _atom(name: str, value: object, default: Callable[[object], Any] | None) -> Any:
    """Return the JSON form of a value without parts."""
    value = value.item() if isinstance(value, np.generic) else value
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value)):
        return value
    for kind, (cls, text, _) in _TEXTS.items():
        if isinstance(value, cls):
            return {kind: text(value)}
    if default is None:
        raise ValueError(
            f"{name}={value!r} cannot be saved: it has no JSON form. Give text, numbers, or a value of this library or "
            "a frozen dataclass."
        )
    return default(value)


def _parts(value: object) -> dict[str, Any] | None:
    """Return the arguments of a storable value, or the entries of a dictionary; None of anything else."""
    if isinstance(value, dict):
        return value if all(isinstance(k, str) for k in value) else None
    names = list(inspect.signature(type(value)).parameters) if _name(type(value)) in _STORABLE else ["?"]
    return {k: getattr(value, k) for k in names} if all(hasattr(value, k) for k in names) else None


def unpack(packed: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return the value of a JSON form that :func:`pack` made."""
    if not isinstance(packed, dict):
        return packed
    ((kind, held),) = packed.items()
    if kind == "array":
        return arrays[held]
    if kind == "moment":
        return _moment(*held)
    if kind in _TEXTS:
        return _TEXTS[kind][2](held)
    if kind in _SEQUENCES:
        return _SEQUENCES[kind][1](unpack(v, arrays) for v in held)
    if kind != "dict" and kind not in _STORABLE:
        raise ValueError(f"a value {kind!r} is not known here: import the module that defines it first")
    return _STORABLE.get(kind, dict)(**{k: unpack(v, arrays) for k, v in held.items()})


def can_hold(value: object) -> bool:
    """Whether a hashable value, such as a label, comes back from a file as one that is equal to it.

    Text, numbers (complex, Decimal and Fraction too), bytes, UUIDs, dates and times, and tuples of them do.

    Examples
    --------
    >>> can_hold((("a", 1), datetime.date(2024, 1, 1))), can_hold(frozenset("a"))
    (True, False)
    """
    try:
        again = unpack(json.loads(json.dumps(pack("value", value, {}), allow_nan=False)), {})
        return bool(again == value and hash(again) == hash(value))
    except (ArithmeticError, RecursionError, TypeError, ValueError):
        return False


def _objects(values: Iterable[object]) -> np.ndarray:
    """Return the values as an array of objects (n,), whatever they are."""
    values = list(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _moment(dtype: str, n: int) -> Any:
    """Return a date or a duration of NumPy."""
    if np.dtype(dtype).kind not in "mM":
        raise ValueError(f"{dtype!r} is no dtype of times")
    return np.array(n, np.int64).view(dtype)[()]


_SEQUENCES: dict[str, tuple[type, Callable[[Iterable[Any]], Any]]] = {
    "tuple": (tuple, tuple),
    "list": (list, list),
    "objects": (np.ndarray, _objects),
}
_TEXTS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {  # what is text in a file
    "float": (float, repr, float),  # one that is not finite
    "complex": (complex, repr, complex),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "datetime": (datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat),  # a date, too
    "date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": (datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
    "decimal": (decimal.Decimal, str, decimal.Decimal),
    "fraction": (fractions.Fraction, str, fractions.Fraction),
    "uuid": (uuid.UUID, str, uuid.UUID),
}


def below(prefix: str, entries: Mapping[str, T]) -> dict[str, T]:
    """Return the entries whose names begin with `prefix` and a dot, without both."""
    return {k.removeprefix(f"{prefix}."): v for k, v in entries.items() if k.startswith(f"{prefix}.")}


def write(path: Path_, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write arrays and JSON-able `meta` to `path`, all or nothing: a full disk leaves what stood there before."""
    from safetensors.numpy import save

    path = Path(path)
    blob = save({name: np.asarray(array, order="C") for name, array in arrays.items()}, {FORMAT: json.dumps(meta)})
    replace(path, blob)


def replace(path: Path, blob: bytes) -> None:
    """Make `blob` the content of a file in one move, once it is on the disk."""
    new = path.with_name(f".{path.name}.new")  # one name, so that what a kill leaves is overwritten
    try:
        with open(new, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(new)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


def read(path: Path_) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what :func:`write` wrote.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where it is cut short, corrupt, or another program's.
    """
    from safetensors import SafetensorError, safe_open

    held: Mapping[str, str] = {}
    if not Path(path).is_file():
        raise FileNotFoundError(f"no model at {os.fspath(path)!r}; write one with model.save(path).")
    try:
        with safe_open(path, framework="numpy") as file:
            held = file.metadata() or {}
            meta = json.loads(held[FORMAT])
            if not isinstance(meta, dict):
                raise ValueError("its description is no object")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except KeyError:
        if "nsgf-1" in held:
            raise ValueError(
                f"{os.fspath(path)!r} was written by nsgf 0.1.0, whose estimators had other parameters: fit again, or "
                "open it with that version."
            ) from None
        raise ValueError(f"{os.fspath(path)!r} is a safetensors file, but not of an nsgf model.") from None
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} cannot be read as an nsgf model ({error}). It may be cut short, corrupt or "
            "of another format: save the model again, or fetch the file again."
        ) from error
    return arrays, meta


def claim(directory: Path_, key: str) -> None:
    """Take a directory for the run of that key, or raise where another run's files are in it."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path, owner = directory / "run.json", json.dumps({"key": key})
    others = [file for file in directory.rglob("*") if file.is_file() and not file.name.startswith((".", "run.json"))]
    if others and not (path.exists() and path.read_text() == owner):
        raise ValueError(
            f"directory={os.fspath(directory)!r} holds other files, or the training of other data or parameters. "
            "Choose another directory, or delete that one."
        )
    replace(path, owner.encode())
