"""How a leaf learns: networks that are trained, and pools that are filled for them."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import nn
from tqdm.auto import tqdm

from nsgf import _checks, encoders, flow, matching, pool, trials
from nsgf._arrays import pick_device
from nsgf.estimators.parameters import check_random_state, habits
from nsgf.field import Clock
from nsgf.minibatches import Endless
from nsgf.pool import Filled, Scheme
from nsgf.sinkhorn import pick_blur
from nsgf.solvers import Sinkhorn, Solver, pick_solver
from nsgf.task import Task
from nsgf.training import Training

_POOL_SOLVER = Sinkhorn(tol=1e-2)  # its error is far below that of sampling a minibatch


class Pooled(NamedTuple):
    """A pool for one fit: the blur in the units of the data, how its flows run, and the seconds that it took."""

    filled: Filled
    blur: float
    clock: Clock
    seconds: float


def check(model: Any, n_steps: object) -> None:
    """Raise on a parameter out of its range, of those that every flow with a pool has."""
    _checks.count("batch_size", model.batch_size, 2)
    _checks.count("n_batches", model.n_batches)
    check_common(model)
    flow.check_steps(n_steps, model.step_size)


def check_common(model: Any) -> None:
    """Raise on a parameter out of its range, of those that every leaf with a network has."""
    check_random_state(model.random_state)
    if not (model.training is None or isinstance(model.training, Training)):
        raise ValueError(f"training={model.training!r} must be an nsgf.Training, or None for its defaults.")
    pick_blur(model.blur, np.zeros((2, 1)), np.zeros((2, 1)))
    pick_solver(model.solver)
    pick_device(model.device)
    encoders.check(model.encoder)


def filled(model: Any, task: Task, n_steps: int, rng: np.random.Generator) -> Pooled:
    """Fill the pool of a flow of `n_steps` steps."""
    start, training, scale = time.perf_counter(), habits(model), task.frame.scale
    solve: Solver = _POOL_SOLVER if model.solver == "auto" else pick_solver(model.solver)
    blur, device = model.blur if isinstance(model.blur, str) else float(model.blur) / scale, pick_device(model.device)

    def minibatches(task: Task) -> Endless:
        return Endless(partial(task.minibatches, int(model.batch_size), rng, blur, solve, training.condition_dropout))

    drawn, apart = minibatches(task), [next(minibatches(half)) for half in trials.halves(task, rng)]
    blur = pick_blur(blur, *_both_ends(next(drawn))) * scale  # drawn for the blur alone: seeds keep their bits
    if task.times:
        scheme = Scheme.course(blur / scale, n_steps, solve, device)
    else:
        scheme = Scheme.descent(blur / scale, n_steps, model.step_size, solve, device)
    full = pool.fill(drawn, scheme, int(model.n_batches), training, apart=apart, progress=_bar(model, "pool"))
    clock = Clock.of(scheme.step_sizes, scheme.length, task.frame.times)
    return Pooled(full, blur, clock, time.perf_counter() - start)


def _both_ends(minibatch: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the particles and the targets of all problems, without what does not move."""
    ends = ([z[:, : z.shape[1] - p.n_fixed] for z in (p.x, p.y)] for p in minibatch)
    x, y = (np.concatenate(column) for column in zip(*ends, strict=True))
    return x, y


def trained(
    model: Any,
    name: str,
    net: nn.Module,
    draw: matching.Draw,
    rng: np.random.Generator,
    n_iter: int,
    held_out: Sequence[matching.Example] = (),
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network after its training, and what ``history_`` says of it.

    `name` is the attribute that it will be: ``"field_"``, or ``"straight_field_"``, whose history has the prefix
    ``"straight_"``. Ctrl-C ends the training early, but for an estimator that is fitted and stays as it was.
    """
    start, training = time.perf_counter(), habits(model)
    prefix = name.removesuffix("field_")
    matched = matching.train(
        net.to(pick_device(model.device)),
        draw,
        rng,
        n_iter,
        training,
        held_out=held_out,
        checkpoint=training.path(f"{name}.safetensors"),
        progress=_bar(model, f"{prefix}train".replace("_", " ")),
        ends_early=not model.__sklearn_is_fitted__(),
    )
    history = {f"{prefix}loss": matched.loss, f"{prefix}validation": matched.validation}
    return matched.net.cpu(), history | {f"{prefix}train_seconds": time.perf_counter() - start}


def _bar(model: Any, name: str) -> Callable[[range], Iterable[int]]:
    """Return what shows the progress of some steps."""
    return lambda steps: tqdm(steps, desc=f"{type(model).__name__} {name}", disable=not model.verbose)
