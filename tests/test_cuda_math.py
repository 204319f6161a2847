"""Settings of CUDA's libraries, which torch keeps without CUDA, too: on inside, as they were outside."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gansmith.cuda_math import cuda_math
from gansmith.training import alone

matmul: Any = torch.backends.cuda.matmul
cudnn: Any = torch.backends.cudnn


def settings() -> tuple[Any, ...]:
    parts = (matmul, cudnn.conv, cudnn.rnn)
    return (cudnn.benchmark, cudnn.deterministic, *(part.fp32_precision for part in parts))


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = settings()
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = False, True
    cudnn.benchmark, cudnn.deterministic = before[:2]
    for part, precision in zip((matmul, cudnn.conv, cudnn.rnn), before[2:], strict=True):
        part.fp32_precision = precision


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("set_before", [True, False])
def test_on_inside_and_as_it_was_outside(tf32: bool, set_before: bool) -> None:
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = set_before, not set_before, set_before
    before = settings()
    with pytest.raises(RuntimeError, match="mine"), cuda_math(tf32=tf32):
        assert settings() == (False, True, *["tf32" if tf32 else "ieee"] * 3)
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (tf32, tf32)
        with cuda_math(tf32=not tf32):
            assert matmul.allow_tf32 is not tf32
        assert matmul.allow_tf32 is cudnn.allow_tf32 is tf32
        raise RuntimeError("mine")
    assert settings() == before and (matmul.allow_tf32, cudnn.allow_tf32) == (set_before, not set_before)


def test_torchs_new_settings_hinder_no_training() -> None:
    matmul.fp32_precision, cudnn.conv.fp32_precision = "tf32", "ieee"
    before = settings()
    for _ in range(2):
        with alone(torch.device("cpu"), tf32=False):
            pass
    assert settings() == before


def test_a_torch_with_the_old_settings_alone_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 2.9."""
    old_cudnn = SimpleNamespace(allow_tf32=True, benchmark=True, deterministic=False)
    old_matmul = SimpleNamespace(allow_tf32=False)
    monkeypatch.setattr(torch.backends, "cudnn", old_cudnn)
    monkeypatch.setattr(torch.backends.cuda, "matmul", old_matmul)
    with cuda_math(tf32=True):
        assert old_matmul.allow_tf32 is old_cudnn.allow_tf32 is old_cudnn.deterministic is True
        assert old_cudnn.benchmark is False
    assert vars(old_cudnn) == {"allow_tf32": True, "benchmark": True, "deterministic": False}
    assert vars(old_matmul) == {"allow_tf32": False}
