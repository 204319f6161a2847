"""Samples: the same seed gives the same picture whatever is asked for with it, and sampling changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gansmith import Sampler, UserError, plan, recipe_names
from gansmith.build import build_network, build_prior
from gansmith.inference import CHUNK
from gansmith.priors import Codes, Normal

SHRINK: dict[str, dict[str, Any]] = {
    "gan": {"networks.G.widths": [32, 48, 64], "img_size": 12},
    "wgan_gp": {"networks.G.widths": [32, 48, 64], "img_size": 12, "channels": 3},
    "began": {"networks.G.width": 4, "img_size": 16},
    "infogan": {"networks.G.width": 8, "img_size": 12},
    "fast_mnist": {"networks.G.width": 8, "img_size": 12},
    "gan2014_mnist": {"networks.G.widths": [32, 48], "img_size": 12},
    "gan2014_tfd_pretrain": {"networks.G.widths": [32, 48], "networks.G.sparse_out": 20, "img_size": 12},
    "gan2014_tfd": {
        "networks.G.weights": None,
        **{"networks.G.front": 24, "networks.G.inner_dim": 16, "networks.G.widths": [32, 48], "img_size": 12},
        "networks.G.irange": 1,  # behind two layers of sigmoids the pictures of small weights are all the same
    },
    "gan2014_cifar10_fc": {"networks.G.widths": [32, 48], "img_size": 12},
    "gan2014_cifar10_conv": {"networks.G.width": 32, "networks.G.maps": 6},
}


def sampler(name: str, *, training: bool = False) -> Sampler:
    """A shrunk recipe's untrained generator, whose running statistics are those of some noise, not of the start."""
    recipe = plan(name, flags=SHRINK[name]).recipe
    prior = build_prior(recipe)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = build_network(recipe, "G", prior)
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.data.mul_(1.5)  # pictures that differ plainly
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(3):
            net(prior.sample(16, noise) * 1.5 + 0.2)
    return Sampler(net.train(training), prior, values=recipe.data.values, round=7)


def levels(one: Sampler, x: Tensor) -> np.ndarray[Any, Any]:
    """The grey levels, not rounded, of what G makes: from the definition of each kind of values."""
    y = x.double().numpy()
    if one.values == "gcn":  # around middle grey, so that the largest value is white or black
        return (y / np.abs(y).max((1, 2, 3), keepdims=True) + 1) * 127.5
    return np.clip(y * 255 if one.values == "unit" else (y + 1) * 127.5, 0, 255)


# One makes numbers: `gansmith figure density` draws those.
PICTURES = [name for name in recipe_names() if name != "figure1"]


@pytest.fixture(params=PICTURES)
def one(request: pytest.FixtureRequest) -> Sampler:
    return sampler(request.param)


def test_every_recipe_is_covered() -> None:
    assert set(SHRINK) == set(PICTURES)
    assert {n for n in recipe_names() if plan(n).recipe.data.values == "raw"} == set(recipe_names()) - set(PICTURES)


# ---- one seed, one picture --------------------------------------------------------------------------------------


def test_a_seed_gives_its_picture_whatever_the_batch(one: Sampler) -> None:
    many = one.sample(range(200))
    assert many.dtype == np.uint8 and many.shape[0] == 200
    assert len({picture.tobytes() for picture in many}) == 200
    for seed in (0, 1, 63, 64, 127, 128, 199):
        assert np.array_equal(one.sample([seed])[0], many[seed])
    for count in (2, 63, 64, 65):
        assert np.array_equal(one.sample(range(count)), many[:count])
    order = np.random.default_rng(0).permutation(200)
    assert np.array_equal(one.sample(order.tolist()), many[order])
    assert np.array_equal(one.sample([5, 5, 150, 5]), many[[5, 5, 150, 5]])


def test_every_pass_has_the_same_number_of_rows(one: Sampler) -> None:
    """That is how the promise is kept on devices whose sums depend on the shape of the batch."""
    rows: list[int] = []
    handle = one.net.register_forward_pre_hook(lambda net, args: rows.append(len(args[0])))
    for count in (1, CHUNK - 1, CHUNK, 2 * CHUNK + 3):
        assert len(one.generate(one.latents(range(count)))) == count
    handle.remove()
    assert rows == [CHUNK] * (1 + 1 + 1 + 3)


def test_neither_the_global_stream_nor_the_mode_matters(one: Sampler) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = one.sample(range(5))
        torch.manual_seed(2)
        before = torch.get_rng_state()
        one.net.train()
        assert np.array_equal(one.sample(range(5)), first)
        assert torch.equal(torch.get_rng_state(), before)


def test_a_latent_is_the_priors_draw_of_its_seed(one: Sampler) -> None:
    z = one.latents([3, 41])
    for row, seed in zip(z, (3, 41), strict=True):
        assert torch.equal(row, one.prior.sample(1, torch.Generator().manual_seed(seed))[0])


def test_pictures_are_the_eval_mode_output_in_bytes(one: Sampler) -> None:
    z = one.latents(range(9))
    with torch.no_grad():
        x = one.net.eval()(z)
    assert np.abs(one.sample(range(9)) - levels(one, x)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once_only(dtype: torch.dtype) -> None:
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.linspace(-1.2, 1.2, 400, dtype=torch.float64).reshape(1, 1, 20, 20).to(dtype))

        def forward(self, z: Tensor) -> Tensor:
            return self.x.expand(len(z), -1, -1, -1)

    one = Sampler(Given(), Normal(dim=2))
    assert one.dtype == dtype
    assert np.array_equal(one.sample([0]), np.rint(levels(one, one.net.x.detach())))


# ---- sampling changes nothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", PICTURES)
def test_sampling_changes_no_weight_buffer_or_mode(name: str, training: bool) -> None:
    one = sampler(name, training=training)
    before = {key: value.clone() for key, value in one.net.state_dict().items()}
    one.sample(range(70))
    one.interpolate([1, 2], 4)
    assert all(m.training == training for m in one.net.modules())
    after = one.net.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None for p in one.net.parameters())


def test_the_mode_comes_back_after_an_error() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(()))

        def forward(self, z: Tensor) -> Tensor:
            raise RuntimeError("no picture today")

    one = Sampler(Broken().train(), Normal(dim=2))
    with pytest.raises(RuntimeError, match="no picture today"):
        one.sample([0])
    assert one.net.training


def test_double_precision_draws_doubles() -> None:
    one = sampler("gan")
    assert one.dtype == torch.float32
    double = Sampler(one.net.double(), one.prior)
    assert double.dtype == double.latents([0]).dtype == double.generate(double.latents([0])).dtype == torch.float64


# ---- paths ------------------------------------------------------------------------------------------------------


def test_a_path_begins_and_ends_at_its_samples(one: Sampler) -> None:
    """To one grey level: the sphere's formula gives its ends back only up to rounding."""
    seeds, frames = [4, 90, 7], 6
    paths = one.interpolate(seeds, frames)
    ends = one.sample(seeds).astype(int)
    assert paths.dtype == np.uint8 and paths.shape == (2, frames, *ends.shape[1:])
    for i, path in enumerate(paths.astype(int)):
        assert np.abs(path[0] - ends[i]).max() <= 1 and np.abs(path[-1] - ends[i + 1]).max() <= 1
        assert len({frame.tobytes() for frame in path}) == frames


def test_a_path_is_the_priors(one: Sampler) -> None:
    a, b = one.latents([4, 90])
    middle = one.prior.between(a, b, torch.tensor([0.5]))
    assert np.abs(one.interpolate([4, 90], 3)[0, 1] - levels(one, one.generate(middle))[0]).max() <= 0.51


def test_a_path_to_itself_stands_still(one: Sampler) -> None:
    (path,) = one.interpolate([3, 3], 5).astype(int)
    assert np.abs(path - one.sample([3])[0].astype(int)).max() <= 1


def test_a_path_there_is_the_path_back(one: Sampler) -> None:
    (there,), (back,) = one.interpolate([3, 8], 7).astype(int), one.interpolate([8, 3], 7).astype(int)
    assert np.abs(there - back[::-1]).max() <= 1


# ---- traversals -------------------------------------------------------------------------------------------------


def test_traverse_is_the_sample_with_one_part_changed() -> None:
    one = sampler("infogan")
    prior = one.prior
    assert isinstance(prior, Codes)
    seeds = [2, 77, 5]
    z = one.latents(seeds)
    for name, columns, start in (("category", 10, 62), ("code1", 6, 72), ("code2", 6, 73)):
        walks = one.traverse(name, seeds, columns=6)
        assert walks.shape == (3, columns, 1, 12, 12) and walks.dtype == np.uint8
        for row in range(3):
            for column in range(columns):
                changed = z[row].clone()
                if name == "category":
                    changed[62:72] = torch.eye(10)[column]
                else:
                    changed[start] = -2 + 4 * column / 5
                expected = (one.generate(changed[None])[0].numpy() + 1) * 127.5
                assert np.abs(walks[row, column] - expected).max() <= 0.51
        assert len({walk.tobytes() for walk in walks.reshape(-1, 1, 12, 12)}) == 3 * columns


def test_traversing_the_own_category_gives_the_sample_back() -> None:
    one = sampler("infogan")
    seeds = range(8)
    own = one.latents(seeds)[:, 62:72].argmax(1).numpy()
    walks = one.traverse("category", seeds)
    assert np.array_equal(walks[np.arange(8), own], one.sample(seeds))


# ---- numbers ----------------------------------------------------------------------------------------------------


def test_numbers_are_no_pictures_and_have_one_seed_each_too() -> None:
    recipe = plan("figure1").recipe
    prior = build_prior(recipe)
    one = Sampler(build_network(recipe, "G", prior), prior, values="raw")
    many = one.generate(one.latents(range(100)))
    assert torch.equal(one.generate(one.latents([70]))[0], many[70]) and many.shape == (100, 1, 1, 1)
    torch.testing.assert_close(many.flatten(), 1.5 + 0.7 * one.latents(range(100)).flatten())  # it starts as that line
    with pytest.raises(UserError, match="makes numbers, not pictures"):
        one.sample([0])


# ---- refusals ---------------------------------------------------------------------------------------------------


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
