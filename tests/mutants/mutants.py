"""The mutants of a file: one for each change of its rules."""

from __future__ import annotations

import ast
import difflib
import symtable
from collections.abc import Iterator
from pathlib import Path

import attrs
from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.operators.operator import Operator

from tests.mutants.operators import operators

TRANSPORT = Path(__file__).parents[2] / "transport"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@attrs.frozen
class Mutant:
    """A file with one change.

    Attributes:
        where: the function or class with the change. "": the module.
        function: its name and first line, as "NAME:LINE". None: the change is outside of function
            bodies, so the module must be imported again.
        old, new: the changed lines, joined into one line.
    """

    file: str
    source: str = attrs.field(repr=False)
    where: str
    function: str | None
    old: str
    new: str

    def __str__(self) -> str:
        return f"`{self.file}` `{self.where}`: `{self.old}` → `{self.new}`"


def mutants_of(file: str, source: str | None = None) -> Iterator[Mutant]:
    """Yield all mutants whose rules differ from the file's; see `_Rules`."""
    source = (TRANSPORT / file).read_text() if source is None else source
    lines = source.splitlines(keepends=True)
    for names, node in _pieces(ast.parse(source)):
        first, end = _span(node)
        shell = "class _:\n" if node.col_offset else ""
        piece = shell + "".join(lines[first:end])
        seen = {rules_of(piece)}
        for changed in (one for operator in operators() for one in mutate(piece, operator)):
            rules = rules_of(changed)
            if rules is None or rules in seen:
                continue
            seen.add(rules)
            whole = "".join([*lines[:first], changed.removeprefix(shell), *lines[end:]])
            line, old, new = _difference(lines, whole.splitlines(keepends=True))
            function = None
            if (
                isinstance(node, Function)
                and line >= node.body[0].lineno
                and _outer_names(changed) == _outer_names(piece)
            ):
                function = f"{'.'.join(names)}:{first + 1}"
            yield Mutant(file, whole, ".".join(names), function, old, new)


def _outer_names(piece: str) -> tuple[str, ...]:
    """Return the names that a function uses from its enclosing scopes. `super()` uses the class.

    If these names change, the code of the function cannot be replaced: the module must be imported
    again.
    """
    table = symtable.symtable(piece, "", "exec")
    while not isinstance(table, symtable.Function):
        table = table.get_children()[0]
    return table.get_frees()


def _pieces(
    tree: ast.Module | ast.ClassDef, names: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], ast.stmt]]:
    """Yield functions, and other statements of modules and classes, with their qualified names."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _pieces(node, (*names, node.name))
        else:
            yield (*names, node.name) if isinstance(node, Function) else names, node


def _span(node: ast.stmt) -> tuple[int, int]:
    """Return the index of the first line, with decorators, and of the line after the last."""
    decorators = node.decorator_list if isinstance(node, Function) else []
    return min([node.lineno, *(one.lineno for one in decorators)]) - 1, node.end_lineno or 0


def mutate(source: str, operator: Operator) -> Iterator[str]:
    """Yield the source with one change of the operator, for each place that it finds."""
    at = 0
    while True:
        visitor = MutationVisitor(at, operator)
        changed = visitor.walk(get_ast(source))
        if not visitor.mutation_applied:
            return
        yield changed.get_code()
        at += 1


def rules_of(source: str) -> str | None:
    """Return the rules of the code as text. None: the code is not valid Python."""
    try:
        tree = ast.parse(source)
        compile(tree, "", "exec")
    except SyntaxError:
        return None
    return ast.dump(_Rules().visit(tree))


class _Rules(ast.NodeTransformer):
    """Removes all code that no test has to detect a change of.

    That is: the parts that mypy checks, docstrings, the texts of logs and errors, and `__repr__`.
    Protection from Ctrl-C is removed, too: `tests/test_ctrl_c.py` tests it line by line.
    """

    def _visit_body(self, node: Function | ast.ClassDef | ast.Module) -> None:
        self.generic_visit(node)
        if ast.get_docstring(node) is not None:
            del node.body[0]

    def visit_Module(self, node: ast.Module) -> ast.AST:
        self._visit_body(node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._visit_body(node)
        return node

    def visit_FunctionDef(self, node: Function) -> ast.AST | None:
        node.decorator_list = [
            decorator
            for decorator in node.decorator_list
            if ast.unparse(decorator).rpartition(".")[2] not in ("enable_ki_protection", "property")
        ]
        if node.name == "__repr__" or ast.unparse(node.body[-1]) == "...":
            return None
        node.returns = None
        self._visit_body(node)
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST | None:
        return self.visit_FunctionDef(node)

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        self.generic_visit(node)
        every = [*node.posonlyargs, *node.args, *node.kwonlyargs]
        node.posonlyargs, node.args, node.kwonlyargs = [], every, []  # mypy checks "*" and "/"
        node.defaults += [default for default in node.kw_defaults if default is not None]
        node.kw_defaults = []
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        node.annotation = ast.Constant(None)
        self.generic_visit(node)
        return None if node.value is None else node

    def visit_Assert(self, node: ast.Assert) -> None:
        return None

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_If(self, node: ast.If) -> ast.AST | None:
        self.generic_visit(node)
        return None if ast.unparse(node.test) in ("TYPE_CHECKING", "not TYPE_CHECKING") else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return ast.Constant("")

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.func).startswith("logger."):
            node.args = []
        return node


def _difference(before: list[str], after: list[str]) -> tuple[int, str, str]:
    """Return the number of the first changed line, the old lines and the new lines."""
    changes = [
        change
        for change in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        if change[0] != "equal"
    ]
    first, end = changes[0][1], changes[-1][2]
    new_first, new_end = changes[0][3], changes[-1][4]
    return first + 1, _in_one(before[first:end]), _in_one(after[new_first:new_end]) or "nothing"


def _in_one(lines: list[str]) -> str:
    return " ".join(line.split(" # ")[0].strip() for line in lines).replace("`", "'")
