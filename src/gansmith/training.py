"""THE loop, and what surrounds it: start or resume a run, watch it, stop it without losing anything."""

import bisect
import copy
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from gansmith import checkpoint, trust
from gansmith.build import Experiment, Say, build, own_streams, settled, start_digest
from gansmith.cuda_math import cuda_math
from gansmith.engine import choose_device
from gansmith.errors import Diverged, NonFinite, OutOfMemory, RankLost, UserError
from gansmith.games.game import Game
from gansmith.launch import launch
from gansmith.recipe import (
    Recipe,
    Resolved,
    check_resumable,
    difference,
    is_run,
    plan,
    to_dict,
    to_yaml,
    with_full_paths,
)
from gansmith.run import folder as runs
from gansmith.run.live import Live
from gansmith.run.log import RunLog
from gansmith.run.record import Record
from gansmith.schedules import Clock
from gansmith.world import World


class Stopped(KeyboardInterrupt):
    """A signal ended the training after a whole round; the run is saved and can be resumed."""

    def __init__(self, run: Path, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.run = run
        self.signum = signum


def train(
    what: str | Path | Resolved = "gan",
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    steps: int | None = None,
    n_epochs: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
    trust: bool = False,
    enough: Callable[[Record], bool] | None = None,
    **keys: Any,
) -> Path:
    """Train a recipe (name or YAML file) in a new run folder, or go on with a run (its folder); return the folder.

    `overrides` and `keys` are keys of the recipe, dotted or by the post's names: {"game.n_critic": 5}, lr=1e-3. `trust`
    lets a recipe from a file or a run import the modules it names. `enough` is asked before every round, with the
    record (state: `record.experiment.state`, scores: `record.scores`), and ends the training before its length when it
    says so. Raises UserError for bad input, Diverged for a loss or a state that is not finite, Stopped after SIGINT or
    SIGTERM; what was trained until then is saved. Under torchrun all its processes train this one run
    (docs/distributed.md); RankLost where one of them dies.
    """
    named = {"data.name": data, "steps": steps, "n_epochs": n_epochs, "minutes": minutes, "seed": seed}
    flags = {key: str(v) if isinstance(v, Path) else v for key, v in named.items() if v is not None}
    flags |= {**(overrides or {}), **keys}
    if isinstance(what, Resolved) and flags:
        raise UserError(f"{', '.join(flags)}: a resolved recipe has them already; give them to gansmith.plan, as flags")
    if not isinstance(what, Resolved):
        if is_run(what):
            check_resumable(Path(what), flags)
        what = plan(what, flags=flags, trust=trust)
    if enough is not None and launch().size > 1:
        raise UserError("`enough` needs a single process; start the training without torchrun")
    with (
        _world(device) as world,
        alone(world.device, tf32=what.recipe.engine.precision == "tf32"),
        _session(world, what, None if out is None else Path(out), quiet or world.rank > 0) as session,
    ):
        play(session.experiment, session.record, session.live, session.total, session, enough)
    stopped_by = world.stop()
    if stopped_by is not None and session.experiment.state.round < session.total:
        raise Stopped(session.run, stopped_by)
    if not quiet:
        show_in_notebook(session.run / "growth.gif")
    return session.run


def show_in_notebook(film: Path) -> None:
    ipython = sys.modules.get("IPython")
    if ipython is not None and hasattr(ipython.get_ipython(), "kernel") and film.is_file():
        ipython.display.display(ipython.display.Image(filename=str(film)))


def _world(device: str) -> AbstractContextManager[World]:
    if launch().size == 1:
        return nullcontext(World(choose_device(device)))
    if not torch.distributed.is_available():
        raise UserError("this PyTorch is built without torch.distributed: start the training without torchrun")
    from gansmith.distributed import joined

    return joined(device)


_one_training = threading.Lock()


@contextmanager
def alone(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """One training at a time in a process, since networks may draw from torch's global stream; it is given back after.

    On CUDA cuDNN is held to its deterministic kernels, and TF32 is on or off in all of CUDA's libraries alike.
    """
    if not _one_training.acquire(blocking=False):
        raise UserError("another training runs in this process, and shares torch's random stream: use another process")
    try:
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), cuda_math(tf32=tf32):
            yield
    finally:
        _one_training.release()


def play(
    experiment: Experiment,
    record: Record | None,
    live: Live | None,
    total: int,
    session: "Session | None" = None,
    enough: Callable[[Record], bool] | None = None,
) -> None:
    """THE loop: batches in, one round of the game, counters on; then whatever is due.

    `session`: of which all processes are a part; it says whether they were asked to stop. Only the first process has a
    record.
    """
    game, state, stream = experiment.game, experiment.state, experiment.stream
    whole, first = experiment.total or total, state.round
    while state.round < total and not (session and session.world.stop()) and not (enough and record and enough(record)):
        began = time.perf_counter()
        state.begin_round()
        experiment.schedules.apply(Clock(stream.position, int(stream.epoch), state.round, state.round / whole))
        with _explained(game):
            batches = [next(stream) for _ in range(game.batches_per_round)]
        with _explained(game, first=state.round == first), experiment.engine():
            metrics = game.round(*batches)
        state.end_round(shown := sum(batch.size for batch in batches))
        if experiment.augment is not None:
            metrics |= experiment.augment.after_round(metrics, shown)
        if session:
            session.share()
        state.seconds += (played := time.perf_counter()) - began
        if record is None or live is None:
            continue
        evaluating = record.after_round(metrics)
        # Pictures and checkpoints count in the next line of the log; scores are no part of training.
        state.seconds += time.perf_counter() - played - evaluating
        if live.due():
            live.show(state.round, state.images, record.losses(), waited=stream.waited)


@contextmanager
def _explained(game: Game, *, first: bool = False) -> Iterator[None]:
    """Say in one way what each device and library says in its own: that there is no memory left.

    In a session's `first` round also that networks, or a checkpoint, do not fit; but not of one's own.
    """
    try:
        yield
    except (NotImplementedError, RankLost):
        raise
    except (AttributeError, KeyError, MemoryError, RuntimeError, TypeError) as error:
        texts = "out of memory|you tried to allocate|STATUS_ALLOC_FAILED"
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and re.search(texts, str(error))):
            raise OutOfMemory(
                "there is not enough memory for a round: train with a smaller --batch_size, or with --accumulate 2 or"
                " more, which goes over each batch in parts"
            ) from None
        own = [type(part).__module__ for part in (game, *(player.net for player in game.players))]
        own += [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not first or any(name.partition(".")[0] not in ("gansmith", "torch", "contextlib") for name in own):
            raise
        named = ", ".join(f"{player.name} {type(player.net).__name__}" for player in game.players)
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"the networks, or what was loaded, do not fit this game: {named} ({why})") from error


# ---- a session: from the command to the first round, and from the last one to the end ----------------------------


@dataclass
class Session:
    """One process's part in training a run, from a start or a resume to an end."""

    world: World
    run: Path
    recipe: Recipe
    experiment: Experiment
    total: int
    live: Live
    say: Say
    quiet: bool
    record: Record | None = None

    def share(self) -> None:
        """After a round that ends with a checkpoint, on all ranks: what each has of its own, which rank 0 saves."""
        every, state = self.recipe.evaluation.every, self.experiment.state
        if self.recipe.checkpoint.due(state.round) or (every and state.round % every == 0):
            state.gather_own(self.world.gather)


@contextmanager
def _session(world: World, resolved: Resolved, out: Path | None, quiet: bool) -> Iterator[Session]:
    """Find or make the run, build the experiment, open the record; close all after the block, whatever ended it.

    Of several processes only rank 0 touches the run.
    """
    say: Say = (lambda text: None) if quiet else print
    resolved = with_full_paths(resolved)
    with ExitStack() as held:
        run, resolved = world.on_first(partial(_found, resolved, out, say, held))
        # A run that ended before its first checkpoint begins anew.
        saved = run if world.on_first(lambda: run is not None and _has_checkpoint(run)) else None
        recipe = resolved.recipe
        if run is not None and saved is None:
            say(f"there is no checkpoint in {run}: it begins anew")
        if saved is None:
            digest = world.on_first(lambda: start_digest(resolved.recipe, say))
            recipe = world.on_first(lambda: settled(resolved.recipe, world.device, say))
            recipe = replace(recipe, start=replace(recipe.start, digest=digest))
        experiment = world.in_turn(
            lambda: build(recipe, world.device, say=say, progress=not quiet, resume=saved is not None, world=world)
        )
        held.callback(experiment.stream.close)
        state = experiment.state
        if saved is not None:
            newest = world.on_first(lambda: _newest(saved, recipe, say))
            with world.together(), checkpoint.fits(newest.path):
                _load(newest, recipe, experiment, say, world)
        _check_alike(world, experiment)
        recipe = _with_steps(world, recipe, experiment, say)
        total = recipe.steps or math.ceil(recipe.n_epochs * experiment.rounds_per_epoch - 1e-9)
        experiment.total = total
        if saved is None:
            _warn_of_few(recipe, experiment, total, say)
        done = world.on_first(lambda: run is not None and runs.finished(run))
        _check_unfinished(run, done, recipe, experiment, total)
        if done and any(one.args.get("unit") == "training" for one in recipe.schedules):
            say("schedules count shares of the training: with the new length, rates that had fallen rise again")
        _warn_of_rest(experiment, total, say)
        made = runs.created(out, resolved.label, recipe.data.name, lambda: state.round == 0)
        run = world.on_first(lambda: run or held.enter_context(made))
        world.goes_on = lambda: f"; {run} goes on from its newest checkpoint" if _has_checkpoint(run) else ""
        live = Live(
            start=state.round,
            total=total,
            rounds_per_epoch=experiment.rounds_per_epoch,
            images_per_round=recipe.batch_size * experiment.game.batches_per_round,
            quiet=quiet,
        )
        session = Session(world, run, recipe, experiment, total, live, say, quiet)
        with _stop_signals(session):
            with _told(session):
                with world.together():
                    if world.rank == 0:
                        _open(session, resolved, held)
                with live:
                    _begin(session, resolved)
                    yield session
                    _end(session)
            if session.record is not None:
                session.record.summary(finished=state.round >= total)


def _found(resolved: Resolved, out: Path | None, say: Say, held: ExitStack) -> tuple[Path | None, Resolved]:
    """The run to go on with, locked, or None where a new one is to be made; and by which recipe."""
    if resolved.run is not None and out is not None:
        raise UserError(f"--out {out}: the run {resolved.run} goes on in its own folder; drop --out")
    restarts = launch().restarts
    run = resolved.run
    if run is None and restarts and (begun := _started_before(out, resolved.recipe, restarts, say)):
        run, resolved = out, replace(resolved, recipe=begun)
    if run is None:
        runs.check_free(out)
    else:
        held.enter_context(runs.locked(run, wait=RESTART_PATIENCE if restarts else 0))
    return run, resolved


def _has_checkpoint(run: Path) -> bool:
    return bool(checkpoint.everything(run / "checkpoints"))


# Seconds for the processes of the last attempt to be gone, also from another machine's point of view.
RESTART_PATIENCE = 60.0


def _started_before(out: Path | None, recipe: Recipe, restarts: int, say: Say) -> Recipe | None:
    """The recipe, as it was settled, of the run that the same command has begun in `out` before torchrun started it
    again; None if it did not get that far.
    """
    if out is None:
        raise UserError(
            f"torchrun has started this training again (restart {restarts}), and without --out nobody knows in which"
            " run; give --out RUN with --max-restarts, or go on by hand: torchrun ... train RUN"
        )
    if not is_run(out):
        return None
    begun = plan(out).recipe
    here, there = recipe.data, begun.data
    size, channels = here.img_size or there.img_size, here.channels or there.channels
    held = there.validation if here.validation < 0 else here.validation
    recipe = replace(
        recipe,
        data=replace(here, img_size=size, channels=channels, validation=held),
        start=replace(recipe.start, digest=begun.start.digest),
        engine=begun.engine if recipe.engine.precision == "auto" else recipe.engine,
    )
    if recipe.minutes and not begun.minutes:  # they were timed then
        recipe = replace(recipe, minutes=None, steps=begun.steps)
    if changed := difference(to_dict(begun), to_dict(recipe)):
        raise UserError(f"{out} holds another run, so this one cannot go on there: {changed}; choose another --out")
    say(f"torchrun has started this training again (restart {restarts}): it goes on with {out}")
    return recipe


def _check_alike(world: World, experiment: Experiment) -> None:
    """All processes have the same images and frozen networks, and the weights of rank 0."""
    digest, parts = experiment.stream.digest, experiment.state.parts
    frozen = parts["frozen"].state_dict() if "frozen" in parts else {}
    first_digest, first_frozen = world.on_first(lambda: (digest, frozen))
    with world.together():
        if digest != first_digest:
            raise UserError(f"the images here are not those of rank 0: digest {digest[:12]}, {first_digest[:12]}")
        if frozen != first_frozen:
            raise UserError(f"the frozen networks are not those of rank 0: digests {frozen}, {first_frozen}")
    for player in experiment.game.players:
        world.equalise(player.net)


def _check_unfinished(run: Path | None, done: bool, recipe: Recipe, experiment: Experiment, total: int) -> None:
    state = experiment.state
    if state.round < total or (state.round == total and run is not None and not done):  # all but the last pictures
        return
    how = "is finished" if state.round == total else f"is beyond round {total:,} already"
    longer = f"--n_epochs {math.ceil(2 * experiment.stream.epoch)}"
    raise UserError(
        f"{run} {how}: {state.round:,} rounds, {experiment.stream.epoch:.4g} epochs; to train it further give a greater"
        f" length, such as {f'--steps {2 * state.round}' if recipe.steps else longer}"
    )


def _warn_of_few(recipe: Recipe, experiment: Experiment, total: int, say: Say) -> None:
    """Say where rounds, or pictures to train on, are few: recipes do not know how large a set is."""
    held = recipe.data.validation
    if total < FEW and not recipe.steps:
        say(f"{total:,} rounds are too few for pictures to show much: give --steps, or a greater --n_epochs")
    for one in experiment.stream.sets if recipe.data.labelled is None else ():  # few are wanted then
        if 4 * held > (n := len(one) + held):
            fewer = f"--data.validation {max(1, n // 10)} holds a tenth back"
            say(f"warning: {held} of the {n} images of {one.name} are held back; {fewer}")


def _warn_of_rest(experiment: Experiment, total: int, say: Say) -> None:
    """Say where the schedules stop all players before the end: those rounds would change nothing."""

    def stands(round: int) -> bool:
        epochs = int(round / experiment.rounds_per_epoch)
        clock = Clock(round * experiment.game.batches_per_round, epochs, round, round / total)
        rates = experiment.schedules.at(clock, "lr/")
        return len(rates) == len(experiment.game.players) and not any(rates)

    if total > 1 and stands(total - 1):
        first = bisect.bisect_left(range(total), True, key=stands)
        say(f"warning: schedules: every lr is 0 from round {first:,} on, and the run has {total:,}: end them later")


FEW = 200  # rounds in which no recipe learns much
WARM_UP = 5  # rounds before those that --minutes times
TIMED = 20  # at most so many of these, or as many as take a twentieth of the minutes


def _with_steps(world: World, recipe: Recipe, experiment: Experiment, say: Say) -> Recipe:
    """The same with `steps` in place of `minutes`: rounds are timed once, and then taken back."""
    if recipe.minutes is None:
        return recipe
    state, seconds = experiment.state, 60 * recipe.minutes
    before = copy.deepcopy(state.state_dict())
    if experiment.augment is not None:
        experiment.augment.p = 1.0  # what ADA's may come to
    began, rounds = time.perf_counter(), 0
    with suppress(NonFinite):  # which the training itself will meet, and explain
        play(experiment, None, None, state.round + WARM_UP)
        began = time.perf_counter()
        while rounds < TIMED and world.on_first(lambda: time.perf_counter() - began < seconds / 20):
            play(experiment, None, None, state.round + 1)
            rounds += 1
    each = world.on_first(lambda: (time.perf_counter() - began) / max(1, rounds))
    state.load_state_dict(before)
    state.seconds = before["seconds"]
    steps = state.round + max(1, round(seconds / each))
    say(
        f"--minutes {recipe.minutes:g}: a round takes {1000 * each:.3g} ms here, so the run has --steps {steps:,}"
        f" ({steps / experiment.rounds_per_epoch:.3g} epochs); pictures, checkpoints and scores take their time beside"
        " it"
    )
    return replace(recipe, minutes=None, steps=steps)


def _open(session: Session, resolved: Resolved, held: ExitStack) -> None:
    """Write what a run begins with, and open its log and its record."""
    run, recipe, state = session.run, session.recipe, session.experiment.state
    runs.write_text(run / "recipe.yaml", to_yaml(recipe, f"gansmith run {run.name}; trains again from this file alone"))
    trust.remember(run, resolved.modules)
    runs.note_session(run, device=session.world.device, at_round=state.round)
    (run / runs.UNFINISHED).touch()
    # A session that ended between two lines left one of its own; what it told comes again, in the next one.
    at_line = state.round - bool(session.experiment.meters.state_dict()["count"])
    log = RunLog(run, at_round=at_line, scores_until=state.round) if state.round else RunLog(run)
    held.callback(log.close)
    session.record = Record(run, recipe, session.experiment, log, session.world.device, session.live.say)


def _begin(session: Session, resolved: Resolved) -> None:
    state, record = session.experiment.state, session.record
    state.gather_own(session.world.gather)
    with session.world.together():
        if record is None:
            return
        session.live.say(_banner(session, resolved.label, record.log.tensorboard))
        if state.round == 0:
            record.checkpoint()  # so that a run that is killed early can go on, too
            with _explained(session.experiment.game, first=True):
                record.evaluate()  # what cannot be measured shows now
                record.pictures()


def _end(session: Session) -> None:
    state, record = session.experiment.state, session.record
    state.gather_own(session.world.gather)
    if record is not None:
        record.checkpoint()
        record.write_metrics()
        session.live.done(state.round, state.images, record.losses())
        if found := record.trouble or record.alike:
            session.live.say(f"look again: {found}")


@contextmanager
def _told(session: Session) -> Iterator[None]:
    """Turn what ends a training early into one line that says what is kept and how to go on."""
    state = session.experiment.state
    try:
        try:
            yield
        except NonFinite as error:
            raise Diverged(_diverged(session, error)) from None
        except checkpoint.Broken as error:  # of the state that was to be saved
            how = f"training stopped after round {state.round:,}: {error}; {_newest_kept(session)}"
            raise Diverged(f"{how}. {TRY}") from None
        except OutOfMemory as error:
            if session.world.size > 1:  # the others are in the middle of the round, and cannot save it with this one
                raise RankLost(str(error)) from None
            kept = f". Round {state.round + 1} was stopped, and {_kept(session)}"
            raise UserError(f"{error}{kept if state.round else ''}") from None
        except Exception:  # a closed pipe, a full disk, a folder that cannot be written: what was trained is not lost
            if state.round and session.world.size == 1:
                with suppress(Exception):
                    session.say(f"round {state.round + 1} was not finished: {_kept(session)}")
            raise
    except RankLost as error:
        raise RankLost(f"{error}{session.world.goes_on()}") from None


# ---- stopping --------------------------------------------------------------------------------------------------


@contextmanager
def _stop_signals(session: Session) -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a wish to stop; an ignored one, as under nohup, stays ignored.

    A SIGINT more than a second later interrupts a process alone at once. Several processes agree on the round; there
    torchrun passes signals on, and kills who takes more than 30 seconds.
    """
    world, since = session.world, 0.0

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal since
        if world.asked is None:
            since = time.monotonic()
            world.asked = signum if signum == signal.SIGINT else int(signal.SIGTERM)
            if not session.quiet:
                os.write(2, b"\nstopping after this round, saving\n")  # print may be what was interrupted
        elif signum == signal.SIGINT and world.size == 1 and time.monotonic() - since > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there can signals be taken
        yield
        return
    wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {s: signal.getsignal(s) for s in wanted if signal.getsignal(s) is not signal.SIG_IGN}
    try:
        for signum in before:
            signal.signal(signum, ask)
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


TRY = "Try a lower --lr or another --seed in a new run"


def _diverged(session: Session, error: NonFinite) -> str:
    """Save the state from before the round that failed, and say who, when, and what to try."""
    kept, experiment = _kept(session), session.experiment
    if session.record is None:  # rank 0 says it
        return str(error)
    return (
        f"training stopped in round {experiment.state.round + 1} (epoch {experiment.stream.epoch:.2f}): {error}; no"
        f" weight was touched by it, and {kept}. {TRY}"
    )


def _kept(session: Session) -> str:
    """Save the state from before a round that failed, on rank 0, and say where it is, or which good one is left."""
    state = session.experiment.state
    moved = state.take_back()
    state.gather_own(session.world.gather)
    if session.record is None:
        return ""
    if checkpoint.not_finite(state.state_dict()) <= session.record.constant and not moved:
        with suppress(OSError):  # a full disk
            return f"the state before it is saved in {session.record.checkpoint()}"
    # A state in the middle of a round is none that an uninterrupted training passes through.
    return _newest_kept(session)


def _newest_kept(session: Session) -> str:
    with suppress(UserError):
        good = checkpoint.newest_good(session.run / "checkpoints", lambda text: None)
        return f"the newest good checkpoint is {good.path}"
    return "there is no checkpoint from before"


# ---- starting --------------------------------------------------------------------------------------------------


def _newest(run: Path, recipe: Recipe, say: Say) -> checkpoint.Read:
    newest = checkpoint.newest_good(run / "checkpoints", say)
    with checkpoint.fits(newest.path):
        if changed := difference(newest.info["recipe"], to_dict(recipe)):
            where = run / "recipe.yaml"
            raise UserError(f"{newest.path} does not fit {where}: {changed}; start a new run with that recipe")
    return newest


def _load(newest: checkpoint.Read, recipe: Recipe, experiment: Experiment, say: Say, world: World) -> None:
    """Take the checkpoint's state, and of several processes each its own random streams."""
    (path, tree, info), rank, size, device = newest, world.rank, world.size, world.device
    others, state = tree.get("ranks", []), experiment.state
    elsewhere, regrouped = info["device"] != device.type, 1 + len(others) != size
    engine = to_dict(recipe)["engine"]
    before = {**info["recipe"].get("engine", engine)}
    before["compile"] = before["compile"] is True  # older runs may say auto, which never compiled on a CPU
    if changed := [f"{key} was {before[key]} and is {engine[key]}" for key in engine if before[key] != engine[key]]:
        say(f"engine: {', '.join(changed)}; the training may round otherwise from here on")
    if elsewhere:
        say(f"{path} was trained on {info['device']}, this is {device.type}: noise and dropout begin with new seeds")
    elif regrouped:
        new = ", the others begin with new seeds" if size > 1 else ""
        say(f"{path} is of {1 + len(others)} rank(s), this is {size}: the noise and dropout of rank 0 go on{new}")
    state.load_state_dict(tree)
    if regrouped and state.empty_pools():
        say("the pools of past fakes start empty")
    elif rank > 0 and not regrouped:
        state.set_own(others[rank - 1])
    if elsewhere or (rank > 0 and regrouped):
        own_streams(state.noise, experiment.stream.seed, rank, state.round)


def _banner(session: Session, label: str, tensorboard: bool) -> str:
    experiment, recipe, total = session.experiment, session.recipe, session.total
    game, stream = experiment.game, experiment.stream
    counts = {player.name: sum(p.numel() for p in player.parameters) for player in game.players}
    players = ", ".join(f"{p} {n / 1e6:.2f} M" if n >= 100_000 else f"{p} {n:,}" for p, n in counts.items())
    read = "shards" if stream.sets[0].layout else "a memory map"
    where = "in memory" if stream.in_memory else f"from {read} by {recipe.data.n_cpu} threads"
    ranks = f" on each of {stream.ranks} ranks" if stream.ranks > 1 else ""
    begin = f"from round {experiment.state.round} " if experiment.state.round else ""
    events = "" if tensorboard or begin else "\nTensorBoard events are not written: pip install tensorboard"
    sets = "; ".join(f"{s.name}: {len(s):,} images {tuple(s.images.shape[1:])}" for s in stream.sets)
    held = f", {recipe.data.validation:,} held back" * (recipe.data.validation > 0)
    flips = "\npictures are mirrored at random; --no-flip leaves that out" * any(v.name == "flip" for v in recipe.views)
    seen = ""
    if recipe.augment:
        adapts = "" if recipe.ada.target is None else ", more often the more it overfits"
        seen = f"\nchanges of what D sees: {', '.join(change.name for change in recipe.augment)}{adapts}"
    return (
        f"{label}: {type(game).__name__}, {players} parameters, {session.world.device}{ranks},"
        f" seed {recipe.seed}\n{sets} {where}{held}; {begin}to round {total:,}"
        f" = {total / experiment.rounds_per_epoch:.4g} epochs{flips}{seen}\nrun folder: {session.run}{events}"
    )
