"""MedFrameQA: frames in order, letters, videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from outcomes import kept, parameters, read_all, source_of
from picture_trees import FRAMES, by_key, each, edit, said

from builders.demos.drawings import demo_picture


def test_medframeqa_shows_two_to_five_frames_in_order(demos: dict[str, Path]) -> None:
    samples = kept(read_all("medframeqa", demos["medframeqa"], no_images=False)["test"])
    assert [len(sample.images) for sample in samples] == [2, 3, 5, 4, 2]
    for sample in samples:
        number = int(sample.key[1:])
        names = [f"image_{place}" for place in range(1, len(sample.images) + 1)]
        assert [image.image_id for image in sample.images] == [f"medframeqa/{sample.key}/{name}" for name in names]
        assert [image.read() for image in sample.images] == [
            demo_picture(f"frames/{number}/{name}", "JPEG") for name in names
        ]
        kinds = [part["type"] for part in sample.messages[0]["content"]]
        assert kinds == ["image"] * len(names) + ["text"]


def test_medframeqa_letters_run_to_f_and_reasoning_is_never_fed(demos: dict[str, Path]) -> None:
    samples = by_key(read_all("medframeqa", demos["medframeqa"])["test"])
    assert [label for label, _ in samples["Q0004"].options or []] == list("ABCDEF")
    assert said(samples["Q0004"], 1) == "Answer: F. None"
    for sample in samples.values():
        assert "Frame by frame" not in json.dumps(sample.messages)
    source = source_of("medframeqa")
    for unit in source.plan(demos["medframeqa"], parameters(source)):
        assert "reasoning_chain" not in unit.payload["columns"]


def test_medframeqa_video_ids_are_youtube_ids_shared_by_questions(demos: dict[str, Path]) -> None:
    videos = [sample.group["video_id"] for sample in kept(read_all("medframeqa", demos["medframeqa"])["test"])]
    assert videos[:2] == ["youtube/-demo_vid-0"] * 2 and len(set(videos)) == 4


def test_medframeqa_options_may_be_stringified(demos: dict[str, Path], tree: Callable[[str], Path]) -> None:
    raw = tree("medframeqa")
    edit(raw, FRAMES, each(lambda row: row.update(options=str(row["options"]))))
    one, other = (read_all("medframeqa", where)["test"] for where in (demos["medframeqa"], raw))
    assert [sample.options for sample in kept(one)] == [sample.options for sample in kept(other)]
