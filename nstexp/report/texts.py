"""Values of configurations as texts, and small helpers for lists and texts."""

import json
import re
from collections.abc import Iterable
from typing import Any


def as_text(value: Any) -> str:
    """A value of the configuration as a user would type it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list):
        return f"[{','.join(_item_as_text(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {as_text(item)}' for key, item in value.items())}}}"
    return str(value)


def _item_as_text(item: Any) -> str:
    """An item of a list; in quotes if it contains a comma or a quote."""
    return json.dumps(item, ensure_ascii=False) if isinstance(item, str) and re.search('[,"]', item) else as_text(item)


def items_of(text: str) -> list[str]:
    """The items of a list in the format of `as_text`; any other text is the only item."""
    if not (text.startswith("[") and text.endswith("]")):
        return [text]
    items = re.findall(r'"(?:[^"\\]|\\.)*"|[^,]+', text[1:-1])
    return [json.loads(item) if item.startswith('"') else item.strip() for item in items]


def is_number(value: Any) -> bool:
    """Whether a value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def unique(items: Iterable[Any]) -> list[Any]:
    """The items without duplicates, in order."""
    return list(dict.fromkeys(items))


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters; the middle is left out, since texts mostly differ at their ends."""
    return text if len(text) <= most else f"{text[: most // 2 - 2]}...{text[len(text) - (most - most // 2 - 1) :]}"
