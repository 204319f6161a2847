"""Pictures as uint8 columns, and an endless, resumable stream of batches from them."""

from typing import TYPE_CHECKING, Any

from gansmith.data.imageset import ImageSet
from gansmith.data.load import data_names, load_sets

if TYPE_CHECKING:
    from gansmith.data.stream import Stream

__all__ = ["ImageSet", "Stream", "data_names", "load_sets"]


def __getattr__(name: str) -> Any:
    # The stream needs torch (seconds to import); listing names and preparing pictures do not.
    if name == "Stream":
        from gansmith.data.stream import Stream

        return Stream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
