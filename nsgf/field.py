"""A trained network as a function of arrays: guided by a condition, and followed in time."""

import copy
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
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
    """

    n_steps: int
    length: float
    snapshots: tuple[float, ...] = (0.0, 1.0)

    def check(self) -> None:
        """Raise where a file holds the times of no field."""
        _checks.count("n_steps", self.n_steps)
        _checks.positive("length", self.length, "5.0")
        _checks.rising("snapshots", self.snapshots)
        if (self.snapshots[0], self.snapshots[-1]) != (0.0, 1.0):
            raise ValueError(f"snapshots={self.snapshots} must go from 0 to 1.")


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
        """Return the field v_∅ + w (v_c − v_∅), as a function of x and t; the field itself without conditions."""
        if c is None:
            return self
        unknown = np.zeros_like(c)
        if w in (0.0, 1.0):
            return lambda x, t: self(x, t, c if w else unknown)

        def mixed(x: np.ndarray, t: "float | np.ndarray") -> np.ndarray:
            free = self(x, t, unknown)
            return free + np.float32(w) * (self(x, t, c) - free)

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

    parts = [np.linspace(t, later, n_steps + 1) for t, later in itertools.pairwise(snapshots)]
    grid = np.unique(np.concatenate(parts))
    inside = grid[(grid > span[0] + 1e-9) & (grid < span[1] - 1e-9)]
    return ode.path(velocity, x, [span[0], *inside.tolist(), span[1]])
