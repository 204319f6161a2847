"""Networks for one's own pictures of any multiple of 4: DCGAN's, but for the way up, with at most `most` maps.

Maps double where the size halves.
"""

from torch import nn

from gansmith.networks.blocks import FromZ, Scores, Shape, UpConv, Width, halvings


class Generator(FromZ):
    """z (N, Z) -> images (N, C, H, W) in (-1, 1): doublings that copy pixels, 3x3 convolutions, BatchNorm, ReLU.

    Without the checkerboards of transposed convolutions: Odena et al. 2016 (doi 10.23915/distill.00003). `smooth`: a
    last convolution at full size, which takes a third of the time; otherwise the last doubling makes the image.
    """

    values = "signed"

    def __init__(
        self, latent_dim: int, shape: Shape, *, width: Width = 32, most: Width = 256, smooth: bool = True
    ) -> None:
        doublings = halvings(*shape[1:])
        maps = [min(width << i, most) for i in range(doublings + smooth)][::-1]
        h, w = (side >> doublings for side in shape[1:])
        layers = [nn.Linear(latent_dim, maps[0] * h * w), nn.Unflatten(1, (maps[0], h, w))]
        layers += [nn.BatchNorm2d(maps[0]), nn.ReLU(inplace=True)]
        for before, after in zip(maps, maps[1:], strict=False):
            layers += [UpConv(before, after, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        last = nn.Conv2d(maps[-1], shape[0], 3, 1, 1) if smooth else UpConv(maps[-1], shape[0])
        super().__init__(*layers, last, nn.Tanh())


class Critic(Scores):
    """Images (N, C, H, W) -> scores (N,): 4x4 convolutions of stride 2, LeakyReLU 0.2, BatchNorm after all but one."""

    def __init__(self, shape: Shape, *, width: Width = 64, most: Width = 256) -> None:
        maps = [min(width << i, most) for i in range(halvings(*shape[1:]))]
        layers: list[nn.Module] = [nn.Conv2d(shape[0], maps[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for before, after in zip(maps, maps[1:], strict=False):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after)]
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        h, w = (side >> len(maps) for side in shape[1:])
        super().__init__(*layers, nn.Flatten(), nn.Linear(maps[-1] * h * w, 1))
