"""Overlaid text, screens, the quarantine of burned-in text: drawn pictures with known truth, real ones if present."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from builders.engine.command import main as build_main
from builders.engine.rawfiles import read_bytes, text_of
from builders.engine.source import Image as SourceImage
from builders.engine.source import Sample, Source, assistant, user
from builders.engine.tables import convert_rows, table_units
from filters.base import Filter, FilterError, Picture, Record, filter_class
from filters.burned_in import BOX_KINDS, QUARANTINE, BurnedIn, TextBox, boxes_text, read_boxes
from filters.decide import main as decide_main
from filters.recipe import DEFAULT_RECIPE, load_recipe
from filters.scores import run_build
from filters.selection import Decision, decide_build
from medgpt.errors import UserError

pytest.importorskip("cv2")
pytest.importorskip("onnxruntime")

from filters.overlaid_text import MARKERS, OverlaidText, kind, weight
from filters.plots import Plots
from filters.screens import Screens
from filters.text_regions import CELL, Line, Region, TextRegions, ink, windows

GUARD = DEFAULT_RECIPE.with_name("radiographs.yaml")


def texture(seed: int, width: int = 512, height: int = 400, low: int = 90, high: int = 170) -> Image.Image:
    """Something like tissue: smooth colours of random places with noise."""
    noise = np.random.default_rng(seed)
    small = noise.integers(low, high, (9, 9, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(pixels + noise.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8))


def written(image: Image.Image, text: str, place: tuple[int, int], size: int = 20, ink: str = "white") -> Image.Image:
    ImageDraw.Draw(image).text(place, text, ink, ImageFont.load_default(size), stroke_width=1, stroke_fill="black")
    return image


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def record(*images: Image.Image, found: dict[str, Any] | None = None) -> Record:
    return Record({"messages": []}, [Picture(encoded(image)) for image in images], found or {})


def one(filter_: Filter, made: Record) -> dict[str, Any]:
    [scores] = filter_.score([made])
    assert set(scores) == set(filter_.scores)
    return dict(scores)


@pytest.fixture(scope="module")
def text() -> OverlaidText:
    import importlib.util

    if importlib.util.find_spec("rapidocr") is None:
        pytest.skip("no package rapidocr: it brings the weights")
    return OverlaidText()


# ---------------------------------------------------------------- places

PLACES = st.builds(
    lambda picture, top, left, down, across, kind_, score: TextBox(
        picture, top, left, top + down, left + across, kind_, score / 100
    ),
    st.integers(0, 3), st.integers(0, 4000), st.integers(0, 4000), st.integers(1, 500), st.integers(1, 500),
    st.sampled_from(sorted(BOX_KINDS)), st.integers(0, 100),
)  # fmt: skip


@given(st.lists(PLACES, max_size=8))
def test_places_are_read_back_as_they_were_in_one_order(places: list[TextBox]) -> None:
    assert read_boxes(boxes_text(places)) == sorted(places)
    assert boxes_text(reversed(places)) == boxes_text(places)


@pytest.mark.parametrize(
    "wrong", ["0 t 1 2 3;", "0 x 1 2 3 4 50;", "0 t 5 2 3 4 50;", "0 t 1 2 3 4 500;", "abc", "a b;"]
)
def test_what_are_no_places_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError):
        read_boxes(wrong)


# ---------------------------------------------------------------- where ink may be


@given(st.integers(0, 10_000), st.floats(0, 0.4), st.integers(1, 40), st.integers(1, 40), st.integers(0, 400_000))
def test_windows_stay_in_budget_and_picture_and_meet_no_other(
    seed: int, share: float, rows: int, columns: int, budget: int
) -> None:
    cells = np.random.default_rng(seed).random((rows, columns)) < share
    height, width = rows * CELL + seed % CELL, columns * CELL + seed % 7
    found = windows(cells, height, width, budget)
    assert sum(window.area for window in found) <= budget
    covered = np.zeros((height, width), int)
    for window in found:
        assert 0 <= window.left < window.right <= width and 0 <= window.top < window.bottom <= height
        covered[window.top : window.bottom, window.left : window.right] += 1
    assert covered.max(initial=0) <= 1
    if budget >= height * width:  # then no cell with ink is left out
        inside = covered[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL).all(axis=(1, 3))
        assert inside[cells].all()


def test_ink_lies_where_something_is_written_and_nowhere_else() -> None:
    image = Image.new("RGB", (320, 160), "black")
    assert not any(mask.any() for mask in ink(np.asarray(image)))
    hard, _ = ink(np.asarray(written(image, "Patient 4021", (160, 64), 16)))
    rows, columns = np.nonzero(hard)
    assert len(rows) >= 4
    assert rows.min() * CELL >= 48 and rows.max() * CELL <= 96 and columns.min() * CELL >= 144


# ---------------------------------------------------------------- what was read


def line(text_: str, confidence: float = 0.95, height: float = 0.05) -> Line:
    return Line(Region(0.1, 0.1, 0.3, 0.1 + height, 0.9), confidence, text_)


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        ("L", "marker"), ("R", "marker"), ("AP", "marker"), ("PORTABLE", "marker"), ("AP UPRIGHT", "marker"),
        ("PORTABIE", "marker"), ("APPORTABLE", "marker"), ("1R", "marker"), ("(L)", "marker"),
        ("SEMI-SENTADO", "marker"), ("A LETTO", "marker"), ("APSEDEST", "marker"), ("Auf Liegend", "marker"),
        ("A", "panel_letter"), ("(A)", "panel_letter"), ("b", "panel_letter"), ("C1", "panel_letter"),
        ("c.", "panel_letter"),
        ("SMITH, JOHN", "text"), ("AP SMITH", "text"), ("100 µm", "text"), ("12.03.2019", "text"), ("H&E", "text"),
        ("肺", "nothing"), ("111", "nothing"), ("", "nothing"), ("-.-", "nothing"),
    ],
)  # fmt: skip
def test_markers_letters_and_text_are_told_apart(read: str, expected: str) -> None:
    assert kind(line(read), 500) == expected
    assert kind(line(read, confidence=0.4), 500) == "nothing"


@given(st.sampled_from(sorted(MARKERS)), st.sampled_from(sorted(MARKERS)))
def test_any_two_markers_are_no_text(first: str, second: str) -> None:
    assert kind(line(f"{first} {second}"), 500) == "marker"
    assert kind(line(f"{first.lower()} 4021 {second}"), 500) == "text"


def test_a_large_texture_is_no_line_of_text() -> None:
    assert kind(line("8888 88", height=0.5), 500) == "nothing"
    assert kind(line("Tumour", height=0.5), 80) == "text"


@given(st.text(string.printable, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_more_confidence_never_counts_less(read: str, low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert 0 <= weight(line(read, low)) <= weight(line(read, high)) <= 1


def test_what_was_read_is_not_shown() -> None:
    assert "SMITH" not in repr(line("SMITH, JOHN"))


# ---------------------------------------------------------------- the filter

SEEDS = range(6)


def test_writing_is_found_where_it_was_put(text: OverlaidText) -> None:
    right = 0
    for seed in SEEDS:
        rule = random.Random(seed)
        words = rule.choice(("Patient 4021", "12/03/2019 14:05", "Kidney biopsy", "Slice 34/120"))
        x, y = rule.randint(10, 250), rule.randint(10, 340)
        assert one(text, record(texture(seed)))["text"] < 0.5
        scores = one(text, record(written(texture(seed), words, (x, y), rule.choice((16, 20, 26)))))
        places = [place for place in read_boxes(scores["places"]) if place.kind == "t"]
        right += (
            scores["text"] >= 0.5
            and scores["boxes"] >= 1
            and 0 < scores["area"] < 0.2
            and all(abs(place.left - x) < 150 and abs(place.top - y) < 40 for place in places)
        )
    assert right >= len(SEEDS) - 1


def test_letters_and_markers_have_scores_of_their_own(text: OverlaidText) -> None:
    found = {"markers": 0, "panel_letters": 0}
    for seed in SEEDS:
        for name, sign in (
            ("markers", ("R", "AP", "PORTABLE")[seed % 3]),
            ("panel_letters", ("A", "B", "(c)")[seed % 3]),
        ):
            scores = one(text, record(written(texture(seed), sign, (20, 16), 28)))
            assert scores["text"] < 0.5
            assert scores["boxes"] == 0
            found[name] += scores[name] == 1
    assert found["markers"] >= len(SEEDS) - 1
    assert found["panel_letters"] >= len(SEEDS) - 2  # a lone "(c)" on tissue is easily overlooked


def test_a_scale_bar_counts_as_text(text: OverlaidText) -> None:
    image = texture(3, low=200, high=240)
    ImageDraw.Draw(image).rectangle((380, 370, 470, 374), fill="black")
    ImageDraw.Draw(image).text((400, 350), "100 µm", "black", ImageFont.load_default(16))
    assert one(text, record(image))["text"] >= 0.5


def test_places_are_pixels_of_the_whole_picture_also_where_it_is_turned(text: OverlaidText) -> None:
    # Large enough to be reduced before anybody looks at it.
    image = written(Image.new("RGB", (2600, 1900), "black"), "SMITH, JOHN", (1500, 1200), 90)
    upright = one(text, record(image))
    [place] = [place for place in read_boxes(upright["places"]) if place.kind == "t"]
    assert abs(place.left - 1500) < 40 and abs(place.top - 1220) < 50 and 40 < place.bottom - place.top < 180
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    buffer = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95, exif=exif)
    turned = one(text, Record({"messages": []}, [Picture(buffer.getvalue())]))
    [again] = [place for place in read_boxes(turned["places"]) if place.kind == "t"]
    assert max(abs(again.left - place.left), abs(again.bottom - place.bottom)) <= 8


def test_no_score_depends_on_the_batch_and_the_clearest_picture_counts(text: OverlaidText) -> None:
    plain, named = texture(1), written(texture(2), "Patient 4021", (40, 40))
    records = [record(plain), record(named), record(plain, named)]
    alone = [text.score([made])[0] for made in records]
    assert text.score(records) == alone
    assert text.score(records[::-1])[::-1] == alone
    assert alone[2] | {"places": ""} == alone[1] | {"places": ""}
    assert {place.picture for place in read_boxes(str(alone[2]["places"]))} == {1}


def test_nothing_that_was_read_is_in_a_score(text: OverlaidText) -> None:
    scores = one(text, record(written(texture(1), "ZWICKENPFLUG", (40, 40), 26)))
    assert scores["text"] >= 0.5
    assert scores["characters"] >= 5
    assert "ZWICK" not in json.dumps(scores).upper()


@pytest.mark.parametrize("size", [(1, 1), (1, 600), (600, 1), (15, 15), (33, 31), (9000, 20)])
def test_odd_sizes_are_scored(text: OverlaidText, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    made = record(Image.fromarray(noise))
    assert one(text, made)["text"] == 0
    for filter_ in (Screens(), Plots()):
        assert all(0 <= value <= 1 for value in one(filter_, made).values())


def test_a_sample_without_pictures_has_no_score(text: OverlaidText) -> None:
    for filter_ in (text, Screens(), Plots()):
        assert set(one(filter_, record()).values()) == {None}


@pytest.mark.parametrize("what", ["absent", "other"])
def test_a_missing_model_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str) -> None:
    import importlib.util

    spec = None
    if what == "other":
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "ch_PP-OCRv4_det_mobile.onnx").write_bytes(b"another model")
        spec = importlib.util.spec_from_loader("rapidocr", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(FilterError, match=r"rapidocr.*3\.8\.4") as caught:
        TextRegions()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["onnxruntime", "cv2"])
def test_a_missing_extra_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # import raises ImportError
    for name in ("overlaid_text", "text_regions"):
        monkeypatch.delitem(sys.modules, f"filters.{name}")
    with pytest.raises(UserError, match=rf"{module}.*pip install 'medgpt-oss\[filters\]'"):
        filter_class("overlaid_text")()


# ---------------------------------------------------------------- screens


def dialog(seed: int) -> Image.Image:
    """Labels with fields beside them and two buttons, on even grey."""
    rule = random.Random(seed)
    grey = rule.randint(215, 245)
    image = Image.new("RGB", (560, 420), (grey, grey, grey))
    draw = ImageDraw.Draw(image)
    for row in range(rule.randint(5, 10)):
        y = 20 + 34 * row
        draw.text(
            (16, y + 4),
            rule.choice(("Threshold", "Pixel size", "Channel", "Name")),
            "black",
            ImageFont.load_default(14),
        )
        draw.rectangle((200, y, 540, y + 25), fill="white", outline=(grey - 40,) * 3)
    for x in (330, 440):
        draw.rectangle((x, 380, x + 95, 408), outline=(grey - 50,) * 3)
        draw.text((x + 20, 384), "Cancel", "black", ImageFont.load_default(14))
    return image


def plot(seed: int) -> Image.Image:
    """Axes with ticks and three curves, on white."""
    rule = random.Random(seed)
    image = Image.new("RGB", (560, 420), "white")
    draw = ImageDraw.Draw(image)
    draw.line((60, 20, 60, 370, 540, 370), "black", 2)
    for tick in range(8):
        draw.text((40 + 64 * tick, 378), f"{tick * 10}", "black", ImageFont.load_default(13))
        draw.text((24, 360 - 48 * tick), f"{tick / 10}", "black", ImageFont.load_default(13))
    for colour in ("blue", "red", "green"):
        level = rule.randint(120, 300)
        points = [(x, level := min(360, max(30, level + rule.randint(-14, 10)))) for x in range(62, 540, 12)]
        draw.line(points, colour, 2)
    return image


def kinds_of(image: Image.Image) -> dict[str, Any]:
    return one(Screens(), record(image)) | one(Plots(), record(image))


def test_dialogs_are_screens_plots_are_plots_and_pictures_neither() -> None:
    windows = [kinds_of(dialog(seed)) for seed in range(4)]
    assert sum(window["screen"] >= 0.5 for window in windows) >= 3  # made ones have no window's frame
    for seed, window in enumerate(windows):
        assert max(window, key=lambda kind: window[kind]) == "screen"
        drawn = kinds_of(plot(seed))
        assert (drawn["plot"] >= 0.5, drawn["screen"] < 0.5) == (True, True)
        for image in (texture(seed), written(texture(seed), "Kidney biopsy, Case 7", (40, 20), 26)):
            scores = kinds_of(image)
            assert max(scores["screen"], scores["plot"]) < 0.5


def test_of_several_pictures_the_likeliest_screen_and_plot_count() -> None:
    window, curves, both = kinds_of(dialog(1)), kinds_of(plot(1)), record(dialog(1), plot(1))
    assert one(Screens(), both)["screen"] == max(window["screen"], curves["screen"])
    assert one(Plots(), both) == one(Plots(), record(plot(1), dialog(1))) == one(Plots(), record(plot(1)))


# ---------------------------------------------------------------- burned-in text

PICTURES = (
    ("named", [(60, 40, "SMITH, JOHN 4021")]),
    ("marked", [(420, 30, "L")]),
    ("clean", []),
    ("dated", [(30, 340, "12/03/2019 14:05"), (420, 30, "AP")]),
)


REPORTS = {"named": "No effusion.", "marked": "Clear lungs.", "clean": "Normal heart.", "dated": "Small nodule."}


def _plan(raw: Path, params: Mapping[str, Any]) -> Iterator[Any]:
    yield from table_units(raw, [raw / "train.jsonl"], "train", "train")


def _sample(raw: Path, row: Any) -> Sample:
    name = text_of(row.values, "id", row.file)
    place = f"{name}.png"
    return Sample(
        key=name,
        messages=[user(0, "Report?"), assistant(REPORTS[name])],
        file=row.file,
        row=row.number,
        answer=REPORTS[name],
        images=[SourceImage(name, place, partial(read_bytes, raw / place, raw))],
    )


def _read(raw: Path, unit: Any, params: Mapping[str, Any]) -> Iterator[Any]:
    return convert_rows(raw, unit, partial(_sample, raw))


SOURCE = Source(
    name="mimic_cxr", title="-", homepage="-", revision="1", license="-", access="credentialed", stage="instruct",
    task="report", modality="image-text", splits={"train": "train"}, obtain="-", plan=_plan, read=_read,
    published=lambda params: {"train": 4}, module="test_text_filters",
)  # fmt: skip


def radiograph(seed: int, lines: Sequence[tuple[int, int, str]]) -> Image.Image:
    image = texture(seed, low=20, high=90).convert("L").convert("RGB")
    for x, y, words in lines:
        written(image, words, (x, y), 22)
    return image


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory, text: OverlaidText) -> Path:
    """DATA with a scored build of four grey pictures, two of them with burned-in text."""
    data = tmp_path_factory.mktemp("radiographs")
    raw = data / "raw"
    raw.mkdir()
    for seed, (name, lines) in enumerate(PICTURES):
        (raw / f"{name}.png").write_bytes(encoded(radiograph(seed, lines)))
    (raw / "train.jsonl").write_text("".join(json.dumps({"id": name}) + "\n" for name, _ in PICTURES))
    arguments = ["--raw", str(raw), "--out", str(data / "built"), "--quiet", "--workers", "1"]
    assert build_main(SOURCE, arguments) == 0
    run_build(data / "built" / "mimic_cxr", data, load_recipe(GUARD))
    return data


def decided(data: Path, recipe: Path) -> Decision:
    decision = decide_build(data / "built" / "mimic_cxr", data, load_recipe(recipe), gallery=False)
    assert decision is not None
    return decision


def test_burned_in_text_is_set_aside_with_its_boxes(radiographs: Path, text: OverlaidText) -> None:
    decision = decided(radiographs, GUARD)
    path = decision.folder / "quarantine.parquet"
    rows = {row["sample_id"].rpartition("/")[2]: row for row in pq.read_table(path).to_pylist()}
    assert set(rows) == {"named", "dated"}
    assert pq.read_table(path).schema.equals(QUARANTINE, check_metadata=False)
    for seed, (name, lines) in enumerate(PICTURES):
        # A second way: what the text filter says of the same picture, directly.
        places = read_boxes(one(text, record(radiograph(seed, lines)))["places"])
        expected = [place for place in places if place.kind not in "mp"]
        if name not in rows:
            assert not expected
            continue
        row = rows[name]
        boxes = {(box["left"], box["top"], box["right"], box["bottom"]) for box in row["boxes"]}
        assert boxes == {(place.left, place.top, place.right, place.bottom) for place in expected}
        assert (row["image"], row["score"]) == (0, max(box["score"] for box in row["boxes"] if box["read"]))
        x, y, _ = lines[0]
        assert any(abs(left - x) < 30 and top - 10 < y + 12 < bottom + 10 for left, top, _, bottom in boxes)
        assert not any(left > 380 for left, *_ in boxes)  # that is where the markers are
    assert decision.waterfall["quarantine"] == {
        "file": "quarantine.parquet", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "samples": 2,
        "pictures": 2, "boxes": sum(len(row["boxes"]) for row in rows.values()),
    }  # fmt: skip
    assert (decision.waterfall["kept"], decision.waterfall["reasons"]) == (2, {"burned_in": 2})


def test_no_file_of_scores_or_decisions_holds_what_was_read(radiographs: Path) -> None:
    decided(radiographs, GUARD)
    for folder in ("scores", "filtered"):
        for path in (radiographs / folder).rglob("*.parquet"):
            found = json.dumps(pq.read_table(path).to_pylist(), default=repr).upper()
            assert "SMITH" not in found and "4021" not in found and "2019" not in found


def test_the_same_scores_give_the_same_quarantine_and_another_recipe_its_own(
    radiographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = decided(radiographs, GUARD).folder / "quarantine.parquet"
    before = path.read_bytes()
    path.unlink()
    assert decide_main([str(radiographs), "--recipe", str(GUARD), "--no-gallery"]) == 0
    said = capsys.readouterr().out
    assert path.read_bytes() == before
    assert "on 2 pictures" in said and str(path) in said
    listed = GUARD.read_text()
    listing = tmp_path / "listing.yaml"  # without a threshold, everything with boxes is listed and nothing taken out
    listing.write_text(re.sub(r"burned_in: .*", "burned_in: {after: [overlaid_text]}", listed))
    decision = decided(radiographs, listing)
    assert decision.waterfall["kept"] == 4
    assert {row["sample_id"].rpartition("/")[2] for row in pq.read_table(path).to_pylist()} >= {"named", "dated"}
    silent = tmp_path / "silent.yaml"  # a recipe that does not name it leaves no quarantine of another one behind
    silent.write_text(re.sub(r" +burned_in: .*\n", "", listed))
    assert "quarantine" not in decided(radiographs, silent).waterfall
    assert not path.exists()


def test_burned_in_without_the_text_filter_is_one_clear_line_and_no_picture_has_no_score() -> None:
    with pytest.raises(FilterError, match="after: \\[overlaid_text\\]"):
        BurnedIn().score([Record({"messages": []})])
    nothing = {"overlaid_text.text": None, "overlaid_text.places": None}
    assert one(BurnedIn(), Record({"messages": []}, (), nothing)) == {"score": None, "boxes": None, "places": None}


@given(st.lists(PLACES, max_size=8), st.floats(0, 1))
def test_markers_and_letters_are_no_burned_in_text(places: list[TextBox], score: float) -> None:
    found = {"overlaid_text.text": score, "overlaid_text.places": boxes_text(places)}
    scores = one(BurnedIn(), Record({"messages": []}, (), found))
    assert scores["score"] == score
    left = [place for place in places if BOX_KINDS[place.kind] in {"text", "unread"}]
    assert (scores["boxes"], read_boxes(scores["places"])) == (len(left), sorted(left))


# ---------------------------------------------------------------- together, and on real pictures


def test_the_default_recipe_asks_what_a_picture_is_before_what_is_written_on_it() -> None:
    recipe = load_recipe(DEFAULT_RECIPE)
    for source in recipe.sources:
        plan = recipe.plan(source)
        assert plan is not None
        steps = {step.name: step for step in plan.steps}
        names = list(steps)
        for name in ("screens", "plots"):
            assert names.index(name) < names.index("overlaid_text")
            assert steps[name].drop is not None and steps[name].not_scored == "drop"


# Of the half that was tuned on: a dialog, a viewer, figures and tissue; the labels are those of labels.csv.
@pytest.mark.parametrize(
    ("name", "has_text", "is_screen"),
    [
        ("03b1c4", True, True), ("50b958", True, True), ("3e0c05", True, True),
        ("ca7c02", True, True), ("fe916c", True, True), ("d1d6b5", True, True),
        ("522297", True, False), ("a3cf78", False, False), ("f9bd43", False, False), ("c8cbe5", False, False),
    ],
)  # fmt: skip
def test_real_pictures(text: OverlaidText, real_data: Path, name: str, has_text: bool, is_screen: bool) -> None:
    [file] = (real_data / "artifacts" / "images").glob(f"{name}*")
    made = Record({"messages": []}, [Picture(file.read_bytes())])
    assert (one(text, made)["text"] >= 0.5) == has_text
    assert (one(Screens(), made)["screen"] >= 0.5) == is_screen


def test_real_radiographs_without_writing_have_none(text: OverlaidText, real_data: Path) -> None:
    # Read by eye; of the half that was tuned on.
    for start in ("aedf7cfe", "023a8436", "6ade9d2a", "45e41a64", "43d5ff61", "5b111545"):
        [file] = (real_data / "cxr_mimic_layout" / "mimic-cxr-jpg").rglob(f"{start}*.jpg")
        assert one(text, Record({"messages": []}, [Picture(file.read_bytes())]))["text"] < 0.5, start
