"""Names that several publishers share: figures of PubMed Central, frames of videos, licences."""

import re
from pathlib import PurePosixPath
from typing import NamedTuple

from builders.engine.source import InputError

_FIGURE = re.compile(r"(PMC[0-9]+)_(.+)\.(?:jpe?g|png)", re.IGNORECASE)
_PANEL = re.compile(r"(.+)_[0-9]+")
VIDEO_FRAME = re.compile(r"([A-Za-z0-9_-]{11})_(?:image|roi)_.+")
"""A picture of the Quilt sets, named after its YouTube video: `<id>_image_<uuid>.jpg`, in Quilt-Instruct `_roi_`."""

CHATDOCTOR_INSTRUCTION = "If you are a doctor, please answer the medical questions based on the patient's description."
"""The constant instruction of the ChatDoctor sets; AlpaCare's file has the same columns and other instructions."""


class FigureName(NamedTuple):
    """What the name of a picture of PMC-OA or PMC-VQA says."""

    pmcid: str
    image_id: str
    figure_id: str
    """The image id of the figure that a panel was cut from; its own for a whole figure."""


def figure_name(name: str, file: str, panel: bool = True) -> FigureName:
    """`PMC212319_Fig3_4.jpg` is panel 4 of Fig3; with `panel` false, `PMC123_fig_1.jpg` is a figure named `fig_1`."""
    match = _FIGURE.fullmatch(PurePosixPath(name).name)
    if match is None:
        raise InputError("bad_id", file, "the picture is not named PMC<number>_<figure>")
    pmcid, stem = match[1].upper(), match[2]
    cut = _PANEL.fullmatch(stem) if panel else None
    return FigureName(pmcid, f"pmc/{pmcid}/{stem}", f"pmc/{pmcid}/{cut[1] if cut else stem}")


def video_id(name: str, file: str) -> str:
    """`youtube/<id>` of a picture, as `medframeqa` has it too."""
    match = VIDEO_FRAME.fullmatch(name)
    if match is None:
        raise InputError("bad_id", file, "the picture is not named <YouTube id>_image_... or <YouTube id>_roi_...")
    return f"youtube/{match[1]}"


_CREATIVE_COMMONS = re.compile(
    r"(?:\bCC[ -]?|creativecommons\.org/(?:licenses|publicdomain)/)"
    r"(BY(?:[ -](?:NC|SA|ND)\b)*|0|ZERO)(?:[ /-]v?(\d\.\d))?",
    re.IGNORECASE,
)


def creative_commons(text: str) -> str | None:
    """The Creative Commons licence that a text names (`CC BY-NC [Author et al. (2020)]`, a link), None if none.

    `CC-BY-NC`, with `-4.0` where the version is stated: PubMed Central's lists leave it out.
    """
    found = _CREATIVE_COMMONS.search(text)
    if found is None:
        return None
    if found[1].upper() in ("0", "ZERO"):
        return "CC0-1.0"
    name = f"CC-{found[1].upper().replace(' ', '-')}"
    return f"{name}-{found[2]}" if found[2] else name
