"""Recompute the answers of the tasks of writer ja_b from their inputs."""

import contextlib
import io
import re
from collections.abc import Callable

KATAKANA = re.compile(r"[ァ-ヴー]")


def ja_split_long_sentence_in_two(text: str, output: str) -> bool:
    return text.count("。") == 1 and output.count("。") == 2 and output.endswith("。") and "\n" not in output


def ja_neighborhood_notice_one_line(text: str, output: str) -> bool:
    numbers = re.findall(r"[一二三四五六七八九十]+", output)
    known = all(n in text or n == "一" for n in numbers)
    return known and len(output) <= 25 and "。" not in output and "\n" not in output


def ja_answering_machine_three_parts(text: str, output: str) -> bool:
    parts = output.split("／")
    numbers = re.findall(r"[一二三四五六七八九十]+", output)
    return len(parts) == 3 and all(parts) and "\n" not in output and all(n in text for n in numbers)


def ja_python_string_snippet_output(text: str, output: str) -> bool:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(text, "<task>", "exec"), {})  # noqa: S102 - programs of this collection only
    return shown.getvalue().removesuffix("\n") == output


def ja_find_wrong_kanji_conversion(text: str, output: str) -> bool:
    wrong, arrow, right = output.partition("→")
    one_place = text.count(wrong) == 1 and right not in text
    okurigana_kept = re.sub(r"[一-鿿]", "", wrong) == re.sub(r"[一-鿿]", "", right)
    return arrow == "→" and one_place and okurigana_kept and wrong != right


def ja_three_kana_acrostic_verse(text: str, output: str) -> bool:
    found = re.match(r"題：([ぁ-ん]{3})　場面：", text)
    lines = output.split("\n")
    return (
        found is not None
        and [line[:1] for line in lines] == list(found.group(1))
        and all(2 <= len(line) <= 15 and "。" not in line for line in lines)
    )


U_ROW = "うくぐすつぬぶむる"
ROWS = {"ない形": "わかがさたなばまら", "ば形": "えけげせてねべめれ", "意向形": "おこごそとのぼもろ"}
TAILS = {"ない形": "ない", "ば形": "ば", "意向形": "う"}
TE = dict(zip(U_ROW, ["って", "いて", "いで", "して", "って", "んで", "んで", "んで", "って"], strict=True))
ICHIDAN = {"ない形": "ない", "て形": "て", "ば形": "れば", "意向形": "よう", "可能形": "られる"}
KURU = {"ない形": "来ない", "て形": "来て", "ば形": "来れば", "意向形": "来よう", "可能形": "来られる"}
SURU = {"ない形": "しない", "て形": "して", "ば形": "すれば", "意向形": "しよう", "可能形": "できる"}


def _conjugate(verb: str, kind: str, form: str) -> str:
    if kind == "カ変":
        return KURU[form]
    if kind == "サ変":
        return verb.removesuffix("する") + SURU[form]
    stem, last = verb[:-1], verb[-1]
    if kind == "一段":
        return stem + ICHIDAN[form]
    if form == "て形":
        return stem + ("って" if verb == "行く" else TE[last])
    if form == "可能形":
        return stem + ROWS["ば形"][U_ROW.index(last)] + "る"
    return stem + ROWS[form][U_ROW.index(last)] + TAILS[form]


def ja_verb_to_named_form(text: str, output: str) -> bool:
    found = re.fullmatch(r"動詞「(.+)」（(五段|一段|カ変|サ変)）を、(.+形)に変えてください。", text)
    return found is not None and _conjugate(found.group(1), found.group(2), found.group(3)) == output


def ja_second_life_for_leftovers(text: str, output: str) -> bool:
    lines = output.split("\n")
    marked = all(line.startswith("・") and 1 <= len(line) - 1 <= 15 for line in lines)
    return len(lines) == len(set(lines)) == 3 and marked


def ja_backward_timetable_from_goal(text: str, output: str) -> bool:
    goal = re.match(r"目標：(\d+):(\d\d)に", text)
    jobs = re.findall(r"([^、：（）]+)（(\d+)分）", text.split("作業：")[1])
    if goal is None or not jobs:
        return False
    now = int(goal.group(1)) * 60 + int(goal.group(2)) - sum(int(minutes) for _, minutes in jobs)
    steps = []
    for job, minutes in jobs:
        steps.append(f"{now // 60}:{now % 60:02d} {job}")
        now += int(minutes)
    return output == "→".join(steps)


def ja_katakana_term_into_plain_japanese(text: str, output: str) -> bool:
    found = re.fullmatch(r"(.*)【(.+)】(.*)", text)
    if found is None or not (output.startswith(found.group(1)) and output.endswith(found.group(3))):
        return False
    new = output[len(found.group(1)) : len(output) - len(found.group(3))]
    return new != "" and re.search(r"[（）【】]", new) is None and KATAKANA.search(new) is None


def ja_diary_entry_short_title(text: str, output: str) -> bool:
    return 1 <= len(output) <= 12 and re.search(r"[。「」『』\n]", output) is None and output not in text


def ja_business_mail_subject_with_kind(text: str, output: str) -> bool:
    return re.fullmatch(r"【(お願い|お知らせ|お詫び|お礼)】[^。【】\n]{1,15}", output) is not None


def ja_count_table_most_least_sentence(text: str, output: str) -> bool:
    found = re.fullmatch(r".+（(.+)）：(.+)", text)
    if found is None:
        return False
    unit = found.group(1)
    rows = [(name, int(number)) for name, number in (cell.split(" ") for cell in found.group(2).split("、"))]
    top, low = max(rows, key=lambda row: row[1]), min(rows, key=lambda row: row[1])
    return output == (
        f"最も多いのは{top[0]}の{top[1]}{unit}、最も少ないのは{low[0]}の{low[1]}{unit}で、"
        f"差は{top[1] - low[1]}{unit}です。"
    )


RECOMPUTE: dict[str, Callable[[str, str], bool]] = {
    "ja_split_long_sentence_in_two": ja_split_long_sentence_in_two,
    "ja_neighborhood_notice_one_line": ja_neighborhood_notice_one_line,
    "ja_answering_machine_three_parts": ja_answering_machine_three_parts,
    "ja_python_string_snippet_output": ja_python_string_snippet_output,
    "ja_find_wrong_kanji_conversion": ja_find_wrong_kanji_conversion,
    "ja_three_kana_acrostic_verse": ja_three_kana_acrostic_verse,
    "ja_verb_to_named_form": ja_verb_to_named_form,
    "ja_second_life_for_leftovers": ja_second_life_for_leftovers,
    "ja_backward_timetable_from_goal": ja_backward_timetable_from_goal,
    "ja_katakana_term_into_plain_japanese": ja_katakana_term_into_plain_japanese,
    "ja_diary_entry_short_title": ja_diary_entry_short_title,
    "ja_business_mail_subject_with_kind": ja_business_mail_subject_with_kind,
    "ja_count_table_most_least_sentence": ja_count_table_most_least_sentence,
}
