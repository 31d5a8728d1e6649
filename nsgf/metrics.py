"""Distances between samples.

None is zero on two finite samples of one law: read each beside its floor, the figure of real against real.
"""

from typing import Any

import numpy as np

from nsgf._arrays import as_pair, to_numpy
from nsgf.sinkhorn import sinkhorn_divergence

__all__ = ["energy_distance", "mmd", "sinkhorn_divergence", "wasserstein"]


def wasserstein(x: Any, y: Any) -> float:
    """Return W₂(x, y), the exact 2-Wasserstein distance between two samples, in the units of the data.

    Parameters
    ----------
    x, y : arrays of shape (n, d) and (m, d)
        Samples of equal weight, by rows. POT's network simplex solves the problem: O(n³), 3 s at n = m = 2000.

    Returns
    -------
    float

    Raises
    ------
    RuntimeError
        Where POT's solver reports that it did not reach the optimum.

    Examples
    --------
    >>> wasserstein([[0.0], [1.0]], [[2.0], [3.0]])
    2.0
    """
    import ot

    x, y = (np.asarray(to_numpy(z), dtype=np.float64) for z in as_pair(x, y))
    scale = float(np.ptp(np.concatenate([x, y]))) or 1.0
    plan, log = ot.emd([], [], ot.dist(x / scale, y / scale), numItermax=10_000_000, log=True)
    if log["warning"]:
        raise RuntimeError(f"Exact transport of {len(x)} to {len(y)} points failed: {log['warning']} Use fewer points.")
    return scale * float(np.sqrt(max(log["cost"], 0.0)))


def mmd(x: Any, y: Any, lengths: "tuple[float, ...] | None" = None) -> float:
    """Return the maximum mean discrepancy of two samples under a sum of Gaussian kernels; no unit.

    Parameters
    ----------
    x, y : arrays of shape (n, d) and (m, d)
        Samples.
    lengths : tuple of float, optional
        Standard deviations of the kernels, in the units of the data; by default ½, 1 and 2 times the median distance
        between rows of `y`.

    Returns
    -------
    float
        √ of the biased estimate (Gretton et al. 2012, eq. 5), so never negative.

    Examples
    --------
    >>> mmd([[0.0], [1.0]], [[0.0], [1.0]])
    0.0
    """
    from scipy.spatial.distance import cdist

    x, y = (np.asarray(to_numpy(z), dtype=np.float64) for z in as_pair(x, y))
    if lengths is None:
        median = float(np.median(cdist(y[:2000], y[:2000]))) or 1.0
        lengths = (0.5 * median, median, 2.0 * median)

    def kernel_mean(p: np.ndarray, q: np.ndarray) -> float:
        squares = cdist(p, q, "sqeuclidean")
        return float(np.mean([np.exp(-squares / (2 * length**2)).mean() for length in lengths]))

    return float(np.sqrt(max(kernel_mean(x, x) + kernel_mean(y, y) - 2 * kernel_mean(x, y), 0.0)))


def energy_distance(x: Any, y: Any) -> float:
    """Return ``√(2 E|x − y| − E|x − x'| − E|y − y'|)``, in the square root of the units of the data (Székely 2013).

    Examples
    --------
    >>> energy_distance([[0.0]], [[2.0]])
    2.0
    """
    from scipy.spatial.distance import cdist

    x, y = (np.asarray(to_numpy(z), dtype=np.float64) for z in as_pair(x, y))
    return float(np.sqrt(max(2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean(), 0.0)))
