"""The demo tree of `builders.rocov2`."""

from builders import kit
from builders.demos import phantom_pictures, phantoms
from builders.rocov2 import LICENSES

# (caption, article, licence's text); made up.
_DEMO: dict[str, tuple[tuple[str, str, str], ...]] = {
    "train": (
        ("Head CT, bone window, fracture of the left zygoma.", "PMC9200001", "CC BY [Moreau et al. (2021)]"),
        ('Chest X-ray: "ground-glass" opacities,\nand a central line.', "PMC9200002", "CC BY-NC [Ito (2019)]"),
        ("Axial T2 image of the pelvis; the mass (arrow) displaces the bladder.", "PMC9200003",
         "CC BY-NC-ND [Abebe et al. (2020)]"),
        ("  ", "PMC9200003", "CC BY-NC-ND [Abebe et al. (2020)]"),
        ("Ultrasound of the gallbladder with sludge.", "PMC9200004", "© The authors"),
        ("Real time image of the labelled protein.", "PMC9000001", "CC BY [Demo et al. (2003)]"),
    ),
    "valid": (("Panoramic radiograph, cyst around tooth 38.", "PMC9200011", "CC BY [Nowak and Li (2018)]"),),
    "test": (
        ("Coronary angiography: stenosis of the left anterior descending artery.", "PMC9200012", "CC0 [Silva (2022)]"),
        ("Chest X-ray one week later.", "PMC9200002", "CC BY-NC [Ito (2019)]"),
    ),
}  # fmt: skip

PLANTED = {
    "same_article": "rocov2/test/ROCOv2_2023_test_000002 is of the article of training row 2",
    "other_source": "rocov2/train/ROCOv2_2023_train_000006 is of PMC9000001, which pmc_oa's demo test split shows",
}


def files() -> kit.Files:
    licences: kit.Rows = []
    tree: kit.Files = {LICENSES: licences, "cui_mapping.csv": [{"CUI": "C1306645", "Canonical name": "Plain x-ray"}]}
    seed = 6_200_000
    for split, figures in _DEMO.items():
        captions, concepts = kit.Rows(), kit.Rows()
        pictures = tree.setdefault(f"{split}_images.zip", {})
        for number, (caption, article, attribution) in enumerate(figures, 1):
            seed += 1
            name = f"ROCOv2_2023_{split}_{number:06d}"
            captions.append({"ID": name, "Caption": caption})
            concepts.append({"ID": name, "CUIs": "C1306645;C0817096"})
            link = f"https://www.ncbi.nlm.nih.gov/pmc/articles/{article}/"
            licences.append({"ID": name, "PMCID": article, "Attribution": attribution, "Link": link})
            pictures[f"{split}/{name}.jpg"] = phantom_pictures.jpeg(phantoms.make(seed, "PA"), 96)
        tables = {"captions": captions, "concepts": concepts, "concepts_manual": concepts}
        tree |= {f"{split}_{what}.csv": rows for what, rows in tables.items()}
    return tree
