"""Neural Sinkhorn gradient flows: learn the velocity field that carries one sample to another (arXiv 2401.14069).

Importing this package imports nothing more; NumPy, torch, POT, scikit-learn and matplotlib follow when first needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `as` exports a name to type checkers
    from nsgf import (
        datasets as datasets,
        diagnostics as diagnostics,
        metrics as metrics,
        networks as networks,
        ode as ode,
        plots as plots,
    )
    from nsgf.conditions import Labels as Labels, Numbers as Numbers, Pairs as Pairs
    from nsgf.estimators import (
        NSGF as NSGF,
        NSGFPlusPlus as NSGFPlusPlus,
        SinkhornFlow as SinkhornFlow,
        WFlow as WFlow,
        load as load,
    )
    from nsgf.flow import Trajectory as Trajectory, sinkhorn_flow as sinkhorn_flow
    from nsgf.pool import TrajectoryPool as TrajectoryPool
    from nsgf.sinkhorn import (
        Divergence as Divergence,
        Velocity as Velocity,
        sinkhorn_divergence as sinkhorn_divergence,
        sinkhorn_velocity as sinkhorn_velocity,
        spread as spread,
    )
    from nsgf.solvers import POT as POT, Potentials as Potentials, Sinkhorn as Sinkhorn, Solver as Solver
    from nsgf.stacks import sinkhorn_velocities as sinkhorn_velocities
    from nsgf.training import Training as Training

__version__ = "0.2.0.dev0"

_HOME = {
    "conditions": ("Labels", "Numbers", "Pairs"),
    "estimators": ("NSGF", "NSGFPlusPlus", "SinkhornFlow", "WFlow", "load"),
    "flow": ("Trajectory", "sinkhorn_flow"),
    "pool": ("TrajectoryPool",),
    "sinkhorn": ("Divergence", "Velocity", "sinkhorn_divergence", "sinkhorn_velocity", "spread"),
    "solvers": ("POT", "Potentials", "Sinkhorn", "Solver"),
    "stacks": ("sinkhorn_velocities",),
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
