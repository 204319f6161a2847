"""A pool of past fakes, which a critic then does not forget (Shrivastava et al. 2017, 1612.07828, section 2.3)."""

from typing import Any

import torch
from torch import Tensor


class Pool:
    """`size` pictures; what goes in may come out later. Size 0 gives every picture straight back.

    A round that fails must not have changed it: `swap` plans, `commit` does what was planned once the round is over.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.kept: Tensor | None = None
        """(M, C, H, W), M <= size."""
        self._planned: list[Tensor] | None = None

    @torch.no_grad()
    def swap(self, fakes: Tensor, noise: torch.Generator) -> Tensor:
        """For each of the fakes (N, C, H, W) itself or, with probability 1/2 once the pool is full, a past one.

        The past one's place in the pool goes to the new one.
        """
        if self.size == 0:
            return fakes
        if self._planned is None:
            self._planned = [] if self.kept is None else list(self.kept)
        pool, out = self._planned, []
        chance = torch.rand(len(fakes), generator=noise, device=noise.device)
        place = torch.randint(self.size, (len(fakes),), generator=noise, device=noise.device)
        drawn = torch.stack((chance.double(), place.double()), 1).tolist()  # one wait for the device
        for fake, (luck, at) in zip(fakes.detach(), drawn, strict=True):
            if len(pool) < self.size:
                pool.append(fake)
                out.append(fake)
            elif luck < 0.5:
                out.append(pool[int(at)])
                pool[int(at)] = fake
            else:
                out.append(fake)
        return torch.stack(out)

    def forget_plan(self) -> None:
        """Before a round: what an earlier one that failed has planned is void."""
        self._planned = None

    def commit(self) -> None:
        """After a round."""
        if self._planned is not None:
            self.kept = torch.stack(self._planned)
            self._planned = None

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept}

    def load_state_dict(self, state: dict[str, Any], like: torch.device | None = None) -> None:
        kept = state["kept"]
        self.kept = kept.to(like) if kept is not None and like is not None else kept
        self._planned = None
