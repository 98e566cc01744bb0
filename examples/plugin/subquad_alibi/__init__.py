"""Sliding windows with linear distance biases, as a plugin for subquad."""
