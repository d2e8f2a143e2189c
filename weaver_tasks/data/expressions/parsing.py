"""Parses expressions of data configurations: finds the variables they need and the order in which to compute them.

`evaluation.evaluate` computes them. Uses the standard library only.
"""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.expressions.grammar import HELPERS, MODULES, RANDOM, RANDOM_HELPERS, dotted_name, parse

ON_THE_FLY_VARIABLE = "aux_training_"
"""True while training, False otherwise; given by the loader, never read from a file."""


_NO_FUNCTIONS: Mapping[str, bool] = {}


@dataclass(frozen=True)
class Expression:
    """A parsed and checked expression. names: the variables it needs; random: whether it draws random numbers.

    Expressions are cached and shared: do not modify their trees.
    """

    text: str
    tree: ast.expr
    names: frozenset[str]
    random: bool


def parse_expression(text: str, *, functions: Mapping[str, bool] = _NO_FUNCTIONS, where: str = "expression") -> Expression:
    """Parse and check an expression.

    functions: the user's functions: name -> whether it draws random numbers. where: file and key, for error messages.
    Raises DataConfigError.
    """
    return _parsed(text, frozenset(functions.items()), where)


@functools.lru_cache(maxsize=4096)
def _parsed(text: str, functions: frozenset[tuple[str, bool]], where: str) -> Expression:
    own = {name for name, _ in functions}
    tree = parse(text, functions=frozenset(own), where=where)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    words = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    names = {word.id for word in words if id(word) not in called} - MODULES.keys() - HELPERS - own
    used = {word.id for word in words} | {dotted_name(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    random = bool(used & (RANDOM_HELPERS | RANDOM | {name for name, draws in functions if draws}))
    return Expression(text=text, tree=tree, names=frozenset(names), random=random)


def names_in(text: str, *, functions: Mapping[str, bool] = _NO_FUNCTIONS, where: str = "expression") -> set[str]:
    """Return the variables that an expression needs: its names without functions and modules. Raises DataConfigError."""
    return set(parse_expression(text, functions=functions, where=where).names)


@functools.lru_cache(maxsize=4096)
def normal_form(text: str) -> str:
    """Return the expression without comments and spacing, so that a change of its layout does not change a digest."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(f"(\n{text}\n)").readline)
    return " ".join([token.string for token in tokens if token.type not in skipped][1:-1])


def resolve(
    definitions: Mapping[str, str],
    wanted: Iterable[str],
    *,
    functions: Mapping[str, bool] = _NO_FUNCTIONS,
    where: str = "data configuration",
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return what is needed to compute `wanted`: (branches to read, sorted; definitions, each after those it needs).

    Definitions may be given in any order. `aux_training_` is neither a branch nor a definition. Raises DataConfigError
    naming the definitions of a cycle.
    """
    branches: set[str] = set()
    ordered: dict[str, str] = {}
    needs: dict[str, list[str]] = {}
    for name in sorted(set(wanted)):
        # Depth-first search with an explicit stack, because long chains of definitions would exceed the recursion limit.
        path: list[str] = [name]
        while path:
            current = path[-1]
            if current not in definitions:
                branches.add(path.pop())
                continue
            if current not in needs:
                place = f"{where}: new_variables.{current}"
                needs[current] = sorted(names_in(definitions[current], functions=functions, where=place), reverse=True)
            unmet = [need for need in needs[current] if need not in ordered and need not in branches]
            if not unmet:
                ordered.setdefault(current, definitions[current])
                path.pop()
            elif unmet[-1] in path:
                cycle = " → ".join([*path[path.index(unmet[-1]) :], unmet[-1]])
                raise DataConfigError(f"{where}: new_variables.{current}: needs itself ({cycle}). Give one of them another name.")
            else:
                path.append(unmet[-1])
    return tuple(sorted(branches - {ON_THE_FLY_VARIABLE})), ordered


def on_the_fly(definitions: Mapping[str, str], wanted: Iterable[str], *, functions: Mapping[str, bool] = _NO_FUNCTIONS) -> set[str]:
    """Return those of `wanted`, and of the definitions they need, that are recomputed each epoch and thus cannot be staged.

    They draw random numbers, differ between training and testing, or need a definition that does.
    """
    _, ordered = resolve(definitions, wanted, functions=functions)
    found: set[str] = set()
    for name, text in ordered.items():
        expression = parse_expression(text, functions=functions)
        if expression.random or ON_THE_FLY_VARIABLE in expression.names or expression.names & found:
            found.add(name)
    return found
