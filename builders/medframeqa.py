"""MedFrameQA: multiple-choice questions over two to five frames of a medical YouTube video.

`video_id` is the YouTube id, by which Quilt's training rows can be joined. `reasoning_chain` is never read: it gives
the answer away. Most questions have five options, some six (F).
"""

import re

from builders import kit

IMAGES = tuple(f"image_{number}" for number in range(1, 6))
_VIDEO = re.compile(r"[A-Za-z0-9_-]{11}")


def _sample(row: kit.Row, key: str, system: str, video: str, question: str, answer: str) -> kit.Sample:
    file, values = row.file, row.values
    options = kit.labelled(kit.texts_of(values, "options", file, spelt=True), file)
    kit.demand(_VIDEO.fullmatch(video), "bad_id", file, "video_id is not the 11 characters of a YouTube id")
    # Questions speak of the first, second, ... frame: a gap would give them other numbers.
    count = max((number for number, name in enumerate(IMAGES, 1) if values.get(name) is not None), default=0)
    images = [kit.column_image(row, name, f"medframeqa/{key}/{name}") for name in IMAGES[: max(2, count)]]
    group = {"video_id": f"youtube/{video}", "question_id": f"medframeqa/{key}"}
    return kit.choice_sample(row, question, options, answer, images, key=key, group=group, subset=system)


SOURCE = kit.table_source(
    name="medframeqa",
    title="MedFrameQA: questions over several frames of a medical video",
    revision="SuhaoYu1020/MedFrameQA@96083ae",
    layouts=(kit.Layout("the hub's Parquet", "code", "haojinw0027/MedFrameQA@e83fbe3"),),
    license="CC-BY-4.0",
    stage="eval",
    task="mcq",
    modality="image-text",
    splits={"test": "eval"},
    obtain="Fetch data/test-*.parquet (571 MB) of the hub's SuhaoYu1020/MedFrameQA; --download does it.",
    files={"test": "data/test-*.parquet"},
    several=True,
    fields=("question_id", "system", "video_id", "question", "correct_answer"),
    values=("options",),
    columns=IMAGES,
    sample=_sample,
    published={"test": 2_851},
    paper="2,851, the whole test split.",
    paper_rows=kit.paper_row("MedFrameQA", "EVAL", 2_851),
    hub_id="SuhaoYu1020/MedFrameQA",
    hub_revision="96083ae9405b2fdb687005c65902f2ee3d7c9f12",
)

if __name__ == "__main__":
    kit.run(SOURCE)
