"""A corpus made elsewhere, as a build: so that its owner can prove it free of test items without building it anew.

    python -m builders.corpus --raw FOLDER --role train --mapping map.yaml --out DIR

reads a folder and writes the build `DIR/<name>.<role>`: a source that is made from a folder and a mapping, by the
engine that builds all others, so both sides of a comparison are made by the same code. Texts go into Arrow shards;
pictures are fingerprinted and not copied, so `shard`, `offset` and `length` of their rows are NULL. Catalogue,
audits, `prove` and `shards.verify` work on it as on any other build. Nothing can be trained from it.

What is read (packed by gzip, bzip2, xz, Zstandard, or in a zip, as well):
    *.tar          WebDataset: neighbouring members that share a name up to the first dot of its last part. Fields of a
                   row: those of its `json`, every member by its extension, `__key__`
    *.parquet *.arrow *.feather *.orc       one row a row, also of folders and caches of `datasets`
    *.jsonl *.ndjson *.json    an object a line; an array; an object of lists; pandas' forms; objects with lists of
                   objects in them (SQuAD), whose rows say what the objects around them say
    *.csv *.tsv    parted by comma, semicolon, tab or bar; without names in the first line `column_1`, ...
    *.sqlite *.duckdb *.db       every table; not packed
    *.npz *.npy    along the first axis
    *.txt *.md     one document, with the picture beside it that has its name
    pictures       those that rows name; where nothing but documents is there, one row each
Pictures in cells: as bytes, {bytes, path}, base64, hexadecimal, lists of numbers, lists of any of these; by path, also
into a zip of the folder. Addresses (URLs) are never fetched.

A mapping says where things are. Every key may be left out; a key set to `[]` is not looked for at all. A field is a
name, or a path into nested fields (`meta.patient`):
    name      of the corpus; default: the folder's name
    id        field that names a row; default: `__key__`, `id` (not in Parquet of more than 20,000 rows), or its number
    text      fields of free text or of dialogues; default: text, caption, txt, conversations, messages, input, context,
              passage
    question, options, answer, reasoning
              fields; default: those names (options also: choices), else the first of instruction, prompt, query, and of
              output, response, completion. `options` is one field (a list, or an object label -> text), a list of
              fields, or an object label -> field. An answer is a label, an index from 0 or the text itself
    images    fields; default: found by type and name
              (default names also count as Question and QUESTION)
    groups    subject_id, study_id, prior_study_id, pmcid, pmid, video_id, question_id, image_id -> field, or
              {field: patient, prefix: ourhospital}. Equal values mean the same thing everywhere: give the train and the
              eval side the same prefix. Without one pmcid, pmid and video_id get ours (`pmc/PMC123`, `pubmed/123`,
              `youtube/...`); others are taken as they stand
    license   text, or {field: ...}; default: unstated
    access    open, gated or credentialed; default: credentialed, which keeps texts out of reports
    split     default: train, or test for the eval side
    frames    first, middle or last: which one of a picture with several frames; default: such a row is damaged
    store_pictures
              true: shards keep the pictures, so that a policy's `local_pictures` can compare them; default: false
    leave_out {pattern: reason}: files, fields, reasons of rejects that are declared not to matter (`"*.pdf": manuals`)
With sections `train:` and `eval:` one file serves both sides; what stands outside of them holds for both.

A row that is damaged becomes a reject; kept + rejected = read. An id that comes again in a file gets a number, since
no row may go unchecked. `inputs.parquet` lists every file that was read with its digest. `build.json` has under
`parameters`, `accounting` every file, field, picture and text as compared, declared (by `leave_out`, `images: []`, a
rule of ours) or not compared: a file of another format, a picture that no row names, a field with texts of five words
or more that nothing was taken from. Where anything is not compared, the exit code is 4.

`--copy-without excluded_rows.csv`, the list that `prove` writes, makes a copy of the folder without these rows, each
file in its own form (lines, CSV, JSON arrays, tars: to the byte). `prove --filtered-copy DIR` does both.
"""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from builders import kit
from builders.engine.archives import PictureStore
from builders.engine.command import check_counts
from builders.engine.corpus_files import (
    PICTURE_ENDINGS,
    SUFFIXES,
    form_of,
    is_about,
    is_description,
    is_zip_table,
    zip_members,
)
from builders.engine.corpus_mapping import Rules, make_rules
from builders.engine.corpus_rows import (
    MAX_FIELDS,
    column_fields,
    corpus_rows,
    covers,
    field_names,
    found_values,
    holds_numbers,
    kind_of,
    missing_fields,
    picture_columns,
)
from builders.engine.corpus_samples import Pictures, group_value, joined, picture_fields, shape, strings
from builders.engine.corpus_values import (
    as_text,
    extension,
    is_link,
    is_picture_name,
    is_text,
    leaves,
    picture_of,
)  # fmt: skip
from builders.engine.report import format_summary, print_plan
from builders.engine.source import UNCOUNTED, StoredSample
from builders.engine.tables import open_parquet
from manifests.proof.accounting import COMPARED, DECLARED, NOT_COMPARED, accounts, declared, not_compared
from medgpt import errors
from medgpt.arguments import command_parser
from medgpt.engines import add_engine
from medgpt.errors import os_error_line, run
from medgpt.formats import PICTURE_SUFFIXES
from medgpt.messages import named, safe, shown_name
from medgpt.private import keep_private
from medgpt.settings import checked, read_yaml

if TYPE_CHECKING:
    from builders.engine.loop import BuildOptions, Plan


def make_source(params: kit.Params) -> kit.Source:
    """The source that a folder and a mapping are; workers make it again from the same `params`."""
    rules, role = _rules(params), params["role"]
    assert rules.name and rules.split  # `make_rules` fills them in
    return kit.Source(
        name=rules.name,
        title=f"{rules.name}: a corpus made elsewhere",
        homepage="",
        revision="",
        license=rules.license if isinstance(rules.license, str) else "per row",
        access=rules.access,
        stage="instruct" if role == "train" else "eval",
        task="mixed",
        modality="text" if rules.pictures == () else "image-text",
        splits={rules.split: role},
        obtain="",
        plan=_plan,
        read=_read,
        published=lambda params: {},
        variant=lambda params: str(params["role"]),
        store_pictures=rules.store_pictures,
        conclude=_conclude,
        reasons={"missing_image": "the picture is not in the folder; add it, or compare texts alone (`images: []`)"},
        version=2,
        module="builders.corpus",
    )


def _rules(params: kit.Params) -> Rules:
    return checked(Rules, params["mapping"], "mapping")


def _walk(raw: Path) -> list[str]:
    """Relative names of all files, sorted. Links are followed, each folder once."""
    names: list[str] = []
    seen: set[tuple[int, int]] = set()

    def fail(error: OSError) -> None:
        raise kit.NotThisSource(f"{os_error_line(error)}; the corpus must be readable") from error

    for place, folders, files in os.walk(raw, followlinks=True, onerror=fail):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        below = Path(place).relative_to(raw).as_posix()
        names += [name if below == "." else f"{below}/{name}" for name in files]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise kit.NotThisSource(f"{raw}: a file's name is not UTF-8 ({name!r}); rename it") from None
    return sorted(names)


def _stands(raw: Path, file: str, rules: Rules, role: str) -> tuple[str, str]:
    """(state, reason) of a file by its name: compared if it is read as rows."""
    if why := declared(rules.leave_out, file):
        return DECLARED, f"mapping: {why}"
    form = form_of(file)
    if any(part.startswith(".") for part in file.split("/")):
        hidden = "its name begins with a dot"
        return (
            (NOT_COMPARED, f"{hidden}: hidden files are not read")
            if form
            else (DECLARED, f"{hidden}, and it has no rows")
        )
    if is_description(raw / file):
        return DECLARED, "what `datasets` writes of an Arrow folder"
    if role == "eval" and is_about(file):
        return DECLARED, "tells of the corpus, and is no test item"
    if form:
        return COMPARED, ""
    picture = extension(file) in PICTURE_SUFFIXES
    return NOT_COMPARED, "a picture that no row names" if picture else "its format is not read"


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    rules, names, role = _rules(params), _walk(raw), params["role"]
    stands = {name: _stands(raw, name, rules, role) for name in names}
    tables = [name for name in names if stands[name][0] == COMPARED]
    zips = [name for name in tables if form_of(name) == "zip"]
    texts = [name for name in tables if form_of(name) == "text"]
    # A picture that comes or goes may mend or damage a row that names it; of those that are read, the engine knows.
    pictures = [name for name in names if extension(name) in PICTURE_SUFFIXES]
    loose = hashlib.sha256("\n".join(pictures).encode()).hexdigest()
    alone = len(tables) == len(texts) + len(zips) and not any(
        is_zip_table(member) and form_of(member) != "text" for name in zips for member in zip_members(raw / name)
    )
    of_pictures = [
        name for name in zips if any(extension(member) in PICTURE_SUFFIXES for member in zip_members(raw / name))
    ]
    more = {"loose": loose, "zips": of_pictures, "pictures_alone": alone}
    more["mapped"] = {field.partition(".")[0]: field in rules.making_rows for field in sorted(rules.fields)}
    units: list[kit.Unit] = []
    for name in tables:
        if name not in texts:
            units += _units(raw, name, rules, role, len(units), more)
    beside = {str(Path(name).with_suffix(ending)) for name in texts for ending in PICTURE_ENDINGS}
    loners = [name for name in pictures if alone and stands[name][0] == NOT_COMPARED and name not in beside]
    documents, split = sorted([*texts, *loners]), str(rules.split)
    for start in range(0, len(documents), _DOCUMENTS):
        files = documents[start : start + _DOCUMENTS]
        payload = {"file": "", "files": files, "range": [0, 0, UNCOUNTED], "columns": [], **more}
        units.append(kit.Unit(f"{split}-{len(units):05d}", split, role, UNCOUNTED, payload, tuple(files)))
    if not units:
        raise kit.NotThisSource(f"{raw}: nothing here or below is {SUFFIXES}; name the folder of a corpus")
    missing, seen = missing_fields(raw, units, rules.named)
    if missing:
        there = named(sorted(seen), shown=60)
        raise kit.NotThisSource(f"mapping: no row of {raw} has {', '.join(sorted(missing))}; there are {there}")
    yield from units


_DOCUMENTS = 5_000
"""Files of one row each that make a unit."""


def _units(
    raw: Path, file: str, rules: Rules, role: kit.Role, number: int, more: Mapping[str, Any]
) -> Iterable[kit.Unit]:
    """The units of one file: most are read to their end, Parquet says what it holds."""
    path, split = raw / file, str(rules.split)
    try:
        path.open("rb").close() if path.is_file() else path.stat()
    except OSError as error:
        raise kit.NotThisSource(f"{path}: {error.strerror}; the corpus must be readable") from error
    if not path.is_file():
        raise kit.NotThisSource(f"{path}: neither a file nor a folder; take it out")
    payload = {"file": file, "range": [0, 0, UNCOUNTED], "columns": [], "layout": "", **more}
    unit = kit.Unit(f"{split}-{number:05d}", split, role, UNCOUNTED, payload, (file,))
    if kind_of(file) == "jsonl":
        payload["layout"] = "jsonl"
    if kind_of(file) != "parquet":
        return [unit]
    with open_parquet(path, file) as table:
        schema, payload["range"] = table.schema_arrow, [0, 0, table.metadata.num_rows]
    payload["pictures"] = picture_columns(path, file) if rules.pictures is None else []
    payload["columns"] = columns = [
        field.name
        for field in schema
        if not holds_numbers(field.type) or field.name == "id" or any(covers(field.name, name) for name in rules.fields)
    ]
    units = [unit]
    if rules.id is None:  # else ids are made unique within the file
        units = list(kit.table_units(raw, [path], split, role, columns=columns, first_unit=number)) or units
    payload["whole"] = len(units) == 1
    return [replace(unit, payload=payload | unit.payload) for unit in units]


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    reader = _Reader(raw, unit, params)
    return kit.outcomes(corpus_rows(raw, unit), reader.sample)


class _Reader:
    """Makes samples of the rows of one unit; knows the ids given, and writes down what was seen and what was taken."""

    def __init__(self, raw: Path, unit: kit.Unit, params: kit.Params) -> None:
        self.unit, self.rules = unit, _rules(params)
        self.build = f"{self.rules.name}.{params['role']}"
        notes = unit.notes
        self.fields: set[str] = notes.setdefault("fields", set())
        self.used: set[str] = notes.setdefault("used", set())
        self.missed: dict[str, int] = notes.setdefault("missed", {})
        """Values that nothing was taken from, by `<kind> TAB <why> TAB <field>`."""
        self.pictures = Pictures(raw, PictureStore(raw, unit.payload.get("zips", ()), flat=False))
        self.pictures.zipped = notes.setdefault("zipped", set())
        self._ids: set[bytes] = set()
        """Short digests: an id takes a hundred bytes, and a file may have millions."""
        self.kind = kind_of(unit.payload["file"])
        if self.kind == "parquet":  # columns of numbers are not even read
            self.fields.update(field_names(column_fields(raw / unit.payload["file"], unit.payload["file"])))

    def sample(self, row: kit.Row) -> kit.Sample:
        """Raises: `InputError`."""
        rules, values = self.rules, row.values
        if "!" in row.file:
            self.pictures.zipped.add(row.file)
        columns = self.unit.payload.get("pictures", ())
        fields = picture_fields(row.file, columns, values) if rules.pictures is None else rules.pictures
        self.pictures.links = 0
        taken = {field: list(self.pictures.within(row.file, found_values(values, [field]))) for field in fields}
        missed: Counter[tuple[str, str, str]] = Counter()
        missed["picture", ", ".join(fields), _LINK] += self.pictures.links
        texts = self._look(row, fields, taken, missed)
        pictures = [picture for found in taken.values() for picture in found]
        license_name = joined(values, [rules.license_field]) or "unstated" if rules.license_field else None
        groups = {
            kind: group_value(kind, found_values(values, [field]), prefix)
            for kind, (field, prefix) in rules.group_fields.items()
            if kind != "image_id"
        }
        sample = StoredSample(
            **shape(values, rules, len(pictures)),
            images=self._images(values, pictures),
            group={kind: value for kind, value in groups.items() if value},
            license=license_name,
            key=self._key(row),
            file=row.file,
            row=row.number,
        )
        said = _said(sample)
        for name, text in texts:
            if text.strip() in said or all(piece in said for piece in strings(text)):
                self.used.add(name)
            else:
                missed["text", name, "nothing was taken from it"] += 1
        self.used.update(taken)
        for (kind, name, why), count in missed.items():
            if count:
                key = f"{kind}\t{why}\t{name}"
                self.missed[key] = self.missed.get(key, 0) + count
        return sample

    def _look(
        self, row: kit.Row, fields: Sequence[str], taken: dict[str, list[bytes]], missed: Counter[tuple[str, str, str]]
    ) -> list[tuple[str, str]]:
        """(field, text) of all texts of a row; pictures go to `taken`, unless the mapping says where they are."""
        rules, texts, links, names = (
            self.rules,
            list[tuple[str, str]](),
            list[tuple[str, str]](),
            list[tuple[str, str]](),
        )
        values = row.values
        if self.kind == "tar" and isinstance(inner := values.get("json"), dict):  # whose fields are the row's, too
            values = {**values, "json": {name: value for name, value in inner.items() if values[name] is not value}}
        others = {rules.id, rules.license_field, *(field for field, _ in rules.group_fields.values())}
        for name, value in leaves(values):
            name = name if name in self.fields or len(self.fields) < MAX_FIELDS else "(other fields)"
            self.fields.add(name)
            if name in others or any(covers(field, name) for field in fields):
                continue
            if (picture := picture_of(value)) is None and isinstance(value, dict):
                value = value.get("bytes") or value.get("path") or ""
            if isinstance(value, bytes | bytearray) and picture is None:
                if (text := as_text(bytes(value))) is None and len(value) >= _LEAST_BYTES:
                    missed["bytes", name, "bytes that are neither text nor a picture"] += 1
                value = text or ""
            if picture is None and isinstance(value, str) and is_picture_name(value):
                if rules.pictures is None and not is_link(value):
                    with suppress(kit.InputError):
                        picture = self.pictures.named(row.file, value)
                if picture is None:
                    (links if is_link(value) else names).append((name, value))
            elif picture is None and is_text(value):
                texts.append((name, value))
            if picture is not None and rules.pictures is None:
                taken.setdefault(name, []).append(picture)
            elif picture is not None:
                missed["picture", name, "nothing was taken from it"] += 1
        # Pictures that came with their row may have names and addresses beside them.
        count = sum(map(len, taken.values()))
        if len({link for _, link in links}) > count:
            missed.update(("picture", name, _LINK) for name, _ in links)
        if not count:
            missed.update(("picture", name, "the name of no file here") for name, _ in names)
        return texts

    def _images(self, values: Mapping[str, Any], pictures: list[bytes]) -> list[kit.Image]:
        """With the mapping's ids, else with some made from their bytes, so that equal ids mean the same picture."""
        digests = [hashlib.sha256(data).hexdigest()[:32] for data in pictures]
        ids = [f"{self.build}/{digest}" for digest in digests]
        if "image_id" in self.rules.group_fields:
            field, prefix = self.rules.group_fields["image_id"]
            names = strings(found_values(values, [field]))
            if len(names) != len(pictures):
                raise kit.InputError("bad_field", "", f"image_id: {len(names)} values for {len(pictures)} pictures")
            ids = [f"{prefix}/{name}" if prefix else name for name in names]
        return [
            kit.Image(image_id, f"picture {digest}", partial(bytes, data))
            for image_id, digest, data in zip(ids, digests, pictures, strict=True)
        ]

    def _key(self, row: kit.Row) -> str:
        """`<file>/<row>`; a name that comes again gets a number."""
        name = row.number
        if self.rules.id is not None:
            names = strings(found_values(row.values, [self.rules.id]))
            if len(names) != 1:
                raise kit.InputError("missing_field", "", f"{self.rules.id}: {len(names)} values where one is expected")
            name = names[0]
        elif self.kind != "tar" and self.unit.payload.get("whole", True):
            own = row.values.get("id")
            if isinstance(own, str | int) and (names := strings(own)):
                [name] = names
        found = base = f"{row.file}/{name}"
        number = 1
        while (digest := hashlib.blake2b(found.encode("utf-8", "surrogatepass"), digest_size=8).digest()) in self._ids:
            number += 1
            found = f"{base}#{number}"
        self._ids.add(digest)
        return found


_LINK = "named by its address, which is never fetched"
_LEAST_BYTES = 64
"""Fewer are a digest or a number, and no picture."""


def _said(sample: kit.Sample) -> str:
    """All texts of a sample."""
    parts = [part["text"] for message in sample.messages for part in message["content"]]
    parts += [message["reasoning"] for message in sample.messages]
    parts += [sample.question, sample.answer, *(text for _, text in sample.options or ())]
    return "\n".join(filter(None, parts))


def _conclude(raw: Path, params: kit.Params, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was compared and what was not. Raises: `NotThisSource` where nothing was."""
    rules, role = _rules(params), params["role"]
    used = rules.fields.union({"__key__", "json"}, *(entry["notes"]["used"] for entry in entries))
    fields = set[str]().union(*(entry["notes"]["fields"] for entry in entries))
    missed: Counter[tuple[str, str, str]] = Counter()
    for entry in entries:
        for key, count in entry["notes"]["missed"].items():
            kind, why, name = key.split("\t", 2)
            missed[kind, name, why] += count
    records = [record for entry in entries for record in entry["records"]]
    if not any(record["kept"] for record in records):
        reasons: Counter[str] = Counter()
        for record in records:
            reasons.update(record["reasons"])
        said = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "no rows"
        unused = [name for name in sorted(fields) if not any(covers(field, name) for field in used)]
        raise kit.NotThisSource(
            f"{raw}: none of {sum(reasons.values())} rows could be used ({said}); fields that nothing was taken from: "
            f"{named(unused, shown=60)}; say in a mapping where text and pictures are (`images: []` compares texts "
            "alone)"
        )
    books: Counter[tuple[str, str, str, str]] = Counter()
    lost: dict[str, list[tuple[str, str]]] = {}
    for (kind, name, why), count in sorted(missed.items()):
        stands = rules.declares(kind, name)
        found = (DECLARED, stands) if stands else (NOT_COMPARED, why)
        lost.setdefault(name, []).append(found)
        if kind != "bytes":
            books[kind, found[0], shown_name(name), found[1]] += count
    for name in sorted(fields.union(lost)):
        if name in lost:
            state, why = max(lost[name], key=lambda found: found[0] == NOT_COMPARED)
        elif any(covers(field, name) or covers(name, field) for field in used):
            state, why = COMPARED, ""
        else:
            state, why = DECLARED, rules.declares("field", name) or "no text of five words, and no picture in it"
        books["field", state, "" if state == COMPARED else shown_name(name), why] += 1
    read = {file for entry in entries for file, *_ in entry["inputs"]}.union(*(e["notes"]["zipped"] for e in entries))
    for name in _walk(raw):
        members = [f"{name}!{member}" for member in zip_members(raw / name)] if form_of(name) == "zip" else []
        for file in (name, *members):
            state, why = _stands(raw, file, rules, role)
            if file in read or (file in members and is_zip_table(file) and state != DECLARED):
                state, why = COMPARED, ""
            elif file in members and state == COMPARED:
                state, why = NOT_COMPARED, "its format is not read within a zip"
            books["file", state, "" if state == COMPARED else safe(file), why] += 1
    return {"pictures_stored": False, "accounting": [[*key, count] for key, count in sorted(_grouped(books).items())]}


def _grouped(books: Counter[tuple[str, str, str, str]]) -> Counter[tuple[str, str, str, str]]:
    """The books with files of one folder and ending in one entry, where they are many."""
    patterns = {key: _pattern(key[2]) for key in books if key[0] == "file"}
    many = Counter((key[1], pattern, key[3]) for key, pattern in patterns.items())
    grouped: Counter[tuple[str, str, str, str]] = Counter()
    for key, count in books.items():
        kind, state, _, why = key
        few = kind != "file" or many[state, patterns[key], why] <= _FILES_NAMED
        grouped[key if few else (kind, state, patterns[key], why)] += count
    return +grouped


def _pattern(file: str) -> str:
    """What a file is grouped by: its hidden folder, else its folder and ending."""
    folder, _, name = file.rpartition("/")
    parts = folder.split("/")
    hidden = next((at for at, part in enumerate(parts, 1) if part.startswith(".")), None)
    if hidden:
        return "/".join([*parts[:hidden], "*"])
    return f"{folder or '.'}/*{'.' + extension(name) if '.' in name else ''}"


_FILES_NAMED = 20
"""Files of one folder and ending that are named one by one."""


def build_corpus(
    raw: Path,
    role: kit.Role,
    mapping: Any,
    out: Path,
    workers: int = 1,
    bar: Any = None,
    place: str = "mapping",
    **how: Any,
) -> tuple[dict[str, Any], str]:
    """Read a corpus as the `train` or `eval` side and write it as a build below `out`.

    `mapping` is what a mapping file says, as plain values, and `place` how messages call it. Any number of `workers`
    gives the same bytes. Progress is shown on `bar`, a tqdm bar. `how` are further fields of `BuildOptions`; without
    `max_damaged` it goes on to the end. Returns what `build.json` says, and the counts as text.

    Raises: `UserError`, one line, for a folder, file or mapping that cannot be used, or a build that stopped.
    """
    from builders.engine.loop import run as build

    source, options, plan = _planned(raw, role, mapping, out, place, workers=workers, **{"progress": False} | how)
    document = build(source, options, plan, bar)
    text = format_summary(document, plan.target, len(plan.reusable), source.advice)
    if lines := open_entries(document):
        text += "\n\nnot compared (declare what does not matter in the mapping's `leave_out`)\n  " + "\n  ".join(lines)
    return document, text


def _planned(
    raw: Path, role: kit.Role, mapping: Any, out: Path, place: str, **how: Any
) -> tuple[kit.Source, "BuildOptions", "Plan"]:
    from builders.engine.loop import BuildOptions, make_plan

    rules = make_rules(mapping, role, raw, place)
    if out.resolve().is_relative_to(raw.resolve()):
        raise kit.NotThisSource(f"{out}: lies within the corpus {raw}; choose another place for what is written")
    said = msgspec.to_builtins(rules, str_keys=True)
    if not rules.store_pictures:
        del said["store_pictures"]  # builds of earlier releases do not know it
    params = {"role": role, "mapping": said}
    params |= {"no_images": False, "split": None, "licenses": None, "frames": rules.frames}
    source = make_source(params)
    options = BuildOptions(raw, out, params, **{"max_damaged": sys.maxsize} | how)
    return source, options, make_plan(source, options)


def open_entries(document: Mapping[str, Any]) -> list[str]:
    """What of a corpus was not compared, a line each."""
    reasons: Counter[tuple[str, str]] = Counter()
    for unit in document["units"]:
        for reason, count in unit["reasons"].items():
            reasons[unit["role"], reason] += count
    rejects = [
        {"build": document["build"], "role": role, "reason": reason, "damaged": True, "count": count}
        for (role, reason), count in sorted(reasons.items())
    ]
    return not_compared(accounts([document], {}, rejects, [], []))


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. 0: built; 4: built, not all was compared; 1: run again to go on; 2: cannot be used."""
    parser = command_parser(
        "builders.corpus",
        __doc__ or "",
        "example:\n  python -m builders.corpus --raw corpus/a --role train --mapping map.yaml --out built\n\n"
        "exit code: 0 built; 4 built, but something was not read or not compared (rejected rows among it); 3 built,\n"
        "damaged rows are declared; 1 not finished, run again to resume; 2 the folder or the mapping cannot be used",
    )
    add = parser.add_argument
    add("--raw", type=Path, required=True, metavar="DIR", help="folder of the corpus")
    add("--role", choices=("train", "eval"), required=True, help="the side of the comparison that it is")
    add("--mapping", type=Path, metavar="FILE", help="YAML: which field is what (default: by the usual names)")
    add("--out", type=Path, required=True, metavar="DIR", help="root of the builds; one folder is made in it")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)")
    add_engine(parser)
    add("--max-damaged", type=int, default=sys.maxsize, metavar="N", help="stop past N damaged rows (default: never)")
    add("--limit", type=int, metavar="N", help="a trial build: the first N rows (of tars, JSON Lines: of each file)")
    add("--dry-run", action="store_true", help="show what would be built, write nothing")
    add("--copy-without", type=Path, metavar="CSV", help="build nothing: copy the folder to --out without these rows")
    add("--json", action="store_true", help="print the build's record as JSON, no progress bar")
    add("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    check_counts(parser, args)
    mapping, place = (read_yaml(args.mapping), str(args.mapping)) if args.mapping else (None, "mapping")
    if args.copy_without:
        from builders.engine.corpus_copy import copy_without, read_excluded

        keep_private(make_rules(mapping, args.role, args.raw, place).access)
        files, rows = copy_without(args.raw, _walk(args.raw), read_excluded(args.copy_without), args.out)
        print(f"{args.raw} -> {args.out}: {files} files, {rows} rows left out")
        return errors.DONE
    how = {"workers": args.workers, "limit": args.limit, "max_damaged": args.max_damaged}
    if args.dry_run:
        source, options, plan = _planned(args.raw, args.role, mapping, args.out, place, **how)
        print_plan(source, plan, options, None, args.json)
        return errors.DONE
    how["progress"] = not (args.quiet or args.json)
    document, text = build_corpus(args.raw, args.role, mapping, args.out, place=place, **how)
    print(json.dumps(document, ensure_ascii=False) if args.json else text)
    damaged = errors.DAMAGED if document["counts"]["damaged"] else errors.DONE
    return errors.NOT_COMPARED if open_entries(document) else damaged


if __name__ == "__main__":
    raise SystemExit(main())
