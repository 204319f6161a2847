"""What the contract and the oracles do not show: orders of moves, pools, and what is logged."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import experiment_of, rounds
from torch import Tensor, nn

from gansmith.errors import UserError
from gansmith.games.began import energy
from gansmith.games.ebgan import pull_away
from gansmith.games.pool import Pool

Data = Callable[[str], str]


# ---- who moves when ----------------------------------------------------------------------------------------------

# How often a network's own passes are counted in a round; a pass that serves the opponent's move alone is lent.
PASSES = {
    "gan": {"G": 1},
    "wgan_gp": {"G": 1},
    "lsgan": {"G": 1, "D": 2},
    "ebgan": {"G": 1},
    "infogan": {"G": 2, "D": 3},
}


@pytest.mark.parametrize("name", PASSES)
def test_running_statistics_count_a_players_own_passes_alone(name: str, data_of: Data) -> None:
    made = experiment_of(name, data_of(name))
    rounds(made, 1)
    for player in made.game.players:
        norms = [m for m in player.net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert bool(norms) is (player.name in PASSES[name])
        assert all(int(m.num_batches_tracked) == PASSES[name][player.name] for m in norms)


def test_relativistic_g_sees_the_last_batch(data_of: Data) -> None:
    """G's loss compares with real images there: those of the batch that D moved on last."""
    game = {"name": "alternating", "n_critic": 2}
    made = experiment_of("gan", data_of("gan"), game=game, objective="relativistic", lr=1e-300)
    a, b, c = (next(made.stream) for _ in range(3))
    losses = []
    for batches in ((a, b), (c, b), (a, c)):
        made.state.noise.manual_seed(0)
        losses.append(made.game.round(*batches)["loss/G"].item())
    assert losses[0] == losses[1] != losses[2]


# ---- what is logged ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["non_saturating", "wasserstein"])
@pytest.mark.parametrize("game", ["simultaneous", "alternating"])
def test_two_player_metrics_by_hand(game: str, objective: str, data_of: Data) -> None:
    made = experiment_of("gan", data_of("gan"), game=game, objective=objective, lr=1e-300)  # weights stand still
    G, D, row, batch = made.game.G, made.game.D, made.game.objective, next(made.stream)
    draws = torch.Generator()
    draws.set_state(made.state.noise.get_state())
    metrics = made.game.round(batch)
    of_d = made.prior.sample(8, draws, torch.float64)
    of_g = of_d if game == "simultaneous" else made.prior.sample(8, draws, torch.float64)
    real, fake, fake_g = D.net(batch["x"]), D.net(G.net(of_d)), D.net(G.net(of_g))
    expected = {"D/real": row.output(real).mean().item(), "D/fake": row.output(fake).mean().item()}
    for name, player, loss in (("D", D, row.d(real, fake).mean()), ("G", G, row.g(real, fake_g).mean())):
        slopes = torch.autograd.grad(loss, player.parameters, retain_graph=True)
        norm = math.sqrt(sum(float(slope.square().sum()) for slope in slopes))
        expected |= {f"loss/{name}": loss.item(), f"grad/{name}": norm}
    if row.probability:  # what the theory says, from the probabilities of D's move
        p, q = torch.sigmoid(real), torch.sigmoid(fake)
        v = (torch.log(p).mean() + torch.log(1 - q).mean()).item()
        expected |= {"value/V": v, "value/jsd": min(max((v + math.log(4)) / 2, 0.0), math.log(2))}
        expected |= {"D/right_real": (p > 0.5).double().mean().item(), "D/right_fake": (q < 0.5).double().mean().item()}
    assert {key: value.item() for key, value in metrics.items()} == pytest.approx(expected, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize(("lambda_k", "end"), [(0.01, None), (1e4, 1.0)])
def test_began_logs_its_balance_and_keeps_k_between_0_and_1(lambda_k: float, end: float | None, data_of: Data) -> None:
    made = experiment_of("began", data_of("began"), **{"game.lambda_k": lambda_k})
    k = 0.0
    for metrics in rounds(made, 4):
        real, fake = metrics["D/real"].item(), metrics["D/fake"].item()
        balance = 0.7 * real - fake
        assert metrics["loss/G"].item() == fake and metrics["game/k"].item() == pytest.approx(k, rel=1e-12)
        assert metrics["game/M"].item() == pytest.approx(real + abs(balance), rel=1e-12)
        k = min(1.0, max(0.0, k + lambda_k * balance))
    assert made.game.k.item() == (pytest.approx(k, rel=1e-12) if end is None else end)
    with torch.no_grad():
        made.game.G.net.model[-1].bias.fill_(100.0)  # whose energy outweighs that of real pictures
    rounds(made, 1)
    assert made.game.k.item() == 0.0


def test_what_does_not_fit_a_game_is_said(data_of: Data) -> None:
    with pytest.raises(UserError, match=r"D returned \(2,\) for images \(2, 1, 3, 3\); began needs an auto-encoder"):
        energy(torch.zeros(2, 1, 3, 3), torch.zeros(2))
    with pytest.raises(UserError, match=r"16, 16\) ebgan needs .* returns a .*Coded.* such as ebgan_autoencoder"):
        rounds(experiment_of("ebgan", data_of("ebgan"), **{"networks.D": {"name": "began_autoencoder"}}), 1)
    with pytest.raises(UserError, match="game: it needs the prior codes"):
        experiment_of("infogan", data_of("infogan"), prior="normal")
    with pytest.raises(UserError, match=r"head for categories gives 5, the prior has 10: networks\.D\.categories must"):
        rounds(experiment_of("infogan", data_of("infogan"), **{"networks.D.categories": 5}), 1)


def test_infogan_pays_nothing_for_a_sure_and_right_q(data_of: Data) -> None:
    """A second softmax in front of the first would still cost log(1 + 9/e)."""
    game = experiment_of("infogan", data_of("infogan")).game
    z = game.latent(6)
    parts = game.prior.split(z)
    category, code = game.information_losses(z, parts._replace(noise=z, category=parts.category * 50))
    assert 0 <= category.item() < 1e-20 and code.item() == 0


def test_the_pull_away_term_is_the_mean_squared_cosine_of_pairs() -> None:
    along, across = torch.eye(3, dtype=torch.float64)[:2]
    for codes, expected in (
        ([along, across], 0.0),
        ([along, -5 * along], 1.0),  # opposite is as bad as equal
        ([along, along, across], 1 / 3),
        ([along, along + across], 1 / 2),
        ([along], 0.0),
    ):
        assert pull_away(torch.stack(codes)).item() == pytest.approx(expected, abs=1e-12)
    codes = torch.randn(6, 4, generator=noise(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pull_away, (codes,))
    dead = torch.cat([torch.zeros(2, 4), torch.ones(2, 4)]).requires_grad_()
    (slope,) = torch.autograd.grad(pull_away(dead), dead)
    assert pull_away(dead).item() == pytest.approx(1 / 6) and torch.isfinite(slope).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pull_away(codes.float()).item() == pytest.approx(pull_away(codes).item(), rel=1e-5)


# ---- pools -------------------------------------------------------------------------------------------------------


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def numbered(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def test_a_pool_keeps_its_size_and_loses_nothing() -> None:
    """Filled, it gives half of what goes in straight back, and for the other half a past one, whose place is taken."""
    pool, draws, back = Pool(50), noise(), 0
    given, out = list[int](), list[int]()
    for start in range(0, 4000, 8):
        values = list(range(start, start + 8))
        swapped = pool.swap(numbered(*values), draws).flatten().int().tolist()
        pool.commit()
        given, out = given + values, out + swapped
        back += sum(a == b for a, b in zip(values, swapped, strict=True))
    assert pool.kept is not None and len(pool.kept) == 50 and out[:50] == given[:50]
    # All that went in came out once or is still there; what filled the pool came out at once and may come again.
    assert sorted([*out[50:], *pool.kept.flatten().int().tolist()]) == given
    assert abs((back - 50) / 3950 - 1 / 2) < 5 * math.sqrt(1 / 4 / 3950)


def test_a_pool_of_none_gives_everything_back_and_a_failed_round_changes_nothing() -> None:
    before = noise().get_state()
    draws = noise()
    assert torch.equal(Pool(0).swap(numbered(1, 2), draws), numbered(1, 2))
    assert torch.equal(draws.get_state(), before)
    pool = Pool(2)
    pool.swap(numbered(1, 2), draws)
    pool.commit()
    pool.swap(numbered(3, 4), draws)  # whose round fails
    assert torch.equal(pool.state_dict()["kept"], numbered(1, 2))
    pool.forget_plan()
    pool.commit()
    assert torch.equal(pool.state_dict()["kept"], numbered(1, 2))


def test_cyclegans_pools_change_once_a_round_is_over(data_of: Callable[[str], str]) -> None:
    made = experiment_of("cyclegan", data_of("cyclegan"), **{"game.pool": 4})
    made.state.begin_round()
    made.game.round(next(made.stream))
    assert all(pool.kept is None for pool in made.game.pools().values())
    made.state.end_round(3)
    assert [len(pool.kept) for pool in made.game.pools().values()] == [3, 3]
