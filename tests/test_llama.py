"""A tiny model in llama.cpp against transformers: vocabulary, answers through `eval.run`, and served.

Needs llama-cpp-python beside this project's dependencies; MEDGPT_LLAMA_CPP=1 says that it is there.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from eval_builds import build_demos
from test_vllm import HOSTILE, answers, pictures_asked, talk

pytestmark = [
    pytest.mark.llama,
    pytest.mark.skipif(not os.environ.get("MEDGPT_LLAMA_CPP"), reason="MEDGPT_LLAMA_CPP does not say it is there"),
    pytest.mark.xdist_group("llama"),
]

EXACT = {"n_ctx": 16384, "type_k": 0, "type_v": 0, "n_threads": 1, "n_threads_batch": 1}
"""Keys and values in fp32, as in transformers; llama.cpp's default is fp16. Its threads wait for each other busily."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model in fp32, for transformers and for llama.cpp.

    Its YaRN has bounds that are rounded: llama.cpp rounds those of every model, GPT-oss's are not to be.
    """
    pytest.importorskip("torch")
    from train import assemble, export

    place = tmp_path_factory.mktemp("llama")
    assert assemble.main(["--size", "tiny", "--dtype", "fp32", "--seed", "3", "--out", str(place / "hf")]) == 0
    path = place / "hf/config.json"
    config = json.loads(path.read_text())
    config["text_config"]["rope_parameters"]["truncate"] = True
    path.write_text(json.dumps(config))
    assert export.main([str(place / "hf"), "--for", "llama.cpp", "--out", str(place / "llama.cpp")]) == 0
    return {"hf": place / "hf", "llama.cpp": place / "llama.cpp"}


def test_the_vocabulary_is_training_s(folders: dict[str, Path]) -> None:
    """Of a text that holds control tokens, which llama.cpp would read as such, the template breaks them up."""
    import llama_cpp
    from transformers import AutoTokenizer

    model = llama_cpp.Llama(str(folders["llama.cpp"] / "model.gguf"), vocab_only=True, verbose=False)
    fast = AutoTokenizer.from_pretrained(folders["llama.cpp"])
    special = set(fast.added_tokens_decoder)
    words = (ROOT / "docs/evaluate.md").read_text()
    for text in (words, " 12345 µg/dL\n\n\t Größe: ½ ‐ 心电图 🩺", "can't  we'LL\r\n", HOSTILE):
        chat = [{"role": "user", "content": text}]
        ours = fast.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        rendered = fast.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        theirs = model.tokenize(rendered.encode(), add_bos=False, special=True)
        assert [token for token in theirs if token in special] == [token for token in ours if token in special]
        assert (theirs == ours) == (text != HOSTILE)


def test_answers_through_eval_run_are_those_of_transformers(folders: dict[str, Path], tmp_path: Path) -> None:
    data = build_demos(tmp_path / "builds")
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for engine, folder in folders.items():
        more = ["--device", "cpu"] if engine == "hf" else ["--engine-settings", json.dumps(EXACT)]
        talk(
            "eval.run", str(data), "--tasks", "all", "--only-present", "--model", "medgpt_oss_ours", "--checkpoint",
            str(folder), "--engine", engine, *more, "--max-new-tokens", "8", "--limit", "20",
            "--out", str(tmp_path / engine),
        )  # fmt: skip
        found[engine] = answers(tmp_path / engine)
    assert len(found["hf"]) >= 200 and found["hf"].keys() == found["llama.cpp"].keys()
    other = [key for key, said in found["hf"].items() if said != found["llama.cpp"][key]]
    pictures = pictures_asked(data)
    print(f"{len(found['hf']) - len(other)} of {len(found['hf'])} are equal; by pictures: {dict(pictures)}")
    assert not other
    assert all(pictures[count] for count in range(4)), pictures


def test_it_is_talked_to_without_being_named(folders: dict[str, Path]) -> None:
    """`eval.chat` finds the engine by the folder and says so; what it answers is what transformers answers."""
    said = {}
    for engine, folder in folders.items():
        words = ["eval.chat", "--checkpoint", str(folder), "--max-new-tokens", "6"]
        if engine == "hf":
            words += ["--engine", "hf", "--device", "cpu"]
        done = talk(*words, said=f"{HOSTILE}\nAnd now?\n")
        line = re.search(r"(?m)^eval.*engine: (.*)$|^engine: (.*)$", done.stderr)
        assert bool(line) == (engine != "hf") and (not line or "llama.cpp (the folder has a model.gguf)" in line[0])
        said[engine] = done.stdout
    assert said["hf"] == said["llama.cpp"]
