"""Scikit-learn estimators: learn the field that carries one sample to another, then transport new samples along it.

``BaseFlow`` owns the contract (validation, units, `transform`, `sample`, persistence); a leaf says how its field is
learnt and how a point follows it. Inside, data are centred and divided by their spread, so that every default is
free of units.
"""

import abc
import copy
import dataclasses
import functools
import itertools
import json
import os
import time
import warnings
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from nsgf import _io, datasets, flow, ode
from nsgf._arrays import Array, as_pair, like, on_device, pick_device, to_numpy
from nsgf.sinkhorn import Velocity, pick_blur, settle, sinkhorn_divergence, spread
from nsgf.solvers import POT, Sinkhorn, Solver, pick_solver

__all__ = ["NSGF", "BaseFlow"]

_REFERENCE_ROWS = 2048  # target rows kept for score(): enough for a stable figure, O(n²) memory once
_HELD_OUT = 2  # minibatches kept from training, for report_
_POOL_SOLVER = Sinkhorn(tol=1e-2)  # its error is far below that of sampling a minibatch
_GAP_LIMIT = 0.5  # relative error of the field above which report_ warns
_REMEDIES = {
    "regression_gap": "the field is far from velocities that it was not trained on. Raise max_iter or n_batches.",
    "minibatch_gap": "two minibatches disagree, so the flow is that of small samples. Raise batch_size or blur.",
}
Pairs = Iterator[tuple[np.ndarray, np.ndarray]]


class BaseFlow(OneToOneFeatureMixin, TransformerMixin, BaseEstimator, abc.ABC):
    """Contract of every flow estimator; not for direct use."""

    @abc.abstractmethod
    def _learn(self, pairs: "Pairs", rng: np.random.Generator) -> None:
        """Set ``field_``, ``blur_``, ``history_`` and ``report_`` from minibatch pairs (x, y) of unit spread."""

    @abc.abstractmethod
    def _path(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the positions of x, from the source to the target, in units of the spread."""

    def fit(self, X_src: Any, X_tgt: Any) -> Self:
        """Learn the field that carries the law of `X_src` to that of `X_tgt`.

        Parameters
        ----------
        X_src : array-like of shape (n, d), or None
            Source samples; None stands for Gaussian noise with the mean and standard deviation of each target feature.
        X_tgt : array-like of shape (m, d)
            Target samples: points, never labels. NumPy, CuPy or torch arrays, lists, pandas or polars frames.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            On NaN, infinite, empty, single-row or mismatched samples, or a parameter out of its range.
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
        y = _points(self, X_tgt, "X_tgt")
        x = y if X_src is None else _points(self, X_src, "X_src")
        as_pair(x, y, ("X_src", "X_tgt"))
        validate_data(self, X_tgt if X_src is None else X_src, reset=True, skip_check_array=True)
        rng, self._sampler = as_rng(self.random_state).spawn(2)
        self.shift_, self.scale_ = y.mean(axis=0), _scale(x, y)
        target = self._to_unit(y)
        self.source_ = None if X_src is None else self._to_unit(x)
        self.noise_scale_ = target.std(axis=0)
        self.target_ = datasets.rows(target)(min(len(target), _REFERENCE_ROWS), rng)
        self._learn(self._pairs(self._source(), target, rng), rng)
        return self

    def _pairs(self, source: datasets.Source, target: np.ndarray, rng: np.random.Generator) -> "Pairs":
        """Yield minibatches of the source and the target without end, each no larger than its sample."""
        n_src = self.batch_size if self.source_ is None else min(self.batch_size, len(self.source_))
        n_tgt, draw_target = min(self.batch_size, len(target)), datasets.rows(target)
        while True:
            yield source(n_src, rng).astype(np.float32), draw_target(n_tgt, rng)

    def transform(self, X: Any) -> Array:
        """Carry source samples to the target.

        Parameters
        ----------
        X : array-like of shape (n, d)
            New source samples.

        Returns
        -------
        array of shape (n, d)
            In the library, device and floating dtype of `X`.
        """
        return like(self._to_units(_last(self._path(self._to_unit(self._check_new(X))))), X)

    def trajectory(self, X: Any) -> Array:
        """Return the positions of source samples at every step, shape (n_steps + 1, n, d)."""
        return like(self._to_units(np.stack(list(self._path(self._to_unit(self._check_new(X)))))), X)

    def sample(self, n: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw `n` fresh points from the source and carry them to the target.

        Parameters
        ----------
        n : int
            Number of samples.
        random_state : int or numpy Generator, optional
            Fixes this call; by default every call continues the stream that the estimator's own `random_state` began.

        Returns
        -------
        array of shape (n, d)
        """
        check_is_fitted(self)
        if not (isinstance(n, int | np.integer) and n >= 1):
            raise ValueError(f"n={n!r} must be an integer of at least 1.")
        rng = self._sampler if random_state is None else as_rng(random_state)
        x = self._source()(int(n), rng).astype(np.float32)
        return self._to_units(_last(self._path(x)))

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
        values = {k: v for k, v in vars(self).items() if k.endswith("_") and k != "field_"}
        arrays = {k: v for k, v in values.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fi"}
        arrays |= {f"history_.{k}": v for k, v in self.history_.items() if isinstance(v, np.ndarray)}
        arrays |= {f"field_.{k}": v.numpy() for k, v in self.field_.state_dict().items()}
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
        history = {k.removeprefix("history_."): v for k, v in arrays.items() if k.startswith("history_.")}
        weights = {k.removeprefix("field_."): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("field_.")}
        for name, value in (arrays | meta["values"]).items():
            if "." not in name:
                setattr(self, name, value)
        if "feature_names_in_" in meta["values"]:
            self.feature_names_in_ = np.array(meta["values"]["feature_names_in_"], dtype=object)
        self.history_ = meta["history_"] | history
        self.field_ = self._network(self.n_features_in_, seed=0)
        self.field_.load_state_dict(weights)
        self.field_.eval()
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
        validate_data(self, X, reset=False, skip_check_array=True)
        return x

    def _source(self) -> datasets.Source:
        if self.source_ is None:
            return datasets.noise(np.zeros_like(self.noise_scale_), self.noise_scale_)
        return datasets.rows(self.source_)

    def _to_unit(self, x: np.ndarray) -> np.ndarray:
        """Return data in units of their spread; float32 of float64 arithmetic, so rescaled data give equal bits."""
        return ((x.astype(np.float64) - self.shift_) / self.scale_).astype(np.float32)

    def _to_units(self, x: np.ndarray) -> np.ndarray:
        return x.astype(np.float64) * self.scale_ + self.shift_


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
    network : "mlp" or torch module
        The field, called as ``network(x, t)``; ``"mlp"`` has 3 hidden layers of 256 units and a time embedding.
    max_iter : int
        Optimisation steps of the network.
    learning_rate : float
        Adam's first learning rate; it decays to zero along a cosine.
    train_batch_size : int
        Pool rows of one optimisation step.
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
        Origin and unit of length of the field: the target's mean, and the spread of both samples.
    history_ : dict
        ``"loss"`` (an array, one value an optimisation step), ``"pool_seconds"``, ``"train_seconds"``.
    report_ : dict
        ``"regression_gap"``: distance of the field to held-out velocities; ``"minibatch_gap"``: distance of two
        independent minibatches' velocities; both root-mean-square, relative to the velocities. The first cannot fall
        below about 0.7 times the second, which is the noise of the minibatches. ``"max_error"`` and ``"converged"``:
        the largest error of a velocity in the pool, and whether all converged.
    n_iter_ : int
        Optimisation steps done: `max_iter`, unless Ctrl-C ended the training.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    Zhu et al. 2024, arXiv 2401.14069, algorithm 1. The second argument of `fit` is the target sample, so in a
    scikit-learn Pipeline ``pipeline.fit(X_src, X_tgt)`` reads as it should, but a step before this one is fitted on
    `X_src` alone.

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
        self.solver = solver
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self) -> None:
        for name, least in (("batch_size", 2), ("n_batches", 1), ("max_iter", 1), ("train_batch_size", 1)):
            value = getattr(self, name)
            if not (isinstance(value, int | np.integer) and value >= least):
                raise ValueError(f"{name}={value!r} must be an integer of at least {least}.")
        if isinstance(self.learning_rate, str) or not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate={self.learning_rate!r} must be positive; 5e-3 is a good value.")
        flow.check_steps(self.n_steps, self.step_size)
        pick_blur(self.blur, np.zeros((2, 1)), np.zeros((2, 1)))
        pick_solver(self.solver)
        pick_device(self.device)
        self._network(1, seed=0)

    def _learn(self, pairs: Pairs, rng: np.random.Generator) -> None:
        start = time.perf_counter()
        pool, held_out = self._build_pool(pairs)
        pool_seconds = time.perf_counter() - start

        start = time.perf_counter()
        self.field_, loss = self._match(pool, rng)
        train_seconds = time.perf_counter() - start
        self.n_iter_ = len(loss)
        self.history_ = {"loss": loss, "pool_seconds": pool_seconds, "train_seconds": train_seconds}
        self._check_field(held_out)

    def _build_pool(self, pairs: Pairs) -> tuple[flow.TrajectoryPool, list[list[tuple[Array, Velocity]]]]:
        """Return the pool of `n_batches` flows, and the steps of further flows that it does not hold."""
        device, solve = pick_device(self.device), _POOL_SOLVER if self.solver == "auto" else pick_solver(self.solver)
        moved = (tuple(on_device(z, device) for z in pair) for pair in pairs)
        first = next(moved)
        blur = self.blur if isinstance(self.blur, str) else self.blur / self.scale_
        self.blur_ = pick_blur(blur, *first) * self.scale_
        run = functools.partial(
            flow.flow_steps, blur=self.blur_ / self.scale_, n_steps=self.n_steps, step_size=self.step_size, solve=solve
        )
        n, d = first[0].shape
        pool, worst = flow.TrajectoryPool(self.n_batches * self.n_steps * n, d), (0.0, True)
        size = flow.batch_size(first[0], first[1], solve)
        flows = flow.batches(itertools.islice(moved, self.n_batches), size)
        for x, y in self._progress(flows, -(-self.n_batches // size), "pool"):
            for k, (x_k, res) in enumerate(run(x, y)):
                pool.add(k / self.n_steps, x_k, res.v)
                worst = max(worst[0], res.error), worst[1] and res.converged
        settle(*worst, solve)
        self.report_ = {"max_error": worst[0], "converged": worst[1]}
        return pool, [list(run(*pair)) for pair in itertools.islice(moved, _HELD_OUT)]

    def _match(self, pool: flow.TrajectoryPool, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
        """Return the field matched to the pool, on the CPU, and its losses."""
        from nsgf import matching

        net = self._network(self.n_features_in_, seed=int(rng.integers(2**31))).to(pick_device(self.device))
        field, loss = matching.train(
            net,
            draw=lambda: pool.draw(self.train_batch_size, rng),
            n_iter=self.max_iter,
            learning_rate=self.learning_rate,
            progress=lambda steps: self._progress(steps, self.max_iter, "train"),
        )
        return field.cpu(), loss

    def _check_field(self, held_out: list[list[tuple[Array, Velocity]]]) -> None:
        """Fill ``report_``: distance of the field to held-out velocities, and of two minibatches' velocities."""
        from nsgf import matching

        error = size = 0.0
        for k, (x, res) in itertools.chain.from_iterable(map(enumerate, held_out)):
            v = to_numpy(res.v)
            error += float(np.sum((matching.evaluate(self.field_, to_numpy(x), k / self.n_steps) - v) ** 2))
            size += float(np.sum(v**2))
        self.report_["regression_gap"] = (error / size) ** 0.5 if size else 0.0
        self.report_["minibatch_gap"] = flow.minibatch_gap(*held_out)
        for gap, remedy in _REMEDIES.items():
            if self.report_[gap] > _GAP_LIMIT:
                warnings.warn(
                    f"report_['{gap}'] is {self.report_[gap]:.2f}, more than {_GAP_LIMIT} of the velocities: {remedy}",
                    stacklevel=4,
                )

    def _path(self, x: np.ndarray) -> Iterator[np.ndarray]:
        from nsgf import matching

        field = copy.deepcopy(self.field_).to(pick_device(self.device))
        speed = self.n_steps * self.step_size  # read as an ODE on [0, 1]: dx/dt = T η v(x, t)
        times = [k / self.n_steps for k in range(self.n_steps + 1)]
        return ode.path(lambda z, t: speed * matching.evaluate(field, z, t), x, times)

    def _progress(self, steps: Any, total: int, name: str) -> Any:
        from tqdm.auto import tqdm

        return tqdm(steps, total=total, desc=f"{type(self).__name__} {name}", disable=not self.verbose)

    def _network(self, n_features: int, seed: int) -> Any:
        """Return an untrained network; the global random state of torch is left as it was."""
        import torch

        from nsgf.networks import MLP

        if isinstance(self.network, torch.nn.Module):
            return copy.deepcopy(self.network)
        if self.network != "mlp":
            raise ValueError(f"network={self.network!r} is unknown; choose 'mlp' or pass a torch.nn.Module.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MLP(n_features)


def as_rng(random_state: Any) -> np.random.Generator:
    """Return a Generator for an integer, a Generator, a RandomState or None; no global seed is touched."""
    if isinstance(random_state, np.random.RandomState):
        random_state = random_state.randint(2**31)
    return np.random.default_rng(random_state)


def _points(estimator: BaseEstimator, X: Any, name: str, min_rows: int = 2) -> np.ndarray:
    """Return `X` as a finite (n, d) NumPy array of float64, or raise an error that names it."""
    try:
        return check_array(
            to_numpy(X), dtype=np.float64, input_name=name, estimator=estimator, ensure_min_samples=min_rows
        )
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name}: {error}") from error


def _scale(x: np.ndarray, y: np.ndarray) -> float:
    """Return the spread of both samples; the distance of their means where both are single points."""
    return float(np.hypot(spread(x), spread(y)) / 2**0.5 or np.linalg.norm(x.mean(0) - y.mean(0)) or 1.0)


def _last(path: Iterator[np.ndarray]) -> np.ndarray:
    *_, x = path
    return x


def _to_json(name: str, value: Any) -> Any:
    """Return the JSON form of a parameter or fitted value."""
    if isinstance(value, POT | Sinkhorn):
        return {type(value).__name__: dataclasses.asdict(value)}
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
    kinds = {"POT": POT, "Sinkhorn": Sinkhorn}
    named = [kind for kind in kinds if isinstance(value, dict) and kind in value]
    return kinds[named[0]](**value[named[0]]) if named else value
