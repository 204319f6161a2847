"""Several processes are one training: the same updates, one writer, a common end; and parts of a batch are that batch.

Real processes over gloo. Two of them live as long as this module and play what a test hands to both.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import socket
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gansmith import plan
from gansmith.build import build
from gansmith.data import ImageSet, Stream
from gansmith.distributed import SyncBatchNorm, World, joined, synchronise
from gansmith.errors import UserError
from gansmith.games.began import Began
from gansmith.games.critique import score
from gansmith.games.game import Metrics, RealBatch, parts
from gansmith.games.infogan import InfoGAN
from gansmith.games.two_player import Alternating, Simultaneous
from gansmith.networks.infogan import Heads
from gansmith.objectives import OBJECTIVES
from gansmith.penalties import PenaltySum
from gansmith.players import MeanGradients, Player, adam, sgd
from gansmith.priors import Codes, Normal, Prior

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo and signals as POSIX has them")

WAIT = 90.0
Both = Callable[..., list[Any]]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return int(s.getsockname()[1])


def places(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {**{name: str(value) for name, value in names.items()}, "MASTER_ADDR": "localhost"}


def as_rank(environment: dict[str, str], function: Callable[..., Any], args: Sequence[Any]) -> Any:
    os.environ.update(environment)
    torch.set_num_threads(1)
    return function(*args)


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    """both(function, *args): what it returns on rank 0 and on rank 1 of two processes."""
    spawn = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=spawn) for _ in range(2)]

    def call(function: Callable[..., Any], *args: Any) -> list[Any]:
        port = free_port()
        futures = [p.submit(as_rank, places(r, 2, port), function, args) for r, p in enumerate(pools)]
        return [future.result(WAIT) for future in futures]

    yield call
    for pool in pools:
        pool.shutdown()


# ---- equal updates ---------------------------------------------------------------------------------------------

TOTAL, BATCH, SHAPE, PIXELS = 21, 8, (1, 4, 4), 16
ROUNDS = 5
SIZES = (8, 8, 5)  # of an epoch's batches: shares of 4 and 4, and of 2 and 3


class Cut(Prior):
    """One draw for the whole batch, cut as the batch is: so that all ways to play it see the same z."""

    def cut(self, draws: Sequence[tuple[int, int]], rank: int, ranks: int, accumulate: int) -> None:
        """`draws`: how many latents, and how many draws take turns within a part."""
        self.draws, self.rank, self.ranks, self.accumulate = iter(draws), rank, ranks, accumulate
        self.ready: deque[Tensor] = deque()
        self.stream = torch.Generator().manual_seed(7)

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        if not self.ready:
            whole, turns = next(self.draws)
            own = slice(whole * self.rank // self.ranks, whole * (self.rank + 1) // self.ranks)
            drawn = [super(Cut, self).sample(whole, self.stream, dtype)[own] for _ in range(turns)]
            cut = [torch.tensor_split(z, self.accumulate) for z in drawn]
            self.ready.extend(z for turn in zip(*cut, strict=True) for z in turn)
        z = self.ready.popleft()
        assert len(z) == n
        return z


class CutNormal(Cut, Normal):
    pass


class CutCodes(Cut, Codes):
    pass


def slope(score: Callable[[Tensor], Tensor], x_real: Tensor, x_fake: Tensor, noise: torch.Generator) -> Tensor:
    """wgan_gp with an alpha that follows from the image, so that it is the same wherever the image is."""
    alpha = x_real.flatten(1).mean(1).sigmoid().view(-1, 1, 1, 1)
    x = (alpha * x_real + (1 - alpha) * x_fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(score(x).sum(), x, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1) ** 2


class Lazy(Alternating):
    """A penalty in a move of its own: it gives D's last bias no gradient at all."""

    def round(self, *batches: RealBatch) -> Metrics:
        (real,) = batches
        of_d = MeanGradients(self.D)
        for x_real, share in parts(real, self.accumulate):
            of_d.add(self.penalty(score(self.D.net), x_real, x_real.flip(2), self.noise), share)
        (grads,) = of_d.take()
        assert grads.tensors[-1] is None and grads.tensors[0] is not None
        self.D.step(grads)
        return super().round(*batches)


def norm(width: int, wanted: bool) -> nn.Module:
    return nn.BatchNorm1d(width, eps=0.1) if wanted else nn.Identity()


class Generator(nn.Module):
    def __init__(self, latent: int, batchnorm: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent, 9), norm(9, batchnorm), nn.Tanh(), nn.Linear(9, PIXELS))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).view(-1, *SHAPE).tanh()


class Critic(nn.Module):
    def __init__(self, batchnorm: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Flatten(), nn.Linear(PIXELS, 8), norm(8, batchnorm), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class HeadsCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.heads = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 8), nn.Tanh()), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Heads:
        score, category, code = self.heads(self.trunk(x)).split([1, 3, 2], dim=1)
        return Heads(score.squeeze(1), category, code)


class AutoEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 5), nn.Tanh(), nn.Linear(5, PIXELS))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).view_as(x)


CASES = ("simultaneous", "alternating", "lazy", "began", "infogan")


def play(case: str, accumulate: int, batchnorm: bool, world: World | None) -> dict[str, Tensor]:
    """Some rounds in float64, an epoch's short batch among them: weights, buffers and metrics at their end."""
    torch.manual_seed(3)
    prior = CutCodes(dim=3, categories=3, continuous=2) if case == "infogan" else CutNormal(dim=4)
    D = HeadsCritic() if case == "infogan" else AutoEncoder() if case == "began" else Critic(batchnorm)
    nets = {"G": Generator(prior.width, batchnorm).double(), "D": D.double()}
    if world is not None:
        for net in nets.values():
            synchronise(net)
    optimizer = adam if case in ("simultaneous", "lazy", "infogan") else lambda p: sgd(p, lr=0.05, momentum=0.5)
    players = {name: Player(name, net, optimizer, ema_halflife_kimg=0.01) for name, net in nets.items()}
    rank, ranks = (0, 1) if world is None else (world.rank, world.size)
    for player in players.values():
        player.reduce = None if world is None else world.sum
    two = (*players.values(), prior, OBJECTIVES["non_saturating"])
    penalty, noise = PenaltySum([(2.0, slope)]), torch.Generator()
    sizes = [SIZES[i % 3] for i in range(2 * ROUNDS)]
    if case == "simultaneous":
        game: Any = Simultaneous(*two, PenaltySum([]), noise, accumulate)
        draws = [(n, 1) for n in sizes]
    elif case == "alternating":
        game = Alternating(*two, penalty, noise, accumulate, n_critic=2)
        draws = [(n, 1) for i in range(ROUNDS) for n in (sizes[2 * i], sizes[2 * i + 1], sizes[2 * i + 1])]
    elif case == "lazy":
        game = Lazy(*two, penalty, noise, accumulate)
        draws = [(n, 1) for n in sizes for _ in range(2)]
    elif case == "began":
        game = Began(*players.values(), prior, noise, accumulate, lambda_k=0.5)
        draws = [(n, 2) for n in sizes]
    else:
        game = InfoGAN(*two, noise, accumulate)
        draws = [(n, 1) for n in sizes for _ in range(3)]
    prior.cut(draws, rank, ranks, accumulate)
    images = np.random.default_rng(5).integers(0, 256, (TOTAL, *SHAPE), dtype=np.uint8)
    data = ImageSet("noise", images, None, (), hashlib.sha256(images.tobytes()).hexdigest())
    stream = Stream(
        data, batch_size=BATCH, seed=1, memory="device", n_cpu=1, dtype=torch.float64, rank=rank, ranks=ranks
    )
    for _ in range(ROUNDS):
        batches = [next(stream) for _ in range(game.batches_per_round)]
        metrics = game.round(*batches)
        for player in game.players:
            player.average(sum(batch.size for batch in batches))
    found = {f"{name}.{k}": v for name, net in nets.items() for k, v in net.state_dict().items()}
    found |= {f"ema.{k}": v for k, v in players["G"].ema.state_dict().items()}  # type: ignore[union-attr]
    return {k: v.detach().clone() for k, v in {**found, **metrics}.items() if k != "value/jsd"}  # which is cut off


def play_here(case: str, accumulate: int, batchnorm: bool = False) -> dict[str, Tensor]:
    with joined("cpu") as world:
        return play(case, accumulate, batchnorm, world)


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert one.keys() == other.keys() and len(one) > 10
    return max(float((a - other[k]).abs().max()) for k, a in one.items())


@pytest.mark.parametrize("case", CASES)
def test_processes_and_parts_make_the_update_of_the_whole_batch(case: str, both: Both) -> None:
    """1 x B = 2 x B / 2 = B in two parts = 2 x B / 2 in two parts each, over batches of 8, 8 and 5."""
    whole = play(case, 1, False, None)
    assert distance(whole, play(case, 2, False, None)) < 1e-12
    for accumulate in (1, 2):
        first, second = both(play_here, case, accumulate)
        assert distance(first, second) == 0
        assert distance(whole, first) < 1e-12


def test_one_share_more_or_less_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The equality above has teeth: equal weights for the unequal parts of 5 images are another training."""
    whole = play("simultaneous", 1, False, None)
    monkeypatch.setattr("gansmith.games.two_player.parts", lambda real, k: ((x, 1 / k) for x, _ in parts(real, k)))
    assert distance(whole, play("simultaneous", 2, False, None)) > 1e-5


@pytest.mark.parametrize("case", ["simultaneous", "alternating"])
def test_batchnorm_over_all_processes_trains_like_one(case: str, both: Both) -> None:
    """BatchNorm in G and in a D with a gradient penalty: backward of a backward, through the statistics."""
    whole = play(case, 1, True, None)
    first, second = both(play_here, case, 1, True)
    assert distance(whole, first) < 1e-11
    assert distance(first, second) == 0
    assert distance(whole, play(case, 2, True, None)) > 1e-4  # the statistics of each part: another training


# ---- BatchNorm -------------------------------------------------------------------------------------------------


def normalise(layer: nn.Module, x: Tensor, scale: float) -> dict[str, Tensor]:
    """Forward, backward, and the gradient of the gradient's norm, of scale * sum of a function of the output."""
    x = x.clone().requires_grad_()
    y = layer(x)
    loss = scale * (y.sin() * y).sum()
    first = torch.autograd.grad(loss, [x, *layer.parameters()], create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), [x, *layer.parameters()])
    layer(x + 1)
    layer.eval()
    return {"y": y.detach(), "x": first[0].detach(), "xx": second[0], "eval": layer(x).detach()} | {
        **{f"1{i}": g.detach() for i, g in enumerate(first[1:])},
        **{f"2{i}": g.detach() for i, g in enumerate(second[1:])},
        **{name: buffer.double() for name, buffer in layer.named_buffers()},
    }


LAYERS: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "1d": (nn.BatchNorm1d, (7, 3), {}),
    "1d of sequences": (nn.BatchNorm1d, (5, 3, 4), {"momentum": None}),
    "2d": (nn.BatchNorm2d, (5, 3, 2, 4), {"momentum": 0.3, "eps": 0.5}),
    "plain": (nn.BatchNorm2d, (3, 2, 2, 2), {"affine": False}),
}


def layer_and_input(name: str) -> tuple[nn.Module, Tensor]:
    kind, shape, options = LAYERS[name]
    torch.manual_seed(2)
    layer: Any = kind(shape[1], **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer, 100 + 3 * torch.randn(*shape, dtype=torch.float64)


def normalise_here(name: str) -> dict[str, Tensor]:
    layer, x = layer_and_input(name)
    with joined("cpu") as world:
        synchronise(layer)
        assert type(layer) is SyncBatchNorm
        n = len(x)
        return normalise(layer, x[n * world.rank // 2 : n * (world.rank + 1) // 2], 0.7)


@pytest.mark.parametrize("name", LAYERS)
def test_batchnorm_over_two_processes_is_that_of_the_whole_batch(name: str, both: Both) -> None:
    """Unequal shares of 7, 5 and 3: outputs, both gradients and running statistics."""
    whole = normalise(*layer_and_input(name), 0.7)
    halves = both(normalise_here, name)
    for key, expected in whole.items():
        if key in ("y", "x", "eval"):
            found = torch.cat([half[key] for half in halves])
        elif key == "xx" or key.isdecimal():
            # What a rank holds of a parameter is its share of the gradient; the sum is that of the whole. The second
            # derivative here is that of each rank's own norm, whose sum is that of all.
            found = torch.cat([half[key] for half in halves]) if key == "xx" else halves[0][key] + halves[1][key]
        else:
            found = halves[0][key]
            assert torch.equal(found, halves[1][key])
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# ---- memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Simultaneous, Alternating])
def test_the_graph_of_a_part_is_gone_before_the_next(kind: type[Simultaneous]) -> None:
    alive: list[weakref.ref[Tensor]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(PIXELS, 8), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            if len(alive) % 2 == 0:  # of a part's two passes the first
                assert all(ref() is None for ref in alive)
            hidden = self.first(x.flatten(1))
            alive.append(weakref.ref(hidden))
            return self.last(hidden.tanh()).squeeze(1)

    G, D = Player("G", Generator(4, False), sgd), Player("D", Watched(), sgd)
    game = kind(G, D, Normal(dim=4), OBJECTIVES["wasserstein"], PenaltySum([]),
                torch.Generator(), 4)  # fmt: skip

    class Real:
        images, labels, share = torch.randn(8, *SHAPE), None, 1.0

    game.round(Real()) if kind is Simultaneous else game.move_d(Real())  # type: ignore[attr-defined]
    assert len(alive) == 8


# ---- the data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "ranks"), [(8, 2), (7, 3), (5, 4)])
@pytest.mark.parametrize("memory", ["device", "map"])
def test_the_shares_of_all_ranks_are_the_batch_without_overlap(batch_size: int, ranks: int, memory: str) -> None:
    images = np.arange(23, dtype=np.uint8).reshape(23, 1, 1, 1)
    data = ImageSet("ramp", images, np.arange(23), ("a",) * 23, hashlib.sha256(images.tobytes()).hexdigest())
    made = {"batch_size": batch_size, "seed": 4, "memory": memory, "n_cpu": 1, "values": "unit"}
    alone = Stream(data, **made)
    shares = [Stream(data, **made, rank=rank, ranks=ranks) for rank in range(ranks)]
    for _ in range(2 * alone.batches_per_epoch + 1):
        whole, own = next(alone), [next(stream) for stream in shares]
        assert torch.equal(whole.images, torch.cat([batch.images for batch in own]))
        assert whole.labels is not None
        assert torch.equal(whole.labels, torch.cat([batch.labels for batch in own if batch.labels is not None]))
        assert {batch.size for batch in own} == {len(whole.images)}
        assert sum(batch.share for batch in own) == pytest.approx(1)
        lengths = [len(batch.images) for batch in own]
        assert max(lengths) - min(lengths) <= 1
    for stream in (alone, *shares):
        stream.close()
        assert stream.state_dict() == alone.state_dict()


@pytest.mark.parametrize(
    ("flags", "ranks", "says"),
    [
        # 60 pictures. In batches of 7 the last has 4, in batches of 59 one.
        (
            {"batch_size": 7},
            3,
            "batch_size is 7: the smallest batch of 60 images has 4, and BatchNorm needs at least 6",
        ),
        ({"batch_size": 7}, 3, "for 3 processes; the nearest is 6"),
        ({"batch_size": 59}, 1, "images has 1, and BatchNorm needs at least 2; the nearest is 58"),
        ({"batch_size": 9, "accumulate": 4}, 1, "at least 8 for 4 accumulated parts; the nearest is 10"),
        ({"batch_size": 9, "accumulate": 2}, 2, "at least 8 for 2 processes x 2 accumulated parts; the nearest is 10"),
        ({"batch_size": 64}, 31, "pictures has 60 images in all, and BatchNorm needs at least 62 for 31 processes"),
        ({"batch_size": 7, "sync_batchnorm": True}, 5, "there must be at least 5 for 5 processes; the nearest is 6"),
        ({"batch_size": 4, "accumulate": 5}, 1, "accumulate is 5; it must be at most batch_size, 4"),
    ],
)
def test_shares_that_are_too_small_are_refused_with_the_nearest_size(
    flags: dict[str, Any], ranks: int, says: str, pictures: Path, small: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(UserError) as caught:
        recipe = plan("gan", flags={**small("gan", **{"data.name": str(pictures)}), **flags}).recipe
        world = World(0, ranks, torch.device("cpu")) if ranks > 1 else None
        build(recipe, torch.device("cpu"), say=lambda text: None, progress=False, world=world)
    assert says in str(caught.value).replace(f"{pictures.name} has", "pictures has")


def test_a_game_that_knows_no_parts_is_refused_more_than_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "class Old:\n    def __init__(self, G, D, prior, objective, penalty, noise):\n        pass\n"
    (tmp_path / "old_game.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    plan("gan", flags={"game": "old_game:Old"})
    with pytest.raises(UserError, match=r"^the game old_game:Old takes no accumulate, so it must be 1"):
        plan("gan", flags={"game": "old_game:Old", "accumulate": 2})
