"""Values on disk: arrays and JSON in one safetensors file, which never executes code when it is read.

A value (a solver, the habits of a training, what a fit has learnt) is stored as its name and its arguments, each of
which it keeps as an attribute. Only classes that are :func:`storable` are made from a file.
"""

import datetime
import decimal
import fractions
import hashlib
import inspect
import json
import math
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from nsgf import _checks, _files
from nsgf._files import Path_

FORMAT = "nsgf-2"
Kind = TypeVar("Kind", bound=type)
T = TypeVar("T")

VALUES: dict[str, type] = {}  # classes by the names that files give them
NETWORKS: dict[str, type] = {}  # those that take memory as their arguments say


def storable(kind: Kind) -> Kind:
    """Let files hold values of this class, as its arguments."""
    VALUES[_name(kind)] = kind
    return kind


def network(kind: Kind) -> Kind:
    """Let files hold networks of this class, as its arguments."""
    NETWORKS[_name(kind)] = kind
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
    names = list(inspect.signature(type(value)).parameters) if _name(type(value)) in VALUES | NETWORKS else ["?"]
    return {k: getattr(value, k) for k in names} if all(hasattr(value, k) for k in names) else None


def unpack(packed: Any, arrays: Mapping[str, np.ndarray], known: Mapping[str, type] = VALUES) -> Any:
    """Return the value of a JSON form that :func:`pack` made, of no other classes than those known."""
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
        return _SEQUENCES[kind][1](unpack(v, arrays, known) for v in held)
    if kind != "dict" and kind not in known:
        raise ValueError(f"a value {kind!r} is not known here: import the module that defines it first")
    parts = {k: unpack(v, arrays, known) for k, v in held.items()}
    return parts if kind == "dict" else _made(known[kind], parts)


def unpack_as(kind: type, packed: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return the value of a JSON form, or raise where it is of another class."""
    value = unpack(packed, arrays)
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} stands where a {kind.__name__} should")
    return value


def _made(kind: type, arguments: dict[str, Any]) -> Any:
    """Return a value of these arguments, or raise where one of this library is of another type or out of its range."""
    if not kind.__module__.startswith("nsgf."):
        return kind(**arguments)
    hints = get_type_hints(kind if issubclass(kind, tuple) else kind.__init__)
    for name, value in arguments.items():
        if not _is(value, hints[name]):
            raise ValueError(f"{kind.__name__} has {name}={value!r:.80}, which is no {hints[name]}")
    made = kind(**arguments)
    if callable(getattr(made, "check", None)):
        made.check()
    return made


def _is(value: Any, hint: Any) -> bool:
    """Whether a value read from a file is what an annotation says."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_is(value, part) for part in parts)
    if kind is Literal:
        return value in parts
    if kind in (dict, Sequence) or parts[1:] == (...,):
        return isinstance(value, kind) and all(_is(v, parts[kind is dict]) for v in _held(value))
    if kind is tuple:
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_is, value, parts))
    if hint in (bool, int, float):
        return isinstance(value, int | hint)
    return hint is Any or isinstance(value, kind or hint)


def _held(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


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
    "fraction": (fractions.Fraction, str, lambda text: fractions.Fraction(*map(int, text.split("/")))),
    "uuid": (uuid.UUID, str, uuid.UUID),
}


def below(prefix: str, entries: Mapping[str, T]) -> dict[str, T]:
    """Return the entries whose names begin with `prefix` and a dot, without both."""
    return {k.removeprefix(f"{prefix}."): v for k, v in entries.items() if k.startswith(f"{prefix}.")}


def write(path: Path_, arrays: Mapping[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write arrays and JSON-able `meta` to `path`, all or nothing: a full disk leaves what stood there before."""
    from safetensors.numpy import save

    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = json.dumps(meta, allow_nan=False)
    _files.replace(path, save(arrays, {FORMAT: text, "sha256": checksum(text, arrays)}))


def checksum(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Return what tells the content of a file from any other."""
    code = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        code.update(f"{name} {array.dtype.name} {array.shape}".encode())
        code.update(np.ascontiguousarray(array).data)
    return code.hexdigest()


def read(path: Path_) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what :func:`write` wrote.

    Raises
    ------
    OSError
        Where there is no such file (FileNotFoundError), it is none, or may not be read.
    ValueError
        Where it is cut short, damaged, changed, or of another program or version.
    """
    name = os.fspath(_checks.path("path", path))
    try:
        _files.check_regular(path)
        blob = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no model at {name!r}; write one with model.save(path).") from None
    except PermissionError as error:
        raise PermissionError(error.errno, "this may not be read; ask its owner, or use chmod u+r", name) from None
    try:
        arrays, held = _parsed(blob)
        _check_origin(held, arrays)
        meta = json.loads(held[FORMAT])
        if not isinstance(meta, dict):
            raise ValueError("its description is no object.")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name!r} cannot be read as an nsgf model: {error}") from error
    return arrays, meta


def _parsed(blob: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays and the text entries of a safetensors file, or raise a ValueError that tells what it is."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not blob:
        raise ValueError("it is empty, as after a save that was cut short. Save the model again.")
    if not blob[8:9] == b"{":  # after the length of the header
        raise ValueError("it is of another format. Give a file that model.save wrote.")
    try:
        arrays, header = load(blob), json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    except (SafetensorError, KeyError) as error:
        raise ValueError(
            f"it is cut short or damaged ({error}). Fetch the file again, or save the model again."
        ) from error
    return arrays, header.get("__metadata__", {})


def _check_origin(held: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> None:
    """Raise where the text entries of a file are another program's or version's, or tell that it was changed."""
    newer = [name for name in held if name.startswith("nsgf-")]
    if FORMAT in held:
        if held.get("sha256") != checksum(held[FORMAT], arrays):
            raise ValueError(
                "it was changed after it was saved, or damaged. Fetch the file again, or save the model again."
            )
    elif "nsgf-1" in held:
        raise ValueError(
            "it was written by nsgf 0.1.0, whose estimators had other parameters: fit again, or open it with that one."
        )
    elif newer:
        raise ValueError(f"it was written by a newer version of nsgf ({newer[0]}, not {FORMAT}): upgrade nsgf.")
    else:
        raise ValueError("it is a safetensors file, but not of an nsgf model. Give a file that model.save wrote.")
