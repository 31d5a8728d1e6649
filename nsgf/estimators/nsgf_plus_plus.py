"""NSGF++: few steps of the flow that NSGF learns, then a straight flow from where they have led."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from nsgf import _checks, diagnostics, networks, ode
from nsgf._arrays import pick_device, plainly
from nsgf.estimators import learning
from nsgf.estimators.base import Ask, BaseFlow
from nsgf.estimators.parameters import Fitted, RandomState, habits
from nsgf.field import Clock, Field, follow
from nsgf.learnt import Learnt
from nsgf.matching import Draw, Example
from nsgf.pool import Lines
from nsgf.solvers import Solver
from nsgf.task import Known, Task
from nsgf.training import Training

_VALIDATION_BATCHES = 4  # of straight lines, on which a validation figure is read
_LINE_TIMES = np.linspace(0.0, 1.0, 21, dtype=np.float32)  # at which the predictor is calibrated


@dataclasses.dataclass(eq=False, repr=False)
class NSGFPlusPlus(BaseFlow):
    """Two-phase flow: few steps of the Sinkhorn gradient flow, then a straight flow from where they have led.

    Phase 1 is `NSGF` with at most five steps. Phase 2 is a *neural straight flow*, matched to X₁ − X₀ along the lines
    X_t = (1 − t) X₀ + t X₁ between source and target samples that the plans of the minibatches pair. A third network,
    the *phase-transition predictor*, is matched to t on the same lines; calibrated, it says for each point where on a
    line phase 1 has brought it, and so from which time on it follows the straight flow.

    Parameters
    ----------
    blur, step_size, batch_size, n_batches, solver : as in NSGF
        The Sinkhorn flow and its pool.
    n_steps : (int, int) or int
        Euler steps of phase 1, at most 5, and of phase 2; one number stands for both. Those of phase 2 may be changed
        after `fit`.
    network : "mlp", "unet" or torch module
        The architecture of both fields, as in `NSGF`; each has weights of its own.
    max_iter : int or (int, int, int)
        Optimisation steps of each network, or of the velocity field, the straight field and the predictor. Ctrl-C ends
        the training of the one under way.
    training, encoder, device, random_state, verbose : as in NSGF

    Attributes
    ----------
    field_, straight_field_, time_predictor_ : torch modules
        The three networks, on the CPU.
    history_ : dict
        As in `NSGF`; for the straight field and the predictor, the same under names that begin with ``"straight_"``
        and ``"time_"``.
    report_ : dict
        As in `NSGF`, of phase 1; ``"time_error"`` is the mean error of the predictor's times on fresh lines, and
        ``"time_gain"`` and ``"time_shift"`` are their calibration, 1 and 0 for a predictor without error.
    blur_, shift_, scale_, n_iter_, n_steps_, flow_time_, classes_, sample_shape_, n_features_in_, feature_names_in_
        As in `NSGF`; ``n_iter_`` counts the steps of all three.

    Notes
    -----
    Zhu et al. 2024, arXiv 2401.14069, section 4.3 and algorithms 3 to 5, where the ends of the lines are drawn apart;
    paired ends make a straighter flow (see ``docs/benchmarks/images``). The straight field is trained first, on
    `n_batches` times `batch_size` lines, and the velocity field from its weights. A point takes ``n_evaluations``
    evaluations of the two fields, and one of the predictor, a smaller network.

    Examples
    --------
    >>> import numpy as np
    >>> from nsgf import NSGFPlusPlus, datasets
    >>> rng = np.random.default_rng(0)
    >>> X_src, X_tgt = datasets.gaussian(400, rng), datasets.moons(400, rng)
    >>> model = NSGFPlusPlus(n_steps=(2, 5), max_iter=300, n_batches=4, batch_size=128, random_state=0)
    >>> model = model.fit(X_src, X_tgt)
    >>> model.sample(5).shape, model.n_evaluations
    ((5, 2), 7)
    >>> model.trajectory(X_src[:3]).shape, model.phases
    ((8, 3, 2), array([1, 1, 2, 2, 2, 2, 2]))
    """

    blur: float | str = "auto"
    _: dataclasses.KW_ONLY
    n_steps: int | tuple[int, int] = (5, 5)
    step_size: float = 1.0
    batch_size: int = 1024
    n_batches: int = 32
    network: str | nn.Module = "mlp"
    max_iter: int | tuple[int, int, int] = 6000
    training: Training | None = None
    solver: Solver | str = "auto"
    encoder: Any = None
    device: str = "auto"
    random_state: RandomState = None
    verbose: int = 0

    field_ = Fitted[nn.Module](lambda self: self._learnt.networks["field_"])
    straight_field_ = Fitted[nn.Module](lambda self: self._learnt.networks["straight_field_"])
    time_predictor_ = Fitted[nn.Module](lambda self: self._learnt.networks["time_predictor_"])
    n_steps_ = Fitted[int](lambda self: self._learnt.clock.n_steps)
    flow_time_ = Fitted[float](lambda self: self._learnt.clock.length)

    @property
    def n_evaluations(self) -> int:
        """Function evaluations (NFE) of the fields for one point, those of both phases.

        Twice as many under a guidance other than 0 and 1.
        """
        return sum(self._steps)

    @property
    def phases(self) -> np.ndarray:
        """Phase of every step of `trajectory`: 1 or 2, shape (k,)."""
        return np.repeat([1, 2], self._steps)

    @plainly()
    def predict_time(self, X: ArrayLike, y: Known = None) -> np.ndarray:
        """Return t_φ(X) (n,), in [0, 1]: where on a straight line from source to target rows lie after phase 1.

        Phase 2 begins at ``report_["time_gain"] * predict_time(trajectory(X, y)[k], y) + report_["time_shift"]``,
        clipped to [0, 1], with k the steps of phase 1. The way of the mean, which is gone by then, tells nothing.
        """
        x = self._read(X, float(self._gone_first()[-1]))
        return _times(self._on_device("time_predictor_"), x, self._task.columns(y, len(x)))

    @property
    def _steps(self) -> tuple[int, int]:
        """Steps of phase 1 and of phase 2."""
        first, second = _each("n_steps", self.n_steps, 2, "phase")
        return first, second

    def _check(self) -> None:
        for value in _each("n_steps", self.n_steps, 2, "phase"):
            _checks.count("n_steps", value)
        learning.check(self, self._steps[0])
        if self._steps[0] > 5:
            raise ValueError(
                f"n_steps={self.n_steps!r} has more than 5 steps in phase 1; use NSGF for a longer flow, or give both, "
                "such as (5, 10)."
            )
        for value in _each("max_iter", self.max_iter, 3, "network"):
            _checks.count("max_iter", value)

    def _networks(self, task: Task, seed: int) -> dict[str, nn.Module]:
        if task.times:
            raise ValueError("NSGFPlusPlus has no time courses, because its second phase knows one target; use NSGF.")
        network, shape, k = self.network, task.shape, task.n_conditions
        return {
            "field_": networks.build(network, shape, k, seed),
            "straight_field_": networks.build(network, shape, k, seed + 1),
            "time_predictor_": networks.predictor(network, shape, k, seed),
        }

    def _learn(self, task: Task, rng: np.random.Generator) -> Learnt:
        pooled = learning.filled(self, task, self._steps[0], rng, lines_rng=rng.spawn(1)[0])
        filled, size = pooled.filled, habits(self).batch_size
        history: dict[str, Any] = {"pool_seconds": pooled.seconds}
        unseen, n_iters = filled.unseen_lines(rng), _each("max_iter", self.max_iter, 3, "network")
        lines = [unseen.draw(size, rng) for _ in range(_VALIDATION_BATCHES)]  # ((x, t, …), u)
        times = [_timed(*batch) for batch in lines]

        def train(name: str, n_iter: int, draw: Draw, held_out: list[Example], first: Any = None) -> nn.Module:
            net = self._networks(task, seed=int(rng.integers(2**31)))[name]
            if first is not None:
                net.load_state_dict(first.state_dict())
            net, story = learning.trained(self, name, net, draw, rng, n_iter, held_out)
            history.update(story)
            return net

        straight = train("straight_field_", n_iters[1], lambda rng: filled.straight(size, rng), lines)
        field = train("field_", n_iters[0], lambda rng: filled.velocities(size, rng), filled.examples, straight)
        report = diagnostics.report(field, filled)
        predictor = train("time_predictor_", n_iters[2], lambda rng: _timed(*filled.straight(size, rng)), times)
        predict = Field(predictor, pick_device(self.device))
        report["time_error"] = float(np.mean([np.abs(_times(predict, x, *c) - t) for (x, *c), t in times]))
        found = {"field_": field, "straight_field_": straight, "time_predictor_": predictor}
        report |= self._calibration(found, pooled.clock, unseen, rng)
        n_iter = sum(len(history[f"{prefix}loss"]) for prefix in ("", "straight_", "time_"))
        return Learnt(found, history, report, n_iter, pooled.blur, pooled.clock)

    def _calibration(
        self, found: dict[str, nn.Module], clock: Clock, unseen: Lines, rng: np.random.Generator
    ) -> dict[str, float]:
        """Return the calibration of the predictor, on lines whose particles also go through phase 1."""
        field, predict = (Field(found[name], pick_device(self.device)) for name in ("field_", "time_predictor_"))
        (x, t, *c), u = unseen.draw(_VALIDATION_BATCHES * int(habits(self).batch_size), rng)
        x0 = x - t[:, None] * u
        *_, ends = follow(field.guided(c[0] if c else None), x0, clock, self._steps[0])
        on_lines = np.stack([_times(predict, x0 + s * u, *c) for s in _LINE_TIMES])
        return _calibrated(on_lines, _times(predict, ends, *c))

    def _path(self, x: np.ndarray, c: np.ndarray | None, ask: Ask) -> Iterator[np.ndarray]:
        n_first, n_second = self._steps
        for x in follow(self._on_device("field_").guided(c, ask.guidance), x, self._learnt.clock, n_first):  # noqa: B020
            yield x
        known = c if c is None or ask.guidance else np.zeros_like(c)  # guidance 0 knows nothing
        gain, shift = (self._learnt.report[f"time_{name}"] for name in ("gain", "shift"))
        begin = (gain * _times(self._on_device("time_predictor_"), x, known) + shift).clip(0.0, 1.0)
        times = np.linspace(begin, 1.0, n_second + 1, dtype=np.float32)
        straight = self._on_device("straight_field_").guided(c, ask.guidance)
        yield from itertools.islice(ode.path(straight, x, times), 1, None)  # times (k, n)

    def _gone(self, n: int, ask: Ask) -> np.ndarray:
        first = self._gone_first()
        return np.concatenate([first, np.linspace(first[-1], 1.0, self._steps[1] + 1)[1:]])

    def _gone_first(self) -> np.ndarray:
        clock = self._learnt.clock
        return clock.gone(clock.times(self._steps[0]))

    def _on_device(self, name: str) -> Field:
        return Field(self._learnt.networks[name], pick_device(self.device))


def _each(name: str, value: Any, n: int, of: str) -> tuple[Any, ...]:
    """Return n values: those given, or one for all."""
    if not isinstance(value, tuple | list):
        return (value,) * n
    if len(value) != n:
        raise ValueError(f"{name}={value!r} must be one integer, or {n}: one for each {of}.")
    return tuple(value)


def _times(predict: Field, x: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
    """Return the times (n,) of x, in units of the spread, under the conditions c."""
    return predict(x, *(() if c is None else (c,))).clip(0.0, 1.0)


def _calibrated(on_lines: np.ndarray, at_ends: np.ndarray) -> dict[str, float]:
    """Return the gain s and the shift τ* − s r of the times at which phase 2 takes up the ends of phase 1.

    Parameters
    ----------
    on_lines : array of shape (k, n)
        t_φ(X_t) of n lines at k times t from 0 to 1, with the means m(t).
    at_ends : array of shape (n,)
        t_φ(x̂) of the ends, with the mean r = m(τ*).

    Examples
    --------
    >>> on_lines = np.linspace(0.25, 0.75, 5)[:, None] + [-0.1, 0.1]  # times told with an error, and shrunk towards ½
    >>> _calibrated(on_lines, np.array([0.4, 0.6]))  # so ends of one time all begin at ½
    {'time_gain': 0.0, 'time_shift': 0.5}
    """
    t = np.linspace(0.0, 1.0, len(on_lines))
    m, r, spread = np.maximum.accumulate(on_lines.mean(axis=1)), at_ends.mean(), float(at_ends.var())
    start = float(np.interp(r, m, t))  # the latest of equals, so that phase 2 does least where times cannot be told
    noise = float(np.interp(start, t, on_lines.var(axis=1)))  # spread of what lies at one time
    gain = 1.0 - noise / spread if spread > noise else 0.0
    return {"time_gain": gain, "time_shift": start - gain * float(r)}


def _timed(inputs: tuple[np.ndarray, ...], _: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Return points of straight lines, with their conditions if any, and their times, as inputs and target."""
    x, t, *c = inputs
    return (x, *c), t
