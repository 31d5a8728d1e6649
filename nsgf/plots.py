"""Pictures of flows. Each function draws on the given Matplotlib axes, or on new ones, and returns them."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from nsgf._arrays import as_numbers, as_points, columns_of, same_columns, to_numpy
from nsgf._checks import count, counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_images", "plot_loss", "plot_samples", "plot_trajectories", "plot_velocity_field"]

_SOURCE, _TARGET, _PATH = "#4c72b0", "#dd8452", "#9a9a9a"


def _new_axes(ax: "Axes | None") -> "Axes":
    if ax is not None and (isinstance(ax, type) or not hasattr(ax, "set_aspect")):
        raise TypeError(f"ax is a {type(ax).__name__}; give Axes of Matplotlib, or None for new ones.")
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(5, 5), layout="constrained")[1]


def _in_plane(x: ArrayLike, name: str) -> np.ndarray:
    """Return the first two features of a finite cloud, (n, 2)."""
    points = to_numpy(as_points(x, name))
    if points.shape[1] < 2:
        raise ValueError(f"{name} has 1 feature, and a picture needs two. Add one, or draw a histogram.")
    return points[:, :2]


def _colours(n: int) -> "list[str | np.ndarray]":
    """Return as many colours, all different."""
    import matplotlib as mpl

    first = [_SOURCE, _TARGET, "#55a868", "#8172b3"]
    return [*first[:n], *mpl.colormaps["turbo"](np.linspace(0.05, 0.95, max(0, n - len(first))))]


def plot_samples(ax: "Axes | None" = None, **clouds: ArrayLike) -> "Axes":
    """Scatter the first two features of named clouds, each of shape (n, d), with a legend.

    Examples
    --------
    >>> import numpy as np
    >>> ax = plot_samples(source=np.zeros((1, 2)), target=np.ones((1, 2)))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['source', 'target']
    """
    same_columns([columns_of(x) for x in clouds.values()], ", ".join(clouds), "b[a.columns]")
    planes = {name: _in_plane(x, name) for name, x in clouds.items()}
    if not planes:
        raise ValueError("there are no clouds to draw. Give them by name, such as plot_samples(source=X_src).")
    ax = _new_axes(ax)
    for (name, x), colour in zip(planes.items(), _colours(len(planes)), strict=True):
        ax.scatter(x[:, 0], x[:, 1], s=4, alpha=0.5, color=colour, label=name, linewidths=0)
    ax.set_aspect("equal")
    ax.legend(markerscale=3, loc="upper right")
    return ax


def plot_trajectories(x: ArrayLike, target: "ArrayLike | None" = None, ax: "Axes | None" = None) -> "Axes":
    """Draw the first two features of paths of shape (n_steps + 1, n, d), from source to end.

    Examples
    --------
    >>> import numpy as np
    >>> len(plot_trajectories(np.zeros((3, 5, 2))).lines)
    5
    """
    paths: np.ndarray = to_numpy(as_numbers(x, "x"))
    if paths.ndim != 3:
        raise ValueError(f"x has shape {paths.shape}; paths have (n_steps + 1, n, d), as `trajectory` returns them.")
    k, n, d = paths.shape
    z = _in_plane(paths.reshape(k * n, d), "x").reshape(k, n, 2)
    y = None if target is None else _in_plane(target, "target")
    ax = _new_axes(ax)
    if y is not None:
        ax.scatter(y[:, 0], y[:, 1], s=4, alpha=0.35, color=_TARGET, linewidths=0, label="target")
    ax.plot(z[:, :, 0], z[:, :, 1], color=_PATH, linewidth=0.5, alpha=0.6)
    ax.scatter(z[0, :, 0], z[0, :, 1], s=5, color=_SOURCE, linewidths=0, label="start", zorder=2)
    ax.scatter(z[-1, :, 0], z[-1, :, 1], s=5, color="black", linewidths=0, label="end", zorder=3)
    ax.set_aspect("equal")
    ax.legend(markerscale=3, loc="upper right")
    return ax


def plot_velocity_field(
    velocity: Callable[[np.ndarray], ArrayLike], like: ArrayLike, n: int = 20, ax: "Axes | None" = None
) -> "Axes":
    """Draw the arrows of ``velocity(z)`` on an n × n grid over the extent of the cloud `like` (k, 2).

    Examples
    --------
    >>> import numpy as np
    >>> plot_velocity_field(lambda z: -z, np.array([[-1.0, -1.0], [1.0, 1.0]]), n=3).has_data()
    True
    """
    count("n", n)
    points = to_numpy(as_points(like, "like"))
    if points.shape[1] != 2:
        raise ValueError(f"like has {points.shape[1]} features; arrows are drawn in the plane. Give a cloud (k, 2).")
    grid = np.stack(np.meshgrid(*np.linspace(points.min(axis=0), points.max(axis=0), n).T), axis=-1).reshape(-1, 2)
    v = to_numpy(as_points(velocity(grid), "velocity(grid)"))
    if v.shape != grid.shape:
        raise ValueError(f"velocity returned shape {v.shape} at points of shape {grid.shape}; both must be the same.")
    ax = _new_axes(ax)
    ax.quiver(*grid.T, *v.T, np.hypot(*v.T), angles="xy", cmap="viridis", width=0.004)
    ax.set_aspect("equal")
    return ax


def plot_images(x: ArrayLike, shape: tuple[int, ...], n_columns: int = 10, ax: "Axes | None" = None) -> "Axes":
    """Tile rows of pixels as images of `shape` (h, w) or (1, h, w), dark on light, in one grid.

    Examples
    --------
    >>> import numpy as np
    >>> plot_images(np.zeros((20, 64)), (8, 8)).images[0].get_array().shape
    (18, 90)
    """
    count("n_columns", n_columns)
    pixels, shape = to_numpy(as_numbers(x, "x")), counts("shape", shape)
    shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if len(shape) != 2 or pixels.ndim < 2 or math.prod(pixels.shape[1:]) != math.prod(shape):
        raise ValueError(
            f"x has shape {pixels.shape} and shape={shape}; give rows of h * w pixels each and shape (h, w)."
        )
    images = to_numpy(as_points(pixels.reshape(len(pixels), math.prod(shape)), "x")).reshape(-1, *shape)
    margins = ((0, -len(images) % n_columns), (0, 1), (0, 1))  # empty tiles, and one pixel between them
    framed = np.pad(images, margins, constant_values=images.min())
    tall, wide = framed.shape[1:]
    grid = framed.reshape(-1, n_columns, tall, wide).swapaxes(1, 2).reshape(-1, n_columns * wide)
    ax = _new_axes(ax)
    ax.imshow(grid, cmap="gray_r", interpolation="nearest")
    ax.set_axis_off()
    return ax


def plot_loss(loss: ArrayLike, ax: "Axes | None" = None, label: "str | None" = None) -> "Axes":
    """Draw a training curve on a logarithmic axis: the mean of each hundredth of the steps.

    Examples
    --------
    >>> import numpy as np
    >>> plot_loss(np.ones(1000)).get_yscale()
    'log'
    """
    values = to_numpy(as_numbers(loss, "loss"))
    if values.ndim != 1:
        raise ValueError(f"loss has shape {values.shape}; give one value a step, such as model.history_['loss'].")
    values = to_numpy(as_points(values[:, None], "loss"))[:, 0]
    ax, blocks = _new_axes(ax), np.array_split(values, min(100, len(values)))
    ax.plot(np.cumsum([len(block) for block in blocks]), [block.mean() for block in blocks], label=label)
    ax.set(yscale="log", xlabel="optimisation step", ylabel="matching loss")
    return ax
