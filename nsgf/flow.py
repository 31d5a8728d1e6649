r"""The particle flow of the Sinkhorn divergence, and the pool of its trajectories.

.. math::  x^{k+1} = x^k + \eta\, v^k, \qquad v^k = T_{x^k y}(x^k) - T_{x^k x^k}(x^k)

(NSGF, eq. 14). The pool holds rows :math:`(t_k, x^k, v^k)` of many minibatches, for the network to be matched to.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nsgf._arrays import Array, as_pair, as_weights, device, like, namespace, to_numpy
from nsgf.minibatches import Problem
from nsgf.sinkhorn import Velocity, centred, first_start, pick_blur, rest_potentials, settle, solve_velocity
from nsgf.solvers import Sinkhorn, Solver, pick_solver

__all__ = [
    "Lines",
    "Trajectory",
    "TrajectoryPool",
    "batch_size",
    "batches",
    "flow_steps",
    "minibatch_gap",
    "sinkhorn_flow",
]


_ON_HOST, _ON_DEVICE = 2**21, 2**27  # kernel entries of one batch
_BATCH = 32  # problems of one batch: the slowest of them decides when it ends


class Trajectory(NamedTuple):
    """Particles along the flow, with the certificate of its worst step.

    Attributes
    ----------
    t : array of shape (n_steps + 1,)
        Times k / n_steps.
    x : array of shape (n_steps + 1, n, d)
        Positions, in the units of the data.
    v : array of shape (n_steps, n, d)
        Velocities: x[k + 1] = x[k] + step_size · v[k].
    error : float
        Largest error of any step, as in :class:`~nsgf.Velocity`.
    converged : bool
        Whether every step reached its solver's tolerance.
    """

    t: Array
    x: Array
    v: Array
    error: float
    converged: bool


def flow_steps(  # noqa: PLR0913  the clouds, the scheme, and the solver
    x: Array,
    y: Array,
    blur: float,
    n_steps: int,
    step_size: "float | Sequence[float]",
    solve: Solver,
    weights: tuple[Any, Any] = (None, None),
    n_fixed: int = 0,
) -> Iterator[tuple[Array, Velocity]]:
    """Yield (x^k, v^k) for k = 0 … n_steps − 1.

    The clouds may have a leading dimension, for a batch of flows of one size (:func:`batches`). There may be one step
    size a step. The last `n_fixed` coordinates enter the cost and do not move.

    A step leaves 1 − η of the way to go, so of the distance between the potentials and those at rest, x = y + c, about
    as much is left: each solve starts there.
    """
    a, b, eps = as_weights(weights[0], x, "a"), as_weights(weights[1], y, "b"), blur**2
    pair, moves = centred(x, y, a, b), namespace(x).ones_like(x[..., :1, :])
    moves[..., x.shape[-1] - n_fixed :] = 0.0
    rest, start = rest_potentials(pair, eps, solve), first_start(pair, eps, solve)
    for eta in np.broadcast_to(step_size, n_steps).tolist():
        res = solve_velocity(centred(x, y, a, b), eps, solve, start)
        yield x, res
        x, left = x + eta * moves * res.v, 1.0 - min(eta, 1.0)
        start = rest._replace(g=rest.g + left * (res.cross.g - rest.g))


def batch_size(x: Array, y: Array, solve: Solver) -> int:
    """Return how many flows of this size are best solved at once: what a cache holds, or what fills a GPU."""
    room = _ON_HOST if str(device(x)) == "cpu" else _ON_DEVICE
    return max(1, min(_BATCH, room // (len(x) * len(y)))) if isinstance(solve, Sinkhorn) else 1


def batches(problems: Iterable[Problem], solve: Solver) -> Iterator[Problem]:
    """Yield problems of one size and span that follow each other stacked, as many as are best solved at once."""
    group: list[Problem] = []
    for p in problems:
        if group and not (len(group) < batch_size(p.x, p.y, solve) and _alike(p, group[0])):
            yield _stacked(group)
            group = []
        group.append(p)
    if group:
        yield _stacked(group)


def _alike(p: Problem, q: Problem) -> bool:
    return bool(p.x.shape == q.x.shape and p.y.shape == q.y.shape and p.span == q.span)


def _stacked(group: list[Problem]) -> Problem:
    if len(group) == 1:
        return group[0]
    xp, (xs, ys, cs, _) = namespace(group[0].x), zip(*group, strict=True)
    return group[0]._replace(x=xp.stack(xs), y=xp.stack(ys), c=None if cs[0] is None else np.stack(cs))


def sinkhorn_flow(  # noqa: PLR0913  the clouds, their weights, and the three numbers of the scheme
    x: Any,
    y: Any,
    blur: "float | str" = "auto",
    n_steps: int = 10,
    step_size: float = 1.0,
    a: Any = None,
    b: Any = None,
    solver: "Solver | str" = "auto",
) -> Trajectory:
    """Move the particles x by steepest descent of S_ε(x, y): explicit Euler steps, no network.

    Parameters
    ----------
    x : array of shape (n, d)
        Particles to move. NumPy, CuPy or torch; lists and data frames are read as NumPy.
    y : array of shape (m, d)
        Target points, in the library of `x`.
    blur : float or "auto"
        Length scale √ε, in the units of the data; ``"auto"`` is 0.15 of the spread of `x` and `y`, held along the flow.
    n_steps : int
        Number of steps.
    step_size : float
        η, the fraction of the velocity that one step goes; with 1 a step removes the whole distance between the means.
    a, b : arrays of shape (n,) and (m,), optional
        Weights of the rows, normalised to total mass 1; uniform by default.
    solver : solver value or "auto"
        How the cross problems are solved.

    Returns
    -------
    Trajectory

    Raises
    ------
    ValueError, RuntimeError
        As :func:`~nsgf.sinkhorn_velocity` does, and on fewer than one step or a step size that is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(60, 2)), rng.normal(size=(80, 2)) + [4.0, 0.0]
    >>> flow = sinkhorn_flow(x, y, blur=0.5, n_steps=3)
    >>> flow.x.shape, bool(np.allclose(flow.x[1].mean(0), y.mean(0), atol=1e-3))
    ((4, 60, 2), True)
    """
    check_steps(n_steps, step_size)
    solve = pick_solver(solver)
    xs, ys = as_pair(x, y)
    blur = pick_blur(blur, xs, ys)
    steps = list(flow_steps(xs, ys, blur, n_steps, step_size, solve, (a, b)))
    error, converged = max(res.error for _, res in steps), all(res.converged for _, res in steps)
    settle(error, converged, solve)
    x_last, last = steps[-1]
    xp = namespace(xs)
    positions = xp.stack([x_k for x_k, _ in steps] + [x_last + step_size * last.v])
    velocities = xp.stack([res.v for _, res in steps])
    t = like(np.linspace(0.0, 1.0, n_steps + 1), xs)
    return Trajectory(t, like(positions, x), like(velocities, x), error, converged)


def check_steps(n_steps: int, step_size: float) -> None:
    """Raise where the scheme is not one: it takes at least one step, and a positive step size."""
    if not (isinstance(n_steps, int | np.integer) and n_steps >= 1):
        raise ValueError(f"n_steps={n_steps!r} must be an integer of at least 1; 5 is a good value.")
    if isinstance(step_size, str) or not 0 < step_size < float("inf"):
        raise ValueError(f"step_size={step_size!r} must be positive; 1.0 is a good value.")


class TrajectoryPool:
    """Rows (t, x, v) of many flows, drawn at random: in memory as float32, or in a directory as float16.

    Parameters
    ----------
    capacity : int
        Largest number of rows.
    n_features : int
        Width d of the rows.
    n_conditions : int
        Numbers k that describe the condition of a row; 0 for rows without conditions.
    directory : path-like, optional
        Where the rows are kept. One that holds a pool of this size is opened, with the rows that it has.
    max_bytes : int, optional
        Largest size.

    Raises
    ------
    ValueError
        Where the pool would be larger than `max_bytes`, or the directory holds one of another size.
    OSError
        Where there is no room for it in the directory. All of it is reserved at once, so that a disk that others fill
        does not end the training.

    Examples
    --------
    >>> pool = TrajectoryPool(4, 2)
    >>> pool.add(0.0, np.zeros((3, 2)), np.ones((3, 2)))
    >>> len(pool), [part.shape for part in pool.draw(8, np.random.default_rng(0))]
    (3, [(8,), (8, 2), (8, 2)])
    """

    def __init__(
        self,
        capacity: int,
        n_features: int,
        directory: "str | os.PathLike[str] | None" = None,
        max_bytes: int | None = None,
        *,
        n_conditions: int = 0,
    ) -> None:
        dtype = np.dtype(np.float32 if directory is None else np.float16)
        shapes: dict[str, tuple[int, ...]] = {"t": (capacity,)}
        shapes |= {"x": (capacity, n_features), "v": (capacity, n_features)}
        if n_conditions:
            shapes["c"] = (capacity, n_conditions)
        size = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
        if max_bytes is not None and size > max_bytes:
            raise ValueError(
                f"the pool takes {size:,} bytes, {size // capacity} a row, but pool_bytes leaves {max_bytes:,} for it. "
                f"Lower n_batches to {max_bytes / size:.2f} of its value, or raise pool_bytes."
            )
        arrays = {name: (shape, dtype) for name, shape in shapes.items()} | {"state": ((3,), np.dtype(np.float64))}
        if directory is None:
            made = {name: np.zeros(shape, dtype) for name, (shape, dtype) in arrays.items()}
        else:
            made = _mapped(Path(directory), arrays)
        self._state = made.pop("state")  # rows added, error, whether any velocity did not converge
        self._rows = made

    @property
    def error(self) -> float:
        """Largest error of a velocity, as far as :meth:`certify` was told."""
        return float(self._state[1])

    @property
    def converged(self) -> bool:
        """Whether all velocities converged, as far as :meth:`certify` was told."""
        return not self._state[2]

    def __len__(self) -> int:
        return min(int(self._state[0]), len(self._rows["t"]))

    def add(self, t: "float | Array", x: Array, v: Array, c: Array | None = None) -> None:
        """Append the rows (t_i, x_i, v_i, c_i); `t` may be one time for all."""
        if len(self) + len(x) > len(self._rows["t"]):
            raise ValueError(
                f"the pool holds {len(self._rows['t'])} rows and {len(self)} are taken; {len(x)} more do not fit."
            )
        self.renew(t, x, v, c)

    def renew(self, t: "float | Array", x: Array, v: Array, c: Array | None = None) -> None:
        """Append the rows (t_i, x_i, v_i, c_i), in the place of the oldest once the pool is full."""
        first = int(self._state[0])
        block = np.arange(first, first + len(x)) % len(self._rows["t"])
        for name, values in (("t", t), ("x", x), ("v", v), ("c", c)):
            if name in self._rows:
                self._rows[name][block] = to_numpy(values)
        self._state[0] = first + len(x)  # last, so that rows cut short by a kill do not count

    def keep(self, n: int) -> None:
        """Forget all rows but the first `n`."""
        self._state[0] = min(n, len(self))

    def certify(self, error: float, converged: bool) -> None:
        """Take the certificate of velocities that were added into that of all."""
        self._state[1:] = max(self.error, error), not (self.converged and converged)

    def draw(self, size: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return `size` rows drawn with replacement: t (size,), x (size, d), v (size, d), and c (size, k) if any."""
        i = rng.integers(len(self), size=size)
        return tuple(z[i].astype(np.float32, copy=False) for z in self._rows.values())

    @property
    def rows(self) -> tuple[np.ndarray, ...]:
        """All rows: t (len,), x (len, d), v (len, d), and c (len, k) if any."""
        return tuple(z[: len(self)] for z in self._rows.values())


class Lines:
    r"""Straight lines from the particles of many flows to partners drawn from the plan of their first step.

    .. math::  X_t = (1 - t)\, X_0 + t\, X_1, \qquad (X_0, X_1) \sim P, \qquad u = X_1 - X_0

    (NSGF++, eq. 18, where the ends are drawn apart.) Of all couplings that keep both marginals, the plan is the one
    whose lines cross least, so the field of their velocities is the straightest.

    Parameters
    ----------
    capacity, n_features, directory, max_bytes, n_conditions : as in :class:`TrajectoryPool`
        Where the lines are kept.
    rng : numpy Generator
        Draws the partners, by one number a particle.

    Examples
    --------
    >>> x, solve = np.arange(3.0)[:, None], Sinkhorn()
    >>> (_, res), *_ = flow_steps(x, x + 5.0, 0.1, 1, 1.0, solve)
    >>> lines = Lines(3, 1, rng=np.random.default_rng(0))
    >>> lines.add(x, res)
    >>> (x_t, t), u = lines.draw(4, np.random.default_rng(1))
    >>> x_t.shape, t.shape, u.round(6).ravel().tolist()
    ((4, 1), (4,), [5.0, 5.0, 5.0, 5.0])
    """

    def __init__(
        self,
        capacity: int,
        n_features: int,
        directory: "str | os.PathLike[str] | None" = None,
        max_bytes: int | None = None,
        *,
        rng: np.random.Generator,
        n_conditions: int = 0,
    ) -> None:
        self._pool = TrajectoryPool(capacity, n_features, directory, max_bytes, n_conditions=n_conditions)
        self._rng, self._d = rng, n_features

    def __len__(self) -> int:
        return len(self._pool)

    def add(self, x: Array, res: Velocity, c: Array | None = None) -> None:
        """Append a line for every particle x (…, n, d) of a first step, in the place of the oldest in a full pool."""
        x0, x1 = (to_numpy(z).reshape(-1, x.shape[-1])[:, : self._d] for z in (x, res.partners(self._rng)))
        self._pool.renew(0.0, x0, x1 - x0, None if c is None else to_numpy(c).reshape(len(x0), -1))

    def go_on_from(self, n: int) -> None:
        """Forget all but the first `n` lines, and draw partners as if they had just been added."""
        self._pool.keep(n)
        self._rng.random(n)

    def draw(self, size: int, rng: np.random.Generator) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Return points (size, d), times (size,) and conditions (size, k) if any; and velocities (size, d)."""
        _, x0, u, *c = self._pool.draw(size, rng)
        t = rng.random(size, dtype=np.float32)
        return (x0 + t[:, None] * u, t, *c), u


def _mapped(directory: Path, arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> dict[str, np.ndarray]:
    """Return the arrays that the files of a directory hold; make them where they are not all there."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {name: directory / f"{name}.npy" for name in arrays}
    if not all(file.exists() for file in files.values()):
        try:
            for name, file in files.items():
                _reserve(file, *arrays[name])
        except OSError as error:
            for file in directory.glob("*.npy*"):
                file.unlink()
            size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in arrays.values())
            message = f"no room for {size:,} bytes of the pool. Free some space, or lower n_batches"
            raise OSError(error.errno, message, os.fspath(directory)) from error
    mapped = {name: np.load(file, mmap_mode="r+", allow_pickle=False) for name, file in files.items()}
    for name, (shape, dtype) in arrays.items():
        if (mapped[name].shape, mapped[name].dtype) != (shape, dtype):
            raise ValueError(
                f"{os.fspath(files[name])!r} holds {mapped[name].shape} {mapped[name].dtype}, not {shape} {dtype}: "
                "the pool of another run. Choose another directory, or delete that one."
            )
    return mapped


def _reserve(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Make the file of an array of zeros, with its blocks where the system can give them at once."""
    new = path.with_suffix(".npy.new")
    with open(new, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        size = file.tell() + math.prod(shape) * dtype.itemsize
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    os.replace(new, path)


def minibatch_gap(first: Iterable[tuple[Array, Velocity]], second: Iterable[tuple[Array, Velocity]]) -> float:
    """Return how far two minibatches' velocities are from each other, relative to the velocities themselves.

    At every step, both are read at the first one's particles: √(E|v₁ − v₂|² / E|v₁|²).
    """
    difference = size = 0.0
    for (x, v1), (_, v2) in zip(first, second, strict=True):
        difference += float(((v1.v - v2(x)) ** 2).sum())
        size += float((v1.v**2).sum())
    return (difference / size) ** 0.5 if size else 0.0
