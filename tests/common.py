"""What several files share: parameters of quick fits, samples, the filter of their reports, and a full disk."""

import contextlib

import numpy as np
import pytest
import torch

from nsgf import Training, datasets
from nsgf.networks import UNet

QUICK = {"max_iter": 300, "n_batches": 4, "batch_size": 128, "n_steps": 3, "device": "cpu", "random_state": 0}
QUICK |= {"training": Training(batch_size=128)}
BARELY = QUICK | {"max_iter": 3, "n_batches": 1, "batch_size": 32}  # where it does not matter what is learnt
CENTRES = np.array([[4.0, 0.0], [-4.0, 0.0], [0.0, 5.0]])

ignore_report = pytest.mark.filterwarnings("ignore:report_:UserWarning")  # of quick fits
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
methods = pytest.mark.parametrize("method", ["auto", "sinkhorn", "sinkhorn_log", "sinkhorn_stabilized"])  # of POT


def samples(n=400, m=None, seed=0):
    """Return n points of a Gaussian and m of two moons."""
    rng = np.random.default_rng(seed)
    return datasets.gaussian(n, rng), datasets.moons(m or n, rng)


def far_samples(n=300, m=200, dtype="float64", seed=0):
    """Return n points of eight Gaussians and m of two moons: two laws that are not near each other."""
    rng = np.random.default_rng(seed)
    return datasets.eight_gaussians(n, rng).astype(dtype), datasets.moons(m, rng).astype(dtype)


def relative_distance(v, w):
    """Return the root-mean-square distance of v to w, relative to w."""
    v, w = v.astype(np.float64), w.astype(np.float64)
    return np.linalg.norm(v - w) / np.linalg.norm(w)


def labelled_sample(n=600, seed=0, names="abc"):
    """Return points around three centres, and the name of the centre of each."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(3, size=n)
    return CENTRES[codes] + 0.3 * rng.normal(size=(n, 2)), np.array(list(names), dtype=object)[codes]


def nearest_centre(x):
    """Return the codes (n,) of the nearest centres."""
    return np.linalg.norm(x[:, None] - CENTRES, axis=2).argmin(axis=1)


def pictures(n=100, seed=0):
    """Return bright squares of 8 × 8 pixels at random places, (n, 1, 8, 8)."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 0.1, size=(n, 1, 8, 8))
    for image, (i, j) in zip(images, rng.integers(5, size=(n, 2)), strict=True):
        image[0, i : i + 4, j : j + 4] += 0.9
    return images


def small_unet():
    """Return a U-net for them, of the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet((1, 8, 8), width=8, multipliers=(1, 2), attention=(), n_heads=1)


@contextlib.contextmanager
def full_disk(size=1000):
    """Let no file grow beyond `size`, as where the disk is full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
