"""Reading publishers' files: every failure becomes one `InputError` that names the file, never its content."""

from __future__ import annotations

import json
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from builders.source import InputError, NotThisSource


def first_existing(raw: Path, *candidates: str) -> Path | None:
    """The first of `candidates` (paths relative to `raw`, `*` allowed) that exists, in their order."""
    for candidate in candidates:
        for path in sorted(raw.glob(candidate)):
            return path
    return None


def require(raw: Path, what: str, *candidates: str) -> Path:
    """Like `first_existing`, but a missing file means that the tree is not this source."""
    path = first_existing(raw, *candidates)
    if path is None:
        raise NotThisSource(f"{raw}: no {what} found (looked for {', '.join(candidates)}); is --raw the right folder?")
    return path


def relative(path: Path, raw: Path) -> str:
    """Path as messages and provenance show it: relative to the raw tree, with forward slashes."""
    return path.relative_to(raw).as_posix()


def read_bytes(path: Path, raw: Path, missing: str = "missing_image") -> bytes:
    """Bytes of a file; a missing or empty one is an `InputError` with the given reason or `empty_file`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(missing, relative(path, raw)) from None
    if not data:
        raise InputError("empty_file", relative(path, raw))
    return data


def decode_utf8(data: bytes, file: str) -> str:
    """Text of a file that must be UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("not_utf8", file, f"byte {error.start}") from None


@lru_cache(maxsize=8)
def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip kept open for this process: its member list is read once."""
    return zipfile.ZipFile(path)


def read_zip_member(path: Path, member: str, raw: Path, missing: str = "missing_image") -> bytes:
    """Bytes of one zip member, without unpacking the archive."""
    file = f"{relative(path, raw)}!{member}"
    try:
        data = open_zip(path).read(member)
    except KeyError:
        raise InputError(missing, file) from None
    except zipfile.BadZipFile as error:
        raise InputError("bad_row", file, str(error)) from None
    if not data:
        raise InputError("empty_file", file)
    return data


def load_json(path: Path, raw: Path) -> Any:
    """A JSON file that the whole source rests on: an unreadable one stops the build with a clear line."""
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise NotThisSource(f"{relative(path, raw)}: not valid JSON ({error}); fetch the file again") from None
