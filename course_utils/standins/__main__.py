"""The stand-ins and the generated data: `python -m course_utils.standins data|train|evaluate [NAME]`."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from course_utils import runtime
from course_utils.messages import CourseError
from course_utils.standins import DATA_SETS, MODELS, make_data


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m course_utils.standins", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="write the generated files under data/ again")
    data.add_argument("name", nargs="?", help=f"one of {', '.join(DATA_SETS)}; all of them without it")
    for command, what in {"train": "train a model from scratch", "evaluate": "measure what a model can do"}.items():
        parsed = commands.add_parser(command, help=what)
        parsed.add_argument("name", choices=MODELS)
        parsed.add_argument("--folder", type=Path, help="where the model is; data/models/NAME without it")
    arguments = parser.parse_args()
    try:
        if arguments.command == "data":
            for name in [arguments.name] if arguments.name else DATA_SETS:
                for path in make_data(name):
                    print(path)
        else:
            module = import_module(f"course_utils.standins.{MODELS[arguments.name]}")
            folder = arguments.folder or runtime.DATA / "models" / arguments.name
            if arguments.command == "train":
                module.train(folder)
            else:
                print(module.card(module.evaluate(folder)))
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "Stopped; the same command goes on from the last checkpoint.\n已停止；运行同一条命令会从上一个检查点继续。"
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
