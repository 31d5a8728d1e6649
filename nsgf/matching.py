r"""Velocity-field matching: the one training loop.

.. math::  \min_\theta \; \mathbb{E}\, |v_\theta(x, t) - v|^2

over the batches that ``draw()`` returns (NSGF, eq. 16). A stored pool, a streamed pool and straight lines differ only
in their ``draw``.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from nsgf._arrays import to_torch

__all__ = ["Draw", "evaluate", "train"]

Draw = Callable[[], tuple[np.ndarray, np.ndarray, np.ndarray]]  # () -> t (n,), x (n, d), v (n, d)
_CHUNK = 16384  # rows that one forward pass takes at prediction: bounds memory


def train(
    net: nn.Module, draw: Draw, n_iter: int, learning_rate: float, ema_decay: float = 0.999, progress: Any = iter
) -> tuple[nn.Module, np.ndarray]:
    """Match `net` to the batches; return the moving average of its weights, and the losses.

    Adam with a cosine decay of the learning rate to zero. Ctrl-C ends the training early, with a warning, and keeps
    what has been learnt.

    Parameters
    ----------
    net : torch module
        Called as ``net(x, t)``; trained in place, on its own device.
    draw : callable
        Returns a batch: times (n,), positions (n, d), target velocities (n, d).
    n_iter : int
        Optimisation steps.
    learning_rate : float
        Adam's first learning rate.
    ema_decay : float
        Decay of the moving average of the weights.
    progress : callable
        Wraps the iterator of steps, as ``tqdm`` does.

    Returns
    -------
    net : torch module
        The averaged network, in evaluation mode.
    losses : array of shape (n_iter,)
        Mean squared error a row and feature at every step.
    """
    device = next(net.parameters()).device
    optimiser = torch.optim.Adam(net.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_iter)
    average = swa_utils.AveragedModel(net, avg_fn=lambda mean, new, n: torch.lerp(mean, new, _ema_weight(n, ema_decay)))
    losses: list[Tensor] = []
    try:
        for _ in progress(range(n_iter)):
            t, x, v = (to_torch(part, device) for part in draw())
            loss = nn.functional.mse_loss(net(x, t), v)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            average.update_parameters(net)
            losses.append(loss.detach())
    except KeyboardInterrupt:
        warnings.warn(
            f"Training stopped by Ctrl-C after {len(losses)} of {n_iter} steps; the field learnt so far is kept.",
            stacklevel=2,
        )
    return average.module.eval(), torch.stack(losses).cpu().numpy() if losses else np.empty(0, np.float32)


def _ema_weight(n: Any, decay: float) -> float:
    """Return the weight of the newest of n + 1 values: 1 − decay in the long run, more at first."""
    return max(1.0 - decay, 9.0 / (10.0 + float(n)))


@torch.inference_mode()
def evaluate(net: nn.Module, x: np.ndarray, t: "float | np.ndarray") -> np.ndarray:
    """Return net(x, t), float32 of shape (n, d), for NumPy x (n, d) and one time or times (n,).

    Examples
    --------
    >>> from nsgf.networks import MLP
    >>> evaluate(MLP(2), np.zeros((3, 2), dtype=np.float32), 0.5).shape
    (3, 2)
    """
    device = next(net.parameters()).device
    x_in = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    t_in = torch.from_numpy(np.broadcast_to(np.float32(t), len(x)).copy())
    chunks = zip(x_in.split(_CHUNK), t_in.split(_CHUNK), strict=True)
    return torch.cat([net(x.to(device), t.to(device)).cpu() for x, t in chunks]).numpy()
