"""Near-duplicate text: MB and texts a CPU-second, planted runs found, peers beside.

Speed: 20,000 generated texts against 2,500 test texts, some of which are planted in other case, punctuation or line
wrapping; the index is part of the work. Peers get the first texts of the same corpus, being slower. The peers'
environment needs `datatrove` (with spacy) or `dolma`; one that cannot be imported is left out.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifests.proof.policy import TextSettings

TEXTS, TESTS, PEER_TEXTS, NAIVE_TEXTS = 20_000, 2_500, 1_000, 2_000
N = 8
_EVERY_RUN: dict[str, Any] = {"run_words": N, "run_bits": 1, "passage_words": N, "passage_bits": 1}
ROUNDS = 3
BATCH_CHARACTERS = 2_000_000


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


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size >= BATCH_CHARACTERS or number + 1 == len(texts):
            yield texts[start : number + 1]
            start, size = number + 1, 0


def _settings(**changed: Any) -> TextSettings:
    """Those of the default policy but what is given."""
    from msgspec.structs import replace

    from manifests.proof.policy import load_policy

    return replace(load_policy().text, **changed)


def _runs(tests: Sequence[str], texts: Sequence[str], planted: set[int]) -> dict[str, Any]:
    from manifests.proof.near_text import NearTextIndex
    from manifests.proof.text_pairs import EvalText

    seconds, scans = [], []
    flagged: set[int] = set()
    for _ in range(ROUNDS):
        started = time.process_time()
        index = NearTextIndex([EvalText("", "", (text,)) for text in tests], _settings(**_EVERY_RUN))
        indexed = time.process_time()
        flagged = {match.train for match in index.scan(_batches(texts)).matches}
        seconds.append(time.process_time() - started)
        scans.append(time.process_time() - indexed)
    rates = _rates(texts, sorted(seconds)[ROUNDS // 2], flagged, planted)
    return rates | {"mb_per_cpu_s_without_index": round(_megabytes(texts) / sorted(scans)[ROUNDS // 2], 2)}


def _all_kinds(tests: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """Test texts as stems of which the last two words are the answer."""
    from manifests.proof.near_text import NearTextIndex
    from manifests.proof.text_pairs import EvalText

    halves = [(" ".join(text.split()[:-2]), " ".join(text.split()[-2:])) for text in tests]
    index = NearTextIndex([EvalText(stem, answer, (stem,)) for stem, answer in halves], _settings())
    started = time.process_time()
    index.scan(_batches(texts))
    seconds = time.process_time() - started
    return {
        "mb_per_cpu_s": round(_megabytes(texts) / seconds, 2),
        "texts_per_cpu_s": round(len(texts) / seconds),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _naive(tests: Sequence[str], texts: Sequence[str], planted: set[int]) -> dict[str, Any]:
    from manifests.proof.near_text import NearTextIndex
    from manifests.proof.text_pairs import EvalText

    def grams(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())
        return {tuple(words[i : i + N]) for i in range(len(words) - N + 1)}

    started = time.process_time()
    known = set().union(*map(grams, tests))
    flagged = {row for row, text in enumerate(texts) if not known.isdisjoint(grams(text))}
    seconds = time.process_time() - started
    index = NearTextIndex([EvalText("", "", (text,)) for text in tests], _settings(**_EVERY_RUN))
    ours = {match.train for match in index.scan([texts]).matches}
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
