"""Names of the arguments that a function or class takes, read from its source: importing torch takes seconds.

Also where a name of a module is defined, and what it is set to, for those that read more of a source.
"""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

Definition = ast.FunctionDef | ast.ClassDef
T = TypeVar("T")
MOST_STEPS = 8  # from module to module, until the definition is found


@cache
def parameters(target: str) -> frozenset[str] | None:
    """Names of the arguments of a function or class.

    Args:
        target: its full name, such as `torch.optim.Adam`.

    Returns:
        The names; None if the source does not say, or if any argument is taken.
    """
    module, _, name = target.rpartition(".")
    try:
        return _arguments(module, name)
    except (SyntaxError, ValueError, OSError, ImportError):  # nothing to read: compiled, or not there
        return None


def settings_of(target: str) -> str | None:
    """Full name of the class of a method's settings, its `settings_type`; None: it says none."""
    module, _, name = target.rpartition(".")
    found = definition(module, name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return None
    settings = _class_attribute(found[1], "settings_type")
    where = definition(found[0], settings) if settings else None
    return f"{where[0]}.{settings}" if where else None


def _arguments(module: str, name: str) -> frozenset[str] | None:
    found = definition(module, name)
    if found is None:
        return None
    module, node = found
    if isinstance(node, ast.FunctionDef):
        return None if node.args.kwarg else _named(node)
    functions = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    init = next((each for each in functions if each.name == "__init__"), None)
    base = _arguments(module, node.bases[0].id) if has_one_base(node) else frozenset()
    if init is None:
        if not (node.bases or node.keywords or node.decorator_list):
            return frozenset()
        own = frozenset(fields_of(node)) if is_dataclass(node) else frozenset()
        return None if base is None or not (own or base) else own | base
    if init.args.kwarg is None:
        return _named(init)
    # What an nstexp method takes as **settings are the fields of its settings_type; others pass it on to their base.
    settings = _class_attribute(node, "settings_type")
    rest = _arguments(module, settings) if settings else base if _passes_on(init) else None
    return (_named(init) | rest) if rest else None


def _named(function: ast.FunctionDef) -> frozenset[str]:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return frozenset(each.arg for each in arguments) - {"self"}


def has_one_base(node: ast.ClassDef) -> bool:
    """Whether a class has a single base, which its module knows by a plain name."""
    return len(node.bases) == 1 and isinstance(node.bases[0], ast.Name)


def is_dataclass(node: ast.ClassDef) -> bool:
    """Whether a class is declared as a dataclass."""
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def fields_of(node: ast.ClassDef) -> list[str]:
    """The attributes that a class declares with a type, in their order."""
    annotated = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
    return [each.id for each in annotated if isinstance(each, ast.Name)]


def _class_attribute(node: ast.ClassDef, name: str) -> str | None:
    for each in node.body:
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Name) and ast.unparse(each.targets[0]) == name:
            return each.value.id
    return None


def _passes_on(init: ast.FunctionDef) -> bool:
    """Whether `super().__init__` is given what comes beside the named arguments."""
    calls = [each for each in ast.walk(init) if isinstance(each, ast.Call)]
    given = [k for call in calls if ast.unparse(call.func) == "super().__init__" for k in call.keywords if not k.arg]
    return any(isinstance(each.value, ast.Name) and each.value.id == init.args.kwarg.arg for each in given)


def definition(module: str, name: str) -> tuple[str, Definition] | None:
    """Where a function or class that a module knows by a name is defined: the module, and the definition."""
    return _found(module, name, _definition_in)


def assigned(module: str, name: str) -> tuple[str, ast.expr] | None:
    """Where a name of a module is set: the module, and what to."""
    return _found(module, name, _assignment_in)


def _definition_in(statement: ast.stmt, name: str) -> Definition | None:
    return statement if isinstance(statement, Definition) and statement.name == name else None


def _assignment_in(statement: ast.stmt, name: str) -> ast.expr | None:
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return None
    target = statement.targets[0]
    return statement.value if isinstance(target, ast.Name) and target.id == name else None


def _found(
    module: str, name: str, wanted_in: Callable[[ast.stmt, str], T | None], steps: int = MOST_STEPS
) -> tuple[str, T] | None:
    """What the statements of a module, or of one that it imports the name from, have under a name."""
    path = _file(module)
    if path is None or not steps:
        return None
    for statement in _statements(_parsed(path)):
        if (own := wanted_in(statement, name)) is not None:
            return module, own
        if isinstance(statement, ast.ImportFrom):
            source = _source(module, path, statement)
            for alias in statement.names:
                if (alias.asname or alias.name) == name or alias.name == "*":
                    imported = name if alias.name == "*" else alias.name
                    if found := _found(source, imported, wanted_in, steps - 1):
                        return found
    return None


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Of a module, also those under `if` and `try`."""
    for statement in tree.body:
        yield statement
        for inner in ("body", "orelse"):
            if isinstance(statement, ast.If | ast.Try):
                yield from getattr(statement, inner)


def _source(module: str, path: Path, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module or ""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    package = package[: len(package) - statement.level + 1]
    return ".".join([*package, *filter(None, [statement.module])])


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _file(module: str) -> Path | None:
    """A module's source, without importing the packages that it is in."""
    root, *inner = module.split(".")
    spec = find_spec(root) if root else None
    if spec is None or spec.origin is None:
        return None
    place = Path(spec.origin)
    for part in inner:
        folder = place.parent
        if place.name != "__init__.py":
            return None
        place = next((p for p in (folder / part / "__init__.py", folder / f"{part}.py") if p.is_file()), None)
        if place is None:
            return None
    return place if place.suffix == ".py" else None
