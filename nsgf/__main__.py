"""The command line: ``python -m nsgf demo | fit | transform | sample``."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np


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

    def add(run: Callable[[argparse.Namespace], None], name: str, about: str, *files: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about)
        command.set_defaults(run=run)
        for file in files:
            command.add_argument(file, type=Path)
        return command

    demo = add(_demo, "demo", "colours of one photograph carried to another's, and digits from noise")
    demo.add_argument("--output", type=Path, default=Path("nsgf-demo.png"), help="where the picture goes")
    fit = add(_fit, "fit", "learn the flow from one .npy sample, or 'noise', to another", "source", "target", "model")
    fit.add_argument("--blur", type=float, help="length scale in the units of the data; relative to them by default")
    fit.add_argument("--seed", type=int, default=0)
    add(_transform, "transform", "carry a .npy sample along a learnt flow", "model", "source", "output")
    sample = add(_sample, "sample", "draw from a learnt flow", "model")
    sample.add_argument("n", type=int)
    sample.add_argument("output", type=Path)
    sample.add_argument("--seed", type=int)
    return parser


def _load(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _fit(arguments: argparse.Namespace) -> None:
    from nsgf import NSGF

    source = None if str(arguments.source) == "noise" else _load(arguments.source)
    blur = "auto" if arguments.blur is None else arguments.blur
    model = NSGF(blur, random_state=arguments.seed, verbose=1).fit(source, _load(arguments.target))
    model.save(arguments.model)


def _transform(arguments: argparse.Namespace) -> None:
    import nsgf

    np.save(arguments.output, nsgf.load(arguments.model).transform(_load(arguments.source)))


def _sample(arguments: argparse.Namespace) -> None:
    import nsgf

    np.save(arguments.output, nsgf.load(arguments.model).sample(arguments.n, random_state=arguments.seed))


def _demo(arguments: argparse.Namespace) -> None:
    from nsgf import demo

    demo.run(arguments.output)


if __name__ == "__main__":
    sys.exit(main())
