"""Shifts: named changes of 8-bit test images, at stated levels."""
