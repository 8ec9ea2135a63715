"""`sfumato`, and `python -m sfumato`."""

import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """The command line, which may be stopped while it is imported, too."""
    try:
        from sfumato.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped\n")
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
