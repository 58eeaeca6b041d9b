# ruff: noqa: RUF001 - letters that look like others are what this is about.
"""Names that break stores: for steps, branches, parameters, scopes and run ids."""

from __future__ import annotations

import unicodedata
from typing import Final

_PATHS: Final = [
    *(".", "..", "...", "/", "//", "a//b", "a/", "/a", "./a", "../a", "../../a", "a/../b", "a/./b", "/etc/passwd"),
    *("~", "~root", "-rf", "--help", "\\", "a\\b", "..\\..\\a", "C:\\a", "\\\\host\\share", "a.", "a..", "a ", " a"),
    *(" ", "a  b", ".a", "..a", "a.b", "a..b", "a.json", ".json", "run.json", "job.json", "step.a.json", ".locks"),
    *("parameter@a@b", "@", "@@", "a@b", ".t-1-2-3", ".probe", "lost+found", ".DS_Store", "a.json~"),
]
_ESCAPES: Final = [
    *("%", "%%", "%2", "%2e", "%2E", "%2e%2e", "%2e%2e%2f", "%252e", "%00", "%~", "a%~b", "%zz", "%C3%A4", "%FF"),
    *("a%20b", "a+b", "a b", "&amp;", "&#x1;", "<a>", "]]>", "?versionId=null", "?uploads", "a?b", "a#b", "a&b=c", "="),
    *("*", "**", "?", "[a]", "[!a]", "{a,b}", "{{a}}", "$HOME", "$(id)", "`id`", "${a}", "|", ";", "!", "^", "'", '"'),
    *(":", "a:b", "::$DATA", ",", "(a)", "\u2028", "s3://bucket/key", "file:///etc/passwd", "null", "None", "0", "-1"),
]
_DEVICES: Final = ["CON", "con", "PRN", "AUX", "NUL", "nul.txt", "COM1", "LPT9", "CONIN$", "con.step"]
_CONTROL: Final = [
    *("\0", "a\0b", "\n", "a\nb", "\r", "\r\n", "\t", "\x01", "\x1b[31m", "\x7f", "\x80", "\x85", "a\n", "\na", "\x0b"),
    *("\u200b", "\u200d", "\ufeff", "\ufeffa", "\u202e", "\u202eabc", "\u2066a\u2069", "\ufffd", "\ufffe", "\uffff"),
]
_LETTERS: Final = [
    *(
        "a",
        "A",
        "ab",
        "aB",
        "Ab",
        "AB",
        "Train",
        "train",
        "TRAIN",
        "ß",
        "ẞ",
        "ss",
        "SS",
        "ı",
        "i",
        "I",
        "İ",
        "K",
        "\u212a",
    ),
    *(
        "é",
        "e\u0301",
        "É",
        "Å",
        "\u212b",
        "A\u030a",
        "ﬁ",
        "fi",
        "①",
        "1",
        "Ａ",
        "가",
        unicodedata.normalize("NFD", "가"),
    ),
    *("日本語", "שלום", "مرحبا", "हिन्दी", "😀", "👩‍👩‍👧", "🏳️‍🌈", "𝒜", "\U0010ffff", "\ue000", "a\u0300\u0301\u0302"),
]
_LONG: Final = [
    *(
        "x" * 245,
        "x" * 246,
        "x" * 255,
        "x" * 300,
        "x" * 299 + "y",
        "X" * 300,
        "😀" * 75,
        "é" * 150,
        "/" * 300,
        "." * 300,
    ),
    *("%" * 300, "x" * 119, "x" * 120, "x" * 121, "x" * 5_000, "日" * 400, " " * 300, "\n" * 300, "a." * 150 + "b"),
    *("x" * 199, "x" * 200, "x" * 201, "é" * 33, "é" * 34),
]

NAMES: Final = list(dict.fromkeys([*_PATHS, *_ESCAPES, *_DEVICES, *_CONTROL, *_LETTERS, *_LONG]))
"""Each is kept exactly as a step, branch, parameter and scope; as a run id it is kept, or refused."""

NO_TEXT: Final = ["\ud800", "a\udfff", "\udcff", "a\ud83d", "\ude00b"]
"""Half characters: no name can be one."""

ALPHABET: Final = "a/.%\0 A@~2eE-\n\\*?😀ß{:é\u0301K\u212a\ufeff5"
"""What names of up to three characters are made of."""
