"""Tables of runs on images, rendered from their result files, beside the paper's Table 3."""

import os
import statistics
from collections.abc import Sequence

from hf_ats.partition import sort_levels
from hf_ats.results import align, core_sizes, mean_and_deviation, number, read_results, unique

TASK = "image-classification"
_SCHEDULES = {"full": "standard", "core": "core alone"}

# Table 3 of the paper: accuracy of the core, of the full network, and 1e12 FLOPs per epoch.
_PAPER = {"alternating": ("93.94", "95.05", "31.3"), "slimmable": ("93.99", "94.72", "62.7")}


def render_run(results: dict, markup: str = "text") -> str:
    """Return the table of one run: a row for each exported network.

    Args:
        results: what `build_results` or `read_results` returned for a run on images.
        markup: `"text"` for the screen or `"markdown"`.
    """
    header = ["network", "parameters", "size (MB)", "FLOPs/image (M)", "accuracy (%)"]
    rows = [
        [
            name,
            f"{level['parameters']:,}",
            number(level["size_bytes"], 1e-6, 2),
            number(level["flops_per_image"], 1e-6, 2),
            number(level["accuracy"], 1, 2),
        ]
        for name, level in results["levels"].items()
    ]
    training, data = results["training"], results["data"]
    note = (
        f"Accuracy on {data['test']:,} test images. An epoch of {data['train']:,} images runs "
        f"{training['epoch_forward_flops'] / 1e12:.4g}e12 FLOPs forward (a multiply-add is 2); the whole "
        f"training ran {training['flops'] / 1e12:.4g}e12 forward and backward."
    )
    return f"{align(header, rows, markup)}\n\n{note}"


def render_images(
    result_files: Sequence[str | os.PathLike], commands: bool = True, replace: dict[str, str] | None = None
) -> str:
    """Return a Markdown table with a row for each kind of training, and the paper's Table 3 below it.

    Runs that differ only in their seed share a row, as mean ± standard deviation of the sample. Rows follow the order
    of the files.

    Args:
        result_files: what `python -m examples.image_classification.train` wrote.
        commands: whether to list the command of each run under the table.
        replace: text to replace in the commands, such as the folder where the data lay.

    Raises:
        ValueError: there are no files; one holds no results of a run on images; two were trained or scored on other
            images or have other networks, so that they do not compare; or one seed is there twice. The message names
            the files.

    Example:
    ```python
    >>> print(render_images(sorted(Path("examples/image_classification/results").glob("*.json"))))
    ```
    """
    if not result_files:
        raise ValueError("result_files is empty; give the results.json of each run.")
    runs = {str(file): read_results(file, task=TASK) for file in result_files}
    _refuse_what_does_not_compare(runs)
    groups: dict[tuple[str, str, float], list[dict]] = {}
    for results in runs.values():
        groups.setdefault(_kind(results), []).append(results)
    names = sort_levels(name for results in runs.values() for name in results["levels"])
    several_seeds = any(len(group) > 1 for group in groups.values())
    header = [
        "training",
        "r",
        *(["seeds"] if several_seeds else []),
        "epochs",
        *(f"{name} accuracy (%)" for name in names),
    ]
    header += ["forward FLOPs per epoch (1e12)", "training FLOPs (1e12)"]
    rows = []
    for (training, ratios, epochs), group in groups.items():
        seeds = [run["seed"] for run in group]
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                f"result_files holds runs of {training} training over {epochs:g} epochs with the seeds {seeds}; give "
                "one of each seed."
            )
        costs = [(run["training"]["epoch_forward_flops"], run["training"]["flops"]) for run in group]
        rows.append(
            [
                training,
                ratios,
                *([str(len(group))] if several_seeds else []),
                f"{epochs:g}",
                *(
                    mean_and_deviation([run["levels"].get(name, {}).get("accuracy") for run in group])
                    for name in names
                ),
                number(statistics.mean(epoch for epoch, _ in costs), 1e-12, 3),
                number(statistics.mean(whole for _, whole in costs), 1e-12, 1),
            ]
        )
    parts = [align(header, rows, "markdown"), _description(next(iter(runs.values()))), _paper_table()]
    if commands:
        lines = "\n".join(unique(results["command"] for results in runs.values()))
        for old, new in (replace or {}).items():
            lines = lines.replace(old, new)
        parts.append(f"The commands:\n\n```bash\n{lines}\n```")
    return "\n\n".join(parts)


def _kind(results: dict) -> tuple[str, str, float]:
    """Return what runs of one row have in common: the training, the ratios of its cores, the epochs."""
    schedule, partition = results["training"]["schedule"], results["partition"]
    ratios = ", ".join(core_sizes(partition).values()) or "-"
    return _SCHEDULES.get(schedule, schedule), ratios, results["training"]["epochs"]


def _description(results: dict) -> str:
    model, data = results["model"], results["data"]
    widths = [model["width"] * 2**stage for stage in range(len(model["depths"]))]
    height, width = data["image_shape"][1:]
    return (
        f"ResNet with {', '.join(map(str, model['depths']))} blocks of {', '.join(map(str, widths))} channels, "
        f"trained on {data['train']:,} images of {height} x {width}; accuracy of the exported networks on "
        f"{data['test']:,} test images. FLOPs: a multiply-add is 2; of an epoch the forward passes alone, of the "
        "training forward and backward."
    )


def _paper_table() -> str:
    header = ["the paper's Table 3", "core accuracy (%)", "full accuracy (%)", "forward FLOPs per epoch (1e12)"]
    table = align(header, [[name, *figures] for name, figures in _PAPER.items()], "markdown")
    return f"For orientation, the paper's ResNet-18 (64 to 512 channels) after its whole training:\n\n{table}"


def _refuse_what_does_not_compare(runs: dict[str, dict]) -> None:
    (first, reference), *others = runs.items()
    for file, results in others:
        for what, fields in (
            ("data", ("test_fingerprint", "train", "split_seed", "padding", "mirror")),
            ("model", ("width", "depths")),
        ):
            one, other = ({name: run[what].get(name) for name in fields} for run in (results, reference))
            if one != other:
                raise ValueError(
                    f"{what} of {file} and {first} differ, {one} and {other}, so their scores do not compare; train "
                    "and evaluate them alike, or give them tables of their own."
                )
