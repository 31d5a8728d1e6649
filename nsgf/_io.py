"""Fitted models on disk: arrays and JSON in one safetensors file, which never executes code when it is read."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read", "replace", "write"]

FORMAT = "nsgf-1"


def write(path: "str | os.PathLike[str]", arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
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
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def read(path: "str | os.PathLike[str]") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what :func:`write` wrote.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where it is cut short, corrupt, or another program's.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no model at {os.fspath(path)!r}; write one with model.save(path).")
    try:
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {})[FORMAT])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except KeyError:
        raise ValueError(f"{os.fspath(path)!r} is a safetensors file, but not of an nsgf model.") from None
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} cannot be read as an nsgf model ({error}). It may be cut short, corrupt or "
            "of another format: save the model again, or fetch the file again."
        ) from error
    return arrays, meta
