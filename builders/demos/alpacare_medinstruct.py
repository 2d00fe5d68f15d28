"""The demo tree of `builders.alpacare_medinstruct`."""

from builders import kit

# (instruction, input, output)
_TASKS = (
    ("Explain why a mass in the lung could cause shortness of breath.", "<noinput>", "It can narrow an airway."),
    ("Rewrite this note for the patient.", "Pt c/o SOB on exertion, NYHA II.", "You get short of breath when active."),
    ("List three side effects of prednisone.", "", "Weight gain, poor sleep, thin skin."),
    ("Summarise the dialogue.", "Doctor: How long?\nPatient: Two weeks.", "Symptoms for two weeks."),
    ("Which vaccines does a pregnant woman need?", "<noinput>", "Influenza and pertussis."),
    ("Classify the finding as normal or not.", "DNA ploidy: aneuploid.", "Not normal."),
    ("Write a quiz question about the spleen.", '"<noinput>" 2. Type: Open Q&A Topic: Spleen', "What does it filter?"),
    ("Name the bones of the wrist.", "<noinput>", ""),
)

_TEST_TASKS = (
    "Discuss how beta blockers lower blood pressure.",
    "My nephew swallowed a coin an hour ago. What should we do?",
    "Outline a plan for a first seizure in an adult.",
    "What does a raised anion gap mean?",
)

PLANTED = {"exact_text": "alpacare_medinstruct/train/8 is alpacare_medinstruct/test/2 in capitals"}


def demo_rows() -> list[dict[str, str]]:
    """The demo's train rows: every spelling of no input, and one answer that is empty."""
    rows = [{"instruction": task, "input": given, "output": output} for task, given, output in _TASKS]
    return [*rows, {"instruction": _TEST_TASKS[2].upper(), "input": "<noinput>", "output": "History, EEG, MRI."}]


def files() -> kit.Files:
    models = ("gpt-4-answer", "claude-2", "gpt-3.5-turbo-answer", "text-davinci-003-answer")
    rows = [
        {"id": number, "instruction": task, "difficulty": str(1 + number % 5)}
        | {model: f"It depends. ({model})" for model in models}
        for number, task in enumerate(_TEST_TASKS)
    ]
    return {"data/MedInstruct-52k.json": demo_rows(), "data/MedInstruct-test.jsonl": rows}
