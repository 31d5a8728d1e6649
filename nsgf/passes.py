r"""Passes over a Gibbs kernel, compiled and on all cores, for NumPy arrays.

A pass reads every entry once: the mass of a row, its share of the columns' masses, its barycentre. Exponents are in
bits, :math:`K = 2^t`, and points scaled so that :math:`t_{ij} = \varphi_i + h_j + x_i \cdot y_j`.

Of points with few features no entry is ever stored: what a core computes of a row stays in its cache, and that takes no
longer than to read it from memory. Rows and columns come in blocks of neighbours. Of a block with centre c, half-widths
r and any slope s,

.. math::  \varphi_i + x_i \cdot e \le \max_k [\varphi_k + s \cdot (x_k - c)] + c \cdot e + \sum |e - s| r,

and this for both sides bounds the entries of a pair of blocks: those that are too small to matter are left out.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from nsgf._compiled import compiled, exp, inner, on_all_cores

FEW = 8  # features, up to which entries are computed anew at every pass
_SCALE = math.log2(math.e) ** 0.5  # of both clouds: their product is then in bits
_BLOCK = 32  # points of a block at least
_MOST = 16.0  # times `drop`: bound of an entry that may be left out, and so of what a column may lose
_CHUNK = 4096  # entries that are summed in the dtype of the arithmetic
_LANES = 32  # running maxima side by side: a single one would not be vectorised
_PART, _ROWS = 512, 1024  # columns of a softmax that matter or not together, and rows that a core takes at a time
_BLOCK_ENTRIES = 2**21  # of products of many features, softened while a cache holds them
_BITS = {32: 115.0, 64: 860.0}  # largest exponents, either way: there are no subnormal numbers
_LIGHT, _HEAVY = {32: 2.0**-22, 64: 2.0**-300}, {32: 2.0**40, 64: 2.0**300}  # masses of rows that are accurate
_FAR = 16.0  # nats between a potential that serves rows and columns and the one that was absorbed
_ENTRIES = 2**22  # of a block that is not stored
_NATS = {32: 80.0, 64: 650.0}  # largest exponents of such blocks
# A column of a stored kernel may move by this many nats. Its entries, at most e^far over a mass, and 1 over a weight,
# stay in range; and where its potential rises, an entry that was raised to e^-80 weighs e^(far - 80) at most, against
# masses of rows above 2^-22.
_MOVED = {32: 20.0, 64: 100.0}
_LOST = 1e-3  # mass of a column, relative to its weight, below which what was left out of it would show


def _fitted(degree: int) -> Any:
    """Return the coefficients of 2^t, |t| ≤ ½, through the nodes of Chebyshev."""
    t = 0.5 * np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    return np.linalg.solve(t[:, None] ** np.arange(degree + 1), np.exp2(t))


_P32, _P64 = tuple(map(np.float32, _fitted(6))), tuple(map(float, _fitted(11)))


def exp2(t: float) -> float:
    """Return 2^t, of t within the range of normal numbers; vectorised in compiled loops."""
    return 2.0**t


@overload(exp2, inline="always")
def _exp2(t: Any) -> Callable[[Any], Any]:
    return _exp2_32 if t == types.float32 else _exp2_64


def _exp2_32(t: Any) -> Any:
    k = np.rint(t)
    r = t - k
    p = _P32[6] * r + _P32[5]
    p = p * r + _P32[4]
    p = p * r + _P32[3]
    p = p * r + _P32[2]
    p = p * r + _P32[1]
    p = p * r + _P32[0]
    return p * np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)


def _exp2_64(t: Any) -> Any:
    k = np.rint(t)
    r = t - k
    p = _P64[11] * r + _P64[10]
    p = p * r + _P64[9]
    p = p * r + _P64[8]
    p = p * r + _P64[7]
    p = p * r + _P64[6]
    p = p * r + _P64[5]
    p = p * r + _P64[4]
    p = p * r + _P64[3]
    p = p * r + _P64[2]
    p = p * r + _P64[1]
    p = p * r + _P64[0]
    return p * np.int64((np.int64(k) + np.int64(1023)) << np.int64(52)).view(np.float64)


class Side(NamedTuple):
    """The rows or the columns of a kernel: points, their potential and weights, and boxes around blocks of them."""

    z: np.ndarray  # (d, n)
    potential: np.ndarray  # (n,), in bits, without the half squares
    weight: np.ndarray  # (n,)
    begin: np.ndarray  # (k + 1,), of the blocks
    centre: np.ndarray  # (k, d)
    half: np.ndarray  # (k, d), half-widths
    mass: np.ndarray  # (k,)
    slope: np.ndarray  # (k, d), so that potential + slope · z changes little within a block
    top: np.ndarray  # (k,), its maximum

    @classmethod
    def of(cls, z: np.ndarray, weight: np.ndarray) -> "Side":
        """Return the points z (n, d), in units of the blur, in blocks: the more points, the larger."""
        n, d = z.shape
        step = _BLOCK if n <= 2**15 else 2 * _BLOCK if n <= 2**18 else 4 * _BLOCK
        scaled = np.zeros((max(3, d), n), dtype=z.dtype)
        scaled[:d] = z.T * z.dtype.type(_SCALE)
        begin = np.append(np.arange(0, n, step), n)
        low, high = (f.reduceat(scaled, begin[:-1], axis=1).T.astype(np.float64) for f in (np.minimum, np.maximum))
        mass = np.add.reduceat(weight.astype(np.float64), begin[:-1])
        centre, half = 0.5 * (low + high), 0.5 * (high - low)
        weight = np.ascontiguousarray(weight)
        return cls(
            scaled, np.zeros(n, z.dtype), weight, begin, centre, half, mass, np.zeros_like(half), np.zeros_like(mass)
        )


@inner
def _tighten(side, k):
    """Fit the slope of a block, feature by feature; any slope is a valid one."""
    lo, hi = side.begin[k], side.begin[k + 1]
    left = side.potential[lo:hi].astype(np.float64)
    for q in range(side.z.shape[0]):
        z, var, cov = side.z[q, lo:hi] - side.centre[k, q], 0.0, 0.0
        mean = z.mean()
        for i in range(hi - lo):
            var += (z[i] - mean) ** 2
            cov += (z[i] - mean) * left[i]
        slope = cov / var if var > 0.0 else 0.0
        left -= slope * z
        side.slope[k, q] = -slope
    side.top[k] = left.max()


@compiled()
def _tighten_all(side):
    for k in range(len(side.top)):
        _tighten(side, k)


@inner
def _screen(X, r, Y, drop, bound, active):
    """List the blocks of columns that a block of rows needs; return their number and a bound on the mass left out."""
    for c in range(len(bound)):
        bound[c] = X.top[r] + Y.top[c]
    for q in range(X.z.shape[0]):
        x, half_x, slope_x = X.centre[r, q], X.half[r, q], X.slope[r, q]
        for c in range(len(bound)):
            y, half_y = Y.centre[c, q], Y.half[c, q]
            bound[c] += x * y + abs(y - slope_x) * half_x + abs(x - Y.slope[c, q]) * half_y + half_x * half_y
    shift = min(0.0, bound.max())  # something is always left
    limit = _limit(Y, bound, math.log2(_MOST * drop) + shift, 0.5 * drop * 2.0**shift)
    count, omitted = 0, 0.0
    for c in range(len(bound)):
        if bound[c] <= limit:
            omitted += Y.mass[c] * exp2(max(bound[c], -1000.0))
        else:
            active[count] = c
            count += 1
    return count, omitted


@inner
def _limit(Y, bound, most, allowed):
    """Return a limit, `most` or less, of bounds that may be left out with no more mass than is allowed."""
    left, k = np.zeros(64), 64
    for c in range(len(bound)):
        if bound[c] < most:  # masses, by the bits that their bounds are below the limit
            left[min(63, int(most - bound[c]))] += Y.mass[c] * exp2(max(bound[c], -1000.0))
    while k > 0 and left[k - 1] <= allowed:
        k -= 1
        allowed -= left[k]
    return most - k


@inner
def _gather(Y, active, count, P):
    """Lay the columns of the active blocks side by side: points, potentials, weights; return their number."""
    d, size = Y.z.shape[0], 0
    for c in active[:count]:
        lo, hi = Y.begin[c], Y.begin[c + 1]
        end = size + hi - lo
        for q in range(d):
            P[q, size:end] = Y.z[q, lo:hi]
        P[d, size:end] = Y.potential[lo:hi]
        P[d + 1, size:end] = Y.weight[lo:hi]
        size = end
    return size


@inner
def _exponents(rest, P, size, x):
    """Return the part of the exponents that all features but three, and the columns' potentials, make."""
    d = P.shape[0] - 2
    if d == 3:
        return P[3]
    for j in range(size):
        rest[j] = P[d, j]
    for q in range(3, d):
        x_q = x[q]
        for j in range(size):
            rest[j] += x_q * P[q, j]
    return rest


@inner
def _powers(K, rest, P, lo, hi, x, phi, bits):  # noqa: PLR0913
    """Fill K = 2^(φ + rest + x·y) and return its sum under the weights."""
    x_0, x_1, x_2, w, total = x[0], x[1], x[2], P.shape[0] - 1, phi * 0
    for j in range(np.uint64(lo), np.uint64(hi)):  # indices that may be negative are not vectorised
        t = x_0 * P[0, j] + x_1 * P[1, j] + x_2 * P[2, j] + (rest[j] + phi)
        k = exp2(max(min(t, bits), -bits))
        K[j] = k
        total += k * P[w, j]
    return total


@inner
def _fill(K, rest, P, size, x, phi, bits):
    """Fill one row of the kernel and return its mass."""
    rest, mass = _exponents(rest, P, size, x), 0.0
    for lo in range(0, size, _CHUNK):
        mass += _powers(K, rest, P, lo, min(lo + _CHUNK, size), x, phi, bits)
    return mass


@inner
def _largest(t):
    """Return the maximum of t, of many that are kept side by side."""
    tops, n = np.full(_LANES, t.dtype.type(-np.inf)), len(t) - len(t) % _LANES
    for i in range(np.uint64(0), np.uint64(n), np.uint64(_LANES)):
        for j in range(np.uint64(_LANES)):
            tops[j] = max(tops[j], t[i + j])
    top = tops.max()
    for j in range(n, len(t)):
        top = max(top, t[j])
    return top


@inner
def _sums_of(t, rest, P, lo, hi, x):
    """Fill t = rest + x·y and return its maximum."""
    x_0, x_1, x_2 = x[0], x[1], x[2]
    for j in range(np.uint64(lo), np.uint64(hi)):
        t[j] = x_0 * P[0, j] + x_1 * P[1, j] + x_2 * P[2, j] + rest[j]
    return _largest(t[lo:hi])


@inner
def _top(t, rest, P, size, x):
    """Return the largest exponent of a row, without φ."""
    return _sums_of(t, _exponents(rest, P, size, x), P, 0, size, x)


@inner
def _add(mass, K, size, u):
    u_0, u_1, u_2, u_3 = u[0], u[1], u[2], u[3]
    for j in range(size):
        mass[j] += u_0 * K[0, j] + u_1 * K[1, j] + u_2 * K[2, j] + u_3 * K[3, j]


@inner
def _average(T, K, P, size, mass):
    w = P.shape[0] - 1
    for q in range(len(T)):
        total = mass * 0
        for j in range(size):
            total += K[j] * P[w, j] * P[q, j]
        T[q] = total / mass


@inner
def _row(i, X, K, rest, P, size, limits):
    """Fill row i, normalised anew where its mass is out of the range that is accurate; return its mass."""
    bits, light, heavy = limits
    x = X.z[:, i].copy()
    mass = _fill(K, rest, P, size, x, X.potential[i], bits)
    if not light < mass < heavy:
        X.potential[i] = -_top(K, rest, P, size, x)
        mass = _fill(K, rest, P, size, x, X.potential[i], bits)
    return mass


@inner
def _rows(r, every, X, P, size, K, rest, u, limits, columns, T):  # noqa: PLR0913
    """Go through the rows of a block, four at a time; leave their potentials normalised, and return the least mass."""
    first, end, least = X.begin[r] + -X.begin[r] % every, X.begin[r + 1], np.inf
    for start in range(first, end, 4 * every):
        u[:] = 0
        for k in range(4):
            i = start + k * every
            if i >= end:
                break
            phi = X.potential[i]
            mass = _row(i, X, K[k], rest, P, size, limits)
            u[k] = X.weight[i] / mass
            if len(T):
                _average(T[i // every], K[k], P, size, mass)
            X.potential[i] -= math.log2(mass)
            least = min(least, 2.0 ** min(1000.0, phi - X.potential[i]))
        if len(columns):
            _add(columns, K, size, u)
    return least


@compiled()
def _sweep(X, Y, first, stride, every, drop, limits, columns, T):  # noqa: PLR0913
    """Go through every `stride`-th block of rows; add to the columns' masses, and return the most mass left out."""
    (d, m), dtype = Y.z.shape, Y.z.dtype
    bound, active = np.empty(len(Y.top)), np.empty(len(Y.top), np.int64)
    P, K, rest, u = np.empty((d + 2, m), dtype), np.zeros((4, m), dtype), np.empty(m, dtype), np.zeros(4, dtype)
    block, most = np.zeros(m if len(columns) else 0, dtype), 0.0
    for r in range(first, len(X.top), stride):
        for _ in range(4):  # the second time potentials are right, and so is what they leave out
            count, omitted = _screen(X, r, Y, drop, bound, active)
            size = _gather(Y, active, count, P)
            block[:size] = 0
            omitted /= _rows(r, every, X, P, size, K, rest, u, limits, block, T)
            if omitted <= drop:
                break
            _tighten(X, r)
        most = max(most, omitted)
        if len(columns):
            size = 0
            for c in active[:count]:
                for j in range(Y.begin[c], Y.begin[c + 1]):
                    columns[j] += block[size]
                    size += 1
    return most


@compiled()
def _guess(X, P, first, stride):
    """Put the softmin over a few columns for the potential of the rows."""
    t, rest, size = np.empty(P.shape[1], P.dtype), np.empty(P.shape[1], P.dtype), P.shape[1]
    for r in range(first, len(X.top), stride):
        for i in range(X.begin[r], X.begin[r + 1]):
            X.potential[i] = -_top(t, rest, P, size, X.z[:, i].copy())


@compiled()
def _sums(X, rows, P, bits):
    """Return the masses of some rows, over all columns."""
    K, rest, size = np.empty(P.shape[1], P.dtype), np.empty(P.shape[1], P.dtype), P.shape[1]
    masses = np.empty(len(rows))
    for k in range(len(rows)):
        i = rows[k]
        masses[k] = _fill(K, rest, P, size, X.z[:, i].copy(), X.potential[i], bits)
    return masses


class Few:
    """Passes over the kernel of clouds with few features, whose entries are computed where they are used.

    Attributes
    ----------
    h : array of shape (m,)
        The potential that was absorbed last.
    omitted : float
        The most mass that the last pass left out of any row, relative to the row.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, drop: float) -> None:
        self._x, self._y, self._d = Side.of(x, a), Side.of(y, b), x.shape[1]
        self._half_y, self._drop, self._dtype = 0.5 * np.vecdot(y, y), drop, x.dtype
        bits = np.finfo(x.dtype).bits
        self._limits = x.dtype.type(_BITS[bits]), _LIGHT[bits], _HEAVY[bits]
        self._both, self._known, self.omitted = False, False, 0.0

    def absorb(self, h: np.ndarray, keep: bool = True) -> np.ndarray:
        """Take in `h`; return its softmin without the half squares."""
        self._known, self._both = False, False
        self._sweep(h)
        self.h, self._phi = h, self._x.potential.copy()
        return self._nats(self._phi)

    def absorb_both(self, phi: np.ndarray, h: np.ndarray) -> None:
        """Take in potentials of the rows and columns."""
        self._x.potential[:] = phi * math.log2(math.e)
        self.h, self._phi, self._both, self._known = h, self._x.potential.copy(), True, True

    def near(self, h: np.ndarray) -> bool:
        """Whether `h` is near enough to the absorbed potential: any is, where rows are normalised at every pass."""
        return not self._both or bool(abs(h - self.h).max() < _FAR)

    def potential(self, h: np.ndarray) -> np.ndarray:
        """Return the softmin of `h` without the half squares."""
        self._sweep(h)
        return self._nats(self._x.potential)

    def row_masses(self, h: np.ndarray) -> np.ndarray:
        """Return the mass of every row, relative to the absorbed potential of the rows."""
        self._sweep(h)
        return np.exp2(self._phi - self._x.potential)

    def column_masses(self, h: np.ndarray) -> np.ndarray:
        """Return the mass of every column relative to its weight, once the rows have theirs."""
        mass = self._sweep(h, columns=True)
        lost = np.flatnonzero(mass < _LOST)
        if len(lost) and self.omitted > 0.0:
            mass[lost] = self._gathered(self._y, lost, self._x)
        return mass.astype(self._dtype)

    def map(self, h: np.ndarray, every: int = 1) -> np.ndarray:
        """Return the barycentric map of `every`-th row."""
        T = np.empty((-(-self._x.z.shape[1] // every), self._d), self._dtype)
        self._sweep(h, every, T=T)
        return T / self._dtype.type(_SCALE)

    def potential_and_map(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return both, of one pass."""
        T = self.map(h)
        return self._nats(self._x.potential), T

    def _nats(self, potential: np.ndarray) -> np.ndarray:
        return potential * self._dtype.type(math.log(2.0))

    def _sweep(self, h: np.ndarray, every: int = 1, columns: bool = False, T: np.ndarray | None = None) -> np.ndarray:
        """Go through the kernel under `h`; return the columns' masses where they are asked for."""
        X, Y, T = self._x, self._y, np.empty((0, self._d), self._dtype) if T is None else T
        Y.potential[:] = (h - self._half_y) * math.log2(math.e)
        _tighten_all(Y)
        if not self._known:
            self._guess()
        _tighten_all(X)
        stride = max(8, min(16, 2**22 // Y.z.shape[1]))  # parts, however many cores: each has a column of its own
        stride = min(stride, len(X.top))

        def work(first: int) -> tuple[np.ndarray, float]:
            mass = np.zeros(Y.z.shape[1] if columns else 0)
            return mass, _sweep(X, Y, first, stride, every, self._drop, self._limits, mass, T)

        masses, omitted = zip(*on_all_cores(work, range(stride)), strict=True)
        self.omitted = max(omitted)
        return np.sum(masses, axis=0)

    def _guess(self) -> None:
        """Begin with the softmin over one column of every block: the largest, up to its slope."""
        X, Y = self._x, self._y
        left = Y.potential + sum(
            np.repeat(slope, np.diff(Y.begin)) * z for slope, z in zip(Y.slope.T, Y.z, strict=True)
        )
        some = np.array([lo + np.argmax(left[lo:hi]) for lo, hi in zip(Y.begin[:-1], Y.begin[1:], strict=True)])
        P, stride = _packed(Y, some), min(16, len(X.top))
        on_all_cores(lambda first: _guess(X, P, first, stride), range(stride))
        self._known = True

    def _gathered(self, X: Side, rows: np.ndarray, Y: Side) -> np.ndarray:
        """Return the masses of some rows, nothing left out."""
        P, parts = _packed(Y, slice(None)), np.array_split(rows, min(len(rows), 16))
        return np.concatenate(on_all_cores(lambda part: _sums(X, part, P, self._limits[0]), parts))


def _packed(Y: Side, some: Any) -> np.ndarray:
    return np.concatenate([Y.z[:, some], Y.potential[None, some], Y.weight[None, some]])


_STORED, _POWERS, _NEW = 0, 1, 2  # what a block holds: entries, or products x·y with or without a potential of the rows


@inner
def _products(K, x, y):
    """Fill a row with x·y."""
    K[:] = 0
    for q in range(len(x)):
        x_q = x[q]
        for j in range(len(K)):
            K[j] += x_q * y[q, j]


@inner
def _to_powers(K, h, phi, nats):
    for j in range(len(K)):
        K[j] = exp(max(min(K[j] + h[j] + phi, nats), -nats))


@inner
def _mass(K, bv):
    total = bv[0] * 0
    for j in range(len(K)):
        total += K[j] * bv[j]
    return total


@inner
def _renew(K, h, change, bv, nats):
    """Turn a row of products into entries of mass 1 under h + change; return the row's potential."""
    for j in range(len(K)):
        K[j] += h[j] + change[j]
    top = _largest(K)
    for j in range(len(K)):
        K[j] = exp(max(min(K[j] - change[j] - top, nats), -nats))
    mass = _mass(K, bv)
    scale = 1 / mass
    for j in range(len(K)):
        K[j] *= scale
    return -top - math.log(mass)


@inner
def _add_one(columns, K, u):
    for j in range(len(columns)):
        columns[j] += u * K[j]


@inner
def _masses(K, bv):
    """Return the masses of four rows, of one pass over memory."""
    a = b = c = d = bv[0] * 0
    for j in range(len(bv)):
        a += K[0, j] * bv[j]
        b += K[1, j] * bv[j]
        c += K[2, j] * bv[j]
        d += K[3, j] * bv[j]
    return a, b, c, d


@inner
def _measure(K, mass, state, x, phi, columns, limits):
    """Turn up to four rows of a block into entries where they are none, and find their masses."""
    (y, h, change, bv), (nats, light, heavy) = columns, limits
    for k in range(len(K)):
        if state == _POWERS:
            _to_powers(K[k], h, phi[k], nats)
        mass[k] = 0 if state == _NEW else _mass(K[k], bv) if len(K) < 4 else 1
    if len(K) == 4 and state != _NEW:
        mass[0], mass[1], mass[2], mass[3] = _masses(K, bv)
    for k in range(len(K)):
        if not light < mass[k] < heavy:
            if state != _NEW:
                _products(K[k], x[k], y)
            phi[k], mass[k] = _renew(K[k], h, change, bv, nats), 1


@compiled()
def _through(rows, state, columns, limits, total):
    """Go through the rows of a block: their masses, and their shares of the columns'."""
    K, x, a, phi, mass = rows
    u = np.zeros(4, K.dtype)
    for start in range(0, len(K), 4):
        end = min(start + 4, len(K))
        _measure(K[start:end], mass[start:end], state, x[start:end], phi[start:end], columns, limits)
        for i in range(start, end):
            u[i - start] = a[i] / mass[i]
        if len(total) and end == start + 4:
            _add(total, K[start:end], len(total), u)
        elif len(total):
            for i in range(start, end):
                _add_one(total, K[i], u[i - start])


class Many:
    """Passes over the kernel of clouds with many features: blocks of a matrix product, stored while there is room.

    Attributes
    ----------
    h : array of shape (m,)
        The potential that entries are made of.
    omitted : float
        Zero: nothing is left out.
    """

    omitted = 0.0

    def __init__(self, x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, room: int) -> None:
        self._x, self._y, self._a, self._b = np.ascontiguousarray(x), np.ascontiguousarray(y.T), a, b
        n, m, bits = len(x), len(y), 8 * x.itemsize
        self._half_y, self._fits = 0.5 * np.vecdot(y, y), n * m * x.itemsize <= room
        self._store: Any = None
        self._phi, self._weighted = np.zeros(n, x.dtype), np.concatenate([np.ones_like(y[:, :1]), y], axis=1)
        self._limits, self._far = (x.dtype.type(_NATS[bits]), _LIGHT[bits], _HEAVY[bits]), _MOVED[bits]
        self._both = False

    def absorb(self, h: np.ndarray, keep: bool = True) -> np.ndarray:
        """Take in `h`; return its softmin without the half squares."""
        self._take(h, keep)
        self._sweep(h, _NEW)
        self._absorbed = self._phi.copy()
        return self._absorbed

    def absorb_both(self, phi: np.ndarray, h: np.ndarray) -> None:
        """Take in potentials of the rows and columns."""
        self._take(h, keep=True)
        self._phi[:], self._both = phi, True
        self._absorbed = self._phi.copy()
        if self._store is not None:
            self._sweep(h, _POWERS)

    def near(self, h: np.ndarray) -> bool:
        """Whether `h` is near enough to the absorbed potential, but for a few columns that passes compute anew."""
        if self._both:
            return bool(abs(h - self._given).max() < _FAR)
        return self._store is None or bool(np.count_nonzero(abs(h - self.h) >= self._far) <= len(h) // 16)

    def potential(self, h: np.ndarray) -> np.ndarray:
        """Return the softmin of `h` without the half squares."""
        mass = self._sweep(h)[0]
        return self._normal(mass)

    def row_masses(self, h: np.ndarray) -> np.ndarray:
        """Return the mass of every row, relative to the absorbed potential of the rows."""
        return np.exp(self._absorbed - self.potential(h))

    def column_masses(self, h: np.ndarray) -> np.ndarray:
        """Return the mass of every column relative to its weight, once the rows have theirs."""
        return self._sweep(h, columns=True)[1]

    def map(self, h: np.ndarray, every: int = 1) -> np.ndarray:
        """Return the barycentric map of `every`-th row."""
        return self._sweep(h, every=every, average=True)[2]

    def potential_and_map(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return both, of one pass."""
        mass, _, T = self._sweep(h, average=True)
        return self._normal(mass), T

    def _normal(self, mass: np.ndarray) -> np.ndarray:
        return self._phi - np.log(mass)

    def _take(self, h: np.ndarray, keep: bool) -> None:
        self.h = self._given = h
        self._column, self._both, shape = h - self._half_y, False, (len(self._x), len(h))
        if not (keep and self._fits):
            self._store = None
        elif self._store is None:
            self._store = np.empty(shape, h.dtype)
        self._step = shape[0] if self._store is not None else max(4, _ENTRIES // shape[1])

    def _follow(self, h: np.ndarray) -> None:
        """Take in what entries can: all of `h` where they are computed anew, else the columns where it is far."""
        if self._store is None:
            self.h, self._column = h, h - self._half_y
            return
        moved = np.flatnonzero(abs(h - self.h) >= self._far)
        if len(moved):
            self.h = self.h.copy()
            self.h[moved], self._column[moved] = h[moved], h[moved] - self._half_y[moved]
            t = self._x @ self._y[:, moved] + self._column[moved] + self._phi[:, None]
            self._store[:, moved] = np.exp(np.clip(t, -self._limits[0], self._limits[0]))

    def _sweep(
        self, h: np.ndarray, state: int = _STORED, every: int = 1, columns: bool = False, average: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Go through the kernel under `h`; return masses of rows, of columns, and barycentres."""
        if state == _STORED:
            self._follow(h)
            state = _STORED if self._store is not None else _POWERS
        change = h - self.h
        v = np.exp(change)
        bv, n = self._b * v, len(self._x)
        mass, total = np.empty(-(-n // every), v.dtype), np.zeros(len(h) if columns else 0)
        weighted = bv[:, None] * self._weighted if average else self._weighted[:0]
        T = np.empty((len(mass), self._weighted.shape[1] - 1), v.dtype) if average else weighted
        for start in range(0, len(mass), self._step):
            some = slice(start, start + self._step)
            rows = slice(start * every, min(n, (start + self._step) * every), every)
            K, x, a, phi = self._block(rows, state), self._x[rows], self._a[rows], self._phi[rows]
            if every > 1:  # whatever is done to a copy of the rows is done to one of their potentials
                x, a, phi = x.copy(), a.copy(), phi.copy()
            with_rows = (K, x, a, phi, mass[some])
            total += self._through(with_rows, state, change, bv, columns)
            if average:
                part = K @ weighted
                T[some] = part[:, 1:] / part[:, :1]
            if self._store is None and every == 1:
                phi -= np.log(mass[some])
                mass[some] = 1
        return mass, (v * total if columns else total).astype(v.dtype), T

    def _block(self, rows: slice, state: int) -> np.ndarray:
        """Return entries or products of some rows: those that are stored, or in memory that a cache may hold."""
        if state == _STORED:
            return self._store[rows] if rows.step == 1 else self._store[rows].copy()
        out = None if self._store is None else self._store
        return np.matmul(self._x[rows], self._y, out=out)

    def _through(
        self, rows: tuple[np.ndarray, ...], state: int, change: np.ndarray, bv: np.ndarray, columns: bool
    ) -> np.ndarray:
        """Go through a block on all cores; return the columns' masses where they are asked for."""
        n, m = rows[0].shape

        def work(start: int) -> np.ndarray:
            part, total = tuple(z[start : start + step] for z in rows), np.zeros(m if columns else 0, rows[0].dtype)
            _through(part, state, (self._y, self._column, change, bv), self._limits, total)
            return total

        step = max(4, min(256, 4 * -(-n // 64)))
        totals = on_all_cores(work, range(0, n, step))
        return np.asarray(np.sum(totals, axis=0, dtype=np.float64))


@inner
def _gather_powers(sums, t, P, lo, hi, top, bits):
    """Add the powers 2^(t − top) of some columns, and these times their points, to the sums."""
    total = t[lo] * 0
    for j in range(np.uint64(lo), np.uint64(hi)):
        k = exp2(max(t[j] - top, -bits))
        t[j] = k
        total += k
    sums[-1] += total
    for q in range(len(sums) - 1):
        total = t[lo] * 0
        for j in range(np.uint64(lo), np.uint64(hi)):
            total += t[j] * P[q, j]
        sums[q] += total


@compiled()
def _soft_rows(z, P, first, bits, least, T, mass):
    """Find averages and log2 of masses of rows; parts of columns whose powers are all below 2^-least are left out."""
    size, sums = P.shape[1], np.empty(T.shape[1] + 1)
    t, rest, tops = np.empty(size, P.dtype), np.empty(size, P.dtype), np.empty(-(-size // _PART), P.dtype)
    for i in range(first, min(first + _ROWS, len(z))):
        x, sums[:] = z[i], 0.0
        other = _exponents(rest, P, size, x)
        for c in range(len(tops)):
            tops[c] = _sums_of(t, other, P, c * _PART, min((c + 1) * _PART, size), x)
        top = tops.max()
        for c in range(len(tops)):
            if not tops[c] < top - least:
                _gather_powers(sums, t, P, c * _PART, min((c + 1) * _PART, size), top, bits)
        T[i], mass[i] = sums[:-1] / sums[-1], top + math.log2(sums[-1])


@compiled()
def _soften(K, h, nats, tops):
    """Turn rows of products x·y into e^(x·y + h), relative to the largest of a row; keep that one's logarithm."""
    for i in range(len(K)):
        k = K[i]
        for j in range(len(k)):
            k[j] += h[j]
        tops[i] = top = _largest(k)
        for j in range(len(k)):
            k[j] = exp(max(k[j] - top, -nats))


def soft_average(z: np.ndarray, y: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ_j y_j w_j(z), w(z) = softmax_j(t_j), t_j = h_j − ½|z − y_j|², (n, d), and −log Σ_j e^t_j, (n,).

    No row depends on others. What is left out of a row is below the rounding of its sum.

    Examples
    --------
    >>> T, phi = soft_average(np.zeros((1, 1)), np.array([[1.0], [3.0]]), np.array([4.0, 8.0]) + np.log([1.0, 3.0]))
    >>> T.round(3), phi.round(3)
    (array([[2.5]]), array([-4.886]))
    """
    h = h - 0.5 * np.vecdot(y, y)
    most = h.max()  # of a part that no row needs, no digit is lost
    T, log_mass = (_average_of_few if z.shape[1] <= FEW else _average_of_many)(z, y, h - most)
    return T, 0.5 * np.vecdot(z, z) - (most + log_mass)


def _average_of_few(z: np.ndarray, y: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    (n, d), bits, scale = z.shape, np.finfo(y.dtype), y.dtype.type(_SCALE)
    rows, P = np.zeros((n, max(3, d)), y.dtype), np.zeros((max(3, d) + 2, len(y)), y.dtype)
    rows[:, :d], P[:d], P[-2] = z * scale, y.T * scale, h * y.dtype.type(math.log2(math.e))
    least, limit = y.dtype.type(bits.nmant + 1 + math.log2(len(y))), y.dtype.type(_BITS[bits.bits])
    T, mass = np.empty((n, d)), np.empty(n)
    on_all_cores(lambda first: _soft_rows(rows, P, first, limit, least, T, mass), range(0, n, _ROWS))
    return (T / _SCALE).astype(y.dtype), (mass * math.log(2.0)).astype(y.dtype)


def _average_of_many(z: np.ndarray, y: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weighted, transposed = np.concatenate([np.ones_like(y[:, :1]), y], axis=1), np.ascontiguousarray(y.T)
    nats, step = y.dtype.type(_NATS[8 * y.itemsize]), max(1, _BLOCK_ENTRIES // len(y))
    parts, tops = [], np.empty_like(z[:, 0])
    for start in range(0, len(z), step):
        K, top = z[start : start + step] @ transposed, tops[start : start + step]
        some = np.array_split(np.arange(len(K)), min(len(K), 8))
        on_all_cores(_softener(K, h, nats, top), [slice(i[0], i[-1] + 1) for i in some])
        parts.append(K @ weighted)
    sums = np.concatenate(parts)
    return sums[:, 1:] / sums[:, :1], tops + np.log(sums[:, 0])


def _softener(K: np.ndarray, h: np.ndarray, nats: Any, tops: np.ndarray) -> Callable[[slice], None]:
    def soften(some: slice) -> None:
        _soften(K[some], h, nats, tops[some])

    return soften
