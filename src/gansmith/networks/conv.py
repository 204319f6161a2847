"""A small convolutional discriminator for small pictures, after DCGAN's rules (Radford et al. 2016, arXiv 1511.06434).

Strided convolutions in place of pooling, LeakyReLU, BatchNorm (unless `norm` is false) but for the first and the last
layer; one hidden layer of width w, one of 2 w. Legend: N samples, C H W image.
"""

from __future__ import annotations

from torch import Tensor, nn

from gansmith.networks.blocks import Shape, check_multiple, small_critic
from gansmith.schema import NonNegativeFloat, PositiveInt


class Discriminator(nn.Module):
    """Images (N, C, H, W) -> one score each (N,), a logit; H and W multiples of 4."""

    def __init__(
        self, shape: Shape, *, width: PositiveInt = 32, slope: NonNegativeFloat = 0.2, norm: bool = True
    ) -> None:
        super().__init__()
        check_multiple(*shape[1:], 4)
        self.model = small_critic(shape[0], shape, width, slope, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).squeeze(1)
