"""Checks that classes and functions of nstexp make of single arguments, read from their source: they are made before
torch is imported, which takes seconds.

A constructor with the line `number("pixel_scale", pixel_scale, above=0)` refuses a wrong value with a sentence of
`core.errors`. The same call, made of the value in the configuration, gives the same sentence at once. What cannot be
read for certain, such as a check that depends on something, is left to the constructor.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from nstexp.config.signatures import Definition, assigned, definition, fields_of, has_one_base, is_dataclass
from nstexp.core import errors
from nstexp.core.errors import ArgumentError

ONE = {check.__name__: check for check in (errors.choice, errors.flag, errors.name_list, errors.number, errors.text)}
ONE["whole"] = errors.whole
SEVERAL = {  # of these each keyword is an argument with its value
    "flags": errors.flag,
    "multiples_of_8": errors.multiple_of_8,
    "wholes": errors.whole,
}
OWN = "nstexp"  # what other packages check is no concern of `core.errors`
MOST_STEPS = 4  # from one function to another that it gives its arguments to
BRANCHES = ast.BoolOp | ast.IfExp | ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}


class Unsure(Exception):
    """A source does not say a value plainly."""


@dataclass(frozen=True)
class Check:
    """One check of one argument.

    Args:
        argument: of the class or function that a configuration names.
        make: raises an ArgumentError for a wrong value.
        optional: whether None is right, whatever the check says.
    """

    argument: str
    make: Callable[[Any], Any]
    optional: bool


@dataclass(frozen=True)
class _Scope:
    """A function whose body is read.

    Args:
        module: where it is.
        base: name of its class's base, if it is a method of a class with a single one.
        arguments: what its parameters are called by those who configure the outermost function.
        rest: name of its `**rest`, where that holds arguments of the outermost one, too.
        fields: whether the arguments are attributes of `self`.
        steps: how many functions further may be read.
    """

    module: str
    base: str | None
    arguments: Mapping[str, str]
    rest: str | None
    fields: bool
    steps: int

    def argument(self, expression: ast.expr) -> str | None:
        """The argument whose value an expression is."""
        if self.fields:
            of_self = isinstance(expression, ast.Attribute) and ast.unparse(expression.value) == "self"
            return self.arguments.get(expression.attr) if of_self else None
        return self.arguments.get(expression.id) if isinstance(expression, ast.Name) else None


@dataclass(frozen=True)
class _Given:
    """Arguments with which a function is called: by position, by name, and whether further names are passed on."""

    positional: Sequence[str | None] = ()
    named: Mapping[str, str | None] = field(default_factory=dict)
    rest: bool = False

    @property
    def has_any(self) -> bool:
        return self.rest or any(self.positional) or any(self.named.values())

    def of(self, parameters: Sequence[str]) -> dict[str, str]:
        """Parameter -> the argument of the outermost function that it is."""
        found = dict(zip(parameters, self.positional, strict=False)) | dict(self.named)
        if self.rest:
            found = {parameter: parameter for parameter in parameters} | found
        return {parameter: argument for parameter, argument in found.items() if argument}


def refuse(target: str, settings: Mapping[str, Any], path: str) -> None:
    """Raise for the first setting that a class or function of nstexp would refuse, without importing it.

    Args:
        target: its full name.
        settings: its arguments.
        path: where the settings are.

    Raises:
        ArgumentError: the one that the class itself would raise, with the place of the settings in front.
    """
    for check in checks_of(target):
        value = settings.get(check.argument)
        if check.argument not in settings or (check.optional and value is None) or _is_object(value):
            continue
        try:
            check.make(value)
        except ArgumentError as error:
            raise (error if "." in error.argument else error.under(path)) from error  # tasks say the whole key


@cache
def checks_of(target: str) -> tuple[Check, ...]:
    """The checks that a class or function of nstexp makes of its arguments; none if its source does not say."""
    module, _, name = target.rpartition(".")
    try:
        return tuple(_checks(module, name, _Given(rest=True), MOST_STEPS))
    except (SyntaxError, ValueError, OSError, ImportError):  # nothing to read
        return ()


def _is_object(value: Any) -> bool:
    """Whether Hydra makes something else of a value before a class sees it."""
    return isinstance(value, Mapping) and "_target_" in value


def _checks(module: str, name: str, given: _Given, steps: int) -> Iterator[Check]:
    """Those of a function, or of a class when an object is made."""
    found = definition(module, name) if module.partition(".")[0] == OWN and steps else None
    if found is None:
        return
    module, node = found
    base = node.bases[0].id if isinstance(node, ast.ClassDef) and has_one_base(node) else None
    function = _function_of(node)
    if function is None:
        if base:
            yield from _checks(module, base, given, steps)
        return
    fields = function.name == "__post_init__"
    parameters = fields_of(node) if fields else [arg.arg for arg in _parameters(function)]
    changed = {each.id for each in ast.walk(function) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    arguments = {key: argument for key, argument in given.of(parameters).items() if fields or key not in changed}
    rest = function.args.kwarg.arg if function.args.kwarg and given.rest else None
    yield from _of_statements(function.body, _Scope(module, base, arguments, rest, fields, steps), None)


def _function_of(node: Definition) -> ast.FunctionDef | None:
    """What runs when a function or class is called, if the source says it."""
    if isinstance(node, ast.FunctionDef):
        return node
    name = "__post_init__" if is_dataclass(node) else "__init__"
    return next((each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == name), None)


def _parameters(function: ast.FunctionDef) -> list[ast.arg]:
    found = [*function.args.args, *function.args.kwonlyargs]
    return found[1:] if found and found[0].arg == "self" else found


def _of_statements(body: Sequence[ast.stmt], scope: _Scope, optional: str | None) -> Iterator[Check]:
    """Checks of statements, until one that may return.

    Args:
        optional: the argument that is not None here.
    """
    for statement in body:
        if isinstance(statement, ast.If):
            present = _present(statement.test, scope)
            if present and not statement.orelse:
                yield from _of_statements(statement.body, scope, present)
        elif isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign | ast.Return):
            yield from _of_expression(statement.value, scope, optional)
        if any(isinstance(each, ast.Return) for each in ast.walk(statement)):
            return


def _present(test: ast.expr, scope: _Scope) -> str | None:
    """The argument that a condition asks to be something else than None."""
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.IsNot) or len(test.ops) != 1:
        return None
    return scope.argument(test.left) if ast.unparse(test.comparators[0]) == "None" else None


def _of_expression(expression: ast.AST | None, scope: _Scope, optional: str | None) -> Iterator[Check]:
    """Checks of all calls that are made whatever the values are."""
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
    starred = any(isinstance(each, ast.Starred) for each in call.args)
    positional = [] if starred else [scope.argument(each) for each in call.args]
    named = {each.arg: scope.argument(each.value) for each in call.keywords if each.arg}
    passed_on = [ast.unparse(each.value) for each in call.keywords if each.arg is None]
    return _Given(positional, named, scope.rest is not None and scope.rest in passed_on)


def _made_by(name: str, call: ast.Call, scope: _Scope, optional: str | None) -> Iterator[Check]:
    """The checks that a call of `core.errors` makes of arguments."""
    try:
        if name in ONE:
            said, value, *limits = call.args
            known = {each.arg: _value(each.value, scope.module) for each in call.keywords}
            pairs = [(_value(said, scope.module), value)]
            make = partial(ONE[name], **known)
        else:
            limits = call.args
            pairs = [(each.arg, each.value) for each in call.keywords]
            make = SEVERAL[name]
        values = [_value(each, scope.module) for each in limits]
    except Unsure:
        return
    for said, expression in pairs:
        argument = scope.argument(expression)
        if argument and said:
            yield Check(argument, partial(_make, make, said, values), argument == optional)


def _make(check: Callable[..., Any], said: str, limits: Sequence[Any], value: Any) -> None:
    check(said, value, *limits)


def _value(expression: ast.expr, module: str) -> Any:
    """Value of a plain expression: a constant, a list of them, arithmetic, or a module's name for one of these.

    Raises:
        Unsure: anything else.
    """
    if isinstance(expression, ast.Constant):
        return expression.value
    if isinstance(expression, ast.Tuple | ast.List):
        return tuple(_value(each, module) for each in expression.elts)
    if isinstance(expression, ast.Dict):  # only what it is known by is asked for
        return tuple(_value(each, module) for each in expression.keys if each)
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
