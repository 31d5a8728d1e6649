r"""NSGF++: a map most of the way to the target, then a straight flow, which pulls what it made onto the data.

Phase 1 is a map G in one evaluation (see ``chase.py``). Phase 2 is the straight field v, matched to the velocities of
lines from x₀ to a partner y that the plan of a minibatch finds for G(x₀):

.. math::  x_t = (1 - t)\, x_0 + t\, y, \qquad \min_\phi \; \mathbb{E}\, |v_\phi(x_t, t) - (y - x_0)|^2

G(x₀) has nearly the law of y, so (1 − τ) x₀ + τ G(x₀) has nearly that of x_τ, and is followed from there to t = 1.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from torch import nn

from nsgf import _checks, networks, ode
from nsgf._arrays import pick_device
from nsgf.estimators import chase, learning
from nsgf.estimators.base import Ask, BaseFlow
from nsgf.estimators.chase import Chase
from nsgf.estimators.parameters import Fitted, RandomState, habits
from nsgf.field import Clock, Field
from nsgf.learnt import Learnt
from nsgf.matching import Example
from nsgf.pool import Lines
from nsgf.solvers import Solver
from nsgf.task import Task
from nsgf.training import Training

_BEGIN = 0.7  # τ: nearer to the end phase 2 mends less, and earlier it undoes what phase 1 made
_WIDEST = 1.04  # spread of what phase 1 makes, in that of the target: phase 2 takes some away
_LOUDER = 1.2  # of noise at τ: a field that was learnt from rows leaves a little less spread than they have
_VALIDATION_BATCHES = 4  # of straight lines, on which a validation figure is read


@dataclasses.dataclass(eq=False, repr=False)
class NSGFPlusPlus(BaseFlow):
    """Two-phase flow: a map in one evaluation, then a straight flow from where it has led.

    Phase 1 is the map that `WFlow` learns, from batches of its own outputs that move along their Sinkhorn velocity. It
    has the spread of the target, and noise of its own. Phase 2 is a *neural straight flow*, matched to the velocities
    of lines between source and target samples, which the plans of minibatches pair by what phase 1 makes of them.
    Points enter it near its end, where it takes noise away: they come nearer to the data and stay as diverse.

    Parameters
    ----------
    blur : float or "auto"
        As in `WFlow`, of both phases.
    n_steps : int
        Euler steps of phase 2; they may be changed after `fit`.
    batch_size : int
        As in `WFlow`, and the rows of a minibatch whose plan pairs lines.
    n_batches : int
        Minibatches of straight lines.
    network : "mlp", "unet" or torch module
        The architecture of both networks, as in `NSGF`; each has weights of its own.
    max_iter : int or (int, int)
        Optimisation steps of both networks, or of the map and of the straight field. More of the second bring points
        still nearer to the rows of the target, and leave less between those. Ctrl-C ends the training of the one under
        way.
    training : Training, optional
        As in `NSGF`, without `refill_every`; validation is of the straight field.
    solver : as in `WFlow`
    encoder, device, random_state, verbose : as in `NSGF`

    Attributes
    ----------
    field_, straight_field_ : torch modules
        Both networks, on the CPU.
    history_ : dict
        As in `WFlow`; for the straight field, the same under names that begin with ``"straight_"``.
    report_ : dict
        As in `WFlow`; the figures of the law are those of both phases, ``"velocity"`` that of the first.
    blur_, source_shift_, shift_, scale_, n_iter_, classes_, condition_shift_, condition_scale_, sample_shape_, \
n_features_in_, feature_names_in_
        As in `NSGF`; ``n_iter_`` counts the steps of both networks.

    Notes
    -----
    After Zhu et al. 2024, arXiv 2401.14069, section 4.3, and not as there: phase 1 of the paper is `NSGF` in at most
    five steps, which in many dimensions loses spread that phase 2 cannot give back; its lines are between samples drawn
    apart; and a third network predicts for each point the time at which it enters phase 2, where here all enter at one.
    On digits of 64 pixels a map alone had a precision of 0.70 and a recall of 0.84, and with four steps of phase 2 0.81
    and 0.80. Noise enters phase 2 as other noise than phase 1, feature by feature: as the same it would keep to the
    rows that it was drawn to. Guidance is an input of the map, as in `WFlow`, and doubles the evaluations of phase 2.

    Examples
    --------
    >>> import numpy as np
    >>> from nsgf import NSGFPlusPlus, datasets
    >>> rng = np.random.default_rng(0)
    >>> X_src, X_tgt = datasets.gaussian(400, rng), datasets.moons(400, rng)
    >>> model = NSGFPlusPlus(max_iter=100, n_batches=4, batch_size=128, random_state=0).fit(X_src, X_tgt)
    >>> model.sample(5).shape, model.n_evaluations
    ((5, 2), 5)
    >>> model.trajectory(X_src[:3]).shape, model.phases
    ((6, 3, 2), array([1, 2, 2, 2, 2]))
    """

    blur: float | str = "auto"
    _: dataclasses.KW_ONLY
    n_steps: int = 4
    batch_size: int = 896
    n_batches: int = 32
    network: str | nn.Module = "mlp"
    max_iter: int | tuple[int, int] = (600, 400)
    training: Training | None = None
    solver: Solver | str = "auto"
    encoder: Any = None
    device: str = "auto"
    random_state: RandomState = None
    verbose: int = 0

    _habits: ClassVar[Training] = Training(ema_decay=0.98)
    _asked: ClassVar[tuple[str, ...]] = ("n_steps",)
    field_ = Fitted[nn.Module](lambda self: self._learnt.networks["field_"])
    straight_field_ = Fitted[nn.Module](lambda self: self._learnt.networks["straight_field_"])

    @property
    def n_evaluations(self) -> int:
        """Function evaluations (NFE) of one point: one of the map, and the steps of phase 2.

        Those of phase 2 are twice as many under a guidance other than 0 and 1.
        """
        return 1 + self.n_steps

    @property
    def phases(self) -> np.ndarray:
        """Phase of every step of `trajectory`: 1 or 2, shape (k,)."""
        return np.repeat([1, 2], [1, self.n_steps])

    def _check(self) -> None:
        learning.check_common(self)
        _checks.count("n_steps", self.n_steps)
        _checks.count("batch_size", self.batch_size, 4)
        _checks.count("n_batches", self.n_batches)
        for value in _both(self.max_iter):
            _checks.count("max_iter", value)

    def _networks(self, task: Task, seed: int) -> dict[str, nn.Module]:
        if task.times:
            raise ValueError("NSGFPlusPlus has no time courses, because its second phase knows one target; use NSGF.")
        if task.pairs is not None:
            raise ValueError("NSGFPlusPlus has no pairs: its map never knows where one row goes; use NSGF.")
        network, shape, k = self.network, task.shape, task.n_conditions
        names = ("field_", "straight_field_")
        return {
            name: networks.build(network, shape, k, seed + i, depth=5, is_residual=True) for i, name in enumerate(names)
        }

    def _learn(self, task: Task, rng: np.random.Generator) -> Learnt:
        n_iters, size, name = _both(self.max_iter), habits(self).batch_size, "straight_field_"
        made = chase.learnt(self, task, self._new("field_", task, rng), rng, n_iters[0], widest=_WIDEST)
        lines, others = (self._lines(made.chase, n, rng) for n in (int(self.n_batches), 1))
        held_out = [others.draw(size, rng) for _ in range(_VALIDATION_BATCHES)]
        net = self._new(name, task, rng)  # of a seed that tells what the map has drawn: a checkpoint is of one map

        def draw(rng: np.random.Generator) -> Example:
            return lines.draw(size, rng)

        straight, history = learning.trained(self, name, net, draw, rng, n_iters[1], held_out)
        n_iter = len(made.history["loss"]) + len(history["straight_loss"])
        found = {"field_": made.net, "straight_field_": straight}
        return Learnt(found, made.history | history, made.report, n_iter, made.blur, Clock(1, 1.0))

    def _new(self, name: str, task: Task, rng: np.random.Generator) -> nn.Module:
        return self._networks(task, seed=int(rng.integers(2**31)))[name]

    def _lines(self, made: Chase, n: int, rng: np.random.Generator) -> Lines:
        """Return the straight lines of n minibatches, to the partners of what phase 1 makes."""
        problems = [p for _ in range(n) for p in made.problems(rng)]
        lines = Lines.of(problems, rng, habits(self).pool_bytes)
        for p, res in zip(problems, made.paired(problems), strict=True):
            d = p.x.shape[1] - p.n_fixed
            lines.add(np.concatenate([_begun(p.x[:, :d], made.task), p.x[:, d:]], axis=1), res, p.c, p.n_fixed)
        return lines

    def _path(self, x: np.ndarray, c: np.ndarray | None, ask: Ask) -> Iterator[np.ndarray]:
        yield x
        task, device = self._task, pick_device(self.device)
        is_plain = task.source.x is None
        displacement = chase.displacement(Field(self.field_, device), c, ask.guidance, is_plain)
        made, loud = x + displacement(x, 0.0), _LOUDER if is_plain else 1.0
        x = np.float32(_BEGIN) * made + np.float32(loud * (1.0 - _BEGIN)) * _begun(x, task)
        field = Field(self.straight_field_, device).guided(c, ask.guidance)
        yield from ode.path(field, x, np.linspace(_BEGIN, 1.0, self.n_steps + 1).tolist())

    def _gone(self, n: int, ask: Ask) -> np.ndarray:
        return np.concatenate([[0.0], np.linspace(_BEGIN, 1.0, n - 1)])


def _both(max_iter: int | tuple[int, int]) -> tuple[int, int]:
    """Return the steps of both networks: those given, or one number for both."""
    if not isinstance(max_iter, tuple | list):
        return max_iter, max_iter
    if len(max_iter) != 2:
        raise ValueError(f"max_iter={max_iter!r} must be one integer, or 2: of the map and of the straight field.")
    return max_iter[0], max_iter[1]


def _begun(x: np.ndarray, task: Task) -> np.ndarray:
    """Return where the lines of source points x (n, d) begin: there or, of noise, at other noise."""
    return x if task.source.scale is None else _turned(x, task.source.scale)


def _turned(z: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return noise (n, d) of the same law, in which each feature has the draw of the one before it.

    Examples
    --------
    >>> _turned(np.array([[1.0, 0.0, 3.0]]), np.array([1.0, 0.0, 2.0]))  # in deviations: 1, and 1.5
    array([[1.5, 0. , 2. ]])
    """
    turned, varies = np.zeros_like(z), scale > 0
    turned[:, varies] = np.roll(z[:, varies] / scale[varies], 1, axis=1) * scale[varies]
    return turned
