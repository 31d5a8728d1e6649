"""
Cells that differentiate, and AnnData
=====================================

A time course of single cells is a few snapshots of a population: each cell is measured once, since measuring it kills
it. `NSGF` learns one field through all snapshots, which says where a cell is likely to go, what the population looks
like between two measurements, and, with labels, what a cell of a given type looks like.

`nsgf` knows nothing of AnnData, and need not: an embedding in ``adata.obsm`` is an array, and so is what comes back.
The cells here are *simulated*, so that this page can be built anywhere and the truth is known; the benchmark page on
cells has measured ones.
"""

# %%
# A branching population
# ----------------------
#
# From about the first day on, progenitors turn to one of two fates. There are 240 genes: some follow the
# progress of a cell, some its fate, some its place in the cell cycle, and the counts are Poisson. What an ordinary
# pipeline does comes next: normalise, take the logarithm, and keep ten principal components.

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from nsgf import NSGF, Training, metrics, plots

rng = np.random.default_rng(0)
days = np.repeat([0.0, 1.0, 2.0, 3.0], 300)
progress = (days + rng.normal(scale=0.35, size=len(days))).clip(0)  # cells of one day are not in step
fate = rng.choice([-1.0, 1.0], size=len(days), p=[0.4, 0.6])
commitment = fate * (progress - 0.8).clip(0) * rng.uniform(0.8, 1.2, size=len(days))
phase = rng.uniform(0, 2 * np.pi, size=len(days))
latent = np.stack([progress, commitment, 0.3 * np.cos(phase), 0.3 * np.sin(phase)], axis=1)  # (1200, 4)

n_genes = 240
weights = rng.normal(size=(4, n_genes)) * (rng.uniform(size=(4, n_genes)) < 0.3)
rate = np.exp(rng.normal(1.0, 0.7, size=n_genes) + 0.6 * latent @ weights)
counts = rng.poisson(rate * rng.lognormal(sigma=0.2, size=(len(days), 1)))
expression = np.log1p(counts / counts.sum(axis=1, keepdims=True) * np.median(counts.sum(axis=1)))

types = np.where(progress < 1.2, "progenitor", np.where(fate > 0, "fate A", "fate B"))
adata = anndata.AnnData(
    expression.astype(np.float32),
    obs=pd.DataFrame({"day": days, "type": types}, index=[f"cell {i}" for i in range(len(days))]),
)
adata.obsm["X_pca"] = PCA(10, random_state=0).fit(expression[days != 2]).transform(expression)
print(adata)

# %%
# A field through the snapshots
# -----------------------------
#
# A dictionary from times to cells is a time course. Day 2 is held out: neither the field nor the components have seen
# it.

X, day = adata.obsm["X_pca"], adata.obs["day"].to_numpy()
training = Training(learning_rate=2e-3)
settings = {"n_steps": 8, "n_batches": 16, "max_iter": 1000, "training": training, "random_state": 0}
model = NSGF(batch_size=150, **settings).fit({t: X[day == t] for t in (0.0, 1.0, 3.0)})
print({name: f"{value:.2g}" for name, value in model.report_.items()})

# %%
# The day that was held out
# -------------------------
#
# Cells of day 1 are carried to day 2. The first row is the floor, the two halves of the real day; the second is what we
# are after. W₂ is in the units of the components.

real, carried = X[day == 2], model.transform(X[day == 1], t0=1.0, t1=2.0)
candidates = {"real, other half": real[150:], "carried to day 2": carried, "day 1": X[day == 1], "day 3": X[day == 3]}
for name, cells in candidates.items():
    print(f"{name}: W2 {metrics.wasserstein(cells[:150], real[:150]):.2f}, MMD {metrics.mmd(cells, real[:150]):.3f}")

# %%
# Fates
# -----
#
# Every cell is carried from its own day to the last, and its end is written beside its embedding: that is all there is
# to the AnnData route. The nearest cells of the last day then say which fate a cell is bound for.

adata.obsm["X_nsgf"] = X.copy()  # cells of the last day stay where they are
for t in (0.0, 1.0, 2.0):
    adata.obsm["X_nsgf"][day == t] = model.transform(X[day == t], t0=t)

last = (day == 3) & (adata.obs["type"] != "progenitor")
nearest = KNeighborsClassifier(15).fit(X[last], adata.obs["type"][last])
adata.obs["bound_for"] = nearest.predict(adata.obsm["X_nsgf"])
truth = np.where(fate > 0, "fate A", "fate B")
for t in (0.0, 1.0, 2.0):
    right = adata.obs["bound_for"][day == t] == truth[day == t]
    print(f"day {t:g}: the fate is right for {right.mean():.0%} of the cells")

# %%
# On day 0 nothing in the genes tells the fate of a cell, and the field is right as often as a coin would be; on day 1
# many cells have begun to commit, and it follows them. That a guess looks as sure in the picture below as knowledge is
# a trait of every deterministic flow: before a branching, trust the shares of the fates, not the fate of one cell.
# The real day 2 lies outside the carried cells on the bend: between two snapshots the field goes straight.

paths = model.trajectory(X[day == 0])  # (17, 300, 10)
bound = adata.obs["bound_for"][day == 0].to_numpy()

figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained", sharex=True, sharey=True)
points = axes[0, 0].scatter(*X[:, :2].T, s=6, c=day)
figure.colorbar(points, ax=axes[0, 0], label="day", ticks=[0, 1, 2, 3])
plots.plot_samples(**{"day 2, held out": real, "carried from day 1": carried}, ax=axes[0, 1])
for ax, name in zip(axes[1], ("fate A", "fate B"), strict=True):
    plots.plot_trajectories(paths[:, bound == name], X, ax=ax)
titles = ("measured cells", "a day that the model never saw", "bound for fate A", "bound for fate B")
for ax, title in zip(axes.flat, titles, strict=True):
    ax.set(title=title, xlabel="PC 1", ylabel="PC 2")
for ax in axes.flat[1:]:
    ax.legend(loc="lower left", markerscale=3)

# %%
# Cells of a type
# ---------------
#
# With labels and no source, noise becomes cells of the type that is asked for. They are new cells in the space of the
# components, which `inverse_transform` of the PCA would take back to genes.

labelled = NSGF(batch_size=600, **settings).fit(None, X, y_tgt=adata.obs["type"])

# %%
# The warning is about the smaller components. Within a type they hold little but the noise of the counts, finer than
# the blur, and come out narrower than they were measured; the two that are drawn are right. Where the smaller ones
# matter, ``encoder=StandardScaler()`` gives all components one unit, at the cost of the larger.

judge = KNeighborsClassifier(15).fit(X, adata.obs["type"])
figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained", sharex=True, sharey=True)
for ax, name in zip(axes, labelled.classes_, strict=True):
    made, measured = labelled.sample(200, random_state=1, y=name), X[adata.obs["type"] == name]
    plots.plot_samples(measured=measured, made=made, ax=ax)
    ax.set(xlabel="PC 1", ylabel="PC 2", title=f"{name}: {np.mean(judge.predict(made) == name):.0%} judged right")
    ax.legend(loc="lower left", markerscale=3)

plt.show()
