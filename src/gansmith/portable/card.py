"""The model card: samples first, what was trained on what and how, its scores with their receipts, how to use it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml

from gansmith import strict_json
from gansmith._version import __version__
from gansmith.build import game_of
from gansmith.evaluation.receipts import Receipt, number, read
from gansmith.inference import Opened, Sampler
from gansmith.recipe import to_dict, without_paths
from gansmith.run.export import save_images


def about(opened: Opened, sampler: Sampler) -> dict[str, Any]:
    """What a reader has to know of a maker: what it is, of which training, by which weights."""
    makers = game_of(opened.recipe).makers
    return {
        **{"schema": 1, "gansmith": __version__, "torch": str(torch.__version__)},
        "maker": next(name for name, one in makers.items() if one is sampler.maker),
        **{"makers": [*makers], "imitates": sampler.maker.imitates, "classes": sampler.classes.names},
        **{"round": sampler.round, "checkpoint": sampler.digest},
        "weights": "average" if sampler.averaged else "raw",
        "ema": sampler.averaged or not all(map(opened.has_average, sampler.maker.players)),
        "recipe": to_dict(without_paths(opened.recipe)),
    }


def write_card(folder: Path, run: Path, sampler: Sampler, known: Mapping[str, Any], repo: str | None = None) -> None:
    """README.md with samples.png and receipts.jsonl in `folder`, of what `about` says; `repo`: for the hub."""
    of = {key: known[key] for key in ("checkpoint", "weights")}
    measured = (r for r in read(run / "receipts.jsonl") if of.items() <= r.subject.items())
    receipts = {r.metric: r for r in measured if r.subject.get("maker", known["maker"]) == known["maker"]}
    lines = [strict_json.dumps({**r.as_dict(), "subject": {**r.subject, "what": run.name}}) for r in receipts.values()]
    if lines:
        (folder / "receipts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    task, call = "unconditional-image-generation", "sample(64)  # (64, C, H, W), uint8"
    if sampler.maker.pictures:
        task, call = "image-to-image", "translate([picture])  # (C, H, W), uint8, in and out"
    words = {
        "task": task,
        "title": _title(run.resolve().name),
        "game": known["recipe"]["game"]["name"],
        "data": known["recipe"]["data"]["name"],
        "samples": _samples(folder, run, sampler, private=repo is not None),
        "by": "the moving average of the weights" if sampler.averaged else "the weights themselves",
        "scores": _scores([*receipts.values()]),
        "inputs": _inputs(known),
        "where": f"hf:{repo}" if repo else "RUN",
        "call": call,
        "raw": "" if known["ema"] else ", ema=False",
        "torch": "beside this file" if (folder / "model.py").exists() else "of `gansmith export RUN`",
        "onnx": "beside this file" if (folder / "model.onnx").exists() else "of `gansmith export RUN --format onnx`",
        "settings": yaml.safe_dump(known["recipe"], sort_keys=False, default_flow_style=None, width=100),
    }
    text = (resources.files("gansmith") / "portable" / "card.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(text.format(**{**known, **words}), encoding="utf-8")


def _title(run: str) -> str:
    """The run's name without its number: photos-flowers."""
    return re.sub(r"-\d+$", "", run)


def _samples(folder: Path, run: Path, sampler: Sampler, *, private: bool) -> str:
    """samples.png and the line that shows it: fresh ones, or, out of pictures, the run's own of this round.

    Those show pictures of the data: they stay at home where the card leaves it.
    """
    maker, path, kept = sampler.maker, folder / "samples.png", run / "growth" / f"{sampler.round:06d}.png"
    if maker.pictures or sampler.values == "raw":
        if private or maker.classifies or not kept.is_file():
            return "No samples are shown here: they would show pictures of the data."
        shutil.copyfile(kept, path)
    else:
        k = len(sampler.classes.names) if maker.labelled else 0
        seeds = [seed for seed in range(8) for _ in range(k)] if k else range(64)
        save_images(sampler.sample(seeds, [*range(k)] * 8 if k else None), path, columns=k or 8)
    return "![samples](samples.png)"


def _inputs(known: Mapping[str, Any]) -> str:
    if "inputs" not in known:
        return ""
    lines = ["## Inputs and output", "", "| name | type | shape | |", "| --- | --- | --- | --- |"]
    for x in (*known["inputs"], known["output"]):
        lines.append(f"| `{x['name']}` | {x['dtype']} | {', '.join(map(str, x['shape']))} | {x['means']} |")
    if known["draws"]:
        lines.append(
            "\nIt leaves something to chance, by the random numbers of torch. onnxruntime leaves dropout out, unless"
            " the session's graph_optimization_level is ORT_DISABLE_ALL."
        )
    return "\n".join([*lines, "", ""])


def _scores(receipts: list[Receipt]) -> str:
    if not receipts:
        return "None were measured of these weights: `gansmith evaluate RUN` does."
    rows = ["| score | value | real images | better |", "| --- | --- | --- | --- |"]
    for r in receipts:
        rows.append(f"| {f'{r.metric} {r.unit}'.strip()} | {r.text()} | {number(r.real)} | {r.best} |")
    said = "Each with its protocol in [receipts.jsonl](receipts.jsonl); `real images` is what real ones reach."
    memory = any(r.measure.startswith("memorised") for r in receipts)
    return "\n".join([*rows, "", said + " Whether it repeats training images was not measured." * (not memory)])
