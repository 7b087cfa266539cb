"""What is to be told of each image: labels, strata, stored outputs and units."""
