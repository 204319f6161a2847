"""Augmentation of what critics see, real and generated pictures alike, differentiably: for sets of few pictures.

No game knows of it: a hook changes pictures on their way into a critic's network while it trains, whoever asks: the
critic itself, a generator that it judges, a penalty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from gansmith.games.critique import mean, scores
from gansmith.schema import Fraction
from gansmith.world import World

Change = Callable[[Tensor], Tensor]  # pictures (n, C, h, w) -> pictures; what happens to each sample is drawn already


class Draws:
    """Random numbers for n samples, from a generator on their device."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n, self.generator = n, generator

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """U(low, high), (n, 1, 1, 1)."""
        x = torch.rand(self.n, 1, 1, 1, generator=self.generator, device=self.generator.device)
        return low + (high - low) * x

    def integers(self, low: int, high: int) -> Tensor:
        """Uniform in low..high, both included, (n, 1, 1, 1)."""
        shape, device = (self.n, 1, 1, 1), self.generator.device
        return torch.randint(low, high + 1, shape, generator=self.generator, device=device)


def colour(draws: Draws, size: tuple[int, int]) -> Change:
    """Brightness, x + U(-1/2, 1/2); saturation, the distance from grey times U(0, 2); contrast times U(1/2, 3/2)."""
    brightness, saturation, contrast = draws.uniform(-0.5, 0.5), draws.uniform(0, 2), draws.uniform(0.5, 1.5)

    def change(x: Tensor) -> Tensor:
        x = x + brightness
        grey = x.mean(1, keepdim=True)
        x = grey + saturation * (x - grey)
        mean = x.mean((1, 2, 3), keepdim=True)
        return mean + contrast * (x - mean)

    return change


def translation(draws: Draws, size: tuple[int, int], *, ratio: Fraction = 0.125) -> Change:
    """Shifted by up to `ratio` of height and width, each way; 0, the middle of [-1, 1], comes in at the border."""
    h, w = size
    down, right = (draws.integers(-most, most) for most in (round(h * ratio), round(w * ratio)))
    rows = (torch.arange(h, device=down.device).view(1, 1, h, 1) - down).clamp(-1, h) + 1
    columns = (torch.arange(w, device=down.device).view(1, 1, 1, w) - right).clamp(-1, w) + 1
    n = torch.arange(draws.n, device=down.device).view(-1, 1, 1, 1)

    def change(x: Tensor) -> Tensor:
        channels = torch.arange(x.shape[1], device=x.device).view(1, -1, 1, 1)
        return pad(x, (1, 1, 1, 1))[n, channels, rows, columns]

    return change


def cutout(draws: Draws, size: tuple[int, int], *, ratio: Fraction = 0.5) -> Change:
    """A rectangle of `ratio` of height and width, around a place drawn anywhere, becomes 0."""
    h, w = size
    high, wide = round(h * ratio), round(w * ratio)
    top, left = (draws.integers(-(part // 2), side - 1 - part // 2) for part, side in ((high, h), (wide, w)))
    rows = torch.arange(h, device=top.device).view(1, 1, h, 1) - top
    columns = torch.arange(w, device=top.device).view(1, 1, 1, w) - left
    outside = ~((rows >= 0) & (rows < high) & (columns >= 0) & (columns < wide))
    return lambda x: x * outside


CHANGES: dict[str, Callable[..., Change]] = {"colour": colour, "translation": translation, "cutout": cutout}
"""DiffAugment's three policies: Zhao et al. 2020 (arXiv 2006.10738), section 3.2 and the authors' code."""


class Augment:
    """Changes, in their order, each of a picture with the probability p; all pictures of a sample change alike.

    With a `target`, p starts at 0 and adapts as ADA's does (Karras et al. 2020, arXiv 2006.06676, section 3.1): every 4
    rounds it grows where D's `overfitting` is above the target and shrinks where it is below, by 1 in `kimg` thousand
    images.
    """

    every = 4

    def __init__(
        self,
        critics: Iterable[nn.Module],
        changes: Sequence[Callable[..., Change]],
        noise: torch.Generator,
        *,
        target: float | None = None,
        kimg: float = 500.0,
        overfitting: Callable[[Mapping[str, Tensor]], Tensor] | None = None,
    ) -> None:
        self.changes, self.noise, self.target, self.kimg, self.overfitting = changes, noise, target, kimg, overfitting
        self.p = 1.0 if target is None else 0.0
        self._rounds, self._images = 0, 0
        self._signal: Tensor | float = 0.0
        for net in critics:
            net.register_forward_pre_hook(self._hook)

    def _hook(self, net: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Latents and labels stay; each pass draws anew."""
        seen = list(inputs)
        pictures = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.dim() == 4]
        if not net.training or not pictures or self.p == 0:
            return None
        n, _, *size = inputs[pictures[0]].shape
        draws = Draws(n, self.noise)
        for drawn in self.changes:
            change, chosen = drawn(draws, tuple(size)), draws.uniform() < self.p
            for i in pictures:
                seen[i] = change(seen[i]) if self.p == 1 else torch.where(chosen, change(seen[i]), seen[i])
        return tuple(seen)

    def after_round(self, metrics: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
        """Let p follow the signal of a round that has shown `images` to D; what to log."""
        if self.target is None or self.overfitting is None:
            return {}
        signal = self.overfitting(metrics)
        self._rounds, self._images, self._signal = self._rounds + 1, self._images + images, self._signal + signal
        if self._rounds == self.every:  # and only then the host waits for the device
            up = 1 if float(self._signal) / self.every > self.target else -1
            self.p = min(1.0, max(0.0, self.p + up * self._images / (1000 * self.kimg)))
            self._rounds, self._images, self._signal = 0, 0, 0.0
        return {"augment/p": torch.tensor(self.p), "augment/overfitting": signal}

    def state_dict(self) -> dict[str, Any]:
        return {"p": self.p, "rounds": self._rounds, "images": self._images, "signal": float(self._signal)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.p, self._rounds, self._images, self._signal = (state[k] for k in ("p", "rounds", "images", "signal"))


def sign_of_real(metrics: Mapping[str, Tensor]) -> Tensor:
    """ADA's r_t = E sign D(x), of the shares of real pictures that D takes for real."""
    return 2 * metrics["D/right_real"] - 1


@torch.no_grad()
def beside_unseen(
    critic: Callable[[Tensor], Any], unseen: Tensor, world: World, metrics: Mapping[str, Tensor]
) -> Tensor:
    """ADA's r_v = (E D(x) - E D(unseen)) / (E D(x) - E D(G(z))): 1 where D takes held-back pictures for generated."""
    score = mean(scores(critic(unseen), len(unseen)), lambda s: s)
    if world.reduce is not None:  # each process augments by its own draws
        score = world.reduce([score])[0] / world.size
    real, fake = metrics["D/real"], metrics["D/fake"]
    return torch.where(real == fake, 0.0, (real - score) / (real - fake))
