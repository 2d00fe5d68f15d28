"""Which format a picture has, by its first bytes; never by its name."""

# First bytes -> Pillow's name. WebP has its size between RIFF and its name.
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"P4\n", "PPM"),
    (b"P5\n", "PPM"),
    (b"P6\n", "PPM"),
)
PICTURE_SUFFIXES = frozenset(
    "jpg jpeg jpe jfif png gif webp tif tiff bmp dib jp2 j2k jpx pbm pgm ppm pnm dcm dicom".split()
)
"""Usual suffixes of files that are read, in small letters; what decides is the bytes."""


_BMP_HEADERS = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
"""Sizes of a BMP's second header: a text may begin with `BM`, too."""


def is_dicom(data: bytes) -> bool:
    """Whether the bytes are a DICOM file (PS3.10, 7.1: `DICM` behind a preamble of 128 bytes)."""
    return data[128:132] == b"DICM"


def format_of(data: bytes) -> str | None:
    """Pillow's name of the format, or `DICOM`; None for bytes that are no picture of a format that is read."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if is_dicom(data):
        return "DICOM"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return next((name for start, name in _SIGNATURES if data.startswith(start)), None)
