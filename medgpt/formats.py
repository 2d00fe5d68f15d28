"""Which format a picture has, by its first bytes; never by its name."""

# Pillow's name -> first bytes. WebP and AVIF have their sizes in front of their names.
_SIGNATURES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    "JPEG2000": (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),
    "PPM": tuple(b"P%d\n" % number for number in range(1, 7)),
}
PICTURE_SUFFIXES = frozenset(
    "jpg jpeg jpe jfif png gif webp avif tif tiff bmp dib jp2 j2k jpx pbm pgm ppm pnm dcm dicom".split()
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
    if data[4:12] == b"ftypavif":
        return "AVIF"
    if is_dicom(data):
        return "DICOM"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return next((name for name, starts in _SIGNATURES.items() if data.startswith(starts)), None)
