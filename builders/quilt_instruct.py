"""Quilt-Instruct: conversations by GPT-4 about frames of the histopathology videos of Quilt-1M.

The recipe lists it as "Quilt-VQA, 107,131": that is this set's size, while Quilt-VQA proper (1,283 questions about 985
pictures) is a test set made from the same videos, and is not read here. Pictures are named after their video. Turns
have the keys `from` and `value`, in some of the publisher's files `role` and `content`.
"""

from builders import kit

FILE = "quilt_instruct_107k.json"


def _sample(row: kit.Row, name: str) -> kit.Sample:
    file, number = row.file, kit.id_of(row.values, "id", row.file)
    turns = kit.turns_of(kit.field_of(row.values, "conversations", file), file)
    # One id may be given to several conversations: it is no key.
    group = {"video_id": kit.video_id(name, file), "question_id": f"quilt_instruct/{number}"}
    # The picture stands first, wherever the publisher's token was within the first question.
    images = [kit.Image(f"quilt_instruct/{name}", *row.picture(name))]
    subset = "single" if len(turns) == 2 else "several"
    return kit.conversation_sample(row, turns, images, group=group, subset=subset)


SOURCE = kit.table_source(
    name="quilt_instruct",
    title="Quilt-Instruct: conversations about frames of histopathology videos",
    homepage="https://quilt-llava.github.io",
    revision="aldraus/quilt-llava@a7a9a4c and the tree of wisdomik/QUILT-LLaVA-Instruct-107K",
    layouts=(kit.Layout("the table; pictures by form", "code", "aldraus/quilt-llava@a7a9a4c"),),
    license="CC-BY-NC-ND-3.0",
    access="gated",
    task="vqa",
    obtain="""
Table: accept the terms of https://huggingface.co/datasets/wisdomik/QUILT-LLaVA-Instruct-107K and fetch it (--download
does it, with your token). Pictures, 25 GB, are not on the hub: ask by the form https://forms.gle/TKohQ7zLwYfFn8qRA
(github.com/aldraus/quilt-llava). NoDerivatives: build it for yourself, do not pass converted shards on.""",
    files={"train": FILE},
    pictures=("quilt_instruct.zip", "quilt_instruct"),
    pictures_from="not on the hub, ask by the form https://forms.gle/TKohQ7zLwYfFn8qRA",
    fields=("image",),
    values=("id", "conversations"),
    sample=_sample,
    published={"train": 107_131},
    paper=(
        'listed as "Quilt-VQA", 107,131, which is the size of Quilt-Instruct; Quilt-VQA proper, 1,283 questions, is a '
        "test set. The licence is by a third-party audit."
    ),
    paper_rows=kit.paper_row(
        "Quilt-VQA", "IT", 107_131, "misnamed in the paper: this is Quilt-Instruct; Quilt-VQA is a test set"
    ),
    hub_id="wisdomik/QUILT-LLaVA-Instruct-107K",
    hub_files=(FILE,),
)

if __name__ == "__main__":
    kit.run(SOURCE)
