"""Near-duplicate pictures: changed copies are found, different pictures are not, nothing depends on how work is cut."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from bench.near_images import BETWEEN, SAME_PERSON, TRANSFORMATIONS, bars, image_table, opened, sources, stored
from bench.picture_changes import OVERLAYS, seeded
from manifests.fingerprints import HASH_PIXELS, ImageFingerprint, perceptual_hash
from manifests.proof import agreement as agreement_module
from manifests.proof import near_images
from manifests.proof.agreement import Whole, agreement, cells, coarse_scores, flat, full_agreement
from manifests.proof.near_images import NearImageIndex, coverage
from manifests.proof.policy import ImageSettings, load_policy
from manifests.proof.variants import (
    IDENTITY,
    REGION_VARIANTS,
    REGIONS,
    TURN_BETWEEN,
    TURNS,
    VARIANTS,
    PictureError,
    coefficients,
    decode,
    oriented_hashes,
    perceptual_hashes,
    plain_hashes,
    turn_name,
    turned,
)


def phantom(seed: int, size: tuple[int, int] = (360, 300)) -> Image.Image:
    """A picture with structure at many scales, another for every seed: smooth noise over a bright oval."""
    random = np.random.default_rng(seed)
    width, height = size
    values = np.zeros((height, width))
    for cells_across, weight in ((4, 40), (9, 30), (20, 22), (45, 14)):
        noise = Image.fromarray(random.normal(0, 1, (cells_across, cells_across)).astype(np.float32))
        values += weight * np.asarray(noise.resize(size, Image.Resampling.BICUBIC))
    y, x = np.mgrid[0:height, 0:width]
    oval = 60 * np.exp(-(((x / width - 0.5) / 0.35) ** 2) - ((y / height - 0.5) / 0.4) ** 2)
    return Image.fromarray(np.clip(90 + values + oval, 0, 255).astype(np.uint8))


def prints_of(pictures: list[Image.Image]) -> tuple[list[bytes], list[ImageFingerprint]]:
    made = [stored(picture) for picture in pictures]
    return [data for data, _ in made], [print_ for _, print_ in made]


def nothing(row: int) -> bytes | None:
    return None


PICTURES = [phantom(seed, (360, 300) if seed % 2 else (280, 340)) for seed in range(6)]
DATA, PRINTS = prints_of(PICTURES)
EVALS = image_table(PRINTS, ["default"] * len(PRINTS))
BY_NAME = {variant.name: number for number, variant in enumerate(VARIANTS)}
SETTINGS = load_policy().images
INDEX = NearImageIndex(EVALS, SETTINGS)
THUMBNAILS = np.stack([decode(print_.thumbnail) for print_ in PRINTS])


@pytest.mark.parametrize("name", [*TRANSFORMATIONS, *BETWEEN])
def test_every_transformation_is_found_and_no_other_picture(name: str) -> None:
    change = {**TRANSFORMATIONS, **BETWEEN}[name]
    data, changed = prints_of([change(picture) for picture in PICTURES])
    found = INDEX.scan(image_table(changed, ["-"] * len(changed)), data.__getitem__, DATA.__getitem__)
    assert [(match.train, match.eval) for match in found.pairs] == [(row, row) for row in range(len(PICTURES))]
    assert all(match.score >= SETTINGS["default"].threshold for match in found.pairs)


def test_variants_that_name_a_transformation_are_the_ones_matched() -> None:
    expected = {
        "mirrored": "mirror",
        "quarter turn": "turn_90",
        "inverted": "inverted",
        "black bars left and right, 30 % each": "without_borders",
    }
    for name, variant in expected.items():
        _, changed = prints_of([(TRANSFORMATIONS | BETWEEN)[name](picture) for picture in PICTURES])
        found = INDEX.scan(image_table(changed, ["-"] * 6), nothing, nothing)
        assert {match.variant.partition("+")[0] for match in found.pairs} == {variant}


def test_a_burnt_in_label_is_found_by_regions_and_the_match_says_so() -> None:
    _, changed = prints_of([TRANSFORMATIONS["text label"](picture) for picture in PICTURES])
    strict = {"default": ImageSettings(radius=0, region_radius=8, threshold=0.75, borderline=0.6)}
    found = NearImageIndex(EVALS, strict).scan(image_table(changed, ["-"] * 6), nothing, nothing)
    assert [(match.train, match.eval, match.kind) for match in found.pairs] == [
        (row, row, "region") for row in range(6)
    ]


def oriented(picture: np.ndarray, place: int, unsure: float = 0.0) -> list[tuple[int, int]]:
    """(turn, hash) of a thumbnail's region, or of the whole: place 5."""
    _, turns, hashes = oriented_hashes(coefficients(picture[None]).low[:, place], unsure)
    return list(zip(turns.tolist(), hashes.tolist(), strict=True))


def test_candidates_are_all_pairs_within_the_radius_and_no_other() -> None:
    """Against plain loops over public functions: whole hashes of all variants, region hashes at the same place."""
    changed = [change(picture) for change in (*TRANSFORMATIONS.values(),) for picture in PICTURES[:3]]
    _, train = prints_of(changed)
    # Near hashes of unrelated pictures do not occur among so few: a radius of 16 makes some.
    wide = ImageSettings(radius=16, region_radius=10, threshold=0.75, borderline=0.6)
    index = NearImageIndex(EVALS, {"default": wide})
    layout = np.array([[0, 9, 1], [9, 2, 9], [3, 9, 4]], np.uint8)
    evals = []
    for other, thumbnail in zip(PRINTS, THUMBNAILS, strict=True):
        listed = []
        for variant in VARIANTS:
            varied = variant.picture(thumbnail, other.width, other.height)
            if varied is not None:
                contrast = coefficients(varied[None]).contrast[0].tolist()
                places = [k for k in range(5) if contrast[k] and variant.name in REGION_VARIANTS]
                listed += [(k, *each) for k in (*places, 5) for each in oriented(varied, k, variant.unsure)]
        evals.append(listed)
    expected = []
    for row, print_ in enumerate(train):
        picture = decode(print_.thumbnail)
        contrast = [*coefficients(picture[None]).contrast[0].tolist(), True]
        ours = {place: oriented(picture, place)[0] for place in range(6) if contrast[place]}

        def meets(there: int, turn: int, value: int, ours: dict[int, tuple[int, int]] = ours) -> bool:
            for place, (own_turn, own) in ours.items():
                shown = turned(layout, int(TURN_BETWEEN[own_turn, turn]) & ~1)
                here = place == there == 5 or (5 not in (place, there) and shown[layout == place][0] == there)
                if here and (own ^ value).bit_count() <= (16 if there == 5 else 10):
                    return True
            return False

        expected += [(row, one) for one, listed in enumerate(evals) if any(meets(*each) for each in listed)]
    assert index.candidates(image_table(train, ["-"] * len(train))) == expected
    assert any(row % 3 != one for row, one in expected)


@pytest.mark.parametrize("turn", range(TURNS))
def test_a_picture_in_any_turn_has_one_oriented_hash_and_says_which(turn: int) -> None:
    for thumbnail in THUMBNAILS:
        [(own, value)] = oriented(thumbnail, 5)
        [(other, same)] = oriented(np.ascontiguousarray(turned(thumbnail, turn)), 5)
        assert same == value
        assert TURN_BETWEEN[other, own] == turn


def test_two_changes_at_once_are_found_in_the_turn_they_are_in() -> None:
    pictures = [ImageOps.invert(TRANSFORMATIONS["cropped 8 % a side"](p)).rotate(90, expand=True) for p in PICTURES]
    data, changed = prints_of(pictures)
    found = INDEX.scan(image_table(changed, ["-"] * 6), data.__getitem__, DATA.__getitem__)
    assert [(match.train, match.eval) for match in found.pairs] == [(row, row) for row in range(6)]
    assert {match.variant for match in found.pairs} == {"crop_8+inverted_turn_90"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_are_found_and_no_other_picture(name: str) -> None:
    data, changed = prints_of([OVERLAYS[name](p, seeded(name, str(k))) for k, p in enumerate(PICTURES)])
    found = INDEX.scan(image_table(changed, ["-"] * 6), data.__getitem__, DATA.__getitem__)
    assert {match.train for match in found.pairs if match.train == match.eval} == set(range(6))
    assert all(match.train == match.eval for match in found.pairs)


def test_the_better_half_decides_only_on_whole_pictures() -> None:
    """A quarter is another picture: thumbnails stay unsure, whole pictures say that it is a copy; not of two fifths."""
    mixed = PICTURES[0].copy()
    mixed.paste(phantom(99).crop((0, 0, 280, 80)), (0, 0))
    [data], [print_] = prints_of([mixed])
    frame, same = np.array([[[1.0, 0, 0], [0, 1.0, 0]]]), np.array([False])
    small = agreement(decode(print_.thumbnail)[None], THUMBNAILS[:1], frame, same)[0]
    assert SETTINGS["radiographs"].borderline <= small < SETTINGS["radiographs"].threshold
    assert full_agreement(Whole(data), Whole(DATA[0]), VARIANTS[0]) > 0.85
    mixed.paste(phantom(99).crop((0, 0, 280, 136)), (0, 0))
    assert full_agreement(Whole(prints_of([mixed])[0][0]), Whole(DATA[0]), VARIANTS[0]) == 0
    assert full_agreement(Whole(data), Whole(DATA[1]), VARIANTS[0]) < 0.5


def test_results_do_not_depend_on_how_the_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = [change(picture) for change in list(TRANSFORMATIONS.values())[::3] for picture in PICTURES]
    data, train = prints_of(changed)
    table = image_table(train, ["-"] * len(train))
    read: Callable[[int], bytes | None] = data.__getitem__
    whole = INDEX.scan(table, read, DATA.__getitem__)
    monkeypatch.setattr(near_images, "BLOCK", 7)
    monkeypatch.setattr(near_images, "_PAIRS", 3)
    assert INDEX.scan(table, read, DATA.__getitem__) == whole
    prepared = NearImageIndex(EVALS, SETTINGS)
    prepared.prepare(table, len(table))
    assert prepared.scan(table, read, DATA.__getitem__) == whole
    pieces = []
    for start in range(0, len(train), 5):
        part = INDEX.scan(table.slice(start, 5), lambda row, at=start: read(row + at), DATA.__getitem__)
        pieces += [(match.train + start, match.eval, match.score, match.variant) for match in part.pairs]
    assert pieces == [(match.train, match.eval, match.score, match.variant) for match in whole.pairs]


def test_rows_without_pixels_and_blank_pictures_are_counted_and_match_nothing() -> None:
    blank = [Image.new("L", (200, 150), grey) for grey in (0, 0, 127, 255)]
    _, prints = prints_of([*blank, PICTURES[0]])
    table = image_table(prints, ["default"] * 5)
    table = table.set_column(0, "phash", pa.array([None, *[p.phash for p in prints[1:]]], pa.uint64()))
    index = NearImageIndex(table, SETTINGS)
    assert index.left_out == {"without_hash": 1, "flat": 3}
    found = index.scan(table, nothing, nothing)
    assert [(match.train, match.eval) for match in found.pairs] == [(4, 4)]
    assert found.counts["train_without_hash"] == 1
    assert found.counts["train_flat"] == 3
    assert found.counts["candidates"] == found.counts["confirmed"] == 1


def test_empty_sides() -> None:
    assert INDEX.scan(EVALS.slice(0, 0), nothing, nothing).pairs == []
    assert NearImageIndex(EVALS.slice(0, 0), SETTINGS).scan(EVALS, nothing, nothing).pairs == []


def test_borderline_pairs_are_decided_on_whole_pictures_where_they_can_be_read() -> None:
    """With a threshold no thumbnail reaches, every pair is borderline."""
    _, changed = prints_of([TRANSFORMATIONS["CLAHE"](picture) for picture in PICTURES[:2]])
    train = image_table(changed, ["-"] * 2)
    index = NearImageIndex(EVALS, {"default": ImageSettings(radius=8, region_radius=6, threshold=1.0, borderline=0.6)})
    unread = index.scan(train, nothing, nothing)
    assert unread.pairs == []
    assert unread.counts["borderline"] == unread.counts["borderline_unread"] == unread.counts["refuted"] == 2
    read = index.scan(train, DATA.__getitem__, DATA.__getitem__)  # whole pictures: the test pictures themselves
    assert [(match.eval, match.score, match.decided_on) for match in read.pairs] == [
        (0, 1.0, "full_image"),
        (1, 1.0, "full_image"),
    ]
    with pytest.raises(PictureError, match="training row 0: a stored picture of 3 bytes"):
        index.scan(train, lambda row: b"abc", DATA.__getitem__)


def test_bad_input_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match="modality 'default' has no image settings; there are ct"):
        NearImageIndex(EVALS, {"ct": SETTINGS["default"]})
    buffer = io.BytesIO()
    Image.new("L", (50, 96)).save(buffer, "JPEG")
    for data, words in (
        (b"no picture", "row 1: a thumbnail of 10 bytes cannot be decoded"),
        (buffer.getvalue(), "row 1"),
    ):
        broken = EVALS.set_column(1, "thumbnail", pa.array([PRINTS[0].thumbnail, data, *[None] * 4], pa.binary()))
        with pytest.raises(PictureError, match=words):
            INDEX.scan(broken, nothing, nothing)
        with pytest.raises(PictureError, match=words):
            NearImageIndex(broken, SETTINGS)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(max_examples=20)
def test_hashes_of_many_are_the_hashes_of_each(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    pictures = random.integers(0, random.integers(2, 257), (n, 96, 96), dtype=np.uint16).astype(np.uint8)
    assert perceptual_hashes(pictures).tolist() == [perceptual_hash(Image.fromarray(one)) for one in pictures]


def test_coefficients_are_those_of_the_regions_and_of_the_whole() -> None:
    """A different way: Pillow cuts and reduces each, rounding to 8 bits, which may turn a pair of bits."""
    made = coefficients(THUMBNAILS)
    assert made.contrast.all()
    starts = {"left": 0, "right": 48, "top": 0, "bottom": 48}
    for thumbnail in THUMBNAILS:
        for k, region in enumerate((*REGIONS, "whole")):
            if region == "whole":
                cut = Image.fromarray(thumbnail)
            else:
                top, left = (24, 24) if region == "centre" else (starts[word] for word in region.split("_"))
                cut = Image.fromarray(thumbnail[top : top + 48, left : left + 48])
            [(turn, value)] = oriented(thumbnail, k)
            small = np.asarray(cut.resize((HASH_PIXELS, HASH_PIXELS), Image.Resampling.LANCZOS))
            again = perceptual_hash(Image.fromarray(np.ascontiguousarray(turned(small, turn))))
            assert (again ^ value).bit_count() <= 2


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mirror", Image.Transpose.FLIP_LEFT_RIGHT),
        ("turn_90", Image.Transpose.ROTATE_90),
        ("turn_180", Image.Transpose.ROTATE_180),
        ("turn_270", Image.Transpose.ROTATE_270),
        ("mirror_turn_180", Image.Transpose.FLIP_TOP_BOTTOM),
    ],
)
def test_turns_are_named_as_pillow_names_them(name: str, change: Image.Transpose) -> None:
    [turn] = [turn for turn in range(TURNS) if turn_name(VARIANTS[0], turn) == name]
    for thumbnail in THUMBNAILS:
        assert np.array_equal(turned(thumbnail, turn), np.asarray(Image.fromarray(thumbnail).transpose(change)))
        assert int(perceptual_hashes(turned(thumbnail, turn)[None])[0]) in plain_hashes(thumbnail, 300, 200)


def test_all_turns_differ() -> None:
    assert len({turned(THUMBNAILS[0], turn).tobytes() for turn in range(TURNS)}) == TURNS
    assert len({turn_name(VARIANTS[1], turn) for turn in range(TURNS)}) == TURNS


def test_variants_that_do_not_apply_say_so() -> None:
    for name in ("square_black", "square_white", "square_crop"):
        assert VARIANTS[BY_NAME[name]].picture(THUMBNAILS[0], 300, 300) is None
        assert VARIANTS[BY_NAME[name]].picture(THUMBNAILS[0], 300, 200) is not None
    assert VARIANTS[BY_NAME["trimmed"]].frame(THUMBNAILS[0], 300, 300) is None


def test_borders_of_a_test_picture_are_trimmed() -> None:
    framed = Image.new("L", (500, 440), 0)
    framed.paste(PICTURES[1], (60, 100))
    _, evals = prints_of([framed])
    found = NearImageIndex(image_table(evals, ["default"]), SETTINGS).scan(EVALS, nothing, nothing)
    assert [(match.train, match.variant) for match in found.pairs] == [(1, "trimmed")]


@pytest.mark.parametrize(
    ("left", "top", "right", "bottom", "fill"),
    [(0.3, 0.3, 0.3, 0.3, 0), (0.4, 0.05, 0.4, 0.05, 0), (0, 0, 0, 0.2, 255), (0.06, 0, 0.12, 0, 90), (0, 1, 0, 0, 0)],
)
def test_borders_of_a_training_picture_are_left_aside_however_wide(
    left: float, top: float, right: float, bottom: float, fill: int
) -> None:
    """On thumbnails alone, and where whole pictures decide."""
    framed = [bars(picture, left, top, right, bottom, fill) for picture in PICTURES]
    data, changed = prints_of([*framed, PICTURES[0]])
    table = image_table(changed, ["-"] * len(changed))
    expected = [*((row, row) for row in range(6)), (6, 0)]
    found = INDEX.scan(table, nothing, nothing)
    assert [(match.train, match.eval) for match in found.pairs] == expected
    assert set(INDEX.candidates(table)) >= set(expected)
    unsure = {"default": ImageSettings(radius=8, region_radius=8, threshold=0.995, borderline=0.5)}
    found = NearImageIndex(EVALS, unsure).scan(table, data.__getitem__, DATA.__getitem__)
    assert [(match.train, match.eval) for match in found.pairs] == expected
    assert {match.decided_on for match in found.pairs if match.variant.startswith("without_borders")} == {"full_image"}


def test_what_networks_are_fed_is_found_of_long_pictures() -> None:
    """The middle seven eighths of the middle square."""
    long = [phantom(seed, (480, 300)) for seed in range(3)]
    _, evals = prints_of(long)
    _, changed = prints_of([BETWEEN["shorter side 256, the middle 224"](picture) for picture in long])
    found = NearImageIndex(image_table(evals, ["default"] * 3), SETTINGS)
    pairs = found.scan(image_table(changed, ["-"] * 3), nothing, nothing).pairs
    assert [(match.train, match.eval) for match in pairs] == [(row, row) for row in range(3)]


@given(st.floats(-0.03, 0.03), st.floats(-0.03, 0.03), st.floats(0.97, 1.03), st.integers(0, 5))
@settings(max_examples=15)
def test_small_shifts_and_scales_are_aligned(right: float, down: float, scale: float, which: int) -> None:
    """The frame is off by up to 3 % of a side: alignment finds its way back."""
    frame = np.array([[[scale, 0, right + (1 - scale) / 2], [0, scale, down + (1 - scale) / 2]]])
    pair = THUMBNAILS[which : which + 1]
    assert agreement(pair, pair, frame, np.array([False]))[0] >= 0.97


def test_scores_do_not_depend_on_the_pairs_beside_them() -> None:
    frames = np.tile(np.array([[1.0, 0, 0], [0, 1.0, 0]]), (36, 1, 1))
    first, second = np.repeat(THUMBNAILS, 6, 0), np.tile(THUMBNAILS, (6, 1, 1))
    together = agreement(first, second, frames, np.zeros(36, bool))
    alone = [agreement(first[k : k + 1], second[k : k + 1], frames[:1], np.zeros(1, bool))[0] for k in range(36)]
    assert together.tolist() == alone
    table = together.reshape(6, 6)
    assert (table.diagonal() == 1).all()
    assert (table[~np.eye(6, dtype=bool)] < 0.5).all()


def test_coarse_scores_are_correlations_of_cells() -> None:
    made = cells(THUMBNAILS)
    rows, ids = np.repeat(np.arange(6), 6), np.tile(np.arange(6), 6)
    values = made.values.astype(np.int64)
    expected = [
        int(values[a] @ values[b]) / float(np.sqrt(float(int(values[a] @ values[a]) * int(values[b] @ values[b]))))
        for a, b in zip(rows, ids, strict=True)
    ]
    assert coarse_scores(made, rows, made, ids) == pytest.approx(expected, abs=1e-12)


def test_noise_on_a_blank_picture_is_no_structure() -> None:
    noise = np.random.default_rng(1).normal(128, 1, (1, 96, 96)).round().astype(np.uint8)
    assert flat(noise).tolist() == [True]
    assert flat(THUMBNAILS).tolist() == [False] * 6


def test_full_agreement_tells_copies_from_others() -> None:
    identity = VARIANTS[0]
    [mirror] = [turn for turn in range(TURNS) if turn_name(identity, turn) == "mirror"]
    data, _ = prints_of([TRANSFORMATIONS["gamma 0.6"](PICTURES[0]), TRANSFORMATIONS["mirrored"](PICTURES[0])])
    assert full_agreement(Whole(data[0]), Whole(DATA[0]), identity) > 0.95
    assert full_agreement(Whole(data[1]), Whole(DATA[0]), identity, mirror) > 0.95
    assert full_agreement(Whole(data[1]), Whole(DATA[0]), identity) < 0.5
    assert full_agreement(Whole(DATA[1]), Whole(DATA[0]), identity) < 0.5


def test_two_screens_of_one_program_are_no_copies() -> None:
    """Frame, bars and what is blank are the same; what the windows show is not."""
    screens = []
    for strokes in ((150, 200, 400, 260, 300, 480), (420, 150, 480, 420, 180, 380)):
        screen = Image.new("L", (640, 640), 255)
        draw = ImageDraw.Draw(screen)
        draw.rectangle((0, 0, 639, 639), outline=0, width=70)
        draw.rectangle((70, 70, 569, 95), fill=150)
        draw.text((80, 75), "Viewer - File  Edit  View  Tools  Help", fill=0)
        draw.line(strokes, fill=0, width=12)
        screens.append(screen)
    data, _ = prints_of([*screens, TRANSFORMATIONS["JPEG quality 30"](screens[0])])
    first, other, copy = map(Whole, data)
    assert full_agreement(copy, first, VARIANTS[0]) > 0.9
    assert full_agreement(other, first, VARIANTS[0]) < 0.36
    assert agreement(other.pixels[None], first.pixels[None], IDENTITY[None], np.zeros(1, bool))[0] > 0.6


def test_a_window_that_shows_another_picture_is_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The better half is the same, structure and all; the other half is of two pictures."""
    random = np.random.default_rng(1)

    def texture(cells: int, side: int) -> Image.Image:
        grey = random.integers(0, 256, (cells, cells), np.uint8)
        return Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC)

    window = texture(60, 640)
    screens = [window.copy(), window.copy()]
    for screen in screens:
        screen.paste(texture(40, 330), (290, 250))
    data, _ = prints_of([*screens, TRANSFORMATIONS["JPEG quality 30"](screens[0])])
    first, other, copy = map(Whole, data)
    assert full_agreement(copy, first, VARIANTS[0]) > 0.9
    assert full_agreement(other, first, VARIANTS[0]) == 0
    monkeypatch.setattr(agreement_module, "DENIED", 2)
    assert full_agreement(other, first, VARIANTS[0]) > 0.9


def test_coverage_on_record_is_that_of_the_code_and_keeps_the_promise() -> None:
    """If this fails after a change of the code: `python -m bench near_images` measures again."""
    measured = coverage()
    assert measured is not None
    assert {row["name"] for row in measured["transformations"]} == set(TRANSFORMATIONS)
    # Of 108 pictures; contrast x 1.6, which clips bright windows, is the worst of them.
    assert all(row["recall"] >= (0.96 if "contrast" in row["name"] else 0.98) for row in measured["transformations"])
    rows = {row["name"]: row for group in ("between", "overlays", "composed") for row in measured[group]}
    assert all(rows[name]["unseen"] >= 0.9 for name in OVERLAYS)
    assert rows["two of ten changes"]["unseen"] >= 0.9
    assert measured["precision"]["different_people"] == 0


def test_coverage_of_other_code_is_no_coverage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(near_images, "COVERAGE_FILE", tmp_path / "coverage.json")
    assert coverage() is None
    for content in ('{"recipe": "of yesterday"}', f'{{"version": {near_images.VERSION + 1}}}'):
        (tmp_path / "coverage.json").write_text(content)
        assert coverage() is None


def test_one_person_under_two_subject_ids_is_found_by_pictures_alone(real_data: Path) -> None:
    """140 radiographs of 47 patients: four pairs of files are one person's films published twice."""
    pictures = [source for source in sources(real_data) if source.kind == "radiographs"]
    _, prints = prints_of([opened(source.path) for source in pictures])
    table = image_table(prints, ["radiographs"] * len(prints))
    found = NearImageIndex(table, SETTINGS).scan(table, nothing, nothing)
    subjects = [source.path.parts[-3] for source in pictures]
    across = {frozenset((subjects[match.train], subjects[match.eval])) for match in found.pairs} - {
        frozenset((subject,)) for subject in subjects
    }
    assert across == {frozenset(pair) for pair in SAME_PERSON.items()}
    twins = [match for match in found.pairs if subjects[match.train] != subjects[match.eval]]
    assert len(twins) == 8  # each pair from both sides
    assert all(match.score > 0.95 for match in twins)
    assert {(match.train, match.eval) for match in found.pairs} >= {(row, row) for row in range(len(pictures))}
