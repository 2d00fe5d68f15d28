"""All sources, found by presence: a module with a `SOURCE` in `builders`, or in a folder `medgpt_sources`.

`medgpt_sources` is a namespace package: any folder of that name on PYTHONPATH takes part, without an `__init__.py`. The
module is named as its source.
"""

import importlib
import importlib.util
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

from builders.engine.source import Source
from medgpt.errors import UserError, one_line

ELSEWHERE = "medgpt_sources"
_STAGES = ("pretrain", "midtrain", "instruct", "eval")
_DECLARES = re.compile(rb"^SOURCE\b", re.MULTILINE)


@cache
def modules() -> dict[str, str]:
    """Module of every source by the source's name, in the order of the names; none is imported for it."""
    found: dict[str, str] = {}
    for package in ("builders", ELSEWHERE):
        spec = importlib.util.find_spec(package)
        folders = (spec and spec.submodule_search_locations) or ()
        for folder in dict.fromkeys(Path(folder).resolve() for folder in folders):
            for path in sorted(folder.glob("*.py")):
                if _DECLARES.search(path.read_bytes()):
                    if path.stem in found:
                        raise UserError(f"{path}: there is a source {path.stem} already; give it another name")
                    found[path.stem] = f"{package}.{path.stem}"
    return dict(sorted(found.items()))


def load(name: str) -> Source:
    """The source of that name, which knows its module. Raises `KeyError` for a name that `modules` has not."""
    return source_in(modules()[name])


def source_in(module: str) -> Source:
    """The `SOURCE` of a module. Raises `UserError` if it has none, one of another name, or is a user's and broken."""
    try:
        source = getattr(importlib.import_module(module), "SOURCE", None)
    except Exception as error:
        if not module.startswith(ELSEWHERE):
            raise
        raise UserError(f"{module}: cannot be imported ({type(error).__name__}: {one_line(error)})") from error
    if not isinstance(source, Source) or (module in modules().values() and source.name != module.rpartition(".")[2]):
        raise UserError(f"{module}: its SOURCE must be a Source named {module.rpartition('.')[2]}")
    return replace(source, module=module)


def sources() -> list[Source]:
    """All sources: by stage, those with pictures first, then by name."""
    found = [load(name) for name in modules()]
    return sorted(found, key=lambda source: (_STAGES.index(source.stage), source.modality, source.name))
