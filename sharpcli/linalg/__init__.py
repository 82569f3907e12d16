"""Numerical methods that know a symmetric matrix A only by its products with vectors: extreme eigenpairs
(`lanczos`), traces (`trace`) and integrals over the spectrum (`quadrature`). Beside them, gradient ascent
over a ball or a box (`ascent`) and small semidefinite programs (`semidefinite`). All are tested on explicit
matrices."""
