"""The mean-field limit: clouds drawn from Gaussians, against the closed form of tests/gaussian.py."""

import gaussian
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from strategies import gaussian_pairs, seeds
from tolerances import FLOAT32, FLOAT64

from nsgf.flow import sinkhorn_flow
from nsgf.sinkhorn import sinkhorn_velocity
from nsgf.solvers import Sinkhorn

SOLVER = Sinkhorn(tol=1e-4)
SIZES = (50, 100, 200, 400)
fixed = {"derandomize": True, "deadline": None}


def replicates(n):
    """Return how many clouds of n points leave the slope a standard error below 0.04."""
    return range(max(48, 6400 // n))


def log_slope(squares):
    """Return the slope of log √mean(squares) in log n by least squares, with its standard error.

    `squares` holds, for each size, the mean squared errors of its replicates.
    """
    means = np.array([np.mean(q) for q in squares])
    noise = np.array([np.std(q, ddof=1) / np.sqrt(len(q)) for q in squares]) / (2 * means)  # of log √mean
    t = np.log(SIZES) - np.mean(np.log(SIZES))
    return t @ (0.5 * np.log(means)) / (t @ t), np.linalg.norm(t * noise) / (t @ t)


def assert_falls_like_root_n(squares):
    """Compare the slope with −½; its standard error must leave the comparison a meaning."""
    slope, noise = log_slope(squares)
    assert noise < 0.04
    assert slope == pytest.approx(-0.5, abs=0.15)


def velocity_error(source, target, eps, n, rng):
    """Return the mean squared error of one empirical velocity against the closed form."""
    x, y = source.sample(n, rng), target.sample(n, rng)
    v = sinkhorn_velocity(x, y, np.sqrt(eps), solver=SOLVER).v
    return np.mean(np.sum((v - gaussian.velocity(x, source, target, eps)) ** 2, axis=1))


def flow_error(source, target, eps, end, n, rng, **scheme):
    """Return the squared error of the particles' final mean and covariance against their closed form `end`."""
    x = sinkhorn_flow(source.sample(n, rng), target.sample(n, rng), np.sqrt(eps), solver=SOLVER, **scheme).x[-1]
    return np.sum((x.mean(axis=0) - end.mean) ** 2) + np.sum((np.cov(x.T) - end.cov) ** 2)


@given(pair=gaussian_pairs())
def test_closed_form_is_an_entropic_plan(pair):
    source, target, eps = pair
    C, d = gaussian.cross_covariance(source.cov, target.cov, eps), len(source.cov)
    precision = np.linalg.inv(np.block([[source.cov, C], [C.T, target.cov]]))
    assert np.allclose(precision[:d, d:], -np.eye(d) / eps, rtol=0, atol=1e-9 / eps)  # a(x) b(y) exp(x·y / ε)


@given(pair=gaussian_pairs())
def test_closed_form_rests_at_the_target(pair):
    source, _, eps = pair
    x = source.sample(5, np.random.default_rng(0))
    assert np.allclose(gaussian.velocity(x, source, source, eps), 0, atol=FLOAT64)


@given(pair=gaussian_pairs())
def test_closed_form_tends_to_the_optimal_map_at_small_blur(pair):
    source, target, _ = pair
    L = gaussian.linear_part(source.cov, target.cov, eps=1e-6)
    T = np.eye(len(L)) + L
    assert np.allclose(T @ source.cov @ T.T, target.cov, atol=FLOAT32)
    assert np.allclose(T, T.T, atol=FLOAT32)


@settings(max_examples=10, **fixed)
@given(pair=gaussian_pairs(), time=st.floats(0.5, 3.0))
def test_euler_recursion_tends_to_the_differential_equation(pair, time):
    limit = gaussian.flow(*pair, time)
    gaps = []
    for n_steps in (40, 80, 160):
        end = gaussian.euler(*pair, n_steps, time / n_steps)
        gaps.append(np.hypot(np.linalg.norm(end.mean - limit.mean), np.linalg.norm(end.cov - limit.cov)))
    assert gaps[1] / gaps[0] == pytest.approx(0.5, abs=0.05)
    assert gaps[2] / gaps[1] == pytest.approx(0.5, abs=0.03)


@pytest.mark.slow
@settings(max_examples=10, **fixed)
@given(pair=gaussian_pairs(), seed=seeds)
def test_velocity_tends_to_the_mean_field_like_root_n(pair, seed):
    rng = np.random.default_rng(seed)
    squares = [[velocity_error(*pair, n, rng) for _ in replicates(n)] for n in SIZES]
    assert_falls_like_root_n(squares)


@pytest.mark.slow
@settings(max_examples=5, **fixed)
@given(pair=gaussian_pairs(), step_size=st.floats(0.2, 1.0), seed=seeds)
def test_flow_tends_to_the_euler_recursion_like_root_n(pair, step_size, seed):
    rng, scheme = np.random.default_rng(seed), {"n_steps": 4, "step_size": step_size}
    end = gaussian.euler(*pair, **scheme)
    squares = [[flow_error(*pair, end, n, rng, **scheme) for _ in replicates(n)] for n in SIZES]
    assert_falls_like_root_n(squares)
