"""A Hub to try things on by hand.

    python -m tests.support.hub --port 8123

Then, in another shell, what it prints: an address and a token for every command that uses the Hub.
"""

import argparse
import contextlib
import tempfile
import threading
from pathlib import Path

from tests.support.hub.server import LoopbackHub


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8123, help="on loopback (default: 8123)")
    with LoopbackHub(parser.parse_args().port) as hub:
        settings = hub.environment(Path(tempfile.mkdtemp()))
        print("export " + " ".join(f"{name}={value}" for name, value in settings.items()), flush=True)
        print("Tokens: " + ", ".join(f"{token} ({one.name}, {one.role})" for token, one in hub.tokens.items()))
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
