"""What a run leaves behind while it trains: metrics, pictures, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gansmith import checkpoint
from gansmith.build import Experiment, derive_seed
from gansmith.errors import UserError
from gansmith.evaluation import Evaluator
from gansmith.figures import gives_probability, numbers, stage
from gansmith.inference import Sampler
from gansmith.receipts import Receipt
from gansmith.recipe import Recipe, to_dict
from gansmith.report.curves import plot_curves
from gansmith.report.density import save_stages
from gansmith.report.log import RunLog, read_metrics
from gansmith.report.pictures import grid, growth_gif, save_png, to_uint8

FIXED_SEEDS = range(25)
"""The growth pictures show these, as does `gansmith sample RUN --seeds 0-24`."""


class Record:
    """Writes each of them when its interval, in rounds, is over."""

    def __init__(self, run: Path, recipe: Recipe, experiment: Experiment, log: RunLog, device: torch.device) -> None:
        self.run = run
        self.recipe = recipe
        self.experiment = experiment
        self.log = log
        self.device = device
        generator = experiment.generator
        net = generator.ema if generator.ema is not None else generator.net
        net = copy.copy(net)  # the same weights, and never compiled: samples come in eval mode and in other numbers
        self.sampler = Sampler(net, experiment.prior, values=recipe.data.values)
        self.evaluator = None
        if recipe.evaluation.every:
            self.evaluator = Evaluator(
                recipe.data,
                metrics=recipe.evaluation.metrics,
                n=recipe.evaluation.n,
                reference="validation",
                device=str(device),
                ceiling=False,
                say=lambda text: None,
            )
            self.evaluator.check_best(recipe.evaluation.best)
        checkpoint.drop(run / "best", experiment.state.round)  # what a killed session kept comes again
        self.latest: Mapping[str, torch.Tensor] = {}
        self.scores: Sequence[Receipt] = ()
        """Of this session's latest evaluation."""
        self.saved_at = experiment.state.round or -1  # a run that goes on was loaded from there
        self.flushed_at = (experiment.state.seconds, experiment.state.images, experiment.stream.waited)

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
        return evaluating

    def losses(self) -> dict[str, float]:
        """The latest losses by player, for the live line: the one place where the host waits for them."""
        return {key[5:]: float(value) for key, value in self.latest.items() if key.startswith("loss/")}

    def write_metrics(self) -> None:
        """One line: the means since the last one, if there was a round since."""
        state, stream, means = self.experiment.state, self.experiment.stream, self.experiment.meters.flush()
        if not means:
            return
        now = (state.seconds, state.images, stream.waited)
        seconds, images, waited = (after - before for after, before in zip(now, self.flushed_at, strict=True))
        self.flushed_at = now
        self.log.write(
            {
                **self._clocks(),
                "images_per_second": round(images / seconds, 1) if seconds > 0 else 0.0,
                **({} if stream.in_memory or seconds <= 0 else {"data_wait": round(waited / seconds, 4)}),
                **self.experiment.schedules.values(),
                **means,
            }
        )

    def pictures(self) -> None:
        """25 fresh samples 5 by 5, and those of the fixed seeds; neither draws from the training's random streams.

        Of a toy set the densities instead.
        """
        number = self.experiment.state.round
        if (p_data := self.experiment.stream.data.density) is not None:
            judge = next((copy.copy(p.net) for p in self.experiment.game.players if p.name.startswith("D")), None)
            now = stage(self.sampler, judge if gives_probability(self.recipe) else None, p_data, number)
            save_stages([now], [numbers(now)], self.run / "growth" / f"{number:06d}.png")
            return
        fresh = torch.Generator().manual_seed(derive_seed(self.recipe.seed, 2, number))
        z = self.sampler.prior.sample(25, fresh, self.sampler.dtype)
        for name, images in (
            ("samples", to_uint8(self.sampler.pixels(z))),
            ("growth", self.sampler.sample(FIXED_SEEDS)),
        ):
            (self.run / name).mkdir(exist_ok=True)
            save_png(grid(images, columns=5), self.run / name / f"{number:06d}.png")

    def evaluate(self) -> None:
        """Scores on the images that were held back, of the same latents each time; the best state goes to best/."""
        state, best = self.experiment.state, self.recipe.evaluation.best
        if self.evaluator is None:
            return
        draw = partial(self.sampler.draw, self.evaluator.most, derive_seed(self.recipe.seed, 4))
        try:
            self.scores = receipts = self.evaluator([draw], {"round": state.round})
        except UserError:
            self.checkpoint()  # nothing that was trained is lost
            raise
        self.log.write({**self._clocks(), **{f"eval/{receipt.metric}": receipt.value for receipt in receipts}})
        for receipt in receipts:
            if receipt.measure == best and receipt.better_than(self._best_so_far(receipt.metric)):
                self._write(self.run / "best", score={"metric": receipt.metric, "value": receipt.value})
                checkpoint.prune(self.run / "best", state.round, 1, 0)

    def _best_so_far(self, metric: str) -> float:
        """The score of the checkpoint in best/; nan where there is none of this metric."""
        for path in checkpoint.everything(self.run / "best"):
            try:
                score = checkpoint.verify(path)["score"]
            except checkpoint.Broken as error:
                print(f"the best checkpoint {path} is broken ({error}): the next one takes its place")
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
        state = self.experiment.state
        info = {"images": state.images, "device": self.device.type, "recipe": to_dict(self.recipe), **more}
        checkpoint.write(folder, state.round, state.state_dict(), info=info)

    def summary(self, *, finished: bool) -> None:
        """The pictures that tell the whole run: growth.gif and curves.png."""
        state = self.experiment.state
        if finished and state.round % self.recipe.sample_interval:  # a run that was stopped goes on with its film
            self.pictures()
        frames = [p for p in sorted((self.run / "growth").glob("*.png")) if int(p.stem) <= state.round]
        growth_gif(frames, self.run / "growth.gif")
        if read_metrics(self.run / "metrics.jsonl"):  # none where a signal came before the first round
            plot_curves(self.run / "metrics.jsonl", self.run / "curves.png", self.run.name)
