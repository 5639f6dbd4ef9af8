"""What was typed for SRC and OUT of a fleet: a folder that every node reaches, or the address of a bucket."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from helix_crawl_otel.fleet.folder_storage import FolderStorage
from helix_crawl_otel.fleet.object_storage import CREDENTIALS, PATIENCE_SECONDS, ObjectStorage
from helix_crawl_otel.fleet.storage import Storage, StorageRefused

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["is_address", "open_storage"]

SCHEMES = ("s3", "gs", "az", "file")

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def is_address(text: str) -> bool:
    """Whether it is written as an address is, with a scheme: a path of Windows with its drive is none."""
    return _ADDRESS.match(text) is not None


def open_storage(text: str, *, what: str = "--out", patience_seconds: float = PATIENCE_SECONDS) -> Storage:
    """The place that was typed. Nothing is asked of it yet.

    Args:
        text: A folder, or `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`, `file:///FOLDER`.
        what: The option or argument, for the message.
        patience_seconds: How long a store that does not answer is asked again.

    Raises:
        StorageRefused: It is no such address, or what it needs is not installed. The message names no secret.
    """
    scheme = _ADDRESS.match(text)
    if scheme is None:
        return FolderStorage(Path(text).absolute(), text)
    kind = scheme[1].lower()
    if kind not in SCHEMES:
        raise StorageRefused(
            f"{what} is an address with {scheme[1]}://, which is not known; accepted: a folder, or "
            + ", ".join(f"{known}://" for known in SCHEMES)
        )
    rest = text[scheme.end() :]
    if kind == "file":
        return FolderStorage(_local(rest, what), text)
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket or ":" in bucket:
        raise StorageRefused(
            f"{what} is an address of {kind}:// with a user, a password or a port in it; accepted: "
            f"{kind}://BUCKET/PREFIX, with the credentials and the endpoint in the environment"
        )
    if "?" in rest:
        raise StorageRefused(
            f"{what} is an address of {kind}:// with a ? in it; accepted: {kind}://BUCKET/PREFIX, with the credentials "
            "in the environment"
        )
    if not bucket:
        raise StorageRefused(f"{what} is {text!r}, which names no bucket; accepted: {kind}://BUCKET/PREFIX")
    if any(part in (".", "..") for part in prefix.split("/")):
        raise StorageRefused(f"{what} is {text!r}; accepted: {kind}://BUCKET/PREFIX without . and .. in it")
    prefix = "/".join(part for part in prefix.split("/") if part)
    try:
        import obstore.store
    except ImportError:
        raise StorageRefused(
            f"{what} is an address of {kind}://, for which obstore is not installed; install it with "
            "pip install 'helix-crawl-otel[ray]'"
        ) from None
    address = f"{kind}://{bucket}/{prefix}".rstrip("/")

    def connect(seconds: float) -> ObjectStore:
        try:
            return _connected(kind, bucket, prefix, seconds)
        except obstore.exceptions.BaseError as error:
            said = str(error).partition("\n")[0]
            raise StorageRefused(f"{what} is {address}, which cannot be opened ({said}); {CREDENTIALS[kind]}") from None

    return ObjectStorage(address, connect, kind, patience_seconds=patience_seconds)


def _local(rest: str, what: str) -> Path:
    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise StorageRefused(f"{what} is an address of file:// on another machine, {host!r}; accepted: file:///FOLDER")
    path = unquote(urlsplit(f"file:///{path}").path)
    if os.name == "nt" and re.match(r"/[A-Za-z]:", path):
        path = path[1:]
    return Path(path).absolute()


def _connected(kind: str, bucket: str, prefix: str, seconds: float) -> ObjectStore:
    from obstore.store import AzureStore, GCSStore, S3Store

    # `ObjectStorage` asks again, and looks first what became of a put. Without TLS is what the user's own environment
    # names so.
    options: Any = {"timeout": f"{round(seconds)}s", "connect_timeout": "5s", "allow_http": True}
    settings: Any = {"prefix": prefix or None, "client_options": options, "retry_config": {"max_retries": 0}}
    if kind == "s3":
        return S3Store(bucket, **settings)
    return GCSStore(bucket, **settings) if kind == "gs" else AzureStore(bucket, **settings)
