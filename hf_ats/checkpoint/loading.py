"""What reads a run from disk or the Hub: partitioned models, single networks, tokenizers."""

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, cached_file

from ..partition import names_of_levels, partition_structure_, set_level, stock_config_dict
from ..remote_code import read_quotations_, refuse_nan
from ..storage import CHECKPOINT, check_checkpoint
from .files import WEIGHTS
from .report import REPORT_NAME, ExportReport

# The files of a checkpoint that only a resumed training reads.
_OF_TRAINING = (
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "running_means",
    "training_args",
    "pytorch_model_fsdp",
)


def load_partitioned(directory: str | os.PathLike, **kwargs) -> PreTrainedModel:
    """Load a partitioned model from its checkpoint, bitwise as it was saved, at full level and in eval mode.

    Args:
        directory: what `save_pretrained` of a partitioned model wrote, or a `checkpoint-N` of the Trainer.
        kwargs: as for `from_pretrained` of the stock class. Unlike there, `dtype` is that of the checkpoint by default
            in every version of transformers.

    Raises:
        OSError: there is no such directory, no config in it, or no weights.
        ValueError: it holds something else, such as an export; the weights are damaged, incomplete, or of another
            partition than the config says; the class is not one of transformers, nor registered with an Auto class.

    Example:

    ```python
    >>> model = load_partitioned("out/checkpoint-1000")
    >>> export_core(model, "out/core", level="core")
    ```
    """
    directory = Path(directory)
    _check_checkpoint(directory)
    stock_dict, partition = _read_config(directory)
    with _damage_told(directory):
        stock_class = _stock_class(stock_dict)
    if stock_class is None:
        raise ValueError(
            f"{directory} is a {stock_dict['architectures'][0]}, which is neither a class of transformers nor "
            "registered with its Auto classes; import the module that registers it, or construct the model, and fill "
            "it by partition_structure_(model, PartitionConfig(...)) and load_state_dict."
        )

    def __init__(self, config):
        stock_class.__init__(self, config)
        partition_structure_(self, partition)
        frozen.extend(name for name, parameter in self.named_parameters() if not parameter.requires_grad)

    frozen: list[str] = []
    # `from_pretrained` of a class that makes the partitioned layers while it is constructed: so transformers itself
    # handles every option that users know, shards, devices, and the weights that are tied or computed.
    structure = type(stock_class.__name__, (stock_class,), {"__init__": __init__, "__module__": __name__})
    if "torch_dtype" not in kwargs:
        kwargs.setdefault("dtype", "auto")
    with _damage_told(directory):
        model, info = structure.from_pretrained(
            directory,
            config=AutoConfig.for_model(**stock_dict),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    wrong = {"missing": info["missing_keys"], "unexpected": info["unexpected_keys"], "of another shape": mismatched}
    wrong = {how: sorted(keys) for how, keys in wrong.items() if keys}
    if wrong:
        found = "; ".join(f"{how}: {keys[0]} and {len(keys) - 1} more" for how, keys in wrong.items())
        raise ValueError(
            f"the weights in {directory} are not those of the partition in its {CONFIG_NAME}, {partition} ({found}); "
            "files of two checkpoints were mixed, or some are missing. Take the directory as the run wrote it."
        )
    for name in frozen:  # transformers 5 forgets, while it loads, that Marian's table of positions is not trained
        model.get_parameter(name).requires_grad_(False)
    model.__class__ = stock_class
    refuse_nan(model, f"the checkpoint {directory}")
    return model


def _stock_class(stock_dict: dict) -> type[PreTrainedModel] | None:
    """Return the class that a config names, of transformers or of whoever registered it; None if nobody did."""
    name = stock_dict["architectures"][0]
    known = getattr(transformers, name, None)
    if isinstance(known, type) and issubclass(known, PreTrainedModel):
        return known
    try:
        config_class = type(AutoConfig.for_model(**stock_dict))
    except ValueError:  # of a model_type that nobody registered
        return None
    auto_classes = [getattr(transformers, auto) for auto in dir(transformers) if auto.startswith("AutoModelFor")]
    registered = [auto._model_mapping.get(config_class, None) for auto in auto_classes]
    return next((found for found in registered if getattr(found, "__name__", None) == name), None)


def stored_levels(model: str | os.PathLike, **hub) -> list[str]:
    """Return the names of the networks that a checkpoint holds: every level of a training checkpoint, an export's own.

    Any other model, of a directory or of the Hub, is a full network.

    Args:
        model: a directory, or an id of the Hub.
        hub: `revision`, `token` and what else `from_pretrained` takes to find a file.
    """
    if is_partitioned_checkpoint(model):
        return names_of_levels(_read_config(Path(model))[1].num_cores)
    report = _find_report(model, hub)
    return [report.level] if report is not None else ["full"]


def load_network(model: str | os.PathLike, level: int | str | None = None, **kwargs) -> PreTrainedModel:
    """Load one network for inference from an export, a training checkpoint or a stock model.

    For an adapter export this is the full network, with the adapter merged into its base. The files of an export are
    compared with the digests in its `export.json`; only how it decodes may be edited, in `generation_config.json`.

    Args:
        model: a directory, or an id of the Hub.
        level: which network of a training checkpoint, by name or number, also as text (default: the full one). Of
            anything else it can only be the one that is there.
        kwargs: as for `from_pretrained`, `revision` and `token` included.

    Raises:
        ImportError: peft, which an adapter needs, is not installed.
        ValueError: there is no such level; a file of an export is missing, cut off or altered; a weight is missing,
            NaN or infinite; and as `load_partitioned`.
    """
    if is_partitioned_checkpoint(model):
        network = load_partitioned(model, **kwargs)
        set_level(network, "full" if level is None else level)
        return network
    hub = _of_the_hub(kwargs)
    if level is not None and level not in (stored := stored_levels(model, **hub)):
        raise ValueError(
            f"level={level!r}, but {model} is one network, {stored[0]!r}; leave the level out, or give a checkpoint-N "
            "of the training, which holds all of them."
        )
    report = _checked_report(model, hub)
    if report is None and Path(model).exists() and not any((Path(model) / name).is_file() for name in _CONFIGS):
        raise FileNotFoundError(
            f"{model} is not the directory of a model: it has no {CONFIG_NAME}. Give an export, such as core/ or "
            "full/ of a run, a checkpoint-N, or another model."
        )
    if report is not None and report.runtime is not None:
        raise ValueError(
            f"{model} is an export for {report.runtime['version']}, without weights of PyTorch; load it there, as its "
            "README.md says, or give the export that it was made of."
        )
    if report is None or report.kind != "adapter":
        with _damage_told(model):
            network, info = AutoModelForSeq2SeqLM.from_pretrained(model, output_loading_info=True, **kwargs)
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"{model} lacks {missing[0]} and {len(missing) - 1} more of the weights that its {CONFIG_NAME} "
                "describes, and transformers would draw them at random; its files are damaged, or not those of one "
                "model. Take another copy."
            )
    else:
        # By its place in the export: exports are moved, and the adapter's config names the base as it was written.
        others = {name: value for name, value in kwargs.items() if name not in hub}
        with _damage_told(model):
            base = AutoModelForSeq2SeqLM.from_pretrained(report.path / _BASE, **others)
            network = merge_adapter(base, report.path)
    refuse_nan(network, f"the network in {model}")
    return network


def load_tokenizer(model: str | os.PathLike, **kwargs) -> PreTrainedTokenizerBase:
    """Return the tokenizer of what `load_network` loads; an adapter export keeps it with the base.

    To that of a Marian model, a quotation `>>...<<` at the start of a text is text.

    Args:
        model: a directory, or an id of the Hub.
        kwargs: as for `AutoTokenizer.from_pretrained`, `revision` and `token` included.

    Raises:
        OSError: there is no such model.
        ValueError: there is no tokenizer beside it, or its files cannot be read.
    """
    if is_partitioned_checkpoint(model):  # whose own model_type transformers would warn of
        _check_checkpoint(model, weights=False)
        kwargs.setdefault("config", AutoConfig.for_model(**_read_config(Path(model))[0]))
    report = _checked_report(model, hub := _of_the_hub(kwargs), weights=False)
    place = model
    if report is not None and report.kind == "adapter":
        place = report.path / _BASE
        kwargs = {name: value for name, value in kwargs.items() if name not in hub}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **kwargs)
    except OSError:
        raise
    except Exception as error:  # each class of tokenizer has its own where a file is missing or damaged
        raise ValueError(
            f"the tokenizer of {model} cannot be loaded ({type(error).__name__}: {error}). If its files are missing "
            f"or damaged, save it there by tokenizer.save_pretrained({str(place)!r})."
        ) from error
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    if not set(tokenizer.get_vocab()) - added - {*tokenizer.all_special_tokens, _WORD_START}:
        raise ValueError(
            f"{model} has no tokenizer: without its files, every word is unknown to a {type(tokenizer).__name__}. "
            f"Save one there by tokenizer.save_pretrained({str(place)!r})."
        )
    return read_quotations_(tokenizer)


def load_processor(model: str | os.PathLike, network: PreTrainedModel, **hub):
    """Return what makes the inputs of a network: its tokenizer, or for images its processor or None.

    Args:
        model: what `load_network` loaded, a directory or an id of the Hub.
        network: what it returned.
        hub: `revision`, `token` and what else `from_pretrained` takes to find a file.
    """
    if network.main_input_name != "pixel_values":
        return load_tokenizer(model, **hub)
    if _find(model, IMAGE_PROCESSOR_NAME, hub) is None:
        return None
    _checked_report(model, hub, weights=False)
    with _damage_told(model):
        return AutoImageProcessor.from_pretrained(model, **hub)


def merge_adapter(base: PreTrainedModel, directory: str | os.PathLike) -> PreTrainedModel:
    """Merge the LoRA adapter in `directory` into the weights of `base`, in place, and return the full network."""
    from peft import PeftModel

    with warnings.catch_warnings():
        # peft asks the model for an attribute that transformers 5 has renamed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return PeftModel.from_pretrained(base, directory).merge_and_unload()


_BASE = "base"
_CONFIGS = (CONFIG_NAME, "adapter_config.json")  # the second is that of PEFT

# What an empty tokenizer of T5 or mBART has all the same.
_WORD_START = "▁"


def _of_the_hub(kwargs: dict) -> dict:
    """Return the arguments of `from_pretrained` that say where on the Hub, or in its cache, files are."""
    names = ("revision", "token", "cache_dir", "force_download", "local_files_only")
    return {name: kwargs[name] for name in names if name in kwargs}


def _find(model: str | os.PathLike, name: str, hub: dict) -> Path | None:
    """Return the path of a file of a directory or, fetched, of the Hub; None if there is none.

    A model that does not exist or is out of reach gives None too: loading its weights says so better.
    """
    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    try:
        return Path(cached_file(model, name, **hub))
    except OSError:
        return None


def _find_report(model: str | os.PathLike, hub: dict) -> ExportReport | None:
    path = _find(model, REPORT_NAME, hub)
    return ExportReport.read(path.parent) if path is not None else None


def _checked_report(model: str | os.PathLike, hub: dict, weights: bool = True) -> ExportReport | None:
    """Return the report of an export whose files are those that it wrote, its weights too; None for anything else.

    Of the Hub it is that of the directory in which the cache keeps the files, and what the cache does not have when
    the Hub is out of reach is not compared: loading says whether it is needed.
    """
    report = _find_report(model, hub)
    if report is None:
        return None
    names = [name for name in report.files if weights or not name.endswith(WEIGHTS)]
    if not Path(model).is_dir():
        path = snapshot_download(str(model), allow_patterns=[*names, REPORT_NAME], **hub)
        report = ExportReport.read(path)
        names = [name for name in names if (report.path / name).is_file()]
    report.check(names, edited=True)
    return report


@contextlib.contextmanager
def _damage_told(model: str | os.PathLike) -> Iterator[None]:
    """Say by a ValueError that what is loaded in the block is damaged, whatever a library raises for that."""
    try:
        yield
    except (OSError, ValueError, ImportError, MemoryError, torch.OutOfMemoryError):  # which say it, or something else
        raise
    except Exception as error:
        raise ValueError(
            f"{model} does not load ({type(error).__name__}: {error}): its files are damaged, or not those of one "
            "model. Take another copy, or an earlier checkpoint."
        ) from error


def _check_checkpoint(model: str | os.PathLike, weights: bool = True) -> None:
    """Compare a checkpoint of a trainer with its digests, its weights too; nothing of anything else."""
    if (Path(model) / CHECKPOINT).exists() or (Path(model) / TRAINER_STATE_NAME).exists():
        check_checkpoint(model, leave_out=_OF_TRAINING if weights else (*_OF_TRAINING, "model"))


def is_partitioned_checkpoint(model: str | os.PathLike) -> bool:
    """Return whether `model` is a directory that `load_partitioned` reads."""
    path = Path(model) / CONFIG_NAME
    if not path.is_file():
        return False
    try:
        stock_config_dict(_config_dict(path))
    except ValueError:
        _check_checkpoint(model)  # it could be one whose config is damaged
        return False
    return True


def _config_dict(path: Path) -> dict:
    try:
        config_dict = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config_dict, dict):
            return config_dict
        fault = f"it holds a {type(config_dict).__name__}"
    except (ValueError, RecursionError) as error:
        fault = str(error)
    raise ValueError(f"{path} is not the config of a model ({fault}); take another copy of the directory.")


def _read_config(directory: Path):
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory {directory}; load_partitioned reads local checkpoints.")
    instead = (
        "not a partitioned checkpoint, which holds W, U and V apart; load this one with the class that its files "
        "name, and give load_partitioned a checkpoint-N of the training."
    )
    if (directory / REPORT_NAME).exists():
        raise ValueError(f"{directory} is the {ExportReport.read(directory).kind} export of a run, {instead}")
    if not (directory / CONFIG_NAME).exists():
        last = get_last_checkpoint(directory)
        found = f"; its last checkpoint is {last}" if last else ""
        raise FileNotFoundError(f"{directory} is not a checkpoint: it has no {CONFIG_NAME}{found}.")
    config_dict = _config_dict(directory / CONFIG_NAME)
    try:
        return stock_config_dict(config_dict)
    except ValueError as error:
        model_type = config_dict.get("model_type")
        raise ValueError(f"{directory} is a checkpoint of model_type {model_type!r}, {instead}") from error
