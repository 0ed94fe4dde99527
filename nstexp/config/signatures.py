"""Names of the arguments that a function or class takes, read from its source: importing torch takes seconds."""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

Definition = ast.FunctionDef | ast.ClassDef
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
    found = _definition(module, name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return None
    settings = _assigned(found[1], "settings_type")
    where = _definition(found[0], settings) if settings else None
    return f"{where[0]}.{settings}" if where else None


def _arguments(module: str, name: str) -> frozenset[str] | None:
    found = _definition(module, name)
    if found is None:
        return None
    module, definition = found
    if isinstance(definition, ast.FunctionDef):
        return None if definition.args.kwarg else _named(definition)
    functions = [each for each in definition.body if isinstance(each, ast.FunctionDef)]
    init = next((each for each in functions if each.name == "__init__"), None)
    base = _arguments(module, definition.bases[0].id) if _has_one_base(definition) else frozenset()
    if init is None:
        if not (definition.bases or definition.keywords or definition.decorator_list):
            return frozenset()
        own = _fields(definition) if _is_dataclass(definition) else frozenset()
        return None if base is None or not (own or base) else own | base
    if init.args.kwarg is None:
        return _named(init)
    # What an nstexp method takes as **settings are the fields of its settings_type; others pass it on to their base.
    settings = _assigned(definition, "settings_type")
    rest = _arguments(module, settings) if settings else base if _passes_on(init) else None
    return (_named(init) | rest) if rest else None


def _named(function: ast.FunctionDef) -> frozenset[str]:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return frozenset(each.arg for each in arguments) - {"self"}


def _has_one_base(definition: ast.ClassDef) -> bool:
    return len(definition.bases) == 1 and isinstance(definition.bases[0], ast.Name)


def _is_dataclass(definition: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in definition.decorator_list)


def _fields(definition: ast.ClassDef) -> frozenset[str]:
    annotated = [each.target for each in definition.body if isinstance(each, ast.AnnAssign)]
    return frozenset(each.id for each in annotated if isinstance(each, ast.Name))


def _assigned(definition: ast.ClassDef, name: str) -> str | None:
    for each in definition.body:
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Name) and ast.unparse(each.targets[0]) == name:
            return each.value.id
    return None


def _passes_on(init: ast.FunctionDef) -> bool:
    """Whether `super().__init__` is given what comes beside the named arguments."""
    calls = [each for each in ast.walk(init) if isinstance(each, ast.Call)]
    given = [k for call in calls if ast.unparse(call.func) == "super().__init__" for k in call.keywords if not k.arg]
    return any(isinstance(each.value, ast.Name) and each.value.id == init.args.kwarg.arg for each in given)


def _definition(module: str, name: str, steps: int = MOST_STEPS) -> tuple[str, Definition] | None:
    """Where a name of a module is defined: the module, and the definition."""
    path = _file(module)
    if path is None or not steps:
        return None
    tree = _parsed(path)
    for statement in _statements(tree):
        if isinstance(statement, Definition) and statement.name == name:
            return module, statement
        if isinstance(statement, ast.ImportFrom):
            source = _source(module, path, statement)
            for alias in statement.names:
                if (alias.asname or alias.name) == name or alias.name == "*":
                    wanted = name if alias.name == "*" else alias.name
                    if found := _definition(source, wanted, steps - 1):
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
