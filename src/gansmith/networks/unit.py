"""UNIT's networks: encoders, the layers that both domains share, decoders, critics (Liu et al. 2017, 1703.00848).

Sizes and layers are those of the authors' code of that year (github.com/mingyuliutw/UNIT, branch version_02). Weights
start as N(0, 0.02^2). Legend: K = 4 width maps.
"""

from torch import Tensor, nn

from gansmith.networks.blocks import AnySize, Residual, Scores, Shape, Width, at_least, conv, down, start_normal, up
from gansmith.schema import NonNegativeInt, PositiveInt


class Encoder(AnySize):
    """Images (N, C, H, W) -> maps (N, K, H / 4, W / 4): two halvings, then residual blocks of one domain alone."""

    def __init__(self, shape: Shape, *, width: Width = 64, blocks: NonNegativeInt = 3) -> None:
        super().__init__(shape, 4, least=8)
        self.model = nn.Sequential(
            *(*conv(shape[0], width, 7, norm=False), nn.LeakyReLU(inplace=True)),
            *down([width, 2 * width, 4 * width], 3, slope=0.01),
            *(Residual(4 * width) for _ in range(blocks)),
        )
        start_normal(self, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Shared(nn.Module):
    """Maps (N, K, h, w) and noise of that shape -> (mu, maps): a code's mean, and what is decoded from mu + noise.

    The last `blocks` residual blocks of both encoders and the first of both decoders. Without noise, from mu.
    """

    def __init__(self, *, width: Width = 64, blocks: PositiveInt = 1) -> None:
        super().__init__()
        self.encode, self.decode = (nn.Sequential(*(Residual(4 * width) for _ in range(blocks))) for _ in range(2))
        start_normal(self, 0.02)

    def forward(self, maps: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mu = self.encode(maps)
        return mu, self.decode(mu if noise is None else mu + noise)


class Decoder(nn.Module):
    """Maps (N, K, h, w) -> images (N, C, 4 h, 4 w) in (-1, 1): residual blocks of one domain alone, two doublings."""

    values = "signed"

    def __init__(self, shape: Shape, *, width: Width = 64, blocks: NonNegativeInt = 3) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *(Residual(4 * width) for _ in range(blocks)),
            *(*up(4 * width, 2 * width, 3, norm=False), nn.LeakyReLU(inplace=True)),
            *(*up(2 * width, width, 3, norm=False), nn.LeakyReLU(inplace=True)),
            *(*conv(width, shape[0], 1, norm=False), nn.Tanh()),
        )
        start_normal(self, 0.02)

    def forward(self, maps: Tensor) -> Tensor:
        return self.model(maps)


class Critic(Scores):
    """Images (N, C, H, W) -> a map of scores (N, h, w), logits: `layers` halvings by 3x3 convolutions, not normalised.

    `width` maps, doubled by each layer.
    """

    def __init__(self, shape: Shape, *, width: Width = 64, layers: PositiveInt = 6) -> None:
        at_least(shape, 1 << layers, f" with {layers} layers")
        maps = [shape[0], *(width << i for i in range(layers))]
        super().__init__(*down(maps, 3, slope=0.01), *conv(maps[-1], 1, 1, norm=False))
        start_normal(self, 0.02)
