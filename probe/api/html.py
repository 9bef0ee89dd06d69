"""Pages of our own for a browser. Whatever they show, the scripts and styles that stand in them are
all that it heeds, and we are all that these may ask. Pure.
"""

import hashlib
import re
from base64 import b64encode

from probe.api.requests import Reply

INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)

NOTHING = " 'none'"


def as_html(page: bytes) -> Reply:
    """Answer with a page, and with the policy that it needs."""
    return Reply(200, page, "text/html; charset=utf-8", policy=security_policy(page))


def security_policy(page: bytes) -> str:
    """Allow what stands in a page, each script and style by its hash, and nothing from elsewhere
    (https://www.w3.org/TR/CSP3/).
    """
    hashes = {b"script": "", b"style": ""}
    for tag, content in INLINE.findall(page):
        digest = b64encode(hashlib.sha256(content).digest()).decode()
        hashes[tag] += f" 'sha256-{digest}'"
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src{hashes[b'script'] or NOTHING}",
            f"style-src{hashes[b'style'] or NOTHING}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
