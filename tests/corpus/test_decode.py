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
    for seed in range(24):
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


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Réunion prévue à 10h. Voilà le résumé, déjà envoyé à Élodie.", "cp1252"),
        ("Mañana será otro día. ¿Qué pasó con el niño? Así está mejor, señor.", "cp1252"),
        ("Mañana será otro día. ¿Qué pasó con el niño? Así está mejor, señor.", "cp850"),
        ("ÜBERSICHT DER GESCHÄFTE, GRÖSSE UND ÄNDERUNG", "cp1252"),
        ("DÉPÊCHE ÉLECTRICITÉ À PAYER", "cp850"),
        ("ВНИМАНИЕ! ПАСПОРТ ОБЯЗАТЕЛЕН", "cp1251"),
        ("ВНИМАНИЕ! ПАСПОРТ ОБЯЗАТЕЛЕН", "koi8-r"),
        ("Встреча состоится в пятницу в офисе. Пожалуйста, принесите документы.", "mac-cyrillic"),
        ("time;20.5 °C\ntime;21.5 °C", "cp850"),
        ("time;20.5 °C\ntime;21.5 °C", "mac-roman"),
        ("Total: £500", "cp850"),
        ("Price: 5 €, 6 €, 7 €, 8 €", "iso8859-15"),
        ("# Łukasz Wiśniewski\nprint(x)", "cp1250"),
        ("/* 初期化処理 */\nint main(void) { return 0; }\n/* 終了 */", "euc-jp"),
    ],
)
def test_a_short_note_is_read_as_it_is_or_left_out(text: str, encoding: str, times: int) -> None:
    """Never as letters of another alphabet, of another size in the middle of words, or as a few of another language."""
    text = "\n".join([text] * times)
    try:
        found, _ = decoded(text.encode(encoding))
    except NotText:
        return
    assert found == text


@pytest.mark.parametrize("text", ["time;temperature (°C)\n" + "1;20.5\n" * 400, "1;20.5 °C\n" * 9, "-4 °F, £500"])
def test_signs_that_stand_by_numbers_are_those_of_windows(text: str) -> None:
    """A table with a degree sign is no text of another language."""
    assert decoded(text.encode("cp1252"))[0] == text


@pytest.mark.parametrize(
    ("page", "encoding"),
    [
        ('<html><meta charset="windows-1252">25 °C, 3 m² \u2013 naïve</html>', "cp1252"),
        ('<html><meta charset="gb2312">你好世界</html>', "gbk"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=Shift_JIS">売上報告書', "cp932"),
        ('<?xml version="1.0" encoding="iso-8859-2"?><a>Wałęsa</a>', "iso8859-2"),
        ("# -*- coding: cp1250 -*-\n# Łukasz Wiśniewski\n", "cp1250"),
        ("会議は金曜日です。\n", "iso2022_jp"),
    ],
)
def test_what_is_uncertain_is_what_it_says_itself(page: str, encoding: str) -> None:
    """A page, an XML file and a source code say how they are written."""
    raw = page.encode(encoding)
    found = look(raw)
    if found == UTF8:
        found = decoding_of(raw, raw.index(min(byte for byte in raw if byte > 127)), is_end=True, head=raw)
    assert raw.decode(found.codec) == page


@pytest.mark.parametrize("says", ["utf-8", "ascii", "utf-16", "rot13", "base64", "nonsense", "iso8859-6", "mbcs"])
def test_what_it_says_and_cannot_be_is_not_believed(says: str) -> None:
    """A lie changes nothing."""
    raw = f'<meta charset="{says}">'.encode() + RUSSIAN.encode("cp1251")
    assert decoding_of(raw, 30, is_end=True, head=raw) == Decoding("cp1251", is_guessed=True)


@pytest.mark.parametrize("pages", [1, 50])
def test_ascii_with_some_nuls_is_no_chinese(pages: int) -> None:
    """Two of its letters would make one."""
    with pytest.raises(NotText, match="it is binary"):
        look(b"<html><body>a\0b<p>c\0\0d</p></body></html>\n" * pages)
