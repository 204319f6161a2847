"""The extractors: what ships is what was trained, an image's numbers are its own, and nothing unknown is unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gansmith.cuda_math import cuda_math
from gansmith.data import Wanted, load_sets
from gansmith.errors import UserError
from gansmith.evaluation.evaluator import Evaluator
from gansmith.metrics import digits, features
from gansmith.metrics.digits import Outputs
from gansmith.metrics.features import Extractor, inception, mnist, mobilenet
from gansmith.metrics.frechet import frechet_distance
from gansmith.metrics.kernel import kernel_distance

TOOL = Path(__file__).parents[1] / "tools" / "train_digits.py"


def real(split: str, n: int) -> tuple[Tensor, Tensor]:
    (data,) = load_sets(Wanted("mnist", (28, 28), 1, split=split))
    return torch.tensor(data.images[:n], dtype=torch.float32) / 255, torch.tensor(data.labels[:n])


@pytest.fixture(scope="module")
def unseen_images() -> Tensor:
    return real("test", 1500)[0]


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return mnist()


@pytest.fixture(scope="module")
def outputs(extractor: Extractor, unseen_images: Tensor) -> Outputs:
    return extractor(unseen_images)


# ---- the digit classifier that ships -----------------------------------------------------------------------------


def test_weights_for_features_that_ship_are_refused() -> None:
    with pytest.raises(UserError, match="the mnist features ship with gansmith"):
        Evaluator("mnist", metrics=["fd"], feature_weights=Path("any.pth"), device="cpu")


@pytest.mark.slow
def test_the_shipped_weights_are_as_good_as_their_file_says(extractor: Extractor) -> None:
    images, labels = real("test", 10_000)
    right = (extractor(images).logits.argmax(1) == labels).double().mean().item()
    assert about()["test_accuracy"] == pytest.approx(right, abs=2e-4)  # another processor may round one or two over


def about() -> dict[str, Any]:
    with safetensors.safe_open(digits.WEIGHTS, "pt") as file:
        return dict(json.loads(file.metadata()["gansmith"]))


def test_the_shipped_weights_read_digits_and_are_those_that_are_named(extractor: Extractor, outputs: Outputs) -> None:
    labels = real("test", 1500)[1]
    assert (outputs.logits.argmax(1) == labels).double().mean() >= 0.99
    assert F.cross_entropy(outputs.logits, labels) < 0.03  # its confidence is meant: sure where it is right
    values = torch.linalg.eigvalsh(torch.cov(outputs.features.double().T))
    assert len(values) == 64 and values[0] > 1e-4 * values[-1]  # no feature is dead
    data = digits.WEIGHTS.read_bytes()
    assert hashlib.sha256(data).hexdigest() == digits.SHA256 == extractor.digest and len(data) < 400_000
    assert about()["data_sha256"] == load_sets(Wanted("mnist", (28, 28), 1))[0].digest


def test_the_network_agrees_with_numpy_in_float64(outputs: Outputs, unseen_images: Tensor) -> None:
    def weights(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        return stored[f"{name}.weight"].double().numpy(), stored[f"{name}.bias"].double().numpy()

    def convolved(x: NDArray[Any], name: str, stride: int = 1) -> NDArray[Any]:
        weight, bias = weights(name)
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
        x = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True) + bias[:, None, None]
        return np.where(x > 0, x, 0.1 * x)

    def pooled(x: NDArray[Any]) -> NDArray[Any]:
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))

    stored = safetensors.torch.load_file(digits.WEIGHTS)
    x = pooled(convolved(unseen_images[:20].double().numpy(), "trunk.0"))
    x = convolved(pooled(convolved(x, "trunk.3")), "trunk.6")
    flat = convolved(x, "trunk.8", 2).reshape(20, -1)
    (w, b), (head, bias) = weights("trunk.11"), weights("head")
    found = flat @ w.T + b
    found = np.where(found > 0, found, 0.1 * found)
    np.testing.assert_allclose(outputs.features[:20], found, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs.logits[:20], found @ head.T + bias, rtol=1e-4, atol=1e-4)


def test_damaged_weights_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digits.WEIGHTS.read_bytes()
    monkeypatch.setattr(digits, "WEIGHTS", tmp_path / "digits.safetensors")
    with pytest.raises(UserError, match="cannot be read.*reinstall it$"):
        mnist()
    digits.WEIGHTS.write_bytes(whole[:-9] + b"x" + whole[-8:])
    with pytest.raises(UserError, match="is damaged; reinstall it$"):
        mnist()


# ---- any extractor -----------------------------------------------------------------------------------------------


def test_an_image_does_not_depend_on_its_neighbours(
    extractor: Extractor, outputs: Outputs, unseen_images: Tensor
) -> None:
    order = torch.randperm(260, generator=torch.Generator().manual_seed(0))
    mixed, (first, last) = extractor(unseen_images[order]), (extractor(unseen_images[i : i + 1]) for i in (0, 256))
    for k in (0, 1):
        torch.testing.assert_close(mixed[k], outputs[k][order], rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.cat([first[k], last[k]]), outputs[k][[0, 256]], rtol=0, atol=1e-5)


def test_every_pass_has_the_same_rows_whatever_is_set_outside() -> None:
    """Pads with the last image, cuts the padding off again, keeps the order; no graph, no TF32, no autocast."""
    seen = []

    def net(x: Tensor) -> Outputs:
        seen.append((tuple(x.shape), torch.backends.cuda.matmul.allow_tf32, torch.is_autocast_enabled("cpu")))
        return Outputs(x.flatten(1)[:, :3], x.flatten(1)[:, :2])

    images = torch.rand(10, 1, 2, 2, dtype=torch.float64).requires_grad_()
    with cuda_math(tf32=True), torch.autocast("cpu", dtype=torch.bfloat16):
        found = Extractor("counting", "", torch.device("cpu"), 4, net)(images)
        assert torch.backends.cuda.matmul.allow_tf32
    assert seen == [((4, 1, 2, 2), False, False)] * 3
    for output, width in zip(found, (3, 2), strict=True):
        assert output.dtype == torch.float32 and not output.requires_grad
        assert torch.equal(output, images.flatten(1)[:, :width].float())


def test_the_distance_orders_sets_as_the_eye_does(
    extractor: Extractor, outputs: Outputs, unseen_images: Tensor
) -> None:
    """Real digits lie close to real digits; blurred, noisy and one-sided ones far off, the worse the farther."""
    train = extractor(real("train", 1500)[0]).features
    some, noise = unseen_images[:300], torch.randn(300, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    damaged = [F.avg_pool2d(some, 3, 1, 1), (some + 0.1 * noise).clamp(0, 1), (some + 0.3 * noise).clamp(0, 1)]
    blurred, grainy, grainier = (frechet_distance(train, extractor(images).features) for images in damaged)
    same = frechet_distance(train, outputs.features)
    assert 3 * same < min(blurred, grainy) and 3 * grainy < grainier
    assert 20 * same < frechet_distance(train, outputs.features[outputs.logits.argmax(1) == 8])
    mirrored, straight = (
        kernel_distance(train, x, subsets=10, size=300).mean
        for x in (extractor(some.flip(3)).features, outputs.features)
    )
    assert mirrored > 5 * abs(straight)


# ---- the training ------------------------------------------------------------------------------------------------


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_digits", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_augmentation_is_an_affine_map_about_the_centre(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, unseen_images: Tensor
) -> None:
    x = unseen_images[:400]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in ("TURN", "SCALE", "SHEAR"):
            monkeypatch.setattr(tool, name, 0)
        shifted = tool.augment(x)
        monkeypatch.setattr(tool, "SHIFT", 0)
        torch.testing.assert_close(tool.augment(x), x, rtol=0, atol=1e-5)
    rows = torch.arange(28.0)

    def centre(images: Tensor) -> Tensor:
        return (images.sum(3) * rows).sum((1, 2)) / images.sum((1, 2, 3))

    moved = (centre(shifted) - centre(x)).abs()
    assert 1.7 < moved.max() < 2.05  # up to SHIFT pixels, none for every other image
    assert 0.4 < (moved < 1e-3).double().mean() < 0.6


# ---- Inception: the file -----------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch, and no network."""
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("GANSMITH_INCEPTION", raising=False)

    def offline(*args: Any, **keys: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    return tmp_path / "hub" / "checkpoints"


def test_without_torch_fidelity_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(UserError, match=r'pip install "gansmith\[inception\]"'):
        inception()


class Trap:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_no_other_file_is_unpickled(hub: Path, tmp_path: Path) -> None:
    mark, trap = tmp_path / "sprung", tmp_path / "trap.pth"
    torch.save(Trap(mark), trap)
    torch.load(trap, weights_only=False)
    assert mark.exists()  # torch-fidelity loads like this
    mark.unlink()
    with pytest.raises(UserError, match=r"trap.pth is not weights-inception\S+\.pth, or not all of it: [0-9,]+ bytes"):
        inception(trap)
    assert not mark.exists()
    with pytest.raises(UserError, match="cannot be read"):
        inception(tmp_path)


def test_the_file_is_looked_for_in_this_order(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, the environment, torch-fidelity's file, pytorch-fid's, a download: told by the file refused."""
    said: list[str] = []
    with pytest.raises(UserError, match=r"--feature-weights PATH.*no network|no network.*--feature-weights PATH"):
        inception(say=said.append)
    assert "96 MB" in said[0] and features.INCEPTION.url in said[0]

    def refused(weights: Path | None = None) -> str:
        with pytest.raises(UserError, match="is not weights-inception") as caught:
            inception(weights, say=said.append)
        return str(caught.value).partition(" is not")[0]

    def download(url: str, to: str, sha256: str, progress: bool) -> None:
        assert (url, sha256) == (features.INCEPTION.url, features.INCEPTION.sha256)
        Path(to).write_bytes(b"downloaded")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    theirs, other = (hub / name for name in features.INCEPTION_FILES)
    own = tmp_path / "own.pth"
    assert refused() == str(theirs) and len(said) == 2
    theirs.rename(other)
    assert refused() == str(other)
    theirs.write_bytes(b"wrong")
    assert refused() == str(theirs)
    own.write_bytes(b"wrong")
    monkeypatch.setenv("GANSMITH_INCEPTION", str(own))
    assert refused() == str(own) and refused(other) == str(other) and len(said) == 2
    own.unlink()
    with pytest.raises(UserError, match="own.pth cannot be read"):  # what was named is not passed over
        inception()


# ---- Inception: the network --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the right layout, 96 MB, of random weights that keep the size of the signal from layer to layer."""
    port = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(port, "load_state_dict_from_url", lambda *args, **keys: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *args, **keys: None)
        net = port.FeatureExtractorInceptionV3("layout", ["2048"])
        torch.manual_seed(0)
        for tensor in net.state_dict().values():
            if tensor.ndim == 4:
                torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu")
        net.fc.bias.data += 1
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(net.state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_is_fed_what_the_literature_feeds_it(
    random_weights: Path, monkeypatch: pytest.MonkeyPatch, hub: Path
) -> None:
    digest = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    monkeypatch.setattr(features, "INCEPTION", features.INCEPTION._replace(sha256=digest))
    state = torch.random.get_rng_state()
    extractor = dataclasses.replace(inception(random_weights), rows=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (extractor.name, extractor.digest) == ("inception", digest)

    levels = torch.randint(0, 256, (3, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    off = 0.4 * (2 * torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1)) - 1)
    found = extractor(((levels + off) / 255).clamp(0, 1))  # rounds to the levels; two passes, one of them padded
    assert found.features.shape == (3, 2048) and found.logits.shape == (3, 1008)

    port = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    direct = port.FeatureExtractorInceptionV3("direct", ["2048"], feature_extractor_weights_path=str(random_weights))
    with torch.no_grad():
        [expected] = direct(torch.cat([levels] * 3, 1))
    scale = expected.std().item()
    assert scale > 1e-3
    torch.testing.assert_close(found.features, expected, rtol=0, atol=1e-5 * scale)
    logits = expected.double() @ direct.fc.weight.double().T  # without the bias, which is about 1 here
    torch.testing.assert_close(found.logits.double(), logits, rtol=0, atol=1e-5 * logits.std().item())


# ---- MobileNet ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mobile_net() -> Any:
    models = pytest.importorskip("torchvision.models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.mobilenet_v2().eval()


def test_mobilenet_gives_the_mean_of_its_last_maps_of_pictures_of_128_pixels(mobile_net: Any, tmp_path: Path) -> None:
    safetensors.torch.save_file(dict(mobile_net.state_dict()), path := tmp_path / "all.safetensors")
    extractor = dataclasses.replace(mobilenet(path), rows=2)
    x = torch.rand(3, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    found = extractor(x)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = mobile_net.features((x.expand(-1, 3, -1, -1) - mean) / std).mean((2, 3))
    torch.testing.assert_close(found.features, expected, rtol=1e-4, atol=1e-6)
    assert found.logits.shape == (3, 0) and extractor.name == "mobilenet"
    small = extractor(torch.full((2, 3, 16, 20), 0.25)).features
    torch.testing.assert_close(small, extractor(torch.full((2, 3, 128, 128), 0.25)).features, rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="mobilenet: images have 4 channels; it takes 1 or 3"):
        extractor(torch.zeros(2, 4, 28, 28))
    parts = {name: t for name, t in mobile_net.state_dict().items() if name.startswith("features")}
    safetensors.torch.save_file(parts, path := tmp_path / "features.safetensors")
    assert mobilenet(path).digest == extractor.digest


def test_no_other_mobilenet_is_loaded(mobile_net: Any, hub: Path, tmp_path: Path, monkeypatch: Any) -> None:
    mark, trap = tmp_path / "sprung", tmp_path / "trap.pth"
    torch.save(Trap(mark), trap)
    with pytest.raises(UserError, match=r"trap.pth is not mobilenet_v2-b0353104\.pth"):
        mobilenet(trap)
    safetensors.torch.save_file({"features.0.0.weight": torch.zeros(2)}, other := tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="other.safetensors is not MobileNetV2"):
        mobilenet(other)
    with pytest.raises(
        UserError, match="other.safetensors is not MobileNetV2"
    ):  # a file that is given is not passed over
        Evaluator("cifar10", feature_weights=other, device="cpu")
    said: list[str] = []
    with pytest.raises(UserError, match="no network.*--feature-weights FILE"):
        mobilenet(say=said.append)
    assert "14 MB" in said[0] and not mark.exists()


def test_pictures_are_compared_by_inception_where_it_lies_and_else_by_mobilenet(hub: Path) -> None:
    assert features.there() == "mobilenet"
    hub.mkdir(parents=True)
    (hub / features.INCEPTION_FILES[1]).touch()
    assert features.there() == "inception"
