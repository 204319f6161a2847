"""A run that goes on: where it stops, what is broken, what may change. test_contract.py resumes every recipe."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import experiment_of, rounds, small_flags
from safetensors.torch import load_file, save_file

import gansmith
from gansmith import checkpoint
from gansmith.build import Experiment, derive_seed
from gansmith.exactness import compare
from gansmith.games.began import Began
from gansmith.run.record import Record

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
    clock = ("seconds", "images_per_second", "data_wait")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


# ---- where it stops ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "flags", "stops"),
    [
        ("gan", {"data.memory": "device"}, (EPOCH - 1, EPOCH, EPOCH + 1)),
        ("gan", {"data.memory": "map"}, (3, EPOCH - 1, EPOCH, EPOCH + 1, 2 * EPOCH)),
        # D moves five times a round: 15 or 20 of its moves are done, and the penalty comes with the 16th and the 24th.
        ("wgan_gp", {"penalties.0.every": 8, "accumulate": 2}, (3, 4)),
    ],
)
def test_it_goes_on_exactly_wherever_it_stopped(
    name: str, flags: dict[str, Any], stops: tuple[int, ...], pictures: Path, tmp_path: Path
) -> None:
    total = 2 * EPOCH + 3 if name == "gan" else 7

    def end(stop: int) -> Path:
        for first, last in ((0, stop), (stop, total)):
            made = experiment_of(name, str(pictures), dtype=torch.float32, **flags)
            if first:
                torch.manual_seed(99)
                made.state.load_state_dict(checkpoint.read(tmp_path / f"{first:08d}")[0])
            rounds(made, last - first)
            saved = checkpoint.write(tmp_path, last, made.state.state_dict(), info={})
            made.stream.close()
        return saved.rename(tmp_path / f"stopped-{stop}")

    ends = [end(stop) for stop in stops]
    for other in ends[1:]:
        assert_equal(ends[0], other)
    if name == "gan":  # the memory is no part of what is trained
        fresh = experiment_of(name, str(pictures), dtype=torch.float32)
        rounds(fresh, total)
        assert_equal(ends[0], checkpoint.write(tmp_path / "fresh", total, fresh.state.state_dict(), info={}))


def test_many_resumes_are_one_run(pictures: Path, small: Small, tmp_path: Path) -> None:
    """In state, log, sessions and clock; memory and threads may change on the way, and the length be one in epochs."""
    options = {"data": pictures, "overrides": small("gan", **{"checkpoint.keep": 1, "log_interval": 1})}
    once, often = tmp_path / "once", tmp_path / "often"
    train("gan", steps=EPOCH, at=once, **options)
    train("gan", steps=1, at=often, **options)
    for steps in (2, 3, 5):
        train("gan", steps=steps, at=often, resume=True, overrides={"data.memory": "map", "n_cpu": steps})
    gansmith.train(often, n_epochs=1, device="cpu", quiet=True)
    assert_equal(*(run / "checkpoints" / f"{EPOCH:08d}" for run in (once, often)))
    assert rows(once) == rows(often)
    sessions = json.loads((often / "environment.json").read_text(encoding="utf-8"))
    assert [session["round"] for session in sessions] == [0, 1, 2, 3, 5]
    lines = [json.loads(line) for line in (often / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and len({*seconds}) == EPOCH
    assert all(line["images_per_second"] > 0 for line in lines)


def test_a_resume_before_the_first_line_leaves_no_line_of_the_end_in_between(
    pictures: Path, small: Small, tmp_path: Path
) -> None:
    options = {"data": pictures, "overrides": small("gan", log_interval=5)}
    once = train("gan", steps=5, at=tmp_path / "once", **options)
    train("gan", steps=3, at=tmp_path / "twice", **options)
    assert_equal(once, train("gan", steps=5, at=tmp_path / "twice", resume=True))
    assert rows(tmp_path / "twice") == rows(tmp_path / "once")


def test_a_resume_with_another_interval_keeps_the_log(pictures: Path, small: Small, tmp_path: Path) -> None:
    train("gan", steps=7, at=tmp_path, data=pictures, overrides=small("gan", log_interval=2))
    train("gan", steps=11, at=tmp_path, resume=True, overrides={"log_interval": 10})
    assert [row["round"] for row in rows(tmp_path)] == [2, 4, 6, 10, 11]


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
    growth = [{p.name: p.read_bytes() for p in (tmp_path / run).glob("growth*/*")} for run in ("once", "twice")]
    assert growth[0] == growth[1] and len(growth[0]) == 2


# ---- broken checkpoints ------------------------------------------------------------------------------------------


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
    assert f"skipped the broken checkpoint {run / 'checkpoints' / '00000007'}" in capsys.readouterr().out
    assert_equal(once, train("gan", steps=12, at=run, resume=True))
    assert rows(run) == rows(tmp_path / "once")


def test_a_state_that_is_not_finite_ends_the_training_and_pushes_out_no_good_one(
    pictures: Path, tmp_path: Path
) -> None:
    def spoil(record: Record) -> bool:
        if record.experiment.state.round == 3:
            record.experiment.game.G.net.register_buffer("far", torch.tensor(torch.inf))
        return False

    folder = tmp_path / "run/checkpoints"
    says = rf"after round 4: players\.G\.net\.far is not finite; the newest good checkpoint is {folder}/00000003\. Try"
    with pytest.raises(gansmith.Diverged, match=says):
        train("gan", steps=9, at=tmp_path / "run", data=pictures, enough=spoil, overrides={"checkpoint.interval": 1})
    assert [path.name for path in checkpoint.everything(folder)] == ["00000003", "00000002"]


# ---- what may change, and what may not ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rounds of gan."""
    run = tmp_path_factory.mktemp("done") / "run"
    train("gan", steps=4, at=run, data=pictures, overrides=small_flags("gan"))
    return run


@pytest.fixture
def finished(done: Path, tmp_path: Path) -> Path:
    """A copy."""
    return Path(shutil.copytree(done, tmp_path / "run"))


def contents(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"overrides": {"lr": 0.1}}, "lr: a run keeps its recipe.*start a new run"),
        ({"overrides": {"game": "alternating"}}, "game: a run keeps its recipe"),
        ({"overrides": {"data.img_size": 8}}, "data.img_size: a run keeps its recipe"),
        ({"seed": 5}, "seed: a run keeps its recipe"),
        ({"data": "mnist"}, "is not what the run was trained on"),
        ({"out": Path("other")}, "goes on in its own folder; drop --out"),
        ({"steps": 4}, r"run is finished: 4 rounds, 0.5 epochs; .*such as --steps 8"),
        ({"steps": 3}, r"run is beyond round 3 already: 4 rounds"),
    ],
)
def test_what_would_be_another_run_is_refused_and_changes_nothing(
    options: dict[str, Any], why: str, finished: Path
) -> None:
    before = contents(finished)
    with pytest.raises(gansmith.UserError, match=why):
        gansmith.train(finished, **{"steps": 8, "device": "cpu", "quiet": True, **options})
    assert contents(finished) == before and not Path("other").exists()


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


def test_a_stopped_run_is_not_made_shorter_than_it_is(
    pictures: Path, small: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run, enough = tmp_path / "run", lambda record: record.experiment.state.round > 5
    train("gan", steps=8, at=run, data=pictures, overrides=small("gan"), enough=enough)
    before = contents(run)
    with pytest.raises(gansmith.UserError, match="is beyond round 3 already: 6 rounds"):
        gansmith.train(run, steps=3, device="cpu", quiet=True)
    assert contents(run) == before


def test_rates_that_rise_again_with_a_new_length_are_told(
    pictures: Path, small: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train("fast_mnist", steps=2, at=run, data=pictures, overrides=small("fast_mnist"))
    train("fast_mnist", steps=4, at=run, resume=True, quiet=False)
    assert "with the new length, rates that had fallen rise again" in capsys.readouterr().out


def test_changed_pictures_are_noticed(pictures: Path, finished: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(pictures, tmp_path / "own"))
    next(own.iterdir()).unlink()
    why = "is not what the run was trained on: the number of images was 60 and is now 59"
    with pytest.raises(gansmith.UserError, match=why):
        train("gan", steps=8, at=finished, resume=True, data=own)


def test_on_another_kind_of_device_noise_and_dropout_begin_anew_by_the_round(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, info = checkpoint.read(finished / "checkpoints" / "00000004")
    checkpoint.write(finished / "checkpoints", 4, tree, info={**info, "device": "cuda"})
    begun: list[torch.Tensor] = []

    def begin(experiment: Experiment, *rest: Any) -> None:
        begun.extend([torch.get_rng_state(), experiment.state.noise.get_state()])

    monkeypatch.setattr("gansmith.training.play", begin)
    train(finished, steps=5, at=finished, resume=True, quiet=False)
    assert "was trained on cuda, this is cpu: noise and dropout begin with new seeds\n" in capsys.readouterr().out
    for state, purpose in zip(begun, (5, 6), strict=True):
        assert torch.equal(state, torch.Generator().manual_seed(derive_seed(0, purpose, 0, 4)).get_state())


# ---- verify and compare ------------------------------------------------------------------------------------------


def test_verify_finds_the_resume_exact_and_a_state_that_is_forgotten(
    pictures: Path, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"data": pictures, "device": "cpu", "overrides": small("began")}
    found = gansmith.verify("began", steps=3, **options)
    assert found.exact and found.different == () and found.rounds == 6 and found.tensors > 20
    monkeypatch.setattr(Began, "load_state_dict", lambda self, state: None)  # k starts again at 0
    found = gansmith.verify("began", steps=3, **options)
    assert not found.exact and "game.k" in found.different
    with pytest.raises(gansmith.UserError, match="steps is 0"):
        gansmith.verify("gan", steps=0)


def test_compare_finds_one_flipped_bit_one_changed_value_and_nothing_else(done: Path, tmp_path: Path) -> None:
    good = done / "checkpoints" / "00000004"
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
    weights = tree["players"]["G"]["net"]["model.0.bias"]

    def written(folder: str) -> Path:
        return checkpoint.write(tmp_path / folder, 4, tree, info=info)

    weights[0] = 0.0
    zero = written("zero")
    weights[0] = -0.0
    assert compare(zero, written("minus")).different == ("players.G.net.model.0.bias",)
    weights[0] = 0.0
    tree["seconds"] += 1  # the clock is no part of the result
    tree["images"] += 1
    assert compare(zero, written("changed")).different == ("images",)
    tree["images"] -= 1
    del tree["players"]["G"]["net"]["model.0.bias"]
    assert compare(zero, written("less")).different == ("players.G.net.model.0.bias",)
    tree["players"]["G"]["net"]["model.2.weight"][0] = float("nan")
    with pytest.raises(checkpoint.Broken, match=r"players\.G\.net\.model\.2\.weight is not finite"):
        written("nan")
