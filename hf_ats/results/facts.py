"""What a card needs and only a person knows: the license, and ids of the Hub for data, base model and languages.

They lie in section `card` of a run's `results.json`. What the Hub would refuse in a card's metadata is refused here.
"""

import re
from urllib.parse import urlsplit

from huggingface_hub.utils import HFValidationError, validate_repo_id

from .results import RESULTS

FACTS = {
    "license": "--license",
    "license_name": "--license_name",
    "license_link": "--license_link",
    "datasets": "--card_datasets",
    "base_model": "--base_model",
    "languages": "--card_languages",
}
"""The facts by name, and the flag that gives each."""

# Keys of parallel data that look like a language code and are not one.
_SIDES = {"src", "tgt", "trg", "ref"}
# Of an identifier of a license. Whether the Hub knows it, the Hub says when a card is pushed.
_SMALL = r"[a-z0-9][a-z0-9.+_-]*"


def check_facts(facts: dict, where: str = "the facts of the card", complete: bool = True) -> dict:
    """Refuse what a card cannot hold.

    Args:
        facts: `license`, an identifier of the Hub such as `"apache-2.0"`; if that is `"other"` also `license_name`
            and `license_link`, a URL; `datasets`, a list of ids of the Hub; `base_model`, an id, or None for a model
            from scratch; `languages`, the codes of source and target by ISO 639, if the data's own names are not such
            codes.
        where: what the message says they are missing from, or wrong in.
        complete: also refuse that a fact is missing which every card needs.

    Returns:
        `dict`: the facts that are not None.

    Raises:
        ValueError: one is missing or not what the Hub takes; the message names it and its flag.
    """
    facts = {
        name: list(value) if isinstance(value, tuple) else value for name, value in facts.items() if value is not None
    }
    unknown = sorted(set(facts) - set(FACTS))
    if unknown:
        raise ValueError(f"{where}: {unknown[0]} is not a fact of a card; the facts are {', '.join(FACTS)}.")
    _check_license(facts, where, complete)
    for name, ids in (("datasets", facts.get("datasets", [])), ("base_model", [facts.get("base_model", "any")])):
        if not isinstance(ids, list):
            raise ValueError(f"{where}: {name}={ids!r} must be a list of ids of the Hub ({FACTS[name]} ID ...).")
        for one in ids:
            _check_id(one, f"{where}: {name}={one!r} ({FACTS[name]})")
    languages = facts.get("languages", ["xx", "yy"])
    if not isinstance(languages, list) or len(languages) != 2:
        raise ValueError(f"{where}: languages={languages!r} must be two codes, source and target (--card_languages).")
    for code in languages:
        if not isinstance(code, str) or not re.fullmatch("[a-z]{2,3}", code):
            raise ValueError(
                f"{where}: language {code!r} (--card_languages) is not a code by ISO 639, two or three small letters, "
                "such as de or deu."
            )
    return facts


def _check_license(facts: dict, where: str, complete: bool) -> None:
    given = facts.get("license")
    further = [name for name in ("license_name", "license_link") if name in facts]
    if given is None:
        if complete:
            raise ValueError(
                f"{where}: license is missing; say under which terms others may use the model, such as --license "
                "apache-2.0 (or mit, cc-by-4.0, ...; what the data and the base model allow)."
            )
        if further:
            raise ValueError(f"{where}: {further[0]}={facts[further[0]]!r} belongs to --license other; give that too.")
        return
    if not isinstance(given, str) or not re.fullmatch(_SMALL, given):
        raise ValueError(
            f"{where}: license={given!r} (--license) is not an identifier of the Hub, such as apache-2.0, mit or "
            "cc-by-4.0; for another license write --license other --license_name NAME --license_link URL."
        )
    if given != "other":
        if further:
            raise ValueError(
                f"{where}: {further[0]}={facts[further[0]]!r} names a license that the Hub does not know, and "
                f"license={given!r} is one that it knows; leave --{further[0]} out, or write --license other."
            )
        return
    for name in ("license_name", "license_link"):
        if name not in facts:
            raise ValueError(f"{where}: license='other' needs {name}; give --license_name NAME --license_link URL.")
    name, link = facts["license_name"], facts["license_link"]
    if not isinstance(name, str) or not re.fullmatch(_SMALL, name):
        raise ValueError(
            f"{where}: license_name={name!r} (--license_name) must be of small letters, digits, '-', '.' and '_', "
            "such as my-license-1.0."
        )
    if not isinstance(link, str) or urlsplit(link).scheme not in ("http", "https") or not urlsplit(link).netloc:
        raise ValueError(
            f"{where}: license_link={link!r} (--license_link) is not the address of a page; write https://..., since "
            "the repository holds no LICENSE of its own."
        )


def _check_id(one, what: str) -> None:
    try:
        validate_repo_id(one)
    except HFValidationError as error:
        raise ValueError(f"{what} is not an id of the Hub such as owner/name: {error}") from None


def hub_languages(source_lang: str, target_lang: str, codes: tuple[str | None, str | None] = (None, None)) -> list:
    """Return the codes by ISO 639 of a pair of languages, from what data and tokenizer call them.

    Args:
        source_lang: the data's name, such as `"de"`, `"de_DE"` or `"deu_Latn"`.
        target_lang: likewise.
        codes: what a multilingual tokenizer calls the two, for data with other names.

    Raises:
        ValueError: neither name is made from such a code.
    """
    return [_hub_language(*names) for names in zip((source_lang, target_lang), codes, strict=True)]


def _hub_language(*names: str | None) -> str:
    for name in names:
        # Regions and scripts come after the language: pt-BR, deu_Latn.
        match = re.fullmatch(r"([a-z]{2,3})([-_][a-z0-9]+)*", (name or "").lower())
        if match and match[1] not in _SIDES:
            return match[1]
    raise ValueError(
        f"language {names[0]!r} is not a code by ISO 639, two or three letters, such as de or deu; name both "
        "languages for the card by --card_languages SOURCE TARGET."
    )


def with_facts(results: dict, given: dict) -> dict:
    """Return results with the given facts added; they replace earlier ones.

    Args:
        results: of a run.
        given: the facts, as `check_facts` takes them; one that is None is left as it was. Another `license` takes the
            place of name and link too.

    Raises:
        ValueError: one is not what the Hub takes.
    """
    given = {name: value for name, value in given.items() if value is not None}
    before = dict(results.get("card") or {})
    if "license" in given:
        before = {name: value for name, value in before.items() if name not in ("license_name", "license_link")}
    return results | {"card": check_facts(before | given, f"section 'card' of {RESULTS}", complete=False)}
