"""What a terminal, and the locale that it comes with, can show."""

import codecs
import locale
import os
import sys


def speak_utf8() -> None:
    """Where the locale's encoding is not UTF-8, starts the same command again in Python's UTF-8 mode.

    Names of files, files and messages are then what they are elsewhere. A terminal of another encoding gets `?` for what it cannot show; of
    a locale that says nothing (C, POSIX) it is taken for one of UTF-8.
    """
    theirs = codecs.lookup(locale.getencoding()).name
    if theirs != "utf-8" and not sys.flags.utf8_mode and "utf8" not in sys._xoptions:
        os.environ["PYTHONUTF8"] = "1"  # for what this process starts
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in filter(None, (sys.stdout, sys.stderr)):  # either may be closed
        if "utf8" in sys._xoptions and theirs not in ("utf-8", "ascii"):
            stream.reconfigure(encoding=theirs)  # type: ignore[union-attr]
        if stream.errors != "surrogateescape":  # which writes names that are no text as they are
            stream.reconfigure(errors="replace" if codecs.lookup(stream.encoding).name != "utf-8" else "surrogateescape")  # type: ignore[union-attr]
