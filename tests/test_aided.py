"""The critic of `photos`, which also sees pictures through a SqueezeNet: here one of random weights."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import save_noise, small_flags, squeezenet
from torch import Tensor
from torchvision.models import squeezenet1_1

import gansmith
from gansmith.checkpoint import newest_good
from gansmith.errors import UserError
from gansmith.networks import perceptual
from gansmith.networks.perceptual import SqueezeNetFeatures
from gansmith.networks.photos import AidedCritic, Critic
from gansmith.run.log import read_metrics

SHAPE = (3, 32, 48)
OPTIONS: dict[str, Any] = {"device": "cpu", "quiet": True}


def test_the_features_are_those_of_torchvision_s_network() -> None:
    model = squeezenet1_1().eval()
    model.load_state_dict(safetensors.torch.load_file(squeezenet()), strict=False)
    seen: list[Tensor] = []
    for layer in (1, 4, 7, 12):  # before each pooling, and the last
        model.features[layer].register_forward_hook(lambda _module, _given, out: seen.append(out.clone()))
    x = torch.rand(2, *SHAPE)
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    wider = torch.cat([torch.cat([x, x[..., -1:]], 3), torch.cat([x[..., -1:, :], x[..., -1:, -1:]], 3)], 2)
    model.features((wider - mean) / std)
    net = SqueezeNetFeatures(SHAPE, file=str(squeezenet()))
    maps = net(2 * x - 1)
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)]
    in_unit = SqueezeNetFeatures(SHAPE, file=str(squeezenet()), values="unit")(x)
    for found, same, expected in zip(maps, in_unit, seen, strict=True):
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(same, expected)
    for grey, coloured in zip(net(x[:, :1]), net(x[:, :1].expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(grey, coloured)


def test_one_score_is_of_pixels_and_two_are_of_features() -> None:
    torch.manual_seed(0)
    critic = AidedCritic(SHAPE, "signed", width=4, most=8, head=6, file=str(squeezenet()))
    x = torch.rand(4, *SHAPE, requires_grad=True)
    scores = critic(x)
    assert [tuple(s.shape) for s in scores] == [(4,)] * 3
    alone = Critic(SHAPE, width=4, most=8)
    alone.load_state_dict(critic.pixels.state_dict())
    torch.testing.assert_close(scores[0], alone(x))
    for score in scores:
        assert torch.autograd.grad(score.sum(), x, retain_graph=True)[0].abs().sum() > 0
    trained = [(name, p) for name, p in critic.named_parameters() if p.requires_grad]
    assert {name.partition(".")[0] for name, _ in trained} == {"pixels", "heads"}
    grads = torch.autograd.grad(sum(s.square().sum() for s in scores), [p for _, p in trained])
    assert all(g.abs().sum() > 0 for (name, _), g in zip(trained, grads, strict=True) if name.endswith("weight"))
    with torch.no_grad():
        critic.features.model[10].squeeze.bias += 1.0  # behind the maps at an eighth
    changed = critic(x)
    assert torch.equal(changed[0], scores[0]) and torch.equal(changed[1], scores[1])
    assert not torch.allclose(changed[2], scores[2])


@pytest.mark.parametrize("size", [(16, 16), (28, 28), (20, 32)])
def test_small_and_odd_sizes_can_be_judged_one_by_one(size: tuple[int, int]) -> None:
    """As in the last batch of an epoch, or where processes have one picture each."""
    critic = AidedCritic((1, *size), "signed", width=2, most=2, head=2, file=str(squeezenet()))
    assert [tuple(s.shape) for s in critic(torch.rand(1, 1, *size))] == [(1,)] * 3


def test_the_features_never_move_and_are_needed_neither_to_sample_nor_in_the_same_place(tmp_path: Path) -> None:
    weights = Path(shutil.copy(squeezenet(), tmp_path / "weights.safetensors"))
    flags = small_flags("photos", **{"networks.D.file": str(weights), "n_cpu": 1})
    data = save_noise(tmp_path / "data", 19, size=(16, 16))  # 17 to train on: the last batch has one
    run = gansmith.train("photos", data=data, steps=3, out=tmp_path / "run", overrides=flags, **OPTIONS)
    weights.unlink()
    assert gansmith.load(run, device="cpu").sample([1, 2]).shape == (2, 1, 16, 16)
    with pytest.raises(UserError, match=r"the SqueezeNet weights .* cannot be read"):
        gansmith.train(run, steps=5, **OPTIONS)
    gansmith.train(run, steps=5, overrides={"networks.D.file": str(squeezenet())}, **OPTIONS)
    net = newest_good(run / "checkpoints", print).tree["players"]["D"]["net"]
    for name, there in safetensors.torch.load_file(squeezenet()).items():
        assert torch.equal(net[name.replace("features.", "features.model.", 1)], there)


def test_r1_goes_through_the_features(tmp_path: Path) -> None:
    data = save_noise(tmp_path / "data", 12, size=(16, 16))
    flags = small_flags("photos", penalties=[{"name": "r1", "weight": 10.0}], log_interval=1)
    run = gansmith.train("photos", data=data, steps=2, out=tmp_path / "run", overrides=flags, **OPTIONS)
    assert all(row["loss/D"] > 0 and row["grad/D"] > 0 for row in read_metrics(run / "metrics.jsonl"))


def test_weights_from_torch_s_cache_are_read_once_they_are_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    there = tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    there.parent.mkdir()
    torch.save(safetensors.torch.load_file(squeezenet()), there)
    with pytest.raises(UserError, match="is not squeezenet1_1-b8a52dc0.pth, or not all of it: "):
        SqueezeNetFeatures(SHAPE)
    digest = hashlib.sha256(there.read_bytes()).hexdigest()
    monkeypatch.setattr(perceptual, "SQUEEZENET", perceptual.SQUEEZENET._replace(sha256=digest[:8]))
    x = torch.rand(1, *SHAPE)
    for one, other in zip(
        SqueezeNetFeatures(SHAPE)(x), SqueezeNetFeatures(SHAPE, file=str(squeezenet()))(x), strict=True
    ):
        assert torch.equal(one, other)


def test_what_it_cannot_look_at_and_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape, values, said in (
        (
            (4, 32, 32),
            "signed",
            "data.channels is 4; SqueezeNet looks at 1 or 3; --networks.D.name photo_critic takes 4",
        ),
        ((3, 10, 10), "signed", "img_size is 10; .* at least 16; the nearest is 16"),
        ((3, 32, 32), "gcn", "data.values is gcn; SqueezeNet looks at signed or unit"),
    ):
        with pytest.raises(ValueError, match=said):
            AidedCritic(shape, values, file=str(squeezenet()))  # type: ignore[arg-type]
    safetensors.torch.save_file({"features.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"is not SqueezeNet: it has no features\.0\.weight of \(64, 3, 3, 3\)"):
        SqueezeNetFeatures(SHAPE, file=str(tmp_path / "other.safetensors"))

    def offline(*args: Any, **options: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    data = save_noise(tmp_path / "data", 24, size=(16, 16))
    flags = small_flags("photos", **{"networks.D.file": None})
    with pytest.raises(
        UserError, match=r"downloaded \(no network\): .*, or train without it: --networks.D.name photo_c"
    ):
        gansmith.train("photos", data=data, steps=1, out=tmp_path / "run", overrides=flags, **OPTIONS)
    assert not (tmp_path / "run").exists()
