"""What the store keeps and hands out: genes that lack a vector, marks of sources, and how genes are named."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from dataclasses import dataclass

__all__ = ["PendingGene", "SourceMark", "SourceNote", "content_hash", "gene_id", "id_of_name"]


@dataclass(frozen=True)
class PendingGene:
    """A gene that lacks a vector.

    Args:
        key: Its place in the table, in the order in which genes are taken.
        gene_id: Its id, as it is in the table: the app's may be a number.
        content: Its text.
    """

    key: int | str
    gene_id: str
    content: str


@dataclass(frozen=True)
class SourceNote:
    """What is to be said of a source that was left out, or was not read as it stands.

    Args:
        kind: What it is, for counting: one of few words, such as `picture`; of one that was read, as what.
        reason: Why it was left out, a clause with `it`; empty for one that was read.
    """

    kind: str
    reason: str


@dataclass(frozen=True)
class SourceMark:
    """What a source was when it was ingested.

    Args:
        size: Bytes.
        mtime_ns: Nanoseconds.
        digest: Of its bytes and of the rule by which it was cut.
        genes: How many it gave.
        note: What is to be said of it, `None` for nothing.
    """

    size: int
    mtime_ns: int
    digest: str
    genes: int
    note: SourceNote | None = None


def content_hash(content: str) -> str:
    """SHA-256 of a passage, in hex."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def gene_id(source_id: str, passage_hash: str, occurrence: int) -> str:
    """The id of a passage: the same wherever in its source it stands, so that an edited source keeps what it can.

    Args:
        source_id: The source.
        passage_hash: `content_hash` of the passage.
        occurrence: How many times the same passage came before it in that source.
    """
    return hashlib.sha256(f"{source_id}\0{passage_hash}\0{occurrence}".encode("utf-8", "surrogatepass")).hexdigest()[
        :32
    ]


def id_of_name(name: str) -> str:
    """A name of a file or folder as it stands in ids: composed (NFC), and bytes that are none in the file system's
    encoding as `\\xNN`.
    """
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))
