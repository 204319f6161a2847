"""CoGAN's networks for digits (Liu & Tuzel 2016, arXiv 1606.07536, appendix A): shared where the meaning is.

A generator begins with the meaning and ends with pixels, a critic the other way round: G shares its first layers and D
its last. Legend: a and b a picture of each domain.
"""

import torch
from torch import Tensor, nn

from gansmith.networks.blocks import Shape, Width, at_least


class Generator(nn.Module):
    """z (N, Z) -> two images (N, C, H, W) in (0, 1), of domain a and of domain b, by all layers but the last alike.

    Transposed convolutions to 8, 4, 2 and 1 `width` maps, the first as large as its maps, then 3x3 of stride 2;
    BatchNorm and PReLU. A 6x6 one for each domain makes the picture. At 28x28 the maps are 4, 7, 13 and 25 wide, as in
    the paper, whose width is 128; other sizes follow from the end backwards.
    """

    values = "unit"

    def __init__(self, latent_dim: int, shape: Shape, *, width: Width = 128) -> None:
        super().__init__()
        at_least(shape, 16)
        sides = [[side - 3 for side in shape[1:]]]  # a 6x6 layer adds 3, one of stride 2 gives 2 s - 1, or 2 s
        while len(sides) < 4:
            sides.insert(0, [(side + 1) // 2 for side in sides[0]])
        maps = [8 * width, 4 * width, 2 * width, width]
        layers: list[nn.Module] = [nn.Unflatten(1, (latent_dim, 1, 1))]
        for i, after in enumerate(maps):
            if i == 0:
                layers.append(nn.ConvTranspose2d(latent_dim, after, (sides[0][0], sides[0][1]), bias=False))
            else:
                odd = (1 - sides[i][0] % 2, 1 - sides[i][1] % 2)
                layers.append(nn.ConvTranspose2d(maps[i - 1], after, 3, 2, 1, output_padding=odd, bias=False))
            layers += [nn.BatchNorm2d(after), nn.PReLU()]
        self.shared = nn.Sequential(*layers)
        self.own = nn.ModuleList(nn.ConvTranspose2d(width, shape[0], 6, 1, 1) for _ in range(2))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        h = self.shared(z)
        return self.own[0](h).sigmoid(), self.own[1](h).sigmoid()


class Discriminator(nn.Module):
    """Images a and b (N, C, H, W), which need not belong together -> the scores of each (N,), logits.

    A first layer for each domain, and all the others for both. 5x5 convolutions to `width` and 5/2 `width` maps, each
    with max pooling by 2; a linear layer of 25 `width` units, PReLU, the score. No BatchNorm. The paper's width is 20.
    """

    def __init__(self, shape: Shape, *, width: Width = 20) -> None:
        super().__init__()
        at_least(shape, 16)
        h, w = (((side - 4) // 2 - 4) // 2 for side in shape[1:])
        maps, units = 5 * width // 2, 25 * width
        self.own = nn.ModuleList(nn.Sequential(nn.Conv2d(shape[0], width, 5), nn.MaxPool2d(2)) for _ in range(2))
        self.shared = nn.Sequential(
            *(nn.Conv2d(width, maps, 5), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(maps * h * w, units), nn.PReLU(), nn.Linear(units, 1)),
        )

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.cat((self.own[0](a), self.own[1](b)))
        of_a, of_b = self.shared(h).squeeze(1).split((len(a), len(b)))
        return of_a, of_b
