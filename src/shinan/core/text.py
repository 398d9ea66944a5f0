"""Text normalising shared by duplicates, overlap and metrics. Pure, Unicode-aware, language-blind."""

from __future__ import annotations

import re
import unicodedata

# Scripts written without spaces: a run of them is split into characters, or no two sentences would share a "word".
_UNSPACED = (
    "\u3041-\u3096\u30a1-\u30fa\u30fc\u31f0-\u31ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # han
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e50-\u0e59\u0e80-\u0eff"  # Thai, Lao
    "\u1000-\u1049\u1050-\u109f\u1780-\u17d3\u17e0-\u17e9"  # Burmese, Khmer
)
# Python's \w leaves out combining marks, so that Hindi would lose its vowels; the two joiners stand inside words too.
_MARKS = "\u200c\u200d" + "".join(c for c in map(chr, range(0x300, 0x1E00)) if unicodedata.category(c)[0] == "M")
_LETTERS = rf"[^\W{_UNSPACED}_]"
_WORD = re.compile(rf"[{_UNSPACED}]|{_LETTERS}+(?:[{_MARKS}]+{_LETTERS}*)*")
_SIGNS = re.compile("[\x80-\xa9\xab-\xb1\xb4\xb6\xb7\xbb\xbf×÷\u2000-\u200b\u200e-\u206f]+")  # never part of a word
_QUOTES = "’“”‘–—"  # often all that is not ASCII, and a replacement is ten times as fast as a pattern
# What the pattern makes of ASCII, byte by byte: small letters and digits, all else a blank. Bytes of other characters
# in UTF-8 stay.
_ASCII = bytes(ord(c.lower()) if c.isalnum() else 32 for c in map(chr, range(128))) + bytes(range(128, 256))


def normalise(text: str) -> str:
    """NFKC, case-folded, runs of white space as one blank, ends stripped: equal for texts that differ only in form."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())  # folding takes some letters apart again


def words(text: str) -> list[str]:
    """Normalised words without punctuation; unspaced scripts (Japanese, Chinese, Thai) give one word a character.

    >>> words("The cat's 3 hats, 猫だ。")
    ['the', 'cat', 's', '3', 'hats', '猫', 'だ']
    """
    return spelt(text).decode().split()


def spelt(text: str) -> bytes:
    """The text's `words` in UTF-8 with one or more blanks between them, and nothing else.

    >>> spelt("Is it a “cat”?").split()
    [b'is', b'it', b'a', b'cat']
    """
    if not text.isascii():
        for sign in _QUOTES:
            text = text.replace(sign, " ")
    if not text.isascii():
        text = _SIGNS.sub(" ", text)
    if not text.isascii():
        runs = normalise(text).split()  # most runs between blanks are ASCII: the pattern takes ten times as long
        text = " ".join([run if run.isascii() else " ".join(_WORD.findall(run)) for run in runs])
    return text.encode().translate(_ASCII)


def unspaced(text: str) -> bool:
    """Whether the text holds a character of a script written without spaces."""
    return re.search(f"[{_UNSPACED}]", text) is not None
