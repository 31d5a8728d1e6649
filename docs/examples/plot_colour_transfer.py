"""
The colours of one photograph in another
========================================

A photograph is a cloud of colours: one point in the cube of red, green and blue for each pixel. Carrying that cloud to
the cloud of another photograph recolours the first with the palette of the second. The flow is fitted on a few thousand
pixels, and then applied to all 273 280 of them: the network is what makes this possible, since a plan between the
samples says nothing about the other pixels.
"""

# %%
# Two photographs
# ---------------

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

from nsgf import NSGF, Training, plots

china, flower = (load_sample_image(name) / 255.0 for name in ("china.jpg", "flower.jpg"))  # (427, 640, 3)
rng = np.random.default_rng(0)
X_src, X_tgt = (rng.permutation(image.reshape(-1, 3))[:8000] for image in (china, flower))

# %%
# Fit, and carry every pixel
# --------------------------
#
# The result is clipped to the cube: nothing tells the flow that colours end at 0 and 1.

training = Training(batch_size=256)
model = NSGF(batch_size=512, n_batches=8, max_iter=1200, training=training, random_state=0).fit(X_src, X_tgt)
carried = model.transform(china.reshape(-1, 3)).clip(0, 1).reshape(china.shape)
print({name: f"{value:.2g}" for name, value in model.report_.items()})

figure, axes = plt.subplots(1, 3, figsize=(13, 3.2), layout="constrained")
titles = ("source", "target", "source in the colours of the target")
for ax, image, title in zip(axes, (china, flower, carried), titles, strict=True):
    ax.imshow(image)
    ax.set_title(title)
    ax.set_axis_off()

# %%
# Along the flow
# --------------
#
# `trajectory` gives the photograph after each step. Most of the change is in the first: it moves the mean colour all
# the way, and the later steps sort out the rest.

small = china[::4, ::4]
steps = model.trajectory(small.reshape(-1, 3)).clip(0, 1).reshape(-1, *small.shape)
figure, axes = plt.subplots(1, len(steps), figsize=(13, 1.8), layout="constrained")
for k, (ax, image) in enumerate(zip(axes, steps, strict=True)):
    ax.imshow(image)
    ax.set_title(f"step {k}")
    ax.set_axis_off()

# %%
# The same flow, seen in the plane of red and blue: each line is the path of one pixel's colour.

paths = model.trajectory(X_src[:200])[:, :, [0, 2]]
ax = plots.plot_trajectories(paths, X_tgt[:3000, [0, 2]])
ax.set(xlabel="red", ylabel="blue")
plt.show()
