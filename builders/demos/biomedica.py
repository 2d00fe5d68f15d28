"""The demo tree of `builders.biomedica`."""

import json

from builders import kit
from builders.demos.drawings import demo_figure

# (list, batch, article, position, file stem, caption, licence, panel type, its subtype); made up.
_Figure = tuple[str, str, str, int, str, str, str, str, str]

_DEMO: dict[str, tuple[_Figure, ...]] = {
    "dermatology": (
        ("commercial", "commercial_0_1", "PMC9300001", 0, "1471-9300-1-2-1",
         "Clinical photograph: annular plaque with scale on the forearm.", "CC BY", "single", "single panel"),
        ("commercial", "commercial_0_1", "PMC9300001", 1, "1471-9300-1-2-2",
         "(a) Dermoscopy. (b) Histology, x100.", "CC BY", "multiple", "single panel"),
        ("commercial", "commercial_0_2", "PMC9300002", 0, "pone.9300002.g001",
         "Ulcer of the lower leg before treatment.", "CC0", "single", "single panel"),
        ("commercial", "commercial_0_2", "PMC9300002", 1, "pone.9300002.g002",
         "The same ulcer after eight weeks.", "CC0", "single", "single panel"),
        ("noncommercial", "noncommercial_3_0", "PMC9300003", 4, "fig-5",
         "Intraoperative view: wide excision of a melanoma.", "CC BY-NC-ND", "single", "single panel"),
        ("other", "other_1_0", "PMC9300004", 2, "gr3", "Nail changes in psoriasis.", "NO-CC CODE", "single",
         "single panel"),
    ),
    "surgery": (
        ("commercial", "commercial_0_1", "PMC9300005", 0, "CRIS-5-g001",
         "Laparoscopic view of the gallbladder bed.", "CC BY", "single", "single panel"),
        ("commercial", "commercial_7_1", "PMC9000001", 2, "1471-9000-4-13-3",
         "Real time imaging of the labelled protein, panels A to C.", "CC BY", "multiple",
         "multiple panels: images & plots"),
        ("noncommercial", "noncommercial_3_0", "PMC9300003", 4, "fig-5",
         "Intraoperative view: wide excision of a melanoma.", "CC BY-NC-ND", "single", "single panel"),
        ("noncommercial", "noncommercial_3_1", "PMC9300006", 0, "gr1", " ", "CC BY-NC", "single", "single panel"),
    ),
}  # fmt: skip

PLANTED = {
    "both_subsets": "the figure at position 4 of PMC9300003 is in both subsets, and kept once",
    "other_source": "the figure 1471-9000-4-13-3 of PMC9000001 is the one whose panels pmc_oa's demo tree has",
}


def demo_members(figure: _Figure) -> dict[str, bytes]:
    """One figure's members of a tar, by extension."""
    _, _, article, position, stem, caption, license_code, panel_type, panel_subtype = figure
    name = f"{stem}.jpg"
    record = {
        "image_file_name": name,
        "image_cluster_id": stem,
        "image_hash": f"{position:064x}",
        "image_label_id": "17",
        "image_panel_type": panel_type,
        "image_panel_subtype": panel_subtype,
        "image_primary_label": ["Clinical Imaging"],
        "image_secondary_label": ["skin lesion"],
        "image_size": [64, 64],
        "image_set": [{"image_id": stem, "image_file_name": name, "caption": caption, "hash": "0"}] * 3,
        "image_context": {name: ["The whole paragraph that mentions the figure."]},
        "article_accession_id": article,
        "article_title": "A made-up case",
        "article_journal": "J Demo Cases",
        "article_date": "2020-01-01 00:00:00",
        "article_abstract": "",
        "article_mesh_terms": ["Humans"],
        "article_keywords": [""],
        "article_reference_ids": [""],
        "article_reference_count": "0",
        "article_reference_list": [""],
        "article_subject": ["Case Report"],
        "article_citation": f"J Demo Cases. 2020; {article}",
        "article_license": license_code,
        "article_text": "Full text of the article, which no sample may hold. " * 20,
    }
    drawn = demo_figure(sum(stem.encode()), panels=3 if panel_type == "multiple" else 1)
    return {"jpg": drawn, "json": json.dumps(record).encode(), "txt": caption.encode()}


def files() -> kit.Files:
    tars: dict[str, kit.Values] = {}
    for subset, figures in _DEMO.items():
        for figure in figures:
            members = tars.setdefault(f"{subset}/{figure[0]}/0_2000000000.tar", {})
            for extension, data in demo_members(figure).items():
                members[f"{'-'.join(map(str, figure[1:5]))}.{extension}"] = data
    return tars
