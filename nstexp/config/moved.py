"""Names of before: where what a `_target_` names is today."""

# Modules that have another name now; configurations with the old one go on working, and are told the new one.
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
    """The name of a class or function today."""
    for old, new in MOVED.items():
        if target.startswith(f"{old}."):
            return new + target.removeprefix(old)
    return target
