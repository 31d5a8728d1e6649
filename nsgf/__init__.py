"""Neural Sinkhorn gradient flows: learn the velocity field that carries one sample to another (arXiv 2401.14069).

Importing this package imports NumPy alone; torch, POT, scikit-learn and matplotlib follow when they are first needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsgf import datasets, metrics, networks, ode, plots
    from nsgf.estimator import NSGF, NSGFPlusPlus
    from nsgf.flow import Trajectory, TrajectoryPool, sinkhorn_flow
    from nsgf.sinkhorn import Velocity, sinkhorn_divergence, sinkhorn_velocity
    from nsgf.solvers import POT, Potentials, Sinkhorn
    from nsgf.training import Training

__version__ = "0.1.0"

_HOME = {
    "NSGF": "estimator",
    "NSGFPlusPlus": "estimator",
    "POT": "solvers",
    "Potentials": "solvers",
    "Sinkhorn": "solvers",
    "Training": "training",
    "Trajectory": "flow",
    "TrajectoryPool": "flow",
    "Velocity": "sinkhorn",
    "sinkhorn_divergence": "sinkhorn",
    "sinkhorn_flow": "flow",
    "sinkhorn_velocity": "sinkhorn",
}
_MODULES = ("datasets", "metrics", "networks", "ode", "plots")

__all__ = [  # noqa: RUF022
    "NSGF",
    "NSGFPlusPlus",
    "POT",
    "Potentials",
    "Sinkhorn",
    "Training",
    "Trajectory",
    "TrajectoryPool",
    "Velocity",
    "datasets",
    "metrics",
    "networks",
    "ode",
    "plots",
    "sinkhorn_divergence",
    "sinkhorn_flow",
    "sinkhorn_velocity",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"nsgf.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"nsgf.{_HOME[name]}"), name)
    raise AttributeError(f"module 'nsgf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
