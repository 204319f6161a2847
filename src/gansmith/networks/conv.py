"""A small convolutional discriminator for small pictures, after DCGAN's rules (Radford et al. 2016, arXiv 1511.06434).

Strided convolutions in place of pooling, LeakyReLU, BatchNorm but for the first and the last layer; one hidden layer of
width w, one of 2 w. Legend: N samples, C H W image.
"""

from __future__ import annotations

from torch import Tensor, nn

from gansmith.schema import NonNegativeFloat, PositiveInt

Shape = tuple[int, int, int]
"""(C, H, W)"""


class Discriminator(nn.Module):
    """Images (N, C, H, W) -> one score each (N,), a logit; H a multiple of 4."""

    def __init__(self, shape: Shape, *, width: PositiveInt = 32, slope: NonNegativeFloat = 0.2) -> None:
        super().__init__()
        channels, side, _ = shape
        if side % 4 or side < 4:
            nearest = max(4, 4 * round(side / 4))
            raise ValueError(f"img_size is {side}; it must be a multiple of 4; the nearest is {nearest}")
        self.model = nn.Sequential(
            *(nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(slope, inplace=True)),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),  # BatchNorm has the bias
            *(nn.BatchNorm2d(2 * width), nn.LeakyReLU(slope, inplace=True)),
            *(nn.Flatten(), nn.Linear(2 * width * (side // 4) ** 2, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).squeeze(1)
