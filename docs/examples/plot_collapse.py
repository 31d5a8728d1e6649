"""
The collapse, and its cure
==========================

In two dimensions a Sinkhorn flow of minibatches ends where it should. In 64 it can end too early: what is made looks
right, each image by itself, and all of them are too much alike. Here the flow of the paper stands beside three ways
out, on digits from noise.
"""

# %%
# The collapse
# ------------
#
# Half of the digits is learnt from, the other half is for the figures. In the paper each minibatch of particles moves
# by itself, and each particle is, nearly, its own self term: its velocity is T(x) - x, with the barycentric map T to
# the targets of its minibatch. What a network learns of many minibatches is the mean of that. So here new points follow
# this very mean, of 16 minibatches, with no network to blame.

import time

import matplotlib.pyplot as plt
import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import softmax
from sklearn.datasets import load_digits

from nsgf import (
    NSGF,
    SinkhornFlow,
    WFlow,
    metrics,
    plots,
    sinkhorn_velocity,
    spread,
)

rng = np.random.default_rng(0)
seen, unseen = np.array_split(rng.permutation(load_digits().data), 2)
noise = rng.normal(size=(17, 512, 64)) * seen.std(axis=0) + seen.mean(axis=0)
*clouds, z = noise
blur = 0.15 * spread(seen)
targets = [rng.choice(seen, 512, replace=False) for _ in clouds]


def carry(z, y, g):
    """Return the barycentric map of points z to targets y, from the potential g."""
    return softmax((g - cdist(z, y) ** 2 / 2) / blur**2, axis=1) @ y


for _ in range(5):
    ends = []
    for j, (x, y) in enumerate(zip(clouds, targets, strict=True)):
        flow = sinkhorn_velocity(x, y, blur=blur)
        ends.append(carry(z, y, flow.potentials.g))
        clouds[j] = x + flow.v
    z = np.mean(ends, axis=0)  # z + v, with v the mean of T(z) - z

# %%
# Three ways out
# --------------
#
# `NSGF` moves minibatches by what 16 of them say on average, with a self term that keeps the spread, and its network
# learns that. `WFlow` has no flow of particles: two batches of what its network makes are each other's self term.
# `SinkhornFlow` has no network; it keeps one large cloud. `WFlow` is trained for less time than by default, to keep
# the example short.

models = {
    "NSGF": NSGF(random_state=0),
    "WFlow": WFlow(max_iter=600, batch_size=512, random_state=0),
    "SinkhornFlow": SinkhornFlow(random_state=0),
}
made = {"real": seen[:512], "paper's flow": z}
for name, model in models.items():
    start = time.process_time()
    made[name] = model.fit(None, seen).sample(512, random_state=1)
    seconds = time.process_time() - start
    print(f"{name}: {model.n_evaluations} evaluations, fit in {seconds:.0f} s")

# %%
# One picture
# -----------
#
# *Precision* is the part of what is made that lies among real digits, *recall* the part of real digits that lies
# among what is made, and the *deviation* is that of what is made, relative to that of real digits. The dashed line is
# what real digits have beside other real ones. A model that makes the same few digits again and again has a high
# precision and a low recall; one that makes noise, the other way round.


def figures(images):
    """Return precision, recall and relative deviation beside held-out digits."""
    kinds = metrics.precision_recall(unseen[:512], images)
    return kinds.precision, kinds.recall, spread(images) / spread(unseen)


table = {name: figures(images) for name, images in made.items()}
titles, colours = ("precision", "recall", "deviation"), plt.get_cmap("tab10").colors
figure = plt.figure(figsize=(13, 6.4), layout="constrained")
figure.get_layout_engine().set(w_pad=0.12)
top, bottom = figure.subfigures(2, 1, height_ratios=[1.25, 1])
for ax, (name, images) in zip(top.subplots(1, len(made)), made.items(), strict=True):
    plots.plot_images(images[:64].clip(0, 16), (8, 8), n_columns=8, ax=ax)
    ax.set_title(name)
panels = bottom.subplots(1, 3, sharey=True)
names = list(made)[1:]
places, shades = np.arange(len(names))[::-1], colours[3:4] + colours[:3]
columns = zip(panels, titles, zip(*table.values(), strict=True), strict=True)
for ax, title, (floor, *values) in columns:
    ax.hlines(places, floor, values, color=shades, linewidth=3, alpha=0.4)
    ax.scatter(values, places, s=90, color=shades, zorder=3)
    ax.axvline(floor, color="black", linestyle="--", linewidth=1)
    for place, value in zip(places, values, strict=True):
        text = {"textcoords": "offset points", "ha": "center", "va": "bottom"}
        white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.annotate(f"{value:.2f}", (value, place), (0, 9), bbox=white, **text)
    ax.set(title=title, ylim=(-0.6, len(names) - 0.3), yticks=places)
    ax.set_yticklabels(names)
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.12)

# %%
# The mean of minibatches that move by themselves makes digits of which each is plausible, and which are much alike:
# they vary too little, and most kinds of handwriting are missing. The cause is the self term: a particle that is held
# off only by itself is drawn to the mean of all the targets that minibatches might have given it, by a pull that no
# number of minibatches removes (:doc:`/theory`, "The self term"). The others make most kinds. Of `NSGF`, the network
# smooths away some of the spread that its flow keeps; `WFlow` keeps it, in one evaluation.
#
# New digits, or old ones?
# ------------------------
#
# One of the columns is too good. ``copied`` is the part of what is made that lies closer to a digit that was learnt
# from than hardly any new digit does, and ``nearer`` is ½ where what is made lies as far from those as new digits do.

for name in models:
    print(name, metrics.memorisation(made[name], seen, unseen))

# %%
# `SinkhornFlow` has no network that could make anything new: in 64 dimensions a point ends on one of the targets that
# are kept. It transports samples, in seconds and with a certificate of each step, and is no generator.

plt.show()
