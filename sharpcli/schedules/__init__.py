"""Learning-rate schedules. A part is a function `(step, steps, lr, *, ...) -> float`."""
