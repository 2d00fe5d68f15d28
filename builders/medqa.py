"""MedQA, the US (USMLE-style) questions, with 4 or 5 options.

The publisher's folder also holds `US_qbank.jsonl` with all splits in one file, so files are found by their exact names,
never by a pattern. Questions have no ids: `medqa/<split>-<line>` is the question id in both the 4- and the 5-option
build, on the understanding that the publisher made the 4-option files line by line from the others (not verified).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from builders.engine.rawfiles import checked_text, decode_utf8, field_of, outcome, text_of, write_demo_file
from builders.engine.source import (
    InputError,
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
    user,
)

_SPLITS: dict[str, Role] = {"train": "train", "dev": "eval", "test": "eval"}
_FOLDERS = {
    "4": ("data_clean/questions/US/4_options", "questions/US/4_options", "."),
    "5": ("data_clean/questions/US", "questions/US"),
}
_NAMES = {"4": "phrases_no_exclude_{}.jsonl", "5": "{}.jsonl"}
_LABELS = "ABCDE"


def _files(raw: Path, params: Params) -> dict[str, str]:
    """Split to file, all of one folder; a split without a file is absent (GBaker's hub copy has no dev)."""
    name = _NAMES[params["options"]]
    for folder in _FOLDERS[params["options"]]:
        paths = {split: (Path(folder) / name.format(split)).as_posix() for split in _SPLITS}
        if found := {split: path for split, path in paths.items() if (raw / path).is_file()}:
            return found
    raise NotThisSource(
        f"{raw}: no {name.format('train|dev|test')} found (looked in {', '.join(_FOLDERS[params['options']])}); "
        "is --raw the right folder?"
    )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that hold something, as bytes: only a line feed ends a row of JSON Lines."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            yield number, line


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    for split, file in _files(raw, params).items():
        rows = sum(1 for _ in _lines(raw / file))
        if not rows:
            raise NotThisSource(f"{file}: no rows; fetch the file again")
        yield Unit(f"{split}-00000", split, _SPLITS[split], rows, {"file": file}, (file,))


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    file, labels = unit.payload["file"], _LABELS[: int(params["options"])]
    for number, line in _lines(raw / file):
        yield outcome(partial(_sample, line, number, unit.split, labels, file), file, str(number))


def _sample(line: bytes, number: int, split: str, labels: str, file: str) -> Sample:
    try:
        row = json.loads(decode_utf8(line, file))
    except (ValueError, RecursionError):
        raise InputError("bad_row", file, "not JSON") from None
    question, options = text_of(row, "question", file), field_of(row, "options", file)
    if not isinstance(options, dict) or sorted(options) != list(labels):
        raise InputError("bad_field", file, f"options are not {', '.join(labels)}")
    choices = [(label, checked_text(options[label], f"option {label}", file)) for label in labels]
    answer = text_of(row, "answer_idx", file)
    if answer not in options:
        raise InputError("bad_field", file, "answer_idx names no option")
    if text_of(row, "answer", file) != options[answer]:
        raise InputError("bad_field", file, "answer is not the text of answer_idx")
    if not question.strip():
        raise InputError("empty_question", file)
    listed = "\n".join(f"{label}. {text}" for label, text in choices)
    return Sample(
        key=str(number),
        messages=[user(f"{question}\n\n{listed}"), assistant(f"Answer: {answer}. {options[answer]}")],
        file=file,
        row=str(number),
        question=question,
        options=choices,
        answer=answer,
        group={"question_id": f"medqa/{split}-{number}"},
    )


# The demo's cases: presentation, diagnosis, treatment. Splits share no case but the planted one.
_CASES = (
    ("fever, a harsh holosystolic murmur and splinter haemorrhages", "Infective endocarditis", "Vancomycin"),
    ("polyuria, polydipsia and a serum glucose of 412 mg/dL", "Diabetic ketoacidosis", "Intravenous insulin"),
    ("a pulsatile headache with nausea and light sensitivity", "Migraine", "Sumatriptan"),
    ("a painless indurated genital ulcer", "Primary syphilis", "Benzathine penicillin G"),
    ("sudden pleuritic pain one week after knee replacement", "Pulmonary embolism", "Heparin"),
    ("a butterfly rash, arthralgia and proteinuria", "Systemic lupus erythematosus", "Hydroxychloroquine"),
    ("cold intolerance, weight gain and a TSH of 28 mIU/L", "Hypothyroidism", "Levothyroxine"),
    ("a salmon-coloured plaque with silvery scale on both elbows", "Psoriasis", "Topical betamethasone"),
    ("morning stiffness and swollen metacarpophalangeal joints", "Rheumatoid arthritis", "Methotrexate"),
    ("palpitations and an irregularly irregular pulse", "Atrial fibrillation", "Metoprolol"),
    ("ascending weakness two weeks after gastroenteritis", "Guillain-Barre syndrome", "Plasma exchange"),
    ("a barking cough and inspiratory stridor", "Croup", "Dexamethasone"),
    ("a painful red eye, halos around lights and a fixed pupil", "Acute angle-closure glaucoma", "Acetazolamide"),
    ("resting tremor, rigidity and a shuffling gait", "Parkinson disease", "Levodopa"),
    ("burning pain in a dermatomal band of vesicles", "Herpes zoster", "Valacyclovir"),
    ("microcytic anaemia and pica", "Iron deficiency", "Ferrous sulfate"),
    ("facial swelling minutes after a bee sting", "Anaphylaxis", "Epinephrine"),
    ("a swollen, hot first metatarsophalangeal joint", "Gout", "Indomethacin"),
    ("colicky flank pain and microscopic haematuria", "Nephrolithiasis", "Tamsulosin"),
    ("fatigable ptosis and diplopia in the evening", "Myasthenia gravis", "Pyridostigmine"),
    ("epigastric pain that wakes him and melena", "Peptic ulcer disease", "Omeprazole"),
    ("wheeze after exercise in cold air", "Asthma", "Albuterol"),
    ("target lesions on the palms after a sulfonamide", "Erythema multiforme", "Stopping the drug"),
    ("tearing chest pain and unequal arm pressures", "Aortic dissection", "Esmolol"),
    ("hyperpigmentation, salt craving and low blood pressure", "Addison disease", "Hydrocortisone"),
    ("jaundice, confusion and asterixis in known cirrhosis", "Hepatic encephalopathy", "Lactulose"),
    ("a fever of 40 C, rigors and ring forms on a blood smear", "Malaria", "Artesunate"),
    ("jaw claudication and sudden loss of vision in one eye", "Giant cell arteritis", "Prednisone"),
    ("a midline neck mass that rises with the tongue", "Thyroglossal duct cyst", "Sistrunk procedure"),
    ("watery diarrhoea after two weeks of clindamycin", "Clostridioides difficile colitis", "Oral vancomycin"),
)
_DEMO_CASES = {"train": range(18), "dev": range(18, 24), "test": range(24, 30)}
_DEMO_LABELS = "ABCD"

PLANTED: dict[str, str] = {
    "reordered": "medqa/train/36 is medqa/test/3 in capitals, with its options in another order",
}
"""What overlaps between the train and test splits of the demo tree."""


def _demo_row(stem: str, options: list[str], answer: str, phrase: str, number: int) -> dict[str, Any]:
    labelled = dict(zip(_LABELS, options, strict=False))
    return {
        "question": stem,
        "answer": answer,
        "options": labelled,
        "meta_info": "step1" if number % 2 else "step2&3",
        "answer_idx": next(label for label, text in labelled.items() if text == answer),
        "metamap_phrases": [phrase],
    }


def _demo_rows(split: str) -> list[dict[str, Any]]:
    cases = [_CASES[index] for index in _DEMO_CASES[split]]
    rows = []
    for index, case in enumerate(cases):
        age = 19 + 37 * _CASES.index(case) % 60
        stem = f"A {age}-year-old {('man', 'woman')[index % 2]} has {case[0]}."
        for column, ending in ((1, "What is the most likely diagnosis?"), (2, "Which treatment is best now?")):
            options = [cases[(index + step) % len(cases)][column] for step in range(4)]
            options = options[age % 4 :] + options[: age % 4]
            rows.append(_demo_row(f"{stem} {ending}", options, case[column], case[0], index))
    return rows


def _write_demo(raw: Path) -> None:
    splits = {split: _demo_rows(split) for split in _SPLITS}
    leaked = splits["test"][2]
    shuffled = [leaked["options"][label].upper() for label in "CADB"]
    splits["train"][35] = _demo_row(leaked["question"].upper(), shuffled, leaked["answer"].upper(), "", 35)
    folder = raw / "data_clean/questions/US"
    five: dict[str, list[dict[str, Any]]] = {}
    for split, rows in splits.items():
        write_demo_file(folder / f"4_options/{_NAMES['4'].format(split)}", _json_lines(rows))
        five[split] = [
            {k: v for k, v in row.items() if k != "metamap_phrases"}
            | {"options": row["options"] | {"E": "Watchful waiting"}}
            for row in rows
        ]
        write_demo_file(folder / _NAMES["5"].format(split), _json_lines(five[split]))
    write_demo_file(folder / "US_qbank.jsonl", _json_lines([row for split in _SPLITS for row in five[split]]))


def _json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


SOURCE = Source(
    name="medqa",
    title="MedQA (US): USMLE-style multiple-choice questions",
    homepage="https://github.com/jind11/MedQA",
    revision="jind11/MedQA@27b02f66aac2",
    license="MIT",
    access="open",
    stage="instruct",
    task="mcq",
    modality="text",
    splits=_SPLITS,
    obtain="""
Download data_clean.zip (Google Drive, linked from the README of https://github.com/jind11/MedQA) and unpack it; or the
two files of https://huggingface.co/datasets/GBaker/MedQA-USMLE-4-options (no dev split). --raw is a folder with one of
  data_clean/questions/US/4_options/phrases_no_exclude_{train,dev,test}.jsonl
  questions/US/4_options/phrases_no_exclude_{train,dev,test}.jsonl
  phrases_no_exclude_{train,dev,test}.jsonl
and for --options 5 [data_clean/]questions/US/{train,dev,test}.jsonl. Missing splits are left out.""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {"train": 10_178, "dev": 1_272, "test": 1_273},
    paper=(
        "train 10,178, benchmark 1,273: the publisher's US train and test. The paper does not say 4 or 5 options; "
        "4 is the default here, as in MedEvalKit and lm-eval."
    ),
    options=(Option("--options", "options a question: the 4-option or the 5-option files", "4", ("4", "5")),),
    variant=lambda params: "5opt" if params["options"] == "5" else "",
    paper_rows=(
        PaperRow("MedQA", "IT", 10_178),
        PaperRow("MedQA", "EVAL", 1_273, "4 options by default (--options 5); the paper does not say"),
    ),
    hub_id="GBaker/MedQA-USMLE-4-options",
    hub_files=("phrases_no_exclude_train.jsonl", "phrases_no_exclude_test.jsonl"),
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
