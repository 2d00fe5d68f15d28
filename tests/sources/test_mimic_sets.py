"""Presets of MIMIC-CXR: what a sample shows, held against SQL over the same tables; reports found; pairs compared."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import call_module
from mimic_tables import report, rows_of, study_file, write_reports, write_tables
from outcomes import kept, parameters, read_all, source_of

from builders.engine.figures import beside_published, figure_lines
from builders.engine.mimic_pairs import comparison
from builders.engine.source import NotThisSource, Sample

Rows = list[dict[str, str]]
STUDIES = 2_000
SETS = """
    WITH pictures AS (SELECT *, {shown} AS shown, lpad(StudyTime, 8, '0') AS clock FROM rows),
    exams AS (SELECT split, subject_id, study_id, any_value(findings) AS findings, count(*) FILTER (shown) AS n,
        min(StudyDate) AS date, min(if(StudyTime = '', '', clock)) AS clock FROM pictures GROUP BY ALL HAVING n > 0),
    pairs AS (SELECT *, lag(n) OVER (PARTITION BY subject_id ORDER BY date, clock, study_id) AS before FROM exams),
    cut AS (SELECT *, least(n, if(before IS NULL, 6, 5)) AS now FROM pairs WHERE findings = 'yes'),
    samples AS (SELECT split, before, greatest({pad}, now + least(coalesce(before, 0), 6 - now)) AS n FROM cut)
    SELECT split, count(*), round(avg(n), 4), round(stddev_pop(n), 4), round(avg((before IS NOT NULL)::INT), 4)
    FROM samples GROUP BY split ORDER BY split"""
"""Samples, pictures a sample, their deviation and the share with a prior, by split."""
LABELLED = "ViewPosition IN ('PA', 'AP', 'LATERAL', 'LL')"
FRONTAL = """(ViewPosition IN ('PA', 'AP') OR ViewPosition = ''
    AND ViewCodeSequence_CodeMeaning IN ('postero-anterior', 'antero-posterior'))"""
UNLABELLED = f"({LABELLED} OR ViewPosition = '')"


@pytest.fixture(scope="module")
def rows() -> Rows:
    return rows_of(STUDIES)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> Path:
    """The folders that PhysioNet's `wget -r` makes."""
    base = tmp_path_factory.mktemp("raw")
    write_tables(base / "physionet.org/files/mimic-cxr-jpg/2.1.0", rows)
    write_reports(base / "physionet.org/files/mimic-cxr/2.1.0/mimic-cxr-reports.zip", rows)
    return base


def build(raw: Path, out: Path, *options: str) -> Any:
    """A build without pictures."""
    done = call_module(
        "builders.mimic_cxr", "--raw", str(raw), "--out", str(out), "--no-images", "--json", "--workers", "1", *options
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def by_sql(rows: Rows, shown: str, pad: int) -> list[tuple[Any, ...]]:
    connection = duckdb.connect()
    connection.register("rows", pa.table({key: [row[key] for row in rows] for key in rows[0]}))
    return connection.execute(SETS.format(shown=shown, pad=pad)).fetchall()


@pytest.mark.parametrize(
    ("given", "name", "shown", "pad"),
    [
        ({"preset": "editgrpo"}, "editgrpo", LABELLED, 4),
        ({"preset": "ours"}, "longitudinal", UNLABELLED, 0),
        ({"longitudinal": True}, "longitudinal", UNLABELLED, 0),
        ({"preset": "editgrpo", "pad": "0", "views": "frontal"}, "editgrpo-views-frontal-pad-0", FRONTAL, 0),
        ({"prior": "latest", "views": "all"}, "longitudinal-views-all-prior-latest", "true", 0),
    ],
)
def test_sets_of_2000_studies_are_those_of_sql_over_the_same_tables(
    raw: Path, rows: Rows, given: dict[str, Any], name: str, shown: str, pad: int
) -> None:
    found = []
    for split, outcomes in sorted(read_all("mimic_cxr", raw, **given).items()):
        samples = kept(outcomes)
        counts = [len(sample.images) for sample in samples]
        prior = sum("prior_study_id" in sample.group for sample in samples) / len(samples)
        found.append((split, len(samples), round(fmean(counts), 4), round(pstdev(counts), 4), round(prior, 4)))
    assert found == by_sql(rows, shown, pad)
    assert sum(count for _, count, *_ in found) > 1_000
    source = source_of("mimic_cxr")
    assert source.build_name(parameters(source, **given)) == f"mimic_cxr.{name}"


def test_the_build_shows_its_figures_beside_the_published_ones(raw: Path, rows: Rows, tmp_path: Path) -> None:
    arguments = ("--raw", str(raw), "--out", str(tmp_path), "--no-images", "--quiet", "--workers", "1")
    done = call_module("builders.mimic_cxr", *arguments, "--preset", "editgrpo")
    assert done.returncode == 0, done.stderr
    expected = {split: figures for split, *figures in by_sql(rows, LABELLED, 4)}
    document = json.loads((tmp_path / "mimic_cxr.editgrpo/build.json").read_bytes())
    figures = {(row["split"], row["figure"]): row for row in document["figures"]}
    names = ("kept", "images_mean", "images_sd", "prior_share")
    for split, published in (("train", (146_893, 4.17, 0.63, 0.4259)), ("test", (2_231, 4.30, 0.62, 0.686))):
        assert [figures[split, name]["published"] for name in names] == list(published)
        assert [figures[split, name]["ours"] for name in names] == expected[split]
        assert figures[split, "kept"]["differs"]
    assert "warning: " in done.stdout and "of 8 figures differ from the published ones" in done.stdout
    assert f"{expected['test'][1]:.2f}" in done.stdout and "4.30" in done.stdout


def test_figures_that_print_alike_do_not_differ() -> None:
    splits = {"test": {"kept": 2_231, "images_mean": 4.2961, "prior_share": 0.68601}, "train": {"kept": 5}}
    published = {"test": {"kept": 2_231, "images_mean": 4.3, "prior_share": 0.6861}, "all": {"kept": 2_236}}
    rows = beside_published(published, splits)
    assert [(row["split"], row["figure"], row["differs"]) for row in rows] == [
        ("test", "kept", False), ("test", "images_mean", False), ("test", "prior_share", True), ("all", "kept", False),
    ]  # fmt: skip
    assert "1 of 4 figures differ" in "\n".join(figure_lines(rows))
    assert not any("warning" in line for line in figure_lines(rows[:2]))


def one(raw: Path, rows: Rows, **given: Any) -> dict[str, Sample]:
    """Samples by key of a tree of these rows, each study with a report of its own."""
    jpg = raw / "mimic-cxr-jpg"
    write_tables(jpg, [ROW | row for row in rows])
    for row in rows:
        path = raw / "mimic-cxr" / f"{study_file((ROW | row)['subject_id'], row['study_id'])}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(report(True))
    return {sample.key: sample for found in read_all("mimic_cxr", raw, **given).values() for sample in kept(found)}


ROW = {
    "dicom_id": "", "subject_id": "10000001", "study_id": "", "ViewPosition": "PA", "StudyTime": "100000",
    "StudyDate": "21800101", "ViewCodeSequence_CodeMeaning": "", "split": "train",
}  # fmt: skip


def dicom(number: int) -> str:
    return f"{number:08x}" + "-00000000" * 4


def test_editgrpo_names_views_and_repeats_up_to_four(tmp_path: Path) -> None:
    rows = [
        {"dicom_id": dicom(1), "study_id": "50000001", "ViewPosition": "LATERAL"},
        {"dicom_id": dicom(2), "study_id": "50000001"},
        {"dicom_id": dicom(3), "study_id": "50000002", "ViewPosition": "AP", "StudyDate": "21800301"},
        {"dicom_id": dicom(4), "study_id": "50000003", "ViewPosition": "", "StudyDate": "21800401"},
    ]
    samples = one(tmp_path, rows, preset="editgrpo")
    assert samples.keys() == {"50000001", "50000002"}  # the third has no view

    def shown(sample: Sample) -> list[str]:
        names = [image.image_id[-44:][:8].lstrip("0") for image in sample.images]
        return [
            names[part["index"]] if part["type"] == "image" else part["text"] for part in sample.messages[0]["content"]
        ]

    asked = "Write the findings section of the radiology report for the current study."
    text = f"Indication: Cough.\nTechnique: Chest.\n{asked}"
    first = ["Current study:", "PA:", "2", "LATERAL:", "1", "PA, again:", "2", "LATERAL, again:", "1", text]
    assert shown(samples["50000001"]) == first
    assert shown(samples["50000002"]) == [
        "Current study:", "AP:", "3", "AP, again:", "3", "Prior study:", "PA:", "2", "LATERAL:", "1", text,
    ]  # fmt: skip
    frontal = read_all("mimic_cxr", tmp_path, preset="editgrpo", prior="latest-frontal", pad="0", context="none")
    [_, second] = kept(frontal["train"])
    assert shown(second) == ["Current study:", "AP:", "3", "Prior study:", "PA:", "2", asked]


def test_libra_takes_the_last_picture_of_the_previous_date_by_study_time(tmp_path: Path) -> None:
    rows = [
        # The last by time is the AP; by view rank and id it was the PA of the later study id.
        {"dicom_id": dicom(1), "study_id": "50000001", "StudyTime": "90000", "ViewPosition": "AP"},
        {"dicom_id": dicom(2), "study_id": "50000001", "StudyTime": "80000"},
        {"dicom_id": dicom(3), "study_id": "50000002", "StudyTime": "85000", "ViewPosition": "PA"},
        {"dicom_id": dicom(4), "study_id": "50000003", "StudyDate": "21800102"},
    ]
    samples = one(tmp_path, rows, preset="libra")
    now, then = samples[dicom(4)].images
    assert (now.image_id, then.image_id) == (f"mimic-cxr/{dicom(4)}", f"mimic-cxr/{dicom(1)}")
    assert samples[dicom(4)].group["prior_study_id"] == "mimic-cxr/50000001"
    first, again = samples[dicom(3)].images
    assert first.image_id == again.image_id and "prior_study_id" not in samples[dicom(3)].group


def test_an_impression_shows_at_most_two_pictures_a_study(tmp_path: Path, rows: Rows) -> None:
    write_tables(tmp_path / "mimic-cxr-jpg", rows[:600])
    write_reports(tmp_path / "mimic-cxr/mimic-cxr-reports.zip", rows[:600])
    for given, most in (({}, 2), ({"longitudinal": True}, 4), ({"shots": "1"}, 4)):
        samples = [
            s for found in read_all("mimic_cxr", tmp_path, task="impression", **given).values() for s in kept(found)
        ]
        assert max(len(sample.images) for sample in samples) == most
        per_study = [Counter(image.study_id for image in sample.images) for sample in samples]
        assert max(count for counts in per_study for count in counts.values()) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preset": "libra", "views": "all"}, "--preset libra is two frontal pictures, always; it goes without views"),
        ({"preset": "editgrpo", "prior_policy": "libra"}, "name two presets"),
    ],
)
def test_options_that_contradict_are_refused(raw: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(NotThisSource, match=message):
        read_all("mimic_cxr", raw, **given)


@pytest.mark.parametrize(
    "place",
    ["mimic-cxr/{}.txt", "mimic-cxr-jpg/{}.txt", "mimic-cxr-jpg/{}/{name}.txt", "{}.txt",
     "physionet.org/files/mimic-cxr/2.1.0/{}.txt", "mimic-cxr/2.0.0/mimic-cxr-reports/{}.txt"],
)  # fmt: skip
def test_reports_are_found_where_people_have_them(tmp_path: Path, place: str) -> None:
    """Beside the pictures: HKU-MedAI/MGCA issue 41; the others are PhysioNet's own, unpacked."""
    write_tables(tmp_path / "mimic-cxr-jpg", [ROW | {"dicom_id": dicom(1), "study_id": "50000001"}])
    picture = tmp_path / "mimic-cxr-jpg" / study_file("10000001", "50000001") / f"{dicom(1)}.jpg"
    picture.parent.mkdir(parents=True)
    file = place.format(study_file("10000001", "50000001"), name="s50000001")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(report(True))
    [sample] = kept(read_all("mimic_cxr", tmp_path)["train"])
    assert (sample.file, sample.answer) == (file, "The lungs are clear.")


@pytest.mark.parametrize("folder", ["", "mimic-cxr-reports/"])
def test_reports_in_a_zip_beside_the_tables(tmp_path: Path, rows: Rows, folder: str) -> None:
    write_tables(tmp_path / "mimic-cxr-jpg", rows[:40])
    write_reports(tmp_path / "mimic-cxr-jpg/mimic-cxr-reports.zip", rows[:40], folder)
    assert any(kept(found) for found in read_all("mimic_cxr", tmp_path).values())


def test_a_tree_without_reports_says_so_in_one_line(tmp_path: Path, rows: Rows) -> None:
    write_tables(tmp_path / "mimic-cxr-jpg", rows)
    (tmp_path / "mimic-cxr-jpg/files/p10").mkdir(parents=True)
    done = call_module("builders.mimic_cxr", "--raw", str(tmp_path), "--out", str(tmp_path / "out"), "--quiet")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "no reports: not one of 2,000 studies has its s<study>.txt" in done.stderr


def test_help_explains_the_presets_in_ten_lines() -> None:
    text = call_module("builders.mimic_cxr", "--help").stdout
    [lines] = [part.splitlines() for part in text.split("\n\n") if part.startswith("Presets")]
    assert len(lines) <= 11 and all(len(line) <= 120 for line in lines)
    assert [word for word in ("single", "ours", "editgrpo", "libra") if any(line.startswith(word) for line in lines)]


PAIRS: dict[str, Any] = {
    "libra": lambda pairs: [
        {"main_image": {"path": f"{a}.jpg"}, "prior_image": {"path": f"{b}.jpg"}} for a, b in pairs
    ],
    "mlrg": lambda pairs: {
        "test": [
            {
                "anchor_scan": {"image_path": [f"p10/{a}.jpg"]},
                "auxiliary_references": {"image_path": []},
                "prior_study": None if a == b else {"latest_study": {"image_path": f"p10/{b}.jpg"}},
            }
            for a, b in pairs
        ]
    },
    "list": lambda pairs: [{"image": [f"files/{a}.jpg", f"files/{b}.jpg"], "conversations": []} for a, b in pairs],
}


def test_pairs_of_others_are_compared(tmp_path: Path) -> None:
    rows = [
        {"dicom_id": dicom(1), "study_id": "50000001", "ViewPosition": "AP"},
        {"dicom_id": dicom(2), "study_id": "50000001"},
        {"dicom_id": dicom(3), "study_id": "50000002", "StudyDate": "21800201"},
        {"dicom_id": dicom(4), "study_id": "50000003", "StudyDate": "21800301"},
        {"dicom_id": dicom(5), "study_id": "50000004", "StudyDate": "21800401"},
    ]
    one(tmp_path / "raw", rows)
    # 4 was shown with 2 instead of 3; 9 is in no build; 1 has no prior.
    pairs = [(dicom(a), dicom(b)) for a, b in ((1, 1), (3, 2), (4, 2), (5, 5), (9, 1))]
    table = tmp_path / "pairs.json"
    table.write_text(json.dumps(PAIRS["libra"](pairs)))
    summary = build(tmp_path / "raw", tmp_path / "out", "--preset", "libra", "--compare-pairs", str(table))
    assert summary["said"][0] == "pairs.json: 2 of 5 published pairs agree (40.0 %)"
    assert {line.strip() for line in summary["said"][1:]} == {
        "1  no prior on either side", "1  the same prior picture", "1  another prior study",
        "1  a prior here, none there", "1  the current picture is not in this build",
    }  # fmt: skip
    assert "compare_pairs" not in summary["parameters"]
    for form in PAIRS:
        table.write_text(json.dumps(PAIRS[form](pairs)))
        assert comparison(str(table))(Path(summary["target"])) == summary["said"]
    pq.write_table(pa.Table.from_pylist(PAIRS["libra"](pairs)), tmp_path / "pairs.parquet")
    assert comparison(str(tmp_path / "pairs.parquet"))(Path(summary["target"]))[1:] == summary["said"][1:]


def test_a_table_without_pairs_is_refused_before_anything_is_built(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "pairs.csv").write_text("id,text\n1,a\n")
    done = call_module(
        "builders.mimic_cxr",
        "--raw",
        str(raw),
        "--out",
        str(tmp_path / "out"),
        "--compare-pairs",
        str(tmp_path / "pairs.csv"),
    )
    assert done.returncode == 2 and "none of 1 rows names a picture by its DICOM id" in done.stderr
    assert not (tmp_path / "out").exists()
