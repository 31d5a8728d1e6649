r"""Matching: the one training loop.

.. math::  \min_\theta \; \mathbb{E}\, |v_\theta(x, t) - v|^2

over the batches that ``draw(rng)`` returns. Velocities of a pool (NSGF, eq. 16) and those of straight lines (NSGF++,
eq. 18) differ only in their ``draw``.
"""

import copy
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nsgf import _checks, _io, _random
from nsgf._arrays import to_torch
from nsgf.training import Training

Example = tuple[tuple[Any, ...], np.ndarray]  # inputs of a network, and its target
Draw = Callable[[np.random.Generator], Example]
_DECAY = 0.4  # the last part of the steps, in which the learning rate falls to zero
_ALONE = 2**27  # weights times rows of a step that one core takes sooner than several agree on it
_CHUNK = {"cpu": 2**17, "cuda": 2**23}  # numbers that one forward pass takes at prediction: what a cache or a GPU holds


class Matched(NamedTuple):
    """A trained network, with the story of its training.

    Attributes
    ----------
    net : torch module
        The moving average of the weights, in evaluation mode.
    loss : array of shape (n_iter,)
        Mean squared error of every step, a row and feature.
    validation : array of shape (k, 2)
        Steps done, and the figure of the average then.
    """

    net: nn.Module
    loss: np.ndarray
    validation: np.ndarray


def train(  # noqa: PLR0913  what is trained, on what, for how long, and what happens meanwhile
    net: nn.Module,
    draw: Draw,
    rng: np.random.Generator,
    n_iter: int,
    training: Training = Training(),  # noqa: B008  immutable
    *,
    held_out: Sequence[Example] = (),
    checkpoint: Path | None = None,
    progress: Callable[[range], Iterable[int]] = iter,
    ends_early: bool = True,
) -> Matched:
    """Match `net` to the batches.

    Adam or Muon; the learning rate rises over the warm-up, stays, and falls to zero in proportion over the last 40 % of
    the steps. Of a small network without convolutions, a step takes one thread: those of NumPy, torch and other
    programs spin for each other where there are more of them than cores.

    Parameters
    ----------
    net : torch module
        Called on the inputs of a batch; trained in place, on its own device.
    draw : callable
        Returns a batch: the network's inputs, such as positions (n, d) and times (n,), and its target, such as
        velocities (n, d).
    rng : numpy Generator
        What `draw` draws from; its state is kept in the checkpoints.
    n_iter : int
        Optimisation steps.
    training : Training
        The habits of the optimiser.
    held_out : sequence of (inputs, target)
        What the validation figures are read on, by :func:`relative_error`.
    checkpoint : path, optional
        A file to go on from where it exists, written every ``training.checkpoint_every`` steps.
    progress : callable
        Wraps the range of steps, as ``tqdm`` does.
    ends_early : bool
        Whether Ctrl-C ends the training with a warning and keeps what has been learnt, if anything, or passes through.
        A checkpoint is written either way.

    Raises
    ------
    FloatingPointError
        Where the loss is no longer finite.
    OSError
        Where a checkpoint cannot be written; the one before is left as it was.
    ValueError
        Where the checkpoint is damaged, or of another network.
    """
    run = _Run(net, int(rng.integers(2**31)), n_iter, training, checkpoint)
    run.restore(rng)
    try:
        with _random.on_threads(_threads(net, training.batch_size)):
            for _ in itertools.islice(progress(range(n_iter)), run.n_done, None):
                if not run.goes_on(draw, rng, held_out):
                    break
    except KeyboardInterrupt:
        run.rewind(rng)
        if not (ends_early and run.n_done):
            run.save(rng)
            raise
        message = f"Training stopped by Ctrl-C after {run.n_done} of {n_iter} steps"
        _checks.warn(f"{message}; the field learnt so far is kept.")
    run.save(rng)
    return run.result()


class _Run:
    """A training under way: all that a checkpoint holds."""

    def __init__(
        self, net: nn.Module, seed: int, n_iter: int, training: Training, checkpoint: Path | None = None
    ) -> None:
        self.seed = seed  # of a network's own dropout
        self.net, self.training, self.checkpoint, self.n_saved = net.train(), training, checkpoint, 0
        if training.channels_last:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = next(net.parameters()).device
        self.forward = torch.compile(net) if training.compile else net
        self.optimisers = _optimisers(net, training)
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(
                optimiser, lambda k: min(1.0, (k + 1) / (training.warmup + 1), (1 - k / n_iter) / _DECAY)
            )
            for optimiser in self.optimisers
        ]
        self.average = copy.deepcopy(net)
        self.means, self.news = ([w.detach() for w in z.parameters()] for z in (self.average, net))
        self.start, self.is_whole = _digest(net), True
        self.before: tuple[int, Any, list[Tensor]] = (-1, None, [])  # steps done; then what a draw and a pass change
        self.losses: list[Tensor] = []
        self.validation: list[tuple[int, float]] = []

    @property
    def n_done(self) -> int:
        return len(self.losses)

    def goes_on(self, draw: Draw, rng: np.random.Generator, held_out: Sequence[Example]) -> bool:
        """Take one more step, with what is due after it; return False instead where nothing more is to be gained."""
        if self.has_stalled():
            return False
        self.before = self.n_done, rng.bit_generator.state, [z.clone() for z in self.net.buffers()]
        self.step(*draw(rng))
        every = self.training.validate_every
        if held_out and every and self.n_done % every == 0:
            self.validation.append((self.n_done, relative_error(self.average.eval(), held_out)))
        self.is_whole = True
        if self.n_done % self.training.checkpoint_every == 0:
            self.save(rng)
        return True

    def rewind(self, rng: np.random.Generator) -> None:
        """Undo what a step that Ctrl-C cut short has drawn."""
        done, state, buffers = self.before
        if done == self.n_done:
            rng.bit_generator.state = state
            for now, then in zip(self.net.buffers(), buffers, strict=True):
                now.copy_(then)

    def step(self, inputs: tuple[np.ndarray, ...], target: np.ndarray) -> None:
        """Take one step of the optimiser on a batch."""
        *tensors, wanted = (to_torch(z, self.device) for z in (*inputs, target))
        with _random.seeded(self.seed + self.n_done, self.device):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.training.bf16):
                got = _of_shape(self.forward(*tensors), wanted.shape)
            loss = nn.functional.mse_loss(got.float(), wanted)
            self.net.zero_grad()
            loss.backward()
        if self.training.clip < math.inf:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.training.clip)
        self.is_whole = False  # until the figure that is due is there too; Ctrl-C can come anywhere
        for optimiser, schedule in zip(self.optimisers, self.schedules, strict=True):
            optimiser.step()
            schedule.step()
        self.mix()
        self.losses.append(loss.detach())

    def mix(self) -> None:
        """Move the average towards the newest weights: by 1 − decay in the long run, by more at first."""
        torch._foreach_lerp_(self.means, self.news, max(1.0 - self.training.ema_decay, 9.0 / (9.0 + self.n_done)))
        for mean, now in zip(self.average.buffers(), self.net.buffers(), strict=True):
            mean.copy_(now)

    def has_stalled(self) -> bool:
        """Whether the last `patience` validations brought nothing better than an earlier one."""
        figures, patience = [figure for _, figure in self.validation], self.training.patience
        return 0 < patience < len(figures) and min(figures[-patience:]) >= min(figures[:-patience])

    def result(self) -> Matched:
        loss = torch.stack(self.losses).cpu().numpy() if self.losses else np.empty(0, np.float32)
        return Matched(self.average.eval(), loss, np.array(self.validation, dtype=float).reshape(-1, 2))

    def save(self, rng: np.random.Generator) -> None:
        """Write the checkpoint, all or nothing; raise where what was learnt is not finite."""
        if self.losses and not bool(self.losses[-1].isfinite()):
            raise FloatingPointError(
                f"the loss is {float(self.losses[-1])} after {self.n_done} steps. Lower the learning rate or clip "
                "gradients, training=Training(learning_rate=1e-3, clip=1.0), or leave bf16 out."
            )
        if self.checkpoint is None or self.n_done == self.n_saved or not self.is_whole:
            return
        try:
            _io.write(self.checkpoint, *self._state(rng))
        except OSError as error:
            if error.errno not in _checks.NO_ROOM:
                raise
            message = f"no room for the checkpoint of step {self.n_done}; the one before is intact. Free some space, "
            message += "then call fit again: it goes on from there"
            raise OSError(error.errno, message, str(self.checkpoint)) from error
        self.n_saved = self.n_done

    def _state(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the arrays and the JSON of a checkpoint."""
        _, loss, validation = self.result()
        arrays = {"loss": loss, "validation": validation}
        for part in ("net", "average"):
            arrays |= {f"{part}.{k}": v.cpu().numpy() for k, v in getattr(self, part).state_dict().items()}
        states = [optimiser.state_dict() for optimiser in self.optimisers]
        for j, state in enumerate(states):
            for i, moments in state["state"].items():
                arrays |= {f"optimiser.{j}.{i}.{k}": v.cpu().numpy() for k, v in moments.items()}
        return arrays, {
            "start": self.start,
            "rng": json.loads(json.dumps(rng.bit_generator.state, default=np.ndarray.tolist)),
            "groups": [state["param_groups"] for state in states],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
        }

    def restore(self, rng: np.random.Generator) -> None:
        """Go on from the checkpoint, where there is one of a training from the same weights."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        try:
            arrays, meta = _io.read(self.checkpoint)
            if meta["start"] == self.start:
                self._take(rng, arrays, meta)
        except (ValueError, KeyError, RuntimeError) as error:
            raise ValueError(f"the checkpoint {str(self.checkpoint)!r} does not fit: {error}. Delete it.") from error

    def _take(self, rng: np.random.Generator, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
        for part in ("net", "average"):
            getattr(self, part).load_state_dict(_io.below(part, tensors))
        for j, (optimiser, groups) in enumerate(zip(self.optimisers, meta["groups"], strict=True)):
            moments = _io.below(f"optimiser.{j}", tensors)
            states = {int(i): _io.below(i, moments) for i in {k.partition(".")[0] for k in moments}}
            optimiser.load_state_dict({"param_groups": groups, "state": states})
        for schedule, state in zip(self.schedules, meta["schedules"], strict=True):
            schedule.load_state_dict(state)
        self.losses = list(tensors["loss"].to(self.device))
        self.validation = [(int(k), float(figure)) for k, figure in arrays["validation"]]
        self.n_saved = self.n_done
        rng.bit_generator.state = meta["rng"]


def _threads(net: nn.Module, n_rows: int) -> int:
    """Return how many threads of torch a step on a batch of rows should take."""
    weights = list(net.parameters())
    small = n_rows * sum(w.numel() for w in weights) < _ALONE and all(w.ndim <= 2 for w in weights)
    return 1 if small else torch.get_num_threads()


def _optimisers(net: nn.Module, training: Training) -> list[torch.optim.Optimizer]:
    """Return Adam, or Muon for all matrices but the last and Adam for the rest, with steps of the same size.

    A network with convolutions is Adam's alone: what Muon makes of them has not been measured.
    """
    weights = [w for w in net.parameters() if w.requires_grad]
    of_matrices = training.optimiser == "muon" and all(w.ndim <= 2 for w in weights)
    hidden = [w for w in weights if w.ndim == 2][:-1] if of_matrices else []
    rest, lr = [w for w in weights if not any(w is z for z in hidden)], training.learning_rate
    adam: list[torch.optim.Optimizer] = [torch.optim.Adam(rest, lr=lr, fused=True)]
    muon = torch.optim.Muon(hidden, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw") if hidden else None
    return adam if muon is None else [*adam, muon]


def _digest(net: nn.Module) -> str:
    """Return what tells the weights of a network from others."""
    code = hashlib.sha256()
    for weight in net.state_dict().values():
        code.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return code.hexdigest()


def _of_shape(value: Any, shape: tuple[int, ...]) -> Any:
    """Return what a network gave, or raise where it has another shape, which would be broadcast."""
    if getattr(value, "shape", None) != shape:
        found = getattr(value, "shape", type(value).__name__)
        raise ValueError(f"network returned {found} in place of shape {tuple(shape)}. It is to give one row a row.")
    return value


def device_of(net: nn.Module) -> torch.device:
    """Return where the numbers of a network lie; the CPU for one that has none."""
    return next(itertools.chain(net.parameters(), net.buffers()), torch.empty(0)).device


@torch.inference_mode()
def evaluate(net: nn.Module, x: np.ndarray, *t: "float | np.ndarray") -> np.ndarray:
    """Return net(x), net(x, t) or net(x, t, c) as float32, for NumPy x (n, d), a time or times (n,), and c (n, k).

    Examples
    --------
    >>> from nsgf.networks import MLP
    >>> evaluate(MLP(2), np.zeros((3, 2), dtype=np.float32), 0.5).shape
    (3, 2)
    """
    device = device_of(net)
    columns = [np.broadcast_to(np.float32(s), (len(x), *np.shape(s)[1:])).copy() for s in t]
    inputs = [torch.from_numpy(np.ascontiguousarray(z, dtype=np.float32)) for z in (x, *columns)]
    size = max(1, _CHUNK[device.type] // x.shape[1])
    chunks = zip(*(z.split(size) for z in inputs), strict=True)
    found = torch.cat([net(*(z.to(device) for z in chunk)).cpu() for chunk in chunks])
    return _of_shape(found, (len(x), *found.shape[1:])).numpy()


def relative_error(net: nn.Module, examples: Iterable[Example]) -> float:
    """Return √(Σ|net(…) − v|² / Σ|v|²) over examples: inputs of a network, and targets v.

    Examples
    --------
    >>> from nsgf.networks import MLP
    >>> zero = MLP(2)
    >>> for p in zero.parameters():
    ...     _ = p.data.zero_()
    >>> relative_error(zero, [((np.ones((3, 2)), 0.5), np.ones((3, 2)))])
    1.0
    """
    error = size = 0.0
    for inputs, v in examples:
        error += float(np.sum((_of_shape(evaluate(net, *inputs), v.shape) - v) ** 2))
        size += float(np.sum(v**2))
    return (error / size) ** 0.5 if size else 0.0
