"""Messages show no cell of a table and no control codes, whatever the files hold."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import duckdb
import pytest
from conftest import ROOT

from medgpt.messages import named, safe
from medgpt.private import keep_private

CANARY = "XQCANARYQX"
ESC = "\x1b[31m\x9b2J\x07\r"

SOURCE = """
from builders.engine.rawfiles import text_of
from builders.engine.source import Sample, Source, assistant, user
from builders.engine.tables import convert_rows, table_units

def plan(raw, params):
    yield from table_units(raw, sorted(raw.glob("*")), "train", "train", columns=("key", "question"))

def sample(row):
    return Sample(
        key=text_of(row.values, "key", row.file), file=row.file, row=row.number,
        messages=[user(text_of(row.values, "question", row.file)), assistant("yes")],
    )

SOURCE = Source(
    name="my_table", title="-", homepage="-", revision="1", license="-", stage="instruct", task="qa", modality="text",
    splits={"train": "train"}, obtain="-", module="my_table", published=lambda params: {}, ACCESS
    plan=plan, read=lambda raw, unit, params: convert_rows(raw, unit, sample),
)

if __name__ == "__main__":
    from builders.engine.command import main
    raise SystemExit(main(SOURCE))
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def build(folder: Path, file: str, data: bytes, access: str = "") -> subprocess.CompletedProcess[str]:
    """A source whose table is `data`; it says nothing of its access unless `access` is given."""
    (folder / "my_table.py").write_text(SOURCE.replace("ACCESS", f'access="{access}",' if access else ""))
    (folder / "raw").mkdir()
    (folder / "raw" / file).write_bytes(data)
    return run(folder, "my_table", "--raw", "raw", "--out", "built", "--quiet")


def is_clean(text: str) -> bool:
    return all(letter.isprintable() for letter in text.replace("\n", ""))


def rejects(folder: Path) -> str:
    return str(duckdb.sql(f"FROM '{folder}/**/rejects/*.parquet'").fetchall())


@pytest.mark.parametrize("access", ["", "open"])
@pytest.mark.parametrize("row", [f"{CANARY},{CANARY} lives in Ulm\n", f"17,{CANARY}\n"], ids=["a sentence", "a number"])
@pytest.mark.parametrize("file", ["t.csv", "t.tsv"])
def test_the_first_row_of_a_headerless_table_is_not_shown(tmp_path: Path, file: str, row: str, access: str) -> None:
    done = build(tmp_path, file, (row.replace(",", "\t") if file == "t.tsv" else row).encode(), access)
    assert done.returncode == 2
    assert CANARY not in done.stdout + done.stderr
    assert done.stderr == (
        f"my_table: {file}: no column key, question (there are 2 whose names are not shown); another revision?\n"
    )


def test_words_alone_could_be_names_but_not_of_credentialed_tables(tmp_path: Path) -> None:
    done = build(tmp_path, "t.csv", f"{CANARY},pneumonia\n".encode())
    assert "2 whose names are not shown" in done.stderr
    assert CANARY not in done.stderr
    (tmp_path / "open").mkdir()
    assert "(there are id, text)" in build(tmp_path / "open", "t.csv", b"id,text\n", "open").stderr


def test_control_codes_of_a_header_do_not_reach_the_terminal(tmp_path: Path) -> None:
    for number, name in enumerate(("t.csv", "t.jsonl", f"t{ESC[:5]}.csv")):
        (tmp_path / str(number)).mkdir()
        data = json.dumps({f"a{ESC}": 1}) if name == "t.jsonl" else f'"a{ESC}",b\n'
        done = build(tmp_path / str(number), name, data.encode(), "open")
        assert done.returncode in (2, 3)
        assert done.stderr or done.stdout
        assert is_clean(done.stdout + done.stderr)


def test_ids_that_can_name_no_sample_are_not_repeated(tmp_path: Path) -> None:
    done = build(tmp_path, "t.csv", f'key,question\n"{CANARY} {ESC}",well?\ngood,well?\n'.encode())
    assert done.returncode == 3, done.stderr
    assert CANARY not in done.stdout + done.stderr + rejects(tmp_path / "built")
    assert is_clean(done.stdout + done.stderr)
    assert "an id of" in rejects(tmp_path / "built")


def corpus(folder: Path, train: dict[str, bytes]) -> None:
    for name, content in {f"train/{name}": data for name, data in train.items()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "test").mkdir()
    (folder / "test/a.jsonl").write_text('{"text": "an old man fell from a ladder and broke his left hip"}\n')


def prove(folder: Path, mapping: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "map.yaml").write_text(mapping or "{}")
    sides = ("--train", "train", "--eval", "test", "--mapping", "map.yaml")
    return run(folder, "manifests.prove", *sides, "--out", "ours", "--quiet")


def test_a_mapping_that_names_no_field_shows_names_alone(tmp_path: Path) -> None:
    corpus(tmp_path, {"a.jsonl": json.dumps({"report": "x", f"{CANARY} lives in Ulm": "y", f"b{ESC}": "z"}).encode()})
    done = prove(tmp_path, "train: {text: findings}")
    assert done.returncode == 2
    assert "has findings; there are report and 2 whose names are not shown" in done.stderr
    assert CANARY not in done.stderr
    assert is_clean(done.stderr)


def test_members_texts_as_picture_names_and_file_names(tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in ((f"a{ESC[:8]}.json", b"{"), ("b.json", b'{"text": "a man with a cough since May"}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    lines = [
        {"text": "well and alive at the age of ninety", "image": f"{CANARY} has a cough.{end}"}
        for end in ("png", CANARY)
    ]
    corpus(tmp_path, {f"s{ESC[:5]}.tar": data.getvalue(), "a.jsonl": "\n".join(map(json.dumps, lines)).encode()})
    done = prove(tmp_path)
    assert done.returncode == 4, done.stderr  # rejected rows were not compared
    found = duckdb.sql(f"SELECT \"row\", reason, detail FROM '{tmp_path}/ours/**/rejects/*.parquet'").fetchall()
    assert {reason for _, reason, _ in found} == {"bad_row", "missing_image"}
    assert CANARY not in done.stdout + done.stderr + str(found)
    assert is_clean("".join(row + detail for row, _, detail in found))
    assert is_clean(done.stdout + done.stderr)


def test_a_broken_table_of_labels_is_not_repeated(tmp_path: Path) -> None:
    from filters.base import FilterError
    from filters.quilt_cleaner import QuiltCleaner

    for data in (f"Filename,Persons/Photos\na,{CANARY}\n", f"Filename,Persons/Photos\na,0.5,{CANARY},{CANARY}\n"):
        (tmp_path / "t.csv").write_text(data)
        with pytest.raises(FilterError) as caught:
            QuiltCleaner(table=str(tmp_path / "t.csv"))
        assert CANARY not in str(caught.value)


def test_review_sheets_are_not_repeated(tmp_path: Path) -> None:
    for number, data in enumerate((f"sample_id,label\na,{CANARY}\n", f"{CANARY},{CANARY} text\n")):
        key = tmp_path / f"{number}.key.csv"
        key.write_text("sample_id,score,flagged,weight\na,0.5,1,1\n")
        (tmp_path / f"{number}.csv").write_text(data)
        done = run(tmp_path, "filters.audit", "agree", f"{number}.csv")
        assert done.returncode == 2
        assert CANARY not in done.stdout + done.stderr
        assert done.stderr.count("\n") == 1


def test_names_of_a_message() -> None:
    assert named(["a", "b_2", "c.d-e"]) == "a, b_2, c.d-e"
    assert named([]) == "none"
    assert named(["a", "b c", "\x1b", "d" * 41]) == "a and 3 whose names are not shown"
    assert named([f"c{n}" for n in range(20)], shown=2) == "c0, c1 and 18 more"
    assert named(["a", "b c"], first_row=True) == "2 whose names are not shown"
    assert named(["a", "b"], first_row=True) == "a, b"
    keep_private("gated")
    assert named(["a", "b"], first_row=True) == "a, b"
    keep_private("credentialed")
    assert named(["a", "b"], first_row=True) == "2 whose names are not shown"
    assert named(["a", "b"]) == "a, b"


def test_safe_text_is_one_printable_line() -> None:
    assert safe("a\nb\t c\x1b[1m\x9b\u202e\udcff") == "a b c\\x1b[1m\\x9b\\u202e\\udcff"
    assert safe("Ärzte – 肺炎") == "Ärzte – 肺炎"
    assert safe("abcdef", 4) == "abc…"


def test_failures_are_said_in_one_place() -> None:
    """Only `complain` prints to standard error what a command caught; what it prints has no control codes."""
    allowed = {"manifests/messages.py", "manifests/sql.py", "eval/serve.py", "eval/_radgraph_annotate.py"}
    for package in ("browse", "builders", "eval", "filters", "manifests", "shards", "train"):
        for path in (ROOT / package).rglob("*.py"):
            if path.relative_to(ROOT).as_posix() in allowed:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                    to = [ast.unparse(one.value) for one in node.keywords if one.arg == "file"]
                    said = " ".join(ast.unparse(argument) for argument in node.args)
                    assert to != ["sys.stderr"] or "error" not in said, f"{path}: line {node.lineno}"
