"""The demo tree of `builders.gmai_reasoning10k`."""

from builders import kit
from builders.demos.drawings import demo_picture
from builders.gmai_reasoning10k import FILES

PLANTED = {"both files": "--file rl asks, in another order, four of the six questions of the default"}

# (picture or pictures, question, reasoning, answer)
_DEMO: tuple[tuple[str | list[str], str, str, str], ...] = (
    ("2d/cls/ct/demo_lits/1.png",
     "<image>\nWhich organ holds the lesion?\nOptions:\nA: Liver\nB: Spleen\nC: Left kidney\nD: Pancreas",
     "The lesion lies in the right upper quadrant.\nThe liver is there.", "A"),
    ("2d/cls/fundus_photography/demo_dr/1.png",
     "<image>\nWhat does the photograph show? Options: A: Normal retina, B: Haemorrhages; C: Drusen",
     "There are dark blots in all quadrants.", "B: Haemorrhages"),
    (["2d/cls/endoscopy/demo_polyp/f1.jpg", "2d/cls/endoscopy/demo_polyp/f2.jpg"],
     "Which frame shows the polyp?\nOptions:\nA. The first\nB. The second\n<image>\n<image>",
     "The first frame is empty.", "The second"),
    ("2d/cls/x_ray/demo_bone/9.png", "<image>\nName the bone with the fracture line.",
     "It articulates with the humerus.", "The radius"),
    ("2d/cls/x_ray/demo_bone/9.png", "<image>\nWhich side?\nOptions:\nA: Left\nB: Right",
     "The marker says so.", "C"),
    ("2d/cls/x_ray/demo_bone/9.png", "<image>\nIs it displaced?\nOptions:\nA: Yes\nB: No", "", "B"),
)  # fmt: skip


def files() -> kit.Files:
    rows: dict[str, kit.Rows] = {"sft": [], "rl": []}
    pictures: dict[str, bytes] = {}
    for image, question, reasoning, answer in _DEMO:
        thought = f"<think>{reasoning}</think>\n<answer>{answer}</answer>"
        for kind, reply in (("sft", thought), ("rl", answer)):
            told = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
            rows[kind].append({"image": image, "conversations": told})
        for name in image if isinstance(image, list) else [image]:
            pictures[name] = demo_picture(name)
    # The answers-only file has another order and a row of its own.
    first, *others = rows["rl"]
    rows["rl"] = [*others[:2], first, others[2]]
    tables = {FILES[kind]: listed for kind, listed in rows.items()}
    return tables | {"images.zip": {f"images/{name}": data for name, data in pictures.items()}}
