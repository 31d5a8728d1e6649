"""What ``nsgf demo`` shows: colours of one photograph carried to another's, and digits from noise."""

import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from sklearn.datasets import load_digits, load_sample_image

from nsgf import metrics, plots
from nsgf.estimators import NSGF

_ROW = "{:>16}" + 8 * "{:>12}"


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
    head = ("task", "W2", "W2 floor", "MMD", "MMD floor", "evaluations", "pool s", "train s", "sample s")
    print("", _ROW.format(*head), *table, "floor: real samples against other real samples of the same size", sep="\n")
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
    return _evaluate("china → flower", model, _rows(x, rng, 2000), _rows(y, rng, 2000), _rows(y, rng, 2000))


def _make_digits(axes: dict[str, Axes], rng: np.random.Generator) -> str:
    """Carry noise to the 8 × 8 handwritten digits; half of them is held out for the figures."""
    seen, unseen = np.array_split(rng.permutation(load_digits().data), 2)  # pixels in 0 … 16
    model = NSGF(blur=8.0, n_steps=10, step_size=0.4, n_batches=16, random_state=0, verbose=1).fit(None, seen)
    plots.plot_images(model.sample(100).clip(0, 16), (8, 8), ax=axes["digits"])
    axes["digits"].set_title(f"digits from noise, {model.n_steps} function evaluations")
    plots.plot_loss(model.history_["loss"], ax=axes["training"], label="digits")
    return _evaluate("noise → digits", model, None, unseen, seen)


def _rows(x: np.ndarray, rng: np.random.Generator, n: int = 20_000) -> np.ndarray:
    return x[rng.choice(len(x), n, replace=False)]


def _evaluate(task: str, model: NSGF, x: "np.ndarray | None", y: np.ndarray, y_other: np.ndarray) -> str:
    """Return one row of the table: the result against fresh target samples, beside real against real."""
    start = time.perf_counter()
    result = model.sample(len(y)) if x is None else model.transform(x)
    seconds = time.perf_counter() - start
    figures = [measure(z, y) for measure in (metrics.wasserstein, metrics.mmd) for z in (result, y_other)]
    spent = model.history_["pool_seconds"], model.history_["train_seconds"]
    return _ROW.format(
        task, *(f"{z:.3g}" for z in figures), model.n_steps, *(f"{z:.1f}" for z in spent), f"{seconds:.3f}"
    )
