"""iCliniq-10K: patients' questions with three answers, of which only `answer_icliniq` is a doctor's.

The other two (`answer_chatgpt`, `answer_chatdoctor`) are model output and are not read. The name says 10K, the file has
7,321 rows. The set is one and the same in three places. Its copy in lavita/medical-qa-datasets calls it a *test* split,
because ChatDoctor was evaluated on it; the recipe trains on it, so every copy is the split `train` here. 1,000 of the
rows are AlpaCare's iCliniq test, which is no benchmark of the recipe.
"""

from builders import kit

SOURCE = kit.table_source(
    name="icliniq",
    title="iCliniq-10K: patients' questions with a doctor's answer",
    hub_id="lavita/ChatDoctor-iCliniq",
    revision="lavita/medical-qa-datasets (viewer: 7.32k rows); Kent0n-Li/ChatDoctor@e77bd7ebafbf",
    layouts=(
        kit.Layout(
            "the hub's Parquet: input and three answers",
            "code",
            "lavita/medical-qa-datasets, by its readers",
            columns=("answer_icliniq",),
        ),
        kit.Layout("ChatDoctor's JSON", "code", "Kent0n-Li/ChatDoctor@e77bd7e", files="*.json"),
    ),
    license="unstated",
    obtain="""
Clone the dataset lavita/ChatDoctor-iCliniq from https://huggingface.co, or download iCliniq.json (Google Drive, linked
from the README of https://github.com/Kent0n-Li/ChatDoctor). lavita/medical-qa-datasets has the same rows as test.""",
    files={"train": ("data/train-*.parquet", "*[Ii][Cc]liniq*.json*", "chatdoctor-icliniq/test-*.parquet")},
    fields=("input", "answer_icliniq"),
    sample=kit.question_answer,
    published={"train": 7_321},
    paper=(
        "train 7,321: the whole file (10K is its nickname). It is ChatDoctor's evaluation set, and 1,000 rows of it "
        "are AlpaCare's iCliniq test; neither is a benchmark of the recipe. No licence is stated."
    ),
    paper_rows=kit.paper_row("iCliniq-10K", "IT", 7_321),
)

if __name__ == "__main__":
    kit.run(SOURCE)
