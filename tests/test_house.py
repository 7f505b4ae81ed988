"""The house rules that a machine can hold: floors, doors, sizes, words, docstrings. ARCHITECTURE.md says why."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "river_fast"
EXT = ROOT / "_ext"
LINES_MOST = 400
FUNCTION_LINES_MOST = 70

# Every module's floor. Imports go down, or stay on the floor; a folder's files stand on its floor.
FLOORS = (
    "attempt_error control cron_schedule error_handler errors event event_loop insert_opts job job_row job_set_state"
    " job_stuck_handler notify_limiter periodic_job pg_binary queue retry_policy stop_report version",
    "args_codec canonical_json config durable_periodic_job encoding insert_combiner insert_params job_args job_filters"
    " job_insert_params job_list_cursor periodic_job_bundle plugin resolved_opts startstop testsignal unique worker",
    "driver job_executor job_log job_run resumable work_chain",
    "insert_chain insert_plan insert_roles insert_statements"
    " async_runner cancel_checker completer deadline_watch durable_periodic_admin elector inserter job_admin"
    " job_list leader_admin liveness long_job_refresher maintenance migrate notifier producer"
    " queue_admin queue_keeper registration shutdown statement_runner stranded subscription_manager",
    "async_client async_client_admin async_client_durable_periodic_jobs client client_admin"
    " client_durable_periodic_jobs client_life client_notify client_periodic_jobs client_queues"
    " client_services client_verbs",
    "cli contrib embedded embedded_identity embedded_programs testing ui __main__",
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}

# Which files may open which door.
DOORS = {
    "psycopg": {
        "driver/psycopg.py", "driver/psycopg_cancel.py", "driver/psycopg_contact.py", "driver/psycopg_executor.py",
        "driver/psycopg_lent.py", "driver/psycopg_listener.py", "driver/psycopg_prepared.py",
        "driver/psycopg_session.py", "driver/psycopg_shared.py", "embedded.py", "testing/schema_supply.py",
    },
    "psycopg_pool": {"driver/psycopg.py", "driver/psycopg_executor.py", "driver/psycopg_lent.py"},
    "river_fast._ext": {"producer.py", "completer.py"},
}

# Words that are not ours: River has another, or they say nothing.
FORBIDDEN = {
    "task", "broker", "consumer", "payload", "ack", "reaper", "backend", "repository", "util", "utils", "helper",
    "helpers", "manager",
}  # fmt: skip
RIVERS_OWN = {"subscription_manager", "SubscriptionManager"}
# ... except where they name a thing of somebody else's: asyncio's Task, a notification's payload, a server's backend.
FOREIGN = {
    "task": {"async_runner.py", "async_client.py", "inline_work.py", "job_executor.py"},
    "payload": {"control.py", "notifier.py", "elector.py", "client_services.py", "payload.h", "fetch_loop.h"},
    "backend": {"meter.py"},
    "manager": {"subscription_manager.py"},
}

# How a statement begins, as a string of its own.
SQL = re.compile(
    r"\s*(SELECT\s|INSERT\s+INTO\s|UPDATE\s+\S+\s+SET\s|DELETE\s+FROM\s|WITH\s+\w+\s+AS\s|COPY\s+\S+\s+(\(|FROM|TO)|CREATE\s+(TEMP|TABLE|SCHEMA"
    r"|INDEX|UNIQUE|TYPE|FUNCTION)|DROP\s+(TABLE|SCHEMA|INDEX|TYPE)|ALTER\s+TABLE|VACUUM\b|REINDEX\b)"
)


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(path: Path) -> set[str]:
    """What a module imports when it runs, at its top or in a function; type-only imports are exempt."""
    names: set[str] = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    walk(other)
                continue
            if isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path.name} imports relatively"
                names.add(child.module or "")
                names.update(f"{child.module}.{alias.name}" for alias in child.names)
            elif isinstance(child, ast.Import):
                names.update(alias.name for alias in child.names)
            walk(child)

    walk(tree(path))
    return names


def floor(module: str) -> int:
    return FLOOR_OF[module.split(".")[1]]


def inner_imports(path: Path) -> set[str]:
    ours = {name for name in imported(path) if name in modules() and "." in name}
    return {name for name in ours if not name.startswith("river_fast._ext")}


def test_every_module_stands_on_a_floor() -> None:
    unknown = {name.split(".")[1] for name in modules() if "." in name} - set(FLOOR_OF) - {"_ext"}
    assert not unknown, "add them to FLOORS, and to ARCHITECTURE.md"


def test_imports_go_down_or_stay_on_their_floor() -> None:
    wrong = [
        f"{name} (floor {floor(name)}) imports {other} (floor {floor(other)})"
        for name, path in modules().items()
        if "." in name and not name.startswith("river_fast._ext")
        for other in sorted(inner_imports(path))
        if floor(other) > floor(name)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {name: inner_imports(path) - {name} for name, path in modules().items() if "." in name}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for other in graph.get(name, ()):
                if not other.startswith(f"{name}.") and not name.startswith(f"{other}."):
                    visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("door", DOORS)
def test_door_is_opened_only_where_it_may_be(door: str) -> None:
    wrong = []
    for path in modules().values():
        where = path.relative_to(PACKAGE).as_posix()
        if where in DOORS[door] or where.startswith(("contrib/", "_ext/")):
            continue
        if any(name == door or name.startswith(f"{door}.") for name in imported(path)):
            wrong.append(where)
    assert not wrong, "\n".join(wrong)


def test_services_meet_by_constructor_argument() -> None:
    """No service's module imports another's: only the places where things are put together know both."""
    services = {
        name
        for name, path in modules().items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Service" for base in node.bases)
    }
    assert services
    wrong = [
        f"{name} imports {other}"
        for name in sorted(services)
        if floor(name) < 4
        for other in sorted(inner_imports(modules()[name]) & services - {name})
    ]
    assert not wrong, "\n".join(wrong)


def test_sql_is_in_sql_files() -> None:
    wrong = []
    for path in modules().values():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                if SQL.match(text):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text.strip()[:50]}")
    for path in sorted(EXT.glob("*.[hp]*")):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if any(SQL.match(text) for text in re.findall(r'"([^"]*)"', line)):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:50]}")
    assert not wrong, "\n".join(wrong)


def test_no_pyx_cimports_another() -> None:
    """What the two extension modules share are C headers: a cimport would tie their binary forms together."""
    nouns = {path.stem for path in EXT.glob("*.pyx")}
    wrong = [
        f"{path.name}: {line}"
        for path in EXT.glob("*.pyx")
        for line in path.read_text("utf-8").splitlines()
        if re.match(r"\s*(from\s+(\w+)\s+)?cimport\s+(\w+)", line) and set(re.findall(r"\w+", line)) & nouns
    ]
    assert not wrong, "\n".join(wrong)


def test_headers_of_the_hot_path_know_no_python() -> None:
    includes_python = re.compile(r"#\s*include\s*[<\"]Python\.h")
    assert not [path.name for path in EXT.glob("*.h") if includes_python.search(path.read_text("utf-8"))]


def test_files_fit_in_a_sitting() -> None:
    files = [*modules().values(), *sorted(EXT.glob("*.[hp]*")), *sorted((ROOT / "tests").rglob("*.py"))]
    long = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in files}
    assert not {name: lines for name, lines in long.items() if lines > LINES_MOST}


def test_every_service_is_hammered() -> None:
    """Starts and stops from many threads: its module's own test file has them from tests/stress.py."""
    services = {"Service"}
    while True:  # until no class derives from one of them that is not among them
        found = {
            node.name: path
            for path in modules().values()
            for node in ast.walk(tree(path))
            if isinstance(node, ast.ClassDef) and services & {ast.unparse(base) for base in node.bases}
        }
        if services >= set(found):
            break
        services |= set(found)
    assert len(found) >= 10
    wrong = []
    for name, path in found.items():
        stem = path.parent.name if path.stem == "__init__" else path.stem
        test = ROOT / "tests" / f"test_{stem}.py"
        if not test.exists() or not re.search(r"\b(hammer|together)\(", test.read_text("utf-8")):
            wrong.append(f"{name}: {test.relative_to(ROOT)} hammers nothing")
    assert not wrong, "\n".join(wrong)


def test_functions_fit_on_a_screen() -> None:
    wrong = []
    for path in modules().values():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MOST:
                    wrong.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    for path in sorted([*EXT.glob("*.h"), *EXT.glob("*.pyx")]):
        for name, lines in native_functions(path):
            if lines > FUNCTION_LINES_MOST:
                wrong.append(f"{path.relative_to(ROOT)}: {name} has {lines} lines")
    assert not wrong, "\n".join(wrong)


def native_functions(path: Path) -> Iterator[tuple[str, int]]:
    """Functions of C (from a line that begins at the margin to its closing brace) and of Cython (by indentation)."""
    lines = path.read_text("utf-8").splitlines()
    if path.suffix == ".h":
        start = None
        for number, line in enumerate(lines):
            if re.match(r"[a-z].*\(", line) and not line.rstrip().endswith(";"):
                start = number
            elif line == "}" and start is not None:
                yield lines[start].split("(")[0].split()[-1], number - start + 1
                start = None
        return
    for number, line in enumerate(lines):
        opening = re.match(r"(\s*)(?:def|cdef|cpdef)\s[^=]*?(\w+)\s*\(", line)
        if opening:
            end = number
            for later in range(number + 1, len(lines)):
                text = lines[later]
                closes_signature = re.match(r"\s*\)", text) is not None
                if text.strip() and len(text) - len(text.lstrip()) <= len(opening[1]) and not closes_signature:
                    break
                end = later if text.strip() else end
            yield opening[2], end - number + 1


def test_words_are_rivers() -> None:
    wrong = []
    for path in modules().values():
        for name in sorted(defined(tree(path)) | {path.stem}):
            if name not in RIVERS_OWN and words(name) & forbidden_in(path):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    for path in sorted(EXT.iterdir()):
        if path.suffix in (".h", ".pyx", ".pxd"):
            names = {path.stem, *re.findall(r"\brf_\w+", path.read_text("utf-8"))}
            wrong += [f"{path.relative_to(ROOT)}: {name}" for name in sorted(names) if words(name) & forbidden_in(path)]
    assert not wrong, "\n".join(wrong)


def forbidden_in(path: Path) -> set[str]:
    return {word for word in FORBIDDEN if path.name not in FOREIGN.get(word, ())}


def defined(module: ast.Module) -> set[str]:
    """Names that the module makes: functions, classes, parameters, variables, attributes."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_every_module_says_what_it_is() -> None:
    assert not [name for name, path in modules().items() if tree(path).body and not ast.get_docstring(tree(path))]


def test_every_public_name_has_a_docstring() -> None:
    package = importlib.import_module("river_fast")
    wrong = []
    for name in package.__all__:
        value = getattr(package, name)
        if (isinstance(value, type) or inspect.isroutine(value)) and not inspect.getdoc(value):
            wrong.append(name)
        if isinstance(value, type) and value.__module__.startswith("river_fast"):
            wrong += [f"{name}.{method}" for method in undocumented_methods(value)]
    assert not wrong, "\n".join(wrong)


def undocumented_methods(cls: type) -> Iterator[str]:
    for name, value in vars(cls).items():
        if name.startswith("_") or not isinstance(value, types.FunctionType | property | classmethod | staticmethod):
            continue
        if not inspect.getdoc(getattr(cls, name)):
            yield name
