"""Hypothesis profiles, the `gpu` marker, and fixtures that no test may change.

Tolerances stand in tolerances.py, problems in strategies.py, quick parameters and samples in common.py.
"""

import functools
import os
import signal

import pytest
from common import QUICK, samples
from hypothesis import settings
from threadpoolctl import threadpool_limits

from nsgf import NSGF

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@functools.cache
def missing_for_gpu():
    """Say why the tests marked `gpu` cannot run; an empty string means that they can."""
    try:
        import cupy

        return "" if cupy.cuda.runtime.getDeviceCount() else "no CUDA device"
    except ImportError:
        return "CuPy is not installed"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA device: {error}"


def pytest_configure(config):
    """Let Ctrl-C be a KeyboardInterrupt also where the suite runs in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item):
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and missing_for_gpu():
        pytest.skip(missing_for_gpu())


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Keep BLAS and OpenMP to one thread: at the sizes of tests more of them only wait for each other."""
    import sklearn.neighbors  # noqa: F401  its OpenMP must be loaded to be limited

    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def flow():
    """Return a flow from a Gaussian to two moons; not to be changed."""
    return NSGF(**QUICK).fit(*samples())
