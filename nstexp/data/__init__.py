"""Lightning data modules for training: batches of photos, or pairs of photos and style pictures, as random crops."""
