"""`python -m course_utils.standins data [NAME]`: write the course's generated data again."""

import argparse
import sys

from course_utils.messages import CourseError
from course_utils.standins import DATA_SETS, make_data


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m course_utils.standins", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="write the generated files under data/ again")
    data.add_argument("name", nargs="?", help=f"one of {', '.join(DATA_SETS)}; all of them without it")
    arguments = parser.parse_args()
    try:
        for name in [arguments.name] if arguments.name else DATA_SETS:
            for path in make_data(name):
                print(path)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
