"""All that a source needs, as `kit.Sample`: what it declares and yields, readers, `table_source` for row files."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

from builders.engine.archives import (
    Content,
    PictureStore,
    StrictHeader,
    count_webdataset_samples,
    list_zip,
    read_zip_member,
    safe_member,
    stored,
    stream_tar,
    webdataset_keys,
    webdataset_samples,
)
from builders.engine.demo_files import write_demo_file
from builders.engine.names import (
    CHATDOCTOR_INSTRUCTION,
    VIDEO_FRAME,
    creative_commons,
    figure_name,
    video_id,
)
from builders.engine.noticed import note, noticed
from builders.engine.rawfiles import (
    check_filled,
    check_parts,
    checked_text,
    decode_utf8,
    field_of,
    first_existing,
    load_json,
    number_of,
    outcome,
    read_bytes,
    relative,
    require,
    require_one,
    text_lines,
    text_of,
)
from builders.engine.source import (
    PAPER_VARIANT,
    Image,
    InputError,
    Layout,
    NotThisSource,
    Option,
    PaperRow,
    Params,
    Reject,
    Role,
    Sample,
    Source,
    Unit,
    assistant,
    choice_answer,
    choice_prompt,
    demand,
    paper_row,
    user,
)
from builders.engine.tables import (
    Here,
    Row,
    any_row_has,
    caption_sample,
    choice_sample,
    column_image,
    convert_rows,
    has_header,
    json_items,
    outcomes,
    parse_json,
    question_answer,
    stored_picture,
    table_rows,
    table_units,
    with_fields,
)
from builders.engine.texts import (
    conversation_sample,
    dialogue,
    id_of,
    index_of,
    inline_options,
    labelled,
    lettered,
    sample_of,
    split_thinking,
    texts_of,
    turns_of,
)
from medgpt.formats import PICTURE_SUFFIXES

__all__ = [
    "CHATDOCTOR_INSTRUCTION", "PAPER_VARIANT", "PICTURE_SUFFIXES", "VIDEO_FRAME", "Content",
    "Files", "Image", "InputError", "Layout", "NotThisSource", "Option", "PaperRow", "Params", "PictureStore", "Reject",
    "Role", "Row", "Rows", "Sample", "Source", "StrictHeader", "Unit", "Values", "any_row_has", "assistant",
    "caption_sample", "check_filled", "check_parts", "checked_text", "choice_answer", "choice_prompt", "choice_sample",
    "column_image", "conversation_sample", "convert_rows", "count_webdataset_samples", "creative_commons",
    "decode_utf8", "demand", "dialogue", "field_of", "figure_name", "first_existing", "id_of", "index_of",
    "inline_options", "json_items", "labelled", "lettered", "list_zip", "load_json", "note", "noticed",
    "number_of", "outcome", "outcomes", "paper_row", "parse_json", "question_answer", "read_bytes",
    "read_zip_member", "relative", "require", "require_one", "run", "safe_member", "sample_of",
    "split_thinking", "stored", "stored_picture", "stream_tar", "table_rows", "table_source", "table_units",
    "text_lines", "text_of", "texts_of", "turns_of", "user", "video_id", "webdataset_keys",
    "webdataset_samples", "with_fields", "write_demo_file",
]  # fmt: skip

Values: TypeAlias = dict[str, Any]
Rows: TypeAlias = list[Values]
"""Rows by column, as a demo tree has them."""
Files: TypeAlias = dict[str, Any]
"""Files of a demo tree by path; see `write_demo_file` for what they may be."""
T = TypeVar("T")
ByParams: TypeAlias = T | Callable[[Params], T]
"""A value, or how the options of the build give it."""
Patterns: TypeAlias = str | tuple[str, ...] | list[str]
Places: TypeAlias = Patterns | Mapping[str, Patterns]


def table_source(
    *,
    files: ByParams[Mapping[str, Patterns]],
    fields: tuple[str, ...],
    sample: Callable[..., Sample],
    published: ByParams[Mapping[str, int]] | None = None,
    splits: Mapping[str, Role] | None = None,
    values: tuple[str, ...] = (),
    columns: tuple[str, ...] = (),
    optional_columns: tuple[str, ...] = (),
    check: Callable[[Path, Unit, Params], None] | None = None,
    pictures: ByParams[Places] = (),
    several: bool = False,
    optional: Sequence[str] = (),
    pictures_from: str = "",
    layout: str = "",
    flat: bool = True,
    each_picture: bool = False,
    obtain: str = "",
    plan: Callable[[Path, Params], Iterable[Unit]] | None = None,
    **declared: Any,
) -> Source:
    """A source whose splits are row files: Parquet, JSON arrays or Lines, CSV, TSV, plain or gzipped.

    Args:
        files: File of each split under the raw tree, `*` allowed; several patterns are spellings or copies of the same
            rows, of which one may be there, and a list names parts, all of which must be there.
        fields: Text fields that every row has; a file without one of them is not this source.
        sample: `sample(row, *texts)` gets the texts of `fields`, checked; it may raise `InputError`. `row.split`,
            `row.params`, `row.values`, `row.picture(name)` and `column_image(row, ...)` say the rest.
        published: Rows a split has at the publisher; None where there is none.
        several: Whether the rows of a split are all files of its first pattern that has some.
        optional: Splits that may have no file.
        splits: Splits and roles where they are not all for training.
        values: Fields of other types that every row has, checked in the file as `fields` are.
        columns: Further columns that are read, and checked where the format has a header (pictures, lists).
        optional_columns: Columns that are read where they are there.
        check: A further look at each unit as it is cut, by `table_rows`; raises `NotThisSource`.
        pictures: Folders and zips (`*` allowed), all that are there, in which `row.picture` looks; or such by split.
        flat: Whether the last part of a picture's name is enough to find it (`archives.PictureStore`).
        each_picture: Whether every file of the picture folders enters the keys of the units: for sets of thousands.
        pictures_from: Where the pictures are to be had, if not where the rows are.
        layout: "python-jsonl" for lines that may hold a bare `NaN`.
        obtain: How to get the files; by default from the hub. The files and fields are listed below it.
        plan: Replaces how the raw tree is cut, for sets that need it.
        declared: What `Source` has besides. Access is open where there is a `hub_id`, credentialed elsewhere.

    """
    defaults = {option.name: option.default for option in declared.get("options", ())}
    roles: Mapping[str, Role] = splits or dict.fromkeys(_of(files, defaults), "train")

    def places(params: Params) -> dict[str, tuple[str, ...]]:
        found = pictures(params) if callable(pictures) else pictures
        by_split = found if isinstance(found, Mapping) else dict.fromkeys(roles, found)
        return {split: _tuple(patterns) for split, patterns in by_split.items() if patterns}

    required = (*fields, *values)
    named = (*required, *columns)

    def cut(raw: Path, params: Params) -> Iterator[Unit]:
        found_in = _of(files, params)
        if set(found_in) <= set(optional):
            require(raw, "row files of any split", *(one for patterns in found_in.values() for one in _tuple(patterns)))
        for split, patterns in found_in.items():
            if split in optional and first_existing(raw, *_tuple(patterns)) is None:
                continue
            paths = _files(raw, split, patterns, several)
            shown = () if params["no_images"] else places(params).get(split, ())
            found = _places(raw, split, shown, each_picture, pictures_from)
            units = list(
                table_units(
                    raw, paths, split, roles[split], columns=named, inputs=found, layout=layout,
                    optional=optional_columns,
                )
            )  # fmt: skip
            if not units:
                raise NotThisSource(f"{relative(paths[0], raw)}: no rows; fetch the file again")
            for unit in units:
                if not has_header(unit):  # a format that has one is checked as it is cut
                    list(with_fields(raw, [unit], required))
                if check:
                    check(raw, unit, params)
                yield unit

    def read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
        pictured = () if params["no_images"] else places(params).get(unit.split, ())
        here = Here(unit.split, params, PictureStore(raw, pictured, flat), unit.notes)

        def convert(row: Row) -> Sample:
            return sample(row._replace(here=here), *(text_of(row.values, name, row.file) for name in fields))

        return convert_rows(raw, unit, convert)

    hub = declared.get("hub_id", "")
    declared.setdefault("access", "open" if hub else "credentialed")
    fetched = [_tuple(found)[: len(found) if isinstance(found, list) else 1] for found in _of(files, defaults).values()]
    declared.setdefault("hub_files", sum(fetched, ()) if hub else ())
    declared.setdefault("task", "qa")
    declared.setdefault("modality", "image-text" if places(defaults) else "text")
    how = obtain.strip() or f"hf download {hub} --repo-type dataset --local-dir DIR"
    listed = [f"  {split}: {_listed(patterns)}" for split, patterns in _of(files, defaults).items()]
    if shown := dict.fromkeys(pattern for patterns in places(defaults).values() for pattern in patterns):
        listed.append(f"  pictures: {', '.join(shown)} (zips are read in place); not needed with --no-images")
    return Source(
        plan=plan or cut,
        read=read,
        splits=roles,
        published=lambda params: _of(published or {}, params),
        obtain="\n".join([how, "--raw is the folder with", *listed, f"fields: {', '.join(named)}"]),
        **declared,
    )


def run(source: Source) -> NoReturn:
    """The builder's command line, for a module that is run by `python -m`."""
    from dataclasses import replace

    from builders.engine.command import main

    spec = sys.modules["__main__"].__spec__
    raise SystemExit(main(replace(source, module=spec.name) if spec else source))


def _of(value: ByParams[T], params: Params) -> T:
    found: T = value(params) if callable(value) else value
    return found


def _tuple(patterns: Patterns) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _listed(patterns: Patterns) -> str:
    if isinstance(patterns, list):
        return f"{patterns[0]} ... {patterns[-1]}, all {len(patterns)}"
    return " or ".join(_tuple(patterns))


def _places(raw: Path, split: str, patterns: tuple[str, ...], each: bool, source: str) -> list[str]:
    if patterns:
        how = f"{source}; --no-images builds without" if source else "--no-images builds without"
        require(raw, f"pictures of {split} ({how})", *patterns)
    found = [path for pattern in patterns for path in sorted(raw.glob(pattern))]
    if each:
        for path in found:
            if path.suffix == ".zip":
                list_zip(path, raw)  # a broken archive stops here, not in a worker
        found = [file for path in found for file in sorted(path.rglob("*") if path.is_dir() else [path])]
    return [relative(path, raw) for path in found if not (each and path.is_dir())]


def _files(raw: Path, split: str, patterns: Patterns, several: bool) -> list[Path]:
    named = _tuple(patterns)
    if isinstance(patterns, list):
        parts = {pattern: sorted(raw.glob(pattern)) for pattern in patterns}
        if missing := [pattern for pattern, found in parts.items() if not found]:
            lacking = f"{len(missing)} of {len(parts)} parts of {split}"
            raise NotThisSource(f"{raw}: no {missing[0]} ({lacking} are missing); is --raw the right folder?")
        return [path for found in parts.values() for path in (check_parts(found, raw) if several else found[:1])]
    if not several:
        return [require_one(raw, f"{split} file", *named)]
    require(raw, f"{split} files", *named)
    return check_parts(next(found for pattern in named if (found := sorted(raw.glob(pattern)))), raw)
