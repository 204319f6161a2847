"""Augmentation: the changes against their formulas, the hook, ADA's rule."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, experiment_of, rounds
from PIL import Image
from torch import Tensor, nn

from gansmith import UserError
from gansmith.augment import CHANGES, Augment, Draws, beside_unseen, sign_of_real
from gansmith.world import World


class Asked(nn.Module):
    """A critic that keeps what it was shown, and says 1 of each."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, ...]] = []

    def forward(self, *inputs: Tensor) -> Tensor:
        self.seen.append(inputs)
        return inputs[0].flatten(1).sum(1) * 0 + 1


def draws(n: int, seed: int = 0) -> Draws:
    return Draws(n, torch.Generator().manual_seed(seed))


def pictures(n: int = 6, h: int = 8, w: int = 12, c: int = 3) -> Tensor:
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


def test_colour_moves_brightness_then_saturation_then_contrast() -> None:
    x, same = pictures(), draws(6)
    b, s, c = (same.uniform(*limits).double().numpy() for limits in ((-0.5, 0.5), (0, 2), (0.5, 1.5)))
    y = x.numpy() + b
    grey = y.mean(1, keepdims=True)
    y = grey + s * (y - grey)
    mean = y.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(CHANGES["colour"](draws(6), (8, 12))(x), mean + c * (y - mean), atol=1e-6)


def test_translation_shifts_each_picture_and_zeros_come_in() -> None:
    x, same = pictures(), draws(6)
    down, right = same.integers(-1, 1).flatten().tolist(), same.integers(-2, 2).flatten().tolist()
    assert len({*zip(down, right, strict=True)}) > 2
    made = CHANGES["translation"](draws(6), (8, 12), ratio=0.125)(x)  # 1 of 8 rows, 2 of 12 columns: round(1.5)
    for i, (d, r) in enumerate(zip(down, right, strict=True)):
        for row in range(8):
            for column in range(12):
                inside = 0 <= row - d < 8 and 0 <= column - r < 12
                wanted = x[i, :, row - d, column - r] if inside else torch.zeros(3, dtype=x.dtype)
                assert torch.equal(made[i, :, row, column], wanted)


def test_cutout_blanks_half_of_height_and_width_that_may_hang_over_the_border() -> None:
    x, same = pictures(50), draws(50)
    top, left = same.integers(-2, 5).flatten().tolist(), same.integers(-3, 8).flatten().tolist()
    made = CHANGES["cutout"](draws(50), (8, 12), ratio=0.5)(x)
    for i, (t, le) in enumerate(zip(top, left, strict=True)):
        wanted = x[i].clone()
        wanted[:, max(0, t) : max(0, t + 4), max(0, le) : max(0, le + 6)] = 0
        assert torch.equal(made[i], wanted)


@pytest.mark.parametrize("name", CHANGES)
def test_changes_have_right_gradients(name: str) -> None:
    x = pictures(2, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: CHANGES[name](draws(2), (4, 4))(x), (x,))


def test_the_hook_changes_pictures_of_a_sample_alike_and_nothing_else() -> None:
    net, noise = Asked(), torch.Generator().manual_seed(0)
    Augment([net], [CHANGES["translation"]], noise)
    x, z = pictures(), torch.ones(6, 5)
    net(x, x + 1, z)
    ((a, b, latent),) = net.seen
    assert not torch.equal(a, x) and latent is z
    inside = b != 0
    assert torch.allclose((b - a)[inside], torch.ones_like(a)[inside])
    net(x)
    assert not torch.equal(net.seen[1][0], a)  # each pass draws anew
    net.eval()
    net(x)
    assert net.seen[2][0] is x


def test_p_is_the_share_of_pictures_that_change() -> None:
    net = Asked()
    augment = Augment([net], [CHANGES["colour"]], torch.Generator().manual_seed(0), target=0.6)
    x = pictures(2000, 2, 2)
    net(x)
    augment.p = 0.3
    net(x)
    assert net.seen[0][0] is x
    assert (net.seen[1][0] != x).flatten(1).any(1).double().mean() == pytest.approx(0.3, abs=0.04)


def test_p_follows_the_sign_as_in_ada_and_survives() -> None:
    augment = Augment([], [], torch.Generator(), target=0.6, kimg=1.0, overfitting=sign_of_real)

    def rounds(right: float, n: int) -> float:
        for _ in range(n):
            said = augment.after_round({"D/right_real": torch.tensor(right)}, 32)
        assert said["augment/overfitting"] == pytest.approx(2 * right - 1)
        return augment.p

    assert rounds(0.9, 3) == 0  # it waits for 4 minibatches
    assert rounds(0.9, 1) == pytest.approx(4 * 32 / 1000)
    assert rounds(0.9, 4) == pytest.approx(8 * 32 / 1000)
    rounds(0.1, 2)
    other = Augment([], [], torch.Generator(), target=0.6, kimg=1.0, overfitting=sign_of_real)
    other.load_state_dict(augment.state_dict())
    augment = other
    assert rounds(0.1, 2) == pytest.approx(4 * 32 / 1000)
    assert rounds(0.1, 40) == 0  # no less
    assert rounds(0.9, 400) == 1  # no more


def test_beside_unseen_is_1_where_held_back_pictures_look_generated() -> None:
    metrics = {"D/real": torch.tensor(3.0), "D/fake": torch.tensor(1.0)}
    assert beside_unseen(Asked(), pictures(), World(CPU), metrics) == pytest.approx(1.0)
    assert beside_unseen(Asked(), pictures(), World(CPU), metrics | {"D/fake": torch.tensor(-1.0)}) == pytest.approx(
        0.5
    )


AUGMENTED: dict[str, Any] = {"augment": [{"name": name} for name in CHANGES]}
Data = Callable[[str], str]


@pytest.mark.parametrize("recipe", ["began", "ebgan", "aae"])
def test_critics_that_do_more_than_judge_pictures_take_no_augmentation(recipe: str, data_of: Data) -> None:
    with pytest.raises(UserError, match="augment: .*does not just judge"):
        experiment_of(recipe, data_of(recipe), **AUGMENTED)


def test_what_cannot_be_augmented_or_steered_is_refused(data_of: Data) -> None:
    with pytest.raises(UserError, match=r"augment: .*data\.values is unit"):
        experiment_of("gan2014_mnist", data_of("gan"), **AUGMENTED)
    steered = {**AUGMENTED, "ada.target": 0.6}
    with pytest.raises(UserError, match="must have one critic"):
        experiment_of("cyclegan", data_of("cyclegan"), **steered)
    with pytest.raises(UserError, match="held-back pictures alone: give --data.validation"):
        experiment_of("relativistic_gan", data_of("gan"), **steered)


def test_held_back_pictures_that_tell_overfitting_are_of_all_classes(tmp_path: Path) -> None:
    for shade, name in ((50, "a"), (200, "b")):
        (tmp_path / name).mkdir()
        for i in range(40):
            Image.new("L", (8, 8), shade + i % 3).save(tmp_path / name / f"{i}.png")
    keys = {"ada.target": 0.6, "data.validation": 30, "batch_size": 8, "img_size": 8}
    made = experiment_of("relativistic_gan", str(tmp_path), **AUGMENTED, **keys)
    assert made.augment is not None and isinstance(made.augment.overfitting, partial)
    shades = made.augment.overfitting.args[1].mean((1, 2, 3))
    assert len(shades) == 8 and (shades > 0).any() and (shades < 0).any()


@pytest.mark.parametrize(("recipe", "more"), [("hinge_sn", {}), ("relativistic_gan", {"data.validation": 8})])
def test_ada_steers_by_the_sign_or_by_held_back_pictures(recipe: str, more: dict[str, Any], data_of: Data) -> None:
    made = experiment_of(recipe, data_of(recipe), **AUGMENTED, **{"ada.target": 0.0, "ada.kimg": 0.1}, **more)
    heard = rounds(made, 8)
    steps = [float(metrics["augment/p"]) for metrics in heard]
    up = [sum(float(m["augment/overfitting"]) for m in part) > 0 for part in (heard[:4], heard[4:])]
    first = 0.32 if up[0] else 0.0  # four batches of 8
    assert steps[2:4] == pytest.approx([0.0, first])
    assert steps[7] == pytest.approx(min(1.0, max(0.0, first + (0.28 if up[1] else -0.28))))  # one of them is short
    if recipe == "hinge_sn":
        assert float(heard[0]["augment/overfitting"]) == pytest.approx(2 * float(heard[0]["D/right_real"]) - 1)
    assert made.state.state_dict()["augment"]["p"] == pytest.approx(steps[7])


def test_a_pair_that_a_critic_sees_changes_alike(data_of: Data) -> None:
    made = experiment_of("pix2pix", data_of("pix2pix"), views=[], augment=[{"name": "cutout"}])
    seen: list[tuple[Tensor, ...]] = []
    made.game.D.net.register_forward_pre_hook(lambda net, inputs: seen.append(inputs))
    rounds(made, 1)
    blank = [(x == 0).all(1) for x in seen[0]]
    assert len(blank) == 2 and blank[0].any() and torch.equal(*blank)
