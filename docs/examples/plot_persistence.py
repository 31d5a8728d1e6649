"""
Searched, saved, opened, unharmed
=================================

An estimator of `nsgf` is one of scikit-learn's: its parameters are searched over, those of the training too. What is
found goes to a file, comes back from it, and is not lost by a fit that goes wrong.
"""

# %%
# Search
# ------
#
# A ring is to become a heart. The learning rate is a field of `nsgf.Training`, the habits of the optimiser; two
# underscores lead to it. Each candidate is judged on points that it has not seen, by minus the Sinkhorn divergence to
# the heart: larger is better.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV

import nsgf
from nsgf import NSGF, Training, plots

rng = np.random.default_rng(0)
t, s = rng.uniform(0, 2 * np.pi, size=(2, 2000))
ring = 1.7 * np.stack([np.cos(t), np.sin(t)], axis=1) + rng.normal(scale=0.03, size=(2000, 2))
height = (13 * np.cos(s) - 5 * np.cos(2 * s) - 2 * np.cos(3 * s) - np.cos(4 * s)) / 16
heart = np.stack([np.sin(s) ** 3, height], axis=1)

training = Training(batch_size=128)
model = NSGF(blur=0.06, batch_size=1000, n_batches=4, max_iter=400, training=training, random_state=0)
search = GridSearchCV(model, {"training__learning_rate": [2e-4, 2e-3, 2e-2]}, cv=2).fit(ring, heart)
for tried, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
    print(tried, f"score {score:.4f}")

# %%
# To a file and back
# ------------------
#
# The file holds arrays and JSON. `nsgf.load` makes of it whatever estimator it was, on any machine.

with tempfile.TemporaryDirectory() as directory:
    path = Path(directory, "heart.safetensors")
    search.best_estimator_.save(path)
    model = nsgf.load(path)
    print(f"{path.stat().st_size / 1024:.0f} kB: {type(model).__name__}, {model.training.learning_rate=}")

# %%
# A fit that is refused
# ---------------------
#
# Here the new pool is larger than it may be. The model still knows the heart; so it would after Ctrl-C.

before = model.transform(ring)
try:
    model.set_params(training__pool_bytes=10_000).fit(100 * ring, 100 * heart)
except ValueError as error:
    print(error)
print("unharmed:", np.array_equal(model.transform(ring), before))

ax = plots.plot_trajectories(model.trajectory(ring[:1000]), heart)
ax.set_title("opened from the file, after a refused fit")
ax.set_axis_off()
plt.show()
