"""nstexp: configuration-driven experiments with neural style transfer."""

__version__ = "0.1.0"
