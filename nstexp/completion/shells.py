"""The scripts that switch completion on in a shell, and the answers that these scripts get on Tab."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nstexp.core.errors import UserError

FLAGS = ("-sc", "--shell-completion")
ASKED = re.compile(r"(install|uninstall|query)=(bash|zsh)")
PREFIXES = "@"  # a break that bash counts as the first character of the new word
SPECIAL = re.compile(r"[ \t\n\"'\\$`&;|<>()*?!#{}]")  # characters with a meaning in a shell

BASH = r"""
_nstexp_complete() {
    local word line="${COMP_LINE:0:COMP_POINT}"
    COMPREPLY=()
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <(COMP_LINE="$line" COMP_POINT="${#line}" COMP_BREAKS="$COMP_WORDBREAKS" @ASK@ -sc query=bash 2>/dev/null)
}
_nstexp_complete_python() {
    COMPREPLY=()
    case "$COMP_LINE" in
        *" -m nstexp "*) _nstexp_complete ;;
    esac
}
"""
ZSH = r"""
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u }
_nstexp() {
    local line="${(j: :)words[1,CURRENT-1]} " word
    if [[ -n $compstate[quote] ]]; then
        line+="${(q)PREFIX}"
    else
        line+="$PREFIX"
    fi
    local -a ended open
    while IFS= read -r word; do
        if [[ $word == *' ' ]]; then
            ended+=("${word% }")
        else
            open+=("$word")
        fi
    done < <(COMP_LINE="$line" COMP_POINT="${#line}" @ASK@ -sc query=zsh 2>/dev/null)
    (( $#ended + $#open )) || { _files; return }
    (( $#ended )) && compadd -- "${ended[@]}"
    (( $#open )) && compadd -S '' -- "${open[@]}"
    return 0
}
_nstexp_python() {
    if [[ "${(j: :)words[1,CURRENT-1]} " == *' -m nstexp '* ]]; then
        _nstexp
    elif [[ -n $_nstexp_python_before ]]; then
        eval "$_nstexp_python_before"
    else
        _files
    fi
}
"""


def asked(words: Sequence[str]) -> bool:
    """Whether a command line is about completion.

    Args:
        words: the command line behind `nstexp`.
    """
    return any(word in FLAGS for word in words)


def answer(words: Sequence[str]) -> str:
    """The text that `nstexp -sc ...` prints: a script for the shell, or candidates, one on each line.

    Args:
        words: the command line behind `nstexp`.

    Raises:
        UserError: the words are not one of install, uninstall and query with bash or zsh.
    """
    found = [match for match in map(ASKED.fullmatch, words) if match]
    if len(found) != 1 or len(words) != 2:
        raise UserError("-sc: give one of install=bash, install=zsh, uninstall=bash, uninstall=zsh")
    what, shell = found[0].groups()
    if what == "query":
        return _answer_on_tab(shell)
    return (_install if what == "install" else _uninstall)(shell, _programs())


def _programs() -> list[str]:
    """The commands to complete: `nstexp`, or `python` if it was called by `python -m nstexp`."""
    called = Path(sys.argv[0])
    if called.name != "__main__.py":
        return [called.stem if called.suffix == ".exe" else called.name]
    return list(dict.fromkeys(["python", "python3", Path(sys.executable).name]))


def _install(shell: str, programs: Sequence[str]) -> str:
    # The script calls the same Python and nstexp that print it. `python -m` would also search the current folder for
    # modules, and run any file there that is called like a module, as soon as somebody presses Tab.
    start = f"import sys; sys.path[0] = {str(Path(__file__).resolve().parents[2])!r}; "
    start += "from nstexp.__main__ import main; main()"
    ask = f"{shlex.quote(sys.executable)} -c {shlex.quote(start)}"
    names = " ".join(map(shlex.quote, programs))
    python = any(program.startswith("python") for program in programs)
    if shell == "zsh":
        text = ZSH.replace("@ASK@", ask)
        if python:
            text += 'typeset -g _nstexp_python_before="${_nstexp_python_before-${_comps[python]-}}"\n'
        return f"{text}compdef {'_nstexp_python' if python else '_nstexp'} {names}".strip()
    function = "_nstexp_complete_python" if python else "_nstexp_complete"
    before = f'{function}_before="${{{function}_before-$(complete -p {names} 2>/dev/null)}}"'
    rule = f"complete -o nospace -o default -o bashdefault -F {function} {names}"
    return f"{BASH.replace('@ASK@', ask)}{before}\n{rule}".strip()


def _uninstall(shell: str, programs: Sequence[str]) -> str:
    names = " ".join(map(shlex.quote, programs))
    python = any(program.startswith("python") for program in programs)
    if shell == "zsh":
        before = f'[[ -n $_nstexp_python_before ]] && compdef "$_nstexp_python_before" {names}'
        return f"compdef -d {names}" + (f"\n{before}\nunset _nstexp_python_before" if python else "")
    before = f"_nstexp_complete{'_python' if python else ''}_before"
    return f'complete -r {names} 2>/dev/null\neval "${before}"\nunset {before}'


def _answer_on_tab(shell: str) -> str:
    """The candidates for COMP_LINE up to COMP_POINT, one a line; a space at the end means that another word follows.

    bash replaces only the part of a word behind the last of its COMP_WORDBREAKS, and wants only that part. The script
    passes them on as COMP_BREAKS; without it, candidates are whole words.
    """
    from nstexp.completion.candidates import candidates

    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    typed = split(line[: int(point)] if point.isdecimal() else line, os.environ.get("COMP_BREAKS", ""))
    found = candidates(_behind_program(typed.words), typed.current)
    if shell == "zsh":  # zsh quotes candidates by itself
        return "\n".join(each.text + " " * each.complete for each in found)
    return "\n".join(_for_readline(each.text, each.complete, typed) for each in found)


def _behind_program(words: list[str]) -> list[str]:
    """The words behind `nstexp`, or behind `python -m nstexp`."""
    for place in range(1, len(words) - 1):
        if words[place : place + 2] == ["-m", "nstexp"] and re.fullmatch(r"python[\d.]*", Path(words[0]).name):
            return words[place + 2 :]
    return words[1:]


@dataclass
class Typed:
    """A command line up to the cursor.

    Args:
        words: the words that are complete, without quotes.
        current: the word at the cursor, without quotes; '': a new one begins.
        kept: how many characters of `current` are in front of the part that bash replaces.
        quote: the quote that is open at the cursor, or ''.
    """

    words: list[str]
    current: str = ""
    kept: int = 0
    quote: str = ""


def split(line: str, breaks: str = "") -> Typed:
    """Split a command line into words as a shell does; the last quote may be open.

    Args:
        line: the command line up to the cursor.
        breaks: characters inside a word after which bash completes as if a new word began (COMP_WORDBREAKS).
    """
    typed, begun, escaped = Typed([]), False, False
    for letter in line:
        if escaped:
            typed.current, escaped = typed.current + letter, False
        elif letter == "\\" and typed.quote != "'":
            escaped = begun = True
        elif typed.quote:
            if letter == typed.quote:
                typed.quote = ""
            else:
                typed.current += letter
        elif letter in "\"'":
            typed.quote, begun, typed.kept = letter, True, len(typed.current)
        elif letter in " \t\n":
            if begun:
                typed.words.append(typed.current)
            typed.current, typed.kept, begun = "", 0, False
        else:
            typed.current, begun = typed.current + letter, True
            if letter in breaks:
                typed.kept = len(typed.current) - (letter in PREFIXES)
    return typed


def _for_readline(text: str, complete: bool, typed: Typed) -> str:
    """The part of a candidate that replaces the word as bash sees it, quoted as the user has begun to."""
    rest = text[typed.kept :]
    if typed.quote == "'":
        return rest.replace("'", "'\\''")
    if typed.quote:
        return re.sub(r'([\\"$`])', r"\\\1", rest)
    return SPECIAL.sub(r"\\\g<0>", rest) + " " * complete
