"""The command line: ``python -m nsgf demo | fit | transform | sample``."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["main"]


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run one command; return the exit status.

    Examples
    --------
    >>> main(["--version"])
    Traceback (most recent call last):
    SystemExit: 0
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"nsgf {arguments.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    from nsgf import __version__

    parser = argparse.ArgumentParser(prog="nsgf", description="Neural Sinkhorn gradient flows.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="colours of one photograph carried to another's, and digits from noise")
    demo.add_argument("--output", type=Path, default=Path("nsgf-demo.png"), help="where the picture goes")
    demo.set_defaults(run=_demo)

    fit = commands.add_parser("fit", help="learn the flow from one .npy sample to another")
    fit.add_argument("source", help=".npy array (n, d), or 'noise'")
    fit.add_argument("target", type=Path, help=".npy array (m, d)")
    fit.add_argument("model", type=Path, help="the .safetensors file to write")
    fit.add_argument("--blur", type=float, help="length scale in the units of the data; relative to them by default")
    fit.add_argument("--seed", type=int, default=0)
    fit.set_defaults(run=_fit)

    transform = commands.add_parser("transform", help="carry a .npy sample along a learnt flow")
    transform.add_argument("model", type=Path)
    transform.add_argument("source", type=Path)
    transform.add_argument("output", type=Path)
    transform.set_defaults(run=_transform)

    sample = commands.add_parser("sample", help="draw from a learnt flow")
    sample.add_argument("model", type=Path)
    sample.add_argument("n", type=int)
    sample.add_argument("output", type=Path)
    sample.add_argument("--seed", type=int)
    sample.set_defaults(run=_sample)
    return parser


def _load(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _fit(arguments: argparse.Namespace) -> None:
    from nsgf import NSGF

    source = None if arguments.source == "noise" else _load(Path(arguments.source))
    model = NSGF(arguments.blur or "auto", random_state=arguments.seed, verbose=1).fit(source, _load(arguments.target))
    model.save(arguments.model)


def _transform(arguments: argparse.Namespace) -> None:
    from nsgf import NSGF

    np.save(arguments.output, NSGF.load(arguments.model).transform(_load(arguments.source)))


def _sample(arguments: argparse.Namespace) -> None:
    from nsgf import NSGF

    np.save(arguments.output, NSGF.load(arguments.model).sample(arguments.n, random_state=arguments.seed))


def _demo(arguments: argparse.Namespace) -> None:
    """Run both tasks, print the table, draw the picture."""
    import matplotlib as mpl

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
    figure.savefig(arguments.output, dpi=80)
    _print_table(table)
    print(f"picture: {arguments.output}    total: {time.perf_counter() - start:.0f} s")


def _carry_colours(axes: dict[str, Any], rng: np.random.Generator) -> dict[str, str]:
    """Carry the colours of one photograph to those of another; draw both, and the paths of the colours."""
    from sklearn.datasets import load_sample_image

    from nsgf import NSGF, plots

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


def _make_digits(axes: dict[str, Any], rng: np.random.Generator) -> dict[str, str]:
    """Carry noise to the 8 × 8 handwritten digits; half of them is held out for the figures."""
    from sklearn.datasets import load_digits

    from nsgf import NSGF, plots

    seen, unseen = np.array_split(rng.permutation(load_digits().data), 2)  # pixels in 0 … 16
    model = NSGF(blur=8.0, n_steps=10, step_size=0.4, n_batches=16, random_state=0, verbose=1).fit(None, seen)
    plots.plot_images(model.sample(100).clip(0, 16), (8, 8), ax=axes["digits"])
    axes["digits"].set_title(f"digits from noise, {model.n_steps} function evaluations")
    plots.plot_loss(model.history_["loss"], ax=axes["training"], label="digits")
    return _evaluate("noise → digits", model, None, unseen, seen)


def _rows(x: np.ndarray, rng: np.random.Generator, n: int = 20_000) -> np.ndarray:
    return x[rng.choice(len(x), n, replace=False)]


def _evaluate(task: str, model: Any, x: "np.ndarray | None", y: np.ndarray, y_other: np.ndarray) -> dict[str, str]:
    """Return one row of the table: the result against fresh target samples, beside real against real."""
    from nsgf import metrics

    start = time.perf_counter()
    result = model.sample(len(y)) if x is None else model.transform(x)
    seconds = time.perf_counter() - start
    return {
        "task": task,
        "W2": f"{metrics.wasserstein(result, y):.4g}",
        "W2 floor": f"{metrics.wasserstein(y_other, y):.4g}",
        "MMD": f"{metrics.mmd(result, y):.3g}",
        "MMD floor": f"{metrics.mmd(y_other, y):.3g}",
        "evaluations": str(model.n_steps),
        "pool s": f"{model.history_['pool_seconds']:.1f}",
        "train s": f"{model.history_['train_seconds']:.1f}",
        "sample s": f"{seconds:.3f}",
    }


def _print_table(table: list[dict[str, str]]) -> None:
    rows = [list(table[0]), *(list(row.values()) for row in table)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print("floor: real samples against other real samples of the same size")


if __name__ == "__main__":
    sys.exit(main())
