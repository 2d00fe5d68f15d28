"""The demo tree of `builders.slake`."""

from itertools import chain

from builders import kit
from builders.demos import phantom_pictures, phantoms
from builders.slake import FILES

_DEMO_PICTURES = 40
_DEMO_SEED = 6_100_000
_DEMO_PIXELS = 192

_COPY, _COPIED = 39, 4

PLANTED = {
    "same_bytes": "test picture slake/xmlab39/source.jpg is, byte for byte, training picture slake/xmlab4/source.jpg",
    "paper_variant": "--paper-variant: 4 of the 8 English test pictures are training pictures of Chinese rows",
}


def _demo_split(language: str, picture: int) -> str:
    """Each language is split by picture, Chinese independently of English."""
    place = (picture if language == "en" else 7 * picture + 2) % 10
    return "train" if place < 7 else "validation" if place == 7 else "test"


def files() -> kit.Files:
    tree: kit.Files = {}
    splits: dict[str, kit.Rows] = {split: [] for split in FILES}
    for number in range(_DEMO_PICTURES):
        drawn = _COPIED if number == _COPY else number
        view: phantoms.View = "AP" if drawn % 4 == 3 else "PA"
        phantom = phantoms.make(_DEMO_SEED + drawn, view)
        tree[f"imgs/xmlab{number}/source.jpg"] = phantom_pictures.jpeg(phantom, _DEMO_PIXELS)
        shown = any(finding.kind == "effusion" for finding in phantom.findings)
        for language, kind, content, question, answer in (
            ("en", "OPEN", "Modality", "What modality is used to take this image?", "X-Ray"),
            ("en", "CLOSED", "Abnormality", "Is there a pleural effusion?", "Yes" if shown else "No"),
            ("en", "CLOSED", "Plane", "Is this an AP or a PA view?", view),
            ("zh", "OPEN", "Modality", "这张图片的成像方式是什么？", "X光"),
            ("zh", "CLOSED", "Abnormality", "图中有胸腔积液吗？", "有" if shown else "没有"),
            ("zh", "CLOSED", "Plane", "这是前后位片还是后前位片？", "前后位" if view == "AP" else "后前位"),
        ):
            row = {"img_id": number, "img_name": f"xmlab{number}/source.jpg", "question": question, "answer": answer}
            row |= {"q_lang": language, "location": "Lung", "modality": "X-Ray", "answer_type": kind}
            row |= {"base_type": "vqa", "content_type": content, "triple": ["vhead", "_", "_"]}
            splits[_demo_split(language, number)].append(row)
    for qid, row in enumerate(chain.from_iterable(splits.values())):
        row["qid"] = qid
    return tree | {FILES[split][0]: rows for split, rows in splits.items()}
