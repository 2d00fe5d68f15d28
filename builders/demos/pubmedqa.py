"""The demo tree of `builders.pubmedqa`."""

from builders import kit

# The demo's words: train and test speak of different things, so that only the planted items overlap.
_INTERVENTIONS = {
    "train": ("early mobilisation", "oral iron", "tranexamic acid", "a low-salt diet", "nurse-led care", "melatonin"),
    "test": ("topical timolol", "group yoga", "bedside ultrasound", "vitamin D", "text messages", "nasal budesonide"),
}

_EFFECTS = {
    "train": ("wound infection", "thirty-day readmission", "postoperative delirium", "anaemia", "length of stay"),
    "test": ("time to diagnosis", "asthma exacerbations", "missed appointments", "haemangioma growth", "neck pain"),
}

_PATIENTS = {
    "train": ("women after caesarean section", "adults with hip fracture", "children with sickle cell disease"),
    "test": ("office workers", "preterm infants", "farmers with chest pain", "adolescents living with HIV"),
}

PLANTED = {
    "exact_text": "pubmedqa/train/90000029 repeats pubmedqa/test/90000030 (whole record, question in capitals)",
    "reworded": "pubmedqa/train/90000031 asks the question of pubmedqa/test/90000032 in another order of words",
    "paper_variant": "--paper-variant: all 30 test PMIDs are training PMIDs",
}


def _demo_item(split: str, index: int) -> kit.Values:
    given, effect, patients = (
        words[split][index % len(words[split])] for words in (_INTERVENTIONS, _EFFECTS, _PATIENTS)
    )
    label = ("yes", "no", "yes", "maybe")[index % 4]
    share, difference = 5 + index, 0 if label == "no" else 6
    conclusion = {
        "yes": f"{effect.capitalize()} improved in {patients} given {given}.",
        "no": f"{effect.capitalize()} stayed the same in {patients} given {given}.",
        "maybe": f"{effect.capitalize()} in {patients} may or may not depend on {given}.",
    }
    return {
        "QUESTION": f"Does {given} reduce {effect} in {patients}?",
        "CONTEXTS": [
            f"Little is known about {given} and {effect}.",
            f"We enrolled {61 + 7 * index} {patients} at {2 + index % 9} centres; half received {given}.",
            f"Rates of {effect} were {share}% with and {share + difference}% without {given}.",
        ],
        "LABELS": ["BACKGROUND", "METHODS", "RESULTS"],
        "MESHES": ["Humans", "Treatment Outcome"],
        "YEAR": str(1998 + index % 20),
        "reasoning_required_pred": label,
        "reasoning_free_pred": label,
        "final_decision": label,
        "LONG_ANSWER": conclusion[label],
    }


def files() -> kit.Files:
    items: dict[str, kit.Values] = {}
    for index in range(30):
        for offset, split in ((1, "train"), (2, "test")):
            items[str(90_000_000 + 2 * index + offset)] = _demo_item(split, index)
    copied = items["90000030"]
    items["90000029"] = copied | {"QUESTION": copied["QUESTION"].upper().replace("?", " ?!")}
    assert items["90000032"]["QUESTION"] == "Does vitamin D reduce time to diagnosis in adolescents living with HIV?"
    items["90000031"]["QUESTION"] = "Is time to diagnosis in adolescents living with HIV reduced by vitamin D?"
    truth = {pmid: item["final_decision"] for pmid, item in items.items() if int(pmid) % 2 == 0}
    return {"data/ori_pqal.json": items, "data/test_ground_truth.json": truth}
