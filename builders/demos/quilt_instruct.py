"""The demo tree of `builders.quilt_instruct`."""

from builders import kit
from builders.demos.drawings import demo_slide
from builders.demos.quilt_1m import DEMO_VIDEOS
from builders.quilt_instruct import FILE

PLANTED = {
    "video, benchmark": "quilt_instruct/train/0 is a frame of youtube/demoVideo03, a video of medframeqa's demo",
    "video, pretrain": "youtube/demoVideo03 and youtube/demo_qlt-01 are videos of the quilt_1m demo tree too",
}

# (video in quilt_1m's demo, turns: human and gpt by turns)
_DEMO: tuple[tuple[int, tuple[str, ...]], ...] = (
    (0, ("<image>\nWhat pattern do these nests show?", "A lentiginous pattern along the junction.")),
    (1, ("Which feature of the nuclei stands out?\n<image>", "Grooves and clearing.",
         "What does that suggest?", "A papillary carcinoma of the thyroid.")),
    (1, ("<image>\nDescribe the section.", "Follicles lined by crowded cells with pale nuclei.")),
    (3, ("What is seen in the crypts?", "Neutrophils, a crypt abscess.")),
    (3, ("<image>\nIs there dysplasia?", "")),
    (3, ("<image>\nWhat remains to be done?",)),
)  # fmt: skip


def files() -> kit.Files:
    rows: kit.Rows = []
    for number, (video, turns) in enumerate(_DEMO):
        told = [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(turns)]
        name = f"{DEMO_VIDEOS[video]}_roi_7c9e6679-7425-40de-944b-{number:012x}.jpg"
        rows.append({"id": f"{DEMO_VIDEOS[video]}_{number // 2}", "image": name, "conversations": told})
    rows[2]["conversations"] = [
        {"role": {"human": "user", "gpt": "assistant"}[turn["from"]], "content": turn["value"]}
        for turn in rows[2]["conversations"]
    ]
    pictures = {f"quilt_instruct/{row['image']}": demo_slide(100 + number) for number, row in enumerate(rows)}
    # The second file lies beside it on the hub, with other rows of the same kind; never read.
    return {FILE: rows, "quilt_instruct_ablation_40k.json": rows[:1], "quilt_instruct.zip": pictures}
