"""`task=video`: stylize a clip frame by frame."""

from nstexp.tasks.video.task import video
from nstexp.tasks.video_settings import Settings

__all__ = ["Settings", "video"]
