"""The solvers that velocity.py compares, each as its settings from loose to tight, and the limit of the machine.

A setting is (name, run, run_flow): run(x, y, blur) gives the velocity, run_flow the path of a flow and its velocities.
Solvers whose package is not installed are left out, and a line says so.

A solver that takes a cost matrix gives T_xy by its plan; the time of the cost is part of its own. It is given T_xx by
the faster of two ways: our own self potentials, or averaged iterations on a stored kernel (:func:`averaged`); its own
solver would need many times the iterations there.
"""

import functools
import importlib.metadata
import importlib.util
import statistics
import sys
import time

import numpy as np
from array_api_compat import array_namespace

from nsgf import POT, Sinkhorn, sinkhorn_flow, sinkhorn_velocity
from nsgf.flow import flow_steps
from nsgf.kernel import barycentric_map

STEPS, ROUNDS = 10, 9  # of a flow; and rounds of fast cells
REST = 0.1  # seconds before each run, in which threads of the run before stop waiting for work
TOLERANCES = (1e-2, 5e-3, 3e-3, 2e-3, 1e-3, 5e-4, 2e-4)  # ours, from loose to tight
OWN_TOL = 3e-5  # mass misplaced by averaged iterations: what is then wrong with T_xx is small against the target
FAR, FLOOR = 30.0, -60.0  # nats that a potential moves before it is absorbed, and the least exponent in float32


def timed(run, *args):
    start = time.perf_counter()
    out = run(*args)
    if getattr(args[0], "is_cuda", False):
        sys.modules["torch"].cuda.synchronize()
    return time.perf_counter() - start, out


def median_of(run, *args, rounds=ROUNDS):
    """Return the median seconds of a run."""
    time.sleep(REST)
    return statistics.median(timed(run, *args)[0] for _ in range(rounds))


def to_numpy(z):
    return z.detach().cpu().numpy() if hasattr(z, "detach") else np.asarray(z)


def placed(device, *arrays):
    """Return arrays of NumPy where they are, or as tensors on the GPU."""
    if device == "cpu":
        return arrays
    return tuple(importlib.import_module("torch").as_tensor(z, device=device) for z in arrays)


def costs(x, y, blur):
    """Return C(x, y)/ε, shape (n, m), by one product."""
    xp, x, y = array_namespace(x, y), x / blur, y / blur
    half_x, half_y = (0.5 * xp.sum(z * z, axis=1, keepdims=True) for z in (x, y))
    left = xp.concat([-x, half_x, xp.ones_like(half_x)], axis=1)
    return xp.clip(left @ xp.concat([y, xp.ones_like(half_y), half_y], axis=1).T, 0.0, None)


# %% The limit


def exponents(x, y, blur):
    return array_namespace(x, y).clip(-costs(x, y, blur), FLOOR, None)


def exponentials(M):
    """Return the seconds of exp(M): NumPy's or torch's, whichever is faster; torch's alone of its tensors."""
    torch = importlib.import_module("torch")
    K = M + 0.0
    seconds = [median_of(lambda M, out: torch.exp(M, out=out), torch.as_tensor(M), torch.as_tensor(K))]
    return min([*seconds, median_of(np.exp, M, K)] if isinstance(M, np.ndarray) else seconds)


def one_pass(z, x, blur):
    """Return the seconds of a map of z: the exponentials of one kernel, and its product with weights and points."""
    M = exponents(z, x, blur)
    return exponentials(M) + median_of(lambda K, y: K @ y, M, array_namespace(x).concat([x[:, :1], x], axis=1))


def iterations(setting, x, y, blur, kind):
    """Return how many iterations our solve takes, those of the problem of a cloud with itself included."""
    solve = Sinkhorn(tol=float(setting.removeprefix("tol ")))
    if kind == "cold":
        return sinkhorn_velocity(x, y, blur, solver=solve).n_iter
    return sum(res.n_iter for _, res in flow_steps(x, y, blur, STEPS, 1.0, solve))


def limit(setting, x, y, blur, kind):
    """Return the seconds of the exponentials of two kernels a velocity, and of two products an iteration."""
    n_iter, n_kernels = iterations(setting, x, y, blur, kind), 2 * (STEPS if kind == "flow" else 1)
    M = exponents(x, y, blur)
    exps, pair = exponentials(M), median_of(lambda K, u, v: (K @ v, K.T @ u), M, M[:, 0] + 0.0, M[0] + 0.0)
    seconds = n_kernels * exps + n_iter * pair
    return {"seconds": seconds, "n_iter": n_iter, "exponentials": exps, "products": pair}


# %% Ours, and solvers behind our interface


def of_nsgf(solvers):
    for solve in solvers:
        yield (
            f"tol {solve.tol:g}",
            lambda x, y, blur, solve=solve: sinkhorn_velocity(x, y, blur, solver=solve).v,
            lambda x, y, blur, solve=solve: sinkhorn_flow(x, y, blur, n_steps=STEPS, solver=solve)[1:3],
        )


def ours():
    return of_nsgf(Sinkhorn(tol=tol) for tol in TOLERANCES)


def pot(method):
    max_iter = 300 if method == "sinkhorn_log" else 2000  # more is hopeless
    return of_nsgf(POT(method=method, tol=tol, max_iter=max_iter) for tol in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4))


# %% Libraries that give a velocity


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


OTT_SPEEDS = {
    "OTT momentum 1.5": {"momentum": 1.5, "anderson": None},
    "OTT momentum 1.8": {"momentum": 1.8, "anderson": None},
    "OTT Anderson 5": {"momentum": None, "anderson": 5},
}
THRESHOLDS = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)


def ott(**speed):
    import jax.numpy as jnp

    step = ott_step(**speed)

    def velocity(threshold, x, y, blur, start):
        return step(x, y, blur**2, threshold, start or (jnp.zeros(len(x)), jnp.zeros(len(y))))

    for threshold in THRESHOLDS:
        yield of_velocity(f"threshold {threshold:g}", functools.partial(velocity, threshold))


def ott_stacked(**speed):
    """Yield the settings (name, run) of OTT on a stack of problems, xs and ys (k, n, d)."""
    import jax
    import jax.numpy as jnp

    stacked = jax.jit(jax.vmap(ott_step(**speed), in_axes=(0, 0, None, None, None)))

    def run(threshold, xs, ys, blur):
        start = jnp.zeros(xs.shape[1]), jnp.zeros(ys.shape[1])
        return np.asarray(stacked(xs, ys, blur**2, threshold, start)[0])

    for threshold in THRESHOLDS:
        yield f"threshold {threshold:g}", functools.partial(run, threshold)


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


# %% Solvers that take a cost matrix


def averaged(x, blur):
    """Return T_xx by the iteration u ← √(u / Ku), on a stored kernel in the dtype of x."""
    xp = array_namespace(x)
    K = xp.exp(-costs(x, x, blur))
    u = K.sum(1) ** -0.5
    for _ in range(200):
        s = K @ u
        if float(abs(u * s - 1.0).mean()) < OWN_TOL:
            break
        u = (u / s) ** 0.5
    return (K @ (u[:, None] * x)) / s[:, None]


def ours_own(x, blur):
    """Return T_xx by our own self potentials."""
    a = array_namespace(x).full_like(x[:, 0], 1.0 / len(x))
    return barycentric_map(x, x, Sinkhorn().own(x, blur**2, a).f, blur**2, a)


_fastest = {}


def own_map(x, blur):
    """Return T_xx by the faster of two ways, as they were when a problem of this kind was first seen."""
    key = type(x), tuple(x.shape), blur
    if key not in _fastest:
        _fastest[key] = min((averaged, ours_own), key=lambda way: min(timed(way, x, blur)[0] for _ in range(3)))
    return _fastest[key](x, blur)


def acc_sinkhorn():
    """Yield the settings of Acc-Sinkhorn (Xu & Chen 2026, arXiv:2605.30267), in our own reading of it.

    Rows are solved for exactly, and Nesterov's momentum k/(k + 3) is put on the columns' potential g. Ours, and not
    theirs, are what makes it as fast as we can: a kernel in float32 with potentials absorbed, the start from
    c-transforms of the cost, and a new start of the momentum where it points uphill.
    """

    def solve(C, y, tol, w):
        xp, taken, k = array_namespace(C, y), None, 0
        g = w = xp.min(C - xp.min(C, axis=1, keepdims=True), axis=0) if w is None else w
        for _ in range(3000):
            if taken is None or float(abs(w - taken).max()) > FAR:
                K = w - C
                K = xp.exp(xp.clip(K - xp.max(K, axis=1, keepdims=True), FLOOR, None))
                taken = w
            v = xp.exp(w - taken)
            s = K @ v
            mass = v * (K.T @ (1.0 / s)) * (len(y) / len(C))
            if float(abs(mass - 1.0).mean()) < tol:
                break
            g_next = w - xp.log(mass + 1e-30)
            k = 0 if float((w - g_next) @ (g_next - g)) > 0 else k
            w, g, k = g_next + k / (k + 3) * (g_next - g), g_next, k + 1
        return (K @ (v[:, None] * y)) / s[:, None], w

    def velocity(tol, x, y, blur, start):
        T, start = solve(costs(x, y, blur), y, tol, start)
        return T - own_map(x, blur), start

    for tol in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6):
        yield of_velocity(f"tol {tol:g}", functools.partial(velocity, tol), lambda x: x)


def regot(method):
    """Yield the settings of RegOT's solvers (SSNS, Tang & Qiu 2024; SPLR, Wang & Qiu 2025), in float64 as they are."""
    solve = getattr(importlib.import_module("regot"), f"sinkhorn_{method}")

    def velocity(tol, x, y, blur, start):
        C = costs(y.astype(float), x.astype(float), 1.0).T  # in Fortran's order, which RegOT would copy it to
        a, b = (np.full(len(z), 1.0 / len(z)) for z in (x, y))
        found = solve(C, a, b, blur**2, tol=tol, max_iter=2000, **({} if start is None else {"x0": start}))
        P = found.plan
        return (P @ y / P.sum(1)[:, None] - own_map(x, blur)).astype(x.dtype), found.dual

    for tol in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6, 1e-7):
        yield of_velocity(f"tol {tol:g}", functools.partial(velocity, tol))


def mdot():
    """Yield the settings of MDOT-TNT (Kemertas et al. 2025): the power of γ = max C/ε that it stops at.

    As its own interface does, it computes in float64 where γ is above 1024. It has no warm start.
    """
    import mdot_tnt
    import torch

    def velocity(power, x, y, blur, _):
        x, y = torch.as_tensor(x), torch.as_tensor(y)
        C = costs(x, y, blur)
        gamma = float(C.max())
        C = (C / gamma).to(torch.float64 if gamma > 2**10 else torch.float32)
        r, c = (torch.full_like(C[:, 0], 1.0 / len(x)), torch.full_like(C[0], 1.0 / len(y)))
        _, h, gamma, *_ = mdot_tnt.mdot(r, c, C, gamma, p=power)
        T = torch.softmax(h - gamma * C, 1) @ y.to(C.dtype)
        own = own_map(to_numpy(x), blur) if x.device.type == "cpu" else own_map(x, blur)
        return (T - torch.as_tensor(own)).to(x.dtype), None

    for power in (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5):
        yield of_velocity(f"power {power:g}", functools.partial(velocity, power), torch.as_tensor)


TAKES_COST = {"Acc-Sinkhorn": "float32", "RegOT SSNS": "float64", "RegOT SPLR": "float64", "MDOT-TNT": "float32"}


def cost_seconds(solver, x, y, blur):
    """Return the seconds that the cost matrix takes of a solver's time, where it takes one."""
    if solver not in TAKES_COST:
        return {}
    xp, name = array_namespace(x, y), TAKES_COST[solver]
    return {"cost": median_of(costs, *(xp.astype(z, getattr(xp, name)) for z in (x, y)), blur, rounds=3)}


# %% What there is

PACKAGES = {  # of a solver, and the module that says whether it is installed
    "OTT": ("ott-jax", "ott"),
    "geomloss": ("geomloss", "geomloss"),
    "flash-sinkhorn": ("flash-sinkhorn", "flash_sinkhorn"),
    "RegOT": ("regot", "regot"),
    "MDOT-TNT": ("mdot-tnt", "mdot_tnt"),
}
TORCH = {
    "geomloss tensorized": functools.partial(samples_loss, "geomloss", backend="tensorized"),
    "Acc-Sinkhorn": acc_sinkhorn,
    "MDOT-TNT": mdot,
}
SOLVERS = {
    "cpu": {
        "nsgf": ours,
        **{name: functools.partial(ott, **speed) for name, speed in OTT_SPEEDS.items()},
        "POT sinkhorn": functools.partial(pot, "sinkhorn"),
        "POT sinkhorn_stabilized": functools.partial(pot, "sinkhorn_stabilized"),
        "POT sinkhorn_log": functools.partial(pot, "sinkhorn_log"),
        "RegOT SSNS": functools.partial(regot, "ssns"),
        "RegOT SPLR": functools.partial(regot, "splr"),
        **TORCH,
    },
    "cuda": {  # on torch tensors; flash-sinkhorn's tf32 would miss the target
        "nsgf": ours,
        "flash-sinkhorn": functools.partial(samples_loss, "flash_sinkhorn", half_cost=True, allow_tf32=False),
        **TORCH,
    },
}


@functools.cache
def is_installed(solver):
    """Whether a solver's package is; a line says where it is not."""
    package, module = next((p for name, p in PACKAGES.items() if solver.startswith(name)), ("nsgf", "nsgf"))
    found = importlib.util.find_spec(module) is not None
    if not found:
        print(f"{solver} is left out: {package} is not installed", file=sys.stderr)
    return found


def solvers(device):
    """Return the solvers of a device that are installed, ours the first."""
    return {name: settings for name, settings in SOLVERS[device].items() if is_installed(name)}


def versioned():
    """Return the packages whose versions a result is to name."""
    known = {"nsgf", "numpy", "numba", "torch", "pot", "jax", *(package for package, _ in PACKAGES.values())}
    there = {str(found.name).lower().replace("_", "-") for found in importlib.metadata.distributions()}
    return sorted(known & there)
