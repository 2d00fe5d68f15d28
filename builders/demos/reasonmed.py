"""The demo tree of `builders.reasonmed`."""

from builders import kit
from builders.reasonmed import RENDERINGS

# (question, options, the right one); the first is an item of the demo of medqa, dev split: MedQA dev is a source.
_CASES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "A 39-year-old man has epigastric pain that wakes him and melena. What is the most likely diagnosis?",
        ("Aortic dissection", "Peptic ulcer disease", "Asthma", "Erythema multiforme"),
        "B",
    ),
    ("Heberden's ahritis affects", ("Lumbar spine", "Wrist", "Distal interphalangeal joints", "Knee"), "C"),
    ("Does oral zinc shorten the common cold?", ("yes", "no", "maybe"), "A"),
    ("Which nerve supplies the deltoid?", ("Radial", "Axillary", "Median", "Ulnar"), "B"),
    ("The most sensitive test for iron deficiency is", ("Ferritin", "Serum iron", "MCV", "TIBC", "Reticulocytes"), "A"),
)

_PROMPT = "Please answer the following multiple-choice question:"

PLANTED = {"by_design": "row 0 of each rendering is medqa/dev/5 of its demo tree: MedQA dev is among the sources"}


def demo_rows(rendering: str) -> list[dict[str, str]]:
    """The demo's rows of a rendering: letters stated once, never or twice; options of three, five or no lines."""
    rows = []
    for number, (question, options, label) in enumerate(_CASES):
        listed = "\n".join(f"{mark}. {text}" for mark, text in zip("ABCDE", options, strict=False))
        right = dict(zip("ABCDE", options, strict=False))[label]
        thought = f"1. The question asks: {question}\n2. Option A is weighed first, then the rest.\n"
        said = (f"The correct answer is **{label}. {right}**.", f"Final answer: {label}", f"So {right} it is.")[
            number % 3
        ]
        output = {
            "CoTMed": thought + said,
            "ResponseMed": f"{right} fits best. {said}",
            "ReasonMed": f"<think>{thought}</think>\n{said}" if number % 2 else f"{thought}\n{said}",
        }[rendering]
        given = "Context: 300 adults, two arms." if options[0] == "yes" else ""
        rows.append({"instruction": f"{_PROMPT} {question}\n{listed}", "input": given, "output": output})
    unsure = "The answer is A. On reflection, the answer is B."
    rows.append(rows[3] | {"instruction": f"{_PROMPT} Which muscle abducts?\nA. Deltoid\nB. Teres", "output": unsure})
    rows.append(
        rows[3] | {"instruction": "Explain why aspirin is stopped before surgery.", "output": "It thins blood."}
    )
    rows.append(rows[3] | {"output": ""})
    return rows


def files() -> kit.Files:
    tables = {f"{rendering}.json": demo_rows(rendering) for rendering in RENDERINGS}
    del tables["ResponseMed.json"][7:]  # summaries that failed were left out
    test = [{"instruction": f"{_PROMPT} A test question?\nA. Yes\nB. No", "input": "", "output": "The answer is A."}]
    return tables | {"eval_data/eval_data_all.json": test}
