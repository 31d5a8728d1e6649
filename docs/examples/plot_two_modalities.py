"""
Two modalities and a few pairs
==============================

Speech and text, English and French, the state of a cell before and after it was dissolved: two kinds of measurement of
the same things, in spaces of different width, and often only a handful of things measured in both. Here the two
modalities are the upper five rows and the lower three rows of handwritten digits. Of 1400 upper and 1400 lower parts,
90 are known to belong together; the lower part of digits that were not seen is asked for.
"""

# %%
# Different spaces
# ----------------
#
# Transport needs one space. `NSGF` says so, and what to do.

import matplotlib.pyplot as plt
import numpy as np
from scipy.linalg import orthogonal_procrustes
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from nsgf import NSGF, plots

images, labels = load_digits(return_X_y=True)
images = np.random.default_rng(0).permutation(np.column_stack([images / 16, labels]))
images, labels = images[:, :64], images[:, 64]
upper, lower = images[:, :40], images[:, 40:]
n, n_pairs = 1400, 90
rng = np.random.default_rng(1)
rows = np.concatenate([np.arange(n_pairs), rng.permutation(np.arange(n_pairs, n))])
X_src, X_tgt = upper[:n], lower[rows]  # but for the first 90, nobody knows what belongs to what
pairs = np.stack([np.arange(n_pairs), np.arange(n_pairs)], axis=1)
try:
    NSGF().fit(X_src, X_tgt)
except ValueError as error:
    print(error)

# %%
# A pipeline
# ----------
#
# An encoder for each side, of equal width and unit spread, then a rotation that brings the known pairs nearest to each
# other (Procrustes), then the flow. The middle step is a transformer of a few lines. Where there are no pairs at all,
# POT's `ot.gromov.gromov_wasserstein` finds a first correspondence from the distances within each side.


class Rotation(TransformerMixin, BaseEstimator):
    """The rotation that brings the source of known pairs nearest to their target."""

    def __init__(self, pairs):
        self.pairs = pairs

    def fit(self, X, y):
        i, j = self.pairs.T
        self.rotation_, _ = orthogonal_procrustes(X[i], y[j])
        return self

    def transform(self, X):
        return X @ self.rotation_


width = 16
encoder, decoder = PCA(width, whiten=True, random_state=0), PCA(width, whiten=True, random_state=0).fit(X_tgt)
model = make_pipeline(encoder, Rotation(pairs), NSGF(batch_size=600, n_batches=5, max_iter=1000, random_state=0))
model.fit(X_src, decoder.transform(X_tgt), nsgf__pairs=pairs)

# %%
# The digits that were held out
# -----------------------------
#
# Ridge regression on the pairs is what most people would do: it uses the 90 pairs and none of the 1310 other digits. A
# classifier of whole digits, trained on real ones, judges whether upper and made lower part are the digit that they
# should be.

known = RidgeCV(np.logspace(-2, 3, 11)).fit(upper[:n_pairs], lower[:n_pairs])
made = {
    "NSGF with pairs": decoder.inverse_transform(model.transform(upper[n:])),
    "ridge": known.predict(upper[n:]),
    "any other digit's": lower[n:][rng.permutation(len(lower) - n)],
    "the truth": lower[n:],
}
judge = SVC().fit(images[:n], labels[:n])
for name, part in made.items():
    error = np.sum((part - lower[n:]) ** 2) / np.sum((lower[n:] - lower[:n].mean(axis=0)) ** 2)
    nearest = np.argmin(((part[:, None] - lower[None, n:]) ** 2).sum(axis=2), axis=1)
    right = np.mean(judge.predict(np.hstack([upper[n:], part])) == labels[n:])
    spread = np.sqrt(part.var(axis=0).sum() / lower[n:].var(axis=0).sum())
    own = np.mean(nearest == np.arange(len(part)))
    print(f"{name}: squared error {error:.2f} of the variance, nearest to its own {own:.0%}, ", end="")
    print(f"judged right {right:.0%}, spread {spread:.2f}")

# %%
# The regression has the smaller squared error, as it must: it answers with the mean of all lower parts that would do.
# Such a mean has little more than half of the spread of real parts and looks like none of them. What the flow makes is
# spread like real parts, and is judged right about as often. The nearest real part is seldom their own: with 90 pairs,
# neither knows more of a digit than which it is.

names = ("the truth", "NSGF with pairs", "ridge")
whole = np.concatenate([np.hstack([upper[n:], made[name]])[:12] for name in names]).clip(0, 1)
figure, ax = plt.subplots(figsize=(11, 3.4), layout="constrained")
plots.plot_images(whole, (8, 8), n_columns=12, ax=ax)
for row, name in enumerate(names):
    ax.text(-2, 9 * row + 4, name, ha="right", va="center")
    ax.axhline(9 * row + 4.5, color="tab:red", lw=0.8)
plt.show()
