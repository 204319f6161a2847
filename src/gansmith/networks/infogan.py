"""InfoGAN's D and Q for MNIST (Chen et al. 2016, appendix C.1 and the authors' code); its G is `blocks.SmallGenerator`.

Legend: K categories, L codes.
"""

from typing import NamedTuple

from torch import Tensor, nn

from gansmith.networks.blocks import Shape, Slope, Width, check_multiple
from gansmith.schema import PositiveInt


class Heads(NamedTuple):
    """What D says of images: one score each, and what Q makes of their codes."""

    score: Tensor
    """(N,), a logit"""
    category: Tensor
    """(N, K), logits: no softmax here, the cross-entropy has it"""
    code: Tensor
    """(N, L), the means of Q's normal distributions"""


class Discriminator(nn.Module):
    """Images (N, C, H, W) -> `Heads`: D and Q share all but their last layers."""

    def __init__(
        self,
        shape: Shape,
        *,
        width: Width = 64,
        categories: PositiveInt = 10,
        continuous: PositiveInt = 2,
        slope: Slope = 0.1,
    ) -> None:
        super().__init__()
        check_multiple(*shape[1:], 4)
        h, w = shape[1] // 4, shape[2] // 4
        self.trunk = nn.Sequential(
            *(nn.Conv2d(shape[0], width, 4, 2, 1), nn.LeakyReLU(slope, inplace=True)),
            *(nn.Conv2d(width, 2 * width, 4, 2, 1), nn.BatchNorm2d(2 * width), nn.LeakyReLU(slope, inplace=True)),
            nn.Flatten(),
            *(nn.Linear(2 * width * h * w, 16 * width), nn.BatchNorm1d(16 * width)),
            nn.LeakyReLU(slope, inplace=True),
        )
        self.score = nn.Linear(16 * width, 1)
        self.q = nn.Sequential(
            *(nn.Linear(16 * width, 2 * width), nn.BatchNorm1d(2 * width), nn.LeakyReLU(slope, inplace=True))
        )
        self.category = nn.Linear(2 * width, categories)
        self.code = nn.Linear(2 * width, continuous)

    def forward(self, x: Tensor) -> Heads:
        h = self.trunk(x)
        q = self.q(h)
        return Heads(self.score(h).squeeze(1), self.category(q), self.code(q))
