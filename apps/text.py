"""Names from checkpoints as text: nothing in them is markup."""

from __future__ import annotations

import re

_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=])")


def literal(text: object) -> str:
    """`text` for Streamlit's Markdown, every character standing for itself."""
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split()))
