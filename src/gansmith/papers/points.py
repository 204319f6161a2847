"""Pictures of points in the plane over their density, with what D says of every place behind them."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from gansmith.build import game_of, objective_of
from gansmith.data.values import VALUES
from gansmith.errors import UserError
from gansmith.games.critique import judge
from gansmith.inference import Opened, Sampler
from gansmith.papers.toy import GOOD, TOYS, Mixture, Numbers
from gansmith.recipe import Recipe
from gansmith.run.atomic import replacing
from gansmith.run.pictures import save_png

POINTS = 2000
"""So many are shown."""
SIDE = 480
"""Pixels of a picture."""
FIELD = 96
"""D is asked in the middles of so many cells along each axis."""
_FAKE, _MIDDLE, _REAL = (22, 72, 140), (20, 20, 26), (138, 42, 50)  # what D says
_DATA, _POINTS = (255, 255, 255), (255, 228, 122)
_RADIUS = 1.5  # of a point, in pixels
_OPAQUE = 0.75  # where it lies alone
_NEAR = np.arange(-2, 3)


def over_density(x: Tensor, D: nn.Module, recipe: Recipe, density: Mixture) -> Image.Image:
    """Points (N, 1, 1, 2) over their density and D(x): a probability from 0 to 1, else the scores about their median.

    Scores have no scale of their own: that of the picture is the deviation that 2 of 100 cells exceed.
    """
    weight = next(D.parameters())
    mesh = torch.from_numpy(density.mesh(FIELD)).view(-1, 1, 1, 2).to(weight.device, weight.dtype)
    said = judge(D, mesh).double().cpu()
    objective = None if recipe.objective is None else objective_of(recipe)
    if objective is not None and objective.probability:
        verdict = 2 * objective.output(said) - 1
    else:
        away = said - said.median()
        verdict = away / away.abs().quantile(0.98).clamp(min=1e-12)
    return draw_points(x.flatten(1).double().cpu().numpy(), density, verdict.view(FIELD, FIELD).numpy())


def save_points(opened: Opened, sampler: Sampler, seeds: Sequence[int], path: Path) -> None:
    """The points of these seeds, as a picture over their density, with D, or as .npz: `points` (N, dim) and `seeds`.

    UserError for another ending, and for a picture of numbers on the line.
    """
    suffix, recipe = path.suffix.lower(), opened.recipe
    if suffix not in (".png", ".npz") or path.is_dir():
        raise UserError(f"{path}: it must be a file that ends in .png (a picture) or .npz (an array)")
    x = sampler.generate(sampler.latents(seeds))
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".npz":
        with replacing(path) as part, part.open("wb") as file:
            np.savez_compressed(file, points=x.flatten(1).cpu().numpy(), seeds=np.array(seeds))
        return
    if recipe.data.size != (1, 2):
        VALUES["raw"].to_unit(x)  # raises, and says what draws them
    D = opened.network(game_of(recipe).critics[0], x.device, ema=False)
    save_png(over_density(x, D, recipe, TOYS[recipe.data.name]), path)


def draw_points(x: Numbers, density: Mixture, verdict: Numbers) -> Image.Image:
    """Points (N, 2); D's verdict (FIELD, FIELD) on each cell of the window, from -1, fake, to 1, real.

    A ring around each mean holds the good samples. The text says how many modes have one, and the share of them.
    """
    behind = Image.fromarray(np.clip(verdict, -1, 1).astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    said = np.asarray(behind)
    canvas = np.stack([np.interp(said, (-1, 0, 1), ends) for ends in zip(_FAKE, _MIDDLE, _REAL, strict=True)], 2)
    for colour, share in ((_DATA, _rings(density)), (_POINTS, _cover(x, density.window))):
        canvas += share[..., None] * (np.array(colour) - canvas)
    picture = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    hits = density.hits(x)
    text = f"{(hits > 0).sum()} of {len(hits)} modes, {hits.sum() / len(x):.0%} good"
    font = ImageFont.load_default(14)
    ImageDraw.Draw(picture).text((8, 6), text, fill=(221,) * 3, font=font, stroke_width=2, stroke_fill=_MIDDLE)
    return picture


@lru_cache(maxsize=4)
def _rings(density: Mixture) -> Numbers:
    """How much of each pixel (SIDE, SIDE) p_data covers: softly where it is high, and a rim around what is good."""
    away = density.distances(density.mesh(SIDE)).min(1).reshape(SIDE, SIDE)
    low, high = density.window
    rim = np.abs((away - GOOD) * density.deviation * SIDE / (high - low) - 2 * _RADIUS)  # around the discs, too
    return np.maximum(0.8 * np.clip(1.2 - rim, 0, 1), 0.5 * np.exp(-(away**2) / 4))


def _cover(x: Numbers, window: tuple[float, float]) -> Numbers:
    """How much of each pixel (SIDE, SIDE) the points cover: discs with smooth rims, denser where several lie."""
    low, high = window
    scale = SIDE / (high - low)
    at = np.stack([(x[:, 0] - low) * scale, (high - x[:, 1]) * scale], 1) - 0.5  # of pixels' middles
    at = at[((at > -0.5) & (at < SIDE - 0.5)).all(1)]
    clear = np.zeros((SIDE + 4, SIDE + 4))  # log of what shines through; two pixels more on each side
    whole = at.round().astype(np.int64)
    for dx in _NEAR:
        for dy in _NEAR:
            away = np.hypot(*(whole + (dx, dy) - at).T)
            seen = _OPAQUE * np.clip(_RADIUS + 0.5 - away, 0, 1)
            np.add.at(clear, (whole[:, 1] + dy + 2, whole[:, 0] + dx + 2), np.log1p(-seen))
    return 1 - np.exp(clear[2:-2, 2:-2])
