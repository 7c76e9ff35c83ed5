"""Print the oldest versions of dependencies that setup.cfg allows, as constraints for pip.

Those of the package and of the extra ``bench``; the tools of ``dev`` may be of any version that goes with them.
"""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENT = re.compile(r"([\w-]+)>=([\w.]+)$")


def lower_bounds(text: str) -> list[str]:
    """``name==version`` for each requirement of a setup.cfg; one without a lower bound is a ValueError."""
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(text)
    bounds = []
    for requirements in (config["options"]["install_requires"], config["options.extras_require"]["bench"]):
        for line in requirements.split("\n"):
            requirement = line.strip()
            if not requirement or requirement.startswith("#"):
                continue
            match = REQUIREMENT.match(requirement)
            if match is None:
                raise ValueError(f"setup.cfg: {requirement}: expected name>=version, the oldest version that is tested")
            bounds.append(f"{match[1]}=={match[2]}")
    return bounds


if __name__ == "__main__":
    print("\n".join(lower_bounds((ROOT / "setup.cfg").read_text(encoding="utf-8"))))
    sys.exit(0)
