"""EBGAN's discriminator: a small auto-encoder that shows its code (Zhao et al. 2017, arXiv 1609.03126, section 2.3)."""

from typing import NamedTuple

from torch import Tensor, nn

from gansmith.networks.blocks import Shape, Width, check_multiple
from gansmith.schema import PositiveInt


class Coded(NamedTuple):
    """What D says of images."""

    reconstruction: Tensor
    """(N, C, H, W)"""
    code: Tensor
    """(N, code): the encoder's output"""


class Autoencoder(nn.Module):
    """Images (N, C, H, W) -> `Coded`: two strided convolutions of `width` and 2 `width` maps, a code, and back; ReLU.

    H and W multiples of 4. Linear output, no normalisation.
    """

    def __init__(self, shape: Shape, *, width: Width = 32, code: PositiveInt = 32) -> None:
        super().__init__()
        channels, h, w = shape[0], shape[1] // 4, shape[2] // 4
        check_multiple(*shape[1:], 4)
        self.encoder = nn.Sequential(
            *(nn.Conv2d(channels, width, 4, 2, 1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU(inplace=True)),
            *(nn.Flatten(), nn.Linear(2 * width * h * w, code)),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(code, 2 * width * h * w), nn.ReLU(inplace=True), nn.Unflatten(1, (2 * width, h, w))),
            *(nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(inplace=True)),
            nn.ConvTranspose2d(width, channels, 4, 2, 1),
        )

    def forward(self, x: Tensor) -> Coded:
        code = self.encoder(x)
        return Coded(self.decoder(code), code)
