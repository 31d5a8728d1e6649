"""Entropic optimal transport once more, in float64 and by other means: the truth that solvers are held to.

Few lines and no speed: scaling iterations on scipy's logsumexp, then Newton steps (scipy's hybrid method) on the
marginal equations of the potential g, whose error must fall below 1e-11.
"""

import numpy as np
from scipy.optimize import root
from scipy.special import logsumexp, softmax


def cost(x, y):
    """Return ½|x − y|², from differences, shape (n, m)."""
    return 0.5 * np.sum((x[:, None, :] - y[None, :, :]) ** 2, axis=2)


def soft_minimum(C, g, eps, b):
    """Return −ε log Σ_j b_j exp((g_j − C_ij)/ε), shape (n,)."""
    return -eps * logsumexp((g - C) / eps, b=b, axis=1)


def potentials(x, y, eps, a, b, warm_up=100):
    """Return the potentials (f, g), up to the constant that moves between them."""
    M, h = cost(x, y) / eps, np.zeros(len(y))  # h = g / eps
    for _ in range(warm_up):
        h = soft_minimum(M.T, soft_minimum(M, h, 1.0, b), 1.0, a)

    def excess(h):
        W = softmax(h + np.log(b) - M, axis=1)
        columns = a @ W
        return columns - b + h.mean(), np.diag(columns) - W.T @ (a[:, None] * W) + 1 / h.size

    h = root(excess, h - h.mean(), jac=True, tol=1e-15).x
    assert np.abs(excess(h)[0]).sum() < 1e-11
    return eps * soft_minimum(M, h, 1.0, b), eps * h


def barycentric_map(z, y, g, eps, b):
    """Return T(z) = Σ_j y_j softmax_j((g_j − C(z, y_j))/ε + log b_j)."""
    return softmax((g - cost(z, y)) / eps + np.log(b), axis=1) @ y


def velocity(z, x, y, eps, a, b):
    """Return T_xy(z) − T_xx(z), both potentials from :func:`potentials`."""
    _, g = potentials(x, y, eps, a, b)
    _, own = potentials(x, x, eps, a, a)
    return barycentric_map(z, y, g, eps, b) - barycentric_map(z, x, own, eps, a)


def divergence(x, y, eps, a, b):
    """Return S_ε = W_ε(x, y) − ½ W_ε(x, x) − ½ W_ε(y, y), W_ε = Σ a f + Σ b g."""

    def value(x, y, a, b):
        f, g = potentials(x, y, eps, a, b)
        return a @ f + b @ g

    return value(x, y, a, b) - 0.5 * value(x, x, a, a) - 0.5 * value(y, y, b, b)
