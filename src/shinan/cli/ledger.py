"""`shinan ledger`: what model calls were made and paid, which failed, and what was said."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from shinan.core.calls import Amount, Call, DeadLetter, Loss, Spend
    from shinan.core.ledger import Ledger

_WHY = {
    "killed": "in flight when their process ended: perhaps paid, and sent again when asked again",
    "uncertain": "cut off or without an answer in time: perhaps paid",
    "useless": "answered with what could not be used",
    "twice": "answered twice, by processes that asked at once",
}


def ledger(
    text: Annotated[str, typer.Argument(metavar="[TEXT]", help="Show the calls that hold this, or by their key.")] = "",
    failed: Annotated[bool, typer.Option("--failed", help="Show the requests that got no answer, and why.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many calls, the newest.")] = 20,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show what calls of models behind endpoints took and cost, and find single calls.

    Every answer is kept and never asked or paid for again. Requests that failed are asked again with --retry-failed
    of the command that asked them.

    Example: shinan ledger --failed
    """
    if text and failed:
        raise typer.BadParameter("shows all that failed: leave TEXT out", param_hint="--failed")
    from shinan.core.ledger import Ledger
    from shinan.core.store import cache_root

    opened = Ledger(cache_root())
    try:
        if text:
            _calls(opened.search(text, limit), text, json_)
        elif failed:
            _failures(opened.dead_letters()[:limit], json_)
        else:
            _overview(opened, json_)
    finally:
        opened.close()


def _overview(opened: Ledger, as_json: bool) -> None:
    spend, losses = opened.spend(), opened.losses()
    if as_json:
        for line in spend:
            facts = line._asdict()
            _json(facts | facts.pop("used")._asdict())
    elif not spend and not opened.in_flight():
        print("The ledger is empty: no model behind an endpoint was asked yet.")
    else:
        _spending(spend)
        _lost(losses)
        if flights := opened.in_flight():
            print(f"{flights:,} in flight now, in processes at work")


def _spending(spend: Sequence[Spend]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from shinan.report.wording import printable

    table = Table("day", "model", box=None)
    for heading in ("answers", "failed", "lost", "tokens", "cost"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in spend:
        counts = (f"{number:,}" for number in (line.calls, line.dead, line.lost))
        table.add_row(line.day, Text(printable(line.model)), *counts, *_amount(line.used))
    Console().print(table)


def _lost(losses: Sequence[Loss]) -> None:
    from shinan.models.prices import dollars

    for why, number in Counter(loss.why for loss in losses).items():
        cost = dollars(sum(loss.used.nanousd for loss in losses if loss.why == why))
        print(f"{number:,} attempts were {_WHY[why]} (at most {cost})")


def _calls(calls: Sequence[Call], text: str, as_json: bool) -> None:
    if not calls and not as_json:
        print(f"No call holds {text!r}.")
    for call in calls:
        if as_json:
            facts = asdict(call)
            _json(facts | {"request": json.loads(call.request), "response": json.loads(call.response)})
            continue
        tokens, cost = _amount(call.used)
        print(f"{call.key}  {call.at}  {call.model}  {tokens} tokens  {cost}  {call.attempts} attempts")
        print(f"  asked: {_brief(call.request)}\n  answer: {_brief(call.response)}")


def _failures(letters: Sequence[DeadLetter], as_json: bool) -> None:
    if not letters and not as_json:
        print("No request failed.")
    for letter in letters:
        if as_json:
            _json(asdict(letter) | {"request": json.loads(letter.request)})
            continue
        tokens, cost = _amount(letter.used)
        print(f"{letter.key}  {letter.at}  {letter.model}  {letter.attempts} attempts  {tokens} tokens  {cost}")
        print(f"  {letter.reason}: {_brief(letter.error)}\n  asked: {_brief(letter.request)}")


def _amount(used: Amount) -> tuple[str, str]:
    from shinan.models.prices import dollars

    return f"{used.tokens:,}", dollars(used.nanousd)


def _brief(text: str) -> str:
    from shinan.report.wording import excerpt, printable

    return printable(excerpt(text, 300))


def _json(value: dict[str, Any]) -> None:
    print(json.dumps(value))
