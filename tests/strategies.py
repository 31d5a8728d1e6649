"""Hypothesis strategies: well-conditioned problems, and with each the answer where a closed form gives it.

A seed is drawn, and NumPy fills the clouds: few points, ε a fraction of the squared spread. Shrinking then works on the
seed and on the sizes alone.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from gaussian import Gaussian
from hypothesis import settings, strategies as st

seeds = st.integers(0, 2**32 - 1)
costly = settings(max_examples=min(50, settings.default.max_examples))  # of the profile that conftest.py has loaded


@dataclasses.dataclass(frozen=True)
class Problem:
    """Two weighted clouds and a blur."""

    x: np.ndarray
    y: np.ndarray
    blur: float
    a: np.ndarray
    b: np.ndarray

    @property
    def args(self):
        """The arguments of `sinkhorn_velocity`, in its order."""
        return self.x, self.y, self.blur, self.a, self.b

    @property
    def eps(self):
        """Regularisation, blur²."""
        return self.blur**2

    @property
    def spread(self):
        """Root-mean-square distance to the mean, over both clouds."""
        return np.sqrt(0.5 * (variance(self.x, self.a) + variance(self.y, self.b)))

    def to(self, dtype):
        """Round the arrays to a dtype."""
        x, y, a, b = (z.astype(dtype) for z in (self.x, self.y, self.a, self.b))
        return dataclasses.replace(self, x=x, y=y, a=a, b=b)

    def swapped(self):
        """Exchange the clouds."""
        return Problem(self.y, self.x, self.blur, self.b, self.a)

    def centred(self):
        """Move each cloud to zero mean."""
        return dataclasses.replace(self, x=self.x - self.a @ self.x, y=self.y - self.b @ self.y)

    def map(self, transform):
        """Move both clouds by one transform of space."""
        return dataclasses.replace(self, x=transform(self.x), y=transform(self.y))


class Solved(NamedTuple):
    """A problem with the velocity (d,) of all its particles and the divergence, both exact."""

    problem: Problem
    v: np.ndarray
    S: float


def variance(x, w):
    """Return the weighted mean squared distance of the rows to their mean."""
    x = x.astype(np.float64)
    return float(w @ np.sum((x - w @ x) ** 2, axis=1) / w.sum())


def cloud(rng, n, d):
    """Return n rows of an anisotropic Gaussian off the origin."""
    return rng.normal(size=(n, d)) * rng.uniform(0.5, 1.5, d) + rng.normal(size=d)


@st.composite
def weights(draw, rng, n):
    """Draw uniform weights, or weights within a factor of five."""
    w = rng.uniform(0.2, 1.0, n) if draw(st.booleans()) else np.ones(n)
    return w / w.sum()


@st.composite
def problems(draw, min_points=3, max_points=15, fractions=(0.2, 1.0)):
    """Draw two clouds of different sizes in 1 to 5 dimensions, and a blur as a fraction of their spread."""
    rng, sizes, d = np.random.default_rng(draw(seeds)), st.integers(min_points, max_points), draw(st.integers(1, 5))
    x, y = (cloud(rng, draw(sizes), d) for _ in range(2))
    problem = Problem(x, y, 1.0, draw(weights(rng, len(x))), draw(weights(rng, len(y))))
    return dataclasses.replace(problem, blur=draw(st.floats(*fractions)) * problem.spread)


def coupled_problems(**options):
    """Draw problems on which a tight tolerance is soon reached, and potentials are determined off the clouds too.

    With few, far points a plan is close to a permutation: marginal errors then fall like 1 / iterations.
    """
    return problems(**{"min_points": 5, "fractions": (0.5, 1.0), **options})


@st.composite
def translated_clouds(draw, distances=(0.0, 1e3)):
    """Draw y = x + c, with v ≡ c and S = ½|c|²; c is zero in some."""
    problem = draw(problems())
    c = np.random.default_rng(draw(seeds)).normal(size=problem.x.shape[1])
    c *= draw(st.just(0.0) | st.floats(*distances)) / np.linalg.norm(c)
    problem = Problem(problem.x, problem.x + c, problem.blur, problem.a, problem.a)
    return Solved(problem, c, 0.5 * float(c @ c))


@st.composite
def single_points(draw):
    """Draw one point each, with v = y − x and S = ½|y − x|² at any blur."""
    rng, d = np.random.default_rng(draw(seeds)), draw(st.integers(1, 5))
    x, y = rng.normal(size=(2, 1, d))
    problem = Problem(x, y, draw(st.floats(0.1, 10.0)), np.ones(1), np.ones(1))
    return Solved(problem, (y - x)[0], 0.5 * float(np.sum((y - x) ** 2)))


@st.composite
def rotations(draw, d):
    """Draw an orthogonal matrix, shape (d, d)."""
    return np.linalg.qr(np.random.default_rng(draw(seeds)).normal(size=(d, d)))[0]


def hard_problem():
    """Return two clouds that three iterations do not couple."""
    x, y = np.random.default_rng(0).normal(size=(2, 20, 2))
    return x, y, 0.2


def random_gaussian(rng, d):
    """Return a Gaussian of condition number at most four."""
    Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return Gaussian(rng.normal(size=d), (Q * rng.uniform(0.5, 2.0, d)) @ Q.T)


@st.composite
def gaussian_pairs(draw):
    """Draw two Gaussians in 2 to 5 dimensions and ε, the blur at least half of the source's spread.

    Below that the n^(−1/2) of the theory sets in later than the sizes that a test can afford.
    """
    rng, d = np.random.default_rng(draw(seeds)), draw(st.integers(2, 5))
    source, target = random_gaussian(rng, d), random_gaussian(rng, d)
    return source, target, draw(st.floats(0.5, 1.0)) ** 2 * float(np.trace(source.cov))
