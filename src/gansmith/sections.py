"""The sections of a recipe that name no components: frozen data, each key with its type, default and help."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from gansmith.schema import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Range


@dataclass(frozen=True)
class Data:
    """Which images, and what is done to them before training."""

    name: str = "mnist"  # a data set by name, a folder of pictures, or shards
    # The side of square images, or [height, width]; 0: chosen for the pictures and the device.
    img_size: NonNegativeInt | tuple[PositiveInt, PositiveInt] = 28
    channels: Literal[0, 1, 3, 4] = 1  # 1 grey, 3 RGB, 4 RGBA; 0: as the pictures have
    fit: Literal["crop", "pad", "stretch"] = "crop"  # how a picture of another shape becomes one of img_size
    pairs: Literal["auto", "halves", "folders"] = "auto"  # a pair: the halves of one file, or one file of each folder
    direction: Literal["a2b", "b2a"] = "a2b"  # b2a: a and b change places
    values: Literal["signed", "unit", "gcn", "raw"] = "signed"  # [-1, 1], [0, 1], unit contrast; raw: toy sets
    validation: Annotated[int, Range(-1)] = 0  # training images that are held back, to choose by; -1: a tenth
    attributes: str | None = None  # a table of a folder's pictures (stargan); null: its attributes.csv, or its classes
    columns: Sequence[str] | None = None  # those of its columns that are attributes; null: all with few values
    labelled: PositiveInt | None = None  # training images whose labels are seen, beside all without (sgan); null: all
    max_broken: Fraction = 0.01  # share of unreadable files of a folder that is tolerated
    max_megapixels: PositiveInt = 200  # a picture with more is not opened
    root: str | None = None  # where named sets lie or are downloaded to; null: $GANSMITH_DATA or ./data
    memory: Literal["auto", "device", "map"] = "auto"  # images on the device, or read from a memory map
    n_cpu: PositiveInt = 8  # threads that decode pictures, and that read batches from the memory map
    window: PositiveInt = 16  # shards that are mixed with each other at a time
    per_shard: PositiveInt | None = None  # samples that each shard counts for, without an index; null: all are counted
    classes: PositiveInt | Sequence[str] | None = None  # with per_shard, of the labels: how many, or their names
    keep_mb: NonNegativeInt = 1024  # decoded pictures of shards that stay in memory

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size


@dataclass(frozen=True)
class Ema:
    """An exponential moving average of the weights of what generates, used for sampling when it is on."""

    halflife_kimg: PositiveFloat | None = None  # half-life in thousands of images; null: no average


@dataclass(frozen=True)
class Ada:
    """How often critics see augmented pictures: always, or as often as keeps D from overfitting (arXiv 2006.06676)."""

    target: Fraction | None = None  # where D's overfitting is held, ADA's 0.6; null: every picture is augmented
    kimg: PositiveFloat = 500.0  # thousands of images in which the probability can go from 0 to 1


@dataclass(frozen=True)
class Checkpoints:
    """When the whole state is written, and which of the written ones stay."""

    interval: PositiveInt = 1000  # rounds between two checkpoints
    keep: PositiveInt = 2  # how many of the newest stay
    keep_every: NonNegativeInt = 0  # at multiples of this round one is written, too, and stays for good; 0: none

    def due(self, round: int) -> bool:
        """Whether this round ends with a checkpoint."""
        return round % self.interval == 0 or (self.keep_every > 0 and round % self.keep_every == 0)


@dataclass(frozen=True)
class Evaluation:
    """Scores on the images that were held back, while training goes on."""

    every: NonNegativeInt = 0  # rounds between two evaluations; 0: none
    metrics: Sequence[str] | None = None  # as in gansmith evaluate; null: psnr of pairs, fd of digits, else parzen_ll
    n: PositiveInt = 10_000  # samples that are drawn for it
    best: str | None = None  # the value by which the best checkpoint is kept, such as parzen_ll; null: none


@dataclass(frozen=True)
class Engine:
    """How the same mathematics is computed: what may change its speed and its rounding, and nothing else."""

    # Of matrix products and convolutions: tf32 on CUDA only, bfloat16 by autocast; weights stay float32.
    precision: Literal["float32", "tf32", "bfloat16", "auto"] = "float32"  # auto: bfloat16 where a CPU is made for it
    compile: bool = False  # networks through torch.compile
    channels_last: bool = False  # memory format of convolutional weights, which what they make takes over


@dataclass(frozen=True)
class Start:
    """The run whose players' weights this training starts from."""

    run: str | None = None  # its folder; null: fresh weights
    raw: bool = False  # the weights themselves where that run keeps a moving average
    digest: str | None = None  # of the checkpoint that was taken; noted when the training starts
