"""Say what this machine and its server are like, and what looks wrong."""

import argparse
import sys
from collections.abc import Sequence

from archives.errors import BuildError
from serving.diagnosis import examine
from serving.errors import ServerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was found; return 1 where something looks wrong."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    problems = []
    try:
        for finding in examine():
            mark = "!" if finding.problem else " "
            print(f"{mark} {finding.subject:<28} {finding.state}", flush=True)
            if finding.problem:
                problems.append(f"{finding.subject}: {finding.problem}")
    except (BuildError, ServerError, OSError) as error:
        problems.append(str(error))
    print("\n" + ("\n".join(problems) if problems else "Nothing looks wrong."))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
