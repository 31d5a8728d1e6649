r"""Velocities of two batches that serve each other as independent self terms.

Batches x and x′ of one law, with targets y and y′ of another, move along

.. math::  v(x) = T_{xy}(x) - T_{xx'}(x), \qquad v(x') = T_{x'y'}(x') - T_{x'x}(x')

(Han et al. 2026). One plan of x and x′ gives both self terms, its rows the first and its columns the second:
three problems are solved and not four, and where all batches have one size, as one stack.
"""

from typing import Any, NamedTuple

from nsgf._arrays import Array, as_weights, device, namespace
from nsgf.fixed_point import extents, rms, units
from nsgf.kernel import barycentric_map
from nsgf.solvers import Centred, Potentials, Solver

_SHARE = 0.45  # of the tolerance, for either of the maps that a velocity is the difference of


class Twins(NamedTuple):
    """The velocities of two batches, with their certificate.

    Attributes
    ----------
    v, v_other : arrays of shape (…, n, d) and (…, k, d)
        Velocities of the points of either batch.
    own, own_other : arrays of the same shapes
        Their self terms T_xx′(x) and T_x′x(x′).
    error : float
        The largest of the marginal errors and of the relative errors of the velocities, as of :class:`nsgf.Velocity`.
    converged : bool
        Whether `error` is within the solver's tolerance.
    """

    v: Array
    v_other: Array
    own: Array
    own_other: Array
    error: float
    converged: bool


def twin_velocities(x: Array, x_other: Array, y: Array, y_other: Array, blur: float, solve: Solver) -> Twins:
    """Return v(x) = T_xy(x) − T_xx′(x) and v(x′) = T_x′y′(x′) − T_x′x(x′).

    Parameters
    ----------
    x, x_other : arrays of shape (…, n, d) and (…, k, d)
        Batches of the particles, uniformly weighted. Leading dimensions are of problems apart from each other.
    y, y_other : arrays of shape (…, m, d) and (…, l, d)
        Batches of the targets, one for each. With n = k = m = l all is solved as one stack, which is fastest.
    blur : float
        Length scale √ε, in the units of the data.
    solve : Solver
        How the problems are solved.

    Returns
    -------
    Twins
        ``.v``, ``.v_other``, ``.error``, ``.converged``; the caller settles what unconverged ones mean.

    Notes
    -----
    Arrays are finite and of one library and dtype: nothing is checked here. The error of T_x′x is taken to be that of
    T_xx′, of which it is one half step further on; errors are estimates, and true ones about a tenth of them, so that
    a learner is served by ``Sinkhorn(tol=0.1)`` too. Solves find their own starts: to begin from the potentials of the
    batches before, extended to the new ones, saves a third of the iterations and costs nearly as much.

    Examples
    --------
    >>> import numpy as np
    >>> from nsgf import Sinkhorn
    >>> x, x_other, y, y_other = np.random.default_rng(0).normal(size=(4, 64, 2))
    >>> found = twin_velocities(x, x_other, y + [3.0, 0.0], y_other + [3.0, 0.0], 0.5, Sinkhorn(tol=1e-2))
    >>> found.v.shape, found.v_other.shape, found.converged
    ((64, 2), (64, 2), True)
    """
    A, B, Y, Y_other = (z.reshape(-1, *z.shape[-2:]) for z in (x, x_other, y, y_other))
    posed, eps = [_Posed(A, Y), _Posed(B, Y_other), _Posed(A, B)], blur * blur
    found = _solved(posed, eps, solve)
    res = _velocities(found, eps, solve.tol)
    if not res.converged:  # T − x, to which errors were relative, is longer than the velocity
        found = _solved(_again(posed, found, eps), eps, solve)
        res = _velocities(found, eps, solve.tol)
    v, own = (z.reshape(x.shape) for z in (res.v, res.own))
    v_other, own_other = (z.reshape(x_other.shape) for z in (res.v_other, res.own_other))
    return Twins(v, v_other, own, own_other, res.error, res.converged)


class _Posed(NamedTuple):
    """Problems of a stack, with what their solves begin with, and what errors are relative to."""

    x: Array  # (k, n, d)
    y: Array  # (k, m, d)
    g: Array | None = None  # (k, m)
    base: Array | None = None  # (k, n, d), where y lies


class _Found(NamedTuple):
    """The solution of a stack, of clouds that are centred."""

    x: Array  # (k, n, d)
    y: Array  # (k, m, d)
    T: Array  # (k, n, d), of x where y is centred
    f: Array  # (k, n)
    g: Array  # (k, m)
    x_mean: Array  # (k, 1, d)
    y_mean: Array  # (k, 1, d)
    size: Array  # (k,), extents in squares of the blur
    T_error: Array  # (k,)
    marginal: Array  # (k,)
    within: Array  # (k,)

    def back(self, eps: float) -> Array:
        """Return the map of y, where x is centred: the plan is one, and its columns serve as its rows do, (k, m, d)."""
        return barycentric_map(self.y, self.x, self.f, eps, as_weights(None, self.x, "x"))


def _solved(posed: list[_Posed], eps: float, solve: Solver) -> list[_Found]:
    """Solve stacks of problems, of one size as one."""
    if len({p.x.shape for p in posed} | {p.y.shape for p in posed}) > 1:
        return [_stack_solved(p, eps, solve) for p in posed]
    whole = _stack_solved(_Posed(*map(_joined, zip(*posed, strict=True))), eps, solve)
    k = len(posed[0].x)
    return [_Found(*(z[i : i + k] for z in whole)) for i in range(0, len(whole.T), k)]


def _stack_solved(p: _Posed, eps: float, solve: Solver) -> _Found:
    """Solve a stack, as many problems at a time as the solver takes."""
    step = solve.stack(p.x.shape[-2], p.y.shape[-2], str(device(p.x)))
    parts = [_Posed(*(None if z is None else z[i : i + step] for z in p)) for i in range(0, len(p.x), step)]
    return _Found(*map(_joined, zip(*(_part_solved(part, eps, solve) for part in parts), strict=True)))


def _part_solved(p: _Posed, eps: float, solve: Solver) -> _Found:
    if len(p.x) == 1:  # which any solver takes without a leading dimension
        p = _Posed(*(None if z is None else z[0] for z in p))
    pair = Centred.of(p.x, p.y, as_weights(None, p.x, "x"), as_weights(None, p.y, "y"), eps)
    x_mean, y_mean = pair.x_mean[..., None, :], pair.y_mean[..., None, :]
    start = None if p.g is None else Potentials(p.g, p.g, 0.0, 0, False)
    base = None if p.base is None else p.base - y_mean
    solved = solve.mapped(pair, eps, start, base, _SHARE)
    found = _Found(
        pair.x, pair.y, solved.T, solved.potentials.f, solved.potentials.g, x_mean, y_mean,
        extents(pair.x, pair.y) / eps, solved.T_error, solved.marginal, solved.within,
    )  # fmt: skip
    return found if p.x.ndim == 3 else _Found(*(z[None] for z in found))


def _joined(parts: tuple[Any, ...]) -> Any:
    return parts[0] if len(parts) == 1 or parts[0] is None else namespace(*parts).concat(parts, axis=0)


def _velocities(solved: list[_Found], eps: float, tol: float) -> Twins:
    """Return both velocities, with the certificate of the worst of all problems."""
    cross, cross_other, own = solved
    xp = namespace(own.T)
    back = own.back(eps)
    v = (cross.T - own.T) + (cross.y_mean - own.y_mean)
    v_other = (cross_other.T - back) + (cross_other.y_mean - own.x_mean)
    error, within = max(float(xp.max(z.marginal)) for z in solved), all(bool(xp.all(z.within)) for z in solved)
    for found, w in ((cross, v), (cross_other, v_other)):
        least, most = (eps**0.5 * z for z in units(xp.maximum(found.size, own.size) ** 0.5))
        relative = (found.T_error + own.T_error) / xp.minimum(xp.maximum(rms(w), least), most)
        error = max(error, float(xp.max(relative)))
    return Twins(v, v_other, own.T + own.y_mean, back + own.x_mean, error, within and error <= tol)


def _again(posed: list[_Posed], solved: list[_Found], eps: float) -> list[_Posed]:
    """Return the problems, to be solved on until errors are small against the velocities."""
    cross, cross_other, own = solved
    bases = own.T + own.y_mean, own.back(eps) + own.x_mean, cross.T + cross.y_mean
    return [p._replace(g=z.g, base=base) for p, z, base in zip(posed, solved, bases, strict=True)]
