"""How velocities are compared: in the mean over the particles, within what their certificates allow."""

import warnings

import numpy as np
import reference
from sklearn.exceptions import ConvergenceWarning
from tolerances import solver_limited


def quietly(function, *args, **options):
    """Call a function on a problem that need not converge: laws hold within the error that it reports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return function(*args, **options)


def mean_distance(v, w, a):
    """Return Σ a_i |v_i − w_i|."""
    return float(a.astype(np.float64) @ np.linalg.norm(np.asarray(v, np.float64) - w, axis=1))


def reference_velocity(problem, z=None):
    """Return the velocity at points z, by default the particles, from the float64 reference."""
    x, y, _, a, b = (np.asarray(p, np.float64) for p in problem.args)
    return reference.velocity(x if z is None else z, x, y, problem.eps, a / a.sum(), b / b.sum())


def assert_same_velocity(res, v, problem, error=0.0):
    """Compare a velocity with another that has a marginal error of its own."""
    assert mean_distance(res.v, v, problem.a) <= solver_limited(max(res.error, error), problem)
