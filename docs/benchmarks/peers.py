r"""Flow matching, the peer of several comparisons: FM and OT-CFM of torchcfm, trained by the library's own loop.

.. math::  \min_\theta \; \mathbb{E}\, |v_\theta(x_t, t) - (y - x)|^2, \qquad x_t = (1 - t)\, x + t\, y + \sigma z

FM draws the ends x and y apart, OT-CFM from the exact plan of each batch. With conditions, these reach the network as
columns, zero where they are dropped; in OT-CFM they travel with the plan.
"""

import time
import warnings

import numpy as np
import torch

from nsgf import matching, ode
from nsgf.field import Field


class FlowMatching:
    """A field of straight lines from the source of a task to its target, in the task's units and moving origin.

    As for the estimators, each sample is seen from its own mean, and the mean goes its known way: a line of the data is
    a line there too, at the same times.

    Parameters
    ----------
    name : "fm" or "ot-cfm"
    task : nsgf.task.Task
        What is carried where, as the estimators read it: samples or noise, and labels of the target if any.
    sigma : float
        Width of the noise on the lines.
    dropout : float
        Part of the conditions that are dropped.
    """

    def __init__(self, name, task, *, sigma=0.0, dropout=0.0):
        from torchcfm import conditional_flow_matching as cfm

        self.task, self.dropout, self.is_paired = task, dropout, name == "ot-cfm"
        kind = cfm.ExactOptimalTransportConditionalFlowMatcher if self.is_paired else cfm.ConditionalFlowMatcher
        self.matcher = kind(sigma)

    def draw(self, n, rng):
        """Return a batch: the inputs of a network, points, times and conditions if any; and its target, velocities."""
        task = self.task
        rows = rng.integers(len(task.target.rows), size=n)
        ends = [torch.from_numpy(z) for z in (task.source.draw(n, rng), task.target.rows[rows])]
        c = None if task.kinds is None else torch.from_numpy(task.kinds.columns(task.target.known[rows]))
        if self.is_paired and c is not None:
            t, x, u, _, c = self.matcher.guided_sample_location_and_conditional_flow(*ends, y1=c)
        else:
            t, x, u = self.matcher.sample_location_and_conditional_flow(*ends)
        kept = torch.from_numpy(rng.random((n, 1)) >= self.dropout)
        return (x, t) if c is None else (x, t, c * kept), u

    def fit(self, net, n_iter, training, seed):
        """Train the network, on its own device, and keep it."""
        np.random.seed(seed)  # noqa: NPY002  torchcfm draws from it

        def draw(rng):
            return self.draw(training.batch_size, rng)

        self.net, self.loss, _ = matching.train(net, draw, np.random.default_rng(seed), n_iter, training)
        return self

    def carry(self, x, n_steps, *, until=1.0, c=None, guidance=1.0):
        """Return the points x, in units, carried by Euler steps to the time `until`; in the units of the data."""
        field = Field(self.net, next(self.net.parameters()).device.type)
        times = np.linspace(0.0, until, n_steps + 1).tolist()
        return self.task.frame.to_data(ode.integrate(field.guided(c, guidance), x, times), until)

    def sample(self, n, n_steps, random_state, y=None, guidance=1.0):
        """Return samples of the target, of the labels y if any."""
        x, c = self.task.draw(n, y, np.random.default_rng(random_state))
        return self.carry(x, n_steps, c=c, guidance=guidance)


def fitted(model, *samples, expected="report_", **known):
    """Return the model, fitted without the warnings whose reasons the tables show; and the seconds that it took."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=expected)
        model.fit(*samples, **known)
    return model, time.perf_counter() - start
