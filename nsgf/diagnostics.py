"""How far a fit can be trusted: gaps between velocities, what they mean, and when to warn.

Both gaps are root-mean-square distances of velocities that no network was trained on, relative to these velocities.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from nsgf import _checks
from nsgf._arrays import Array
from nsgf.matching import relative_error
from nsgf.minibatches import Problem
from nsgf.pool import Filled, Steps
from nsgf.sinkhorn import Velocity

__all__ = ["GAP_LIMIT", "REMEDIES", "held_out_gap", "minibatch_gap", "report", "warn"]

GAP_LIMIT = 0.5  # relative error of the field above which a fit warns
REMEDIES = {
    "regression_gap": "the field is far from velocities that it was not trained on. Raise max_iter or n_batches.",
    "minibatch_gap": "two minibatches disagree, so the flow is that of small samples. Raise batch_size or blur.",
}


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
    difference = size = 0.0
    for (x, v1), (_, v2) in zip(first, second, strict=True):
        difference += float(((v1.v - v2(x)) ** 2).sum())
        size += float((v1.v**2).sum())
    return (difference / size) ** 0.5 if size else 0.0


def held_out_gap(held_out: Iterable[tuple[Problem, Steps]]) -> float:
    """Return the minibatch gap of flows that were held out: of one span and label, each time, the first two."""
    alike: dict[Any, list[Steps]] = {}
    for p, steps in held_out:
        label = None if p.c is None or (p.c != p.c[0]).any() else p.c[0].tobytes()
        alike.setdefault((p.span, p.x.shape[1], label), []).append(steps)
    twice = [both for both in alike.values() if len(both) > 1]
    first, second = ([step for both in twice for step in both[i]] for i in (0, 1))
    return minibatch_gap(first, second)


def report(field: nn.Module, filled: Filled) -> dict[str, Any]:
    """Return the figures of a field that was matched to the velocities of a pool.

    Returns
    -------
    dict
        ``"max_error"`` and ``"converged"``: the certificate of the pool. ``"minibatch_gap"``: distance of two
        minibatches' velocities. ``"regression_gap"``: distance of the field to held-out velocities.
    """
    return {
        "max_error": filled.pool.error,
        "converged": filled.pool.converged,
        "minibatch_gap": held_out_gap(filled.held_out),
        "regression_gap": relative_error(field, filled.examples),
    }


def warn(figures: dict[str, Any]) -> None:
    """Warn of each figure of a report that is not to be trusted, with the remedy.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn({"regression_gap": 0.9, "minibatch_gap": 0.1})
    >>> len(caught)
    1
    """
    for gap, remedy in REMEDIES.items():
        if gap in figures and not figures[gap] <= GAP_LIMIT:  # NaN too
            _checks.warn(f"report_['{gap}'] is {figures[gap]:.2f}, more than {GAP_LIMIT} of the velocities: {remedy}")
