"""Games on attributes against loops written from their papers, in the manner of test_oracle.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import experiment_of, rounds
from test_oracle import Duel, Made, duel, step
from torch import Tensor, nn

from gansmith.batch import Batch
from gansmith.data.attributes import group
from gansmith.errors import UserError
from gansmith.games.stargan import StarGAN, edit
from gansmith.networks.stargan import Critic, Told, Translator

__all__ = ["duel"]
DataOf = Callable[[str], str]


def log_p(logits: Tensor, bits: Tensor) -> Tensor:
    """log P(bits), a sum over attributes, the mean over pictures."""
    p = torch.sigmoid(logits)
    return (bits * torch.log(p) + (1 - bits) * torch.log(1 - p)).sum(1).mean()


def play_stargan(d: Duel, wrong: str = "") -> None:
    """Equations 1 to 6 and 8: n_critic descents of D and one of G. The penalty is on the sum of the 2x2 patches,

    as in the authors' code: of the mean, 10 (|grad| - 1)^2 of n patches is 10 n^2 (|grad| - 1 / n)^2.
    """
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d = d.adam("G"), d.adam("D")
    for batches in d.rounds(3):
        wishes = [x["bits"][torch.randint(len(x), (len(x),), generator=d.noise)] for x in batches]
        for batch, wish in zip(batches, wishes, strict=True):
            x, c, n = batch["x"], batch["bits"], len(batch)
            fake = G(x, wish).detach()
            alpha = torch.rand(n, 1, 1, 1, generator=d.noise, dtype=torch.float64)
            between = (alpha * x + (1 - alpha) * fake).requires_grad_()
            along = D(between).score.mean((1, 2)) if wrong == "penalty of the mean" else D(between).score.sum((1, 2))
            slope = torch.autograd.grad(along.sum(), between, create_graph=True)[0]
            loss = D(fake).score.mean() - D(x).score.mean() + 10 * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
            step(optimizer_d, loss - 0.7 * log_p(D(fake if wrong == "D is told of fakes" else x).attributes, c))
        fake = G(x, wish)
        back = fake.detach() if wrong == "cycle cut off" else fake
        loss = -D(fake).score.mean() - 0.7 * log_p(D(fake).attributes, c if wrong == "not the wish" else wish)
        step(optimizer_g, loss + 10 * (G(back, c) - x).abs().mean())


@pytest.mark.parametrize("wrong", ["", "D is told of fakes", "cycle cut off", "not the wish", "penalty of the mean"])
def test_stargan_is_its_section_3_1(wrong: str, duel: Made) -> None:
    d = duel("stargan", **{"game.lambda_attributes": 0.7})
    play_stargan(d, wrong)
    assert d.apart() < 1e-10 if not wrong else d.apart() > 1e-6


def wishes_of(game: StarGAN, batches: list[Batch]) -> list[Tensor]:
    """What G is asked for, in order, in a round."""
    asked: list[Tensor] = []
    hook = game.G.net.register_forward_pre_hook(lambda net, args: asked.append(args[1]))
    game.round(*batches)
    hook.remove()
    return asked


def test_no_two_attributes_that_exclude_one_another_are_ever_wished(data_of: DataOf) -> None:
    """Every wish is a row of its batch. The popular script draws bits at random, and asks for three colours of hair.

    Each move of D has wishes of its own; G's are those of the last.
    """
    made = experiment_of("stargan", data_of("stargan"), **{"game.n_critic": 3})
    names = made.classes.names
    assert names == ("up", "hue=b", "hue=g", "hue=r")
    hues, seen = [i for i, name in enumerate(names) if group(name) == "hue"], set()
    for _ in range(10):
        batches = [next(made.stream) for _ in range(3)]
        asked = wishes_of(made.game, batches)  # type: ignore[arg-type]
        assert len(asked) == 5 and torch.equal(asked[3], asked[2]) and torch.equal(asked[4], batches[2]["bits"])
        for batch, wish in zip(batches, asked, strict=False):
            there = {tuple(row) for row in batch["bits"].tolist()}
            assert {tuple(row) for row in wish.tolist()} <= there and (wish[:, hues].sum(1) == 1).all()
            assert len(batch) < 8 or not torch.equal(wish, batch["bits"])
            seen |= {tuple(row) for row in wish.tolist()}
        assert len(batches[0]) < 8 or not torch.equal(asked[0], asked[1])
    assert len(seen) == 6


def test_a_wish_is_any_row_of_all_processes(data_of: DataOf) -> None:
    """Each as likely as another: of 3 rows here and 5 elsewhere, those elsewhere in 5 of 8 draws."""
    made = experiment_of("stargan", data_of("stargan"))
    game, here = made.game, torch.zeros(3, 2)
    assert isinstance(game, StarGAN)
    game.everywhere = lambda rows: torch.cat((rows, torch.ones(5, 2)))
    drawn = torch.cat([game.wishes(here) for _ in range(1000)])
    assert abs(drawn[:, 0].mean().item() - 5 / 8) < 5 * math.sqrt(15 / 64 / 3000)


def test_what_is_not_named_stays_as_the_critic_finds_it() -> None:
    torch.manual_seed(0)
    G, D = Translator((3, 16, 16), 3, width=2, blocks=1).eval(), Critic((3, 16, 16), 3, width=2)
    logits = torch.tensor([[-1.0, 2.0, 0.5], [3.0, -0.1, 0.5]])
    x, nan = torch.rand(2, 3, 16, 16), float("nan")
    with torch.no_grad():
        made = edit(G, lambda x: Told(x, logits), x, torch.tensor([[nan, nan, 0.0], [0.0, nan, nan]]))
        assert torch.equal(made, G(x, torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])))
        own = (D(x).attributes > 0).float()
        assert torch.equal(edit(G, D, x, torch.full((2, 3), nan)), G(x, own))


def test_attributes_are_seen_away_from_the_border_too() -> None:
    """With reflected borders, a constant map adds a constant, and the norm takes it away: nothing would be seen."""
    torch.manual_seed(0)
    net, x = Translator((3, 32, 32), 2, width=4, blocks=1).double(), torch.rand(1, 3, 32, 32, dtype=torch.float64)

    @torch.no_grad()
    def change() -> float:
        yes, no = (net(x, torch.tensor([[bit, 0.0]])) for bit in (1.0, 0.0))
        return float((yes - no)[:, :, 12:20, 12:20].abs().min(1).values.mean())

    assert change() > 1e-4
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (7, 7):
            layer.padding_mode, layer._reversed_padding_repeated_twice = "reflect", [3, 3, 3, 3]
    assert change() < 1e-10


@pytest.mark.parametrize("columns", [["up"], ["hue"], None])
def test_any_number_of_attributes(columns: Any, data_of: DataOf) -> None:
    made = experiment_of("stargan", data_of("stargan"), **{"data.columns": columns})
    for metrics in rounds(made, 2):
        assert all(math.isfinite(value) for value in metrics.values())
    assert (
        next(made.stream)["bits"].shape[1] == len(made.classes.names) == {"up": 1, "hue": 3}.get(str(columns)[2:-2], 4)
    )


def test_classes_are_attributes(data_of: DataOf) -> None:
    made = experiment_of("stargan", data_of("cgan"))
    rounds(made, 1)
    assert made.classes.names == ("class=0", "class=1") and (next(made.stream)["bits"].sum(1) == 1).all()


def test_a_critic_without_attributes_is_refused_in_words(data_of: DataOf) -> None:
    flags = {"networks.D": {"name": "patch_critic", "width": 2, "patch": 16}, "img_size": 32}
    made = experiment_of("stargan", data_of("stargan"), **flags)
    with pytest.raises(UserError, match=r"networks\.D: of 8 pictures stargan needs to be told 4 attributes"):
        rounds(made, 1)
