"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747) through torchvision, in memory as tensors."""

from pathlib import Path

from sharpcli.data import Dataset, Standardize, with_wrong
from sharpcli.data.images import torchvision_images


def fashion_mnist(
    folder: Path,
    *,
    train_examples: int | None,
    test_examples: int | None,
    standardized: Standardize,
    wrong: int | None,
) -> Dataset:
    """The first `train_examples` training and `test_examples` test images, as in `torchvision_images`;
    `wrong` as in `with_wrong`."""
    images = torchvision_images(folder, "FashionMNIST", train_examples, test_examples, standardized)
    return with_wrong(images, wrong)
