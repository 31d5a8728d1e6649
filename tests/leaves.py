"""What the laws are tried on: tasks, and what a user may write: a leaf of twenty lines, a network and a solver."""

from typing import Any, NamedTuple

import numpy as np
import torch
from common import small_unet
from torch import nn

from nsgf import Solver, _checks, datasets
from nsgf.estimators import BaseFlow
from nsgf.estimators.parameters import Fitted
from nsgf.field import Clock, Field
from nsgf.learnt import Learnt


class Task(NamedTuple):
    """What a model is fitted on, what it is asked for, and the parameters that this needs."""

    samples: tuple[Any, ...]
    x: Any
    known: dict[str, Any] = {}
    y: Any = None
    parameters: dict[str, Any] = {}

    def mapped(self, f):
        """Return the same task with all samples changed by f."""

        def each(X):
            return {t: f(z) for t, z in X.items()} if isinstance(X, dict) else X if X is None else f(X)

        return self._replace(samples=tuple(map(each, self.samples)), x=f(self.x))


def tasks():
    rng = np.random.default_rng(0)
    x, new = datasets.gaussian(160, rng), datasets.gaussian(20, rng)
    y, far = datasets.moons(160, rng), datasets.moons(160, rng) + [4.0, 0.0]
    names, others = (rng.choice(["a", "b"], size=n).astype(object) for n in (160, 20))
    pictures = rng.uniform(size=(2, 40, 1, 8, 8)) * np.linspace(0, 1, 8)
    return {
        "plain": Task((x, y), new),
        "labels": Task((x, y), new, {"y_src": names, "y_tgt": names[::-1]}, others),
        "numbers": Task((None, y), new, {"y_tgt": y[:, :1] + y[:, 1:]}, new[:, :1]),
        "pairs": Task((x, y), new, {"pairs": [(0, 7), (5, 3), (9, 9)]}),
        "course": Task(({0.0: x, 1.0: y, 3.0: far},), new),
        "images": Task(tuple(pictures), pictures[0, :20], parameters={"network": small_unet(), "max_iter": 3}),
    }


class MeanFlow(BaseFlow):
    """Carry the source by the difference of the means of `n_rows` rows of each sample."""

    def __init__(self, *, n_rows=50, random_state=None):
        self.n_rows, self.random_state = n_rows, random_state

    n_evaluations = 1
    field_ = Fitted(lambda self: self._learnt.networks["field_"])

    def _check(self):
        _checks.count("n_rows", self.n_rows)

    def _networks(self, task, seed):
        return {"field_": Displacement(int(np.prod(task.frame.shape)))}

    def _learn(self, task, rng):
        if task.times:
            raise ValueError("MeanFlow has no time courses: a mean says nothing of the way.")
        net, (x, y) = self._networks(task, 0)["field_"], (z.draw(self.n_rows, rng) for z in (task.source, task.target))
        net.v += torch.from_numpy(y.mean(axis=0) - x.mean(axis=0))
        return Learnt({"field_": net}, {}, {}, 0, task.frame.scale, Clock(1, 1.0))

    def _path(self, x, c, ask):
        yield x
        yield x + Field(self.field_).guided(c, ask.guidance)(x, 0.0)


class Displacement(nn.Module):
    """A field that is the same everywhere; it has a buffer, and no parameters."""

    def __init__(self, n_features):
        super().__init__()
        self.register_buffer("v", torch.zeros(n_features))

    def forward(self, x, t, *c):
        return self.v.expand_as(x)


class Stopping(nn.Linear):
    """A field of points in the plane with two labels, whose training gets Ctrl-C at its third step."""

    def __init__(self):
        super().__init__(4, 2)
        self.n_conditions, self.calls = 2, 0

    def forward(self, x, t, c):
        self.calls += self.training
        if self.training and self.calls == 3:
            raise KeyboardInterrupt
        return super().forward(torch.cat([x, c], dim=1))


class Interrupted(Solver):
    """A solver that gets Ctrl-C at once."""

    tol, max_iter, on_unconverged = 1e-2, 100, "warn"

    def __call__(self, x, y, eps, a, b, init=None):
        raise KeyboardInterrupt
