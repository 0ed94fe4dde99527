"""Values as JSON that is safe inside a page."""

import json
import math
from typing import Any

from nstexp.report.texts import is_number


def as_json(data: Any) -> str:
    """JSON that is safe inside <script>: ASCII without the special characters of HTML."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def as_json_number(value: Any) -> float | str | None:
    """A number for JSON, which cannot express infinity and NaN: these become texts. None for other values."""
    if not is_number(value):
        return None
    return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")


def brief(value: float | None) -> float | None:
    """A number with six digits, which is more than a page shows; None for None, infinity and NaN."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
