"""The language of a recipe's predicates: comparisons of scores with numbers and texts, `and`, `or`, `not`, brackets.

    characters >= 6 and area >= 0.01
    0.3 <= narrator < 0.6 or overlaid_text.characters > 20
    relevance in ("irrelevant", "refused_request")

A bare name is a score of the filter that the predicate belongs to, `filter.score` one of a filter that ran before it.
A predicate is evaluated twice, in Python while samples are scored and in SQL when a recipe is applied. Both follow SQL:
a score that is NULL makes a comparison unknown (None), never true. Only what is named here is let through; the syntax
is Python's, of which nothing is ever run.
"""

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from filters.base import Score
from manifests.catalog import sql_text
from medgpt.errors import UserError

_SIGNS: Mapping[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "=", ast.NotEq: "<>",
}  # fmt: skip
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "=": "<>", "<>": "="}
_FUNCTIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "<>": operator.ne,
}  # fmt: skip
_MAX_LENGTH = 1000


@dataclass(frozen=True)
class _Column:
    name: str


@dataclass(frozen=True)
class _Compare:
    sign: str
    left: _Column | float | str
    right: _Column | float | str

    @property
    def sides(self) -> tuple[_Column | float | str, _Column | float | str]:
        return self.left, self.right


@dataclass(frozen=True)
class _Join:
    every: bool
    parts: "tuple[_Compare | _Join, ...]"


_Node = _Compare | _Join


@dataclass(frozen=True)
class Predicate:
    """A parsed predicate."""

    text: str
    _tree: _Node

    def evaluate(self, scores: Mapping[str, Score]) -> bool | None:
        """True, False, or None where a missing score leaves it open. Raises: `UserError` for a text as a number."""
        return self._evaluate(self._tree, scores)

    def sql(self, kinds: Mapping[str, str | None]) -> str:
        """The predicate as DuckDB SQL over columns `"<filter>.<score>"`.

        kinds: `number`, `text`, or None for a column without any value, by column.
        Raises: `UserError` for a comparison of a number with a text.
        """
        return self._sql(self._tree, kinds)

    def thresholds(self) -> list[tuple[str, float]]:
        """(column, number) of every comparison of a score with a number, in order, without repeats."""
        found = []
        for node in _walk(self._tree):
            for score, other in (node.sides, node.sides[::-1]):
                if isinstance(score, _Column) and isinstance(other, float):
                    found.append((score.name, other))
        return list(dict.fromkeys(found))

    def any_of(self) -> dict[str, float] | None:
        """{column: number} of `column >= number`, or of several such joined by `or`; None of any other predicate."""
        found: dict[str, float] = {}
        waiting = [self._tree]
        while waiting:
            node = waiting.pop()
            if isinstance(node, _Join):
                if node.every and len(node.parts) > 1:
                    return None
                waiting += node.parts
            elif node.sign == ">=" and isinstance(node.left, _Column) and isinstance(node.right, float):
                found[node.left.name] = min(node.right, found.get(node.left.name, node.right))
            else:
                return None
        return found

    def _evaluate(self, node: _Node, scores: Mapping[str, Score]) -> bool | None:
        if isinstance(node, _Join):
            values = [self._evaluate(part, scores) for part in node.parts]
            decisive = not node.every
            return decisive if decisive in values else None if None in values else node.every
        left, right = (scores[side.name] if isinstance(side, _Column) else side for side in node.sides)
        if left is None or right is None:
            return None
        self._check(node, isinstance(left, str), isinstance(right, str))
        return bool(_FUNCTIONS[node.sign](left, right))

    def _sql(self, node: _Node, kinds: Mapping[str, str | None]) -> str:
        if isinstance(node, _Join):
            return "(" + (" AND " if node.every else " OR ").join(self._sql(part, kinds) for part in node.parts) + ")"
        here = [kinds[s.name] if isinstance(s, _Column) else "text" if isinstance(s, str) else "" for s in node.sides]
        if None in here:
            return "CAST(NULL AS BOOLEAN)"
        self._check(node, here[0] == "text", here[1] == "text")
        return f"({_sql_side(node.left)} {node.sign} {_sql_side(node.right)})"

    def _check(self, node: _Compare, left_is_text: bool, right_is_text: bool) -> None:
        if left_is_text != right_is_text or (left_is_text and node.sign not in ("=", "<>")):
            names = " and ".join(side.name for side in node.sides if isinstance(side, _Column))
            raise UserError(f"{self.text!r}: {names} cannot be compared like that; one side is a text")


def parse(text: str, own: str, known: Mapping[str, frozenset[str]]) -> Predicate:
    """Parse a predicate of the filter `own`.

    known: scores by filter, `own` and those that ran before it.
    Raises: `UserError`: what in a predicate is wrong, and what may stand there.
    """
    if len(text) > _MAX_LENGTH:
        raise UserError(f"a predicate of {own} has {len(text)} characters; at most {_MAX_LENGTH}")
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UserError(f"{text!r}: {reason}; write something like 'score >= 0.5 and other < 3'") from None
    return Predicate(text, _Parser(text, own, known).node(body, negated=False))


class _Parser:
    def __init__(self, text: str, own: str, known: Mapping[str, frozenset[str]]) -> None:
        self._text, self._own, self._known = text, own, known

    def node(self, node: ast.expr, negated: bool) -> _Node:
        """`node`, or what is true where it is false: in SQL's logic, too, `not` may be moved inwards."""
        if isinstance(node, ast.BoolOp):
            every = isinstance(node.op, ast.And) != negated
            return _Join(every, tuple(self.node(part, negated) for part in node.values))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self.node(node.operand, not negated)
        if isinstance(node, ast.Compare):
            pairs = zip([node.left, *node.comparators], node.ops, node.comparators, strict=False)
            return _Join(not negated, tuple(self._comparison(*pair, negated) for pair in pairs))
        raise self._error(node)

    def _comparison(self, left: ast.expr, sign: ast.cmpop, right: ast.expr, negated: bool) -> _Node:
        if isinstance(sign, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List) or not right.elts:
                raise UserError(f"{self._text!r}: after 'in' stands a list in brackets, ('a', 'b')")
            none_of = isinstance(sign, ast.NotIn) != negated
            found = tuple(self._compare("<>" if none_of else "=", left, choice) for choice in right.elts)
            return _Join(none_of, found)
        if type(sign) not in _SIGNS:
            raise self._error(left)
        asked = _SIGNS[type(sign)]
        return self._compare(_OPPOSITE[asked] if negated else asked, left, right)

    def _compare(self, sign: str, left: ast.expr, right: ast.expr) -> _Compare:
        compared = _Compare(sign, self._side(left), self._side(right))
        if not any(isinstance(side, _Column) for side in compared.sides):
            raise UserError(f"{self._text!r}: a comparison without a score")
        if sign not in ("=", "<>") and any(isinstance(side, str) for side in compared.sides):
            raise UserError(f"{self._text!r}: texts are compared with ==, != and in only")
        return compared

    def _side(self, node: ast.expr) -> _Column | float | str:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._side(node.operand)
            if isinstance(value, float):
                return -value
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            # Neither infinite, nor an integer that is too long for a float.
            if not isinstance(node.value, bool) and abs(node.value) < 1e300:
                return float(node.value)
        elif isinstance(node, ast.Name):
            return self._column(self._own, node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            return self._column(node.value.id, node.attr)
        raise self._error(node)

    def _column(self, name: str, score: str) -> _Column:
        if name not in self._known:
            there = ", ".join(self._known)
            raise UserError(f"{self._text!r}: filter {name!r} does not run before {self._own}; there are: {there}")
        if score not in self._known[name]:
            there = ", ".join(sorted(self._known[name]))
            raise UserError(f"{self._text!r}: {name} has no score {score!r}; there are: {there}")
        return _Column(f"{name}.{score}")

    def _error(self, node: ast.expr) -> UserError:
        part = ast.get_source_segment(self._text.strip(), node) or self._text
        return UserError(
            f"{self._text!r}: {part!r} cannot stand there; allowed are scores, numbers, texts, comparisons, "
            "and, or, not, in"
        )


def _walk(node: _Node) -> Iterator[_Compare]:
    if isinstance(node, _Compare):
        yield node
    else:
        for part in node.parts:
            yield from _walk(part)


def _sql_side(side: _Column | float | str) -> str:
    if isinstance(side, _Column):
        return sql_name(side.name)
    return f"CAST({side!r} AS DOUBLE)" if isinstance(side, float) else sql_text(side)


def sql_name(text: str) -> str:
    """A column's name in SQL."""
    return '"' + text.replace('"', '""') + '"'
