"""
The collapse, and its cure
==========================

In two dimensions a Sinkhorn flow of minibatches ends where it should. In 64 it can end too early: what is made looks
right, each image by itself, and all of them are too much alike. Here the flow of the paper stands beside three ways
out of that, on digits from noise.
"""

# %%
# Four models
# -----------
#
# Half of the digits is learnt from, the other half is for the figures. With three minibatches, `NSGF` moves each by
# itself, as in the paper: every particle is its own self term. With the default of 32 it moves them by what 16
# minibatches say on average, with a self term that keeps the spread. `WFlow` has no flow of particles: two batches of
# what its network makes are each other's self term. `SinkhornFlow` has no network. The trainings are shorter than by
# default, to keep the example short.

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from nsgf import NSGF, SinkhornFlow, WFlow, metrics, plots, spread

rng = np.random.default_rng(0)
seen, unseen = np.array_split(rng.permutation(load_digits().data), 2)
models = {
    "each minibatch\nby itself": NSGF(n_batches=3, n_steps=5, random_state=0),
    "NSGF": NSGF(max_iter=1000, random_state=0),
    "WFlow": WFlow(max_iter=600, batch_size=512, random_state=0),
    "SinkhornFlow": SinkhornFlow(random_state=0),
}
made = {"real": seen[: len(unseen)]}
for name, model in models.items():
    start = time.process_time()
    made[name] = model.fit(None, seen).sample(len(unseen), random_state=1)
    seconds = time.process_time() - start
    print(f"{' '.join(name.split())}: {model.n_evaluations} evaluations, {seconds:.0f} s")

# %%
# One picture
# -----------
#
# *Precision* is the part of what is made that lies among real digits, *recall* the part of real digits that lies
# among what is made, and the *deviation* is that of what is made, relative to that of real digits. The dashed line is
# what real digits have beside other real ones. A model that makes the same few digits again and again has a high
# precision and a low recall; one that makes noise, the other way round.


def figures(images):
    """Return precision, recall and relative deviation beside the digits that were held out."""
    kinds = metrics.precision_recall(unseen, images)
    return kinds.precision, kinds.recall, spread(images) / spread(unseen)


table = {name: figures(images) for name, images in made.items()}
titles, colours = ("precision", "recall", "deviation"), plt.get_cmap("tab10").colors
figure = plt.figure(figsize=(13, 6.4), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=[1.25, 1])
for ax, (name, images) in zip(top.subplots(1, len(made)), made.items(), strict=True):
    plots.plot_images(images[:64].clip(0, 16), (8, 8), n_columns=8, ax=ax)
    ax.set_title(name)
panels = bottom.subplots(1, 3, sharey=True)
places = np.arange(len(models))[::-1]
for ax, title, (floor, *values) in zip(panels, titles, zip(*table.values(), strict=True), strict=True):
    ax.hlines(places, floor, values, color=colours[: len(models)], linewidth=3, alpha=0.4)
    ax.scatter(values, places, s=90, color=colours[: len(models)], zorder=3)
    ax.axvline(floor, color="black", linestyle="--", linewidth=1)
    for place, value in zip(places, values, strict=True):
        ax.annotate(f"{value:.2f}", (value, place), (0, 9), textcoords="offset points", ha="center")
    ax.set(title=title, ylim=(-0.6, len(models) - 0.3), yticks=places)
    ax.set_yticklabels([" ".join(name.split()) for name in models])
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.12)

# %%
# Minibatches by themselves make digits that are grey and much alike: they vary too little, and most kinds of
# handwriting are missing. W₂ would hardly tell. The cause is the self term: a particle that is held off only by itself
# is drawn to the mean of all the targets that minibatches might have given it, by a pull that no number of minibatches
# removes (:doc:`/theory`, "The self term"). The other three keep the spread. `WFlow` does so in one evaluation.
#
# New digits, or old ones?
# ------------------------
#
# One of the columns is too good. Of new digits, as many lie near to digits that were learnt from as to others, and
# half of them or so are nearer to one that was learnt from. Of copies, all are.

for name in models:
    copied = metrics.memorisation(made[name], seen, unseen)
    print(" ".join(name.split()), copied)

# %%
# `SinkhornFlow` has no network that could make anything new: in 64 dimensions a point ends on one of the targets that
# are kept. It transports samples, in seconds and with a certificate of each step, and is no generator.

plt.show()
