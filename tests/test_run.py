"""What a run leaves behind, where it may write, and how it ends when it cannot go on."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import softplus

import gansmith
from gansmith import checkpoint
from gansmith.errors import RankLost
from gansmith.exactness import compare
from gansmith.games.game import Batch, Metrics
from gansmith.games.two_player import Simultaneous
from gansmith.networks.mlp import Discriminator
from gansmith.objectives import OBJECTIVES, Objective
from gansmith.recipe import plan
from gansmith.run.curves import plot_curves
from gansmith.run.folder import created, environment
from gansmith.run.log import read_metrics
from gansmith.run.pictures import grid
from gansmith.training import show_in_notebook

Small = Callable[..., dict[str, Any]]
Train = Callable[..., Path]


@pytest.fixture
def train(pictures: Path, small: Small) -> Train:
    """train(out, 9, "gan", key=value): a small recipe on the small pictures, in silence."""

    def go(out: Path | None, steps: int, recipe: str = "gan", keys: dict[str, Any] | None = None, **more: Any) -> Path:
        options = {"data": pictures, "device": "cpu", "quiet": True, **more}
        return gansmith.train(recipe, out=out, steps=steps, overrides=small(recipe, **(keys or {})), **options)

    return go


def resume(run: Path, steps: int | None = None) -> Path:
    return gansmith.train(run, steps=steps, device="cpu", quiet=True)


def saved(run: Path) -> list[int]:
    return [int(path.name) for path in checkpoint.everything(run / "checkpoints")]


def assert_same(one: Path, other: Path, round: int) -> None:
    found = compare(*(run / "checkpoints" / f"{round:08d}" for run in (one, other)))
    assert found.exact, found.different


# ---- the folder ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    overrides = {
        **{"img_size": 16, "batch_size": 8, "networks.G.widths": [16, 16], "networks.D.widths": [16]},
        **{"sample_interval": 4, "log_interval": 2, "checkpoint.interval": 3, "checkpoint.keep_every": 4},
        **{"ema.halflife_kimg": 0.1},
    }
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gansmith.run.record.plot_curves", plot_curves)
        return gansmith.train("gan", data=pictures, out=run, steps=10, device="cpu", overrides=overrides, quiet=True)


def test_the_folder_holds_what_it_promises(finished: Path) -> None:
    names = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    files = {"recipe.yaml", "metrics.jsonl", "environment.json", "growth.gif", "curves.png"}
    assert names - {"tensorboard"} == {*files, "samples", "growth", "checkpoints"}
    assert not [path for path in finished.rglob("*") if path.name.endswith((".part", ".tmp"))]
    assert not list((finished / "checkpoints").glob(".*"))
    assert saved(finished) == [10, 9, 8, 4]  # not 0, with which every run begins
    with Image.open(finished / "curves.png") as picture:
        assert picture.format == "PNG" and picture.width > 400


def test_pictures_come_at_their_rounds_and_at_the_end(finished: Path) -> None:
    wanted = [f"{number:06d}.png" for number in (0, 4, 8, 10)]
    for kind in ("samples", "growth"):
        found = sorted((finished / kind).iterdir())
        assert [path.name for path in found] == wanted and len({path.read_bytes() for path in found}) == 4
    with Image.open(finished / "growth.gif") as film:
        assert film.format == "GIF" and film.n_frames == 4
    expected = np.asarray(grid(gansmith.load(finished, device="cpu").sample(range(25)), 5))
    for kind, same in (("growth", True), ("samples", False)):  # growth is that of seeds 0 to 24, samples are fresh
        with Image.open(finished / kind / "000010.png") as picture:
            assert (picture.mode, picture.size) == ("L", (5 * 18 + 2, 5 * 18 + 2))
            assert np.array_equal(np.asarray(picture), expected) is same


def test_metrics_hold_the_promised_keys(finished: Path) -> None:
    rows = read_metrics(finished / "metrics.jsonl")
    assert [row["round"] for row in rows] == [2, 4, 6, 8, 10]
    for row in rows:
        promised = {"epoch", "images", "seconds", "images_per_second", "loss/D", "loss/G", "D/real", "D/fake"}
        assert promised | {"grad/D", "grad/G"} <= set(row)
        assert all(np.isfinite(value) for value in row.values())
        assert 0 < row["D/real"] < 1 and 0 < row["D/fake"] < 1 and row["grad/D"] > 0 and row["grad/G"] > 0
    assert [row["images"] for row in rows] == [16, 32, 48, 60, 76]  # the eighth batch has 4
    assert [row["epoch"] for row in rows] == [0.25, 0.5, 0.75, 1.0, 1.25]


def test_the_environment_is_noted(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [session] = json.loads((finished / "environment.json").read_text(encoding="utf-8"))
    assert session["gansmith"] == gansmith.__version__ and session["torch"] in torch.__version__
    assert session["device"] == "cpu" and session["device_name"] and session["round"] == 0
    assert session["command"] == sys.argv and session["python"].startswith("3.") and session["cuda"] is None
    assert {"commit", "numpy", "torchvision", "platform", "threads", "started"} <= set(session)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"card {device.index}")
    monkeypatch.setattr("torch.version.cuda", "13.0")
    card = environment(torch.device("cuda:1"))
    assert (card["device"], card["device_name"], card["cuda"]) == ("cuda:1", "card 1", "13.0")


def test_the_recipe_of_a_run_alone_trains_the_same_again(finished: Path, tmp_path: Path) -> None:
    own = tmp_path / "elsewhere.yaml"
    own.write_text((finished / "recipe.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    again = gansmith.train(own, out=tmp_path / "again", device="cpu", quiet=True)
    assert_same(finished, again, 10)
    assert plan(again).recipe == plan(finished).recipe
    bodies = [(run / "recipe.yaml").read_text(encoding="utf-8").splitlines()[1:] for run in (finished, again)]
    assert bodies[0] == bodies[1]


def test_watching_does_not_change_what_is_trained(train: Train, tmp_path: Path) -> None:
    """Nor does a moving average. Rows are means over their interval."""
    seen = train(tmp_path / "seen", 9, keys={"sample_interval": 1, "log_interval": 1})
    blind = train(tmp_path / "blind", 9, keys={"sample_interval": 999, "log_interval": 999, "ema.halflife_kimg": 0.05})
    one, other = (checkpoint.read(run / "checkpoints" / "00000009")[0] for run in (seen, blind))
    assert other["players"]["G"].pop("ema") and "ema" not in one["players"]["G"]
    packed: list[dict[str, torch.Tensor]] = [{}, {}]
    for tree, tensors in zip((one, other), packed, strict=True):
        checkpoint.pack({key: tree[key] for key in ("players", "rng", "data")}, tensors)
    assert packed[0].keys() == packed[1].keys()
    assert all(torch.equal(tensor, packed[1][key]) for key, tensor in packed[0].items())
    each = read_metrics(seen / "metrics.jsonl")
    [last] = read_metrics(blind / "metrics.jsonl")  # a session that ends between two lines leaves one of its own
    assert len(each) == last["round"] == 9 and len({row["loss/D"] for row in each}) == 9
    assert last["loss/D"] == pytest.approx(np.mean([row["loss/D"] for row in each]), rel=1e-12)
    assert (blind / "curves.png").exists() and (blind / "growth.gif").exists()


def test_no_round_is_written_twice(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between two writings of one round could lose it, and with `keep: 1` it is all there is."""
    written: list[int] = []
    real = checkpoint.write

    def write(folder: Path, round: int, *args: Any, **kwargs: Any) -> Path:
        written.append(round)
        return real(folder, round, *args, **kwargs)

    monkeypatch.setattr(checkpoint, "write", write)
    run = train(tmp_path / "run", 4, keys={"checkpoint.interval": 2, "checkpoint.keep": 1})
    resume(run, 7)
    assert written == [0, 2, 4, 6, 7] and saved(run) == [7]


# ---- where it may write ----------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_what_is_there_is_left_alone(finished: Path, train: Train, tmp_path: Path) -> None:
    before = contents(finished)
    with pytest.raises(gansmith.UserError, match=f"{finished} holds a run already; .*gansmith train {finished}"):
        train(finished, 1)
    assert contents(finished) == before
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    for out in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(gansmith.UserError, match="is not an empty folder; choose another --out"):
            train(out, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_new_folders_are_made_and_default_names_count_up(
    tmp_path: Path, train: Train, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        assert train(out, 1) == out and saved(out) == [1, 0]
    Path("runs").mkdir()
    Path("runs", f"gan-{pictures.name}-002").write_text("in the way", encoding="utf-8")
    assert [train(None, 1) for _ in range(2)] == [Path("runs", f"gan-{pictures.name}-{n}") for n in ("001", "003")]
    assert train(None, 1, "wgan_gp").name == f"wgan_gp-{pictures.name}-001"
    with created(None, f"gan-{pictures.name}-001", str(pictures), lambda: True) as again:  # of that run's recipe.yaml
        assert again.name == f"gan-{pictures.name}-004"


@pytest.mark.parametrize(
    ("recipe", "keys", "options", "says"),
    [
        ("gan", {"lr": 0}, {}, "lr is 0"),
        ("gan", {}, {"data": "no/such/folder"}, "no such folder"),
        ("gan", {}, {"device": "tpu"}, "--device"),
        ("infogan", {"img_size": 17}, {}, "img_size is 17.*multiples? of 4.*nearest is 16"),
        ("infogan", {"prior.name": "normal"}, {}, "needs the prior codes"),
        ("infogan", {"prior.categories": 7}, {}, "categor"),
        ("infogan", {"networks.D.continuous": 3}, {}, "continuous|code"),
        ("gan", {"batch_size": 1}, {}, "the nearest is 2"),  # for BatchNorm
        ("gan", {"batch_size": 59}, {}, "the nearest is 60"),
        ("gan", {"game.name": "began", "objective": None, "networks.D.name": "mlp_discriminator"}, {}, "auto-encoder"),
    ],
)
def test_bad_input_is_said_and_leaves_folders_as_they_were(
    recipe: str,
    keys: dict[str, Any],
    options: dict[str, Any],
    says: str,
    tmp_path: Path,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "mine", None):
        with pytest.raises(gansmith.UserError, match=says):
            train(out, 1, recipe, keys, **options)
    assert [p.name for p in tmp_path.rglob("*")] == ["mine"]


# ---- said and not said -----------------------------------------------------------------------------------------


def test_what_is_trained_on_what_is_said_unless_it_is_quiet(
    train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "quiet", 3, keys={"log_interval": 1})
    assert capfd.readouterr() == ("", "")
    run = train(tmp_path / "run", 14, keys={"data.memory": "map", "data.validation": 4}, quiet=False)
    text = "".join(capfd.readouterr())
    assert "are held back;" not in text
    read = "56 images (1, 16, 16) from a memory map by 2 threads, 4 held back; to round 14 = 2 epochs"
    for part in ("gan: Simultaneous", "cpu, seed 0", read):
        assert part in text, text
    assert f"run folder: {run}" in text and re.search(r"round 14/14\b.*took", text)
    train(tmp_path / "few", 1, keys={"data.validation": 30}, quiet=False)
    text = "".join(capfd.readouterr())
    assert "warning: 30 of the 60 images" in text and "are held back; --data.validation 6 holds a tenth back" in text


def test_few_pictures_with_labels_are_wanted_and_no_reason_to_warn(
    train: Train, tmp_path: Path, data_of: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    keys = {"data.labelled": 6, "data.validation": 3}
    train(tmp_path / "run", 1, "sgan", keys, quiet=False, data=data_of("sgan"))
    text = "".join(capfd.readouterr())
    assert "3 held back" in text and "are held back;" not in text


def test_what_else_lies_in_a_run_does_no_harm(train: Train, tmp_path: Path) -> None:
    run = train(tmp_path / "run", 2)
    (run / "environment.json").write_text("{}")
    assert saved(resume(run, 3))[0] == 3
    assert [session["round"] for session in json.loads((run / "environment.json").read_text("utf-8"))] == [2]


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names of files are text there")
def test_a_folder_whose_name_is_no_text_trains(pictures: Path, tmp_path: Path, train: Train) -> None:
    odd = tmp_path / os.fsdecode(b"b\xffd")
    shutil.copytree(pictures, odd)
    assert saved(train(tmp_path / "run", 1, data=odd))[0] == 1


def test_a_resolved_recipe_takes_no_other_keys(tmp_path: Path) -> None:
    with pytest.raises(gansmith.UserError, match=r"steps, optimizers.G.lr: a resolved recipe has them already"):
        gansmith.train(plan("gan"), steps=7, out=tmp_path / "run", overrides={"optimizers.G.lr": 1.0})


# ---- not finite ------------------------------------------------------------------------------------------------


class Fading:
    """The post's objective, whose loss of one player is not finite from a given call on."""

    def __init__(self) -> None:
        self.calls, self.player, self.at, self.value = 0, "D", 10**9, float("nan")

    def bad(self, player: str) -> float:
        self.calls += self.player == player
        return self.value if self.player == player and self.calls >= self.at else 0.0

    def d(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return (softplus(-real) + softplus(fake)) / 2 + self.bad("D")

    def g(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return softplus(-fake) + self.bad("G")


FADING: dict[str, Any] = {"objective": "fading"}


@pytest.fixture
def fading(monkeypatch: pytest.MonkeyPatch) -> Fading:
    found = Fading()
    monkeypatch.setitem(OBJECTIVES, "fading", Objective(found.d, found.g, paper="none"))
    return found


@pytest.mark.parametrize(("player", "value"), [("G", float("nan")), ("D", float("inf"))])
def test_a_loss_that_is_not_finite_stops_before_a_weight_is_touched(
    player: str, value: float, fading: Fading, train: Train, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fading.player, fading.at, fading.value = player, 6, value
    with pytest.raises(gansmith.Diverged) as caught:
        train(run, 9, keys={**FADING, "checkpoint.interval": 2})
    text = str(caught.value)
    assert f"stopped in round 6 (epoch 0.62): the loss of {player} is not finite" in text
    assert str(run / "checkpoints" / "00000005") in text and "--lr" in text and "--seed" in text
    assert saved(run) == [5, 4]
    # Say the cause was a passing one: the run goes on from the state before the round, data and noise included.
    fading.at = 10**9
    good = train(tmp_path / "good", 9)  # the private objective is the recipe's own up to there
    resume(run)
    assert_same(run, good, 9)


def test_it_stops_in_turns_too_and_the_checkpoint_is_one_of_an_uninterrupted_run(
    fading: Fading, train: Train, tmp_path: Path
) -> None:
    """D may have moved three times in the round by then: that is not the state after the round before."""
    fading.at = 5 * 2 + 4
    plain: dict[str, Any] = {"penalties": []}
    with pytest.raises(gansmith.Diverged, match="stopped in round 3 .*: the loss of D is not finite"):
        train(tmp_path / "run", 9, "wgan_gp", {**FADING, **plain, "checkpoint.interval": 1})
    good = train(tmp_path / "good", 2, "wgan_gp", {**plain, "objective": "non_saturating"})
    assert_same(tmp_path / "run", good, 2)


def test_it_stops_in_the_first_round_too(fading: Fading, train: Train, tmp_path: Path) -> None:
    fading.at = 1
    with pytest.raises(gansmith.Diverged, match="stopped in round 1 ") as caught:
        train(tmp_path / "run", 20, keys=FADING)
    assert str(tmp_path / "run" / "checkpoints" / "00000000") in str(caught.value)
    assert saved(tmp_path / "run") == [0]  # what the message names is there


def test_a_process_that_is_lost_meanwhile_says_what_goes_on(
    fading: Fading, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*args: Any) -> None:
        raise RankLost("the connection broke")

    fading.at = 6
    monkeypatch.setattr("gansmith.training._diverged", lost)
    with pytest.raises(RankLost, match="the connection broke; .*run goes on from its newest checkpoint$"):
        train(tmp_path / "run", 9, keys=FADING)
    monkeypatch.setattr("gansmith.state.State.gather_own", lost)
    with pytest.raises(RankLost, match="^the connection broke$"):  # there is nothing to go on from
        train(tmp_path / "new", 9)


@pytest.mark.parametrize("kind", [RuntimeError, TypeError, OSError])
def test_whatever_else_fails_later_is_raised_and_what_was_trained_is_saved(
    kind: type[Exception], train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    plain, played = Simultaneous.round, list[int]()

    def round(self: Simultaneous, *batches: Batch) -> Metrics:
        played.append(1)
        if len(played) == 4:
            raise kind("the device fell off")
        return plain(self, *batches)

    monkeypatch.setattr(Simultaneous, "round", round)
    with pytest.raises(kind, match="^the device fell off$"):
        train(tmp_path / "run", 9, quiet=False)
    assert (
        saved(tmp_path / "run")[0] == 3 and "round 4 was not finished: the state before it" in capsys.readouterr().out
    )
    with pytest.raises(kind, match="^the device fell off$"):  # of one's own network it may be a slip: no line hides it
        played[:] = [1, 1, 1]
        train(tmp_path / "own", 9, keys={"networks.D.name": "test_run:Own"})


def test_where_the_disk_fills_up_the_newest_good_checkpoint_is_named(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    written = checkpoint.write

    def write(folder: Path, round: int, *args: Any, **options: Any) -> Path:
        if round > 2:
            raise OSError(28, "No space left on device")
        return written(folder, round, *args, **options)

    monkeypatch.setattr(checkpoint, "write", write)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path / "run", 9, keys={"checkpoint.interval": 2}, quiet=False)
    newest = tmp_path / "run" / "checkpoints" / "00000002"
    assert f"round 5 was not finished: the newest good checkpoint is {newest}" in capsys.readouterr().out


class Own(Discriminator):
    """A network that is not gansmith's."""


class Masked(Discriminator):
    """One whose buffer is infinite by design, and a part of which never trains."""

    def __init__(self, shape: Any, *, widths: tuple[int, ...] = (8,)) -> None:
        super().__init__(shape, widths=widths)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        self.never = torch.nn.Dropout(0.5).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.never.training
        return super().forward(self.never(x))


def test_a_mask_of_infinities_and_a_part_that_never_trains_stay_as_they_are(train: Train, tmp_path: Path) -> None:
    keys = {"networks.D": "test_run:Masked", "checkpoint.interval": 2, "sample_interval": 2}
    run = train(tmp_path / "cut", 4, keys=keys)
    assert saved(run)[:2] == [4, 2]
    assert_same(resume(run, 6), train(tmp_path / "whole", 6, keys=keys), 6)
    state = {"players": {"G": {"net": {"weight": torch.tensor([torch.nan]), "mask": torch.tensor([torch.inf])}}}}
    constant = {"players.G.net.mask"}
    assert checkpoint.not_finite(state) - constant == {"players.G.net.weight"}
    with pytest.raises(checkpoint.Broken, match=r"^players\.G\.net\.weight is not finite$"):
        checkpoint.write(tmp_path, 1, state, info={}, constant=constant)


def test_a_notebook_shows_the_film(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    display = SimpleNamespace(display=shown.append, Image=lambda filename: filename)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None, display=display))
    show_in_notebook(finished / "growth.gif")  # a plain shell of IPython's
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=True), display=display)
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    show_in_notebook(tmp_path / "growth.gif")  # nothing was drawn
    show_in_notebook(finished / "growth.gif")
    assert shown == [str(finished / "growth.gif")]


# ---- when memory does not suffice ------------------------------------------------------------------------------

NO_MEMORY = "there is not enough memory for a round: train with a smaller --batch_size, or with --accumulate 2 or more"


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """full(at, "gansmith.players.Player.step", torch.OutOfMemoryError("...")): what fails in round `at`, and how."""

    def arrange(at: int, where: str, error: Exception | None = None) -> None:
        real, played = Simultaneous.round, 0

        def fail(*args: Any, **options: Any) -> None:
            if error is not None:
                raise error
            torch.empty(10**15)

        def round(self: Simultaneous, *batches: Any) -> Any:
            nonlocal played
            played += 1
            with pytest.MonkeyPatch.context() as patch:
                if played == at:
                    patch.setattr(where, fail)
                return real(self, *batches)

        monkeypatch.setattr(Simultaneous, "round", round)

    return arrange


@pytest.mark.parametrize(
    "error",
    [
        None,  # what PyTorch says of the CPU's memory
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=repr,
)
def test_a_round_without_memory_is_said_and_nothing_is_lost(
    error: Exception | None, full: Callable[..., Any], train: Train, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    full(6, "gansmith.players.Player.step", error)
    with pytest.raises(gansmith.UserError, match=NO_MEMORY) as caught:
        train(run, 9)
    said = f"Round 6 was stopped, and the state before it is saved in {run / 'checkpoints' / '00000005'}"
    assert str(caught.value).endswith(said)
    resume(run)
    assert_same(run, train(tmp_path / "good", 9), 9)


def test_without_memory_in_a_step_the_checkpoint_before_is_named(full: Any, train: Train, tmp_path: Path) -> None:
    full(6, "torch.optim.Adam.step", MemoryError())
    with pytest.raises(gansmith.UserError, match="Round 6 was stopped, and the newest good checkpoint is .*00000004$"):
        train(tmp_path / "run", 9, keys={"checkpoint.interval": 2})


def test_without_memory_in_the_first_round_nothing_stays(full: Any, train: Train, tmp_path: Path) -> None:
    full(1, "gansmith.players.Player.step")
    with pytest.raises(gansmith.UserError, match=f"^{NO_MEMORY}, which goes over each batch in parts$"):
        train(tmp_path / "run", 9)
    assert not (tmp_path / "run").exists()
    full(2, "gansmith.players.Player.step", RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):  # what only speaks of memory stays what it is
        train(tmp_path / "run", 9)


# ---- in one process --------------------------------------------------------------------------------------------


def test_one_training_at_a_time_and_the_random_stream_stays_the_callers(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Simultaneous.round

    def round(self: Simultaneous, *batches: Any) -> Any:
        with pytest.raises(gansmith.UserError, match="another training runs in this process"):
            train(tmp_path / "second", 1)
        return real(self, *batches)

    monkeypatch.setattr(Simultaneous, "round", round)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    gansmith.load(train(tmp_path / "first", 1), device="cpu")
    assert torch.equal(torch.rand(3), expected) and not (tmp_path / "second").exists()
