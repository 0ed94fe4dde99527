"""A clip in, a stylized clip out."""

from nstexp.tasks.video.settings import Settings
from nstexp.tasks.video.task import video

__all__ = ["Settings", "video"]
