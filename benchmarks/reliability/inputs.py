r"""Give every command bad input, and class what becomes of it: a right result, or a sentence before any work.

    python -m benchmarks.reliability.inputs --jobs 2
    python -m benchmarks.reliability.inputs --only "a corpus: train, CR alone" --keep

Each case is a command in a copy of a small corpus, two runs, a base model and an adapter, and a line of --lines. The
cases come from rules: every flag of every command with values that it should not have, flags that contradict each
other, corpora, recipes, models and places as somebody could have them, each file of what a run leaves damaged in each
way. This benchmark can be killed; the same command tries what is missing.
"""

import argparse
import mmap
import random
import re
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from .bad_flags import bad_values, contradictions
from .cases import LIKE_RUN, PREFIXES, Case
from .damages import damaged_files
from .folders import differences
from .forks import Fork, import_what
from .lines import add_lines, read_lines, side_by_side
from .material import write_adapter, write_corpus
from .situations import all_situations
from .sound import unsound

ROOT = Path(__file__).parents[2]
LINES = ROOT / "benchmarks" / "results" / "reliability" / "inputs.jsonl"
REFUSED, RIGHT = "refused", "right result"
WITHOUT_A_WORD = "wrong without a word"
TRACEBACK, TRACEBACK_LATE = "traceback", "traceback after training"
REFUSED_LATE, REFUSED_WRONGLY = "sentence after training", "right, but refused"
ENDLESS = "no end"
OUTCOMES = (REFUSED, RIGHT, WITHOUT_A_WORD, TRACEBACK, TRACEBACK_LATE, REFUSED_LATE, REFUSED_WRONGLY, ENDLESS)
GOOD = (REFUSED, RIGHT)
_MEMORY = 14 * 2**30  # bytes of addresses, which a huge value must not take from the machine


def set_up(folder: Path) -> Path:
    """Import everything, and write the material anew; return its folder."""
    material = folder / "material"
    shutil.rmtree(folder, ignore_errors=True)
    for corpus, run, seed in (("corpus", "run", 42), ("other_corpus", "other", 1)):  # 42 is the default
        write_corpus(material / corpus, seed)
        prefixes = PREFIXES.replace("corpus/", f"{corpus}/")
        import_what("train", f"--output_dir {run} {LIKE_RUN} {prefixes} --seed {seed}".split(), material)
    shutil.copy(material / "corpus" / "test.de", material / "text.de")
    write_adapter(material, material / "run" / "full")
    write_adapter(folder / "other", material / "run" / "full", seed=1)
    shutil.move(folder / "other" / "adapter", material / "other_adapter")
    return material


def all_cases(material: Path) -> list[Case]:
    """Return every case, in an order of no meaning."""
    cases = [*bad_values(), *contradictions(), *all_situations(), *damaged_files(material)]
    titles = [case.title for case in cases]
    twice = {title for title in titles if titles.count(title) > 1} if len(set(titles)) < len(titles) else set()
    if twice:
        raise ValueError(f"two cases are called {min(twice)!r}.")
    random.Random(0).shuffle(cases)  # so that a part of them has some of every kind
    return cases


class Trials:
    """Trials of cases, in a folder of their own.

    Args:
        material: what each case gets a copy of.
        folder: where the copies go.
        timeout: seconds after which a command is taken for endless.
    """

    def __init__(self, material: Path, folder: Path, timeout: float = 90):
        self._material, self._folder, self._timeout = material, folder, timeout
        self._expected: dict[tuple, tuple[Path, str]] = {}
        shutil.rmtree(folder, ignore_errors=True)

    def run(self, case: Case, keep: bool = False) -> dict:
        """Try a case; return its line of the record."""
        directory = self._folder / "case"
        status, steps, out, err = self._command(case, directory, case.prepare)
        outcome, said = self._judge(case, directory, status, steps, out, err)
        if not keep:
            shutil.rmtree(directory)
        return {"case": case.title, "outcome": outcome, "said": said[-160:]}

    def _command(self, case: Case, directory: Path, prepare: Callable[[Path], None] | None):
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(self._material, directory)
        if prepare is not None:
            prepare(directory)
        steps = mmap.mmap(-1, 8)
        child = Fork(case.command, case.words, directory, at_start=lambda: _count(steps))
        status = child.wait(self._timeout)
        if status is None:
            child.send(9)
            child.wait()
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in (child.out, child.err))
        return status, int.from_bytes(steps[:8], "little"), out, err

    def _judge(self, case: Case, directory: Path, status, steps: int, out: str, err: str) -> tuple[str, str]:
        failed = failure(case, status, steps, err)
        if failed is not None:
            return failed
        wrong = unsound(case.command, case.words, directory, out, steps)
        if wrong is not None:
            return WITHOUT_A_WORD, wrong
        if case.right == "refuse":
            return WITHOUT_A_WORD, "taken as it is"
        if case.right == "same":
            found = self._unlike(case, directory, out)
            if found:
                return WITHOUT_A_WORD, "; ".join(found)[:160]
        return RIGHT, ""

    def _unlike(self, case: Case, directory: Path, out: str) -> list[str]:
        """Return what differs from what the command does with the material as it was."""
        key = (case.command, case.words)
        if key not in self._expected:
            expected = self._folder / f"expected{len(self._expected)}"
            status, _, printed, err = self._command(case, expected, None)
            if status != 0:
                raise ValueError(f"{case.command} {' '.join(case.words)} failed: {err[-1000:]}")
            self._expected[key] = (expected, printed)
        expected, printed = self._expected[key]
        found = differences(expected, directory)
        own = [f"{case.damaged} ", f"{case.damaged}/"]
        # It is made anew by a run that goes on from another.
        if (case.damaged or "").startswith("run/checkpoint-4/"):
            own.append("run/checkpoint-4/")
        found = [one for one in found if not one.startswith(tuple(own))]
        if case.command != "train" and printed != out:
            found.append("it printed something else")
        return found


def failure(case: Case, status: int | None, steps: int, err: str) -> tuple[str, str] | None:
    """Return the outcome of a command that did not end with status 0, and the last line of what it said; else None.

    Args:
        case: what was tried.
        status: as `Fork.wait` returns it.
        steps: how many micro-batches were trained.
        err: its standard error.
    """
    lines = err.strip().splitlines()
    said = lines[-1] if lines else ""
    if status is None:
        return ENDLESS, said
    if "Traceback (most recent call last)" in err or status < 0:
        return (TRACEBACK_LATE if steps else TRACEBACK), said
    if status == 0:
        return None
    if not said or case.right == "accept":
        return REFUSED_WRONGLY, said
    # What can only be seen in a step ends in that step, and says of the loss or of a weight that it is not finite.
    late = steps and not re.search(r"\bloss\b|\bnot finite\b", said)
    return (REFUSED_LATE if late else REFUSED), said


def _count(steps: mmap.mmap) -> None:
    """Count in the child, which shares `steps`, how many micro-batches are trained; limit its memory."""
    from hf_ats import ATSSeq2SeqTrainer

    original = ATSSeq2SeqTrainer.training_step

    def counted(trainer, *arguments, **keywords):
        steps[:8] = (int.from_bytes(steps[:8], "little") + 1).to_bytes(8, "little")
        return original(trainer, *arguments, **keywords)

    ATSSeq2SeqTrainer.training_step = counted
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def main() -> None:
    """Set up, and try what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="workers side by side (default: 2)")
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose title holds one of these")
    parser.add_argument("--keep", action="store_true", help="keep what each case left, for one case at a time")
    parser.add_argument("--list", action="store_true", help="list the cases, and try none")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "reliability" / "inputs", help="where they run")
    parser.add_argument("--lines", type=Path, default=LINES, help="the record")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    material = set_up(folder)
    done = {line["case"] for line in read_lines(arguments.lines)}
    asked = [case for case in all_cases(material) if any(part in case.title for part in arguments.only)]
    cases = [case for case in asked if case.title not in done]
    if arguments.list:
        print("\n".join(case.title for case in cases))
        return

    def work(worker: int) -> None:
        trials = Trials(material, folder / f"worker{worker}")
        for case in cases[worker :: arguments.jobs]:
            line = trials.run(case, arguments.keep)
            add_lines(arguments.lines, [line])
            if line["outcome"] not in GOOD:
                print(f"{line['outcome']}: {case.title}: {line['said']}", file=sys.stderr)

    side_by_side(arguments.jobs, work)


if __name__ == "__main__":
    main()
