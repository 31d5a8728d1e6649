"""The package as a whole: what its import costs, and the names that it gives."""

import subprocess
import sys

import pytest

import nsgf

HEAVY = ("torch", "ot", "matplotlib", "sklearn", "scipy", "cupy")


@pytest.mark.parametrize("module", ["nsgf", "nsgf.metrics"])
def test_an_import_brings_none_of_the_heavy_libraries(module):
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there_and_no_other():
    for name in nsgf.__all__:
        assert getattr(nsgf, name) is not None
    assert set(dir(nsgf)) == {*nsgf.__all__, "__version__"}
    with pytest.raises(AttributeError, match="has no attribute 'Flow'"):
        vars(nsgf)["__getattr__"]("Flow")
