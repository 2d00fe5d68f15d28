"""Values of a row of a corpus made elsewhere, one by one: pictures in every encoding in use, and what text there is.

This is the other side of `corpus_samples`, which takes what the mapping names: here every value is looked at, so that
what was not taken can be named.
"""

import ast
import base64
import binascii
import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from builders.engine.tables import every_key
from medgpt.formats import PICTURE_SUFFIXES, format_of
from medgpt.limited import OverLimit, check_values

TEXT_WORDS = 5
"""A value of so many words is a text; of fewer a label, a name, a code."""
TOKENS = 20
"""Numbers in a row that may be a text's tokens, and short texts in a row that may be a text cut up."""
_NO_LABEL = 100
"""What stands for a token that is not learnt is -100."""
_LETTERS = re.compile(r"[^\W\d_]{12,}|(?:[\u3040-\u30ff\u3400-\u9fff][^\u3040-\u30ff\u3400-\u9fff]*){12}")
"""Letters in a row, or as many ideographs and kana whatever stands between them."""
_PACKED_CHARACTERS = 60
"""A picture that is spelt as text takes more."""
_BASE64 = re.compile(r"(?:data:[\w/+.;=-]*;base64,)?\s*([A-Za-z0-9+/_\-\s]+=*\s*)")
_DATA_URL = re.compile(r"data:[\w/+.;=-]*;base64,[A-Za-z0-9+/_=-]+")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_PRINTED_CHARACTERS = 1 << 16
"""A list or an object that Python printed is read up to this length: its parser takes a hundred bytes a character."""
_QUOTED = r"""(?:'(?:[^'\\]++|\\.)*+'|"(?:[^"\\]++|\\.)*+")"""
_PATH = rf"'path': (?:None|{_QUOTED})"
_PRINTED = re.compile(rf"(?:\{{(?:{_PATH}, )?'bytes': )?(b?{_QUOTED})(?:, {_PATH})?\}}?", re.DOTALL)
"""Bytes as Python prints them, and a cell of a picture column. No more is parsed: a list that Python parses takes
a hundred times its size."""
_PIECES = re.compile(r"@@(?=\s)|(?<=\s)##(?=\w)|[\u2581\u0120](?=\w)")
"""How tokenizers mark pieces of words: subword-nmt and BERT inside of a word, SentencePiece and GPT-2 before one."""
_LEAST_PIECES, _WORDS_A_PIECE = 5, 10
_TAGGED = re.compile(r"^[^\s\d]+\t\S+(?:\t\S+)*$", re.MULTILINE)
"""A word with its tags, as CoNLL's files have them."""
_FILE = re.compile(r"\.\w{2,5}$")
_HEAD = 400
"""Characters that are decoded to see whether it is a picture: DICOM says so behind its 128th byte."""
_SMALLEST_SIDE = 8


def extension(name: str) -> str:
    """What stands behind the last dot, in small letters."""
    return name.rpartition(".")[2].lower()


def leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(field, value) of all values in their order, nested ones by their path; a list has no numbers in it.

    A picture, a list of numbers and an object with `bytes` are one value. Text that is JSON is looked into, and so is a
    name that is a text itself, as a question in `{question: answer}` is.
    """
    stack = _named(values, "")
    while stack:
        name, value = stack.pop()
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            value = parsed(value)
        if isinstance(value, dict) and value and "bytes" not in value and not _is_raster(value):
            stack += _named(value, f"{name}.")
        elif isinstance(value, list | tuple) and value and not _is_numbers(value):
            stack.extend((name, inner) for inner in reversed(value))
        else:
            yield name, value


def _named(values: Mapping[Any, Any], above: str) -> list[tuple[str, Any]]:
    """Fields and values of an object, last first; a name that is a text is a value, too."""
    texts = [(f"{above}{key}", key) for key in values if is_text(key)]
    return [*texts, *((f"{above}{key}", inner) for key, inner in list(values.items())[::-1])]


def parsed(text: str) -> Any:
    """The value of a text that is JSON, or a list or an object as Python prints it; else the text."""
    try:
        check_values(text)
        return json.loads(text, object_pairs_hook=every_key)
    except OverLimit:
        return text
    except (ValueError, RecursionError):
        pass
    if len(text) < _PRINTED_CHARACTERS and text.lstrip()[:1] in ("[", "{"):
        errors = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
        with suppress(*errors), warnings.catch_warnings(action="ignore"):  # of unusual escapes
            found = ast.literal_eval(text.strip())
            return found if isinstance(found, list | dict) else text
    return text


def is_tokens(value: Any) -> bool:
    """Whether a list holds what a tokenizer makes of a text: many whole numbers, some beyond a byte."""
    if not isinstance(value, list | tuple) or len(value) < TOKENS or not all(type(one) is int for one in value):
        return False
    return bool(min(value) >= -_NO_LABEL and max(value) > 255)


def is_text(value: Any) -> bool:
    """Whether a value holds prose: five words, or as much in a script without spaces."""
    if not isinstance(value, str):
        return False
    return len(value.split(None, TEXT_WORDS)) >= TEXT_WORDS or (not value.isascii() and bool(_LETTERS.search(value)))


def name_as_text(name: str) -> str:
    """The name of a file or a table where it is a text itself, as a question may be; else nothing."""
    words = name.replace("_", " ").replace("-", " ").split()
    return name.replace("_", " ") if sum(word[:1].isalpha() for word in words) >= TEXT_WORDS else ""


def disguise(value: str) -> str | None:
    """Why words of a text are not those that a reader would see; None where they are."""
    if len(_PIECES.findall(value)) >= max(_LEAST_PIECES, len(value.split()) / _WORDS_A_PIECE):
        return "words in pieces, as a tokenizer makes of a text"
    if "\t" in value and len(_TAGGED.findall(value)) >= max(TOKENS, value.count("\n") / 2):
        return "a word with its tags on each line"
    if len(value) < _PACKED_CHARACTERS or " " in value or is_link(value):
        return None
    coded, digits = _BASE64.fullmatch(value), value.removeprefix("0x").removeprefix("\\x")
    meant = [as_text(_base64(coded[1]) or b"")] if coded else []
    meant += [as_text(bytes.fromhex(digits))] if _HEX.fullmatch(digits) else []
    meant += [unquote(value)] if "%20" in value and not _FILE.search(value) else []
    return "a text in base64, hexadecimal or signs of an address" if any(map(is_text, meant)) else None


def as_text(value: bytes) -> str | None:
    """Bytes as text; None where they are none."""
    try:
        return None if b"\0" in value else value.decode()
    except UnicodeDecodeError:
        return None


def is_link(value: str) -> bool:
    """Whether a text is the address of something elsewhere; it is never fetched."""
    return "://" in value[:12] and len(value.split(None, 1)) == 1


def is_picture_name(value: str) -> bool:
    """Whether a text is the name or the address of a picture file."""
    path = urlsplit(value).path if is_link(value) else value
    return len(value) < 1000 and "\n" not in value and "." in path and extension(path) in PICTURE_SUFFIXES


def picture_of(value: Any) -> bytes | None:
    """The picture that a value is, by its bytes; None where it is none.

    As bytes, {bytes, path}, base64 (with `data:` or without), hexadecimal, the bytes as Python prints them, a list of
    bytes, rows of numbers (then as PNG; other numbers than 0 to 255 by their own range), or {mode, size, data}.
    """
    if isinstance(value, str):
        return _spelt_picture(value) if len(value) >= _PACKED_CHARACTERS else None
    if isinstance(value, bytes):
        if format_of(value):
            return value
        text = as_text(value[:_HEAD]) if len(value) >= _PACKED_CHARACTERS else None
        return picture_of(value.decode("ascii", "replace")) if text else None
    if isinstance(value, dict):
        return picture_of(value["bytes"]) if value.get("bytes") is not None else _raster(value)
    if isinstance(value, list | tuple) and _is_numbers(value):
        return _number_picture(value)
    return None


def pictures_within(text: str) -> list[bytes]:
    """Pictures that stand in a text of HTML or Markdown as `data:` addresses."""
    return [found for spelt in _DATA_URL.findall(text) if (found := picture_of(spelt))] if "data:" in text else []


def _spelt_picture(text: str) -> bytes | None:
    head = text[:_HEAD]
    if head.startswith(("b'", 'b"', "{'bytes': b", "{'path': ")):
        try:
            return picture_of(ast.literal_eval(printed[1])) if (printed := _PRINTED.fullmatch(text)) else None
        except (ValueError, SyntaxError):
            return None
    if " " in head[:_PACKED_CHARACTERS]:  # as in any prose
        return None
    digits = text.removeprefix("0x").removeprefix("\\x")
    if _HEX.fullmatch(digits[:_HEAD]) and format_of(bytes.fromhex(digits[:_HEAD])):
        return bytes.fromhex(digits) if _HEX.fullmatch(digits) else None
    if (found := _BASE64.fullmatch(head)) and format_of(_base64(found[1]) or b""):
        whole = _BASE64.fullmatch(text)
        return _base64(whole[1]) if whole else None
    return None


def _base64(text: str) -> bytes | None:
    """What base64, or its form for URLs, spells; characters at the end that make no byte are left out."""
    digits = "".join(text.split()).rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
    digits = digits[: len(digits) - (len(digits) % 4 == 1)]
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4))
    except binascii.Error:
        return None


def _is_numbers(value: Any) -> bool:
    """Whether a list holds numbers, or lists of them, to any depth: told by its first."""
    depth = 0
    while isinstance(value, list | tuple) and value and depth < 5:
        value, depth = value[0], depth + 1
    return depth > 0 and isinstance(value, int | float) and not isinstance(value, bool)


def is_grid(value: Any) -> bool:
    """Whether a list holds rows of numbers, as many and as long as those of a picture or a volume."""
    sides = list[int]()
    while isinstance(value, list | tuple) and value and len(sides) < 5:
        sides.append(len(value))
        value = value[0]
    return len(sides) > 1 and sorted(sides)[-2] >= _SMALLEST_SIDE and isinstance(value, int | float)


def _number_picture(value: Any) -> bytes | None:
    import numpy as np

    first = value[0]
    if not isinstance(first, list | tuple):
        try:
            return bytes(value) if len(value) >= _PACKED_CHARACTERS and format_of(bytes(value[:_HEAD])) else None
        except (TypeError, ValueError):  # not integers from 0 to 255
            return None
    try:
        array = np.asarray(value)
    except ValueError:  # rows of differing lengths
        return None
    shape = array.shape
    if len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or min(array.shape[:2]) < _SMALLEST_SIDE:
        return None
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return None
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" or low < 0 or high > 255:  # another depth, or normalised: its own range becomes ours
        array = np.rint((array - float(low)) * (255 / max(float(high) - float(low), 1e-9)))
    return as_png(array.astype(np.uint8))


def as_png(array: Any) -> bytes:
    """A NumPy array of bytes, (height, width) or (height, width, 3 or 4), as PNG."""
    from PIL import Image

    return _png(Image.fromarray(array))


def _png(picture: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _is_raster(value: Mapping[str, Any]) -> bool:
    return {"mode", "size", "data"} <= value.keys()


def _raster(value: Mapping[str, Any]) -> bytes | None:
    """A picture as Pillow's `mode`, `size` and `tobytes()`, these as bytes or base64."""
    if not _is_raster(value):
        return None
    from PIL import Image

    from medgpt.containers import DamagedImage, check_pixels

    data = (value["data"] if isinstance(value["data"], bytes) else _base64(str(value["data"]))) or b""
    try:
        width, height = value["size"]
        check_pixels(width, height)
        return _png(Image.frombytes(value["mode"], (width, height), data))
    except (ValueError, TypeError, KeyError, OSError, DamagedImage):
        return None
