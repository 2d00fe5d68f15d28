"""What a builder declares and yields. Standard library only, so that `--help` answers at once.

A source module defines one `SOURCE = Source(...)`. Its `plan` cuts the raw tree into units, its `read` turns the
rows of one unit into samples or rejects: exactly one outcome a row, in the order of the rows. Everything else
(processes, resuming, fingerprints, shards, manifests, counts) is `builders.engine.loop`.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from medgpt import TRACEBACK
from medgpt.errors import NOT_FINISHED, UserError, place

Params = Mapping[str, Any]
"""The options that shape a build, JSON values only; they enter every unit key and `build.json`."""

Role = Literal["train", "eval"]
Access = Literal["open", "gated", "credentialed"]

# Why a row was rejected, and what to do. `damaged` reasons are faults of the input: they count against the
# build's budget and its exit code. `rule` reasons are decisions of the recipe or the publisher's own gaps; here are
# those that several sources have, each source declares its own.
RULE_REASONS: dict[str, str] = {
    "duplicate_item": "the publisher repeats this item; nothing to do",
    "empty_answer": "the publisher left the answer empty; nothing to do",
    "empty_caption": "the publisher left the caption empty; nothing to do",
    "empty_option": "the publisher left one of the options empty; nothing to do",
    "empty_question": "the publisher left the question empty; nothing to do",
    "empty_reasoning": "the publisher left the reasoning empty; nothing to do",
    "license_not_allowed": "its licence is not on the --licenses list; nothing to do",
    "odd_turns": "its turns are not user and assistant by turns; nothing to do",
    "subject_of_test_split": "the subject has official test or validate images; --paper-variant keeps it",
    "unclear_answer": "the answer names no option, or its letter and its text name two; nothing to do",
    "unfinished_reasoning": "the reasoning breaks off before an answer; nothing to do",
}
DAMAGED_REASONS: dict[str, str] = {
    "bad_archive": "the archive is damaged or ends early; fetch it again",
    "bad_field": "a field has a value it cannot have; fetch the file again",
    "bad_id": "an identifier has the wrong shape (columns swapped?); fetch the file again",
    "bad_row": "the row cannot be parsed; fetch the file again",
    "bad_xml": "the XML cannot be parsed; fetch the file again",
    "corrupt_image": "the picture cannot be decoded; fetch it again",
    "duplicate_id": "the identifier occurs before; keep one row",
    "empty_file": "the file has no bytes; fetch it again",
    "image_too_large": "more pixels than the limit; downscale it first",
    "missing_field": "a field that the publisher always fills is missing; fetch the file again",
    "missing_image": "the picture is not in the tree; fetch it, or build with --no-images",
    "missing_report": "the report is not in the tree; fetch it",
    "not_in_metadata": "listed in the split file, absent from the metadata file; use files of one release",
    "not_in_split": "listed in the metadata file, absent from the split file; use files of one release",
    "not_utf8": "the text is not UTF-8; fetch the file again",
    "several_frames": "a file of several frames; --frames says which one to take",
    "split_conflict": "one study is listed under two splits or two subjects; fetch the files again",
    "too_large": "more bytes than are read (`medgpt.limited`), or it inflates without end; look at it, leave it out",
    "truncated_image": "the picture ends early; fetch it again",
    "unreadable_file": "the file may not be read, or is no file; mend it or fetch it again",
    "unsupported_image": "no decoder for it here; install what the detail names, or convert it",
}

_LONGEST_KEY, _LONGEST_NAME = 120, 90
"""Characters of a key, and of what stands behind its last `/`: file names in a tar hold no more."""
_KEY = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*")


def safe_key(key: str) -> str:
    """A key as a sample's name can hold it; letters, digits, `_`, `-` and single `/` within it stay as they are.

    All else is written as percent and two digits a byte of UTF-8, as in URLs: `fig.1 a` is `fig%2E1%20a`, and
    `urllib.parse.unquote` gives it back. So are slashes that part nothing (`/a`, `a//b`, `a/`). No two keys become the
    same, and none becomes one that was good; keys that differ in case stay different.

    A `Sample` refuses keys that are empty, too long or hold control codes: what stands there is no id.
    """
    if _KEY.fullmatch(key):
        return key
    parts = [quote(part, "", errors="surrogatepass").replace(".", "%2E").replace("~", "%7E") for part in key.split("/")]
    spelt = parts[0]
    for before, part in pairwise(parts):
        spelt += ("/" if before and part else "%2F") + part
    return spelt


class NotThisSource(UserError):
    """The raw tree is not this source at all, or lacks a file without which nothing can be built."""


class BuildStopped(UserError):
    """The build did not finish; what is done stays and is reused by the next run."""

    exit_code = NOT_FINISHED


class InputError(Exception):
    """One row or file is damaged; the build turns it into a `Reject` for the row in hand.

    Attributes: `reason` is a key of `DAMAGED_REASONS`, `RULE_REASONS` or the source's own; `file` and `detail` name
    what, never content.
    """

    def __init__(self, reason: str, file: str, detail: str = "") -> None:
        super().__init__(f"{file}: {reason}" + (f" ({detail})" if detail else ""))
        self.reason, self.file, self.detail = reason, file, detail


def demand(holds: object, reason: str, file: str, detail: str = "") -> None:
    """Raise the `InputError` for the row in hand unless something `holds`."""
    if not holds:
        raise InputError(reason, file, detail)


@contextmanager
def told(what: str, kind: type[UserError]) -> Iterator[None]:
    """Whatever a source's code, or a library below it, raises over a damaged tree, as one line of `kind`."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except InputError as error:
        raise kind(f"{what}: {error}") from error
    except Exception as error:
        raise kind(
            f"{what}: {type(error).__name__} {place(error)}: a damaged file, or another layout "
            f"({TRACEBACK}=1 shows more)"
        ) from error


@dataclass(frozen=True)
class Image:
    """One image of a sample: where it came from and how to get its bytes (not called in a metadata-only build)."""

    image_id: str
    """The publisher's name in its own namespace, `slake/xmlab1/source.jpg`: equal ids mean the same picture."""
    file: str
    """Path inside the raw tree (or `archive!member`), for messages."""
    read: Callable[[], bytes]
    subject_id: str | None = None
    study_id: str | None = None
    view: str | None = None
    relation: str | None = None
    """`current` or `prior` in longitudinal sets."""
    sha256: bytes | None = None
    """Of the publisher's bytes, where `read` gives what an earlier build stored of them."""


@dataclass
class Sample:
    """One example as a builder yields it; `builders.engine.loop` adds what the source declares."""

    key: str
    """Unique within the split, in the publisher's spelling: it becomes what `safe_key` makes of it. The sample's id is
    `<source>/<split>/<key>`."""
    messages: list[dict[str, Any]]
    file: str
    row: str
    question: str | None = None
    """The publisher's question alone: no options, context or prompt wording. Text overlap is measured on it."""
    options: list[tuple[str, str]] | None = None
    """(label, text) in the publisher's order."""
    answer: str | None = None
    """The gold label where there are options, else the gold text."""
    images: list[Image] = field(default_factory=list)
    group: dict[str, str] = field(default_factory=dict)
    """Namespaced ids under the names of `medgpt.groups.GROUP_KEYS`: {"pmid": "pubmed/21645374"}."""
    subset: str | None = None
    """The publisher's stratum inside a split (`closed`, `open`), for counts by stratum."""
    task: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        key, about = safe_key(self.key), f"row {self.row}: an id of {len(self.key)} characters"
        if len(key) > _LONGEST_KEY or len(key.rpartition("/")[2]) > _LONGEST_NAME:
            raise InputError("bad_id", self.file, f"{about} is too long")
        if not key or not self.key.isprintable():
            raise InputError("bad_id", self.file, f"{about} that can name no sample")
        self.key = key


class StoredSample(Sample):
    """A sample whose key stands: a corpus' own name, which no member of a tar has to bear, or one of a build."""

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True)
class Reject:
    """A source row that did not become a sample. `detail` may name ids and numbers, never report text."""

    file: str
    row: str
    reason: str
    detail: str = ""


UNCOUNTED = -1
"""Rows of a unit that `read` counts itself, down to the end: of archives, which may be damaged. It is written in pieces
of some ten thousand rows, `<unit>-0000`, ..., so that memory does not grow with the file."""


@dataclass(frozen=True)
class Unit:
    """The smallest piece that is built on its own: seconds to two minutes of work, one split, one role."""

    name: str
    """`<split>-00012`; part of the file names."""
    split: str
    role: Role
    rows: int
    """How many source rows `read` will account for; the build fails if kept + rejected differs. Or `UNCOUNTED`."""
    payload: Any
    """JSON value from which `read` finds its rows; part of the unit key."""
    inputs: tuple[str, ...] = ()
    """Files under the raw tree whose size and mtime enter the unit key (what `payload` does not hold itself)."""
    notes: dict[str, Any] = field(default_factory=dict, compare=False)
    """What `read` writes down of the unit as a whole, JSON values and sets, for `Source.conclude`."""

    @property
    def counted(self) -> bool:
        """Whether its rows were counted before they are read."""
        return self.rows != UNCOUNTED


@dataclass(frozen=True)
class Option:
    """A command-line option of one source. Flags have `default=False`."""

    flag: str
    help: str
    default: Any = False
    choices: tuple[str, ...] | None = None
    prepare: Callable[[str], Callable[[Path], Sequence[str]]] | None = None
    """For an option that shapes nothing and is no part of `Params`: takes what was given before the build begins, and
    gives the function that turns the finished build's folder into lines for the screen."""

    @property
    def name(self) -> str:
        """Key in `Params`."""
        return self.flag.removeprefix("--").replace("-", "_")


Checked = Literal["rows", "code", "card", "unverified"]
CHECKED: dict[Checked, str] = {
    "rows": "real rows",
    "code": "public readers",
    "card": "card only",
    "unverified": "unverified",
}
"""How a layout was checked: this builder ran on the publisher's rows; independent code that reads the files agrees; the
publisher's card, paper or file tree alone; nobody at all, for no public reader was found."""
UNVERIFIED = "no public reader of this layout was found: look at its first samples (`shards.show`) before you train"


@dataclass(frozen=True)
class Layout:
    """A form in which a publisher's files come, by what it is told from the others, and what it was checked against."""

    name: str
    checked: Checked
    evidence: str = ""
    """`owner/repo@commit` of the rows or of the reader, several parted by commas; for a card whose it is."""
    files: str = ""
    """A pattern below the raw tree; the layout is seen where a file fits. Empty: files do not tell it."""
    columns: tuple[str, ...] = ()
    """It is seen where one file has all of these. Empty: columns do not tell it."""
    lacks: tuple[str, ...] = ()
    """It is not seen where a file has all of these."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Rows by split, where other than `Source.published`; then it is seen where a split has as many."""

    @property
    def said(self) -> str:
        """`public readers: owner/repo@commit`."""
        return f"{CHECKED[self.checked]}: {self.evidence}" if self.evidence else CHECKED[self.checked]


@dataclass(frozen=True)
class PaperRow:
    """A row of the recipe's tables that this source stands for."""

    name: str
    stage: Literal["PT", "MT", "IT", "EVAL"]
    count: int
    note: str = ""
    """Why ours differs, and which options reproduce the recipe's count, in one line; empty where it does not differ."""


def paper_row(name: str, stage: Literal["PT", "MT", "IT", "EVAL"], count: int, note: str = "") -> tuple[PaperRow, ...]:
    """The `paper_rows` of a source that stands for one row."""
    return (PaperRow(name, stage, count, note),)


@dataclass(frozen=True)
class Source:
    """Everything the framework needs to know about one dataset."""

    name: str
    title: str
    revision: str
    """The publisher's release or commit that the counts and the layout were checked against."""
    license: str
    task: str
    splits: Mapping[str, Role]
    obtain: str
    """How to get the raw tree, and what it must look like."""
    plan: Callable[[Path, Params], Iterable[Unit]]
    read: Callable[[Path, Unit, Params], Iterator[Sample | Reject]]
    published: Callable[[Params], Mapping[str, int]]
    """Rows a split has at the publisher; shown beside what was read, never asserted."""
    figures: Callable[[Params], Mapping[str, Mapping[str, float]]] = lambda params: {}
    """What a paper prints of a split's samples, by the names of `builders.engine.figures.FIGURES`; split `all` is all
    of them together. Shown beside ours, in `build.json` too, with a warning where they differ."""
    homepage: str = "-"
    """The hub's page where nothing is said and there is a `hub_id`."""
    stage: str = "instruct"
    """`pretrain`, `midtrain`, `instruct` or `eval`: where the recipe uses its train split."""
    modality: Literal["text", "image-text"] = "text"
    demo: Callable[[Path], None] | None = None
    """Writes a small made-up tree; without it that of `builders.demos.<name>`, where there is such a module."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Rules by which this source alone rejects rows, and what to do: as in `RULE_REASONS`."""
    access: Access = "credentialed"
    """`credentialed` where nothing else is said: files are their owner's alone (`medgpt.private`), texts stay out of
    reports and go to no server that is not on loopback or allowed by name."""
    paper: str = ""
    """The recipe's count and a note where it differs."""
    options: tuple[Option, ...] = ()
    variant: Callable[[Params], str] = lambda params: "paper" if params.get("paper_variant") else ""
    """Names the build directory `<source>.<variant>`; empty for the default reading."""
    paper_rows: tuple[PaperRow, ...] = ()
    hub_id: str = ""
    """`owner/name` of the dataset repository on the Hugging Face hub; `--download` fetches it."""
    hub_moved: tuple[str, ...] = ()
    """Other ids under which the repository was or is known: a download falls back on them."""
    hub_revision: str = ""
    """Commit to fetch; pinned, so that two sites build the same bytes. Empty: `--revision` must say it."""
    hub_files: tuple[str, ...] = ()
    """Glob patterns of the files the builder reads."""
    layouts: tuple[Layout, ...] = ()
    """The known forms of the raw tree. `--probe` says which it sees, `--help` and docs/sources.md what was checked."""
    languages: tuple[str, ...] = ("en",)
    """Of the texts, most frequent first; an option `--language` goes before."""
    filters: str = ""
    """Recipe in `filters/recipes` that chooses among its training samples after a build; empty: none does."""
    filter_files: Mapping[str, str] = field(default_factory=dict)
    """Files of the raw tree that filters use where they are there: `FILTER.OPTION` -> path."""
    store_pictures: bool = True
    """False: pictures are fingerprinted alone. `shard`, `offset`, `length` of their rows are NULL, texts in Arrow."""
    conclude: Callable[[Path, Params, Sequence[Mapping[str, Any]]], Mapping[str, Any]] | None = None
    """`conclude(raw, params, entries)`: what `build.json` says under `parameters` besides the options, from the ledger
    entries of all units (`records`, `notes`, `inputs`). A `UserError` that it raises refuses the build."""
    version: int = 1
    """Raised where a change of the source's code changes what it writes: units are built again, the root moves."""
    module: str = ""
    """Where workers find `SOURCE`; `builders.<name>` if empty, and where `registry` or `kit.run` found it."""

    def __post_init__(self) -> None:
        if self.homepage == "-" and self.hub_id:
            object.__setattr__(self, "homepage", f"https://huggingface.co/datasets/{self.hub_id}")

    @property
    def has_demo(self) -> bool:
        """Whether there is a demo tree to write."""
        return self.demo is not None or find_spec(f"builders.demos.{self.name}") is not None

    def write_demo(self, raw: Path) -> None:
        """Write the demo tree under `raw`. Raises `NotThisSource` where there is none."""
        write = self.demo or importlib.import_module("builders.demos").writer(demo_module(self.name))
        if write is None:
            raise NotThisSource(f"{self.name} has no demo tree; give --raw")
        write(raw)

    @property
    def advice(self) -> dict[str, str]:
        """What to do about a rejected row, by every reason that there is for this source."""
        return DAMAGED_REASONS | RULE_REASONS | dict(self.reasons)

    @property
    def module_name(self) -> str:
        """Importable name of the defining module."""
        return self.module or f"builders.{self.name}"

    def build_name(self, params: Params) -> str:
        """Directory and `build` column: `slake`, `slake.paper`; with --split, `medqa.test`."""
        parts = [self.variant(params), *(params.get("split") or ())]
        suffix = "-".join(part for part in parts if part)
        return f"{self.name}.{suffix}" if suffix else self.name


def unverified_notes(source: Source) -> list[str]:
    """A line on layouts that nobody could be found to have read; none for most sources."""
    unknown = [one.name for one in source.layouts if one.checked == "unverified"]
    return [f"unverified ({', '.join(unknown)}): {UNVERIFIED}"] if unknown else []


def demo_module(name: str) -> Any:
    """`builders.demos.<name>`, which may have `PLANTED`; None if there is none."""
    try:
        return importlib.import_module(f"builders.demos.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"builders.demos.{name}":
            raise
        return None


PAPER_VARIANT = Option("--paper-variant", "reproduce the paper's count even where that leaks; never the default")

CAPTION_PROMPT = "Describe this image."
"""Asks for a caption; the recipe's own wording is unpublished."""


def user(*parts: str | int) -> dict[str, Any]:
    """A user message; a string is text, an integer is the index of an image."""
    return {"role": "user", "reasoning": None, "content": [_part(part) for part in parts]}


def assistant(text: str, reasoning: str | None = None) -> dict[str, Any]:
    """An assistant message; `reasoning` is kept apart from the answer."""
    return {"role": "assistant", "reasoning": reasoning, "content": [_part(text)]}


def choice_prompt(question: str, options: Iterable[tuple[str, str]]) -> str:
    """A multiple-choice question as a prompt: its options one a line, `A. text`."""
    listed = "\n".join(f"{label}. {text}" for label, text in options)
    return f"{question}\n\n{listed}"


def choice_answer(options: Iterable[tuple[str, str]], label: str, explanation: str | None = None) -> str:
    """The answer to it, `Answer: B. text`, with the publisher's explanation below where there is one."""
    answer = f"Answer: {label}. {dict(options)[label]}"
    return f"{answer}\n\n{explanation}" if explanation and explanation.strip() else answer


def _part(part: str | int) -> dict[str, Any]:
    if isinstance(part, int):
        return {"type": "image", "text": None, "index": part}
    return {"type": "text", "text": part, "index": None}
