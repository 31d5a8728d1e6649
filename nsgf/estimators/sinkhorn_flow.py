"""The flow itself as an estimator: new points follow stored clouds, and no network is trained."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn
from tqdm.auto import tqdm

from nsgf import _checks, encoders, flow
from nsgf._arrays import pick_device
from nsgf.conditions import Moments
from nsgf.estimators.base import Ask, BaseFlow
from nsgf.estimators.parameters import Fitted, RandomState, check_random_state
from nsgf.field import Clock, follow, guided
from nsgf.flow import FlowField, Followed
from nsgf.learnt import Learnt
from nsgf.minibatches import Problem, Side, spaced, stretch_of
from nsgf.pool import Scheme
from nsgf.sinkhorn import pick_blur, settle
from nsgf.solvers import Sinkhorn, Solver, pick_solver
from nsgf.task import Task

_SOLVER = Sinkhorn(tol=1e-2)  # its error is far below that of the samples


@dataclasses.dataclass(eq=False, repr=False)
class SinkhornFlow(BaseFlow):
    """Sinkhorn gradient flow: transport from a source sample to a target sample, without a network.

    Particles drawn from the source are moved to the target by steepest descent of the Sinkhorn divergence, and what new
    points need to follow them is kept: at each step the cloud of particles, and the potentials. A fit takes seconds,
    and every step has its certificate; a new point costs O(`n_points`) a step.

    Parameters
    ----------
    blur : float or "auto"
        Length scale √ε of the Sinkhorn divergence, in the units of the data; ``"auto"`` is 0.15 of their spread.
    n_steps : int
        Euler steps of the flow.
    step_size : float
        η, the fraction of the velocity that one step goes.
    n_points : int
        Rows of the source and of the target that are drawn and kept, all of them where there are fewer. More are less
        biased; a solve costs O(n_points²).
    solver : Solver or "auto"
        How the Sinkhorn problems are solved, such as ``nsgf.Sinkhorn(tol=1e-4)``; it also holds the policy on solves
        that do not converge. ``"auto"`` solves to an error of 1e-2, well below the sampling error of the points.
    encoder, device, random_state : as in NSGF
    verbose : int
        1 shows a progress bar over the problems of the fit, of which each label is one.

    Attributes
    ----------
    field_ : FlowField
        The velocity, called as ``field_(x, t)`` or ``field_(x, t, c)`` with float32 arrays; it lives in centred data
        divided by ``scale_``.
    history_ : dict
        ``"flow_seconds"``, and ``"error"`` (an array, the certificate of every step of every problem).
    report_ : dict
        As in `NSGF`, without gaps: ``"mmd2"`` and the widths compare what is made of held-out rows with held-out rows
        of the target; ``"max_error"`` and ``"converged"`` are the certificate of all steps.
    n_iter_ : int
        Sinkhorn iterations of all steps.
    blur_, shift_, scale_, n_steps_, flow_time_, classes_, times_, sample_shape_, n_features_in_, feature_names_in_
        As in `NSGF`.

    Notes
    -----
    NSGF (Zhu et al. 2024, arXiv 2401.14069), eq. 11 and 14, where its network stands for this field. A new row moves as
    if it were one particle more (:mod:`nsgf.flow`): by averages over the points that are kept, row by row. Those lie as
    all rows do: one of every few neighbours is taken. With labels there is a flow of each, and one of all rows for
    those that are unknown; continuous conditions are coordinates that enter the cost and do not move. Where `n_steps`
    is changed after `fit`, a flow of the same length is followed in other steps, as in `NSGF`.

    What is made lies among the targets that are kept. In many dimensions rows end on them or between a few, so that
    this transports samples rather than making new ones: :func:`nsgf.metrics.memorisation` tells.

    Known pairs are not for this estimator: the rows in no pair are carried by their places among the pairs, which a
    field of points does not see.

    Examples
    --------
    >>> import numpy as np
    >>> from nsgf import SinkhornFlow, datasets
    >>> rng = np.random.default_rng(0)
    >>> X_src, X_tgt = datasets.gaussian(400, rng), datasets.moons(400, rng)
    >>> model = SinkhornFlow(random_state=0).fit(X_src, X_tgt)
    >>> model.transform(X_src[:3]).shape, model.sample(5).shape, model.report_["converged"]
    ((3, 2), (5, 2), True)
    """

    blur: float | str = "auto"
    _: dataclasses.KW_ONLY
    n_steps: int = 5
    step_size: float = 1.0
    n_points: int = 4096
    solver: Solver | str = "auto"
    encoder: Any = None
    device: str = "auto"
    random_state: RandomState = None
    verbose: int = 0

    field_ = Fitted[FlowField](lambda self: self._field("cpu"))
    n_steps_ = Fitted[int](lambda self: self._learnt.clock.n_steps)
    flow_time_ = Fitted[float](lambda self: self._learnt.clock.length)

    @property
    def n_evaluations(self) -> int:
        """Evaluations of the field for one point on its way: `n_steps`, times the intervals of a time course.

        Twice as many under a guidance other than 0 and 1.
        """
        times = self.times_ if self.__sklearn_is_fitted__() else None
        return self.n_steps * (1 if times is None else len(times) - 1)

    def _check(self) -> None:
        _checks.count("n_points", self.n_points, 2)
        check_random_state(self.random_state)
        flow.check_steps(self.n_steps, self.step_size)
        pick_blur(self.blur, np.zeros((2, 1)), np.zeros((2, 1)))
        pick_solver(self.solver)
        pick_device(self.device)
        encoders.check(self.encoder)

    def _networks(self, task: Task, seed: int) -> dict[str, nn.Module]:
        if task.pairs is not None:
            raise ValueError(
                "SinkhornFlow has no pairs, because new rows have no place among them; use NSGF, or leave pairs out."
            )
        return {}

    def _learn(self, task: Task, rng: np.random.Generator) -> Learnt:
        start, solve = time.perf_counter(), _SOLVER if self.solver == "auto" else pick_solver(self.solver)
        blur = self.blur if isinstance(self.blur, str) else float(self.blur) / task.frame.scale
        few = _thinned(task, int(self.n_points), rng)
        problems = next(few.minibatches(int(self.n_points), rng, blur, solve, 1.0))  # and one of all rows
        scheme = self._scheme(task, pick_blur(blur, *_ends(problems)), solve)
        shown = tqdm(problems, desc="SinkhornFlow", disable=not self.verbose)
        flows, errors, converged, n_iters = zip(*(_followed(problem, scheme) for problem in shown), strict=True)
        settle(np.max(errors), all(converged), solve)
        report = {"max_error": float(np.max(errors)), "converged": all(converged)}
        history = {"flow_seconds": time.perf_counter() - start, "error": np.array(errors)}
        clock = Clock.of(scheme.step_sizes, scheme.length, task.frame.times)
        return Learnt({}, history, report, sum(n_iters), scheme.blur * task.frame.scale, clock, flows)

    def _scheme(self, task: Task, blur: float, solve: Solver) -> Scheme:
        device = pick_device(self.device)
        if task.times:
            return Scheme.course(blur, int(self.n_steps), solve, device)
        return Scheme.descent(blur, int(self.n_steps), float(self.step_size), solve, device)

    def _field(self, device: str) -> FlowField:
        kinds, d = self._task.kinds, self._task.frame.origins.shape[1]
        return FlowField(self._learnt.flows, stretch_of(kinds, d) if isinstance(kinds, Moments) else 0.0, device)

    def _path(self, x: np.ndarray, c: np.ndarray | None, ask: Ask) -> Iterator[np.ndarray]:
        field = self._field(pick_device(self.device))
        return follow(guided(field.__call__, c, ask.guidance), x, self._learnt.clock, self.n_steps, ask.span)

    def _gone(self, n: int, ask: Ask) -> np.ndarray:
        return self._learnt.clock.gone(self._learnt.clock.times(self.n_steps, ask.span))


def _thinned(task: Task, n: int, rng: np.random.Generator) -> Task:
    """Return the task of about n rows of each sample, that lie as all do, label by label."""
    if task.times:
        return task.of_snapshots(tuple(x[spaced(x, n, rng)] for x in task.snapshots))
    i, j = (np.arange(0) if side.x is None else _spaced_rows(side, n, rng) for side in (task.source, task.target))
    return task.of_rows(i, j)


def _spaced_rows(side: Side, n: int, rng: np.random.Generator) -> np.ndarray:
    x, known = side.rows, np.zeros(len(side.rows)) if side.known is None else side.known
    if known.ndim > 1:  # continuous conditions
        return spaced(np.hstack([x, known]), n, rng)
    rows = [np.flatnonzero(known == k) for k in np.unique(known)]
    return np.sort(np.concatenate([i[spaced(x[i], max(1, round(n * len(i) / len(x))), rng)] for i in rows]))


def _ends(problems: list[Problem]) -> tuple[np.ndarray, np.ndarray]:
    """Return the particles and the targets of all problems, without what does not move."""
    ends = [[z[:, : z.shape[1] - p.n_fixed] for z in (p.x, p.y)] for p in problems]
    x, y = (np.concatenate(column) for column in zip(*ends, strict=True))
    return x, y


def _followed(problem: Problem, scheme: Scheme) -> tuple[Followed, list[float], bool, int]:
    """Return the flow of a problem, the error of every step, whether all converged, and the iterations."""
    exact = problem._replace(x=problem.x.astype(np.float64), y=problem.y.astype(np.float64))  # potentials keep digits
    steps = scheme.follow(scheme.moved(exact))
    found = Followed.of(exact, steps, scheme.blur, scheme.rates, scheme.solve.tol)
    results = [res for _, res in steps]
    return found, [r.error for r in results], all(r.converged for r in results), sum(r.n_iter for r in results)
