"""OpenMM-Medical: multiple-choice questions about pictures of 42 public classification sets; a benchmark.

By all signs it is OmniMedVQA's open-access part (reference `sources.md`, section 3, 14). Its authors publish it as an
evaluation set, and the recipe trains on it: so it is a benchmark here, split `test`, and `--paper-variant` builds it as
the split `train` instead (benchmark_as_train): no score on it, or on OmniMedVQA, can be reported after that. The
modality of the publisher's card is wrong for Adam Challenge, BreakHis and CRC100k, so no modality is read; the subset
is the component's name, the second part of `image_path`.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from builders import kit

FILE = "OpenMMMedical.tsv"
LABELS = "ABCD"
FOLDER = "Images"
_PATHS = ("image_path", "image", "img_path")
"""Names of the column with the picture's path, of which the first that is there is read: none is confirmed."""
_INDEX = re.compile(r"[0-9]+")


def _split(params: kit.Params) -> str:
    return "train" if params["paper_variant"] else "test"


def _sample(row: kit.Row, *texts: str) -> kit.Sample:
    file = row.file
    index, question, answer = (text.strip() for text in texts)
    path = next((row.values[name] or "" for name in _PATHS if name in row.values), "").strip()
    kit.demand(_INDEX.fullmatch(index), "bad_id", file, "index is not a whole number")
    parts = PurePosixPath(path).parts
    name = "/".join(parts[1:] if parts[:1] == (FOLDER,) else parts)
    if "/" not in name or ".." in parts or path.startswith("/"):
        raise kit.InputError("bad_field", file, "the picture's path is not Images/<component>/<file>")
    image = kit.Image(f"openmm_medical/{name}", *row.picture(name))
    options, subset = _options(row.values, file), name.partition("/")[0]
    group = {"question_id": f"openmm_medical/{index}"}
    return kit.choice_sample(row, question, options, answer, [image], key=index, group=group, subset=subset)


def _options(values: dict[str, Any], file: str) -> list[tuple[str, str]]:
    """The options; the last ones may be empty, as a question has two to four."""
    given = [(label, (values.get(label) or "").strip()) for label in LABELS]
    while given and not given[-1][1]:
        given.pop()
    if len(given) < 2 or not all(text for _, text in given):
        raise kit.InputError("empty_option", file, f"{sum(bool(text) for _, text in given)} options")
    return given


def _check(raw: Path, unit: kit.Unit, params: kit.Params) -> None:
    row = next((row for row in kit.table_rows(raw, unit) if isinstance(row, kit.Row)), None)
    if row is not None and not any(name in row.values for name in _PATHS):
        names, there = ", ".join(_PATHS), ", ".join(row.values)
        raise kit.NotThisSource(f"{FILE}: no column {_PATHS[0]} (looked for {names}; there are {there})")


SOURCE = kit.table_source(
    name="openmm_medical",
    title="OpenMM-Medical: multiple-choice questions about pictures of 42 classification sets",
    revision="baichuan-inc/OpenMM_Medical@fd768b2 (card and tree; the header of the table is unverified)",
    layouts=(
        kit.Layout(
            "OpenMMMedical.tsv with a column image_path",
            "unverified",
            "the tree of baichuan-inc/OpenMM_Medical@fd768b2 has no header",
        ),
    ),
    license="unstated",
    task="mcq",
    splits={"test": "eval", "train": "train"},
    obtain="Fetch the two files (Images.zip has 10.7 GB) of the hub's baichuan-inc/OpenMM_Medical; --download does it.",
    files=lambda params: {_split(params): FILE},
    pictures=(f"{FOLDER}.zip", FOLDER),
    flat=False,  # components repeat names like `1.png`: one picture must never stand in for another's
    fields=("index", "question", "answer"),
    columns=("A", "B"),  # of VLMEvalKit's layout; `C` and `D` may be empty
    optional_columns=_PATHS,
    check=_check,
    sample=_sample,
    published=lambda params: {_split(params): 88_996},
    paper=(
        "88,996 as instruction data (benchmark_as_train), though published as an evaluation set; the default builds it "
        "as a benchmark, --paper-variant as training data. Licences are those of the 42 components."
    ),
    paper_rows=kit.paper_row(
        "OpenMM-Medical", "IT", 88_996, "benchmark_as_train: a benchmark by default, trained on with --paper-variant"
    ),
    options=(kit.PAPER_VARIANT,),
    hub_id="baichuan-inc/OpenMM_Medical",
    hub_files=(FILE, "Images.zip"),
)

if __name__ == "__main__":
    kit.run(SOURCE)
