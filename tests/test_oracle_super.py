"""Super-resolution: its games against the papers' losses, its networks, the features, tiles, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import experiment_of, rounds, save_noise, small_flags
from PIL import Image
from test_oracle import Made, cross_entropy, duel, step  # noqa: F401
from torch import Tensor, nn

import gansmith
from gansmith.errors import UserError
from gansmith.evaluation.measures import luminance
from gansmith.games.srgan import UPSCALE
from gansmith.inference import Sampler
from gansmith.metrics import digits
from gansmith.networks import perceptual, srgan
from gansmith.priors import Prior
from gansmith.run.log import read_metrics

SHAPE = (1, 16, 16)
COLOURS = (3, 16, 16)


# ---- the papers' losses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_srresnet_descends_the_distance_of_pixels(distance: str, duel: Made) -> None:  # noqa: F811
    d = duel("srresnet", **{"game.distance": distance})
    G, optimizer = d.nets["G"], d.adam("G")
    for (batch,) in d.rounds(3):
        off = G(batch["low"]) - batch["x"]
        step(optimizer, (off.abs() if distance == "l1" else off**2).mean())
    assert d.apart() < 1e-10


def of_srgan(d: Any, x: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """Squares of features, and -log D of what is made: eq. 3 and 5 of 1609.04802."""
    D, F = d.nets["D"], d.game.F
    off, seen = F(made) - F(x), made.detach()
    loss_g = d.game.lambda_features * (off**2).mean() + d.game.lambda_gan * cross_entropy(D(made), True)
    return loss_g, (cross_entropy(D(x), True) + cross_entropy(D(seen), False)) / 2


def of_esrgan(d: Any, x: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute values, and both halves of the relativistic average, for G, too: eq. 1 to 3 of 1809.00219."""
    D, F = d.nets["D"], d.game.F
    off, seen = F(made) - F(x), made.detach()
    real, fake = D(x), D(made)
    relative = cross_entropy(real - fake.mean(), False) + cross_entropy(fake - real.mean(), True)
    pixels = (made - x).abs().mean()
    loss_g = off.abs().mean() + 5e-3 * relative / 2 + 1e-2 * pixels
    real, fake = D(x), D(seen)
    return loss_g, (cross_entropy(real - fake.mean(), True) + cross_entropy(fake - real.mean(), False)) / 2


def without_the_real_half(d: Any, x: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """What the popular script has of it."""
    loss_g, loss_d = of_esrgan(d, x, made)
    D = d.nets["D"]
    return loss_g - 5e-3 * cross_entropy(D(x) - D(made).mean(), False) / 2, loss_d


@pytest.mark.parametrize(
    ("name", "losses", "same"),
    [("srgan", of_srgan, True), ("esrgan", of_esrgan, True), ("esrgan", without_the_real_half, False)],
)
def test_losses_of_the_papers(name: str, losses: Callable[..., Any], same: bool, duel: Made) -> None:  # noqa: F811
    """Both gradients at one point."""
    d = duel(name, **{f"optimizers.{player}.eps": 1e-6 for player in "GD"})
    optimizers = {player: d.adam(player) for player in "GD"}
    for (batch,) in d.rounds(3):
        made = d.nets["G"](batch["low"])
        found = dict(zip("GD", losses(d, batch["x"], made), strict=True))
        weights = {player: [*d.nets[player].parameters()] for player in "GD"}
        grads = {p: torch.autograd.grad(found[p], weights[p], retain_graph=True) for p in "GD"}
        for player, optimizer in optimizers.items():
            for weight, grad in zip(weights[player], grads[player], strict=True):
                weight.grad = grad
            optimizer.step()
    assert (d.apart() < 1e-10) == same


# ---- networks ----------------------------------------------------------------------------------------------------


def test_networks_of_the_papers_sizes() -> None:
    """Counted by layers: SRResNet and its critic, and RRDBNet as its authors have it (16.7 M)."""

    def count(net: nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    with torch.device("meta"):
        block = 2 * (64 * 64 * 9 + 2 * 64) + 1
        up = 2 * (64 * 256 * 9 + 256 + 1)
        ends = (3 * 81 * 64 + 64 + 1) + (64 * 64 * 9 + 2 * 64) + (64 * 81 * 3 + 3)
        assert count(srgan.Generator((3, 96, 96))) == 16 * block + up + ends
        pairs = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
        convs = sum(a * b * 9 + (b if a == 3 else 2 * b) for a, b in pairs)
        assert count(srgan.Discriminator((3, 96, 96))) == convs + 512 * 36 * 1024 + 1024 + 1024 + 1
        dense = sum((64 + 32 * i) * n * 9 + n for i, n in enumerate((32, 32, 32, 32, 64)))
        rest = (3 * 64 * 9 + 64) + 4 * (64 * 64 * 9 + 64) + (64 * 3 * 9 + 3)
        assert count(srgan.DenseGenerator((3, 128, 128))) == 23 * 3 * dense + rest == 16_697_987


def test_esrgan_starts_small_and_its_blocks_add_a_fifth() -> None:
    torch.manual_seed(0)
    net = srgan.DenseGenerator(SHAPE, width=8, blocks=1, growth=8)
    block = net.blocks[0]
    first = block.model[0].convs[0].weight
    assert first.std().item() == pytest.approx(0.1 * math.sqrt(2 / (8 * 9)), rel=0.1)
    x = torch.randn(1, 8, 5, 5)
    h = x
    for dense in block.model:
        seen = [h]
        for i, layer in enumerate(dense.convs):
            out = nn.functional.conv2d(torch.cat(seen, 1), layer.weight, layer.bias, padding=1)
            seen.append(torch.where(out > 0, out, 0.2 * out) if i < 4 else out)
        h = h + 0.2 * seen[-1]
    torch.testing.assert_close(block(x), x + 0.2 * h)


GENERATORS: dict[str, Callable[..., Any]] = {
    "srgan": lambda **keys: srgan.Generator(SHAPE, width=4, blocks=2, **keys),
    "esrgan": lambda **keys: srgan.DenseGenerator(SHAPE, width=4, blocks=1, growth=4, **keys),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_what_the_blocks_find_is_added_to_what_went_in(name: str) -> None:
    torch.manual_seed(0)
    net = GENERATORS[name]().eval()
    for weight in net.blocks[-1].parameters():
        nn.init.zeros_(weight)
    low = torch.randn(1, 1, 5, 7)
    torch.testing.assert_close(net(low), net.up(net.first(low)))
    assert net(low).std() > 0


def test_srgan_s_pictures_lie_in_the_range_that_it_names_and_its_critic_leaks_a_fifth() -> None:
    made = GENERATORS["srgan"]()(100 * torch.randn(1, 1, 5, 7))
    assert made.abs().max() <= 1 and srgan.Generator.values == "signed"
    slopes = [
        m.negative_slope for m in srgan.Discriminator(SHAPE, width=2, units=4).modules() if hasattr(m, "negative_slope")
    ]
    assert slopes == [0.2] * 9


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("name", GENERATORS)
def test_pictures_of_any_size_are_enlarged_and_reach_is_how_far_a_pixel_is_seen(name: str, scale: int) -> None:
    torch.manual_seed(0)
    net = GENERATORS[name](scale=scale).double().eval()
    net.check_size(5, 7)
    assert net(torch.zeros(2, 1, 5, 7, dtype=torch.float64)).shape == (2, 1, 5 * scale, 7 * scale)
    n = 2 * net.reach + 3
    x = torch.randn(1, 1, n, n, dtype=torch.float64, requires_grad=True)
    middle = net(x)[0, 0, (n // 2) * scale + scale // 2, (n // 2) * scale + scale // 2]
    rows = torch.autograd.grad(middle, x)[0][0, 0].abs().sum(1).nonzero()
    seen = max(n // 2 - int(rows.min()), int(rows.max()) - n // 2)
    assert net.reach - 2 <= seen <= net.reach
    with pytest.raises(ValueError, match=f"img_size is 15,16; .* multiples of {scale}.* the nearest is 16"):
        type(net)((1, 15, 16), scale=scale)


@pytest.mark.parametrize("name", GENERATORS)
def test_tiles_leave_no_seams(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = GENERATORS[name](scale=4).double().eval()
    sampler = Sampler(net, Prior(), maker=UPSCALE["upscale"])
    low = {"low": 2 * torch.rand(1, 1, 23, 41, dtype=torch.float64) - 1}
    whole = sampler.translated(low, [0])
    for tile in (7, 16):
        monkeypatch.setattr("gansmith.inference.TILE", tile)
        torch.testing.assert_close(sampler.translated(low, [0]), whole, rtol=0, atol=1e-12)
    net.reach = 0  # without a border there would be some
    assert (sampler.translated(low, [0]) - whole).abs().max() > 1e-6


def test_what_23_blocks_see_beyond_96_pixels_is_less_than_half_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of weights that see further than 10 pixels: those of the start do not."""
    torch.manual_seed(0)
    net = srgan.DenseGenerator((1, 128, 128), width=8, growth=8).eval()
    assert net.reach == 96
    for name, weight in net.blocks.named_parameters():
        if "convs" in name:
            weight.data.mul_(15)
    sampler = Sampler(net, Prior(), maker=UPSCALE["upscale"], values="unit")
    low = {"low": torch.rand(1, 1, 12, 260)}
    whole = sampler.translated(low, [0])
    monkeypatch.setattr("gansmith.inference.TILE", 50)
    assert (sampler.translated(low, [0]) - whole).abs().max() < 0.5 / 255
    net.reach = 10
    assert (sampler.translated(low, [0]) - whole).abs().max() > 2 / 255


# ---- features ----------------------------------------------------------------------------------------------------


def test_digit_features_are_the_classifier_s_whatever_the_values_and_the_colours() -> None:
    x = torch.rand(3, 1, 28, 28)
    expected = digits.load().trunk[:8](x)
    torch.testing.assert_close(perceptual.DigitFeatures(values="unit")(x), expected)
    torch.testing.assert_close(perceptual.DigitFeatures(values="signed")(2 * x - 1), expected)
    y = torch.rand(3, 1, 28, 28)
    coloured = perceptual.DigitFeatures(values="unit")(torch.cat((x, y), 1))
    torch.testing.assert_close(coloured, torch.cat((expected, digits.load().trunk[:8](y)), 1))
    mirrored = perceptual.DigitFeatures(values="unit")(torch.cat((y, x), 1))  # of the same mean
    assert (coloured - mirrored).abs().max() > 0.1
    assert perceptual.DigitFeatures(layer=2)(x).shape == (3, 16, 28, 28)


@pytest.fixture
def vgg(tmp_path: Path) -> Path:
    """Random weights of the first two layers, under torchvision's names."""
    torch.manual_seed(0)
    sizes = {"features.0": (64, 3), "features.2": (64, 64), "classifier.0": (2, 2)}
    tensors = {f"{k}.weight": torch.randn(b, a, 3, 3) / 9 for k, (b, a) in sizes.items()}
    tensors |= {f"{k}.bias": torch.randn(b) for k, (b, _) in sizes.items()}
    safetensors.torch.save_file(tensors, tmp_path / "vgg.safetensors")
    return tmp_path / "vgg.safetensors"


def test_vgg19_is_cut_after_a_layer_and_normalises_by_itself(vgg: Path) -> None:
    weights = safetensors.torch.load_file(vgg)
    x = torch.rand(2, 3, 6, 5)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    h = nn.functional.conv2d((x - mean) / std, weights["features.0.weight"], weights["features.0.bias"], padding=1)
    expected = nn.functional.conv2d(h.relu(), weights["features.2.weight"], weights["features.2.bias"], padding=1)
    net = perceptual.VGG19Features(COLOURS, layer=3, file=str(vgg), values="unit")
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(perceptual.VGG19Features(COLOURS, layer=4, file=str(vgg))(2 * x - 1), expected.relu())
    grey = x[:, :1]
    torch.testing.assert_close(net(grey), net(grey.expand(-1, 3, -1, -1)))


def test_other_files_than_vgg19_are_refused_and_nothing_is_unpickled(
    vgg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UserError, match=r"vgg.safetensors is not VGG19: it has no features\.5\.weight of \(128, 64, 3, 3\)"
    ):
        perceptual.VGG19Features(COLOURS, layer=8, file=str(vgg))
    for name, content, said in (
        ("a.pth", b"\x80\x04cos\nsystem\n", "is not vgg19-dcbb9e9d.pth, or not all of it: "),
        ("a.safetensors", b"nothing", "are damaged"),
    ):
        (vgg.parent / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            perceptual.VGG19Features(COLOURS, file=str(vgg.parent / name))
    with pytest.raises(ValueError, match="data.channels is 4; VGG19 looks at 1 or 3"):
        perceptual.VGG19Features((4, 16, 16), file=str(vgg))
    with pytest.raises(UserError, match="none.pth cannot be read: No such file"):
        perceptual.VGG19Features(COLOURS, file=str(vgg.parent / "none.pth"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(vgg.parent / "hub"))

    def offline(*args: Any, **options: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"could not be downloaded \(no network\): put vgg19-dcbb9e9d.pth into .*hub"):
        perceptual.VGG19Features(COLOURS)


def test_a_recipe_s_features_are_found_from_any_folder(
    vgg: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's full path stands in the run, whose features are the same or it does not go on."""
    monkeypatch.chdir(vgg.parent)
    features = {"name": "vgg19_features", "layer": 3, "file": vgg.name}
    flags = {**small_flags("srgan_x4", n_cpu=1), "networks.F": features, "channels": 1, "img_size": 16}
    options: dict[str, Any] = {"device": "cpu", "quiet": True}
    run = gansmith.train("srgan_x4", data=pictures, steps=1, out="run", overrides=flags, **options)
    monkeypatch.chdir(vgg.parent.parent)
    run = vgg.parent / run
    assert gansmith.plan(run).recipe.networks["F"].args["file"] == str(vgg)
    gansmith.train(run, steps=2, **options)
    weights = safetensors.torch.load_file(vgg)
    safetensors.torch.save_file({k: w + 1 for k, w in weights.items()}, vgg)
    with pytest.raises(UserError, match=r"networks\.F has other weights than this run was trained with"):
        gansmith.train(run, steps=3, **options)


# ---- as a person would -------------------------------------------------------------------------------------------


def test_the_second_phase_starts_from_the_first_and_enlarges_a_picture(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"device": "cpu", "data": pictures, "steps": 2}
    first = gansmith.train("srresnet", out=tmp_path / "1", overrides=small_flags("srresnet"), **options)
    flags = {**small_flags("srgan"), "start.run": str(first)}
    run = gansmith.train("srgan", out=tmp_path / "2", overrides=flags, **options)
    assert f"D starts anew: {first} has no such player" in capsys.readouterr().out
    before, after = (gansmith.load(r, round=n, device="cpu").nets[0] for r, n in ((first, 2), (run, 0)))
    assert all(map(torch.equal, before.state_dict().values(), after.state_dict().values()))
    grey = np.random.default_rng(0).integers(0, 256, (13, 9), np.uint8)
    Image.fromarray(grey).save(tmp_path / "small.png")
    (made,) = gansmith.translate(run, tmp_path / "small.png", out=tmp_path / "out", device="cpu")
    with Image.open(made) as image:
        assert image.size == (36, 52)
    (alone,) = gansmith.load(run, device="cpu").translate([grey[None]])
    assert alone.shape == (1, 52, 36)
    with Image.open(run / "growth" / "000002.png") as strip:  # low, made, true: all as large as the truth
        assert strip.size == (2 * 18 + 2, 3 * 18 + 2)


def test_scales_that_differ_are_said(pictures: Path) -> None:
    made = experiment_of("srresnet", str(pictures), **{"networks.G.scale": 2})
    with pytest.raises(
        UserError, match=r"G makes \(4, 4\) into \(8, 8\), and x is \(16, 16\): networks.G.scale must be"
    ):
        rounds(made, 1)
    with pytest.raises(UserError, match="the pictures are 16,16, and low has scale 3: it must divide both"):
        rounds(experiment_of("srresnet", str(pictures), **{"views.0.scale": 3}), 1)


def test_luminance_is_bt_601_without_a_border() -> None:
    x = torch.rand(2, 3, 20, 22, dtype=torch.float64)
    r, g, b = x[:, 0], x[:, 1], x[:, 2]
    y = (16 + 65.481 * r + 128.553 * g + 24.966 * b) / 255
    torch.testing.assert_close(luminance(x)[:, 0], y[:, 4:-4, 4:-4])
    white = torch.ones(1, 1, 9, 9, dtype=torch.float64)
    assert luminance(white).item() == pytest.approx(235 / 255) and luminance(0 * white).item() == pytest.approx(
        16 / 255
    )


@pytest.mark.slow
@pytest.mark.large
@pytest.mark.parametrize("name", ["srgan_x4", "esrgan_x4"])
def test_a_super_resolver_of_the_papers_size_trains_and_enlarges(name: str, tmp_path: Path) -> None:
    """With a VGG19 of random weights."""
    from torchvision.models import vgg19

    weights = {f"features.{k}": w for k, w in vgg19().features.state_dict().items()}
    safetensors.torch.save_file(weights, tmp_path / "vgg.safetensors")
    data = save_noise(tmp_path / "data", 3, size=(128, 128))
    flags = {"networks.F.file": str(tmp_path / "vgg.safetensors"), "batch_size": 2, "data.validation": 1}
    run = gansmith.train(
        name, data=data, out=tmp_path / "run", steps=2, device="cpu", quiet=True, overrides={**flags, "log_interval": 1}
    )
    rows = read_metrics(run / "metrics.jsonl")
    assert len(rows) == 2 and all(np.isfinite(v) for row in rows for k, v in row.items() if k.startswith("loss/"))
    (made,) = gansmith.load(run, device="cpu").translate([np.zeros((3, 17, 30), np.uint8)])
    assert made.shape == (3, 68, 120)
