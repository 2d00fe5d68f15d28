"""The demo tree of `builders.medbullets`."""

from builders import kit

# The demo's items: case, answer, four wrong options (the last one only in the 5-option files); made up.
_Item = tuple[str, str, tuple[str, ...]]

_ITEMS: tuple[_Item, ...] = (
    ("A 34-year-old man has a severe, one-sided headache with tearing, at the same hour each night.\n\n"
     "Which is the best abortive treatment?", "100% oxygen", ("Verapamil", "Propranolol", "Ibuprofen", "Lithium")),
    ("A 58-year-old woman has a tremor at rest, rigidity and slow movements. Which cells are lost?",
     "Dopaminergic neurons", ("Purkinje cells", "Motor neurons", "Basket cells", "Schwann cells")),
    ("A 6-week-old boy vomits after each feed and has an olive-shaped mass. What is the next step?",
     "Abdominal ultrasound", ("Barium enema", "CT of the abdomen", "Observation", "Colonoscopy")),
    ("A 70-year-old man with atrial fibrillation has sudden abdominal pain out of proportion. The diagnosis is",
     "Mesenteric ischaemia", ("Diverticulitis", "Appendicitis", "Pancreatitis", "Ileus")),
    ("A 25-year-old woman at 32 weeks has a blood pressure of 168/112 mmHg and 3+ protein. Which drug first?",
     "Labetalol", ("Lisinopril", "Furosemide", "Losartan", "Spironolactone")),
    ("A 45-year-old farmer has fever, jaundice and red eyes after a flood. The organism is",
     "Leptospira", ("Brucella", "Coxiella", "Rickettsia", "Borrelia")),
    ("A 19-year-old rower has a new rash that spreads in a \"Christmas tree\", after one larger patch. It is",
     "Pityriasis rosea", ("Tinea corporis", "Guttate psoriasis", "Lichen planus", "Urticaria")),
)  # fmt: skip

_REPEATS: dict[int, tuple[str, ...]] = {1: (), 4: ("Hydrochlorothiazide", "Ramipril", "Amlodipine besilate")}
"""Items that a later row repeats, with the wrong options that differ in the 4-option file."""

PLANTED = {"medxpertqa": "the question about the tremor is that of a medxpertqa text question, with other options"}


def _demo_row(number: int, item: _Item, count: int, link: str) -> dict[str, str]:
    question, right, wrong = item
    place = number % count
    options = [*wrong[:place], right, *wrong[place:]][:count]
    texts = {f"op{letter}": text for letter, text in zip("abcde", options, strict=False)}
    answer = {"answer_idx": "ABCDE"[place], "answer": right, "explanation": f"{right} is the answer because it fits."}
    return {"link": link, "question": question} | texts | answer


def files() -> kit.Files:
    tables: kit.Files = {}
    for count in (4, 5):
        rows = []
        for number, item in enumerate(_ITEMS):
            link = f"https://step2.medbullets.com/testview?qid={217_000 + number}"
            rows.append(_demo_row(number, item, count, link if number % 2 else f"https://bit.ly/4demo{number:02}"))
        for number, others in _REPEATS.items():
            question, right, wrong = _ITEMS[number]
            changed = count == 4 and len(others) > 0
            item = (question, right, others if changed else wrong)
            rows.append(_demo_row(number + changed, item, count, f"https://bit.ly/3again{number}"))
        if count == 5:
            rows.reverse()
        columns = {name: {str(number): row[name] for number, row in enumerate(rows)} for name in rows[0]}
        tables |= {f"medbullets/medbullets_op{count}.csv": rows, f"medbullets/medbullets_op{count}.json": columns}
    return tables
