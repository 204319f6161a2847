"""The numbers of a run: means gathered on the device, one JSON line per row, TensorBoard beside it."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gansmith import strict_json
from gansmith.errors import UserError
from gansmith.run.atomic import replacing


class Meters:
    """Sums of metrics that stay on the device, so that a round of training never waits for the host."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Add one value, a 0-dim tensor or a number, per key; a key may be missing from some rounds."""
        for key, number in metrics.items():
            value = torch.as_tensor(number)
            if value.ndim:
                raise ValueError(f"{key} is a metric of shape {tuple(value.shape)}, not a single number")
            # float32 loses digits over a long epoch; mps has nothing better.
            value = value.detach().to(torch.float32 if value.device.type == "mps" else torch.float64)
            if key in self._sums:
                # Out of place: a state_dict taken earlier keeps its value. `to` matters after a resume.
                value = self._sums[key].to(value) + value
            self._sums[key] = value
            self._count[key] = self._count.get(key, 0) + 1

    def flush(self) -> dict[str, float]:
        """Return the mean of each key since the last flush, in the order of arrival, and empty the meters."""
        if not self._sums:
            return {}
        # If a metric was made on the host, it goes to the others: one wait for the device, not one each.
        home = max(self._sums.values(), key=lambda value: value.device.type != "cpu")
        sums = torch.stack([value.to(home) for value in self._sums.values()]).tolist()
        means = {key: total / self._count[key] for key, total in zip(self._sums, sums, strict=True)}
        self._sums, self._count = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to log the same means: {"count": ints, "sums": 0-dim tensors}."""
        return {"count": dict(self._count), "sums": dict(self._sums)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state_dict; its tensors may be on any device."""
        self._count, self._sums = dict(state["count"]), dict(state["sums"])


class RunLog:
    """The rows of one run, in `metrics.jsonl` and, if wanted and installed, as TensorBoard events in `tensorboard/`."""

    def __init__(self, run: Path, *, at_round: int = -1, scores_until: int = -1, tensorboard: bool = True) -> None:
        """Open the log of the folder `run` after round `at_round`.

        Rows of later rounds, which an ended session left, are removed, as they will come again, but for scores
        ("eval/...") up to `scores_until`; and so is a last line that a crash left incomplete. Raises UserError if any
        other line is damaged.
        """
        self.tensorboard = tensorboard and find_spec("tensorboard") is not None
        run.mkdir(parents=True, exist_ok=True)
        path = run / "metrics.jsonl"
        again = path.exists()
        if again:

            def stays(row: Mapping[str, Any]) -> bool:
                scores = any(key.startswith("eval/") for key in row)
                return bool(row["round"] <= (max(at_round, scores_until) if scores else at_round))

            lines = [f"{strict_json.dumps(row)}\n" for row in read_metrics(path) if stays(row)]
            with replacing(path) as part:
                part.write_text("".join(lines), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._events: Any = None
        if self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # TensorBoard hides events from purge_step on, that step included.
            purge_step = at_round + 1 if again else None
            self._events = SummaryWriter(str(run / "tensorboard"), purge_step=purge_step)

    def write(self, row: Mapping[str, float | int | str]) -> None:
        """Append one row, which must hold "round"; NaN and infinities are written as strings."""
        step = int(row["round"])
        line = strict_json.dumps(row)
        self._file.write(line + "\n")
        self._file.flush()
        if self._events is not None:
            for key, value in row.items():
                if key != "round" and not isinstance(value, str):
                    self._events.add_scalar(key, value, step)

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """A grid among TensorBoard's images."""
        if self._events is not None:
            form = "HW" if picture.mode == "L" else "HWC"
            self._events.add_image(name, np.asarray(picture), step, dataformats=form)

    def close(self) -> None:
        """Write out what is left and close; closing twice is no error."""
        self._file.close()
        if self._events is not None:
            self._events.close()
            self._events = None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a metrics.jsonl, without a last line that is incomplete.

    NaN and infinities are the strings "nan", "inf" and "-inf", which `float` understands. UserError for no such file,
    or a line before the last that is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:  # no JSON, or no UTF-8
            row = None
        if isinstance(row, dict) and isinstance(row.get("round"), int):
            rows.append(row)
        elif number < len(lines):
            raise UserError(f'{path}, line {number}: not a row of metrics (a JSON object with "round")')
    return rows


def history(run: str | Path) -> dict[str, list[float]]:
    """The log of a run as columns of equal length, one per key, nan where a row lacks it; pandas.DataFrame takes it."""
    rows = read_metrics(Path(run) / "metrics.jsonl")
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [float(row.get(key, "nan")) for row in rows] for key in keys}
