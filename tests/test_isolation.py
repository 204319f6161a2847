"""A move of one player leaves the other alone: weights, buffers, `.grad`; in every game, with BatchNorm in both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gansmith.build
from gansmith import plan, recipe_names
from gansmith.build import Experiment, build, find
from gansmith.data import Batch, ImageSet, Stream
from gansmith.games import GAMES
from gansmith.games.began import Began
from gansmith.games.game import Game
from gansmith.games.infogan import InfoGAN
from gansmith.games.two_player import Alternating, Simultaneous
from gansmith.networks.infogan import Heads
from gansmith.objectives import OBJECTIVES
from gansmith.penalties import PenaltySum, wgan_gp
from gansmith.players import Gradients, Player, adam
from gansmith.priors import Codes, Normal, Prior

SHAPE = (1, 4, 4)
N = 6


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# ---- small networks, all with BatchNorm -------------------------------------------------------------------------


def mlp(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, 7), nn.BatchNorm1d(7), nn.LeakyReLU(0.2, inplace=True), nn.Linear(7, after))


class Generator(nn.Module):
    def __init__(self, latent: int) -> None:
        super().__init__()
        self.model = nn.Sequential(mlp(latent, 16), nn.BatchNorm1d(16))

    def forward(self, z: Tensor) -> Tensor:
        return self.model(z).view(-1, *SHAPE)


class Critic(nn.Module):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.model = mlp(16, 1)
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.detach().clone())
        return self.model(x.flatten(1)).squeeze(1)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = mlp(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.flatten(1)).view_as(x)


class ThreeHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(mlp(16, 8), nn.BatchNorm1d(8))
        self.score, self.category, self.code = nn.Linear(8, 1), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Heads:
        h = self.trunk(x.flatten(1))
        return Heads(self.score(h).squeeze(1), self.category(h), self.code(h))


def pair(prior: Prior, d: nn.Module) -> tuple[Player, Player]:
    return Player("G", Generator(prior.width).double(), adam), Player("D", d.double(), adam)


def noise(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_player(kind: Callable[..., Game], objective: str = "non_saturating", **keys: Any) -> Any:
    prior = Normal(dim=3)
    G, D = pair(prior, Critic())
    return kind(G, D, prior, OBJECTIVES[objective], PenaltySum([]), noise(), **keys)


def began() -> Began:
    prior = Normal(dim=3)
    game = Began(*pair(prior, Autoencoder()), prior, noise())
    game.k = torch.tensor(0.3, dtype=torch.float64)
    return game


def info() -> InfoGAN:
    prior = Codes(dim=3, categories=3, continuous=2)
    return InfoGAN(*pair(prior, ThreeHeads()), prior, OBJECTIVES["non_saturating"], noise())


MAKERS: dict[str, Callable[[], Any]] = {
    "simultaneous": lambda: two_player(Simultaneous),
    "alternating": lambda: two_player(Alternating, n_critic=4),
    "began": began,
    "infogan": info,
}
# The moves of a round, and how often each player's networks were passed in a way that counts: (G, D).
MOVES = {"simultaneous": "DG", "alternating": "DDDDG", "began": "DG", "infogan": "DGGD"}
PASSES = {"simultaneous": (1, 2), "alternating": (1, 8), "began": (1, 2), "infogan": (2, 3)}


def batches(count: int, n: int = N) -> list[Batch]:
    source = torch.Generator().manual_seed(77)
    return [Batch(torch.randn(n, *SHAPE, generator=source, dtype=torch.float64), None) for _ in range(count)]


# ---- watching ---------------------------------------------------------------------------------------------------


def tensors(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    return {name for name in a if not torch.equal(a[name], b[name])}


def mark(player: Player) -> list[Tensor]:
    """A `.grad` that nobody but the player itself may touch."""
    marks = [torch.randn_like(p) for p in player.parameters]
    for parameter, value in zip(player.parameters, marks, strict=True):
        parameter.grad = value.clone()
    return marks


def marked(player: Player, marks: list[Tensor]) -> bool:
    return all(p.grad is not None and torch.equal(p.grad, m) for p, m in zip(player.parameters, marks, strict=True))


def clear(player: Player) -> None:
    for parameter in player.parameters:
        parameter.grad = None


@dataclass
class Watch:
    """Stands in for every player's `step` and checks what it does."""

    game: Game
    order: str = ""
    after: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for player in self.game.players:
            self.after[player.name] = self.weights(player)
            player.step = self.watched(player, player.step)  # type: ignore[method-assign]

    @staticmethod
    def weights(player: Player) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in player.net.named_parameters()}

    def watched(self, mover: Player, step: Callable[[Gradients], None]) -> Callable[[Gradients], None]:
        others = [p for p in self.game.players if p is not mover]

        def checked(grads: Gradients) -> None:
            for player in self.game.players:  # between two steps nothing moves a weight, and nobody has a gradient
                assert not differing(self.after[player.name], self.weights(player))
                assert all(p.grad is None for p in player.parameters)
            before = {p.name: tensors(p.net) for p in self.game.players}
            marks = {p.name: mark(p) for p in others}
            step(grads)
            for other in others:
                assert not differing(before[other.name], tensors(other.net))
                assert marked(other, marks[other.name])
                clear(other)
            moved = differing(before[mover.name], tensors(mover.net))
            assert moved and moved <= {name for name, _ in mover.net.named_parameters()}  # no buffer
            assert all(p.grad is None for p in mover.parameters)
            self.order += mover.name
            self.after[mover.name] = self.weights(mover)

        return checked


def test_every_game_is_covered() -> None:
    assert tuple(GAMES) == ("simultaneous", "alternating", "began", "infogan")
    for table in (MAKERS, MOVES, PASSES):
        assert set(table) == set(GAMES)
    assert {name: type(make()) for name, make in MAKERS.items()} == {name: find(row) for name, row in GAMES.items()}


@pytest.mark.parametrize("name", GAMES)
def test_a_step_touches_its_player_alone(name: str) -> None:
    game = MAKERS[name]()
    watch = Watch(game)
    for _ in range(2):
        game.round(*batches(game.batches_per_round))
    assert watch.order == MOVES[name] * 2


@pytest.mark.parametrize("name", GAMES)
def test_running_statistics_count_a_players_own_passes_alone(name: str) -> None:
    """A pass that serves only the opponent's move is lent, and is not counted."""
    game = MAKERS[name]()
    game.round(*batches(game.batches_per_round))
    for net, passes in zip((game.G.net, game.D.net), PASSES[name], strict=True):
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d)]
        assert norms and [int(m.num_batches_tracked) for m in norms] == [passes] * len(norms)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ds_move_leaves_all_of_g_alone_and_the_reverse(objective: str) -> None:
    game = two_player(Alternating, objective)
    (real,) = batches(1)
    for mover, other, move in ((game.D, game.G, game.move_d), (game.G, game.D, game.move_g)):
        before, own, marks = tensors(other.net), tensors(mover.net), mark(other)
        move(real)
        assert not differing(before, tensors(other.net))  # buffers are among them
        assert marked(other, marks)
        assert all(p.grad is None for p in mover.parameters)
        changed = differing(own, tensors(mover.net))
        assert any("weight" in name for name in changed) and any("running_mean" in name for name in changed)
        clear(other)


def test_the_penalty_too_leaves_g_alone() -> None:
    prior = Normal(dim=3)
    G, D = pair(prior, Critic())
    game = Alternating(G, D, prior, OBJECTIVES["wasserstein"], PenaltySum([(10.0, wgan_gp)]), noise())
    before, marks = tensors(G.net), mark(G)
    game.move_d(batches(1)[0])
    assert not differing(before, tensors(G.net)) and marked(G, marks)


# ---- lending ----------------------------------------------------------------------------------------------------


def test_lending_normalises_by_the_batch_and_changes_no_buffer() -> None:
    prior = Normal(dim=3)
    G, _ = pair(prior, Critic())
    for buffer in G.net.buffers():  # running statistics that would give themselves away
        if buffer.dtype.is_floating_point:
            buffer.fill_(9.0)
    z = torch.randn(N, 3, dtype=torch.float64)
    before = tensors(G.net)
    lent = G.lend(z)
    assert not differing(before, tensors(G.net))
    model = G.net.model
    hidden, last = model[0], model[1]  # type: ignore[index]
    h = z @ hidden[0].weight.T + hidden[0].bias
    h = (h - h.mean(0)) / torch.sqrt(h.var(0, unbiased=False) + 1e-5)
    h = nn.functional.leaky_relu(h, 0.2) @ hidden[3].weight.T + hidden[3].bias
    h = (h - h.mean(0)) / torch.sqrt(h.var(0, unbiased=False) + last.eps)
    torch.testing.assert_close(lent, h.view(-1, *SHAPE), rtol=1e-11, atol=1e-12)
    assert torch.equal(lent, G.net(z))  # the same numbers as a pass of its own, which does count
    assert {n.rpartition(".")[2] for n in differing(before, tensors(G.net))} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_lending_gives_the_same_gradients_as_a_pass_of_its_own() -> None:
    _, D = pair(Normal(dim=3), Critic())
    x = torch.randn(N, *SHAPE, dtype=torch.float64, requires_grad=True)
    targets = [x, *D.parameters]
    lent = torch.autograd.grad(D.lend(x).square().sum(), targets)
    own = torch.autograd.grad(D.net(x).square().sum(), targets)
    assert all(torch.equal(a, b) for a, b in zip(lent, own, strict=True))


# ---- who moves when, on what ------------------------------------------------------------------------------------


class RecordedNormal(Normal):
    def __init__(self) -> None:
        super().__init__(dim=3)
        self.drawn: list[Tensor] = []

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        self.drawn.append(super().sample(n, generator, dtype))
        return self.drawn[-1]


def test_n_critic_4_plays_d_d_d_d_g_each_on_fresh_images_and_noise() -> None:
    prior = RecordedNormal()
    G, D = pair(prior, Critic())
    game = Alternating(G, D, prior, OBJECTIVES["non_saturating"], PenaltySum([]), noise(), n_critic=4)
    assert game.batches_per_round == 4
    watch = Watch(game)
    images = np.arange(22 * 16, dtype=np.int64).reshape(22, *SHAPE).astype(np.uint8)
    data = ImageSet("ramp", images, None, (), hashlib.sha256(images.tobytes()).hexdigest())
    stream = Stream(data, batch_size=6, seed=1, memory="device", n_cpu=1, dtype=torch.float64)
    for _ in range(2):
        game.round(*(real := [next(stream) for _ in range(4)]))
    assert watch.order == "DDDDGDDDDG"
    sizes = [len(batch.images) for batch in real]
    assert sizes == [6, 6, 6, 4]  # a whole epoch, its short batch last
    assert isinstance(D.net, Critic)
    shown = D.net.shown[-9:]  # of the second round: (real, fake) four times, and what G shows
    for i, batch in enumerate(real):
        assert torch.equal(shown[2 * i], batch.images)
        assert shown[2 * i + 1].shape == batch.images.shape
    drawn = prior.drawn[-5:]
    assert len(prior.drawn) == 10 and [len(z) for z in drawn] == [*sizes, sizes[-1]]
    rows = torch.cat(prior.drawn)
    assert len(rows.unique(dim=0)) == len(rows)  # no noise is ever used twice
    fakes = torch.cat([shown[i].flatten(1) for i in (1, 3, 5, 7, 8)])
    assert len(fakes.unique(dim=0)) == len(fakes)


@pytest.mark.parametrize(("name", "draws"), [("simultaneous", 1), ("alternating", 5), ("began", 2), ("infogan", 3)])
def test_every_draw_of_a_round_is_fresh(name: str, draws: int) -> None:
    game = MAKERS[name]()
    drawn: list[Tensor] = []
    sample = game.prior.sample

    def recorded(n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        drawn.append(sample(n, generator, dtype))
        return drawn[-1]

    game.prior.sample = recorded
    game.round(*batches(game.batches_per_round))
    assert len(drawn) == draws and all(len(z) == N for z in drawn)
    assert len(torch.cat(drawn).unique(dim=0)) == draws * N


# ---- the recipes ------------------------------------------------------------------------------------------------

# Wider ranges than the paper's: in networks this small its gradients would vanish in the rounding of float32.
WIDE = {"networks.G.irange": 0.5, "networks.D.irange": 0.3, "batch_size": 7}
SMALL_2014 = {"networks.G.widths": [8, 12], "networks.D.units": [6, 6], "img_size": 8, **WIDE}
SHRINK: dict[str, dict[str, Any]] = {
    "gan": {"networks.G.widths": [8, 12, 16], "networks.D.widths": [16, 8], "img_size": 8},
    "wgan_gp": {"networks.G.widths": [8, 12, 16], "networks.D.widths": [16, 8], "img_size": 8},
    "began": {"networks.G.width": 4, "networks.D.width": 4, "networks.D.code": 6, "img_size": 16},
    "infogan": {"networks.G.width": 4, "networks.D.width": 4, "img_size": 8},
    "fast_mnist": {"networks.G.width": 4, "networks.D.width": 4, "img_size": 8},
    "figure1": {"networks.G.widths": [8, 12], "networks.D.widths": [16, 8]},
    "gan2014_mnist": SMALL_2014,
    "gan2014_tfd_pretrain": {**SMALL_2014, "networks.G.sparse_out": 5},
    "gan2014_tfd": {**SMALL_2014, "networks.G.weights": None, "networks.G.front": 12, "networks.G.inner_dim": 10},
    "gan2014_cifar10_fc": {**SMALL_2014, "channels": 1},
    "gan2014_cifar10_conv": {
        **{"networks.G.width": 16, "networks.G.maps": 4, "networks.D.maps": [2, 2, 3], "networks.D.units": 4},
        **{"channels": 1, **WIDE},
    },
}
STILL = {
    # A constant added to a critic's score is the same on real and fake, and has no slope: nothing can move it.
    "wgan_gp": {"D.model.4.bias"},
    # G's last layer starts at 0: those before it move from the second round on.
    "figure1": {f"G.model.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")},
}


def experiment(name: str, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """A shrunk recipe, built as always, on 14 random pictures; a toy set is its own."""
    recipe = plan(name, flags={"batch_size": 4, **SHRINK[name], "data.memory": "device"}).recipe
    side = recipe.data.img_size
    images = np.random.default_rng(1).integers(0, 256, size=(14, 1, side, side), dtype=np.uint8)
    data = ImageSet("noise", images, None, (), hashlib.sha256(images.tobytes()).hexdigest())
    if recipe.data.values != "raw":
        monkeypatch.setattr(gansmith.build, "load_images", lambda *args, **keys: data)
    return build(recipe, torch.device("cpu"), say=lambda text: None, progress=False)


def test_every_recipe_is_covered() -> None:
    assert set(SHRINK) == set(recipe_names()) >= set(STILL)


@pytest.mark.parametrize("name", recipe_names())
def test_a_round_of_a_recipe_moves_every_parameter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = experiment(name, monkeypatch)
    watch = Watch(made.game)
    before = {(p.name, n): w for p in made.game.players for n, w in Watch.weights(p).items()}
    metrics = made.game.round(*(next(made.stream) for _ in range(made.game.batches_per_round)))
    after = {(p.name, n): w for p in made.game.players for n, w in Watch.weights(p).items()}
    still = {f"{player}.{n}" for player, n in before if torch.equal(before[player, n], after[player, n])}
    assert still == STILL.get(name, set())
    assert set(watch.order) == {p.name for p in made.game.players}
    assert all(torch.isfinite(w).all() for w in after.values())
    for value in metrics.values():
        assert value.shape == () and not value.requires_grad and torch.isfinite(value)


@pytest.mark.parametrize("name", recipe_names())
def test_the_seed_alone_decides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same recipe twice, with another state of the global stream before: the same weights after two rounds."""
    states = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        made = experiment(name, monkeypatch)
        for _ in range(2):
            made.game.round(*(next(made.stream) for _ in range(made.game.batches_per_round)))
        states.append({f"{p.name}.{n}": t for p in made.game.players for n, t in tensors(p.net).items()})
    assert not differing(*states)
