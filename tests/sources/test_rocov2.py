"""ROCOv2: demo tree, traps, damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from outcomes import kept, reasons, source_of
from pmc_trees import counts, edit_csv, read_all

from builders.engine.source import NotThisSource


def test_rocov2_counts_licences_and_articles(tree: Callable[[str], Path]) -> None:
    outcomes = read_all("rocov2", tree("rocov2"))
    assert counts(outcomes) == {"train": (5, {"empty_caption": 1}), "valid": (1, {}), "test": (2, {})}
    samples = {sample.key: sample for rows in outcomes.values() for sample in kept(rows)}
    licences = [sample.license for sample in samples.values()]
    assert licences == ["CC-BY", "CC-BY-NC", "CC-BY-NC-ND", "unstated", "CC-BY", "CC-BY", "CC0-1.0", "CC-BY-NC"]
    first, leaked = samples["ROCOv2_2023_train_000002"], samples["ROCOv2_2023_test_000002"]
    assert first.group == leaked.group == {"pmcid": "pmc/PMC9200002"}
    assert "\n" in (first.answer or "")  # a caption of two lines is one row
    assert first.images[0].image_id == "rocov2/ROCOv2_2023_train_000002"


def test_rocov2_needs_the_list_of_licences(tree: Callable[[str], Path]) -> None:
    raw = tree("rocov2")
    path = raw / "license_information.csv"
    edit_csv(path, lambda rows: [row.__setitem__(slice(1, None), ["", "", ""]) for row in rows[1:]])
    with pytest.raises(NotThisSource, match="no PMC number"):
        read_all("rocov2", raw)
    edit_csv(path, lambda rows: rows[0].__setitem__(0, "image"))
    with pytest.raises(NotThisSource, match="no column ID"):
        read_all("rocov2", raw)
    path.unlink()
    with pytest.raises(NotThisSource, match="no list of licences"):
        read_all("rocov2", raw)


def test_rocov2_reads_licences_whatever_their_columns(tree: Callable[[str], Path]) -> None:
    raw = tree("rocov2")
    before = [(s.license, s.group) for s in kept(read_all("rocov2", raw)["train"])]

    def shuffle(rows: list[list[str]]) -> None:
        rows[0] = ["licence", "source", " ID "]
        rows[1:] = [[attribution, link, key] for key, _, attribution, link in rows[1:]]

    edit_csv(raw / "license_information.csv", shuffle)
    assert [(s.license, s.group) for s in kept(read_all("rocov2", raw)["train"])] == before


def test_rocov2_damaged_rows(tree: Callable[[str], Path]) -> None:
    raw = tree("rocov2")
    edit_csv(raw / "license_information.csv", lambda rows: rows.pop(1))
    edit_csv(raw / "train_captions.csv", lambda rows: (rows[2].pop(), rows[3].__setitem__(0, " ")))
    assert reasons(read_all("rocov2", raw)["train"]) == {
        "not_in_metadata": 1,
        "bad_row": 1,
        "bad_id": 1,
        "empty_caption": 1,
    }
    edit_csv(raw / "test_captions.csv", lambda rows: rows[0].__setitem__(1, "text"))
    with pytest.raises(NotThisSource, match="no column Caption"):
        read_all("rocov2", raw)


@pytest.mark.parametrize(
    ("change", "licences"),
    [
        (lambda text: " " + text.replace(",", " , ", 1).replace("\n", " \n", 1), lambda head: head.replace(",", ", ")),
        (lambda text: text.replace("ID,Caption", "id,CAPTION"), str.lower),
    ],
)
def test_rocov2_headers_written_otherwise(
    change: Callable[[str], str], licences: Callable[[str], str], tree: Callable[[str], Path]
) -> None:
    """Two public readers strip the header of the caption files."""
    raw = tree("rocov2")
    before = {split: [s.messages for s in kept(found)] for split, found in read_all("rocov2", raw).items()}
    for path in raw.glob("*_captions.csv"):
        path.write_text(change(path.read_text()))
    head, _, body = (raw / "license_information.csv").read_text().partition("\n")
    (raw / "license_information.csv").write_text(licences(head) + "\n" + body)
    assert {split: [s.messages for s in kept(found)] for split, found in read_all("rocov2", raw).items()} == before


def test_rocov2_says_which_release_it_read() -> None:
    """Zenodo 10821435 has 59,958 / 9,904 / 9,927 rows, 8333645 had 60,163 / 9,945 / 9,972."""
    source = source_of("rocov2")
    assert "10821435" in source.revision and sum(source.published({}).values()) == 79_789
    assert source.conclude
    for rows, said in ((59_958, {}), (60_163, {"noticed": 1})):
        entries = [{"records": [{"split": "train", "read": 20_000}, {"split": "train", "read": rows - 20_000}]}]
        found = source.conclude(Path(), {}, entries)
        assert {name: len(lines) for name, lines in found.items()} == said
