"""Recompute the answers of the German and Chinese starter tasks of writer de_zh from their inputs.

Where only a part of the answer follows from the input (joining nouns, formal address, one sentence from
bullet points), that part is tested.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction


def de_bahnsteig_durchsage_angaben(text: str, output: str) -> bool:
    goal = re.search(r"\bnach ([A-ZÄÖÜ][a-zäöüß]+)", text)
    tracks = re.findall(r"Gleis (\d+)", text)
    delay = re.search(r"(\d+) Minuten", text)
    if goal is None or not tracks:
        return False
    return output == f"{goal[1]} | {tracks[-1]} | {delay[1] if delay else 0}"


def de_preistafel_eintritt_summe(text: str, output: str) -> bool:
    *lines, wanted = text.splitlines()
    header, *rows = [line.split(" | ") for line in lines]
    asked = re.fullmatch(r"Gesucht: (.+) für (.+)", wanted)
    if asked is None:
        return False
    column = header.index(asked[1])
    cents = {row[0]: int(row[column].replace(",", "")) for row in rows}
    total = 0
    for part in asked[2].split(", "):
        number, group = part.split(" × ")
        total += int(number) * cents[group]
    return output == f"{total // 100},{total % 100:02d} €"


_HOURS = ("eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf")
_STEPS = {"fünf": 5, "zehn": 10, "Viertel": 15, "zwanzig": 20}
_DAYPARTS = {  # from-minute and to-minute of the day; a night runs past midnight
    "morgens": (4 * 60, 11 * 60),
    "vormittags": (8 * 60, 12 * 60),
    "mittags": (11 * 60, 15 * 60),
    "nachmittags": (12 * 60, 18 * 60),
    "abends": (17 * 60, 24 * 60),
    "nachts": (21 * 60, 29 * 60),
}


def de_gesprochene_uhrzeit(text: str, output: str) -> bool:
    clock = re.search(
        rf"\b(?:um|ab) (?:({'|'.join(_STEPS)}) (vor|nach) )?"
        rf"(?:(halb|drei viertel) )?({'|'.join(_HOURS)})\b",
        text,
        re.IGNORECASE,
    )
    daypart = re.search("|".join(rf"\b{name}\b" for name in _DAYPARTS), text, re.IGNORECASE)
    if clock is None or daypart is None:
        return False
    step, side, fraction, hour = clock.groups()
    minutes = 60 * (_HOURS.index(hour) + 1) - {None: 0, "halb": 30, "drei viertel": 15}[fraction]
    if step:
        minutes += _STEPS[step] if side == "nach" else -_STEPS[step]
    start, end = _DAYPARTS[daypart[0].lower()]
    fits = {m % 1440 for m in range(minutes % 720, 2160, 720) if start <= m < end}
    if len(fits) != 1:
        return False
    hours, rest = divmod(fits.pop(), 60)
    return output == f"{hours:02d}:{rest:02d} Uhr"


_FAMILIAR = re.compile(r"\b(?:du|dich|dir|dein(?:e[mnrs]?)?)\b", re.IGNORECASE)
_FORMAL = re.compile(r"\b(?:Sie|Ihnen|sich|Ihr(?:e[mnrs]?)?)\b")


def _verbs_changed(text: str, output: str) -> bool:
    """Without the pronouns, the two differ in at most two words, and each new one is a formal verb form."""
    old, new = (part.split() for part in (_FAMILIAR.sub("", text), _FORMAL.sub("", output)))
    if len(old) != len(new):
        return False
    pairs = [(a.strip(",.?!"), b.strip(",.?!")) for a, b in zip(old, new, strict=True)]
    changed = [(a, b) for a, b in pairs if a.lower() != b.lower()]
    return len(changed) <= 2 and all(re.search(r"(?:n|sind)$", b) for _, b in changed)


def de_vom_du_zum_sie(text: str, output: str) -> bool:
    """Each familiar pronoun has its formal counterpart, none is left, and only verbs change besides."""
    new = _FORMAL.findall(output)
    for word in _FAMILIAR.findall(text.lower()):
        formal = "Ihr" + word[4:] if word.startswith("dein") else {"dir": "Ihnen"}.get(word, "Sie")
        want = formal if formal in new or word not in ("dich", "dir") else "sich"
        if want not in new:
            return False
        new.remove(want)
    left = re.search(r"\b(?:du|dich|dir|dein\w*|sie|ihnen|ihr\w*)\b", output)
    reflexive = {"sich"} if re.search(r"\b(?:dich|dir)\b", text) else set()
    return left is None and set(new) <= {"Sie"} | reflexive and _verbs_changed(text, output)


def _folded(word: str) -> str:
    return word.lower().translate(str.maketrans("äöü", "aou"))


def de_zwei_nomen_ein_wort(text: str, output: str) -> bool:
    """Article and end come from the second noun, the start from the first, with the linking s of the rule."""
    found = re.fullmatch(r"(?:der|die|das) (\w+) \+ (der|die|das) (\w+)", text)
    answer = re.fullmatch(r"(der|die|das) ([A-ZÄÖÜ][a-zäöüß]+)", output)
    if found is None or answer is None or answer[1] != found[2] or not answer[2].endswith(found[3].lower()):
        return False
    first, start = _folded(found[1]), _folded(answer[2][: -len(found[3])])
    if re.search(r"(?:ung|heit|keit|schaft|tät|ion|arbeit|tag|hof)$", first):
        return start == first + "s"
    if first.endswith("e"):
        return start in (first + "n", first[:-1])
    return start in (first, first + "e", first + "er")


def de_wanderweg_in_einem_satz(text: str, output: str) -> bool:
    """One sentence with every number and every noun of the input and no abbreviation left."""
    values = " ".join(item.split(": ", 1)[1] for item in text.split("; "))
    nouns = re.findall(r"\b[A-ZÄÖÜ][a-zäöüß]{3,}", values)
    units = {"km": "Kilometer", "m": "Meter", "Std.": "Stunden", "Min.": "Minuten"}
    used = [units[unit] for unit in re.findall(r"\d (km|m|Std\.|Min\.)", values)]
    return (
        sorted(re.findall(r"\d+", values)) == sorted(re.findall(r"\d+", output))
        and all(word in output for word in nouns + used)
        and output.endswith(".")
        and output.count(".") == 1
        and re.search(r"\b(?:km|m|Std|Min)\b", output) is None
    )


def zh_zufang_qishi_sanxiang(text: str, output: str) -> bool:
    kind = re.search(r"[一二三四两]室[一二三两]厅|单间", text)
    rent = re.search(r"(?<!原)(?:月租|每月)(\d+元)", text)
    deposit = re.search(r"押金(\d+元)", text)
    parts = (kind and kind[0], rent and rent[1], deposit and deposit[1])
    return output == "；".join(
        f"{name}：{part or '未写'}" for name, part in zip(("户型", "月租", "押金"), parts, strict=True)
    )


def zh_zhishu_wenti(text: str, output: str) -> bool:
    sizes = re.search(r"长(\d+)米，每隔(\d+)米", text)
    counter = re.search(r"多少(.)？$", text)
    ends = re.search(r"两端都不|两端都|只在一端", text)
    if sizes is None or counter is None or ends is None:
        return False
    gaps = Fraction(int(sizes[1]), int(sizes[2]))
    number = gaps + {"两端都不": -1, "两端都": 1, "只在一端": 0}[ends[0]]
    return output == f"{number}{counter[1]}"


_SPENDING = {
    "交通": "打车|高铁|公交",
    "医疗": "药|补牙|挂号",
    "餐饮": "豆浆|火锅|牛肉面",
    "日用": "洗衣粉|扫帚|牙膏",
}


def zh_jizhang_yihang_csv(text: str, output: str) -> bool:
    date = re.search(r"(\d+)月(\d+)[日号]", text)
    money = re.search(r"(\d+)[元块](\d?)", text)
    kinds = [kind for kind, words in _SPENDING.items() if re.search(words, text)]
    if date is None or money is None or len(kinds) != 1:
        return False
    return output == f"{int(date[1]):02d}-{int(date[2]):02d},{kinds[0]},{money[1]}.{money[2] or 0}0"


RECOMPUTE: dict[str, Callable[[str, str], bool]] = {
    "de_bahnsteig_durchsage_angaben": de_bahnsteig_durchsage_angaben,
    "de_preistafel_eintritt_summe": de_preistafel_eintritt_summe,
    "de_gesprochene_uhrzeit": de_gesprochene_uhrzeit,
    "de_vom_du_zum_sie": de_vom_du_zum_sie,
    "de_zwei_nomen_ein_wort": de_zwei_nomen_ein_wort,
    "de_wanderweg_in_einem_satz": de_wanderweg_in_einem_satz,
    "zh_zufang_qishi_sanxiang": zh_zufang_qishi_sanxiang,
    "zh_zhishu_wenti": zh_zhishu_wenti,
    "zh_jizhang_yihang_csv": zh_jizhang_yihang_csv,
}
