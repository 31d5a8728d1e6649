r"""A map in one evaluation: a network that chases what it makes, moved along its own velocity.

A network G makes points of the law q, which is to become the target's law p. At each step of the training two
independent batches of them are moved, each with the other as its self term, and the network follows:

.. math::
    V(x) = T_{qp}(x) - T_{qq'}(x), \qquad \min_\theta \; \mathbb{E}\, |G_\theta(z) - \mathrm{sg}(G_\theta(z) + V)|^2

(W-Flow, arXiv 2605.11755), with sg for what is held fixed. At q = p both terms have one law, so that the mean velocity
vanishes, whatever the batches' size and the blur. The velocity at w times more guidance than none is

.. math::  V = V_\varnothing + (1 + w)\,(V_c - V_\varnothing)

of the target's rows of the condition c and of any; the network is told w and learns the laws of all w at once.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from nsgf import flow, matching
from nsgf._arrays import on_device, pick_device, to_numpy
from nsgf.conditions import UNKNOWN
from nsgf.estimators import learning
from nsgf.estimators.parameters import habits
from nsgf.field import Field
from nsgf.matching import Example
from nsgf.minibatches import Problem
from nsgf.ode import VelocityField
from nsgf.sinkhorn import Velocity, deviation, pick_blur, settle
from nsgf.solvers import Sinkhorn, Solver, pick_solver
from nsgf.task import Task
from nsgf.twins import twin_velocities

_SOLVER = Sinkhorn(tol=0.1)  # of a velocity: the noise of a batch is ten times that, and a step follows it once
_MOST, _POWER = 4.0, -4.0  # guidance 1 + w is drawn from [1, most], with a density of its power of -5
_NONE = 0.5  # of the draws, w is 0: what is asked for most
_TRIALS = 4  # minibatches, on which the report measures velocities
_FARTHEST = 100.0  # spreads, of what a network makes
_ROWS = 1024  # of the target, on which the spread of features is measured
Features = Callable[[Tensor], Tensor]


class Map(NamedTuple):
    """A network that has become a map, with the story and the report of that.

    Attributes
    ----------
    net : torch module
        The network, on the CPU.
    chase : Chase
        What it was trained on.
    history, report : dict
        As in `WFlow`.
    blur : float
        The blur used, in the units of the data, or of features.
    """

    net: nn.Module
    chase: "Chase"
    history: dict[str, Any]
    report: dict[str, Any]
    blur: float


def learnt(
    model: Any,
    task: Task,
    net: nn.Module,
    rng: np.random.Generator,
    n_iter: int,
    features: Features | None = None,
    widest: float = 1.0,
) -> Map:
    """Train a network of a model to be the map of a task, which the model calls ``field_``.

    Where it makes more than `widest` times the spread of the target, it is pulled inwards.
    """
    chase = Chase(model, task, Made(net, task, features, pick_device(model.device)), rng, widest)
    made, history = learning.trained(model, "field_", chase.made, chase, rng, n_iter)
    chase.made, chase.error, chase.converged = cast(Made, made), 0.0, True  # a training gone on with has solved less
    report = chase.measured(rng) | {"max_error": chase.error, "converged": chase.converged}
    settle(chase.error, chase.converged, chase.solve)
    return Map(chase.made.net, chase, history, report, chase.blur * chase.made.unit)


def displacement(field: Field, c: np.ndarray | None, guidance: float, is_plain: bool) -> VelocityField:
    """Return G(x) − x, as a function of x and the time: of a residual map what it gives, of a plain one less x."""
    w, known = _told(c, guidance)

    def displaced(x: np.ndarray, t: float) -> np.ndarray:
        made = field(x, t if c is None else w, *known)
        return made - x if is_plain else made

    return displaced


def _told(c: np.ndarray | None, guidance: float) -> tuple[float, tuple[np.ndarray, ...]]:
    """Return what a network is told of the guidance, from 0 to 1, and of the conditions."""
    if c is None:
        return 0.0, ()
    if not (guidance == 0 or 1 <= guidance <= _MOST):
        raise ValueError(
            f"guidance={guidance!r} is none that WFlow was trained with: 0 for the law without conditions, or from 1 "
            f"to {_MOST:g}. NSGF takes any."
        )
    return (max(guidance, 1.0) - 1.0) / (_MOST - 1.0), (c if guidance else np.zeros_like(c),)


class Made(nn.Module):
    """What a network makes, as distances are measured: in features, or else in units, of a spread of √d either way."""

    def __init__(self, net: nn.Module, task: Task, features: Features | None, device: str) -> None:
        super().__init__()
        self.net, self.is_plain, self.unit = net, task.source.x is None, task.frame.scale
        self.frame, self.shape = task.frame, task.shape
        if isinstance(features, nn.Module):
            features = copy.deepcopy(features).to(device).eval().requires_grad_(False)
        self.features = (features,)  # in a tuple: no part of what is trained
        if features is not None:
            self.unit, rows = 1.0, task.target.rows[:_ROWS]
            _check_features(features, self.data(torch.from_numpy(rows[:8]).to(device)))
            self.unit = deviation(self.of_rows(rows, device)) / (deviation(rows) or 1.0)
            if not 0.0 < self.unit < np.inf:
                raise ValueError(
                    f"features of {len(rows)} rows of the target have a spread of {self.unit:.3g} times that of the "
                    "rows: they are all the same, NaN or infinite. Give others, or None."
                )

    def forward(self, z: Tensor, t: Tensor, *c: Tensor) -> Tensor:
        """Return what is made of z (n, d), as (n, k)."""
        made = self.net(z, t, *c)
        return self.seen(made if self.is_plain else z + made)

    def seen(self, x: Tensor) -> Tensor:
        """Return points (n, d) of the target, in units, as (n, k)."""
        (features,) = self.features
        return x if features is None else features(self.data(x)).flatten(1) / self.unit

    def data(self, x: Tensor) -> Tensor:
        """Return points (n, d) of the target, in units, as samples (n, …) in the units of the data."""
        origin = torch.as_tensor(self.frame.origin(1.0), dtype=x.dtype, device=x.device)
        return (x * self.frame.scale + origin).reshape(len(x), *self.shape)

    @torch.inference_mode()
    def of_rows(self, x: np.ndarray, device: str) -> np.ndarray:
        """Return the same of NumPy rows."""
        return x if self.features == (None,) else self.seen(torch.from_numpy(x).to(device)).cpu().numpy()


def _check_features(features: Features, data: Tensor) -> None:
    """Raise where features are none that a network can be trained by."""
    found = features(data.requires_grad_())
    shape = tuple(getattr(found, "shape", ()))
    if not isinstance(found, Tensor) or len(shape) < 2 or shape[0] != len(data) or not found.numel():
        raise ValueError(
            f"features returned a {type(found).__name__} of shape {shape} for samples of shape {tuple(data.shape)}; "
            "return a torch tensor (n, k), a row a sample: of one number each, z[:, None]."
        )
    if not found.requires_grad:
        raise ValueError(
            f"features returned {found.dtype} without a gradient, by which the network learns: leave out detach(), "
            "no_grad(), NumPy and integers."
        )


class Chase:
    """What the network is to reach: what it makes, moved along its velocity; with the certificate of all velocities."""

    def __init__(self, model: Any, task: Task, made: Made, rng: np.random.Generator, widest: float) -> None:
        self.task, self.made, self.n, self.device = task, made, int(model.batch_size), pick_device(model.device)
        self.widest = widest
        self.solve: Solver = _SOLVER if model.solver == "auto" else pick_solver(model.solver)
        self.dropout, self.d = habits(model).condition_dropout, task.frame.origins.shape[1]
        self.error, self.converged = 0.0, True
        ys = np.concatenate([self._targets(p)[:, : p.y.shape[1] - p.n_fixed] for p in self.problems(rng)])
        self.blur = pick_blur(model.blur if isinstance(model.blur, str) else float(model.blur) / made.unit, ys, ys)

    def __call__(self, rng: np.random.Generator) -> Example:
        """Return the inputs of one step (z, t) or (z, t, c), and its target."""
        problems = self.problems(rng)
        ws = [_drawn_guidance(p, rng) for p in problems]
        inputs, made = self._makes(problems, ws)
        clouds = [_lifted(x, p.x, self.d) for x, p in zip(made, problems, strict=True)]
        vs = self._velocities(clouds, [self._targets(p) for p in problems])
        vs = [v[:, : x.shape[1]] for v, x in zip(vs, made, strict=True)]
        if guided := [k for k, w in enumerate(ws) if w.any()]:
            anyone = [self.made.of_rows(self.task.target.draw(len(problems[k].y), rng), self.device) for k in guided]
            free = self._velocities([made[k] for k in guided], anyone)
            for k, v in zip(guided, free, strict=True):
                vs[k] = v + (1.0 + ws[k][:, None]) * (vs[k] - v)
        return inputs, np.concatenate([x + v for x, v in zip(made, vs, strict=True)])

    def problems(self, rng: np.random.Generator) -> list[Problem]:
        """Draw a minibatch anew, so that a training that is gone on with draws the same; of even sizes."""
        drawn = next(self.task.minibatches(self.n, rng, "auto", self.solve, self.dropout))
        return [p._replace(x=_even(p.x), y=_even(p.y), c=None if p.c is None else _even(p.c)) for p in drawn]

    def paired(self, problems: list[Problem]) -> list[Velocity]:
        """Return the velocities of what the network makes of problems: their plans pair it with the targets."""
        _, made = self._makes(problems, [np.zeros(len(p.x)) for p in problems])
        found = []
        for p, x in zip(problems, made, strict=True):
            z, y = (on_device(cloud, self.device) for cloud in (_lifted(x, p.x, self.d), self._targets(p)))
            found += [res for _, res in flow.flow_steps(z, y, self.blur, 1, 1.0, self.solve, n_fixed=p.n_fixed)]
        return found

    def measured(self, rng: np.random.Generator) -> dict[str, float]:
        """Return the velocity of quarters of batches, and that of the target in their place, in spreads."""
        squares: list[list[np.ndarray]] = [[], [], []]
        for problems in (self.problems(rng) for _ in range(_TRIALS)):
            _, made = self._makes(problems, [np.zeros(len(p.x)) for p in problems])
            for p, x in zip(problems, made, strict=True):
                x, y, k = _lifted(x, p.x, self.d), self._targets(p), min(len(p.x), len(p.y)) // 4
                if not k:
                    continue
                for found, z in zip(squares, (x[: 2 * k], y[2 * k : 4 * k]), strict=False):
                    found += [(v[:, : x.shape[1]] ** 2).sum(axis=1) for v in self._velocities([z], [y[: 2 * k]])]
                squares[2].append(((y - y.mean(axis=0)) ** 2).sum(axis=1))
        velocity, floor, spread = (float(np.concatenate([*z, np.zeros(1)]).mean()) ** 0.5 for z in squares)
        return {"velocity": velocity / (spread or 1.0), "velocity_floor": floor / (spread or 1.0)}

    def _makes(self, problems: list[Problem], ws: list[np.ndarray]) -> tuple[tuple[np.ndarray, ...], list[np.ndarray]]:
        """Return the inputs of the network, and what it makes of them for each problem, without a gradient."""
        t = [
            np.full(len(p.x), p.span[0]) if p.c is None else w / (_MOST - 1.0)
            for p, w in zip(problems, ws, strict=True)
        ]
        columns = [[p.x[:, : self.d] for p in problems], t]
        if problems[0].c is not None:
            columns.append([p.c for p in problems])
        inputs = tuple(np.concatenate(z).astype(np.float32) for z in columns)
        mode = self.made.training
        made = matching.evaluate(self.made.eval(), *inputs)
        self.made.train(mode)
        if not np.abs(made).max() < _FARTHEST:
            raise FloatingPointError(
                f"the loss is no more to be trusted: the network makes points up to {np.abs(made).max():.2g} spreads "
                "away. Lower the learning rate, such as by set_params(training__learning_rate=2e-3)."
            )
        return inputs, np.split(made, np.cumsum([len(p.x) for p in problems])[:-1])

    def _targets(self, p: Problem) -> np.ndarray:
        return _lifted(self.made.of_rows(p.y[:, : self.d], self.device), p.y, self.d)

    def _velocities(self, xs: Sequence[np.ndarray], ys: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the velocities of clouds of even size, the halves of each with the other; of one size at once."""
        alike: dict[Any, list[int]] = {}
        for k, (x, y) in enumerate(zip(xs, ys, strict=True)):
            alike.setdefault((x.shape, y.shape), []).append(k)
        found: list[np.ndarray] = list(xs)
        for which in alike.values():
            x, y = (on_device(np.stack([z[k] for k in which]), self.device) for z in (xs, ys))
            (A, B), (Y_A, Y_B) = (np.split(z, 2, axis=1) for z in (x, y))
            twins = twin_velocities(A, B, Y_A, Y_B, self.blur, self.solve)
            self.error, self.converged = max(self.error, twins.error), self.converged and twins.converged
            if self.solve.on_unconverged == "raise":
                settle(self.error, self.converged, self.solve)
            v, own = (
                np.concatenate([to_numpy(z) for z in both], axis=1)
                for both in ((twins.v, twins.v_other), (twins.own, twins.own_other))
            )
            v = v - _pull(to_numpy(x), to_numpy(y), self.widest) * (to_numpy(x) - own)
            for k, v_k in zip(which, v, strict=True):
                found[k] = v_k
        return found


def _pull(x: np.ndarray, y: np.ndarray, widest: float) -> np.ndarray:
    """Return 1 − λ of stacked clouds (k, n, d) and targets (k, m, d): twice the variance beyond `widest`², ½ at most.

    Rows of the target come again while those that the network makes are always new, which widens what it makes; so the
    self term is T_xx′ by λ, and the point itself by 1 − λ.
    """
    wide, wanted = (((z - z.mean(axis=1, keepdims=True)) ** 2).sum(axis=2).mean(axis=1) for z in (x, y))
    return np.clip(2.0 * (wide / np.maximum(wanted, 1e-30) - widest**2), 0.0, 0.5)[:, None, None]


def _drawn_guidance(p: Problem, rng: np.random.Generator) -> np.ndarray:
    """Draw w for the rows of a problem, one for all whose condition is known; 0 without conditions."""
    if p.c is None or p.label == UNKNOWN or rng.random() < _NONE:
        return np.zeros(len(p.x))
    u = rng.random()
    w = (1.0 + u * (_MOST**_POWER - 1.0)) ** (1.0 / _POWER) - 1.0
    return w * p.c.any(axis=1)


def _lifted(x: np.ndarray, as_drawn: np.ndarray, d: int) -> np.ndarray:
    """Return points with the further coordinates that they were drawn with, those after the first d."""
    return np.concatenate([x, as_drawn[:, d:]], axis=1)


def _even(z: np.ndarray) -> np.ndarray:
    """Return rows of an even number: without the last, or the only one twice."""
    return z[: len(z) // 2 * 2] if len(z) > 1 else np.repeat(z, 2, axis=0)
