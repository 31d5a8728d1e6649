"""Edits: what someone may do to the JSON of a file, by choices that a fuzzer or Hypothesis makes."""

import copy

STRANGE = [None, True, -1, 0, 7, 10**30, 0.5, 1e308, float("nan"), "", "unet", "cuda", [], {}, [[]], {"a": 1, "b": 2}]
STRANGE += [
    {"float": "inf"},
    {"float": "nan"},
    {"float": 7},
    {"decimal": "?"},
    {"bytes": "0f"},
    {"moment": ["<M8[s]", 1]},
]
STRANGE += [{"array": name} for name in ("field_.layers.0.weight", "task.target.x", "nowhere", ["list"])]
STRANGE += [{"tuple": []}, {"tuple": [0.0, 0.5, 1.0]}, {"tuple": [{"list": [1]}]}, {"objects": ["a", "b"]}, {"list": 3}]
STRANGE += [
    {"os.system": {"command": "true"}},
    {"Sinkhorn": {}},
    {"Sinkhorn": {"tol": "small"}},
    {"_Called": {"call": 1}},
]
STRANGE += [{"dict": {}}, {"dict": {"a": {"dict": []}}}, {"Labels": {}}, {"Clock": {"n_steps": 3, "length": 3.0}}]
STRANGE += [{"MLP": {"n_features": 2} | sizes} for sizes in ({}, {"width": 10**12}, {"depth": 10**9}, {"width": -1})]
STRANGE += [{"UNet": {"sample_shape": {"tuple": [1, 10**9, 10**9]}, "width": 10**6}}, {"OnImages": {"net": None}}]


def entries(value):
    """Yield the container and the key of everything within a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in pairs:
        yield value, key
        yield from entries(held)


def edited(value, choose):
    """Return a copy of JSON in which one entry is gone, renamed, that of another place, or strange.

    `choose` gives a number below the one that it is called with.
    """
    value = copy.deepcopy(value)
    found = list(entries(value))
    (holder, key), (other, place) = (found[choose(len(found))] for _ in range(2))
    new = [copy.deepcopy(other[place]), *copy.deepcopy(STRANGE)]
    what = choose(len(new) + 2)
    held = holder.pop(key)
    if what == len(new) and isinstance(holder, dict):
        holder["other"] = held
    elif what < len(new):
        holder.insert(key, new[what]) if isinstance(holder, list) else holder.update({key: new[what]})
    return value
