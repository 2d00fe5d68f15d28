"""Building text sources: short multiple-choice rows from Parquet, long records from JSON Lines.

Counts everything a build does: reading, sample, canonical JSON, digests, normalised hashes, tokens, Arrow shard and
manifest. Limit: reading the rows alone. Peers: `datasets.map` making the same messages into Arrow, nothing hashed.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.jpeg_build import ROUNDS, cpu_seconds
from builders.engine.loop import BuildOptions, make_plan, run
from builders.engine.source import Params, Reject, Sample, Source, Unit, assistant, user
from builders.engine.tables import Row, convert_rows, table_rows, table_units
from medgpt.text import count_tokens

SHORT_ROWS, LONG_ROWS = 60_000, 6_000
_WORDS = (
    "patient with acute chest pain fever and cough for two days history of hypertension diabetes mellitus type which "
    "of the following is most likely diagnosis treatment drug choice nerve artery vein muscle carcinoma biopsy shows"
).split()


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words))


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    yield from table_units(raw, sorted(raw.iterdir()), "train", "train")


def _sample(row: Row) -> Sample:
    values = row.values
    if "opa" not in values:
        messages = [user(values["instruction"]), assistant(values["response"], values["reasoning"])]
        return Sample(f"r{row.number}", messages, row.file, row.number, question=values["instruction"])
    options = [("A", values["opa"]), ("B", values["opb"]), ("C", values["opc"]), ("D", values["opd"])]
    label = "ABCD"[values["cop"]]
    prompt = "\n".join([values["question"], *(f"{letter}. {text}" for letter, text in options)])
    return Sample(
        f"r{row.number}", [user(prompt), assistant(f"Answer: {label}")], row.file, row.number,
        question=values["question"], options=options, answer=label, group={"question_id": f"bench/{values['id']}"},
    )  # fmt: skip


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, _sample)


SOURCE = Source(
    name="bench_text", title="Generated rows", homepage="-", revision="1", license="CC0-1.0", access="open",
    stage="instruct", task="mcq", modality="text", splits={"train": "train"}, obtain="-", plan=_plan, read=_read,
    published=lambda params: {}, module="bench.text_build",
)  # fmt: skip


def _write_short(raw: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chance = random.Random(1)
    rows = [
        {"id": f"{n:08d}-aaaa", "question": _text(chance, 14), "cop": n % 4}
        | {f"op{letter}": _text(chance, 3) for letter in "abcd"}
        for n in range(SHORT_ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), raw / "train.parquet", row_group_size=10_000)


def _write_long(raw: Path) -> None:
    chance = random.Random(2)
    with (raw / "train.jsonl").open("w") as file:
        for _ in range(LONG_ROWS):
            row = {"instruction": _text(chance, 120), "reasoning": _text(chance, 600), "response": _text(chance, 150)}
            file.write(json.dumps(row) + "\n")


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Rows and megabytes of text a CPU-second; medians of three rounds in turn."""
    del peer_python
    figures = {}
    for name, write, rows in (("short_parquet", _write_short, SHORT_ROWS), ("long_jsonl", _write_long, LONG_ROWS)):
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "raw"
            raw.mkdir()
            write(raw)
            works = {
                "ours": partial(_build, raw, Path(folder)),
                "limit: rows read alone": partial(_read_alone, raw),
                "limit: tokens counted alone": partial(_tokens_alone, raw),
                "peer: datasets.map": partial(_datasets_map, raw, Path(folder)),
            }
            seconds: dict[str, list[float]] = {work: [] for work in works}
            for number in range(ROUNDS):
                for work, do in works.items():
                    seconds[work].append(cpu_seconds(partial(do, number)))
            text = _characters(raw) / 1e6
            figures[name] = {"rows": rows, "text_mb": round(text, 1)} | {
                work: {
                    "rows_per_cpu_s": round(rows / sorted(values)[ROUNDS // 2]),
                    "text_mb_per_cpu_s": round(text / sorted(values)[ROUNDS // 2], 1),
                }
                for work, values in seconds.items()
            }
    return figures


def _units(raw: Path) -> Iterator[Unit]:
    return _plan(raw, {})


def _characters(raw: Path) -> int:
    """Bytes of text the model would see."""
    total = 0
    for unit in _units(raw):
        for row in table_rows(raw, unit):
            assert isinstance(row, Row)
            total += sum(len(value) for value in row.values.values() if isinstance(value, str))
    return total


def _build(raw: Path, folder: Path, number: int) -> None:
    params = {"no_images": False, "split": None}
    options = BuildOptions(raw=raw, out=folder / f"ours-{number}", params=params, progress=False)
    run(SOURCE, options, make_plan(SOURCE, options))


def _read_alone(raw: Path, number: int) -> None:
    for unit in _units(raw):
        for _ in table_rows(raw, unit):
            pass


def _tokens_alone(raw: Path, number: int) -> None:
    for unit in _units(raw):
        for row in table_rows(raw, unit):
            assert isinstance(row, Row)
            for value in row.values.values():
                if isinstance(value, str):
                    count_tokens(value)


def _datasets_map(raw: Path, folder: Path, number: int) -> None:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    [path] = raw.iterdir()
    kind = "parquet" if path.suffix == ".parquet" else "json"
    rows = load_dataset(kind, data_files=str(path), split="train", cache_dir=str(folder / f"cache-{number}"))

    def messages(values: dict[str, Any]) -> dict[str, Any]:
        texts = [str(value) for value in values.values()]
        return {"messages": [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": texts[-1]}]}

    rows.map(messages)
