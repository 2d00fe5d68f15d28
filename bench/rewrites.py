"""Test items in other words: how many real rewrites and translations are found, what is taken out wrongly, the cost.

Real pairs: HuatuoGPT-o1's demo rows, each an exam item with the open question that a language model made of it, and
CasiMedicos, exam cases in four languages. A rewrite is found where its own item takes it out. Rows are in two halves
by the digest of the item; settings were chosen on `seen` alone. Distractors are the questions of MedQA's dev split
and of MedMCQA; what takes one of them out is written to `--pairs`, to be read. Beside it stand shared runs of 13 words
(GPT-3's rule, also decon's and datatrove's idea) and the near-text level. `--most N` takes N rows of every
other set (of MedMCQA four times as many: they are short).

    python -m bench.rewrites --pairs pairs.jsonl --cache /tmp/vectors --out rewrites.json
    python -m bench.rewrites --speed gpu          # texts a second, beside the bare loop, where torch finds a GPU
    python -m bench.rewrites --speed words        # pairs a CPU-second that words judge, without a model

`--record` writes the figures of the half that was not looked at to `manifests/proof/coverage_rewrites.json`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import re
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from manifests.proof.rewrites import Asked

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"
RUN = 13
SPEED_TEXTS = 200


class _Row(NamedTuple):
    """An exam item, its rewrite with the answer that belongs to it, and what a model answered."""

    item: Asked
    rewrite: Asked
    response: Asked
    seen: bool


def measure(
    peer_python: Path | None, cache: Path | None = None, pairs: Path | None = None, most: int | None = None
) -> dict[str, Any]:
    """Found and wrong by half and answer, translations by language, and texts a CPU-second."""
    from manifests.proof.encoders import Encoder
    from manifests.proof.policy import load_policy
    from manifests.proof.rewrites import RewriteIndex

    policy = load_policy()
    assert policy.rewrites is not None
    encoders = [(Encoder(one.model), one.cosine) for one in policy.rewrites.models]
    rows, own = _rows(), {row.item.question for row in _rows()}
    medqa, dev = (
        [one for one in _medqa(name) if one.question not in own][:most]
        for name in ("phrases_no_exclude_test", "phrases_no_exclude_train")
    )
    mcq = [one for one in _medmcqa() if one.question not in own][: most and 4 * most]
    tests = [row.item for row in rows] + medqa
    index = RewriteIndex(tests, encoders, policy.rewrites, cache)
    figures: dict[str, Any] = {"test items": len(tests), "settings": policy.content["rewrites"]}
    listed: list[dict[str, Any]] = []
    for name in ("rewrite", "response"):
        records = [getattr(row, name) for row in rows]
        found = {match.train: match for match in index.scan(records)[0] if match.train == match.eval}
        for half, seen in (("seen", True), ("held out", False)):
            mine = [number for number, row in enumerate(rows) if row.seen == seen]
            kinds = Counter(found[number].kind if number in found else "not found" for number in mine)
            figures[f"{half}, {_ANSWERS[name]}"] = _found(kinds, len(mine))
        figures[f"peers, {_ANSWERS[name]}"] = _peers(tests, records)
    for name, records in (("medqa dev", dev), ("medmcqa", mcq)):
        figures[f"wrong: {name}"] = _wrong(name, tests, records, index.scan(records)[0], listed)
    xpert = _medxpertqa()[:most]
    index = RewriteIndex(xpert, encoders, policy.rewrites, cache)
    figures["medqa dev against medxpertqa"] = _wrong("medxpertqa", xpert, dev, index.scan(dev)[0], listed)
    figures["translations"] = _translations(encoders, policy.rewrites, cache, listed, most)
    if pairs is not None:
        pairs.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in listed))
    return figures


_ANSWERS = {"rewrite": "with the answer", "response": "with a model's response"}
_TAKEN_OUT = ("rewrite", "question", "translation")
"""Kinds that the default policy excludes."""


def _found(kinds: Counter[str], total: int) -> dict[str, Any]:
    out = sum(kinds[kind] for kind in _TAKEN_OUT)
    return {"pairs": total, "found": out, "share": round(out / total, 4), "kinds": dict(kinds)}


def _wrong(
    name: str, tests: Sequence[Asked], records: Sequence[Asked], matches: Sequence[Any], listed: list[dict[str, Any]]
) -> dict[str, Any]:
    """Records that are taken out although they are of another exam; near copies of items are among them."""
    taken = {match.train for match in matches if match.kind in _TAKEN_OUT}
    for match in matches:
        train, item = records[match.train], tests[match.eval]
        ends = [[one.question, one.answer] for one in (train, item)]
        listed.append({"set": name, "kind": match.kind, "model": match.model, "score": match.score, "ends": ends})
    kinds = Counter(match.kind for match in matches)
    return {
        "records": len(records), "taken out": len(taken), "share": round(len(taken) / len(records), 4),
        "pairs by kind": dict(kinds),
    }  # fmt: skip


def _peers(tests: Sequence[Asked], records: Sequence[Asked]) -> dict[str, Any]:
    """Rows found by runs of 13 words, and by the levels of near text, exact ones among them."""
    from manifests.proof.near_text import NearTextIndex
    from manifests.proof.ngrams import word_list
    from manifests.proof.policy import load_policy
    from manifests.proof.text_pairs import EvalText

    def runs(text: str) -> set[tuple[str, ...]]:
        words = word_list(text)
        return {tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)}

    whole = [f"{one.question}\n{one.answer}" for one in records]
    shared = sum(not runs(text).isdisjoint(runs(item.question)) for text, item in zip(whole, tests, strict=False))
    index = NearTextIndex([EvalText(one.question, one.answer, (one.question,)) for one in tests], load_policy().text)
    near = {match.train for match in index.scan([whole]).matches if match.train == match.eval}
    return {
        "runs of 13 words": round(shared / len(records), 4), "near text": round(len(near) / len(records), 4)
    }  # fmt: skip


# ---- real rows


def _rows() -> list[_Row]:
    from manifests.proof.rewrites import Asked

    rows = []
    for row in json.loads((REAL_DATA / "huatuo_o1_demo" / "demo_half.json").read_text()):
        seen = int(hashlib.sha256(row["question"].encode()).hexdigest(), 16) % 2 == 0
        rewrite = Asked(row["Open-ended Verifiable Question"], row["Ground-True Answer"])
        response = Asked(row["Question"], row["Response"])
        rows.append(_Row(Asked(row["question"], row["answer"]), rewrite, response, seen))
    return rows


def _medqa(name: str) -> list[Asked]:
    from manifests.proof.rewrites import Asked

    lines = (REAL_DATA / "medqa_usmle_4_options" / f"{name}.jsonl").read_text().splitlines()
    return [Asked(row["question"], row["answer"]) for row in map(json.loads, lines)]


def _medmcqa() -> list[Asked]:
    import pyarrow.parquet as pq

    from manifests.proof.rewrites import Asked

    [path] = (REAL_DATA / "medmcqa" / "data").glob("validation-*.parquet")
    rows = pq.read_table(path).to_pylist()
    return [Asked(row["question"], row[("opa", "opb", "opc", "opd")[row["cop"]]]) for row in rows]


def _medxpertqa() -> list[Asked]:
    from manifests.proof.rewrites import Asked

    items = []
    for name in ("MM", "Text"):
        for line in (REAL_DATA / "medxpertqa" / name / "test.jsonl").read_text().splitlines():
            row = json.loads(line)
            items.append(Asked(row["question"].partition("\nAnswer Choices:")[0], row["options"][row["label"]]))
    return items


_CASE = re.compile(r"CLINICAL CASE ?: (.*?)(?:CORRECT ANSWER|RISPOSTA CORRETTA|BONNE RÉPONSE) ?: *(\d)", re.DOTALL)
_OPTION = re.compile(r"\n\s*(\d)- ")


def _cases(language: str) -> list[Asked | None]:
    """Cases of all splits, in the order that all languages have; None where one cannot be read."""
    from manifests.proof.rewrites import Asked

    cases: list[Asked | None] = []
    with tarfile.open(REAL_DATA / "casimedicos" / "casimedicos-arg.tar.gz") as archive:
        for split in ("train", "dev", "test"):
            file = archive.extractfile(f"casimedicos-arg/{language}/{split}.tsv")
            assert file is not None
            # A token a line, its label behind a tab or a blank; an empty line ends a sentence.
            rows = csv.reader(io.TextIOWrapper(file, "utf-8"), delimiter="\t", quoting=csv.QUOTE_NONE)
            text = " ".join(row[0].split(" ")[0] if row and row[0].strip() else "\n" for row in rows)
            for case in re.split("QUESTION TYPE ?: ", text)[1:]:
                read = _CASE.search(case)
                if read is None:
                    cases.append(None)
                    continue
                stem, *options = _OPTION.split(read[1])
                by_label = dict(zip(options[::2], options[1::2], strict=True))
                cases.append(Asked(" ".join(stem.split()), " ".join(by_label.get(read[2], "").split())))
    return cases


def _translations(
    encoders: Any, settings: Any, cache: Path | None, listed: list[dict[str, Any]], most: int | None
) -> dict[str, Any]:
    """Cases in three languages against the English ones; two cases of one patient are one item."""
    from manifests.proof.rewrites import RewriteIndex

    english = _cases("EN")
    figures: dict[str, Any] = {}
    for language in ("ES", "FR", "IT"):
        both = [(one, other) for one, other in zip(english, _cases(language), strict=True) if one and other][:most]
        tests, records = [one for one, _ in both], [other for _, other in both]
        for name, chosen in (("multilingual", encoders[1:]), ("english", encoders[:1]))[: 2 if language == "ES" else 1]:
            matches, _ = RewriteIndex(tests, chosen, settings, cache).scan(records)
            out = [match for match in matches if match.kind in _TAKEN_OUT]
            found = {match.train for match in out if match.train == match.eval}
            others = {match.train for match in out if match.train != match.eval}
            figures[f"{language}, {name}"] = {
                "cases": len(both), "found": round(len(found) / len(both), 4),
                "by another case": round(len(others) / len(both), 4),
            }  # fmt: skip
            for match in out:
                if match.train != match.eval and name == "multilingual":
                    ends = [[one.question, one.answer] for one in (records[match.train], tests[match.eval])]
                    listed.append({"set": language, "kind": match.kind, "score": match.score, "ends": ends})
    return figures


# ---- cost


def speed(device: str) -> dict[str, Any]:
    """Texts a second of `RewriteIndex.scan` and of a bare loop of the same model over batches sorted by length."""
    from manifests.proof.encoders import Encoder
    from manifests.proof.policy import load_policy
    from manifests.proof.rewrites import RewriteIndex

    settings = load_policy().rewrites
    assert settings is not None
    clock = time.process_time if device == "cpu" else time.perf_counter
    figures: dict[str, Any] = {}
    for model in settings.models if device == "cpu" else settings.models[:1]:
        encoder = Encoder(model.model)
        if device == "gpu" and not encoder.on_gpu:
            raise SystemExit("torch finds no GPU here")
        for name, texts in (("medmcqa", _medmcqa()[:SPEED_TEXTS]), ("medqa", _medqa("phrases_no_exclude_test"))):
            texts = texts[: SPEED_TEXTS if device == "gpu" or name == "medmcqa" else SPEED_TEXTS // 4]
            index = RewriteIndex(_medmcqa()[:SPEED_TEXTS], [(encoder, model.cosine)], settings)
            rates: dict[str, list[float]] = {"level": [], "bare loop": []}
            for _ in range(3):
                started = clock()
                _bare(encoder, [one.question for one in texts])
                middle = clock()
                index.scan(texts)
                ended = clock()
                rates["bare loop"].append(len(texts) / (middle - started))
                rates["level"].append(len(texts) / (ended - middle))
            figures[f"{encoder.name}, {name}"] = {key: round(sorted(each)[1], 1) for key, each in rates.items()}
    return figures


PROPOSED = 64
"""Test items that the made vectors propose for each text."""


class _Made:
    """Vectors without a model: the texts of each run of `PROPOSED` have the same one, those of others none of it."""

    name, sha256 = "made", "made"

    def __init__(self, texts: Sequence[str]) -> None:
        self._places = {text: place // PROPOSED for place, text in enumerate(texts)}

    def encode(self, texts: Sequence[str]) -> Any:
        import numpy as np

        return np.eye(max(self._places.values()) + 1, dtype=np.float32)[[self._places[text] for text in texts]]


def words() -> dict[str, Any]:
    """Pairs a CPU-second of `RewriteIndex.scan`, MedMCQA's questions against themselves, proposed by made vectors."""
    from manifests.proof.policy import load_policy
    from manifests.proof.rewrites import RewriteIndex

    settings = load_policy().rewrites
    assert settings is not None
    texts = list({one.question: one for one in _medmcqa()}.values())[: 4000 // PROPOSED * PROPOSED]
    index = RewriteIndex(texts, [(_Made([one.question for one in texts]), 0.9)], settings)  # type: ignore[list-item]
    rates = []
    for _ in range(3):
        records = [one.__class__(one.question, one.answer) for one in texts]  # nothing known of their words
        started = time.process_time()
        _, counts = index.scan(records)
        rates.append(PROPOSED * len(texts) / (time.process_time() - started))
    return {"pairs": PROPOSED * len(texts), "pairs a CPU-second": round(sorted(rates)[1]), "found": counts["rewrite"]}


def _bare(encoder: Any, texts: Sequence[str]) -> None:
    """The model alone: sorted texts in batches of its size, results thrown away."""
    encoder.encode(["warm"])
    model = encoder._loaded[1]
    if encoder.name == "multilingual":
        model.encode(list(texts))
        return
    size = 256 if encoder.on_gpu else 16
    ordered = sorted(texts, key=len)
    for start in range(0, len(ordered), size):
        model(ordered[start : start + size])


def main() -> int:
    """Run it alone, with what it alone has; exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.rewrites", description=__doc__)
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder for vectors that were computed before")
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="write what was taken out wrongly, to be read")
    parser.add_argument("--most", type=int, metavar="N", help="rows of every set but the rewrites (default all)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--speed", choices=("cpu", "gpu", "words"), help="only this")
    parser.add_argument("--record", action="store_true", help="write what certificates say of it")
    options = parser.parse_args()
    if options.speed:
        print(json.dumps(words() if options.speed == "words" else speed(options.speed), indent=1))
        return 0
    if options.cache:
        options.cache.mkdir(parents=True, exist_ok=True)
    figures = measure(None, options.cache, options.pairs, options.most)
    figures["cost"] = speed("cpu")
    print(json.dumps(figures, indent=1))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    if options.record:
        _record(figures)
    return 0


def _record(figures: dict[str, Any]) -> None:
    from manifests.proof.rewrites import COVERAGE_FILE, VERSION

    held, wrong = figures["held out, with the answer"], [figures[f"wrong: {name}"] for name in ("medqa dev", "medmcqa")]
    others = sum(one["records"] for one in wrong)
    translations = [one["found"] for name, one in figures["translations"].items() if "multilingual" in name]
    content = {
        "version": VERSION, "rewrites": held["pairs"], "found": held["share"], "other_questions": others,
        "wrong": round(sum(one["taken out"] for one in wrong) / others, 4), "translations_found": min(translations),
    }  # fmt: skip
    COVERAGE_FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
