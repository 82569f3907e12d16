"""Losses. A part is a function `(outputs [n, C], targets [n, C]) -> scalar`, the mean over the n examples."""
