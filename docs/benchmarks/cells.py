"""Single cells: a held-out time of a time course, and cells of a label that is asked for.

pip install '.[bench]' && pip install --no-deps torchcfm==1.0.7
python docs/benchmarks/cells.py               all of it: choose, measure, write cells.json and the page
python docs/benchmarks/cells.py choose        only the parameters of the time course, on the training snapshots
python docs/benchmarks/cells.py times         only the time course, with the parameters of cells.json
python docs/benchmarks/cells.py labels        only the labels
python docs/benchmarks/cells.py --page        write the page from the JSON alone
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import data
import numpy as np
import ot
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nsgf import NSGF, matching, metrics, ode
from nsgf.networks import MLP
from nsgf.sinkhorn import spread

HERE = Path(__file__).parent
PACKAGES = ("nsgf", "numpy", "torch", "pot", "scikit-learn", "torchcfm", "rdata", "h5py")
SEEDS, N_DRAWS = range(5), 50
N_GENES, N_COMPONENTS, KEPT = 1000, 10, 0.8
HELD_OUT = (24.0, 48.0)
MAX_ITER, LEARNING_RATE, EULER_STEPS = 1000, 2e-3, 10
GRIDS = {
    "nsgf": {"blur": (0.08, 0.15, 0.3), "batch_size": (16, 32, 1024)},
    "ot-cfm": {"sigma": (0.0, 0.1, 0.3), "batch_size": (32, 128, 256)},
}
CARRIED = ", the previous snapshot carried on"
NAMES = {
    "floor": "floor: the other half of the held-out cells",
    "nsgf": f"NSGF{CARRIED}",
    "nsgf, default": "NSGF, blur and batch size of the default",
    "ot": "linear OT interpolation",
    "ot-cfm": f"OT-CFM{CARRIED}",
    "previous": "previous snapshot, unchanged",
    "next": "next snapshot, unchanged",
}
N_LABEL_COMPONENTS = 20
MAKERS = {
    "real": "real cells that the classifier has not seen",
    "nsgf": "NSGF, defaults",
    "guided": "NSGF, guidance 2",
    "gaussian": "a Gaussian of each label",
}


# %% A held-out time


class Fold(NamedTuple):
    """Snapshots of a time course in one space: {time: cells (n, d)} to train on, and the cells of the held-out time."""

    known: dict
    held_out: float
    cells: np.ndarray

    @property
    def neighbours(self):
        """Return the times before and after the held-out one."""
        return max(t for t in self.known if t < self.held_out), min(t for t in self.known if t > self.held_out)

    @property
    def fraction(self):
        """Return how far the held-out time lies on the way from its neighbour before to that after."""
        before, after = self.neighbours
        return (self.held_out - before) / (after - before)


def fold(expression, hours, train, held_out):
    """Return the snapshots in the principal components of the most variable genes, both found on `train` alone."""
    x, rows = np.log1p(expression), np.isin(hours, train)
    genes = np.argsort(x[rows].var(axis=0))[-N_GENES:]
    pca = PCA(N_COMPONENTS, random_state=0).fit(x[rows][:, genes])
    z = pca.transform(x[:, genes])
    return Fold({t: z[hours == t] for t in train}, held_out, z[hours == held_out])


def part_of(snapshots, seed):
    """Return the fold with a random part of the cells of each training snapshot."""
    rng = np.random.default_rng(seed)
    known = {t: x[rng.permutation(len(x))[: round(KEPT * len(x))]] for t, x in snapshots.known.items()}
    return snapshots._replace(known=known)


def by_nsgf(snapshots, seed, blur, batch_size):
    """Return the previous snapshot, carried to the held-out time by a field through all training snapshots."""
    before, _ = snapshots.neighbours
    width = spread(np.concatenate(list(snapshots.known.values())))
    model = NSGF(
        blur * width,
        batch_size=batch_size,
        max_iter=MAX_ITER,
        learning_rate=LEARNING_RATE,
        n_steps=EULER_STEPS,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="report_")
        model.fit(snapshots.known)
    return model.transform(snapshots.known[before], t0=before, t1=snapshots.held_out)


def by_ot_cfm(snapshots, seed, sigma, batch_size):
    """Return the previous snapshot, carried to the held-out time by a field between its neighbours."""
    from torchcfm.conditional_flow_matching import ExactOptimalTransportConditionalFlowMatcher

    x, y = (snapshots.known[t] for t in snapshots.neighbours)
    both = np.concatenate([x, y])
    shift, scale = both.mean(axis=0), spread(both) / both.shape[1] ** 0.5
    x, y = (((z - shift) / scale).astype(np.float32) for z in (x, y))
    matcher = ExactOptimalTransportConditionalFlowMatcher(sigma)

    def draw(rng):
        ends = (torch.from_numpy(z[rng.integers(len(z), size=batch_size)]) for z in (x, y))
        t, x_t, u = matcher.sample_location_and_conditional_flow(*ends)
        return (x_t.numpy(), t.numpy()), u.numpy()

    np.random.seed(seed)  # noqa: NPY002  torchcfm draws from it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MLP(x.shape[1])
        net = matching.train(net, draw, np.random.default_rng(seed), MAX_ITER, LEARNING_RATE).net
    times = np.linspace(0.0, snapshots.fraction, EULER_STEPS + 1).tolist()
    return ode.integrate(lambda z, t: matching.evaluate(net, z, t), x, times) * scale + shift


def by_ot(snapshots):
    """Return points on the lines that the optimal plan of the neighbours draws, and the mass of each."""
    x, y = (snapshots.known[t] for t in snapshots.neighbours)
    plan = ot.emd([], [], ot.dist(x, y))
    i, j = plan.nonzero()
    s = snapshots.fraction
    return (1 - s) * x[i] + s * y[j], plan[i, j]


def distances(made, real, seed, mass=None):
    """Return W2 and MMD of half as many made as real cells to half of the real ones, as means over random draws."""
    rng, n = np.random.default_rng(seed), len(real) // 2
    lengths = kernel_lengths(real)
    found = []
    for _ in range(N_DRAWS):
        some, half = made[rng.choice(len(made), n, replace=False, p=mass)], real[rng.permutation(len(real))[:n]]
        found.append((metrics.wasserstein(some, half), metrics.mmd(some, half, lengths)))
    return dict(zip(("w2", "mmd"), np.mean(found, axis=0).tolist(), strict=True))


def floor(real, seed):
    """Return W2 and MMD of two halves of the real cells, as means over random draws."""
    rng, n, lengths = np.random.default_rng(seed), len(real) // 2, kernel_lengths(real)
    found = []
    for _ in range(N_DRAWS):
        order = rng.permutation(len(real))
        a, b = real[order[:n]], real[order[n : 2 * n]]
        found.append((metrics.wasserstein(a, b), metrics.mmd(a, b, lengths)))
    return dict(zip(("w2", "mmd"), np.mean(found, axis=0).tolist(), strict=True))


def kernel_lengths(real):
    """Return half, once and twice the median distance of the real cells."""
    median = float(np.median(ot.dist(real, real, metric="euclidean")))
    return 0.5 * median, median, 2.0 * median


LEARNT = {"nsgf": by_nsgf, "nsgf, default": by_nsgf, "ot-cfm": by_ot_cfm}
DEFAULT = {"blur": 0.15, "batch_size": 1024}


def choose(expression, hours, held_out):
    """Return the figures of every choice of parameters at the middle one of the training snapshots, held out in turn.

    The cells of `held_out` play no part in it.
    """
    first, middle, last = sorted(set(np.unique(hours).tolist()) - {held_out})
    inner = fold(expression, hours, [first, last], middle)
    tried = {}
    for method, grid in GRIDS.items():
        tried[method] = []
        for values in itertools.product(*grid.values()):
            options = dict(zip(grid, values, strict=True))
            figures = [distances(LEARNT[method](part_of(inner, s), s, **options), inner.cells, s) for s in range(2)]
            tried[method].append({"options": options, "w2": float(np.mean([figure["w2"] for figure in figures]))})
            print(held_out, method, tried[method][-1], flush=True)
    return tried


def best(tried):
    """Return the parameters of the smallest W2."""
    return min(tried, key=lambda one: one["w2"])["options"]


def measure_time(expression, hours, held_out, chosen):
    """Return the figures of every method at the held-out time, one for each seed."""
    whole = fold(expression, hours, sorted(set(np.unique(hours).tolist()) - {held_out}), held_out)
    runs = []
    for seed in SEEDS:
        snapshots = part_of(whole, seed)
        before, after = snapshots.neighbours
        made = {"previous": (snapshots.known[before],), "next": (snapshots.known[after],), "ot": by_ot(snapshots)}
        seconds = {}
        for method, learn in LEARNT.items():
            start = time.perf_counter()
            made[method] = (learn(snapshots, seed, **chosen[method]),)
            seconds[method] = time.perf_counter() - start
        run = {"floor": floor(whole.cells, seed), "seconds": seconds}
        for method, (cells, *mass) in made.items():
            run[method] = distances(cells, whole.cells, seed, *mass)
            run[method]["spread"] = spread(cells, *mass) / spread(whole.cells)
        runs.append(run)
        print(held_out, {k: v.get("w2") for k, v in run.items()}, flush=True)
    return {"n_cells": len(whole.cells), "fraction": whole.fraction, "runs": runs}


# %% Labels


def gaussian(x, labels, wanted, rng):
    """Return cells of the wanted labels from a Gaussian of each, its covariance shrunk."""
    laws = {label: LedoitWolf().fit(x[labels == label]) for label in np.unique(labels)}
    return np.array([rng.multivariate_normal(laws[k].location_, laws[k].covariance_) for k in wanted])


def measure_labels(expression, labels, seed):
    """Return, for real cells and those that are made, how often the classifier says the label that was asked for."""
    train, test = train_test_split(np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=seed)
    pca = PCA(N_LABEL_COMPONENTS, random_state=0).fit(expression[train])
    seen, unseen = pca.transform(expression[train]), pca.transform(expression[test])
    judge = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)).fit(unseen, labels[test])
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="report_|Sinkhorn stopped")  # both are in the table
        model = NSGF(random_state=seed).fit(None, seen, y_tgt=labels[train])
    seconds = time.perf_counter() - start
    wanted = labels[train]
    made = {"real": seen, "nsgf": model.sample(len(wanted), seed, y=wanted)}
    made["guided"] = model.set_params(guidance=2.0).sample(len(wanted), seed, y=wanted)
    made["gaussian"] = gaussian(seen, labels[train], wanted, np.random.default_rng(seed))
    run = {"seconds": seconds, "report": {name: float(value) for name, value in model.report_.items()}}
    run["n_of_label"] = {str(label): int(np.sum(wanted == label)) for label in np.unique(wanted)}
    run["report"]["max_error"] = repr(run["report"]["max_error"])  # JSON has no infinity
    for maker, cells in made.items():
        right = judge.predict(cells) == wanted
        run[maker] = {
            "agreement": float(right.mean()),
            "balanced": float(np.mean([right[wanted == label].mean() for label in np.unique(wanted)])),
            "of_label": {str(label): float(right[wanted == label].mean()) for label in np.unique(wanted)},
            "w2": metrics.wasserstein(cells, unseen),
            "recall": metrics.precision_recall(unseen, cells).recall,
            "nearer": metrics.memorisation(cells, seen, unseen).nearer,
        }
        print(seed, maker, {k: v for k, v in run[maker].items() if k != "of_label"}, flush=True)
    return run


# %% The page


def spread_of(values, digits=2):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(head, rows):
    """Return the lines of a table, each cell text."""
    lines = ["", ".. list-table::", "   :header-rows: 1", ""]
    for row in (head, *rows):
        lines += [f"   {'  -' if i else '* -'} {cell}".rstrip() for i, cell in enumerate(row)]
    return [*lines, ""]


def heading(text, line):
    return [text, len(text) * line, ""]


def page(result):
    """Return the page that shows the result."""
    return "\n".join(
        [
            *heading("Single cells", "="),
            ".. Written by docs/benchmarks/cells.py from cells.json.",
            "",
            "Two questions that biologists ask, on measured cells: what a population looked like at a time at which",
            "nobody measured it, and what cells of a given type look like. Medians (ranges) over seeds",
            f"{', '.join(str(seed) for seed in SEEDS)}.",
            "",
            *times_section(result),
            *labels_section(result),
            f"Machine: {result['machine']}. Versions: "
            + ", ".join(f"{k} {v}" for k, v in result["versions"].items())
            + ".",
            "Command: ``python docs/benchmarks/cells.py``.",
            "",
        ]
    )


def times_section(result):
    """Return the lines on the time course."""
    lines = [
        *heading("A time that was held out", "-"),
        "Human skeletal muscle myoblasts that differentiate (Trapnell et al. 2014; the Bioconductor package",
        "HSMMSingleCell): 69, 74, 79 and 49 cells at 0, 24, 48 and 72 h after the change of medium. The logarithm of",
        f"one plus the expression, the {N_GENES} most variable genes, and {N_COMPONENTS} principal components: genes",
        "and components are found on the three snapshots that are left, never on the one held out. No cell is left",
        "out, not even the contaminating ones of the original study.",
        "",
        "`NSGF` learns one field through the three snapshots and carries the one before to the held-out time. OT-CFM",
        "(torchcfm) learns the field between the two neighbours, with the same network, optimiser, learning rate and",
        f"{MAX_ITER} steps, and follows it in {EULER_STEPS} Euler steps; NSGF takes {EULER_STEPS} an interval. Linear",
        "OT interpolation has no network: points on the lines of the exact plan (POT) between the neighbours, drawn by",
        "their mass. None of the three is told anything but the cells of the other times.",
        "",
        f"Every seed trains on {KEPT:.0%} of the cells of each snapshot, drawn without replacement, so the ranges hold",
        "the chance of which cells were sampled, also for methods without a seed of their own. W2 and MMD compare half",
        f"as many made cells as were held out to half of those held out, as the mean over {N_DRAWS} draws; the floor",
        "compares the two halves of the held-out cells, at the same sizes. W2 is in the units of the components.",
        "*Spread* is that of the made cells over that of the held-out ones.",
        "",
    ]
    for held_out, found in result["times"].items():
        runs, n = found["runs"], found["n_cells"]
        lines += heading(f"{held_out} h held out", "~")
        lines.append(f"{n} cells, {n // 2} of them in a comparison.")
        rows = []
        for method, name in NAMES.items():
            each = [run[method] for run in runs]
            width = spread_of([one["spread"] for one in each]) if "spread" in each[0] else "1"
            rows.append(
                [name, spread_of([one["w2"] for one in each]), spread_of([one["mmd"] for one in each], 3), width]
            )
        lines += table(["", "W2", "MMD", "spread"], rows)
        seconds = {method: spread_of([run["seconds"][method] for run in runs], 0) for method in LEARNT}
        said = "; ".join(f"{NAMES[method].removesuffix(CARRIED)}: {each}" for method, each in seconds.items())
        lines += [f"Seconds of a fit, on a machine that had other work as well. {said}.", ""]
    return [*lines, *choice_section(result), *READING]


def choice_section(result):
    """Return the lines on how parameters were chosen."""
    lines = [
        *heading("How the parameters were chosen", "~"),
        "On the training snapshots alone. Of the three, the middle one was held out in turn, and genes, components and",
        "fields were learnt anew from the first and the last; the parameters with the smallest W2 to the middle one,",
        "mean of seeds 0 and 1, were taken. The held-out cells of the tables above had no part in it. Both methods had",
        "nine choices; the blur is a fraction of the spread of the training cells.",
    ]
    rows = []
    for held_out, methods in result["choose"].items():
        for method, tried in methods.items():
            said = ", ".join(f"{k} {v:g}" for k, v in best(tried).items())
            figures = [one["w2"] for one in tried]
            rows.append(
                [f"{held_out} h", NAMES[method].removesuffix(CARRIED), said, f"{min(figures):.2f}–{max(figures):.2f}"]
            )
    return lines + table(["held out", "", "chosen", "W2 of all choices, middle snapshot"], rows)


READING = [
    *heading("Reading", "~"),
    "In W2, NSGF with the chosen parameters is nearest to the held-out cells at both times, and nearer than OT-CFM",
    "with each of the seeds. In MMD it is no better: at 24 h all others that interpolate have a smaller median, and at",
    "48 h the ranges lie over each other. All of them beat the better neighbour. At 24 h all stay far from the floor:",
    "what cells did in their first day does not seem to lie on the way between 0 and 48 h.",
    "",
    "The lead in W2 comes from the batch size, and part of it may be no merit. The smallest batch of the grid was",
    "chosen both times. Minibatches of 16 cells blend partners, so that carried cells have less spread; W2 between",
    "samples of some forty cells in ten dimensions favours clouds that are a little too narrow. With whole snapshots",
    "as minibatches, as by default for so few cells, NSGF is no better than OT-CFM in W2 and takes longer to fit.",
    "",
]


def labels_section(result):
    """Return the lines on cells of a label."""
    runs, rows = result["labels"], []
    for maker, name in MAKERS.items():
        each = [run[maker] for run in runs]
        cells = [spread_of([one[key] for one in each]) for key in ("agreement", "balanced", "w2", "recall", "nearer")]
        rows.append([name, *cells])
    labels = sorted(runs[0]["real"]["of_label"], key=lambda label: -runs[0]["n_of_label"][label])
    each_label = [
        [label, str(runs[0]["n_of_label"][label])]
        + [spread_of([run[maker]["of_label"][label] for run in runs]) for maker in MAKERS]
        for label in labels
    ]
    gaps = {gap: spread_of([run["report"][gap] for run in runs]) for gap in ("regression_gap", "minibatch_gap")}
    return [
        *heading("Cells of a label", "-"),
        "700 blood cells with ten labels (PBMC 68k, reduced, as scanpy ships it). Half of them, stratified, train",
        "``NSGF().fit(None, X, y_tgt=labels)``, every parameter at its default, on the first",
        f"{N_LABEL_COMPONENTS} principal components of that half. The other half trains a logistic regression, which",
        "then judges as many made cells as there are training cells, label by label: *agreement* is how often it says",
        "the label that was asked for, *balanced* the mean of that over the labels. The real cells that it judges are",
        "those of the first half, which it has not seen. W2 and recall are to the second half; *nearer* is the",
        "probability that a made cell lies nearer to the training cells than a held-out one, ½ for a model that has",
        "not memorised them. The real cells are the training cells, so that their *nearer* is 1.",
        *table(["", "agreement", "balanced", "W2", "recall", "nearer"], rows),
        "Agreement above that of real cells is no merit: it means that made cells are more typical of their label than",
        "real ones are, which often lie among those of another. A Gaussian with a shrunk covariance for each label",
        "(scikit-learn's Ledoit-Wolf) is the simple way to do the same.",
        "",
        "By label, with the number of training cells of seed 0:",
        *table(["", "cells", *("real", "NSGF", "guidance 2", "Gaussian")], each_label),
        f"Of the fit: {spread_of([run['seconds'] for run in runs], 0)} s, ``regression_gap`` {gaps['regression_gap']},",
        f"``minibatch_gap`` {gaps['minibatch_gap']}. Solves of the pool converged in "
        f"{sum(run['report']['converged'] == 1 for run in runs)} of {len(runs)} fits;",
        "in the others `NSGF` warns (``ConvergenceWarning``).",
        "",
        *READING_LABELS,
    ]


READING_LABELS = [
    "NSGF makes cells that are judged right more often than real ones and lie as near to held-out cells as to those of",
    "the training, but it loses variety: its recall is below that of real cells and of the Gaussians, and a W2 to the",
    "held-out cells below that of real cells is the same narrowness. Of the rare labels, with ten training cells or",
    "fewer, memory T cells are made less well than by the Gaussians, and four naive T cells are too few for any.",
    "A guidance of 2 raises the agreement a little at the price of the cells themselves: they move outwards, and a few",
    "run far away, which is what W2 shows. It is not to be recommended for data of this kind.",
    "",
]


PARTS = ("choose", "times", "labels")


def measure(part, result):
    """Put the figures of one part into the result."""
    if part == "labels":
        x, labels = data.pbmc()
        result["labels"] = [measure_labels(x, labels, seed) for seed in SEEDS]
        return
    expression, hours = data.hsmm()
    for held_out in HELD_OUT:
        if part == "choose":
            result.setdefault("choose", {})[f"{held_out:g}"] = choose(expression, hours, held_out)
        else:
            chosen = {method: best(tried) for method, tried in result["choose"][f"{held_out:g}"].items()}
            chosen["nsgf, default"] = DEFAULT
            found = measure_time(expression, hours, held_out, chosen)
            result.setdefault("times", {})[f"{held_out:g}"] = found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; all by default")
    parser.add_argument("--page", action="store_true", help="only write the page from the JSON")
    arguments, path = parser.parse_args(), HERE / "cells.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    for part in () if arguments.page else arguments.parts or PARTS:
        measure(part, result)
        result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, no GPU, Python {platform.python_version()}"
        result["versions"] = {name: version(name) for name in PACKAGES}
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (HERE / "cells.rst").write_text(page(result))


if __name__ == "__main__":
    main()
