"""What a fit has learnt: networks, the story of their training, and how far they are to be trusted."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from nsgf import _io
from nsgf.field import Clock


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
    """

    networks: dict[str, nn.Module]
    history: dict[str, Any]
    report: dict[str, Any]
    n_iter: int
    blur: float
    clock: Clock

    def weights(self) -> dict[str, np.ndarray]:
        """Return the arrays of the networks, by their names and those of the parameters."""
        states = {name: net.state_dict() for name, net in self.networks.items()}
        return {f"{name}.{k}": v.numpy() for name, state in states.items() for k, v in state.items()}

    def with_weights(self, networks: dict[str, nn.Module], arrays: dict[str, np.ndarray]) -> "Learnt":
        """Return the same with these networks, their weights taken from :meth:`weights`."""
        for name, net in networks.items():
            net.load_state_dict({k: torch.from_numpy(v) for k, v in _io.below(name, arrays).items()})
            net.eval()
        return self._replace(networks=networks)
