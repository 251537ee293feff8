r"""Publish the models of a training run on the Hub, a repository each: NAME-core and NAME-full.

    python scripts/push_to_hub.py runs/iwslt14 --name iwslt14-de-en --license mit
    python scripts/push_to_hub.py runs/iwslt14 --name iwslt14-de-en --organization lab --private --levels core
    python scripts/push_to_hub.py runs/iwslt14 --name iwslt14-de-en --dry_run look-at-this

RUN_DIR is the --output_dir of scripts/train_translation.py. Each repository gets the export of its level, a card that
is rendered from results.json, results.json itself, training.png and report.html. What the card needs and the run does
not know is given here (--license, --base_model, ...) and kept in results.json.

Everything is checked before anything is sent, and a repository is complete or untouched at every moment: if a push is
interrupted, the same command completes it. A repository that holds something else is not replaced without --overwrite.
The token is that of `hf auth login`, of HF_TOKEN, or --token.
"""

import argparse
import logging
import sys

from hf_ats.hub import push_run, stage_run


def main() -> None:
    """Push, or write the same as folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", nargs="?", help="a directory that train_translation.py wrote")
    parser.add_argument("--run_dir", dest="run_dir_flag", metavar="RUN_DIR", help="the same, as a flag")
    parser.add_argument("--name", "--hub_model_id", required=True, help="NAME or ORGANIZATION/NAME, without -core")
    parser.add_argument("--organization", help="the namespace (default: that of the token's user)")
    parser.add_argument("--levels", nargs="+", help="which levels (default: core full)")
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
    facts = parser.add_argument_group("facts for the card, kept in results.json")
    facts.add_argument("--license", help="an identifier such as apache-2.0, mit, cc-by-4.0, or other")
    facts.add_argument("--license_name", help="name of a license that is other")
    facts.add_argument("--license_link", help="address of a license that is other")
    facts.add_argument("--card_datasets", nargs="+", metavar="ID", help="the training data's ids on the Hub")
    facts.add_argument("--base_model", metavar="ID", help="id on the Hub of the model that training started from")
    facts.add_argument(
        "--card_languages", nargs=2, metavar=("SOURCE", "TARGET"), help="codes, where the data has none"
    )
    arguments = vars(parser.parse_args())

    positional, flag = arguments.pop("run_dir"), arguments.pop("run_dir_flag")
    if (positional is None) == (flag is None):
        parser.error(f"give one run directory, as an argument or by --run_dir, not {positional!r} and {flag!r}.")
    run_directory, folder = positional or flag, arguments.pop("dry_run")
    arguments["datasets"], arguments["languages"] = arguments.pop("card_datasets"), arguments.pop("card_languages")
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
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"push_to_hub.py: {error}")
