"""What several tests use: reference formulas, run folders, fake clusters, and what they compare."""
