"""
Handwritten digits from noise
=============================

Without a source sample, `NSGF` starts from Gaussian noise with the mean and standard deviation of each feature of the
target. Here the target is the 8 × 8 handwritten digits of scikit-learn: 64 features, with whole numbers from 0 to 16.
"""

# %%
# Fit on one half of the digits
# -----------------------------
#
# The other half is held out, to compare with. Flattened images go in as rows; integers are accepted. All parameters
# are the defaults: three steps, at a blur of 0.15 of the spread of the images.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from nsgf import NSGF, metrics, plots

seen, unseen = np.array_split(np.random.default_rng(0).permutation(load_digits().data), 2)
model = NSGF(random_state=0).fit(None, seen)
print({name: f"{value:.2g}" for name, value in model.report_.items()})

# %%
# `fit` does not warn, and the report tells what to expect all the same. With 900 points in 64 dimensions, which digit a
# point of noise is sent to depends on which other points are there, and two minibatches disagree as much as their
# velocities are long (``"minibatch_gap"``). The flow of their mean still keeps the spread, but a network of a short
# training smooths it, so that the images vary a little less than real ones (``"width"``), and the test on the pixels
# can tell (``"p_value"``). :doc:`plot_collapse` shows what happens without that flow, and models that do better.
#
# New digits
# ----------
#
# `sample` draws fresh noise at each call, unless it is given a `random_state`. Pixels are clipped to the range of the
# data for display and for the figures below.

made = model.sample(len(unseen), random_state=1).clip(0, 16)

figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
for ax, images, title in zip(axes, (made, unseen), ("made from noise", "real, held out"), strict=True):
    plots.plot_images(images[:100], (8, 8), ax=ax)
    ax.set_title(title)

# %%
# Along the flow
# --------------
#
# Each row is one step, from noise at the top to digits at the bottom.

noise = np.random.default_rng(2).normal(size=(16, 64)) * seen.std(axis=0) + seen.mean(axis=0)
steps = model.trajectory(noise).clip(0, 16)  # (4, 16, 64)
figure, ax = plt.subplots(figsize=(10, 3), layout="constrained")
plots.plot_images(steps.reshape(-1, 64), (8, 8), n_columns=16, ax=ax)

# %%
# How good are they?
# ------------------
#
# Two halves of the real digits differ too; that is the floor, in the last row. W₂ is in grey levels. Precision is the
# part of the images that lies among real ones, recall the part of real ones that lies among the images.

rng, raw = np.random.default_rng(3), model.sample(len(unseen), random_state=1)
noise = rng.normal(size=unseen.shape) * seen.std(axis=0) + seen.mean(axis=0)
candidates = {"noise": noise, "made": raw, "made, clipped": made, "real": seen}
for name, images in candidates.items():
    kinds = metrics.precision_recall(unseen, images)
    distances = metrics.wasserstein(images, unseen), metrics.mmd(images, unseen)
    print("{}: W2 {:.1f}, MMD {:.3f}, precision {:.2f}, recall {:.2f}".format(name, *distances, *kinds))

# %%
# In W₂ the images come nearly all the way from noise to the floor, and clipping brings them nearer. Precision and
# recall say what that hides: clipping makes images cleaner, and so more of them lie among real ones, but it also takes
# some of their spread, and fewer kinds are reached. The MMD sees that first. One number alone would have hidden it.

plt.show()
