"""Promises of the decoding: what is certain is read, what is not is named, and what is binary is never text."""

from __future__ import annotations

import array
import random

import pytest

from helix_crawl_otel.corpus.decode import HEAD, UTF8, Decoding, NotText, decoding_of, look

GERMAN = "Die Straßenbahn fährt täglich über die Brücke nach Köln. Für die Gäste gibt es Äpfel, Öl und süße Brötchen."
FRENCH = "Le café était déjà fermé lorsque les élèves sont arrivés à la gare. Où étiez-vous hier soir ?"
POLISH = "Wczoraj byliśmy w Łodzi i jedliśmy żurek z kiełbasą. Dzieci poszły do szkoły, a książę znalazł źródło."
RUSSIAN = "Поезд отправляется из Москвы в восемь часов утра и прибывает в Петербург к полудню."
JAPANESE = "電車は朝八時に東京を出発し、正午に大阪に到着します。おばあさんはケーキを焼きました。"
CHINESE = "火车早上八点从北京出发 中午到达天津。奶奶烤了蛋糕 孩子们在院子里玩到傍晚。"
TAIWAN = "火車早上八點從台北出發 中午到達高雄。奶奶烤了蛋糕 孩子們在院子裡玩到傍晚。"
KOREAN = "기차는 아침 여덟 시에 서울을 출발하여 정오에 부산에 도착합니다. 할머니는 케이크를 구우셨습니다."
ENGLISH = "It\u2019s a “smart” document \u2013 it costs €20 and was written in Word."

WIDE = ("16-le", "16-be", "32-le", "32-be")


def decoded(raw: bytes) -> tuple[str, Decoding]:
    """As a whole file of these bytes is read."""
    decoding = look(raw[:HEAD])
    if decoding == UTF8:
        try:
            return raw.decode(), decoding
        except UnicodeDecodeError as error:
            decoding = decoding_of(raw, error.start, is_end=True)
    return raw[decoding.mark :].decode(decoding.codec, decoding.errors), decoding


@pytest.mark.parametrize("times", [1, 30])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((GERMAN, encoding) for encoding in ("cp1252", "latin-1", "cp437")),
        *((FRENCH, encoding) for encoding in ("cp1252", "latin-1")),
        (ENGLISH, "cp1252"),
        (
            ENGLISH + " The na\u00efve reader won\u2019t notice; the caf\u00e9\u2019s r\u00e9sum\u00e9 is fine.",
            "cp1252",
        ),
        (POLISH, "cp1250"),
        *((RUSSIAN, encoding) for encoding in ("koi8-r", "cp1251", "cp866")),
        *((JAPANESE, encoding) for encoding in ("shift_jis", "euc_jp")),
        ("これはテストです。", "shift_jis"),
        *((CHINESE, encoding) for encoding in ("gb18030", "gbk")),
        (TAIWAN, "big5"),
        (KOREAN, "euc-kr"),
        *(
            (text, f"utf-{wide}")
            for text in (ENGLISH, RUSSIAN, JAPANESE + "\n")
            for wide in ("16-le", "16-be", "32-le")
        ),
    ],
)
def test_what_is_certain_is_read(text: str, encoding: str, times: int) -> None:
    """Text of the encodings that files are in, a sentence of it or a page; and it is said what it was read as."""
    found, decoding = decoded("\n".join([text] * times).encode(encoding))
    assert found == "\n".join([text] * times)
    assert decoding.is_guessed
    assert not decoding.is_plain


@pytest.mark.parametrize("raw", ["Gr\xf6\xdfe".encode("cp437"), "日本".encode("shift_jis"), "Łódź".encode("cp1250")])
def test_what_is_not_certain_is_named_and_left_out(raw: bytes) -> None:
    """A word is too little: a wrong guess is worse."""
    with pytest.raises(NotText, match="its encoding is not certain; it may be ") as found:
        decoded(raw)
    assert found.value.kind == "undecodable text"


@pytest.mark.parametrize("first", [1, 32, 128])
def test_random_bytes_are_never_text(first: int) -> None:
    """Also without a NUL, also without a control character."""
    for seed in range(60):
        draw = random.Random(seed)
        with pytest.raises(NotText):
            decoded(bytes(draw.choices(range(first, 256), k=draw.choice([40, 200, 3000, 40_000]))))


@pytest.mark.parametrize("kind", ["b", "h", "i", "q", "f", "d"])
def test_arrays_of_numbers_are_never_text(kind: str) -> None:
    """Half of their bytes are NULs, as in UTF-16."""
    numbers = range(-100, 3000) if kind != "b" else [0, 1, 2]
    values = array.array(kind, random.Random(1).choices(numbers, k=900))
    with pytest.raises(NotText, match="it is binary"):
        decoded(values.tobytes())


@pytest.mark.parametrize(
    ("head", "kind", "says"),
    [
        (b"%PDF-1.7\nall in ASCII", "PDF file", "it is a PDF file"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "picture", "a picture .jpeg."),
        (b"GIF89a\x01\0\x01\0", "picture", "a picture .gif."),
        (b"PK\x03\x04\x14\0\0\0\0\0", "archive", "an archive .zip."),
        (b"\x1f\x8b\x08\0\0\0\0\0", "archive", "an archive .gzip."),
        (b"SQLite format 3\0" + b"\x10\0\1\1" * 20, "database", "an SQLite database"),
        (b"\x7fELF\2\1\1" + b"\0" * 50, "program", "a program"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 500, "office file", "an office file of the old kind"),
        (b"ID3\x03\0\0\0\0\0\0", "audio file", "a sound .mpeg."),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "video", "a video"),
        (b"\x93NUMPY\x01\0v\0{'descr'", "data file", "a NumPy array"),
    ],
)
def test_what_is_known_by_its_beginning_is_called_by_its_name(head: bytes, kind: str, says: str) -> None:
    """Of few kinds, to be counted by."""
    with pytest.raises(NotText, match=says) as found:
        look(head)
    assert found.value.kind == kind


@pytest.mark.parametrize("word", ["BM", "ID3", "MZ", "PAR1", "GIF89a", "Rar!", "OggS"])
def test_a_text_may_begin_like_something_else(word: str) -> None:
    """Two letters are no picture."""
    assert decoded(f"{word} is a word, and so on.\n".encode())[0].startswith(word)
    assert decoded(f"{word}: {GERMAN}".encode("cp1252"))[0] == f"{word}: {GERMAN}"
