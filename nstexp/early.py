"""What can be refused before torch is imported, which takes seconds: wrong values, and files that are not there."""

from omegaconf import DictConfig

from nstexp.build import check_values, request_of


def check(cfg: DictConfig) -> None:
    """Raise a UserError for a command that cannot work, whatever method and task do with it."""
    check_values(cfg)
    request = request_of(cfg)
