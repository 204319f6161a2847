"""Packs the four original MNIST files: python tools/pack_mnist.py FOLDER_OF_THE_IDX_FILES

Each split becomes one .xz of its raw bytes: all images (N, 28, 28) uint8, then all labels (N,) uint8.
The digests it prints are those that gansmith/data/shipped.py checks.
"""

import gzip
import hashlib
import lzma
import struct
import sys
from pathlib import Path

OUT = Path(__file__).parents[1] / "src" / "gansmith" / "data" / "mnist"

# lc=4 pb=0 gave the smallest of seven settings tried: bytes have no alignment, the last one tells most.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0, "nice_len": 273}]


def payload(path: Path, magic: int, dims: int) -> bytes:
    """The bytes behind the header of an IDX file; ValueError if the header does not fit them."""
    raw = gzip.decompress(path.read_bytes())
    found, *shape = struct.unpack(f">{dims + 1}I", raw[: 4 * (dims + 1)])
    body = raw[4 * (dims + 1) :]
    expected = 1
    for extent in shape:
        expected *= extent
    if found != magic or len(body) != expected:
        raise ValueError(f"{path} is not an IDX file with magic {magic}")
    return body


def main() -> None:
    source = Path(sys.argv[1])
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = payload(source / f"{prefix}-images-idx3-ubyte.gz", 2051, 3)
        labels = payload(source / f"{prefix}-labels-idx1-ubyte.gz", 2049, 1)
        packed = lzma.compress(images + labels, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=FILTERS)
        (OUT / f"{split}.xz").write_bytes(packed)
        print(split, len(labels), "images", len(packed), "bytes")
        print("  images sha256", hashlib.sha256(images).hexdigest())
        print("  labels sha256", hashlib.sha256(labels).hexdigest())


if __name__ == "__main__":
    main()
