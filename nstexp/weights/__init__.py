"""What nstexp ships: trained networks and the numbers that networks are normalized by. README.md is their card."""

from pathlib import Path

FOLDER = Path(__file__).parent
ADAIN_DECODER = FOLDER / "adain_vgg19.safetensors"  # the decoder of method=adain
LEARNED_STYLES = FOLDER / "cin16.safetensors"  # the network of method=cin
SWIFT = FOLDER / "swift.safetensors"  # the network of method=swift
LPIPS_ALEX = FOLDER / "lpips_alex.safetensors"  # the networks of the measure lpips
FILTER_MEANS = FOLDER / "filter_means"  # layer -> mean activation of each filter, one file for each encoder
