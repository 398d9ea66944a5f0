"""Recompute the answers of the starter tasks of writer en_b from their inputs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable


def measurements_copied_in_order(text: str, output: str) -> bool:
    found = re.findall(r"\b\d+(?:\.\d+)? (?:mm|cm|m|km|g|kg|ml|litres)\b", text)
    return output == ("; ".join(found) or "none")


def _bar_rows(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def timetable_stop_time(text: str, output: str) -> bool:
    *lines, question = text.split("\n")
    asked = re.fullmatch(r"When does (\w+) call at (\w+)\?", question)
    if asked is None:
        return False
    header, *rows = _bar_rows(lines)
    cell = {row[0]: row for row in rows}[asked[1]][header.index(asked[2])]
    return output == ("does not stop" if cell == "-" else cell)


def csv_row_with_extreme_value(text: str, output: str) -> bool:
    *lines, question = text.split("\n")
    asked = re.fullmatch(r"Which (\w+) has the (highest|lowest) (\w+)\?", question)
    header, *rows = [line.split(",") for line in lines]
    if asked is None or header[0] != asked[1]:
        return False
    values = [int(row[header.index(asked[3])]) for row in rows]
    best = max(values) if asked[2] == "highest" else min(values)
    return values.count(best) == 1 and output == rows[values.index(best)][0]


def markdown_table_count_rows(text: str, output: str) -> bool:
    *lines, question = text.split("\n")
    asked = re.fullmatch(r"Count rows where (\w+) ([<>=]) (\w+)", question)
    if asked is None:
        return False
    header, _, *rows = _bar_rows(lines)
    cells = [row[header.index(asked[1])] for row in rows]
    if asked[2] == "=":
        count = cells.count(asked[3])
    else:
        sign = 1 if asked[2] == ">" else -1
        count = sum(sign * (int(cell) - int(asked[3])) > 0 for cell in cells)
    return output == str(count)


_SPECIES = ("guinea pig", "cat", "dog", "donkey", "ferret", "goat", "hamster", "horse", "pony", "rabbit")
_NOT_NAMES = {"A", "At", "He", "It", "March", "May", "Our", "She", "The", "This", "We"}


def pet_clinic_note_to_json(text: str, output: str) -> bool:
    names = [word for word in re.findall(r"\b[A-Z][a-z]*\b", text) if word not in _NOT_NAMES]
    species = [word for word in _SPECIES if re.search(rf"\b{word}\b", text)]
    ages = re.findall(r"\d+", text)
    if not len(names) == len(species) == len(ages) == 1:
        return False
    vaccinated = re.search(r"\b(?:not|never)\b[^.;:,]*\bvaccinated", text) is None
    record = {"name": names[0], "species": species[0], "age_years": int(ages[0]), "vaccinated": vaccinated}
    return output == json.dumps(record)


def supply_list_to_csv(text: str, output: str) -> bool:
    rows = ["quantity,unit,item"]
    for quantity, rest in re.findall(r"(\d+) (.+?)(?=,| and |\.$)", text):
        unit, of, item = rest.partition(" of ")
        rows.append(f"{quantity},{unit},{item}" if of else f"{quantity},,{rest}")
    return output == "\n".join(rows)


def status_line_to_markdown_checklist(text: str, output: str) -> bool:
    heading, _, entries = text.partition(": ")
    lines = [f"## {heading}"]
    for entry, state in re.findall(r"([^,]+?) \((done|open)\)", entries):
        lines.append(f"- [{'x' if state == 'done' else ' '}] {entry.strip()}")
    return output == "\n".join(lines)


def settings_request_to_ini(text: str, output: str) -> bool:
    sections = set(re.findall(r"\b[Ss]ection (\w+)", text))
    if len(sections) != 1:
        return False
    lines = [f"[{sections.pop()}]"]
    for match in re.finditer(r"\b[Ss]et (\w+) to (\w+)|\bturn (\w+) (on|off)\b", text):
        lines.append(f"{match[1] or match[3]} = {match[2] or match[4]}")
    return output == "\n".join(lines)


_MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]


def events_in_calendar_order(text: str, output: str) -> bool:
    dated: list[tuple[int, int, str]] = []
    for entry in text.split(", "):
        match = re.fullmatch(r"([a-z ]+) \((\d+) (\w+)\)", entry)
        if match is None:
            return False
        dated.append((_MONTHS.index(match[3]), int(match[2]), match[1]))
    return output == ", ".join(name for _, _, name in sorted(dated))


def library_titles_shelf_order(text: str, output: str) -> bool:
    def key(title: str) -> list[str]:
        return re.sub(r"^(?:A|An|The) ", "", title).lower().split()

    return output == "; ".join(sorted(text.split("; "), key=key))


_HEADLINE_WON = r"{w}\b.*\b(?:beat|beats|defeat|defeats|win over)\b.*\b{l}"
_HEADLINE_LOST = r"{l}\b.*\b(?:lose|loses)\b.*\b{w}"


def match_record_to_headline(text: str, output: str) -> bool:
    record = dict(field.split(": ", 1) for field in text.split("; "))
    names = {"w": re.escape(record["winner"]), "l": re.escape(record["loser"])}
    won = re.search(_HEADLINE_WON.format(**names), output)
    lost = re.search(_HEADLINE_LOST.format(**names), output)
    well_formed = 5 <= len(output.split()) <= 10 and not re.search(r'[."]', output)
    return well_formed and record["score"] in output and (won is None) != (lost is None)


def two_year_figures_to_trend_sentence(text: str, output: str) -> bool:
    parsed = re.fullmatch(r"(.+): (\d{4}) = (\d+)( \w+)?; (\d{4}) = (\d+)( \w+)?", text)
    if parsed is None:
        return False
    quantity, year1, value1, unit, year2, value2, _ = parsed.groups()
    before, after = int(value1), int(value2)
    verb = "rose" if after > before else "fell" if after < before else "stayed the same"
    verbs = [word for word in ("rose", "fell", "stayed the same") if word in output]
    numbers = re.findall(r"\d+", output)
    if sorted(numbers) != sorted([year1, value1, year2, value2]) or verbs != [verb]:
        return False
    right_order = numbers.index(year1) < numbers.index(year2)
    if before != after:
        right_order = right_order and numbers.index(value1) < numbers.index(value2)
    units = output.count(unit) >= 2 if unit else True
    return quantity.lower() in output.lower() and right_order and units and output.endswith(".")


_ALLERGENS = {
    "egg": {"egg", "eggs", "boiled eggs"},
    "fish": {"cod", "haddock", "trout", "tuna"},
    "milk": {"butter", "cheese", "cream", "milk", "yoghurt"},
    "nuts": {"almonds", "hazelnuts", "walnuts"},
    "wheat": {"bread", "flour", "pasta"},
}


def dish_ingredients_allergen_tags(text: str, output: str) -> bool:
    ingredients = set(text.partition(": ")[2].split(", "))
    return output == (", ".join(tag for tag, words in _ALLERGENS.items() if words & ingredients) or "none")


RECOMPUTE: dict[str, Callable[[str, str], bool]] = {
    "measurements_copied_in_order": measurements_copied_in_order,
    "timetable_stop_time": timetable_stop_time,
    "csv_row_with_extreme_value": csv_row_with_extreme_value,
    "markdown_table_count_rows": markdown_table_count_rows,
    "pet_clinic_note_to_json": pet_clinic_note_to_json,
    "supply_list_to_csv": supply_list_to_csv,
    "status_line_to_markdown_checklist": status_line_to_markdown_checklist,
    "settings_request_to_ini": settings_request_to_ini,
    "events_in_calendar_order": events_in_calendar_order,
    "library_titles_shelf_order": library_titles_shelf_order,
    "match_record_to_headline": match_record_to_headline,
    "two_year_figures_to_trend_sentence": two_year_figures_to_trend_sentence,
    "dish_ingredients_allergen_tags": dish_ingredients_allergen_tags,
}
