"""Distances between samples; precision, recall and memorisation of the samples that a model makes.

None of them is perfect on two finite samples of one law: read each beside its floor, the figure of real against real.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nsgf._arrays import as_pair, to_numpy
from nsgf.sinkhorn import sinkhorn_divergence

__all__ = [
    "Memorisation",
    "PrecisionRecall",
    "energy_distance",
    "frechet_distance",
    "memorisation",
    "mmd",
    "precision_recall",
    "sinkhorn_divergence",
    "wasserstein",
]


class PrecisionRecall(NamedTuple):
    """Overlap of made and real samples.

    Attributes
    ----------
    precision : float
        Fraction of the made samples that lie among the real ones: low where the model strays from the data.
    recall : float
        Fraction of the real samples that lie among the made ones: low where the model leaves out parts of the data.
    """

    precision: float
    recall: float


class Memorisation(NamedTuple):
    """How much nearer to its training set a model's samples lie than real samples that it never saw.

    Attributes
    ----------
    copied : float
        Fraction of the made samples that lie nearer to a training sample than the nearest 1 % of the held-out ones do.
        Its floor, that of an honest model, is 0.01 and not 0.
    nearer : float
        Probability that a made sample lies nearer to the training set than a held-out one, ties counted half: ½ for an
        honest model, 1 for one that copies, below ½ for one that strays from the data.
    """

    copied: float
    nearer: float


def wasserstein(x: ArrayLike, y: ArrayLike) -> float:
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

    x, y = _doubles(x, y)
    scale = float(np.ptp(np.concatenate([x, y]))) or 1.0
    plan, log = ot.emd([], [], ot.dist(x / scale, y / scale), numItermax=10_000_000, log=True)
    if log["warning"]:
        raise RuntimeError(f"Exact transport of {len(x)} to {len(y)} points failed: {log['warning']} Use fewer points.")
    return scale * float(np.sqrt(max(log["cost"], 0.0)))


def mmd(x: ArrayLike, y: ArrayLike, lengths: "tuple[float, ...] | None" = None) -> float:
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

    x, y = _doubles(x, y)
    if lengths is None:
        median = float(np.median(cdist(y[:2000], y[:2000]))) or 1.0
        lengths = (0.5 * median, median, 2.0 * median)

    def kernel_mean(p: np.ndarray, q: np.ndarray) -> float:
        squares = cdist(p, q, "sqeuclidean")
        return float(np.mean([np.exp(-squares / (2 * length**2)).mean() for length in lengths]))

    return float(np.sqrt(max(kernel_mean(x, x) + kernel_mean(y, y) - 2 * kernel_mean(x, y), 0.0)))


def energy_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Return ``√(2 E|x − y| − E|x − x'| − E|y − y'|)``, in the square root of the units of the data (Székely 2013).

    Examples
    --------
    >>> energy_distance([[0.0]], [[2.0]])
    2.0
    """
    from scipy.spatial.distance import cdist

    x, y = _doubles(x, y)
    return float(np.sqrt(max(2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean(), 0.0)))


def frechet_distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    r"""Return the Fréchet distance of the Gaussians fitted to two samples, in *squared* units of the features.

    On the features of an Inception network this is FID; feature extractors stay outside this package.

    Parameters
    ----------
    features_a, features_b : arrays of shape (n, d) and (m, d)
        Features, by rows; at least two rows each, and fewer than d will do. O((n + m) d² + d³).

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Where a sample has one row only, or the two differ in their number of features.

    Notes
    -----
    With means μ and unbiased covariances S (Dowson & Landau 1982; Heusel et al. 2017), and any roots :math:`S = L L^T`,

    .. math::
        F = |\mu_a - \mu_b|^2 + \operatorname{tr}(S_a + S_b - 2 (S_a S_b)^{1/2})
          = |\mu_a - \mu_b|^2 + \min_{Q^T Q = I} \|L_a - L_b Q\|_F^2

    (Bhatia, Jain & Lim 2019). The second form subtracts before it squares and takes no root of a singular matrix: where
    the first, by ``sqrtm`` or by eigenvalues, errs by 1e-10 to 1e-8 of the trace on ill-conditioned or singular
    covariances (d = 8 and 12, against 60 digits), it errs by 2e-16 of it, and by far less near F = 0.

    F is biased upwards by O(1/n): compare at one n.

    Examples
    --------
    >>> frechet_distance([[0.0], [2.0]], [[1.0], [7.0]])  # means 1 and 4, standard deviations √2 and 3√2
    17.0
    """
    from scipy.linalg import orthogonal_procrustes

    names = ("features_a", "features_b")
    a, b = _doubles(features_a, features_b, names)
    for z, name in zip((a, b), names, strict=True):
        if len(z) < 2:
            raise ValueError(f"{name} has {len(z)} row; a covariance needs at least 2. Give more samples.")
    rank = min(max(len(a), len(b)), a.shape[1])
    L_a, L_b = _root(a, rank), _root(b, rank)
    Q, _ = orthogonal_procrustes(L_b, L_a)
    return float(np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2) + np.sum((L_a - L_b @ Q) ** 2))


def precision_recall(real: ArrayLike, made: ArrayLike, k: int = 3) -> PrecisionRecall:
    """Return the precision and recall of made samples against real ones; no unit.

    A sample stands for the union of balls around its rows, each of which reaches to the k-th nearest other row.
    Precision is the fraction of `made` inside the balls of `real`; recall, of `real` inside the balls of `made`.

    Parameters
    ----------
    real, made : arrays of shape (n, d) and (m, d)
        Samples or their features, by rows; more than `k` rows each. O(n m d) time, in blocks of 64 MiB.
    k : int
        Neighbours that a ball reaches to. More of them raise both figures.

    Returns
    -------
    PrecisionRecall

    Raises
    ------
    ValueError
        Where `k` is below 1, a sample has no k-th neighbour, or the two differ in their number of features.

    Notes
    -----
    Kynkäänniemi et al. 2019, eq. 1-2. A row that touches a ball, up to rounding, is inside. Both figures of real
    against real lie below 1, and depend on n, m and `k`.

    Examples
    --------
    >>> real = [[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]]  # two modes, of which the model makes one
    >>> precision_recall(real, made=[[0.5], [1.0], [1.5]], k=1)
    PrecisionRecall(precision=1.0, recall=0.5)
    """
    names = ("real", "made")
    x, y = _doubles(real, made, names)
    if k < 1:
        raise ValueError(f"k={k} neighbours make no ball; choose k of at least 1.")
    for z, name in zip((x, y), names, strict=True):
        if len(z) <= k:
            raise ValueError(f"k={k} neighbours need {k + 1} rows, but {name} has {len(z)}. Give more, or a smaller k.")
    return PrecisionRecall(float(_covered(y, x, k).mean()), float(_covered(x, y, k).mean()))


def memorisation(made: ArrayLike, seen: ArrayLike, unseen: ArrayLike) -> Memorisation:
    """Return whether a model copies its training samples, by their nearest-neighbour distances; no unit.

    Parameters
    ----------
    made : array of shape (n, d)
        Samples of the model, or their features, by rows.
    seen : array of shape (n_train, d)
        The samples that it was trained on.
    unseen : array of shape (m, d)
        Held-out samples of the same law as `seen`. With fewer than 99 the floor of `copied` is 1 / (m + 1), not 0.01.

    Returns
    -------
    Memorisation

    Raises
    ------
    ValueError
        Where the arrays differ in their number of features.

    Notes
    -----
    With d(·) the distance to the nearest row of `seen`, ``copied`` is the fraction of d(made) below the 1 % quantile of
    d(unseen), and ``nearer`` is P(d(made) < d(unseen)) + ½ P(d(made) = d(unseen)), the Mann-Whitney statistic of Meehan
    et al. 2020 over the whole space: they also look cell by cell, since copies in one region can hide behind samples
    that stray in another. Where 1 % of the held-out rows repeat training rows, ``copied`` is 0 whatever the model.

    The standard errors of an honest model are √(0.01 (1/n + 1/m)) and √((n + m + 1) / (12 n m)).

    Examples
    --------
    >>> seen = [[0.0], [1.0], [2.0]]
    >>> memorisation(made=seen, seen=seen, unseen=[[0.5], [1.4]])
    Memorisation(copied=1.0, nearer=1.0)
    """
    x, y = _doubles(made, seen, ("made", "seen"))
    z, _ = _doubles(unseen, seen, ("unseen", "seen"))
    d_made, d_unseen = np.sort(_to_nearest(x, y)), _to_nearest(z, y)
    # Weibull's quantile keeps the floor at 0.01 down to m = 99; with NumPy's default it is 0.02 at m = 100.
    copied = np.mean(d_made < np.quantile(d_unseen, 0.01, method="weibull"))
    below, up_to = (np.searchsorted(d_made, d_unseen, side=side) for side in ("left", "right"))
    return Memorisation(float(copied), float(np.mean(below + up_to)) / (2 * len(d_made)))


def _doubles(x: ArrayLike, y: ArrayLike, names: tuple[str, str] = ("x", "y")) -> tuple[np.ndarray, np.ndarray]:
    """Return two clouds of one space as float64 in host memory."""
    x, y = (np.asarray(to_numpy(z), dtype=np.float64) for z in as_pair(x, y, names))
    return x, y


def _root(x: np.ndarray, rank: int) -> np.ndarray:
    """Return L with L Lᵀ the covariance of the rows, shape (d, rank); forming that would square its condition."""
    R = np.linalg.qr((x - x.mean(axis=0)) / np.sqrt(len(x) - 1), mode="r")  # (min(n, d), d)
    return np.pad(R, ((0, rank - len(R)), (0, 0))).T


def _centred(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move both clouds so that the squares |x|² + |y|² − 2 x·y, the fast way, round least; outliers do not count."""
    middle = np.median(y, axis=0)
    return x - middle, y - middle


def _covered(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """Return which rows of x lie in some ball around a row of y that reaches to its k-th nearest other row."""
    from sklearn.metrics import pairwise_distances_chunked
    from sklearn.neighbors import NearestNeighbors

    x, y = _centred(x, y)
    radii = NearestNeighbors(n_neighbors=k).fit(y).kneighbors()[0][:, -1]  # (m,)
    # The fast squares err by some 1e-15 of |y|²: without a margin, rows that touch a ball would fall out by chance.
    reach = np.hypot(radii, 1e-7 * (np.linalg.norm(y, axis=1) + radii))
    blocks = pairwise_distances_chunked(x, y, reduce_func=lambda D, _: (reach >= D).any(axis=1), working_memory=64)
    return np.concatenate(list(blocks))


def _to_nearest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the distance of each row of x to its nearest row of y, without the rounding of the search for it."""
    from sklearn.neighbors import NearestNeighbors

    x, y = _centred(x, y)
    nearest = NearestNeighbors(n_neighbors=1).fit(y).kneighbors(x, return_distance=False)[:, 0]
    return np.linalg.norm(x - y[nearest], axis=1)
