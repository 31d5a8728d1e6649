"""Distances between samples; precision, recall and memorisation of the samples that a model makes.

None of them is perfect on two finite samples of one law: read each beside its floor, the figure of real against real.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nsgf._arrays import as_pair, plainly, to_numpy
from nsgf._checks import count
from nsgf.sinkhorn import sinkhorn_divergence

__all__ = [
    "ClassifierTest",
    "Memorisation",
    "PrecisionRecall",
    "TwoSampleTest",
    "classifier_two_sample",
    "energy_distance",
    "frechet_distance",
    "memorisation",
    "mmd",
    "precision_recall",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "two_sample_test",
    "wasserstein",
]

_LEAST = 1e-150  # of lengths whose squares float64 holds


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


class ClassifierTest(NamedTuple):
    """How well a classifier tells two samples apart.

    Attributes
    ----------
    accuracy : float
        Mean of its hit rates on rows of both samples that it was not trained on: ½ where the laws are equal, 1 where
        they do not overlap; below ½ where the made rows are copies of the real ones.
    error : float
        Standard error of the accuracy, from the numbers of rows.
    """

    accuracy: float
    error: float


class TwoSampleTest(NamedTuple):
    """Whether two samples are of one law.

    Attributes
    ----------
    statistic : float
        Unbiased estimate of the squared maximum mean discrepancy, no unit: zero on average where the laws are equal,
        and so negative half of the time.
    noise : float
        Standard deviation of the statistic where the laws are equal, by permutations.
    p_value : float
        Fraction of the permutations with at least this statistic: small where the laws differ, uniform where not.
    """

    statistic: float
    noise: float
    p_value: float


@plainly()
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
        Where the plan is not optimal: its cost exceeds that of the dual potentials by more than rounding.

    Examples
    --------
    >>> wasserstein([[0.0], [1.0]], [[2.0], [3.0]])
    2.0
    """
    from scipy.spatial.distance import cdist

    (x, y), unit = _in_one_unit(("x", "y"), x, y)
    return unit * math.sqrt(_least_cost(cdist(x, y, "sqeuclidean")))


@plainly()
def sliced_wasserstein(
    x: ArrayLike, y: ArrayLike, n_projections: int = 100, random_state: "int | np.random.Generator | None" = 0
) -> float:
    """Return the sliced W₂(x, y), the root mean square of W₂(u·x, u·y) over directions u, in the units of the data.

    Parameters
    ----------
    x, y : arrays of shape (n, d) and (m, d)
        Samples of equal weight, by rows. O(n log n) a direction.
    n_projections : int
        Random directions. The relative error is at most about 1 / √`n_projections`.
    random_state : int, Generator or None
        What draws the directions.

    Returns
    -------
    float

    Notes
    -----
    Bonneel et al. 2015. It is at most W₂ / √d on average, and W₂ itself in one dimension.

    Examples
    --------
    >>> sliced_wasserstein([[0.0], [1.0]], [[2.0], [3.0]])
    2.0
    """
    count("n_projections", n_projections)
    (x, y), unit = _in_one_unit(("x", "y"), x, y)
    u = _rng(random_state).normal(size=(x.shape[1], n_projections))
    z, row = np.unique(np.concatenate(_centred(x, y)), axis=0, return_inverse=True)  # so that equal rows are equal bits
    projected = (z @ (u / np.linalg.norm(u, axis=0)))[row.ravel()]
    n, m = len(x), len(y)
    a, b = np.sort(projected[:n], axis=0), np.sort(projected[n:], axis=0)
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # of the steps of both quantile functions, × nm
    squares = (a[(ends - 1) // m] - b[(ends - 1) // n]) ** 2  # (steps, n_projections)
    return unit * math.sqrt(np.mean(np.diff(ends, prepend=0) @ squares) / (n * m))


@plainly()
def mmd(x: ArrayLike, y: ArrayLike, lengths: "tuple[float, ...] | None" = None) -> float:
    """Return the maximum mean discrepancy of two samples under a sum of Gaussian kernels; no unit.

    Parameters
    ----------
    x, y : arrays of shape (n, d) and (m, d)
        Samples. O((n + m)² d) time, in blocks of 8 MiB.
    lengths : tuple of float, optional
        Standard deviations of the kernels, in the units of the data; by default ½, 1 and 2 times the median distance
        between rows of `y`, of 2000 of them where there are more.

    Returns
    -------
    float
        √ of the biased estimate (Gretton et al. 2012, eq. 5), so never negative, and never zero on two samples of one
        law: :func:`two_sample_test` has the unbiased one, with its noise.

    Examples
    --------
    >>> mmd([[0.0], [1.0]], [[0.0], [1.0]])
    0.0
    """
    (x, y), unit = _in_one_unit(("x", "y"), x, y)
    kernel = functools.partial(_gaussians, lengths=_lengths(lengths, unit, y, np.concatenate([x, y])))
    return math.sqrt(max(_quadratic(kernel, *_difference(x, y)), 0.0))


@plainly()
def two_sample_test(
    x: ArrayLike,
    y: ArrayLike,
    *,
    lengths: "tuple[float, ...] | None" = None,
    n_permutations: int = 200,
    random_state: "int | np.random.Generator | None" = 0,
) -> TwoSampleTest:
    """Test whether two samples are of one law, by their maximum mean discrepancy.

    Parameters
    ----------
    x, y : arrays of shape (n, d) and (m, d)
        Samples, independent of each other, of two rows or more. O((n + m)² d) time, in blocks of 8 MiB.
    lengths : tuple of float, optional
        Standard deviations of the Gaussian kernels, in the units of the data; by default ½, 1 and 2 times the median
        distance between rows of both samples.
    n_permutations : int
        Random exchanges of rows between the samples, from which noise and p-value are read.
    random_state : int, Generator or None
        What draws them.

    Returns
    -------
    TwoSampleTest

    Raises
    ------
    ValueError
        Where a sample has one row only, or the two differ in their number of features.

    Notes
    -----
    Gretton et al. 2012, eq. 3 and sec. 5: the mean kernel between two different rows of `x`, plus that of `y`, minus
    twice that of a row of `x` and one of `y`. At equal laws the p-value is at most α with probability at most α.

    Examples
    --------
    >>> x, y = np.random.default_rng(0).normal(size=(2, 200, 2))
    >>> two_sample_test(x, y).p_value > 0.05, two_sample_test(x, y + 0.5).p_value < 0.05
    (True, True)
    """
    count("n_permutations", n_permutations)
    (x, y), unit = _in_one_unit(("x", "y"), x, y, least=2)
    z = np.concatenate([x, y])
    member = np.zeros((len(z), 1 + n_permutations))
    member[: len(x)] = 1.0
    member[:, 1:] = _rng(random_state).permuted(member[:, 1:], axis=0)
    statistic, *null = _unbiased(functools.partial(_gaussians, lengths=_lengths(lengths, unit, z)), z, member)
    as_large = np.sum(np.array(null) >= statistic - 1e-12)  # equal up to rounding, of kernels at most 1
    return TwoSampleTest(float(statistic), float(np.std(null)), float((1 + as_large) / (1 + n_permutations)))


@plainly()
def classifier_two_sample(
    made: ArrayLike,
    real: ArrayLike,
    classifier: Any = None,
    *,
    n_folds: int = 5,
    random_state: "int | np.random.Generator | None" = 0,
) -> ClassifierTest:
    """Return how well a classifier tells made samples from real ones, by cross-validation; no unit.

    Parameters
    ----------
    made, real : arrays of shape (n, d) and (m, d)
        Samples, of `n_folds` rows or more.
    classifier : scikit-learn classifier, optional
        By default 50 boosted trees of 8 leaves, which need no units and no scaling.
    n_folds : int
        Parts of the rows, on each of which a classifier is judged that was trained on the others; 2 or more.
    random_state : int, Generator or None
        What deals the rows to the folds.

    Returns
    -------
    ClassifierTest

    Notes
    -----
    Lopez-Paz & Oquab 2017. It sees what the classifier can learn from so many rows: an accuracy of ½ is no proof.

    Examples
    --------
    >>> x, y = np.random.default_rng(0).normal(size=(2, 200, 1))
    >>> classifier_two_sample(x + 2, y).accuracy > 0.75
    True
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    count("n_folds", n_folds, 2)
    (x, y), _ = _in_one_unit(("made", "real"), made, real, least=n_folds)
    truth, seed = np.repeat([1, 0], [len(x), len(y)]), int(_rng(random_state).integers(2**31))
    if classifier is None:
        habits = {"class_weight": "balanced", "random_state": seed}  # without one it would draw from NumPy's own
        classifier = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=8, **habits)
    if isinstance(classifier, type) or not (hasattr(classifier, "fit") and hasattr(classifier, "predict")):
        raise TypeError(f"classifier={classifier!r} must have fit and predict, as those of scikit-learn have.")
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    right = cross_val_predict(classifier, np.concatenate([x, y]), truth, cv=folds) == truth
    a, b = right[truth == 1].mean(), right[truth == 0].mean()
    variance = a * (1 - a) / len(x) + b * (1 - b) / len(y)
    return ClassifierTest(float(a + b) / 2, 0.5 * math.sqrt(variance))


@plainly()
def energy_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Return ``√(2 E|x − y| − E|x − x'| − E|y − y'|)``, in the square root of the units of the data (Székely 2013).

    Parameters
    ----------
    x, y : arrays of shape (n, d) and (m, d)
        Samples. O((n + m)² d) time, in blocks of 8 MiB.

    Returns
    -------
    float

    Examples
    --------
    >>> energy_distance([[0.0]], [[2.0]])
    2.0
    """
    from scipy.spatial.distance import cdist

    (x, y), unit = _in_one_unit(("x", "y"), x, y)
    return math.sqrt(unit) * math.sqrt(max(-_quadratic(cdist, *_difference(x, y)), 0.0))


@plainly()
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

    (a, b), unit = _in_one_unit(("features_a", "features_b"), features_a, features_b, least=2)
    (a, b), rank = _centred(a, b), min(max(len(a), len(b)), a.shape[1])
    L_a, L_b = _root(a, rank), _root(b, rank)
    Q, _ = orthogonal_procrustes(L_b, L_a)
    squared = float(np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2) + np.sum((L_a - L_b @ Q) ** 2))
    if squared and not _LEAST < unit < 1 / _LEAST:
        raise ValueError(
            f"features_a and features_b reach {unit:.2g}, whose square float64 does not hold: give another unit."
        )
    return unit * (unit * squared)


@plainly()
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
    count("k", k)
    (x, y), _ = _in_one_unit(("real", "made"), real, made, least=k + 1)
    return PrecisionRecall(float(_covered(y, x, k).mean()), float(_covered(x, y, k).mean()))


@plainly()
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
    (x, y, z), _ = _in_one_unit(("made", "seen", "unseen"), made, seen, unseen)
    d_made, d_unseen = np.sort(_to_nearest(x, y)), _to_nearest(z, y)
    # Weibull's quantile keeps the floor at 0.01 down to m = 99; with NumPy's default it is 0.02 at m = 100.
    copied = np.mean(d_made < np.quantile(d_unseen, 0.01, method="weibull"))
    below, up_to = (np.searchsorted(d_made, d_unseen, side=side) for side in ("left", "right"))
    return Memorisation(float(copied), float(np.mean(below + up_to)) / (2 * len(d_made)))


def _in_one_unit(names: tuple[str, ...], *clouds: ArrayLike, least: int = 1) -> tuple[list[np.ndarray], float]:
    """Return clouds of one space as float64 in a unit of their size, so that squares stay in range; and the unit.

    It is a power of two, which rounds nothing.
    """
    pairs = [as_pair(z, clouds[1], (name, names[1])) for name, z in zip(names, clouds, strict=True)]
    for name, (z, _) in zip(names, pairs, strict=True):
        if len(z) < least:
            raise ValueError(f"{name} has {len(z)} of at least {least} rows that this figure needs. Give more samples.")
    rows = [np.asarray(to_numpy(z), dtype=np.float64) for z, _ in pairs]
    top = max(float(np.abs(z).max()) for z in rows)
    unit = 2.0 ** (int(np.frexp(top)[1]) - 1)
    return [z / unit for z in rows], unit


def _rng(random_state: "int | np.random.Generator | None") -> np.random.Generator:
    try:
        return np.random.default_rng(random_state)
    except (TypeError, ValueError):
        raise ValueError(
            f"random_state={random_state!r} must be a non-negative integer, a Generator or None."
        ) from None


def _least_cost(C: np.ndarray) -> float:
    """Return min Σ P_ij C_ij over the plans P between uniform weights, certified by the dual potentials.

    A vertex of these plans holds multiples of 1 / L, with L = lcm(n, m). So where any plan costs P, an optimal vertex
    has no entry that costs more than L P: costs are cut there, where their size hides the others in rounding.
    """
    import ot

    n, m = C.shape
    L = math.lcm(n, m)
    a, b, top = np.full(n, L / n), np.full(m, L / m), float(C.max())  # masses are integers: they do not round
    while top > 0:
        cut = np.minimum(C / top, 1.0)
        plan, log = ot.emd(a, b, cut, numItermax=10_000_000, log=True)
        v = (cut - log["u"][:, None]).min(axis=0)
        u = (cut - v).min(axis=1)
        dual, rounding = float(a @ u + b @ v), 1e-15 * L * float(1 + np.ptp(u) + np.ptp(v))
        rows = np.nonzero(plan)
        cost, primal = float(plan[rows] @ C[rows]), float(plan[rows] @ cut[rows])
        if cost == 0 or primal - dual + rounding <= max(1e-8, 1e-13 * L) * primal:
            return cost / L
        if not 2 * cost < top:
            raise RuntimeError(
                f"Exact transport of {n} to {m} points failed: its cost is {cost / L:.6g} and may be as small as "
                f"{top * dual / L:.6g}. {log['warning'] or ''} Use fewer points."
            )
        top = 2 * cost
    return 0.0


def _difference(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points z (k, d) and weights w (k,), summing to 0, of the law of x minus that of y.

    What lies in both at equal weight, however far, is left out, exactly.
    """
    L = math.lcm(n := len(x), m := len(y))
    z, row = np.unique(np.concatenate([x, y]), axis=0, return_inverse=True)
    w = np.bincount(row.ravel(), np.repeat([L // n, -(L // m)], [n, m]))
    return z[w != 0], w[w != 0] / L


def _blocks(z: np.ndarray) -> Iterator[slice]:
    """Yield slices of so many rows that their products with all rows take 8 MiB."""
    step = max(1, 2**20 // max(1, len(z)))
    return (slice(i, i + step) for i in range(0, len(z), step))


def _quadratic(kernel: Callable[..., np.ndarray], z: np.ndarray, w: np.ndarray) -> float:
    """Return Σ w_i w_j k(z_i, z_j)."""
    return float(sum(w[rows] @ (kernel(z[rows], z) @ w) for rows in _blocks(z)))


def _unbiased(kernel: Callable[..., np.ndarray], z: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return an unbiased MMD² a column of `member` (k, p), which is 1 on rows of one sample and 0 on the other's."""
    xx = xz = zz = np.zeros(())  # sums of the kernel over a sample and itself, a sample and all rows, all rows
    for rows in _blocks(z):
        K = kernel(z[rows], z)
        xx = xx + np.sum(member[rows] * (K @ member), axis=0)
        xz, zz = xz + K.sum(axis=1) @ member[rows], zz + K.sum()
    n, m = (side := member[:, 0].sum()), len(z) - side
    yy, xy = zz - 2 * xz + xx, xz - xx
    return (xx - n) / (n * (n - 1)) + (yy - m) / (m * (m - 1)) - 2 * xy / (n * m)  # k(z, z) = 1


def _gaussians(x: np.ndarray, y: np.ndarray, lengths: tuple[float, ...]) -> np.ndarray:
    """Return the mean of Gaussian kernels of these standard deviations, (n, m)."""
    from scipy.spatial.distance import cdist

    squares = cdist(x, y, "sqeuclidean")
    return sum((np.exp(squares / (-2 * length**2)) for length in lengths), np.zeros(())) / len(lengths)


def _lengths(given: Any, unit: float, *clouds: np.ndarray) -> tuple[float, ...]:
    """Return the lengths of kernels in units; by default, of the first cloud that is more than one point."""
    if given is None:
        median = next((length for z in clouds if (length := _median_distance(z))), 1.0)
        return 0.5 * median, median, 2.0 * median
    try:
        lengths = np.atleast_1d(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        lengths = np.empty(0)
    if lengths.ndim > 1 or not lengths.size or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError(f"lengths={given!r} must be positive lengths in the units of the data, such as (0.5, 1.0).")
    return tuple(lengths / unit)


def _median_distance(z: np.ndarray) -> float:
    """Return the median distance between different rows, of 2000 rows at most; 0 where all are the same."""
    from scipy.spatial.distance import pdist

    if len(z) > 2000:
        z = z[np.random.default_rng(0).permutation(len(z))[:2000]]
    distances = pdist(z)
    distances = distances[distances > 0]
    return float(np.median(distances)) if len(distances) else 0.0


def _root(x: np.ndarray, rank: int) -> np.ndarray:
    """Return L with L Lᵀ the covariance of the rows, shape (d, rank); forming that would square its condition."""
    R = np.linalg.qr((x - x.mean(axis=0)) / np.sqrt(len(x) - 1), mode="r")  # (min(n, d), d)
    return np.pad(R, ((0, rank - len(R)), (0, 0))).T


def _centred(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move both clouds so that products such as |x|² + |y|² − 2 x·y round least; outliers do not count."""
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
