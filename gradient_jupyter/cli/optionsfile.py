"""Options files: the options of one command, kept as YAML.

A file gives what the command line does not; what is typed wins. It is data: keys are options, values are
text, lists of text, or for variables a mapping. No tags, no aliases, nothing that YAML would make of a text
by its looks: ``name: yes`` is the word, ``ports: 8080:22`` are ports."""

from __future__ import annotations

import io
import os
import stat
import sys
import textwrap
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from gradient_jupyter.cli.command import normal
from gradient_jupyter.cli.failures import Failed

if TYPE_CHECKING:
    import yaml

_LARGEST = 1 << 20
_DEEPEST = 20
#: Options about the call itself; a file that named them would be read while it is read.
_OWN = frozenset({"options_file", "create_options_file", "api_key"})
_WIDTH = 90


def read(command: click.Command, path: str) -> dict[str, Any]:
    """What the file says, by the names of the command's parameters. Raises ``Failed`` or ``UsageError``."""
    said = load(path)
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise _wrong(path, "it is no mapping of options to values")
    params = _params(command)
    found: dict[str, Any] = {}
    spelt: dict[str, str] = {}
    for key, value in said.items():
        param = params.get(normal(key)) if isinstance(key, str) else None
        if param is None or param.name is None:
            raise _unknown(path, str(key), command)
        if value is None:
            continue
        if param.name in found:
            raise _wrong(path, f"{spelt[param.name]} and {key} are the same option")
        spelt[param.name] = key
        found[param.name] = _value(path, key, param, value)
    if len({name for name in found if name in ("line", "words")}) == 2:
        raise _wrong(path, "it gives the command twice")
    return found


def write_new(path: str, text: str) -> None:
    """A file of its writer's alone; one that is there is never written over."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Failed(f"{path} is there already.", next="Name another file, or remove it.") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def write(ctx: click.Context, path: str) -> None:
    """Writes every option of the command with its help and its present value. ``-`` is our standard output.
    A file that is there is never written over."""
    text = template(ctx)
    if path == "-":
        sys.stdout.write(text)
        return
    write_new(path, text)  # it may hold --env KEY=value
    from gradient_jupyter.cli.terminal import note
    from gradient_jupyter.cli.text import clean

    note(f"  {clean(path)}  Use it: {ctx.command_path} --optionsFile {clean(path)}")


def template(ctx: click.Context) -> str:
    """The options file of a command that was typed like this."""
    import yaml

    out = io.StringIO()
    out.write(f"# Options of: {ctx.command_path}\n")
    out.write("# Used with --optionsFile; what is typed beside it wins. An empty value is as if not said.\n")
    done: set[str] = set()
    for param in ctx.command.params:
        key, text = _named(param)
        if not key or key in done:
            continue
        done.add(key)
        value = _plain(ctx.params.get(param.name or ""))
        if key == "command":  # said in one way or the other
            value = _plain(ctx.params.get("words")) or value
        if isinstance(param, click.Option) and param.is_flag and value in ("", "false"):
            value = False
        out.write("\n")
        for line in textwrap.wrap(text, _WIDTH, break_long_words=False):
            out.write(f"# {line}\n")
        if value in ("", []):
            out.write(f"{key}:\n")
        else:
            out.write(yaml.safe_dump({key: value}, allow_unicode=True, width=2**20))
    return out.getvalue()


def load(path: str) -> Any:
    """A small YAML file as plain mappings, lists, texts and None. Raises ``Failed``."""
    import yaml

    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _wrong(path, "it is not UTF-8") from None
    try:
        return yaml.load(text, Loader=_loader())  # noqa: S506 - a SafeLoader, made stricter
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise _wrong(path, f"{where}{getattr(error, 'problem', None) or error}") from None
    except (RecursionError, ValueError):
        raise _wrong(path, "it is nested too deeply") from None


def _loader() -> type[yaml.SafeLoader]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Texts and nothing else: no tags, no aliases, no key twice."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(event, yaml.AliasEvent):
                raise _problem("aliases (*name) are not read here", event)
            if (tag := getattr(event, "tag", None)) is not None:
                raise _problem(f"tags ({tag}) are not read here", event)
            self.depth += 1
            if self.depth > _DEEPEST:
                raise _problem("it is nested too deeply", event)
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise _problem("a key is no text", key)
                if key.value in seen:
                    raise _problem(f"{key.value} is there twice", key)
                seen.add(key.value)
            return super().construct_mapping(node, deep=deep)

        def flatten_mapping(self, node: Any) -> None:
            """``<<`` is a key like any other."""

    nothing = [("tag:yaml.org,2002:null", yaml.SafeLoader.yaml_implicit_resolvers["~"][0][1])]
    Loader.yaml_implicit_resolvers = dict.fromkeys(("", "~", "n", "N"), nothing)
    return Loader


def _problem(text: str, at: Any) -> Exception:
    import yaml

    return yaml.MarkedYAMLError(problem=text, problem_mark=at.start_mark)


def _bytes(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _wrong(path, "it is no regular file")
            content = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        raise _wrong(path, getattr(error, "strerror", None) or str(error)) from None
    if len(content) > _LARGEST:
        raise _wrong(path, "it is larger than 1 MiB")
    return content


def _params(command: click.Command) -> dict[str, click.Parameter]:
    """Every name a file may use, of the command's options and arguments."""
    names: dict[str, click.Parameter] = {}
    for param in command.params:
        if param.name in _OWN or param.name is None:
            continue
        if isinstance(param, click.Argument):
            names[normal("command" if param.name == "words" else param.name)] = param
            continue
        for option in (*param.opts, *param.secondary_opts):
            # One of the argument's own name is another way to say it: then the argument is meant.
            if option.startswith("--") and not isinstance(names.get(normal(option)), click.Argument):
                names[normal(option)] = param
    return names


def _value(path: str, key: str, param: click.Parameter, value: Any) -> Any:
    """As click would have got it from the command line."""
    if isinstance(value, dict):
        if not param.multiple or any(not isinstance(each, str) for each in value.values()):
            raise _wrong(path, f"{key} is no text")
        value = [f"{name}={each}" for name, each in value.items()]
    if isinstance(value, list):
        if any(not isinstance(each, str) for each in value):
            raise _wrong(path, f"{key} holds something that is no text")
        if param.name == "line":
            import shlex

            return shlex.join(value)
        if not (param.multiple or param.nargs == -1):
            raise _wrong(path, f"{key} takes one value, not a list")
        return value
    if param.nargs == -1:
        import shlex

        try:
            return shlex.split(value)
        except ValueError as error:
            raise _wrong(path, f"{key} cannot be split: {error}") from None
    return [value] if param.multiple else value


def _named(param: click.Parameter) -> tuple[str, str]:
    """The key of a parameter in a template, and what is said of it; no key: it is left out."""
    if param.name in _OWN or getattr(param, "hidden", False):
        return "", ""
    if isinstance(param, click.Argument):
        if param.name == "words":
            return "command", "What to run: a text that is split as a shell would, or a list."
        return param.name or "", f"{param.human_readable_name}."
    assert isinstance(param, click.Option)
    long = next((option for option in param.opts if option.startswith("--")), "")
    first, *rest = long.removeprefix("--").split("-")
    return first + "".join(part.title() for part in rest), param.help or ""


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return value
    if isinstance(value, tuple | list):
        return [str(each) for each in value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unknown(path: str, key: str, command: click.Command) -> click.UsageError:
    from gradient_jupyter.cli.text import clean

    known = [name for param in command.params if (name := _named(param)[0])]
    close = get_close_matches(key, known, n=1) or get_close_matches(
        normal(key), [normal(name) for name in known], n=1
    )
    nearest = next((name for name in known if close and normal(name) == normal(close[0])), None)
    hint = f" Did you mean {nearest}?" if nearest else ""
    return click.UsageError(
        f"{path}: this command has no option {clean(key)[:60]!r}.{hint}",
        click.get_current_context(silent=True),
    )


def _wrong(path: str, why: str) -> Failed:
    return Failed(
        f"{path} cannot be used: {why}.",
        next="--createOptionsFile FILE, with any command, writes one to begin with.",
        exit_code=2,
        code="options-file",
    )
