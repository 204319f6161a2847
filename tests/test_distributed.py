"""Several processes are one training: the same updates, one writer, a common end; and parts of a batch are that batch.

Real processes over gloo. Two of them live as long as this module and play what a test hands to both.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
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

import gansmith
from gansmith import checkpoint, plan
from gansmith.build import build
from gansmith.data import ImageSet, Stream
from gansmith.distributed import Processes, SyncBatchNorm, joined, synchronise
from gansmith.errors import RankLost, UserError
from gansmith.exactness import compare
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
            of_d.add(self.penalty(score(self.D.net), x_real, x_real.flip(2), self.noise, self.D.moves), share)
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


def play(case: str, accumulate: int, batchnorm: bool, world: Processes | None) -> dict[str, Tensor]:
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
    penalty, noise = PenaltySum([(2.0, slope), (1.0, slope, 3)]), torch.Generator()
    sizes = [SIZES[i % 3] for i in range(2 * ROUNDS)]
    if case == "simultaneous":
        game: Any = Simultaneous(*two, penalty, noise, accumulate)
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
    total = 0
    for _ in range(ROUNDS):
        batches = [next(stream) for _ in range(game.batches_per_round)]
        metrics = game.round(*batches)
        shown = sum(batch.size for batch in batches)
        total += shown
        for player in game.players:
            player.average(shown, total)
    found = {f"{name}.{k}": v for name, net in nets.items() for k, v in net.state_dict().items()}
    found |= {f"ema.{k}": v for k, v in players["G"].ema.state_dict().items()}  # type: ignore[union-attr]
    return {k: v.detach().clone() for k, v in {**found, **metrics}.items()}


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
    assert distance(whole, first) < 1e-10
    assert distance(first, second) == 0
    assert distance(whole, play(case, 2, True, None)) > 1e-4  # the statistics of each part: another training


def left_out(case: int) -> list[Tensor | None]:
    """Gradients of a loss that goes through other layers on each rank, as in layer dropping."""
    layers = [nn.Linear(1, 1, bias=False).double() for _ in range(4)]
    with joined("cpu") as world:
        player = Player("D", nn.ModuleList(layers), adam)
        player.reduce = world.reduce
        used = ((0, 1, 2), (1, 2)) if case == 0 else ((0,), (2, 1))
        loss = torch.stack([10.0**i * layers[i].weight.sum() for i in used[world.rank]]).sum()
        return list(player.gradients(loss, 0.25 + 0.5 * world.rank).tensors)


@pytest.mark.parametrize(("case", "expected"), [(0, (0.25, 10.0, 100.0, None)), (1, (0.25, 7.5, 75.0, None))])
def test_a_parameter_that_one_process_leaves_out_gets_the_others_gradient(
    case: int, expected: Sequence[float | None], both: Both
) -> None:
    for tensors in both(left_out, case):
        assert [None if g is None else g.item() for g in tensors] == list(expected)


def test_only_what_a_connection_raises_reads_as_a_lost_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> Callable[..., None]:
        def all_reduce(tensor: Tensor) -> None:
            raise error

        return all_reduce

    for error, seen in (
        (RuntimeError("[/x/gloo/transport/tcp/pair.cc:561] Connection closed by peer"), RankLost),
        (torch.distributed.DistBackendError("NCCL error: remote process exited"), RankLost),
        (RuntimeError("not enough memory: you tried to allocate 8 bytes"), RuntimeError),
    ):
        monkeypatch.setattr("torch.distributed.all_reduce", fail(error))
        with pytest.raises(seen) as caught:
            Processes(0, 2, torch.device("cpu")).sum([torch.ones(1)])
        assert type(caught.value) is seen


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
        ({"batch_size": 59}, 1, "images has 1, and BatchNorm needs at least 2; the nearest is 60"),
        ({"batch_size": 9, "accumulate": 4}, 1, "at least 8 for 4 accumulated parts; the nearest is 10"),
        ({"batch_size": 9, "accumulate": 2}, 2, "at least 8 for 2 processes x 2 accumulated parts; the nearest is 10"),
        (
            {"batch_size": 64},
            31,
            "pictures has 60 images to train on, and BatchNorm needs at least 62 for 31 processes",
        ),
        ({"batch_size": 7, "sync_batchnorm": True}, 5, "there must be at least 5 for 5 processes; the nearest is 6"),
        ({"batch_size": 4, "accumulate": 5}, 1, "accumulate is 5; it must be at most batch_size, 4"),
    ],
)
def test_shares_that_are_too_small_are_refused_with_the_nearest_size(
    flags: dict[str, Any], ranks: int, says: str, pictures: Path, small: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(UserError) as caught:
        recipe = plan("gan", flags={**small("gan", **{"data.name": str(pictures)}), **flags}).recipe
        world = Processes(0, ranks, torch.device("cpu")) if ranks > 1 else None
        build(recipe, torch.device("cpu"), say=lambda text: None, progress=False, world=world)
    assert says in str(caught.value).replace(f"{pictures.name} has", "pictures has")


def test_a_game_that_knows_no_parts_is_refused_more_than_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "class Old:\n    def __init__(self, G, D, prior, objective, penalty, noise):\n        pass\n"
    (tmp_path / "old_game.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    plan("gan", flags={"game": "old_game:Old"})
    with pytest.raises(UserError, match=r"^the game old_game:Old takes no accumulate, so it must be 1"):
        plan("gan", flags={"game": "old_game:Old", "accumulate": 2})


# ---- runs ------------------------------------------------------------------------------------------------------

Small = Callable[..., dict[str, Any]]


def train_here(what: str | Path, options: dict[str, Any]) -> tuple[str, str]:
    """(what was printed, the error's type and text) of gansmith.train on this rank."""
    error = ""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            gansmith.train(what, device="cpu", **options)
        except (Exception, KeyboardInterrupt) as found:
            error = f"{type(found).__name__}: {found}"
    return out.getvalue(), error


def good(results: list[tuple[str, str]]) -> str:
    """What rank 0 printed, where all went well and the others were silent."""
    assert [error for _, error in results] == ["", ""] and results[1][0] == ""
    return results[0][0]


def rows(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines]


def assert_equal(one: Path, other: Path, round: int) -> None:
    found = compare(*(run / "checkpoints" / f"{round:08d}" for run in (one, other)))
    assert found.exact, found.different
    assert found.tensors > 20


@pytest.mark.parametrize("name", ["gan", "gan2014_mnist"])
def test_a_run_resumed_by_as_many_is_the_run(
    name: str, both: Both, pictures: Path, small: Small, tmp_path: Path
) -> None:
    """With statistics of BatchNorm that differ by rank, and with dropout."""
    overrides = small(name, **{"ema.halflife_kimg": 0.05, "log_interval": 2, "checkpoint.interval": 4})
    overrides |= {"checkpoint.keep_every": 5}
    new = {"data": pictures, "overrides": overrides}
    once, twice = tmp_path / "once", tmp_path / "twice"
    said = good(both(train_here, name, {**new, "out": once, "steps": 11}))
    assert "on each of 2 ranks" in said
    good(both(train_here, name, {**new, "out": twice, "steps": 5}))
    said = good(both(train_here, twice, {"steps": 11}))
    assert "rank(s)" not in said
    assert_equal(once, twice, 5)  # of an interval of its own in one, the end of a session in the other
    assert_equal(once, twice, 11)
    assert rows(once) == rows(twice) and [row["round"] for row in rows(once)][-2:] == [10, 11]
    tree = checkpoint.read(once / "checkpoints" / "00000011")[0]
    assert tree["images"] == 58 + 3 * 8 if name == "gan2014_mnist" else 60 + 3 * 8
    [other] = tree["ranks"]
    assert not torch.equal(other["noise"], tree["rng"]["noise"])
    assert torch.equal(other["cpu"], tree["rng"]["cpu"]) == (other["cpu"].numel() == 0)
    assert sorted(p.name for p in (once / "checkpoints").iterdir()) == ["00000005", "00000010", "00000011"]
    assert len(json.loads((twice / "environment.json").read_text(encoding="utf-8"))) == 2


def test_rank_0_begins_as_one_process_does(both: Both, pictures: Path, small: Small, tmp_path: Path) -> None:
    new = {"data": pictures, "overrides": small("gan2014_mnist", **{"checkpoint.keep_every": 1}), "steps": 1}
    gansmith.train("gan2014_mnist", out=tmp_path / "one", device="cpu", quiet=True, **new)
    good(both(train_here, "gan2014_mnist", {**new, "out": tmp_path / "two"}))
    one, two = (checkpoint.read(tmp_path / run / "checkpoints" / "00000000")[0] for run in ("one", "two"))
    [other] = two.pop("ranks")
    for tree in (one, two):
        tree.pop("seconds")
    tensors: list[dict[str, Tensor]] = [{}, {}]
    assert checkpoint.pack(one, tensors[0]) == checkpoint.pack(two, tensors[1])
    assert all(torch.equal(t, tensors[1][k]) for k, t in tensors[0].items())
    assert not torch.equal(other["noise"], two["rng"]["noise"]) and not torch.equal(other["cpu"], two["rng"]["cpu"])


def test_a_run_goes_on_with_more_and_with_fewer(both: Both, pictures: Path, small: Small, tmp_path: Path) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    new = {"data": pictures, "overrides": small("gan")}
    for folder in (run, again):
        gansmith.train("gan", out=folder, steps=3, device="cpu", quiet=True, **new)
        said = good(both(train_here, folder, {"steps": 6}))
        assert (
            "00000003 is of 1 rank(s), this is 2: the noise and dropout of rank 0 go on, the others begin with new"
            " seeds\n" in said
        )
    assert_equal(run, again, 6)  # new seeds, but not by chance
    with contextlib.redirect_stdout(io.StringIO()) as out:
        gansmith.train(run, steps=9, device="cpu")
    assert "00000006 is of 2 rank(s), this is 1: the noise and dropout of rank 0 go on\n" in out.getvalue()
    tree = checkpoint.read(run / "checkpoints" / "00000009")[0]
    assert tree["images"] == 60 + 8 and "ranks" not in tree


def test_a_loss_that_is_not_finite_ends_all_ranks_alike(
    both: Both, pictures: Path, small: Small, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    results = both(train_here, "gan", {"data": pictures, "out": run, "steps": 50, "overrides": small("gan", lr=1e38)})
    (_, first), (silent, second) = results
    assert first.startswith("Diverged: training stopped in round ") and str(run) in first
    assert second.startswith("Diverged: ") and silent == ""
    checkpoint.newest_good(run / "checkpoints", pytest.fail)


SIGNALLED = """
import os, signal
from pathlib import Path
from gansmith.games.two_player import Simultaneous


class Signalled(Simultaneous):
    rounds = 0

    def round(self, *batches):
        self.rounds += 1
        first_try = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if self.rounds == AT and os.environ.get("RANK", "0") == "RANK_" and first_try:
            os.kill(os.getpid(), signal.SIGNAL)
        return super().round(*batches)
"""


@pytest.fixture
def signalled(tmp_path: Path) -> Callable[..., str]:
    """signalled(at, rank, name): a game in which a rank gets a signal in a round of the first attempt."""

    def write(at: int, rank: int, name: str) -> str:
        text = SIGNALLED.replace("AT", str(at)).replace("RANK_", str(rank)).replace("SIGNAL)", f"{name})")
        module = f"signalled_{name.lower()}_{rank}"
        (tmp_path / f"{module}.py").write_text(text, encoding="utf-8")
        return f"{module}:Signalled"

    return write


def train_from(folder: Path, what: str | Path, options: dict[str, Any]) -> tuple[str, str]:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return train_here(what, options)


def test_a_signal_to_one_rank_stops_all_after_the_same_round(
    both: Both, pictures: Path, small: Small, signalled: Callable[..., str], tmp_path: Path
) -> None:
    run, once = tmp_path / "run", tmp_path / "once"
    overrides = small("gan", **{"game.name": signalled(7, 1, "SIGTERM")})
    new = {"data": pictures, "steps": 20}
    (_, first), (_, second) = both(train_from, tmp_path, "gan", {**new, "out": run, "overrides": overrides})
    assert first == second == "Stopped: stopped by SIGTERM"
    assert checkpoint.everything(run / "checkpoints")[0].name == "00000007"
    good(both(train_from, tmp_path, run, {"steps": 7 + 6}))  # before its own round 7 comes again
    good(both(train_here, "gan", {**new, "out": once, "steps": 13, "overrides": small("gan")}))
    assert_equal(once, run, 13)


def fail_here(rank: int, options: dict[str, Any]) -> tuple[str, str]:
    """Training where one rank alone cannot be built."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == str(rank):

            def missing(*args: Any, **keys: Any) -> ImageSet:
                raise UserError("the disk is not there")

            patch.setattr("gansmith.build.load_images", missing)
        return train_here("gan", options)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_rank_cannot_do_is_said_once_and_ends_all(
    rank: int, both: Both, pictures: Path, small: Small, tmp_path: Path
) -> None:
    options = {"data": pictures, "out": tmp_path / "run", "steps": 2, "overrides": small("gan")}
    said = "rank 1: the disk is not there" if rank else "the disk is not there"
    assert [error for _, error in both(fail_here, rank, options)] == [f"UserError: {said}"] * 2
    assert not (tmp_path / "run").exists()


# ---- started again ---------------------------------------------------------------------------------------------


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a single process that torchrun has started for the second time."""
    for name, value in {**places(0, 1, 1), "TORCHELASTIC_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)


def test_a_restart_goes_on_with_the_run_that_the_command_began(
    pictures: Path, small: Small, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    new: dict[str, Any] = {"data": pictures, "device": "cpu", "overrides": small("gan", lr=1e-3)}
    run = gansmith.train("gan", out=tmp_path / "run", steps=3, quiet=True, **new)
    once = gansmith.train("gan", out=tmp_path / "once", steps=6, quiet=True, **new)
    request.getfixturevalue("restarted")
    gansmith.train("gan", out=run, steps=6, **new)
    says = f"torchrun has started this training again (restart 1): it goes on with {run}\n"
    assert capsys.readouterr().out.startswith(says)
    assert_equal(once, run, 6)
    with pytest.raises(UserError, match=r"holds another run.*optimizers.G.lr was 0.001 and is 0.01; choose another"):
        gansmith.train("gan", out=run, steps=9, **{**new, "overrides": small("gan", lr=1e-2)})
    gansmith.train("gan", out=tmp_path / "new", steps=1, quiet=True, **new)  # the first try made no folder


def test_a_restart_before_the_first_checkpoint_begins_anew(
    pictures: Path, small: Small, tmp_path: Path, restarted: None
) -> None:
    new: dict[str, Any] = {"data": pictures, "device": "cpu", "overrides": small("gan"), "quiet": True}
    once = gansmith.train("gan", out=tmp_path / "once", steps=2, **new)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_bytes((once / "recipe.yaml").read_bytes())
    assert_equal(once, gansmith.train("gan", out=tmp_path / "run", steps=2, **new), 2)


def test_a_restart_without_a_folder_says_what_to_give(small: Small, restarted: None) -> None:
    with pytest.raises(UserError, match=r"\(restart 1\), and without --out nobody knows in which run; give --out RUN"):
        gansmith.train("gan", overrides=small("gan"), device="cpu")


# ---- from the command line -------------------------------------------------------------------------------------

Command = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def ranks(command: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[Any]]]:
    """ranks("train", ...): two processes of `python -m gansmith`, as torchrun would start them."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: object, **options: Any) -> list[Any]:
        port = free_port()
        for rank in range(2):
            for name, value in places(rank, 2, port).items():
                monkeypatch.setenv(name, value)
            started.append(command(*args, **options))
        return started[-2:]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_an_error_of_all_is_one_line(
    ranks: Callable[..., list[Any]], pictures: Path, words: Callable[[Mapping[str, Any]], list[str]], small: Small,
    tmp_path: Path
) -> None:  # fmt: skip
    tiny = words(small("gan", batch_size=3))
    for args, says in (
        (["train", "gan", "--n_epoch", "3"], "n_epoch: there is no such key"),
        (["sample", "run"], "torchrun is for train; sample runs in one process"),
        (["train", "gan", "--data", pictures, *tiny], "BatchNorm needs at least 4 for 2 processes; the nearest is 4"),
    ):
        ends = [(*p.communicate(timeout=WAIT), p.returncode) for p in ranks(*args, cwd=tmp_path)]
        assert [code for _, _, code in ends] == [2, 2]
        assert ends[1][:2] == ("", "") and ends[0][1].count("\n") == 1
        assert ends[0][1].startswith("gansmith: error: ") and says in ends[0][1]


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_when_a_rank_is_killed_the_others_end_with_one_line(
    victim: int, ranks: Callable[..., list[Any]], pictures: Path, words: Callable[[Mapping[str, Any]], list[str]],
    small: Small, signalled: Callable[..., str], tmp_path: Path
) -> None:  # fmt: skip
    run = tmp_path / "run"
    own = {"game.name": signalled(23, victim, "SIGKILL"), "checkpoint.interval": 10, "steps": 40}
    args = ["train", "gan", "--data", pictures, "--out", run, "--device", "cpu", *words(small("gan", **own))]
    both_of = ranks(*args, "--quiet", cwd=tmp_path)
    ends = [(*process.communicate(timeout=WAIT), process.returncode) for process in both_of]
    assert ends[victim][2] == -signal.SIGKILL
    out, err, code = ends[1 - victim]
    assert (out, code) == ("", 1), err
    [line] = err.splitlines()
    assert re.fullmatch(
        rf"gansmith: error: rank {1 - victim}: the connection to the other processes broke \(.+\); {run} goes on from"
        " its newest checkpoint",
        line,
    )
    assert checkpoint.newest_good(run / "checkpoints", pytest.fail).name == "00000020"
    assert not list((run / "checkpoints").glob(".*"))


FULL = """
import os
import torch
from gansmith.games.two_player import Simultaneous


class Full(Simultaneous):
    def round(self, *batches):
        if os.environ["RANK"] == "1" and self.D.moves == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().round(*batches)
"""


def test_a_rank_without_memory_says_so_and_the_others_end(
    ranks: Callable[..., list[Any]], pictures: Path, words: Callable[[Mapping[str, Any]], list[str]], small: Small,
    tmp_path: Path
) -> None:  # fmt: skip
    (tmp_path / "full_game.py").write_text(FULL, encoding="utf-8")
    tiny = words(small("gan", **{"game.name": "full_game:Full", "checkpoint.interval": 1}))
    args = ["train", "gan", "--data", pictures, "--out", "run", "--device", "cpu", "--steps", "9", "--quiet", *tiny]
    ends = [(*process.communicate(timeout=WAIT), process.returncode) for process in ranks(*args, cwd=tmp_path)]
    on = "; run goes on from its newest checkpoint\n"
    for rank, said in enumerate(("the connection to the other processes broke", "there is not enough memory for a")):
        out, err, code = ends[rank]
        assert (out, code) == ("", 1) and err.count("\n") == 1, err
        assert err.startswith(f"gansmith: error: rank {rank}: {said}") and err.endswith(on)
    assert checkpoint.newest_good(tmp_path / "run" / "checkpoints", pytest.fail).name == "00000002"


def torchrun(folder: Path, *args: object, restarts: int = 0) -> subprocess.Popen[str]:
    source = str(Path(gansmith.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    own = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts), "-m", "gansmith"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *own, *map(str, args)],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_torchrun_starts_a_killed_training_again_and_it_ends_as_undisturbed(
    both: Both, pictures: Path, words: Callable[[Mapping[str, Any]], list[str]], small: Small,
    signalled: Callable[..., str], tmp_path: Path
) -> None:  # fmt: skip
    run, once = tmp_path / "run", tmp_path / "once"
    more = {"checkpoint.interval": 10, "log_interval": 5, "steps": 30}
    flags = words(small("gan", **more, **{"game.name": signalled(17, 1, "SIGKILL")}))
    line = ["train", "gan", "--data", pictures, "--out", run, *flags, "--device", "cpu"]
    process = torchrun(tmp_path, *line, restarts=1)
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 0, err
    assert f"torchrun has started this training again (restart 1): it goes on with {run}\n" in out
    assert "from round 10 to round 30" in err and "Traceback" not in err.partition("[W")[0]
    good(both(train_here, "gan", {"data": pictures, "out": once, "overrides": small("gan", **more)}))
    assert_equal(once, run, 30)
    assert rows(once) == rows(run)


@pytest.mark.slow
def test_ctrl_c_of_torchrun_saves(
    pictures: Path, words: Callable[[Mapping[str, Any]], list[str]], small: Small, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    flags = words(small("gan", **{"log_interval": 5, "sample_interval": 10**6, "steps": 10**6}))
    process = torchrun(tmp_path, "train", "gan", "--data", pictures, "--out", run, *flags, "--device", "cpu", "--quiet")
    until, log = time.monotonic() + WAIT, run / "metrics.jsonl"
    while not log.exists() or log.read_text(encoding="utf-8").count("\n") < 5:
        assert time.monotonic() < until and process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode != 0
    assert f"stopped by SIGINT and saved; go on with: gansmith train {run}\n" in err
    newest = checkpoint.newest_good(run / "checkpoints", pytest.fail)
    assert int(newest.name) >= 25 and int(newest.name) % 1000 and (run / "growth.gif").exists()
