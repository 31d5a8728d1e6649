"""Default NSGF on the 2-D toys: W2 to fresh target samples, beside the floor and the network-free particle flow.

python docs/benchmarks/two_dimensional.py          measure, write two_dimensional.json and the page
python docs/benchmarks/two_dimensional.py --page   write the page from the JSON alone
"""

import argparse
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nsgf import NSGF, datasets, metrics, sinkhorn_flow

HERE = Path(__file__).parent
PROBLEMS = {
    "gaussian → 8 gaussians": (datasets.gaussian, datasets.eight_gaussians),
    "8 gaussians → moons": (datasets.eight_gaussians, datasets.moons),
    "gaussian → s-curve": (datasets.gaussian, datasets.s_curve),
    "gaussian → checkerboard": (datasets.gaussian, datasets.checkerboard),
}
N_TRAIN, N_TEST, SEEDS = 10_000, 2000, range(5)
PACKAGES = ("nsgf", "numpy", "scipy", "pot", "torch", "scikit-learn")


def measure(source, target, seed):
    """Return the figures of one fit; training, transported, target and floor samples are all disjoint draws."""
    rng = np.random.default_rng(1000 + seed)
    X_src, X_tgt = source(N_TRAIN, rng), target(N_TRAIN, rng)
    start = time.perf_counter()
    model = NSGF(random_state=seed).fit(X_src, X_tgt)
    fit_seconds = time.perf_counter() - start
    x, y, y_other, y_flow = source(N_TEST, rng), target(N_TEST, rng), target(N_TEST, rng), target(N_TEST, rng)
    start = time.perf_counter()
    carried = model.transform(x)
    transform_seconds = time.perf_counter() - start
    particles = sinkhorn_flow(x, y_flow, blur=model.blur_, n_steps=model.n_steps, step_size=model.step_size)
    return {
        "seed": seed,
        "floor": metrics.wasserstein(y_other, y),
        "field": metrics.wasserstein(carried, y),
        "particles": metrics.wasserstein(particles.x[-1], y),
        "fit_seconds": fit_seconds,
        "pool_seconds": model.history_["pool_seconds"],
        "train_seconds": model.history_["train_seconds"],
        "transform_seconds": transform_seconds,
        "regression_gap": model.report_["regression_gap"],
        "minibatch_gap": model.report_["minibatch_gap"],
        "blur": model.blur_,
        "n_steps": model.n_steps,
    }


def spread_of(values, digits=2):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def page(result):
    """Return the page that shows the result."""
    columns = {
        "problem": None,
        "floor W2": lambda r: (r["floor"], 3),
        "field / floor": lambda r: (r["field"] / r["floor"], 2),
        "particles / floor": lambda r: (r["particles"] / r["floor"], 2),
        "fit s": lambda r: (r["fit_seconds"], 0),
        "of it pool s": lambda r: (r["pool_seconds"], 0),
        "regression gap": lambda r: (r["regression_gap"], 3),
        "minibatch gap": lambda r: (r["minibatch_gap"], 3),
    }
    lines = [
        "Two-dimensional transport",
        "=========================",
        "",
        ".. Written by docs/benchmarks/two_dimensional.py from two_dimensional.json.",
        "",
        f"``NSGF()`` with its default parameters, fitted on {result['n_train']} samples of each side, carries",
        f"{result['n_test']} fresh source samples in {result['n_steps']} function evaluations. W2 is exact; its",
        "*floor* is W2 between two fresh target samples of the same size. *Particles* is the network-free flow of the",
        "same source samples to target samples that are not those of the figure, same blur and steps. Median",
        f"(range) over seeds {result['seeds']}. Below 1 means nearer than two target samples are to each other:",
        "transport that keeps the proportions of its source exactly can have less sampling noise than independent",
        "draws.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
    ]
    lines += [f"   {'* -' if i == 0 else '  -'} {name}" for i, name in enumerate(columns)]
    for problem, runs in result["problems"].items():
        lines.append(f"   * - {problem}")
        for cell in list(columns.values())[1:]:
            lines.append(f"     - {spread_of([cell(r)[0] for r in runs], cell(runs[0])[1])}")
    lines += [
        "",
        f"Machine: {result['machine']}. Versions: "
        + ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        + ".",
        f"Command: ``{result['command']}``.",
        "",
        "Not measured yet: the same figures on a GPU with CuPy, and OT-CFM with the same network and wall-clock.",
        "",
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="only write the page from the JSON")
    path = HERE / "two_dimensional.json"
    if not parser.parse_args().page:
        problems = {}
        for name, (source, target) in PROBLEMS.items():
            problems[name] = [measure(source, target, seed) for seed in SEEDS]
            ratios = [run["field"] / run["floor"] for run in problems[name]]
            seconds = [run["fit_seconds"] for run in problems[name]]
            print(f"{name}: field / floor {spread_of(ratios)}, fit {spread_of(seconds, 0)} s", flush=True)
        result = {
            "command": "python docs/benchmarks/two_dimensional.py",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU, Python {platform.python_version()}",
            "versions": {name: version(name) for name in PACKAGES},
            "seeds": list(SEEDS),
            "n_train": N_TRAIN,
            "n_test": N_TEST,
            "n_steps": problems[name][0]["n_steps"],
            "problems": problems,
        }
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (HERE / "two_dimensional.rst").write_text(page(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
