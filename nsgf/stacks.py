"""Many Sinkhorn velocities at once, each with its own certificate."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from numpy.typing import ArrayLike

from nsgf._arrays import as_pair, as_weights, columns_of, device, like, namespace, plainly
from nsgf.kernel import RESOLVED, extent
from nsgf.sinkhorn import Velocity, in_units_of_data, scaled, settle, solve_velocity
from nsgf.solvers import Centred, Potentials, Solver, pick_solver, serves_single


@plainly()
def sinkhorn_velocities(
    xs: Sequence[ArrayLike],
    ys: Sequence[ArrayLike],
    blur: "float | str" = "auto",
    a: "Sequence[ArrayLike | None] | None" = None,
    b: "Sequence[ArrayLike | None] | None" = None,
    solver: "Solver | str" = "auto",
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
    a, b = ([None] * count if w is None else w for w in (a, b))
    if {len(ys), len(a), len(b)} != {count}:
        lengths = f"{count}, {len(ys)}, {len(a)} and {len(b)}"
        raise ValueError(f"xs, ys, a and b have {lengths} entries; give one of each a problem, or None as a or b.")
    problems = [_Posed.of(*given, blur) for given in zip(xs, ys, a, b, strict=True)]
    groups: dict[Any, list[int]] = {}
    for k, p in enumerate(problems):
        alike = k if a[k] is not None or b[k] is not None else None  # a stack has its weights in common
        groups.setdefault((alike, *p.kind(solve.tol)), []).append(k)
    parts = [part for group in groups.values() for part in _in_stacks(group, problems, solve)]
    found: dict[int, Velocity] = {}
    solved = [_solve([problems[k] for k in part], solve) for part in parts]
    for part, velocities in zip(parts, solved, strict=True):
        found.update(zip(part, velocities, strict=True))
    for res in sorted(found.values(), key=lambda res: (res.converged, -res.error))[:1]:  # the worst one, if any
        settle(res.error, res.converged, solve)
    return [found[k] for k in range(count)]


class _Posed(NamedTuple):
    """A problem of many: its clouds as they came, and centred in lengths of a unit."""

    x: Any
    pair: Centred
    length: float  # of the blur
    unit: float

    @classmethod
    def of(cls, x: Any, y: Any, a: ArrayLike | None, b: ArrayLike | None, blur: "float | str") -> Self:
        """Return what was posed, or raise where it is no problem."""
        x_k, y_k, length, unit = scaled(*as_pair(x, y), blur)
        pair = Centred.of(x_k, y_k, as_weights(a, x_k, "a"), as_weights(b, y_k, "b"), length**2)
        return cls(x, pair, length, unit)

    def kind(self, tol: float) -> tuple[Any, ...]:
        """Return what the problems of a stack have in common: library, sizes, and the arithmetic that they need."""
        x, y = self.pair.x, self.pair.y
        size = extent(x, y) / self.length**2
        single = serves_single(size, 1.0 / max(len(x), len(y)), tol)
        return str(device(x)), type(x), x.dtype, tuple(x.shape), tuple(y.shape), size > RESOLVED, single


def _in_stacks(group: list[int], problems: list[_Posed], solve: Solver) -> list[list[int]]:
    """Part problems of one size into stacks, as many as are best solved at once."""
    pair = problems[group[0]].pair
    size = solve.stack(pair.x.shape[-2], pair.y.shape[-2], str(device(pair.x)))
    return [group[k : k + size] for k in range(0, len(group), size)]


def _solve(problems: list[_Posed], solve: Solver) -> list[Velocity]:
    """Return the velocities of problems of one size, solved in units of their blurs."""
    if len(problems) == 1:
        p, eps = problems[0], problems[0].length ** 2
        return [_out(p, solve_velocity(p.pair, eps, solve, _start(p.pair, eps, solve)))]
    xp, first = namespace(problems[0].pair.x), problems[0].pair
    x, y, x_mean, y_mean = (
        xp.stack([getattr(p.pair, name) / p.length for p in problems]) for name in ("x", "y", "x_mean", "y_mean")
    )
    pair = Centred(x, y, first.a, first.b, x_mean, y_mean)
    found, velocities = solve.difference(pair, 1.0, _start(pair, 1.0, solve)), []
    if not found.each:  # the solver does not say what it measured of each
        return [res for p in problems for res in _solve([p], solve)]
    for k, (p, c) in enumerate(zip(problems, found.each, strict=True)):
        eps, precision = p.length**2, found.cross.precision
        cross = Potentials(found.cross.f[k] * eps, found.cross.g[k] * eps, *c.cross, precision)
        own = Potentials(found.own.f[k] * eps, found.own.g[k] * eps, *c.own, found.own.precision)
        v = found.v[k] * p.length
        velocities.append(_out(p, Velocity(v, c.error, c.converged, p.pair, cross, own, p.length)))
    return velocities


def _start(pair: Centred, eps: float, solve: Solver) -> Potentials | None:
    return solve.start(lambda: solve.own(pair.y, eps, pair.b))


def _out(p: _Posed, res: Velocity) -> Velocity:
    """Return a velocity in the units and library of the caller's own x."""
    v = like(in_units_of_data(res.v, p.unit), p.x)
    return dataclasses.replace(res, v=v, unit=p.unit, columns=columns_of(p.x))
