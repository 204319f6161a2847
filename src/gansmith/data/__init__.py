"""Pictures as one uint8 array, and an endless, resumable stream of batches from it."""

from typing import TYPE_CHECKING, Any

from gansmith.data.imageset import ImageSet
from gansmith.data.load import data_names, load_images

if TYPE_CHECKING:
    from gansmith.data.stream import Batch, Stream

__all__ = ["Batch", "ImageSet", "Stream", "data_names", "load_images"]


def __getattr__(name: str) -> Any:
    # The stream needs torch (seconds to import); listing names and preparing pictures do not.
    if name in ("Batch", "Stream"):
        from gansmith.data import stream

        return getattr(stream, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
