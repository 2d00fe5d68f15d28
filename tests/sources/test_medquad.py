"""medquad: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outcomes import kept, read_all, reasons
from source_cases import (
    FUZZ,
    check_reject,
    emptied,
    same_samples,
)

from builders.engine.source import NotThisSource, Reject


def test_medquad_keeps_the_pairs_that_have_an_answer(real_data: Path) -> None:
    archive = real_data / "medquad" / "medquad_xml.tar.gz"
    found = read_all("medquad", archive.parent)["train"]
    assert (len(found), len(kept(found))) == (47_457, 16_423)
    assert reasons(found) == {"empty_answer": 31_034}
    assert len({sample.key for sample in kept(found)}) == 16_423
    assert len({sample.group["question_id"] for sample in kept(found)}) == 16_423
    # The same numbers without an XML parser.
    pairs: Counter[str] = Counter()
    with tarfile.open(archive) as members:
        for member in members:
            if member.name.endswith(".xml") and (file := members.extractfile(member)):
                text = file.read().decode()
                pairs["QAPair"] += len(re.findall(r"<QAPair\b", text))
                pairs["pair"] += len(re.findall(r"<pair\b", text))
                pairs["empty"] += len(re.findall(r"<[Aa]nswer>\s*</[Aa]nswer>|<[Aa]nswer\s*/>", text))
    assert pairs == {"QAPair": 47_441, "pair": 16, "empty": 31_034}


def test_medquad_demo_has_all_shapes(demos: dict[str, Path]) -> None:
    raw = demos["medquad"]
    roots = {path.read_text().splitlines()[1].split()[0] for path in raw.rglob("*.xml")}
    assert roots == {"<doc", "<Document", "<DiseaseFile"}
    found = read_all("medquad", raw)["train"]
    assert reasons(found) == {"empty_answer": 6}
    assert len(kept(found)) == 15


@pytest.mark.parametrize("layout", ["checkout", "zip", "tar.gz"])
def test_medquad_reads_a_checkout_or_an_archive_of_it(layout: str, demos: dict[str, Path], tmp_path: Path) -> None:
    if layout == "checkout":
        shutil.copytree(demos["medquad"], tmp_path / "MedQuAD")
        # The repository also ships test data in a zip, which is not to be read.
        with zipfile.ZipFile(tmp_path / "QA-TestSet.zip", "w") as archive:
            archive.writestr("6_NINDS_QA/0000099.xml", "<Document><QAPair/></Document>")
    else:
        (tmp_path / "raw").mkdir()
        form = {"zip": "zip", "tar.gz": "gztar"}[layout]
        staged = shutil.copytree(demos["medquad"], tmp_path / "stage" / "MedQuAD-master").parent
        shutil.make_archive(str(tmp_path / "raw" / "MedQuAD"), form, staged)
    raw = tmp_path if layout == "checkout" else tmp_path / "raw"
    expected, found = read_all("medquad", demos["medquad"]), read_all("medquad", raw)
    assert same_samples(found, expected)
    assert [o.file for o in found["train"]] == [o.file for o in expected["train"]]


def add_member(archive: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
    archive.addfile(info, io.BytesIO())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../6_NINDS_QA/0000001.xml", tarfile.REGTYPE),
        ("/6_NINDS_QA/0000001.xml", tarfile.REGTYPE),
        ("6_NINDS_QA/0000001.xml", tarfile.SYMTYPE),
        ("6_NINDS_QA/0000001.xml", tarfile.LNKTYPE),
        ("6_NINDS_QA/0000001.xml", tarfile.FIFOTYPE),
    ],
)
def test_medquad_refuses_archives_with_links_or_paths_that_leave(name: str, kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "MedQuAD.tar.gz", "w:gz") as archive:
        add_member(archive, name, kind)
    with pytest.raises(NotThisSource):
        read_all("medquad", tmp_path)


def test_medquad_refuses_an_archive_that_unpacks_to_too_much(
    demos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.make_archive(str(tmp_path / "MedQuAD"), "zip", demos["medquad"])
    monkeypatch.setattr("builders.medquad._MAX_ARCHIVE_BYTES", 1000)
    with pytest.raises(NotThisSource, match="unpacks"):
        read_all("medquad", tmp_path)


MEDQUAD_FAULTS: list[tuple[bytes, bytes, str, str]] = [
    (b'pid="1"', b"", "missing_field", "#0"),
    (b'qid="0000398-1"', b"", "missing_field", "1"),
    (b'pid="1"', b'pid="1 or 2"', "bad_id", "1 or 2"),
    (b"</Document>", b"", "bad_xml", "file"),
    (b"Elmfield", b"\xe9", "not_utf8", "file"),
    (b"</Answer>", b"</answer>", "bad_xml", "file"),
    (b'encoding="UTF-8"?>', b'encoding="UTF-8"?><!DOCTYPE Document [<!ENTITY a "b">]>', "bad_xml", "file"),
    (b"Document", b"html", "bad_xml", "file"),
    (b"What is (are) Elmfield fever ?", b" ", "empty_question", "1"),
]


@pytest.mark.parametrize(("old", "new", "reason", "row"), MEDQUAD_FAULTS)
def test_medquad_names_what_is_wrong_with_a_pair(
    tree: Callable[[str], Path], old: bytes, new: bytes, reason: str, row: str
) -> None:
    raw = tree("medquad")
    file = "9_CDC_QA/0000398.xml"
    count = -1 if old == b"Document" else 1
    (raw / file).write_bytes((raw / file).read_bytes().replace(old, new, count))
    found = read_all("medquad", raw)["train"]
    rejects = [outcome for outcome in found if isinstance(outcome, Reject) and outcome.reason != "empty_answer"]
    assert len(rejects) == 1
    check_reject(rejects[0], file, row, reason)
    assert len(found) == (21 if row != "file" else 19)


def test_medquad_names_missing_questions_and_answers(tree: Callable[[str], Path]) -> None:
    raw = tree("medquad")
    path = raw / "9_CDC_QA/0000398.xml"
    path.write_text('<Document><QAPairs><QAPair pid="1"><Question qid="1-1">a</Question></QAPair>'
                    '<QAPair pid="2"><Answer>b</Answer></QAPair></QAPairs></Document>')  # fmt: skip
    found = [o for o in read_all("medquad", raw)["train"] if o.file == "9_CDC_QA/0000398.xml"]
    assert [(o.row, o.reason, o.detail) for o in found if isinstance(o, Reject)] == [
        ("1", "missing_field", "Answer"),
        ("2", "missing_field", "Question"),
    ]


@FUZZ
@given(data=st.data())
def test_damage_to_one_file_of_medquad_stays_in_that_file(
    demos: dict[str, Path], scratch: Path, data: st.DataObject
) -> None:
    file = data.draw(st.sampled_from(["6_NINDS_QA/0000007.xml", "9_CDC_QA/0000397.xml"]))
    content = (demos["medquad"] / file).read_bytes()
    start = data.draw(st.integers(0, len(content)))
    content = content[:start] + data.draw(st.binary(max_size=6)) + content[start + data.draw(st.integers(0, 80)) :]
    raw = emptied(scratch)
    shutil.copytree(demos["medquad"], raw, dirs_exist_ok=True)
    (raw / file).write_bytes(content)
    found = read_all("medquad", raw)["train"]
    assert len([o for o in found if o.file != file]) == 18
    assert len(kept(found)) <= 15
