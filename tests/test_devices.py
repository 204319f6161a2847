"""Rounds on a device without one: fake tensors have a device and a shape, no numbers, and refuse those of another.

They stand on the device meta, where torch's autograd works without a card; random numbers need a generator that says
it was there, and whoever waits for a number gets 1.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from conftest import rounds, small_flags
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gansmith import players
from gansmith.build import build
from gansmith.data.views import Draws
from gansmith.recipe import plan, recipe_names

DEVICE = torch.device("meta")
FIRST = {str(plan(name).recipe.game.name): name for name in reversed(recipe_names())}
SOME = ("wgan_gp", "cyclegan", "projection")
"""A recipe with penalties, one with pools and reflected borders, and one that looks up vectors of labels."""
ANY_ORDER = {
    *("embedding_dense_backward", "index_add", "scatter_add", "index_put", "put", "masked_scatter", "histc", "cumsum"),
    *(f"upsample_{mode}2d_backward" for mode in ("bilinear", "bicubic")),
    *(f"{name}_backward" for name in ("_adaptive_avg_pool2d", "replication_pad2d", "grid_sampler_2d", "index_select")),
    *("nll_loss2d_forward", "max_pool3d_with_indices_backward", "adaptive_max_pool2d_backward", "_ctc_loss_backward"),
}
"""What CUDA adds up in no fixed order, by torch's `use_deterministic_algorithms`; `reflection_pad2d_backward` apart."""


class Generator(torch.Generator):
    """One of the CPU's that says it is where it was asked to be."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls)
        made.place = torch.device(device)
        return made

    def __init__(self, device: Any = "cpu") -> None: ...

    @property
    def device(self) -> torch.device:
        return self.place


def moved(net: nn.Module, *args: Any, **options: Any) -> nn.Module:
    """`nn.Module.to`, which would swap tensors, and cannot swap fake ones."""
    there: dict[nn.Parameter, nn.Parameter] = {}
    for module in net.modules():
        for name, x in module._parameters.items():
            if x is not None:
                made = nn.Parameter(x.detach().to(*args, **options), x.requires_grad)
                module._parameters[name] = there.setdefault(x, made)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(*args, **options)
    return net


def ones(shape: tuple[int, ...]) -> Any:
    return [ones(shape[1:]) for _ in range(shape[0])] if shape else 1


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """A world of fake tensors; the shapes that the host has waited for."""
    asked: list[tuple[int, ...]] = []

    def tolist(x: Tensor) -> Any:
        asked.append(tuple(x.shape))
        return ones(tuple(x.shape))

    monkeypatch.setattr(FakeTensor, "tolist", tolist)
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())
    monkeypatch.setattr(nn.Module, "to", moved)
    monkeypatch.setattr("gansmith.build.Frozen", lambda networks: None)  # asks for the bytes of weights
    monkeypatch.setattr("gansmith.data.stream.Stream._order", lambda s, number, epoch: np.arange(len(s.sets[number])))
    for name in ("adam", "sgd"):
        module = importlib.import_module(f"torch.optim.{name}")
        monkeypatch.setattr(module, "_device_dtype_check_for_fused", lambda p, **options: None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield asked


class Seen(TorchDispatchMode):
    """Counts copies between devices by shape, and lists what CUDA adds up in no fixed order."""

    def __init__(self) -> None:
        super().__init__()
        self.copies, self.any_order = Counter[tuple[int, ...]](), list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if len({x.device for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)}) > 1:
            self.copies[tuple(result.shape)] += 1
        if name.rstrip("_") in ANY_ORDER or (name == "reflection_pad2d_backward" and three_meet(args[1], args[2])):
            self.any_order.append(str(func))
        return result


def three_meet(x: Tensor, padding: Any) -> bool:
    """Whether a pixel stands in three places, or more, of x reflected at its borders."""
    left, right, top, bottom = padding
    both = max(left, right) > 0 and max(top, bottom) > 0
    return both or x.shape[3] < left + right + 2 * (left > 0) or x.shape[2] < top + bottom + 2 * (top > 0)


@pytest.mark.parametrize(
    "name", [*SOME, *(pytest.param(name, marks=pytest.mark.slow) for name in FIRST.values() if name not in SOME)]
)
def test_a_round_stays_on_its_device_and_the_host_waits_once_a_move(
    name: str, data_of: Callable[[str], str], waits: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool asks what was drawn once more. A view draws on the host, and an epoch's order comes from there."""
    moves, check = list[int](), players._check_finite
    monkeypatch.setattr(players, "_check_finite", lambda *args: (moves.append(1), check(*args)))
    flags = {**small_flags(name), "data.name": data_of(name), "data.memory": "device", "img_size": 32, "batch_size": 3}
    flags["ema.halflife_kimg"] = None  # torch's fake tensors do not survive `copy.deepcopy`
    experiment = build(plan(name, flags=flags).recipe, DEVICE, say=lambda text: None, progress=False)
    rounds(experiment, 1)  # the optimizers make their state
    waits.clear()
    moves.clear()
    with Seen() as seen:
        rounds(experiment, 1)
    pools = [shape for shape in waits if len(shape) == 2]
    assert len(pools) == len(experiment.game.pools()) and len(waits) == len(moves) + len(pools)
    assert all(len(shape) == 1 for shape in seen.copies) and not seen.any_order


def test_draws_of_a_view_reach_cuda_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    normal, sent = Tensor.to, []
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: x.mul(2))

    def to(x: Tensor, device: torch.device, non_blocking: bool = False) -> Tensor:
        sent.append((device.type, non_blocking))
        return normal(x, "cpu")

    monkeypatch.setattr(Tensor, "to", to)
    here, there = (Draws(0, 1, 5, slice(1, 4), torch.device(kind)) for kind in ("cpu", "cuda"))
    for plain, pinned in ((here.uniform(2), there.uniform(2)), (here.integers(9), there.integers(9))):
        assert len(plain) == 3 and torch.equal(pinned, 2 * plain)
    assert sent == [("cpu", False), ("cuda", True), ("cpu", False), ("cuda", True)]
