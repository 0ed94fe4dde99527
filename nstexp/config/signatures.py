"""Find the arguments of functions and classes by parsing their source, because importing torch takes seconds.

Other modules also use it to find where a name of a module is defined or assigned.
"""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

Definition = ast.FunctionDef | ast.ClassDef
T = TypeVar("T")
MOST_STEPS = 8  # most imports that are followed from module to module


@cache
def parameters(target: str) -> frozenset[str] | None:
    """Names of the arguments of a function or class.

    Args:
        target: its full name, such as `torch.optim.Adam`.

    Returns:
        The names; None if the source is not available, or if any keyword argument is accepted.
    """
    module, _, name = target.rpartition(".")
    try:
        return _arguments(module, name)
    except (SyntaxError, ValueError, OSError, ImportError):  # no source: it is compiled, or missing
        return None


def settings_of(target: str) -> str | None:
    """Full name of the class in the attribute `settings_type` of a method's class; None if there is none."""
    module, _, name = target.rpartition(".")
    found = definition(module, name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return None
    settings = _class_attribute(found[1], "settings_type")
    where = definition(found[0], settings) if settings else None
    return f"{where[0]}.{settings}" if where else None


def _arguments(module: str, name: str) -> frozenset[str] | None:
    """`parameters` of a name in a module."""
    found = definition(module, name)
    if found is None:
        return None
    module, node = found
    if isinstance(node, ast.FunctionDef):
        return None if node.args.kwarg else _named(node)
    functions = [statement for statement in node.body if isinstance(statement, ast.FunctionDef)]
    init = next((function for function in functions if function.name == "__init__"), None)
    base_class = base_name(node)
    base = _arguments(module, base_class) if base_class else frozenset()
    if init is None:
        if not (node.bases or node.keywords or node.decorator_list):
            return frozenset()
        declared = frozenset(fields_of(node)) if is_dataclass(node) else frozenset()
        return None if base is None or not (declared or base) else declared | base
    if init.args.kwarg is None:
        return _named(init)
    # `**settings` of an nstexp method are the fields of its settings_type; other classes pass **kwargs to their base.
    settings = _class_attribute(node, "settings_type")
    rest = _arguments(module, settings) if settings else base if _passes_kwargs_on(init) else None
    return (_named(init) | rest) if rest else None


def _named(function: ast.FunctionDef) -> frozenset[str]:
    """The names of the arguments, without `self`, *args and **kwargs."""
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return frozenset(argument.arg for argument in arguments) - {"self"}


def base_name(node: ast.ClassDef) -> str | None:
    """The name of the only base of a class; None if it has several or none, or not a plain name."""
    return node.bases[0].id if len(node.bases) == 1 and isinstance(node.bases[0], ast.Name) else None


def is_dataclass(node: ast.ClassDef) -> bool:
    """Whether a class is declared as a dataclass."""
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def fields_of(node: ast.ClassDef) -> list[str]:
    """The attributes that a class declares with a type, in order."""
    targets = [statement.target for statement in node.body if isinstance(statement, ast.AnnAssign)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _class_attribute(node: ast.ClassDef, name: str) -> str | None:
    """The name that a class attribute is set to."""
    for statement in node.body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Name):
            continue
        if ast.unparse(statement.targets[0]) == name:
            return statement.value.id
    return None


def _passes_kwargs_on(init: ast.FunctionDef) -> bool:
    """Whether `__init__` passes its **kwargs to `super().__init__`."""
    calls = [node for node in ast.walk(init) if isinstance(node, ast.Call)]
    given = [k for call in calls if ast.unparse(call.func) == "super().__init__" for k in call.keywords if not k.arg]
    rest = init.args.kwarg.arg if init.args.kwarg else None
    return any(isinstance(keyword.value, ast.Name) and keyword.value.id == rest for keyword in given)


def definition(module: str, name: str) -> tuple[str, Definition] | None:
    """Find the definition of a function or class that a module defines or imports.

    Returns:
        The module that defines it, and the definition; None if the source is not available.
    """
    return _search(module, name, _definition_in)


def assigned(module: str, name: str) -> tuple[str, ast.expr] | None:
    """Find the assignment of a name that a module assigns or imports.

    Returns:
        The module that assigns it, and the assigned expression; None if there is none.
    """
    return _search(module, name, _assignment_in)


def _definition_in(statement: ast.stmt, name: str) -> Definition | None:
    return statement if isinstance(statement, Definition) and statement.name == name else None


def _assignment_in(statement: ast.stmt, name: str) -> ast.expr | None:
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return None
    target = statement.targets[0]
    return statement.value if isinstance(target, ast.Name) and target.id == name else None


def _search(
    module: str, name: str, wanted_in: Callable[[ast.stmt, str], T | None], steps: int = MOST_STEPS
) -> tuple[str, T] | None:
    """Search the statements of a module, and of the modules that it imports the name from.

    Args:
        module: full name of the module.
        name: to search for.
        wanted_in: returns the result if a statement defines the name, else None.
        steps: most modules to visit.
    """
    path = _source_file(module)
    if path is None or not steps:
        return None
    for statement in _statements(_parsed(path)):
        if (wanted := wanted_in(statement, name)) is not None:
            return module, wanted
        if isinstance(statement, ast.ImportFrom):
            source = _imported_module(module, path, statement)
            for alias in statement.names:
                if (alias.asname or alias.name) == name or alias.name == "*":
                    imported = name if alias.name == "*" else alias.name
                    if found := _search(source, imported, wanted_in, steps - 1):
                        return found
    return None


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements at the top of a module, and those under its `if` and `try`."""
    for statement in tree.body:
        yield statement
        for inner in ("body", "orelse"):
            if isinstance(statement, ast.If | ast.Try):
                yield from getattr(statement, inner)


def _imported_module(module: str, path: Path, statement: ast.ImportFrom) -> str:
    """Full name of the module that `from ... import` reads, also for relative imports."""
    if not statement.level:
        return statement.module or ""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    package = package[: len(package) - statement.level + 1]
    return ".".join([*package, *filter(None, [statement.module])])


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _source_file(module: str) -> Path | None:
    """The source file of a module, found without importing the packages that contain it; None if there is none."""
    root, *inner = module.split(".")
    spec = find_spec(root) if root else None
    if spec is None or spec.origin is None:
        return None
    place: Path | None = Path(spec.origin)
    for part in inner:
        if place is None or place.name != "__init__.py":
            return None
        folder = place.parent
        place = next((p for p in (folder / part / "__init__.py", folder / f"{part}.py") if p.is_file()), None)
    return place if place is not None and place.suffix == ".py" else None
