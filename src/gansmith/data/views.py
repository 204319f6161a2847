"""Views: what is done to the pictures of a batch on their way in. A table, like the others.

A view is a function of the batch's fields, as the networks see them, and of random draws that follow from the seed and
the position of the batch. It gives the fields back, changed, and remembers nothing. Its keyword-only parameters, with
literal defaults, are its keys in a recipe.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gansmith.batch import NOT_PICTURES
from gansmith.data.prepare import Needs
from gansmith.errors import UserError
from gansmith.schema import Fraction, PositiveInt, Range

Fields = dict[str, Tensor]
Scale = Annotated[int, Range(2, 8)]
Enlarged = Annotated[float, Range(1)]
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's grey


class Draws:
    """Random numbers for a batch of `size` samples, of which this process has `rows`.

    They are drawn for the whole batch from (seed, position), then cut: several processes see what one alone would.
    """

    def __init__(self, seed: int, position: int, size: int, rows: slice, device: torch.device) -> None:
        digest = hashlib.sha256(f"gansmith views {seed} {position}".encode()).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        self.size, self.rows, self.device = size, rows, device

    def uniform(self, *shape: int) -> Tensor:
        """U(0, 1) for each sample here: (n, *shape), float32."""
        return self._here(torch.rand(self.size, *shape, generator=self._generator))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform in 0..high-1 for each sample here: (n, *shape), int64."""
        return self._here(torch.randint(high, (self.size, *shape), generator=self._generator))

    def _here(self, drawn: Tensor) -> Tensor:
        own = drawn[self.rows]
        if self.device.type != "cuda":
            return own.to(self.device)
        # From other memory the host would wait until the device has done all that is queued.
        return own.pin_memory().to(self.device, non_blocking=True)


def flip(fields: Fields, draws: Draws, *, of: Sequence[str] = ("x",)) -> Fields:
    """Left and right change places in every second sample, drawn at random; alike in all fields `of` a sample."""
    mirrored = (draws.uniform() < 0.5).view(-1, 1, 1, 1)
    return {**fields, **{name: torch.where(mirrored, fields[name].flip(3), fields[name]) for name in of}}


def jitter(fields: Fields, draws: Draws, *, of: Sequence[str] = ("x",), scale: Enlarged = 1.1171875) -> Fields:
    """Enlarged bilinearly to `scale` times, then cut back to size at a random place; alike in all fields `of` a sample.

    286 / 256 by default. Source: Isola et al. 2017 (arXiv 1611.07004), section 6.2.
    """
    h, w = fields[of[0]].shape[2:]
    large = round(h * scale), round(w * scale)
    top, left = draws.integers(large[0] - h + 1), draws.integers(large[1] - w + 1)
    rows = (top.view(-1, 1) + torch.arange(h, device=top.device)).view(-1, 1, h, 1)
    columns = (left.view(-1, 1) + torch.arange(w, device=top.device)).view(-1, 1, 1, w)
    out = dict(fields)
    for name in of:
        x = interpolate(fields[name], size=large, mode="bilinear", align_corners=False)
        n, c = torch.arange(len(x), device=x.device), torch.arange(x.shape[1], device=x.device)
        out[name] = x[n.view(-1, 1, 1, 1), c.view(1, -1, 1, 1), rows, columns]
    return out


def grey(fields: Fields, draws: Draws, *, of: str = "b", to: str = "a") -> Fields:
    """The field `to` is the luminance of `of`, 0.299 R + 0.587 G + 0.114 B, in each of its three colours.

    So any set of pictures serves as pairs, to learn colouring. Alpha stays; grey pictures stay as they are.
    """
    x = fields[of]
    if x.shape[1] < 3:
        return {**fields, to: x.clone()}
    red, green, blue = (share * x[:, i : i + 1] for i, share in enumerate(LUMA))
    luminance = red + green + blue
    return {**fields, to: torch.cat([luminance.expand(-1, 3, -1, -1), x[:, 3:]], 1)}


def low(fields: Fields, draws: Draws, *, of: str = "x", to: str = "low", scale: Scale = 4) -> Fields:
    """The field `to` is `of` at 1 / scale of its size, by an antialiasing bicubic filter, within the picture's range.

    What a super-resolver starts from: Ledig et al. 2017 (arXiv 1609.04802), section 3.2.
    """
    x = fields[of]
    h, w = x.shape[2:]
    if h % scale or w % scale:
        raise UserError(f"views: the pictures are {h},{w}, and low has scale {scale}: it must divide both")
    small = interpolate(x, size=(h // scale, w // scale), mode="bicubic", align_corners=False, antialias=True)
    return {**fields, to: small.clamp(x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True))}


def hole(
    fields: Fields,
    draws: Draws,
    *,
    of: str = "x",
    to: str = "holed",
    mask: str = "mask",
    share: Fraction = 0.5,
    place: Literal["centre", "random"] = "random",
    fill: float = 0.0,
    coarse: PositiveInt = 1,
) -> Fields:
    """`mask` (N, 1, H, W) is 1 in a rectangle of `share` of height and width, else 0; `to` is `of` with `fill` there.

    Or, with `coarse` above 1, what is left there is the picture at 1 / coarse of its resolution. A mask that is there
    already stays, as where a user gives one.
    """
    x = fields[of]
    h, w = x.shape[2:]
    if mask not in fields:
        high, wide = max(1, round(h * share)), max(1, round(w * share))
        free = h - high + 1, w - wide + 1
        top, left = (draws.integers(n) for n in free) if place == "random" else (x.new_full((), n // 2) for n in free)
        rows = torch.arange(h, device=x.device).view(1, 1, h, 1) - top.view(-1, 1, 1, 1)
        columns = torch.arange(w, device=x.device).view(1, 1, 1, w) - left.view(-1, 1, 1, 1)
        inside = (rows >= 0) & (rows < high) & (columns >= 0) & (columns < wide)
        fields = {**fields, mask: inside.to(x.dtype).expand(len(x), 1, h, w)}
    left = torch.full_like(x, fill)
    if coarse > 1:
        small = interpolate(x, size=(max(1, h // coarse), max(1, w // coarse)), mode="area")
        left = interpolate(small, size=(h, w), mode="bilinear", align_corners=False)
    return {**fields, to: torch.where(fields[mask] > 0, left, x)}


class View(NamedTuple):
    """A row of the table."""

    function: Callable[..., Fields]
    augments: bool  # whether it only varies what is trained on
    makes: tuple[str, ...] = ()  # the keys that name the fields it makes, the picture first
    given: bool = True  # whether a picture that a user gives for that field goes through it, too


VIEWS: dict[str, View] = {
    "flip": View(flip, augments=True),
    "jitter": View(jitter, augments=True),
    "grey": View(grey, augments=False, makes=("to",)),
    "low": View(low, augments=False, makes=("to",), given=False),
    "hole": View(hole, augments=False, makes=("to", "mask")),
}


def to_load(needs: Needs, views: Iterable[tuple[View, Mapping[str, Any]]]) -> Needs:
    """What of `needs` the data must give, since the views, each with its keys, make the rest.

    UserError where a view looks at a field that is not there.
    """
    rows = [(view, keys_of(view, keys)) for view, keys in views]
    made = {keys[key] for view, keys in rows for key in view.makes}
    left = tuple(tuple(name for name in fields if name not in made) for fields in needs)
    there = {name for fields in left for name in fields}
    for i, (view, keys) in enumerate(rows):
        own = keys.get("of", ())
        of = [own] if isinstance(own, str) else [*own]
        pictures = sorted(there - {*NOT_PICTURES})
        if wrong := [name for name in of if name not in pictures] or ["nothing"] * ("of" in keys and not of):
            raise UserError(f"views[{i}].of names {wrong[0]}; it may name {' and '.join(pictures)}")
        there |= {keys[key] for key in view.makes}
    return left


def keys_of(view: View, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys with their defaults."""
    parameters = inspect.signature(view.function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} | dict(keys)
