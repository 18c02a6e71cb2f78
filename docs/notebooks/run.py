"""How do the notebooks get the outputs that the manual shows? Each is run in an empty folder and stored again.

    python docs/notebooks/run.py            # all of them, some minutes on two cores
    python docs/notebooks/run.py ask-and-see.ipynb

Needs `pip install ".[test]"`. A cell that fails stops it, and nothing is stored of that notebook. What a widget would
show is left out (it needs a kernel), times and names of folders are not kept.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
ONLY_ALIVE = "application/vnd.jupyter.widget-view+json"
CELL_TIMEOUT_S = 900


def executed(path: Path, folder: Path, *, settings: dict[str, Any] | None = None) -> Any:
    """The notebook with its outputs, run in a folder; settings: values instead of those of the cell "parameters".

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        ValueError: a setting that the notebook does not have.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    as_written = parameters.source
    known = dict(line.split(" = ") for line in as_written.splitlines())
    if unknown := set(settings or ()) - set(known):
        raise ValueError(f"{path.name}: no setting {', '.join(unknown)}; it has {', '.join(known)}")
    parameters.source = "\n".join(f"{name} = {value}" for name, value in {**known, **(settings or {})}.items())
    if not (folder / "recipes").exists():
        (folder / "recipes").symlink_to(REPOSITORY / "recipes")
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
    )
    client.execute()
    parameters.source = as_written
    return notebook


def cleaned(notebook: Any, folder: Path) -> Any:
    """Without what differs from run to run or needs a kernel."""
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        if cell.cell_type != "code":
            continue
        cell.outputs = [one for one in cell.outputs if ONLY_ALIVE not in one.get("data", {})]
        for output in cell.outputs:
            data = output.get("data", {})
            if "text/html" in data or "image/png" in data:
                data.pop("text/plain", None)
                data.pop("image/jpeg", None)
            if "text" in output:
                output["text"] = output["text"].replace(str(folder), ".")
        cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main() -> None:
    import nbformat

    names = sys.argv[1:] or sorted(path.name for path in HERE.glob("*.ipynb"))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            notebook = cleaned(executed(HERE / name, Path(folder)), Path(folder))
        nbformat.write(notebook, HERE / name)
        print(f"{name}: {(HERE / name).stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
