"""Local pictures: a test picture inside another is found, pictures of others are not, and a second road agrees."""

from __future__ import annotations

import json
import warnings
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml
from conftest import tree_digest
from PIL import Image, ImageOps
from test_near_images import phantom

from bench.local_pictures import SETTINGS, stored
from builders.engine.corpus_source import build_corpus
from manifests.proof.certificate import read_certificate
from manifests.proof.descriptors import Encoder, load_encoder, sha256_of
from manifests.proof.evidence import LEVELS
from manifests.proof.local_features import NEAR, TEST_SIDE, TRAIN_SIDE, features
from manifests.proof.local_pictures import LocalIndex
from manifests.proof.overlaps import VERSIONS
from manifests.proof.policy import DEFAULT_POLICY, load_policy, parse_policy
from manifests.prove import main as prove_main
from manifests.prove import prove
from manifests.verify import verify
from medgpt.errors import UserError

pytest.importorskip("cv2")

Row = dict[str, Any]
PICTURES = [phantom(seed, (400, 360) if seed % 2 else (330, 420)) for seed in range(6)]
DATA = [stored(picture, 95) for picture in PICTURES]
FEATURES = [features(data, TEST_SIDE) for data in DATA]
INDEX = LocalIndex(FEATURES, [picture.size for picture in PICTURES])
SETTINGS_OF = load_policy().local_pictures


def found(pictures: list[Image.Image]) -> list[tuple[int, int, str]]:
    data = [stored(picture) for picture in pictures]
    matches, counts = INDEX.scan(len(data), data.__getitem__, DATA.__getitem__, SETTINGS_OF)
    assert counts["confirmed"] == len(matches) == counts["candidates"] - counts["refuted"]
    return [(match.train, match.test, match.variant) for match in matches]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_found_and_no_other_picture(name: str) -> None:
    """What lies beside the picture in a montage is none of the indexed ones."""
    others = [phantom(seed) for seed in range(50, 67)]
    got = found([SETTINGS[name](PICTURES[number], number, others) for number in (0, 3)])
    assert [(train, test) for train, test, _ in got] == [(0, 0), (1, 3)]


def test_the_variant_says_how_the_picture_is_shown() -> None:
    page = Image.new("L", (900, 800), 255)
    page.paste(PICTURES[0].resize((165, 210), Image.Resampling.LANCZOS).rotate(90, expand=True), (500, 100))
    mirrored = Image.new("L", (900, 800), 0)
    mirrored.paste(ImageOps.invert(ImageOps.mirror(PICTURES[1])), (60, 300))
    [(_, _, first), (_, _, second)] = found([page, mirrored])
    assert first == "x0.50 turned -90"
    assert second == "x1.00 mirrored inverted"


def test_a_mirrored_and_an_inverted_picture_have_the_same_codes() -> None:
    picture = PICTURES[2]
    codes = features(stored(picture, 100), TEST_SIDE).codes
    for change, least in (ImageOps.invert, 0.95), (ImageOps.mirror, 0.6):
        again = features(stored(change(picture), 100), TEST_SIDE)
        met = (np.bitwise_count(codes[:, None] ^ again.codes[None]) <= np.array(NEAR)).all(2)
        assert met.any(0).mean() > least
        assert set(again.forms.tolist()) == {0, 1, 2, 3}


def test_the_index_meets_every_pair_of_features_that_the_rule_names() -> None:
    train = features(stored(SETTINGS["montage 2x2"](PICTURES[1], 1, PICTURES)), TRAIN_SIDE)
    placed = list(INDEX.placements([train], SETTINGS_OF))
    assert {test for _, test, _ in placed} >= {1}
    for _, test, placement in placed:
        ours, theirs = train.codes[:, None], FEATURES[test].codes[None]
        met = (np.bitwise_count(ours ^ theirs) <= np.array(NEAR)).all(2)
        assert met.sum() >= placement.inliers >= SETTINGS_OF.inliers


# ---- as a level of a proof


def write(folder: Path, pictures: dict[str, Image.Image]) -> None:
    folder.mkdir(parents=True)
    rows = [{"question": f"What does picture {name} show?", "answer": "A phantom", "image": name} for name in pictures]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, picture in pictures.items():
        (folder / name).write_bytes(stored(picture, 90))


def policy(train: list[str]) -> Row:
    content: Row = yaml.safe_load(DEFAULT_POLICY.read_text())
    content["local_pictures"]["train"] = train
    return content


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    others = [phantom(seed) for seed in range(50, 60)]
    shots = {f"shot{number}.jpg": SETTINGS["screenshot"](PICTURES[number], number, others) for number in range(2)}
    for name, more in ("ours", {"slide.jpg": SETTINGS["slide"](PICTURES[2], 2, others)}), ("more", {}):
        write(folder / name, shots | more | {"else.jpg": others[0]})
        rules = {"name": name, "access": "open", "store_pictures": True}
        build_corpus(folder / name, "train", rules, folder / "data")
    write(folder / "exam", {f"test{number}.jpg": picture for number, picture in enumerate(PICTURES[:4])})
    rules = {"name": "exam", "access": "open", "store_pictures": True}
    build_corpus(folder / "exam", "eval", rules, folder / "data")
    prove(folder / "data", folder / "data" / "proof", parse_policy(policy(["ours"])), only_present=True)
    return folder


def kept(proof: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree_digest(proof).items() if not name.startswith(".work")}


def evidence(proof: Path) -> list[Row]:
    import pyarrow.parquet as pq

    return [row for row in pq.read_table(proof / "evidence.parquet").to_pylist() if row["level"] == "local_pictures"]


def test_a_proof_takes_out_what_shows_a_test_picture_where_the_policy_asks(built: Path) -> None:
    rows = evidence(built / "data" / "proof")
    assert {row["train_build"] for row in rows} == {"ours.train"}
    assert len(rows) == 3
    assert {row["action"] for row in rows} == {"exclude"}
    assert all(row["score"] >= SETTINGS_OF.threshold and row["decided_on"] == "full_image" for row in rows)
    document = read_certificate(built / "data" / "proof")
    assert document["levels"]["local_pictures"] == list(LEVELS["local_pictures"])
    counts = {(row["build"], row["role"]): row for row in document["local_pictures"]["pictures"]}
    assert counts["ours.train", "train"]["compared"] == 4
    assert counts["more.train", "train"]["left_out"] == 3  # said, not silent
    assert counts["exam.eval", "eval"]["compared"] == 4
    assert document["counts"]["local_pictures"]["confirmed"] == 3
    assert document["exclusions"] == [{"train_build": "ours.train", "train_samples": 3}]


def test_evidence_changes_with_the_declared_version_alone(built: Path) -> None:
    import cv2

    rows = evidence(built / "data" / "proof")
    pairs = sorted((row["train_sample"], row["eval_sample"]) for row in rows)
    file = json.loads((Path(__file__).parent / "pinned_evidence.json").read_text())
    pinned = file["levels"]["local_pictures"]
    same = file["libraries"] == {name: version(name) for name in file["libraries"]}
    found = {"version": VERSIONS["local_pictures"], "opencv": cv2.__version__}
    found |= {name: sha256(orjson.dumps(one)).hexdigest() for name, one in (("pairs", pairs), ("rows", rows))}
    if not same or found["opencv"] != pinned["opencv"]:  # other libraries measure otherwise
        pinned |= {"opencv": found["opencv"], "rows": found["rows"]}
    assert found == pinned, f"raise local_pictures.VERSION, and pin again: {json.dumps(found)}"


def test_any_number_of_workers_gives_the_same_bytes_and_a_second_road_the_same_rows(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = built / "data" / "proof"
    prove(built / "data", tmp_path / "proof", parse_policy(policy(["ours"])), only_present=True, workers=2)
    assert kept(tmp_path / "proof") == kept(proof)
    monkeypatch.setattr("manifests.verification.spread._FEW", 0)
    monkeypatch.setattr("manifests.verification.spread.in_this_process", lambda workers, jobs: False)
    done = verify(built / "data", proof, raw=None, workers=2)
    assert not [finding for step in done.steps for finding in step.findings]
    notes = {step.name: step.note for step in done.steps}
    assert notes["local pictures"].startswith("3 pairs of 4 train pictures")


def test_another_source_switched_on_leaves_what_was_done(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "proof"
    prove(built / "data", out, parse_policy(policy(["ours"])), only_present=True)
    before = {path.name: path.stat().st_mtime_ns for path in (out / ".work").glob("local_pictures-*")}
    prove(built / "data", out, parse_policy(policy(["*"])), only_present=True)
    after = {path.name: path.stat().st_mtime_ns for path in (out / ".work").glob("local_pictures-*")}
    assert len(before) == 2 and len(after) == 4
    assert before.items() <= after.items()
    assert {row["train_build"] for row in evidence(out)} == {"ours.train", "more.train"}


def test_pictures_that_are_not_stored_are_named_and_end_with_4(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(policy(["*"])))
    mapping = tmp_path / "map.yaml"
    mapping.write_text("access: open\n")
    arguments = ["--train", built / "ours", "--eval", built / "exam", "--mapping", mapping, "--out", tmp_path / "out"]
    code = prove_main([*map(str, arguments), "--policy", str(file), "--benchmarks", "present", "--quiet"])
    said = capsys.readouterr().out
    assert code == 4
    assert "picture local_pictures, 4 (not stored, so local_pictures cannot read them" in said


# ---- a copy descriptor


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TorchScript encoder as small as it gets: means of 8 x 8 cells, about their mean."""
    torch = pytest.importorskip("torch")

    class Tiny(torch.nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, pictures):  # type: ignore[no-untyped-def]
            cells = torch.nn.functional.adaptive_avg_pool2d(pictures, 8).mean(1).flatten(1)
            return cells - cells.mean(1, keepdim=True)

    path = tmp_path_factory.mktemp("encoder") / "tiny.torchscript.pt"
    warnings.simplefilter("ignore", FutureWarning)  # as SSCD is published
    torch.jit.trace(Tiny(), torch.zeros(1, 3, 32, 32)).save(str(path))
    return Path(path)


def encoder_policy(script: Path, **more: Any) -> Any:
    content = policy(["ours"])
    # No picture has so many features: what is found is found by the encoder.
    content["local_pictures"] |= {"inliers": 5000}
    content["local_pictures"]["encoder"] = {"sha256": sha256_of(script), "pixels": 32, "cosine": 0.9, **more}
    return parse_policy(content)


def test_an_encoder_proposes_and_pixels_decide(script: Path, tmp_path: Path) -> None:
    # Of another picture the encoder's cells are the same: only pixels tell.
    noise = np.random.default_rng(0).integers(-60, 60, (420, 330))
    cells = np.asarray(PICTURES[2].resize((8, 8), Image.Resampling.BOX).resize((330, 420), Image.Resampling.NEAREST))
    alike = Image.fromarray(np.clip(cells + noise, 0, 255).astype(np.uint8))
    copies = {"copy.jpg": PICTURES[0].resize((200, 250)), "inverse.jpg": PICTURES[1], "alike.jpg": alike}
    write(tmp_path / "ours", copies)
    write(tmp_path / "exam", {f"test{number}.jpg": picture for number, picture in enumerate(PICTURES)})
    for name, role in ("ours", "train"), ("exam", "eval"):
        rules = {"name": name, "access": "open", "store_pictures": True}
        build_corpus(tmp_path / name, role, rules, tmp_path / "data")
    rules_of = encoder_policy(script)
    encoder = Encoder(script, rules_of.local_pictures.encoder)
    vectors = encoder.vectors([stored(alike), None, DATA[2]])
    assert vectors.shape == (3, 64) and not vectors[1].any() and vectors[0] @ vectors[2] > 0.9
    proof = tmp_path / "data" / "proof"
    prove(tmp_path / "data", proof, rules_of, only_present=True, encoder=script)
    rows = evidence(proof)
    assert {(row["kind"], row["variant"]) for row in rows} == {("descriptor", "x0.60"), ("descriptor", "x1.00")}
    assert len(rows) == 2  # the one that only looks alike to the encoder is not among them
    said = read_certificate(proof)["policy"]["local_pictures"]["encoder"]
    assert said["sha256"] == sha256_of(script)
    again = verify(tmp_path / "data", proof, raw=None, encoder=script)
    assert not [finding for step in again.steps for finding in step.findings]
    without = verify(tmp_path / "data", proof, raw=None)
    assert [step.name for step in without.steps if step.findings][:1] == ["local pictures"]


def test_an_encoder_that_is_not_the_policys_is_refused(script: Path, built: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name an encoder: --encoder PATH"):
        load_encoder(encoder_policy(script), None)
    with pytest.raises(UserError, match="the policy's encoder has 0000"):
        load_encoder(encoder_policy(script, sha256="0" * 64), script)
    with pytest.raises(UserError, match="ask for no encoder"):
        load_encoder(parse_policy(policy(["ours"])), script)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be loaded as an encoder"):
        load_encoder(encoder_policy(broken), broken)


def test_an_onnx_file_and_a_folder_of_open_clip_are_encoders(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make = onnx.helper
    graph = make.make_graph(
        [
            make.make_node("AveragePool", ["pictures"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
            make.make_node("Flatten", ["cells"], ["vectors"]),
        ],
        "tiny",
        [make.make_tensor_value_info("pictures", onnx.TensorProto.FLOAT, ["n", 3, 32, 32])],
        [make.make_tensor_value_info("vectors", onnx.TensorProto.FLOAT, ["n", 48])],
    )
    path = tmp_path / "tiny.onnx"
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9), path)
    settings = encoder_policy(path).local_pictures.encoder
    vectors = Encoder(path, settings).vectors(DATA)
    assert vectors.shape == (6, 48)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    empty = tmp_path / "folder"
    empty.mkdir()
    (empty / "weights.bin").write_bytes(b"0")
    with pytest.raises(UserError, match=r"no open_clip_config\.json|needs open_clip"):
        Encoder(empty, encoder_policy(empty).local_pictures.encoder)
