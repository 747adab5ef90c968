"""The documents tell the truth: their Python runs, and their links lead somewhere."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@each_page
def test_the_python_of_a_page_runs_from_top_to_bottom(page, monkeypatch, tmp_path):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    text, names = page.read_text(), {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        # Padded, so that a traceback shows the line in the page.
        padding = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(padding + block[1], str(page), "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_the_cells_of_a_notebook_run_from_top_to_bottom(notebook, monkeypatch, tmp_path):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": notebook.stem}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook}, {cell['id']}", "exec"), names)


@each_page
def test_the_links_of_a_page_lead_to_files(page):
    inside = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in inside if not (page.parent / link).exists()] == []


def test_every_page_of_the_docs_is_listed_in_their_index():
    index = (ROOT / "docs" / "index.md").read_text()
    listed = set(LINK.findall(index))
    assert {page.name for page in PAGES} - {"README.md", "index.md"} <= listed
