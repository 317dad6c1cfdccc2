"""What the documentation tells its reader to type, and the files it tells them to write."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SWEEP = ROOT / "docs" / "wandb_sweep.yaml"
# How a code span or a line of a comment begins that is a command.
PROGRAMS = ("transfer", "make", "pip", "wandb", "srun", "torchrun")
COMMAND = re.compile(rf"([A-Z_]+=\S+ )*({'|'.join(PROGRAMS)}) \S")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command; `mentioned` within a sentence, where two words may be no more than its name."""

    page: str
    line: int
    text: str
    mentioned: bool

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}-{self.text}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    found = []
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(page.name, line, match[1], match[2]))
    return found


def commands() -> list[Command]:
    """All of them, page by page and from top to bottom."""
    found = []
    for page in PAGES:
        typed = [command for block in blocks(page) if block.language == "sh" for command in _of_block(block)]
        found += sorted([*typed, *_mentioned(page)], key=lambda command: command.line)
    return found + _of_comments(SWEEP)


def _of_block(block: Block) -> list[Command]:
    found, begun, start = [], "", 0
    for number, line in enumerate(block.text.splitlines(), block.line):
        start = start if begun else number
        begun += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        words = shlex.split(begun, comments=True)
        if words:
            text = re.sub(r"\s+", " ", _without_comment(begun)).strip()
            found.append(Command(block.page, start, text, mentioned=False))
        begun = ""
    assert not begun, f"{block.page}:{block.line}: the block ends within a command"
    return found


def _without_comment(line: str) -> str:
    """Up to the first # that the shell takes for the begin of a comment."""
    whole = shlex.split(line, comments=True)
    ends = [i for i, sign in enumerate(line) if sign == "#" and (i == 0 or line[i - 1].isspace())]
    return next((line[:end] for end in ends if _words(line[:end]) == whole), line)


def _words(text: str) -> list[str] | None:
    try:
        return shlex.split(text)
    except ValueError:
        return None


def settings() -> list[str]:
    """What stands in sentences as KEY=VALUE, with the KEY=VALUE beside it, each once."""
    spans = (" ".join(span[1].split()) for page in PAGES for span in _CODE.finditer(_sentences(page)))
    return list(dict.fromkeys(span for span in spans if re.match(r"'?[a-z][\w@/.]*=", span)))


def _mentioned(page: Path) -> list[Command]:
    return _spans(page.name, _sentences(page))


def _sentences(page: Path) -> str:
    """A page without its blocks, whose lines stay empty."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)


def _spans(name: str, text: str) -> list[Command]:
    spans = [(text.count("\n", 0, span.start()) + 1, " ".join(span[1].split())) for span in _CODE.finditer(text)]
    return [Command(name, line, span, mentioned=True) for line, span in spans if COMMAND.match(span)]


_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def _of_comments(file: Path) -> list[Command]:
    """The comments of a YAML file: what stands in a line of its own, and what is mentioned."""
    lines = file.read_text(encoding="utf-8").splitlines()
    comments = [line.partition("#")[2].strip() if "#" in line else "" for line in lines]
    own = [
        Command(file.name, number, text, mentioned=False)
        for number, text in enumerate(comments, 1)
        if COMMAND.match(text)
    ]
    return own + _spans(file.name, "\n".join(comments))
