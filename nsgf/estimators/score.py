"""The score of an estimator: minus a distance of the user's choice, which nothing in the estimator changes."""

import functools
import math
from collections.abc import Callable

import numpy as np

from nsgf import metrics
from nsgf.sinkhorn import deviation, pick_blur, sinkhorn_divergence

Distance = Callable[[np.ndarray, np.ndarray], float]
_DEGREES = {  # k, where data c times as large have a distance c**k times as large
    "sinkhorn_divergence": 2.0,
    "wasserstein": 1.0,
    "sliced_wasserstein": 1.0,
    "mmd": 0.0,
    "energy_distance": 0.5,
}


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
    if isinstance(metric, str) and metric in _DEGREES:
        return functools.partial(_distance, metric)
    raise ValueError(
        f"metric={metric!r} is unknown; choose one of {', '.join(map(repr, _DEGREES))}, or give a function of the "
        "carried samples (n, d) and the target samples (m, d)."
    )


def _distance(name: str, x: np.ndarray, y: np.ndarray) -> float:
    """Return a distance of `nsgf.metrics`, found in units of the spread of `y` around its mean."""
    origin = y.mean(axis=0)
    unit = deviation(y - origin) or 1.0
    degree = _DEGREES[name]
    if abs(degree * math.log10(unit)) > 300:
        raise ValueError(
            f"metric={name!r} of targets with a spread of {unit:.2g} leaves the range of float64. Rescale the data, or "
            "choose metric='mmd', which has no unit."
        )
    distance = _divergence if name == "sinkhorn_divergence" else getattr(metrics, name)
    return unit**degree * float(distance((x - origin) / unit, (y - origin) / unit))


def _divergence(x: np.ndarray, y: np.ndarray) -> float:
    """Return S_ε(x, y) with a blur that only the target says: a third of that of a fit, which finer fits go below."""
    return sinkhorn_divergence(x, y, blur=pick_blur("auto", y, y) / 3.0)
