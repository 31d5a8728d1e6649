"""What a fit has learnt: networks, the story of their training, and how far they are to be trusted."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from nsgf import _io
from nsgf.field import Clock

__all__ = ["Learnt"]


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
    """

    networks: dict[str, nn.Module]
    history: dict[str, Any]
    report: dict[str, Any]
    n_iter: int
    blur: float
    clock: Clock

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the arrays and the JSON of a file."""
        curves = {k: v for k, v in self.history.items() if isinstance(v, np.ndarray)}
        arrays = {f"{name}.{k}": v.numpy() for name, net in self.networks.items() for k, v in net.state_dict().items()}
        seconds = {k: v for k, v in self.history.items() if k not in curves}
        meta = {"report": self.report, "n_iter": self.n_iter, "blur": self.blur, "clock": self.clock}
        return arrays | {f"history.{k}": v for k, v in curves.items()}, meta | {"history": seconds}

    @classmethod
    def of_state(cls, arrays: dict[str, np.ndarray], meta: dict[str, Any], networks: dict[str, nn.Module]) -> "Learnt":
        """Return what :meth:`state` described, with the weights loaded into untrained networks."""
        for name, net in networks.items():
            net.load_state_dict({k: torch.from_numpy(v) for k, v in _io.below(name, arrays).items()})
            net.eval()
        n_steps, length, snapshots = meta["clock"]
        clock = Clock(int(n_steps), float(length), tuple(map(float, snapshots)))
        history = meta["history"] | _io.below("history", arrays)
        return cls(networks, history, meta["report"], int(meta["n_iter"]), float(meta["blur"]), clock)
