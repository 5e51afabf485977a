"""The operators that make mutants: a selection of cosmic-ray's, and five of our own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import parso
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator

Place = tuple[tuple[int, int], tuple[int, int]]

# Each sign is replaced only by a similar one. AddNot already negates conditions.
_SIGNS = {
    "Comparison": {
        "Eq": ("NotEq",),
        "NotEq": ("Eq",),
        "Lt": ("LtE",),
        "LtE": ("Lt",),
        "Gt": ("GtE",),
        "GtE": ("Gt",),
        "Is": ("IsNot",),
        "IsNot": ("Is",),
    },
    "Binary": {
        "Add": ("Sub",),
        "Sub": ("Add",),
        "Mul": ("Div",),
        "Div": ("Mul",),
        "BitOr": ("BitAnd",),
        "BitAnd": ("BitOr",),
    },
}
_OTHERS = (
    "AddNot",
    "NumberReplacer",
    "RemoveDecorator",
    "ReplaceAndWithOr",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_Delete_USub",
    "ZeroIterationForLoop",
)


class DropStatement(Operator):  # type: ignore[misc]
    """Remove a statement of a function."""

    _KEPT = ("assert_stmt", "global_stmt", "import_from", "import_name", "nonlocal_stmt", "string")

    def mutation_positions(self, node: Any) -> Iterator[Place]:
        if node.type == "simple_stmt" and node.search_ancestor("funcdef") is not None:
            statement = node.children[0]
            if statement.type not in self._KEPT and statement.get_code().strip() not in (
                "pass",
                "...",
            ):
                yield statement.start_pos, statement.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        prefix = node.children[0].get_first_leaf().prefix
        node.children[0] = parso.parse(f"{prefix}pass")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("def f():\n    g()\n", "def f():\n    pass\n"),)


class DropCondition(Operator):  # type: ignore[misc]
    """Remove one of the conditions that `and` or `or` joins."""

    def mutation_positions(self, node: Any) -> Iterator[Place]:
        if node.type in ("and_test", "or_test"):
            for condition in node.children[::2]:
                yield condition.start_pos, condition.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        start = max(2 * index - 1, 0)
        del node.children[start : start + 2]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example("x = a and b and c", "x = b and c"),
            Example("x = a and b and c", "x = a and c", occurrence=1),
            Example("x = a or b", "x = a", occurrence=1),
        )


class NegateFilter(Operator):  # type: ignore[misc]
    """Negate the filter of a comprehension."""

    def mutation_positions(self, node: Any) -> Iterator[Place]:
        if node.type in ("comp_if", "old_comp_if"):
            yield node.children[1].start_pos, node.children[1].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[1] = parso.parse(f" not ({node.children[1].get_code().strip()})")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("[x for x in y if x > 1]", "[x for x in y if not (x > 1)]"),)


class SwapIn(Operator):  # type: ignore[misc]
    """Replace `in` by `not in`, and `not in` by `in`."""

    _TO: ClassVar = {"in": " not in", "not in": " in"}

    def mutation_positions(self, node: Any) -> Iterator[Place]:
        if node.type == "comparison":
            for sign in node.children[1::2]:
                if sign.get_code().strip() in self._TO:
                    yield sign.start_pos, sign.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        places = [
            at for at, sign in enumerate(node.children) if sign.get_code().strip() in self._TO
        ]
        at = places[index]
        node.children[at] = parso.parse(self._TO[node.children[at].get_code().strip()])
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example("x = a in b", "x = a not in b"),
            Example("x = a not in b", "x = a in b"),
        )


class CatchLess(Operator):  # type: ignore[misc]
    """Remove an error from an `except` clause."""

    @staticmethod
    def _caught(node: Any) -> list[str]:
        names = node.children[1].get_code().strip()
        if names.startswith("("):
            return [name.strip() for name in names.strip("()").split(",")]
        return [names]

    def mutation_positions(self, node: Any) -> Iterator[Place]:
        if node.type == "except_clause":
            for _ in self._caught(node):
                yield node.children[1].start_pos, node.children[1].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        left = self._caught(node)
        del left[index]
        node.children[1] = parso.parse(f" ({', '.join(left)}{',' if len(left) == 1 else ''})")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example("try: f()\nexcept A: g()", "try: f()\nexcept (): g()"),
            Example("try: f()\nexcept (*A, b.C): g()", "try: f()\nexcept (*A,): g()", occurrence=1),
        )


OWN: tuple[type[Operator], ...] = (DropStatement, DropCondition, NegateFilter, SwapIn, CatchLess)


def operators() -> list[Operator]:
    names = list(_OTHERS)
    for kind, signs in _SIGNS.items():
        names += [f"Replace{kind}Operator_{old}_{new}" for old in signs for new in signs[old]]
    return [get_operator(f"core/{name}")() for name in names] + [operator() for operator in OWN]
