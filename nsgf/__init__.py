"""Neural Sinkhorn gradient flows: learn the velocity field that carries one sample to another (arXiv 2401.14069).

Importing this package imports NumPy alone; torch, POT, scikit-learn and matplotlib follow when they are first needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `as` exports a name to type checkers
    from nsgf import datasets as datasets
    from nsgf import diagnostics as diagnostics
    from nsgf import metrics as metrics
    from nsgf import networks as networks
    from nsgf import ode as ode
    from nsgf import plots as plots
    from nsgf.conditions import Labels as Labels
    from nsgf.conditions import Numbers as Numbers
    from nsgf.conditions import Pairs as Pairs
    from nsgf.estimators import NSGF as NSGF
    from nsgf.estimators import NSGFPlusPlus as NSGFPlusPlus
    from nsgf.estimators import load as load
    from nsgf.flow import Trajectory as Trajectory
    from nsgf.flow import sinkhorn_flow as sinkhorn_flow
    from nsgf.pool import TrajectoryPool as TrajectoryPool
    from nsgf.sinkhorn import Velocity as Velocity
    from nsgf.sinkhorn import sinkhorn_divergence as sinkhorn_divergence
    from nsgf.sinkhorn import sinkhorn_velocity as sinkhorn_velocity
    from nsgf.sinkhorn import spread as spread
    from nsgf.solvers import POT as POT
    from nsgf.solvers import Potentials as Potentials
    from nsgf.solvers import Sinkhorn as Sinkhorn
    from nsgf.solvers import Solver as Solver
    from nsgf.training import Training as Training

__version__ = "0.2.0.dev0"

_HOME = {
    "conditions": ("Labels", "Numbers", "Pairs"),
    "estimators": ("NSGF", "NSGFPlusPlus", "load"),
    "flow": ("Trajectory", "sinkhorn_flow"),
    "pool": ("TrajectoryPool",),
    "sinkhorn": ("Velocity", "sinkhorn_divergence", "sinkhorn_velocity", "spread"),
    "solvers": ("POT", "Potentials", "Sinkhorn", "Solver"),
    "training": ("Training",),
}
_MODULES = ("datasets", "diagnostics", "metrics", "networks", "ode", "plots")

__all__ = sorted((*_MODULES, *(name for names in _HOME.values() for name in names)))


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"nsgf.{name}")
    for home, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"nsgf.{home}"), name)
    raise AttributeError(f"module 'nsgf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
