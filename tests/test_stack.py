"""From the command, and from one's own code, to the gradient there are few calls to read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import gansmith
from gansmith.cli import main

SOURCE = Path(gansmith.__file__).parent


@pytest.fixture
def deepest(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions of gansmith on the stack where a gradient is taken, outermost first, of the deepest such stack."""
    found, own_grad = list[str](), torch.autograd.grad

    def grad(*args: Any, **keys: Any) -> Any:
        frame, names = sys._getframe(1), list[str]()
        while frame is not None:
            if Path(frame.f_code.co_filename).is_relative_to(SOURCE):
                names.append(frame.f_code.co_name)
            frame = frame.f_back  # type: ignore[assignment]
        found[:] = max(found, names[::-1], key=len)
        return own_grad(*args, **keys)

    monkeypatch.setattr("torch.autograd.grad", grad)
    return found


def test_few_calls_lead_to_a_gradient(
    deepest: list[str], pictures: Path, small: Callable[..., dict[str, Any]],
    words: Callable[[Mapping[str, Any]], list[str]], tmp_path: Path
) -> None:  # fmt: skip
    new = ["train", "gan", "--data", str(pictures), "--steps", "1", "--device", "cpu", "--quiet"]
    with pytest.raises(SystemExit, match="^0$"):
        main([*new, "--out", str(tmp_path / "main"), *words(small("gan"))])
    assert len(deepest) <= 6 and deepest[-1] == "move", deepest
    deepest.clear()
    gansmith.train("gan", data=pictures, out=tmp_path / "train", steps=1, device="cpu", quiet=True, **small("gan"))
    assert len(deepest) <= 4 and deepest[0] == "train", deepest
