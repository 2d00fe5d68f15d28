"""A corpus made elsewhere, as a build: so that its owner can prove it free of test items without building it anew.

    python -m builders.corpus --raw FOLDER --role train --mapping map.yaml --out DIR

reads a folder of WebDataset tars, Parquet files and JSON Lines and writes the build `DIR/<name>.<role>`: a source that
is made from a folder and a mapping, by the engine that builds all others, so both sides of a comparison are made by the
same code. Texts go into Arrow shards; pictures are fingerprinted and not copied, so `shard`, `offset` and `length` of
their rows are NULL. Catalogue, audits, `prove` and `shards.verify` work on it as on any other build. Nothing can be
trained from it.

What is read:
    *.tar, *.tar.gz, *.tgz   WebDataset: neighbouring members that share a name up to the first dot of its last part.
                             Fields of a row: those of its `json`, every member by its extension, `__key__`
    *.parquet                one row a row; pictures as bytes, as {bytes, path} or as lists of either
    *.jsonl, *.jsonl.gz      one object a line; `image` and `images` name picture files in the folder

A mapping says where things are. Every key may be left out; a key set to `[]` is not looked for at all. A field is a
name, or a path into nested fields (`meta.patient`):
    name      of the corpus; default: the folder's name
    id        field that names a row; default: `__key__`, or the row's number
    text      fields of free text or of dialogues; default: text, caption, txt, conversations, messages
    question, options, answer, reasoning
              fields; default: those names (options also: choices). `options` is one field (a list, or an object
              label -> text), a list of fields, or an object label -> field. An answer is a label, an index from 0
              or the text itself
    images    fields; default: found by type
    groups    subject_id, study_id, prior_study_id, pmcid, pmid, video_id, question_id, image_id -> field, or
              {field: patient, prefix: ourhospital}. Equal values mean the same thing everywhere: give the train and the
              eval side the same prefix. Without one pmcid, pmid and video_id get ours (`pmc/PMC123`, `pubmed/123`,
              `youtube/...`); others are taken as they stand
    license   text, or {field: ...}; default: unstated
    access    open, gated or credentialed; default: credentialed, which keeps texts out of reports
    split     default: train, or test for the eval side
    frames    first, middle or last: which one of a picture with several frames; default: such a row is damaged
With sections `train:` and `eval:` one file serves both sides; what stands outside of them holds for both.

A row that is damaged becomes a reject; kept + rejected = read. An id that comes again in a file gets a number, since no
row may go unchecked. `inputs.parquet` lists every file that was read with its digest; `build.json` has under
`parameters` the files that were not read (pictures that no row names among them) and the fields that nothing was taken
from: what was *not* compared.
"""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from builders import kit
from builders.engine.command import check_counts
from builders.engine.corpus_mapping import Rules, make_rules
from builders.engine.corpus_rows import (
    MAX_FIELDS,
    SUFFIXES,
    column_fields,
    corpus_rows,
    covers,
    extension,
    field_names,
    found_values,
    kind_of,
    missing_fields,
    picture_columns,
)
from builders.engine.corpus_samples import (
    group_value,
    joined,
    picture_bytes,
    picture_fields,
    shape,
    strings,
)
from builders.engine.report import format_summary, print_plan
from builders.engine.source import UNCOUNTED
from builders.engine.tables import open_parquet
from medgpt.arguments import command_parser
from medgpt.errors import DAMAGED, DONE, os_error_line, run
from medgpt.formats import PICTURE_SUFFIXES
from medgpt.messages import named
from medgpt.settings import checked, read_yaml

if TYPE_CHECKING:
    from builders.engine.loop import BuildOptions, Plan


class CorpusSample(kit.Sample):
    """A sample whose key is the corpus' own name for it: no member of a tar has to be called by it."""

    def __post_init__(self) -> None:
        pass


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
        store_pictures=False,
        conclude=_conclude,
        reasons={"missing_image": "the picture is not in the folder; add it, or compare texts alone (`images: []`)"},
        module="builders.corpus",
    )


def _rules(params: kit.Params) -> Rules:
    return checked(Rules, params["mapping"], "mapping")


def _walk(raw: Path) -> list[str]:
    """Relative names of all files, sorted. Links are followed, each folder once; hidden names are left out."""
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
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(place).relative_to(raw).as_posix()
        names += [name if below == "." else f"{below}/{name}" for name in files if not name.startswith(".")]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise kit.NotThisSource(f"{raw}: a file's name is not UTF-8 ({name!r}); rename it") from None
    return sorted(names)


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    rules, names = _rules(params), _walk(raw)
    if not any(kind_of(name) for name in names):
        raise kit.NotThisSource(f"{raw}: nothing here or below is {SUFFIXES}; name the folder of a corpus")
    # A picture that comes or goes may mend or damage a row that names it; of those that are read, the engine knows.
    pictures = [name for name in names if extension(name) in PICTURE_SUFFIXES]
    loose = hashlib.sha256("\n".join(pictures).encode()).hexdigest()
    units: list[kit.Unit] = []
    for name in names:
        if kind_of(name):
            units += _units(raw, name, rules, params["role"], len(units), loose)
    missing, seen = missing_fields(raw, units, rules.named)
    if missing:
        there = named(sorted(seen), shown=60)
        raise kit.NotThisSource(f"mapping: no row of {raw} has {', '.join(sorted(missing))}; there are {there}")
    yield from units


def _units(raw: Path, file: str, rules: Rules, role: kit.Role, number: int, loose: str) -> Iterable[kit.Unit]:
    """The units of one file: tars and JSON Lines are read to their end, Parquet says what it holds."""
    path, split = raw / file, str(rules.split)
    try:
        path.open("rb").close() if path.is_file() else path.stat()
    except OSError as error:
        raise kit.NotThisSource(f"{path}: {error.strerror}; the corpus must be readable") from error
    if not path.is_file():
        raise kit.NotThisSource(f"{path}: neither a file nor a folder; take it out")
    unit = kit.Unit(f"{split}-{number:05d}", split, role, UNCOUNTED, {"file": file}, (file,))
    if kind_of(file) == "tar":
        return [unit]
    payload = {"file": file, "range": [0, 0, UNCOUNTED], "columns": [], "loose": loose}
    if kind_of(file) == "jsonl":
        return [replace(unit, payload=payload)]
    with open_parquet(path, file) as table:
        names, payload["range"] = table.schema_arrow.names, [0, 0, table.metadata.num_rows]
    pictures = picture_columns(path, file) if rules.pictures is None else []
    wanted = rules.fields
    columns = [name for name in names if name in pictures or any(covers(name, field) for field in wanted)]
    more = {"pictures": pictures, "columns": columns, "loose": loose}
    units = [replace(unit, payload=payload | more)]
    if rules.id is None:  # else ids are made unique within the file
        units = list(kit.table_units(raw, [path], split, role, columns=columns, first_unit=number)) or units
    return [replace(unit, payload=unit.payload | more) for unit in units]


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    reader = _Reader(raw, unit, params)
    return kit.outcomes(corpus_rows(raw, unit), reader.sample)


class _Reader:
    """Makes samples of the rows of one unit; knows the ids given and writes down the fields seen."""

    def __init__(self, raw: Path, unit: kit.Unit, params: kit.Params) -> None:
        self.raw, self.unit, self.rules = raw, unit, _rules(params)
        self.build = f"{self.rules.name}.{params['role']}"
        self.fields: set[str] = unit.notes.setdefault("fields", set())
        self.used: set[str] = unit.notes.setdefault("used", set())
        self._ids: set[bytes] = set()
        """Short digests: an id takes a hundred bytes, and a file may have millions."""
        self.kind = kind_of(unit.payload["file"])
        if self.kind == "parquet":  # columns that nothing is taken from are not even read
            self.fields.update(field_names(column_fields(raw / unit.payload["file"], unit.payload["file"])))

    def sample(self, row: kit.Row) -> kit.Sample:
        """Raises: `InputError`."""
        rules, values = self.rules, row.values
        if len(self.fields) < MAX_FIELDS:
            self.fields.update(field_names(values))
        columns = self.unit.payload.get("pictures", ())
        fields = picture_fields(row.file, columns, values) if rules.pictures is None else rules.pictures
        self.used.update(fields)
        pictures = [
            data for field in fields for data in picture_bytes(self.raw, row.file, found_values(values, [field]))
        ]
        license_name = joined(values, [rules.license_field]) or "unstated" if rules.license_field else None
        groups = {
            kind: group_value(kind, found_values(values, [field]), prefix)
            for kind, (field, prefix) in rules.group_fields.items()
            if kind != "image_id"
        }
        return CorpusSample(
            **shape(values, rules, len(pictures)),
            images=self._images(values, pictures),
            group={kind: value for kind, value in groups.items() if value},
            license=license_name,
            key=self._key(row),
            file=row.file,
            row=row.number,
        )

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
        found = base = f"{row.file}/{name}"
        if self.rules.id is None and self.kind != "tar":
            return found  # lines and rows have different numbers
        number = 1
        while (digest := hashlib.blake2b(found.encode("utf-8", "surrogatepass"), digest_size=8).digest()) in self._ids:
            number += 1
            found = f"{base}#{number}"
        self._ids.add(digest)
        return found


def _conclude(raw: Path, params: kit.Params, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was not compared. Raises: `NotThisSource` where nothing was."""
    rules = _rules(params)
    used = rules.fields.union({"__key__", "json"}, *(entry["notes"]["used"] for entry in entries))
    seen = set[str]().union(*(entry["notes"]["fields"] for entry in entries))
    unused = [name for name in sorted(seen) if not any(covers(field, name) for field in used)][:MAX_FIELDS]
    records = [record for entry in entries for record in entry["records"]]
    if not any(record["kept"] for record in records):
        reasons: Counter[str] = Counter()
        for record in records:
            reasons.update(record["reasons"])
        said = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "no rows"
        raise kit.NotThisSource(
            f"{raw}: none of {sum(reasons.values())} rows could be used ({said}); fields that nothing was taken from: "
            f"{named(unused, shown=60)}; say in a mapping where text and pictures are (`images: []` compares texts "
            "alone)"
        )
    pictures = {file for entry in entries for file, *_ in entry["inputs"]}
    left = [name for name in _walk(raw) if not kind_of(name) and name not in pictures]
    return {"pictures_stored": False, "files_not_read": left, "fields_not_used": unused}


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
    return document, format_summary(document, plan.target, len(plan.reusable), source.advice)


def _planned(
    raw: Path, role: kit.Role, mapping: Any, out: Path, place: str, **how: Any
) -> tuple[kit.Source, "BuildOptions", "Plan"]:
    from builders.engine.loop import BuildOptions, make_plan

    rules = make_rules(mapping, role, raw, place)
    if out.resolve().is_relative_to(raw.resolve()):
        raise kit.NotThisSource(f"{out}: lies within the corpus {raw}; choose another place for what is written")
    params = {"role": role, "mapping": msgspec.to_builtins(rules, str_keys=True)}
    params |= {"no_images": False, "split": None, "licenses": None, "frames": rules.frames}
    source = make_source(params)
    options = BuildOptions(raw, out, params, **{"max_damaged": sys.maxsize} | how)
    return source, options, make_plan(source, options)


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. 0: built; 3: built, damaged rows are rejects; 1: run again to go on; 2: cannot be used."""
    parser = command_parser(
        "builders.corpus",
        __doc__ or "",
        "example:\n  python -m builders.corpus --raw corpus/a --role train --mapping map.yaml --out built\n\n"
        "exit code: 0 built; 3 built, damaged rows rejected; 1 not finished, run again to resume;\n"
        "2 the folder or the mapping cannot be used",
    )
    add = parser.add_argument
    add("--raw", type=Path, required=True, metavar="DIR", help="folder of the corpus")
    add("--role", choices=("train", "eval"), required=True, help="the side of the comparison that it is")
    add("--mapping", type=Path, metavar="FILE", help="YAML: which field is what (default: by the usual names)")
    add("--out", type=Path, required=True, metavar="DIR", help="root of the builds; one folder is made in it")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)")
    add("--max-damaged", type=int, default=sys.maxsize, metavar="N", help="stop past N damaged rows (default: never)")
    add("--limit", type=int, metavar="N", help="a trial build: the first N rows (of tars, JSON Lines: of each file)")
    add("--dry-run", action="store_true", help="show what would be built, write nothing")
    add("--json", action="store_true", help="print the build's record as JSON, no progress bar")
    add("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    check_counts(parser, args)
    mapping, place = (read_yaml(args.mapping), str(args.mapping)) if args.mapping else (None, "mapping")
    how = {"workers": args.workers, "limit": args.limit, "max_damaged": args.max_damaged}
    if args.dry_run:
        source, options, plan = _planned(args.raw, args.role, mapping, args.out, place, **how)
        print_plan(source, plan, options, None, args.json)
        return DONE
    how["progress"] = not (args.quiet or args.json)
    document, text = build_corpus(args.raw, args.role, mapping, args.out, place=place, **how)
    print(json.dumps(document, ensure_ascii=False) if args.json else text)
    return DAMAGED if document["counts"]["damaged"] else DONE


if __name__ == "__main__":
    raise SystemExit(main())
