"""Tasks: the labels, strata, stored outputs and units of images."""
