"""What torchrun tells a process about the others: read from the environment, without torch."""

import os
from typing import NamedTuple

from gansmith.errors import UserError


class Launch(NamedTuple):
    """One process of `size` that train together, of which `local_size` run on this machine; ranks count from 0."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0  # how often torchrun has started all of them again


def launch() -> Launch:
    """This process among those that torchrun started; alone where it was started by hand."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Launch()
    places = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    # Job systems set the first two also for a single process.
    alone = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"} if os.environ["WORLD_SIZE"] == "1" else {}
    try:
        rank, size, local_rank, local_size = (int({**alone, **os.environ}[name]) for name in places)
    except (KeyError, ValueError):
        raise UserError(f"{', '.join(places)} must be whole numbers, as torchrun sets them, or RANK unset") from None
    return Launch(rank, size, local_rank, local_size, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))
