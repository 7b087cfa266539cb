"""What every page has: templates that escape, a policy without network, and packed data."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.resources
import json
from collections.abc import Iterable, Mapping

import jinja2


def read_own_file(name: str) -> str:
    """Read a file that lies beside this one."""
    return (
        importlib.resources.files("fairweather.report.page")
        .joinpath(name)
        .read_text(encoding="utf-8")
    )


def read_script(name: str) -> str:
    """Read a page's own script, after what all scripts begin with."""
    return read_own_file("common.js") + read_own_file(name)


def make_environment() -> jinja2.Environment:
    """Templates that lie beside this file; whatever they show is escaped."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(read_own_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def pack_json(content: Mapping[str, object]) -> str:
    """Write JSON, compressed, in letters that mean nothing to HTML; the same for the same content.

    >>> import json
    >>> json.loads(gzip.decompress(base64.b64decode(pack_json({"name": "</script>"}))))
    {'name': '</script>'}
    """
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # The name of a file may be no UTF-8; JSON has an escape for what is left of it.
    content_bytes = text.encode(errors="backslashreplace")
    return base64.b64encode(gzip.compress(content_bytes, mtime=0)).decode()


def write_policy(scripts: Iterable[str]) -> str:
    """Allow these scripts and nothing else: no network, no evaluated text, no form, no frame."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in scripts
    )
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {hashes}; base-uri 'none'; form-action 'none'"
    )
