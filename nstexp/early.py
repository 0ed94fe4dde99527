"""What can be refused before torch is imported, which takes seconds: wrong values, and files that are not there."""

from omegaconf import DictConfig

from nstexp.build import check_values, request_of
from nstexp.media.paths import as_list, check_exists


def check(cfg: DictConfig) -> None:
    """Raise a UserError for a command that cannot work, whatever method and task do with it."""
    check_values(cfg)
    request = request_of(cfg)
    for key in ("content", "fine_style", "masks"):
        for spec in as_list(getattr(request, key)):
            check_exists(spec, key)
    # A word may be the name of a style that the network behind `model` has learned; only the network knows.
    if "model" not in cfg.method:
        for spec in as_list(request.style):
            check_exists(spec, "style")
