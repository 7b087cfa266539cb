"""Adversarial attacks: small changes of each image, within a budget, that make the model fail."""
