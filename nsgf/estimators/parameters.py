"""Parameters and fitted attributes of estimators, as scikit-learn's users find them."""

import collections
import dataclasses
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import numpy as np
import torch
from sklearn.exceptions import NotFittedError

from nsgf import _io, _random, encoders
from nsgf.networks import check_weights, load_weights
from nsgf.training import Training

RandomState = int | np.random.Generator | np.random.RandomState | np.random.SeedSequence | np.random.BitGenerator | None
_GENERATORS = tuple(kind for kind in get_args(RandomState) if kind is not int)
_NOT_LEARNT = ("random_state", "verbose", "device")  # change nothing of what is learnt
T = TypeVar("T")


class Fitted(Generic[T]):
    """An attribute that `fit` learns: read from what it remembered, and never set."""

    def __init__(self, read: Callable[[Any], T]) -> None:
        self._read = read

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, model: Any, owner: type | None = None) -> T:
        if model is None:
            return self  # type: ignore[return-value]
        if not model.__sklearn_is_fitted__():
            raise NotFittedError(f"{type(model).__name__} has no {self._name}: it is not fitted yet. Call fit first.")
        return self._read(model)

    def __set__(self, model: object, value: T) -> None:
        raise AttributeError(f"{self._name} is learnt by fit, and cannot be set.")


def check_random_state(random_state: object) -> None:
    """Raise on what is no random state."""
    is_seed = isinstance(random_state, int | np.integer) and not isinstance(random_state, bool) and random_state >= 0
    if not (is_seed or isinstance(random_state, _GENERATORS)):
        raise ValueError(
            f"random_state={random_state!r} must be an integer of at least 0, a Generator of NumPy, or None for fresh "
            "numbers in every call."
        )


def as_rng(random_state: RandomState) -> np.random.Generator:
    """Return a Generator for a random state; no global seed is touched.

    Raises
    ------
    ValueError
        On what is none.
    """
    check_random_state(random_state)
    if isinstance(random_state, np.random.RandomState):
        random_state = random_state.randint(2**31)
    if isinstance(random_state, np.random.SeedSequence):  # whose children are counted: every fit is to have the same
        random_state = np.random.SeedSequence(random_state.entropy, spawn_key=random_state.spawn_key)
    return np.random.default_rng(random_state)


def rng_of(model: Any) -> np.random.Generator:
    """Return what a fit draws from: in a directory without a seed, what the first one there drew from."""
    directory = habits(model).directory
    if model.random_state is None and directory is not None:
        return np.random.default_rng(_random.kept_seed(Path(directory)))
    return as_rng(model.random_state)


def fields_of(parameters: Mapping[str, object]) -> dict[str, Any]:
    """Return the fields of the values and estimators among parameters, by names as ``training__learning_rate``."""
    return {f"{k}__{field}": v for k, value in parameters.items() for field, v in _fields(value).items()}


def _fields(value: Any) -> dict[str, Any]:
    """Return the fields of a value, or the parameters of an estimator; none of a class."""
    if hasattr(value, "get_params") and not isinstance(value, type):
        return dict(value.get_params())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}


def with_fields(parameters: Mapping[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
    """Return the values among parameters in which fields are changed, by names as in :func:`fields_of`.

    An estimator among them is changed itself, as scikit-learn does it.
    """
    known, changed = fields_of(parameters), collections.defaultdict[str, dict[str, object]](dict)
    for name, new in changes.items():
        owner, _, field = name.partition("__")
        if name not in known:
            others = ", ".join(k for k in known if k.startswith(f"{owner}__"))
            unset = f"{owner}={parameters.get(owner)!r} has no fields; set it first"
            raise ValueError(f"Invalid parameter {name!r}: {f'choose one of {others}' if others else unset}.")
        changed[owner][field] = new
    return {owner: _changed(parameters[owner], fields) for owner, fields in changed.items()}


def _changed(value: Any, fields: dict[str, object]) -> Any:
    return value.set_params(**fields) if hasattr(value, "set_params") else dataclasses.replace(value, **fields)


def packed(name: str, value: object, arrays: dict[str, np.ndarray]) -> Any:
    """Return the JSON form of a parameter; of a network or an encoder of the user's own, its name."""
    if name == "encoder":
        each = tuple(map(encoders.kept_or_named, value)) if isinstance(value, tuple | list) else value
        return _io.pack(name, each if each is not value else encoders.kept_or_named(value), arrays)
    try:
        form = _io.pack(name, value, arrays)
        if isinstance(value, torch.nn.Module):  # its first weights, should it be fitted again
            arrays |= {f"first.{k}": v.detach().cpu().numpy() for k, v in value.state_dict().items()}
        return form
    except ValueError:
        if isinstance(value, torch.nn.Module):
            return {"module": type(getattr(value, "net", value)).__name__}
        raise


def unpacked(
    forms: Mapping[str, Any], arrays: Mapping[str, np.ndarray], network: torch.nn.Module | None, encoder: Any = None
) -> dict[str, Any]:
    """Return the parameters of their JSON forms, with the network and encoder that are given in their place."""
    given = {k: v for k, v in (("network", network), ("encoder", encoder)) if v is not None}
    own = forms.get("network")
    if network is None and isinstance(own, dict) and "module" in own:
        raise LookupError(f"was fitted with a network of your own, {own['module']}: give it, load(path, network=…).")
    if isinstance(own, dict) and network is None:
        given["network"] = _network(own, arrays)
    found = {k: _io.unpack(form, arrays) for k, form in forms.items() if k not in given} | given
    if "encoder" in found and encoder is None:
        found["encoder"] = encoders.restored(found["encoder"])
    return found


def _network(form: Any, arrays: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """Return a network of this library with its first weights; no memory is taken for others than the file holds."""
    first = _io.below("first", arrays)
    if any(n > len(first) for n in _depths(form)):
        raise ValueError("its network is deeper than the file has weights")
    with torch.device("meta"):
        sketch = _io.unpack(form, {}, _io.NETWORKS)
        check_weights(sketch, {k: torch.from_numpy(v) for k, v in first.items()})
    net: torch.nn.Module = _io.unpack(form, {}, _io.NETWORKS)
    load_weights(net, first)
    return net


def _depths(form: Any) -> Iterator[int]:
    """Yield all numbers of layers that the form of a network names."""
    for name, held in form.items() if isinstance(form, dict) else ():
        if isinstance(held, list):
            yield len(held)
        elif name in ("depth", "n_blocks"):
            yield held
        yield from _depths(held)


def anywhere(given: dict[str, Any]) -> dict[str, Any]:
    """Return parameters that can be checked on a machine without the device of a fit."""
    return given | {"device": "cpu"} if given.get("device") == "cuda" else given


def habits(model: Any) -> Training:
    """Return the habits of an estimator's training, the defaults where it was given none."""
    training = getattr(model, "training", None)
    return getattr(model, "_habits", Training()) if training is None else training


def key_of(model: Any, fingerprint: bytes) -> str:
    """Return what tells the training of an estimator from one of other data or parameters."""
    parameters = model.get_params(deep=False)
    left_out = {*_NOT_LEARNT, *getattr(model, "_asked", ())}
    meant = {k: v for k, v in parameters.items() if k not in left_out} | {"class": type(model).__name__}
    meant["n_steps"] = int(meant.get("n_steps", 0))
    meant["training"] = dataclasses.replace(habits(model), directory=None, pool_bytes=None, checkpoint_every=1)
    if isinstance(model.random_state, int | np.integer):
        meant["random_state"] = int(model.random_state)
    form = _io.pack("parameters", meant, {}, _described)
    key, network = hashlib.sha256(json.dumps(form, sort_keys=True).encode() + fingerprint), parameters.get("network")
    for weight in network.state_dict().values() if isinstance(network, torch.nn.Module) else ():
        key.update(np.ascontiguousarray(weight.detach().cpu().numpy()).data)
    return key.hexdigest()


def _described(value: object) -> str:
    """Return what tells a value from others: of a function of a module, what another process finds by its name."""
    if inspect.isfunction(value) and "<" not in value.__qualname__:
        return f"{value.__module__}.{value.__qualname__} {sorted(vars(value).items())}"
    return repr(value)
