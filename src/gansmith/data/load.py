"""From a name or a folder to an ImageSet."""

import difflib
from collections.abc import Callable
from pathlib import Path

from gansmith.data.folder import load_folder
from gansmith.data.imageset import ImageSet
from gansmith.data.named import NAMED, load_named
from gansmith.data.prepare import Wanted
from gansmith.data.shipped import load_mnist
from gansmith.errors import UserError


def data_names() -> tuple[str, ...]:
    """The names that `load_images` knows, the one that ships first."""
    return ("mnist", *NAMED)


def load_images(
    what: str,
    *,
    img_size: int,
    channels: int,
    split: str = "train",
    fit: str = "crop",
    max_broken: float = 0.01,
    n_cpu: int = 8,
    root: Path | None = None,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> ImageSet:
    """The pictures of a known name or of a folder, as uint8 (N, channels, img_size, img_size).

    Decoded once and then mapped from the cache folder. split is "train" or "test"; fit is "crop", "pad" or
    "stretch"; a share of max_broken of the pictures may be unreadable. root is where known sets lie or are
    downloaded to. Messages go to `say`, a progress bar to stderr if it is a terminal. UserError for all that the
    user can mend.
    """
    wanted = Wanted(img_size, channels, split, fit, max_broken, n_cpu, say, progress)
    if what == "mnist":
        return load_mnist(wanted)
    if what in NAMED:
        return load_named(what, root, wanted)
    folder = Path(what).expanduser()
    if what and folder.is_dir():
        return load_folder(folder, wanted)
    raise UserError(_unknown(what, folder))


def _unknown(what: str, folder: Path) -> str:
    if what and folder.exists():
        return f"{what} is a file; unpack it and give the folder with the pictures"
    if "/" in what or "\\" in what or what.startswith((".", "~")):
        return f"no such folder: {folder.resolve()}"
    plain = what.lower().replace("-", "_")
    near = difflib.get_close_matches(plain, data_names(), n=1)
    nearest = f"; did you mean {near[0]}?" if near else ""
    return f"no data named {what!r}{nearest} (names: {', '.join(data_names())}; or give a folder of pictures)"
