"""MedQuAD: question-answer pairs from twelve NIH collections, one XML file a web page.

The README counts 47,457 pairs; 47,441 of them are `<QAPair>` elements and 16 are lower-case `<pair>` (four NINDS files
with root `<doc>`); one CDC file has root `<DiseaseFile>`. The publisher removed the answers of the three MedlinePlus
collections for copyright, so 31,034 pairs have none. Question ids repeat across collections.
"""

import re
import tarfile
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

from builders import kit

_FOLDERS = (
    "1_CancerGov_QA",
    "2_GARD_QA",
    "3_GHR_QA",
    "4_MPlus_Health_Topics_QA",
    "5_NIDDK_QA",
    "6_NINDS_QA",
    "7_SeniorHealth_QA",
    "8_NHLBI_QA_XML",
    "9_CDC_QA",
    "10_MPlus_ADAM_QA",
    "11_MPlusDrugs_QA",
    "12_MPlusHerbsSupplements_QA",
)
_ROOT_TAGS = frozenset({"Document", "doc", "DiseaseFile"})
_PAIR_TAGS = frozenset({"qapair", "pair"})
_MEMBER = re.compile(rf"(?:\./)?(?:[^/]+/)?({'|'.join(_FOLDERS)})/([^./][^/]*\.(?i:xml))")
_XML = "[!.]*.[xX][mM][lL]"
"""The same in a folder of a collection."""
_MAX_ARCHIVE_BYTES = 1 << 29
"""Unpacked size at which an archive is refused; the real one holds 36 MB of XML."""


def _locate(raw: Path) -> tuple[str, list[str]]:
    """Where the collections are, relative to `raw` (a folder or an archive), and which of them are there."""
    for folder in (raw, *sorted(path for path in raw.iterdir() if path.is_dir())):
        if found := [name for name in _FOLDERS if (folder / name).is_dir()]:
            return kit.relative(folder, raw), found
    for archive in sorted(path for pattern in ("*.zip", "*.tar.gz", "*.tgz") for path in raw.glob(pattern)):
        files = _archive_files(archive)
        if found := [name for name in _FOLDERS if name in files]:
            return kit.relative(archive, raw), found
    raise kit.NotThisSource(
        f"{raw}: no MedQuAD collection found (looked for folders such as {_FOLDERS[0]} here, one level down, and in "
        "*.zip, *.tar.gz, *.tgz); is --raw the right folder?"
    )


def _documents(raw: Path, place: str, folder: str) -> Iterator[tuple[str, list[ET.Element] | kit.InputError]]:
    """Files of one collection by name, as `folder/name` whatever holds them, with their pairs or what is wrong."""
    if (raw / place).is_dir():
        paths = (raw / place / folder).glob(_XML)
        files = {path.name: partial(kit.read_bytes, path, raw, "unreadable_file") for path in paths}
    else:
        files = {name: partial(bytes, data) for name, data in _archive_files(raw / place).get(folder, {}).items()}
    for name in sorted(files):
        file = f"{folder}/{name}"
        try:
            yield file, _pairs(files[name](), file)
        except kit.InputError as error:
            yield file, error


def _pairs(data: bytes, file: str) -> list[ET.Element]:
    """Question-answer elements of one document, in any of the publisher's three shapes; six real files have none."""
    text = kit.decode_utf8(data, file)
    if "<!ENTITY" in text:
        raise kit.InputError("bad_xml", file, "declares entities")  # what makes parsing untrusted XML unsafe
    try:
        root = ET.fromstring(text)  # noqa: S314 - no entities; expat does not fetch anything
    except ET.ParseError as error:
        raise kit.InputError("bad_xml", file, str(error)) from None
    kit.demand(root.tag in _ROOT_TAGS, "bad_xml", file, "not a MedQuAD document")
    return [element for element in root.iter() if element.tag.lower() in _PAIR_TAGS]


@lru_cache(maxsize=1)
def _archive_files(path: Path) -> dict[str, dict[str, bytes]]:
    """XML of an archive by folder and name, read in place: the units share one pass over the compressed stream."""
    files: dict[str, dict[str, bytes]] = {}
    total = 0
    try:
        for name, size, read in _zip_members(path) if path.suffix == ".zip" else _tar_members(path):
            if not kit.safe_member(name):
                raise kit.NotThisSource(
                    f"{path.name}: a member points outside the archive; fetch it from the publisher"
                )
            if match := _MEMBER.fullmatch(name):
                total += size
                if total > _MAX_ARCHIVE_BYTES:
                    raise kit.NotThisSource(f"{path.name}: unpacks to over {_MAX_ARCHIVE_BYTES >> 20} MiB; not MedQuAD")
                files.setdefault(match[1], {})[match[2]] = read()
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, kit.InputError) as error:
        raise kit.NotThisSource(f"{path.name}: not a readable archive ({error}); fetch it again") from None
    return files


def _zip_members(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, info.file_size, partial(kit.read_zip_member, path, info.filename, path.parent)


def _tar_members(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    with tarfile.open(path, "r:gz", tarinfo=kit.StrictHeader) as archive:
        for info in archive:
            if info.isdir():
                continue
            content = archive.extractfile(info) if info.isfile() else None
            if content is None:
                raise kit.NotThisSource(f"{path.name}: holds links or devices; fetch it from the publisher")
            yield info.name, info.size, content.read


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    place, folders = _locate(raw)
    for folder in folders:
        rows = sum(
            1 if isinstance(pairs, kit.InputError) else len(pairs) for _, pairs in _documents(raw, place, folder)
        )
        inputs = [place]
        if (raw / place).is_dir():
            inputs = sorted(kit.relative(path, raw) for path in (raw / place / folder).glob(_XML))
        name = f"train-{_FOLDERS.index(folder):05d}"
        yield kit.Unit(name, "train", "train", rows, {"place": place, "folder": folder}, tuple(inputs))


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    for file, pairs in _documents(raw, unit.payload["place"], unit.payload["folder"]):
        if isinstance(pairs, kit.InputError):
            yield kit.Reject(file, "file", pairs.reason, pairs.detail)
            continue
        for position, pair in enumerate(pairs):
            row = pair.get("pid") or f"#{position}"
            yield kit.outcome(partial(_sample, pair, row, file), file, row)


def _sample(pair: ET.Element, row: str, file: str) -> kit.Sample:
    children = {child.tag.lower(): child for child in pair}
    for name, present in (
        ("pid", "pid" in pair.attrib),
        ("Question", "question" in children),
        ("Answer", "answer" in children),
        ("qid", "question" in children and "qid" in children["question"].attrib),
    ):
        kit.demand(present, "missing_field", file, name)
    kit.demand(pair.attrib["pid"].isdecimal(), "bad_id", file, "pid is not a number")
    question, answer = ("".join(children[name].itertext()).strip() for name in ("question", "answer"))
    document = file.removesuffix(".xml")
    group = {"question_id": f"medquad/{document}/{children['question'].attrib['qid']}"}
    return kit.question_answer(kit.Row(file, row, {}), question, answer, key=f"{document}/{row}", group=group)


SOURCE = kit.Source(
    name="medquad",
    title="MedQuAD: consumer health questions and answers from twelve NIH collections",
    homepage="https://github.com/abachaa/MedQuAD",
    revision="abachaa/MedQuAD@577bd37b96c0",
    layouts=(kit.Layout("XML in twelve folders", "rows", "abachaa/MedQuAD@577bd37"),),
    license="CC-BY-4.0",
    access="open",
    task="qa",
    splits={"train": "train"},
    obtain="""
  git clone https://github.com/abachaa/MedQuAD
--raw is the checkout, a folder that holds it, or a folder with it as one .zip or .tar.gz (read in place):
  1_CancerGov_QA/*.xml ... 12_MPlusHerbsSupplements_QA/*.xml
Collections that are absent are left out.""",
    plan=_plan,
    read=_read,
    published=lambda params: {"train": 47_457},
    paper=(
        "train 47,441: the QAPair elements, 65 % of them without an answer. Of all 47,457 pairs (16 are spelled pair) "
        "we keep the 16,423 that have one."
    ),
    paper_rows=kit.paper_row("MedQuAD", "IT", 47_441, "counts 31,034 pairs without an answer; 16,423 have one"),
)

if __name__ == "__main__":
    kit.run(SOURCE)
