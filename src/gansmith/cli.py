"""The command line: parses, makes one call, prints. Nothing heavy is imported before a verb needs it."""

import os
import re
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import reduce
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
    "img_size": ("INT|H,W", "side of the images in pixels, or height and width", "28"),
    "channels": ("INT", "channels of the images: 1, 3 or 4", "1"),
    "sample_interval": ("INT", "rounds between two pictures of samples", "400"),
    "steps": ("INT", "length in rounds, in place of --n_epochs", ""),
    "minutes": ("FLOAT", "length in minutes of this machine, in place of --n_epochs", ""),
    "seed": ("INT", "seed of weights, noise and order of the images", "0"),
}

Text = str | None  # what an option says, if it is given
_interrupts: list[int] = []


class _OneLine(click.Group):
    """Errors are one line on stderr and exit code 2, without a traceback."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> NoReturn:
        words = list(sys.argv[1:] if args is None else args)
        _interrupts.clear()
        here = threading.current_thread() is threading.main_thread()  # signals are set nowhere else
        noted = here and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if noted:
            signal.signal(signal.SIGINT, _interrupt)
        try:
            slips = (word for word in words if re.match("-(?!inf|nan)[a-z][a-z_]", word, re.I))
            if slip := next(slips, None):
                raise UserError(f"there is no option {slip}; did you mean -{slip}?")  # not -h, because of the h in it
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
                signal.signal(signal.SIGINT, signal.default_int_handler)


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
    try:
        silent = shared and launch().local_rank > 0
    except UserError:  # which is the error to be told
        silent = False
    if not silent:
        # What a file is called, or holds, must not speak to the terminal.
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
        click.echo(f"gansmith: error: {shown}", err=True)
    sys.exit(code)


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
    gansmith translate RUN PICTURES     pictures out of yours (pix2pix, cyclegan)
    """
    warnings.filterwarnings("ignore", message="Image size")  # Pillow's; data.max_megapixels says what is too large
    if launch().size > 1 and context.invoked_subcommand not in (None, "train"):
        raise UserError(f"torchrun is for train; {context.invoked_subcommand} runs in one process")
    # Idle OpenMP threads spin; where another process wants the core, that can slow training twenty times. Measured:
    # benchmarks/spin.py.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    keep_freed_memory()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


# ---- options, and what their texts say -----------------------------------------------------------------------------


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


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _attributes(text: str) -> dict[str, bool]:
    """Attributes by name and what they shall be: hair=white is one that shall be, smiling=0 one that shall not."""
    found = {}
    for word in text.split(","):
        name, _, value = word.strip().rpartition("=")
        found[name if name and value in ("0", "1") else word.strip()] = value != "0"
    return found


def _round(text: str) -> int | str:
    if text != "best" and not text.isdecimal():
        raise UserError(f"--round is {text!r}; it must be the round of a checkpoint, such as 1000, or best")
    return text if text == "best" else int(text)


def _path(text: str) -> Path | None:
    return Path(text) if text else None  # an empty variable of a shell is not this folder


def _trust(context: click.Context, option: click.Parameter, given: bool) -> None:
    """Processes that this one starts inherit it."""
    if given:
        os.environ["GANSMITH_TRUST"] = "1"


def _option(
    name: str, metavar: Text, text: str, type: Any = None, default: Any = None, *, read: Callable[[str], Any] = str
) -> Callable[[Any], Any]:
    """An option with a value, given as what `read` makes of its text where it has no `type`."""

    def value(context: click.Context, option: click.Parameter, typed: Any) -> Any:
        if typed == "":
            raise UserError(f"{name} is empty; it needs a value")
        return typed if typed is None or type is not None else read(typed)

    return click.option(name, metavar=metavar, help=text, type=type, default=default, callback=value)


def _all(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


_COUNT, _TWO_OR_MORE = click.IntRange(min=1), click.IntRange(min=2)
_SPLITS = click.Choice(["test", "validation", "train"])
_FEATURES = click.Choice(["mnist", "inception", "mobilenet"])
_CHANNELS = click.Choice(["1", "3"])
_FREE_WORDS = {"ignore_unknown_options": True}
_RECIPE = click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RECIPE] [--KEY VALUE]...")
_KEYS = {
    name: _option(f"--{name}", metavar, f"{text}  [{default}]" if default else text)
    for name, (metavar, text, default) in OPTIONS.items()
}
_LENGTHS = ("steps", "n_epochs", "minutes")
_DEVICE = _option("--device", "DEVICE", "auto, cpu, cuda or mps  [auto]", default="auto")
_TRUST = click.option(
    "--trust",
    is_flag=True,
    expose_value=False,
    callback=_trust,
    help="import the modules that a recipe's file or a run names",
)
_DATA = _option("--data", "NAME|FOLDER", "a data set, or a folder of pictures  [the recipe's]")
_JSON = click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
_QUIET = click.option("--quiet", is_flag=True, help="print nothing but the table and errors")
_MAKER = _option("--maker", "NAME", "which of a game's makers  [the first]")
_TO = _option("--to", "FIELD", "the maker that imitates this field of the data, such as b")
_ROUND = _option("--round", "N|best", "the checkpoint of this round, or the best kept  [the newest]", read=_round)
_RAW = click.option(
    "--raw",
    "ema",
    is_flag=True,
    callback=lambda context, option, raw: not raw,
    help="the weights themselves where the run keeps a moving average",
)
_RUN_OPTIONS = _all(_ROUND, _RAW, _DEVICE, _TRUST)  # of every verb that opens a run


@main.command(context_settings=_FREE_WORDS, short_help="Train a recipe, or go on with a run.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[WHAT] [--KEY VALUE]...")
@_option("--data", "NAME|FOLDER", "a data set by name, or a folder of pictures  [mnist]")
@_option("--out", "RUN", "folder of the new run  [runs/RECIPE-DATA-NNN]")
@_all(*_KEYS.values())
@_option("--from", "RUN", "start all players from a run's newest weights, averaged ones if any")
@click.option("--raw", is_flag=True, help="with --from: the weights themselves where that run keeps a moving average")
@click.option("--no-flip", is_flag=True, help="mirror no picture, where the recipe does: for letters, clocks, ...")
@_DEVICE
@_TRUST
@click.option("--dry-run", is_flag=True, help="print the resolved recipe, and where each value comes from")
@click.option("--quiet", is_flag=True, help="print nothing but errors")
def train(words: tuple[str, ...], out: Text, device: str, dry_run: bool, quiet: bool, **options: Any) -> None:
    """Train WHAT: a recipe by name (gansmith recipes ls), a YAML file, or a run's folder, to continue it.

    The defaults shown are those of the recipe gan. Any key of a recipe is a flag too: --game.n_critic 5, or
    --networks.G.widths 64,128. Flags win over the YAML.
    """
    no_flip, raw = options.pop("no_flip"), options.pop("raw")
    what, flags = recipe_words("gan", words, {**options, "raw": raw or None})
    from gansmith.recipe import check_resumable, is_run, plan, recipe_names, without_flip

    if is_run(what):
        check_resumable(Path(what), flags)
    resolved = plan(what, flags=flags)  # before the rest is imported: a wrong key is answered at once
    if no_flip:
        views = {"views": without_flip(resolved.recipe)}
        if is_run(what):
            check_resumable(Path(what), views)
        resolved = plan(what, flags={**flags, **views})
    if (named := flags.get("objective")) in set(recipe_names()) - {what} and not quiet:
        _note(f"--objective {named} is the loss alone; for the whole method: gansmith train {named}")
    if dry_run:
        if launch().rank == 0:
            _print_plan(resolved, device)
        return
    from gansmith.training import Stopped
    from gansmith.training import train as run_training

    _heed_interrupts()
    try:
        run = run_training(resolved, out=out, device=device, quiet=quiet)
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
        _say_what_next(run)


def _say_what_next(run: Path) -> None:
    from gansmith.build import game_of
    from gansmith.recipe import plan

    recipe = plan(run, trust=True).recipe  # with what was chosen at the start; its modules are loaded already
    name = shlex.quote(str(run))
    first = next(iter(game_of(recipe).makers.values()))
    verb = "figure density" if recipe.data.size == (1, 1) else "translate" if first.pictures else "sample"
    longer = f"--steps {2 * recipe.steps}" if recipe.steps else f"--n_epochs {2 * recipe.n_epochs}"
    click.echo(f"look at:  {run / 'growth.gif'} and {run / 'curves.png'}")
    click.echo("          (how to read the curves: docs/curves.md of gansmith's repository)")
    click.echo(f"then:     gansmith {verb} {name}{' PICTURES' if first.pictures else ''}")
    click.echo(f"longer:   gansmith train {name} {longer}")


@main.command(short_help="Make pictures with a run's generator, by seed.")
@click.argument("run")
@_option("--seeds", "LIST", "a picture per seed, such as 0-63 or 1,5,9-12  [as many as --grid holds]")
@_option("--n", "N", "the first N seeds", _COUNT)
@_option("--label", "CLASS", "of this class, by name or number  [a column for each class]")
@_option("--grid", "COLSxROWS", "how the pictures are laid out  [8x8]")
@_option("--out", "PATH", ".png, .jpg, .webp: a grid; .npz: arrays; a folder: one .png each  [in RUN]", read=_path)
@_option("--traverse", "CODE", "vary one code along each row (infogan): category, code1, ...")
@_MAKER
@_TO
@_RUN_OPTIONS
def sample(
    run: str, seeds: Text, n: int | None, label: Text, grid: Text, out: Path | None, traverse: Text, **opened: Any
) -> None:
    """Make pictures with the generator of RUN; the same seed gives the same picture."""
    if n is not None and seeds is not None:
        raise UserError("--n and --seeds both say how many; give one of them")
    seeds = seeds if n is None else f"0-{n - 1}"
    listed = None if seeds is None else _seeds(seeds)  # before torch is imported
    if traverse and label:
        raise UserError("--traverse varies a code of the noise; --label does not go with it")
    columns, rows = _grid(grid or ("10x10" if traverse else "8x8"))
    from gansmith import hub
    from gansmith.inference import load, open_run
    from gansmith.papers.points import POINTS, save_points
    from gansmith.run.export import save_images

    here = open_run(hub.local(run, _note), opened["round"], _note)
    sampler = load(here, kind="latent", say=_note, **opened)
    if sampler.values == "raw":
        if label or grid or traverse:
            raise UserError(f"{run} makes numbers, not pictures: --label, --grid and --traverse do not go with it")
        seeds = seeds or f"0-{POINTS - 1}"
        path = _place(out, run, "sample", sampler, opened["ema"], f"seeds-{seeds}")
        save_points(here, sampler, _seeds(seeds), path)
        return click.echo(f"{len(_seeds(seeds))} points of round {sampler.round}: {path}")
    by_class = sampler.maker.labelled and label is None and not traverse and grid is None
    if by_class:
        columns = len(sampler.classes.names)
    chosen = range(rows if traverse or by_class else columns * rows) if listed is None else listed
    if grid is not None and not (traverse or by_class) and len(chosen) > columns * rows:
        raise UserError(f"--grid {grid} has {columns * rows} places for {len(chosen)} seeds; make it larger or drop it")
    digits = len(str(max(chosen)))  # so that files sort as seeds do
    if traverse:
        pictures = sampler.traverse(traverse, chosen, columns)
        columns = pictures.shape[1]
        pictures = pictures.reshape(-1, *pictures.shape[2:])
        own = [f"-{traverse}-{i}" for i in range(columns)]
    elif by_class:
        pictures = sampler.sample([seed for seed in chosen for _ in range(columns)], [*range(columns)] * len(chosen))
        own = [f"-class-{name.replace('/', '_')}" for name in sampler.classes.names]
    else:
        pictures = sampler.sample(chosen, None if label is None else _class(label, sampler.classes.names))
        own = [""]
    names = [f"seed-{seed:0{digits}}{each}" for seed in chosen for each in own]
    of_class = f"class-{label.replace('/', '_')}-" if label else ""
    what = of_class + (traverse or f"seeds-{seeds or f'0-{len(chosen) - 1}'}")
    path = _place(out, run, "sample", sampler, opened["ema"], what)
    save_images(pictures, path, columns=columns, names=names)
    told = f", columns: {', '.join(sampler.classes.names)}" if by_class else ""
    click.echo(f"{len(pictures)} pictures of round {sampler.round}{told}: {path}")


def _place(out: Path | None, run: str, verb: str, sampler: Any, ema: bool, what: str) -> Path:
    """`out`, or a picture in the run, of one on the hub here, whose name says how it was made."""
    folder, weights = Path("." if run.startswith("hf:") else run), "" if ema else "-raw"
    return out or folder / f"{verb}-{sampler.round:06d}{weights}-{what}.png"


def _class(label: str, names: Sequence[str]) -> int:
    """The number of a class by its name, or by itself."""
    from gansmith.schema import did_you_mean

    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < len(names):
        return int(label)
    if not names:
        raise UserError(f"--label {label}: this generator has no labels: it was trained without")
    numbered = label.isdecimal() and list(names) == [str(i) for i in range(len(names))]
    numbers = "" if numbered else f" (or 0-{len(names) - 1})"
    raise UserError(f"--label is {label!r}; it must be one of {', '.join(names)}{numbers}{did_you_mean(label, names)}")


@main.command(short_help="Translate pictures with a run that was trained on pairs or two domains.")
@click.argument("run")
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE|FOLDER...")
@_option("--out", "FOLDER", "for the results, under the same names  [in RUN]")
@click.option("--resize", is_flag=True, help="take pictures to the next size that fits and back")
@_option("--seeds", "LIST", "an output per seed, where the network leaves some to chance", default="0", read=_seeds)
@_option("--style", "PICTURE", "make them in the style of this one (munit, bicyclegan)")
@_option("--mask", "PICTURE", "fill the hole, which is white in this one (context_encoder, ccgan)")
@_option("--attributes", "LIST", "change these, such as hair=white,smiling=0 (stargan)", read=_attributes)
@_MAKER
@_TO
@_RUN_OPTIONS
def translate(run: str, pictures: tuple[str, ...], **opened: Any) -> None:
    """Translate PICTURES, files or folders of any size that the network takes, with RUN."""
    from gansmith.translation import translate as run_translate

    made = run_translate(run, pictures, say=_note, **opened)
    click.echo(f"{len(made)} pictures: {made[0] if len(made) == 1 else made[0].parent}")


@main.command(short_help="Walk through a run's latent space, from seed to seed.")
@click.argument("run")
@_option("--seeds", "LIST", "the path goes through these, such as 0,7 or 0-4  [0-4]", default="0-4")
@_option("--frames", "N", "from one seed to the next  [10]", _TWO_OR_MORE, 10)
@_option("--label", "CLASS", "of this class, by name or number  [the first]")
@_option("--out", "PATH", ".png, .jpg, .webp: a strip per pair of seeds; .gif, .mp4: a film  [in RUN]", read=_path)
@_RUN_OPTIONS
def interpolate(run: str, seeds: str, frames: int, label: Text, out: Path | None, **opened: Any) -> None:
    """Walk through the latent space of RUN, from one seed to the next."""
    chosen = _seeds(seeds)
    if len(chosen) < 2:
        raise UserError(f"--seeds {seeds} is a single seed; a path needs at least two seeds, such as 0,7")
    from gansmith.inference import load
    from gansmith.run.export import ONE, save_film, save_images
    from gansmith.run.pictures import FILMS

    if out and out.suffix.lower() not in (*ONE, *FILMS):
        raise UserError(f"--out {out}: it must end in .png, .jpg or .webp (a strip), or in .gif or .mp4 (a film)")

    sampler = load(run, kind="latent", say=_note, **opened)
    told = None if label is None else _class(label, sampler.classes.names)
    path = _place(out, run, "interpolate", sampler, opened["ema"], f"seeds-{seeds}")
    if path.suffix.lower() in FILMS:
        closed = [*chosen, chosen[0]]
        pictures = sampler.interpolate(closed, frames + 1, told)[:, :-1]  # each path's end is the next one's start
        save_film(pictures.reshape(-1, 1, *pictures.shape[2:]), path)
    else:
        pictures = sampler.interpolate(chosen, frames, told)
        save_images(pictures.reshape(-1, *pictures.shape[2:]), path, columns=frames)
    click.echo(f"{pictures.shape[0]} x {pictures.shape[1]} pictures of round {sampler.round}: {path}")


@main.command(short_help="Draw a figure from a run: samples beside training images, weights, walks, ...")
@click.argument("name")
@click.argument("run")
@_option("--out", "PATH", "a .png, of walk and growth a .gif or .mp4  [in RUN]")
@_option("--seeds", "LIST", "where the figure starts from, such as 0-19 or 1,5,9-12", read=_seeds)
@_RUN_OPTIONS
def figure(name: str, run: str, **opened: Any) -> None:
    """Draw the figure NAME from RUN.

    \b
    samples        rows of five samples and, framed, the training image nearest to the fifth
    interpolation  rows of pictures on the way from one seed to another
    plane          a cross-section of the latent space through two seeds
    walk           a film of many streams that wander through the latent space
    weights        what D's first layer and G's last one look at and draw with
    density        p_data, p_g, D and the optimal D in four stages (of the recipe figure1)
    growth         the film of the run's growth, as in growth.gif
    """
    from gansmith.papers.figures import figure as draw

    click.echo(f"figure {name}: {draw(name, run, say=_note, **opened)}")


@main.command(short_help="Score a run's generator, or a folder of pictures.")
@click.argument("what", nargs=-1, required=True, metavar="RUN|FOLDER...")
@_option(
    "--metrics",
    "LIST",
    "of parzen_ll, fd, kd, mmd, pr, dc, score, classes, stacked, memorised, memorised_pixels; of pairs psnr, ssim, l1;"
    " of points modes; of classes told accuracy; of clusters cluster_accuracy, nmi, ari  [all that tell something]",
    read=_listed,
)
@_option("--n", "N", "samples in a set  [what is usual for each metric]", _TWO_OR_MORE)
@_option("--seeds", "LIST", "one set of samples for each seed; +- is their spread  [0-2]", read=_seeds)
@_option("--maker", "NAME", "one of a game's makers  [all]")
@_TO
@_option("--reference", None, "the real images to compare with  [test, else validation or train]", _SPLITS)
@_option("--features", None, "what images are compared by  [as the data]", _FEATURES)
@_option("--feature-weights", "FILE", "the weights of these features  [a download that is announced]")
@_option("--data", "NAME|FOLDER|RUN", "for a folder of pictures: the real images, or a run that has them")
@_option("--img_size", "INT|H,W", "their size, with --data NAME|FOLDER  [28]")
@_option("--channels", "INT", "1 or 3, with --data NAME|FOLDER  [1]", _CHANNELS)
@_option("--out", "FOLDER", "for receipts.jsonl and the nearest training images  [the RUN itself]", read=_path)
@_JSON
@_RUN_OPTIONS
def evaluate(what: tuple[str, ...], data: Text, out: Path | None, as_json: bool, **options: Any) -> None:
    """Score a generator: Parzen log-likelihood, distances in features, modes, memorisation, errors of pairs.

    Beside each score stands what real images reach. Several runs are printed side by side, if they are comparable.
    Receipts are kept in receipts.jsonl of each run. docs/metrics.md says what the scores are.
    """
    from gansmith.recipe import is_run

    runs = [is_run(Path(one)) for one in what]
    for one in what:
        if not Path(one).is_dir():
            raise UserError(f"{one} is neither a run nor a folder of pictures")
    if not all(runs) and (options["seeds"] or options["maker"] or options["round"] or not options["ema"]):
        raise UserError("--seeds, --maker, --round and --raw are for a run; a folder of pictures is one set of samples")
    if any(runs) and data is not None:
        raise UserError("--data is for a folder of pictures; a run is compared with its own data")
    options["data"] = _real_images(data, options.pop("img_size"), options.pop("channels"))
    options |= {"seeds": options["seeds"] or range(3), "say": _note}
    from gansmith import strict_json
    from gansmith.evaluation.evaluator import evaluate as run_evaluate

    _heed_interrupts()
    with redirect_stdout(sys.stderr):  # so that stdout holds the result and nothing else
        found = [
            run_evaluate(Path(one), out=out or (one if run else None), **options)
            for one, run in zip(what, runs, strict=True)
        ]
    if as_json:
        click.echo(strict_json.dumps([receipt.as_dict() for receipts in found for receipt in receipts], indent=1))
    else:
        _print_scores(found)


def _real_images(data: Text, img_size: Text, channels: Text) -> Any:
    """What --data names: the recipe of a run, or the data section of a set by name or folder; None without --data."""
    from gansmith.recipe import is_run, plan
    from gansmith.sections import Data

    if data is not None and is_run(Path(data)):
        if img_size or channels:
            raise UserError(f"{data} is a run, whose pictures have a size and channels: drop --img_size and --channels")
        return plan(Path(data)).recipe
    if data is None and (img_size or channels):
        raise UserError("--img_size and --channels go with --data; a run has its own")
    sides = (img_size or "28").split(",")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise UserError(f"--img_size is {img_size!r}; it must be a side such as 28, or height,width such as 48,64")
    size = (int(sides[0]), int(sides[-1]))
    return None if data is None else Data(name=data, img_size=size, channels=int(channels or 1))  # type: ignore[arg-type]


@main.command(short_help="Reproduce a number of a paper, with its ablations.")
@click.argument("name", required=False)
@_option("--seeds", "K", "seeds 0 to K-1: K trainings of each variant  [3]", _COUNT, 3)
@_option("--only", "LIST", "some of the variants, such as paper,alternating  [all]", read=_listed)
@_option("--n_epochs", "INT", "length of each training  [the recipe's]", _COUNT)
@_option("--out", "FOLDER", "runs and table  [runs/reproduce-NAME]", read=_path)
@_DEVICE
@_QUIET
def reproduce(name: Text, seeds: int, quiet: bool, **options: Any) -> None:
    """Train every variant with K seeds, score the best checkpoints, write one table; without NAME list what there is.

    Stopped, the same command goes on where it was.
    """
    from gansmith.papers.reproduction import REPRODUCTIONS, table
    from gansmith.papers.reproduction import reproduce as run_reproduce

    if name is None:
        for known, what in REPRODUCTIONS.items():
            click.echo(f"{known}: {what.paper[0]} ± {what.paper[1]}, {what.where}\n  takes {what.takes}")
            for variant, row in what.variants.items():
                click.echo(f"  {variant}: {row.about}")
        return
    with _goes_on():
        rows = run_reproduce(name, seeds=range(seeds), quiet=quiet, say=_say(quiet), **options)
    table(REPRODUCTIONS[name], rows).show()


@main.command(context_settings=_FREE_WORDS, short_help="Compare recipes, objectives or any keys over several seeds.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RECIPE|RUN]... [--KEY VALUE]...")
@_option("--objective", "LIST", "a row for each objective, such as non_saturating,lsgan,hinge")
@click.option("--vary", multiple=True, metavar="KEY=A|B", help="a row for each value, in quotes: 'lr=1e-4|2e-4'")
@_option("--seeds", "K", "seeds 0 to K-1: K trainings of each row  [5]", _COUNT, 5)
@_DATA
@_all(*(_KEYS[name] for name in _LENGTHS))
@_option("--metrics", "LIST", "as of gansmith evaluate  [fd,dc of digits, psnr of pairs, ...]", read=_listed)
@_option("--n", "N", "samples of each run  [what is usual for each metric]", _TWO_OR_MORE)
@_option("--jobs", "N", "trainings at once  [the cores; with --minutes 1]", _COUNT)
@_option("--out", "FOLDER", "runs, table, compare.html  [runs/compare-RECIPE-KEY]", read=_path)
@_DEVICE
@_TRUST
@_QUIET
def compare(
    words: tuple[str, ...], objective: Text, vary: tuple[str, ...], seeds: int, quiet: bool, **options: Any
) -> None:
    """Train every RECIPE with every value and K seeds, score all, and write one table and one page, compare.html.

    Each row is compared with the first; several keys to vary give every combination. Other keys, such as --img_size,
    hold for all that is trained. A RUN stays as it is; those of one recipe are one row. Stopped, the same command goes
    on where it was.
    """
    what, flags = _split(words, {key: options.pop(key) for key in ("data", *_LENGTHS)})
    values = {} if objective is None else {"objective": objective.split(",")}
    for text in vary:
        key, equals, listed = text.partition("=")
        if not equals or key.strip() in values:
            wrong = "is varied twice" if equals else "must be a key and its values, in quotes: 'lr=1e-4|2e-4'"
            raise UserError(f"--vary {text}: it {wrong}")
        values[key.strip().lstrip("-").replace("-", "_")] = listed.split("|")
    named = {key: {v.strip(): _value(key, v.strip()) for v in each if v.strip()} for key, each in values.items()}
    from gansmith.recipe import is_run, plan

    first = {key: next(iter(each.values())) for key, each in named.items() if each}
    for one in what or ["gan"]:
        if not is_run(one):
            plan(one, flags={**flags, **first})  # before torch is imported: a wrong key is answered at once
    from gansmith.compare import compare as run_compare
    from gansmith.comparison import table

    options |= {"seeds": range(seeds), "quiet": quiet, "say": _say(quiet)}
    with _goes_on(), redirect_stdout(sys.stderr):
        found = run_compare(what, vary=named, flags=flags, **options)
    table(found).show()
    if found.failed:
        _fail(f"{found.failed} of the runs failed; the same command tries them again", 1)


@contextmanager
def _goes_on() -> Iterator[None]:
    """Of a command that trains several runs: stopped, it says how to go on."""
    from gansmith.training import Stopped

    _heed_interrupts()
    try:
        yield
    except Stopped as stop:
        click.echo("stopped; what was begun is saved, and the same command goes on where it was", err=True)
        sys.exit(128 + stop.signum)


@main.command(short_help="Write shards of a set of pictures, or the index of shards.")
@click.argument("what", metavar="FOLDER|NAME|SHARDS")
@click.argument("out", required=False)
@_option("--per_shard", "N", "pictures of one shard  [1000]", _COUNT, 1000)
@_option("--img_size", "INT|H,W", "of a named set: the size of its pictures  [28]")
@_option("--channels", "INT", "of a named set: 1 or 3  [1]", _CHANNELS)
@_option("--n_cpu", "INT", "threads  [8]", _COUNT, 8)
@click.option("--pairs", is_flag=True, help="of a folder: pairs in folders a and b, or side by side in each file")
def shards(what: str, out: Text, img_size: Text, channels: Text, **options: Any) -> None:
    """Write the pictures of a folder, as they are, or of a named set to shards (WebDataset's) in the new folder OUT.

    Without OUT: write the index of SHARDS, which are on this machine, beside them.
    """
    from gansmith.data import Wanted, data_names
    from gansmith.data.shards import counted
    from gansmith.data.write_shards import index_shards, write_shards
    from gansmith.recipe import is_run

    if is_run(what):
        raise UserError(f"{what} is a run; shards are written of a folder of pictures or of a named set")
    how: dict[str, Any] = {"n_cpu": options.pop("n_cpu"), "say": _note}
    if out is None:
        about = index_shards(Wanted(what, **how)).about
    else:
        if (img_size or channels) and what not in data_names():
            raise UserError("--img_size and --channels are for named sets; the files of a folder go in as they are")
        data = _real_images(what, img_size, channels)
        about = write_shards(Wanted(what, data.size, data.channels, **how), Path(out), **options).about
    count, n = sum(rows for _, _, rows, _ in about["shards"]), len(about["shards"])
    click.echo(f"{count:,} samples in {counted(n)}; to train on them: --data {shlex.quote(out or what)}")


@main.command(context_settings=_FREE_WORDS, short_help="Check that a resumed run is the same run, bit for bit.")
@_RECIPE
@_DATA
@_option("--steps", "N", "rounds before and after the resume  [20]", _COUNT, 20)
@_DEVICE
@_TRUST
def verify(words: tuple[str, ...], data: Text, steps: int, device: str) -> None:
    """Check on this machine that training 2N rounds equals N, a resume, and N more, bit for bit."""
    what, flags = recipe_words("gan", words, {"data": data})
    from gansmith.recipe import is_run, plan

    if is_run(what):
        raise UserError(f"{what} is a run; verify takes a recipe: gansmith verify {Path(what) / 'recipe.yaml'}")
    plan(what, flags=flags)  # before the rest is imported
    from gansmith.exactness import verify as run_verify

    result = run_verify(what, steps=steps, device=device, overrides=flags)
    if not result.exact:
        shown, of = ", ".join(result.different[:5]), result.tensors + result.values
        _fail(f"{len(result.different)} of {of} differ after {result.rounds} rounds: {shown}", 1)
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

    run = Path(name)
    click.echo((run / "recipe.yaml").read_text(encoding="utf-8") if is_run(run) else recipe_text(name), nl=False)


@recipes.command("cp")
@click.argument("name")
@click.argument("path", required=False)
def recipes_cp(name: str, path: Text) -> None:
    """Copy the recipe NAME to PATH, to change it and train it: gansmith train PATH."""
    from gansmith.recipe import recipe_text

    text = recipe_text(name)
    target = Path(path or f"{name}.yaml")
    target = target / f"{name}.yaml" if target.is_dir() else target
    if target.suffix not in (".yaml", ".yml"):
        raise UserError(f"{target}: a recipe's file ends in .yaml")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{target} exists; give another path") from None
    click.echo(f"change it, then: gansmith train {target}")


# ---- exporting and sharing -------------------------------------------------------------------------------------


@main.command("export", short_help="Write a run's generator as files that need no gansmith.")
@click.argument("run")
@_option("--format", "LIST", "of safetensors, onnx, torch  [safetensors]", default="safetensors")
@_MAKER
@_option("--out", "FOLDER", "a new one  [in RUN]")
@_RUN_OPTIONS
def export_(run: str, device: str, **options: Any) -> None:
    """Write a maker of RUN for those who have no gansmith: weights and program, description, model card.

    \b
    safetensors  model.safetensors, and model.py that runs it in plain torch
    onnx         model.onnx, for onnxruntime  (pip install "gansmith[onnx]")
    torch        model.pt2, a torch.export program
    """
    if device not in ("auto", "cpu"):
        raise UserError(f"--device {device}: an export is written and checked on the CPU, and runs anywhere")
    from gansmith.portable.formats import export

    folder = export(run, say=_note, **options)
    if (folder / "model.py").is_file():
        click.echo(f"python {shlex.quote(str(folder / 'model.py'))}  # makes example.npz once more, in plain torch")
    click.echo(f"{folder}: README.md is the card, and says how to use it")


@main.command("push", short_help="Upload a run to the Hugging Face hub, without what is private.")
@click.argument("run")
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="into a private repository")
@_ROUND
@_TRUST
def push_(run: str, repo: str, **options: Any) -> None:
    """Upload RUN: recipe, newest checkpoint, card, samples from latents; others sample it and go on with it."""
    from gansmith.portable.publish import push

    click.echo(push(run, repo, say=_note, **options))


@main.command("pull", short_help="Fetch a run from the Hugging Face hub; it is data and runs no code.")
@click.argument("repo", metavar="OWNER/NAME[@REVISION]")
@_option("--out", "FOLDER", "the new run  [runs/NAME]")
def pull_(repo: str, out: Text) -> None:
    """Fetch a run that gansmith push has uploaded, with its digests checked."""
    from gansmith.hub import pull

    run = pull(repo, out=out, say=_note)
    click.echo(f"{run}\nthen: gansmith sample {shlex.quote(str(run))}, or translate")


# ---- what the verbs share --------------------------------------------------------------------------------------


def recipe_words(
    default: str, words: tuple[str, ...], options: Mapping[str, str | bool | None]
) -> tuple[str, dict[str, Any]]:
    """(WHAT, flags) of a command line with one WHAT at most."""
    found, flags = _split(words, options)
    if len(found) > 1:
        folder = next((one for one in found if Path(one).is_dir() and not (Path(one) / "recipe.yaml").exists()), None)
        near = f"; did you mean --data {shlex.quote(folder)}?" if folder else ""
        raise UserError(f"{found[0]} and {found[1]}: one recipe, file or run at a time{near}")
    return (found[0] if found else default), flags


def _split(words: tuple[str, ...], options: Mapping[str, str | bool | None]) -> tuple[list[str], dict[str, Any]]:
    """(WHATs, flags) of a command line: a WHAT may stand anywhere, `--a.b 1`, `--a.b=1` and `a.b=1` are flags."""
    flags = {key: str(value) for key, value in options.items() if value is not None}
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
    return found, {key: _value(key, text) for key, text in flags.items()}


def _value(key: str, text: str) -> Any:
    """The value of a flag.

    A name is never a number, 010 is ten and not YAML's octal eight, 256,128 is a list without the brackets that shells
    want for themselves.
    """
    from gansmith.recipe import parsed

    if key in ("data", "data.name"):
        return text
    if re.fullmatch(r"\d{1,18}(,\d{1,18})+", text):
        return [int(number) for number in text.split(",")]
    if re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    try:
        return parsed(text, f"--{key}")
    except UserError:  # no YAML, or too much of it: a text
        return text


def _suggest(flag: str) -> str:
    from gansmith.schema import did_you_mean

    return did_you_mean(flag, [name for option in train.params[1:] for name in option.opts])


def _grid(text: str) -> tuple[int, int]:
    columns, _, rows = text.lower().partition("x")
    if columns.isdecimal() and rows.isdecimal() and int(columns) > 0 and int(rows) > 0:
        return int(columns), int(rows)
    raise UserError(f"--grid is {text!r}; it must be columns x rows, such as 8x8")


def _print_scores(found: Sequence[Sequence[Any]]) -> None:
    """The receipts of runs or folders, side by side where each has those of one maker, else a table for each maker."""
    from gansmith.evaluation.receipts import by_maker, check_comparable, table

    apart = None
    for columns in by_maker(found):
        try:
            for name in dict.fromkeys(receipt.metric for column in columns for receipt in column):
                check_comparable([receipt for column in columns for receipt in column if receipt.metric == name])
            table(columns).show()
        except UserError as error:  # what was measured is shown all the same
            apart = error
            for column in columns:
                table([column]).show()
    if apart:
        raise UserError(f"the scores stand apart: {apart}")


def _note(text: str) -> None:
    click.echo(text, err=True)


def _say(quiet: bool) -> Callable[[str], None]:
    return (lambda text: None) if quiet else _note


def _print_plan(resolved: Any, device: str) -> None:
    from gansmith.build import check_memory, parameters
    from gansmith.engine import choose_device

    chosen = resolved.recipe.data.img_size and resolved.recipe.data.channels  # else that comes with the data
    counts = parameters(resolved.recipe) if chosen else {}
    if device in ("auto", "cpu"):  # another may not be on this machine
        check_memory(counts, choose_device(device), _note)
    rows = [(key, "null" if value is None else str(value), origin) for key, value, origin in resolved.lines()]
    wide = [max(len(row[i]) for row in rows) for i in (0, 1)]
    for key, value, origin in rows:
        click.echo(f"{key:{wide[0]}s}  {value:{wide[1]}s}  # {origin}")
    for name, count in counts.items():
        click.echo(f"# {name} has {count:,} parameters")
