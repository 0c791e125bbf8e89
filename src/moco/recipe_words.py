"""Recipes for people: a file with each field's help, what two of them differ in; no torch here."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from moco import recipe as recipe_module
from moco import specs, start_spec
from moco.recipe import Recipe
from moco.recipe_files import field_yaml, flat_fields
from moco.start_spec import StartSpec

WIDTH = 80


@dataclass(frozen=True)
class Change:
    """One thing that two recipes differ in: a field, or several fields of one part."""

    part: str
    """The field's full name, or that of the part: encoder, dictionary, views or optimizer."""
    fields: dict[str, tuple[Any, Any]]
    """Both values by full field name."""

    @property
    def lines(self) -> list[str]:
        """The change for people, one line a field."""
        if self.part in self.fields:
            return [_line(self.part, *self.fields[self.part])]
        return [
            f"{self.part}:",
            *[f"  {_line(name.rpartition('.')[2], *both)}" for name, both in self.fields.items()],
        ]


def recipe_changes(old: Recipe, new: Recipe) -> list[Change]:
    """Return what differs but name and source; several fields of one part are one change."""
    before, after = flat_fields(old), flat_fields(new)
    parts: dict[str, dict[str, tuple[Any, Any]]] = {}
    for name in before:
        if before[name] != after[name] and name not in ("name", "source"):
            parts.setdefault(name.partition(".")[0], {})[name] = (before[name], after[name])
    return [
        Change(next(iter(differing)) if len(differing) == 1 else part, differing)
        for part, differing in parts.items()
    ]


def commented_yaml(recipe: Recipe, head: str) -> str:
    """Return the recipe as a recipe file, with each field's help above it.

    Args:
        head: one line of comment at the top.
    """
    lines = [*_comment(head, "")]
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        lines += ["", *_comment(_help(Recipe).get(field.name, ""), "")]
        if not is_dataclass(value):
            lines.append(field_yaml(field.name, _plain(value)))
            continue
        lines.append(f"{field.name}:")
        help_texts = _help(get_type_hints(Recipe)[field.name])
        for inner in fields(value):
            text = field_yaml(inner.name, _plain(getattr(value, inner.name)))
            lines += [*_comment(help_texts.get(inner.name, ""), "  "), textwrap.indent(text, "  ")]
    return "\n".join(lines) + "\n"


def _line(name: str, old: Any, new: Any) -> str:
    return f"{field_yaml(name, old)} -> {field_yaml(name, new).removeprefix(f'{name}: ')}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _comment(text: str, indent: str) -> list[str]:
    words = " ".join(text.split())
    return textwrap.wrap(
        words, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )


def _help(kind: type) -> dict[str, str]:
    """Return the docstring under each field, which Python itself does not keep."""
    module = {Recipe: recipe_module, StartSpec: start_spec}.get(kind, specs)
    try:
        tree = ast.parse(inspect.getsource(module))
    except OSError:  # installed without its source
        return {}
    found = {}
    body = next(
        n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == kind.__name__
    )
    for declared, text in itertools.pairwise(body):
        match declared, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                found[name] = words
    return found
