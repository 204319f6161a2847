"""BicycleGAN and PixelDA against loops written after their papers and the authors' code; what their makers make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import experiment_of, rounds, save_noise
from test_oracle import Duel, Made, cross_entropy, duel, step
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import avg_pool2d

import gansmith
from gansmith.batch import Batch
from gansmith.data import Wanted, load_sets
from gansmith.errors import UserError
from gansmith.evaluation.evaluator import evaluate
from gansmith.games.bicyclegan import kl
from gansmith.inference import load
from gansmith.networks import bicyclegan

__all__ = ["duel"]
DataOf = Callable[[str], str]
SHAPE = (2, 16, 20)


def weights(d: Duel) -> dict[str, Tensor]:
    return {f"{p.name}.{n}": w.detach().clone() for p in d.game.players for n, w in p.net.named_parameters()}


# ---- BicycleGAN --------------------------------------------------------------------------------------------------


def play_bicyclegan(d: Duel, n: int, *, sum_kl: bool = False, latent_moves_e: bool = False) -> None:
    """Both backward passes, E shut off in the second; then E and G step, and last each critic, on the same pictures."""
    G, E, D_VAE, D_LR = (d.nets[name] for name in ("G", "E", "D_VAE", "D_LR"))
    of_g, of_e, of_vae, of_lr = (d.adam(name) for name in ("G", "E", "D_VAE", "D_LR"))

    def squares(said: tuple[Tensor, ...], target: float) -> Tensor:
        return torch.stack([((s - target) ** 2).mean() for s in said]).sum()

    for (batch,) in d.rounds(n):
        a, b = batch["a"], batch["b"]
        mu, logvar = E(b)
        fake_vae = G(a, mu + torch.exp(logvar / 2) * d.normal(len(a), mu.shape[1]))
        z = d.normal(len(a), mu.shape[1])
        fake_lr = G(a, z)
        divergence = kl_divergence(Normal(mu, torch.exp(logvar / 2)), Normal(0.0, 1.0)).sum()
        loss = squares(D_VAE(fake_vae), 1) + squares(D_LR(fake_lr), 1) + 10 * (fake_vae - b).abs().mean()
        loss = loss + 0.01 * divergence / (1 if sum_kl else len(a))
        of_g.zero_grad()
        of_e.zero_grad()
        loss.backward(retain_graph=True)
        E.requires_grad_(latent_moves_e)
        (0.5 * (E(fake_lr)[0] - z).abs().mean()).backward()
        E.requires_grad_(True)
        of_e.step()
        of_g.step()
        for critic, optimizer, fake in ((D_VAE, of_vae, fake_vae.detach()), (D_LR, of_lr, fake_lr.detach())):
            step(optimizer, (squares(critic(b), 1) + squares(critic(fake), 0)) / 2)


def test_bicyclegan_is_the_authors_loop(duel: Made) -> None:
    d = duel("bicyclegan")
    play_bicyclegan(d, 3)
    assert d.apart() < 1e-10
    for wrong in ("sum_kl", "latent_moves_e"):  # as the popular script, and as section 3.4 warns
        d = duel("bicyclegan")
        play_bicyclegan(d, 3, **{wrong: True})
        assert d.apart() > 1e-6, wrong


def test_the_divergence_weighs_the_same_in_every_batch(duel: Made) -> None:
    """The mean over pictures of the sum over numbers, by torch.distributions; twice the batch has the same."""
    mu, logvar = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = kl_divergence(Normal(mu, torch.exp(logvar / 2)), Normal(0.0, 1.0)).sum() / 7
    torch.testing.assert_close(kl(mu, logvar), expected)
    d = duel("bicyclegan")
    batch = next(d.experiment.stream)
    twice = Batch({name: torch.cat((x, x)) for name, x in batch.fields.items()}, 2 * batch.size)
    game: Any = d.game
    one, two = (game.losses(x)[1]["game/kl"] for x in (batch, twice))
    torch.testing.assert_close(one, two)


def test_the_latent_term_moves_g_alone(duel: Made) -> None:
    d = duel("bicyclegan", **{f"game.lambda_{name}": 0.0 for name in ("gan", "l1", "kl")})
    (metrics,) = rounds(d.experiment, 1)
    assert metrics["grad/G"] > 0 and metrics["grad/E"] == 0


def test_a_code_reaches_every_halving_or_the_input_alone() -> None:
    """What z does once the first layer no longer sees it."""
    a, z = torch.randn(2, 2, 16, 16).double(), torch.randn(2, 3).double()
    nets = [bicyclegan.UNet(3, (2, 16, 16), width=3, dropout=0.0, z_at=where).double() for where in ("all", "input")]
    for net, moved, expected in zip(nets, (True, False), ([5, 6, 9, 15], [5, 3, 6, 12]), strict=True):
        assert not torch.allclose(net(a, z), net(a, -z), rtol=0, atol=1e-9)
        layers: Any = [layer for layer in net.down.modules() if isinstance(layer, nn.Conv2d)]
        assert [layer.in_channels for layer in layers] == expected
        with torch.no_grad():
            layers[0].weight[:, 2:] = 0
        assert (not torch.equal(net(a, z), net(a, -z))) is moved


def test_the_critics_see_the_picture_and_its_half() -> None:
    critic = bicyclegan.Critic((2, 32, 36), width=4, patch=16, scales=2).double()
    x = torch.randn(3, 2, 32, 36).double()
    whole, half = critic(x)
    assert whole.shape == (3, 14, 16) and half.shape == (3, 6, 7)
    torch.testing.assert_close(half, critic.critics[1](avg_pool2d(x, 3, 2, 1, count_include_pad=False)))
    widths = [next(m for m in c.modules() if isinstance(m, nn.Conv2d)).out_channels for c in critic.critics]
    assert widths == [4, 2]
    bicyclegan.Critic((1, 12, 13), width=2, patch=16)
    with pytest.raises(ValueError, match="at least 12 with a patch of 16 and 2 scales; the nearest is 12,13"):
        bicyclegan.Critic((1, 11, 13), width=2, patch=16)
    with pytest.raises(ValueError, match="at least 8 with 2 blocks; the nearest is 8,13"):
        bicyclegan.Encoder(3, (1, 7, 13), width=2, blocks=2)


def test_a_picture_is_encoded_by_itself_at_any_size() -> None:
    torch.manual_seed(0)
    net = bicyclegan.Encoder(3, SHAPE, width=3, blocks=2).double()
    x = torch.randn(4, *SHAPE, dtype=torch.float64, requires_grad=True)
    mu, logvar = net(x)
    assert mu.shape == logvar.shape == (4, 3)
    torch.testing.assert_close(torch.stack(net(x[1:2])), torch.stack((mu, logvar))[:, 1:2])
    slope = torch.autograd.grad((mu + 2 * logvar)[1].sum(), [x, *net.parameters()])
    assert slope[0][1].abs().max() > 0 and slope[0][[0, 2, 3]].abs().max() == 0
    assert all(g.abs().max() > 0 for g in slope[1:])
    assert net(torch.zeros(1, 2, 23, 17, dtype=torch.float64))[0].shape == (1, 3)
    block = bicyclegan.HalvingResidual(2, 3).double()  # f and the shortcut of a flat picture: means of means
    flat = torch.full((1, 2, 4, 4), 0.5, dtype=torch.float64)
    with torch.no_grad():
        last: Any = block.model[5]
        bias = last.weight.zero_().sum() + last.bias.view(1, 3, 1, 1)
    torch.testing.assert_close(block(flat), block.short[1](flat)[:, :, ::2, ::2] + bias)


def test_one_picture_becomes_many(data_of: DataOf, small: Any, tmp_path: Path) -> None:
    """One for each seed, the same for the same; or the one of a code that a second picture has."""
    options: dict[str, Any] = {"data": data_of("bicyclegan"), "device": "cpu", "quiet": True}
    run = gansmith.train("bicyclegan", out=tmp_path / "run", steps=3, overrides=small("bicyclegan"), **options)
    picture, style = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    sampler = load(run, device="cpu")
    seen = sampler.seen(picture)
    made = [sampler.translated(seen, [seed]) for seed in (0, 1, 2, 0)]
    assert torch.equal(made[0], made[3])
    assert all((made[i] - made[j]).abs().max() > 1e-6 for i in range(3) for j in range(i))
    like = load(run, maker="reconstruct", device="cpu")
    both = like.seen(picture, style=style)
    code = like.nets[1](both["b"])[0]
    assert torch.equal(like.translated(both, [0]), (like.nets[0](both["a"], code).detach() + 1) / 2)


# ---- PixelDA -----------------------------------------------------------------------------------------------------


def of_class(logits: Tensor, y: Tensor) -> Tensor:
    """-log of the softmax of the right class: one softmax, and not one more inside T as in the popular script."""
    p = torch.exp(logits - logits.max(1, keepdim=True).values)
    return -torch.log(p[torch.arange(len(y)), y] / p.sum(1)).mean()


def test_pixelda_is_its_two_steps(duel: Made) -> None:
    """D and T with G fixed, T on both kinds of pictures; then G with D and T fixed. An optimizer for each."""
    d = duel("pixelda", **{"game.alpha": 0.7, "game.beta": 0.3})
    G, D, T = (d.nets[name] for name in "GDT")
    of_g, of_d, of_t = (d.adam(name) for name in "GDT")
    for (batch,) in d.rounds(3):
        a, b, y = batch["a"], batch["b"], batch["y"]
        fake = G(a, d.uniform(len(a), 10)).detach()
        step(of_d, 0.7 * (cross_entropy(D(b), True) + cross_entropy(D(fake), False)) / 2)
        step(of_t, 0.3 * (of_class(T(fake), y) + of_class(T(a), y)))
        fake = G(a, d.uniform(len(a), 10))
        step(of_g, 0.7 * cross_entropy(D(fake), True) + 0.3 * of_class(T(fake), y))
    assert d.apart() < 1e-10


def test_without_adaptation_t_learns_from_the_source_alone(duel: Made) -> None:
    d = duel("pixelda", **{"game.source_only": True, "game.beta": 0.3})
    T, optimizer, start = d.nets["T"], d.adam("T"), weights(d)
    for (batch,) in d.rounds(3):
        step(optimizer, 0.3 * of_class(T(batch["a"]), batch["y"]))
    assert d.apart() < 1e-10
    moved = {name.partition(".")[0] for name, w in weights(d).items() if not torch.equal(w, start[name])}
    assert moved == {"T"}


def test_the_label_of_a_target_picture_is_never_seen(data_of: DataOf) -> None:
    """The labels of a batch are those of its source pictures, from whichever side these come."""
    flags: dict[str, Any] = {"batch_size": 8, "data.validation": 0}
    for direction, n in (("a2b", (6, 4)), ("b2a", (3, 5))):
        made = experiment_of("pixelda", data_of("pixelda"), **{**flags, "data.direction": direction})
        source = made.stream.sets[0]
        assert source.labels is not None and np.bincount(source.labels).tolist() == [*n]
        batch = next(made.stream)
        told = {x.tobytes(): y for x, y in zip(source.images, source.labels.tolist(), strict=True)}
        seen = ((batch["a"] + 1) * 127.5).round().to(torch.uint8).numpy()
        assert [told[x.tobytes()] for x in seen] == batch["y"].tolist()


def test_t_is_scored_on_the_test_pictures_of_either_side(small: Any, tmp_path: Path) -> None:
    for part, n in {"train/a/0": 5, "train/a/1": 5, "train/b/0": 4, "train/b/1": 6}.items():
        save_noise(tmp_path / "data" / part, n, seed=n)
    for part, n in {"test/a/0": 3, "test/a/1": 4, "test/b/0": 5, "test/b/1": 6}.items():
        save_noise(tmp_path / "data" / part, n, seed=n)
    run = gansmith.train(
        "pixelda", data=tmp_path / "data", out=tmp_path / "run", steps=2, overrides=small("pixelda"), device="cpu"
    )
    found = evaluate(run, metrics=["accuracy"], device="cpu", say=lambda text: None)
    by_maker = {receipt.subject["maker"]: receipt for receipt in found}
    needs = (("a", "y"), ("b", "y"))
    keys: dict[str, Any] = {"n_cpu": 1, "say": lambda text: None}
    sets = load_sets(Wanted(str(tmp_path / "data"), 16, 3, needs=needs, split="test", **keys))
    assert {*by_maker} == {"classify", "classify_a"}
    for maker, field, images, n, labels in (
        ("classify", "b", sets[1], 11, "none"),
        ("classify_a", "a", sets[0], 7, "all"),
    ):
        sampler = load(run, maker=maker, device="cpu", say=lambda text: None)
        x = torch.from_numpy(images.images.copy()).float() / 127.5 - 1
        right = sampler.logits({field: x}).argmax(1).numpy() == images.labels
        receipt = by_maker[maker]
        assert receipt.value == pytest.approx(right.mean()) and receipt.protocol["n"] == n
        assert receipt.protocol["test"] == f"{n} images {images.digest[:12]}"
        assert receipt.subject["labels seen"] == labels
    (tmp_path / "data" / "test" / "b" / "1").rename(tmp_path / "data" / "test" / "b" / "2")
    with pytest.raises(UserError, match="test/b has the classes 0, 2, and not those of the training"):
        evaluate(run, metrics=["accuracy"], device="cpu", maker="classify", say=lambda text: None)
