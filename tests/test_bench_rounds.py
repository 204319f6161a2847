"""The parts of a round: they add up to it, timing them changes nothing, and operations are those counted by hand."""

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rounds
import torch
from rounds import OTHER, Bench, Recorder, profile, recorded, table, timed

from gansmith.batch import Batch
from gansmith.errors import UserError
from gansmith.games.game import SAMPLE, Game, Metrics
from gansmith.players import Moved, Player, move
from gansmith.priors import Prior
from gansmith.recipe import plan

SMALL: dict[str, Any] = {"networks.G.widths": [16], "networks.D.widths": [16], "batch_size": 8}
CPU = torch.device("cpu")
Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """make("gan", key=value): a bench of the recipe on the CPU, closed after the test."""
    made: list[Bench] = []

    def go(what: str = "gan", **flags: Any) -> Bench:
        made.append(Bench(plan(what, flags=flags).recipe, CPU, tmp_path / f"{len(made)}", lambda text: None))
        return made[-1]

    yield go
    for bench in made:
        bench.close()


clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)


def took(seconds: float) -> None:
    clock.now += seconds


class Unheard(Game):
    """A game of its own, with a gradient within a loss, over two parts of each batch."""

    makers = SAMPLE

    def __init__(self, G: Player, D: Player, prior: Prior, noise: torch.Generator) -> None:
        self.G, self.D, self.secret = G, D, (prior, noise)

    def round(self, *batches: Batch) -> Metrics:
        took(1)
        return move(batches[0], 2, self.fight)

    def fight(self, part: Batch) -> tuple[Moved, Metrics]:
        prior, noise = self.secret
        fake, x = self.G.net(prior.sample(len(part), noise, self.G.dtype)), part["x"].requires_grad_()
        x.register_hook(lambda _: took(2))
        score = self.D.net(x)
        (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
        loss_d, loss_g = slope.square().mean() - score.mean(), self.D.lend(fake).square().mean()
        loss_d.register_hook(lambda _: took(4))
        loss_g.register_hook(lambda _: took(8))
        return {"one": (self.D, loss_d), "other": ((self.G, self.D), loss_g + 0 * loss_d)}, {}


def test_the_parts_of_a_game_that_nobody_knows(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each of two parts D sees two batches, one of them lent, and goes back in both gradients."""
    bench = make(**SMALL, **{"game": f"{__name__}:Unheard", "objective": None, "ema.halflife_kimg": 1})
    G, D = bench.experiment.game.players
    D.net.register_forward_hook(lambda *_: took(16))
    G.optimizer.register_step_post_hook(lambda *_: took(32))
    monkeypatch.setattr(rounds, "time", clock)
    began = clock.now
    with timed(bench.experiment, CPU) as seconds:
        bench.play(3)
    assert sum(seconds.values()) == clock.now - began
    expected = {OTHER: 1, "losses": 2 * 2, "forward of D": 4 * 16, "backward for D": 2 * 4, "optimizers": 32}
    expected |= {"backward for G and D": 2 * (8 + 4)}
    assert {part: s / 3 for part, s in seconds.items() if s} == expected
    rest = {"data", "noise", "log", "forward of G", "norms and check", "moving average", "copy to take back"}
    assert seconds.keys() == expected.keys() | rest


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.filterwarnings("default")  # torch's own, while it compiles
def test_a_timed_training_is_the_same_training_and_nothing_stays_wrapped(make: Make, compiled: bool) -> None:
    plain, watched = make("wgan_gp", **SMALL), make("wgan_gp", **SMALL)
    for player in watched.experiment.game.players * compiled:
        player.net.compile(backend="eager")
    plain.play(3)
    with timed(watched.experiment, CPU) as seconds:
        watched.play(3)
    before = dict(seconds)
    assert min(before[part] for part in ("forward of G", "forward of D", "penalties")) > 0
    assert recorded(watched) == recorded(plain) and seconds == before  # torch.compile hides no operation
    for one, other in zip(plain.experiment.game.players, watched.experiment.game.players, strict=True):
        assert all(map(torch.equal, one.net.state_dict().values(), other.net.state_dict().values()))


def test_a_round_of_gan_has_the_operations_counted_by_hand(make: Make) -> None:
    """0.950 GFLOP at batch 64. Nobody needs the gradient of z or of real images.

    The update itself needs 0.934 (benchmarks/epoch.py): one pass back through D over the fakes. The round takes two,
    one for each loss, and in that for D the gradients of the layers' inputs are taken again, but for the first.
    """
    # Multiplications of one image in each layer; its three products (output, gradients) have as many.
    g, d = ([a * b for a, b in pairwise(widths)] for widths in ((100, 128, 256, 512, 1024, 784), (784, 512, 256, 1)))
    forward = sum(g) + 2 * sum(d)
    back_d = 2 * (sum(d) + sum(d[1:]))  # weights; inputs of all layers but the first; real and fake
    back_g = sum(d) + sum(g) + sum(g[1:])  # through D to its input; G's weights; inputs but z
    assert recorded(make())[0] == 2 * 64 * (forward + back_d + back_g) == 950_370_304


def test_operations_of_lazy_penalties_are_means_over_whole_periods(make: Make) -> None:
    """Five moves of D a round: in 16 rounds an eager penalty is taken 80 times, a lazy one five times."""
    none, eager = (recorded(make("wgan_gp", **SMALL, **flags))[0] for flags in ({"penalties": []}, {}))
    lazy = make("wgan_gp", **SMALL, **{"penalties.0.every": 16})
    assert recorded(lazy)[0] == none + (eager - none) / 16
    assert lazy.period == 16 and lazy.warm_up() % 16 == 0


def test_bytes_are_those_of_operands_and_results_and_a_view_has_none() -> None:
    x, y = torch.zeros(3, 5), torch.zeros(5, 7)
    with Recorder() as recorder:  # type: ignore[no-untyped-call]
        _ = x.t()[1:]
        assert recorder.bytes == 0
        _ = x.t().contiguous()
        _ = x @ y
        _ = y.index_select(0, torch.tensor([1, 1]))  # of which only two rows are read
    assert recorder.bytes == 4 * (2 * 15) + 4 * (15 + 35 + 21) + 2 * 8 + 4 * 14 and recorder.flops == 2 * 3 * 5 * 7


def test_a_profile_fits_together_and_is_json_and_a_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Bench, "warm_up", lambda bench: bench.period)
    found = profile(plan("gan", flags=SMALL), "cpu", seconds=0, say=lambda text: None)
    assert json.loads(json.dumps(found, allow_nan=False))["parts"] == found["parts"]
    for ms in (found["round"], *found["parts"].values(), *(c["second"] for c in found["ceilings"].values())):
        assert 0 <= ms["lowest"] <= ms["median"] <= ms["highest"] < float("inf")
    rate = 1e3 / found["round"]["median"]
    assert found["images_per_second"] == pytest.approx(8 * rate)
    for ceiling in found["ceilings"].values():
        assert ceiling["share"] * ceiling["second"]["median"] == pytest.approx(ceiling["round"] * rate)
    table(found).show()
    page = capsys.readouterr().out
    for word in (*found["parts"], "a round, parts not timed", "of a large product", "of a large copy", "threads 1"):
        assert word in page, page


def test_the_command_takes_keys_of_a_recipe_and_prints_json_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def instead(resolved: Any, device: str, **_: Any) -> dict[str, Any]:
        print("a network of one's own may print")
        return {"found": [resolved.label, resolved.recipe.batch_size, device]}

    monkeypatch.setattr(rounds, "profile", instead)
    monkeypatch.setattr(sys, "argv", ["rounds.py", "wgan_gp", "--batch_size", "32", "--device", "cpu", "--json"])
    rounds.main()
    assert json.loads(capsys.readouterr().out) == {"found": ["wgan_gp", 32, "cpu"]}


def test_a_run_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("seed: 0\n")
    with pytest.raises(UserError, match=r"is a run.*recipe\.yaml"):
        profile(plan(tmp_path))
