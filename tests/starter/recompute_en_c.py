"""Recompute the answers of the English starter tasks written by en_c, from the input text alone."""

from __future__ import annotations

import ast
import contextlib
import copy
import datetime
import io
import itertools
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
]  # fmt: skip


def _ints(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def full_containers_and_remainder(text: str, output: str) -> bool:
    small, large = sorted(_ints(text))
    return output == f"{large // small} full, {large % small} left over"


def recipe_amount_for_more_or_fewer(text: str, output: str) -> bool:
    amount = re.search(r"(\d+) (g|ml|eggs|leaves)\b", text)
    assert amount
    base, new = _ints(text[: amount.start()] + text[amount.end() :])
    value = Fraction(int(amount[1]) * new, base)
    return value.denominator == 1 and output == f"{value} {amount[2]}"


def enough_money_or_short(text: str, output: str) -> bool:
    unit = r"(?:euros|dollars|pounds|crowns|coins)"
    each = re.findall(rf"(\d+) [a-z ]+ at (\d+) {unit} each", text)
    single = re.findall(rf"for (\d+) {unit}", text)
    money = re.search(rf"has (\d+) {unit}", text)
    assert money
    assert len(_ints(text)) == 2 * len(each) + len(single) + 1
    rest = int(money[1]) - sum(int(n) * int(p) for n, p in each) - sum(int(p) for p in single)
    return output == (f"yes, {rest} left" if rest >= 0 else f"no, {-rest} short")


def _calculate(node: ast.AST) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    if isinstance(node, ast.BinOp):
        a, b = _calculate(node.left), _calculate(node.right)
        if isinstance(node.op, ast.Add):
            return a + b
        if isinstance(node.op, ast.Sub):
            return a - b
        if isinstance(node.op, ast.Mult):
            return a * b
        if isinstance(node.op, ast.Div):
            return a / b
    raise ValueError(ast.dump(node))


def story_turned_into_equation(text: str, output: str) -> bool:
    minus = r"stay empty|break\b|went to|left each|cuts off|get off|takes away|spoiled"
    plus = r"\bmore\b|\bafter it\b|to go\b|get on\b"
    value: Fraction | None = None
    signs = []
    for clause in re.split(r"[.,?]| and ", text):
        for place, number in enumerate(_ints(clause)):
            if value is None:
                value = Fraction(number)
                continue
            if place:
                signs.append("*")
                value *= number
            elif re.search(r"equally among", clause):
                signs.append("/")
                value /= number
            elif re.search(minus, clause):
                signs.append("-")
                value -= number
            elif re.search(plus, clause):
                signs.append("+")
                value += number
            else:
                raise ValueError(clause)
    if output.count("=") != 1 or re.search(r"[^\d+*/()= -]", output):
        return False
    left, right = output.split(" = ")
    return (
        _ints(left) == _ints(text)
        and re.findall(r"[-+*/]", left) == signs
        and right == str(value)
        and _calculate(ast.parse(left, mode="eval").body) == value
    )


def calendar_phrase_to_iso_date(text: str, output: str) -> bool:
    months, days = "|".join(MONTHS), "|".join(WEEKDAYS)
    one = datetime.timedelta(days=1)

    def first(name: str, year: str) -> datetime.date:
        return datetime.date(int(year), MONTHS.index(name) + 1, 1)

    def last(name: str, year: str) -> datetime.date:
        return (first(name, year) + datetime.timedelta(days=31)).replace(day=1) - one

    if m := re.search(rf"the last day of ({months}) (\d{{4}})", text):
        day = last(m[1], m[2])
    elif m := re.search(r"the (\d+)th day of (\d{4})", text):
        day = first("January", m[2]) + (int(m[1]) - 1) * one
    elif m := re.search(rf"the (first|second|third|fourth|last) ({days}) of ({months}) (\d{{4}})", text):
        if m[1] == "last":
            day = last(m[3], m[4])
            while WEEKDAYS[day.weekday()] != m[2]:
                day -= one
        else:
            day = first(m[3], m[4])
            while WEEKDAYS[day.weekday()] != m[2]:
                day += one
            day += 7 * ["first", "second", "third", "fourth"].index(m[1]) * one
    else:
        m = re.search(rf"(the|\d+) (day|week)s? (before|after) (\d+) ({months}) (\d{{4}})", text)
        assert m
        count = (1 if m[1] == "the" else int(m[1])) * (7 if m[2] == "week" else 1)
        day = first(m[5], m[6]).replace(day=int(m[4])) + (count if m[3] == "after" else -count) * one
    return output == day.isoformat()


def arrival_time_past_midnight(text: str, output: str) -> bool:
    start = re.search(r"\b(\d\d):(\d\d)\b", text)
    hours, minutes = re.search(r"(\d+) h\b", text), re.search(r"(\d+) min\b", text)
    assert start
    assert hours or minutes
    end = int(start[1]) * 60 + int(start[2])
    end += (int(hours[1]) * 60 if hours else 0) + (int(minutes[1]) if minutes else 0)
    late = " next day" if end >= 24 * 60 else ""
    end %= 24 * 60
    return output == f"{end // 60:02}:{end % 60:02}{late}"


UNITS = {
    "km": ("m", "1000"), "m": ("m", "1"), "cm": ("m", "0.01"), "mm": ("m", "0.001"),
    "t": ("g", "1000000"), "kg": ("g", "1000"), "g": ("g", "1"), "mg": ("g", "0.001"),
    "l": ("l", "1"), "ml": ("l", "0.001"),
    "weeks": ("s", "604800"), "days": ("s", "86400"), "hours": ("s", "3600"),
    "minutes": ("s", "60"), "seconds": ("s", "1"),
}  # fmt: skip
MEASURE = rf"(\d+(?:\.\d+)?) ({'|'.join(UNITS)})\b"


def longer_heavier_or_the_same(text: str, output: str) -> bool:
    (a, u), (b, v) = re.findall(MEASURE, text)
    assert UNITS[u][0] == UNITS[v][0]
    one, two = Fraction(a) * Fraction(UNITS[u][1]), Fraction(b) * Fraction(UNITS[v][1])
    return output == ("first" if one > two else "second" if one < two else "equal")


def measure_in_the_bracketed_unit(text: str, output: str) -> bool:
    ((number, unit),) = re.findall(MEASURE, text)
    target = re.search(r"\[(\w+)\]$", text)
    assert target
    assert UNITS[unit][0] == UNITS[target[1]][0]
    value = Decimal(number) * Decimal(UNITS[unit][1]) / Decimal(UNITS[target[1]][1])
    shown = f"{value:f}"
    if "." in shown:
        shown = shown.rstrip("0").rstrip(".")
    return output == f"{shown} {target[1]}"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def weekday_counted_in_weeks_and_days(text: str, output: str) -> bool:
    (day,) = re.findall("|".join(WEEKDAYS), text)
    (count,) = (int(n) for n in re.findall(r"(\d+) days", text))
    back = re.search(r"days (ago|earlier)", text) is not None
    weeks, days = divmod(count, 7)
    end = WEEKDAYS[(WEEKDAYS.index(day) + (-days if back else days)) % 7]
    rest = _plural(days, "day")
    first = f"{_plural(count, 'day')} = {_plural(weeks, 'week')} + {rest}."
    return output == f"{first} {day} {'-' if back else '+'} {rest} = {end}. Answer: {end}"


PAIRS = {
    "taller": "shorter", "older": "younger", "faster": "slower", "heavier": "lighter",
    "deeper": "shallower", "hotter": "colder",
}  # fmt: skip


def _superlative(word: str) -> str:
    return word[:-1] + "st"


def ranking_from_comparisons(text: str, output: str) -> bool:
    facts: list[tuple[str, str]] = []
    quality = set()
    for a, word, b in re.findall(r"(?:The )?(\w+) is (\w+) than (?:the )?(\w+)", text):
        great = word in PAIRS
        quality.add(word if great else next(g for g, s in PAIRS.items() if s == word))
        facts.append((a, b) if great else (b, a))
    (top,) = quality
    names = {name for pair in facts for name in pair}
    (row,) = (
        order
        for order in itertools.permutations(sorted(names))
        if all(order.index(a) < order.index(b) for a, b in facts)
    )
    high, low = _superlative(top), _superlative(PAIRS[top])
    question = text.rsplit(". ", 1)[1]
    if "in the middle" in question:
        answer = row[len(row) // 2]
        assert len(row) % 2
    else:
        assert (high in question) != (low in question)
        answer = row[0] if high in question else row[-1]
    return output == f"From {high} to {low}: {', '.join(row)}. Answer: {answer}"


def elimination_by_clues(text: str, output: str) -> bool:
    *rows, last = text.split("\n")
    clues = last.removeprefix("Clues: ").split("; ")
    said, left = [], []
    for row in rows:
        name, features = row.split(": ")
        have = features.split(", ")
        failed = [c for c in clues if (c.removeprefix("not ") in have) == c.startswith("not ")]
        if failed:
            said.append(f"{name} fails '{failed[0]}'. ")
        else:
            left.append(name)
    (answer,) = left
    return output == "".join(said) + f"Answer: {answer}"


def python_snippet_prints(text: str, output: str) -> bool:
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen):
        exec(text, {})  # noqa: S102
    return screen.getvalue() == output + "\n"


def one_line_function_from_request(text: str, output: str) -> bool:
    name, rest = re.split(r"(?=\()", text, maxsplit=1)
    samples = re.findall(rf"({name}\(.*?\)) -> (.+?)(?=; {name}\(|$)", rest)
    if len(samples) != 2 or "\n" in output or not output.startswith(f"def {name}(") or "return" not in output:
        return False
    space: dict[str, Any] = {}
    exec(output, space)  # noqa: S102
    for call, result in samples:
        got, want = eval(call, space), ast.literal_eval(result)  # noqa: S307
        if got != want or type(got) is not type(want):
            return False
    return True


def _mutants(tree: ast.Module, kind: str) -> Iterator[ast.Module]:
    """All versions of the function with one bound moved by one, or with one operator replaced."""
    for place, node in enumerate(ast.walk(tree)):
        new: list[tuple[str, int | None, Any]] = []
        if kind == "off by one":
            parts: list[tuple[str, int | None, ast.expr]] = []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
                parts = [("args", i, a) for i, a in enumerate(node.args)]
            elif isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice):
                parts = [("slice", None, node.slice)]
            elif isinstance(node, ast.Slice):
                parts = [(f, None, e) for f, e in (("lower", node.lower), ("upper", node.upper)) if e]
            for field, index, old in parts:
                for op in (ast.Add(), ast.Sub()):
                    new.append((field, index, ast.BinOp(old, op, ast.Constant(1))))
        elif isinstance(node, ast.BinOp):
            new = [("op", None, o()) for o in (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)]
        elif isinstance(node, ast.BoolOp):
            new = [("op", None, o()) for o in (ast.And, ast.Or)]
        elif isinstance(node, ast.Compare):
            kinds = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
            new = [("ops", 0, k()) for k in kinds]
        for field, index, value in new:
            mutant = copy.deepcopy(tree)
            target = next(itertools.islice(ast.walk(mutant), place, None))
            if index is None:
                setattr(target, field, value)
            else:
                getattr(target, field)[index] = value
            yield ast.fix_missing_locations(mutant)


def kind_of_bug_in_function(text: str, output: str) -> bool:
    source, calls = text.rsplit("\n", 1)
    samples = [c.split(" should be ") for c in calls.split("; ")]

    def works(tree: ast.Module) -> bool:
        space: dict[str, Any] = {}
        exec(compile(tree, "task", "exec"), space)  # noqa: S102
        try:
            return all(eval(c, space) == ast.literal_eval(want) for c, want in samples)  # noqa: S307
        except (IndexError, TypeError, ValueError, ZeroDivisionError):
            return False

    tree = ast.parse(source)
    assert not works(tree)
    if not any(isinstance(node, ast.Return) for node in ast.walk(tree)):
        function = tree.body[0]
        assert isinstance(function, ast.FunctionDef)
        names = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        found = set()
        for name in names:
            repaired = copy.deepcopy(tree)
            body = repaired.body[0]
            assert isinstance(body, ast.FunctionDef)
            body.body.append(ast.Return(ast.Name(name, ast.Load())))
            with contextlib.suppress(NameError):
                if works(ast.fix_missing_locations(repaired)):
                    found.add("missing return")
    else:
        kinds = ("off by one", "wrong operator")
        found = {kind for kind in kinds if any(works(m) for m in _mutants(tree, kind))}
    return found == {output}


def phrase_in_requested_naming_style(text: str, output: str) -> bool:
    phrase = str(re.findall(r'"([^"]+)"', text)[0])
    styles = r"\b(?:snake_case|kebab-case|camelCase|PascalCase|SCREAMING_SNAKE_CASE)\b"
    style = str(re.findall(styles, text)[0])
    words = phrase.lower().split()
    capital = [w.capitalize() for w in words]
    made = {
        "snake_case": "_".join(words),
        "kebab-case": "-".join(words),
        "camelCase": words[0] + "".join(capital[1:]),
        "PascalCase": "".join(capital),
        "SCREAMING_SNAKE_CASE": "_".join(words).upper(),
    }
    return output == made[style]


def one_letter_word_changes(text: str, output: str) -> bool:
    word = str(re.findall(r'"([a-z]+)"', text)[0])
    if not re.fullmatch(r"[a-z]+", output):
        return False
    if text.startswith("Add a letter in front"):
        return output[1:] == word
    if text.startswith("Add a letter at the end"):
        return output[:-1] == word
    m = re.match(r"(Change|Drop) the (first|second|third|last) letter", text)
    assert m
    place = {"first": 0, "second": 1, "third": 2, "last": len(word) - 1}[m[2]]
    before, after = word[:place], word[place + 1 :]
    if m[1] == "Drop":
        return output == before + after
    same = output[:place] == before and output[place + 1 :] == after
    return same and len(output) == len(word) and output != word


def cafe_bill_total_check(text: str, output: str) -> bool:
    *rows, last = text.split("\n")
    total = Decimal(0)
    for row in rows:
        m = re.fullmatch(r"(?:(\d+) x )?[a-z ]+ (\d+\.\d\d)", row)
        assert m
        total += int(m[1] or 1) * Decimal(m[2])
    stated = Decimal(last.removeprefix("total "))
    return output == ("correct" if stated == total else f"wrong, should be {total:.2f}")


RECOMPUTE: dict[str, Callable[[str, str], bool]] = {
    f.__name__: f
    for f in (
        full_containers_and_remainder,
        recipe_amount_for_more_or_fewer,
        enough_money_or_short,
        story_turned_into_equation,
        calendar_phrase_to_iso_date,
        arrival_time_past_midnight,
        longer_heavier_or_the_same,
        measure_in_the_bracketed_unit,
        weekday_counted_in_weeks_and_days,
        ranking_from_comparisons,
        elimination_by_clues,
        python_snippet_prints,
        one_line_function_from_request,
        kind_of_bug_in_function,
        phrase_in_requested_naming_style,
        one_letter_word_changes,
        cafe_bill_total_check,
    )
}
