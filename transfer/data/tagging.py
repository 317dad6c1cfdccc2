"""Tags of the words of a sentence, in whichever of the usual schemes, as IOB2.

IOB2 (Ratnaparkhi 1998): B- begins every entity, I- goes on with one. Ramshaw and Marcus (1995) use B- only between two
entities of one type that touch (IOB1); some files have I- alone; IOBES and BILOU also mark ends and single words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

OUTSIDE = "O"
_BEGIN, _INSIDE = "BSU", "IEML"


def is_scheme(tags: Iterable[str]) -> bool:
    """Whether these tags mark entities (O, B-TYPE, I-TYPE, ...) and are not plain classes of words."""
    marked = {tag for tag in tags if tag != OUTSIDE}
    return bool(marked) and all(len(tag) > 2 and tag[1] in "-_" and tag[0] in _BEGIN + _INSIDE for tag in marked)


def iob2(tags: Sequence[str]) -> list[str]:
    """The tags of one sentence as IOB2; an entity that begins without B- gets one."""
    made: list[str] = []
    before = OUTSIDE  # the type of the word before
    for tag in tags:
        if tag == OUTSIDE:
            made.append(OUTSIDE)
            before = OUTSIDE
            continue
        kind = tag[2:]
        begins = tag[0] in _BEGIN or before != kind
        made.append(f"{'B' if begins else 'I'}-{kind}")
        # S-, U-, E- and L- end an entity, so that what follows is another one.
        before = OUTSIDE if tag[0] in "SUEL" else kind
    return made


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first word, one past the last word) of every entity of a sentence.

    Read as `conlleval` and seqeval do: I- after another type, or after none, begins an entity. Whatever is no tag of
    the scheme ends one.
    """
    found, start, kind = set(), 0, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        if kind and tag == f"I-{kind}":
            continue
        if kind:
            found.add((kind, start, place))
        start, kind = place, tag[2:]
    return found
