"""Distances between samples, precision and recall, memorisation: closed forms, other libraries, and laws."""

import math
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.tree import DecisionTreeClassifier
from strategies import cloud, rotations, seeds
from tolerances import FLOAT64

from nsgf import metrics
from nsgf.metrics import frechet_distance, memorisation, precision_recall

ALGEBRA = FLOAT64


def size(*clouds):
    """Return the squared magnitudes that a Fréchet distance adds and subtracts."""
    return sum(float(np.mean(np.sum(x**2, axis=1))) for x in clouds)


def exactly(mean, root, n, rng):
    """Return n rows whose sample mean and unbiased covariance are `mean` and root rootᵀ, to rounding."""
    d = len(mean)
    columns = np.linalg.qr(np.column_stack([np.ones(n), rng.normal(size=(n, d))]))[0][:, 1:]  # orthogonal to the ones
    return mean + np.sqrt(n - 1) * columns @ root.T


@st.composite
def feature_pairs(draw, min_rows=2):
    """Draw two clouds of one space: fewer rows than features in some, one feature in others."""
    rng, rows, d = np.random.default_rng(draw(seeds)), st.integers(min_rows, 12), draw(st.integers(1, 8))
    return cloud(rng, draw(rows), d), cloud(rng, draw(rows), d)


@st.composite
def lattice_pairs(draw):
    """Draw two clouds of integers, with repeated rows and rows that just touch a ball; and k."""
    rng, k = np.random.default_rng(draw(seeds)), draw(st.integers(1, 4))
    rows, d = st.integers(k + 1, 15), draw(st.sampled_from([1, 2, 20]))  # a tree to 15 features, products beyond
    offset = draw(st.sampled_from([0, 2**30]))  # whose square has no room for units
    return *(offset + rng.integers(0, 4, size=(draw(rows), d)) for _ in range(2)), k


# Distances


def test_metrics_agree_with_their_closed_forms():
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(200, 3)), np.array([3.0, 0.0, 4.0])
    assert metrics.wasserstein(x, x + c) == pytest.approx(5.0)
    assert metrics.wasserstein(1e8 * x, 1e8 * (x + c)) == pytest.approx(5e8)
    assert metrics.wasserstein(x, x) == pytest.approx(0.0, abs=1e-7)
    line, moved = np.array([[0.0], [1.0], [5.0]]), np.array([[7.0], [2.0], [3.0]])
    assert metrics.wasserstein(line, moved) == pytest.approx(
        math.sqrt(np.mean((np.sort(line, 0) - np.sort(moved, 0)) ** 2))
    )
    assert metrics.mmd(x, x) == pytest.approx(0.0, abs=1e-7)
    assert metrics.mmd(x[:, :1] * 0, x[:, :1] * 0 + 1.0, lengths=(1.0,)) == pytest.approx(
        math.sqrt(2 - 2 * math.exp(-0.5))
    )
    assert metrics.energy_distance(np.zeros((2, 3)), np.tile(c, (3, 1))) == pytest.approx(math.sqrt(10))


def test_energy_distance_agrees_with_scipy_in_one_dimension():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=100), rng.normal(size=80) + 1
    assert metrics.energy_distance(x[:, None], y[:, None]) == pytest.approx(stats.energy_distance(x, y))


LAWS = {
    "wasserstein": (metrics.wasserstein, 1),
    "sliced": (metrics.sliced_wasserstein, 1),
    "mmd": (metrics.mmd, 0),
    "energy": (metrics.energy_distance, 0.5),
    "frechet": (metrics.frechet_distance, 2),
    "test": (lambda x, y: np.array(metrics.two_sample_test(x, y, n_permutations=20))[:2], 0),
}
laws = pytest.mark.parametrize(("metric", "power"), LAWS.values(), ids=LAWS)


@laws
@given(pair=feature_pairs(min_rows=2), seed=seeds)
def test_units_and_origin_do_not_matter(metric, power, pair, seed):
    (x, y), rng = pair, np.random.default_rng(seed)
    expected = metric(x, y)
    unit, origin = 10.0 ** rng.uniform(-100, 100), 1e4 * rng.normal(size=x.shape[1])
    assert metric(unit * x, unit * y) / unit**power == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert metric(x + origin, y + origin) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["wasserstein", "mmd", "energy", "frechet"])
@given(pair=feature_pairs(), data=st.data())
def test_rotations_the_order_of_rows_and_of_samples_do_not_matter(name, pair, data):
    metric, (x, y), turn = LAWS[name][0], pair, data.draw(rotations(pair[0].shape[1]))
    lengths = {"lengths": (0.5, 2.0)} if name == "mmd" else {}  # by default those of the second sample
    expected = pytest.approx(metric(x, y, **lengths), rel=1e-9, abs=1e-7)  # the root of a difference
    assert metric(x @ turn, y @ turn, **lengths) == expected
    assert metric(x[::-1], y, **lengths) == expected
    assert metric(y, x, **lengths) == expected
    assert metric(x, x[::-1]) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("shift", [0, 1e6, 1e7, 1e8, 1e12])
def test_wasserstein_is_the_same_at_every_shift(shift):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 2)), rng.normal(size=(40, 2)) + 1
    expected = np.sqrt(np.mean(np.sum((x - y[assignment(x, y)]) ** 2, axis=1)))
    assert metrics.wasserstein(x + shift, y + shift) == pytest.approx(expected, rel=1e-15 * (1 + shift), abs=0)


def assignment(x, y):
    """Return the rows of y to which SciPy assigns those of x."""
    return linear_sum_assignment(cdist(x, y, "sqeuclidean"))[1]


@pytest.mark.parametrize("far", [1e2, 1e4, 1e6, 1e8, 1e16, 1e100])
def test_a_common_row_however_far_changes_nothing_but_the_weights(far):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 2)), rng.normal(size=(40, 2)) + 1
    a, b = (np.vstack([z, [far, far]]) for z in (x, y))
    near = pytest.approx
    assert metrics.wasserstein(a, b) == near((40 / 41) ** 0.5 * metrics.wasserstein(x, y), rel=1e-12)
    assert metrics.sliced_wasserstein(a, b) == near((40 / 41) ** 0.5 * metrics.sliced_wasserstein(x, y), rel=1e-12)
    assert metrics.energy_distance(a, b) == near(40 / 41 * metrics.energy_distance(x, y), rel=1e-12)
    assert metrics.mmd(a, b, (1.0,)) == near(40 / 41 * metrics.mmd(x, y, (1.0,)), rel=1e-12)


@given(seeds, st.integers(2, 12), st.lists(st.integers(-8, 8), min_size=1, max_size=4))
def test_wasserstein_finds_the_plan_of_rows_of_very_different_size(seed, n, exponents):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, n, 2))
    for e in exponents:  # pairs that are 10^e apart, each 10^10 from the rest, in another order
        x, y = (np.vstack([z, [[10.0**10 * (1 + len(z)), 10.0**e * rng.normal()]]]) for z in (x, y))
    plan = [*assignment(x[:n], y[:n]), *range(n, len(x))]
    expected = np.sqrt(np.mean(np.sum((x - y[plan]) ** 2, axis=1)))
    assert metrics.wasserstein(x, rng.permutation(y)) == pytest.approx(expected, rel=1e-9)


def test_wasserstein_of_clouds_that_nearly_agree():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    moves = rng.normal(size=x.shape)
    for size in (1e-5, 1e-10):
        moved = x + size * moves
        expected = np.sqrt(np.mean(np.sum((moved - x) ** 2, axis=1)))
        assert metrics.wasserstein(rng.permutation(x), moved) == pytest.approx(expected, rel=1e-9)


@given(seeds, st.integers(1, 12), st.integers(1, 12))
def test_wasserstein_of_unequal_numbers_is_that_of_repeated_rows(seed, n, m):
    rng = np.random.default_rng(seed)
    x, y, k = rng.normal(size=(n, 2)), rng.normal(size=(m, 2)), math.lcm(n, m)
    a, b = np.repeat(x, k // n, axis=0), np.repeat(y, k // m, axis=0)
    expected = np.sqrt(np.mean(np.sum((a - b[assignment(a, b)]) ** 2, axis=1)))
    assert metrics.wasserstein(x, y) == pytest.approx(expected, rel=1e-9)
    assert metrics.sliced_wasserstein(x, y) == pytest.approx(metrics.sliced_wasserstein(a, b), rel=1e-12)
    assert metrics.sliced_wasserstein(x[:, :1], y[:, :1]) == pytest.approx(metrics.wasserstein(x[:, :1], y[:, :1]))


def test_sliced_wasserstein_agrees_with_pot():
    ot = pytest.importorskip("ot")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 5)), 2 * rng.normal(size=(70, 5)) + 1
    u = np.random.default_rng(3).normal(size=(5, 40))
    expected = ot.sliced_wasserstein_distance(x, y, projections=u / np.linalg.norm(u, axis=0))
    assert metrics.sliced_wasserstein(x, y, n_projections=40, random_state=3) == pytest.approx(expected, rel=1e-10)


def test_sliced_wasserstein_of_a_translation_is_the_root_mean_square_of_its_projections():
    x, c = np.random.default_rng(0).normal(size=(50, 4)), np.array([3.0, 0.0, 0.0, 4.0])
    assert metrics.sliced_wasserstein(x, x + c, n_projections=4000) == pytest.approx(5 / 2, rel=4 * (2 / 4000) ** 0.5)


def test_mmd_agrees_with_the_sum_over_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, size=(30, 2)).astype(float), rng.integers(0, 4, size=(45, 2)).astype(float)

    def mean(a, b):
        return np.mean([np.exp(-cdist(a, b, "sqeuclidean") / (2 * s**2)).mean() for s in (0.5, 2.0)])

    expected = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    assert metrics.mmd(x, y, (0.5, 2.0)) ** 2 == pytest.approx(expected, rel=1e-10)


def test_the_statistic_is_the_mean_kernel_over_different_rows():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(30, 2)) + 0.2
    xx, yy, xy = (np.exp(-cdist(a, b, "sqeuclidean") / 2) for a, b in ((x, x), (y, y), (x, y)))
    expected = (xx.sum() - 20) / (20 * 19) + (yy.sum() - 30) / (30 * 29) - 2 * xy.mean()
    assert metrics.two_sample_test(x, y, lengths=(1.0,)).statistic == pytest.approx(expected, rel=1e-10)


def test_at_equal_laws_the_statistic_has_mean_zero_and_its_noise_and_the_p_value_is_uniform():
    rng, repeats = np.random.default_rng(0), 200
    statistic, noise, p = np.array(
        [metrics.two_sample_test(rng.normal(size=(30, 2)), rng.normal(size=(40, 2))) for _ in range(repeats)]
    ).T
    assert abs(statistic.mean()) < 4 * statistic.std() / repeats**0.5
    assert np.mean(noise) == pytest.approx(statistic.std(), rel=0.3)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_the_two_sample_test_sees_another_spread_a_lost_mode_and_a_correlation():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 300, 2))
    modes = np.where(rng.random((300, 1)) < 0.5, -3.0, 3.0)
    for made, real in ((1.3 * x, y), (x + 3, y + modes), (x @ [[1, 0.6], [0.6, 1]], y * [1.17, 1.17])):
        assert metrics.two_sample_test(made, real).p_value < 0.01


@pytest.mark.parametrize(("n", "m"), [(200, 200), (60, 240)])
def test_a_classifier_stands_at_a_half_on_equal_laws_within_its_standard_error(n, m):
    rng, tree = np.random.default_rng(0), DecisionTreeClassifier(max_depth=3, class_weight="balanced", random_state=0)
    results = [metrics.classifier_two_sample(rng.normal(size=(n, 2)), rng.normal(size=(m, 2)), tree) for _ in range(50)]
    accuracy, error = np.array(results).T
    assert abs(accuracy.mean() - 0.5) < 4 * accuracy.std() / 50**0.5
    assert error.mean() == pytest.approx(accuracy.std(), rel=0.5)  # folds share their training rows


def test_a_classifier_reaches_the_accuracy_of_bayes():
    x, y = np.random.default_rng(0).normal(size=(2, 1000, 1))
    expected = stats.norm.cdf(1.0)  # laws 2 apart, told apart in the middle
    accuracy, error = metrics.classifier_two_sample(x + 2, y)
    assert expected - 0.03 < accuracy < expected + 4 * error
    assert metrics.classifier_two_sample(x + 100, y).accuracy > 0.99
    assert metrics.classifier_two_sample(1e-30 * (x + 2), 1e-30 * y).accuracy == pytest.approx(expected, abs=0.03)


def test_a_classifier_leaves_the_global_seed_alone_and_is_one():
    x, y = np.random.default_rng(0).normal(size=(2, 60, 2))
    before = np.random.get_state()[2]  # noqa: NPY002
    assert metrics.classifier_two_sample(x, y) == metrics.classifier_two_sample(x, y)
    assert np.random.get_state()[2] == before  # noqa: NPY002
    for classifier in (print, DecisionTreeClassifier):
        with pytest.raises(TypeError, match="classifier=.* must have fit and predict"):
            metrics.classifier_two_sample(x, y, classifier)


def test_sums_over_pairs_do_not_hold_all_pairs():
    x, y = np.random.default_rng(0).normal(size=(2, 2500, 2))
    for metric in (metrics.energy_distance, lambda x, y: metrics.two_sample_test(x, y, n_permutations=5)):
        tracemalloc.start()
        try:
            metric(x, y)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 0.7 * 8 * 5000**2


# Fréchet distance


@given(seeds, st.integers(1, 6), st.integers(7, 20), st.integers(7, 20))
def test_frechet_is_the_closed_form_where_covariances_commute(seed, d, n, m):
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    s, t, c = rng.uniform(0.1, 2.0, d), rng.uniform(0.1, 2.0, d), rng.normal(size=d)
    a, b = exactly(np.zeros(d), axes * s, n, rng), exactly(c, axes * t, m, rng)
    assert frechet_distance(a, b) == pytest.approx(c @ c + np.sum((s - t) ** 2), abs=ALGEBRA * size(a, b))


def test_frechet_is_the_closed_form_where_covariances_are_ill_conditioned():
    rng, d = np.random.default_rng(0), 8
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    s, t = np.logspace(0, -8, d), np.logspace(-8, 0, d)
    a, b = exactly(np.zeros(d), axes * s, 30, rng), exactly(np.zeros(d), axes * t, 40, rng)
    assert frechet_distance(a, b) == pytest.approx(np.sum((s - t) ** 2), rel=ALGEBRA)


def test_frechet_tells_close_samples_apart():
    rng, d = np.random.default_rng(0), 5
    s = rng.uniform(0.5, 1.0, d)
    a, b = (exactly(np.zeros(d), np.diag(scale), 30, rng) for scale in (s, s + 1e-9))
    assert frechet_distance(a, b) == pytest.approx(d * 1e-18, rel=1e-4)


def test_frechet_agrees_with_scipys_matrix_root():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(50, 5)) + 0.5
    A, B, c = np.cov(a.T), np.cov(b.T), a.mean(axis=0) - b.mean(axis=0)
    expected = c @ c + np.trace(A + B - 2 * np.real(sqrtm(A @ B)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)  # the root's own rounding


def test_frechet_is_the_squared_wasserstein_distance_of_gaussians():
    gaussian = pytest.importorskip("ot.gaussian")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(50, 4)) + 0.5
    W = gaussian.bures_wasserstein_distance(a.mean(axis=0), b.mean(axis=0), np.cov(a.T), np.cov(b.T))
    assert frechet_distance(a, b) == pytest.approx(float(W) ** 2, rel=1e-10)


def test_frechet_of_one_feature_compares_means_and_deviations():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(10, 1)), 3.0 * rng.normal(size=(20, 1)) + 1.0
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=ALGEBRA)


def test_frechet_of_fewer_rows_than_features_sees_only_their_span():
    rng = np.random.default_rng(0)
    a, b = (np.pad(rng.normal(size=(n, 3)), ((0, 0), (0, 47))) for n in (5, 9))  # rank 3, in 50 features
    turn = np.linalg.qr(rng.normal(size=(50, 50)))[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a[:, :3], b[:, :3]), rel=ALGEBRA)
    apart = np.roll(b, 3, axis=1)  # orthogonal supports: the cross term vanishes
    c, traces = a.mean(axis=0) - apart.mean(axis=0), a.var(axis=0, ddof=1).sum() + apart.var(axis=0, ddof=1).sum()
    assert frechet_distance(a, apart) == pytest.approx(c @ c + traces, rel=ALGEBRA)


@given(feature_pairs(), seeds)
def test_frechet_is_zero_on_itself_in_any_order_and_symmetric(pair, seed):
    a, b = pair
    F = frechet_distance(a, b)
    assert F >= 0
    assert frechet_distance(b, a) == pytest.approx(F, abs=ALGEBRA * size(a, b))
    shuffled = np.random.default_rng(seed).permutation(a)
    assert frechet_distance(a, shuffled) == pytest.approx(0.0, abs=ALGEBRA**2 * size(a))


@given(feature_pairs(), seeds)
def test_frechet_of_a_translation_is_its_squared_length(pair, seed):
    a, _ = pair
    c = 10 * np.random.default_rng(seed).normal(size=a.shape[1])
    assert frechet_distance(a, a + c) == pytest.approx(c @ c, rel=ALGEBRA, abs=ALGEBRA)


@given(feature_pairs(), st.floats(1e-3, 1e3), st.data())
def test_frechet_is_invariant_to_rotation_and_scales_with_the_square(pair, scale, data):
    a, b = pair
    turn, F = data.draw(rotations(a.shape[1])), frechet_distance(a, b)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(F, abs=ALGEBRA * size(a, b))
    assert frechet_distance(scale * a, scale * b) == pytest.approx(scale**2 * F, abs=ALGEBRA * scale**2 * size(a, b))


# Precision and recall


def brute_force(x, y, k):
    """Return the fraction of rows of x in the balls of y, one ball at a time."""
    inside = np.zeros(len(x), dtype=bool)
    for i, centre in enumerate(y):
        radius = np.sort(np.sum((np.delete(y, i, axis=0) - centre) ** 2, axis=1))[k - 1]
        inside |= np.sum((x - centre) ** 2, axis=1) <= radius
    return inside.mean()


@given(lattice_pairs())
def test_precision_and_recall_agree_with_brute_force_where_rows_touch_and_repeat(case):
    real, made, k = case
    assert precision_recall(real, made, k) == (brute_force(made, real, k), brute_force(real, made, k))


@pytest.mark.parametrize("d", [2, 30])
def test_precision_and_recall_agree_with_cdist(d):
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(300, d)), 0.8 * rng.normal(size=(250, d)) + 0.3
    r, s = (np.partition(cdist(z, z), 3, axis=1)[:, 3] for z in (real, made))
    D = cdist(real, made)
    expected = (r[:, None] >= D).any(axis=0).mean(), (s >= D).any(axis=1).mean()
    assert precision_recall(real, made) == expected
    assert all(0 < value < 1 for value in expected)


@given(lattice_pairs())
def test_a_sample_covers_itself(case):
    real, _, k = case
    assert precision_recall(real, real[::-1], k) == (1.0, 1.0)


@pytest.mark.parametrize("d", [2, 30, 500])
def test_a_sample_of_repeated_rows_covers_itself_though_its_balls_have_no_radius(d):
    repeated = np.repeat(np.random.default_rng(0).normal(size=(20, d)), 4, axis=0)
    assert precision_recall(repeated, repeated[::-1]) == (1.0, 1.0)
    assert precision_recall(repeated, repeated + 1e-5) == (0.0, 0.0)


@given(feature_pairs(min_rows=4), st.floats(1e-6, 1e6), st.data())
def test_precision_and_recall_ignore_rigid_motions_and_units_and_swap_with_the_samples(pair, scale, data):
    real, made = pair
    result, turn = precision_recall(real, made), data.draw(rotations(real.shape[1]))
    assert precision_recall(scale * real @ turn + 7 * scale, scale * made @ turn + 7 * scale) == result
    assert precision_recall(made, real) == result[::-1]


@pytest.mark.parametrize("d", [2, 30])
@pytest.mark.parametrize("unit", [1e-140, 1e140])
def test_neighbours_do_not_depend_on_the_unit(unit, d):
    x, y, z = np.random.default_rng(0).normal(size=(3, 60, d))
    assert precision_recall(unit * x, unit * y) == precision_recall(x, y)
    assert memorisation(unit * x, unit * y, unit * z) == memorisation(x, y, z)


def test_far_clouds_share_nothing():
    rng = np.random.default_rng(0)
    assert precision_recall(rng.normal(size=(50, 3)), rng.normal(size=(60, 3)) + 100) == (0.0, 0.0)


def test_a_dropped_mode_lowers_recall_alone():
    rng = np.random.default_rng(0)
    modes = np.repeat([[-20.0, 0.0], [20.0, 0.0]], 500, axis=0)
    real, one, both = modes + rng.normal(size=(1000, 2)), rng.normal(size=(500, 2)) + 20 * np.eye(1, 2), modes
    dropped, kept = precision_recall(real, one), precision_recall(real, both + rng.normal(size=(1000, 2)))
    assert dropped.precision > 0.95
    assert dropped.recall == pytest.approx(0.5, abs=0.03)
    assert min(kept) > 0.95


def test_outliers_do_not_blur_the_other_balls():
    real = np.array([*range(20), 1e9, 1e9])[:, None]  # the balls of 0 to 19 cover [-1, 20], those of the outliers 1e9
    made = np.array([-1.0, 0.5, 19.5, -1.0 - 1e-5, 20.0 + 1e-5, 1e9 - 1e4])[:, None]
    assert precision_recall(real, made, k=1).precision == 0.5


def test_precision_and_recall_do_not_hold_all_distances():
    rng, n = np.random.default_rng(0), 5000
    real, made = rng.normal(size=(2, n, 2))
    tracemalloc.start()
    try:
        precision_recall(real, made)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.6 * 8 * n * n


# Memorisation


@pytest.mark.parametrize("d", [2, 30])
def test_copies_are_copied_and_nearer(d):
    rng = np.random.default_rng(0)
    seen, unseen = rng.normal(size=(2, 400, d)) + 1e4
    assert memorisation(rng.permutation(seen), seen, unseen) == (1.0, 1.0)
    blurred = memorisation(seen + 1e-6 * rng.normal(size=seen.shape), seen, unseen)
    assert min(blurred) > 0.99


def test_half_copies_are_seen_as_half():
    rng = np.random.default_rng(0)
    seen, unseen, fresh = rng.normal(size=(3, 1000, 5))
    result = memorisation(np.vstack([seen[:500], fresh[:500]]), seen, unseen)
    assert result.copied == pytest.approx(0.5 + 0.5 * 0.01, abs=4 * np.sqrt(0.01 * 2e-3))
    assert result.nearer == pytest.approx(0.75, abs=4 * np.sqrt(1 / (12 * 500)))


@pytest.mark.parametrize(("n", "m"), [(20, 99), (200, 250), (50, 9)])
def test_an_honest_model_stands_at_the_floor(n, m):
    rng, repeats = np.random.default_rng(0), 200
    results = np.array([memorisation(*(rng.normal(size=(k, 2)) for k in (n, 100, m))) for _ in range(repeats)])
    floor = np.array([max(0.01, 1 / (m + 1)), 0.5])
    error = np.sqrt(np.array([floor[0] * (1 / n + 1 / m), (n + m + 1) / (12 * n * m)]) / repeats)
    np.testing.assert_array_less(np.abs(results.mean(axis=0) - floor), 4 * error)
    np.testing.assert_allclose(results.std(axis=0), error * np.sqrt(repeats), rtol=0.4)


def test_strays_are_neither_copied_nor_nearer():
    rng = np.random.default_rng(0)
    seen, unseen, made = rng.normal(size=(3, 200, 3))
    assert memorisation(made + 100, seen, unseen) == (0.0, 0.0)


@given(lattice_pairs(), seeds)
def test_memorisation_agrees_with_scipys_mann_whitney_where_distances_tie(case, seed):
    seen, made, _ = case
    unseen = seen[:1] + np.random.default_rng(seed).integers(-1, 2, size=(20, seen.shape[1]))
    d_made, d_unseen = cdist(made, seen).min(axis=1), cdist(unseen, seen).min(axis=1)
    U = stats.mannwhitneyu(d_unseen, d_made, method="asymptotic").statistic if np.ptp([*d_made, *d_unseen]) else None
    result = memorisation(made, seen, unseen)
    assert result.nearer == pytest.approx(0.5 if U is None else U / (len(made) * len(unseen)))
    assert result.copied == np.mean(d_made < d_unseen.min())


def test_data_that_repeat_hide_copies_from_the_fraction_alone():
    seen = np.arange(10.0)[:, None]
    assert memorisation(seen, seen, seen) == (0.0, 0.5)


# The border


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tensors_and_lists_are_welcome(dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, y, z = rng.normal(size=(3, 20, 4)).astype(dtype)
    for metric, clouds in ((frechet_distance, (x, y)), (precision_recall, (x, y)), (memorisation, (x, y, z))):
        result = metric(*clouds)
        assert metric(*(torch.tensor(cloud, requires_grad=True) for cloud in clouds)) == result
        assert metric(*(cloud.astype("float64").tolist() for cloud in clouds)) == result  # float64 inside
        assert all(type(value) is float for value in np.atleast_1d(np.array(result, dtype=object)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: frechet_distance(x[:1], x), "features_a has 1 of at least 2 rows"),
        (lambda x: frechet_distance(x, x[:1]), "features_b has 1 of at least 2 rows"),
        (lambda x: frechet_distance(x, x[:, :1]), "features_a has 2 features but features_b has 1"),
        (lambda x: precision_recall(x[:3], x), "real has 3 of at least 4 rows that this figure needs. Give more"),
        (lambda x: precision_recall(x, x[:5], k=5), "made has 5 of at least 6 rows"),
        (lambda x: precision_recall(x, x, k=0), "k=0 must be an integer of at least 1."),
        (lambda x: metrics.two_sample_test(x, x[:1]), "y has 1 of at least 2 rows"),
        (lambda x: metrics.two_sample_test(x, x, n_permutations=0), "n_permutations=0 must be an integer"),
        (lambda x: metrics.two_sample_test(x, x, random_state=-1), "random_state=-1 must be a non-negative integer"),
        (lambda x: metrics.sliced_wasserstein(x, x, n_projections=1.5), "n_projections=1.5 must be an integer"),
        (lambda x: metrics.classifier_two_sample(x, x, n_folds=1), "n_folds=1 must be an integer of at least 2"),
        (lambda x: metrics.classifier_two_sample(x[:4], x), "made has 4 of at least 5 rows"),
        (lambda x: metrics.mmd(x, x, ()), "lengths=() must be positive lengths"),
        (lambda x: metrics.mmd(x, x, (1.0, -1.0)), "lengths=(1.0, -1.0) must be positive lengths"),
        (lambda x: metrics.mmd(x, x, (np.nan,)), "must be positive lengths"),
        (lambda x: precision_recall(x, x[:, :1]), "real has 2 features but made has 1"),
        (lambda x: memorisation(x[:, :1], x, x), "made has 1 features but seen has 2"),
        (lambda x: memorisation(x, x, x[:, :1]), "unseen has 1 features but seen has 2"),
        (lambda x: memorisation(x[:0], x, x), "made is empty"),
        (lambda x: memorisation(x, x, x * np.nan), "unseen contains NaN"),
    ],
)
def test_errors_name_the_argument_its_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(np.arange(20.0).reshape(10, 2))


@pytest.mark.parametrize("unit", [1e-300, 1e-160, 1e160, 1.7e308])
def test_lengths_are_found_in_every_unit_and_squares_where_float64_holds_them(unit):
    x, y = np.random.default_rng(0).uniform(-1, 1, size=(2, 20, 2))
    for measure, power in ((metrics.wasserstein, 1), (metrics.mmd, 0), (metrics.energy_distance, 0.5)):
        assert measure(unit * x, unit * y) == pytest.approx(unit**power * measure(x, y), rel=1e-9)
    with pytest.raises(ValueError, match="square float64 does not hold"):
        metrics.frechet_distance(unit * x, unit * y)
