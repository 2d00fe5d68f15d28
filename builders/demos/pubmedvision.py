"""The demo tree of `builders.pubmedvision`."""

from builders import kit
from builders.demos.drawings import demo_figure
from builders.pubmedvision import FILE

# (pictures of the row, modality, body part, turns); made up.
_DEMO: tuple[tuple[int, str | None, str, tuple[str, ...]], ...] = (
    (1, "Computed Tomography", "Chest", (
        "Can you describe the image?",
        "An axial CT of the chest. The arrow marks a spiculated nodule in the right upper lobe.",
    )),
    (3, "Magnetic Resonance Imaging", "Brain", (
        "What do these images show, in their order?",
        "Three axial slices: T1, T2 and FLAIR. The lesion is bright on T2 and FLAIR.",
    )),
    (2, "Digital Photography", "Skin", (
        "Please compare the two pictures.", "Before treatment the plaque is red and scaly; after it, it has faded.",
        "Which side is shown?", "The left forearm, in both.",
    )),
    (1, None, "Eye", ("Describe the fundus.", "A round, pale disc with a cup-to-disc ratio of 0.7.")),
    (1, "Ultrasound", "Abdomen", ("What is seen?", " ")),
    (1, "Endoscopy", "Stomach", ("What organ is shown?",)),
)  # fmt: skip

_COPIED_ROW, _COPIED = 0, 10

PLANTED = {"other_source": "Alignment_VQA_1 shows panel 0 of PMC9000001's Fig3 in pmc_oa's tree; only pixels tell"}


def files() -> kit.Files:
    rows: kit.Rows = []
    zips: list[dict[str, bytes]] = [{}, {}]
    for number, (count, modality, part, turns) in enumerate(_DEMO):
        names = [f"pmc_{number + 1}_{k}.jpg" for k in range(count)]
        for k, name in enumerate(names):
            drawn = _COPIED if number == _COPIED_ROW else 100 + 10 * number + k
            # A row's pictures may lie in different zips, under a folder that its `image` does not name.
            zips[(number + k) % 2][f"mnt/pubmedvision/images/{name}"] = demo_figure(drawn)
        spoken = [{"from": ("human", "gpt")[turn % 2], "value": text} for turn, text in enumerate(turns)]
        row = {"image": [f"images/{name}" for name in names], "conversations": spoken}
        rows.append(row | {"id": f"Alignment_VQA_{number + 1}", "body_part": part, "modality": modality})
    return {FILE: rows} | {f"images_{number}.zip": members for number, members in enumerate(zips)}
