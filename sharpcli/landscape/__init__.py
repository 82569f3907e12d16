"""The loss as a function of one flat weight vector w [D]: its value, gradient and products with its curvature
(`surface`, `curvature`, `compiled_products`, `distributed`), its minimizers (`interpolators`) and flows on it
(`flows`)."""
