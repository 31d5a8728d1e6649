"""The contract of scikit-learn: its own suite, and the routes by which samples and what is known of them reach a flow.

The suite calls ``fit(X)`` or ``fit(X, labels)`` with one sample only, where the second argument of a flow is the target
sample: the adapters below drop the labels and carry X to itself, which leaves every other rule of the contract under
test.
"""

import pickle

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from common import BARELY, ignore_report, pictures, samples, small_unet
from sklearn.base import clone, is_classifier, is_clusterer, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import estimator_checks, estimator_html_repr
from sklearn.utils.estimator_checks import parametrize_with_checks

from nsgf import NSGF, Labels, NSGFPlusPlus, Numbers, SinkhornFlow, Training, WFlow

pytestmark = ignore_report
X, Y = samples(60)
NAMES = np.array(["a", "b", "b"] * 20, dtype=object)


class SelfFlow(NSGF):
    def fit(self, X, y=None):
        return super().fit(X, X)

    def score(self, X, y=None):
        return super().score(X)


class SelfFlowPlusPlus(NSGFPlusPlus):
    def fit(self, X, y=None):
        return super().fit(X, X)

    def score(self, X, y=None):
        return super().score(X)


class SelfWFlow(WFlow):
    def fit(self, X, y=None):
        return super().fit(X, X)

    def score(self, X, y=None, sample_weight=None):
        return super().score(X)


class SelfSinkhornFlow(SinkhornFlow):
    def fit(self, X, y=None):
        return super().fit(X, X)

    def score(self, X, y=None):
        return super().score(X)


BARELY_ONE_STEP = {k: v for k, v in BARELY.items() if k not in ("n_batches", "n_steps")}
ADAPTERS = [
    SelfFlow(**BARELY),
    SelfFlowPlusPlus(**BARELY),
    SelfWFlow(**BARELY_ONE_STEP),
    SelfSinkhornFlow(n_points=32, device="cpu", random_state=0),
]
# Of scikit-learn's own transformers. check_dataframe_column_names_consistency is left out: its frames of other columns
# are all NaN, which is refused before the names are; test_score.py and test_samples.py have frames of other columns.
NOT_IN_THE_SUITE = [
    estimator_checks.check_global_output_transform_pandas,
    estimator_checks.check_global_set_output_transform_polars,
    estimator_checks.check_set_output_transform,
    estimator_checks.check_set_output_transform_pandas,
    estimator_checks.check_set_output_transform_polars,
    estimator_checks.check_transformer_get_feature_names_out,
    estimator_checks.check_transformer_get_feature_names_out_pandas,
]


@parametrize_with_checks(ADAPTERS)
def test_scikit_learn_contract(estimator, check):
    if check.func.__name__ == "check_methods_subset_invariance":
        reason = "asks for 1e-7 of float32 sums, which a fit in four misses; own tests ask for 1e-4"
        pytest.skip(f"{reason}. Ends when fields are evaluated in float64")
    check(estimator)


@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names:UserWarning")  # it mixes both itself
@pytest.mark.parametrize("check", NOT_IN_THE_SUITE, ids=lambda check: check.__name__)
@pytest.mark.parametrize("estimator", ADAPTERS, ids=lambda estimator: type(estimator).__name__)
def test_scikit_learn_transformer(estimator, check):
    check(type(estimator).__name__, estimator)


def model(**parameters):
    return NSGF(**BARELY | parameters)


def scaled(**requests):
    """Return a pipeline whose flow asks for labels in `fit`, and for more by method."""
    flow = model().set_fit_request(y_src=True, y_tgt=True)
    for method, names in requests.items():
        getattr(flow, f"set_{method}_request")(**names)
    return make_pipeline(StandardScaler(), flow)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


# %% What is known of samples, on its way


@pytest.mark.usefixtures("routing")
def test_a_pipeline_hands_on_conditions():
    wanted = model().fit(StandardScaler().fit_transform(X), Y, y_src=NAMES, y_tgt=NAMES)
    scaler, known = StandardScaler().fit(X), {"y_src": NAMES, "y_tgt": NAMES}
    carry = scaled(transform={"y": True, "guidance": True}).fit(X, Y, **known)
    np.testing.assert_array_equal(
        carry.transform(X, y=NAMES, guidance=2.0), wanted.transform(scaler.transform(X), NAMES, guidance=2.0)
    )
    assert not np.array_equal(carry.transform(X, y="a"), carry.transform(X, y="b"))
    judge = scaled(score={"y": "names", "guidance": True, "metric": True}).fit(X, Y, **known)
    asked = {"guidance": 2.0, "metric": "wasserstein"}
    assert judge.score(X, Y, names=NAMES, **asked) == wanted.score(scaler.transform(X), Y, y=NAMES, **asked)
    assert judge.score(X, Y) == wanted.score(scaler.transform(X), Y)


@pytest.mark.usefixtures("routing")
def test_a_pipeline_hands_on_times_and_pairs():
    course, (x, _) = {0.0: X, 1.0: Y, 2.0: Y + 1}, samples(20, seed=1)
    timed = make_pipeline(model().set_transform_request(t0=True, t1=True)).fit(course)
    np.testing.assert_array_equal(timed.transform(x, t1=1.0), model().fit(course).transform(x, t1=1.0))
    paired = make_pipeline(model().set_fit_request(pairs=True)).fit(X, Y, pairs=[(0, 1)])
    np.testing.assert_array_equal(paired.transform(x), model().fit(X, Y, pairs=[(0, 1)]).transform(x))


@pytest.mark.usefixtures("routing")
def test_what_is_not_asked_for_is_not_dropped_in_silence():
    with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="y_tgt"):
        make_pipeline(StandardScaler(), model()).fit(X, Y, y_tgt=NAMES)
    carry = scaled().fit(X, Y, y_src=NAMES, y_tgt=NAMES)
    for known in ({"y": NAMES}, {"guidance": 2.0}):
        with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match=next(iter(known))):
            carry.transform(X, **known)
    with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="sample_weight"):
        carry.score(X, Y, sample_weight=np.ones(60))


CONDITIONS = {
    "array": NAMES,
    "list": list(NAMES),
    "Labels": Labels([("a", 1), ("b", 1), 2] * 20),
    "Numbers": Numbers(Y[:, 0], weight=2.0),
    "numbers": Y[:, :1],
}


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("known", CONDITIONS.values(), ids=CONDITIONS)
def test_conditions_are_taken_apart_with_the_folds(known):
    asking = model().set_fit_request(y_src=True, y_tgt=True).set_score_request(y="y_src")
    parts = [np.arange(20, 60), np.arange(20)]
    found = cross_validate(asking, X, Y, cv=[parts], params={"y_src": known, "y_tgt": known}, error_score="raise")
    train, test = ([known[i] for i in rows] if isinstance(known, list) else known[rows] for rows in parts)
    wanted = model().fit(X[parts[0]], Y[parts[0]], y_src=train, y_tgt=train)
    assert found["test_score"] == wanted.score(X[:20], Y[:20], y=test)


def test_conditions_are_taken_apart_without_requests_too():
    for known in (Labels(list(NAMES)), Numbers(Y[:, 0])):
        search = GridSearchCV(model(), {"n_steps": [1, 2]}, cv=2, error_score="raise")
        search.fit(X, Y, y_src=known, y_tgt=known)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# %% Searches


def test_every_search_sets_the_fields_of_values():
    grid, cv = {"nsgf__training__learning_rate": [1e-3, 1e-2]}, {"cv": 2, "error_score": "raise"}
    halving = {"resource": "nsgf__max_iter", "min_resources": 2, "max_resources": 4, "factor": 2}
    for search in (
        GridSearchCV(make_pipeline(StandardScaler(), model()), grid, **cv),
        RandomizedSearchCV(make_pipeline(StandardScaler(), model()), grid, n_iter=2, random_state=0, **cv),
        HalvingGridSearchCV(make_pipeline(StandardScaler(), model()), grid, random_state=0, **halving, **cv),
    ):
        best = search.fit(X, Y).best_params_["nsgf__training__learning_rate"]
        assert search.best_estimator_[-1].training.learning_rate == best
        assert search.score(X, Y) == search.best_estimator_.score(X, Y)


@pytest.mark.slow
def test_a_search_in_two_processes_is_that_in_one():
    grid = {"blur": [0.2, 2.0]}
    alone, shared = (GridSearchCV(model(), grid, cv=2, n_jobs=n).fit(X, Y).cv_results_ for n in (1, 2))
    # the process that compiles the solver rounds otherwise than those that load it
    np.testing.assert_allclose(alone["mean_test_score"], shared["mean_test_score"], rtol=1e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_a_candidate_that_is_refused_does_not_end_a_search():
    search = GridSearchCV(model(), {"n_steps": [0, 2]}, cv=2).fit(X, Y)
    assert (search.best_params_, np.isnan(search.cv_results_["mean_test_score"]).tolist()) == ({"n_steps": 2}, [1, 0])


def test_a_score_of_ones_own_is_validated_across():
    scores = [cross_val_score(model(), X, Y, cv=2, scoring=scoring) for scoring in (None, NSGF.score)]
    np.testing.assert_array_equal(*scores)


# %% Containers


@pytest.mark.parametrize("where", ["set_output", "config_context"])
@pytest.mark.parametrize("output", ["default", "pandas", "polars"])
def test_results_come_in_the_container_that_was_asked_for(output, where):
    x = pd.DataFrame(X, columns=["p", "q"], index=range(100, 160))
    y, flow = pd.DataFrame(Y, columns=["p", "q"]), model()
    flow = flow.set_output(transform=output) if where == "set_output" else flow
    with sklearn.config_context(transform_output=output if where == "config_context" else "default"):
        made = [flow.fit(x, y).transform(x), flow.fit_transform(x, y)]
        assert {type(z) for z in (flow.trajectory(x), flow.sample(3))} == {np.ndarray}
    for z in made:
        assert type(z) is {"default": np.ndarray, "pandas": pd.DataFrame, "polars": pl.DataFrame}[output]
        np.testing.assert_array_equal(np.asarray(z), model().fit(X, Y).transform(X))
        assert list(getattr(z, "columns", "pq")) == ["p", "q"]
        assert list(getattr(z, "index", x.index)) == list(x.index)


def test_images_stay_arrays_in_every_container():
    images = pictures(40)
    for output in ("pandas", "polars"):
        flow = model(network=small_unet()).set_output(transform=output).fit(images, images)
        assert not hasattr(flow, "get_feature_names_out")
        with sklearn.config_context(transform_output=output):
            made = [flow.transform(images), clone(flow).fit_transform(images, images)]
        assert [(type(z), z.shape) for z in made] == [(np.ndarray, images.shape)] * 2


def test_an_array_where_names_were_learnt_warns_once():
    x, y = (pd.DataFrame(z, columns=["p", "q"]) for z in (X, Y))
    flow = model().fit(x, y)
    for use in (flow.transform, flow.trajectory, flow.score):
        with pytest.warns(UserWarning, match="X does not have valid feature names, but NSGF was fitted") as caught:
            use(X)
        assert len(caught) == 1


# %% Beside and within other estimators


def test_flows_stand_beside_and_within_other_transformers():
    x, y = (pd.DataFrame(z, columns=["p", "q"]) for z in (X, Y))
    wanted, scaler = model().fit(X, Y).transform(X), StandardScaler().fit(X)
    union = FeatureUnion([("flow", model()), ("scale", scaler)]).fit(X, Y)
    np.testing.assert_array_equal(union.transform(X), np.hstack([wanted, scaler.transform(X)]))
    columns = ColumnTransformer([("flow", model(), ["p", "q"])], remainder="passthrough")
    carried = columns.set_output(transform="pandas").fit(x.assign(r=1.0), y).transform(x.assign(r=1.0))
    assert list(carried) == ["flow__p", "flow__q", "remainder__r"]
    np.testing.assert_array_equal(carried.to_numpy()[:, :2], wanted)
    fitted = model().fit(X, Y)
    np.testing.assert_array_equal(FunctionTransformer(fitted.transform).fit_transform(X), wanted)
    np.testing.assert_array_equal(make_pipeline(FrozenEstimator(fitted)).fit(X, Y[::-1]).transform(X), wanted)


def test_fit_transform_is_fit_and_transform():
    np.testing.assert_array_equal(model().fit_transform(X, Y), model().fit(X, Y).transform(X))
    known = {"y_src": NAMES, "y_tgt": NAMES}
    wanted = model().fit(X, Y, **known).transform(X, NAMES, guidance=2.0)
    np.testing.assert_array_equal(model().fit_transform(X, Y, guidance=2.0, **known), wanted)
    for given in ((None, Y), ({0: X, 1: Y},), ([(0, X), (1, Y)],)):
        with pytest.raises(ValueError, match="fit_transform needs source and target samples.*Call fit, and then"):
            model().fit_transform(*given)


class Encoded(NSGF):
    """A flow with an estimator among its parameters."""

    def __init__(self, encoder=None, *, training=None):
        self.encoder, self.training = encoder, training


def test_parameters_of_an_estimator_within_are_read_set_and_cloned():
    flow = Encoded(PCA(2))
    assert flow.get_params()["encoder__n_components"] == 2
    assert "encoder__n_components" not in flow.get_params(deep=False) | Encoded().get_params()
    flow.set_params(encoder__n_components=3, training__warmup=2)
    assert (flow.encoder.n_components, flow.training) == (3, Training(warmup=2))
    twin = clone(flow).set_params(encoder__n_components=4)
    assert (flow.encoder.n_components, twin.encoder.n_components) == (3, 4)
    flow.set_params(encoder=make_pipeline(StandardScaler(), PCA()), encoder__pca__n_components=1)
    assert flow.encoder[-1].n_components == 1
    with pytest.raises(ValueError, match="Invalid parameter 'encoder__speed': choose one of .*encoder__pca"):
        flow.set_params(encoder__speed=1)
    assert flow.set_params(**flow.get_params()).get_params() == flow.get_params()
    assert [type(part) for part in clone(Encoded((PCA(), StandardScaler()))).encoder] == [PCA, StandardScaler]


# %% Shows and copies


def test_an_estimator_is_shown():
    shown = NSGF(0.3, training=Training(warmup=7))
    assert "warmup=7" in repr(shown)
    with sklearn.config_context(print_changed_only=False):
        assert "n_batches=32" in repr(shown)
    for each in (shown, model().fit(X, Y), make_pipeline(PCA(), shown)):
        assert type(shown).__name__ in estimator_html_repr(each)
    assert not any(kind(shown) for kind in (is_classifier, is_regressor, is_clusterer))


def test_copies_of_every_kind_answer_alike(tmp_path):
    cloudpickle, flow = pytest.importorskip("cloudpickle"), model().fit(X, Y)  # comes with newer joblib
    joblib.dump(flow, tmp_path / "m")
    for copied in (joblib.load(tmp_path / "m"), pickle.loads(cloudpickle.dumps(flow))):
        np.testing.assert_array_equal(copied.transform(X), flow.transform(X))
        assert copied.score(X, Y) == flow.score(X, Y)


def test_no_route_offers_an_inverse():
    for each in (NSGF(), model().fit(X, Y), make_pipeline(NSGF())):
        assert not hasattr(each, "inverse_transform")
