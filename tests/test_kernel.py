"""The kernel: blocks that leave out columns, and the order in which neighbours lie together."""

import numpy as np
import pytest
import torch
from common import far_samples, relative_distance

from nsgf import Sinkhorn, kernel, sinkhorn_divergence, sinkhorn_velocity
from nsgf.kernel import PlainPasses, half_squares, neighbours


@pytest.mark.parametrize("stored", [2**28, 2**20, 0])
def test_blocks_that_leave_out_columns_give_the_same_velocity(monkeypatch, stored):
    x, y = map(torch.from_numpy, far_samples(900, 700))
    dense = sinkhorn_velocity(x, y, 0.2, solver=Sinkhorn(tol=1e-4))
    for name, value in {"_DENSE": 0, "BLOCK": 2**16, "_STORED": stored, "_LEAST_ROWS": 64}.items():
        monkeypatch.setattr(kernel, name, value)
    sparse = sinkhorn_velocity(x, y, 0.2, solver=Sinkhorn(tol=1e-4))
    assert sparse.converged
    assert relative_distance(sparse.v.numpy(), dense.v.numpy()) <= 1e-4


def test_blocks_leave_out_columns(monkeypatch):
    for name, value in {"_DENSE": 0, "BLOCK": 2**16, "_LEAST_ROWS": 64}.items():
        monkeypatch.setattr(kernel, name, value)
    x, y = (z / 0.2 for z in far_samples(900, 700))
    weights = np.full(900, 1 / 900), np.full(700, 1 / 700)
    K = PlainPasses((x[neighbours(x)], y), weights, half_squares(y), wide=False, drop=1e-9)
    K.absorb(np.zeros(700), keep=True)
    kept = K._kept  # noqa: SLF001  what it leaves out, no result tells
    assert sum(700 if isinstance(columns, slice) else len(columns) for _, columns, _ in kept) < 0.5 * 700 * len(kept)


def test_neighbours_are_an_order():
    x = np.random.default_rng(0).normal(size=(3000, 3))
    assert np.array_equal(np.sort(neighbours(x)), np.arange(3000))


def test_columns_that_no_row_is_near_are_reached(monkeypatch):
    monkeypatch.setattr(kernel, "_DENSE", 0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 2)), 3.0 * rng.normal(size=(300, 2))
    far = sinkhorn_velocity(x, y, 0.3)
    init = far.potentials._replace(g=np.zeros(300))
    res = sinkhorn_velocity(x, y, 0.3, init=init)
    assert res.converged
    np.testing.assert_allclose(res.v, far.v, atol=5e-3)
    assert sinkhorn_divergence(x, y, 0.3) > 0
