"""The one table of tolerances.

==================  ==================================================================================================
rounding            1e-12 (float64) or 1e-5 (float32), relative to the magnitudes that were added and subtracted;
                    1e-4 through a network and its steps
solver-limited      10 × the reported marginal error × the spread, plus rounding; for means over the particles, since a
                    marginal error is a mass and says nothing about a point that has none
statistical         from the standard error of the estimate, on a fixed seed
==================  ==================================================================================================
"""

import numpy as np

from nsgf.solvers import POT

ROUNDING = {"float64": 1e-12, "float32": 1e-5}
FLOAT64, FLOAT32 = ROUNDING.values()  # of numbers about one
NETWORK = 1e-4  # rounding through a network and its steps
TIGHT = {
    "float64": POT(method="auto", tol=1e-9, max_iter=3000),
    "float32": POT(method="auto", tol=2e-6, max_iter=3000),
}


def rounding(*arrays):
    """Return the rounding error of sums of the arrays' entries."""
    dtype = np.result_type(*arrays).name
    return ROUNDING[dtype] * max(float(np.max(np.abs(x))) for x in arrays)


def solver_limited(error, problem):
    """Return the mean error that a velocity of this marginal error may have, in the units of the data."""
    return 10 * error * problem.spread + rounding(problem.x, problem.y)
