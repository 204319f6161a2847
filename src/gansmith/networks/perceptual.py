"""Features of frozen networks, by which losses compare pictures and critics judge them."""

import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from gansmith.errors import UserError
from gansmith.metrics import digits
from gansmith.networks.blocks import Shape, at_least
from gansmith.schema import Range
from gansmith.weights import Published, read

Values = Literal["signed", "unit"]
VGG19 = Published(
    "VGG19",
    url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
    sha256="dcbb9e9d",
    megabytes=575,
    option="--networks.F.file PATH",
)
SQUEEZENET = Published(
    "SqueezeNet",
    url="https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
    sha256="b8a52dc0",
    megabytes=5,
    option="--networks.D.file PATH, or train without it: --networks.D.name photo_critic",
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def to_unit(x: Tensor, values: str) -> Tensor:
    return (x + 1) / 2 if values == "signed" else x


class DigitFeatures(nn.Module):
    """(N, C, H, W) -> maps of the digit classifier that ships, after `layer` of its layers, of each channel by itself.

    Not of their mean: a loss on that would leave the colours open. Good for strokes; it knows nothing of photos.
    """

    def __init__(self, *, layer: Annotated[int, Range(1, 10)] = 8, values: Values = "signed") -> None:
        super().__init__()
        self.model, self.values = digits.load().trunk[:layer].to(torch.get_default_dtype()), values

    def forward(self, x: Tensor) -> Tensor:
        maps = self.model(to_unit(x, self.values).flatten(0, 1).unsqueeze(1))
        return maps.unflatten(0, (len(x), -1)).flatten(1, 2)


class Trained(nn.Module):
    """The first layers of a network of torchvision's, `model`, with the weights that it got on ImageNet, frozen.

    On the meta device, where parameters are only counted, no weights are read. ValueError for 2 or 4 channels,
    UserError for a file of anything else.
    """

    def __init__(self, shape: Shape, what: Published, model: nn.Sequential, file: str | None, values: Values) -> None:
        super().__init__()
        if shape[0] not in (1, 3):
            raise ValueError(f"data.channels is {shape[0]}; {what.name} looks at 1 or 3")
        if values not in get_args(Values):
            raise ValueError(f"data.values is {values}; {what.name} looks at {' or '.join(get_args(Values))}")
        self.model, self.values = model.requires_grad_(False), values
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        if self.mean.is_meta:
            return
        found, path = read(what, Path(file).expanduser() if file else None, partial(print, file=sys.stderr))
        prefix = "features."
        weights = {k.removeprefix(prefix): w for k, w in found.items() if k.startswith(prefix)}
        here = model.state_dict()
        if lacking := [k for k, w in here.items() if k not in weights or weights[k].shape != w.shape]:
            raise UserError(
                f"{path} is not {what.name}: it has no {prefix}{lacking[0]} of {tuple(here[lacking[0]].shape)}"
            )
        model.load_state_dict({k: weights[k].to(torch.get_default_dtype()) for k in here}, assign=True)

    def normalised(self, x: Tensor) -> Tensor:
        """Pictures as the network was trained on them, grey ones in three channels."""
        return (to_unit(x, self.values) - self.mean) / self.std


class VGG19Features(Trained):
    """(N, 1 or 3, H, W) -> maps of VGG19 (Simonyan & Zisserman, 1409.1556), trained on ImageNet, after `layer` layers.

    36 is conv5_4 with its ReLU, 35 without. `file`: torchvision's weights, or their tensors as .safetensors; null:
    where torch keeps them, else a download, which is said. UserError for any other file.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        layer: Annotated[int, Range(1, 37)] = 36,
        file: str | None = None,
        values: Values = "signed",
    ) -> None:
        from torchvision.models import vgg19

        with torch.device("meta"):
            model = vgg19().features[:layer]
        super().__init__(shape, VGG19, model, file, values)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.normalised(x))


class SqueezeNetFeatures(Trained):
    """(N, 1 or 3, H, W) -> four maps of SqueezeNet 1.1 (Iandola et al. 2016, 1602.07360), trained on ImageNet.

    They have 64, 128, 256, 512 channels and a half, a quarter, an eighth, a sixteenth of H and W, rounded down. `file`
    as for VGG19, with a download of 5 MB. ValueError for pictures under 16x16.
    """

    MAPS = (64, 128, 256, 512)

    def __init__(self, shape: Shape, *, file: str | None = None, values: Values = "signed") -> None:
        from torchvision.models import squeezenet1_1

        at_least(shape, 16)
        with torch.device("meta"):
            model = squeezenet1_1().features
        super().__init__(shape, SQUEEZENET, model, file, values)

    def forward(self, x: Tensor) -> list[Tensor]:
        # One pixel more: the first layer has no border, and so each map has half the size of the one before. Columns,
        # then rows: no pixel has a gradient of more than two terms, whose sum does not depend on their order.
        h = pad(pad(self.normalised(x), (0, 1, 0, 0), mode="replicate"), (0, 0, 0, 1), mode="replicate")
        maps = []
        for first, after in pairwise((0, 2, 5, 8, 13)):
            h = self.model[first:after](h)
            maps.append(h)
        return maps
