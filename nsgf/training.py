"""How a field is trained: the habits of the optimiser, and what is kept on disk meanwhile."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Literal

from nsgf import _checks, _io

__all__ = ["Training"]

_PASSES, _FEWEST = 8, 1000  # of a pool, and steps: labels of few rows need more than 500


@_io.storable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a field is trained, beside the number of steps.

    In an estimator, its fields can be set and searched over one by one: ``set_params(training__learning_rate=1e-3)``.

    Parameters
    ----------
    learning_rate : float
        The optimiser's largest learning rate; over the last 40 % of the steps it falls to zero.
    optimiser : {"adam", "muon"}
        Muon moves the matrices of a network, all but the last, by steps of equal size in every direction, and Adam the
        rest; a network with convolutions is Adam's alone. It learns more in a step, which takes longer.
    batch_size : int
        Rows of one optimisation step.
    ema_decay : float
        Decay a step of the moving average of the weights, which is the field that is kept.
    clip : float
        Largest norm of a gradient; longer ones are shortened to it.
    warmup : int
        Steps in which the learning rate rises in proportion.
    bf16 : bool
        Compute the network in bfloat16, and keep weights and losses in float32. Worth its while on recent GPUs.
    channels_last : bool
        Keep the weights of convolutions in the order that is faster on most devices.
    compile : bool
        Compile the network with ``torch.compile``: a minute at first, faster steps after.
    validate_every : int
        Steps between two figures of a network on what it is not trained on: velocities of other minibatches, or other
        lines between samples; 0 for none.
    patience : int
        Validations without a better figure after which the training ends; 0 to train to the end. What is kept is the
        average of the last weights.
    condition_dropout : float
        Particles of a conditional model whose condition is dropped before the transport, as a fraction of a minibatch:
        from them the network learns the field without conditions, which guidance needs.
    held_out : float
        Rows of each sample that are kept for the report and not learnt from, as a fraction, at most 1024. Where that is
        fewer than 100, none are, and the report says so.
    refill_every : int
        Steps between two new minibatch flows, each of which replaces the oldest in the pool; 0 for a fixed pool.
    pool_bytes : int or None
        Largest size of the pool; a larger one is an error before any work.
    directory : path-like or None
        Where the pool (in float16, half the size) and checkpoints are kept, of one fit at a time. Called again with the
        same data and parameters, `fit` goes on from there, so that a killed training loses `checkpoint_every` steps at
        most; what is complete is not computed again. Without it the pool is in memory, in float32, and nothing is
        written.
    checkpoint_every : int
        Steps between two checkpoints.

    Raises
    ------
    ValueError
        On a value out of its range.

    Examples
    --------
    >>> from nsgf import NSGF, Training
    >>> model = NSGF(training=Training(clip=1.0, warmup=500, ema_decay=0.9999))
    """

    learning_rate: float = 5e-3
    optimiser: Literal["adam", "muon"] = "muon"
    batch_size: int = 256
    ema_decay: float = 0.999
    clip: float = float("inf")
    warmup: int = 0
    bf16: bool = False
    channels_last: bool = False
    compile: bool = False
    validate_every: int = 0
    patience: int = 0
    condition_dropout: float = 0.2
    held_out: float = 0.1
    refill_every: int = 0
    pool_bytes: int | None = None
    directory: "str | os.PathLike[str] | None" = None
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        _checks.positive("learning_rate", self.learning_rate, "5e-3")
        _checks.fraction("ema_decay", self.ema_decay, "0.999")
        _checks.fraction("condition_dropout", self.condition_dropout, "0.2")
        _checks.fraction("held_out", self.held_out, "0.1")
        if not _checks.real(self.clip) > 0:
            raise ValueError(f"clip={self.clip!r} must be positive; 1.0 is a good value, infinity means no clipping.")
        _checks.one_of("optimiser", self.optimiser, ("adam", "muon"))
        for name in ("bf16", "channels_last", "compile"):
            _checks.flag(name, getattr(self, name))
        for name in ("batch_size", "checkpoint_every"):
            _checks.count(name, getattr(self, name))
        for name in ("warmup", "validate_every", "patience", "refill_every"):
            _checks.count(name, getattr(self, name), 0)
        if self.pool_bytes is not None:
            _checks.count("pool_bytes", self.pool_bytes, 0, most=2**63)
        if self.directory is not None:
            _checks.path("directory", self.directory)
        if self.patience and not self.validate_every:
            raise ValueError(f"patience={self.patience} needs validations: set validate_every, such as to 500.")

    def steps(self, max_iter: int, n_rows: int) -> int:
        """Return how many steps a pool of `n_rows` is worth: eight passes, 1000 at least, and `max_iter` at most.

        A pool that is refilled has no end. Held-out figures do not tell when to end: those of velocities no longer move
        while what is made of them still comes nearer to the target.

        Examples
        --------
        >>> Training(batch_size=256).steps(2000, 32 * 5 * 1024), Training(batch_size=256).steps(2000, 32 * 5 * 89)
        (2000, 1000)
        """
        passes = math.inf if self.refill_every else _PASSES * n_rows / self.batch_size
        return int(min(max_iter, max(_FEWEST, passes)))

    def path(self, name: str) -> Path | None:
        """Return where `name` is kept, or None where nothing is."""
        return None if self.directory is None else Path(self.directory) / name
