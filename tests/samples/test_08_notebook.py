"""Sample 08: every cell of the notebook runs, and shows what the committed outputs promise."""

import copy
import importlib.util
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "samples" / "08_notebook"
NOTEBOOK = json.loads((FOLDER / "from_model_to_report.ipynb").read_text())


def outputs(notebook):
    """Return the text that each cell shows, without what differs from run to run."""
    texts = []
    for cell in notebook["cells"]:
        shown = [
            "".join(output.get("text") or output["data"]["text/plain"]) for output in cell.get("outputs", ())
        ]
        texts.append(re.sub(r"[0-9.,%]+", "#", "".join(shown)))
    return texts


def test_the_committed_outputs_read_well():
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    html = [
        o["data"]["text/html"] for cell in code for o in cell["outputs"] if "text/html" in o.get("data", {})
    ]
    assert len(html) >= 5
    assert "4 of 5" in "".join(code[-1]["outputs"][0]["text"])
    # No path of the machine that ran it, but those of temporary files.
    assert (
        set(re.findall(r"(?<![\w.])/(?!tmp/)\w+/\w+", " ".join(json.dumps(c["outputs"]) for c in code)))
        == set()
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_cell_runs(tmp_path):
    for module in ("torch", "sklearn", "tensorrt_rtx", "yaml", "jinja2"):
        pytest.importorskip(module)
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    made = copy.deepcopy(NOTEBOOK)
    execute.execute(made, tmp_path)
    told = outputs(made)
    assert [bool(text) for text in told] == [bool(text) for text in outputs(NOTEBOOK)]
    assert "weights pruned to" in "".join(told)
    assert (tmp_path / "runs" / "digits" / "report.html").is_file()
