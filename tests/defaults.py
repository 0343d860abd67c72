"""`python tests/defaults.py` writes the file of versioned defaults; `tests/unit/test_identity.py` says when."""

from __future__ import annotations

import json

from alray import RunConfig
from alray.config.identity import VERSION, defaults_file

if __name__ == "__main__":
    defaults_file(VERSION).write_text(json.dumps(RunConfig().model_dump(mode="json"), indent=2) + "\n")
