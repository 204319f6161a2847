"""DiscoGAN's networks: an encoder-decoder and a critic of whole pictures (Kim et al. 2017, arXiv 1703.05192).

Sizes are those of section 3.1 and of the authors' code. The paper's BatchNorm is a normalisation of each picture by
itself here.
"""

from typing import Annotated

from torch import Tensor, nn

from gansmith.networks.blocks import AnySize, Scores, Shape, Width, check_multiple, down, up
from gansmith.schema import Range

Depth = Annotated[int, Range(1, 6)]


class Translator(AnySize):
    """Images (N, C, H, W) -> images (N, C, H, W) in (0, 1): `depth` 4x4 convolutions halve, as many transposed double.

    Everything passes through the narrowest maps. `width` maps double with each halving. LeakyReLU 0.2 on the way in,
    ReLU on the way out; neither the first nor the last layer is normalised. Sides are multiples of 2^depth, twice at
    least, because a single pixel cannot be normalised by itself. The paper: width 64, depth 4 or 5, pictures of 64x64.
    """

    values = "unit"

    def __init__(self, shape: Shape, *, width: Width = 64, depth: Depth = 4) -> None:
        super().__init__(shape, 1 << depth, least=2 << depth)
        maps = [shape[0], *(width << i for i in range(depth))]
        layers = down(maps, norm=True)
        for i in reversed(range(depth)):
            layers += [*up(maps[i + 1], maps[i], 4, norm=i > 0), nn.ReLU(inplace=True) if i > 0 else nn.Sigmoid()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Critic(Scores):
    """Images (N, C, H, W) -> scores (N,), logits: the translator's encoder, and a linear layer on all that it gives."""

    def __init__(self, shape: Shape, *, width: Width = 64, depth: Depth = 4) -> None:
        check_multiple(*shape[1:], 1 << depth, least=2 << depth)
        maps = [shape[0], *(width << i for i in range(depth))]
        h, w = (side >> depth for side in shape[1:])
        super().__init__(*down(maps, norm=True), nn.Flatten(), nn.Linear(maps[-1] * h * w, 1))
