"""The demo tree of `builders.pmc_oa`."""

from builders import kit
from builders.demos.drawings import demo_panel
from builders.pmc_oa import FOLDER

# (article, figure's XML id, file of the whole figure, captions of its panels); made up.
_DEMO: dict[str, tuple[tuple[str, str, str | None, tuple[str, ...]], ...]] = {
    "train": (
        ("PMC9000001", "Fig3", "1471-9000-4-13-3.jpg", (
            "A. Real time image of the labelled protein at the plasma membrane.",
            "B. The same cells five minutes after stimulation, with fewer vesicles.",
        )),
        ("PMC9000002", "F1", "bmc-9000-2-f1.jpg", ("Axial CT: nodule in the right upper lobe (arrow).",)),
        ("PMC9000003", "fig_2", "gr2.jpg", ("H&E, x200: nests of pale cells\nin a fibrous stroma.",)),
        ("PMC9000004", "pone.9000004.g001", "pone.9000004.g001.jpg", ("T2-weighted image of the knee.", "   ")),
        # As in the copies that have two columns only.
        ("PMC9000005", "F4", None, ("Dermoscopy of a pigmented lesion: asymmetric network, blue-white veil.",)),
    ),
    "valid": (("PMC9000011", "F2", "cases-11-2.jpg", ("Coronal CT, dilated small bowel loops.",)),),
    "test": (
        ("PMC9000012", "F1", "cases-12-1.jpg", ("Ultrasound of the thyroid: hypoechoic nodule of 9 mm.",)),
        ("PMC9000001", "Fig3", "1471-9000-4-13-3.jpg", ("", "", "C. Negative control, no signal.")),
    ),
}  # fmt: skip

PLANTED = {"same_figure": "pmc_oa/test/2 is panel 2 of a figure whose panels 0 and 1 are training rows"}


def files() -> kit.Files:
    members: dict[str, bytes] = {}
    tree: kit.Files = {"images.zip": members}
    for split, figures in _DEMO.items():
        rows = tree.setdefault(f"{split}.jsonl", [])
        for article, figure, whole, captions in figures:
            for panel, caption in enumerate(captions):
                if not caption:
                    continue
                name = f"{article}_{figure}_{panel}.jpg"
                members[f"{FOLDER}/{name}"] = demo_panel(article, figure, panel)
                row = {"image": name, "caption": caption}
                rows.append(row if whole is None else row | {"pmcid": article, "url_name": whole})
    return tree
