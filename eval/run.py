"""Ask a model the questions of benchmarks and keep every answer; scoring is a step of its own (`python -m eval.score`).

    OUT/run.json                 who was asked: adapter, model card, decoding; one model a folder
    OUT/<task>/task.json         what was asked: declaration, digest of the build, counts
    OUT/<task>/items.jsonl       one line a question: options, gold, cluster, prompt digest
    OUT/<task>/prompts.jsonl     the same questions as they were asked, with digests of their pictures
    OUT/<task>/answers.jsonl     answers as they came, appended; a killed run goes on from here
    OUT/<task>/predictions.jsonl the same in the order of the items, written at the end or where the run stops
    OUT/<task>/samples.jsonl     with --samples K: all K answers to each item; predictions hold the first
    OUT/<task>/usage.jsonl       time, tokens and, with prices, cost of each answer

Run the same command again and it goes on: no answered question is asked twice.
"""

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import orjson

from eval.adapters.base import ANSWERED, Adapter, Answer, Request, prompt_digest
from eval.adapters.choose import add_options, model_adapter
from eval.answers import ANSWERS, AnswerLog
from eval.cards import GREEDY_BELOW, Card, load_card
from eval.contamination import Proof, read_proof
from eval.records import (
    ITEMS,
    PREDICTIONS,
    PROMPTS,
    SAMPLES,
    TASK,
    USAGE,
    Item,
    Prediction,
    Prompt,
    Usage,
    read_object,
    usage_line,
    usage_totals,
)
from eval.tasks import (
    Benchmark,
    Question,
    add_closing,
    built_tasks,
    load_task_file,
    open_benchmarks,
    select_tasks,
)
from manifests.proof.trust import Trust
from medgpt import errors
from medgpt.arguments import command_parser
from medgpt.atomic import AtomicFile, write_atomic
from medgpt.errors import UserError
from medgpt.libraries import LIBRARIES, libraries_apart
from medgpt.messages import complain
from medgpt.private import CREDENTIALED, make_folder
from shards.options import add_trust_options

EXIT_UNANSWERED = 3
"""Everything was asked, but some questions have no answer (refused, no completion, too many pictures)."""

_EXAMPLE = """
examples:
  python -m eval.run data --tasks table5 --model medgemma_27b --endpoint http://127.0.0.1:8000/v1 --out runs/medgemma
  python -m eval.run data --tasks all --model medgpt_oss_ours --checkpoint checkpoints/instruct --out runs/ours
  python -m eval.run data --tasks slake slake:paper --baseline majority --out runs/majority
"""


@dataclass
class TaskRun:
    """What became of one task."""

    label: str
    items: int
    expected: int | None
    known: int
    """Answered by an earlier run."""
    outcomes: Counter[str]
    truncated: int
    """Cut at the limit of new tokens."""
    complete: bool
    draws: int
    """Answers to each question."""
    usage: dict[str, float]
    """Totals (`eval.records.usage_totals`)."""


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost, in a currency of the user's own."""

    prompt: float
    completion: float

    def cost(self, answer: Answer) -> float:
        """Of one answer; one from `--answer-cache` is paid."""
        if answer.cached:
            return 0.0
        return (answer.prompt_tokens * self.prompt + answer.completion_tokens * self.completion) / 1e6


@dataclass
class _Open:
    """A task while it is being run."""

    benchmark: Benchmark
    folder: Path
    log: AnswerLog
    prompts: dict[str, str]
    """Prompt digest by sample id, in the order of the build."""
    limit: int
    draws: int
    """Answers to each question."""
    known: int

    def wanted(self) -> Iterator[tuple[str, int]]:
        """(sample id, draw) of every answer that is wanted, in order."""
        return ((sample_id, draw) for sample_id in self.prompts for draw in range(self.draws))


def run(
    benchmarks: Sequence[Benchmark],
    adapter: Adapter,
    out: Path,
    *,
    card: Card | None = None,
    proof: Proof | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    ask_again: bool = False,
    progress: bool = True,
    credentialed_prompts: bool = False,
    samples: int = 1,
    prices: Prices | None = None,
) -> list[TaskRun]:
    """Ask every question that has no answer yet; returns what became of each task, in order.

    `card` adds its system text and prompt suffix; `proof` is that of the builds, if there is one.
    `limit` asks the first so many questions of each task. `max_new_tokens` overrides the card's and the task's limit.
    `ask_again` asks once more where there was an outcome without an answer. `credentialed_prompts` keeps the text of
    credentialed questions beside their answers, too. `samples` is how many answers each question gets, reports but one.
    Raises: `UserError`, `AnswerError`, `AdapterError`, `EndpointRefused`.
    """
    adapter.prepare({benchmark.source: benchmark.access for benchmark in benchmarks})
    try:
        make_folder(out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); choose another folder") from error
    _claim(out, adapter)
    opened: list[_Open] = []
    try:
        for benchmark in benchmarks:
            kept = _open(
                benchmark, out, card, proof, limit, max_new_tokens, ask_again, progress, credentialed_prompts, samples
            )
            opened.append(kept)
        try:
            _ask(opened, adapter, card, ask_again, progress)
        finally:  # of a run that stops here, too: eval.score --missing-as-wrong
            done = [_finish(task, prices) for task in opened]
        return done
    finally:
        for task in opened:
            task.log.close()


def _claim(out: Path, adapter: Adapter) -> None:
    """Write who is asked, or check that it is the same one as before. Raises: `UserError`."""
    path = out / "run.json"
    identity = adapter.identity()
    if not path.is_file():
        write_atomic(path, orjson.dumps(identity, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
        return
    try:
        found = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}); choose another --out") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: not the record of a run; choose another --out")
    if found != orjson.loads(orjson.dumps(identity)):
        odd = [key for key in sorted({*found, *identity}) if found.get(key) != identity.get(key)]
        raise UserError(
            f"{out}: holds answers of another model or other decoding (run.json differs in {', '.join(odd)}); "
            "choose another --out"
        )


def _open(
    benchmark: Benchmark,
    out: Path,
    card: Card | None,
    proof: Proof | None,
    limit: int | None,
    max_new_tokens: int | None,
    ask_again: bool,
    progress: bool,
    credentialed_prompts: bool,
    samples: int,
) -> _Open:
    """Write what is asked, check what was answered. Raises: `UserError`, `AnswerError`."""
    from tqdm import tqdm

    from medgpt.pictures import picture_size

    task = benchmark.task
    folder = out / task.label.replace(":", ".")
    make_folder(folder)
    tokens = max_new_tokens or (card.decoding.max_new_tokens if card else None) or task.max_new_tokens
    if (folder / TASK).is_file() and (folder / ANSWERS).is_file() and (folder / ANSWERS).stat().st_size:
        before = read_object(folder / TASK, "max_new_tokens")["max_new_tokens"]
        if before != tokens:
            raise UserError(
                f"{folder}: answered with at most {before} new tokens, not {tokens}; give --max-new-tokens {before}, "
                "or choose another --out"
            )
    prompts: dict[str, str] = {}
    limit_pixels = card.pixel_limit if card else None
    larger: list[str] = []
    with AtomicFile(folder / ITEMS) as file, AtomicFile(folder / PROMPTS) as asked:
        label = f"{task.label}: items"
        bar = tqdm(benchmark, desc=label, unit=" items", disable=not progress or None, dynamic_ncols=True)
        for number, question in enumerate(bar):
            if limit is not None and number >= limit:
                break
            turns = _messages(question.messages, card)
            pictures = tuple(hashlib.sha256(image).hexdigest() for image in question.images)
            digest = prompt_digest(turns, pictures)
            shown = turns if credentialed_prompts or question.access != CREDENTIALED else None
            if limit_pixels is not None:
                larger += [question.sample_id for image in question.images if prod(picture_size(image)) > limit_pixels]
            prompt = Prompt(task.name, task.variant, question.sample_id, shown, pictures)
            asked.write(msgspec.json.encode(prompt) + b"\n")
            prompts[question.sample_id] = digest
            file.write(msgspec.json.encode(item_of(benchmark, question, tokens, digest)) + b"\n")
        if not prompts:
            raise UserError(f"{benchmark.folder}: no item of task {task.label}; is it the right build?")
    if card and larger:
        complain(
            f"{task.label}: {len(larger):,} pictures have more than the {limit_pixels:,} pixels that {card.name} sees; "
            f"its own processor scales them down (task.json names them; the first is of {larger[0]})"
        )
    log = AnswerLog(folder / ANSWERS)
    if log.torn:
        complain(f"{log.path}: a torn last line was dropped; its question is asked again")
    for sample_id, draw in log:
        known = log.get(sample_id, draw)
        if sample_id in prompts and known is not None and known[0] != prompts[sample_id]:
            log.close()
            raise UserError(
                f"{log.path}: {sample_id} was answered to another prompt or of another benchmark version; "
                "choose another --out, or move this folder away"
            )
    task_open = _Open(benchmark, folder, log, prompts, tokens, samples if task.kind == "choice" else 1, 0)
    settled = [known[1].outcome for key in task_open.wanted() if (known := log.get(*key)) is not None]
    task_open.known = sum(outcome == ANSWERED or not ask_again for outcome in settled)
    record = task_record(benchmark, proof, len(prompts), limit, tokens)
    record |= {"samples": task_open.draws, "items_sha256": file.sha256.hex()}
    if limit_pixels is not None:
        items = list(dict.fromkeys(larger))
        record["scaled_down"] = {"above_pixels": limit_pixels, "pictures": len(larger), "items": items}
    write_atomic(folder / TASK, orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
    return task_open


def task_record(
    benchmark: Benchmark, proof: Proof | None, items: int, limit: int | None, max_new_tokens: int
) -> dict[str, Any]:
    """`task.json`: the declaration and what it was asked of."""
    return {
        "task": msgspec.to_builtins(benchmark.task),
        "task_sha256": benchmark.task.digest,
        "build": benchmark.build,
        "build_root": benchmark.root,
        "source": benchmark.source,
        "access": benchmark.access,
        "certificate": proof.root if proof and proof.covers(benchmark.root) else None,
        "items": items,
        "limit": limit,
        "max_new_tokens": max_new_tokens,
    }


def _messages(messages: list[dict[str, Any]], card: Card | None) -> list[dict[str, Any]]:
    """The turns with what the card adds: its system text first, its words before pictures, its suffix last."""
    if card is None:
        return messages
    turns = [{"role": turn["role"], "content": list(turn["content"])} for turn in messages]
    if card.image_prefix and sum(part["type"] == "image" for turn in turns for part in turn["content"]) > 1:
        for turn in turns:
            turn["content"] = [new for part in turn["content"] for new in _prefixed(part, card.image_prefix)]
    if card.system:
        if turns[0]["role"] == "system":
            first = card.system if card.system.endswith(" ") else f"{card.system}\n\n"
            turns[0]["content"].insert(0, {"type": "text", "text": first})
        else:
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": card.system.rstrip()}]})
    if card.prompt_suffix:
        add_closing(turns, card.prompt_suffix)
    return turns


def _prefixed(part: dict[str, Any], prefix: str) -> list[dict[str, Any]]:
    if part["type"] != "image":
        return [part]
    return [{"type": "text", "text": prefix.replace("{number}", str(part["index"] + 1))}, part]


def _ask(tasks: Sequence[_Open], adapter: Adapter, card: Card | None, ask_again: bool, progress: bool) -> None:
    from tqdm import tqdm

    by_label = {task.benchmark.task.label: task for task in tasks}
    total = sum(len(task.prompts) * task.draws for task in tasks)
    known = sum(task.known for task in tasks)
    if known == total:
        return
    hidden = not progress or None
    with tqdm(total=total, initial=known, desc="answers", unit=" items", disable=hidden, dynamic_ncols=True) as bar:

        def keep(request: Request, answer: Answer) -> None:
            log = by_label[request.task].log
            log.add(request.question.sample_id, request.prompt_sha256, answer, request.draw)
            bar.set_postfix(adapter.statistics(), refresh=False)
            bar.update()

        try:
            adapter.answer(_requests(tasks, card, ask_again), keep)
        finally:
            for task in tasks:
                task.log.sync()


def _requests(tasks: Sequence[_Open], card: Card | None, ask_again: bool) -> Iterator[Request]:
    """Questions without an answer, one after the other: pictures are read when it is their turn."""
    for task in tasks:
        for sample_id, digest in task.prompts.items():
            found = [task.log.get(sample_id, draw) for draw in range(task.draws)]
            wanted = [
                draw
                for draw, known in enumerate(found)
                if known is None or (ask_again and known[1].outcome != ANSWERED)
            ]
            if not wanted:
                continue
            question = task.benchmark.read(sample_id)
            asked = replace(question, messages=_messages(question.messages, card))
            for draw in wanted:
                yield Request(task.benchmark.task.label, task.benchmark.root, asked, task.limit, digest, draw)


def _finish(task: _Open, prices: Prices | None) -> TaskRun:
    """Write predictions and usage in the order of the items; all draws only if they are all there."""
    declared = task.benchmark.task
    answers = {key: found for key in task.wanted() if (found := task.log.get(*key)) is not None}
    outcomes = Counter(answer.outcome for _, answer in answers.values())
    truncated = sum(answer.finish_reason == "length" for _, answer in answers.values())
    complete = len(answers) == len(task.prompts) * task.draws
    spent = [
        Usage(
            declared.name, declared.variant, sample_id, draw,
            *((0, 0) if answer.cached else (answer.prompt_tokens, answer.completion_tokens)),
            answer.seconds, prices.cost(answer) if prices else None,
        )
        for (sample_id, draw), (_, answer) in answers.items()
    ]  # fmt: skip
    said = [name for name in Answer.__struct_fields__ if name not in ("seconds", "cached")]
    predictions = [
        Prediction(
            sample_id=sample_id, draw=draw, prompt_sha256=digest, task=declared.name, variant=declared.variant,
            benchmark=task.benchmark.root, **{name: getattr(answer, name) for name in said},
        )
        for (sample_id, draw), (digest, answer) in answers.items()
    ]  # fmt: skip
    _write_lines(task.folder / USAGE, spent)
    _write_lines(task.folder / PREDICTIONS, [one for one in predictions if not one.draw])
    if task.draws > 1 and complete:
        _write_lines(task.folder / SAMPLES, predictions)
    else:
        (task.folder / SAMPLES).unlink(missing_ok=True)
    return TaskRun(
        declared.label, len(task.prompts), declared.expected, task.known, outcomes, truncated, complete,
        task.draws, usage_totals(spent),
    )  # fmt: skip


def _write_lines(path: Path, records: Sequence[msgspec.Struct]) -> None:
    with AtomicFile(path) as file:
        for record in records:
            file.write(msgspec.json.encode(record) + b"\n")


def item_of(benchmark: Benchmark, question: Question, max_new_tokens: int, prompt_sha256: str) -> Item:
    """What a question asks, without its text."""
    task = benchmark.task
    return Item(
        task=task.name,
        variant=task.variant,
        sample_id=question.sample_id,
        benchmark=benchmark.root,
        kind=task.kind,
        options=question.options,
        gold=question.gold,
        cluster=question.cluster,
        slice=question.subset,
        exemplar=question.exemplar,
        images=len(question.images),
        access=question.access,
        max_new_tokens=max_new_tokens,
        prompt_sha256=prompt_sha256,
    )


@errors.run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0 done, 3 done with questions unanswered, 1 stopped, 2 cannot be run."""
    parser = command_parser(
        "eval.run", "Ask a model the questions of benchmarks; every answer is kept, a killed run goes on.", _EXAMPLE
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder of builds")
    add("--tasks", nargs="+", required=True, metavar="TASK", help="slake, slake:paper, table4, all, ...")
    add("--task-file", type=Path, metavar="YAML", help="tasks of your own")
    add("--out", type=Path, metavar="DIR", help=f"folder of the answers and of {LIBRARIES}; one model a folder")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--model", metavar="CARD", help="model card: a shipped name or a YAML file")
    asked.add_argument("--baseline", metavar="NAME", help="majority, constant[=TEXT], copy_exemplar or nearest")
    asked.add_argument("--replay", nargs="+", type=Path, metavar="FILE", help="predictions.jsonl of earlier runs")
    server, local = add_options(parser)
    server.add_argument("--concurrency", type=int, default=64, metavar="N", help="requests in flight (default 64)")
    server.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds for one request (default 600)")
    server.add_argument("--tries", type=int, default=12, metavar="N", help="requests for one answer (default 12)")
    asked_of = parser.add_argument_group("either way")
    asked_of.add_argument("--revision", metavar="COMMIT", help="commit of the weights, if not the card's")
    local.add_argument("--batch", type=int, default=8, metavar="N", help="questions a batch (default 8)")
    likely = "compare the options by their log-likelihood, by label or by text; nothing is written"
    local.add_argument("--log-likelihood", choices=("labels", "texts"), help=likely)
    trusted = "run the Python files of a foreign checkpoint; one trained here needs no such trust"
    local.add_argument("--trust-remote-code", action="store_true", help=trusted)
    add("--only-present", action="store_true", help="leave out tasks whose build is not there")
    add("--builds-present", action="store_true", dest="only_present", help=argparse.SUPPRESS)
    add("--limit", type=int, metavar="N", help="only the first N questions of each task")
    add("--max-new-tokens", type=int, metavar="N", help="instead of the card's and the task's limit")
    drawn = "answers to each question, drawn at --temperature (default 1)"
    add("--samples", type=int, default=1, metavar="K", help=drawn)
    add("--temperature", type=float, metavar="T", help="instead of the card's")
    add("--price-in", type=float, metavar="P", help="price of a million prompt tokens, if not the card's")
    add("--price-out", type=float, metavar="P", help="price of a million new tokens")
    add("--ask-again", action="store_true", help="ask once more what has no answer yet")
    add("--credentialed-prompts", action="store_true", help="keep the text of credentialed questions in OUT, too")
    add("--answer-cache", type=Path, metavar="DIR", help="take answers of earlier runs by content, keep new ones")
    add("--dry-run", action="store_true", help="show what would be asked, ask nothing")
    add_trust_options(parser, training=False)
    add("--json", action="store_true", help="print what was answered as JSON, no progress bars")
    add("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    for name in ("limit", "max_new_tokens", "concurrency", "tries", "batch", "samples"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")
    if not options.dry_run and not (options.model or options.baseline or options.replay):
        parser.error("say who answers: --model CARD, --baseline NAME or --replay FILE")
    if options.log_likelihood and not (options.model and options.checkpoint):
        parser.error("--log-likelihood needs --model CARD and --checkpoint DIR: a server gives no such numbers")
    for name in ("revision", "temperature", "price_in", "price_out", "answer_cache"):
        value = getattr(options, name)
        if value is not None and not options.model:
            parser.error(f"--{name.replace('_', '-')} is of a --model")
        if isinstance(value, float) and not value >= 0:
            parser.error(f"--{name.replace('_', '-')} must be 0 or more")
    if options.samples > 1 and (not options.model or options.log_likelihood):
        parser.error("--samples needs a --model that writes answers")
    engine = options.engine
    if engine != "hf" and (options.log_likelihood or not options.checkpoint or options.device != "auto"):
        parser.error(f"--engine {engine} writes answers of a --checkpoint, on its own device; other ways are hf's")
    if engine == "hf" and options.engine_settings:
        parser.error("--engine-settings are of --engine vllm or llama.cpp")
    if not options.dry_run and options.out is None:
        parser.error("--out is needed")
    if options.model and not options.dry_run and bool(options.endpoint) == bool(options.checkpoint):
        parser.error("with --model, give either --endpoint URL or --checkpoint DIR")

    with libraries_apart() as libraries:
        if options.out is not None:
            libraries.keep_in(options.out / LIBRARIES)
        return _carry_out(options)


def _carry_out(options: argparse.Namespace) -> int:
    tasks = select_tasks(options.tasks, load_task_file(options.task_file) if options.task_file else [])
    if options.only_present:
        tasks, absent = built_tasks(options.data, tasks)
        if absent and not options.json:
            print(f"left out, not built: {', '.join(f'{task.label} ({task.build})' for task in absent)}")
    benchmarks = open_benchmarks(options.data, tasks)
    from shards.certified import proof_folder

    proof = read_proof(proof_folder(options.data), evidence=False, trust=Trust.of(options))
    if options.dry_run:
        _show_plan(benchmarks, proof)
        return errors.DONE
    card, adapter = _adapter(options, benchmarks)
    if options.answer_cache:
        from eval.adapters.cached import Cached

        adapter = Cached(adapter, options.answer_cache)
    if options.samples > 1:
        temperature = card.decoding.temperature if card else None
        if temperature is None or temperature <= GREEDY_BELOW:
            raise UserError("--samples: greedy answers to a question are all the same; give --temperature T")
    done = run(
        benchmarks,
        adapter,
        options.out,
        card=card,
        proof=proof,
        limit=options.limit,
        max_new_tokens=options.max_new_tokens,
        ask_again=options.ask_again,
        progress=not (options.quiet or options.json),
        credentialed_prompts=options.credentialed_prompts,
        samples=options.samples,
        prices=_prices(options, card),
    )
    if options.json:
        print(_as_json(done, adapter, options.out, benchmarks, proof))
    else:
        _show(done, adapter, options.out, options.data, benchmarks, proof)
    return EXIT_UNANSWERED if any(task.outcomes.keys() - {ANSWERED} for task in done) else errors.DONE


def _adapter(options: argparse.Namespace, benchmarks: list[Benchmark]) -> tuple[Card | None, Adapter]:
    if options.baseline:
        from eval.adapters.baseline import Baseline

        name, equals, text = options.baseline.partition("=")
        return None, Baseline(name, benchmarks, text if equals else None)
    if options.replay:
        from eval.adapters.replay import Replay

        return None, Replay(options.replay)

    card = with_revision(load_card(options.model), options.revision, options.checkpoint)
    if options.temperature is not None:
        decoding = msgspec.structs.replace(card.decoding, temperature=options.temperature)
        card = msgspec.structs.replace(card, decoding=decoding)
    if options.log_likelihood:
        from eval.adapters.log_likelihood import LogLikelihood

        device, trust = options.device, options.trust_remote_code
        return card, LogLikelihood(
            options.checkpoint, card, options.log_likelihood, device=device, trust_remote_code=trust
        )
    return card, model_adapter(
        options,
        card,
        concurrency=options.concurrency,
        timeout_s=options.timeout,
        tries=options.tries,
        batch=options.batch,
        trust_remote_code=options.trust_remote_code,
    )


def _prices(options: argparse.Namespace, card: Card | None) -> Prices | None:
    """As given, else the card's; None for neither. Raises: `UserError` for one of two."""
    if card is None:
        return None
    found = [
        options.price_in if options.price_in is not None else card.price_in,
        options.price_out if options.price_out is not None else card.price_out,
    ]
    match found:
        case [None, None]:
            return None
        case [float() as prompt, float() as completion]:
            return Prices(prompt, completion)
    raise UserError("a price of prompt tokens or of new tokens is missing; give --price-in and --price-out")


def with_revision(card: Card, given: str | None, checkpoint: Path | None) -> Card:
    """The card with the commit that is asked: as given, as the hub's cache names its folder, or as the card says.

    Raises: `UserError` where the folder is of another commit than the one given, or than the card's.
    """
    wanted = given or card.revision
    # The hub's cache keeps a commit as .../snapshots/<commit>; other folders name none.
    folder = checkpoint.resolve() if checkpoint else None
    found = folder.name if folder is not None and folder.parent.name == "snapshots" else None
    if wanted and found and found != wanted:
        raise UserError(
            f"{checkpoint}: commit {found[:12]}, but {'--revision' if given else f'the card of {card.name}'} says "
            f"{wanted[:12]}; take that commit, or give --revision {found}"
        )
    return msgspec.structs.replace(card, revision=wanted or found)


def _show_plan(benchmarks: Sequence[Benchmark], proof: Proof | None) -> None:
    for benchmark in benchmarks:
        questions = list(benchmark)
        pictures = sum(len(question.images) for question in questions)
        task = benchmark.task
        expected = "" if task.expected in (None, len(questions)) else f" of {task.expected:,} in the whole benchmark"
        print(
            f"{task.label}: {len(questions):,} items{expected}, {pictures:,} pictures, at most "
            f"{task.max_new_tokens:,} new tokens each, {benchmark.access}; "
            f"build {benchmark.build} {benchmark.root[:12]}"
        )
    _say_certificate(benchmarks, proof)


def _say_certificate(benchmarks: Sequence[Benchmark], proof: Proof | None) -> None:
    if proof is None:
        print("certificate: none; run python -m manifests.prove")
        return
    print(f"certificate: {proof.root}")
    for line in proof.lacking:
        print(f"  incomplete: {line}")
    if uncovered := [benchmark.build for benchmark in benchmarks if not proof.covers(benchmark.root)]:
        print(f"  it does not cover {', '.join(dict.fromkeys(uncovered))}; run python -m manifests.prove again")


def _show(
    done: Sequence[TaskRun],
    adapter: Adapter,
    out: Path,
    data: Path,
    benchmarks: Sequence[Benchmark],
    proof: Proof | None,
) -> None:
    for task in done:
        answered = task.outcomes[ANSWERED]
        others = {name: count for name, count in sorted(task.outcomes.items()) if name != ANSWERED}
        words = [f"{task.label}: {task.items:,} items", f"{answered:,} answered ({task.known:,} before)"]
        if task.expected not in (None, task.items):
            words[0] += f" of {task.expected:,} in the whole benchmark"
        words += [f"{count:,} {name}" for name, count in others.items()]
        if task.truncated:
            words.append(f"{task.truncated:,} cut at the limit")
        if task.draws > 1:
            words[1] = f"{task.draws} answers each, {words[1]}"
        print(", ".join(words))
        if task.usage["completion_tokens"]:
            print(f"  {usage_line(task.usage)}")
    counts = ", ".join(f"{value:,} {name}" for name, value in adapter.statistics().items())
    if counts:
        print(counts)
    _say_certificate(benchmarks, proof)
    print(f"next: python -m eval.score {out} --data {data}")


def _as_json(
    done: Sequence[TaskRun], adapter: Adapter, out: Path, benchmarks: Sequence[Benchmark], proof: Proof | None
) -> str:
    said = {"out": str(out), "tasks": done, "statistics": adapter.statistics()}
    said["not_covered"] = [one.task.label for one in benchmarks if not (proof and proof.covers(one.root))]
    return orjson.dumps(said | {"certificate": proof.root if proof else None}).decode()


if __name__ == "__main__":
    raise SystemExit(main())
