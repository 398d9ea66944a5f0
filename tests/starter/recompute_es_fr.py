"""Recompute the answers of the starter tasks of writer es_fr that code can derive from the input text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction


def es_que_o_de_que(text: str, output: str) -> bool:
    if " de que " in text:
        return output == text.replace(" de que ", " que ", 1)
    return " que " in text and output == text.replace(" que ", " de que ", 1)


def _euros(amount: Fraction) -> str | None:
    cents = amount * 100
    if cents.denominator != 1 or cents < 0:
        return None
    whole, rest = divmod(cents.numerator, 100)
    return f"{whole},{rest:02d} €" if rest else f"{whole} €"


def es_gastos_a_escote(text: str, output: str) -> bool:
    singles = [int(number) for number in re.findall(r"\bpor (\d+) €", text)]
    packs = re.findall(r"\b(\d+) [a-zñáéíóú ]+ a (\d+) € cada un[oa]\b", text)
    minus = [int(number) for number in re.findall(r"(?:\bda|[Bb]ote salen) (\d+) €", text)]
    payers = re.findall(r"\bentre (\d+)\b", text)
    if len(payers) != 1 or len(singles) + len(packs) + len(minus) != text.count("€"):
        return False
    if len(re.findall(r"\d+", text)) != len(singles) + 2 * len(packs) + len(minus) + 1:
        return False
    total = sum(singles) + sum(int(count) * int(price) for count, price in packs) - sum(minus)
    return output == _euros(Fraction(total, int(payers[0])))


_ACUTE = dict(zip("aeiou", "áéíóú", strict=True))
_CLITICS = ("me", "te", "se", "nos", "os", "lo", "la", "los", "las", "le", "les")
# Imperatives that do not follow from the infinitive by rule, before any pronoun and without accent.
_IRREGULAR_TU = {"contar": "cuenta", "poner": "pon", "decir": "di", "hacer": "haz", "ir": "ve"}
_IRREGULAR_USTED = {"dar": "de", "decir": "diga", "sentar": "siente"}


def _imperative(verb: str, person: str) -> str:
    stem, theme = verb[:-2], verb[-2]
    if person == "vosotros":
        return f"{stem}{theme}d"
    if person == "tú":
        return _IRREGULAR_TU.get(verb, stem + ("a" if theme == "a" else "e"))
    if theme == "a":
        for old, new in (("c", "qu"), ("g", "gu"), ("z", "c")):
            if stem.endswith(old):
                stem = stem[:-1] + new
                break
    usted = _IRREGULAR_USTED.get(verb, stem + ("e" if theme == "a" else "a"))
    return usted if person == "usted" else f"{usted}n"


def _nuclei(word: str) -> list[int]:
    """Positions of the vowels that carry a syllable: a, e, o, and an i or u that touches none of these."""
    strong = {i for i, letter in enumerate(word) if letter in "aeo"}
    weak = {i for i, letter in enumerate(word) if letter in "iu" and not {i - 1, i + 1} & strong}
    return sorted(strong | weak)


def es_imperativo_con_pronombres(text: str, output: str) -> bool:
    match = re.fullmatch(
        r"Infinitivo: (\w+)\. Persona: (tú|usted|vosotros|ustedes)\. Pronombres, por orden: ([\w +]+)\.", text
    )
    if match is None:
        return False
    verb, person, listed = match.groups()
    pronouns = listed.split(" + ")
    if not set(pronouns) <= set(_CLITICS):
        return False
    base = _imperative(verb, person)
    nuclei = _nuclei(base)
    stressed = nuclei[-1] if person == "vosotros" or len(nuclei) == 1 else nuclei[-2]
    to_the_end = len(nuclei) - nuclei.index(stressed) + len(pronouns)
    word = base + "".join(pronouns)
    # Every pronoun ends in a vowel or s: no accent on the last syllable but one, always one before it.
    if to_the_end >= 3:
        word = word[:stressed] + _ACUTE[word[stressed]] + word[stressed + 1 :]
    return output == word


def fr_fiche_randonnee_en_json(text: str, output: str) -> bool:
    start = re.search(r"(?:Départ : |On part (?:du |de la |de l'|des |de ))([^.,;]+)", text)
    length = re.search(r"(\d+(?:,\d+)?) km\b", text)
    climb = re.search(r"(\d+(?: \d{3})?) m de dénivelé", text)
    shapes = set(re.findall(r"boucle|aller-retour|traversée", text.lower()))
    if start is None or length is None or climb is None or len(shapes) != 1:
        return False
    number = length[1].replace(",", ".")
    record = {
        "depart": start[1],
        "km": float(number) if "." in number else int(number),
        "denivele_m": int(climb[1].replace(" ", "")),
        "boucle": shapes == {"boucle"},
    }
    return output == json.dumps(record, ensure_ascii=False)


_WORDS = (
    "une",
    "deux",
    "trois",
    "quatre",
    "cinq",
    "six",
    "sept",
    "huit",
    "neuf",
    "dix",
    "onze",
    "douze",
    "treize",
    "quatorze",
    "quinze",
    "seize",
    "dix-sept",
    "dix-huit",
    "dix-neuf",
    "vingt",
    "vingt-et-une",
    "vingt-deux",
    "vingt-trois",
    "vingt-quatre",
    "vingt-cinq",
)
_NUMBER = {word: value for value, word in enumerate(_WORDS, 1)}
_HOUR = "|".join(_WORDS[:11])
_MINUTE = "|".join(sorted(_WORDS, key=len, reverse=True))
_SPOKEN = re.compile(
    rf"\b(?:(?P<named>midi|minuit)|(?P<hour>{_HOUR}) heures?)"
    rf"(?P<past> et quart| et demie?| moins le quart| moins (?:{_MINUTE})| (?:{_MINUTE}))?(?![\w-])"
    r"(?P<part> du matin| de l'après-midi| du soir)?"
)


def fr_heure_parlee_en_chiffres(text: str, output: str) -> bool:
    matches = list(_SPOKEN.finditer(text))
    if len(matches) != 1:
        return False
    match = matches[0]
    if match["named"]:
        hour = {"midi": 12, "minuit": 0}[match["named"]]
    elif match["part"]:
        hour = _NUMBER[match["hour"]] + (0 if match["part"] == " du matin" else 12)
    else:
        return False
    past = (match["past"] or "").split()
    minutes = 0
    if past:
        last = past[-1]
        amount = {"quart": 15, "demi": 30, "demie": 30}.get(last) or _NUMBER[last]
        minutes = -amount if past[0] == "moins" else amount
    total = (hour * 60 + minutes) % (24 * 60)
    return output == f"{total // 60} h {total % 60:02d}"


_BANNED = {"LE", "LA", "LES", "UN", "UNE", "DES", "DU", "AU", "AUX"}
_COURTESY = {"CHER", "CHÈRE", "MONSIEUR", "MADAME", "MERCI", "BAISERS", "BISES", "SALUTATIONS", "HÉLAS"}


def fr_lettre_en_telegramme(text: str, output: str) -> bool:
    segments = output.split(" STOP ")
    words = [word for segment in segments for word in segment.split()]
    capitals = all(re.fullmatch(r"[A-ZÀÂÇÉÈÊËÎÏÔÙÛÜ]+(?:-[A-ZÀÂÇÉÈÊËÎÏÔÙÛÜ]+)*|\d+", word) for word in words)
    if len(segments) != 2 or not capitals or not 2 <= len(words) <= 10:
        return False
    if set(words) & (_BANNED | _COURTESY | {"STOP"}):
        return False
    return all(number in re.findall(r"\d+", text) for number in re.findall(r"\d+", output))


_FEMININE = {"doux": "douce", "discret": "discrète", "complet": "complète", "faux": "fausse", "bref": "brève"}
_ADVERB = {"gentil": "gentiment", "lent": "lentement", "précis": "précisément", "bref": "brièvement"}


def fr_adverbe_en_ment(text: str, output: str) -> bool:
    match = re.fullmatch(r"[^_]*___[^_]* \((\w+)\)", text)
    if match is None:
        return False
    adjective = match[1]
    if adjective in _ADVERB:
        return output == _ADVERB[adjective]
    for ending, adverbial in (("ant", "amment"), ("ent", "emment")):
        if adjective.endswith(ending):
            return output == adjective.removesuffix(ending) + adverbial
    if adjective[-1] in "eéiu":
        return output == f"{adjective}ment"
    feminine = _FEMININE.get(adjective)
    if feminine is None:
        feminine = f"{adjective[:-1]}ve" if adjective.endswith("f") else f"{adjective}e"
    return output == f"{feminine}ment"


_NEGATION = re.compile(r"\b(?:ne|pas|plus|jamais|rien|personne|aucune?|sans|ni|non)\b|\bn'", re.IGNORECASE)


def fr_dire_sans_negation(text: str, output: str) -> bool:
    one_sentence = output.endswith(".") and not re.search(r"[.!?]", output[:-1])
    return bool(_NEGATION.search(text)) and one_sentence and not _NEGATION.search(output)


RECOMPUTE: dict[str, Callable[[str, str], bool]] = {
    "es_que_o_de_que": es_que_o_de_que,
    "es_gastos_a_escote": es_gastos_a_escote,
    "es_imperativo_con_pronombres": es_imperativo_con_pronombres,
    "fr_fiche_randonnee_en_json": fr_fiche_randonnee_en_json,
    "fr_heure_parlee_en_chiffres": fr_heure_parlee_en_chiffres,
    "fr_lettre_en_telegramme": fr_lettre_en_telegramme,
    "fr_adverbe_en_ment": fr_adverbe_en_ment,
    "fr_dire_sans_negation": fr_dire_sans_negation,
}
