"""`shards.export`: what other trainers get, by whom it may be read, and that nothing is lost on the way."""

from __future__ import annotations

import base64
import json
import shutil
import stat
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import run_module, tree_digest
from export_readers import FORMATS, exported

from builders.engine.command import main as build
from builders.engine.registry import load
from manifests.proof.policy import load_policy
from manifests.prove import prove
from shards.export import NAMES, Exporter, _lines, main
from shards.exports import rows as cutting
from shards.exports.formats import FORMATS as TABLE
from shards.exports.rows import Refused, Row, in_shown_order
from shards.reader import Build

TAKEN = ("--accept-incomplete", "--json")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds with one picture, several, and none, and one of credentialed pictures, under a proof."""
    folder = tmp_path_factory.mktemp("export")
    for name in ("pubmedvision", "medqa", "medreason", "mimic_cxr_vqa", "rocov2"):
        words = ["--demo", "--raw", str(folder / name), "--out", str(folder / "built"), "--workers", "1", "--quiet"]
        words += ["--filters", "none"] if name == "rocov2" else []
        assert build(load(name), words) in (0, 3)
    assert prove(folder, folder / "proof", load_policy(), only_present=True, no_rewrites=True)["clean"]
    return folder


def export(data: Path, out: Path, name: str, *words: str, code: int = 0) -> Path:
    """An export of the open builds."""
    only = () if "--only" in words else ("--only", "pubmedvision", "medqa", "medreason", "rocov2")
    assert main([str(data), "--format", name, "--out", str(out), "--workers", "1", *TAKEN, *only, *words]) == code
    return out


def rows_of(out: Path, build_name: str) -> list[dict[str, Any]]:
    """The rows of a build in a format of JSON or Parquet."""
    [path] = sorted((out / "data").glob(f"{build_name}.json*")) or sorted((out / "data" / build_name).glob("*"))
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return found
    text = path.read_text()
    return list(json.loads(text) if path.suffix == ".json" else map(json.loads, text.splitlines()))


def test_the_table_has_the_formats_of_the_command() -> None:
    assert sorted(NAMES) == sorted(TABLE) == sorted(FORMATS)


@pytest.mark.parametrize("name", NAMES)
def test_pieces_workers_and_a_kill_change_no_byte(
    data: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures are those of the shards, byte by byte; many pieces are one file where the format wants one."""
    monkeypatch.setattr(cutting, "PIECE_BYTES", 6000)
    first = export(data, tmp_path / "first", name)
    stored = {
        folder: {s.record["id"]: s.images for s in Build(data / "built" / folder, role="train")}
        for folder in ("pubmedvision", "medqa", "medreason", "rocov2")
    }
    found = exported(first, name)
    assert any(found.values()) and all(samples.items() <= stored[folder].items() for folder, samples in found.items())
    pieces = list((first / ".export/pieces").iterdir())
    assert len(pieces) > len(found)
    work, done = Exporter.__call__, 0

    def stops(self: Exporter, piece: Any) -> dict[str, Any]:
        nonlocal done
        done += 1
        if done == 4:
            raise KeyboardInterrupt
        return work(self, piece)

    monkeypatch.setattr(Exporter, "__call__", stops)
    export(data, tmp_path / "second", name, code=1)
    monkeypatch.setattr(Exporter, "__call__", work)
    export(data, tmp_path / "second", name, *(["--workers", "2"] if name in ("hf", "llava") else []))
    shutil.rmtree(first / ".export")
    shutil.rmtree(tmp_path / "second/.export")
    assert tree_digest(first) == tree_digest(tmp_path / "second")


def test_a_folder_of_another_export_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out/.export").mkdir(parents=True)
    (tmp_path / "out/.export/lock").touch()  # a start that ended at once: an export may begin here
    export(data, tmp_path / "out", "hf", "--only", "medqa")
    before = tree_digest(tmp_path / "out")
    export(data, tmp_path / "out", "hf", "--only", "medqa")  # done already: nothing to do
    assert tree_digest(tmp_path / "out") == before
    for words in (("llava", "--only", "medqa"), ("hf", "--only", "medqa", "medreason")):
        export(data, tmp_path / "out", *words, code=2)
        assert "name a new folder" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    export(data, tmp_path / "mine", "hf", code=2)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    export(data, tmp_path / "none", "hf", "--only", "medqua", code=2)
    assert "medqua: no certified train samples" in capsys.readouterr().err
    assert run_module("shards.export", str(data), "--format", "hf").returncode == 2


@pytest.mark.parametrize("name", ["hf", "llava", "mds"])
def test_what_is_gone_from_an_export_is_written_again(data: Path, name: str, tmp_path: Path) -> None:
    """A run that goes on counts as written what is there, not what was once."""
    out = export(data, tmp_path / "out", name)
    before = tree_digest(out)
    data_file = next(path for path in sorted((out / "data").rglob("*")) if path.is_file())
    picture = next((path for path in sorted((out / "images").rglob("*")) if path.is_file()), data_file)
    data_file.write_bytes(data_file.read_bytes()[:-1])
    picture.unlink()
    export(data, out, name)
    after = tree_digest(out)
    assert {file: after.get(file) for file in before if ".export" not in file} == {
        file: digest for file, digest in before.items() if ".export" not in file
    }


def test_credentialed_sources_stay_on_the_machine(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ("--only", "mimic_cxr_vqa", "medqa")
    out = export(data, tmp_path / "open", "ms-swift", *both, code=4)
    assert json.loads(capsys.readouterr().out)["left_out"] == ["mimic_cxr_vqa"]
    assert list(exported(out, "ms-swift")) == ["medqa"]
    assert "Not exported, credentialed: mimic_cxr_vqa" in (out / "README.md").read_text()
    export(data, tmp_path / "alone", "ms-swift", "--only", "mimic_cxr_vqa", code=2)
    assert "--local-only" in capsys.readouterr().err and not (tmp_path / "alone").exists()
    out = export(data, tmp_path / "local", "ms-swift", *both, "--local-only")
    assert exported(out, "ms-swift").keys() == {"medqa", "mimic_cxr_vqa"}
    for path in (out, *out.rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert "not to be passed on" in (out / "README.md").read_text()


def test_a_dry_run_counts_and_writes_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(data, tmp_path / "out", "hf", "--dry-run")
    planned = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "out").exists()
    export(data, tmp_path / "out", "hf")
    made = json.loads(capsys.readouterr().out)
    counts = [[(b["build"], b["samples"], b["pictures"]) for b in said["builds"]] for said in (planned, made)]
    assert counts[0] == counts[1] and len(counts[0]) == 4


def test_card_and_certificate(data: Path, tmp_path: Path) -> None:
    out = export(data, tmp_path / "out", "hf")
    _, head, body = (out / "README.md").read_text().split("---\n", 2)
    header = yaml.safe_load(head)
    assert header["task_categories"] == ["image-to-text", "question-answering", "visual-question-answering"]
    assert header["size_categories"] == ["n<1K"] and header["license"] == "other"
    assert [one["config_name"] for one in header["configs"]] == ["medqa", "medreason", "pubmedvision", "rocov2"]
    certificate = (data / "proof/certificate.json").read_bytes()
    assert (out / "certificate.json").read_bytes() == certificate
    root = json.loads(certificate)["predicate"]["root"]
    assert f"root `{root}`" in body and "no benchmark was asked for" in body
    excluded = pq.read_table(data / "proof/exclusions.parquet").to_pylist()
    count = sum(row["train_build"] == "medqa" for row in excluded)
    assert count and f"/MedQA) | {36 - count} | 0 | 36 | {count} | 0 | MIT | open |" in body
    croissant = json.loads((out / "croissant.json").read_bytes())
    digests = tree_digest(out)
    listed = {one["contentUrl"]: one["sha256"] for one in croissant["distribution"]}
    assert listed == {name: digest for name, digest in digests.items() if name.startswith("data/")}


def a_row(*messages: tuple[str, str | list[str | int], str | None], images: int = 0) -> Row:
    """A row; in a message, numbers are pictures."""
    told = [
        {"role": role, "reasoning": reasoning, "content": [
            {"type": "text", "text": part, "index": None} if isinstance(part, str)
            else {"type": "image", "text": None, "index": part}
            for part in ([parts] if isinstance(parts, str) else parts)
        ]}
        for role, parts, reasoning in messages
    ]  # fmt: skip
    record = dict.fromkeys(("source", "split", "task", "license", "access"), "x") | {"id": "x/train/1"}
    return Row(record | {"messages": told}, [bytes([n]) for n in range(images)], ["jpg"] * images)


TALK = a_row(
    ("system", "Be brief.", None), ("user", ["What?", 1, " And ", 0, "?"], None), ("assistant", "Yes.", "As it is."),
    images=2,
)  # fmt: skip
ANSWER = "<think>\nAs it is.\n</think>\n\nYes."


def told(name: str, row: Row) -> Any:
    row = in_shown_order(row)
    return TABLE[name].row(row, [f"{data[0]}.jpg" for data in row.images])


def test_rows_are_those_of_the_documented_schemas() -> None:
    """Pictures stand in the order in which they are shown; reasoning, system messages and tags are each reader's."""
    asked = "What?<image> And <image>?"
    messages = [("system", "Be brief."), ("user", asked), ("assistant", ANSWER)]
    for name in ("ms-swift", "llama-factory", "hf"):
        assert [(one["role"], one["content"]) for one in told(name, TALK)["messages"]] == messages, name
    assert told("ms-swift", TALK)["images"] == ["1.jpg", "0.jpg"]
    assert [one["bytes"] for one in told("hf", TALK)["images"]] == [b"\1", b"\0"]
    shared = told("sharegpt", TALK)
    assert [one["from"] for one in shared["conversations"]] == ["system", "human", "gpt"]
    assert shared["conversations"][1]["value"] == asked and shared["images"] == ["1.jpg", "0.jpg"]
    lines = "What?<image>\n And <image>\n?"
    internvl, llava = told("internvl", TALK), told("llava", TALK)
    assert internvl["conversations"][:2] == [
        {"from": "system", "value": "Be brief."}, {"from": "human", "value": lines}
    ]  # fmt: skip
    assert llava["conversations"] == [
        {"from": "human", "value": f"Be brief.\n\n{lines}"}, {"from": "gpt", "value": ANSWER}
    ]  # fmt: skip
    assert llava["image"] == internvl["image"] == ["1.jpg", "0.jpg"]
    one = a_row(("user", [0, "What?"], None), ("assistant", "Yes.", None), images=1)
    assert told("llava", one)["image"] == "0.jpg"
    text = a_row(("user", "What?", None), ("assistant", "Yes.", None))
    assert not {"image", "images"} & (told("llava", text).keys() | told("ms-swift", text).keys())
    parts = told("trl", TALK)["messages"]
    assert [part["type"] for part in parts[1]["content"]] == ["text", "image", "text", "image", "text"]
    assert [part["text"] for part in parts[2]["content"]] == ["<think>\nAs it is.\n</think>\n\n", "Yes."]
    kept = told("parquet", TALK)["messages"][2]
    assert kept["reasoning"] == "As it is." and kept["content"][0]["text"] == "Yes."


@pytest.mark.parametrize(
    ("row", "names", "why"),
    [
        (a_row(("user", [0, 0, "a"], None), ("assistant", "b", None), images=1), NAMES, "shown once"),
        (a_row(("user", "a", None), ("assistant", "b", None), images=1), NAMES, "shown once"),
        (a_row(("user", "a", None), ("assistant", ["b", 0], None), images=1), NAMES, "reply shows"),
        (a_row(), NAMES, "no messages"),
        (a_row(("user", "an <image>", None), ("assistant", "b", None)), ("hf", "llava", "ms-swift"), "for a picture"),
        (a_row(("user", "a", None), ("user", "b", None), ("assistant", "c", None)), ("llava", "internvl"), "in turn"),
    ],
)
def test_what_a_format_cannot_say_is_refused(row: Row, names: tuple[str, ...], why: str) -> None:
    for name in names:
        with pytest.raises(Refused, match=why):
            told(name, row)


def test_a_refused_sample_is_named_and_the_others_are_exported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row, last = TABLE["hf"].row, []

    def refuses(given: Row, paths: Any) -> Any:
        last.append(given.record["id"])
        if len(last) == 2:
            raise Refused("of a test")
        return row(given, paths)

    monkeypatch.setitem(TABLE, "hf", TABLE["hf"]._replace(row=refuses))
    out = export(data, tmp_path / "out", "hf", "--only", "medreason", code=4)
    named = {"build": "medreason", "sample": last[1], "why": "of a test"}
    assert json.loads(capsys.readouterr().out)["not_exported"] == [named]
    assert json.loads((out / "not_exported.jsonl").read_bytes()) == named
    assert list(exported(out, "hf")["medreason"]) == [name for name in last if name != last[1]]
    assert "1 sample could not be written" in (out / "README.md").read_text()


def test_an_altered_shard_is_no_export(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("raw", ".streams"))
    [shard] = (copy / "built/rocov2/shards").glob("*train*")
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.write_bytes(content)
    export(copy, tmp_path / "out", "hf", "--only", "rocov2", code=2)
    assert shard.name in capsys.readouterr().err
    assert not (tmp_path / "out/README.md").exists()


class Hub(BaseHTTPRequestHandler):
    """A hub that takes a commit of one dataset repository; small files come within it, as base64."""

    server: HubServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.server.made = json.loads(body)
            self.answer({"url": f"http://{self.headers['Host']}/datasets/me/them", "id": "me/them"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/datasets/me/them/preupload/main":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif self.path == "/api/datasets/me/them/commit/main" and not self.server.refuses:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['Host']}/datasets/me/them/commit/{0:040}"
            self.answer({"commitUrl": url, "commitOid": "0" * 40, "success": True})
        else:
            self.answer({"error": "refused"}, 403)

    def do_GET(self) -> None:
        self.answer({"id": "me/them", "sha": "0" * 40, "siblings": []})

    def answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class HubServer(ThreadingHTTPServer):
    refuses = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.files: dict[str, bytes] = {}
        self.made: dict[str, Any] = {}


def test_a_push_is_one_commit_of_all_files(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", "2.4")
    words = ["shards.export", str(data), "--format", "hf", "--out", str(tmp_path / "out"), "--push", "me/them", *TAKEN]
    with HubServer() as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        settings = {
            "HF_ENDPOINT": address,
            "HF_TOKEN": "hf_x",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("HF_HUB_OFFLINE", raising=False)  # a test of a local model may have set it
            for name, value in settings.items():
                patch.setenv(name, value)
            server.refuses = True
            refused = run_module(*words, "--only", "medqa")
            assert refused.returncode == 2 and "--push me/them: " in refused.stderr and "hf_x" not in refused.stderr
            server.refuses = False
            done = run_module(*words, "--only", "medqa")
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pushed"] == f"{address}/datasets/me/them/commit/{0:040}"
    assert (server.made["name"], server.made["visibility"]) == ("them", "private")
    mine = {
        path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert server.files == {name: path.read_bytes() for name, path in mine.items() if not name.startswith(".export/")}
    held = run_module(*words[:5], str(tmp_path / "held"), *words[6:], "--only", "mimic_cxr_vqa", "--local-only")
    assert held.returncode == 2 and "mimic_cxr_vqa (credentialed)" in held.stderr and not (tmp_path / "held").exists()


# Readers of others, by their own code where they are installed: locks/interop.txt has all but TRL and mlcroissant.


def counted(out: Path, name: str) -> dict[str, tuple[int, int]]:
    found = exported(out, name)
    return {build: (len(samples), sum(map(len, samples.values()))) for build, samples in found.items()}


@pytest.mark.parametrize("name", ["parquet", "hf", "trl", "llava", "sharegpt", "ms-swift", "llama-factory", "internvl"])
def test_datasets_reads_every_build(data: Path, name: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out = export(data, tmp_path / "out", name)
    for build_name, (samples, pictures) in counted(out, name).items():
        rows = datasets.load_dataset(str(out), build_name, split="train", cache_dir=str(tmp_path / "cache"))
        shown = [row.get("images", row.get("image")) or [] for row in rows]
        shown = [[one] if isinstance(one, str) else one for one in shown]
        assert (len(rows), sum(map(len, shown))) == (samples, pictures)
        if name in ("hf", "trl"):
            assert rows.features["images"] == datasets.List(datasets.Image())
            assert all(picture.size > (1, 1) for row in shown for picture in row)


def test_the_first_row_of_json_has_pictures_if_any_has(tmp_path: Path) -> None:
    """What `datasets` takes the columns from; it refuses one that comes ten megabytes later."""
    datasets = pytest.importorskip("datasets")
    texts = [{"id": str(number), "messages": "x" * 10_000} for number in range(1200)]
    shown = [{"id": f"p{number}", "messages": '"images":', "images": [f"{number}.jpg"]} for number in range(3)]
    parts = [tmp_path / "a", tmp_path / "b"]
    for part, rows in zip(parts, (texts, shown + texts[:1]), strict=True):
        part.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
    joined = tmp_path / "joined.jsonl"
    joined.write_bytes(b"".join(_lines(parts, True)))
    rows = datasets.load_dataset("json", data_files=str(joined), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["id"] for row in rows] == ["p0", *(str(n) for n in range(1200)), "p1", "p2", "0"]
    assert [row["images"] for row in rows if row["images"]] == [["0.jpg"], ["1.jpg"], ["2.jpg"]]


def test_webdataset_and_energon_read_tars(data: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    out = export(data, tmp_path / "out", "energon")
    meta = {name: yaml.safe_load((out / ".nv-meta" / name).read_bytes()) for name in (".info.yaml", "split.yaml")}
    assert list(meta[".info.yaml"]["shard_counts"]) == meta["split.yaml"]["split_parts"]["train"]
    wanted = counted(out, "energon")
    for build_name, counts in wanted.items():
        tars = [str(path) for path in sorted((out / "data" / build_name).glob("*.tar"))]
        samples = list(webdataset.WebDataset(tars, shardshuffle=False))
        assert (len(samples), sum(key[0].isdigit() for sample in samples for key in sample)) == counts
    energon = pytest.importorskip("megatron.energon")
    pictures = []

    @energon.stateless
    def cook(sample: dict[str, Any]) -> Any:
        pictures.append(sum(key[0].isdigit() for key in sample))
        return energon.TextSample(**energon.basic_sample_keys(sample), text=json.loads(sample["json"])["id"])

    class Encoder(energon.DefaultTaskEncoder):  # type: ignore[misc, name-defined]
        decoder = None
        cookers: ClassVar[list[Any]] = [energon.Cooker(cook)]

    alone = energon.WorkerConfig(rank=0, world_size=1, num_workers=0)
    loaded = energon.get_val_dataset(
        str(out), split_part="train", batch_size=None, worker_config=alone, task_encoder=Encoder()
    )
    assert len({sample.text for sample in energon.get_loader(loaded)}) == sum(count for count, _ in wanted.values())
    assert sum(pictures) == sum(count for _, count in wanted.values())


def test_mosaicml_streaming_reads_mds(data: Path, tmp_path: Path) -> None:
    streaming = pytest.importorskip("streaming")
    out = export(data, tmp_path / "out", "mds")
    for build_name, samples in exported(out, "mds").items():
        rows = streaming.StreamingDataset(
            local=str(out / "data" / build_name), batch_size=1, validate_hash="sha256", shuffle=False
        )
        assert {row["id"]: row["images"] for row in rows} == {name: b"".join(p) for name, p in samples.items()}


def test_the_collator_of_trl_takes_rows_with_and_without_pictures(data: Path, tmp_path: Path) -> None:
    trainer = pytest.importorskip("trl.trainer.sft_trainer")
    torch, datasets = pytest.importorskip("torch"), pytest.importorskip("datasets")
    out = export(data, tmp_path / "out", "trl")
    builds = [datasets.load_dataset(str(out), name, split="train", cache_dir=str(tmp_path / "cache"))
              for name in ("medreason", "pubmedvision")]  # fmt: skip

    class Processor:
        """What the collator asks of one; it is given the messages with the pictures in them."""

        def apply_chat_template(self, messages: list[Any], **options: Any) -> dict[str, Any]:
            ids = torch.ones(len(messages), 3, dtype=torch.long)
            parts = [[part for message in row for part in message["content"]] for row in messages]
            return {"input_ids": ids, "attention_mask": ids, "parts": parts}

    rows = [row for one in builds for row in one]
    batch = trainer.DataCollatorForVisionLanguageModeling(Processor())(rows)
    given = [[part["image"] for part in parts if part["type"] == "image"] for parts in batch["parts"]]
    assert given == [row["images"] for row in rows] and sum(map(len, given)) > sum(map(bool, given)) > 0
    text = export(data, tmp_path / "text", "trl", "--only", "medreason")
    assert isinstance(rows_of(text, "medreason")[0]["messages"][0]["content"], str)


@pytest.mark.parametrize("name", NAMES)
def test_mlcroissant_validates_and_reads(data: Path, name: str, tmp_path: Path) -> None:
    croissant = pytest.importorskip("mlcroissant")
    out = export(data, tmp_path / "out", name)
    dataset = croissant.Dataset(jsonld=str(out / "croissant.json"))
    assert not dataset.metadata.issues.errors
    read = [row for one in dataset.metadata.record_sets for row in dataset.records(one.uuid)]
    ids = sorted(next(value for key, value in row.items() if key.endswith("/id")).decode() for row in read)
    assert ids == ([] if name in ("energon", "mds") else sorted(s for b in exported(out, name).values() for s in b))
