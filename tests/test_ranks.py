"""Two processes are one training: every recipe over gloo, in float64, against one process on the whole batch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from conftest import CPU, Both, experiment_of, rounds, watched
from torch import Tensor, nn

from gansmith import checkpoint
from gansmith.distributed import joined
from gansmith.networks.mlp import Discriminator
from gansmith.recipe import recipe_names
from gansmith.world import World

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo as POSIX has it")

FIVE = {"batch_size": 5, "data.validation": 0}  # and no short batch, whose parts might be empty
PENALTY = {"penalties": [{"name": "wgan_gp", "weight": 2.0, "every": 2}]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in recipe_names()},
    "a loss of the whole batch": ("gan", {"objective": "relativistic_average"}),
    "a penalty of the whole batch": (
        "gan",
        {"penalties": [{"name": "dragan"}], "networks.D.name": "test_ranks:Smooth"},
    ),
    # Backward of a backward, through the statistics of D's BatchNorm.
    "a lazy penalty": ("lsgan", PENALTY),
}


class Smooth(Discriminator):
    """A critic with another gradient at every point: between two kinks, LeakyReLU's does not see where."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) ** 2


def trained(world: World, name: str, data: str, flags: dict[str, Any]) -> dict[str, Tensor]:
    """Three rounds: weights, averages, buffers, the game's memory, and what was logged last."""
    made = experiment_of(name, data, world=world, **{"sync_batchnorm": True, "ema.halflife_kimg": 0.01, **flags})
    for pool in made.game.pools().values():
        pool.size = 0  # each process has one of its own, which holds other pictures
    for group in (group for player in made.game.players for group in player.optimizer.param_groups):
        if "eps" in group:
            group["eps"] = 1e-5  # or a gradient that is rounding alone, as of biases before BatchNorm, is a step
    with watched(made.game, world.rank, world.size):
        heard = rounds(made, 3)
    tensors: dict[str, Tensor] = {}
    players = {p.name: [p.net.state_dict(), p.ema and p.ema.state_dict()] for p in made.game.players}
    checkpoint.pack([players, made.game.state_dict(), heard[-1]], tensors)
    return tensors


def trained_here(*args: Any) -> dict[str, Tensor]:
    with joined("cpu") as world:
        return trained(world, *args)


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys() and len(one) > 10
    return max(float((a - other[k]).abs().max()) for k, a in one.items())


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one_on_the_whole_batch(case: str, both: Both, data_of: Callable[[str], str]) -> None:
    """Batches of 5 in shares of 2 and 3; and cut in parts too, where no BatchNorm looks at a part."""
    name, flags = CASES[case]
    args = name, data_of(name), {**FIVE, **flags}
    whole = trained(World(CPU), *args)
    first, second = both(trained_here, *args)
    assert apart(first, second) == 0
    assert apart(whole, first) < 1e-10
    made = experiment_of(name, data_of(name))
    norms = [m for p in made.game.players for m in p.net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms and made.game.accumulate:
        first, _ = both(trained_here, *args[:2], {**args[2], "accumulate": 2})
        assert apart(whole, first) < 1e-10


def test_one_share_more_or_less_would_be_seen(data_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The equality above has teeth: equal weights for the unequal parts of 5 images are another training."""
    args: Any = World(CPU), "gan2014_mnist", data_of("gan2014_mnist"), {**FIVE}
    whole = trained(*args)
    monkeypatch.setattr("gansmith.batch.Batch.share", 0.5)
    args[3]["accumulate"] = 2
    assert apart(whole, trained(*args)) > 1e-5
