"""The changes that `make mutants` makes, and the code that it does not change."""

from __future__ import annotations

import textwrap

import pytest
from cosmic_ray.operators.operator import Operator

from tests.mutants.mutants import mutants_of, mutate
from tests.mutants.operators import OWN


def mutants_in(source: str) -> list[str]:
    return [str(one) for one in mutants_of("a.py", textwrap.dedent(source))]


@pytest.mark.parametrize("operator", OWN, ids=lambda operator: operator.__name__)
def test_operator_changes_its_examples_as_stated(operator: type[Operator]) -> None:
    for example in operator.examples():
        changed = list(mutate(example.pre_mutation_code, operator()))
        assert changed[example.occurrence] == example.post_mutation_code


def test_the_rule_of_a_property_is_changed() -> None:
    assert mutants_in("""
        class Ledger:
            @property
            def due(self) -> int | None:
                return self.safe if self.safe > self.committed else None
        """) == [
        "`a.py` `Ledger.due`: `return self.safe if self.safe > self.committed else None`"
        " → `return self.safe if not self.safe > self.committed else None`",
        "`a.py` `Ledger.due`: `return self.safe if self.safe > self.committed else None`"
        " → `return self.safe if self.safe >= self.committed else None`",
        "`a.py` `Ledger.due`: `return self.safe if self.safe > self.committed else None` → `pass`",
    ]


def test_code_that_is_no_rule_is_not_changed() -> None:
    assert (
        mutants_in('''
        """Rules: 1."""

        if TYPE_CHECKING:
            from a import b

        class A:
            """Holds 2."""

            @overload
            def f(self, a: int | None) -> int | str: ...

            @enable_ki_protection
            def f(self, *, a: int | None) -> int | str:
                """Does nothing."""
                b: int | None
                assert a > 3

            def __repr__(self):
                return f"{self.number + 1}"
        ''')
        == []
    )


def test_warning_is_a_rule_but_its_text_is_not() -> None:
    assert mutants_in("""
        def f():
            logger.warning("%d", 2 + 3)
        """) == ['`a.py` `f`: `logger.warning("%d", 2 + 3)` → `pass`']


def test_change_of_a_name_from_the_class_needs_a_new_import() -> None:
    """The changed code cannot replace the code of the original function."""
    source = "class A(B):\n    def f(self):\n        super().f()\n        self.g()\n"
    places = {mutant.old: mutant.function for mutant in mutants_of("a.py", source)}
    assert places == {"super().f()": None, "self.g()": "A.f:2"}
