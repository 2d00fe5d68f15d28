"""The words of a command line, alike in all commands."""

import argparse


def command_parser(module: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser of `python -m MODULE`; its help ends with `example` as it is written."""
    return argparse.ArgumentParser(
        f"python -m {module}",
        description=description,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
