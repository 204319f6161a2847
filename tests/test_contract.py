"""What every game keeps, whatever it plays: driven by what its class and its recipe declare, one recipe at a time."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, Alike, Movers, experiment_of, rounds, watched
from torch import Tensor, nn

import gansmith
from gansmith import checkpoint
from gansmith.build import Experiment
from gansmith.errors import NonFinite, UserError
from gansmith.exactness import compare
from gansmith.games import GAMES
from gansmith.inference import Sampler
from gansmith.players import Metrics, Player
from gansmith.recipe import read_layer, recipe_names, resolve
from gansmith.run.log import read_metrics
from gansmith.schema import handed

Make = Callable[..., Experiment]


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_keeps_the_contract(
    name: str, data_of: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(SMALL) == set(recipe_names()), "tests/conftest.py has a row for each recipe"
    make: Make = partial(experiment_of, name, data_of(name), **{"ema.halflife_kimg": 0.05})
    declares(make)
    moves(make())
    resumes(make, tmp_path)
    parts(make)
    fails(make)
    makes(make())
    lends(make())
    compiles(make, monkeypatch)


def weights(*players: Player) -> dict[str, Tensor]:
    return {f"{p.name}.{n}": w.detach().clone() for p in players for n, w in p.net.named_parameters()}


def everything(made: Experiment) -> dict[str, Any]:
    """The whole state but the clock and what schedules set: tensors by their places, and the rest."""
    tensors: dict[str, Tensor] = {}
    tree = {**made.state.state_dict(), "seconds": 0.0}
    for player in tree["players"].values():
        del player["optimizer"]["param_groups"]
    rest = checkpoint.pack(tree, tensors)
    return {**{k: (t.dtype, t.numpy().tobytes()) for k, t in tensors.items()}, "rest": json.dumps(rest)}


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {k for k in {**one, **other} if k not in one or k not in other or one[k] != other[k]}


def declares(make: Make) -> None:
    """Every player is on one side; makers name players and fields that there are, all averaged or none; no warning."""
    said: list[str] = []
    made = make(say=said.append)
    assert not [text for text in said if "warning" in text]
    game = made.game
    names = [*game.generators, *game.critics]
    assert len({*names}) == len(names) and {p.name for p in game.players} == {*names}
    fields = {field for stream in game.needs for field in stream}
    assert {*next(made.stream).fields} == fields
    assert game.makers
    for maker in game.makers.values():
        assert {*maker.players} <= {*names} and (maker.imitates in fields or maker.classifies)
        assert {*maker.inputs.values()} <= {"latent", *fields}
        assert all(getattr(game, player).ema is not None for player in maker.players)


def moves(made: Experiment) -> None:
    """A move steps the players that its losses name and nobody else, and logs finite numbers of each."""
    game, seen = made.game, dict[str, Tensor]()

    def before() -> None:
        seen.update(weights(*game.players))

    def after(movers: Movers, metrics: Metrics) -> None:
        named = {player.name for players in movers.values() for player in players}
        now = weights(*game.players)
        assert {k.partition(".")[0] for k, w in now.items() if not torch.equal(w, seen[k])} == named
        assert {f"loss/{name}" for name in movers} | {f"grad/{name}" for name in named} <= {*metrics}
        assert all(p.grad is None for player in game.players for p in player.net.parameters())

    start = weights(*game.players)
    with watched(game, before=before, after=after) as played:
        heard = rounds(made, 3)
    assert {p.name for movers in played for players in movers.values() for p in players} == {
        p.name for p in game.players
    }
    frozen = {f"{p.name}.{k}" for p in game.players for k, w in p.net.named_parameters() if not w.requires_grad}
    stayed = {k for k, w in weights(*game.players).items() if w.dim() > 1 and torch.equal(w, start[k])}
    assert stayed == {k for k in frozen if start[k].dim() > 1}
    for metrics in heard:
        assert {f"loss/{name}" for movers in played for name in movers} <= {*metrics}
        assert {f"grad/{player.name}" for player in game.players} <= {*metrics}
        for key, value in metrics.items():
            assert value.shape == () and not value.requires_grad and torch.isfinite(value), key


def resumes(make: Make, folder: Path) -> None:
    """2 + 2 rounds are 4: everything that the state holds, bit for bit. Before them the recipe's seed alone decides."""
    fresh = everything(make())
    torch.manual_seed(13)
    once = make()  # which seeds torch's own stream
    assert not differing(fresh, everything(once))
    rounds(once, 4)
    ends = [checkpoint.write(folder / "once", 4, once.state.state_dict(), info={})]
    first = make()
    rounds(first, 2)
    half = checkpoint.write(folder / "twice", 2, first.state.state_dict(), info={})
    second = make()
    torch.manual_seed(99)  # nothing may lean on what the process left behind
    second.state.load_state_dict(checkpoint.read(half)[0])
    rounds(second, 2)
    ends.append(checkpoint.write(folder / "twice", 4, second.state.state_dict(), info={}))
    found = compare(*ends)
    assert found.exact and found.tensors > 20, found.different


def parts(make: Make) -> None:
    """Two parts, of three and two, make the update of the whole batch; a game that cannot cut one is refused it."""
    ends = []
    for accumulate in (1, 2):
        try:
            made = make(batch_size=5, accumulate=accumulate)
        except UserError as error:
            assert accumulate == 2 and "accumulate" in str(error)
            return
        assert accumulate == 1 or "accumulate" in handed(type(made.game))
        for module in (m for p in made.game.players for m in p.net.modules()):
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # its statistics would be those of a part
        with watched(made.game):
            heard = rounds(made, 3)
        ends.append((made, heard[-1]))
    assert apart(*ends) < 1e-10


def apart(one: tuple[Experiment, Metrics], other: tuple[Experiment, Metrics]) -> float:
    """The largest difference of players, averages, the game's memory, pools and what was logged last."""
    found = []
    for made, metrics in (one, other):
        tensors: dict[str, Tensor] = {}
        players = {p.name: [p.net.state_dict(), p.ema.state_dict() if p.ema else None] for p in made.game.players}
        pools = [pool.state_dict() for pool in made.game.pools().values()]
        checkpoint.pack([players, made.game.state_dict(), pools, metrics], tensors)
        found.append(tensors)
    assert found[0].keys() == found[1].keys()
    return max(float((a.double() - found[1][k].double()).abs().max()) for k, a in found[0].items())


def fails(make: Make) -> None:
    """A round whose first or last move is not finite is taken back, but for who moved before; it can be repeated."""
    twin = make()
    with watched(twin.game) as played:
        rounds(twin, 1)
    last = len(played) - 1
    for at in {0, last}:
        made = make()
        rounds(made, 1)
        start, memory = everything(made), json.dumps(str(made.game.state_dict()))
        with watched(made.game, spoil=at) as before, pytest.raises(NonFinite):
            rounds(made, 1)
        moved = {p.name for movers in before[:-1] for players in movers.values() for p in players}
        assert {*made.state.take_back()} == moved
        now = everything(made)
        allowed = tuple(f"players.{name}." for name in moved)
        assert all(k.startswith(allowed) for k in differing(start, now) - ({"rest"} if moved else set()))
        assert json.dumps(str(made.game.state_dict())) == memory
        if at == 0:
            state = copy.deepcopy(made.state.state_dict())
            rounds(made, 1)
            end = everything(made)
            undisturbed = make()
            undisturbed.state.load_state_dict(state)
            rounds(undisturbed, 1)
            assert not differing(end, everything(undisturbed))


def makes(made: Experiment) -> None:
    """Every maker makes finite pictures of the right shape, each independent of its neighbours."""
    batch, n = next(made.stream), 3
    for maker in made.game.makers.values():
        nets = [getattr(made.game, player).net.eval() for player in maker.players]
        draws = torch.Generator().manual_seed(1)
        inputs = {
            name: made.prior.sample(n, draws, torch.float64) if field == "latent" else batch[field][:n]
            for name, field in maker.inputs.items()
        }
        found = []
        for rows in (slice(0, n), *(slice(i, i + 1) for i in range(n))):
            mode = Alike()
            mode.at(n, rows, 0)
            with mode, torch.no_grad():
                found.append(maker.make(*nets, **{name: x[rows] for name, x in inputs.items()}))
        torch.testing.assert_close(torch.cat(found[1:]), found[0], rtol=1e-9, atol=1e-11)
        assert torch.isfinite(found[0]).all()
        if maker.classifies:
            assert found[0].shape[0] == n and found[0].dim() == 2
            continue
        assert found[0].shape == (n, *batch[maker.imitates].shape[1:])
        sampler = Sampler(nets, made.prior, maker=maker, classes=made.classes)
        if maker.pictures:
            alone = {field: pictures[1:2] for field, pictures in batch.fields.items()}
            assert torch.equal(sampler.translated(batch.fields, [4, 5])[1:], sampler.translated(alone, [5]))
        else:
            assert (sampler.sample([4, 5])[1:] == sampler.sample([5])).all()


def lends(made: Experiment) -> None:
    """On what each network is really given: `lend` and `probe` move no buffer; to `lend` the weights are constants."""
    for player in made.game.players:
        given: list[tuple[Tensor, ...]] = []
        hook = player.net.register_forward_pre_hook(lambda net, args, given=given: given.append(args))
        rounds(made, 1)
        hook.remove()
        inputs = tuple(
            x.detach().requires_grad_(x.is_floating_point()) if isinstance(x, Tensor) else x for x in given[0]
        )
        leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
        buffers = [b.clone() for b in player.net.buffers()]
        slopes = []
        for call in (player.lend, player.probe, player.net):
            torch.manual_seed(1)
            made.state.noise.manual_seed(1)
            said = call(*inputs)
            total = sum(part.square().sum() for part in (said if isinstance(said, (tuple, list)) else (said,)))
            slopes.append(torch.autograd.grad(total, [*leaves, *player.parameters], allow_unused=True))
            if call is not player.net:
                assert all(map(torch.equal, buffers, player.net.buffers()))
        n = len(leaves)
        lent, probed, own = slopes
        assert all(g is None for g in lent[n:]) and all(map(torch.equal, lent[:n], own[:n]))
        assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(probed, own, strict=True))


def compiles(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network is compiled but those that the game calls eager and, under a penalty, the critics."""
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda net, **options: asked.append(net))
    made = make(**{"engine.compile": True})
    penalty = {"penalties": [{"name": "wgan_gp"}], "schedules": []}  # which may set weights of its own penalties
    takes = "penalty" in handed(type(made.game))
    for e, penalised in ((made, False), *([(make(**{"engine.compile": True, **penalty}), True)] if takes else [])):
        found = {p.name for p in e.game.players if any(p.net is net for net in asked)}
        plain = {p.name for p in e.game.players} - {*e.game.eager}
        assert found == plain - ({*e.game.critics} if penalised else found ^ plain)


def test_every_game_has_a_recipe() -> None:
    assert {read_layer(name).keys["game"]["name"] for name in recipe_names()} == {*GAMES}


# ---- once for each kind of game, all that a run leaves behind ------------------------------------------------------


def files(run: Path, *patterns: str) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for pattern in patterns for path in run.glob(pattern)}


def of_kinds() -> dict[object, str]:
    """The first recipe of each kind of game: by what it needs, and whether it makes pictures of pictures."""
    found: dict[object, str] = {}
    for name in recipe_names():
        game = resolve("game", read_layer(name).keys["game"]["name"], False)
        found.setdefault((game.needs, any(maker.pictures for maker in game.makers.values())), name)
    return found


@pytest.mark.parametrize("name", of_kinds().values())
def test_a_run_that_goes_on_leaves_what_an_undisturbed_one_leaves(
    name: str, data_of: Callable[[str], str], small: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """State, log, pictures and film."""
    flags = small(name, **{"ema.halflife_kimg": 0.05, "log_interval": 1, "sample_interval": 2})
    new: dict[str, Any] = {"data": data_of(name), "overrides": flags, "device": "cpu", "quiet": True}
    once = gansmith.train(name, out=tmp_path / "once", steps=4, **new)
    twice = gansmith.train(name, out=tmp_path / "twice", steps=2, **new)
    gansmith.train(twice, steps=4, device="cpu", quiet=True)
    found = compare(*(run / "checkpoints" / "00000004" for run in (once, twice)))
    assert found.exact, found.different
    clock = ("seconds", "images_per_second")
    lines = [
        [{k: v for k, v in row.items() if k not in clock} for row in read_metrics(run / "metrics.jsonl")]
        for run in (once, twice)
    ]
    assert lines[0] == lines[1] and [row["round"] for row in lines[0]] == [1, 2, 3, 4]
    pictures = [files(run, "samples/*.png", "growth/*.png", "growth.gif") for run in (once, twice)]
    assert pictures[0] == pictures[1] and {"growth/000000.png", "growth/000004.png", "growth.gif"} <= {*pictures[0]}
    assert (twice / "curves.png").exists()
