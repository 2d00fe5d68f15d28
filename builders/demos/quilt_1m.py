"""The demo tree of `builders.quilt_1m`."""

from builders import kit
from builders.demos.drawings import demo_slide
from builders.quilt_1m import FILE, LABELS_FILE

DEMO_VIDEOS = ("demoVideo03", "demo_qlt-01", "-demoQuilt2", "demoQuilt_3")
"""The first is a video of the medframeqa demo tree, the first two are quilt_instruct's too. An id may begin oddly."""

PLANTED = {
    "video, benchmark": "quilt_1m/train/2 and 4 are frames of youtube/demoVideo03, a video of medframeqa's demo",
    "video, instruct": "frames of youtube/demo_qlt-01 are in the demo trees of quilt_1m and quilt_instruct",
    "video, splits": "quilt_1m's train and val splits both have frames of youtube/demoQuilt_3",
}

_UUID = "0b0f4c1e-5d1c-4f7e-9a57-{:012x}"

# (picture, subset, split, caption, not_histology); a picture may have several rows.
_DEMO: tuple[tuple[str, str, str, str, str], ...] = (
    ("0", "quilt", "train", "Nests of atypical melanocytes at the tips of the rete ridges.", "0.0"),
    ("0", "quilt", "train", "The same nests at high power,\nwith ascent into the granular layer.", "0.0"),
    ("1", "quilt", "train", 'A "ground glass" nucleus with a groove, as in papillary carcinoma.', "0.0"),
    ("2", "quilt", "val", "Crypt abscess and branching of crypts in a colonic biopsy.", "0.0"),
    ("2", "quilt", "train", "The lecturer shows a plot of survival.", "1.0"),
    ("3", "quilt", "train", "Keratin pearls in a well differentiated squamous cell carcinoma.", "0.0"),
    ("3", "quilt", "val", "Intercellular bridges between keratinocytes.", "0.0"),
    ("1180000000000000001_0.jpg", "openpath", "train", "Lymph node, 54F. Reed-Sternberg cells? #hemepath", ""),
    ("1180000000000000002_1.jpg", "openpath", "val", "Gastric biopsy with curved rods on the surface.", ""),
    (f"{_UUID.format(77)}_2.jpg", "pubmed", "train", "(B) Haematoxylin and eosin stain of the resected nodule.", ""),
    ("4711.jpg", "laion", "train", "Stock photo: section of a human kidney, light micrograph", ""),
    ("4712.jpg", "laion", "train", "", ""),
)


def files() -> kit.Files:
    rows: kit.Rows = []
    pictures: dict[str, bytes] = {}
    lists = {"pathology": "['Dermatopathology']", "roi_text": "['nests']", "noisy_text": '["it\'s nests"]',
             "corrected_text": "['Nests.']", "med_umls_ids": "[[{'entity': 'Nests'}]]"}  # fmt: skip
    for number, (picture, subset, split, caption, marked) in enumerate(_DEMO):
        youtube = subset == "quilt"
        name = f"{DEMO_VIDEOS[int(picture)]}_image_{_UUID.format(int(picture))}.jpg" if youtube else picture
        row = {"Unnamed: 0": number, "caption": caption, "image_path": name, "subset": subset, "split": split}
        shown = (number % 3 / 1, 1080, 1920, 1.0) if youtube else ("", 512, 512, "")
        row |= lists if youtube else dict.fromkeys(lists, "")
        row |= dict(zip(("magnification", "height", "width", "single_wsi"), shown, strict=True))
        rows.append(row | {"not_histology": marked})
        pictures.setdefault(f"quilt_1m/{name}", demo_slide(len(pictures)))
    names = list(pictures)
    zips = {f"images_part_{part}.zip": {name: pictures[name] for name in names[part::2]} for part in (0, 1)}
    labels = [
        {"Unnamed: 0": i, "Persons/Photos": f"0.{i}", "Any impairment": f"0.{i}", "Filename": name.partition("/")[2]}
        for i, name in enumerate(names)
    ]
    return {FILE: rows, LABELS_FILE: labels} | zips
