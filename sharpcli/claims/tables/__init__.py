"""Rows that claims judge where no training run is needed: closed forms over many instances. A part is a
function `(*, ...) -> rows`, kept on disk once computed. Sees no torch."""
