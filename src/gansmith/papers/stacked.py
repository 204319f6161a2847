"""Stacked MNIST: three random digits as the colours of one image, 1,000 modes to cover or to drop.

Metz et al. 2017 (arXiv 1611.02163), in the numbers of PacGAN (Lin et al. 2018, arXiv 1712.04086).
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gansmith.data.cache import Draft, Say, entry_path, load_entry
from gansmith.data.imageset import ImageSet, Labels
from gansmith.data.prepare import Wanted
from gansmith.data.shipped import SPLITS, decode
from gansmith.errors import UserError
from gansmith.metrics.modes import kl_to_uniform

NAME = "stacked_mnist"
SIDE, CHANNELS = 28, 3
N_DIGITS = sum(packed.count for packed in SPLITS.values())  # PacGAN draws from MNIST's training and test set
COUNTS = {"train": 128_000, "test": 26_000}
SEEDS = {"train": b"gansmith stacked_mnist train 0", "test": b"gansmith stacked_mnist test 0"}
CLASSES = tuple(f"{mode:03}" for mode in range(1000))
CHUNK = 1024


def load_stacked_mnist(name: str, wanted: Wanted) -> ImageSet:
    """Stacked MNIST, images (N, 3, 28, 28), labels 100 a + 10 b + c for the digits a, b, c of the three channels.

    128,000 stacks in split "train", 26,000 others in "test": as many as the protocol generates, a real reference for
    them. Every channel of every stack is drawn anew, with replacement, from all 70,000 digits of MNIST. Made on first
    use, train takes 301 MB. UserError for another size: a resized stack is another benchmark.
    """
    if wanted.split not in COUNTS:
        raise UserError(f"{name} has no {wanted.split} split; use split 'train' or 'test'")
    if (wanted.size, wanted.channels) != ((SIDE, SIDE), CHANNELS):
        raise UserError(
            f"{name} is {SIDE}x{SIDE} with {CHANNELS} channels, not {wanted.size[0]}x{wanted.size[1]} with "
            f"{wanted.channels}; set img_size {SIDE} and channels {CHANNELS}"
        )
    return stack(wanted.split, COUNTS[wanted.split], wanted.say)


def stack(split: str, count: int, say: Say) -> ImageSet:
    """The first `count` stacks of a split, from the cache or written there."""
    content = f"{NAME} 1 {split} {count} {SEEDS[split]!r} {[packed.digest for packed in SPLITS.values()]}"
    digest = hashlib.sha256(content.encode()).hexdigest()
    path = entry_path(f"{NAME}-{split}", digest)
    if (entry := load_entry(path, say)) is not None:
        return entry.data
    say(f"making {count} images of {NAME}, {count * CHANNELS * SIDE**2 / 1e6:.0f} MB, once")
    images, digits = (np.concatenate(parts) for parts in zip(*map(decode, SPLITS), strict=True))
    drawn = draw(split, count)
    labels: Labels = digits[drawn] @ np.array([100, 10, 1])
    with Draft(path, say) as draft:
        for start in range(0, count, CHUNK):
            draft.write(images[drawn[start : start + CHUNK], 0])
        return draft.finish(NAME, labels, CLASSES, digest=digest)


def draw(split: str, count: int) -> Labels:
    """Which of the 70,000 digits (training set, then test set) the channels of `count` stacks are: (count, 3).

    Every 8 bytes of SHAKE-256 of the split's seed, little-endian, modulo 70,000: the same numbers on every machine and
    with every version of NumPy, uniform to within 1e-14, and a shorter draw is the beginning of a longer one.
    """
    stream = hashlib.shake_256(SEEDS[split]).digest(8 * CHANNELS * count)
    return (np.frombuffer(stream, "<u8") % N_DIGITS).astype(np.int64).reshape(count, CHANNELS)


# ---- the score -------------------------------------------------------------------------------------------------


class StackedModes(NamedTuple):
    modes: int
    """How many of the classes^channels modes are hit."""
    kl: float
    """KL(samples || uniform over all modes), in nats."""
    at_least: dict[int, int]
    """n: how many modes are hit n times or more."""


def stacked_modes(labels: Tensor, classes: int = 10, *, at_least: Sequence[int] = (2, 5, 10)) -> StackedModes:
    """Modes hit and KL(p || uniform) = sum p log(p classes^C), in nats, from one label per channel, integers (N, C).

    Stacked MNIST has C = 3 digits and 1000 modes. N samples alone cost about (1000 - 1) / (2N) nats: 0.02 for 26,000.
    Source: Metz et al. 2017 (arXiv 1611.02163); protocol of Lin et al. 2018
    (arXiv 1712.04086): 26,000 samples.
    """
    powers = classes ** torch.arange(labels.shape[1] - 1, -1, -1, device=labels.device)
    counts = torch.bincount((labels * powers).sum(1), minlength=classes ** labels.shape[1])
    hits = {n: int((counts >= n).sum()) for n in at_least}
    return StackedModes(int((counts > 0).sum()), kl_to_uniform(counts), hits)
