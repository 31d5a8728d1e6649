"""Default NSGF on the 2-D toys: W2 to fresh target samples, beside the floor and the network-free particle flow.

python docs/benchmarks/two_dimensional.py all    measure, and write two_dimensional.json and the table
python docs/benchmarks/two_dimensional.py        write the table from the JSON alone
"""

import time

import numpy as np
import page

from nsgf import NSGF, datasets, metrics, sinkhorn_flow

NAME = "two_dimensional"
PROBLEMS = {
    "gaussian → 8 gaussians": (datasets.gaussian, datasets.eight_gaussians),
    "8 gaussians → moons": (datasets.eight_gaussians, datasets.moons),
    "gaussian → s-curve": (datasets.gaussian, datasets.s_curve),
    "gaussian → checkerboard": (datasets.gaussian, datasets.checkerboard),
}
N_TRAIN, N_TEST, SEEDS = 10_000, 2000, range(5)
PACKAGES = ("nsgf", "numpy", "scipy", "pot", "torch", "scikit-learn")
COLUMNS = {  # what of a run, and how it is written
    "floor W2": (lambda run: run["floor"], "{:.3f}"),
    "field / floor": (lambda run: run["field"] / run["floor"], "{:.2f}"),
    "particles / floor": (lambda run: run["particles"] / run["floor"], "{:.2f}"),
    "fit s": (lambda run: run["fit_seconds"], "{:.0f}"),
    "of it pool s": (lambda run: run["pool_seconds"], "{:.0f}"),
    "regression gap": (lambda run: run["regression_gap"], "{:.3f}"),
    "minibatch gap": (lambda run: run["minibatch_gap"], "{:.3f}"),
}


def measure(problem, seed):
    """Return the figures of one fit; training, transported, target and floor samples are all disjoint draws."""
    source, target = PROBLEMS[problem]
    rng = np.random.default_rng(1000 + seed)
    X_src, X_tgt = source(N_TRAIN, rng), target(N_TRAIN, rng)
    start = time.perf_counter()
    model = NSGF(random_state=seed).fit(X_src, X_tgt)
    fit_seconds = time.perf_counter() - start
    x, y, y_other, y_flow = source(N_TEST, rng), target(N_TEST, rng), target(N_TEST, rng), target(N_TEST, rng)
    particles = sinkhorn_flow(x, y_flow, blur=model.blur_, n_steps=model.n_steps, step_size=model.step_size)
    return {
        "seed": seed,
        "n_train": N_TRAIN,
        "n_test": N_TEST,
        "floor": metrics.wasserstein(y_other, y),
        "field": metrics.wasserstein(model.transform(x), y),
        "particles": metrics.wasserstein(particles.x[-1], y),
        "fit_seconds": fit_seconds,
        "pool_seconds": model.history_["pool_seconds"],
        "train_seconds": model.history_["train_seconds"],
        "regression_gap": model.report_["regression_gap"],
        "minibatch_gap": model.report_["minibatch_gap"],
        "blur": model.blur_,
        "n_steps": model.n_steps,
    }


def tables(result):
    columns = {"problem": result}
    for head, (figure, form) in COLUMNS.items():
        columns[head] = page.column([[figure(run) for run in runs] for runs in result.values()], form)
    return {"figures": page.table(columns)}


if __name__ == "__main__":
    jobs = {problem: (page.per_seed(measure, problem), SEEDS) for problem in PROBLEMS}
    page.run(NAME, jobs, tables, PACKAGES, __doc__)
