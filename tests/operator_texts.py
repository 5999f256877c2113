"""What the code can say to an operator, read from its source."""

from __future__ import annotations

import ast
import importlib
import itertools
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[1]
GAP = "\N{HORIZONTAL ELLIPSIS}"
"""Stands for what is filled in at run time."""
_WITH_REASON = ("TransientError", "FileGoneError")
_LOUD = {"warning", "error"}
_TEXT_ONLY = ("LedgerError", "LockedError", "MirrorError")


@dataclass(frozen=True, slots=True)
class CallSite:
    """One call in the code, with what is needed to understand its arguments."""

    module: str
    call: ast.Call
    function: ast.AST | None

    @property
    def name(self) -> str:
        """Name of what is called."""
        called = self.call.func
        return called.attr if isinstance(called, ast.Attribute) else _id(called)

    def argument(self, keyword: str) -> ast.expr:
        """Return a keyword's value."""
        return next(given.value for given in self.call.keywords if given.arg == keyword)

    def says(self, expression: ast.expr) -> list[str]:
        """Return all that an expression may come to; empty if it cannot be told."""
        return list(dict.fromkeys(_TextReader(self).texts(expression)))

    @override
    def __str__(self) -> str:
        return f"{self.module}:{self.call.lineno}: {ast.unparse(self.call)[:80]}"


def reasons() -> dict[str, list[str]]:
    """Return every reason, with the places that give it.

    Raises:
        LookupError: What a call gives cannot be read from the source.
    """
    places: dict[str, list[str]] = {}
    classes = _heirs(_WITH_REASON)
    for site in calls():
        if site.name not in classes:
            continue
        first = site.call.args[0]
        if isinstance(first, ast.Attribute) and first.attr == "reason":
            continue  # handed on from another error
        given = site.says(first)
        if not given or any(text.strip(GAP) == "" for text in given):
            raise LookupError(f"no reason can be read at {site}")
        for reason in given:
            places.setdefault(reason, []).append(str(site))
    return places


def messages() -> dict[str, str]:
    """Return the texts of errors that have no reason, each with its call."""
    places: dict[str, str] = {}
    for site in calls():
        if site.name in _TEXT_ONLY and site.call.args:
            places |= dict.fromkeys(site.says(site.call.args[0]), str(site))
    return places


def events() -> dict[str, str]:
    """Return the events that are logged as warnings or errors, each with its call."""
    places = {}
    for site in calls():
        first = site.call.args[0] if site.call.args else None
        loud = site.name in _LOUD or (site.name == "level" and _may_be_loud(site))
        if loud and isinstance(first, ast.Constant) and isinstance(first.value, str):
            places[first.value] = str(site)
    return places


def _may_be_loud(site: CallSite) -> bool:
    """Tell whether the function's `level` can be a warning or an error."""
    return any(
        isinstance(part, ast.Attribute) and part.attr in _LOUD
        for node in ast.walk(site.function or ast.Pass())
        if isinstance(node, ast.Assign) and _id(node.targets[0]) == "level"
        for part in ast.walk(node.value)
    )


def texts() -> Iterator[str]:
    """Yield every text in the program, docstrings and all."""
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                site = CallSite(module, ast.Call(node, [], []), None)
                yield from site.says(node)


def calls(module: str = "mirror") -> Iterator[CallSite]:
    """Yield every call in the modules whose name begins so; not the simulator's."""
    for name, tree in modules().items():
        if name.startswith(module) and ".simulator" not in name:
            yield from _within(name, tree, None)


def _within(module: str, node: ast.AST, function: ast.AST | None) -> Iterator[CallSite]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node
    if isinstance(node, ast.Call):
        yield CallSite(module, node, function)
    for child in ast.iter_child_nodes(node):
        yield from _within(module, child, function)


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module, by its name."""
    trees = {}
    for path in sorted((ROOT / "mirror").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if name != "mirror.__main__":
            trees[name] = ast.parse(path.read_text("utf-8"))
    return trees


def _heirs(names: Iterable[str]) -> set[str]:
    """Return these classes and all that derive from them."""
    heirs = set(names)
    classes = [
        node
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    while (
        more := {
            node.name for node in classes if heirs & {_id(base) for base in node.bases}
        }
        - heirs
    ):
        heirs |= more
    return heirs


def _id(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


class _TextReader:
    """Works out what an expression may be."""

    def __init__(self, site: CallSite) -> None:
        self._site = site
        self._met: set[str] = set()

    def texts(self, node: ast.expr) -> list[str]:
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=parts):
                choices = [self.texts(part) or [GAP] for part in parts]
                return ["".join(each) for each in itertools.product(*choices)]
            case ast.FormattedValue():
                return self.texts(node.value)
            case ast.IfExp(body=one, orelse=other):
                return self.texts(one) + self.texts(other)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                both = (self.texts(left) or [GAP], self.texts(right) or [GAP])
                return ["".join(each) for each in itertools.product(*both)]
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute):
                value = getattr(self._known(owner), attribute, None)
                return [str(value.value)] if isinstance(value, Enum) else []
            case ast.Name(id=name):
                return self._named(name)
            case _:
                return []

    def _named(self, name: str) -> list[str]:
        value = self._known(name)
        if isinstance(value, str):
            return [value]
        if name in self._met or self._site.function is None:
            return []
        self._met.add(name)
        texts: list[str] = []
        for node in ast.walk(self._site.function):
            if isinstance(node, ast.Assign | ast.AugAssign):
                targets = (
                    node.targets if isinstance(node, ast.Assign) else [node.target]
                )
                for target in targets:
                    texts += self._assigned(name, target, node.value)
        self._met.discard(name)
        return texts

    def _assigned(self, name: str, target: ast.expr, value: ast.expr) -> list[str]:
        if _id(target) == name:
            return self.texts(value)
        if isinstance(target, ast.Tuple):
            names = [_id(element) for element in target.elts]
            if name in names:
                return self._unpacked(names.index(name), value)
        return []

    def _unpacked(self, number: int, value: ast.expr) -> list[str]:
        """Return what stands at one place of the tuples that an expression gives."""
        texts: list[str] = []
        if isinstance(value, ast.Call):
            texts += _returned(self._known(_id(value.func)), number)
        for node in ast.walk(value):
            constant = self._known(_id(node))
            rows = constant.values() if isinstance(constant, dict) else [constant]
            texts += [str(row[number]) for row in rows if isinstance(row, tuple)]
        return texts

    def _known(self, name: str) -> Any:
        """Return what a name means in the module."""
        return getattr(importlib.import_module(self._site.module), name, None)


def _returned(function: Any, number: int) -> list[str]:
    """Return the constants at one place of the tuples that a function returns.

    Those of functions of its module whose result it hands on are among them.
    """
    module = getattr(function, "__module__", "")
    tree = modules().get(module)
    returns = [
        part
        for node in ast.walk(tree or ast.Module([], []))
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__
        for part in ast.walk(node)
        if isinstance(part, ast.Return)
    ]
    given = [
        returned.value.elts[number] for returned in returns if _is_tuple(returned.value)
    ]
    texts = [str(each.value) for each in given if isinstance(each, ast.Constant)]
    for returned in returns:
        for call in ast.walk(returned) if not _is_tuple(returned.value) else ():
            if isinstance(call, ast.Call):
                called = getattr(importlib.import_module(module), _id(call.func), None)
                texts += [] if called is None else _returned(called, number)
    return texts


def _is_tuple(node: ast.expr | None) -> TypeGuard[ast.Tuple]:
    return isinstance(node, ast.Tuple)
