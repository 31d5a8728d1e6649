"""Neural Sinkhorn gradient flows: learn the velocity field that carries one sample to another (arXiv 2401.14069).

Importing this package imports NumPy alone; torch, POT, scikit-learn and matplotlib follow when they are first needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsgf import datasets, diagnostics, metrics, networks, ode, plots
    from nsgf.conditions import Labels, Numbers, Pairs
    from nsgf.estimators import NSGF, NSGFPlusPlus, load
    from nsgf.flow import Trajectory, sinkhorn_flow
    from nsgf.pool import TrajectoryPool
    from nsgf.sinkhorn import Velocity, sinkhorn_divergence, sinkhorn_velocity, spread
    from nsgf.solvers import POT, Potentials, Sinkhorn, Solver
    from nsgf.training import Training

__version__ = "0.1.0"

_HOME = {
    "Labels": "conditions",
    "NSGF": "estimators",
    "NSGFPlusPlus": "estimators",
    "Numbers": "conditions",
    "POT": "solvers",
    "Pairs": "conditions",
    "Potentials": "solvers",
    "Sinkhorn": "solvers",
    "Solver": "solvers",
    "Training": "training",
    "Trajectory": "flow",
    "TrajectoryPool": "pool",
    "Velocity": "sinkhorn",
    "load": "estimators",
    "sinkhorn_divergence": "sinkhorn",
    "sinkhorn_flow": "flow",
    "sinkhorn_velocity": "sinkhorn",
    "spread": "sinkhorn",
}
_MODULES = ("datasets", "diagnostics", "metrics", "networks", "ode", "plots")

__all__ = [
    "NSGF",
    "NSGFPlusPlus",
    "POT",
    "Labels",
    "Numbers",
    "Pairs",
    "Potentials",
    "Sinkhorn",
    "Solver",
    "Training",
    "Trajectory",
    "TrajectoryPool",
    "Velocity",
    "datasets",
    "diagnostics",
    "load",
    "metrics",
    "networks",
    "ode",
    "plots",
    "sinkhorn_divergence",
    "sinkhorn_flow",
    "sinkhorn_velocity",
    "spread",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"nsgf.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"nsgf.{_HOME[name]}"), name)
    raise AttributeError(f"module 'nsgf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
