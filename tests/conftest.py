"""What the tests share: a cache of prepared pictures, small data for every game, recipes made small, two processes."""

import atexit
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode

import gansmith
from gansmith.batch import Batch
from gansmith.build import Experiment, build, derive_seed, needs_of
from gansmith.games.game import Game
from gansmith.players import Metrics, Player, move
from gansmith.recipe import plan, read_layer
from gansmith.training import play
from gansmith.world import World

# Workers of pytest-xdist share the cores, and sums in another order are other numbers: one thread, in children too.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

CPU = torch.device("cpu")
SMALL_MLP = {"networks.G.widths": [16, 16], "networks.D.widths": [16]}
SMALL_CONV = {"networks.G.width": 2, "networks.D.width": 2}
SMALL_2014 = {"networks.G.widths": [16, 16], "networks.D.units": [8, 8]}
SMALL_SUPER = {"networks.G.width": 4, "networks.G.blocks": 1}
DIGITS_IN_UNIT = {"name": "digit_features", "values": "unit"}
SMALL_CRITIC = {"networks.D.width": 2, "networks.D.units": 4, "networks.F": "digit_features"}
SMALL: dict[str, dict[str, Any]] = {
    "gan": SMALL_MLP,
    "wgan_gp": SMALL_MLP,
    "began": {"networks.G.width": 2, "networks.D.width": 2, "networks.D.code": 8},
    "infogan": {"networks.G.width": 2, "networks.D.width": 2},
    "fast_mnist": {"networks.G.width": 2, "networks.D.width": 2},
    **dict.fromkeys(("wgan", "wgan_div"), SMALL_MLP),
    **dict.fromkeys(("lsgan", "bgan", "softmax_gan", "relativistic_gan", "ragan", "dragan", "gan_r1"), SMALL_CONV),
    "ebgan": {**SMALL_CONV, "networks.D.code": 5},
    "figure1": {"networks.G.widths": [8, 8], "networks.D.widths": [16, 8], "img_size": 1},
    **dict.fromkeys(("ring", "grid"), {**SMALL_MLP, "img_size": [1, 2]}),
    "gan2014_mnist": SMALL_2014,
    "gan2014_tfd_pretrain": {**SMALL_2014, "networks.G.sparse_out": 5},
    "gan2014_tfd": {
        "networks.G.weights": None,
        "networks.G.widths": [16, 16],
        **{"networks.G.front": 12, "networks.G.inner_dim": 10, "networks.D.units": [8, 8]},
    },
    "gan2014_cifar10_fc": SMALL_2014,
    "gan2014_cifar10_conv": {
        **{"img_size": 32, "networks.G.width": 16, "networks.G.maps": 4},
        **{"networks.D.maps": [2, 2, 3], "networks.D.units": 4},
    },
    "cgan": {"networks.G.width": 2, "networks.D.width": 2},
    "acgan": {"networks.G.width": 2, "networks.D.width": 2},
    "sgan": {"networks.G.width": 2, "networks.D.width": 2, "data.labelled": 6},
    "cluster_gan": {f"networks.{player}.width": 2 for player in ("G", "E", "D")},
    "aae": {"prior.dim": 3, **{f"networks.{player}.widths": [8, 8] for player in ("E", "Dec", "D")}},
    **dict.fromkeys(("dcgan", "hinge_sn", "projection"), SMALL_CONV),
    "r3gan": {f"networks.{player}.{key}": 2 for player in "GD" for key in ("width", "most")},
    "photos": {
        **{f"networks.{player}.{key}": 2 for player in "GD" for key in ("width", "most")},
        **{"networks.D.head": 2, "channels": 1, "engine.precision": "float32"},
    },
    "pix2pix": {"networks.G.width": 2, "networks.G.depth": 4, "networks.D.width": 2},
    "cyclegan": {
        **{f"networks.{player}.width": 2 for player in ("AB", "BA", "DA", "DB")},
        **{"networks.AB.blocks": 1, "networks.BA.blocks": 1, "batch_size": 3},
    },
    "context_encoder": {
        **{**SMALL_CONV, "networks.G.bottleneck": 6},
        **{"optimizers.G.eps": 1e-6, "optimizers.D.eps": 1e-6},  # of gradients near 0 Adam makes what rounding says
    },
    "ccgan": {"networks.G.width": 2, "networks.D.width": 2, "networks.D.dropout": 0.0, "data.labelled": 6},
    "srresnet": SMALL_SUPER,
    **dict.fromkeys(("srgan", "srgan_x4"), {**SMALL_SUPER, **SMALL_CRITIC}),
    **dict.fromkeys(("esrgan", "esrgan_x4"), {**SMALL_SUPER, **SMALL_CRITIC, "networks.F": DIGITS_IN_UNIT}),
    "discogan": {
        **{f"networks.{player}.{key}": 2 for player in ("AB", "BA", "DA", "DB") for key in ("width", "depth")},
        "batch_size": 3,
    },
    "dualgan": {
        **{f"networks.{player}.width": 2 for player in ("AB", "BA", "DA", "DB")},
        **{"networks.AB.depth": 4, "networks.BA.depth": 4, "batch_size": 3},
    },
    "cogan": {**SMALL_CONV, "batch_size": 3},
    "unit": {
        **{f"networks.{player}.width": 4 for player in ("EA", "EB", "S", "GA", "GB", "DA", "DB")},
        "batch_size": 3,
    },
    "munit": {
        **{f"networks.{player}.{key}": n for player in "AB" for key, n in (("width", 2), ("blocks", 1), ("units", 8))},
        **{f"networks.D{player}.{key}": 2 for player in "AB" for key in ("width", "layers", "scales")},
        "batch_size": 3,
    },
    "bicyclegan": {
        **{f"networks.{player}.width": 2 for player in ("G", "E", "D_VAE", "D_LR")},
        **{"prior.dim": 3, "networks.G.depth": 4, "networks.E.blocks": 2},
    },
    "pixelda": {
        **{"networks.G.width": 2, "networks.G.blocks": 1, "networks.D.width": 2, "batch_size": 3},
        **{"networks.T.maps": [2, 3], "networks.T.units": 4},
    },
    "stargan": {"networks.G.width": 2, "networks.G.blocks": 1, "networks.D.width": 2, "game.n_critic": 2},
}


def small_flags(recipe: str, **more: Any) -> dict[str, Any]:
    """A shipped recipe's overrides that make it train in milliseconds on the data below."""
    held_back = {"data.validation": 2} if read_layer(recipe).keys["data"].get("validation") else {}
    own = {"networks.D.file": str(squeezenet())} if recipe == "photos" else {}
    return {"img_size": 16, "batch_size": 8, "n_cpu": 2, **held_back, **SMALL[recipe], **own, **more}


@cache
def squeezenet() -> Path:
    """A file of random weights for a SqueezeNet, whose own do not ship."""
    from torchvision.models import squeezenet1_1

    folder = tempfile.mkdtemp(prefix="gansmith-weights-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = {f"features.{k}": w for k, w in squeezenet1_1().features.state_dict().items()}
    safetensors.torch.save_file(weights, Path(folder) / "squeezenet.safetensors")
    return Path(folder) / "squeezenet.safetensors"


@pytest.fixture
def small() -> Callable[..., dict[str, Any]]:
    """small("gan", lr=1e-3): a shipped recipe's overrides, and more."""
    return small_flags


# ---- data ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for all workers of a session, so that MNIST is decoded once."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-cache"
    os.environ["GANSMITH_CACHE"] = str(cache)
    os.environ["XDG_STATE_HOME"] = str(cache.with_name("shared-state"))  # where trusted runs are remembered
    return cache


def save_noise(folder: Path, n: int, *, size: tuple[int, int] = (16, 16), seed: int = 0) -> Path:
    """n grey pictures of (H, W) = size, made anew alike each time."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of 16 by 16: 7 batches of 8 and a short one."""
    return save_noise(tmp_path_factory.mktemp("pictures"), 60)


@pytest.fixture(scope="session")
def data_of(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """data_of("cgan"): the name of small data that has what a recipe's game needs; a toy set is its own."""
    made = tmp_path_factory.mktemp("data")
    for part, n in {"labelled/0": 11, "labelled/1": 9, "domains/A": 10, "domains/B": 7}.items():
        save_noise(made / part, n, seed=n)
    for part, n in {"a/0": 6, "a/1": 4, "b/0": 3, "b/1": 5}.items():
        save_noise(made / "classes" / part, n, seed=n)
    save_noise(made / "pairs", 20, size=(16, 32))  # side by side in one file
    rows = [f"{i:03}.png,{i % 2},{'rgb'[i % 3]}" for i in range(20)]
    table = save_noise(made / "told", 20) / "attributes.csv"
    table.write_text("\n".join(("file,up,hue", *rows)), encoding="utf-8")
    by_needs = {
        (("x",),): pictures,
        (("x", "y"),): made / "labelled",
        (("x", "y"), ("u",)): made / "labelled",
        (("x", "bits"),): made / "told",
        (("a", "b"),): made / "pairs",
        (("a",), ("b",)): made / "domains",
        (("a", "y"), ("b",)): made / "classes",
        (("b",),): pictures,
    }

    def name(recipe: str) -> str:
        own = plan(recipe).recipe
        return own.data.name if own.data.values == "raw" else str(by_needs[needs_of(own)])

    return name


# ---- training without pictures, curves and films -----------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def blind() -> Iterator[None]:
    """Runs without curves, which take ten times as long as a small training: curves.png is empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gansmith.run.record.plot_curves", lambda metrics, out, title: out.touch())
        yield


def experiment_of(
    name: str,
    data: str,
    *,
    dtype: torch.dtype = torch.float64,
    world: World | None = None,
    say: Callable[[str], None] = lambda text: None,
    **flags: Any,
) -> Experiment:
    """A small recipe brought to life by `build`, in the precision of proofs."""
    before = torch.get_default_dtype()
    recipe = plan(name, flags={**small_flags(name), "data.name": data, "data.memory": "device", **flags}).recipe
    try:
        torch.set_default_dtype(dtype)
        made = build(recipe, CPU, say=say, progress=False, world=world)
    finally:
        torch.set_default_dtype(before)
    made.stream.dtype = dtype
    return made


class Ear:
    """Listens to a training in place of a record, and writes nothing."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.heard = experiment, list[Metrics]()

    def after_round(self, metrics: Metrics) -> float:
        self.experiment.meters.add(metrics)
        self.heard.append(metrics)
        return 0.0


def rounds(experiment: Experiment, n: int) -> list[Metrics]:
    """What is logged of n more rounds of THE loop, of a training of 1,000."""
    experiment.total = experiment.total or 1000
    ear: Any = Ear(experiment)
    live: Any = SimpleNamespace(due=lambda: False)
    play(experiment, ear, live, experiment.state.round + n)
    return ear.heard


class Alike(TorchFunctionMode):
    """Random numbers follow from the move, the draw and the row of the whole batch: parts and ranks draw alike."""

    def at(self, size: int, rows: slice, *key: int) -> None:
        """From here on these rows of a batch of `size` are worked on."""
        self.size, self.rows, self.key, self.draws = size, rows, key, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.dropout:
            x, p = args[0], kwargs.get("p", args[1] if len(args) > 1 else 0.5)
            if not kwargs.get("training", args[2] if len(args) > 2 else True):
                return x
            return x * (self.drawn(torch.rand, (), x.shape, {"dtype": x.dtype}) >= p) / (1 - p)
        if func is torch.randn_like:
            return self.drawn(torch.randn, (), args[0].shape, {"dtype": args[0].dtype})
        if func in (torch.rand, torch.randn, torch.randint):
            first, shape = (args[:-1], args[-1]) if func is torch.randint else ((), args)
            return self.drawn(func, first, shape if isinstance(shape[0], int) else shape[0], kwargs)
        return func(*args, **kwargs)

    def drawn(self, draw: Any, first: Sequence[int], shape: Sequence[int], kwargs: Mapping[str, Any]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(derive_seed(*self.key, self.draws))
        self.draws += 1
        cut = shape[0] == self.rows.stop - self.rows.start
        whole = draw(*first, (self.size, *shape[1:]) if cut else shape, **{**kwargs, "generator": generator})
        return whole[self.rows] if cut else whole


Movers = Mapping[str, tuple[Player, ...]]


@contextmanager
def watched(
    game: Game,
    rank: int = 0,
    ranks: int = 1,
    *,
    spoil: int | None = None,
    before: Callable[[], None] = lambda: None,
    after: Callable[[Movers, Metrics], None] = lambda movers, metrics: None,
) -> Iterator[list[Movers]]:
    """Lists the moves, with `before` and `after` each; random numbers are `Alike`, or move `spoil` is not finite."""
    mode, moves, own_round = Alike(), list[Movers](), game.round

    def round(*batches: Batch) -> Metrics:
        own = slice(*(batches[0].size * r // ranks for r in (rank, rank + 1)))
        mode.at(batches[0].size, own, len(moves), 1)
        with mode if spoil is None else nullcontext():
            return own_round(*batches)

    def played(batch: Batch, accumulate: int, losses: Callable[[Batch], Any]) -> Metrics:
        number, start = len(moves), batch.size * rank // ranks
        movers: dict[str, tuple[Player, ...]] = {}
        moves.append(movers)

        def of_part(part: Batch) -> Any:
            nonlocal start
            mode.at(part.size, slice(start, start + len(part)), number, 0)
            start += len(part)
            found, said = losses(part)
            movers.update({name: w if isinstance(w, tuple) else (w,) for name, (w, _) in found.items()})
            bad = float("nan") if number == spoil else 1.0
            return {name: (whose, bad * loss) for name, (whose, loss) in found.items()}, said

        before()
        metrics = move(batch, accumulate, of_part)
        after(movers, metrics)
        return metrics

    with pytest.MonkeyPatch.context() as patch:
        for module in {sys.modules[cls.__module__] for cls in type(game).__mro__}:
            if hasattr(module, "move"):
                patch.setattr(module, "move", played)
        patch.setattr(game, "round", round)
        yield moves


# ---- commands and processes --------------------------------------------------------------------------------------


def as_words(flags: Mapping[str, Any]) -> list[str]:
    """Overrides as words of a command line."""
    return [word for key, value in flags.items() for word in (f"--{key}", str(value).replace(" ", ""))]


@pytest.fixture
def words() -> Callable[[Mapping[str, Any]], list[str]]:
    return as_words


@pytest.fixture
def command() -> Callable[..., "subprocess.Popen[str]"]:
    """command("train", "gan", cwd=...): `python -m gansmith` as a process of its own, its output in pipes."""

    def start(*args: object, **options: Any) -> "subprocess.Popen[str]":
        source = str(Path(gansmith.__file__).parents[1])
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
        return subprocess.Popen(
            [sys.executable, "-m", "gansmith", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            **options,
        )

    return start


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return int(s.getsockname()[1])


def places(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {**{name: str(value) for name, value in names.items()}, "MASTER_ADDR": "localhost"}


def as_rank(environment: dict[str, str], function: Callable[..., Any], args: Sequence[Any]) -> Any:
    os.environ.update(environment)
    torch.set_num_threads(1)
    return function(*args)


Both = Callable[..., list[Any]]


@pytest.fixture(scope="session")
def both() -> Iterator[Both]:
    """both(function, *args): what it returns on rank 0 and on rank 1 of two processes, which live through all tests."""
    spawn = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=spawn) for _ in range(2)]

    def call(function: Callable[..., Any], *args: Any) -> list[Any]:
        port = free_port()
        futures = [p.submit(as_rank, places(r, 2, port), function, args) for r, p in enumerate(pools)]
        return [future.result(90) for future in futures]

    yield call
    for pool in pools:
        pool.shutdown()
