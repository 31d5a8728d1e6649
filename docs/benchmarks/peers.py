r"""The peers of several comparisons: flow matching of torchcfm, trained by the library's own loop, and maps of POT.

.. math::  \min_\theta \; \mathbb{E}\, |v_\theta(x_t, t) - (y - x)|^2, \qquad x_t = (1 - t)\, x + t\, y + \sigma z

FM draws the ends x and y apart, OT-CFM from the exact plan of each batch. SB-CFM does as OT-CFM with a noise of width
:math:`\sigma \sqrt{t (1 - t)}`, whose velocity along the bridge is part of the target. With conditions, these reach the
network as columns, zero where they are dropped; in OT-CFM they travel with the plan. Reflow (Liu et al. 2023) is FM on
the pairs of ends that a trained FM has carried to each other.
"""

import copy
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
    name : "fm", "ot-cfm" or "sb-cfm"
    task : nsgf.task.Task
        What is carried where, as the estimators read it: samples or noise, and labels of the target if any.
    sigma : float
        Width of the noise on the lines.
    dropout : float
        Part of the conditions that are dropped.
    pairs : two arrays (n, d), optional
        Ends of lines, in the task's units, to be drawn together in place of the task's.
    """

    def __init__(self, name, task, *, sigma=0.0, dropout=0.0, pairs=None):
        from torchcfm import conditional_flow_matching as cfm

        self.task, self.dropout, self.pairs, self.is_paired = task, dropout, pairs, name != "fm"
        kinds = {
            "fm": cfm.ConditionalFlowMatcher,
            "ot-cfm": cfm.ExactOptimalTransportConditionalFlowMatcher,
            "sb-cfm": cfm.SchrodingerBridgeConditionalFlowMatcher,
        }
        self.matcher = kinds[name](sigma)

    def draw(self, n, rng):
        """Return a batch: the inputs of a network, points, times and conditions if any; and its target, velocities."""
        task = self.task
        if self.pairs is not None:
            rows = rng.integers(len(self.pairs[0]), size=n)
            t, x, u = self.matcher.sample_location_and_conditional_flow(
                *(torch.from_numpy(z[rows]) for z in self.pairs)
            )
            return (x, t), u
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
        torch.manual_seed(seed)  # and from this

        def draw(rng):
            return self.draw(training.batch_size, rng)

        self.net, self.loss, _ = matching.train(net, draw, np.random.default_rng(seed), n_iter, training)
        return self

    def carry(self, x, n_steps, *, until=1.0, c=None, guidance=1.0):
        """Return the points x, in units, carried by Euler steps to the time `until`; in the units of the data."""
        field = Field(self.net, next(self.net.parameters()).device.type)
        times = np.linspace(0.0, until, n_steps + 1).tolist()
        return self.task.frame.to_data(ode.integrate(field.guided(c, guidance), x, times), until)

    def follow(self, x, n_evaluations, step):
        """Return the points x, carried to the end by so many evaluations, in the task's units.

        They are taken in steps of one kind; where one evaluation is left over, it is an Euler step at the beginning.
        """
        field, n = Field(self.net), ode.NFE[step]
        first = n_evaluations % n / n_evaluations
        x = ode.integrate(field, x, [0.0, first], ode.euler) if first else x
        return ode.integrate(field, x, np.linspace(first, 1.0, n_evaluations // n + 1).tolist(), step)

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


def rectified(peer, n_pairs, rng, n_evaluations=20):
    """Return flow matching on pairs of ends that a trained peer has carried to each other, and a network to train.

    The network begins with the weights of the peer's.
    """
    x, _ = peer.task.draw(n_pairs, None, rng)
    y = peer.follow(x, n_evaluations, ode.heun)
    return FlowMatching("fm", peer.task, pairs=(x, y)), copy.deepcopy(peer.net)
