"""A reviewer's verdicts: the report gives a file, the proof heeds it, whatever starts on the proof wants it named."""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import tree_digest

from builders.engine.corpus_source import build_corpus
from manifests.proof.certificate import CertificateError, certificate_root, read_certificate, statement
from manifests.proof.policy import DEFAULT_POLICY
from manifests.proof.text_pairs import NAMED
from manifests.proof.trust import Trust, accepted, check_proof
from manifests.prove import main as prove
from manifests.verify import main as verify
from medgpt.digest import file_sha256
from shards.options import add_trust_options

Row = dict[str, Any]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARTERY = (
    "A 58-year-old man with type 2 diabetes mellitus presents with crushing substernal chest pain radiating to the "
    "left arm and diaphoresis; electrocardiography shows ST elevation in leads II, III, aVF. Which artery is occluded?"
)
KNEE = (
    "A young skier with a complete tear of the anterior cruciate ligament has bone bruises of the lateral femoral "
    "condyle and the posterolateral tibial plateau after a pivoting injury. Which other structure is injured?"
)
FEVER = (
    "A 7-year-old girl returns from Madagascar with relapsing fever, jaundice and splenomegaly; thick blood films show "
    "ring forms inside enlarged erythrocytes with Schuffner dots. Which drug prevents relapses?"
)
NODE = (
    "A 34-year-old welder with exertional dyspnoea shows bilateral hilar lymphadenopathy, hypercalcaemia and "
    "noncaseating granulomas on transbronchial biopsy. What is the first-line treatment?"
)
TESTS: list[Row] = [
    {"id": "artery", "question": ARTERY, "options": ["Right coronary artery", "Circumflex"], "answer": 0},
    {"id": "knee", "question": KNEE, "options": ["Medial meniscus", "Patellar tendon"], "answer": 0},
    {"id": "fever", "question": FEVER, "options": ["Primaquine", "Chloroquine"], "answer": 0},
    *({"id": f"node{n}", "question": NODE, "options": [f"Drug {n}", "Nothing"], "answer": 0} for n in range(NAMED + 1)),
]
TRAINS: list[Row] = [
    {"id": "a", "text": f"Note. {ARTERY} Right coronary artery."},
    {"id": "b", "text": f"Lecture. {KNEE} Medial meniscus."},
    {"id": "c", "question": FEVER, "options": ["Chloroquine", "Primaquine"], "answer": 1},
    {"id": "d", "text": f"Board review. {NODE}"},
    {"id": "e", "text": "The spleen filters blood and stands under the left costal arch of healthy adults."},
]


def write_rows(folder: Path, rows: list[Row]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def build(folder: Path, trains: list[Row], access: str = "open") -> Path:
    build_corpus(write_rows(folder / "train", trains), "train", {"name": "ours", "access": access}, folder / "data")
    build_corpus(write_rows(folder / "eval", TESTS), "eval", {"name": "theirs", "access": "open"}, folder / "data")
    return folder / "data"


def run(data: Path, *options: object) -> int:
    return prove([str(data), "--quiet", "--benchmarks", "present", "--workers", "1", *map(str, options)])


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A proof of two small corpora: four training texts are taken out."""
    data = build(tmp_path_factory.mktemp("verdicts"), TRAINS)
    assert run(data) == 0
    return data


@pytest.fixture
def data(untouched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untouched, tmp_path / "data"))


@pytest.fixture(scope="module")
def lifted(untouched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, where a reviewer judged one pair wrong."""
    data = Path(shutil.copytree(untouched, tmp_path_factory.mktemp("lifted") / "data"))
    assert run(data, "--verdicts", write(data.parent / "v.jsonl", pair(data, "a", "artery"))) == 0
    return data


@pytest.fixture
def judged(lifted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lifted, tmp_path / "data"))


def rows_of(data: Path, name: str) -> list[Row]:
    rows: list[Row] = pq.read_table(data / "proof" / f"{name}.parquet").to_pylist()
    return rows


def offered(data: Path) -> list[Row]:
    """What the cards of the report offer to be judged."""
    page = (data / "proof" / "report.html").read_text()
    return [json.loads(html.unescape(text)) for text in re.findall(r'data-pair="([^"]*)"', page)]


def pair(data: Path, train: str, test: str, level: str = "near_text") -> Row:
    """The pair of these two samples, as a card offers it or, at another level, as one would."""
    for one in offered(data):
        if one["train_sample"].endswith(f"/{train}") and one["eval_sample"].endswith(f"/{test}"):
            return one | {"level": level}
    raise AssertionError(f"no card of {train} and {test}")


def write(path: Path, *verdicts: Row) -> Path:
    path.write_text("".join(json.dumps({"verdict": "wrong", "by": "A. Reader"} | one) + "\n" for one in verdicts))
    return path


def taken_out(data: Path) -> set[str]:
    return {row["train_sample"].rpartition("/")[2] for row in rows_of(data, "exclusions")}


def said(data: Path) -> Row:
    document: Row = read_certificate(data / "proof")
    return document


# ---- what a verdict does


def test_a_pair_judged_wrong_takes_nothing_out(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert taken_out(data) == {"a", "b", "c", "d"}
    file = write(
        tmp_path / "v.jsonl", pair(data, "a", "artery") | {"note": "another artery"},
        pair(data, "b", "knee") | {"verdict": "right"},
    )  # fmt: skip
    assert run(data, "--verdicts", file) == 0
    screen = capsys.readouterr().out
    assert "Verdicts: 1 pair judged wrong, 1 right; that leaves 1 training sample in" in screen
    assert re.search(r"^theirs.eval/test +ours.train +3 +27$", screen, re.MULTILINE)
    [cell] = said(data)["exclusions_by_benchmark"]
    assert (cell["train_samples"], cell["eval_samples"]) == (3, 2 + NAMED)
    assert taken_out(data) == {"b", "c", "d"}
    actions = {
        row["train_sample"][-1]: row["action"] for row in rows_of(data, "evidence") if row["level"] == "near_text"
    }
    assert actions == {"a": "wrong", "b": "exclude", "c": "exclude", "d": "exclude"}
    document = said(data)
    assert document["verdicts"] == {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "lines": 2, "wrong": 1, "right": 1, "back": 1,
        "not_used": [],
    }  # fmt: skip
    assert "1 pair was judged wrong by a reviewer (of 2 read)" in " ".join(document["sentences"])
    assert document["clean"] and "1 pair that a reviewer judged wrong" in " ".join(accepted(document))
    page = (data / "proof" / "report.html").read_text()
    assert '<span class="action wrong">wrong</span>' in page and "1 pair that a reviewer judged wrong" in page
    assert verify([str(data), "--quiet"]) == 0
    # Same builds and verdicts, same bytes.
    before = tree_digest(data / "proof")
    assert run(data, "--verdicts", file, "--workers", "2") == 0
    assert tree_digest(data / "proof") == before
    # Without the file all is as it was.
    assert run(data) == 0
    assert taken_out(data) == {"a", "b", "c", "d"} and not (data / "proof" / "verdicts.jsonl").exists()
    assert said(data)["verdicts"] is None


def test_a_verdict_is_of_a_pair_and_leaves_the_others(data: Path, tmp_path: Path) -> None:
    assert run(data, "--verdicts", write(tmp_path / "v.jsonl", pair(data, "c", "fever"))) == 0
    # The same question under the same options is exact evidence, too, which no verdict lifts.
    assert "c" in taken_out(data)
    assert {row["action"] for row in rows_of(data, "evidence") if row["train_sample"].endswith("/c")} >= {
        "wrong",
        "exclude",
    }
    assert said(data)["verdicts"]["back"] == 0


def test_exact_levels_are_lifted_where_the_policy_names_them(data: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(DEFAULT_POLICY.read_text())
    content["verdicts"] = ["near_text", "exact_text"]
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump(content))
    both = [pair(data, "c", "fever", level) for level in ("near_text", "exact_text")]
    file = write(tmp_path / "v.jsonl", *both)
    assert run(data, "--policy", policy, "--verdicts", file) == 0
    assert taken_out(data) == {"a", "b", "d"} and said(data)["verdicts"]["wrong"] == 2
    assert verify([str(data), "--quiet"]) == 0
    check_proof(data / "proof", Trust(policy=policy, verdicts=file))


def test_verdicts_that_cannot_be_used_are_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artery, knee = pair(data, "a", "artery"), pair(data, "b", "knee")
    file = write(
        tmp_path / "v.jsonl",
        artery | {"eval_sample": artery["eval_sample"] + "x"},
        artery | {"train_sha256": "0" * 64},
        artery | {"eval_sha256": "0" * 64, "verdict": "right"},
        pair(data, "c", "fever", "exact_text"),
        pair(data, "d", "node0"),
        knee,
        knee | {"verdict": "right", "by": "B. Reader"},
    )
    assert run(data, "--verdicts", file) == 4
    reasons = {one["line"]: one["reason"] for one in said(data)["verdicts"]["not_used"]}
    assert reasons == {
        1: "the evidence has no such pair",
        2: "one of its samples is not as it was judged",
        3: "one of its samples is not as it was judged",
        4: "the policy lets no verdict lift this level",
        5: "more test items may be behind it than are named",
        6: "another verdict says that it is right",
    }
    screen = capsys.readouterr().out
    assert all(f"the verdict in line {line} is not used: {reason}" in screen for line, reason in reasons.items())
    assert taken_out(data) == {"a", "b", "c", "d"} and said(data)["verdicts"]["wrong"] == 0
    assert verify([str(data), "--quiet"]) == 0
    check_proof(data / "proof", Trust())  # nothing is weaker for them


def test_a_verdict_about_a_sample_that_changed_is_not_used(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "v.jsonl", pair(data, "a", "artery"))
    changed = [row | ({"text": row["text"] + " More of it."} if row["id"] == "a" else {}) for row in TRAINS]
    other = build(tmp_path / "other", changed)
    assert run(other, "--verdicts", file) == 4
    assert "a" in taken_out(other)
    assert said(other)["verdicts"]["not_used"] == [{"line": 1, "reason": "one of its samples is not as it was judged"}]


def test_what_the_policy_only_reports_has_nothing_to_lift(data: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(DEFAULT_POLICY.read_text())
    content["rules"].insert(0, {"level": "near_text", "action": "report"})
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump(content))
    file = write(tmp_path / "v.jsonl", pair(data, "a", "artery"))
    assert run(data, "--policy", policy, "--verdicts", file) == 4
    assert said(data)["verdicts"]["not_used"] == [{"line": 1, "reason": "the policy takes nothing out by it"}]
    assert verify([str(data), "--quiet"]) == 0


# ---- the file


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 1: not JSON; each line is a verdict"),
        ("[]", "line 1: Expected `object`, got `array`"),
        (orjson.dumps({"verdict": "wrong"}).decode(), "line 1: level is missing"),
        ({"text": "A 58-year-old man"}, "line 1: no key is called text"),
        ({"verdict": "maybe"}, "line 1: verdict: 'maybe' is none of right, wrong"),
        ({"by": ""}, "line 1: by: Expected `str` of length >= 1"),
        ({"note": "x" * 101}, "line 1: note: Expected `str` of length <= 100"),
        ({"train_sha256": "ABC"}, "line 1: train_sha256: Expected `str` matching"),
    ],
)
def test_a_file_that_is_none_is_one_line(
    data: Path, tmp_path: Path, line: str | Row, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "v.jsonl"
    if isinstance(line, str):
        file.write_text(line + "\n")
    else:
        write(file, pair(data, "a", "artery") | line)
    before = tree_digest(data / "proof")
    for way in (), ("--dry-run",):
        assert run(data, "--verdicts", file, *way) == 2
        error = capsys.readouterr().err
        assert f"{file}: {message}" in error and len(error.splitlines()) == 1
    assert tree_digest(data / "proof") == before


def test_no_note_about_credentialed_data(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = build(tmp_path / "secret", TRAINS, access="credentialed")
    assert run(secret) == 0
    # What a reviewer does not see he is not asked about; with the texts on the page he is, but for a note.
    assert offered(secret) == []
    assert run(secret, "--show-credentialed") == 0
    assert re.search(r'data-pair="[^"]*" data-private>', (secret / "proof" / "report.html").read_text())
    one = pair(secret, "a", "artery")
    assert run(secret, "--verdicts", write(tmp_path / "v.jsonl", one | {"note": "not this one"})) == 2
    assert "line 1: a note about a credentialed sample could hold its text" in capsys.readouterr().err
    assert run(secret, "--verdicts", write(tmp_path / "v.jsonl", one)) == 0
    assert "a" not in taken_out(secret)
    assert b"chest pain" not in (secret / "proof" / "verdicts.jsonl").read_bytes()


# ---- what starts on it, and who forges it


def test_a_start_wants_the_verdicts_named(judged: Path, lifted: Path, tmp_path: Path) -> None:
    data, file = judged, lifted.parent / "v.jsonl"
    other = write(tmp_path / "other.jsonl", pair(data, "b", "knee"))
    with pytest.raises(
        CertificateError, match=r"1 pair that a reviewer judged wrong.*--accept-verdicts .*verdicts\.jsonl"
    ):
        check_proof(data / "proof", Trust())
    with pytest.raises(CertificateError, match=r"other\.jsonl is another file"):
        check_proof(data / "proof", Trust(verdicts=other))
    parser = argparse.ArgumentParser()
    add_trust_options(parser)  # of training, packing, streaming and evaluation
    for named in file, data / "proof" / "verdicts.jsonl":
        trust = Trust.of(parser.parse_args(["--accept-verdicts", str(named)]))
        assert check_proof(data / "proof", trust)["verdicts"]["wrong"] == 1


def forge(data: Path, change: Callable[[Row], object]) -> None:
    """Change the certificate, and make all of its digests anew."""
    document = said(data)
    change(document)
    for name in document["files"]:
        document["files"][name] = file_sha256(data / "proof" / f"{name}.parquet").hex()
    if document["verdicts"]:
        document["verdicts"]["sha256"] = file_sha256(data / "proof" / "verdicts.jsonl").hex()
    document["root"] = certificate_root(document)
    content = orjson.dumps(statement(document), option=orjson.OPT_SORT_KEYS)
    (data / "proof" / "certificate.json").write_bytes(content)


def more_wrong(data: Path) -> None:
    """Evidence that says `wrong` of a pair that nobody judged, and exclusions that follow."""
    for name, column in ("evidence", "action"), ("exclusions", None):
        path = data / "proof" / f"{name}.parquet"
        rows = [row for row in pq.read_table(path).to_pylist() if column or not row["train_sample"].endswith("/b")]
        for row in rows:
            if column and row["train_sample"].endswith("/b"):
                row[column] = "wrong"
        pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)


def one_more(data: Path) -> None:
    """A verdict that the certificate does not count."""
    with (data / "proof" / "verdicts.jsonl").open("a") as file:
        file.write(json.dumps({"verdict": "wrong", "by": "Forger"} | pair(data, "b", "knee")) + "\n")


FORGERIES: dict[str, tuple[Callable[[Path], None], Callable[[Row], object], str]] = {
    "a pair that nobody judged": (more_wrong, lambda document: None, "do not carry the action"),
    "another count": (lambda data: None, lambda said: said["verdicts"].update(wrong=0), "do not do what it says"),
    "the verdicts are gone": (
        lambda data: (data / "proof" / "verdicts.jsonl").unlink(),
        lambda document: document.update(verdicts=None), "do not carry the action",
    ),
    "a line more": (one_more, lambda document: None, "do not do what it says"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_verdicts_are_found(judged: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, (damage, change, message) = judged, FORGERIES[name]
    damage(data)
    forge(data, change)
    kept = data / "proof" / "verdicts.jsonl"
    with pytest.raises(CertificateError, match=message):
        check_proof(data / "proof", Trust(verdicts=kept if kept.exists() else None))
    capsys.readouterr()
    assert verify([str(data), "--quiet", "--no-raw"]) == 1
    assert re.search("FAILED +policy and counts", capsys.readouterr().out)


def test_a_file_altered_behind_the_certificate_is_refused(judged: Path, lifted: Path) -> None:
    data, file = judged, lifted.parent / "v.jsonl"
    (data / "proof" / "verdicts.jsonl").write_text("")
    with pytest.raises(CertificateError, match=r"verdicts\.jsonl: missing, or not the verdicts of the certificate"):
        check_proof(data / "proof", Trust(verdicts=file))
    assert verify([str(data), "--quiet", "--no-raw"]) == 1


# ---- the page in a browser

REVIEW = """
const saved = [];
URL.createObjectURL = (blob) => { saved.push(blob); return "#"; };
const press = (train, verdict) => {
  document.getElementById("ids").value = "rows.jsonl/" + train;
  document.getElementById("filters").dispatchEvent(new Event("input"));
  const card = document.querySelector("[data-pair]:not([hidden])");
  card.querySelector('[data-verdict="' + verdict + '"]').click();
  return card;
};
const note = press("a", "wrong").querySelector(".judge input");
note.value = "an artery 'of' \\"others\\" </p>";
note.dispatchEvent(new Event("input", { bubbles: true }));
press("b", "right");
press("d", "wrong");
press("d", "wrong");
document.getElementById("save").click();
const without_name = saved.length + " " + document.getElementById("judged").textContent;
document.getElementById("by").value = "A. Reader";
document.getElementById("save").click();
saved[0].text().then((text) => {
  const buttons = [...document.querySelectorAll('[aria-pressed="true"]')];
  const pressed = buttons.map((one) => one.closest(".pair").dataset.kind);
  document.body.textContent = JSON.stringify({ text, without_name, pressed, files: saved.length });
});
"""


def test_what_a_reviewer_saves_in_a_browser_is_what_the_proof_reads(data: Path, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    page = (data / "proof" / "report.html").read_text()
    # A script of the test's own may run beside the page's.
    page = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page)
    (tmp_path / "page.html").write_text(page.replace("</body>", f"<script>{REVIEW}</script></body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body, done.stderr[-2_000:]
    found = json.loads(html.unescape(body[1]))
    # A verdict is about the pair: it shows on each of its cards.
    assert sorted(found["pressed"]) == 2 * ["near_text/passage"] + 2 * ["near_text/stem"]
    assert found["without_name"] == "0 Your name is missing." and found["files"] == 1
    (tmp_path / "v.jsonl").write_text(found["text"])
    assert run(data, "--verdicts", tmp_path / "v.jsonl") == 0
    assert taken_out(data) == {"b", "c", "d"}
    [first, second] = [json.loads(line) for line in found["text"].splitlines()]
    assert first["note"] == "an artery 'of' \"others\" </p>" and first["by"] == "A. Reader"
    assert (first["verdict"], second["verdict"]) == ("wrong", "right")
