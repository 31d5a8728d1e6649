r"""The Sinkhorn divergence and its Wasserstein gradient.

.. math::
    S_\varepsilon(x, y) = W_\varepsilon(x, y) - \tfrac12 W_\varepsilon(x, x) - \tfrac12 W_\varepsilon(y, y)

with :math:`W_\varepsilon = \sum_i a_i f_i + \sum_j b_j g_j` the full dual value. Its first variation at :math:`x` is
:math:`f_{xy} - f_{xx}`, and the gradient of a potential is :math:`x - T(x)` with the barycentric map :math:`T`, so
steepest descent moves every particle along (NSGF, eq. 11; Feydy et al. 2019, sec. 3.2)

.. math::  v(x) = T_{xy}(x) - T_{xx}(x).

That is exact for the cloud, and biased for the law that it was drawn from: the mean over clouds pulls inwards even
where x and y have one law. With an independent batch x′ for the self term, :math:`T_{xy}(x) - T_{xx'}(x)`, it does not.

Both clouds are centred first: a translation adds to the cost only terms that the potentials absorb, so the result is
the same, exactly, and far-away clouds lose no digits.
"""

import contextlib
import dataclasses
import math
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from nsgf._arrays import (
    Array,
    as_pair,
    as_points,
    as_weights,
    columns_of,
    device,
    like,
    namespace,
    plainly,
    same_columns,
)
from nsgf._checks import warn
from nsgf.fixed_point import LEAST_UNIT
from nsgf.kernel import cost, extent
from nsgf.solvers import Centred, Potentials, Solver, checked, dual_value, pick_solver

BLUR_FRACTION = 0.15  # of the spread: docs/benchmarks, where smaller blurs gain nothing and cost more iterations
_LEAST_RATIO = 2.0**-60  # of the blur and the data: neither float32 nor the digits of the data reach further
_LEAST = 1e-300  # float64 holds fewer digits below
_FINEST = 1e-6  # tolerance of divergences near zero: rounding is not far below
_NEAR_ZERO = 1e-4  # of the least unit of a divergence: smaller ones need not be known to all digits
_PLAN_BLOCK = 2**22  # entries of the plan that exist at a time


def spread(x: ArrayLike, a: ArrayLike | None = None) -> float:
    """Return the root-mean-square distance of the rows of `x` to their mean, in the units of `x`; `a` are weights.

    Examples
    --------
    >>> spread([[-3.0, 0.0], [3.0, 0.0]])
    3.0
    """
    return deviation(as_points(x, "x"), a)


def deviation(x: Array, a: ArrayLike | None = None) -> float:
    """Return the spread of what is an array of finite numbers."""
    xp = namespace(x)
    a = as_weights(a, x, "a")
    scale = float(xp.max(xp.abs(x))) or 1.0  # so that squares neither over- nor underflow
    z = x / scale
    z = z - a @ z
    return scale * math.sqrt(float(a @ xp.vecdot(z, z)))


def pick_blur(blur: "float | str", x: Array, y: Array) -> float:
    """Return `blur`, or for ``"auto"`` 0.15 of the spread of both clouds; positive, or an error."""
    if isinstance(blur, str) and blur == "auto":
        return BLUR_FRACTION * math.hypot(deviation(x), deviation(y)) / math.sqrt(2.0) or 1.0  # any ε serves two points
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # of float(): text, None, several numbers
        length = float(blur)
        if not isinstance(blur, str) and 0 < length < math.inf:
            return length
    raise ValueError(f"blur={blur!r} must be 'auto' or a positive length in the units of the data (blur² is ε).")


@dataclasses.dataclass(frozen=True)
class Velocity:
    """An empirical velocity with its certificate; called on new points, it gives their velocity too.

    Attributes
    ----------
    v : array of shape (n, d)
        Velocity at the source points, in the library, dtype and device of the source.
    error : float
        The largest of the marginal errors of both problems (L1 mass misplaced, 0 to 2) and, where the solver measures
        it, the error of `v`: root-mean-square over the particles, relative to that of `v`. Where `v` is smaller than a
        tenth of the blur, or of the extent of the clouds, it is relative to the smaller of these; where `v` is larger
        than that extent, as between clouds far from each other, to the extent.
    converged : bool
        Whether `error` is within the solver's tolerance.
    pair, cross, own, blur : Centred, Potentials, Potentials and float
        The clouds, moved near the origin, their potentials with each other and of the self term, and the blur, all in
        lengths of `unit`: what a call on new points needs.
    unit : float
        The length that they are measured in, in units of the data.
    columns : list or None
        Names of the columns of the source, where it is a data frame.
    self_pair : Centred or None
        The source and the independent batch of the self term, where there is one.
    """

    v: Array
    error: float
    converged: bool
    pair: Centred = dataclasses.field(repr=False)
    cross: Potentials = dataclasses.field(repr=False)
    own: Potentials = dataclasses.field(repr=False)
    blur: float = dataclasses.field(repr=False)
    unit: float = dataclasses.field(default=1.0, repr=False)
    columns: list[Any] | None = dataclasses.field(default=None, repr=False)
    self_pair: Centred | None = dataclasses.field(default=None, repr=False)

    @property
    def potentials(self) -> Potentials:
        """Cross potentials (f, g) of the two clouds, in squared units of the data.

        Hand them back as ``init=`` to start the next solve from. ValueError where the dtype does not hold them.
        """
        return _in_squared_units(_out_of_frame(self.cross, self.pair), self.unit)

    @property
    def self_potentials(self) -> Potentials:
        """Potentials of the self term: of the source with itself, or with its independent batch."""
        own = self.own if self.self_pair is None else _out_of_frame(self.own, self.self_pair)
        return _in_squared_units(own, self.unit)

    @property
    def eps(self) -> float:
        """Regularisation, blur², in squared units of the data."""
        return self.blur * self.unit * self.blur * self.unit

    @property
    def n_iter(self) -> int:
        """Iterations of both problems."""
        return self.cross.n_iter + self.own.n_iter

    @plainly()
    def __call__(self, z: Array) -> Array:
        """Return T_xy(z) − T_xx(z) (or T_xx′) at any points z of shape (k, d): the flow off its own particles."""
        same_columns([self.columns, columns_of(z)], "x and z", "z[x.columns]")
        zs, _ = as_pair(z, self.pair.x, names=("z", "x"))
        xp, dtype = namespace(zs), zs.dtype
        zs = xp.astype(_in_unit(zs, self.unit), self.pair.x.dtype)
        v = self.pair.at(zs - self.pair.x_mean, self.cross, self.own, self.blur**2, self.self_pair)
        return like(in_units_of_data(xp.astype(v, dtype), self.unit), z)

    def partners(self, rng: np.random.Generator) -> Array:
        """Draw a target point for every particle from the plan: y_j with probability P_ij / a_i, shape (n, d).

        Examples
        --------
        >>> x = np.array([[0.0], [1.0]])
        >>> sinkhorn_velocity(x, x + 5.0, blur=0.1).partners(np.random.default_rng(0))
        array([[5.],
               [6.]])
        """
        chosen = self.partner_rows(rng).reshape(-1, self.pair.x.shape[-2])  # (problems, n)
        xp, y = namespace(self.pair.y), self.pair.y
        first = y.shape[-2] * xp.arange(len(chosen), device=device(y))[:, None]
        chosen = xp.take(y.reshape(-1, y.shape[-1]), (first + chosen).reshape(-1), axis=0)
        chosen = chosen.reshape(self.pair.x.shape) + self.pair.y_mean[..., None, :]
        return in_units_of_data(chosen, self.unit)

    @plainly()
    def partner_rows(self, rng: np.random.Generator) -> Array:
        """Return the rows of the targets that :meth:`partners` draws, integers (n,)."""
        x, y, h = self.pair.x / self.blur, self.pair.y / self.blur, self.cross.g / self.blur**2
        xp, m = namespace(x), y.shape[-2]
        u = xp.asarray(rng.random(x.shape[:-1]), dtype=x.dtype, device=device(x))
        with np.errstate(divide="ignore"):
            log_b = xp.log(self.pair.b)
        drawn = []
        for i in range(0, x.shape[-2], step := max(1, _PLAN_BLOCK // m)):
            scores = h[..., None, :] - cost(x[..., i : i + step, :], y) + log_b
            mass = xp.cumulative_sum(xp.exp(scores - xp.max(scores, axis=-1, keepdims=True)), axis=-1)
            below = mass <= u[..., i : i + step, None] * mass[..., -1:]
            drawn.append(xp.clip(xp.sum(below, axis=-1), None, m - 1))
        return xp.concat(drawn, axis=-1)


@plainly()
def sinkhorn_velocity(  # noqa: PLR0913  the clouds, their weights, and how they are solved
    x: ArrayLike,
    y: ArrayLike,
    blur: "float | str" = "auto",
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    solver: "Solver | str" = "auto",
    init: Potentials | None = None,
    x_self: ArrayLike | None = None,
    a_self: ArrayLike | None = None,
) -> Velocity:
    """Steepest descent of S_ε(x, y): v = T_xy(x) − T_xx(x); or, with an independent batch, T_xy(x) − T_xx′(x).

    Parameters
    ----------
    x : array of shape (n, d)
        Particles to move. NumPy, CuPy or torch; lists and data frames are read as NumPy.
    y : array of shape (m, d)
        Target points, in the library of `x`.
    blur : float or "auto"
        Length scale √ε, in the units of the data; ``"auto"`` is 0.15 of the data's spread.
    a, b : arrays of shape (n,) and (m,), optional
        Weights of the rows, normalised to total mass 1; uniform by default.
    solver : solver value or "auto"
        How the cross problem is solved, such as ``nsgf.Sinkhorn(tol=1e-6)`` or ``nsgf.POT()``.
    init : Potentials, optional
        Potentials to start from, such as ``previous.potentials``; they belong to the rows of `y`. By default the
        solver finds its own start.
    x_self : array of shape (k, d), optional
        An independent batch x′ of the law of `x`, of any size, best of that of `y`, for the self term; by default that
        is of `x` itself. See the notes for which to take.
    a_self : array of shape (k,), optional
        Weights of the rows of `x_self`; uniform by default.

    Returns
    -------
    Velocity
        ``.v`` of shape (n, d) with its certificate ``.error``, ``.n_iter``, ``.eps``, ``.converged``.

    Raises
    ------
    ValueError
        On NaN, empty or mismatched clouds, bad weights, a blur that is not positive, or an unknown solver.
    RuntimeError
        Where the solver did not converge and its policy is ``on_unconverged="raise"``.

    Warns
    -----
    ConvergenceWarning
        Where the solver did not converge and its policy is ``"warn"``.

    Notes
    -----
    NSGF (Zhu et al. 2024), eq. 11; no automatic differentiation.

    Where x and y are samples of one law, the velocities of many samples should be zero in the mean. Those of `x` alone
    pull inwards, the more the fewer and higher-dimensional the points; with an `x_self` of the size of `y` the mean is
    zero at every n and ε, exactly (Han et al. 2026). Particles that follow their own velocities in a few large steps
    want the first, at which they come to rest; a network that learns the mean over many batches wants the second.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(50, 2))
    >>> res = sinkhorn_velocity(x, x + [3.0, 0.0], blur=0.5)
    >>> bool(np.allclose(res.v, [3.0, 0.0], atol=0.02)), res.converged
    (True, True)

    With an independent batch, the mean velocity is that from its mean to the target's:

    >>> res = sinkhorn_velocity(x, x + [3.0, 0.0], blur=0.5, x_self=x - [1.0, 0.0])
    >>> bool(np.allclose(res.v.mean(axis=0), [4.0, 0.0], atol=0.02))
    True
    """
    solve = pick_solver(solver)
    posed = Posed.of(x, y, blur, a, b, x_self, a_self)
    start = posed.start(solve) if init is None else _into_frame(init, posed.pair, posed.unit)
    res = posed.velocity(solve, start)
    settle(res.error, res.converged, solve)
    return res


@dataclasses.dataclass(frozen=True)
class Posed:
    """A problem as it came, and centred, in lengths of a unit."""

    x: Any
    pair: Centred
    self_pair: Centred | None
    length: float  # of the blur
    unit: float

    @classmethod
    def of(
        cls,
        x: Any,
        y: Any,
        blur: "float | str",
        a: ArrayLike | None,
        b: ArrayLike | None,
        x_self: Any = None,
        a_self: ArrayLike | None = None,
    ) -> Self:
        """Return what was posed, or raise where it is no problem."""
        clouds = as_pair(x, y) if x_self is None else _three(x, y, x_self)
        if x_self is None and a_self is not None:
            raise ValueError("a_self weighs the rows of x_self, which is None. Give x_self, or leave a_self out.")
        xs, ys, *others, length, unit = scaled(*clouds, blur=blur)
        eps, w = length**2, as_weights(a, xs, "a")
        pair = Centred.of(xs, ys, w, as_weights(b, ys, "b"), eps)
        apart = [Centred.of(xs, z, w, as_weights(a_self, z, "a_self"), eps) for z in others]
        return cls(x, pair, apart[0] if apart else None, length, unit)

    def start(self, solve: Solver) -> Potentials | None:
        """Return what a first solve begins with."""
        return solve.start(lambda: solve.own(self.pair.y, self.length**2, self.pair.b))

    def velocity(self, solve: Solver, start: Potentials | None) -> Velocity:
        """Return the velocity in the units and library of the caller's own x."""
        return self.out(solve_velocity(self.pair, self.length**2, solve, start, self.self_pair))

    def out(self, res: Velocity) -> Velocity:
        """Return a velocity in the units and library of the caller's own x, from one in lengths of the unit."""
        v = like(in_units_of_data(res.v, self.unit), self.x)
        return dataclasses.replace(res, v=v, unit=self.unit, columns=columns_of(self.x))


def _three(x: Any, y: Any, x_self: Any) -> tuple[Array, Array, Array]:
    """Validate the clouds of a problem and of its self term; return them in one library and one floating dtype."""
    xs, zs = as_pair(x, x_self, names=("x", "x_self"))
    _, ys = as_pair(x, y)
    xp = namespace(xs, ys)
    dtype = xp.result_type(xs.dtype, ys.dtype)
    xs, ys, zs = (xp.astype(z, dtype, copy=False) for z in (xs, ys, zs))
    return xs, ys, zs


def solve_velocity(
    pair: Centred, eps: float, solve: Solver, start: Potentials | None, self_pair: Centred | None = None
) -> Velocity:
    """Return the velocity of a centred pair, converged or not: the caller settles what an unconverged one means."""
    found, blur = solve.difference(pair, eps, start, self_pair), math.sqrt(eps)
    return Velocity(found.v, found.error, found.converged, pair, found.cross, found.own, blur, self_pair=self_pair)


class Divergence(float):
    """A Sinkhorn divergence with its certificate: a float, in squared units of the data.

    Attributes
    ----------
    error : float
        How far it may be from the value of the exact potentials, in squared units of the data.
    converged : bool
        Whether `error` is within the solver's tolerance of the value or, where that is smaller, of half the square of a
        tenth of the blur (of the extent of the clouds, where the blur is larger).

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> S = sinkhorn_divergence(x, 2 * x, blur=0.5)
    >>> 0.0 <= S.error <= 1e-3 * S, S.converged
    (True, True)
    """

    error: float
    converged: bool

    def __new__(cls, value: float, error: float = 0.0, converged: bool = True) -> Self:
        """Return the value with its certificate."""
        self = super().__new__(cls, value)
        self.error, self.converged = error, converged
        return self


@plainly()
def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    blur: "float | str" = "auto",
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    solver: "Solver | str" = "auto",
) -> Divergence:
    """Return S_ε(x, y) = W_ε(x, y) − ½ W_ε(x, x) − ½ W_ε(y, y), in squared units of the data.

    Parameters
    ----------
    x, y : arrays of shape (n, d) and (m, d)
        The clouds, in one library.
    blur : float or "auto"
        Length scale √ε, in the units of the data; ``"auto"`` is 0.15 of the data's spread.
    a, b : arrays of shape (n,) and (m,), optional
        Weights of the rows, normalised to total mass 1; uniform by default.
    solver : solver value or "auto"
        How the cross problem is solved.

    Returns
    -------
    Divergence
        A float with its ``.error`` and ``.converged``: zero for equal clouds, ½|c|² for clouds that differ by a
        translation c, and positive otherwise, all within the error.

    Raises
    ------
    ValueError, RuntimeError
        As :func:`sinkhorn_velocity` does, and where float64 does not hold the square of the data's unit.

    Notes
    -----
    Feydy et al. 2019, eq. 3, with the cost ½|x − y|²: as ε → 0 it tends to *half* the squared Wasserstein distance, as
    ε → ∞ to half the squared distance of the means. The solver's potentials are refined, in float64 and within its
    `max_iter`, until the value itself is within `tol`.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> round(sinkhorn_divergence(x, x + [3.0, 4.0], blur=0.5), 6)
    12.5
    """
    solve = pick_solver(solver)
    x, y = as_pair(x, y)
    xp = namespace(x, y)
    x, y, length, unit = scaled(xp.astype(x, xp.float64), xp.astype(y, xp.float64), blur=blur)
    pair = Centred.of(x, y, as_weights(a, x, "a"), as_weights(b, y, "b"), length**2)
    S = _solve_divergence(pair, length**2, solve)
    value, error = S * unit * unit, S.error * unit * unit
    if max(value, error) == math.inf or S.error < S and value < _LEAST:
        raise ValueError(
            f"The divergence is {float(S):.3g} squares of {unit:.3g}, a number that float64 does not hold. "
            "Measure the data and blur in another unit."
        )
    return Divergence(value, error, S.converged)


def _solve_divergence(pair: Centred, eps: float, solve: Solver) -> Divergence:
    """Return the divergence of a centred pair, of potentials that are refined where its error is too large."""
    x, y = (pair.x, pair.a), (pair.y, pair.b)
    own_x, own_y = solve.own(pair.x, eps, pair.a), solve.own(pair.y, eps, pair.b)
    cross = checked(solve(pair.x, pair.y, eps, pair.a, pair.b, init=solve.start(lambda: own_y)), pair)
    least = 0.5 * LEAST_UNIT**2 * min(eps, 2.0 * extent(pair.x, pair.y))

    def summed(cross: Potentials, enough: float = math.inf, max_iter: int = 0) -> tuple[float, float]:
        problems = (x, y, cross), (x, x, own_x), (y, y, own_y)
        return _summed(pair, [dual_value(u, v, eps, p, enough, max_iter) for u, v, p in problems])

    S, error = summed(cross)
    if error > solve.tol * S:
        if dual_value(x, y, eps, own_y)[0] > dual_value(x, y, eps, cross)[0]:  # as where the clouds are nearly equal
            cross = own_y
        S, error = summed(cross, 0.2 * solve.tol * max(S, _NEAR_ZERO * least), solve.max_iter)
    unit = max(S, least * max(1.0, _FINEST / solve.tol)) or 1.0
    settle(error / unit, error <= solve.tol * unit, solve)
    return Divergence(S, error, error <= solve.tol * unit)


def _summed(pair: Centred, W: list[tuple[float, float]]) -> tuple[float, float]:
    """Return S, never negative, and its error from the values and errors (xy, xx, yy) of the centred clouds."""
    shift, left = pair.x_mean - pair.y_mean, pair.a @ pair.x - pair.b @ pair.y  # left: rounding of the means
    square, ((xy, xy_error), (xx, xx_error), (yy, yy_error)) = 0.5 * float(shift @ shift), W
    rounding = float(np.finfo(np.float64).eps) * (square + (square * extent(pair.x, pair.y)) ** 0.5)
    S = square + float(shift @ left) + (xy - 0.5 * xx - 0.5 * yy)
    return max(S, 0.0), xy_error + 0.5 * (xx_error + yy_error) + 4.0 * rounding


def settle(error: float, converged: bool, solver: Solver) -> None:
    """Apply the solver's policy to a result that may not have converged: nothing, a warning, or an error."""
    if converged:
        return
    message = (
        "The solve stopped at a marginal error, or relative error of the map or of the divergence, "
        f"of {error:.2g}, above tol={solver.tol:.2g}. "
        f"Raise max_iter or blur, or loosen tol: solver={solver!r}."
    )
    if solver.on_unconverged == "raise":
        raise RuntimeError(message)
    from sklearn.exceptions import ConvergenceWarning

    warn(message, ConvergenceWarning)


def scaled(x: Array, y: Array, *others: Array, blur: "float | str") -> tuple[Any, ...]:
    """Return the clouds and the blur in lengths of a unit, a power of two near their extent, and the unit.

    There squares of lengths are in the range of any float; and no blur is larger than that where nothing more changes.
    """
    length, xp, clouds = pick_blur(blur, x, y), namespace(x, y), (x, y, *others)
    largest = max(float(xp.max(abs(z))) for z in clouds) or length
    if length < largest * _LEAST_RATIO:
        raise ValueError(f"blur={length!r} is too small a length against data up to {largest:.3g}. Raise blur.")
    unit = math.ldexp(1.0, math.frexp(largest)[1] - 1)
    return *(_in_unit(z, unit) for z in clouds), min(length / unit, 1.0 / _LEAST_RATIO), unit


def _in_unit(z: Array, unit: float) -> Array:
    xp = namespace(z)
    return xp.astype(xp.astype(z, xp.float64) / unit, z.dtype)


def in_units_of_data(z: Array, unit: float, power: int = 1) -> Array:
    """Return lengths (squared, with a power of 2) that were measured in a unit, or an error where their dtype ends."""
    xp = namespace(z)
    values, limits = xp.astype(z, xp.float64), xp.finfo(z.dtype)
    with np.errstate(over="ignore"):
        for _ in range(power):
            values = values * unit
    largest = float(xp.max(abs(values)))
    if largest > float(limits.max) or power == 2 and largest < float(limits.smallest_normal) and bool(xp.any(z != 0)):
        raise ValueError(
            f"A result is {float(xp.max(abs(z))):.3g} times {unit:.3g} to the power of {power}, a number that "
            f"{z.dtype} does not hold. Give data in float64, or in another unit."
        )
    return xp.astype(values, z.dtype)


def _in_squared_units(p: Potentials, unit: float) -> Potentials:
    return p._replace(f=in_units_of_data(p.f, unit, power=2), g=in_units_of_data(p.g, unit, power=2))


def _out_of_frame(p: Potentials, pair: Centred) -> Potentials:
    """Return the potentials of the clouds where they lie, from those of the centred clouds.

    With s the shift between the means, C(x, y) is C of the centred points plus s·x − s·y + ½|s|².
    """
    xp, shift = namespace(pair.x), (pair.x_mean - pair.y_mean)[..., None, :]  # (…, 1, d)
    f = p.f + xp.sum((pair.x + 0.5 * shift) * shift, axis=-1)
    return p._replace(f=f, g=p.g - xp.sum(pair.y * shift, axis=-1))


def _into_frame(p: Potentials, pair: Centred, unit: float) -> Potentials:
    """Return a start for the centred clouds from potentials of the clouds where they lie."""
    if not isinstance(p, Potentials):
        raise TypeError(f"init is a {type(p).__name__}; give Potentials, such as previous.potentials, or init=None.")
    if type(p.g) is not type(pair.y):
        raise TypeError("init is of another array library than y; start from potentials of this one, or init=None.")
    if tuple(p.g.shape) != (pair.y.shape[0],):
        raise ValueError(
            f"init has {p.g.shape[0]} target potentials but y has {pair.y.shape[0]} rows; "
            "start from potentials of the same target, or from init=None."
        )
    if not bool(namespace(p.g).all(namespace(p.g).isfinite(p.g))):
        raise ValueError("init.g contains NaN or infinite values; start from a converged solve, or from init=None.")
    xp = namespace(pair.y)
    g = xp.astype(xp.astype(p.g, xp.float64) / unit / unit, pair.y.dtype)
    return p._replace(g=g + namespace(pair.y).sum(pair.y * (pair.x_mean - pair.y_mean), axis=-1))
