r"""The closed form of the Sinkhorn flow between Gaussians, in float64 (Janati et al. 2020).

Between N(a, A) and N(b, B), with the cost ½|x − y|², the entropic plan is Gaussian with the cross-covariance

.. math::
    C_\varepsilon(A, B) = \tfrac12 A^{1/2} (4 A^{1/2} B A^{1/2} + \varepsilon^2 I)^{1/2} A^{-1/2}
    - \tfrac12 \varepsilon I,

so that v(x) = (b − a) + L (x − a), with L = (C_ε(A, B) − C_ε(A, A))ᵀ A⁻¹.
"""

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp


class Gaussian(NamedTuple):
    """N(mean, cov), the mean of shape (d,) and the covariance of shape (d, d)."""

    mean: np.ndarray
    cov: np.ndarray

    def sample(self, n, rng):
        """Draw n rows, shape (n, d)."""
        return self.mean + rng.standard_normal((n, self.mean.size)) @ root(self.cov)


def root(A, power=0.5):
    """Return the power of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(A)
    return (vectors * values**power) @ vectors.T


def cross_covariance(A, B, eps):
    """Return C_ε(A, B), the covariance of x and y under the entropic plan."""
    half, eye = root(A), np.eye(len(A))
    return 0.5 * half @ root(4 * half @ B @ half + eps**2 * eye) @ root(A, -0.5) - 0.5 * eps * eye


def linear_part(A, B, eps):
    """Return L = (C_ε(A, B) − C_ε(A, A))ᵀ A⁻¹."""
    return (cross_covariance(A, B, eps) - cross_covariance(A, A, eps)).T @ np.linalg.inv(A)


def velocity(x, source, target, eps):
    """Return v(x) = (b − a) + L (x − a) at the rows of x."""
    return (target.mean - source.mean) + (x - source.mean) @ linear_part(source.cov, target.cov, eps).T


def euler(source, target, eps, n_steps, step_size):
    """Return the law of the particles after n_steps of m ← m + η(b − m), A ← (I + ηL) A (I + ηL)ᵀ."""
    m, A = source
    for _ in range(n_steps):
        push = np.eye(len(A)) + step_size * linear_part(A, target.cov, eps)
        m, A = m + step_size * (target.mean - m), push @ A @ push.T
    return Gaussian(m, A)


def flow(source, target, eps, time):
    """Return the law at a time of ṁ = b − m, Ȧ = L A + A Lᵀ, by an ODE solver of order 8."""
    d = source.mean.size

    def rate(_, state):
        m, A = state[:d], state[d:].reshape(d, d)
        LA = linear_part(A, target.cov, eps) @ A
        return np.concatenate([target.mean - m, (LA + LA.T).ravel()])

    start = np.concatenate([source.mean, source.cov.ravel()])
    end = solve_ivp(rate, (0.0, time), start, method="DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    return Gaussian(end[:d], end[d:].reshape(d, d))
