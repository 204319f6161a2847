"""The command line: parses, makes one call, prints. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from gansmith._version import __version__
from gansmith.allocator import keep_freed_memory
from gansmith.errors import Diverged, RankLost, UserError
from gansmith.launch import launch

# What has a flag of its own in --help: the post's options first, with the defaults of the recipe gan. Every other key
# of a recipe is a flag as well, by its dotted name.
OPTIONS: dict[str, tuple[str, str, str]] = {
    "n_epochs": ("INT", "passes over the training images", "200"),
    "batch_size": ("INT", "images of one batch", "64"),
    "lr": ("FLOAT", "Adam: learning rate, of both players", "0.0002"),
    "b1": ("FLOAT", "Adam: decay of the mean of the gradient", "0.5"),
    "b2": ("FLOAT", "Adam: decay of the mean of the squared gradient", "0.999"),
    "n_cpu": ("INT", "threads that decode pictures and read batches from disk", "8"),
    "latent_dim": ("INT", "dimensions of the noise", "100"),
    "img_size": ("INT", "side of the images in pixels", "28"),
    "channels": ("INT", "channels of the images: 1, 3 or 4", "1"),
    "sample_interval": ("INT", "rounds between two pictures of samples", "400"),
    "steps": ("INT", "length in rounds, in place of --n_epochs", ""),
    "seed": ("INT", "seed of weights, noise and order of the images", "0"),
}


class _OneLine(click.Group):
    """Errors are one line on stderr and exit code 2, without a traceback."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> NoReturn:
        words = list(sys.argv[1:] if args is None else args)
        _interrupts.clear()
        before = signal.getsignal(signal.SIGINT)
        here = threading.current_thread() is threading.main_thread()  # signals are set nowhere else
        noted = here and before is signal.default_int_handler
        if noted:
            signal.signal(signal.SIGINT, _interrupt)
        try:
            slips = (word for word in words if re.match("-(?!inf|nan)[a-z][a-z_]", word, re.I))
            if slip := next(slips, None):
                raise UserError(f"there is no option {slip}; did you mean -{slip}?")  # and not -h, for the h in it
            code = super().main(words, *rest, **{**options, "standalone_mode": False})
            sys.exit(code if isinstance(code, int) else 0)
        except click.ClickException as error:
            verb = next((f" {word}" for word in words if word in self.commands), "")
            _fail(f"{error.format_message()}  (gansmith{verb} --help shows what there is)")
        except UserError as error:
            _fail(str(error))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads any more
            sys.exit(1)
        except OSError as error:
            _fail(f"{_rank()}{error.filename or 'input/output'}: {error.strerror or error}", shared=False)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted", 130)
        finally:
            if noted:
                signal.signal(signal.SIGINT, before)


_interrupts: list[int] = []


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Ctrl-C as ever, but it leaves a trace."""
    _interrupts.append(signum)
    signal.default_int_handler(signum, frame)


def _heed_interrupts() -> None:
    """Called once all is imported, for some libraries swallow a Ctrl-C meanwhile."""
    if _interrupts:
        raise KeyboardInterrupt


def _fail(text: str, code: int = 2, *, shared: bool = True) -> NoReturn:
    """The one line; if all processes of torchrun `shared` the error, one of each machine says it."""
    if not shared or _speaks():
        click.echo(f"gansmith: error: {text}", err=True)
    sys.exit(code)


def _speaks() -> bool:
    try:
        return launch().local_rank == 0
    except UserError:  # which is the error to be told
        return True


def _rank() -> str:
    return f"rank {launch().rank}: " if launch().size > 1 else ""


@click.group(
    cls=_OneLine,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, package_name="gansmith")
@click.pass_context
def main(context: click.Context) -> None:
    """Train generative adversarial networks.

    \b
    gansmith train                      the vanilla GAN on MNIST
    gansmith train gan --data PICTURES  on a folder of your own pictures
    gansmith train RUN                  go on with a run
    gansmith sample RUN                 pictures from a run
    """
    if launch().size > 1 and context.invoked_subcommand not in (None, "train"):
        raise UserError(f"torchrun is for train; {context.invoked_subcommand} runs in one process")
    # Idle OpenMP threads spin; where another process wants the core, that can slow training twenty times. Measured:
    # benchmarks/spin.py.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    keep_freed_memory()
    if "" not in sys.path:
        sys.path.append("")  # a private "module:attribute" lies in the folder where one works
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _recipe_options(names: tuple[str, ...]) -> Callable[[Any], Any]:
    def add(command: Any) -> Any:
        for name in reversed(names):
            metavar, text, default = OPTIONS[name]
            shown = f"{text}  [{default}]" if default else text
            command = click.option(f"--{name}", metavar=metavar, help=shown)(command)
        return command

    return add


_FREE_WORDS = {"ignore_unknown_options": True}
_COMPILE = click.option(
    "--compile/--no-compile",
    default=None,
    help="networks through torch.compile, or not  [auto: on CUDA for 20,000 rounds or more]",
)


@main.command(context_settings=_FREE_WORDS, short_help="Train a recipe, or go on with a run.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[WHAT] [--KEY VALUE]...")
@click.option("--data", metavar="NAME|FOLDER", help="a data set by name, or a folder of pictures  [mnist]")
@click.option("--out", metavar="RUN", help="folder of the new run  [runs/RECIPE-DATA-NNN]")
@_recipe_options(tuple(OPTIONS))
@_COMPILE
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps  [auto]")
@click.option("--dry-run", is_flag=True, help="print the resolved recipe, and where each value comes from")
@click.option("--quiet", is_flag=True, help="print nothing but errors")
def train(
    words: tuple[str, ...], out: str | None, device: str, dry_run: bool, quiet: bool, **options: str | bool | None
) -> None:
    """Train WHAT: a recipe by name (gansmith recipes ls), a YAML file, or a run's folder, which goes on with it.

    The defaults shown are those of the recipe gan. Any key of a recipe is a flag too: --game.n_critic 5, or
    --networks.G.widths 64,128. Flags win over the YAML.
    """
    what, flags = _words("gan", words, options)
    from gansmith.recipe import check_resumable, is_run, plan

    if is_run(what):
        check_resumable(Path(what), flags)
    resolved = plan(what, flags=flags)  # before torch is imported: a wrong key is answered at once
    if dry_run:
        if launch().rank == 0:
            _print_plan(resolved)
        return
    from gansmith.training import Stopped
    from gansmith.training import train as run_training

    _heed_interrupts()
    try:
        run = run_training(what, out=out, device=device, overrides=flags, quiet=quiet)
    except Diverged as error:
        _fail(str(error), 1)
    except RankLost as error:
        click.echo(f"gansmith: error: {_rank()}{error}", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # all is closed, but gloo's threads of a broken connection abort a process that ends as others do
    except Stopped as stop:
        again = f"gansmith train {shlex.quote(str(stop.run))}"
        if launch().rank == 0:
            click.echo(f"stopped by {signal.Signals(stop.signum).name} and saved; go on with: {again}", err=True)
        sys.exit(128 + stop.signum)
    if not quiet and launch().rank == 0:
        recipe = plan(run).recipe
        longer = f"--steps {2 * recipe.steps}" if recipe.steps else f"--n_epochs {2 * recipe.n_epochs}"
        click.echo(f"look at:  {run / 'growth.gif'} and {run / 'curves.png'}")
        verb = "figure density" if recipe.data.values == "raw" else "sample"
        click.echo(f"then:     gansmith {verb} {shlex.quote(str(run))}")
        click.echo(f"longer:   gansmith train {shlex.quote(str(run))} {longer}")


@main.command(short_help="Make pictures with a run's generator, by seed.")
@click.argument("run")
@click.option(
    "--seeds",
    metavar="LIST",
    help="one picture per seed, such as 0-63 or 1,5,9-12  [as many as --grid holds]",
)
@click.option("--grid", metavar="COLSxROWS", help="how the pictures are laid out  [8x8]")
@click.option("--out", metavar="PATH", help=".png: a grid; .npz: arrays; a folder: one .png each  [in RUN]")
@click.option("--traverse", metavar="CODE", help="vary one code along each row (infogan): category, code1, ...")
@click.option("--round", metavar="N|best", help="the checkpoint of this round, or the best kept  [the newest]")
@click.option("--raw", is_flag=True, help="the weights themselves where the run keeps a moving average")
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps  [auto]")
def sample(
    run: str,
    seeds: str | None,
    grid: str | None,
    out: str | None,
    traverse: str | None,
    round: str | None,
    raw: bool,
    device: str,
) -> None:
    """Make pictures with the generator of RUN; the same seed gives the same picture."""
    columns, rows = _grid(grid or ("10x10" if traverse else "8x8"))
    chosen = _seeds(seeds) if seeds is not None else range(rows if traverse else columns * rows)
    if grid is not None and not traverse and len(chosen) > columns * rows:
        raise UserError(
            f"--grid {grid} has {columns * rows} places for {len(chosen)} seeds; make it larger or leave it away"
        )
    from gansmith.inference import load
    from gansmith.report.export import save_images

    sampler = load(run, round=_round(round), ema=not raw, device=device, say=_note)
    if traverse:
        pictures = sampler.traverse(traverse, chosen, columns)
        columns = pictures.shape[1]
        pictures = pictures.reshape(-1, *pictures.shape[2:])
        names = [f"seed-{seed}-{traverse}-{i}" for seed in chosen for i in range(columns)]
    else:
        pictures = sampler.sample(chosen)
        names = [f"seed-{seed}" for seed in chosen]
    what = traverse or f"seeds-{seeds or f'0-{len(chosen) - 1}'}"
    path = Path(out) if out else Path(run) / f"sample-{sampler.round:06d}{'-raw' * raw}-{what}.png"
    save_images(pictures, path, columns=columns, names=names)
    click.echo(f"{len(pictures)} pictures of round {sampler.round}: {path}")


@main.command(short_help="Walk through a run's latent space, from seed to seed.")
@click.argument("run")
@click.option("--seeds", default="0-4", metavar="LIST", help="the path goes through these, such as 0,7 or 0-4  [0-4]")
@click.option(
    "--frames",
    default=10,
    type=click.IntRange(min=2),
    metavar="N",
    help="pictures from one seed to the next  [10]",
)
@click.option("--out", metavar="PATH", help=".png: a strip per pair of seeds; .gif: a film that loops  [in RUN]")
@click.option("--round", metavar="N|best", help="the checkpoint of this round, or the best kept  [the newest]")
@click.option("--raw", is_flag=True, help="the weights themselves where the run keeps a moving average")
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps  [auto]")
def interpolate(run: str, seeds: str, frames: int, out: str | None, round: str | None, raw: bool, device: str) -> None:
    """Walk through the latent space of RUN, from one seed to the next."""
    chosen = _seeds(seeds)
    path = Path(out) if out else None
    if len(chosen) < 2:
        raise UserError(f"--seeds {seeds} is a single seed; a path needs at least two seeds, such as 0,7")
    if path and path.suffix.lower() not in (".png", ".gif"):
        raise UserError(f"--out {path}: it must end in .png (a strip) or .gif (a film)")
    from gansmith.inference import load
    from gansmith.report.export import save_film, save_images

    sampler = load(run, round=_round(round), ema=not raw, device=device, say=_note)
    path = path or Path(run) / f"interpolate-{sampler.round:06d}{'-raw' * raw}-seeds-{seeds}.png"
    if path.suffix.lower() == ".gif":
        closed = [*chosen, chosen[0]]
        pictures = sampler.interpolate(closed, frames + 1)[:, :-1]  # each path's end is the next one's start
        save_film(pictures.reshape(-1, 1, *pictures.shape[2:]), path)
    else:
        pictures = sampler.interpolate(chosen, frames)
        save_images(pictures.reshape(-1, *pictures.shape[2:]), path, columns=frames)
    click.echo(f"{pictures.shape[0]} x {pictures.shape[1]} pictures of round {sampler.round}: {path}")


@main.command(short_help="Draw a figure from a run: samples beside training images, weights, walks, ...")
@click.argument("name")
@click.argument("run")
@click.option("--out", metavar="PATH", help="a .png, of walk a .gif  [in RUN]")
@click.option("--seeds", metavar="LIST", help="where the figure starts from, such as 0-19 or 1,5,9-12")
@click.option("--round", metavar="N|best", help="the checkpoint of this round, or the best kept  [the newest]")
@click.option("--raw", is_flag=True, help="the weights themselves where the run keeps a moving average")
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps  [auto]")
def figure(name: str, run: str, out: str | None, seeds: str | None, round: str | None, raw: bool, device: str) -> None:
    """Draw the figure NAME from RUN.

    \b
    samples        rows of five samples and, framed, the training image nearest to the fifth
    interpolation  rows of pictures on the way from one seed to another
    plane          a cross-section of the latent space through two seeds
    walk           a film of many streams that wander through the latent space
    weights        what D's first layer and G's last one look at and draw with
    density        p_data, p_g, D and the optimal D in four stages (of the recipe figure1)
    """
    from gansmith.schema import did_you_mean, table

    names = table("gansmith.figures", "FIGURES")
    if name not in names:  # before torch is imported
        raise UserError(f"there is no figure {name!r}{did_you_mean(name, names)} (figures: {', '.join(names)})")
    chosen = _seeds(seeds) if seeds is not None else None
    at = _round(round)
    from gansmith.figures import figure as draw

    path = draw(name, run, out=out, seeds=chosen, round=at, ema=not raw, device=device, say=_note)
    click.echo(f"figure {name}: {path}")


@main.command(short_help="Score a run's generator, or a folder of pictures.")
@click.argument("what", nargs=-1, required=True, metavar="RUN|FOLDER...")
@click.option(
    "--metrics",
    metavar="LIST",
    help="of parzen_ll, fd, kd, pr, dc, score, classes, stacked, memorised, memorised_pixels  [all possible]",
)
@click.option("--n", type=click.IntRange(min=2), metavar="N", help="samples in a set  [what is usual for each metric]")
@click.option("--seeds", metavar="LIST", help="one set of samples for each seed; +- is their spread  [0-2]")
@click.option(
    "--reference",
    type=click.Choice(["test", "validation", "train"]),
    help="the real images to compare with  [test; of a folder without, validation or train]",
)
@click.option(
    "--features", type=click.Choice(["mnist", "inception"]), help="what images are compared by  [as the data]"
)
@click.option("--inception-weights", metavar="FILE", help="Inception's weights  [a download that is announced]")
@click.option(
    "--data", metavar="NAME|FOLDER|RUN", help="for a folder of pictures: the real images, or a run that has them"
)
@click.option("--img_size", type=click.IntRange(min=1), metavar="INT", help="their side, with --data NAME|FOLDER  [28]")
@click.option("--channels", type=click.IntRange(1, 3), metavar="INT", help="1 or 3, with --data NAME|FOLDER  [1]")
@click.option("--round", metavar="N|best", help="the checkpoint of this round, or the best kept  [the newest]")
@click.option("--raw", is_flag=True, help="the weights themselves where the run keeps a moving average")
@click.option("--out", metavar="FOLDER", help="for receipts.jsonl and the nearest training images  [the RUN itself]")
@click.option("--json", "as_json", is_flag=True, help="print the receipts as JSON")
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps  [auto]")
def evaluate(
    what: tuple[str, ...],
    metrics: str | None,
    n: int | None,
    seeds: str | None,
    reference: Any,
    features: str | None,
    inception_weights: str | None,
    data: str | None,
    img_size: int | None,
    channels: int | None,
    round: str | None,
    raw: bool,
    out: str | None,
    as_json: bool,
    device: str,
) -> None:
    """Score a generator: Parzen log-likelihood, distances in features, modes, memorisation.

    Beside each score stands what real images reach. Several runs are printed side by side, if they are comparable.
    Receipts are kept in receipts.jsonl of each run. docs/metrics.md says what the scores are.
    """
    from gansmith.recipe import is_run
    from gansmith.schema import did_you_mean, table

    known = table("gansmith.measures", "METRICS")
    names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    for name in names or ():  # before torch is imported
        if name not in known:
            raise UserError(f"there is no metric {name!r}{did_you_mean(name, known)} (metrics: {', '.join(known)})")
    chosen, number_of_round = _seeds(seeds or "0-2"), _round(round)
    runs = [is_run(Path(one)) for one in what]
    for one in what:
        if not Path(one).is_dir():
            raise UserError(f"{one} is neither a run nor a folder of pictures")
    if not all(runs) and (seeds or round or raw):
        raise UserError("--seeds, --round and --raw are for a run; a folder of pictures is one set of samples as it is")
    if any(runs) and data is not None:
        raise UserError("--data is for a folder of pictures; a run is compared with its own data")
    real = _real_images(data, img_size, channels)
    from gansmith import strict_json
    from gansmith.evaluation import evaluate as run_evaluate
    from gansmith.evaluation import shared_metrics
    from gansmith.receipts import check_comparable

    if names is None and len(what) > 1 and all(runs):
        names = shared_metrics([Path(one) for one in what], features, reference)
    _heed_interrupts()
    with _result_alone():
        columns = [
            run_evaluate(
                Path(one),
                metrics=names,
                n=n,
                seeds=chosen,
                data=real,
                reference=reference,
                features=features,
                inception_weights=Path(inception_weights) if inception_weights else None,
                round=number_of_round,
                ema=not raw,
                device=device,
                out=Path(out) if out else Path(one) if run else None,
                say=_note,
            )
            for one, run in zip(what, runs, strict=True)
        ]
    if as_json:
        click.echo(strict_json.dumps([receipt.as_dict() for column in columns for receipt in column], indent=1))
        return
    try:
        for row in zip(*columns, strict=True):
            check_comparable(row)
    except (UserError, ValueError) as error:  # what was measured is shown all the same
        for column in columns:
            _print_scores([column])
        raise UserError(f"the scores stand apart: {error}") from None
    _print_scores(columns)


def _real_images(data: str | None, img_size: int | None, channels: int | None) -> Any:
    """The data section that --data names: that of a run, or a set by name or folder; None without --data."""
    from gansmith.recipe import Data, is_run, plan

    if data is not None and is_run(Path(data)):
        return plan(Path(data)).recipe.data
    if data is None and (img_size or channels):
        raise UserError("--img_size and --channels go with --data; a run has its own")
    if channels == 2:
        raise UserError("--channels is 2; it must be 1 or 3")
    return None if data is None else Data(name=data, img_size=img_size or 28, channels=channels or 1)  # type: ignore[arg-type]


@main.command(short_help="Reproduce a number of a paper, with its ablations.")
@click.argument("name", default="gan2014_mnist")
@click.option(
    "--seeds",
    default=3,
    type=click.IntRange(min=1),
    metavar="K",
    help="seeds 0 to K-1: K trainings of each variant  [3]",
)
@click.option("--only", metavar="LIST", help="some of the variants, such as paper,alternating  [all]")
@click.option("--n_epochs", type=click.IntRange(min=1), metavar="INT", help="length of each training  [the recipe's]")
@click.option("--out", metavar="FOLDER", help="runs and table  [runs/reproduce-NAME]")
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps  [auto]")
@click.option("--quiet", is_flag=True, help="print nothing but the table and errors")
def reproduce(
    name: str, seeds: int, only: str | None, n_epochs: int | None, out: str | None, device: str, quiet: bool
) -> None:
    """Train every variant with K seeds, score the best checkpoints, write one table.

    Stopped, the same command goes on where it was.
    """
    from gansmith.reproduction import REPRODUCTIONS, table
    from gansmith.reproduction import reproduce as run_reproduce
    from gansmith.training import Stopped

    _heed_interrupts()
    try:
        rows = run_reproduce(
            name,
            seeds=range(seeds),
            only=None if only is None else [variant.strip() for variant in only.split(",")],
            n_epochs=n_epochs,
            out=Path(out) if out else None,
            device=device,
            quiet=quiet,
            say=(lambda text: None) if quiet else _note,
        )
    except Stopped as stop:
        click.echo("stopped and saved; the same command goes on where it was", err=True)
        sys.exit(128 + stop.signum)
    click.echo(table(REPRODUCTIONS[name], rows))


@main.group(short_help="Measure on this machine: parts of a round, time until a score.")
def bench() -> None:
    """Measure on this machine, with this recipe, now."""


@bench.command("step", context_settings=_FREE_WORDS, short_help="Where the time of a round goes.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RECIPE] [--KEY VALUE]...")
@click.option("--data", metavar="NAME|FOLDER", help="a data set by name, or a folder of pictures  [the recipe's]")
@click.option("--no-switches", is_flag=True, help="leave out other settings; compiling takes a minute")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
@_COMPILE
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps  [auto]")
def bench_step(
    words: tuple[str, ...], data: str | None, no_switches: bool, as_json: bool, compile: bool | None, device: str
) -> None:
    """Time the parts of RECIPE's rounds, what this device could do at most, and what other settings of engine bring.

    Any key of a recipe is a flag: --batch_size 256. Nothing is kept.
    """
    what, flags = _words("gan", words, {"data": data, "compile": compile})
    from gansmith.recipe import plan

    plan(what, flags=flags)  # before torch is imported: a wrong key is answered at once
    from gansmith import strict_json
    from gansmith.profiling import profile, report

    with _result_alone():
        result = profile(what, overrides=flags, device=device, switches=not no_switches, say=_note)
    click.echo(strict_json.dumps(result.as_dict(), indent=1) if as_json else report(result), nl=as_json)


@bench.command("time-to-quality", context_settings=_FREE_WORDS, short_help="Train until a score is reached.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RECIPE] [--KEY VALUE]...")
@click.option("--until", multiple=True, metavar="GOAL", help="such as 'fd<=60', in quotes; several must all hold")
@click.option("--data", metavar="NAME|FOLDER", help="a data set by name, or a folder of pictures  [the recipe's]")
@click.option(
    "--seeds", default=3, type=click.IntRange(min=1), metavar="K", help="seeds 0 to K-1: a training of each  [3]"
)
@click.option("--max-minutes", default=10.0, type=float, metavar="M", help="of training, for each seed  [10]")
@click.option("--out", metavar="FOLDER", help="runs, table, curves  [runs/time-to-quality-RECIPE]")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
@_COMPILE
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps  [auto]")
@click.option("--quiet", is_flag=True, help="print nothing but the table and errors")
def bench_time_to_quality(
    words: tuple[str, ...],
    until: tuple[str, ...],
    data: str | None,
    seeds: int,
    max_minutes: float,
    out: str | None,
    as_json: bool,
    compile: bool | None,
    device: str,
    quiet: bool,
) -> None:
    """Train RECIPE with K seeds until scores on held-back images are reached; seconds, images, rounds, hardware.

    A goal names a value of gansmith evaluate (fd, kd, precision, coverage, class_kl, ...). Scores are taken every
    --evaluation.every rounds [an epoch] on --data.validation images with --evaluation.n samples, and their time does
    not count. Stopped, the same command goes on where it was.
    """
    what, flags = _words("gan", words, {"data": data, "compile": compile})
    from gansmith.recipe import plan

    plan(what, flags=flags)  # before torch is imported: a wrong key is answered at once
    from gansmith import strict_json
    from gansmith.time_to_quality import table, time_to_quality
    from gansmith.training import Stopped

    _heed_interrupts()
    try:
        with _result_alone():
            result = time_to_quality(
                what,
                until,
                seeds=range(seeds),
                max_minutes=max_minutes,
                overrides=flags,
                out=Path(out) if out else None,
                device=device,
                quiet=quiet,
                say=(lambda text: None) if quiet else _note,
            )
    except Stopped as stop:
        click.echo("stopped and saved; the same command goes on where it was", err=True)
        sys.exit(128 + stop.signum)
    click.echo(strict_json.dumps(result.as_dict(), indent=1) if as_json else table(result), nl=as_json)


@main.command(context_settings=_FREE_WORDS, short_help="Check that a resumed run is the same run, bit for bit.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RECIPE] [--KEY VALUE]...")
@click.option("--data", metavar="NAME|FOLDER", help="a data set by name, or a folder of pictures  [the recipe's]")
@click.option(
    "--steps",
    default=20,
    type=click.IntRange(min=1),
    metavar="N",
    help="rounds before and after the resume  [20]",
)
@_COMPILE
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps  [auto]")
def verify(words: tuple[str, ...], data: str | None, steps: int, compile: bool | None, device: str) -> None:
    """Check on this machine that training 2N rounds equals N, a resume, and N more, bit for bit."""
    what, flags = _words("gan", words, {"data": data, "compile": compile})
    from gansmith.recipe import is_run, plan

    if is_run(what):
        raise UserError(f"{what} is a run; verify takes a recipe: gansmith verify {Path(what) / 'recipe.yaml'}")
    plan(what, flags=flags)
    from gansmith.exactness import verify as run_verify

    result = run_verify(what, steps=steps, device=device, overrides=flags)
    if not result.exact:
        shown = ", ".join(result.different[:5])
        _fail(
            f"{len(result.different)} of {result.tensors + result.values} differ after {result.rounds} rounds: {shown}",
            1,
        )
    click.echo(
        f"exact: {steps} rounds + resume + {steps} rounds equal {result.rounds} rounds, bit for bit"
        f" ({result.tensors} tensors and {result.values} values compared)"
    )


@main.group(invoke_without_command=True)
@click.pass_context
def recipes(context: click.Context) -> None:
    """The recipes that gansmith ships: list, show, copy."""
    if context.invoked_subcommand is None:
        context.invoke(recipes_ls)


@recipes.command("ls")
def recipes_ls() -> None:
    """List them, each with the first line of its header."""
    from gansmith.recipe import recipe_names, recipe_text

    names = recipe_names()
    wide = max(map(len, names))
    for name in names:
        click.echo(f"{name:{wide}s}  {recipe_text(name).splitlines()[0].removeprefix('# ')}")


@recipes.command("show")
@click.argument("name", metavar="NAME|RUN")
def recipes_show(name: str) -> None:
    """Print the recipe NAME, header included, or that of a run."""
    from gansmith.recipe import is_run, recipe_text

    own = Path(name) / "recipe.yaml"
    click.echo(own.read_text(encoding="utf-8") if is_run(Path(name)) else recipe_text(name), nl=False)


@recipes.command("cp")
@click.argument("name")
@click.argument("path", required=False)
def recipes_cp(name: str, path: str | None) -> None:
    """Copy the recipe NAME to PATH, to change it and train it: gansmith train PATH."""
    from gansmith.recipe import recipe_text

    text = recipe_text(name)
    target = Path(path or f"{name}.yaml")
    target = target / f"{name}.yaml" if target.is_dir() else target
    if target.suffix not in (".yaml", ".yml"):
        raise UserError(f"{target}: a recipe's file ends in .yaml")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{target} exists; give another path") from None
    click.echo(f"change it, then: gansmith train {target}")


# ---- what the verbs share --------------------------------------------------------------------------------------


def _words(
    default: str, words: tuple[str, ...], options: Mapping[str, str | bool | None]
) -> tuple[str, dict[str, Any]]:
    """(WHAT, flags) of a command line: WHAT may stand anywhere, `--a.b 1`, `--a.b=1` and `a.b=1` are flags."""
    full = {"data": "data.name", "compile": "engine.compile"}
    flags = {full.get(key, key): str(value) for key, value in options.items() if value is not None}
    rest, found = list(words), []
    while rest:
        word = rest.pop(0)
        key, equals, value = word.partition("=")
        if word.startswith("--") and not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{word} needs a value{_suggest(key)}")
            value = rest.pop(0)
        elif not equals:
            if word.startswith("-"):
                raise UserError(f"there is no option {word}{_suggest(key)}")
            found.append(word)
            continue
        flags[key.lstrip("-").replace("-", "_")] = value
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]}: one recipe, file or run at a time")
    import yaml

    values: dict[str, Any] = {}
    for key, value in flags.items():
        try:
            # A name is never a number, 010 is ten and not YAML's octal eight, 256,128 is a list without the brackets
            # that shells want for themselves.
            if re.fullmatch(r"\d+(,\d+)+", value):
                values[key] = [int(number) for number in value.split(",")]
                continue
            plain = key == "data.name" or value.lstrip("+-").isdecimal()
            values[key] = int(value) if plain and key != "data.name" else value if plain else yaml.safe_load(value)
        except yaml.YAMLError:
            values[key] = value
    return (found[0] if found else default), values


def _suggest(flag: str) -> str:
    from gansmith.schema import did_you_mean

    return did_you_mean(
        flag, [f"--{name}" for name in (*OPTIONS, "compile", "no-compile", "data", "out", "device", "dry-run", "quiet")]
    )


def _grid(text: str) -> tuple[int, int]:
    columns, _, rows = text.lower().partition("x")
    if columns.isdecimal() and rows.isdecimal() and int(columns) > 0 and int(rows) > 0:
        return int(columns), int(rows)
    raise UserError(f"--grid is {text!r}; it must be columns x rows, such as 8x8")


def _seeds(text: str) -> list[int]:
    """The whole numbers in "0-63" or "1,5,9-12"."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UserError(f"--seeds is {text!r}; it must be whole numbers such as 0-63 or 1,5,9-12")
        if int(last or first) >= 2**63:
            raise UserError(f"--seeds is {text!r}; a seed is below 2**63")
        if int(last or first) - int(first) >= 100_000:
            raise UserError(f"--seeds is {text!r}; at most 100000 pictures at a time")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def _round(text: str | None) -> Any:
    """A round's number, "best", or None."""
    if text is None or text == "best":
        return text
    if not text.isdecimal():
        raise UserError(f"--round is {text!r}; it must be the round of a checkpoint, such as 1000, or best")
    return int(text)


def _print_scores(columns: Sequence[Sequence[Any]]) -> None:
    """One line per score: each generator's value and spread, what real images reach, which end is better."""
    from rich.console import Console
    from rich.table import Table

    from gansmith.receipts import number

    table = Table(box=None, pad_edge=False)
    table.add_column("score")
    for column in columns:
        subject = column[0].subject
        at = f", round {subject['round']}" if "round" in subject else ""
        table.add_column(f"{subject['what']}{at}", justify="right", overflow="fold")
    table.add_column("real images", justify="right")
    table.add_column("better")
    for row in zip(*columns, strict=True):
        first = row[0]
        name = f"{first.metric} ({first.unit})" if first.unit else first.metric
        table.add_row(
            name, *(receipt.text() for receipt in row), "" if first.real is None else number(first.real), first.better
        )
    Console().print(table)
    click.echo(
        "+-: standard deviation over sets of samples" if columns[0][0].spread is not None else "one set of samples"
    )
    for column in columns:
        for receipt in column:
            if "standard_error" in receipt.details:
                sigmas = receipt.details["sigma"]
                flat = [s for sigma in sigmas for s in (sigma if isinstance(sigma, list) else [sigma])]
                shown = ", ".join(dict.fromkeys(map(number, flat)))
                error = number(max(receipt.details["standard_error"]))
                click.echo(f"{receipt.metric} of {receipt.subject['what']}: sigma {shown}, standard error {error}")
    for receipt in columns[0]:
        if receipt.note:
            click.echo(f"{receipt.metric} is {receipt.note}")


def _note(text: str) -> None:
    click.echo(text, err=True)


def _result_alone() -> AbstractContextManager[Any]:
    """What anybody prints meanwhile goes to stderr, so that stdout holds the result and nothing else."""
    return redirect_stdout(sys.stderr)


def _print_plan(resolved: Any) -> None:
    rows = [(key, "null" if value is None else str(value), origin) for key, value, origin in resolved.lines()]
    wide = [max(len(row[i]) for row in rows) for i in (0, 1)]
    for key, value, origin in rows:
        click.echo(f"{key:{wide[0]}s}  {value:{wide[1]}s}  # {origin}")
