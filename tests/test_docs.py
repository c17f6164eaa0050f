"""What the documentation shows runs."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_notebook_runs():
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "docs" / "accessor.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT / "docs")}}).execute()


def test_readme_links_lead_somewhere():
    import re

    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def test_ci_runs_the_second_block_of_the_readme():
    blocks = (ROOT / "README.md").read_text().split("```bash\n")[1:]
    assert "geosr downscale sample_data/" in blocks[0].split("```")[0]
    assert "pytest" in blocks[1].split("```")[0]
    assert "README.md" in Path(ROOT / ".ci" / "run").read_text()


def test_the_table_of_skill_is_the_cards():
    table = runpy.run_path(str(ROOT / "docs" / "models.py"))["table"]()
    assert table in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
