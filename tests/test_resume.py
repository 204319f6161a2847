"""Training 2N rounds equals training N, stopping, loading and training N more: bit for bit, for every recipe."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import gansmith
from gansmith import checkpoint
from gansmith.build import Experiment, derive_seed
from gansmith.exactness import compare
from gansmith.recipe import recipe_names
from gansmith.record import Record

Small = Callable[..., dict[str, Any]]
# With 60 pictures in batches of 8: inside an epoch, at its border, and on both sides of the short batch.
EPOCH = 8


def train(what: str | Path, *, steps: int, at: Path, resume: bool = False, **options: Any) -> Path:
    """Train to round `steps` in the new folder `at`, or go on there; give the checkpoint at its end."""
    options = {"device": "cpu", "quiet": True, **options}
    run = gansmith.train(at, steps=steps, **options) if resume else gansmith.train(what, out=at, steps=steps, **options)
    assert run == at
    return at / "checkpoints" / f"{steps:08d}"


def assert_equal(one: Path, other: Path) -> None:
    found = compare(one, other)
    assert found.exact, found.different
    assert found.tensors > 20 and found.values > 20


def rows(run: Path) -> list[dict[str, Any]]:
    """The metrics without the clock."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    clock = ("seconds", "images_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def pictures_of(run: Path) -> dict[str, bytes]:
    files = [*run.glob("samples/*.png"), *run.glob("growth/*.png"), *run.glob("growth.gif")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


# ---- every recipe ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_a_resumed_run_is_the_run(name: str, pictures: Path, small: Small, tmp_path: Path) -> None:
    more = {"ema.halflife_kimg": 0.05, "log_interval": 2, "sample_interval": 4, "checkpoint.interval": 3}
    options = {"data": "normal_1d" if name == "figure1" else pictures, "overrides": small(name, **more)}
    once = train(name, steps=11, at=tmp_path / "once", **options)
    for stop in (5, 8):
        train(name, steps=stop, at=tmp_path / "twice", **options)
        torch.manual_seed(stop)  # nothing may lean on what the process left behind
        torch.rand(3)
        twice = train(name, steps=11, at=tmp_path / "twice", resume=True)
        assert_equal(once, twice)
        assert rows(tmp_path / "twice") == rows(tmp_path / "once")
        a, b = pictures_of(tmp_path / "once"), pictures_of(tmp_path / "twice")
        extra = {f"{kind}/{stop:06d}.png" for kind in ("samples", "growth")}  # the end of the first part
        assert {k: v for k, v in b.items() if k not in {*extra, "growth.gif"}}.items() <= a.items()
        shutil.rmtree(tmp_path / "twice")


def test_both_players_and_the_average_have_moved(pictures: Path, small: Small, tmp_path: Path) -> None:
    """So that equal does not mean equally untouched."""
    options = {"data": pictures, "overrides": small("gan", **{"ema.halflife_kimg": 0.05})}
    a = checkpoint.read(train("gan", steps=2, at=tmp_path / "a", **options))[0]["players"]
    b = checkpoint.read(train("gan", steps=3, at=tmp_path / "b", **options))[0]["players"]
    for player, part in (("G", "net"), ("D", "net"), ("G", "ema")):
        weights = [key for key in a[player][part] if key.endswith("weight")]
        assert weights and not any(torch.equal(a[player][part][key], b[player][part][key]) for key in weights)
    assert not torch.equal(b["G"]["ema"]["model.0.weight"], b["G"]["net"]["model.0.weight"])
    assert a["G"]["optimizer"]["state"][0]["step"] == 2 and b["D"]["optimizer"]["state"][0]["step"] == 3


def test_seeds_make_different_runs(pictures: Path, small: Small, tmp_path: Path) -> None:
    options = {"data": pictures, "overrides": small("gan")}
    one = train("gan", steps=2, at=tmp_path / "one", seed=1, **options)
    other = train("gan", steps=2, at=tmp_path / "other", seed=2, **options)
    again = train("gan", steps=2, at=tmp_path / "again", seed=1, **options)
    assert_equal(one, again)
    found = compare(one, other)
    assert {"players.G.net.model.0.weight", "players.D.net.model.0.weight", "rng.noise", "data.seed"} <= {
        *found.different
    }


@pytest.mark.parametrize("stop", [3, 4])
def test_inside_a_period_of_a_lazy_penalty(stop: int, pictures: Path, small: Small, tmp_path: Path) -> None:
    """D moves five times a round: 15 or 20 of its moves are done, and the penalty comes with the 16th and the 24th."""
    options = {"data": pictures, "overrides": small("wgan_gp", **{"penalties.0.every": 8, "accumulate": 2})}
    once = train("wgan_gp", steps=7, at=tmp_path / "once", **options)
    assert checkpoint.read(once)[0]["players"]["D"]["moves"] == 35
    train("wgan_gp", steps=stop, at=tmp_path / "twice", **options)
    assert_equal(once, train("wgan_gp", steps=7, at=tmp_path / "twice", resume=True))


def test_a_run_from_before_penalties_could_be_lazy_goes_on(pictures: Path, small: Small, tmp_path: Path) -> None:
    options = {"data": pictures, "overrides": small("wgan_gp")}
    once = train("wgan_gp", steps=6, at=tmp_path / "once", **options)
    run = tmp_path / "old"
    path = train("wgan_gp", steps=3, at=run, **options)
    shutil.rmtree(run / "checkpoints" / "00000000")
    tree, info = checkpoint.read(path)
    for player in tree["players"].values():
        del player["moves"]
    for penalty in info["recipe"]["penalties"]:
        assert penalty.pop("every") == 1
    checkpoint.write(run / "checkpoints", 3, tree, info=info)
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    assert recipe.count("every: 1,") == 1
    (run / "recipe.yaml").write_text(recipe.replace("every: 1,", "every: 16,"), encoding="utf-8")
    with pytest.raises(gansmith.UserError, match=r"does not fit .*penalties was .*'every': 1.* and is .*'every': 16"):
        train("wgan_gp", steps=6, at=run, resume=True)
    (run / "recipe.yaml").write_text(recipe.replace(" every: 1,", ""), encoding="utf-8")
    found = compare(once, train("wgan_gp", steps=6, at=run, resume=True))
    assert found.different == ("players.D.moves", "players.G.moves")


# ---- where it stops, and on what data --------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["device", "map"])
@pytest.mark.parametrize("stop", [EPOCH - 1, EPOCH, EPOCH + 1, 2 * EPOCH, 3])
def test_inside_an_epoch_and_at_its_border(
    memory: str, stop: int, pictures: Path, small: Small, tmp_path: Path
) -> None:
    options = {"data": pictures, "overrides": small("gan", **{"data.memory": memory})}
    once = train("gan", steps=2 * EPOCH + 3, at=tmp_path / "once", **options)
    train("gan", steps=stop, at=tmp_path / "twice", **options)
    assert_equal(once, train("gan", steps=2 * EPOCH + 3, at=tmp_path / "twice", resume=True))


def test_device_and_map_train_the_same(pictures: Path, small: Small, tmp_path: Path) -> None:
    ends = [
        train("gan", steps=20, at=tmp_path / memory, data=pictures, overrides=small("gan", **{"data.memory": memory}))
        for memory in ("device", "map")
    ]
    assert_equal(*ends)


def test_memory_and_threads_may_change_at_a_resume(pictures: Path, small: Small, tmp_path: Path) -> None:
    options = {"data": pictures, "overrides": small("gan", **{"data.memory": "map"})}
    once = train("gan", steps=12, at=tmp_path / "once", **options)
    train("gan", steps=5, at=tmp_path / "twice", **options)
    train("gan", steps=9, at=tmp_path / "twice", resume=True, overrides={"data.memory": "device", "n_cpu": 1})
    assert_equal(once, train("gan", steps=12, at=tmp_path / "twice", resume=True))


def test_many_resumes_are_one_run(pictures: Path, small: Small, tmp_path: Path) -> None:
    options = {"data": pictures, "overrides": small("wgan_gp", **{"checkpoint.keep": 1})}
    once = train("wgan_gp", steps=6, at=tmp_path / "once", **options)
    train("wgan_gp", steps=1, at=tmp_path / "often", **options)
    for steps in range(2, 7):
        often = train("wgan_gp", steps=steps, at=tmp_path / "often", resume=True)
    assert_equal(once, often)
    sessions = json.loads((tmp_path / "often" / "environment.json").read_text(encoding="utf-8"))
    assert [session["round"] for session in sessions] == list(range(6))


def test_in_epochs_a_resume_goes_to_the_last_batch(pictures: Path, small: Small, tmp_path: Path) -> None:
    options = {"data": pictures, "overrides": small("gan"), "device": "cpu", "quiet": True}
    once = gansmith.train("gan", out=tmp_path / "once", n_epochs=3, **options)
    twice = gansmith.train("gan", out=tmp_path / "twice", n_epochs=1, **options)
    assert checkpoint.everything(twice / "checkpoints")[0].name == f"{EPOCH:08d}"
    gansmith.train(twice, n_epochs=3, device="cpu", quiet=True)
    name = f"checkpoints/{3 * EPOCH:08d}"
    assert_equal(once / name, twice / name)
    assert checkpoint.read(once / name)[1]["images"] == 3 * 60


def test_real_mnist(tmp_path: Path) -> None:
    overrides = {"networks.G.widths": [16, 16], "networks.D.widths": [16], "log_interval": 5}
    once = train("gan", steps=40, at=tmp_path / "once", overrides=overrides)
    train("gan", steps=20, at=tmp_path / "twice", overrides=overrides)
    assert_equal(once, train("gan", steps=40, at=tmp_path / "twice", resume=True))
    assert rows(tmp_path / "once") == rows(tmp_path / "twice")
    assert len(rows(tmp_path / "once")) == 8


def test_the_seconds_of_a_run_go_on(pictures: Path, small: Small, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {"data": pictures, "overrides": small("gan", log_interval=1)}
    first = checkpoint.read(train("gan", steps=5, at=run, **options))[0]["seconds"]
    second = checkpoint.read(train("gan", steps=10, at=run, resume=True))[0]["seconds"]
    assert 0 < first < second
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and len(seconds) == 10
    assert all(line["images_per_second"] > 0 for line in lines)


# ---- broken checkpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 3])
def test_a_resume_skips_what_is_broken_and_the_end_is_the_same(
    keep: int, pictures: Path, small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"checkpoint.interval": 2, "checkpoint.keep": 3, "log_interval": 1}
    options = {"data": pictures, "overrides": small("gan", **more)}
    once = train("gan", steps=12, at=tmp_path / "once", **options)
    run = tmp_path / "twice"
    train("gan", steps=7, at=run, **options)
    for name in ("00000007", "00000006"):
        with (run / "checkpoints" / name / checkpoint.TENSORS).open("r+b") as file:
            file.seek(-3, 2)
            file.write(b"\xff\x01\xff")
    text = (run / "recipe.yaml").read_text(encoding="utf-8")
    (run / "recipe.yaml").write_text(text.replace("keep: 3", f"keep: {keep}"), encoding="utf-8")
    capsys.readouterr()
    # A short leg first: what it saves must survive beside the broken ones of later rounds.
    train("gan", steps=5, at=run, resume=True, quiet=False)
    said = capsys.readouterr()
    assert all(f"skipped the broken checkpoint {run / 'checkpoints' / name}" in said.out for name in ("00000007",))
    assert_equal(once, train("gan", steps=12, at=run, resume=True))
    assert rows(run) == rows(tmp_path / "once")


def test_nothing_good_to_resume_is_said(pictures: Path, small: Small, tmp_path: Path) -> None:
    train("gan", steps=2, at=tmp_path, data=pictures, overrides=small("gan"))
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(gansmith.UserError, match="there is no checkpoint"):
        train("gan", steps=4, at=tmp_path, resume=True)


@pytest.mark.parametrize("at", ["evaluate", "pictures"])
def test_a_run_killed_before_its_first_round_goes_on(
    at: str, pictures: Path, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"evaluation.metrics": ["parzen_ll"], "evaluation.n": 20, "data.validation": 12}
    options = {"data": pictures, "overrides": small("gan", **{**scores, "evaluation.every": 2, "log_interval": 2})}
    once = train("gan", steps=4, at=tmp_path / "once", **options)

    def killed(record: Record) -> None:
        raise SystemExit  # as a kill: what cleans up after errors is not run

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(Record, at, killed)
        train("gan", steps=4, at=tmp_path / "twice", **options)
    assert_equal(once, train("gan", steps=4, at=tmp_path / "twice", resume=True))
    assert rows(tmp_path / "twice") == rows(tmp_path / "once")
    assert pictures_of(tmp_path / "twice") == pictures_of(tmp_path / "once")


def test_a_resume_before_the_first_line_leaves_no_line_of_the_end_in_between(
    pictures: Path, small: Small, tmp_path: Path
) -> None:
    options = {"data": pictures, "overrides": small("gan", log_interval=5)}
    once = train("gan", steps=5, at=tmp_path / "once", **options)
    train("gan", steps=3, at=tmp_path / "twice", **options)
    assert_equal(once, train("gan", steps=5, at=tmp_path / "twice", resume=True))
    assert rows(tmp_path / "twice") == rows(tmp_path / "once")


# ---- what may change, and what may not -------------------------------------------------------------------------


@pytest.fixture
def finished(pictures: Path, small: Small, tmp_path: Path) -> Path:
    train("gan", steps=4, at=tmp_path / "run", data=pictures, overrides=small("gan"))
    return tmp_path / "run"


def contents(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize(
    "change",
    [{"lr": 0.1}, {"batch_size": 4}, {"game": "alternating"}, {"data.img_size": 8}, {"ema.halflife_kimg": 1}],
    ids=lambda change: next(iter(change)),
)
def test_another_recipe_is_another_run(change: dict[str, Any], finished: Path) -> None:
    before = contents(finished)
    with pytest.raises(gansmith.UserError, match=f"{next(iter(change))}: a run keeps its recipe.*start a new run"):
        train("gan", steps=8, at=finished, resume=True, overrides=change)
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("option", "why"),
    [({"seed": 5}, "a run keeps its recipe"), ({"data": "mnist"}, "is not what the run was trained on")],
)
def test_another_seed_or_data_is_another_run(option: dict[str, Any], why: str, finished: Path) -> None:
    with pytest.raises(gansmith.UserError, match=why):
        train("gan", steps=8, at=finished, resume=True, **option)


def test_a_run_goes_on_in_its_own_folder(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(gansmith.UserError, match="goes on in its own folder; leave --out away"):
        gansmith.train(finished, out=tmp_path / "other", steps=8, quiet=True)
    assert not (tmp_path / "other").exists()


def test_a_finished_run_says_so(finished: Path) -> None:
    before = contents(finished)
    for options in ({}, {"steps": 4}, {"steps": 3}):
        how = "is beyond round 3 already" if options.get("steps") == 3 else "is finished"
        with pytest.raises(gansmith.UserError, match=rf"{finished} {how}: 4 rounds, 0.5 epochs; .*such as --steps 8"):
            gansmith.train(finished, device="cpu", quiet=True, **options)
        assert contents(finished) == before


def test_more_epochs_win_over_the_rounds_of_the_recipe(finished: Path) -> None:
    gansmith.train(finished, n_epochs=1, device="cpu", quiet=True)
    assert checkpoint.everything(finished / "checkpoints")[0].name == f"{EPOCH:08d}"


@pytest.mark.parametrize("stop", [2, 3])
def test_on_another_kind_of_device_noise_and_dropout_begin_anew_by_the_round(
    stop: int,
    pictures: Path,
    small: Small,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, begun = tmp_path / "run", []
    path = train("gan2014_mnist", steps=stop, at=run, data=pictures, overrides=small("gan2014_mnist"))
    tree, info = checkpoint.read(path)
    checkpoint.write(run / "checkpoints", stop, tree, info={**info, "device": "cuda"})

    def begin(experiment: Experiment, *rest: Any) -> None:
        begun.extend([torch.get_rng_state(), experiment.state.noise.get_state()])

    monkeypatch.setattr("gansmith.training.play", begin)
    train(run, steps=5, at=run, resume=True, quiet=False)
    assert "was trained on cuda, this is cpu: noise and dropout begin with new seeds\n" in capsys.readouterr().out
    for state, purpose in zip(begun, (5, 6), strict=True):
        assert torch.equal(state, torch.Generator().manual_seed(derive_seed(0, purpose, 0, stop)).get_state())


def test_changed_pictures_are_noticed(pictures: Path, small: Small, tmp_path: Path) -> None:
    own = Path(shutil.copytree(pictures, tmp_path / "own"))
    train("gan", steps=2, at=tmp_path / "run", data=own, overrides=small("gan"))
    (own / "00.png").unlink()
    with pytest.raises(
        gansmith.UserError, match="is not what the run was trained on: the number of images was 60 and is now 59"
    ):
        train("gan", steps=4, at=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [("[16, 16]", "[16, 8]"), ("widths: [16]\n", "widths: [16, 8]\n"), ("adam, lr: 0.0002", "adam, lr: 0.5")],
    ids=["G", "D", "lr"],
)
def test_a_recipe_that_was_edited_by_hand_does_not_fit(old: str, new: str, finished: Path) -> None:
    """It would be trained with the old values, and the file would tell of the new ones."""
    path = finished / "recipe.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(gansmith.UserError, match=r"00000004 does not fit .*recipe.yaml"):
        train("gan", steps=8, at=finished, resume=True)


# ---- verify and compare ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gan", "began"])
def test_verify_finds_the_resume_exact(name: str, pictures: Path, small: Small) -> None:
    found = gansmith.verify(name, steps=3, data=pictures, device="cpu", overrides=small(name))
    assert found.exact and found.different == () and found.rounds == 6
    assert found.tensors > 20


def test_verify_sees_a_state_that_is_forgotten(pictures: Path, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    from gansmith.games.began import Began

    monkeypatch.setattr(Began, "load_state_dict", lambda self, state: None)  # k starts again at 0
    found = gansmith.verify("began", steps=3, data=pictures, device="cpu", overrides=small("began"))
    assert not found.exact and "game.k" in found.different


def test_verify_wants_a_round_at_least() -> None:
    with pytest.raises(gansmith.UserError, match="steps is 0"):
        gansmith.verify("gan", steps=0)


def test_compare_finds_one_flipped_bit_one_changed_value_and_nothing_else(finished: Path, tmp_path: Path) -> None:
    good = finished / "checkpoints" / "00000004"
    assert_equal(good, good)
    flipped = Path(shutil.copytree(good, tmp_path / "flipped"))
    tensors = load_file(flipped / checkpoint.TENSORS)
    name = "players.D.optimizer.state.1.exp_avg_sq"
    tensors[name].view(torch.uint8)[2] ^= 1
    save_file(tensors, flipped / checkpoint.TENSORS)
    body = json.loads((flipped / checkpoint.STATE).read_text(encoding="utf-8"))
    body["sha256"][checkpoint.TENSORS] = checkpoint.file_digest(flipped / checkpoint.TENSORS)
    body.pop("digest")
    (flipped / checkpoint.STATE).write_text(json.dumps({"digest": checkpoint._digest(body), **body}), encoding="utf-8")
    assert compare(good, flipped).different == (name,)

    tree, info = checkpoint.read(good)
    tree["images"] += 1
    tree["seconds"] += 1  # the clock is no part of the result
    changed = checkpoint.write(tmp_path / "changed", 4, tree, info=info)
    assert compare(good, changed).different == ("images",)

    tree["images"] -= 1
    weights = tree["players"]["G"]["net"]["model.0.bias"]
    weights[0] = 0.0
    zero = checkpoint.write(tmp_path / "zero", 4, tree, info=info)
    weights[0] = -0.0
    minus = checkpoint.write(tmp_path / "minus", 4, tree, info=info)
    assert compare(zero, minus).different == ("players.G.net.model.0.bias",)
    weights[0] = float("nan")
    nan = checkpoint.write(tmp_path / "nan", 4, tree, info=info)
    assert compare(nan, nan).exact
    del tree["players"]["G"]["net"]["model.0.bias"]
    assert compare(nan, checkpoint.write(tmp_path / "less", 4, tree, info=info)).different == (
        "players.G.net.model.0.bias",
    )
