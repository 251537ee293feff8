"""What a card needs and only a person knows: the license, and ids of the Hub for data, base model and languages.

They lie in section `card` of a run's `results.json`. What the Hub would refuse in a card's metadata is refused here.
"""

import difflib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub.utils import HFValidationError, validate_repo_id

from .results import read_results, write_results

# https://huggingface.co/docs/hub/repositories-licenses
LICENSES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
    etalab-2.0 eupl-1.1 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3
    llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++
    osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
    """.split()
)
FACTS = {
    "license": "--license",
    "license_name": "--license_name",
    "license_link": "--license_link",
    "datasets": "--card_datasets",
    "base_model": "--base_model",
    "languages": "--card_languages",
}
"""The facts by name, and the flag that gives each."""

# Keys of parallel data that have the form of a language code and are none.
_SIDES = {"src", "tgt", "trg", "ref"}


def check_facts(facts: dict, where: str = "the facts of the card", complete: bool = True) -> dict:
    """Refuses what a card cannot hold.

    Args:
        facts: `license`, an identifier of the Hub such as `"apache-2.0"`; where that is `"other"` also `license_name`
            and `license_link`, a URL; `datasets`, a list of ids of the Hub; `base_model`, an id, or None for a model
            from scratch; `languages`, the codes of source and target by ISO 639, where the data's own names are none.
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
        raise ValueError(f"{where}: {unknown[0]} is no fact of a card; the facts are {', '.join(FACTS)}.")
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
                f"{where}: language {code!r} (--card_languages) is no code by ISO 639, which are two or three small "
                "letters, such as de or deu."
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
    if given not in LICENSES:
        near = difflib.get_close_matches(re.sub(r"[\s_]+", "-", str(given).lower()), sorted(LICENSES), n=1, cutoff=0.6)
        raise ValueError(
            f"{where}: license={given!r} (--license) is no identifier that the Hub knows; write "
            f"{near[0] + ', or ' if near else ''}--license other --license_name NAME --license_link URL. The "
            "identifiers are in https://huggingface.co/docs/hub/repositories-licenses."
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
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ValueError(
            f"{where}: license_name={name!r} (--license_name) must be of small letters, digits, '-', '.' and '_', "
            "such as my-license-1.0."
        )
    if not isinstance(link, str) or urlsplit(link).scheme not in ("http", "https") or not urlsplit(link).netloc:
        raise ValueError(
            f"{where}: license_link={link!r} (--license_link) is no address of a page; write https://..., since the "
            "repository holds no LICENSE of its own."
        )


def _check_id(one, what: str) -> None:
    try:
        validate_repo_id(one)
    except HFValidationError as error:
        raise ValueError(f"{what} is no id of the Hub such as owner/name: {error}") from None


def hub_languages(source_lang: str, target_lang: str, codes: tuple[str | None, str | None] = (None, None)) -> list:
    """The codes by ISO 639 of a pair of languages, from what data and tokenizer call them.

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
        f"language {names[0]!r} is no code by ISO 639, which are two or three letters, such as de or deu; name both "
        "languages for the card by --card_languages SOURCE TARGET."
    )


def update_facts(run_directory: str | os.PathLike, **given) -> dict:
    """Writes facts into the `results.json` of a run, beside or in the place of those that it has.

    Args:
        run_directory: of the run.
        given: the facts, as `check_facts` takes them; one that is None is left as it was. Another `license` takes the
            place of name and link too.

    Returns:
        `dict`: the facts that the run now has.

    Raises:
        ValueError: one is not what the Hub takes; nothing is written then.

    Example:

    ```python
    >>> update_facts("runs/demo", license="cc-by-4.0", datasets=["bentrevett/multi30k"])
    ```
    """
    path = Path(run_directory) / "results.json"
    results = read_results(path)
    given = {name: value for name, value in given.items() if value is not None}
    before = dict(results.get("card") or {})
    if "license" in given:
        before = {name: value for name, value in before.items() if name not in ("license_name", "license_link")}
    facts = check_facts(before | given, str(path), complete=False)
    if facts != results.get("card"):
        write_results(path, results | {"card": facts})
    return facts
