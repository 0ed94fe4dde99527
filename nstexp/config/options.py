"""Hydra's options on the command line, such as -m and --cfg: accepted in any place, with clear error messages."""

import re
from collections.abc import Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from nstexp.config.keys import nearest
from nstexp.core.errors import UserError


def in_front(words: Sequence[str]) -> list[str]:
    """Move options to the front of a command line, because Hydra reads them only there.

    Raises:
        UserError: there is no such option, or its value is wrong.
    """
    if not any(word.startswith("-") for word in words):
        return list(words)
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        if found := re.match(r"unrecognized arguments: (\S+)", message):
            raise _no_such_option(found[1].partition("=")[0])
        raise UserError(message)

    parser.error = refuse  # type: ignore[method-assign]  # instead of printing the usage and exiting
    set_words = list(parser.parse_intermixed_args(list(words)).overrides)
    options: list[str] = []
    waiting = list(set_words)
    for word in words:
        if waiting and word == waiting[0]:
            waiting.pop(0)
        else:
            options.append(word)
    return [*options, *set_words]


def check(word: str) -> None:
    """Raise a UserError for an option that Hydra does not have, not even as an abbreviation."""
    option = word.partition("=")[0]
    if option.startswith("--") and not any(known.startswith(option) for known in _known()):
        raise _no_such_option(option)


def _known() -> list[str]:
    return sorted(get_args_parser()._option_string_actions)


def _no_such_option(option: str) -> UserError:
    return UserError(f"{option}: there is no such option{nearest(option, _known())} (--help tells more)")
