"""Head to head: our estimators and their peers on one network and the same seconds; what two pages share.

A row draws samples to learn from and others to judge by. A method learns, once for all numbers of evaluations where it
can, and carries the new samples. Each run (row, seconds, method, seed) is merged into the result file when it is done,
so that rows can be measured in pieces, by several processes side by side; a command that was cut short goes on where it
is given again.

On one thread, seconds are processor time, which other work on the machine disturbs least; on more, the wall-clock.
Steps are timed in a short run before, and as many are trained as the seconds then hold.
"""

import argparse
import contextlib
import copy
import fcntl
import functools
import itertools
import json
import os
import platform
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import page
import peers
from scipy.spatial.distance import pdist
from sklearn.ensemble import ExtraTreesClassifier

import nsgf
from nsgf import Training, metrics, networks, ode, spread
from nsgf.task import Task

PACKAGES = ("nsgf", "numpy", "scipy", "pot", "torch", "scikit-learn", "torchcfm")
SEEDS, SECONDS, DEFAULTS = range(5), (30, 120), "defaults"
N_EVALUATIONS, JUDGED = (1, 2, 5, 10, 100), (1, 2, 5)
N_FLOORS, SEARCH_SEED, SEARCH_SECONDS = 11, 1000, 15.0
FEW = 2000  # rows of each sample, at most, for the figures that take a time quadratic in them
MAPPED = {"EMDTransport": 4096, "SinkhornTransport": 2048}  # rows of each sample, at most: what the seconds allow
JUDGE = ExtraTreesClassifier(100, min_samples_leaf=3, random_state=0)  # boosted trees see as much in 20 times the time
FIGURES = {  # name of a figure: head of its column, how it is written, its factor, and what is best
    "sliced": ("sliced W2", "{:.3g}", 1, min),
    "mmd2": ("MMD² × 1000", "{:.2f}", 1000, min),
    "precision": ("precision", "{:.2f}", 1, max),
    "recall": ("recall", "{:.2f}", 1, max),
    "deviation": ("deviation", "{:.3f}", 1, 1.0),
    "told": ("told apart", "{:.3f}", 1, 0.5),
    "nearer": ("nearer", "{:.2f}", 1, 0.5),
}
VERDICTS = ("sliced", "mmd2", "told", "both")  # "both" is the smaller one of precision and recall
HEADS = {name: head for name, (head, *_) in FIGURES.items()} | {"both": "the smaller of precision and recall"}


# %% What is carried where


class Split(NamedTuple):
    """Samples to learn from and samples to judge by, by rows; the sources are None where they are noise."""

    x: np.ndarray | None
    y: np.ndarray
    x_new: np.ndarray | None
    y_new: np.ndarray


class Row(NamedTuple):
    """One row of the comparison.

    Attributes
    ----------
    name : str
    split : callable
        Draws samples to learn from and others to judge by, from a seed.
    real : callable
        Draws two samples that no method made, of the size that is judged by, from a Generator.
    criterion : str
        The figure by which settings of the peers and kinds of steps are chosen. In many dimensions MMD² does not do: it
        is small, too, where each sample lies off the data and their law is about right.
    study : callable, optional
        What the page has of this row beside, from a seed: figures by their names.
    """

    name: str
    split: Callable[[int], Split]
    real: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]
    criterion: str
    study: Callable[[int], dict] | None = None


def halves(z, rng):
    """Return two disjoint random halves of the rows, of one size."""
    z = rng.permutation(z)
    return z[: len(z) // 2], z[len(z) // 2 : 2 * (len(z) // 2)]


# %% Methods: (split, seconds or None, seed, settings) → Attempts


class Attempt(NamedTuple):
    """What was learnt: ways to carry the first n new samples by so many evaluations, one of which is to be chosen."""

    n_evaluations: int
    ways: dict[str, Callable[[int], np.ndarray]]
    seconds: float
    n_iter: int


def now():
    """Return the time on the clock of the budget."""
    return time.process_time() if os.environ.get("OMP_NUM_THREADS") == "1" else time.perf_counter()


def start(task, split, n, seed):
    """Return the first n new points of the source, in the task's units."""
    if split.x_new is None:
        return task.draw(n, None, np.random.default_rng([1, seed]))[0]  # other noise than any fit has seen
    return task.frame.to_unit(split.x_new[:n])


def steps_within(seconds, peer, net, training, n_timed=60):
    """Return how many steps of a peer's training the seconds hold."""
    net = copy.deepcopy(net)
    for n_iter in (5, n_timed):
        begin = now()
        peer.fit(net, n_iter, training, 0)
        spent = now() - begin
    return max(int(seconds / spent * n_timed), 1)


def ways_of(peer, split, n_evaluations, seed):
    """Return how a field can be followed by so many evaluations: all kinds of steps, but at many the best one only."""

    def carry(step, n):
        z = peer.follow(start(peer.task, split, n, seed), n_evaluations, step)
        return peer.task.frame.to_data(z)

    steps = {1: (ode.euler,), 100: (ode.midpoint,)}.get(n_evaluations, (ode.euler, ode.midpoint, ode.heun))
    return {step.__name__: functools.partial(carry, step) for step in steps}


def trained(peer, net, seconds, seed, settings):
    """Return the peer, trained for about those seconds, and how many it took."""
    training = Training(learning_rate=settings["learning_rate"], batch_size=settings["batch_size"])
    n_iter = steps_within(seconds, peer, net, training)
    begin = now()
    return peer.fit(net, n_iter, training, seed), now() - begin


def by_flow_matching(kind, split, seconds, seed, settings):
    """Yield the attempts of FM, OT-CFM or SB-CFM: one field, followed by any number of evaluations."""
    task = Task.of(split.x, split.y)
    peer = peers.FlowMatching(kind, task, sigma=settings["sigma"])
    peer, spent = trained(peer, networks.build("mlp", task.shape, seed=seed), seconds, seed, settings)
    yield from followed(peer, split, spent, len(peer.loss), seed)


def by_reflow(split, seconds, seed, settings, n_pairs=10_000):
    """Yield the attempts of reflow: half of the seconds for FM, the others for pairs and a field of them."""
    task = Task.of(split.x, split.y)
    first = peers.FlowMatching("fm", task, sigma=settings["sigma"])
    first, spent = trained(first, networks.build("mlp", task.shape, seed=seed), seconds / 2, seed, settings)
    begin = now()
    second, net = peers.rectified(first, n_pairs, np.random.default_rng(seed))
    spent += now() - begin
    second, more = trained(second, net, max(seconds - spent, seconds / 4), seed, settings)
    yield from followed(second, split, spent + more, len(first.loss) + len(second.loss), seed)


def followed(peer, split, seconds, n_iter, seed):
    for n in N_EVALUATIONS:
        yield Attempt(n, ways_of(peer, split, n, seed), seconds, n_iter)


def by_map(kind, split, seconds, seed, settings):
    """Yield the attempt of a transport of POT: the barycentric map of a plan, and new rows moved as the nearest."""
    import ot.da

    rng, begin = np.random.default_rng(seed), now()
    task = Task.of(split.x, split.y)
    x, y = task.frame.to_data(task.draw(MAPPED[kind], None, rng)[0], 0.0) if split.x is None else split.x, split.y
    x, y = (z[rng.permutation(len(z))[: MAPPED[kind]]] for z in (x, y))
    moved = getattr(ot.da, kind)(**settings).fit(Xs=x, Xt=y)
    spent = now() - begin

    def carry(n):
        new = task.frame.to_data(start(task, split, n, seed), 0.0) if split.x_new is None else split.x_new[:n]
        return moved.transform(Xs=new, batch_size=8192)  # it divides the plan anew for each batch

    yield Attempt(1, {"map": carry}, spent, 0)


class Leaf(NamedTuple):
    """An estimator of ours, by its name, and what it is told for each number of evaluations.

    It is fitted once with the parameters `fit`, or anew with those of each number where these are None.
    """

    kind: str
    fit: dict | None
    at: dict[int, dict]

    def attempts(self, split, seconds, seed, settings):
        """Yield the attempts, each fit within the seconds, or with its default length where they are None."""
        if not hasattr(nsgf, self.kind):
            raise ImportError(f"this nsgf has no {self.kind}")
        model = None
        for n, parameters in self.at.items():
            if model is None or self.fit is None:
                chosen = parameters if self.fit is None else self.fit
                model = getattr(nsgf, self.kind)(random_state=seed, **chosen)
                model, spent = fitted(model, split, seconds)
            told = copy.copy(model).set_params(**parameters)
            yield Attempt(n, {"": functools.partial(made_by, told, split, seed)}, spent, getattr(model, "n_iter_", 0))


def made_by(model, split, seed, n):
    return model.sample(n, seed) if split.x_new is None else model.transform(split.x_new[:n])


def fitted(model, split, seconds):
    """Return a model of ours, fitted within the seconds, and those that it took."""
    key = type(model), getattr(model, "n_steps", None), split.y.shape
    if key not in TIMED:
        TIMED[key] = timed(model, split)
    if seconds is not None and hasattr(model, "max_iter"):
        rest, step = TIMED[key]
        model = model.set_params(max_iter=max(int((seconds - rest) / step), N_TIMED))
    begin = now()
    return model.fit(split.x, split.y), now() - begin


def timed(model, split):
    """Return the seconds of a fit that do not grow with the steps of the optimiser, and those of a step."""
    for n in (1, N_TIMED):  # in the first, the solver is compiled
        short = copy.copy(model).set_params(**({"max_iter": n} if hasattr(model, "max_iter") else {}))
        begin, wall = now(), time.perf_counter()
        short.fit(split.x, split.y)
        spent, wall = now() - begin, time.perf_counter() - wall
    history = getattr(short, "history_", {})
    training = sum(s for name, s in history.items() if name.endswith("train_seconds"))  # of the clock
    steps = spent * training / wall if training else spent
    return spent - steps, steps / N_TIMED


N_TIMED, TIMED = 200, {}
OURS = {
    "NSGF": Leaf("NSGF", {}, {n: {"n_steps": n} for n in N_EVALUATIONS}).attempts,
    "NSGF, fitted for each": Leaf(
        "NSGF", None, {n: {"n_steps": n, "step_size": min(1.0, 5 / n)} for n in (1, 2, 10)}
    ).attempts,
    "NSGF++": Leaf("NSGFPlusPlus", {}, {n: {"n_steps": n - 1} for n in N_EVALUATIONS[1:]}).attempts,
    "WFlow": Leaf("WFlow", {}, {1: {}}).attempts,
    "SinkhornFlow": Leaf("SinkhornFlow", None, {n: {"n_steps": n} for n in (1, 2, 5, 10)}).attempts,
}
PEERS = {
    "OT-CFM": functools.partial(by_flow_matching, "ot-cfm"),
    "FM": functools.partial(by_flow_matching, "fm"),
    "SB-CFM": functools.partial(by_flow_matching, "sb-cfm"),
    "reflow": by_reflow,
    "EMDTransport": functools.partial(by_map, "EMDTransport"),
    "SinkhornTransport": functools.partial(by_map, "SinkhornTransport"),
}
METHODS = OURS | PEERS
LEARNING = {"learning_rate": (5e-3, 2e-3), "batch_size": (256, 128)}
GRIDS = {  # the first values stand until a search has found better ones; each is then tried beside the best others
    "OT-CFM": LEARNING | {"sigma": (0.0, 0.1)},
    "FM": LEARNING | {"sigma": (0.0, 0.1)},
    "SB-CFM": LEARNING | {"sigma": (0.3, 0.1, 1.0)},
    "SinkhornTransport": {"reg_e": (0.03, 0.1, 0.01, 0.003), "norm": ("max",), "max_iter": (200,)},
}


# %% Figures


def figures(made, real, seen=None):
    """Return how far made samples are from real ones, and those seen if any; of FEW rows where all take too long."""
    a, b = made[:FEW], real[:FEW]
    precision, recall = metrics.precision_recall(b, a)
    return {
        "sliced": metrics.sliced_wasserstein(made, real),
        "mmd2": mmd2(a, b),
        "precision": precision,
        "recall": recall,
        "deviation": spread(made) / spread(real),
        "told": metrics.classifier_two_sample(a, b, JUDGE, n_folds=2).accuracy,
        "nearer": 0.5 if seen is None else metrics.memorisation(a, seen, b).nearer,
    }


def mmd2(made, real):
    """Return the unbiased MMD², of kernels that depend on the real samples alone."""
    a, b, median = made, real, float(np.median(pdist(real)))
    return metrics.two_sample_test(a, b, lengths=(median / 2, median, 2 * median), n_permutations=1).statistic


def both(made, real):
    """Return the smaller one of precision and recall, negative."""
    return -min(metrics.precision_recall(real, made))


CRITERIA = {"mmd2": mmd2, "both": both}  # what is best where it is least


def best_way(attempt, criterion, real):
    """Return the name of the way that comes nearest, where there is a choice."""
    if len(attempt.ways) == 1:
        return next(iter(attempt.ways))
    return min(attempt.ways, key=lambda way: CRITERIA[criterion](attempt.ways[way](len(real)), real))


def measure(method, split, criterion, seconds, seed, settings):
    """Return the record of one run: lists with an entry for each number of evaluations."""
    warnings.simplefilter("ignore")  # of fits and plans that the figures judge
    records = []
    for attempt in METHODS[method](split, seconds, seed, settings):
        way = best_way(attempt, criterion, split.y_new[:FEW])
        begin = time.perf_counter()
        made = np.asarray(attempt.ways[way](len(split.y_new)))
        record = {
            "evaluations": attempt.n_evaluations,
            "way": way,
            "seconds": attempt.seconds,
            "n_iter": attempt.n_iter,
        }
        record |= {"carry_seconds": time.perf_counter() - begin, **figures(made, split.y_new, split.y)}
        records.append({key: shorter(value) for key, value in record.items()})
        print(method, seed, records[-1], flush=True)
    return {key: [record[key] for record in records] for key in records[0]}


def shorter(value):
    """Return a number with four digits."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def floor(row):
    """Return the figures of real samples against other real ones of the same size, a list of draws each."""
    draws = [figures(*row.real(np.random.default_rng(seed))) for seed in range(N_FLOORS)]
    return {key: [shorter(draw[key]) for draw in draws] for key in FIGURES}


def search(row, method, seconds):
    """Yield settings of a method, and what they lose by the row's criterion, as a mean over the numbers of evaluations.

    One setting at a time is changed. The split is none of those that are judged.
    """
    grid, split = GRIDS[method], row.split(SEARCH_SEED)
    best, least, tried = {name: values[0] for name, values in grid.items()}, None, []
    for name, values in grid.items():
        for value in values:
            settings = best | {name: value}
            if settings not in tried:
                tried.append(settings)
                record = measure(method, split, row.criterion, seconds, SEARCH_SEED, settings)
                found = statistics.mean(itertools.chain(*(losses([record], n, row.criterion) for n in JUDGED)))
                yield {"settings": settings, "lost": shorter(found)}
                if least is None or found < least:
                    best, least = settings, found


def settings_of(result, row, method):
    """Return the settings of a method that a search on this row found best, or the first ones."""
    method = "FM" if method == "reflow" else method
    tried = result.get(f"{row}, search, {method}")
    return settings_in(tried["figures"]) if tried else {key: values[0] for key, values in GRIDS.get(method, {}).items()}


def settings_in(tried):
    """Return the best settings of those that were tried."""
    return min(tried, key=lambda one: one["lost"])["settings"]


# %% The result file


@contextlib.contextmanager
def alone():
    """Wait until no other process is writing here."""
    folder = os.open(page.HERE, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    yield
    os.close(folder)


def here():
    """Return where this run is measured."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU, Python {platform.python_version()}",
        "versions": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
    }


def is_measured(name, part, seed):
    """Whether a result file has a run of this part with that seed, measured here."""
    found = page.read(name).get(part, {})
    return here().items() <= found.items() and str(seed) in found["figures"]


def merge(name, part, found, seeds, command):
    """Put figures into a part of a result file, beside those of other seeds.

    What was measured on another machine or with other versions is dropped.
    """
    place = {**here(), "command": command}
    with alone():
        result = page.read(name)
        before = result.get(part, {})
        if isinstance(found, dict) and place.items() <= before.items():
            found, seeds = before["figures"] | found, sorted({*before["seeds"], *seeds})
        result[part] = {**place, "seeds": list(seeds), "figures": found}
        path = page.HERE / f"{name}.json"
        path.with_suffix(".part").write_text(lines(result) + "\n")
        path.with_suffix(".part").replace(path)


def lines(value, depth=3):
    """Return JSON with one run a line."""
    if not (depth and isinstance(value, dict)):
        return json.dumps(value, ensure_ascii=False)
    entries = (
        f"{' ' * (4 - depth)}{json.dumps(key, ensure_ascii=False)}: {lines(v, depth - 1)}" for key, v in value.items()
    )
    return "{\n" + ",\n".join(entries) + f"\n{' ' * (3 - depth)}}}"


# %% Tables


def figure_at(record, n, figure):
    """Return a figure of a run at n evaluations, or None; a map that needs fewer stands at all numbers above."""
    evaluations = record["evaluations"]
    if n not in evaluations and (len(evaluations) > 1 or evaluations[0] > n):
        return None
    k = evaluations.index(n) if n in evaluations else 0
    return min(record["precision"][k], record["recall"][k]) if figure == "both" else record[figure][k]


def runs_of(result, row, budget, n):
    """Return {method: its runs} of those that have figures at n evaluations."""
    found = {method: list(result.get(f"{row}, {budget}, {method}", {}).values()) for method in METHODS}
    return {m: runs for m, runs in found.items() if runs and figure_at(runs[0], n, "sliced") is not None}


def losses(runs, n, figure):
    """Return the figures of runs as what is best where it is least."""
    best = max if figure == "both" else FIGURES[figure][-1]
    values = [figure_at(run, n, figure) for run in runs]
    return [v if best is min else -v if best is max else abs(v - best) for v in values]


def is_outside(ours, others):
    """Whether the losses of one, of three seeds or more, lie below the whole range of the others'."""
    return len(ours) > 2 and max(ours) < min(itertools.chain.from_iterable(others), default=-np.inf)


def figures_table(result, row, budget, n):
    """Return the table of a row at a number of evaluations; what is better than the range of all others is bold."""
    runs = runs_of(result, row, budget, n)
    real = result.get(f"{row}, floor")
    columns = {"": [*runs, *(["real"] if real else [])]}
    for figure, (head, form, factor, _) in FIGURES.items():
        lost = {method: losses(some, n, figure) for method, some in runs.items()}
        columns[head] = []
        for method, some in runs.items():
            text = page.middle([factor * figure_at(run, n, figure) for run in some], form)
            bold = is_outside(lost[method], [v for other, v in lost.items() if other != method])
            columns[head].append(f"**{text}**" if bold else text)
        columns[head] += [page.middle([factor * v for v in real[figure]], form)] if real else []
    for head, key, form in (("seconds", "seconds", "{:.0f}"), ("steps", "way", "{}")):
        texts = [[figure_at(run, n, key) for run in some] for some in runs.values()]
        columns[head] = [page.middle(t, form) if key == "seconds" else "/".join(sorted({*t} - {""})) for t in texts]
        columns[head] += [""] if real else []
    return page.table(columns)


def row_tables(result, row, budget):
    """Return the tables of a row, one for each number of evaluations."""
    ns = [n for n in N_EVALUATIONS if runs_of(result, row, budget, n)]
    return "\n".join(f"*{n} evaluation{'s' * (n > 1)}*\n\n{figures_table(result, row, budget, n)}" for n in ns)


def verdict(result, row, budget, n, figure):
    """Return who is first, the best of the other camp, and whether the first lies outside its range; or None."""
    runs = runs_of(result, row, budget, n)
    lost = {method: losses(some, n, figure) for method, some in runs.items()}
    order = sorted(lost, key=lambda method: statistics.median(lost[method]))
    rivals = [method for method in order if (method in OURS) != (order[0] in OURS)]
    if not rivals:
        return None
    medians = [statistics.median(figure_at(run, n, figure) for run in runs[m]) for m in (order[0], rivals[0])]
    return order[0], rivals[0], *medians, is_outside(lost[order[0]], [lost[m] for m in rivals])


def verdict_table(result, rows, budget):
    """Return the table of who is first, and how often ours are."""
    columns, said = {"": [], "evaluations": []} | {HEADS[figure]: [] for figure in VERDICTS}, []
    for row, n in itertools.product(rows, JUDGED):
        found = {figure: verdict(result, row, budget, n, figure) for figure in VERDICTS}
        if all(found.values()):
            columns[""].append(row)
            columns["evaluations"].append(n)
            for figure, (first, rival, a, b, outside) in found.items():
                _, form, factor, _ = FIGURES.get(figure, FIGURES["recall"])
                name = f"**{first}**" if outside else first
                columns[HEADS[figure]].append(f"{name} {form.format(factor * a)}, {rival} {form.format(factor * b)}")
                said.append((figure, first in OURS, outside))
    if not said:
        return ""
    counts = []
    for figure in VERDICTS:
        firsts = [outside for name, ours, outside in said if name == figure and ours]
        counts.append(f"- {HEADS[figure]}: {len(firsts)}, {sum(firsts)} of them outside the range\n")
    return f"{page.table(columns)}\nOurs are first, of {len(columns[''])} times:\n\n{''.join(counts)}"


def search_table(result, rows):
    """Return the table of the settings that were chosen."""
    records = []
    for row, method in itertools.product(rows, GRIDS):
        if tried := result.get(f"{row}, search, {method}"):
            said = ", ".join(f"{k} {v}" for k, v in settings_in(tried).items())
            low, high = (f(one["lost"] for one in tried) for f in (min, max))
            records.append({"row": row, "method": method, "said": said, "low": low, "high": high})
    forms = {
        "": "{row}",
        "method": "{method}",
        "chosen": "{said}",
        "lost by all that were tried": "{low:.4g} – {high:.4g}",
    }
    return page.filled(forms, records) if records else ""


def slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def tables(result, rows):
    """Return all tables of a page: of each row and budget, the verdicts, and the settings of the peers."""
    budgets = [*(f"{seconds} s" for seconds in SECONDS), DEFAULTS]
    found = {"search": search_table(result, rows)}
    for budget in budgets:
        found |= {slug(f"{row} {budget}"): row_tables(result, row, budget) for row in rows}
        if budget != DEFAULTS:
            found[slug(f"verdict {budget}")] = verdict_table(result, rows, budget)
    return {part: text or "Not measured yet.\n" for part, text in found.items()}


# %% The command


def arguments(doc, rows):
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"what to measure: all, or some of {', '.join(rows)}")
    parser.add_argument("--seconds", nargs="+", default=SECONDS, help="of a fit; 'defaults' for as long as it takes")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument(
        "--methods", nargs="+", help="by default all, and floor; search looks for settings of the peers"
    )
    parser.add_argument("--threads", type=int, help="by default as many as the libraries use by themselves")
    parser.add_argument("--again", action="store_true", help="measure what has been measured here already, too")
    asked = parser.parse_args()
    asked.rows = list(rows) if asked.rows == ["all"] else asked.rows
    for given, known in ((asked.rows, rows), (asked.methods or (), (*METHODS, "floor", "search", "study"))):
        if unknown := set(given) - set(known):
            parser.error(f"there is no {', '.join(sorted(unknown))}. There are {', '.join(known)}.")
    return asked


def with_threads(n):
    """Begin anew with so many threads, where they are others: libraries read the number when they are imported."""
    names = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"
    if n and any(os.environ.get(name) != str(n) for name in names):
        os.environ.update(dict.fromkeys(names, str(n)))
        os.execv(sys.executable, [sys.executable, *sys.argv])


def run(name, rows, doc, more_tables=lambda result: {}):
    """Measure what the command line asks for, and write the tables of all that has been measured.

    Parameters
    ----------
    name : str
        Of the page.
    rows : dict
        Rows by the words that the command line has for them.
    doc : str
        What the command says of itself.
    more_tables : callable
        Returns the tables of what a page has beside.
    """
    asked = arguments(doc, rows)
    with_threads(asked.threads)
    for word in asked.rows:
        try:
            measure_row(name, rows[word], asked)
        except (ImportError, FileNotFoundError) as error:
            print(f"{rows[word].name}: skipped, {error}", file=sys.stderr)
    names = [row.name for row in rows.values()]
    with alone():
        page.publish(name, lambda result: tables(result, names) | more_tables(result))


def measure_row(name, row, asked):
    """Measure one row, and merge each run when it is done."""
    methods = asked.methods or [*METHODS, "floor"]
    command = f"python docs/benchmarks/{name}.py all" + (f" --threads {asked.threads}" if asked.threads else "")
    if "floor" in methods:
        merge(name, f"{row.name}, floor", floor(row), range(N_FLOORS), f"{command} --methods floor")
    for method in GRIDS if "search" in methods else ():
        tried = list(search(row, method, SEARCH_SECONDS))
        merge(name, f"{row.name}, search, {method}", tried, [SEARCH_SEED], f"{command} --methods search")
    for seed in asked.seeds if "study" in methods and row.study else ():
        found = {key: shorter(value) for key, value in row.study(seed).items()}
        merge(name, f"{row.name}, study", {str(seed): found}, [seed], f"{command} --methods study")
    learners = [method for method in methods if method in METHODS]
    for seconds, seed, method in itertools.product(asked.seconds, asked.seeds, learners):
        if method in OURS or seconds != DEFAULTS:
            measure_run(name, row, method, seconds, seed, asked.again, command)


def measure_run(name, row, method, seconds, seed, again, command):
    """Measure one run and merge it, unless it has been measured."""
    budget = seconds if seconds == DEFAULTS else f"{float(seconds):g} s"
    part, settings = f"{row.name}, {budget}, {method}", settings_of(page.read(name), row.name, method)
    if is_measured(name, part, seed) and not again:
        return
    limit = None if seconds == DEFAULTS else float(seconds)
    try:
        record = measure(method, row.split(seed), row.criterion, limit, seed, settings)
    except ImportError as error:
        print(f"{method}: skipped, {error}", file=sys.stderr)
    else:
        merge(name, part, {str(seed): record}, [seed], f"{command} --seconds {seconds}")
