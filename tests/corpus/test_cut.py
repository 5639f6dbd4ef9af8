"""Promises of the cutting: every character is in a passage, and the same text is always cut in the same places."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.corpus.cut import ChunkRule, chunks
from tests.build.rig import prose

texts = st.text(
    st.one_of(st.sampled_from("ab .!?;\n\t"), st.characters(exclude_categories=["Cs"], exclude_characters="\r")),
    max_size=400,
)
rules = st.builds(ChunkRule, st.integers(16, 60), version=st.sampled_from([1, 2]))


def shown(text: str) -> str:
    """What is not blank."""
    return "".join(text.split())


@given(texts, rules)
def test_no_character_is_lost_doubled_or_moved(text: str, rule: ChunkRule) -> None:
    """The passages one after the other are the text, but for blanks."""
    assert shown("".join(chunks([text], rule))) == shown(text)


@given(texts, rules, st.integers(1, 90))
def test_where_a_piece_of_the_text_ends_makes_no_difference(text: str, rule: ChunkRule, size: int) -> None:
    """A text comes some at once; its passages are those of the whole."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert list(chunks(pieces, rule)) == list(chunks([text], rule))


@given(texts, rules)
def test_no_passage_is_blank_or_too_long(text: str, rule: ChunkRule) -> None:
    """Each is worth a vector, begins and ends with something, and is no longer than asked for."""
    for passage in chunks([text], rule):
        assert passage == passage.strip() != ""
        assert len(passage) <= rule.max_chars


@given(texts, rules)
def test_what_goes_on_leaves_no_crumbs(text: str, rule: ChunkRule) -> None:
    """A break in the first quarter of a passage is not taken, so only the last can be that short without blanks."""
    rest = text
    for passage in list(chunks([text], rule))[:-1]:
        before, _, rest = rest.partition(passage)
        blanks = len(before) + len(rest) - len(rest.lstrip())
        assert len(passage) + blanks > rule.max_chars // 4


TEXT = """\
A heading

The first paragraph is short. It stays whole.

The second one is longer than a passage may be; so it is cut after a sentence, or after a semicolon; or after a word.

    a line that is indented
    another line
\twith a tab

AVeryLongWordThatHasNoPlaceToBreakAtAllAndGoesOnAndOnAndOn
日本語の文章には空白がありませんが、それでも切らなければなりません。それでも切らなければなりません。
"""

GOLDEN = {
    "chunk-1:60": [
        "A heading\n\nThe first paragraph is short. It stays whole.",
        "The second one is longer than a passage may be;",
        "so it is cut after a sentence, or after a semicolon;",
        "or after a word.",
        "a line that is indented\n    another line\n\twith a tab",
        "AVeryLongWordThatHasNoPlaceToBreakAtAllAndGoesOnAndOnAndOn",
        "日本語の文章には空白がありませんが、それでも切らなければなりません。それでも切らなければなりません。",
    ],
    "chunk-2:40": [
        "A heading",
        "The first paragraph is short.",
        "It stays whole.",
        "The second one is longer than a passage",
        "may be; so it is cut after a sentence,",
        "or after a semicolon; or after a word.",
        "a line that is indented",
        "another line\n\twith a tab",
        "AVeryLongWordThatHasNoPlaceToBreakAtAllA",
        "ndGoesOnAndOnAndOn",
        "日本語の文章には空白がありませんが、それでも切らなければなりません。",
        "それでも切らなければなりません。",
    ],
}
"""Recorded. Change nothing here without a new fingerprint: sources that were cut before would not be cut again."""


def test_recorded_passages() -> None:
    """The rules of these fingerprints cut as they always have: resume and digests stand on it."""
    for fingerprint, wanted in GOLDEN.items():
        rule = ChunkRule.of(fingerprint)
        assert rule is not None
        assert rule.fingerprint == fingerprint
        assert list(chunks([TEXT], rule)) == wanted


@pytest.mark.parametrize(
    ("max_chars", "passages", "digest"),
    [(16, 654, "052996e562d2e51b"), (200, 54, "959a0a29ee7756aa"), (1000, 10, "8c66b63e55da87f7")],
)
def test_recorded_digests_of_a_longer_text(max_chars: int, passages: int, digest: str) -> None:
    """The same for more text than can be read here."""
    found = list(chunks(["\n\n".join([prose(1, 12), TEXT * 3, prose(2, 12)])], ChunkRule(max_chars, version=1)))
    assert (len(found), hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]) == (passages, digest)


def test_every_rule_has_its_own_fingerprint() -> None:
    """Another length means that sources are cut anew."""
    assert ChunkRule(999).fingerprint != ChunkRule(1000).fingerprint


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        (" \n\t \u3000\u00a0\x1c", []),
        ("a", ["a"]),
        ("x" * 33, ["x" * 16, "x" * 16, "x"]),
        ("one two three four five", ["one two three", "four five"]),
        ("a\n\n" + "b" * 15, ["a\n\n" + "b" * 13, "bb"]),
    ],
    ids=["empty", "blank", "a letter", "one long word", "words", "a crumb"],
)
def test_small_texts(text: str, wanted: list[str]) -> None:
    """The cases at the edges, with the shortest passages there are."""
    assert list(chunks([text], ChunkRule(16))) == wanted


@pytest.mark.parametrize("max_chars", [15, 0, -1, True, 20.0, "20"])
def test_a_length_that_is_none_is_refused(max_chars: object) -> None:
    """With what is accepted."""
    with pytest.raises(ValueError, match="accepted: an integer >= 16"):
        ChunkRule(max_chars)  # type: ignore[arg-type]  # that is what is tested


def test_a_text_of_megabytes_is_cut_at_the_pace_of_its_length() -> None:
    """One line without a break, blank lines without end: no character is looked at anew for each passage."""
    for text in ("x" * 2_000_000, "\n \n" * 700_000, "a b\n" * 500_000):
        assert shown("".join(chunks([text], ChunkRule()))) == shown(text)
