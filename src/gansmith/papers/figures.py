"""Figures of a run: those of the 2014 paper (arXiv 1406.2661), and looks at its networks and into its latent space."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from gansmith import checkpoint
from gansmith.build import Experiment, load_split, objective_of
from gansmith.engine import choose_device
from gansmith.errors import UserError
from gansmith.evaluation.measures import Images, Stored
from gansmith.games.critique import judge
from gansmith.inference import Pictures, Sampler, load, open_run
from gansmith.metrics.neighbours import nearest_of_parts
from gansmith.papers.density import Numbers, Stage, distance_of_d, jsd, pushforward, save_stages
from gansmith.papers.networks2014 import Maxout, MaxoutConv
from gansmith.papers.toy import TOYS, Mixture
from gansmith.priors import Codes, Normal, Prior, Uniform
from gansmith.recipe import Recipe, plan
from gansmith.run.export import LOOKED_AT, save_film, save_images
from gansmith.run.pictures import FILMS, enlarged, frames, grid, growth_gif, save_png, to_uint8
from gansmith.schema import did_you_mean


@dataclass(frozen=True)
class Source:
    """A run after one of its rounds, as a figure sees it."""

    run: Path
    recipe: Recipe
    sampler: Sampler
    round: int | Literal["best"]
    ema: bool
    device: str
    say: Callable[[str], None]

    def D(self) -> nn.Module:
        """D after the same round, in eval mode; UserError where the run has none."""
        opened = open_run(self.run, self.round, self.say)
        return opened.network("D", choose_device(self.device), ema=False)

    def after(self, round: int) -> Source:
        """The same run after another round that was kept."""
        sampler = load(self.run, round=round, ema=self.ema, device=self.device, say=self.say)
        return replace(self, sampler=sampler, round=round)


class Figure(NamedTuple):
    """A row: what draws it into a file, the seeds that it starts from (none: it takes none), the file's ending."""

    draw: Callable[[Source, Sequence[int], Path], None]
    seeds: Sequence[int] = ()
    suffix: str = ".png"


def figure(
    name: str,
    run: str | Path,
    *,
    out: str | Path | None = None,
    seeds: Sequence[int] | None = None,
    round: int | Literal["best"] | None = None,
    ema: bool = True,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> Path:
    """Draw the figure of a name in FIGURES from a run; returns where it lies: `out`, or a file in the run's folder.

    `seeds` are those of the z that it starts from; round, ema and device are as in `inference.load`. UserError for an
    unknown name, a file of another kind, seeds that do not fit, and a run that has not what the figure shows.
    """
    if name not in FIGURES:
        raise UserError(f"there is no figure {name!r}{did_you_mean(name, FIGURES)} (figures: {', '.join(FIGURES)})")
    row = FIGURES[name]
    fitting = FILMS if row.suffix in FILMS else (row.suffix,)
    if out is not None and (Path(out).suffix.lower() not in fitting or Path(out).is_dir()):
        raise UserError(f"--out {out}: the figure {name} is a file that ends in {' or '.join(fitting)}")
    if seeds is not None and not row.seeds:
        raise UserError(f"the figure {name} draws no samples, so it takes no seeds")
    sampler = load(run, kind="latent", round=round, ema=ema, device=device, say=say)
    at: int | Literal["best"] = "best" if round == "best" else sampler.round
    source = Source(Path(run), plan(run).recipe, sampler, at, ema, device, say)
    drawn = f"{sampler.round:06d}{'' if ema else '-raw'}{'' if seeds is None else f'-seeds-{_listed(seeds)}'}"
    path = Path(out) if out is not None else Path(run) / f"figure-{name}-{drawn}{row.suffix}"
    row.draw(source, row.seeds if seeds is None else seeds, path)
    return path


def _listed(seeds: Sequence[int]) -> str:
    """As one would say them: 0-19, or 3,5,8."""
    whole = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds)))
    return f"{seeds[0]}-{seeds[-1]}" if whole else ",".join(map(str, seeds))


# ---- samples ---------------------------------------------------------------------------------------------------

ROW = 5
"""Samples in a row of the paper's Figure 2."""


def samples(source: Source, seeds: Sequence[int], path: Path) -> None:
    """The paper's Figure 2: rows of five samples, seeds in order; framed, the training image nearest to the fifth."""
    if not seeds or len(seeds) % ROW:
        near = max(ROW, ROW * round(len(seeds) / ROW))
        raise UserError(f"samples has rows of {ROW} seeds and there are {len(seeds)}; the nearest is {near}")
    x = source.sampler.pixels(source.sampler.latents(seeds))
    found = nearest_training_images(source, x[ROW - 1 :: ROW])
    tiles = torch.cat([x.view(-1, ROW, *x.shape[1:]), found[:, None]], 1).flatten(0, 1)
    height, width = tiles.shape[2:]
    picture = framed(grid(to_uint8(tiles), ROW + 1), range(ROW, len(tiles), ROW + 1), ROW + 1, (height, width))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(enlarged(picture, max(1, LOOKED_AT // ((ROW + 1) * width))), path)


def framed(
    picture: Image.Image, tiles: Sequence[int], columns: int, size: tuple[int, int], pad: int = 2
) -> Image.Image:
    """A grid in colour, with a yellow frame in the gap around some of its tiles, each of `size` (H, W)."""
    picture = picture.convert("RGBA" if picture.mode == "RGBA" else "RGB")
    draw = ImageDraw.Draw(picture)
    height, width = size
    for i in tiles:
        top, left = i // columns * (height + pad), i % columns * (width + pad)
        box = (left, top, left + width + 2 * pad - 1, top + height + 2 * pad - 1)
        draw.rectangle(box, outline=(255, 213, 0), width=pad)
    return picture


def nearest_training_images(source: Source, x: Tensor) -> Tensor:
    """For each of x (M, C, H, W) in [0, 1] the training image nearest in pixels (Euclid)."""
    (data,) = load_split(source.recipe.data, "train", say=source.say)
    images = Images(Stored(data, source.recipe.data.values, np.arange(len(data))), None, x.device)
    _, found = nearest_of_parts(x.flatten(1).to(images.device), images.flat_parts())
    return torch.cat([images.pixels(slice(i, i + 1)) for i in found.tolist()]).to(x)


# ---- latent space ----------------------------------------------------------------------------------------------

STRIP = 13
"""Pictures in a row of `interpolation`: odd, so that a middle seed has its place."""
SIDE = 10
STOPS, STEPS = 4, 24
"""A stream of `walk` passes so many z, with so many frames from one to the next."""


def interpolation(source: Source, seeds: Sequence[int], path: Path) -> None:
    """The paper's Figure 3: rows of pictures along the prior's path from one seed to another.

    Two seeds to a row; of an odd number the last row goes through three, as the paper's does.
    """
    if len(seeds) < 2:
        raise UserError(f"interpolation needs at least two seeds, such as 0,7, and there are {len(seeds)}")
    rows = [list(seeds[i : i + 2]) for i in range(0, len(seeds) - 1, 2)]
    rows[-1] += seeds[2 * len(rows) :]
    strips = []
    for row in rows:
        legs = source.sampler.interpolate(row, (STRIP - 1) // (len(row) - 1) + 1)
        strips += [*(leg[:-1] for leg in legs[:-1]), legs[-1]]
    save_images(np.concatenate(strips), path, columns=STRIP)


def plane(source: Source, seeds: Sequence[int], path: Path) -> None:
    """z = a u + b v on 10 by 10 points, a to the right and b upward from -1 to 1; u and v are the z of two seeds.

    Of a prior with codes the noise alone moves; the codes are those of the first seed.
    """
    if len(seeds) != 2:
        raise UserError(f"plane is spanned by two seeds, such as 0,1, and there are {len(seeds)}")
    u, v = source.sampler.latents(seeds)
    t = torch.linspace(-1, 1, SIDE, dtype=u.dtype, device=u.device)
    z = (t[None, :, None] * u + t.flip(0)[:, None, None] * v).flatten(0, 1)
    if isinstance(source.sampler.prior, Codes):
        width = source.sampler.prior.noise.width
        z[:, width:] = u[width:]
    save_images(to_uint8(source.sampler.pixels(z)), path, columns=SIDE)


def walk(source: Source, seeds: Sequence[int], path: Path) -> None:
    """A film that loops: one stream per seed, on the prior's paths from the seed's z through three more and back."""
    if not seeds:
        raise UserError("walk needs at least one seed")
    sampler = source.sampler
    t = torch.arange(STEPS, dtype=sampler.dtype) / STEPS
    streams: list[Pictures] = []
    for seed in seeds:
        stream = torch.Generator().manual_seed(seed)  # its first draw is `sampler.latents([seed])`
        stops = [sampler.prior.sample(1, stream, sampler.dtype)[0] for _ in range(STOPS)]
        legs = zip(stops, [*stops[1:], stops[0]], strict=True)
        streams.append(to_uint8(sampler.pixels(torch.cat([sampler.prior.between(a, b, t) for a, b in legs]))))
    save_film(np.stack(streams, 1), path, columns=math.ceil(math.sqrt(len(seeds))))


# ---- weights ---------------------------------------------------------------------------------------------------

ROWS, COLUMNS = 12, 10
"""So many units of a layer are shown: rows of a maxout layer, else rows and columns."""
_TALL = 900  # pixels: a block of weights is enlarged to at most this height
_DARK, _LIGHT = 17, 221  # of the captions, as under a film


def weights(source: Source, seeds: Sequence[int], path: Path) -> None:
    """Weights as patches: those into D's first layer, beside those out of the units before G's last layer.

    Each patch is divided by its own largest weight: grey is 0, white or black the strongest. The first units are shown.
    """
    data = source.recipe.data
    if data.values == "raw":
        raise UserError("these networks see numbers, not pictures: gansmith figure density RUN draws them")
    shape = (data.channels, *data.size)
    into, out = first_layer(source.D(), shape), last_layer(source.sampler.nets[0], shape)
    maxout = into.shape[1] > 1
    how = "row: unit, column: piece" if maxout else "one patch per unit"
    left = _block(["D: into the first layer", how], into, columns=into.shape[1] if maxout else COLUMNS)
    right = _block(["G: into the last layer", "one patch per unit"], out, columns=COLUMNS)
    page = Image.new("RGB", (left.width + right.width + 16, max(left.height, right.height)), (_DARK,) * 3)
    page.paste(left, (0, 0))
    page.paste(right, (left.width + 16, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(page, path)


def first_layer(net: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """The weights into the first layer that has any, as patches (U, P, C, h, w) of U units with P maxout pieces each.

    A unit of a fully connected layer has a patch of the image's `shape`, a convolution's its kernel's. UserError where
    the first layer does not see pixels.
    """
    for module in net.modules():
        if isinstance(module, Maxout):  # piece p of unit u is row p U + u
            patches = _as_images(module.linear, module.linear.weight, shape)
            return patches.view(module.pieces, -1, *shape).transpose(0, 1)
        if isinstance(module, MaxoutConv):  # piece p of map m is channel m P + p
            patches = _as_images(module.conv, module.conv.weight, shape)
            return patches.view(-1, module.pieces, *patches.shape[1:])
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            return _as_images(module, module.weight, shape)[:, None]
    raise UserError(f"{type(net).__name__} has no fully connected layer or convolution to draw")


def last_layer(net: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """The weights out of the units (or maps) before the last layer that has any, as patches (U, 1, C, h, w)."""
    layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))]
    if not layers:
        raise UserError(f"{type(net).__name__} has no fully connected layer or convolution to draw")
    last = layers[-1]
    per_unit = last.weight if isinstance(last, nn.ConvTranspose2d) else last.weight.transpose(0, 1)
    return _as_images(last, per_unit, shape)[:, None]


def _as_images(layer: nn.Module, per_unit: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Weights (U, ...) as patches (U, C, h, w)."""
    images = per_unit.detach()
    if isinstance(layer, nn.Linear) and images.shape[1] == math.prod(shape):
        images = images.reshape(-1, *shape)
    if images.dim() != 4 or images.shape[1] != shape[0]:
        wanted = " x ".join(map(str, shape))
        raise UserError(f"the weights of {layer} cannot be drawn: they do not lead from or to images of {wanted}")
    return images


def _block(caption: Sequence[str], patches: Tensor, *, columns: int) -> Image.Image:
    """Patches (U, P, C, h, w), as many as fit into ROWS, each scaled to its own largest weight, under a caption."""
    some = patches.flatten(0, 1)[: ROWS * columns, :3].float()  # of RGBA the colours
    largest = some.abs().amax((1, 2, 3), keepdim=True)
    unit = (some / torch.where(largest == 0, 1.0, largest) + 1) / 2
    picture = grid(to_uint8(unit), columns, pad=2 if unit.shape[3] > 8 else 1, background=_DARK)
    picture = enlarged(picture, max(1, _TALL // ((picture.height // -(-len(unit) // columns)) * ROWS)))
    font = ImageFont.load_default(15)
    line = 20
    width = max(picture.width, *(int(font.getlength(text)) + 8 for text in caption))
    page = Image.new("RGB", (width, picture.height + line * len(caption) + 8), (_DARK,) * 3)
    for i, text in enumerate(caption):
        ImageDraw.Draw(page).text((4, 4 + i * line), text, fill=(_LIGHT,) * 3, font=font)
    page.paste(picture, (0, page.height - picture.height))
    return page


# ---- density ---------------------------------------------------------------------------------------------------

CELLS = 400
PIECES = 1024
DRAWS = 100_000
ARROWS = 20


def density(source: Source, seeds: Sequence[int], path: Path) -> None:
    """The paper's Figure 1: the four stages of a training on the line, out of the checkpoints that the run keeps."""
    (data,) = load_split(source.recipe.data, "train", say=source.say)
    if data.density is None or data.density.dim > 1:
        raise UserError(
            f"{source.run} is trained on {data.name}; density draws runs on"
            f" {', '.join(name for name, toy in TOYS.items() if toy.dim == 1)}: gansmith train figure1"
        )
    kept = (int(p.name) for p in checkpoint.everything(source.run / "checkpoints"))
    judged = gives_probability(source.recipe)
    stages = []
    for number in sorted(n for n in kept if n <= source.sampler.round):
        there = source.after(number)
        stages.append(stage(there.sampler, there.D() if judged else None, data.density, number))
    chosen = four_stages(stages)
    titles = [f"({'abcd'[i]}) round {s.round}: {text}\n{numbers(s)}" for i, (s, text) in enumerate(chosen)]
    save_stages([s for s, _ in chosen], titles, path)


def four_stages(stages: Sequence[Stage]) -> list[tuple[Stage, str]]:
    """Of stages in order: the first; where D is nearest to D* while G has hardly moved; where G has followed; the last.

    G has hardly moved while the Jensen-Shannon divergence is above 2/3 of the first one, and has followed when it
    falls below 1/3. What a run does not show is left out.
    """
    first, last = stages[0], stages[-1]
    start = jsd(first)
    chosen = [(first, "the start")]
    early = [s for s in stages[1:-1] if jsd(s) > start * 2 / 3]
    if early and first.d is not None:
        chosen.append((min(early, key=distance_of_d), "D comes near D*"))
    later = [s for s in stages[1:-1] if s.round > chosen[-1][0].round and jsd(s) < start / 3]
    chosen += [(s, "G has followed D") for s in later[:1]]
    return [*chosen, (last, "the end")] if len(stages) > 1 else chosen


def numbers(stage: Stage) -> str:
    """What a stage amounts to, for its title."""
    away = "" if stage.d is None else f", |D \N{MINUS SIGN} D*| {distance_of_d(stage):.3f}"
    return f"JSD {jsd(stage):.3f}{away}"


def gives_probability(recipe: Recipe) -> bool:
    """Whether sigmoid(score) is the D(x) of the 2014 paper."""
    return recipe.objective is not None and objective_of(recipe).probability


def save_growth(recipe: Recipe, experiment: Experiment, sampler: Sampler, round: int, path: Path) -> None:
    """What a run on a toy set shows in place of samples: the densities, and D, after a round."""
    p_data, game = experiment.stream.sets[0].density, experiment.game
    assert p_data is not None
    D = copy.copy(getattr(game, game.critics[0]).net) if gives_probability(recipe) else None
    now = stage(sampler, D, p_data, round)
    save_stages([now], [numbers(now)], path)


@torch.no_grad()
def stage(sampler: Sampler, D: nn.Module | None, p_data: Mixture, round: int) -> Stage:
    """G and D of one moment on the line; leaves D in the mode that it was in.

    p_g follows from the change of variables: each of `PIECES` pieces of z is laid where G maps its ends, which is exact
    up to the bend of G within a piece. Of a z of more than one number it is a histogram of `DRAWS` samples.
    """
    low, high = p_data.window
    edges = np.linspace(low, high, CELLS + 1)
    x = (edges[1:] + edges[:-1]) / 2
    line = _line(sampler.prior)
    if line is not None:
        g = _numbers(sampler.generate(torch.from_numpy(line.z)[:, None]))
        starts, ends, mass = g[:-1], g[1:], line.mass
        heads, feet = np.interp(line.arrows, line.z, g), (line.arrows / line.reach + 1) / 2
    else:
        z = sampler.prior.sample(DRAWS, torch.Generator().manual_seed(0), sampler.dtype)
        starts = ends = _numbers(sampler.generate(z))
        mass, heads, feet = np.full(DRAWS, 1 / DRAWS), np.empty(0), np.empty(0)
    d = None
    if D is not None:
        points = torch.from_numpy(x).view(-1, 1, 1, 1).to(sampler.device, sampler.dtype)
        d = _numbers(torch.sigmoid(judge(D, points)))
    return Stage(round, x, p_data(x[:, None]), pushforward(starts, ends, mass, edges), d, feet, heads)


class _Line(NamedTuple):
    """A prior of one number, cut into pieces."""

    z: Numbers
    """(n + 1,), the ends of the pieces"""
    mass: Numbers
    """(n,), the prior's share of each piece"""
    arrows: Numbers
    """(A,), z in the middle of `ARROWS` equal shares of the prior"""
    reach: float
    """Pictures show z from -reach to reach."""


def _line(prior: Prior) -> _Line | None:
    """None where z is more than one number."""
    shares = (np.arange(ARROWS) + 0.5) / ARROWS
    if isinstance(prior, Uniform) and prior.width == 1:
        z = np.linspace(-prior.bound, prior.bound, PIECES + 1)
        return _Line(z, np.full(PIECES, 1 / PIECES), (2 * shares - 1) * prior.bound, prior.bound)
    if isinstance(prior, Normal) and prior.width == 1:
        z = np.linspace(-5, 5, PIECES + 1)  # beyond lies less than a millionth
        below = torch.special.ndtr(torch.from_numpy(z)).numpy()
        return _Line(z, np.diff(below), torch.special.ndtri(torch.from_numpy(shares)).numpy(), 3.0)
    return None


def growth(source: Source, seeds: Sequence[int], path: Path) -> None:
    """The film of the run's own growth pictures up to the round, as the training itself draws it at its end."""
    if not source.ema:
        raise UserError("the figure growth joins pictures that the training has drawn; it takes no --raw")
    path.parent.mkdir(parents=True, exist_ok=True)
    growth_gif([frame for frame in frames(source.run) if int(frame.stem) <= source.sampler.round], path)
    if not path.exists():
        raise UserError(f"{source.run / 'growth'} holds no pictures to make a film of")


def _numbers(x: Tensor) -> Numbers:
    return x.detach().flatten().double().cpu().numpy()


FIGURES: dict[str, Figure] = {
    "samples": Figure(samples, range(4 * ROW)),
    "interpolation": Figure(interpolation, range(5)),
    "plane": Figure(plane, range(2)),
    "walk": Figure(walk, range(36), ".gif"),
    "weights": Figure(weights),
    "density": Figure(density),
    "growth": Figure(growth, (), ".gif"),
}
