"""What an export says of itself, `export.json`: what it is, and the SHA-256 of every file by which it is checked."""

import dataclasses
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from ..storage import check_files, inside, is_sealed, sealed
from .files import WEIGHTS

logger = logging.getLogger(__name__)

REPORT_NAME = "export.json"


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and how near it comes to the model it was made from; also kept in its `export.json`.

    Attributes:
        path: the directory.
        kind: `"full"`, `"core"`, `"core-dense"` or `"adapter"`.
        level: the level's name, such as `"core"` or `"full"`.
        parameters: how many numbers the exported network holds, tied ones once.
        size_bytes: size of the weight files on disk.
        parity: largest absolute difference of the logits, on a probe batch in float32, between the export loaded back
            from disk and the partitioned model at that level.
        partition: what `to_dict` of the partition gives; None for a model that was never partitioned.
        files: the SHA-256 of every file but `export.json`, by its path relative to the directory.
        runtime: of an export in the format of a runtime beside PyTorch, which one, and how it translates there
            (`hf_ats.deployment.deploy`); then `size_bytes` is that of what the runtime loads. None for PyTorch.
    """

    path: Path
    kind: str
    level: str
    parameters: int
    size_bytes: int
    parity: float
    partition: dict | None
    files: dict[str, str]
    runtime: dict | None = None

    @property
    def weights_sha256(self) -> dict[str, str]:
        """The SHA-256 of each file of weights, which tells one training from another."""
        return {name: sha256 for name, sha256 in self.files.items() if name.endswith(WEIGHTS)}

    @classmethod
    def read(cls, directory: str | os.PathLike) -> "ExportReport":
        """Return the report of an export on disk, which nobody vouches for.

        Raises:
            FileNotFoundError: the directory holds no export.
            ValueError: its `export.json` is not one that an export writes, or names files outside the directory.
        """
        path = Path(directory, REPORT_NAME)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON ({error}); {_AGAIN}.") from None
        runtime = fields.pop("runtime", None) if isinstance(fields, dict) else None
        if not isinstance(fields, dict) or fields.keys() != _FIELDS.keys():
            odd = fields.keys() ^ _FIELDS.keys() if isinstance(fields, dict) else [type(fields).__name__]
            raise ValueError(f"{path} is not what this version of hf_ats writes ({', '.join(sorted(odd))}); {_AGAIN}.")
        for name, kind in _FIELDS.items():
            if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
                raise ValueError(f"{path} has {name}={fields[name]!r}, which no export writes; {_AGAIN}.")
        if not isinstance(runtime, (dict, type(None))):
            raise ValueError(f"{path} has runtime={runtime!r}, which no export writes; {_AGAIN}.")
        for name, sha256 in fields["files"].items():
            inside(directory, name, links=True)  # of links the Hub's cache is made
            if not isinstance(sha256, str) or any(part.startswith(".") for part in Path(name).parts):
                raise ValueError(f"{path} has files[{name!r}]={sha256!r}, which no export writes; {_AGAIN}.")
        if not is_sealed(fields if runtime is None else {**fields, "runtime": runtime}):
            raise ValueError(f"{path} has been altered since the export; {_AGAIN}.")
        del fields["sha256"]
        return cls(path=Path(directory), **fields, runtime=runtime)

    def write(self, directory: str | os.PathLike) -> None:
        """Write it beside the files of the export, as the last of them."""
        fields = dataclasses.asdict(self)
        del fields["path"]  # exports are moved and published
        if self.runtime is None:
            del fields["runtime"]
        Path(directory, REPORT_NAME).write_text(json.dumps(sealed(fields), indent=2) + "\n", encoding="utf-8")

    def facts(self) -> dict:
        """Return what the `results.json` of a run keeps of an export."""
        return {
            "parameters": self.parameters,
            "size_bytes": self.size_bytes,
            "weights_sha256": self.weights_sha256,
            "parity": self.parity,
            "files": sorted([*self.files, REPORT_NAME]),
        }

    def check(self, names: Iterable[str] | None = None, edited: bool = False) -> None:
        """Compare the files with what the export wrote; other files beside them are nobody's concern.

        Args:
            names: which of them; None for all.
            edited: whether `generation_config.json` may say how to decode otherwise, as its user's own choice.

        Raises:
            ValueError: one is missing, empty, cut off, altered, or another export's; the message names it.
        """
        names = self.files if names is None else [name for name in names if name in self.files]
        for name in names:
            try:
                check_files(self.path, {name: self.files[name]}, "the export")
            except ValueError as error:
                if not (edited and self._only_decodes_otherwise(name)):
                    raise ValueError(f"{error} {_AGAIN[0].upper()}{_AGAIN[1:]}.") from None
                logger.warning("%s was edited since the export, and says how it decodes.", self.path / name)

    def _only_decodes_otherwise(self, name: str) -> bool:
        """Return whether it is a generation config with the special ids of the network, whatever else it says."""
        if Path(name).name != GENERATION_CONFIG_NAME:
            return False
        try:
            decoding, config = (
                json.loads(self.path.joinpath(name).with_name(file).read_text(encoding="utf-8"))
                for file in (GENERATION_CONFIG_NAME, CONFIG_NAME)
            )
            ids = [one for one in decoding if one.endswith("_token_id") and config.get(one) is not None]
            return {"pad_token_id", "eos_token_id"} <= set(ids) and all(decoding[one] == config[one] for one in ids)
        except (OSError, ValueError, TypeError, AttributeError):
            return False


_FIELDS = {
    "kind": str,
    "level": str,
    "parameters": int,
    "size_bytes": int,
    "parity": (int, float),
    "partition": (dict, type(None)),
    "files": dict,
    "sha256": str,  # of the others, by which a figure that was altered is found
}
_AGAIN = (
    "export again, by hf-ats export from the checkpoint, or take another copy; if somebody changed it on purpose, "
    f"remove its {REPORT_NAME}, which says what was written"
)
