"""How far a fit can be trusted: figures of laws, gaps between velocities, and when to warn.

A model carries rows of the source that were held out, and the law of what it makes is compared with rows of the target
that were held out. The gaps are root-mean-square distances of velocities that no network was trained on, relative to
these velocities, which do not contain the way of the mean; they say where an error comes from.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from nsgf import _checks, metrics
from nsgf._arrays import Array
from nsgf.conditions import Classes
from nsgf.matching import relative_error
from nsgf.minibatches import Problem, Side
from nsgf.pool import Filled, Steps
from nsgf.sinkhorn import Velocity
from nsgf.task import Task
from nsgf.trials import Trial

_FAR_SHARE, _FEW_ROWS = 0.9, 10  # of the variance, in a hundredth of at least so many rows
_NARROW, _LOST = 1e-2, 1e-3  # of the widest feature: narrower ones are of the size of a field's error, or lost in it
_MANY = 0.2  # of the features: fewer of them that are narrow, as pixels at the edge, may be
_MISFIT, _MISFITS, _ABSURD = 1.5, 0.5, 5.0  # factor between deviations of half of the features, and of any
_WIDER, _CHANCE, _UNTOLD = 1.8, 3.0, 0.2  # factor of all features together; what is beyond chance, and all chance
_SURE, _DISCREPANCY = 0.01, 0.015  # level of the two-sample test, and the least MMD² of account
_PART = 0.1  # of the rows: modes of more are seen by themselves
_WIDTHS = ("width", "least_width", "greatest_width")
_OF_LAW = ("mmd2", "mmd2_noise", "p_value", "width_noise", "misfits", *_WIDTHS)
_GAP = 0.5  # gaps between velocities that point to a cause
_ROWS, _SPREADS = 200, 0.35  # few rows, and the spreads by which two minibatches differ too much

__all__ = ["held_out_gap", "law", "look_at", "minibatch_gap", "remedy", "report", "symptoms", "warn", "worst"]


def minibatch_gap(first: Iterable[tuple[Array, Velocity]], second: Iterable[tuple[Array, Velocity]]) -> float:
    """Return how far two minibatches' velocities are from each other, relative to the velocities themselves.

    At every step, both are read at the first one's particles: √(E|v₁ − v₂|² / E|v₁|²).

    Parameters
    ----------
    first, second : iterables of (x, Velocity)
        The steps of two flows, such as :func:`nsgf.flow.flow_steps` yields.

    Examples
    --------
    >>> import numpy as np
    >>> from nsgf import sinkhorn_velocity
    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> one, other = (sinkhorn_velocity(x, x + [c, 0.0], blur=0.5) for c in (1.0, 3.0))
    >>> round(minibatch_gap([(x, one)], [(x, other)]), 2)
    2.0
    """
    difference, size = _squares(first, second)
    return float((difference / size) ** 0.5) if size else 0.0


def _squares(
    first: Iterable[tuple[Array, Velocity]], second: Iterable[tuple[Array, Velocity]], n_fixed: int = 0
) -> np.ndarray:
    """Return Σ|v₁ − v₂|² and Σ|v₁|², without the last coordinates, which do not move."""
    found = np.zeros(2)
    for (x, v1), (_, v2) in zip(first, second, strict=True):
        d = x.shape[-1] - n_fixed
        found += [float(((v1.v - v2(x))[..., :d] ** 2).sum()), float((v1.v[..., :d] ** 2).sum())]
    return found


def held_out_gap(held_out: Iterable[tuple[Problem, Steps]]) -> tuple[float, float]:
    """Return the minibatch gap of flows that were held out, and the mean difference of a coordinate that it is made of.

    Of one span and label, each time, the first two are compared.
    """
    alike: dict[Any, list[tuple[Problem, Steps]]] = {}
    for p, steps in held_out:
        alike.setdefault((p.span, p.n_fixed, p.label), []).append((p, steps))
    twice = [both[:2] for both in alike.values() if len(both) > 1]
    squares = np.zeros(2) + sum(_squares(steps, other, p.n_fixed) for (p, steps), (_, other) in twice)
    n = sum((p.x.shape[-1] - p.n_fixed) * len(p.x) * len(steps) for (p, steps), _ in twice)
    return float((squares[0] / squares[1]) ** 0.5) if squares[1] else 0.0, float((squares[0] / max(n, 1)) ** 0.5)


def report(field: nn.Module, filled: Filled) -> dict[str, Any]:
    """Return the figures of a field that was matched to the velocities of a pool.

    Returns
    -------
    dict
        ``"max_error"`` and ``"converged"``: the certificate of the pool. ``"minibatch_gap"``: distance of two
        minibatches' velocities, and ``"minibatch_error"``: the same in units of the spread. ``"regression_gap"``:
        distance of the field to held-out velocities.
    """
    gap, error = held_out_gap(filled.held_out)
    return {
        "max_error": filled.pool.error,
        "converged": filled.pool.converged,
        "minibatch_gap": gap,
        "minibatch_error": error,
        "regression_gap": relative_error(field, filled.examples),
    }


def law(made: np.ndarray, trial: Trial) -> dict[str, float]:
    """Return how far the law of what a model makes of a trial is from that of its target.

    Parameters
    ----------
    made : array of shape (n, d)
        Where the points of the trial have been carried.
    trial : Trial
        With the target and the conditions.

    Returns
    -------
    dict
        ``"mmd2"``, ``"mmd2_noise"`` and ``"p_value"``: :func:`nsgf.metrics.two_sample_test` of the two, jointly with
        their conditions. ``"width"``: deviation of what is made, relative to that of the target; ``"width_noise"``: the
        deviation of its logarithm at equal laws; ``"least_width"`` and ``"greatest_width"``: the width of the feature
        where it is least and greatest; ``"misfits"``: the fraction of the features where it is below ⅔ or above 1½,
        and more so than by chance. With labels, rows are seen from the mean of their label in the target. Features
        that vary in few rows are left out of the last three, and so are a few that are a hundred times narrower than
        the widest.

    Examples
    --------
    >>> x, none = np.random.default_rng(0).normal(size=(200, 2)), np.zeros((200, 0))
    >>> figures = law(0.5 * x, Trial(x, None, x, (0.0 * x, 0.0 * x), (x - x.mean(axis=0)) ** 2, (none, none)))
    >>> round(figures["width"], 2), figures["p_value"] < 0.01
    (0.5, True)
    """
    if not np.isfinite(made).all():  # a warning will say so; what was learnt is kept
        return dict.fromkeys(_OF_LAW, float("nan"))
    made, real = made - trial.centres[0], trial.y - trial.centres[1]
    wanted, got = trial.squares, (made - made.mean(axis=0)) ** 2
    unit = float((2.0 * wanted.mean(axis=0).sum()) ** 0.5) or 1.0  # root-mean-square distance of two rows of one label
    made, real = (np.hstack(z) for z in zip((made, real), trial.lifts, strict=True))
    near = _within_modes(real) or 0.25 * unit
    test = metrics.two_sample_test(made, real, lengths=(near, 2.0 * near, unit))
    (width,), (width_noise,) = _widths(got.sum(axis=1, keepdims=True), wanted.sum(axis=1, keepdims=True))
    ratio, noise = _widths(got, wanted)
    narrow = wanted.mean(axis=0) < _NARROW**2 * wanted.mean(axis=0).max()
    told = (noise < _UNTOLD) & ~(narrow & (narrow.mean() <= _MANY))
    ratio, noise = ratio[told], noise[told]
    return {
        "mmd2": test.statistic,
        "mmd2_noise": test.noise,
        "p_value": test.p_value,
        "width": float(width),
        "width_noise": float(width_noise) if np.isfinite(width_noise) else 0.0,
        "least_width": float(ratio.min()) if len(ratio) else 1.0,
        "greatest_width": float(ratio.max()) if len(ratio) else 1.0,
        "misfits": float(np.mean(_is_off(ratio, _MISFIT, noise))) if len(ratio) else 0.0,
    }


def _within_modes(y: np.ndarray) -> float:
    """Return how far the nearest tenth of all rows reaches from a row, in the median: not beyond its mode."""
    from scipy.spatial.distance import cdist

    return float(np.median(np.quantile(cdist(y, y), _PART, axis=1)))


def _widths(got: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return √(E got / E wanted) of squares (n, d) and (m, d), and the deviation of its logarithm at equal laws.

    What does not vary is 1, and not told.
    """
    mean, n = wanted.mean(axis=0), 1.0 / (1.0 / len(got) + 1.0 / len(wanted))
    varies = mean > 1e-14 * mean.max()
    mean = np.where(varies, mean, 1.0)
    ratio = np.sqrt(got.mean(axis=0) / mean), 0.5 * wanted.std(axis=0) / mean / n**0.5
    return np.where(varies, ratio[0], 1.0), np.where(varies, ratio[1], np.inf)


def _is_off(ratio: ArrayLike, factor: float, noise: ArrayLike) -> np.ndarray:
    """Return where a ratio of deviations is beyond a factor, either way, and beyond chance, or no number."""
    with np.errstate(divide="ignore"):
        return ~(np.abs(np.log(ratio)) <= np.maximum(np.log(factor), _CHANCE * np.asarray(noise)))


def worst(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the figures of the stage whose law is farthest from its target, of those that are not to be trusted."""

    def badness(stage: dict[str, float]) -> tuple[bool, float]:
        bad = stage["mmd2"] + abs(np.log(max(stage["width"], 1e-300)))
        return bool(symptoms(stage)), float(bad) if np.isfinite(bad) else np.inf

    return max(figures, key=badness)


def look_at(task: Task) -> bool:
    """Warn of samples in which a few rows or features are all that a flow can see; return whether there are such.

    Examples
    --------
    >>> import warnings
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     _ = look_at(Task.of(x, x * [1.0, 1e6]))
    >>> str(caught[0].message)[:60]
    'X_src and X_tgt have features of very different spread: feat'
    """
    course = [
        (f"X_src at time {task.calendar.shown(t)}", Side(x)) for t, x in zip(task.times, task.snapshots, strict=True)
    ]
    ends = [(name, side) for name, side in (("X_src", task.source), ("X_tgt", task.target)) if side.x is not None]
    given = course or ends
    within = [_within_labels(side, task) for _, side in given]
    found = [_far_rows(name, side.rows) for name, side in given]
    found += [_far_labels(name, side, square) for (name, side), square in zip(given, within, strict=True)]
    widths = np.sqrt(np.mean(within, axis=0))
    found += [_narrow_features(" and ".join(name for name, _ in given), widths, task)]
    for text in filter(None, found):
        _checks.warn(text)
    return any(found)


def _within_labels(side: Side, task: Task) -> np.ndarray:
    """Return the variance (d,) of every feature, within labels where there are some."""
    x, is_labelled = side.rows, isinstance(task.kinds, Classes) and side.known is not None
    group = np.unique(side.codes, return_inverse=True)[1] if is_labelled else np.zeros(len(x), int)
    means = np.stack([x[group == k].mean(axis=0, dtype=np.float64) for k in range(group.max() + 1)])
    return np.mean((x - means[group]) ** 2, axis=0)


def _far_labels(name: str, side: Side, within: np.ndarray) -> str:
    total = float(side.rows.var(axis=0, dtype=np.float64).sum())
    if not 0 < within.sum() < _NARROW**2 * total:
        return ""
    share = (within.sum() / total) ** 0.5
    return (
        f"{name} has labels that lie far from each other: the rows of one label have {share:.2g} of "
        "the spread of all, and would be one point to the field. Fit each label by itself."
    )


def _far_rows(name: str, x: np.ndarray) -> str:
    z = x - np.median(x, axis=0)
    squares = np.einsum("ij,ij->i", z, z, dtype=np.float64)  # without a copy of all rows in float64
    far = np.argsort(squares)[::-1][: max(1, len(x) // 100)]
    far = far[squares[far] > 0.01 * squares[far[0]]]
    share = squares[far].sum() / max(squares.sum(), 1e-300)
    if share <= _FAR_SHARE or len(x) < _FEW_ROWS:
        return ""
    shown = ", ".join(map(str, sorted(far[:5].tolist()))) + (", …" if len(far) > 5 else "")
    return (
        f"{name} has {len(far)} of {len(x)} rows far from all others, with {share:.1%} of its variance: rows {shown}. "
        "The unit of length, the blur and the field are theirs; the others are one point to it. Drop or clip them."
    )


def _narrow_features(name: str, widths: np.ndarray, task: Task) -> str:
    varies = widths > 1e-7 * widths.max()
    narrow = np.flatnonzero(varies & (widths < _NARROW * widths.max()))
    is_lost = bool((widths[narrow] < _LOST * widths.max()).any())
    if len(task.shape) > 1 or not (is_lost or len(narrow) > _MANY * varies.sum()):
        return ""
    names = task.features.names
    shown = [f"feature {i}" if names is None or task.codec.each else repr(names[i]) for i in narrow[:5]]
    return (
        f"{name} have features of very different spread: {', '.join(shown)}{', …' if len(narrow) > 5 else ''} "
        f"{'has' if len(narrow) == 1 else 'have'} less than {_NARROW:g} of that of the widest, and would be lost in "
        "the error of the field. Give them one unit, such as by encoder=sklearn.preprocessing.StandardScaler()."
    )


def symptoms(figures: dict[str, Any]) -> dict[str, str]:
    """Return the figures of a report that are not to be trusted, and what each says; the gravest first."""
    unknown = {k: "not a number" for k, v in figures.items() if isinstance(v, float) and not np.isfinite(v)}
    found = {}
    law_is_other = figures.get("p_value", 1.0) < _SURE and figures["mmd2"] > _DISCREPANCY
    width, least, greatest = (figures.get(k, 1.0) for k in _WIDTHS)
    if _is_off(width, _WIDER, figures.get("width_noise", 0.0)):
        found["width"] = f"what is made is {width:.2g} times as wide as the target"
    if figures.get("misfits", 0.0) >= _MISFITS or not 1 / _ABSURD < least <= greatest < _ABSURD:
        found["misfits"] = f"features are from {least:.2g} to {greatest:.2g} times as wide as the target's"
    if law_is_other:
        found["mmd2"] = f"what is made has another law than the target, p = {figures['p_value']:.2g}"
    if figures.get("rows", _ROWS) < _ROWS and figures.get("minibatch_error", 0.0) > _SPREADS:
        found["minibatch_error"] = (
            "two halves of the samples disagree by so much of their spread, so new rows will go wrong"
        )
    return unknown | {k: text for k, text in found.items() if k not in unknown}


def remedy(figures: dict[str, Any]) -> str:
    """Return what is to be changed, by the gaps: the field, the minibatches, or the flow itself."""
    if "velocity" in figures:  # of one map, which has no steps
        return "The map is not learnt yet: raise max_iter or batch_size, or change the learning rate."
    regression, minibatch = figures.get("regression_gap", 0.0), figures.get("minibatch_gap", 0.0)
    if not regression <= max(_GAP, minibatch):
        return "The field is far from velocities that it was not trained on: raise max_iter or n_batches."
    if figures.get("rows", _ROWS) < _ROWS:
        return "There are too few rows: give more, or raise blur."
    if minibatch > _GAP and figures.get("minibatch_error", np.inf) > _SPREADS:
        return "Two minibatches disagree, so the flow is that of small samples: raise batch_size or blur."
    return "The flow itself stops there: raise n_steps or step_size, or lower blur; of mixed units, see encoder."


def warn(figures: dict[str, Any]) -> None:
    """Warn where a report says that the law of what is made is wrong, with the remedy that its gaps point to.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn({"width": 0.3, "regression_gap": 0.9, "minibatch_gap": 0.1})
    >>> str(caught[0].message)
    "report_['width'] is 0.3: what is made is 0.3 times as wide as the target. The field is far ... n_batches."
    """
    for name, says in itertools.islice(symptoms(figures).items(), 1):  # one cause, one remedy
        _checks.warn(f"report_['{name}'] is {figures[name]:.2g}: {says}. {remedy(figures)}")
