"""Networks that a game is handed as they are, and makers that take a picture and a latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import experiment_of, rounds
from torch import Tensor, nn

import gansmith
from gansmith.batch import Batch
from gansmith.errors import UserError
from gansmith.games.game import Game, Maker
from gansmith.inference import load
from gansmith.players import Metrics, Moved, Player, move
from gansmith.priors import Prior

Data = Callable[[str], str]


class Painter(nn.Module):
    """Pictures and z -> pictures."""

    def __init__(self, latent_dim: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.z = nn.Linear(latent_dim, shape[1] * shape[2])
        self.mix = nn.Conv2d(2, 1, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return torch.tanh(self.mix(torch.cat((x, self.z(z).view_as(x)), 1)))


class Features(nn.Sequential):
    """With BatchNorm, whose statistics would move in training mode."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.Flatten())


@dataclass
class Repaint(Game):
    """G moves so that frozen features of what it makes of a picture and z are those of the picture."""

    G: Player
    F: nn.Module
    prior: Prior
    noise: torch.Generator

    critics = ()
    frozen = ("F",)
    makers = {"repaint": Maker(("G",), {"x": "x", "z": "latent"}, "x", lambda G, x, z: G(x, z))}

    def round(self, *batches: Batch) -> Metrics:
        return move(batches[0], 1, self.losses)

    def losses(self, part: Batch) -> tuple[Moved, Metrics]:
        z = self.prior.sample(len(part), self.noise, self.G.dtype)
        wanted = self.F(part["x"])
        return {"G": (self.G, (self.F(self.G.net(part["x"], z)) - wanted).pow(2).mean())}, {}


FLAGS: dict[str, Any] = {
    "game": f"{__name__}:Repaint",
    **{"networks.G": f"{__name__}:Painter", "networks.F": f"{__name__}:Features", "objective": None},
    **{"networks.D": None, "optimizers.D": None, "prior.dim": 3, "lr": 0.05},
}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conftest.SMALL", {"gan": {}})


@pytest.mark.usefixtures("plain")
def test_what_is_frozen_never_changes_has_no_optimizer_and_must_be_the_same_at_a_resume(data_of: Data) -> None:
    made = experiment_of("gan", data_of("gan"), **FLAGS)
    frozen = made.game.F  # type: ignore[attr-defined]
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    heard = rounds(made, 10)
    assert heard[-1]["loss/G"] < heard[0]["loss/G"]
    assert all(torch.equal(before[name], tensor) for name, tensor in frozen.state_dict().items())
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
    state = made.state.state_dict()
    assert {*state["players"]} == {"G"} and {*state["frozen"]} == {"F"}
    experiment_of("gan", data_of("gan"), **FLAGS).state.load_state_dict(state)
    other = experiment_of("gan", data_of("gan"), **FLAGS)
    state["frozen"]["F"] = "0" * 12
    with pytest.raises(UserError, match=r"^networks.F has other weights than this run was trained with: give it those"):
        other.state.load_state_dict(state)
    with pytest.raises(UserError, match="takes no optimizers.F: say optimizers.F: null"):
        experiment_of("gan", data_of("gan"), **FLAGS, **{"optimizers.F": "adam"})
    with pytest.raises(UserError, match="needs networks.F"):
        experiment_of("gan", data_of("gan"), **{**FLAGS, "networks.F": None})
    with pytest.raises(UserError, match="takes no accumulate, so it must be 1"):
        experiment_of("gan", data_of("gan"), **FLAGS, accumulate=2)


@pytest.mark.usefixtures("plain")
def test_frozen_weights_come_from_a_run_and_a_seed_draws_the_latent_of_a_translation(
    data_of: Data, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"data": data_of("gan"), "steps": 2, "device": "cpu", "quiet": True}
    flags = {**FLAGS, "img_size": 16, "batch_size": 8}
    one = gansmith.train("gan", out=tmp_path / "one", overrides=flags, **common)
    other = {**flags, "networks.F": f"{__name__}:Painter", "networks.F.weights": str(one)}
    with pytest.raises(UserError, match=r"^networks.F.weights: .*one has no player F \(it has: G\)"):
        gansmith.train("gan", out=tmp_path / "two", overrides=other, **common)
    assert not (tmp_path / "two").exists()
    sampler = load(one, device="cpu")
    picture = np.zeros((1, 16, 16), np.uint8)
    a, b, again = sampler.translate([picture] * 3, seeds=[0, 1, 0])
    assert np.array_equal(a, again) and not np.array_equal(a, b)
    assert list((one / "growth").glob("*.png"))
