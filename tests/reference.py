"""Entropic optimal transport once more, in float64 and by other means: the truth that solvers are held to.

Few lines and no speed. Cross problems: scaling iterations on scipy's logsumexp, then scipy's trust-region method on the
semi-dual, which is convex in −g, and Newton steps (its hybrid method) on the marginal equations to polish. Self
problems: the averaged iteration, since far points leave these equations singular in the difference of their potentials.
Both must reach a marginal error of 1e-11.
"""

import numpy as np
from scipy.optimize import minimize, root
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

    def loss(h):  # minus the semi-dual, with a term that fixes the constant
        return 0.5 * h.size * h.mean() ** 2 - b @ h - a @ soft_minimum(M, h, 1.0, b), excess(h)[0]

    def excess(h):
        W = softmax(h + np.log(b) - M, axis=1)
        columns = a @ W
        return columns - b + h.mean(), np.diag(columns) - W.T @ (a[:, None] * W) + 1 / h.size

    h = minimize(loss, h - h.mean(), jac=True, hess=lambda h: excess(h)[1], method="trust-exact", tol=1e-12).x
    h = root(excess, h, jac=True, tol=1e-15).x
    assert np.abs(excess(h)[0]).sum() < 1e-11
    return eps * soft_minimum(M, h, 1.0, b), eps * h


def self_potential(x, eps, a):
    """Return the potential f = g of a cloud with itself."""
    C, f = cost(x, x), np.zeros(len(x))
    for _ in range(60):
        f = 0.5 * (f + soft_minimum(C, f, eps, a))
    assert a @ np.abs(np.expm1((f - soft_minimum(C, f, eps, a)) / eps)) < 1e-11
    return f


def barycentric_map(z, y, g, eps, b):
    """Return T(z) = Σ_j y_j softmax_j((g_j − C(z, y_j))/ε + log b_j)."""
    return softmax((g - cost(z, y)) / eps + np.log(b), axis=1) @ y


def velocity(z, x, y, eps, a, b):
    """Return T_xy(z) − T_xx(z)."""
    _, g = potentials(x, y, eps, a, b)
    return barycentric_map(z, y, g, eps, b) - barycentric_map(z, x, self_potential(x, eps, a), eps, a)


def divergence(x, y, eps, a, b):
    """Return S_ε = W_ε(x, y) − ½ W_ε(x, x) − ½ W_ε(y, y), W_ε = Σ a f + Σ b g."""
    f, g = potentials(x, y, eps, a, b)
    return a @ (f - self_potential(x, eps, a)) + b @ (g - self_potential(y, eps, b))
