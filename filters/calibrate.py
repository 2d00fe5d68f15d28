"""Calibration of a judge: a language model answers captions that a reader has labelled, before it may drop any.

Thresholds are tried on one half of the captions; a record is judged by the others, at the recipe's thresholds
(`filters.judge_record`). Without a record the judge's scores are kept, and drop nothing.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medgpt.arguments import command_parser
from medgpt.errors import DONE, UserError, run


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "filters.calibrate",
        "Ask a language model about 948 labelled captions and write what it said, with figures on those that no "
        "threshold is fitted on, to RECORD: only with a record that passes may its verdicts drop anything. A run that "
        "was killed goes on where it was. Exit code: 0, 1 if the judge does not pass the recipe's limits or gives no "
        "answers (run it again), 2 for wrong usage.",
        "examples:\n  python -m filters.calibrate judge.json --endpoint http://127.0.0.1:8000/v1 --model my-model\n"
        "  python -m filters.run data --endpoint http://127.0.0.1:8000/v1 --model my-model "
        "--set language_model.calibration=judge.json",
    )
    add = parser.add_argument
    add("record", type=Path, metavar="RECORD", help="file to write")
    add("--endpoint", metavar="URL", required=True, help="OpenAI-compatible endpoint")
    add("--model", metavar="NAME", required=True, help="model at the endpoint")
    add("--recipe", metavar="FILE", help="whose thresholds and limits; or a name (default medgpt_oss)")
    add("--verdicts", type=Path, metavar="DIR", help="cache of its verdicts (default RECORD.verdicts)")
    add("--set", action="append", default=[], metavar="language_model.OPTION=VALUE", help="as for filters.run")
    add("--json", action="store_true", help="print the figures as JSON, no progress bar")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0 if the judge passes, 1 if not or if it gives no answers, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    from filters import judge_record
    from filters.base import FilterError
    from filters.expressions import parse
    from filters.language_model import LanguageModel
    from filters.recipe import DROP
    from filters.run import filter_options
    from medgpt.atomic import write_atomic
    from medgpt.settings import checked

    options.verdicts = options.verdicts or options.record.with_name(f"{options.record.name}.verdicts")
    given = filter_options(options)
    if strange := given.keys() - {LanguageModel.name}:
        raise UserError(f"--set {sorted(strange)[0]}: only options of language_model shape a judge")
    rule = _rule(options.recipe)
    settings = {**rule.options, **given[LanguageModel.name]}
    judge = LanguageModel(**settings)
    try:
        scores = judge_record.ask(judge)
    finally:
        judge.close()
    drop = parse(rule.drop, judge.name, {judge.name: frozenset(judge.scores)})
    found = judge_record.held_figures(scores, drop, judge.name, rule.not_scored == DROP)
    figures, judged = judge_record.report(scores, found), LanguageModel.judge(settings)
    record = judge_record.CalibrationRecord(judge_record.FORMAT, judged, judge_record.label_digests(), scores, figures)
    write_atomic(options.record, record.json())
    print(json.dumps(figures) if options.json else "\n".join(_lines(one, figures[one.flag]) for one in found))
    try:
        limits = checked(judge_record.Limits, settings.get("limits", {}), "limits")
        judge_record.require_limits(found, limits, f"{options.model}: this judge")
    except UserError as error:
        raise FilterError(str(error)) from error
    print(f"passes: --set language_model.calibration={options.record}", file=sys.stderr if options.json else sys.stdout)
    return DONE


def _rule(recipe: str | None) -> Any:
    """The one rule that a recipe has for judges. Raises: `UserError` (it has none, or several)."""
    from filters.language_model import LanguageModel
    from filters.recipe import DEFAULT_RECIPE, load_recipe

    sources = load_recipe(recipe or DEFAULT_RECIPE).sources.values()
    rules = [rule for source in sources if (rule := source.filters.get(LanguageModel.name))]
    if not rules or rules[0].drop is None or any(other != rules[0] for other in rules):
        raise UserError("the recipe's sources have no rule of language_model with drop, or several that differ")
    return rules[0]


def _lines(found: Any, shown: dict[str, Any]) -> str:
    """What the judge found of a flag in the held half, alone and beside the rules."""
    left = "of {captions} they leave over, {to_drop} to drop: {found} found, {wrong} wrong"
    rules = "  as the rules say in {} of {}; ".format(*shown["as_the_rules_say"])
    rules += left.format(**shown["left_over_by_rules"])
    best = f"  best on the fitting half: {found.flag} >= {shown['fitted']['held']['threshold']:g}"
    return f"{found.line()}\n{rules}\n{best}"


if __name__ == "__main__":
    sys.exit(main())
