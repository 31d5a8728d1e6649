"""Files from strangers, writes that fail, the command line, and the cost of an import."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from nsgf import NSGF, _io, datasets
from nsgf.__main__ import main

HEAVY = ("torch", "ot", "matplotlib", "sklearn", "scipy", "cupy")


def test_importing_nsgf_imports_none_of_the_heavy_libraries():
    code = f"import sys, nsgf; print([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_arrays_and_parameters_come_back(tmp_path):
    arrays = {"x": np.arange(6.0).reshape(2, 3), "empty": np.empty((0, 2), np.float32)}
    _io.write(tmp_path / "m", arrays, {"a": [1, None, "b"]})
    read, meta = _io.read(tmp_path / "m")
    assert meta == {"a": [1, None, "b"]}
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


def corrupt(tmp_path):
    _io.write(tmp_path / "m", {"x": np.zeros(1000)}, {"class": "NSGF"})
    return (tmp_path / "m").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda blob: blob[:100],
        lambda blob: blob[:-8],
        lambda blob: b"",
        lambda blob: b"\xff" * 200,
        lambda blob: pickle.dumps(print),
        lambda blob: b"just text",
    ],
    ids=["cut-header", "cut-data", "empty", "noise", "pickle", "text"],
)
def test_a_corrupt_file_is_a_clear_error(tmp_path, change):
    blob = corrupt(tmp_path)
    (tmp_path / "m").write_bytes(change(blob))
    with pytest.raises(ValueError, match="cannot be read as an nsgf model"):
        NSGF.load(tmp_path / "m")


def test_foreign_missing_and_incomplete_files_are_clear_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model at .*model\.save"):
        NSGF.load(tmp_path / "nowhere")
    save_file({"weight": np.zeros(3)}, tmp_path / "foreign")
    with pytest.raises(ValueError, match="not of an nsgf model"):
        NSGF.load(tmp_path / "foreign")
    _io.write(tmp_path / "other", {}, {"class": "Another"})
    with pytest.raises(ValueError, match="holds a Another, not a NSGF"):
        NSGF.load(tmp_path / "other")
    _io.write(tmp_path / "partial", {}, {"class": "NSGF"})
    with pytest.raises(ValueError, match="does not fit this version"):
        NSGF.load(tmp_path / "partial")


def test_a_write_that_fails_leaves_the_last_file_and_no_other(tmp_path, monkeypatch):
    _io.write(tmp_path / "m", {"x": np.ones(3)}, {"round": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nsgf._io.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        _io.write(tmp_path / "m", {"x": np.zeros(3)}, {"round": 2})
    assert _io.read(tmp_path / "m")[1] == {"round": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.slow
def test_the_command_line_fits_transforms_and_samples(tmp_path, capfd):
    rng = np.random.default_rng(0)
    files = {name: str(tmp_path / name) for name in ("x.npy", "y.npy", "model", "carried.npy", "drawn.npy")}
    np.save(files["x.npy"], datasets.gaussian(64, rng))
    np.save(files["y.npy"], datasets.moons(64, rng))
    assert main(["fit", files["x.npy"], files["y.npy"], files["model"], "--blur", "1.0"]) == 0
    assert main(["transform", files["model"], files["x.npy"], files["carried.npy"]]) == 0
    assert main(["sample", files["model"], "5", files["drawn.npy"], "--seed", "0"]) == 0
    assert np.load(files["carried.npy"]).shape == (64, 2)
    assert np.load(files["drawn.npy"]).shape == (5, 2)
    assert "NSGF train" in capfd.readouterr().err


def test_the_command_line_reports_an_error_in_one_line(tmp_path, capsys):
    assert main(["transform", str(tmp_path / "none"), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]) == 1
    assert capsys.readouterr().err.startswith("nsgf transform: ")
