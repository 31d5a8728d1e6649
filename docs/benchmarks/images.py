"""Images from noise: NSGF, NSGF++, OT-CFM and FM on one network, one batch size, one optimiser and one wall-clock.

pip install '.[bench]' && pip install --no-deps torchcfm==1.0.7
python docs/benchmarks/images.py mnist/cpu             the comparison on one data set and device, and its ablation
python docs/benchmarks/images.py mnist/cpu/nsgf++      train one model, add it to images.json
python docs/benchmarks/images.py mnist/cpu/ablation    NSGF++ with parts changed
python docs/benchmarks/images.py                       write the tables from images.json alone

All models carry the same noise, Gaussian with the mean and standard deviation of each pixel, to the training images.
Each trains for the seconds of its recipe, the building of a pool and all networks of NSGF++ included; how many steps
they allow is found by timing some before.
"""

import copy
import functools
import itertools
import time
from typing import NamedTuple

import data
import numpy as np
import page
import peers
import torch

from nsgf import NSGF, NSGFPlusPlus, Sinkhorn, Training, matching, metrics, spread
from nsgf.flow import stacks
from nsgf.networks import OnImages, UNet
from nsgf.pool import Scheme
from nsgf.task import Task

NAME = "images"
N, NFES, SEED = 10_000, (5, 10, 20, 60), 0
STRICT = {5: 4, 10: 9}  # of stored figures of the paper's NSGF++: evaluations with its predictor, and without
DROPOUT = 0.1  # of the labels, where there are any
PACKAGES = ("nsgf", "numpy", "torch", "pot", "torchcfm")
MODELS = {"nsgf": "NSGF", "nsgf++": "NSGF++", "ot-cfm": "OT-CFM", "fm": "FM"}


class Recipe(NamedTuple):
    """Sizes and lengths of one comparison.

    The UNet sees a patch of `patch` × `patch` pixels as one with more channels. `share` of the wall-clock goes to the
    map of NSGF++, which makes `map_batch` points at each step, and the rest to its straight field.
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
    minibatch: int
    n_batches: int
    share: float = 0.6
    map_batch: int = 896
    blur: float = 0.05  # of the spread


NSGF_ALONE = {"n_steps": 5, "step_size": 0.5, "n_batches": 6, "blur": 0.15}
RECIPES = {
    ("mnist", "cpu"): Recipe(2, 24, (1, 2), (), 128, 2e-3, 300, 1, 0.1, 4096, 15),
    ("mnist", "cuda"): Recipe(1, 64, (1, 2, 2), (2,), 256, 5e-4, 1800, 1, 0.1, 8192, 30),
    ("cifar10", "cuda"): Recipe(1, 128, (1, 2, 2, 2), (1,), 256, 2e-4, 14_400, 1, 0.1, 8192, 30),
}
RECIPES |= {("fashion", device): RECIPES["mnist", device] for device in ("cpu", "cuda")}
RECIPES["cifar10", "cpu"] = RECIPES["mnist", "cpu"]._replace(width=32)


# %% What all models share


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


class Contest(NamedTuple):
    """What the models of one comparison are trained on, and how: images (n, c, h, w), and their labels or None."""

    images: np.ndarray
    labels: np.ndarray | None
    recipe: Recipe
    device: str
    task: Task

    @classmethod
    def of(cls, images, recipe, device, labels=None):
        return cls(images, labels, recipe, device, Task.of(None, images, y_tgt=labels))

    @property
    def shape(self):
        return self.images.shape[1:]

    @property
    def training(self):
        fast = {"bf16": True, "refill_every": 200, "ema_decay": 0.9999} if self.device == "cuda" else {}
        rate, batch = self.recipe.learning_rate, self.recipe.batch
        always = {"clip": 1.0, "warmup": 100, "channels_last": True, "condition_dropout": DROPOUT}
        return Training(learning_rate=rate, batch_size=batch, **always, **fast)

    def network(self):
        torch.manual_seed(SEED)
        return OnImages(OnPatches(self.shape, self.recipe, self.task.n_conditions), self.shape)

    def peer(self, name):
        """Return the flow-matching model of that name, untrained."""
        return peers.FlowMatching(name, self.task, dropout=DROPOUT)


def features(name, images, device):
    """Return the features that the Fréchet distance is of."""
    return data.digit_features(images)[0] if name == "mnist" else data.photo_features(images, device=device)


# %% Training for a number of seconds


def seconds_a_step(contest, net, draw):
    """Return the seconds of one optimisation step, as the mean of ten after two."""
    net = copy.deepcopy(net).to(contest.device)
    for n_iter in (2, 10):
        start = time.perf_counter()
        matching.train(
            net, lambda rng: draw(contest.recipe.batch, rng), np.random.default_rng(0), n_iter, contest.training
        )
        seconds = (time.perf_counter() - start) / n_iter
    return seconds


def pool_seconds(contest, blur):
    """Return an estimate of the seconds of the pool and of the flows held out, from the second of two minibatches."""
    solve, recipe = Sinkhorn(tol=1e-2), contest.recipe
    scheme = Scheme.descent(blur, recipe.n_steps, recipe.step_size, solve, contest.device)
    drawn = contest.task.minibatches(recipe.minibatch, np.random.default_rng(0), blur, solve, DROPOUT)
    for problems in itertools.islice(drawn, 2):
        start = time.perf_counter()
        for problem in stacks(map(scheme.moved, problems), solve):
            scheme.examples(problem, scheme.follow(problem))
        seconds = time.perf_counter() - start
    return seconds * (recipe.n_batches + 2)


def estimator(name, contest, seconds):
    """Return the untrained NSGF or NSGF++ whose training takes about that many seconds."""
    recipe, net = contest.recipe, contest.network()
    blur = recipe.blur * spread(contest.task.target.rows)  # in units
    options = {
        "blur": blur * contest.task.frame.scale,
        "network": net,
        "training": contest.training,
        "device": contest.device,
        "random_state": SEED,
        "verbose": 1,
    }
    if name == "nsgf":
        left, step = seconds - pool_seconds(contest, blur), seconds_a_step(contest, net, contest.peer("fm").draw)
        options |= {"step_size": recipe.step_size, "batch_size": recipe.minibatch, "n_batches": recipe.n_batches}
        return NSGF(n_steps=recipe.n_steps, max_iter=max(int(left / step), 1), **options)
    n_lines = recipe.minibatch * recipe.n_batches
    model = NSGFPlusPlus(batch_size=recipe.map_batch, n_batches=n_lines // recipe.map_batch, **options)
    return model.set_params(max_iter=steps_of_both(model, contest, seconds))


def steps_of_both(model, contest, seconds, n_timed=10):
    """Return the steps of the map and of the straight field of NSGF++ that the seconds hold, from a short fit."""
    for n_iter in (1, n_timed):  # in the first, the solver is compiled
        short = copy.copy(model).set_params(max_iter=n_iter)
        short, spent = peers.fitted(short, None, contest.images, y_tgt=contest.labels)
    trained = [short.history_[f"{name}train_seconds"] for name in ("", "straight_")]
    left, share = seconds - (spent - sum(trained)), contest.recipe.share
    parts = zip((share, 1 - share), trained, strict=True)
    return tuple(max(int(part * left / s * n_timed), 1) for part, s in parts)


def train(name, contest, seconds):
    """Return the model, trained for about that many seconds, and the figures of its training."""
    contest = contest._replace(recipe=contest.recipe._replace(**(NSGF_ALONE if name == "nsgf" else {})))
    figures = {"budget": seconds, "recipe": contest.recipe._asdict()}
    if name in ("fm", "ot-cfm"):
        peer, net = contest.peer(name), contest.network()
        n_iter = int(seconds / seconds_a_step(contest, net, peer.draw))
        start = time.perf_counter()
        peer.fit(net.to(contest.device), n_iter, contest.training, SEED)
        return peer, {"seconds": time.perf_counter() - start, **figures, "n_iter": len(peer.loss)}
    model, spent = peers.fitted(estimator(name, contest, seconds), None, contest.images, y_tgt=contest.labels)
    pool = {k: v for k, v in model.history_.items() if k == "pool_seconds"}
    return model, {"seconds": spent, **figures, "n_iter": model.n_iter_, **pool, "report": model.report_}


def sample(model, n_steps, n, shape, **asked):
    """Return images that the model makes from noise in that many steps, the map of NSGF++ one of them; in 0 … 1."""
    if isinstance(model, peers.FlowMatching):
        made = model.sample(n, n_steps, random_state=1, **asked)
    else:
        n_steps = n_steps - 1 if isinstance(model, NSGFPlusPlus) else n_steps
        made = copy.copy(model).set_params(n_steps=n_steps).sample(n, random_state=1, **asked)
    return made.reshape(n, *shape).clip(0, 1).astype(np.float32)


# %% The figures


def measure(name, device, model_name):
    """Train one model, and return its figures."""
    images, recipe = data.load(name), RECIPES[name, device]
    contest = Contest.of(images.train, recipe, device)
    model, figures = train(model_name, contest, recipe.seconds)
    truth, figures["distance"] = features(name, images.test, device), {}
    for nfe in NFES:
        start = time.perf_counter()
        made = sample(model, nfe, N, contest.shape)
        spent = time.perf_counter() - start
        found = features(name, made, device)
        figures["distance"][str(nfe)] = {"frechet": metrics.frechet_distance(found, truth), "sample_seconds": spent}
        print(model_name, nfe, figures["distance"][str(nfe)], flush=True)
        if nfe == 10:
            figures["precision_recall"] = metrics.precision_recall(truth, found)
            figures["memorisation"] = metrics.memorisation(found, features(name, images.train, device), truth)
            draw_grid(made, page.HERE / f"images-{name}-{device}-{model_name.replace('+', 'p')}.png")
    return figures


def floor(name, device):
    """Return the distance of real training images to the test images."""
    images = data.load(name)
    rows = np.random.default_rng(0).permutation(len(images.train))[:N]
    real, truth = (features(name, x, device) for x in (images.train[rows], images.test))
    return {"frechet": metrics.frechet_distance(real, truth), "precision_recall": metrics.precision_recall(truth, real)}


def draw_grid(images, path, n_columns=16, n_rows=6):
    """Write the first images as one small PNG."""
    n, c, h, w = images.shape
    grid = images[: n_columns * n_rows].reshape(n_rows, n_columns, c, h, w).transpose(0, 3, 1, 4, 2)
    grid = grid.reshape(n_rows * h, n_columns * w, c)
    page.picture(1 - grid[..., 0] if c == 1 else grid, path)


def changes(recipe):
    """Yield what the ablation changes: nothing, the blur, and the minibatches."""
    yield {}
    for times in (0.5, 2, 3):
        yield {"blur": times * recipe.blur}
    for map_batch in (224, 448):
        yield {"map_batch": map_batch}


def ablate(name, device, n=2000, nfe=10, part=0.25):
    """Return the distance at ten evaluations of NSGF++, trained anew with every change in that part of the steps."""
    images, recipe = data.load(name), RECIPES[name, device]
    contest, truth, rows = Contest.of(images.train, recipe, device), features(name, images.test, device), []
    max_iter = tuple(int(part * k) for k in estimator("nsgf++", contest, recipe.seconds).max_iter)
    for change in changes(recipe):
        model = estimator("nsgf++", contest._replace(recipe=recipe._replace(**change)), recipe.seconds)
        peers.fitted(model.set_params(verbose=0, max_iter=max_iter), None, contest.images)
        found = features(name, sample(model, nfe, n, contest.shape), device)
        row = {"change": ", ".join(f"{k} {v:.3g}" for k, v in change.items()) or "nothing"}
        row |= {"frechet": metrics.frechet_distance(found, truth)}
        row |= {k: model.history_[k] for k in ("train_seconds", "straight_train_seconds")}
        row |= {k: model.report_[k] for k in ("velocity", "velocity_floor")}
        print(row, flush=True)
        rows.append(row)
    return rows


# %% The tables

ABLATION = {
    "change": "{change}",
    "Fréchet distance": "{frechet:.1f}",
    "phase 1 s": "{train_seconds:.1f}",
    "phase 2 s": "{straight_train_seconds:.1f}",
    "velocity": "{velocity:.2f}",
    "its floor": "{velocity_floor:.2f}",
}
OF_THE_PAPER = {  # the same of stored figures of the paper's NSGF++
    "change": "{change}",
    "Fréchet distance": "{frechet:.1f}",
    "τ, mean ± deviation": "{tau:.2f} ± {tau_std:.2f}",
    "pool s": "{pool_seconds:.1f}",
    "phase 1 s": "{train_seconds:.1f}",
    "phase 2 s": "{straight_train_seconds:.1f}",
    "regression gap": "{regression_gap:.2f}",
    "minibatch gap": "{minibatch_gap:.2f}",
}


def entries(part):
    """Yield (name, {what: figure}) of the rows of a table."""
    for model in (model for model in MODELS if model in part):
        f = part[model]
        frechet = {int(nfe): found["frechet"] for nfe, found in f["distance"].items()}
        quality = dict(zip(("precision", "recall"), f["precision_recall"], strict=True))
        quality |= {"copied": f["memorisation"][0]}
        yield (
            MODELS[model],
            {"n_iter": f["n_iter"], "seconds": f["seconds"], **{n: frechet[n] for n in NFES}, **quality},
        )
        if model == "nsgf++" and frechet.keys() >= set(STRICT.values()):  # of the paper's
            yield "the same, its predictor counted", {nfe: frechet[own] for nfe, own in STRICT.items()}
    if "floor" in part:
        precision, recall = part["floor"]["precision_recall"]
        distances = dict.fromkeys(NFES, part["floor"]["frechet"])
        yield "real, training images", distances | {"precision": precision, "recall": recall}


def models_table(part):
    """Return the table of all models on one data set and device."""
    rows = list(entries(part))
    rivals = [k for k, (name, _) in enumerate(rows) if name in MODELS.values()]

    def column(key, form, best=None):
        return page.column([[row[key]] if key in row else [] for _, row in rows], form, best, rivals)

    columns = {"model": [name for name, _ in rows]}
    columns |= {"steps trained": column("n_iter", "{:d}"), "seconds": column("seconds", "{:.0f}")}
    columns |= {f"{nfe} evaluations": column(nfe, "{:.1f}", min) for nfe in NFES}
    columns |= {key: column(key, "{:.2f}") for key in ("precision", "recall")} | {"copied": column("copied", "{:.3f}")}
    return page.table(columns)


def tables(result):
    found = {}
    for name, device in RECIPES:
        part = {key.rpartition("/")[2]: f for key, f in result.items() if key.startswith(f"{name}/{device}/")}
        found |= {f"{name}-{device}": models_table(part)} if part else {}
        if "ablation" in part:
            form = ABLATION if "velocity" in part["ablation"][0] else OF_THE_PAPER
            found[f"{name}-{device}-ablation"] = page.filled(form, part["ablation"])
    return found


if __name__ == "__main__":
    jobs = {}
    for recipe in RECIPES:
        measures = {model: functools.partial(measure, *recipe, model) for model in MODELS}
        measures |= {"floor": functools.partial(floor, *recipe), "ablation": functools.partial(ablate, *recipe)}
        jobs |= {"/".join((*recipe, part)): (lambda _, job=job: job(), [SEED]) for part, job in measures.items()}
    page.run(NAME, jobs, tables, PACKAGES, __doc__)
