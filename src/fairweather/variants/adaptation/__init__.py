"""Methods that adapt a network to test images, one file each."""
