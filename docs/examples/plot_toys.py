"""
Eight Gaussians to two moons
============================

A Sinkhorn gradient flow moves a cloud of particles down the Sinkhorn divergence to a target cloud. `NSGF` learns the
velocities of many such clouds, and then moves points that it has never seen. This example learns the flow from eight
Gaussians to two moons, and draws the two things that were learnt: paths and velocities.
"""

# %%
# Fit
# ---
#
# Both samples are arrays of shape (n, 2).

import matplotlib.pyplot as plt
import numpy as np

from nsgf import NSGF, datasets, metrics, plots, sinkhorn_velocity

rng = np.random.default_rng(0)
X_src = datasets.eight_gaussians(4000, rng)
X_tgt = datasets.moons(4000, rng)

model = NSGF(random_state=0).fit(X_src, X_tgt)
print(f"pool {model.history_['pool_seconds']:.1f} s, training {model.history_['train_seconds']:.1f} s")
print({name: f"{value:.2g}" for name, value in model.report_.items()})

# %%
# For the report, 400 rows of each sample were held out. What is made of those of the source has the law of those of the
# target, as far as a test can tell (``"p_value"``), and is as wide (``"width"``). :doc:`plot_report` reads the rest.
#
# Transport new points
# --------------------
#
# `trajectory` returns the positions at every step. Three steps are three evaluations of the network.

X_new = datasets.eight_gaussians(1000, rng)
paths = model.trajectory(X_new)

figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
plots.plot_trajectories(paths[:, :400], X_tgt[:2000], ax=axes[0])
axes[0].set_title("paths of 400 new points")
plots.plot_samples(carried=paths[-1], target=datasets.moons(1000, rng), ax=axes[1])
axes[1].set_title("1000 carried points on 1000 target points")

# %%
# How close are they? Two samples of the target are not at distance zero either, so the figure to compare with is that
# of real samples against other real samples.

y = datasets.moons(1000, rng)
print(f"W2, carried against real: {metrics.wasserstein(paths[-1], y):.3f}")
print(f"W2, real against real:    {metrics.wasserstein(datasets.moons(1000, rng), y):.3f}")

# %%
# The velocity field
# ------------------
#
# No network is needed to know the velocity at a point that is not a particle. The potentials of two clouds define it in
# the whole space, and the result of `sinkhorn_velocity` is callable. On the left is the field in which the flow starts.
# On the right is the field after the first step, near the particles: what remains is the fine structure of the moons.
# The arrows of each panel have their own scale; the long ones lie where there are no particles, and are extrapolations.

cloud, moons = X_new[:512], X_tgt[:512]

figure, axes = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
for ax, title in zip(axes, ("start", "after one step"), strict=True):
    velocity = sinkhorn_velocity(cloud, moons, blur=model.blur_)
    plots.plot_samples(particles=cloud, target=moons, ax=ax)
    plots.plot_velocity_field(velocity, np.quantile(cloud, [0.01, 0.99], axis=0), n=20, ax=ax)
    ax.set_title(f"{title}: root-mean-square velocity {np.sqrt((velocity.v**2).sum(1).mean()):.2f}")
    cloud = cloud + velocity.v

# %%
plt.show()
