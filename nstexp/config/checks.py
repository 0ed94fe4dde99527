"""Check single arguments of nstexp's classes and functions by reading their source, before torch is imported.

Importing torch takes seconds. A constructor with the line `number("pixel_scale", pixel_scale, above=0)` refuses a wrong
value with a message of `core.errors`. The same call with the value in the configuration gives the same message at once.
Checks that cannot be read for certain, such as those under a condition, are left to the constructor.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from nstexp.config.signatures import Definition, assigned, base_name, definition, fields_of, is_dataclass
from nstexp.core import errors
from nstexp.core.errors import ArgumentError

ONE: dict[str, Callable[..., Any]] = {  # functions that check one argument
    check.__name__: check
    for check in (errors.choice, errors.flag, errors.name_list, errors.number, errors.text, errors.whole)
}
SEVERAL: dict[str, Callable[..., Any]] = {  # functions that check every keyword argument with this check
    "flags": errors.flag,
    "multiples_of_8": errors.multiple_of_8,
    "wholes": errors.whole,
}
OWN = "nstexp"  # the only package whose source is read
MOST_STEPS = 4  # most calls that are followed from one function to another
BRANCHES = ast.BoolOp | ast.IfExp | ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}


class Unsure(Exception):
    """An expression in the source has no plain value."""


@dataclass(frozen=True)
class Check:
    """One check of one argument.

    Args:
        argument: name of the argument that is checked.
        make: raises an ArgumentError for a wrong value.
        optional: whether None is accepted, whatever the check says.
    """

    argument: str
    make: Callable[[Any], Any]
    optional: bool


@dataclass(frozen=True)
class _Scope:
    """A function whose body is read.

    Args:
        module: full name of its module.
        base: name of the only base of its class; None if it is not a method of such a class.
        arguments: name of a parameter -> name of the argument of the outermost function that it holds.
        rest: name of its `**rest` parameter, if that holds arguments of the outermost function.
        fields: whether the arguments are attributes of `self`.
        steps: how many more calls may be followed.
    """

    module: str
    base: str | None
    arguments: Mapping[str, str]
    rest: str | None
    fields: bool
    steps: int

    def argument(self, expression: ast.expr) -> str | None:
        """The argument of the outermost function that an expression stands for; None if it is another value."""
        if self.fields:
            if isinstance(expression, ast.Attribute) and ast.unparse(expression.value) == "self":
                return self.arguments.get(expression.attr)
            return None
        return self.arguments.get(expression.id) if isinstance(expression, ast.Name) else None


@dataclass(frozen=True)
class _Given:
    """Arguments of a call, as names of arguments of the outermost function: by position, by name, and as **rest."""

    positional: Sequence[str | None] = ()
    named: Mapping[str, str | None] = field(default_factory=dict)
    rest: bool = False

    @property
    def has_any(self) -> bool:
        """Whether the call passes on any argument of the outermost function."""
        return self.rest or any(self.positional) or any(self.named.values())

    def of(self, parameters: Sequence[str]) -> dict[str, str]:
        """Name of a parameter -> name of the argument of the outermost function that it receives."""
        found: dict[str, str | None] = {**dict(zip(parameters, self.positional, strict=False)), **self.named}
        if self.rest:
            found = {**{parameter: parameter for parameter in parameters}, **found}
        return {parameter: argument for parameter, argument in found.items() if argument}


def refuse(target: str, settings: Mapping[str, Any], path: str) -> None:
    """Raise an error for the first setting that a class or function of nstexp would refuse, without importing it.

    Args:
        target: full name of the class or function.
        settings: its arguments.
        path: place of the settings in the configuration.

    Raises:
        ArgumentError: the error that the class itself would raise, with `path` in front of the argument.
    """
    for check in checks_of(target):
        value = settings.get(check.argument)
        if check.argument not in settings or (check.optional and value is None) or _is_object(value):
            continue
        try:
            check.make(value)
        except ArgumentError as error:
            raise (error if "." in error.argument else error.under(path)) from error  # tasks name the whole key


@cache
def checks_of(target: str) -> tuple[Check, ...]:
    """The checks that a class or function of nstexp makes of its arguments; () if its source is not available."""
    module, _, name = target.rpartition(".")
    try:
        return tuple(_checks(module, name, _Given(rest=True), MOST_STEPS))
    except (SyntaxError, ValueError, OSError, ImportError):  # no source
        return ()


def _is_object(value: Any) -> bool:
    """Whether Hydra replaces a value by an object before a class receives it."""
    return isinstance(value, Mapping) and "_target_" in value


def _checks(module: str, name: str, given: _Given, steps: int) -> Iterator[Check]:
    """Yield the checks of a function, or of a class when an object is created."""
    found = definition(module, name) if module.partition(".")[0] == OWN and steps else None
    if found is None:
        return
    module, node = found
    base = base_name(node) if isinstance(node, ast.ClassDef) else None
    function = _function_of(node)
    if function is None:
        if base:
            yield from _checks(module, base, given, steps)
        return
    fields = isinstance(node, ast.ClassDef) and function.name == "__post_init__"
    parameters = [arg.arg for arg in _parameters(function)]
    if isinstance(node, ast.ClassDef) and fields:
        parameters = fields_of(node)
    names = [name for name in ast.walk(function) if isinstance(name, ast.Name)]
    changed = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    arguments = {key: argument for key, argument in given.of(parameters).items() if fields or key not in changed}
    rest = function.args.kwarg.arg if function.args.kwarg and given.rest else None
    yield from _of_statements(function.body, _Scope(module, base, arguments, rest, fields, steps), None)


def _function_of(node: Definition) -> ast.FunctionDef | None:
    """The function that runs when a function or class is called; None if the source does not show it."""
    if isinstance(node, ast.FunctionDef):
        return node
    name = "__post_init__" if is_dataclass(node) else "__init__"
    methods = [statement for statement in node.body if isinstance(statement, ast.FunctionDef)]
    return next((method for method in methods if method.name == name), None)


def _parameters(function: ast.FunctionDef) -> list[ast.arg]:
    found = [*function.args.args, *function.args.kwonlyargs]
    return found[1:] if found and found[0].arg == "self" else found


def _of_statements(body: Sequence[ast.stmt], scope: _Scope, optional: str | None) -> Iterator[Check]:
    """Yield the checks in statements, up to the first one that may return.

    Args:
        body: the statements.
        scope: the function that they belong to.
        optional: an argument that is not None here.
    """
    for statement in body:
        if isinstance(statement, ast.If):
            present = _present(statement.test, scope)
            if present and not statement.orelse:
                yield from _of_statements(statement.body, scope, present)
        elif isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign | ast.Return):
            yield from _of_expression(statement.value, scope, optional)
        if any(isinstance(node, ast.Return) for node in ast.walk(statement)):
            return


def _present(test: ast.expr, scope: _Scope) -> str | None:
    """The argument that a condition compares as `is not None`; None for other conditions."""
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.IsNot) or len(test.ops) != 1:
        return None
    return scope.argument(test.left) if ast.unparse(test.comparators[0]) == "None" else None


def _of_expression(expression: ast.AST | None, scope: _Scope, optional: str | None) -> Iterator[Check]:
    """Yield the checks of all calls in an expression that are made whatever the values of the arguments are."""
    if isinstance(expression, ast.IfExp) and ast.unparse(expression.body) == "None":
        test = expression.test
        if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is):
            opposite = ast.Compare(test.left, [ast.IsNot()], test.comparators)
            if present := _present(opposite, scope):
                yield from _of_expression(expression.orelse, scope, present)
    if expression is None or isinstance(expression, BRANCHES):
        return
    if isinstance(expression, ast.Call):
        yield from _of_call(expression, scope, optional)
    for inner in ast.iter_child_nodes(expression):
        yield from _of_expression(inner, scope, optional)


def _of_call(call: ast.Call, scope: _Scope, optional: str | None) -> Iterator[Check]:
    if isinstance(call.func, ast.Name):
        name = call.func.id
        if name in ONE.keys() | SEVERAL.keys():
            yield from _made_by(name, call, scope, optional)
        elif optional is None and (given := _given(call, scope)).has_any:
            yield from _checks(scope.module, name, given, scope.steps - 1)
    elif ast.unparse(call.func) == "super().__init__" and scope.base:
        yield from _checks(scope.module, scope.base, _given(call, scope), scope.steps)


def _given(call: ast.Call, scope: _Scope) -> _Given:
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    positional = [] if starred else [scope.argument(argument) for argument in call.args]
    named = {keyword.arg: scope.argument(keyword.value) for keyword in call.keywords if keyword.arg}
    passed_on = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is None]
    return _Given(positional, named, scope.rest is not None and scope.rest in passed_on)


def _made_by(name: str, call: ast.Call, scope: _Scope, optional: str | None) -> Iterator[Check]:
    """Yield the checks of arguments that a call of a function of `core.errors` makes."""
    try:
        if name in ONE:
            said, value, *limits = call.args
            known = {str(keyword.arg): _value(keyword.value, scope.module) for keyword in call.keywords}
            pairs = [(_value(said, scope.module), value)]
            make: Callable[..., Any] = partial(ONE[name], **known)
        else:
            limits = call.args
            pairs = [(keyword.arg, keyword.value) for keyword in call.keywords]
            make = SEVERAL[name]
        values = [_value(limit, scope.module) for limit in limits]
    except Unsure:
        return
    for said, expression in pairs:
        argument = scope.argument(expression)
        if argument and said:
            yield Check(argument, partial(_make, make, said, values), argument == optional)


def _make(check: Callable[..., Any], said: str, limits: Sequence[Any], value: Any) -> None:
    check(said, value, *limits)


def _value(expression: ast.expr, module: str) -> Any:
    """The value of a plain expression: a constant, a list of constants, arithmetic, or a name for one of these.

    Raises:
        Unsure: the expression is of another kind.
    """
    if isinstance(expression, ast.Constant):
        return expression.value
    if isinstance(expression, ast.Tuple | ast.List):
        return tuple(_value(element, module) for element in expression.elts)
    if isinstance(expression, ast.Dict):  # callers need only the keys
        return tuple(_value(key, module) for key in expression.keys if key)
    if isinstance(expression, ast.UnaryOp) and isinstance(expression.op, ast.USub):
        return -_value(expression.operand, module)
    if isinstance(expression, ast.BinOp) and type(expression.op) in OPERATIONS:
        return OPERATIONS[type(expression.op)](_value(expression.left, module), _value(expression.right, module))
    if isinstance(expression, ast.Name) and (found := assigned(module, expression.id)):
        return _value(found[1], found[0])
    if isinstance(expression, ast.Subscript) and ast.unparse(expression.value) == "Literal":
        words = _value(expression.slice, module)
        return words if isinstance(words, tuple) else (words,)
    if isinstance(expression, ast.Call) and len(expression.args) == 1 and not expression.keywords:
        if ast.unparse(expression.func) == "get_args":
            return _value(expression.args[0], module)
        if ast.unparse(expression.func) == "sorted":
            return tuple(sorted(_value(expression.args[0], module)))
    raise Unsure
