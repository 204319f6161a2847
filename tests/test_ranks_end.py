"""How several processes leave each other, and what of a batch each of them can see."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import gansmith
from gansmith.batch import Batch
from gansmith.distributed import joined
from gansmith.errors import UserError
from gansmith.players import Moved, Player, move, sgd
from gansmith.world import World

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo and signals as POSIX has them")

WAIT = 90.0
Both = Callable[..., list[Any]]


def places(rank: int, port: int) -> dict[str, str]:
    """What torchrun sets; it keeps the store."""
    names = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    kept = {"MASTER_ADDR": "localhost", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return {**{name: str(value) for name, value in names.items()}, **kept}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    yield store.port


def start(rank: int, port: int) -> None:
    os.environ.update(places(rank, port))
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def both(port: int) -> Iterator[Both]:
    """both(function, *args): what it returns on rank 0 and on rank 1 of two processes."""
    spawn = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=spawn, initializer=start, initargs=(r, port)) for r in range(2)]

    def call(function: Callable[..., Any], *args: Any) -> list[Any]:
        return [future.result(WAIT) for future in [pool.submit(function, *args) for pool in pools]]

    yield call
    for pool in pools:
        pool.shutdown()


# ---- the end ---------------------------------------------------------------------------------------------------


def group_after_its_end(error: bool) -> bool:
    """Whether the group lives on: its threads would, too, and abort the process if it ends at the wrong moment."""
    try:
        with joined("cpu") as world:
            group = weakref.ref(dist.group.WORLD)
            importlib.import_module(
                "torch._dynamo"
            )  # has functions whose default is the group, if it is there before them
            with world.together():
                if error and world.rank == 1:
                    raise UserError("there is no such folder")
    except UserError as found:
        assert error and str(found) == "rank 1: there is no such folder"
    return group() is not None


def test_a_group_ends_with_its_training_and_another_can_follow(both: Both) -> None:
    for error in (False, True, False):
        assert both(group_after_its_end, error) == [False, False]


LONELY = """
import os, signal, sys, time
import torch
from gansmith import distributed

distributed.BEAT, distributed.SILENCE = 0.1, 2.0
with distributed.joined("cpu") as world:
    world.goes_on = lambda: "; runs/x goes on from its newest checkpoint"
    if world.rank == 0:
        time.sleep(3)  # long, but alive
    world.sum([torch.ones(1)])
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    world.sum([torch.ones(1)])
"""


def test_a_rank_that_falls_silent_ends_the_others_and_a_slow_one_does_not(port: int) -> None:
    source = str(Path(gansmith.__file__).parents[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LONELY],
            env={**os.environ, "PYTHONPATH": source, **places(rank, port), "TORCHELASTIC_RESTART_COUNT": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        _, err = processes[0].communicate(timeout=WAIT)
        says = "gansmith: error: rank 0: rank 1 has given no sign of life for 2 seconds; runs/x goes on"
        assert err == f"{says} from its newest checkpoint\n"
        assert processes[0].returncode == 1
        assert processes[1].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def on_its_own_machine(address: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: f"host{os.environ['RANK']}")
        where = address if os.environ["RANK"] == "1" else "192.0.2.1"
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (where, 0))]
        patch.setattr("socket.getaddrinfo", lambda *args, **keys: found)
        try:
            with joined("cpu"):
                return ""
        except UserError as error:
            return str(error)


def test_a_machine_that_the_others_cannot_reach_is_named(both: Both) -> None:
    says = "the machine host1 finds itself at 127.0.1.1, where the others cannot reach it: set GLOO_SOCKET_IFNAME there"
    for said in both(on_its_own_machine, "127.0.1.1"):
        assert said.startswith(says)


# ---- the whole batch -------------------------------------------------------------------------------------------

SIZE = 7  # shares of 3 and 4


def step_of_a_loss_of_the_whole_batch(world: World) -> list[Tensor]:
    """Scores, loss and weights after a step along f(all scores) + sum_i |d/dx_i f(all scores)|^2."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    own = slice(SIZE * world.rank // world.size, SIZE * (world.rank + 1) // world.size)
    x = torch.randn(SIZE, 3, dtype=torch.float64)[own].requires_grad_()
    player = Player("D", net, sgd)
    player.reduce = world.reduce
    scores = world.everywhere(net(x))

    def losses(part: Batch) -> tuple[Moved, dict[str, Tensor]]:
        f = nn.functional.softplus(scores - scores.mean(0)).mean() + scores.logsumexp(0).sum()
        # All ranks ask for the gradient of the same f, so what arrives here is the sum of so many.
        (slope,) = torch.autograd.grad(f / world.size, part["x"], create_graph=True)
        return {"D": (player, f + world.everywhere(slope.square().sum(1)).sum())}, {}

    metrics = move(Batch({"x": x}, SIZE), 1, losses)
    return [scores.detach(), metrics["loss/D"], metrics["grad/D"], *(p.detach() for p in net.parameters())]


def step_here() -> list[Tensor]:
    with joined("cpu") as world:
        return step_of_a_loss_of_the_whole_batch(world)


def test_processes_that_see_the_whole_batch_take_the_step_of_one(both: Both) -> None:
    whole = step_of_a_loss_of_the_whole_batch(World(torch.device("cpu")))
    assert len(whole) == 7 and float(whole[2]) > 0.1
    for here in both(step_here):
        for one, other in zip(whole, here, strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-12)


def rows_of_another_rank() -> str:
    with joined("cpu") as world, pytest.raises(ValueError, match=r"rows; of 7 it must have") as caught:
        world.everywhere(torch.ones(5 - 3 * world.rank))
    return str(caught.value)


def test_rows_that_are_not_the_ranks_share_are_refused(both: Both) -> None:
    assert both(rows_of_another_rank) == [
        "rank 0 has 5 rows; of 7 it must have 3",
        "rank 1 has 2 rows; of 7 it must have 4",
    ]
