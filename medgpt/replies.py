"""What a language model's reply says: its answer without thoughts, its text without presentation.

The one rule of all that reads replies (choices, open questions, conversations, judges of answers and of captions);
`eval.versions` (mcq) and `filters.language_model` (READING) say when it changed.
"""

import re
import unicodedata
from functools import lru_cache

_ZERO_WIDTH = re.compile(r"[\u200b-\u200f\u2060\ufeff\ufe0f]")
_TEX_TEXT = re.compile(r"\\(?:text(?:bf|rm|it|sf)?|mathrm|mathbf|mathsf|rm|bf)\s*\{([^{}]*)\}")
_HTML = re.compile(r"</?(?:b|i|em|strong|s|p|br)\s*/?>")  # in capitals it may be an answer: <B>
_END_TOKENS = re.compile(r"<\|[^|]*\|>|</s>|<eos>|<end_of_turn>")
_DOLLAR = re.compile(r"(?<!\\)\$")
_TEX_DELIMITERS = re.compile(r"\\[()\[\]]")
_MARKDOWN = re.compile(r"[*_`#]+")
_MARKED = re.compile(r"[<*_`#$\\]")


def clean(text: str) -> str:
    """A text without presentation: Unicode forms, HTML and Markdown emphasis, LaTeX wrappers, end tokens."""
    if text.isascii() and not _MARKED.search(text):
        return text  # plain ASCII without a sign of markup: nothing below would change it
    text = _ZERO_WIDTH.sub("", unicodedata.normalize("NFKC", text)).replace("’", "'")
    while "\\" in text and (plain := _TEX_TEXT.sub(r"\1", text)) != text:
        text = plain
    if "<" in text:
        text = _END_TOKENS.sub(" ", _HTML.sub(" ", text))
    if "$" in text:
        text = _DOLLAR.sub("", text)
    return _MARKDOWN.sub("", _TEX_DELIMITERS.sub("", text) if "\\" in text else text)


_CHANNEL = "<|channel|>"
_HARMONY = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"([^<]*(?:<(?!\|(?:end|return|call|start)\|>)[^<]*)*)"
)
_STRIPPED_FINAL = "assistantfinal"
_STRIPPED_ANALYSIS = re.compile(r"\s*(?:assistant)?analysis(?!\s)")
_REASONING = re.compile(
    r"[<\[◁]\|?(/?)(?:think|thinking|thought|reasoning|scratchpad|seed:think|unused9(?P<gemma>[45])"
    r"|(?P<edge>begin|start|end)_(?:of_thought|thinking)(?=\|))\|?[>\]▷]",
    re.IGNORECASE,
)
_ANSWER_TAG = re.compile(
    r"[<\[](answer|final_answer|response|ans|choice|final|output)[>\]](.*?)[<\[]/\1[>\]]", re.DOTALL | re.IGNORECASE
)
_OPEN_TAG = re.compile(r"<(?:answer|final_answer)>", re.IGNORECASE)
_NEXT_TURN = re.compile(
    r"</s>|<eos>|<end_of_turn>|<\|(?:im_end|im_start|eot_id|endoftext|end|return)\|>|\[INST\]"
    r"|\n[^\S\n]*(?:#+\s*)?(?:Human|User|Question(?:\s*\d+)?|Q|Instruction|Input)\s*(?::|\n)"
)


@lru_cache(maxsize=8)
def final_text(text: str) -> tuple[str | None, str]:
    """(what the model answered, how it was found), or (None, why there is no answer). Reasoning is left out."""
    how = "plain"
    if _CHANNEL in text:
        finals = [match[2] for match in _HARMONY.finditer(text) if match[1] == "final"]
        if not finals:
            return None, "no_final_channel"
        text, how = finals[-1], "harmony"
    elif _STRIPPED_FINAL in text:
        # Harmony decoded without its special tokens: channel names run into the text.
        text, how = text.rsplit(_STRIPPED_FINAL, 1)[1], "harmony_stripped"
    elif _STRIPPED_ANALYSIS.match(text):
        return None, "no_final_channel"
    tagged = "<" in text or "[" in text or "◁" in text
    if tagged and (marks := list(_REASONING.finditer(text))):
        if not (marks[-1][1] or marks[-1]["gemma"] == "5" or (marks[-1]["edge"] or "").lower() == "end"):
            return None, "reasoning_not_closed"
        text, how = text[marks[-1].end() :], "after_reasoning" if how == "plain" else how
    if tagged and (tags := _ANSWER_TAG.findall(text)):
        return tags[-1][1], "answer_tag"
    if "<" in text and (opened := _OPEN_TAG.search(text)):
        return text[opened.end() :], "answer_tag"
    for match in _NEXT_TURN.finditer(text) if tagged or "\n" in text else ():
        if clean(text[: match.start()]).strip():
            return text[: match.start()], how
    return text, how
