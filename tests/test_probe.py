"""`--probe`: trees as publishers ship them, and sixty that are not: each is named by what was seen, none is silent."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import re
import shutil
import tarfile
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_module
from outcomes import parameters
from PIL import Image

from builders.demos import mimic_cxr as demo_mimic
from builders.engine import tables
from builders.engine.probe import probe, probe_text
from builders.engine.registry import load, modules

NAMES = tuple(modules())
Alter = Callable[[Path], Path | None]
"""Changes a demo tree; returns another folder to be given as `--raw`, or None."""


class Trees(dict[str, tuple[Path, str, dict[str, Any]]]):
    """Demo trees by source, each with what the probe says and sees of it as it is."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, name: str) -> tuple[Path, str, dict[str, Any]]:
        raw = self.root / name
        if name == "mimic_cxr":  # the whole one takes half a minute
            demo_mimic.write(raw, subjects=20)
        else:
            load(name).write_demo(raw)
        self[name] = raw, *said(name, raw)[1:]
        return self[name]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    return Trees(tmp_path_factory.mktemp("trees"))


def said(name: str, raw: Path, **given: Any) -> tuple[int, str, dict[str, Any]]:
    """(exit code, text, all that is seen) of a tree, pictures included."""
    source = load(name)
    seen = probe(source, raw, parameters(source, **{"no_images": False, **given}))
    json.dumps(seen)
    return seen["exit_code"], probe_text(source, seen), seen


@pytest.mark.parametrize("name", NAMES)
def test_every_demo_tree_is_seen_for_what_it_is(name: str, trees: Trees) -> None:
    """A known layout, nothing damaged, no column or row of it beyond what is known but the number of rows."""
    seen = trees[name][2]
    assert "refused" not in seen
    assert seen["layouts"]
    published = load(name).published(parameters(load(name)))
    fewer = {split for split in seen["splits"] if split in published}
    assert seen["exit_code"] == (4 if fewer else 0)
    assert all(re.fullmatch(r"\w+: [\d,]+ rows, [\d,]+ fewer \(known: [\d,]+\)", line) for line in seen["differs"])
    for about in seen["splits"].values():
        assert about["counted"] and about["rows"] >= about["first_rows"] > 0 == about["damaged"]


# Alterations


def table(raw: Path, pattern: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change the rows of a Parquet, JSON or CSV file; `change` edits the list, or returns another."""
    [path] = raw.glob(pattern)
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
    elif path.suffix == ".csv":
        rows = list(csv.DictReader(path.open(newline="")))
    else:
        text = path.read_text()
        rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    rows = change(rows) or rows
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = "\n".join(map(json.dumps, rows))
        path.write_text(f"[{','.join(map(json.dumps, rows))}]" if path.suffix == ".json" else lines + "\n")


def renamed(pattern: str, old: str, new: str) -> Alter:
    def alter(raw: Path) -> None:
        table(raw, pattern, lambda rows: [{new if k == old else k: v for k, v in row.items()} for row in rows])

    return alter


def set_to(pattern: str, **values: Any) -> Alter:
    def alter(raw: Path) -> None:
        table(raw, pattern, lambda rows: [row | values for row in rows])

    return alter


def cut(pattern: str, share: float = 0.5) -> Alter:
    def alter(raw: Path) -> None:
        [path] = raw.glob(pattern)
        os.truncate(path, int(path.stat().st_size * share))

    return alter


def written(pattern: str, data: bytes) -> Alter:
    def alter(raw: Path) -> None:
        [path] = raw.glob(pattern)
        path.write_bytes(data)

    return alter


def without(*patterns: str) -> Alter:
    def alter(raw: Path) -> None:
        for pattern in patterns:
            found = sorted(raw.glob(pattern))
            assert found
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return alter


def added(name: str, data: bytes = b"{}") -> Alter:
    def alter(raw: Path) -> None:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(data)

    return alter


def every_second_picture(raw: Path) -> None:
    for path in sorted(raw.rglob("*.jpg"))[::2]:
        path.unlink()


def repeated(pattern: str, count: int) -> Alter:
    """As many rows, each with an id of its own."""

    def alter(raw: Path) -> None:
        table(
            raw,
            pattern,
            lambda rows: [rows[0] | {"id": f"{number:08x}-0000-4000-8000-000000000000"} for number in range(count)],
        )

    return alter


def other_release(raw: Path) -> None:
    lines = "".join(f"ROCOv2_2023_train_{number:06d},a film\n" for number in range(60_163))
    (raw / "train_captions.csv").write_text("ID,Caption\n" + lines)


def spanish_for_english(raw: Path) -> None:
    for split in ("train", "dev", "test"):
        shutil.copy(
            raw / f"data/es/{split}.es.casimedicos.rag.jsonl", raw / f"data/en/{split}.en.casimedicos.rag.jsonl"
        )


def stray_quote(raw: Path) -> None:
    lines = (raw / "train.csv").read_text().splitlines()
    lines[1] = lines[1].replace(",", ',"', 1)
    (raw / "train.csv").write_text(
        "\n".join(line if at == 1 else line.replace('"', "") for at, line in enumerate(lines))
    )


def edited(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new, 1))


def other_source(raw: Path) -> None:
    without("*")(raw)
    load("medmcqa").write_demo(raw)


def below(raw: Path) -> None:
    inner = raw / "a-clone"
    inner.mkdir()
    for path in list(raw.iterdir()):
        if path != inner:
            path.rename(inner / path.name)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub_cache(raw: Path, lose: int = 0) -> Path:
    """The tree as `hf download` leaves it in its cache; of some files the blob is lost."""
    repository = raw / "datasets--x--y"
    snapshot = repository / "snapshots" / COMMIT
    files = [path for path in sorted(raw.rglob("*")) if path.is_file()]
    (repository / "blobs").mkdir(parents=True)
    for number, path in enumerate(files):
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        link = snapshot / path.relative_to(raw)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        if number >= lose:
            path.rename(blob)
    return snapshot


def listed_on_the_hub(raw: Path) -> None:
    files = {f"data/test-0000{number}-of-00003.parquet": {"size": 1, "blob_id": "0"} for number in range(3)}
    added(f".cache/huggingface/trees/{COMMIT}.json", json.dumps({"format_version": 1, "files": files}).encode())(raw)


def as_json_arrays(raw: Path) -> None:
    """MedMCQA as its GitHub page gives it: other files, answers counted from 1."""
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        [path] = (raw / "data").glob(f"{split}-*.parquet")
        rows = pq.read_table(path).to_pylist()
        rows = [row | {"cop": row["cop"] + 1} if row["cop"] >= 0 else row for row in rows]
        (raw / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        path.unlink()


def copied_part(raw: Path) -> None:
    shutil.copy(raw / "data/train-00000-of-00001.parquet", raw / "data/train-00000-of-00001 (1).parquet")


def rewritten(pattern: str, change: Callable[[bytes], bytes], name: str = "{}") -> Alter:
    """Change a file's bytes, and what it is called."""

    def alter(raw: Path) -> None:
        [path] = raw.glob(pattern)
        data = change(path.read_bytes())
        path.unlink()
        path.with_name(name.format(path.name)).write_bytes(data)

    return alter


def hole(data: bytes) -> bytes:
    """A block that a download left out: zeros where a file was made as long as it would be."""
    middle = len(data) // 2
    return data[:middle] + bytes(64) + data[middle:]


def pictures_of(size: int, shades: bool) -> Alter:
    def alter(raw: Path) -> None:
        for number, path in enumerate(sorted(raw.rglob("source.jpg"))):
            Image.new("L", (size, size), number if shades else 0).save(path)

    return alter


def swapped(pattern: str, one: str, other: str) -> Alter:
    def alter(raw: Path) -> None:
        table(raw, pattern, lambda rows: [row | {one: row[other], other: row[one]} for row in rows])

    return alter


def with_inner(name: str, data: bytes) -> Alter:
    def alter(raw: Path) -> None:
        with zipfile.ZipFile(raw / "images.zip", "a") as archive:
            archive.writestr(name, data)

    return alter


def as_lines(data: bytes) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in json.loads(data))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 12345\n" % 7
PAGE = b"<!DOCTYPE html><html><head><title>Log in</title></head></html>\n"

CASES: dict[str, tuple[str, Alter, int, str]] = {
    "a column of Parquet renamed": (
        "medmcqa", renamed("data/train-*.parquet", "question", "stem"), 2, r"no column question .*stem",
    ),
    "a field of JSON Lines renamed": (
        "medthoughts_8k", renamed("*.jsonl", "question", "stem"), 2, r"no field question .*stem",
    ),
    "a field of a JSON array renamed": (
        "huatuo_o1", renamed("*.json", "Ground-True Answer", "answer"), 2, r"no field Ground-True Answer .*answer",
    ),
    "a column of CSV renamed": (
        "pmc_vqa", renamed("train.csv", "Question", "Ask"), 2, r"no column Question (.|\n)*has the columns .*Ask",
    ),
    "a column of TSV renamed": (
        "openmm_medical",
        lambda raw: edited(raw / "OpenMMMedical.tsv", "image_path", "picture"),
        2, r"no column image_path .*picture",
    ),
    "columns swapped": (
        "medmcqa",
        lambda raw: table(
            raw, "data/train-*.parquet", lambda rows: [row | {"cop": 7, "question": row["exp"] or ""} for row in rows]
        ),
        2, r"train: \d+ bad_field",
    ),
    "a further column": (
        "medqa", set_to("**/4_options/*train.jsonl", source="x"), 4,
        r"train\.jsonl: meta_info, metamap_phrases, source",
    ),
    "answers counted from 1": (
        "medmcqa", set_to("data/train-*.parquet", cop=4), 2, r"train: 10 bad_field .*row 0",
    ),
    "half a Parquet file": ("ii_medical_reasoning", cut("data/train-00000-*"), 2, r"train-00000.* not readable as Par"),
    "half a JSON array": ("huatuo_o1", cut("*.json"), 2, r"\.json: (the array ends early|broken JSON)"),
    "half a zip": ("pmc_oa", cut("images.zip"), 2, r"images\.zip: not a readable zip"),
    "half a tar": ("biomedica", cut("surgery/commercial/*.tar", 0.3), 2, r"surgery/commercial/.*\.tar"),
    "half a Zstandard tar": ("medtrinity", cut("25M_accessible/dataset_shard_1.tar.zst"), 4, r"bad_archive"),
    "half a gzip file": ("mimic_cxr", cut("mimic-cxr-jpg/*metadata.csv.gz"), 2, r"metadata\.csv\.gz: cannot be read"),
    "half of the rows": (
        "medmcqa", lambda raw: table(raw, "data/train-*.parquet", lambda rows: rows[: len(rows) // 2]), 4,
        r"train: 5 rows, 182,817 fewer",
    ),
    "half of the pictures": ("slake", every_second_picture, 4, r"train: \d+ missing_image \(.*fetch it.*source\.jpg"),
    "no pictures": ("pmc_oa", without("images.zip"), 2, r"no pictures of train .*images\.zip"),
    "no file of a split": ("vqa_rad", without("testset.json"), 2, r"looked for testset\.json"),
    "one subject missing": ("mmlu_med", without("anatomy"), 2, r"no anatomy/.*\(\d+ of \d+ parts"),
    "no reports": ("mimic_cxr", without("mimic-cxr"), 2, r"missing_report|no reports"),
    "files of no kind": ("medquad", without("6_NINDS_QA"), 4, r"train: 12 rows, 47,445 fewer"),
    "an empty file": ("medreason", written("ours*.jsonl", b""), 2, r"ours_quality_33000\.jsonl: has no bytes"),
    "a pointer of Git LFS": ("healthcaremagic", written("data/*.parquet", POINTER), 2, r"a pointer of Git LFS"),
    "a pointer among JSON Lines": ("medthoughts_8k", written("*.jsonl", POINTER), 2, r"a pointer of Git LFS"),
    "a page of a log-in": ("alpacare_medinstruct", written("data/*52k.json", PAGE), 2, r"52k\.json: a web page"),
    "another format of that name": (
        "medframeqa", written("data/*.parquet", b"a,b\n1,2\n"), 2, r"does not begin as a parquet file does",
    ),
    "two bytes a letter": (
        "pmc_vqa", written("train.csv", "Figure_path,Question\nx,what\n".encode("utf-16")), 2, r"no column Figure_path",
    ),
    "another split under a split's name": (
        "medmcqa", repeated("data/validation-*.parquet", 6150), 4, r"validation: 6,150 rows, as many as test",
    ),
    "another release": ("rocov2", other_release, 4, r"layout    Zenodo 8333645, of 2023"),
    "the publisher's other form": ("medmcqa", as_json_arrays, 4, r"layout    GitHub's JSON, cop from 1"),
    "another language under a name": ("medexpqa", spanish_for_english, 2, r"train: 8 bad_field .*lang is not en"),
    "another language": (
        "healthcaremagic",
        set_to("data/*.parquet", input="¿Qué es el dolor de la espalda?", output="El dolor es una señal del cuerpo."),
        4, r"the texts look like es \d+ %.*, not en",
    ),
    "one language alone": ("slake", set_to("train.json", q_lang="zh"), 4, r"train: none of its first 120 rows"),
    "a stray quote": ("pmc_vqa", stray_quote, 2, r"lines that look like rows stand within records"),
    "two copies": ("icliniq", added("iCliniq.json", b"[]"), 2, r"2 copies of the train file"),
    "a file that nothing reads": (
        "pubmedvision", added("PubMedVision_InstructionTuning_VQA.json"), 4,
        r"files that nothing reads: 1 .*InstructionTuning",
    ),
    "a folder around the tree": ("medqa", below, 2, r"the tree is in .*/a-clone: give it as --raw"),
    "the hub's cache": ("medmcqa", hub_cache, 4, rf"revision  hub commit {COMMIT}"),
    "the hub's cache from above": (
        "medmcqa", lambda raw: hub_cache(raw).parent.parent, 2, rf"the tree is in .*/snapshots/{COMMIT}",
    ),
    "the hub's cache without a blob": ("medmcqa", lambda raw: hub_cache(raw, 1), 2, r"1 links lead nowhere"),
    "a download that stopped": (
        "reasonmed", added(".cache/huggingface/download/x.json.abc.incomplete"), 4, r"1 downloads of the hub are not",
    ),
    "files that the hub lists": ("medframeqa", listed_on_the_hub, 4, r"3 of the 3 files that the hub lists are not"),
    "another source": ("medqa", other_source, 2, r"these look like the files of medmcqa"),
    "a part that is missing": (
        "infinity_instruct_gen", without("Gen/train-00001-*"), 4, r"Gen/train: 1 of 2 parts by their names that are",
    ),
    "a part that is there twice": ("medmcqa", copied_part, 4, r"data/train: 1 parts more than their names foresee"),
    "packed once more": (
        "quilt_1m", rewritten("*lookup.csv", gzip.compress, "{}.gz"), 2, r"there is quilt_1M_lookup\.csv\.gz: unpack",
    ),
    "a name in capitals": ("slake", rewritten("train.json", bytes, "TRAIN.JSON"), 2, r"there is TRAIN\.JSON"),
    "a browser's second copy": (
        "huatuo_o1", rewritten("*.json", bytes, "medical_o1_verifiable_problem (1).json"), 2, r"there is .*\(1\)\.json",
    ),
    "a hole of zeros": ("openmm_medical", rewritten("*.tsv", hole), 4, r"1 bad_row .* zero bytes"),
    "a letter of another encoding": (
        "quilt_1m", rewritten("*lookup.csv", lambda data: data[:900] + b"\xe4" + data[901:]), 4, r"1 not_utf8",
    ),
    "pictures of a pixel": ("slake", pictures_of(1, True), 4, r"train: \d+ pictures are smaller than 16 pixels"),
    "one picture for all": ("slake", pictures_of(64, False), 4, r"train: \d+ pictures of different names are the same"),
    "values of two columns swapped": ("medqa", swapped("**/4_options/*train.jsonl", "answer", "question"), 2, r"36 b"),
    "values that are missing": ("medmcqa", set_to("data/train-*.parquet", opc=None), 2, r"train: 10 missing_field"),
    "numbers as text": ("medmcqa", set_to("data/train-*.parquet", cop="1"), 2, r"train: 10 bad_field"),
    "columns in capitals": (
        "pmc_vqa", rewritten("train.csv", lambda d: d.split(b"\n", 1)[0].upper() + b"\n" + d.split(b"\n", 1)[1]), 2,
        r"has the columns FIGURE_PATH",
    ),
    "an object in place of an array": (
        "huatuo_o1", rewritten("*.json", lambda data: b'{"rows": ' + data + b"}"), 2, r"\.json: not an array of rows",
    ),
    "a file twice in itself": ("slake", rewritten("train.json", lambda data: data * 2), 4, r"bytes behind the end of"),
    "carriage returns alone": (
        "pmc_vqa", rewritten("train.csv", lambda data: data.replace(b"\n", b"\r")), 2, r"train\.csv: no header",
    ),
    "a zip within that is cut": (
        "pmc_oa", with_inner("more.zip", b"PK\x03\x04"), 4, r"images\.zip!more\.zip: 1 archive within an archive",
    ),
    "an empty folder": ("medqa", without("*"), 2, r"found"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_altered_tree_is_named_by_what_was_seen(case: str, trees: Trees, tmp_path: Path) -> None:
    name, alter, code, pattern = CASES[case]
    original, text, _ = trees[name]
    raw = tmp_path / "raw"
    shutil.copytree(original, raw)
    found, shown, _ = said(name, alter(raw) or raw)
    assert re.search(pattern, shown), shown
    assert not re.search(pattern, text), "said of every tree"
    assert found == code, shown


WRITTEN_OTHERWISE: dict[str, tuple[str, Alter]] = {
    "semicolons": ("pmc_vqa", rewritten("train.csv", lambda data: data.replace(b",", b";"))),
    "lines in place of an array": ("huatuo_o1", rewritten("*.json", as_lines)),
}


@pytest.mark.parametrize("case", WRITTEN_OTHERWISE)
def test_a_table_that_is_written_otherwise_is_seen_as_ever(case: str, trees: Trees, tmp_path: Path) -> None:
    name, alter = WRITTEN_OTHERWISE[case]
    original, _, before = trees[name]
    raw = tmp_path / "raw"
    shutil.copytree(original, raw)
    code, _, seen = said(name, alter(raw) or raw)
    counts, known = (
        {split: (about["rows"], about["kept"], about["damaged"]) for split, about in one["splits"].items()}
        for one in (seen, before)
    )
    assert (code, counts) == (before["exit_code"], known)


# Layouts

MMMU = (
    "id question options explanation image_1 image_2 image_3 image_4 image_5 image_6 image_7 img_type answer "
    "topic_difficulty"
)
MEDMCQA = "id question opa opb opc opd cop choice_type exp subject_name topic_name"
LAVITA = "input answer_icliniq answer_chatgpt answer_chatdoctor"
PMC_VQA = "Figure_path|Question|Answer|Choice A|Choice B|Choice C|Choice D|Answer_label"
QUILT = (
    "Unnamed: 0|caption|image_path|subset|split|pathology|roi_text|noisy_text|corrected_text|med_umls_ids|"
    "magnification|height|width"
)
SLAKE = "img_id img_name question answer q_lang location modality answer_type base_type content_type triple qid"
MEDQA = "question answer options meta_info answer_idx metamap_phrases"
SPLIT = "dicom_id study_id subject_id split"
BIOMEDICA = "image_file_name image_panel_type article_accession_id article_license"


def before_october(raw: Path) -> None:
    table(raw, "*lookup.csv", lambda rows: [dict(list(row.items())[:13]) for row in rows])


def as_table(raw: Path) -> None:
    """BIOMEDICA's tars as rows of Parquet: the members and the fields of the json as columns."""
    for path in sorted(raw.glob("*/commercial/*.tar")):
        rows: dict[str, dict[str, Any]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.rpartition(".")
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                rows.setdefault(key, {"__key__": key}).update(
                    json.loads(data) if ending == "json" else {ending: data if ending == "jpg" else data.decode()}
                )
        pq.write_table(pa.Table.from_pylist(list(rows.values())), path.with_name("part.parquet"))
    for path in raw.rglob("*.tar"):
        path.unlink()


def thought_apart(raw: Path) -> None:
    """The thought in a column, the answer and its places as XML in frames of 336 (`schemas.py` of that repository)."""

    def row_of(row: dict[str, Any]) -> dict[str, Any]:
        said = "<answer>left lung</answer><location><ref>left lung</ref><box>[10, 20, 300, 320]</box></location>"
        return row | {
            "thinkVG": "The left lung is seen at [10, 20, 300, 320].",
            "response": f"<response>{said}</response>",
        }

    table(raw, "data/train-*.parquet", lambda rows: [row_of(row) for row in rows])


def as_icliniq_json(raw: Path) -> None:
    [path] = raw.glob("data/train-*.parquet")
    (raw / "iCliniq-10k.json").write_text(json.dumps(pq.read_table(path).to_pylist()))
    path.unlink()


LAYOUTS: dict[tuple[str, str], tuple[str, dict[str, str], Alter | None]] = {
    ("alpacare_medinstruct", "the 52k file"): (
        "lavita/AlpaCare-MedInstruct-52k@fad8593", {"data/MedInstruct-52k.json": "instruction input output"}, None,
    ),
    ("alpacare_medinstruct", "MedInstruct-test.jsonl"): (
        "XZhang97666/AlpaCare@b469c41", {"data/MedInstruct-test.jsonl":
        "id instruction difficulty gpt-4-answer claude-2 gpt-3.5-turbo-answer text-davinci-003-answer"}, None,
    ),
    ("biomedica", "WebDataset tars"): (
        "minwoosun/biomedica-etl@b53ded3", {"*/commercial/*.tar": f"{BIOMEDICA} jpg json txt ..."}, None,
    ),
    ("biomedica", "Parquet subsets"): (
        "the hub's trees of BIOMEDICA", {"*/commercial/*.parquet": f"{BIOMEDICA} __key__ jpg txt ..."}, as_table,
    ),
    ("gemex_thinkvg", "response alone, <think> and <answer> in it"): (
        "BoKelvin/GEMeX-ThinkVG", {"data/*.parquet": "question_type image_path question response"}, None,
    ),
    ("gemex_thinkvg", "the thought in thinkVG"): (
        "liamchalcroft/gaze@1275f48", {"data/*.parquet": "question_type image_path question response thinkVG"},
        thought_apart,
    ),
    ("gmai_reasoning10k", "two JSON Lines, loose pictures"): (
        "uni-medical/GMAI-VL-R1@a02771d", {"reasoning_mcq_*.jsonl": "image conversations"}, None,
    ),
    ("healthcaremagic", "instruction, input, output"): (
        "Kent0n-Li/ChatDoctor@e77bd7e", {"data/train-*.parquet": "instruction input output"}, None,
    ),
    ("huatuo_o1", "question and answer, no reasoning"): (
        "FreedomIntelligence/HuatuoGPT-o1@2c8d7fc",
        {"medical_o1_verifiable_problem.json": "Open-ended Verifiable Question|Ground-True Answer"}, None,
    ),
    ("icliniq", "the hub's Parquet: input and three answers"): (
        "lavita/medical-qa-datasets", {"data/train-*.parquet": LAVITA}, None,
    ),
    ("icliniq", "ChatDoctor's JSON"): ("Kent0n-Li/ChatDoctor@e77bd7e", {"iCliniq-10k.json": LAVITA}, as_icliniq_json),
    ("ii_medical_reasoning", "model, question, problem, messages"): (
        "Intelligent-Internet/II-Medical-Reasoning-SFT@1478165",
        {"data/train-*.parquet": "model question problem messages"}, None,
    ),
    ("infinity_instruct_gen", "15 Parquet files of Gen"): (
        "manifoldlabs/Infinity-Instruct", {"Gen/train-*.parquet": "conversations ..."}, None,
    ),
    ("medbullets", "CSV and JSON by columns"): (
        "HanjieChen/ChallengeClinicalQA@ef3c9da",
        {"medbullets/medbullets_op5.csv": "link question opa opb opc opd ope answer_idx answer explanation"}, None,
    ),
    ("medexpqa", "JSON Lines of four languages"): (
        "hitz-zentroa/MedExpQA@fa92fb6", {"data/*/*.casimedicos.rag.jsonl":
        "id year type question_id_specific lang full_question full_answer full_answer_no_ref correct_option options "
        "explanations rag"}, None,
    ),
    ("medframeqa", "the hub's Parquet"): (
        "haojinw0027/MedFrameQA@e83fbe3", {"data/test-*.parquet":
        "question_id system organ keyword modality video_id question options correct_answer reasoning_chain image_url "
        "image_1 image_2 image_3 image_4 image_5"}, None,
    ),
    ("medical_r1_distill", "the English JSON"): (
        "FreedomIntelligence/Medical-R1-Distill-Data@3491dee",
        {"medical_r1_distill_sft.json": "question|reasoning (reasoning_content)|response (content)"}, None,
    ),
    ("medmcqa", "the hub's Parquet, cop from 0"): ("TsinghuaC3I/MedXpertQA@f21247d", {"data/*.parquet": MEDMCQA}, None),
    ("medmcqa", "GitHub's JSON, cop from 1"): (
        "medmcqa/medmcqa@c59ef14", {"train.json": MEDMCQA}, as_json_arrays,
    ),
    ("medqa", "GitHub's US questions"): (
        "jind11/MedQA@27b02f6", {"**/4_options/*.jsonl": MEDQA, "**/US/train.jsonl": MEDQA.rpartition(" ")[0]}, None,
    ),
    ("medquad", "XML in twelve folders"): (
        "abachaa/MedQuAD@577bd37", {"10_*/0000001.xml": "Document Focus QAPairs QAPair Question Answer ..."}, None,
    ),
    ("medreason", "ours_quality_33000.jsonl"): (
        "UCSC-VLAA/MedReason@02b51f1",
        {"ours_quality_33000.jsonl": "dataset_name id_in_dataset question answer reasoning options"}, None,
    ),
    ("medthoughts_8k", "MedThoughts-8K.jsonl"): (
        "hw-hwei/MedThoughts-8K@423360b",
        {"MedThoughts-8K.jsonl": "question_id question options answer_idx ds_answer ds_think source"}, None,
    ),
    ("medtrinity", "tar.zst beside Parquet captions"): (
        "UCSC-VLAA/MedTrinity-25M@79b1b03", {"25M_full/*.parquet": "file_name caption source"}, None,
    ),
    ("medxpertqa", "Text and MM as JSON Lines"): (
        "TsinghuaC3I/MedXpertQA@f21247d",
        {"MM/*.jsonl": "id question options label images medical_task body_system question_type",
         "Text/*.jsonl": "id question options label medical_task body_system question_type"}, None,
    ),
    ("mimic_cxr", "MIMIC-CXR-JPG and its reports"): (
        "MIT-LCP/mimic-cxr@3190146", {"mimic-cxr-jpg/*split.csv.gz": SPLIT, "mimic-cxr-jpg/*metadata.csv.gz":
        "dicom_id subject_id study_id PerformedProcedureStepDescription ViewPosition Rows Columns StudyDate StudyTime "
        "ProcedureCodeSequence_CodeMeaning ViewCodeSequence_CodeMeaning PatientOrientationCodeSequence_CodeMeaning"},
        None,
    ),
    ("mimic_cxr_vqa", "three JSON files beside MIMIC-CXR-JPG"): (
        "baeseongsu/mimic-cxr-vqa@d69a025", {"**/*split.csv.gz": SPLIT, "**/dataset/train.json":
        "split idx subject_id study_id image_id image_path question semantic_type content_type template "
        "template_program template_arguments answer"}, None,
    ),
    ("mmlu_med", "Parquet of seven subjects"): (
        "stanford-cs336/assignment5-alignment@eb2c562", {"*/*.parquet": "question subject choices answer"}, None,
    ),
    ("mmmu_med", "Parquet of five subjects"): (
        "MMMU-Benchmark/MMMU@bb0b95a", {"*/*.parquet": f"{MMMU} question_type subfield"}, None,
    ),
    ("mmmu_pro_med", "two standard sets"): ("MMMU-Benchmark/MMMU@bb0b95a", {"*/*.parquet": f"{MMMU} subject"}, None),
    ("patient_trial", "queries, judgements, candidates"): (
        "ncbi-nlp/TrialGPT@f621313", {"dataset/sigir/queries.jsonl": "_id text",
        "dataset/*/qrels/test.tsv": "query-id corpus-id score",
        "dataset/sigir/corpus.jsonl": "_id title text metadata"}, None,
    ),
    ("pmc_oa", "JSON Lines of three splits"): (
        "WeixiongLin/Build-PMC-OA@eaf8115", {"*.jsonl": "image caption pmcid url_name"}, None,
    ),
    ("pmc_vqa", "version 1, by Answer_label"): ("xiaoman-zhang/PMC-VQA@1678ec2", {"train.csv": PMC_VQA}, None),
    ("pmc_vqa", "version 2, by the order of its columns"): (
        "xiaoman-zhang/PMC-VQA@1678ec2",
        {"train_2.csv": "index|Figure_path|Caption|Question|Choice A|Choice B|Choice C|Choice D|Answer|split"}, None,
    ),
    ("pubmedqa", "two JSON files"): (
        "pubmedqa/pubmedqa@1cbae8e", {"**/ori_pqal.json": "QUESTION CONTEXTS LABELS MESHES YEAR "
        "reasoning_required_pred reasoning_free_pred final_decision LONG_ANSWER"}, None,
    ),
    ("pubmedvision", "alignment JSON beside zips"): (
        "FreedomIntelligence/HuatuoGPT-Vision@a6476ac",
        {"PubMedVision_Alignment_VQA.json": "id image conversations body_part modality"}, None,
    ),
    ("quilt_1m", "table with single_wsi and not_histology"): (
        "wisdomikezogwo/quilt1m@20a5824", {"*lookup.csv": f"{QUILT}|single_wsi|not_histology"}, None,
    ),
    ("quilt_1m", "table of 13 columns, before 2023-10-26"): (
        "wisdomikezogwo/quilt1m@20a5824", {"*lookup.csv": QUILT}, before_october,
    ),
    ("quilt_instruct", "the table; pictures by form"): (
        "aldraus/quilt-llava@a7a9a4c", {"quilt_instruct_107k.json": "id image conversations"}, None,
    ),
    ("reasonmed", "three JSON arrays"): (
        "YuSun-Work/ReasonMed@9995fab", {"*Med.json": "instruction input output"}, None,
    ),
    ("rocov2", "Zenodo 10821435, version 2.0.1"): ("Zenodo", {"*_captions.csv": "ID Caption"}, None),
    ("rocov2", "Zenodo 8333645, of 2023"): ("Zenodo", {"*_captions.csv": "ID Caption"}, other_release),
    ("slake", "three JSON files, pictures in folders"): ("xiaoman-zhang/PMC-VQA@1678ec2", {"t*.json": SLAKE}, None),
    ("vqa_rad", "community split"): (
        "Nana2929/vqa-rad-with-bert@3e5db51", {"*set.json": "qid image_name image_organ answer answer_type "
        "question_type question phrase_type modality"}, None,
    ),
}  # fmt: skip
"""By source and layout: who published it or reads it, and the columns of its files as they are there."""


def columns_of(path: Path) -> set[str]:
    """Columns of a table's first row; of a tar the endings of its members and the fields of their json; tags of XML."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        return set(pq.read_schema(path).names)
    if kind == "tar":
        with tarfile.open(path) as tar:
            members = {member.name.rpartition(".")[2]: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        return {*members, *json.loads(members["json"])}
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        text = file.read()
    if kind == "xml":
        return {element.tag for element in ET.fromstring(text).iter()}
    if kind in ("csv", "tsv"):
        return set(next(csv.reader(text.splitlines(), delimiter="\t" if kind == "tsv" else ",")))
    if path.name.startswith("ori_"):  # by PubMed's numbers
        return set(next(iter(json.loads(text).values())))
    return set(json.loads(text)[0] if text.startswith("[") else json.loads(text.splitlines()[0]))


@pytest.mark.parametrize("key", LAYOUTS, ids=" ".join)
def test_a_layout_is_read_as_it_is_published(key: tuple[str, str], trees: Trees, tmp_path: Path) -> None:
    """Its files have the columns that its evidence has, no more are wanted, and it is seen for what it is."""
    (name, layout), (evidence, files, alter) = key, LAYOUTS[key]
    [declared] = [one for one in load(name).layouts if one.name == layout]
    assert evidence in declared.evidence and declared.checked != "unverified"
    raw, _, seen = trees[name]
    if alter:
        raw = Path(shutil.copytree(raw, tmp_path / "raw"))
        alter(raw)
        seen = said(name, raw)[2]
    for pattern, columns in files.items():
        published = set(columns.split("|" if "|" in columns else " "))
        found = sorted(raw.glob(pattern))
        assert found
        for path in found:
            others = columns_of(path) if "..." in published else set()
            assert columns_of(path) == (published - {"..."}) | others
    assert layout in [one["name"] for one in seen["layouts"]]
    if not declared.rows:  # another release is told by its number of rows alone
        assert sum(about["kept"] for about in seen["splits"].values())
        assert not sum(about["damaged"] for about in seen["splits"].values())


def test_every_layout_but_the_unverified_ones_has_a_case() -> None:
    known = {(name, one.name) for name in NAMES for one in load(name).layouts if one.checked != "unverified"}
    assert known == set(LAYOUTS)


def test_columns_of_credentialed_files_stay_hidden(trees: Trees, tmp_path: Path) -> None:
    """A table that lost its header has a patient's row in its place."""
    for name, shown in (("pmc_vqa", True), ("mimic_cxr_vqa", False)):
        shutil.copytree(trees[name][0], tmp_path / name)
        for path in [*(tmp_path / name).rglob("*.csv"), *(tmp_path / name).rglob("*.csv.gz")]:
            path.rename(path.with_name(path.name.removesuffix(".gz"))).write_text("Doe,Jane,1950-01-01\n1,2,3\n")
        code, text, _ = said(name, tmp_path / name)
        assert code == 2 and ("Jane" in text) == shown, text


def test_a_large_file_is_estimated_and_not_read(trees: Trees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "COUNTED_BYTES", 0)
    monkeypatch.setattr(tables, "FIRST_ROWS", 100)
    raw = tmp_path / "raw"
    shutil.copytree(trees["medthoughts_8k"][0], raw)
    table(raw, "*.jsonl", lambda rows: [rows[0] | {"question_id": number} for number in range(7716)])
    _, text, seen = said("medthoughts_8k", raw)
    about = seen["splits"]["train"]
    assert not about["counted"] and abs(about["rows"] - 7716) < 200 and about["compared"] == "as known"
    assert f"about {about['rows']:,}" in text
    assert seen["exit_code"] == 0


@pytest.mark.parametrize(
    ("name", "folder", "rows"),
    [
        ("vqa_rad", "vqa_rad", {"train": 3064, "test": 451}),
        ("slake", "slake", {"train": 9835, "validation": 2099, "test": 2094}),
        ("pubmedqa", "pubmedqa", {"train": 500, "test": 500}),
        ("medmcqa", "medmcqa", {"validation": 4183}),
    ],
)
def test_the_publishers_own_rows(name: str, folder: str, rows: dict[str, int], real_data: Path) -> None:
    if not (real_data / folder).is_dir():
        pytest.skip(f"no real rows at {real_data / folder}")
    _, _, seen = said(name, real_data / folder, no_images=True)
    assert {split: about["rows"] for split, about in seen["splits"].items() if about["compared"] == "as known"} == rows
    assert seen["layouts"][0]["checked"].startswith("real rows: ")
    assert not any(about["damaged"] for about in seen["splits"].values())


def test_a_real_file_under_another_splits_name(real_data: Path) -> None:
    """The file named train holds the items of dev, as its README says; nothing in its rows does."""
    folder = real_data / "medqa_usmle_4_options"
    if not folder.is_dir():
        pytest.skip(f"no real rows at {folder}")
    code, text, _ = said("medqa", folder)
    assert code == 4 and "train: 1,272 rows, as many as dev (known: 10,178)" in text


def test_the_command_line(trees: Trees, tmp_path: Path) -> None:
    """One source and all of them; nothing is written."""
    raw, _ = (trees[name][0] for name in ("biomedica", "medqa"))  # each is written when it is first asked for
    done = run_module("builders.biomedica", "--raw", str(raw), "--out", str(tmp_path / "built"), "--probe")
    assert done.returncode == 0 and "a build makes sense" in done.stdout, done.stderr
    done = run_module("builders.all", "--raw", str(trees.root), "--only", "biomedica", "medqa", "--probe", "--json")
    assert done.returncode == 4
    assert [(seen["source"], seen["exit_code"]) for seen in json.loads(done.stdout)] == [("biomedica", 0), ("medqa", 4)]
    assert not (tmp_path / "built").exists()
    shown = run_module("builders.openmm_medical", "--help").stdout
    assert "layout: OpenMMMedical.tsv with a column image_path (unverified" in shown
    assert "no public reader of this layout was found" in shown


def test_every_source_says_what_it_was_checked_against() -> None:
    """Real rows and readers by repository and commit, unless a release or a tree is all that is recorded."""
    unverified = set()
    for source in map(load, NAMES):
        assert source.layouts, source.name
        for layout in source.layouts:
            assert layout.evidence or layout.checked == "unverified"
            if layout.checked == "rows":
                assert re.search(r"[\w.-]+/[\w.-]+@[0-9a-f]{7}\b", layout.evidence), (source.name, layout)
            if layout.checked == "unverified":
                unverified.add(source.name)
        assert not source.hub_revision or re.fullmatch("[0-9a-f]{40}", source.hub_revision)
    # Nobody could be found who reads these: `fidelity.md`, sections 1 and 7.
    assert unverified == {"openmm_medical", "infinity_instruct_gen", "patient_trial"}


def test_there_are_thirty_altered_trees_of_many_sources() -> None:
    assert len(CASES) >= 30
    assert len({name for name, *_ in CASES.values()}) >= 15
