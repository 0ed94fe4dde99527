"""Plain torch, torchvision and PIL: the part of nstexp that a notebook imports. Knows no Hydra, Lightning or W&B."""
