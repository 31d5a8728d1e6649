"""WFlow: a map in one evaluation, whose outputs are moved along their own velocity while it is trained."""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from torch import nn

from nsgf import _checks, networks
from nsgf._arrays import pick_device
from nsgf.estimators import chase, learning
from nsgf.estimators.base import Ask, BaseFlow
from nsgf.estimators.chase import Features
from nsgf.estimators.parameters import Fitted, RandomState, habits
from nsgf.field import Clock, Field, follow
from nsgf.learnt import Learnt
from nsgf.solvers import Solver
from nsgf.task import Task
from nsgf.training import Training


@dataclasses.dataclass(eq=False, repr=False)
class WFlow(BaseFlow):
    """One-step transport and generation: a network that makes of each sample its end, in one evaluation.

    Two independent batches of what the network makes move along the Sinkhorn velocity, each with the other as its self
    term, and the network follows. From samples it learns their displacement, x + G(x); from noise it makes G(z).

    Parameters
    ----------
    blur : float or "auto"
        Length scale √ε of the Sinkhorn divergence, in the units of the data (of `features`, where there are some);
        ``"auto"`` is 0.15 of the target's spread.
    batch_size : int
        Points that the network makes at each step, in two halves; fewer where the samples have fewer rows. A solve
        costs O(batch_size²). Larger is sharper.
    network : "mlp", "unet" or torch module
        As in `NSGF`. Its time input is the strength of the guidance, from 0 to 1; of a time course, the time.
    max_iter : int
        Optimisation steps, with a solve each.
    training : Training, optional
        The habits of the optimiser, and the directory in which checkpoints are kept. `batch_size`, `pool_bytes` and
        `refill_every` of it play no part, and it cannot validate: the target moves with the network.
    solver : Solver or "auto"
        As in `NSGF`; ``"auto"`` solves to an error of 0.1, below the sampling error of a minibatch.
    features : callable, optional
        φ, in whose values distances are measured and the loss is taken, such as a trained network: torch tensors of
        samples (n, …), in the units of the data, to (n, k), with a gradient. It is held fixed, and used by `fit` alone.
        With an encoder it is given the rows of its space.
    encoder, device, random_state, verbose : as in `NSGF`

    Attributes
    ----------
    field_ : torch module
        The network, on the CPU; it lives in centred data divided by ``scale_``.
    blur_ : float
        The blur used, in the units of the data, or of `features`.
    history_ : dict
        As in `NSGF`, without ``"pool_seconds"``.
    report_ : dict
        Figures of the law as in `NSGF`. ``"velocity"``: root-mean-square velocity of fresh batches, and
        ``"velocity_floor"``: that of batches of the target in their place, both in spreads of the target. One well
        above the other says that the law is wrong; equal ones do not say that it is right, since a cloud that is too
        narrow has small velocities, too. ``"max_error"`` and ``"converged"``: certificates of the solves for these two.
    source_shift_, shift_, scale_, n_iter_, classes_, condition_shift_, condition_scale_, times_, sample_shape_, \
n_features_in_, feature_names_in_
        As in `NSGF`.

    Notes
    -----
    Guidance is a strength that the network was trained with: 0 for the law without conditions, or from 1 to 4. It costs
    no further evaluation. `transform` needs samples as a source, or rows of noise of a model that was fitted to make
    samples from noise. Of a time course, each interval has a map of its own, and what lies between two snapshots is a
    part of its displacement. For known pairs, see `NSGF`.

    Examples
    --------
    >>> import numpy as np
    >>> from nsgf import WFlow, datasets
    >>> rng = np.random.default_rng(0)
    >>> X_src, X_tgt = datasets.gaussian(400, rng), datasets.moons(400, rng)
    >>> model = WFlow(max_iter=100, batch_size=128, random_state=0).fit(X_src, X_tgt)
    >>> model.transform(X_src[:3]).shape, model.sample(5).shape, model.n_evaluations
    ((3, 2), (5, 2), 1)
    """

    blur: float | str = "auto"
    _: dataclasses.KW_ONLY
    batch_size: int = 896
    network: str | nn.Module = "mlp"
    max_iter: int = 600
    training: Training | None = None
    solver: Solver | str = "auto"
    features: Features | None = None
    encoder: Any = None
    device: str = "auto"
    random_state: RandomState = None
    verbose: int = 0

    _habits: ClassVar[Training] = Training(ema_decay=0.98)
    field_ = Fitted[nn.Module](lambda self: self._learnt.networks["field_"])

    @property
    def n_evaluations(self) -> int:
        """Function evaluations (NFE) of one point: 1 at any guidance, times the intervals of a time course."""
        times = self.times_ if self.__sklearn_is_fitted__() else None
        return 1 if times is None else len(times) - 1

    def _check(self) -> None:
        learning.check_common(self)
        _checks.count("batch_size", self.batch_size, 4)
        _checks.count("max_iter", self.max_iter)
        if habits(self).validate_every:
            raise ValueError("WFlow has no validation, since its target moves with it: leave validate_every at 0.")
        if not (self.features is None or callable(self.features)):
            raise ValueError(f"features={self.features!r} must be callable on torch tensors (n, …), or None.")

    def _networks(self, task: Task, seed: int) -> dict[str, nn.Module]:
        if task.pairs is not None:
            raise ValueError("WFlow has no pairs: it never knows where one row goes; use NSGF.")
        if task.times and self.features is not None:
            raise ValueError("features measure distances to one target; leave them out of a time course, or use NSGF.")
        return {"field_": networks.build(self.network, task.shape, task.n_conditions, seed, depth=5, is_residual=True)}

    def _learn(self, task: Task, rng: np.random.Generator) -> Learnt:
        net = self._networks(task, seed=int(rng.integers(2**31)))["field_"]
        made = chase.learnt(self, task, net, rng, self.max_iter, self.features)
        n_iter, clock = len(made.history["loss"]), Clock(1, 1.0, task.frame.times)
        return Learnt({"field_": made.net}, made.history, made.report, n_iter, made.blur, clock)

    def _path(self, x: np.ndarray, c: np.ndarray | None, ask: Ask) -> Iterator[np.ndarray]:
        field, is_plain = Field(self.field_, pick_device(self.device)), self._task.source.x is None
        displacement = chase.displacement(field, c, ask.guidance, is_plain)
        return follow(displacement, x, self._learnt.clock, 1, ask.span)

    def _gone(self, n: int, ask: Ask) -> np.ndarray:
        clock = self._learnt.clock
        return clock.gone(clock.times(1, ask.span))
