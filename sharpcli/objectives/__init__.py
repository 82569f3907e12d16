"""What one step of training is shown instead of the training loss.

A part is a function `(surface, w, rng, *, ...) -> surface`. It draws its randomness once, from `rng`; the surface it
returns is deterministic, so that two gradients of one step see the same noise.
"""
