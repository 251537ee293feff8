"""Whole numbers in German and English words."""

GERMAN = (
    "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn "
    "achtzehn neunzehn"
).split()
GERMAN_TENS = "- - zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()
ENGLISH = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
ENGLISH_TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
GERMAN_ORDINALS = {1: "erste", 3: "dritte", 7: "siebte", 8: "achte"}
ENGLISH_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def german_number(number: int) -> str:
    """Spell 0 to 999,999 as when counting: 201 is "zweihunderteins"."""
    _check(number)
    if number < 20:
        return GERMAN[number]
    if number < 100:
        tens, ones = GERMAN_TENS[number // 10], number % 10
        return f"{_german_part(ones)}und{tens}" if ones else tens
    unit, word = (100, "hundert") if number < 1000 else (1000, "tausend")
    rest = german_number(number % unit) if number % unit else ""
    return f"{_german_part(number // unit)}{word}{rest}"


def _german_part(number: int) -> str:
    """Spell a number that another word follows within the compound: "eins" loses its s."""
    return german_number(number).removesuffix("s") if number % 100 == 1 else german_number(number)


def english_number(number: int) -> str:
    """Spell 0 to 999,999 as in British English: 201 is "two hundred and one"."""
    _check(number)
    if number < 20:
        return ENGLISH[number]
    if number < 100:
        tens, ones = ENGLISH_TENS[number // 10], number % 10
        return f"{tens}-{ENGLISH[ones]}" if ones else tens
    unit, word = (100, "hundred") if number < 1000 else (1000, "thousand")
    head, rest = f"{english_number(number // unit)} {word}", number % unit
    if rest == 0:
        return head
    return f"{head} and {english_number(rest)}" if rest < 100 else f"{head} {english_number(rest)}"


def german_ordinal(number: int) -> str:
    """Spell 1st to 99th without its ending: "dritte", "zwanzigste"; the dative after "am" adds an n."""
    return GERMAN_ORDINALS.get(number) or german_number(number) + ("te" if number < 20 else "ste")


def english_ordinal(number: int) -> str:
    """Spell 1st to 99th: "third", "twenty-first", "thirtieth"."""
    head, hyphen, last = english_number(number).rpartition("-")
    if last.endswith("y"):
        return last.removesuffix("y") + "ieth"
    return head + hyphen + ENGLISH_ORDINALS.get(last, last + "th")


def _check(number: int) -> None:
    if not 0 <= number < 1_000_000:
        raise ValueError(f"number={number} is outside 0 to 999,999.")
