"""Closed forms and oracles that measurements are judged against. They use NumPy and SciPy and no other room
of this package, so that a mistake in another room cannot hide here."""
