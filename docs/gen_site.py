"""What MkDocs adds to these pages when it builds the site: README.md as its home, CONTRIBUTING.md and
CHANGELOG.md, a page for each group of conf/, and a page of docstrings for each folder of sharpcli/."""

from __future__ import annotations

import ast
import html
import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from sharpcli import CONF
from sharpcli.commands import columns, show
from sharpcli.config.settings import GROUPS, METHODS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sharpcli"
AT_THE_TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)(?P<path>[^)#\s]+)(?=[)#])")
AS_YAML = {"None": "null", "True": "true", "False": "false"}
GROUP = {
    **dict.fromkeys(METHODS, "A preset: it chooses parts and settings together."),
    "plot": "What `sharp plot` draws.",
    "claim": "Published statements. `sharp claim check` runs what tests a claim, and judges it.",
    "study": "Open questions. `sharp study` runs one, and prints a table without a verdict.",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The menus of the generated pages, after those of mkdocs.yml."""
    options = [{group: f"options/{group}.md"} for group in option_pages()]
    modules = [{f"sharpcli.{folder}": f"api/{folder}.md"} for folder in api_pages() if folder]
    config.nav += [
        {"Options": ["options/index.md", *options]},
        {"Python": ["api/index.md", *modules]},
        {"Contributing": "contributing.md"},
        {"Changes": "changelog.md"},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages, and CITATION.cff as it is."""
    pages = {site: (ROOT / file).read_text() for file, site in AT_THE_TOP.items()}
    pages |= {f"options/{group}.md": text for group, text in option_pages().items()}
    pages |= {"options/index.md": options_index(), "CITATION.cff": (ROOT / "CITATION.cff").read_text()}
    pages |= {f"api/{folder or 'index'}.md": text for folder, text in api_pages().items()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The links of a page, which lead to files of the repository, as links to pages of the site."""
    here = page.file.src_uri
    in_repository = next((file for file, site in AT_THE_TOP.items() if site == here), f"docs/{here}")
    code = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    code[::2] = [
        LINK.sub(lambda link: in_site(link["path"], in_repository, here), text) for text in code[::2]
    ]
    return "".join(code)


def in_site(link: str, page: str, here: str) -> str:
    """A link of the repository's file `page` as a link of the site's page `here`."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if path in AT_THE_TOP:
        target = AT_THE_TOP[path]
    elif path.startswith("sharpcli/") and path.endswith(".py"):
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        target = f"api/{folder_of(module) or 'index'}.md#{module}"
    else:
        target = path.removeprefix("docs/")
    return posixpath.relpath(target, posixpath.dirname(here) or ".")


# --- the options of conf/ ---


def option_pages() -> dict[str, str]:
    """A page for each group of conf/."""
    return {
        folder.name: group_page(folder.name)
        for folder in sorted(CONF.iterdir())
        if folder.is_dir() and folder.name != "hydra"
    }


def group_page(group: str) -> str:
    """The options of a group: what each is, and a table of its settings."""
    parts = [f"# {group}", about(group), f"On the command line: `sharp show {group}`."]
    for file in sorted((CONF / group).glob("*.yaml")):
        parts += [f"## {file.stem}", *option(group, file.stem, file.read_text())]
    return "\n\n".join(parts) + "\n"


def about(group: str) -> str:
    """How an option of a group is chosen."""
    if group in GROUP:
        return GROUP[group]
    if GROUPS[group].several:
        return f"A run may have several: `{group}=[first,second]`."
    return f"A run has one: `{group}=...`."


def option(group: str, name: str, text: str) -> list[str]:
    """The paragraphs about an option."""
    if group in show.POINTERS:
        return [escaped(show.statement(text)), f"`{show.POINTERS[group].format(name)}`"]
    path = show.target(text, group)
    chosen = f"{group}=[{name}]" if group in show.SEVERAL else f"{group}={name}"
    what = show.head(text) or show.first_sentence(show.docstring(path, of_module=True))
    out = ["" if group == "plot" else f"`{chosen}`", escaped(what), described(show.docstring(path))]
    out += [f"Source: [`{path}`][{path}]"] if path else []
    rows = [f"| `{s.name}` | `{s.default}` | {cell(s.comment)} |" for s in show.settings(text, group)]
    table = "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])
    return [paragraph for paragraph in [*out, table if rows else "It has no settings."] if paragraph]


def options_index() -> str:
    """The groups, and the settings of a run that are no part."""
    count = {group: len(list((CONF / group).glob("*.yaml"))) for group in option_pages()}
    groups = [f"| [`{group}`]({group}.md) | {number} |" for group, number in count.items()]
    rows = [f"| `{name}` | `{default}` | {cell(comment)} |" for name, default, comment in plain_settings()]
    return "\n".join(
        [
            "# Settings and options",
            "\nOn the command line everything is `setting=value`. The groups choose parts and presets:",
            "\n| group | options |\n|---|---|",
            *groups,
            "\n## Settings of a run\n",
            "`method=` sets `batch_size` as well: the default, `method=gd`, takes `full`.\n",
            "| setting | default | meaning |\n|---|---|---|",
            *rows,
            "",
        ]
    )


def plain_settings() -> list[tuple[str, str, str]]:
    """Name, default, and the comment above, of each field of `Plain`."""
    lines = (PACKAGE / "config" / "settings.py").read_text().splitlines()
    body = next(node for node in ast.parse("\n".join(lines)).body if getattr(node, "name", "") == "Plain")
    out = []
    for node in body.body:
        if isinstance(node, ast.AnnAssign):
            above = lines[node.lineno - 2].strip()
            arguments = node.value.args
            default = repr(ast.literal_eval(arguments[0])) if arguments else "[]"
            comment = above.removeprefix("# ") if above.startswith("#") else ""
            out.append((node.target.id, AS_YAML.get(default, default.strip("'")), comment))
    return out


# --- the docstrings of sharpcli/ ---


def folder_of(module: str) -> str:
    """The folder of sharpcli/ that a module is in; empty for a module beside them."""
    first, _, rest = module.removeprefix("sharpcli").lstrip(".").partition(".")
    return first if rest or (PACKAGE / first).is_dir() else ""


def api_pages() -> dict[str, str]:
    """The modules of each folder of sharpcli/, and under an empty name those beside the folders."""
    modules: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        names = file.relative_to(ROOT).with_suffix("").parts
        module = ".".join(names).removesuffix(".__init__")
        if not names[-1].startswith("_") or names[-1] == "__init__":
            modules.setdefault(folder_of(module), []).append(module)
    titles = {folder: f"# sharpcli.{folder}" if folder else "# sharpcli" for folder in modules}
    return {
        folder: "\n\n".join([titles[folder], *(f"::: {module}" for module in sorted(names))]) + "\n"
        for folder, names in modules.items()
    }


class Docstrings(griffe.Extension):
    """Docstrings as markdown: a block of columns is a table, and signs that markdown would take away stay."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Changes the docstring of every module, class and function that griffe reads."""
        if obj.docstring:
            obj.docstring.value = described(obj.docstring.value)


def described(docstring: str) -> str:
    """A docstring as markdown."""
    text, separator, _ = docstring.rpartition("\n\nColumns:\n")
    if not separator:
        return escaped(docstring)
    try:
        table = columns.table(columns.parsed(docstring, ""))
    except ValueError:
        return escaped(docstring)
    return "\n".join([escaped(text), "", *table])


def escaped(text: str) -> str:
    """A text in which markdown finds nothing of its own but `code`, lists and indented blocks."""
    lines = []
    for line in text.split("\n"):
        if line.startswith("    "):
            lines.append(line)
            continue
        parts = line.split("`")
        parts[::2] = [re.sub(r"([*_\[\]])", r"\\\1", html.escape(part, quote=False)) for part in parts[::2]]
        lines.append("`".join(parts))
    return "\n".join(lines)


def cell(text: str) -> str:
    """A text for a cell of a table."""
    return escaped(text).replace("|", r"\|")
