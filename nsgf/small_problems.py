r"""Solves of small problems, compiled: the loop of :mod:`nsgf.fixed_point` on a kernel that a cache holds.

There hundreds of calls of NumPy would take many times the time of the arithmetic. The formulas are those of the plain
path, one for one, and tests hold the two against each other. What differs is that only what moved is absorbed: the
columns whose potential left the absorbed one, and the rows whose mass left the range in which sums are exact. Problems
of a stack are solved each by itself, on all cores, so that none waits for another.
"""

import math
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nsgf._compiled import compiled, exp, inner, log, on_all_cores

_MEMORY, _RIDGE, _GROWTH = 8, 1e-9, 3.0  # as in fixed_point
_LEAST, _SLOWEST, _LEAST_MASS = 4, 0.9, 1e-30
# e^(floor + 2.5 far) is below the rounding, and e^(floor − far) / n no subnormal number, at which processors take long.
_FLOOR, _FAR, _LIGHT = {4: -60.0, 8: -400.0}, {4: 17.0, 8: 120.0}, 1.5
_SUBSAMPLE, _COOLING = 128, 8.0
_PRODUCT = 16  # features, from which on a product of matrices is faster than one of rows
_FEW = 1 / 16  # of the columns, up to which they are absorbed one by one
_KEPT = 2**21  # numbers that a thread keeps room for
_LANES = 64  # numbers that are handled at once
_ROUNDED = 100.0  # units of rounding


class Limits(NamedTuple):
    """When a solve ends, and the lengths, in blurs, that its errors are held against."""

    light: float  # how much more than others the lightest rows feel mass that is misplaced
    rounding: float
    least: float
    most: float
    tol: float
    max_iter: int
    plain: float  # steps without mixing, after which to give up
    patience: int  # iterations without progress, after which to give up
    every: int  # which rows of the map are watched


class Problem(NamedTuple):
    """A problem, with the potential that its solve begins with: NaN for one that the solve finds itself."""

    x: np.ndarray  # (n, d)
    y: np.ndarray  # (m, d)
    a: np.ndarray
    b: np.ndarray
    h: np.ndarray  # (m,)
    base: np.ndarray  # (k, d), what T − base is relative to; no rows where that is nothing


# %% The kernel


class Gibbs(NamedTuple):
    """K_ij = e^(φ_i + h_j − ½|x_i − y_j|²) with the absorbed h, and what its passes write to."""

    x: np.ndarray  # (n, d)
    y_t: np.ndarray  # (d, m)
    half_x: np.ndarray  # ½|x|²
    half_y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    K: np.ndarray
    phi: np.ndarray  # (n,), with −½|x|² in it
    h: np.ndarray  # (m,)
    w: np.ndarray  # (m,), the weights b under the current potential
    s: np.ndarray  # (n,), masses of the rows
    mass: np.ndarray  # (m,), masses of the columns
    floor: float  # exponents below are raised
    far: float  # change of a potential, in nats, after which it is absorbed


@inner
def copy(source, target):
    """Copy numbers; a loop, which compiles much faster than an assignment to a slice."""
    for j in range(source.size):
        target[j] = source[j]


@inner
def largest(z, lanes):
    """Return the largest number: lane by lane, since compilers do not vectorise the maximum of a row."""
    top, n = z[0], lanes.size
    for j in range(n):
        lanes[j] = top
    for i in range(0, z.size - n + 1, n):
        part = z[i : i + n]
        for j in range(n):
            lanes[j] = part[j] if part[j] > lanes[j] else lanes[j]
    for j in range(n):
        top = lanes[j] if lanes[j] > top else top
    for j in range(z.size - z.size % n, z.size):
        top = z[j] if z[j] > top else top
    return top


@inner
def half_squares(x, out):
    """½|x_i|² of every row."""
    for i in range(x.shape[0]):
        out[i] = 0
        for k in range(x.shape[1]):
            out[i] += x[i, k] * x[i, k]
        out[i] *= x.dtype.type(0.5)


@inner
def scored(kernel, i, features):
    """Return row i of K, filled with h_j − ½|y_j|² and the first features' part of x_i·y_j."""
    row, h, half_y, x_i = kernel.K[i], kernel.h, kernel.half_y, kernel.x[i]
    for j in range(row.size):
        row[j] = h[j] - half_y[j]
    for k in range(features):
        x_ik, y_k = x_i[k], kernel.y_t[k]
        for j in range(row.size):
            row[j] += x_ik * y_k[j]
    return row


@inner
def exponentiate(row, shift, slope, y_k, floor):
    """Replace numbers t by e^(t + shift + slope y_k), within the range of the dtype."""
    for j in range(row.size):
        row[j] = exp(min(max(row[j] + shift + slope * y_k[j], floor), -floor))


@inner
def absorb_row(kernel, i, lanes):
    """Fill row i, its largest entry 1."""
    row = scored(kernel, i, kernel.x.shape[1])
    kernel.phi[i] = -largest(row, lanes)
    exponentiate(row, kernel.phi[i], row.dtype.type(0), kernel.h, kernel.floor)


@inner
def absorb(kernel, h, normalised):
    """Take in `h` with the φ that there is, or with that which makes the largest entry of each row 1."""
    copy(h, kernel.h)
    lanes, last, zero = np.empty(_LANES, h.dtype), kernel.x.shape[1] - 1, h.dtype.type(0)
    product = last + 1 >= _PRODUCT
    if product:
        np.dot(kernel.x, kernel.y_t, kernel.K)
    for i in range(kernel.s.size):
        row = kernel.K[i]
        if product:
            for j in range(row.size):
                row[j] += h[j] - kernel.half_y[j]
            kernel.phi[i] = -largest(row, lanes) if normalised else kernel.phi[i]
            exponentiate(row, kernel.phi[i], zero, kernel.h, kernel.floor)
        elif normalised:
            absorb_row(kernel, i, lanes)
        else:
            exponentiate(scored(kernel, i, last), kernel.phi[i], kernel.x[i, last], kernel.y_t[last], kernel.floor)


@inner
def absorb_both(kernel, h):
    """Take in `h` for the rows and columns of a cloud with itself."""
    for i in range(h.size):
        kernel.phi[i] = h[i] - kernel.half_x[i]
    absorb(kernel, h, False)


@inner
def absorb_columns(kernel, h):
    """Take in `h` where it moved, and with it the rows in which an entry has become too large."""
    far, phi, moved, count, lanes = kernel.far, kernel.phi, np.empty(h.size, np.int64), 0, np.empty(_LANES, h.dtype)
    for j in range(h.size):
        if abs(h[j] - kernel.h[j]) > h.dtype.type(0.5) * far:
            kernel.h[j], moved[count] = h[j], j
            count += 1
    if count > _FEW * h.size:
        absorb(kernel, h, False)
        return
    for i in range(phi.size):
        for j in moved[:count]:
            score = phi[i] + kernel.h[j] - kernel.half_y[j]
            for k in range(kernel.x.shape[1]):
                score += kernel.x[i, k] * kernel.y_t[k, j]
            if score > far:
                absorb_row(kernel, i, lanes)
                break
            kernel.K[i, j] = exp(max(score, kernel.floor))


@inner
def weigh(kernel, h):
    """Leave b_j e^(h_j − absorbed h_j) in w; return the largest change of a potential."""
    change, w, b, absorbed = kernel.far * 0, kernel.w, kernel.b, kernel.h
    for j in range(h.size):
        change = max(change, abs(h[j] - absorbed[j]))
        w[j] = b[j] * exp(h[j] - absorbed[j])
    return change


@inner
def row_masses(K, w, s):
    """s_i = Σ_j K_ij w_j."""
    zero, n = w.dtype.type(0), K.shape[0]
    for i in range(0, n - n % 4, 4):
        r0, r1, r2, r3 = K[i], K[i + 1], K[i + 2], K[i + 3]
        s0, s1, s2, s3 = zero, zero, zero, zero
        for j in range(w.size):
            s0 += r0[j] * w[j]
            s1 += r1[j] * w[j]
            s2 += r2[j] * w[j]
            s3 += r3[j] * w[j]
        s[i], s[i + 1], s[i + 2], s[i + 3] = s0, s1, s2, s3
    for i in range(n - n % 4, n):
        s0 = zero
        for j in range(w.size):
            s0 += K[i, j] * w[j]
        s[i] = s0


@inner
def balance_row(kernel, i):
    """Fill row i anew, its mass 1 under the current potential."""
    absorb_row(kernel, i, np.empty(_LANES, kernel.w.dtype))
    row_masses(kernel.K[i : i + 1], kernel.w, kernel.s[i : i + 1])
    last = kernel.x.shape[1] - 1
    kernel.phi[i] -= log(kernel.s[i])
    exponentiate(scored(kernel, i, last), kernel.phi[i], kernel.x[i, last], kernel.y_t[last], kernel.floor)
    row_masses(kernel.K[i : i + 1], kernel.w, kernel.s[i : i + 1])


@inner
def column_masses(kernel):  # noqa: C901  the last rows are fewer than four
    """S = K w, and mass_j = Σ_i a_i / s_i K_ij, four rows at a time while a cache holds them."""
    K, w, a, s, mass, n = kernel.K, kernel.w, kernel.a, kernel.s, kernel.mass, kernel.s.size
    low, high = math.exp(-_LIGHT * kernel.far), math.exp(2.0 * kernel.far)
    for j in range(w.size):
        mass[j] = 0
    for i in range(0, n - n % 4, 4):
        row_masses(K[i : i + 4], w, s[i : i + 4])
        for k in range(i, i + 4):
            if not low < s[k] < high:
                balance_row(kernel, k)
        r0, r1, r2, r3 = K[i], K[i + 1], K[i + 2], K[i + 3]
        u0, u1, u2, u3 = a[i] / s[i], a[i + 1] / s[i + 1], a[i + 2] / s[i + 2], a[i + 3] / s[i + 3]
        for j in range(w.size):
            mass[j] += u0 * r0[j] + u1 * r1[j] + u2 * r2[j] + u3 * r3[j]
    for i in range(n - n % 4, n):
        row_masses(K[i : i + 1], w, s[i : i + 1])
        if not low < s[i] < high:
            balance_row(kernel, i)
        u0 = a[i] / s[i]
        for j in range(w.size):
            mass[j] += u0 * K[i, j]


@inner
def excess_of(kernel, h, own):
    """Leave the mass of every column, relative to its weight, in `mass`; return the marginal error."""
    if weigh(kernel, h) > kernel.far:
        if own:
            absorb_both(kernel, h)
        else:
            absorb_columns(kernel, h)
        weigh(kernel, h)
    if own:
        row_masses(kernel.K, kernel.w, kernel.mass)
    else:
        column_masses(kernel)
    marginal, mass, least = 0.0, kernel.mass, h.dtype.type(_LEAST_MASS)
    for j in range(h.size):
        mass[j] = mass[j] * exp(h[j] - kernel.h[j]) + least
        marginal += abs(mass[j] - h.dtype.type(1)) * kernel.b[j]
    return marginal


@inner
def barycentres(kernel, every, T):  # noqa: C901, PLR0912  two ways to a product
    """T_i = Σ_j K_ij w_j y_j / Σ_j K_ij w_j, of every so many rows."""
    K, w, y_t = kernel.K, kernel.w, kernel.y_t
    d, zero, s = y_t.shape[0], w.dtype.type(0), kernel.s[: T.shape[0]]
    weighted = np.empty((w.size, d), w.dtype) if d >= _PRODUCT else np.empty((1, 1), w.dtype)
    if d >= _PRODUCT:
        for j in range(w.size):
            for k in range(d):
                weighted[j, k] = w[j] * y_t[k, j]
        watched = K if every == 1 else K[::every].copy()
        np.dot(watched, weighted, T)
        row_masses(watched, w, s)
        for i in range(s.size):
            for k in range(d):
                T[i, k] /= s[i]
        return
    for i in range(T.shape[0]):
        row, mass = K[i * every], zero
        for j in range(w.size):
            mass += row[j] * w[j]
        for k in range(d):
            total = zero
            for j in range(w.size):
                total += row[j] * w[j] * y_t[k, j]
            T[i, k] = total / mass


# %% A start


@inner
def systematic(w, k):
    """Return k indices, drawn evenly along the cumulative weights."""
    chosen, total, i = np.empty(k, np.int64), w[0], 0
    for q in range(k):
        while total < (q + w.dtype.type(0.5)) / k and i < w.size - 1:
            i += 1
            total += w[i]
        chosen[q] = i
    return chosen


@inner
def costs(x, y_t):
    """Return ½|x_i − y_j|² between all points."""
    M, half = np.zeros((x.shape[0], y_t.shape[1]), x.dtype), x.dtype.type(0.5)
    for i in range(M.shape[0]):
        row = M[i]
        for k in range(x.shape[1]):
            x_ik, y_k = x[i, k], y_t[k]
            for j in range(row.size):
                row[j] += half * (x_ik - y_k[j]) ** 2
    return M


@inner
def softmins(M, f, eps, h):
    """h_j = −ε log Σ_i e^((f_i − M_ij) / ε) / n."""
    number, top = h.dtype.type, np.full_like(h, -np.inf)
    for i in range(f.size):
        for j in range(h.size):
            top[j] = max(top[j], f[i] - M[i, j])
    for j in range(h.size):
        h[j] = 0
    for i in range(f.size):
        for j in range(h.size):
            h[j] += exp(max((f[i] - M[i, j] - top[j]) / eps, number(-60)))
    for j in range(h.size):
        h[j] = -top[j] - eps * log(h[j] / number(f.size))


@inner
def anneal(x, y_t, a, b, h):
    """Leave in h the potential of a subsample, ε lowered to 1 by steps, extended to all y by one softmin."""
    number = h.dtype.type
    i, j = systematic(a, min(a.size, _SUBSAMPLE)), systematic(b, min(b.size, _SUBSAMPLE))
    x_i, y_j = np.empty((i.size, x.shape[1]), h.dtype), np.empty((x.shape[1], j.size), h.dtype)
    for k in range(x.shape[1]):
        for q in range(i.size):
            x_i[q, k] = x[i[q], k]
        for q in range(j.size):
            y_j[k, q] = y_t[k, j[q]]
    M = costs(x_i, y_j)
    M_t, f, g = M.T.copy(), np.zeros(i.size, h.dtype), np.zeros(j.size, h.dtype)
    eps = max(M.max(), number(1))
    while True:
        for _ in range(3 if eps == 1 else 1):
            softmins(M_t, g, eps, f)
            softmins(M, f, eps, g)
        if eps == 1:
            break
        eps = max(eps / number(_COOLING), number(1))
    softmins(costs(x_i, y_t), f, eps, h)


@inner
def begin(kernel, h, own):
    """Absorb `h`, or the start that this finds where h is NaN."""
    number = h.dtype.type
    if own and math.isnan(h[0]):  # the solution lies between 0 and −½ log a; half-way, K serves every iterate
        middle = number(-0.25) * log(kernel.a.min())
        for j in range(h.size):
            h[j] = middle
        absorb_both(kernel, h)
        row_masses(kernel.K, kernel.b, kernel.s)
        for j in range(h.size):
            h[j] = middle - number(0.5) * log(kernel.s[j])
        return
    if math.isnan(h[0]):
        anneal(kernel.x, kernel.y_t, kernel.a, kernel.b, h)
    if own:
        absorb_both(kernel, h)
    else:
        absorb(kernel, h, True)


# %% Mixing


class Mixing(NamedTuple):
    """The last iterates and their residuals, in the mean square under b."""

    dr: np.ndarray  # (8, m)
    dg: np.ndarray  # (8, m)
    gram: np.ndarray  # (8, 8), dr·dr
    r: np.ndarray  # (m,)
    g: np.ndarray  # (m,)
    safe: np.ndarray  # the plain step of the best iterate
    root: np.ndarray  # √b
    least: np.ndarray  # (1,), its marginal error
    counts: np.ndarray  # (2,): how many were mixed since the last new beginning, and whether r and g are those before


@inner
def solve_positive(A, p):
    """Return θ with A θ = p, of a matrix that is positive but for rounding, by Cholesky's factor."""
    k, L, theta = p.size, np.zeros_like(A), p.copy()
    for i in range(k):
        for j in range(i + 1):
            total = A[i, j]
            for q in range(j):
                total -= L[i, q] * L[j, q]
            L[i, j] = math.sqrt(max(total, 1e-3 * _RIDGE)) if i == j else total / L[j, j]
    for i in range(k):
        for q in range(i):
            theta[i] -= L[i, q] * theta[q]
        theta[i] /= L[i, i]
    for i in range(k - 1, -1, -1):
        for q in range(i + 1, k):
            theta[i] -= L[q, i] * theta[q]
        theta[i] /= L[i, i]
    return theta


@inner
def combined(mixing, following):
    """Subtract from the plain step what makes the residual, linearised, least."""
    dr, dg, gram, r = mixing.dr, mixing.dg, mixing.gram, mixing.r
    p, q = np.zeros(_MEMORY), mixing.counts[0] % _MEMORY
    mixing.counts[0] += 1
    for k in range(_MEMORY):
        inner_product = 0.0
        for j in range(r.size):
            inner_product += dr[k, j] * dr[q, j]
            p[k] += dr[k, j] * r[j]
        gram[k, q] = gram[q, k] = inner_product
    size, A = 1e-300, np.empty_like(gram)
    for k in range(_MEMORY):
        size = max(size, gram[k, k])
    for k in range(_MEMORY):
        p[k] /= size
        for i in range(_MEMORY):
            A[k, i] = gram[k, i] / size + (_RIDGE if k == i else 0.0)
    theta = solve_positive(A, p)
    for k in range(_MEMORY):
        theta_k = dg.dtype.type(theta[k])
        for j in range(r.size):
            following[j] -= theta_k * dg[k, j]


@inner
def mix(mixing, h, mass, marginal, factor, following):
    """Leave the next iterate in `following`; return whether it is more than a plain step."""
    least, count, q, number = mixing.least[0], mixing.counts, mixing.counts[0] % _MEMORY, h.dtype.type
    most = max(least, _ROUNDED * (6e-8 if h.itemsize == 4 else 1.1e-16))  # growth below is rounding
    worse = not marginal <= min(_GROWTH * most, 1.0 + 0.5 * most)
    if worse:
        count[0], count[1] = 0, 0
        mixing.dr[:], mixing.gram[:] = 0.0, 0.0
        copy(mixing.safe, following)
        return False
    for j in range(h.size):
        step = -log(mass[j]) * number(factor)
        r_j, g_j = mixing.root[j] * step, h[j] + step
        if count[1]:
            mixing.dr[q, j], mixing.dg[q, j] = r_j - mixing.r[j], g_j - mixing.g[j]
        mixing.r[j], mixing.g[j], following[j] = r_j, g_j, g_j
    if marginal < least:
        mixing.least[0] = marginal
        copy(following, mixing.safe)
    if not count[1]:
        count[1] = 1
        return False
    combined(mixing, following)
    return True


# %% The certificate


class Past(NamedTuple):
    """The last mixed iterates with their decrements, and two maps that are compared."""

    h: np.ndarray  # (8, m)
    E: np.ndarray  # (8,)
    now: np.ndarray  # (k, d)
    then: np.ndarray


@inner
def distance(T, other):
    """Return the root-mean-square distance of the rows of two maps."""
    total = 0.0
    for i in range(T.shape[0]):
        for k in range(T.shape[1]):
            total += (T[i, k] - other[i, k]) ** 2
    return math.sqrt(total / T.shape[0])


@inner
def measure(kernel, past, n_past, limits, base):
    """Return the error of T at the last iterate, by what it changed lately, and what it is to be small against."""
    held, last = min(n_past, _MEMORY), n_past - 1
    weigh(kernel, past.h[last % _MEMORY])
    barycentres(kernel, limits.every, past.now)
    unit = limits.least
    if base.shape[0] > 0:
        unit = max(unit, min(distance(past.now, base), limits.most))
    age = held - 1
    while age > 0 and weigh(kernel, past.h[(last - age) % _MEMORY]) > kernel.far:
        age -= 1
    if age == 0:
        return np.inf, unit
    barycentres(kernel, limits.every, past.then)
    E, E_then = 0.0, past.E[(last - age) % _MEMORY]
    for k in range((held + 1) // 3):  # one of them may be small for once
        E = max(E, past.E[(last - k) % _MEMORY])
    q = min(E / (E_then if E_then > 0 else 1.0), _SLOWEST)
    error = distance(past.now, past.then) * q / (1.0 - q)
    return (error if q < _SLOWEST else max(error, E)), unit  # without progress, E itself is left


@inner
def deviation(y_t):
    """Return the root-mean-square distance of points (d, m) to their mean."""
    total, m = 0.0, y_t.shape[1]
    for k in range(y_t.shape[0]):
        mean = 0.0
        for j in range(m):
            mean += y_t[k, j] / m
        for j in range(m):
            total += (y_t[k, j] - mean) ** 2
    return math.sqrt(total / m)


# %% The solve


@inner
def iterate(kernel, mixing, past, base, h, own, limits, reach):  # noqa: C901, PLR0912, PLR0913, PLR0915  one loop
    """Iterate from h until the certificate settles; return (marginal, T error, within, iterations)."""
    check_at, best, best_k, plain, n_past = 5.0 * limits.tol, np.inf, 0, limits.plain, 0
    error, unit, marginal, measured, k, following = np.inf, 1.0, np.inf, False, 0, np.empty_like(h)
    while True:
        k += 1
        measured, marginal = False, excess_of(kernel, h, own)
        mixed = mix(mixing, h, kernel.mass, marginal, 0.5 if own else 1.0, following)
        ended = k - best_k > limits.patience or not math.isfinite(marginal) or k == limits.max_iter
        if mixed:
            E = 0.0
            for j in range(h.size):
                E += (kernel.mass[j] - h.dtype.type(1)) * (following[j] - h[j]) * kernel.b[j]
            E = math.sqrt(abs(E))
            copy(h, past.h[n_past % _MEMORY])
            past.E[n_past % _MEMORY] = E
            n_past += 1
            if 0.9 * best > E:
                best, best_k = E, k
            if n_past >= _LEAST and check_at >= E and marginal <= limits.tol:
                error, unit = measure(kernel, past, n_past, limits, base)
                error, measured = error + reach * marginal + limits.rounding, True
                ended = ended or error <= limits.tol * unit or limits.rounding > limits.tol * unit
                check_at = E * min(0.5, max(0.05, 0.7 * limits.tol * unit / error))
        else:
            n_past, plain = 0, plain - 1
            ended = ended or plain < 0
        if ended:
            break
        copy(following, h)
    if n_past < _LEAST:
        return marginal, np.inf, False, k
    if not measured:
        error, unit = measure(kernel, past, n_past, limits, base)
        error += reach * marginal + limits.rounding
    if error <= limits.tol * unit and marginal <= limits.tol:
        return marginal, error, True, k
    return (
        marginal,
        np.inf if math.isnan(error) else error / (1.0 - _SLOWEST),
        False,
        k,
    )  # where E stalls, it says little


@compiled
def solve_one(problem, own, limits, bounds, room, phi, T):
    """Solve one problem in some room; leave its potentials in `h` and `phi`, its map in T; return as `iterate` does."""
    x, y, a, b, h, base = problem
    (n, d), m, dtype = x.shape, y.shape[0], x.dtype
    half_x, half_y = np.empty_like(phi), np.empty_like(h)
    half_squares(x, half_x)
    half_squares(y, half_y)
    kernel = Gibbs(
        x, y.T.copy(), half_x, half_y, a, b, room[: n * m].reshape(n, m), phi, np.empty_like(h), np.empty_like(h),
        np.empty_like(phi), np.empty_like(h), dtype.type(bounds[0]), dtype.type(bounds[1]),
    )  # fmt: skip
    begin(kernel, h, own)
    mixing = Mixing(
        np.zeros((_MEMORY, m)), np.zeros((_MEMORY, m), dtype), np.zeros((_MEMORY, _MEMORY)), np.empty(m),
        np.empty_like(h), h.copy(), np.sqrt(b.astype(np.float64)), np.full(1, np.inf), np.zeros(2, np.int64),
    )  # fmt: skip
    watched = -(-n // limits.every)
    past = Past(
        np.empty((_MEMORY, m), dtype), np.empty(_MEMORY), np.empty((watched, d), dtype), np.empty((watched, d), dtype)
    )
    reach = 0.0 if own else deviation(kernel.y_t) * limits.light
    found = iterate(kernel, mixing, past, base, h, own, limits, reach)
    weigh(kernel, h)
    barycentres(kernel, 1, T)
    row_masses(kernel.K, kernel.w, kernel.s)
    for i in range(n):
        phi[i] += half_x[i] - log(kernel.s[i])
    return found


# %% Stacks


_held = threading.local()


def _room(size: int, dtype: np.dtype) -> np.ndarray:
    """Return room for numbers that a thread keeps, since new memory takes longer to come than to fill."""
    held = getattr(_held, dtype.name, None)
    if size > _KEPT:
        return np.empty(size, dtype)
    if held is None or held.size < size:
        held = np.empty(size, dtype)
        setattr(_held, dtype.name, held)
    return held


def solve(problem: Problem, own: bool, limits: Sequence[Limits]) -> tuple[np.ndarray, ...]:
    """Solve problems whose points have leading dimensions, each within its limits; see `fixed_point.Solution`."""
    x, y, a, b, h, base = problem
    lead, (n, d), m, count = x.shape[:-2], x.shape[-2:], y.shape[-2], len(limits)
    xs, ys, bases = (np.ascontiguousarray(z).reshape(count, *z.shape[-2:]) for z in (x, y, base))
    hs = np.array(h, x.dtype).reshape(count, m)  # a copy, which the solves write to
    phi, T = np.empty((count, n), x.dtype), np.empty((count, n, d), x.dtype)
    bounds = _FLOOR[x.itemsize], _FAR[x.itemsize]

    def one(k: int) -> tuple[float, float, bool, int]:
        room = _room(n * m, x.dtype)
        return solve_one(Problem(xs[k], ys[k], a, b, hs[k], bases[k]), own, limits[k], bounds, room, phi[k], T[k])

    found = zip(*on_all_cores(one, range(count)), strict=True)
    dtypes: tuple[Any, ...] = (x.dtype, x.dtype, bool, np.int64)  # marginal, T_error, within, n_iter
    figures = (np.array(z, dtype).reshape(lead) for z, dtype in zip(found, dtypes, strict=True))
    return hs.reshape(*lead, m), phi.reshape(*lead, n), T.reshape(*lead, n, d), *figures
