"""MMMU-Pro-Med: options of the row, shared ids, rows without pixels, real rows."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outcomes import kept, read_all, source_of
from picture_trees import PRO_4, PRO_10, by_key, said

from builders.demos.drawings import demo_picture
from builders.engine.command import main
from builders.engine.mmmu import IMAGE_COLUMNS
from builders.engine.source import InputError, Reject

REAL_PRO = Path(__file__).parents[3] / "shared/data/mmmu_pro"


def test_mmmu_and_pro_demos_share_two_question_ids(demos: dict[str, Path]) -> None:
    plain, pro = (
        {
            sample.group["question_id"]: sample
            for found in read_all(name, demos[name], no_images=False).values()
            for sample in kept(found)
        }
        for name in ("mmmu_med", "mmmu_pro_med")
    )
    shared = plain.keys() & pro.keys()
    assert shared == {"mmmu/validation_Pharmacy_1", "mmmu/validation_Public_Health_2"}
    for key in shared:
        assert plain[key].question == pro[key].question
        assert {image.read() for image in plain[key].images} == {image.read() for image in pro[key].images}


def test_pro_labels_come_from_the_row_and_tokens_name_columns(demos: dict[str, Path]) -> None:
    outcomes = read_all("mmmu_pro_med", demos["mmmu_pro_med"], no_images=False)
    sizes = {split: [len(sample.options or []) for sample in kept(found)] for split, found in outcomes.items()}
    assert sizes == {"test_4": [4, 4, 4, 4, 4, 4], "test_10": [10, 4, 4, 10, 10, 10]}
    for found in outcomes.values():
        sample = by_key(found)["test_Pharmacy_3"]
        name = "mmmu-pro/test_Pharmacy_3"
        assert said(sample, 0).endswith(
            f"\n\nA. None\nB. {{{name}/image_2}}\nC. {{{name}/image_1}}\nD. {{{name}/image_3}}"
        )
        assert sample.answer == "B"
        assert [image.read() for image in sample.images] == [
            demo_picture(f"test_Pharmacy_3/image_{number}") for number in (2, 1, 3)
        ]
    [other] = [outcome for outcome in outcomes["test_4"] if isinstance(outcome, Reject)]
    assert (other.row, other.detail) == ("4", "Accounting")


def test_pro_reads_json_lines_without_pixels_only_where_there_is_no_parquet(
    tree: Callable[[str], Path], tmp_path: Path
) -> None:
    raw = tree("mmmu_pro_med")
    rows = pq.read_table(raw / PRO_10).to_pylist()
    lines = [json.dumps({name: row[name] for name in row if name not in IMAGE_COLUMNS}) for row in rows]
    (raw / PRO_10).with_name("test_no_pixels.jsonl").write_text("\n".join(lines))
    both = read_all("mmmu_pro_med", raw)
    assert len(both["test_10"]) == len(rows)
    (raw / PRO_10).unlink()
    shutil.rmtree((raw / PRO_4).parent)
    alone = read_all("mmmu_pro_med", raw)
    assert alone.keys() == {"test_10"}
    assert [s.messages for s in kept(alone["test_10"])] == [s.messages for s in kept(both["test_10"])]
    with pytest.raises(InputError, match=r"missing_image \(this copy has no pixels\)"):
        kept(alone["test_10"])[0].images[0].read()


@pytest.fixture(scope="session")
def real_pro() -> list[dict[str, Any]]:
    path = REAL_PRO / "standard (10 options)/test_medical_no_pixels.jsonl"
    if not path.is_file():
        pytest.skip(f"no real rows at {path}")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_real_mmmu_pro_rows_against_published_counts(real_pro: list[dict[str, Any]]) -> None:
    outcomes = read_all("mmmu_pro_med", REAL_PRO)
    samples = kept(outcomes["test_10"])
    assert outcomes.keys() == {"test_10"} and len(outcomes["test_10"]) == len(samples) == len(real_pro) == 286
    assert Counter(sample.subset for sample in samples) == {
        "Basic_Medical_Science": 52,
        "Clinical_Medicine": 59,
        "Diagnostics_and_Laboratory_Medicine": 60,
        "Pharmacy": 57,
        "Public_Health": 58,
    }
    sizes = Counter(len(sample.options or []) for sample in samples)
    assert (sizes[10], sizes[9], sizes[4], sum(sizes.values()) - sizes[10]) == (204, 27, 18, 82)
    assert sum(sample.group["question_id"].startswith("mmmu/validation_") for sample in samples) == 92
    images = [len(sample.images) for sample in samples]
    mean = sum(images) / 286
    deviation = (sum((count - mean) ** 2 for count in images) / 286) ** 0.5
    assert (round(mean, 2), round(deviation, 2)) == (1.13, 0.56)


def test_real_mmmu_pro_rows_one_by_one(real_pro: list[dict[str, Any]]) -> None:
    samples = kept(read_all("mmmu_pro_med", REAL_PRO)["test_10"])
    for row, sample in zip(real_pro, samples, strict=True):
        options = ast.literal_eval(row["options"])
        assert sample.key == row["id"]
        assert [text for _, text in sample.options or []] == options
        assert sample.answer == row["answer"]
        asked = row["question"] + "\n\n" + "\n".join(f"{chr(65 + i)}. {text}" for i, text in enumerate(options))
        tokens = re.findall(r"<image (\d+)>", asked)
        assert [image.image_id for image in sample.images] == [
            f"mmmu-pro/{row['id']}/image_{number}" for number in tokens
        ]
        expected = re.sub(r"<image (\d+)>", rf"{{mmmu-pro/{row['id']}/image_\1}}", asked)
        assert "".join(said(sample, 0).split()) == "".join(expected.split())
        assert row["id"].split("_", 1)[1].rsplit("_", 1)[0] == sample.subset


def test_a_picture_without_a_token_is_shown_and_counted(tree: Callable[[str], Path], tmp_path: Path) -> None:
    """The paper's mean of 1.14 pictures is three more than the tokens name (326 of 323)."""
    raw = tree("mmmu_pro_med")
    path = next(raw.glob("standard (4 options)/*.parquet"))
    table = pq.read_table(path)
    rows = table.to_pylist()
    named = next(row for row in rows if row["subject"] == "Pharmacy" and "<image 1>" in row["question"])
    named["image_2"] = named["image_1"]
    bare = next(row for row in rows if row["subject"] == "Clinical_Medicine")
    bare["question"] = "What is shown?"
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    samples = {sample.key: sample for sample in kept(read_all("mmmu_pro_med", raw)["test_4"])}
    first, second = samples[named["id"]], samples[bare["id"]]
    assert [image.image_id[-7:] for image in first.images] == ["image_2", "image_1"]
    places = [part["index"] for part in first.messages[0]["content"] if part["type"] == "image"]
    assert places == [0, 1] and first.messages[0]["content"][0]["type"] == "image"
    assert len(second.images) == sum(bool(bare[f"image_{number}"]) for number in range(1, 8))
    assert main(source_of("mmmu_pro_med"), ["--raw", str(raw), "--out", str(tmp_path), "--quiet", "--no-images"]) == 0
    parameters = json.loads((tmp_path / "mmmu_pro_med/build.json").read_bytes())["parameters"]
    assert parameters["noticed"][0].startswith("2 questions have a picture that no <image i> names")
    assert parameters["shown_unnamed"] == [{"question": row["id"]} for row in rows if row in (named, bare)]
