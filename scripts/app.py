"""Translate in a browser with core and full side by side, each with its size and the time that it took.

    hf-ats app runs/demo
    hf-ats app runs/ladder --levels core level1 full --port 8000

It loads the networks, then prints the address of the page, which only this machine can open, and needs no network. It
takes the extra `app` (`pip install "hf_ats[app]"`). `hf-ats push --space` publishes the same page.
"""

import argparse
import os
import socket

from transformers.utils.logging import disable_progress_bar

from hf_ats.checkpoint import load_network, load_tokenizer
from hf_ats.evaluation import decoding_threads
from hf_ats.hub import check_compared, gradio_version, read_run
from hf_ats.run import early_ends, manual_parser, user_errors

HOST = "127.0.0.1"


@early_ends()
@user_errors()
def main() -> None:
    """Check, load, and serve until Ctrl-C."""
    parser = manual_parser(__doc__)
    parser.add_argument("run_directory", help="the --output_dir of a run of `hf-ats train`")
    parser.add_argument("--levels", nargs="+", help="which networks, a column each (default: core full)")
    parser.add_argument("--port", type=port, default=7860, help="of the page (default: 7860)")
    arguments = parser.parse_args()
    gradio_version()
    check_port(arguments.port)
    results, exports = read_run(arguments.run_directory, arguments.levels)
    check_compared(arguments.run_directory, results, list(exports))
    disable_progress_bar()
    networks = {level: load_network(export.path) for level, export in exports.items()}

    from hf_ats.remote_code import page_ats  # with Gradio, which takes seconds

    translators = {
        level: page_ats.translator(network, load_tokenizer(exports[level].path)) for level, network in networks.items()
    }
    for name in ("NO_PROXY", "no_proxy"):  # Gradio asks its own page whether it is there
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), HOST]))
    title = os.path.basename(os.path.abspath(arguments.run_directory))
    with decoding_threads(*networks.values()):
        page_ats.show_page(title, results, translators, server_name=HOST, server_port=arguments.port)


def port(word: str) -> int:
    """Return the port that a word of the command line says; argparse's error if there is none of that number."""
    if not word.isdecimal() or not 1 <= int(word) < 2**16:
        raise argparse.ArgumentTypeError(f"{word} is not a port; write a number from 1 to 65535")
    return int(word)


def check_port(number: int) -> None:
    """Raise OSError if the page cannot have a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, number))
        except OSError as error:
            raise OSError(f"--port {number} cannot be used ({error.strerror}); give another one.") from error


if __name__ == "__main__":
    main()
