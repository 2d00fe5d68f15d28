"""Adapters through what they answer: a scripted server on loopback, baselines against counting, a tiny local model."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from eval_builds import build_demos
from eval_server import Server, reply_to
from tiny_models import save_ours

from eval.adapters.base import Adapter, AdapterError, Answer, Request, prompt_digest
from eval.adapters.baseline import NORMAL_REPORT, Baseline
from eval.adapters.hf_local import HFLocal
from eval.adapters.log_likelihood import LogLikelihood
from eval.adapters.openai_chat import OpenAIChat, chat_messages
from eval.adapters.vllm_local import VllmLocal
from eval.cards import CARDS, Card, Decoding, load_card
from eval.chat import Conversation, talk
from eval.chat import main as chat_main
from eval.demo import main as demo_main
from eval.records import best_option
from eval.run import with_revision
from eval.tasks import Benchmark, Question, open_benchmarks, select_tasks
from medgpt.endpoints import EndpointRefused
from medgpt.errors import UserError

CARD = Card("stub")
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True)
def quick_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medgpt.chat.FIRST_WAIT_S", 0.02)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builds: Any = (
        ("slake", ()), ("medqa", ()), ("patient_trial", ("--shots", "1")),
        ("mimic_cxr", ("--task", "impression")), ("mimic_cxr", ("--task", "impression", "--shots", "1")),
    )  # fmt: skip
    return build_demos(tmp_path_factory.mktemp("adapters"), builds)


def question(text: str, images: int = 0, access: str = "open") -> Question:
    parts: list[dict[str, Any]] = [{"type": "image", "index": index} for index in range(images)]
    return Question(
        f"s/test/{text}", [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}],
        [PIXEL] * images, (("A", "yes"), ("B", "no")), "A", "c", "test", "", access,
    )  # fmt: skip


def request(text: str, images: int = 0) -> Request:
    asked = question(text, images)
    return Request(
        "t",
        "root",
        asked,
        16,
        prompt_digest(asked.messages, [hashlib.sha256(image).hexdigest() for image in asked.images]),
    )


def ask(adapter: Adapter, requests: list[Request]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}

    def keep(one: Request, answer: Answer) -> None:
        assert one.question.sample_id not in answers
        assert (answer.seconds is not None) == (answer.outcome == "answered")
        answers[one.question.sample_id.removeprefix("s/test/")] = msgspec.structs.replace(answer, seconds=None)

    adapter.answer(iter(requests), keep)
    return answers


def chat(server: Server, card: Card = CARD, **options: Any) -> OpenAIChat:
    return OpenAIChat(server.base, "stub-model", card, **({"tries": 6, "timeout_s": 10.0} | options))


# A served model ------------------------------------------------------------------------------------------------------


def test_every_question_is_asked_once_and_answered(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        answers = ask(chat(server), [request(f"q{number}", number % 3) for number in range(200)])
        assert {name: answer.text for name, answer in answers.items()} == {
            f"q{number}": reply_to(f"q{number}") for number in range(200)
        }
        assert set(server.calls().values()) == {1}
        assert {entry["text"]: entry["pictures"] for entry in server.entries()}["q5"] == 2
        assert {answer.finish_reason for answer in answers.values()} == {"stop"}


def test_pictures_go_as_data_urls_and_text_alone_as_a_string() -> None:
    [turn] = chat_messages(question("look", 1).messages, [PIXEL])
    assert turn["content"][0]["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(PIXEL).decode()
    [turn] = chat_messages(question("look", 1).messages, [b"\xff\xd8\xff"])
    assert turn["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert chat_messages(question("words").messages, []) == [{"role": "user", "content": "words"}]


def test_the_card_shapes_the_request(tmp_path: Path) -> None:
    card = Card("c", decoding=Decoding(0.0, 0.5, None, 42), stop=("END",), request={"skip_special_tokens": False})
    with Server(tmp_path) as server:
        ask(chat(server, card, api_key="secret"), [request("q")])
        [entry] = server.entries()
    assert entry["fields"] == {
        "model": "stub-model", "temperature": 0.0, "top_p": 0.5, "seed": 42, "stop": ["END"],
        "skip_special_tokens": False, "max_tokens": 16,
    }  # fmt: skip
    assert entry["key"] and "secret" not in str(chat(Server(tmp_path), card, api_key="secret").identity())


def test_64_requests_are_in_flight(tmp_path: Path) -> None:
    with Server(tmp_path, delay_s=0.3) as server:
        adapter = chat(server)
        ask(adapter, [request(f"q{number}") for number in range(128)])
        assert max(entry["flying"] for entry in server.entries()) >= 64
        assert adapter.statistics()["most in flight"] == 64


@pytest.mark.parametrize("status", [429, 500, 503])
def test_faults_for_the_time_being_are_tried_again_and_counted(tmp_path: Path, status: int) -> None:
    with Server(tmp_path, first=status) as server:
        adapter = chat(server)
        answers = ask(adapter, [request(f"q{number}") for number in range(20)])
        assert len(answers) == 20 and set(server.calls().values()) == {1}
        assert adapter.statistics()["retries"] == 20 and adapter.statistics()["requests"] == 40


def test_no_answer_is_lost_when_the_server_is_killed_and_started_again(tmp_path: Path) -> None:
    with Server(tmp_path, delay_s=0.05) as server:
        adapter = chat(server, tries=30, longest_wait_s=0.5)
        requests = [request(f"q{number}") for number in range(600)]

        def interrupt() -> None:
            for _ in range(2):
                done = len(server.entries())
                while len(server.entries()) < done + 100:
                    time.sleep(0.01)
                server.kill()
                time.sleep(0.2)
                server.start()

        killer = threading.Thread(target=interrupt)
        killer.start()
        answers = ask(adapter, requests)
        killer.join()
        assert {name: answer.text for name, answer in answers.items()} == {
            f"q{number}": reply_to(f"q{number}") for number in range(600)
        }
        assert adapter.statistics()["retries"] > 0 and adapter.statistics()["most in flight"] == 64


def test_a_server_that_is_too_slow_stops_the_run_in_one_line(tmp_path: Path) -> None:
    with Server(tmp_path, delay_s=5.0) as server:
        with pytest.raises(AdapterError, match="s/test/q0") as error:
            ask(chat(server, timeout_s=0.2, tries=2), [request("q0")])
        assert "\n" not in str(error.value) and len(server.calls()) == 0


def test_a_server_that_stays_away_stops_the_run_in_one_line(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        pass
    with pytest.raises(AdapterError, match="is the server running") as error:
        ask(chat(server), [request("secret words")])
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_one_refused_question_does_not_stop_the_others(tmp_path: Path) -> None:
    with Server(tmp_path, refuse="too long") as server:
        answers = ask(chat(server), [request("fine"), request("too long"), request("also fine")])
    assert answers["too long"] == Answer("refused_request", None)
    assert answers["fine"].outcome == answers["also fine"].outcome == "answered"


def test_a_server_that_refuses_everything_stops_the_run(tmp_path: Path) -> None:
    with Server(tmp_path, refuse="") as server, pytest.raises(AdapterError, match="refuses every request, HTTP 400"):
        ask(chat(server), [request("a"), request("b")])


@pytest.mark.parametrize(
    "raw", ["<html>gateway</html>", '{"choices": []}', "", '{"choices": [{"message": {"content": "\xe9"}}]}',
            '{"choices": [{"message": {"content": "\\ud800"}}]}', "[1]"],
)  # fmt: skip
def test_what_is_no_completion_is_named_and_kept(tmp_path: Path, raw: str) -> None:
    with Server(tmp_path, raw=raw) as server:
        assert ask(chat(server), [request("q")])["q"] == Answer("no_completion", None)


def test_null_and_empty_answers_stay_what_they_are(tmp_path: Path) -> None:
    """vLLM answers null at the token limit, and may put the whole answer into the reasoning: never read as one."""
    with Server(tmp_path, content=None, reasoning="Answer: A", finish="length") as server:
        answer = ask(chat(server), [request("q")])["q"]
    assert (answer.text, answer.reasoning, answer.finish_reason) == (None, "Answer: A", "length")
    assert answer.outcome == "answered"


def test_questions_with_too_many_pictures_are_not_asked(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        answers = ask(chat(server, Card("c", max_images=2)), [request("two", 2), request("three", 3)])
        assert answers["three"] == Answer("too_many_images", None)
        assert [entry["text"] for entry in server.entries()] == ["two"]


def test_credentialed_questions_go_to_loopback_or_allowed_hosts_only(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        chat(server).prepare({"mimic_cxr": "credentialed"})
    away = OpenAIChat("http://192.0.2.1:8000/v1", "m", CARD)
    away.prepare({"slake": "open"})
    with pytest.raises(EndpointRefused, match=r"mimic_cxr is credentialed.*loopback only"):
        away.prepare({"mimic_cxr": "credentialed", "slake": "open"})
    OpenAIChat("http://192.0.2.1:8000/v1", "m", CARD, allowed_hosts=["192.0.2.1"]).prepare({"m": "credentialed"})


# Model cards ---------------------------------------------------------------------------------------------------------


def test_every_shipped_card_loads_and_names_the_compared_models() -> None:
    cards = {path.stem: load_card(path.stem) for path in CARDS.glob("*.yaml")}
    assert {"MedGPT-oss", "OctoMed-7B", "Hulu-Med-32B", "Lingshu-32B", "MedGemma-27B", "QoQ-Med-32B"} <= {
        card.name for card in cards.values()
    }
    assert cards["lingshu_32b"].max_images == 6 and cards["lingshu_32b"].decoding.seed == 42
    assert all(card.revision is None or re.fullmatch("[0-9a-f]{40}", card.revision) for card in cards.values())


def test_the_commit_is_the_one_given_the_folders_or_the_cards(tmp_path: Path) -> None:
    commits = ["a" * 40, "b" * 40]
    cached = tmp_path / "models--x--y/snapshots" / commits[0]
    cached.mkdir(parents=True)
    card = Card("x")
    assert with_revision(card, None, None).revision is None
    assert with_revision(card, commits[1], tmp_path).revision == commits[1]
    assert with_revision(card, None, cached).revision == commits[0]
    pinned = msgspec.structs.replace(card, revision=commits[1])
    assert with_revision(pinned, None, None).revision == commits[1]
    assert with_revision(pinned, commits[0], cached).revision == commits[0]
    for one, given in ((pinned, None), (card, commits[1])):
        with pytest.raises(UserError, match=r"commit aaaaaaaaaaaa, but .* says bbbbbbbbbbbb"):
            with_revision(one, given, cached)


@pytest.mark.parametrize(
    ("text", "says"),
    [("name: x\nmax_image: 3", "no key is called max_image"), ("hub_id: x", "name is missing"),
     ("name: x\ndecoding: {temperature: hot}", "decoding.temperature: Expected `float"), ("name: [", "not YAML"),
     ("name: x\nreasoning: aloud", "reasoning: 'aloud' is none of harmony, none"), ("- 1", "Expected `object`"),
     ("name: x\nmax_images: true", "max_images: Expected `int")],
)  # fmt: skip
def test_bad_cards_are_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(UserError, match=says) as error:
        load_card(str(tmp_path / "card.yaml"))
    assert "\n" not in str(error.value)


def test_an_unknown_card_lists_those_there_are() -> None:
    with pytest.raises(UserError, match=r"neither a YAML file nor a shipped model card .*medgemma_27b"):
        load_card("medgemma")


# Baselines -----------------------------------------------------------------------------------------------------------


def benchmark(data: Path, name: str) -> Benchmark:
    [found] = open_benchmarks(data, select_tasks([name]))
    return found


def baseline(found: Benchmark, name: str, text: str | None = None) -> dict[str, str | None]:
    requests = [Request(found.task.label, found.root, one, 16, "") for one in found]
    answers: dict[str, str | None] = {}
    Baseline(name, [found], text).answer(iter(requests), lambda one, answer: answers.update(
        {one.question.sample_id: answer.text}))  # fmt: skip
    return answers


def right(found: Benchmark, answers: dict[str, str | None]) -> int:
    return sum(answers[one.sample_id] == f"Answer: {one.gold}" for one in found)


@pytest.mark.parametrize("name", ["slake", "medqa", "patient_trial_1shot"])
def test_majority_is_the_best_constant_option_or_label(data: Path, name: str) -> None:
    found = benchmark(data, name)
    best_label = max(Counter(one.gold for one in found).values())
    best_text = max(Counter(dict(one.options)[one.gold] for one in found).values())
    assert right(found, baseline(found, "majority")) == max(best_label, best_text)


def test_majority_and_constant_reports(data: Path) -> None:
    found = benchmark(data, "impression_0shot")
    counts = Counter(one.gold for one in found)
    [said] = set(baseline(found, "majority").values())
    assert said is not None and counts[said] == max(counts.values())
    assert set(baseline(found, "constant").values()) == {NORMAL_REPORT}
    assert set(baseline(found, "constant", "Normal.").values()) == {"Normal."}


def test_copying_the_exemplar(data: Path) -> None:
    trial, impression = benchmark(data, "patient_trial_1shot"), benchmark(data, "impression_1shot")
    said = baseline(impression, "copy_exemplar")
    assert all(said[one.sample_id] == one.exemplar for one in impression)
    answers = baseline(trial, "copy_exemplar")
    for one in trial:
        label = (answers[one.sample_id] or "").removeprefix("Answer: ")
        # By text, not by letter: the options stand in another order, and cohorts have other ones.
        assert one.exemplar.endswith(f". {dict(one.options)[label]}")
    with pytest.raises(AdapterError, match="no worked example"):
        baseline(benchmark(data, "slake"), "copy_exemplar")


def test_nearest_is_the_nearest_by_counting_bits(data: Path) -> None:
    import imagehash
    from PIL import Image

    from shards.reader import Build

    found = benchmark(data, "slake")

    def phash(image: bytes) -> Any:
        return imagehash.phash(Image.open(BytesIO(image)))

    train = {
        sample.record["id"]: (phash(sample.images[0]), sample.record) for sample in Build(found.folder, role="train")
    }
    answers = baseline(found, "nearest")
    for one in list(found)[:6]:
        distances = {sample_id: stored - phash(one.images[0]) for sample_id, (stored, _) in train.items()}
        # The stored hash may differ by a few bits from this one (DCT-scaled decoding).
        near = [train[sample_id][1] for sample_id, d in distances.items() if d <= min(distances.values()) + 4]
        allowed = {{o["label"]: o["text"] for o in r["options"]}[r["answer"]] if r["options"] else r["answer"]
                   for r in near}  # fmt: skip
        label = (answers[one.sample_id] or "").removeprefix("Answer: ")
        assert dict(one.options).get(label, answers[one.sample_id]) in allowed


def test_nearest_by_words_and_without_training_side(data: Path) -> None:
    found = benchmark(data, "medqa")
    assert baseline(found, "nearest") == baseline(found, "nearest")
    with pytest.raises(AdapterError, match="has no training side"):
        baseline(benchmark(data, "patient_trial_1shot"), "nearest")
    with pytest.raises(UserError, match="choose one of majority"):
        Baseline("best", [])


# A model in this process ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our architecture in small, with a byte tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    save_ours(folder)
    return folder


def local(folder: Path, **options: Any) -> HFLocal:
    return HFLocal(folder, Card("tiny"), device="cpu", **options)


def by_hand(folder: Path, one: Request) -> str:
    """The same question alone, without padding or cache, token by token: greedy decoding as it is defined."""
    import torch
    import transformers
    from PIL import Image

    config = transformers.AutoConfig.from_pretrained(folder)
    stored = json.loads((folder / "config.json").read_text())["vision_config"]
    config.vision_config = transformers.CLIPVisionConfig(**stored)
    model = transformers.InternVLForConditionalGeneration.from_pretrained(folder, config=config).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    text = "<|start|>user<|message|>"
    for part in one.question.messages[0]["content"]:
        text += "<IMG_CONTEXT>\n" if part["type"] == "image" else part["text"]
    opened = [Image.open(BytesIO(image)).convert("RGBA") for image in one.question.images]
    images = [Image.alpha_composite(Image.new("RGBA", one.size, "white"), one).convert("RGB") for one in opened]
    inputs = processor(text=text + "<|end|><|start|>assistant", images=images or None, return_tensors="pt")
    ids, pixels = inputs["input_ids"], inputs.get("pixel_values")
    told: list[int] = []
    with torch.no_grad():
        for _ in range(one.max_new_tokens):
            logits = model(input_ids=ids, pixel_values=pixels, use_cache=False).logits
            token = int(logits[0, -1].argmax())
            if token == processor.tokenizer.eos_token_id:
                break
            told.append(token)
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return str(processor.tokenizer.decode(told))


def test_batched_local_answers_are_those_of_each_question_alone(tiny: Path) -> None:
    requests = [request("short"), request("a longer question, " * 5), request("look", 1), request("and again", 2)]
    adapter = local(tiny, batch=3)
    answers = ask(adapter, requests)
    for one in requests:
        name = one.question.sample_id.removeprefix("s/test/")
        assert answers[name].text == by_hand(tiny, one), name
        assert answers[name].outcome == "answered"
        assert (answers[name].finish_reason == "length") == (answers[name].completion_tokens == 16)
    assert adapter.statistics()["new tokens"] == sum(answer.completion_tokens for answer in answers.values())
    assert ask(local(tiny, batch=1), requests) == answers


def test_the_identity_holds_the_digest_of_the_weights(tiny: Path, tmp_path: Path) -> None:
    before = local(tiny).identity()
    assert before == local(tiny).identity() and before["device"] == "cpu"
    shutil.copytree(tiny, tmp_path / "copy")
    file = tmp_path / "copy/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert local(tmp_path / "copy").identity() != before


CHOICES = [("A", "Sarcoidosis"), ("B", "Pneumonia, lobar"), ("C", "Pulmonary embolism"), ("D", "Gout")]


def test_options_are_compared_by_log_likelihood(tiny: Path) -> None:
    """The sums are those of each continuation alone, token by token; without options or with pictures: not asked."""
    import torch

    asked = [request("What is it?"), request("What is it?"), request("And here?", images=1)]
    options = (tuple(CHOICES), (), tuple(CHOICES))
    asked = [
        replace(one, question=replace(one.question, sample_id=str(place), options=options[place]))
        for place, one in enumerate(asked)
    ]
    adapter = LogLikelihood(tiny, Card("tiny"), "texts", device="cpu")
    answers = ask(adapter, asked)
    assert [answers[key].outcome for key in "012"] == ["answered", "not_comparable", "not_comparable"]
    found, model = answers["0"].likelihoods, adapter._loaded.model
    assert found is not None and answers["0"].text == max(found, key=lambda label: found[label][0])
    prompt = adapter.prompt(asked[0])
    assert prompt.endswith("<|start|>assistantAnswer:")
    for label, text in CHOICES:
        ids, total = adapter._encode(prompt), 0.0
        for token in adapter._encode(f" {text}"):
            with torch.no_grad():
                total += float(model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token])
            ids = [*ids, token]
        assert found[label][0] == pytest.approx(total, rel=1e-5) and found[label][1] == len(text)


LM_EVAL = """
import json, sys
import lm_eval
from lm_eval.models.huggingface import HFLM
folder, rows = sys.argv[1:]
task = {
    "task": "ours", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": rows}}, "test_split": "test",
    "output_type": "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
model = HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=1)
found = lm_eval.simple_evaluate(model=model, tasks=[task], log_samples=True, bootstrap_iters=0)
samples = sorted(found["samples"]["ours"], key=lambda one: one["doc_id"])
print(json.dumps([found["results"]["ours"], [[r[0] for r in s["filtered_resps"]] for s in samples]]))
"""


@pytest.mark.slow
def test_log_likelihoods_are_those_of_lm_evaluation_harness(tmp_path: Path) -> None:
    """Same rows, same model: the same sums to the last digit, the same acc and acc_norm (lm_eval 0.4.13)."""
    python = os.environ.get("MEDGPT_LM_EVAL_PYTHON")
    if not python:
        pytest.skip("MEDGPT_LM_EVAL_PYTHON names no interpreter with lm_eval; python -m venv, pip install lm_eval")
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", one) for one in "ABCDPSG"]  # some options are one token, some are many
    vocab = {sign: place for place, sign in enumerate([*alphabet, *("".join(merge) for merge in merges)])}
    bytes_only = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_only, eos_token="<|end|>")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    asked = [
        replace(one, question=replace(one.question, options=tuple(CHOICES[: 2 + number % 3]), sample_id=str(number)))
        for number in range(20)
        for one in [request(f"Case {number}: fever for {number} days, what is the diagnosis?")]
    ]
    for continuation in ("labels", "texts"):
        adapter = LogLikelihood(folder, Card("tiny", model_class="AutoModelForCausalLM"), continuation, device="cpu")
        answers = ask(adapter, asked)
        found = [answers[one.question.sample_id].likelihoods or {} for one in asked]
        ours = [[value for value, _ in one.values()] for one in found]
        rows = tmp_path / f"{continuation}.jsonl"
        with rows.open("w") as file:
            for number, one in enumerate(asked):
                said = [text if continuation == "texts" else label for label, text in one.question.options]
                row = {"prompt": adapter.prompt(one), "choices": said, "gold": number % len(said)}
                file.write(json.dumps(row) + "\n")
        done = subprocess.run(
            [python, "-c", LM_EVAL, str(folder), str(rows)], capture_output=True, text=True, check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        results, theirs = json.loads(done.stdout.splitlines()[-1])
        assert ours == theirs
        golds = ["ABCD"[number % len(one.question.options)] for number, one in enumerate(asked)]
        for metric, normalised in (("acc,none", False), ("acc_norm,none", True)):
            right = [best_option(one, normalised=normalised) == gold for one, gold in zip(found, golds, strict=True)]
            assert results[metric] == pytest.approx(sum(right) / len(right), abs=1e-12)


def test_vllm_in_this_process_is_asked_by_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of vLLM and what becomes of its refusals; tests/test_vllm.py has the real one."""
    (tmp_path / "config.json").write_text("{}")
    card = msgspec.structs.replace(CARD, max_images=1, request={"mm_processor_kwargs": {"a": 1}, "min_p": 0.1})
    card = msgspec.structs.replace(card, decoding=Decoding(temperature=0.5, seed=7))
    adapter = VllmLocal(tmp_path, card, settings={"max_model_len": 99})
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="pip install 'medgpt-oss"):
        adapter.identity()
    asked: list[Any] = []

    class Model:
        def __init__(self, folder: str, **settings: Any) -> None:
            assert folder == str(tmp_path) and settings["max_model_len"] == 99 and settings["dtype"] == "float32"

        def chat(self, turns: list[Any], sampling: list[dict[str, Any]], **chat: Any) -> list[Any]:
            asked.append((sampling, chat))
            texts = [turn[-1]["content"] for turn in turns]
            if "too long" in texts:
                raise ValueError("longer than the model")
            return [
                SimpleNamespace(
                    prompt_token_ids=[1, 2],
                    outputs=[SimpleNamespace(text=text.upper(), finish_reason="stop", token_ids=[3])],
                )
                for text in texts
            ]

    platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: True))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="1", LLM=Model, SamplingParams=dict))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    second = replace(request("again"), draw=1)
    answers = ask(adapter, [request("one"), request("too long"), request("pictures", 2), second])
    assert {name: answer.outcome for name, answer in answers.items()} == {
        "pictures": "too_many_images", "one": "answered", "too long": "refused_request", "again": "answered"
    }  # fmt: skip
    assert answers["one"] == Answer("answered", "ONE", "stop", None, 2, 1)
    [first, *_, last], chat = asked[0]
    assert chat == {"use_tqdm": False, "mm_processor_kwargs": {"a": 1}}
    assert first["seed"] == 7 and last["seed"] == 8 and first["temperature"] == 0.5 and first["min_p"] == 0.1
    assert first["max_tokens"] == 16 and first["skip_special_tokens"] is False and "mm_processor_kwargs" not in first
    with pytest.raises(AdapterError, match="refuses every question"):
        ask(adapter, [request("too long"), replace(request("again"), question=question("too long"))])


def test_the_demo_shows_the_model_first(tiny: Path, tmp_path: Path) -> None:
    small = build_demos(tmp_path / "data", (("slake", ()), ("medbullets", ())))
    assert demo_main([str(small), "--checkpoint", str(tiny), "--limit", "1", "--out", str(tmp_path / "out")]) == 0
    html = (tmp_path / "out/report.html").read_text()
    assert "MedGPT-oss (ours): adapter hf_local, checkpoint " in html
    assert "Differences of MedGPT-oss (ours) from the others" in html


def test_weights_that_do_not_fit_are_refused(tiny: Path, tmp_path: Path) -> None:
    """transformers only warns, and would answer with random weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny, tmp_path / "copy")
    file = tmp_path / "copy/model.safetensors"
    weights = load_file(file)
    del weights[next(name for name in sorted(weights) if "vision" in name and "layernorm" in name.lower())]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 weights are missing or left over"):
        ask(local(tmp_path / "copy"), [request("q")])


def test_local_refusals_are_one_line(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded") as error:
        ask(local(tmp_path), [request("q")])
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no class NoSuchModel"):
        ask(HFLocal(tiny, Card("c", model_class="NoSuchModel"), device="cpu"), [request("q")])
    with pytest.raises(UserError, match=r"through eval\.run --trust-remote-code"):
        HFLocal(tiny, Card("c", trust_remote_code=True))
    with pytest.raises(UserError, match="choose auto, cuda or cpu"):
        HFLocal(tiny, CARD, device="tpu")
    answers = ask(HFLocal(tiny, Card("c", max_images=0), device="cpu"), [request("two", 2), request("none")])
    assert answers["two"] == Answer("too_many_images", None) and answers["none"].outcome == "answered"


# Trying it out -------------------------------------------------------------------------------------------------------


def test_chat_keeps_the_conversation_and_shows_the_answer_only(tmp_path: Path) -> None:
    picture = tmp_path / "x.png"
    picture.write_bytes(PIXEL)
    said = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>No finding.<|return|>"
    out = StringIO()
    lines = ["/image /no/such", f"/image {picture}", "What?", "", "Sure?", "/reset", "Hello", "/help", "/quit", "x"]
    with Server(tmp_path, content=said) as server:
        talk(Conversation(chat(server), 32), lines, out)
        entries = server.entries()
    assert [entry["text"] for entry in entries] == ["What?", "Sure?", "Hello"]
    assert [entry["pictures"] for entry in entries] == [1, 1, 0]
    assert [entry["roles"] for entry in entries] == [["user"], ["user", "assistant", "user"], ["user"]]
    assert out.getvalue().splitlines()[2:] == [
        "No finding.", "No finding.", "forgotten", "No finding.", "there are: /image FILE, /reset, /quit",
    ]  # fmt: skip


def test_chat_refuses_a_key_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    where = ["--endpoint", "http://127.0.0.1:9/v1", "--served-model", "m"]
    assert chat_main([*where, "--key-variable", "NO_SUCH_KEY"]) == 2
    assert "NO_SUCH_KEY, named as the API key's, is not set" in capsys.readouterr().err


def test_chat_refuses_servers_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert chat_main(["--endpoint", "http://192.0.2.1/v1", "--served-model", "m"]) == 2
    error = capsys.readouterr().err
    assert "NOT FOR CLINICAL USE" in error and "credentialed" in error


def test_auto_takes_the_engine_that_is_there_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from eval.adapters import choose

    (tmp_path / "config.json").write_text("{}")

    def taken() -> str:
        return type(choose.local_model(tmp_path, CARD, "auto", device="cpu")).__name__

    with pytest.raises(UserError, match="transformers takes none"):
        choose.local_model(tmp_path, CARD, "hf", settings={"n_ctx": 8192})
    for there, kind in ((None, "HFLocal"), ("vllm", "VllmLocal")):
        monkeypatch.setattr(choose, "find_spec", lambda name, there=there: there == name)
        assert taken() == kind
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "mxfp4"}}')
    for is_cpu, kind in ((True, "HFLocal"), (False, "VllmLocal")):
        platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda is_cpu=is_cpu: is_cpu))
        monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
        assert taken() == kind
    (tmp_path / "model.gguf").touch()
    assert taken() == "LlamaLocal"
    assert capsys.readouterr().err.splitlines() == [
        "engine: transformers (vLLM is not installed here)",
        "engine: vLLM (it is installed here)",
        "engine: transformers (vLLM's CPU build takes no MXFP4)",
        "engine: vLLM (it is installed here)",
        "engine: llama.cpp (the folder has a model.gguf)",
    ]
