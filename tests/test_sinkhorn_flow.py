"""The flow itself as an estimator: what new rows do is what particles do, of each label, condition and time."""

import json

import numpy as np
import pytest
from common import far_samples, ignore_report, labelled_sample, nearest_centre, relative_distance, samples
from safetensors.numpy import save

import nsgf
from nsgf import Numbers, Sinkhorn, SinkhornFlow, _io, datasets, metrics, sinkhorn_flow, sinkhorn_velocity
from nsgf.minibatches import spaced

pytestmark = ignore_report


def model(**parameters):
    return SinkhornFlow(**{"device": "cpu", "random_state": 0} | parameters)


# %% Rows follow the particles


@pytest.mark.parametrize("step_size", [1.0, 0.5])
def test_rows_that_are_particles_go_where_the_particle_flow_brings_them(step_size):
    X, Y = far_samples(900, 900)
    flow = model(n_steps=3, step_size=step_size).fit(X, Y)
    wanted = sinkhorn_flow(X, Y, blur=flow.blur_, n_steps=3, step_size=step_size).x
    way = relative_distance(flow.trajectory(X)[1:], wanted[1:])
    assert way <= 0.05  # there each is one particle of 901, and has itself twice


@pytest.mark.parametrize("d", [2, 5])
def test_a_new_row_moves_as_one_particle_more(d):
    rng = np.random.default_rng(0)
    X, Y, z = rng.normal(size=(200, d)), 1.5 * rng.normal(size=(200, d)), rng.normal(size=(10, d))
    moved = model(n_steps=1).fit(X, Y).transform(z) - z
    wanted = np.stack([sinkhorn_velocity(np.vstack([X, row]), Y).v[-1] for row in z])
    assert relative_distance(moved, wanted) <= 0.25  # the others make room for it


def test_a_row_far_from_all_particles_joins_them():
    X, Y = samples(400)
    arrived = model().fit(X, Y).transform(np.array([[1e3, -1e3], [1e6, 0.0]]))
    assert (np.linalg.norm(arrived[:, None] - Y, axis=2).min(axis=1) < 0.5).all()


@pytest.mark.parametrize(("tol", "dtype"), [(1e-6, "float64"), (1e-2, "float32")])
def test_clouds_are_kept_in_float64_where_float32_is_not_within_the_tolerance(tol, dtype):
    flow = model(n_steps=1, solver=Sinkhorn(tol=tol)).fit(*samples(100))
    assert flow.field_.flows[0].x.dtype == flow.field_.flows[0].g.dtype == dtype


def test_in_many_dimensions_rows_are_as_wide_as_the_target():
    rng = np.random.default_rng(0)
    scale = np.linspace(2.0, 0.2, 64)
    flow = model().fit(None, scale * rng.normal(size=(500, 64)))
    assert flow.report_["width"] == pytest.approx(1.0, abs=0.15)


def test_a_gaussian_is_stretched():
    rng = np.random.default_rng(0)
    X, Y, z = rng.normal(size=(3000, 1)), 3.0 * rng.normal(size=(3000, 1)), np.linspace(-1.5, 1.5, 9)[:, None]
    np.testing.assert_allclose(model().fit(X, Y).transform(z), 3.0 * z, atol=0.35)  # of quantiles of 3000 points


def test_rows_do_not_depend_on_how_many_there_are():
    flow = model(n_points=1000).fit(*samples(2000))
    z, _ = samples(3000, seed=1)
    many = flow.transform(z)  # by compiled loops, of which few rows have no need
    np.testing.assert_allclose(flow.transform(z[:5]), many[:5], atol=1e-4 * flow.scale_)
    np.testing.assert_array_equal(flow.transform(z[:2000]), many[:2000])


def test_what_is_made_is_like_the_target_and_the_report_says_so():
    (X, Y), (z, fresh) = samples(3000), samples(1000, seed=1)
    flow = model().fit(X, Y)
    assert metrics.wasserstein(flow.transform(z), fresh) <= 2.0 * metrics.wasserstein(samples(1000, seed=2)[1], fresh)
    assert flow.report_["p_value"] > 0.01
    assert flow.report_["width"] == pytest.approx(1.0, abs=0.1)
    assert flow.report_["held_out"] == 300


# %% The parameters


def test_the_certificate_is_that_of_every_step():
    flow = model(n_steps=4).fit(None, labelled_sample()[0], y_tgt=labelled_sample()[1])
    assert flow.history_["error"].shape == (4, 4)  # three labels, and those that are unknown
    assert flow.report_["max_error"] == flow.history_["error"].max() <= 1e-2
    assert flow.report_["converged"]
    assert flow.n_iter_ >= 16


def test_the_solver_has_its_say():
    hopeless = Sinkhorn(tol=1e-9, max_iter=3)
    with pytest.warns(UserWarning, match="Raise max_iter"):
        assert not model(solver=hopeless).fit(*samples(50)).report_["converged"]
    with pytest.raises(RuntimeError, match="Raise max_iter"):
        model(solver=Sinkhorn(tol=1e-9, max_iter=3, on_unconverged="raise")).fit(*samples(50))


def test_steps_may_be_changed_after_the_fit():
    (X, Y), (z, _) = samples(400), samples(50, seed=1)
    flow = model(n_steps=4).fit(X, Y)
    whole = flow.transform(z)
    assert flow.set_params(n_steps=8).trajectory(z).shape == (9, 50, 2)
    assert (flow.n_evaluations, flow.n_steps_) == (8, 4)
    np.testing.assert_allclose(flow.transform(z).mean(axis=0), whole.mean(axis=0), atol=0.2)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"blur": -1.0}, "blur=-1.0 must be"),
        ({"n_steps": 0}, "n_steps=0 must be"),
        ({"step_size": 0.0}, "step_size=0.0 must be"),
        ({"n_points": 1}, "n_points=1 must be"),
        ({"n_points": 2.5}, "n_points=2.5 must be"),
        ({"solver": "newton"}, "solver='newton' is unknown; choose"),
        ({"device": "tpu"}, "device='tpu' is unknown; choose"),
        ({"random_state": -1}, "random_state=-1 must be"),
        ({"encoder": 3}, "encoder=3"),
    ],
)
def test_a_bad_parameter_is_named_with_the_way_out(parameters, words):
    with pytest.raises(ValueError, match=words):
        SinkhornFlow(**parameters).fit(*samples(50))


def test_pairs_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match="SinkhornFlow has no pairs, because new rows have no place.*use NSGF"):
        model().fit(*samples(50), pairs=[(0, 1)])


# %% Conditions and times


def test_each_label_is_a_flow_of_its_own():
    (X, codes), (Y, labels) = labelled_sample(300, names="abc"), labelled_sample(300, seed=1)
    flow = model().fit(X, Y, y_src=codes, y_tgt=labels)
    z = labelled_sample(40, seed=2)[0]
    for label in "abc":
        alone = model(blur=flow.blur_).fit(X[codes == label], Y[labels == label])
        np.testing.assert_allclose(flow.transform(z, label), alone.transform(z), atol=0.05 * flow.scale_)


def test_rows_go_to_the_centre_of_their_label_and_unknown_ones_anywhere():
    Y, labels = labelled_sample()
    flow = model(n_points=300).fit(None, Y, y_tgt=labels)
    asked = np.array(list("abc"), dtype=object)[np.arange(60) % 3]
    assert (nearest_centre(flow.sample(60, y=asked, random_state=0)) == np.arange(60) % 3).all()
    x = datasets.gaussian(60, np.random.default_rng(0))
    assert set(nearest_centre(flow.transform(x))) == {0, 1, 2}
    np.testing.assert_array_equal(flow.transform(x, np.full(60, None)), flow.transform(x, "a", guidance=0.0))
    free, known = flow.trajectory(x)[1], flow.trajectory(x, "a")[1]
    np.testing.assert_allclose(flow.trajectory(x, "a", guidance=2.0)[1], 2.0 * known - free, atol=1e-4)


def test_numbers_say_where_rows_go():
    rng = np.random.default_rng(0)
    c = rng.uniform(-1, 1, size=(3000, 1))
    Y = np.hstack([5.0 * c, np.zeros_like(c)]) + 0.3 * rng.normal(size=(3000, 2))
    flow = model().fit(None, Y, y_tgt=Numbers(c))
    for value in (-0.5, 0.0, 0.7):
        made = flow.sample(200, y=[[value]], random_state=0)
        np.testing.assert_allclose(made.mean(axis=0), [5.0 * value, 0.0], atol=0.3)
        assert made.std(axis=0).max() < 1.0
    assert flow.sample(500, y=None, random_state=0)[:, 0].std() == pytest.approx(5.0 / 3**0.5, rel=0.1)


def test_a_time_course_goes_through_its_snapshots():
    rng = np.random.default_rng(0)
    course = {t: (1.0 + t) * rng.normal(size=(500, 2)) + [10.0 * t, 0.0] for t in (0.0, 1.0, 3.0)}
    flow, z = model().fit(course), rng.normal(size=(300, 2))
    assert flow.n_evaluations == 10
    for t in (1.0, 3.0):
        made = flow.transform(z, t1=t)
        np.testing.assert_allclose(made.mean(axis=0), [10.0 * t, 0.0], atol=0.3 * (1 + t))
        np.testing.assert_allclose(made.std(axis=0), 1.0 + t, rtol=0.15)
    np.testing.assert_allclose(flow.transform(flow.transform(z, t1=1.0), t0=1.0), flow.transform(z), atol=1e-3)


# %% Files


def test_a_file_of_a_stranger_is_looked_at(tmp_path):
    path = tmp_path / "m"
    model(n_points=20, n_steps=2).fit(None, labelled_sample(60)[0], y_tgt=labelled_sample(60)[1]).save(path)
    arrays, meta = _io.read(path)

    def flows(meta):
        return meta["learnt"]["Learnt"]["flows"]["tuple"]

    def opened(change):
        new, told = dict(arrays), json.loads(json.dumps(meta))
        change(new, told)
        text = json.dumps(told)
        new = {k: np.ascontiguousarray(v) for k, v in new.items()}
        path.write_bytes(save(new, {_io.FORMAT: text, "sha256": _io.checksum(text, new)}))
        return nsgf.load(path)

    name = "learnt.flows.0."
    assert opened(lambda a, m: None).transform(np.zeros((1, 2)), "a").shape == (1, 2)
    for change in (
        lambda a, m: a.update({f"{name}x": np.full_like(arrays[f"{name}x"], np.nan)}),
        lambda a, m: a.update({f"{name}x": arrays[f"{name}x"][:1]}),
        lambda a, m: a.update({f"{name}f": arrays[f"{name}f"][:, 1:]}),
        lambda a, m: a.update({f"{name}g": arrays[f"{name}g"].astype(np.float16)}),
        lambda a, m: a.update({f"{name}y": arrays[f"{name}y"][:, :1]}),
        lambda a, m: a.update({f"{name}y": np.zeros(3, np.float32)}),
        lambda a, m: a.update({k: v[..., :1] for k, v in arrays.items() if k in (f"{name}x", f"{name}y")}),
        lambda a, m: a.pop(f"{name}g"),
        lambda a, m: flows(m).clear(),
        lambda a, m: flows(m).pop(),
        lambda a, m: flows(m)[0]["Followed"].update(blur=-1.0),
        lambda a, m: flows(m)[0]["Followed"].update(rates={"tuple": [1.0]}),
        lambda a, m: flows(m)[0]["Followed"].update(label="a"),
        lambda a, m: flows(m)[-1]["Followed"].update(span={"tuple": [1.0, 0.0]}),
    ):
        with pytest.raises(ValueError, match="does not fit this version of nsgf"):
            opened(change)


# %% Rows that are kept


def test_rows_that_are_spaced_are_of_one_chance_and_means_over_them_are_firm():
    x = np.random.default_rng(0).normal(size=(300, 2))
    drawn = [spaced(x, 100, np.random.default_rng(seed)) for seed in range(300)]
    counts = np.bincount(np.concatenate(drawn), minlength=300)
    assert all(len(np.unique(i)) == 100 for i in drawn)
    assert abs(counts - 100).max() <= 45  # five deviations
    means, chance = np.array([x[i].mean(axis=0) for i in drawn]), (1 / 100 - 1 / 300) ** 0.5
    assert means.std(axis=0).max() < 0.5 * chance
    np.testing.assert_array_equal(spaced(x, 400, np.random.default_rng(0)), np.arange(300))
