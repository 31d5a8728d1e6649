"""Sources of samples: callables ``(n, rng) -> array of shape (n, d)``, the 2-D toys of the field and noise."""

from collections.abc import Callable

import numpy as np

__all__ = ["Source", "checkerboard", "eight_gaussians", "gaussian", "moons", "noise", "rows", "s_curve"]

Source = Callable[[int, np.random.Generator], np.ndarray]


def gaussian(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw from N(0, I) in two dimensions."""
    return rng.normal(size=(n, 2))


def eight_gaussians(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw from eight Gaussians of standard deviation 0.5 on a circle of radius 5."""
    angle = rng.integers(8, size=n) * np.pi / 4
    return 5 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.5 * rng.normal(size=(n, 2))


def moons(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw from two interleaved half circles of radius 3, with Gaussian noise of standard deviation 0.6."""
    angle = rng.uniform(0, np.pi, size=n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.array([1.0, 0.5]) - upper
    circles = np.where(rng.integers(2, size=(n, 1)) == 0, upper, lower)
    return 3 * (circles + 0.2 * rng.normal(size=(n, 2))) - 1


def s_curve(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw from an S of two three-quarter circles of radius 3, with Gaussian noise of standard deviation 0.2."""
    angle = rng.uniform(-1.5 * np.pi, 1.5 * np.pi, size=n)
    curve = np.stack([np.sin(angle), np.sign(angle) * (np.cos(angle) - 1)], axis=1)
    return 3 * curve + 0.2 * rng.normal(size=(n, 2))


def checkerboard(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw uniformly from the eight dark squares of side 2 of a 4 × 4 board centred at 0."""
    column, row = rng.integers(4, size=n), rng.integers(2, size=n)
    corner = np.stack([column, 2 * row + column % 2], axis=1) - 2.0
    return 2 * (corner + rng.uniform(size=(n, 2)))


def noise(mean: np.ndarray, scale: np.ndarray) -> Source:
    """Return the source of Gaussian noise with the given mean and standard deviation of each feature, both (d,).

    Examples
    --------
    >>> noise(np.array([5.0]), np.array([0.0]))(2, np.random.default_rng(0))
    array([[5.],
           [5.]])
    """
    return lambda n, rng: mean + scale * rng.normal(size=(n, len(mean)))


def rows(X: np.ndarray) -> Source:
    """Return the source that draws rows of `X`: without replacement while they last, else with.

    Examples
    --------
    >>> sorted(rows(np.array([[1.0], [2.0]]))(2, np.random.default_rng(0)).ravel().tolist())
    [1.0, 2.0]
    """
    return lambda n, rng: X[rng.choice(len(X), size=n, replace=n > len(X))]
