"""What a run leaves to look at: `log.jsonl` (one line a step), TensorBoard events where installed, `curves.svg`."""

import html
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from medgpt.atomic import write_atomic
from medgpt.errors import UserError, os_error_line
from medgpt.page import drawing
from medgpt.private import make_folder
from medgpt.tracking import open_tracker

CURVES = {
    "loss": "loss",
    "tokens_per_second": "tokens a second",
    "mfu": "share of the device's peak",
    "data_wait": "share of time waiting for data",
    "fill": "packing fill, tokens",
    "tile_fill": "packing fill, tiles",
    "grad_norm": "norm of the gradient",
}


class Log:
    """Appends the records of steps; lines after `step` of an earlier, killed run are cut off first.

    `events` says whether TensorBoard is installed and has them, too. `blind` has the loss of guessing blindly
    (`train.probe.blind`) by source, for sources whose answers can be guessed.
    """

    def __init__(self, folder: Path, step: int, blind: Mapping[str, float] | None = None) -> None:
        make_folder(folder)
        self._blind = {name: round(loss, 6) for name, loss in (blind or {}).items()}
        self.path = folder / "log.jsonl"
        kept = [record for record in read_log(self.path) if record["step"] < step]
        write_atomic(self.path, b"".join(orjson.dumps(record) + b"\n" for record in kept))
        self._file = self.path.open("ab")
        self._events = None
        with suppress(UserError):  # TensorBoard is not installed
            self._events = open_tracker("tensorboard", folder, step=step)
        self.events = self._events is not None

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path.parent}: the log cannot be written ({os_error_line(error)}); free space; the same command "
                "goes on from the last checkpoint"
            ) from None

    def write(self, record: Mapping[str, Any]) -> None:
        """Add one step: numbers by name, `sources` by source; what blind guessing gets of those is put beside them.

        Raises: `UserError` (the disk is full, say), as `close`.
        """
        with self._on_disk():
            self._write(record)

    def _write(self, record: Mapping[str, Any]) -> None:
        if guessed := {name: self._blind[name] for name in record.get("sources", {}) if name in self._blind}:
            record = {**record, "blind": guessed}
        self._file.write(orjson.dumps(record) + b"\n")
        self._file.flush()
        if self._events is not None:
            values = {
                name: value for name, value in record.items() if isinstance(value, int | float) and name != "step"
            }
            for group, prefix in (("sources", "loss"), ("blind", "blind loss"), ("probe", "probe")):
                values |= {f"{prefix}/{name}": value for name, value in record.get(group, {}).items()}
            self._events.write(values, record["step"])

    def close(self) -> None:
        """Write the curves and close all files."""
        with self._on_disk():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if self._events is not None:
                self._events.close()
            records = read_log(self.path)
            if records:
                write_atomic(self.path.with_name("curves.svg"), curves(records).encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """Records of a log; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    return [orjson.loads(line) for line in lines[:-1]]


def curves(records: Sequence[Mapping[str, Any]]) -> str:
    """An SVG of small line charts over the steps, one for each measure of `CURVES`, losses by source, the probe.

    What blind guessing gets is a dashed line of its source's colour.
    """
    charts = [
        (title, {"": [(record["step"], record[name]) for record in records if record.get(name) is not None]})
        for name, title in CURVES.items()
    ]
    charts.insert(1, ("loss by source", _grouped(records, "sources")))
    probe = _grouped(records, "probe")
    for title, names in (("held-out questions right", ("right", "low", "high")), ("held-out loss", ("loss",))):
        charts.insert(2, (title, {name: probe[name] for name in names if name in probe}))
    blind = {"loss by source": _grouped(records, "blind")}
    if len(_grouped(records, "sources")) == 1:  # then it is the run's loss, too
        blind["loss"] = dict(zip([""], blind["loss by source"].values(), strict=False))
    blind["held-out questions right"] = {"right": probe.get("blind_right", [])}
    blind["held-out loss"] = {"loss": probe.get("blind_loss", [])}
    charts = [(title, lines) for title, lines in charts if any(lines.values())]
    width, height = 420, 220
    rows = math.ceil(len(charts) / 2)
    parts = []
    for number, (title, lines) in enumerate(charts):
        left, top = number % 2 * width, number // 2 * height
        chart = _chart(title, lines, blind.get(title, {}), width, height)
        parts.append(f'<g transform="translate({left},{top})">{chart}</g>')
    return drawing(2 * width, rows * height, parts)


def _grouped(records: Sequence[Mapping[str, Any]], group: str) -> dict[str, list[tuple[int, float]]]:
    """Points of each name of a group of figures, such as the losses of `sources`."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, value in sorted(record.get(group, {}).items()):
            lines.setdefault(name, []).append((record["step"], value))
    return dict(sorted(lines.items()))


_Lines = Mapping[str, Sequence[tuple[int, float]]]


def _chart(title: str, lines: _Lines, dashed: _Lines, width: int, height: int) -> str:
    left, right, top, bottom = 52, 12, 24, 26
    points = [point for line in (*lines.values(), *dashed.values()) for point in line]
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    if high == low:
        low, high = low - 0.5, high + 0.5

    def at(x: float, y: float) -> str:
        across = left + (width - left - right) * ((x - low_x) / max(1, high_x - low_x))
        return f"{across:.1f},{top + (height - top - bottom) * (high - y) / (high - low):.1f}"

    out = [f'<text x="{left}" y="15" class="value">{html.escape(title)}</text>']
    for tick in range(5):
        value = low + (high - low) * tick / 4
        shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        y = at(low_x, value).split(",")[1]
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{y}" y2="{y}" class="grid"/>')
        out.append(f'<text x="{left - 5}" y="{y}" dy="3" class="end">{shown}</text>')
    for x, anchor in ((low_x, "start"), (high_x, "end")):
        across = at(x, low).split(",")[0]
        out.append(f'<text x="{across}" y="{height - 8}" text-anchor="{anchor}">step {x}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = f"s{number % 8}"
        path = " ".join(at(x, y) for x, y in line)
        out.append(f'<polyline points="{path}" class="line {colour}"/>')
        if dashed.get(name):
            path = " ".join(at(x, y) for x, y in dashed[name])
            out.append(f'<polyline points="{path}" class="line dashed {colour}"/>')
        if name:
            out.append(
                f'<text x="{width - right}" y="{top + 10 + 12 * number}" class="name end {colour}">'
                f"{html.escape(name)}</text>"
            )
    return "".join(out)
