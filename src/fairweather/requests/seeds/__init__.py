"""Runs with different seeds as one run."""
