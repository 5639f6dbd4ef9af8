"""Decides how the bytes of a file are text, or what they are instead.

UTF-8, and UTF-16 and UTF-32 with a mark, are certain. Without a mark UTF-16 and UTF-32 are known by their NUL bytes.
What is not UTF-8 is UTF-8 that has been damaged, or of an older encoding: that is guessed by chardet, and a guess is
taken only where no other reading is as likely. A wrong one would be encoded, and found by nobody.

What is uncertain is what it says itself to be, as a page, an XML file or a source code does, where it can be that.

The same bytes are read the same way by every release of the same `READER` and the same chardet.

Source: measured, with an earlier form of this rule, on the translations of a Linux system in 26 languages and 30
encodings: of 1,400 pieces of 30 to 1,000 letters this rule reads 75 % as they were, skips 25 % (9 % of those of 200
letters or more) and takes 4 for something else, each of less than 60 letters or in a language with few letters of its
own. charset-normalizer 3.5.2 takes French, Portuguese and Danish in cp1252 for cp1257 and cp1250.
"""

from __future__ import annotations

import codecs
import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = [
    "HEAD",
    "READER",
    "SAMPLE",
    "UTF8",
    "Decoding",
    "NotText",
    "decoding_of",
    "detector",
    "guess",
    "look",
    "taking_rule",
]

READER = "2"
"""Changes when text that was read before is read otherwise. 1: UTF-8, UTF-16 with a mark, HTML with its tags."""

HEAD = 8192
"""Bytes at the beginning of a file by which it is known."""

SAMPLE = 65536
"""Bytes around the first that is not UTF-8, by which the encoding is guessed: 10 ms of chardet."""

LIKELIER = 1.001
"""By this factor a reading is likelier than another. What is below is decided by letters that are not there."""

ENOUGH = 8
"""Bytes beyond ASCII that an encoding other than cp1252 is guessed from, and half as many kinds of letters, of which
Chinese, Japanese and Korean have more: three may be anything, and so may one that comes again and again.
"""

LEAST_DENSE = 0.1
"""How sure chardet is at least, of 1, where every fourth byte is beyond ASCII: of bytes at random it is by 0.02."""

MOST_REPLACED = 20
"""A text of fewer characters for each that was replaced is none."""

MISSPELT = 10
"""Where one word of fewer is misspelt, it is another encoding; authors use a foreign word now and then."""

SPARSE = 500
"""Where fewer than one byte of so many is damaged, the rest is read."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before that of UTF-16, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_SHIFTS_OF_JAPANESE = (b"\x1b$B", b"\x1b$@")
"""By which ISO-2022-JP leaves ASCII: what follows looks like ASCII, and is none."""

_EAST = ("cp932", "euc_jis_2004", "gb18030", "big5hkscs", "cp949")

_CANDIDATES = (
    *("cp1252", "iso8859-1", "iso8859-15", "mac-roman", "cp437", "cp850"),
    *("cp1250", "iso8859-2", "cp852", "cp1257", "cp1254", "iso8859-9", "cp1258"),
    *("cp1251", "koi8-r", "koi8-u", "cp866", "iso8859-5", "cp1253", "iso8859-7"),
    *("cp1255", "iso8859-8", "cp1256", "iso8859-6"),
    *_EAST,
    "cp874",  # Thai, which has blanks between sentences only
)
"""What files of the last forty years are in. Not those of mainframes: any bytes are text in one of them."""

_NAMES = {
    "iso2022_jp": "ISO-2022-JP",
    "big5hkscs": "Big5",
    "cp949": "EUC-KR",
    "cp932": "Shift-JIS",
    "euc_jis_2004": "EUC-JP",
    "gb18030": "GB18030",
}

_KINDS = {
    "application/epub+zip": ("office file", "an e-book"),
    "application/x-sqlite3": ("database", "an SQLite database"),
    "application/x-elf": ("program", "a program"),
    "application/x-mach-binary": ("program", "a program"),
    "application/vnd.microsoft.portable-executable": ("program", "a program for Windows"),
    "application/java-vm": ("program", "a Java class"),
    "application/wasm": ("program", "a WebAssembly program"),
    "application/vnd.android.dex": ("program", "an Android program"),
    "application/vnd.apache.parquet": ("data file", "a Parquet file"),
    "application/vnd.apache.arrow.file": ("data file", "an Arrow file"),
}
_GROUPS = {"image": ("picture", "a picture"), "audio": ("audio file", "a sound"), "video": ("video", "a video")}
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OTHER_HEADS = (
    (_OLE, "office file", "an office file of the old kind (.doc, .xls, .ppt, .msg)"),
    (b"\x93NUMPY", "data file", "a NumPy array"),
    (b"\x89HDF\r\n\x1a\n", "data file", "an HDF5 file"),
    (b"wOF", "font", "a font"),
)


class NotText(Exception):
    """The source is no text.

    Args:
        kind: What it is, for counting: one of few words, such as `picture`.
        reason: What makes it that, a clause with `it`.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True)
class Decoding:
    """How bytes become text.

    Args:
        codec: Of Python.
        mark: Bytes at the beginning that are no part of the text.
        errors: `strict`, or `replace` for what has been damaged.
        is_guessed: It depends on chardet.
    """

    codec: str
    mark: int = 0
    errors: str = "strict"
    is_guessed: bool = False

    @property
    def name(self) -> str:
        """Such as `cp1252` or `UTF-16-LE`."""
        return self.codec.upper() if self.codec.startswith("utf") else _NAMES.get(self.codec, self.codec)

    @property
    def is_plain(self) -> bool:
        """Nothing has to be said of it: it is what it says, or what everything is."""
        return self.errors == "strict" and not self.is_guessed and (self.codec == "utf-8" or self.mark > 0)


UTF8 = Decoding("utf-8")


@functools.cache
def detector() -> str:
    """Name and version of what guesses. What was guessed or refused by another is looked at again."""
    from importlib.metadata import version  # which loads the whole of `email`

    return f"chardet {version('chardet')}"


def taking_rule(cutting: str) -> str:
    """Fingerprint of all that decides what is taken from a tree; a shard of another one is looked into again.

    Args:
        cutting: Fingerprint of the rule by which text is cut.
    """
    return f"{cutting}:read-{READER}:{detector()}"


def look(head: bytes) -> Decoding:
    """How a file is read, by its first bytes; UTF-8 where they do not tell, which the rest has to prove.

    Args:
        head: `HEAD` of them, or all that there are.

    Raises:
        NotText: They are of no text.
    """
    if (known := _kind(head)) is not None:
        raise NotText(*known)
    for mark, codec in _MARKS:
        if head.startswith(mark):
            if codec != "utf-8":
                _refuse_nul(head[len(mark) :], codec)
            return Decoding(codec, len(mark))
    if b"\0" in head:
        for codec in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
            if _is_wide_text(head, codec):
                return Decoding(codec, is_guessed=True)
        raise NotText("binary file", "it is binary")
    if any(shift in head for shift in _SHIFTS_OF_JAPANESE) and _is_strict(head, "iso2022_jp"):
        return Decoding("iso2022_jp", is_guessed=True)
    return UTF8


def _refuse_nul(raw: bytes, codec: str) -> None:
    if "\0" in raw.decode(codec, "ignore"):
        raise NotText("binary file", "it is binary")


def _is_strict(raw: bytes, codec: str) -> bool:
    """Whether bytes can be decoded, of which the last letter may be cut."""
    try:
        codecs.getincrementaldecoder(codec)("strict").decode(raw)
    except UnicodeDecodeError:
        return False
    return True


def _kind(head: bytes) -> tuple[str, str] | None:
    """What a file is by its first bytes, where that is no text."""
    for magic, kind, what in _OTHER_HEADS:
        if head.startswith(magic):
            return kind, f"it is {what}"
    if head.startswith(b"%PDF-"):
        return "PDF file", "it is a PDF file"
    if not _controls(head):
        return None  # nearly every file; and a text may begin with the letters BM, as a picture does
    import chardet

    # Of ASCII alone, for it takes pictures for UTF-16.
    found = chardet.detect(head, include_encodings=("ascii",), no_match_encoding="ascii")
    mime = found["mime_type"] or ""
    group = mime.partition("/")[0]
    if group == "text" or mime in ("", "application/octet-stream"):
        return None
    if mime in _KINDS:
        kind, what = _KINDS[mime]
    elif group == "font":
        kind, what = "font", "a font"
    elif group in _GROUPS:
        kind, what = _GROUPS[group]
        what = f"{what} ({mime.partition('/')[2].removeprefix('x-').removeprefix('vnd.')})"
    elif "officedocument" in mime or "opendocument" in mime:
        kind, what = "office file", "an office file (.docx, .xlsx, .odt and the like)"
    else:
        kind, what = "archive", f"an archive ({mime.partition('/')[2].removeprefix('x-')})"
    return kind, f"it is {what}"


_CONTROLS = frozenset("\t\n\v\f\r\b\x1a\x1b")
"""What is found in texts: DOS ends a file with 1A, terminals colour with 1B."""

_NOT_IN_TEXT = bytes(byte for byte in range(32) if chr(byte) not in _CONTROLS)


# -- UTF-16 and UTF-32 without a mark ----------------------------------------------------------------------------------

_EAST_ASIAN = frozenset({"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH", "BOPOMOFO"})


def _is_wide_text(head: bytes, codec: str) -> bool:
    """Whether bytes are letters of one script, with blanks or line ends among them: arrays of numbers are not."""
    if head.isascii() and 3 * head.count(0) < len(head) and not _controls(head.replace(b"\0", b"")):
        return False  # ASCII with some NULs: two of its letters make one that looks Chinese
    unit = 4 if codec.startswith("utf-32") else 2
    raw = head[: len(head) - len(head) % unit] if len(head) >= HEAD else head
    try:
        text = codecs.getincrementaldecoder(codec)("strict").decode(raw, len(head) < HEAD)
    except UnicodeDecodeError:
        return False
    if len(text) < 2 or any(unicodedata.category(char) in _NO_TEXT and char not in _CONTROLS for char in text):
        return False
    scripts = {unicodedata.name(char, "?").partition(" ")[0] for char in set(text) if char.isalpha()}
    scripts = {script.partition("-")[0] for script in scripts}
    others = scripts - {"LATIN", "FEMININE", "MASCULINE", "MICRO", "MODIFIER"}
    is_one = len(others) <= 1 or others <= _EAST_ASIAN
    plain = sum(char.isascii() or 0x3000 <= ord(char) < 0x3100 for char in text)
    return is_one and 20 * plain >= len(text)


_NO_TEXT = frozenset({"Cc", "Cn", "Co", "Cs"})


# -- what is not UTF-8 -------------------------------------------------------------------------------------------------


def decoding_of(sample: bytes, at: int, *, is_end: bool, head: bytes = b"") -> Decoding:
    """How a file is read that is not UTF-8.

    Args:
        sample: Of its bytes, with the first that is not UTF-8.
        at: Where that is in the file, for the reason.
        is_end: The sample goes to the end of the file.
        head: Its first bytes, which may say it.

    Raises:
        NotText: Nobody can say what it is, or it is binary.
    """
    places, damaged, letters = _damage(sample, is_end)
    if 4 * places <= letters:
        return Decoding("utf-8", errors="replace")
    guessed, others = guess(sample)
    guessed = guessed or _declared(head, sample)
    is_mixed = letters > 2 and letters >= damaged
    ends_so = is_end and places == 1 and _ends_damaged(sample)
    if guessed is not None and not is_mixed and not ends_so:
        return guessed
    if ends_so or damaged * SPARSE <= len(sample):
        return Decoding("utf-8", errors="replace")
    if is_mixed:
        raise NotText("undecodable text", f"it is UTF-8 in parts and something else from byte {at} on")
    if 100 * _controls(sample) > len(sample):
        raise NotText("binary file", "it is binary")
    may_be = f"; it may be {' or '.join(others[:3])}" if others else ""
    raise NotText("undecodable text", f"it is not UTF-8 (byte {at}), and its encoding is not certain{may_be}")


_DECLARATION = re.compile(rb"(?:charset|coding)[ \t]*[=:][ \t]*[\"']?([A-Za-z0-9_-]{2,30})", re.IGNORECASE)
_MEANT = {
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_jp": "euc_jis_2004",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "tis-620": "cp874",
}
"""What files hold that name an encoding of which there is a larger one. Source: WHATWG, Encoding Standard."""


def _declared(head: bytes, sample: bytes) -> Decoding | None:
    """What a page, an XML file or a source code says that it is, where the bytes can be that."""
    if (found := _DECLARATION.search(head)) is None or _controls(sample):
        return None
    try:
        codec = codecs.lookup(found[1].decode()).name
    except LookupError:
        return None
    codec = _MEANT.get(codec, codec)
    if codec not in _CANDIDATES or not _is_strict(sample, codec):
        return None
    text = codecs.getincrementaldecoder(codec)("strict").decode(sample)
    is_text = not any("\x80" <= char <= "\x9f" for char in text) and _is_spelt(text)
    return Decoding(codec, is_guessed=True) if is_text else None


def _damage(sample: bytes, is_end: bool) -> tuple[int, int, int]:
    """Places and bytes that are not UTF-8, and letters beyond ASCII that are."""
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(sample, is_end)
    places = [len(found) for found in _ESCAPED.findall(text)]
    return len(places), sum(places), len(text) - sum(places) - len(text.encode("ascii", "ignore"))


_ESCAPED = re.compile("[\udc80-\udcff]+")


def _ends_damaged(sample: bytes) -> bool:
    """Whether the only damage is at the end, as of a log that was copied while it was written: a letter that was cut,
    or a byte on a line of its own, is none of an encoding.
    """
    whole = sample.decode("utf-8", "ignore").encode()
    if len(whole) < 2 * MOST_REPLACED or not sample.startswith(whole):
        return False
    rest = sample[len(whole) :]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(rest)
    except UnicodeDecodeError:
        return len(rest) <= 4 and whole[-1:].isspace()
    return True


def _controls(raw: bytes) -> int:
    """Control characters that no text has."""
    return len(raw) - len(raw.translate(None, _NOT_IN_TEXT))


def guess(sample: bytes) -> tuple[Decoding | None, Sequence[str]]:
    """The encoding of a text, `None` where that is not certain, and what it may be, likeliest first."""
    if _controls(sample):
        return None, ()
    letters = _without_signs(sample)
    if letters.isascii():
        return Decoding("cp1252", is_guessed=True), ("cp1252",)
    for codec in ("cp932", "euc_jis_2004"):
        if _is_kana(sample, codec):
            return Decoding(codec, is_guessed=True), (_NAMES[codec],)
    # Only Windows has these signs there.
    candidates = _CANDIDATES if letters is sample else [codec for codec in _CANDIDATES if codec.startswith("cp125")]
    import chardet

    found: list[tuple[float, str, str]] = []
    for one in chardet.detect_all(
        b"\n" + letters,  # a text may begin with BM, which is no picture
        ignore_threshold=True,
        compat_names=False,
        max_bytes=len(letters) + 1,
        include_encodings=("ascii", *candidates),
        no_match_encoding="ascii",  # which it is not, so that it is left out below
    ):
        codec = one["encoding"] or "ascii"
        try:
            text = codecs.getincrementaldecoder(codec)("strict").decode(letters)
        except UnicodeDecodeError:
            continue
        if not any("\x80" <= char <= "\x9f" for char in text) and _is_spelt(text):
            found.append((one["confidence"], codec, text))
    if not found:
        return None, ()
    near = [one for one in found if one[0] * LIKELIER >= found[0][0]]
    # Where nothing tells them apart, it is what Windows has written in the west: the others have letters of their own.
    best = next((one for one in near if one[1] == "cp1252"), near[0])
    names = list(dict.fromkeys(Decoding(codec).name for _, codec, _ in found))
    is_western = best[1] == "cp1252" or any(codec == "cp1252" and text == best[2] for _, codec, text in found)
    is_alone = best[1] == "cp1252" or all(text == best[2] for _, _, text in near)
    high = sum(byte > 127 for byte in sample)
    # The commonest byte of what is no text; in the west it is the rarest letter (ÿ), in cp1251 one of twenty (я).
    beyond = [char for char in best[2] if not char.isascii()]
    kinds = len(set(beyond)) * (1 if best[1] in _EAST else 2)
    is_enough = is_western or (high >= ENOUGH and kinds >= ENOUGH)
    is_enough = is_enough and (20 if is_western else 4) * sample.count(b"\xff") <= high
    # What is large in cp1251 is small in KOI8.
    is_cased = not best[1].startswith("koi8") or any(map(str.isupper, beyond))
    is_of_letters = 2 * sum(map(str.isalnum, beyond)) >= len(beyond)
    is_likely = best[0] >= LEAST_DENSE or 4 * high < len(sample)
    has_words = best[1] in (*_EAST, "cp874") or 50 * (1 + sum(map(str.isspace, best[2]))) >= len(best[2])
    if not (is_alone and is_enough and is_cased and is_of_letters and is_likely and has_words):
        return None, names
    return Decoding("cp1252" if is_western else best[1], is_guessed=True), names


_WORD = re.compile(r"[^\W\d_]*[^\W\d_\x00-\x7f][^\W\d_]*[0-9]?")


def _is_spelt(text: str) -> bool:
    """Whether its words beyond ASCII are spelt as people do: of one alphabet, large letters at the beginning or
    throughout, and no letter alone before a number. Of bytes read as another encoding they are not.
    """
    words = _WORD.findall(text)
    return MISSPELT * sum(map(_is_misspelt, words)) <= len(words)


def _is_misspelt(word: str) -> bool:
    if word[-1].isdecimal():
        if len(word) == 2:
            return True
        word = word[:-1]
    alphabets = {unicodedata.name(char, "?").partition(" ")[0] for char in word} & _ALPHABETS
    if len(alphabets) > 1:
        return True
    turns = ((first, then) for first, then in pairwise(word) if first.islower() and then.isupper())
    return any(not (first + then).isascii() for first, then in turns) or not _FINAL.isdisjoint(word[:-1])


_FINAL = frozenset("ςםןץףך")
"""How letters of Greek and Hebrew are written at the end of a word, and nowhere else."""

_ALPHABETS = frozenset({"LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC"})
"""Of which no word has two. Chinese, Japanese and Thai are written without blanks beside Latin."""


_SIGNS = re.compile(
    rb"(?<=[A-Za-z])\x92(?=(?:s|t|re|ll|d|m|ve)\b)"  # It's
    rb"|\xb0(?=[CF]\b)|\xa3(?=[0-9])"
    rb"|(?<![A-Za-z])[\x80\x91-\x93\x95-\x97\xa9\xae\xb1]|[\x92-\x97\x99\xa9\xae\xb0\xb1](?![A-Za-z])"
)


def _without_signs(sample: bytes) -> bytes:
    """The sample without the quotation marks, dashes and the like of cp1252, where no letter would stand: English as
    Windows writes it, of which a count of letters cannot tell anything.
    """
    high = sum(byte > 127 for byte in sample)
    if 5 * high > len(sample) or sample.count(b"\x94") != sample.count(b"\x93"):
        return sample
    without, signs = _SIGNS.subn(b"'", sample)
    return without if 2 * signs >= high else sample


def _is_kana(sample: bytes, codec: str) -> bool:
    """Whether what is not ASCII is Japanese without an ideograph: chardet wants more kinds of letters than that has."""
    try:
        text = codecs.getincrementaldecoder(codec)().decode(sample)
    except UnicodeDecodeError:
        return False
    beyond = [char for char in text if not char.isascii()]
    return len(beyond) >= ENOUGH // 2 and all("\u3000" <= char <= "\u30ff" for char in beyond)
