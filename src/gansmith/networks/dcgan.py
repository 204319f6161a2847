"""DCGAN's networks (Radford et al. 2016, arXiv 1511.06434), and those of the script that most people know it by.

Weights start as N(0, 0.02^2).
"""

from torch import nn

from gansmith.networks.blocks import FromZ, Scores, Shape, Slope, UpConv, Width, check_multiple, halvings, start_normal
from gansmith.schema import Fraction, PositiveFloat


class Generator(FromZ):
    """z (N, Z) -> images (N, C, H, W) in (-1, 1): a projection, then transposed 4x4 convolutions that double the maps.

    From 4x4, or from the size that H and W come down to by halving (7x7 for 28x28), with twice the maps at half the
    size; BatchNorm and ReLU after all layers but the last. 64x64 with width 128 has the maps of the paper's figure 1,
    whose kernels are 5x5.
    """

    values = "signed"

    def __init__(self, latent_dim: int, shape: Shape, *, width: Width = 128) -> None:
        n = halvings(*shape[1:])
        maps = [width << i for i in reversed(range(n))]
        h, w = shape[1] >> n, shape[2] >> n
        layers = [nn.Linear(latent_dim, maps[0] * h * w), nn.Unflatten(1, (maps[0], h, w))]
        layers += [nn.BatchNorm2d(maps[0]), nn.ReLU(inplace=True)]
        for before, after in zip(maps, maps[1:], strict=False):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after)]
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.ConvTranspose2d(width, shape[0], 4, 2, 1))
        super().__init__(*layers, nn.Tanh())
        start_normal(self, 0.02)


class Discriminator(Scores):
    """Images (N, C, H, W) -> one score each (N,), a logit: 4x4 convolutions halve the maps as G doubles them.

    LeakyReLU, and BatchNorm but after the first and the last layer. The last is the paper's flattening and one sum.
    """

    def __init__(self, shape: Shape, *, width: Width = 128, slope: Slope = 0.2) -> None:
        n = halvings(*shape[1:])
        maps = [width << i for i in range(n)]
        layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 4, 2, 1), nn.LeakyReLU(slope, inplace=True)]
        for before, after in zip(maps, maps[1:], strict=False):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after)]
            layers.append(nn.LeakyReLU(slope, inplace=True))
        last = nn.Linear(maps[-1] * (shape[1] >> n) * (shape[2] >> n), 1)
        super().__init__(*layers, nn.Flatten(), last)
        start_normal(self, 0.02)


class UpsamplingGenerator(FromZ):
    """z (N, Z) -> images (N, C, H, W) in (-1, 1): PyTorch-GAN's `dcgan.py`, 2 `width` maps at a quarter of the size.

    Twice nearest-neighbour doubling and a 3x3 convolution, each one layer here (`UpConv`), BatchNorm, LeakyReLU; then
    a 3x3 convolution to the image. The script's BatchNorm eps of 0.8 was meant as momentum, of 0.2 in torch's terms.
    """

    values = "signed"

    def __init__(
        self,
        latent_dim: int,
        shape: Shape,
        *,
        width: Width = 64,
        slope: Slope = 0.2,
        batchnorm_eps: PositiveFloat = 1e-5,
    ) -> None:
        check_multiple(*shape[1:], 4)
        h, w = shape[1] // 4, shape[2] // 4
        layers = [nn.Linear(latent_dim, 2 * width * h * w), nn.Unflatten(1, (2 * width, h, w))]
        layers.append(nn.BatchNorm2d(2 * width))
        for after in (2 * width, width):
            layers += [UpConv(2 * width, after, bias=False), nn.BatchNorm2d(after, eps=batchnorm_eps)]
            layers.append(nn.LeakyReLU(slope, inplace=True))
        super().__init__(*layers, nn.Conv2d(width, shape[0], 3, 1, 1), nn.Tanh())
        start_normal(self, 0.02)


class DropoutCritic(Scores):
    """Images (N, C, H, W) -> one score each (N,), a logit: PyTorch-GAN's `dcgan.py`, without its sigmoid.

    Four 3x3 convolutions of stride 2, `width` to 8 `width` maps, each with LeakyReLU, dropout of whole maps and, but
    for the first, BatchNorm; then a linear layer.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        width: Width = 16,
        slope: Slope = 0.2,
        dropout: Fraction = 0.25,
        batchnorm_eps: PositiveFloat = 1e-5,
    ) -> None:
        check_multiple(*shape[1:], 16)
        maps = [shape[0], *(width << i for i in range(4))]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip(maps, maps[1:], strict=False)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.LeakyReLU(slope, inplace=True), nn.Dropout2d(dropout)]
            layers += [nn.BatchNorm2d(after, eps=batchnorm_eps)] if i > 0 else []
        last = nn.Linear(maps[-1] * (shape[1] // 16) * (shape[2] // 16), 1)
        super().__init__(*layers, nn.Flatten(), last)
        start_normal(self, 0.02)
