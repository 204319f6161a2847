"""Pictures as uint8 columns. `stream` makes endless, resumable batches of them; it alone needs torch."""

from gansmith.data.imageset import ImageSet
from gansmith.data.load import data_names, load_sets
from gansmith.data.prepare import Wanted

__all__ = ["ImageSet", "Wanted", "data_names", "load_sets"]
