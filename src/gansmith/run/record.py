"""What a run leaves behind while it trains: metrics, pictures, checkpoints."""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gansmith import checkpoint
from gansmith.build import Experiment, derive_seed, fields_of, load_split
from gansmith.data.attributes import wished
from gansmith.data.values import VALUES
from gansmith.errors import UserError
from gansmith.games.game import Maker
from gansmith.inference import Sampler
from gansmith.papers.points import POINTS, over_density
from gansmith.recipe import Recipe, to_dict
from gansmith.run import health
from gansmith.run.curves import plot_curves
from gansmith.run.folder import UNFINISHED
from gansmith.run.log import RunLog, read_metrics
from gansmith.run.pictures import frames, grid, growth_gif, of_one_size, save_png, stacked, to_uint8

if TYPE_CHECKING:
    from gansmith.evaluation.receipts import Receipt

FIXED_SEEDS = range(25)  # the growth pictures show these, as does `gansmith sample RUN --seeds 0-24`
PATIENCE = 100  # film and curves are drawn at checkpoints once they have cost less than this part of the time since
STRIPS = 6  # held-back pictures that are shown beside what is made of them


@dataclass(eq=False)
class Record:
    """Writes each of them when its interval, in rounds, is over."""

    run: Path
    recipe: Recipe
    experiment: Experiment
    log: RunLog
    device: torch.device
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.trouble: str | None = None  # what the latest line of the log shows to be wrong
        self.alike: str | None = None  # the same of the latest samples
        recipe, experiment = self.recipe, self.experiment
        self.samplers = [self._sampler(maker) for maker in experiment.game.makers.values() if not maker.classifies]
        self.sampler = self.samplers[0]
        self.evaluator = None
        if recipe.evaluation.every:
            from gansmith.evaluation.evaluator import Evaluator, usual

            self.evaluator = Evaluator(
                recipe,
                metrics=recipe.evaluation.metrics or usual(recipe),
                n=recipe.evaluation.n,
                reference="validation",
                device=str(self.device),
                ceiling=False,
                say=lambda text: None,
            )
            self.evaluator.check_best(recipe.evaluation.best)
        self.constant = checkpoint.not_finite(experiment.state.state_dict())
        self.latest: Mapping[str, torch.Tensor] = {}
        self.scores: Sequence[Receipt] = ()  # of this session's latest evaluation
        self._drawn, self._drawing = time.perf_counter(), 1.0  # when the film and the curves were drawn, in how long
        self._said: set[str] = set()
        self.saved_at = experiment.state.round or -1  # a run that goes on was loaded from there
        self.flushed_at = (experiment.state.seconds, experiment.state.images, experiment.stream.waited)

    def _sampler(self, maker: Maker) -> Sampler:
        players = [getattr(self.experiment.game, name) for name in maker.players]
        nets = [player.net if player.ema is None else player.ema for player in players]
        # Copies share the weights and are never compiled: samples come in eval mode and in other numbers.
        return Sampler(
            [copy.copy(net) for net in nets],
            self.experiment.prior,
            maker=maker,
            values=self.recipe.data.values,
            classes=self.experiment.classes,
        )

    def after_round(self, metrics: Mapping[str, torch.Tensor]) -> float:
        """Write what is due; the seconds that evaluation took."""
        round = self.experiment.state.round
        self.latest = metrics
        self.experiment.meters.add(metrics)
        if round % self.recipe.log_interval == 0:
            self.write_metrics()
        if round % self.recipe.sample_interval == 0:
            self.pictures()
        evaluating = 0.0
        if self.recipe.evaluation.every and round % self.recipe.evaluation.every == 0:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # what training has queued is not evaluation
            began = time.perf_counter()
            self.evaluate()
            evaluating = time.perf_counter() - began
        if self.recipe.checkpoint.due(round):
            self.checkpoint()
            if time.perf_counter() - self._drawn > PATIENCE * self._drawing:
                try:
                    self.summary(finished=False)
                except (UserError, OSError) as error:  # a full disk, say: the training is worth more than its film
                    self._drawn = time.perf_counter()
                    self.say(f"film and curves are not drawn: {error}")
        return evaluating

    def losses(self) -> dict[str, float]:
        """The latest losses by name, for the live line: the one place where the host waits for them."""
        return {key[5:]: float(value) for key, value in self.latest.items() if key.startswith("loss/")}

    def write_metrics(self) -> None:
        """One line: the means since the last one, if there was a round since."""
        state, stream, means = self.experiment.state, self.experiment.stream, self.experiment.meters.flush()
        if not means:
            return
        now = (state.seconds, state.images, stream.waited)
        seconds, images, waited = (after - before for after, before in zip(now, self.flushed_at, strict=True))
        self.flushed_at = now
        row = {**self._clocks(), "images_per_second": round(images / seconds, 1) if seconds > 0 else 0.0}
        if not stream.in_memory and seconds > 0:
            row["data_wait"] = round(waited / seconds, 4)
        row |= {**self.experiment.schedules.values(), **means}
        self.log.write(row)
        found = health.trouble(row)
        if found and not self.trouble:
            self.say(f"round {state.round:,}: {found}")
        self.trouble = found

    # ---- pictures

    def pictures(self) -> None:
        """What every maker makes now, in growth/; beside it fresh samples of the first. No random stream moves.

        From latents the fixed seeds, 5 by 5, or, where there are labels, a row of classes for each; from pictures a
        strip of what goes in, what comes out, and the truth where there is one; of points fair draws, always the same.
        """
        number = self.experiment.state.round
        density = self.experiment.stream.sets[0].density
        if density is not None and density.dim == 2:
            game = self.experiment.game
            D = copy.copy(getattr(game, game.critics[0]).net)
            for folder, seed in (("growth", 0), ("samples", derive_seed(self.recipe.seed, 2, number))):
                self._save(over_density(self.sampler.draw(POINTS, seed), D, self.recipe, density), folder)
            return
        if density is not None:
            from gansmith.papers.figures import save_growth

            save_growth(self.recipe, self.experiment, self.sampler, number, self.run / "growth" / f"{number:06d}.png")
            return
        self._save(stacked([self._shown(sampler) for sampler in self.samplers]), "growth")
        if not self.sampler.maker.pictures:
            fresh = torch.Generator().manual_seed(derive_seed(self.recipe.seed, 2, number))
            z = self.sampler.prior.sample(25, fresh, self.sampler.dtype)
            labels = self.sampler.labels(None, range(25))
            samples = to_uint8(self.sampler.pixels(z, labels))
            self._save(grid(samples, columns=5), "samples")
            images = self.experiment.stream.sets[0].images
            real = images[np.linspace(0, len(images) - 1, 25).astype(int)]
            self.alike = health.alike(samples, real) if number >= health.FROM else None

    def _save(self, picture: Image.Image, folder: str) -> None:
        (self.run / folder).mkdir(exist_ok=True)
        save_png(picture, self.run / folder / f"{self.experiment.state.round:06d}.png")
        self.log.picture(folder, picture, self.experiment.state.round)

    def _shown(self, sampler: Sampler) -> Image.Image:
        if "bits" in sampler.maker.inputs.values():
            return self._edits(sampler)
        if sampler.maker.pictures:
            return self._strip(sampler)
        if not sampler.maker.labelled:
            return grid(sampler.sample(FIXED_SEEDS), columns=5)
        classes = min(10, len(sampler.classes.names))
        seeds = [seed for seed in range(5) for _ in range(classes)]
        return grid(sampler.sample(seeds, [*range(classes)] * 5), columns=classes)

    def _strip(self, sampler: Sampler) -> Image.Image:
        """A column for each held-back picture: what goes in, what comes out, and the truth of a pair."""
        maker, held, to_unit = sampler.maker, self._held_back, VALUES[self.recipe.data.values].to_unit
        n = min(len(held[field]) for field in maker.pictures)
        rows = [to_uint8(to_unit(held[field][:n].clone())) for field in maker.pictures]
        rows.append(to_uint8(sampler.translated(held, range(n))))
        paired = any({*maker.pictures, maker.imitates} <= {*stream} for stream in self.experiment.game.needs)
        if paired and maker.imitates not in maker.pictures:
            rows.append(to_uint8(to_unit(held[maker.imitates][:n].clone())))
        return grid(np.concatenate(of_one_size(rows)), columns=n)

    def _edits(self, sampler: Sampler) -> Image.Image:
        """A row for each held-back picture: itself, then what it becomes as each attribute in turn changes."""
        (field,), names, held = sampler.maker.pictures, sampler.classes.names, self._held_back
        rows = []
        for x, own in zip(held[field], held["bits"], strict=True):
            bits = [wished(names, own.tolist(), name, not own[i] or "=" in name) for i, name in enumerate(names)]
            several = {field: x.expand(len(names), *x.shape), "bits": torch.tensor(bits)}
            made = sampler.translated(several, range(len(names)))
            rows += [VALUES[self.recipe.data.values].to_unit(x[None].clone()), made]
        return grid(to_uint8(torch.cat(rows)), columns=1 + len(names))

    @cached_property
    def _held_back(self) -> Mapping[str, Tensor]:
        """The first pictures that were held back, as networks see them; training pictures where none were."""
        split = "validation" if self.recipe.data.validation else "train"
        sets = load_split(self.recipe, split, say=lambda text: None, progress=False)
        return fields_of(self.recipe, sets, slice(STRIPS), self.device)

    # ---- scores and checkpoints

    def evaluate(self) -> None:
        """Scores on the images that were held back, of the same latents each time; the best state goes to best/."""
        state, best = self.experiment.state, self.recipe.evaluation.best
        if self.evaluator is None:
            return
        draw = partial(self.evaluator.make, self.sampler, self.evaluator.most, derive_seed(self.recipe.seed, 4))
        try:
            self.scores = receipts = self.evaluator([draw], {"round": state.round})
        except UserError:
            self.checkpoint()  # nothing that was trained is lost
            raise
        self.log.write({**self._clocks(), **{f"eval/{receipt.metric}": receipt.value for receipt in receipts}})
        for receipt in receipts:
            if receipt.measure == best and receipt.better_than(self._best_so_far(receipt.metric)):
                self._write(self.run / "best", score={"metric": receipt.metric, "value": receipt.value})
                for path in checkpoint.everything(self.run / "best"):  # a later one, too, from before a kill
                    if int(path.name) != state.round:
                        shutil.rmtree(path)

    def _best_so_far(self, metric: str) -> float:
        """The score of the checkpoint in best/, of a later round, too, from before a kill; nan where there is none."""
        for path in checkpoint.everything(self.run / "best"):
            try:
                score = checkpoint.verify(path)["score"]
            except checkpoint.Broken as error:
                self.say(f"the best checkpoint {path} is broken ({error}): the next one takes its place")
            else:
                return float(score["value"]) if score["metric"] == metric else math.nan
        return math.nan

    def _clocks(self) -> dict[str, float]:
        state = self.experiment.state
        return {
            "round": state.round,
            "epoch": round(self.experiment.stream.epoch, 4),
            "images": state.images,
            "seconds": round(state.seconds, 3),
        }

    def checkpoint(self) -> Path:
        """Write the whole state, unless that was done after this very round, and remove what is no longer kept."""
        state, keep = self.experiment.state, self.recipe.checkpoint
        folder = self.run / "checkpoints"
        if self.saved_at != state.round:
            self._write(folder)
            self.saved_at = state.round
            checkpoint.prune(folder, state.round, keep.keep, keep.keep_every)
        return folder / f"{state.round:08d}"

    def _write(self, folder: Path, **more: Any) -> None:
        state, classes = self.experiment.state, self.experiment.classes
        info = {"images": state.images, "device": self.device.type, "recipe": to_dict(self.recipe), **more}
        if classes.names:
            info["classes"] = [classes.names, classes.counts]
        checkpoint.write(folder, state.round, state.state_dict(), info=info, constant=self.constant)

    def summary(self, *, finished: bool) -> None:
        """The pictures that tell the whole run: growth.gif and curves.png."""
        state, began = self.experiment.state, time.perf_counter()
        if finished and state.round % self.recipe.sample_interval:  # a run that was stopped goes on with its film
            self.pictures()
        paths = [path for path in frames(self.run) if int(path.stem) <= state.round]
        bad = growth_gif(paths, self.run / "growth.gif")
        for text in bad.difference(self._said):
            self.say(f"the film goes without {text}")
        self._said |= bad
        if read_metrics(self.run / "metrics.jsonl"):  # none where a signal came before the first round
            plot_curves(self.run / "metrics.jsonl", self.run / "curves.png", self.run.resolve().name)
        self._drawn = time.perf_counter()
        self._drawing = self._drawn - began
        if finished:
            (self.run / UNFINISHED).unlink(missing_ok=True)
