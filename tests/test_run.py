"""What a run leaves behind, where it may write, and how it ends when it cannot go on."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gansmith
from gansmith import checkpoint
from gansmith.errors import RankLost
from gansmith.exactness import compare
from gansmith.games.two_player import Simultaneous
from gansmith.recipe import plan
from gansmith.report.log import read_metrics
from gansmith.run import environment

Small = Callable[..., dict[str, Any]]
Train = Callable[..., Path]


@pytest.fixture
def train(pictures: Path, small: Small) -> Train:
    """train(out=..., recipe="gan", **keys): a small recipe on the small pictures, in silence."""

    def go(
        out: Path | None = None, recipe: str = "gan", *, overrides: dict[str, Any] | None = None, **more: Any
    ) -> Path:
        options = {"data": pictures, "device": "cpu", "quiet": True, **more}
        return gansmith.train(recipe, out=out, overrides=small(recipe, **(overrides or {})), **options)

    return go


def saved(run: Path) -> list[int]:
    return [int(path.name) for path in checkpoint.everything(run / "checkpoints")]


# ---- the folder ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    overrides = {
        **{"img_size": 16, "batch_size": 8, "networks.G.widths": [16, 16], "networks.D.widths": [16]},
        **{"sample_interval": 4, "log_interval": 2, "checkpoint.interval": 3, "checkpoint.keep_every": 4},
        **{"ema.halflife_kimg": 0.1},
    }
    run = tmp_path_factory.mktemp("runs") / "run"
    return gansmith.train("gan", data=pictures, out=run, steps=10, device="cpu", overrides=overrides, quiet=True)


def test_the_folder_holds_what_it_promises(finished: Path) -> None:
    names = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    files = {"recipe.yaml", "metrics.jsonl", "environment.json", "growth.gif"}
    assert names - {"tensorboard", "curves.png"} == {*files, "samples", "growth", "checkpoints"}
    assert not [path for path in finished.rglob("*") if path.name.endswith((".part", ".tmp"))]
    assert not list((finished / "checkpoints").glob(".*"))


def test_a_short_run_has_its_curves_too(finished: Path) -> None:
    with Image.open(finished / "curves.png") as picture:
        assert picture.format == "PNG" and picture.width > 400


def test_pictures_come_at_their_rounds_and_at_the_end(finished: Path) -> None:
    wanted = [f"{number:06d}.png" for number in (0, 4, 8, 10)]
    for kind in ("samples", "growth"):
        assert sorted(path.name for path in (finished / kind).iterdir()) == wanted
        for path in (finished / kind).iterdir():
            with Image.open(path) as picture:
                assert (picture.mode, picture.size) == ("L", (5 * 18 + 2, 5 * 18 + 2))
    with Image.open(finished / "growth.gif") as film:
        assert film.format == "GIF" and film.n_frames == 4


def test_samples_are_fresh_and_growth_is_that_of_seeds_0_to_24(finished: Path) -> None:
    samples = [path.read_bytes() for path in sorted((finished / "samples").iterdir())]
    assert len(set(samples)) == 4
    sampler = gansmith.load(finished, device="cpu")
    from gansmith.report.pictures import grid

    with Image.open(finished / "growth" / "000010.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(grid(sampler.sample(range(25)), 5)))
    with Image.open(finished / "samples" / "000010.png") as picture:
        assert not np.array_equal(np.asarray(picture), np.asarray(grid(sampler.sample(range(25)), 5)))


def test_metrics_hold_the_promised_keys(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["round"] for row in rows] == [2, 4, 6, 8, 10]
    for row in rows:
        assert {"epoch", "images", "seconds", "images_per_second"} <= set(row)
        assert {"loss/D", "loss/G", "D/real", "D/fake", "grad/D", "grad/G"} <= set(row)
        assert all(np.isfinite(value) for value in row.values())
        assert 0 < row["D/real"] < 1 and 0 < row["D/fake"] < 1
        assert row["grad/D"] > 0 and row["grad/G"] > 0
    assert [row["images"] for row in rows] == [16, 32, 48, 60, 76]  # the eighth batch has 4
    assert [row["epoch"] for row in rows] == [0.25, 0.5, 0.75, 1.0, 1.25]


def test_metrics_are_means_over_their_interval(train: Train, tmp_path: Path) -> None:
    def losses(run: Path) -> list[float]:
        return [json.loads(line)["loss/D"] for line in (run / "metrics.jsonl").read_text().splitlines()]

    each = losses(train(tmp_path / "each", steps=6, overrides={"log_interval": 1}))
    mean = losses(train(tmp_path / "mean", steps=6, overrides={"log_interval": 3}))
    assert mean == pytest.approx([np.mean(each[:3]), np.mean(each[3:])], rel=1e-12)
    assert len(set(each)) == 6


def test_the_environment_is_noted(finished: Path) -> None:
    [session] = json.loads((finished / "environment.json").read_text(encoding="utf-8"))
    assert session["gansmith"] == gansmith.__version__
    assert session["torch"] == torch.__version__ or session["torch"] in torch.__version__
    assert session["device"] == "cpu" and session["device_name"] and session["round"] == 0
    assert session["command"] == sys.argv and session["python"].startswith("3.")
    assert {"commit", "numpy", "torchvision", "platform", "threads", "started"} <= set(session)
    assert session["cuda"] is None


def test_of_a_card_name_and_cuda_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"card {device.index}")
    monkeypatch.setattr("torch.version.cuda", "13.0")
    found = environment(torch.device("cuda:1"))
    assert (found["device"], found["device_name"], found["cuda"]) == ("cuda:1", "card 1", "13.0")


def test_checkpoints_are_kept_as_asked(finished: Path) -> None:
    assert saved(finished) == [10, 9, 8, 4]  # not 0, with which every run begins


def test_no_round_is_written_twice(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between two writings of one round could lose it, and with `keep: 1` it is all there is."""
    written: list[int] = []
    real = checkpoint.write

    def write(folder: Path, round: int, *args: Any, **kwargs: Any) -> Path:
        written.append(round)
        return real(folder, round, *args, **kwargs)

    monkeypatch.setattr(checkpoint, "write", write)
    keys = {"checkpoint.interval": 2, "checkpoint.keep": 1}
    run = train(tmp_path / "run", steps=4, overrides=keys)
    gansmith.train(run, steps=7, device="cpu", quiet=True)
    assert written == [0, 2, 4, 6, 7] and saved(run) == [7]


def test_the_recipe_of_a_run_alone_trains_the_same_again(finished: Path, tmp_path: Path) -> None:
    text = (finished / "recipe.yaml").read_text(encoding="utf-8")
    own = tmp_path / "elsewhere.yaml"
    own.write_text(text, encoding="utf-8")
    again = gansmith.train(own, out=tmp_path / "again", device="cpu", quiet=True)
    found = compare(finished / "checkpoints" / "00000010", again / "checkpoints" / "00000010")
    assert found.exact, found.different
    assert plan(again).recipe == plan(finished).recipe
    body = [line for line in text.splitlines() if not line.startswith("#")]
    assert body == [line for line in (again / "recipe.yaml").read_text().splitlines() if not line.startswith("#")]


def test_watching_does_not_change_what_is_trained(train: Train, tmp_path: Path) -> None:
    seen = train(tmp_path / "seen", steps=9, overrides={"sample_interval": 1, "log_interval": 1})
    blind = train(tmp_path / "blind", steps=9, overrides={"sample_interval": 999, "log_interval": 999})
    one, other = (checkpoint.read(run / "checkpoints" / "00000009")[0] for run in (seen, blind))
    for player in ("G", "D"):
        for key, weight in one["players"][player]["net"].items():
            assert torch.equal(weight, other["players"][player]["net"][key]), key
    assert torch.equal(one["rng"]["noise"], other["rng"]["noise"])
    assert len(read_metrics(seen / "metrics.jsonl")) == 9
    [last] = read_metrics(blind / "metrics.jsonl")  # a session that ends between two lines leaves one of its own
    assert last["round"] == 9 and (blind / "curves.png").exists() and (blind / "growth.gif").exists()


# ---- where it may write ----------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_run_is_never_overwritten(finished: Path, train: Train) -> None:
    before = contents(finished)
    with pytest.raises(gansmith.UserError, match=f"{finished} holds a run already; .*gansmith train {finished}"):
        train(finished, steps=1)
    assert contents(finished) == before


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, train: Train) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    for out in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(gansmith.UserError, match="is not an empty folder; choose another --out"):
            train(out, steps=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_and_a_deep_new_one_will_do(tmp_path: Path, train: Train) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        assert train(out, steps=1) == out and saved(out) == [1, 0]


def test_default_names_count_up(tmp_path: Path, train: Train, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(steps=1) == Path("runs", f"gan-{pictures.name}-001")
    assert train(steps=1) == Path("runs", f"gan-{pictures.name}-002")
    Path("runs", f"gan-{pictures.name}-003").write_text("in the way", encoding="utf-8")
    assert train(steps=1) == Path("runs", f"gan-{pictures.name}-004")
    assert train(recipe="wgan_gp", steps=1).name == f"wgan_gp-{pictures.name}-001"


def test_bad_input_leaves_no_folder(tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for change in ({"overrides": {"lr": 0}}, {"data": "no/such/folder"}, {"device": "tpu"}, {"device": "cpux"}):
        with pytest.raises(gansmith.UserError):
            train(steps=1, **change)
    with pytest.raises(gansmith.UserError, match="img_size is 17.*multiple of 4.*nearest is 16"):
        train(recipe="infogan", steps=1, overrides={"img_size": 17})
    with pytest.raises(gansmith.UserError, match="img_size is 17.*nearest is 16"):
        train(recipe="began", steps=1, overrides={"img_size": 17})
    with pytest.raises(gansmith.UserError, match="needs the prior codes"):
        train(recipe="infogan", steps=1, overrides={"prior.name": "normal"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("batch_size", "nearest"), [(1, 2), (59, 60)])
def test_a_last_batch_of_one_is_refused_where_batchnorm_is(
    batch_size: int, nearest: int, train: Train, tmp_path: Path
) -> None:
    with pytest.raises(gansmith.UserError, match=f"the nearest is {nearest}"):
        train(tmp_path / "run", steps=1, overrides={"batch_size": batch_size})
    assert saved(train(tmp_path / "run", steps=1, overrides={"batch_size": nearest})) == [1, 0]


def test_codes_that_do_not_fit_the_heads_are_a_user_error(train: Train, tmp_path: Path) -> None:
    """InfoGAN's prior and Q name the number of categories each; they have to agree."""
    for change in ({"prior.categories": 7}, {"networks.D.continuous": 3}):
        with pytest.raises(gansmith.UserError, match="categor|continuous|code"):
            train(tmp_path / "run", "infogan", steps=1, overrides=change)
        assert not (tmp_path / "run").exists()


# ---- said and not said -----------------------------------------------------------------------------------------


def test_quiet_prints_nothing(train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", steps=3, overrides={"log_interval": 1})
    assert capfd.readouterr() == ("", "")


def test_what_is_trained_on_what_is_said(train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = train(tmp_path / "run", steps=16, quiet=False, overrides={"data.memory": "map"})
    text = "".join(capfd.readouterr())
    for part in ("gan: Simultaneous", "cpu, seed 0", "60 images (1, 16, 16)", "by 2 threads", "to round 16 = 2 epochs"):
        assert part in text, text
    assert f"run folder: {run}" in text
    assert re.search(r"round 16/16\b.*took", text)


def test_it_trains_from_a_thread(train: Train, tmp_path: Path) -> None:
    """As in a notebook's server: there signals cannot be taken, and are left as they are."""
    before = signal.getsignal(signal.SIGINT)
    done: list[Path] = []
    thread = threading.Thread(target=lambda: done.append(train(tmp_path / "thread", steps=5)))
    thread.start()
    thread.join(60)
    assert done == [tmp_path / "thread"] and signal.getsignal(signal.SIGINT) is before
    here = train(tmp_path / "here", steps=5)
    assert compare(done[0] / "checkpoints" / "00000005", here / "checkpoints" / "00000005").exact
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_in_process_is_an_exception_that_names_the_run(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, rounds = Simultaneous.round, []

    def round(self: Any, *batches: Any) -> Any:
        rounds.append(1)
        if len(rounds) == 3:
            signal.raise_signal(signal.SIGTERM)
        return real(self, *batches)

    monkeypatch.setattr(Simultaneous, "round", round)
    with pytest.raises(gansmith.Stopped) as caught:
        train(tmp_path / "run", steps=9)
    assert caught.value.run == tmp_path / "run" and caught.value.signum == signal.SIGTERM
    assert saved(tmp_path / "run") == [3, 0]  # the round was played to its end


# ---- not finite ------------------------------------------------------------------------------------------------

PRIVATE = """
from torch.nn.functional import softplus

from gansmith.objectives import Objective


class Fading:
    '''The post's objective, whose loss of one player is not finite from a given call on.'''

    calls = 0
    player, at, value = "D", 10**9, float("nan")

    @staticmethod
    def d(real, fake):
        Fading.calls += Fading.player == "D"
        bad = Fading.value if Fading.player == "D" and Fading.calls >= Fading.at else 0.0
        return (softplus(-real) + softplus(fake)) / 2 + bad

    @staticmethod
    def g(real, fake):
        Fading.calls += Fading.player == "G"
        bad = Fading.value if Fading.player == "G" and Fading.calls >= Fading.at else 0.0
        return softplus(-fake) + bad


FADING = Objective(Fading.d, Fading.g, paper="none", at_zero=(0.0, 0.0))
"""


@pytest.fixture
def fading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "fading_objective.py").write_text(PRIVATE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import fading_objective  # type: ignore[import-not-found]

    yield fading_objective.Fading
    del sys.modules["fading_objective"]


@pytest.mark.parametrize("player", ["G", "D"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_a_weight_is_touched(
    player: str, value: float, fading: Any, train: Train, tmp_path: Path
) -> None:
    fading.player, fading.at, fading.value = player, 6, value
    private = {"objective": "fading_objective:FADING", "checkpoint.interval": 2}
    with pytest.raises(gansmith.Diverged) as caught:
        train(tmp_path / "run", steps=20, overrides=private)
    text = str(caught.value)
    assert f"stopped in round 6 (epoch 0.62): the loss of {player} is not finite" in text
    assert str(tmp_path / "run" / "checkpoints" / "00000005") in text
    for advice in ("--lr", "--seed"):
        assert advice in text
    assert saved(tmp_path / "run") == [5, 4]
    good = train(tmp_path / "good", steps=5)  # the private objective is the recipe's own up to there
    one, other = (checkpoint.read(run / "checkpoints" / "00000005")[0] for run in (tmp_path / "run", good))
    for name in ("G", "D"):
        for key, weight in one["players"][name]["net"].items():
            assert torch.isfinite(weight).all()
            if "running_" not in key and "num_batches" not in key:  # those take part in the forward pass
                assert torch.equal(weight, other["players"][name]["net"][key]), key
        for index, moments in one["players"][name]["optimizer"]["state"].items():
            assert torch.equal(moments["exp_avg"], other["players"][name]["optimizer"]["state"][index]["exp_avg"])


def test_what_is_saved_before_a_loss_that_is_not_finite_goes_on_like_an_uninterrupted_run(
    fading: Any, train: Train, tmp_path: Path
) -> None:
    """Say the cause was a passing one: the run goes on from the state before the round, data and noise included."""
    fading.at = 6
    with pytest.raises(gansmith.Diverged):
        train(tmp_path / "run", steps=9, overrides={"objective": "fading_objective:FADING"})
    fading.at = 10**9
    gansmith.train(tmp_path / "run", device="cpu", quiet=True)
    good = train(tmp_path / "good", steps=9)
    found = compare(tmp_path / "run" / "checkpoints" / "00000009", good / "checkpoints" / "00000009")
    assert found.exact, found.different


def test_it_stops_in_turns_too_and_the_checkpoint_of_the_round_before_is_the_one_of_an_uninterrupted_run(
    fading: Any, train: Train, tmp_path: Path
) -> None:
    """D may have moved three times in the round by then: that is not the state after the round before."""
    fading.at = 5 * 2 + 4
    private = {"objective": "fading_objective:FADING", "checkpoint.interval": 1, "penalties": []}
    with pytest.raises(gansmith.Diverged, match="stopped in round 3 .*: the loss of D is not finite"):
        train(tmp_path / "run", "wgan_gp", steps=9, overrides=private)
    good = train(tmp_path / "good", "wgan_gp", steps=2, overrides={"penalties": [], "objective": "non_saturating"})
    found = compare(tmp_path / "run" / "checkpoints" / "00000002", good / "checkpoints" / "00000002")
    assert found.exact, found.different


def test_a_process_lost_while_the_others_save_a_loss_that_is_not_finite_says_what_goes_on(
    fading: Any, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*args: Any) -> None:
        raise RankLost("the connection broke")

    fading.at = 6
    monkeypatch.setattr("gansmith.training._diverged", lost)
    with pytest.raises(RankLost, match="the connection broke; .*run goes on from its newest checkpoint$"):
        train(tmp_path / "run", steps=9, overrides={"objective": "fading_objective:FADING"})


def test_nothing_goes_on_where_a_process_is_lost_before_the_first_checkpoint(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*args: Any) -> None:
        raise RankLost("the connection broke")

    monkeypatch.setattr("gansmith.state.State.gather_streams", lost)
    with pytest.raises(RankLost, match="^the connection broke$"):
        train(tmp_path / "run", steps=9)


def test_it_stops_in_the_first_round_too(fading: Any, train: Train, tmp_path: Path) -> None:
    fading.at = 1
    with pytest.raises(gansmith.Diverged, match="stopped in round 1 ") as caught:
        train(tmp_path / "run", steps=20, overrides={"objective": "fading_objective:FADING"})
    assert str(tmp_path / "run" / "checkpoints" / "00000000") in str(caught.value)
    assert saved(tmp_path / "run") == [0]  # what the message names is there


def test_an_explosion_by_the_learning_rate_is_caught(train: Train, tmp_path: Path) -> None:
    with pytest.raises(gansmith.Diverged, match=r"(loss|gradient) of [GD] is not finite"):
        train(tmp_path / "run", steps=300, overrides={"optimizers.D.name": "sgd", "optimizers.D.lr": 1e18})
    for path in checkpoint.everything(tmp_path / "run" / "checkpoints"):
        for name, player in checkpoint.read(path)[0]["players"].items():
            assert all(torch.isfinite(t).all() for t in player["net"].values()), name


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
def test_a_round_without_memory_is_told_and_nothing_is_lost(
    error: Exception | None, full: Callable[..., Any], train: Train, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    full(6, "gansmith.players.Player.step", error)
    with pytest.raises(gansmith.UserError, match=NO_MEMORY) as caught:
        train(run, steps=9)
    said = f"Round 6 was stopped, and the state before it is saved in {run / 'checkpoints' / '00000005'}"
    assert str(caught.value).endswith(said)
    gansmith.train(run, device="cpu", quiet=True)
    good = train(tmp_path / "good", steps=9)
    assert compare(*(one / "checkpoints" / "00000009" for one in (run, good))).exact


def test_without_memory_in_a_step_the_checkpoint_before_is_named(
    full: Callable[..., Any], train: Train, tmp_path: Path
) -> None:
    full(6, "torch.optim.Adam.step", MemoryError())
    with pytest.raises(gansmith.UserError, match="Round 6 was stopped, and the newest good checkpoint is .*00000004$"):
        train(tmp_path / "run", steps=9, overrides={"checkpoint.interval": 2})


def test_without_memory_in_the_first_round_nothing_stays(
    full: Callable[..., Any], train: Train, tmp_path: Path
) -> None:
    full(1, "gansmith.players.Player.step")
    with pytest.raises(gansmith.UserError, match=f"^{NO_MEMORY}, which goes over each batch in parts$"):
        train(tmp_path / "run", steps=9)
    assert not (tmp_path / "run").exists()


def test_what_only_speaks_of_memory_stays_what_it_is(full: Callable[..., Any], train: Train, tmp_path: Path) -> None:
    full(1, "gansmith.players.Player.step", RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        train(tmp_path / "run", steps=9)


def test_a_moving_average_leaves_the_training_as_it_is(train: Train, tmp_path: Path) -> None:
    runs = [train(tmp_path / str(h), steps=5, overrides={"ema.halflife_kimg": h}) for h in (None, 0.05)]
    without, averaged = (checkpoint.read(run / "checkpoints" / "00000005")[0] for run in runs)
    assert averaged["players"]["G"].pop("ema") and "ema" not in without["players"]["G"]
    packed: list[dict[str, torch.Tensor]] = [{}, {}]
    for tree, tensors in zip((without, averaged), packed, strict=True):
        tree.pop("seconds")
        checkpoint.pack(tree, tensors)
    assert packed[0].keys() == packed[1].keys()
    assert all(torch.equal(tensor, packed[1][key]) for key, tensor in packed[0].items())


# ---- ends that are early -----------------------------------------------------------------------------------------


DIES = """
import os, sys
import gansmith
from gansmith.games.two_player import Simultaneous

real = Simultaneous.round

def round(self, *batches):
    if self.D.moves == 3:
        os._exit(9)  # as kill -9 does
    return real(self, *batches)

Simultaneous.round = round
gansmith.train(sys.argv[1], out=sys.argv[2], device="cpu", quiet=True)
"""


def test_a_run_that_dies_before_its_first_interval_goes_on(train: Train, tmp_path: Path) -> None:
    once, run = train(tmp_path / "once", steps=6), tmp_path / "run"
    env = {**os.environ, "PYTHONPATH": str(Path(gansmith.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", DIES, once / "recipe.yaml", run], env=env).returncode == 9
    assert saved(run) == [0]
    gansmith.train(run, device="cpu", quiet=True)
    assert compare(once / "checkpoints" / "00000006", run / "checkpoints" / "00000006").exact


def test_a_failed_start_leaves_an_empty_folder_as_it_was(train: Train, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    unfit = {"game.name": "began", "objective": None, "networks.D.name": "mlp_discriminator"}
    with pytest.raises(gansmith.UserError, match="needs an auto-encoder"):
        train(tmp_path / "mine", steps=1, overrides=unfit)
    assert (tmp_path / "mine").is_dir() and not list((tmp_path / "mine").iterdir())
    with pytest.raises(gansmith.UserError, match="needs an auto-encoder"):
        train(tmp_path / "new", steps=1, overrides=unfit)
    assert not (tmp_path / "new").exists()


def test_one_training_at_a_time_in_a_process(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Simultaneous.round

    def round(self: Simultaneous, *batches: Any) -> Any:
        with pytest.raises(gansmith.UserError, match="another training runs in this process"):
            train(tmp_path / "second", steps=1)
        return real(self, *batches)

    monkeypatch.setattr(Simultaneous, "round", round)
    train(tmp_path / "first", steps=1)
    assert not (tmp_path / "second").exists()


def test_the_random_stream_of_the_caller_is_his_own(train: Train, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    gansmith.load(train(tmp_path / "run", steps=1), device="cpu")
    assert torch.equal(torch.rand(3), expected)
