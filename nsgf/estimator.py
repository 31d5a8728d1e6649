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
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from nsgf import _io, datasets, flow, ode
from nsgf._arrays import Array, as_pair, like, on_device, pick_device, to_numpy
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
_NOT_MEANT = ("random_state", "verbose", "device", "n_straight_steps")  # change nothing that is learnt
Pairs = Iterator[tuple[Array, Array]]
Batches = list[tuple[tuple[Any, ...], np.ndarray]]  # inputs of a network and its target


class BaseFlow(OneToOneFeatureMixin, TransformerMixin, BaseEstimator, abc.ABC):
    """Contract of every flow estimator; not for direct use."""

    @abc.abstractmethod
    def _learn(self, source: datasets.Source, target: datasets.Source, rng: np.random.Generator) -> None:
        """Learn the networks from samples of unit spread; set ``history_``, ``report_`` and ``n_iter_``."""

    @abc.abstractmethod
    def _check_learning(self) -> None:
        """Raise on a bad parameter that other leaves do not have."""

    @abc.abstractmethod
    def _path(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the positions of x, from the source to the target, in units of the spread."""

    @abc.abstractmethod
    def _untrained(self, seed: int) -> dict[str, Any]:
        """Return the networks by the names of their attributes, with first weights of that seed."""

    @property
    @abc.abstractmethod
    def n_evaluations(self) -> int:
        """Function evaluations (NFE) of one point on its way from the source to the target."""

    def fit(self, X_src: Any, X_tgt: Any) -> Self:
        """Learn the field that carries the law of `X_src` to that of `X_tgt`.

        Parameters
        ----------
        X_src : array-like of shape (n, d) or (n, …), or None
            Source samples; None stands for Gaussian noise with the mean and standard deviation of each target feature.
        X_tgt : array-like of shape (m, d) or (m, …)
            Target samples: points, never labels. NumPy, CuPy or torch arrays, lists, pandas or polars frames. Images
            have shape (m, c, h, w) or (m, h, w), in any units.

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
        validate_data(self, _rows(X_tgt if X_src is None else X_src), reset=True, skip_check_array=True)
        self.sample_shape_ = _sample_shape(X_tgt)
        self._untrained(seed=0)
        if self._training.directory is not None:
            self._training.claim(self._key(None if X_src is None else x, y))
        rng, self._sampler = as_rng(self.random_state).spawn(2)
        self.shift_, self.scale_ = y.mean(axis=0), _scale(x, y)
        target = self._to_unit(y)
        self.source_ = None if X_src is None else self._to_unit(x)
        self.noise_scale_ = target.std(axis=0)
        self.target_ = datasets.rows(target)(min(len(target), _REFERENCE_ROWS), rng)
        self._learn(self._source(), _no_more_than(target), rng)
        return self

    def transform(self, X: Any) -> Array:
        """Carry source samples to the target.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, …)
            New source samples.

        Returns
        -------
        array of the shape of `X`
            In the library, device and floating dtype of `X`.
        """
        return _in_shape_of(X, self._to_units(_last(self._path(self._to_unit(self._check_new(X))))))

    def trajectory(self, X: Any) -> Array:
        """Return the positions of source samples at the start and after every step, shape (k, n, d) or (k, n, …)."""
        return _in_shape_of(X, self._to_units(np.stack(list(self._path(self._to_unit(self._check_new(X)))))))

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
        array of shape (n, d), or (n, …) in the shape of the target samples
        """
        check_is_fitted(self)
        if not (isinstance(n, int | np.integer) and n >= 1):
            raise ValueError(f"n={n!r} must be an integer of at least 1.")
        rng = self._sampler if random_state is None else as_rng(random_state)
        x = self._source()(int(n), rng)
        return self._to_units(_last(self._path(x))).reshape(int(n), *self.sample_shape_)

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

    def _key(self, *samples: "np.ndarray | None") -> str:
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
            key.update(b"" if array is None else np.ascontiguousarray(array).data)
        return key.hexdigest()

    def _check_parameters(self) -> None:
        for name, least in (("batch_size", 2), ("n_batches", 1), ("train_batch_size", 1)):
            _check_count(name, getattr(self, name), least)
        if isinstance(self.learning_rate, str) or not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate={self.learning_rate!r} must be positive; 5e-3 is a good value.")
        if not (self.training is None or isinstance(self.training, Training)):
            raise ValueError(f"training={self.training!r} must be an nsgf.Training, or None for its defaults.")
        flow.check_steps(self.n_steps, self.step_size)
        pick_blur(self.blur, np.zeros((2, 1)), np.zeros((2, 1)))
        pick_solver(self.solver)
        pick_device(self.device)
        self._check_learning()

    def _flow_minibatches(
        self, source: datasets.Source, target: datasets.Source, rng: np.random.Generator, with_lines: bool = False
    ) -> "_Flows":
        """Return the flows of minibatches; set ``blur_``, ``n_steps_``, ``flow_time_`` and begin ``history_``."""
        start = time.perf_counter()
        pairs, run = self._flows(source, target, rng)
        pool, lines = self._build_pools(pairs, run, rng.spawn(1)[0] if with_lines else None)
        held_out = [list(run(*pair)) for pair in itertools.islice(pairs, _HELD_OUT)]
        self.history_ = {"pool_seconds": time.perf_counter() - start}
        calls, refill_every = itertools.count(), self._training.refill_every

        def refill() -> None:
            if refill_every and next(calls) % refill_every == 0:
                settle(*_extend(pool, lines, run(*next(pairs))), run.keywords["solve"])

        return _Flows(pool, lines, held_out, refill)

    def _match_velocities(self, flows: "_Flows", rng: np.random.Generator, max_iter: int, first: Any = None) -> None:
        """Set ``field_`` and ``report_`` from the velocities of the flows; start from the weights of `first`."""
        from nsgf import matching

        steps = itertools.chain.from_iterable(map(enumerate, flows.held_out))
        batches = [((to_numpy(x), k / self.n_steps), to_numpy(res.v)) for k, (x, res) in steps]

        def draw(rng: np.random.Generator) -> Any:
            flows.refill()
            t, x, v = flows.pool.draw(self.train_batch_size, rng)
            return (x, t), v

        self._train("field_", "", draw, batches, rng, max_iter, first)
        self.report_ = {
            "max_error": flows.pool.error,
            "converged": flows.pool.converged,
            "minibatch_gap": flow.minibatch_gap(*flows.held_out),
            "regression_gap": matching.relative_error(self.field_, batches),
        }
        self._check_report()

    def _flows(
        self, source: datasets.Source, target: datasets.Source, rng: np.random.Generator
    ) -> tuple[Pairs, "functools.partial[Iterator[tuple[Array, Velocity]]]"]:
        """Return minibatch pairs without end, and the flow of one; set ``blur_``."""
        device, solve = pick_device(self.device), _POOL_SOLVER if self.solver == "auto" else pick_solver(self.solver)
        n = self.batch_size if self.source_ is None else min(self.batch_size, len(self.source_))
        draws = ((source(n, rng), target(self.batch_size, rng)) for _ in itertools.count())
        pairs = ((on_device(x, device), on_device(y, device)) for x, y in draws)
        blur = self.blur if isinstance(self.blur, str) else self.blur / self.scale_
        self.blur_ = pick_blur(blur, *next(pairs)) * self.scale_
        self.n_steps_, self.flow_time_ = self.n_steps, self.n_steps * self.step_size
        return pairs, functools.partial(
            flow.flow_steps, blur=self.blur_ / self.scale_, n_steps=self.n_steps, step_size=self.step_size, solve=solve
        )

    def _build_pools(
        self, pairs: Pairs, run: Any, lines_rng: np.random.Generator | None
    ) -> "tuple[flow.TrajectoryPool, flow.Lines | None]":
        """Return the pool of `n_batches` flows, and their lines where there is a Generator for them.

        Of what is on disk, only the missing part is computed.
        """
        x, y = first = next(pairs)
        (n, d), solve, training = x.shape, run.keywords["solve"], self._training
        parts = self.n_steps + (lines_rng is not None)  # of equal size
        budget = None if training.pool_bytes is None else training.pool_bytes // parts
        pool = flow.TrajectoryPool(
            self.n_batches * self.n_steps * n, d, training.path("pool"), budget and budget * self.n_steps
        )
        done, lines = len(pool) // (self.n_steps * n), None
        if lines_rng is not None:
            lines = flow.Lines(self.n_batches * n, d, training.path("lines"), budget, rng=lines_rng)
            lines.go_on_from(done * n)
        size = flow.batch_size(x, y, solve)
        missing = itertools.islice(itertools.chain([first], pairs), done, self.n_batches)
        for x, y in self._progress(flow.batches(missing, size), -(-(self.n_batches - done) // size), "pool"):
            _extend(pool, lines, run(x, y))
        settle(pool.error, pool.converged, solve)
        return pool, lines

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

    def _flow_path(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Yield x along ``field_``, read as an ODE on [0, 1]: dx/dt = T η v(x, t), constant in t between steps."""
        field, T = self._on_device(self.field_), self.n_steps_

        def velocity(x: np.ndarray, t: float) -> np.ndarray:
            return self.flow_time_ * field(x, math.floor(t * T + 1e-6) / T)

        return ode.path(velocity, x, np.linspace(0.0, 1.0, self.n_steps + 1).tolist())

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

        shape = self._network_shape()
        if isinstance(self.network, torch.nn.Module):
            net = copy.deepcopy(self.network)
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
            return networks.UNet(shape) if self.network == "unet" else networks.MLP(math.prod(shape))


class _Flows(NamedTuple):
    """Flows of minibatches: those for training, those held out, and a function that replaces the oldest in time."""

    pool: flow.TrajectoryPool
    lines: Any  # flow.Lines where they were asked for, else None
    held_out: list[list[tuple[Array, Velocity]]]
    refill: Callable[[], None]


def _extend(
    pool: flow.TrajectoryPool, lines: flow.Lines | None, steps: Iterator[tuple[Array, Velocity]]
) -> tuple[float, bool]:
    """Add flows to the pool one by one, in the place of the oldest where it is full; return their certificate."""
    found = list(steps)
    if lines is not None:
        lines.add(*found[0])
    xs, vs = (np.stack([to_numpy(z) for z in column]) for column in zip(*((x, res.v) for x, res in found), strict=True))
    n_steps, n, d = len(found), *xs.shape[-2:]  # xs (n_steps, …, n, d)
    certificate = max(res.error for _, res in found), all(res.converged for _, res in found)
    pool.certify(*certificate)
    t = np.repeat(np.arange(n_steps) / n_steps, n)
    for x, v in zip(*(z.reshape(n_steps, -1, n, d).swapaxes(0, 1) for z in (xs, vs)), strict=True):
        pool.renew(t, x.reshape(-1, d), v.reshape(-1, d))
    return certificate


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
        self.sample_shape = sample_shape
        self.training = training
        self.solver = solver
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_learning(self) -> None:
        _check_count("max_iter", self.max_iter)

    def _learn(self, source: datasets.Source, target: datasets.Source, rng: np.random.Generator) -> None:
        self._match_velocities(self._flow_minibatches(source, target, rng), rng, self.max_iter)
        self.n_iter_ = len(self.history_["loss"])

    def _path(self, x: np.ndarray) -> Iterator[np.ndarray]:
        return self._flow_path(x)

    def _untrained(self, seed: int) -> dict[str, Any]:
        return {"field_": self._network(seed)}

    @property
    def n_evaluations(self) -> int:
        """Function evaluations (NFE) of one point on its way from the source to the target: `n_steps`."""
        return self.n_steps


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
    learning_rate, train_batch_size, sample_shape, training, device, random_state, verbose : as in NSGF
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
        self.sample_shape = sample_shape
        self.training = training
        self.solver = solver
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @property
    def n_evaluations(self) -> int:
        """Function evaluations (NFE) of the fields for one point: `n_steps` and `n_straight_steps`."""
        return self.n_steps + self.n_straight_steps

    @property
    def phases(self) -> np.ndarray:
        """Phase of every step of `trajectory`: 1 or 2, shape (n_steps + n_straight_steps,)."""
        return np.repeat([1, 2], [self.n_steps, self.n_straight_steps])

    def predict_time(self, X: Any) -> np.ndarray:
        """Return t_φ(X) (n,), in [0, 1]: where on a straight line from source to target each row lies.

        Phase 2 begins at ``predict_time(trajectory(X)[n_steps])``.
        """
        return self._time(self._to_unit(self._check_new(X)))

    def _check_learning(self) -> None:
        if not self.n_steps <= 5:
            raise ValueError(f"n_steps={self.n_steps!r} of phase 1 must be at most 5; use NSGF for a longer flow.")
        _check_count("n_straight_steps", self.n_straight_steps)
        for value in self._max_iters():
            _check_count("max_iter", value)

    def _max_iters(self) -> tuple[Any, ...]:
        """Return the optimisation steps of the velocity field, the straight field and the predictor."""
        if not isinstance(self.max_iter, tuple | list):
            return (self.max_iter,) * 3
        if len(self.max_iter) != 3:
            raise ValueError(f"max_iter={self.max_iter!r} must be one integer, or three: one for each network.")
        return tuple(self.max_iter)

    def _learn(self, source: datasets.Source, target: datasets.Source, rng: np.random.Generator) -> None:
        velocity_iter, straight_iter, time_iter = self._max_iters()
        flows = self._flow_minibatches(source, target, rng, with_lines=True)
        unseen = flow.Lines(sum(len(steps[0][0]) for steps in flows.held_out), target(1, rng).shape[1], rng=rng)
        for first, *_ in flows.held_out:
            unseen.add(*first)
        held_out = [unseen.draw(self.train_batch_size, rng) for _ in range(_VALIDATION_BATCHES)]  # ((x, t), u)

        def line(rng: np.random.Generator) -> Any:
            flows.refill()
            return flows.lines.draw(self.train_batch_size, rng)

        self._train("straight_field_", "straight_", line, held_out, rng, straight_iter)
        self._match_velocities(flows, rng, velocity_iter, first=self.straight_field_)
        times = [((x,), t) for (x, t), _ in held_out]
        self._train("time_predictor_", "time_", lambda rng: _timed(*line(rng)), times, rng, time_iter)
        self.report_["time_error"] = float(np.mean([np.abs(self._time(x) - t) for (x,), t in times]))
        self.n_iter_ = sum(len(self.history_[f"{prefix}loss"]) for prefix in ("", "straight_", "time_"))

    def _time(self, x: np.ndarray) -> np.ndarray:
        """Return the times (n,) of x, in units of the spread."""
        return self._on_device(self.time_predictor_)(x).clip(0.0, 1.0)

    def _path(self, x: np.ndarray) -> Iterator[np.ndarray]:
        for x in self._flow_path(x):  # noqa: B020, PLR1704
            yield x
        times = np.linspace(self._time(x), 1.0, self.n_straight_steps + 1, dtype=np.float32)  # (k, n)
        yield from itertools.islice(ode.path(self._on_device(self.straight_field_), x, times), 1, None)

    def _untrained(self, seed: int) -> dict[str, Any]:
        import torch

        from nsgf.networks import TimePredictor

        fields = {"field_": self._network(seed), "straight_field_": self._network(seed + 1)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return fields | {"time_predictor_": TimePredictor(self._network_shape())}


def _timed(inputs: tuple[np.ndarray, np.ndarray], _: np.ndarray) -> tuple[tuple[np.ndarray], np.ndarray]:
    """Return points of straight lines and their times, as input and target."""
    x, t = inputs
    return (x,), t


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
