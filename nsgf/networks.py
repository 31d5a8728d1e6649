"""Velocity networks: torch modules called as ``net(x, t, c=None)`` with x (n, d) and t (n,)."""

import math

import torch
from torch import Tensor, nn

__all__ = ["MLP", "TimeEmbedding"]


class TimeEmbedding(nn.Module):
    """Cosines and sines of t at `n_frequencies` frequencies from π/4 to 16π: (n,) → (n, 2 n_frequencies)."""

    def __init__(self, n_frequencies: int = 8) -> None:
        super().__init__()
        frequencies = torch.logspace(-2.0, 4.0, n_frequencies, base=2.0) * math.pi
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Return the embedding of the times t (n,)."""
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class MLP(nn.Module):
    """The fully connected network of the paper: 3 hidden layers of 256 units by default, SiLU, time embedded.

    Parameters
    ----------
    n_features : int
        Width d of the rows.
    width : int
        Units of a hidden layer.
    depth : int
        Hidden layers.

    Examples
    --------
    >>> MLP(2)(torch.zeros(5, 2), torch.zeros(5)).shape
    torch.Size([5, 2])
    """

    def __init__(self, n_features: int, width: int = 256, depth: int = 3) -> None:
        super().__init__()
        self.time = TimeEmbedding()
        widths = [n_features + 2 * len(self.time.frequencies)] + depth * [width]
        layers: list[nn.Module] = []
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(n_in, n_out), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, n_features))

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """Return the velocity (n, d) at x (n, d) and t (n,); `c` is reserved for conditions."""
        return self.layers(torch.cat([x, self.time(t)], dim=1))
