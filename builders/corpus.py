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
    *.txt *.md     one document, with the picture beside it that has its name; a name of five words is text, too
    pictures       those that rows name; where nothing but documents is there, one row each
Pictures in cells: as bytes, {bytes, path}, base64 (also within HTML), hexadecimal, rows of numbers of any depth, lists
of any of these; by path, also into a zip of the folder. Addresses (URLs) are never fetched. A key that comes again in
an object of JSON is `key#2`.

A mapping says where things are. Every key may be left out; a key set to `[]` is not looked for at all. A field is a
name, or a path into nested fields (`meta.patient`):
    name      of the corpus; default: the folder's name
    id        field that names a row; default: `__key__`, `id` (not in Parquet of more than 20,000 rows), or its number
    text      fields of free text or of dialogues; default: text, caption, txt, conversations, messages, input, context,
              passage
    question, options, answer, reasoning
              fields; default: those names (options also: choices, endings, columns A, B, ..., opa, option_1, ...), else
              the first of instruction, prompt, query, and of output, response, completion, correct_answer, gt_answer,
              ideal, answer_idx ... `options` is one field (a list, or an object label -> text), a list of fields, or an
              object label -> field. An answer is a label, an index from 0 or the text itself. Where there are none,
              options that the question lists count (`A. x`, `(b) y`), if the answer is one of them. What most test
              questions begin with, instructions or worked examples, is no part of the stem. Of a test dialogue the last
              question is the item, of Alpaca's form `input`
    images    fields; default: found by type and name
              (default names also count as Question and QUESTION)
    groups    subject_id, study_id, prior_study_id, pmcid, pmid, video_id, question_id, image_id -> field, or
              {field: patient, prefix: ourhospital}. Equal values mean the same thing everywhere: give the train and the
              eval side the same prefix. Without one pmcid, pmid and video_id get ours (`pmc/PMC123`, `pubmed/123`,
              `youtube/...`). Ids of patients and studies are compared without case, accents, signs, leading zeros and a
              word before the number (`PT-0012`, `12`); others are taken as they stand
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
or more, with many words or tokens, that nothing was taken from, texts in base64 or in pieces of words or rows, ids of
patients that `groups` does not map, a test item whose answer is not known (`answer`). Where anything is not compared,
the exit code is 4.

`--copy-without excluded_rows.csv`, the list that `prove` writes, makes a copy of the folder without these rows, each
file in its own form (lines, CSV, JSON arrays, tars: to the byte). `prove --filtered-copy DIR` does both.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from builders.engine.command import check_counts
from medgpt import errors
from medgpt.arguments import command_parser
from medgpt.engines import add_engine


@errors.run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. 0: built; 4: built, not all was compared; 1: run again to go on; 2: cannot be used."""
    parser = command_parser(
        "builders.corpus",
        __doc__ or "",
        "example:\n  python -m builders.corpus --raw corpus/a --role train --mapping map.yaml --out built\n\n"
        "exit code: 0 built; 4 built, but something was not read or not compared (rejected rows among it); 3 built,\n"
        "damaged rows are declared; 1 not finished, run again to resume; 2 the folder or the mapping cannot be used\n"
        "of --probe: 0 all would be compared; 4 something would not; 3 damage is declared; 2 no build is possible",
    )
    add = parser.add_argument
    add("--raw", type=Path, required=True, metavar="DIR", help="folder of the corpus")
    add("--role", choices=("train", "eval"), required=True, help="the side of the comparison that it is")
    add("--mapping", type=Path, metavar="FILE", help="YAML: which field is what (default: by the usual names)")
    add("--out", type=Path, metavar="DIR", help="root of the builds; one folder is made in it")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)")
    add_engine(parser)
    add("--max-damaged", type=int, default=sys.maxsize, metavar="N", help="stop past N damaged rows (default: never)")
    add("--limit", type=int, metavar="N", help="a trial build: the first N rows (of tars, JSON Lines: of each file)")
    add("--probe", action="store_true", help="say what the folder is, from the first rows of each file; write nothing")
    add("--dry-run", action="store_true", help="show what would be built, write nothing")
    add("--copy-without", type=Path, metavar="CSV", help="build nothing: copy the folder to --out without these rows")
    add("--json", action="store_true", help="print the build's record as JSON, no progress bar")
    add("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    check_counts(parser, args)
    if not (args.out or args.probe):
        parser.error("--out is needed: the folder in which the build is made")

    from builders.engine import corpus_source as corpus  # imported late, so that --help answers at once
    from medgpt.settings import read_yaml

    mapping, place = (read_yaml(args.mapping), str(args.mapping)) if args.mapping else (None, "mapping")
    if args.probe:
        seen, text = corpus.probe_corpus(args.raw, args.role, mapping, place)
        print(json.dumps(seen, ensure_ascii=False) if args.json else text)
        return int(seen["exit_code"])
    if args.copy_without:
        files, rows = corpus.copy_corpus(args.raw, args.role, mapping, args.copy_without, args.out, place)
        print(f"{args.raw} -> {args.out}: {files} files, {rows} rows left out")
        return errors.DONE
    how = {"workers": args.workers, "limit": args.limit, "max_damaged": args.max_damaged}
    if args.dry_run:
        from builders.engine.report import print_plan

        source, options, plan = corpus.planned(args.raw, args.role, mapping, args.out, place, **how)
        print_plan(source, plan, options, None, args.json)
        return errors.DONE
    how["progress"] = not (args.quiet or args.json)
    document, text = corpus.build_corpus(args.raw, args.role, mapping, args.out, place=place, **how)
    print(json.dumps(document, ensure_ascii=False) if args.json else text)
    damaged = errors.DAMAGED if document["counts"]["damaged"] else errors.DONE
    return errors.NOT_COMPARED if corpus.open_entries(document) else damaged


if __name__ == "__main__":
    raise SystemExit(main())
