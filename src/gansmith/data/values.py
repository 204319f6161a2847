"""What a network sees of the bytes of a picture, and how its output becomes pixels again. A table, like the others."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gansmith.errors import UserError

GCN_SCALE = 55.0


class Values(NamedTuple):
    """Two functions of images (N, C, H, W), between bytes, what the networks see, and pixels in [0, 1]."""

    to_network: Callable[[Tensor], Tensor]  # of a float tensor of bytes, 0 to 255, which it may overwrite
    to_unit: Callable[[Tensor], Tensor]  # what G makes beyond the range is clamped


def signed(x: Tensor) -> Tensor:
    """x / 127.5 - 1, in [-1, 1]: for a G that ends in tanh."""
    return x.div_(_exact(127.5, x)).sub_(1)


def unit(x: Tensor) -> Tensor:
    """x / 255, in [0, 1]: for a G that ends in a sigmoid."""
    return x.div_(_exact(255.0, x))


def gcn(x: Tensor) -> Tensor:
    """55 (x - mean) / |x - mean| per image: the global contrast normalisation of the 2014 paper's CIFAR-10.

    Mean and norm are over all C H W values. An image of one colour becomes zeros. For a G with a linear output.
    """
    x = x - x.mean((1, 2, 3), keepdim=True)
    norm = x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return x.mul_(GCN_SCALE).div_(torch.where(norm < 1e-8, 1.0, norm))


def gcn_to_unit(x: Tensor) -> Tensor:
    """(x / max |x| + 1) / 2 per image: normalised contrast cannot be undone, so zero is shown as middle grey."""
    largest = x.abs().amax((1, 2, 3), keepdim=True)
    return (x / torch.where(largest < 1e-8, 1.0, largest) + 1) / 2


def no_pixels(x: Tensor) -> Tensor:
    raise UserError(
        "this generator makes numbers, not pictures: gansmith figure density RUN draws them, or, of points, sample RUN"
    )


def _exact(number: float, like: Tensor) -> Tensor:
    # A tensor, for CUDA divides by a plain number through its reciprocal, which rounds differently.
    return torch.full((), number, dtype=like.dtype, device=like.device)


VALUES: dict[str, Values] = {
    "signed": Values(signed, lambda x: (x + 1).div_(2).clamp_(0, 1)),
    "unit": Values(unit, lambda x: x.clamp(0, 1)),
    "gcn": Values(gcn, gcn_to_unit),
    "raw": Values(lambda x: x, no_pixels),
}
