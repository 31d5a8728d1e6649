"""
Two phases: digits in five evaluations
======================================

`NSGFPlusPlus` begins with a map, one evaluation of a network, and ends with a few steps of a straight flow. Here it
learns the handwritten digits of scikit-learn, images of 8 × 8 pixels, and is asked what its second phase is for.
"""

# %%
# Fit
# ---
#
# The source is Gaussian noise with the mean and standard deviation of each pixel. Half of the digits are learnt from,
# and half are kept. The trainings and the minibatches are smaller than by default, to keep
# this example short; :doc:`../guide` has figures of longer ones.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from nsgf import NSGFPlusPlus, metrics, plots

digits = np.random.default_rng(0).permutation(load_digits().data / 16)  # (1797, 64), 0 … 1
seen, unseen = digits[:898], digits[898:]

model = NSGFPlusPlus(batch_size=640, max_iter=(600, 300), random_state=0).fit(None, seen)
seconds = {name: round(value, 1) for name, value in model.history_.items() if name.endswith("seconds")}
print(model.n_evaluations, "function evaluations a sample;", seconds)

# %%
# The two phases
# --------------
#
# Each row is one position: noise at the top, then where phase 2 begins, then its steps. `phases` tells them apart. The
# map makes a digit at once, and phase 2 begins near it, with a little noise that the straight flow takes away.

rng = np.random.default_rng(2)
noise = seen.mean(axis=0) + seen.std(axis=0) * rng.normal(size=unseen.shape)  # (899, 64)
path = model.trajectory(noise)  # (6, 899, 64)

figure, ax = plt.subplots(figsize=(10, 4.5), layout="constrained")
plots.plot_images(path[:, :16].clip(0, 1).reshape(-1, 64), (8, 8), n_columns=16, ax=ax)
for row, phase in enumerate(["noise", *(f"phase {phase}" for phase in model.phases)]):
    ax.text(-2, 9 * row + 4, phase, ha="right", va="center")

# %%
# New digits
# ----------

made = model.sample(len(unseen), random_state=1).clip(0, 1)

figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
for ax, sample, title in zip(axes, (made, unseen), ("made from noise", "real, held out"), strict=True):
    plots.plot_images(sample[:100], (8, 8), ax=ax)
    ax.set_title(title)

# %%
# How good are they?
# ------------------
#
# The steps of phase 2 may be changed after `fit`. *Precision* is how many of the made digits lie among the real ones,
# and *recall* how many of the real ones lie among those made. *Nearer* is how many of them lie nearer to a digit that
# was learnt from than to one that was not: about ½ for a model that does not copy. Real digits against real ones are
# the figures to read them by.


def say(name, sample):
    """Print how a sample compares with the digits held out."""
    precision, recall = metrics.precision_recall(unseen, sample)
    nearer = metrics.memorisation(sample, seen, unseen).nearer
    print(f"{name}: precision {precision:.2f}, recall {recall:.2f}, nearer {nearer:.2f}")


for n_steps in (1, 2, 4, 16):
    say(f"{n_steps} steps of phase 2", model.set_params(n_steps=n_steps).sample(len(unseen), random_state=1).clip(0, 1))
precision, recall = metrics.precision_recall(unseen, seen)
print(f"real: precision {precision:.2f}, recall {recall:.2f}")

plt.show()
