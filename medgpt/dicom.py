"""A DICOM file's pixels as 8 bits, as a viewer shows them at first (DICOM PS3.3, C.7.6.3 and C.11)."""

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgpt.containers import DamagedImage
from medgpt.errors import UserError
from medgpt.limited import FILE_BYTES

MAX_INFLATED = FILE_BYTES
"""Bytes of a deflated data set: as much as any picture file may have."""
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_GROUP_LENGTH_AT = 140
"""Where a file says how long its meta information is: preamble, `DICM`, tag, VR and length of (0002,0000)."""

EXTRA = "pip install 'medgpt-oss[dicom]'"


@contextmanager
def _silent() -> Iterator[None]:
    """Errors without pydicom's texts, which quote values of attributes, and without its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UserError, ImportError, MemoryError):
        raise
    except Exception as error:
        reason = "truncated_image" if "less than expected" in str(error) else "corrupt_image"
        raise DamagedImage(reason, f"DICOM: {type(error).__name__}") from error


class DicomPicture:
    """An opened DICOM file; its pixels are decoded by `pixels` alone. Raises: `DamagedImage` alone."""

    def __init__(self, data: bytes) -> None:
        """Read its attributes."""
        try:
            import pydicom
        except ImportError as error:
            raise DamagedImage("unsupported_image", f"DICOM is read with an extra: {EXTRA}") from error
        with _silent():
            _check_inflated(data)
            self._set = pydicom.dcmread(io.BytesIO(data))
            if "PixelData" not in self._set:
                raise DamagedImage("unsupported_image", "a DICOM file without a picture")
            self.width, self.height = int(self._set.Columns), int(self._set.Rows)
            self.frames = int(self._set.get("NumberOfFrames") or 1)

    def pixels(self, frame: int) -> NDArray[np.uint8]:
        """(height, width) grey or (height, width, 3) RGB of one frame, counted from 0.

        Grey values go through the modality's rescaling, then the first VOI LUT or window, else from the lowest to the
        highest value that is no padding; MONOCHROME1 is inverted. Colours are made RGB. More than 8 bits without a
        window keep their highest 8.
        """
        with _silent():
            return self._pixels(frame)

    def _pixels(self, frame: int) -> NDArray[np.uint8]:
        from pydicom.pixels import apply_color_lut, get_decoder, pixel_array
        from pydicom.uid import UID

        syntax: UID = self._set.file_meta.TransferSyntaxUID
        try:
            usable = get_decoder(syntax).is_available
        except NotImplementedError:
            usable = False
        if not usable:
            raise DamagedImage("unsupported_image", f"DICOM transfer syntax {syntax.name}: no decoder ({EXTRA})")
        stored = pixel_array(self._set, index=frame)
        kind = self._set.PhotometricInterpretation
        if kind == "PALETTE COLOR":
            return _highest_bits(apply_color_lut(stored, self._set), 16)
        if stored.ndim == 3:
            return _highest_bits(stored, int(self._set.BitsStored))
        shown = self._windowed(stored)
        return 255 - shown if kind == "MONOCHROME1" else shown

    def _windowed(self, stored: NDArray[Any]) -> NDArray[np.uint8]:
        """Some rows at a time: as floats a whole radiograph would take a gigabyte."""
        from pydicom.pixels import apply_modality_lut, apply_voi

        step = 1 + (1 << 20) // stored.shape[1]
        parts = [stored[first : first + step] for first in range(0, len(stored), step)]
        tables = self._set.get("VOILUTSequence")
        centre, width = _first(self._set.get("WindowCenter")), _first(self._set.get("WindowWidth"))
        sigmoid: tuple[float, float] | None = None
        if tables:
            low, high = 0.0, float((1 << int(tables[0].LUTDescriptor[2])) - 1)
        elif centre is None or width is None or width <= 0:
            kept = parts
            if (padding := self._set.get("PixelPaddingValue")) is not None:
                kept = [some for part in parts if (some := part[part != padding]).size] or parts
            ends = [(float(v.min()), float(v.max())) for v in (apply_modality_lut(part, self._set) for part in kept)]
            low, high = min(ends)[0], max(high for _, high in ends)
        else:
            function = str(self._set.get("VOILUTFunction") or "LINEAR")
            if function == "SIGMOID":
                sigmoid = centre, width
            if function == "LINEAR":
                centre, width = centre - 0.5, max(width - 1, 1e-9)  # C.11.2.1.2.1: half a step less on both sides
            low, high = centre - width / 2, centre + width / 2

        def shown(part: NDArray[Any]) -> NDArray[np.uint8]:
            values = apply_modality_lut(part, self._set)
            x = (apply_voi(values, self._set) if tables else values).astype(np.float64)
            if sigmoid is not None:
                x = np.clip(-4 * (x - sigmoid[0]) / sigmoid[1], -700, 700)
                return np.asarray(np.rint(255 / (1 + np.exp(x))), np.uint8)
            return _spread(x, low, high)

        return np.concatenate([shown(part) for part in parts])


def _check_inflated(data: bytes) -> None:
    """Refuse a deflated data set (PS3.10, A.5) that grows beyond the limit; pydicom inflates whatever there is."""
    start = _GROUP_LENGTH_AT + 4 + int.from_bytes(data[_GROUP_LENGTH_AT : _GROUP_LENGTH_AT + 4], "little")
    if _DEFLATED in data[:start]:
        unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        unpack.decompress(data[start:], MAX_INFLATED)
        if unpack.unconsumed_tail:
            raise DamagedImage("image_too_large", f"DICOM: more than {MAX_INFLATED:,} bytes when inflated")


def _first(value: Any) -> float | None:
    """The first of one or several values of an attribute."""
    if value is None or isinstance(value, str):
        return None
    first = value[0] if hasattr(value, "__len__") else value
    return float(first)


def _spread(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.rint(np.clip((values - low) * (255 / (high - low)), 0, 255)).astype(np.uint8)


def _highest_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    if bits <= 8:
        return values.astype(np.uint8)
    return _spread(values.astype(np.float64), 0, (1 << bits) - 1)
