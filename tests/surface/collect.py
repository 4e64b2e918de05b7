"""Collect the surface: what users and their programs depend on, subject by subject, as JSON values.

Every collector gets the record of its subject. The collectors that try which names are accepted try the recorded names
too, so that a name that became an alias does not count as removed.
"""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import typer
import yaml
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from prometheus_client.metrics import MetricWrapperBase
from pydantic_core import to_jsonable_python
from surface import product
from surface.python_api import class_surface, fields_of, shown_type, signature
from surface.schemas import bare

ROOT = Path(__file__).parents[2]
_ENVIRONMENT = re.compile(r"(?:SLNG|SIDECAR|OTEL|OPENAI|BOT)_[A-Z_]*[A-Z]")
_HEADER = re.compile(r"x-[a-z-]+", re.IGNORECASE)

# Routes, OpenAPI, AsyncAPI


def routes(_recorded: Any) -> dict[str, dict[str, list[str]]]:
    """Return the paths of both applications with their methods; `WebSocket` stands for an upgrade."""
    simulator = product.create_simulator(product.SimulatorOptions(speech="tone"))
    return {"sidecar": _routes(_sidecar_app().routes), "simulator": _routes(simulator.routes)}


def _routes(given: Iterable[Any]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for route in iter_route_contexts(list(given)):
        assert route.path is not None
        found.setdefault(route.path, set()).update(getattr(route, "methods", None) or {"WebSocket"})
    return {path: sorted(methods) for path, methods in found.items()}


def _sidecar_app() -> FastAPI:
    """Return the FastAPI application behind whatever wraps it."""
    app: Any = product.new_app()
    while not isinstance(app, FastAPI):
        (app,) = (value for value in vars(app).values() if callable(value) and hasattr(value, "routes"))
    return app


def openapi(_recorded: Any) -> Any:
    """Return what the sidecar serves as `/openapi.json`."""
    document = _sidecar_app().openapi()
    return bare({"paths": document["paths"], "security": document.get("security", [])}, document)


def asyncapi(_recorded: Any) -> Any:
    """Return the channels of AsyncAPI and, for each operation, its messages with their schemas.

    The names of operations, messages' components and schemas are for people. An operation is known by its channel,
    its action (`receive` is what clients send), and the dialect that its name ends with.
    """
    (path,) = (ROOT / "docs").rglob("asyncapi.yaml")
    document = yaml.safe_load(path.read_text("utf-8"))
    operations = {}
    for name, operation in document["operations"].items():
        (dialect,) = (each for each in ("plain", "extended") if each in name.lower())
        channel = bare(operation["channel"], document)
        messages = [bare(each, document) for each in operation["messages"]]
        key = f"{channel['address']} {operation['action']} {dialect}"
        assert key not in operations, f"two operations for {key}"
        operations[key] = {message.pop("name"): message for message in messages}
    channels = {channel.pop("address"): channel for channel in bare(list(document["channels"].values()), document)}
    for channel in channels.values():
        del channel["messages"]  # listed by operation
    return {
        "channels": channels,
        "contentType": document["defaultContentType"],
        "operations": operations,
        "servers": bare(list(document["servers"].values()), document),
    }


# Errors, settings, the command line, metrics


def errors(_recorded: Any) -> Any:
    """Return every code with its meaning, and the fields of an error."""
    made = {}
    for code in product.STATUS_OF_CODE:
        error = product.GatewayError(code, "")
        made[code] = {"status": error.status, "retryable": error.retryable, "close_code": error.close_code}
    whole = product.GatewayError("x", "", context_id="c", upstream={"status": 500})
    return {
        "codes": made,
        "fields": sorted(whole.as_message()),
        "optional": sorted(whole.as_message().keys() - product.GatewayError("x", "").as_message().keys()),
    }


def settings(_recorded: Any) -> Any:
    """Return every setting with its type, default, limits and environment variables, and how they are read."""
    schema = product.Settings.model_json_schema()
    config = product.Settings.model_config
    made = {}
    for name, field in product.Settings.model_fields.items():
        described = bare(schema["properties"][field.alias or name], schema)
        described["type"] = shown_type(field.annotation)
        described["default"] = to_jsonable_python(field.get_default(call_default_factory=True))
        alias = field.validation_alias or f"{config.get('env_prefix', '')}{name}".upper()
        described["environment"] = [str(alias), *([f"{alias}_FILE"] if name in product.SECRETS else [])]
        described["needs_restart"] = name in product.NEEDS_RESTART
        made[name] = described
    how = ("case_sensitive", "env_ignore_empty", "env_nested_delimiter", "extra")
    return {"settings": made, "sources": {name: config.get(name) for name in how}}


def command_line(_recorded: Any) -> Any:
    """Return the commands with their arguments and options."""
    root = typer.main.get_command(product.command_line)
    assert isinstance(root, typer.core.TyperGroup)
    commands = {name: _parameters(command.params) for name, command in root.commands.items()}
    help_options = list(root.context_settings.get("help_option_names", ["--help"]))
    return {"commands": commands, "help": help_options, "options": _parameters(root.params)}


def _parameters(given: Iterable[Any]) -> dict[str, Any]:
    made = {}
    arguments = 0
    for parameter in given:
        described: dict[str, Any] = {
            "default": to_jsonable_python(parameter.default),
            "type": shown_type(parameter.type_descriptor.annotation),
        }
        if not parameter.opts[0].startswith("-"):
            described["argument"] = arguments
            arguments += 1
        for name in ("required", "multiple", "is_flag", "hidden", "min", "max", "envvar", "secondary_opts"):
            value = getattr(parameter, name, None)
            if value is not None and value is not False and value != []:
                described[name] = value
        if (nargs := parameter.nargs) != 1:
            described["nargs"] = nargs
        made[", ".join(parameter.opts)] = described
    return made


def metrics(_recorded: Any) -> Any:
    """Return every metric by the name that is scraped: its type, labels and buckets, and the series it begins with."""
    registry = product.Metrics().registry
    endings = {"counter": "_total", "info": "_info"}
    made = {}
    # What is in a registry, and the labels of a metric without series, can be seen by private names only.
    wrappers = {
        each._name: each for each in registry._collector_to_names if isinstance(each, MetricWrapperBase)
    }  # fmt: skip
    for family in registry.collect():
        described: dict[str, Any] = {"type": family.type}
        if (wrapper := wrappers.get(family.name)) is not None:
            described["labels"] = sorted(wrapper._labelnames)
            if family.type == "histogram":
                described["buckets"] = [float(each) for each in getattr(wrapper, "_kwargs", {}).get("buckets", ())]
            if family.type == "info":
                described["labels"] = sorted(name for sample in family.samples for name in sample.labels)
            elif described["labels"] and (series := [sample.labels for sample in family.samples]):
                described["series from the start"] = series
        made[family.name + endings.get(family.type, "")] = described
    return made


# The simulator


def simulator(recorded: Any) -> Any:
    """Return the simulator's options, faults and profile fields, and what its documentation shows of it in Python."""
    options, fast = product.SimulatorOptions(), product.SimulatorOptions.fast()
    models = [
        f"{kind} {model}" for kind, model in product.Simulator(product.SimulatorOptions(speech="tone")).known_models()
    ]
    named = {*models, *recorded.get("routes", ()), *_ROUTES}
    return {
        "faults": _faults(recorded.get("faults", {})),
        "manners": _profile_fields(recorded.get("manners", {})),
        "manners of all routes": {
            "fast": product.shared_profile_fields(fast),
            "usual": product.shared_profile_fields(options),
        },
        "models": models,
        "options": fields_of(product.SimulatorOptions, package=product.sidecar.__name__),
        "python": _simulator_in_python(),
        "routes": {name: _own_fields(*name.split()) for name in named},
    }


# Routes that have a row in the table of docs/reference/simulator.md, and are not in the catalogue.
_ROUTES = (
    "stt amazon/x", "stt fish/asr:1", "stt openai/whisper:1", "stt reson8/x", "stt speechmatics/x", "stt unknown/x",
    "tts canopylabs/x", "tts elevenlabs/x", "tts fish/tts:1", "tts inworld/x", "tts kugelaudio/x", "tts murf/x",
    "tts rime/x", "tts unknown/x",
)  # fmt: skip
# What a fault needs at least, one of these for each action.
_LEAST: tuple[dict[str, Any], ...] = ({}, {"set": {}}, {"message": {}}, {"ms": 1}, {"latency_ms": 1})
_ANY_TEXT = "any text"
# One byte more than a close reason may have.
_LONG_TEXT = "x" * 124
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2.5, 99, 200, 600, 1000, 1005, 3000, 5000, 70_000_000, "", _ANY_TEXT, "AAAA", _LONG_TEXT,
    {}, {"name": "any"}, {"name": 1},
)  # fmt: skip


def _own_fields(kind: str, model: str) -> dict[str, Any] | None:
    own = product.route_manners(kind, model)
    return None if own is None else dict(own)


def _faults(recorded: Any) -> dict[str, Any]:
    """Return, for each fault, the moments and the values of its fields that are accepted, and what it becomes."""
    arguments: dict[str, set[str]] = {name: set(known) for name, known in product.actions().items()}
    for name, described in recorded.get("actions", {}).items():
        arguments.setdefault(name, set()).update(described["arguments"])
    moments = {*product.MOMENTS, *(moment for each in recorded.get("actions", {}).values() for moment in each["when"])}
    words = {*_choices(), *moments, *_words(recorded)}
    made = {}
    for do, names in arguments.items():
        times = [_at(moment) for moment in sorted(moments)]
        least, taken = {"do": do}, []
        for needed in _LEAST:
            if found := [at for at in times if _is_fault({"do": do, **needed, **at})]:
                least, taken = {"do": do, **needed}, found
                break
        # An action that is not accepted at all shows as one without moments.
        usual = least if _is_fault(least) or not taken else {**least, **taken[0]}
        entry = {name: value for name, value in usual.items() if name in ("do", "when", "kind")}
        made[do] = {
            "arguments": {name: _accepted(partial(_is_fault_with, entry, name), words) for name in names},
            "needs when": usual is not least,
            "when": [at["when"] for at in taken],
        }
        if taken:
            shown = product.parse_fault(usual, 7).as_dict()
            made[do]["shown"] = {name: value for name, value in shown.items() if name != "when"}
    drop = {"do": "drop", "when": "audio"}
    known = {*inspect.signature(type(product.parse_fault(drop, 1))).parameters, *recorded.get("fields", ())}
    known -= drop.keys()
    fields = {name: _accepted(partial(_is_fault_with, drop, name), words) for name in known}
    return {"actions": made, "fields": {name: values for name, values in fields.items() if values}}


def _at(moment: str) -> dict[str, Any]:
    return {"when": moment, "kind": "http"} if moment == "request" else {"when": moment}


def _is_fault(entry: dict[str, Any]) -> bool:
    try:
        product.parse_fault(entry, 1)
    except product.BadFault:
        return False
    return True


def _is_fault_with(entry: dict[str, Any], name: str, value: Any) -> bool:
    return _is_fault({**entry, name: value})


def _profile_fields(recorded: Any) -> dict[str, Any]:
    """Return the fields of `RouteProfile` with the values that are accepted, and their defaults."""
    hints = get_type_hints(product.Manners)
    words = _choices() | _words(recorded)
    usual = product.Manners()
    made = {}
    for name in {*hints, *recorded}:
        described = made[name] = {"accepted": _accepted(partial(_is_profile_field, name), words)}
        if name in hints:
            described["default"] = getattr(usual, name)
    return {name: described for name, described in made.items() if described["accepted"]}


def _is_profile_field(name: str, value: Any) -> bool:
    try:
        product.check_manners({name: value})
    except product.BadManners:
        return False
    return True


def _choices() -> set[str]:
    """Return all words that a field of a fault or a profile may be limited to."""
    hints = get_type_hints(product.Manners).values()
    limited = {each for hint in hints for each in get_args(hint) if isinstance(each, str)}
    return limited | {*product.ENDINGS, *product.KINDS, *product.MOMENTS}


def _accepted(takes: Callable[[Any], bool], words: set[str]) -> list[Any]:
    """Return the values that are accepted. Words are tried only if nothing else is accepted, since the field is then a
    choice.
    """
    taken = [value for value in _VALUES if takes(value)]
    if not taken:
        taken = [word for word in sorted(words) if takes(word)]
    return [f"{len(value)} times x" if value == _LONG_TEXT else value for value in taken]


def _words(recorded: Any) -> set[str]:
    """Return every text that is recorded as a value, so that what was accepted is tried again."""
    if isinstance(recorded, dict):
        return {word for value in recorded.values() for word in _words(value)}
    if isinstance(recorded, list):
        return {word for value in recorded for word in _words(value)}
    return {recorded} if isinstance(recorded, str) else set()


def _simulator_in_python() -> dict[str, Any]:
    """Return what docs/reference/simulator.md shows under "In tests"."""
    package, names = product.sidecar.__name__, ("Fault", "Log", "Record", "Simulator", "SimulatorOptions")
    functions: dict[str, Callable[..., Any]] = {
        "Log.of": product.Log.of,
        "Log.until": product.Log.until,
        "Simulator.inject": product.Simulator.inject,
        "Simulator.until_fired": product.Simulator.until_fired,
        "SimulatorOptions.fast": product.SimulatorOptions.fast,
        "recognise": product.recognise,
        "running_simulator": product.running_simulator,
        "signal.Decoder": product.Decoder,
        "signal.Word": product.Word,
        "signal.decode": product.decode,
        "signal.encode": product.encode,
        "speak": product.speak,
    }
    made: dict[str, Any] = {name: signature(each, names, package) for name, each in functions.items()}
    record = class_surface(product.Record, names, package)["fields"]
    return made | {"Record": sorted({*record, *(name for name in vars(product.Record) if not name.startswith("_"))})}


# The plugin


def plugin(_recorded: Any) -> Any:
    """Return what the plugin exports, the events that its services add, and what they read from the environment."""
    module = product.plugin
    made: dict[str, Any] = {}
    for name in module.__all__:
        each = getattr(module, name)
        assert inspect.isclass(each), f"{name} is no class, and how to describe it is not known here"
        made[name] = class_surface(each, module.__all__, module.__name__)
    events = {
        ast.literal_eval(node.args[0])
        for tree in _trees(module)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "_register_event_handler"
    }
    return {"events": sorted(events), "exports": made, "has a version": hasattr(module, "__version__")}


# Names in files


def names(_recorded: Any) -> Any:
    """Return the names in the code and in the files around it: headers, environment variables, scripts."""
    own = product.Settings.model_fields
    return {
        "headers in the code": {each.__name__: _constants(each, _HEADER) for each in (product.sidecar, product.plugin)},
        # In addition to those of the settings, which are a separate subject.
        "environment in the code": {
            each.__name__: [name for name in _constants(each, _ENVIRONMENT) if name.lower() not in own]
            for each in (product.sidecar, product.plugin)
        },
        "environment in files": {
            **{str(path.relative_to(ROOT)): _environment_of_yaml(path) for path in _yaml_files()},
            **{
                path: _found(r"^(?:ARG|ENV)\s+(.+)", r"(\w+)=", path)
                for path in ("Dockerfile", "deploy/bot.Dockerfile")
            },
            **{
                path: _found(r"^#?(\w+=)", r"(\w+)=", path) for path in (".env.example", "plugin/examples/.env.example")
            },
        },
        "compose": _compose(ROOT / "compose.yaml"),
        "packages": {path: _package(ROOT / path) for path in ("plugin/pyproject.toml", "sidecar/pyproject.toml")},
    }


def _trees(package: ModuleType) -> Iterator[ast.Module]:
    assert package.__file__ is not None
    for path in sorted(Path(package.__file__).parent.rglob("*.py")):
        yield ast.parse(path.read_text("utf-8"))


def _constants(package: ModuleType, pattern: re.Pattern[str]) -> list[str]:
    """Return the texts in a package's code that consist of such a name only; headers in lower case."""
    found = {
        node.value
        for tree in _trees(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and pattern.fullmatch(node.value)
    }
    return sorted({name.lower() for name in found} if pattern is _HEADER else found)


class _AnyTag(yaml.SafeLoader):  # type: ignore[misc] # PyYAML has no types
    """Reads Compose's own tags, such as `!reset`, as nothing."""


_AnyTag.add_multi_constructor("!", lambda loader, suffix, node: None)


def _yaml_files() -> list[Path]:
    return [
        ROOT / "compose.yaml",
        *sorted(path for path in (ROOT / "deploy").rglob("*.yaml") if "prometheus" not in str(path)),
    ]


def _environment_of_yaml(path: Path) -> dict[str, list[str]]:
    """Return the variables that a file sets in containers, and those that Compose reads from outside."""
    text = path.read_text("utf-8")
    found = {name for document in yaml.load_all(text, _AnyTag) for name in _set_in(document)}
    code = "\n".join(line.partition(" #")[0] for line in text.splitlines() if not line.lstrip().startswith("#"))
    made = {"sets": sorted(found), "reads": sorted(set(re.findall(r"\$\{(\w+)", code)))}
    return {name: each for name, each in made.items() if each}


def _set_in(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for each in node:
            yield from _set_in(each)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "environment" and isinstance(value, dict):
                yield from value
            elif key == "env" and isinstance(value, list):
                yield from (each["name"] for each in value)
            else:
                yield from _set_in(value)


def _found(line: str, name: str, path: str) -> list[str]:
    text = (ROOT / path).read_text("utf-8")
    return sorted({each for found in re.findall(line, text, re.MULTILINE) for each in re.findall(name, found)})


def _compose(path: Path) -> dict[str, Any]:
    document = yaml.load(path.read_text("utf-8"), _AnyTag)
    services = {
        name: {key: service.get(key) for key in ("image", "ports", "profiles", "secrets") if key in service}
        for name, service in document["services"].items()
    }
    return {"secrets": sorted(document["secrets"]), "services": services}


def _package(path: Path) -> dict[str, Any]:
    project = tomllib.loads(path.read_text("utf-8"))["project"]
    return {
        "extras": sorted(project.get("optional-dependencies", ())),
        "name": project["name"],
        "requires-python": project["requires-python"],
        "scripts": sorted(project.get("scripts", ())),
    }


SUBJECTS: dict[str, Callable[[Any], Any]] = {
    each.__name__: each
    for each in (routes, openapi, asyncapi, errors, settings, command_line, metrics, simulator, plugin, names)
}
"""Every subject that needs no running gateway; `surface.wire` collects the one that does."""
