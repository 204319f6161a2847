"""Every game against a plain loop written from its paper: same weights, pictures and random numbers, same outcome.

The loops share no line with the games: `backward`, `torch.optim`, losses as the papers print them; in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from conftest import experiment_of
from torch import Tensor, nn

from gansmith.batch import Batch
from gansmith.build import Experiment

Made = Callable[..., "Duel"]
PLAIN = {"fused": False, "foreach": False}


class Duel:
    """A recipe's game, and copies of its networks for the paper's loop, with a generator that draws what it draws."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.game = experiment, experiment.game
        self.nets = {p.name: copy.deepcopy(p.net) for p in self.game.players}
        self.noise = torch.Generator()
        self.noise.set_state(experiment.state.noise.get_state())

    def adam(self, *names: str) -> torch.optim.Optimizer:
        """Plain Adam with the recipe's rates."""
        group = next(p for p in self.game.players if p.name == names[0]).optimizer.param_groups[0]
        parameters = [w for name in names for w in self.nets[name].parameters()]
        return torch.optim.Adam(parameters, lr=group["lr"], betas=group["betas"], eps=group["eps"], **PLAIN)

    def rounds(self, n: int) -> Iterator[list[Batch]]:
        """Play n rounds of the game, and give the batches of each to the loop."""
        for i in range(n):
            batches = [next(self.experiment.stream) for _ in range(self.game.batches_per_round)]
            torch.manual_seed(i)  # dropout
            self.experiment.state.begin_round()
            self.game.round(*batches)
            self.experiment.state.end_round(len(batches[0]))
            torch.manual_seed(i)
            yield batches

    def normal(self, n: int, width: int) -> Tensor:
        return torch.randn(n, width, generator=self.noise, dtype=torch.float64)

    def uniform(self, *shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=self.noise, dtype=torch.float64) - 1

    def apart(self) -> float:
        """The largest difference of any weight."""
        pairs = [zip(p.net.parameters(), self.nets[p.name].parameters(), strict=True) for p in self.game.players]
        return max(float((a - b).detach().abs().max()) for pair in pairs for a, b in pair)


@pytest.fixture
def duel(data_of: Callable[[str], str]) -> Made:
    return lambda name, **flags: Duel(experiment_of(name, data_of(name), **flags))


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def cross_entropy(logits: Tensor, real: bool) -> Tensor:
    """-E log D or -E log(1 - D)."""
    return -torch.log(torch.sigmoid(logits if real else -logits)).mean()


# ---- the post, and Algorithm 1 -----------------------------------------------------------------------------------


def play_the_post(d: Duel, rounds: int) -> None:
    """Generator first, by BCE of probabilities; then the discriminator on the same pictures, cut off their graph."""
    G, D, bce = d.nets["G"], d.nets["D"], nn.BCELoss()
    optimizer_g = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999), **PLAIN)
    optimizer_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999), **PLAIN)
    for (batch,) in d.rounds(rounds):
        x = batch["x"]
        yes, no = x.new_ones(len(x)), x.new_zeros(len(x))
        fake = G(d.normal(len(x), 100))
        step(optimizer_g, bce(torch.sigmoid(D(fake)), yes))
        step(optimizer_d, (bce(torch.sigmoid(D(x)), yes) + bce(torch.sigmoid(D(fake.detach())), no)) / 2)


def test_simultaneous_is_the_posts_loop(duel: Made) -> None:
    d = duel("gan")
    play_the_post(d, 50)
    assert d.apart() < 1e-10
    for ours, theirs in zip(d.game.G.net.buffers(), d.nets["G"].buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)  # running statistics too
    wrong = duel("gan", game="alternating")  # D before G, on noise of its own
    play_the_post(wrong, 10)
    assert wrong.apart() > 1e-5


def test_alternating_is_algorithm_1(duel: Made) -> None:
    """k ascents of D on log D(x) + log(1 - D(G(z))), halved; then a descent of G on log(1 - D(G(z))); with momentum."""
    sgd = {"name": "sgd", "lr": 0.05, "momentum": 0.5}
    game = {"name": "alternating", "n_critic": 3}
    d = duel("gan", game=game, objective="minimax", **{"optimizers.G": sgd, "optimizers.D": sgd})
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d = (torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.5) for net in (G, D))
    for batches in d.rounds(10):
        for batch in batches:
            fake = G(d.normal(len(batch), 100)).detach()
            step(optimizer_d, (cross_entropy(D(batch["x"]), True) + cross_entropy(D(fake), False)) / 2)
        step(optimizer_g, -cross_entropy(D(G(d.normal(len(batch), 100))), False))
    assert d.apart() < 1e-10


def test_wgan_gp_is_its_algorithm(duel: Made) -> None:
    """Gulrajani et al. 2017, Algorithm 1."""
    d = duel("wgan_gp")
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d = (
        torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.0, 0.9), **PLAIN) for net in (G, D)
    )
    for batches in d.rounds(4):
        assert len(batches) == 5
        for batch in batches:
            x, n = batch["x"], len(batch)
            fake = G(d.normal(n, 100)).detach()
            epsilon = torch.rand(n, 1, 1, 1, generator=d.noise, dtype=torch.float64)
            mixed = (epsilon * x + (1 - epsilon) * fake).requires_grad_()
            slope = torch.autograd.grad(D(mixed).sum(), mixed, create_graph=True)[0]
            norms = slope.pow(2).sum((1, 2, 3)).sqrt()
            step(optimizer_d, (D(fake) - D(x) + 10 * (norms - 1) ** 2).mean())
        step(optimizer_g, -D(G(d.normal(n, 100))).mean())
    assert d.apart() < 1e-10


# ---- other games -------------------------------------------------------------------------------------------------


def test_began_is_its_section_3_4(duel: Made) -> None:
    d = duel("began", **{"game.lambda_k": 0.1})
    G, D, k = d.nets["G"], d.nets["D"], 0.0
    optimizer_g, optimizer_d = d.adam("G"), d.adam("D")

    def energy(x: Tensor) -> Tensor:
        return (x - D(x)).abs().mean()

    for (batch,) in d.rounds(8):
        x, (z_d, z_g) = batch["x"], (d.uniform(len(batch), 64) for _ in range(2))
        loss_g = energy(G(z_g))
        real = energy(x)
        loss_d = real - k * energy(G(z_d).detach())
        of_g = torch.autograd.grad(loss_g, list(G.parameters()))  # both at one point
        step(optimizer_d, loss_d)
        for weight, slope in zip(G.parameters(), of_g, strict=True):
            weight.grad = slope
        optimizer_g.step()
        k = min(1.0, max(0.0, k + 0.1 * (0.7 * real.item() - loss_g.item())))
    assert k > 0.05 and float(d.game.k) == pytest.approx(k, rel=1e-12)
    assert d.apart() < 1e-10


def test_infogan_is_its_equation_6(duel: Made) -> None:
    """D, then G, then G with Q on the bound of the information: category by cross-entropy, codes by squares."""
    eps = {f"optimizers.{name}.eps": 1e-6 for name in "GD"}  # biases before BatchNorm have gradients of rounding alone
    d = duel("infogan", **eps)
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d = d.adam("G"), d.adam("D")

    def draw(n: int) -> tuple[Tensor, Tensor, Tensor]:
        noise = d.uniform(n, 62)
        category = torch.randint(10, (n,), generator=d.noise)
        code = d.uniform(n, 2)
        return torch.cat([noise, torch.eye(10, dtype=torch.float64)[category], code], 1), category, code

    for (batch,) in d.rounds(5):
        n = len(batch)
        fake = G(draw(n)[0]).detach()
        step(optimizer_d, (cross_entropy(D(batch["x"]).score, True) + cross_entropy(D(fake).score, False)) / 2)
        step(optimizer_g, cross_entropy(D(G(draw(n)[0])).score, True))
        z, category, code = draw(n)
        said = D(G(z))
        log_q = torch.log_softmax(said.category, 1)[torch.arange(n), category].mean()
        optimizer_d.zero_grad()
        step(optimizer_g, -log_q + ((said.code - code) ** 2).sum(1).mean() / 2)
        optimizer_d.step()
    assert d.apart() < 1e-10


def test_cgan_is_equation_2_with_labels(duel: Made) -> None:
    d = duel("cgan")
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d = d.adam("G"), d.adam("D")
    width = d.experiment.prior.width
    for (batch,) in d.rounds(5):
        x, y = batch["x"], batch["y"]
        fake = G(d.normal(len(x), width), y)
        step(optimizer_g, cross_entropy(D(fake, y), True))
        step(optimizer_d, (cross_entropy(D(x, y), True) + cross_entropy(D(fake.detach(), y), False)) / 2)
    assert d.apart() < 1e-10


def test_aae_is_its_two_phases(duel: Made) -> None:
    """Reconstruction of E and Dec; then D tells the prior's draws from codes; then E passes its codes for draws."""
    d = duel("aae")
    E, Dec, D = d.nets["E"], d.nets["Dec"], d.nets["D"]
    optimizer_e, optimizer_dec, optimizer_d = d.adam("E"), d.adam("Dec"), d.adam("D")
    for (batch,) in d.rounds(8):
        x, n = batch["x"], len(batch)
        optimizer_dec.zero_grad()
        step(optimizer_e, ((Dec(E(x)) - x) ** 2).mean())
        optimizer_dec.step()
        z = d.normal(n, 3)
        step(optimizer_d, (cross_entropy(D(z), True) + cross_entropy(D(E(x).detach()), False)) / 2)
        step(optimizer_e, cross_entropy(D(E(x)), True))
        d.normal(n, 3)  # which the game draws for losses that compare with it
    assert d.apart() < 1e-10


def test_pix2pix_is_its_section_3_3(duel: Made) -> None:
    """D's objective halved; then G against the D that has moved, and 100 times the L1 distance; dropout drawn once."""
    d = duel("pix2pix")
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d = d.adam("G"), d.adam("D")
    for (batch,) in d.rounds(5):
        a, b = batch["a"], batch["b"]
        fake = G(a)
        step(optimizer_d, (cross_entropy(D(a, b), True) + cross_entropy(D(a, fake.detach()), False)) / 2)
        step(optimizer_g, cross_entropy(D(a, fake), True) + 100 * (b - fake).abs().mean())
    assert d.apart() < 1e-10


def test_cyclegan_is_its_equation_3_with_least_squares(duel: Made) -> None:
    """All gradients at one point; half of the paper's loss for AB and BA; pools fill, then exchange by a coin."""
    d = duel("cyclegan", **{"game.pool": 7})
    AB, BA, DA, DB = (d.nets[name] for name in ("AB", "BA", "DA", "DB"))
    optimizers = [d.adam("AB", "BA"), d.adam("DA"), d.adam("DB")]
    pools: dict[str, list[Tensor]] = {"a": [], "b": []}

    def from_pool(pool: list[Tensor], fakes: Tensor) -> Tensor:
        coins = torch.rand(len(fakes), generator=d.noise).tolist()
        places = torch.randint(7, (len(fakes),), generator=d.noise).tolist()
        out = []
        for fake, coin, place in zip(fakes.detach(), coins, places, strict=True):
            if len(pool) < 7:
                pool.append(fake)
            elif coin < 0.5:
                fake, pool[place] = pool[place], fake
            out.append(fake)
        return torch.stack(out)

    def l1(one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs().mean()

    for (batch,) in d.rounds(6):
        a, b = batch["a"], batch["b"]
        fake_b, fake_a = AB(a), BA(b)
        loss = ((DB(fake_b) - 1) ** 2).mean() + ((DA(fake_a) - 1) ** 2).mean()
        loss = loss + 10 * (l1(BA(fake_b), a) + l1(AB(fake_a), b)) + 0.5 * 10 * (l1(BA(a), a) + l1(AB(b), b))
        loss = loss / 2
        old_a, old_b = from_pool(pools["a"], fake_a), from_pool(pools["b"], fake_b)
        critics = [
            (((net(x) - 1) ** 2).mean() + (net(old) ** 2).mean()) / 2
            for net, x, old in ((DA, a, old_a), (DB, b, old_b))
        ]
        slopes = []
        for optimizer, own in zip(optimizers, (loss, *critics), strict=True):
            parameters = optimizer.param_groups[0]["params"]
            slopes.append(torch.autograd.grad(own, parameters, retain_graph=True))
        for optimizer, grads in zip(optimizers, slopes, strict=True):
            for weight, slope in zip(optimizer.param_groups[0]["params"], grads, strict=True):
                weight.grad = slope
            optimizer.step()
    assert len(pools["a"]) == 7 and d.apart() < 1e-10
