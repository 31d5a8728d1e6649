"""Many Sinkhorn velocities at once, each with its own certificate."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from nsgf._arrays import device, namespace, plainly
from nsgf.kernel import RESOLVED, extent
from nsgf.sinkhorn import Posed, Velocity, settle
from nsgf.solvers import Centred, Potentials, Solver, pick_solver, serves_single


@plainly()
def sinkhorn_velocities(  # noqa: PLR0913  as of `sinkhorn_velocity`
    xs: Sequence[ArrayLike],
    ys: Sequence[ArrayLike],
    blur: "float | str" = "auto",
    a: "Sequence[ArrayLike | None] | None" = None,
    b: "Sequence[ArrayLike | None] | None" = None,
    solver: "Solver | str" = "auto",
    xs_self: "Sequence[ArrayLike | None] | None" = None,
    a_self: "Sequence[ArrayLike | None] | None" = None,
) -> list[Velocity]:
    """Return the velocities of many problems, each with its own certificate.

    Problems of one size are solved as a stack, on all cores; none waits for one that needs more iterations.

    Parameters
    ----------
    xs, ys : sequences of arrays of shape (n_k, d_k) and (m_k, d_k), or arrays of shape (k, n, d) and (k, m, d)
        The clouds of each problem, of equal or unequal sizes. NumPy, CuPy or torch.
    blur : float or "auto"
        Length scale √ε, in the units of the data; ``"auto"`` is 0.15 of the spread of each problem.
    a, b : sequences of arrays of shape (n_k,) and (m_k,), optional
        Weights of the rows; None, for all problems or for one, is uniform.
    solver : solver value or "auto"
        How the cross problems are solved.
    xs_self : sequence of arrays of shape (k_k, d_k), optional
        An independent batch for each self term; None, for all problems or for one, is of the particles themselves.
    a_self : sequence of arrays of shape (k_k,), optional
        Weights of their rows; None is uniform.

    Returns
    -------
    list of Velocity
        One a problem, as :func:`sinkhorn_velocity` returns it.

    Raises
    ------
    ValueError, RuntimeError
        As :func:`sinkhorn_velocity` does, and where the sequences have different lengths.

    Warns
    -----
    ConvergenceWarning
        Where some did not converge and the solver's policy is ``"warn"``.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> xs = [rng.normal(size=(n, 2)) for n in (40, 64, 64)]
    >>> found = sinkhorn_velocities(xs, [x + [3.0, 0.0] for x in xs], blur=0.5)
    >>> [res.v.mean(0).round(2).tolist() for res in found], all(res.converged for res in found)
    ([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0]], True)
    """
    solve, count = pick_solver(solver), len(xs)
    a, b, xs_self, a_self = ([None] * count if w is None else w for w in (a, b, xs_self, a_self))
    if {len(ys), len(a), len(b), len(xs_self), len(a_self)} != {count}:
        lengths = f"{count}, {len(ys)}, {len(a)}, {len(b)}, {len(xs_self)} and {len(a_self)}"
        raise ValueError(
            f"xs, ys, a, b, xs_self and a_self have {lengths} entries; give one of each a problem, or None as any but "
            "the first two."
        )
    problems = [Posed.of(*given) for given in zip(xs, ys, [blur] * count, a, b, xs_self, a_self, strict=True)]
    groups: dict[Any, list[int]] = {}
    for k, p in enumerate(problems):
        alike = k if any(w[k] is not None for w in (a, b, a_self)) else None  # a stack has its weights in common
        groups.setdefault((alike, *_kind(p, solve.tol)), []).append(k)
    parts = [part for group in groups.values() for part in _in_stacks(group, problems, solve)]
    found: dict[int, Velocity] = {}
    solved = [_solve([problems[k] for k in part], solve) for part in parts]
    for part, velocities in zip(parts, solved, strict=True):
        found.update(zip(part, velocities, strict=True))
    for res in sorted(found.values(), key=lambda res: (res.converged, -res.error))[:1]:  # the worst one, if any
        settle(res.error, res.converged, solve)
    return [found[k] for k in range(count)]


def _kind(p: Posed, tol: float) -> tuple[Any, ...]:
    """Return what the problems of a stack have in common: library, sizes, and the arithmetic that they need."""
    kind = [str(device(p.pair.x)), type(p.pair.x), p.pair.x.dtype]
    for pair in (p.pair, p.self_pair or p.pair):
        size = extent(pair.x, pair.y) / p.length**2
        single = serves_single(size, 1.0 / max(len(pair.x), len(pair.y)), tol)
        kind += [tuple(pair.x.shape), tuple(pair.y.shape), size > RESOLVED, single]
    return p.self_pair is None, *kind


def _in_stacks(group: list[int], problems: list[Posed], solve: Solver) -> list[list[int]]:
    """Part problems of one size into stacks, as many as are best solved at once."""
    pair = problems[group[0]].pair
    size = solve.stack(pair.x.shape[-2], pair.y.shape[-2], str(device(pair.x)))
    return [group[k : k + size] for k in range(0, len(group), size)]


def _solve(problems: list[Posed], solve: Solver) -> list[Velocity]:
    """Return the velocities of problems of one size, solved in units of their blurs."""
    if len(problems) == 1:
        return [p.velocity(solve, p.start(solve)) for p in problems]
    pair = _stacked([p.pair / p.length for p in problems])
    apart = [p.self_pair / p.length for p in problems if p.self_pair is not None]
    start = solve.start(lambda: solve.own(pair.y, 1.0, pair.b))
    found, velocities = solve.difference(pair, 1.0, start, _stacked(apart) if apart else None), []
    if not found.each:  # the solver does not say what it measured of each
        return [res for p in problems for res in _solve([p], solve)]
    for k, (p, c) in enumerate(zip(problems, found.each, strict=True)):
        eps, precision = p.length**2, found.cross.precision
        cross = Potentials(found.cross.f[k] * eps, found.cross.g[k] * eps, *c.cross, precision)
        own = Potentials(found.own.f[k] * eps, found.own.g[k] * eps, *c.own, found.own.precision)
        v = found.v[k] * p.length
        res = Velocity(v, c.error, c.converged, p.pair, cross, own, p.length, self_pair=p.self_pair)
        velocities.append(p.out(res))
    return velocities


def _stacked(pairs: list[Centred]) -> Centred:
    """Return pairs of one size, with weights in common, as one."""
    xp, first = namespace(pairs[0].x), pairs[0]
    x, y, x_mean, y_mean = (xp.stack([getattr(p, name) for p in pairs]) for name in ("x", "y", "x_mean", "y_mean"))
    return Centred(x, y, first.a, first.b, x_mean, y_mean)
