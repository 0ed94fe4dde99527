"""Names that several packages of nstexp share.

This module does not import torch, so that a wrong command fails at once.
"""

from typing import Literal

IMAGE = "image"  # name of the picture itself among its features
Combine = Literal["weighted_loss", "mean_gram", "sum_gram"]  # combination of several styles: `LossSet.combined`
Norm = Literal["instance", "batch", "conditional"]  # normalization of a generator: `make_norm`
Propagation = Literal["simple", "inside", "all"]  # propagation of a mask to deeper layers: `masks.guides`
FlowName = Literal["dis", "dis_fast", "raft"]  # optical flow of a clip: `MotionEstimator`
Reader = Literal["auto", "decord", "av"]  # decoder of a clip: `read_frames`
Precision = Literal["auto", "fp32", "bf16"]  # number format of features and filters: `encoder_dtype`
