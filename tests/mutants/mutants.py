"""The mutants of a file: each change of its rules, once."""

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
        where: the function, or the class, that is changed; "" for the module.
        function: the same and its first line, "NAME:LINE"; None: the change is in no function's
            body, and needs the module to be imported anew.
        old, new: the lines of the change, in one.
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
    """All mutants that differ in more than what is no rule; see `_Rules`."""
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
    """What the function has of what is around it: `super()` needs the class, for example. Code
    that has other names than the one in its place needs the module to be imported anew."""
    table = symtable.symtable(piece, "", "exec")
    while not isinstance(table, symtable.Function):
        table = table.get_children()[0]
    return table.get_frees()


def _pieces(
    tree: ast.Module | ast.ClassDef, names: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], ast.stmt]]:
    """The functions, and the other statements of modules and classes, with the names around."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _pieces(node, (*names, node.name))
        else:
            yield (*names, node.name) if isinstance(node, Function) else names, node


def _span(node: ast.stmt) -> tuple[int, int]:
    """Index of its first line, with decorators, and of the one behind it."""
    decorators = node.decorator_list if isinstance(node, Function) else []
    return min([node.lineno, *(one.lineno for one in decorators)]) - 1, node.end_lineno or 0


def mutate(source: str, operator: Operator) -> Iterator[str]:
    """The source with one change of the operator, for each place that it finds."""
    at = 0
    while True:
        visitor = MutationVisitor(at, operator)
        changed = visitor.walk(get_ast(source))
        if not visitor.mutation_applied:
            return
        yield changed.get_code()
        at += 1


def rules_of(source: str) -> str | None:
    """What the code says, without what is no rule; None: it is no Python."""
    try:
        tree = ast.parse(source)
        compile(tree, "", "exec")
    except SyntaxError:
        return None
    return ast.dump(_Rules().visit(tree))


class _Rules(ast.NodeTransformer):
    """Takes away what no test has to notice: what mypy looks after, docstrings, the texts of the
    log and of errors, and `__repr__`. So it does with the protection from Ctrl-C, which
    `tests/test_ctrl_c.py` tests line by line."""

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
        node.posonlyargs, node.args, node.kwonlyargs = [], every, []  # "*" and "/" are mypy's
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
    """The number of the first line that is changed, and the old lines and the new."""
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
