"""The demo tree of `builders.healthcaremagic`."""

from builders import kit

# (complaint, since when, reply); the demo's patients and doctors.
_CASES = (
    ("the room spins when I turn over in bed", "yesterday",
     "This sounds like positional vertigo. Try the Epley manoeuvre."),
    ("my knee clicks and swells after running", "two months ago", "A meniscal tear is possible. An MRI would show it."),
    ("my son has a barking cough at night", "Tuesday",
     "That is croup as a rule. Cool night air and one dose of steroid help."),
    ("I see floaters and flashes in my left eye", "this morning", "Please have your retina looked at today."),
    ("my fingers turn white and then blue in the cold", "last winter",
     "Raynaud phenomenon. Keep warm; nifedipine may help."),
    ("I have heartburn after every meal", "a year ago", "Raise the head of your bed and take a PPI before breakfast."),
    ("my periods are heavy and I am always tired", "six months ago", "Please check your haemoglobin and ferritin."),
    ("my father’s ankles are swollen – more so at night", "a week ago", "His heart and kidneys should be checked."),
)  # fmt: skip

PLANTED = {"repeated_question": "rows 1 and 9 ask the same and are answered differently: a pair of train rows, no leak"}


def demo_rows() -> list[dict[str, str]]:
    """The demo's rows: every trap that the reference names, none of them damaged."""
    rows = [
        {
            "instruction": kit.CHATDOCTOR_INSTRUCTION,
            "input": f"Hello doctor, {complaint}. It began {since}. What should I do?",
            "output": f"Hi, thanks for writing to Chat Doctor. {reply} Regards, Chat Doctor.",
        }
        for complaint, since, reply in _CASES
    ]
    rows.append(rows[0] | {"input": "  "})
    rows.append(rows[1] | {"output": "Hi. Rest it for two weeks and use ice."})
    rows.append(rows[2] | {"input": "Is honey safe for a baby of six months?", "output": ""})
    return rows


def files() -> kit.Files:
    return {"data/train-00000-of-00001-5e7cb295b9cff0bf.parquet": demo_rows()}
