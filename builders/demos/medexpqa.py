"""The demo tree of `builders.medexpqa`."""

from typing import Any

from builders import kit
from builders.medexpqa import LABELS, LANGUAGES, NAMES

# The demo's cases, made up: specialty and signs, then the test that comes first, in each language.
_SIGNS = (
    ("NEUROLOGY", ("facial droop and aphasia", "debilidad facial y afasia", "paralysie faciale et aphasie",
                   "deficit facciale e afasia")),
    ("CARDIOLOGY", ("crushing chest pain", "dolor torácico opresivo", "douleur thoracique", "dolore toracico")),
    ("DIGESTIVE SYSTEM", ("melaena and a low haemoglobin", "melenas y anemia", "méléna et anémie", "melena e anemia")),
    ("PNEUMOLOGY", ("fever and a productive cough", "fiebre y tos productiva", "fièvre et toux", "febbre e tosse")),
    ("NEPHROLOGY", ("oedema and heavy proteinuria", "edema y proteinuria", "œdème et protéinurie",
                    "edema e proteinuria")),
    ("HEMATOLOGY", ("fatigue and petechiae", "astenia y petequias", "fatigue et pétéchies", "astenia e petecchie")),
)  # fmt: skip

_TESTS = {
    "en": ("CT of the head", "Electrocardiogram", "Gastroscopy", "Chest radiograph", "Urine protein", "Blood count"),
    "es": ("TC craneal", "Electrocardiograma", "Gastroscopia", "Radiografía de tórax", "Proteinuria", "Hemograma"),
    "fr": ("Scanner cérébral", "Électrocardiogramme", "Gastroscopie", "Radiographie", "Protéinurie", "Hémogramme"),
    "it": ("TC del cranio", "Elettrocardiogramma", "Gastroscopia", "Radiografia", "Proteinuria", "Emocromo"),
}

_WORDS = {
    "en": ("A {age}-year-old patient has {sign}. Which test comes first?", "{test}: the answer is {number}."),
    "es": ("Paciente de {age} años con {sign}. ¿Qué prueba es la primera?", "{test}: la respuesta es la {number}."),
    "fr": ("Un patient de {age} ans a {sign}. Quel examen d'abord ?", "{test} : la réponse est la {number}."),
    "it": ("Un paziente di {age} anni ha {sign}. Quale esame per primo?", "{test}: la risposta è la {number}."),
}

_DEMO_IDS = {"train": range(1, 9), "validation": range(9, 11), "test": range(11, 15)}


def _demo_row(language: str, number: int) -> kit.Values:
    topic, signs = _SIGNS[number % len(_SIGNS)]
    tests, (question, commentary) = _TESTS[language], _WORDS[language]
    right = tests[number % len(_SIGNS)]
    place = number % (5 if number % 3 else 4)
    wrong = [test for test in tests if test != right]
    texts: list[Any] = [*wrong[:place], right, *wrong[place:]][:5]
    if number % 3 == 0:
        texts[4] = float("nan") if number % 2 else None
    snippet = {"id": f"pubmed23n{number:04}", "title": "Passage", "score": 0.5, "content": "RETRIEVED PASSAGE"}
    answer = commentary.format(test=right, number=place + 1)
    return {
        "correct_option": place + 1,
        "explanations": {
            label: {"exist": label == str(place + 1), "char_ranges": [], "word_ranges": [], "text": ""}
            for label in LABELS
        },
        "full_answer": None if number == 7 else answer,
        "full_answer_no_ref": "A REWRITTEN COMMENTARY",
        "full_question": question.format(age=20 + 5 * number, sign=signs[LANGUAGES.index(language)]),
        "id": number,
        "lang": language,
        "options": dict(zip(LABELS, texts, strict=True)),
        "question_id_specific": 100 + number,
        "type": topic,
        "year": 2011 + number % 12,
        "rag": {"clinical_case_options": {"MedCorp": {"RRF-2": [snippet]}}},
    }


def files() -> kit.Files:
    return {
        f"data/{language}/{NAMES[split]}.{language}.casimedicos.rag.jsonl": [_demo_row(language, id_) for id_ in ids]
        for language in LANGUAGES
        for split, ids in _DEMO_IDS.items()
    }
