"""Encoders: the space in which a flow lives, of one transformer or a pair, and what a file keeps of them."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse
from common import BARELY, QUICK, ignore_report, samples
from sklearn import decomposition, pipeline, preprocessing
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.frozen import FrozenEstimator
from tolerances import FLOAT32

import nsgf
from nsgf import NSGF, NSGFPlusPlus
from nsgf.encoders import Codec, kept, restored

UNITS = np.array([1.0, 1e3, 1e6])


class Doubling(TransformerMixin, BaseEstimator):
    """A transformer of one's own."""

    def fit(self, X, y=None):
        self.n_ = X.shape[1]
        return self

    def transform(self, X):
        return 2.0 * X

    def inverse_transform(self, X):
        return 0.5 * X


class Lossy(Doubling):
    """One that does not lead back to as many features."""

    def inverse_transform(self, X):
        return X[:, :1]


def in_space(n=400, seed=0):
    rng = np.random.default_rng(seed)
    x, y = samples(n, seed=seed)
    return np.c_[x, rng.normal(size=n)], np.c_[y, 0.5 * rng.normal(size=n) + 2.0]


# %% What it does


def test_with_an_encoder_features_of_any_unit_give_the_figures_of_one_unit():
    x, y = in_space()
    plain, scaled = (
        NSGF(**QUICK, encoder=preprocessing.StandardScaler()).fit(x * unit, y * unit) for unit in (np.ones(3), UNITS)
    )
    np.testing.assert_allclose(scaled.transform(x * UNITS) / UNITS, plain.transform(x), atol=1e-3)
    for name in ("width", "mmd2", "regression_gap"):
        assert scaled.report_[name] == pytest.approx(plain.report_[name], abs=1e-3)


def test_without_one_features_of_very_different_spread_are_named():
    x, y = in_space(100)
    with pytest.warns(UserWarning, match="very different spread: feature 0, feature 1 have .* encoder="):
        NSGF(**BARELY).fit(x * UNITS, y * UNITS)


@ignore_report
def test_a_pair_of_encoders_carries_between_samples_of_different_widths():
    (x, y), rng = samples(200), np.random.default_rng(1)
    wide = y @ rng.normal(size=(2, 7)) + 3.0
    model = NSGF(**BARELY, encoder=(preprocessing.StandardScaler(), decomposition.PCA(2))).fit(x, wide)
    assert model.transform(x[:5]).shape == (5, 7)
    assert model.trajectory(x[:5]).shape == (4, 5, 7)
    assert model.sample(4).shape == (4, 7)
    assert np.isfinite(model.score(x, wide))
    assert (model.n_features_in_, model.sample_shape_) == (2, (7,))


@ignore_report
def test_noise_and_time_courses_have_one_encoder():
    x, y = in_space(60)
    model = NSGF(**BARELY, encoder=decomposition.PCA(2)).fit(None, y)
    assert model.sample(3).shape == (3, 3)
    course = NSGF(**BARELY, encoder=decomposition.PCA(2)).fit({0.0: x, 1.0: y})
    assert course.transform(x, t1=0.5).shape == x.shape
    for samples_ in ((None, y), ({0.0: x, 1.0: y},)):
        with pytest.raises(ValueError, match="encoder is a pair, but there are not two samples"):
            NSGF(**BARELY, encoder=(decomposition.PCA(2), decomposition.PCA(2))).fit(*samples_)


@ignore_report
def test_an_encoder_is_cloned_and_its_parameters_can_be_searched():
    encoder = decomposition.PCA(2)
    model = NSGF(**BARELY, encoder=encoder).fit(*in_space(60))
    assert not hasattr(encoder, "components_")
    assert clone(model).encoder is not encoder


def test_an_encoder_that_is_trained_already_stays_as_it_is(tmp_path):
    x, y = in_space()
    trained = preprocessing.StandardScaler().fit(100.0 * y)
    model = NSGF(**QUICK, encoder=FrozenEstimator(trained)).fit(x, y)
    np.testing.assert_allclose(model.shift_, trained.transform(y).mean(axis=0), rtol=1e-9)
    model.save(path := tmp_path / "model.safetensors")
    np.testing.assert_array_equal(nsgf.load(path, encoder=trained).transform(x), model.transform(x))


@ignore_report
def test_a_network_sees_images_unless_an_encoder_has_changed_their_width():
    images = np.random.default_rng(0).random((60, 1, 4, 4))
    whole = NSGF(**BARELY, encoder=preprocessing.MinMaxScaler((-1, 1))).fit(None, images)
    small = NSGF(**BARELY, encoder=decomposition.PCA(3)).fit(None, images)
    assert whole.sample(2).shape == small.sample(2).shape == (2, 1, 4, 4)
    assert small.transform(images[:2]).shape == (2, 1, 4, 4)
    assert small.field_.n_features == 3


# %% What is refused


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ("pca", "must be a transformer with fit, transform and inverse_transform"),
        (preprocessing.StandardScaler, "must be a transformer"),
        (preprocessing.Normalizer(), "it has no inverse_transform"),
        ((preprocessing.StandardScaler(),), "or a pair"),
        (Lossy(), r"does not serve here: the encoder gave shape \(\d+, 1\) in place of \(\d+, 3\)"),
        (decomposition.PCA(50), "does not serve here: n_components=50"),
        ((decomposition.PCA(1), decomposition.PCA(2)), "encoder: X_src has 1 features but X_tgt has 2"),
        (preprocessing.FunctionTransformer(np.log, np.exp), "does not serve here"),
    ],
)
@pytest.mark.parametrize("leaf", [NSGF, NSGFPlusPlus])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:The provided functions:UserWarning")
def test_what_is_no_encoder_is_refused_before_any_work(leaf, encoder, words):
    with pytest.raises(ValueError, match=f"encoder.*{words}|{words}"):
        leaf(**BARELY | {"n_steps": 2}, encoder=encoder).fit(*in_space(30))


# %% Files and copies

POSITIVE = np.exp(np.random.default_rng(0).normal(size=(60, 3)))
KEPT = [
    preprocessing.StandardScaler(with_mean=False),
    preprocessing.MinMaxScaler((-1, 1)),
    preprocessing.MaxAbsScaler(),
    preprocessing.RobustScaler(),
    preprocessing.QuantileTransformer(n_quantiles=20, output_distribution="normal"),
    preprocessing.PowerTransformer(),
    preprocessing.FunctionTransformer(np.log1p, np.expm1),
    decomposition.PCA(2, whiten=True),
    decomposition.TruncatedSVD(2),
    pipeline.make_pipeline(preprocessing.FunctionTransformer(np.log, np.exp), preprocessing.StandardScaler()),
    pipeline.make_pipeline(preprocessing.StandardScaler(), "passthrough", decomposition.PCA(2)),
]


@ignore_report
@pytest.mark.parametrize("encoder", KEPT, ids=lambda e: repr(e)[:40])
def test_a_file_keeps_common_encoders_as_data(encoder, tmp_path):
    model = NSGF(**BARELY, encoder=encoder).fit(POSITIVE, 2.0 * POSITIVE)
    model.save(tmp_path / "m")
    loaded = nsgf.load(tmp_path / "m")
    for twin in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin.transform(POSITIVE), model.transform(POSITIVE))
    assert repr(loaded.encoder) == repr(model.encoder)
    assert loaded.fit(POSITIVE, 2.0 * POSITIVE).sample(2).shape == (2, 3)


@ignore_report
def test_an_encoder_of_ones_own_joins_the_file_again(tmp_path):
    model = NSGF(**BARELY, encoder=Doubling()).fit(POSITIVE, 2.0 * POSITIVE)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"an encoder of your own, Doubling: give it, fitted: load\(path, encoder"):
        NSGF.load(tmp_path / "m")
    loaded = nsgf.load(tmp_path / "m", encoder=Doubling().fit(POSITIVE))
    np.testing.assert_array_equal(loaded.transform(POSITIVE), model.transform(POSITIVE))
    with pytest.raises(ValueError, match="its encoder does not lead to 3 features and back"):
        nsgf.load(tmp_path / "m", encoder=decomposition.PCA(2).fit(POSITIVE))


def test_nothing_becomes_an_attribute_that_a_fit_would_not_have_set():
    data = kept(preprocessing.StandardScaler().fit(POSITIVE))
    np.testing.assert_allclose(restored(data).transform(POSITIVE).std(axis=0), 1.0, atol=FLOAT32)
    for name, value in (
        ("transform", np.ones(3)),
        ("mean_", np.ones((3, 3))),
        ("mean_", "x"),
        ("scale_", np.full(3, np.nan)),
    ):
        with pytest.raises(ValueError, match=name):
            restored(data._replace(state=data.state | {name: value}))
    with pytest.raises(ValueError, match="no transformer"):
        restored(data._replace(kind="OneHotEncoder"))
    with pytest.raises(ValueError, match="no function of NumPy"):
        restored(data._replace(kind="ufunc", state={"name": "load"}))


def test_a_codec_without_an_encoder_changes_nothing():
    assert Codec.of(None, POSITIVE) == Codec()
    assert Codec().encoded(POSITIVE, 0) is POSITIVE is Codec().decoded(POSITIVE)


def test_samples_without_variance_raise_no_warning_of_other_libraries():
    x = np.ones((30, 2))
    model = NSGF(**BARELY, encoder=decomposition.PCA(1)).fit(x, x)
    np.testing.assert_allclose(model.transform(x), x)


class Centring(BaseEstimator, TransformerMixin):
    def fit(self, X, y=None):
        self.mean_ = X.mean(axis=0)
        return self

    def transform(self, X):
        return X - self.mean_

    def inverse_transform(self, Z):
        return Z + self.mean_


class InPlace(Centring):
    """One that writes into what it is given, as those with ``copy=False``."""

    def transform(self, X):
        X -= self.mean_
        return X

    def inverse_transform(self, Z):
        Z += self.mean_
        return Z


@ignore_report
def test_an_encoder_that_writes_into_its_input_changes_neither_data_nor_answers():
    x, y = samples(60)
    before = x.copy(), y.copy()
    plain, model = (NSGF(**BARELY, encoder=encoder()).fit(x, y) for encoder in (Centring, InPlace))
    for of in (lambda m: m.transform(x), lambda m: m.trajectory(x), lambda m: m.score(x, y), lambda m: m.transform(x)):
        np.testing.assert_array_equal(of(model), of(plain))
    np.testing.assert_equal((x, y), before)


class NotBack(Centring):
    def inverse_transform(self, Z):
        return 5.0 * Z + self.mean_


@pytest.mark.parametrize("encoder", [NotBack(), preprocessing.FunctionTransformer(np.log1p)])
def test_an_inverse_that_does_not_lead_back_is_a_warning(encoder):
    x, y = (np.exp(z) for z in samples(60))
    with pytest.warns(UserWarning, match="inverse_transform that does not lead back"):
        Codec.of(encoder, x, y)


class Gives(Centring):
    def __init__(self, what=None):
        self.what = what

    def transform(self, X):
        return self.what(super().transform(X))


@pytest.mark.parametrize(
    "what",
    [
        scipy.sparse.csr_array,
        lambda z: np.ma.masked_greater(z, 0),
        lambda z: z + 1j,
        lambda z: z[:, 0],
        lambda z: z[1:],
    ],
)
def test_what_is_no_rows_of_numbers_is_no_encoding(what):
    with pytest.raises(ValueError, match="does not serve here"):
        Codec.of(Gives(what), *samples(60))


class Partial(Centring):
    def inverse_transform(self, Z):
        return np.where(Z > 3, np.nan, Z + self.mean_)


def test_rows_without_a_place_among_the_data_are_a_warning():
    codec = Codec.of(Partial(), np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]]))
    with pytest.warns(UserWarning, match="in 1 of 3 rows, the first of them 2"):
        codec.decoded(np.array([[0.0], [1.0], [9.0]]))
