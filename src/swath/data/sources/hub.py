"""A data set on the Hugging Face hub by repository and commit: fetched once, proved by sha256, read as `layout`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from swath.core.config import parse_member
from swath.core.contracts import Source
from swath.core.errors import UserError
from swath.data.hub import Repo, cache_of, fetch, listing, remotes
from swath.data.sources import SOURCES


@dataclass(frozen=True)
class HubConfig:
    """`layout` is the source of what is fetched, `path` inside the repository: `{kind: tortilla, path: x.tortilla}`.

    `files` pins paths by sha256; without it the files that fit `include` are taken and proved by the hashes that the
    commit itself lists. `revision` must be a commit. Fetching happens in `build`, never before.
    """

    kind: ClassVar[str] = "hub"
    repo: str
    revision: str
    layout: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict[str, str])
    include: tuple[str, ...] = ()
    cache: str = ""
    endpoint: str = ""

    def build(self) -> Source:
        repo = Repo(self.repo, self.revision, self.endpoint)
        folder = cache_of(repo, self.cache)
        options = dict(self.layout)
        inner = str(options.get("path", "."))
        if inner.startswith("/") or ".." in inner.split("/"):
            raise UserError(f"the layout's path '{inner}' leads out of the repository", where=self.repo)
        if options.get("kind") == "hub":
            raise UserError("a layout is what is inside the repository, not another one", where=self.repo)
        options["path"] = str(folder / inner)
        card = str(options.get("card", ""))
        if card.endswith(".toml"):
            options["card"] = str(folder / card)
        config = parse_member(options, SOURCES, where=f"{self.repo}: layout")
        fetch(repo, remotes(self.files) if self.files else listing(repo, self.include), folder)
        return config.build()


MEMBER = HubConfig
