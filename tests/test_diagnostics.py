"""How far a fit can be trusted: the gap between minibatches, the report of a fit, when it warns, and what helps."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
from common import QUICK, labelled_sample, samples
from sklearn.preprocessing import StandardScaler

from nsgf import NSGF, POT, datasets, diagnostics, trials
from nsgf.diagnostics import minibatch_gap
from nsgf.flow import flow_steps
from nsgf.task import Task
from nsgf.trials import Trial


def test_minibatches_of_one_law_come_closer_as_they_grow():
    def gap(n):
        steps = [flow_steps(*samples(n, seed=seed), 1.0, 3, 1.0, POT(method="auto")) for seed in (1, 2)]
        return minibatch_gap(*steps)

    assert gap(400) < 0.7 * gap(50)


def test_a_minibatch_is_at_no_distance_from_itself():
    steps = list(flow_steps(*samples(60, 80), 1.0, 2, 1.0, POT(method="auto")))
    assert minibatch_gap(steps, steps) < 1e-9


def test_a_report_holds_gaps_of_velocities_and_figures_of_laws(flow):
    report = flow.report_
    assert report.keys() == {
        *("max_error", "converged", "minibatch_gap", "minibatch_error", "regression_gap"),
        *(
            "rows",
            "held_out",
            "mmd2",
            "mmd2_noise",
            "p_value",
            "width",
            "width_noise",
            "least_width",
            "greatest_width",
            "misfits",
        ),
    }
    assert 0 < report["regression_gap"] < 0.5
    assert report["converged"]
    assert report["max_error"] <= 1e-1  # velocities far below the blur included
    assert (report["rows"], report["held_out"]) == (400, 0)
    assert report["least_width"] <= report["width"] <= report["greatest_width"]


# %% When it warns, and what helps


class Case(NamedTuple):
    """Samples, parameters under which a fit goes wrong, the words of the warning, and what its remedy changes."""

    samples: tuple[Any, ...]
    parameters: dict[str, Any]
    words: str
    helps: dict[str, Any] = {}
    better: tuple[Any, ...] | None = None
    known: dict[str, Any] = {}


def bimodal(n, rng):
    return rng.choice([-2.0, 2.0], (n, 1)) * [1, 0] + 0.3 * rng.normal(size=(n, 2))


def with_outlier(y):
    return np.vstack([y, np.full((1, 2), 1e6)])


RNG = np.random.default_rng(0)
X, Y, MOONS = datasets.gaussian(400, RNG), bimodal(400, RNG), datasets.moons(400, RNG)
UNITS = np.array([1.0, 1e6])
LOUD = {
    "few steps of training": Case((X, Y), {"max_iter": 5}, "raise max_iter or n_batches", {"max_iter": 600}),
    "large blur": Case((X, Y), {"blur": 3.0}, "raise n_steps or step_size, or lower blur", {"blur": "auto"}),
    "a flow that stops short": Case((X, Y), {"step_size": 0.1}, "raise n_steps or step_size", {"step_size": 1.0}),
    "few rows": Case((X[:30], MOONS[:20]), {}, "too few rows: give more", better=(X, MOONS)),
    "mixed units": Case((X * UNITS, Y * UNITS), {}, "very different spread: feature 0", {"encoder": StandardScaler()}),
    "labels far apart": Case(
        (None, MOONS + 1e4 * (np.arange(400) % 2)[:, None]),
        {},
        "labels that lie far from each other.*by itself",
        better=(None, MOONS[::2]),
        known={"y_tgt": np.arange(400) % 2},
    ),
    "one far row": Case((X, with_outlier(Y)), {}, "X_tgt has 1 of 401 rows far .* rows 400", better=(X, Y)),
}
LONG = QUICK | {"max_iter": 600, "batch_size": 256}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # of minibatches with a far row
@pytest.mark.parametrize("case", LOUD.values(), ids=LOUD)
def test_a_fit_that_went_wrong_says_so_and_its_remedy_helps(case):
    with pytest.warns(UserWarning, match=case.words):
        NSGF(**LONG | case.parameters).fit(*case.samples, **case.known)
    with warnings.catch_warnings(action="error"):
        NSGF(**LONG | case.parameters | case.helps).fit(*case.better or case.samples)


CENTRED, NAMES = labelled_sample(600)
QUIET = {
    "moons": Case((X, MOONS), {}, ""),
    "one law, far away": Case((X, datasets.gaussian(400, RNG) + 1e6), {}, ""),
    "noise to labels": Case(
        (None, CENTRED), {"step_size": 0.4, "n_steps": 8, "max_iter": 1000}, "", known={"y_tgt": NAMES}
    ),
    "labels of both": Case((CENTRED + 5.0, CENTRED), {}, "", known={"y_src": NAMES, "y_tgt": NAMES}),
    "a course": Case(({0.0: X, 1.0: MOONS, 3.0: Y + 50.0},), {}, ""),
    "constants and points": Case((np.zeros((300, 2)), np.full((300, 2), 3.0)), {}, ""),
}


@pytest.mark.parametrize("case", QUIET.values(), ids=QUIET)
def test_a_fit_that_is_right_is_quiet(case):
    with warnings.catch_warnings(action="error"):
        model = NSGF(**LONG | case.parameters).fit(*case.samples, **case.known)
    assert not diagnostics.symptoms(model.report_)


# %% Models whose law is known


def drawn(law, n=600, seed=0, made=lambda rows, rng: rows):
    """Return the symptoms of a model that makes rows of a law, of the labels asked for, or something else of them."""
    rng = np.random.default_rng(seed)
    y, names = law(rng, None, n)
    task = Task.of(None, y, y_tgt=names)
    _, unseen, n_held_out = trials.held_out(task, 0.1, rng)
    (trial,) = trials.trials(unseen, task, rng)
    codes = None if names is None else np.array(task.kinds.labels)[trial.c.argmax(axis=1)]
    z = made(task.frame.to_unit(law(rng, codes, len(trial.x))[0], 1.0), rng)
    return diagnostics.symptoms(diagnostics.law(z, trial) | {"held_out": n_held_out})


def of_labels(k):
    centres = 7.0 * np.random.default_rng(1).normal(size=(k, 2))

    def law(rng, codes, n):
        codes = np.arange(n) % k if codes is None else codes
        return centres[codes] + rng.normal(size=(n, 2)), codes

    return law


def plain(draw):
    return lambda rng, codes, n: (draw(rng, n), None)


LAWS = {
    "Gaussian": plain(lambda rng, n: rng.normal(size=(n, 2))),
    "Gaussian of 50 features": plain(lambda rng, n: rng.normal(size=(n, 50))),
    "heavy tails": plain(lambda rng, n: rng.standard_t(2.5, size=(n, 2))),
    "lognormal": plain(lambda rng, n: np.exp(1.5 * rng.normal(size=(n, 2)))),
    "counts that are nearly all zero": plain(lambda rng, n: rng.normal(size=(n, 50)) * (rng.random((n, 50)) < 0.03)),
    "10 labels": of_labels(10),
    "30 labels": of_labels(30),
    "modes far apart": plain(lambda rng, n: 1e3 * rng.integers(2, size=(n, 1)) + rng.normal(size=(n, 2))),
    "two modes": plain(lambda rng, n: bimodal(n, rng)),
}


@pytest.mark.parametrize("n", [100, 220, 600])
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_model_of_the_right_law_is_hardly_ever_suspected(law, n):
    assert sum(bool(drawn(law, n, seed)) for seed in range(10)) <= 2


def narrow(z, rng):
    return z.mean(axis=0) + 0.5 * (z - z.mean(axis=0))


def one_of_another(z, rng):
    return np.where(np.arange(len(z))[:, None] % 10, z, np.roll(z, 1, axis=0))


WRONG = {
    "too narrow": (LAWS["Gaussian"], narrow),
    "too narrow, in 50 features": (LAWS["Gaussian of 50 features"], narrow),
    "shifted": (LAWS["Gaussian"], lambda z, rng: z + 1.0),
    "a Gaussian in place of two modes": (LAWS["two modes"], lambda z, rng: rng.normal(size=z.shape) * z.std(axis=0)),
    "modes far apart, too wide": (LAWS["modes far apart"], lambda z, rng: z + 0.02 * rng.normal(size=z.shape)),
    "30 labels mixed up": (LAWS["30 labels"], lambda z, rng: rng.permutation(z)),
    "10 labels mixed up": (LAWS["10 labels"], lambda z, rng: rng.permutation(z)),
    "a tenth of another label": (LAWS["10 labels"], one_of_another),
}


@pytest.mark.parametrize(("law", "wrong"), WRONG.values(), ids=WRONG)
def test_a_model_of_another_law_is_suspected(law, wrong):
    assert sum(bool(drawn(law, 600, seed, wrong)) for seed in range(10)) >= 8


def test_the_worst_stage_is_one_that_is_suspected():
    good = {"mmd2": 0.0, "p_value": 0.5, "width": 0.8, "width_noise": 0.1}
    bad = {"mmd2": 0.05, "p_value": 0.005, "width": 1.0, "width_noise": 0.1}
    assert diagnostics.worst([good, bad, good]) is bad


def test_a_figure_that_is_no_number_warns():
    with pytest.warns(UserWarning, match=r"report_\['width'\] is nan: not a number"):
        diagnostics.warn({"width": np.nan, "regression_gap": 0.1})


@pytest.mark.parametrize("far", [1e3, 1e8, 1e10, 1e16, 1e100])
@pytest.mark.parametrize("side", ["X_src", "X_tgt"])
def test_a_row_far_from_all_others_is_named(far, side):
    clouds = {"X_src": X, "X_tgt": Y}
    clouds[side] = np.vstack([clouds[side], [[far, far]]])
    task = Task.of(*clouds.values())
    with pytest.warns(UserWarning, match=f"{side} has 1 of .* rows {len(clouds[side]) - 1}. .* Drop or clip"):
        assert diagnostics.look_at(task)


def test_what_is_not_finite_is_told_and_not_lost():
    x, none = np.zeros((30, 2)), np.zeros((30, 0))
    figures = diagnostics.law(x * np.nan, Trial(x, None, x, (x, x), x + 1.0, (none, none)))
    assert set(diagnostics.symptoms(figures)) == set(figures)


@pytest.mark.parametrize("n_labels", [2, 5])
def test_labels_far_from_each_other_are_named(n_labels):
    labels = np.arange(len(Y)) % n_labels
    for far, is_far in ((10.0, False), (1e4, True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert diagnostics.look_at(Task.of(None, Y + far * labels[:, None], y_tgt=labels)) == is_far
        assert ["Fit each label by itself" in str(w.message) for w in caught] == [True] * is_far


def test_two_minibatches_that_disagree_are_named_as_the_cause():
    figures = {"regression_gap": 0.4, "minibatch_gap": 0.9, "minibatch_error": 0.5, "rows": 1000}
    assert "raise batch_size or blur" in diagnostics.remedy(figures)
    assert "raise n_steps" in diagnostics.remedy(figures | {"minibatch_error": 0.1})
