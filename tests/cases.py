"""Cases: what a user may hand to nsgf, good and bad, drawn by Hypothesis; and the judge of what comes of it.

Whatever goes in, there comes out a right result, a warning of nsgf, or an error of nsgf that names the argument and a
remedy; and nothing else is touched. ``python tests/cases.py 10000 [seed]``, or ``tox -e fuzz``, draws so many cases
and lists what breaks this, by kinds; test_fuzz.py draws some in every run of the tests.
"""

import collections
import contextlib
import datetime
import decimal
import functools
import os
import pickle
import random
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st
from hypothesis.errors import InvalidArgument
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, QuantileTransformer, StandardScaler

import nsgf
from nsgf import NSGF, POT, Labels, NSGFPlusPlus, Numbers, Pairs, Sinkhorn, Training, metrics, networks, plots

SECONDS = 60  # that a case may take
SEEN = (60, 2)  # rows and features of what the models that are asked were fitted on
FOLDER = Path(tempfile.mkdtemp())
DAY = datetime.date(2024, 1, 1)


class Sample(NamedTuple):
    """What is given, in words; and the numbers that it stands for: None where it has to be refused, "" where either."""

    words: str
    given: Any
    plain: Any = ""


class Case(NamedTuple):
    """A call in words, what it does with what is given, its arguments, and what its result has to be like."""

    words: str
    call: Callable[..., Any]
    given: list[Any]
    plain: list[Any] | None = None  # of the same numbers in float64, with a result that has to be alike
    refused: bool = False
    like: Any = None  # what the result has the library and dtype of
    rtol: float = 1e-2

    def __repr__(self) -> str:
        return self.words


def length_of(given):
    """Return the number of rows; 3 of what has none."""
    try:
        return len(given)
    except TypeError:
        return 3


def sometimes(draw, n=8):
    """Return true once in n."""
    return draw(st.integers(0, n - 1)) == n - 1


# %% Samples

VALUES = {
    "normal": lambda z: z,
    "integers": lambda z: np.rint(3 * z),
    "constant": lambda z: 0 * z + 1.5,
    "zeros": lambda z: 0 * z,
    "duplicated": lambda z: z[np.arange(len(z)) // 3] if len(z) else z,
    "far": lambda z: z + 1e8,
    "huge": lambda z: 1e100 * z,
    "too huge": lambda z: 1e200 * z,
    "tiny": lambda z: 1e-100 * z,
    "subnormal": lambda z: 1e-310 * z,
    "float32's end": lambda z: 1e38 * z,
    "units": lambda z: z * 10.0 ** np.arange(0, 6 * z.shape[1], 6),
    "outlier": lambda z: np.where(np.arange(len(z))[:, None] == 0, 1e6, z),
    "NaN": lambda z: np.where(np.arange(z.size).reshape(z.shape) == z.size // 2, np.nan, z),
    "infinite": lambda z: np.where(np.arange(z.size).reshape(z.shape) == z.size // 2, -np.inf, z),
}
DTYPES = ["float32", "float16", ">f8", "longdouble", "int64", "uint8", "bool", "object"]
BAD_DTYPES = ["complex128", "datetime64[s]", "timedelta64[s]", "S8", "U8"]
FORMS = {
    "list": lambda z: z.tolist(),
    "tuples": lambda z: tuple(map(tuple, z.tolist())),
    "list of rows": list,
    "Fortran": np.asfortranarray,
    "reversed": lambda z: z[::-1][::-1].copy()[::-1][::-1],
    "strided": lambda z: np.repeat(z, 2, axis=0)[::2],
    "read-only": lambda z: np.frombuffer(z.tobytes(), z.dtype).reshape(z.shape) if z.size and z.dtype != object else z,
    "matrix": lambda z: np.asmatrix(z),
    "unmasked": np.ma.asarray,
    "torch": lambda z: torch.tensor(np.ascontiguousarray(z)),
    "torch with gradients": lambda z: torch.tensor(np.ascontiguousarray(z), requires_grad=True),
    "pandas": lambda z: pd.DataFrame(z, columns=[f"f{i}" for i in range(z.shape[1])]),
    "pandas by number": pd.DataFrame,
    "pandas nullable": lambda z: pd.DataFrame(z, columns=[f"f{i}" for i in range(z.shape[1])]).convert_dtypes(),
    "polars": lambda z: pl.DataFrame(z, schema=[f"f{i}" for i in range(z.shape[1])]),
}
BAD_FORMS = {
    "generator": lambda z: (row for row in z),
    "iterator": lambda z: iter(z.tolist()),
    "vector": lambda z: np.ravel(z),
    "scalar": lambda z: 3.0,
    "text": lambda z: "sample.npy",
    "bytes": lambda z: b"sample",
    "dict": lambda z: {"f0": z[:, 0]},
    "set": lambda z: {1.0, 2.0},
    "function": lambda z: np.mean,
    "object": lambda z: object(),
    "class": lambda z: np.ndarray,
    "CSR": lambda z: sp.csr_array(z),
    "coordinates": lambda z: sp.coo_matrix(z),
    "torch sparse": lambda z: torch.tensor(np.ascontiguousarray(z)).to_sparse(),
    "masked": lambda z: np.ma.array(z, mask=np.arange(z.size).reshape(z.shape) == 0),
    "ragged": lambda z: [[1.0, 2.0], [3.0]],
    "text in a frame": lambda z: pd.DataFrame({"f0": ["a"] * len(z), "f1": 1.0}),
    "missing in a frame": lambda z: pd.DataFrame({"f0": [None] * len(z), "f1": 1.0}),
    "missing in polars": lambda z: pl.DataFrame({"f0": [None] + [1.0] * 20, "f1": [1.0] * 21}),
    "categories": lambda z: pd.DataFrame({"f0": pd.Categorical(["a", "b"] * 5), "f1": pd.Categorical(["a", "b"] * 5)}),
    "dates in a frame": lambda z: pd.DataFrame({"f0": pd.date_range("2024", periods=9), "f1": 1.0}),
    "dates": lambda z: [[DAY, DAY], [DAY, DAY], [DAY, DAY]],
    "records": lambda z: np.zeros(9, [("f0", float), ("f1", float)]),
    "series": lambda z: pd.Series(np.ravel(z)),
    "zero dimensions": lambda z: np.array(1.0),
    "empty list": lambda z: [],
    "list of empty lists": lambda z: [[], []],
    "empty frame": lambda z: pd.DataFrame(),
    "deep list": lambda z: [[[[]]]],
    "no number": lambda z: [[1.0, None], [2.0, "x"]],
    "far integers": lambda z: [[10**400, 1], [1, 2]],
    "path": lambda z: Path("x.npy"),
    "estimator": lambda z: NSGF(),
    "none": lambda z: None,
}


@st.composite
def arrays(draw, shape=None, sizes=(1, 2, 3, 17, 60, 60, 60), kinds=tuple(VALUES)):
    """Draw numbers in float64, with their words."""
    n, d = shape or (draw(st.sampled_from(sizes)), draw(st.sampled_from([2, 2, 2, 2, 1, 3, 40])))
    if sometimes(draw, 40):
        n, d = draw(st.sampled_from([(0, d), (n, 0), (0, 0)]))
    kind = "normal" if not sometimes(draw, 3) else draw(st.sampled_from(kinds))
    z = np.random.default_rng(draw(st.integers(0, 9))).normal(size=(n, d))
    return f"{kind} ({n}, {d})", VALUES[kind](z), kind in ("NaN", "infinite") and z.size > 0


@st.composite
def samples(draw, shape=None, **options):
    """Draw a sample: mostly good numbers in a form that is read, else what has to be refused."""
    words, z, is_bad = draw(arrays(shape, **options))
    dtype, form = "float64", "array"
    if sometimes(draw, 3):
        dtype = draw(st.sampled_from(DTYPES))
    with np.errstate(all="ignore"):
        z = z.astype(dtype)
        plain = z.astype(np.float64)
    is_bad = not np.isfinite(plain).all()
    given, plain = z, None if is_bad else plain
    if sometimes(draw, 20):
        form = draw(st.sampled_from([*BAD_FORMS, *BAD_DTYPES]))
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = z.astype(form) if form in BAD_DTYPES else BAD_FORMS[form](z.astype(float))
        plain = "" if form == "U8" or form == "S8" else None
    elif sometimes(draw, 2):
        form = draw(st.sampled_from(list(FORMS)))
        with contextlib.suppress(
            TypeError, ValueError, ImportError, RuntimeError
        ):  # what pandas, polars or torch have no form for
            given = FORMS[form](z)
            if form in ("pandas nullable", "list", "tuples", "matrix") or dtype == "longdouble":
                plain = plain if plain is None else ""  # such as bytes of objects, or a longdouble of a list
    return Sample(f"{words} {dtype} {form}", given, plain)


@st.composite
def pictures(draw, n=20):
    """Draw images in some layout, as those that the models of images were fitted on or not."""
    shape = draw(
        st.sampled_from(
            [(n, 1, 4, 4)] * 4 + [(n, 4, 4), (n, 16), (n, 4, 4, 1), (n, 3, 4, 4), (n, 0, 4, 4), (0, 1, 4, 4), (n, 2, 8)]
        )
    )
    z = np.random.default_rng(0).random(shape)
    form = draw(st.sampled_from(["array", "torch", "list", "float32", "uint8", "NaN"]))
    if form == "NaN" and z.size:
        z.flat[0] = np.nan
    given = {
        "torch": lambda z: torch.tensor(z),
        "list": lambda z: z.tolist(),
        "uint8": lambda z: (255 * z).astype(np.uint8),
    }
    given |= {"float32": lambda z: z.astype(np.float32)}
    with np.errstate(all="ignore"):
        return Sample(f"images {shape} {form}", given.get(form, lambda z: z)(z), "")


# %% Parameters and conditions

STRANGE = [None, True, -1, 0, 1.5, float("nan"), float("inf"), -float("inf"), "", "x", "auto", b"x", [], (), {}, (1, 2)]
STRANGE += [object(), np.array([1.0, 2.0]), np.array(3), np.array([]), 1j, decimal.Decimal("0.5"), pd.NA, pd.NaT, print]
STRANGE += [
    np.datetime64("NaT"),
    DAY,
    torch.tensor(2.0),
    torch.ones(2),
    NSGF,
    NSGF(),
    Training(),
    10**30,
    1e300,
    1e-300,
]
STRANGE += [
    np.float32(0.3),
    np.int8(1),
    "0.5",
    [1, "a"],
    {"a": 1},
    range(2),
    np.random.default_rng,
    Path("x"),
    slice(2),
]
STRANGE += [[[1.0]], np.ones((2, 2)), "a\0b", "\ud800", 5e-324, -0.0, 2**63, np.str_("mlp"), np.ma.masked, Ellipsis]
STRANGE += [10**400]
BLURS = ["auto", 0.3, 1, 10.0, np.float32(0.5), 0.05, 1e-3, 1e6]
SOLVERS = [
    "auto",
    Sinkhorn(),
    Sinkhorn(tol=1e-4),
    POT(),
    POT(method="sinkhorn_log", max_iter=50),
    POT(method="sinkhorn"),
    Sinkhorn(max_iter=1),
    Sinkhorn(tol=10.0),
    Sinkhorn(max_iter=2, on_unconverged="raise"),
    POT(method="sinkhorn_stabilized"),
]
ENCODERS = [
    None,
    StandardScaler(),
    MinMaxScaler(),
    PCA(1),
    PCA(2, whiten=True),
    (PCA(1), PCA(1)),
    [StandardScaler(), MinMaxScaler()],
]
BAD_ENCODERS = [
    PCA,
    PCA(99),
    (PCA(1),),
    (PCA(1), PCA(2)),
    (None, PCA(1)),
    FunctionTransformer(np.log),
    np.log,
    "pca",
    sp,
    FunctionTransformer(lambda z: z[:1], lambda z: z, check_inverse=False),
    (StandardScaler(),) * 3,
    FunctionTransformer(lambda z: z * np.nan, lambda z: z, check_inverse=False),
    FunctionTransformer(lambda z: z, lambda z: z[:, :1], check_inverse=False),
    QuantileTransformer(n_quantiles=5),
]
TRAINING = {
    "learning_rate": [5e-3, 1e-3, 1, np.float32(1e-3), 1e300],
    "batch_size": [16, 1, np.int64(8)],
    "ema_decay": [0.9, 0, 0.999],
    "clip": [1.0, float("inf"), 1e-30],
    "warmup": [0, 1, 100],
    "bf16": [False],
    "validate_every": [0, 1],
    "patience": [0],
    "condition_dropout": [0.2, 0.0, 0.9],
    "held_out": [0.1, 0.0, 0.9],
    "refill_every": [0, 1],
    "pool_bytes": [None, 10**9, 10],
    "checkpoint_every": [1, 1000],
    "channels_last": [False, True],
}
PARAMETERS = {
    "blur": BLURS,
    "n_steps": [2, 1, np.int64(3)],
    "step_size": [1.0, 1, 0.3, 5.0, np.float32(0.5)],
    "batch_size": [16, 2, np.int32(8), 100],
    "n_batches": [1, 2],
    "network": ["mlp"],
    "max_iter": [2, 1, np.int64(3)],
    "solver": SOLVERS,
    "encoder": ENCODERS,
    "device": ["auto", "cpu"],
    "random_state": [0, 1, np.int64(3), np.random.SeedSequence(3)],
    "verbose": [0],
}
QUICK = {"max_iter": 2, "n_batches": 1, "batch_size": 16, "n_steps": 2, "random_state": 0, "device": "cpu"}
HOLDS_TIME = ("n_steps", "n_batches", "max_iter", "batch_size", "warmup", "n", "n_permutations", "n_projections")


def chosen(draw, name, good, bad=(), n=8):
    """Return a good value, or one in n times another one."""
    if not sometimes(draw, n):
        return draw(st.sampled_from(good))
    value = draw(st.sampled_from([*bad, *STRANGE]))
    return good[0] if name in ("max_iter", "n_projections") and isinstance(value, int) and value > 100 else value


@st.composite
def some(draw, table, n=2, bad=None):
    """Draw a few parameters of a table, mostly good."""
    names = draw(st.lists(st.sampled_from(list(table)), max_size=n, unique=True))
    return {name: chosen(draw, name, table[name], (bad or {}).get(name, ())) for name in names}


def labels(n):
    """Return conditions of n rows by their words."""
    k = np.arange(n) % 2
    text = np.array(["a", "b"], dtype=object)[k]
    return {
        "text": text,
        "list": list(text),
        "integers": k,
        "partly unknown": np.where(np.arange(n) % 5 == 0, -1, k),
        "None": [None if i % 5 == 0 else str(i % 2) for i in range(n)],
        "tuples": [("a", int(i)) for i in k],
        "booleans": k == 1,
        "1 and -1": 2 * k - 1,
        "whole floats": k.astype(float),
        "series": pd.Series(text),
        "categorical": pd.Categorical(text),
        "nullable": pd.array([None, *k[1:]], dtype="Int64"),
        "polars": pl.Series(list(text)),
        "torch": torch.tensor(k),
        "dates": np.datetime64("2024-01-01") + k,
        "Labels": Labels([0.5 + i for i in k]),
        "one": ["a"] * n,
        "decimals": [decimal.Decimal(int(i)) for i in k],
        "bytes": [b"a" if i else b"b" for i in k],
    }


def numbers(n):
    """Return continuous conditions of n rows by their words."""
    z = np.random.default_rng(1).normal(size=(n, 2))
    return {
        "columns": z,
        "one column": z[:, :1],
        "Numbers": Numbers(z[:, 0]),
        "weighted": Numbers(z, weight=1e3),
        "constant": 0 * z,
        "frame": pd.DataFrame(z, columns=["u", "v"]),
        "polars": pl.DataFrame(z, schema=["u", "v"]),
        "torch": torch.tensor(z),
        "huge": 1e200 * z,
        "lists": z.tolist(),
    }


def bad_conditions(n):
    """Return what are no conditions of n rows, by their words."""
    return {
        "short": ["a"] * (n - 1),
        "long": ["a"] * (n + 1),
        "empty": [],
        "unknown all": [-1] * n,
        "missing all": [None] * n,
        "fractions": np.linspace(0, 1, n),
        "not hashable": [{}] * n,
        "ragged": [[1.0], [1.0, 2.0]] + [[1.0]] * (n - 2),
        "three dimensions": np.zeros((n, 2, 2)),
        "no width": np.zeros((n, 0)),
        "NaN": np.full((n, 2), np.nan),
        "text columns": np.array([["a", "b"]] * n),
        "masked": np.ma.masked_equal(np.arange(n * 2).reshape(n, 2), 3),
        "masked labels": np.ma.masked_equal(np.arange(n), 3),
        "objects": [object() for _ in range(n)],
        "functions": [print] * n,
        "generator": ("a" for _ in range(n)),
        "dict": {"a": 1},
        "string": "aa",
        "sparse": sp.csr_array(np.ones((n, 2))),
        "complex": np.ones((n, 2)) * 1j,
        "dates": np.full((n, 2), np.datetime64("2024-01-01")),
        "NaN labels": [float("nan")] * n,
        "Numbers of text": Numbers(["a"] * n),
        "Labels of columns": Labels(np.ones((n, 2))),
        "Labels of nothing": Labels(None),
    }


def pairs(n, m):
    """Return pairs, good and bad."""
    good = [
        [(0, 1), (1, 0)],
        np.array([[0, 1], [0, 1]]),
        Pairs([(0, 0)], weight=9.0),
        [(1.0, 0.0)],
        pd.DataFrame([(0, 1)]),
        torch.tensor([[0, 1]]),
    ]
    bad = [
        [],
        [(0, m)],
        [(-1, 0)],
        [(0, 0), (0, 1)],
        [(0.5, 1)],
        "ab",
        [("a", "b")],
        np.ones((2, 3)),
        [0, 1],
        [(n, 0)],
        object(),
        [(None, 1)],
        [(2**70, 1)],
        np.zeros((0, 2)),
        [(float("nan"), 0)],
    ]
    return good, bad


# %% Calls of functions

WEIGHTS = [
    None,
    "ones",
    "rising",
    "one zero",
    "list",
    "torch",
    "negative",
    "NaN",
    "zeros",
    "short",
    "text",
    "column",
    "huge",
    "tiny",
]


def weights(kind, n):
    """Return weights of n rows."""
    rising = np.arange(1.0, n + 1)
    kinds = {
        None: None,
        "ones": np.ones(n),
        "rising": rising,
        "one zero": np.where(rising == 1, n == 1, rising),
        "list": rising.tolist(),
        "torch": torch.ones(n),
        "negative": -rising,
        "NaN": np.full(n, np.nan),
        "zeros": np.zeros(n),
        "short": np.ones(n + 1),
        "text": ["a"] * n,
        "column": np.ones((n, 1)),
        "huge": 1e304 * rising,
        "tiny": 1e-320 * rising,
    }
    return kinds[kind]


SEEDS = [0, 3, None, np.random.SeedSequence(1)]
FUNCTIONS = {
    "sinkhorn_velocity": (
        nsgf.sinkhorn_velocity,
        {"blur": BLURS, "solver": SOLVERS, "init": [None], "a": [None], "b": [None]},
    ),
    "sinkhorn_divergence": (nsgf.sinkhorn_divergence, {"blur": BLURS, "solver": SOLVERS, "a": [None], "b": [None]}),
    "sinkhorn_flow": (
        nsgf.sinkhorn_flow,
        {"blur": BLURS, "n_steps": [2, 1], "step_size": [1.0, 0.5], "solver": SOLVERS, "a": [None], "b": [None]},
    ),
    "spread": (lambda x, y, **o: nsgf.spread(x, **o), {"a": [None]}),
    "wasserstein": (metrics.wasserstein, {}),
    "sliced_wasserstein": (metrics.sliced_wasserstein, {"n_projections": [10, 1], "random_state": [0, 3]}),
    "mmd": (metrics.mmd, {"lengths": [None, (0.5, 1.0), 1.0, [2]]}),
    "two_sample_test": (
        metrics.two_sample_test,
        {"lengths": [None, (1.0,)], "n_permutations": [20, 1], "random_state": [0, 3]},
    ),
    "classifier_two_sample": (
        metrics.classifier_two_sample,
        {"classifier": [None], "n_folds": [2, 3], "random_state": [0]},
    ),
    "energy_distance": (metrics.energy_distance, {}),
    "frechet_distance": (metrics.frechet_distance, {}),
    "precision_recall": (metrics.precision_recall, {"k": [3, 1]}),
    "memorisation": (lambda x, y, **o: metrics.memorisation(x, y, x, **o), {}),
    "plot_samples": (lambda x, y, **o: plots.plot_samples(x=x, y=y, **o), {"ax": [None]}),
    "plot_trajectories": (lambda x, y, **o: plots.plot_trajectories(x, **o), {"target": [None], "ax": [None]}),
    "plot_paths": (lambda x, y, **o: plots.plot_trajectories([x, x], y), {}),
    "plot_velocity_field": (
        lambda x, y, **o: plots.plot_velocity_field(lambda z: -z, x, **o),
        {"n": [3, 1], "ax": [None]},
    ),
    "plot_images": (
        lambda x, y, shape=(1, 2), **o: plots.plot_images(x, shape, **o),
        {"shape": [(1, 2), (2, 1), [1, 2]], "n_columns": [10, 1], "ax": [None]},
    ),
    "plot_loss": (lambda x, y, **o: plots.plot_loss(x, **o), {"ax": [None], "label": [None, "a"]}),
}
SLOW = "classifier_two_sample"


@st.composite
def of_functions(draw):
    """Draw a call of a function of two samples."""
    name = draw(st.sampled_from([k for k in FUNCTIONS for _ in range(1 if k == SLOW or k.startswith("plot") else 3)]))
    call, table = FUNCTIONS[name]
    x, y = draw(samples()), draw(samples())
    if not sometimes(draw, 5) and getattr(x.plain, "ndim", 0) == 2:
        y = draw(samples((draw(st.sampled_from([2, 5, 40])), x.plain.shape[1])))
    others = draw(some(table)) if table else {}
    for side, z in (("a", x), ("b", y)):
        if others.get(side, "") is None:
            others[side] = weights(draw(st.sampled_from(WEIGHTS)), len(z.plain) if np.ndim(z.plain) else 3)
    is_refused = (x.plain is None or y.plain is None) and name not in (
        "plot_trajectories",
        "plot_velocity_field",
        "plot_images",
        "plot_loss",
        "spread",
    )
    plain = None
    if isinstance(x.plain, np.ndarray) and isinstance(y.plain, np.ndarray) and not name.startswith(("plot", "spread")):
        plain = [x.plain, y.plain]
    words = f"{name}(<{x.words}>, <{y.words}>, {others})"
    if name == "sinkhorn_velocity" and "init" in others and others["init"] is None and sometimes(draw, 2):
        others["init"] = nsgf.sinkhorn_velocity(np.ones((3, 2)), np.eye(3, 2)).potentials
    rtol = 1e-2 if name.startswith("sinkhorn") else 1e-6
    return Case(words, functools.partial(call, **others), [x.given, y.given], plain, is_refused, x.given, rtol)


# %% Fitted models that are asked


@functools.cache
def model(kind):
    """Return a fitted model; not to be changed."""
    x, y = np.random.default_rng(0).normal(size=(2, *SEEN)) + [[[0.0, 0.0]], [[3.0, 1.0]]]
    fits = {
        "plain": lambda m: m.fit(x, y),
        "noise": lambda m: m.fit(None, y),
        "frame": lambda m: m.fit(*(pd.DataFrame(z, columns=["f0", "f1"]) for z in (x, y))),
        "images": lambda m: m.fit(*np.random.default_rng(0).random((2, 40, 1, 4, 4))),
        "labels": lambda m: m.fit(x, y, y_src=labels(60)["text"], y_tgt=labels(60)["text"]),
        "labels of targets": lambda m: m.fit(None, y, y_tgt=labels(60)["tuples"]),
        "always labels": lambda m: m.set_params(training=Training(batch_size=16, condition_dropout=0.0)).fit(
            None, y, y_tgt=labels(60)["text"]
        ),
        "numbers": lambda m: m.fit(x, y, y_tgt=numbers(60)["frame"]),
        "number": lambda m: m.fit(None, y, y_tgt=numbers(60)["one column"]),
        "pairs": lambda m: m.fit(x, y, pairs=[(0, 1), (2, 2)]),
        "course": lambda m: m.fit({0.0: x, 1.0: y, 3.0: x + y}),
        "dates": lambda m: m.fit({DAY + datetime.timedelta(k): z for k, z in enumerate((x, y))}),
        "encoder": lambda m: m.set_params(encoder=StandardScaler()).fit(x, y),
        "encoders": lambda m: m.set_params(encoder=(PCA(1), PCA(1))).fit(x, np.c_[y, y]),
        "two phases": lambda m: NSGFPlusPlus(**QUICK | {"training": m.training}).fit(x, y),
        "unfitted": lambda m: m,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fits[kind](NSGF(**QUICK, training=Training(batch_size=16)))


MODELS = [
    "plain",
    "noise",
    "frame",
    "images",
    "labels",
    "labels of targets",
    "always labels",
    "numbers",
    "number",
    "pairs",
    "course",
]
MODELS += ["dates", "encoder", "encoders", "two phases"]
TIMES = [
    None,
    0.0,
    1.0,
    2.0,
    3.0,
    5.0,
    DAY,
    DAY + datetime.timedelta(hours=9),
    np.datetime64("2024-01-02"),
    datetime.timedelta(1),
]
ASKED = {"guidance": [1.0, 1, 0.0, 2.5, -1.0, 1e30], "t0": TIMES, "t1": TIMES}
METRICS = [
    "sinkhorn_divergence",
    "wasserstein",
    "sliced_wasserstein",
    "mmd",
    "energy_distance",
    lambda x, y: abs(x.mean() - y.mean()),
]
ONE_LABEL = ["a", "b", ("a", 1), None, -1, "c", 0, 0.5, [0.5, 0.1], [0.3]]


@st.composite
def of_models(draw):
    """Draw a question to a model that is fitted."""
    kind, what = (
        draw(st.sampled_from(MODELS)),
        draw(st.sampled_from(["transform", "transform", "trajectory", "sample", "score"])),
    )
    if sometimes(draw, 60):
        kind = "unfitted"
    X = (
        draw(pictures())
        if kind == "images"
        else draw(samples((draw(st.sampled_from([1, 2, 5, 20])), 2) if not sometimes(draw, 6) else None))
    )
    n = length_of(X.given)
    others = draw(some({k: v for k, v in ASKED.items() if k[0] != "t" or kind in ("course", "dates")}, 2))
    n = draw(st.sampled_from([1, 3, 10])) if what == "sample" else n
    if kind[:3] in ("lab", "alw", "num") or sometimes(draw, 12):
        good = {**labels(max(n, 3)), **numbers(max(n, 3))} if n else {}
        table = bad_conditions(max(n, 3)) if sometimes(draw, 5) or not n else good
        others["y"] = draw(st.sampled_from([*ONE_LABEL, *table.values()]))
    if what == "sample":
        others["random_state"] = chosen(draw, "random_state", [0, 3, np.int64(3), None])
        n = chosen(draw, "n", [n])
        others = {k: v for k, v in others.items() if k not in ("t0", "t1")}
        return Case(f"{kind}: sample({n!r}, {others})", functools.partial(model(kind).sample, **others), [n])
    arguments, plain = [X.given], [X.plain] if isinstance(X.plain, np.ndarray) and kind != "frame" else None
    if what == "score":
        others["metric"] = chosen(draw, "metric", METRICS)
        if others["metric"] is np.random.default_rng or isinstance(others["metric"], type):  # their own errors
            del others["metric"]
        if sometimes(draw, 2):
            Y = (
                draw(pictures())
                if kind == "images"
                else draw(samples((20, 4 if kind == "encoders" else 2), kinds=("normal",)))
            )
            arguments, X = [*arguments, Y.given], X._replace(words=f"{X.words}>, <{Y.words}")
            plain = [*plain, Y.plain] if plain and isinstance(Y.plain, np.ndarray) else None
    words = f"{kind}: {what}(<{X.words}>, {others})"
    return Case(
        words, functools.partial(getattr(model(kind), what), **others), arguments, plain, X.plain is None, X.given, 1e-2
    )


# %% Fits


MOMENTS = [0, 1.0, 1e-12, 5e9, "2", DAY, np.datetime64("2025-01-01"), float("nan"), None, pd.Timestamp("2024-03-01")]
COURSES = [[0, 1], [0.0, 3.5], [DAY, DAY + datetime.timedelta(1)]]
KINDS = ["plain", "plain", "noise", "known", "known", "pairs", "course", "images"]
TWO_PHASES = PARAMETERS | {"max_iter": [(1, 2), 2]}


def conditions(draw, n, m):
    """Return words and conditions of n and m rows, now and then of two kinds or of none."""
    tables = {"labels": labels, "numbers": numbers, "bad": bad_conditions}
    name = draw(st.sampled_from(["labels", "labels", "numbers", "bad"]))
    table = tables[name]
    word = draw(st.sampled_from(sorted(table(4))))
    known = {"y_tgt": table(m)[word]}
    if draw(st.booleans()):
        known["y_src"] = table(n)[draw(st.sampled_from(sorted(table(4)))) if sometimes(draw, 6) else word]
    return f"{name} {word}", known


def sides_of(draw, kind, sizes):
    """Return the samples of a fit."""
    if kind == "images":
        return [draw(pictures(n)) for n in sizes]
    return [draw(samples() if sometimes(draw, 10) else samples((n, 2))) for n in sizes]


@st.composite
def of_fits(draw):
    """Draw parameters, samples and what is known of them; fit, and ask."""
    leaf, kind = draw(st.sampled_from([NSGF, NSGF, NSGFPlusPlus])), draw(st.sampled_from(KINDS))
    n, m = draw(st.sampled_from([60, 25, 12, 2])), draw(st.sampled_from([60, 25, 40]))
    table = TWO_PHASES if leaf is NSGFPlusPlus else PARAMETERS
    parameters, fields = QUICK | draw(some(table, 2, {"encoder": BAD_ENCODERS})), draw(some(TRAINING))
    if sometimes(draw, 20):
        parameters["training"], fields = draw(st.sampled_from(STRANGE)), None
    sides, known = sides_of(draw, kind, (n, m)), {}
    arguments = [None if kind == "noise" else sides[0].given, sides[1].given]
    if kind == "known":
        kind, known = conditions(draw, n, m)
    if kind == "pairs":
        known["pairs"] = chosen(draw, "pairs", *pairs(n, m))
    if kind == "course":
        times = draw(st.sampled_from(COURSES) | st.lists(st.sampled_from(MOMENTS), min_size=2, max_size=2))
        arguments = [list(zip(times, arguments, strict=True))]
    asks = draw(st.sampled_from(["transform", "sample", "file", "again", "score", "clone", "fit_transform"]))
    changed = {k: v for k, v in parameters.items() if v is not QUICK.get(k)}
    words = f"{leaf.__name__}({changed}, Training({fields})).fit({kind}: {', '.join(z.words for z in sides)}, {known})"
    is_refused = any(side.plain is None for side in sides[1 if kind == "noise" else 0 :])
    call = functools.partial(fit, leaf, parameters, fields, asks, known)
    return Case(f"{words}, {asks}", call, arguments, None, is_refused)


def fit(leaf, parameters, fields, asks, known, *arguments):
    """Fit a model, and return what it answers."""
    made = leaf(**parameters)
    if fields is not None:
        made.set_params(training=Training(**{"batch_size": 16} | fields))
    if asks == "fit_transform":
        made.fit_transform(*arguments, **known)
    made.fit(*arguments, **known)
    return outcome(made, asks, arguments, known)


def outcome(made, asks, arguments, known):
    """Return what a fitted model answers."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        X = np.zeros((3, made.n_features_in_)) if len(made.sample_shape_) == 1 else arguments[1][:3]
    if asks == "clone":
        made = clone(made).fit(*arguments, **known)
    if asks == "file":
        made.save(FOLDER / "m")
        made = nsgf.load(FOLDER / "m")
        assert repr(made) is not None
    if asks == "again":
        before = made.sample(2, random_state=0)
        made.fit(*arguments, **known)
        if isinstance(made.random_state, int):
            np.testing.assert_array_equal(made.sample(2, random_state=0), before)
    figures = [v for v in made.report_.values() if isinstance(v, float)]
    if asks == "score" and "y_src" not in known and made.encoder is None:
        return made.score(made.sample(5, random_state=0) if made.times_ is None else X), figures
    c = made._task.kinds  # noqa: SLF001
    can_be_free = c is None or c.is_free
    return (
        made.sample(3, random_state=0),
        made.transform(X) if can_be_free and not hasattr(X, "columns") else 0.0,
        figures,
    )


# %% Values, files and parameters

IDENTITY = torch.nn.Identity()
MAKERS = {
    "Training": (Training, TRAINING | {"patience": [0, 1], "directory": [None, "run"]}),
    "Sinkhorn": (Sinkhorn, {"tol": [1e-3], "max_iter": [10], "on_unconverged": ["warn", "raise"]}),
    "POT": (
        POT,
        {
            "tol": [1e-3],
            "max_iter": [10],
            "on_unconverged": ["warn", "raise"],
            "method": ["auto", "sinkhorn", "sinkhorn_log"],
        },
    ),
    "Numbers": (lambda values=(1.0,), weight=4.0: Numbers(values, weight), {"weight": [4.0, 1]}),
    "Pairs": (lambda rows=((0, 1),), weight=4.0: Pairs(rows, weight), {"weight": [4.0, 1]}),
    "MLP": (
        lambda n_features=2, **o: networks.MLP(n_features, **o),
        {"n_features": [2], "width": [4], "depth": [1], "n_conditions": [0, 2]},
    ),
    "UNet": (
        lambda sample_shape=(1, 4, 4), **o: networks.UNet(
            sample_shape, **{"width": 4, "multipliers": (1,), "attention": (), "n_heads": 1} | o
        ),
        {
            "sample_shape": [(1, 4, 4), [1, 4, 4]],
            "width": [4, 8],
            "multipliers": [(1,), (1, 2)],
            "n_blocks": [1],
            "attention": [(), (1,)],
            "n_heads": [1],
            "dropout": [0.0, 0.5],
            "n_conditions": [0, 2],
        },
    ),
    "OnImages": (
        lambda net=IDENTITY, sample_shape=(1, 4, 4): networks.OnImages(net, sample_shape),
        {"net": [IDENTITY], "sample_shape": [(1, 4, 4)]},
    ),
    "TrajectoryPool": (
        lambda capacity=4, n_features=2, **o: nsgf.TrajectoryPool(capacity, n_features, **o),
        {"capacity": [4], "n_features": [2], "max_bytes": [None, 10**6], "n_conditions": [0, 2]},
    ),
}
PATHS = [
    FOLDER / "m",
    str(FOLDER / "m.safetensors"),
    "",
    ".",
    str(FOLDER),
    FOLDER / "missing" / "m",
    b"bytes",
    5,
    None,
    "a\0b",
    "x" * 5000,
    "\ud800",
    [],
    1.5,
    "/proc/nowhere",
    Path(),
]
(FOLDER / "text").write_text("no model")
(FOLDER / "empty").write_bytes(b"")


@st.composite
def of_values(draw):
    """Draw a value, such as a Training."""
    what = draw(st.sampled_from(list(MAKERS)))
    make, table = MAKERS[what]
    others = draw(some(table, 2))
    if what in ("MLP", "UNet", "OnImages", "TrajectoryPool"):  # of sizes that fit into memory
        others = {k: 7 if isinstance(v, int) and v > 1000 else v for k, v in others.items()}
    return Case(f"{what}({others})", functools.partial(make, **others), [])


def fit_in(path):
    """Fit twice in a directory."""
    x, y = np.random.default_rng(0).normal(size=(2, 30, 2))
    models = [NSGF(**QUICK, training=Training(directory=path)).fit(x, y) for _ in range(2)]
    return [made.sample(1, random_state=0) for made in models]


@st.composite
def of_files(draw):
    """Draw a path of a file or of a directory."""
    path = draw(st.sampled_from([*PATHS, FOLDER / "text", FOLDER / "empty"]))
    calls = {
        "save": model("plain").save,
        "load": nsgf.load,
        "NSGF.load": NSGF.load,
        "NSGFPlusPlus.load": NSGFPlusPlus.load,
    }
    if path not in ("", ".", Path(), str(FOLDER), FOLDER / "m", FOLDER / "missing" / "m"):
        calls["fit in"] = fit_in
    what = draw(st.sampled_from(sorted(calls)))
    return Case(f"{what}({path!r})", calls[what], [path])


ODD_NAMES = ["solver__tol", "encoder__n_components", "nothing", "training__", "__", "training__learning_rate__x"]


def set_both(changes):
    """Set parameters of a new estimator, and of a fitted one that is asked then."""
    made = NSGF(solver=Sinkhorn(), encoder=PCA()).set_params(**changes)
    repr(made), clone(made).get_params()
    fitted = pickle.loads(pickle.dumps(model("plain")))
    return fitted.set_params(**{k: v for k, v in changes.items() if k not in ODD_NAMES}).transform(np.ones((2, 2)))


@st.composite
def of_parameters(draw):
    """Draw changes of parameters."""
    names = [*PARAMETERS, *(f"training__{k}" for k in TRAINING), *ODD_NAMES]
    tables = PARAMETERS | {f"training__{k}": v for k, v in TRAINING.items()} | dict.fromkeys(ODD_NAMES, [1])
    found = draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
    changes = {name: chosen(draw, name, tables[name], n=2) for name in found}
    return Case(f"set_params({changes})", functools.partial(set_both, changes), [])


others = st.one_of(of_values(), of_files(), of_parameters())
cases = st.one_of(of_functions(), of_functions(), of_models(), of_models(), of_fits(), others)

# %% The judge


MODULES = ("MLP", "UNet")  # whose first weights are torch's, by its seed


class Hang(BaseException):
    """A case that takes too long."""


def print_of(value):
    """Return what an argument holds, so that a change is seen."""
    if value is np.ma.masked:  # which its own print would change
        return ""
    if isinstance(value, list | tuple):
        return [print_of(v) for v in value]
    if isinstance(value, np.ndarray):
        return value.tobytes(), value.shape
    if isinstance(value, torch.Tensor):
        return None if value.is_sparse else value.detach().numpy().tobytes()
    if isinstance(value, pd.DataFrame | pd.Series | pl.DataFrame | pl.Series):
        return str(value), str(getattr(value, "dtypes", ""))
    return str(value) if not hasattr(value, "__next__") else ""


def world():
    """Return what belongs to the user alone."""
    state = np.random.get_state()  # noqa: NPY002
    return {
        "np.random": (state[1].tobytes(), state[2]),
        "random": random.getstate(),
        "torch's seed": torch.get_rng_state().numpy().tobytes(),
        "torch's dtype": torch.get_default_dtype(),
        "torch's threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "np.geterr": np.geterr(),
        "directory": sorted(os.listdir(".")),
        "environment": str({k: v for k, v in os.environ.items() if not k.startswith(("TORCH", "KMP"))}),  # torch's own
        "digits": np.get_printoptions()["precision"],
    }


OWN = (ValueError, TypeError, RuntimeError, FloatingPointError, OSError, NotFittedError)
NAMES = r"(?:^|[ (])(?:a|b|k|n|x|y)(?:=| is | has | contains | must |: | lies | and )|"  # else articles would do
WORDS = """
X X_src X_tgt y_src y_tgt made real seen unseen features_a features_b loss like velocity cloud clouds ax shape
label init path model NSGF encoder net training directory pairs lengths classifier n_folds metric weight
method tol n_projections n_permutations n_columns on_unconverged target sample_shape capacity max_bytes
n_features n_conditions width depth multipliers n_blocks attention n_heads dropout parameter trajectory labels
"""
NAMES += rf"\b({'|'.join({*PARAMETERS, *TRAINING, *ASKED, *WORDS.split()})})\b"
SKLEARNS = ("sklearn/utils/validation.py", "sklearn/utils/_available_if", "sklearn/base.py")


def complaint_of_error(error):
    """Return what is wrong with an error, or ""."""
    frames = traceback.extract_tb(error.__traceback__)
    last, is_ours = frames[-1].filename, any("/nsgf/" in frame.filename for frame in frames)
    where = f"{type(error).__name__} in {'/'.join(last.split('/')[-2:])}:{frames[-1].name}"
    if not isinstance(error, OWN):
        return f"{where}: not of our kinds: {str(error)[:100]}"
    if isinstance(error, OSError) and error.errno is not None:
        return ""
    if (
        "/nsgf/" not in last
        and not (is_ours and last.endswith(SKLEARNS))
        and "set_params" not in "".join(f.name for f in frames)
    ):
        return f"{where}: raw: {str(error)[:100]}"
    text = str(error)
    if (
        len(text) < 25
        or not re.search(NAMES, text)
        or not (text.rstrip().endswith((".", ")", "`")) or "Please" in text or "\n" in text)
    ):
        return f"{where}: message: {text[:150]}"
    return ""


def complaint_of_warnings(caught):
    """Return what is wrong with warnings, or ""."""
    for w in caught:
        kind = w.category.__name__
        if w.category not in (UserWarning, ConvergenceWarning):
            return f"{kind} at {'/'.join(w.filename.split('/')[-2:])}:{w.lineno}: {str(w.message)[:100]}"
        if not w.filename.endswith(("cases.py", "test_fuzz.py")) and "feature names" not in str(w.message):
            return f"{kind} at {'/'.join(w.filename.split('/')[-2:])}:{w.lineno}: {str(w.message)[:100]}"
    return ""


def figures_of(result):
    """Yield the numbers of a result, as arrays of float64."""
    if isinstance(result, nsgf.Velocity):
        yield from figures_of(result.v)
    elif isinstance(result, nsgf.Trajectory):
        yield from figures_of([result.x, result.v])
    elif isinstance(result, list | tuple):
        for part in result:
            yield from figures_of(part)
    elif isinstance(result, torch.Tensor):
        yield result.detach().double().numpy()
    elif isinstance(result, int | float | np.ndarray | np.number):
        yield np.asarray(result, dtype=np.float64)


KIND: list[str] = []  # what came of the last case


def attempt(call, given):
    """Return the result, the error and the warnings of a call."""

    def late(*_):
        raise Hang

    result, error = None, None
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = call(*given)
            except (Exception, Hang) as found:
                error = found
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return result, error, caught


def complaint(case):
    """Return what is wrong with what came of a case, or ""."""
    held, of_world = print_of(case.given), world()
    result, error, caught = attempt(case.call, case.given)
    after = world()
    KIND[:] = ["error" if error is not None else "flag" if caught else "result"]
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    own = "torch's seed" if case.words.startswith(MODULES) else ""
    changed = [k for k in after if after[k] != of_world[k] and k != own]
    if changed:
        return f"changes the world: {changed}"
    if print_of(case.given) != held:
        return "changes what it is given"
    found = complaint_of_warnings(caught)
    if found or error is None:
        return found or complaint_of_result(case, result, caught)
    return "hangs" if isinstance(error, Hang) else complaint_of_error(error) or _unlike(case, result, error)


def complaint_of_result(case, result, caught):
    """Return what is wrong with a result, or ""."""
    if case.refused:
        return "is not refused"
    if not caught and not all(np.isfinite(z).all() for z in figures_of(result)):
        return "is not finite, and says nothing"
    if case.like is not None and (found := _in_another_form(result, case) or _unlike_itself(result, case)):
        return found
    return _unlike(case, result, None)


def _unlike_itself(result, case):
    """Return that a second call has another result, or ""."""
    again, error, _ = attempt(case.call, case.given)
    if error is None and all(
        np.array_equal(z, w, equal_nan=True) for z, w in zip(figures_of(result), figures_of(again), strict=True)
    ):
        return ""
    return "has another result the second time"


def _in_another_form(result, case):
    """Return how the form of carried samples differs from that of what was given, or ""."""
    if "transform(" not in case.words:
        return ""
    given = case.like
    if isinstance(given, torch.Tensor):
        is_right = isinstance(result, torch.Tensor) and (result.dtype == given.dtype or not given.is_floating_point())
    else:
        own = np.asarray(given).dtype
        is_right = isinstance(result, np.ndarray) and result.dtype == (own if own.kind == "f" else np.float64)
    wanted = np.shape(given.detach() if isinstance(given, torch.Tensor) else given)
    is_right &= tuple(result.shape) == wanted or case.words.startswith(("encoders", "images"))
    return "" if is_right else f"is a {type(result).__name__} of {result.dtype}, {tuple(result.shape)}, not as {wanted}"


def _unlike(case, result, error):
    """Return how a result differs from that of the same numbers in float64, or ""."""
    if case.plain is None:
        return ""
    other, other_error, _ = attempt(case.call, case.plain)
    if (error is None) != (other_error is None):
        text = str(error or other_error)
        is_range = re.search("does not hold|array but|weights|overflow|columns|init|broke down|layout|stopped", text)
        return "" if is_range else f"refused in one form alone: {text[:150]}"
    if error is not None:
        return ""
    extent = max(np.ptp(z) if z.size else 0.0 for z in case.plain)
    extent = min(extent, extent**2) or 1e-300
    for z, w in zip(figures_of(result), figures_of(other), strict=True):
        size = max(np.abs(w).max(initial=0), 0.1 * extent)  # errors are relative to that of the clouds
        if z.shape != w.shape or (np.isfinite(w).all() and not np.abs(z - w).max(initial=0) <= case.rtol * size):
            return f"differs from that of float64: {z.ravel()[:3]} and {w.ravel()[:3]} {z.shape} {w.shape}"
    return ""


def run(n, first=0):
    """Draw n cases; return the complaints, each with its count and first case, and the kinds of outcome."""
    found = collections.defaultdict(list)

    @seed(first)
    @settings(
        max_examples=n, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def each(data):
        begin, case = time.perf_counter(), Case("", print, [])
        try:
            case = data.draw(cases)
            text = complaint(case)
        except (
            TypeError,
            ValueError,
            AttributeError,
            RuntimeError,
            IndexError,
            KeyError,
            AssertionError,
            InvalidArgument,
        ) as error:
            text = "HARNESS " + "".join(traceback.format_exception(error)[-3:])
        seconds = time.perf_counter() - begin
        key = re.sub(r"[-\d.e+]+|0x\w+", "#", text)[:90]
        found[key].append((seconds, text, case.words))
        found["seconds"].append(seconds)
        found["kinds"].append(KIND[-1] if KIND else "")

    each()
    return found


if __name__ == "__main__":
    n, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    torch.set_num_threads(1)
    home = os.getcwd()
    os.chdir(tempfile.mkdtemp())
    begin = time.perf_counter()
    found = run(n, first)
    seconds, kinds = found.pop("seconds"), collections.Counter(found.pop("kinds"))
    took = f"{len(seconds)} cases in {time.perf_counter() - begin:.0f} s, the longest {max(seconds):.1f} s"
    print(f"{took}; as it should be: {len(found.pop('', []))}; {dict(kinds)}")
    for rows in sorted(found.values(), key=len, reverse=True):
        print(f"\n{len(rows)} times: {rows[0][1]}")
        for row in rows[:3]:
            print("    ", " ".join(row[2].split())[:600])
    sys.exit(bool(found))
