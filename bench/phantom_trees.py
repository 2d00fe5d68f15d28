"""Raw trees of drawn radiographs, as many as wanted: captions in ROCOv2's layout, questions in VQA-RAD's.

The demo trees of the sources are a few rows with leaks planted in them. These are for learning from: nothing is
planted, nothing is rejected, and the truth is the phantom's. Every fact holds of half of the pictures, whatever else
holds, so a question about it has as many answers Yes as No and chance is one half.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from builders.demos.drawings import encoded
from builders.demos.phantom_pictures import render
from builders.demos.phantom_reports import NAMES
from builders.demos.phantoms import Finding, Phantom, View, anatomy
from builders.engine.demo_files import write_demo_file


@dataclass(frozen=True)
class Fact:
    """Something that a picture shows or does not."""

    question: str
    caption: Callable[[bool], str]
    """The words of a caption that say whether it holds."""
    finding: Finding | None
    """What is drawn where it holds; None for the view."""


FACTS = {
    "effusion": Fact(
        "Is there an effusion?",
        lambda holds: "large effusions" if holds else "no effusion",
        Finding("effusion", "bilateral", grade=3),
    ),
    "lateral": Fact("Is this a lateral view?", lambda holds: "lateral view" if holds else "frontal view", None),
    "cardiomegaly": Fact(
        "Is the heart enlarged?",
        lambda holds: "enlarged heart" if holds else "normal heart",
        Finding("cardiomegaly", grade=3),
    ),
}
"""By name, the easiest to see first."""

EASY = ("effusion", "lateral")


def phantom(number: int, facts: Sequence[str] = EASY, seed: int = 0) -> tuple[Phantom, dict[str, bool]]:
    """Picture `number` of a seed, and which of `facts` hold: bit i of the number decides fact i.

    Each number is another person, so pictures of different numbers share no anatomy.
    """
    holds = {name: bool(number >> bit & 1) for bit, name in enumerate(facts)}
    view: View = "LATERAL" if holds.get("lateral", False) else "PA"
    findings = [found for name, shown in holds.items() if shown and (found := FACTS[name].finding) is not None]
    person = seed * 1_000_003 + number
    return Phantom(anatomy(person), view, person, tuple(findings)), holds


def write_trees(
    raw: Path, train: int, test: int, *, pixels: int = 336, facts: Sequence[str] = EASY, seed: int = 0
) -> None:
    """Write `raw/rocov2` and `raw/vqa_rad`: `train` and `test` pictures with a caption, and a question for each fact.

    Both trees show the same pictures; no person of the test split is in train. Splits are balanced if their sizes are
    multiples of 2 to the number of facts. `pixels` is the side of the pictures, which are square, so that it alone says
    how many tiles one is cut into: 336 make 1, 512 make 5, 1024 make 10. The same arguments give the same bytes.

    Raises:
        OSError: a file cannot be written.

    """
    captions: dict[str, list[Sequence[str]]] = {split: [("ID", "Caption")] for split in ("train", "valid", "test")}
    licences: list[Sequence[str]] = [("ID", "PMCID", "Attribution", "Link")]
    questions: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    # ROCOv2 has three splits: its validation picture is one more.
    splits = [*["train"] * train, *["test"] * test, "valid"]
    for number, split in enumerate(splits):
        drawn, holds = phantom(number, facts, seed)
        content = _square(drawn, pixels)
        key = f"ROCOv2_2023_{split}_{number + 1:06d}"
        says = ", ".join(FACTS[name].caption(shown) for name, shown in holds.items())
        captions[split].append((key, f"Chest radiograph: {says}."))
        licences.append((key, f"PMC{9_000_001 + number}", "CC BY [phantoms]", "https://example.org/phantoms"))
        write_demo_file(raw / "rocov2" / split / f"{key}.jpg", content)
        if split == "valid":
            continue
        picture = f"synpic{10_001 + number}.jpg"
        write_demo_file(raw / "vqa_rad" / "images" / picture, content)
        for fact, (name, shown) in enumerate(holds.items()):
            questions[split].append(
                {
                    "qid": number * len(facts) + fact + 1, "image_name": picture, "image_organ": "CHEST",
                    "answer": "Yes" if shown else "No", "answer_type": "CLOSED", "question_type": "PRES",
                    "question": FACTS[name].question, "phrase_type": "freeform", "modality": "XR",
                }
            )  # fmt: skip
    for split, lines in captions.items():
        write_demo_file(raw / "rocov2" / f"{split}_captions.csv", lines)
    write_demo_file(raw / "rocov2" / "license_information.csv", licences)
    for split, items in questions.items():
        write_demo_file(raw / "vqa_rad" / f"{split}set.json", items)


def _square(drawn: Phantom, pixels: int) -> bytes:
    """The film in the middle of a black square, as JPEG."""
    film = render(drawn, pixels)
    square = Image.new("L", (pixels, pixels))
    square.paste(film, ((pixels - film.width) // 2, (pixels - film.height) // 2))
    return encoded(square, "JPEG", quality=90)


_KINDS = ("effusion", "pneumothorax", "consolidation", "nodule", "cardiomegaly", "edema")


def questions(phantom: Phantom) -> list[tuple[str, str, str]]:
    """(question, answer, `CLOSED` or `OPEN`) that the picture answers."""
    seen = {finding.kind: finding for finding in phantom.findings}
    asked = [
        ("What modality is used to take this image?", "X-Ray", "OPEN"),
        ("What is the projection of this image?", phantom.view if phantom.view != "LATERAL" else "Lateral", "OPEN"),
    ]
    for kind in _KINDS:
        answer = "Yes" if kind in seen else "No"
        asked.append((f"Is there {'a ' if kind in _KINDS[:4] else ''}{NAMES[kind]}?", answer, "CLOSED"))
    for kind, finding in seen.items():
        if finding.side in ("left", "right"):
            asked.append((f"Which side is the {NAMES[kind]} on?", finding.side.capitalize(), "OPEN"))
        if finding.side != "bilateral":
            asked.append((f"How large is the {NAMES[kind]}?", finding.size.capitalize(), "OPEN"))
    asked += [(f"Is there a {device.kind}?", "Yes", "CLOSED") for device in phantom.devices if device.kind[-1] != "s"]
    return asked
