"""Predictions of models on shifted images."""
