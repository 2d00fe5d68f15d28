"""OpenMM-Medical: demo tree, traps, damage."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from mixed_trees import edit_csv, read_all, said
from outcomes import kept, source_of
from source_cases import same_samples

from builders.engine.archives import PictureStore
from builders.engine.source import InputError, NotThisSource, Reject


def test_openmm_is_a_benchmark_unless_asked(tree: Callable[[str], Path]) -> None:
    source, raw = source_of("openmm_medical"), tree("openmm_medical")
    assert source.splits == {"test": "eval", "train": "train"}
    assert list(read_all("openmm_medical", raw)) == ["test"]
    assert list(read_all("openmm_medical", raw, paper_variant=True)) == ["train"]
    assert source.build_name({"paper_variant": True}) == "openmm_medical.paper"
    assert "benchmark_as_train" in source.paper_rows[0].note
    assert source.published({"paper_variant": False}) == {"test": 88_996}


def test_openmm_questions(tree: Callable[[str], Path]) -> None:
    samples = kept(read_all("openmm_medical", tree("openmm_medical"))["test"])
    assert [len(sample.options or ()) for sample in samples] == [4, 2, 3, 3, 4]
    assert said(samples[2]) == "Answer: B. Ductal carcinoma"
    assert samples[4].question == 'What does "white" in the left\tlung stand for?'
    # The component comes from the path; the card's modality, wrong for three components, is nowhere.
    assert [sample.subset for sample in samples[2:]] == ["BreakHis", "Adam Challenge", "Chest X-Ray PA"]
    assert all("Endoscopy" not in str(sample) and "Magnetic" not in str(sample.messages) for sample in samples)
    assert samples[0].images[0].read() != samples[2].images[0].read()


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("answer", "E", "bad_field"),
        ("answer", "", "empty_answer"),
        ("answer", "Fundus photography", "bad_field"),
        ("question", " ", "empty_question"),
        ("index", "A1", "bad_id"),
        ("image_path", "Images/1.png", "bad_field"),
        ("image_path", "../x/1.png", "bad_field"),
        ("image_path", "ACRIMA/1.png", None),
        ("B", "", "empty_option"),
        ("D", "", None),
        ("modality", "Wrong", None),
    ],
)
def test_openmm_damaged_rows(column: str, value: str, reason: str | None, tree: Callable[[str], Path]) -> None:
    raw = tree("openmm_medical")
    edit_csv(raw / "OpenMMMedical.tsv", lambda rows: rows[0].update({column: value}), "\t")
    outcome = read_all("openmm_medical", raw)["test"][0]
    assert (outcome.reason if isinstance(outcome, Reject) else None) == reason


def test_openmm_missing_picture_is_never_another_of_its_name(tree: Callable[[str], Path]) -> None:
    raw = tree("openmm_medical")
    archive = raw / "Images.zip"
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    del members["Images/ACRIMA/1.png"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for name, data in members.items():
            new.writestr(f"packed/{name}", data)
    archive.write_bytes(buffer.getvalue())
    samples = kept(read_all("openmm_medical", raw)["test"])
    with pytest.raises(InputError) as caught:
        samples[0].images[0].read()
    assert caught.value.reason == "missing_image"
    assert samples[2].images[0].read() == members["Images/BreakHis/1.png"]
    assert PictureStore(raw, ["Images.zip"]).reader("ACRIMA/1.png")[1]()  # flat sets may still be asked that way


@pytest.mark.parametrize("name", ["image", "img_path"])
def test_openmm_renamed_column(name: str, tree: Callable[[str], Path]) -> None:
    """Nobody has confirmed what the column with the path is called: VLMEvalKit's names are all read."""
    raw = tree("openmm_medical")
    table, before = raw / "OpenMMMedical.tsv", read_all("openmm_medical", raw)
    table.write_text(table.read_text().replace("image_path", name, 1))
    assert same_samples(read_all("openmm_medical", raw), before)
    table.write_text(table.read_text().replace(name, "picture", 1))
    with pytest.raises(NotThisSource, match=r"no column image_path .*picture"):
        read_all("openmm_medical", raw)
