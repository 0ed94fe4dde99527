"""Words that several floors of the house share. Nothing here imports torch: a wrong command is refused at once."""

from typing import Literal

IMAGE = "image"  # the name under which a picture itself travels with its features
Combine = Literal["weighted_loss", "mean_gram", "sum_gram"]  # how several styles become one loss: `LossSet.combined`
Norm = Literal["instance", "batch", "conditional"]  # of a network that learns styles: `make_norm`
Propagation = Literal["simple", "inside", "all"]  # what a mask becomes at deeper layers: `masks.guides`
FlowName = Literal["dis", "dis_fast", "raft"]  # what finds the motion in a clip: `MotionEstimator`
Reader = Literal["auto", "decord", "av"]  # what decodes a clip: `read_frames`
Precision = Literal["auto", "fp32", "bf16"]  # number format of features and filters: `encoder_dtype`
