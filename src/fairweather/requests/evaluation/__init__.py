"""Evaluations of models and of given predictions."""
