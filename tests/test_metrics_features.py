"""The extractors: what ships is what was trained, an image's numbers are its own, and nothing unknown is unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import subprocess
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

import gansmith
from gansmith.cuda_math import cuda_math
from gansmith.data import load_images
from gansmith.errors import UserError
from gansmith.metrics import digits, features
from gansmith.metrics.digits import Outputs
from gansmith.metrics.features import EXTRACTORS, Extractor, inception, mnist
from gansmith.metrics.frechet import frechet_distance

TOOL = Path(__file__).parents[1] / "tools" / "train_digits.py"


def real(split: str, n: int) -> tuple[Tensor, Tensor]:
    data = load_images("mnist", img_size=28, channels=1, split=split)
    return torch.tensor(data.images[:n], dtype=torch.float32) / 255, torch.tensor(data.labels[:n])


@pytest.fixture(scope="module")
def unseen_images() -> Tensor:
    return real("test", 10_000)[0]


@pytest.fixture(scope="module")
def unseen_labels() -> Tensor:
    return real("test", 10_000)[1]


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return mnist()


@pytest.fixture(scope="module")
def outputs(extractor: Extractor, unseen_images: Tensor) -> Outputs:
    return extractor(unseen_images)


# ---- the digit classifier that ships -----------------------------------------------------------------------------


def test_the_shipped_weights_read_the_test_digits(outputs: Outputs, unseen_labels: Tensor) -> None:
    right = (outputs.logits.argmax(1) == unseen_labels).double().mean().item()
    assert right >= 0.993
    assert about()["test_accuracy"] == pytest.approx(right, abs=2e-4)  # another processor may round one or two over
    assert F.cross_entropy(outputs.logits, unseen_labels) < 0.03  # its confidence is meant: sure where it is right


def about() -> dict[str, Any]:
    with safetensors.safe_open(digits.WEIGHTS, "pt") as file:
        return dict(json.loads(file.metadata()["gansmith"]))


def test_the_shipped_file_is_the_one_that_is_named(extractor: Extractor) -> None:
    data = digits.WEIGHTS.read_bytes()
    assert hashlib.sha256(data).hexdigest() == digits.SHA256 == extractor.digest
    assert len(data) < 400_000
    stored = safetensors.torch.load(data)
    assert {tensor.dtype for tensor in stored.values()} <= {torch.float16, torch.float32}
    assert {tensor.dtype for tensor in digits.load().state_dict().values()} == {torch.float32}
    assert about()["images"] == 60_000  # of the training split, by its digest
    assert about()["data_sha256"] == load_images("mnist", img_size=28, channels=1, split="train").digest


def convolved(x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any], stride: int) -> NDArray[Any]:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True) + bias[:, None, None]


def leaky(x: NDArray[Any]) -> NDArray[Any]:
    return np.where(x > 0, x, 0.1 * x)


def pooled(x: NDArray[Any]) -> NDArray[Any]:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


def test_the_network_agrees_with_numpy_in_float64(outputs: Outputs, unseen_images: Tensor) -> None:
    stored = safetensors.torch.load_file(digits.WEIGHTS)
    w = [tensor.double().numpy() for name, tensor in sorted(stored.items(), key=lambda item: layer(item[0]))]
    x = unseen_images[:50].double().numpy()
    x = pooled(leaky(convolved(x, w[0], w[1], 1)))
    x = pooled(leaky(convolved(x, w[2], w[3], 1)))
    x = leaky(convolved(x, w[4], w[5], 1))
    x = leaky(convolved(x, w[6], w[7], 2)).reshape(50, -1)
    found = leaky(x @ w[8].T + w[9])
    np.testing.assert_allclose(outputs.features[:50], found, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs.logits[:50], found @ w[10].T + w[11], rtol=1e-4, atol=1e-4)


def layer(name: str) -> tuple[bool, int, bool]:
    """(the head comes last, where in the trunk, the bias after the weight)"""
    parts = name.split(".")
    return parts[0] == "head", int(parts[1]) if parts[0] == "trunk" else 0, parts[-1] == "bias"


def test_the_features_are_alive_and_span_all_their_dimensions(outputs: Outputs) -> None:
    f = outputs.features.double()
    assert f.isfinite().all() and outputs.logits.isfinite().all()
    cov = torch.cov(f.T)
    assert torch.linalg.matrix_rank(cov) == mnist().dim == 64
    values = torch.linalg.eigvalsh(cov)
    assert values[0] > 1e-4 * values[-1]
    assert f.std(0).min() > 0.1 * f.std(0).median()  # no feature is all but constant
    assert f.std(0).max() < 10 * f.std(0).median()  # and none outweighs the others


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [flipped, lambda data: data[:-1], lambda data: b""])
def test_damaged_weights_are_said(damage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "digits.safetensors"
    copy.write_bytes(digits.WEIGHTS.read_bytes())
    monkeypatch.setattr(digits, "WEIGHTS", copy)
    mnist()
    copy.write_bytes(damage(copy.read_bytes()))
    with pytest.raises(UserError, match="weights/digits.safetensors of gansmith is damaged; reinstall it$"):
        mnist()
    copy.unlink()
    with pytest.raises(UserError, match="weights/digits.safetensors of gansmith cannot be read.*reinstall it$"):
        mnist()


# ---- any extractor -----------------------------------------------------------------------------------------------


def test_an_image_does_not_depend_on_its_neighbours(
    extractor: Extractor, outputs: Outputs, unseen_images: Tensor
) -> None:
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    mixed = extractor(unseen_images[order])
    halves = [extractor(part) for part in unseen_images[:600].split(257)]
    alone = [extractor(unseen_images[i : i + 1]) for i in (0, 255, 256, 599)]
    for k in (0, 1):
        torch.testing.assert_close(mixed[k], outputs[k][order], rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.cat([o[k] for o in halves]), outputs[k][:600], rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.cat([o[k] for o in alone]), outputs[k][[0, 255, 256, 599]], rtol=0, atol=1e-5)


def test_every_pass_has_the_same_rows() -> None:
    """Pads with the last image, cuts the padding off again, and keeps the order."""
    shapes = []

    def net(x: Tensor) -> Outputs:
        shapes.append(tuple(x.shape))
        return Outputs(x.flatten(1)[:, :3], x.flatten(1)[:, :2])

    counting = Extractor("counting", "", 3, 2, torch.device("cpu"), 4, net)
    images = torch.rand(10, 1, 2, 2, dtype=torch.float64)
    found = counting(images)
    assert shapes == [(4, 1, 2, 2)] * 3
    assert found.features.dtype == found.logits.dtype == torch.float32
    assert torch.equal(found.features, images.flatten(1)[:, :3].float())
    assert torch.equal(found.logits, images.flatten(1)[:, :2].float())


def test_no_setting_of_a_training_reaches_the_products_of_features() -> None:
    seen = []

    def net(x: Tensor) -> Outputs:
        seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return Outputs(x.flatten(1), x.flatten(1))

    with cuda_math(tf32=True):
        Extractor("seeing", "", 4, 4, torch.device("cpu"), 2, net)(torch.rand(2, 1, 2, 2))
        assert torch.backends.cuda.matmul.allow_tf32
    assert seen == [(False, False)]


def test_nothing_but_the_images_counts(extractor: Extractor, outputs: Outputs, unseen_images: Tensor) -> None:
    """No graph, no autocast, the same number whatever is set outside; the caller's random stream does not move."""
    state = torch.random.get_rng_state()
    images = unseen_images[:8].clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mnist()(images)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not found.features.requires_grad and not found.logits.requires_grad
    torch.testing.assert_close(found.features, outputs.features[:8], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "what"),
    [
        (torch.zeros(2, 1, 32, 32), r"images are 32x32 with 1 channel\(s\); it takes 28x28 with 1 channel"),
        (torch.zeros(2, 3, 28, 28), r"images are 28x28 with 3 channel\(s\); it takes 28x28 with 1 channel"),
        (torch.full((2, 1, 28, 28), -1.0), r"images from -1 to -1; they must lie in \[0, 1\]"),
        (torch.full((2, 1, 28, 28), 255.0), r"images from 255 to 255; they must lie in \[0, 1\]"),
        (torch.full((2, 1, 28, 28), torch.nan), r"images from nan to nan; they must lie in \[0, 1\]"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), r"images are torch.uint8 of shape \(2, 1, 28, 28\); they must"),
        (torch.zeros(0, 1, 28, 28), "N at least 1"),
        (torch.zeros(1, 28, 28), r"of shape \(1, 28, 28\); they must be floating-point \(N, C, H, W\)"),
    ],
)
def test_what_is_no_digit_image_is_refused(extractor: Extractor, images: Tensor, what: str) -> None:
    with pytest.raises(UserError, match=f"^mnist: .*{what}"):
        extractor(images)


def test_the_distance_orders_sets_as_the_eye_does(
    extractor: Extractor, outputs: Outputs, unseen_images: Tensor
) -> None:
    """Real digits lie close to real digits; blurred, noisy and one-sided ones far off, the worse the farther."""
    train = extractor(real("train", 10_000)[0]).features
    same = frechet_distance(train, outputs.features)

    def distance(images: Tensor) -> float:
        return frechet_distance(train, extractor(images).features)

    some, noise = unseen_images[:2000], torch.randn(2000, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    blurred = distance(F.avg_pool2d(some, 3, 1, 1))
    grainy, grainier = (distance((some + s * noise).clamp(0, 1)) for s in (0.1, 0.3))
    pure = distance(noise.abs().clamp(0, 1))
    eights = frechet_distance(train, outputs.features[outputs.logits.argmax(1) == 8])
    assert 5 * same < min(blurred, grainy)
    assert 4 * grainy < grainier < pure
    assert 50 * same < eights
    assert frechet_distance(outputs.features, train) == pytest.approx(same, rel=1e-6)


# ---- the training ------------------------------------------------------------------------------------------------


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_digits", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_training_gives_the_same_file_twice(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process and in another one; another seed gives another file."""
    small = ["--images", "300", "--epochs", "1", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(Path(gansmith.__file__).parents[1])}
    subprocess.run([sys.executable, TOOL, *small, tmp_path / "other"], env=environment, check=True, capture_output=True)
    with torch.random.fork_rng(devices=[]):
        tool.main([*small, str(tmp_path / "this")])
        said = capsys.readouterr().out
        tool.main([*small, str(tmp_path / "seed"), "--seed", "1"])
    first, second, third = ((tmp_path / name).read_bytes() for name in ("this", "other", "seed"))
    assert first == second != third
    assert hashlib.sha256(first).hexdigest() in said and "of the 10,000 test images are right" in said


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


def test_without_the_file_and_the_network_the_file_is_named(hub: Path) -> None:
    said: list[str] = []
    with pytest.raises(UserError) as caught:
        inception(say=said.append)
    for part in ("pt_inception-2015-12-05-6726825d.pth", "--inception-weights PATH", "no network", str(hub), "96 MB"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    [line] = said
    assert "96 MB" in line and features.INCEPTION_URL in line and str(hub) in line


class Trap:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_no_other_file_is_unpickled(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, trap = tmp_path / "sprung", tmp_path / "trap.pth"
    torch.save(Trap(mark), trap)
    torch.load(trap, weights_only=False)
    assert mark.exists()  # torch-fidelity loads like this
    mark.unlink()
    with pytest.raises(UserError, match="trap.pth is not the Inception of FID, or not all of it: [0-9,]+ bytes"):
        inception(trap)
    assert not mark.exists()
    for missing in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            inception(missing)


def test_the_file_is_looked_for_in_this_order(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, the environment, torch-fidelity's file, pytorch-fid's, a download: told by the file refused."""

    def refused(weights: Path | None = None) -> str:
        with pytest.raises(UserError, match="is not the Inception of FID") as caught:
            inception(weights, say=said.append)
        return str(caught.value).partition(" is not")[0]

    said: list[str] = []

    def download(url: str, to: str, sha256: str, progress: bool) -> None:
        assert (url, sha256) == (features.INCEPTION_URL, features.INCEPTION_SHA256)
        Path(to).write_bytes(b"downloaded")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    theirs, other = (hub / name for name in features.INCEPTION_FILES)
    assert refused() == str(theirs) and len(said) == 1
    theirs.unlink()
    other.write_bytes(b"wrong")
    assert refused() == str(other)
    theirs.write_bytes(b"wrong")
    assert refused() == str(theirs)
    own = tmp_path / "own.pth"
    own.write_bytes(b"wrong")
    monkeypatch.setenv("GANSMITH_INCEPTION", str(own))
    assert refused() == str(own)
    assert refused(other) == str(other)
    assert len(said) == 1
    monkeypatch.setenv("GANSMITH_INCEPTION", str(tmp_path / "none"))
    with pytest.raises(UserError, match="none cannot be read"):  # what was named is not passed over
        inception()


def test_both_names_carry_the_digest() -> None:
    assert set(EXTRACTORS) == {"mnist", "inception"}
    assert all(features.INCEPTION_SHA256.startswith(name[-12:-4]) for name in features.INCEPTION_FILES)
    assert features.INCEPTION_URL.endswith(features.INCEPTION_FILES[0]) and len(features.INCEPTION_SHA256) == 64


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
    monkeypatch.setattr(features, "INCEPTION_SHA256", digest)
    state = torch.random.get_rng_state()
    extractor = dataclasses.replace(inception(random_weights), rows=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (extractor.name, extractor.digest, extractor.dim, extractor.classes) == ("inception", digest, 2048, 1008)

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

    with pytest.raises(UserError, match="inception: images have 4 channels; it takes 1 or 3"):
        extractor(torch.zeros(2, 4, 28, 28))
