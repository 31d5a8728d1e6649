"""The integrators: their order, times of each point's own, and what a step costs."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import expm
from tolerances import FLOAT64

from nsgf import ode


@given(order=st.sampled_from([(ode.euler, 1), (ode.midpoint, 2), (ode.heun, 2), (ode.rk4, 4)]), rate=st.floats(-2, 2))
def test_integrators_converge_at_their_order(order, rate):
    step, p = order
    field = lambda x, t: rate * x + t  # noqa: E731

    def at_one(n):
        return ode.integrate(field, 1.0, [k / n for k in range(n + 1)], step)

    exact = at_one(2048) if p == 1 else at_one(512)
    coarse, fine = abs(at_one(8) - exact), abs(at_one(32) - exact)
    assert coarse < 1e-9 or fine < coarse / 4 ** (p - 0.5)


@given(
    step=st.sampled_from(list(ode.STEPS.values())),
    tau=arrays(float, 4, elements=st.floats(0, 1)),
    seed=st.integers(0, 99),
)
def test_points_with_times_of_their_own_move_as_each_would_alone(step, tau, seed):
    rng = np.random.default_rng(seed)
    A, x = rng.normal(size=(2, 2)), rng.normal(size=(4, 2))
    field = lambda x, t: x @ A.T + np.multiply.outer(np.cos(t), np.ones(2))  # noqa: E731
    together = ode.integrate(field, x, np.linspace(tau, 1.0, 5), step)
    alone = [
        ode.integrate(field, z[None], np.linspace(s, 1.0, 5).tolist(), step)[0] for z, s in zip(x, tau, strict=True)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-10, atol=FLOAT64)


def test_sampling_from_times_of_their_own_is_exact_on_a_linear_field():
    rng = np.random.default_rng(0)
    A, x, tau = rng.normal(size=(3, 3)), rng.normal(size=(6, 3)), rng.uniform(size=6)
    exact = np.stack([expm((1 - s) * A) @ z for z, s in zip(x, tau, strict=True)])
    got = ode.integrate(lambda x, t: x @ A.T, x, np.linspace(tau, 1.0, 51), ode.rk4)
    np.testing.assert_allclose(got, exact, atol=1e-7)


@pytest.mark.parametrize("step", ode.STEPS.values())
def test_a_step_counts_its_function_evaluations(step):
    calls = []
    ode.integrate(lambda x, t: calls.append(t) or 0.0, 1.0, [0.0, 0.5, 1.0], step)
    assert len(calls) == 2 * ode.NFE[step]
