"""Exports: the same pictures without gansmith, by plain torch and by onnxruntime; the card; what is refused."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import gansmith
from gansmith.evaluation.receipts import Receipt, append
from gansmith.inference import Sampler
from gansmith.portable import formats
from gansmith.portable.program import example, exported, python, weights
from gansmith.recipe import plan, without_paths

Runs = Callable[..., Path]


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_of: Callable[[str], str]) -> Callable[..., Path]:
    """runs("cgan"): a small run of the recipe, trained once."""
    from conftest import small_flags

    made = tmp_path_factory.mktemp("runs")

    def run(recipe: str, **flags: Any) -> Path:
        out = made / "-".join([recipe, *flags])
        if not out.exists():
            more = small_flags(recipe, **flags)
            gansmith.train(recipe, data=data_of(recipe), out=out, steps=2, device="cpu", quiet=True, **more)
        return out

    return run


def plain(sampler: Sampler) -> Callable[..., Tensor]:
    """The maker as the Python that is written for others."""
    program = exported(sampler, example(sampler))
    space: dict[str, Any] = {"torch": torch, "device": torch.device, "inf": float("inf"), "nan": float("nan")}
    exec(python(program), space)
    held = {name: x.detach() for name, x in weights(program).values()}
    return lambda **inputs: space["forward"](held, **inputs)[0]


# ---- the same pictures -------------------------------------------------------------------------------------------

ALONE = """
import importlib, sys
sys.modules["gansmith"] = None  # as where it is not installed
try:
    importlib.import_module("gansmith")
except ImportError:
    pass
else:
    raise SystemExit("gansmith is there")
sys.path.insert(0, sys.argv[1])
import numpy, torch
from model import load
given = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], load()(**{name: torch.from_numpy(x) for name, x in given.items()}).numpy())
assert not [name for name in sys.modules if name.startswith("gansmith.")]
for wrong in (dict(z=torch.zeros(3, 100), y=torch.zeros(3, dtype=torch.int64)), dict(z=torch.zeros(3, 64))):
    try:
        load()(**wrong)
    except ValueError as error:
        assert str(error) in ("z is [3, 100]; it must be a tensor ['N', 64]", "y is []; it must be a tensor ['N']")
    else:
        raise SystemExit(f"{wrong} was taken")
with open(sys.argv[1] + "/model.safetensors", "r+b") as file:
    file.seek(-1, 2)
    file.write(b"\x55")
try:
    load()
except ValueError as error:
    assert "does not hold the weights of this program" in str(error)
else:
    raise SystemExit("other weights were taken")
"""


def test_plain_torch_without_gansmith_makes_the_same(runs: Runs, tmp_path: Path) -> None:
    run = runs("cgan")
    folder = gansmith.export(run, format="safetensors,torch", out=tmp_path / "out", say=quiet)
    assert len({path.stat().st_mode & 0o077 for path in folder.glob("model.*") if path.suffix != ".pt2"}) == 1
    sampler = gansmith.load(run, device="cpu")
    z, y = sampler.latents(range(7)), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    np.savez(tmp_path / "in.npz", z=z.numpy(), y=y.numpy())
    alone = [sys.executable, "-I", "-c", ALONE, str(folder), str(tmp_path / "in.npz"), str(tmp_path / "made.npy")]
    done = subprocess.run(alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = sampler.pixels(z, y)
    assert np.abs(np.load(tmp_path / "made.npy") - expected.numpy()).max() < 1e-6
    program = torch.export.load(folder / "model.pt2").module()
    assert (program(z=z, y=y) - expected).abs().max() < 1e-6
    about = json.loads((folder / "model.json").read_text())
    assert [(x["name"], x["dtype"], x["shape"]) for x in about["inputs"]] == [
        ("z", "float32", ["N", 64]),
        ("y", "int64", ["N"]),
    ]
    assert about["output"] == {
        **{"name": "made", "dtype": "float32", "shape": ["N", 1, 16, 16]},
        "means": "pictures, values in [0, 1]",
    }
    assert about["classes"] == ["0", "1"] and set(about["largest_difference"]) == {"safetensors", "torch"}
    first, told = next(iter(about["tensors"].items()))
    held = dict(sampler.nets[0].named_parameters())[first.removeprefix("G.")]
    assert told["sha256"] == hashlib.sha256(held.detach().numpy().tobytes()).hexdigest()


def test_the_average_or_the_weights_themselves(runs: Runs) -> None:
    run = runs("gan", **{"ema.halflife_kimg": 1.0})
    averaged, raw = (gansmith.load(run, ema=ema, device="cpu") for ema in (True, False))
    z = averaged.latents(range(3))
    for sampler in (averaged, raw):
        torch.testing.assert_close(plain(sampler)(z=z), sampler.pixels(z), rtol=0, atol=1e-6)
    assert (raw.pixels(z) - averaged.pixels(z)).abs().max() > 1e-4


@pytest.mark.parametrize("recipe", ["infogan", "gan2014_mnist", "ring"])
def test_latents_with_codes_unit_values_and_numbers(runs: Runs, recipe: str) -> None:
    sampler = gansmith.load(runs(recipe), device="cpu")
    z = sampler.latents(range(5))
    expected = sampler.generate(z) if sampler.values == "raw" else sampler.pixels(z)
    torch.testing.assert_close(plain(sampler)(z=z), expected, rtol=0, atol=1e-6)


PICTURES: dict[tuple[str, str], Mapping[str, Any]] = {
    ("pix2pix", "a2b"): {},  # with dropout, from torch's own stream
    ("cyclegan", "b2a"): {},
    ("srresnet", "upscale"): {"size": (20, 24)},
    ("munit", "a2b"): {},
    ("munit", "a2b_like"): {"style": True},
    ("stargan", "edit"): {"attributes": {"up": True}},
    ("context_encoder", "fill"): {"mask": True},
}


@pytest.mark.parametrize(("recipe", "maker"), PICTURES)
def test_pictures_in_and_out(runs: Runs, recipe: str, maker: str) -> None:
    """A picture, and what else is given, as `translate` takes it, and as the program takes it."""
    sampler, asked = gansmith.load(runs(recipe), maker=maker, device="cpu"), PICTURES[recipe, maker]
    assert sampler.shape is not None
    rng, size = np.random.default_rng(0), asked.get("size", (16, 16))
    first, other = (rng.integers(0, 256, (sampler.shape[0], *size), dtype=np.uint8) for _ in range(2))
    hole = np.zeros((1, *size), np.uint8)
    hole[:, 3:9, 5:12] = 255
    given = {"style": asked.get("style") and other, "mask": asked.get("mask") and hole}
    seen = sampler.seen(first, **given, attributes=asked.get("attributes"))
    expected = sampler.translated(seen, [5])
    unit = {field: torch.from_numpy(x)[None] / 255 for field, x in zip(sampler.maker.pictures, (first, other))}  # noqa: B905
    inputs = {
        name: sampler.latents([5]) if field == "latent" else unit.get(field, seen.get(field))
        for name, field in sampler.maker.inputs.items()
    }
    make = plain(sampler)
    torch.manual_seed(5)
    torch.testing.assert_close(make(**inputs), expected, rtol=0, atol=1e-5)
    if sampler.maker.inputs.keys() & {"mask"}:
        assert torch.equal(make(**inputs)[..., :3, :], expected[..., :3, :])


def test_onnxruntime_makes_the_same_of_any_rows_and_sizes(runs: Runs, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    heard: list[str] = []
    sampler = gansmith.load(runs("srresnet"), device="cpu")
    folder = gansmith.export(runs("srresnet"), format="onnx", out=tmp_path / "out", say=heard.append)
    assert heard[-1].startswith("onnx: checked, the largest difference from gansmith's own is ")
    session = runtime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    low = np.random.default_rng(0).integers(0, 256, (3, sampler.shape[0], 12, 20), dtype=np.uint8)  # type: ignore[index]
    (made,) = session.run(["made"], {"low": low.astype(np.float32) / 255})
    expected = torch.cat([sampler.translated(sampler.seen(picture), [0]) for picture in low])
    assert made.shape == expected.shape and np.abs(made - expected.numpy()).max() < 1e-5


@pytest.mark.slow
def test_onnx_keeps_dropout_which_its_runtime_draws_when_asked(runs: Runs, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    folder = gansmith.export(runs("pix2pix"), format="onnx", out=tmp_path / "out", say=quiet)
    given = {name: x for name, x in np.load(folder / "example.npz").items() if name != "made"}
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    drawn, still = (
        runtime.InferenceSession(folder / "model.onnx", how, providers=["CPUExecutionProvider"])
        for how in (options, runtime.SessionOptions())
    )
    assert np.abs(drawn.run(None, given)[0] - drawn.run(None, given)[0]).max() > 1e-4
    assert np.array_equal(still.run(None, given)[0], still.run(None, given)[0])
    about = json.loads((folder / "model.json").read_text())
    assert about["draws"] == ["aten.dropout.default"] and about["largest_difference"]["onnx"] < 1e-5
    assert "onnxruntime leaves dropout out" in (folder / "README.md").read_text()


# ---- the card ------------------------------------------------------------------------------------------------------


def test_the_card_has_scores_samples_and_no_private_path(runs: Runs, tmp_path: Path) -> None:
    run = runs("gan", **{"data.validation": 5})
    digest = gansmith.load(run, device="cpu").digest
    for metric, checkpoint in (("fd_pixels", digest), ("kd_pixels", "another")):
        subject = {"what": str(run), "round": 2, "weights": "raw", "checkpoint": checkpoint}
        append([Receipt(metric, "fd", [3.5], "", "lower", 1.25, {"n": 7}, subject, {})], run / "receipts.jsonl")
    folder = gansmith.export(run, out=tmp_path / "out", say=quiet)
    card = (folder / "README.md").read_text()
    assert "| fd_pixels | 3.5 | 1.25 | lower |" in card and "kd_pixels" not in card and "not measured" in card
    assert "licence: TODO by you" in card and yaml.safe_load(card.split("---")[1])["library_name"] == "gansmith"
    assert (folder / "samples.png").is_file() and "![samples](samples.png)" in card
    private = (str(run.parent), str(plan(run).recipe.data.name), str(Path.home()))
    for file in folder.glob("*.*"):
        assert not [path for path in private if path.encode() in file.read_bytes()], file
    assert plan(run).recipe.data.name.endswith(
        json.loads((folder / "model.json").read_text())["recipe"]["data"]["name"]
    )


def test_a_recipe_without_paths(tmp_path: Path) -> None:
    flags = {"data.name": str(tmp_path / "mine"), "networks.G.weights": "/x/run", "start.run": "/y/run"}
    recipe = without_paths(plan("gan", flags=flags).recipe)
    assert recipe.data.name == "mine" and recipe.start.run is None and recipe.networks["G"].args["weights"] is None
    with pytest.raises(gansmith.UserError, match="evaluation.best is '/z', a path of this machine"):
        without_paths(plan("gan", flags={"evaluation.best": "/z", "evaluation.every": 5}).recipe)


# ---- what is refused -------------------------------------------------------------------------------------------------


class FixedRows(nn.Module):
    def __init__(self, latent_dim: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape, self.layer = shape, nn.Linear(latent_dim, shape[0] * shape[1] * shape[2])

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layer(z)).view(len(z), *self.shape)


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = runs("gan"), tmp_path / "out"

    def refused(match: str, **keys: Any) -> None:
        with pytest.raises(gansmith.UserError, match=match):
            gansmith.export(run, **{"out": out, "say": quiet, **keys})

    refused("--format is 'onx'; it must be of safetensors, onnx, torch; did you mean onnx", format="onx")
    refused("there is no maker 'a2b'", maker="a2b")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    refused("exists and is not an empty folder", out=tmp_path / "full")
    again = run / "export-000002-sample"
    again.mkdir()
    refused("export-000002-sample exists; remove it or give --out, and name all formats at once", out=None)
    again.rmdir()
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused(r'--format onnx needs onnx: pip install "gansmith\[onnx\]"', format="onnx")
    monkeypatch.setitem(formats.FORMATS, "torch", lambda *given: 0.5)
    refused("torch: what it makes differs by 0.5 from gansmith's own; nothing is kept", format="torch")
    sampler = gansmith.load(run, device="cpu")
    sampler.nets = (FixedRows(100, (1, 16, 16)),)
    with pytest.raises(gansmith.UserError, match=r"cannot follow G: .* fixes the number of rows, as len\(z\) does"):
        exported(sampler, example(sampler))
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
