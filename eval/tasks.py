"""The benchmark rows as short declarations over benchmark *builds*; raw files are never read here.

A task says which build and splits its items come from, how the question is put, how long an answer may be, what is
scored and which items belong together (`cluster`). The conversation itself is the sample's: builders store question,
options and pictures in order, and in one-shot builds the worked example before them. A task adds at most a system text
and a closing instruction, and takes the stored answer away.

Two variants where the readings differ, both labelled in every record:
`official` is the publisher's benchmark with the publisher's prompt where one is published (ours otherwise); `paper` is
the recipe's reading of the data (its count), with our prompt, since the recipe publishes none.

`--tasks` takes names (`slake`, `slake:paper`), tables (`table4`), `all`, or `all:paper` (the paper's variant where a
row has one), or `open` (open questions, without a row in the paper). A task of your own is a YAML entry with the same
fields: `--task-file FILE`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import orjson
from msgspec import Meta
from msgspec.structs import replace

from medgpt.errors import UserError
from medgpt.settings import Settings, checked, read_yaml

if TYPE_CHECKING:
    from shards.reader import Build, StoredSample

Kind = Literal["choice", "report"]

LETTER = "Answer with the letter of the correct option, in the form 'Answer: X'."
"""Ours. It names the form that the strict rule reads as a declaration, and that the worked examples have."""
MMMU = "Answer with the option's letter from the given choices directly."  # MMMU bb0b95a
MMMU_PRO = "Answer with the option letter from the given choices directly."  # MMMU-Pro prompts.yaml, direct
MEDXPERTQA = "Let's think step by step, then end with 'Answer: X', X being the letter of one option."
"""After MedXpertQA f21247d, which asks for the letter in a second turn; one turn here, so one call an item."""
MEDXPERTQA_SYSTEM = "You are a helpful medical assistant."
MEDFRAMEQA_SYSTEM = (  # MedFrameQA config/prompt.yaml, eval_system_prompt
    "Answer the following multiple-choice question. Images are provided. The last line of your response should be "
    "strictly of the following format: 'Answer: $LETTER' (without quotes) where LETTER is one of the options. For "
    "example, if the correct answer is A, your response should be: 'Answer: A'. Think step by step before answering."
)
SHORT = "Answer with a single word or phrase."
"""For the few items of a choice task that the publisher left open; they are scored by exact text."""

Cluster = Literal["image", "subject_id", "study_id", "pmid", "video_id", "question_id"]
"""What `Task.cluster` may name: the picture of the question, or one of the sample's group ids."""


class Task(Settings, frozen=True):
    """One row of a results table in one variant. Only the first two fields must be given."""

    name: Annotated[str, Meta(pattern=r"^[^.:/\\ ][^:/\\ ]*$")]
    build: str
    """Name of the build (`builders/...` writes it): `slake`, `patient_trial.1shot`."""
    splits: Annotated[tuple[str, ...], Meta(min_length=1)] = ("test",)
    kind: Kind = "choice"
    """`choice`: one option of the item, scored strictly. `report`: free text, scored by report metrics."""
    variant: Annotated[str, Meta(pattern=r"^[^:/\\ ]+$")] = "official"
    cluster: Cluster = "question_id"
    """Items of one cluster are not independent, so intervals resample clusters."""
    prompt: str = LETTER
    """Closing instruction, after a blank line; empty for none. A model card may add a suffix of its own."""
    system: str = ""
    max_new_tokens: Annotated[int, Meta(ge=1)] = 512
    """Limit of an answer; a card of a reasoning model raises it. Cut answers are counted as truncated."""
    subset: str = ""
    """Keep samples of this `subset` only (`closed`)."""
    context: bool = True
    """False: only the question and its options are asked, without the passage or pictures stored around them."""
    shots: Annotated[int, Meta(ge=0)] = 0
    """Worked examples that the build holds before the question; checked against the samples."""
    expected: int | None = None
    """Items of a whole benchmark; another count is said, never hidden."""
    row: str = ""
    """The row of the paper's table, as the paper calls it; empty where the paper has none."""
    table: str = ""
    """`4`, `5`, `6` or `Figure 2`."""
    paper_n: int | None = None
    """The paper's denominator for that row."""
    note: str = ""

    @property
    def label(self) -> str:
        """`slake`, `slake:paper`: how the task is called in commands and files."""
        return self.name if self.variant == "official" else f"{self.name}:{self.variant}"

    @property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of all that shapes what is asked and scored; wording of row and note not included."""
        shaping = {
            key: value
            for key, value in msgspec.to_builtins(self).items()
            if key not in ("row", "table", "paper_n", "note")
        }
        return hashlib.sha256(orjson.dumps(shaping, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _paper(task: Task, **changes: Any) -> Task:
    return replace(task, **({"variant": "paper", "prompt": LETTER, "system": ""} | changes))


_MMMU_MED = Task(
    "mmmu_med", "mmmu_med", ("validation",), prompt=MMMU, expected=150, row="MMMU-Med", table="4", paper_n=175,
    note="five validation items are open questions",
)  # fmt: skip
_SLAKE = Task(
    "slake", "slake", subset="closed", cluster="image", expected=416, row="SLAKE", table="4", paper_n=836,
    note="English closed questions, one without options; the paper's 836 are of both languages",
)  # fmt: skip
_TRIAL = Task(
    "patient_trial_0shot", "patient_trial", ("sigir", "trec_2021", "trec_2022"), cluster="subject_id", shots=0,
    row="Patient-trial (0-shot)", table="6", paper_n=4936, note="labels as each cohort defines them",
)  # fmt: skip
_TRIAL_1 = replace(
    _TRIAL, name="patient_trial_1shot", build="patient_trial.1shot", shots=1, row="Patient-trial (1-shot)"
)
_IMPRESSION = Task(
    "impression_0shot", "mimic_cxr.impression", kind="report", cluster="subject_id", prompt="", max_new_tokens=256,
    row="Impression (0-shot)", table="6", paper_n=1564, note="the paper names no metric; RaTEScore x 100 is assumed",
)  # fmt: skip
_MEDXPERT = Task(
    "medxpertqa_mm", "medxpertqa", ("mm_test",), prompt=MEDXPERTQA, system=MEDXPERTQA_SYSTEM, max_new_tokens=2048,
    expected=2000, row="MedXQA (multimodal)", table="4", paper_n=2000,
)  # fmt: skip
_MEDXPERT_TEXT = replace(
    _MEDXPERT, name="medxpertqa_text", splits=("text_test",), expected=2450, row="MedXQA (text-only)", table="5",
    paper_n=2450,
)  # fmt: skip
_MEDFRAMEQA = Task(
    "medframeqa", "medframeqa", cluster="video_id", prompt="", system=MEDFRAMEQA_SYSTEM, max_new_tokens=2048,
    expected=2851, row="MedFrameQA", table="4", paper_n=2851,
)  # fmt: skip
_PRO_4 = Task(
    "mmmu_pro_med_4", "mmmu_pro_med", ("test_4",), prompt=MMMU_PRO, expected=286, row="MMMU-Med-Pro (4 options)",
    table="4", paper_n=286,
)  # fmt: skip
_PRO_10 = replace(
    _PRO_4, name="mmmu_pro_med_10", splits=("test_10",), row="MMMU-Med-Pro (10 options)",
    note="204 of the 286 have ten options",
)  # fmt: skip
_PUBMEDQA = Task("pubmedqa", "pubmedqa", expected=500, row="PubMed QA", table="5", paper_n=500)
_MEDBULLETS = Task("medbullets", "medbullets", expected=298, row="Medbullets", table="5", paper_n=298)
_MEDQA = Task("medqa", "medqa", expected=1273, row="MedQA", table="5", paper_n=1273)

TASKS: tuple[Task, ...] = (
    # Table 4: pictures and text
    _MEDXPERT, _paper(_MEDXPERT, max_new_tokens=512),
    _SLAKE, _paper(_SLAKE, build="slake.paper", expected=836, note="closed questions of both languages"),
    _MEDFRAMEQA, _paper(_MEDFRAMEQA, max_new_tokens=512),
    _MMMU_MED, _paper(_MMMU_MED, splits=("dev", "validation"), expected=175),
    _PRO_4, _paper(_PRO_4),
    _PRO_10, _paper(_PRO_10),
    # Table 5: text
    _MEDQA, replace(_MEDQA, variant="5_options", build="medqa.5opt", row="", paper_n=None),
    Task("medmcqa", "medmcqa", ("validation",), expected=4183, row="MedMCQA", table="5", paper_n=4183),
    _PUBMEDQA, replace(_PUBMEDQA, variant="no_context", context=False, note="the question without its abstract"),
    _MEDXPERT_TEXT, _paper(_MEDXPERT_TEXT, max_new_tokens=512),
    Task("mmlu_med", "mmlu_med", expected=1395, row="MMLU-Med", table="5", paper_n=1395),
    _MEDBULLETS, replace(_MEDBULLETS, variant="5_options", build="medbullets.5opt"),
    # Table 6: in context, without and with one worked example
    _TRIAL, _paper(_TRIAL, build="patient_trial.paper", note="TREC's 'excluded' read as partially eligible"),
    _TRIAL_1, _paper(_TRIAL_1, build="patient_trial.paper-1shot", note="TREC's 'excluded' read as partially eligible"),
    _IMPRESSION,
    replace(
        _IMPRESSION, name="impression_1shot", build="mimic_cxr.impression-1shot", shots=1, row="Impression (1-shot)"
    ),
    # Figure 2: findings from several views and the prior study
    Task(
        "mimic_findings", "mimic_cxr.longitudinal", kind="report", cluster="subject_id", prompt="", row="MIMIC-CXR",
        table="Figure 2", paper_n=2231, note="the paper's cleaning is unpublished",
    ),
)  # fmt: skip
"""The rows of Tables 4 to 6 and Figure 2. Patient-trial and Impression have a row for each number of shots."""

OPEN_TASKS: tuple[Task, ...] = (
    Task("slake_open", "slake", subset="open", cluster="image", expected=645, note="English open questions"),
    Task("vqa_rad_open", "vqa_rad", subset="open", cluster="image", note="its training side shows the same pictures"),
)
"""Open questions that the paper has no row for: `--tasks open`. `all` leaves them out."""

CORPUS_TASKS: tuple[Task, ...] = (
    Task("pathvqa_closed", "pathvqa.eval", subset="closed", cluster="image", note="those answered by yes or no"),
    Task("pathvqa_open", "pathvqa.eval", subset="open", cluster="image", note="all the others"),
)
"""Benchmarks without a builder, read by `builders.corpus` (examples/pathvqa.yaml); asked by their names alone."""

_YES_NO = (("A", "Yes"), ("B", "No"))


def subset_of(record: Mapping[str, Any]) -> str:
    """The publisher's subset; without one and without options `closed` if the answer is yes or no, else `open`."""
    if record["subset"] or record["options"]:
        return record["subset"] or ""
    return "closed" if str(record["answer"]).strip().lower() in ("yes", "no") else "open"


def select_tasks(names: Sequence[str], own: Sequence[Task] = ()) -> list[Task]:
    """Tasks by name, table or `all`, in the order of the tables, each once.

    `slake` is its official variant, `slake:paper` the paper's; a group takes the variant after the colon where a row
    has it and the official one elsewhere. `own` are tasks of a task file; `all` takes them in.
    Raises: `UserError` for a name that is none.
    """
    beside = (*OPEN_TASKS, *CORPUS_TASKS)
    known = [*TASKS, *beside, *own]
    tables = {f"table{task.table}" for task in known if task.table.isdigit()} | {"figure2", "all", "open"}
    chosen: list[Task] = []
    for name in names:
        stem, _, variant = name.partition(":")
        if stem in tables:
            if stem == "open":
                group = list(OPEN_TASKS)
            elif stem == "all":
                group = [task for task in known if task not in beside]
            else:
                group = [task for task in known if stem in (f"table{task.table}", _squeezed(task.table))]
            rows = dict.fromkeys(task.name for task in group)
            wanted = variant or "official"
            if not any(task.variant == wanted for task in group):
                raise UserError(f"--tasks {name}: no task of {stem} has a variant {variant!r}")
            chosen += [_of_variant(known, row, wanted) for row in rows]
            continue
        fitting = [task for task in known if task.name == stem]
        if not fitting:
            raise UserError(
                f"--tasks {name}: no such task; there are: {', '.join(dict.fromkeys(task.name for task in known))}, "
                f"{', '.join(sorted(tables))}"
            )
        found = [task for task in fitting if task.variant == (variant or "official")]
        # A task of one's own may have only a variant with another name: then that one is meant.
        if not found and not variant and len(fitting) == 1:
            found = fitting
        if not found:
            raise UserError(f"--tasks {name}: {stem} comes as {', '.join(task.label for task in fitting)}")
        chosen += found
    wanted_labels = {task.label for task in chosen}
    return [task for task in known if task.label in wanted_labels]


def _squeezed(table: str) -> str:
    return table.lower().replace(" ", "")


def _of_variant(known: Sequence[Task], name: str, variant: str) -> Task:
    of_row = [task for task in known if task.name == name]
    return next((task for task in of_row if task.variant == variant), of_row[0])


def load_task_file(path: Path) -> list[Task]:
    """Tasks of a YAML file: a list of entries with the fields of `Task`. Raises: `UserError`."""
    tasks = checked(list[Task], read_yaml(path), str(path))
    if not tasks:
        raise UserError(f"{path}: holds no task")
    labels = [task.label for task in (*TASKS, *OPEN_TASKS, *CORPUS_TASKS, *tasks)]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(f"{path}: {twice[0]} is the name of a task that is there already")
    return tasks


@dataclass(frozen=True)
class Question:
    """One item as a model is asked it."""

    sample_id: str
    messages: list[dict[str, Any]]
    """Turns up to the one to be answered; parts are `{"type": "text", "text"}` or `{"type": "image", "index"}`."""
    images: list[bytes] = field(repr=False)
    """JPEG or PNG files, in the order of `index`."""
    options: tuple[tuple[str, str], ...]
    """(label, text); empty for reports and open questions."""
    gold: str
    """The gold label, or the reference text where there are no options."""
    cluster: str
    subset: str
    """Stratum for slices: the publisher's subset, else the split."""
    exemplar: str
    """What the worked example answered; empty without one."""
    access: str


class Benchmark:
    """The items of a task, read from its build."""

    def __init__(self, task: Task, folder: Path) -> None:
        """Open a build. Raises: `UserError`; `UserError` for a build that cannot be read."""
        from shards.reader import Build

        self.task = task
        self.folder = folder
        self._build: Build = Build(folder, role="eval", checked=True)
        self.root: str = self._build.document["root"]
        """Digest of the whole build: the version of the benchmark."""
        self.build: str = self._build.document["build"]
        self.source: str = self._build.document["source"]["name"]
        self.access: str = self._build.document["source"]["access"]
        self.built = {unit["split"] for unit in self._build.document["units"] if unit["role"] == "eval"}
        if missing := [split for split in task.splits if split not in self.built]:
            raise UserError(
                f"{folder}: task {task.label} needs split {', '.join(missing)}, but it holds "
                f"{', '.join(sorted(self.built)) or 'no test side'}; build it again with all splits"
            )

    def __iter__(self) -> Iterator[Question]:
        """All items in the order of the build. Raises: `UserError` for a sample that does not fit the task."""
        for number, sample_id in enumerate(self._build.ids):
            if sample_id.split("/", 2)[1] not in self.task.splits:
                continue
            sample = self._build[number]
            if self.task.subset and subset_of(sample.record) != self.task.subset:
                continue
            yield make_question(self.task, sample)

    def read(self, sample_id: str) -> Question:
        """One item. Raises: `KeyError`."""
        return make_question(self.task, self._build[self._build.find(sample_id)])


def make_question(task: Task, sample: StoredSample) -> Question:
    """An item of a task from a stored sample. Raises: `UserError`, naming the sample."""
    record = sample.record
    where = f"{record['id']} (task {task.label})"
    # A copy: the stored turns stay as they are, whoever else holds them.
    turns = [
        {"role": turn["role"], "content": [_part(part) for part in turn["content"]]} for turn in record["messages"]
    ]
    if turns and turns[-1]["role"] == "assistant":
        turns.pop()
    asked = [turn for turn in turns if turn["role"] == "user"]
    if not turns or turns[-1]["role"] != "user":
        raise UserError(f"{where}: its conversation does not end in a question and an answer; build it again")
    if len(asked) != task.shots + 1:
        raise UserError(
            f"{where}: {len(asked) - 1} worked examples, the task says {task.shots}; is {task.build} built right?"
        )
    options = tuple((option["label"], option["text"]) for option in record["options"] or ())
    gold = record["answer"]
    if not gold:
        raise UserError(f"{where}: no gold answer; a task needs one for every item")
    if task.kind == "choice" and options and gold not in dict(options):
        raise UserError(f"{where}: the gold answer is none of its options' labels; build it again")
    truth = gold.strip().lower()
    # What a publisher calls closed may have another answer ("kidney or spleen?" "Liver", SLAKE): that one stays open.
    if task.kind == "choice" and task.subset == "closed" and not options and truth in ("yes", "no"):
        options, gold = _YES_NO, "A" if truth == "yes" else "B"
        add_closing(turns, "\n".join(f"{label}. {text}" for label, text in options))
    images = list(sample.images)
    if len(images) != len(record["images"] or ()):
        raise UserError(f"{where}: {len(images)} of {len(record['images'])} pictures are there; build it with pictures")
    if not task.context:
        listed = "".join(f"\n{label}. {text}" for label, text in options)
        turns[-1]["content"] = [{"type": "text", "text": f"{record['question']}\n{listed}"}]
        images = []
    closing = task.prompt if options or task.kind == "report" else SHORT
    if closing:
        add_closing(turns, closing)
    if task.system:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": task.system}]})
    examples = [turn for turn in turns if turn["role"] == "assistant"]
    return Question(
        sample_id=record["id"],
        messages=turns,
        images=images,
        options=options if task.kind == "choice" else (),
        gold=gold,
        cluster=_cluster(task, record),
        subset=record["subset"] or record["split"],
        exemplar="".join(part["text"] for turn in examples for part in turn["content"]),
        access=record["access"],
    )


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "image":
        return {"type": "image", "index": part["index"]}
    return {"type": "text", "text": part["text"]}


def add_closing(turns: list[dict[str, Any]], text: str) -> None:
    """Put a closing instruction after a blank line at the end of the last turn."""
    parts = turns[-1]["content"]
    if parts and parts[-1]["type"] == "text":
        parts[-1] = {"type": "text", "text": f"{parts[-1]['text']}\n\n{text}"}
    else:
        parts.append({"type": "text", "text": text})


def _cluster(task: Task, record: Mapping[str, Any]) -> str:
    if task.cluster == "image":
        images = record["images"] or ()
        return str(images[0]["image_id"]) if images else str(record["id"])
    # An item without the id stands for itself.
    return str(record["group"][task.cluster] or record["id"])


def open_benchmarks(data: Path, tasks: Sequence[Task]) -> list[Benchmark]:
    """The benchmarks of tasks among the builds under `data`. Raises: `UserError` naming every build that is missing."""
    folders = _folders(data)
    if missing := dict.fromkeys(task.build for task in tasks if task.build not in folders):
        corpora = {task.build for task in CORPUS_TASKS}
        builders = dict.fromkeys("corpus" if name in corpora else name.partition(".")[0] for name in missing)
        raise UserError(
            f"{data}: not built: {', '.join(missing)}; build them (python -m builders.{next(iter(builders))} --help "
            f"shows how{', the others alike' if len(builders) > 1 else ''}), or go on without (eval.run --only-present)"
        )
    return [Benchmark(task, folders[task.build]) for task in tasks]


def built_tasks(data: Path, tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
    """(tasks whose build is under `data`, the others). Raises: `UserError` where none is."""
    folders = _folders(data)
    there, missing = ([task for task in tasks if (task.build in folders) is flag] for flag in (True, False))
    if not there:
        open_benchmarks(data, missing)
    return there, missing


def _folders(data: Path) -> dict[str, Path]:
    from manifests.catalog import load_builds

    return {build.record["build"]: build.folder for build in load_builds(data)}
