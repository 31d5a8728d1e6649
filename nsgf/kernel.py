r"""The Gibbs kernel of two clouds, with potentials absorbed, in blocks of rows.

.. math::  K_{ij} = e^{\varphi_i + h_j - |x_i - y_j|^2 / 2}

Lengths are in units of the blur and potentials in units of :math:`\varepsilon`, so that no constant is left. With
:math:`\varphi` the softmin of the absorbed :math:`h`, every row has mass 1 under the weights :math:`b`, and nothing
over- or underflows while the current potential stays near the absorbed one (Schmitzer 2019, sec. 3.1).

A kernel is stored while it is small. Otherwise memory is O(n + m): a block of rows exists at a time, and a column whose
entries in a block are all negligible is left out of it. Arrays may have leading dimensions, for a batch of problems of
one size.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nsgf._arrays import Array, device, like, namespace

_STORED = 2**28  # bytes of entries that are kept
BLOCK = 2**20  # entries of one block: what a cache holds
_LEAF = 8  # rows which need no order among themselves
_LEAST_ROWS = 256  # of a plain block
_DENSE = 2**22  # entries below which leaving out columns costs more than it saves
_FAR, _FAR_SPARSE = 16.0, 8.0  # change of a potential, in nats, after which it is absorbed
_FEW = 32  # features, below which near rows have their near columns in common
RESOLVED = 2.0**30  # half squares, in blurs, beyond which the rounding of their differences would show in a plan
_COMPILED = 2**20  # entries, from which on compiled passes pay
_LIGHT = {32: 1e-25, 64: 1e-250}  # weights below which exponents leave the range of compiled passes
_FLOOR = {32: -60.0, 64: -600.0}  # exponents below are raised: subnormal numbers cost ten times the time


def half_squares(x: Array) -> Array:
    """Return ½|x|² of every row."""
    return 0.5 * namespace(x).vecdot(x, x)


def extent(*clouds: Array) -> float:
    """Return the largest ½|x|² of any row of the clouds."""
    return max(float(namespace(x).max(half_squares(x))) for x in clouds)


def is_wide(*clouds: Array) -> bool:
    """Whether costs of clouds in units of the blur are resolved only by the differences of their points."""
    return extent(*clouds) > RESOLVED


def cost(x: Array, y: Array) -> Array:
    """Return C(x, y) = ½|x − y|² between all rows, in units of the blur, shape (…, n, m).

    Examples
    --------
    >>> cost(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]))
    array([[12.5]])
    """
    if not is_wide(x, y):
        squares = half_squares(x)[..., :, None] + half_squares(y)[..., None, :]
        return namespace(x, y).clip(squares - x @ _transposed(y), 0.0, None)
    total = 0.0 * (x[..., :, None, 0] + y[..., None, :, 0])
    step = max(1, BLOCK // math.prod(total.shape))  # features at a time
    for k in range(0, x.shape[-1], step):
        total += half_squares(x[..., :, None, k : k + step] - y[..., None, :, k : k + step])
    return total


def is_dense(x: Array, y: Array) -> bool:
    """Whether the kernel of x and y keeps all of its columns, so that the order of its rows does not matter."""
    entries = x.shape[-2] * y.shape[-2]
    bits = namespace(x).finfo(x.dtype).bits
    return x.ndim > 2 or entries <= _DENSE or (x.shape[-1] >= _FEW and entries * bits <= 8 * _STORED)


def neighbours(x: np.ndarray) -> np.ndarray:
    """Return an order of the rows of x (n, d) in which near rows come together: cuts across the widest axis.

    Rows from a multiple of 8 · 2^k on to the next one are a leaf of some level.
    """

    def split(i: np.ndarray) -> list[np.ndarray]:
        if len(i) <= _LEAF:
            return [i]
        axis, half = int(np.argmax(np.ptp(x[i], axis=0))), _LEAF << (((len(i) - 1) // _LEAF).bit_length() - 1)
        parted = i[np.argpartition(x[i, axis], half)]
        return split(parted[:half]) + split(parted[half:])

    return np.concatenate(split(np.arange(len(x))))


class Kernel:
    """K between x (…, n, d) and y (…, m, d), of weights a (n,) and b (m,); absorb a potential before the first use.

    Of any row a mass of `drop` may be left out, and of any column 16 times that. Rows of one block should lie near
    each other for that to be possible.
    """

    def __init__(self, x: Array, y: Array, a: Array, b: Array, drop: float = 1e-9) -> None:
        self.x, self.y, self.a, self.b = x, y, a, b
        self.half_x, self.half_y = half_squares(x), half_squares(y)
        self.xp = namespace(x, y)
        self.size = max(float(self.half_x.max()), float(self.half_y.max()))  # of what exponents are made of
        self.length, self.wide = self.size**0.5, self.size > RESOLVED
        if self.wide:  # costs are taken from differences, and no part of them is left to the potentials
            self.half_x, self.half_y = 0.0 * self.half_x, 0.0 * self.half_y
        self._passes = self._compiled(drop) or PlainPasses((x, y), (a, b), self.half_y, self.wide, drop)

    def _compiled(self, drop: float) -> Any:
        """Return compiled passes where there are any: over NumPy's arrays, and weights that are no rounding errors."""
        x = self.x
        if not isinstance(x, np.ndarray) or x.ndim > 2 or self.wide or x.dtype.char not in "fd":
            return None
        if len(x) * len(self.y) < _COMPILED or float(self.b.min()) < _LIGHT[8 * x.itemsize]:
            return None
        from nsgf import passes  # the compiler is slow to import

        if x.shape[1] <= passes.FEW:
            return passes.Few(x, self.y, self.a, self.b, drop)
        return passes.Many(x, self.y, self.a, self.b, _STORED)

    @property
    def omitted(self) -> float:
        """The most mass that the last pass left out of a row, relative to the row."""
        return self._passes.omitted

    @property
    def h(self) -> Array:
        """The absorbed potential (…, m)."""
        return self._passes.h

    def absorb(self, h: Array, keep: bool = True) -> Array:
        """Take in `h` (…, m); return the potential φ (…, n) that gives every row mass 1: the softmin of `h`.

        Where only φ is wanted, the entries need not be kept.
        """
        phi = self._passes.absorb(h, keep)
        if self.wide:
            self.size = float(self.xp.maximum(abs(phi).max(), abs(h).max()))
        return phi + self.half_x

    def absorb_both(self, h: Array) -> None:
        """Take in one potential for the rows and the columns of the kernel of a cloud with itself."""
        self._passes.absorb_both(h - self.half_x, h)
        if self.wide:
            self.size = float(abs(h).max())

    def near(self, h: Array) -> bool:
        """Whether `h` is near enough to the absorbed potential."""
        return bool(self.nearness(h).all())

    def nearness(self, h: Array) -> Array:
        """Return where in a stack it is, shape (…)."""
        return self.xp.asarray(self._passes.near(h))

    def potential(self, h: Array) -> Array:
        """Return the softmin of `h`, shape (…, n)."""
        return self._passes.potential(h) + self.half_x

    def row_masses(self, h: Array) -> Array:
        """Return the mass of every row under `h`, relative to its weight and the absorbed φ, shape (…, n)."""
        return self._passes.row_masses(h)

    def column_masses(self, h: Array) -> Array:
        """Return the mass of every column relative to its weight, once the rows have theirs, shape (…, m)."""
        return self._passes.column_masses(h)

    def map(self, h: Array, every: int = 1) -> Array:
        """Return the barycentric map T(x_i) = Σ_j y_j w_ij of `every`-th row under `h`, shape (…, k, d)."""
        return self._passes.map(h, every)

    def potential_and_map(self, h: Array) -> tuple[Array, Array]:
        """Return the softmin of `h` and the barycentric map, of one pass where that is possible."""
        phi, T = self._passes.potential_and_map(h)
        return phi + self.half_x, T


class PlainPasses:
    """Passes over a kernel, of the operations that all array libraries have; potentials are without half squares."""

    def __init__(
        self, clouds: tuple[Array, Array], weights: tuple[Array, Array], half_y: Array, wide: bool, drop: float
    ):
        (self._x, self._y), (self._a, self._b) = clouds, weights
        self._half_y, self._wide, self.omitted = half_y, wide, min(1.0, drop * clouds[1].shape[-2])
        self._xp = xp = namespace(*clouds)
        x, (n, m) = self._x, (self._x.shape[-2], self._y.shape[-2])
        self._floor = xp.asarray(_FLOOR[xp.finfo(x.dtype).bits], dtype=x.dtype, device=device(x))
        self._dense, whole = is_dense(*clouds), x.ndim > 2 or n * m <= _DENSE
        self._far = _FAR if self._dense else _FAR_SPARSE
        self._drop = drop * math.exp(-2 * self._far)  # h and φ may each move that far before the entry is read again
        step = n if whole else max(_LEAST_ROWS, BLOCK // m)
        self._rows = [slice(i, min(i + step, n)) for i in range(0, n, step)]
        room = math.prod(x.shape[:-1]) * m
        if not self._dense:
            room = min(room, _STORED * 8 // xp.finfo(x.dtype).bits)
        self._store = xp.empty(room, dtype=x.dtype, device=device(x))
        self._block = self._store
        if not self._dense:
            self._block = xp.empty(min(step, n) * m, dtype=x.dtype, device=device(x))

    def absorb(self, h: Array, keep: bool) -> Array:
        """Take in `h` (…, m); return its softmin φ (…, n)."""
        xp, phi = self._xp, self._xp.empty_like(self._x[..., 0])
        self._take(xp.zeros_like(phi), h)
        for rows, K in self._scores():
            top = xp.max(K, axis=-1)  # (…, rows)
            K -= top[..., None]
            mass = _product(self._b, self._exp(K))
            phi[..., rows] = self._left[..., rows, -1] = -(top + xp.log(mass))
            if self._dense:
                self._left[..., rows, -1] = -top  # rows of any mass will do
            else:
                K /= mass[..., None]
            if keep:
                self._keep(rows, K)
        return phi

    def absorb_both(self, phi: Array, h: Array) -> None:
        """Take in a potential for the rows and one for the columns."""
        self._take(phi, h)
        for rows, K in self._scores():
            self._keep(rows, self._exp(K))

    def near(self, h: Array) -> Array:
        """Return where in a stack `h` is near enough to the absorbed potential, shape (…)."""
        return self._xp.max(abs(h - self.h), axis=-1) < self._far

    def potential(self, h: Array) -> Array:
        """Return the softmin of `h`, shape (…, n)."""
        return self._left[..., -1] - self._xp.log(self.row_masses(h))

    def row_masses(self, h: Array) -> Array:
        """Return the mass of every row under `h`, relative to its weight and the absorbed φ, shape (…, n)."""
        bv = self._b * self._xp.exp(h - self.h)
        return _joined([_product(bv[..., columns], K) for _, columns, K in self._blocks()], -1)

    def column_masses(self, h: Array) -> Array:
        """Return the mass of every column relative to its weight, once the rows have theirs, shape (…, m)."""
        v = self._xp.exp(h - self.h)
        bv, mass = self._b * v, self._xp.zeros_like(v)
        for rows, columns, K in self._blocks():
            au = self._a[rows] / _product(bv[..., columns], K)
            mass[..., columns] += (au[..., None, :] @ K)[..., 0, :]
        return v * mass

    def map(self, h: Array, every: int = 1) -> Array:
        """Return the barycentric map T(x_i) = Σ_j y_j w_ij of `every`-th row under `h`, shape (…, k, d)."""
        xp, bv = self._xp, (self._b * self._xp.exp(h - self.h))[..., None]
        if self._y.shape[-1] < _FEW:  # torch takes products with few columns four times faster where each is contiguous
            weighted = xp.concat([_transposed(bv), _transposed(bv * self._y)], axis=-2)  # (…, 1 + d, m)
        else:
            weighted = _transposed(xp.concat([bv, bv * self._y], axis=-1))
        parts = [
            K[..., -rows.start % every :: every, :] @ _transposed(weighted[..., columns])  # (…, rows, 1 + d)
            for rows, columns, K in self._blocks()
            if -rows.start % every < K.shape[-2]
        ]
        return _joined([part[..., 1:] / part[..., :1] for part in parts], -2)

    def potential_and_map(self, h: Array) -> tuple[Array, Array]:
        """Return both."""
        return self.potential(h), self.map(h)

    def _take(self, phi: Array, h: Array) -> None:
        """Lay out x and y so that φ_i + h_j − ½|x_i − y_j|² is one product; forget the blocks."""
        xp, self.h = self._xp, h
        one, column = xp.ones_like(self._x[..., :1]), (h - self._half_y)[..., None]
        x, y = (self._x[..., :0], self._y[..., :0]) if self._wide else (self._x, self._y)
        self._left = xp.concat([x, one, phi[..., None]], axis=-1)  # (…, n, d + 2), where φ_i contains −½|x_i|²
        self._right = _transposed(xp.concat([y, column, xp.ones_like(column)], axis=-1))  # (…, d + 2, m)
        self._kept: list[tuple[slice, Any, Array | None]] = []
        self._taken = 0

    def _scores(self) -> Iterator[tuple[slice, Array]]:
        """Yield blocks of exponents, each where it may stay if there is room."""
        for rows in self._rows:
            left = self._store[self._taken :]
            fits = left.shape[0] >= (rows.stop - rows.start) * self._y.shape[-2]
            yield rows, self._exponents(rows, slice(None), left if fits else self._block)

    def _exp(self, K: Array) -> Array:
        self._xp.maximum(K, self._floor, out=K)
        return self._xp.exp(K, out=K)

    def _keep(self, rows: slice, K: Array) -> None:
        """Remember which columns of a block matter, and the block itself while there is room."""
        if self._dense:
            self._taken += math.prod(K.shape)
            self._kept.append((rows, slice(None), K))
            return
        columns: Any = self._xp.nonzero(self._xp.max(K, axis=-2) > self._drop)[0]
        if columns.shape[0] > 0.7 * K.shape[-1]:
            columns = slice(None)
        start, size = self._taken, K.shape[0] * (K.shape[1] if isinstance(columns, slice) else columns.shape[0])
        if start + size > self._store.shape[0]:
            self._kept.append((rows, columns, None))
            return
        if not isinstance(columns, slice):  # computed again in its place, which costs no more than to gather columns
            K = self._exp(self._exponents(rows, columns, self._store[start:]))
        self._taken += size
        self._kept.append((rows, columns, K))

    def _blocks(self) -> Iterator[tuple[slice, Any, Array]]:
        for rows, columns, K in self._kept:
            yield rows, columns, self._exp(self._exponents(rows, columns, self._block)) if K is None else K

    def _exponents(self, rows: slice, columns: Any, store: Array) -> Array:
        """Return the exponents of a block; in `store`, because many arrays of all sizes would fragment the memory."""
        x, y = self._left[..., rows, :], self._right[..., :, columns]
        shape = (*x.shape[:-1], y.shape[-1])
        K = self._xp.matmul(x, y, out=self._xp.reshape(store[: math.prod(shape)], shape))
        if self._wide:
            K -= cost(self._x[..., rows, :], self._y[..., columns, :])
        return K


def barycentric_map(z: Array, y: Array, g: Array, eps: float, b: Array) -> Array:
    """Return T(z) = Σ_j y_j w_j(z), w(z) = softmax_j((g_j − C(z, y_j))/ε + log b_j), shape (…, k, d).

    Examples
    --------
    >>> import numpy as np
    >>> barycentric_map(np.zeros((1, 1)), np.array([[1.0], [3.0]]), np.zeros(2), 1e6, np.array([0.5, 0.5])).round(3)
    array([[2.]])
    """
    return map_and_softmin(z, y, g, eps, b)[0]


def map_and_softmin(z: Array, y: Array, g: Array, eps: float, b: Array) -> tuple[Array, Array]:
    """Return the barycentric map, and the softmin −log Σ_j b_j e^((g_j − C(z, y_j))/ε) in units of ε, (…, k)."""
    xp, blur = namespace(b), math.sqrt(eps)
    some = slice(None) if bool(xp.all(b > 0)) else xp.nonzero(b)[0]
    T, phi = _average(z / blur, y[..., some, :] / blur, g[..., some] / eps, b[some])
    return like(T * blur, z), phi


def _average(z: Array, y: Array, h: Array, b: Array) -> tuple[Array, Array]:
    """Return the barycentric map in units of the blur and the softmin, compiled where that pays."""
    if isinstance(z, np.ndarray) and z.ndim == 2 and len(z) * len(y) >= _COMPILED and not is_wide(z, y):
        from nsgf import passes  # the compiler is slow to import

        return passes.soft_average(z, y, h + np.log(b).astype(h.dtype))
    kernel = Kernel(z, y, namespace(z).ones_like(z[(0,) * (z.ndim - 2)][:, 0]), b)
    phi = kernel.absorb(h)
    return kernel.map(h), phi


def _transposed(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def _joined(parts: list[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else namespace(*parts).concat(parts, axis=axis)


def _product(v: Array, K: Array) -> Array:
    """Return K v, (…, rows): as a row vector, which batched products of torch take much faster than a column."""
    return (v[..., None, :] @ _transposed(K))[..., 0, :]
