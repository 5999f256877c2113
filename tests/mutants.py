"""Mutation testing: plant one small bug after another and see whether a test finds it.

`python -m tests.mutants MODULE` changes MODULE, say `mirror/pipeline/spool/spool.py`,
in one place at a time and runs those tests that come by there, quickest first, each
time in a fork of this process. Texts for people and the facts of a log line are left
alone.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import inspect
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType, ModuleType

_WITH = {
    "disk/lanes": ["spool_hangs", "spool"],
    "pipeline/fetch/attempt": ["attempt", "held_body", "records"],
    "pipeline/fetch/download": ["attempt", "resume_guards", "records", "fairness"],
    "pipeline/fetch/receive": ["receive", "attempt", "full_disk"],
    "pipeline/publish/attempt": ["publisher", "hung_publish", "records"],
    "pipeline/publish/publisher": ["publisher", "full_target", "records"],
    "pipeline/spool/part": ["part", "spool", "strays", "resume_guards", "full_disk"],
    "pipeline/spool/spool": ["spool", "spool_hangs", "strays", "attempt", "full_disk"],
}
_SWAPPED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_WRAPPERS = {"run_to_end", "shield", "max", "min", "round", "frozenset"}
_FORK = multiprocessing.get_context("fork")
_LARGEST_FILE, _MOST_MEMORY = 2**28, 2**33


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in the place of a node."""
    for kind in (_operators, _conditions, _values, _handlers, _statements):
        yield from kind(node)


def _operators(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[op, *others]) if type(op) in _SWAPPED:
            yield _with(node, ops=[_SWAPPED[type(op)](), *others])
        case ast.BoolOp(op=op) | ast.BinOp(op=op) | ast.AugAssign(op=op):
            if type(op) in _SWAPPED:
                yield _with(node, op=_SWAPPED[type(op)]())


def _conditions(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.If(test=ast.Compare()) | ast.IfExp(test=ast.Compare()):
            return
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield _with(node, test=ast.UnaryOp(op=ast.Not(), operand=test))


def _values(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(value=not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value=value + 1)
        case ast.Constant(value=str(value)) if value and " " not in value:
            yield ast.Constant(value=value + "X")
        case ast.Constant(value=bytes(value)):
            yield ast.Constant(value=value + b"X")
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args):
            if name in _WRAPPERS:
                yield from args


def _handlers(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.ExceptHandler(type=ast.Tuple(elts=kinds)):
            for kind in kinds:
                rest = [each for each in kinds if each is not kind]
                yield _with(node, type=ast.Tuple(elts=rest, ctx=ast.Load()))
        case ast.ExceptHandler():
            yield _with(node, type=ast.Tuple(elts=[], ctx=ast.Load()))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Return(value=None) | ast.Return(value=ast.Constant(value=None)):
            yield ast.Pass()
        case ast.Return():
            yield _with(node, value=ast.Constant(value=None))
        case ast.With(items=[ast.withitem(optional_vars=None)], body=body):
            yield ast.If(test=ast.Constant(value=True), body=body, orelse=[])
        case ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield ast.Pass()
        case ast.Expr(value=ast.Call() | ast.Await()):
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript() | ast.Tuple(), *_]):
            yield ast.Pass()


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def places(node: ast.AST) -> Iterator[tuple[Callable[[ast.AST], None], ast.AST]]:
    """Yield each node whose change is a bug, and what puts another there."""
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "type_params"}:
            continue
        children = value if isinstance(value, list) else [value]
        for number, child in enumerate(children):
            if not isinstance(child, ast.AST) or _is_for_people(child):
                continue

            def put(new: ast.AST, name=name, value=value, number=number) -> None:
                if isinstance(value, list):
                    value[number] = new
                else:
                    setattr(node, name, new)

            yield put, child
            if not _says(child):
                yield from places(child)


def _is_for_people(node: ast.AST) -> bool:
    match node:
        case ast.Expr(value=ast.Constant()) | ast.JoinedStr():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id="_log" | "T")]):
            return True
    return False


def _says(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith("_log.")


def mutants(source: str) -> Iterator[tuple[int, str, CodeType]]:
    """Yield the line, the change in words and the code of each mutant."""
    tree = ast.parse(source)
    for put, node in list(places(tree)):
        for new in variants(node):
            ast.fix_missing_locations(ast.copy_location(new, node))
            was, now = (ast.unparse(each).partition("\n")[0] for each in (node, new))
            put(new)
            try:
                code = compile(tree, "<mutant>", "exec")
            finally:
                put(node)
            line = getattr(node, "lineno", 0)
            yield line, f"{was}  ->  {now}", code


class Planter:
    """Takes the place of pytest's loop: one fork of it for each mutant."""

    def __init__(self, module: Path, most_s: float, lines: list[int] | None) -> None:
        self.path = str(module.resolve())
        self.name = ".".join(module.with_suffix("").parts)
        self.most_s = most_s
        self.wanted = lines
        self.count: Counter[str] = Counter()
        self._test = ""
        self._lines: dict[str, set[int]] = defaultdict(set)
        self._seconds: dict[str, float] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run what comes by each mutant against it."""
        at_import = _lines_of(compile(Path(self.path).read_text(), self.path, "exec"))
        self._survey(session)
        quickest = sorted(session.items, key=lambda item: self._seconds[item.nodeid])
        for line, change, code in mutants(Path(self.path).read_text()):
            if self.wanted and line not in self.wanted:
                continue
            chosen, total_s = [], 0.0
            for item in quickest:
                near = line in at_import or line in self._lines[item.nodeid]
                if near and total_s < self.most_s:
                    chosen.append(item)
                    total_s += self._seconds[item.nodeid]
            end = "untested"
            if chosen:
                end = fate(partial(self._attempt, chosen, code), 10 + 5 * total_s)
            self.count[end] += 1
            sys.stderr.write(f"\rline {line}: {dict(self.count)} ")
            if end in {"survived", "untested"}:
                say(f"{end} {self.name}:{line}: {change}")
        return True

    def _survey(self, session: pytest.Session) -> None:
        """See how long each test takes and which lines it comes by."""
        answer, question = _FORK.Pipe(duplex=False)

        def work() -> bool:
            threading.settrace(self._trace)
            sys.settrace(self._trace)
            passed = True
            for item in session.items:
                self._test, began = item.nodeid, time.monotonic()
                passed = run([item]) and passed
                self._seconds[item.nodeid] = time.monotonic() - began
            sys.settrace(None)
            question.send((self._lines, self._seconds))
            return passed

        process = _FORK.Process(target=_apart, args=(work,))
        process.start()
        self._lines, self._seconds = answer.recv()
        process.join()
        if process.exitcode:
            say("without any mutant a test fails")
            os._exit(1)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != self.path:
            return None
        self._lines[self._test].add(frame.f_lineno)
        return self._trace

    def _attempt(self, chosen: list[pytest.Item], code: CodeType) -> bool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
        transplant(sys.modules[self.name], code)
        for item in chosen:
            within_s = 5 + 10 * self._seconds[item.nodeid]
            item.add_marker(pytest.mark.timeout(within_s), append=False)
            if not run([item]):
                return False
        return True


def _lines_of(code: CodeType) -> set[int]:
    """Return the lines that run when a module is imported."""
    found = {line for *_, line in code.co_lines() if line}
    for each in code.co_consts:
        if isinstance(each, CodeType) and not each.co_flags & inspect.CO_OPTIMIZED:
            found |= _lines_of(each)
    return found


def run(items: list[pytest.Item]) -> bool:
    """Run tests; tell whether they passed."""
    session = items[0].session
    for item in items:
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    return session.testsfailed == 0


def transplant(module: ModuleType, code: CodeType) -> None:
    """Let a module that is in use already do what other code says."""
    space = {"__name__": module.__name__}
    exec(code, space)
    for name, value in space.items():
        if isinstance(value, int | float | str | frozenset | timedelta):
            setattr(module, name, value)
    now = dict(functions(vars(module), module.__name__))
    for name, function in functions(space, module.__name__):
        now[name].__code__ = function.__code__
        now[name].__defaults__ = function.__defaults__
        now[name].__kwdefaults__ = function.__kwdefaults__


def functions(
    space: Mapping[str, Any], module: str, within: str = ""
) -> Iterator[tuple[str, FunctionType]]:
    """Yield the functions and methods that a module itself defines."""
    for name, value in space.items():
        plain = getattr(value, "fget", getattr(value, "__func__", value))
        if isinstance(plain, FunctionType) and plain.__module__ == module:
            yield f"{within}{name}", inspect.unwrap(plain)
        elif isinstance(plain, type) and plain.__module__ == module:
            yield from functions(vars(plain), module, f"{within}{name}.")


def fate(work: Callable[[], bool], within_s: float) -> str:
    """Return `killed`, `timeout` or `survived`."""
    process = _FORK.Process(target=_apart, args=(work,))
    process.start()
    process.join(within_s)
    ended = process.exitcode
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    return "timeout" if ended is None else "killed" if ended else "survived"


def _apart(work: Callable[[], bool]) -> None:
    """Do the work in a process group of its own, in silence."""
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os._exit(0 if work() else 1)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Print each survivor as it is found, and the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="*", help="quick ones of it, if not given")
    parser.add_argument("--lines", type=int, nargs="+", help="these only")
    parser.add_argument("--most", type=float, default=15, help="seconds per mutant")
    given = parser.parse_args()
    below = given.module.with_suffix("").as_posix().removeprefix("mirror/")
    near = _WITH.get(below, [])
    tests = given.tests or [f"tests/integration/test_{name}.py" for name in near]
    planter = Planter(given.module, given.most, given.lines)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        quiet = ["-qq", "--no-summary", "--capture=no", "-p", "no:cacheprovider"]
        pytest.main([*quiet, f"--basetemp={folder}/tests", *tests], [planter])
    dead, all_ = planter.count["killed"] + planter.count["timeout"], planter.count
    took_s = time.monotonic() - began
    say(f"{given.module}: {dead}/{all_.total()} {dict(all_)} {took_s:.0f} s")


if __name__ == "__main__":
    main()
