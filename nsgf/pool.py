r"""The pool: what minibatch flows found, for networks to be matched to.

It holds rows :math:`(t_k, x^k, v^k)` of many flows, in memory or on disk. `fill` follows minibatches by a `Scheme`
until the pool is full, and keeps some flows apart that no network is trained on. `Lines` holds straight lines, to
partners from plans.
"""

import collections
import io
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nsgf import _checks, flow
from nsgf._arrays import Array, on_device, to_numpy
from nsgf.mean_field import LEAST, mean_field_steps
from nsgf.minibatches import Minibatches, Problem
from nsgf.sinkhorn import Velocity, settle
from nsgf.solvers import Solver
from nsgf.training import Training

_TOGETHER = 16  # minibatches that move together: docs/benchmarks, where more gain nothing

Steps = list[tuple[Array, Velocity]]  # positions and velocities of a flow, step by step
Example = tuple[tuple[Any, ...], np.ndarray]  # inputs of a network, and its target


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
    >>> pool.renew(0.0, np.zeros((3, 2)), np.ones((3, 2)))
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
        for name, size in (("capacity", capacity), ("n_features", n_features), ("n_conditions", n_conditions)):
            _checks.count(name, size, int(name != "n_conditions"))
        dtype = np.dtype(np.float32 if directory is None else np.float16)
        shapes: dict[str, tuple[int, ...]] = {"t": (capacity,)}
        shapes |= {"x": (capacity, n_features), "v": (capacity, n_features)}
        if n_conditions:
            shapes["c"] = (capacity, n_conditions)
        size = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
        if max_bytes is not None:
            _checks.count("max_bytes", max_bytes, 0, most=2**63)
        if max_bytes is not None and size > max_bytes:
            raise ValueError(
                f"the pool takes {size:,} bytes, {size // capacity} a row, but pool_bytes leaves {max_bytes:,} for it. "
                f"Lower n_batches to {max_bytes / size:.2f} of its value, or raise pool_bytes."
            )
        arrays = {name: (shape, dtype) for name, shape in shapes.items()} | {"state": ((4,), np.dtype(np.float64))}
        if directory is None:
            made = {name: np.zeros(shape, dtype) for name, (shape, dtype) in arrays.items()}
        else:
            made = _mapped(_checks.path("directory", directory), arrays)
        self._state = made.pop("state")  # rows added, error, whether any velocity did not converge, rows dropped
        self._rows = made

    @property
    def error(self) -> float:
        """Largest error of a velocity, as far as :meth:`certify` was told."""
        return float(self._state[1])

    @property
    def converged(self) -> bool:
        """Whether all velocities converged, as far as :meth:`certify` was told."""
        return not self._state[2]

    @property
    def n_added(self) -> int:
        """Rows added so far, with those that others have replaced; 0 where none is left."""
        return int(self._state[0]) if len(self) else 0

    def __len__(self) -> int:
        return int(self._state[0] - self._state[3])

    def renew(self, t: "float | Array", x: Array, v: Array, c: Array | None = None) -> None:
        """Append the rows (t_i, x_i, v_i, c_i), in the place of the oldest once the pool is full.

        `t` may be one time for all.
        """
        first, capacity = int(self._state[0]), len(self._rows["t"])
        end = first + len(x)
        block = np.arange(first, end) % capacity
        self._state[3] = max(self._state[3], end - capacity)  # first, so that rows half replaced do not count
        for name, values in (("t", t), ("x", x), ("v", v), ("c", c)):
            if name in self._rows:
                self._rows[name][block] = to_numpy(values)
        self._state[0] = end  # last, so that rows cut short by a kill do not count

    def keep(self, n: int) -> None:
        """Forget all rows but the first `n` that were added."""
        self._state[[0, 3]] = np.minimum(self._state[[0, 3]], n)

    def certify(self, error: float, converged: bool) -> None:
        """Take the certificate of velocities that were added into that of all."""
        self._state[1:3] = max(self.error, error), not (self.converged and converged)

    def draw(self, size: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return `size` rows drawn with replacement: t (size,), x (size, d), v (size, d), and c (size, k) if any."""
        i = (int(self._state[3]) + rng.integers(len(self), size=size)) % len(self._rows["t"])
        return tuple(z[i].astype(np.float32, copy=False) for z in self._rows.values())

    @property
    def rows(self) -> tuple[np.ndarray, ...]:
        """All rows, by their places: t (len,), x (len, d), v (len, d), and c (len, k) if any."""
        first, end = int(self._state[3]), int(self._state[0])
        places = np.sort(np.arange(first, end) % len(self._rows["t"]))
        return tuple(z[places] for z in self._rows.values())


class Lines:
    r"""Straight lines from many particles to partners drawn from plans.

    .. math::  X_t = (1 - t)\, X_0 + t\, X_1, \qquad (X_0, X_1) \sim P, \qquad u = X_1 - X_0

    (NSGF++, eq. 18, where the ends are drawn apart.) Of all couplings that keep both marginals, the plan of the
    particles themselves is the one whose lines cross least, so the field of their velocities is the straightest.

    Parameters
    ----------
    pool : TrajectoryPool
        Where the lines are kept.
    rng : numpy Generator
        Draws the partners, by one number a particle.

    Examples
    --------
    >>> from nsgf import Sinkhorn
    >>> x, solve = np.arange(3.0)[:, None], Sinkhorn()
    >>> (_, res), *_ = flow.flow_steps(x, x + 5.0, 0.1, 1, 1.0, solve)
    >>> lines = Lines(TrajectoryPool(3, 1), np.random.default_rng(0))
    >>> lines.add(x, res)
    >>> (x_t, t), u = lines.draw(4, np.random.default_rng(1))
    >>> x_t.shape, t.shape, u.round(6).ravel().tolist()
    ((4, 1), (4,), [5.0, 5.0, 5.0, 5.0])
    """

    def __init__(self, pool: TrajectoryPool, rng: np.random.Generator) -> None:
        self._pool, self._rng = pool, rng

    @classmethod
    def of(cls, problems: Sequence[Problem], rng: np.random.Generator, max_bytes: int | None = None) -> "Lines":
        """Return room for the lines of these problems, in memory."""
        return cls(_pool_of(problems[0], sum(len(p.x) for p in problems), None, max_bytes), rng)

    def __len__(self) -> int:
        return len(self._pool)

    def add(self, x: Array, res: Velocity, c: Array | None = None, n_fixed: int = 0) -> None:
        """Append a line for every particle x (…, n, d + l) to its partner, in the place of the oldest in a full pool.

        The last l = `n_fixed` coordinates are no part of it; `res` is of the velocities whose plans pair the particles.
        """
        d = x.shape[-1] - n_fixed
        x0, x1 = (to_numpy(z).reshape(-1, x.shape[-1])[:, :d] for z in (x, res.partners(self._rng)))
        self._pool.renew(0.0, x0, x1 - x0, None if c is None else to_numpy(c).reshape(len(x0), -1))

    def draw(self, size: int, rng: np.random.Generator) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Return points (size, d), times (size,) and conditions (size, k) if any; and velocities (size, d)."""
        _, x0, u, *c = self._pool.draw(size, rng)
        t = rng.random(size, dtype=np.float32)
        return (x0 + t[:, None] * u, t, *c), u


class Scheme(NamedTuple):
    """How the particles of one fit are moved.

    Attributes
    ----------
    blur : float
        √ε, in the units of the particles.
    step_sizes : tuple of float
        η of every step.
    rates : tuple of float
        What velocities are multiplied by before they are learnt, at every step.
    length : float
        Time of the whole flow: a network's field v is followed as dx/dt = `length` · v over its span.
    solve : Solver
        How the Sinkhorn problems are solved.
    device : str
        Where: ``"cpu"`` or ``"cuda"``.
    """

    blur: float
    step_sizes: tuple[float, ...]
    rates: tuple[float, ...]
    length: float
    solve: Solver
    device: str

    @classmethod
    def descent(cls, blur: float, n_steps: int, step_size: float, solve: Solver, device: str) -> "Scheme":
        """Return the flow of `n_steps` steps of one size."""
        return cls(blur, (step_size,) * n_steps, (1.0,) * n_steps, n_steps * step_size, solve, device)

    @classmethod
    def course(cls, blur: float, n_steps: int, solve: Solver, device: str) -> "Scheme":
        """Return the flow that goes the whole way to the target at constant speed, in `n_steps` steps."""
        sizes = [1 / (n_steps - k) for k in range(n_steps)]
        return cls(blur, tuple(sizes), tuple(n_steps * size for size in sizes), 1.0, solve, device)

    def moved(self, problem: Problem) -> Problem:
        """Return the problem with its clouds on the device; conditions are for the network, and stay."""
        return problem._replace(x=on_device(problem.x, self.device), y=on_device(problem.y, self.device))

    def follow(self, problem: Problem) -> Steps:
        """Return the positions and velocities of the steps of a problem, or of the mean field of several."""
        sizes, n_fixed = self.step_sizes, problem.n_fixed
        if problem.is_together:
            return list(mean_field_steps(problem.x, problem.y, self.blur, sizes, self.solve, n_fixed))
        return list(flow.flow_steps(problem.x, problem.y, self.blur, len(sizes), sizes, self.solve, n_fixed=n_fixed))

    def examples(self, problem: Problem, steps: Steps) -> list[Example]:
        """Return a network's inputs and target at every step: (x, t) or (x, t, c), and the velocity."""
        (t0, t1), d, c = problem.span, problem.x.shape[-1] - problem.n_fixed, problem.c
        times = [t0 + (t1 - t0) * k / len(steps) for k in range(len(steps))]
        c = None if c is None else c.reshape(-1, c.shape[-1])
        return [
            ((_rows(x, d), t, *(() if c is None else (c,))), rate * _rows(res.v, d))
            for t, rate, (x, res) in zip(times, self.rates, steps, strict=True)
        ]


class Filled(NamedTuple):
    """A pool that is full, and what belongs to it.

    Attributes
    ----------
    scheme : Scheme
        How its flows were followed.
    pool : TrajectoryPool
        Their rows.
    held_out : list of (Problem, Steps)
        Flows that no network is trained on.
    examples : list of Example
        Inputs and target of a network along flows that no network is trained on.
    refresh : callable
        To be called before each draw: replaces the oldest flows, every so many calls.
    """

    scheme: Scheme
    pool: TrajectoryPool
    held_out: list[tuple[Problem, Steps]]
    examples: list[Example]
    refresh: Callable[[], None]

    def velocities(self, size: int, rng: np.random.Generator) -> Example:
        """Draw places, times and conditions if any of the flows, and the velocities there."""
        self.refresh()
        t, x, v, *c = self.pool.draw(size, rng)
        return (x, t, *c), v


def fill(
    drawn: Minibatches,
    scheme: Scheme,
    n_batches: int,
    training: Training,
    *,
    apart: Iterable[list[Problem]] = (),
    progress: Callable[[range], Iterable[int]] = iter,
) -> Filled:
    """Follow `n_batches` minibatches, and those that are held out.

    Parameters
    ----------
    drawn : iterator of minibatches
        Read as far as is needed, then and at each refill.
    scheme : Scheme
        How they are followed.
    n_batches : int
        Minibatches in the pool.
    training : Training
        Where the pool is kept, how large it may be, and how often it is refilled. Of what is on disk, only the missing
        part is computed.
    apart : iterable of minibatches
        Those that no network is trained on; read once the pool is full.
    progress : callable
        Wraps the range of minibatches, as ``tqdm`` does.

    Returns
    -------
    Filled

    Raises
    ------
    ValueError, OSError
        As :class:`TrajectoryPool` does.
    RuntimeError
        Where a solve did not converge and its policy is ``on_unconverged="raise"``.
    """
    first, K = next(drawn), len(scheme.step_sizes)
    at_once = min(n_batches, _TOGETHER) if n_batches >= LEAST else 1
    n = sum(len(p.x) for p in first)
    pool = _pool_of(first[0], n_batches * K * n, training.path("pool"), training.pool_bytes)
    done = pool.n_added // K  # particles
    pool.keep(done * K)

    def add(problems: Iterable[Problem]) -> Iterator[tuple[float, bool]]:
        return (_add(scheme.moved(p), scheme, pool) for p in problems)

    def refresh() -> None:
        if training.refill_every and next(calls) % (at_once * training.refill_every) == 0:
            for certificate in add(together(itertools.islice(drawn, at_once), scheme.solve)):
                settle(*certificate, scheme.solve)

    minibatches = (found for _, found in zip(progress(range(n_batches)), itertools.chain([first], drawn), strict=False))
    collections.deque(add(together(minibatches, scheme.solve, done)), 0)
    settle(pool.error, pool.converged, scheme.solve)
    calls, held_out = itertools.count(), [p for minibatch in apart for p in unpaired(minibatch)]
    flows = [(p, scheme.follow(scheme.moved(p))) for p in held_out]
    others = (
        [p for p in together(itertools.islice(drawn, LEAST), scheme.solve) if p.is_together]
        if n_batches >= LEAST
        else []
    )
    followed = [(p, scheme.follow(scheme.moved(p))) for p in others if p.is_together] or flows
    unseen = [example for other in followed for example in scheme.examples(*other)]
    return Filled(scheme, pool, flows, unseen, refresh)


def together(minibatches: Iterable[list[Problem]], solve: Solver, done: int = 0) -> Iterator[Problem]:
    """Yield the problems of minibatches, those of one kind of 16 as one stack, whose mean field is followed.

    Minibatches whose problems differ in size are followed each by itself, and so are fewer than four. The problems of
    the first particles that are `done` are left out, drawn as if they were followed now.
    """
    source = iter(minibatches)
    while group := list(itertools.islice(source, _TOGETHER)):
        kinds = list(zip(*group, strict=True)) if len({len(problems) for problems in group}) == 1 else []
        are_alike = all(flow.alike(p, kind[0]) and len(p.x) * len(p.y) > 1 for kind in kinds for p in kind)
        if len(group) >= LEAST and kinds and are_alike:
            found = [flow.stacked(list(kind))._replace(is_together=True) for kind in kinds]
        else:
            found = list(itertools.chain.from_iterable(group))
        sizes = np.cumsum([0] + [math.prod(p.x.shape[:-1]) for p in found]).tolist()
        left = [p for p, before in zip(found, sizes, strict=False) if before >= done]
        yield from left if found[0].is_together else flow.stacks(left, solve)
        done -= sizes[-1]


def _rows(x: Array, d: int) -> np.ndarray:
    """Return the first d coordinates of points (…, n, d + l) as NumPy rows."""
    return to_numpy(x)[..., :d].reshape(-1, d)


def unpaired(minibatch: list[Problem]) -> list[Problem]:
    """Return the problems of more than one point; the first where there are none."""
    return [p for p in minibatch if len(p.x) * len(p.y) > 1] or minibatch[:1]


def _pool_of(problem: Problem, capacity: int, directory: Path | None, max_bytes: int | None) -> TrajectoryPool:
    """Return an empty pool for the particles of such problems."""
    n_conditions = 0 if problem.c is None else problem.c.shape[-1]
    return TrajectoryPool(
        capacity, problem.x.shape[-1] - problem.n_fixed, directory, max_bytes, n_conditions=n_conditions
    )


def _add(problem: Problem, scheme: Scheme, pool: TrajectoryPool) -> tuple[float, bool]:
    """Follow a problem, or a stack of some, into the pool, in the place of the oldest; return the certificate.

    Rows count once those of the whole stack are there: one that is cut short is followed again, as the same stack.
    """
    steps = scheme.follow(problem)
    certificate = max(res.error for _, res in steps), all(res.converged for _, res in steps)
    pool.certify(*certificate)
    found, n, K = scheme.examples(problem, steps), problem.x.shape[-2], len(steps)
    xs, vs = (
        np.stack(z).reshape(K, -1, n, z[0].shape[-1]).swapaxes(0, 1)  # (problems, K, n, d)
        for z in zip(*((x, v) for (x, *_), v in found), strict=True)
    )
    t = np.tile(np.repeat([t for (_, t, *_), _ in found], n), len(xs))
    c = None if problem.c is None else np.repeat(problem.c.reshape(len(xs), 1, n, -1), K, axis=1)
    x, v, c = (z if z is None else z.reshape(len(t), -1) for z in (xs, vs, c))
    pool.renew(t, x, v, c)
    return certificate


def _mapped(directory: Path, arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> dict[str, np.ndarray]:
    """Return the arrays that the files of a directory hold; make them where they are not all there."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {name: directory / f"{name}.npy" for name in arrays}
    if not all(file.exists() for file in files.values()):
        try:
            for name, file in files.items():
                _reserve(file, *arrays[name])
        except OSError as error:
            if error.errno not in _checks.NO_ROOM:
                raise
            for file in directory.glob("*.npy*"):
                file.unlink()
            size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in arrays.values())
            message = f"no room for {size:,} bytes of the pool. Free some space, or lower n_batches"
            raise OSError(error.errno, message, os.fspath(directory)) from error
    for name, file in files.items():
        header, size = _header(*arrays[name])
        with open(file, "rb") as held:
            if (held.read(len(header)), file.stat().st_size) != (header, size):
                raise ValueError(
                    f"{os.fspath(file)!r} is damaged, or of the pool of another run. Choose another directory, or "
                    "delete that one."
                )
    return {name: np.load(file, mmap_mode="r+", allow_pickle=False) for name, file in files.items()}


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[bytes, int]:
    """Return how the file of an array begins, and its size."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return header.getvalue(), header.tell() + math.prod(shape) * dtype.itemsize


def _reserve(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Make the file of an array of zeros, with its blocks where the system can give them at once."""
    new = path.with_suffix(".npy.new")
    header, size = _header(shape, dtype)
    with open(new, "wb") as file:
        file.write(header)
        file.flush()
        getattr(os, "posix_fallocate", lambda fd, start, end: os.ftruncate(fd, end))(file.fileno(), 0, size)
    os.replace(new, path)
