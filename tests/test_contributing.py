"""The files of CONTRIBUTING.md: each trains, and goes on as if it had never stopped."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gansmith.build import build
from gansmith.errors import UserError
from gansmith.exactness import verify
from gansmith.recipe import plan
from gansmith.training import train

Small = Callable[..., dict[str, Any]]
TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = {
    "myobj:HINGE": ("objective", "HINGE = Objective("),
    "mynet:MyD": ("networks.D", "class MyD("),
    "myprior:Triangular": ("prior", "class Triangular("),
    "mygame:GTwice": ("game", "class GTwice("),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_a_file_from_the_page_trains_and_resumes_to_the_bit(
    name: str, here: Path, pictures: Path, small: Small
) -> None:
    key, mark = FILES[name]
    [code] = [block for block in re.findall(r"```python\n(.*?)```", TEXT, re.S) if mark in block and "import" in block]
    (here / f"{name.partition(':')[0]}.py").write_text(code, encoding="utf-8")
    assert f"--{key} {name}" in TEXT  # the command that goes with it
    flags = {k: v for k, v in small("gan").items() if not k.startswith(f"{key}.")}
    found = verify("gan", overrides={**flags, key: name}, data=pictures, device="cpu", steps=5)
    assert found.exact, found.different


GAME = "from gansmith.games.game import Game\nclass Mine(Game):\n    def __init__(self, G, D): ...\n"


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("game", "class Mine:\n    def __init__(self, G, D, prior, objective): ...\n", "gansmith.games.game.Game"),
        ("game", f"{GAME}    def round(self, *batches): ...\n", "in `makers` what it can make"),
        ("prior", "class Mine:\n    width = 3\n", "gansmith.priors.Prior"),
        ("prior", "from gansmith.priors import Prior\nclass Mine(Prior): ...\n", "`width` is the length of its z"),
    ],
)
def test_what_is_no_game_and_no_prior_is_refused(
    key: str, text: str, says: str, here: Path, pictures: Path, small: Small
) -> None:
    module = f"mine{len(text)}"  # a module's source is read once in a process
    (here / f"{module}.py").write_text(text, encoding="utf-8")
    dropped = {"prior": None, "objective": None} if text.startswith(GAME) else {}
    flags = {**small("gan"), "data.name": str(pictures), **dropped, key: f"{module}:Mine"}
    with pytest.raises(UserError, match=rf"^{key}: {module}:Mine must .*{re.escape(says)}"):
        build(plan("gan", flags=flags).recipe, torch.device("cpu"), say=lambda text: None, progress=False)


@pytest.mark.parametrize(("objective", "warned"), [("non_saturating", True), ("wasserstein", False)])
def test_a_sigmoid_at_the_end_of_d_is_warned_of(
    objective: str, warned: bool, here: Path, pictures: Path, small: Small
) -> None:
    (here / "postd.py").write_text(
        "from torch import nn\n\n\nclass Post(nn.Sequential):\n    def __init__(self, shape):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 1), nn.Sigmoid())\n",
        encoding="utf-8",
    )
    flags = {k: v for k, v in small("gan").items() if not k.startswith("networks.D.")}
    changes = {"data.name": str(pictures), "networks.D": "postd:Post", "objective": objective}
    said: list[str] = []
    made = build(plan("gan", flags={**flags, **changes}).recipe, torch.device("cpu"), say=said.append, progress=False)
    assert isinstance([*made.game.D.net.modules()][-1], nn.Sigmoid)
    assert any("seems to end in a sigmoid" in text for text in said) is warned


def test_an_error_in_ones_own_objective_is_not_blamed_on_the_networks(here: Path, pictures: Path, small: Small) -> None:
    text = "from dataclasses import replace\nfrom gansmith.objectives import OBJECTIVES\n"
    text += "MINE = replace(OBJECTIVES['hinge'], d=lambda real, fake: real.missing)\n"
    (here / "own.py").write_text(text, encoding="utf-8")
    options: dict[str, Any] = {"overrides": {**small("gan"), "objective": "own:MINE"}, "data": pictures}
    with pytest.raises(AttributeError, match="missing"):
        train("gan", out=here / "run", steps=3, device="cpu", quiet=True, **options)
