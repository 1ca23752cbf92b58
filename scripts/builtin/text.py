"""The characters the built-in model knows, and text to draw: half running text, half made up."""

import gzip
import html
import random
import re
import string
import unicodedata
from pathlib import Path

LETTERS = "àâäæçéèêëîïôöœùûüÿßÀÂÄÆÇÉÈÊËÎÏÔÖŒÙÛÜŸáíóúñÁÍÓÚÑåÅøØ"
MARKS = "–—‘’‚“”„«»‹›…•·€£¥§©®°±²³¼½¾×÷µ†‡™¡¿№→"
CHARACTERS = string.digits + string.ascii_letters + string.punctuation + " " + LETTERS + MARKS
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
VOCABULARY = (*SPECIAL, *CHARACTERS)
IDS = {character: index for index, character in enumerate(VOCABULARY)}

WORD_LISTS = ("/usr/share/dict/american-english", "/usr/share/dict/french", "/usr/share/dict/ngerman")
DOCUMENTS = (
    ("/usr/share/games/fortunes", "[a-z]*"),
    ("/usr/share/games/fortunes/de", "[a-z]*"),
    ("/usr/share/doc/debian-policy", "*.txt.gz"),
    ("/usr/share/doc/debian", "FAQ/*.html"),
    ("/usr/share/doc/debian/FAQ", "*.html"),
    ("/usr/share/debian-reference", "*.txt.gz"),
    ("/usr/share/debian-reference", "ch*.html"),
    ("/usr/share/developers-reference", "*.txt.gz"),
    ("/usr/share/doc/developers-reference-fr", "**/*.html"),
    ("/usr/share/doc/developers-reference-de", "**/*.html"),
    ("/usr/share/doc/debian-handbook", "html/en-US/*.html"),
    ("/usr/share/doc/debian-handbook", "html/fr-FR/*.html"),
    ("/usr/share/doc/debian-handbook", "html/de-DE/*.html"),
    ("/usr/share/doc/installation-guide-amd64", "*/*.txt*"),
    ("/usr/share/doc/maint-guide-fr", "**/*.txt*"),
)
LONGEST_DOCUMENT = 300_000
SAME = str.maketrans(
    {"\u00a0": " ", "\u202f": " ", "\u2009": " ", "‐": "-", "‑": "-", "−": "-", "ﬁ": "fi", "ﬂ": "fl", "´": "'"}
)


def clean(text: str) -> str:
    """Text in known characters only, white space single."""
    text = unicodedata.normalize("NFC", text).translate(SAME)
    return " ".join("".join(c if c in IDS else " " for c in text).split())


def encode(text: str) -> list[int]:
    """One id for each character."""
    return [IDS[character] for character in text]


def decode(ids: list[int]) -> str:
    """The characters of ids, special ones left out."""
    return "".join(VOCABULARY[index] for index in ids if index >= len(SPECIAL))


def read_document(path: Path) -> str:
    """The clean text of one file of plain text or HTML, gzipped or not; "" when it is not text."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8", "replace")[:LONGEST_DOCUMENT]
    if "\0" in text:
        return ""
    if ".htm" in path.name:
        text = html.unescape(re.sub(r"(?s)<(script|style).*?</\1>|<[^>]*>", " ", text))
    return clean(re.sub(r"([-=_*#~.+|])\1{3,}", " ", text))


class Texts:
    """Random lines of text, a share of them `running` text and the others made up.

    `held_out` takes the running text from the tenth of every document that training never sees.
    """

    def __init__(self, seed: int, *, held_out: bool, running: float = 0.5) -> None:
        self.random = random.Random(seed)
        self.running_share = running
        self.documents = [part for text in documents() if len(part := share(text, held_out)) > 300]
        self.weights = [len(text) ** 0.7 for text in self.documents]
        self.words = [words for path in WORD_LISTS if (words := word_list(path))]

    def line(self, length: int) -> str:
        """One line of about `length` characters."""
        text = self.running(length) if self.random.random() < self.running_share else self.made_up(length)
        style = self.random.random()
        if style < 0.07:
            text = text.upper().replace("ẞ", "SS")
        elif style < 0.1:
            text = text.title()
        return clean(text)[: length + 12].strip() or "0"

    def running(self, length: int) -> str:
        """Whole words from a random place of a document."""
        (document,) = self.random.choices(self.documents, self.weights)
        start = self.random.randrange(max(1, len(document) - length))
        start = document.find(" ", start) + 1
        end = document.find(" ", start + length)
        return document[start : end if end > 0 else None]

    def made_up(self, length: int) -> str:
        """Words, numbers and codes that no language model could guess."""
        makers = (self.word, self.word, self.word, self.word, self.number, self.price, self.date, self.code)
        kinds = (*makers, self.mixed, self.address, self.marked, self.marked)
        words: list[str] = []
        while sum(map(len, words)) + len(words) < length:
            words.append(self.random.choice(kinds)())
        return " ".join(words)

    def word(self) -> str:
        """A dictionary word in one of the usual spellings, sometimes with punctuation."""
        word = self.random.choice(self.random.choice(self.words))
        word = self.random.choice((str, str, str.capitalize, str.capitalize, str.upper))(word)
        return word + self.random.choice(("", "", "", "", ",", ".", ";", ":", "!", "?", "-"))

    def number(self) -> str:
        """A whole or broken number."""
        value = self.random.randrange(10 ** self.random.randint(1, 7))
        forms = (f"{value}", f"{value:,}", f"{value / 100:.2f}", f"{value}%", f"-{value}", f"({value})")
        return self.random.choice(forms)

    def price(self) -> str:
        """An amount of money as written here and there."""
        value = self.random.randrange(10 ** self.random.randint(2, 6)) / 100
        comma = f"{value:.2f}".replace(".", ",")
        return self.random.choice((f"${value:,.2f}", f"{comma} €", f"€{value:.2f}", f"£{value:.2f}", f"EUR {comma}"))

    def date(self) -> str:
        """A date or a time."""
        day, month, year = (self.random.randint(*span) for span in ((1, 28), (1, 12), (1900, 2039)))
        forms = (f"{day:02}.{month:02}.{year}", f"{year}-{month:02}-{day:02}", f"{day}/{month}/{year}")
        return self.random.choice((*forms, f"{month % 24:02}:{day:02}", f"{day}. {month}. {year}"))

    def code(self) -> str:
        """Capitals and digits, sometimes with dashes."""
        size = self.random.randint(2, 9)
        code = "".join(self.random.choices(string.ascii_uppercase + string.digits * 2, k=size))
        return self.random.choice((code, f"{code[:3]}-{code[3:]}", f"#{code}", f"{code}/{size}"))

    def mixed(self) -> str:
        """Random letters and digits of either case."""
        return "".join(self.random.choices(string.ascii_letters + string.digits, k=self.random.randint(1, 8)))

    def address(self) -> str:
        """A mail or web address or a path."""
        one, two = (self.random.choice(self.words[0]).lower().replace("'", "") for _ in range(2))
        web = (f"www.{one}-{two}.org", f"https://{one}.de/{two}")
        return self.random.choice((*web, f"{one}@{two}.com", f"/{one}/{two}.txt", f"{one}_{two}()"))

    def marked(self) -> str:
        """A word in quotes, brackets or among rare letters and marks."""
        word = self.random.choice(self.random.choice(self.words))
        rare = "".join(self.random.choices(LETTERS + MARKS + string.punctuation, k=self.random.randint(1, 3)))
        pairs = ("()", "[]", "“”", "„“", "«»", "‘’", '""', "''", "{}", "<>", "**", "–—", "•…", "§.", "@:", "&;", "=+")
        left, right = self.random.choice(pairs)
        quoted = left + word + right
        return self.random.choice((quoted, quoted, word + rare, rare, rare + word, word + "’s"))


def documents() -> list[str]:
    """The clean text of every document that is installed, in a fixed order."""
    paths = sorted({path for folder, glob in DOCUMENTS for path in Path(folder).glob(glob) if path.is_file()})
    return [read_document(path) for path in paths if path.suffix not in (".dat", ".u8", ".pdf")]


def word_list(path: str) -> list[str]:
    """The words of a dictionary in known characters; [] when it is not installed."""
    if not Path(path).exists():
        return []
    words = Path(path).read_text("utf-8").split()
    return [word for word in words if all(c in IDS for c in word) and len(word) < 22]


def share(text: str, held_out: bool) -> str:
    """The last tenth of a text, or the rest."""
    cut = len(text) * 9 // 10
    return text[cut:] if held_out else text[:cut]
