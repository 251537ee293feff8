"""What the fields of `results.json` hold: whole numbers, numbers or none, texts, lists and dictionaries."""

from .tables import core_sizes, parts_of

_NUMBER, _TEXT, _DICT = (int, float, type(None)), (str, type(None)), (dict, type(None))

_PARTITION = {"method": str, "ratios": list, "ranks": _DICT, "target_modules": (list, str, dict, type(None))}
_PARTITION |= dict.fromkeys(("decoder_layers", "encoder_layers"), (list, type(None)))
# By section, what a field holds if it is there. Fields that are not listed are shown as they are.
_SECTIONS = {
    "model": {"name": _TEXT, "class": str, "adapter_name_or_path": str, "calibration_sentences": str},
    "data": dict.fromkeys(("name", "config", "tokenizer_source_lang", "tokenizer_target_lang"), _TEXT)
    | dict.fromkeys(("source_lang", "target_lang", "source_prefix", "test_part", "test_name", "test_fingerprint"), str)
    | dict.fromkeys(("train", "validation", "test"), int),
    "training": {"schedule": str, "steps": int, "processes": int, "arguments": dict, "recipe": _DICT}
    | dict.fromkeys(("epochs", "flops", "seconds", "epoch_forward_flops"), _NUMBER),
}
_LEVEL = (
    dict.fromkeys(("parameters", "size_bytes"), int)
    | dict.fromkeys(("flops_per_token", "flops_per_image", "bleu", "chrf", "accuracy", "parity"), _NUMBER)
    | {"bleu_signature": str, "chrf_signature": str, "decoding_speed": _DICT, "weights_sha256": dict, "files": list}
)
_SPEED = dict.fromkeys(("tokens_per_second", "slowest", "fastest"), (int, float)) | {"device": str, "dtype": str}
_SPEED |= dict.fromkeys(("threads", "batch_size", "num_beams", "sentences", "repeats"), int)
_SAMPLE = {"source": str, "reference": str, "translations": dict}


def check_kinds(results: dict, what: str) -> None:
    """Raise an error that names the first field of results which holds something else than it should.

    Args:
        results: whose sections are there, and are dictionaries and lists where they should be.
        what: what they are, for the message.

    Raises:
        ValueError: there is such a field.
    """
    for section, kinds in _SECTIONS.items():
        _check(results[section] or {}, kinds, f"{what}: section {section!r}")
    for level, figures in results["levels"].items():
        where = f"{what}: level {level!r}"
        _check(figures, _LEVEL, where)
        _check(figures.get("decoding_speed") or {}, _SPEED, f"{where}: decoding_speed")
        _check_values(figures.get("files", []), str, f"{where}: files")
    parts = parts_of(results["partition"])
    for part in parts:
        _check_partition(part, f"{what}: section 'partition'")
    if len({len(core_sizes(part)) for part in parts}) > 1:
        raise ValueError(
            f"{what}: section 'partition' has ladders of unequal length; give the file that the run wrote."
        )
    for name in results.get("generation", {}):
        if not name.isidentifier():  # cards write it as an argument
            raise ValueError(f"{what}: section 'generation' has {name!r}, which is not the name of an argument.")
    _check_values(results["versions"].values(), _TEXT, f"{what}: section 'versions'")
    for number, sample in enumerate(results.get("samples", []), 1):
        where = f"{what}: sample {number}"
        _check(sample, _SAMPLE, where)
        _check_values(sample["translations"].values(), str, f"{where}: translations")
        missing = [level for level in results["levels"] if level not in sample["translations"]]
        if missing:
            raise ValueError(f"{where} has no translation of level {missing[0]!r}.")


def _check_partition(partition: dict, where: str) -> None:
    _check(partition, _PARTITION, where)
    layers = [partition.get(name) or [] for name in ("decoder_layers", "encoder_layers")]
    if not (partition["ratios"] or partition.get("ranks") or any(layers)):
        raise ValueError(f"{where} has no ratios, no ranks and no layers; give the file that the run wrote.")
    if all(layers) and len(layers[0]) != len(layers[1]):
        raise ValueError(f"{where} has layers of unequally many cores, {layers}; give the file that the run wrote.")
    _check_values(partition["ratios"], (int, float), f"{where}: ratios")
    _check_values((partition.get("ranks") or {}).values(), int, f"{where}: ranks")
    _check_values(partition.get("target_modules") or [], str, f"{where}: target_modules")
    _check_values([one for levels in layers for one in levels], (int, list), f"{where}: layers")


def _check(fields: dict, kinds: dict, where: str) -> None:
    for name, value in fields.items():
        _check_values([value], kinds.get(name, object), f"{where}: {name}")


def _check_values(values, kind, where: str) -> None:
    for value in values:
        if not isinstance(value, kind):
            raise ValueError(f"{where} is {value!r}, a {type(value).__name__}; give the file that the run wrote.")
