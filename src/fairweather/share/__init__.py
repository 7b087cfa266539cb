"""Hand results on: exported corrupted images, and runs in a tracker."""
