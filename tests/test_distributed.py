"""Several processes are one run: one writer, an order and an end in common, and errors of all.

Real processes over gloo. That they take the steps of one process is shown in test_ranks.py.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import Both, as_words, free_port, places
from torch import Tensor, nn

import gansmith
from gansmith import checkpoint, plan
from gansmith.batch import Batch
from gansmith.build import build
from gansmith.cli import main
from gansmith.data import ImageSet
from gansmith.data.stream import Stream
from gansmith.distributed import Processes, SyncBatchNorm, joined, synchronise
from gansmith.errors import RankLost, UserError
from gansmith.exactness import compare
from gansmith.games.two_player import Simultaneous
from gansmith.launch import launch
from gansmith.players import Metrics, Player, move, sgd
from gansmith.run.log import read_metrics
from gansmith.schema import NonNegativeInt, PositiveInt

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="gloo and signals as POSIX has them")]

WAIT = 90.0
CPU = torch.device("cpu")
New = Callable[..., dict[str, Any]]


@pytest.fixture
def new(data_of: Callable[[str], str], small: Callable[..., dict[str, Any]]) -> New:
    """new("gan", lr=1e-3): small data for a recipe and overrides, as gansmith.train takes them."""
    return lambda name="gan", **flags: {"data": data_of(name), "overrides": small(name, **flags)}


# ---- sums over all processes -------------------------------------------------------------------------------------


def left_out(used: Sequence[Sequence[int]]) -> list[float]:
    """Weights of 1 after p <- p - (gradient + p), of a loss that goes through other ones on each rank."""
    weights = nn.ParameterList(torch.ones(1, dtype=torch.float64) for _ in range(4))
    with joined("cpu") as world:
        player = Player("D", weights, lambda params: sgd(params, lr=1.0, weight_decay=1.0))
        player.reduce = world.reduce
        batch = Batch({"x": torch.zeros(1 + 2 * world.rank)}, 4)
        move(batch, 1, lambda part: ({"D": (player, sum(10.0**i * weights[i].sum() for i in used[world.rank]))}, {}))
    return [weight.item() for weight in weights]


def test_a_parameter_that_one_process_leaves_out_gets_the_others_gradient(both: Both) -> None:
    """And one that all leave out stays."""
    assert both(left_out, [(0, 1, 2), (1, 2)]) == [[-0.25, -10.0, -100.0, 1.0]] * 2
    assert both(left_out, [(0,), (2, 1)]) == [[-0.25, -7.5, -75.0, 1.0]] * 2


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (RuntimeError("[/x/gloo/transport/tcp/pair.cc:561] Connection closed by peer"), RankLost),
        (torch.distributed.DistBackendError("NCCL error: remote process exited"), RankLost),
        (RuntimeError("not enough memory: you tried to allocate 8 bytes"), RuntimeError),
    ],
)
def test_only_what_a_connection_raises_reads_as_a_lost_one(
    error: Exception, seen: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.distributed.all_reduce", Mock(side_effect=error))
    with pytest.raises(seen) as caught:
        Processes(0, 2, CPU).sum([torch.ones(1)])
    assert type(caught.value) is seen


LAYERS: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "1d": (nn.BatchNorm1d, (7, 3), {}),
    "1d of sequences": (nn.BatchNorm1d, (5, 3, 4), {"momentum": None}),
    "2d": (nn.BatchNorm2d, (5, 3, 2, 4), {"momentum": 0.3, "eps": 0.5}),
    "plain": (nn.BatchNorm2d, (3, 2, 2, 2), {"affine": False}),
}


def normalised(name: str, rank: int = 0, ranks: int = 1) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What lies along the batch, both gradients of weights, and running statistics, of a layer in and out of training.

    The loss is a function of the output; the second gradient is that of the squared norm of the first.
    """
    kind, shape, options = LAYERS[name]
    torch.manual_seed(2)
    layer: Any = kind(shape[1], **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    own = slice(shape[0] * rank // ranks, shape[0] * (rank + 1) // ranks)
    x = (100 + 3 * torch.randn(*shape, dtype=torch.float64))[own].requires_grad_()
    if ranks > 1:
        synchronise(layer)
        assert type(layer) is SyncBatchNorm
    y = layer(x)
    first = torch.autograd.grad((y.sin() * y).sum(), [x, *layer.parameters()], create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), [x, *layer.parameters()])
    layer(x + 1)
    rows = [y, first[0], second[0], layer.eval()(x)]
    weights, buffers = [*first[1:], *second[1:]], [b.double() for b in layer.buffers()]
    return [r.detach() for r in rows], [w.detach() for w in weights], buffers


def normalised_here(name: str) -> Any:
    with joined("cpu") as world:
        return normalised(name, world.rank, world.size)


@pytest.mark.parametrize("name", LAYERS)
def test_batchnorm_over_two_processes_is_that_of_the_whole_batch(name: str, both: Both) -> None:
    """In unequal shares of 7, 5 and 3, backward of a backward included."""
    (rows_a, weights_a, buffers_a), (rows_b, weights_b, buffers_b) = both(normalised_here, name)
    assert all(map(torch.equal, buffers_a, buffers_b))
    # Of a parameter's gradient a rank holds its share.
    found = [*map(torch.cat, zip(rows_a, rows_b, strict=True)), *map(torch.add, weights_a, weights_b), *buffers_a]
    whole = [tensor for tensors in normalised(name) for tensor in tensors]
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-9)


# ---- the data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "ranks", "memory"), [(8, 2, "device"), (7, 3, "map"), (5, 4, "device")])
def test_the_shares_of_all_ranks_are_the_batch_without_overlap(batch_size: int, ranks: int, memory: str) -> None:
    ramp = np.arange(23, dtype=np.uint8).reshape(23, 1, 1, 1)
    data = ImageSet("ramp", {"x": ramp, "y": np.arange(23)}, ("a",) * 23, "digest")
    made = {"needs": (("x", "y"),), "batch_size": batch_size, "seed": 4, "memory": memory, "n_cpu": 1}
    alone = Stream((data,), **made)
    shares = [Stream((data,), **made, rank=rank, ranks=ranks) for rank in range(ranks)]
    for _ in range(2 * int(alone.batches_per_epoch) + 1):
        whole, own = next(alone), [next(stream) for stream in shares]
        assert all(torch.equal(whole[field], torch.cat([batch[field] for batch in own])) for field in ("x", "y"))
        assert {batch.size for batch in own} == {len(whole)} and sum(b.share for b in own) == pytest.approx(1)
        assert max(map(len, own)) - min(map(len, own)) <= 1
    for stream in (alone, *shares):
        stream.close()
        assert stream.state_dict() == alone.state_dict()


# 60 pictures. In batches of 7 the last has 4, in batches of 59 one.
@pytest.mark.parametrize(
    ("flags", "ranks", "says"),
    [
        ({"batch_size": 7}, 3, "batch_size is 7: the smallest batch of 60 images has 4, and BatchNorm needs at least 6"
         " for 3 processes; the nearest is 6"),
        ({"batch_size": 59}, 1, "images has 1, and BatchNorm needs at least 2; the nearest is 60"),
        ({"batch_size": 9, "accumulate": 2}, 2, "at least 8 for 2 processes x 2 accumulated parts; the nearest is 10"),
        ({"batch_size": 64}, 31, " has 60 images to train on, and BatchNorm needs at least 62 for 31 processes"),
        ({"batch_size": 7, "sync_batchnorm": True}, 5, "there must be at least 5 for 5 processes; the nearest is 6"),
        ({"batch_size": 4, "accumulate": 5}, 1, "accumulate is 5; it must be at most batch_size, 4"),
    ],
)  # fmt: skip
def test_shares_that_are_too_small_are_refused_with_the_nearest_size(
    flags: dict[str, Any], ranks: int, says: str, new: New
) -> None:
    options = new(**flags)
    with pytest.raises(UserError) as caught:
        recipe = plan("gan", flags={"data.name": options["data"], **options["overrides"]}).recipe
        world = Processes(0, ranks, CPU) if ranks > 1 else None
        build(recipe, CPU, say=lambda text: None, progress=False, world=world)
    assert says in str(caught.value)


# ---- runs --------------------------------------------------------------------------------------------------------


def train_here(what: str | Path, options: dict[str, Any]) -> tuple[str, str]:
    """(what was printed, the error's type and text) of a training on this rank, without curves."""
    error, out = "", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(out):
        patch.setattr("gansmith.run.record.plot_curves", lambda metrics, out, title: out.touch())
        try:
            gansmith.train(what, device="cpu", **options)
        except (Exception, KeyboardInterrupt) as found:
            error = f"{type(found).__name__}: {found}"
    return out.getvalue(), error


def command_here(args: Sequence[str]) -> tuple[str, str, Any]:
    """(output, errors, exit code) of a command on this rank."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err, pytest.raises(SystemExit) as end:
        main(args)
    return out.getvalue(), err.getvalue(), end.value.code


def good(results: list[tuple[str, str]]) -> str:
    """What rank 0 printed, where all went well and the others were silent."""
    assert [error for _, error in results] == ["", ""] and results[1][0] == ""
    return results[0][0]


def rows(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if "second" not in k} for row in read_metrics(run / "metrics.jsonl")]


def assert_equal(one: Path, other: Path, round: int) -> None:
    found = compare(*(run / "checkpoints" / f"{round:08d}" for run in (one, other)))
    assert found.exact, found.different
    assert found.tensors > 20


@pytest.mark.parametrize("name", ["gan", "gan2014_mnist", "cyclegan"])
def test_a_run_resumed_by_as_many_is_the_run_and_by_fewer_it_goes_on(
    name: str, both: Both, new: New, tmp_path: Path
) -> None:
    """With what each rank has of its own: statistics of BatchNorm, dropout, pools of past fakes."""
    own = {"game.pool": 4, "schedules": []} if name == "cyclegan" else {}
    more = {"ema.halflife_kimg": 0.05, "log_interval": 2, "checkpoint.interval": 4, "checkpoint.keep_every": 5}
    options = new(name, **more, **own)
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert "on each of 2 ranks" in good(both(train_here, name, {**options, "out": once, "steps": 11}))
    good(both(train_here, name, {**options, "out": twice, "steps": 5}))
    assert "rank(s)" not in good(both(train_here, twice, {"steps": 11}))
    assert_equal(once, twice, 5)  # of an interval of its own in one, the end of a session in the other
    assert_equal(once, twice, 11)
    assert rows(once) == rows(twice) and [row["round"] for row in rows(once)][-2:] == [10, 11]
    tree = checkpoint.read(once / "checkpoints" / "00000011")[0]
    [other] = tree["ranks"]
    assert not torch.equal(other["noise"], tree["rng"]["noise"])
    assert torch.equal(other["cpu"], tree["rng"]["cpu"]) == (other["cpu"].numel() == 0)
    assert sorted(p.name for p in (once / "checkpoints").iterdir()) == ["00000005", "00000010", "00000011"]
    assert len(json.loads((twice / "environment.json").read_text(encoding="utf-8"))) == 2
    # One process goes on.
    said, error = train_here(twice, {"steps": 12})
    begin = "00000011 is of 2 rank(s), this is 1: the noise and dropout of rank 0 go on\n"
    assert error == "" and begin in said
    after = checkpoint.read(twice / "checkpoints" / "00000012")[0]
    assert "ranks" not in after
    if name == "cyclegan":
        pools = [rng["pools"]["a"]["kept"] for rng in (tree["rng"], other, after["rng"])]
        assert [len(pool) for pool in pools] == [4, 4, 3] and not torch.equal(pools[0], pools[1])
        assert begin + "the pools of past fakes start empty\n" in said


def test_more_processes_go_on_with_new_seeds(both: Both, new: New, tmp_path: Path) -> None:
    """Rank 0 begins as one process does."""
    options = {**new("gan2014_mnist"), "steps": 1}
    one, again, two = (tmp_path / name for name in ("one", "again", "two"))
    good(both(train_here, "gan2014_mnist", {**options, "out": two}))
    for folder in (one, again):
        gansmith.train("gan2014_mnist", out=folder, device="cpu", quiet=True, **options)
    found = compare(*(run / "checkpoints" / "00000000" for run in (one, two)))
    assert found.different == ("ranks.0.cpu", "ranks.0.noise"), found.different
    tree = checkpoint.read(two / "checkpoints" / "00000000")[0]
    assert not any(torch.equal(tree["ranks"][0][stream], tree["rng"][stream]) for stream in ("noise", "cpu"))
    for folder in (one, again):
        says = "00000001 is of 1 rank(s), this is 2: the noise and dropout of rank 0 go on, the others begin with new"
        assert f"{says} seeds\n" in good(both(train_here, folder, {"steps": 4}))
    assert_equal(one, again, 4)  # new seeds, but not by chance


def test_a_loss_that_is_not_finite_ends_all_ranks_alike(both: Both, new: New, tmp_path: Path) -> None:
    run = tmp_path / "run"
    results = both(train_here, "gan", {**new(lr=1e38), "out": run, "steps": 50})
    (_, first), (silent, second) = results
    assert first.startswith("Diverged: training stopped in round ") and str(run) in first
    assert second.startswith("Diverged: ") and silent == ""
    checkpoint.newest_good(run / "checkpoints", pytest.fail)


@dataclass
class Disturbed(Simultaneous):
    """In round `at` of the first try, rank `rank` gets a signal, or has no memory where `signum` is 0."""

    _: KW_ONLY
    at: PositiveInt = 1
    rank: NonNegativeInt = 1
    signum: NonNegativeInt = 0

    def __post_init__(self) -> None:
        self.rounds = 0

    def round(self, *batches: Batch) -> Metrics:
        self.rounds += 1
        if (self.rounds, self.rank, 0) == (self.at, launch().rank, launch().restarts):
            if self.signum == 0:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            os.kill(os.getpid(), self.signum)
        return super().round(*batches)


def disturbed(at: int, rank: int, signum: int = 0) -> dict[str, Any]:
    return {"game.name": "test_distributed:Disturbed", "game.at": at, "game.rank": rank, "game.signum": int(signum)}


def test_a_signal_to_one_rank_stops_all_after_the_same_round(both: Both, new: New, tmp_path: Path) -> None:
    run, once = tmp_path / "run", tmp_path / "once"
    options = {**new(**disturbed(7, 1, signal.SIGTERM)), "out": run, "steps": 20}
    (_, first), (_, second) = both(train_here, "gan", options)
    assert first == second == "Stopped: stopped by SIGTERM"
    assert checkpoint.everything(run / "checkpoints")[0].name == "00000007"
    good(both(train_here, run, {"steps": 7 + 6}))  # before its own round 7 comes again
    good(both(train_here, "gan", {**new(), "out": once, "steps": 13}))
    assert_equal(once, run, 13)


def fail_here(rank: int, options: dict[str, Any]) -> tuple[str, str]:
    """Training where one rank alone cannot be built."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == str(rank):
            patch.setattr("gansmith.build.load_sets", Mock(side_effect=UserError("the disk is not there")))
        return train_here("gan", options)


def test_what_one_rank_cannot_do_is_said_once_and_ends_all(both: Both, new: New, tmp_path: Path) -> None:
    for rank, said in enumerate(("the disk is not there", "rank 1: the disk is not there")):
        results = both(fail_here, rank, {**new(), "out": tmp_path / "run", "steps": 2})
        assert [error for _, error in results] == [f"UserError: {said}"] * 2
        assert not (tmp_path / "run").exists()


def flags_of(options: dict[str, Any], run: Path) -> list[str]:
    """The same on a command line."""
    return ["train", "gan", "--data", options["data"], "--out", str(run), *as_words(options["overrides"])]


def test_an_error_of_all_is_one_line(both: Both, new: New, tmp_path: Path) -> None:
    for args, says in (
        (["train", "gan", "--n_epoch", "3"], "n_epoch: there is no such key"),
        (["sample", "run"], "torchrun is for train; sample runs in one process"),
        (flags_of(new(batch_size=3), tmp_path / "run"), "needs at least 4 for 2 processes; the nearest is 4"),
    ):
        (out, err, code), second = both(command_here, args)
        assert (out, code, second) == ("", 2, ("", "", 2))
        assert err.startswith("gansmith: error: ") and says in err and err.count("\n") == 1


def test_a_rank_without_memory_says_so_and_the_others_end(both: Both, new: New, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {**new(**disturbed(3, 1), **{"checkpoint.interval": 1}), "out": run, "steps": 9, "quiet": True}
    says = ("the connection to the other processes broke", "there is not enough memory for a")
    for said, (out, error) in zip(says, both(train_here, "gan", options), strict=True):
        assert out == "" and error.startswith(f"RankLost: {said}")
        assert error.endswith(f"; {run} goes on from its newest checkpoint")
    assert checkpoint.newest_good(run / "checkpoints", pytest.fail).path.name == "00000002"


# ---- killed, and started again -----------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that do not outlive the test, and may import this module."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    processes = list[subprocess.Popen[str]]()
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_when_a_rank_is_killed_the_others_end_with_one_line(
    victim: int, started: list[Any], command: Any, new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, port = tmp_path / "run", free_port()
    options = new(**disturbed(23, victim, signal.SIGKILL), **{"checkpoint.interval": 10, "steps": 40})
    for rank in range(2):
        for name, value in places(rank, 2, port).items():
            monkeypatch.setenv(name, value)
        started.append(command(*flags_of(options, run), "--device", "cpu", "--quiet"))
    ends = [(*process.communicate(timeout=WAIT), process.returncode) for process in started]
    assert ends[victim][2] == -signal.SIGKILL
    out, err, code = ends[1 - victim]
    assert (out, code) == ("", 1), err
    broke = rf"gansmith: error: rank {1 - victim}: the connection to the other processes broke \(.+\)"
    # The store lies on rank 0: torch may warn first, in its own words, that it is gone.
    said = err[err.index("gansmith: ") :] if victim == 0 else err
    assert re.fullmatch(rf"{broke}; {run} goes on from its newest checkpoint\n", said)
    assert checkpoint.newest_good(run / "checkpoints", pytest.fail).path.name == "00000020"
    assert not list((run / "checkpoints").glob(".*"))


def test_a_restart_goes_on_with_the_run_that_the_command_began(
    new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {**new(lr=1e-3), "device": "cpu"}
    run = gansmith.train("gan", out=tmp_path / "run", steps=3, quiet=True, **options)
    once = gansmith.train("gan", out=tmp_path / "once", steps=6, quiet=True, **options)
    (early := tmp_path / "early").mkdir()
    (early / "recipe.yaml").write_bytes((once / "recipe.yaml").read_bytes())
    for name, value in {**places(0, 1, 1), "TORCHELASTIC_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    gansmith.train("gan", out=run, steps=6, **options)
    says = f"torchrun has started this training again (restart 1): it goes on with {run}\n"
    assert capsys.readouterr().out.startswith(says)
    assert_equal(once, run, 6)
    with pytest.raises(UserError, match=r"holds another run.*optimizers.G.lr was 0.001 and is 0.01; choose another"):
        gansmith.train("gan", out=run, steps=9, **{**options, **new(lr=1e-2)})
    # The first try made no checkpoint, or no folder.
    assert_equal(once, gansmith.train("gan", out=early, steps=6, quiet=True, **options), 6)
    gansmith.train("gan", out=tmp_path / "new", steps=1, quiet=True, **options)
    with pytest.raises(UserError, match=r"\(restart 1\), and without --out nobody knows in which run; give --out RUN"):
        gansmith.train("gan", **options)


def test_a_restart_keeps_what_was_chosen_and_timed_at_the_start(
    new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {**new(**{"data.validation": -1, "channels": 0}), "device": "cpu", "quiet": True}
    first = gansmith.train("gan", out=tmp_path / "first", steps=2, **keys)
    keys["overrides"] |= {"start.run": str(first)}
    run = gansmith.train("gan", out=tmp_path / "run", minutes=0.001, **keys)
    begun = gansmith.plan(run).recipe
    (run / ".unfinished").touch()
    for name, value in {**places(0, 1, 1), "TORCHELASTIC_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert gansmith.plan(gansmith.train("gan", out=run, minutes=0.001, **keys)).recipe == begun
    assert begun.data.channels == 1 and begun.data.validation > 0 and begun.start.digest


def torchrun(*args: str, restarts: int = 0) -> subprocess.Popen[str]:
    own = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts), "-m", "gansmith"]
    words = [sys.executable, "-m", "torch.distributed.run", *own, *args, "--device", "cpu"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_torchrun_starts_a_killed_training_again_and_it_ends_as_undisturbed(
    started: list[Any], both: Both, new: New, tmp_path: Path
) -> None:
    run, once = tmp_path / "run", tmp_path / "once"
    more = {"checkpoint.interval": 10, "log_interval": 5, "steps": 30}
    disturbance = disturbed(17, 1, signal.SIGKILL)
    started.append(process := torchrun(*flags_of(new(**more, **disturbance), run), restarts=1))
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 0, err
    assert f"torchrun has started this training again (restart 1): it goes on with {run}\n" in out
    assert "from round 10 to round 30" in err and "Traceback" not in err.partition("[W")[0]
    good(both(train_here, "gan", {**new(**more), "out": once}))
    assert_equal(once, run, 30)
    assert rows(once) == rows(run)


@pytest.mark.slow
def test_ctrl_c_of_torchrun_saves(started: list[Any], new: New, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = new(**{"log_interval": 5, "sample_interval": 10**6, "steps": 10**6})
    started.append(process := torchrun(*flags_of(options, run), "--quiet"))
    until, log = time.monotonic() + WAIT, run / "metrics.jsonl"
    while not log.exists() or log.read_text(encoding="utf-8").count("\n") < 5:
        assert time.monotonic() < until and process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode != 0
    assert f"stopped by SIGINT and saved; go on with: gansmith train {run}\n" in err
    newest = checkpoint.newest_good(run / "checkpoints", pytest.fail)
    assert int(newest.path.name) >= 25 and int(newest.path.name) % 1000 and (run / "growth.gif").exists()
