"""Promises of the cutting by tokens: nothing is beyond what the encoder reads, nothing is lost, no letter is torn."""

# ruff: noqa: RUF001 - the signs of all scripts are what is tested

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helix_crawl_otel.corpus.cut import ChunkRule, chunks

Count = Callable[[str], int]

COUNTS: dict[str, Count] = {
    "letters": len,
    "bytes": lambda text: len(text.encode("utf-8", "surrogatepass")),
    "words and signs": lambda text: len(re.findall(r"\w+|[^\w\s]", text)),
    "letters, and a word that is long": lambda text: sum(len(word) ** 2 for word in text.split()) + len(text),
}


class Room:
    """Counts without a model.

    Args:
        count: Tokens of a text.
        room: How many an encoder would read.
    """

    def __init__(self, count: Count, room: int) -> None:
        self.count, self.room, self.asked = count, room, 0

    def prepare(self) -> None:
        """There is nothing to load."""

    def fills(self, texts: Sequence[str]) -> list[float]:
        """See `Tokens`."""
        self.asked += 1
        return [self.count(text) / self.room for text in texts]


def cut(text: str, room: Room | None = None, max_chars: int = 1000) -> list[str]:
    """Its passages."""
    return list(chunks([text], ChunkRule(max_chars, "test", room)))


def shown(text: str) -> str:
    """What is not blank."""
    return "".join(text.split())


WRITING = st.one_of(
    st.sampled_from("我们在北京的办公室里讨论。！？，、"),
    st.sampled_from("ประเทศไทยน้ำใจ์ ๆ"),
    st.sampled_from("नमस्ते दुनिया। क्ष"),
    st.sampled_from(["👨‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️", "e\u0301\u0323", "한글", "\u1112\u1161\u11ab", "क्षि", "กำ"]),
    st.sampled_from(["a" * 90, "word ", ". ", "\n", "\n\n", "\u3000", "ﷺ", "\u200b"]),
    st.characters(exclude_categories=["Cs"], exclude_characters="\r"),
)
texts = st.lists(WRITING, max_size=200).map("".join)


@given(texts, st.sampled_from(sorted(COUNTS)), st.integers(1, 40), st.integers(16, 120))
@example("我" * 1000, "bytes", 7, 1000)
@example("a\u0301" + "\u0301" * 300, "letters", 5, 120)
def test_no_token_is_ever_beyond_what_the_encoder_reads(text: str, name: str, room: int, max_chars: int) -> None:
    """Every passage fits, and one after the other they are the text. A single character is all that may be too much."""
    count = COUNTS[name]
    passages = cut(text, Room(count, room), max_chars)
    assert shown("".join(passages)) == shown(text)
    for passage in passages:
        assert passage == passage.strip() != ""
        assert count(passage) <= room or len(passage) == 1
        assert len(passage) <= max_chars


@given(texts, st.integers(1, 40), st.integers(1, 90))
def test_where_a_piece_of_the_text_ends_makes_no_difference(text: str, room: int, size: int) -> None:
    """A text comes some at once; its passages are those of the whole."""
    rule = ChunkRule(60, "test", Room(len, room))
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert list(chunks(pieces, rule)) == list(chunks([text], rule))


@given(texts)
def test_what_fits_is_cut_as_without_a_model(text: str) -> None:
    """The model changes nothing for text that it reads whole."""
    assert cut(text, Room(len, 10_000), 60) == cut(text, None, 60)


def test_two_texts_that_differ_at_their_end_differ_in_a_passage() -> None:
    """A thousand letters without a blank, of which the encoder reads 254 at once."""
    first, second = (cut("春" * 900 + end * 100, Room(len, 254)) for end in "秋冬")
    assert first != second
    assert all(len(passage) <= 254 for passage in first)
    assert len(first) <= 5


SENTENCES = {
    "Chinese": "今天天气很好。",
    "Japanese, half width": "ｷｮｳﾊｲｲﾃﾝｷﾃﾞｽ｡",
    "full width": "今天天气很好！？",
    "quoted": "他说：「今天天气很好。」",
    "Hindi": "आज मौसम अच्छा है।",
    "Arabic": "هل الطقس جيد اليوم؟",
    "Urdu": "آج موسم اچھا ہے۔",
    "Amharic": "ዛሬአየሩጥሩነው።",
    "Burmese": "ဒီနေ့ရာသီဥတုကောင်းတယ်။",
    "Khmer": "ថ្ងៃនេះអាកាសធាតុល្អ។",
    "Tibetan": "དེ་རིང་གནམ་གཤིས་ཡག་པོ་འདུག།",
    "Armenian": "Այսօրեղանակըլավէ։",
    "English": "The weather is good today. ",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences_of_every_script_stay_whole(name: str) -> None:
    """Where there are some, by characters and by tokens, with the signs that close them."""
    sentence = SENTENCES[name]
    for passages in (cut(sentence * 40, None, 100), cut(sentence * 40, Room(len, 70))):
        assert len(passages) > 1
        assert {passage.replace(sentence.strip(), "").strip() for passage in passages} == {""}


@pytest.mark.parametrize(
    ("text", "ends"),
    [("one two three " * 30, " "), ("苹果，香蕉、" * 40, "，、"), ("ขนมปัง\u200b" * 40, "\u200b"), ("a\n\n" * 99, "\n")],
    ids=["blanks", "commas", "zero width", "paragraphs"],
)
def test_words_stay_whole(text: str, ends: str) -> None:
    """Where there is no sentence: at a blank, after a comma that has none, at what stands between the words of Thai."""
    at = 0
    for passage in cut(text, Room(len, 50))[:-1]:
        at = text.index(passage, at) + len(passage)
        assert text[at - 1] in ends or text[at] in ends


TOGETHER = [
    "e\u0301",
    "👨‍👩‍👧‍👦",
    "🇩🇪",
    "👍🏽",
    "❤️",
    "\u1112\u1161\u11ab",
    "क्षि",
    "กำ",
    "한",
    "ｶﾞ",
    "\u0600١",
    "🏴\U000e0067\U000e007f",
]


@pytest.mark.parametrize("together", TOGETHER)
def test_no_letter_is_torn(together: str) -> None:
    """A letter and its marks, an emoji of several, a flag, a syllable: by characters and by tokens."""
    for passages in (cut(together * 400, None, 101), cut(together * 400, Room(len, 33))):
        assert len(passages) > 3
        assert {passage.replace(together, "") for passage in passages} == {""}


def test_parts_are_about_as_long() -> None:
    """No crumb is left of a passage that is a little too long, and few parts are made."""
    for length in range(255, 1001, 20):
        parts = [len(part) for part in cut("界" * length, Room(len, 254))]
        assert len(parts) <= length / 254 * 1.1 + 1
        assert min(parts) > 100


def test_the_tokens_are_counted_together() -> None:
    """Many passages by one call, so that a fast tokenizer uses all cores."""
    room = Room(len, 1000)
    assert len(cut("word " * 12_900, room)) == 64 + 1
    assert room.asked == 2


def test_a_line_without_end_is_cut_at_the_pace_of_its_length() -> None:
    """No character is looked at anew for each passage."""
    for text in ("我" * 300_000, "🇩🇪" * 100_000, "e\u0301" * 100_000, "\u0301" * 200_000):
        assert shown("".join(cut(text, Room(len, 300)))) == text


def test_a_rule_is_known_by_its_fingerprint() -> None:
    """Those of before, those of other models; none that a later version may write."""
    room = Room(len, 5)
    for rule in (ChunkRule(version=1), ChunkRule(77, "minilm-1", room), ChunkRule(50)):
        again = ChunkRule.of(rule.fingerprint, room)
        assert again == rule
        assert again is not None
        assert (again.tokens is None) == (rule.version == 1)
    assert len({ChunkRule(99, model, room).fingerprint for model in ("", "a", "b")}) == 3
    for unknown in ("", "chunk-3:1000", "chunk-2", "chunk-2:x", "chunk-1:99999999999"):
        assert ChunkRule.of(unknown, room) is None
