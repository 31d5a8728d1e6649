"""A trained network as a function of arrays: guided by a condition, and followed in time."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from nsgf import _checks, _io, matching, ode


@_io.storable
class Clock(NamedTuple):
    """The times of a field.

    Attributes
    ----------
    n_steps : int
        Steps K from each snapshot to the next, on which the field was trained.
    length : float
        Total length of those steps: K times the step size.
    snapshots : tuple of float
        Times from 0 to 1 between which the flow begins anew; (0, 1) without a time course.
    left : tuple of float, of length K + 1
        How much of the distance between the means is left before each step, and after the last.

    Examples
    --------
    >>> clock = Clock.of((0.5, 0.5), 1.0)
    >>> clock.left, clock.gone(np.array([0.0, 0.5, 0.75, 1.0]))
    ((1.0, 0.5, 0.25), array([0.   , 0.5  , 0.625, 0.75 ]))
    """

    n_steps: int
    length: float
    snapshots: tuple[float, ...] = (0.0, 1.0)
    left: tuple[float, ...] = (1.0, 0.0)

    @classmethod
    def of(cls, step_sizes: Sequence[float], length: float, snapshots: tuple[float, ...] = (0.0, 1.0)) -> "Clock":
        """Return the clock of steps of those sizes: each takes its part of the distance that is left."""
        left = np.cumprod([1.0, *(1.0 - eta for eta in step_sizes)])
        return cls(len(step_sizes), length, snapshots, tuple(left.tolist()))

    def times(self, n_steps: int, span: tuple[float, float] = (0.0, 1.0)) -> list[float]:
        """Return the times of `n_steps` steps from each snapshot to the next, within a span."""
        parts = [np.linspace(t, later, n_steps + 1) for t, later in itertools.pairwise(self.snapshots)]
        grid = np.unique(np.concatenate(parts))
        inside = grid[(grid > span[0] + 1e-9) & (grid < span[1] - 1e-9)]
        return [span[0], *inside.tolist(), span[1]]

    def gone(self, t: ArrayLike) -> np.ndarray:
        """Return which part of their way the means have gone at the times t, from 0 to 1."""
        t, snapshots = np.asarray(t), np.array(self.snapshots)
        j = np.clip(np.searchsorted(snapshots, t, side="right") - 1, 0, len(snapshots) - 2)
        length = snapshots[j + 1] - snapshots[j]
        part = np.interp((t - snapshots[j]) / length, np.linspace(0, 1, len(self.left)), self.left)
        return snapshots[j] + length * (1.0 - part)

    def check(self) -> None:
        """Raise where a file holds the times of no field."""
        _checks.count("n_steps", self.n_steps)
        _checks.positive("length", self.length, "5.0")
        _checks.rising("snapshots", self.snapshots)
        if (self.snapshots[0], self.snapshots[-1]) != (0.0, 1.0):
            raise ValueError(f"snapshots={self.snapshots} must go from 0 to 1.")
        _checks.array("left", np.array(self.left), (self.n_steps + 1,))


class Field:
    """A network as a function of NumPy arrays, on a device.

    Parameters
    ----------
    net : torch module
        Called as ``net(x)``, ``net(x, t)`` or ``net(x, t, c)``; it is copied where it lies elsewhere.
    device : str
        Where it is evaluated.

    Examples
    --------
    >>> from nsgf.networks import MLP
    >>> field = Field(MLP(2, n_conditions=1))
    >>> x, c = np.zeros((3, 2), np.float32), np.ones((3, 1), np.float32)
    >>> free, known = field.guided(c, 0.0)(x, 0.5), field.guided(c, 1.0)(x, 0.5)
    >>> bool(np.allclose(field.guided(c, 2.0)(x, 0.5), 2 * known - free, atol=1e-6))
    True
    """

    def __init__(self, net: nn.Module, device: str = "cpu") -> None:
        self.net = net if matching.device_of(net).type == device else copy.deepcopy(net).to(device)

    def __call__(self, x: np.ndarray, *given: "float | np.ndarray") -> np.ndarray:
        """Return the value at x (n, d); times are one or (n,), conditions (n, k)."""
        return matching.evaluate(self.net, x, *given)

    def guided(self, c: np.ndarray | None, w: float = 1.0) -> ode.VelocityField:
        """Return the field under conditions, as :func:`guided` does."""
        return guided(self, c, w)


def guided(field: Callable[..., np.ndarray], c: np.ndarray | None, w: float = 1.0) -> ode.VelocityField:
    """Return v_∅ + w (v_c − v_∅) of a field v(x, t, c), as a function of x and t; the field itself without conditions.

    Conditions c are (n, k), unknown where a row is zero.
    """
    if c is None:
        return field
    unknown = np.zeros_like(c)
    if w in (0.0, 1.0):
        return lambda x, t: field(x, t, c if w else unknown)

    def mixed(x: np.ndarray, t: "float | np.ndarray") -> np.ndarray:
        free = field(x, t, unknown)
        return free + np.float32(w) * (field(x, t, c) - free)

    return mixed


def follow(
    field: ode.VelocityField, x: np.ndarray, clock: Clock, n_steps: int, span: tuple[float, float] = (0.0, 1.0)
) -> Iterator[np.ndarray]:
    """Yield x along a field, read as an ODE on [0, 1]: dx/dt = K η v(x, t), constant in t between the K steps.

    In a time course this holds between each snapshot and the next. `n_steps` other than K takes other steps of the same
    total length.

    Examples
    --------
    >>> [x.item() for x in follow(lambda x, t: np.ones_like(x), np.zeros((1, 1)), Clock(2, 1.0), 2)]
    [0.0, 0.5, 1.0]
    """
    K, snapshots = clock.n_steps, clock.snapshots

    def velocity(x: np.ndarray, t: float) -> np.ndarray:
        j = min(int(np.searchsorted(snapshots, t + 1e-9, side="right")), len(snapshots) - 1) - 1
        length = snapshots[j + 1] - snapshots[j]
        step = math.floor((t - snapshots[j]) / length * K + 1e-6)
        return clock.length / length * field(x, snapshots[j] + length * step / K)

    return ode.path(velocity, x, clock.times(n_steps, span))
