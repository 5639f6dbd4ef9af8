"""Shards in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure.

The store compares and swaps: a put goes with the ETag that it may replace. What a put's answer would have said is found
out where it is lost: each object says who has put it, and where that is us, it went through. The body is handed over as
a mapping of the file, so that memory stays small however large it is.

Source: the libraries' own: developmentseed/obstore, apache/arrow-rs-object-store; icechunk's issue 2099 and
aws-sdk-java-v2's 6580 tell of conditional puts whose answer was lost.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import random
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from helix_crawl_otel.fleet.storage import (
    PIECE_BYTES,
    Entry,
    Storage,
    StorageBusy,
    StorageRefused,
    Superseded,
    digest_of,
    probe_name,
    superseded_sentence,
)
from helix_crawl_otel.formats import printable
from helix_crawl_otel.shards.schema import BESIDE

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["ObjectStorage"]

HOLDER, DIGEST = "helix-holder", "helix-sha256"
"""What an object says of itself: who has put it, and the sha256 of what it holds."""

LOGS = BESIDE[:2]
"""Ends of the names of what SQLite leaves beside a shard, and would read back into it."""

SMALL_BYTES = 8 * 1024**2
ANSWER_SECONDS = 30.0
SLOWEST_BYTES = 1024**2
"""A request may take `ANSWER_SECONDS`, and with more than `SMALL_BYTES` a second more for each so many bytes."""

MOST_BYTES = 5 * 1024**3
"""Of what S3 takes in one put, and one put is what it compares and swaps."""

PATIENCE_SECONDS = 120.0
"""How long a store that does not answer is asked again."""

FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS = 0.2, 10.0

Answer = TypeVar("Answer")

LETTERS = 200
"""Of what a store says that are shown."""


class ObjectStorage(Storage):
    """The objects below a prefix of a bucket.

    Args:
        address: As it was typed.
        connect: Makes the store, for requests that take at most so many seconds.
        kind: `s3`, `gs` or `az`.
        patience_seconds: See `PATIENCE_SECONDS`.
        wait: Sleeps so many seconds; a seam for tests.
        clock: Returns seconds; a seam for tests.
    """

    def __init__(
        self,
        address: str,
        connect: Callable[[float], ObjectStore],
        kind: str = "s3",
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self._connect = connect
        self._kind = kind
        self._patience = patience_seconds
        self._wait = wait
        self._clock = clock
        self._store = connect(ANSWER_SECONDS)

    # -- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, what: str, place: str, request: Callable[[], Answer]) -> Answer:
        """Ask until it answers, or for as long as patience lasts. What is not there is a `FileNotFoundError`."""
        patience = _Patience(self)
        while True:
            try:
                return request()
            except _errors() as error:
                trouble = self._judged(what, place, error)
                if not isinstance(trouble, StorageBusy) or not patience.waits():
                    raise trouble from None

    def _judged(self, what: str, place: str, error: Exception) -> Exception:
        """What a store's error means, where it is not the answer to a condition."""
        from obstore import exceptions

        said = str(error)
        if _NO_BUCKET.search(said):
            return StorageRefused(f"{place} cannot be {what}: there is no such bucket; accepted: one that is there")
        if isinstance(error, FileNotFoundError) or _is_condition(error):
            return error
        if _NO_CREDENTIALS.search(said):
            return StorageRefused(f"{place} cannot be {what}: there are no credentials; {CREDENTIALS[self._kind]}")
        refusals = exceptions.PermissionDeniedError, exceptions.UnauthenticatedError
        if isinstance(error, refusals) or _REFUSED.search(said):
            why = f"the store refuses it ({_short(said)})"
            return StorageRefused(f"{place} cannot be {what}: {why}; {CREDENTIALS[self._kind]}")
        if isinstance(error, exceptions.InvalidPathError):
            accepted = "keys without an empty part, . or .. between their slashes, and without control characters"
            return StorageRefused(f"{place} cannot be {what}: {_short(said)}; accepted: {accepted}")
        if isinstance(error, exceptions.NotSupportedError):
            return StorageRefused(f"{place} cannot be {what}: {_short(said)}")
        return StorageBusy(
            f"{place} cannot be {what}: the store does not answer as it should ({_short(said)}); nothing is lost, the "
            "same command goes on"
        )

    # -- what there is ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """See `Storage`. A store that takes no notice of conditions would let two holders write."""
        name = probe_name()
        version = self.put(name, b"probe", expected=None, holder=name)
        try:
            for expected in (None, f"{version[:-4]}0000"):
                with contextlib.suppress(Superseded):
                    self.put(name, b"other", expected=expected, holder=f"{name}-other")
                    raise StorageRefused(
                        f"{self.address} cannot hold shards: the store takes a put although its condition (If-Match, "
                        "If-None-Match) does not hold; accepted: one with conditional writes, such as S3, Google Cloud "
                        "Storage, Azure, Cloudflare R2, or MinIO of 2024 or later"
                    )
            if self._who(name)[1] != name:
                raise StorageRefused(f"{self.address} cannot hold shards: the store keeps no metadata of objects")
        finally:
            self.remove(name)

    def list(self) -> dict[str, Entry]:
        """See `Storage`. A log beside a shard is a part of it that no put could take in with it: it is refused."""
        import obstore

        listed = self._ask("listed", self.address, lambda: obstore.list_with_delimiter(self._store))
        found = {meta["path"]: _entry(meta) for meta in listed["objects"]}
        for name, entry in found.items():
            of = next((name.removesuffix(end) for end in LOGS if name.endswith(end)), "")
            if entry.size and of in found:
                raise StorageRefused(
                    f"{self.where(name)} belongs into {of}, as SQLite leaves it of an open shard; accepted: "
                    "shards that were copied when nobody had them open (end that run, and copy both again)"
                )
        return found

    def walk(self, below: str = "") -> Iterator[tuple[str, Entry]]:
        """See `Storage`."""
        import obstore

        def all_of_it() -> list[tuple[str, Entry]]:
            pages = obstore.list(self._store, below.strip("/") or None, chunk_size=1000)
            return [(meta["path"], _entry(meta)) for page in pages for meta in page]

        yield from self._ask("listed", self.where(below) if below else self.address, all_of_it)

    def look(self, name: str) -> Entry | None:
        """See `Storage`."""
        import obstore

        try:
            return _entry(self._ask("read", self.where(name), lambda: obstore.head(self._store, name)))
        except FileNotFoundError:
            return None

    # -- copies -------------------------------------------------------------------------------------------------------

    def get(self, name: str, to: Path, *, before: Callable[[int], object] = lambda size: None) -> str | None:
        """See `Storage`."""

        def request() -> str:
            with to.open("wb") as out:
                return self._stream(name, out.write, before)[0]

        try:
            return self._ask("read", self.where(name), request)
        except FileNotFoundError:
            return None

    def _stream(
        self, name: str, take: Callable[[bytes], object], before: Callable[[int], object] = lambda size: None
    ) -> tuple[str, str]:
        """One try to read an object; its version and its digest. What is not what was put is asked for again."""
        import obstore

        found = obstore.get(self._store, name)
        size = found.meta["size"]
        before(size)
        if size > SMALL_BYTES:
            found = obstore.get(self._store_for(size), name)
        digest, length = hashlib.sha256(), 0
        for piece in found.stream(min_chunk_size=PIECE_BYTES):
            content = bytes(piece)
            length += len(content)
            digest.update(content)
            take(content)
        said = found.attributes.get(DIGEST)
        if length != found.meta["size"] or (said is not None and said != digest.hexdigest()):
            raise OSError(errno.EIO, "what was read is not what was put")
        return _version(found.meta["e_tag"]), digest.hexdigest()

    def verify(self, name: str, version: str, digest: str) -> None:
        """See `Storage`."""

        def request() -> str:
            now, found = self._stream(name, len)
            if now == version and found != digest:
                raise OSError(errno.EIO, "what was read back is not what was put")
            return now

        try:
            now = self._ask("read back", self.where(name), request)
        except FileNotFoundError:
            now = ""
        if now != version:
            raise Superseded(superseded_sentence(self.where(name)))

    def read(self, name: str) -> tuple[bytes, str] | None:
        """See `Storage`."""

        def request() -> tuple[bytes, str]:
            found = bytearray()
            version, _ = self._stream(name, found.extend)
            return bytes(found), version

        try:
            return self._ask("read", self.where(name), request)
        except FileNotFoundError:
            return None

    # -- puts ---------------------------------------------------------------------------------------------------------

    def put(self, name: str, source: Path | bytes, *, expected: str | None, holder: str) -> str:
        """See `Storage`."""
        place = self.where(name)
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > MOST_BYTES:
            raise StorageRefused(
                f"{place} cannot be written: it has {size:,} bytes, and a store compares and swaps at most "
                f"{MOST_BYTES:,}; accepted: smaller top-level folders, or an --out that is a folder"
            )
        digest, patience = digest_of(source), _Patience(self)
        attributes = {HOLDER: holder, DIGEST: digest}
        with _mapped(source) as body:
            while True:
                try:
                    return self._put_once(name, body, size, expected, attributes)
                except _errors() as error:
                    trouble = self._judged("written", place, error)
                    if not isinstance(trouble, StorageBusy) and not _is_condition(trouble):
                        raise trouble from None
                # Refused for its condition, or not answered: what is there now tells what became of it.
                now, by, holds = self._who(name)
                if by == holder:
                    if holds == digest:
                        return str(now)
                    expected = now  # an earlier one of ours, whose answer was lost, and nobody's since
                elif now != expected:
                    raise Superseded(superseded_sentence(place))
                if not patience.waits():
                    if isinstance(trouble, StorageBusy):
                        raise trouble
                    raise StorageBusy(f"{place} cannot be written: the store refuses it, though nobody else has put it")

    def _put_once(self, name: str, body: Any, size: int, expected: str | None, attributes: dict[str, str]) -> str:
        import obstore

        mode: Any = "create"
        if expected is not None:
            mode = {"e_tag": f'"{expected}"'}
            if self._kind == "gs":  # which compares the number of a generation
                meta = obstore.head(self._store, name)
                if _entry(meta).version != expected:
                    raise Superseded(superseded_sentence(self.where(name)))
                mode["version"] = meta["version"]
        put = obstore.put(self._store_for(size), name, body, mode=mode, attributes=attributes, use_multipart=False)
        return _version(put["e_tag"])

    def _who(self, name: str) -> tuple[str | None, str | None, str | None]:
        """The version that is there, who has put it, and its digest; nothing where it is not there."""
        import obstore

        try:
            # Without the body, but with the attributes, which `obstore.head` leaves out.
            found = self._ask(
                "written", self.where(name), lambda: obstore.get(self._store, name, options={"head": True})
            )
        except FileNotFoundError:
            return None, None, None
        return _version(found.meta["e_tag"]), found.attributes.get(HOLDER), found.attributes.get(DIGEST)

    def write(self, name: str, content: Path | bytes) -> None:
        """See `Storage`."""
        import obstore

        attributes = {DIGEST: digest_of(content)}
        with _mapped(content) as body:
            store = self._store_for(len(body))
            self._ask(
                "written",
                self.where(name),
                lambda: obstore.put(store, name, body, attributes=attributes, use_multipart=False),
            )

    def remove(self, name: str) -> None:
        """See `Storage`."""
        import obstore

        with contextlib.suppress(FileNotFoundError):
            self._ask("removed", self.where(name), lambda: obstore.delete(self._store, name))

    def _store_for(self, size: int) -> ObjectStore:
        if size <= SMALL_BYTES:
            return self._store
        return self._connect(ANSWER_SECONDS + size / SLOWEST_BYTES)


class _Patience:
    """How long a store is asked again, and how long is waited in between: longer and longer, with some chance in it, so
    that a thousand nodes do not come back at once."""

    def __init__(self, storage: ObjectStorage) -> None:
        self._clock, self._wait = storage._clock, storage._wait
        self._until = self._clock() + storage._patience
        self._seconds = FIRST_WAIT_SECONDS

    def waits(self) -> bool:
        """Wait; `False` without it once patience is at its end."""
        if self._clock() + self._seconds > self._until:
            return False
        self._wait(self._seconds * (0.5 + random.random() / 2))
        self._seconds = min(2 * self._seconds, MOST_WAIT_SECONDS)
        return True


_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|The specified bucket does not exist")
_REFUSED = re.compile(r"status code: (?:401|403)|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch")
_NO_CREDENTIALS = re.compile(r"169\.254\.169\.254|metadata\.google\.internal|Missing(?:AccessKey|SecretAccess|Token)")

CREDENTIALS = {
    "s3": "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION, or AWS_ENDPOINT_URL) in the environment",
    "gs": "give GOOGLE_APPLICATION_CREDENTIALS, the path of a key file, in the environment",
    "az": "give AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY in the environment",
}
"""Where each kind looks for its credentials."""


def _errors() -> tuple[type[Exception], ...]:
    from obstore.exceptions import BaseError

    return BaseError, OSError


def _is_condition(error: Exception) -> bool:
    from obstore import exceptions

    return isinstance(error, (exceptions.AlreadyExistsError, exceptions.PreconditionError))


def _short(said: str) -> str:
    """What a store says, without its XML, its signatures and its addresses."""
    status = re.search(r"status code: (\d{3} [A-Za-z ]+)", said)
    code = re.search(r"<Code>(\w+)</Code>", said)
    if status is not None:
        return status[1].strip() + (f", {code[1]}" if code else "")
    line = printable(re.sub(r"https?://\S+", "its address", said.split("\n\nDebug source", maxsplit=1)[0]))
    return line if len(line) <= LETTERS else f"{line[:LETTERS]}…"


def _version(e_tag: str | None) -> str:
    # A listing of Azure's has it without the quotes.
    return (e_tag or "").strip('"')


def _entry(meta: Any) -> Entry:
    modified: datetime = meta["last_modified"]
    since = modified - datetime(1970, 1, 1, tzinfo=modified.tzinfo)
    return Entry(_version(meta["e_tag"]), meta["size"], since // timedelta(microseconds=1) * 1000)


@contextlib.contextmanager
def _mapped(source: Path | bytes) -> Iterator[Any]:
    """A file as bytes that are read when they are sent. It cannot be mapped where it is empty."""
    if isinstance(source, bytes) or not source.stat().st_size:
        yield source if isinstance(source, bytes) else b""
        return
    with source.open("rb") as file:
        body = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            yield body
        finally:
            with contextlib.suppress(BufferError):  # a request that was given up may hold it still
                body.close()
