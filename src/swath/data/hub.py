"""Files of a Hugging Face data set at one commit: fetched once, proved by sha256, never half-written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from swath.core.errors import UserError

ENDPOINT = "https://huggingface.co"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[A-Za-z0-9][\w.\-]*/[\w.\-]+")


@dataclass(frozen=True)
class Remote:
    """One file: its path in the repository, and its sha256, or the git blob hash of a small one."""

    path: str
    sha256: str = ""
    blob: str = ""


@dataclass(frozen=True)
class Repo:
    """A data set repository at one commit."""

    name: str
    revision: str
    endpoint: str = ""

    def __post_init__(self) -> None:
        if not _REPO.fullmatch(self.name):
            raise UserError(f"'{self.name}' is not a repository id such as owner/name")
        if not _COMMIT.fullmatch(self.revision):
            raise UserError(
                f"the revision '{self.revision}' can move",
                where=self.name,
                remedy="name a commit: 40 hexadecimal digits, as the repository's history shows",
            )

    @property
    def base(self) -> str:
        return (self.endpoint or os.environ.get("HF_ENDPOINT", "") or ENDPOINT).rstrip("/")

    def address(self, path: str) -> str:
        return f"{self.base}/datasets/{self.name}/resolve/{self.revision}/{urllib.parse.quote(path)}"


def _request(url: str) -> urllib.request.Request:
    host = urllib.parse.urlsplit(url).hostname or ""
    local = host in ("localhost", "127.0.0.1", "::1")
    if os.environ.get("HF_HUB_OFFLINE", "") in ("1", "ON", "TRUE", "YES") and not local:
        raise UserError("the hub may not be asked: HF_HUB_OFFLINE is set", where=url)
    request = urllib.request.Request(url, headers={"User-Agent": "swath"})
    token = os.environ.get("HF_TOKEN", "")
    trusted = {urllib.parse.urlsplit(e).netloc for e in (ENDPOINT, os.environ.get("HF_ENDPOINT", "")) if e}
    if token and urllib.parse.urlsplit(url).netloc in trusted:
        # unredirected: the token must not follow to the storage behind the hub
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


def listing(repo: Repo, include: Sequence[str]) -> list[Remote]:
    """The files of the commit that fit one of the patterns (all without one)."""
    url = f"{repo.base}/api/datasets/{repo.name}/tree/{repo.revision}?recursive=true"
    out: list[Remote] = []
    while url:
        try:
            with urllib.request.urlopen(_request(url), timeout=60) as answer:
                rows: Any = json.load(answer)
                link = re.search(r'<([^>]+)>;\s*rel="next"', answer.headers.get("Link") or "")
        except (OSError, ValueError) as why:
            raise UserError(f"the repository cannot be listed: {why}", where=url) from why
        if not isinstance(rows, list):
            raise UserError("the listing is no list", where=url)
        for row in cast("list[Any]", rows):
            if not isinstance(row, dict) or cast("dict[str, Any]", row).get("type") != "file":
                continue
            held = cast("dict[str, Any]", row)
            path = str(held.get("path", ""))
            if include and not any(fnmatchcase(path, p) for p in include):
                continue
            lfs = held.get("lfs")
            proof = str(cast("dict[str, Any]", lfs).get("oid", "")) if isinstance(lfs, dict) else ""
            out.append(Remote(path, proof, "" if proof else str(held.get("oid", ""))))
        url = link.group(1) if link else ""
    if not out:
        raise UserError("no file of the repository fits", where=repo.name, remedy=f"asked for: {list(include)}")
    return out


def _safe(path: str) -> None:
    if path.startswith("/") or ".." in path.split("/") or "\\" in path or not path:
        raise UserError(f"'{path}' is no path inside a repository")


def _proved(file: Path, remote: Remote) -> str:
    """Empty when the file is what it should be, else what it is."""
    sha = hashlib.sha256()
    blob = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            sha.update(chunk)
            blob.update(chunk)
    if remote.sha256:
        return "" if sha.hexdigest() == remote.sha256.lower() else f"sha256 {sha.hexdigest()}"
    return "" if blob.hexdigest() == remote.blob else f"git blob {blob.hexdigest()}"


def fetch(repo: Repo, files: Sequence[Remote], folder: Path) -> list[Path]:
    """Every file in the folder and proved; what is there and right is not fetched again."""
    out: list[Path] = []
    for remote in files:
        _safe(remote.path)
        target = folder / remote.path
        if not (target.is_file() and not _proved(target, remote)):
            _fetch_one(repo, remote, target)
        out.append(target)
    return out


def _fetch_one(repo: Repo, remote: Remote, target: Path) -> None:
    url = repo.address(remote.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(_request(url), timeout=60) as answer, aside.open("wb") as out:
            while chunk := answer.read(1 << 20):
                out.write(chunk)
        wrong = _proved(aside, remote)
        if wrong:
            raise UserError(
                f"the file is not the one announced: {wrong}, not {remote.sha256 or remote.blob}",
                where=url,
                remedy="it was damaged on the way or changed: nothing was kept",
            )
        os.replace(aside, target)
    except urllib.error.HTTPError as why:
        hint = "the repository is gated: set HF_TOKEN" if why.code in (401, 403) else "check repository and revision"
        raise UserError(f"the file cannot be fetched: {why.code} {why.reason}", where=url, remedy=hint) from why
    except (OSError, ValueError) as why:
        raise UserError(f"the file cannot be fetched: {why}", where=url) from why
    finally:
        aside.unlink(missing_ok=True)


def cache_of(repo: Repo, folder: str = "") -> Path:
    """Where a commit's files lie: the folder named, else SWATH_CACHE, else the user's cache."""
    root = Path(folder or os.environ.get("SWATH_CACHE", "") or Path.home() / ".cache" / "swath")
    return root / "hub" / repo.name.replace("/", "--") / repo.revision


def remotes(files: Mapping[str, str]) -> list[Remote]:
    """Files pinned by hand: path -> sha256."""
    for path, proof in files.items():
        if not re.fullmatch(r"[0-9a-fA-F]{64}", proof):
            raise UserError(f"'{proof}' is no sha256", where=path)
    return [Remote(p, s) for p, s in sorted(files.items())]
