"""The source that a corpus made elsewhere and a mapping make (`builders.corpus` tells of both), and its books."""

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from builders import kit
from builders.engine.archives import PictureStore
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
from builders.engine.corpus_pieces import Borders, cut_up
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
from builders.engine.corpus_samples import Pictures, common_lead, group_value, joined, picture_fields, shape, strings
from builders.engine.corpus_values import (
    TOKENS,
    as_text,
    disguise,
    extension,
    is_grid,
    is_link,
    is_picture_name,
    is_text,
    is_tokens,
    leaves,
    picture_of,
    pictures_within,
)  # fmt: skip
from builders.engine.report import format_summary
from builders.engine.source import UNCOUNTED, StoredSample
from builders.engine.tables import open_parquet
from manifests.proof.accounting import COMPARED, DECLARED, NOT_COMPARED, accounts, declared, not_compared
from medgpt import errors
from medgpt.errors import os_error_line
from medgpt.formats import PICTURE_SUFFIXES
from medgpt.messages import named, safe, shown_name
from medgpt.pictures import without_alpha
from medgpt.private import keep_private
from medgpt.settings import checked
from medgpt.tables import table

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
        languages=(),
        obtain="",
        plan=_plan,
        read=_read,
        published=lambda params: {},
        variant=lambda params: str(params["role"]),
        store_pictures=rules.store_pictures,
        conclude=_conclude,
        reasons={"missing_image": "the picture is not in the folder; add it, or compare texts alone (`images: []`)"},
        version=4,
        module="builders.engine.corpus_source",
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
            if form or (extension(file) in PICTURE_SUFFIXES and not PurePosixPath(file).name.startswith("._"))
            else (DECLARED, f"{hidden}, and it has no rows")
        )
    if is_description(raw / file):
        return DECLARED, "what `datasets` writes of an Arrow folder"
    if role == "eval" and is_about(file):
        return DECLARED, "tells of the corpus, and is no test item"
    if form:
        return COMPARED, ""
    picture = extension(file) in PICTURE_SUFFIXES
    return NOT_COMPARED, _NO_ROW if picture else "its format is not read"


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
    if role == "eval" and (lead := common_lead(_first_questions(raw, units, rules))):
        units = [replace(unit, payload=unit.payload | {"lead": lead}) for unit in units]
    yield from units


def _first_questions(raw: Path, units: Iterable[kit.Unit], rules: Rules) -> Iterator[str]:
    for unit in islice(units, _LOOKED_INTO):
        for row in islice(corpus_rows(raw, unit), _LOOKED_AT):
            with suppress(kit.InputError):
                if isinstance(row, kit.Row) and (asked := shape(row.values, rules, 0, "eval")["question"]):
                    yield asked


_LOOKED_INTO, _LOOKED_AT = 20, 50
"""Units, and rows of each, whose questions say how all of them begin."""


_NO_ROW = "a picture that no row names"
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
        payload["layout"] = "python-jsonl"
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
        self._borders = Borders(notes.setdefault("borders", {}))
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
        bare = list(filter(None, map(without_alpha, pictures)))
        license_name = joined(values, [rules.license_field]) or "unstated" if rules.license_field else None
        groups = {
            kind: group_value(kind, found_values(values, [field]), prefix)
            for kind, (field, prefix) in rules.group_fields.items()
            if kind != "image_id"
        }
        sample = StoredSample(
            **shape(values, rules, len(pictures) + len(bare), self.unit.role, self.unit.payload.get("lead", "")),
            images=self._images(values, pictures, bare),
            group={kind: value for kind, value in groups.items() if value},
            license=license_name,
            key=self._key(row),
            file=row.file,
            row=row.number,
        )
        said = _said(sample)
        of_text = next((name for name in self.rules.of("text") if found_values(values, [name])), "")
        self._borders.look(of_text, said if sample.task == "text" and of_text else "")
        if self.build.endswith(".eval") and (why := _unanswered(sample)):
            missed["text", "answer", why] += 1
        for name, pieces in texts:
            if all(text.strip() in said or all(piece in said for piece in strings(text)) for text in pieces):
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
    ) -> list[tuple[str, list[str]]]:
        """(field, pieces) of all texts of a row; pictures go to `taken`, unless the mapping says where they are.

        Many words in one field are a text that was cut up.
        """
        rules, texts, links, names = (
            self.rules,
            list[tuple[str, list[str]]](),
            list[tuple[str, str]](),
            list[tuple[str, str]](),
        )
        words: dict[str, list[str]] = {}
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
            elif picture is None and isinstance(value, str) and is_link(value) and _OF_PICTURES.search(name):
                links.append((name, value))
            elif picture is None and is_grid(value):
                missed["picture", name, "rows of numbers that make no picture"] += 1
            if picture is None and isinstance(value, str) and (why := disguise(value)):
                missed["text", name, why] += 1
            if picture is None and is_text(value):
                texts.append((name, [value]))
            elif picture is None and isinstance(value, str) and _WORDS.fullmatch(value):
                words.setdefault(name, []).append(value)
            elif is_tokens(value):
                missed["text", name, "whole numbers in a row, as a tokenizer makes of a text"] += 1
            found = [picture] if picture is not None else pictures_within(value) if isinstance(value, str) else []
            if found and rules.pictures is None:
                taken.setdefault(name, []).extend(found)
            elif found:
                missed["picture", name, "nothing was taken from it"] += len(found)
        texts += [(name, pieces) for name, pieces in words.items() if len(set(pieces)) >= TOKENS]
        missed.update(("text", name, why) for name, pieces in words.items() if (why := disguise(" ".join(pieces))))
        # Pictures that came with their row may have names and addresses beside them.
        count = sum(map(len, taken.values()))
        if len({link for _, link in links}) > count:
            missed.update(("picture", name, _LINK) for name, _ in links)
        missed.update(("picture", name, _BESIDE if count else _NOWHERE) for name, _ in names)
        return texts

    def _images(self, values: Mapping[str, Any], pictures: list[bytes], bare: list[bytes]) -> list[kit.Image]:
        """With the mapping's ids, else with some made from their bytes, so that equal ids mean the same picture.

        bare: what loaders see of some that leave transparency out; pictures beside the others.
        """
        digests = [hashlib.sha256(data).hexdigest()[:32] for data in (*pictures, *bare)]
        ids = [f"{self.build}/{digest}" for digest in digests]
        if "image_id" in self.rules.group_fields:
            field, prefix = self.rules.group_fields["image_id"]
            names = strings(found_values(values, [field]))
            if len(names) != len(pictures):
                raise kit.InputError("bad_field", "", f"image_id: {len(names)} values for {len(pictures)} pictures")
            ids[: len(names)] = [f"{prefix}/{name}" if prefix else name for name in names]
        return [
            kit.Image(image_id, f"picture {digest}", partial(bytes, data))
            for image_id, digest, data in zip(ids, digests, [*pictures, *bare], strict=True)
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


_CUT = "texts that go on in the next row, and no item is found in pieces; join them"
_NOWHERE = "the name of no file here"
_BESIDE = "the name of no file here, beside pictures"
"""Tells of a picture that is gone only where the field names files in other rows."""
_LINK = "named by its address, which is never fetched"
_NO_ANSWER = "not known of a test item, so a short question is not found with its answer"
_NO_OPTION = "a letter of a test item whose options are not known, so a short question is not found with its answer"
_FEW_LETTERS = 20
"""Where fewer than one answer in so many is a letter, it is the answer: a vitamin, a blood group."""
_OF_PICTURES = re.compile(r"image|img|picture|photo|thumbnail|dicom|wado|(?:^|[._])pic", re.IGNORECASE)
"""A field of such a name holds pictures, whatever their addresses look like."""
_OF_IDS = re.compile(r"^(?:patient|subject|study|pubmed)(?:instance)?(?:id|uid)$|^(?:mrn|pmid|pmcid|accessionnumber)$")
"""Names of ids, without case and signs, whose equals on both sides mean the same patient, study or article."""
_WORDS = re.compile(r"\W*[^\W\d_][^\d_]*")
_LETTERS = re.compile(r"\W*[A-Ja-j](?:\W+[A-Ja-j])*\W*")
_LEAST_BYTES = 64
"""Fewer are a digest or a number, and no picture."""


def _unanswered(sample: kit.Sample) -> str | None:
    """Why the answer of a sample that has a question is not known; None where it is, or pictures decide."""
    if sample.question is None or sample.images or sample.answer in dict(sample.options or ()):
        return None
    replies = [message["content"] for message in sample.messages if message["role"] == "assistant"]
    answer = replies[-1][0]["text"] if replies and replies[-1] else None
    return _NO_ANSWER if not answer else _NO_OPTION if _LETTERS.fullmatch(answer) else None


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
            if why != _BESIDE or name in used:
                missed[kind, name, why] += count
    borders: Counter[str] = Counter()
    for entry in entries:
        borders.update(entry["notes"]["borders"])
    missed.update({("text", name, _CUT): count for name, count in cut_up(borders)})
    records = [record for entry in entries for record in entry["records"]]
    if missed["text", "answer", _NO_OPTION] * _FEW_LETTERS < sum(record["kept"] for record in records):
        del missed["text", "answer", _NO_OPTION]
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
        elif _OF_IDS.search("".join(filter(str.isalnum, name.lower().rpartition(".")[2]))):
            why = rules.declares("field", name) or ""
            state, why = (
                (DECLARED, why) if why else (NOT_COMPARED, "ids by its name; `groups` in the mapping names none")
            )
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
    place: str = "mapping",
    **how: Any,
) -> tuple[dict[str, Any], str]:
    """Read a corpus as the `train` or `eval` side and write it as a build below `out`.

    `mapping` is what a mapping file says, as plain values, and `place` how messages call it. Any number of `workers`
    gives the same bytes. `how` are further fields of `BuildOptions`; without
    `max_damaged` it goes on to the end. Returns what `build.json` says, and the counts as text.

    Raises: `UserError`, one line, for a folder, file or mapping that cannot be used, or a build that stopped.
    """
    from builders.engine.loop import run as build

    source, options, plan = planned(raw, role, mapping, out, place, workers=workers, **{"progress": False} | how)
    document = build(source, options, plan)
    text = format_summary(document, plan.target, len(plan.reusable), source.advice)
    if lines := open_entries(document):
        text += "\n\nnot compared (declare what does not matter in the mapping's `leave_out`)\n  " + "\n  ".join(lines)
    return document, text


def _made(raw: Path, role: kit.Role, mapping: Any, place: str) -> tuple[kit.Source, dict[str, Any]]:
    """The source that a folder and a mapping make, and the parameters of its build."""
    rules = make_rules(mapping, role, raw, place)
    said = msgspec.to_builtins(rules, str_keys=True)
    if not rules.store_pictures:
        del said["store_pictures"]  # builds of earlier releases do not know it
    params = {"role": role, "mapping": said}
    params |= {"no_images": False, "split": None, "licenses": None, "frames": rules.frames}
    return make_source(params), params


def copy_corpus(raw: Path, role: kit.Role, mapping: Any, excluded: Path, out: Path, place: str) -> tuple[int, int]:
    """Copy a corpus without the rows of a list that `prove` writes: (files, rows left out). Raises: `UserError`."""
    from builders.engine.corpus_copy import copy_without, read_excluded

    keep_private(make_rules(mapping, role, raw, place).access)
    return copy_without(raw, _walk(raw), read_excluded(excluded), out)


def planned(
    raw: Path, role: kit.Role, mapping: Any, out: Path, place: str, **how: Any
) -> tuple[kit.Source, "BuildOptions", "Plan"]:
    """The source of a corpus, and a build of it, planned. Arguments and errors as of `build_corpus`."""
    from builders.engine.loop import BuildOptions, make_plan

    source, params = _made(raw, role, mapping, place)
    if out.resolve().is_relative_to(raw.resolve()):
        raise kit.NotThisSource(f"{out}: lies within the corpus {raw}; choose another place for what is written")
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


_KEYS = ("text", "question", "options", "answer", "reasoning")


def probe_corpus(raw: Path, role: kit.Role, mapping: Any, place: str = "mapping") -> tuple[dict[str, Any], str]:
    """What a build would make of a folder, by the first rows of its files, as an object and as text.

    Nothing is written. Beside what `probe.probe` says: the `forms` of files, the `mapping` as it was found, and what
    would be `not_compared`. `exit_code` as of the build. Raises: `SettingsError` for the mapping.
    """
    from builders.engine.probe import probe, probe_text

    source, params = _made(raw, role, mapping, place)
    keep_private(source.access)
    seen = probe(replace(source, conclude=_probed), raw, params)
    if "refused" in seen:
        return seen, probe_text(source, seen)
    seen |= seen.pop("concluded")
    if seen["not_compared"]:
        seen["exit_code"] = errors.NOT_COMPARED
    heads = ("files", "number", "first rows", "kept", "damaged")
    lines = ["", table(heads, [tuple(form.values()) for form in seen["forms"]]), "", "mapping, as it was found"]
    lines += [f"  {key}: {named(fields, shown=20) if fields else '-'}" for key, fields in seen["mapping"].items()]
    if seen["not_compared"]:
        lines += [
            "",
            "of these not compared (declare what does not matter in the mapping's `leave_out`)",
        ]
        lines += [f"  {line}" for line in seen["not_compared"]]
    return seen, probe_text(source, seen, lines)


def _probed(raw: Path, params: kit.Params, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `probe_corpus` says besides, of the first rows. Raises: `NotThisSource` where nothing could be used."""
    books = _conclude(raw, params, entries)["accounting"]
    if any(entry["inputs"] for entry in entries):  # the pictures that further rows name were not read
        books = [entry for entry in books if entry[3] != _NO_ROW]
    rules, forms = _rules(params), dict[str, dict[str, Any]]()
    for entry in entries:
        form = f"*.{extension(entry['file'])}"
        sums = forms.setdefault(form, {"files": form, "number": 0, "read": 0, "kept": 0, "damaged": 0})
        sums["number"] += 1
        for record in entry["records"]:
            for name in ("read", "kept", "damaged"):
                sums[name] += record[name]
    used, fields = (set[str]().union(*(entry["notes"][name] for entry in entries)) for name in ("used", "fields"))
    mapping = {key: [name for name in rules.of(key) if name in fields] for key in _KEYS}
    mapping["options"] += [name for _, name in rules.labelled_options if name in fields]
    said = {name for names in mapping.values() for name in names}
    mapping["images"] = sorted(name for name in used & fields if name not in said)
    mapping |= {kind: [name] for kind, (name, _) in rules.group_fields.items()}
    records = [record for entry in entries for record in entry["records"]]
    units = [{"role": params["role"], "images": 0, **record} for record in records]
    document = {"build": rules.name, "limit": None, "parameters": {**params, "accounting": books}, "units": units}
    return {"forms": list(forms.values()), "mapping": mapping, "not_compared": open_entries(document)}
