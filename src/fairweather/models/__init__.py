"""Models from any source: networks, files, packages, and predictions of other programs."""
