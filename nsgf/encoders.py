"""Encoders: the space in which a flow lives, as transformers of scikit-learn that have an inverse."""

import inspect
import warnings
from typing import Any, NamedTuple

import numpy as np
from sklearn import decomposition, pipeline, preprocessing
from sklearn.base import clone

from nsgf import _checks, _io
from nsgf._arrays import as_points, to_numpy

_KEPT = {  # those that a file holds as data
    kind.__name__: kind
    for kind in (
        preprocessing.StandardScaler,
        preprocessing.MinMaxScaler,
        preprocessing.MaxAbsScaler,
        preprocessing.RobustScaler,
        preprocessing.QuantileTransformer,
        preprocessing.PowerTransformer,
        preprocessing.FunctionTransformer,
        decomposition.PCA,
        decomposition.TruncatedSVD,
        pipeline.Pipeline,
    )
}
_TRIED = 100  # rows that are sent through an encoder and back before any work
_LOSSY = 0.5  # of their deviation, that a trained encoder may misplace rows by


@_io.storable
class Kept(NamedTuple):
    """A transformer of scikit-learn, or a NumPy function in one, as data.

    Attributes
    ----------
    kind : str
        Name of the class; ``"ufunc"`` for a function.
    state : dict
        Its parameters and what it has learnt, or the name of the function.
    """

    kind: str
    state: dict[str, Any]


@_io.storable
class Codec(NamedTuple):
    """How rows of the data become points of the space of the flow, and back.

    Attributes
    ----------
    each : tuple of fitted transformers
        None where the flow lives among the data, one for both samples, or one for each.

    Examples
    --------
    >>> x, y = np.array([[0.0], [2.0]]), np.array([[4.0], [6.0]])
    >>> codec = Codec.of(preprocessing.MinMaxScaler(), x, y)
    >>> codec.encoded(x, 0).ravel().round(2), codec.decoded(np.array([[0.5]]))
    (array([0.  , 0.33]), array([[3.]]))
    """

    each: tuple[Any, ...] = ()

    @classmethod
    def of(cls, encoder: Any, *samples: "np.ndarray | None") -> "Codec":
        """Return the codec of `encoder`, fitted on the samples together, or for a pair on each; None is noise.

        Raises
        ------
        ValueError
            Where it cannot be fitted, or does not lead back to as many features.
        """
        if encoder is None:
            return cls()
        is_pair = isinstance(encoder, tuple | list)
        given = [z for z in samples if z is not None]
        if is_pair and len(given) != 2:
            raise ValueError("encoder is a pair, but there are not two samples (noise, a time course): give one.")
        parts = given if is_pair else [np.concatenate(given)]
        try:
            with np.errstate(divide="ignore", invalid="ignore"):  # of samples without variance; what is NaN is found
                fitted = (clone(e, safe=False).fit(z.copy(), None) for e, z in zip(_each(encoder), parts, strict=True))
                codec = cls(tuple(fitted))
                for e, z in zip(codec.each, parts, strict=True):
                    _try(e, z[:_TRIED])
        except Exception as error:
            raise ValueError(f"encoder={encoder!r} does not serve here: {error}") from error
        return codec

    def encoded(self, x: np.ndarray, end: int) -> np.ndarray:
        """Return rows of the source (`end` 0) or of the target (−1) as points of the flow, float64."""
        if not self.each:
            return x
        return _rows(self.each[end].transform(x.copy()), (len(x), None))  # which some write into

    def decoded(self, z: np.ndarray) -> np.ndarray:
        """Return points of the flow as rows of the target's data, float64."""
        if not self.each:
            return z
        flat = np.array(z.reshape(-1, z.shape[-1]))
        x = np.asarray(to_numpy(self.each[-1].inverse_transform(flat)), dtype=np.float64)
        if x.ndim != 2 or len(x) != len(flat):
            raise ValueError(f"encoder.inverse_transform gave shape {x.shape} for {flat.shape}; a row is to stay one.")
        wrong = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if len(wrong):
            _checks.warn(
                f"encoder.inverse_transform gave NaN or infinite values in {len(wrong)} of {len(x)} rows, the first of "
                f"them {wrong[0]}: they have no place among the data. Drop them, or give an encoder defined everywhere."
            )
        return x.reshape(*z.shape[:-1], -1)

    def kept(self) -> "Codec":
        """Return it with its transformers as data, and the name of one that has no such form."""
        return Codec(tuple(map(kept_or_named, self.each)))

    def restored(self, encoder: Any, widths: tuple[int, int], z: np.ndarray) -> "Codec":
        """Return what :meth:`kept` was, or that of the fitted `encoder` where one is given.

        Raises
        ------
        LookupError
            Where it had a transformer of the user's own, and none is given.
        ValueError
            Where it does not lead points z (k, d) of the flow to that many features of the data, and back.
        """
        own = [name for name in self.each if isinstance(name, str)]
        if own and encoder is None:
            raise LookupError(
                f"was fitted with an encoder of your own, {', '.join(own)}: give it, fitted: load(path, encoder=…)."
            )
        codec = Codec(tuple(map(restored, self.each)) if encoder is None else _each(encoder))
        for e, n in zip(codec.each, widths[-len(codec.each) :] if codec.each else (), strict=True):
            try:
                x = _rows(e.inverse_transform(z.copy()), (len(z), None))
                back = _rows(e.transform(x.copy()), (len(z), None))
            except Exception as error:
                raise ValueError(f"its encoder does not lead to {z.shape[1]} features and back: {error}") from error
            if x.shape[1] != n or back.shape != z.shape:
                raise ValueError(f"its encoder leads {n} features to {back.shape[1]}, but the flow has {z.shape[1]}")
        return codec


def check(encoder: Any) -> None:
    """Raise unless `encoder` is None, a transformer with an inverse, or a pair of such."""
    is_pair = isinstance(encoder, tuple | list)
    if is_pair and len(encoder) != 2:
        raise ValueError(f"encoder={encoder!r} must be one transformer, or a pair: of the source and of the target.")
    for e in () if encoder is None else _each(encoder):
        missing = [name for name in ("fit", "transform", "inverse_transform") if not hasattr(e, name)]
        if missing or isinstance(e, type):
            raise ValueError(
                f"encoder={e!r} must be a transformer with fit, transform and inverse_transform, such as "
                "sklearn.preprocessing.StandardScaler() or sklearn.decomposition.PCA(50)"
                + (f"; it has no {', '.join(missing)}." if missing else ".")
            )


def kept(value: Any) -> Any:
    """Return a transformer, and what it holds, as data; a LookupError that names what has no such form.

    Examples
    --------
    >>> restored(kept(preprocessing.StandardScaler(with_mean=False)))
    StandardScaler(with_mean=False)
    """
    if isinstance(value, np.ufunc):
        return Kept("ufunc", {"name": value.__name__})
    if _KEPT.get(type(value).__name__) is type(value):
        return Kept(type(value).__name__, {k: kept(v) for k, v in vars(value).items() if not k.startswith("_sklearn")})
    if isinstance(value, tuple | list):
        return type(value)(kept(v) for v in value)
    if isinstance(value, str | int | float | np.ndarray | np.generic | None):
        return value
    if isinstance(value, dict):
        return {k: kept(v) for k, v in value.items()}
    raise LookupError(type(value).__name__)


def kept_or_named(value: Any) -> Any:
    """Return a transformer as data, or the name of what in it has no such form."""
    try:
        return kept(value)
    except LookupError as error:
        return str(error.args[0])


def restored(value: Any) -> Any:
    """Return what :func:`kept` was given; nothing becomes an attribute that a fit would not have set."""
    if isinstance(value, tuple | list) and not isinstance(value, Kept):
        return type(value)(restored(v) for v in value)
    if not isinstance(value, Kept):
        return value
    if value.kind == "ufunc":
        function = getattr(np, str(value.state.get("name")), None)
        if not isinstance(function, np.ufunc):
            raise ValueError(f"{value.state.get('name')!r} is no function of NumPy")
        return function
    if value.kind not in _KEPT:
        raise ValueError(f"{value.kind!r} is no transformer that a file can hold")
    kind, state = _KEPT[value.kind], {k: restored(v) for k, v in value.state.items()}
    names = inspect.signature(kind).parameters
    made = kind(**{k: v for k, v in state.items() if k in names})
    learnt = {k: v for k, v in state.items() if k not in names}
    if learnt:
        _check_learnt(kind, learnt)
        made.__dict__.update(learnt)
    return made


def _check_learnt(kind: Any, learnt: dict[str, Any]) -> None:
    """Raise where a fit of that class sets no such attributes, or others in their place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few rows
        usual = vars(kind().fit(np.random.default_rng(0).normal(size=(8, 3))))
    for name, value in learnt.items():
        if name not in usual or (usual[name] is not None and value is not None and _form(value) != _form(usual[name])):
            raise ValueError(f"a {kind.__name__} has no {name} of that form")
        if isinstance(value, np.ndarray) and not np.isfinite(value).all():
            raise ValueError(f"{name} of a {kind.__name__} is not finite")


def _form(value: Any) -> Any:
    """Return what an attribute must have in common with a usual one."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind, value.ndim
    return "number" if isinstance(value, int | float | np.number) else type(value)


def _each(encoder: Any) -> tuple[Any, ...]:
    return tuple(encoder) if isinstance(encoder, tuple | list) else (encoder,)


def _try(e: Any, x: np.ndarray) -> None:
    """Raise where a transformer leads nowhere, and warn where its inverse does not lead back to where it leads."""
    z = _rows(e.transform(x.copy()), (len(x), None))
    again = _rows(e.transform(_rows(e.inverse_transform(z.copy()), x.shape)), z.shape)
    if np.linalg.norm(again - z) > _LOSSY * np.linalg.norm(z - z.mean(axis=0)):
        _checks.warn(
            f"encoder={e!r} has an inverse_transform that does not lead back: rows that it has decoded are encoded "
            "elsewhere, and samples are decoded as wrongly. Give a transformer with its inverse."
        )


def _rows(z: Any, shape: tuple[int, int | None]) -> np.ndarray:
    """Return what a transformer gave as finite rows of float64, of that shape."""
    z = np.array(to_numpy(as_points(z, "what the encoder gave")), dtype=np.float64)
    if z.shape != (shape[0], shape[1] or z.shape[1]):
        raise ValueError(f"the encoder gave shape {z.shape} in place of {(shape[0], shape[1] or 'any')}")
    return z
