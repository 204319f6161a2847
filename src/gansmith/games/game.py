"""What every game is: the algorithm box of a paper, played one round at a time.

Legend of all games: N samples, Z latents, C H W image.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from gansmith.batch import NOT_PICTURES, Batch
from gansmith.games.critique import Critic, Critique, criticised, per_sample, scores, shown, with_jsd
from gansmith.objectives import Objective
from gansmith.players import Metrics, Moved, Player, move

__all__ = ["Batch", "Game", "Losses", "Maker", "Metrics", "Moved", "Player", "move"]

Losses = tuple[Moved, Metrics]
"""Who moves along which loss of a part of a batch, and what else to log."""


class Maker(NamedTuple):
    """A way to make pictures with trained players: `make(*networks, **inputs)` gives (N, C, H, W).

    Or to tell what is in pictures: one that imitates "y" gives logits (N, K) of classes or clusters.
    """

    players: tuple[str, ...]
    """Whose networks it takes, in order, in eval mode; averaged all or none."""
    inputs: Mapping[str, str]
    """Each argument of `make`: "latent" is a draw of the prior, anything else a field of the data."""
    imitates: str
    """The field of the data whose pictures it makes; scores compare with that."""
    make: Callable[..., Tensor]

    @property
    def pictures(self) -> tuple[str, ...]:
        """The fields of pictures that it takes; none where it makes pictures out of latents (and labels) alone."""
        return tuple(field for field in self.inputs.values() if field not in ("latent", *NOT_PICTURES))

    @property
    def labelled(self) -> bool:
        return "y" in self.inputs.values()

    @property
    def classifies(self) -> bool:
        """Whether it gives logits and no pictures."""
        return self.imitates == "y"


class Game(ABC):
    """Who moves when, on which samples. The names of the positional parameters say what a game is handed:

    players by their names (G, D, ...), `prior`, `objective`, `penalty`, `noise`, the generator of every random number
    that a round draws, and `accumulate`, into how many parts it cuts a batch. Keyword-only parameters are keys of the
    recipe. The class alone says what it needs, who is who and what it can make, so that nobody builds a game for that.
    """

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("x",),)
    """The fields of its batches; those in one tuple share an index, each tuple is a stream with an order of its own."""
    generators: ClassVar[tuple[str, ...]] = ("G",)
    critics: ClassVar[tuple[str, ...]] = ("D",)
    """Players of either side."""
    sees: ClassVar[tuple[str, ...] | None] = None
    """The critics that only judge pictures, so that these may be augmented; None: all."""
    frozen: ClassVar[tuple[str, ...]] = ()
    """Networks that it is handed by name as they are, in eval mode: never trained, with no optimizer."""
    makers: ClassVar[Mapping[str, Maker]]
    """What it can make, the default first."""
    eager: ClassVar[Mapping[str, str]] = {}
    """Players whose networks torch.compile must leave alone, each with the reason."""
    batches_per_round: int = 1
    accumulate: int

    @property
    def players(self) -> tuple[Player, ...]:
        return tuple(getattr(self, name) for name in (*self.generators, *self.critics))

    @abstractmethod
    def round(self, *batches: Batch) -> Metrics:
        """Move every player once (or as often as the paper says), given `batches_per_round` batches."""

    def state_dict(self) -> dict[str, Any]:
        """The game's own memory, the same on all processes; `state.State` keeps players and random streams."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the memory back; KeyError for one that this game does not have."""
        if state:
            raise KeyError(f"{type(self).__name__} has no memory {', '.join(state)}")

    def pools(self) -> Mapping[str, Any]:
        """Memories of past fakes (`games.pool.Pool`), of which each process has its own."""
        return {}


@dataclass
class Adversarial(Game):
    """What most games are handed besides their players, and both sides of the objective."""

    objective: Objective
    noise: torch.Generator
    accumulate: int

    def loss_d(self, critic: Critic, x_real: Tensor, x_fake: Tensor, of: str = "") -> tuple[Tensor, Metrics]:
        """A critic's mean loss and, for the log, its mean outputs; `of` tells critics apart."""
        c = criticised(critic, x_real, x_fake)
        return per_sample(self.objective.d, c).mean(), shown(c, self.objective, of)

    def loss_g(self, critic: Critic, x_fake: Tensor, x_real: Tensor) -> Tensor:
        """The mean loss of who made x_fake; the critic sees x_real only where the loss compares with its scores."""
        fake = scores(critic(x_fake), len(x_fake))
        real = scores(critic(x_real), len(x_real)) if self.objective.g_uses_real else fake
        return per_sample(self.objective.g, Critique(real, fake)).mean()


class OneMove(Game):
    """A round is one move: all gradients are taken at one point, on one batch, then every player moves."""

    @abstractmethod
    def losses(self, part: Batch) -> Losses:
        """Of all players."""

    def round(self, *batches: Batch) -> Metrics:
        (batch,) = batches
        return with_jsd(move(batch, self.accumulate, self.losses))


class InTurns(Game):
    """A round is `n_critic` moves of the critics, each on a batch of its own, then one of the others on the last."""

    n_critic: int = 1
    made: list[Any]
    """What `losses_d` has made of each part, with its graph, where `losses_g` goes on with that."""

    def __post_init__(self) -> None:
        self.batches_per_round = self.n_critic

    @abstractmethod
    def losses_d(self, part: Batch) -> Losses:
        """Of the critics."""

    @abstractmethod
    def losses_g(self, part: Batch) -> Losses:
        """Of the others, against critics that have moved."""

    def round(self, *batches: Batch) -> Metrics:
        self.made = []
        for batch in batches:
            metrics = move(batch, self.accumulate, self.losses_d)
        return with_jsd(metrics | move(batches[-1], self.accumulate, self.losses_g))


SAMPLE = {"sample": Maker(("G",), {"z": "latent"}, "x", lambda G, z: G(z))}
"""What most games make: pictures G(z) from latents z (N, Z)."""
LABELLED = {"sample": Maker(("G",), {"z": "latent", "y": "y"}, "x", lambda G, z, y: G(z, y))}
"""Pictures G(z, y) for labels y (N,)."""
TRANSLATE = {
    "a2b": Maker(("AB",), {"a": "a"}, "b", lambda AB, a: AB(a)),
    "b2a": Maker(("BA",), {"b": "b"}, "a", lambda BA, b: BA(b)),
}
"""Each domain's pictures out of the other's."""
