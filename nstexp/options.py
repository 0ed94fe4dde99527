"""Hydra's options on the command line, such as -m and --cfg: in any place, and with a sentence where one is wrong."""

import re
from collections.abc import Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from nstexp.core.errors import UserError
from nstexp.keys import nearest


def in_front(words: Sequence[str]) -> list[str]:
    """A command line with its options before what it sets, where Hydra reads them.

    Raises:
        UserError: there is no such option, or it has a value that it does not take.
    """
    if not any(word.startswith("-") for word in words):
        return list(words)
    parser = get_args_parser()
    known = sorted(parser._option_string_actions)

    def refuse(message: str) -> NoReturn:
        if found := re.match(r"unrecognized arguments: (\S+)", message):
            option = found[1].partition("=")[0]
            raise UserError(f"{option}: there is no such option{nearest(option, known)} (--help tells more)")
        raise UserError(message)

    parser.error = refuse  # in the place of the usage and an exit
    set_words = list(parser.parse_intermixed_args(list(words)).overrides)
    options, waiting = [], list(set_words)
    for word in words:
        if waiting and word == waiting[0]:
            waiting.pop(0)
        else:
            options.append(word)
    return [*options, *set_words]
