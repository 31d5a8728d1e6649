"""What a fit has learnt: networks, the story of their training, and how far they are to be trusted."""

from typing import Any, NamedTuple

import numpy as np
from torch import nn

from nsgf import _checks, _io
from nsgf.conditions import UNKNOWN, Moments
from nsgf.field import Clock
from nsgf.flow import Followed
from nsgf.networks import load_weights
from nsgf.task import Task


@_io.storable
class Learnt(NamedTuple):
    """What a fit has learnt.

    Attributes
    ----------
    networks : dict of torch modules
        By the names of the attributes of the estimator; on the CPU.
    history : dict
        Losses, validation figures and seconds.
    report : dict
        Figures that tell how far the networks are to be trusted.
    n_iter : int
        Optimisation steps done.
    blur : float
        The blur used, in the units of the data.
    clock : Clock
        The times of the velocity field.
    flows : tuple of Followed
        Particle flows that new points follow, where no network does.
    """

    networks: dict[str, nn.Module]
    history: dict[str, Any]
    report: dict[str, Any]
    n_iter: int
    blur: float
    clock: Clock
    flows: tuple[Followed, ...] = ()

    def weights(self) -> dict[str, np.ndarray]:
        """Return the arrays of the networks, by their names and those of the parameters."""
        states = {name: net.state_dict() for name, net in self.networks.items()}
        return {f"{name}.{k}": v.numpy() for name, state in states.items() for k, v in state.items()}

    def with_weights(self, networks: dict[str, nn.Module], arrays: dict[str, np.ndarray]) -> "Learnt":
        """Return the same with these networks, their weights taken from :meth:`weights`."""
        if not (networks or self.flows):
            raise ValueError("there is no network, and no flow in its place.")
        for name, net in networks.items():
            load_weights(net, _io.below(name, arrays))
            net.eval()
        return self._replace(networks=networks)

    def check(self) -> None:
        """Raise where a file holds what no fit learns; networks come after."""
        _checks.positive("blur", self.blur, "0.3")
        _checks.count("n_iter", self.n_iter, 0)
        if self.networks or not (_are_figures(self.history) and _are_figures(self.report)):
            raise ValueError("history and report must hold figures, and networks stand apart.")

    def check_against(self, task: Task) -> None:
        """Raise where it was learnt of another task."""
        if self.clock.snapshots != task.frame.times:
            raise ValueError(f"snapshots={self.clock.snapshots} are not the times of the task, {task.frame.times}.")
        if self.flows:
            _check_flows(self.flows, self.clock, task)


def _check_flows(flows: tuple[Followed, ...], clock: Clock, task: Task) -> None:
    """Raise where flows are not those of a task, or some are missing."""
    d, k = task.frame.origins.shape[1], len(task.kinds.shift) if isinstance(task.kinds, Moments) else 0
    for flow in flows:
        if flow.y.shape[1] != d + (k if flow.label is None else 0) or len(flow.rates) != clock.n_steps:
            raise ValueError(f"a flow of {len(flow.rates)} steps in {flow.y.shape[1]} dimensions is not of this task.")
    labels = {None} if task.kinds is None else {UNKNOWN, None} if k else {UNKNOWN}
    missing = {(t, label) for t in clock.snapshots[:-1] for label in labels} - {(f.span[0], f.label) for f in flows}
    if missing:
        raise ValueError(f"there is no flow that begins at time {min(t for t, _ in missing)} for some conditions.")


def _are_figures(value: object) -> bool:
    """Whether a value is numbers, arrays of them, or dictionaries and sequences of such."""
    if isinstance(value, dict | list | tuple):
        return all(map(_are_figures, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int | float | None) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub")
