"""From images to what the metrics compare: features and class logits, by a network that is named and verified."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gansmith.cuda_math import cuda_math
from gansmith.errors import UserError
from gansmith.metrics import digits
from gansmith.metrics.digits import Outputs
from gansmith.weights import Published, cache, download, read, verified

Say = Callable[[str], None]

INCEPTION = Published(
    "Inception",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    96,
    "--feature-weights PATH or $GANSMITH_INCEPTION",
)
# torch-fidelity's name and pytorch-fid's, of the same bytes.
INCEPTION_FILES = (Path(INCEPTION.url).name, "pt_inception-2015-12-05-6726825d.pth")
MOBILENET = Published(
    "MobileNetV2",
    "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
    "b0353104",
    14,
    "--feature-weights FILE",
)
MOBILENET_SIDE = 128  # pictures are enlarged, or made small, to so many pixels
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures


@dataclass(frozen=True)
class Extractor:
    """A network that turns images (N, C, H, W) in [0, 1], on any device, into `Outputs` on its own device.

    No gradients, no TF32, no autocast. Every pass has the same number of rows, so that an image's numbers do not
    depend on the others that are shown with it.
    """

    name: str  # a distance between its features must be labelled with it
    digest: str  # the sha256 of its weights
    device: torch.device
    rows: int  # images per pass
    net: Callable[[Tensor], Outputs]  # one pass: images (rows, C, H, W) in [0, 1] on `device` -> Outputs

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Outputs:
        x = torch.cat([images, images[-1:].expand(-len(images) % self.rows, -1, -1, -1)])
        # TF32 would round factors to 10 bits, and another card would give another distance.
        with cuda_math(tf32=False), torch.autocast(self.device.type, enabled=False):
            passes = [self.net(part.to(self.device, torch.float32)) for part in torch.split(x, self.rows)]
        return Outputs(*(torch.cat(parts)[: len(images)].float() for parts in zip(*passes, strict=True)))


def mnist(device: str | torch.device = "cpu") -> Extractor:
    """The digit classifier that ships: 64 features, 10 classes, images (N, 1, 28, 28) alone.

    No other size is resized to that: the distance would be one to the resizing.
    """
    return Extractor("mnist", digits.SHA256, torch.device(device), 256, digits.load().to(device))


def inception(weights: Path | None = None, device: str | torch.device = "cpu", say: Say = print) -> Extractor:
    """The Inception of FID, KID and IS (TensorFlow 2015): 2048 pool3 features and 1008 logits, images of any size.

    Images are rounded to 256 levels, one channel is tiled to three, and TensorFlow 1's bilinear resize, as
    torch-fidelity has it, takes them to 299x299. The logits lack the bias, as in the Inception Score's own code.
    weights: the file; None: $GANSMITH_INCEPTION, else the file that torch-fidelity or pytorch-fid left in torch's
    cache, else a download, which is said. UserError without torch-fidelity, without the file, for another file.
    Sources: Heusel et al. 2017 (arXiv 1706.08500), Salimans et al. 2016 (arXiv 1606.03498).
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise UserError(f'Inception needs torch-fidelity: pip install "gansmith[inception]" ({error})') from None
    path = weights or _inception_file() or download(INCEPTION, say)
    data = verified(INCEPTION, path)  # torch-fidelity unpickles what it is given: so nothing but the known bytes
    with torch.random.fork_rng(devices=[]):  # making the network draws weights that are replaced at once
        classifier = FeatureExtractorInceptionV3(
            "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=io.BytesIO(data)
        ).to(device)

    def net(x: Tensor) -> Outputs:
        return Outputs(*classifier((x * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)))

    return Extractor("inception", INCEPTION.sha256, torch.device(device), 32, net)


def mobilenet(weights: Path | None = None, device: str | torch.device = "cpu", say: Say = print) -> Extractor:
    """MobileNetV2, trained on ImageNet: 1,280 features, the mean over its last maps, of images of any size; no logits.

    Small and quick, and no stand-in for Inception: a distance in its features is called by its name. Images are
    resampled bilinearly to 128x128, one channel is tiled to three. weights: torchvision's file, or its tensors as
    .safetensors; None: the file in torch's cache, else a download of 14 MB, which is said. UserError for another file,
    for 2 or 4 channels. Source: Sandler et al. 2018 (arXiv 1801.04381).
    """
    from torchvision.models import mobilenet_v2

    found, path = read(MOBILENET, weights, say)
    with torch.device("meta"):
        model = mobilenet_v2().features
    own = {name.removeprefix("features."): t for name, t in found.items() if name.startswith("features.")}
    try:
        model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in own.items()}, assign=True)
    except RuntimeError as error:
        raise UserError(f"{path} is not MobileNetV2: {str(error).splitlines()[1].strip()}") from None
    model.eval().to(device)
    digest = hashlib.sha256()
    for name, tensor in sorted(own.items()):  # of the tensors: the same in either format
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    mean, std = (torch.tensor(of, device=device).view(3, 1, 1) for of in (MEAN, STD))

    def net(x: Tensor) -> Outputs:
        if x.shape[1] not in (1, 3):
            raise UserError(f"mobilenet: images have {x.shape[1]} channels; it takes 1 or 3")
        size = (MOBILENET_SIDE, MOBILENET_SIDE)
        x = interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
        features = model((x.expand(-1, 3, -1, -1) - mean) / std).mean((2, 3))
        return Outputs(features, features.new_zeros(len(x), 0))

    return Extractor("mobilenet", digest.hexdigest(), torch.device(device), 32, net)


def there() -> str:
    """What pictures that are no digits are compared by: Inception where it is there already, else MobileNet."""
    return "inception" if find_spec("torch_fidelity") and _inception_file() else "mobilenet"


EXTRACTORS: dict[str, Callable[[Path | None, torch.device, Say], Extractor]] = {
    "mnist": lambda weights, device, say: mnist(device),
    "inception": inception,
    "mobilenet": mobilenet,
}


def _inception_file() -> Path | None:
    """The file that the environment names, else one that is there already."""
    if named := os.environ.get("GANSMITH_INCEPTION"):
        return Path(named).expanduser()
    return next((path for name in INCEPTION_FILES if (path := cache() / name).is_file()), None)
