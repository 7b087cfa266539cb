"""Predictions that other programs made."""
