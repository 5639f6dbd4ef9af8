"""Promises of the shards' file names: every system takes them, and no two shards get the same."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.corpus.tree import ROOT_SHARD, file_names

DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(\.|:|$)", re.IGNORECASE)
"""A name that Windows takes for a device: what stands behind the first dot, and blanks before it, are nothing to it."""

HASHED = re.compile(r".*-[0-9a-f]{8}\.db", re.DOTALL)

letters = st.text(
    st.one_of(st.sampled_from("aAbB._- ~ß\u017féE\u0301\u030a:?*"), st.characters(exclude_characters="/\0")),
    min_size=1,
    max_size=120,
)
of_devices = st.builds(
    "{}{}{}".format, st.sampled_from(["con", "Aux", "lpt1"]), st.sampled_from(["", " ", ".", " ."]), letters
)
folder_names = st.one_of(letters, of_devices).filter(lambda name: name not in (".", ".."))


@given(st.sets(folder_names, max_size=12))
def test_no_two_shards_share_a_file(shards: set[str]) -> None:
    """Also where the file system takes `Docs` and `docs`, or the two ways to write an accent, for one name."""
    names = file_names({ROOT_SHARD, *shards})
    folded = [unicodedata.normalize("NFC", name).casefold() for name in names.values()]
    assert len(set(folded)) == len(shards) + 1
    assert set(names) == {ROOT_SHARD, *shards}


@given(folder_names)
def test_every_name_is_safe_on_every_system(shard: str) -> None:
    """No letter or name that Windows refuses, no dot or blank at the end, and room for what stands behind it."""
    name = file_names([shard])[shard]
    stem = name.removesuffix(".db")
    assert not re.search(r'[<>:"/\\|?*\x00-\x1f\x7f]', name)
    assert stem
    assert stem == stem.rstrip(" .")
    assert not DEVICE.match(name)
    assert len(f"{name}.corrupt-100-journal".encode()) <= 255
    assert len(f"{name}.corrupt-100-journal") <= 255


@given(st.sets(folder_names, min_size=1, max_size=8), st.randoms())
def test_the_order_in_which_folders_are_listed_makes_no_difference(shards: set[str], random: object) -> None:
    """Every system lists them in another one."""
    listed = sorted(shards)
    random.shuffle(listed)  # type: ignore[attr-defined]  # hypothesis types it as object
    assert file_names(listed) == file_names(shards)


@pytest.mark.parametrize(
    "shard", ["docs", "Docs", "two words", "v1.2", "straße", "日本", "slack__eng-oncall", "_", "a-b"]
)
def test_a_name_that_is_fine_is_kept(shard: str) -> None:
    """People recognise their folders."""
    assert file_names([shard]) == {shard: f"{shard}.db"}


@pytest.mark.parametrize(
    ("shard", "begins"),
    [
        ("aux", "aux-"),
        ("CON", "CON-"),
        ("com1.txt", "com1_.txt-"),
        ("NUL .tar.gz", "NUL _.tar.gz-"),
        ("aux ", "aux-"),
        ("LPT²", "LPT²-"),
        ("conin$", "conin$-"),
        ("a:b", "a_b-"),
        ("what?", "what_-"),
        ("ends in a dot.", "ends in a dot-"),
        ("ends in a blank ", "ends in a blank-"),
        ("...", "_-"),
        ("new\nline", "new_line-"),
        ("\udcff\udcfe", "__-"),
        ("x" * 200, "x" * 100 + "-"),
        ("日" * 90, "日" * 60 + "-"),
        ("_root", "_root-"),
    ],
)
def test_a_name_that_is_not_gets_digits_of_its_own(shard: str, begins: str) -> None:
    """So that what was replaced cannot make two names one."""
    name = file_names([shard])[shard]
    assert name.startswith(begins)
    assert HASHED.fullmatch(name)


@pytest.mark.parametrize("shard", ["auxiliary", "console", "com", "com10", "nullable", "lpt"])
def test_a_name_that_only_begins_like_a_reserved_one_is_kept(shard: str) -> None:
    """Windows refuses whole names."""
    assert file_names([shard]) == {shard: f"{shard}.db"}


def test_loose_files_have_a_shard_of_their_own() -> None:
    """A folder that is called like its file gives way."""
    names = file_names([ROOT_SHARD, "_root", "_ROOT"])
    assert names[ROOT_SHARD] == "_root.db"
    assert len({name.casefold() for name in names.values()}) == 3


def test_an_accent_makes_one_file_name_however_it_is_written() -> None:
    """macOS may hand out the other form of the same folder; its shard is the same file everywhere."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert file_names([composed])[composed] == file_names([apart])[apart] == f"{composed}.db"
    assert len(set(file_names([composed, apart]).values())) == 2
