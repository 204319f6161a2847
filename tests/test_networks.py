"""Networks: sizes counted by hand, shapes, ranges, refusals; and the one place that reads discriminators' outputs."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gansmith.games.critique import Critique, mean, per_sample, score, scores
from gansmith.networks import NETWORKS, aae, began, blocks, cgan, cyclegan, discogan, infogan, mlp, pix2pix, r3gan
from gansmith.networks.infogan import Heads

Shape = tuple[int, int, int]
LATENT, CLASSES = 6, 4

# How small each network can be and still have all its parts; dropout that never goes off is off here.
SMALL: dict[str, dict[str, Any]] = {
    **{"mlp_generator": {"widths": (8, 12, 16)}, "mlp_discriminator": {"widths": (16, 8)}},
    **dict.fromkeys(("mlp_clipped_critic", "point_generator"), {"widths": (16, 8)}),
    **dict.fromkeys(("began_generator", "conv_discriminator"), {"width": 4}),
    **dict.fromkeys(("infogan_generator", "infogan_discriminator"), {"width": 4}),
    **dict.fromkeys(("cgan_conv_generator", "cgan_conv_discriminator"), {"width": 4}),
    "ebgan_autoencoder": {"width": 4, "code": 6},
    **dict.fromkeys(("acgan_discriminator", "sgan_discriminator", "small_critic"), {"width": 4}),
    "cluster_gan_encoder": {"width": 4, "categories": 2},
    **{"began_autoencoder": {"width": 4, "code": 6}, "unet": {"width": 4, "dropout": 0.0}},
    **{"cgan_generator": {"widths": (16, 17, 18)}, "cgan_discriminator": {"units": (8, 9, 10)}},
    **dict.fromkeys(("aae_encoder", "aae_decoder", "aae_critic"), {"widths": (24, 20)}),
    **dict.fromkeys(("pair_critic", "patch_critic"), {"width": 4, "patch": 16}),
    **dict.fromkeys(("dcgan_generator", "dcgan_discriminator", "upsampling_generator", "dropout_critic"), {"width": 4}),
    **dict.fromkeys(("sn_critic", "projection_critic"), {"width": 4}),
    **dict.fromkeys(("r3gan_generator", "r3gan_critic", "photo_generator", "photo_critic"), {"width": 4, "most": 8}),
    "resnet_translator": {"width": 4, "blocks": 2},
    **dict.fromkeys(("discogan_translator", "discogan_critic"), {"width": 4, "depth": 3}),
    "clipped_patch_critic": {"width": 4, "patch": 16},
    "bicyclegan_unet": {"width": 4, "dropout": 0.0},
    **{"pixelda_translator": {"width": 4, "blocks": 2}, "pixelda_critic": {"width": 4}},
    "pixelda_classifier": {"maps": (4, 6), "units": 8},
    "context_encoder": {"width": 4, "bottleneck": 6},
    **dict.fromkeys(("cogan_generator", "cogan_discriminator"), {"width": 4}),
    **{"stargan_translator": {"width": 4, "blocks": 2}, "stargan_critic": {"width": 4}},
    **dict.fromkeys(("line_generator", "gan2014_generator"), {"widths": (8, 12)}),
    "gan2014_fronted_generator": {"widths": (8, 12), "front": 12, "inner_dim": 10},
    **{"gan2014_conv_generator": {"width": 16, "maps": 4}, "gan2014_discriminator": {"units": (16, 16)}},
    "gan2014_conv_discriminator": {"maps": (4, 4, 6), "units": 16},
}
# Those that give or take codes, or have a forward pass in each direction: tested in test_oracle_codes.py.
CODES = {"unit_encoder", "unit_shared", "unit_decoder", "unit_critic", "munit_autoencoder", "munit_critic"}
CODES |= {"bicyclegan_encoder", "bicyclegan_critic"}  # in test_oracle_more.py
# Those that enlarge pictures or look at them for a loss, and their critic: in test_oracle_super.py.
CODES |= {"srgan_generator", "srgan_critic", "esrgan_generator", "digit_features", "vgg19_features"}
CODES |= {"aided_critic"}  # in test_aided.py
ROWS = [row for row in NETWORKS if row not in CODES]
ONLY_32 = {"gan2014_conv_generator", "gan2014_conv_discriminator"}
# What comes out, where it is not the picture of a generator, a translator or an auto-encoder.
GIVES = {
    **dict.fromkeys(
        ("mlp_discriminator", "conv_discriminator", "cgan_discriminator", "aae_critic", "small_critic"), "scores"
    ),
    **dict.fromkeys(("dcgan_discriminator", "dropout_critic", "sn_critic", "projection_critic"), "scores"),
    **dict.fromkeys(
        ("r3gan_critic", "cgan_conv_discriminator", "gan2014_discriminator", "gan2014_conv_discriminator"), "scores"
    ),
    **{"mlp_clipped_critic": "scores", "ebgan_autoencoder": "coded", "photo_critic": "scores"},
    **{"discogan_critic": "scores", "clipped_patch_critic": "map", "stargan_critic": "told"},
    **{"cogan_generator": "two pictures", "cogan_discriminator": "two scores"},
    **{"pixelda_critic": "scores", "pixelda_classifier": "told classes"},
    **{"acgan_discriminator": "judged", "sgan_discriminator": "classes", "cluster_gan_encoder": "encoded"},
    **{"infogan_discriminator": "heads", "aae_encoder": "codes", "pair_critic": "map", "patch_critic": "map"},
}
BOUNDED = ("mlp_generator", "infogan_generator", "cgan_generator", "cgan_conv_generator", "aae_decoder", "unet")
BOUNDED += ("dcgan_generator", "upsampling_generator", "photo_generator")
BOUNDED += ("context_encoder", "discogan_translator", "stargan_translator", "bicyclegan_unet", "pixelda_translator")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def make(row: str, shape: Shape, latent_dim: int = LATENT, classes: int = CLASSES, **keys: Any) -> nn.Module:
    """The network of a row, given what it asks for by name."""
    module, _, name = NETWORKS[row].partition(":")
    cls = getattr(importlib.import_module(module), name)
    handed = {"latent_dim": latent_dim, "shape": shape, "classes": classes, "mean_image": None}
    return cls(**{name: handed[name] for name in inspect.signature(cls).parameters if name in handed}, **keys)


def inputs(net: nn.Module, n: int, shape: Shape) -> list[Tensor]:
    """What its forward pass asks for by name: z, y, or pictures x, a, b."""
    names = inspect.signature(net.forward).parameters
    sizes = {"z": (LATENT,), "bits": (CLASSES,)}
    float_of = {name: torch.randn(n, *sizes.get(name, shape), dtype=torch.float64) for name in names}
    return [torch.arange(n) % CLASSES if name == "y" else float_of[name] for name in names]


def tensors(output: Any) -> list[Tensor]:
    """Every tensor in a network's output."""
    return [output] if isinstance(output, Tensor) else list(output)


def linear(a: int, b: int) -> int:
    return a * b + b


def conv(a: int, b: int, side: int) -> int:
    return a * b * side**2 + b


def normed(a: int, b: int, side: int) -> int:
    """A convolution without biases, and what follows it, with a scale and a shift for each map."""
    return a * b * side**2 + 2 * b


POST_G = linear(100, 128) + linear(128, 256) + linear(256, 512) + linear(512, 1024) + linear(1024, 784)
POST_G += 2 * (256 + 512 + 1024)  # BatchNorm: a scale and a shift for each unit
POST_D = linear(784, 512) + linear(512, 256) + linear(256, 1)
BEGAN_DECODER = linear(64, 16 * 64) + 6 * conv(16, 16, 3) + conv(16, 1, 3)
BEGAN_ENCODER = (
    (conv(1, 16, 3) + 3 * conv(16, 16, 3))  # at 32x32, and down
    + (conv(16, 32, 3) + 2 * conv(32, 32, 3))  # at 16x16, and down
    + (conv(32, 48, 3) + conv(48, 48, 3) + linear(48 * 64, 64))  # at 8x8
)
INFOGAN_G = linear(74, 1024) + linear(1024, 128 * 49) + conv(128, 64, 4) + conv(64, 1, 4) + 2 * (1024 + 128 * 49 + 64)
INFOGAN_D = conv(1, 64, 4) + conv(64, 128, 4) + linear(128 * 49, 1024) + linear(1024, 1) + 2 * (128 + 1024)
INFOGAN_D += linear(1024, 128) + 2 * 128 + linear(128, 10) + linear(128, 2)  # the head Q
CGAN_G = linear(100, 200) + linear(10, 1000) + linear(1200, 1200) + linear(1200, 784)
CGAN_CONV_G = linear(74, 256) + linear(256, 32 * 49) + conv(32, 16, 4) + conv(16, 1, 4) + 2 * (256 + 32 * 49 + 16)
HIDDEN = linear(32 * 49, 256)
CGAN_D = linear(784, 240 * 5) + linear(10, 50 * 5) + linear(290, 240 * 4) + linear(240, 1)
UNET = (
    (conv(3, 64, 4) + normed(64, 128, 4) + normed(128, 256, 4) + normed(256, 512, 4))
    + (3 * normed(512, 512, 4) + conv(512, 512, 4) + normed(512, 512, 4) + 3 * normed(1024, 512, 4))
    + (normed(1024, 256, 4) + normed(512, 128, 4) + normed(256, 64, 4) + conv(128, 3, 4))
)
PATCH_70 = normed(64, 128, 4) + normed(128, 256, 4) + normed(256, 512, 4) + conv(512, 1, 4)
RESNET_9 = normed(3, 64, 7) + normed(64, 128, 3) + normed(128, 256, 3) + 9 * 2 * normed(256, 256, 3)
RESNET_9 += normed(256, 128, 3) + normed(128, 64, 3) + conv(64, 3, 7)
DISCOGAN_D = conv(3, 64, 4) + normed(64, 128, 4) + normed(128, 256, 4) + normed(256, 512, 4)
DISCOGAN_G = DISCOGAN_D + normed(512, 256, 4) + normed(256, 128, 4) + normed(128, 64, 4) + conv(64, 3, 4)
COGAN_G = normed(100, 1024, 4) + normed(1024, 512, 3) + normed(512, 256, 3) + normed(256, 128, 3)
COGAN_G += 4 + 2 * conv(128, 1, 6)  # one slope for each PReLU, and a layer for each domain
COGAN_D = 2 * conv(1, 20, 5) + conv(20, 50, 5) + linear(50 * 16, 500) + 1 + linear(500, 1)
STARGAN_G = normed(13, 64, 7) + normed(64, 128, 4) + normed(128, 256, 4) + 6 * 2 * normed(256, 256, 3)
STARGAN_G += normed(256, 128, 4) + normed(128, 64, 4) + conv(64, 3, 7)
STARGAN_D = conv(3, 64, 4) + sum(conv(n, 2 * n, 4) for n in (64, 128, 256, 512, 1024)) + 2048 * (9 + 10 * 4)
BICYCLE_G = UNET + 8 * 16 * (64 + 128 + 256 + 5 * 512)  # 8 numbers of z before each of the 8 halvings
BICYCLE_E = conv(3, 64, 4) + 2 * linear(256, 8)
BICYCLE_E += sum(
    2 * a + normed(a, a, 3) + conv(a, b, 3) + conv(a, b, 1) for a, b in ((64, 128), (128, 192), (192, 256), (256, 256))
)
BICYCLE_D = conv(3, 64, 4) + PATCH_70 + conv(3, 32, 4) + normed(32, 64, 4) + normed(64, 128, 4) + normed(128, 256, 4)
BICYCLE_D += conv(256, 1, 4)
PIXELDA_G = linear(10, 1024) + 2 + conv(4, 64, 3) + 12 * (conv(64, 64, 3) + 2 * 64) + conv(64, 3, 1)
PIXELDA_D = conv(3, 64, 3) + sum(conv(n, 2 * n, 3) + 4 * n for n in (64, 128, 256)) + linear(512 * 16, 1)
PIXELDA_T = conv(3, 32, 5) + conv(32, 48, 5) + linear(48 * 64, 100) + linear(100, 100) + linear(100, 10)
DCGAN_G = linear(100, 1024 * 16) + 2 * 1024  # the maps of the paper's figure 1
DCGAN_G += normed(1024, 512, 4) + normed(512, 256, 4) + normed(256, 128, 4) + conv(128, 3, 4)
DCGAN_D = conv(3, 128, 4) + normed(128, 256, 4) + normed(256, 512, 4) + normed(512, 1024, 4) + linear(1024 * 16, 1)
SCRIPT_G = linear(100, 128 * 64) + 2 * 128 + normed(128, 128, 3) + normed(128, 64, 3) + conv(64, 1, 3)
SCRIPT_D = conv(1, 16, 3) + sum(conv(n, 2 * n, 3) + 2 * 2 * n for n in (16, 32, 64)) + linear(128 * 4, 1)
SN_TRUNK = sum(conv(a, b, 3) + conv(b, b, 4) for a, b in ((3, 64), (64, 128), (128, 256))) + conv(256, 512, 3)
R3GAN_STAGE = 2 * (128 * 256 + 256) + 256 * 16 * 9  # of 128 maps: two biases of 256, 16 groups of 16 maps
AAE = linear(784, 1000) + linear(1000, 1000)
EBGAN_D = conv(1, 32, 4) + conv(32, 64, 4) + linear(64 * 49, 32)  # to the code
EBGAN_D += linear(32, 64 * 49) + conv(64, 32, 4) + conv(32, 1, 4)
MNIST, FACADES = (1, 28, 28), (3, 256, 256)
# Those of the 2014 paper are counted beside its other figures.
SIZES: list[tuple[str, int, Shape, Mapping[str, Any], int]] = [
    *(("mlp_generator", 100, MNIST, {}, POST_G), ("mlp_discriminator", 0, MNIST, {}, POST_D)),
    ("began_generator", 64, (1, 32, 32), {"width": 16}, BEGAN_DECODER),
    ("began_autoencoder", 0, (1, 32, 32), {"width": 16}, BEGAN_ENCODER + BEGAN_DECODER),
    *(("infogan_generator", 74, MNIST, {}, INFOGAN_G), ("infogan_discriminator", 0, MNIST, {}, INFOGAN_D)),
    ("conv_discriminator", 0, MNIST, {}, conv(1, 32, 4) + normed(32, 64, 4) + linear(64 * 49, 1)),
    ("conv_discriminator", 0, MNIST, {"norm": False}, conv(1, 32, 4) + conv(32, 64, 4) + linear(64 * 49, 1)),
    ("ebgan_autoencoder", 0, MNIST, {}, EBGAN_D),
    ("line_generator", 1, (1, 1, 1), {}, linear(1, 1) + linear(1, 64) + linear(64, 64) + linear(64, 1)),
    *(("cgan_generator", 100, MNIST, {}, CGAN_G), ("cgan_discriminator", 0, MNIST, {}, CGAN_D)),
    ("cgan_conv_generator", 64, MNIST, {"width": 16}, CGAN_CONV_G),
    ("small_critic", 0, MNIST, {}, conv(1, 16, 4) + normed(16, 32, 4) + HIDDEN + linear(256, 1)),
    ("acgan_discriminator", 0, MNIST, {"width": 16}, conv(1, 16, 4) + normed(16, 32, 4) + HIDDEN + linear(256, 11)),
    ("sgan_discriminator", 0, MNIST, {"width": 16}, conv(1, 16, 4) + normed(16, 32, 4) + HIDDEN + linear(256, 11)),
    ("cluster_gan_encoder", 40, MNIST, {}, conv(1, 16, 4) + conv(16, 32, 4) + HIDDEN + linear(256, 40)),
    ("cgan_conv_discriminator", 0, MNIST, {}, conv(11, 32, 4) + normed(32, 64, 4) + linear(64 * 49, 1)),
    ("aae_encoder", 8, MNIST, {}, AAE + linear(1000, 8)),
    ("aae_encoder", 8, MNIST, {"posterior": "gaussian"}, AAE + linear(1000, 16)),
    ("aae_decoder", 8, MNIST, {}, linear(8, 1000) + linear(1000, 1000) + linear(1000, 784)),
    ("aae_critic", 8, MNIST, {}, linear(8, 1000) + linear(1000, 1000) + linear(1000, 1)),
    *(("dcgan_generator", 100, (3, 64, 64), {}, DCGAN_G), ("dcgan_discriminator", 0, (3, 64, 64), {}, DCGAN_D)),
    *(("upsampling_generator", 100, (1, 32, 32), {}, SCRIPT_G), ("dropout_critic", 0, (1, 32, 32), {}, SCRIPT_D)),
    ("sn_critic", 0, (3, 32, 32), {}, SN_TRUNK + linear(512 * 16, 1)),
    ("projection_critic", 0, (3, 32, 32), {}, SN_TRUNK + linear(512, 1) + 10 * 512),
    ("r3gan_generator", 64, (3, 32, 32), {}, (64 + 16) * 128 + 4 * R3GAN_STAGE + 128 * 3),
    ("r3gan_critic", 0, (3, 32, 32), {}, 3 * 128 + 4 * R3GAN_STAGE + 17 * 128),
    *(("unet", 0, FACADES, {}, UNET), ("resnet_translator", 0, FACADES, {"blocks": 9}, RESNET_9)),
    *((f"{name}_critic", 0, FACADES, {}, conv(c, 64, 4) + PATCH_70) for name, c in (("pair", 6), ("patch", 3))),
    ("discogan_translator", 0, (3, 64, 64), {}, DISCOGAN_G),
    ("discogan_critic", 0, (3, 64, 64), {}, DISCOGAN_D + linear(512 * 16, 1)),
    ("clipped_patch_critic", 0, FACADES, {}, conv(3, 64, 4) + PATCH_70),
    *(("cogan_generator", 100, MNIST, {}, COGAN_G), ("cogan_discriminator", 0, MNIST, {}, COGAN_D)),
    *(("stargan_translator", 0, (3, 128, 128), {}, STARGAN_G), ("stargan_critic", 0, (3, 128, 128), {}, STARGAN_D)),
    *(("bicyclegan_unet", 8, FACADES, {}, BICYCLE_G), ("bicyclegan_encoder", 8, FACADES, {}, BICYCLE_E)),
    ("bicyclegan_critic", 0, FACADES, {}, BICYCLE_D),
    ("pixelda_translator", 10, (3, 32, 32), {}, PIXELDA_G),
    *(("pixelda_critic", 0, (3, 32, 32), {}, PIXELDA_D), ("pixelda_classifier", 0, (3, 32, 32), {}, PIXELDA_T)),
    ("patch_critic", 0, (3, 286, 286), {"patch": 286}, conv(3, 64, 4) + PATCH_70 + 2 * normed(512, 512, 4)),
]


@pytest.mark.parametrize(("row", "latent", "shape", "keys", "counted"), SIZES)
def test_sizes_are_those_counted_by_hand(row: str, latent: int, shape: Shape, keys: Any, counted: int) -> None:
    with torch.device("meta"):
        net = make(row, shape, latent, classes=10, **keys)
    assert sum(p.numel() for p in net.parameters()) == counted


def test_the_posts_numbers() -> None:
    assert (POST_G, POST_D) == (1_510_032, 533_505)
    assert (round(SCRIPT_G / 1e6, 2), round(SCRIPT_D / 1e6, 3)) == (1.05, 0.098)  # those of its dcgan.py
    with torch.device("meta"):
        g, d = mlp.Generator(100, MNIST), mlp.Discriminator(MNIST)
    norms = [m for m in g.modules() if isinstance(m, nn.BatchNorm1d)]
    assert [(m.num_features, m.eps, m.momentum) for m in norms] == [(n, 0.8, 0.1) for n in (256, 512, 1024)]
    assert {m.negative_slope for m in (*g.modules(), *d.modules()) if isinstance(m, nn.LeakyReLU)} == {0.2}
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.Sigmoid)) for m in d.modules())  # a logit


def test_eps_divides_as_it_should() -> None:
    """The first BatchNorm of the post's G against its formula: (h - mean) / sqrt(var + 0.8)."""
    net = mlp.Generator(6, (1, 4, 4), widths=(5, 7, 9)).double()
    h = net.model[:3](torch.randn(11, 6, dtype=torch.float64))
    torch.testing.assert_close(net.model[3](h), (h - h.mean(0)) / torch.sqrt(h.var(0, unbiased=False) + 0.8))


DEVIATIONS = [("aae_decoder", 0.01), ("unet", 0.02), ("patch_critic", 0.02), ("resnet_translator", 0.02)]
DEVIATIONS += [(row, 0.02) for row in ("dcgan_generator", "dcgan_discriminator", "upsampling_generator")]


@pytest.mark.parametrize(("row", "deviation"), DEVIATIONS)
def test_weights_start_normal_and_biases_at_zero(row: str, deviation: float) -> None:
    for layer in make(row, (3, 64, 64)).modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            w, n = layer.weight.detach().double() / deviation, layer.weight.numel()
            for power, expected, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
                assert abs(w.pow(power).mean().item() - expected) < 5 * math.sqrt(variance / n)
            assert layer.bias is None or layer.bias.abs().max() == 0


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 16, 48)])
@pytest.mark.parametrize("row", ROWS)
def test_what_comes_out_follows_the_shape_of_the_pictures(row: str, shape: Shape) -> None:
    if row in ONLY_32:
        shape = (shape[0], 32, 32)
    net = make(row, shape, **SMALL[row]).double()
    output = net(*inputs(net, 5, shape))
    if GIVES.get(row) == "heads":
        assert isinstance(output, Heads)
        assert [tuple(head.shape) for head in output] == [(5,), (5, 10), (5, 2)]
    elif GIVES.get(row) in ("two pictures", "two scores", "coded", "judged", "told", "encoded"):
        expected = {
            "two pictures": [(5, *shape)] * 2,
            "two scores": [(5,)] * 2,
            "coded": [(5, *shape), (5, 6)],
            "judged": [(5,), (5, CLASSES)],
            "told": [(5, *(2 * side // min(shape[1:]) for side in shape[1:])), (5, CLASSES)],
            "encoded": [(5, LATENT - 2), (5, 2)],
        }
        assert [tuple(part.shape) for part in output] == expected[GIVES[row]]
    else:
        plain = {"scores": (5,), "codes": (5, LATENT), "map": (5, shape[1] // 2 - 2, shape[2] // 2 - 2)}
        plain |= {"classes": (5, CLASSES + 1), "told classes": (5, CLASSES)}
        assert output.shape == plain.get(GIVES.get(row, "pictures"), (5, *shape))


@pytest.mark.parametrize("row", ROWS)
def test_gradient_reaches_the_input_and_every_weight(row: str) -> None:
    """In float64, where rounding noise does not pass for a gradient; in eval mode, where nothing is dropped."""
    shape = (2, 32, 32)
    net = make(row, shape, **SMALL[row]).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.01)  # a layer that starts at 0 lets no gradient through yet
    given = [x.requires_grad_(x.is_floating_point()) for x in inputs(net, 6, shape)]
    sum((h * torch.randn_like(h)).sum() for h in tensors(net(*given))).backward()
    assert all((x.grad.abs().flatten(1).sum(1) > 0).all() for x in given if x.requires_grad)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("row", ROWS)
def test_a_sample_does_not_depend_on_its_neighbours(row: str) -> None:
    """Alone it comes out as in a batch: in eval mode, and in training too if there is neither BatchNorm nor chance."""
    shape = (2, 32, 32)
    net = make(row, shape, **SMALL[row]).double()
    mixing = (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout)
    for training in (False, True)[: 1 if any(isinstance(m, mixing) for m in net.modules()) else 2]:
        given = inputs(net.train(training), 3, shape)
        together = tensors(net(*given))
        for i in range(3):
            for alone, all_three in zip(tensors(net(*(x[i : i + 1] for x in given))), together, strict=True):
                torch.testing.assert_close(alone[0], all_three[i], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("row", [*BOUNDED, "resnet_translator", "began_generator"])
def test_pictures_are_inside_the_range_that_the_network_names(row: str) -> None:
    shape = (1, 32, 32)
    net = make(row, shape, **SMALL[row]).double()
    last = [p for p in net.parameters() if p.dim() > 1][-1]
    with torch.no_grad():
        last.mul_(1e6 / last.abs().max())  # far beyond what a tanh or a sigmoid lets through
    x = net(*inputs(net, 8, shape))
    if row == "began_generator":  # linear
        assert not hasattr(net, "values") and x.abs().max() > 1000
        return
    low = {"signed": -1, "unit": 0}[net.values]
    assert x.min() >= low and x.max() <= 1 and (x > 0.9).any() and (x < low + 0.1).any()


def test_infogan_heads_are_logits_and_share_the_trunk() -> None:
    net = infogan.Discriminator((1, 8, 8), width=4)
    heads = net(torch.randn(64, 1, 8, 8))
    assert not torch.allclose(heads.category.sum(1), torch.ones(64))  # no softmax
    for head in heads:
        torch.autograd.grad(head.square().sum(), [*net.trunk.parameters()], retain_graph=True)  # or an error
    own = torch.autograd.grad(heads.score.sum(), list(net.q.parameters()), allow_unused=True)
    assert own == (None,) * len(own)


def test_a_label_is_a_column_of_weights() -> None:
    """D's layer on a one-hot y: unit u of label k is the largest of w[(p, u), k] + b[(p, u)] over its pieces p."""
    net = cgan.Discriminator((1, 4, 4), CLASSES, units=(3, 5, 4), pieces=(2, 3, 2)).eval()
    first = net.y[0].linear
    x, y = torch.randn(4, 1, 4, 4), torch.tensor([2, 0, 3, 2])
    expected = [
        [max(first.weight[p * 5 + u, k].item() + first.bias[p * 5 + u].item() for p in range(3)) for u in range(5)]
        for k in y.tolist()
    ]
    both = torch.cat((net.x(x.flatten(1)), torch.tensor(expected)), 1)
    torch.testing.assert_close(net(x, y), net.model(both).squeeze(1))


def test_a_gaussian_posterior_is_drawn_in_training_and_its_mean_in_eval_mode() -> None:
    net = aae.Encoder(2, (1, 3, 3), widths=(5,), posterior="gaussian").double()
    with torch.no_grad():
        net.model[-1].bias.copy_(torch.tensor([1.0, -2.0, 2 * math.log(0.5), 2 * math.log(3.0)]))
    n = 40_000
    x = torch.zeros(n, 1, 3, 3, dtype=torch.float64)  # the first layer starts without bias: the last one's is all
    z = net(x)
    for i, (mu, sigma) in enumerate(((1.0, 0.5), (-2.0, 3.0))):
        assert abs(z[:, i].mean().item() - mu) < 5 * sigma / math.sqrt(n)
        assert abs(z[:, i].var().item() / sigma**2 - 1) < 5 * math.sqrt(2 / n)
    assert torch.equal(net.eval()(x[:1]), torch.tensor([[1.0, -2.0]], dtype=torch.float64))


def test_the_unets_dropout_never_goes_off() -> None:
    net, a = pix2pix.UNet((1, 32, 32), width=4).eval(), torch.randn(1, 1, 32, 32)
    assert [any(isinstance(m, blocks.AlwaysDropout) for m in layers) for layers in net.up] == [True] * 3 + [False] * 2
    one, other = net(a), net(a)
    torch.manual_seed(5)
    again = net(a)
    torch.manual_seed(5)
    assert not torch.equal(one, other) and torch.equal(net(a), again)
    kept = blocks.AlwaysDropout(0.25)(torch.ones(40_000))
    assert set(kept.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs((kept == 0).float().mean().item() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 40_000)


@pytest.mark.parametrize("patch", [16, 34, 70, 142, 286])
def test_a_score_sees_its_patch_and_no_more(patch: Any) -> None:
    """By arithmetic over the layers, and by where the gradient of one score is not 0, without the norms."""
    net = blocks.PatchCritic((1, 300, 300), width=1, patch=patch).double()
    sees = 1
    for layer in reversed([m for m in net.modules() if isinstance(m, nn.Conv2d)]):
        sees = (sees - 1) * layer.stride[0] + layer.kernel_size[0]
    assert sees == patch
    for i, layer in enumerate(net.model):
        if isinstance(layer, nn.InstanceNorm2d):
            net.model[i] = nn.Identity()  # its mean and variance look at the whole map
    x = torch.randn(1, 1, 300, 332, dtype=torch.float64, requires_grad=True)
    found = net(x)
    (grad,) = torch.autograd.grad(found[0, found.shape[1] // 2, found.shape[2] // 2], x)
    rows, columns = grad[0, 0].any(1).nonzero(), grad[0, 0].any(0).nonzero()
    assert (rows[-1] - rows[0] + 1).item() == (columns[-1] - columns[0] + 1).item() == patch


@pytest.mark.parametrize(
    ("row", "keys", "size", "nearest"),
    [
        *(("began_generator", {}, (n, n), str(m)) for n, m in ((1, 2), (27, 28), (63, 64), (65, 64), (100, 96))),
        ("began_autoencoder", {}, (50, 62), "48,64"),
        *(("infogan_generator", {}, (n, n), str(m)) for n, m in ((29, 28), (31, 32), (1, 4), (2, 4), (5, 4), (7, 8))),
        *(("infogan_generator", {}, (32, 62), "32,64"), ("infogan_discriminator", {}, (30, 45), "32,44")),
        *((f"cgan_conv_{player}", {}, (30, 45), "32,44") for player in ("generator", "discriminator")),
        *(("conv_discriminator", {}, (28, 30), "28,32"), ("resnet_translator", {}, (4, 4), "8")),
        ("ebgan_autoencoder", {}, (30, 45), "32,44"),
        *(("acgan_discriminator", {}, (30, 45), "32,44"), ("sgan_discriminator", {}, (4, 4), "8")),
        *(("unet", {}, (28, 28), "32"), ("unet", {}, (24, 96), "32,96"), ("unet", {"depth": 5}, (64, 48), "64")),
        *(("unet", {"depth": 8}, (100, 600), "256,512"), ("resnet_translator", {}, (30, 45), "32,44")),
        *((f"dcgan_{player}", {}, (30, 45), "32,44") for player in ("generator", "discriminator")),
        *(
            ("dcgan_generator", {}, (4, 4), "8"),
            ("sn_critic", {}, (29, 29), "28"),
            ("r3gan_critic", {}, (31, 31), "32"),
        ),
        *(("upsampling_generator", {}, (30, 30), "32"), ("dropout_critic", {}, (28, 28), "32")),
        *(("stargan_translator", {}, (30, 45), "32,44"), ("stargan_critic", {"layers": 4}, (8, 32), "16,32")),
        *(("patch_critic", {"patch": 70}, (16, 16), "24"), ("pair_critic", {"patch": 34}, (64, 11), "64,12")),
    ],
)
def test_a_size_that_cannot_be_is_refused_with_the_nearest(row: str, keys: Any, size: Any, nearest: str) -> None:
    small = {**SMALL[row], **keys}
    text = f"{size[0]}" if size[0] == size[1] else f"{size[0]},{size[1]}"
    with torch.device("meta"):
        with pytest.raises(ValueError, match=f"^img_size is {text}; .*the nearest is {nearest}$"):
            make(row, (1, *size), **small)
        h, _, w = nearest.partition(",")
        make(row, (1, int(h), int(w or h)), **small)


@pytest.mark.parametrize(
    ("size", "smallest"),
    [
        ((28, 28), (7, 7)),
        ((32, 32), (4, 4)),
        ((64, 64), (4, 4)),
        ((8, 8), (4, 4)),
        ((12, 20), (6, 10)),
        ((48, 32), (6, 4)),
    ],
)
def test_dcgan_doubles_as_often_as_it_fits(size: tuple[int, int], smallest: tuple[int, int]) -> None:
    net = make("dcgan_generator", (1, *size), width=1)
    assert next(m.unflattened_size for m in net.modules() if isinstance(m, nn.Unflatten))[1:] == smallest
    assert net.eval()(torch.zeros(1, LATENT)).shape == (1, 1, *size)


def test_up_conv_is_a_doubling_and_a_convolution() -> None:
    """Nearest-neighbour copies and a 3x3 convolution with a border of zeros, in value and in every gradient."""
    layer = blocks.UpConv(3, 5).double()
    x = torch.randn(2, 3, 4, 7, dtype=torch.float64, requires_grad=True)
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    results = [layer(x), nn.functional.conv2d(doubled, layer.weight, layer.bias, padding=1)]
    along = torch.randn_like(results[0])
    found, expected = ([y, *torch.autograd.grad((y * along).sum(), [x, layer.weight, layer.bias])] for y in results)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-12


def test_spectral_norm_becomes_1_by_iterations_after_steps() -> None:
    """Of linear maps, of convolutions as matrices of their outputs' rows, and of embeddings; passes iterate nothing."""
    net = make("projection_critic", (1, 8, 8), width=3).double()
    layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Embedding))]

    def norms() -> list[float]:
        return [torch.linalg.matrix_norm(m.weight.flatten(1), 2).item() for m in layers]

    for _ in range(2):
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.randn_like(p))  # as after a step, and a large one
        before = norms()
        net(torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1]))
        assert norms() == before and max(before) > 1.1
        for _ in range(300):
            net.constrain()
        assert norms() == pytest.approx([1.0] * 5, abs=1e-4)


def test_a_projection_is_linear_in_the_label_s_vector() -> None:
    """D(x, y) - psi(phi(x)) = <V y, phi(x)>: the difference of two labels sees phi along the difference of vectors."""
    net = make("projection_critic", (1, 8, 8), width=3).double()
    x, phi = torch.randn(5, 1, 8, 8, dtype=torch.float64), []
    net.psi.register_forward_pre_hook(lambda layer, args: phi.append(args[0]))
    one, other = (net(x, torch.full((5,), y)) for y in (1, 3))
    v = net.embed.weight
    torch.testing.assert_close(one - other, phi[0] @ (v[1] - v[3]))
    torch.testing.assert_close(phi[0], net.model(x).flatten(2).sum(2))


def test_r3gan_starts_as_its_transitions_alone() -> None:
    """The last convolution of each block is 0: G is resampling and 1x1 convolutions, so G(-z) = -G(z)."""
    net = make("r3gan_generator", (3, 16, 24), **SMALL["r3gan_generator"]).double()
    z = torch.randn(2, LATENT, dtype=torch.float64)
    torch.testing.assert_close(net(-z), -net(z))
    for m in net.modules():
        if isinstance(m, r3gan.Bottleneck):
            h = torch.randn(1, m.model[0].in_channels, 4, 4, dtype=torch.float64)
            assert torch.equal(m(h), h)
            nn.init.normal_(m.model[-1].weight)
            assert not torch.equal(m(h), h)
    assert not torch.allclose(net(-z), -net(z))


def test_resampling_is_bilinear_away_from_the_border_and_keeps_sums() -> None:
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    up, down = (r3gan.Resample(up=up).double() for up in (True, False))
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(up(x)[inside], nn.functional.interpolate(x, scale_factor=2, mode="bilinear")[inside])
    flat = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(down(flat)[..., 1:-1, 1:-1], flat[..., :2, :2])
    y = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    torch.testing.assert_close((up(x) * y).sum(), 4 * (x * down(y)).sum())  # each is the other's transpose


@pytest.mark.parametrize("size", [(16, 16), (28, 28), (48, 64), (16, 80), (20, 24)])
def test_began_halves_the_shorter_side_to_8_at_most(size: tuple[int, int]) -> None:
    x = torch.zeros(1, 1, *size)
    net = began.Autoencoder((1, *size), width=1, code=2)
    assert net(x).shape == x.shape
    smallest = next(m.unflattened_size for m in net.modules() if isinstance(m, nn.Unflatten))
    assert 4 < min(smallest[1:]) <= 8 and smallest[1] * size[1] == smallest[2] * size[0]


@pytest.mark.parametrize(
    ("net", "fits", "refused", "nearest"),
    [
        (pix2pix.UNet((1, 32, 32), width=2), (64, 96), (40, 64), "32,64"),
        (pix2pix.UNet((1, 64, 48), width=2), (48, 16), (40, 64), "48,64"),
        (pix2pix.UNet((1, 28, 28), width=2, depth=2), (4, 8), (2, 9), "4,8"),
        (cyclegan.Translator((1, 32, 32), width=2, blocks=1), (8, 20), (4, 21), "8,20"),
        (discogan.Translator((1, 32, 32), width=2, depth=3), (16, 40), (8, 41), "16,40"),
    ],
)
def test_a_translator_takes_the_sizes_that_it_names(net: Any, fits: Any, refused: Any, nearest: str) -> None:
    net.check_size(*fits)
    assert net(torch.zeros(1, 1, *fits)).shape == (1, 1, *fits)
    text = re.escape(f"its size is {refused[0]},{refused[1]}; ")
    with pytest.raises(ValueError, match=f"^{text}.*the nearest is {nearest}$"):
        net.check_size(*refused)


def test_scores_of_every_form() -> None:
    flat, small, big, other = torch.randn(4), torch.randn(4, 2, 3), torch.randn(4, 5, 5), torch.randn(4, 10)
    for output, expected in [
        *((flat, (flat,)), (small, (small,)), ([small, big], (small, big)), ((flat, small), (flat, small))),
        *((Heads(flat, other, other), (flat,)), (Heads([small, big], other, other), (small, big))),
    ]:
        found = scores(output, 4)
        assert len(found) == len(expected) and all(a is b for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", [(4, 1), (3,), (4, 1, 2, 2), (), (8, 2, 2)])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """(N, 1) above all: against (N,) it broadcasts to (N, N) without a word."""
    for output in (torch.zeros(shape), [torch.zeros(4), torch.zeros(shape)]):
        with pytest.raises(ValueError, match="D returned scores of shape"):
            scores(output, 4)


def test_per_sample_is_the_mean_of_a_map_and_the_sum_of_scales() -> None:
    real, fake = ((torch.randn(3), torch.randn(3, 2, 2), torch.randn(3, 4, 5)) for _ in range(2))

    def loss(r: Tensor, f: Tensor) -> Tensor:
        return (r - 2 * f) ** 2  # not linear: the loss comes before the mean

    found = per_sample(loss, Critique(real, fake))
    for i in range(3):
        terms = [loss(r[i], f[i]).flatten().tolist() for r, f in zip(real, fake, strict=True)]
        assert found[i].item() == pytest.approx(sum(sum(scale) / len(scale) for scale in terms), rel=1e-5)
    one_number = per_sample(lambda r, f: f, Critique(real, fake))  # of each sample, as penalties want it
    torch.testing.assert_close(score(lambda x: [*fake])(torch.zeros(3, 1, 4, 4)), one_number)


def test_mean_is_that_of_outputs_over_scales_and_detached() -> None:
    a, b = torch.randn(4, requires_grad=True), torch.randn(4, 2, 2, requires_grad=True)
    found = mean((a, b), torch.sigmoid)
    assert not found.requires_grad and found.shape == ()
    torch.testing.assert_close(found, (torch.sigmoid(a.detach()).mean() + torch.sigmoid(b.detach()).mean()) / 2)


def test_the_posts_networks_without_batchnorm_and_with_dropout() -> None:
    """What the blog post proposes to try; by default nothing changes, nor do the names of the weights."""
    plain, dropping = mlp.Discriminator((1, 6, 6)), mlp.Discriminator((1, 6, 6), dropout=0.5)
    assert not any(isinstance(m, nn.Dropout) for m in plain.modules())
    assert sum(isinstance(m, nn.Dropout) for m in dropping.modules()) == 2
    x = torch.randn(4, 1, 6, 6)
    assert not torch.equal(dropping(x), dropping(x)) and torch.equal(dropping.eval()(x), dropping(x))
    assert [*plain.state_dict()] == [f"model.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")]
    without = mlp.Generator(5, (1, 6, 6), batchnorm=False)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in without.modules())
    assert sum(isinstance(m, nn.BatchNorm1d) for m in mlp.Generator(5, (1, 6, 6)).modules()) == 3


def test_dcgan_has_batchnorm_before_relu_in_g_and_the_script_s_critic_behind_it() -> None:
    """Which layer follows which: the popular script turns the paper's order round."""

    def kinds(net: nn.Module) -> list[str]:
        return [type(m).__name__ for m in net.modules() if not [*m.children()]]

    g, d = (
        kinds(make("dcgan_generator", (1, 28, 28), width=4)),
        kinds(make("dcgan_discriminator", (1, 28, 28), width=4)),
    )
    assert g == ["Linear", "Unflatten", *["BatchNorm2d", "ReLU", "ConvTranspose2d"] * 2, "Tanh"]
    assert d == ["Conv2d", "LeakyReLU", "Conv2d", "BatchNorm2d", "LeakyReLU", "Flatten", "Linear"]
    script = kinds(make("dropout_critic", (1, 32, 32), width=4))
    assert script[:8] == [
        "Conv2d",
        "LeakyReLU",
        "Dropout2d",
        "Conv2d",
        "LeakyReLU",
        "Dropout2d",
        "BatchNorm2d",
        "Conv2d",
    ]
    assert "LeakyReLU" in kinds(make("upsampling_generator", (1, 32, 32), width=4))


def test_r3gan_s_first_weights_keep_the_variance() -> None:
    """N(0, gain^2 / fan in): gain sqrt(2 / 1.04) blocks^(-1/4) in a block, but for its last layer, which is 0."""
    block = r3gan.Bottleneck(64, 16)
    first, grouped, last = (m.weight for m in block.model if isinstance(m, nn.Conv2d))
    gain = math.sqrt(2 / 1.04) / 2
    for weight, fan in ((first, 64), (grouped, 16 * 9)):
        assert weight[0].numel() == fan
        assert weight.std().item() == pytest.approx(gain / math.sqrt(fan), rel=0.05)
    assert not last.any()


def test_a_reflected_convolution_is_torchs_with_its_gradients() -> None:
    torch.manual_seed(0)
    layers = blocks.ReflectConv(3, 4, 5, 1, 2).double(), nn.Conv2d(3, 4, 5, 1, 2, padding_mode="reflect").double()
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    results = [layer(x) for layer in layers]
    along = torch.randn_like(results[0])
    found, expected = (
        [y, *torch.autograd.grad((y * along).sum(), [x, *layer.parameters()])]
        for y, layer in zip(results, layers, strict=True)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-12


def test_a_projection_critic_looks_up_the_vectors_of_its_labels() -> None:
    net = make("projection_critic", (1, 8, 8), width=3)
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([1, 0, 0, 1])
    phi = net.model(x).sum((2, 3))
    torch.testing.assert_close(net(x, y), net.psi(phi).squeeze(1) + (net.embed(y) * phi).sum(1))
