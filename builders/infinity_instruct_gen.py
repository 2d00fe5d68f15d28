"""Infinity-Instruct, subset Gen: general conversations between `human` and `gpt`, in several turns.

Only `Gen/*.parquet` is read: the repository holds five other subsets in folders beside it. General data, about 3 % of
it Chinese; every language is kept. Its card names no test for overlap with MMLU or any medical set. The first question
of a conversation is `question`; the replies are model output, so there is no gold answer.
"""

from pathlib import PurePosixPath

from builders import kit


def _sample(row: kit.Row) -> kit.Sample:
    said = kit.turns_of(kit.field_of(row.values, "conversations", row.file), row.file, pictures=False)
    source = row.values.get("source")
    subset = None if source is None else kit.checked_text(source, "source", row.file) or None
    key, group = f"{PurePosixPath(row.file).stem}/{row.number}", {}
    if "id" in row.values:
        group = {"question_id": f"infinity-instruct/{kit.id_of(row.values, 'id', row.file)}"}
    return kit.conversation_sample(row, said, answer=None, key=key, group=group, subset=subset)


SOURCE = kit.table_source(
    name="infinity_instruct_gen",
    title="Infinity-Instruct (Gen): general instructions in several turns",
    hub_id="BAAI/Infinity-Instruct",
    hub_revision="bddc39a8feadbd679c30623197f4e736b7e75b48",
    revision="BAAI/Infinity-Instruct, Gen (0729), by its card; file tree of manifoldlabs/Infinity-Instruct",
    languages=("en", "zh"),
    layouts=(
        kit.Layout("15 Parquet files of Gen", "code", "the tree of manifoldlabs/Infinity-Instruct"),
        kit.Layout("their columns id and source", "unverified", columns=("id", "source")),
    ),
    license="CC-BY-SA-4.0",
    access="gated",
    task="instruction",
    obtain="""
Log in at https://huggingface.co, accept the terms of the dataset BAAI/Infinity-Instruct (approved at once), then clone
it or fetch its folder Gen (train-000NN-of-00015.parquet). The other subsets (0625, 3M, 7M, 7M_core, 7M_domains) are not
needed and never read.""",
    files={"train": "Gen/*.parquet"},
    several=True,
    fields=(),
    columns=("conversations",),
    optional_columns=("id", "source"),  # by the card alone: no public reader names them
    sample=_sample,
    published={"train": 1_456_927},
    paper=(
        "train 1,483,097, which is 26,170 above the card's 1,456,927 for Gen (0729); no public text has the paper's "
        "number. What the files hold is counted, neither number is asserted."
    ),
    paper_rows=kit.paper_row(
        "Infinity-Instruct-Gen", "IT", 1_483_097, "the card says 1,456,927; the 26,170 more are unexplained"
    ),
)

if __name__ == "__main__":
    kit.run(SOURCE)
