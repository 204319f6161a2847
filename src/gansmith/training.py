"""THE loop, and what surrounds it: start or resume a run, watch it, stop it without losing anything."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from gansmith import checkpoint
from gansmith import run as runs
from gansmith.build import Experiment, build, choose_device, derive_seed
from gansmith.data import data_names
from gansmith.errors import Diverged, NonFinite, UserError
from gansmith.players import Player
from gansmith.recipe import Recipe, Resolved, check_resumable, difference, is_run, plan, to_dict, to_yaml
from gansmith.record import Record
from gansmith.report.live import Live
from gansmith.report.log import RunLog

Enough = Callable[[Record], bool]
"""Whether a training may end, seen from its record: the state is `record.experiment.state`, scores `record.scores`."""


class Stopped(KeyboardInterrupt):
    """A signal ended the training after a whole round; the run is saved and can be resumed."""

    def __init__(self, run: Path, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.run = run
        self.signum = signum


def train(
    what: str | Path = "gan",
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    steps: int | None = None,
    n_epochs: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
    enough: Enough | None = None,
) -> Path:
    """Train a recipe (name or YAML file) in a new run folder, or go on with a run (its folder); return the folder.

    `overrides` are keys of the recipe, dotted or by the post's names: {"lr": 1e-3, "game.n_critic": 5}. `enough` is
    asked before every round, and ends the training before its length when it says so. Raises
    UserError for bad input, Diverged for a loss that is not finite, Stopped after SIGINT or SIGTERM; what was
    trained until then is saved.
    """
    named = {"data.name": data, "steps": steps, "n_epochs": n_epochs, "seed": seed}
    flags: dict[str, Any] = {key: str(v) if isinstance(v, Path) else v for key, v in named.items() if v is not None}
    flags |= dict(overrides or {})
    resuming = is_run(what)
    if resuming:
        if out is not None:
            raise UserError(f"--out {out}: the run {what} goes on in its own folder; leave --out away")
        check_resumable(Path(what), flags)
    resolved = _with_full_paths(plan(what, flags=flags))
    where = choose_device(device)
    with _alone(where, tf32=resolved.recipe.engine.precision == "tf32"):
        if resuming:
            with runs.locked(Path(what)):
                return _session(Path(what), resolved, where, quiet, enough=enough)
        folder = Path(out) if out is not None else None
        runs.check_free(folder)
        experiment = build(resolved.recipe, where, say=_say(quiet), progress=not quiet)
        with runs.created(
            folder, resolved.label, resolved.recipe.data.name, lambda: experiment.state.round == 0
        ) as run:
            return _session(run, resolved, where, quiet, experiment, enough)


_one_training = threading.Lock()


@contextmanager
def _alone(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """One training at a time in a process, since networks may draw from torch's global stream; it is given back after.

    On CUDA cuDNN is held to its deterministic kernels, and TF32 is on or off in all of CUDA's libraries alike.
    """
    if not _one_training.acquire(blocking=False):
        raise UserError(
            "another training runs in this process, and torch's random stream is shared: use another process"
        )
    matmul_tf32 = torch.backends.cuda.matmul.allow_tf32
    try:
        cuda = [device] if device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=cuda),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32),
        ):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul_tf32
        _one_training.release()


def _session(
    run: Path,
    resolved: Resolved,
    device: torch.device,
    quiet: bool,
    experiment: Experiment | None = None,
    enough: Enough | None = None,
) -> Path:
    """Play the run to its end: a new one with the experiment given, else from its newest checkpoint on."""
    recipe = resolved.recipe
    if experiment is None:
        experiment = build(recipe, device, say=_say(quiet), progress=not quiet, resume=True)
        _load_newest(run, recipe, experiment, device, _say(quiet))
    state, stream = experiment.state, experiment.stream
    per_epoch = stream.batches_per_epoch / experiment.game.batches_per_round
    total = recipe.steps if recipe.steps is not None else math.ceil(recipe.n_epochs * per_epoch - 1e-9)
    if state.round >= total:
        raise UserError(
            f"{run} is finished: {state.round} rounds, {stream.epoch:.4g} epochs; to train it further give a"
            f" greater length, such as --n_epochs {math.ceil(2 * stream.epoch)} (--steps, if given, comes before it)"
        )
    runs.write_text(run / "recipe.yaml", to_yaml(recipe, f"gansmith run {run.name}; trains again from this file alone"))
    runs.note_session(run, device=device, at_round=state.round)
    live = Live(
        start=state.round,
        total=total,
        rounds_per_epoch=per_epoch,
        images_per_round=len(stream.data) / per_epoch,
        images=state.images,
        quiet=quiet,
    )
    # A session that ended between two lines left one of its own; the line at the interval comes again, whole.
    log = RunLog(run, at_round=state.round - state.round % recipe.log_interval, scores_until=state.round)
    try:
        record = Record(run, recipe, experiment, log, device)
        with _stop_signals() as stop, live:
            live.say(_banner(run, resolved, experiment, device, total, log.tensorboard))
            if state.round == 0:
                record.evaluate()  # what cannot be measured shows now
                record.pictures()
                record.checkpoint()  # so that a run that is killed early can go on, too
            play(experiment, record, live, total, stop, enough)
            record.checkpoint()
            record.write_metrics()
            live.done(state.round, state.images, record.losses())
    except NonFinite as error:
        raise Diverged(_diverged(run, experiment, record, error)) from None
    finally:
        log.close()
        stream.close()
    record.summary(finished=state.round >= total)
    if stop.signum is not None and state.round < total:
        raise Stopped(run, stop.signum)
    return run


def play(
    experiment: Experiment,
    record: Record,
    live: Live,
    total: int,
    stop: Stop,
    enough: Enough | None = None,
) -> None:
    """THE loop: batches in, one round of the game, counters on; then whatever is due."""
    game, state, stream = experiment.game, experiment.state, experiment.stream
    while state.round < total and stop.signum is None and not (enough and enough(record)):
        began = time.perf_counter()
        state.begin_round()
        experiment.schedules.apply(stream.position, int(stream.epoch))
        batches = [next(stream) for _ in range(game.batches_per_round)]
        with experiment.autocast():
            metrics = game.round(*batches)
        shown = sum(len(batch.images) for batch in batches)
        for player in game.players:
            player.average(shown)
        state.round += 1
        state.images += shown
        state.seconds += (played := time.perf_counter()) - began
        evaluating = record.after_round(metrics)
        # Pictures and checkpoints count in the next line of the log; scores are no part of training.
        state.seconds += time.perf_counter() - played - evaluating
        if live.due():
            live.show(state.round, state.images, record.losses(), waited=stream.waited)


# ---- stopping --------------------------------------------------------------------------------------------------


class Stop:
    """Whether, and by which signal, the loop was asked to end after this round."""

    signum: int | None = None


@contextmanager
def _stop_signals() -> Iterator[Stop]:
    """Turn the first SIGINT or SIGTERM into a wish to stop; a second SIGINT interrupts at once."""
    stop = Stop()

    def ask(signum: int, frame: FrameType | None) -> None:
        if stop.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signum = signum

    if threading.current_thread() is not threading.main_thread():  # only there can signals be taken
        yield stop
        return
    before = {signum: signal.signal(signum, ask) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _diverged(run: Path, experiment: Experiment, record: Record, error: NonFinite) -> str:
    """Save the state from before the round that failed, and say who, when, and what to try."""
    state = experiment.state
    moved = state.take_back()
    tensors: dict[str, torch.Tensor] = {}
    checkpoint.pack(state.state_dict()["players"], tensors)
    finite = all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
    if finite and not moved:
        good = f"the state before it is saved in {record.checkpoint()}"
    else:  # a state in the middle of a round is none that an uninterrupted training passes through
        kept = next((p for p, reason in checkpoint.newest(run / "checkpoints") if reason is None), None)
        good = f"the newest good checkpoint is {kept}" if kept else "there is no checkpoint from before"
    return (
        f"training stopped in round {state.round + 1} (epoch {experiment.stream.epoch:.2f}): {error}; no weight was"
        f" touched by it, and {good}. Try a lower --lr or another --seed in a new run"
    )


# ---- starting --------------------------------------------------------------------------------------------------


def _with_full_paths(resolved: Resolved) -> Resolved:
    """The same with data and first weights by their full paths, so that the run goes on from any working folder."""
    data, networks = resolved.recipe.data, dict(resolved.recipe.networks)
    if data.name == "mnist":  # ships in the package
        pass
    elif data.name in data_names():
        root = Path(data.root or os.environ.get("GANSMITH_DATA") or "data").expanduser().resolve()
        data = dataclasses.replace(data, root=str(root))
    elif Path(data.name).expanduser().is_dir():
        data = dataclasses.replace(data, name=str(Path(data.name).expanduser().resolve()))
    for name, network in networks.items():
        if (weights := network.args.get("weights")) is not None:
            args = {**network.args, "weights": str(Path(weights).expanduser().resolve())}
            networks[name] = dataclasses.replace(network, args=args)
    return dataclasses.replace(resolved, recipe=dataclasses.replace(resolved.recipe, data=data, networks=networks))


def _load_newest(
    run: Path, recipe: Recipe, experiment: Experiment, device: torch.device, say: Callable[[str], None]
) -> None:
    path = checkpoint.newest_good(run / "checkpoints", say)
    tree, info = checkpoint.read(path)
    if changed := difference(info["recipe"], to_dict(recipe)):
        raise UserError(f"{path} does not fit {run / 'recipe.yaml'}: {changed}; start a new run with that recipe")
    if info["device"] != device.type:
        say(f"{path} was trained on {info['device']}, this is {device.type}: the noise goes on from a new seed")
    state = experiment.state
    try:
        state.load_state_dict(tree)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path} does not fit {run / 'recipe.yaml'}: {str(error).splitlines()[0]}") from None
    if info["device"] != device.type:
        state.noise.manual_seed(derive_seed(experiment.stream.seed, 1, state.round))


def _say(quiet: bool) -> Callable[[str], None]:
    return (lambda text: None) if quiet else print


def _count(player: Player) -> str:
    n = sum(p.numel() for p in player.parameters)
    return f"{n / 1e6:.2f} M" if n >= 100_000 else f"{n:,}"


def _banner(
    run: Path, resolved: Resolved, experiment: Experiment, device: torch.device, total: int, tensorboard: bool
) -> str:
    data, game, stream = experiment.stream.data, experiment.game, experiment.stream
    sizes = ", ".join(f"{p.name} {_count(p)}" for p in game.players)
    where = "in memory" if stream.in_memory else f"from a memory map by {resolved.recipe.data.n_cpu} threads"
    begin = f"from round {experiment.state.round} " if experiment.state.round else ""
    events = "" if tensorboard or begin else "\nTensorBoard events are not written: pip install tensorboard"
    return (
        f"{resolved.label}: {type(game).__name__}, {sizes} parameters, {device}, seed {resolved.recipe.seed}\n"
        f"{data.name}: {len(data):,} images {tuple(data.images.shape[1:])} {where}; {begin}to round {total:,}"
        f" = {total * game.batches_per_round / stream.batches_per_epoch:.4g} epochs\n"
        f"run folder: {run}{events}"
    )
