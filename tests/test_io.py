"""Files: what comes back, files from strangers, writes that fail, and directories that belong to one run."""

import datetime
import decimal
import enum
import fractions
import json
import pickle
import uuid
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

import nsgf
from nsgf import NSGF, POT, Sinkhorn, Training, _files, _io
from nsgf.networks import MLP, OnImages, UNet


def test_arrays_and_parameters_come_back(tmp_path):
    arrays = {"x": np.arange(6.0).reshape(2, 3), "empty": np.empty((0, 2), np.float32)}
    _io.write(tmp_path / "m", arrays, {"a": [1, None, "b"]})
    read, meta = _io.read(tmp_path / "m")
    assert meta == {"a": [1, None, "b"]}
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


def there_and_back(value):
    """Return a value after its way through a file's JSON and arrays."""
    arrays = {}
    packed = _io.pack("value", value, arrays)
    return _io.unpack(json.loads(json.dumps(packed, allow_nan=False)), arrays)


@pytest.mark.parametrize(
    "value",
    [
        POT(tol=1e-3),
        Sinkhorn(max_iter=7),
        Training(clip=1.0, pool_bytes=10),
        (("a", 1), [None, True], {"b": (2.5, {})}),
        {"clip": np.float32(0.5), "n": np.int64(3)},
        "auto",
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_comes_back_as_it_was(value):
    again = there_and_back(value)
    assert again == value
    assert type(again) is type(value)


LABELS = [
    ("a", 1),
    (("a", 1), (2, ("b", (None, True)))),
    datetime.date(2024, 2, 29),
    datetime.datetime(2024, 2, 29, 12, 30, 0, 7),
    datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
    datetime.time(23, 59),
    pd.Timestamp("2024-02-29 12:30"),
    np.datetime64(1, "ns"),
    np.datetime64("2024-02"),
    np.timedelta64(5, "h"),
    b"\x00\xff",
    "\ud800\x00 ü",
    float("inf"),
    10**40,
    1 + 2j,
    decimal.Decimal("0.10"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=7),
]


@pytest.mark.parametrize("label", LABELS, ids=repr)
def test_a_label_that_a_file_can_hold_comes_back_equal_and_hashable(label):
    assert _io.can_hold(label)
    again = there_and_back((label, label))
    assert again == (label, label)
    assert {label: "found"}[again[0]] == "found"


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "label",
    [Colour.RED, frozenset("a"), ("a", frozenset("b")), object(), pd.Timestamp(1), print, 10**5000, ["a"], {"a": 1}],
    ids=lambda label: type(label).__name__,
)
def test_a_label_that_no_file_can_hold_is_known_as_one(label):
    assert not _io.can_hold(label)


def test_keys_that_are_no_text_are_refused_rather_than_changed():
    with pytest.raises(ValueError, match="history=.*cannot be saved"):
        _io.pack("history", {1: "a"}, {})


def test_a_named_tuple_of_the_users_own_comes_back_as_a_tuple():
    label = namedtuple("Dose", "drug amount")("a", 1)
    assert there_and_back(label) == label


@pytest.mark.parametrize("array", [np.eye(3, dtype=np.float32), np.array([1, 2]), np.array(["a", "b"], dtype=object)])
def test_arrays_within_a_value_come_back_with_their_dtype(array):
    (again,) = there_and_back({"x": array}).values()
    np.testing.assert_array_equal(again, array)
    assert again.dtype == array.dtype


def test_a_network_is_its_name_and_its_arguments():
    net = OnImages(UNet((1, 8, 8), width=8, multipliers=(1, 2), attention=(), n_heads=1, n_conditions=3), (1, 8, 8))
    for given in (MLP(5, width=8, depth=2, n_conditions=1), net):
        again = there_and_back(given)
        assert repr(again) == repr(given)
        assert again.n_conditions == given.n_conditions
        again.load_state_dict(given.state_dict())


def test_a_path_comes_back_as_one_and_what_has_no_form_is_named():
    assert there_and_back(Training(directory=Path("here"))).path("pool") == Path("here/pool")
    assert there_and_back(np.random.default_rng(0)) is None
    with pytest.raises(ValueError, match="solver=.*cannot be saved.*frozen dataclass"):
        _io.pack("solver", print, {})


def test_a_file_makes_values_of_known_classes_alone():
    with pytest.raises(ValueError, match="'os.system' is not known here"):
        _io.unpack({"os.system": {"command": "true"}}, {})


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


def test_a_file_is_opened_by_the_class_that_it_holds(tmp_path):
    _io.write(tmp_path / "other", {}, {"class": "Another"})
    with pytest.raises(ValueError, match="holds a Another, which is none of .*NSGF, NSGFPlusPlus"):
        nsgf.load(tmp_path / "other")


def test_a_file_of_the_first_version_says_so(tmp_path):
    save_file({"weight": np.zeros(3)}, tmp_path / "old", {"nsgf-1": "{}"})
    with pytest.raises(ValueError, match="written by nsgf 0.1.0.*fit again"):
        NSGF.load(tmp_path / "old")


def test_a_write_that_fails_leaves_the_last_file_and_no_other(tmp_path, monkeypatch):
    _io.write(tmp_path / "m", {"x": np.ones(3)}, {"round": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nsgf._io.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        _io.write(tmp_path / "m", {"x": np.zeros(3)}, {"round": 2})
    assert _io.read(tmp_path / "m")[1] == {"round": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def claim(directory, key):
    with _files.claimed(directory, key):
        pass


def test_a_directory_belongs_to_one_run(tmp_path):
    claim(tmp_path / "run", "one")
    claim(tmp_path / "run", "another")  # nothing has been written yet
    (tmp_path / "run" / "pool.npy").write_text("rows")
    claim(tmp_path / "run", "another")
    with pytest.raises(ValueError, match="holds other files, or the training of other data"):
        claim(tmp_path / "run", "one")
