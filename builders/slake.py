"""SLAKE 1.0, questions about 642 pictures in English and Chinese.

"SLAKE (English), 9,835" is the whole bilingual train.json. Each language is split by picture, but independently: 72 of
the 96 English test pictures are Chinese training pictures. So English alone is the default, and both languages are the
paper's variant, whose test split has the 836 closed questions (416 English, 420 Chinese) that the paper scores.

Closed questions of the evaluation splits get options by a fixed rule (the paper's conversion is unpublished): yes and
no, or the alternatives that the question itself lists. Where the answer is none of them (one English test row: "kidney
or spleen?", answered "Liver") the row stays an open question.
"""

import re
from typing import Any

from builders import kit
from medgpt.text import normalise

FILES = {"train": ("train.json",), "validation": ("validate.json", "validation.json"), "test": ("test.json",)}
_PICTURE = re.compile(r"xmlab[0-9]+/source\.jpg")
_SUBSETS = {"CLOSED": "closed", "OPEN": "open"}
_LANGUAGES = frozenset({"en", "zh"})
_YES_NO = (
    ("Yes", "No"), ("是的", "不是"), ("是", "否"), ("包含", "不包含"), ("包括", "不包括"), ("有", "没有"),
    ("可以", "不可以"), ("存在", "不存在"), ("正常", "不正常"), ("健康", "不健康"), ("能", "不能"), ("对", "不对"),
)  # fmt: skip
_CHINESE_FRAME = re.compile("^.*是|加权.*$|的$")
_CHINESE_LIST = re.compile("(?:在这个图像中|图中)?(?P<list>.+?)(?:哪个|谁)")
_ONE_WORD_EACH = re.compile(r"^[^,]*?(?P<first>[\w-]+)(?: weighted)? or (?:an? )?(?P<second>[\w-]+)(?: [^,]*)?$")


def _sample(row: kit.Row, language: str, picture: str, kind: str, question: str, answer: str) -> kit.Sample:
    file, qid = row.file, kit.number_of(row.values, "qid", row.file)
    kit.demand(language in _LANGUAGES, "bad_field", file, "q_lang is neither en nor zh")
    kit.demand(_PICTURE.fullmatch(picture), "bad_field", file, "img_name is not xmlab<number>/source.jpg")
    kit.demand(kind in _SUBSETS, "bad_field", file, "answer_type is neither CLOSED nor OPEN")
    kit.demand(language == "en" or row.params["paper_variant"], "other_language", file, language)
    closed = kind == "CLOSED" and row.split != "train" and answer.strip()
    options = closed_options(question, answer) if closed else None
    images = [kit.Image(f"slake/{picture}", *row.picture(f"imgs/{picture}"))]
    fields: dict[str, Any] = {"key": str(qid), "group": {"question_id": f"slake/{qid}"}, "subset": _SUBSETS[kind]}
    if not options:
        return kit.question_answer(row, question, answer, images, **fields)
    [label] = [label for label, text in options if normalise(text) == normalise(answer)]
    return kit.choice_sample(row, question, options, label, images, task="mcq", **fields)


def closed_options(question: str, answer: str) -> list[tuple[str, str]] | None:
    """(label, text) of a closed question, in the question's own order, or None where the answer is none of them.

    Yes and no come in this order always. Alternatives are what stands around "or" (in Chinese 还是, or before 哪个) in
    the question's last clause: "MRI, CT or X-Ray?" lists three. Texts are the question's words, all different.
    """
    gold = normalise(answer)
    for pair in _YES_NO:
        if gold in map(normalise, pair):
            return [("A", pair[0]), ("B", pair[1])]
    text = question.strip().rstrip("?？ ")
    if "还是" in text:
        listed = [_CHINESE_FRAME.sub("", part) for part in re.split("还是|[、,，]", text)]
    elif match := _CHINESE_LIST.match(text):
        listed = ["", *re.split("、|和|或者", match["list"])]
    elif match := _ONE_WORD_EACH.search(text):
        listed = [match["first"], match["second"]]
    else:
        listed = re.split(r",| or ", text)
    # The question's opening clause comes before the first comma, or is what the first alternative ends with.
    candidates = [re.sub(r"^(?:or|and)\s+", "", part.strip()) for part in listed]
    for start in range(len(candidates)):
        options = [part for part in candidates[start:] if part]
        names = [normalise(part) for part in options]
        if len(options) > 1 and gold in names and len(set(names)) == len(names) and (start or len(options) == 2):
            return [(chr(ord("A") + number), part) for number, part in enumerate(options)]
    return None


SOURCE = kit.table_source(
    name="slake",
    title="SLAKE 1.0: bilingual questions about CT, MR and X-ray pictures",
    homepage="https://www.med-vqa.com/slake/",
    revision="SLAKE 1.0, as in xiaoman-zhang/PMC-VQA@1678ec2",
    layouts=(kit.Layout("three JSON files, pictures in folders", "rows", "xiaoman-zhang/PMC-VQA@1678ec2"),),
    license="CC-BY-4.0",
    task="vqa",
    splits={"train": "train", "validation": "eval", "test": "eval"},
    obtain="""
Download Slake1.0.zip from https://www.med-vqa.com/slake/ and unpack it, or clone the dataset BoKelvin/SLAKE from
https://huggingface.co.""",
    files=FILES,
    pictures=("imgs", "imgs.zip"),
    flat=False,  # all are named source.jpg
    each_picture=True,
    values=("qid",),
    fields=("q_lang", "img_name", "answer_type", "question", "answer"),
    sample=_sample,
    reasons={"other_language": "not the language asked for; --paper-variant keeps it"},
    published={"train": 9_835, "validation": 2_099, "test": 2_094},
    paper=(
        'train 9,835 ("English"), which is 4,919 English + 4,916 Chinese rows; benchmark 836, which is the closed test '
        "questions of both languages. We read English alone, 4,918 rows (one has no answer): Chinese training rows "
        "show 72 of the 96 English test pictures. --paper-variant reads both, 9,834."
    ),
    paper_rows=(
        kit.PaperRow("SLAKE (English)", "IT", 9_835, "really both languages: --paper-variant; English alone has 4,918"),
        kit.PaperRow(
            "SLAKE (English)", "EVAL", 836, "closed test rows of both languages: --paper-variant; English 416"
        ),
    ),
    hub_id="BoKelvin/SLAKE",
    hub_revision="a9083ce6c34ac3ffb17671a605962924d8a8f9e9",
    hub_files=("train.json", "validation.json", "test.json", "imgs.zip"),
    options=(kit.PAPER_VARIANT,),
)

if __name__ == "__main__":
    kit.run(SOURCE)
