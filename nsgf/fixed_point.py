r"""The two Sinkhorn fixed points, their Anderson acceleration, and the certificate of the barycentric map.

With the rows of the kernel of :mod:`nsgf.kernel` kept exact, potentials solve

.. math::
    h \leftarrow h - \log \tfrac{P^\top 1}{b} \quad \text{(two clouds)}, \qquad
    h \leftarrow h - \tfrac12 \log \tfrac{P 1}{a} \quad \text{(a cloud with itself, } \varphi = h).

Plain iterations contract as slowly as :math:`1 - O(\varepsilon)`. Anderson's mixing combines the last few so that the
residual, linearised, is least (Walker & Ni 2011), and takes the number of iterations that Newton's method would. Where
that leads astray, the solution is approached through larger ε instead.

What is certified is what a velocity is made of, the map T. Along the iteration its error falls like the decrement
:math:`E_k` of the dual, so where E fell by the factor q over a window, q / (1 − q) times the change of T is left to go;
and what mass is misplaced has still to move, by a distance of the order of the cloud's own extent. This is an estimate,
which the tests hold against float64 references.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from nsgf._arrays import Array, device, namespace
from nsgf.kernel import BLOCK, RESOLVED, Kernel, extent, half_squares, is_dense

_MEMORY = 8  # iterations that are mixed
_RIDGE = 1e-9  # of the normal equations, relative to their diagonal; float64 resolves it
_GROWTH = 3.0  # of the marginal error, beyond which mixing has failed
_PATIENCE = {32: 100, 64: 1000}  # iterations without progress after which to give up
_PROBE = 2**16  # numbers in the rows of T that are watched
_LIGHTEST = 1e6  # how much lighter than others a row may be and have its own error certified
_SMALL = 4096  # points of clouds, up to which the kernel is stored and one core does as well as all
_FEW, _SMALL_FEW = 8, 2048  # points of so few features, whose entries all cores compute sooner than one reads them
_LEAST_MASS = 1e-30  # of a column
_LEAST = 4  # mixed iterations before T may be certified
_SLOWEST = 0.9  # largest q that is believed: a smaller fall of E within the window is noise
_SUBSAMPLE, _COARSER = 128, 8  # size of the coarsest start, and how much finer each next one is
_RUNAWAY = 20.0  # extents, and nats, over which no potential varies that is near the solution
_COOLING = 8.0  # factor between the ε of the coarsest start
_LOOSE, _CLOSE_BY, _COARSE_ITER = 0.3, 3e-4, 100  # decrements at which a sample, and centres, are solved well enough
PLAIN = 8  # plain steps after which the start is taken to be too far away
_SLOW_COOLING, _CLOSE = 2.0, 1e-3  # factor between two ε of the second start, and the error at which to go on
_GENTLE = 0.1  # half squares, in blurs, below which log K is a small number
_UNIT = float(np.finfo(np.float64).eps), float(np.finfo(np.float32).eps)
LEAST_UNIT = 0.1  # blurs, or extents: of a length below this, a fraction `tol` is more than a flow can use

Cloud = tuple[Array, Array]  # points (…, n, d) and their weights (n,)
Residual = Callable[[Kernel, Array], tuple[Array, Array]]


class Solution(NamedTuple):
    """Potentials of a fixed point with their map and certificate, potentials in units of ε, lengths of the blur."""

    h: Array  # (…, m)
    phi: Array  # (…, n), the softmin of h
    T: Array  # (…, n, d)
    marginal: Array  # (…), L1 mass misplaced
    T_error: Array  # (…), root-mean-square error of T
    within: Array  # (…), whether both are within the tolerance
    n_iter: Array  # (…)
    ended: bool  # whether no more is to be gained by iterations; otherwise most problems of a stack are within


def rms(z: Array) -> Array:
    """Return the root-mean-square length of the rows of z (…, n, d)."""
    xp = namespace(z)
    return xp.sqrt(xp.mean(xp.vecdot(z, z), axis=-1))


def rounding(size: Any, length: Any, dtype: Any) -> Any:
    """Return what the rounding of exponents up to `size`, and of points up to `length`, may do to T: in blurs."""
    return _UNIT["32" in str(dtype)] * (size + length)


def extents(x: Array, y: Array) -> Array:
    """Return the largest ½|x|² of the points of every problem, shape (…)."""
    xp = namespace(x, y)
    return xp.maximum(xp.max(half_squares(x), axis=-1), xp.max(half_squares(y), axis=-1))


def units(length: Array) -> tuple[Array, Array]:
    """Return the lengths, in blurs, below and above which errors of T are no longer relative to T − `base`.

    A fraction `tol` of a shorter one is more than a flow can use, and a translation does not excuse an error of what it
    carries: `length` is that of the clouds, (…).
    """
    xp, some = namespace(length), length > 0
    return LEAST_UNIT * xp.where(some, xp.clip(length, None, 1.0), 1.0), xp.where(some, 2.0 * length, xp.inf)


class Clouds(NamedTuple):
    """Two weighted clouds in units of the blur, with the extents of each problem."""

    x: Array  # (…, n, d)
    y: Array  # (…, m, d)
    a: Array
    b: Array
    size: Array  # (…), as of `extents`
    drop: float  # entries of the kernel that may be left out

    def kernel(self) -> Kernel:
        """Return their kernel, which is to absorb a potential."""
        return Kernel(self.x, self.y, self.a, self.b, self.drop)


def solve_cross(clouds: Clouds, h: Array | None, base: Array, tol: float, max_iter: int) -> Solution:
    """Solve for the potential of the columns from `h`, or a start found here; errors of T are relative to T − `base`.

    Clouds have at most one leading dimension.
    """
    if is_small(clouds):
        solved = solve_small(clouds, False, h, base, tol, max_iter)
    else:
        solved = _solve_cross(clouds.kernel(), h, base, tol, max_iter, PLAIN)
    lost, xp = ~solved.within & (solved.n_iter < max_iter), namespace(clouds.x)
    if not bool(lost.any()) or clouds.x.dtype != xp.float64 or not solved.ended:
        return solved
    if not lost.ndim:
        return _by_cooling(clouds, solved, base, tol, max_iter)
    for k in xp.nonzero(lost)[0].tolist():  # each by itself: others are not to be solved again
        one = clouds._replace(x=clouds.x[k], y=clouds.y[k], size=clouds.size[k])
        alone = solved._replace(**{name: getattr(solved, name)[k] for name in Solution._fields[:-1]})
        for whole, found in zip(solved[:-1], _by_cooling(one, alone, base[k], tol, max_iter)[:-1], strict=True):
            whole[k] = found
    return solved


def _by_cooling(clouds: Clouds, solved: Solution, base: Array, tol: float, max_iter: int) -> Solution:
    """Solve a problem that was lost from a start at ever smaller ε; return what was lost where that is of no use."""
    kernel, left = clouds.kernel(), int(max_iter - solved.n_iter)
    if rounding(kernel.size, kernel.length, kernel.x.dtype) >= tol * LEAST_UNIT * min(1.0, kernel.length or 1.0):
        return solved
    h, n_iter = _cooled(kernel, left)
    if n_iter >= left:
        return solved._replace(n_iter=solved.n_iter + n_iter)
    if is_small(clouds):
        again = solve_small(clouds, False, h, base, tol, left - n_iter, math.inf)
    else:
        again = _solve_cross(kernel, h, base, tol, left - n_iter, math.inf)
    return again._replace(n_iter=again.n_iter + n_iter + solved.n_iter)


def solve_own(clouds: Clouds, h: Array | None, base: Array | None, tol: float, max_iter: int) -> Solution:
    """Solve the symmetric problem of a cloud, given twice, with itself, from `h` or from −½ log K a.

    Without a `base`, errors of T are relative to the least unit, as far as the dtype resolves that.
    """
    if is_small(clouds):
        return solve_small(clouds, True, h, base, tol, max_iter, math.inf)
    kernel = clouds.kernel()
    if h is None:  # which lies between 0 and −½ log a; half-way, the kernel serves every iterate
        middle = kernel.xp.zeros_like(kernel.x[..., 0]) - 0.25 * float(kernel.xp.log(kernel.xp.min(kernel.a)))
        kernel.absorb_both(middle)
        h = middle - 0.5 * kernel.xp.log(kernel.row_masses(middle))
    else:
        kernel.absorb_both(h)
    return _solve(kernel, _own_residual, h, _Certificate(kernel, base, tol), max_iter)


def start(kernel: Kernel) -> Array:
    """Return a potential h (…, m) near the solution; zero where points are too far from each other."""
    if kernel.wide:
        return 0.0 * kernel.y[..., 0]
    return _start(kernel.x, kernel.y, kernel.a, kernel.b)


def _start(x: Array, y: Array, a: Array, b: Array) -> Array:
    """Return a potential h (…, m) near the solution: that of fewer points, extended by one softmin.

    These are a sample, or the centres of groups of neighbours, whose own points they stand for up to the square of
    their distance. They are nested; on the coarsest, ε is lowered by steps. Of wide clouds that would leave far points
    with potentials too large to be resolved.
    """
    n, m = x.shape[-2], y.shape[-2]
    if max(n, m) <= _SUBSAMPLE:
        return _anneal(x, y, a, b)[1]
    k, coarse = max(_SUBSAMPLE, max(n, m) // _COARSER), _drawn if is_dense(x, y) else _gathered
    (x_k, a_k), (y_k, b_k) = (coarse(z, w, k) if w.shape[0] > k else (z, w) for z, w in ((x, a), (y, b)))
    enough = _LOOSE if coarse is _drawn else _CLOSE_BY
    phi = _anneal(x_k, y_k, a_k, b_k)[0] if k == _SUBSAMPLE else _loosely(x_k, y_k, a_k, b_k, enough)
    return Kernel(y, x_k, b, a_k).absorb(phi, keep=False)


def _drawn(x: Array, a: Array, k: int) -> Cloud:
    """Return k of the points (…, n, d), drawn evenly along their cumulative weights."""
    xp = namespace(x)
    return x[..., _systematic(a, k), :], xp.full(k, 1.0 / k, dtype=x.dtype, device=device(x))


def _gathered(x: Array, a: Array, k: int) -> Cloud:
    """Return the centres of about k groups of points (n, d) that come in an order of neighbours, and their weights."""
    xp, n, size = namespace(x), x.shape[0], -(-x.shape[0] // k)
    parts = [(x[: n - n % size], a[: n - n % size], size), (x[n - n % size :], a[n - n % size :], n % size)]
    groups = [(z.reshape(-1, g, x.shape[1]), w.reshape(-1, g, 1)) for z, w, g in parts if g > 0]
    a_k = xp.concat([xp.sum(w, axis=1) for _, w in groups])
    return xp.concat([xp.sum(w * z, axis=1) for z, w in groups]) / a_k, a_k[:, 0]


def dual_value(kernel: Kernel, h: Array, enough: float, max_iter: int, own: bool) -> tuple[float, float]:
    """Return the value of the dual near `h`, in units of ε, and its error, after iterations that make that `enough`.

    Where iterations converge slowly, the misplaced mass allows for far too much. What was gained since half as many of
    them would be left to gain if they did as well, as long as mass falls into place, but they may not see it all: the
    geometric mean of both is taken, an estimate.
    """
    kernel.absorb(h)
    value, error, rounding = _dual_value(kernel, h)
    if max_iter == 0 or error <= enough:
        return value, error + rounding
    if own:
        kernel.absorb_both(h)
    check_at, last = _LEAST, math.inf
    for k, (h, _, marginal) in enumerate(_iterates(kernel, _own_residual if own else _cross_residual, h, max_iter), 1):  # noqa: B020
        if k not in (check_at, max_iter):
            continue
        found, missing, rounding = _dual_value(kernel, h)
        gained = abs(found - value) if float(marginal) < 0.7 * last else missing
        error, value = min(error, missing, 8.0 * math.sqrt(gained * missing)), max(value, found)
        if error <= max(enough, rounding):
            break
        check_at, last = 2 * check_at, float(marginal)
    return value, error + rounding


def _dual_value(kernel: Kernel, h: Array) -> tuple[float, float, float]:
    """Return Σ a f + Σ b g, f the softmin of `h` and g that of f; how far below the maximum it may lie; its rounding.

    The dual is concave, and its gradient at h is the mass b − b′ that columns lack, so the maximum, at h*, is above by
    at most Σ |b′ − b| |h − h*|; and h* − ½|y|² changes along y by at most the diameter of x, since its gradient −T lies
    within x.
    """
    xp, a, b = kernel.xp, kernel.a, kernel.b
    f, g, excess = (_gently if kernel.size < _GENTLE else _steeply)(kernel, h)  # f and g without ½|x|² and ½|y|²
    half_x, half_y, unit = half_squares(kernel.x), half_squares(kernel.y), float(xp.finfo(h.dtype).eps)
    size_f, size_g = abs(f) + kernel.half_x, abs(g) + kernel.half_y
    excess = xp.clip(abs(excess) - 16.0 * unit * (1.0 + size_g), 0.0, None)  # what is left is not rounding
    missing = (b * excess) @ (xp.log1p(excess) + 4.0 * xp.sqrt(half_x.max() * half_y))
    value = a @ f + b @ g + a @ kernel.half_x + b @ kernel.half_y
    return float(value), float(missing), float(4.0 * unit * (a @ size_f + b @ size_g))


def _steeply(kernel: Kernel, h: Array) -> tuple[Array, Array, Array]:
    mass = kernel.column_masses(h) + _LEAST_MASS
    return kernel.potential(h) - kernel.half_x, h - kernel.xp.log(mass) - kernel.half_y, mass - 1.0


def _gently(kernel: Kernel, h: Array) -> tuple[Array, Array, Array]:
    """Where exponents are small, so are potentials but for a constant: it is left out, and no digits are lost to it."""
    xp, a, b = kernel.xp, kernel.a, kernel.b
    h = h - kernel.half_y if kernel.size > 1e-12 else 0.0 * h  # smaller potentials are lost in those of a solver
    h = h - b @ h
    f = _small_softmin(kernel.x, kernel.y, b, h)
    f, constant = f - a @ f, a @ f
    g = _small_softmin(kernel.y, kernel.x, a, f)
    return f, g, xp.expm1(h - g + constant)


def _small_softmin(x: Array, y: Array, b: Array, h: Array) -> Array:
    """Return −log Σ_j b_j exp(h_j + x_i·y_j), to all digits where it is small."""
    xp, step = namespace(x, y), max(1, BLOCK // y.shape[0])
    parts = [xp.expm1(x[i : i + step] @ y.T + h) @ b for i in range(0, x.shape[0], step)]
    return -xp.log1p(xp.concat(parts))


def _cooled(kernel: Kernel, max_iter: int) -> tuple[Array, int]:
    """Return a potential h (…, m) from solutions at ever smaller ε, each the next one's start; and the iterations.

    Where clusters far apart have to exchange a little mass, potentials drift over hundreds of nats at a constant rate,
    which no mixing foresees; from one ε to its half they move by a few.
    """
    h, n_iter = kernel.xp.zeros_like(kernel.half_y), 0
    eps = 4.0 * extent(kernel.x, kernel.y)
    while eps > 1.0 and n_iter < max_iter:
        scaled = Kernel(kernel.x / eps**0.5, kernel.y / eps**0.5, kernel.a, kernel.b)
        h = h / eps
        scaled.absorb(h)
        left = min(_COARSE_ITER, max_iter - n_iter)
        for h, decrement, marginal in _iterates(scaled, _cross_residual, h, left):  # noqa: B007, B020
            n_iter += 1
            if decrement is not None and max(float(decrement.max()), float(marginal.max())) < _CLOSE:
                break
        h, eps = h * eps, eps / _SLOW_COOLING
    return h, n_iter


def _cross_residual(kernel: Kernel, h: Array) -> tuple[Array, Array]:
    """Return the step to the next iterate, and the relative excess of mass on every column."""
    if not kernel.near(h):
        kernel.absorb(h)
    mass = kernel.column_masses(h) + _LEAST_MASS  # a column may have been too far to be kept
    return -kernel.xp.log(mass), mass - 1.0


def _own_residual(kernel: Kernel, h: Array) -> tuple[Array, Array]:
    if not kernel.near(h):
        kernel.absorb_both(h)
    mass = kernel.xp.exp(h - kernel.h) * kernel.row_masses(h)
    return -0.5 * kernel.xp.log(mass), mass - 1.0


def _iterates(
    kernel: Kernel, residual: Residual, h: Array, max_iter: int
) -> Iterator[tuple[Array, Array | None, Array]]:
    """Yield iterates from `h` on, each with its decrement and its marginal error.

    A plain step says nothing of the errors that it is slow to remove: it has no decrement, NaN within a stack.
    """
    mix = _Anderson(kernel.b, h)
    for _ in range(max_iter):
        r, excess = residual(kernel, h)
        marginal = abs(excess) @ kernel.b
        following = mix(h, r, marginal)
        decrement = abs((excess * (following - h)) @ kernel.b) ** 0.5 if mix.mixed else None
        if mix.mixed and mix.plain is not None:
            decrement = kernel.xp.where(mix.plain, kernel.xp.nan, decrement)
        yield h, decrement, marginal
        h = following


def _loosely(x: Array, y: Array, a: Array, b: Array, enough: float) -> Array:
    """Return a potential φ (…, n) that is near enough to the solution to start from."""
    h, kernel = _start(x, y, a, b), Kernel(x, y, a, b)
    kernel.absorb(h)
    for h, decrement, _ in _iterates(kernel, _cross_residual, h, _COARSE_ITER):  # noqa: B007, B020
        if decrement is not None and float(decrement.max()) < enough:
            break
    return kernel.potential(h)


def _solve_cross(kernel: Kernel, h: Array | None, base: Array, tol: float, max_iter: int, plain: float) -> Solution:
    reach = rms(kernel.y - kernel.xp.mean(kernel.y, axis=-2, keepdims=True)) * _lightness(kernel.a)
    h = start(kernel) if h is None else h
    kernel.absorb(h)
    return _solve(kernel, _cross_residual, h, _Certificate(kernel, base, tol, reach, plain), max_iter)


def _solve(kernel: Kernel, residual: Residual, h: Array, certificate: "_Certificate", max_iter: int) -> Solution:
    """Iterate until the certificate settles."""
    for k, (h, decrement, marginal) in enumerate(_iterates(kernel, residual, h, max_iter), 1):  # noqa: B020
        if certificate.settles(k, h, decrement, marginal):
            break
    T_error, within = certificate.verdict(marginal)
    n_iter = kernel.xp.full_like(within, k, dtype=kernel.xp.int64)
    ended = certificate.lost or k == max_iter
    return Solution(h, *kernel.potential_and_map(h), marginal, T_error, within, n_iter, ended)


def is_small(clouds: Clouds) -> bool:
    """Whether a compiled loop solves the problems of some clouds."""
    most = min(_SMALL, _SMALL_FEW) if clouds.x.ndim == 2 and clouds.x.shape[-1] <= _FEW else _SMALL
    return bool(
        isinstance(clouds.x, np.ndarray)
        and max(clouds.x.shape[-2], clouds.y.shape[-2]) <= most
        and float(clouds.size.max()) <= RESOLVED
    )


def solve_small(
    clouds: Clouds, own: bool, h: Array | None, base: Array | None, tol: float, max_iter: int, plain: float = PLAIN
) -> Solution:
    """Solve in compiled code, each problem of a stack by itself, and held against its own lengths.

    A solve that is not even mixing after `plain` steps is given up.
    """
    from nsgf import small_problems

    x, y, a, b, size, _ = clouds
    every = _every(*x.shape[-2:])
    watched = x[..., :0, :] if base is None else base[..., ::every, :].astype(x.dtype, copy=False)
    h = np.full_like(y[..., 0], np.nan) if h is None else np.where(np.isfinite(h).all(-1)[..., None], h, np.nan)
    size = size.reshape(-1)
    rounded, (least, most) = rounding(size, size**0.5, x.dtype), units(size**0.5)
    least = np.maximum(least, 3.0 * rounded / tol) if base is None else least
    light, patience = _lightness(a), _PATIENCE[8 * x.itemsize]
    limits = [
        small_problems.Limits(light, r, shortest, longest, tol, int(max_iter), float(plain), patience, every)
        for r, shortest, longest in zip(rounded.tolist(), least.tolist(), most.tolist(), strict=True)
    ]
    h, *rest = small_problems.solve(small_problems.Problem(x, y, a, b, h, watched), own, limits)
    return _unless_lost(Solution(h, *rest, ended=True), size, max_iter)  # type: ignore[arg-type, misc]


def _unless_lost(solved: Solution, size: Array, max_iter: int) -> Solution:
    """Return a stack of solutions, none within the tolerance whose potential has run away, and begun anew.

    h − ½|y|² changes along y by |x| at most, so h by no more than five times the largest ½|x|² or ½|y|². Beyond, every
    entry of a kernel may be one that was raised, and their plan, which couples all with all, has the right marginals.
    """
    far = np.ptp(solved.h, axis=-1) > _RUNAWAY * size.reshape(solved.within.shape) + _RUNAWAY
    if not far.any():
        return solved
    again = far & (solved.n_iter < max_iter) & (solved.h.dtype == np.float32)  # float64 comes after, and is the last
    h = np.where(again[..., None], np.nan, solved.h)
    return solved._replace(h=h, within=solved.within & ~far, T_error=np.where(far, np.inf, solved.T_error))


def _lightness(a: Array) -> float:
    """Return how much more than others the rows of weights a feel mass that is misplaced: 1 for equal weights."""
    xp = namespace(a)
    light = xp.clip(a.shape[0] * xp.astype(a, xp.float64), 1.0 / _LIGHTEST, None)
    return float(xp.mean(light**-2.0)) ** 0.5


def _every(n: int, d: int) -> int:
    """Return how far apart the rows of T are that are watched: a prime, in case that rows come by turns."""
    step = n // max(64, min(1024, _PROBE // d))
    return next((p for p in (5, 11, 23, 47, 97, 199, 499) if p >= step), step) if step > 1 else 1


def _typical(z: Array) -> float:
    """Return the middle one of the figures of a stack, so that the slowest problems do not hold up the others."""
    return float(namespace(z).sort(z)[z.shape[0] // 2] if z.ndim else z)


class _Anderson:
    """Mixing of the last iterates: the combination whose residual, in the mean square under w, is least."""

    def __init__(self, w: Array, h: Array) -> None:
        xp = namespace(w, h)
        self._xp, self._sqrt_w = xp, xp.sqrt(xp.astype(w, xp.float64))
        double = {"dtype": xp.float64, "device": device(h)}
        self._ridge = _RIDGE * xp.eye(_MEMORY, **double)
        shape = (*h.shape[:-1], _MEMORY, h.shape[-1])
        self._dr, self._gram = xp.zeros(shape, **double), xp.zeros((*shape[:-1], _MEMORY), **double)
        self._dg = xp.zeros(shape, dtype=h.dtype, device=device(h))
        self._last: tuple[Array, Array] | None = None
        self.mixed = False  # whether the last step was more than a plain one
        self.plain: Array | None = None  # in which problems of a stack it was not
        self._count, self._safe, self._least = 0, h, xp.full_like(h[..., 0], xp.inf)
        self._floor = xp.full_like(self._least, 100.0 * float(xp.finfo(h.dtype).eps))  # growth below is rounding

    def __call__(self, h: Array, r: Array, error: Array) -> Array:
        """Return the next iterate from this one, its residual and its marginal error (…).

        Plain steps never raise that error. Where mixing did, by much, begin anew from the best iterate's plain step;
        other problems of a stack go on. `plain` says where the step is no more than a plain one.
        """
        xp, g, last = self._xp, h + r, self._last
        most = xp.maximum(self._least, self._floor)
        better, worse = error < self._least, ~(error <= xp.minimum(_GROWTH * most, 1.0 + 0.5 * most))  # it ends at 2
        self._safe = g if better.all() else xp.where(better[..., None], g, self._safe)
        self._least = xp.where(better, error, self._least)
        some, self.mixed = bool(worse.any()), False
        if some and worse.all():
            self._dr[...], self._gram[...] = 0.0, 0.0
            self._count, self._last = 0, None
            return self._safe
        if some:
            self._dr[worse], self._gram[worse] = 0.0, 0.0
        r = self._sqrt_w * r  # float64
        self._last = r, g
        if last is None:
            return xp.where(worse[..., None], self._safe, g) if some else g
        self.mixed, k = True, self._count % _MEMORY
        self._count += 1
        self._dr[..., k, :], self._dg[..., k, :] = r - last[0], g - last[1]
        if self.plain is not None:  # where the last step was begun anew, nothing is learnt from what was before it
            self._dr[..., k, :][self.plain] = 0.0
        products = self._dr @ xp.stack([self._dr[..., k, :], r], axis=-1)  # (…, p, 2)
        self._gram[..., k, :] = self._gram[..., :, k] = products[..., 0]
        size = xp.max(self._gram, axis=(-2, -1), keepdims=True) + 1e-300
        theta = xp.linalg.inv(self._gram / size + self._ridge) @ (products[..., 1:] / size)  # 0 for rows to come
        mixed = g - (xp.astype(theta.swapaxes(-1, -2), g.dtype) @ self._dg)[..., 0, :]
        self.plain = worse if some else None
        return xp.where(worse[..., None], self._safe, mixed) if some else mixed


class _Certificate:
    """The error of T, read from the last iterates, their decrements and their marginal errors, and when to stop.

    `reach` is how far mass that is misplaced may have to move, and `plain` the plain steps after which to give up.
    """

    def __init__(
        self, kernel: Kernel, base: Array | None, tol: float, reach: Array | float = 0.0, plain: float = math.inf
    ) -> None:
        self._kernel, self._tol, self._reach, self._plain = kernel, tol, reach, plain
        self._past: list[tuple[Array, Array, Array]] = []
        self._measured: tuple[Array, Array] | None = None
        self._check_at, self._best, self._best_k = 5.0 * tol, math.inf, 0
        self._every = _every(*kernel.x.shape[-2:])
        self._base = None if base is None else base[..., :: self._every, :]
        self._size = extents(kernel.x, kernel.y)  # (…)
        self._least, self._most = units(self._size**0.5)
        if base is None:
            self._least = kernel.xp.maximum(self._least, 3.0 * self._rounding / tol)
        self._patience = _PATIENCE[kernel.xp.finfo(kernel.x.dtype).bits]
        self.lost = False  # whether nothing more is to be gained

    @property
    def _rounding(self) -> Array:
        size = self._size * 0.0 + self._kernel.size if self._kernel.wide else self._size
        return rounding(size, self._size**0.5, self._kernel.x.dtype)

    def settles(self, k: int, h: Array, decrement: Array | None, marginal: Array) -> bool:
        """Whether iterate k is within the tolerance in most problems, or nothing more is to be gained."""
        self._measured, most = None, _typical(marginal)
        self.lost = k - self._best_k > self._patience or not math.isfinite(most)
        if decrement is None:
            self._past, self._plain = [], self._plain - 1
            self.lost = self.lost or self._plain < 0
            return self.lost
        self._past = [*self._past, (h, decrement, marginal)][-_MEMORY:]
        largest = _typical(decrement)
        if largest < 0.9 * self._best:
            self._best, self._best_k = largest, k
        if len(self._past) >= _LEAST and largest <= self._check_at and most <= self._tol:
            error, unit = self._measured = self._measure()
            ratio = _typical(error / unit)
            self.lost = self.lost or bool((self._rounding > self._tol * unit).all())
            if ratio <= self._tol or self.lost:
                return True
            self._check_at = largest * min(0.5, max(0.05, 0.7 * self._tol / ratio))
        return self.lost

    def verdict(self, marginal: Array) -> tuple[Array, Array]:
        """Return the error of T at the last iterate, and whether it and the marginal error are within the tolerance."""
        xp = self._kernel.xp
        if len(self._past) < _LEAST:
            return xp.full_like(marginal, xp.inf), marginal < 0
        error, unit = self._measured or self._measure()
        within = (error <= self._tol * unit) & (marginal <= self._tol)
        error = xp.where(within, error, error / (1.0 - _SLOWEST))  # where iterations stall, the fall of E says little
        return xp.where(xp.isnan(error), xp.inf, error), within

    def _measure(self) -> tuple[Array, Array]:
        """Return the error of T at the last iterate, and the length that it is to be small against."""
        xp, kernel, (h, E, marginal) = self._kernel.xp, self._kernel, self._past[-1]
        nearness = [kernel.nearness(p[0]) for p in self._past]
        first = next((k for k, near in enumerate(nearness) if 2 * int(near.sum()) > math.prod(near.shape)), -1)
        (h_0, E_0, _), near = self._past[first], nearness[first]
        T = kernel.map(h, self._every)
        unit = self._least
        if self._base is not None:
            unit = xp.maximum(unit, xp.minimum(rms(T - self._base), self._most))
        if h_0 is h:
            return xp.full_like(E, xp.inf), unit
        for _, E_k, _ in self._past[-((len(self._past) + 1) // 3) :]:  # E may be small for once
            E = xp.maximum(E, E_k)
        q = xp.clip(E / xp.where(E_0 > 0, E_0, 1.0), 0.0, _SLOWEST)
        h_0 = h_0 if near.all() else xp.where(near[..., None], h_0, h)
        error = xp.where(near, rms(T - kernel.map(h_0, self._every)) * q / (1.0 - q), xp.inf)
        error = xp.where(q < _SLOWEST, error, xp.where(error > E, error, E))  # without progress, E itself is left
        return error + self._reach * marginal + self._rounding, unit


def _systematic(w: Array, k: int) -> Array:
    """Return k indices, drawn evenly along the cumulative weights."""
    xp = namespace(w)
    quantiles = (xp.arange(k, dtype=w.dtype, device=device(w)) + 0.5) / k
    return xp.clip(xp.searchsorted(xp.cumulative_sum(w), quantiles), 0, w.shape[0] - 1)


def _anneal(x: Array, y: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Return potentials φ (…, n) and h (…, m) by alternate softmins in the log domain, ε falling to 1 by steps."""
    xp, log_a, log_b = namespace(x, y), namespace(a).log(a), namespace(b).log(b)
    M = half_squares(x)[..., :, None] + half_squares(y)[..., None, :] - x @ y.swapaxes(-1, -2)  # (…, n, m)
    eps = max(float(M.max()), 1.0)
    h = xp.zeros_like(y[..., 0])
    while True:
        for _ in range(3 if eps == 1.0 else 1):
            f = eps * softmin((h[..., None, :] - M) / eps + log_b)
            h = eps * softmin((f[..., None, :] - M.swapaxes(-1, -2)) / eps + log_a)
        if eps == 1.0:
            return f, h
        eps = max(eps / _COOLING, 1.0)


def softmin(z: Array) -> Array:
    """Return −log Σ_j exp(z_ij) for every row, shape (…, n); never over- or underflows.

    Examples
    --------
    >>> softmin(np.log([[0.5, 0.5]]) - 1e4)
    array([10000.])
    """
    xp = namespace(z)
    top = xp.max(z, axis=-1, keepdims=True)
    return -(top[..., 0] + xp.log(xp.sum(xp.exp(z - top), axis=-1)))
