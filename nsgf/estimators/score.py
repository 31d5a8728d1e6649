"""The score of an estimator: minus a distance of the user's choice, which nothing in the estimator changes."""

from collections.abc import Callable

import numpy as np

from nsgf import metrics
from nsgf.sinkhorn import pick_blur, sinkhorn_divergence

Distance = Callable[[np.ndarray, np.ndarray], float]
_NAMES = ("sinkhorn_divergence", "wasserstein", "sliced_wasserstein", "mmd", "energy_distance")


def distance_of(metric: "str | Distance") -> Distance:
    """Return the distance that a metric of `score` stands for, or raise where there is none of that name.

    Examples
    --------
    >>> import numpy as np
    >>> far = np.array([[1e8], [1e8 + 2]])
    >>> distance_of("wasserstein")(far + 5, far)
    5.0
    """
    if callable(metric):
        return metric
    if not isinstance(metric, str) or metric not in _NAMES:
        raise ValueError(
            f"metric={metric!r} is unknown; choose one of {', '.join(map(repr, _NAMES))}, or give a function of the "
            "carried samples (n, d) and the target samples (m, d)."
        )
    return _divergence if metric == "sinkhorn_divergence" else getattr(metrics, metric)


def _divergence(x: np.ndarray, y: np.ndarray) -> float:
    """Return S_ε(x, y) with a blur that only the target says: a third of that of a fit, which finer fits go below."""
    return sinkhorn_divergence(x, y, blur=pick_blur("auto", y, y) / 3.0)
