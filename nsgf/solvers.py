r"""Solvers of the entropic optimal transport dual, as values.

For clouds :math:`x, y` with weights :math:`a, b` and the cost :math:`C(x, y) = \tfrac12 |x - y|^2`, the dual potentials
satisfy

.. math::
    f_i = -\varepsilon \log \sum_j b_j e^{(g_j - C_{ij}) / \varepsilon}, \qquad
    g_j = -\varepsilon \log \sum_i a_i e^{(f_i - C_{ij}) / \varepsilon},

and the plan is :math:`P_{ij} = a_i b_j e^{(f_i + g_j - C_{ij}) / \varepsilon}` (Feydy et al. 2019, eq. 8-10). A solver
is called as ``solver(x, y, eps, a, b, init=None)`` and returns :class:`Potentials`, with the error that it measured.
"""

import contextlib
import dataclasses
import numbers
import warnings
from typing import Literal, NamedTuple, Protocol

from nsgf._arrays import Array, device, namespace

__all__ = ["POT", "Potentials", "Solver", "cost", "pick_solver", "softmin"]

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
        Whether `error` is within the solver's tolerance.
    """

    f: Array
    g: Array
    error: float
    n_iter: int
    converged: bool


class Solver(Protocol):
    """What :mod:`nsgf.sinkhorn` asks of a solver: a tolerance, an iteration limit, a policy, and a call.

    Attributes
    ----------
    tol : float
        Marginal error to reach.
    max_iter : int
        Largest number of iterations of a cross problem.
    on_unconverged : {"warn", "raise"}
        What to do with a result whose error exceeds `tol`.
    """

    @property
    def tol(self) -> float: ...  # noqa: D102
    @property
    def max_iter(self) -> int: ...  # noqa: D102
    @property
    def on_unconverged(self) -> str: ...  # noqa: D102

    def __call__(  # noqa: D102
        self, x: Array, y: Array, eps: float, a: Array, b: Array, init: Potentials | None = None
    ) -> Potentials: ...


def cost(x: Array, y: Array) -> Array:
    """Return C(x, y) = ½|x − y|² between all rows, shape (n, m).

    Examples
    --------
    >>> import numpy as np
    >>> cost(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]))
    array([[12.5]])
    """
    xp = namespace(x, y)
    half_squares = 0.5 * xp.sum(x * x, axis=1)[:, None] + 0.5 * xp.sum(y * y, axis=1)[None, :]
    return xp.clip(half_squares - x @ y.T, 0.0, None)  # (n, m)


def softmin(scores: Array, log_weights: Array) -> Array:
    """Return −log Σ_j exp(scores_ij + log_weights_j) for every row, shape (n,); never over- or underflows.

    Examples
    --------
    >>> import numpy as np
    >>> softmin(np.array([[-1e4, -1e4]]), np.log([0.5, 0.5]))
    array([10000.])
    """
    xp = namespace(scores)
    z = scores + log_weights[None, :]
    top = xp.max(z, axis=1, keepdims=True)
    return -(top[:, 0] + xp.log(xp.sum(xp.exp(z - top), axis=1)))


def log(w: Array) -> Array:
    """Return log w, −∞ at weights of zero and without the warning."""
    xp = namespace(w)
    return xp.where(w > 0, xp.log(xp.where(w > 0, w, 1.0)), -xp.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class POT:
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
        if self.method not in POT_METHODS:
            raise ValueError(f"POT method={self.method!r} is unknown; choose one of {', '.join(POT_METHODS)}.")
        if self.on_unconverged not in ("warn", "raise"):
            raise ValueError(f"on_unconverged={self.on_unconverged!r} is unknown; choose 'warn' or 'raise'.")
        if not (isinstance(self.tol, numbers.Real) and self.tol > 0):
            raise ValueError(f"tol={self.tol!r} must be positive; 1e-4 is a good value.")
        if not (isinstance(self.max_iter, numbers.Integral) and self.max_iter >= 1):
            raise ValueError(f"max_iter={self.max_iter!r} must be an integer of at least 1; 5000 is a good value.")

    def __call__(
        self, x: Array, y: Array, eps: float, a: Array, b: Array, init: Potentials | None = None
    ) -> Potentials:
        """Return the potentials of (x, a) and (y, b); of `init` only ``g`` is read, at the rows of `y`."""
        if self.method == "auto":
            return self._auto(x, y, eps, a, b, init)
        M, log_a, log_b = cost(x, y) / eps, log(a), log(b)  # (n, m), (n,), (m,)
        n_iter, log_v = self._scalings(M, a, b, None if init is None else init.g / eps + log_b)
        return _certified(M, log_a, log_b, log_v, eps, n_iter, self.tol)

    def _auto(self, x: Array, y: Array, eps: float, a: Array, b: Array, init: Potentials | None) -> Potentials:
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
        start = None if log_v is None else (softmin(-M, log_v[columns]) + log(a), log_v[columns])
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


def pick_solver(solver: "Solver | str") -> "Solver":
    """Return the solver that `solver` names: ``"auto"``, or a solver value as it is."""
    if isinstance(solver, str) and solver == "auto":
        return POT(method="auto")
    if not isinstance(solver, type) and callable(solver) and hasattr(solver, "on_unconverged"):
        return solver
    raise ValueError(f"solver={solver!r} is unknown; choose 'auto' or a solver value such as nsgf.POT().")


def _certified(M: Array, log_a: Array, log_b: Array, log_v: Array, eps: float, n_iter: int, tol: float) -> Potentials:
    """Return potentials and the marginal error of the half step that ended with them.

    With f the softmin of the scalings v, rows of the plan are exact and the error is that of its columns; the last
    half step, g the softmin of f, can only lower it.
    """
    xp = namespace(M)
    f = softmin(-M, log_v)
    g = softmin(f[None, :] - M.T, log_a)
    columns = xp.exp(log_v - g)  # the column marginal, from v = b exp(g_old / eps) and b exp((g_old - g) / eps)
    error = float(xp.sum(xp.abs(columns - xp.exp(log_b))))
    return Potentials(f * eps, g * eps, error, n_iter, error <= tol)
