"""Single cells: a held-out time of a time course, and cells of a label that is asked for.

pip install '.[bench]' && pip install --no-deps torchcfm==1.0.7
python docs/benchmarks/cells.py all       all of it: choose, measure, write cells.json and the tables
python docs/benchmarks/cells.py choose    only the parameters of the time course, on the training snapshots
python docs/benchmarks/cells.py times     only the time course, with the parameters of cells.json
python docs/benchmarks/cells.py labels    only the labels
python docs/benchmarks/cells.py           write the tables from the JSON alone
"""

import itertools
import time
from typing import NamedTuple

import data
import numpy as np
import ot
import page
import peers
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nsgf import NSGF, Training, metrics, networks, spread
from nsgf.task import Task

NAME = "cells"
PACKAGES = ("nsgf", "numpy", "torch", "pot", "scikit-learn", "torchcfm", "rdata", "h5py")
N_DRAWS = 50
N_GENES, N_COMPONENTS, N_LABEL_COMPONENTS, KEPT = 1000, 10, 20, 0.8
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
    model = NSGF(
        blur * spread(np.concatenate(list(snapshots.known.values()))),
        batch_size=batch_size,
        max_iter=MAX_ITER,
        training=Training(learning_rate=LEARNING_RATE),
        n_steps=EULER_STEPS,
        random_state=seed,
    )
    peers.fitted(model, snapshots.known)
    return model.transform(snapshots.known[before], t0=before, t1=snapshots.held_out)


def by_ot_cfm(snapshots, seed, sigma, batch_size):
    """Return the previous snapshot, carried to the held-out time by a field between its neighbours."""
    task = Task.of(*(snapshots.known[t] for t in snapshots.neighbours))
    training = Training(learning_rate=LEARNING_RATE, batch_size=batch_size)
    net = networks.build("mlp", task.shape, seed=seed)
    peer = peers.FlowMatching("ot-cfm", task, sigma=sigma).fit(net, MAX_ITER, training, seed)
    return peer.carry(task.source.rows, EULER_STEPS, until=snapshots.fraction)


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
    pairs = (
        (made[rng.choice(len(made), n, replace=False, p=mass)], real[rng.permutation(len(real))[:n]])
        for _ in range(N_DRAWS)
    )
    return mean_distances(pairs, real)


def floor(real, seed):
    """Return W2 and MMD of two halves of the real cells, as means over random draws."""
    rng, n = np.random.default_rng(seed), len(real) // 2
    orders = (rng.permutation(len(real)) for _ in range(N_DRAWS))
    return mean_distances(((real[order[:n]], real[order[n : 2 * n]]) for order in orders), real)


def mean_distances(pairs, real):
    median = float(np.median(ot.dist(real, real, metric="euclidean")))
    lengths = 0.5 * median, median, 2.0 * median  # of the kernel
    found = [(metrics.wasserstein(a, b), metrics.mmd(a, b, lengths)) for a, b in pairs]
    return dict(zip(("w2", "mmd"), np.mean(found, axis=0).tolist(), strict=True))


LEARNT = {"nsgf": by_nsgf, "nsgf, default": by_nsgf, "ot-cfm": by_ot_cfm}
DEFAULT = {"blur": 0.15, "batch_size": 1024}


def choose(expression, hours, held_out, seeds):
    """Return the figures of every choice of parameters at the middle one of the training snapshots, held out in turn.

    The cells of `held_out` play no part in it.
    """
    first, middle, last = sorted(set(np.unique(hours).tolist()) - {held_out})
    inner = fold(expression, hours, [first, last], middle)
    tried = {method: [] for method in GRIDS}
    for method, grid in GRIDS.items():
        for values in itertools.product(*grid.values()):
            options = dict(zip(grid, values, strict=True))
            made = {seed: LEARNT[method](part_of(inner, seed), seed, **options) for seed in seeds}
            w2 = [distances(cells, inner.cells, seed)["w2"] for seed, cells in made.items()]
            tried[method].append({"options": options, "w2": float(np.mean(w2))})
            print(held_out, method, tried[method][-1], flush=True)
    return tried


def best(tried):
    """Return the parameters of the smallest W2."""
    return min(tried, key=lambda one: one["w2"])["options"]


def measure_time(expression, hours, held_out, chosen, seeds):
    """Return the figures of every method at the held-out time, one for each seed."""
    whole = fold(expression, hours, sorted(set(np.unique(hours).tolist()) - {held_out}), held_out)
    runs = []
    for seed in seeds:
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


def measure_labels(seed):
    """Return, for real cells and those that are made, how often the classifier says the label that was asked for."""
    expression, labels = data.pbmc()
    train, test = train_test_split(np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=seed)
    pca = PCA(N_LABEL_COMPONENTS, random_state=0).fit(expression[train])
    seen, unseen = pca.transform(expression[train]), pca.transform(expression[test])
    judge = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)).fit(unseen, labels[test])
    wanted = labels[train]
    expected = "report_|Sinkhorn stopped"  # both are in the table
    model, seconds = peers.fitted(NSGF(random_state=seed), None, seen, y_tgt=wanted, expected=expected)
    made = {"real": seen, "nsgf": model.sample(len(wanted), seed, y=wanted)}
    made["guided"] = model.sample(len(wanted), seed, y=wanted, guidance=2.0)
    made["gaussian"] = gaussian(seen, labels[train], wanted, np.random.default_rng(seed))
    run = {"seconds": seconds, "report": {name: float(value) for name, value in model.report_.items()}}
    run["n_of_label"] = {str(label): int(np.sum(wanted == label)) for label in np.unique(wanted)}
    run["report"]["max_error"] = repr(run["report"]["max_error"])  # JSON has no infinity
    for maker, cells in made.items():
        right = judge.predict(cells) == wanted
        of_label = {str(label): float(right[wanted == label].mean()) for label in np.unique(wanted)}
        run[maker] = {
            "agreement": float(right.mean()),
            "balanced": float(np.mean(list(of_label.values()))),
            "of_label": of_label,
            "w2": metrics.wasserstein(cells, unseen),
            "recall": metrics.precision_recall(unseen, cells).recall,
            "nearer": metrics.memorisation(cells, seen, unseen).nearer,
        }
        print(seed, maker, run[maker], flush=True)
    return run


# %% The tables


def times_table(found):
    """Return the table of one held-out time, and what is to be said of its runs."""
    runs, n = found["runs"], found["n_cells"]
    learnt = [k for k, method in enumerate(NAMES) if method in LEARNT or method == "ot"]
    columns = {"": NAMES.values()}
    for head, form, best in (("W2", "{:.2f}", min), ("MMD", "{:.3f}", min), ("spread", "{:.2f}", None)):
        values = [[run[method].get(head.lower(), 1) for run in runs] for method in NAMES]
        columns[head] = page.column(values, form, best, learnt)
    columns["spread"][0] = "1"  # of the floor
    seconds = {method: page.middle([run["seconds"][method] for run in runs], "{:.0f}") for method in LEARNT}
    said = "; ".join(f"{NAMES[method].removesuffix(CARRIED)}: {fit}" for method, fit in seconds.items())
    ahead = [sum(run["nsgf"][key] < run["ot-cfm"][key] for run in runs) for key in ("w2", "mmd")]
    return (
        f"{n} cells, {n // 2} of them in a comparison.\n\n{page.table(columns)}\n"
        f"NSGF with the chosen parameters is nearer than OT-CFM with {ahead[0]} of {len(runs)} seeds in W2, with\n"
        f"{ahead[1]} in MMD. Seconds of a fit, on a machine that had other work as well. {said}.\n"
    )


def choice_table(chosen):
    """Return the table of the parameters that were chosen."""
    records = []
    for held_out, methods in chosen.items():
        for method, tried in methods.items():
            said, w2 = ", ".join(f"{k} {v:g}" for k, v in best(tried).items()), [one["w2"] for one in tried]
            record = {"t": held_out, "name": NAMES[method].removesuffix(CARRIED), "said": said}
            records.append(record | {"low": min(w2), "high": max(w2)})
    forms = {"held out": "{t} h", "": "{name}", "chosen": "{said}"}
    return page.filled(forms | {"W2 of all choices, middle snapshot": "{low:.2f}–{high:.2f}"}, records)


def labels_tables(runs):
    """Return the tables of all labels together and of each, and what is to be said of the fits."""
    columns = {"": MAKERS.values()}
    for head in ("agreement", "balanced", "W2", "recall", "nearer"):
        columns[head] = page.column([[run[maker][head.lower()] for run in runs] for maker in MAKERS])
    n_of_label = runs[0]["n_of_label"]
    labels = sorted(n_of_label, key=lambda label: -n_of_label[label])
    each = {"": labels, "cells": [n_of_label[label] for label in labels]}
    for head, maker in zip(("real", "NSGF", "guidance 2", "Gaussian"), MAKERS, strict=True):
        each[head] = page.column([[run[maker]["of_label"][label] for run in runs] for label in labels])
    seconds = page.middle([run["seconds"] for run in runs], "{:.0f}")
    gaps = [page.middle([run["report"][gap] for run in runs]) for gap in ("regression_gap", "minibatch_gap")]
    converged = sum(run["report"]["converged"] == 1 for run in runs)
    said = f"Of the fit: {seconds} s, ``regression_gap`` {gaps[0]}, ``minibatch_gap`` {gaps[1]}. Solves of the pool\n"
    said += f"converged in {converged} of {len(runs)} fits; in the others `NSGF` warns (``ConvergenceWarning``).\n"
    return {
        "labels": page.table(columns),
        "each-label": page.table(each),
        "fit": said,
    }


def tables(result):
    times = {f"{held_out}-h": times_table(found) for held_out, found in result["times"].items()}
    return times | {"choice": choice_table(result["choose"])} | labels_tables(result["labels"])


# %% The parts


def choose_all(seeds):
    return {f"{held_out:g}": choose(*data.hsmm(), held_out, seeds) for held_out in HELD_OUT}


def measure_times(seeds):
    found = {}
    for held_out, methods in page.read(NAME)["choose"]["figures"].items():
        chosen = {method: best(tried) for method, tried in methods.items()} | {"nsgf, default": DEFAULT}
        found[held_out] = measure_time(*data.hsmm(), float(held_out), chosen, seeds)
    return found


if __name__ == "__main__":
    jobs = {"choose": (choose_all, range(2)), "times": (measure_times, range(5))}
    jobs["labels"] = page.per_seed(measure_labels), range(5)
    page.run(NAME, jobs, tables, PACKAGES, __doc__)
