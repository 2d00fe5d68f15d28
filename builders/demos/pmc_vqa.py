"""The demo tree of `builders.pmc_vqa`."""

from builders import kit
from builders.demos.drawings import demo_figure, demo_panel
from builders.pmc_vqa import ANSWERS, FILES, LABELS, PLACES

# (picture, question, options, right letter, answer's text where it is not the option's); made up.
_Item = tuple[str, str, tuple[str, str, str, str], str, str | None]

_VERSION_1: dict[str, tuple[_Item, ...]] = {
    "train": (
        ("PMC9100001_F1.jpg", "What is the uptake pattern in the breast?",
         ("Diffuse uptake", "Focal uptake", "No uptake", "Ring-like uptake"), "B", None),
        ("PMC9100001_F1.jpg", "Which modality is shown?", ("MRI", "PET/CT", "Ultrasound", "X-ray"), "B", None),
        ("PMC9100002_fig_1.jpg", " What does the arrow point to, in panel B? ",
         ("A cyst", "A stone", "A stent", "A polyp"), "C", "The arrow marks a stent in the duct."),
        ("PMC9100003_Fig2.jpg", "What colour is the stained nucleus?", ("Blue", "Green", "Red", "Yellow"), "A", "Red"),
        ("PMC9100003_Fig2.jpg", "What is the scale bar?", ("10 um", "20 um", "50 um", "100 um"), "E", "20 um"),
        ("PMC9100004_F3.jpg", "Which lobe is involved?", ("Left upper", "", "Right upper", "Right lower"), "C", None),
        ("PMC9100004_F3.jpg", "", ("Axial", "Coronal", "Sagittal", "Oblique"), "A", None),
        ("PMC9100004_F3.jpg", "Which vessel is occluded?", ("LAD", "RCA", "LCX", ""), "D", ""),
        ("PMC9100005_F2.jpg", "What is measured?", ("Length", "Volume", "Angle", "Density"), "", ""),
    ),
    "test": (
        ("PMC9100006_F1.jpg", "What is the imaging plane?", ("Axial", "Coronal", "Sagittal", "Oblique"), "A", None),
        ("PMC9100001_F1.jpg", "Which side is affected?", ("Left", "Right", "Both", "Neither"), "A", None),
    ),
    "test_clean": (
        ("PMC9100006_F1.jpg", "What is the imaging plane?", ("Axial", "Coronal", "Sagittal", "Oblique"), "A", None),
    ),
}  # fmt: skip

_VERSION_2: dict[str, tuple[_Item, ...]] = {
    "train": (
        ("PMC9100007_Fig4_11.jpg", "What is labelled in green?",
         ("Mitochondria", "Nuclei", "Golgi complexes", "The cell outline"), "A", None),
        ("PMC9100007_Fig4_12.jpg", "Which organelle is red?",
         ("Mitochondria", "Nuclei", "Golgi complexes", "Lysosomes"), "The Golgi", None),
    ),
    "test": (
        ("PMC9000001_Fig3_0.jpg", "Where is the labelled protein?",
         ("Nucleus", "Plasma membrane", "Cytosol", "Golgi"), "B", None),
        ("PMC9000005_F4_0.jpg", "Which structure is seen?",
         ("A blue-white veil", "Milia-like cysts", "A scar", "Comedo-like openings"), "A", None),
    ),
}  # fmt: skip

PLANTED = {
    "same_figure": "pmc_vqa/test/test-3 asks about the figure of training rows 2 and 3",
    "same_panel": "--version 2: both test panels are training pictures of pmc_oa's demo tree, byte for byte",
}


def _rows(items: tuple[_Item, ...], version: str, older: bool) -> kit.Rows:
    rows: kit.Rows = []
    for index, (picture, question, options, letter, answer) in enumerate(items):
        choices = {f"Choice {name}": f" {name}:{text}" for name, text in zip(LABELS, options, strict=True)}
        if version == "1":
            text = dict(zip(LABELS, options, strict=True)).get(letter, "") if answer is None else answer
            first = {"Figure_path": picture, "Question": question, ANSWERS[older]: text}
            rows.append(first | choices | {"Answer_label": letter})
        else:
            first = {"index": str(index), "Figure_path": picture, "Caption": f"(a) {options[0]}, made up.\n"}
            rows.append(first | {"Question": question} | choices | {ANSWERS[older]: letter, "split": "any"})
    return rows


def files() -> kit.Files:
    tree: kit.Files = {}
    for version, splits in (("1", _VERSION_1), ("2", _VERSION_2)):
        pictures = tree.setdefault(PLACES[version][0], {})
        for split, items in splits.items():
            # One file of each version has the older spelling.
            tree[FILES[version][split]] = _rows(items, version, older=split == "test")
            for picture, *_ in items:
                if version == "1":
                    pictures[f"images/{picture}"] = demo_figure(sum(picture.encode()), panels=1 + len(picture) % 2)
                else:
                    article, figure, panel = picture.removesuffix(".jpg").rsplit("_", 2)
                    pictures[f"figures/{picture}"] = demo_panel(article, figure, int(panel))
    return tree
