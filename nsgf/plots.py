"""Pictures of flows. Each function draws on the given Matplotlib axes, or on new ones, and returns them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_images", "plot_loss", "plot_samples", "plot_trajectories", "plot_velocity_field"]

_SOURCE, _TARGET, _PATH = "#4c72b0", "#dd8452", "#9a9a9a"


def _new_axes(ax: "Axes | None") -> "Axes":
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(5, 5), layout="constrained")[1]


def plot_samples(ax: "Axes | None" = None, **clouds: np.ndarray) -> "Axes":
    """Scatter named 2-D clouds, each of shape (n, 2), with a legend.

    Examples
    --------
    >>> import numpy as np
    >>> ax = plot_samples(source=np.zeros((1, 2)), target=np.ones((1, 2)))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['source', 'target']
    """
    ax = _new_axes(ax)
    for (name, x), colour in zip(clouds.items(), [_SOURCE, _TARGET, "#55a868", "#8172b3"], strict=False):
        ax.scatter(np.asarray(x)[:, 0], np.asarray(x)[:, 1], s=4, alpha=0.5, color=colour, label=name, linewidths=0)
    ax.set_aspect("equal")
    ax.legend(markerscale=3, loc="upper right")
    return ax


def plot_trajectories(x: np.ndarray, target: "np.ndarray | None" = None, ax: "Axes | None" = None) -> "Axes":
    """Draw the first two features of paths of shape (n_steps + 1, n, d), from source to end.

    Examples
    --------
    >>> import numpy as np
    >>> len(plot_trajectories(np.zeros((3, 5, 2))).lines)
    5
    """
    ax, x = _new_axes(ax), np.asarray(x)
    if target is not None:
        y = np.asarray(target)
        ax.scatter(y[:, 0], y[:, 1], s=4, alpha=0.35, color=_TARGET, linewidths=0, label="target")
    ax.plot(x[:, :, 0], x[:, :, 1], color=_PATH, linewidth=0.5, alpha=0.6)
    ax.scatter(x[0, :, 0], x[0, :, 1], s=5, color=_SOURCE, linewidths=0, label="start", zorder=2)
    ax.scatter(x[-1, :, 0], x[-1, :, 1], s=5, color="black", linewidths=0, label="end", zorder=3)
    ax.set_aspect("equal")
    ax.legend(markerscale=3, loc="upper right")
    return ax


def plot_velocity_field(
    velocity: Callable[[np.ndarray], np.ndarray], like: np.ndarray, n: int = 20, ax: "Axes | None" = None
) -> "Axes":
    """Draw the arrows of ``velocity(z)`` on an n × n grid over the extent of the cloud `like` (k, 2).

    Examples
    --------
    >>> import numpy as np
    >>> plot_velocity_field(lambda z: -z, np.array([[-1.0, -1.0], [1.0, 1.0]]), n=3).has_data()
    True
    """
    ax = _new_axes(ax)
    low, high = np.min(like, axis=0), np.max(like, axis=0)
    grid = np.stack(np.meshgrid(*np.linspace(low, high, n).T), axis=-1).reshape(-1, 2)
    v = np.asarray(velocity(grid))
    ax.quiver(*grid.T, *v.T, np.hypot(*v.T), angles="xy", cmap="viridis", width=0.004)
    ax.set_aspect("equal")
    return ax


def plot_images(x: np.ndarray, shape: tuple[int, ...], n_columns: int = 10, ax: "Axes | None" = None) -> "Axes":
    """Tile rows of pixels as images of `shape` (h, w), dark on light, in one grid.

    Examples
    --------
    >>> import numpy as np
    >>> plot_images(np.zeros((20, 64)), (8, 8)).images[0].get_array().shape
    (18, 90)
    """
    ax, images = _new_axes(ax), np.asarray(x).reshape(-1, *shape)
    images = images[: len(images) // n_columns * n_columns]
    framed = np.pad(images, ((0, 0), (0, 1), (0, 1)), constant_values=images.min())  # one pixel between the tiles
    tall, wide = framed.shape[1:]
    grid = framed.reshape(-1, n_columns, tall, wide).swapaxes(1, 2).reshape(-1, n_columns * wide)
    ax.imshow(grid, cmap="gray_r", interpolation="nearest")
    ax.set_axis_off()
    return ax


def plot_loss(loss: np.ndarray, ax: "Axes | None" = None, label: "str | None" = None) -> "Axes":
    """Draw a training curve on a logarithmic axis: the mean of each hundredth of the steps.

    Examples
    --------
    >>> import numpy as np
    >>> plot_loss(np.ones(1000)).get_yscale()
    'log'
    """
    ax = _new_axes(ax)
    blocks = np.array_split(loss, min(100, len(loss)))
    ax.plot(np.cumsum([len(block) for block in blocks]), [block.mean() for block in blocks], label=label)
    ax.set(yscale="log", xlabel="optimisation step", ylabel="matching loss")
    return ax
