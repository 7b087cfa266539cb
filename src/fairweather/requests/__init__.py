"""Requests: a study, an evaluation, or runs to join as seeds."""
