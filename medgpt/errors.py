"""What a user is told when something is wrong: one base of errors, one net around every command, one table of codes.

    0  done
    1  not finished: run the same command again, and it goes on
    2  wrong usage, or an input that is not what the command needs
    3  done, but damaged rows were left out (they are listed)
    4  done, but something was not read or not compared (it is named)

4 outranks 3; 1 and 2 outrank both (`worst`). An audit or a check that found what it looks for also ends with 1.
"""

import functools
import io
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from medgpt import INTERRUPTED, TRACEBACK
from medgpt.messages import complain, safe

DONE, NOT_FINISHED, USAGE, DAMAGED, NOT_COMPARED = range(5)
EXTRAS = ("eval", "filters", "train")
"""Rooms whose libraries are an extra of the package, of the same name."""
ROOMS = frozenset(("bench", "browse", "builders", "eval", "filters", "manifests", "medgpt", "shards", "train"))
"""The packages of this project: a module of theirs that is missing is a defect, nothing to install."""


class Main(Protocol):
    """A command's entry point: words of its command line (those of the process if None) to an exit code."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command."""


class UserError(Exception):
    """Something that a user can mend, as one line: which file or row, what is wrong, what to do.

    `exit_code` is what a command returns when the error reaches its end. The text never holds report text or cells.
    """

    exit_code = USAGE


def worst(codes: Iterable[int]) -> int:
    """The exit code of several results: 2 over 1 over 4 over 3 over 0."""
    rank = (DONE, DAMAGED, NOT_COMPARED, NOT_FINISHED, USAGE)
    return max(codes, key=rank.index, default=DONE)


def one_line(error: BaseException | str) -> str:
    """An error's text on one line, without control codes; its kind where it says nothing."""
    return safe(error) or type(error).__name__


def os_error_line(error: OSError) -> str:
    """What the system would not do, on one line, with the file if it has one (a full disk names none)."""
    what = error.strerror or type(error).__name__
    return one_line(what if error.filename is None else f"{error.filename}: {what}")


def run(main: Main) -> Main:
    """Decorate a command's `main`: whatever goes wrong in it ends as one line on stderr and a documented exit code.

    `UserError` speaks for itself. An `OSError` names its file. What no one foresaw (a library's own error) is told by
    its kind and by where in this project it arose, never by its text, which may quote the data. Where a reader of
    stored files raised it, a file was damaged or altered behind the reader that checks it, and the line says so.
    """

    @functools.wraps(main)
    def command(arguments: Sequence[str] | None = None) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without UTF-8 must not stop what is done
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            code = main(arguments)
            sys.stdout.flush()
        except UserError as error:
            return _tell(one_line(error), error.exit_code)
        except KeyboardInterrupt:
            return _tell(INTERRUPTED, NOT_FINISHED)
        except BrokenPipeError:
            # The reader (`head`) has had enough. Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return NOT_FINISHED
        except OSError as error:
            return _tell(f"{os_error_line(error)}; what is done stays, mend it and run again", NOT_FINISHED)
        except MemoryError:
            return _tell("out of memory; run again with fewer --workers", NOT_FINISHED)
        except BaseException as error:
            # What Rust's libraries raise where they find themselves in the wrong is no `Exception`.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            spec = sys.modules[main.__module__].__spec__  # its name is the command's under `python -m`, too
            room = spec.name.partition(".")[0] if spec else ""
            if isinstance(error, ModuleNotFoundError) and room in EXTRAS and of_others(error):
                return _tell(f"needs {error.name}: pip install 'medgpt-oss[{room}]'", NOT_FINISHED)
            if str(error) == "Query interrupted":  # what DuckDB makes of Ctrl-C
                return _tell(INTERRUPTED, NOT_FINISHED)
            kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
            what, more = f"{kind} {place(error)}", f"{TRACEBACK}=1 shows more"
            if _from_reader(error):
                return _tell(f"{what}: a file is damaged or altered; python -m shards.verify names it; {more}", USAGE)
            return _tell(f"{what}; {more}, please report it", NOT_FINISHED)
        return code

    return command


def of_others(error: ImportError) -> bool:
    """Whether it names a package of others that could not be imported, and no module of ours."""
    return error.name is not None and error.name.partition(".")[0] not in ROOMS


def _from_reader(error: BaseException) -> bool:
    """Whether DuckDB, pyarrow (or Python, for its text that is not UTF-8) or a JSON reader did, their disk aside."""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename.partition("/")[0]
    of = type(error).__module__.partition(".")[0].removeprefix("_")
    readers = {"duckdb", "json", "msgspec", "orjson", "pyarrow"}
    return "IOException" not in type(error).__name__ and (of in readers or raised_in == "pyarrow")


def _tell(line: str, code: int) -> int:
    if os.environ.get(TRACEBACK) == "1":
        traceback.print_exc()
    complain(line)
    return code


def place(error: BaseException) -> str:
    """`at builders/slake.py:73`: the deepest line of ours or of a user's source that the error passed, else of all."""
    root = Path(__file__).parent.parent
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        home = path.parents[1] if path.parent.name == "medgpt_sources" else root
        if path.is_relative_to(home) and path.relative_to(home).parts[0] in (*ROOMS, "medgpt_sources"):
            return f"at {path.relative_to(home)}:{frame.lineno}"
    return f"at {Path(frames[-1].filename).name}:{frames[-1].lineno}"
