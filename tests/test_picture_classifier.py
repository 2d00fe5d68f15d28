"""Picture classifiers by local path: tiny ones of random weights, of each kind that is read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_zero_shot import clip as clip  # a fixture
from test_zero_shot import sample

from filters.base import FilterError
from filters.picture_classifier import PictureClassifier

REASONS = {"compound": ["multi"], "irrelevant": ["plot", "table"]}
CLASSES = ["single", "multi", "plot", "table"]


def timm_checkpoint(folder: Path) -> dict[str, Any]:
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    network = timm.create_model("test_vit", pretrained=False, num_classes=4)
    weights = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    content = {"arch": "test_vit", "state_dict": weights, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save(content, folder / "model.pth.tar")
    return {"weights": str(folder / "model.pth.tar"), "classes": CLASSES}


def timm_folder(folder: Path) -> dict[str, Any]:
    timm, safetensors = pytest.importorskip("timm"), pytest.importorskip("safetensors.torch")
    network = timm.create_model("test_resnet", pretrained=False, num_classes=4)
    safetensors.save_file(network.state_dict(), folder / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 4, "label_names": CLASSES}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {"input_size": [3, 64, 64]}}))
    return {"weights": str(folder)}


def transformers_folder(folder: Path) -> dict[str, Any]:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        id2label=dict(enumerate(CLASSES)), label2id={name: number for number, name in enumerate(CLASSES)},
        initializer_range=0.5,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return {"weights": str(folder)}


def onnx_file(folder: Path) -> dict[str, Any]:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    matrix = np.random.default_rng(0).normal(size=(3 * 8 * 8, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", kind, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", kind, ["n", 4])],
        [onnx.numpy_helper.from_array(matrix, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / "tiny.onnx")
    return {"weights": str(folder / "tiny.onnx"), "classes": CLASSES}


KINDS: list[Callable[[Path], dict[str, Any]]] = [timm_checkpoint, timm_folder, transformers_folder, onnx_file]


def check(options: dict[str, Any]) -> None:
    classifier = PictureClassifier(reasons=REASONS, **options)
    batch = [sample(number, "a picture") for number in range(4)]
    answers = classifier.score([*batch, sample(9, "none", pictures=0)])
    assert set(answers.pop().values()) == {None}
    for record, answer in zip(batch, answers, strict=True):
        assert classifier.score([record]) == [answer]  # alone as in a batch, to the last digit
        assert answer["reason"] in REASONS and answer["label"] in CLASSES
        drop, probability = answer["drop"], answer["probability"]
        assert isinstance(drop, float) and isinstance(probability, float) and 0.25 <= probability <= 1
        if answer["label"] in REASONS[str(answer["reason"])]:
            assert drop >= probability - 1e-4
    assert len({answer["drop"] for answer in answers}) > 1
    several = PictureClassifier(reasons=REASONS, **options, activation="sigmoid").score(batch)
    assert several != answers


@pytest.mark.parametrize("make", KINDS)
def test_each_kind_is_read_from_its_place(make: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    check(make(tmp_path))


def test_a_clip_model_answers_prompts(clip: Path) -> None:
    check({"weights": str(clip), "classes": {name: [f"a {name}", f"one {name}"] for name in CLASSES}})


def test_logits_become_the_chances_that_arithmetic_says(tmp_path: Path) -> None:
    options = onnx_file(tmp_path)
    record = sample(3, "x")
    [answer] = PictureClassifier(reasons=REASONS, **options).score([record])
    from PIL import Image

    small = Image.fromarray(record.pictures[0].rgb(1024)).resize((8, 8), Image.Resampling.BICUBIC)
    pixels = (np.asarray(small) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    matrix = np.random.default_rng(0).normal(size=(3 * 8 * 8, 4)).astype(np.float32)
    logits = pixels.transpose(2, 0, 1).reshape(-1) @ matrix
    chances = np.exp(logits) / np.exp(logits).sum()
    wanted = {"compound": chances[1], "irrelevant": chances[2] + chances[3]}
    assert answer["drop"] == pytest.approx(max(wanted.values()), abs=2e-4)
    assert answer["reason"] == max(wanted, key=lambda one: wanted[one])
    assert answer["label"] == CLASSES[int(chances.argmax())]


def test_the_content_of_a_model_is_part_of_what_makes_scores_right(tmp_path: Path) -> None:
    options = onnx_file(tmp_path) | {"reasons": REASONS}
    first = PictureClassifier.identity_options(options)
    moved = tmp_path / "other.onnx"
    moved.write_bytes((tmp_path / "tiny.onnx").read_bytes())
    assert PictureClassifier.identity_options(options | {"weights": str(moved), "device": "cuda"}) == first
    moved.write_bytes(moved.read_bytes() + b"\0")
    assert PictureClassifier.identity_options(options | {"weights": str(moved)}) != first
    assert PictureClassifier.identity_options(options | {"reasons": {"compound": ["plot"]}}) != first


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    options = onnx_file(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "damaged.onnx").write_bytes((tmp_path / "tiny.onnx").read_bytes()[:900])

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch = pytest.importorskip("torch")
    torch.save({"arch": "test_vit", "state_dict": {}, "more": Evil()}, tmp_path / "evil.pth.tar")
    for changes, says in (
        ({"weights": None}, "needs weights"),
        ({"reasons": {}}, "needs weights, and reasons"),
        ({"weights": str(tmp_path / "no")}, "is not there"),
        ({"weights": str(tmp_path)}, "cannot be loaded"),
        ({"weights": str(tmp_path / "evil.pth.tar")}, "cannot be loaded"),
        ({"weights": str(tmp_path / "damaged.onnx")}, "cannot be loaded"),
        ({"reasons": {"compound": ["multi-panel"]}}, "no label is called 'multi-panel'; there are: single, multi"),
        ({"classes": None}, "does not name its labels"),
        ({"activation": "relu"}, "softmax or sigmoid"),
        ({"device": "cuda"}, "no CUDAExecutionProvider"),
    ):
        with pytest.raises(FilterError, match=says) as refused:
            PictureClassifier(**({"reasons": REASONS} | options | changes))
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FilterError, match="for 2 labels"):
        PictureClassifier(**(options | {"classes": ["multi", "plot"], "reasons": {"a": ["plot"]}})).score(
            [sample(1, "")]
        )
