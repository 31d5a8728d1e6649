"""Hypothesis profiles, and the `gpu` marker. Tolerances stand in tolerances.py, problems in strategies.py."""

import functools
import os

import pytest
from hypothesis import settings

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


def pytest_runtest_setup(item):
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and missing_for_gpu():
        pytest.skip(missing_for_gpu())
