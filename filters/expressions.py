"""The language of a recipe's predicates: comparisons of scores with numbers and texts, `and`, `or`, `not`, brackets.

    characters >= 6 and area >= 0.01
    0.3 <= narrator < 0.6 or overlaid_text.characters > 20
    relevance in ("irrelevant", "refused_request")

A bare name is a score of the filter that the predicate belongs to, `filter.score` one of a filter that ran before it.
A predicate is evaluated twice, in Python while samples are scored and in SQL when a recipe is applied. Both follow SQL:
a score that is NULL makes a comparison unknown (None), never true.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Value = float | int | str | None

_COMPARE: Mapping[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.Eq: ("=", operator.eq),
    ast.NotEq: ("<>", operator.ne),
}
_FUNCTIONS = dict(_COMPARE.values())
_ORDERED = ("<", "<=", ">", ">=")
_MAX_LENGTH = 1000


class ExpressionError(ValueError):
    """One line: what in a predicate is wrong, and what may stand there."""


@dataclass(frozen=True)
class _Score:
    column: str


@dataclass(frozen=True)
class _Compare:
    sign: str
    left: _Score | float | str
    right: _Score | float | str


@dataclass(frozen=True)
class _Join:
    every: bool
    parts: tuple[_Node, ...]


@dataclass(frozen=True)
class _Not:
    part: _Node


_Node = _Compare | _Join | _Not


@dataclass(frozen=True)
class Predicate:
    """A parsed predicate. `columns` are the `<filter>.<score>` it needs, sorted."""

    text: str
    columns: tuple[str, ...]
    _tree: _Node

    def evaluate(self, scores: Mapping[str, Value]) -> bool | None:
        """True, False, or None where a missing score leaves it open.

        Raises: `ExpressionError` for a text in a number's place.
        """
        return _evaluate(self._tree, scores, self.text)

    def sql(self, kinds: Mapping[str, str | None]) -> str:
        """The predicate as DuckDB SQL over columns `"<filter>.<score>"`.

        kinds: `number`, `text`, or None for a column without any value, by column.
        Raises: `ExpressionError` for a comparison of a number with a text.
        """
        return _sql(self._tree, kinds, self.text)

    def thresholds(self) -> list[tuple[str, float]]:
        """(column, number) of every comparison of a score with a number, in order, without repeats."""
        found = []
        for node in _walk(self._tree):
            sides = (node.left, node.right)
            for score, other in (sides, sides[::-1]):
                if isinstance(score, _Score) and isinstance(other, float):
                    found.append((score.column, other))
        return list(dict.fromkeys(found))


def parse(text: str, own: str, known: Mapping[str, frozenset[str]]) -> Predicate:
    """Parse a predicate of the filter `own`.

    known: scores by filter, `own` and those that ran before it.
    Raises: `ExpressionError`.
    """
    if len(text) > _MAX_LENGTH:
        raise ExpressionError(f"a predicate of {own} has {len(text)} characters; at most {_MAX_LENGTH}")
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ExpressionError(f"{text!r}: {reason}; write something like 'score >= 0.5 and other < 3'") from None
    tree = _Parser(text, own, known).node(body)
    columns = {side.column for node in _walk(tree) for side in (node.left, node.right) if isinstance(side, _Score)}
    return Predicate(text, tuple(sorted(columns)), tree)


class _Parser:
    def __init__(self, text: str, own: str, known: Mapping[str, frozenset[str]]) -> None:
        self._text, self._own, self._known = text, own, known

    def node(self, node: ast.expr) -> _Node:
        if isinstance(node, ast.BoolOp):
            return _Join(isinstance(node.op, ast.And), tuple(map(self.node, node.values)))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return _Not(self.node(node.operand))
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            pairs = zip(sides, node.ops, sides[1:], strict=False)
            parts = tuple(self._comparison(left, sign, right) for left, sign, right in pairs)
            return parts[0] if len(parts) == 1 else _Join(True, parts)
        raise self._error(node)

    def _comparison(self, left: ast.expr, sign: ast.cmpop, right: ast.expr) -> _Node:
        if isinstance(sign, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List) or not right.elts:
                raise ExpressionError(f"{self._text!r}: after 'in' stands a list in brackets, ('a', 'b')")
            either = _Join(False, tuple(self._compare("=", left, choice) for choice in right.elts))
            return either if isinstance(sign, ast.In) else _Not(either)
        if type(sign) not in _COMPARE:
            raise self._error(left)
        return self._compare(_COMPARE[type(sign)][0], left, right)

    def _compare(self, sign: str, left: ast.expr, right: ast.expr) -> _Compare:
        compared = _Compare(sign, self._side(left), self._side(right))
        if not isinstance(compared.left, _Score) and not isinstance(compared.right, _Score):
            raise ExpressionError(f"{self._text!r}: a comparison without a score")
        if sign in _ORDERED and (isinstance(compared.left, str) or isinstance(compared.right, str)):
            raise ExpressionError(f"{self._text!r}: texts are compared with ==, != and in only")
        return compared

    def _side(self, node: ast.expr) -> _Score | float | str:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._side(node.operand)
            if isinstance(value, float):
                return -value
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                return node.value
            if isinstance(node.value, int | float) and not isinstance(node.value, bool):
                try:
                    number = float(node.value)
                except OverflowError:
                    number = math.inf
                if math.isfinite(number):
                    return number
        elif isinstance(node, ast.Name):
            return self._score(self._own, node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            return self._score(node.value.id, node.attr)
        raise self._error(node)

    def _score(self, name: str, score: str) -> _Score:
        if name not in self._known:
            there = ", ".join(self._known)
            raise ExpressionError(
                f"{self._text!r}: filter {name!r} does not run before {self._own}; there are: {there}"
            )
        if score not in self._known[name]:
            there = ", ".join(sorted(self._known[name]))
            raise ExpressionError(f"{self._text!r}: {name} has no score {score!r}; there are: {there}")
        return _Score(f"{name}.{score}")

    def _error(self, node: ast.expr) -> ExpressionError:
        part = ast.get_source_segment(self._text.strip(), node) or self._text
        return ExpressionError(
            f"{self._text!r}: {part!r} cannot stand there; allowed are scores, numbers, texts, comparisons, "
            "and, or, not, in"
        )


def _walk(node: _Node) -> Iterator[_Compare]:
    if isinstance(node, _Compare):
        yield node
    else:
        for part in node.parts if isinstance(node, _Join) else (node.part,):
            yield from _walk(part)


def _evaluate(node: _Node, scores: Mapping[str, Value], text: str) -> bool | None:
    if isinstance(node, _Not):
        inner = _evaluate(node.part, scores, text)
        return None if inner is None else not inner
    if isinstance(node, _Join):
        values = [_evaluate(part, scores, text) for part in node.parts]
        decisive = not node.every
        if decisive in values:
            return decisive
        return None if None in values else node.every
    left, right = (scores[side.column] if isinstance(side, _Score) else side for side in (node.left, node.right))
    if left is None or right is None:
        return None
    if isinstance(left, str) != isinstance(right, str):
        raise _mismatch(node, text)
    if isinstance(left, str) and node.sign in _ORDERED:
        raise _mismatch(node, text)
    return bool(_FUNCTIONS[node.sign](left, right))


def _sql(node: _Node, kinds: Mapping[str, str | None], text: str) -> str:
    if isinstance(node, _Not):
        return f"(NOT {_sql(node.part, kinds, text)})"
    if isinstance(node, _Join):
        return "(" + (" AND " if node.every else " OR ").join(_sql(part, kinds, text) for part in node.parts) + ")"
    kinds_here = [_kind(side, kinds) for side in (node.left, node.right)]
    if None in kinds_here:
        return "CAST(NULL AS BOOLEAN)"
    if kinds_here[0] != kinds_here[1] or (kinds_here[0] == "text" and node.sign in _ORDERED):
        raise _mismatch(node, text)
    return f"({_sql_side(node.left)} {node.sign} {_sql_side(node.right)})"


def _kind(side: _Score | float | str, kinds: Mapping[str, str | None]) -> str | None:
    if isinstance(side, _Score):
        return kinds[side.column]
    return "text" if isinstance(side, str) else "number"


def _sql_side(side: _Score | float | str) -> str:
    if isinstance(side, _Score):
        return '"' + side.column.replace('"', '""') + '"'
    if isinstance(side, float):
        return f"CAST({side!r} AS DOUBLE)"
    return "'" + side.replace("'", "''") + "'"


def _mismatch(node: _Compare, text: str) -> ExpressionError:
    names = [side.column for side in (node.left, node.right) if isinstance(side, _Score)]
    return ExpressionError(f"{text!r}: {' and '.join(names)} cannot be compared like that; one side is a text")
