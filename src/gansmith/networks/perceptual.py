"""Features of frozen networks that losses compare pictures by, in place of pixels."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from gansmith.errors import UserError
from gansmith.metrics import digits
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


class VGG19Features(nn.Module):
    """(N, 1 or 3, H, W) -> maps of VGG19 (Simonyan & Zisserman, 1409.1556), trained on ImageNet, after `layer` layers.

    36 is conv5_4 with its ReLU, 35 without. `file`: torchvision's weights, or their tensors as .safetensors; null:
    where torch keeps them, else a download, which is said. UserError for any other file.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        layer: Annotated[int, Range(1, 37)] = 36,
        file: str | None = None,
        values: Values = "signed",
    ) -> None:
        super().__init__()
        from torchvision.models import vgg19

        if shape[0] not in (1, 3):
            raise ValueError(f"data.channels is {shape[0]}; VGG19 looks at 1 or 3")
        with torch.device("meta"):
            self.model = vgg19().features[:layer]
        self.values = values
        found, path = read(VGG19, Path(file).expanduser() if file else None, partial(print, file=sys.stderr))
        prefix = "features."
        weights = {k.removeprefix(prefix): w for k, w in found.items() if k.startswith(prefix)}
        here = self.model.state_dict()
        if lacking := [k for k, w in here.items() if k not in weights or weights[k].shape != w.shape]:
            raise UserError(f"{path} is not VGG19: it has no {prefix}{lacking[0]} of {tuple(here[lacking[0]].shape)}")
        self.model.load_state_dict({k: weights[k].to(torch.get_default_dtype()) for k in here}, assign=True)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model((to_unit(x, self.values) - self.mean) / self.std)
