"""Scikit-learn estimators: learn the field that carries one sample to another, then transport new samples along it.

``BaseFlow`` owns the contract (validation, units, `transform`, `sample`, persistence); a leaf says how its field is
learnt and how a point follows it. Inside, data are centred and divided by their spread, so that every default is
free of units.
"""

import abc
import copy
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from nsgf import _io, conditions, datasets, flow, minibatches, ode
from nsgf._arrays import Array, as_pair, like, on_device, pick_device, to_numpy
from nsgf.conditions import UNKNOWN, Conditions
from nsgf.sinkhorn import Velocity, pick_blur, settle, sinkhorn_divergence, spread
from nsgf.solvers import POT, Sinkhorn, Solver, pick_solver
from nsgf.training import Training

__all__ = ["NSGF", "BaseFlow", "NSGFPlusPlus"]

_REFERENCE_ROWS = 2048  # target rows kept for score(): enough for a stable figure, O(n²) memory once
_HELD_OUT = 2  # minibatches kept from training, for report_
_POOL_SOLVER = Sinkhorn(tol=1e-2)  # its error is far below that of sampling a minibatch
_GAP_LIMIT = 0.5  # relative error of the field above which report_ warns
_REMEDIES = {
    "regression_gap": "the field is far from velocities that it was not trained on. Raise max_iter or n_batches.",
    "minibatch_gap": "two minibatches disagree, so the flow is that of small samples. Raise batch_size or blur.",
}
_VALIDATION_BATCHES = 4  # of straight lines, on which a validation figure is read
_NOT_MEANT = ("random_state", "verbose", "device", "n_straight_steps", "guidance")  # change nothing that is learnt
Steps = list[tuple[Array, Velocity]]
Batches = list[tuple[tuple[Any, ...], np.ndarray]]  # inputs of a network and its target


class BaseFlow(OneToOneFeatureMixin, TransformerMixin, BaseEstimator, abc.ABC):
    """Contract of every flow estimator; not for direct use."""

    classes_: tuple[Any, ...] | None
    condition_shift_: Any  # arrays of shape (k,), or None
    condition_scale_: Any
    source_conditions_: Any  # codes (n,) or conditions (n, k) of the source samples, or None
    source_: Any
    times_: Any

    @abc.abstractmethod
    def _learn(self, drawn: minibatches.Minibatches, rng: np.random.Generator) -> None:
        """Learn the networks from minibatches of unit spread; set ``history_``, ``report_`` and ``n_iter_``."""

    @abc.abstractmethod
    def _check_learning(self) -> None:
        """Raise on a bad parameter that other leaves do not have."""

    @abc.abstractmethod
    def _path(self, x: np.ndarray, c: np.ndarray | None, span: tuple[float, float]) -> Iterator[np.ndarray]:
        """Yield the positions of x, from the source to the target, in units of the spread.

        `c` are conditions (n, k), and `span` the unit times of a time course.
        """

    @abc.abstractmethod
    def _untrained(self, seed: int) -> dict[str, Any]:
        """Return the networks by the names of their attributes, with first weights of that seed."""

    @property
    @abc.abstractmethod
    def n_evaluations(self) -> int:
        """Function evaluations (NFE) of one point on its way from the source to the target."""

    def _check_course(self) -> None:
        """Raise where the leaf has no time courses."""

    def fit(self, X_src: Any, X_tgt: Any = None, *, y_src: Any = None, y_tgt: Any = None, pairs: Any = None) -> Self:
        """Learn the field that carries the law of `X_src` to that of `X_tgt`.

        Parameters
        ----------
        X_src : array-like of shape (n, d) or (n, …), or None
            Source samples; None stands for Gaussian noise with the mean and standard deviation of each target feature.
            With `NSGF` also a time course, ``{t: X_t}`` or a list of ``(t, X_t)``, without `X_tgt`: the field then
            carries each snapshot to the next.
        X_tgt : array-like of shape (m, d) or (m, …)
            Target samples: points, never labels. NumPy, CuPy or torch arrays, lists, pandas or polars frames. Images
            have shape (m, c, h, w) or (m, h, w), in any units.
        y_src, y_tgt : array-like of shape (n,) and (m,), or (n, k) and (m, k), optional
            Conditions of the samples. One dimension means labels, of any hashable kind: mass stays within a label.
            −1 or None is unknown: such a row goes with the label of a partner in the plan without labels. Two
            dimensions mean continuous conditions, which enter the cost with `condition_weight`. Without `y_src` any
            source sample may be asked for any condition.
        pairs : array-like of shape (k, 2), optional
            Rows of `X_src` and `X_tgt` that are known to belong together. They go to each other, and all other rows are
            transported with regard to their places among them, with `condition_weight`.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            On NaN, infinite, empty, single-row or mismatched samples, conditions of another length, labels on one side
            only, pairs out of range, or a parameter out of its range.
        TypeError
            On sparse input.

        Warns
        -----
        UserWarning
            Where the checks in ``report_`` find a field that is not to be trusted, with the remedy.
        ConvergenceWarning
            Where solves did not converge, by the solver's policy.
        """
        self._check_parameters()
        if X_tgt is None:
            return self._fit_course(X_src, y_src, y_tgt, pairs)
        y = _points(self, X_tgt, "X_tgt")
        _check_columns([X_src, X_tgt], "X_src and X_tgt")
        x = y if X_src is None else _points(self, X_src, "X_src")
        as_pair(x, y, ("X_src", "X_tgt"))
        known = self._know(None if X_src is None else len(x), len(y), y_src, y_tgt, pairs)
        self.times_ = None
        told = (X_src is None, *known, self.source_conditions_, str(self.classes_))
        rng, target = self._begin(X_tgt if X_src is None else X_src, X_tgt, x, y, told)
        self.source_ = None if X_src is None else self._to_unit(x)
        self._learn(self._minibatches(target, *known, rng), rng)
        return self

    def _fit_course(self, snapshots: Any, y_src: Any, y_tgt: Any, pairs: Any) -> Self:
        """Learn the field through the snapshots of a time course."""
        times, samples = _snapshots(snapshots)
        self._check_course()
        _check_columns(samples, "the snapshots of X_src")
        if not (y_src is None and y_tgt is None and pairs is None):
            raise ValueError("y_src, y_tgt and pairs do not go with a time course; fit each label by itself.")
        xs = [_points(self, X, f"X_src at time {t:g}") for t, X in zip(times, samples, strict=True)]
        for t, x in zip(times, xs, strict=True):
            as_pair(xs[0], x, (f"X_src at time {times[0]:g}", f"X_src at time {t:g}"))
        self.classes_ = self.condition_shift_ = self.condition_scale_ = self.source_conditions_ = None
        self.times_ = np.array(times)
        earlier, later = np.concatenate(xs[:-1]), np.concatenate(xs[1:])
        rng, _ = self._begin(samples[0], samples[-1], earlier, later, tuple(times))
        units = [self._to_unit(x) for x in xs]
        self.source_ = units[0]
        self.noise_scale_, self.target_ = units[-1].std(axis=0), units[-1][:_REFERENCE_ROWS]
        self._learn(minibatches.course(units, self._unit_times(self.times_), self.batch_size, rng), rng)
        return self

    def _begin(
        self, first: Any, last: Any, x: np.ndarray, y: np.ndarray, known: tuple[Any, ...]
    ) -> tuple[np.random.Generator, np.ndarray]:
        """Set what every fit does, from data of both ends; return its Generator, and the target in units."""
        validate_data(self, _rows(first), reset=True, skip_check_array=True)
        self.sample_shape_ = _sample_shape(last)
        self._untrained(seed=0)
        if self._training.directory is not None:
            self._training.claim(self._key(x, y, *known))
        rng, self._sampler = as_rng(self.random_state).spawn(2)
        self.shift_, self.scale_ = y.mean(axis=0), _scale(x, y)
        target = self._to_unit(y)
        self.noise_scale_ = target.std(axis=0)
        self.target_ = datasets.rows(target)(min(len(target), _REFERENCE_ROWS), rng)
        return rng, target

    def _know(self, n: int | None, m: int, y_src: Any, y_tgt: Any, pairs: Any) -> tuple[Any, Any]:
        """Return the conditions of the targets and the pairs; set ``classes_`` and its like."""
        found, self.source_conditions_, codes = conditions.read(n, m, y_src, y_tgt)
        self.classes_ = None if found is None or not found.classes else found.classes
        self.condition_shift_ = self.condition_scale_ = None
        if found is not None and not found.classes:
            self.condition_shift_, self.condition_scale_ = found.shift, found.scale
        if pairs is not None and (n is None or found is not None):
            raise ValueError("pairs go with samples X_src and X_tgt, and not with y_src or y_tgt.")
        return codes, None if pairs is None or n is None else _check_pairs(pairs, n, m)

    @property
    def _conditions(self) -> Conditions | None:
        if self.classes_ is not None:
            return Conditions(tuple(self.classes_))
        return None if self.condition_shift_ is None else Conditions((), self.condition_shift_, self.condition_scale_)

    def _minibatches(
        self, target: np.ndarray, codes: np.ndarray | None, pairs: np.ndarray | None, rng: np.random.Generator
    ) -> minibatches.Minibatches:
        """Return minibatches without end."""
        n, source, kinds = self.batch_size, self.source_, self._conditions
        n = n if source is None else min(n, len(source))
        if source is not None and pairs is not None:
            return minibatches.anchored(source, target, pairs, n, self.condition_weight, rng)
        if kinds is None or codes is None:
            return minibatches.plain(self._source(), _no_more_than(target), n, self.batch_size, rng)
        return minibatches.with_dropped(
            self._conditional(kinds, codes, target, n, rng),
            self._source(),
            _no_more_than(target),
            min(round(self._training.condition_dropout * n), len(target)),
            kinds.n_columns,
            rng,
        )

    def _conditional(
        self, kinds: Conditions, codes: np.ndarray, target: np.ndarray, n: int, rng: np.random.Generator
    ) -> minibatches.Minibatches:
        """Return minibatches of labels, or of continuous conditions."""
        source, own = self.source_, self.source_conditions_
        given = self._source() if own is None else source
        if not kinds.classes:
            return minibatches.conditioned(given, own, target, codes, kinds.columns, n, self.condition_weight, rng)
        if source is not None and own is not None and (UNKNOWN in own or UNKNOWN in codes):
            blur = self.blur if isinstance(self.blur, str) else self.blur / self.scale_
            blur, solve = pick_blur(blur, source, target), self._pool_solver()
            return minibatches.partly_labelled(source, own, target, codes, kinds.columns, n, rng, blur, solve)
        return minibatches.labelled(given, own, target, codes, kinds.columns, n, rng)

    def transform(self, X: Any, y: Any = None, *, t0: float | None = None, t1: float | None = None) -> Array:
        """Carry source samples to the target.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, …)
            New source samples.
        y : label, array-like of shape (n,) or (n, k), optional
            Conditions to carry them to, or one for all; unknown where it is left out.
        t0, t1 : float, optional
            Times of a time course: `X` lies at `t0` and is carried to `t1`; the first and the last by default.

        Returns
        -------
        array of the shape of `X`
            In the library, device and floating dtype of `X`.

        Raises
        ------
        ValueError
            On data of another width, a label that the model was not fitted with, or times out of range.
        """
        return _in_shape_of(X, self._to_units(_last(self._path_of(X, y, t0, t1))))

    def trajectory(self, X: Any, y: Any = None, *, t0: float | None = None, t1: float | None = None) -> Array:
        """Return the positions of source samples at the start and after every step, shape (k, n, d) or (k, n, …)."""
        return _in_shape_of(X, self._to_units(np.stack(list(self._path_of(X, y, t0, t1)))))

    def _path_of(self, X: Any, y: Any, t0: float | None, t1: float | None) -> Iterator[np.ndarray]:
        x = self._to_unit(self._check_new(X))
        return self._path(x, self._columns(y, len(x)), self._span(t0, t1))

    def _columns(self, y: Any, n: int) -> np.ndarray | None:
        """Return the conditions of `n` samples for the network; None for a model without conditions."""
        kinds = self._conditions
        if kinds is None:
            if y is not None:
                raise ValueError("y was given to a model that was fitted without conditions; fit with y_tgt first.")
            return None
        return np.zeros((n, kinds.n_columns), np.float32) if y is None else kinds.columns(kinds.read(y, "y", n))

    def _span(self, t0: float | None, t1: float | None) -> tuple[float, float]:
        """Return the unit times of a time course; (0, 1) without."""
        if self.times_ is None:
            if not (t0 is None and t1 is None):
                raise ValueError("t0 and t1 belong to a time course; fit one first: fit({t: X_t}).")
            return 0.0, 1.0
        begin, end = float(self.times_[0]), float(self.times_[-1])
        t0, t1 = begin if t0 is None else t0, end if t1 is None else t1
        if not begin <= t0 < t1 <= end:
            raise ValueError(f"t0={t0!r} and t1={t1!r} must rise within the times of the fit, {begin:g} to {end:g}.")
        first, last = self._unit_times(np.array([t0, t1]))
        return first, last

    def _unit_times(self, t: np.ndarray) -> list[float]:
        """Return times as parts of the course, 0 at its first snapshot and 1 at its last."""
        return ((t - self.times_[0]) / (self.times_[-1] - self.times_[0])).tolist()

    def sample(self, n: int = 1, random_state: Any = None, *, y: Any = None) -> np.ndarray:
        """Draw `n` fresh points from the source and carry them to the target.

        Parameters
        ----------
        n : int
            Number of samples.
        random_state : int or numpy Generator, optional
            Fixes this call; by default every call continues the stream that the estimator's own `random_state` began.
        y : label, array-like of shape (n,) or (n, k), optional
            Conditions of the samples, or one for all. Left out, they are unknown, or those of the source rows drawn
            where the model was fitted with `y_src`.

        Returns
        -------
        array of shape (n, d), or (n, …) in the shape of the target samples
        """
        check_is_fitted(self)
        if not (isinstance(n, int | np.integer) and n >= 1):
            raise ValueError(f"n={n!r} must be an integer of at least 1.")
        rng = self._sampler if random_state is None else as_rng(random_state)
        x, c = self._draw(int(n), y, rng)
        return self._to_units(_last(self._path(x, c, (0.0, 1.0)))).reshape(int(n), *self.sample_shape_)

    def _draw(self, n: int, y: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """Return source points and their conditions for the network."""
        own, kinds = self.source_conditions_, self._conditions
        if own is None or kinds is None:
            return self._source()(n, rng), self._columns(y, n)
        if y is None:
            i = rng.choice(len(own), size=n, replace=n > len(own))
            return self.source_[i], kinds.columns(own[i])
        if not kinds.classes:
            raise ValueError("y of sample needs labels, or a model fitted without y_src; use transform(X, y).")
        codes, i = kinds.read(y, "y", n), np.empty(n, dtype=int)
        for k in np.unique(codes):
            which, rows = np.flatnonzero(codes == k), np.flatnonzero((own == k) | (k == UNKNOWN))
            rows = rows if len(rows) else np.flatnonzero(own == UNKNOWN)
            i[which] = rng.choice(rows, size=len(which), replace=len(which) > len(rows))
        return self.source_[i], kinds.columns(codes)

    def score(self, X: Any, X_tgt: Any = None) -> float:
        """Return −S_ε(transform(X), X_tgt): at most about zero, larger is better, in squared units of the data.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Source samples.
        X_tgt : array-like of shape (m, d), optional
            Target samples; by default up to 2048 of those that the estimator was fitted on.
        """
        x = self._to_unit(self.transform(_points(self, X, "X", 1)))
        y = self.target_ if X_tgt is None else self._to_unit(_points(self, X_tgt, "X_tgt", 1))
        return -sinkhorn_divergence(x, y, blur=self.blur_ / self.scale_, solver=self.solver) * self.scale_**2

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write the fitted model to one safetensors file: arrays and JSON, no code.

        Raises
        ------
        ValueError
            Where a parameter has no JSON form, such as a solver of your own.
        """
        check_is_fitted(self)
        values = {k: v for k, v in vars(self).items() if k.endswith("_")}
        networks = {k: values.pop(k) for k in self._untrained(seed=0)}
        arrays = {k: v for k, v in values.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fi"}
        arrays |= {f"history_.{k}": v for k, v in self.history_.items() if isinstance(v, np.ndarray)}
        arrays |= {f"{name}.{k}": v.numpy() for name, net in networks.items() for k, v in net.state_dict().items()}
        meta = {
            "class": type(self).__name__,
            "parameters": {k: _to_json(k, v) for k, v in self.get_params(deep=False).items()},
            "values": {k: _to_json(k, v) for k, v in values.items() if k not in arrays and k != "history_"},
            "history_": {k: v for k, v in self.history_.items() if not isinstance(v, np.ndarray)},
        }
        _io.write(path, arrays, meta)

    @classmethod
    def load(cls, path: "str | os.PathLike[str]", *, network: Any = None) -> Self:
        """Read a model that :meth:`save` wrote; it opens on any machine, whatever device it was fitted on.

        Parameters
        ----------
        path : path-like
            The file.
        network : torch module, optional
            The architecture, where the model was fitted with a module of your own: a file holds no code.

        Raises
        ------
        FileNotFoundError, ValueError
            Where there is no such file, or it is cut short, corrupt, or of another class or program.
        """
        arrays, meta = _io.read(path)
        if meta.get("class") != cls.__name__:
            raise ValueError(f"{os.fspath(path)!r} holds a {meta.get('class')}, not a {cls.__name__}.")
        try:
            return cls()._restore(arrays, meta, network)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{os.fspath(path)!r} does not fit this version of nsgf: {error}") from error

    def _restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any], network: Any) -> Self:
        """Take on the parameters and fitted attributes of a file."""
        import torch

        self.set_params(**{k: _from_json(v) for k, v in meta["parameters"].items()})
        if network is not None:
            self.set_params(network=network)
        for name, value in (arrays | meta["values"]).items():
            if "." not in name:
                setattr(self, name, value)
        if "feature_names_in_" in meta["values"]:
            self.feature_names_in_ = np.array(meta["values"]["feature_names_in_"], dtype=object)
        self.sample_shape_ = tuple(self.sample_shape_)
        if self.classes_ is not None:
            self.classes_ = tuple(tuple(label) if isinstance(label, list) else label for label in self.classes_)
        self.history_ = meta["history_"] | _below("history_", arrays)
        for name, net in self._untrained(seed=0).items():
            net.load_state_dict({k: torch.from_numpy(v) for k, v in _below(name, arrays).items()})
            setattr(self, name, net.eval())
        self._sampler = as_rng(self.random_state).spawn(2)[1]
        return self

    def __sklearn_tags__(self) -> Any:
        """Transport keeps the dtype; the second argument of fit is a sample, not labels."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _check_new(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        x = _points(self, X, "X", 1)
        validate_data(self, _rows(X), reset=False, skip_check_array=True)
        return x

    def _source(self) -> datasets.Source:
        if self.source_ is None:
            draw = datasets.noise(np.zeros_like(self.noise_scale_), self.noise_scale_)
            return lambda n, rng: draw(n, rng).astype(np.float32)
        return datasets.rows(self.source_)

    def _to_unit(self, x: np.ndarray) -> np.ndarray:
        """Return data in units of their spread; float32 of float64 arithmetic, so rescaled data give equal bits."""
        return ((x.astype(np.float64) - self.shift_) / self.scale_).astype(np.float32)

    def _to_units(self, x: np.ndarray) -> np.ndarray:
        return x.astype(np.float64) * self.scale_ + self.shift_

    @property
    def _training(self) -> Training:
        return Training() if self.training is None else self.training

    def _key(self, *samples: Any) -> str:
        """Return what tells this training from one of other data or parameters."""
        import torch

        parameters = self.get_params(deep=False)
        meant: dict[str, Any] = {k: repr(v) for k, v in parameters.items() if k not in _NOT_MEANT}
        meant |= {"class": type(self).__name__, "sample_shape_": self.sample_shape_}
        meant["training"] = repr(
            dataclasses.replace(self._training, directory=None, pool_bytes=None, checkpoint_every=1)
        )
        if isinstance(self.random_state, int | np.integer):
            meant["random_state"] = int(self.random_state)
        key = hashlib.sha256(json.dumps(meant, sort_keys=True).encode())
        weights = self.network.state_dict().values() if isinstance(self.network, torch.nn.Module) else ()
        for array in (*samples, *(w.detach().cpu().numpy() for w in weights)):
            key.update(np.ascontiguousarray(array).data if isinstance(array, np.ndarray) else repr(array).encode())
        return key.hexdigest()

    def _check_parameters(self) -> None:
        for name, least in (("batch_size", 2), ("n_batches", 1), ("train_batch_size", 1)):
            _check_count(name, getattr(self, name), least)
        if isinstance(self.guidance, str) or not np.isfinite(self.guidance):
            raise ValueError(f"guidance={self.guidance!r} must be a number; 1.0 follows the conditional field.")
        if isinstance(self.condition_weight, str) or not 0 < self.condition_weight < float("inf"):
            raise ValueError(f"condition_weight={self.condition_weight!r} must be positive; 4.0 is a good value.")
        if isinstance(self.learning_rate, str) or not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate={self.learning_rate!r} must be positive; 5e-3 is a good value.")
        if not (self.training is None or isinstance(self.training, Training)):
            raise ValueError(f"training={self.training!r} must be an nsgf.Training, or None for its defaults.")
        flow.check_steps(self.n_steps, self.step_size)
        pick_blur(self.blur, np.zeros((2, 1)), np.zeros((2, 1)))
        pick_solver(self.solver)
        pick_device(self.device)
        self._check_learning()

    def _flows(self, drawn: minibatches.Minibatches, rng: np.random.Generator, with_lines: bool = False) -> "_Flows":
        """Return the flows of minibatches; set ``blur_``, ``n_steps_``, ``flow_time_`` and begin ``history_``."""
        start, T, d = time.perf_counter(), self.n_steps, len(self.shift_)
        lines_rng = rng.spawn(1)[0] if with_lines else None
        blur, first = self.blur if isinstance(self.blur, str) else self.blur / self.scale_, next(drawn)
        x, y = (np.concatenate([z[:, :d] for z in column]) for column in list(zip(*first, strict=True))[:2])
        self.blur_ = pick_blur(blur, x, y) * self.scale_
        self.n_steps_, self.flow_time_ = T, T * self.step_size
        sizes = [self.step_size] * T
        if self.times_ is not None:  # constant speed, and the whole way
            self.flow_time_, sizes = 1.0, [1 / (T - k) for k in range(T)]
        flows = _Flows(drawn, self.blur_ / self.scale_, sizes, self._pool_solver(), pick_device(self.device), d)
        if self.times_ is not None:
            flows.rates = [T * size for size in sizes]
        self._build_pools(flows, lines_rng)
        flows.held_out = [flows.follow(p) for _ in range(_HELD_OUT) for p in flows.unpaired(next(drawn))]
        self.history_ = {"pool_seconds": time.perf_counter() - start}
        return flows

    def _pool_solver(self) -> Solver:
        return _POOL_SOLVER if self.solver == "auto" else pick_solver(self.solver)

    def _build_pools(self, flows: "_Flows", lines_rng: np.random.Generator | None) -> None:
        """Fill the pool with `n_batches` minibatches, and the lines where there is a Generator for them.

        Of what is on disk, only the missing part is computed.
        """
        first, training = next(flows.drawn), self._training
        n, k, T = sum(len(p.x) for p in first), self._n_conditions, self.n_steps
        parts = T + (lines_rng is not None)  # of equal size
        budget = None if training.pool_bytes is None else training.pool_bytes // parts
        flows.pool = flow.TrajectoryPool(
            self.n_batches * T * n, flows.d, training.path("pool"), budget and budget * T, n_conditions=k
        )
        done = len(flows.pool) // (T * n)
        if lines_rng is not None:
            path = training.path("lines")
            flows.lines = flow.Lines(self.n_batches * n, flows.d, path, budget, rng=lines_rng, n_conditions=k)
            flows.lines.go_on_from(done * n)
        missing = itertools.islice(itertools.chain([first], flows.drawn), done, self.n_batches)
        missing = self._progress(missing, self.n_batches - done, "pool")
        for problem in flow.batches(map(flows.moved, itertools.chain.from_iterable(missing)), flows.solve):
            flows.add(problem)
        settle(flows.pool.error, flows.pool.converged, flows.solve)

    def _match_velocities(self, flows: "_Flows", rng: np.random.Generator, max_iter: int, first: Any = None) -> None:
        """Set ``field_`` and ``report_`` from the velocities of the flows; start from the weights of `first`."""
        from nsgf import matching

        batches = [batch for followed in flows.held_out for batch in flows.batches(*followed)]

        def draw(rng: np.random.Generator) -> Any:
            self._refill(flows)
            t, x, v, *c = flows.pool.draw(self.train_batch_size, rng)
            return (x, t, *c), v

        self._train("field_", "", draw, batches, rng, max_iter, first)
        self.report_ = {
            "max_error": flows.pool.error,
            "converged": flows.pool.converged,
            "minibatch_gap": flows.gap(),
            "regression_gap": matching.relative_error(self.field_, batches),
        }
        self._check_report()

    def _refill(self, flows: "_Flows") -> None:
        """Replace the oldest minibatch of the pool, every so many calls."""
        if self._training.refill_every and next(flows.calls) % self._training.refill_every == 0:
            for problem in flow.batches(map(flows.moved, next(flows.drawn)), flows.solve):
                settle(*flows.add(problem), flows.solve)

    def _train(  # noqa: PLR0913  which network, on what, what it is checked on, and where it starts
        self,
        name: str,
        prefix: str,
        draw: Any,
        batches: Batches,
        rng: np.random.Generator,
        max_iter: int,
        first: Any = None,
    ) -> None:
        """Set the network of that name, and what ``history_`` says of its training under keys with the prefix."""
        from nsgf import matching

        start, training = time.perf_counter(), self._training
        net = self._untrained(seed=int(rng.integers(2**31)))[name]
        if first is not None:
            net.load_state_dict(first.state_dict())
        net = net.to(pick_device(self.device))
        matched = matching.train(
            net,
            draw,
            rng,
            max_iter,
            self.learning_rate,
            training,
            checkpoint=training.path(f"{name}.safetensors"),
            validate=lambda net: matching.relative_error(net, batches),
            progress=lambda steps: self._progress(steps, len(steps), f"{prefix}train".replace("_", " ")),
        )
        setattr(self, name, matched.net.cpu())
        self.history_ |= {f"{prefix}loss": matched.loss, f"{prefix}validation": matched.validation}
        self.history_[f"{prefix}train_seconds"] = time.perf_counter() - start

    def _check_report(self) -> None:
        """Warn where the field is not to be trusted."""
        for gap, remedy in _REMEDIES.items():
            if not self.report_[gap] <= _GAP_LIMIT:  # NaN too
                warnings.warn(
                    f"report_['{gap}'] is {self.report_[gap]:.2f}, more than {_GAP_LIMIT} of the velocities: {remedy}",
                    stacklevel=5,
                )

    def _flow_path(
        self, x: np.ndarray, c: np.ndarray | None, span: tuple[float, float] = (0.0, 1.0)
    ) -> Iterator[np.ndarray]:
        """Yield x along ``field_``, read as an ODE on [0, 1]: dx/dt = T η v(x, t), constant in t between steps.

        In a time course this holds between each snapshot and the next.
        """
        field, T = self._guided(self.field_, c), self.n_steps_
        snapshots = [0.0, 1.0] if self.times_ is None else self._unit_times(self.times_)

        def velocity(x: np.ndarray, t: float) -> np.ndarray:
            j = min(int(np.searchsorted(snapshots, t + 1e-9, side="right")), len(snapshots) - 1) - 1
            length = snapshots[j + 1] - snapshots[j]
            step = math.floor((t - snapshots[j]) / length * T + 1e-6)
            return self.flow_time_ / length * field(x, snapshots[j] + length * step / T)

        parts = [np.linspace(t, later, self.n_steps + 1) for t, later in itertools.pairwise(snapshots)]
        grid = np.unique(np.concatenate(parts))
        inside = grid[(grid > span[0] + 1e-9) & (grid < span[1] - 1e-9)]
        return ode.path(velocity, x, [span[0], *inside.tolist(), span[1]])

    def _guided(self, net: Any, c: np.ndarray | None) -> Callable[[np.ndarray, Any], np.ndarray]:
        """Return the field v_∅ + w (v_c − v_∅) at guidance w, or the field without conditions."""
        field = self._on_device(net)
        if c is None:
            return field
        w, unknown = self.guidance, np.zeros_like(c)
        if w in (0.0, 1.0):
            return lambda x, t: field(x, t, c if w else unknown)

        def guided(x: np.ndarray, t: Any) -> np.ndarray:
            free = field(x, t, unknown)
            return free + np.float32(w) * (field(x, t, c) - free)

        return guided

    @property
    def _n_fields(self) -> int:
        """Evaluations of a network that one step takes: two where guidance mixes two fields."""
        return 1 if getattr(self, "field_", None) is None or not self._n_conditions or self.guidance in (0, 1) else 2

    @property
    def _n_conditions(self) -> int:
        return 0 if self._conditions is None else self._conditions.n_columns

    def _on_device(self, net: Any) -> Callable[..., np.ndarray]:
        """Return the function of NumPy arrays that a network stands for."""
        from nsgf import matching

        return functools.partial(matching.evaluate, copy.deepcopy(net).to(pick_device(self.device)))

    def _progress(self, steps: Any, total: int, name: str) -> Any:
        from tqdm.auto import tqdm

        return tqdm(steps, total=total, desc=f"{type(self).__name__} {name}", disable=not self.verbose)

    def _network_shape(self) -> tuple[int, ...]:
        """Return the shape of one sample as the network sees it."""
        shape, width = self.sample_shape or self.sample_shape_, math.prod(self.sample_shape_)
        if not isinstance(shape, tuple | list):
            raise ValueError(f"sample_shape={shape!r} must be a tuple, such as (1, 28, 28), or None.")
        if math.prod(shape) != width:
            raise ValueError(
                f"sample_shape={shape!r} has {math.prod(shape)} entries, but a sample has {width} features."
            )
        return tuple(shape)

    def _network(self, seed: int) -> Any:
        """Return an untrained network on rows; the global random state of torch is left as it was."""
        import torch

        from nsgf import networks

        shape, k = self._network_shape(), self._n_conditions
        if isinstance(self.network, torch.nn.Module):
            net = copy.deepcopy(self.network)
            if getattr(net, "n_conditions", k) != k:
                raise ValueError(
                    f"network takes n_conditions={net.n_conditions}, but the conditions have {k} numbers: make it with "
                    f"n_conditions={k}."
                )
            return net if len(shape) == 1 else networks.OnImages(net, shape)
        if self.network not in ("mlp", "unet"):
            raise ValueError(f"network={self.network!r} is unknown; choose 'mlp', 'unet' or pass a torch.nn.Module.")
        if self.network == "unet" and len(shape) == 1:
            raise ValueError(
                f"network='unet' takes images, but the samples are rows of {shape[0]} features: pass arrays of shape "
                "(n, c, h, w), or give sample_shape=(c, h, w)."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.network == "unet":
                return networks.UNet(shape, n_conditions=k)
            return networks.MLP(math.prod(shape), n_conditions=k)


class _Flows:
    """The flows of one fit: how a problem is followed, and the pools of what was found."""

    pool: flow.TrajectoryPool
    lines: Any = None  # flow.Lines, where they were asked for
    held_out: list[tuple[minibatches.Problem, Steps]]

    def __init__(  # noqa: PLR0913  minibatches, and all that the scheme needs
        self, drawn: minibatches.Minibatches, blur: float, step_sizes: list[float], solve: Solver, device: str, d: int
    ) -> None:
        self.drawn, self.blur, self.step_sizes, self.solve = drawn, blur, step_sizes, solve
        self.device, self.d = device, d
        self.rates, self.calls = [1.0] * len(step_sizes), itertools.count()

    def moved(self, problem: minibatches.Problem) -> minibatches.Problem:
        """Return the problem with its clouds on the device; conditions are for the network, and stay."""
        return problem._replace(x=on_device(problem.x, self.device), y=on_device(problem.y, self.device))

    def follow(self, problem: minibatches.Problem) -> tuple[minibatches.Problem, Steps]:
        """Return the problem, and the positions and velocities of its steps."""
        x, y, *_ = self.moved(problem)
        n_steps, n_fixed = len(self.step_sizes), x.shape[-1] - self.d
        return problem, list(flow.flow_steps(x, y, self.blur, n_steps, self.step_sizes, self.solve, n_fixed=n_fixed))

    def unpaired(self, minibatch: list[minibatches.Problem]) -> list[minibatches.Problem]:
        """Return the problems of more than one point; the first where there are none."""
        return [p for p in minibatch if len(p.x) * len(p.y) > 1] or minibatch[:1]

    def batches(self, problem: minibatches.Problem, steps: Steps) -> Batches:
        """Return a network's inputs and target at every step: (x, t) or (x, t, c), and the velocity."""
        (t0, t1), n_steps, c = problem.span, len(steps), () if problem.c is None else (problem.c,)
        times = [t0 + (t1 - t0) * k / n_steps for k in range(n_steps)]
        return [
            ((to_numpy(x)[..., : self.d], t, *c), rate * to_numpy(res.v)[..., : self.d])
            for t, rate, (x, res) in zip(times, self.rates, steps, strict=True)
        ]

    def add(self, problem: minibatches.Problem) -> tuple[float, bool]:
        """Add a problem, or a stack of some, to the pools, in the place of the oldest; return the certificate."""
        _, steps = self.follow(problem)
        if self.lines is not None:
            self.lines.add(*steps[0], problem.c)
        certificate = max(res.error for _, res in steps), all(res.converged for _, res in steps)
        self.pool.certify(*certificate)
        found, n, k = self.batches(problem, steps), problem.x.shape[-2], len(steps)
        xs, vs = (
            np.stack(z).reshape(k, -1, n, self.d).swapaxes(0, 1)  # (problems, n_steps, n, d)
            for z in zip(*((x, v) for (x, *_), v in found), strict=True)
        )
        t = np.repeat([t for (_, t, *_), _ in found], n)
        cs = [None] * len(xs) if problem.c is None else problem.c.reshape(len(xs), n, -1)
        for x, v, c in zip(xs, vs, cs, strict=True):
            tiled = None if c is None else np.tile(c, (k, 1))
            self.pool.renew(t, x.reshape(-1, self.d), v.reshape(-1, self.d), tiled)
        return certificate

    def gap(self) -> float:
        """Return the distance of the velocities of minibatches that were held out, problem by problem."""
        alike: dict[Any, list[Steps]] = {}
        for p, steps in self.held_out:
            label = None if p.c is None or (p.c != p.c[0]).any() else p.c[0].tobytes()
            alike.setdefault((p.span, p.x.shape[1], label), []).append(steps)
        twice = [both for both in alike.values() if len(both) > 1]
        first, second = ([step for both in twice for step in both[i]] for i in (0, 1))
        return flow.minibatch_gap(first, second)


class NSGF(BaseFlow):
    """Neural Sinkhorn gradient flow: transport from a source sample to a target sample.

    Minibatches of particles are moved by the Sinkhorn gradient flow, a network is matched to their velocities, and new
    points follow the network in `n_steps` function evaluations.

    Parameters
    ----------
    blur : float or "auto"
        Length scale √ε of the Sinkhorn divergence, in the units of the data; ``"auto"`` is 0.15 of their spread.
    n_steps : int
        Euler steps of the flow, and so the function evaluations of `transform`.
    step_size : float
        η, the fraction of the velocity that one step goes.
    batch_size : int
        Particles of one minibatch flow. Larger is less biased; a solve costs O(batch_size²).
    n_batches : int
        Minibatch flows in the pool.
    network : "mlp", "unet" or torch module
        The field, called as ``network(x, t)`` on rows (n, d) or images (n, …), with times (n,). Features come with
        a variance of about one. ``"mlp"`` has 3 hidden layers of 256 units; ``"unet"`` is
        :class:`nsgf.networks.UNet` for images, which can also be passed in another size.
    max_iter : int
        Optimisation steps of the network.
    learning_rate : float
        Adam's largest learning rate; it decays to zero along a cosine.
    train_batch_size : int
        Pool rows of one optimisation step.
    guidance : float
        w in v_∅ + w (v_c − v_∅), of a model with conditions: 1 follows the conditional field, 0 the unconditional one,
        more exaggerates the condition. May be changed after `fit`.
    condition_weight : float
        How much continuous conditions, or places among the known `pairs`, count in the cost: with 1 they are as wide
        as all features together.
    sample_shape : tuple of int, optional
        Shape of the image that a row stands for, (c, h, w) or (h, w), where `fit` is given rows; the network then
        sees images.
    training : Training, optional
        Gradient clipping, warm-up, moving average, precision, validation, and the directory in which pool and
        checkpoints are kept.
    solver : solver value or "auto"
        How the Sinkhorn problems are solved, such as ``nsgf.Sinkhorn(tol=1e-4)``; it also holds the policy on solves
        that do not converge. ``"auto"`` solves to an error of 1e-2, well below the sampling error of a minibatch.
    device : {"auto", "cpu", "cuda"}
        Where to compute; ``"auto"`` is a CUDA device where torch sees one and CuPy is installed.
    random_state : int, numpy Generator or None
        Seeds everything; the same integer gives the same bits on one machine.
    verbose : int
        1 shows progress bars.

    Attributes
    ----------
    field_ : torch module
        The learnt field, on the CPU; it lives in centred data divided by ``scale_``.
    blur_ : float
        The blur used, in the units of the data.
    shift_, scale_ : array of shape (d,) and float
        Origin and unit of length of the field: the target's mean, and the root-mean-square deviation of a feature in
        both samples.
    history_ : dict
        ``"loss"`` (an array, one value an optimisation step), ``"pool_seconds"``, ``"train_seconds"``, and
        ``"validation"`` (an array of steps and distances to held-out velocities, where `training` asks for them). The
        seconds are those of the last call of `fit`.
    report_ : dict
        ``"regression_gap"``: distance of the field to held-out velocities; ``"minibatch_gap"``: distance of two
        independent minibatches' velocities; both root-mean-square, relative to the velocities. The first cannot fall
        below about 0.7 times the second, which is the noise of the minibatches. ``"max_error"`` and ``"converged"``:
        the largest error of a velocity in the pool, and whether all converged.
    n_iter_ : int
        Optimisation steps done: `max_iter`, unless Ctrl-C or `training.patience` ended the training.
    n_steps_, flow_time_ : int and float
        The steps that the field was trained on, and their total length, `n_steps` times `step_size`.
    classes_ : tuple, or None
        The labels, of a model that was fitted with some, in the order of the numbers that the network sees.
    times_ : array of shape (k,), or None
        The times of the snapshots of a time course.
    sample_shape_ : tuple of int
        Shape of one sample of the target: (d,), or that of an image.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    Zhu et al. 2024, arXiv 2401.14069, algorithm 1. The field is that of the steps that it was trained on. Where
    `n_steps` is changed after `fit`, a flow of the same length is followed in other steps, with the field constant in
    time between those: a stand-in, and as a rule no better than the trained one.

    The second argument of `fit` is the target sample, so in a scikit-learn Pipeline ``pipeline.fit(X_src, X_tgt)``
    reads as it should, but a step before this one is fitted on `X_src` alone.

    Examples
    --------
    >>> import numpy as np
    >>> from nsgf import NSGF, datasets
    >>> rng = np.random.default_rng(0)
    >>> X_src, X_tgt = datasets.gaussian(400, rng), datasets.moons(400, rng)
    >>> model = NSGF(max_iter=300, n_batches=4, batch_size=128, random_state=0).fit(X_src, X_tgt)
    >>> model.transform(X_src[:3]).shape, model.sample(5).shape
    ((3, 2), (5, 2))
    """

    def __init__(
        self,
        blur: "float | str" = "auto",
        *,
        n_steps: int = 5,
        step_size: float = 1.0,
        batch_size: int = 1024,
        n_batches: int = 32,
        network: Any = "mlp",
        max_iter: int = 6000,
        learning_rate: float = 5e-3,
        train_batch_size: int = 512,
        guidance: float = 1.0,
        condition_weight: float = 4.0,
        sample_shape: "tuple[int, ...] | None" = None,
        training: Training | None = None,
        solver: "Solver | str" = "auto",
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.blur = blur
        self.n_steps = n_steps
        self.step_size = step_size
        self.batch_size = batch_size
        self.n_batches = n_batches
        self.network = network
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.train_batch_size = train_batch_size
        self.guidance = guidance
        self.condition_weight = condition_weight
        self.sample_shape = sample_shape
        self.training = training
        self.solver = solver
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_learning(self) -> None:
        _check_count("max_iter", self.max_iter)

    def _learn(self, drawn: minibatches.Minibatches, rng: np.random.Generator) -> None:
        self._match_velocities(self._flows(drawn, rng), rng, self.max_iter)
        self.n_iter_ = len(self.history_["loss"])

    def _path(self, x: np.ndarray, c: np.ndarray | None, span: tuple[float, float]) -> Iterator[np.ndarray]:
        return self._flow_path(x, c, span)

    def _untrained(self, seed: int) -> dict[str, Any]:
        return {"field_": self._network(seed)}

    @property
    def n_evaluations(self) -> int:
        """Function evaluations (NFE) of one point on its way from the source to the target.

        `n_steps`, times the intervals of a time course, times two where guidance mixes two fields.
        """
        times = getattr(self, "times_", None)
        return self.n_steps * (1 if times is None else len(times) - 1) * self._n_fields


class NSGFPlusPlus(BaseFlow):
    """Two-phase flow: few steps of the Sinkhorn gradient flow, then a straight flow from where they have led.

    Phase 1 is `NSGF` with at most five steps. Phase 2 is a *neural straight flow*, matched to X₁ − X₀ along the lines
    X_t = (1 − t) X₀ + t X₁ between source and target samples that the plans of the minibatches pair. A third network,
    the *phase-transition predictor*, is matched to t on the same lines; it says for each point where on a line phase 1
    has brought it, and so from which time on it follows the straight flow.

    Parameters
    ----------
    blur, step_size, batch_size, n_batches, solver : as in NSGF
        The Sinkhorn flow and its pool.
    n_steps : int
        Euler steps of phase 1, at most 5.
    n_straight_steps : int
        Euler steps of phase 2; may be changed after `fit`.
    network : "mlp", "unet" or torch module
        The architecture of both fields, as in `NSGF`; each has weights of its own.
    max_iter : int or (int, int, int)
        Optimisation steps of each network, or of the velocity field, the straight field and the predictor. Ctrl-C ends
        the training of the one under way.
    learning_rate, train_batch_size, guidance, condition_weight, sample_shape, training, device, random_state, verbose :
        as in NSGF
        `train_batch_size` is also the number of lines in one step of phase 2.

    Attributes
    ----------
    field_, straight_field_, time_predictor_ : torch modules
        The three networks, on the CPU.
    history_ : dict
        As in `NSGF`; for the straight field and the predictor, the same under names that begin with ``"straight_"``
        and ``"time_"``.
    report_ : dict
        As in `NSGF`, of phase 1; ``"time_error"`` is the mean error of the predictor's times on fresh
        lines.
    blur_, shift_, scale_, n_iter_, sample_shape_, n_features_in_, feature_names_in_
        As in `NSGF`; ``n_iter_`` counts the steps of all three.

    Notes
    -----
    Zhu et al. 2024, arXiv 2401.14069, section 4.3 and algorithms 3 to 5, where the ends of the lines are drawn apart;
    paired ends make a straighter flow (see ``docs/benchmarks/images``). The straight field is trained first, on
    `n_batches` times `batch_size` lines, and the velocity field from its weights. A point takes ``n_evaluations``
    evaluations of the two fields, and one of the predictor, a smaller network.

    Examples
    --------
    >>> import numpy as np
    >>> from nsgf import NSGFPlusPlus, datasets
    >>> rng = np.random.default_rng(0)
    >>> X_src, X_tgt = datasets.gaussian(400, rng), datasets.moons(400, rng)
    >>> model = NSGFPlusPlus(n_steps=2, max_iter=300, n_batches=4, batch_size=128, random_state=0).fit(X_src, X_tgt)
    >>> model.sample(5).shape, model.n_evaluations
    ((5, 2), 7)
    >>> model.trajectory(X_src[:3]).shape, model.phases
    ((8, 3, 2), array([1, 1, 2, 2, 2, 2, 2]))
    """

    def __init__(
        self,
        blur: "float | str" = "auto",
        *,
        n_steps: int = 5,
        n_straight_steps: int = 5,
        step_size: float = 1.0,
        batch_size: int = 1024,
        n_batches: int = 32,
        network: Any = "mlp",
        max_iter: "int | tuple[int, int, int]" = 6000,
        learning_rate: float = 5e-3,
        train_batch_size: int = 512,
        guidance: float = 1.0,
        condition_weight: float = 4.0,
        sample_shape: "tuple[int, ...] | None" = None,
        training: Training | None = None,
        solver: "Solver | str" = "auto",
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.blur = blur
        self.n_steps = n_steps
        self.n_straight_steps = n_straight_steps
        self.step_size = step_size
        self.batch_size = batch_size
        self.n_batches = n_batches
        self.network = network
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.train_batch_size = train_batch_size
        self.guidance = guidance
        self.condition_weight = condition_weight
        self.sample_shape = sample_shape
        self.training = training
        self.solver = solver
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @property
    def n_evaluations(self) -> int:
        """Function evaluations (NFE) of the fields for one point: `n_steps` and `n_straight_steps`.

        Twice as many where guidance mixes two fields.
        """
        return (self.n_steps + self.n_straight_steps) * self._n_fields

    @property
    def phases(self) -> np.ndarray:
        """Phase of every step of `trajectory`: 1 or 2, shape (n_steps + n_straight_steps,)."""
        return np.repeat([1, 2], [self.n_steps, self.n_straight_steps])

    def predict_time(self, X: Any, y: Any = None) -> np.ndarray:
        """Return t_φ(X) (n,), in [0, 1]: where on a straight line from source to target each row lies.

        Phase 2 begins at ``predict_time(trajectory(X, y)[n_steps], y)``.
        """
        x = self._to_unit(self._check_new(X))
        return self._time(x, self._columns(y, len(x)))

    def _check_learning(self) -> None:
        if not self.n_steps <= 5:
            raise ValueError(f"n_steps={self.n_steps!r} of phase 1 must be at most 5; use NSGF for a longer flow.")
        _check_count("n_straight_steps", self.n_straight_steps)
        for value in self._max_iters():
            _check_count("max_iter", value)

    def _check_course(self) -> None:
        raise ValueError("NSGFPlusPlus has no time courses, because its second phase knows one target; use NSGF.")

    def _max_iters(self) -> tuple[Any, ...]:
        """Return the optimisation steps of the velocity field, the straight field and the predictor."""
        if not isinstance(self.max_iter, tuple | list):
            return (self.max_iter,) * 3
        if len(self.max_iter) != 3:
            raise ValueError(f"max_iter={self.max_iter!r} must be one integer, or three: one for each network.")
        return tuple(self.max_iter)

    def _learn(self, drawn: minibatches.Minibatches, rng: np.random.Generator) -> None:
        velocity_iter, straight_iter, time_iter = self._max_iters()
        flows = self._flows(drawn, rng, with_lines=True)
        n_unseen = sum(len(p.x) for p, _ in flows.held_out)
        unseen = flow.Lines(n_unseen, flows.d, rng=rng, n_conditions=self._n_conditions)
        for p, (first, *_) in flows.held_out:
            unseen.add(*first, p.c)
        held_out = [unseen.draw(self.train_batch_size, rng) for _ in range(_VALIDATION_BATCHES)]  # ((x, t, …), u)

        def line(rng: np.random.Generator) -> Any:
            self._refill(flows)
            return flows.lines.draw(self.train_batch_size, rng)

        self._train("straight_field_", "straight_", line, held_out, rng, straight_iter)
        self._match_velocities(flows, rng, velocity_iter, first=self.straight_field_)
        times = [_timed(*batch) for batch in held_out]
        self._train("time_predictor_", "time_", lambda rng: _timed(*line(rng)), times, rng, time_iter)
        self.report_["time_error"] = float(np.mean([np.abs(self._time(x, *c) - t) for (x, *c), t in times]))
        self.n_iter_ = sum(len(self.history_[f"{prefix}loss"]) for prefix in ("", "straight_", "time_"))

    def _time(self, x: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
        """Return the times (n,) of x, in units of the spread, under the conditions c."""
        return self._on_device(self.time_predictor_)(x, *(() if c is None else (c,))).clip(0.0, 1.0)

    def _path(self, x: np.ndarray, c: np.ndarray | None, span: tuple[float, float]) -> Iterator[np.ndarray]:
        for x in self._flow_path(x, c):  # noqa: B020, PLR1704
            yield x
        known = c if c is None or self.guidance else np.zeros_like(c)  # guidance 0 knows nothing
        times = np.linspace(self._time(x, known), 1.0, self.n_straight_steps + 1, dtype=np.float32)  # (k, n)
        yield from itertools.islice(ode.path(self._guided(self.straight_field_, c), x, times), 1, None)

    def _untrained(self, seed: int) -> dict[str, Any]:
        import torch

        from nsgf.networks import TimePredictor

        fields = {"field_": self._network(seed), "straight_field_": self._network(seed + 1)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return fields | {"time_predictor_": TimePredictor(self._network_shape(), n_conditions=self._n_conditions)}


def _timed(inputs: tuple[np.ndarray, ...], _: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Return points of straight lines, with their conditions if any, and their times, as inputs and target."""
    x, t, *c = inputs
    return (x, *c), t


def _snapshots(snapshots: Any) -> tuple[list[float], list[Any]]:
    """Return the times and samples of a time course, in the order of time."""
    items = list(snapshots.items() if isinstance(snapshots, dict) else snapshots if snapshots is not None else ())
    if not items or not all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
        raise ValueError(
            "X_tgt is missing. Give target samples, fit(X_src, X_tgt), with X_src=None for noise; or the snapshots of "
            "a time course, fit({t: X_t})."
        )
    try:
        times = [float(t) for t, _ in items]
    except (TypeError, ValueError):
        raise ValueError(f"X_src has times that are no numbers: {[t for t, _ in items]}.") from None
    if len(items) < 2 or len(set(times)) < len(times) or not np.isfinite(times).all():
        raise ValueError(f"X_src has the times {times}; a time course needs two or more, finite and all different.")
    order = np.argsort(times)
    return [times[i] for i in order], [items[i][1] for i in order]


def _check_pairs(pairs: Any, n: int, m: int) -> np.ndarray:
    """Return the pairs as integers (k, 2), or raise an error that names them."""
    found = np.asarray(to_numpy(pairs))
    if found.ndim != 2 or found.shape[1] != 2 or not len(found) or found.dtype.kind not in "iu":
        raise ValueError(f"pairs has shape {found.shape} of {found.dtype}; give integers of shape (k, 2).")
    for column, (name, size) in enumerate((("X_src", n), ("X_tgt", m))):
        if found[:, column].min() < 0 or found[:, column].max() >= size:
            raise ValueError(f"pairs names row {found[:, column].max()} of {name}, which has {size} rows, from 0.")
    return found


def as_rng(random_state: Any) -> np.random.Generator:
    """Return a Generator for an integer, a Generator, a RandomState or None; no global seed is touched."""
    if isinstance(random_state, np.random.RandomState):
        random_state = random_state.randint(2**31)
    return np.random.default_rng(random_state)


def _points(estimator: BaseEstimator, X: Any, name: str, min_rows: int = 2) -> np.ndarray:
    """Return `X` as a finite (n, d) NumPy array of float64, or raise an error that names it."""
    try:
        return check_array(
            _rows(to_numpy(X)), dtype=np.float64, input_name=name, estimator=estimator, ensure_min_samples=min_rows
        )
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name}: {error}") from error


def _rows(X: Any) -> Any:
    """Return images (n, …) as rows (n, d); what has two dimensions or is no array passes through."""
    return X.reshape(len(X), math.prod(X.shape[1:])) if getattr(X, "ndim", 2) > 2 else X


def _sample_shape(X: Any) -> tuple[int, ...]:
    """Return the shape of one sample, (d,) or that of an image."""
    return tuple(X.shape[1:]) if hasattr(X, "shape") else np.asarray(X).shape[1:]


def _in_shape_of(X: Any, result: np.ndarray) -> Array:
    """Return rows (…, n, d) in the library, dtype and sample shape of `X`."""
    return like(result.reshape(*result.shape[:-1], *X.shape[1:]) if getattr(X, "ndim", 2) > 2 else result, X)


def _no_more_than(y: np.ndarray) -> datasets.Source:
    """Return the source of rows of `y`, each at most once in a draw, and so no more than there are."""
    draw = datasets.rows(y)
    return lambda n, rng: draw(min(n, len(y)), rng)


def _check_columns(samples: Sequence[Any], names: str) -> None:
    """Refuse data frames with other columns, or another order of them: they are read by position."""
    columns = [list(X.columns) for X in samples if hasattr(X, "columns")]
    for other in columns[1:]:
        if other != columns[0]:
            raise ValueError(
                f"{names} have different columns, or another order of them: {columns[0][:5]} and {other[:5]}. "
                "Select the same ones, such as X_tgt[X_src.columns]."
            )


def _check_count(name: str, value: Any, least: int = 1) -> None:
    if not (isinstance(value, int | np.integer) and value >= least):
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}.")


def _below(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the entries whose names begin with `prefix` and a dot, without both."""
    return {k.removeprefix(f"{prefix}."): v for k, v in arrays.items() if k.startswith(f"{prefix}.")}


def _scale(x: np.ndarray, y: np.ndarray) -> float:
    """Return the root-mean-square deviation of a feature; of the means' distance where both are single points."""
    length = np.hypot(spread(x), spread(y)) / 2**0.5 or np.linalg.norm(x.mean(0) - y.mean(0)) or 1.0
    return float(length) / x.shape[1] ** 0.5


def _last(path: Iterator[np.ndarray]) -> np.ndarray:
    *_, x = path
    return x


def _to_json(name: str, value: Any) -> Any:
    """Return the JSON form of a parameter or fitted value."""
    if isinstance(value, POT | Sinkhorn | Training):
        return {
            type(value).__name__: {
                k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in dataclasses.asdict(value).items()
            }
        }
    if type(value).__module__.startswith("numpy"):
        value = value.tolist() if isinstance(value, np.ndarray | np.generic) else None  # a Generator has no JSON form
    if name == "network" and not isinstance(value, str):
        return {"module": type(value).__name__}
    try:
        json.dumps(value)
    except TypeError:
        raise ValueError(
            f"{name}={value!r} cannot be saved: it has no JSON form. Call set_params({name}='auto') first."
        ) from None
    return value


def _from_json(value: Any) -> Any:
    kinds = {"POT": POT, "Sinkhorn": Sinkhorn, "Training": Training}
    named = [kind for kind in kinds if isinstance(value, dict) and kind in value]
    return kinds[named[0]](**value[named[0]]) if named else value
