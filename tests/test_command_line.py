"""The command line: what the commands fit and open, and an error in one line."""

import functools

import numpy as np
from common import BARELY, ignore_report, samples

from nsgf import NSGF, NSGFPlusPlus
from nsgf.__main__ import main


@ignore_report
def test_the_command_line_fits_transforms_and_samples(tmp_path, capfd, monkeypatch):
    quick = {k: v for k, v in BARELY.items() if k != "random_state"}
    monkeypatch.setattr("nsgf.NSGF", functools.partial(NSGF, **quick), raising=False)
    files = {name: str(tmp_path / name) for name in ("x.npy", "y.npy", "model", "carried.npy", "drawn.npy")}
    for name, z in zip(("x.npy", "y.npy"), samples(64), strict=True):
        np.save(files[name], z)
    for source, seed in ((files["x.npy"], "3"), ("noise", "4")):
        assert main(["fit", source, files["y.npy"], files["model"], "--blur", "1.0", "--seed", seed]) == 0
        assert "NSGF train" in capfd.readouterr().err
        assert main(["transform", files["model"], files["x.npy"], files["carried.npy"]]) == 0
        assert main(["sample", files["model"], "5", files["drawn.npy"], "--seed", "0"]) == 0
        model = NSGF.load(files["model"])
        assert (model.blur, model.random_state) == (1.0, int(seed))
        np.testing.assert_array_equal(np.load(files["carried.npy"]), model.transform(np.load(files["x.npy"])))
        np.testing.assert_array_equal(np.load(files["drawn.npy"]), model.sample(5, random_state=0))


@ignore_report
def test_the_command_line_opens_whatever_a_file_holds(tmp_path):
    x, y = samples(64)
    model = NSGFPlusPlus(**BARELY).fit(x, y)
    model.save(tmp_path / "model")
    np.save(tmp_path / "x.npy", x)
    assert main(["transform", *(str(tmp_path / name) for name in ("model", "x.npy", "carried.npy"))]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "carried.npy"), model.transform(x))
    assert main(["fit", *(str(tmp_path / name) for name in ("x.npy", "x.npy", "other")), "--blur", "0"]) == 1


def test_the_command_line_reports_an_error_in_one_line(tmp_path, capsys):
    assert main(["transform", str(tmp_path / "none"), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]) == 1
    assert capsys.readouterr().err.startswith("nsgf transform: ")
