"""`gansmith export`: a maker as files that need no gansmith, each checked against gansmith's own as it is written."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.export import ExportedProgram

from gansmith import strict_json
from gansmith._version import __version__
from gansmith.errors import UserError
from gansmith.inference import Round, load, open_run
from gansmith.portable import program as programs
from gansmith.portable.card import about, write_card
from gansmith.run.atomic import new_folder
from gansmith.schema import did_you_mean

FURTHEST = 1e-3
"""What an export may differ by from gansmith's own, of pictures in [0, 1]: a quarter of one of 256 levels."""
Tensors = Mapping[str, Tensor]


def export(
    run: str | Path,
    *,
    format: str = "safetensors",
    maker: str | None = None,
    round: Round = None,
    ema: bool = True,
    out: str | Path | None = None,
    trust: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Write a maker of a run for those who have no gansmith into a new folder, `out` or one in the run; return it.

    `format`: safetensors (weights, and model.py, their program in plain torch), onnx, torch (a torch.export program),
    or several with commas. Pictures are in [0, 1], in and out. UserError for what cannot be exported.
    """
    kinds = [kind.strip() for kind in format.split(",")]
    if wrong := [kind for kind in kinds if kind not in FORMATS]:
        near = did_you_mean(wrong[0], FORMATS)
        raise UserError(f"--format is {wrong[0]!r}; it must be of {', '.join(FORMATS)}{near}")
    opened = open_run(run, round, say, trust=trust)
    sampler = load(opened, maker=maker, ema=ema, device="cpu", say=say)
    known, inputs = about(opened, sampler), programs.example(sampler)
    place = Path(out or Path(run) / f"export-{sampler.round:06d}{'' if ema else '-raw'}-{known['maker']}")
    if out is None and place.exists():
        raise UserError(
            f"{place} exists; remove it or give --out, and name all formats at once: --format safetensors,onnx"
        )
    program = programs.exported(sampler, inputs)
    with new_folder(place) as folder:
        made = _played(programs.Plain(sampler).eval(), inputs)
        arrays: dict[str, Any] = {name: x.numpy() for name, x in {**inputs, programs.MADE: made}.items()}
        np.savez(folder / "example.npz", **arrays)
        known |= {**programs.interface(sampler, program), "largest_difference": {}}
        for kind in kinds:
            off = known["largest_difference"][kind] = FORMATS[kind](program, inputs, made, folder)
            if not off <= FURTHEST * max(1.0, float(made.abs().max())):
                raise UserError(f"{kind}: what it makes differs by {off:.2g} from gansmith's own; nothing is kept")
            say(f"{kind}: checked, the largest difference from gansmith's own is {off:.2g}")
        weights = {name: x for name, x in programs.weights(program).values()}
        known["tensors"] = {name: {**programs.sized(x), "sha256": _digest(x)} for name, x in weights.items()}
        write_card(folder, Path(run), sampler, known)
        (folder / "model.json").write_text(strict_json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return place


@torch.no_grad()
def _played(module: Callable[..., Tensor], inputs: Tensors) -> Tensor:
    """What it makes; what it leaves to chance follows from seed 0, and torch's own stream stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return module(**inputs)


def _digest(x: Tensor) -> str:
    return hashlib.sha256(x.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


# ---- a writer for each format: it gives the largest difference of what its file makes -------------------------------


def _safetensors(program: ExportedProgram, inputs: Tensors, made: Tensor, folder: Path) -> float:
    held = {name: x.detach().contiguous().clone() for name, x in programs.weights(program).values()}
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    template = (resources.files("gansmith") / "portable" / "model.txt").read_text(encoding="utf-8")
    digests = json.dumps({name: _digest(x) for name, x in held.items()}, indent=4)
    nodes = {node.name: node.meta["val"] for node in program.graph.nodes if node.name in inputs}
    shapes = {name: programs.sized(nodes[name])["shape"] for name in inputs}
    words = {"version": __version__, "made": programs.MADE, "digests": digests, "shapes": shapes}
    words["forward"] = programs.python(program)
    (folder / "model.py").write_text(Template(template).substitute(words), encoding="utf-8")
    shutil.copymode(folder / "model.py", folder / "model.safetensors")  # which safetensors keeps from all others
    alone = "import runpy, sys; sys.modules['gansmith'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-P", "-c", alone, str((folder / "model.py").resolve())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"safetensors: model.py does not run by itself: {(done.stderr.strip() or '?').splitlines()[-1]}"
        )
    return float(done.stdout)


def _torch(program: ExportedProgram, inputs: Tensors, made: Tensor, folder: Path) -> float:
    torch.export.save(program, folder / "model.pt2")
    again = torch.export.load(folder / "model.pt2").module()
    return float((_played(again, inputs) - made).abs().max())


def _onnx(program: ExportedProgram, inputs: Tensors, made: Tensor, folder: Path) -> float:
    """Dropout that is always on draws otherwise in onnxruntime: both are compared with it off."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # which torch.onnx asks for
    except ImportError as error:
        raise UserError(f'--format onnx needs {error.name}: pip install "gansmith[onnx]"') from None
    if other := [name for name in programs.draws(program) if "dropout" not in name]:
        raise UserError(f"--format onnx: the network draws random numbers ({', '.join(other)}); use another format")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own code, about itself
        written = torch.onnx.export(program, output_names=[programs.MADE], dynamo=True, verbose=False)
        assert written is not None
        written.save(folder / "model.onnx")
    model, still = onnx.load(folder / "model.onnx"), program.module()
    for node in model.graph.node:
        if node.op_type == "Dropout":
            del node.input[2:]  # whether it is on
    for node in still.graph.nodes:
        if node.target == torch.ops.aten.dropout.default:
            node.args = (*node.args[:2], False)
    still.recompile()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: x.numpy() for name, x in inputs.items()})
    return float(np.abs(found - _played(still, inputs).numpy()).max())


FORMATS = {"safetensors": _safetensors, "onnx": _onnx, "torch": _torch}
