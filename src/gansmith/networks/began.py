"""BEGAN's networks (Berthelot et al. 2017, section 3.5 and figure 1): an auto-encoder as D, its decoder's twin as G.

3x3 convolutions with ELU, two per resolution from 8x8 up (from less where the sides are not 8 times a power of two),
nearest-neighbour doubling on the way out, strided halving with linearly growing width on the way in, linear maps to and
from the code; linear output, no normalisation.
"""

from torch import nn

from gansmith.networks.blocks import FromZ, Layers, Shape, Width, check_multiple
from gansmith.schema import PositiveInt


def _levels(shape: Shape) -> tuple[int, int, int]:
    """How many resolutions there are, and (h, w) of the smallest: halved until the shorter side is 8 at most."""
    halvings = max(1, (min(shape[1:]) - 1).bit_length() - 3)
    check_multiple(*shape[1:], 1 << halvings)
    return halvings + 1, shape[1] >> halvings, shape[2] >> halvings


def _conv(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, stride, padding=1), nn.ELU(inplace=True)]


def _decoder(code: int, shape: Shape, width: int) -> nn.Sequential:
    """code (N, code) -> images (N, C, H, W)."""
    levels, h, w = _levels(shape)
    layers: list[nn.Module] = [nn.Linear(code, width * h * w), nn.Unflatten(1, (width, h, w))]
    for level in range(levels):
        layers += [*_conv(width, width), *_conv(width, width)]
        if level < levels - 1:
            layers.append(nn.Upsample(scale_factor=2))
    return nn.Sequential(*layers, nn.Conv2d(width, shape[0], 3, padding=1))


def _encoder(code: int, shape: Shape, width: int) -> nn.Sequential:
    """images (N, C, H, W) -> code (N, code)."""
    levels, h, w = _levels(shape)
    layers, channels = _conv(shape[0], width), width
    for level in range(levels):
        layers += [*_conv(channels, width * (level + 1)), *_conv(width * (level + 1), width * (level + 1))]
        channels = width * (level + 1)
        if level < levels - 1:
            layers += _conv(channels, channels, stride=2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * h * w, code))


class Generator(FromZ):
    """z (N, Z) -> images (N, C, H, W), not bounded; `width` is the paper's n."""

    def __init__(self, latent_dim: int, shape: Shape, *, width: Width = 64) -> None:
        super().__init__(*_decoder(latent_dim, shape, width))


class Autoencoder(Layers):
    """Images (N, C, H, W) -> their reconstructions (N, C, H, W); `code` is the paper's N_h."""

    def __init__(self, shape: Shape, *, width: Width = 64, code: PositiveInt = 64) -> None:
        super().__init__(*_encoder(code, shape, width), *_decoder(code, shape, width))
