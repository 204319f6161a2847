"""Pictures as uint8 columns. `stream` makes endless, resumable batches of them; it alone needs torch."""

from gansmith.data.imageset import ImageSet
from gansmith.data.load import data_names, load_sets

__all__ = ["ImageSet", "data_names", "load_sets"]
