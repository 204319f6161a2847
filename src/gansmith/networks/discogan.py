"""DiscoGAN's networks: an encoder-decoder and a critic of whole pictures (Kim et al. 2017, arXiv 1703.05192).

Sizes are those of section 3.1 and of the authors' code. The paper's BatchNorm is a normalisation of each picture by
itself here. Legend: N samples, C H W image.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from gansmith.networks.blocks import Shape, check_multiple, conv, up
from gansmith.schema import PositiveInt, Range

Depth = Annotated[int, Range(1, 6)]


def encoder(channels: int, width: int, depth: int) -> tuple[list[nn.Module], list[int]]:
    """(N, C, H, W) -> (N, F, H / 2^depth, W / 2^depth), and how many maps there are after each layer."""
    maps = [channels, *(width << i for i in range(depth))]
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [*conv(maps[i], maps[i + 1], 4, 2, norm=i > 0), nn.LeakyReLU(0.2, inplace=True)]
    return layers, maps


class Translator(nn.Module):
    """Images (N, C, H, W) -> images (N, C, H, W) in (0, 1): `depth` 4x4 convolutions halve, as many transposed double.

    Everything passes through the narrowest maps. `width` maps double with each halving. LeakyReLU 0.2 on the way in,
    ReLU on the way out; neither the first nor the last layer is normalised. Sides are multiples of 2^depth, twice at
    least, because a single pixel cannot be normalised by itself. The paper: width 64, depth 4 or 5, pictures of 64x64.
    """

    values = "unit"

    def __init__(self, shape: Shape, *, width: PositiveInt = 64, depth: Depth = 4) -> None:
        super().__init__()
        self.depth = depth
        check_multiple(*shape[1:], 1 << depth, least=2 << depth)
        layers, maps = encoder(shape[0], width, depth)
        for i in reversed(range(depth)):
            layers += [*up(maps[i + 1], maps[i], 4, norm=i > 0), nn.ReLU(inplace=True) if i > 0 else nn.Sigmoid()]
        self.model = nn.Sequential(*layers)

    def check_size(self, height: int, width: int) -> None:
        """A ValueError that names the nearest (H, W), unless pictures of this size can be translated."""
        check_multiple(height, width, 1 << self.depth, least=2 << self.depth, what="its size")

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Critic(nn.Module):
    """Images (N, C, H, W) -> scores (N,), logits: the translator's encoder, and a linear layer on all that it gives."""

    def __init__(self, shape: Shape, *, width: PositiveInt = 64, depth: Depth = 4) -> None:
        super().__init__()
        check_multiple(*shape[1:], 1 << depth, least=2 << depth)
        layers, maps = encoder(shape[0], width, depth)
        h, w = (side >> depth for side in shape[1:])
        self.model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(maps[-1] * h * w, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).squeeze(1)
