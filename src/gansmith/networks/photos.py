"""Networks for one's own pictures of any multiple of 4: DCGAN's, but for the way up, with at most `most` maps.

Maps double where the size halves.
"""

from torch import Tensor, nn

from gansmith.networks.blocks import FromZ, Scores, Shape, UpConv, Width, check_multiple, halvings
from gansmith.networks.perceptual import SqueezeNetFeatures, Values


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

    def __init__(self, shape: Shape, *, width: Width = 32, most: Width = 256) -> None:
        maps = [min(width << i, most) for i in range(halvings(*shape[1:]))]
        layers: list[nn.Module] = [nn.Conv2d(shape[0], maps[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for before, after in zip(maps, maps[1:], strict=False):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after)]
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        h, w = (side >> len(maps) for side in shape[1:])
        super().__init__(*layers, nn.Flatten(), nn.Linear(maps[-1] * h * w, 1))


class AidedCritic(nn.Module):
    """Images (N, C, H, W) -> three scores (N,): of `Critic`, and of two heads on features of a frozen network.

    The features are SqueezeNet's at an eighth and at a sixteenth of H and W; a head is convolutions of `head` maps
    until the shorter side has at most 4 pixels, then a linear layer. ValueError for sides that are no multiples of 4 or
    under 16, and for 2 or 4 channels. Source: Kumari et al. 2022 (arXiv 2112.09130), with one small network.
    """

    def __init__(
        self,
        shape: Shape,
        values: Values,
        *,
        width: Width = 16,
        most: Width = 128,
        head: Width = 64,
        file: str | None = None,
    ) -> None:
        super().__init__()
        check_multiple(*shape[1:], 4, least=16)
        if shape[0] not in (1, 3):
            raise ValueError(
                f"data.channels is {shape[0]}; SqueezeNet looks at 1 or 3; --networks.D.name photo_critic takes 4"
            )
        self.pixels = Critic(shape, width=width, most=most)
        self.features = SqueezeNetFeatures(shape, file=file, values=values)
        _, _, eighth, sixteenth = self.features.MAPS
        h, w = shape[1:]
        self.heads = nn.ModuleList((_head(eighth, head, h // 8, w // 8), _head(sixteenth, head, h // 16, w // 16)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        seen = self.features(x)[2:]
        return self.pixels(x), *(head(maps) for head, maps in zip(self.heads, seen, strict=True))


def _head(before: int, maps: int, h: int, w: int) -> Scores:
    """Features (N, before, h, w) -> scores (N,). Maps of one pixel have no BatchNorm: one sample has no variance."""
    norm = h * w > 1
    layers: list[nn.Module] = [nn.Conv2d(before, maps, 1, bias=not norm)]
    while min(h, w) > 4:
        layers += [nn.BatchNorm2d(maps), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(maps, maps, 4, 2, 1, bias=False)]
        h, w = h // 2, w // 2
    layers += [*([nn.BatchNorm2d(maps)] if norm else []), nn.LeakyReLU(0.2, inplace=True)]
    return Scores(*layers, nn.Flatten(), nn.Linear(maps * h * w, 1))
