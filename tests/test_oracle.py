"""The games against plain loops written from the algorithms: same weights, same batches, same noise, same outcome.

The loops here share no line with the package: modules of torch, `backward`, `torch.optim`.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gansmith.data import Batch, ImageSet, Stream
from gansmith.games.two_player import Alternating, Simultaneous
from gansmith.networks.mlp import Discriminator, Generator
from gansmith.objectives import OBJECTIVES
from gansmith.penalties import PenaltySum, wgan_gp
from gansmith.players import MakeOptimizer, Player, adam, sgd
from gansmith.priors import Prior

LATENT, SHAPE, PIXELS = 20, (1, 8, 8), 64
G_WIDTHS, D_WIDTHS = (16, 32, 48), (48, 24)
POST_EPS = 0.8


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(20140610)


# ---- what both sides are given ----------------------------------------------------------------------------------


def batches(count: int, dtype: torch.dtype, batch_size: int = 16) -> list[Batch]:
    """`count` batches of a small set of blots, whose epochs end in a short batch of 7."""
    n = 3 * batch_size + 7
    rng = np.random.default_rng(5)
    images = (rng.beta(0.3, 0.6, size=(n, *SHAPE)) * 255).astype(np.uint8)
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    data = ImageSet("blots", images, None, (), digest)
    stream = Stream(data, batch_size=batch_size, seed=3, memory="device", n_cpu=1, dtype=dtype)
    found = [next(stream) for _ in range(count)]
    assert {len(batch.images) for batch in found} == {batch_size, 7}
    return found


def noises(sizes: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(n, LATENT, generator=generator, dtype=torch.float64).to(dtype) for n in sizes]


class Replay(Prior):
    """Noise that was drawn beforehand, in its order."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.width = LATENT
        self.draws: Iterator[Tensor] = iter(draws)

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        z = next(self.draws)
        assert z.shape == (n, self.width) and z.dtype == dtype
        return z


def players(dtype: torch.dtype, make: MakeOptimizer, *, eps: float = POST_EPS) -> tuple[Player, Player]:
    g = Generator(LATENT, SHAPE, widths=G_WIDTHS, batchnorm_eps=eps).to(dtype)
    d = Discriminator(SHAPE, widths=D_WIDTHS).to(dtype)
    return Player("G", g, make), Player("D", d, make)


def plain_generator(dtype: torch.dtype, eps: float = POST_EPS) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(LATENT, G_WIDTHS[0]), nn.LeakyReLU(0.2)]
    for before, after in ((16, 32), (32, 48)):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after, eps), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(G_WIDTHS[-1], PIXELS), nn.Tanh()).to(dtype)


def plain_discriminator(dtype: torch.dtype, *last: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(PIXELS, 48), nn.LeakyReLU(0.2), nn.Linear(48, 24), nn.LeakyReLU(0.2), nn.Linear(24, 1), *last
    ).to(dtype)


def take_weights(plain: nn.Module, net: nn.Module) -> None:
    """Copies by position: the two are of the same layers under other names."""
    values = net.state_dict().values()
    plain.load_state_dict({k: v.clone() for k, v in zip(plain.state_dict(), values, strict=True)})


def distance(plain: nn.Module, net: nn.Module) -> float:
    """The largest difference of any parameter or buffer."""
    pairs = zip(plain.state_dict().values(), net.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


# ---- the post ---------------------------------------------------------------------------------------------------


def play_the_post(
    generator: nn.Module, discriminator: nn.Module, reals: Sequence[Tensor], latents: Sequence[Tensor]
) -> tuple[list[float], list[float]]:
    """Generator first, by BCE of probabilities; then the discriminator on the same pictures, cut off their graph."""
    bce = nn.BCELoss()
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    losses_d, losses_g = [], []
    for real, z in zip(reals, latents, strict=True):
        yes, no = real.new_ones(len(real), 1), real.new_zeros(len(real), 1)
        flat = real.reshape(len(real), -1)

        optimizer_g.zero_grad()
        pictures = generator(z)
        loss_g = bce(discriminator(pictures), yes)
        loss_g.backward()
        optimizer_g.step()

        optimizer_d.zero_grad()
        loss_d = (bce(discriminator(flat), yes) + bce(discriminator(pictures.detach()), no)) / 2
        loss_d.backward()
        optimizer_d.step()

        losses_d.append(loss_d.item())
        losses_g.append(loss_g.item())
    return losses_d, losses_g


def post_both_ways(dtype: torch.dtype, rounds: int = 50) -> tuple[Simultaneous, nn.Module, nn.Module, float]:
    """The package's game and the post's loop after the same rounds, and the largest difference of a loss on the way."""
    real = [batch.images for batch in batches(rounds, dtype)]
    latents = noises([len(x) for x in real], dtype)
    G, D = players(dtype, adam)
    plain_g, plain_d = plain_generator(dtype), plain_discriminator(dtype, nn.Sigmoid())
    take_weights(plain_g, G.net)
    take_weights(plain_d, D.net)
    game = Simultaneous(
        G, D, Replay(latents), OBJECTIVES["non_saturating"], PenaltySum([]), torch.Generator().manual_seed(0)
    )
    metrics = [game.round(Batch(x, None)) for x in real]
    losses_d, losses_g = play_the_post(plain_g, plain_d, real, latents)
    gaps = [abs(float(m["loss/D"]) - d) for m, d in zip(metrics, losses_d, strict=True)]
    gaps += [abs(float(m["loss/G"]) - g) for m, g in zip(metrics, losses_g, strict=True)]
    return game, plain_g, plain_d, max(gaps)


def test_simultaneous_is_the_posts_loop_in_float64() -> None:
    game, plain_g, plain_d, loss_gap = post_both_ways(torch.float64)
    assert distance(plain_g, game.G.net) < 1e-9  # running means and variances too
    assert distance(plain_d, game.D.net) < 1e-9
    assert loss_gap < 1e-9


def test_simultaneous_is_the_posts_loop_in_float32() -> None:
    """To 5e-6: twenty times what was measured for BCE on logits and fused Adam against sigmoid, BCELoss and plain Adam.

    Apart from the biases in front of a BatchNorm, which takes their effect out again: their gradient is rounding noise
    of about Adam's eps, so each may drift by the learning rate a round, and the running mean follows it.
    """
    game, plain_g, plain_d, loss_gap = post_both_ways(torch.float32)
    assert distance(plain_d, game.D.net) < 5e-6
    assert loss_gap < 5e-6
    idle = {"2.bias", "3.running_mean", "5.bias", "6.running_mean"}
    ours = game.G.net.state_dict()
    theirs = plain_g.state_dict()
    assert idle < theirs.keys()
    for name, value in theirs.items():
        bound = 50 * 2e-4 if name in idle else 5e-6
        assert (ours[f"model.{name}"] - value).abs().max() <= bound, name
    for bias, mean in (("2.bias", "3.running_mean"), ("5.bias", "6.running_mean")):
        drift = ours[f"model.{bias}"] - theirs[bias]
        assert (drift - (ours[f"model.{mean}"] - theirs[mean])).abs().max() < 1e-4  # the mean lags ten rounds behind


def test_another_order_of_moves_misses_the_post_by_far() -> None:
    """So that 1e-9 means something: D before G, everything else the same, is 1e-5 away within ten rounds."""
    game, plain_g, plain_d, _ = post_both_ways(torch.float64, rounds=10)
    real = [batch.images for batch in batches(10, torch.float64)]
    latents = noises([len(x) for x in real], torch.float64)
    torch.manual_seed(20140610)
    G, D = players(torch.float64, adam)
    twice = [z for z in latents for _ in range(2)]  # both moves of a round on the same noise, as in the post
    wrong = Alternating(G, D, Replay(twice), OBJECTIVES["non_saturating"], PenaltySum([]), torch.Generator())
    for x in real:
        wrong.round(Batch(x, None))
    assert distance(plain_g, game.G.net) < 1e-9 < 1e-5 < distance(plain_g, G.net)
    assert distance(plain_d, game.D.net) < 1e-9 < 1e-5 < distance(plain_d, D.net)


# ---- Algorithm 1 ------------------------------------------------------------------------------------------------


def play_algorithm_1(
    generator: nn.Module, discriminator: nn.Module, reals: Sequence[Tensor], latents: Iterator[Tensor], k: int
) -> None:
    """k ascents of D on log D(x) + log(1 - D(G(z))), halved; then a descent of G on log(1 - D(G(z))); with momentum."""
    optimizer_g = torch.optim.SGD(generator.parameters(), lr=0.05, momentum=0.5)
    optimizer_d = torch.optim.SGD(discriminator.parameters(), lr=0.05, momentum=0.5)
    norms = [m for m in generator.modules() if isinstance(m, nn.BatchNorm1d)]
    for start in range(0, len(reals), k):
        for x in reals[start : start + k]:
            for norm in norms:
                norm.momentum = 0.0  # D's moves use the statistics of the batch and leave G's running ones alone
            with torch.no_grad():
                pictures = generator(next(latents))
            for norm in norms:
                norm.momentum = 0.1
            p_real, p_fake = discriminator(x.flatten(1)), discriminator(pictures)
            value = torch.log(p_real).mean() + torch.log(1 - p_fake).mean()
            optimizer_d.zero_grad()
            (-value / 2).backward()
            optimizer_d.step()
        optimizer_g.zero_grad()
        torch.log(1 - discriminator(generator(next(latents)))).mean().backward()
        optimizer_g.step()


def sizes_of_draws(reals: Sequence[Tensor], k: int) -> list[int]:
    """How much noise a round takes: as much as each of its batches, then as much as the last one again."""
    sizes: list[int] = []
    for start in range(0, len(reals), k):
        own = [len(x) for x in reals[start : start + k]]
        sizes += [*own, own[-1]]
    return sizes


def test_alternating_is_algorithm_1() -> None:
    dtype, k, rounds = torch.float64, 3, 20
    reals = [batch.images for batch in batches(k * rounds, dtype)]
    latents = noises(sizes_of_draws(reals, k), dtype)

    def descent(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return sgd(params, lr=0.05, momentum=0.5)

    G, D = players(dtype, descent)
    plain_g, plain_d = plain_generator(dtype), plain_discriminator(dtype, nn.Sigmoid())
    take_weights(plain_g, G.net)
    take_weights(plain_d, D.net)
    before = [copy.deepcopy(plain_g), copy.deepcopy(plain_d)]
    replay = Replay(latents)
    game = Alternating(G, D, replay, OBJECTIVES["minimax"], PenaltySum([]), torch.Generator(), n_critic=k)
    for start in range(0, len(reals), k):
        game.round(*(Batch(x, None) for x in reals[start : start + k]))
    assert next(replay.draws, None) is None  # all noise was asked for
    play_algorithm_1(plain_g, plain_d, reals, iter(latents), k)
    for module in plain_g:
        if isinstance(module, nn.BatchNorm1d) and module.num_batches_tracked is not None:
            assert module.num_batches_tracked == rounds * (k + 1)
            module.num_batches_tracked.fill_(rounds)  # which counts lent passes here, and does not in the package
    assert distance(plain_g, G.net) < 1e-9
    assert distance(plain_d, D.net) < 1e-9
    assert distance(before[0], G.net) > 1e-3 and distance(before[1], D.net) > 1e-3


# ---- WGAN-GP ----------------------------------------------------------------------------------------------------


def input_gradient(critic: nn.Sequential, x: Tensor) -> Tensor:
    """d critic / d x by the chain rule, as an explicit function of the weights: W1' S1 W2' S2 w3, S the slopes at x."""
    first, second, last = critic[0], critic[2], critic[4]
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear) and isinstance(last, nn.Linear)
    a = x @ first.weight.T + first.bias
    slope_1 = 0.6 + 0.4 * a.detach().sign()  # 1 above 0, 0.2 below
    b = (a * slope_1) @ second.weight.T + second.bias
    slope_2 = 0.6 + 0.4 * b.detach().sign()
    return (((last.weight * slope_2) @ second.weight) * slope_1) @ first.weight


def play_wgan_gp(
    generator: nn.Module,
    critic: nn.Sequential,
    reals: Sequence[Tensor],
    latents: Iterator[Tensor],
    alphas: Iterator[Tensor],
    k: int,
) -> None:
    """Gulrajani et al. 2017, Algorithm 1. The penalty needs no double backward: its inner gradient is written out."""
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=1e-4, betas=(0.0, 0.9))
    optimizer_d = torch.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.0, 0.9))
    for start in range(0, len(reals), k):
        for x in reals[start : start + k]:
            flat = x.flatten(1)
            pictures = generator(next(latents)).detach()
            epsilon = next(alphas)
            mixed = epsilon * flat + (1 - epsilon) * pictures
            norm = input_gradient(critic, mixed).pow(2).sum(1).sqrt()
            loss = (critic(pictures).squeeze(1) - critic(flat).squeeze(1) + 10 * (norm - 1) ** 2).mean()
            optimizer_d.zero_grad()
            loss.backward()
            optimizer_d.step()
        optimizer_g.zero_grad()
        (-critic(generator(next(latents)))).mean().backward()
        optimizer_g.step()


def test_the_written_out_input_gradient_is_right() -> None:
    critic = plain_discriminator(torch.float64)
    x = torch.randn(5, PIXELS, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(critic(x).sum(), x)
    torch.testing.assert_close(input_gradient(critic, x), expected, rtol=1e-12, atol=1e-14)


def test_wgan_gp_is_its_algorithm() -> None:
    dtype, k, rounds = torch.float64, 5, 10
    reals = [batch.images for batch in batches(k * rounds, dtype)]
    latents = noises(sizes_of_draws(reals, k), dtype)
    source = torch.Generator().manual_seed(8)
    alphas = [torch.rand(len(x), 1, generator=source, dtype=dtype) for x in reals]

    def recipe_adam(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return adam(params, lr=1e-4, b1=0.0, b2=0.9)

    G, D = players(dtype, recipe_adam)
    plain_g, plain_d = plain_generator(dtype), plain_discriminator(dtype)
    take_weights(plain_g, G.net)
    take_weights(plain_d, D.net)
    game = Alternating(
        G,
        D,
        Replay(latents),
        OBJECTIVES["wasserstein"],
        PenaltySum([(10.0, wgan_gp)]),
        torch.Generator().manual_seed(8),  # only the alphas come from it: the noise is replayed
        n_critic=k,
    )
    for start in range(0, len(reals), k):
        game.round(*(Batch(x, None) for x in reals[start : start + k]))
    play_wgan_gp(plain_g, plain_d, reals, iter(latents), iter(alphas), k)
    for ours, theirs in zip((G, D), (plain_g, plain_d), strict=True):
        for (name, a), b in zip(ours.net.named_parameters(), theirs.parameters(), strict=True):
            assert (a - b).abs().max() < 1e-9, (ours.name, name)


# ---- moving average ---------------------------------------------------------------------------------------------


def test_moving_average_is_the_explicit_sum() -> None:
    """ema_T = sum_t w_t theta_t / sum_t w_t, w_t = (1 - d_t) prod_{s > t} d_s, with d_t = 2^(-images_t / half-life).

    The first weights theta_0 have no part in it.
    """
    dtype, halflife = torch.float64, 0.1
    real = [batch.images for batch in batches(12, dtype)]
    latents = noises([len(x) for x in real], dtype)
    _, D = players(dtype, adam)
    net = Generator(LATENT, SHAPE, widths=G_WIDTHS).to(dtype)
    G = Player("G", net, adam, ema_halflife_kimg=halflife)
    assert G.ema is not None
    game = Simultaneous(G, D, Replay(latents), OBJECTIVES["non_saturating"], PenaltySum([]), torch.Generator())
    history, total = [], 0
    for x in real:
        game.round(Batch(x, None))
        G.average(len(x), total := total + len(x))
        history.append([p.detach().clone() for p in net.parameters()])
    decays = [2.0 ** (-len(x) / 100) for x in real]
    weights = np.array([(1 - d) * np.prod(decays[t + 1 :]) for t, d in enumerate(decays)])
    weights /= weights.sum()
    for i, mean in enumerate(G.ema.parameters()):
        expected = sum((w * theta[i] for w, theta in zip(weights, history, strict=True)), torch.zeros_like(mean))
        torch.testing.assert_close(mean, expected, rtol=0, atol=1e-14)
        assert not mean.requires_grad
    for average, buffer in zip(G.ema.buffers(), net.buffers(), strict=True):
        assert torch.equal(average, buffer) and average is not buffer


@pytest.mark.parametrize("portions", [[200], [100, 100], [64, 64, 64, 8], [1] * 200])
def test_half_life_is_in_images_whatever_the_batch(portions: list[int]) -> None:
    net = nn.Linear(3, 2).double()
    player = Player("G", net, adam, ema_halflife_kimg=0.2)
    assert player.ema is not None
    player.average(700, total := 700)  # an average of what was there before
    old = copy.deepcopy(net)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p))
    for images in portions:
        player.average(images, total := total + images)
    passed, kept = 1 - 0.5 ** (total / 200), 0.5 * (1 - 0.5 ** (700 / 200))
    for mean, before, now in zip(player.ema.parameters(), old.parameters(), net.parameters(), strict=True):
        expected = (kept * before + (passed - kept) * now) / passed  # nearly half of each
        torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-12)
