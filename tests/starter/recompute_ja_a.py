"""Recompute the answers of the Japanese starter tasks written by ja_a."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

KANJI = {c: i for i, c in enumerate("〇一二三四五六七八九")}
DAYS = "月火水木金土日"


def kanji_number(text: str) -> int:
    """Read 元, an Arabic number or a kanji number below one hundred."""
    if text == "元":
        return 1
    if text.isdigit():
        return int(text)
    if "十" not in text:
        return KANJI[text]
    tens, units = text.split("十")
    return 10 * (KANJI[tens] if tens else 1) + (KANJI[units] if units else 0)


def timetable(text: str, output: str) -> bool:
    lines = text.split("\n")
    question = lines[-1]
    columns = lines[1].split("｜")
    hits = [i for i, name in enumerate(columns) if i and name in question]
    clock = re.search(r"(\d+)時(\d+)分", question)
    if len(hits) != 1 or clock is None:
        return False
    arrived = 60 * int(clock[1]) + int(clock[2])
    times = []
    for line in lines[2:-1]:
        cells = line.split("｜")
        times += [60 * int(cells[0]) + int(m) for m in re.findall(r"\d+", cells[hits[0]])]
    later = [t for t in times if t >= arrived]
    if not later:
        return output == "なし"
    return output == f"{min(later) // 60}時{min(later) % 60:02d}分"


def order_json(text: str, output: str) -> bool:
    items: dict[str, int] = {}
    for clause in re.split("[、。]", text):
        found = re.match(r"(.+?)を([一二三四五六七八九])つ", clause)
        if found:
            items[found[1]] = KANJI[found[2]]
    take_out = "持ち帰り" in text
    if not items or take_out == ("店内" in text):
        return False
    return output == json.dumps({"品目": items, "持ち帰り": take_out}, ensure_ascii=False)


def checklist(text: str, output: str) -> bool:
    rows = []
    for clause in re.split("[、。]", text):
        if not clause:
            continue
        name, state = clause.split("は", 1)
        pending = "まだ" in state or "これから" in state
        if not pending and not state.endswith(("た", "だ", "済み")):
            return False
        rows.append(f"- [{' ' if pending else 'x'}] {name}")
    return output == "\n".join(rows)


def unit_price(text: str, output: str) -> bool:
    factor = {"kg": 1000, "g": 1, "L": 1000, "mL": 1, "個": 1, "枚": 1, "本": 1, "m": 1}
    prices = []
    for shop in "AB":
        found = re.search(shop + r"店[^0-9A-Z]*(\d+)(kg|g|mL|L|個|枚|本|m)[^0-9A-Z]*(\d+)円", text)
        if found is None:
            return False
        prices.append(Fraction(int(found[3]), int(found[1]) * factor[found[2]]))
    a, b = prices
    return output == ("同じ" if a == b else "A店" if a < b else "B店")


def gojuon_key(word: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
    return plain.translate(str.maketrans("ぁぃぅぇぉっゃゅょゎ", "あいうえおつやゆよわ"))


def gojuon(text: str, output: str) -> bool:
    words = text.split("・")
    keys = {gojuon_key(w) for w in words}
    return len(keys) == len(words) and output == "・".join(sorted(words, key=gojuon_key))


def change(text: str, output: str) -> bool:
    prices = re.findall(r"(?:^|[、。])([^、。]+?)は1[^\d、。](\d+)円", text)
    paid = re.search(r"(\d+)円を(?:出|払|渡)", text)
    if len(prices) != 2 or paid is None:
        return False
    total = 0
    for name, price in prices:
        name = name.split("、")[-1]
        count = re.search(re.escape(name) + r"(\d+)", text)
        if count is None:
            return False
        total += int(price) * int(count[1])
    return total <= int(paid[1]) and output == f"{int(paid[1]) - total}円"


def remainder(text: str, output: str) -> bool:
    *parts, divisor = [int(n) for n in re.findall(r"\d+", text)]
    total = sum(parts)
    return output == f"{total}÷{divisor}={total // divisor}あまり{total % divisor}"


def seireki(text: str, output: str) -> bool:
    first = {"明治": 1868, "大正": 1912, "昭和": 1926, "平成": 1989, "令和": 2019}
    found = re.findall(r"(明治|大正|昭和|平成|令和)(元|\d+|[一二三四五六七八九十]+)年", text)
    if len(found) != 1:
        return False
    era, year = found[0]
    return output == f"{first[era] + kanji_number(year) - 1}年"


def end_time(text: str, output: str) -> bool:
    start = re.search(r"(午前|午後)(\d+)時(?!間)(半|(\d+)分)?", text)
    if start is None:
        return False
    minutes = 60 * (int(start[2]) % 12 + (12 if start[1] == "午後" else 0))
    minutes += 30 if start[3] == "半" else int(start[4] or 0)
    rest = text[: start.start()] + "／" + text[start.end() :]
    spans = re.findall(r"(\d+)時間(半|\d+分)?|(\d+)分", rest)
    if len(spans) != 1:
        return False
    hours, part, only = spans[0]
    minutes += 60 * int(hours or 0) + int(only or 0)
    minutes += 30 if part == "半" else int(part[:-1] or 0)
    day, clock = divmod(minutes, 1440)
    return output == f"{'翌日' if day else ''}{clock // 60}時{clock % 60:02d}分"


def nth_weekday(text: str, output: str) -> bool:
    known = re.search(r"(\d+)月(\d+)日は(.)曜日", text)
    asked = re.search(r"第(\d)(.)曜日", text)
    if known is None or asked is None:
        return False
    shift = DAYS.index(asked[2]) - DAYS.index(known[3])
    first = (int(known[2]) + shift - 1) % 7 + 1
    extra = 7 * (int(asked[1]) - 1)
    lengths = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    if first + extra > lengths[int(known[1]) - 1]:
        return False
    return output == (
        f"最初の{asked[2]}曜日は{first}日。{first}+{extra}={first + extra}。答えは{known[1]}月{first + extra}日。"
    )


def wrong_line(text: str, output: str) -> bool:
    wrong = []
    for line in text.split("\n"):
        found = re.fullmatch(r"(.+) (\d+)×(\d+)円=(\d+)円", line)
        if found is None:
            return False
        right = int(found[2]) * int(found[3])
        if right != int(found[4]):
            wrong.append(f"{found[1]} {right}円")
    return wrong == [output]


RECOMPUTE: dict[str, Callable[[str, str], bool]] = {
    "ja_timetable_next_departure": timetable,
    "ja_shop_order_to_json": order_json,
    "ja_preparation_checklist_markdown": checklist,
    "ja_cheaper_shop_unit_price": unit_price,
    "ja_gojuon_sort": gojuon,
    "ja_shopping_change": change,
    "ja_division_with_remainder": remainder,
    "ja_wareki_to_seireki": seireki,
    "ja_end_time_24_hour": end_time,
    "ja_nth_weekday_reasoning": nth_weekday,
    "ja_delivery_slip_wrong_line": wrong_line,
}
