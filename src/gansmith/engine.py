"""How the same mathematics is computed: precision, torch.compile, memory format. Speed and rounding change, no more."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from gansmith.errors import UserError
from gansmith.games.game import Game
from gansmith.recipe import Recipe

Around = Callable[[], AbstractContextManager[Any]]  # what a round is played in


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA, else Apple's MPS, else the CPU. UserError for one that is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device is {name!r}; it must be auto, cpu, cuda (or cuda:0, ...) or mps") from None
    if not available.get(device.type, False):
        there = ", ".join(kind for kind, ok in available.items() if ok)
        raise UserError(f"--device {name}: PyTorch finds none here (there is: {there})")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise UserError(f"--device {name}: PyTorch finds {count} CUDA device(s) here, and the first is cuda:0")
    if device.type != "cuda" and device.index:
        raise UserError(f"--device {name}: there is one {device.type}; it must be {device.type}")
    return device


def best_precision(device: torch.device) -> Literal["bfloat16", "float32"]:
    """bfloat16 on a CPU that has instructions for it, else float32."""
    if device.type != "cpu":
        return "float32"
    # Torch has no public way to ask.
    return "bfloat16" if _told("/proc/cpuinfo", r"\b(avx512_bf16|amx_bf16)\b") else "float32"


def free_memory(device: torch.device) -> float:
    """Bytes that a training may take on a device; infinite where the system does not tell."""
    if device.type == "cuda":
        # What torch has taken and does not use is free, too.
        taken, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + taken - used
    found, limit = _told("/proc/meminfo", r"^MemAvailable: *(\d+) kB$"), _told("/sys/fs/cgroup/memory.max", r"^\d+$")
    return min(1024 * int(found[1]) if found else math.inf, int(limit[0]) if limit else math.inf)


def _told(path: str, pattern: str) -> re.Match[str] | None:
    """What Linux says in a file of its own; nothing elsewhere."""
    try:
        return re.search(pattern, Path(path).read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return None


def check(precision: str, device: torch.device) -> None:
    """UserError for a precision that this device lacks."""
    if precision == "tf32" and device.type != "cuda":
        raise UserError(
            f"engine.precision is tf32, which only CUDA has; on {device.type} it must be float32 or bfloat16"
        )
    if precision != "float32" and device.type == "cuda":
        with torch.cuda.device(device):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            there = {"tf32": torch.cuda.is_tf32_supported(), "bfloat16": bf16}
        if not there[precision]:
            raise UserError(f"engine.precision is {precision}, which this card lacks; it must be float32")


def autocast(precision: str, device: torch.device) -> Around:
    """No cache of cast weights: it would outlive a player's step within a round."""
    if precision != "bfloat16":
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


def compiled(recipe: Recipe, game: Game, within: Around, say: Callable[[str], None]) -> Around:
    """Let torch.compile have each player's network whose gradients it gives as eager mode does, and name the others.

    It compiles in the first round that is played, and again where shapes change; what it must know then is set for the
    length of each round.
    """
    import torch._functorch.config as functorch

    @contextmanager
    def engine() -> Iterator[None]:
        # Two losses may share a graph; the first pass must not use up its tensors.
        try:
            with functorch.patch(donated_buffer=False), within():
                yield
        except torch._dynamo.exc.TorchDynamoException as error:
            why = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
            raise UserError(f"engine.compile is true, and torch.compile fails here ({why}); set it to false") from None

    eager = dict(game.eager)
    if recipe.penalties:
        eager |= dict.fromkeys(game.critics, "penalties take gradients of gradients, which torch.compile lacks")
    if recipe.augment:
        eager |= dict.fromkeys(game.critics, "its pictures are augmented by draws of the game's own stream")
    if recipe.sync_batchnorm:
        eager |= {player.name: "its BatchNorm communicates with other processes" for player in game.players}
    for player in game.players:
        if player.name in eager:
            say(f"engine.compile: {player.name} is not compiled: {eager[player.name]}")
        else:
            # Dropout draws what it draws in eager mode; no kernel is chosen by a race, which a resume could lose.
            player.net.compile(dynamic=False, options={"fallback_random": True, "deterministic": True})
    return engine
