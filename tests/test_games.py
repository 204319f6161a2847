"""BEGAN's and InfoGAN's own rules, and what every game logs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gansmith.data import Batch
from gansmith.games.began import Began, energy
from gansmith.games.infogan import InfoGAN
from gansmith.games.two_player import Alternating, Simultaneous
from gansmith.networks.infogan import Heads
from gansmith.objectives import OBJECTIVES
from gansmith.penalties import PenaltySum
from gansmith.players import Player, adam, sgd
from gansmith.priors import Codes, Normal

SHAPE = (1, 3, 3)
PIXELS = 9


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def noise(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 6, seed: int = 1, scale: float = 1.0) -> Batch:
    return Batch(torch.randn(n, *SHAPE, generator=noise(seed), dtype=torch.float64) * scale, None)


class Generator(nn.Module):
    def __init__(self, latent: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent, 8), nn.Tanh(), nn.Linear(8, PIXELS))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).view(-1, *SHAPE)


# ---- BEGAN ------------------------------------------------------------------------------------------------------


class Scale(nn.Module):
    """An "auto-encoder" whose energy is known: D(x) = w x, so L(x) = |1 - w| mean |x|."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


class Constant(nn.Module):
    """z -> the same grey b everywhere, whose sign and size are known; remembers its noise."""

    def __init__(self, value: float = 2.0) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor(value, dtype=torch.float64))
        self.seen: list[Tensor] = []

    def forward(self, z: Tensor) -> Tensor:
        self.seen.append(z.detach().clone())
        return self.b.expand(len(z), *SHAPE)


def began(value: float = 2.0, lr: float = 0.01, **keys: Any) -> Began:
    def descent(params: Any) -> torch.optim.Optimizer:
        return sgd(params, lr=lr)

    return Began(Player("G", Constant(value), descent), Player("D", Scale(), descent), Normal(dim=2), noise(), **keys)


def test_energy_is_the_mean_distance_of_each_sample() -> None:
    x, y = images(4, 1).images, images(4, 2).images
    expected = [sum(abs(a - b) for a, b in zip(p, q, strict=True)) / PIXELS for p, q in zip(
        x.flatten(1).tolist(), y.flatten(1).tolist(), strict=True)]  # fmt: skip
    assert energy(x, y).tolist() == pytest.approx(expected, rel=1e-13)


def test_began_is_its_scalar_recursion() -> None:
    """Losses, both gradients at the same point, k and M in closed form, over many rounds."""
    gamma, lambda_k, lr = 0.4, 0.05, 0.02
    game = began(lr=lr, gamma=gamma, lambda_k=lambda_k)
    w, b, k = 0.5, 2.0, 0.0
    for i in range(60):
        batch = images(seed=i)
        x = batch.images.abs().mean().item()
        metrics = {key: value.item() for key, value in game.round(batch).items()}
        l_real, l_fake = abs(1 - w) * x, abs(1 - w) * abs(b)
        balance = gamma * l_real - l_fake
        assert metrics["loss/D"] == pytest.approx(l_real - k * l_fake, rel=1e-10, abs=1e-12)
        assert metrics["loss/G"] == metrics["D/fake"] == pytest.approx(l_fake, rel=1e-10)
        assert metrics["D/real"] == pytest.approx(l_real, rel=1e-10)
        assert metrics["game/k"] == pytest.approx(k, rel=1e-10, abs=1e-13)  # the k of this round's loss
        assert metrics["game/M"] == pytest.approx(l_real + abs(balance), rel=1e-10)
        outside = math.copysign(1, 1 - w)
        slope_w, slope_b = -outside * (x - k * abs(b)), abs(1 - w) * math.copysign(1, b)
        assert metrics["grad/D"] == pytest.approx(abs(slope_w), rel=1e-9, abs=1e-12)
        assert metrics["grad/G"] == pytest.approx(abs(slope_b), rel=1e-9)
        w, b = w - lr * slope_w, b - lr * slope_b  # both at the old point
        k = min(1.0, max(0.0, k + lambda_k * balance))
        assert game.k.item() == pytest.approx(k, rel=1e-10, abs=1e-13)
        assert game.D.parameters[0].item() == pytest.approx(w, rel=1e-10)
        assert game.G.parameters[0].item() == pytest.approx(b, rel=1e-10)


@pytest.mark.parametrize(("scale", "value", "end"), [(100.0, 0.01, 1.0), (0.01, 100.0, 0.0)])
def test_k_stays_between_0_and_1(scale: float, value: float, end: float) -> None:
    """Real energies that outweigh the generated ones drive k up, the reverse down; it stops at the end, exactly."""
    game = began(value, lr=1e-9, lambda_k=0.2)
    game.k.fill_(0.5)
    game.round(images(scale=scale))
    assert game.k.item() == end
    game.round(images(scale=scale))
    assert game.k.item() == end


def test_k_moves_by_lambda_times_the_imbalance() -> None:
    game = began(lr=1e-9, gamma=0.7, lambda_k=0.001)
    game.k.fill_(0.5)
    batch = images()
    game.round(batch)
    imbalance = 0.7 * 0.5 * batch.images.abs().mean().item() - 0.5 * 2.0
    assert game.k.item() - 0.5 == pytest.approx(0.001 * imbalance, rel=1e-9)


def test_k_is_the_games_memory() -> None:
    assert began().k.item() == 0.0
    first, second = began(0.1, lambda_k=0.1), began(0.1, lambda_k=0.1)
    for i in range(3):
        first.round(images(seed=i, scale=2.0))
    assert 0 < first.k.item() < 1
    saved = {key: value.clone() for key, value in first.state_dict().items()}
    assert set(saved) == {"k"}
    first.round(images(seed=3, scale=2.0))
    assert saved["k"] != first.k  # what was handed out does not move on
    second.load_state_dict(saved)
    assert torch.equal(second.k, saved["k"]) and second.k.dtype == torch.float64
    single = {"k": saved["k"].float()}
    second.load_state_dict(single)
    assert second.k.dtype == torch.float64


def test_began_uses_noise_of_its_own_for_each_loss() -> None:
    game = began()
    net = game.G.net
    assert isinstance(net, Constant)
    game.round(images())
    of_d, of_g = net.seen
    assert of_d.shape == of_g.shape and len(torch.cat([of_d, of_g]).unique(dim=0)) == 2 * len(of_d)


def test_k_weighs_the_energy_that_g_was_judged_by() -> None:
    """The balance takes L(G(z_G)), section 3.4, and not the other noise's L(G(z_D)), which D's loss has."""
    prior = Normal(dim=2)
    autoencoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 4), nn.Linear(4, PIXELS), nn.Unflatten(1, SHAPE))
    G, D = Player("G", Generator(2).double(), adam), Player("D", autoencoder.double(), adam)
    game = Began(G, D, prior, noise(), gamma=0.9, lambda_k=0.01)
    game.k.fill_(0.5)
    batch, draws = images(), noise()
    of_d, of_g = prior.sample(6, draws, torch.float64), prior.sample(6, draws, torch.float64)
    with torch.no_grad():
        l_real, l_d, l_g = (energy(x, D.net(x)).mean().item() for x in (batch.images, G.net(of_d), G.net(of_g)))
    assert abs(l_d - l_g) > 1e-3
    metrics = game.round(batch)
    assert metrics["loss/D"].item() == pytest.approx(l_real - 0.5 * l_d, rel=1e-12)
    assert metrics["loss/G"].item() == pytest.approx(l_g, rel=1e-12)
    assert game.k.item() == pytest.approx(0.5 + 0.01 * (0.9 * l_real - l_g), rel=1e-12)


def test_k_0_is_an_autoencoder_of_real_images() -> None:
    """Then D's loss has no generated image in it, whatever G makes."""
    weights = []
    for value in (0.3, 30.0):
        game = began(value)
        game.round(images())
        weights.append(game.D.parameters[0].item())
    assert weights[0] == weights[1]


# ---- InfoGAN ----------------------------------------------------------------------------------------------------

CODES = {"dim": 3, "categories": 4, "continuous": 2}


class ThreeHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(PIXELS, 8), nn.Tanh())
        self.score, self.category, self.code = nn.Linear(8, 1), nn.Linear(8, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Heads:
        h = self.trunk(x.flatten(1))
        return Heads(self.score(h).squeeze(1), self.category(h), self.code(h))


def info(make: Any = adam, **keys: Any) -> InfoGAN:
    prior = Codes(**CODES)  # type: ignore[arg-type]
    G = Player("G", Generator(prior.width).double(), make)
    D = Player("D", ThreeHeads().double(), make)
    return InfoGAN(G, D, prior, OBJECTIVES["non_saturating"], noise(), **keys)


def named(player: Player) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in player.net.named_parameters()}


def test_information_losses_by_hand() -> None:
    game = info()
    z = game.latent(5)
    heads = Heads(torch.zeros(5), torch.randn(5, 4, dtype=torch.float64) * 3, torch.randn(5, 2, dtype=torch.float64))
    category, code = game.information_losses(z, heads)
    chosen, drawn = z[:, 3:7].argmax(1).tolist(), z[:, 7:].tolist()
    by_hand, squares = 0.0, 0.0
    for logits, c, mu, values in zip(heads.category.tolist(), chosen, heads.code.tolist(), drawn, strict=True):
        by_hand -= math.log(math.exp(logits[c]) / sum(math.exp(v) for v in logits)) / 5
        squares += sum((v - m) ** 2 / 2 for v, m in zip(values, mu, strict=True)) / 5
    assert category.item() == pytest.approx(by_hand, rel=1e-12)
    assert code.item() == pytest.approx(squares, rel=1e-12)


def test_code_loss_is_minus_log_of_a_normal_but_for_its_constant() -> None:
    game = info()
    z = game.latent(7)
    mu = torch.randn(7, 2, dtype=torch.float64)
    _, code = game.information_losses(z, Heads(torch.zeros(7), torch.zeros(7, 4, dtype=torch.float64), mu))
    log_q = torch.distributions.Normal(mu, 1.0).log_prob(game.prior.split(z).code).sum(1).mean()
    assert code.item() == pytest.approx(-log_q.item() - math.log(2 * math.pi), rel=1e-12)


def test_there_is_one_softmax_and_not_two() -> None:
    """A sure and right Q pays nothing. With a second softmax in front it would still pay log(1 + 3/e), about 0.74."""
    game = info()
    z = game.latent(6)
    sure = game.prior.split(z).category * 50
    exact = game.prior.split(z).code
    category, code = game.information_losses(z, Heads(torch.zeros(6), sure, exact))
    assert 0 <= category.item() < 1e-20 and code.item() == 0
    wrong, _ = game.information_losses(z, Heads(torch.zeros(6), -sure, exact))
    assert wrong.item() == pytest.approx(50 + math.log(3), rel=1e-12)  # and a sure and wrong one in full


def test_third_move_takes_g_and_q_and_not_the_score() -> None:
    game = info()
    moves: list[tuple[str, set[str]]] = []
    for player in game.players:
        step = player.step

        def recorded(grads: Any, player: Player = player, step: Any = step) -> None:
            before = named(player)
            step(grads)
            after = named(player)
            moves.append((player.name, {n for n in before if not torch.equal(before[n], after[n])}))

        player.step = recorded  # type: ignore[method-assign]
    game.round(images())
    assert [name for name, _ in moves] == ["D", "G", "G", "D"]
    everything_g, everything_d = set(named(game.G)), set(named(game.D))
    q = {n for n in everything_d if n.startswith(("category", "code"))}
    head = {n for n in everything_d if n.startswith("score")}
    assert len(q) == 4 and len(head) == 2
    assert [moved for _, moved in moves] == [everything_d - q, everything_g, everything_g, everything_d - head]


@pytest.mark.parametrize(("lambdas", "idle"), [((0.0, 1.0), "category"), ((1.0, 0.0), "code")])
def test_a_weight_of_zero_takes_its_head_out(lambdas: tuple[float, float], idle: str) -> None:
    game = info(sgd, lambda_category=lambdas[0], lambda_code=lambdas[1])
    before = named(game.D)
    game.round(images())
    after = named(game.D)
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith(idle), name


def test_weights_of_zero_are_the_two_player_game() -> None:
    """No information, no information gradient: what is left is Algorithm 1 with one step of D."""
    game = info(sgd, lambda_category=0.0, lambda_code=0.0)
    torch.manual_seed(0)
    other = info(sgd)  # for its weights alone
    plain = Alternating(other.G, other.D, other.prior, other.objective, PenaltySum([]), noise())
    for i in range(3):
        batch = images(seed=i)
        metrics = game.round(batch)
        assert metrics["loss/info"].item() == 0 and metrics["game/category"].item() > 0.5
        plain.round(batch)
        plain.latent(len(batch.images))  # the third move's noise
    for ours, theirs in ((game.G, plain.G), (game.D, plain.D)):
        for (name, a), b in zip(named(ours).items(), named(theirs).values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15, msg=name)


def test_information_loss_is_the_weighted_sum() -> None:
    metrics = info(lambda_category=0.3, lambda_code=7.0).round(images())
    expected = 0.3 * metrics["game/category"] + 7.0 * metrics["game/code"]
    torch.testing.assert_close(metrics["loss/info"], expected)


def test_infogan_needs_codes() -> None:
    game = info()
    with pytest.raises(ValueError, match="needs the prior codes"):
        InfoGAN(game.G, game.D, Normal(dim=9), game.objective, noise())  # type: ignore[arg-type]


# ---- what is logged ---------------------------------------------------------------------------------------------


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(PIXELS, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1)).squeeze(1)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", [Simultaneous, Alternating])
def test_two_player_metrics_by_hand(kind: type[Simultaneous] | type[Alternating], objective: str) -> None:
    row = OBJECTIVES[objective]
    prior = Normal(dim=2)

    def still(params: Any) -> torch.optim.Optimizer:
        return sgd(params, lr=1e-300)

    G, D = Player("G", Generator(2).double(), still), Player("D", Critic().double(), still)
    batch = images()
    metrics = kind(G, D, prior, row, PenaltySum([]), noise(9)).round(batch)
    draws = noise(9)
    of_d = prior.sample(6, draws, torch.float64)
    of_g = of_d if kind is Simultaneous else prior.sample(6, draws, torch.float64)
    real, fake, fake_g = D.net(batch.images), D.net(G.net(of_d)), D.net(G.net(of_g))
    loss_d, loss_g = row.d(real, fake).mean(), row.g(real, fake_g).mean()
    norms = [
        math.sqrt(sum(float(g.square().sum()) for g in torch.autograd.grad(loss, p.parameters, retain_graph=True)))
        for loss, p in ((loss_d, D), (loss_g, G))
    ]
    expected = {
        "loss/D": loss_d.item(),
        "loss/G": loss_g.item(),
        "D/real": row.output(real).mean().item(),
        "D/fake": row.output(fake).mean().item(),
        "grad/D": norms[0],
        "grad/G": norms[1],
    }
    if row.probability:  # what the theory says, from the probabilities of D's move
        p, q = torch.sigmoid(real), torch.sigmoid(fake)
        v = (torch.log(p).mean() + torch.log(1 - q).mean()).item()
        expected |= {"value/V": v, "value/jsd": min(max((v + math.log(4)) / 2, 0.0), math.log(2))}
        expected |= {"D/right_real": (p > 0.5).double().mean().item(), "D/right_fake": (q < 0.5).double().mean().item()}
    assert {key: value.item() for key, value in metrics.items()} == pytest.approx(expected, rel=1e-10, abs=1e-14)
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())


def test_relativistic_g_sees_the_last_batch() -> None:
    """G's loss compares with real images there: those of the batch that D moved on last."""

    def still(params: Any) -> torch.optim.Optimizer:
        return sgd(params, lr=1e-300)

    losses = []
    for first, last in ((1, 2), (3, 2), (1, 4)):
        torch.manual_seed(0)
        G, D = Player("G", Generator(2).double(), still), Player("D", Critic().double(), still)
        game = Alternating(G, D, Normal(dim=2), OBJECTIVES["relativistic"], PenaltySum([]), noise(), n_critic=2)
        losses.append(game.round(images(seed=first), images(seed=last))["loss/G"].item())
    assert losses[0] == losses[1] != losses[2]
