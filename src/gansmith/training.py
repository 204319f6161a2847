"""THE loop, and what surrounds it: start or resume a run, watch it, stop it without losing anything."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from gansmith import checkpoint
from gansmith import run as runs
from gansmith.build import Experiment, build, choose_device, own_streams, resolve_compile
from gansmith.cuda_math import cuda_math
from gansmith.data import data_names
from gansmith.errors import Diverged, NonFinite, OutOfMemory, RankLost, UserError
from gansmith.launch import launch
from gansmith.players import Player
from gansmith.recipe import Recipe, Resolved, check_resumable, completed, difference, is_run, plan, to_dict, to_yaml
from gansmith.record import Record
from gansmith.report.live import Live
from gansmith.report.log import RunLog
from gansmith.state import State
from gansmith.world import World

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
    trained until then is saved. Under torchrun all its processes train this one run (docs/distributed.md); RankLost
    where one of them dies.
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
    with _world(device) as world, alone(world.device, tf32=resolved.recipe.engine.precision == "tf32"):
        if enough is not None and world.size > 1:
            raise UserError("what ends a training by its record is asked in one process: leave torchrun away")
        return _begin(world, what, out, resolved, resuming, quiet or world.rank > 0, enough)


@contextmanager
def _world(device: str) -> Iterator[World]:
    if launch().size == 1:
        yield World(choose_device(device))
    else:
        from gansmith.distributed import joined

        with joined(device) as world:
            yield world


_one_training = threading.Lock()


@contextmanager
def alone(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """One training at a time in a process, since networks may draw from torch's global stream; it is given back after.

    On CUDA cuDNN is held to its deterministic kernels, and TF32 is on or off in all of CUDA's libraries alike.
    """
    if not _one_training.acquire(blocking=False):
        raise UserError(
            "another training runs in this process, and torch's random stream is shared: use another process"
        )
    try:
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), cuda_math(tf32=tf32):
            yield
    finally:
        _one_training.release()


def _begin(
    world: World,
    what: str | Path,
    out: str | Path | None,
    resolved: Resolved,
    resuming: bool,
    quiet: bool,
    enough: Enough | None,
) -> Path:
    """Find or make the run, build the experiment, play it. Of several processes only rank 0 touches the run."""
    recipe, say = resolved.recipe, _say(quiet)
    folder = Path(out) if out is not None else None
    with contextlib.ExitStack() as held:
        run = world.on_first(lambda: _found(what, folder, recipe, resuming, say, held))
        # A run that ended before its first checkpoint begins anew.
        saved = run if resuming or world.on_first(lambda: run is not None and _has_checkpoint(run)) else None
        experiment = world.in_turn(
            lambda: build(recipe, world.device, say=say, progress=not quiet, resume=saved is not None, world=world)
        )
        if saved is not None:
            path, tree, info = world.on_first(lambda: _newest(saved, recipe, say))
            with world.together():
                _load(path, tree, info, recipe, experiment, say, world)
        digest = experiment.stream.data.digest
        first_digest = world.on_first(lambda: digest)
        with world.together():
            if digest != first_digest:
                raise UserError(f"the images here are not those of rank 0: digest {digest[:12]}, {first_digest[:12]}")
        for player in experiment.game.players:
            world.equalise(player.net)
        made = runs.created(folder, resolved.label, recipe.data.name, lambda: experiment.state.round == 0)
        run = world.on_first(lambda: run or held.enter_context(made))
        try:
            return _session(world, run, resolved, quiet, experiment, enough)
        except RankLost as error:
            then = f"; {run} goes on from its newest checkpoint" if _has_checkpoint(run) else ""
            raise RankLost(f"{error}{then}") from None


def _found(
    what: str | Path,
    folder: Path | None,
    recipe: Recipe,
    resuming: bool,
    say: Callable[[str], None],
    held: contextlib.ExitStack,
) -> Path | None:
    """The run to go on with, locked; None where a new one is to be made."""
    restarts = launch().restarts
    run = Path(what) if resuming else _started_before(folder, recipe, restarts, say) if restarts else None
    if run is None:
        runs.check_free(folder)
    else:
        held.enter_context(runs.locked(run, wait=RESTART_PATIENCE if restarts else 0))
    return run


def _has_checkpoint(run: Path) -> bool:
    return bool(checkpoint.everything(run / "checkpoints"))


RESTART_PATIENCE = 60.0
"""Seconds for the processes of the last attempt to be gone, also from another machine's point of view."""


def _started_before(folder: Path | None, recipe: Recipe, restarts: int, say: Callable[[str], None]) -> Path | None:
    """The run that the same command has begun before torchrun started it again; None if it did not get that far."""
    if folder is None:
        raise UserError(
            f"torchrun has started this training again (restart {restarts}), and without --out nobody knows in which"
            " run; give --out RUN with --max-restarts, or go on by hand: torchrun ... train RUN"
        )
    if not is_run(folder):
        return None
    if changed := difference(to_dict(plan(folder).recipe), to_dict(recipe)):
        raise UserError(f"{folder} holds another run, so this one cannot go on there: {changed}; choose another --out")
    say(f"torchrun has started this training again (restart {restarts}): it goes on with {folder}")
    return folder


def _session(
    world: World, run: Path, resolved: Resolved, quiet: bool, experiment: Experiment, enough: Enough | None
) -> Path:
    """Play the run to its end."""
    recipe = resolved.recipe
    state, stream = experiment.state, experiment.stream
    per_epoch = stream.batches_per_epoch / experiment.game.batches_per_round
    total = recipe.steps if recipe.steps is not None else math.ceil(recipe.n_epochs * per_epoch - 1e-9)
    longer = f"--n_epochs {math.ceil(2 * stream.epoch)}"
    if state.round >= total and not launch().restarts:  # a restart may find all done but the last pictures
        how = "is finished" if state.round == total else f"is beyond round {total:,} already"
        raise UserError(
            f"{run} {how}: {state.round:,} rounds, {stream.epoch:.4g} epochs; to train it further give a greater"
            f" length, such as {f'--steps {2 * state.round}' if recipe.steps else longer}"
        )
    resolve_compile(recipe, experiment, world.device, total, _say(quiet))
    live = Live(
        start=state.round,
        total=total,
        rounds_per_epoch=per_epoch,
        images_per_round=len(stream.data) / per_epoch,
        images=state.images,
        quiet=quiet,
    )
    record, log = None, None
    try:
        with world.together():
            if world.rank == 0:
                text = to_yaml(recipe, f"gansmith run {run.name}; trains again from this file alone")
                runs.write_text(run / "recipe.yaml", text)
                runs.note_session(run, device=world.device, at_round=state.round)
                # A session that ended between two lines left one of its own; that at the interval comes again, whole.
                at_line = state.round - state.round % recipe.log_interval
                log = RunLog(run, at_round=at_line, scores_until=state.round) if state.round else RunLog(run)
                record = Record(run, recipe, experiment, log, world.device)
        with _stop_signals(world), live:
            state.gather_streams(world.gather)
            with world.together():
                if record is not None and log is not None:
                    live.say(_banner(run, resolved, experiment, world.device, total, log.tensorboard))
                    if state.round == 0:
                        record.checkpoint()  # so that a run that is killed early can go on, too
                        record.evaluate()  # what cannot be measured shows now
                        record.pictures()
            share = partial(_share_streams, world, state, recipe)
            stopped_by = play(experiment, record, live, total, world.stop, share, enough)
            state.gather_streams(world.gather)
            if record is not None:
                record.checkpoint()
                record.write_metrics()
                live.done(state.round, state.images, record.losses())
    except NonFinite as error:
        raise Diverged(_diverged(world, run, experiment, record, error)) from None
    except OutOfMemory as error:
        if world.size > 1:  # the others are in the middle of the round, and cannot save it with this one
            raise RankLost(str(error)) from None
        kept = f". Round {state.round + 1} was stopped, and {_kept(world, run, experiment, record)}"
        raise UserError(f"{error}{kept if state.round else ''}") from None
    finally:
        if log is not None:
            log.close()
        stream.close()
    if record is not None:
        record.summary(finished=state.round >= total)
    if stopped_by is not None and state.round < total:
        raise Stopped(run, stopped_by)
    return run


def play(
    experiment: Experiment,
    record: Record | None,
    live: Live,
    total: int,
    stop: Callable[[], int | None] = lambda: None,
    share: Callable[[], None] = lambda: None,
    enough: Enough | None = None,
) -> int | None:
    """THE loop: batches in, one round of the game, counters on; then whatever is due.

    `stop`: by which signal, if any, this process and all that train with it were asked to stop; returned at the end.
    `share`: what the record of the first process needs of the others. They have none.
    """
    game, state, stream = experiment.game, experiment.state, experiment.stream
    while state.round < total and stop() is None and not (enough and record and enough(record)):
        began = time.perf_counter()
        state.begin_round()
        experiment.schedules.apply(stream.position, int(stream.epoch))
        with _in_memory():
            batches = [next(stream) for _ in range(game.batches_per_round)]
            with experiment.engine():
                metrics = game.round(*batches)
        shown = sum(batch.size for batch in batches)
        state.round += 1
        state.images += shown
        for player in game.players:
            player.average(shown, state.images)
        share()
        state.seconds += (played := time.perf_counter()) - began
        if record is None:
            continue
        evaluating = record.after_round(metrics)
        # Pictures and checkpoints count in the next line of the log; scores are no part of training.
        state.seconds += time.perf_counter() - played - evaluating
        if live.due():
            live.show(state.round, state.images, record.losses(), waited=stream.waited)
    return stop()


@contextmanager
def _in_memory() -> Iterator[None]:
    """Tell in one way what each device and library tells in its own: that there is no memory left."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        texts = "out of memory|you tried to allocate|STATUS_ALLOC_FAILED"
        if not isinstance(error, MemoryError) and not re.search(texts, str(error)):
            raise
        raise OutOfMemory(
            "there is not enough memory for a round: train with a smaller --batch_size, or with --accumulate 2 or more,"
            " which goes over each batch in parts"
        ) from None


# ---- stopping --------------------------------------------------------------------------------------------------


def _share_streams(world: World, state: State, recipe: Recipe) -> None:
    """After a round that ends with a checkpoint, on all ranks: their random streams, for rank 0 saves them."""
    every = recipe.evaluation.every
    if recipe.checkpoint.due(state.round) or (every and state.round % every == 0):
        state.gather_streams(world.gather)


@contextmanager
def _stop_signals(world: World) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a wish to stop; a second SIGINT interrupts a process alone at once.

    Several processes agree on the round; there torchrun passes signals on, and ends who takes more than 30 seconds.
    """

    def ask(signum: int, frame: FrameType | None) -> None:
        if world.size == 1 and world.asked is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        world.asked = signum

    if threading.current_thread() is not threading.main_thread():  # only there can signals be taken
        yield
        return
    before = {signum: signal.signal(signum, ask) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _diverged(world: World, run: Path, experiment: Experiment, record: Record | None, error: NonFinite) -> str:
    """Save the state from before the round that failed, and say who, when, and what to try."""
    kept = _kept(world, run, experiment, record)
    if record is None:  # rank 0 says it
        return str(error)
    return (
        f"training stopped in round {experiment.state.round + 1} (epoch {experiment.stream.epoch:.2f}): {error}; no"
        f" weight was touched by it, and {kept}. Try a lower --lr or another --seed in a new run"
    )


def _kept(world: World, run: Path, experiment: Experiment, record: Record | None) -> str:
    """Save the state from before a round that failed, on rank 0, and say where it is, or which good one is left."""
    state = experiment.state
    moved = state.take_back()
    state.gather_streams(world.gather)
    if record is None:
        return ""
    tensors: dict[str, torch.Tensor] = {}
    checkpoint.pack(state.state_dict()["players"], tensors)
    finite = all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
    if finite and not moved:
        return f"the state before it is saved in {record.checkpoint()}"
    # A state in the middle of a round is none that an uninterrupted training passes through.
    good = next((p for p, reason in checkpoint.newest(run / "checkpoints") if reason is None), None)
    return f"the newest good checkpoint is {good}" if good else "there is no checkpoint from before"


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


def _newest(run: Path, recipe: Recipe, say: Callable[[str], None]) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The newest good checkpoint: its path, its tree, and its info."""
    path = checkpoint.newest_good(run / "checkpoints", say)
    tree, info = checkpoint.read(path)
    if changed := difference(completed(info["recipe"]), to_dict(recipe)):
        raise UserError(f"{path} does not fit {run / 'recipe.yaml'}: {changed}; start a new run with that recipe")
    return path, tree, info


def _load(
    path: Path,
    tree: dict[str, Any],
    info: dict[str, Any],
    recipe: Recipe,
    experiment: Experiment,
    say: Callable[[str], None],
    world: World,
) -> None:
    """Take the checkpoint's state, and of several processes each its own random streams."""
    rank, size, device = world.rank, world.size, world.device
    others, state = tree.get("ranks", []), experiment.state
    elsewhere, regrouped = info["device"] != device.type, 1 + len(others) != size
    engine = to_dict(recipe)["engine"]
    before = info["recipe"].get("engine", engine)
    changed = [key for key in engine if before[key] != engine[key]]
    if changed == ["compile"] and {before["compile"], engine["compile"]} == {"auto", False} and device.type != "cuda":
        changed = []  # which compiles neither way
    if changed:
        shown = ", ".join(f"{key} was {before[key]} and is {engine[key]}" for key in changed)
        say(f"engine: {shown}; the training may round otherwise from here on")
    if elsewhere:
        say(f"{path} was trained on {info['device']}, this is {device.type}: noise and dropout begin with new seeds")
    elif regrouped:
        new = ", the others begin with new seeds" if size > 1 else ""
        say(f"{path} is of {1 + len(others)} rank(s), this is {size}: the noise and dropout of rank 0 go on{new}")
    try:
        state.load_state_dict(tree)
    except (KeyError, RuntimeError) as error:
        where = path.parents[1] / "recipe.yaml"
        raise UserError(f"{path} does not fit {where}: {str(error).splitlines()[0]}") from None
    if elsewhere or (rank > 0 and regrouped):
        own_streams(state.noise, experiment.stream.seed, rank, state.round)
    elif rank > 0:
        state.set_streams(others[rank - 1])


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
    ranks = f" on each of {stream.ranks} ranks" if stream.ranks > 1 else ""
    begin = f"from round {experiment.state.round} " if experiment.state.round else ""
    events = "" if tensorboard or begin else "\nTensorBoard events are not written: pip install tensorboard"
    return (
        f"{resolved.label}: {type(game).__name__}, {sizes} parameters, {device}{ranks}, seed {resolved.recipe.seed}\n"
        f"{data.name}: {len(data):,} images {tuple(data.images.shape[1:])} {where}; {begin}to round {total:,}"
        f" = {total * game.batches_per_round / stream.batches_per_epoch:.4g} epochs\n"
        f"run folder: {run}{events}"
    )
