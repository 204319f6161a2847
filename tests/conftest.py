"""What the tests share: one cache of prepared pictures per session, a small data set, recipes made small."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gansmith

# Workers of pytest-xdist share the cores, and sums in another order are other numbers: one thread, in children too.
os.environ["OMP_NUM_THREADS"] = "1"

SMALL_MLP = {"networks.G.widths": [16, 16], "networks.D.widths": [16]}
SMALL_2014 = {"networks.G.widths": [16, 16], "networks.D.units": [8, 8]}
SMALL: dict[str, dict[str, Any]] = {
    "gan": SMALL_MLP,
    "wgan_gp": SMALL_MLP,
    "began": {"networks.G.width": 2, "networks.D.width": 2, "networks.D.code": 8},
    "infogan": {"networks.G.width": 2, "networks.D.width": 2},
    "fast_mnist": {"networks.G.width": 2, "networks.D.width": 2},
    "figure1": {"networks.G.widths": [8, 8], "networks.D.widths": [16, 8], "img_size": 1},
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
}


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for all workers of a session, so that MNIST is decoded once."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-cache"
    os.environ["GANSMITH_CACHE"] = str(cache)
    return cache


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of 16 by 16: 7 batches of 8 and a short one."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def small() -> Callable[..., dict[str, Any]]:
    """small("gan", lr=1e-3): a shipped recipe's overrides that make it train in milliseconds on `pictures`."""

    def overrides(recipe: str, **more: Any) -> dict[str, Any]:
        held_back = {"data.validation": 2} if recipe.startswith("gan2014") else {}
        return {"img_size": 16, "batch_size": 8, "n_cpu": 2, **held_back, **SMALL[recipe], **more}

    return overrides


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
