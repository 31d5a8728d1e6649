"""Images from noise: NSGF, NSGF++, OT-CFM and FM on one network, one batch size, one optimiser and one wall-clock.

pip install '.[bench]' && pip install --no-deps torchcfm==1.0.7
python docs/benchmarks/images.py --data mnist --model nsgf++ --device cpu     train one model, add it to images.json
python docs/benchmarks/images.py --data mnist --model nsgf nsgf++ ot-cfm fm   the whole comparison
python docs/benchmarks/images.py --data mnist --ablate                        phase 1 of the trained NSGF++, varied
python docs/benchmarks/images.py                                              write the page from images.json alone

All models carry the same noise, Gaussian with the mean and standard deviation of each pixel, to the training images.
`--seconds` is what each may train for, the building of a pool and all networks of NSGF++ included; the number of
optimisation steps that it allows is found by timing some before.
"""

import argparse
import copy
import functools
import json
import os
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import data
import numpy as np
import torch

from nsgf import NSGF, NSGFPlusPlus, Sinkhorn, Training, datasets, flow, matching, metrics, minibatches, ode
from nsgf._arrays import on_device, to_numpy
from nsgf.networks import OnImages, TimePredictor, UNet
from nsgf.sinkhorn import spread

HERE = Path(__file__).parent
RESULT = HERE / "images.json"
N, NFES, SEED = 10_000, (5, 10, 20, 60), 0
STRICT = {5: 4, 10: 9}  # evaluations of the fields of NSGF++ where the predictor is counted as one more
PACKAGES = ("nsgf", "numpy", "torch", "pot", "torchcfm")
MODELS = {"nsgf": "NSGF", "nsgf++": "NSGF++", "ot-cfm": "OT-CFM", "fm": "FM"}


class Recipe(NamedTuple):
    """Sizes and lengths of one comparison.

    The UNet sees a patch of `patch` × `patch` pixels as one with more channels. `share` of the wall-clock goes to the
    velocity field, the straight field and the predictor of NSGF++.
    """

    patch: int
    width: int
    multipliers: tuple[int, ...]
    attention: tuple[int, ...]
    batch: int
    learning_rate: float
    seconds: float
    n_steps: int
    step_size: float
    nsgf_steps: int
    nsgf_step_size: float
    minibatch: int
    n_batches: int
    share: tuple[float, float, float]
    blur: float = 0.05  # of the spread
    nsgf_blur: float = 0.15
    nsgf_n_batches: int = 6


RECIPES = {
    ("mnist", "cpu"): Recipe(2, 24, (1, 2), (), 128, 2e-3, 300, 1, 0.1, 5, 0.5, 4096, 15, (0.06, 0.89, 0.05)),
    ("mnist", "cuda"): Recipe(1, 64, (1, 2, 2), (2,), 256, 5e-4, 1800, 1, 0.1, 5, 0.5, 8192, 30, (0.06, 0.89, 0.05)),
    ("cifar10", "cuda"): Recipe(
        1, 128, (1, 2, 2, 2), (1,), 256, 2e-4, 14_400, 1, 0.1, 5, 0.5, 8192, 30, (0.06, 0.89, 0.05)
    ),
}
for kind in ("cpu", "cuda"):
    RECIPES["fashion", kind] = RECIPES["mnist", kind]
RECIPES["cifar10", "cpu"] = RECIPES["mnist", "cpu"]._replace(width=32)


def features(name, images, device):
    """Return the features that the Fréchet distance is of."""
    return data.digit_features(images)[0] if name == "mnist" else data.photo_features(images, device=device)


class OnPatches(torch.nn.Module):
    """A UNet that sees each patch of pixels as one pixel with more channels: as many numbers, in fewer places."""

    def __init__(self, shape, recipe, n_conditions=0):
        super().__init__()
        (c, h, w), p = shape, recipe.patch
        self.patch = p
        small, attention = (c * p**2, h // p, w // p), recipe.attention
        self.unet = UNet(small, recipe.width, recipe.multipliers, attention=attention, n_conditions=n_conditions)

    def forward(self, x, t, c=None):
        x = torch.nn.functional.pixel_unshuffle(x, self.patch)
        return torch.nn.functional.pixel_shuffle(self.unet(x, t, c), self.patch)


def network(recipe, shape, n_conditions=0):
    """Return the network of images that all models share."""
    torch.manual_seed(SEED)
    return OnPatches(shape, recipe, n_conditions)


def habits(device):
    fast = {"bf16": True, "refill_every": 200, "ema_decay": 0.9999} if device == "cuda" else {}
    return Training(clip=1.0, warmup=100, channels_last=True, **fast)


def seconds_a_step(net, draw, recipe, device):
    """Return the seconds of one optimisation step, by the median of ten."""
    net = copy.deepcopy(net).to(device)
    marks = [0.0]

    def progress(steps):
        for k in steps:
            if device == "cuda":
                torch.cuda.synchronize()
            marks.append(time.perf_counter())
            yield k

    matching.train(net, draw, np.random.default_rng(0), 12, 1e-4, habits(device), progress=progress)
    return float(np.median(np.diff(marks[3:])))


class Peer:
    """A flow-matching model of torchcfm, trained by the same loop, with the interface of the estimators."""

    def __init__(self, matcher, recipe, device, x):
        self.matcher, self.recipe, self.device, self.shape = matcher, recipe, device, x.shape[1:]
        rows = x.reshape(len(x), -1)
        self.shift, self.scale = rows.mean(0), float(np.sqrt(np.mean((rows - rows.mean(0)) ** 2)))
        self.rows = (rows - self.shift) / self.scale
        self.noise = self.rows.std(0)

    def fit(self, *_):
        rng, net = np.random.default_rng(SEED), OnImages(network(self.recipe, self.shape), self.shape).to(self.device)
        np.random.seed(SEED)  # noqa: NPY002  torchcfm draws from it
        rate = self.recipe.learning_rate
        self.net, self.loss, _ = matching.train(net, self.draw, rng, self.n_iter, rate, habits(self.device))
        return self

    def source(self, n, rng):
        return (self.noise * rng.normal(size=(n, len(self.noise)))).astype(np.float32)

    def draw(self, rng):
        n = self.recipe.batch
        x0, x1 = self.source(n, rng), self.rows[rng.integers(len(self.rows), size=n)]
        t, x, u = self.matcher.sample_location_and_conditional_flow(torch.from_numpy(x0), torch.from_numpy(x1))
        return (x, t), u

    def sample(self, n, random_state):
        field = functools.partial(matching.evaluate, self.net)
        x = self.source(n, np.random.default_rng(random_state))
        x = ode.integrate(field, x, np.linspace(0.0, 1.0, self.n_steps + 1).tolist())
        return (x * self.scale + self.shift).reshape(n, *self.shape)


def make(model, recipe, x, device, seconds):
    """Return the untrained model whose training takes about that many seconds."""
    from torchcfm import conditional_flow_matching as cfm

    rows, net, line = (
        x.reshape(len(x), -1),
        network(recipe, x.shape[1:]),
        Peer(cfm.ConditionalFlowMatcher(0.0), recipe, device, x),
    )
    paired = Peer(cfm.ExactOptimalTransportConditionalFlowMatcher(0.0), recipe, device, x)
    step, paired_step = (seconds_a_step(OnImages(net, x.shape[1:]), z.draw, recipe, device) for z in (line, paired))
    if model in ("fm", "ot-cfm"):
        peer, each = (line, step) if model == "fm" else (paired, paired_step)
        peer.n_iter = int(seconds / each)
        return peer
    common = {
        "blur": recipe.blur * spread(rows),
        "batch_size": recipe.minibatch,
        "n_batches": recipe.n_batches,
        "network": net,
        "learning_rate": recipe.learning_rate,
        "train_batch_size": recipe.batch,
        "training": habits(device),
        "device": device,
        "random_state": SEED,
        "verbose": 1,
    }
    if model == "nsgf":
        recipe = recipe._replace(blur=recipe.nsgf_blur, n_batches=recipe.nsgf_n_batches)
        left = seconds - pool_seconds(line, recipe, recipe.nsgf_steps, recipe.nsgf_step_size)
        options = {"n_steps": recipe.nsgf_steps, "step_size": recipe.nsgf_step_size, "n_batches": recipe.n_batches}
        return NSGF(max_iter=int(left / step), **common | options | {"blur": recipe.blur * spread(rows)})

    def timed(rng):
        (z, t), _ = line.draw(rng)
        return (z,), t

    left = seconds - pool_seconds(line, recipe, recipe.n_steps, recipe.step_size)
    steps = step, step, seconds_a_step(TimePredictor(x.shape[1:]), timed, recipe, device)
    max_iter = tuple(int(part * left / s) for part, s in zip(recipe.share, steps, strict=True))
    return NSGFPlusPlus(n_steps=recipe.n_steps, step_size=recipe.step_size, max_iter=max_iter, **common)


def pool_seconds(line, recipe, n_steps, step_size):
    """Return an estimate of the seconds of the pool and of the held-out flows, from the second of two flows."""
    rng, seconds = np.random.default_rng(0), 0.0
    for _ in range(2):
        x, y = line.source(recipe.minibatch, rng), line.rows[rng.integers(len(line.rows), size=recipe.minibatch)]
        start = time.perf_counter()
        x, y = (on_device(z, line.device) for z in (x, y))
        blur = recipe.blur * spread(y)
        for _, res in flow.flow_steps(x, y, blur, n_steps, step_size, Sinkhorn(tol=1e-2)):
            to_numpy(res.v)
        seconds = time.perf_counter() - start
    return seconds * (recipe.n_batches + 2)


def with_evaluations(model, nfe):
    """Return the model with that many function evaluations a sample."""
    model = copy.copy(model)
    if isinstance(model, NSGFPlusPlus):
        return model.set_params(n_straight_steps=nfe - model.n_steps)
    if isinstance(model, NSGF):
        return model.set_params(n_steps=nfe)
    model.n_steps = nfe
    return model


def measure(name, model_name, device, seconds):
    """Train one model, and return its figures."""
    images, recipe = data.load(name), RECIPES[name, device]
    seconds = seconds or recipe.seconds
    model = make(model_name, recipe, images.train, device, seconds)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "report_")
        model.fit(None, images.train)
    figures = {"seconds": time.perf_counter() - start, "budget": seconds, "recipe": recipe._asdict()}
    figures["n_iter"] = len(model.loss) if isinstance(model, Peer) else model.n_iter_
    if not isinstance(model, Peer):
        figures["pool_seconds"] = model.history_["pool_seconds"]
        figures["report"] = model.report_
        model.save(data.CACHE / f"images-{name}-{device}-{model_name}.safetensors")
    truth = features(name, images.test, device)
    figures["distance"] = {}
    for nfe in (*STRICT.values(), *NFES) if model_name == "nsgf++" else NFES:
        start = time.perf_counter()
        made = with_evaluations(model, nfe).sample(N, random_state=1).clip(0, 1).astype(np.float32)
        spent = time.perf_counter() - start
        found = features(name, made, device)
        figures["distance"][str(nfe)] = {"frechet": metrics.frechet_distance(found, truth), "sample_seconds": spent}
        print(model_name, nfe, figures["distance"][str(nfe)], flush=True)
        if nfe == 10:
            figures |= quality(found, truth, features(name, images.train, device))
            draw_grid(made, HERE / f"images-{name}-{device}-{model_name.replace('+', 'p')}.png")
    return figures


def quality(made, truth, seen):
    """Return precision and recall, and the memorisation check, on features at 10 evaluations."""
    return {
        "precision_recall": metrics.precision_recall(truth, made),
        "memorisation": metrics.memorisation(made, seen, truth),
    }


def floor(name, device):
    """Return the distance of real training images to the test images."""
    images = data.load(name)
    rows = np.random.default_rng(0).permutation(len(images.train))[:N]
    real, truth = (features(name, x, device) for x in (images.train[rows], images.test))
    return {"frechet": metrics.frechet_distance(real, truth), "precision_recall": metrics.precision_recall(truth, real)}


def draw_grid(images, path, n_columns=16, n_rows=6):
    """Write the first images as one small PNG."""
    import matplotlib.pyplot as plt

    n, c, h, w = images.shape
    grid = images[: n_columns * n_rows].reshape(n_rows, n_columns, c, h, w).transpose(0, 3, 1, 4, 2)
    grid = grid.reshape(n_rows * h, n_columns * w, c)
    plt.imsave(path, 1 - grid[..., 0] if c == 1 else grid, cmap="gray", vmin=0, vmax=1)


class Constant(torch.nn.Module):
    """A predictor that says one time."""

    def __init__(self, t):
        super().__init__()
        self.t = torch.nn.Parameter(torch.tensor(float(t)))

    def forward(self, x):
        return self.t.expand(len(x))


def variations(recipe):
    """Yield the changes of phase 1 alone that the ablation tries."""
    for n_steps in (1, 2, 3, 4, 5):  # of one total length
        yield {"n_steps": n_steps, "step_size": recipe.n_steps * recipe.step_size / n_steps}
    for step_size in (0.1, 0.2, 0.3):
        yield {"step_size": step_size, "n_steps": 1}


def retrainings(recipe):
    """Yield the changes that need all networks trained anew, in fewer steps."""
    yield {}
    for blur in (0.5, 2.0, 3.0):
        yield {"blur": blur * recipe.blur}
    for minibatch in (128, 1024):
        yield {"minibatch": minibatch, "n_batches": recipe.minibatch * recipe.n_batches // minibatch}


def ablate(name, device, n=2000, nfe=10, part=0.25):  # noqa: PLR0915  one row after the other
    """Return the distance at ten evaluations of NSGF++ where its phase 1, predictor, blur or minibatch is changed."""
    images, recipe = data.load(name), RECIPES[name, device]
    net = network(recipe, images.train.shape[1:])
    base = NSGFPlusPlus.load(data.CACHE / f"images-{name}-{device}-nsgf++.safetensors", network=net)
    base.set_params(verbose=0, device=device)
    truth, rows = features(name, images.test, device), []
    target = datasets.rows(base._to_unit(images.train.reshape(len(images.train), -1)))

    def add(label, model):
        model = with_evaluations(model, nfe)
        made = model.sample(n, random_state=1).clip(0, 1).astype(np.float32)
        tau = times_after_phase_1(model)
        distance = metrics.frechet_distance(features(name, made, device), truth)
        rows.append({"change": label, "frechet": distance, "tau": float(tau.mean()), "tau_std": float(tau.std())})
        rows[-1] |= {k: model.history_[k] for k in ("pool_seconds", "train_seconds", "straight_train_seconds")}
        rows[-1] |= {k: model.report_[k] for k in ("regression_gap", "minibatch_gap")}
        print(rows[-1], flush=True)

    warnings.filterwarnings("ignore", "report_")
    add("as trained", base)
    tau = float(times_after_phase_1(base).mean())
    for t in (tau, recipe.n_steps * recipe.step_size):
        model = copy.copy(base)
        model.time_predictor_ = Constant(t)
        add(f"no predictor, time {t:.2f}", model)
    for change in variations(recipe):
        model, rng = copy.copy(base).set_params(n_batches=6, **change), np.random.default_rng(SEED)
        drawn = minibatches.plain(model._source(), target, model.batch_size, model.batch_size, rng)
        flows, straight = model._flows(drawn, rng), base.history_["straight_train_seconds"]
        model._match_velocities(flows, rng, len(base.history_["loss"]), first=base.straight_field_)
        model.history_["straight_train_seconds"] = straight
        add("phase 1: " + ", ".join(f"{k} {v:.3g}" for k, v in change.items()), model)
    for change in retrainings(recipe):
        model = make("nsgf++", recipe._replace(**change), images.train, device, recipe.seconds)
        steps = (base.history_[f"{prefix}loss"] for prefix in ("", "straight_", "time_"))
        model.set_params(verbose=0, max_iter=tuple(int(part * len(loss)) for loss in steps)).fit(None, images.train)
        label = ", ".join(f"{k} {v:.3g}" for k, v in change.items()) or "as above"
        add(f"all trained anew in a {1 / part:.0f}th of the steps: {label}", model)
    return rows


def times_after_phase_1(model, n=500):
    """Return the predicted times of noise that phase 1 has moved."""
    noise = model.shift_ + model.scale_ * model.noise_scale_ * np.random.default_rng(2).normal(
        size=(n, len(model.shift_))
    )
    return model.predict_time(model.trajectory(noise)[model.n_steps])


def table(head, rows):
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (head, *rows):
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}".rstrip() for i, cell in enumerate(row)]
    return [*lines, ""]


def section(key, part):
    """Return the lines on one data set and device."""
    name, device = key.split("/")
    kind = "ccexam's MNIST classifier, 128 features" if name == "mnist" else "MobileNetV2, 1280 features"
    title = f"{name}, {device}"
    head = (
        "model",
        "steps trained",
        "seconds",
        *(f"{nfe} evaluations" for nfe in NFES),
        "precision",
        "recall",
        "copied",
    )
    rows = []
    for model, text in MODELS.items():
        if model not in part:
            rows.append((text, "not measured yet", *[""] * (len(head) - 2)))
            continue
        f = part[model]
        distances = [f"{f['distance'][str(nfe)]['frechet']:.1f}" for nfe in NFES]
        rows.append(
            (text, f["n_iter"], f"{f['seconds']:.0f}", *distances, *(f"{z:.2f}" for z in f["precision_recall"]))
            + (f"{f['memorisation'][0]:.3f}",)
        )
        if model == "nsgf++":
            strict = [f"{f['distance'][str(STRICT[nfe])]['frechet']:.1f}" if nfe in STRICT else "" for nfe in NFES]
            rows.append(("the same, its predictor counted", "", "", *strict, "", "", ""))
    if "floor" in part:
        real = part["floor"]
        quality = [f"{z:.2f}" for z in real["precision_recall"]]
        rows.append(("real, training images", "", "", *[f"{real['frechet']:.1f}"] * len(NFES), *quality, ""))
    lines = [title, "-" * len(title), "", f"Fréchet distance on {kind}; {N:,} samples against 10,000 test images."]
    lines += [
        "Precision, recall and the fraction of copies (0.01 for a model that does not copy) are those at 10",
        "evaluations.",
    ]
    lines += ["", *table(head, rows), f"Machine: {part['machine']}. Versions: {part['versions']}. Seed {SEED}."]
    lines += [part.get("note", ""), ""]
    for model, text in MODELS.items():
        file = f"images-{name}-{device}-{model.replace('+', 'p')}.png"
        if (HERE / file).exists():
            lines += [
                f".. figure:: {file}",
                f"   :alt: A grid of images made by {text}.",
                "",
                f"   {text}, 10 evaluations.",
                "",
            ]
    if "ablation" in part:
        lines += ablation(part["ablation"])
    return lines


def ablation(rows):
    head = (
        "change",
        "Fréchet distance",
        "τ, mean ± deviation",
        "pool s",
        "phase 1 s",
        "phase 2 s",
        "regression gap",
        "minibatch gap",
    )
    cells = [
        (
            r["change"],
            f"{r['frechet']:.1f}",
            f"{r['tau']:.2f} ± {r['tau_std']:.2f}",
            *(f"{r[k]:.1f}" for k in ("pool_seconds", "train_seconds", "straight_train_seconds")),
            *(f"{r[k]:.2f}" for k in ("regression_gap", "minibatch_gap")),
        )
        for r in rows
    ]
    return [
        "Ablation of NSGF++: 10 evaluations, 2000 samples (the distances are larger than those of 10,000). First the",
        "straight field as trained, with other phases 1 or without the predictor; then all networks trained anew in",
        "fewer steps, with another blur, in parts of the spread, or other minibatches. Seconds are those of the pool,",
        "of the velocity field and of the straight field.",
        "",
        *table(head, cells),
    ]


def page(result):
    lines = ["Images", "======", "", ".. Written by docs/benchmarks/images.py from images.json.", ""]
    lines += [
        "Noise is carried to images by four models, with one UNet, batch size, optimiser and wall-clock for all, pools",
        "and all networks of NSGF++ included. OT-CFM and FM are torchcfm's. The distances are not the Inception",
        "FID of papers and cannot be compared with it; read them beside the floor, real images against real ones.",
        "Function evaluations are those of a UNet; all models take Euler steps. NSGF++ has two UNets, of which phase 1",
        "evaluates one and phase 2 the other, and evaluates its predictor, a smaller network, once: a row of its own",
        "counts that as a full evaluation. Its lines join pairs of the plans of large minibatches, those of OT-CFM",
        "pairs of an exact assignment in each batch. With lines drawn apart, as in the paper, and a velocity field",
        "trained from nothing, NSGF++ had 1122 and 683 at 5 and 10 evaluations of the first recipe below. NSGF is",
        "trained for the number of steps of its recipe; in other columns its",
        "field is followed in other steps. One seed.",
        "",
    ]
    for key in [f"{name}/{device}" for name in ("mnist", "fashion", "cifar10") for device in ("cpu", "cuda")]:
        if key in result["parts"]:
            lines += section(key, result["parts"][key])
    missing = [f"{name}/{device}" for name, device in RECIPES if f"{name}/{device}" not in result["parts"]]
    if missing:
        lines += [f"Not measured yet: {', '.join(sorted(missing))}. Each takes one command,"]
        lines += ["``python docs/benchmarks/images.py --data … --model nsgf nsgf++ ot-cfm fm --device …``.", ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("mnist", "fashion", "cifar10"))
    parser.add_argument("--model", nargs="*", choices=tuple(MODELS), default=[])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, help="wall-clock of each training; the recipe's by default")
    parser.add_argument("--ablate", action="store_true")
    args = parser.parse_args()
    jobs = [(model, functools.partial(measure, args.data, model, args.device, args.seconds)) for model in args.model]
    if args.ablate:
        jobs.append(("ablation", functools.partial(ablate, args.data, args.device)))
    if jobs:
        jobs.append(("floor", functools.partial(floor, args.data, args.device)))
    place = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {args.device}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }
    for key, job in jobs:
        figures = job()
        result = json.loads(RESULT.read_text()) if RESULT.exists() else {"parts": {}}  # another run may have written
        result["parts"].setdefault(f"{args.data}/{args.device}", {}).update({key: figures, **place})
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    if RESULT.exists():
        RESULT.with_suffix(".rst").write_text(page(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
