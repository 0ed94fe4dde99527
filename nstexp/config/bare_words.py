"""Words of the command line without a key: in `photo.jpg painting.jpg`, the first is the content, the second the style.

A word that can be neither a picture nor key=value is refused with a message that says what to write. Imports no torch.
"""

import re
import shlex
from collections.abc import Sequence
from functools import cache

from nstexp.config import options
from nstexp.config.quoting import exists
from nstexp.core.errors import UserError
from nstexp.media.samples import learned_styles

# Options of Hydra that take a value.
WITH_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--experimental-rerun", "--info", "-i",
)  # fmt: skip
KEYED = re.compile(r"\s*[+~]{0,2}[\w./@$-]*\s*=", re.ASCII)  # a word that begins like key=value
SPACED = re.compile(r"\s*([^\s=]+)(\s+=\s*|=)")  # a word with spaces inside: 'content = photo.jpg'
ORDER = ("content", "style")  # the keys of the first and the second word without a key
MOST_SHOWN = 5  # words in an error message


def with_keys(words: Sequence[str], known: frozenset[str]) -> list[str]:
    """Add content= and style= to pictures without a key.

    Args:
        words: as the user typed them, after the shell has split and unquoted them.
        known: the keys at the top level of the configuration.

    Raises:
        UserError: a word is neither key=value nor a picture, or there are too many pictures without a key.
    """
    found: list[str] = []
    bare: list[int] = []  # indices in `found` of the words without a key
    rest = list(words)
    while rest:
        word = rest.pop(0)
        following = rest[0] if rest else None
        if word.startswith("-"):
            _refuse_dashes(word, following, known)
            found.append(word)
            if word in WITH_VALUE and following is not None and not following.startswith("-"):
                found.append(rest.pop(0))
        elif following is not None and (place := _apart(word, rest, known)):
            raise UserError(f"{place} (without spaces)")
        elif _has_key(word, known):
            found.append(SPACED.sub(r"\1=", word, count=1))
        else:
            bare.append(len(found))
            found.append(word)
    return _assigned(found, bare)


def _has_key(word: str, known: frozenset[str]) -> bool:
    """Whether a word sets or removes a key; the name of a picture may also contain =."""
    if word.startswith("~") and "=" not in word:
        return not word.startswith("~/") and not exists(word)
    match = KEYED.match(word)
    if match is None:
        return False
    first = re.match(r"\w*", match[0].strip().lstrip("+~"))
    key = first[0] if first else ""
    return key in known or not exists(word)


def _refuse_dashes(word: str, following: str | None, known: frozenset[str]) -> None:
    """Raise a UserError for an option that must be meant as a key or a picture, else check it."""
    name, equals, value = word.partition("=")
    key = name.lstrip("-").replace("-", "_")
    if key.partition(".")[0] in known and name not in WITH_VALUE:
        value = value if equals or following is None else following
        raise UserError(f"{name}: values are written without dashes, {_typed(key, value or '...')}")
    if exists(word):
        raise UserError(f"{word}: write {_typed('content', word)} for the picture of this name")
    options.check(word)


def _apart(word: str, rest: Sequence[str], known: frozenset[str]) -> str | None:
    """Advice for `content = photo.jpg` or `content photo.jpg`: what to write instead; None if neither begins here."""
    following = rest[0]
    if re.fullmatch(r"[+\w.]+", word) and following.startswith("="):
        value = following[1:] or (rest[1] if len(rest) > 1 else "...")
        return f"{word} {' '.join(rest[: 1 if following[1:] else 2])}: write {_typed(word, value)}"
    if re.fullmatch(r"[+\w.]+=", word) and _is_bare(following, known):
        return f"{word} {following}: write {_typed(word[:-1], following)}"
    key = word.rstrip(":")
    if key.partition(".")[0] in known and not exists(word) and _is_bare(following, known):
        return f"{word} {following}: write {_typed(key, following)}"
    return None


def _is_bare(word: str, known: frozenset[str]) -> bool:
    return not word.startswith("-") and not _has_key(word, known)


def _assigned(found: list[str], bare: Sequence[int]) -> list[str]:
    """Add keys to the words at the indices `bare`."""
    names = [found[place] for place in bare]
    for name in names:
        if not _looks_like_a_picture(name):
            raise UserError(
                f"{shlex.quote(name)} is neither key=value nor an existing picture: write "
                "content=photo.jpg style=painting.jpg, or --help for all keys"
            )
    given = {word.lstrip("+").partition("=")[0].strip() for word in found if "=" in word}
    free = [key for key in ORDER if key not in given]
    if len(names) > len(free):
        raise UserError(_too_many(names, free))
    for key, place in zip(free, bare, strict=False):
        found[place] = f"{key}={found[place]}"
    return found


def _too_many(names: Sequence[str], free: Sequence[str]) -> str:
    shown = " ".join(map(shlex.quote, names[:MOST_SHOWN])) + (" ..." if len(names) > MOST_SHOWN else "")
    if len(free) < len(ORDER):
        return f"{shown}: without a key it is not clear what this is, write content=... style=... with every picture"
    several = "content=FOLDER" if len(names) > MOST_SHOWN else _typed("content", f"[{','.join(names[:-1])}]")
    return (
        f"{shown}: without keys, only one photo and one painting can be given; for several photos write "
        f"{several} {_typed('style', names[-1])}"
    )


def _looks_like_a_picture(word: str) -> bool:
    return exists(word) or bool(re.search(r"[/\\]|\.\w{1,5}\Z", word)) or word in _learned()


@cache
def _learned() -> frozenset[str]:
    return frozenset(learned_styles())


def _typed(key: str, value: str) -> str:
    """key=value as the user must type it at a shell."""
    return shlex.quote(f"{key}={value}")
