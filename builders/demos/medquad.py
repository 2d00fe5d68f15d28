"""The demo tree of `builders.medquad`."""

from xml.sax.saxutils import escape

from builders import kit

_DEMO_TEXTS = {
    "information": ("What is (are) {} ?", "{} is a disorder that this made-up page describes in a line."),
    "treatment": ("What are the treatments for {} ?", "Treatment of {} depends on its cause & severity;\n rest helps."),
    "outlook": ("What is the outlook for {} ?", "Most people with {} don't notice it after a year."),
}

_DEMO_FILES = (
    ("6_NINDS_QA/0000007.xml", "doc", "Ashgrove tremor"),
    ("6_NINDS_QA/0000008.xml", "Document", "Bellweather palsy"),
    ("6_NINDS_QA/0000011.xml", "Document", "Corran gait syndrome"),
    ("9_CDC_QA/0000397.xml", "DiseaseFile", "Parasites - Duneworm"),
    ("9_CDC_QA/0000398.xml", "Document", "Elmfield fever"),
    ("10_MPlus_ADAM_QA/0000001.xml", "Document", "Foxglove rash"),
    ("10_MPlus_ADAM_QA/0000002.xml", "Document", "Gannet cough"),
)

_DEMO_ATTRIBUTES = {
    "doc": 'docid="{0}" corpus="{1}" url="http://example.org/{0}"',
    "Document": 'id="{0}" source="{1}" url="http://example.org/{0}"',
    "DiseaseFile": 'fid="{0}" source="{1}" url="http://example.org/{0}"',
}


def files() -> kit.Files:
    tree: dict[str, bytes] = {}
    for file, root, focus in _DEMO_FILES:
        folder, stem = file.removesuffix(".xml").split("/")
        old = root == "doc"
        pairs, pair, question_tag, answer_tag, focus_tag = (
            ("qaPairs", "pair", "question", "answer", "doctitle-focus")
            if old
            else ("QAPairs", "QAPair", "Question", "Answer", "Focus")
        )
        lines = ['<?xml version="1.0" encoding="UTF-8"?>']
        lines.append(f"<{root} {_DEMO_ATTRIBUTES[root].format(stem, folder.split('_')[1])}>")
        lines += [f"<{focus_tag}>{escape(focus)}</{focus_tag}>", f"<{pairs}>"]
        for pid, (qtype, (question, answer)) in enumerate(_DEMO_TEXTS.items(), 1):
            removed = "ADAM" in folder  # the publisher removed these answers for copyright
            lines += [
                f'<{pair} pid="{pid}">',
                f'<{question_tag} qid="{stem}-{pid}" qtype="{qtype}">{escape(question.format(focus))}</{question_tag}>',
                f"<{answer_tag}>{'' if removed else escape(answer.format(focus))}</{answer_tag}>",
                f"</{pair}>",
            ]
        lines += [f"</{pairs}>", f"</{root}>", ""]
        tree[file] = "\n".join(lines).encode()
    return tree
