"""From content to HTML: the templates in pages/, under a policy that lets a page load nothing and run nothing."""

import base64
import hashlib
from pathlib import Path
import time

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

PAGES = Path(__file__).parent / "pages"


def render(template: str, **content) -> str:
    """A whole HTML page; every text is escaped, nothing is loaded from anywhere, no script may run."""
    environment = Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = (PAGES / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    made = time.strftime("%Y-%m-%d %H:%M")
    return environment.get_template(template).render(style=Markup(style), digest=digest, made=made, **content)
