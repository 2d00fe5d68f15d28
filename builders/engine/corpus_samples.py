"""What a row of a corpus made elsewhere says: texts, dialogue, question, options and pictures in their usual forms.

Nothing that a row says is left out of its sample because it has an unusual form: what is not read is not compared.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from builders.engine.archives import PictureStore
from builders.engine.corpus_mapping import DEFAULT_PREFIX, Rules, option_columns, option_label
from builders.engine.corpus_rows import found_values, kind_of
from builders.engine.corpus_values import TEXT_WORDS, TOKENS, extension, is_link, parsed, picture_of
from builders.engine.rawfiles import read_bytes
from builders.engine.source import InputError, Role
from medgpt.formats import PICTURE_SUFFIXES, format_of
from medgpt.limited import check_values
from medgpt.text import fold

_DEFAULT_PATHS = ("image", "images")

_FILE_NAME = re.compile(r"[\w./()+=,@%-]{1,200}")
_PLACEHOLDER = re.compile(r"<image>\n?")

_SPEAKERS = {"assistant": "assistant", "gpt": "assistant", "model": "assistant", "system": "system"}


def strings(value: Any) -> list[str]:
    """All texts and numbers within a value, in their order, but pictures spelt as text. Raises: `InputError`."""
    found: list[str] = []
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, Mapping):
            stack.extend(reversed(list(item.values())))
        elif isinstance(item, list | tuple):
            stack.extend(reversed(item))
        elif item is not None and not isinstance(item, bool):
            found.append(_scalar(item))
    return [text for text in found if text]


def _scalar(value: Any) -> str:
    """One value as text; a whole number that was stored as a float (a column with gaps) loses its `.0`."""
    if isinstance(value, InputError):
        raise value
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise InputError("not_utf8", "", f"byte {error.start}") from None
    if isinstance(value, float):
        if value != value:  # NaN: a gap
            return ""
        if value.is_integer():
            value = int(value)
    text = _PLACEHOLDER.sub("", str(value)).strip()
    return "" if " " not in text[:60] and picture_of(text) else text


def _prose(value: Any) -> list[str]:
    """As `strings`; a list of words, or of lines of a few, is one text."""
    found = strings(value)
    cut = isinstance(value, list) and len(value) >= TOKENS and all(isinstance(one, str) for one in value)
    return [" ".join(found)] if cut and len(" ".join(found).split()) < TEXT_WORDS * len(found) else found


def joined(values: Mapping[str, Any], fields: Iterable[str]) -> str | None:
    """All texts of some fields, one a line; None where there is none."""
    texts = [text for value in found_values(values, fields) for text in _prose(value)]
    return "\n".join(dict.fromkeys(texts)) or None


def _first_joined(values: Mapping[str, Any], rules: Rules, key: str) -> str | None:
    """As `joined` of the fields of a key; of its default names the first that says something."""
    if getattr(rules, key) is not None:
        return joined(values, rules.of(key))
    return next(filter(None, (joined(values, [field]) for field in rules.of(key))), None)


class _Turn(NamedTuple):
    role: str
    text: str
    reasoning: str | None


def _turns(value: Any) -> list[_Turn] | None:
    """A dialogue in one of the two usual forms, {from, value} and {role, content}; None if it is none."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        check_values(value)
        value = parsed(value)
    if not isinstance(value, list) or not value:
        return None
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping):
            return None
        speaker = turn.get("from", turn.get("role"))
        if not isinstance(speaker, str) or not ("value" in turn or "content" in turn):
            return None
        said = turn.get("value", turn.get("content"))
        pieces = said if isinstance(said, list) else [said]
        parts = [piece.get("text", piece.get("content")) if isinstance(piece, Mapping) else piece for piece in pieces]
        reasoning = [turn.get(name) for name in ("reasoning", "reasoning_content", "thinking")]
        text = "\n".join(strings(parts))
        turns.append(_Turn(_SPEAKERS.get(speaker.lower(), "user"), text, "\n".join(strings(reasoning)) or None))
    return turns


def _options(values: Mapping[str, Any], rules: Rules) -> tuple[list[tuple[str, str]], str | None]:
    """(label, text) of the options of a row, and what stands there in a form that has no options in it."""
    if rules.labelled_options:
        found = [(label, joined(values, [field])) for label, field in rules.labelled_options]
        return [(label, text) for label, text in found if text], None
    options: list[tuple[str, str]] = []
    others: list[str] = []
    for value in found_values(values, rules.listed_options):
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            check_values(value)
            value = parsed(value)  # or a text that begins with a bracket
        if isinstance(value, list | Mapping) and not options:
            options = _option_list(value)
        else:
            others += strings(value)
    if not options and rules.options is None and (columns := option_columns(tuple(values))):
        found = [(label, joined(values, [field])) for label, field in columns]
        options = [(label, text) for label, text in found if text]
    return options, "\n".join(others) or None


def _option_list(value: Mapping[str, Any] | list[Any]) -> list[tuple[str, str]]:
    pairs: list[tuple[Any, Any]]
    if isinstance(value, Mapping):
        texts, named = value.get("text"), value.get("label")
        if isinstance(texts, list) and isinstance(named, list) and len(texts) == len(named):
            pairs = list(zip(named, texts, strict=True))
        else:
            pairs = list(value.items())
    else:
        pairs = [_labelled(number, item) for number, item in enumerate(value)]
    options = [("\n".join(strings(label)), "\n".join(strings(text))) for label, text in pairs]
    # An empty one among others stays, else an answer given as a number would mean another.
    return options if any(text for _, text in options) else []


def _labelled(number: int, item: Any) -> tuple[Any, Any]:
    """Label and text of an option in a list: a plain text, or an object with names for both."""
    if isinstance(item, Mapping):
        label = [name for name in ("label", "key", "letter", "id") if item.get(name)]
        text = [name for name in ("text", "value", "content") if name in item]
        if text:
            return item[label[0]] if label else option_label(number), item[text[0]]
    return option_label(number), item


def _gold(options: list[tuple[str, str]], answer: str | None) -> str | None:
    """The label that an answer names: a label, the text of one option, or an index from 0."""
    if answer is None:
        return None
    labels = [label for label, _ in options]
    if answer in labels:
        return answer
    for label, text in options:
        if text == answer:
            return label
    if answer.isdecimal() and int(answer) < len(labels):
        return labels[int(answer)]
    bare = answer.strip("().: ").upper()
    if bare not in labels and (mark := _LABEL_LINE.match(answer)) and (label := mark[1].upper()) in labels:
        said, text = (fold(part).strip(_AROUND) for part in (answer[mark.end() :], dict(options)[label]))
        return label if text and said.startswith(text) else None
    return bare if bare in labels else None


_LABEL = r"[-*\u2022(\[<{'\"]*([A-Za-z]|\d{1,2})['\"]?(?:[).:\]>}]+[*'\"]*|\*+)"
_LABEL_LINE = re.compile(rf"^[ \t]*{_LABEL}[ \t]*['\"]?(?=\S)", re.MULTILINE)
_LABEL_INLINE = re.compile(rf"(?<!\S){_LABEL}[ \t]*['\"]?(?=\S)")
_TOLD = re.compile(r"\b(?:answers?|options?|letters?|choices?)\b", re.IGNORECASE)
"""A line behind the options with such a word tells how to answer."""
_MARKS = 100
"""Labels that are looked at, the last ones of a question."""
_AROUND = " \t\r\n.,;*'\"}]"
"""Marks around an option that stands within a question."""


def _options_within(question: str, answer: str | None) -> tuple[str, list[tuple[str, str]]]:
    """Stem and options of a question that lists them itself, as prompts do; no options unless the answer is one.

    On lines of their own, or three and more one after the other: `A. x`, `(b) x`, `2) x`, `'A': 'x'`.
    """
    for pattern, least in (_LABEL_LINE, 2), (_LABEL_INLINE, 3):
        marks = list(pattern.finditer(question))[-_MARKS:] if answer else []
        for start in reversed([at for at, mark in enumerate(marks) if mark[1] in ("A", "a", "1")]):
            series = marks[start : start + 1]
            for mark in marks[start + 1 :]:
                if mark[1] == _following(series[-1][1]):
                    series.append(mark)
            ends = [mark.start() for mark in series[1:]]
            line = question.find("\n", series[-1].end())
            ends.append(line if line >= 0 else len(question))
            spans = zip(series, ends, strict=True)
            options = [(mark[1].upper(), question[mark.end() : end].strip(_AROUND)) for mark, end in spans]
            if len(series) >= least and _gold(options, answer) is not None:
                rest = [line for line in question[ends[-1] :].split("\n") if "?" in line or not _TOLD.search(line)]
                stem = "\n".join([question[: series[0].start()], *rest]).strip()
                return stem or question, options
    return question, []


def _following(label: str) -> str:
    return str(int(label) + 1) if label.isdecimal() else chr(ord(label) + 1)


def _alpaca_input(values: Mapping[str, Any], rules: Rules) -> str | None:
    """What is asked in Alpaca's form, if it says something: its `instruction` only tells what to do with it."""
    if rules.question is not None or rules.text is not None or joined(values, ("question", "Question", "QUESTION")):
        return None
    said = joined(values, ("input",)) if joined(values, ("instruction",)) else None
    return said if said and len(said.split()) >= TEXT_WORDS else None


def group_value(kind: str, value: Any, prefix: str) -> str | None:
    """An id as it is compared, `<prefix>/<value>`; None where the row has none. Raises: `InputError`."""
    texts = strings(value)
    if not texts:
        return None
    if len(texts) > 1:
        raise InputError("bad_field", "", f"{kind}: {len(texts)} values where one is expected")
    text = texts[0]
    if prefix:
        text = text.removeprefix(f"{prefix}/")
    if kind in ("subject_id", "study_id", "prior_study_id"):
        text = _spelt_alike(text)
    if kind == "pmcid" and prefix == DEFAULT_PREFIX[kind]:
        text = f"PMC{text}" if text.isdecimal() else text.upper()
    return f"{prefix}/{text}" if prefix else text


def _spelt_alike(text: str) -> str:
    """A patient's or study's id however it was written: `PT-0012`, `pt 12`, `00012`, `12.0` of a column of floats."""
    signs = _SIGNS.sub("-", fold(_FLOAT.sub(r"\1", text))).strip("-")
    return _CALLED.sub("", _ZEROS.sub("", signs)) or text


_FLOAT, _SIGNS, _ZEROS = re.compile(r"^(\d+)\.0+$"), re.compile(r"(?:[^\w/]|_)+"), re.compile(r"(?<!\d)0+(?=\d)")
_CALLED = re.compile(r"(?:(?<=/)|^)(?:patient|pat|pt|p|subject|subj|sub|study|s|id)-?(?=\d+$)")
"""What is put before a number that is an id: MIMIC's `p10000032`, CheXpert's `patient00001`, BIDS' `sub-01`."""


def picture_fields(file: str, columns: Iterable[str], values: Mapping[str, Any]) -> Sequence[str]:
    """Fields of a row that hold pictures by their type; of Parquet those `columns`."""
    kind = kind_of(file)
    if kind != "tar":
        return list(dict.fromkeys([*columns, *(name for name in _DEFAULT_PATHS if name in values)]))
    return [
        name
        for name, value in values.items()
        if isinstance(value, bytes | InputError)
        and (extension(name) in PICTURE_SUFFIXES or (isinstance(value, bytes) and format_of(value)))
    ]


@dataclass
class Pictures:
    """Where the pictures of a corpus are: in values, in files below `raw`, in its zips."""

    raw: Path
    zips: PictureStore
    links: int = 0
    """How many addresses of pictures elsewhere were met."""
    zipped: set[str] = field(default_factory=set)
    """Members of zips that were read, `<zip>!<member>`."""

    def within(self, file: str, value: Any) -> Iterator[bytes]:
        """The pictures that a value of a row of `file` holds or names. Raises: `InputError`."""
        if found := picture_of(value):
            yield found
        elif isinstance(value, bytes):
            if not value:
                raise InputError("empty_file", file)
            yield value
        elif isinstance(value, InputError):
            raise value
        elif isinstance(value, str):
            if is_link(value):
                self.links += 1
            elif value.startswith("[") and isinstance(listed := parsed(value), list):
                yield from self.within(file, listed)
            else:
                yield self.named(file, value)
        elif isinstance(value, list):
            for item in value:
                yield from self.within(file, item)
        elif isinstance(value, Mapping) and ("bytes" in value or "path" in value):
            inner = value.get("path") if value.get("bytes") is None else value["bytes"]
            yield from self.within(file, inner)
        elif value is not None:
            raise InputError("bad_field", file, f"a picture is bytes or a file's name, not {type(value).__name__}")

    def named(self, file: str, name: str) -> bytes:
        """A picture file that a row names, relative to the corpus or to the row's own file, else a member of a zip.

        Raises: `InputError`.
        """
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\x00" in name:
            raise InputError("missing_image", file, "its name leads out of the corpus")
        reason, hint = "missing_image", ""
        for otherwise in (False, True):
            for place in (self.raw, (self.raw / file).parent):
                try:
                    return read_bytes(place / path, self.raw, otherwise=otherwise)
                except InputError as error:
                    if error.reason != "missing_image":
                        reason = error.reason
                    hint = hint or (error.detail if otherwise else "")
                except ValueError:  # no file can have that name
                    raise InputError(reason, file, _called(name)) from None
        member, read = self.zips.reader(name)
        if reason != "missing_image" or "!" not in member:
            raise InputError(reason, file, "; ".join(filter(None, (_called(name), hint))))
        self.zipped.add(member)
        return read()


def _called(name: str) -> str:
    """A file's name for a message; a field that holds a text instead is not repeated."""
    return name if _FILE_NAME.fullmatch(name) else f"a name of {len(name)} characters that is not shown"


def _message(role: str, images: int, texts: Iterable[str | None], reasoning: str | None = None) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "image", "text": None, "index": index} for index in range(images)]
    content += [{"type": "text", "text": text, "index": None} for text in texts if text]
    return {"role": role, "reasoning": reasoning, "content": content}


def shape(values: Mapping[str, Any], rules: Rules, images: int, role: Role, lead: str = "") -> dict[str, Any]:
    """Task, messages, question, options and answer of a row. No wording is added: all of it is the corpus' own.

    `lead`: how test questions begin that is none of theirs (`common_lead`).

    Raises: `InputError`, also where there is neither text nor picture.
    """
    question, answer = (_first_joined(values, rules, key) for key in ("question", "answer"))
    reasoning = joined(values, rules.of("reasoning"))
    options, other_options = _options(values, rules)
    texts, turns = _said(values, rules)
    system = [turn for turn in turns if turn.role == "system"]
    spoken = [turn for turn in turns if turn.role != "system"]
    roles = [turn.role for turn in spoken]
    earlier: list[_Turn] = []
    if (
        not (question or texts)
        and (roles[-1:] == ["user"] or roles[-2:] == ["user", "assistant"])
        and (role == "eval" or len(spoken) < 3)
    ):
        # A question, maybe with its answer, written as a dialogue; beside another answer, how that is found. Of a test
        # item the last: worked examples stand before it.
        last = len(roles) - 1 - roles[::-1].index("user")
        earlier, question, replies, spoken = spoken[:last], spoken[last].text, spoken[last + 1 :], []
        for turn in replies:
            thought = [reasoning, turn.reasoning, turn.text if answer else None]
            answer, reasoning = answer or turn.text, "\n".join(filter(None, thought)) or None
    asked, within = question, list[tuple[str, str]]()
    if question and not options:
        asked, within = _options_within(question, answer)
    if question and not within and (inputs := _alpaca_input(values, rules)):
        asked, within = _options_within(inputs, answer) if not options else (inputs, [])
    if asked and lead and asked.startswith(lead):
        asked = asked[len(lead) :].strip() or asked
    listed, options = options, options or within
    gold = _gold(options, answer) if options else answer
    messages = [_message(turn.role, 0, [turn.text], turn.reasoning) for turn in (*system, *earlier)]
    if question:
        shown = "\n".join(
            [*(f"{label}. {text}" for label, text in listed), *([other_options] if other_options else ())]
        )
        messages.append(_message("user", images, [*texts, f"{question}\n\n{shown}" if shown else question]))
        named = f"{gold}. {dict(options)[gold]}" if listed and gold is not None else ""
        reply: list[str | None] = [max(named, answer or "", key=len)]  # an option's text, maybe with reasons
        task = "vqa" if images else "mcq" if options else "qa"
    else:
        if images and not (spoken and spoken[0].role == "user"):
            messages.append(_message("user", images, []))
        reply = [*texts, *(text for _, text in options), other_options, answer]
        task = "instruction" if spoken else "image"
        if any(reply) or reasoning:
            task = "caption" if images else "text"
    if any(reply) or reasoning:
        messages.append(_message("assistant", 0, reply, reasoning))
    for turn in spoken:
        placed = any(part["type"] == "image" for message in messages for part in message["content"])
        messages.append(_message(turn.role, 0 if placed else images, [turn.text], turn.reasoning))
    if not messages:
        raise InputError("missing_field", "", "no text and no picture")
    return {"task": task, "messages": messages, "question": asked, "options": options or None, "answer": gold}


def _beginning(one: str, other: str) -> str:
    return one[: next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))]


LEAD_WORDS = 8
"""A shorter beginning that most questions share is left to what the words weigh."""
_LEADS_FROM = 10
_ENDS = re.compile(r"[.?!:]\s+|\n")


def common_lead(questions: Iterable[str]) -> str:
    """With what more than half of the different questions begin: instructions, worked examples. Empty: with nothing."""
    known = sorted(set(questions))
    half = len(known) // 2
    pairs = zip(known, known[half:], strict=False) if len(known) >= _LEADS_FROM else ()
    shared = max((_beginning(*pair) for pair in pairs), key=len, default="")
    shared = shared[: max((end.end() for end in _ENDS.finditer(shared)), default=0)]  # no question in halves
    return shared if len(shared.split()) >= LEAD_WORDS else ""


def _said(values: Mapping[str, Any], rules: Rules) -> tuple[list[str], list[_Turn]]:
    """Free texts and turns of dialogues."""
    texts: list[str] = []
    turns: list[_Turn] = []
    for value in found_values(values, rules.of("text")):
        dialogue = _turns(value)
        if dialogue is None:
            texts += _prose(value)
        else:
            turns += [turn for turn in dialogue if turn.text or turn.reasoning]
    return list(dict.fromkeys(texts)), turns
