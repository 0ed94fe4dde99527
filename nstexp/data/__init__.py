"""Lightning data modules: pairs of a content crop and a style crop for training feed-forward networks."""
