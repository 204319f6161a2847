"""Players and `move`: gradients of their own, steps of their own, and a stop before anything is broken."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gansmith.batch import Batch
from gansmith.errors import NonFinite
from gansmith.games.critique import score
from gansmith.games.two_player import Alternating, Simultaneous
from gansmith.objectives import OBJECTIVES
from gansmith.penalties import PenaltySum, Term, wgan_gp
from gansmith.players import OPTIMIZERS, Moved, Player, adam, move, sgd
from gansmith.priors import Normal

SHAPE = (1, 2, 2)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def mlp(before: int, after: int, *last: nn.Module) -> nn.Sequential:
    """With BatchNorm, whose running statistics show who passed."""
    layers = [nn.Linear(before, 6), nn.BatchNorm1d(6), nn.LeakyReLU(0.2), nn.Linear(6, after)]
    return nn.Sequential(nn.Flatten(), *layers, *last).double()


def play(kind: type[Simultaneous]) -> Simultaneous:
    G, D = Player("G", mlp(3, 4, nn.Unflatten(1, SHAPE)), adam), Player("D", mlp(4, 1, nn.Flatten(0)), adam)
    noise = torch.Generator().manual_seed(1)
    return kind(OBJECTIVES["non_saturating"], noise, 1, G, D, Normal(dim=3), PenaltySum([]))


def real(n: int = 8) -> Batch:
    return Batch({"x": torch.randn(n, *SHAPE, dtype=torch.float64)}, n)


def stepped(*players: Player) -> list[Tensor]:
    """All that a step changes: weights, and the optimizer's moments."""
    moments = [t.clone() for p in players for state in p.optimizer.state.values() for t in state.values()]
    return [w.detach().clone() for p in players for w in p.parameters] + moments


def buffers(player: Player) -> list[Tensor]:
    return [b.clone() for b in player.net.buffers()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(map(torch.equal, a, b))


def moved(losses: Moved, n: int = 1) -> dict[str, Tensor]:
    return move(Batch({"x": torch.zeros(n)}, n), 1, lambda part: (losses, {}))


# ---- a stop before anything is broken ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Simultaneous, Alternating])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_a_weight_moved(kind: type[Simultaneous], value: float) -> None:
    game = play(kind)
    game.round(real())
    game.round(real())
    before = stepped(*game.players)
    with pytest.raises(NonFinite, match=r"^the loss of D is not finite$"):
        game.round(Batch({"x": torch.full((8, *SHAPE), value, dtype=torch.float64)}, 8))
    assert same(before, stepped(*game.players)) and len(before) == 4 * 12
    assert all(w.grad is None for player in game.players for w in player.parameters)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_shared_loss_names_both_and_a_gradient_its_own_player(value: float) -> None:
    a, b = Player("G", nn.Linear(1, 1), adam), Player("Q", nn.Linear(1, 1), adam)
    x = torch.ones(1, 1)
    with pytest.raises(NonFinite, match="the loss of G and Q is not finite"):
        moved({"info": ((a, b), (a.net(x) + b.net(x)).sum() * value)})
    before = stepped(a, b)
    for bad, good in ((a, b), (b, a)):
        y = bad.net(x)  # the value is finite, its slope is not
        with pytest.raises(NonFinite, match=f"the gradient of {bad.name} is not finite"):
            moved({"info": ((a, b), (good.net(x) + y + torch.sqrt(y - y.detach())).sum())})
    assert same(before, stepped(a, b)) and a.moves == b.moves == 0


# ---- gradients ---------------------------------------------------------------------------------------------------


def test_a_move_steps_along_the_sum_of_what_names_a_player_all_at_one_point() -> None:
    """Two losses share a graph and a player; who is named by one alone gets no gradient of the other."""

    def losses(a: nn.Module, b: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(a(x))
        return b(h).square().mean(), h.square().mean() - b(h).mean()

    A, B = Player("A", nn.Linear(3, 4).double(), sgd), Player("B", nn.Linear(4, 1).double(), sgd)
    a, b, x = copy.deepcopy(A.net), copy.deepcopy(B.net), torch.randn(5, 3, dtype=torch.float64)

    def of_part(part: Batch) -> Any:
        one, two = losses(A.net, B.net, part["x"])
        return {"one": ((A, B), one), "two": (A, two)}, {"game/said": two.detach() * 3}

    metrics = move(Batch({"x": x}, 5), 2, of_part)  # in parts of 3 and 2
    one, two = losses(a, b, x)
    of_b = torch.autograd.grad(one, list(b.parameters()), retain_graph=True)
    of_a = torch.autograd.grad(one + two, list(a.parameters()))
    for net, slopes, player in ((a, of_a, A), (b, of_b, B)):
        for w, slope, found in zip(net.parameters(), slopes, player.parameters, strict=True):
            torch.testing.assert_close(found, w - 0.1 * slope, rtol=1e-12, atol=1e-14)
            assert found.grad is None
        norm = torch.cat([s.flatten() for s in slopes]).norm()
        torch.testing.assert_close(metrics[f"grad/{player.name}"], norm, rtol=1e-12, atol=0)
    expected = {"loss/one": one, "loss/two": two, "game/said": 3 * two}
    torch.testing.assert_close({k: metrics[k] for k in expected}, {k: v.detach() for k, v in expected.items()})
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_outside_the_loss_stays(name: str) -> None:
    net = nn.ModuleDict({"used": nn.Linear(2, 1), "idle": nn.Linear(2, 1)})
    player = Player("D", net, OPTIMIZERS[name])
    before = [w.detach().clone() for w in player.parameters]
    for _ in range(3):
        moved({"D": (player, net["used"](torch.ones(4, 2)).square().sum())})
    assert [torch.equal(w, old) for w, old in zip(player.parameters, before, strict=True)] == [False, False, True, True]
    assert moved({"D": (player, torch.ones((), requires_grad=True) * 2)})["grad/D"].item() == 0  # a loss of nothing


def test_frozen_parameters_are_no_part_of_a_player() -> None:
    net = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))
    assert [id(p) for p in Player("D", net, adam).parameters] == [id(p) for p in net[1].parameters()]


@pytest.mark.parametrize("kind", [Simultaneous, Alternating])
def test_the_graph_of_a_part_is_gone_before_the_next(kind: type[Simultaneous]) -> None:
    alive: list[weakref.ref[Tensor]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8).double(), nn.Linear(8, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            if len(alive) % 2 == 0:  # of a part's two passes the first
                assert all(ref() is None for ref in alive)
            hidden = self.first(x.flatten(1))
            alive.append(weakref.ref(hidden))
            return self.last(hidden.tanh()).squeeze(1)

    game = play(kind)
    game.D, game.accumulate = Player("D", Watched(), sgd), 4
    of_d = game.losses_d if isinstance(game, Alternating) else game.losses
    move(real(), 4, of_d)
    assert len(alive) == 8


# ---- lending and probing -----------------------------------------------------------------------------------------


def test_lending_normalises_by_the_batch_and_changes_no_buffer() -> None:
    player = Player("G", mlp(3, 4), adam)
    for buffer in player.net.buffers():  # running statistics that would give themselves away
        buffer.fill_(9.0)
    z, before = torch.randn(6, 3, dtype=torch.float64), buffers(player)
    lent = player.lend(z)
    assert same(before, buffers(player))
    _, first, norm, _, last = player.net
    h = first(z)
    h = nn.functional.leaky_relu((h - h.mean(0)) / torch.sqrt(h.var(0, unbiased=False) + norm.eps), 0.2)
    torch.testing.assert_close(lent, last(h), rtol=1e-11, atol=1e-12)
    assert torch.equal(lent, player.net(z)) and not same(before, buffers(player))  # a pass of its own does count


def test_a_penaltys_pass_moves_no_running_statistics_and_its_gradient_is_that_of_a_pass_of_its_own() -> None:
    D = Player("D", mlp(4, 1, nn.Flatten(0)), adam)
    before, slopes = buffers(D), []
    for net in (D.probe, D.net):
        noise = torch.Generator().manual_seed(3)
        loss = wgan_gp(score(net), real()["x"] * 0 + 1, real()["x"] * 0 - 1, noise).mean()
        slopes.append(torch.autograd.grad(loss, D.parameters, allow_unused=True))
        assert same(before, buffers(D)) is (net is not D.net)
    assert all(a is b or torch.equal(a, b) for a, b in zip(*slopes, strict=True))
    assert any(s is not None and s.abs().max() > 0 for s in slopes[0])
    game = play(Simultaneous)
    game.penalty = PenaltySum([Term(10.0, wgan_gp)])
    game.round(real())
    assert int(game.D.net[2].num_batches_tracked) == 2  # real and fake


# ---- steps -------------------------------------------------------------------------------------------------------


def quadratic(make: Any, rounds: int, **args: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and gradients along the descent of a small quartic, in float64."""
    net = nn.Linear(3, 2).double()
    player = Player("D", net, lambda params: make(params, **args))
    points, slopes = [net.weight.detach().clone()], []
    x = torch.randn(5, 3, dtype=torch.float64)
    for _ in range(rounds):
        loss = net(x).pow(4).mean()
        slopes.append(torch.autograd.grad(loss, net.weight, retain_graph=True)[0])
        moved({"D": (player, loss)})
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


def test_a_network_takes_its_weights_back_after_each_step() -> None:
    class Clipped(nn.Linear):
        def constrain(self) -> None:
            with torch.no_grad():
                self.weight.clamp_(-0.1, 0.1)

    player = Player("D", Clipped(3, 1, bias=False), lambda params: sgd(params, lr=1.0))
    before = player.parameters[0].detach().clone()
    slope = torch.tensor([[9.0, -9.0, float(before[0, 2])]])
    player.step((slope,))
    torch.testing.assert_close(player.parameters[0].detach(), (before - slope).clamp(-0.1, 0.1))
    assert player.parameters[0].tolist()[0] == pytest.approx([-0.1, 0.1, 0.0]) and player.moves == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_in_another_memory_format_moves_the_right_weights(name: str) -> None:
    plain, last = nn.Conv2d(2, 3, 3, bias=False), nn.Conv2d(2, 3, 3, bias=False)
    last.load_state_dict(plain.state_dict())
    players = [Player("D", net, OPTIMIZERS[name]) for net in (plain, last.to(memory_format=torch.channels_last))]
    for _ in range(2):
        slope = torch.randn(3, 2, 3, 3)
        for player in players:
            player.step((slope,))
    torch.testing.assert_close(last.weight, plain.weight)


# ---- the moving average ------------------------------------------------------------------------------------------


def test_moving_average_is_the_explicit_sum() -> None:
    """ema_T = sum_t w_t theta_t / sum_t w_t, w_t = (1 - d_t) prod_{s > t} d_s, with d_t = 2^(-images_t / half-life).

    The first weights theta_0 have no part in it; buffers are those of now.
    """
    shown, history, total = [16, 16, 7] * 4, [], 0
    player = Player("G", mlp(3, 4), adam, ema_halflife_kimg=0.1)
    assert player.ema is not None
    for n in shown:
        moved({"G": (player, player.net(torch.randn(n, 3, dtype=torch.float64)).square().mean())})
        player.average(n, total := total + n)
        history.append([p.detach().clone() for p in player.net.parameters()])
    decays = [2.0 ** (-n / 100) for n in shown]
    weights = np.array([(1 - d) * np.prod(decays[t + 1 :]) for t, d in enumerate(decays)])
    weights /= weights.sum()
    for i, mean in enumerate(player.ema.parameters()):
        expected = sum((w * theta[i] for w, theta in zip(weights, history, strict=True)), torch.zeros_like(mean))
        torch.testing.assert_close(mean, expected, rtol=0, atol=1e-14)
        assert not mean.requires_grad
    for average, buffer in zip(player.ema.buffers(), player.net.buffers(), strict=True):
        assert torch.equal(average, buffer) and average is not buffer


def test_no_average_unless_asked() -> None:
    player = Player("G", nn.Linear(2, 2), adam)
    player.average(10, 10)
    assert player.ema is None and set(player.state_dict()) == {"net", "optimizer", "moves"}
