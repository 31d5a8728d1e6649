r"""The particle flow of the Sinkhorn divergence.

.. math::  x^{k+1} = x^k + \eta\, v^k, \qquad v^k = T_{x^k y}(x^k) - T_{x^k x^k}(x^k)

(NSGF, eq. 14). Flows of many small problems of one size are solved as a stack.

A flow that was followed carries other points too, each for itself, as if it were one particle more. With the clouds
and potentials of a step, :math:`s = \tfrac1n \sum_j e^{(f_j - C(z, x_j))/\varepsilon}` is the mass that z finds in the
cloud x, its own potential :math:`u = e^{f(z)/\varepsilon}` solves :math:`us + u^2/n = 1`, and

.. math::
    z^{k+1} = z^k + \eta \left[T_{x^k y}(z^k) - (1 - w)\, T_{x^k x^k}(z^k) - w z^k\right], \qquad w = u^2 / n.

Among many particles w is next to nothing. Far from all of them, as rows are in many dimensions, it is near 1: without
it a row would keep its distance from the particles on its whole way.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nsgf import _checks, _io
from nsgf._arrays import Array, as_pair, as_weights, device, like, namespace, on_device, plainly, to_numpy
from nsgf.conditions import UNKNOWN
from nsgf.kernel import extent, map_and_softmin, neighbours
from nsgf.minibatches import Problem
from nsgf.sinkhorn import Velocity, in_units_of_data, scaled, settle, solve_velocity
from nsgf.solvers import Centred, Solver, pick_solver, serves_single


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


@_io.storable
class Followed(NamedTuple):
    """A flow that was followed: what other points need to follow it too.

    Attributes
    ----------
    x, f : arrays of shape (K, n, d + l) and (K, n)
        The cloud before every step, and its potential with itself, in squared units; rows in no order.
    y, g : arrays of shape (m, d + l) and (K, m)
        The targets, and their potentials with the clouds.
    blur : float
        √ε, in the units of the clouds.
    rates : tuple of float
        What the velocities of every step are multiplied by.
    span, label : (float, float), and int or None
        As those of a problem.
    """

    x: np.ndarray
    f: np.ndarray
    y: np.ndarray
    g: np.ndarray
    blur: float
    rates: tuple[float, ...]
    span: tuple[float, float] = (0.0, 1.0)
    label: int | None = None

    @classmethod
    def of(
        cls, problem: Problem, steps: Sequence[tuple[Array, Velocity]], blur: float, rates: Sequence[float], tol: float
    ) -> "Followed":
        """Return what is to be kept of the steps of a problem, in float32 where that is well within `tol`."""
        y, xs = to_numpy(problem.y), [to_numpy(x) for x, _ in steps]
        size, light = extent(y, *xs) / blur**2, 1.0 / max(len(xs[0]), len(y))
        dtype = np.float32 if serves_single(size, light, tol) else np.float64
        rows, columns = [neighbours(x) for x in xs], neighbours(y)  # so that far ones can be left out together
        x = np.stack([x[i] for x, i in zip(xs, rows, strict=True)]).astype(dtype)
        f = np.stack([to_numpy(res.self_potentials.f)[i] for (_, res), i in zip(steps, rows, strict=True)])
        g = np.stack([to_numpy(res.potentials.g)[columns] for _, res in steps]).astype(dtype)
        y = y[columns].astype(dtype)
        return cls(x, f.astype(dtype), y, g, blur, tuple(rates), problem.span, problem.label)

    def velocity(self, z: np.ndarray, t: float, device: str = "cpu") -> np.ndarray:
        """Return the velocity of the step at time t, times its rate, at points z (n, d + l)."""
        (begin, end), K = self.span, len(self.rates)
        k = min(int((t - begin) / (end - begin) * K + 1e-6), K - 1)
        points = on_device(z.astype(self.x.dtype), device)

        def mapped(*cloud: np.ndarray) -> tuple[Array, Array]:
            u, p = (on_device(part, device) for part in cloud)
            return map_and_softmin(points, u, p, self.blur**2, namespace(p).ones_like(p) / len(p))

        (T_xy, _), (T_xx, phi) = mapped(self.y, self.g[k]), mapped(self.x[k], self.f[k])
        w = _own_share(phi, self.x.shape[1])[:, None]
        return self.rates[k] * to_numpy(T_xy - (1.0 - w) * T_xx - w * points).astype(z.dtype)

    def check(self) -> None:
        """Raise where a file holds no flow."""
        K, (m, d) = len(self.rates), self.y.shape
        _checks.array("x", self.x, (K, None, d))
        _checks.array("f", self.f, (K, self.x.shape[1]))
        _checks.array("y", self.y, (m, d))
        _checks.array("g", self.g, (K, m))
        _checks.positive("blur", self.blur, "0.3")
        _checks.rising("span", self.span)
        if 0 in self.x.shape or not m or len({z.dtype for z in (self.x, self.f, self.y, self.g)}) > 1:
            raise ValueError("a flow needs steps, and points of one dtype.")


def _own_share(phi: Array, n: int) -> Array:
    """Return w = u²/n where us + u²/n = 1, with s = e^−φ: what a point has of itself among n particles.

    Examples
    --------
    >>> _own_share(np.array([-50.0, 0.0, 50.0]), 2).round(3)  # among many, between, and far from all
    array([0.   , 0.268, 1.   ])
    """
    xp = namespace(phi)
    root = n**0.5 * xp.exp(xp.clip(-phi, None, 30.0))  # √n s, whose square is a float32
    return 4.0 / (root + xp.sqrt(root * root + 4.0)) ** 2


class FlowField(NamedTuple):
    """The velocities of flows that were followed, as a function of points, time and conditions.

    Attributes
    ----------
    flows : tuple of Followed
        One for each label and one for those that are unknown, or one of each part of a time course.
    stretch : float
        What continuous conditions are multiplied by to be coordinates; 0 without such.
    device : str
        Where it is evaluated.
    """

    flows: tuple[Followed, ...]
    stretch: float = 0.0
    device: str = "cpu"

    def __call__(self, x: np.ndarray, t: float, c: np.ndarray | None = None) -> np.ndarray:
        """Return the velocities (n, d) at x (n, d), the time t from 0 to 1 and conditions c (n, k), 0 where unknown."""
        t = min(t + 1e-9, 1.0 - 1e-9)
        flows = {flow.label: flow for flow in self.flows if flow.span[0] <= t < flow.span[1]}
        if c is None:
            return flows[None].velocity(x, t, self.device)
        v, code = np.empty_like(x), np.where(c.any(axis=1), 0 if self.stretch else c.argmax(axis=1), UNKNOWN)
        for k in np.unique(code):
            some, is_lifted = np.flatnonzero(code == k), bool(self.stretch) and k != UNKNOWN
            flow = flows[None] if is_lifted else flows.get(k, flows[UNKNOWN])
            z = np.hstack([x[some], self.stretch * c[some, 1:]]) if is_lifted else x[some]
            v[some] = flow.velocity(z, t, self.device)[:, : x.shape[1]]
        return v


def stacks(problems: Iterable[Problem], solve: Solver) -> Iterator[Problem]:
    """Yield problems of one size and span that follow each other stacked, as many as are best solved at once."""
    group: list[Problem] = []
    for p in problems:
        if group and not (len(group) < solve.stack(len(p.x), len(p.y), str(device(p.x))) and alike(p, group[0])):
            yield stacked(group)
            group = []
        group.append(p)
    if group:
        yield stacked(group)


def alike(p: Problem, q: Problem) -> bool:
    """Whether two problems have one size and span."""
    return bool(p.x.shape == q.x.shape and p.y.shape == q.y.shape and p.span == q.span)


def stacked(group: list[Problem]) -> Problem:
    """Return problems of one size as one with a leading dimension; one alone as it is."""
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
