"""Near-duplicate text: MB and texts a CPU-second, planted runs found, peers beside; rewrites found and wrongly named.

Speed: 20,000 generated texts against 2,500 test texts, some of which are planted in other case, punctuation or line
wrapping; the index is part of the work. Peers get the first texts of the same corpus, being slower. The peers'
environment needs `datatrove` (with spacy) or `dolma`; one that cannot be imported is left out.

Rewrites: real multiple-choice items, where the folder of real rows is present, made into open questions by fixed rules
(last sentence first, clauses moved, synonyms, "which of the following" dropped, the options replaced by the answer);
the harder kind also drops every fourth word and half of the sentences of a vignette. These are no language model's
rewrites: they say how much change the measure bears, and how often another item is named instead.
"""

from __future__ import annotations

import json
import random
import re
import resource
import subprocess
import tempfile
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifests.proof.policy import TextSettings

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"
TEXTS, TESTS, PEER_TEXTS, NAIVE_TEXTS = 20_000, 2_500, 1_000, 2_000
N = 8
ROUNDS = 3
BATCH_CHARACTERS = 2_000_000
THRESHOLDS = (0.40, 0.45, 0.50, 0.55, 0.60)


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Medians of three rounds for ours; one run each for the naive sets and the peers."""
    tests, texts, planted = _corpus()
    figures: dict[str, Any] = {
        "texts": len(texts),
        "mb": round(_megabytes(texts), 1),
        "planted": len(planted),
        "ours: runs": _runs(tests, texts, planted),
        "ours: all kinds": _all_kinds(tests, texts),
        "naive: python sets": _naive(tests, texts[:NAIVE_TEXTS], planted),
    }
    if peer_python is not None:
        for name, script in (("datatrove", _DATATROVE), ("dolma", _DOLMA)):
            peer = _peer(peer_python, script, tests, texts[:PEER_TEXTS], planted)
            if peer is not None:
                figures[f"peer: {name}"] = peer
                figures[f"ours: runs, times {name}"] = round(
                    figures["ours: runs"]["mb_per_cpu_s"] / peer["mb_per_cpu_s"], 1
                )
    figures["rewrites"] = _rewrites(REAL_DATA) if REAL_DATA.is_dir() else None
    return figures


def _corpus() -> tuple[list[str], list[str], set[int]]:
    """Test texts, training texts, and the training texts that hold a whole test text of N words or more."""
    chance = random.Random(0)
    vocabulary = ["".join(chance.choices("etaoinsrhé", k=chance.randint(1, 12))) for _ in range(20_000)]
    weights = [1 / rank for rank in range(1, 20_001)]
    cumulative = [sum(weights[:1])]
    for weight in weights[1:]:
        cumulative.append(cumulative[-1] + weight)

    def text(size: int) -> str:
        words = chance.choices(vocabulary, cum_weights=cumulative, k=size)
        return " ".join(map(str.__add__, words, chance.choices(["", "", "", ",", "."], k=size)))

    changes: tuple[Callable[[str], str], ...] = (
        str, str.upper, lambda t: t.replace(",", ""), lambda t: t.replace(" ", " \n\t")
    )  # fmt: skip
    tests = [text(chance.choice((8, 12, 15, 25, 40, 80, 150))) for _ in range(TESTS)]
    texts, planted = [text(chance.randint(50, 350)) for _ in range(TEXTS)], set()
    for row in chance.sample(range(TEXTS), TEXTS // 50):
        item, cut = chance.choice(tests), chance.randrange(len(texts[row]))
        texts[row] = f"{texts[row][:cut]} {chance.choice(changes)(item)} {texts[row][cut:]}"
        if len(item.split()) >= N:
            planted.add(row)
    return tests, texts, planted


def _megabytes(texts: Sequence[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def _rates(texts: Sequence[str], seconds: float, flagged: set[int], planted: set[int]) -> dict[str, Any]:
    here = {row for row in planted if row < len(texts)}
    return {
        "mb_per_cpu_s": round(_megabytes(texts) / seconds, 2),
        "texts_per_cpu_s": round(len(texts) / seconds),
        "flagged": len(flagged),
        "planted_found": f"{len(here & flagged)} of {len(here)}",
    }


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    start = size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size >= BATCH_CHARACTERS or number + 1 == len(texts):
            yield start, texts[start : number + 1]
            start, size = number + 1, 0


def _settings(**changed: Any) -> TextSettings:
    """Those of the default policy but what is given."""
    from msgspec.structs import replace

    from manifests.proof.policy import load_policy

    return replace(load_policy().text, **changed)


def _runs(tests: Sequence[str], texts: Sequence[str], planted: set[int]) -> dict[str, Any]:
    from manifests.proof.near_text import EvalText, NearTextIndex

    seconds, scans = [], []
    flagged: set[int] = set()
    for _ in range(ROUNDS):
        started = time.process_time()
        index = NearTextIndex([EvalText("", (), "", text) for text in tests], _settings(run_words=(N,)))
        indexed = time.process_time()
        flagged = {start + m.train for start, batch in _batches(texts) for m in index.scan_runs(batch)[0]}
        seconds.append(time.process_time() - started)
        scans.append(time.process_time() - indexed)
    rates = _rates(texts, sorted(seconds)[ROUNDS // 2], flagged, planted)
    return rates | {"mb_per_cpu_s_without_index": round(_megabytes(texts) / sorted(scans)[ROUNDS // 2], 2)}


def _all_kinds(tests: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """Each text as a sample: 60 words of question and options, 40 of answer, all of it the record."""
    from manifests.proof.near_text import EvalText, NearTextIndex, TrainText

    evals = []
    for text in tests:
        words = text.split()
        options = " ".join(words[-6:-4]), " ".join(words[-4:-2])
        evals.append(EvalText(" ".join(words[:-6]), options, " ".join(words[-2:]), text))
    index = NearTextIndex(evals, _settings())
    trains = [TrainText(" ".join(text.split()[:60]), " ".join(text.split()[-40:]), text) for text in texts]
    started = time.process_time()
    for start, batch in _batches(texts):
        index.scan(trains[start : start + len(batch)])
    seconds = time.process_time() - started
    return {
        "mb_per_cpu_s": round(_megabytes(texts) / seconds, 2),
        "texts_per_cpu_s": round(len(texts) / seconds),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _naive(tests: Sequence[str], texts: Sequence[str], planted: set[int]) -> dict[str, Any]:
    from manifests.proof.near_text import EvalText, NearTextIndex

    def grams(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())
        return {tuple(words[i : i + N]) for i in range(len(words) - N + 1)}

    started = time.process_time()
    known = set().union(*map(grams, tests))
    flagged = {row for row, text in enumerate(texts) if not known.isdisjoint(grams(text))}
    seconds = time.process_time() - started
    index = NearTextIndex([EvalText("", (), "", text) for text in tests], _settings(run_words=(N,)))
    ours = {match.train for match in index.scan_runs(texts)[0]}
    return _rates(texts, seconds, flagged, planted) | {"same_texts_as_ours": ours == flagged}


_DATATROVE = """
import json, sys, time
from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.utils.text import ngrams, simplify_text
work, n = json.load(open(sys.argv[1])), int(sys.argv[3])
config = NGramsDecontConfig(n_grams=n)
step = NGramsDecontFilter(sys.argv[2], config)
step.tokenizer.word_tokenize("load it before the clock runs")
started = time.process_time()
step._index_hashes = {}
for text in work["tests"]:  # what its indexer does, without the data sets that it downloads
    for gram in ngrams(step.tokenizer.word_tokenize(simplify_text(text, config.norm_config)), n):
        step._index_hashes[step.hash_func(" ".join(gram))] = "task"
texts = [Document(text=text, id=str(row)) for row, text in enumerate(work["texts"])]
indexed = time.process_time()
flagged = [int(text.id) for text in texts if step.filter(text) is not True]
done = time.process_time()
print(json.dumps({"seconds": done - indexed, "index_seconds": indexed - started, "flagged": flagged}))
"""
_DOLMA = """
import gzip, json, os, resource, sys
import dolma
work, folder, n = json.load(open(sys.argv[1])), sys.argv[2], int(sys.argv[3])
for name in ("tests", "texts"):
    os.makedirs(f"{folder}/{name}/documents")
    with gzip.open(f"{folder}/{name}/documents/0.jsonl.gz", "wt") as file:
        for row, text in enumerate(work[name]):
            file.write(json.dumps({"id": str(row), "text": " ".join(text.split()), "source": name}) + "\\n")
def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
def run(name, read_only):
    started = used()
    dolma.deduper({
        "documents": [f"{folder}/{name}/documents/*.gz"],
        "dedupe": {"name": "runs", "skip_empty": True, "min_length": 0, "min_words": 0, "num_partitions": 1,
                   "partition_index": 0, "file_partition": False, "document_dir": "documents", "paragraphs": {
                       "attribute_name": "hits", "paragraph_separator": "\\n", "by_ngram": {
                           "ngram_length": n, "stride": 0, "overlap_threshold": 1e-9, "skip_short_paragraphs": False}}},
        "bloom_filter": {"file": f"{folder}/bloom.bin", "read_only": read_only, "size_in_bytes": 0,
                         "estimated_doc_count": 200000, "desired_false_positive_rate": 1e-9},
        "work_dir": {"input": f"{folder}/in", "output": f"{folder}/out"}, "processes": 1, "is_s3_volume": False,
        "compression": {"input": None, "output": None}})
    return used() - started
index_seconds, seconds = run("tests", False), run("texts", True)
with gzip.open(f"{folder}/texts/attributes/runs/0.jsonl.gz", "rt") as file:
    rows = [json.loads(line) for line in file]
flagged = [int(row["id"]) for row in rows if any(score > 0 for *_, score in row["attributes"].get("hits", []))]
print(json.dumps({"seconds": seconds, "index_seconds": index_seconds, "flagged": flagged}))
"""


def _peer(
    python: Path, script: str, tests: Sequence[str], texts: Sequence[str], planted: set[int]
) -> dict[str, Any] | None:
    """Rates of a peer, its index left out; None where it cannot be imported."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work.json"
        work.write_text(json.dumps({"tests": tests, "texts": texts}))
        command = [str(python), "-c", script, str(work), folder, str(N)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode and re.search(r"^(ModuleNotFoundError|ImportError)", done.stderr, re.MULTILINE):
        return None
    if done.returncode:
        raise RuntimeError(f"peer failed: {done.stderr[-2000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    return _rates(texts, result["seconds"], set(result["flagged"]), planted) | {
        "index_cpu_s": round(result["index_seconds"], 2)
    }


# ---- rewrites

_SYNONYMS = {
    "patient": "person", "man": "gentleman", "woman": "lady", "boy": "male child", "girl": "female child",
    "year-old": "years of age", "history": "background", "presents": "comes", "presented": "came",
    "complains": "reports", "likely": "probable", "treatment": "management", "management": "treatment",
    "diagnosis": "condition", "drug": "medication", "medication": "drug", "seen": "observed",
    "feature": "characteristic", "features": "characteristics", "cause": "reason", "caused": "brought about",
    "shows": "reveals", "reveals": "shows", "examination": "exam", "best": "most suitable", "appropriate": "suitable",
    "associated": "linked", "used": "employed", "commonest": "most frequent", "common": "frequent",
    "increased": "elevated", "elevated": "raised", "decreased": "reduced", "reduced": "lowered",
    "responsible": "accountable", "occurs": "happens", "found": "present", "involved": "affected",
    "indicated": "advised", "type": "kind", "site": "location", "main": "principal",
}  # fmt: skip
_NOT_OPEN = re.compile(r"\b(except|not|false|incorrect|true|correct|all of|none|both|a and b|statement|match)\b", re.I)
"""Questions and options that make no open question."""


def _rewritten(question: str) -> str:
    sentences = re.split(r"(?<=[.?!])\s+", question.strip())
    text = " ".join([*sentences[-1:], *sentences[:-1]])
    text = re.sub(r"\bwhich (one )?of the following (is|are|was|were)\b", "what is", text, flags=re.I)
    text = re.sub(r"\bwhich (one )?of the following\b", "what", text, flags=re.I)
    text = re.sub(r"\b(among|of|from) the following\b", "", text, flags=re.I)
    text = re.sub(r"[A-Za-z-]+", lambda found: _SYNONYMS.get(found.group().lower(), found.group()), text)
    clauses = text.split(", ")
    return ", ".join([*clauses[1:], *clauses[:1]])


def _shortened(question: str) -> str:
    sentences = re.split(r"(?<=[.?!])\s+", question.strip())
    if len(sentences) > 3:
        question = " ".join([sentences[0], *sentences[1:-1:2], sentences[-1]])
    return " ".join(word for place, word in enumerate(_rewritten(question).split(" ")) if place % 4 != 1)


def _rewrites(folder: Path) -> dict[str, Any]:
    """Per set and kind of rewrite: share found at each threshold, and share that reach it with another item."""
    import pyarrow.parquet as pq

    from manifests.proof.near_text import EvalText, NearTextIndex, TrainText
    from manifests.proof.ngrams import word_list

    items: list[tuple[str, str, list[str], str]] = []
    for row in pq.read_table(folder / "medmcqa" / "data" / "validation-00000-of-00001.parquet").to_pylist():
        options = [row[f"op{letter}"] for letter in "abcd"]
        items.append(("medmcqa", row["question"], options, options[row["cop"]]))
    for line in (folder / "medqa_usmle_4_options" / "phrases_no_exclude_test.jsonl").read_text().splitlines():
        row = json.loads(line)
        items.append(("medqa", row["question"], list(row["options"].values()), row["answer"]))
    same = [tuple(word_list("\n".join((question, *options)))) for _, question, options, _ in items]
    index = NearTextIndex(
        [EvalText(question, tuple(options), answer, "") for _, question, options, answer in items],
        _settings(rewrite=0.05),
    )
    figures: dict[str, Any] = {"items": len(items)}
    for name in ("medmcqa", "medqa"):
        for kind, change in (("rewritten", _rewritten), ("rewritten and shortened", _shortened)):
            rows = [
                (number, TrainText(change(question), answer, ""))
                for number, (source, question, options, answer) in enumerate(items)
                if source == name and not _NOT_OPEN.search(" ".join((question, *options)))
            ][::2]
            scores: dict[int, dict[int, float]] = defaultdict(dict)
            for match in index.scan([text for _, text in rows]).matches:
                if match.kind == "rewrite":
                    scores[match.train][match.eval] = match.score
            own = [scores[t].get(number, 0.0) for t, (number, _) in enumerate(rows)]
            other = [
                max((score for test, score in scores[t].items() if same[test] != same[number]), default=0.0)
                for t, (number, _) in enumerate(rows)
            ]
            figures[f"{name}, {kind}"] = {"questions": len(rows)} | {
                f"{limit:.2f}": {
                    "found": round(sum(score >= limit for score in own) / len(rows), 3),
                    "wrong": round(sum(score >= limit for score in other) / len(rows), 3),
                }
                for limit in THRESHOLDS
            }
    return figures
