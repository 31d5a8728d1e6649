"""The contract of every estimator: what `fit` remembers, and what can be asked of it.

``BaseFlow`` reads data, remembers and answers; a leaf says how its networks are learnt and how a point follows them.
Inside, data are centred and divided by their spread, so that every default is free of units.
"""

import abc
import os
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import nn

from nsgf import _checks, _io, diagnostics, samples
from nsgf._arrays import Array, check_widths
from nsgf.conditions import Pairs
from nsgf.estimators import parameters
from nsgf.estimators.parameters import Fitted, RandomState, as_rng
from nsgf.estimators.score import Distance, distance_of
from nsgf.learnt import Learnt
from nsgf.samples import Snapshots
from nsgf.task import Known, Task
from nsgf.training import Training


class Ask(NamedTuple):
    """What is asked of a path beside its start: the part of a time course, and the guidance."""

    span: tuple[float, float] = (0.0, 1.0)
    guidance: float = 1.0

    @classmethod
    def of(cls, guidance: object, c: np.ndarray | None, span: tuple[float, float] = (0.0, 1.0)) -> "Ask":
        """Return what is asked, or raise where the guidance is no number, or has no conditions to strengthen."""
        if not (isinstance(guidance, int | float | np.number) and np.isfinite(guidance)):
            raise ValueError(f"guidance={guidance!r} must be a number; 1.0 follows the conditional field.")
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

    random_state: RandomState
    _task: Task
    _learnt: Learnt
    _sampler: np.random.Generator  # of sample()

    n_features_in_ = Fitted[int](lambda self: self._task.features.n)
    feature_names_in_ = Fitted[np.ndarray](lambda self: self._task.features.columns)
    sample_shape_ = Fitted[tuple[int, ...]](lambda self: self._task.frame.shape)
    shift_ = Fitted[np.ndarray](lambda self: self._task.frame.shift)
    scale_ = Fitted[float](lambda self: self._task.frame.scale)
    condition_shift_ = Fitted[np.ndarray | None](lambda self: getattr(self._task.kinds, "shift", None))
    condition_scale_ = Fitted[np.ndarray | None](lambda self: getattr(self._task.kinds, "scale", None))
    classes_ = Fitted[tuple[Any, ...] | None](lambda self: getattr(self._task.kinds, "labels", None))
    times_ = Fitted[np.ndarray | None](lambda self: np.array(self._task.times) if self._task.times else None)
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

    @property
    @abc.abstractmethod
    def n_evaluations(self) -> int:
        """Function evaluations (NFE) of one point on its way; twice as many under a guidance other than 0 and 1."""

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
            With `NSGF` also a time course, ``{t: X_t}`` or a list of ``(t, X_t)``, without `X_tgt`: the field then
            carries each snapshot to the next.
        X_tgt : array-like of shape (m, d) or (m, …)
            Target samples: points, never labels. NumPy, CuPy or torch arrays, lists, pandas or polars frames. Images
            have shape (m, c, h, w) or (m, h, w), in any units.
        y_src, y_tgt : array-like of shape (n,) and (m,), or (n, k) and (m, k), `Labels` or `Numbers`, optional
            Conditions of the samples. One dimension means labels, of any hashable kind: mass stays within a label.
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
        others = (y_src, y_tgt, pairs)
        task: Task = Task.course(X_src, *others) if X_tgt is None else Task.of(cast(Any, X_src), X_tgt, *others)
        self._claim(task)
        rng, sampler = as_rng(self.random_state).spawn(2)
        kept = task.kept(rng)
        learnt = self._learn(task, rng)
        diagnostics.warn(learnt.report)
        self.__dict__.update(_task=kept, _learnt=learnt, _sampler=sampler)  # at once, whatever interrupts
        return self

    def transform(
        self, X: ArrayLike, y: Known = None, *, guidance: float = 1.0, t0: float | None = None, t1: float | None = None
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
        *_, z = self._path_of(X, y, guidance, t0, t1)
        return samples.in_form_of(X, self._task.frame.to_data(z))

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
        self, X: ArrayLike, y: Known = None, *, guidance: float = 1.0, t0: float | None = None, t1: float | None = None
    ) -> Array:
        """Return the positions of source samples at the start and after every step, shape (k, n, d) or (k, n, …).

        The parameters are those of :meth:`transform`.
        """
        z = np.stack(list(self._path_of(X, y, guidance, t0, t1)))
        return samples.in_form_of(X, self._task.frame.to_data(z))

    def _path_of(
        self, X: ArrayLike, y: Known, guidance: float, t0: float | None, t1: float | None
    ) -> Iterator[np.ndarray]:
        x = self._read(X)
        c = self._task.columns(y, len(x))
        return self._path(x, c, Ask.of(guidance, c, self._task.span(t0, t1)))

    def _read(self, X: ArrayLike) -> np.ndarray:
        """Return new source samples as rows in units."""
        check_is_fitted(self)
        self._check()  # some may be changed after fit
        x = samples.rows(X, "X", 1)
        samples.check_features(self, X)
        return self._task.frame.to_unit(x)

    def sample(
        self, n: int = 1, random_state: RandomState = None, *, y: Known = None, guidance: float = 1.0
    ) -> np.ndarray:
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
        guidance : float
            As in :meth:`transform`.

        Returns
        -------
        array of shape (n, d), or (n, …) in the shape of the target samples
        """
        check_is_fitted(self)
        self._check()
        _checks.count("n", n)
        rng = self._sampler if random_state is None else as_rng(random_state)
        x, c = self._task.draw(int(n), y, rng)
        *_, z = self._path(x, c, Ask.of(guidance, c))
        return self._task.frame.to_data(z).reshape(int(n), *self._task.frame.shape)

    def score(
        self,
        X: ArrayLike,
        X_tgt: ArrayLike | None = None,
        *,
        y: Known = None,
        guidance: float = 1.0,
        t0: float | None = None,
        t1: float | None = None,
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
        path = self._path_of(X, y, guidance, t0, t1)
        target = self._targets(X, X_tgt, t0, t1)
        *_, z = path
        return -float(distance(self._task.frame.to_data(z), target))

    def _targets(self, X: ArrayLike, X_tgt: ArrayLike | None, t0: float | None, t1: float | None) -> np.ndarray:
        """Return the samples that those carried from `X` are compared with, as rows in the units of the data."""
        task = self._task
        if X_tgt is not None:
            rows = samples.rows(X_tgt, "X_tgt", 1)
            samples.same_columns([task.features, X, X_tgt], "the samples of the fit, X and X_tgt")
            check_widths(rows, task.target.rows, ("X_tgt", "the target of the fit"))
            return rows
        if task.span(t0, t1)[1] != 1.0:
            raise ValueError(
                f"t1={t1!r} needs target samples of that time, score(X, X_tgt, t1={t1!r}): only those of the last "
                f"snapshot, at {task.times[-1]:g}, are kept."
            )
        return task.frame.to_data(task.target.rows)

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write the fitted model to one safetensors file: arrays and JSON, no code.

        Raises
        ------
        ValueError
            Where a parameter has no JSON form, such as a solver that is a plain function.
        """
        check_is_fitted(self)
        arrays = self._learnt.weights()
        given = {k: parameters.packed(k, v, arrays) for k, v in self.get_params(deep=False).items()}
        values = {"task": self._task, "learnt": self._learnt._replace(networks={})}
        values = {k: _io.pack(k, v, arrays) for k, v in values.items()}
        _io.write(path, arrays, {"class": type(self).__name__, "parameters": given} | values)

    @classmethod
    def load(cls, path: "str | os.PathLike[str]", *, network: nn.Module | None = None) -> Self:
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
            with torch.random.fork_rng(devices=[]):
                model = cls().set_params(**parameters.unpacked(meta["parameters"], arrays, network))
                task, learnt = (_io.unpack(meta[k], arrays) for k in ("task", "learnt"))
                learnt = learnt.with_weights(model._networks(task, seed=0), arrays)  # noqa: SLF001  its own
                sampler = as_rng(model.random_state).spawn(2)[1]
        except (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)!r} does not fit this version of nsgf: {error}") from error
        except LookupError as error:
            raise ValueError(f"{os.fspath(path)!r} {error}") from None
        model.__dict__.update(_task=task, _learnt=learnt, _sampler=sampler)
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
            now["training"] = Training()
        return super().set_params(**given | parameters.with_fields(now, fields))

    def _claim(self, task: Task) -> None:
        """Raise where the network does not fit the task, or the directory is another run's."""
        self._networks(task, seed=0)
        directory = parameters.habits(self).directory
        if directory is not None:
            _io.claim(directory, parameters.key_of(self, task.fingerprint()))

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is something remembered."""
        return "_learnt" in vars(self)

    def __sklearn_tags__(self) -> Any:
        """Transport keeps the dtype; the second argument of fit is a sample, not labels."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
