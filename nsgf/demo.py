"""What ``nsgf demo`` shows: colours of one photograph carried to another's, and digits from noise in one evaluation."""

import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from sklearn.datasets import load_digits, load_sample_image

from nsgf import metrics, plots
from nsgf.estimators import NSGF, WFlow
from nsgf.sinkhorn import spread

_ROW = "{:>16}{:>12}" + 11 * "{:>10}"
_MEASURES = ("W2", "floor", "MMD", "floor", "precision", "floor", "recall", "floor", "deviation")
_HEAD = ("task", "evaluations", *_MEASURES, "fit s", "sample s")
_DRAWS = 9  # of real against real: one alone is off by a tenth


def run(output: Path) -> None:
    """Run both tasks, print the table, draw the picture to a file."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    start = time.perf_counter()
    figure, axes = plt.subplot_mosaic(
        [["china.jpg", "flower.jpg", "carried"], ["colours", "digits", "training"]],
        figsize=(15, 9),
        layout="constrained",
    )
    for name, panel in axes.items():
        panel.set_title(name)
    rng = np.random.default_rng(0)
    table = [_carry_colours(axes, rng), _make_digits(axes, rng)]
    axes["training"].legend()
    figure.savefig(output, dpi=80)
    print("", _ROW.format(*_HEAD), *table, sep="\n")
    print(f"floor: real samples against other real ones of the same size, the median of {_DRAWS} draws.")
    print("W2 alone hides a model that makes too few kinds: then recall lies below its floor, and deviation below 1.")
    print("evaluations: how often the network is asked to make one sample.")
    print(f"picture: {output}    total: {time.perf_counter() - start:.0f} s")


def _carry_colours(axes: dict[str, Axes], rng: np.random.Generator) -> str:
    """Carry the colours of one photograph to those of another; draw both, and the paths of the colours."""
    photographs = {name: load_sample_image(name) / 255.0 for name in ("china.jpg", "flower.jpg")}  # (427, 640, 3)
    x, y = (photograph.reshape(-1, 3) for photograph in photographs.values())
    model = NSGF(random_state=0, verbose=1).fit(_rows(x, rng), _rows(y, rng))
    photographs["carried"] = model.transform(x).clip(0, 1).reshape(photographs["china.jpg"].shape)
    for name, photograph in photographs.items():
        axes[name].imshow(photograph)
        axes[name].set_axis_off()
    paths = model.trajectory(_rows(x, rng, 150))[:, :, [0, 2]]
    plots.plot_trajectories(paths, _rows(y, rng, 1000)[:, [0, 2]], ax=axes["colours"])
    axes["colours"].set(title="trajectories of the colours", xlabel="red", ylabel="blue")
    axes["carried"].set_title("china.jpg in the colours of flower.jpg")
    plots.plot_loss(model.history_["loss"], ax=axes["training"], label="colours")
    return _evaluate("colours, NSGF", model, _rows(x, rng, 1000), _halves(_rows(y, rng, 100_000), 1000, rng))


def _make_digits(axes: dict[str, Axes], rng: np.random.Generator) -> str:
    """Make the 8 × 8 handwritten digits of noise at once; half of them is held out for the figures."""
    seen, unseen = np.array_split(rng.permutation(load_digits().data), 2)  # pixels in 0 … 16
    model = WFlow(random_state=0, verbose=1).fit(None, seen)
    plots.plot_images(model.sample(100).clip(0, 16), (8, 8), ax=axes["digits"])
    axes["digits"].set_title(f"digits from noise, {model.n_evaluations} function evaluation")
    plots.plot_loss(model.history_["loss"], ax=axes["training"], label="digits")
    return _evaluate("digits, WFlow", model, None, [(unseen, seen), *_halves(load_digits().data, len(unseen), rng)])


def _rows(x: np.ndarray, rng: np.random.Generator, n: int = 20_000) -> np.ndarray:
    return x[rng.choice(len(x), n, replace=False)]


def _halves(x: np.ndarray, n: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return disjoint samples of n rows in pairs, as many as there are draws of a floor."""
    drawn = [rng.permutation(x)[: 2 * n] for _ in range(_DRAWS)]
    return [(z[:n], z[n:]) for z in drawn]


def _evaluate(task: str, model: NSGF | WFlow, x: np.ndarray | None, real: list[tuple[np.ndarray, np.ndarray]]) -> str:
    """Return one row of the table: the result against real samples, beside the median of real against real."""
    y, start = real[0][0], time.perf_counter()
    made = model.sample(len(y)) if x is None else model.transform(x)
    seconds = time.perf_counter() - start
    figures = _figures(made, y), np.median([_figures(*pair) for pair in real], axis=0)
    row = [f"{z:.3g}" for both in zip(*figures, strict=True) for z in both]
    spent = model.history_.get("pool_seconds", 0.0) + model.history_["train_seconds"]
    width = f"{spread(made) / spread(y):.2f}"
    return _ROW.format(task, model.n_evaluations, *row, width, f"{spent:.1f}", f"{seconds:.3f}")


def _figures(made: np.ndarray, real: np.ndarray) -> tuple[float, float, float, float]:
    kinds = metrics.precision_recall(real, made)
    return metrics.wasserstein(made, real), metrics.mmd(made, real), kinds.precision, kinds.recall
