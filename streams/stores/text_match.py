"""How an attribute of type Text is matched: by words, as the real server's full-text index does.

The real server on SQLite gives each space-separated word of the filter's value to FTS5 as a phrase, joined
by OR, with tokens made of letters and digits, lower-cased and without diacritics.
"""

import functools
import unicodedata


def words_of(text: str) -> tuple[str, ...]:
    """Split text into lower-case words of letters and digits, without diacritics."""
    words: list[str] = []
    word: list[str] = []
    for char in unicodedata.normalize("NFD", text):
        category = unicodedata.category(char)
        if category[0] in "LN" or category == "Co":
            word.append(char.lower())
        elif category != "Mn" and word:
            words.append("".join(word))
            word.clear()
    if word:
        words.append("".join(word))
    return tuple(words)


def text_matches(text: str | None, wanted: str) -> bool:
    """Say whether any space-separated word of `wanted` occurs in `text`.

    A word that itself holds separators (``a-b``) is a phrase: its parts must follow each other.
    """
    if not isinstance(text, str):
        return False
    words = words_of(text)
    return any(_holds(words, phrase) for phrase in phrases_of(wanted))


@functools.lru_cache(maxsize=64)
def phrases_of(wanted: str) -> tuple[tuple[str, ...], ...]:
    """What a filter looks for in a text: any of these phrases, each words that follow each other."""
    return tuple(phrase for part in wanted.split(" ") if (phrase := words_of(part)))


def _holds(words: tuple[str, ...], phrase: tuple[str, ...]) -> bool:
    if len(phrase) == 1:
        return phrase[0] in words
    size = len(phrase)
    return any(words[at : at + size] == phrase for at in range(len(words) - size + 1))
