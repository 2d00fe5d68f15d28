"""The words of a command line, alike in all commands."""

import argparse
from typing import Literal, get_args

Frame = Literal["first", "middle", "last"]
FRAMES: tuple[Frame, ...] = get_args(Frame)
"""Which one of a picture's frames is taken."""


def command_parser(module: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser of `python -m MODULE`; its help ends with `example` as it is written."""
    return argparse.ArgumentParser(
        f"python -m {module}",
        description=description,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
