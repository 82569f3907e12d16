"""Loss and accuracy on the whole training and test sets, and the errors that a toy defines."""

from __future__ import annotations

from sharpcli.measures import Estimates, Point


def scores(at: Point) -> Estimates:
    """The problem's scores at w, over all examples of the training and the test set, whatever
    `measure_examples` says.

    Columns:
        train_loss [loss, exact]: L(w), the mean loss over the training examples
        test_loss [loss, exact]: networks: the mean loss over the test examples
        train_accuracy [-, exact]: networks with classes: the share of training examples whose largest output
            is that of their class
        test_accuracy [-, exact]: networks with classes: the same share of test examples; teacher and xor: the
            share of 2,000 test inputs at which the output has the sign of the label
        test_error [-, exact]: teacher and xor: the mean squared error on 2,000 test inputs over the variance
            of their labels
        recovery_error [-, exact]: uv, hadamard, squares: |b - beta|^2 / |beta|^2, b = u*u - v*v, u*v or v*v
            and beta the truth; matrix problems: |X - X*|_F / |X*|_F, X the product of the weight matrices and
            X* the truth
        interpolator_error [-, exact]: least_squares: |w - p| / |p|, p the interpolator nearest to the start,
            where gradient descent ends
        min_norm_error [-, exact]: least_squares: |w - p| / |p|, p the interpolator of least norm
        distance [weight, exact]: quadratic: |w|, the distance from the critical point 0
        u [weight, exact]: valley, quartic, two_well: the first weight
        v [weight, exact]: valley, quartic, two_well, self_stabilization: the second weight
        sharpness_along_v [loss/weight^2, exact]: self_stabilization: S(u), the second derivative along v
    """
    return Estimates(dict(at.problem.scores(at.w)))
