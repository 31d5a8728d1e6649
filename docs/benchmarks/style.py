"""Style transfer: emoji as Google draws them, redrawn as Twitter draws them, learnt without pairs.

python docs/benchmarks/style.py all    measure, and write style.json, the picture and the table
python docs/benchmarks/style.py        write the table from the JSON alone

Both sets have an image of every name, which gives held-out images a true counterpart; training sees two heaps without
names. The heaps are split by the first code point of the name, so that no variant of a held-out emoji, in another tone
of skin say, was seen.
"""

import functools
import time

import data
import images
import numpy as np
import ot
import page
import peers
import torch
from sklearn.model_selection import GroupShuffleSplit
from torch import nn

from nsgf import NSGF, Training

NAME = "style"
PACKAGES = ("nsgf", "numpy", "pot", "torch", "scikit-learn")
SEEDS, HELD_OUT, N_SHOWN = range(3), 0.2, 14
REGS = (1e-1, 3e-2, 1e-2)  # of the largest cost
ITERATIONS = {"colour map": 1000, "unet": 600}
NAMES = {
    "identity": "identity",
    "colour transfer": "colour transfer, mean and deviation of each channel",
    "quantiles": "colour transfer, quantiles of each channel",
    "faded": "faded: half-way to the mean colour of Twitter's",
    **{f"pot {reg:g}": f"POT, ``SinkhornTransport(reg_e={reg:g})``" for reg in REGS},
    "colour map": "NSGF, colour map",
    "unet": "NSGF, UNet",
    "told pairs": "NSGF, colour map, told the pairs",
}


class ColourMap(nn.Module):
    """A velocity that changes colours and moves nothing: each pixel by its own colour, and by what the image shows.

    The estimator takes the mean image of the source off, and carries it to that of the target by itself; `mean` is the
    former in the estimator's unit, and is added again.
    """

    def __init__(self, mean, width=32, n_context=16):
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        stages = []
        for n, m in ((3, 16), (16, 32), (32, 64)):  # each halves the height and the width
            stages += [nn.Conv2d(n, m, 3, 2, padding=1), nn.GroupNorm(4, m), nn.SiLU()]
        self.context = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Conv2d(64, n_context, 1))
        layers = [nn.Conv2d(3 + n_context, width, 1), nn.SiLU(), nn.Conv2d(width, width, 1), nn.SiLU()]
        self.pixel = nn.Sequential(*layers, nn.Conv2d(width, 3, 1))

    def forward(self, x, t):
        colour = x + self.mean  # (n, 3, h, w)
        return self.pixel(torch.cat([colour, self.context(colour).expand(-1, -1, *x.shape[2:])], dim=1))


def carried(x, y, new, network, max_iter, seed, pairs=None):
    """Return new images, carried by one whole step of the flow from the heap x to the heap y."""
    model = NSGF(
        n_steps=1,
        step_size=1.0,
        batch_size=len(x) if pairs is None else 512,
        n_batches=1 if pairs is None else 8,
        network=network,
        training=Training(learning_rate=2e-3, batch_size=32),
        max_iter=max_iter,
        random_state=seed,
    )
    peers.fitted(model, x, y, pairs=pairs)
    return model.transform(new).clip(0, 1).astype(np.float32)


def colour_transfer(x, y, new):
    """Return new images with the means and deviations of x's channels made those of y's (Reinhard et al. 2001)."""
    (m_x, s_x), (m_y, s_y) = ((z.mean((0, 2, 3), keepdims=True), z.std((0, 2, 3), keepdims=True)) for z in (x, y))
    return ((new - m_x) / s_x * s_y + m_y).clip(0, 1)


def quantile_transfer(x, y, new):
    """Return new images with the distribution of each of x's channels made that of y's."""
    levels, made = np.linspace(0, 1, 256), np.empty_like(new)
    for c in range(3):
        made[:, c] = np.interp(new[:, c], *(np.quantile(z[:, c], levels) for z in (x, y)))
    return made


def pot_mapping(x, y, new, reg):
    """Return new images by POT's entropic mapping and its extension to samples that it has not seen."""
    mapping = ot.da.SinkhornTransport(reg_e=reg, norm="max", max_iter=300)
    rows = [z.reshape(len(z), -1).astype(np.float64) for z in (x, y, new)]
    made = mapping.fit(Xs=rows[0], Xt=rows[1]).transform(Xs=rows[2])
    return made.reshape(new.shape).clip(0, 1).astype(np.float32)


def methods(x, y, new, told, seed):
    """Return what makes new images by each method, from two heaps x and y, or from the pairs that are told."""

    def colour_map(x, y, pairs=None):
        torch.manual_seed(seed)
        unit = np.sqrt(0.5 * (x.var(axis=0) + y.var(axis=0)).mean())
        return carried(x, y, new, ColourMap(x.mean(axis=0) / unit), ITERATIONS["colour map"], seed, pairs)

    def with_unet():
        torch.manual_seed(seed)
        recipe = images.RECIPES["cifar10", "cpu"]._replace(width=24, multipliers=(1, 2, 2))
        return carried(x, y, new, images.OnPatches((3, 64, 64), recipe), ITERATIONS["unet"], seed)

    return {
        "identity": lambda: new,
        "colour transfer": lambda: colour_transfer(x, y, new),
        "quantiles": lambda: quantile_transfer(x, y, new),
        "faded": lambda: 0.5 * (new + y.mean((0, 2, 3), keepdims=True)),
        **{f"pot {reg:g}": functools.partial(pot_mapping, x, y, new, reg) for reg in REGS},
        "colour map": lambda: colour_map(x, y),
        "unet": with_unet,
        "told pairs": lambda: colour_map(*told, np.repeat(np.arange(len(x))[:, None], 2, axis=1)),
    }


def measure(seed):
    """Return the figures of every method on one split; draw the first."""
    google, twitter, names = data.emoji()
    groups = [name.split("-")[0] for name in names]  # all emoji of one first code point on one side
    train, test = next(GroupShuffleSplit(1, test_size=HELD_OUT, random_state=seed).split(google, groups=groups))
    rng = np.random.default_rng(seed)
    x, y = google[rng.permutation(train)], twitter[rng.permutation(train)]
    new, truth = google[test], twitter[test]
    true_features = data.photo_features(truth)
    found, shown = {"n_train": len(train), "n_test": len(test)}, {}
    for name, make in methods(x, y, new, (google[train], twitter[train]), seed).items():
        start = time.perf_counter()
        shown[name] = make()
        found[name] = {
            "seconds": time.perf_counter() - start,
            "mse": float(np.mean((shown[name] - truth) ** 2)),
            "feature": float(np.mean(np.linalg.norm(data.photo_features(shown[name]) - true_features, axis=1))),
        }
        print(seed, name, found[name], flush=True)
    if seed == SEEDS[0]:
        draw(new, truth, shown, rng.choice(len(test), N_SHOWN, replace=False))
    return found


def draw(new, truth, shown, rows):
    """Write the picture: source, colour map, UNet, POT and truth, one emoji a column."""
    lines = [new, shown["colour map"], shown["unet"], shown[f"pot {REGS[-1]:g}"], truth]
    grid = np.stack([z[rows] for z in lines]).transpose(0, 3, 1, 4, 2)  # (lines, h, columns, w, 3)
    grid = np.pad(grid, ((0, 0), (4, 4), (0, 0), (4, 4), (0, 0)), constant_values=1.0)
    page.picture(grid.reshape(len(lines) * 72, len(rows) * 72, 3), page.HERE / "style.png")


def tables(result):
    """Return the table of all methods; the smallest medians of those that are told nothing are bold."""
    each, untold = {name: [run[name] for run in result["emoji"]] for name in NAMES}, range(len(NAMES) - 1)
    columns = {"": NAMES.values()}
    for head, key, form in (("squared error", "mse", "{:.4f}"), ("feature distance", "feature", "{:.1f}")):
        columns[head] = page.column([[run[key] for run in runs] for runs in each.values()], form, min, untold)
    seconds = page.column([[run["seconds"] for run in runs] for runs in each.values()], "{:.0f}")
    return {"figures": page.table(columns | {"seconds": ["", *seconds[1:]]})}  # the identity takes none


if __name__ == "__main__":
    page.run(NAME, {"emoji": (page.per_seed(measure), SEEDS)}, tables, PACKAGES, __doc__)
