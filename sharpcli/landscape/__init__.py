"""The loss as a function of one flat weight vector w: values, gradients, products with its curvature, its
minimizers."""
