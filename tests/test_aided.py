"""The critic of `photos`, which looks at pictures with a SqueezeNet as well: here one of random weights."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import save_noise
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

import gansmith
from gansmith.checkpoint import newest_good, read
from gansmith.errors import UserError
from gansmith.networks.perceptual import SqueezeNetFeatures
from gansmith.networks.photos import AidedCritic, Critic

SHAPE = (3, 32, 48)
SMALL = {
    **{"img_size": 16, "channels": 1, "batch_size": 8, "n_cpu": 1, "data.validation": 2, "log_interval": 1},
    **{"networks.G.width": 2, "networks.G.most": 2, "engine.precision": "float32"},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = {f"features.{k}": w for k, w in squeezenet1_1().features.state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    safetensors.torch.save_file(own, path)
    return path


def test_the_features_are_those_of_torchvision_s_network(weights: Path) -> None:
    model = squeezenet1_1().eval()
    model.load_state_dict(safetensors.torch.load_file(weights), strict=False)
    seen: list[Tensor] = []
    for layer in (1, 4, 7, 12):  # before each pooling, and the last
        model.features[layer].register_forward_hook(lambda _module, _given, out: seen.append(out.clone()))
    x = torch.rand(2, *SHAPE) * 2 - 1
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    wider = torch.cat([torch.cat([x, x[..., -1:]], 3), torch.cat([x[..., -1:, :], x[..., -1:, -1:]], 3)], 2)
    model.features(((wider + 1) / 2 - mean) / std)
    maps = SqueezeNetFeatures(SHAPE, file=str(weights))(x)
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)]
    for found, expected in zip(maps, seen, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_scores_are_of_pixels_and_of_features_and_only_what_is_trained_gets_gradients(weights: Path) -> None:
    torch.manual_seed(0)
    critic = AidedCritic(SHAPE, width=4, most=8, head=6, file=str(weights))
    x = torch.rand(4, *SHAPE, requires_grad=True)
    scores = critic(x)
    assert [tuple(s.shape) for s in scores] == [(4,)] * 3
    alone = Critic(SHAPE, width=4, most=8)
    alone.load_state_dict(critic.pixels.state_dict())
    torch.testing.assert_close(scores[0], alone(x))
    for score in scores:
        assert torch.autograd.grad(score.sum(), x, retain_graph=True)[0].abs().sum() > 0
    trained = {name for name, p in critic.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in critic.named_parameters() if not name.startswith("features.")}
    with torch.no_grad():
        critic.features.model[10].squeeze.bias += 1.0  # after the maps at an eighth
    changed = critic(x)
    assert torch.equal(changed[0], scores[0]) and torch.equal(changed[1], scores[1])
    assert not torch.allclose(changed[2], scores[2])


def test_photos_train_with_it_resume_to_the_bit_and_never_move_the_features(weights: Path, tmp_path: Path) -> None:
    data = save_noise(tmp_path / "data", 24, size=(16, 16))
    flags = {**SMALL, "networks.D": {"name": "aided_critic", "width": 2, "most": 2, "head": 2, "file": str(weights)}}
    options: dict[str, Any] = {"device": "cpu", "quiet": True}
    whole = gansmith.train("photos", data=data, steps=6, out=tmp_path / "whole", overrides=flags, **options)
    parts = gansmith.train("photos", data=data, steps=3, out=tmp_path / "parts", overrides=flags, **options)
    gansmith.train(parts, steps=6, **options)
    one, other = (read(newest_good(run / "checkpoints", print))[0]["players"]["D"]["net"] for run in (whole, parts))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    for name, there in safetensors.torch.load_file(weights).items():
        assert torch.equal(one[name.replace("features.", "features.model.", 1)], there)
    assert gansmith.load(whole, device="cpu").sample([1, 2]).shape == (2, 1, 16, 16)


def test_what_it_cannot_look_at_and_other_files_are_refused(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="data.channels is 4; SqueezeNet looks at 1 or 3"):
        AidedCritic((4, 32, 32), file=str(weights))
    with pytest.raises(ValueError, match="img_size is 12; height and width must be at least 16; the nearest is 16"):
        AidedCritic((3, 12, 12), file=str(weights))
    safetensors.torch.save_file({"features.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"is not SqueezeNet: it has no features\.0\.weight of \(64, 3, 3, 3\)"):
        AidedCritic((3, 32, 32), file=str(tmp_path / "other.safetensors"))

    def offline(*args: Any, **options: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    said = (
        r"SqueezeNet could not be downloaded \(no network\): .*--networks.D.file PATH, or do without: --networks.D.name"
    )
    with pytest.raises(UserError, match=said):
        AidedCritic((3, 32, 32))
    data = save_noise(tmp_path / "data", 24, size=(16, 16))
    with pytest.raises(UserError, match=said):
        gansmith.train("photos", data=data, steps=1, out=tmp_path / "run", device="cpu", quiet=True, overrides=SMALL)
    assert not (tmp_path / "run").exists()


def test_grey_pictures_are_seen_in_three_equal_channels(weights: Path) -> None:
    x = torch.rand(2, 1, 32, 32)
    net: nn.Module = SqueezeNetFeatures((1, 32, 32), file=str(weights))
    for grey, coloured in zip(net(x), net(x.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(grey, coloured)
