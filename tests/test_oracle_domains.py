"""Games on two domains without pairs against loops written from their papers, in the manner of test_oracle.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import experiment_of, rounds
from test_oracle import Duel, Made, cross_entropy, duel, step
from torch import Tensor, nn

from gansmith.batch import Batch
from gansmith.networks.cogan import Discriminator, Generator

__all__ = ["duel"]
DataOf = Callable[[str], str]


def l1(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().mean()


def weights(d: Duel) -> dict[str, Tensor]:
    return {f"{p.name}.{n}": w.detach() for p in d.game.players for n, w in p.net.named_parameters()}


# ---- DiscoGAN ----------------------------------------------------------------------------------------------------


def test_discogan_is_its_equations_3_to_8(duel: Made) -> None:
    """Cross entropies and squared differences, nothing else; all gradients at one point; decay of weights in Adam."""
    d = duel("discogan", **{"game.lambda_cycle": 1.0})  # the paper's; the recipe weighs it more
    AB, BA, DA, DB = (d.nets[name] for name in ("AB", "BA", "DA", "DB"))
    optimizers = [
        torch.optim.Adam([w for net in nets for w in net.parameters()], 2e-4, (0.5, 0.999), weight_decay=1e-4)
        for nets in ((AB, BA), (DA, DB))
    ]
    for (batch,) in d.rounds(3):
        a, b = batch["a"], batch["b"]
        fake_b, fake_a = AB(a), BA(b)
        of_g = cross_entropy(DB(fake_b), True) + ((BA(fake_b) - a) ** 2).mean()
        of_g = of_g + cross_entropy(DA(fake_a), True) + ((AB(fake_a) - b) ** 2).mean()
        of_d = sum(
            (cross_entropy(net(x), True) + cross_entropy(net(fake.detach()), False)) / 2
            for net, x, fake in ((DA, a, fake_a), (DB, b, fake_b))
        )
        for net in (DA, DB):  # G's loss goes through them, and D's must not have it
            net.requires_grad_(False)
        optimizers[0].zero_grad()
        of_g.backward()
        for net in (DA, DB):
            net.requires_grad_(True)
        optimizers[1].zero_grad()
        of_d.backward()  # type: ignore[union-attr]
        for optimizer in optimizers:
            optimizer.step()
    assert d.apart() < 1e-10


@pytest.mark.parametrize("name", ["discogan", "dualgan", "cogan"])
def test_no_pair_is_ever_looked_at(name: str, duel: Made) -> None:
    """Another order of b changes nothing: who belongs to whom does not enter. The popular DiscoGAN has an L1 of pairs.

    Without dropout, which pairs by position. The latents of CoGAN belong to fakes alone.
    """
    quiet = {f"networks.{player}.dropout": 0.0 for player in ("AB", "BA")} if name == "dualgan" else {}
    one, other = (duel(name, **quiet) for _ in range(2))
    assert one.game.needs == (("a",), ("b",))  # each with an order of its own
    for _ in range(2):
        batches = [next(one.experiment.stream) for _ in range(one.game.batches_per_round)]
        turned = [Batch({"a": x["a"], "b": x["b"].flip(0)}, x.size) for x in batches]
        one.game.round(*batches)
        other.game.round(*turned)
    after = weights(other)
    assert max(float((w - after[n]).abs().max()) for n, w in weights(one).items()) < 1e-10


def test_pairs_that_serve_as_two_domains_are_torn_apart(data_of: DataOf) -> None:
    """Each half of a pair comes in an order of its own, so that a picture rarely meets its partner."""
    pairs = data_of("pix2pix")
    flags: dict[str, Any] = {"batch_size": 20, "views": [], "data.validation": 0, "data.pairs": "halves"}
    flags |= {"img_size": 16, "channels": 1}
    paired, torn = (experiment_of(name, pairs, **flags) for name in ("pix2pix", "dualgan"))
    whole, batch = next(paired.stream), next(torn.stream)
    partner = dict(zip(map(str, whole["a"].flatten(1)[:, :9]), map(str, whole["b"].flatten(1)[:, :9]), strict=True))
    seen = [*zip(map(str, batch["a"].flatten(1)[:, :9]), map(str, batch["b"].flatten(1)[:, :9]), strict=True)]
    assert len(partner) == 20 and {a for a, _ in seen} == {*partner} and {b for _, b in seen} == {*partner.values()}
    assert sum(partner[a] == b for a, b in seen) < 5  # one of 20, in the mean


# ---- DualGAN -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalised", [False, True])
def test_dualgan_is_its_algorithm_1(duel: Made, penalised: bool) -> None:
    """n_critic descents of both critics by RMSprop, each on new pictures, then clipped; then one of the translators.

    With a penalty, as in WGAN-GP, on critics that are not clipped: per picture, for nothing in a critic mixes them.
    """
    critic = {"name": "patch_critic", "width": 2, "patch": 16}
    flags = (
        {"penalties": [{"name": "wgan_gp", "weight": 10.0}], **{f"networks.D{of}": critic for of in "AB"}}
        if penalised
        else {}
    )
    d = duel("dualgan", **{"game.lambda_b": 30.0, "game.n_critic": 3}, **flags)
    AB, BA, DA, DB = (d.nets[name] for name in ("AB", "BA", "DA", "DB"))
    clip = 0.0 if penalised else d.game.DA.net.clip
    of_g, of_a, of_b = (
        torch.optim.RMSprop([w for net in nets for w in net.parameters()], lr=2e-4, alpha=0.9, foreach=False)
        for nets in ((AB, BA), (DA,), (DB,))
    )

    def penalty(net: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
        if not penalised:
            return x.new_zeros(())
        share = torch.rand(len(x), 1, 1, 1, generator=d.noise, dtype=torch.float64)
        between = (share * x + (1 - share) * fake).requires_grad_()
        slope = torch.autograd.grad(net(between).mean((1, 2)).sum(), between, create_graph=True)[0]
        return 10 * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()

    for batches in d.rounds(3):
        assert len(batches) == 3
        for batch in batches:
            a, b = batch["a"], batch["b"]
            fake_b, fake_a = AB(a).detach(), BA(b).detach()
            for optimizer, net, x, fake in ((of_a, DA, a, fake_a), (of_b, DB, b, fake_b)):
                step(optimizer, net(fake).mean() - net(x).mean() + penalty(net, x, fake))
                for weight in net.parameters() if clip else ():
                    weight.data = torch.clamp(weight.data, -clip, clip)
        fake_b, fake_a = AB(a), BA(b)
        cycle = 100 * l1(BA(fake_b), a) + 30 * l1(AB(fake_a), b)
        step(of_g, cycle - DB(fake_b).mean() - DA(fake_a).mean())
    assert d.apart() < 1e-10
    if not penalised:
        assert all(w.abs().max() <= clip for name in ("DA", "DB") for w in getattr(d.game, name).net.parameters())


# ---- CoGAN -------------------------------------------------------------------------------------------------------


def test_cogan_is_its_algorithm_1(duel: Made) -> None:
    """Two critics that share their last layers, two generators that share their first, four networks with tied weights.

    In a shared weight the algorithm takes the mean of both gradients; Adam, whose eps is small here, sees no factor.
    """
    tiny = {f"optimizers.{name}.eps": 1e-30 for name in "GD"}
    d = duel("cogan", **tiny)
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d = d.adam("G"), d.adam("D")

    def f(way: int, x: Tensor) -> Tensor:
        return D.shared(D.own[way](x)).squeeze(1)

    def mean_in(shared: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        for weight in shared.parameters():
            weight.grad = weight.grad / 2
        optimizer.step()

    for (batch,) in d.rounds(3):
        z = d.uniform(len(batch), 100)
        h = G.shared(z)
        made = [torch.sigmoid(G.own[way](h)) for way in range(2)]
        of_d = [
            cross_entropy(f(way, x), True) + cross_entropy(f(way, made[way].detach()), False)
            for way, x in enumerate((batch["a"], batch["b"]))
        ]
        mean_in(D.shared, optimizer_d, of_d[0] + of_d[1])
        mean_in(G.shared, optimizer_g, cross_entropy(f(0, made[0]), True) + cross_entropy(f(1, made[1]), True))
    assert d.apart() < 1e-10


def test_cogan_shares_the_ends_with_the_meaning() -> None:
    """On the way from z or from pixels: G's last layer and D's first are a domain's own, the others serve both.

    The popular CoGAN has it the other way round in D, whose pixels of both domains enter one layer.
    """
    torch.manual_seed(0)
    x = torch.rand(4, 1, 28, 28)
    g, d = Generator(6, (1, 28, 28), width=2), Discriminator((1, 28, 28), width=4)
    own = [[True, False], [False, True]]  # reached by the gradient of a, of b
    for net, given, expected in (
        (g, (torch.randn(4, 6),), [[True] * 2] * 4 + own),
        (d, (x, x), own + [[True] * 2] * 3),
    ):
        passed: list[nn.Module] = []  # in the order in which they are called
        for layer in net.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                layer.register_forward_hook(lambda layer, args, out, passed=passed: passed.append(layer))
        of_a, of_b = net(*given)
        slopes = [
            torch.autograd.grad(said.sum(), [layer.weight for layer in passed], retain_graph=True, allow_unused=True)
            for said in (of_a, of_b)
        ]
        found = [[s is not None and bool(s.abs().max() > 0) for s in both] for both in zip(*slopes, strict=True)]
        assert found == expected and not torch.equal(of_a, of_b)


@pytest.mark.parametrize("size", [16, 20, 28, 32, 33, 64])
def test_cogans_sides_follow_from_the_end(size: int) -> None:
    """At 28 the paper's 4, 7, 13, 25, 28; elsewhere as near to it as can be."""
    g = Generator(6, (1, size, size + 3), width=1)
    sides = []
    h = torch.zeros(2, 6)
    for layer in g.shared:
        h = layer(h)
        sides += [h.shape[2]] if isinstance(layer, nn.ConvTranspose2d) else []
    assert g.own[0](h).shape[2:] == (size, size + 3)
    assert size != 28 or sides == [4, 7, 13, 25]
    assert Discriminator((1, size, size + 3), width=2)(*[torch.zeros(2, 1, size, size + 3)] * 2)[1].shape == (2,)


def test_cogan_takes_a_loss_that_compares(data_of: DataOf) -> None:
    heard = rounds(experiment_of("cogan", data_of("cogan"), objective="relativistic"), 2)
    assert all(torch.isfinite(m["loss/G"]) for m in heard)
