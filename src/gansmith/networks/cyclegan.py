"""CycleGAN's translator (Zhu et al. 2017, arXiv 1703.10593, appendix 7.2); its critics are `blocks.PatchCritic`."""

from torch import Tensor, nn

from gansmith.networks.blocks import AnySize, Residual, Shape, Width, conv, start_normal, up
from gansmith.schema import PositiveInt


class Translator(AnySize):
    """Images (N, C, H, W) -> images (N, C, H, W) in (-1, 1), of any size whose sides are multiples of 4, at least 8.

    In the paper's words, for width 64: c7s1-64, d128, d256, R256 `blocks` times (6 for 128x128, 9 from 256x256 on),
    u128, u64, c7s1-C. Each layer but the last is normalised per picture, with a ReLU; reflected borders wherever the
    size stays. Weights start as N(0, 0.02^2).
    """

    values = "signed"

    def __init__(self, shape: Shape, *, width: Width = 64, blocks: PositiveInt = 6) -> None:
        super().__init__(shape, 4, least=8)
        self.model = nn.Sequential(
            *(*conv(shape[0], width, 7, reflect=True), nn.ReLU(inplace=True)),
            *(*conv(width, 2 * width, 3, 2), nn.ReLU(inplace=True)),
            *(*conv(2 * width, 4 * width, 3, 2), nn.ReLU(inplace=True)),
            *(Residual(4 * width) for _ in range(blocks)),
            *(*up(4 * width, 2 * width, 3), nn.ReLU(inplace=True)),
            *(*up(2 * width, width, 3), nn.ReLU(inplace=True)),
            *(*conv(width, shape[0], 7, norm=False, reflect=True), nn.Tanh()),
        )
        start_normal(self, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)
