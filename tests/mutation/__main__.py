"""Make every mutant of the modules that decide a job's state, and run the tests against each.

`make mutate` runs them all, `make mutate ARGS=fold` those of one module. Nothing on disk is
changed: a mutant lives in the memory of one process. What is drawn at random is drawn alike in
every run. The exit status is 1 where fewer than `ENOUGH` of a module's mutants are killed.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.util
import multiprocessing
import os
import resource
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from math import ceil
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).parents[2]
# Behind all else: where both have a package, the one that the tests run with is taken.
sys.path.append(str(ROOT / ".venv" / "mutation"))

from tests.mutation.mutants import Mutant, mutants_of  # noqa: E402

#: Which tests have to find the faults of a module; the quickest come first.
TESTS = {
    "states": ["test_states_doc", "test_fold", "test_golden"],
    "fold": [
        "test_fold_edges",
        "test_fold",
        "test_fold_writers",
        "test_golden",
        "test_trail",
        "test_fold_properties",
    ],
    "decoding": ["test_decoding", "test_golden"],
}
#: The share of mutants that must be killed, in each module.
ENOUGH = 0.9
#: How much of the processor's time a file may take: so many times what all take without a fault,
#: and so many seconds more. A fault may loop. No clock on the wall: how busy a machine is must not
#: change what is killed.
PATIENCE, MORE_SECONDS = 5, 10

#: Of what tests/unit need nothing but its own conftest.py, nothing that is slow to load.
PYTEST = ["-q", "-x", "--tb=no", "--no-header", f"--confcutdir={ROOT / 'tests' / 'unit'}"]
PYTEST += ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio", "--timeout=0"]
PYTEST += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "--hypothesis-profile", "repeatable"]
#: What the tests import that is not ours and takes long; once, before the processes part.
SLOW = ("aiokafka", "hypothesis.stateful", "msgspec", "pytest", "pytest_asyncio.plugin")


class Put(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Give a module another code than its file's."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        self.name, self.path, self.code = name, path, code

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load the module, if it is asked for."""
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        """Run the code as the module's."""
        exec(self.code, module.__dict__)


def module_path(module: str) -> Path:
    return ROOT / "jobtrail" / f"{module}.py"


def in_its_process(module: str, tests: str, mutant: Mutant | None, seconds: int | None) -> None:
    """Run a file of tests against one mutant, for so long; the exit status tells of them."""
    if mutant is not None:
        path = module_path(module)
        sys.meta_path.insert(0, Put(f"jobtrail.{module}", path, compile(mutant.tree, path, "exec")))
    if seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    import pytest

    status = pytest.main([*PYTEST, str(ROOT / "tests" / "unit" / f"{tests}.py")])
    sys.stdout.flush()
    # Not through what runs at the end of a process: the parent's would run here.
    os._exit(int(status))


def passes(module: str, mutant: Mutant | None, seconds: int | None) -> bool:
    """Tell whether the tests find no fault; those of one file after those of another."""
    for tests in TESTS[module]:
        sys.stdout.flush()
        process = multiprocessing.get_context("fork").Process(
            target=in_its_process, args=(module, tests, mutant, seconds)
        )
        process.start()
        process.join()
        if process.exitcode != 0:
            return False
    return True


def test(module: str) -> tuple[int, int]:
    """Print a module's mutants that no test finds; return how many are killed, of how many.

    Raises:
        SystemExit: The tests fail without a fault.
    """
    before = os.times().children_user
    if not passes(module, None, None):
        sys.exit(f"The tests of {module} fail as it is: mend that first.")
    seconds = ceil((os.times().children_user - before) * PATIENCE) + MORE_SECONDS
    mutants = mutants_of(module_path(module))
    print(f"{module}: {len(mutants)} mutants")
    survived = 0
    for number, mutant in enumerate(mutants, 1):
        if sys.stderr.isatty():
            print(f"\r{number} ", end="", file=sys.stderr)
        if passes(module, mutant, seconds):
            survived += 1
            print(f"  survives: line {mutant.line}: {mutant.before}  ->  {mutant.after}")
    return len(mutants) - survived, len(mutants)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make mutate", description=__doc__)
    parser.add_argument("module", nargs="*", help=f"of {', '.join(TESTS)}; all by default")
    modules = parser.parse_args().module or list(TESTS)
    if unknown := set(modules) - set(TESTS):
        parser.error(f"no tests are named for {', '.join(sorted(unknown))}")
    for name in SLOW:
        importlib.import_module(name)
    counts = {module: test(module) for module in modules}
    print(f"\n{'module':10}{'mutants':>9}{'killed':>9}{'survived':>10}{'share':>9}")
    counts["all"] = tuple(map(sum, zip(*counts.values(), strict=True)))
    for module, (killed, number) in counts.items():
        share = killed / number
        print(f"{module:10}{number:9}{killed:9}{number - killed:10}{share:9.1%}")
    if any(killed < ENOUGH * number for killed, number in counts.values()):
        sys.exit(f"Fewer than {ENOUGH:.0%} of a module's mutants were killed.")


if __name__ == "__main__":
    main()
