"""The table of a run on images; `hf-ats compare` renders that of several."""

from hf_ats.results import align, number

TASK = "image-classification"


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
