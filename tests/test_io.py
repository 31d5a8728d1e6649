"""Files: what comes back, files from strangers, writes that fail, and directories that belong to one run."""

import contextlib
import datetime
import decimal
import enum
import fractions
import functools
import json
import os
import pickle
import stat
import subprocess
import sys
import tempfile
import uuid
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from common import BARELY, full_disk, ignore_report, samples
from edits import edited
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.numpy import save

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
    return _io.unpack(json.loads(json.dumps(packed, allow_nan=False)), arrays, _io.VALUES | _io.NETWORKS)


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
    for first in (MLP(5, width=8, depth=2, n_conditions=1), net):
        again = there_and_back(first)
        assert repr(again) == repr(first)
        assert again.n_conditions == first.n_conditions
        again.load_state_dict(first.state_dict())


def test_a_path_comes_back_as_one_and_what_has_no_form_is_named():
    assert there_and_back(Training(directory=Path("here"))).path("pool") == Path("here/pool")
    assert there_and_back(np.random.default_rng(0)) is None
    with pytest.raises(ValueError, match="solver=.*cannot be saved.*frozen dataclass"):
        _io.pack("solver", print, {})


def test_a_file_makes_values_of_known_classes_alone():
    with pytest.raises(ValueError, match="'os.system' is not known here"):
        _io.unpack({"os.system": {"command": "true"}}, {})


@functools.cache
def blob():
    """Return the file of a small model with labels."""
    network = MLP(2, width=4, depth=1, n_conditions=2)
    with tempfile.TemporaryDirectory() as folder:
        model = NSGF(**BARELY | {"network": network}).fit(None, samples(16)[1], y_tgt=["a", ("b", 1)] * 8)
        model.save(Path(folder) / "m")
        return (Path(folder) / "m").read_bytes()


def opened(path, content):
    """Return the model of a file of that content; None where it is refused."""
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        return nsgf.load(path)


# %% Files that are damaged, changed, or no files of models


@ignore_report
def test_flipped_bytes_are_refused_and_so_is_a_file_cut_short(tmp_path):
    rng, whole = np.random.default_rng(0), blob()
    assert opened(tmp_path / "m", whole) is not None
    for _ in range(200):
        flipped = bytearray(whole)
        for i in rng.integers(len(whole), size=rng.integers(1, 4)):
            flipped[i] ^= 1 << rng.integers(8)
        model = opened(tmp_path / "m", bytes(flipped))
        assert model is None or flipped == whole
    for n in range(50):
        assert opened(tmp_path / "m", whole[: n * len(whole) // 50]) is None


OTHERS = {
    "empty": (b"", "it is empty"),
    "noise": (b"\xff" * 200, "of another format"),
    "pickle": (pickle.dumps(print), "of another format"),
    "text": (b"just text", "of another format"),
    "zip": (b"PK\x03\x04" + bytes(60), "of another format"),
    "array": (b"\x93NUMPY" + bytes(60), "of another format"),
    "header": (save({"x": np.zeros(3)})[:40], "cut short or damaged"),
    "data": (save({"x": np.zeros(3)})[:-8], "cut short or damaged"),
    "foreign": (save({"x": np.zeros(3)}), "not of an nsgf model"),
    "old": (save({}, {"nsgf-1": "{}"}), "written by nsgf 0.1.0.*fit again"),
    "new": (save({}, {"nsgf-3": "{}"}), "newer version of nsgf .*nsgf-3.*upgrade"),
    "changed": (save({}, {"nsgf-2": "{}", "sha256": "0"}), "changed after it was saved"),
    "deep": (save({}, {"nsgf-2": "[" * 10**5, "sha256": _io.checksum("[" * 10**5, {})}), "recursion"),
    "list": (save({}, {"nsgf-2": "[]", "sha256": _io.checksum("[]", {})}), "its description is no object"),
}


@pytest.mark.parametrize(("content", "words"), OTHERS.values(), ids=OTHERS)
def test_a_file_of_no_model_says_what_it_is(tmp_path, content, words):
    (tmp_path / "m").write_bytes(content)
    for load in (NSGF.load, nsgf.load):
        with pytest.raises(ValueError, match=words):
            load(tmp_path / "m")


def test_what_is_no_file_says_so(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no model at .*model\.save"):
        NSGF.load(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError, match="is a directory; give the path of a file"):
        nsgf.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="a device, a pipe or a socket"):
            nsgf.load(name)

    def closed(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "m").write_bytes(blob())
    monkeypatch.setattr("nsgf._io.Path.read_bytes", closed)
    with pytest.raises(PermissionError, match=f"may not be read.*{tmp_path / 'm'}"):
        nsgf.load(tmp_path / "m")


def test_a_file_is_opened_by_the_class_that_it_holds(tmp_path):
    _io.write(tmp_path / "other", {}, {"class": "Another"})
    with pytest.raises(ValueError, match="holds a Another, which is none of .*NSGF, NSGFPlusPlus"):
        nsgf.load(tmp_path / "other")
    with pytest.raises(ValueError, match="holds a Another, not a NSGF"):
        NSGF.load(tmp_path / "other")
    _io.write(tmp_path / "partial", {}, {"class": "NSGF"})
    with pytest.raises(ValueError, match="does not fit this version"):
        NSGF.load(tmp_path / "partial")


# %% Files that were edited by one who knows the checksum


def edit(tmp_path, change):
    """Return the path of a file whose arrays and JSON were changed, and whose checksum is right."""
    path = tmp_path / "m"
    path.write_bytes(blob())
    arrays, meta = _io.read(path)
    meta = change(arrays, meta) or meta
    text = json.dumps(meta)
    path.write_bytes(save(arrays, {_io.FORMAT: text, "sha256": _io.checksum(text, arrays)}))
    return path


EDITS = {
    "shift": lambda a, m: a.update({"task.frame.origins": np.zeros((2, 3))}),
    "nan": lambda a, m: a.update({"task.frame.origins": np.full((2, 2), np.nan)}),
    "rows": lambda a, m: a.update({"task.target.x": np.zeros((4, 3), np.float32)}),
    "no rows": lambda a, m: a.update({"task.target.x": np.zeros((0, 2), np.float32)}),
    "noise": lambda a, m: a.update({"task.source.scale": np.array([-1.0, 1.0])}),
    "weight": lambda a, m: a["field_.layers.0.weight"].fill(np.inf),
    "dtype": lambda a, m: a.update({"field_.layers.0.bias": np.zeros(4)}),
    "no weight": lambda a, m: a.pop("field_.layers.0.bias") is None,
    "first": lambda a, m: a["first.layers.0.weight"].fill(np.nan),
    "scale": lambda a, m: m["task"]["Task"]["frame"]["Frame"].update(scale=0.0),
    "columns": lambda a, m: m["task"]["Task"]["features"]["Features"].update(n=3),
    "times": lambda a, m: m["task"]["Task"].update(times={"tuple": [1.0, 0.0]}),
    "labels": lambda a, m: m["task"]["Task"].update(kinds={"Classes": {"labels": {"tuple": ["a", "a"]}}}),
    "unhashable": lambda a, m: m["task"]["Task"].update(kinds={"Classes": {"labels": {"tuple": [{"list": []}, 1]}}}),
    "kinds": lambda a, m: m["task"]["Task"].update(kinds={"Clock": {"n_steps": 1, "length": 1.0}}),
    "unknown": lambda a, m: m["task"]["Task"].update(other=1),
    "steps": lambda a, m: m["learnt"]["Learnt"]["clock"]["Clock"].update(n_steps=0),
    "span": lambda a, m: m["learnt"]["Learnt"]["clock"]["Clock"].update(snapshots={"tuple": [0.0, 0.5]}),
    "course": lambda a, m: m["learnt"]["Learnt"]["clock"]["Clock"].update(snapshots={"tuple": [0.0, 0.5, 1.0]}),
    "blur": lambda a, m: m["learnt"]["Learnt"].update(blur={"float": "inf"}),
    "report": lambda a, m: m["learnt"]["Learnt"]["report"]["dict"].update(max_error="small"),
    "swapped": lambda a, m: m.update(task=m["learnt"]),
    "parameter": lambda a, m: m["parameters"].update(max_iter=-1),
    "no parameter": lambda a, m: m["parameters"].update(learning_rate=1.0),
    "device": lambda a, m: m["parameters"].update(device="tpu"),
    "seed": lambda a, m: m["parameters"].update(random_state="0"),
    "training": lambda a, m: m["parameters"]["training"]["Training"].update(batch_size="many"),
    "width": lambda a, m: m["parameters"]["network"]["MLP"].update(width=10**12),
    "depth": lambda a, m: m["parameters"]["network"]["MLP"].update(depth=10**12),
    "network": lambda a, m: m["task"]["Task"].update(kinds={"MLP": {"n_features": 10**12}}),
}


@ignore_report
@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_a_value_that_no_fit_writes_is_refused(tmp_path, change):
    with pytest.raises(ValueError, match="does not fit this version of nsgf; open it with"):
        nsgf.load(edit(tmp_path, change))


@ignore_report
def test_a_model_of_a_machine_with_another_device_opens(tmp_path):
    path = edit(tmp_path, lambda a, m: m["parameters"].update(device="cuda"))
    assert nsgf.load(path).device == "cuda"


@ignore_report
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # one path, written anew each time
@given(data=st.data(), n=st.integers(1, 3))
def test_edits_make_a_model_or_a_value_error(tmp_path, data, n):
    def change(_, meta):
        for _ in range(n):
            meta = edited(meta, lambda n: data.draw(st.integers(0, n - 1)))
        return meta

    try:
        model = nsgf.load(edit(tmp_path, change))
    except ValueError as error:
        assert str(tmp_path) in str(error)  # noqa: PT017  either will do
    else:
        model.save(tmp_path / "again")
        assert repr(nsgf.load(tmp_path / "again").get_params()) == repr(model.get_params())


# %% Writing


def test_links_stay_links_and_the_file_behind_keeps_its_mode(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path("models/v1").write_bytes(b"old")
    Path("models/v1").chmod(0o640)
    for link, target in (("latest", "models/v1"), ("again", "latest"), ("dangling", "models/v2")):
        os.symlink(target, link)
    for i, name in enumerate(("latest", Path("again"), "dangling", "models/../models/v1", Path("v3"))):
        _io.write(name, {}, {"round": i})
        assert _io.read(name)[1] == {"round": i}
    assert all(os.path.islink(name) for name in ("latest", "again", "dangling"))
    assert stat.S_IMODE(os.stat("models/v1").st_mode) == 0o640
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(os.stat("models/v2").st_mode) == 0o666 & ~umask
    assert {path.name for path in Path("models").iterdir()} == {"v1", "v2"}


@ignore_report
def test_where_no_file_can_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    model = nsgf_of(tmp_path)
    monkeypatch.setattr("nsgf._io.pack", lambda *_: pytest.fail("it packs"))
    (tmp_path / "kept").write_bytes(b"kept")
    (tmp_path / "kept").chmod(0o444)
    (tmp_path / "closed").mkdir(0o555)
    os.symlink("loop", tmp_path / "loop")
    os.symlink("kept", tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    places = {"missing/m": FileNotFoundError, "kept/m": FileNotFoundError, "": IsADirectoryError}
    places |= {name: PermissionError for name in ("kept", "link", "closed/m")} | {"pipe": OSError, "loop": OSError}
    for name, error in places.items():
        with pytest.raises(error, match=str(tmp_path)):
            model.save(tmp_path / name)
    with pytest.raises(OSError, match="device"):
        model.save("/dev/null")
    assert (tmp_path / "kept").read_bytes() == b"kept"
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def nsgf_of(tmp_path):
    (tmp_path / "m").write_bytes(blob())
    return nsgf.load(tmp_path / "m")


def test_a_full_disk_leaves_the_last_file_and_no_other(tmp_path):
    _io.write(tmp_path / "m", {"x": np.ones(3)}, {"round": 1})
    with full_disk(), pytest.raises(OSError, match=str(tmp_path / "m")):
        _io.write(tmp_path / "m", {"x": np.zeros(3000)}, {"round": 2})
    assert _io.read(tmp_path / "m")[1] == {"round": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


WRITER = """
import sys, numpy as np
from nsgf import _io
for i in range(int(sys.argv[2])):
    _io.write(sys.argv[1], {"x": np.full(200_000, float(sys.argv[3]))}, {"who": sys.argv[3]})
    print(i, flush=True)
"""


def writer(path, n, who):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n), str(who)], stdout=subprocess.PIPE)


def test_writers_of_one_file_leave_one_whole_file_and_no_other(tmp_path):
    processes = [writer(tmp_path / "m", 20, who) for who in (1, 2, 3)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    arrays, meta = _io.read(tmp_path / "m")
    np.testing.assert_array_equal(arrays["x"], float(meta["who"]))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_kills_leave_a_whole_file_and_at_most_one_draft(tmp_path):
    for _ in range(3):
        with writer(tmp_path / "m", 10**6, 1) as process:
            process.stdout.readline()
            process.kill()
        np.testing.assert_array_equal(_io.read(tmp_path / "m")[0]["x"], 1.0)
        assert {path.name for path in tmp_path.iterdir()} <= {"m", ".m.new"}
    _io.write(tmp_path / "m", {}, {"round": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_infinities_are_kept_in_values_and_refused_in_bare_json(tmp_path):
    assert there_and_back({"clip": float("inf"), "low": -float("inf")}) == {"clip": float("inf"), "low": -float("inf")}
    assert np.isnan(there_and_back(float("nan")))
    with pytest.raises(ValueError, match="JSON"):
        _io.write(tmp_path / "m", {}, {"bare": float("nan")})
    assert not list(tmp_path.iterdir())


# %% The directory of a training


def claim(directory, key):
    with _files.claimed(directory, key):
        pass


def test_a_directory_belongs_to_one_run(tmp_path):
    claim(tmp_path / "run", "one")
    claim(tmp_path / "run", "another")  # nothing has been written yet
    (tmp_path / "run" / "pool.npy").write_text("rows")
    claim(tmp_path / "run", "another")
    for broken in (None, b"", b"\xff\x00", b"[1]"):
        if broken is not None:
            (tmp_path / "run" / "run.json").write_bytes(broken)
        with pytest.raises(ValueError, match="holds other files, or the training of other data"):
            claim(tmp_path / "run", "one")


def test_a_directory_that_cannot_be_used_says_so_and_its_name(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "closed").mkdir(0o555)
    (tmp_path / "odd" / "run.json").mkdir(parents=True)
    for name, error in {"file": OSError, "file/run": OSError, "closed": OSError, "odd": OSError}.items():
        with pytest.raises(error, match=f"directory='{tmp_path / name}' cannot be used .*choose another"):
            claim(tmp_path / name, "one")
    with full_disk(1), pytest.raises(OSError, match="cannot be used .*choose another"):
        claim(tmp_path / "full", "one")


HOLDER = """
import sys, time
from nsgf import _files
with _files.claimed(sys.argv[1], "one"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_fit_at_a_time_works_in_a_directory_and_a_kill_sets_it_free(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(ValueError, match=f"in use by another fit, of process {process.pid} on .*Wait until"):
            claim(tmp_path, "one")
        process.kill()
    claim(tmp_path, "one")
    with _files.claimed(tmp_path, "one"), ThreadPoolExecutor() as threads:  # threads of one process too
        assert "in use by another fit" in str(threads.submit(claim, tmp_path, "one").exception())
    with pytest.raises(KeyboardInterrupt), _files.claimed(tmp_path, "one"):
        raise KeyboardInterrupt
    claim(tmp_path, "one")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_fit_holds_its_directory_until_it_ends(tmp_path, monkeypatch):
    def learn(*_):
        with pytest.raises(ValueError, match="in use by another fit"):
            claim(tmp_path, "one")
        raise FloatingPointError

    monkeypatch.setattr(NSGF, "_learn", learn)
    model = NSGF(**BARELY | {"training": Training(directory=tmp_path)})
    for _ in range(2):
        pytest.raises(FloatingPointError, model.fit, *samples(20))


CHANGES = [{"n_steps": 0}, {"network": "unet"}, {"blur": -1}, {"solver": None}, {"network": MLP(3)}]


@ignore_report
@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_would_not_open_again_leaves_the_file_before_it(change, tmp_path):
    path, model = tmp_path / "m.safetensors", NSGF(**BARELY).fit(*samples(50))
    model.save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="would not open again: .* Set back what was changed since fit"):
        model.set_params(**change).save(path)
    assert path.read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
@pytest.mark.parametrize("kind", ["directory", "pipe", "link", "hard link"])
def test_what_is_in_the_way_of_a_draft_is_named_and_left_alone(kind, tmp_path):
    path, draft, other = tmp_path / "m", tmp_path / ".m.new", tmp_path / "other"
    other.write_bytes(b"other")
    make = {"directory": os.mkdir, "pipe": os.mkfifo}
    make |= {"link": functools.partial(os.symlink, other), "hard link": functools.partial(os.link, other)}
    make[kind](draft)
    with pytest.raises(FileExistsError, match="'.m.new' is in the way, a link or no file; remove it"):
        _files.replace(path, b"new")
    assert other.read_bytes() == b"other"


def test_a_fraction_of_a_file_takes_no_more_time_than_its_digits():
    with pytest.raises(ValueError, match="invalid literal"):
        _io.unpack({"fraction": "1e999999999"}, {})
