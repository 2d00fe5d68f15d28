"""`--probe`: what a raw tree is, from the first rows of each of its files, before hours are spent on a build.

It says which of the source's known layouts it sees, at which revision, how many rows each split has beside what is
known, what of the first rows would be rejected and why, which files and columns nothing reads, and whether a build
makes sense. Nothing is written. It works on trees that are half there and on the hub's cache, whose files are links.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any

from builders.engine.archives import check_zip
from builders.engine.inputs import SUMS, hub_note, published_digests
from builders.engine.rawfiles import recorded, recorded_finds, recorded_gaps, relative, shown, summed_gaps
from builders.engine.report import gap_lines, size_text
from builders.engine.source import (
    DAMAGED_REASONS,
    InputError,
    Layout,
    NotThisSource,
    Params,
    Reject,
    Sample,
    Source,
    Unit,
    told,
    unverified_notes,
)
from builders.engine.tables import FirstRows, Row, reading_first_rows, table_rows, table_units
from builders.engine.unit import read_picture
from medgpt.errors import DAMAGED, DONE, NOT_COMPARED, USAGE, UserError, one_line
from medgpt.formats import PICTURE_SUFFIXES
from medgpt.messages import named, safe
from medgpt.tables import table

ROWS = 120
"""First rows of a split that are made into samples, pictures and all: seconds."""
UNITS = 12
"""Pieces of a split from which they are taken, over all its length."""
MOST_FILES = 200_000
"""Files of a tree that are listed; MIMIC-CXR has more, and nobody wants to wait for them."""
NEAR = 0.1
"""An estimate from the length of the first rows is no nearer than this."""
SHOWN = 5
ALIKE, SMALL = 10, 16
"""Pictures of different names that are one file, and pixels of a side: a picture of a set may repeat, or be cropped."""


def probe(source: Source, raw: Path, params: Params) -> dict[str, Any]:
    """What is seen of a tree: a JSON object whose `exit_code` says whether a build makes sense.

    0: it is as known. 3: of its first rows some are damaged. 4: something is other than what is known (`differs`).
    2: it cannot be built (`refused`, `hints`).
    """
    seen: dict[str, Any] = {"source": source.name, "raw": str(raw), "differs": [], "hints": []}
    if not raw.is_dir():
        return seen | {"refused": f"{raw}: no such folder", "exit_code": USAGE}
    files, whole = _listed(raw)
    seen["files"], seen["files_listed"] = len(files), "all" if whole else f"the first {MOST_FILES:,}"
    seen["differs"] += _unfinished(source, raw, files)
    with reading_first_rows(raw, source.splits) as first, recorded_gaps() as gaps:
        try:
            with told(str(raw), NotThisSource), recorded_finds() as finds:
                units = [u for u in source.plan(raw, params) if not params.get("split") or u.split in params["split"]]
            if not units:
                raise NotThisSource(f"{raw}: nothing to build")
        except (UserError, OSError) as error:
            hints = [
                *_headers(source, raw, files, str(error)),
                *_odd_files(raw, files),
                *(_elsewhere(source, raw, params) if source.layouts else ()),
                *_other_sources(source, raw),
            ]
            return seen | {"refused": one_line(error), "hints": hints, "exit_code": USAGE}
        entries = list[dict[str, Any]]()
        with recorded() as record:
            splits = {split: _first_samples(source, raw, units, split, params, entries) for split in source.splits}
        entries[0]["inputs"] = [[file] for file in sorted(record.reads)]
        try:
            for place in sorted(place for place in record.places if place.endswith(".zip")):
                check_zip(raw / place, raw)
            seen["concluded"] = dict(source.conclude(raw, params, entries)) if source.conclude else {}
        except NotThisSource as error:
            hints = [*_odd_files(raw, files), *_other_sources(source, raw)]
            return seen | {"refused": one_line(error), "hints": hints, "exit_code": USAGE}
    splits = {split: about for split, about in splits.items() if about}
    columns = {file: list(names) for file, names in first.columns.items()}
    rows = _rows(units, first)
    layouts = _layouts(source, files, columns.values(), rows)
    seen |= {"layouts": [{"name": one.name, "checked": one.said} for one in layouts], "revision": _revision(raw, units)}
    known = _known(source, layouts, params)
    for split, about in splits.items():
        about |= {"rows": rows[split][0], "counted": rows[split][1], "published": known[0].get(split)}
        about["compared"] = _compared(split, *rows[split], known)
    used = {file for unit in units for file in unit.inputs} | record.places | record.reads.keys()
    used |= {relative(path, raw) for path in finds}
    seen["files_with_digests"] = sum(1 for _ in published_digests(raw, used))
    seen |= {"splits": splits, "gaps": summed_gaps(gaps)}
    if source.layouts:  # of a corpus there are books
        seen |= _unused(source, files, used, columns, first)
    seen["differs"] += [f"{split}: {line}" for split, about in splits.items() for line in about.pop("pictures")]
    seen["language"] = _language(text for about in splits.values() for text in about.pop("texts"))
    seen["differs"] += list(_differences(source, seen, params, [*_odd_files(raw, sorted(used))], source.layouts))
    return seen | {"exit_code": _code(seen)}


def _code(seen: Mapping[str, Any]) -> int:
    if any(about["first_rows"] and not about["kept"] and about["damaged"] for about in seen["splits"].values()):
        return USAGE
    if seen["differs"] or seen["gaps"]:
        return NOT_COMPARED
    return DAMAGED if any(about["damaged"] for about in seen["splits"].values()) else DONE


def probe_text(source: Source, seen: Mapping[str, Any], more: Sequence[str] = ()) -> str:
    """What was seen as text, `more` lines about it, and whether a build makes sense."""
    lines = [f"{source.title}: {seen['raw']} (first rows of each file; nothing written)"]
    if "refused" in seen:
        lines += [f"cannot be built: {safe(seen['refused'])}", *(f"  {safe(one)}" for one in seen["differs"])]
        return "\n".join([*lines, *(f"  {safe(hint)}" for hint in seen["hints"]), "a build makes no sense yet"])
    lines += [f"layout    {one['name']} ({one['checked']})" for one in seen["layouts"]]
    lines += unverified_notes(source)
    if seen["files_with_digests"]:
        lines.append(
            f"digests   the publisher's are here for {seen['files_with_digests']:,} files; a build compares them"
        )
    lines += [f"revision  {seen['revision']}"] * bool(seen["revision"]) + [f"language  {seen['language'] or 'unclear'}"]
    rows = [
        (split, about["role"], _number(about), about["published"] or "-", about["compared"], about["first_rows"],
         about["kept"], about["damaged"])
        for split, about in seen["splits"].items()
    ]  # fmt: skip
    heads = ("split", "role", "rows", "published", "compared", "first rows", "kept", "damaged")
    lines += ["", table(heads, rows)]
    for split, about in seen["splits"].items():
        for reason, found in about["rejects"].items():
            detail = f": {found['detail']}" * bool(found["detail"])
            first = safe(f"{found['file']} row {found['row']}{detail}")
            lines.append(f"  {split}: {found['count']:,} {reason} ({source.advice[reason]}); first {first}")
    if seen.get("columns_not_used"):
        lines += ["", "columns that nothing reads"]
        lines += [f"  {safe(file)}: {named(names)}" for file, names in seen["columns_not_used"].items()]
    if (about := seen.get("files_not_used")) and about["count"]:
        few = ", ".join(map(safe, about["first"]))
        lines += ["", f"files that nothing reads: {about['count']:,} ({size_text(about['bytes'])}): {few}"]
    different = [*(safe(one) for one in seen["differs"]), *(line.strip() for line in gap_lines(seen["gaps"]))]
    if different:
        lines += ["", "other than what is known", *(f"  {one}" for one in different)]
    lines += [f"note: {line} (of the first rows)" for line in seen.get("concluded", {}).get("noticed", ())]
    return "\n".join([*lines, *more, "", verdict(seen)])


def verdict(seen: Mapping[str, Any]) -> str:
    """Whether a build makes sense."""
    if "refused" in seen:
        return "cannot be built"
    return {
        DONE: "a build makes sense",
        DAMAGED: "a build makes sense; damaged rows will be left out",
        NOT_COMPARED: "a build is possible; look first at what is other than known",
        USAGE: "a build makes no sense: of one split no first row can be used",
    }[seen["exit_code"]]


def _number(about: Mapping[str, Any]) -> str:
    if about["rows"] is None:
        return "-"
    return f"{about['rows']:,}" if about["counted"] else f"about {about['rows']:,}"


# The first rows


def _first_samples(
    source: Source, raw: Path, units: Sequence[Unit], split: str, params: Params, entries: list[dict[str, Any]]
) -> dict[str, Any]:
    """What becomes of a split's first rows; empty where it has no unit. Entries as of a ledger go to `entries`."""
    ours = [unit for unit in units if unit.split == split]
    if not ours:
        return {}
    kept, texts, rejects = 0, list[str](), dict[str, dict[str, Any]]()
    looked = _Pictures()
    for unit, rows in _chosen(ours):
        reasons, before = Counter[str](), kept
        for outcome in islice(_outcomes(source, raw, unit, params, looked), rows):
            if isinstance(outcome, Reject):
                blank = {"count": 0, "file": outcome.file, "row": outcome.row, "detail": outcome.detail}
                rejects.setdefault(outcome.reason, blank)["count"] += 1
                reasons[outcome.reason] += 1
            else:
                kept += 1
                said = outcome.messages[-1]["content"]  # a prompt may have words of ours
                texts += [outcome.question or "", *(part["text"] for part in said if part["text"])]
        damaged = sum(count for reason, count in reasons.items() if reason in DAMAGED_REASONS)
        record = {"split": split, "read": kept - before + reasons.total(), "kept": kept - before, "damaged": damaged}
        records = [record | {"reasons": dict(reasons)}]
        entries.append({"file": _file(unit), "records": records, "notes": unit.notes, "inputs": []})
    found = sum(one["count"] for one in rejects.values())
    damaged = sum(one["count"] for reason, one in rejects.items() if reason in DAMAGED_REASONS)
    return {"role": ours[0].role, "first_rows": kept + found, "kept": kept, "damaged": damaged} | {
        "rejects": dict(sorted(rejects.items())),
        "texts": texts,
        "pictures": looked.odd(),
    }


def _chosen(units: Sequence[Unit]) -> list[tuple[Unit, int]]:
    """Units of every format of file, over all the length of each, and how many rows are taken of one."""
    forms: dict[str, list[Unit]] = {}
    for unit in units:
        forms.setdefault(Path(_file(unit)).suffix.lower(), []).append(unit)
    return [
        (ours[at * (len(ours) - 1) // max(1, count - 1)], max(ROWS // count, 1))
        for ours in forms.values()
        for count in (min(UNITS, len(ours)),)
        for at in range(count)
    ]


def _file(unit: Unit) -> str:
    return str((isinstance(unit.payload, dict) and unit.payload.get("file")) or next(iter(unit.inputs), ""))


class _Pictures:
    """The pictures of the first rows: placeholders in their place are whole files."""

    def __init__(self) -> None:
        self.names: dict[bytes, set[str]] = {}
        self.small: set[str] = set()

    def read(self, sample: Sample, params: Params) -> Sample | Reject:
        """The sample, or the reject that it becomes for a picture that cannot be used."""
        try:
            for image in () if params["no_images"] else sample.images:
                found = read_picture(image, {}, params.get("frames"))
                self.names.setdefault(found.sha256, set()).add(image.image_id)
                if min(found.print.width, found.print.height) < SMALL:
                    self.small.add(image.image_id)
        except InputError as error:
            return Reject(sample.file, sample.row, error.reason, f"{error.file}: {error.detail}".rstrip(": "))
        return sample

    def odd(self) -> list[str]:
        """What is odd of them, a line each."""
        most, lines = max(map(len, self.names.values()), default=0), list[str]()
        if most >= ALIKE:
            lines.append(f"{most} pictures of different names are the same file (a placeholder?)")
        if self.small:
            lines.append(f"{len(self.small)} pictures are smaller than {SMALL} pixels (first {min(self.small)})")
        return lines


def _outcomes(source: Source, raw: Path, unit: Unit, params: Params, pictures: _Pictures) -> Iterator[Sample | Reject]:
    """As the build would have them, pictures read; a fault of the reader is a reject, too."""
    try:
        with told(unit.name, NotThisSource):
            for outcome in source.read(raw, unit, params):
                yield pictures.read(outcome, params) if isinstance(outcome, Sample) else outcome
    except (UserError, OSError) as error:
        yield Reject(unit.inputs[0] if unit.inputs else unit.name, "-", "bad_row", one_line(error))


# Counts


def _rows(units: Iterable[Unit], first: FirstRows) -> dict[str, tuple[int | None, bool]]:
    """(rows, whether they were counted) by split; None where nothing tells them."""
    found: dict[str, tuple[int | None, bool]] = {}
    for unit in units:
        rows, counted = found.get(unit.split, (0, True))
        file = _file(unit)
        mine: int | None = unit.rows if unit.counted else None
        # A source may part the rows of one file among splits: each then has its share of them.
        for (_, name), (cut, in_all, exact) in first.counts.items():
            if name == file and mine is not None:
                counted &= exact and (cut in (in_all, unit.rows))
                mine = None if in_all is None else round(mine * in_all / max(cut, 1))
                break
        found[unit.split] = (None if rows is None or mine is None else rows + mine, counted)
    return found


def _known(source: Source, layouts: Sequence[Layout], params: Params) -> list[Mapping[str, int]]:
    """Rows by split: the publisher's first, then those of the layouts that have others."""
    seen = [one.rows for one in (*layouts, *source.layouts) if one.rows]
    return [seen[0] if layouts and layouts[0].rows else source.published(params), source.published(params), *seen]


def _compared(split: str, rows: int | None, counted: bool, known: Sequence[Mapping[str, int]]) -> str:
    """A split's rows beside all that are known, in words; `as known` where they agree."""
    published = known[0].get(split)
    if rows is None:
        return "not counted"
    if published is None:
        return "none is known"
    if rows == published or (not counted and abs(rows - published) <= NEAR * published):
        return "as known"
    if counted:
        for counts in known:
            if other := next((name for name, count in counts.items() if count == rows), ""):
                return f"as many as {other}" + (" of another release" if counts != known[0] else "")
    about = "" if counted else "about "
    return f"{about}{abs(rows - published):,} {'fewer' if rows < published else 'more'}"


# Layout, revision, files


def _layouts(
    source: Source, files: Sequence[str], tables: Iterable[Sequence[str]], rows: Mapping[str, tuple[int | None, bool]]
) -> list[Layout]:
    """Those of the source's layouts that are seen: by files, by columns, by another release's number of rows."""
    found = [set(columns) for columns in tables]

    def has(columns: Sequence[str]) -> bool:
        return any(table.issuperset(columns) for table in found)

    seen = [
        one
        for one in source.layouts
        if (not one.files or any(fnmatch(file, one.files) for file in files))
        and (not one.columns or has(one.columns))
        and not (one.lacks and has(one.lacks))
    ]
    release = [one for one in seen if any((count, True) == rows.get(split) for split, count in one.rows.items())]
    return release or [one for one in seen if not one.rows]


def _revision(raw: Path, units: Sequence[Unit]) -> str:
    """The hub's commit, where the files are from there."""
    files = dict.fromkeys(file for unit in units[:UNITS] for file in unit.inputs[:UNITS])
    commits = {commit: None for file in files if (commit := hub_note(raw, file)[0])}
    return "hub commit " + ", ".join(commits) if commits else ""


def _listed(raw: Path) -> tuple[list[str], bool]:
    """Files of a tree but hidden ones, and whether that is all of them."""
    found = list[str]()
    for folder, folders, names in os.walk(raw, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [relative(Path(folder, name), raw) for name in sorted(names) if not name.startswith(".")]
        if len(found) > MOST_FILES:
            return found[:MOST_FILES], False
    return found, True


def _unused(
    source: Source, files: Iterable[str], used: set[str], columns: Mapping[str, list[str]], first: FirstRows
) -> dict[str, Any]:
    folders = tuple(f"{place}/" for place in used)
    known = used | set(source.filter_files.values())
    left = [f for f in files if f not in known and not f.startswith(folders) and Path(f).name not in SUMS]
    raw = first.raw
    unread = {file: [name for name in names if name not in first.used.get(file, ())] for file, names in columns.items()}
    return {
        "files_not_used": {
            "count": len(left),
            "bytes": sum((raw / file).stat().st_size for file in left if (raw / file).is_file()),
            "first": [shown(file) for file in left[:SHOWN]],
        },
        "columns_not_used": {shown(file): names for file, names in sorted(unread.items()) if names},
    }


def _differences(
    source: Source, seen: Mapping[str, Any], params: Params, odd: Sequence[str], layouts: Sequence[Layout]
) -> Iterator[str]:
    """What is other than known, a line each."""
    yield from odd
    if layouts and not seen["layouts"]:
        yield f"none of the known layouts: {'; '.join(one.name for one in layouts)}"
    for split, about in seen["splits"].items():
        if about["compared"] not in ("as known", "not counted", "none is known"):
            yield f"{split}: {_number(about)} rows, {about['compared']} (known: {about['published']:,})"
        if about["role"] == "train" and not about["kept"]:
            yield f"{split}: none of its first {about['first_rows']:,} rows can be used"
    wanted = set(params.get("split") or (split for split in source.published(params) if split in source.splits))
    for split in sorted(wanted - seen["splits"].keys()):
        yield f"{split}: no file of this split"
    languages = (params["language"],) if params.get("language") else source.languages
    if languages and (main := seen["language"].partition(" ")[0]) and main not in languages:
        yield f"the texts look like {seen['language']}, not {' or '.join(languages)}"


def _unfinished(source: Source, raw: Path, files: Iterable[str]) -> Iterator[str]:
    """Downloads that stopped: parts of files, links that lead nowhere, files that the hub's own list has."""
    blobs = raw.parent.parent / "blobs"
    parts = [*(raw / ".cache/huggingface/download").rglob("*.incomplete"), *blobs.glob("*.incomplete")]
    if parts:
        yield f"{len(parts)} downloads of the hub are not finished: run the same download again"
    if lost := [file for file in files if (raw / file).is_symlink() and not (raw / file).exists()]:
        yield f"{len(lost)} links lead nowhere (first {shown(lost[0])}): the hub's cache lost their blobs, fetch again"
    for path in [
        *(raw / ".cache/huggingface/trees").glob("*.json"),
        *(raw.parent.parent / "trees").glob(f"{raw.name}.json"),
    ]:
        try:
            named_files = list(json.loads(path.read_bytes())["files"])
        except (ValueError, LookupError, TypeError, OSError):
            continue  # another release of the hub's library may write other lists
        wanted = [file for file in named_files if any(fnmatch(file, pattern) for pattern in source.hub_files)]
        if missing := [file for file in wanted if not (raw / file).exists()]:
            yield f"{len(missing)} of the {len(wanted)} files that the hub lists are not here (first {missing[0]})"


def _headers(source: Source, raw: Path, files: Sequence[str], why: str) -> Iterator[str]:
    """What columns the files have that an error names; of credentialed ones a header may be a patient's row."""
    if source.access == "credentialed":
        return
    for file in [file for file in files if f"{file}:" in why][:SHOWN]:
        try:
            unit = next(iter(table_units(raw, [raw / file], "", "train")), None)
            row = next(iter(table_rows(raw, unit)), None) if unit else None
        except UserError:
            continue
        if isinstance(row, Row):
            yield f"{shown(file)} has the columns {', '.join(safe(name, 40) for name in row.values)}"


_HEADS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file: `git lfs pull`",
    b"<!DOCTYPE": "a web page, not the file: was there a log-in in between?",
    b"<html": "a web page, not the file: was there a log-in in between?",
}
_MAGIC = {".parquet": b"PAR1", ".zip": b"PK", ".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}


def _odd_files(raw: Path, files: Iterable[str]) -> Iterator[str]:
    """Files whose first bytes are not those of what their name says."""
    looked = (f for f in files if Path(f).suffix.lower() not in PICTURE_SUFFIXES and (raw / f).is_file())
    for file in islice(looked, 1000):
        with (raw / file).open("rb") as handle:
            head = handle.read(32)
        if not head:
            yield f"{shown(file)}: has no bytes"
        for start, what in _HEADS.items():
            if head.lstrip().lower().startswith(start.lower()) and not file.endswith((".html", ".htm")):
                yield f"{shown(file)}: {what}"
                break
        else:
            magic = _MAGIC.get(Path(file).suffix.lower(), b"")
            if head and not head.startswith(magic):
                yield f"{shown(file)}: does not begin as a {Path(file).suffix[1:]} file does"


def _plans(source: Source, raw: Path, params: Params) -> bool:
    """Whether a tree is the source's, columns and all, as far as its first unit tells."""
    try:
        with reading_first_rows(raw, source.splits), told(str(raw), NotThisSource):
            return next(iter(source.plan(raw, params)), None) is not None
    except (UserError, OSError):
        return False


def _elsewhere(source: Source, raw: Path, params: Params) -> Iterator[str]:
    """Folders below, or above, where the tree is: what a clone, a zip or the hub's cache put around it."""
    below = [path for pattern in ("*", "snapshots/*", "*/*") for path in islice(sorted(raw.glob(pattern)), 50)]
    for folder in [*dict.fromkeys(path for path in below if path.is_dir()), raw.parent]:
        if _plans(source, folder, params):
            yield f"the tree is in {folder}: give it as --raw"
            return


def _other_sources(source: Source, raw: Path) -> Iterator[str]:
    """Other sources whose files these are."""
    from builders.engine.registry import sources

    for other in sources():
        patterns = other.hub_files
        if other.name != source.name and patterns and all(any(raw.glob(pattern)) for pattern in patterns):
            params = {option.name: option.default for option in other.options}
            if _plans(other, raw, params | {"no_images": True, "split": None, "licenses": None, "frames": None}):
                yield f"these look like the files of {other.name}"


# Language

_WORDS = {
    "en": "the of and is in to with for that was",
    "es": "el los las que una del con por para como",
    "fr": "le les des une est dans pour que du avec",
    "it": "il che di della per una sono con nel gli",
    "de": "der die und das ist mit nicht ein von zu",
    "pt": "o os uma que do da com para não em",
}
"""The most frequent short words of six languages, ten each; words that two share tell nothing and are few."""
_LANGUAGE_OF = {word: [name for name, words in _WORDS.items() if word in words.split()] for words in _WORDS.values()
                for word in words.split()}  # fmt: skip
_SCRIPTS = {
    "ja": re.compile(r"[\u3040-\u30ff]"),
    "zh": re.compile(r"[\u4e00-\u9fff]"),
    "ko": re.compile(r"[\uac00-\ud7af]"),
    "ru": re.compile(r"[\u0400-\u04ff]"),
    "ar": re.compile(r"[\u0600-\u06ff]"),
}
_LEAST_TEXTS, _LEAST_WORDS = 5, 2
"""Of texts whose language is told, and of common words in one: fewer tell nothing."""


def _language(texts: Iterable[str]) -> str:
    """`en 97 %, zh 3 %` of the texts; empty where too few are long enough to tell."""
    votes = Counter(name for text in texts if (name := _language_of(text)))
    if votes.total() < _LEAST_TEXTS:
        return ""
    return ", ".join(f"{name} {round(100 * count / votes.total())} %" for name, count in votes.most_common(3))


def _language_of(text: str) -> str:
    """By script where a fifth of the letters are of one, else by the commonest words; empty where neither tells."""
    letters = sum(map(str.isalpha, text))
    for name, script in _SCRIPTS.items():
        if len(script.findall(text)) * 5 > letters:
            return name
    words = Counter(name for word in re.findall(r"[^\W\d_]+", text.lower()) for name in _LANGUAGE_OF.get(word, ()))
    [(name, count)] = words.most_common(1) or [("", 0)]
    return name if count >= _LEAST_WORDS else ""
