"""Functions of a matrix that is known only by its products with vectors; tested on matrices."""
