"""The engine's switches change how it is computed, not what: each is held to plain eager float32."""

import contextlib
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gansmith.build import (
    COMPILE_ROUNDS,
    Experiment,
    _autocast,
    _check_engine,
    _no_compiler,
    build,
    decide_compile,
    derive_seed,
    resolve_compile,
)
from gansmith.errors import UserError
from gansmith.exactness import verify
from gansmith.games.two_player import Alternating
from gansmith.objectives import OBJECTIVES
from gansmith.penalties import PenaltySum
from gansmith.players import Player, sgd
from gansmith.priors import Normal
from gansmith.recipe import Engine, plan, recipe_names, to_yaml
from gansmith.record import Record
from gansmith.training import train

Small = Callable[..., dict[str, Any]]
CPU = torch.device("cpu")
compiler = pytest.mark.skipif(bool(_no_compiler(torch.device("cpu"))), reason="no C++ compiler, or no Python.h")


def experiment(name: str, pictures: Path, small: Small, **engine: Any) -> Experiment:
    torch.manual_seed(0)
    flags = small(name, **{f"engine.{key}": value for key, value in engine.items()})
    flags |= {"data.name": "normal_1d" if name == "figure1" else str(pictures)}
    return build(plan(name, flags=flags).recipe, CPU, say=lambda text: None, progress=False)


def played(e: Experiment, rounds: int) -> list[dict[str, float]]:
    """The metrics of some rounds."""
    torch.manual_seed(derive_seed(5))  # dropout
    found = []
    for _ in range(rounds):
        batches = [next(e.stream) for _ in range(e.game.batches_per_round)]
        with e.engine():
            metrics = e.game.round(*batches)
        assert {value.dtype for value in metrics.values()} <= {torch.float32, torch.float64}, "a loss in less than that"
        found.append({key: value.item() for key, value in metrics.items()})
    return found


def apart(one: Experiment, other: Experiment) -> float:
    """The distance between weights and buffers of both, relative to their norm, at its largest."""
    pairs = [
        [torch.cat([t.flatten().double() for t in player.net.state_dict().values()]) for player in both]
        for both in zip(one.game.players, other.game.players, strict=True)
    ]
    return max(float((a - b).norm() / a.norm()) for a, b in pairs)


# ---- bfloat16 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_bfloat16_takes_nearly_the_same_round_and_keeps_weights_and_losses_in_float32(
    name: str, pictures: Path, small: Small
) -> None:
    plain, half = (experiment(name, pictures, small, precision=p) for p in ("float32", "bfloat16"))
    (a,), (b,) = played(plain, 1), played(half, 1)
    assert a["grad/D"] != b["grad/D"], "nothing was computed in bfloat16"
    for key in ("loss/D", "loss/G", "grad/D", "grad/G"):
        assert b[key] == pytest.approx(a[key], rel=0.15, abs=0.01), key  # eight bits, batches of eight, layers deep
    assert all(p.dtype == torch.float32 for player in half.game.players for p in player.parameters)


class Line(nn.Module):
    """One weight; images and scores at once."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1, bias=False)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)).view(len(x), *self.shape)


def test_in_bfloat16_the_generator_meets_the_discriminator_as_it_is_after_its_step() -> None:
    """A cast of D's weight that is kept within the round would be the one from before its step."""
    G, D = (Player(name, Line(shape), lambda p: sgd(p, lr=1.0)) for name, shape in (("G", (1, 1, 1)), ("D", ())))
    with torch.no_grad():
        G.parameters[0].fill_(1.0)
        D.parameters[0].fill_(1.0)
    game = Alternating(G, D, Normal(dim=1), OBJECTIVES["wasserstein"], PenaltySum([]), torch.Generator().manual_seed(0))
    z = Normal(dim=1).sample(4, torch.Generator().manual_seed(0), torch.float32)

    class Real:
        images, labels, share = torch.full((4, 1, 1, 1), 4.0), None, 1.0

    with _autocast("bfloat16", CPU)():
        metrics = game.round(Real())  # type: ignore[arg-type]
    stepped = 1 - (z.mean() - 4.0)  # D's weight after loss/D = w (mean G(z) - 4)
    assert D.parameters[0].item() == pytest.approx(stepped.item(), rel=1e-2)
    assert abs(stepped) > 3
    second = torch.Generator().manual_seed(0)
    Normal(dim=1).sample(4, second, torch.float32)
    z = Normal(dim=1).sample(4, second, torch.float32)
    assert metrics["grad/G"].item() == pytest.approx(abs(stepped * z.mean()).item(), rel=3e-2)


# ---- channels last ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["began", "infogan", "gan2014_cifar10_conv"])
def test_channels_last_is_the_same_training(name: str, pictures: Path, small: Small) -> None:
    plain, last = (experiment(name, pictures, small, channels_last=on) for on in (False, True))
    formats = [p.is_contiguous(memory_format=torch.channels_last) for x in last.game.players for p in x.net.parameters()
               if p.dim() == 4]  # fmt: skip
    assert formats and all(formats)
    a, b = played(plain, 3), played(last, 3)
    for key in ("loss/D", "loss/G", "grad/D", "grad/G"):
        assert b[0][key] == pytest.approx(a[0][key], rel=1e-4, abs=1e-7), key
    assert apart(plain, last) < 2e-3  # a gradient or a moment in another memory format would move the wrong weights


# ---- compiled --------------------------------------------------------------------------------------------------


@compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's own, while it compiles
@pytest.mark.parametrize("name", recipe_names())
def test_compiled_networks_play_twenty_rounds_like_eager_ones(name: str, pictures: Path, small: Small) -> None:
    """In float64, where twenty rounds of training do not blow rounding up to the size of a mistake."""
    eager, compiled = (experiment(name, pictures, small, compile=on) for on in (False, True))
    for e in (eager, compiled):
        e.stream.dtype = torch.float64
        for player in e.game.players:
            player.net.double()
    made = [player.net._compiled_call_impl is not None for player in compiled.game.players]
    assert made == [player.name != "D" or name not in ("wgan_gp", "infogan") for player in compiled.game.players]
    a, b = played(eager, 20), played(compiled, 20)
    for key in ("loss/D", "loss/G", "grad/D", "grad/G"):
        assert b[-1][key] == pytest.approx(a[-1][key], rel=1e-6, abs=1e-9), key
    assert apart(eager, compiled) < 1e-6


@compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_penalty_leaves_the_discriminator_eager_and_says_so(pictures: Path, small: Small) -> None:
    said: list[str] = []
    flags = small("wgan_gp", **{"engine.compile": True}) | {"data.name": str(pictures)}
    build(plan("wgan_gp", flags=flags).recipe, CPU, say=said.append, progress=False)
    assert any("engine.compile: D is not compiled, for penalties" in line for line in said)


@compiler
@pytest.mark.filterwarnings("default")
def test_what_the_compiler_must_know_holds_in_a_round_and_not_after_it(pictures: Path, small: Small) -> None:
    import torch._functorch.config as functorch
    import torch._inductor.config as inductor

    before = functorch.donated_buffer, inductor.fallback_random
    assert before == (True, False)
    e = experiment("gan", pictures, small, compile=True, precision="bfloat16")
    for _ in range(2):  # it compiles again when shapes change
        assert (functorch.donated_buffer, inductor.fallback_random) == before
        with pytest.raises(ZeroDivisionError), e.engine():
            assert not functorch.donated_buffer
            assert torch.is_autocast_enabled("cpu")
            raise ZeroDivisionError
    assert (functorch.donated_buffer, inductor.fallback_random) == before


@compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_compiled_training_leaves_torch_s_settings_as_they_were(pictures: Path, small: Small, tmp_path: Path) -> None:
    import torch._functorch.config as functorch
    import torch._inductor.config as inductor

    before = functorch.get_config_copy(), inductor.get_config_copy()
    flags = small("gan2014_mnist", **{"engine.compile": True})
    train("gan2014_mnist", data=pictures, out=tmp_path / "run", steps=9, device="cpu", overrides=flags, quiet=True)
    assert (functorch.get_config_copy(), inductor.get_config_copy()) == before


# ---- compile: auto ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "total", "lacks", "on", "said"),
    [
        ("cpu", 10**9, "", False, None),
        ("cpu", 10**9, "there is no compiler", False, None),
        ("mps", 10**9, "", False, None),
        ("cuda", COMPILE_ROUNDS - 1, "", False, None),
        ("cuda", COMPILE_ROUNDS - 1, "there is no compiler", False, None),
        ("cuda", COMPILE_ROUNDS, "", True, "on in a run of 20,000 rounds.*--no-compile overrides"),
        ("cuda", COMPILE_ROUNDS, "there is no compiler", False, "off, for there is no compiler$"),
    ],
)
def test_auto_goes_by_the_device_and_the_length_of_the_run(
    device: str, total: int, lacks: str, on: bool, said: str | None
) -> None:
    decided, line = decide_compile(device, total, lacks)
    assert decided is on and "\n" not in line
    assert line == "" if said is None else re.match(f"engine.compile auto: {said}", line), line


def test_the_key_s_help_states_the_rule() -> None:
    (field,) = (f for f in dataclasses.fields(Engine) if f.name == "compile")
    assert f"{COMPILE_ROUNDS:,} rounds" in field.metadata["help"] and "never measured" in field.metadata["help"]


def test_auto_is_resolved_at_each_start_by_the_whole_length_and_says_nothing_on_a_cpu(
    pictures: Path, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Any, ...]] = []
    seen: list[bool] = []

    def note(device: str, total: int, lacks: str) -> tuple[bool, str]:
        asked.append((device, total))
        return decide_compile(device, total, lacks)

    def stop(record: Record) -> bool:
        seen.extend(player.net._compiled_call_impl is not None for player in record.experiment.game.players)
        return record.experiment.state.round >= 3

    monkeypatch.setattr("gansmith.build.decide_compile", note)
    train("gan", data=pictures, out=tmp_path / "run", steps=50_000, device="cpu", overrides=small("gan"), enough=stop)
    train(tmp_path / "run", steps=5, device="cpu")
    assert asked == [("cpu", 50_000), ("cpu", 5)]
    assert seen and not any(seen)
    train(tmp_path / "run", steps=6, device="cpu", overrides={"engine.compile": False})
    assert len(asked) == 2  # what is said is not asked
    assert "compile" not in "".join(capsys.readouterr())


@compiler
@pytest.mark.filterwarnings("default")
def test_auto_that_decides_to_compile_compiles_and_says_so(
    pictures: Path, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gansmith.build.decide_compile", lambda *args: (not args[2], args[2] or "engine.compile auto: on")
    )
    for name, compiled in (("gan", [True, True]), ("wgan_gp", [True, False])):
        e, said = experiment(name, pictures, small), list[str]()
        assert not any(player.net._compiled_call_impl for player in e.game.players)
        resolve_compile(plan(name).recipe, e, CPU, 50_000, said.append)
        assert [player.net._compiled_call_impl is not None for player in e.game.players] == compiled
        assert said[0] == "engine.compile auto: on" and len(said) == 1 + compiled.count(False)


@compiler
def test_a_compiler_that_fails_is_told_and_auto_goes_on_without(
    pictures: Path, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no space for programs\nand fifty lines more")

    monkeypatch.setattr("torch.compile", broken)
    with pytest.raises(UserError, match=r"compile is true and torch.compile fails here \(RuntimeError: no space"):
        experiment("gan", pictures, small, compile=True)
    monkeypatch.setattr("gansmith.build.decide_compile", lambda device, *args: decide_compile("cuda", *args))
    e, said = experiment("gan", pictures, small), list[str]()
    resolve_compile(plan("gan").recipe, e, CPU, 50_000, said.append)
    assert said == ["engine.compile auto: off, for torch.compile fails here (RuntimeError: no space for programs)"]
    assert not any(player.net._compiled_call_impl for player in e.game.players)


@pytest.mark.parametrize(("precision", "asked"), [("tf32", "is_tf32_supported"), ("bfloat16", "is_bf16_supported")])
def test_a_precision_that_the_card_has_not_is_refused(
    precision: Any, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device", lambda device: contextlib.nullcontext())
    for name in ("is_tf32_supported", "is_bf16_supported"):
        monkeypatch.setattr(torch.cuda, name, lambda including_emulation=False, there=name != asked: there)
    with pytest.raises(UserError, match=f"engine.precision is {precision}, which this card has not"):
        _check_engine(Engine(precision=precision, compile=False), torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, asked, lambda including_emulation=False: True)
    _check_engine(Engine(precision=precision, compile=False), torch.device("cuda"))


def test_what_a_compiler_lacks_on_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr("gansmith.build.sysconfig.get_path", lambda name: "nowhere")
    assert "Python's headers" in _no_compiler(cuda)
    monkeypatch.setattr("gansmith.build.Path.exists", lambda path: True)
    monkeypatch.setattr("gansmith.build.importlib.util.find_spec", lambda name: None)
    assert "Triton is not installed" in _no_compiler(cuda)
    monkeypatch.setattr("gansmith.build.importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("gansmith.build.shutil.which", lambda name: None)
    assert "no C compiler" in _no_compiler(cuda)
    monkeypatch.setattr("gansmith.build.shutil.which", lambda name: name)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (6, 1))
    assert "compute capability 7.0" in _no_compiler(cuda)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 0))
    assert _no_compiler(cuda) == ""


# ---- resume ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [{"precision": "bfloat16"}, {"channels_last": True}])
def test_a_resumed_run_is_the_run_on_each_path(engine: dict[str, Any], pictures: Path, small: Small) -> None:
    flags = small("infogan", **{f"engine.{key}": value for key, value in engine.items()})
    assert verify("infogan", steps=5, data=pictures, device="cpu", overrides=flags).exact


def test_a_run_may_go_on_with_another_engine_and_says_so(
    pictures: Path, small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("gan", data=pictures, out=tmp_path / "run", steps=2, device="cpu", overrides=small("gan"), quiet=True)
    train(tmp_path / "run", steps=4, device="cpu", overrides={"engine.precision": "bfloat16"})
    said = "engine: precision was float32 and is bfloat16; the training may round otherwise from here on"
    assert said in capsys.readouterr().out


@compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_resumed_compiled_run_is_the_run(pictures: Path, small: Small) -> None:
    flags = small("gan2014_mnist", **{"engine.compile": True})  # with dropout
    assert verify("gan2014_mnist", steps=5, data=pictures, device="cpu", overrides=flags).exact


# ---- refusals --------------------------------------------------------------------------------------------------


def test_tf32_is_refused_where_there_is_none(pictures: Path, small: Small) -> None:
    with pytest.raises(UserError, match=r"engine.precision is tf32, which only CUDA has; on cpu it must be float32"):
        experiment("gan", pictures, small, precision="tf32")


def test_compile_is_refused_without_a_compiler(pictures: Path, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gansmith.build.shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"engine.compile is true and there is no C\+\+ compiler"):
        experiment("gan", pictures, small, compile=True)


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("true", True), ("false", False)])
def test_compile_is_auto_true_or_false_and_a_saved_recipe_keeps_it(text: str, value: Any, tmp_path: Path) -> None:
    assert plan("gan").recipe.engine.compile == "auto"
    path = tmp_path / "own.yaml"
    path.write_text(f"engine: {{compile: {text}}}\n", encoding="utf-8")
    recipe = plan(path).recipe
    assert recipe.engine.compile is value or recipe.engine.compile == value == "auto"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    assert plan(path).recipe == recipe and type(plan(path).recipe.engine.compile) is type(value)


@pytest.mark.parametrize("value", [1, 0, 1.0, "yes please", None, "True "])
def test_compile_is_nothing_else(value: Any) -> None:
    with pytest.raises(UserError, match=r"engine\.compile is .*it must be one of auto, true, false"):
        plan("gan", flags={"engine.compile": value})


def test_an_unknown_precision_is_named_with_the_right_ones() -> None:
    with pytest.raises(UserError, match=r"engine\.precision.*float32.*tf32.*bfloat16"):
        plan("gan", flags={"engine.precision": "fp16"})
