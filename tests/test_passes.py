"""Compiled passes: equal to plain ones, up to rounding and to the mass that they say they leave out."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, strategies as st
from strategies import costly, seeds

from nsgf import fixed_point, kernel, passes, sinkhorn_velocity
from nsgf.kernel import Kernel, PlainPasses, half_squares, neighbours

sizes = st.sampled_from([1, 2, 5, 31, 33, 150])


@pytest.fixture(autouse=True, scope="module")
def compiled():
    """Let small kernels have compiled passes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "_COMPILED", 0)
        patch.setattr(fixed_point, "_SMALL", 0)
        yield


def clouds(seed, n, m, d, blur, dtype):
    """Return two weighted clouds in units of the blur, neighbours together, and a potential."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)) / blur, (1.5 * rng.normal(size=(m, d)) + 1.0) / blur
    x, y = (z[neighbours(z)].astype(dtype) for z in (x, y))
    a, b = (w / w.sum() for w in (rng.uniform(0.01, 1.0, k).astype(dtype) for k in (n, m)))
    return (x, y), (a, b), (0.3 * half_squares(y) + rng.normal(size=m)).astype(dtype)


def plain(points, weights):
    """Return the same kernel in float64, nothing left out."""
    points, weights = ([z.astype(np.float64) for z in pair] for pair in (points, weights))
    return PlainPasses(points, weights, half_squares(points[1]), wide=False, drop=0.0)


@costly
@given(
    seeds, sizes, sizes, st.sampled_from([1, 2, 3, 8, 64]), st.floats(0.1, 1.0), st.sampled_from(["float32", "float64"])
)
def test_compiled_passes_are_plain_passes(seed, n, m, d, blur, dtype):
    points, weights, h = clouds(seed, n, m, d, blur, dtype)
    K, L = Kernel(*points, *weights, drop=1e-9), plain(points, weights)
    size = float(max(half_squares(z).max() for z in points)) + abs(h).max() + 20.0
    unit = 16.0 * size * np.finfo(dtype).eps + 1e-9  # rounding of exponents, and what may be left out
    assert abs(K.absorb(h) - half_squares(points[0]) - L.absorb(h, keep=True)).max() <= unit
    h = (h + 3.0 * np.random.default_rng(seed).normal(size=m)).astype(dtype)
    L.absorb(h, keep=True)  # so that its potential is near
    mass = L.column_masses(h)
    assert (abs(K.column_masses(h) - mass) <= unit * (16.0 + 1e3 * mass)).all()
    phi, T = K.potential_and_map(h)
    assert abs(phi - K.potential(h)).max() <= unit
    assert abs(phi - half_squares(points[0]) - L.potential(h)).max() <= unit
    assert abs(T - L.map(h)).max() <= unit * abs(points[1]).max()
    assert abs(K.map(h, every=3) - T[::3]).max() <= unit * abs(points[1]).max()


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_kernel_of_a_cloud_with_itself(d, dtype):
    (x, _), (a, _), _ = clouds(0, 300, 1, d, 0.3, dtype)
    K, L = Kernel(x, x, a, a), plain((x, x), (a, a))
    h = np.full(300, 2.0, dtype)
    K.absorb_both(h)
    L.absorb_both(h - half_squares(x).astype(np.float64), h)
    for k in h, h + np.linspace(-5, 5, 300).astype(dtype):
        np.testing.assert_allclose(K.row_masses(k), L.row_masses(k), rtol=1e-3 if dtype == "float32" else 1e-9)


@pytest.mark.parametrize("drop", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_no_more_mass_is_left_out_than_is_said(d, drop):
    points, weights, h = clouds(1, 2000, 1500, d, 0.02, "float64")
    K, L = Kernel(*points, *weights, drop=drop), plain(points, weights)
    phi, exact = K.absorb(h) - half_squares(points[0]), L.absorb(h, keep=True)
    missing = -np.expm1(exact - phi).min()
    assert missing <= K.omitted + 1e-9 <= drop + 1e-9
    assert K.omitted > 0.0
    mass, exact = K.column_masses(h), L.column_masses(h)
    assert abs(mass - exact).max() <= 16.0 * drop * (1.0 + exact.max())


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("far", [30.0, -300.0])
def test_columns_that_move_alone(d, far):
    points, weights, h = clouds(2, 200, 300, d, 0.5, "float32")
    K, L = Kernel(*points, *weights), plain(points, weights)
    K.absorb(h)
    h = h.copy()
    h[[0, 7, 123]] += np.float32(far)
    L.absorb(h, keep=True)
    np.testing.assert_allclose(K.column_masses(h), L.column_masses(h), rtol=1e-2, atol=1e-4)
    assert abs(K.map(h) - L.map(h)).max() <= 1e-3 * abs(points[1]).max()


def test_weights_that_are_next_to_nothing():
    points, (a, b), h = clouds(3, 50, 60, 2, 1.0, "float64")
    b[:30] = 1e-290
    K, L = Kernel(*points, a, b), plain(points, (a, b))
    np.testing.assert_allclose(K.absorb(h) - half_squares(points[0]), L.absorb(h, keep=True), rtol=1e-12)


def test_solves_of_several_threads_do_not_mix():
    rng = np.random.default_rng(4)
    pairs = [rng.normal(size=(2, 1100, d)).astype("float32") + [[[0.0]], [[1.0]]] for d in (2, 3, 16)]

    def solve(pair):
        return sinkhorn_velocity(*pair, 0.3 * pair.shape[-1] ** 0.5).v

    alone = [solve(pair) for pair in pairs]
    with ThreadPoolExecutor(3) as pool:
        for v, w in zip(3 * alone, pool.map(solve, 3 * pairs), strict=True):
            np.testing.assert_allclose(v, w, atol=1e-5)


@costly
@given(
    seeds, sizes, st.sampled_from([1, 2, 3, 8, 9, 64]), st.floats(0.02, 1.0), st.sampled_from(["float32", "float64"])
)
def test_soft_averages_are_those_of_plain_passes(seed, n, d, blur, dtype):
    (z, y), (_, b), h = clouds(seed, n, 20 * n, d, blur, dtype)
    exact = plain((z, y), (b[:1].repeat(n), b))
    phi_exact = exact.absorb(h.astype(np.float64), keep=True) + half_squares(z.astype(np.float64))
    size = float(max(half_squares(u).max() for u in (z, y))) + abs(h).max() + 20.0
    (T, phi), (few, _) = (passes.soft_average(some, y, h + np.log(b)) for some in (z, z[: n // 2 + 1]))
    assert T.dtype == phi.dtype == dtype
    unit = 16.0 * size * np.finfo(dtype).eps
    assert abs(T - exact.map(h.astype(np.float64))).max() <= unit * (1 + abs(y).max())
    assert abs(phi - phi_exact).max() <= unit
    assert d > passes.FEW or np.array_equal(few, T[: n // 2 + 1])
