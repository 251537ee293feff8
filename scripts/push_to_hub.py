r"""Publish the models of a training run on the Hub, a repository each: NAME-core and NAME-full.

    hf-ats push runs/iwslt14 --name iwslt14-de-en --license mit
    hf-ats push runs/iwslt14 --name iwslt14-de-en --organization lab --private --levels core
    hf-ats push runs/iwslt14 --name iwslt14-de-en --dry_run look-at-this
    hf-ats push runs/iwslt14 --name iwslt14-de-en --space

RUN_DIR is the --output_dir of `hf-ats train`. Each repository gets the export of its level, a card that
is rendered from results.json, results.json itself, training.png and report.html. What the card needs and the run does
not know is given here (--license, --base_model, ...) and kept in results.json.

With --space the page of `hf-ats app` goes there too, as the Space NAME-app, which loads these networks by their ids.

Everything is checked before anything is sent, and a repository is complete or untouched at every moment: if a push is
interrupted, the same command completes it. A repository that holds something else is not replaced without --overwrite.
The token is that of `hf auth login`, of HF_TOKEN, or --token.
"""

import argparse
import logging

from transformers import HfArgumentParser

from hf_ats.hub import push_run, stage_run
from hf_ats.run import CardArguments, user_errors


@user_errors()
def main() -> None:
    """Push, or write the same as folders."""
    parser = HfArgumentParser(CardArguments, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", nargs="?", help="a directory that `hf-ats train` wrote")
    parser.add_argument("--run_dir", dest="run_dir_flag", metavar="RUN_DIR", help="the same, as a flag")
    parser.add_argument("--name", "--hub_model_id", required=True, help="NAME or ORGANIZATION/NAME, without -core")
    parser.add_argument("--organization", help="the namespace (default: that of the token's user)")
    parser.add_argument("--levels", nargs="+", help="which levels (default: core full)")
    parser.add_argument("--space", action="store_true", help="publish the page of `hf-ats app` too, as NAME-app")
    visibility = parser.add_mutually_exclusive_group()
    visibility.add_argument(
        "--private", action="store_true", default=None, help="make new repositories private (default: as the account)"
    )
    visibility.add_argument("--public", dest="private", action="store_false", help="make new repositories public")
    parser.add_argument("--token", help="a token that may write (default: HF_TOKEN, or that of `hf auth login`)")
    parser.add_argument("--revision", help="a branch, made if there is none, or refs/pr/N (default: main)")
    parser.add_argument("--commit_message", help="first line of the commits")
    parser.add_argument("--commit_description", help="what follows it")
    parser.add_argument("--create_pr", action="store_true", help="open pull requests instead of changing repositories")
    parser.add_argument("--overwrite", action="store_true", help="replace what a repository holds of another model")
    parser.add_argument("--dry_run", metavar="DIR", help="write the repositories as folders there, and send nothing")
    card_args, others = parser.parse_args_into_dataclasses()
    arguments = vars(others) | card_args.facts()

    positional, flag = arguments.pop("run_dir"), arguments.pop("run_dir_flag")
    if (positional is None) == (flag is None):
        parser.error(f"give one run directory, as an argument or by --run_dir, not {positional!r} and {flag!r}.")
    run_directory, folder = flag if positional is None else positional, arguments.pop("dry_run")
    if folder is not None:
        of_hub = ("private", "token", "revision", "commit_message", "commit_description", "create_pr", "overwrite")
        given = {name: arguments[name] for name in arguments if name not in of_hub}
        for level, path in stage_run(run_directory, directory=folder, **given).items():
            print(f"{level}: {path}")
        return
    # A line for each repository, without those of the client for each request.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hf_ats").setLevel(logging.INFO)
    for level, pushed in push_run(run_directory, **arguments).items():
        print(f"{level}: {pushed.url}" + ("" if pushed.changed else " (nothing to change)"))


if __name__ == "__main__":
    main()
