"""Which models come with the package, and where do they lie?"""

from __future__ import annotations

from pathlib import Path

SHIPPED_FOLDER = Path(__file__).parents[1] / "weights"


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in SHIPPED_FOLDER.glob("*/config.json"))


def find_folder(name_or_dir: str | Path) -> Path:
    """The folder of a shipped model by its name; any other name is taken for a folder's path."""
    return SHIPPED_FOLDER / name_or_dir if str(name_or_dir) in shipped_models() else Path(name_or_dir)
