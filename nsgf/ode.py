"""Explicit one-step methods for dx/dt = v(x, t).

Each step is a value: ``step(velocity, x, t, dt)`` returns the point a time `dt` later. ``NFE[step]`` is its number of
function evaluations. Every point may have times of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nsgf._arrays import Array

__all__ = ["NFE", "STEPS", "Step", "VelocityField", "euler", "heun", "integrate", "midpoint", "path", "rk4"]

VelocityField = Callable[[Array, Any], Array]  # (x, t) → v, t one time or times (n,)
Times = Sequence[float] | Array  # (k,), or (k, n) with the times of every point
Step = Callable[[VelocityField, Array, Any, Any], Array]


def euler(velocity: VelocityField, x: Array, t: float, dt: float) -> Array:
    """Return x + dt v(x, t); order 1."""
    return x + dt * velocity(x, t)


def midpoint(velocity: VelocityField, x: Array, t: float, dt: float) -> Array:
    """Return x + dt v(x + dt/2 v(x, t), t + dt/2); order 2."""
    return x + dt * velocity(x + dt / 2 * velocity(x, t), t + dt / 2)


def heun(velocity: VelocityField, x: Array, t: float, dt: float) -> Array:
    """Return x + dt/2 (v₁ + v₂) with v₂ at the Euler point; order 2."""
    v1 = velocity(x, t)
    v2 = velocity(x + dt * v1, t + dt)
    return x + dt / 2 * (v1 + v2)


def rk4(velocity: VelocityField, x: Array, t: float, dt: float) -> Array:
    """Return the classical Runge-Kutta step; order 4."""
    v1 = velocity(x, t)
    v2 = velocity(x + dt / 2 * v1, t + dt / 2)
    v3 = velocity(x + dt / 2 * v2, t + dt / 2)
    v4 = velocity(x + dt * v3, t + dt)
    return x + dt / 6 * (v1 + 2 * v2 + 2 * v3 + v4)


STEPS: dict[str, Step] = {step.__name__: step for step in (euler, midpoint, heun, rk4)}
NFE: dict[Step, int] = {euler: 1, midpoint: 2, heun: 2, rk4: 4}  # function evaluations a step


def path(velocity: VelocityField, x: Array, times: Times, step: Step = euler) -> Iterator[Array]:
    """Yield x at each of the `times`, the first as given; times as in :func:`integrate`.

    Examples
    --------
    >>> [float(x) for x in path(lambda x, t: x, 1.0, [0.0, 1.0, 2.0])]
    [1.0, 2.0, 4.0]
    """
    yield x
    if getattr(times[0], "ndim", 0):  # times of every point: columns, which broadcast over the features
        every: Array = times
        at, times = velocity, [t[:, None] for t in every]
        velocity = lambda x, t: at(x, t[:, 0])  # noqa: E731
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        x = step(velocity, x, t, t_next - t)
        yield x


def integrate(velocity: VelocityField, x: Array, times: Times, step: Step = euler) -> Array:
    """Return x at the last of the `times`.

    Parameters
    ----------
    velocity : callable
        v(x, t), from an (n, d) array and a time, or times (n,), to an (n, d) array.
    x : array of shape (n, d)
        Points at ``times[0]``.
    times : sequence of float, or array of shape (k, n)
        Increasing or decreasing; each interval is one step. An array holds the times of every point: from a start
        `tau` (n,) of its own to a common end, they are ``np.linspace(tau, 1.0, k)``.
    step : callable
        One of :func:`euler`, :func:`midpoint`, :func:`heun`, :func:`rk4`, or your own.

    Returns
    -------
    array of shape (n, d)

    Examples
    --------
    >>> import math
    >>> times = [k / 10 for k in range(11)]
    >>> abs(integrate(lambda x, t: x, 1.0, times, step=rk4) - math.e) < 1e-5
    True

    Two points that move with velocity 1, the second from half-time on:

    >>> import numpy as np
    >>> times = np.linspace([0.0, 0.5], 1.0, 4)
    >>> integrate(lambda x, t: np.ones_like(x), np.zeros((2, 1)), times).round(3)
    array([[1. ],
           [0.5]])
    """
    for x in path(velocity, x, times, step):  # noqa: B007, B020
        pass
    return x
