from dataclasses import dataclass

from medgpt.strip import DamagedImage, strip_metadata


@dataclass(frozen=True)
class Container:
    data: bytes
    format: str
    orientation: int
    width: int
    height: int
    bit_depth: int
    channels: int
    transparent: bool
    frames: int


def repack(data):
    import io

    from PIL import Image

    s = strip_metadata(data)
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as im:
            ch = len(im.getbands())
            tr = "transparency" in im.info or im.mode in ("LA", "RGBA")
            w, h = im.size
    except Exception as e:
        raise DamagedImage("corrupt_image", str(e)) from e
    return Container(s.data, s.format, s.orientation, w, h, s.bit_depth, ch, tr, s.frames)
