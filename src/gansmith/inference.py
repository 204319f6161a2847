"""Load a run and make pictures: samples by seed, paths between them, code traversals, translations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, InitVar, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gansmith import checkpoint, hub
from gansmith.build import Classes, averaged, build_network, build_prior, derive_seed, game_of, input_view
from gansmith.cuda_math import cuda_math
from gansmith.data.attributes import wished
from gansmith.data.values import VALUES
from gansmith.engine import choose_device
from gansmith.errors import UserError
from gansmith.games.critique import evaluating
from gansmith.games.game import SAMPLE, Game, Maker
from gansmith.priors import Codes, Prior
from gansmith.recipe import Recipe, is_run, plan, recipe_names
from gansmith.run.folder import check_links
from gansmith.run.pictures import to_uint8
from gansmith.schema import did_you_mean

CHUNK = 64  # rows of every forward pass over latents: a sample does not depend on how many are asked for
TILE = 256  # side in pixels of the parts in which a network that allows it makes large pictures
BLOCK = 1000  # latents that `draw` takes from one random stream, all of them or not

Pictures = NDArray[np.uint8]
Round = int | Literal["best"] | None  # of a checkpoint, the best kept, or None for the newest
Labels = int | Sequence[int] | None
Kind = Literal["latent", "pictures", "style"]  # what a maker is given: latents, pictures and perhaps more, or two


@dataclass(eq=False, repr=False)
class Sampler:
    """One way of a trained game to make pictures, in eval mode; nothing it makes depends on what else is asked for.

    The same seed gives the same picture. The networks are those that its maker takes, in order, or a single one.
    """

    networks: InitVar[nn.Module | Sequence[nn.Module]]
    prior: Prior
    _: KW_ONLY
    maker: Maker = SAMPLE["sample"]
    values: str = "signed"  # what the networks' pictures mean: a row of `data.values.VALUES`
    classes: Classes = Classes()
    shape: tuple[int, int, int] | None = None  # (C, H, W) of the pictures that it was trained on
    view: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    """What the fields that a user gives become before the networks see them."""
    round: int = 0  # after which the weights were saved
    averaged: bool = False  # whether these are the moving average of the weights
    digest: str = ""  # the beginning of the sha256 of the checkpoint's tensors, if they come from one

    def __post_init__(self, networks: nn.Module | Sequence[nn.Module]) -> None:
        self.nets = (networks,) if isinstance(networks, nn.Module) else tuple(networks)
        parameter = next(self.nets[0].parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    def __repr__(self) -> str:
        what = ", ".join(self.maker.inputs.values())
        weights = "averaged weights" if self.averaged else "weights"
        return f"Sampler({what} -> {self.maker.imitates}, {weights} of round {self.round}, {self.device})"

    # ---- from latents

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """z (N, Z): each seed has a random stream of its own, drawn on the CPU so that it is the same everywhere."""
        draws = [self.prior.sample(1, torch.Generator().manual_seed(seed), self.dtype) for seed in seeds]
        return torch.cat(draws).to(self.device)

    @torch.no_grad()
    def generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """G(z) or G(z, y) (N, C, H, W), as networks see images; leaves the networks in the modes that they were in."""
        if self.maker.pictures:
            raise UserError(f"{self!r} makes pictures from pictures: use translate")
        if self.maker.labelled and labels is None:
            raise UserError("this generator asks for labels, one for each latent")
        fields = {"latent": z.to(self.device, self.dtype)}
        if labels is not None:
            fields["y"] = labels.to(self.device)
        missing = -len(z) % CHUNK
        fields = {f: torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) for f, x in fields.items()}
        made = []
        with self._evaluating():
            for start in range(0, len(z), CHUNK):
                made.append(self._make({f: x[start : start + CHUNK] for f, x in fields.items()}))
                if made[-1].dim() != 4 or len(made[-1]) != CHUNK:
                    found = tuple(made[-1].shape)
                    raise UserError(f"G returned {found} for {CHUNK} latents; it must be ({CHUNK}, C, H, W)")
        return torch.cat(made)[: len(z)]

    def _make(self, fields: Mapping[str, Tensor]) -> Tensor:
        return self.maker.make(*self.nets, **{name: fields[field] for name, field in self.maker.inputs.items()})

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        # Else cuDNN rounds to TF32 by default, and other pictures would come out than during training.
        with evaluating(*self.nets), cuda_math(tf32=False):
            yield

    def labels(self, labels: Labels, seeds: Sequence[int]) -> Tensor | None:
        """The labels (N,) of seeds: one for all, one for each, or, where nothing is said, seed modulo classes."""
        k = len(self.classes.names)
        if not self.maker.labelled and labels is not None:
            raise UserError("this generator has no labels: it was trained without")
        if not self.maker.labelled:
            return None
        chosen = [seed % k for seed in seeds] if labels is None else labels
        chosen = [int(chosen)] * len(seeds) if isinstance(chosen, (int, np.integer)) else [int(y) for y in chosen]
        if len(chosen) != len(seeds) or not all(0 <= y < k for y in chosen):
            raise UserError(f"labels are {labels}; they must be one for all, or one for each seed, from 0 to {k - 1}")
        return torch.tensor(chosen, device=self.device)

    def draw(self, n: int, seed: int) -> Tensor:
        """n fair draws (n, C, H, W) in [0, 1], not rounded, on the CPU; fewer of one seed are the first of these.

        Labels are drawn as often as the training images have them. Raw values are not brought to [0, 1].
        """
        make = self.generate if self.values == "raw" else self.pixels
        parts = []
        for start in range(0, n, BLOCK):
            stream = torch.Generator().manual_seed(derive_seed(seed, 3, start // BLOCK))
            z, labels = self.prior.sample(BLOCK, stream, self.dtype), None
            if self.maker.labelled:
                often = torch.tensor(self.classes.counts, dtype=torch.float64)
                labels = torch.multinomial(often, BLOCK, replacement=True, generator=stream)
            here = min(BLOCK, n - start)
            parts.append(make(z[:here], None if labels is None else labels[:here]).cpu())
        return torch.cat(parts)

    def pixels(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [0, 1], not rounded, from z (N, Z)."""
        return self._to_unit(self.generate(z, labels))

    def _to_unit(self, images: Tensor) -> Tensor:
        if images.dtype != torch.float64:
            images = images.float()  # half precision has too few digits for 256 levels
        return VALUES[self.values].to_unit(images)

    def sample(self, seeds: int | Sequence[int] = range(64), labels: Labels = None) -> Pictures:
        """Pictures (N, C, H, W), uint8, one per seed; a number n of seeds means the first n."""
        seeds = range(seeds) if isinstance(seeds, int) else seeds
        if len(seeds) == 0:
            raise UserError("no seeds were given; ask for at least one, such as 0-63")
        return to_uint8(self.pixels(self.latents(seeds), self.labels(labels, seeds)))

    def interpolate(self, seeds: Sequence[int], frames: int = 10, label: int | None = None) -> Pictures:
        """The paths from each seed to the next, ends included: (len(seeds) - 1, frames, C, H, W), uint8."""
        if len(seeds) < 2 or frames < 2:
            raise UserError(f"{len(seeds)} seed(s), {frames} frame(s): a path needs two seeds and two frames")
        z = self.latents(seeds)
        t = torch.linspace(0, 1, frames, device=self.device, dtype=self.dtype)
        paths = torch.cat([self.prior.between(a, b, t) for a, b in zip(z, z[1:], strict=False)])
        label = 0 if label is None and self.maker.labelled else label
        told = self.labels(label, range(len(paths)))
        pictures = to_uint8(self.pixels(paths, told))
        return pictures.reshape(len(seeds) - 1, frames, *pictures.shape[1:])

    def traverse(self, name: str, seeds: Sequence[int] = range(10), columns: int = 10) -> Pictures:
        """For each seed one part of z through its values, all else as it is: (len(seeds), columns, C, H, W), uint8."""
        names = self.prior.traversals()
        if not isinstance(self.prior, Codes) or name not in names:
            plain = "its z is plain noise (infogan and cluster_gan have codes)"
            have = f"it has {', '.join(names)}" if names else plain
            raise UserError(f"this generator has no code {name!r}: {have}")
        z = self.prior.traverse(self.latents(seeds), name, columns)
        pictures = to_uint8(self.pixels(z.flatten(0, 1)))
        return pictures.reshape(*z.shape[:2], *pictures.shape[1:])

    # ---- from pictures

    @torch.no_grad()
    def translated(self, pictures: Mapping[str, Tensor], seeds: Sequence[int]) -> Tensor:
        """Made pictures (N, C, H, W) in [0, 1], from fields of pictures as networks see them, each by itself.

        What the networks draw meanwhile, as with dropout, follows from the picture's seed; torch's own stream stays.
        """
        if self.maker.classifies:
            raise UserError(f"{self!r} tells classes: use logits")
        if not self.maker.pictures:
            raise UserError(f"{self!r} makes pictures from latents: use sample")
        made = []
        cuda = [self.device] if self.device.type == "cuda" else []
        with self._evaluating(), torch.random.fork_rng(devices=cuda):
            for i, seed in enumerate(seeds):
                torch.manual_seed(seed)
                made.append(self._to_unit(self._tiled(self._inputs(pictures, i, seed))))
        return torch.cat(made)

    def _tiled(self, fields: Mapping[str, Tensor]) -> Tensor:
        """What is made of one picture, tile by tile where it is large and the network says how far it looks.

        `reach` is how many pixels away an input pixel can change what is made. With such a border around each tile
        there are no seams: what is made is the same as at once.
        """
        own, reach = self.maker.pictures[0], getattr(self.nets[0], "reach", None)
        (height, width), x = fields[own].shape[2:], fields[own]
        if reach is None or max(height, width) <= TILE:
            return self._make(fields)
        rows = []
        for top in range(0, height, TILE):
            row, above = [], min(reach, top)
            for left in range(0, width, TILE):
                before = min(reach, left)
                seen = x[:, :, top - above : top + TILE + reach, left - before : left + TILE + reach]
                made = self._make({**fields, own: seen})
                scale = made.shape[2] // seen.shape[2]
                made = made[:, :, scale * above :, scale * before :]
                row.append(made[:, :, : scale * TILE, : scale * TILE])
            rows.append(torch.cat(row, 3))
        return torch.cat(rows, 2)

    def _inputs(self, pictures: Mapping[str, Tensor], i: int, seed: int) -> dict[str, Tensor]:
        """The fields of one row, a latent by its seed."""
        fields = {}
        for field in self.maker.inputs.values():
            x = self.latents([seed]) if field == "latent" else pictures[field][i : i + 1].to(self.device)
            fields[field] = x.to(self.dtype) if x.is_floating_point() else x
        return fields

    @torch.no_grad()
    def logits(self, pictures: Mapping[str, Tensor]) -> Tensor:
        """What a classifying maker says (N, K) of fields of pictures as networks see them."""
        given = {field: pictures[field].to(self.device, self.dtype) for field in self.maker.inputs.values()}
        with self._evaluating():
            return self._make(given)

    def translate(
        self,
        pictures: Pictures | Sequence[Pictures],
        seeds: Sequence[int] | None = None,
        *,
        style: Pictures | None = None,
        mask: Pictures | None = None,
        attributes: Mapping[str, bool] | None = None,
    ) -> list[Pictures]:
        """Pictures (C, H, W), uint8, one for each given, which may differ in size; seed 0, or one for each.

        style: a second picture, where the maker takes two. mask: a picture (1, H, W) that is 255 where the hole is and
        else 0, where the maker fills holes. attributes: what each named one shall be, where the maker changes some; the
        others stay as they are, apart from those that these exclude.
        """
        seeds = [0] * len(pictures) if seeds is None else seeds
        both = zip(pictures, seeds, strict=True)
        given: dict[str, Any] = {"style": style, "mask": mask, "attributes": attributes}
        return [to_uint8(self.translated(self.seen(p, **given), [seed]))[0] for p, seed in both]

    def seen(
        self,
        picture: Pictures,
        *,
        style: Pictures | None = None,
        mask: Pictures | None = None,
        attributes: Mapping[str, bool] | None = None,
    ) -> Mapping[str, Tensor]:
        """The fields of a picture as networks see them, with what else is given; UserError for what does not fit."""
        first, *more = self.maker.pictures or ("x",)
        inputs, names = self.maker.inputs.values(), self.classes.names
        for name, given, taken, what in (
            ("style", style, bool(more), "a second picture"),
            ("mask", mask, "mask" in inputs, "a picture that is white where the hole is"),
            ("attributes", attributes, "bits" in inputs, f"what is to change (of {', '.join(names)})"),
        ):
            if (given is not None) != taken:
                raise UserError(f"this run {f'needs {what}: give --{name}' if taken else f'takes no {name}'}")
        self.check_size(*picture.shape[-2:])
        fields = {first: self._as_seen(picture)}
        if style is not None:
            fields[more[0]] = self._as_seen(style)
        if mask is not None:
            fields["mask"] = (torch.from_numpy(np.array(mask))[None] > 127).to(self.dtype)
            sizes = [",".join(map(str, x.shape[-2:])) for x in (picture, mask)]
            if sizes[0] != sizes[1]:
                raise UserError(f"its size is {sizes[0]}, and that of the mask {sizes[1]} (height,width)")
        if attributes is not None:
            bits = [float("nan")] * len(names)
            for name, value in attributes.items():
                if name not in names and f"{name}={value:d}" in names:  # such as skin_tone=1, a value and no yes
                    name, value = f"{name}={value:d}", True
                if name not in names:
                    near = did_you_mean(name, names)
                    raise UserError(f"there is no attribute {name!r}; it must be one of {', '.join(names)}{near}")
                bits = wished(names, bits, name, value)
            fields["bits"] = torch.tensor([bits], dtype=self.dtype)
        return self.view(fields)

    def _as_seen(self, picture: Pictures) -> Tensor:
        return VALUES[self.values].to_network(torch.from_numpy(np.array(picture))[None].to(self.dtype))

    def check_size(self, height: int, width: int) -> None:
        """UserError for a picture that the networks cannot take, which names what would fit."""
        net: Any = self.nets[0]
        if hasattr(net, "check_size"):
            try:
                net.check_size(height, width)
            except ValueError as error:
                raise UserError(str(error)) from None
        elif self.shape is not None and (height, width) != self.shape[1:]:
            raise UserError(f"its size is {height},{width}; it must be {','.join(map(str, self.shape[1:]))}")

    def fitting(self, height: int, width: int) -> tuple[int, int]:
        """The size itself where the networks take it, else the next larger one that they take, or that of training."""
        for of in (1, 2, 4, 8, 16, 32, 64, 128, 256):  # of which both sides are multiples
            size = (-(-height // of) * of, -(-width // of) * of)
            with suppress(UserError):
                self.check_size(*size)
                return size
        assert self.shape is not None
        return self.shape[1:]


# ---- loading ------------------------------------------------------------------------------------------------------


def choose_maker(game: type[Game], maker: str | None = None, to: str | None = None, kind: Kind | None = None) -> Maker:
    """A game's maker by its name, or the first that imitates the field `to`, or the first of a kind."""
    makers = game.makers
    if maker is not None:
        if maker not in makers:
            raise UserError(f"there is no maker {maker!r}{did_you_mean(maker, makers)} (makers: {', '.join(makers)})")
        if kind is not None and makers[maker].classifies:
            raise UserError(f"the maker {maker} makes no pictures: it tells classes, which gansmith evaluate scores")
        return makers[maker]
    painters = [m for m in makers.values() if not m.classifies]
    least, most = {None: (0, 2), "latent": (0, 0), "pictures": (1, 2), "style": (2, 2)}[kind]
    fitting = [m for m in painters if least <= len(m.pictures) <= most]
    if kind == "style" and not fitting:
        raise UserError("nothing here takes a second picture: leave --style out")
    if to is not None:
        fields = list(dict.fromkeys(m.imitates for m in fitting))
        fitting = [m for m in fitting if m.imitates == to]
        if not fitting:
            raise UserError(f"nothing here makes {to!r}; it must be one of {', '.join(fields) or 'none'}")
    if not fitting:
        verb, takes = ("translate", "pictures") if kind == "latent" else ("sample", "latents")
        raise UserError(f"this run makes pictures from {takes}: use gansmith {verb}")
    return fitting[0]


@dataclass(frozen=True)
class Opened:
    """A run's recipe and one of its checkpoints."""

    path: Path
    recipe: Recipe
    tree: Mapping[str, Any]
    info: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """The beginning of the sha256 of the checkpoint's tensors."""
        return str(self.info["sha256"][checkpoint.TENSORS][:12])

    @property
    def classes(self) -> Classes:
        names, counts = self.info.get("classes") or ((), ())
        return Classes(tuple(names), tuple(counts))

    def has_average(self, name: str) -> bool:
        return "ema" in self.tree["players"].get(name, {})

    def network(self, name: str, device: torch.device, *, ema: bool) -> nn.Module:
        """A player's network in eval mode, with its weights or their moving average."""
        if name not in self.recipe.networks:
            have = ", ".join(self.recipe.networks)
            raise UserError(f"{self.path}: the game {self.recipe.game.name} has no player {name} (it has: {have})")
        with torch.random.fork_rng(devices=[]):  # making a network draws weights that are replaced at once
            prior = build_prior(self.recipe)
            net = build_network(self.recipe, name, prior, classes=len(self.classes.names))
        with checkpoint.fits(self.path):
            net.load_state_dict(self.tree["players"][name]["ema" if ema else "net"])
        return net.to(device).eval()


def open_run(
    run: str | Path, round: Round = None, say: Callable[[str], None] = print, *, trust: bool = False
) -> Opened:
    """A run at its newest checkpoint that verifies, at a given round, or at the best kept."""
    run = Path(run)
    if not is_run(run):
        if str(run) in recipe_names() and not run.exists():
            raise UserError(f"{run} is a recipe, not a run: gansmith train {run} makes one, in runs/")
        pull = "; a run on the hub: gansmith pull it first" * str(run).startswith(hub.PREFIX)
        beside = run.absolute().parent.glob("*/") if run.name and not pull else ()
        near = did_you_mean(str(run), [str(run.with_name(one.name)) for one in beside if is_run(one)])
        raise UserError(f"{run} is not a run: there is no {run / 'recipe.yaml'}{pull}{near}")
    check_links(run)
    recipe = plan(run, trust=trust).recipe
    folder = run / ("best" if round == "best" else "checkpoints")
    if round == "best" and not checkpoint.everything(folder):
        raise UserError(f"{run} keeps no best checkpoint: that takes evaluation.every and evaluation.best")
    if isinstance(round, int):
        path = folder / f"{round:08d}"
        if not path.is_dir():
            have = ", ".join(str(int(p.name)) for p in checkpoint.everything(folder)) or "none"
            raise UserError(f"{run} has no checkpoint of round {round} (it has: {have})")
        try:
            tree, info = checkpoint.read(path)
        except checkpoint.Broken as error:
            raise UserError(f"the checkpoint {path} is broken: {error}") from None
    else:
        path, tree, info = checkpoint.newest_good(folder, say)
    opened = Opened(path, recipe, tree, info)
    with checkpoint.fits(path):
        _ = opened.classes, int(opened.info["round"]), [opened.has_average(name) for name in recipe.networks]
    return opened


def load(
    run: str | Path | Opened,
    *,
    maker: str | None = None,
    to: str | None = None,
    kind: Kind | None = None,
    round: Round = None,
    ema: bool = True,
    device: str = "auto",
    trust: bool = False,
    say: Callable[[str], None] = print,
) -> Sampler:
    """A maker of a run, the first if nothing is said: of its newest checkpoint that verifies, a round, or the best.

    `maker` names it, `to` is the field that it imitates, `kind` what it makes pictures from. `ema` takes the moving
    average where the run has one. A `run` hf:owner/name[@revision] is fetched from the Hugging Face hub into the cache.
    A run that `open_run` has opened is taken as it is, whatever `round` and `trust` say. UserError where there is no
    such run, maker or checkpoint.
    """
    opened = run if isinstance(run, Opened) else open_run(hub.local(run, say, trust=trust), round, say, trust=trust)
    recipe, game = opened.recipe, game_of(opened.recipe)
    chosen = choose_maker(game, maker, to, kind)
    has_average = all(map(opened.has_average, chosen.players))
    if not ema and not any(map(opened.has_average, averaged(game))):
        say(f"{opened.path.parents[1]} keeps no moving average: there are only the weights themselves")
    if opened.info["round"] == 0:
        say(f"{opened.path.parents[1]} has only the weights from before its first round so far")
    where = choose_device(device)
    return Sampler(
        [opened.network(name, where, ema=ema and has_average) for name in chosen.players],
        build_prior(recipe),
        maker=chosen,
        values=recipe.data.values,
        classes=opened.classes,
        shape=(recipe.data.channels, *recipe.data.size),
        view=input_view(recipe, chosen.pictures[0]) if chosen.pictures else dict,
        round=opened.info["round"],
        averaged=ema and has_average,
        digest=opened.digest,
    )
