"""A language model judges captions: is it clinical, and does it hold numbers that the picture does not show.

Any OpenAI-compatible endpoint serves (vLLM, transformers serve, llama.cpp). The number rules always run first: a text
in which they find no misleading number is settled without a call. Without an endpoint the rules settle everything. What
settled a score stands beside it (`relevance_by`, `numbers_by`); an answer that cannot be used after all attempts
(`judge_answers`) is the named verdict `unusable_answer` with no score, so a recipe has to say what becomes of it. Such
verdicts are not kept: the next run asks again. Where they are more than a few, the model or its server is at fault:
scoring stops. A model may drop nothing before it has shown on labelled captions what its verdicts are worth
(`filters.calibrate`): without a record of that, its scores are there to look at.
"""

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import orjson
from tqdm import tqdm

from filters.base import Filter, FilterError, Record, Score
from filters.expressions import Predicate
from filters.judge_answers import READING, UnusableAnswer, read_answer, thinks
from filters.judge_record import check_record
from filters.misleading_numbers import RULES as NUMBER_RULES
from filters.misleading_numbers import WEIGHTS, find_numbers, misleading
from filters.relevance_rules import IRRELEVANT, irrelevance
from filters.relevance_rules import RULES as RELEVANCE_RULES
from filters.verdicts import Verdict, VerdictStore, verdict_key
from medgpt.chat import Chat, ChatOptions, EndpointError, RequestRefused, Stopped
from medgpt.endpoints import Endpoint, read_key, require_private, resolve_endpoint
from medgpt.errors import UserError
from medgpt.messages import safe
from medgpt.private import is_private

PROMPTS = Path(__file__).parent / "prompts"
RELEVANCE, NUMBERS = "relevance-1", "numbers-1"
"""Prompts in use. A changed prompt is a new file with the next number; its content is part of every verdict's key."""

_PROBE = "Chest radiograph without findings."
_RETRY_TEMPERATURE = 0.7
"""The first attempt is greedy; a second greedy one would fail in the same way."""
_FIRST = 50
"""Questions after which the share of those without an answer says something of the model, not of the captions."""


def _schema(flag: str, choice: str, choices: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            flag: {"type": "boolean"},
            choice: {"type": "string", "enum": list(choices)},
            "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
        },
        "required": [flag, choice, "confidence"],
        "additionalProperties": False,
    }


SCHEMAS = {
    RELEVANCE: _schema("relevant", "reason", ("clinical", "chatter", "chart", "administrative", "unclear")),
    NUMBERS: _schema(
        "misleading",
        "kind",
        ("none", "magnification", "measurement", "count", "statistic", "age_or_time", "date", "label", "other"),
    ),
}
"""JSON schema of each prompt's answer. No free text: an answer could quote what it judges."""
AGREEING: dict[str, dict[bool, tuple[str, ...]]] = {
    RELEVANCE: {True: ("clinical", "unclear"), False: ("chatter", "chart", "administrative", "unclear")},
    NUMBERS: {
        True: tuple(kind for kind in SCHEMAS[NUMBERS]["properties"]["kind"]["enum"] if kind != "none"),
        False: ("none",),
    },
}
"""The reasons and kinds that go with each verdict; others contradict it."""


@dataclass(frozen=True)
class Prompt:
    """Turns of a conversation (role, text); the last one holds `{text}`."""

    name: str
    turns: tuple[tuple[str, str], ...]
    digest: str

    def messages(self, text: str) -> list[dict[str, str]]:
        """The conversation that asks about `text`. The closing tag inside a text is defused."""
        *before, (role, last) = self.turns
        filled = last.replace("{text}", text.replace("</caption", "< /caption"))
        return [{"role": role, "content": content} for role, content in [*before, (role, filled)]]


@cache
def load_prompt(name: str) -> Prompt:
    """A prompt of `filters/prompts`: turns begin with a line `[system]`, `[user]` or `[assistant]`.

    Raises: `FilterError` for a prompt that is not there or has no place for the text.
    """
    path = PROMPTS / f"{name}.txt"
    if name not in SCHEMAS or not path.is_file():
        raise FilterError(f"no prompt is called {name!r}; there are: {', '.join(sorted(SCHEMAS))}")
    content = path.read_text(encoding="utf-8")
    turns: list[tuple[str, str]] = []
    for line in content.splitlines():
        if line in ("[system]", "[user]", "[assistant]"):
            turns.append((line[1:-1], ""))
        elif turns:
            role, text = turns[-1]
            turns[-1] = (role, f"{text}\n{line}" if text else line)
    if not turns or turns[-1][0] != "user" or "{text}" not in turns[-1][1]:
        raise FilterError(f"{path}: the last turn must be [user] and hold {{text}}")
    digest = hashlib.sha256(content.encode() + orjson.dumps(SCHEMAS[name], option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Prompt(name, tuple(turns), digest)


@dataclass
class JudgeStatistics:
    """What a filter has done since it was made."""

    questions: int = 0
    cached: int = 0
    requests: int = 0
    """HTTP requests, retries and repeated attempts included."""
    judged: int = 0
    """Questions the endpoint has settled: answered, unusable or refused."""
    valid_at_once: int = 0
    """Questions whose first answer was valid."""
    unusable: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def cost(self, price_in: float, price_out: float) -> float:
        """Price of the tokens, at prices per million."""
        return (self.prompt_tokens * price_in + self.completion_tokens * price_out) / 1e6


@dataclass(frozen=True)
class _Question:
    key: bytes
    prompt: Prompt
    text: str
    sample: str


class LanguageModel(Filter):
    """Relevance and misleading numbers, judged by a language model, or by rules where there is none.

    One object does its own concurrency: give it large batches in one process rather than small ones in many.
    """

    name: ClassVar[str] = "language_model"
    version: ClassVar[str] = f"3.{READING}/{RELEVANCE}/{NUMBERS}/{NUMBER_RULES}/{RELEVANCE_RULES}"
    scores: ClassVar[dict[str, str]] = {
        "irrelevant": "how surely the caption is not clinical, 0..1 (0.5 + confidence / 200 if judged so)",
        "relevance": "verdict: relevant, irrelevant, empty_caption, unusable_answer, refused_request",
        "relevance_reason": "clinical, chatter, chart, administrative or unclear; none from the rules",
        "relevance_by": "what made the verdict: rules, or prompt@model",
        "misleading": "how surely the caption holds numbers the picture does not show, 0..1",
        "numbers": "verdict: misleading, not_misleading, empty_caption, unusable_answer, refused_request",
        "numbers_kind": "main kind of misleading number; none from the rules",
        "numbers_by": "what made the verdict: rules, or rules followed by prompt@model",
    }
    cost: ClassVar[float] = 100.0
    needs_pictures: ClassVar[bool] = False
    in_main_process: ClassVar[bool] = True
    not_judged: ClassVar[frozenset[str]] = frozenset({"unusable_answer", "refused_request"})
    runtime_options: ClassVar[tuple[str, ...]] = (
        "endpoint", "verdicts", "allowed_hosts", "key_variable", "price_in", "price_out", "progress", "concurrency",
        "timeout_s", "tries", "longest_wait_s", "max_unusable", "calibration", "limits",
    )  # fmt: skip
    file_options: ClassVar[tuple[str, ...]] = ("weights",)
    gated: ClassVar[bool] = True

    def __init__(
        self,
        endpoint: str | None = None,
        model: str | None = None,
        verdicts: Path | str | None = None,
        *,
        allowed_hosts: Sequence[str] = (),
        key_variable: str | None = None,
        attempts: int = 3,
        max_tokens: int = 96,
        thinking_tokens: int = 4096,
        max_unusable: float = 0.05,
        response: str = "json_schema",
        extra: Mapping[str, Any] | None = None,
        price_in: float = 0.0,
        price_out: float = 0.0,
        progress: bool = False,
        weights: str | None = None,
        calibration: str | None = None,
        limits: Mapping[str, float] | None = None,
        **chat: Any,
    ) -> None:
        """Connects to nothing yet, but resolves the endpoint and reads the verdicts. Raises: `UserError`.

        endpoint: base address (`http://127.0.0.1:8000/v1`); None: rules only. verdicts: folder of the cache.
        allowed_hosts: hosts that may see credentialed texts although they are not loopback. key_variable: environment
        variable with the API key. attempts: answers asked for until one can be used. max_tokens: of an answer;
        thinking_tokens: more for a model that is seen to think first. max_unusable: share of questions without an
        answer, after the first 50, at which scoring stops (of fewer, or of the last 50: a half). response:
        `json_schema`, `json_object` or `none`, as the server can. extra: further fields of the request; None takes one
        out.
        price_in, price_out: per million tokens. progress: a bar on stderr. weights: file or folder of the model that is
        served; its content then says which model it is, where a name is what a server likes to call it. calibration:
        record of `filters.calibrate`; limits: what it must reach (`judge_record.Limits`). chat: as `ChatOptions`.
        """
        del weights, calibration, limits  # of the class: `identity_options`, `only_reports`
        if attempts < 1 or max_tokens < 1 or thinking_tokens < 0:
            raise UserError(f"attempts {attempts}, max_tokens {max_tokens}, thinking_tokens {thinking_tokens}: too few")
        if not 0 <= max_unusable <= 1:
            raise UserError(f"max_unusable {max_unusable}: a share, 0 to 1")
        self.statistics = JudgeStatistics()
        self._prices = price_in, price_out
        self._allowed = tuple(allowed_hosts)
        self._attempts = attempts
        self._thinking_tokens, self._thinks = thinking_tokens, False
        self._max_unusable = max_unusable
        self._open: dict[bytes, Verdict] = {}
        """Questions of this run without an answer."""
        self._last: deque[bool] = deque(maxlen=_FIRST)
        """Whether the last questions got an answer."""
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        """What was said last, by why it is no answer."""
        try:
            self._options = ChatOptions(**chat)
        except (TypeError, ValueError) as error:
            raise UserError(f"language_model: {error}") from None
        self._progress = progress
        self._bar: tqdm[Any] | None = None
        self._address: str | None = None
        self._endpoint: Endpoint | None = None
        if endpoint is None:
            return
        if not model or verdicts is None:
            raise UserError("with an endpoint, give the model's name and a folder for verdicts")
        self._endpoint = resolve_endpoint(endpoint)
        self._model = model
        self._api_key = read_key(key_variable)
        self._store = VerdictStore(Path(verdicts))
        self._fields: dict[str, dict[str, Any]] = {}
        for name in (RELEVANCE, NUMBERS):
            fields = {
                "temperature": 0.0,
                "max_tokens": max_tokens,
                "response_format": _response_format(response, name.partition("-")[0], SCHEMAS[name]),
                **(extra or {}),
            }
            self._fields[name] = {field: value for field, value in fields.items() if value is not None}

    @classmethod
    def identity_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Where the model is served changes no score, but whether there is one does: without, the rules judge."""
        return super().identity_options(options) | {"endpoint": options.get("endpoint") is not None}

    @classmethod
    def judge(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """All that makes it this judge: version of rules and prompts, their digests, model, what shapes an answer."""
        prompts = {name: load_prompt(name).digest for name in (RELEVANCE, NUMBERS)}
        return {"version": cls.version, **prompts, **cls.identity_options(options)}

    @classmethod
    def only_reports(cls, options: Mapping[str, Any], drop: Predicate, not_scored: str) -> str | None:
        """Without a calibration record, a model drops nothing; the rules may. Raises: `UserError` for a bad record."""
        if options.get("endpoint") is None:
            return None
        if options.get("calibration") is None:
            return "no calibration record; make one with filters.calibrate, --set language_model.calibration=RECORD"
        path = Path(str(options["calibration"]))
        check_record(path, cls.judge(options), drop, cls.name, not_scored == "drop", options.get("limits") or {})
        return None

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        """Scores of each record's caption, in order.

        Raises: `EndpointRefused` before anything is sent if a record is credentialed and the endpoint not private;
        `EndpointError` if the endpoint gives no answers (what was answered is kept); `FilterError` of the store.
        """
        texts = [record.caption for record in records]
        questions = [self._questions(record, text) for record, text in zip(records, texts, strict=True)]
        if self._endpoint is not None:
            sources = {record.sample["source"] for record in records if record.sample["access"] == "credentialed"}
            for source in sorted(sources):
                require_private(self._endpoint, source, self._allowed)
            self._answer([question for few in questions for question in few.values()])
        return [self._scores(text, few) for text, few in zip(texts, questions, strict=True)]

    def close(self) -> None:
        """Close the bar and give the verdict file back. The object stays usable."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._endpoint is not None:
            self._store.close()

    def _questions(self, record: Record, text: str) -> dict[str, _Question]:
        """What has to be asked about a text, by prompt."""
        if self._endpoint is None or not text.strip():
            return {}
        names = [RELEVANCE]
        if any(find.kind in WEIGHTS for find in find_numbers(text)):
            names.append(NUMBERS)
        prompts = [load_prompt(name) for name in names]
        return {
            prompt.name: _Question(
                verdict_key(prompt.digest, self._model, {**self._fields[prompt.name], "reading": READING}, text),
                prompt,
                text,
                record.sample["id"],
            )
            for prompt in prompts
        }

    def _answer(self, questions: Sequence[_Question]) -> None:
        """See to it that every question has a verdict in the store."""
        self._store.refresh()
        asked = {question.key: question for question in questions if question.key not in self._open}
        missing = {key: question for key, question in asked.items() if self._store.get(key) is None}
        self.statistics.questions += len(questions)
        self.statistics.cached += len(questions) - len(missing)
        self._show(len(questions), len(questions) - len(missing))
        if missing:
            try:
                asyncio.run(self._ask(list(missing.values())))
            finally:
                self._store.sync()

    async def _ask(self, questions: Sequence[_Question]) -> None:
        assert self._endpoint is not None
        if self._address is None:
            try:
                self._address = await asyncio.to_thread(self._endpoint.reachable_address, 10.0)
            except OSError as error:
                raise EndpointError(f"{self._endpoint.base}: {error}; is the server running?") from error
        faults: list[Exception] = []
        waiting = iter(questions)
        async with Chat(self._endpoint, self._address, self._options, self._api_key) as chat:
            workers = [self._work(chat, waiting, faults) for _ in range(min(self._options.concurrency, len(questions)))]
            await asyncio.gather(*workers)
            self.statistics.requests += chat.requests
        if faults:
            raise faults[0]
        self._stop_if_systematic(at_end=True)

    async def _work(self, chat: Chat, waiting: Iterator[_Question], faults: list[Exception]) -> None:
        for question in waiting:
            if chat.stop.is_set():
                return
            try:
                verdict = await self._judge(chat, question)
                if verdict.outcome == "answered":
                    self._store.add(question.key, verdict)
                else:
                    self._open[question.key] = verdict
                self._count(verdict)
                self._stop_if_systematic()
            except Stopped:
                return
            except UserError as error:
                # The others finish what they have sent, and send no more: their answers are paid for.
                chat.stop.set()
                named = EndpointError(f"{error} (at {question.sample})") if isinstance(error, EndpointError) else error
                faults.append(named)
                return

    async def _judge(self, chat: Chat, question: _Question) -> Verdict:
        fields = dict(self._fields[question.prompt.name])
        budget = next((name for name in ("max_tokens", "max_completion_tokens") if name in fields), None)
        if self._thinks and budget:
            fields[budget] += self._thinking_tokens
        prompt_tokens = completion_tokens = 0
        for attempt in range(1, self._attempts + 1):
            body = {"model": self._model, "messages": question.prompt.messages(question.text), **fields}
            probe = body | {"messages": question.prompt.messages(_PROBE)}
            try:
                reply = await chat.complete(body, probe)
            except RequestRefused as error:
                self._reasons[str(error)] += 1
                return Verdict("refused_request", None, attempt, prompt_tokens, completion_tokens)
            prompt_tokens += reply.prompt_tokens
            completion_tokens += reply.completion_tokens
            try:
                answer = read_answer(reply.content, SCHEMAS[question.prompt.name], AGREEING[question.prompt.name])
            except UnusableAnswer as error:
                reason = f"{error}, cut off" if reply.truncated else str(error)
                reason = reason if reply.completion else "no chat completion"
            else:
                return Verdict("answered", answer, attempt, prompt_tokens, completion_tokens)
            if reply.truncated and budget:
                thought = bool(reply.reasoning) or thinks(reply.content)
                more = fields[budget] if self._thinks or not thought else self._thinking_tokens
                fields[budget] += more
                self._thinks |= thought
            fields |= {"seed": attempt} | ({"temperature": _RETRY_TEMPERATURE} if "temperature" in fields else {})
        self._reasons[reason] += 1
        self._examples[reason] = reply.content or self._examples.get(reason, "")
        return Verdict("unusable_answer", None, self._attempts, prompt_tokens, completion_tokens)

    def _count(self, verdict: Verdict) -> None:
        statistics = self.statistics
        statistics.judged += 1
        statistics.valid_at_once += verdict.outcome == "answered" and verdict.attempts == 1
        statistics.unusable += verdict.outcome == "unusable_answer"
        statistics.refused += verdict.outcome == "refused_request"
        self._last.append(verdict.outcome == "answered")
        statistics.prompt_tokens += verdict.prompt_tokens
        statistics.completion_tokens += verdict.completion_tokens
        self._show(0, 1)

    def _stop_if_systematic(self, at_end: bool = False) -> None:
        """Raises: `FilterError` where so many questions got no answer that it is not for their captions."""
        judged, missed = self.statistics.judged, self.statistics.unusable + self.statistics.refused
        lately = len(self._last) == _FIRST or at_end
        if (lately and 2 * sum(self._last) < len(self._last)) or (
            judged >= _FIRST and missed > self._max_unusable * judged
        ):
            reasons = ", ".join(
                f"{reason} ({number:,}{self._shown(reason)})" for reason, number in self._reasons.most_common(3)
            )
            raise FilterError(
                f"language_model: {missed:,} of {judged:,} questions got no answer of {self._model} that can be used: "
                f"{reasons}. Their captions are not scored. Mend the model or its server (--set "
                "language_model.response=none, .thinking_tokens=N or .max_unusable=SHARE may help) and run this again"
            )

    def _shown(self, reason: str) -> str:
        said = self._examples.get(reason)
        return f", one says: {safe(said, 120)}" if said and not is_private() else ""

    def _show(self, more: int, done: int) -> None:
        if not self._progress:
            return
        if self._bar is None:
            self._bar = tqdm(total=0, unit=" verdicts", desc=self.name, disable=None, dynamic_ncols=True)
        self._bar.total += more
        statistics = self.statistics
        self._bar.set_postfix_str(
            f"{statistics.cached} known, {statistics.unusable} unusable, cost {statistics.cost(*self._prices):.4f}",
            refresh=False,
        )
        self._bar.update(done)

    def _scores(self, text: str, questions: Mapping[str, _Question]) -> dict[str, Score]:
        scores: dict[str, Score] = dict.fromkeys(self.scores)
        if not text.strip():
            return scores | {"relevance": "empty_caption", "numbers": "empty_caption"}
        finds = find_numbers(text)
        chance = misleading(finds)
        verdict = "misleading" if chance >= 0.5 else "not_misleading"
        scores |= {"misleading": chance, "numbers_by": NUMBER_RULES, "numbers": verdict}
        if RELEVANCE not in questions:
            chance = irrelevance(text)
            scores |= {"irrelevant": chance, "relevance_by": RELEVANCE_RULES}
            return scores | {"relevance": "irrelevant" if chance >= IRRELEVANT else "relevant"}
        scores["relevance_by"] = f"{RELEVANCE}@{self._model}"
        outcome, answer = self._said(questions[RELEVANCE])
        scores["relevance"] = outcome
        if answer is not None:
            scores["irrelevant"] = _chance(not answer["relevant"], answer["confidence"])
            scores["relevance"] = "relevant" if answer["relevant"] else "irrelevant"
            scores["relevance_reason"] = answer["reason"]
        if NUMBERS in questions:
            outcome, answer = self._said(questions[NUMBERS])
            scores |= {"numbers_by": f"{NUMBER_RULES}, {NUMBERS}@{self._model}", "misleading": None, "numbers": outcome}
            if answer is not None:
                scores["misleading"] = _chance(answer["misleading"], answer["confidence"])
                scores["numbers"] = "misleading" if answer["misleading"] else "not_misleading"
                scores["numbers_kind"] = answer["kind"]
        return scores

    def _said(self, question: _Question) -> tuple[str, Mapping[str, Any] | None]:
        verdict = self._open.get(question.key) or self._store.get(question.key)
        assert verdict is not None
        return verdict.outcome, verdict.answer


def _chance(positive: bool, confidence: int) -> float:
    """0..1 from a yes or no and its confidence in percent: 0.5 where the confidence is 0."""
    return round(0.5 + (confidence if positive else -confidence) / 200, 4)


def _response_format(kind: str, name: str, schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request field of this name: `json_schema`, `json_object`, or None for `none`. Raises: `UserError`."""
    if kind not in ("json_schema", "json_object", "none"):
        raise UserError(f"response_format {kind!r}: choose json_schema, json_object or none")
    shape = {"json_schema": {"name": name, "strict": True, "schema": schema}} if kind == "json_schema" else {}
    return None if kind == "none" else {"type": kind} | shape
