"""Scikit-learn estimators: the contract in `base`, and one leaf a file."""

import os
from typing import Any

from torch import nn

from nsgf import _io
from nsgf.estimators.base import BaseFlow
from nsgf.estimators.nsgf import NSGF
from nsgf.estimators.nsgf_plus_plus import NSGFPlusPlus
from nsgf.estimators.sinkhorn_flow import SinkhornFlow
from nsgf.estimators.wflow import WFlow

__all__ = ["NSGF", "BaseFlow", "NSGFPlusPlus", "SinkhornFlow", "WFlow", "load"]


def _leaves(kind: Any) -> dict[str, Any]:
    """Return all subclasses by name; of one name, the one of this library."""
    found: dict[str, Any] = {}
    for leaf in reversed(kind.__subclasses__()):
        found |= _leaves(leaf) | {leaf.__name__: leaf}
    return found


def load(path: "str | os.PathLike[str]", *, network: nn.Module | None = None, encoder: Any = None) -> BaseFlow:
    """Read a fitted model, of whatever estimator the file holds.

    Parameters
    ----------
    path : path-like
        A file that `save` wrote.
    network : torch module, optional
        The architecture, where the model was fitted with a module of your own: a file holds no code.
    encoder : transformer, or pair of transformers, optional
        The fitted encoder, where it was one of your own.

    Raises
    ------
    OSError
        Where there is no such file (FileNotFoundError), or it may not be read.
    ValueError
        Where it is cut short, damaged, changed, or of another program or version.

    Examples
    --------
    >>> import tempfile, numpy as np, nsgf
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = nsgf.NSGF(max_iter=50, batch_size=50, n_batches=2, random_state=0).fit(x, x + 1.0)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     model.save(f"{directory}/model.safetensors")
    ...     type(nsgf.load(f"{directory}/model.safetensors")).__name__
    'NSGF'
    """
    arrays, meta = _io.read(path)
    name, leaves = str(meta.get("class")), _leaves(BaseFlow)
    if name not in leaves:
        raise ValueError(f"{os.fspath(path)!r} holds a {name}, which is none of {', '.join(sorted(leaves))}.")
    model: BaseFlow = leaves[name]._of_file(path, arrays, meta, network, encoder)  # noqa: SLF001  its own
    return model
