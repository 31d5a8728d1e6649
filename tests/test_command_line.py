"""The command line: what the commands fit and open, and an error in one line, before any work is done."""

import functools
import os
import pickle

import numpy as np
import pytest
from common import BARELY, ignore_report, samples

from nsgf import NSGF, NSGFPlusPlus
from nsgf.__main__ import main


@ignore_report
def test_the_command_line_fits_transforms_and_samples(tmp_path, capfd, monkeypatch):
    quick = {k: v for k, v in BARELY.items() if k != "random_state"}
    monkeypatch.setattr("nsgf.NSGF", functools.partial(NSGF, **quick), raising=False)
    files = {name: str(tmp_path / name) for name in ("x.npy", "y.npy", "model", "carried", "drawn.npy")}
    for name, z in zip(("x.npy", "y.npy"), samples(64), strict=True):
        np.save(files[name], z)
    for source, seed in ((files["x.npy"], "3"), ("noise", "4")):
        assert main(["fit", source, files["y.npy"], files["model"], "--blur", "1.0", "--seed", seed]) == 0
        assert "NSGF train" in capfd.readouterr().err
        assert main(["transform", files["model"], files["x.npy"], files["carried"]]) == 0  # under that very name
        assert main(["sample", files["model"], "5", files["drawn.npy"], "--seed", "0"]) == 0
        model = NSGF.load(files["model"])
        assert (model.blur, model.random_state) == (1.0, int(seed))
        np.testing.assert_array_equal(np.load(files["carried"]), model.transform(np.load(files["x.npy"])))
        np.testing.assert_array_equal(np.load(files["drawn.npy"]), model.sample(5, random_state=0))


@ignore_report
def test_the_command_line_opens_whatever_a_file_holds(tmp_path):
    x, y = samples(64)
    model = NSGFPlusPlus(**BARELY).fit(x, y)
    model.save(tmp_path / "model")
    np.save(tmp_path / "x.npy", x)
    assert main(["transform", *(str(tmp_path / name) for name in ("model", "x.npy", "carried.npy"))]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "carried.npy"), model.transform(x))


class Unwanted(NSGF):
    """An estimator that is not to be fitted."""

    def fit(self, *_, **__):
        raise AssertionError("it fits")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a sample and files that are none, in which nothing may be fitted."""
    monkeypatch.setattr("nsgf.NSGF", Unwanted, raising=False)
    monkeypatch.setattr("nsgf.demo.run", Unwanted.fit)
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones((5, 2)))
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez("x.npz", a=np.ones(3))
    whole = (tmp_path / "x.npy").read_bytes()
    texts = {"empty.npy": b"", "cut.npy": whole[:-5], "head.npy": whole[:20], "x.csv": b"1,2\n3,4\n"}
    texts |= {
        "x.pickle": pickle.dumps([1]),
        "bad.npz": b"PK\x03\x04no",
        "huge.npy": whole.replace(b"(5, 2), ", b"(5, 9**9)"),
    }
    for name, blob in texts.items():
        (tmp_path / name).write_bytes(blob)
    (tmp_path / "directory").mkdir()
    (tmp_path / "read-only").write_bytes(b"kept")
    (tmp_path / "read-only").chmod(0o444)
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def line(capsys, *arguments):
    """Return what a command that fails says, in one line."""
    assert main(list(arguments)) == 1
    text = capsys.readouterr().err
    assert text.startswith(f"nsgf {arguments[0]}: ")
    assert text.count("\n") == 1
    return text


UNREADABLE = ("empty.npy", "cut.npy", "head.npy", "x.csv", "x.npz", "x.pickle", "bad.npz", "huge.npy", "objects.npy")


@pytest.mark.parametrize("name", [*UNREADABLE, "missing.npy", "directory", "pipe"])
def test_a_sample_that_cannot_be_read_is_named_with_the_format_that_is(folder, capsys, name):
    for pair in ((name, "x.npy"), ("noise", name)):
        said = line(capsys, "fit", *pair, "model")
        assert f"'{name}' cannot be read" in said
        assert "Give one array as a .npy file" in said
        assert "allow_pickle" not in said


@pytest.mark.parametrize(
    ("place", "remedy"),
    [
        ("missing/m", "no such directory; make it first"),
        ("x.npy/m", "no such directory; make it first"),
        ("directory", "is a directory; give the path of a file"),
        ("", "is a directory; give the path of a file"),
        ("read-only", "read-only; choose another path"),
        ("pipe", "a device, a pipe or a socket"),
        ("/dev/null", "a device, a pipe or a socket"),
        ("x.npy", "is source too, and would be lost"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(folder, capsys, place, remedy):
    assert remedy in line(capsys, "fit", "x.npy", "x.npy", place)
    assert remedy in line(capsys, "transform", "nothing", "x.npy", place)
    if place != "x.npy":
        assert remedy in line(capsys, "sample", "nothing", "3", place)
        assert remedy in line(capsys, "demo", "--output", place)
    assert (folder / "read-only").read_bytes() == b"kept"
    np.testing.assert_array_equal(np.load("x.npy"), np.ones((5, 2)))


def test_a_picture_of_no_known_format_is_refused_before_the_work(folder, capsys):
    assert "Let its name end in one of" in line(capsys, "demo", "--output", "picture.abc")


@pytest.mark.parametrize("blur", ["0", "-1", "nan", "inf"])
def test_a_blur_out_of_range_is_the_error_of_the_estimator(tmp_path, capsys, blur):
    np.save(tmp_path / "x.npy", samples(20)[0])
    with pytest.raises(ValueError, match="blur=") as error:
        NSGF(float(blur)).fit(*samples(20))
    files = [str(tmp_path / name) for name in ("x.npy", "x.npy", "model")]
    assert str(error.value) in line(capsys, "fit", *files, f"--blur={blur}")


@pytest.mark.parametrize("error", [FloatingPointError("the loss is nan.\nLower it"), KeyError("a"), MemoryError()])
def test_whatever_goes_wrong_is_one_line(folder, capsys, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(Unwanted, "fit", fails)
    line(capsys, "fit", "noise", "x.npy", "model")


def test_ctrl_c_ends_with_the_status_of_shells_and_says_nothing(folder, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Unwanted, "fit", interrupted)
    assert main(["fit", "noise", "x.npy", "model"]) == 130
    assert capsys.readouterr().err == ""


def test_a_missing_model_is_one_line_with_the_way_to_one(folder, capsys):
    assert "write one with model.save(path)" in line(capsys, "sample", "nothing", "3", "drawn.npy")
    assert "cannot be read as an nsgf model" in line(capsys, "transform", "x.csv", "x.npy", "carried.npy")
