"""PubMedVision, its alignment part: a question and an answer that GPT-4V wrote about the pictures of an article.

A row shows one picture or several, `images/pmc_<n>_<k>.jpg`; its text has no place for them, so they stand before the
first question; where a copy has `<image>` in the text, that goes. The pictures are in twenty zips, which the publisher
unpacks without their folders (`unzip -j`).
`pmc_<n>` is a running number and no PMCID: what comes from the same article in PMC-OA and its kin is found by pixels
and captions only. Row and caption of `PubMedVision_Original_Caption.json` share their number (a public loader relies on
it): `Alignment_VQA_7` is made from `Original_Caption_7`.
"""

from pathlib import PurePosixPath
from typing import Any

from builders import kit

FILE = "PubMedVision_Alignment_VQA.json"


def _sample(row: kit.Row, key: str) -> kit.Sample:
    file, values = row.file, row.values
    names, modality = _names(values, file), values.get("modality")
    if modality is not None:
        kit.checked_text(modality, "modality", file)
    turns = kit.turns_of(kit.field_of(values, "conversations", file), file)
    images = [kit.Image(f"pubmedvision/{PurePosixPath(name).stem}", *row.picture(name)) for name in names]
    group = {"question_id": f"pubmedvision/{key}"}
    return kit.conversation_sample(row, turns, images, key=key, group=group, subset=modality or None)


def _names(values: dict[str, Any], file: str) -> list[str]:
    """The pictures of a row; some copies have one as plain text."""
    given = kit.field_of(values, "image", file)
    names = [given] if isinstance(given, str) else kit.texts_of(values, "image", file)
    kit.demand(names and all(names), "bad_field", file, "image is not a list of names")
    return names


SOURCE = kit.table_source(
    name="pubmedvision",
    title="PubMedVision (alignment): questions about figures of PubMed, written by GPT-4V",
    revision="FreedomIntelligence/HuatuoGPT-Vision@a6476ac; hub commit not known",
    layouts=(kit.Layout("alignment JSON beside zips", "code", "FreedomIntelligence/HuatuoGPT-Vision@a6476ac"),),
    license="Apache-2.0",
    stage="midtrain",
    task="vqa",
    obtain="Clone the hub's FreedomIntelligence/PubMedVision (git lfs), or --download --revision SHA.",
    files={"train": FILE},
    pictures=("images_*.zip", "images"),
    fields=("id",),
    sample=_sample,
    version=2,
    published={"train": 647_031},
    paper=(
        "646,759, which is 272 below the card's 647,031 (914,960 pictures); likely rows whose pictures could not be "
        "read. Here each such row is a reject with its reason"
    ),
    paper_rows=kit.paper_row(
        "PubMedVision (alignment)", "MT", 646_759, "the card has 647,031; 272 more, likely with unreadable images"
    ),
    hub_id="FreedomIntelligence/PubMedVision",
    hub_revision="3c84e04b38bceb5341419b9a4f8ca37ba790cb84",
    hub_files=(FILE, "images_*.zip"),
)

if __name__ == "__main__":
    kit.run(SOURCE)
