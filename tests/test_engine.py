"""The engine's switches change how it is computed, not what: each is held to plain eager training."""

from __future__ import annotations

import contextlib
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, experiment_of, rounds, watched
from torch import Tensor, nn

from gansmith import checkpoint
from gansmith.batch import Batch
from gansmith.build import Experiment
from gansmith.engine import autocast, check, choose_device
from gansmith.errors import UserError
from gansmith.exactness import verify
from gansmith.games.two_player import Alternating
from gansmith.objectives import OBJECTIVES
from gansmith.penalties import PenaltySum
from gansmith.players import Player, sgd
from gansmith.priors import Normal
from gansmith.recipe import plan, recipe_names
from gansmith.training import train

there = shutil.which("g++") and (Path(sysconfig.get_path("include")) / "Python.h").exists()
compiler = pytest.mark.skipif(not there, reason="no C++ compiler, or no Python.h")
Make = Callable[..., Experiment]


@pytest.fixture
def make(data_of: Callable[[str], str]) -> Make:
    """make("gan", precision="bfloat16"): a small recipe in float32."""

    def one(name: str, *, dtype: torch.dtype = torch.float32, **engine: Any) -> Experiment:
        keys = {f"engine.{key}": value for key, value in engine.items()}
        return experiment_of(name, data_of(name), dtype=dtype, **keys)

    return one


def last(made: Experiment, n: int) -> dict[str, float]:
    """What is logged of the n-th round; dropout draws the same each time."""
    torch.manual_seed(0)
    metrics = rounds(made, n)[-1]
    assert {value.dtype for value in metrics.values()} <= {torch.float32, torch.float64}, "a loss in less than that"
    return {key: value.item() for key, value in metrics.items() if key.startswith(("loss/", "grad/"))}


def apart(one: Experiment, other: Experiment) -> float:
    """The distance between weights and buffers of both, relative to their norm, at its largest."""
    pairs = [
        [torch.cat([t.flatten().double() for t in player.net.state_dict().values()]) for player in both]
        for both in zip(one.game.players, other.game.players, strict=True)
    ]
    return max(float((a - b).norm() / a.norm()) for a, b in pairs)


# ---- bfloat16 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_bfloat16_takes_nearly_the_same_round_and_keeps_weights_and_losses_in_float32(name: str, make: Make) -> None:
    plain, half = last(make(name), 1), last(made := make(name, precision="bfloat16"), 1)
    assert all(plain[key] != half[key] for key in plain if key.startswith("grad/")), "nothing was in bfloat16"
    if name.startswith(
        "esrgan"
    ):  # G begins with one grey, whose rounding D's BatchNorm blows up to the size of pictures
        del plain["grad/D"], half["grad/D"]
    assert half == pytest.approx(plain, rel=0.15, abs=0.02)  # eight bits, small batches, layers deep
    assert all(p.dtype == torch.float32 for player in made.game.players for p in player.parameters)


class Line(nn.Module):
    """One weight, 1 at the start; images and scores at once."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.linear.weight)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)).view(len(x), *self.shape)


def test_in_bfloat16_the_generator_meets_the_discriminator_as_it_is_after_its_step() -> None:
    """A cast of D's weight that is kept within the round would be the one from before its step."""
    G, D = (Player(name, Line(shape), lambda p: sgd(p, lr=1.0)) for name, shape in (("G", (1, 1, 1)), ("D", ())))
    draws = torch.Generator().manual_seed(0)
    noise = torch.Generator().manual_seed(0)
    game = Alternating(OBJECTIVES["wasserstein"], noise, 1, G, D, Normal(dim=1), PenaltySum([]))
    with autocast("bfloat16", CPU)():
        metrics = game.round(Batch({"x": torch.full((4, 1, 1, 1), 4.0)}, 4))
    of_d, of_g = (Normal(dim=1).sample(4, draws) for _ in range(2))
    stepped = 1 - (of_d.mean() - 4.0)  # D's weight after loss/D = w (mean G(z) - 4)
    assert abs(stepped) > 3 and D.parameters[0].item() == pytest.approx(stepped.item(), rel=1e-2)
    assert metrics["grad/G"].item() == pytest.approx(abs(stepped * of_g.mean()).item(), rel=3e-2)


# ---- channels last -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["began", "infogan", "gan2014_cifar10_conv", "pix2pix", "cyclegan"])
def test_channels_last_is_the_same_training(name: str, make: Make) -> None:
    """A gradient or a moment in another memory format would move the wrong weights."""
    plain, other = (make(name, dtype=torch.float64, channels_last=on) for on in (False, True))
    weights = [p for x in other.game.players for p in x.net.parameters() if p.dim() == 4]
    assert weights and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    said = []
    for made in (plain, other):
        with watched(made.game):  # dropout itself draws in the order of the memory
            said.append(last(made, 3))
    assert said[1] == pytest.approx(said[0], rel=1e-7, abs=1e-10)
    assert apart(plain, other) < 1e-8


# ---- compiled ----------------------------------------------------------------------------------------------------


LARGE = ("pix2pix", "cyclegan")  # the largest graphs; each takes a minute or more


@compiler
@pytest.mark.filterwarnings("default")  # torch's own, while it compiles
@pytest.mark.slow
@pytest.mark.large  # .ci/run compiles in the next test alone
@pytest.mark.parametrize(("name", "n"), [("gan", 2), *((name, 9) for name in LARGE)])
def test_compiled_networks_play_like_eager_ones(name: str, n: int, make: Make) -> None:
    """In float64, where rounds of training do not blow rounding up to the size of a mistake; 9 have a short batch."""
    eager, compiled = (make(name, dtype=torch.float64, compile=on) for on in (False, True))
    assert any(player.net._compiled_call_impl is not None for player in compiled.game.players)
    assert last(compiled, n) == pytest.approx(last(eager, n), rel=1e-6, abs=1e-9)
    assert apart(eager, compiled) < 1e-6


def test_what_stays_eager_is_said_with_the_reason(
    data_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda net, **options: None)
    for name, flags, says in (
        ("wgan_gp", {}, "engine.compile: D is not compiled: penalties take gradients of gradients"),
        ("infogan", {}, "engine.compile: D is not compiled: each of its moves uses some heads only"),
        ("gan", {"sync_batchnorm": True}, "engine.compile: G is not compiled: its BatchNorm communicates"),
    ):
        said: list[str] = []
        experiment_of(name, data_of(name), say=said.append, **{"engine.compile": True, **flags})
        assert any(line.startswith(says) for line in said)


@pytest.mark.filterwarnings("default")
def test_what_the_compiler_must_know_holds_in_a_round_and_not_after_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._functorch.config as functorch

    monkeypatch.setattr(nn.Module, "compile", lambda net, **options: None)
    made = make("gan", compile=True, precision="bfloat16")
    assert functorch.donated_buffer
    with pytest.raises(ZeroDivisionError), made.engine():
        assert not functorch.donated_buffer and torch.is_autocast_enabled("cpu")
        raise ZeroDivisionError
    assert functorch.donated_buffer
    fails = r"compile is true, and torch\.compile fails here \(.*: no compiler\); set it to"
    with pytest.raises(UserError, match=fails), made.engine():
        raise torch._dynamo.exc.TorchDynamoException("no compiler\nand fifty lines more")


@compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_compiled_run_resumes_exactly_and_leaves_torchs_settings(data_of: Callable[[str], str], small: Any) -> None:
    import torch._functorch.config as functorch
    import torch._inductor.config as inductor

    before = functorch.get_config_copy(), inductor.get_config_copy()
    name, flags = "gan2014_mnist", {"engine.compile": True}  # with dropout
    assert verify(name, steps=5, data=data_of(name), device="cpu", overrides=small(name, **flags)).exact
    assert (functorch.get_config_copy(), inductor.get_config_copy()) == before


# ---- resume, and refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [{"precision": "bfloat16"}, {"channels_last": True}])
def test_a_resumed_run_is_the_run_on_each_path(engine: dict[str, Any], make: Make, tmp_path: Path) -> None:
    """A file has no memory format: the optimizers' moments take that of the weights again."""
    once, first, second = (make("infogan", **engine) for _ in range(3))
    for made, n in ((once, 4), (first, 2)):
        torch.manual_seed(0)
        rounds(made, n)
    half = checkpoint.write(tmp_path, 2, first.state.state_dict(), info={})
    second.state.load_state_dict(checkpoint.read(half)[0])
    rounds(second, 2)
    assert apart(once, second) == 0


def test_a_run_may_go_on_with_another_engine_and_says_so(
    pictures: Path, small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("gan", data=pictures, out=tmp_path / "run", steps=2, device="cpu", overrides=small("gan"), quiet=True)
    train(tmp_path / "run", steps=4, device="cpu", overrides={"engine.precision": "bfloat16"})
    said = "engine: precision was float32 and is bfloat16; the training may round otherwise from here on"
    assert said in capsys.readouterr().out


def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    for name, says in (
        ("tpu", "--device is 'tpu'; it must be auto, cpu, cuda"),
        ("cuda", r"--device cuda: PyTorch finds none here \(there is: cpu\)"),
        ("cpu:1", "--device cpu:1: there is one cpu; it must be cpu"),
    ):
        with pytest.raises(UserError, match=says):
            choose_device(name)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda") and choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"--device cuda:2: PyTorch finds 2 CUDA device"):
        choose_device("cuda:2")


@pytest.mark.parametrize(("precision", "asked"), [("tf32", "is_tf32_supported"), ("bfloat16", "is_bf16_supported")])
def test_a_precision_that_a_device_lacks_is_refused(
    precision: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"tf32, which only CUDA has; on cpu it must be float32 or bfloat16"):
        check("tf32", CPU)
    monkeypatch.setattr("torch.cuda.device", lambda device: contextlib.nullcontext())
    for name in ("is_tf32_supported", "is_bf16_supported"):
        monkeypatch.setattr(torch.cuda, name, lambda including_emulation=False, there=name != asked: there)
    with pytest.raises(UserError, match=f"engine.precision is {precision}, which this card lacks"):
        check(precision, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, asked, lambda including_emulation=False: True)
    check(precision, torch.device("cuda"))


def test_the_keys_take_what_they_name_and_nothing_else() -> None:
    assert plan("gan").recipe.engine.compile is False
    assert plan("gan", flags={"compile": True}).recipe.engine.compile is True
    for value in (1, "auto", "yes please", None):
        with pytest.raises(UserError, match=r"engine\.compile is .*it must be true or false"):
            plan("gan", flags={"engine.compile": value})
    with pytest.raises(UserError, match=r"engine\.precision.*float32.*tf32.*bfloat16"):
        plan("gan", flags={"engine.precision": "fp16"})
