"""Patient-trial matching as TrialGPT lays it out: the judged pairs of SIGIR 2016, TREC CT 2021 and TREC CT 2022.

A row is a line of `qrels/test.tsv`: patient, trial, score. The recipe calls 2, 1, 0 eligible, partially eligible, not
eligible, everywhere. Only SIGIR 2016 means that (1: would consider referring upon further investigation); in TREC 1 is
*excluded* and 0 is *not relevant* (ir_datasets QREL_DEFS_2021), so `--labels official`, the default, offers and asks
for each cohort's own labels, and `--labels paper` has the recipe's. "not enough information" is offered and never gold.

Everything that is chosen is chosen by a hash of the ids, never by the order of rows: the pairs under `--cap`, the order
of the options, the exemplars of `--shots 1`. The cap counts judged pairs, whether or not their trial's text is at hand,
so that two sites ask the same questions; with `--candidates retrieved`, as in the recipe (section 4.1), those alone
whose trial was retrieved for the patient, says `retrieved_trials.json`. An exemplar has another patient and another
trial of the same cohort; its score goes round, so that each is shown equally often; its pair stands in the provenance,
`<line> exemplar <pair>`.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import cycle, islice, permutations
from pathlib import Path
from typing import Any, NamedTuple

from builders import kit

SEED = "patient-trial-1"
_COHORTS = ("sigir", "trec_2021", "trec_2022")
_LABELS = "ABCD"
_UNKNOWN = "not enough information"
_PAPER = {"2": "eligible", "1": "partially eligible", "0": "not eligible"}
_TREC = {"2": "eligible", "1": "not eligible", "0": "not relevant"}
_MEANINGS = {
    "sigir": (
        "eligible: highly likely to be referred to this trial; partially eligible: would be considered for referral "
        "upon further investigation; not eligible: would not be referred."
    ),
    "trec": (
        "eligible: meets the criteria; not eligible: has the condition, but is excluded by the criteria; "
        "not relevant: this trial is not for the patient's condition."
    ),
}
_LICENSES = {"sigir": "CSIRO-Data-Licence"}
_CONSENT = (
    "The patient will provide informed consent, and will comply with the trial protocol without any practical issues."
)
"""What TrialGPT adds to every note; the recipe does not mention it."""

_RETRIEVED = "{cohort}/retrieved_trials*.json"
_TRIAL_FILES = (
    "trial_info.json",
    _RETRIEVED,
    "{cohort}/corpus*.jsonl",
    "{cohort}_corpus*.jsonl",
    "*trials*.jsonl",
)
"""Where the texts of trials stand, below dataset/; of several texts of one trial the first counts."""

_PATIENT = re.compile(r"[a-z0-9\-]+")
_TRIAL = re.compile(r"NCT[0-9]{8}")


class _Pair(NamedTuple):
    """A judged pair."""

    patient: str
    trial: str
    score: str

    @property
    def name(self) -> str:
        return f"{self.patient}/{self.trial}"


def _number(*parts: str) -> int:
    """A number that depends on nothing but the seed and the parts."""
    return int.from_bytes(hashlib.sha256("|".join((SEED, *parts)).encode()).digest())


# Plan


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    base = raw / "dataset" if (raw / "dataset").is_dir() else raw
    cohorts = [cohort for cohort in _COHORTS if (base / cohort).is_dir()]
    if not cohorts:
        raise kit.NotThisSource(f"{raw}: no dataset/{{{','.join(_COHORTS)}}}; is --raw the TrialGPT checkout?")
    lists = [path for cohort in cohorts for path in base.glob(_RETRIEVED.format(cohort=cohort))]
    if params["candidates"] == "retrieved" and not lists:
        raise kit.NotThisSource(f"{base}: no {_RETRIEVED.format(cohort='*')} to list candidates; see --help")
    for cohort in cohorts:
        judged = kit.require(base, f"{cohort} judgments", f"{cohort}/qrels/test.tsv")
        queries = kit.relative(kit.require(base, f"{cohort} patients", f"{cohort}/queries.jsonl"), raw)
        texts = [path for name in _TRIAL_FILES for path in sorted(base.glob(name.format(cohort=cohort)))]
        if not texts:
            raise kit.NotThisSource(f"{base}: no texts of trials for {cohort}; fetch trial_info.json, see --help")
        # One unit a cohort: the cap and the exemplars look at all of its pairs.
        inputs, columns = [queries, *(kit.relative(path, raw) for path in texts)], ("query-id", "corpus-id", "score")
        yield from kit.table_units(raw, [judged], cohort, "eval", columns=columns, rows_per_unit=1 << 30, inputs=inputs)


# Read


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    _, queries, *texts = unit.inputs
    notes = _notes(raw, queries)
    pairs = list(_pairs(raw, unit, notes))
    lists = _candidates(raw, texts) if params["candidates"] == "retrieved" else None
    judged = [pair for _, pair in pairs if isinstance(pair, _Pair)]
    chosen = _chosen(
        (pair for pair in judged if lists is None or pair.trial in lists.get(pair.patient, ())), params["cap"]
    )
    trials = _trials(raw, texts, {pair.trial for pair in chosen})
    task = _Task(unit.split, params, notes, {name: text for name, text in trials.items() if isinstance(text, str)})
    exemplars = _exemplars([pair for pair in chosen if pair.trial in task.trials]) if params["shots"] == "1" else {}
    for row, pair in pairs:
        if isinstance(pair, kit.Reject):
            yield pair
            continue
        trial = trials.get(pair.trial)
        if lists is not None and pair.trial not in lists.get(pair.patient, ()):
            listed = "not_retrieved" if pair.patient in lists else "no_candidates"
            yield kit.Reject(row.file, row.number, listed, pair.name)
        elif pair not in chosen:
            yield kit.Reject(row.file, row.number, "over_cap", pair.name)
        elif trial is None:
            yield kit.Reject(row.file, row.number, "no_trial_text", pair.name)
        elif isinstance(trial, kit.InputError):
            yield kit.Reject(row.file, row.number, trial.reason, f"{trial.file}: {trial.detail}")
        elif params["shots"] == "1" and exemplars[pair] is None:
            yield kit.Reject(row.file, row.number, "no_exemplar", pair.name)
        else:
            yield task.sample(row, pair, exemplars.get(pair))


def _pairs(raw: Path, unit: kit.Unit, notes: dict[str, str]) -> Iterator[tuple[kit.Row, _Pair | kit.Reject]]:
    """Every line of the judgments, with its pair or what is wrong with it."""
    known: set[tuple[str, str]] = set()
    for row in kit.table_rows(raw, unit):
        if isinstance(row, kit.Reject):
            yield kit.Row(row.file, row.row, {}), row
            continue
        pair = _Pair(*(str(row.values[name]).strip() for name in ("query-id", "corpus-id", "score")))
        fault = ""
        if not (_PATIENT.fullmatch(pair.patient) and _TRIAL.fullmatch(pair.trial)):
            fault = "bad_id"
        elif pair.score not in _PAPER:
            fault = "bad_field"
        elif pair[:2] in known:
            fault = "duplicate_id"
        elif pair.patient not in notes:
            fault = "not_in_metadata"
        if fault:
            yield row, kit.Reject(row.file, row.number, fault, "" if fault == "bad_id" else pair.name)
        else:
            known.add(pair[:2])
            yield row, pair


def _notes(raw: Path, file: str) -> dict[str, str]:
    """The patients' notes by id."""
    notes = {}
    for number, values in _json_lines(raw, file):
        try:
            notes[kit.text_of(values, "_id", file)] = kit.text_of(values, "text", file)
        except kit.InputError as error:
            raise kit.NotThisSource(f"{file}, line {number}: {error.reason} ({error.detail}); fetch it again") from None
    return notes


def _chosen(pairs: Iterable[_Pair], cap: str) -> dict[_Pair, None]:
    """The pairs under the cap, in an order that depends on their ids alone."""
    groups: dict[tuple[str, str], list[_Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.patient, pair.score].append(pair)
    most = None if cap == "none" else int(cap)
    for group in groups.values():
        group.sort(key=lambda pair: _number("cap", pair.patient, pair.trial))
    return dict.fromkeys(pair for key in sorted(groups) for pair in groups[key][:most])


def _exemplars(pairs: list[_Pair]) -> dict[_Pair, _Pair | None]:
    """For each pair one of another patient and another trial, its score going round all scores in the order of hashes.

    Where the score whose turn it is has no such pair, the next score has its turn; None where none has one.
    """
    pools: dict[str, list[_Pair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: _number("exemplar", pair.patient, pair.trial)):
        pools[pair.score].append(pair)
    scores = sorted(pools)
    found: dict[_Pair, _Pair | None] = {}
    for turn, pair in enumerate(sorted(pairs, key=lambda pair: _number("turn", pair.patient, pair.trial))):
        found[pair] = None
        for score in islice(cycle(scores), turn % len(scores), turn % len(scores) + len(scores)):
            pool = pools[score]
            start = _number("start", pair.patient, pair.trial) % len(pool)
            others = (pool[(start + step) % len(pool)] for step in range(len(pool)))
            if other := next((o for o in others if o.patient != pair.patient and o.trial != pair.trial), None):
                found[pair] = other
                break
    return found


class _Task:
    """Turns pairs of one cohort into samples."""

    def __init__(self, cohort: str, params: kit.Params, notes: dict[str, str], trials: dict[str, str]) -> None:
        self.cohort, self.trials = cohort, trials
        official = params["labels"] == "official"
        self.labels = _TREC if official and cohort != "sigir" else _PAPER
        self.meanings = _MEANINGS[cohort.partition("_")[0]] if official else ""
        self.orders = list(permutations([*self.labels.values(), _UNKNOWN]))
        self.notes = notes
        self.consent = bool(params["consent"])

    def sample(self, row: kit.Row, pair: _Pair, exemplar: _Pair | None) -> kit.Sample:
        """The pair as a multiple-choice question, behind its exemplar where there is one."""
        options, gold = self._options(pair), self.labels[pair.score]
        shown = [message for shot in (exemplar, pair) if shot for message in self._turn(shot)]
        return kit.Sample(
            key=pair.name,
            messages=shown,
            file=row.file,
            row=f"{row.number} exemplar {exemplar.name}" if exemplar else row.number,
            question=self.notes[pair.patient],
            options=options,
            answer=next(label for label, text in options if text == gold),
            group={
                "subject_id": f"trialgpt/{pair.patient}",
                "study_id": f"clinicaltrials/{pair.trial}",
                "question_id": f"trialgpt/{pair.name}",
            },
            subset=f"score-{pair.score}",
            license=_LICENSES.get(self.cohort),
        )

    def _options(self, pair: _Pair) -> list[tuple[str, str]]:
        order = self.orders[_number(pair.patient, pair.trial) % len(self.orders)]
        return list(zip(_LABELS, order, strict=True))

    def _turn(self, pair: _Pair) -> list[dict[str, Any]]:
        options, gold = self._options(pair), self.labels[pair.score]
        note = sentences(self.notes[pair.patient]) + ([_CONSENT] if self.consent else [])
        parts = [
            "Patient note, its sentences numbered:\n" + _numbered(note),
            "Clinical trial:\n" + self.trials[pair.trial],
            "Is this patient eligible for this trial? Choose one.",
            *([self.meanings] if self.meanings else []),
        ]
        label = next(label for label, text in options if text == gold)
        asked = kit.choice_prompt("\n\n".join(parts), options)
        return [kit.user(asked), kit.assistant(kit.choice_answer(options, label))]


# Notes and trials as text

_BLANK_LINE = re.compile(r"\n\s*\n")
_BREAK = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])|\s*\n\s*\n\s*")
_NO_END = re.compile(r"(?:^|[\s(])(?:Dr|Drs|Mr|Mrs|Ms|St|vs|approx|Fig|e\.g|i\.e)\.$")


def sentences(note: str) -> list[str]:
    """A note cut into sentences; joined by spaces they are the note, apart from white space.

    TrialGPT uses nltk's `sent_tokenize`, whose model has to be downloaded; this cuts after a full stop, question or
    exclamation mark before a capital or digit, but not after titles and the like, and at empty lines.
    """
    found: list[str] = []
    start = 0
    for match in _BREAK.finditer(note):
        end = match.end() - len(match[0]) + len(match[0].rstrip())
        if not _BLANK_LINE.search(match[0]) and _NO_END.search(note[start : match.start()]):
            continue
        found.append(" ".join(note[start:end].split()))
        start = match.end()
    found.append(" ".join(note[start:].split()))
    return [sentence for sentence in found if sentence]


_HEADER = re.compile(
    r"\W*(?:(?:key|main|major|general|study|patient|subject)\s+)?(?:inclusion|exclusion)\s+criteri(?:a|on)"
    r"(?:[^:.\n]{0,60}:|\s*[;\-]|\s*\n|\s*$)\s*",
    re.IGNORECASE,
)
_BULLET = re.compile(r"(?:[*•·▪◦]+|[-–—]+(?=[\sA-Za-z])|\(?(?:\d{1,2}|[a-z]|[ivx]{2,4})[.)](?=\s)|\(?[A-Z]\)(?=\s))\s*")
"""Not `>` (> 18 years), a minus before a number, or a capital with a full stop (E. coli)."""
_SHORTEST = 5
"""Characters: TrialGPT drops shorter blocks."""


def criteria(text: str) -> list[str]:
    """The criteria of one field: its blocks between blank lines, without headings, bullets and fragments.

    TrialGPT's `parse_criteria` drops every block that holds the words "inclusion criteria": the whole text, where that
    is one block. Here only a heading at the start of a block goes, and its criteria stay.
    """
    found = []
    for block in _BLANK_LINE.split(text):
        for prefix in (_HEADER, _BULLET):
            block = block.strip()
            block = block[match.end() :] if (match := prefix.match(block)) else block
        block = " ".join(block.split())
        if len(block) >= _SHORTEST and any(character.isalpha() for character in block):
            found.append(block)
    return found


def _numbered(lines: list[str]) -> str:
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines)) or "(none stated)"


def _trial_text(trial: Any, file: str) -> str:
    """A trial as TrialGPT prints it, both kinds of criteria together."""
    diseases, drugs = (", ".join(kit.texts_of(trial, name, file)) for name in ("diseases_list", "drugs_list"))
    title, summary, inclusion, exclusion = (
        kit.text_of(trial, name, file)
        for name in ("brief_title", "brief_summary", "inclusion_criteria", "exclusion_criteria")
    )
    return (
        f"Title: {title}\nTarget diseases: {diseases}\nInterventions: {drugs}\nSummary: {' '.join(summary.split())}\n"
        f"Inclusion criteria:\n{_numbered(criteria(inclusion))}\nExclusion criteria:\n{_numbered(criteria(exclusion))}"
    )


def _trials(raw: Path, files: Iterable[str], wanted: set[str]) -> dict[str, str | kit.InputError]:
    """Texts of the wanted trials, or what is wrong with their records; a trial that no file has is absent."""
    found: dict[str, str | kit.InputError] = {}
    for file in files:
        for name, trial in _records(raw, file):
            if name in wanted and name not in found:
                try:
                    found[name] = _trial_text(trial, file)
                except kit.InputError as error:
                    found[name] = kit.InputError(error.reason, file, f"{name}: {error.detail}")
    return found


def _records(raw: Path, file: str) -> Iterator[tuple[Any, Any]]:
    """(NCT id, record) of every trial in a file of any of the layouts."""
    if file.endswith(".jsonl"):
        for _, row in _json_lines(raw, file):
            nested = row.get("metadata")
            yield row.get("_id"), nested if isinstance(nested, dict) and "brief_title" in nested else row
        return
    # One at a time: trial_info.json is large.
    for _, name, value in kit.json_items(raw / file, file, kinds="[{"):
        if _TRIAL.fullmatch(name):
            yield name, value
        # A patient of retrieved_trials.json, as an item of an array or alone.
        for score in _PAPER if not name else (name,) if name in _PAPER else ():
            trials = value if name else value.get(score) if isinstance(value, dict) else None
            for trial in trials if isinstance(trials, list) else ():
                if isinstance(trial, dict):
                    yield trial.get("NCTID"), trial


def _candidates(raw: Path, files: Iterable[str]) -> dict[str, set[Any]]:
    """The trials retrieved for each patient: of an array of patients, or of one alone."""
    found: dict[str, set[Any]] = defaultdict(set)
    for file in files:
        if "/retrieved_trials" not in file:
            continue
        alone: dict[str, Any] = {}
        for _, name, value in kit.json_items(raw / file, file, kinds="[{"):
            patient = value if not name and isinstance(value, dict) else {}
            if name:
                alone[name] = value
            _retrieve(found, patient)
        _retrieve(found, alone)
    return found


def _retrieve(found: dict[str, set[Any]], patient: dict[str, Any]) -> None:
    if isinstance(identity := patient.get("patient_id"), str):
        lists = [patient.get(score) for score in _PAPER]
        trials = [trial for one in lists if isinstance(one, list) for trial in one]
        found[identity].update(trial.get("NCTID") for trial in trials if isinstance(trial, dict))


def _json_lines(raw: Path, file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered objects of a file that must be sound throughout."""
    for unit in kit.table_units(raw, [raw / file], "", "eval"):
        for row in kit.table_rows(raw, unit):
            if isinstance(row, kit.Reject):
                raise kit.NotThisSource(f"{file}, line {row.row}: {row.reason} ({row.detail}); fetch it again")
            yield int(row.number), row.values


def _variant(params: kit.Params) -> str:
    parts = (
        "paper" if params["labels"] == "paper" else "",
        "retrieved" if params.get("candidates") == "retrieved" else "",
        "" if params["cap"] == "10" else f"cap{params['cap']}",
        "1shot" if params["shots"] == "1" else "",
        "consent" if params["consent"] else "",
    )
    return "-".join(filter(None, parts))


SOURCE = kit.Source(
    name="patient_trial",
    title="Patient-trial: eligibility of patients for clinical trials (SIGIR 2016, TREC CT 2021 and 2022, by TrialGPT)",
    homepage="https://github.com/ncbi-nlp/TrialGPT",
    revision="ncbi-nlp/TrialGPT@f6213131542e",
    layouts=(
        kit.Layout("queries, judgements, candidates", "rows", "ncbi-nlp/TrialGPT@f621313"),
        kit.Layout("trial_info.json", "unverified", files="*trial_info.json"),
    ),
    license="US-Government-Public-Domain",
    access="open",
    stage="eval",
    task="mcq",
    splits=dict.fromkeys(_COHORTS, "eval"),
    obtain="""
  git clone https://github.com/ncbi-nlp/TrialGPT
  wget -P TrialGPT/dataset ftp://ftp.ncbi.nlm.nih.gov/pub/lu/TrialGPT/trial_info.json
--raw is the checkout (or its dataset/ folder). Read, for each cohort of sigir, trec_2021, trec_2022 that is there:
  dataset/{cohort}/queries.jsonl, dataset/{cohort}/qrels/test.tsv
and the texts of trials, wherever they are found first:
  dataset/trial_info.json, dataset/{cohort}/retrieved_trials*.json, dataset/{cohort}/corpus*.jsonl,
  dataset/{cohort}_corpus*.jsonl, dataset/*trials*.jsonl""",
    reasons={
        "no_trial_text": "the trial's text is not in the tree; fetch trial_info.json",
        "no_exemplar": "the cohort has no exemplar of another patient and trial; fetch more trial texts",
        "no_candidates": "the tree lists no retrieved trials of the patient; fetch retrieved_trials.json of the cohort",
        "not_retrieved": "the trial is not among the patient's retrieved ones; --candidates judged keeps it",
        "over_cap": "beyond the cap of trials a patient and label; --cap none keeps it",
    },
    plan=_plan,
    read=_read,
    published=lambda params: {"sigir": 3_835, "trec_2021": 35_832, "trec_2022": 35_394},
    paper=(
        "benchmark 4,936, a subset of the 75,061 judged pairs by a rule that is not given. Ten trials a patient and "
        "label make 4,999 (1,321, 2,209 and 1,469), less those without a text; among the retrieved candidates, as the "
        "recipe says, 4,942 to 4,963 are expected from one patient's recall (--candidates retrieved). The recipe reads "
        "TREC's 1, excluded, as partially eligible; --labels paper does so too. 183 of the 184 patients are judged: "
        "sigir-201428 is not."
    ),
    options=(
        kit.Option("--labels", "each cohort's own labels, or the paper's for all", "official", ("official", "paper")),
        kit.Option(
            "--cap", "judged trials a patient and label, chosen by hash; `none` keeps all", "10", ("10", "none")
        ),
        kit.Option(
            "--candidates",
            "judged: all judged pairs; retrieved: those retrieved for the patient, as the paper says",
            "judged",
            ("judged", "retrieved"),
        ),
        kit.Option("--shots", "exemplars before the question", "0", ("0", "1")),
        kit.Option("--consent", "end every note with TrialGPT's sentence on informed consent"),
    ),
    figures=lambda params: {"all": {"kept": 4_936}},
    variant=_variant,
    paper_rows=kit.paper_row(
        "Patient-trial",
        "EVAL",
        4_936,
        "rule unknown; up to 10 a patient and label: 4,999 before missing texts, some 4,942 to 4,963 with --candidates "
        "retrieved; --labels paper for its labels",
    ),
)

if __name__ == "__main__":
    kit.run(SOURCE)
