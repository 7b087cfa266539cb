"""What the built package says of the repository, where the build is told its address.

The README's links lead to files beside it, which a package index does not have. Releases are built
with FAIRWEATHER_REPOSITORY, and their links lead to the files of that version.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

FILE_LINK = re.compile(r"(!?)(\[[^\]]*\])\((?![a-z]+:|#)([^)\s]+)\)")


class RepositoryHook(MetadataHookInterface):
    """Fill in the README and the addresses."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `readme`, and `urls` where the address of the repository is known."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        if address := os.environ.get("FAIRWEATHER_REPOSITORY", "").rstrip("/"):
            tag = f"v{metadata['version']}"
            text = point_links(text, address, tag)
            metadata["urls"] = {
                "Repository": address,
                "Documentation": f"{address}/blob/{tag}/docs/index.md",
                "Changelog": f"{address}/blob/{tag}/CHANGELOG.md",
                "Issues": f"{address}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def point_links(text: str, address: str, tag: str) -> str:
    """Let links to files, and pictures, lead to those of a tag of the repository.

    >>> point_links("[docs](docs/a.md) ![](b.png) [c](#c)", "https://host/me/it", "v1")
    '[docs](https://host/me/it/blob/v1/docs/a.md) ![](https://host/me/it/raw/v1/b.png) [c](#c)'
    """

    def point(link: re.Match[str]) -> str:
        kind = "raw" if link[1] else "blob"
        return f"{link[1]}{link[2]}({address}/{kind}/{tag}/{link[3]})"

    return FILE_LINK.sub(point, text)
