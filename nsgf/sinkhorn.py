r"""The Sinkhorn divergence and its Wasserstein gradient.

.. math::
    S_\varepsilon(x, y) = W_\varepsilon(x, y) - \tfrac12 W_\varepsilon(x, x) - \tfrac12 W_\varepsilon(y, y)

with :math:`W_\varepsilon = \sum_i a_i f_i + \sum_j b_j g_j` the full dual value. Its first variation at :math:`x` is
:math:`f_{xy} - f_{xx}`, and the gradient of a potential is :math:`x - T(x)` with the barycentric map :math:`T`, so
steepest descent moves every particle along (NSGF, eq. 11; Feydy et al. 2019, sec. 3.2)

.. math::  v(x) = T_{xy}(x) - T_{xx}(x).

Both clouds are centred first: a translation adds to the cost only terms that the potentials absorb, so the result is
the same, exactly, and far-away clouds lose no digits.
"""

import contextlib
import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from nsgf._arrays import Array, as_pair, as_weights, device, like, namespace
from nsgf._checks import warn
from nsgf.kernel import half_squares
from nsgf.solvers import Centred, Potentials, Solver, pick_solver

BLUR_FRACTION = 0.15  # of the spread: docs/benchmarks, where smaller blurs gain nothing and cost more iterations
_PLAN_BLOCK = 2**22  # entries of the plan that exist at a time


def spread(x: Array, a: Array | None = None) -> float:
    """Return the root-mean-square distance of the rows of `x` to their mean, in the units of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> spread(np.array([[-3.0, 0.0], [3.0, 0.0]]))
    3.0
    """
    xp = namespace(x)
    a = as_weights(a, x, "a")
    scale = float(xp.max(xp.abs(x))) or 1.0  # so that squares neither over- nor underflow
    z = x / scale - (a @ (x / scale))[None, :]
    return scale * math.sqrt(float(a @ xp.sum(z * z, axis=1)))


def pick_blur(blur: "float | str", x: Array, y: Array) -> float:
    """Return `blur`, or for ``"auto"`` 0.15 of the spread of both clouds; positive, or an error."""
    if isinstance(blur, str) and blur == "auto":
        return BLUR_FRACTION * math.hypot(spread(x), spread(y)) / math.sqrt(2.0) or 1.0  # any ε serves two points
    with contextlib.suppress(TypeError, ValueError):  # of float(): text, None, arrays of several numbers
        length = float(blur)
        if not isinstance(blur, str) and length > 0 and 0 < length * length < math.inf:
            return length
    raise ValueError(f"blur={blur!r} must be 'auto' or a positive length in the units of the data (blur² is ε).")


@dataclasses.dataclass(frozen=True)
class Velocity:
    """An empirical velocity with its certificate; called on new points, it gives their velocity too.

    Attributes
    ----------
    v : array of shape (n, d)
        Velocity at the source points, in the library, dtype and device of the source.
    potentials : Potentials
        Cross potentials (f, g) of the two clouds; hand them back as ``init=`` to start the next solve from.
    self_potentials : Potentials
        Potentials of the source with itself.
    eps : float
        Regularisation, blur², in squared units of the data.
    error : float
        The largest of the marginal errors of both problems (L1 mass misplaced, 0 to 2) and, where the solver measures
        it, the error of `v`: root-mean-square over the particles, relative to that of `v`.
    converged : bool
        Whether `error` is within the solver's tolerance. Where `v` is smaller than a tenth of the blur, its error
        need only be small against that.
    pair, cross : Centred and Potentials
        The clouds, each moved to zero mean, and their potentials: what a call on new points needs.
    """

    v: Array
    potentials: Potentials
    self_potentials: Potentials
    eps: float
    error: float
    converged: bool
    pair: Centred = dataclasses.field(repr=False)
    cross: Potentials = dataclasses.field(repr=False)

    @property
    def n_iter(self) -> int:
        """Iterations of both problems."""
        return self.potentials.n_iter + self.self_potentials.n_iter

    def __call__(self, z: Array) -> Array:
        """Return T_xy(z) − T_xx(z) at any points z of shape (k, d): the flow off its own particles."""
        zs, _ = as_pair(z, self.pair.x, names=("z", "x"))
        xp, dtype = namespace(zs), zs.dtype
        zs = xp.astype(zs, self.pair.x.dtype)
        v = self.pair.at(zs - self.pair.x_mean, self.cross, self.self_potentials, self.eps)
        return like(xp.astype(v, dtype), z)

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
        return chosen.reshape(self.pair.x.shape) + self.pair.y_mean[..., None, :]

    def partner_rows(self, rng: np.random.Generator) -> Array:
        """Return the rows of the targets that :meth:`partners` draws, integers (n,)."""
        x, y, h = self.pair.x, self.pair.y, self.cross.g - half_squares(self.pair.y)
        xp, m = namespace(x), y.shape[-2]
        u = xp.asarray(rng.random(x.shape[:-1]), dtype=x.dtype, device=device(x))
        with np.errstate(divide="ignore"):
            log_b = xp.log(self.pair.b)
        drawn = []
        for i in range(0, x.shape[-2], step := max(1, _PLAN_BLOCK // m)):
            scores = (x[..., i : i + step, :] @ y.mT + h[..., None, :]) / self.eps + log_b
            mass = xp.cumulative_sum(xp.exp(scores - xp.max(scores, axis=-1, keepdims=True)), axis=-1)
            below = mass <= u[..., i : i + step, None] * mass[..., -1:]
            drawn.append(xp.clip(xp.sum(below, axis=-1), None, m - 1))
        return xp.concat(drawn, axis=-1)


def sinkhorn_velocity(
    x: ArrayLike,
    y: ArrayLike,
    blur: "float | str" = "auto",
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    solver: "Solver | str" = "auto",
    init: Potentials | None = None,
) -> Velocity:
    """Steepest descent of S_ε(x, y): v = T_xy(x) − T_xx(x).

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

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> res = sinkhorn_velocity(x, x + [3.0, 0.0], blur=0.5)
    >>> bool(np.allclose(res.v, [3.0, 0.0], atol=0.02)), res.converged
    (True, True)
    """
    solve = pick_solver(solver)
    xs, ys = as_pair(x, y)
    eps = pick_blur(blur, xs, ys) ** 2
    pair = Centred.of(xs, ys, as_weights(a, xs, "a"), as_weights(b, ys, "b"))
    start = solve.start(lambda: solve.own(pair.y, eps, pair.b)) if init is None else _into_frame(init, pair)
    res = solve_velocity(pair, eps, solve, start)
    settle(res.error, res.converged, solve)
    return dataclasses.replace(res, v=like(res.v, x))


def solve_velocity(pair: Centred, eps: float, solve: Solver, start: Potentials | None) -> Velocity:
    """Return the velocity of a centred pair, converged or not: the caller settles what an unconverged one means."""
    v, cross, own, error, converged = solve.difference(pair, eps, start)
    return Velocity(v, _out_of_frame(cross, pair), own, eps, error, converged, pair, cross)


def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    blur: "float | str" = "auto",
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    solver: "Solver | str" = "auto",
) -> float:
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
    float
        Zero for equal clouds, ½|c|² for clouds that differ by a translation c, and positive otherwise.

    Raises
    ------
    ValueError, RuntimeError
        As :func:`sinkhorn_velocity` does.

    Notes
    -----
    Feydy et al. 2019, eq. 3, with the cost ½|x − y|²: as ε → 0 it tends to *half* the squared Wasserstein distance.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> round(sinkhorn_divergence(x, x + [3.0, 4.0], blur=0.5), 6)
    12.5
    """
    solve = pick_solver(solver)
    x, y = as_pair(x, y)
    eps = pick_blur(blur, x, y) ** 2
    pair = Centred.of(x, y, as_weights(a, x, "a"), as_weights(b, y, "b"))
    own_x, own_y = solve.own(pair.x, eps, pair.a), solve.own(pair.y, eps, pair.b)
    cross = solve(pair.x, pair.y, eps, pair.a, pair.b, init=solve.start(lambda: own_y))
    solved = (cross, own_x, own_y)
    settle(max(p.error for p in solved), all(p.converged for p in solved), solve)
    shift = pair.x_mean - pair.y_mean
    left = pair.a @ pair.x - pair.b @ pair.y  # zero, but for the rounding of the means
    return float(0.5 * (shift @ shift) + shift @ left + pair.a @ (cross.f - own_x.f) + pair.b @ (cross.g - own_y.g))


def settle(error: float, converged: bool, solver: Solver) -> None:
    """Apply the solver's policy to a result that may not have converged: nothing, a warning, or an error."""
    if converged:
        return
    message = (
        "The solve stopped at a marginal error, or relative error of the map, "
        f"of {error:.2g}, above tol={solver.tol:.2g}. "
        f"Raise max_iter or blur, or loosen tol: solver={solver!r}."
    )
    if solver.on_unconverged == "raise":
        raise RuntimeError(message)
    from sklearn.exceptions import ConvergenceWarning

    warn(message, ConvergenceWarning)


def _out_of_frame(p: Potentials, pair: Centred) -> Potentials:
    """Return the potentials of the clouds where they lie, from those of the centred clouds.

    With s the shift between the means, C(x, y) is C of the centred points plus s·x − s·y + ½|s|².
    """
    xp, shift = namespace(pair.x), (pair.x_mean - pair.y_mean)[..., None, :]  # (…, 1, d)
    f = p.f + xp.sum((pair.x + 0.5 * shift) * shift, axis=-1)
    return p._replace(f=f, g=p.g - xp.sum(pair.y * shift, axis=-1))


def _into_frame(p: Potentials, pair: Centred) -> Potentials:
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
    g = namespace(pair.y).astype(p.g, pair.y.dtype)
    return p._replace(g=g + namespace(pair.y).sum(pair.y * (pair.x_mean - pair.y_mean), axis=-1))
