"""The border: what is let in and how it comes back, what is turned away and with which words."""

import datetime
import decimal
import fractions
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from common import dtypes
from tolerances import FLOAT64, ROUNDING

from nsgf import NSGF, metrics, plots, sinkhorn_flow, spread
from nsgf._arrays import as_pair, as_points, as_weights, like, namespace, pick_device, to_numpy, to_torch
from nsgf.sinkhorn import pick_blur, sinkhorn_divergence, sinkhorn_velocity
from nsgf.solvers import POT, Potentials, Sinkhorn

X, Y = np.random.default_rng(0).normal(size=(2, 12, 3))
SOLVER = POT(method="auto", tol=1e-7)
W = np.ones(12)


def spoilt(value):
    """Return X with one value replaced."""
    x = X.copy()
    x[3, 1] = value
    return x


def message(call, *args, **options):
    """Return the text of the ValueError or TypeError that a call must raise."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call(*args, **options)
    return str(caught.value)


# %% What is turned away: the message names the argument and carries the way out

BAD_POINTS = {
    "NaN": (spoilt(np.nan), "NaN or infinite.*Impute"),
    "infinity": (spoilt(-np.inf), "NaN or infinite.*Impute"),
    "torch NaN": (torch.tensor(spoilt(np.nan)), "NaN or infinite.*Impute"),
    "None in objects": (np.array([[1.0, None]], dtype=object), "NaN or infinite.*Impute"),
    "no rows": (X[:0], "empty.*at least one row"),
    "no columns": (X[:, :0], "empty.*one column"),
    "empty list": ([[]], "empty.*at least one row"),
    "one dimension": (X[:, 0], r"shape \(12,\).*reshape\(-1, 1\)"),
    "three dimensions": (X[None], r"shape \(1, 12, 3\).*reshape\(len\([xy]\), -1\)"),
    "a number": (3.0, "[Rr]eshape"),
    "text": ("a cloud", "not numeric.*Encode"),
    "numeric strings": (X.astype(str), "not numeric.*Encode"),
    "numeric strings in a list": ([["1", "2"], ["3", "4"]], "not numeric.*Encode"),
    "numeric strings as objects": (np.array([["1", "2"], ["3", "4"]], dtype=object), "not numeric.*Encode"),
    "bytes": (X.astype(bytes), "not numeric.*Encode"),
    "dates": (np.array([["2020-01-01"]], dtype="datetime64[D]"), "not numeric.*dates.*timedelta64"),
    "durations": (np.array([[3]], dtype="timedelta64[D]"), "not numeric.*dates.*timedelta64"),
    "dates as objects": (np.array([[np.datetime64("2020-01-01"), 1.0]], dtype=object), "not numeric.*dates"),
    "dates of Python": ([[datetime.date(2020, 1, 1), 1.0]], "not numeric.*dates.*timedelta64"),
    "records": (np.rec.fromarrays([X[:, 0], X[:, 1]], names="u,v"), "not numeric.*structured_to_unstructured"),
    "masked": (np.ma.masked_greater(X, 1.0), r"masked entries, \d+ of them, the first at.*[Ff]ill"),
    "a list of masked rows": ([*np.ma.masked_greater(X, 1.0)], "masked entries.*[Ff]ill"),
    "sparse": (scipy.sparse.csr_array(X), r"sparse.*toarray\(\)"),
    "sparse torch": (torch.tensor(X).to_sparse(), r"sparse.*to_dense\(\)"),
    "huge integers": ([[10**400, 1]], "NaN or infinite.*Impute"),
    "huge long doubles": (np.longdouble(10) ** 400 * np.ones((2, 2), np.longdouble), "NaN or infinite.*Impute"),
    "missing numbers": (pd.DataFrame({"a": [1.5, None], "b": [1, 2]}).convert_dtypes(), r"missing.*\[1, 0\].*Impute"),
    "missing booleans": (pd.DataFrame({"a": [True, None]}).convert_dtypes(), r"missing.*\[1, 0\].*Impute"),
    "nulls": (pl.DataFrame({"a": [1, 2], "b": [1, None]}), r"missing.*\[1, 1\].*Impute"),
    "dates in a frame": (pd.DataFrame({"a": pd.to_datetime(["2020-01-01"]), "b": [1.0]}), "not numeric.*dates"),
    "dictionaries": (np.array([[{}, {"a": 1}]], dtype=object), "not numeric.*Encode"),
    "mixed objects": (np.array([[1.0, "b"]], dtype=object), "not numeric.*Encode"),
    "ragged rows": ([[1.0, 2.0], [3.0]], "not numeric.*Encode"),
    "complex": (X + 1j, "complex.*real and imaginary"),
    "complex torch": (torch.tensor(X + 1j), "complex.*real and imaginary"),
}


@pytest.mark.parametrize("name", ["x", "y"])
@pytest.mark.parametrize(("points", "words"), BAD_POINTS.values(), ids=BAD_POINTS)
def test_bad_points_are_named_and_told_the_remedy(points, words, name):
    clouds = {"x": X, "y": X} | {name: points}
    if isinstance(points, torch.Tensor):
        clouds = {"x": torch.tensor(X), "y": torch.tensor(X)} | {name: points}
    assert re.search(rf"^{name} .*{words}", message(sinkhorn_velocity, **clouds))


@pytest.mark.parametrize("column", [["1", "2"], ["a", "b"], [{}, {}]], ids=["numeric strings", "text", "dicts"])
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_with_a_column_that_is_no_number_are_turned_away(library, column):
    if library == "polars" and column == [{}, {}]:
        column = [{"k": 1}, {"k": 2}]  # polars knows no empty record
    frame = pytest.importorskip(library).DataFrame({"length": [1.0, 2.0], "kind": column})
    assert re.search("^x is not numeric.*Encode", message(as_points, frame, "x"))


@pytest.mark.parametrize("function", [sinkhorn_velocity, sinkhorn_divergence, metrics.wasserstein, sinkhorn_flow])
@pytest.mark.parametrize("library", [pd, pl])
def test_frames_with_another_order_of_columns_are_turned_away(function, library):
    x, y = (library.DataFrame({"age": z[:, 0], "dose": z[:, 1]}) for z in (X, Y))
    function(x, y)
    function(x, Y[:, :2])
    for other in (y[["dose", "age"]], library.DataFrame({"age": Y[:, 0], "weight": Y[:, 1]})):
        assert re.search(r"^x and y have different columns.*y\[x.columns\]", message(function, x, other))
    field, swapped = sinkhorn_velocity(x, y), y[["dose", "age"]]
    assert np.array_equal(field(y), field(Y[:, :2]))
    assert re.search(r"^x and z have different columns.*z\[x.columns\]", message(field, swapped))
    assert re.search("^a, b have different columns", message(lambda: plots.plot_samples(a=x, b=swapped)))


def test_estimators_turn_masked_entries_away():
    masked = np.ma.masked_greater(X, 1.0)
    assert re.search("^X_src has masked entries", message(NSGF().fit, masked, Y))
    assert re.search("^X_tgt has masked entries", message(NSGF().fit, X, masked))


def test_clouds_of_different_widths_name_both():
    text = message(sinkhorn_velocity, X, Y[:, :2])
    assert re.search("x has 3 features but y has 2.*shared space", text)


@pytest.mark.parametrize("convert", [torch.tensor, np.ndarray.tolist], ids=["torch", "list"])
def test_mixed_libraries_name_both(convert):
    x, y = (X, torch.tensor(Y)) if convert is torch.tensor else (torch.tensor(X), Y.tolist())
    text = message(sinkhorn_velocity, x, y)
    assert re.search("^x is a (numpy|torch) array but y is a (numpy|torch) array; convert", text)


@pytest.mark.parametrize("blur", [0, 0.0, -1.0, np.nan, np.inf, "big", "0.5", None, [1.0], np.ones(2), 1j, 1e-200])
@pytest.mark.parametrize("function", [sinkhorn_velocity, sinkhorn_divergence])
def test_bad_blur_is_named(function, blur):
    assert re.search("^blur=.*(positive|length)", message(function, X, Y, blur))


BAD_WEIGHTS = {
    "negative": (np.where(np.arange(12) == 4, -1e-3, 1.0), "non-negative"),
    "NaN": (np.where(np.arange(12) == 4, np.nan, 1.0), "finite"),
    "infinite": (np.where(np.arange(12) == 4, np.inf, 1.0), "finite"),
    "zero sum": (np.zeros(12), "positive sum"),
    "too few": (np.ones(11), r"shape \(11,\).*shape \(12,\)"),
    "a column": (np.ones((12, 1)), r"shape \(12, 1\).*shape \(12,\)"),
    "a number": (1.0, r"shape \(\).*shape \(12,\)"),
    "empty": ([], r"shape \(0,\).*shape \(12,\)"),
    "text": (["heavy"] * 12, "not numeric.*numbers"),
    "numeric strings": (["1"] * 12, "not numeric.*numbers"),
    "complex": (1j * np.ones(12), "complex"),
}


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize(("weights", "words"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_are_named_and_told_the_remedy(weights, words, name):
    assert re.search(rf"^{name} .*{words}", message(sinkhorn_velocity, X, Y, 1.0, **{name: weights}))


@pytest.mark.parametrize("init", ["auto", W, 3, sinkhorn_velocity(X, Y, 1.0)], ids=["text", "array", "number", "res"])
def test_bad_init_is_named(init):
    assert re.search("^init .*init=None", message(sinkhorn_velocity, X, Y, 1.0, init=init))


def test_init_of_another_library_is_named():
    potentials = sinkhorn_velocity(torch.tensor(X), torch.tensor(Y), 1.0).potentials
    assert re.search("^init .*init=None", message(sinkhorn_velocity, X, Y, 1.0, init=potentials))


def test_new_points_of_another_width_or_library_are_named():
    res = sinkhorn_velocity(X, Y, 1.0)
    assert re.search("z has 2 features but x has 3", message(res, X[:, :2]))
    assert re.search("z is a torch array but x is a numpy array", message(res, torch.tensor(X)))


def test_unknown_device_is_named():
    assert re.search("device='tpu'.*'auto', 'cpu' or 'cuda'", message(pick_device, "tpu"))


# %% What is let in

GOOD = {
    "lists": X.tolist(),
    "tuples": tuple(map(tuple, X)),
    "Fortran order": np.asfortranarray(X),
    "a view backwards": X[::-1][::-1],
    "big-endian": X.astype(">f8"),
    "objects that are numbers": X.astype(object),
    "long double": X.astype(np.longdouble),
    "decimals": np.array([[decimal.Decimal(float(v)) for v in row] for row in X]),
    "fractions": [[fractions.Fraction(float(v)) for v in row] for row in X],
    "masked nowhere": np.ma.array(X, mask=np.zeros(X.shape, dtype=bool)),
    "a nullable frame": pd.DataFrame(X).convert_dtypes(),
    "every other row": np.repeat(X, 2, axis=0)[::2],
    "what has __array__": type("Labelled", (), {"__array__": lambda self, dtype=None, copy=None: X})(),
}


@pytest.mark.parametrize("x", GOOD.values(), ids=GOOD)
def test_every_form_of_the_same_numbers_gives_the_same_velocity(x):
    assert np.allclose(sinkhorn_velocity(x, Y, 1.0).v, sinkhorn_velocity(X, Y, 1.0).v, rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("kind", ["int8", "int64", "uint8", "bool"])
def test_integers_and_booleans_are_read_as_float64(kind):
    x = (X > 0).astype(kind)
    res = sinkhorn_velocity(x, x, 1.0)
    assert res.v.dtype == np.float64
    assert np.allclose(res.v, sinkhorn_velocity(x.astype(float), x.astype(float), 1.0).v)
    assert spread(x) == spread(x.tolist()) == spread(x.astype(float)) > 0


@pytest.mark.parametrize("kind", [torch.int32, torch.bool])
def test_integer_tensors_are_read_as_float64(kind):
    x = torch.tensor(X > 0).to(kind)
    assert sinkhorn_velocity(x, x, 1.0).v.dtype == torch.float64


def test_half_precision_comes_back_in_half_precision():
    x, y = X.astype(np.float16), Y.astype(np.float16)
    res = sinkhorn_velocity(x, y, 1.0)
    assert res.v.dtype == np.float16
    assert res.potentials.g.dtype == np.float32
    assert np.allclose(res.v, sinkhorn_velocity(x.astype(float), y.astype(float), 1.0).v, atol=3e-3)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_tensors_come_back_in_half_precision(kind):
    x, y = torch.tensor(X).to(kind), torch.tensor(Y).to(kind)
    res = sinkhorn_velocity(x, y, 1.0)
    assert res.v.dtype == kind
    assert torch.allclose(res.v.double(), sinkhorn_velocity(x.double(), y.double(), 1.0).v, atol=3e-2)


def test_float32_and_float64_meet_in_float64():
    x, y = as_pair(X.astype("float32"), Y)
    assert x.dtype == y.dtype == np.float64
    assert sinkhorn_velocity(X.astype("float32"), Y, 1.0).v.dtype == np.float32


def test_read_only_arrays_are_left_alone(tmp_path):
    x = X.copy()
    x.flags.writeable = False
    mapped = np.memmap(tmp_path / "x.dat", dtype=float, mode="w+", shape=X.shape)
    mapped[:] = X
    for frozen in (x, np.memmap(tmp_path / "x.dat", dtype=float, mode="r", shape=X.shape)):
        res = sinkhorn_velocity(frozen, frozen, 1.0)
        assert type(res.v) is np.ndarray
        assert np.array_equal(frozen, X)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames_are_read_as_numpy(library):
    frames = pytest.importorskip(library)
    x, y = (frames.DataFrame({"u": z[:, 0], "v": z[:, 1]}) for z in (X, Y))
    res = sinkhorn_velocity(x, y, 1.0, a=frames.Series(W))
    assert type(res.v) is np.ndarray
    assert np.allclose(res.v, sinkhorn_velocity(X[:, :2], Y[:, :2], 1.0).v)


@pytest.mark.parametrize("blur", ["auto", 0.5])
@dtypes
def test_duplicated_rows_and_constant_columns_are_no_obstacle(dtype, blur):
    x = np.hstack([np.repeat(X[:4], 3, axis=0), np.full((12, 1), 7.1)]).astype(dtype)
    y = np.hstack([Y, np.full((12, 1), 7.1)]).astype(dtype)
    v = sinkhorn_velocity(x, y, blur).v
    assert np.allclose(v[:, -1], 0, atol=10 * ROUNDING[dtype])
    assert np.allclose(v[0::3], v[1::3], atol=10 * ROUNDING[dtype])


@pytest.mark.parametrize("blur", ["auto", 0.5])
@dtypes
def test_clouds_of_one_repeated_point_are_no_obstacle(dtype, blur):
    x, y = np.full((7, 2), 0.1, dtype=dtype), np.full((3, 2), 0.3, dtype=dtype)
    assert np.allclose(sinkhorn_velocity(x, y, blur).v, 0.2, atol=ROUNDING[dtype])


@pytest.mark.parametrize("scale", [1e-8, 1e8])
@dtypes
def test_units_do_not_matter(dtype, scale):
    x, y = X.astype(dtype), Y.astype(dtype)
    v = sinkhorn_velocity(x * x.dtype.type(scale), y * x.dtype.type(scale), solver=POT(tol=1e-3)).v
    assert np.allclose(v / scale, sinkhorn_velocity(x, y, solver=POT(tol=1e-3)).v, rtol=0, atol=1e-2)


@pytest.mark.parametrize("w", [W.tolist(), 1000 * W, W.astype(int), W > 0, torch.tensor(W)])
def test_weights_are_normalised_in_any_form(w):
    assert np.allclose(as_weights(w, X, "a"), 1 / 12)
    assert np.allclose(sinkhorn_velocity(X, Y, 1.0, a=w).v, sinkhorn_velocity(X, Y, 1.0).v, atol=FLOAT64)


@pytest.mark.parametrize("blur", [1, 0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5)])
def test_blur_may_be_any_number(blur):
    assert pick_blur(blur, X, Y) == float(blur)


# %% One library or another


@dtypes
def test_torch_gives_the_velocity_of_numpy(dtype):
    x, y = X.astype(dtype), Y.astype(dtype)
    solver = Sinkhorn(tol=1e-9 if dtype == "float64" else 1e-4)
    res = sinkhorn_velocity(x, y, 1.0, solver=solver)
    tensor = sinkhorn_velocity(torch.tensor(x), torch.tensor(y), 1.0, solver=solver)
    assert tensor.v.dtype == getattr(torch, dtype)
    assert tensor.v.device == torch.device("cpu")
    assert {type(p) for p in (tensor.v, tensor.potentials.f, tensor.potentials.g)} == {torch.Tensor}
    assert np.allclose(tensor.v, res.v, rtol=0, atol=10 * solver.tol)
    assert tensor.converged


@dtypes
def test_torch_gives_the_divergence_of_numpy(dtype):
    x, y = X.astype(dtype), Y.astype(dtype)
    solver = Sinkhorn(tol=1e-9 if dtype == "float64" else 1e-4)
    S = sinkhorn_divergence(torch.tensor(x), torch.tensor(y), 1.0, a=W, b=torch.tensor(W), solver=solver)
    assert isinstance(S, float)
    assert abs(S - sinkhorn_divergence(x, y, 1.0, solver=solver)) <= 10 * solver.tol


@dtypes
@pytest.mark.parametrize("z_dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_field_answers_new_points_in_their_own_dtype(library, z_dtype, dtype):
    make = np.asarray if library == "numpy" else torch.tensor
    res = sinkhorn_velocity(make(X.astype(dtype)), make(Y.astype(dtype)), 1.0)
    z = np.rint(X).astype(z_dtype)
    v = res(make(z))
    assert namespace(v) is namespace(make(z))
    assert z_dtype == "int64" or str(v.dtype).endswith(z_dtype)
    assert np.allclose(v, sinkhorn_velocity(X, Y, 1.0)(z), rtol=0, atol=1e-4)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("method", ["auto", "sinkhorn_log"])
def test_warm_start_from_another_precision(library, method):
    make = np.asarray if library == "numpy" else torch.tensor
    res = sinkhorn_velocity(make(X), make(Y), 1.0)
    x, y = make(X.astype("float32")), make(Y.astype("float32"))
    warm = sinkhorn_velocity(x, y, 1.0, solver=POT(method=method), init=res.potentials)
    assert str(warm.v.dtype).endswith("float32")
    assert np.allclose(warm.v, res.v, rtol=0, atol=1e-3)


def test_tensors_that_require_gradients_are_accepted_and_detached():
    x, y = torch.tensor(X, requires_grad=True), torch.nn.Parameter(torch.tensor(Y))
    res = sinkhorn_velocity(x, y, 1.0, a=torch.tensor(W, requires_grad=True))
    assert not res.v.requires_grad
    assert not res(x).requires_grad
    assert np.allclose(res.v, sinkhorn_velocity(X, Y, 1.0).v)


def test_inputs_are_not_changed():
    x, y, w = X.copy(), Y.copy(), 3 * W
    potentials = sinkhorn_velocity(x, y, 1.0).potentials
    g = potentials.g.copy()
    sinkhorn_velocity(x, y, 1.0, w, w, init=potentials)
    for after, before in ((x, X), (y, Y), (w, 3 * W), (potentials.g, g)):
        assert np.array_equal(after, before)


@pytest.mark.gpu
@dtypes
def test_cupy_in_cupy_out(dtype):
    cupy = pytest.importorskip("cupy")
    x, y = X.astype(dtype), Y.astype(dtype)
    res = sinkhorn_velocity(cupy.asarray(x), cupy.asarray(y), 1.0)
    for part in (res.v, res.potentials.f, res.potentials.g, res(cupy.asarray(x))):
        assert isinstance(part, cupy.ndarray)
        assert part.dtype == dtype
    assert np.allclose(res.v.get(), sinkhorn_velocity(x, y, 1.0).v, rtol=0, atol=100 * ROUNDING[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["auto", "sinkhorn", "sinkhorn_log", "sinkhorn_stabilized"])
def test_every_method_runs_on_cupy(method):
    cupy = pytest.importorskip("cupy")
    solver = POT(method=method, tol=1e-8)
    res = sinkhorn_velocity(cupy.asarray(X), cupy.asarray(Y), 1.0, a=W, solver=solver)
    assert np.allclose(res.v.get(), sinkhorn_velocity(X, Y, 1.0, solver=solver).v, rtol=0, atol=1e-6)


@pytest.mark.gpu
def test_cupy_and_numpy_do_not_mix():
    cupy = pytest.importorskip("cupy")
    assert re.search("x is a cupy array but y is a numpy array", message(sinkhorn_velocity, cupy.asarray(X), Y))


@pytest.mark.gpu
def test_cuda_tensors_come_back_on_their_device():
    x, y = torch.tensor(X, device="cuda"), torch.tensor(Y, device="cuda")
    res = sinkhorn_velocity(x, y, 1.0, a=W)
    assert res.v.device == x.device
    assert np.allclose(res.v.cpu(), sinkhorn_velocity(X, Y, 1.0).v, rtol=0, atol=1e-8)
    assert re.search("lies on cuda.*move both", message(sinkhorn_velocity, x, y.cpu()))


@pytest.mark.gpu
def test_cupy_is_handed_to_torch_without_a_copy():
    cupy = pytest.importorskip("cupy")
    x = cupy.asarray(X)
    assert to_torch(x, "cuda").data_ptr() == x.data.ptr
    assert isinstance(like(to_torch(x, "cuda"), x), cupy.ndarray)
    assert isinstance(to_numpy(x), np.ndarray)


# %% Hand-over


def test_handing_numpy_to_torch_shares_memory():
    x = X.copy()
    assert np.shares_memory(to_torch(x).numpy(), x)
    assert to_torch(torch.tensor(X)).dtype == torch.float64


@pytest.mark.parametrize(
    "make", [lambda x: x[::-1], lambda x: x.astype(">f8"), lambda x: x.astype(">f4")], ids=["reversed", ">f8", ">f4"]
)
def test_handing_unusual_layouts_to_torch_copies(make):
    x = make(X)
    assert np.array_equal(to_torch(x).numpy(), x)


def test_handing_read_only_memory_to_torch_copies():
    x = X.copy()
    x.flags.writeable = False
    tensor = to_torch(x)
    tensor[0, 0] = 99.0
    assert x[0, 0] == X[0, 0]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("source", ["numpy", "torch"])
def test_like_returns_the_callers_library_and_dtype(source, library, kind):
    result = X if source == "numpy" else torch.tensor(X)
    caller = X.astype(kind) if library == "numpy" else torch.tensor(X.astype(kind))
    back = like(result, caller)
    assert type(back) is type(caller)
    assert back.dtype == caller.dtype
    assert np.allclose(back, X, atol=1e-2)


@pytest.mark.parametrize("caller", [np.rint(X).astype(int), torch.tensor(X > 0), X.astype(object)])
def test_like_keeps_the_results_dtype_where_the_caller_has_no_floating_one(caller):
    assert str(like(X.astype("float32"), caller).dtype).endswith("float32")


def test_potentials_come_back_whole():
    res = sinkhorn_velocity(X.tolist(), Y.tolist(), 1.0)
    assert isinstance(res.potentials, Potentials)
    assert [p.shape for p in res.potentials[:2]] == [(12,), (12,)]


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
@pytest.mark.parametrize("value", [datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1), datetime.timedelta(1)])
def test_dates_in_a_column_of_a_frame_are_no_numbers(frame, value):
    x = frame({"a": [0.0, 1.0], "t": [value, value]})
    with pytest.raises(ValueError, match="dates"):
        sinkhorn_divergence(x, x)
    with pytest.raises((ValueError, TypeError), match="date"):
        NSGF().fit(x, x)


def test_tensors_that_are_views_of_complex_ones_are_read():
    z = torch.complex(torch.zeros(2, 1), torch.tensor([[1.0], [2.0]]))
    np.testing.assert_array_equal(to_numpy(z.conj().imag), [[-1.0], [-2.0]])


def test_a_result_beyond_the_range_of_half_precision_is_an_error():
    with pytest.raises(
        ValueError, match="leaves the range of float16, in which the samples came. Give them in float32"
    ):
        sinkhorn_velocity(X.astype(np.float16), X + 1e6)
