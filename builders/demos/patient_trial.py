"""The demo tree of `builders.patient_trial`."""

from builders import kit
from builders.patient_trial import _COHORTS

# Made-up patients: age and sex, complaint, condition; and the traps of criteria fields.
_DEMO_PATIENTS = {
    "sigir": (("sigir-20141", "asthma"), ("sigir-20142", "gout"), ("sigir-201428", "vertigo")),
    "trec_2021": (("trec-20211", "melanoma"), ("trec-20212", "psoriasis")),
    "trec_2022": (("trec-20221", "anaemia"), ("trec-20222", "migraine")),
}

_DEMO_TRAPS = (
    ("inclusion criteria: \n\n adults with {0} \n\n  1. stable dose for 4 weeks \n\n or \n\n ", ": \n\n prior surgery"),
    ("Inclusion Criteria: adults with {0} who can attend weekly visits", ""),
    ("- aged 18 to 65 \n\n - {0} for 6 months \n\n (c) 2.5 mg/dL or less", "exclusion criteria: \n\n pregnancy"),
    ("Patients who met the inclusion criteria of the parent study of {0}", "Exclusion Criteria:\n none known to date"),
)


def _demo_trial(number: int, condition: str) -> kit.Values:
    inclusion, exclusion = _DEMO_TRAPS[number % len(_DEMO_TRAPS)]
    return {
        "brief_title": f"Study {number} of a Treatment for {condition.capitalize()}",
        "phase": "Phase 2",
        "drugs": f"['Drug {number}']",
        "drugs_list": [f"Drug {number}"],
        "diseases": f"['{condition.capitalize()}']",
        "diseases_list": [condition.capitalize()],
        "enrollment": "40.0",
        "inclusion_criteria": inclusion.format(condition),
        "exclusion_criteria": exclusion,
        "brief_summary": f"This study compares Drug {number} with usual care.~It runs for {6 + number % 7} months.",
    }


def files() -> kit.Files:
    tree: kit.Files = {}
    info: kit.Values = tree.setdefault("dataset/trial_info.json", {})
    for cohort, patients in _DEMO_PATIENTS.items():
        judged: list[dict[str, str]] = []
        notes: kit.Rows = []
        corpus: kit.Rows = []
        retrieved: kit.Rows = []
        for place, (patient, condition) in enumerate(patients):
            note = (
                f"A {41 + 7 * place}-year-old woman presents with {condition}. She was seen by Dr. Lee on "
                f"[**2148-10-{1 + place}**], e.g. for advice. Her creatinine is 1.{place} mg/dL. She takes nothing."
            )
            notes.append({"_id": patient, "text": note} | ({} if cohort == "sigir" else {"metadata": {}}))
            if patient == "sigir-201428":
                continue  # a patient whom nobody judged, as in the real set
            shown: kit.Values = {"patient_id": patient, "patient": note, "0": [], "1": [], "2": []}
            for number, score in enumerate("0" * 12 + "111" + "22"):
                name = f"NCT9{_COHORTS.index(cohort)}{place:03}{number:03}"
                judged.append({"query-id": patient, "corpus-id": name, "score": score})
                trial = _demo_trial(number, condition)
                if number == 12:
                    continue  # a judged trial whose text is nowhere
                if cohort != "sigir":
                    info[name] = trial
                elif number < 8:
                    text = f"Summary: {trial['brief_summary']}\nInclusion criteria: {trial['inclusion_criteria']}"
                    corpus.append({"_id": name, "title": trial["brief_title"], "text": text, "metadata": trial})
                else:
                    shown[score].append(trial | {"NCTID": name})
            retrieved.append(shown)
        tables: kit.Files = {"queries.jsonl": notes, "qrels/test.tsv": judged}
        if cohort == "sigir":
            tables |= {"retrieved_trials.json": retrieved, "corpus.jsonl": corpus}
        tree |= {f"dataset/{cohort}/{name}": rows for name, rows in tables.items()}
    return tree
