"""Parameters and fitted attributes, as scikit-learn's users find them."""

import dataclasses
import inspect

import numpy as np
import pandas as pd
import pytest
import torch
from common import BARELY, ignore_report, samples
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from nsgf import NSGF, POT, NSGFPlusPlus, Training
from nsgf.estimators.parameters import Fitted

leaves = pytest.mark.parametrize("leaf", [NSGF, NSGFPlusPlus])
NAMES = "batch_size n_batches network max_iter training solver encoder device random_state verbose"


# %% Nested parameters


@leaves
def test_an_estimator_has_these_parameters(leaf):
    names = [*(["blur", "n_steps", "step_size"] if leaf is NSGF else ["blur", "n_steps"]), *NAMES.split()]
    assert list(leaf().get_params(deep=False)) == sorted(names)
    assert list(inspect.signature(leaf).parameters) == names


@leaves
def test_fields_of_values_are_read_and_set_by_name(leaf):
    model = leaf()
    assert model.get_params()["training__learning_rate"] == Training().learning_rate
    assert model.training is None
    model.set_params(training__learning_rate=1e-3, training__clip=1.0, n_batches=3)
    habits = dataclasses.replace(leaf._habits, learning_rate=1e-3, clip=1.0)  # noqa: SLF001  the defaults of a leaf
    assert (model.training, model.n_batches) == (habits, 3)
    model.set_params(solver=POT(tol=1e-3), solver__max_iter=7, training=Training(warmup=2), training__clip=2.0)
    assert (model.solver, model.training) == (POT(tol=1e-3, max_iter=7), Training(warmup=2, clip=2.0))
    assert model.get_params()["solver__max_iter"] == 7
    twin = clone(model).set_params(training__warmup=5)
    assert (twin.training.warmup, model.training.warmup) == (5, 2)
    model.set_params(training=None, training__batch_size=64)
    assert model.training == dataclasses.replace(habits, learning_rate=5e-3, clip=float("inf"), batch_size=64)


@leaves
def test_a_parameter_that_is_none_is_named_and_changes_nothing(leaf):
    model = leaf()
    for name, value in (("learning_rate", 1e-3), ("guidance", 1.0), ("training__speed", 1), ("blur__tol", 1)):
        with pytest.raises(ValueError, match=f"Invalid parameter '{name}'"):
            model.set_params(**{name: value})
    with pytest.raises(ValueError, match="learning_rate=0 must be positive"):
        model.set_params(training__learning_rate=0)
    assert model.get_params() == leaf().get_params()


@ignore_report
def test_a_grid_is_searched_over_the_fields_of_the_training():
    x, y = samples(120)
    grid = {"training__learning_rate": [1e-12, 5e-3], "n_steps": [2]}
    search = GridSearchCV(NSGF(**BARELY | {"max_iter": 60, "network": "mlp"}), grid, cv=2).fit(x, y)
    assert search.best_params_ == {"training__learning_rate": 5e-3, "n_steps": 2}
    assert search.best_estimator_.training.learning_rate == 5e-3


# %% Fitted attributes


def attributes(leaf):
    return [name for name in dir(leaf) if isinstance(inspect.getattr_static(leaf, name), Fitted)]


@leaves
def test_fitted_attributes_are_told_apart_from_what_is_not_fitted_yet(leaf):
    assert {"shift_", "scale_", "blur_", "history_", "report_", "n_iter_", "field_", "times_"} < {*attributes(leaf)}
    for name in attributes(leaf):
        with pytest.raises(NotFittedError, match=f"{leaf.__name__} has no {name}: it is not fitted yet. Call fit"):
            getattr(leaf(), name)
        assert not hasattr(leaf(), name)


def test_fitted_attributes_are_read_only(flow):
    for name in attributes(NSGF):
        with pytest.raises(AttributeError, match=f"{name} is learnt by fit, and cannot be set"):
            setattr(flow, name, None)
        once, again = (getattr(flow, name, None) for _ in range(2))
        assert once is again or np.shares_memory(once, again)


def test_fitted_attributes_say_what_was_learnt(flow):
    assert (flow.n_features_in_, flow.sample_shape_, flow.classes_, flow.times_) == (2, (2,), None, None)
    assert (flow.n_steps_, flow.flow_time_, flow.n_iter_) == (3, 3.0, 300)
    assert not hasattr(flow, "feature_names_in_")


@ignore_report
def test_names_of_columns_survive_the_file(tmp_path):
    X = pd.DataFrame(samples(60)[1], columns=["a", "b"])
    NSGF(**BARELY).fit(None, X).save(tmp_path / "m")
    loaded = NSGF.load(tmp_path / "m")
    assert list(loaded.feature_names_in_) == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        loaded.transform(X.rename(columns={"b": "c"}))


def test_use_before_fit_says_so(tmp_path):
    for use in ("transform", "trajectory", "score", "sample", "save"):
        argument = {"sample": 3, "save": tmp_path / "m"}.get(use, np.ones((3, 2)))
        with pytest.raises(NotFittedError, match="not fitted"):
            getattr(NSGF(), use)(argument)


# %% What is refused


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"blur": -1.0}, "blur=-1.0 must be"),
        ({"blur": 0}, "blur=0 must be"),
        ({"blur": "wide"}, "blur='wide' must be"),
        ({"blur": float("nan")}, "blur=nan must be"),
        ({"n_steps": 0}, "n_steps=0 must be"),
        ({"n_steps": -2}, "n_steps=-2 must be"),
        ({"n_steps": 2.5}, "n_steps=2.5 must be"),
        ({"batch_size": 1}, "batch_size=1 must be"),
        ({"n_batches": 0}, "n_batches=0 must be"),
        ({"max_iter": 0}, "max_iter=0 must be"),
        ({"training": "fast"}, "training='fast' must be"),
        ({"network": "resnet"}, "network='resnet' is unknown; choose"),
        ({"solver": "newton"}, "solver='newton' is unknown; choose"),
        ({"device": "tpu"}, "device='tpu' is unknown; choose"),
    ],
)
@leaves
def test_a_bad_parameter_is_named_with_the_way_out(leaf, parameters, words):
    with pytest.raises(ValueError, match=words):
        leaf(**parameters).fit(*samples(50))


def test_a_bad_step_size_is_named():
    with pytest.raises(ValueError, match="step_size=-1 must be"):
        NSGF(step_size=-1).fit(*samples(50))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n_steps": (2, 3)}, r"n_steps=\(2, 3\) must be an integer"),
        ({"n_batches": 0}, "n_batches=0 must be"),
        ({"max_iter": (1, 2, 3)}, r"max_iter=\(1, 2, 3\) must be one integer, or 2"),
        ({"max_iter": (1, 0)}, "max_iter=0 must be"),
    ],
)
def test_a_bad_parameter_of_two_phases_is_named(parameters, words):
    with pytest.raises(ValueError, match=words):
        NSGFPlusPlus(**parameters).fit(*samples(50))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device; elsewhere it has one")
@leaves
def test_cuda_asked_for_and_absent_names_the_remedy(leaf):
    with pytest.raises(RuntimeError, match="device='cuda' was asked for.*device='cpu'"):
        leaf(device="cuda").fit(*samples(50))


@ignore_report
def test_a_parameter_that_is_changed_to_what_it_cannot_be_is_refused_at_use():
    for leaf, n_steps in ((NSGF, 0), (NSGF, -1), (NSGFPlusPlus, 0)):
        model = leaf(**BARELY).fit(*samples(60)).set_params(n_steps=n_steps)
        for use in (lambda model=model: model.transform(np.zeros((1, 2))), model.sample):
            with pytest.raises(ValueError, match="n_steps=.* must be an integer of at least 1"):
                use()


# %% Random states


@pytest.mark.parametrize("state", [-1, 1.5, "1", True, [1, 2], np.bool_(True), np.random])
@pytest.mark.parametrize("leaf", [NSGF, NSGFPlusPlus])
def test_what_is_no_random_state_is_refused_before_any_work(state, leaf, flow):
    for use in (lambda: leaf(random_state=state).fit(*samples(50)), lambda: flow.sample(2, random_state=state)):
        with pytest.raises(ValueError, match=r"random_state=.* must be an integer of at least 0, a Generator"):
            use()


@pytest.mark.parametrize(
    "make",
    [
        lambda: 3,
        lambda: np.int64(3),
        lambda: np.random.default_rng(3),
        lambda: np.random.RandomState(3),
        lambda: np.random.SeedSequence(3),
        lambda: np.random.PCG64(3),
    ],
)
@ignore_report
def test_random_states_of_every_form_fix_what_is_drawn(make, tmp_path):
    first, again = (NSGF(**BARELY | {"random_state": make()}).fit(*samples(50)) for _ in range(2))
    np.testing.assert_array_equal(first.sample(3), again.sample(3))
    np.testing.assert_array_equal(first.sample(3, random_state=make()), again.sample(3, random_state=make()))
    first.save(tmp_path / "m")


@ignore_report
def test_a_seed_sequence_seeds_every_fit_alike():
    seed = np.random.SeedSequence(3)
    first, again = (NSGF(**BARELY | {"random_state": seed}).fit(*samples(50)).sample(3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
