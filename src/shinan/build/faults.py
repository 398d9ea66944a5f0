"""What can be wrong with what a model wrote. Each judge gives the verdict, or None if there is nothing to say.

Reasons: failed (no answer came), empty, truncated (the answer was cut at its longest), refusal, loop, copy (of the
prompt), no_words, other_language. The published methods have only the first three; where a method has the others too,
its parameter `guard` switches them off.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from shinan.build.author import Reply
from shinan.build.instructions import unmarked
from shinan.core.text import normalise, words
from shinan.core.verdict import Verdict
from shinan.scorers.language import Language, other_language

_COPIED = 8  # words of a run that only copying explains: decontamination's n (Tulu 3, arXiv 2411.15124)
_TURNS = 4  # repeats in a row that make a loop, if they are half of the text and a dozen words or more
_HEAD = 200  # characters in which a refusal shows

# How assistants decline, at the beginning of a reply; "as an ai" and "i'm sorry" are what public filters look for.
_REFUSAL = re.compile(
    r"\b(i'?m|i am) (so |very |really )?(sorry|afraid)\b|\b(i|we) (can ?not|can'?t|am unable to|'?m unable to|"
    r"won'?t be able to|must decline)\b|\bas an? (ai|artificial|(large )?language model)\b|\bi apologi[sz]e\b|"
    r"申し訳(ありません|ございません)|お(答え|手伝い)(は)?(でき(ません|ない)|いたしかねます)|"
    r"(ai|人工知能|言語モデル)として|对不起|抱歉|作为(一个)?(ai|人工智能|语言模型)"
)


def unanswered(reply: Reply) -> Verdict | None:
    """There is no reply, or an empty one: no character, or none but Markdown's own."""
    completion = reply.completion
    if completion.finish == "failed":
        return Verdict.drop("failed", completion.error)
    if not unmarked(completion.text).strip():
        return Verdict.drop("empty")
    return None


def truncated(reply: Reply) -> Verdict | None:
    """The reply was cut at its longest."""
    cut = reply.completion.finish == "length"
    return Verdict.drop("truncated", f"no end after {reply.completion.new_tokens} tokens") if cut else None


def refusal(reply: Reply) -> Verdict | None:
    """The reply begins as assistants do when they decline."""
    head = normalise(reply.text[:_HEAD]).replace("’", "'")
    found = _REFUSAL.search(head)
    return Verdict.drop("refusal", found[0]) if found else None


def loop(reply: Reply) -> Verdict | None:
    """The reply ends in the same words over and over: four times or more in a row, and half of all words."""
    found = words(reply.text)
    for period in range(1, len(found) // _TURNS + 1):
        same = 0
        while same < len(found) - period and found[-1 - same] == found[-1 - same - period]:
            same += 1
        run = same + period
        if run >= max(_TURNS * period, 3 * _TURNS, len(found) / 2):
            return Verdict.drop("loop", f"{run // period} times: {' '.join(found[-period:])[:_HEAD]}")
    return None


def copy(reply: Reply) -> Verdict | None:
    """More than half of the reply's runs of eight words stand in what it was asked."""
    mine = _runs(reply.text)
    shared = len(mine & _runs(reply.asked)) if mine else 0
    return Verdict.drop("copy", f"{shared} of {len(mine)} runs of words") if 2 * shared > len(mine) else None


def _runs(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + _COPIED]) for i in range(len(found) - _COPIED + 1)}


def unusable(reply: Reply, *, guard: bool = True, whole: bool = True, copies: bool = False) -> Verdict | None:
    """The first thing that is wrong with a reply; None if it can be read.

    Without `guard` refusals, loops and copies pass; without `whole` a reply that was cut passes, for methods that use
    what stands before the cut; with `copies` one may repeat what it was asked, for methods that ask for that.
    """
    judges: list[Callable[[Reply], Verdict | None]] = [unanswered]
    judges += [truncated] if whole else []
    judges += [refusal, loop] if guard else []
    judges += [copy] if guard and not copies else []
    return next((verdict for judge in judges if (verdict := judge(reply))), None)


def foreign(text: str, language: Language) -> Verdict | None:
    """The text is surely in another language, as far as script and common words tell."""
    found = other_language(text, language)
    return Verdict.drop("other_language", found) if found else None


def wordless(text: str) -> Verdict | None:
    """There is no letter in it: small models that are asked for the next entry of a list may go on counting."""
    return None if any(map(str.isalpha, text)) else Verdict.drop("no_words", text[:_HEAD])
