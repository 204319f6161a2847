"""MUNIT's networks: auto-encoders with contents and styles, critics of several scales (Huang et al. 2018, 1804.04732).

Sizes and layers are those of the authors' code (github.com/NVlabs/MUNIT). Legend: Z numbers of a style, K = 4 width
maps of a content.
"""

from torch import Tensor, nn
from torch.nn.functional import instance_norm

from gansmith.networks.blocks import AnySize, Residual, Scales, Shape, Width, at_least, conv, down, start_normal
from gansmith.schema import PositiveInt


def start_he(net: nn.Module) -> None:
    """Weights of linear and convolutional layers ~ N(0, 2 / inputs), their biases 0: He et al. 2015 (1502.01852)."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class AdaptiveResidual(nn.Module):
    """x + f(x) on maps (N, width, H, W): f is two reflected 3x3 convolutions, each with AdaIN, a ReLU between them.

    AdaIN(h) = scale (h - mean(h)) / std(h) + shift (arXiv 1703.06868) of each picture's own maps;
    `style` (N, 4 width) holds both shifts and scales.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        (self.first,), (self.second,) = (conv(width, width, 3, norm=False, reflect=True) for _ in range(2))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        shift_1, scale_1, shift_2, scale_2 = style[:, :, None, None].chunk(4, 1)
        h = (instance_norm(self.first(x)) * scale_1 + shift_1).relu()
        return x + instance_norm(self.second(h)) * scale_2 + shift_2


class AutoEncoder(AnySize):
    """Images (N, C, H, W) -> contents (N, K, H / 4, W / 4) and styles (N, Z); both -> images in (-1, 1).

    Contents: c7s1-width, two halvings, `blocks` residual blocks, normalised per picture. Styles: c7s1-width, four
    halvings, the mean over the picture, a linear layer; not normalised, which would take away what a style is. Decoder:
    `blocks` residual blocks with AdaIN, whose parameters a perceptron of `units` makes of the style, then twice a
    doubling and a 5x5 convolution with layer norm, and c7s1-C. Weights start as He et al. have them.
    """

    values = "signed"

    def __init__(
        self, latent_dim: int, shape: Shape, *, width: Width = 64, blocks: PositiveInt = 4, units: PositiveInt = 256
    ) -> None:
        super().__init__(shape, 4, least=16)
        relu = nn.ReLU(inplace=True)
        maps = [width, 2 * width, 4 * width]
        content = [*conv(shape[0], width, 7, reflect=True), relu]
        style = [*conv(shape[0], width, 7, norm=False, reflect=True), relu]
        for before, after in zip(maps, maps[1:], strict=False):
            content += [*conv(before, after, 4, 2, reflect=True), relu]
        for before, after in zip(maps + [maps[2]], maps[1:] + [maps[2]] * 2, strict=True):
            style += [*conv(before, after, 4, 2, norm=False, reflect=True), relu]
        self.content = nn.Sequential(*content, *(Residual(4 * width) for _ in range(blocks)))
        self.style = nn.Sequential(*style, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, latent_dim))
        self.adain = nn.Sequential(
            *(nn.Linear(latent_dim, units), relu, nn.Linear(units, units), relu), nn.Linear(units, blocks * 16 * width)
        )
        self.blocks = nn.ModuleList(AdaptiveResidual(4 * width) for _ in range(blocks))
        doubled: list[nn.Module] = []
        for before, after in ((4 * width, 2 * width), (2 * width, width)):
            doubled += [nn.Upsample(scale_factor=2), *conv(before, after, 5, norm=False, reflect=True)]
            doubled += [nn.GroupNorm(1, after), relu]
        self.up = nn.Sequential(*doubled, *conv(width, shape[0], 7, norm=False, reflect=True), nn.Tanh())
        start_he(self)

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Encode a picture, or decode a content with a style."""
        if style is None:
            return self.content(x), self.style(x)
        for block, own in zip(self.blocks, self.adain(style).chunk(len(self.blocks), 1), strict=True):
            x = block(x, own)
        return self.up(x)


class Critic(Scales):
    """A network for each of `scales`: `layers` halvings by 4x4 convolutions of `width` maps, doubled by each.

    LeakyReLU 0.2, no norm. Weights start as N(0, 0.02^2).
    """

    def __init__(self, shape: Shape, *, width: Width = 64, layers: PositiveInt = 4, scales: PositiveInt = 3) -> None:
        least = 1 << (layers + scales - 1)
        at_least(shape, least, f" with {layers} layers and {scales} scales")
        maps = [shape[0], *(width << i for i in range(layers))]
        super().__init__(
            nn.Sequential(*down(maps, reflect=True), *conv(maps[-1], 1, 1, norm=False), nn.Flatten(1, 2))
            for _ in range(scales)
        )
        start_normal(self, 0.02)
