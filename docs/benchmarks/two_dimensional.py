"""Two dimensions, head to head: NSGF and its kin, flow matching and POT's transports on one network and equal seconds.

pip install '.[bench]' && pip install --no-deps torchcfm==1.0.7
python docs/benchmarks/two_dimensional.py all --methods search floor --threads 1    settings of the peers; real samples
python docs/benchmarks/two_dimensional.py all --threads 1                           all methods, seeds and budgets
python docs/benchmarks/two_dimensional.py moons --seconds 30 --seeds 0 1 --methods NSGF OT-CFM --threads 1    a piece
python docs/benchmarks/two_dimensional.py all --methods study                       exact W2 of NSGF's defaults
python docs/benchmarks/two_dimensional.py                                           the tables from the JSON alone

All samples are iid draws of the laws in ``nsgf.datasets``.
"""

import functools

import contest
import numpy as np
import page
from contest import Row, Split

from nsgf import NSGF, datasets, metrics, sinkhorn_flow

N_TRAIN, N_NEW, N_EXACT = 10_000, 100_000, 2000
LAWS = {
    "gaussian → 8 gaussians": (datasets.gaussian, datasets.eight_gaussians),
    "8 gaussians → moons": (datasets.eight_gaussians, datasets.moons),
    "gaussian → s-curve": (datasets.gaussian, datasets.s_curve),
    "gaussian → checkerboard": (datasets.gaussian, datasets.checkerboard),
}
WORDS = ("eight", "moons", "s-curve", "checkerboard")
COLUMNS = {  # what of a run of the study, and how it is written
    "floor W2": (lambda run: run["floor"], "{:.3f}"),
    "field / floor": (lambda run: run["field"] / run["floor"], "{:.2f}"),
    "particles / floor": (lambda run: run["particles"] / run["floor"], "{:.2f}"),
    "fit s": (lambda run: run["fit_seconds"], "{:.0f}"),
    "of it pool s": (lambda run: run["pool_seconds"], "{:.0f}"),
    "regression gap": (lambda run: run["regression_gap"], "{:.3f}"),
    "minibatch gap": (lambda run: run["minibatch_gap"], "{:.3f}"),
}


def split(source, target, seed):
    """Draw samples to learn from and others to judge by."""
    rng = np.random.default_rng(1000 + seed)
    return Split(source(N_TRAIN, rng), target(N_TRAIN, rng), source(N_NEW, rng), target(N_NEW, rng))


def two(target, rng):
    """Draw the target twice."""
    return target(N_NEW, rng), target(N_NEW, rng)


def study(source, target, seed):
    """Return the figures of NSGF's defaults; training, transported, target and floor samples are disjoint draws."""
    drawn, rng = split(source, target, seed), np.random.default_rng(seed)
    begin = contest.now()
    model = NSGF(random_state=seed).fit(drawn.x, drawn.y)
    fit_seconds = contest.now() - begin
    x, y, y_other, y_flow = (
        z[:N_EXACT] for z in (drawn.x_new, drawn.y_new, drawn.y_new[N_EXACT:], target(N_EXACT, rng))
    )
    particles = sinkhorn_flow(x, y_flow, blur=model.blur_, n_steps=model.n_steps, step_size=model.step_size)
    return {
        "seed": seed,
        "floor": metrics.wasserstein(y_other, y),
        "field": metrics.wasserstein(model.transform(x), y),
        "particles": metrics.wasserstein(particles.x[-1], y),
        "fit_seconds": fit_seconds,
        "pool_seconds": model.history_["pool_seconds"],
        "regression_gap": model.report_["regression_gap"],
        "minibatch_gap": model.report_["minibatch_gap"],
    }


def study_table(result):
    """Return the table of the study."""
    found = {row: list(result[f"{row}, study"].values()) for row in LAWS if f"{row}, study" in result}
    columns = {"problem": found}
    for head, (figure, form) in COLUMNS.items():
        columns[head] = page.column([[figure(run) for run in runs] for runs in found.values()], form)
    return {"study": page.table(columns)}


ROWS = {
    word: Row(
        name, functools.partial(split, *laws), functools.partial(two, laws[1]), "mmd2", functools.partial(study, *laws)
    )
    for word, (name, laws) in zip(WORDS, LAWS.items(), strict=True)
}

if __name__ == "__main__":
    contest.run("two_dimensional", ROWS, __doc__, study_table)
