"""The flags of the model cards."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class CardArguments:
    """What the model cards say that no measurement finds."""

    _argument_group_name = "the model cards, for --push_to_hub and for a later `hf-ats push`"

    license: str | None = field(
        default=None, metadata={"help": "Under which others may use the models: an identifier such as apache-2.0."}
    )
    license_name: str | None = field(
        default=None, metadata={"help": "With --license other: its name, such as my-license-1.0."}
    )
    license_link: str | None = field(default=None, metadata={"help": "With --license other: the page of its text."})
    card_datasets: list[str] | None = field(
        default=None,
        metadata={"help": "Ids of the data on the Hub (default: the data set of the training, if it is from there)."},
    )
    base_model: str | None = field(
        default=None,
        metadata={"help": "Id of the base model on the Hub (default: what training began from, likewise)."},
    )
    card_languages: list[str] | None = field(
        default=None,
        metadata={"help": "Codes of source and target by ISO 639, if the data's own names, as src, are not."},
    )

    def facts(self, dataset_name: str | None = None, model_name: str | None = None) -> dict:
        """Return the facts of the cards, as `check_facts` of `hf_ats.results` takes them.

        Args:
            dataset_name: what the data were loaded by, unless from text files.
            model_name: what the model was loaded by, unless it is from scratch.
        """
        dataset, model = (name if name and not Path(name).exists() else None for name in (dataset_name, model_name))
        facts = {name.removeprefix("card_"): value for name, value in vars(self).items()}
        facts["datasets"] = facts["datasets"] or (dataset and [dataset])
        facts["base_model"] = facts["base_model"] or model
        return {name: value for name, value in facts.items() if value is not None}
