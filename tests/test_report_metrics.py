"""Report metrics: golden numbers, a naive second way, the named traps, and models that are tiny and random.

With MEDGPT_WEIGHTS=DIR (and MEDGPT_RADGRAPH_PYTHON) the published numbers of the real models are checked, too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eval.weights
from eval import encoders, report_metrics
from eval.encoders import Weights, measure
from medgpt.errors import UserError

OBS, ANAT, DOUBT = "OBS-DP", "ANAT-DP", "OBS-DA"


def graph(*entities: tuple[str, str, list[tuple[str, str]]]) -> dict[str, dict[str, object]]:
    return {
        str(number): {"tokens": tokens, "label": label, "relations": [list(relation) for relation in relations]}
        for number, (tokens, label, relations) in enumerate(entities, 1)
    }


HYP = graph(
    ("acute", DOUBT, []), ("cardiopulmonary", ANAT, []), ("process", DOUBT, [("located_at", "2")]),
    ("moderate", OBS, []), ("hiatal", ANAT, []), ("hernia", OBS, []),
)  # fmt: skip
REF = graph(
    ("acute", DOUBT, []), ("pulmonary", ANAT, []), ("process", DOUBT, [("located_at", "2")]),
    ("large", OBS, [("modify", "6")]), ("hiatal", ANAT, []), ("hernia", OBS, [("located_at", "5")]),
)  # fmt: skip


def levels(hypothesis: report_metrics.Graph, reference: report_metrics.Graph) -> tuple[float, ...]:
    found = report_metrics.radgraph_f1(hypothesis, reference)
    return tuple(found[f"radgraph_{level}"] for level in ("simple", "partial", "complete"))


def test_radgraph_golden() -> None:
    assert levels(HYP, REF) == pytest.approx((2 / 3, 1 / 2, 1 / 3), abs=1e-15)
    assert levels(REF, REF) == levels(HYP, HYP) == (1, 1, 1)
    assert levels({}, REF) == levels(REF, {}) == levels({}, {}) == (0, 0, 0)


def test_radgraph_collapses_duplicates_and_ignores_case() -> None:
    twice = graph(("effusion", OBS, []), ("effusion", OBS, []), ("left", ANAT, []))
    once = graph(("Effusion", OBS, []), ("Left", ANAT, []))
    assert levels(twice, once) == (1, 1, 1)
    assert report_metrics.radgraph_combined(twice, once) == 0.5  # entities agree, neither has a relation: 0/0 is 0


def test_radgraph_combined_is_the_mean_of_entities_and_relations() -> None:
    # Entities: 4 of 6 shared. Relations: process -> (cardio)pulmonary differs in its target; 1 and 3 there.
    assert report_metrics.radgraph_combined(HYP, REF) == pytest.approx((2 / 3 + 0) / 2)
    assert report_metrics.radgraph_combined(REF, REF) == 1


def test_radcliq_golden() -> None:
    assert report_metrics.radcliq_v1(0, 0, 0, 0) == pytest.approx(2.4501430833271307, abs=1e-12)
    assert report_metrics.radcliq_v1(1, 1, 1, 1) == pytest.approx(-1.4406902828047017, abs=1e-12)
    assert report_metrics.radcliq_v1(0.5, 0.5, 0.5, 0.5) == pytest.approx(0.5047264002612145, abs=1e-12)
    # BLEU-2 has no weight worth the name; each other feature lowers the predicted errors.
    assert report_metrics.radcliq_v1(0, 0, 0, 1) == pytest.approx(report_metrics.radcliq_v1(0, 0, 0, 0), abs=1e-10)
    slopes = [
        report_metrics.radcliq_v1(*(float(i == j) for j in range(4))) - report_metrics.radcliq_v1(0, 0, 0, 0)
        for i in range(3)
    ]
    assert slopes == pytest.approx([-1.2452163302, -1.6508453287, -0.9947717072], abs=1e-9)


def entities(types: list[str], vectors: object) -> report_metrics.RateEntities:
    return report_metrics.RateEntities(types, np.asarray(vectors, dtype=float))


def test_ratescore_golden() -> None:
    ours = entities(["DISEASE", "ANATOMY"], [[1, 0], [0, 1]])
    assert report_metrics.ratescore(ours, ours) == pytest.approx(1)
    present, absent = entities(["DISEASE"], [[1, 2]]), entities(["NON-DISEASE"], [[2, 4]])
    assert report_metrics.ratescore(present, absent) == pytest.approx(0.8716553966489615)
    assert report_metrics.ratescore(present, absent, "short") == pytest.approx(0.3611577852354489)
    # An anatomy has no negation.
    assert report_metrics.ratescore(
        entities(["ANATOMY"], [[1, 0]]), entities(["NON-DISEASE"], [[1, 0]])
    ) == pytest.approx(1)


def test_ratescore_floor() -> None:
    nothing = entities([], np.zeros((0, 2)))
    some = entities(["DISEASE"], [[1, 0]])
    assert [report_metrics.ratescore(*pair) for pair in ((nothing, some), (some, nothing), (nothing, nothing))] == [
        0.5
    ] * 3


def test_ratescore_weighs_by_affinity() -> None:
    here = entities(["DISEASE", "NON-ABNORMALITY"], [[1, 0], [0, 1]])
    there = entities(["DISEASE", "NON-ABNORMALITY"], [[1, 0], [1, 0]])
    # The disease is found whole, the normal finding not at all; under "long" the latter has nearly no weight.
    expected = 0.8460555030578727 / (0.8460555030578727 + 0.719397354576018)
    assert report_metrics.rate_one_way(here, there) == pytest.approx(expected)


WORDS = st.lists(st.sampled_from(["no", "acute", "effusion", "left", "small", "is", "."]), max_size=9).map(" ".join)


def naive_bleu(hypothesis: str, reference: str) -> float:
    """BLEU-4 as its paper has it; 0 where an order has no match."""
    given_, wanted = hypothesis.split(), reference.split()
    logs = []
    for order in range(1, 5):
        ours = Counter(tuple(given_[i : i + order]) for i in range(len(given_) - order + 1))
        theirs = Counter(tuple(wanted[i : i + order]) for i in range(len(wanted) - order + 1))
        matched = sum(min(count, theirs[gram]) for gram, count in ours.items())
        if not matched:
            return 0.0
        logs.append(math.log(matched / sum(ours.values())))
    penalty = min(1.0, math.exp(1 - len(wanted) / len(given_)))
    return penalty * math.exp(sum(logs) / 4)


def naive_common(first: list[str], second: list[str]) -> int:
    """Longest common subsequence by trying every subsequence of the shorter side."""
    for length in range(min(len(first), len(second)), 0, -1):
        ours = set(itertools.combinations(first, length))
        if ours & set(itertools.combinations(second, length)):
            return length
    return 0


@given(WORDS, WORDS)
def test_bleu_and_rouge_against_a_naive_way(hypothesis: str, reference: str) -> None:
    naive = naive_bleu(hypothesis, reference)
    bleu = report_metrics.bleu_counts(hypothesis, reference).scores()[3]
    # The COCO code smooths: an order without a match leaves a trace, one that does not exist the fourth root of 1e-6.
    assert bleu == pytest.approx(naive, abs=1e-6 if naive else 2e-2 if len(hypothesis.split()) >= 4 else 1)
    ours, theirs = (text.replace(".", "").split() for text in (hypothesis, reference))
    shared = naive_common(ours, theirs)
    expected = 2 * shared / (len(ours) + len(theirs)) if shared else 0
    found = report_metrics.rouge(hypothesis, reference)
    assert found["rouge_l"] == pytest.approx(expected)
    once = sum((Counter(ours) & Counter(theirs)).values())
    assert found["rouge_1"] == pytest.approx(2 * once / (len(ours) + len(theirs)) if once else 0)


@given(WORDS)
def test_a_text_against_itself(text: str) -> None:
    counts = report_metrics.bleu_counts(text, text)
    assert counts.scores()[0] == pytest.approx(1 if text else 0)
    assert report_metrics.rouge(text, text)["rouge_l"] == (1 if text.replace(".", "").split() else 0)


def test_corpus_bleu_adds_counts() -> None:
    pairs = [("no acute process seen here", "no acute process seen"), ("left effusion", "small left effusion")]
    counts = [report_metrics.bleu_counts(*pair) for pair in pairs]
    assert (counts[0] + counts[1]).matched == (6, 4, 2, 1)
    assert (counts[0] + counts[1]).possible == (7, 5, 3, 2)
    assert (counts[0] + counts[1]).scores()[0] == pytest.approx(6 / 7)


def test_labels() -> None:
    assert report_metrics.label_f1([True, False], [True, True]) == pytest.approx(2 / 3)
    assert report_metrics.label_f1([False], [False]) == 1
    assert report_metrics.label_f1([True], [False]) == 0
    assert report_metrics.micro_f1([[True, False], [True, True]], [[True, True], [False, True]]) == pytest.approx(4 / 6)


# Without weights -----------------------------------------------------------------------------------------------------


def test_without_weights_metrics_are_named_gaps() -> None:
    found = measure(["No effusion.", ""], ["No effusion.", "Effusion."], Weights(None))
    assert set(found.gaps) == set(encoders.NEEDS)
    assert all("no --weights given" in reason for reason in found.gaps.values())
    for row in found.values:
        assert set(row) == set(encoders.WEIGHT_FREE)
    assert found.values[1] == dict.fromkeys(encoders.WEIGHT_FREE, 0.0)
    assert found.values[0]["rouge_l"] == 1


def test_case_and_spaces_do_not_count() -> None:
    found = measure(["NO  Acute\nprocess."], ["No acute process."], Weights(None))
    assert found.values[0]["bleu2"] == pytest.approx(1)
    assert found.values[0]["rouge_2"] == 1


# With weights: tiny random models ------------------------------------------------------------------------------------

STUB = """
import json
class RadGraph:
    def __init__(self, model_type=None, model_cache_dir=None):
        assert model_type in ("radgraph", "radgraph-xl") and model_cache_dir
        print("loading", model_type)
    def __call__(self, texts):
        assert all(text.strip() and text == text.lower() for text in texts)
        return {str(n): {"entities": {str(i): {"tokens": w, "label": "OBS-DP", "relations": []}
                for i, w in enumerate(text.strip(".").split())}} for n, text in enumerate(texts)}
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights in the documented layout, of the real architectures with a few thousand random parameters."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import pre_tokenizers

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    words = ". no acute effusion left small pneumonia heart size".split()
    size = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}

    def save(name: str, tokenizer: Any, kind: Any, config: Any, **more: Any) -> None:
        tokenizer.save_pretrained(folder / name)
        kind(config(**{**size, "vocab_size": len(tokenizer), **more})).save_pretrained(folder / name)

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = {sign: place for place, sign in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet])}
    # As published: with a head that is not wanted, and without the pooler.
    save(
        "distilroberta-base", transformers.RobertaTokenizer(letters, []), transformers.RobertaForMaskedLM,
        transformers.RobertaConfig, num_hidden_layers=6, max_position_embeddings=34,
    )  # fmt: skip
    numbered = {word: place for place, word in enumerate(["<s>", "<pad>", "</s>", "[UNK]", "<mask>", *words])}
    save(
        "rate/BioLORD-2023-C", transformers.MPNetTokenizer(numbered), transformers.MPNetModel, transformers.MPNetConfig
    )
    pieces = [(f"▁{word}", -2.0) for word in words] + [(sign, -9.0) for sign in "▁.abcdefghijklmnopqrstuvwxyzNLHSP"]
    pieces = [*((sign, 0.0) for sign in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")), *pieces]
    tags = ["O", *(f"{mark}-{kind}" for kind in report_metrics.RATE_TYPES for mark in "BI")]
    save(
        "rate/RaTE-NER-Deberta",
        transformers.DebertaV2Tokenizer(pieces),
        transformers.DebertaV2ForTokenClassification, transformers.DebertaV2Config, id2label=dict(enumerate(tags)),
        relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"], share_att_key=True,
        norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0,
    )  # fmt: skip
    signs = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    bert = transformers.BertTokenizer({sign: place for place, sign in enumerate(signs)})
    shallow = transformers.BertConfig(**size, vocab_size=len(bert))
    for part in (bert, shallow):
        part.save_pretrained(folder / "chexbert" / "bert-base-uncased")
    state = {f"module.bert.{name}": value for name, value in transformers.BertModel(shallow).state_dict().items()}
    for head in range(14):
        outputs = 4 if head < 13 else 2
        state[f"module.linear_heads.{head}.weight"] = torch.randn(outputs, 16)
        state[f"module.linear_heads.{head}.bias"] = torch.randn(outputs)
    torch.save({"model_state_dict": state}, folder / "chexbert" / "chexbert.pth")
    for model in ("radgraph", "radgraph-xl"):
        (folder / "radgraph" / model).mkdir(parents=True)
        (folder / "radgraph" / model / "config.json").write_text("{}")
        (folder / "radgraph" / model / "weights.th").write_bytes(b"stub")
    return folder


@pytest.fixture
def radgraph_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "radgraph.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Path(sys.executable)


TEXTS = ["No acute effusion.", "Left effusion. Heart size small.", "", "Pneumonia"]
REFERENCES = ["No acute effusion.", "Small left pneumonia.", "Heart size small.", "Pneumonia."]


def test_all_metrics_with_weights(weights: Path, radgraph_stub: Path) -> None:
    found = measure(TEXTS, REFERENCES, Weights(weights, radgraph_stub))
    assert found.gaps == {}
    names = {*encoders.WEIGHT_FREE, *encoders.NEEDS}
    for row in found.values:
        assert set(row) == names
        assert all(math.isfinite(value) for value in row.values())
    same = found.values[0]
    assert same["bertscore"] == pytest.approx(1, abs=1e-5)
    assert same["semb"] == pytest.approx(1)
    assert same["chexbert_14"] == same["radgraph_partial"] == 1
    empty = found.values[2]
    # An empty report keeps its place: 0, the floor, and the raw zero of BERTScore below the baseline.
    assert empty["radgraph_simple"] == 0
    assert empty["ratescore"] == report_metrics.RATE_FLOOR
    assert empty["bertscore"] == pytest.approx(-encoders.BERTSCORE_BASELINE / (1 - encoders.BERTSCORE_BASELINE))
    assert 1 / 4 <= found.corpus["ratescore_floor_share"] < 1
    radcliq = [row["radcliq_v1"] for row in found.values]
    assert found.corpus["radcliq_v1_reciprocal"] == pytest.approx(4 / sum(radcliq))
    for row in found.values:
        rebuilt = report_metrics.radcliq_v1(row["radgraph_simple"] / 2, row["bertscore"], row["semb"], row["bleu2"])
        assert row["radcliq_v1"] == pytest.approx(rebuilt)  # the stub's graphs have no relations
    used = {path.relative_to(weights).as_posix(): path for path in weights.rglob("*") if path.is_file()}
    assert found.weights == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in used.items()}


def test_no_pair_moves_another(weights: Path, radgraph_stub: Path) -> None:
    """Empty reports shift later pairs in RaTEScore 0.6.0; here each pair scores as it does alone."""
    together = measure(TEXTS, REFERENCES, Weights(weights, radgraph_stub)).values
    for number in (1, 3):
        [alone] = measure([TEXTS[number]], [REFERENCES[number]], Weights(weights, radgraph_stub)).values
        assert alone == pytest.approx(together[number], abs=1e-5)


def test_a_missing_part_is_a_gap_of_its_metrics_alone(weights: Path, tmp_path: Path, radgraph_stub: Path) -> None:
    for name in ("distilroberta-base", "rate"):
        (tmp_path / name).symlink_to(weights / name)
    found = measure(TEXTS, REFERENCES, Weights(tmp_path, radgraph_stub))
    assert set(encoders.NEEDS) - set(found.gaps) == {"bertscore", "ratescore", "ratescore_short"}
    assert "chexbert/chexbert.pth" in found.gaps["semb"]
    assert "radgraph/radgraph/weights.th" in found.gaps["radcliq_v1"]
    assert "radcliq_v1" not in found.values[0]


def test_altered_weights_stop_the_scoring(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "distilroberta-base").symlink_to(weights / "distilroberta-base")
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(weights)}"
        for path in sorted((weights / "distilroberta-base").iterdir())
    ]
    (tmp_path / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    assert measure(["No"], ["No"], Weights(tmp_path)).values[0]["bertscore"] == pytest.approx(1, abs=1e-5)
    (tmp_path / "SHA256SUMS").write_text("\n".join(sums).replace(sums[0][:3], "fff") + "\n")
    with pytest.raises(UserError, match="SHA256SUMS says"):
        measure(["No"], ["No"], Weights(tmp_path))
    (tmp_path / "SHA256SUMS").write_text("nothing\n")
    with pytest.raises(UserError, match="line 1"):
        Weights(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        Weights(tmp_path / "nowhere")


def test_weights_that_do_not_load_are_one_line(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "chexbert").mkdir()
    (tmp_path / "chexbert" / "bert-base-uncased").symlink_to(weights / "chexbert" / "bert-base-uncased")
    (tmp_path / "chexbert" / "chexbert.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"chexbert\.pth: cannot be loaded") as caught:
        measure(["No"], ["No"], Weights(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_model_with_random_weights_is_refused(weights: Path, tmp_path: Path) -> None:
    """transformers only warns of what is not in the files."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(weights / "distilroberta-base", tmp_path / "distilroberta-base")
    file = tmp_path / "distilroberta-base/model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in sorted(tensors) if "layer.3" in name)]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"cannot be loaded \(1 weights of RobertaModel are not in its files"):
        measure(["No"], ["No"], Weights(tmp_path))


def test_weights_are_listed_and_checked(
    weights: Path,
    tmp_path: Path,
    radgraph_stub: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def said(*arguments: str, code: int = 0) -> str:
        assert eval.weights.main(arguments) == code
        return capsys.readouterr().out

    listed = json.loads(said("--json"))
    assert set(listed["parts"]) == set(encoders.COMPONENTS) and set(listed["published"]) > {"chexbert/chexbert.pth"}
    assert "6550703c92d6" in said("--metrics", "semb") and "distilroberta" not in said("--metrics", "semb", "bleu1")
    given = (str(weights), "--radgraph-python", str(radgraph_stub))
    found = {state["part"]: state for state in json.loads(said(*given, "--json", code=4))}
    assert all(state["loads"] for state in found.values())
    assert "not the published file" in found["chexbert"]["faults"][0] and not found["radgraph"]["faults"]
    file = weights / "chexbert/chexbert.pth"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    known = {"bytes": file.stat().st_size, "sha256": sha256, "published": False}
    assert found["chexbert"]["files"]["chexbert/chexbert.pth"] == known
    published = eval.weights.Published("test", round(file.stat().st_size / 1e6), sha256)
    monkeypatch.setattr(eval.weights, "PUBLISHED", {"chexbert/chexbert.pth": published})
    assert "1 with the published digest; loads" in said(*given)
    # One part is not there, one is altered, one does not load.
    (tmp_path / "rate").symlink_to(weights / "rate")
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  rate/RaTE-NER-Deberta/config.json\n")
    text = said(str(tmp_path), "--no-load", "--metrics", "ratescore", "semb", code=4)
    assert "chexbert/chexbert.pth, chexbert/bert-base-uncased/config.json not in" in text and "SHA256SUMS says" in text
    (tmp_path / "SHA256SUMS").unlink()
    shutil.copytree(weights / "chexbert", tmp_path / "chexbert")
    (tmp_path / "chexbert/chexbert.pth").write_bytes(b"no weights")
    assert "chexbert.pth: cannot be loaded" in said(str(tmp_path), "--metrics", "semb", code=4)
    assert eval.weights.main(["--metrics", "bleu5"]) == 2


def test_another_interpreter_that_fails_is_one_line(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "radgraph").symlink_to(weights / "radgraph")
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho first >&2\necho 'No module named radgraph' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(UserError, match="No module named radgraph") as caught:
        measure(["Secret text"], ["Secret"], Weights(tmp_path, broken))
    assert "Secret" not in str(caught.value)


def test_sentences_and_entities() -> None:
    assert encoders.sentences("No process.Enlarged heart. 1.5 cm node\nOk. A.") == [
        "No process.", "Enlarged heart.", "1.5 cm node", "Ok."
    ]  # fmt: skip
    tags = ["O", "B-DISEASE", "I-DISEASE", "B-ANATOMY", "O", "I-ANATOMY", "B-DISEASE"]
    assert encoders.entity_spans(tags) == [(1, 3, "DISEASE"), (3, 4, "ANATOMY"), (6, 7, "DISEASE")]


def test_bertscore_against_a_naive_way() -> None:
    state = np.random.RandomState(0)

    def unit(rows: int) -> np.ndarray:
        vectors = state.randn(rows, 4)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    ours, theirs = unit(5), unit(7)
    inner = [[float(a @ b) for b in theirs] for a in ours]
    precision = sum(max(row) for row in inner[1:-1]) / 3
    recall = sum(max(row[column] for row in inner) for column in range(1, 6)) / 5
    raw = 2 * precision * recall / (precision + recall)
    assert encoders.bertscore(ours, theirs) == pytest.approx((raw - 0.8473319) / (1 - 0.8473319), abs=1e-5)


# With the real weights -----------------------------------------------------------------------------------------------

REAL = os.environ.get("MEDGPT_WEIGHTS")
REAL_PYTHON = os.environ.get("MEDGPT_RADGRAPH_PYTHON")


@pytest.mark.skipif(not (REAL and REAL_PYTHON), reason="MEDGPT_WEIGHTS and MEDGPT_RADGRAPH_PYTHON are not set")
def test_radcliq_golden_with_real_weights() -> None:
    assert REAL and REAL_PYTHON
    references = [
        "No acute cardiopulmonary process.",
        "Small bilateral pleural effusions with bibasilar atelectasis.",
        "Mild cardiomegaly. No pleural effusion.",
    ]
    hypotheses = [
        "No acute findings.",
        "Bilateral pleural effusions and basilar atelectasis.",
        "Mild cardiomegaly with clear lungs.",
    ]
    found = measure(hypotheses, references, Weights(Path(REAL), Path(REAL_PYTHON)))
    assert "radcliq_v1" not in found.gaps, found.gaps
    # RadEval's own test has idf weights over three references, ours has none: hence the wide margin on single pairs.
    assert [row["radcliq_v1"] for row in found.values] == pytest.approx([0.8346, 0.0416, 0.3987], abs=0.25)
    print(json.dumps(found.values, indent=1))
