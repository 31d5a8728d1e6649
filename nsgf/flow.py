r"""The particle flow of the Sinkhorn divergence.

.. math::  x^{k+1} = x^k + \eta\, v^k, \qquad v^k = T_{x^k y}(x^k) - T_{x^k x^k}(x^k)

(NSGF, eq. 14). Flows of many small problems of one size are solved as a stack.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nsgf import _checks
from nsgf._arrays import Array, as_pair, as_weights, device, like, namespace, plainly
from nsgf.minibatches import Problem
from nsgf.sinkhorn import Velocity, in_units_of_data, scaled, settle, solve_velocity
from nsgf.solvers import Centred, Solver, pick_solver


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
    weights: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    n_fixed: int = 0,
) -> Iterator[tuple[Array, Velocity]]:
    """Yield (x^k, v^k) for k = 0 … n_steps − 1.

    The clouds may have a leading dimension, for a stack of flows of one size (:func:`stacks`). There may be one step
    size a step. The last `n_fixed` coordinates enter the cost and do not move.

    A step leaves 1 − η of the way to go, so of the distance between the potentials and those at rest, x = y + c, about
    as much is left: each solve starts there.
    """
    a, b, eps = as_weights(weights[0], x, "a"), as_weights(weights[1], y, "b"), blur * blur
    if not 0 < eps < math.inf:
        raise ValueError(f"blur={blur!r} is a length out of reach of the data. Choose one nearer to the spread.")
    pair, moves = Centred.of(x, y, a, b, eps), namespace(x).ones_like(x[..., :1, :])
    moves[..., x.shape[-1] - n_fixed :] = 0.0
    rest = solve.own(pair.y, eps, pair.b)
    start = solve.start(lambda: rest)
    for eta in np.broadcast_to(step_size, n_steps).tolist():
        res = solve_velocity(Centred.of(x, y, a, b, eps), eps, solve, start)
        yield x, res
        x, left = x + eta * moves * res.v, 1.0 - min(eta, 1.0)
        start = rest._replace(g=rest.g + left * (res.cross.g - rest.g))


def stacks(problems: Iterable[Problem], solve: Solver) -> Iterator[Problem]:
    """Yield problems of one size and span that follow each other stacked, as many as are best solved at once."""
    group: list[Problem] = []
    for p in problems:
        if group and not (len(group) < solve.stack(len(p.x), len(p.y), str(device(p.x))) and _alike(p, group[0])):
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
    xp, (xs, ys, cs, *_) = namespace(group[0].x), zip(*group, strict=True)
    return group[0]._replace(x=xp.stack(xs), y=xp.stack(ys), c=None if cs[0] is None else np.stack(cs))


@plainly()
def sinkhorn_flow(  # noqa: PLR0913  the clouds, their weights, and the three numbers of the scheme
    x: ArrayLike,
    y: ArrayLike,
    blur: "float | str" = "auto",
    n_steps: int = 10,
    step_size: float = 1.0,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
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
    xs, ys, length, unit = scaled(*as_pair(x, y), blur=blur)
    steps = list(flow_steps(xs, ys, length, n_steps, step_size, solve, (a, b)))
    error, converged = max(res.error for _, res in steps), all(res.converged for _, res in steps)
    settle(error, converged, solve)
    x_last, last = steps[-1]
    xp = namespace(xs)
    positions = xp.stack([x_k for x_k, _ in steps] + [x_last + step_size * last.v])
    velocities = xp.stack([res.v for _, res in steps])
    t = like(np.linspace(0.0, 1.0, n_steps + 1), xs)
    positions, velocities = in_units_of_data(positions, unit), in_units_of_data(velocities, unit)
    return Trajectory(t, like(positions, x), like(velocities, x), error, converged)


def check_steps(n_steps: object, step_size: object) -> None:
    """Raise where the scheme is not one: it takes at least one step, and a positive step size."""
    _checks.count("n_steps", n_steps)
    _checks.positive("step_size", step_size, "1.0")
