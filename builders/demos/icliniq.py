"""The demo tree of `builders.icliniq`."""

from builders import kit

# (question, the doctor's answer)
_CASES = (
    ("I passed a kidney stone last week and my side still aches.", "An ultrasound will show whether a piece is left."),
    ("My daughter, 4, has had a fever of 39 C for two days.",
     "Give fluids and paracetamol; see a doctor on day three."),
    ("Which tablets for blood pressure are safe in pregnancy?", "Labetalol and methyldopa are used as a rule."),
    ("My wisdom tooth was drawn and the socket hurts more today.", "This may be a dry socket; please return to him."),
    ("I cannot sleep since I began prednisolone.", "Take it in the morning. Do not stop it at once."),
    ("Can I drink coffee before a thyroid test?", "Yes, but not with your tablet."),
)  # fmt: skip

PLANTED = {"other_set": "row 6 asks the question of healthcaremagic/train/3, word for word"}


def demo_rows() -> list[dict[str, str | None]]:
    """The demo's rows: model answers that differ from the doctor's or are missing, and a question without an answer."""
    rows: list[dict[str, str | None]] = [
        {
            "input": f"Hello doctor, {question}",
            "answer_icliniq": f"Hello, Welcome to iCliniq.com. {answer}",
            "answer_chatgpt": "I am sorry to hear that. It would be best to consult a healthcare professional.",
            "answer_chatdoctor": "Hi, as a model I would suggest rest.",
        }
        for question, answer in _CASES
    ]
    rows[1]["answer_chatgpt"] = None
    rows[2]["answer_chatdoctor"] = ""
    rows.append(
        rows[0]
        | {
            "input": "Hello doctor, I see floaters and flashes in my left eye. It began this morning. "
            "What should I do?",
            "answer_icliniq": "Hello. Please see an eye doctor at once.",
        }
    )
    rows.append(rows[3] | {"input": "Hello doctor, is a dry socket an infection?", "answer_icliniq": " "})
    return rows


def files() -> kit.Files:
    return {"data/train-00000-of-00001.parquet": demo_rows()}
