"""Samples: the same seed gives the same picture whatever is asked for with it, and sampling changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gansmith
from gansmith import Sampler, UserError, plan
from gansmith.build import Classes, build_network, build_prior
from gansmith.games.aae import AdversarialAutoencoder
from gansmith.games.cyclegan import CycleGAN
from gansmith.games.two_player import Simultaneous
from gansmith.inference import CHUNK, choose_maker, open_run
from gansmith.priors import Codes, Normal
from gansmith.recipe import resolve

# BatchNorm and three channels, convolutions and codes, [0, 1], normalised contrast, labels and dropout.
SHRINK: dict[str, dict[str, Any]] = {
    "gan": {"networks.G.widths": [32, 48, 64], "img_size": [8, 12], "channels": 3},
    "infogan": {"networks.G.width": 8, "img_size": 12},
    "gan2014_mnist": {"networks.G.widths": [32, 48], "img_size": 12},
    "gan2014_cifar10_fc": {"networks.G.widths": [32, 48], "img_size": 12},
    "cgan": {
        **{"data.values": "unit", "networks.G": "cgan_generator", "networks.G.widths": [12, 24, 32], "img_size": 12},
        "networks.D": "cgan_discriminator",
    },
}


def sampler(name: str, *, training: bool = False) -> Sampler:
    """A shrunk recipe's untrained generator, whose running statistics are those of some noise, not of the start."""
    recipe = plan(name, flags=SHRINK[name]).recipe
    prior, maker = build_prior(recipe), resolve("game", recipe.game.name, False).makers["sample"]
    classes = Classes(("a", "b", "c"), (3, 0, 1)) if name == "cgan" else Classes()
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = build_network(recipe, "G", prior, classes=3)
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.data.mul_(1.5)  # pictures that differ plainly
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(3):
            z = prior.sample(16, noise) * 1.5 + 0.2
            net(z, torch.arange(16) % 3) if name == "cgan" else net(z)
    return Sampler(net.train(training), prior, maker=maker, values=recipe.data.values, classes=classes)


def levels(one: Sampler, x: Tensor) -> np.ndarray[Any, Any]:
    """The grey levels, not rounded, of what G makes: from the definition of each kind of values."""
    y = x.double().numpy()
    if one.values == "gcn":  # around middle grey, so that the largest value is white or black
        return (y / np.abs(y).max((1, 2, 3), keepdims=True) + 1) * 127.5
    return np.clip(y * 255 if one.values == "unit" else (y + 1) * 127.5, 0, 255)


@pytest.fixture(params=SHRINK)
def one(request: pytest.FixtureRequest) -> Sampler:
    return sampler(request.param)


# ---- one seed, one picture --------------------------------------------------------------------------------------


def test_a_seed_gives_its_picture_whatever_the_batch(one: Sampler) -> None:
    many = one.sample(range(200))
    assert many.dtype == np.uint8 and len({picture.tobytes() for picture in many}) == len(many) == 200
    for seed in (0, 63, 64, 199):
        assert np.array_equal(one.sample([seed])[0], many[seed])
    for count in (63, 65):
        assert np.array_equal(one.sample(count), many[:count])
    order = np.random.default_rng(0).permutation(200)
    assert np.array_equal(one.sample(order.tolist()), many[order])
    assert np.array_equal(one.sample([5, 150, 5]), many[[5, 150, 5]])
    rows: list[int] = []  # of every pass, so that the promise holds on devices whose sums depend on the batch
    one.nets[0].register_forward_pre_hook(lambda net, args: rows.append(len(args[0])))
    one.generate(one.latents(range(2 * CHUNK + 3)), one.labels(None, range(2 * CHUNK + 3)))
    assert rows == [CHUNK] * 3
    z = one.latents([3, 41])  # the prior's draws of these seeds
    for row, seed in zip(z, (3, 41), strict=True):
        assert torch.equal(row, one.prior.sample(1, torch.Generator().manual_seed(seed))[0])


def test_pictures_are_the_eval_mode_output_in_bytes(one: Sampler) -> None:
    z = one.latents(range(9))
    with torch.no_grad():
        net = one.nets[0].eval()
        x = net(z, torch.arange(9) % 3) if one.maker.labelled else net(z)
    assert np.abs(one.sample(range(9)) - levels(one, x)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SHRINK)
def test_sampling_changes_no_weight_buffer_mode_or_stream(name: str, training: bool) -> None:
    one = sampler(name, training=training)
    before = {key: value.clone() for key, value in one.nets[0].state_dict().items()}
    stream = torch.get_rng_state()
    first = one.sample(range(5))
    one.interpolate([1, 2], 4)
    one.draw(70, 1)
    assert all(m.training == training for m in one.nets[0].modules())
    assert all(torch.equal(before[key], value) for key, value in one.nets[0].state_dict().items())
    assert all(p.grad is None for p in one.nets[0].parameters())
    assert torch.equal(torch.get_rng_state(), stream)
    torch.rand(3)
    assert np.array_equal(one.sample(range(5)), first)


class Given(nn.Module):
    """Always the same picture."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x)

    def forward(self, z: Tensor) -> Tensor:
        return self.x.expand(len(z), *self.x.shape[1:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_rounded_once_only(dtype: torch.dtype) -> None:
    x = torch.linspace(-1.2, 1.2, 400, dtype=torch.float64).reshape(1, 1, 20, 20).to(dtype)
    one = Sampler(Given(x), Normal(dim=2))
    assert one.dtype == one.latents([0]).dtype == one.generate(one.latents([0])).dtype == dtype
    assert np.array_equal(one.sample([0]), np.rint(levels(one, x)))


# ---- labels -----------------------------------------------------------------------------------------------------


def test_labels_are_one_for_all_one_for_each_or_the_seeds_own() -> None:
    one = sampler("cgan")
    seeds = [3, 7, 8]
    assert np.array_equal(one.sample(seeds), one.sample(seeds, [0, 1, 2]))
    assert np.array_equal(one.sample(seeds, 2), one.sample(seeds, [2, 2, 2]))
    assert not np.array_equal(one.sample(seeds, 2), one.sample(seeds, 1))
    for wrong in (3, -1, [0, 1], [0, 1, 5]):
        with pytest.raises(UserError, match="labels are .* from 0 to 2"):
            one.sample(seeds, wrong)
    with pytest.raises(UserError, match="one for each latent"):
        one.generate(one.latents(seeds))
    with pytest.raises(UserError, match="has no labels"):
        sampler("gan").sample(seeds, 1)


def test_draws_have_labels_as_often_as_the_training_images() -> None:
    one, told = sampler("cgan"), []
    one.nets[0].register_forward_pre_hook(lambda net, args: told.append(args[1]))
    few = one.draw(100, 5)
    counts = torch.bincount(torch.cat(told), minlength=3)
    assert counts[1] == 0 and abs(counts[0] / counts.sum() - 0.75) < 0.2  # of 3, 0 and 1
    assert torch.equal(one.draw(1100, 5)[:100], few) and not torch.equal(one.draw(100, 6), few)
    assert few.min() >= 0 and few.max() <= 1 and few.device.type == "cpu"


# ---- paths ------------------------------------------------------------------------------------------------------


def test_a_path_is_the_priors_and_begins_and_ends_at_its_samples(one: Sampler) -> None:
    """To one grey level: the sphere's formula gives its ends back only up to rounding."""
    seeds, frames, label = [4, 90, 7], 7, 0 if one.maker.labelled else None
    paths, ends = one.interpolate(seeds, frames), one.sample(seeds, label).astype(int)
    assert paths.dtype == np.uint8 and paths.shape == (2, frames, *ends.shape[1:])
    for i, path in enumerate(paths.astype(int)):
        assert np.abs(path[0] - ends[i]).max() <= 1 and np.abs(path[-1] - ends[i + 1]).max() <= 1
        assert len({frame.tobytes() for frame in path}) == frames
    a, b = one.latents([4, 90])
    middle = one.generate(one.prior.between(a, b, torch.tensor([0.5])), one.labels(label, [0]))
    assert np.abs(paths[0, 3] - levels(one, middle)[0]).max() <= 0.51
    (back,) = one.interpolate([90, 4], frames).astype(int)
    assert np.abs(paths[0].astype(int) - back[::-1]).max() <= 1
    (still,) = one.interpolate([7, 7], 5).astype(int)
    assert np.abs(still - ends[2]).max() <= 1


def test_traverse_is_the_sample_with_one_part_changed() -> None:
    one, seeds = sampler("infogan"), [2, 77, 5]
    assert isinstance(one.prior, Codes)
    z = one.latents(seeds)
    for name, columns in (("category", 10), ("code1", 6), ("code2", 6)):
        walks = one.traverse(name, seeds, columns=6)
        assert walks.shape == (3, columns, 1, 12, 12) and walks.dtype == np.uint8
        for walk, changed in zip(walks, one.prior.traverse(z, name, 6), strict=True):
            assert np.abs(walk - levels(one, one.generate(changed))).max() <= 0.51
    own = z[:, 62:72].argmax(1).numpy()  # traversing the own category gives the sample back
    assert np.array_equal(one.traverse("category", seeds)[np.arange(3), own], one.sample(seeds))


# ---- what a game can make, and refusals -------------------------------------------------------------------------


def test_a_maker_is_chosen_by_name_by_what_it_imitates_or_by_kind() -> None:
    two, both = CycleGAN.makers, AdversarialAutoencoder.makers
    assert choose_maker(CycleGAN) is two["a2b"] and choose_maker(CycleGAN, "b2a") is two["b2a"]
    assert choose_maker(CycleGAN, to="a", kind="pictures") is two["b2a"]
    assert choose_maker(AdversarialAutoencoder, kind="pictures") is both["reconstruct"]
    assert choose_maker(AdversarialAutoencoder) is both["sample"]
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (CycleGAN, {"maker": "a2c"}, r"no maker 'a2c'; did you mean a2b\? \(makers: a2b, b2a\)"),
        (CycleGAN, {"to": "x"}, "nothing here makes 'x'; it must be one of b, a"),
        (CycleGAN, {"kind": "latent"}, "makes pictures from pictures: use gansmith translate"),
        (Simultaneous, {"kind": "pictures"}, "makes pictures from latents: use gansmith sample"),
    ]
    for game, options, text in wrong:
        with pytest.raises(UserError, match=text):
            choose_maker(game, **options)


def test_a_run_is_opened_at_a_round_with_its_average_or_without(
    pictures: Path, small: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    keys = small("gan", **{"checkpoint.interval": 2, "ema.halflife_kimg": 0.05})
    run = gansmith.train("gan", data=pictures, out=tmp_path / "run", steps=4, device="cpu", overrides=keys, quiet=True)
    newest = gansmith.load(run, device="cpu")
    assert repr(newest) == "Sampler(latent -> x, averaged weights of round 4, cpu)" and newest.shape == (1, 16, 16)
    others = [gansmith.load(run, device="cpu", round=2), gansmith.load(run, device="cpu", ema=False)]
    assert len({one.sample(3).tobytes() for one in (newest, *others)}) == 3
    assert np.array_equal(gansmith.load(run, device="cpu", maker="sample", to=None).sample(3), newest.sample(3))
    opened = open_run(run, 2)
    D = opened.network("D", torch.device("cpu"), ema=False)
    assert not D.training and D(torch.zeros(3, 1, 16, 16)).shape == (3,) and opened.digest == others[0].digest
    for call, text in (
        (lambda: opened.network("E", torch.device("cpu"), ema=False), r"simultaneous has no player E \(it has: G, D\)"),
        (lambda: gansmith.load(run, round="best"), "keeps no best checkpoint"),
        (lambda: gansmith.load(run, round=3), r"no checkpoint of round 3 \(it has: 4, 2\)"),
        (lambda: gansmith.load(tmp_path), "is not a run"),
    ):
        with pytest.raises(UserError, match=text):
            call()


def test_what_cannot_be_drawn_is_refused() -> None:
    one = sampler("gan")
    with pytest.raises(UserError, match="no seeds were given"):
        one.sample([])
    for seeds, frames in (([1], 5), ([1, 2], 1), ([], 5)):
        with pytest.raises(UserError, match="a path needs two seeds and two frames"):
            one.interpolate(seeds, frames)
    with pytest.raises(UserError, match="plain noise"):
        one.traverse("category")
    with pytest.raises(UserError, match="it has category, code1, code2"):
        sampler("infogan").traverse("code3")
    flat = Sampler(Given(torch.zeros(1, 3)).train(), Normal(dim=2))
    with pytest.raises(UserError, match=r"G returned \(64, 3\) for 64 latents; it must be \(64, C, H, W\)"):
        flat.sample([0])
    assert flat.nets[0].training  # the mode comes back after an error
    recipe = plan("figure1").recipe
    numbers = Sampler(build_network(recipe, "G", build_prior(recipe)), build_prior(recipe), values="raw")
    with pytest.raises(UserError, match="makes numbers, not pictures"):
        numbers.sample([0])


def test_samples_are_never_rounded_to_tf32() -> None:
    cudnn, seen, one = torch.backends.cudnn, list[tuple[bool, bool]](), sampler("infogan")
    one.nets[0].register_forward_hook(lambda *_: seen.append((cudnn.allow_tf32, cudnn.deterministic)))
    before = cudnn.allow_tf32, cudnn.deterministic
    one.sample(range(2))
    assert seen == [(False, True)] and (cudnn.allow_tf32, cudnn.deterministic) == before == (True, False)
