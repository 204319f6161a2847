"""What the latest numbers of a training say of its health: one line where something has plainly gone wrong."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

FROM = 1000  # rounds that a young G has to learn to show different pictures
EXPLODED = 1e5  # where scores and losses are plainly out of hand
SURE, LOST = 0.9995, 1e-4  # D's right judgements, and the mean of D(G(z)), where D has won
GONE = 1e-8  # a gradient's norm that moves nothing any more
ALIKE = 0.25  # the spread of samples over that of real pictures; of MNIST's ones alone it is .51, of other digits more


def trouble(row: Mapping[str, float]) -> str | None:
    """What a line of the log shows, and what to try; None of a healthy one, or of one that says too little."""
    big = [key for key, v in row.items() if key.startswith(("loss/", "D/re", "D/fa")) and abs(v) > EXPLODED]
    if big:
        bound = "bound the critic (--penalties '[{name: r1, weight: 5}]') or lower --lr"
        return f"{big[0]} is {row[big[0]]:.1e}, so the scores explode; {bound}"
    chance = row.get("D/fake", 1.0)
    if min(row.get("D/right_real", 0), row.get("D/right_fake", 0)) >= SURE and 0 <= chance < LOST:
        slower = "lower its rate (--optimizers.D.lr) or try --objective relativistic"
        return f"D has won: it judges every picture rightly and gives fakes a chance of {chance:.0e}; {slower}"
    still = [key for key, v in row.items() if key.startswith("grad/") and v < GONE and row.get(f"lr/{key[5:]}", 1) > 0]
    if still:
        return f"{still[0]} is {row[still[0]]:.1e}, so {still[0][5:]} no longer learns; try another --objective"
    return None


def alike(samples: NDArray[np.uint8], real: NDArray[np.uint8]) -> str | None:
    """The same of samples (N, C, H, W) and real pictures, N of each: whether the samples are nearly one picture."""
    spread = [float(pictures.std(0).mean()) for pictures in (samples, real)]
    if spread[0] >= ALIKE * spread[1]:
        return None
    less = f"they differ {spread[1] / max(spread[0], 1e-9):.0f} times less than real ones"
    calmer = "lower --lr, or try a recipe with a gradient penalty, such as gan_r1 or wgan_gp"
    return f"G shows few different pictures: {less}; {calmer}"
