"""docs/troubleshooting.md quotes messages that the code has: a message that changes has to change on the page, too."""

import ast
import re

from helpers import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
ELSEWHERE = ("zsh: ", "trainer: No supported gpu")  # of a shell and of Lightning
VARIES = "\0"


def messages() -> list[str]:
    """Every text in the package's code, with a mark where a value is put in."""
    texts = []
    for path in (ROOT / "nstexp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else VARIES for p in node.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[.\w]*[a-z]", VARIES, node.value))
    return texts


def quoted() -> list[str]:
    """The messages in the first column of the page's tables of messages, and those in its text."""
    found, in_messages = [], False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        in_messages = line.startswith("| message") or (in_messages and line.startswith("|"))
        if in_messages:
            found += re.findall(r"`([^`]+)`", line.split(" | ")[0])
        found += re.findall(r"`(… needs [^`]+|the loss '[^`]+|… was trained [^`]+|going on at [^`]+)`", line)
    return found


def test_the_quoted_messages_are_in_the_code():
    texts = messages()
    found = [message for message in quoted() if not message.startswith(ELSEWHERE)]
    assert len(found) > 50
    missing = {}
    for message in found:
        parts = [part.strip() for part in message.split("…") if re.search(r"[a-z]{3}", part)]
        assert parts, message
        missing[message] = [part for part in parts if not any(part in text for text in texts)]
    assert not any(missing.values()), {message: parts for message, parts in missing.items() if parts}
