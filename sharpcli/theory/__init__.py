"""Closed forms and oracles: what measurements are judged against. NumPy and SciPy only, and nothing of the
laboratory, so that a mistake there cannot hide here."""
