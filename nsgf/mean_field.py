r"""The mean field of minibatches: particles that follow the average of what many minibatches say.

A network that is matched to the velocities of single minibatches learns their average at the places that single
minibatches lead to, which are others than those to which the average leads. Here the particles of M minibatches
:math:`x_j`, with targets :math:`y_j`, are moved together,

.. math::
    v(z) = \overline T_{xy}(z) - z + \lambda\,\bigl(z - \overline T_{xx'}(z)\bigr), \qquad
    \overline T_{xy} = \frac1M \sum_j T_{x_j y_j}, \quad \overline T_{xx'} = \frac1M \sum_j T_{x_j x_{j+1}},

each by those minibatches that it is not in, so that new points would go the same way. With λ = 0 every particle is its
own self term, and the cloud shrinks to what is common to the maps; with λ = 1 the self term is of another minibatch,
and the noise that remains of small ones widens the cloud, the more so as the rows of the target come again and those of
the particles do not. Between them lies the λ at which a whole step has the spread of the target, the root of a
quadratic equation.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from nsgf._arrays import Array, device, namespace
from nsgf.kernel import barycentric_map
from nsgf.sinkhorn import Velocity, solve_velocity
from nsgf.solvers import Centred, Solver

LEAST = 4  # minibatches of which each is moved by at least one that it has no part in


def mean_field_steps(
    x: Array, y: Array, blur: float, step_sizes: Sequence[float], solve: Solver, n_fixed: int = 0
) -> Iterator[tuple[Array, Velocity]]:
    """Yield positions (M, n, d) and velocities of M minibatches that move together, step by step.

    Parameters
    ----------
    x, y : arrays of shape (M, n, d) and (M, m, d)
        Particles and targets; the last `n_fixed` coordinates enter the cost and do not move.
    blur : float
        √ε, in the units of the clouds.
    step_sizes : sequence of float
        η of every step.
    solve : Solver
        How the problems are solved.
    n_fixed : int
        Coordinates that do not move.

    Examples
    --------
    >>> from nsgf import Sinkhorn
    >>> x, y = np.random.default_rng(0).normal(size=(2, 6, 200, 1))
    >>> *_, (z, _) = mean_field_steps(x, 3 * y + 5, 0.5, [1.0, 1.0, 1.0], Sinkhorn())
    >>> bool(abs(z.mean() - 5) < 0.3), bool(abs(z.std() - 3) < 0.3)
    (True, True)
    """
    eps, moves = blur * blur, namespace(x).ones_like(x[0, 0])
    moves[x.shape[-1] - n_fixed :] = 0.0
    for eta in step_sizes:
        res = _velocities(x, y, eps, solve, moves)
        yield x, res
        x = x + eta * moves * res.v


def _velocities(x: Array, y: Array, eps: float, solve: Solver, moves: Array) -> Velocity:
    xp = namespace(x)
    own = xp.eye(len(x), dtype=x.dtype, device=device(x))  # own[j, i]: minibatch i has a part in problem j
    cross, T_xy = _mean_map(x, y, eps, solve, 1.0 - own)
    twins, T_xx = _mean_map(x, xp.roll(x, -1, axis=0), eps, solve, 1.0 - own - xp.roll(own, 1, axis=1))
    lam = _spread_keeping(*(moves * z for z in (T_xy, x - T_xx, y)))
    v = (T_xy - x) + lam * (x - T_xx)
    error, converged = max(cross.error, twins.error), cross.converged and twins.converged
    return dataclasses.replace(cross, v=v, error=error, converged=converged)


def _mean_map(x: Array, y: Array, eps: float, solve: Solver, weights: Array) -> tuple[Velocity, Array]:
    """Return the velocities of M problems, and at x (M, n, d) the mean of their maps by weights (M problems, M)."""
    res = _solved(x, y, eps, solve)
    pair, g, z = res.pair, res.cross.g, x.reshape(-1, x.shape[-1])
    mean = namespace(x).zeros_like(x)
    for j in range(len(x)):
        T = barycentric_map(z - pair.x_mean[j], pair.y[j], g[j], eps, pair.b) + pair.y_mean[j]
        mean += weights[j][:, None, None] * T.reshape(x.shape)
    return res, mean / namespace(x).sum(weights, axis=0)[:, None, None]


def _solved(x: Array, y: Array, eps: float, solve: Solver) -> Velocity:
    """Return the velocities of M problems, solved as many at once as is best."""
    xp, (n, m) = namespace(x), (x.shape[1], y.shape[1])
    a, b = (xp.full(k, 1.0 / k, dtype=x.dtype, device=device(x)) for k in (n, m))
    size = solve.stack(n, m, str(device(x)))
    pair, parts = Centred.of(x, y, a, b, eps), []
    for k in range(0, len(x), size):
        part = dataclasses.replace(
            pair, **{name: getattr(pair, name)[k : k + size] for name in ("x", "y", "x_mean", "y_mean")}
        )
        rest = solve.start(lambda part=part: solve.own(part.y, eps, part.b))  # type: ignore[misc]
        parts.append(solve_velocity(part, eps, solve, rest))
    cross = parts[0].cross._replace(
        f=xp.concat([res.cross.f for res in parts]), g=xp.concat([res.cross.g for res in parts])
    )
    own = parts[0].own._replace(f=xp.concat([res.own.f for res in parts]), g=xp.concat([res.own.g for res in parts]))
    v = xp.concat([res.v for res in parts])
    error, converged = max(res.error for res in parts), all(res.converged for res in parts)
    return Velocity(v, error, converged, pair, cross, own, eps**0.5)


def _spread_keeping(T: Array, u: Array, y: Array) -> float:
    """Return λ in [0, 1] at which T + λ u has the spread of y, as nearly as there is one.

    Examples
    --------
    >>> y = np.array([[-1.0], [1.0]])
    >>> round(_spread_keeping(0.5 * y, y, y), 6)
    0.5
    """
    T, u, y = (z.reshape(-1, z.shape[-1]) for z in (T, u, y))
    T, u, y = (z - namespace(z).mean(z, axis=0) for z in (T, u, y))
    a, b, c = (float((p * q).sum()) / len(p) for p, q in ((u, u), (u, T), (T, T)))
    wanted = float((y * y).sum()) / len(y)
    root = max(b * b - a * (c - wanted), 0.0) ** 0.5
    return float(np.clip((root - b) / a, 0.0, 1.0)) if a > 0.0 else 0.0
