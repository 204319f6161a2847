"""Players: gradients of their own, steps of their own, and a stop before anything is broken."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gansmith.data import Batch
from gansmith.errors import NonFinite
from gansmith.games.two_player import Alternating, Simultaneous, TwoPlayer
from gansmith.objectives import OBJECTIVES
from gansmith.penalties import PenaltySum
from gansmith.players import OPTIMIZERS, Player, adam, gradients, sgd
from gansmith.priors import Normal

SHAPE = (1, 2, 2)


class Generator(nn.Module):
    """z (N, 3) -> (N, 1, 2, 2); with `crack`, the value is the same and the gradient is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4))
        self.crack = False

    def forward(self, z: Tensor) -> Tensor:
        x = self.layers(z)
        if self.crack:
            x = x + torch.sqrt(x - x.detach())
        return x.view(-1, *SHAPE)


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.LeakyReLU(0.2), nn.Linear(6, 1))
        self.crack = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x.flatten(1)).squeeze(1)
        return y + torch.sqrt(y - y.detach()) if self.crack else y


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def play(kind: type[TwoPlayer], objective: str = "non_saturating") -> TwoPlayer:
    G, D = Player("G", Generator().double(), adam), Player("D", Discriminator().double(), adam)
    noise = torch.Generator().manual_seed(1)
    return kind(G, D, Normal(dim=3), OBJECTIVES[objective], PenaltySum([]), noise)


def real(value: float | None = None) -> Batch:
    x = torch.randn(8, *SHAPE, dtype=torch.float64)
    return Batch(x if value is None else torch.full_like(x, value), None)


def weights(*players: Player) -> list[Tensor]:
    return [p.detach().clone() for player in players for p in player.parameters]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def no_grads(*players: Player) -> bool:
    return all(p.grad is None for player in players for p in player.net.parameters())


# ---- a stop before anything is broken ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Simultaneous, Alternating])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_a_weight_moved(kind: type[TwoPlayer], value: float) -> None:
    game = play(kind)
    game.round(real())
    before = weights(*game.players)
    optimizers = [copy.deepcopy(p.optimizer.state_dict()) for p in game.players]
    with pytest.raises(NonFinite, match=r"^the loss of D is not finite$") as caught:
        game.round(real(value))
    assert (caught.value.player, caught.value.what) == ("D", "the loss")
    assert same(before, weights(*game.players)) and no_grads(*game.players)
    for player, old in zip(game.players, optimizers, strict=True):
        for slot, state in player.optimizer.state_dict()["state"].items():
            assert all(torch.equal(state[k], old["state"][slot][k]) for k in state)


@pytest.mark.parametrize("kind", [Simultaneous, Alternating])
@pytest.mark.parametrize("who", ["G", "D"])
def test_a_gradient_that_is_not_finite_stops_before_a_weight_moved(kind: type[TwoPlayer], who: str) -> None:
    game = play(kind)
    player = game.G if who == "G" else game.D
    game.round(real())
    before_g, before_d = weights(game.G), weights(game.D)
    player.net.crack = True  # type: ignore[assignment]
    with pytest.raises(NonFinite, match=rf"^the gradient of {who} is not finite$") as caught:
        game.round(real())
    assert (caught.value.player, caught.value.what) == (who, "the gradient")
    assert same(before_g, weights(game.G)) and no_grads(game.G, game.D)
    if kind is Simultaneous or who == "D":
        assert same(before_d, weights(game.D))  # in turns, D's own, good move was before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_shared_loss_names_both_and_a_gradient_its_own_player(value: float) -> None:
    a, b = Player("G", nn.Linear(1, 1), adam), Player("Q", nn.Linear(1, 1), adam)
    x = torch.ones(1, 1)
    with pytest.raises(NonFinite, match="the loss of G and Q is not finite"):
        gradients((a.net(x) + b.net(x)).sum() * value, a, b)
    for bad, good in ((a, b), (b, a)):
        y = bad.net(x)
        loss = (good.net(x) + y + torch.sqrt(y - y.detach())).sum()
        with pytest.raises(NonFinite, match=f"the gradient of {bad.name} is not finite"):
            gradients(loss, a, b)


# ---- gradients --------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_backward_and_leave_grad_alone() -> None:
    a, b = Player("A", nn.Linear(3, 4).double(), adam), Player("B", nn.Linear(4, 1).double(), adam)
    x = torch.randn(6, 3, dtype=torch.float64)
    loss = b.net(torch.tanh(a.net(x))).square().mean()
    of_a, of_b = gradients(loss, a, b, retain_graph=True)
    alone = a.gradients(loss, retain_graph=True)
    assert no_grads(a, b)
    loss.backward()
    for player, grads in ((a, of_a), (b, of_b), (a, alone)):
        expected = [p.grad for p in player.parameters]
        total = 0.0
        for found, by_backward in zip(grads.tensors, expected, strict=True):
            assert found is not None and by_backward is not None
            torch.testing.assert_close(found, by_backward, rtol=1e-13, atol=1e-15)
            total += float(by_backward.square().sum())
        assert grads.norm.item() == pytest.approx(total**0.5, rel=1e-13)


def test_a_parameter_outside_the_loss_has_no_gradient_and_stays() -> None:
    for name, make in OPTIMIZERS.items():
        net = nn.ModuleDict({"used": nn.Linear(2, 1), "idle": nn.Linear(2, 1)})
        player = Player("D", net, make)
        used, idle = list(net["used"].parameters()), list(net["idle"].parameters())
        before = [p.detach().clone() for p in idle]
        for _ in range(3):
            grads = player.gradients(net["used"](torch.ones(4, 2)).square().sum())
            assert [g is None for g in grads.tensors] == [False, False, True, True]
            old = [p.detach().clone() for p in used]
            player.step(grads)
            assert no_grads(player), name
            assert not any(torch.equal(p, q) for p, q in zip(used, old, strict=True)), name
        assert same(before, [p.detach() for p in idle]), name


def test_a_loss_of_nothing_has_norm_zero() -> None:
    player = Player("D", nn.Linear(1, 1), adam)
    other = torch.ones((), requires_grad=True)
    grads = player.gradients(other * 2)
    assert grads.norm.item() == 0 and list(grads.tensors) == [None, None]


def test_frozen_parameters_are_no_part_of_a_player() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    net[0].requires_grad_(False)
    player = Player("D", net, adam)
    assert [id(p) for p in player.parameters] == [id(p) for p in net[1].parameters()]


# ---- steps ------------------------------------------------------------------------------------------------------


def quadratic(make: Any, rounds: int, **args: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and gradients along the descent of a small quartic, in float64."""
    net = nn.Linear(3, 2).double()
    player = Player("D", net, lambda params: make(params, **args))
    points, slopes = [net.weight.detach().clone()], []
    x = torch.randn(5, 3, dtype=torch.float64)
    for _ in range(rounds):
        grads = player.gradients(net(x).pow(4).mean())
        assert grads.tensors[0] is not None
        slopes.append(grads.tensors[0].clone())
        player.step(grads)
        points.append(net.weight.detach().clone())
    return points, slopes


def test_adam_is_its_papers_algorithm() -> None:
    """Kingma and Ba 2015, Algorithm 1, against the fused kernel."""
    lr, b1, b2, eps = 2e-4, 0.5, 0.999, 1e-8  # the defaults, which are the post's
    points, slopes = quadratic(adam, 20)
    theta, m, v = points[0].clone(), torch.zeros_like(points[0]), torch.zeros_like(points[0])
    for t, (g, found) in enumerate(zip(slopes, points[1:], strict=True), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        theta = theta - lr * (m / (1 - b1**t)) / (torch.sqrt(v / (1 - b2**t)) + eps)
        torch.testing.assert_close(found, theta, rtol=1e-12, atol=1e-13)


def test_sgd_with_momentum_is_the_heavy_ball() -> None:
    points, slopes = quadratic(sgd, 20, lr=0.05, momentum=0.5)
    for t in range(1, 20):
        expected = points[t] - 0.05 * slopes[t] + 0.5 * (points[t] - points[t - 1])
        torch.testing.assert_close(points[t + 1], expected, rtol=1e-12, atol=1e-14)


def test_rmsprop_is_its_lectures_rule() -> None:
    points, slopes = quadratic(OPTIMIZERS["rmsprop"], 20, lr=1e-3, alpha=0.9)
    theta, v = points[0].clone(), torch.zeros_like(points[0])
    for g, found in zip(slopes, points[1:], strict=True):
        v = 0.9 * v + 0.1 * g * g
        theta = theta - 1e-3 * g / (torch.sqrt(v) + 1e-8)
        torch.testing.assert_close(found, theta, rtol=1e-12, atol=1e-14)


def test_every_optimizer_is_covered() -> None:
    assert tuple(OPTIMIZERS) == ("adam", "sgd", "rmsprop")


# ---- state ------------------------------------------------------------------------------------------------------


def test_state_goes_round_and_training_goes_on_as_it_was() -> None:
    def fresh() -> Player:
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        return Player("G", net, adam, ema_halflife_kimg=0.05)

    def train(player: Player, rounds: range) -> None:
        for i in rounds:
            x = torch.randn(6, 3, generator=torch.Generator().manual_seed(i))
            player.step(player.gradients(player.net(x).square().mean()))
            player.average(6, 6 * (i + 1))

    through, first, second = fresh(), fresh(), fresh()
    train(through, range(6))
    train(first, range(3))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, range(3, 6))
    for a, b in zip(through.net.state_dict().values(), second.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert through.ema is not None and second.ema is not None
    for a, b in zip(through.ema.state_dict().values(), second.ema.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(through.net.parameters()), next(first.net.parameters()))


def test_no_average_unless_asked() -> None:
    player = Player("G", nn.Linear(2, 2), adam)
    player.average(10, 10)
    assert player.ema is None and set(player.state_dict()) == {"net", "optimizer", "moves"}
