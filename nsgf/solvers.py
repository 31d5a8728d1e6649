r"""Solvers of the entropic optimal transport dual, as values.

For clouds :math:`x, y` with weights :math:`a, b` and the cost :math:`C(x, y) = \tfrac12 |x - y|^2`, the dual potentials
satisfy

.. math::
    f_i = -\varepsilon \log \sum_j b_j e^{(g_j - C_{ij}) / \varepsilon}, \qquad
    g_j = -\varepsilon \log \sum_i a_i e^{(f_i - C_{ij}) / \varepsilon},

and the plan is :math:`P_{ij} = a_i b_j e^{(f_i + g_j - C_{ij}) / \varepsilon}` (Feydy et al. 2019, eq. 8-10). A solver
is called as ``solver(x, y, eps, a, b, init=None)`` and returns :class:`Potentials`, with the error that it measured.
"""

import abc
import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Self, cast

import numpy as np

from nsgf import _checks, _io, fixed_point
from nsgf._arrays import Array, device, namespace, to_numpy
from nsgf.fixed_point import extents, rms, units
from nsgf.kernel import RESOLVED, Kernel, barycentric_map, cost, extent, half_squares, is_dense, neighbours

_DROP = 1e-3  # of the tolerance: smaller entries of a kernel may be left out
_CROSS_SHARE, _OWN_SHARE = 0.6, 0.3  # of the tolerance of a velocity; the rest is for rows that are not measured
_NEAR = 1e-6  # of the squared extent: clouds at such a distance may lie in one frame
_ON_HOST, _ON_DEVICE = 2**23, 2**27  # kernel entries of one stack
_STACK = 64  # problems of one stack
POT_METHODS = ("auto", "sinkhorn", "sinkhorn_log", "sinkhorn_stabilized")


class Potentials(NamedTuple):
    """Dual potentials of one entropic problem, with their certificate.

    Attributes
    ----------
    f : array of shape (n,)
        Potential at the source points, in squared units of the data.
    g : array of shape (m,)
        Potential at the target points, in squared units of the data.
    error : float
        Mass that the plan misplaces: the L1 error of its marginals, between 0 and 2.
    n_iter : int
        Iterations spent.
    converged : bool
        Whether the solver reached its tolerance.
    precision : {"float32", "float64"} or None
        Precision that the solve ended in, where the solver says so.
    """

    f: Array
    g: Array
    error: float
    n_iter: int
    converged: bool
    precision: str | None = None


Start = Potentials | None  # what a solve begins with
Cloud = tuple[Array, Array]  # points (…, n, d) and their weights (n,)


@dataclasses.dataclass(frozen=True)
class Centred:
    """Two weighted clouds, each moved to zero mean, or both by one vector where they are too wide for the blur.

    Attributes
    ----------
    x, y : arrays of shape (…, n, d) and (…, m, d)
        The centred clouds.
    a, b : arrays of shape (n,) and (m,)
        Weights of their rows, of total mass 1.
    x_mean, y_mean : arrays of shape (…, d)
        Where they lie.
    """

    x: Array
    y: Array
    a: Array
    b: Array
    x_mean: Array
    y_mean: Array

    @classmethod
    def of(cls, x: Array, y: Array, a: Array, b: Array, eps: float) -> Self:
        """Return the clouds, each moved to zero mean; wide ones keep the differences of their points to all digits."""
        x_mean, y_mean = a @ x, b @ y  # (…, d)
        pair = cls(x - x_mean[..., None, :], y - y_mean[..., None, :], a, b, x_mean, y_mean)
        if x.shape[-1] * max(float(abs(z).max()) for z in (pair.x, pair.y)) ** 2 <= RESOLVED * eps:  # a quick bound
            return pair
        size = extent(pair.x, pair.y)
        if size <= RESOLVED * eps or float(half_squares(x_mean - y_mean).max()) > _NEAR * size:
            return pair
        middle = namespace(x).sort(x, axis=-2)[..., x.shape[-2] // 2, :]
        return cls(x - middle[..., None, :], y - middle[..., None, :], a, b, middle, middle)

    def __truediv__(self, length: float) -> "Centred":
        """Return the pair with all lengths divided by one."""
        x, y, x_mean, y_mean = (z / length for z in (self.x, self.y, self.x_mean, self.y_mean))
        return dataclasses.replace(self, x=x, y=y, x_mean=x_mean, y_mean=y_mean)

    def at(
        self, z: Array, cross: "Potentials", own: "Potentials", eps: float, self_pair: "Centred | None" = None
    ) -> Array:
        """Return T_xy(z) − T_xx′(z) at points z of the frame in which x is centred; x′ is x without a `self_pair`."""
        apart = self_pair or self.with_itself
        T_xy = barycentric_map(z, self.y, cross.g, eps, self.b)
        T_xx = barycentric_map(z + (self.x_mean - apart.x_mean)[..., None, :], apart.y, own.g, eps, apart.b)
        return (T_xy - T_xx) + self.shift(apart)

    @property
    def with_itself(self) -> "Centred":
        """The pair of x and x."""
        return Centred(self.x, self.x, self.a, self.a, self.x_mean, self.x_mean)

    def shift(self, self_pair: "Centred | None") -> Array:
        """Return how far the mean of y is from that of x′, the targets of a `self_pair`, or else of x, (…, 1, d)."""
        return (self.y_mean - (self.x_mean if self_pair is None else self_pair.y_mean))[..., None, :]


class Difference(NamedTuple):
    """T_xy − T_xx at the particles of a pair, or T_xy − T_xx′, with its certificate.

    Attributes
    ----------
    v : array of shape (…, n, d)
        The difference, in the units of the data.
    cross, own : Potentials
        Those of the centred clouds with each other, and of x with itself or with x′.
    error : float
        What the solver measured, to be held against its tolerance.
    converged : bool
        Whether it is within it.
    each : list of Certificate
        The same of every problem of a stack; empty where the solver does not say.
    """

    v: Array
    cross: Potentials
    own: Potentials
    error: float
    converged: bool
    each: Sequence["Certificate"] = ()


class Mapped(NamedTuple):
    """Potentials of a problem, or of a stack, with the barycentric map of the source points and what was measured.

    Attributes
    ----------
    potentials : Potentials
        Those of the centred clouds; of a stack, with the certificate of the worst problem.
    T : array of shape (…, n, d)
        The map at the source points, in the frame in which the targets are centred.
    T_error : array of shape (…)
        Its root-mean-square error, in the units of the data; 0 where the solver does not measure it.
    marginal, n_iter, within : arrays of shape (…)
        Mass misplaced, iterations, and whether each problem is within its tolerance.
    """

    potentials: Potentials
    T: Array
    T_error: Array
    marginal: Array
    n_iter: Array
    within: Array

    def after(self, earlier: "Mapped") -> "Mapped":
        """Return these with the iterations of an earlier solve added."""
        n_iter = earlier.n_iter + self.n_iter
        return self._replace(n_iter=n_iter, potentials=self.potentials._replace(n_iter=int(n_iter.max())))


class Certificate(NamedTuple):
    """What a solver measured of one problem: of the difference, of the cross and of the own potentials."""

    error: float
    converged: bool
    cross: tuple[float, int, bool]  # error, iterations, converged
    own: tuple[float, int, bool]


class Solver(abc.ABC):
    """How entropic problems are solved, and the policy on those that did not converge.

    A solver of your own subclasses this, and need only be called; a plain function with the three attributes will do as
    well. A frozen dataclass is stored in the files of the estimators that use it.

    Attributes
    ----------
    tol : float
        Error to reach.
    max_iter : int
        Largest number of iterations of a cross problem.
    on_unconverged : {"warn", "raise"}
        What to do with a result whose error exceeds `tol`.

    Examples
    --------
    A solver that is another one, at a looser tolerance for the first steps of a flow:

    >>> import dataclasses, numpy as np
    >>> from nsgf import Sinkhorn, sinkhorn_velocity
    >>> @dataclasses.dataclass(frozen=True)
    ... class Loose(Solver):
    ...     tol: float = 0.1
    ...     max_iter: int = 100
    ...     on_unconverged: str = "warn"
    ...     def __call__(self, x, y, eps, a, b, init=None):
    ...         return Sinkhorn(tol=self.tol, max_iter=self.max_iter)(x, y, eps, a, b, init)
    >>> x = np.array([[0.0], [1.0]])
    >>> sinkhorn_velocity(x, x + 5.0, blur=0.1, solver=Loose()).v.round(2)
    array([[5.],
           [5.]])
    """

    tol: float
    max_iter: int
    on_unconverged: str

    def __init_subclass__(cls) -> None:
        """Let files name the solver."""
        super().__init_subclass__()
        _io.storable(cls)

    @abc.abstractmethod
    def __call__(self, x: Array, y: Array, eps: float, a: Array, b: Array, init: Start = None) -> Potentials:
        """Return the potentials of (x, a) and (y, b), from the start `init` where there is one."""

    def own(self, x: Array, eps: float, a: Array) -> Potentials:
        """Return the potentials of (x, a) with itself."""
        solved = self_potentials(x, eps, a, tol=0.01 * self.tol)
        return solved._replace(converged=solved.error <= self.tol)

    def start(self, rest: Callable[[], Potentials]) -> Start:
        """Return what a first solve begins with: those that `rest` gives, of a flow at rest; None to choose itself."""
        return rest()

    def difference(self, pair: Centred, eps: float, init: Start = None, self_pair: Centred | None = None) -> Difference:
        """Return T_xy − T_xx at the particles, or T_xy − T_xx′ with the pair of x and an independent x′.

        Its error is here the larger marginal error of the two problems.
        """
        cross = checked(self(pair.x, pair.y, eps, pair.a, pair.b, init), pair)
        own = self.own(pair.x, eps, pair.a) if self_pair is None else self._apart(self_pair, eps)
        v, converged = pair.at(pair.x, cross, own, eps, self_pair), cross.converged and own.converged
        return Difference(v, cross, own, max(cross.error, own.error), converged)

    def _apart(self, pair: Centred, eps: float) -> Potentials:
        """Return the potentials of x with an independent batch of its law."""
        start = self.start(lambda: self.own(pair.y, eps, pair.b))
        return checked(self(pair.x, pair.y, eps, pair.a, pair.b, start), pair)

    def mapped(
        self, pair: Centred, eps: float, init: Start = None, base: Array | None = None, share: float = 1.0
    ) -> Mapped:
        """Return T_xy at the source points (n, d) of a pair.

        A solver that measures the error of T has it within a `share` of `tol`, relative to T − `base`, by default to
        T − x; and it takes as many problems as :meth:`stack` says, with a leading dimension.
        """
        xp, found = namespace(pair.x), checked(self(pair.x, pair.y, eps, pair.a, pair.b, init), pair)
        T, zero = barycentric_map(pair.x, pair.y, found.g, eps, pair.b), xp.zeros_like(pair.x[0, 0])
        whether = xp.full_like(zero, found.converged, dtype=xp.bool)
        n_iter = xp.full_like(zero, found.n_iter, dtype=xp.int64)
        return Mapped(found, T, zero, zero + found.error, n_iter, whether)

    def stack(self, n: int, m: int, device: str) -> int:
        """Return how many problems of n and m points are best solved at once, as arrays with a leading dimension."""
        return 1


@dataclasses.dataclass(frozen=True)
class _Called(Solver):
    """A plain callable as a solver."""

    call: Callable[..., Potentials]
    tol: float
    max_iter: int
    on_unconverged: str

    def __repr__(self) -> str:
        return repr(self.call)

    def __call__(self, x: Array, y: Array, eps: float, a: Array, b: Array, init: Start = None) -> Potentials:
        return self.call(x, y, eps, a, b, init=init)


def checked(found: Any, pair: Centred) -> Potentials:
    """Return what a solver of the user's own gave for a pair, or raise where that is no potentials of its points."""
    for name, points in (("f", pair.x), ("g", pair.y)):
        z: Any = getattr(found, name, None)
        if type(z) is not type(points) or z.shape != points.shape[:-1] or not bool(namespace(z).isfinite(z).all()):
            shown = f"{type(z).__name__} {tuple(getattr(z, 'shape', ()))}"
            raise ValueError(
                f"solver returned {name} as {shown}, or not finite; give nsgf.Potentials with one finite number a row, "
                f"{type(points).__name__} {tuple(points.shape[:-1])}."
            )
    if not 0.0 <= float(found.error) < math.inf:
        raise ValueError(f"solver returned error={found.error!r}; give the mass misplaced, between 0 and 2.")
    return cast(Potentials, found)


def log(w: Array) -> Array:
    """Return log w, −∞ at weights of zero and without the warning."""
    xp = namespace(w)
    return xp.where(w > 0, xp.log(xp.where(w > 0, w, 1.0)), -xp.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class POT(Solver):
    """Solve the cross problem with Python Optimal Transport, through POT's own backend for NumPy, CuPy or torch arrays.

    Parameters
    ----------
    method : {"sinkhorn_log", "sinkhorn", "sinkhorn_stabilized", "auto"}
        POT's method. ``"sinkhorn"`` iterates on the kernel, ten times faster, and breaks down where exp(−C/ε) leaves
        the range of the dtype; ``"sinkhorn_log"`` never does, and is slow. ``"auto"`` tries the first, in float64, and
        falls back.
    tol : float
        Largest marginal error (L1 mass misplaced by the plan) of a converged solve.
    max_iter : int
        Largest number of iterations.
    on_unconverged : {"warn", "raise"}
        What a velocity, divergence or flow does with a solve that missed `tol`.

    Raises
    ------
    ValueError
        On an unknown method or policy, a tolerance that is not positive, or fewer than one iteration.

    Notes
    -----
    Costs are scaled by 1/ε before POT sees them (POT's ``reg`` is then 1), so that no unit of length matters. The
    marginal error is measured here, on the potentials that are returned, and not taken from POT.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.array([[0.0], [1.0]]), np.array([0.5, 0.5])
    >>> solve = POT(method="sinkhorn_log", tol=1e-6)
    >>> potentials = solve(x, x + 2.0, 0.5, w, w)
    >>> potentials.converged, potentials.error < 1e-6
    (True, True)
    """

    method: Literal["sinkhorn_log", "sinkhorn", "sinkhorn_stabilized", "auto"] = "sinkhorn_log"
    tol: float = 1e-4
    max_iter: int = 5000
    on_unconverged: Literal["warn", "raise"] = "warn"

    def __post_init__(self) -> None:
        if not _checks.is_one_of(self.method, POT_METHODS):
            raise ValueError(f"POT method={self.method!r} is unknown; choose one of {', '.join(POT_METHODS)}.")
        _check_limits(self)

    def __call__(self, x: Array, y: Array, eps: float, a: Array, b: Array, init: Start = None) -> Potentials:
        """Return the potentials of (x, a) and (y, b); of `init` only ``g`` is read, at the rows of `y`."""
        if self.method == "auto":
            return self._auto(x, y, eps, a, b, init)
        M, log_a, log_b = cost(x / math.sqrt(eps), y / math.sqrt(eps)), log(a), log(b)  # (n, m), (n,), (m,)
        n_iter, log_v = self._scalings(M, a, b, None if init is None else init.g / eps + log_b)
        return _certified(M, log_a, log_b, log_v, eps, n_iter, self.tol)

    def _auto(self, x: Array, y: Array, eps: float, a: Array, b: Array, init: Start) -> Potentials:
        """Iterate on the float64 kernel; where that does not reach `tol`, go on from there in the log domain."""
        xp, dtype = namespace(x, y), x.dtype
        x, y, a, b = (xp.astype(z, xp.float64, copy=False) for z in (x, y, a, b))
        if init is not None:
            init = init._replace(g=xp.astype(init.g, xp.float64, copy=False))
        solved, n_iter = None, 0
        with contextlib.suppress(FloatingPointError):
            solved = dataclasses.replace(self, method="sinkhorn")(x, y, eps, a, b, init)
            init, n_iter = solved, solved.n_iter
        if solved is None or not solved.converged and n_iter < self.max_iter:  # the kernel underflowed
            rest = self.max_iter - n_iter
            solved = dataclasses.replace(self, method="sinkhorn_log", max_iter=rest)(x, y, eps, a, b, init)
        f, g = xp.astype(solved.f, dtype), xp.astype(solved.g, dtype)
        return solved._replace(f=f, g=g, n_iter=solved.n_iter + (n_iter if solved is not init else 0))

    def _scalings(self, M: Array, a: Array, b: Array, log_v: Array | None) -> tuple[int, Array]:
        """Return POT's iterations and its log v = g/ε + log b, from a start of log v; −∞ where b is zero."""
        import ot

        xp = namespace(M)
        rows, columns = xp.nonzero(a)[0], xp.nonzero(b)[0]  # POT divides by weights
        M, a, b_in = M[rows][:, columns], a[rows], b[columns]
        start = None if log_v is None else (fixed_point.softmin(log_v[columns] - M) + log(a), log_v[columns])
        stop = self.tol / b_in.shape[0] ** 0.5  # POT stops on the L2 norm of the error; by Cauchy-Schwarz, L1 ≤ √m L2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # POT reports failure by warnings; the certificate replaces them
            _, out = ot.sinkhorn(
                a, b_in, M, 1.0, method=self.method, numItermax=self.max_iter, stopThr=stop, log=True, warmstart=start
            )
        solved = out["log_v"] if "log_v" in out else out["logv"] if "logv" in out else log(out["v"])
        if not bool(xp.all(xp.isfinite(solved))):
            raise FloatingPointError(
                f"POT's method={self.method!r} broke down at max C/ε = {float(xp.max(M)):.3g}. "
                "Use method='sinkhorn_log', or a larger blur."
            )
        full = xp.full(b.shape[0], -xp.inf, dtype=M.dtype, device=device(M))
        full[columns] = solved
        return int(out["niter"] if "niter" in out else out["n_iter"]) + 1, full


def _check_limits(solver: Solver) -> None:
    if not _checks.is_one_of(solver.on_unconverged, ("warn", "raise")):
        raise ValueError(f"on_unconverged={solver.on_unconverged!r} is unknown; choose 'warn' or 'raise'.")
    _checks.positive("tol", solver.tol, "1e-4")
    _checks.count("max_iter", solver.max_iter)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sinkhorn(Solver):
    """Solve the cross problem by Anderson-accelerated Sinkhorn iterations on the kernel, with a certified map.

    Parameters
    ----------
    tol : float
        Largest root-mean-square error of a velocity, relative to the velocity, and largest marginal error.
    max_iter : int
        Largest number of iterations of one problem.
    on_unconverged : {"warn", "raise"}
        What a velocity, divergence or flow does with a solve that missed `tol`.

    Raises
    ------
    ValueError
        On an unknown policy, a tolerance that is not positive, or fewer than one iteration.

    Notes
    -----
    Memory is O(n + m) once a kernel would take more than 256 MB; a batch is always stored. The arithmetic is float32
    where its rounding is well inside the tolerance; otherwise, or where float32 turns out not to reach it, float64:
    `precision` of the result says which. NumPy, torch and CuPy arrays are computed on by their own library. Walker &
    Ni 2011; Schmitzer 2019.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.array([[0.0], [1.0]]), np.array([0.5, 0.5])
    >>> potentials = Sinkhorn(tol=1e-6)(x, x + 2.0, 0.5, w, w)
    >>> potentials.converged, potentials.error < 1e-6, potentials.precision
    (True, True, 'float64')
    """

    tol: float = 1e-3
    max_iter: int = 2000
    on_unconverged: Literal["warn", "raise"] = "warn"

    def __post_init__(self) -> None:
        _check_limits(self)

    def __call__(self, x: Array, y: Array, eps: float, a: Array, b: Array, init: Start = None) -> Potentials:
        """Return the potentials of (x, a) and (y, b); of `init` only ``g`` is read, at the rows of `y`.

        The error of the barycentric map T is to be within `tol` of T − x. The clouds may have leading dimensions
        (…, n, d), for a batch of problems of one size with the same weights.
        """
        return _cross((x, a), (y, b), eps, self, init, x).potentials

    def mapped(
        self, pair: Centred, eps: float, init: Start = None, base: Array | None = None, share: float = 1.0
    ) -> Mapped:
        """Return T_xy at the source points (…, n, d), certified."""
        finer, clouds = dataclasses.replace(self, tol=share * self.tol), ((pair.x, pair.a), (pair.y, pair.b))
        return _cross(*clouds, eps, finer, init, pair.x if base is None else base)

    def own(self, x: Array, eps: float, a: Array) -> Potentials:
        """Return the potentials of (x, a) with itself, within their share of the tolerance."""
        return _own(x, eps, a, tol=_OWN_SHARE * self.tol).potentials

    def start(self, rest: Callable[[], Potentials]) -> Start:
        """Return None: each solve finds its own start."""
        return None

    def difference(self, pair: Centred, eps: float, init: Start = None, self_pair: Centred | None = None) -> Difference:
        """Return T_xy − T_xx at the particles, or T_xy − T_xx′, certified beside the marginal errors.

        Its own error is root-mean-square over the particles, relative to the difference, and to be within `tol`; a
        difference is here no smaller than a tenth of the blur, or of the extent of the clouds, and no larger than that
        extent.
        """
        if init is None and isinstance(pair.x, np.ndarray):
            found, init = self._at_once(pair, eps, self_pair)
            if found is not None:
                return found
        xp, rows = namespace(pair.x), slice(None) if bool((pair.a > 0).all()) else pair.a > 0
        blur, shift = math.sqrt(eps), pair.shift(self_pair)
        least, most = (blur * z for z in units((extents(pair.x, pair.y) / eps) ** 0.5))  # (…)

        def unit(v: Array) -> Array:
            return xp.minimum(xp.maximum(rms(v[..., rows, :]), least), most)  # (…)

        own = self._self_term(pair, eps, self_pair)
        cross, v = self._crossed(pair, eps, init, own, shift, _CROSS_SHARE)
        size = unit(v)
        if bool((own.T_error > _OWN_SHARE * self.tol * size).any()):  # its rounding was not small against v
            again = self._self_term(pair, eps, self_pair, own.potentials, own.T - v)
            v, own = v + (own.T - again.T), again.after(own)
            size = unit(v)
        if bool((cross.within & (cross.T_error + own.T_error > self.tol * size)).any()):
            # It was small against v at the rows that were measured, and v is smaller at the others.
            again, v = self._crossed(pair, eps, cross.potentials, own, shift, 0.5 * _CROSS_SHARE)
            cross, size = again.after(cross), unit(v)
        each = _certificates((cross.T_error + own.T_error) / size, cross, own, self.tol)
        return _worst(v, cross.potentials, own.potentials, each)

    def _self_term(
        self, pair: Centred, eps: float, self_pair: Centred | None, init: Start = None, base: Array | None = None
    ) -> "Mapped":
        """Return T_xx or T_xx′ at the particles, within its share of the tolerance."""
        if self_pair is None:
            return _own(pair.x, eps, pair.a, init, base, tol=_OWN_SHARE * self.tol)
        return self.mapped(self_pair, eps, init, base, _OWN_SHARE)

    def _at_once(self, pair: Centred, eps: float, self_pair: Centred | None) -> tuple[Difference | None, Start]:
        """Return the difference of small problems that float32 solves at the first attempt, or else where to start.

        This is what :meth:`difference` does then, without the calls that all else needs, which take longer than the
        arithmetic of few points.
        """
        clouds = self._small(pair, eps)
        apart = clouds if self_pair is None else self._small(self_pair, eps)
        if clouds is None or apart is None:
            return None, None
        if self_pair is None:
            itself = clouds._replace(y=clouds.x, b=clouds.a)
            own = fixed_point.solve_small(itself, True, None, None, _OWN_SHARE * self.tol, 200, math.inf)
        else:
            own = fixed_point.solve_small(apart, False, None, apart.x, _OWN_SHARE * self.tol, self.max_iter)
        T, shift = own.T.astype(np.float64), pair.shift(self_pair) / math.sqrt(eps)
        cross = fixed_point.solve_small(clouds, False, None, T - shift, _CROSS_SHARE * self.tol, self.max_iter)
        v = (cross.T - T) + shift  # far-away means cancel before they can swallow digits
        least, most = units(clouds.size**0.5)
        unit = np.minimum(np.maximum(rms(v), least), most)
        relative = (own.T_error + cross.T_error) / unit
        f_own = 0.5 * (own.phi + own.h) if self_pair is None else own.phi  # one more iteration
        g_own = f_own if self_pair is None else own.h
        found = [
            Potentials(
                (f.astype(np.float64) * eps).astype(pair.x.dtype),
                (g.astype(np.float64) * eps).astype(pair.x.dtype),
                float(s.marginal.max()),
                int(s.n_iter.max()),
                bool(s.within.all()),
                "float32",
            )
            for s, f, g in ((cross, cross.phi, cross.h), (own, f_own, g_own))
        ]
        tight = (own.T_error <= _OWN_SHARE * self.tol * unit) & (relative <= self.tol)
        ended = own.within & (cross.within & tight | ~cross.within & (cross.n_iter >= self.max_iter))
        if not np.all(ended):
            return None, found[0] if np.isfinite(cross.h).all() else None
        each = _certificates(relative, cross, own, self.tol)
        return _worst((math.sqrt(eps) * v).astype(pair.x.dtype), found[0], found[1], each), None

    def _small(self, pair: Centred, eps: float) -> fixed_point.Clouds | None:
        """Return the clouds of a pair in float32 where that serves a compiled solve."""
        (a, light_a), (b, light_b) = _normalised(pair.a), _normalised(pair.b)
        x, y = (z / math.sqrt(eps) for z in (pair.x, pair.y))
        size, light = extents(x, y), min(light_a, light_b)
        if not serves_single(float(size.max()), light, _OWN_SHARE * self.tol) or x.ndim > 3:
            return None
        x, y, a, b = (z.astype(np.float32) for z in (x, y, a, b))
        clouds = fixed_point.Clouds(x, y, a, b, size, 0.0)
        return clouds if fixed_point.is_small(clouds) else None

    def stack(self, n: int, m: int, device: str) -> int:
        """Return how many problems a cache holds, or fill a GPU."""
        return max(1, min(_STACK, (_ON_HOST if device == "cpu" else _ON_DEVICE) // (n * m)))

    def _crossed(
        self, pair: Centred, eps: float, init: Start, own: "Mapped", shift: Array, share: float
    ) -> tuple["Mapped", Array]:
        """Return cross potentials within a share of the tolerance, and the velocity."""
        cross = self.mapped(pair, eps, init, own.T - shift, share)
        return cross, (cross.T - own.T) + shift  # far-away means cancel before they can swallow digits


def _certificates(relative: Array, cross: Any, own: Any, tol: float) -> list[Certificate]:
    """Return the certificate of every problem, from the error relative to the difference and its two solutions."""

    def figures(z: Array) -> list[Any]:
        return to_numpy(z).reshape(-1).tolist()

    problems = [zip(figures(s.marginal), figures(s.n_iter), figures(s.within), strict=True) for s in (cross, own)]
    return [
        Certificate(max(f[0], g[0], r if math.isfinite(r) else math.inf), f[2] and g[2] and r <= tol, f, g)
        for r, f, g in zip(figures(relative), *problems, strict=True)
    ]


def _worst(v: Array, cross: Potentials, own: Potentials, each: list[Certificate]) -> Difference:
    """Return a difference with the certificate of the worst of its problems."""
    return Difference(v, cross, own, max(c.error for c in each), all(c.converged for c in each), each)


def _normalised(a: np.ndarray) -> tuple[np.ndarray, float]:
    """Return weights in float64, of total mass 1 to the last digit, and the lightest of them."""
    w = a.astype(np.float64)
    w /= w.sum()
    return w, float(w.min())


def self_potentials(
    x: Array, eps: float, a: Array, init: Start = None, *, tol: float = 1e-6, max_iter: int = 200
) -> Potentials:
    """Solve the symmetric problem of (x, a) with itself, f = g, by the averaged map.

    Alternate updates stall here, while f ← ½(f + softmin(f)) contracts at rate ½ whatever ε is (Feydy et al. 2019,
    eq. 25); mixing the last iterates makes it faster still. The error of the map is to be within `tol` of a tenth of
    the blur, as far as the dtype resolves that.

    Examples
    --------
    >>> import numpy as np
    >>> solved = self_potentials(np.array([[0.0], [1.0]]), 0.1, np.array([0.5, 0.5]))
    >>> solved.converged
    True
    """
    return _own(x, eps, a, init, tol=tol, max_iter=max_iter).potentials


def _cross(x_a: Cloud, y_b: Cloud, eps: float, solver: Sinkhorn, init: Start, base: Array) -> Mapped:
    """Solve the cross problem of two clouds; the error of the map T is to be within the tolerance of T − `base`."""
    xs, ys = _Scaled(*x_a, eps), _Scaled(*y_b, eps)
    base = xs.rows(base.reshape(xs.x.shape) / math.sqrt(eps))

    size = extents(xs.x, ys.x)

    def solve(dtype: str, h: Array | None, max_iter: int, some: Any) -> fixed_point.Solution:
        x, y = xs.rows(xs.x[some], dtype), ys.rows(ys.x[some], dtype)
        clouds = fixed_point.Clouds(x, y, xs.weights(dtype), ys.weights(dtype), size[some], _DROP * solver.tol)
        h = None if h is None else _as(h, dtype)
        return fixed_point.solve_cross(clouds, h, base[some], solver.tol, max_iter)

    h = None if init is None else ys.rows((init.g / eps).reshape(ys.x.shape[:-1])[..., None])[..., 0]
    light = min(xs.lightest, ys.lightest)
    solved, precision = _precisely(solve, h, float(size.max()), light, solver.tol, solver.max_iter)
    (f, T), (g, _) = xs.everywhere(solved.phi, solved.T, ys, solved.h), ys.everywhere(solved.h, None, xs, solved.phi)
    return _mapped(solved, f, g, T, precision, (x_a[0], y_b[0]), eps)


def _own(
    x: Array, eps: float, a: Array, init: Start = None, base: Array | None = None, *, tol: float, max_iter: int = 200
) -> Mapped:
    """Solve the symmetric problem; with a `base`, the error of the map T is to be within `tol` of T − `base`."""
    xs = _Scaled(x, a, eps)
    base = None if base is None else xs.rows(base.reshape(xs.x.shape) / math.sqrt(eps))

    size = extents(xs.x, xs.x)

    def solve(dtype: str, h: Array | None, max_iter: int, some: Any) -> fixed_point.Solution:
        cloud, weights = xs.rows(xs.x[some], dtype), xs.weights(dtype)
        h = None if h is None else _as(h, dtype)
        clouds = fixed_point.Clouds(cloud, cloud, weights, weights, size[some], _DROP * tol)
        return fixed_point.solve_own(clouds, h, None if base is None else base[some], tol, max_iter)

    h = None if init is None else xs.rows((init.f / eps).reshape(xs.x.shape[:-1])[..., None])[..., 0]
    solved, precision = _precisely(solve, h, float(size.max()), xs.lightest, tol, max_iter)
    f, T = xs.everywhere(0.5 * (solved.h + solved.phi), solved.T, xs, solved.h)  # one more iteration
    return _mapped(solved, f, f, T, precision, (x, x), eps)


def dual_value(
    x_a: Cloud, y_b: Cloud, eps: float, start: Potentials, enough: float = math.inf, max_iter: int = 0
) -> tuple[float, float]:
    """Return W_ε of the clouds, and its error, in float64, from potentials near the solution.

    They are refined first where the error is to be small: `enough`.
    """
    xs, ys = _Scaled(*x_a, eps), _Scaled(*y_b, eps)
    xp = namespace(xs.x)
    x, y, a, b = xs.rows(xs.x, xp.float64), ys.rows(ys.x, xp.float64), xs.weights(None), ys.weights(None)
    kernel = Kernel(x, y, a, b)
    h = xp.astype(ys.rows((start.g / eps)[..., None])[..., 0], xp.float64)
    value, error = fixed_point.dual_value(kernel, h, enough / eps, max_iter, x_a is y_b)
    return eps * value, eps * error


def _as(z: Array, dtype: Any) -> Array:
    """Return z in a dtype of its own library, or of one's name."""
    xp = namespace(z)
    return xp.astype(z, getattr(xp, dtype) if isinstance(dtype, str) else dtype, copy=False)


class _Scaled:
    """A weighted cloud in units of the blur, where the arithmetic is done; its rows with mass, near ones together."""

    def __init__(self, x: Array, a: Array, eps: float) -> None:
        self.x = (x if x.ndim < 4 else x.reshape(-1, *x.shape[-2:])) / math.sqrt(eps)
        xp = namespace(self.x)
        w = xp.astype(a, xp.float64)
        self.a = w / xp.sum(w)  # to the last digit: a mass that is missing cannot be transported
        self._order, self.lightest = None, float(xp.min(self.a))
        if self.lightest == 0.0:
            self._order = xp.nonzero(self.a > 0)[0]
            self.lightest = float(xp.min(self.a[self._order]))
        elif not is_dense(self.x, self.x):
            self._order = xp.asarray(neighbours(to_numpy(self.x)), device=device(self.x))

    def rows(self, z: Array, dtype: Any = None) -> Array:
        """Return the rows of z that have mass, in their order."""
        z = z if self._order is None else z[..., self._order, :]
        return z if dtype is None else _as(z, dtype)

    def weights(self, dtype: Any) -> Array:
        """Return the weights of those rows."""
        return self.rows(self.a[:, None], dtype)[..., 0]

    def everywhere(self, phi: Array, T: Array | None, other: "_Scaled", h: Array) -> tuple[Array, Array | None]:
        """Return a potential and the map at all rows, from those at the rows with mass, or from the other's `h`."""
        if self._order is None:
            return phi, T
        xp = namespace(phi)
        if self._order.shape[0] < self.a.shape[0]:  # a row without mass takes part in one last softmin
            own, y, b = xp.astype(self.x, phi.dtype), other.rows(other.x, phi.dtype), other.weights(phi.dtype)
            kernel = Kernel(own, y, xp.ones_like(own[..., 0]), b)
            return kernel.absorb(h), None if T is None else kernel.map(h)
        back = xp.argsort(self._order)
        return phi[back], None if T is None else T[back]


def _precisely(
    solve: Callable[[str, Array | None, int, Any], fixed_point.Solution],
    h: Array | None,
    size: float,
    light: float,
    tol: float,
    max_iter: int,
) -> tuple[fixed_point.Solution, str]:
    """Solve in float32 where its rounding is well within `tol`; go on in float64 where that does not get there.

    Of a stack, only the problems that are not yet within the tolerance are solved further.
    """
    if not math.isfinite(size):
        raise ValueError("blur is too small against the extent of the data: their ratio overflows. Raise blur.")
    single = serves_single(size, light, tol)
    solved = solve("float32" if single else "float64", h, max_iter, ...)
    xp = namespace(solved.T)
    precision = "float32" if single else "float64"
    while True:
        left = ~solved.within & (solved.n_iter < max_iter)
        if not bool(left.any()) or solved.ended and precision == "float64":
            return solved, precision
        precision = "float64" if solved.ended else precision
        some = xp.nonzero(left)[0] if left.ndim else ...
        rest = solve(precision, solved.h[some], int(max_iter - xp.max(solved.n_iter[some])), some)
        solved = _merged(solved, rest._replace(n_iter=rest.n_iter + solved.n_iter[some]), some)


def serves_single(size: float, light: float, tol: float) -> bool:
    """Whether the rounding of float32 is well within the tolerance, of clouds with that extent and lightest weight."""
    rounded = fixed_point.rounding(size, size**0.5, "float32")
    return tol >= 1e-5 and light > 1e-9 and rounded <= 0.3 * tol * max(size, 1.0) ** 0.5


def _merged(solved: fixed_point.Solution, rest: fixed_point.Solution, some: Any) -> fixed_point.Solution:
    """Return a solution with that of some problems put in, all in the dtype of the latter."""
    if some is ...:
        return rest
    whole = [namespace(z).astype(z, new.dtype) for z, new in zip(solved[:-1], rest[:-1], strict=True)]
    for z, new in zip(whole, rest[:-1], strict=True):
        z[some] = new
    return fixed_point.Solution(*whole, ended=rest.ended)  # type: ignore[misc]


def _mapped(
    solved: fixed_point.Solution, f: Array, g: Array, T: Array, precision: str, clouds: tuple[Array, Array], eps: float
) -> Mapped:
    """Return a solution in the units, dtype and leading dimensions of the clouds."""
    blur, xp, (x, y) = math.sqrt(eps), namespace(T), clouds
    lead = x.shape[:-2]

    def out(z: Array, unit: float, shape: tuple[int, ...]) -> Array:  # units that the dtype of arithmetic may not hold
        return xp.astype(xp.astype(z, xp.float64) * unit, x.dtype).reshape(shape)

    marginal = xp.where(xp.isfinite(solved.marginal), solved.marginal, 2.0).reshape(lead)
    potentials = Potentials(
        out(f, eps, x.shape[:-1]), out(g, eps, y.shape[:-1]), float(xp.max(marginal)), int(xp.max(solved.n_iter)),
        bool(xp.all(solved.within)), precision,
    )  # fmt: skip
    n_iter, within = solved.n_iter.reshape(lead), solved.within.reshape(lead)
    return Mapped(potentials, out(T, blur, x.shape), out(solved.T_error, blur, lead), marginal, n_iter, within)


def pick_solver(solver: object) -> Solver:
    """Return the solver that `solver` names: ``"auto"``, a solver value as it is, or a callable with its attributes."""
    if isinstance(solver, str) and solver == "auto":
        return Sinkhorn()
    limits: list[Any] = [getattr(solver, name, None) for name in ("tol", "max_iter", "on_unconverged")]
    if not isinstance(solver, type) and callable(solver) and None not in limits:
        solve = solver if isinstance(solver, Solver) else _Called(solver, *limits)
        _check_limits(solve)
        return solve
    raise ValueError(
        f"solver={solver!r} is unknown; choose 'auto', a solver value such as nsgf.POT(), or a callable of your own "
        "with the attributes tol, max_iter and on_unconverged."
    )


def _certified(M: Array, log_a: Array, log_b: Array, log_v: Array, eps: float, n_iter: int, tol: float) -> Potentials:
    """Return potentials and the marginal error of the half step that ended with them.

    With f the softmin of the scalings v, rows of the plan are exact and the error is that of its columns; the last
    half step, g the softmin of f, can only lower it.
    """
    xp = namespace(M)
    f = fixed_point.softmin(log_v - M)
    g = fixed_point.softmin((f[None, :] - M.T) + log_a)
    columns = xp.exp(log_v - g)  # the column marginal, from v = b exp(g_old / eps) and b exp((g_old - g) / eps)
    error = float(xp.sum(xp.abs(columns - xp.exp(log_b))))
    return Potentials(f * eps, g * eps, error, n_iter, error <= tol)
