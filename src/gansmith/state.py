"""Everything that changes during training, in one object: what a checkpoint holds."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from gansmith.errors import UserError
from gansmith.games.game import Game


class Frozen:
    """The digests of networks that never change, in place of their weights."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.digests = {name: _digest(network) for name, network in networks.items()}

    def state_dict(self) -> dict[str, str]:
        return self.digests

    def load_state_dict(self, state: dict[str, str]) -> None:
        for name, digest in self.digests.items():
            if state.get(name) != digest:
                raise UserError(f"networks.{name} has other weights than this run was trained with: give it those")


def _digest(network: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:12]


class State:
    """Players, the game's memory, counters, random streams, the position in the data, the log's running sums.

    Training 2N rounds equals training N, saving, loading and training N more, bit for bit on one device.
    """

    def __init__(self, game: Game, noise: torch.Generator, parts: Mapping[str, Any]) -> None:
        self.game = game
        self.noise = noise
        self.parts = parts  # what hands out a state_dict and takes it back: the stream of batches, the log's meters
        self.round = 0  # rounds played
        self.images = 0  # real images shown to D
        self.seconds = 0.0  # spent in the loop over all sessions, evaluation apart
        self._buffers = [b for player in game.players for b in player.net.buffers()]
        self._others: list[dict[str, Any]] = []
        self._before: Any = None  # what `begin_round` remembers

    def end_round(self, shown: int) -> None:
        """Count a round that succeeded, in which `shown` images were shown to D; averages and pools follow."""
        self.round += 1
        self.images += shown
        for player in self.game.players:
            player.average(shown, self.images)
        for pool in self.game.pools().values():
            pool.commit()
        self._before = None

    def begin_round(self) -> None:
        """Remember what a round changes before any player moves, so that a round that fails can be taken back."""
        moves = [player.moves for player in self.game.players]
        for pool in self.game.pools().values():
            pool.forget_plan()
        self._before = ([b.clone() for b in self._buffers], self._rng(), self.parts["data"].state_dict(), moves)

    def take_back(self) -> list[str]:
        """Undo what a round has done besides moves: running statistics, random streams, the position in the data.

        Returns the names of the players who have moved in it already, and stay where they are.
        """
        if self._before is None:
            return []
        buffers, rng, position, moves = self._before
        with torch.no_grad():
            for buffer, before in zip(self._buffers, buffers, strict=True):
                buffer.copy_(before)
        self.set_streams(rng)
        self.parts["data"].load_state_dict(position)
        return [player.name for player, before in zip(self.game.players, moves, strict=True) if player.moves > before]

    def gather_own(self, gather: Callable[[Any], list[Any]]) -> None:
        """Let the next `state_dict` hold what each process that trains along has of its own; each calls this."""
        self._others = gather(self._own())[1:]

    def _own(self) -> dict[str, Any]:
        """Random streams, and the pools of past fakes, in host memory: another process may lack this one's device."""
        pools = {
            name: {key: value if value is None else value.cpu() for key, value in pool.state_dict().items()}
            for name, pool in self.game.pools().items()
        }
        return {**self._rng(), **({"pools": pools} if pools else {})}

    def set_own(self, own: Mapping[str, Any]) -> None:
        """Take back what `_own` gave."""
        self.set_streams(own)
        for name, pool in self.game.pools().items():
            pool.load_state_dict(own["pools"][name], self.noise.device)

    def empty_pools(self) -> bool:
        """Let pools start anew; whether there are any."""
        for pool in self.game.pools().values():
            pool.load_state_dict({"kept": None}, self.noise.device)
        return bool(self.game.pools())

    def state_dict(self) -> dict[str, Any]:
        """A tree of tensors and plain values."""
        return {
            "round": self.round,
            "images": self.images,
            "seconds": self.seconds,
            "players": {player.name: player.state_dict() for player in self.game.players},
            "game": self.game.state_dict(),
            "rng": self._own(),
            **({"ranks": self._others} if self._others else {}),  # the same of rank 1, 2, ...
            **{name: part.state_dict() for name, part in self.parts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.round, self.images, self.seconds = state["round"], state["images"], state["seconds"]
        for player in self.game.players:
            player.load_state_dict(state["players"][player.name])
        self.game.load_state_dict(state["game"])
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.set_own(state["rng"])

    def _rng(self) -> dict[str, Any]:
        rng = {"noise": self.noise.get_state(), "cpu": torch.get_rng_state()}
        if self.noise.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.noise.device)
        elif self.noise.device.type == "mps":
            rng["mps"] = torch.mps.get_rng_state()
        return rng

    def set_streams(self, rng: Mapping[str, Any]) -> None:
        """Take random streams back, as `state_dict` gives them."""
        torch.set_rng_state(rng["cpu"])
        if self.noise.device.type == "cuda" and "cuda" in rng:
            torch.cuda.set_rng_state(rng["cuda"], self.noise.device)
        if self.noise.device.type == "mps" and "mps" in rng:
            torch.mps.set_rng_state(rng["mps"])
        if len(rng["noise"]) == len(self.noise.get_state()):  # else: of another kind of device
            self.noise.set_state(rng["noise"])
