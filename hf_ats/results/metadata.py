"""What the Hub reads of a card: language, license, data, base model, and the scores with their signatures."""

import re

from huggingface_hub import EvalResult, ModelCardData

from .portable import portable
from .tables import parts_of, unique

_METRICS = (("bleu", "BLEU"), ("chrf", "chrF"))


def card_data(results: dict, level: str, repository: str) -> ModelCardData:
    """Return the metadata of a card.

    Args:
        results: of the run, its section `card` complete, languages included.
        level: which network.
        repository: the id of its repository.
    """
    facts, parts = results["card"], parts_of(results["partition"])
    tags = ["translation", "hf_ats"]
    if parts:
        methods = (part["method"] for part in parts)
        tags += unique([*({"rank": "low-rank"}.get(method, method) for method in methods), level])
    if len(results["levels"]) > 1:
        tags.insert(2, "joint-training")
    return ModelCardData(
        language=facts["languages"],
        license=facts["license"],
        license_name=facts.get("license_name"),
        license_link=facts.get("license_link"),
        library_name="transformers",
        pipeline_tag="translation",
        tags=tags,
        datasets=facts.get("datasets"),
        base_model=facts.get("base_model"),
        metrics=[metric for metric, _ in _METRICS],
        model_name=repository.split("/")[-1],
        eval_results=_scores(results, level),
    )


def _scores(results: dict, level: str) -> list[EvalResult]:
    data, figures = results["data"], results["levels"][level]
    name = portable(data["name"])
    datasets = results["card"].get("datasets")
    return [
        EvalResult(
            task_type="translation",
            task_name=f"Translation from {results['card']['languages'][0]} to {results['card']['languages'][1]}",
            dataset_type=datasets[0] if datasets else re.sub(r"[^\w.-]+", "-", name),
            dataset_name=" ".join([name, *([data["test_name"]] if "test_name" in data else [])]),
            dataset_config=data.get("config"),
            dataset_split=data["test_part"],
            metric_type=metric,
            metric_name=title,
            metric_value=round(figures[metric], 2),
            metric_args={"signature": figures[f"{metric}_signature"], **results["generation"]},
        )
        for metric, title in _METRICS
    ]
