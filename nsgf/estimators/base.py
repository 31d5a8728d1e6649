"""The contract of every estimator: what `fit` remembers, and what can be asked of it.

``BaseFlow`` reads data, remembers and answers; a leaf says how its networks are learnt and how a point follows them.
Inside, data are centred and divided by their spread, so that every default is free of units.
"""

import abc
import contextlib
import copy
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Self, cast

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import nn

from nsgf import _checks, _files, _io, diagnostics, samples, trials
from nsgf._arrays import Array, check_widths, plainly
from nsgf._random import Stream, seeded
from nsgf.conditions import Pairs
from nsgf.estimators import parameters
from nsgf.estimators.parameters import Fitted, RandomState, as_rng
from nsgf.estimators.score import Distance, distance_of
from nsgf.learnt import Learnt
from nsgf.samples import Snapshots, Time
from nsgf.task import Known, Task
from nsgf.training import Training
from nsgf.trials import Trial

_REMEMBERED: dict[str, type] = {"task": Task, "learnt": Learnt}  # beside the parameters


class Ask(NamedTuple):
    """What is asked of a path beside its start: the part of a time course, and the guidance."""

    span: tuple[float, float] = (0.0, 1.0)
    guidance: float = 1.0

    @classmethod
    def of(cls, guidance: float, c: np.ndarray | None, span: tuple[float, float] = (0.0, 1.0)) -> "Ask":
        """Return what is asked, or raise where the guidance has no conditions to strengthen."""
        if c is None and guidance not in (0, 1):
            raise ValueError(f"guidance={guidance!r} was given to a model that was fitted without conditions.")
        return cls(span, float(guidance))


class BaseFlow(OneToOneFeatureMixin, TransformerMixin, BaseEstimator, abc.ABC):
    """Contract of every flow estimator; not for direct use."""

    # scikit-learn asks for no y by itself, since it means the target; and its Pipeline gives each score a sample_weight
    # of None, which has to be known.
    __metadata_request__transform: ClassVar = {"y": None}
    __metadata_request__score: ClassVar = {"y": None, "sample_weight": None}

    # Images have no names of features, and so stay arrays whatever set_output says.
    get_feature_names_out = available_if(lambda self: not self.__sklearn_is_fitted__() or len(self.sample_shape_) == 1)(
        OneToOneFeatureMixin.get_feature_names_out
    )

    _habits: ClassVar[Training] = Training()  # where `training` is None
    _asked: ClassVar[tuple[str, ...]] = ()  # parameters that change what is made, and nothing learnt

    random_state: RandomState
    _task: Task
    _learnt: Learnt
    _sampler: Stream  # of sample()

    n_features_in_ = Fitted[int](lambda self: self._task.features.n)
    feature_names_in_ = Fitted[np.ndarray](lambda self: self._task.features.columns)
    sample_shape_ = Fitted[tuple[int, ...]](lambda self: self._task.frame.shape)
    source_shift_ = Fitted[np.ndarray](lambda self: self._task.frame.origins[0])
    shift_ = Fitted[np.ndarray](lambda self: self._task.frame.origins[-1])
    scale_ = Fitted[float](lambda self: self._task.frame.scale)
    condition_shift_ = Fitted[np.ndarray | None](lambda self: getattr(self._task.kinds, "shift", None))
    condition_scale_ = Fitted[np.ndarray | None](lambda self: getattr(self._task.kinds, "scale", None))
    classes_ = Fitted[tuple[Any, ...] | None](lambda self: getattr(self._task.kinds, "labels", None))
    times_ = Fitted[np.ndarray | None](
        lambda self: self._task.calendar.times(self._task.times) if self._task.times else None
    )
    history_ = Fitted[dict[str, Any]](lambda self: self._learnt.history)
    report_ = Fitted[dict[str, Any]](lambda self: self._learnt.report)
    n_iter_ = Fitted[int](lambda self: self._learnt.n_iter)
    blur_ = Fitted[float](lambda self: self._learnt.blur)

    @abc.abstractmethod
    def _check(self) -> None:
        """Raise on a parameter out of its range."""

    @abc.abstractmethod
    def _networks(self, task: Task, seed: int) -> dict[str, nn.Module]:
        """Return the networks by the names of their attributes, untrained, with first weights of that seed.

        Raise on a task that the leaf does not know.
        """

    @abc.abstractmethod
    def _learn(self, task: Task, rng: np.random.Generator) -> Learnt:
        """Return what there is to learn of a task; set nothing."""

    @abc.abstractmethod
    def _path(self, x: np.ndarray, c: np.ndarray | None, ask: Ask) -> Iterator[np.ndarray]:
        """Yield the positions of x (n, d), from the source to the target, in units; conditions c are (n, k)."""

    def _gone(self, n: int, ask: Ask) -> np.ndarray:
        """Return which part of the way between the means is gone at each of the n positions of a path: an even pace."""
        return np.linspace(*ask.span, n)

    @property
    @abc.abstractmethod
    def n_evaluations(self) -> int:
        """Function evaluations (NFE) of one point on its way; twice as many under a guidance other than 0 and 1."""

    @plainly()
    def fit(
        self,
        X_src: "ArrayLike | Snapshots | None",
        X_tgt: ArrayLike | None = None,
        *,
        y_src: Known = None,
        y_tgt: Known = None,
        pairs: "ArrayLike | Pairs | None" = None,
    ) -> Self:
        """Learn the field that carries the law of `X_src` to that of `X_tgt`.

        A fit that is refused, fails or is interrupted leaves the estimator as it was.

        Parameters
        ----------
        X_src : array-like of shape (n, d) or (n, …), or None
            Source samples; None stands for Gaussian noise with the mean and standard deviation of each target feature.
            With `NSGF` also a time course, ``{t: X_t}`` or a list of ``(t, X_t)``, of numbers or dates: the field then
            carries each snapshot to the next.
        X_tgt : array-like of shape (m, d) or (m, …)
            Target samples: points, never labels. NumPy, CuPy or torch arrays, lists, pandas or polars frames. Images
            have shape (m, c, h, w) or (m, h, w), in any units.
        y_src, y_tgt : array-like of shape (n,) and (m,), or (n, k) and (m, k), `Labels` or `Numbers`, optional
            Conditions of the samples. One dimension means labels: text, numbers or tuples. Mass stays within a label.
            −1 or None is unknown: such a row goes with the label of a partner in the plan without labels. Two
            dimensions, or `Numbers`, mean continuous conditions, which enter the cost. Without `y_src` any source
            sample may be asked for any condition.
        pairs : array-like of shape (k, 2) or `Pairs`, optional
            Rows of `X_src` and `X_tgt` that are known to belong together. They go to each other, and all other rows are
            transported with regard to their places among them.

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
        KeyboardInterrupt
            On Ctrl-C. While a network trains for the first fit of an estimator, it ends that training with a warning
            instead, and keeps what was learnt.

        Warns
        -----
        UserWarning
            Where the checks in ``report_`` find a field that is not to be trusted, with the remedy.
        ConvergenceWarning
            Where solves did not converge, by the solver's policy.
        """
        self._check()
        others, encoder = (y_src, y_tgt, pairs), getattr(self, "encoder", None)
        if X_tgt is None:
            task: Task = Task.course(X_src, *others, encoder=encoder)
        else:
            task = Task.of(cast(Any, X_src), X_tgt, *others, encoder=encoder)
        with self._claimed(task):
            is_doubtful = diagnostics.look_at(task)
            new = self._fitted(task)
        if not is_doubtful:  # else the cause has been named
            diagnostics.warn(new.report_)
        self.__dict__.update(vars(new))  # at once, whatever interrupts
        return self

    def _fitted(self, task: Task) -> Self:
        """Return a copy that is fitted to a task, with a report of the rows that it has not learnt from."""
        habits, (rng, sampler) = parameters.habits(self), parameters.rng_of(self).spawn(2)
        stream = Stream(None if self.random_state is None else sampler)
        kept = task.kept(rng, habits.condition_dropout)
        seen, unseen, n = trials.held_out(task, habits.held_out, rng)
        new = copy.copy(self)
        new.__dict__.update(_task=kept, _learnt=self._learn(seen, rng), _sampler=stream)
        new.report_.update(rows=min(task.sizes), held_out=n, **new._tried(trials.trials(unseen, task, rng)))  # noqa: SLF001  its own
        return new

    def _tried(self, stages: Sequence[Trial]) -> dict[str, float]:
        """Return how far what the model makes is from the target, at the worst stage."""
        frame, figures = self._task.frame, []
        for stage in stages:
            zs, gone = self._positions(stage.x, stage.c, Ask(stage.span))
            short = frame.origin(gone[-1]) - frame.origin(stage.span[1])  # of a flow that does not arrive
            figures.append(diagnostics.law(zs[-1] + short / frame.scale, stage))
        return diagnostics.worst(figures)

    def transform(
        self, X: ArrayLike, y: Known = None, *, guidance: float = 1.0, t0: Time | None = None, t1: Time | None = None
    ) -> Array:
        """Carry source samples to the target.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, …)
            New source samples.
        y : label, array-like of shape (n,) or (n, k), optional
            Conditions to carry them to, or one for all; unknown where it is left out.
        guidance : float
            w in v_∅ + w (v_c − v_∅): 1 follows the field of the condition, 0 that without conditions, and more
            exaggerates the condition, at twice the evaluations.
        t0, t1 : float, date or duration, optional
            Times of a time course, numbers or dates as in the fit: `X` lies at `t0` and is carried to `t1`; the first
            and the last by default.

        Returns
        -------
        array of the shape of `X`
            In the library, device and floating dtype of `X`.

        Raises
        ------
        ValueError
            On data of another width, a label that the model was not fitted with, or times out of range.
        """
        zs, gone = self._path_of(X, y, guidance, t0, t1)
        return self._in_form_of(X, self._task.frame.to_data(zs[-1], gone[-1]))

    def fit_transform(self, X: ArrayLike, y: ArrayLike | None = None, *, guidance: float = 1.0, **known: Any) -> Array:
        """Fit, and carry the source samples to the target: to their own conditions, where they have some.

        Parameters
        ----------
        X, y : array-like of shape (n, d) and (m, d), or (n, …) and (m, …)
            `X_src` and `X_tgt` of :meth:`fit`, by the names that scikit-learn has for them.
        guidance : float
            As in :meth:`transform`.
        **known
            `y_src`, `y_tgt` and `pairs` of :meth:`fit`.

        Returns
        -------
        array of the shape of `X`

        Raises
        ------
        ValueError
            On noise and time courses, which are no rows to carry, and what :meth:`fit` refuses.
        """
        if X is None or (y is None and not hasattr(X, "shape")):
            raise ValueError(
                "fit_transform needs source and target samples, (X_src, X_tgt): noise and a time course are no rows to "
                "carry. Call fit, and then sample or transform."
            )
        return self.fit(X, y, **known).transform(X, known.get("y_src"), guidance=guidance)

    def trajectory(
        self, X: ArrayLike, y: Known = None, *, guidance: float = 1.0, t0: Time | None = None, t1: Time | None = None
    ) -> Array:
        """Return the positions of source samples at the start and after every step, shape (k, n, d) or (k, n, …).

        The parameters are those of :meth:`transform`.
        """
        path = zip(*self._path_of(X, y, guidance, t0, t1), strict=True)
        return self._in_form_of(X, np.stack([self._task.frame.to_data(z, s) for z, s in path]))

    @plainly()
    def _path_of(
        self, X: ArrayLike, y: Known, guidance: float, t0: Time | None, t1: Time | None
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the positions of source samples in units, and which part of their way the means have gone at each."""
        check_is_fitted(self)
        span = self._task.span(t0, t1)
        x = self._read(X, span[0])
        self._task.check_guided(guidance)
        c = self._task.columns(y, len(x))
        return self._checked(*self._positions(x, c, Ask.of(guidance, c, span)))

    def _positions(self, x: np.ndarray, c: np.ndarray | None, ask: Ask) -> tuple[list[np.ndarray], np.ndarray]:
        zs = list(self._path(x, c, ask))
        return zs, self._gone(len(zs), ask)

    def _checked(self, zs: list[np.ndarray], gone: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return a path as it is, or raise where it leaves the numbers that a network computes with."""
        wrong = np.flatnonzero(~np.isfinite(zs[-1]).all(axis=1))
        if len(wrong):
            raise ValueError(
                f"{len(wrong)} of {len(zs[-1])} rows, the first of them {wrong[0]}, end beyond what float32 holds: "
                f"they lie too far from the samples of the fit, whose unit is {self.scale_:.3g}, or its field is "
                "not to be trusted: see report_. Drop those rows."
            )
        return zs, gone

    def _in_form_of(self, X: ArrayLike, z: np.ndarray) -> Array:
        """Return points of the flow (…, n, d) as data in the library and dtype of `X`."""
        return samples.in_form_of(X, self._task.codec.decoded(z), self._task.frame.shape)

    def _read(self, X: ArrayLike, s: float = 0.0) -> np.ndarray:
        """Return samples of the source, or of that part of a time course, as points of the flow in units."""
        check_is_fitted(self)
        self._check()  # some may be changed after fit
        x = samples.rows(X, "X", 1)
        samples.check_features(self, X)
        if len(self._task.codec.each) < 2:  # of a pair, the source has another space
            samples.same_shape(samples.shape_of(X), self._task.frame.shape, ("X", "the target of the fit"))
        return self._task.frame.to_unit(self._task.codec.encoded(x, 0), s)

    @plainly()
    def sample(
        self, n: int = 1, random_state: RandomState = None, *, y: Known = None, guidance: float = 1.0
    ) -> np.ndarray:
        """Draw `n` fresh points from the source and carry them to the target.

        Parameters
        ----------
        n : int
            Number of samples.
        random_state : int or numpy Generator, optional
            Fixes this call. By default every call gives fresh samples, in all threads and processes. In the process
            that fitted the model, they follow from its own `random_state`, call by call; a copy, a pickle, a model
            from a file and a forked process begin a stream of their own, which nothing repeats.
        y : label, array-like of shape (n,) or (n, k), optional
            Conditions of the samples, or one for all. Left out, they are unknown, or those of the source rows drawn
            where the model was fitted with `y_src`.
        guidance : float
            As in :meth:`transform`.

        Returns
        -------
        array of shape (n, d), or (n, …) in the shape of the target samples
        """
        check_is_fitted(self)
        self._check()
        _checks.count("n", n)
        rng = self._sampler() if random_state is None else as_rng(random_state)
        self._task.check_guided(guidance)
        x, c = self._task.draw(int(n), y, rng)
        zs, gone = self._checked(*self._positions(x, c, Ask.of(guidance, c)))
        made = self._task.codec.decoded(self._task.frame.to_data(zs[-1], gone[-1]))
        return made.reshape(int(n), *self._task.frame.shape)

    @plainly()
    def score(
        self,
        X: ArrayLike,
        X_tgt: ArrayLike | None = None,
        *,
        y: Known = None,
        guidance: float = 1.0,
        t0: Time | None = None,
        t1: Time | None = None,
        metric: "str | Distance" = "sinkhorn_divergence",
    ) -> float:
        """Return minus the distance of transform(X) to `X_tgt`: at most about zero, and larger is better.

        Scores on the same rows can be compared, whatever the parameters of the estimators.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n, …)
            Source samples.
        X_tgt : array-like of shape (m, d) or (m, …), optional
            Target samples; by default up to 2048 of those that the estimator was fitted on, of a time course from its
            last snapshot.
        y, guidance, t0, t1 : optional
            As in :meth:`transform`. All rows are compared at once, whatever their conditions.
        metric : str or callable
            ``"sinkhorn_divergence"``, in squared units of the data, with a blur of 0.05 of the spread of the target
            samples that it compares with; ``"wasserstein"`` and ``"sliced_wasserstein"``, in units of the data;
            ``"mmd"``, without a unit; ``"energy_distance"``, in the square root of the units: those of
            :mod:`nsgf.metrics`. Or a function of two arrays, (n, d) and (m, d), whose value is small where they are
            alike.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            On a metric that is not known, what :meth:`transform` refuses, target samples of other columns, or a `t1`
            before the last snapshot without `X_tgt`.
        """
        distance = distance_of(metric)
        zs, gone = self._path_of(X, y, guidance, t0, t1)
        target, made = self._targets(X, X_tgt, t0, t1), self._task.frame.to_data(zs[-1], gone[-1])
        return -float(distance(self._task.codec.decoded(made), target))

    def _targets(self, X: ArrayLike, X_tgt: ArrayLike | None, t0: Time | None, t1: Time | None) -> np.ndarray:
        """Return the samples that those carried from `X` are compared with, as rows in the units of the data."""
        task = self._task
        if X_tgt is not None:
            rows, shape = samples.rows(X_tgt, "X_tgt", 1), task.frame.shape
            of_source = [] if len(task.codec.each) > 1 else [task.features, X]  # those of a pair are others
            samples.same_columns(
                [samples.columns_of(z) for z in (*of_source, X_tgt)], "the samples of the fit, X and X_tgt"
            )
            check_widths(rows, np.empty((0, math.prod(shape))), ("X_tgt", "the target of the fit"))
            samples.same_shape(samples.shape_of(X_tgt), shape, ("X_tgt", "the target of the fit"))
            return rows
        if task.span(t0, t1)[1] != 1.0:
            raise ValueError(
                f"t1={t1!r} needs target samples of that time, score(X, X_tgt, t1={t1!r}): only those of the last "
                f"snapshot, at {task.calendar.shown(task.times[-1])}, are kept."
            )
        return task.codec.decoded(task.frame.to_data(task.target.rows))

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write the fitted model to one safetensors file: arrays and JSON, no code.

        Raises
        ------
        ValueError
            Where a parameter has no JSON form, such as a solver that is a plain function.
        OSError
            Where the directory is missing or full, or the file is read-only, a directory or a device. What stood there
            before stays whole.

        Notes
        -----
        A symbolic link stays one, and the file behind it is written, with the mode that it has.
        """
        check_is_fitted(self)
        _files.place(path)
        arrays = self._learnt.weights()
        given = {k: parameters.packed(k, v, arrays) for k, v in self.get_params(deep=False).items()}
        task = dataclasses.replace(self._task, codec=self._task.codec.kept())
        values = {"task": task, "learnt": self._learnt._replace(networks={})}
        values = {k: _io.pack(k, v, arrays) for k, v in values.items()}
        meta = {"class": type(self).__name__, "parameters": given} | values
        self._check_opens(path, arrays, meta)
        _io.write(path, arrays, meta)

    def _check_opens(self, path: "str | os.PathLike[str]", arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Raise where what is to be written would not open again, before the file that stands there is replaced."""
        each, form = self._task.codec.each, meta["parameters"].get("network")
        network = self.get_params()["network"] if isinstance(form, dict) and "module" in form else None
        is_own = any(isinstance(e, str) for e in self._task.codec.kept().each)
        encoder = (each if len(each) > 1 else each[0]) if is_own else None
        try:
            self._of_file(path, arrays, json.loads(json.dumps(meta, allow_nan=False)), network, encoder)
        except ValueError as error:
            raise ValueError(
                f"this model would not open again: {error.__cause__ or error}. Set back what was changed since fit, or "
                "fit again; nothing was written."
            ) from error

    @classmethod
    def load(cls, path: "str | os.PathLike[str]", *, network: nn.Module | None = None, encoder: Any = None) -> Self:
        """Read a model that :meth:`save` wrote; it opens on any machine, whatever device it was fitted on.

        Parameters
        ----------
        path : path-like
            The file.
        network : torch module, optional
            The architecture, where the model was fitted with a module of your own: a file holds no code.
        encoder : transformer, or pair of transformers, optional
            The fitted encoder, where it was one of your own.

        Raises
        ------
        OSError
            Where there is no such file (FileNotFoundError), or it may not be read.
        ValueError
            Where it is cut short, damaged, changed, or of another class, program or version.
        """
        return cls._of_file(path, *_io.read(path), network, encoder)

    @classmethod
    @plainly()
    def _of_file(
        cls,
        path: "str | os.PathLike[str]",
        arrays: dict[str, np.ndarray],
        meta: dict[str, Any],
        network: nn.Module | None,
        encoder: Any,
    ) -> Self:
        """Return the model of what was read from a file."""
        if meta.get("class") != cls.__name__:
            raise ValueError(f"{os.fspath(path)!r} holds a {meta.get('class')}, not a {cls.__name__}.")
        try:
            with seeded(0):
                task, learnt = (_io.unpack_as(kind, meta[k], arrays) for k, kind in _REMEMBERED.items())
                learnt.check_against(task)
                task = task.restored(encoder)
                given = parameters.unpacked(meta["parameters"], arrays, network, encoder)
                cls().set_params(**parameters.anywhere(given))._check()  # noqa: SLF001  its own
                model = cls().set_params(**given)
                learnt = learnt.with_weights(model._networks(task, seed=0), arrays)  # noqa: SLF001  its own
        except (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{os.fspath(path)!r} does not fit this version of nsgf; open it with the one that wrote it, or fit "
                f"again: {error}"
            ) from error
        except LookupError as error:
            raise ValueError(f"{os.fspath(path)!r} {error}") from None
        model.__dict__.update(_task=task, _learnt=learnt, _sampler=Stream())
        return model

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name; with `deep`, the fields of values too, as ``training__learning_rate``."""
        given = super().get_params(deep=False)
        values = given | ({"training": parameters.habits(self)} if "training" in given else {})
        return parameters.fields_of(values) | given if deep else given

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, or fields of values, as ``training__learning_rate``."""
        fields = {k: v for k, v in params.items() if "__" in k}
        given = {k: v for k, v in params.items() if k not in fields}
        now = super().get_params(deep=False) | given
        if now.get("training", self) is None:
            now["training"] = self._habits
        return super().set_params(**given | parameters.with_fields(now, fields))

    def _claimed(self, task: Task) -> contextlib.AbstractContextManager[None]:
        """Hold the directory; raise where the network does not fit the task, or the directory is another run's."""
        self._networks(task, seed=0)
        directory = parameters.habits(self).directory
        if directory is None:
            return contextlib.nullcontext()
        return _files.claimed(directory, parameters.key_of(self, task.fingerprint()))

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is something remembered."""
        return "_learnt" in vars(self)

    def __sklearn_tags__(self) -> Any:
        """Transport keeps the dtype; the second argument of fit is a sample, not labels."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
