"""More games against loops written from their papers, in the manner of test_oracle.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_oracle import Duel, Made, cross_entropy, duel, step
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

__all__ = ["duel"]
EPS = {f"optimizers.{name}.eps": 1e-6 for name in "GD"}  # biases before BatchNorm have gradients of rounding alone

# ---- other losses in the games of two players --------------------------------------------------------------------


def log_d(scores: Tensor) -> Tensor:
    return torch.log(torch.sigmoid(scores))


def log_z(real: Tensor, fake: Tensor) -> Tensor:
    """The log of Softmax GAN's partition function, with mu = -score."""
    return torch.log(torch.exp(real).sum() + torch.exp(fake).sum())


Losses = Callable[[Tensor, Tensor], Tensor]
PRINTED: dict[str, tuple[Losses, Losses]] = {
    "lsgan": (lambda r, f: ((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2, lambda r, f: ((f - 1) ** 2).mean() / 2),
    "bgan": (
        lambda r, f: -(torch.log(torch.sigmoid(r)).mean() + torch.log(1 - torch.sigmoid(f)).mean()) / 2,
        lambda r, f: ((torch.log(torch.sigmoid(f)) - torch.log(1 - torch.sigmoid(f))) ** 2).mean() / 2,
    ),
    "relativistic_gan": (lambda r, f: -log_d(r - f).mean(), lambda r, f: -log_d(f - r).mean()),
    "ragan": (
        lambda r, f: -(log_d(r - f.mean()).mean() + torch.log(1 - torch.sigmoid(f - r.mean())).mean()) / 2,
        lambda r, f: -(log_d(f - r.mean()).mean() + torch.log(1 - torch.sigmoid(r - f.mean())).mean()) / 2,
    ),
    "softmax_gan": (
        lambda r, f: (-r).sum() / len(r) + log_z(r, f),
        lambda r, f: ((-r).sum() + (-f).sum()) / (len(r) + len(f)) + log_z(r, f),
    ),
    "hinge": (lambda r, f: torch.clamp(1 - r, min=0).mean() + torch.clamp(1 + f, min=0).mean(), lambda r, f: -f.mean()),
}


@pytest.mark.parametrize("name", PRINTED)
def test_losses_as_their_papers_print_them(name: str, duel: Made) -> None:
    flags: dict[str, Any] = {"objective": name, "game": "alternating"} if name == "hinge" else {}
    d = duel("gan" if name == "hinge" else name, **flags, **EPS)
    loss_d, loss_g = PRINTED[name]
    G, D, width = d.nets["G"], d.nets["D"], d.experiment.prior.width
    optimizer_g, optimizer_d = d.adam("G"), d.adam("D")
    at_one_point = name in ("lsgan", "bgan", "softmax_gan")
    for (batch,) in d.rounds(6):
        x, n = batch["x"], len(batch)
        fake = G(d.normal(n, width))
        if at_one_point:
            step(optimizer_g, loss_g(D(x), D(fake)))
        step(optimizer_d, loss_d(D(x), D(fake.detach())))
        if not at_one_point:
            step(optimizer_g, loss_g(D(x), D(G(d.normal(n, width)))))
    assert d.apart() < 1e-10


def test_wgan_is_its_algorithm_1(duel: Made) -> None:
    """Five ascents of the critic by RMSprop, its weights clipped after each; then a step of G."""
    d = duel("wgan")
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d = (torch.optim.RMSprop(net.parameters(), lr=5e-5, foreach=False) for net in (G, D))
    for batches in d.rounds(4):
        assert len(batches) == 5
        for batch in batches:
            fake = G(d.normal(len(batch), 100)).detach()
            step(optimizer_d, -(D(batch["x"]).mean() - D(fake).mean()))
            for weight in D.parameters():
                weight.data = torch.clamp(weight.data, -0.01, 0.01)
        step(optimizer_g, -D(G(d.normal(len(batch), 100))).mean())
    assert d.apart() < 1e-10
    assert all(weight.abs().max() <= 0.01 for weight in d.game.D.net.parameters())


# ---- penalties ---------------------------------------------------------------------------------------------------


def lengths(D: nn.Module, points: Tensor) -> Tensor:
    """The length of D's gradient at each point."""
    points = points.detach().requires_grad_()
    slope = torch.autograd.grad(D(points).sum(), points, create_graph=True)[0]
    return slope.pow(2).sum((1, 2, 3)).sqrt()


def of_wgan_div(d: Duel, x: Tensor, fake: Tensor) -> Tensor:
    mu = torch.rand(len(x), 1, 1, 1, generator=d.noise, dtype=torch.float64)
    return 2 * (lengths(d.nets["D"], mu * x + (1 - mu) * fake) ** 6).mean()


def of_dragan(d: Duel, x: Tensor, fake: Tensor) -> Tensor:
    alpha = torch.rand(len(x), 1, 1, 1, generator=d.noise, dtype=torch.float64)
    x_p = x + 0.5 * x.std(correction=0) * torch.rand(x.shape, generator=d.noise, dtype=torch.float64)
    return 10 * ((lengths(d.nets["D"], alpha * x + (1 - alpha) * x_p) - 1) ** 2).mean()


def of_r1(d: Duel, x: Tensor, fake: Tensor) -> Tensor:
    return 10 / 2 * (lengths(d.nets["D"], x) ** 2).mean()


PENALISED = {"wgan_div": of_wgan_div, "dragan": of_dragan, "gan_r1": of_r1}


@pytest.mark.parametrize("name", PENALISED)
def test_penalties_of_their_papers_in_a_game(name: str, duel: Made) -> None:
    """D, with the penalty that the paper adds to its own loss, then G; of cross-entropies all is halved."""
    d = duel(name, **EPS)
    G, D, width = d.nets["G"], d.nets["D"], d.experiment.prior.width
    optimizer_g, optimizer_d = d.adam("G"), d.adam("D")
    for batches in d.rounds(4):
        assert len(batches) == (5 if name == "wgan_div" else 1)
        for batch in batches:
            x, n = batch["x"], len(batch)
            fake = G(d.normal(n, width)).detach()
            if name == "wgan_div":
                step(optimizer_d, D(fake).mean() - D(x).mean() + PENALISED[name](d, x, fake))
            else:
                whole = cross_entropy(D(x), True) + cross_entropy(D(fake), False) + PENALISED[name](d, x, fake)
                step(optimizer_d, whole / 2)
        said = D(G(d.normal(n, width)))
        step(optimizer_g, -said.mean() if name == "wgan_div" else cross_entropy(said, True))
    assert d.apart() < 1e-10


# ---- EBGAN -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["", "target cut off", "cosines without squares"])
def test_ebgan_is_its_section_2(wrong: str, duel: Made) -> None:
    """Hinged energies for D, energy and pull-away term for G, both at one point; and two ways to get it wrong."""
    d = duel("ebgan", **EPS, **{"game.margin": 0.14, "game.pull_away": 3.0})
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d = d.adam("G"), d.adam("D")
    hinged = set()
    for (batch,) in d.rounds(6):
        x, n = batch["x"], len(batch)
        fake = G(d.normal(n, 64))
        said, codes = D(fake)
        target = fake.detach() if wrong == "target cut off" else fake
        pulled = fake.new_zeros(())
        for i in range(n):
            for j in range(n):
                if i != j:
                    cosine = (codes[i] @ codes[j]) / (codes[i].norm() * codes[j].norm())
                    pulled = pulled + (cosine if wrong == "cosines without squares" else cosine**2)
        step(optimizer_g, ((said - target) ** 2).mean() + 3.0 * pulled / (n * (n - 1)))
        fake = fake.detach()
        energies = [((D(images)[0] - images) ** 2).mean((1, 2, 3)) for images in (x, fake)]
        hinged |= set((energies[1] < 0.14).tolist())
        step(optimizer_d, energies[0].mean() + torch.clamp(0.14 - energies[1], min=0).mean())
    assert hinged == {True, False}, "the margin must matter"
    assert (d.apart() < 1e-10) is (wrong == "")
    if wrong:
        assert d.apart() > 1e-5


# ---- spectral norm, R3GAN ----------------------------------------------------------------------------------------


class ByHand:
    """W / sigma of a network's layers by power iterations of its own, from the first u and v of the network."""

    def __init__(self, net: nn.Module) -> None:
        found = {m: m.parametrizations.weight for m in net.modules() if hasattr(m, "parametrizations")}
        self.raw: dict[nn.Module, Any] = {m: spectral.original for m, spectral in found.items()}
        self.uv = {m: (spectral[0].u.clone(), spectral[0].v.clone()) for m, spectral in found.items()}

    def iterate(self) -> None:
        for layer, (u, _) in self.uv.items():
            w = self.raw[layer].detach().flatten(1)
            v = w.T @ u / (w.T @ u).norm()
            self.uv[layer] = w @ v / (w @ v).norm(), v

    def weight(self, layer: nn.Module) -> Tensor:
        u, v = self.uv[layer]
        return self.raw[layer] / (u @ self.raw[layer].flatten(1) @ v)

    def run(self, layers: Any, x: Tensor) -> Tensor:
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                x = conv2d(x, self.weight(layer), layer.bias, layer.stride, layer.padding)
            else:
                x = linear(x, self.weight(layer), layer.bias) if isinstance(layer, nn.Linear) else layer(x)
        return x


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    return torch.clamp(1 - real, min=0).mean() + torch.clamp(1 + fake, min=0).mean()


def test_hinge_sn_is_its_algorithm_1(duel: Made) -> None:
    """The gradient goes through W / sigma; one power iteration for each of D's updates and none in between."""
    d = duel("hinge_sn", **EPS)
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d, by_hand = d.adam("G"), d.adam("D"), ByHand(D)

    def critic(x: Tensor) -> Tensor:
        return by_hand.run(D.model, x).squeeze(1)

    for (batch,) in d.rounds(6):
        n = len(batch)
        step(optimizer_d, hinge(critic(batch["x"]), critic(G(d.normal(n, 128)).detach())))
        by_hand.iterate()
        step(optimizer_g, -critic(G(d.normal(n, 128))).mean())
    assert d.apart() < 1e-10


def test_projection_is_its_equation_5(duel: Made) -> None:
    """psi(phi(x)) + <V y, phi(x)> with V y a row of a normalised matrix; fakes have the labels of the batch."""
    d = duel("projection", **EPS)
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d, by_hand = d.adam("G"), d.adam("D"), ByHand(D)

    def critic(x: Tensor, y: Tensor) -> Tensor:
        phi = by_hand.run(D.model, x).sum((2, 3))
        vectors = torch.eye(D.embed.num_embeddings, dtype=torch.float64)[y] @ by_hand.weight(D.embed)
        return by_hand.run([D.psi], phi).squeeze(1) + (vectors * phi).sum(1)

    for (batch,) in d.rounds(6):
        x, y = batch["x"], batch["y"]
        fake = G(d.normal(len(x), 128), y)
        step(optimizer_g, -critic(fake, y).mean())
        step(optimizer_d, hinge(critic(x, y), critic(fake.detach(), y)))
        by_hand.iterate()
    assert d.apart() < 1e-10


def test_r3gan_is_its_section_2(duel: Made) -> None:
    """Pairs by position with f(t) = -log(1 + e^-t), gamma / 2 of both squared gradients; G on fresh z, the same x."""
    d, gamma = duel("r3gan", **EPS), 1.0
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d = d.adam("G"), d.adam("D")
    for (batch,) in d.rounds(6):
        x, n = batch["x"], len(batch)
        fake = G(d.normal(n, 64)).detach()
        penalties = (lengths(D, x) ** 2).mean() + (lengths(D, fake) ** 2).mean()
        step(optimizer_d, -log_d(D(x) - D(fake)).mean() + gamma / 2 * penalties)
        step(optimizer_g, -log_d(D(G(d.normal(n, 64))) - D(x)).mean())
    assert d.apart() < 1e-10


# ---- classes and clusters ----------------------------------------------------------------------------------------


def log_p(logits: Tensor, y: Tensor) -> Tensor:
    """E log softmax(logits)_y."""
    return torch.log(torch.exp(logits)[torch.arange(len(y)), y] / torch.exp(logits).sum(1)).mean()


def play_acgan(d: Duel, rounds: int, class_of: Callable[[Tensor], Tensor]) -> None:
    """D and G ascend L_S + L_C and L_C - L_S, both halved for D, each at the same point."""
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d = d.adam("G"), d.adam("D")
    for (batch,) in d.rounds(rounds):
        x, y = batch["x"], batch["y"]
        fake = G(d.normal(len(x), 64), y)
        said = D(fake)
        step(optimizer_g, cross_entropy(said.score, True) - log_p(class_of(said.category), y))
        real, said = D(x), D(fake.detach())
        source = cross_entropy(real.score, True) + cross_entropy(said.score, False)
        step(optimizer_d, (source - log_p(class_of(real.category), y) - log_p(class_of(said.category), y)) / 2)


def test_acgan_is_its_equations_2_and_3(duel: Made) -> None:
    """With logits: a softmax before the cross-entropy, which has one itself, is another update."""
    d = duel("acgan", **EPS)
    play_acgan(d, 5, lambda logits: logits)
    assert d.apart() < 1e-10
    twice = duel("acgan", **EPS)
    play_acgan(twice, 5, lambda logits: torch.softmax(logits, 1))
    assert twice.apart() > 1e-5


def test_sgan_has_a_class_for_fakes(duel: Made) -> None:
    """Labels by all K + 1 classes; u is anything but the last, a fake is the last, and G wants it to be any other."""
    d = duel("sgan", **EPS)
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d = d.adam("G"), d.adam("D")
    for (batch,) in d.rounds(5):
        x, y, u = batch["x"], batch["y"], batch["u"]
        fake = G(d.normal(len(u), 64))
        of_x, of_u, of_fake = D(x), D(u), D(fake)  # in this order dropout is drawn
        p_u, p_fake = (torch.softmax(logits, 1)[:, -1] for logits in (of_u, of_fake))
        loss_g = -torch.log(1 - p_fake).mean()
        loss_d = -log_p(of_x, y) - (torch.log(1 - p_u).mean() + torch.log(p_fake).mean()) / 2
        both = ((optimizer_g, G, loss_g), (optimizer_d, D, loss_d))
        slopes = [torch.autograd.grad(loss, list(net.parameters()), retain_graph=True) for _, net, loss in both]
        for (optimizer, net, _), own in zip(both, slopes, strict=True):
            for weight, slope in zip(net.parameters(), own, strict=True):
                weight.grad = slope
            optimizer.step()
    assert d.apart() < 1e-10


def test_sgan_without_unlabelled_pictures_is_a_classifier(duel: Made) -> None:
    d = duel("sgan", **{"game.lambda_unlabelled": 0})
    D = d.nets["D"]
    optimizer = d.adam("D")
    for (batch,) in d.rounds(5):
        step(optimizer, -log_p(D(batch["x"]), batch["y"]))
    for ours, theirs in zip(d.game.D.net.parameters(), D.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("wasserstein", [True, False])
def test_cluster_gan_is_its_objective(duel: Made, wasserstein: bool) -> None:
    """n_critic moves of the critic, then G and E together on the adversarial loss and what E finds of z again."""
    vanilla = {"objective": "non_saturating", "penalties": [], "game.n_critic": 1}
    d = duel("cluster_gan", **EPS, **{"optimizers.E.eps": 1e-6}, **{} if wasserstein else vanilla)
    G, E, D = (d.nets[name] for name in "GED")
    optimizer_ge, optimizer_d = d.adam("G", "E"), d.adam("D")
    eye = torch.eye(10, dtype=torch.float64)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        return 0.1 * d.normal(n, 30), torch.randint(10, (n,), generator=d.noise)

    def made(z_n: Tensor, z_c: Tensor) -> Tensor:
        return G(torch.cat((z_n, eye[z_c]), 1))

    for batches in d.rounds(5):
        assert len(batches) == (5 if wasserstein else 1)
        for batch in batches:
            x, n = batch["x"], len(batch)
            fake = made(*draw(n)).detach()
            if wasserstein:
                epsilon = torch.rand(n, 1, 1, 1, generator=d.noise, dtype=torch.float64)
                between = (epsilon * x + (1 - epsilon) * fake).requires_grad_()
                slope = torch.autograd.grad(D(between).sum(), between, create_graph=True)[0]
                loss = D(fake).mean() - D(x).mean() + 10 * ((slope.pow(2).sum((1, 2, 3)).sqrt() - 1) ** 2).mean()
            else:
                loss = (cross_entropy(D(x), True) + cross_entropy(D(fake), False)) / 2
            step(optimizer_d, loss)
        z_n, z_c = draw(n)
        fake = made(z_n, z_c)
        code = E(fake)
        passes = -D(fake).mean() if wasserstein else cross_entropy(D(fake), True)
        step(optimizer_ge, passes + 10 * ((z_n - code.noise) ** 2).sum(1).mean() - 10 * log_p(code.category, z_c))
    assert d.apart() < 1e-10
