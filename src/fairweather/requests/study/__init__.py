"""Studies: train models with recipes, and measure them under shifts."""
