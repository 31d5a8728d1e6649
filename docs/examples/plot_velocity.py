r"""
A velocity and its certificate
==============================

Every velocity of the library says how wrong it may be. Here we ask for one at many tolerances, and compare the error
that it reports with the true one, against a solve in double precision.
"""

# %%
# Eight gaussians are to become two moons. An arrow goes from a particle to where one full step takes it.

import matplotlib.pyplot as plt
import numpy as np

from nsgf import Sinkhorn, datasets, sinkhorn_velocity

rng = np.random.default_rng(0)
x, y = datasets.eight_gaussians(1500, rng), datasets.moons(1500, rng)
res = sinkhorn_velocity(x, y)
print(f"blur {res.eps**0.5:.2f}, {res.n_iter} iterations, error at most {res.error:.1e}, converged: {res.converged}")

# %%
# The tolerance is the error of the whole velocity, root-mean-square and relative, that a solve may leave. Loose ones
# stay in single precision; tight ones move to double by themselves.

exact = sinkhorn_velocity(x, y, solver=Sinkhorn(tol=1e-10, max_iter=20_000)).v
tolerances = 10.0 ** -np.arange(1, 8)
reported, true = [], []
for tol in tolerances:
    res_tol = sinkhorn_velocity(x, y, solver=Sinkhorn(tol=tol))
    reported.append(res_tol.error)
    true.append(np.linalg.norm(res_tol.v - exact) / np.linalg.norm(exact))
    print(f"tol {tol:.0e}: reported {reported[-1]:.1e}, true {true[-1]:.1e}, {res_tol.potentials.precision}")

# %%
# The true error stays below the line of the tolerance, and what is reported is never far below what is true.

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
some = rng.choice(len(x), 300, replace=False)
left.scatter(*y.T, s=4, color="lightgrey")
left.quiver(*x[some].T, *res.v[some].T, angles="xy", scale_units="xy", scale=1, width=0.003, color="tab:blue")
left.set(title="one step of the flow", aspect="equal")
left.axis("off")
right.loglog(tolerances, tolerances, ":", color="grey", label="tolerance")
right.loglog(tolerances, reported, "o-", label="reported error")
right.loglog(tolerances, true, "s-", label="true error")
right.set(xlabel="tolerance", ylabel="relative error of the velocity")
right.legend(frameon=False)
plt.show()
