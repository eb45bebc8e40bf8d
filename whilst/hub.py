"""Exported folders on the Hugging Face Hub: large files first, then one commit, then a check, then the tag.

A revision is never half there: files are sent to the Hub's storage, where nobody sees them, and become visible all at
once in one commit. The tag is set only after sizes and hashes of the committed files were read back and compared. A
push that failed is run again: what the storage holds is not sent twice. The token is read from HF_TOKEN or the stored
login and leaves this process in the header of requests alone.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from whilst.exported import FILE, Exported, File, listing
from whilst.files import fingerprint

T = TypeVar("T")
Say = Callable[[str], None]

WAITS = (1.0, 4.0, 16.0)  # seconds before each new try of a request that the Hub could not serve
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
REF = re.compile(r"[A-Za-z0-9][\w./-]*")
# Loaders take all of these that they find, so those of an earlier push that are not in this one go with its commit.
READ = {
    "model": ("*.safetensors", "*.safetensors.index.json", "*.bin", "adapter_*", "streaming.yaml"),
    "dataset": ("data/*", "*.parquet"),
}


class HubError(ValueError):
    """A push that was refused or failed: says what is on the Hub, what is not, and how to go on."""


@dataclass(frozen=True)
class Target:
    """Where a folder goes. revision: a branch, made if it is not there. endpoint: None is HF_ENDPOINT or the Hub."""

    repo: str
    public: bool = False
    revision: str = "main"
    tag: str | None = None
    endpoint: str | None = None

    def __post_init__(self) -> None:
        if not ID.fullmatch(self.repo):
            raise HubError(f"{self.repo!r} is no id on the Hub; write it as owner/name")
        for name, ref in (("--revision", self.revision), ("--tag", self.tag)):
            if ref is not None and not REF.fullmatch(ref):
                raise HubError(f"{name} {ref!r}: letters, digits and . _ - / alone")


@dataclass(frozen=True)
class Pushed:
    """A finished push. commit: the one that was checked, and that the tag (if any) points to."""

    url: str
    commit: str
    files: int


def plan(exported: Exported, target: Target) -> list[str]:
    """What `push` would send and where, as lines. Asks and changes nothing on the Hub."""
    files = _wanted(exported)
    where = f"{target.repo} ({_type(exported)}, {'public' if target.public else 'private'}), branch {target.revision}"
    lines = [f"{size_text(sum(f.size for f in files.values()))} in {len(files)} files to {_endpoint(target)}: {where}"]
    lines += listing(replace(exported, files=files))
    return [*lines, f"tag {target.tag}, after the commit is checked"] if target.tag else lines


def check_login(target: Target) -> None:
    """HubError unless somebody is logged in who may write: asked before an export that takes long."""
    _Push(Exported(Path(), "model", {}), target, _token(), lambda _: None).check_login()


def push(exported: Exported, target: Target, say: Say) -> Pushed:
    """Publish an exported folder. Raises HubError; a second call with the same folder goes on where the first ended."""
    return _Push(exported, target, _token(), say).run()


def _token() -> str:
    if constants.is_offline_mode():
        raise HubError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it. Nothing was sent.")
    token = get_token()
    if not token:
        raise HubError("no token: set HF_TOKEN, or log in with `hf auth login`. Nothing was sent.")
    return token


class _Push:
    """One push, step by step; `self.done` is what a failure says about the Hub."""

    def __init__(self, exported: Exported, target: Target, token: str, say: Say) -> None:
        self.exported, self.target, self.token, self.say = exported, target, token, say
        self.files = _wanted(exported) if exported.files else {}
        self.type = _type(exported)
        self.api = HfApi(endpoint=target.endpoint, token=token, library_name="whilst")
        self.where: dict[str, Any] = {"repo_id": target.repo, "repo_type": self.type}
        self.done = "Nothing was sent."

    def run(self) -> Pushed:
        self.check_login()
        self._open_repository()
        found, head = self._list(self.target.revision)
        self._check_tag(head, self._differences(found))
        if self._differences(found):
            head = self._commit(found, head)
        else:
            self.say(f"{self.target.repo}: branch {self.target.revision} holds all of it already")
        self._verify(head)
        if self.target.tag is not None:
            self._tag(head)
        kind = "" if self.type == "model" else f"{self.type}s/"
        return Pushed(f"{_endpoint(self.target)}/{kind}{self.target.repo}", head, len(self.files))

    # --- steps --------------------------------------------------------------------------------------------------------

    def check_login(self) -> None:
        me = self._call("log in", self.api.whoami)
        role = ((me.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise HubError("the token may only read; make one that may write. Nothing was sent.")

    def _open_repository(self) -> None:
        """The repository and the branch, with the visibility that was asked for."""
        repo, branch = self.target.repo, self.target.revision
        try:
            info = self._call("look for the repository", partial(self.api.repo_info, **self.where))
        except _Absent:
            private = not self.target.public
            create = partial(self.api.create_repo, **self.where, private=private, exist_ok=True)
            self._call("make the repository", create)
            self.done = f"The repository {repo} is there, and empty."
            info = self._call("look for the repository", partial(self.api.repo_info, **self.where))
        if info.private == self.target.public:
            now, fix = ("private", "leave --public out") if info.private else ("public", "pass --public")
            raise HubError(f"{repo} is {now} already, and a push does not change that: {fix}, or change its settings")
        refs = self._call("list branches", partial(self.api.list_repo_refs, **self.where))
        self.tags = {ref.name: ref.target_commit for ref in refs.tags}
        if branch not in {ref.name for ref in refs.branches}:
            self._call(
                f"make branch {branch}", partial(self.api.create_branch, **self.where, branch=branch, exist_ok=True)
            )
            self.done = f"Branch {branch} of {repo} is there, and holds what main holds: nothing of this export."

    def _list(self, revision: str) -> tuple[dict[str, Any], str]:
        """The files of a revision by name, and its commit. Two requests: the second asks for that very commit."""
        head = str(self._call("read the head", partial(self.api.repo_info, **self.where, revision=revision)).sha)

        def listed() -> list[Any]:
            return list(self.api.list_repo_tree(**self.where, recursive=True, revision=head))

        return {one.path: one for one in self._call("list files", listed) if hasattr(one, "blob_id")}, head

    def _differences(self, found: Mapping[str, Any]) -> list[str]:
        """How the files of a revision differ from the folder's, and what loaders would read beside them."""
        wrong = []
        for name, file in self.files.items():
            there = found.get(name)
            if there is None:
                wrong.append(f"{name} is missing")
            elif there.size != file.size:
                wrong.append(f"{name} has {there.size} bytes, not {file.size}")
            elif (there.lfs.sha256 if there.lfs else there.blob_id) != (
                file.sha256 if there.lfs else _git_id(self.exported.folder / name)
            ):
                wrong.append(f"{name} has other content")
        return wrong + [f"{name} is of an earlier push" for name in self._stale(found)]

    def _stale(self, found: Mapping[str, Any]) -> list[str]:
        return [n for n in found if n not in self.files and any(fnmatch(n, pattern) for pattern in READ[self.type])]

    def _check_tag(self, head: str, differs: list[str]) -> None:
        at = self.tags.get(self.target.tag or "")
        if at is not None and (differs or at != head):
            raise HubError(f"tag {self.target.tag} is on another commit ({at[:8]}); tags are not moved: choose another")

    def _commit(self, found: Mapping[str, Any], head: str) -> str:
        """Send the files to storage, then make them visible in one commit on top of `head`; returns its id."""
        branch = self.target.revision
        additions = [CommitOperationAdd(name, self.exported.folder / name) for name in self.files]
        sent: list[str] = []
        before = self.done
        for addition in sorted(additions, key=lambda one: one.path_in_repo):
            name = addition.path_in_repo
            one_file = partial(self.api.preupload_lfs_files, additions=[addition], revision=branch, free_memory=False)
            # retries are the library's own here: five a request
            self._call(f"send {name}", partial(one_file, **self.where), waits=())
            sent.append(name)
            self.say(f"{name}: {size_text(self.files[name].size)}")
            kept = f"{len(sent)} of {len(additions)} files are prepared or in the Hub's storage, unseen (last: {name})"
            self.done = f"Branch {branch} is as it was; {kept}. {before}" if sent else before
        removed = [CommitOperationDelete(name, is_folder=False) for name in self._stale(found)]
        for one in removed:
            self.say(f"{one.path_in_repo}: removed, it is of an earlier push")

        def commit() -> str:
            now, at = self._list(branch) if tried else (found, head)
            if not self._differences(now):  # the commit was made, and the answer to it lost
                return at
            tried.append(1)
            made = self.api.create_commit(
                **self.where,
                operations=[*additions, *removed],
                commit_message=f"whilst export {self.exported.version}",
                revision=branch,
                parent_commit=head,
            )
            return str(made.oid)

        tried: list[int] = []
        return self._call("commit", commit)

    def _verify(self, commit: str) -> None:
        self.done = f"Commit {commit[:8]} is on branch {self.target.revision}, unchecked and without a tag."
        found, _ = self._list(commit)
        if wrong := self._differences(found):
            raise HubError(
                f"commit {commit[:8]} of {self.target.repo} is not what was sent: {'; '.join(wrong)}. {self.done}"
            )
        self.done = (
            f"Commit {commit[:8]} is on branch {self.target.revision}, whole and checked; only the tag is missing."
        )

    def _tag(self, commit: str) -> None:
        tag = str(self.target.tag)
        if self.tags.get(tag) == commit:
            return
        tagging = partial(self.api.create_tag, **self.where, tag=tag, revision=commit, exist_ok=True)
        self._call(f"tag {tag}", tagging)
        refs = self._call("read tags", partial(self.api.list_repo_refs, **self.where))
        at = {ref.name: ref.target_commit for ref in refs.tags}.get(tag)
        if at != commit:
            raise HubError(f"tag {tag} is on {at}, not on {commit[:8]}: somebody else set it. {self.done}")

    # --- requests -----------------------------------------------------------------------------------------------------

    def _call(self, what: str, request: Callable[[], T], waits: tuple[float, ...] | None = None) -> T:
        """A request, again after a pause where the Hub failed. HubError where it stays so, or must not be repeated."""
        for wait in (*(WAITS if waits is None else waits), None):
            try:
                return request()
            except (HfHubHTTPError, httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
                if isinstance(error, HubError | _Absent):
                    raise
                problem, status = error, _status(error)
                if what == "look for the repository" and isinstance(error, RepositoryNotFoundError) and status == 404:
                    raise _Absent from None
            if wait is None or not _passes(problem, status):
                break
            self.say(f"{what}: {self._safe(problem)}; again in {wait:.0f} s")
            time.sleep(wait)
        # from None: a library's error may hold what a server echoed, and would be shown with --traceback
        raise HubError(f"{self.target.repo}: could not {what}: {self._told(problem, status)}. {self.done}") from None

    def _told(self, error: BaseException, status: int | None) -> str:
        if status == 401:
            return "the token is not valid, or no longer (401); set HF_TOKEN or log in again, then run the same command"
        if status == 403:
            return f"the token may not do that (403) in {self.target.repo.split('/')[0]!r}; it needs write access"
        if status in (409, 412):
            return f"somebody else changed the branch meanwhile ({status}); run the same command again"
        return f"{self._safe(error)}; run the same command again: what is in the storage is not sent twice"

    def _safe(self, error: BaseException) -> str:
        """The error and what it came of in one line, without the token."""
        parts = [f"{type(one).__name__}: {' '.join(str(one).split())[:300]}" for one in _chain(error)]
        return " <- ".join(dict.fromkeys(parts)).replace(self.token, "***")


class _Absent(ValueError):
    """There is no such repository, or none that the token may see."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error."""
    for one in _chain(error):
        if isinstance(one, HfHubHTTPError) and one.response is not None:
            return int(one.response.status_code)
    return None


def _passes(error: BaseException, status: int | None) -> bool:
    """Whether a failure may pass by itself: a server that could not, or a connection that broke."""
    if status is not None:
        return status == 429 or status >= 500
    return any(isinstance(one, httpx.TransportError) for one in _chain(error))


def _wanted(exported: Exported) -> dict[str, File]:
    listed = exported.folder / FILE
    return {**exported.files, FILE: File(*fingerprint(listed))}


def _type(exported: Exported) -> Literal["model", "dataset"]:
    return "dataset" if exported.kind == "dataset" else "model"


def _endpoint(target: Target) -> str:
    return target.endpoint or constants.ENDPOINT


def _git_id(path: Path) -> str:
    """The id that git gives a file."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def size_text(size: int) -> str:
    """Bytes as a reader wants them, in powers of 1000."""
    for unit, of in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= of:
            return f"{size / of:.1f} {unit}"
    return f"{size} bytes"
