"""Pre-training without labels, or with labels as a comparison: views, losses, methods, loop."""
