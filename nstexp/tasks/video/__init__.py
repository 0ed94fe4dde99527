"""A clip in, a stylized clip out."""

from nstexp.tasks.video.task import Settings, video

__all__ = ["Settings", "video"]
