"""Solvers as values: POT against the reference, the problem of a cloud with itself, and solvers of one's own."""

import dataclasses
import re

import numpy as np
import pytest
import reference
from common import BARELY, ignore_report, methods, samples
from hypothesis import given, strategies as st
from strategies import costly, coupled_problems, hard_problem, problems
from velocities import assert_same_velocity, quietly, reference_velocity

import nsgf
from nsgf import NSGF, POT, Sinkhorn, Solver, sinkhorn_divergence, sinkhorn_flow, sinkhorn_velocity, spread
from nsgf.flow import flow_steps
from nsgf.kernel import barycentric_map
from nsgf.solvers import self_potentials


def refusal(call, *args, **options):
    """Return the text of the ValueError that a call must raise."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the caller reads the text
        call(*args, **options)
    return str(caught.value)


# %% POT


@methods
@costly
@given(problem=coupled_problems(max_points=10))
def test_every_method_converges_to_the_reference(problem, method):
    res = sinkhorn_velocity(*problem.args, solver=POT(method=method, tol=1e-8, max_iter=20_000))
    assert res.converged
    assert_same_velocity(res, reference_velocity(problem), problem)


@methods
@costly
@given(problem=coupled_problems(max_points=10))
def test_float32_converges_to_the_reference(problem, method):
    problem = problem.to("float32")
    res = sinkhorn_velocity(*problem.args, solver=POT(method=method, tol=1e-5, max_iter=20_000))
    assert res.v.dtype == np.float32
    assert_same_velocity(res, reference_velocity(problem), problem)


@methods
@given(problem=problems(max_points=10), max_iter=st.integers(1, 30))
def test_certificate_bounds_the_marginal_error_of_any_solve(problem, max_iter, method):
    problem, solve = problem.centred(), POT(method=method, tol=1e-6, max_iter=max_iter)
    solved = solve(problem.x, problem.y, problem.eps, problem.a, problem.b)
    plan = (solved.f[:, None] + solved.g[None, :] - reference.cost(problem.x, problem.y)) / problem.eps
    plan = np.exp(plan) * problem.a[:, None] * problem.b[None, :]
    misplaced = np.abs(plan.sum(1) - problem.a).sum() + np.abs(plan.sum(0) - problem.b).sum()
    assert misplaced <= solved.error + 1e-11
    assert solved.error <= 2 + 1e-11
    assert solved.converged == (solved.error <= solve.tol)
    assert 1 <= solved.n_iter <= max_iter


@pytest.mark.parametrize("blur", [1e-1, 3e-2, 1e-2, 1e-3])
def test_auto_keeps_to_the_iteration_limit_where_the_kernel_underflows(blur):
    x, y, _ = hard_problem()
    res = quietly(sinkhorn_velocity, x, y, blur, solver=POT(method="auto", tol=1e-9, max_iter=60))
    assert res.potentials.n_iter <= 60
    assert np.all(np.isfinite(res.v))


@pytest.mark.parametrize("method", ["sinkhorn", "sinkhorn_stabilized"])
def test_kernel_methods_that_break_down_never_claim_convergence(method):
    x, y, _ = hard_problem()
    try:
        res = quietly(sinkhorn_velocity, x, y, 1e-2, solver=POT(method=method, max_iter=200))
    except FloatingPointError as error:
        assert "sinkhorn_log" in str(error)  # noqa: PT017 -- either outcome is lawful
    else:
        assert not res.converged


# %% A cloud with itself


@costly
@given(problem=problems(max_points=8), fraction=st.floats(0.7, 1.5))
def test_self_potentials_agree_with_the_alternate_solve(problem, fraction):
    problem = dataclasses.replace(problem, blur=fraction * spread(problem.x, problem.a))
    own = self_potentials(problem.x, problem.eps, problem.a, tol=1e-12)
    solve = POT(method="sinkhorn_log", tol=1e-11, max_iter=20_000)
    cross = solve(problem.x, problem.x, problem.eps, problem.a, problem.a)
    assert own.converged
    assert np.allclose(own.f, 0.5 * (cross.f + cross.g), rtol=0, atol=1e-8 * problem.eps)
    T = [barycentric_map(problem.x, problem.x, p.g, problem.eps, problem.a) for p in (own, cross)]
    assert np.allclose(*T, rtol=0, atol=1e-8 * problem.spread)


@given(problem=problems(fractions=(0.05, 1.0)))
def test_self_potentials_take_few_iterations_at_any_blur(problem):
    own = self_potentials(problem.x, problem.eps, problem.a, tol=1e-9)
    assert own.converged
    assert own.n_iter <= 60
    plan = own.f[:, None] + own.f[None, :] - reference.cost(problem.x, problem.x)
    rows = np.exp(plan / problem.eps) @ problem.a
    assert problem.a @ np.abs(rows - 1) <= 2e-9


@pytest.mark.parametrize("tol", [1e-4, 1e-6])
def test_self_problem_in_float32_stops_at_the_rounding_error(tol):
    x, y, blur = hard_problem()
    res = sinkhorn_velocity(x.astype("float32"), y.astype("float32"), 5 * blur, solver=POT(method="auto", tol=tol))
    assert res.self_potentials.n_iter <= 60


def test_self_potentials_start_from_a_solution():
    x, a = np.random.default_rng(0).normal(size=(40, 2)), np.full(40, 1 / 40)
    cold = self_potentials(x, 0.05, a, tol=1e-9)
    warm = self_potentials(x, 0.05, a, cold, tol=1e-9)
    assert warm.converged
    assert warm.n_iter < cold.n_iter
    np.testing.assert_allclose(warm.f, cold.f, atol=1e-9)


# %% Options


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("method", "emd", "sinkhorn_log"),
        ("method", None, "sinkhorn_log"),
        ("tol", 0.0, "1e-4"),
        ("tol", -1e-3, "1e-4"),
        ("tol", np.nan, "1e-4"),
        ("tol", "small", "1e-4"),
        ("tol", None, "1e-4"),
        ("max_iter", 0, "integer of at least 1"),
        ("max_iter", -3, "integer of at least 1"),
        ("max_iter", 10.5, "integer of at least 1"),
        ("max_iter", "many", "integer of at least 1"),
        ("max_iter", None, "integer of at least 1"),
        ("on_unconverged", "ignore", "'warn' or 'raise'"),
    ],
)
def test_bad_solver_options_are_named_and_told_a_good_value(option, value, words):
    assert re.search(rf"{option}={value!r}.*{words}", refusal(POT, **{option: value}))


@pytest.mark.parametrize(
    ("option", "value"), [("tol", 0.0), ("tol", np.inf), ("max_iter", 0), ("on_unconverged", "no")]
)
def test_bad_options_of_sinkhorn_are_named(option, value):
    with pytest.raises(ValueError, match=f"{option}={value!r}"):
        Sinkhorn(**{option: value})


@pytest.mark.parametrize("solver", ["POT", "sinkhorn", "", None, 3, POT, lambda *args, **options: None])
@pytest.mark.parametrize("function", [sinkhorn_velocity, sinkhorn_divergence])
def test_unknown_solver_is_named(function, solver):
    assert re.search("^solver=.*nsgf.POT", refusal(function, *hard_problem(), solver=solver))


# %% Solvers of one's own


@dataclasses.dataclass(frozen=True)
class Own(Solver):
    """Another solver, as a subclass of one's own."""

    tol: float = 1e-3
    max_iter: int = 2000
    on_unconverged: str = "warn"

    def __call__(self, x, y, eps, a, b, init=None):
        return POT(tol=self.tol, max_iter=self.max_iter)(x, y, eps, a, b, init)


def plain(x, y, eps, a, b, init=None):
    return Own()(x, y, eps, a, b, init)


plain.tol, plain.max_iter, plain.on_unconverged = 1e-3, 2000, "warn"
own_solvers = pytest.mark.parametrize("solver", [Own(), plain], ids=["subclass", "function"])


@own_solvers
def test_a_solver_of_ones_own_gives_the_velocity_the_divergence_and_the_flow(solver):
    x, y = samples(60, 80)
    res, exact = (sinkhorn_velocity(x, y, 0.8, solver=s) for s in (solver, Sinkhorn(tol=1e-8)))
    assert res.converged
    assert res.error <= solver.tol
    np.testing.assert_allclose(res.v, exact.v, atol=10 * solver.tol)
    S = [sinkhorn_divergence(x, y, 0.8, solver=s) for s in (solver, Sinkhorn(tol=1e-8))]
    assert S[0] == pytest.approx(S[1], abs=10 * solver.tol)
    ways = [sinkhorn_flow(x, y, 0.8, n_steps=2, step_size=0.5, solver=s).x for s in (solver, Sinkhorn(tol=1e-8))]
    np.testing.assert_allclose(*ways, atol=30 * solver.tol)


@dataclasses.dataclass(frozen=True)
class Stacking(Own):
    """A solver of one's own that solves stacks of problems, one by one."""

    def __call__(self, x, y, eps, a, b, init=None):
        if x.ndim == 2:
            return super().__call__(x, y, eps, a, b, init)
        one = super().__call__
        solved = [one(x_k, y_k, eps, a, b) for x_k, y_k in zip(x, y, strict=True)]
        f, g = (np.stack([getattr(p, name) for p in solved]) for name in "fg")
        return solved[0]._replace(f=f, g=g, error=max(p.error for p in solved))

    def stack(self, n, m, device):
        return 4


@pytest.mark.parametrize("zeros", [0, 1])
def test_a_solver_of_ones_own_solves_stacks(zeros):
    rng = np.random.default_rng(0)
    x, c = 5 * rng.normal(size=(4, 4, 2)), rng.normal(size=(4, 1, 2))  # as many problems as points
    weights = np.r_[np.zeros(zeros), np.ones(4 - zeros)]
    steps = flow_steps(x, x + c, 0.5, 2, 0.5, Stacking(tol=1e-6), (weights, weights))
    for left, (_, res) in zip((1.0, 0.5), steps, strict=True):
        np.testing.assert_allclose(res.v[:, zeros:], np.broadcast_to(left * c, x.shape)[:, zeros:], atol=1e-3)


@own_solvers
@pytest.mark.parametrize("known", [False, True], ids=["plain", "partly labelled"])
@ignore_report
def test_a_solver_of_ones_own_serves_an_estimator(solver, known):
    x, y = samples(60)
    labels = {"y_src": [None, "b", "a"] * 20, "y_tgt": ["a", "b"] * 30} if known else {}
    model = NSGF(**BARELY | {"solver": solver}).fit(x, y, **labels)
    assert model.report_["max_error"] <= solver.tol
    assert np.isfinite(model.score(x))


@ignore_report
def test_a_frozen_dataclass_of_ones_own_is_stored_and_a_function_is_refused(tmp_path):
    model = NSGF(**BARELY | {"solver": Own(tol=1e-2)}).fit(*samples(60))
    model.save(tmp_path / "m")
    assert nsgf.load(tmp_path / "m").solver == Own(tol=1e-2)
    with pytest.raises(ValueError, match="solver=<function plain.* cannot be saved.*frozen dataclass"):
        model.set_params(solver=plain).save(tmp_path / "m")
    assert nsgf.load(tmp_path / "m").solver == Own(tol=1e-2)


def test_the_policy_of_a_solver_of_ones_own_is_kept():
    def rough(x, y, eps, a, b, init=None):
        return Own(tol=1e-9, max_iter=2)(x, y, eps, a, b, init)

    rough.tol, rough.max_iter, rough.on_unconverged = 1e-9, 2, "raise"
    for solver in (Own(tol=1e-9, max_iter=2, on_unconverged="raise"), rough):
        with pytest.raises(RuntimeError, match=r"above tol=1e-09\. Raise max_iter.*") as caught:
            sinkhorn_velocity(*hard_problem(), solver=solver)
        assert "_Called" not in str(caught.value)


def test_a_solver_without_its_limits_or_with_a_policy_that_is_none_is_refused():
    def plain(x, y, eps, a, b, init=None):
        raise NotImplementedError

    with pytest.raises(ValueError, match="solver=<function .* is unknown.*with the attributes tol, max_iter"):
        NSGF(solver=plain).fit(*samples(20))
    with pytest.raises(ValueError, match="on_unconverged='ignore' is unknown; choose 'warn' or 'raise'"):
        NSGF(solver=Own(on_unconverged="ignore")).fit(*samples(20))


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found._replace(g=found.g[:1]),
        lambda found: found._replace(g=found.g * np.nan),
        lambda found: found._replace(f=found.f.tolist()),
        lambda found: found._replace(error=float("nan")),
        lambda found: None,
    ],
)
def test_what_is_no_potentials_is_refused(change):
    class Strange(Solver):
        tol, max_iter, on_unconverged = 1e-2, 100, "warn"

        def __call__(self, *problem, init=None):
            return change(Sinkhorn()(*problem))

    for use in (sinkhorn_velocity, sinkhorn_divergence):
        with pytest.raises(ValueError, match="solver returned"):
            use(*samples(30), blur=0.5, solver=Strange())
