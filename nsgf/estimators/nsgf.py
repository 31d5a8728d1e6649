"""NSGF: a network is matched to the velocities of minibatch flows, and new points follow it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from nsgf import _checks, diagnostics, networks
from nsgf._arrays import pick_device
from nsgf.estimators import learning
from nsgf.estimators.base import Ask, BaseFlow
from nsgf.estimators.parameters import Fitted, RandomState, habits
from nsgf.field import Field, follow
from nsgf.learnt import Learnt
from nsgf.solvers import Solver
from nsgf.task import Task
from nsgf.training import Training


@dataclasses.dataclass(eq=False, repr=False)
class NSGF(BaseFlow):
    """Neural Sinkhorn gradient flow: transport from a source sample to a target sample.

    Minibatches of particles are moved by the Sinkhorn gradient flow, each along the average of what many minibatches
    say, a network is matched to their velocities, and new points follow the network in `n_steps` function evaluations.

    Parameters
    ----------
    blur : float or "auto"
        Length scale √ε of the Sinkhorn divergence, in the units of the data; ``"auto"`` is 0.15 of their spread.
    n_steps : int
        Euler steps of the flow, and so the function evaluations of `transform`.
    step_size : float
        η, the fraction of the velocity that one step goes.
    batch_size : int
        Particles of one minibatch flow. Larger is less biased; a solve costs O(batch_size²).
    n_batches : int
        Minibatch flows in the pool. 16 at a time move together, by the average of their velocities, in which the self
        term is as far from the particle itself as keeps the spread (:mod:`nsgf.mean_field`); fewer than four of equal
        size move each by itself, as in the paper.
    network : "mlp", "unet" or torch module
        The field, called as ``network(x, t)`` on rows (n, d) or images (n, …), with times (n,). Features come with
        a variance of about one. ``"mlp"`` has 3 hidden layers of 256 units; ``"unet"`` is
        :class:`nsgf.networks.UNet` for images. Passed as a value it can have another size, and takes rows as the images
        that they stand for; :class:`nsgf.networks.OnImages` does that for a network of your own. A module comes with
        first weights of its own: set torch's seed before you make it.
    max_iter : int
        Most optimisation steps of the network; a pool of few rows is worth fewer (`Training.steps`).
    training : Training, optional
        The habits of the optimiser, such as ``Training(learning_rate=1e-3, batch_size=256)``, and the directory in
        which pool and checkpoints are kept. ``set_params(training__learning_rate=1e-3)`` sets one of them.
    solver : Solver or "auto"
        How the Sinkhorn problems are solved, such as ``nsgf.Sinkhorn(tol=1e-4)``; it also holds the policy on solves
        that do not converge. ``"auto"`` solves to an error of 1e-2, well below the sampling error of a minibatch.
    encoder : transformer or pair of transformers, optional
        The space in which the flow lives, for features of different units or many of them: any transformer of
        scikit-learn, or of your own, with ``inverse_transform``, such as ``StandardScaler()``, ``PCA(50)`` or a
        pipeline. It is cloned and fitted on both samples together; a pair, on the source and on the target, which then
        need not have the same features.
    device : {"auto", "cpu", "cuda"}
        Where to compute; ``"auto"`` is a CUDA device where torch sees one and CuPy is installed.
    random_state : int, numpy Generator or None
        Seeds everything; the same integer gives the same bits on one machine.
    verbose : int
        1 shows progress bars.

    Attributes
    ----------
    field_ : torch module
        The learnt field, on the CPU; it lives in centred data divided by ``scale_``.
    blur_ : float
        The blur used, in the units of the data.
    source_shift_, shift_, scale_ : arrays of shape (d,) and float
        Where the field has its origin at the start and at the end, the means of the source and of the target; and its
        unit of length, the root-mean-square deviation of a feature in both samples.
    history_ : dict
        ``"loss"`` (an array, one value an optimisation step), ``"pool_seconds"``, ``"train_seconds"``, and
        ``"validation"`` (an array of steps and distances to held-out velocities, where `training` asks for them). The
        seconds are those of the last call of `fit`.
    report_ : dict
        Is what is made of held-out rows like held-out rows of the target? ``"mmd2"`` with its noise and p-value, and
        the widths, say so; ``"regression_gap"``, distance of the field to held-out velocities, and ``"minibatch_gap"``,
        that of two independent minibatches' velocities, say why not. ``"max_error"`` and ``"converged"``: the largest
        error of a velocity in the pool, and whether all converged. The guide, "Reading the report", has all of them.
    n_iter_ : int
        Optimisation steps done: eight passes over the pool, 1000 at least and `max_iter` at most, unless Ctrl-C or
        `training.patience` ended the training.
    n_steps_, flow_time_ : int and float
        The steps that the field was trained on, and their total length, `n_steps` times `step_size`.
    classes_ : tuple, or None
        The labels, of a model that was fitted with some, in the order of the numbers that the network sees.
    condition_shift_, condition_scale_ : arrays of shape (k,), or None
        Mean and deviation of continuous conditions, in which the network sees them.
    times_ : array of shape (k,), or None
        The times of the snapshots of a time course.
    sample_shape_ : tuple of int
        Shape of one sample of the target: (d,), or that of an image.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    Zhu et al. 2024, arXiv 2401.14069, algorithm 1. The field is that of the steps that it was trained on. Where
    `n_steps` is changed after `fit`, a flow of the same length is followed in other steps, with the field constant in
    time between those: a stand-in, and as a rule no better than the trained one.

    The second argument of `fit` is the target sample, so in a scikit-learn Pipeline ``pipeline.fit(X_src, X_tgt)``
    reads as it should, but a step before this one is fitted on `X_src` alone.

    Examples
    --------
    >>> import numpy as np
    >>> from nsgf import NSGF, datasets
    >>> rng = np.random.default_rng(0)
    >>> X_src, X_tgt = datasets.gaussian(400, rng), datasets.moons(400, rng)
    >>> model = NSGF(max_iter=300, n_batches=4, batch_size=128, random_state=0).fit(X_src, X_tgt)
    >>> model.transform(X_src[:3]).shape, model.sample(5).shape
    ((3, 2), (5, 2))
    """

    blur: float | str = "auto"
    _: dataclasses.KW_ONLY
    n_steps: int = 3
    step_size: float = 1.0
    batch_size: int = 512
    n_batches: int = 32
    network: str | nn.Module = "mlp"
    max_iter: int = 1500
    training: Training | None = None
    solver: Solver | str = "auto"
    encoder: Any = None
    device: str = "auto"
    random_state: RandomState = None
    verbose: int = 0

    field_ = Fitted[nn.Module](lambda self: self._learnt.networks["field_"])
    n_steps_ = Fitted[int](lambda self: self._learnt.clock.n_steps)
    flow_time_ = Fitted[float](lambda self: self._learnt.clock.length)

    @property
    def n_evaluations(self) -> int:
        """Function evaluations (NFE) of one point on its way from the source to the target.

        `n_steps`, times the intervals of a time course; twice as many under a guidance other than 0 and 1.
        """
        times = self.times_ if self.__sklearn_is_fitted__() else None
        return self.n_steps * (1 if times is None else len(times) - 1)

    def _check(self) -> None:
        learning.check(self, self.n_steps)
        _checks.count("max_iter", self.max_iter)

    def _networks(self, task: Task, seed: int) -> dict[str, nn.Module]:
        return {"field_": networks.build(self.network, task.shape, task.n_conditions, seed)}

    def _learn(self, task: Task, rng: np.random.Generator) -> Learnt:
        pooled = learning.filled(self, task, self.n_steps, rng)
        filled, size = pooled.filled, habits(self).batch_size
        net, n_iter = self._networks(task, seed=int(rng.integers(2**31)))["field_"], int(self.max_iter)
        n_iter = habits(self).steps(n_iter, len(filled.pool))
        net, history = learning.trained(
            self, "field_", net, lambda rng: filled.velocities(size, rng), rng, n_iter, filled.examples
        )
        report = diagnostics.report(net, filled)
        history = {"pool_seconds": pooled.seconds} | history
        return Learnt({"field_": net}, history, report, len(history["loss"]), pooled.blur, pooled.clock)

    def _path(self, x: np.ndarray, c: np.ndarray | None, ask: Ask) -> Iterator[np.ndarray]:
        field = Field(self.field_, pick_device(self.device)).guided(c, ask.guidance)
        return follow(field, x, self._learnt.clock, self.n_steps, ask.span)

    def _gone(self, n: int, ask: Ask) -> np.ndarray:
        return self._learnt.clock.gone(self._learnt.clock.times(self.n_steps, ask.span))
