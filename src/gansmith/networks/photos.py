"""Networks for pictures in colour, sized for a CPU: G without checkerboards, D without normalisation."""

from torch import Tensor, nn

from gansmith.networks.blocks import Scores, Shape, UpConv, Width, halvings
from gansmith.schema import PositiveInt


def _maps(shape: Shape, width: int, most: int) -> list[int]:
    """How many maps each size has, from the smallest to that of the image."""
    return [min(width << i, most) for i in reversed(range(halvings(*shape[1:]) + 1))]


class Excite(nn.Module):
    """Maps (N, M, H, W) times a number in (0, 1) for each, which small maps (N, K, h, w) of an early stage decide.

    Skip-layer excitation: pooling to 4x4, a 4x4 and a 1x1 convolution. Source: FastGAN, Liu et al. 2021, section 3.1
    (arXiv 2101.04775).
    """

    def __init__(self, small: int, maps: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(4), nn.Conv2d(small, maps, 4), nn.LeakyReLU(0.1, inplace=True)),
            *(nn.Conv2d(maps, maps, 1), nn.Sigmoid()),
        )

    def forward(self, small: Tensor, x: Tensor) -> Tensor:
        return x * self.gate(small)


class Generator(nn.Module):
    """z (N, Z) -> images (N, C, H, W) in (-1, 1): doublings that copy pixels, 3x3 convolutions, BatchNorm, ReLU."""

    values = "signed"

    def __init__(
        self, latent_dim: int, shape: Shape, *, width: Width = 32, most: PositiveInt = 256, skips: bool = True
    ) -> None:
        super().__init__()
        maps = _maps(shape, width, most)
        h, w = (side >> len(maps) - 1 for side in shape[1:])
        self.start = nn.Sequential(
            nn.Linear(latent_dim, maps[0] * h * w), nn.Unflatten(1, (maps[0], h, w)), nn.BatchNorm2d(maps[0]), nn.ReLU()
        )
        self.stages = nn.ModuleList(
            nn.Sequential(UpConv(before, after, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True))
            for before, after in zip(maps, maps[1:], strict=False)
        )
        gates = len(maps) - 3 if skips else 0
        self.skips = nn.ModuleList(Excite(maps[i], maps[i + 3]) for i in range(gates))
        self.picture = nn.Sequential(nn.Conv2d(maps[-1], shape[0], 3, 1, 1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        stages = [self.start(z)]
        for i, stage in enumerate(self.stages):
            x = stage(stages[-1])
            stages.append(self.skips[i - 2](stages[i - 2], x) if 2 <= i < len(self.skips) + 2 else x)
        return self.picture(stages[-1])


class Critic(Scores):
    """Images (N, C, H, W) -> scores (N,)."""

    def __init__(self, shape: Shape, *, width: Width = 64, most: PositiveInt = 256, norm: bool = False) -> None:
        maps = _maps(shape, width // 2, most)[-2::-1]
        layers: list[nn.Module] = [nn.Conv2d(shape[0], maps[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for before, after in zip(maps, maps[1:], strict=False):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=not norm)]
            layers += [nn.BatchNorm2d(after)] if norm else []
            layers += [nn.LeakyReLU(0.2)]
        h, w = (side >> len(maps) for side in shape[1:])
        super().__init__(*layers, nn.Flatten(), nn.Linear(maps[-1] * h * w, 1))
