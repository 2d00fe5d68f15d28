"""The CLIP backend, with a model of random weights where open_clip is installed, and semantic duplicates."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from filters.base import FilterError, Picture, Record
from filters.semantic_duplicates import semantic_duplicates
from filters.zero_shot import ZeroShot


def sample(number: int, text: str, pictures: int = 1) -> Record:
    pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    content = [{"type": "text", "text": text, "index": None}]
    stored = {"id": str(number), "messages": [{"role": "assistant", "reasoning": None, "content": content}]}
    return Record(stored, [Picture(buffer.getvalue()) for _ in range(pictures)])


def test_zero_shot_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(FilterError, match="needs weights"):
        ZeroShot()
    with pytest.raises(FilterError, match="not there"):
        ZeroShot(str(tmp_path / "no.pt"), "RN50")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model of random weights, as small as it gets, as a folder of open_clip."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip and torch are not installed")
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("clip")
    model = {
        "embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }  # fmt: skip
    torch.manual_seed(0)
    network = open_clip.CLIP(**{**model, "vision_cfg": model["vision_cfg"], "text_cfg": model["text_cfg"]})
    torch.save(network.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    return folder


def test_zero_shot_scores_and_embeds_with_local_weights(clip: Path) -> None:
    made_filter = ZeroShot(str(clip))
    batch = [sample(number, f"a radiograph, number {number}") for number in range(5)]
    answers = made_filter.score([*batch, sample(9, "no picture", pictures=0)])
    assert all(set(row) == set(ZeroShot.scores) for row in answers)
    for row in answers[:-1]:
        agreement = row.pop("agreement")
        assert isinstance(agreement, float) and -1 <= agreement <= 1
        assert all(isinstance(value, float) and 0 <= value <= 1 for value in row.values())
    assert set(answers[-1].values()) == {None}
    for number, record in enumerate(batch):  # pure: alone as in a batch, up to what a sum's order changes
        [alone] = made_filter.score([record])
        assert alone["text"] == pytest.approx(answers[number]["text"], abs=2e-3)
    vectors = made_filter.embed_pictures([record.pictures[0] for record in batch])
    texts = made_filter.embed_texts([record.caption for record in batch])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    cosines = (vectors * texts).sum(axis=1)
    [unsaid, again] = made_filter.score([sample(7, " "), batch[2]])
    assert unsaid["agreement"] is None and unsaid["text"] is not None
    assert again["agreement"] == pytest.approx(cosines[2], abs=2e-3)


@given(st.integers(0, 40), st.integers(1, 4), st.floats(0.5, 1.0), st.integers(0, 2**32 - 1))
def test_semantic_duplicates_are_all_found(count: int, width: int, threshold: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, width)).astype(np.float32)
    vectors = np.concatenate([vectors, vectors[: count // 3]])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    names = [str(number) for number in range(len(vectors))]
    stays: list[int] = []
    expect = {}
    for number, vector in enumerate(vectors):
        cosines = [float(vector @ vectors[other]) for other in stays]
        if abs(max(cosines, default=-1) - threshold) < 1e-5:
            return  # rounding decides
        if cosines and max(cosines) >= threshold:
            expect[names[number]] = max(cosines)
        else:
            stays.append(number)
    found = semantic_duplicates(names, vectors, threshold)
    assert {name for name, _, _ in found} == set(expect)
    for name, other, cosine in found:
        assert int(other) in stays and int(other) < int(name)
        assert cosine == pytest.approx(expect[name], abs=2e-4)


def test_semantic_duplicates_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(50, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [str(number) for number in range(50)]
    whole = semantic_duplicates(names, vectors, 0.9)
    monkeypatch.setattr("filters.semantic_duplicates._BLOCK", 7)
    assert semantic_duplicates(names, vectors, 0.9) == whole and whole
    with pytest.raises(ValueError, match="length 1"):
        semantic_duplicates(names, vectors * 2, 0.9)
