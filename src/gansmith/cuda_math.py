"""What CUDA's libraries may round, which is a setting of the process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def cuda_math(*, tf32: bool) -> Iterator[None]:
    """Hold cuDNN to its deterministic kernels, and TF32 on or off in all of CUDA's libraries, for the block.

    torch has two ways to set TF32, old and new, and refuses to read the old one where the new was used: both come back.
    Before 2.9 it has the old one alone.
    """
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    kernels = cudnn.benchmark, cudnn.deterministic
    old = [(library, on) for library in (matmul, cudnn) if (on := _old_setting(library)) is not None]
    parts: list[Any] = [matmul, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None)]
    new = [(part, part.fp32_precision) for part in parts if hasattr(part, "fp32_precision")]
    try:
        cudnn.benchmark, cudnn.deterministic = False, True
        matmul.allow_tf32 = cudnn.allow_tf32 = tf32
        for part, _ in new:
            part.fp32_precision = "tf32" if tf32 else "ieee"  # off, the old way means: whatever holds for all of torch
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = kernels
        for library, on in old:
            library.allow_tf32 = on
        for part, precision in new:
            part.fp32_precision = precision


def _old_setting(library: Any) -> bool | None:
    try:
        return bool(library.allow_tf32)
    except RuntimeError:
        return None
