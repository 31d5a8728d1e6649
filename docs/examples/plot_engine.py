"""
One large problem, and many small ones
======================================

A velocity needs no network, and few seconds: here of fifty thousand points at once, and of two hundred minibatches, to
see how far a minibatch can be trusted.
"""

import time

import matplotlib.pyplot as plt
import numpy as np

from nsgf import datasets, sinkhorn_velocities, sinkhorn_velocity

rng = np.random.default_rng(0)
x, y = datasets.eight_gaussians(50_000, rng), datasets.moons(50_000, rng)

# %%
# Fifty thousand points
# ---------------------
#
# Far pairs of blocks of points are left out, with a bound on what that costs; the certificate is that of every
# velocity.

begin = time.perf_counter()
large = sinkhorn_velocity(x, y)
print(f"{time.perf_counter() - begin:.1f} s, error {large.error:.0e}, converged: {large.converged}")

# %%
# The result is a field: called on a grid, it gives the velocity there. Streamlines of the first step of the flow, over
# the density of both clouds:

side = np.linspace(-7.0, 7.0, 60)
grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
v = large(grid).reshape(60, 60, 2)

fig, axes = plt.subplots(1, 2, figsize=(9, 4.3), layout="constrained")
for cloud, cmap in ((x, "Blues"), (y, "Oranges")):
    density, *edges = np.histogram2d(*cloud.T, bins=160, range=[[-7, 7]] * 2)
    axes[0].pcolormesh(*edges, np.ma.masked_less(density.T, 1), cmap=cmap, alpha=0.8, rasterized=True)
speed = np.linalg.norm(v, axis=-1)
axes[0].streamplot(side, side, v[..., 0], v[..., 1], color="0.25", density=1.3, linewidth=1.6 * speed / speed.max())
axes[0].set(title="50,000 points: one velocity field", aspect="equal", xticks=[], yticks=[])

# %%
# Two hundred minibatches
# -----------------------
#
# A network learns from minibatches. Each is a problem of its own, with its own certificate; a stack of them is solved
# on all cores, and none waits for another.

draws = rng.integers(len(x), size=(2, 200, 256))
begin = time.perf_counter()
small = sinkhorn_velocities(x[draws[0]], y[draws[1]], blur=large.blur * large.unit)
print(f"{time.perf_counter() - begin:.1f} s, largest error {max(res.error for res in small):.0e}")

# %%
# Their fields differ. The deviation of 200 of them, beside the large problem's speed, is what a minibatch of 256 adds
# by chance; their mean differs from the large problem by the minibatch bias.

fields = np.stack([res(grid) for res in small]).reshape(200, 60, 60, 2)
chance = np.sqrt(np.mean(np.sum((fields - fields.mean(0)) ** 2, axis=-1), axis=0))
bias = np.linalg.norm(fields.mean(0) - v, axis=-1)
for name, z in {"speed": speed, "chance": chance, "bias": bias}.items():
    print(f"root mean square of the {name} over the grid: {np.sqrt(np.mean(z**2)):.2f}")
shown = axes[1].pcolormesh(side, side, chance, cmap="magma", rasterized=True)
axes[1].quiver(*grid[::9].T, *v.reshape(-1, 2)[::9].T, color="w", alpha=0.7, width=0.004)
axes[1].set(title="200 minibatches of 256: deviation of their fields", aspect="equal", xticks=[], yticks=[])
fig.colorbar(shown, ax=axes[1], shrink=0.85)
plt.show()
