"""The command line: ``python -m nsgf demo | fit | transform | sample``."""

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nsgf import _files


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
        _check_written(arguments)
        arguments.run(arguments)
    except KeyboardInterrupt:
        return 130  # as shells have it
    except Exception as error:
        print(f"nsgf {arguments.command}:", *(str(error) or type(error).__name__).split(), file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    from nsgf import __version__

    parser = argparse.ArgumentParser(prog="nsgf", description="Neural Sinkhorn gradient flows.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(run: Callable[[argparse.Namespace], None], name: str, about: str, *files: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about)
        command.set_defaults(run=run, read=files)
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


def _check_written(arguments: argparse.Namespace) -> None:
    """Raise where the file that a command writes cannot be written, or is one that it reads."""
    name = "model" if arguments.command == "fit" else "output"
    path = _files.place(getattr(arguments, name))
    for other in (file for file in arguments.read if file != name):
        if path.exists() and getattr(arguments, other).exists() and path.samefile(getattr(arguments, other)):
            raise ValueError(f"{name} {str(path)!r} is {other} too, and would be lost. Give another path.")


def _load(path: Path) -> np.ndarray:
    try:
        _files.check_regular(path)
        with open(path, "rb") as file:  # np.load leaves a broken archive open
            array = np.load(file, allow_pickle=False)
        if isinstance(array, np.ndarray):
            return array
        reason = "it is an archive of arrays"
    except Exception as error:  # of NumPy, zipfile or the system
        reason = "it is pickled, or text" if "pickle" in str(error) else str(error)
    raise ValueError(f"{str(path)!r} cannot be read ({reason}). Give one array as a .npy file, that of numpy.save.")


def _save(path: Path, array: np.ndarray) -> None:
    """Write an array, all or nothing, under the very name; numpy.save would append .npy to another."""
    blob = io.BytesIO()
    np.save(blob, array)
    _files.replace(path, blob.getvalue())


def _fit(arguments: argparse.Namespace) -> None:
    from nsgf import NSGF

    source = None if str(arguments.source) == "noise" else _load(arguments.source)
    blur = "auto" if arguments.blur is None else arguments.blur
    model = NSGF(blur, random_state=arguments.seed, verbose=1).fit(source, _load(arguments.target))
    model.save(arguments.model)


def _transform(arguments: argparse.Namespace) -> None:
    import nsgf

    _save(arguments.output, nsgf.load(arguments.model).transform(_load(arguments.source)))


def _sample(arguments: argparse.Namespace) -> None:
    import nsgf

    _save(arguments.output, nsgf.load(arguments.model).sample(arguments.n, random_state=arguments.seed))


def _demo(arguments: argparse.Namespace) -> None:
    from matplotlib.backend_bases import FigureCanvasBase

    from nsgf import demo

    if arguments.output.suffix[1:] not in FigureCanvasBase.filetypes:
        formats = ", ".join(sorted(FigureCanvasBase.filetypes))
        raise ValueError(f"output {str(arguments.output)!r} has no known format. Let its name end in one of {formats}.")
    demo.run(arguments.output)


if __name__ == "__main__":
    sys.exit(main())
