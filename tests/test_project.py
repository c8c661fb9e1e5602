"""What the project says of itself agrees: version, licence, pins, the documentation's pages and the API reference."""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import FrameType, ModuleType

import pytest
import torch
from packaging.requirements import Requirement

import fastgan
from fastgan import _backend

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "mkdocs.yml").is_file():
    pytest.skip("not in a checkout", allow_module_level=True)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference() -> ModuleType:
    return module_at(ROOT / "docs" / "reference.py")


def release() -> ModuleType:
    return module_at(ROOT / "tools" / "release.py")


def test_the_version_is_written_once() -> None:
    assert "version" in PROJECT["dynamic"] and "version" not in PROJECT
    tags = subprocess.run(["git", "tag", "--points-at", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    for tag in (None, *(tag for tag in tags.split() if tag.startswith("v"))):
        assert release().disagreement(ROOT, tag) is None


def test_a_new_version_builds_the_core_again() -> None:
    """Or `make test` would find a core of the version before the release."""
    sources = re.search(r"^SOURCES := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert sources is not None and release()._MODULE in sources[1].split()


def test_make_installs_what_the_extras_require() -> None:
    """tools/requirements.py reads of pyproject.toml what pip would."""
    module = module_at(ROOT / "tools" / "requirements.py")
    for extra, names in {"test": ("test", "demo", "data", "download"), "tabular": ("tabular",)}.items():
        installed = map(Requirement, importlib.metadata.requires("fastgan") or [])
        needed = {
            r.name
            for r in installed
            if r.name != "fastgan" and (r.marker is None or any(r.marker.evaluate({"extra": e}) for e in names))
        }
        own = [Requirement(r).name for r in PROJECT["dependencies"]]
        assert {*own, *(Requirement(r).name for r in module.requirements(extra))} == needed


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "CITATION.cff",
            "\nversion: ",
            "\nversion: 9",
            "CITATION.cff must give version 1000.0.0 as .* does, got 9",
        ),
        (
            "CHANGELOG.md",
            "## 1000.0.0",
            "## 999.0.0",
            "heading of CHANGELOG.md must be 1000.0.0, got 999.0.0",
        ),
        ("CHANGELOG.md", "## 1000", "## Unreleased\n\n## 1000", "CHANGELOG.md must be 1000.0.0, got Unreleased"),
        ("fastgan/__init__.py", "", "", "the tag must be v1000.0.0, got v1"),
    ],
)
def test_a_release_dates_the_changes_and_its_tag_is_checked(
    file: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    tool = release()
    (tmp_path / "fastgan").mkdir()
    for name in ("CITATION.cff", "CHANGELOG.md", "fastgan/__init__.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    changes = tmp_path / "CHANGELOG.md"
    changes.write_text(re.sub("## .*", "## Unreleased", changes.read_text(), count=1))
    for _ in range(2):  # as after a release, and as after the next
        tool.prepare(tmp_path, "1000.0.0", datetime.date(2030, 1, 2))
        assert tool.disagreement(tmp_path) is None is tool.disagreement(tmp_path, "v1000.0.0")
        changes.write_text(changes.read_text().replace("## 1000.0.0 (2030-01-02)", "## Unreleased", 1))
    tool.prepare(tmp_path, "1000.0.0", datetime.date(2030, 1, 2))
    assert (tmp_path / "CITATION.cff").read_text().count("\nversion: 1000.0.0\ndate-released: 2030-01-02\n") == 1
    with pytest.raises(SystemExit, match="must have a heading Unreleased"):
        tool.prepare(tmp_path, "1000.0.1", datetime.date(2030, 1, 2))
    for version in ("999.0.0", "v1001.0.0", "1001.0"):
        with pytest.raises(SystemExit, match=f"three numbers X.Y.Z from 1000.0.0 on, got {version}"):
            tool.prepare(tmp_path, version, datetime.date(2030, 1, 2))
    (tmp_path / file).write_text((tmp_path / file).read_text().replace(old, new, 1))
    assert re.search(message, tool.disagreement(tmp_path, "v1000.0.0" if old else "v1"))


def test_wheels_are_built_of_what_their_tag_names() -> None:
    jobs = (ROOT / ".github" / "workflows" / "wheels.yml").read_text().split("actions/checkout")[1:]
    assert len(jobs) == 2
    for job in jobs:
        assert re.search(
            r"if: github.ref_type == 'tag'\n +run: python3? tools/release.py --check \"\$GITHUB_REF_NAME\"", job
        )


def test_the_licence_is_the_same_everywhere() -> None:
    assert PROJECT["license"] == "Apache-2.0" and "\nlicense: Apache-2.0\n" in (ROOT / "CITATION.cff").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


def test_the_readme_of_an_index_leads_into_the_repository() -> None:
    tool, readme = module_at(ROOT / "tools" / "absolute_links.py"), (ROOT / "README.md").read_text()
    text = tool.absolute(readme, "https://h/o/r", "v1")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert all(link.startswith("https://") for link in links)
    inside = [re.fullmatch(r"https://h/o/r/(blob|raw)/v1/([^#]+)(#.*)?", link) for link in links if "/h/" in link]
    assert len(inside) > 15 and all(found is not None for found in inside)
    for kind, path, _ in (found.groups() for found in inside if found is not None):
        assert (ROOT / path).exists() and (kind == "raw") == path.endswith(".png")


def test_what_tests_and_documentation_need_is_pinned() -> None:
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = PROJECT["optional-dependencies"]
    needed = {re.split(r"[\[>=]", name)[0] for extra in ("test", "demo", "data", "docs") for name in extras[extra]}
    assert needed - {"fastgan"} <= pinned


def test_every_public_name_is_in_the_api_reference() -> None:
    """Explained once, where it is defined or first exported, and those of `fastgan` listed on the first page."""
    pages = reference().pages()
    explained = [name for text in pages.values() for name in re.findall(r"^::: (\S+)$", text, re.M)]
    assert len(explained) == len(set(explained))
    of_object = {}
    for name in explained:
        module, _, attribute = name.rpartition(".")
        of_object[id(getattr(importlib.import_module(module), attribute))] = name
    public = [name for name, found in sys.modules.items() if name.partition(".")[0] == "fastgan" and found is not None]
    for module in public:
        if module.count(".") > 1 and module != "fastgan.nn.init" or module in ("fastgan.ops", "fastgan._options"):
            continue
        found = sys.modules[module]
        for name in getattr(found, "__all__", ()):
            if not isinstance(member := getattr(found, name), ModuleType):
                assert id(member) in of_object, f"{module}.{name} is not in the API reference: docs/reference.py"
    for name in fastgan.__all__:
        member = getattr(fastgan, name)
        where = member.__name__ if isinstance(member, ModuleType) else name
        assert f"[{where}]" in pages["api/index.md"], name


def test_the_api_reference_names_no_private_base() -> None:
    text = reference().pages()["api/training.md"]
    assert re.search(r"^::: fastgan.training.Adam\n    options: \{show_bases: false\}$", text, re.M)
    assert re.search(r"^::: fastgan.training.Momentum\n\n", text, re.M)  # others keep theirs


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f"- {page.relative_to(ROOT / 'docs')}\n" in text, page


def test_the_performance_tables_are_those_of_the_results() -> None:
    folder = ROOT / "docs" / "performance"
    module = module_at(folder / "make.py")
    assert (folder / "results.md").read_text() == module.page(), "run docs/performance/make.py"
    assert {name for name, _ in module.draw()} == {path.name for path in folder.glob("*.png")}


PAGES = ("docs/architecture.md", "docs/extending.md", "tests/simt/README.md")  # for developers


@pytest.mark.parametrize("page", PAGES)
def test_pages_about_the_code_name_what_there_is(page: str) -> None:
    """Each file they name exists, and each identifier is in one of these files."""
    files = [path for folder in ("fastgan", "csrc", "tests") for path in (ROOT / folder).rglob("*.*")]
    names = re.findall(r"`([\w./]+)`", (ROOT / page).read_text())
    text = ""
    for name in filter(re.compile(r"\.(py|h|cpp|cu|cuh|txt)$").search, names):
        found = [path for path in files if str(path).endswith(f"/{name}")]
        assert found, f"{page}: there is no {name}"
        text += "".join(path.read_text() for path in found)
    assert text
    for name in filter(re.compile(r"^[A-Za-z_]\w+$").match, names):
        is_module = (ROOT / name).is_dir() or (ROOT / "fastgan" / name).exists()
        assert is_module or re.search(rf"\b{name}\b", text), f"{page}: {name} is in none of the files it names"


def test_steps_of_an_extension_name_what_is_in_their_files() -> None:
    steps = re.findall(r"^\| \d+ \| .*$", (ROOT / "docs" / "extending.md").read_text(), re.M)
    assert len(steps) > 30
    for step in steps:
        quoted = re.findall(r"`([\w./]+)`", step)
        text = "".join((ROOT / name).read_text() for name in quoted if "/" in name)
        missing = [name for name in quoted if "/" not in name and not re.search(rf"\b{name}\b", text)]
        assert not missing, f"{missing} in none of the files of: {step}"


def test_the_walks_of_the_architecture_go_through_functions_of_their_files() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\|(?: *(\d*) *\|)? `((?:fastgan|csrc)/[^`]+)` \| `(\w+)` \|", text, re.M)
    for _, file, function in rows:
        assert re.search(rf"\b{function}\b", (ROOT / file).read_text()), f"{function} is not in {file}"
    hops = [list(walk) for walk in re.findall(r"\*\*(\d+) hops in (\d+) files\*\*", text)]
    numbered = [(int(number), file) for number, file, _ in rows if number]
    starts = [i for i, (number, _) in enumerate(numbered) if number == 1]
    for start, end, (count, of_files) in zip(starts, [*starts[1:], len(numbered)], hops, strict=True):
        assert int(count) == end - start - 1 == numbered[end - 1][0] - 1
        assert int(of_files) == len({file for _, file in numbered[start:end]})


@pytest.mark.skipif(_backend.native is None, reason="the walk goes through the compiled core")
def test_the_walk_of_a_loss_has_no_call_that_is_not_in_its_table() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().split("## From `fastgan.discriminator_loss`")[1]
    rows = re.findall(r"^\|(?: \d+)? \| `(fastgan/[^`]+)` \| `(\w+)` \|", text.split("\n## ")[0], re.M)
    real, fake = torch.zeros(2, 64, requires_grad=True)
    fastgan.discriminator_loss(real, fake)  # what a first call does once is not counted
    walked: list[tuple[str, str]] = []

    def see(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT / "fastgan"):
            walked.append((path.relative_to(ROOT).as_posix(), frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        fastgan.discriminator_loss(real, fake)
    finally:
        sys.setprofile(before)
    assert walked == rows
