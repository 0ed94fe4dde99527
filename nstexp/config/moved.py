"""Old names of modules in a `_target_`, and their current names."""

# Configurations with an old name still work; a warning tells the new name.
MOVED = {
    "nstexp.core.features": "nstexp.core.networks.vgg",
    "nstexp.core.pretrained": "nstexp.core.networks.pretrained",
    "nstexp.core.generators": "nstexp.core.networks.generators",
    "nstexp.core.metrics": "nstexp.core.measures",
    "nstexp.core.lbfgs": "nstexp.core.optim.lbfgs",
    "nstexp.core.muon": "nstexp.core.optim.muon",
    "nstexp.core.schedules": "nstexp.core.optim.schedules",
    "nstexp.hooks": "nstexp.sweeps.hooks",
}


def moved(target: str) -> str:
    """The current name of a class or function."""
    for old, new in MOVED.items():
        if target.startswith(f"{old}."):
            return new + target.removeprefix(old)
    return target
